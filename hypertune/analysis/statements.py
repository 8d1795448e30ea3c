"""What is said of a factor, or of two, and what is left to decide: the parts of a verdict."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Finding = Literal["better", "equal", "undecided", "none"]
MIN_FULL = 5
"""Trials in full of each level that a statement about levels needs, from searched trials."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two levels. Differences are of the study's metric, above 0 where ``a`` is the better one.

    Attributes:
        a, b: The levels.
        difference: What ``a`` is better by.
        low, high: Ends of its interval; NaN where there is none yet.
        outcome: What the interval says; ``none`` without one.
        n: Observations that it rests on.
        n_more: About how many more would decide in the next extension; None if it is decided.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    outcome: Finding
    n: int
    n_more: int | None = None


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One thing that is said of a factor, or that cannot be said of it.

    Attributes:
        of_leaders: It compares the best config of each level or range on fresh seeds, of which
            there may be more.
    """

    estimand: str
    basis: str
    outcome: Finding
    sentences: list[str]
    levels: list[dict[str, Any]] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)
    of_leaders: bool = False


PendingStatement: TypeAlias = Callable[[float], Statement]
"""What is to be said, given the error that it may be wrong with."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What is said of one factor, the strongest statement first.

    Attributes:
        name: Of the factor.
        statements: Each with an estimand of its own.
        numeric: It is a matter of more or less: neighbours may be as good as the best.
        everywhere: Every config has it: its levels can be compared.
    """

    name: str
    statements: list[Statement]
    numeric: bool = False
    everywhere: bool = True

    @property
    def sentence(self) -> str:
        """What there is to say in a sentence."""
        decided = [s for s in self.statements if s.outcome in ("better", "equal")]
        first = (decided or self.statements)[0]
        left = left_of(self)
        if not decided or left is None:
            return first.sentences[0]
        # What is decided need not be the question's answer: the best may be another one.
        return f"{first.sentences[0]} Undecided: {left.text.partition(': ')[2]}"


def cannot_say(estimand: str, basis: str, *sentences: str) -> Statement:
    """Return what is said where the data do not carry a statement."""
    return Statement(estimand=estimand, basis=basis, outcome="none", sentences=[*sentences])


@dataclass(frozen=True, kw_only=True)
class Undecided:
    """A factor of the question of which it is not known yet which level is best.

    Attributes:
        factor: Its name.
        levels: Those that may be, as texts; none where levels are not compared.
        n_more: Replicates of each that are expected to decide; None if more configs must be tried.
        text: The same in words.
        hopeless: Nothing that a study can go on with would decide it.
    """

    factor: str
    levels: Sequence[str]
    n_more: int | None
    text: str
    hopeless: bool = False


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
        left = [c for c in of_best if c.outcome not in ("better", "equal")]
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
    return Undecided(
        factor=factor.name,
        levels=levels,
        n_more=n_more,
        text=text,
        hopeless=not factor.everywhere,
    )
