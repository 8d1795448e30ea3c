"""Grid search: every config of a space once, in order."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hypertune.core.origin import Origin
from hypertune.core.space import Flat, Space, Value, identity
from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import Suggestion


class Grid(Searcher):
    """Goes through all configs of a space whose parameters have a number of values each."""

    def __init__(self, space: Space, max_epochs: int, seed: int = 0) -> None:
        super().__init__(space, max_epochs, seed)
        self._rest: dict[str, Iterator[Flat]] = {}  # by what is given

    @classmethod
    def problems(cls, space: Space) -> list[str]:
        return [
            f"grid needs parameters with a number of values, but {parameter.name} is continuous; "
            "give it a step (tune.quniform) or values (tune.choice)"
            for parameter in space.parameters
            if parameter.n_values is None
        ]

    @classmethod
    def n_trials(cls, space: Space) -> int | None:
        return space.n_configs

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Suggestion:
        return self.suggest_given(trials, rng, {})

    def suggest_given(
        self, trials: Sequence[Trial], rng: np.random.Generator, given: Mapping[str, Value]
    ) -> Suggestion:
        flat = self._next(trials, given)
        return Suggestion(flat=flat, origin=Origin.GRID, why="the next of the grid")

    def _next(self, trials: Sequence[Trial], given: Mapping[str, Value]) -> Flat:
        tried, wanted = {identity(trial.flat) for trial in trials}, identity(given)
        for flat in self._rest.get(wanted, ()):
            if identity(flat) not in tried:
                return flat
        # The first suggestion of a search, or of one that goes on: from the beginning.
        rest = self._rest[wanted] = self.space.configs(given)
        left = next((flat for flat in rest if identity(flat) not in tried), None)
        if left is not None:
            return left
        # None is left: a repetition says so.
        return trials[0].flat if trials else next(self.space.configs())
