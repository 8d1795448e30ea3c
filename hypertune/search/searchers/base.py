"""The contract of a searcher."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hypertune.search.history import Trial
from hypertune.space import Flat, Parameter, Space, Value


class Searcher(ABC):
    """Proposes flat configs.

    Args:
        space: The space to propose from.
        max_epochs: The epoch at which trials are to be good.
        seed: For what is fixed once for a search; each suggestion gets a source of its own.

    Attributes:
        feasible: Says which flat configs may be tried, for searchers that can make use of it: what
            they propose is checked in any case. None if all may.
    """

    feasible: Callable[[Flat], bool] | None = None

    slow = False
    """A suggestion takes so long that workers would wait for it."""
    why = ""
    """How the latest suggestion came about, in words: for the record."""
    waits = False
    """The latest suggestion is None only until another trial has reported."""
    expects: float | None = None
    """The loss that the latest suggestion was expected to reach; None if nothing was expected."""

    def __init__(self, space: Space, max_epochs: int, seed: int = 0) -> None:
        self.space = space
        self.max_epochs = max_epochs
        self.seed = seed

    @classmethod
    def problems(cls, space: Space) -> list[str]:
        """Return what in a space this searcher cannot honour; empty if it honours all of it."""
        return []

    @classmethod
    def n_trials(cls, space: Space) -> int | None:
        """Return how many trials the searcher is about; None if any number will do."""
        return None

    @abstractmethod
    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Flat | None:
        """Propose a flat config of the space; None if there is none: see `waits`.

        The answer follows from the arguments alone, so that a search that is rebuilt from its
        history goes on in the same way; what is kept between calls is a cache of that history.

        Args:
            trials: All trials so far by number: running, waiting and ended ones.
            rng: The only source of chance.
        """

    def suggest_given(
        self, trials: Sequence[Trial], rng: np.random.Generator, given: Mapping[str, Value]
    ) -> Flat:
        """Propose a flat config that has the values ``given``, by key.

        Here: what `suggest` proposes, with these values put in. Where that takes another branch,
        its parameters are drawn.
        """
        known = {**(self.suggest(trials, rng) or {}), **given}

        def value(parameter: Parameter) -> Value:
            if parameter.key in known:
                return known[parameter.key]
            return parameter.from_unit(rng.random())

        return self.space.build(value)
