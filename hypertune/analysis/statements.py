"""What is said of a factor, or of two: the parts of a verdict."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Outcome = Literal["better", "equal", "undecided", "none"]
MIN_FULL = 5
"""Trials in full of each level that a statement about levels needs, from searched trials."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two levels. Differences are of the study's metric, above 0 where ``a`` is the better one.

    Attributes:
        a, b: The levels.
        difference: What ``a`` is better by.
        low, high: Ends of its interval.
        outcome: What the interval says.
        n: Observations that it rests on.
        n_more: About how many more would decide at the next look; None if it is decided.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    outcome: Outcome
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
    outcome: Outcome
    sentences: list[str]
    levels: list[dict[str, Any]] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)
    of_leaders: bool = False


Said: TypeAlias = Callable[[float], Statement]
"""What is to be said, given the error that it may be wrong with."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What is said of one factor, the strongest statement first.

    Attributes:
        name: Of the factor.
        statements: Each with an estimand of its own.
        numeric: It is a matter of more or less: neighbours may be as good as the best.
    """

    name: str
    statements: list[Statement]
    numeric: bool = False

    @property
    def sentence(self) -> str:
        """What there is to say in a sentence."""
        decided = [s for s in self.statements if s.outcome in ("better", "equal")]
        first = (decided or self.statements)[0]
        return first.sentences[0]


def cannot_say(estimand: str, basis: str, sentence: str) -> Statement:
    """Return what is said where the data do not carry a statement."""
    return Statement(estimand=estimand, basis=basis, outcome="none", sentences=[sentence])
