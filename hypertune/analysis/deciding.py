"""What a study has not decided yet: for studies that go on until it is."""

from pathlib import Path

from hypertune.analysis.frames import load
from hypertune.analysis.statements import Undecided, left_of
from hypertune.analysis.verdict import judge_factors


def undecided(folder: Path) -> list[Undecided]:
    """Return the factors that a study does not decide.

    A factor is decided if one of its statements tells its best level from every other one, or says
    that they differ by less than matters; of a number, of which neighbours may well be as good, if
    it says so of any other value or range.

    Args:
        folder: The study's folder.
    """
    return [left for factor in judge_factors(load(folder)) if (left := left_of(factor)) is not None]
