"""Grid search: every config of a space once, in order."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.space import Flat, Space, Value, identity


class Grid(Searcher):
    """Goes through all configs of a space whose parameters have a number of values each."""

    why = "the next of the grid"

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

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Flat:
        return self.suggest_given(trials, rng, {})

    def suggest_given(
        self, trials: Sequence[Trial], rng: np.random.Generator, given: Mapping[str, Value]
    ) -> Flat:
        tried, wanted = {identity(trial.flat) for trial in trials}, identity(given)

        def fits(flat: Flat) -> bool:
            # Values are equal more often than they are the same (1 and True), and sooner compared.
            return (
                all(flat[key] == value for key, value in given.items())
                and identity({key: flat[key] for key in given}) == wanted
                and identity(flat) not in tried
            )

        found = next(filter(fits, self._rest.get(wanted, ())), None)
        if found is None:
            # The first suggestion of a search, or of one that goes on: from the beginning.
            self._rest[wanted] = self.space.configs()
            found = next(filter(fits, self._rest[wanted]), None)
        if found is not None:
            return found
        # None is left: a repetition says so.
        return trials[0].flat if trials else next(self.space.configs())
