"""What a study has not decided yet: for studies that go on until it is."""

from dataclasses import replace
from pathlib import Path

from hypertune.analysis.frames import load
from hypertune.analysis.statements import Undecided, left_of
from hypertune.analysis.verdict import judge_factor


def undecided(folder: Path, *, ended: bool = False) -> list[Undecided]:
    """Return the factors that a study does not decide.

    A factor is decided if one of its statements tells its best level from every other one, or says
    that they differ by less than matters; of a number, of which neighbours may well be as good, if
    it says so of any other value or range.

    Args:
        folder: The study's folder.
        ended: Its search has come to its end. Otherwise this is one more look at it, which may
            spend what error is left for it.
    """
    data = load(folder)
    if not ended:
        n = int(data.study.get("n_sessions", 0)) + 1
        data = replace(data, study={**data.study, "n_sessions": n})
    found = (left_of(judge_factor(data, name)) for name in data.study["factors"])
    return [one for one in found if one is not None]
