"""What a study has not decided yet, and what would help: for studies that go on until it is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hypertune.analysis.frames import load
from hypertune.analysis.statements import Factor
from hypertune.analysis.verdict import judge_factor


@dataclass(frozen=True, kw_only=True)
class Undecided:
    """A factor of the question of which it is not known yet which level is best.

    Attributes:
        factor: Its name.
        levels: Those that may be, as texts; none where levels are not compared.
        n_more: Replicates of each that are expected to decide; None if more configs must be tried.
        text: The same in words.
    """

    factor: str
    levels: Sequence[str]
    n_more: int | None
    text: str


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


def left_of(factor: Factor) -> Undecided | None:
    """Return what is undecided of a factor; None if nothing is."""
    levels: list[str] = []
    n_more: int | None = None
    text = factor.statements[0].sentences[0]
    for said in factor.statements:
        # The better one is the first of a contrast. Of pairs that ran on different seeds A may be
        # ahead of B, B of C, and C of A.
        ahead = Counter(c.a for c in said.contrasts)
        worse = {c.b for c in said.contrasts if c.outcome == "better"}
        best = max(ahead, key=lambda one: (one not in worse, ahead[one]), default=None)
        of_best = [c for c in said.contrasts if best in (c.a, c.b)]
        left = [c for c in of_best if c.outcome == "undecided"]
        told = factor.numeric and len(left) < len(of_best)
        if said.outcome in ("better", "equal") and (told or not left):
            return None
        if best is None or not left:
            continue
        others = [c.b if c.a == best else c.a for c in left]
        if said.of_leaders:
            levels, n_more = [best, *others], max(c.n_more or 1 for c in left)
        elif levels:
            continue  # what repeats say goes before what a model does
        text = (
            f"{factor.name}: {best} is not told apart yet from {', '.join(others)} ({said.basis})."
        )
    return Undecided(factor=factor.name, levels=levels, n_more=n_more, text=text)
