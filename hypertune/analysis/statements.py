"""What is said of a factor, or of two: the parts of a verdict."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from hypertune.space import Number, Parameter

Outcome = Literal["better", "equal", "undecided", "none"]
MIN_FULL = 5
"""Trials in full of each level that a statement about levels needs, from searched trials."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two levels. Differences are of the study's metric, above 0 where ``a`` is the better one."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    outcome: Outcome
    n_more: int | None = None


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One thing that is said of a factor, or that cannot be said of it."""

    estimand: str
    basis: str
    outcome: Outcome
    sentences: list[str]
    levels: list[dict[str, Any]] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)


Said: TypeAlias = Callable[[float], Statement]
"""What is to be said, given the error that it may be wrong with."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What is said of one factor, the strongest statement first."""

    name: str
    statements: list[Statement]

    @property
    def sentence(self) -> str:
        """What there is to say in a sentence."""
        decided = [s for s in self.statements if s.outcome in ("better", "equal")]
        first = (decided or self.statements)[0]
        return first.sentences[0]


def cannot_say(estimand: str, basis: str, sentence: str) -> Statement:
    """Return what is said where the data do not carry a statement."""
    return Statement(estimand=estimand, basis=basis, outcome="none", sentences=[sentence])


def is_number(parameter: Parameter) -> bool:
    """Say whether a factor is a matter of more or less: a number, or a choice of several."""
    if isinstance(parameter, Number):
        return True
    values = list(parameter.values())
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return len(values) > 2 and len(numbers) == len(values)
