"""The contract of a searcher."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hypertune.core.origin import Origin
from hypertune.core.space import Flat, Parameter, Space, Value
from hypertune.search.history import Trial
from hypertune.search.suggestion import Suggestion, Wait


class Searcher(ABC):
    """Proposes flat configs.

    Example:
        >>> import numpy as np
        >>> from hypertune.core.origin import Origin
        >>> from hypertune.core.space import Space
        >>> from hypertune.search.suggestion import Suggestion
        >>> from ray import tune
        >>> class Middle(Searcher):
        ...     def suggest(self, trials, rng):
        ...         x = 0.5 + rng.normal(scale=0.1)
        ...         flat = self.space.flatten({"x": min(1.0, max(0.0, x))})
        ...         return Suggestion(flat=flat, origin=Origin.RANDOM, why="near the middle")
        >>> searcher = Middle(Space({"x": tune.uniform(0, 1)}), max_epochs=9)
        >>> searcher.suggest([], np.random.default_rng(0)).why
        'near the middle'

    Args:
        space: The space to propose from.
        max_epochs: The epoch at which trials are to be good.
        seed: For what is fixed once for a search; each suggestion gets a source of its own.

    Attributes:
        rungs: The epochs at which trials may be stopped, the last one in full: those of the
            scheduler that the searcher works with.
        feasible: Says which flat configs may be tried, for searchers that can make use of it: what
            they propose is checked in any case. None if all may.
    """

    feasible: Callable[[Flat], bool] | None = None

    slow = False
    """A suggestion takes so long that workers would wait for it."""

    def __init__(self, space: Space, max_epochs: int, seed: int = 0) -> None:
        self.space = space
        self.max_epochs = max_epochs
        self.seed = seed
        self.rungs: tuple[int, ...] = (max_epochs,)

    @classmethod
    def problems(cls, space: Space) -> list[str]:
        """Return what in a space this searcher cannot honour; empty if it honours all of it."""
        return []

    @classmethod
    def n_trials(cls, space: Space) -> int | None:
        """Return how many trials the searcher is about; None if any number will do."""
        return None

    @abstractmethod
    def suggest(
        self, trials: Sequence[Trial], rng: np.random.Generator
    ) -> Suggestion | Wait | None:
        """Propose a config of the space.

        Returns:
            The proposal; `WAIT` if there is none until another trial has reported, None if there is
            none any more.

        The answer follows from the arguments alone, so that a search that is rebuilt from its
        history goes on in the same way; what is kept between calls is a cache of that history.

        Args:
            trials: All trials so far by number: running, waiting and ended ones.
            rng: The only source of chance.
        """

    def suggest_given(
        self, trials: Sequence[Trial], rng: np.random.Generator, given: Mapping[str, Value]
    ) -> Suggestion:
        """Propose a config that has the values ``given``, by key.

        Here: what `suggest` proposes, with these values put in. Where that takes another branch,
        its parameters are drawn.
        """
        found = self.suggest(trials, rng)
        if not isinstance(found, Suggestion):
            found = Suggestion(flat={}, origin=Origin.RANDOM, why="drawn at random")
        known = {**found.flat, **given}

        def value(parameter: Parameter) -> Value:
            if parameter.key in known:
                return known[parameter.key]
            return parameter.from_unit(rng.random())

        return replace(found, flat=self.space.build(value))
