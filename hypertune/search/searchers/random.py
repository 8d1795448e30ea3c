"""Random search (Bergstra and Bengio 2012)."""

from collections.abc import Sequence

import numpy as np

from hypertune.core.origin import Origin
from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import Suggestion


class Random(Searcher):
    """Draws every parameter independently and uniformly on its scale."""

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Suggestion:
        return Suggestion(flat=self.space.sample(rng), origin=Origin.RANDOM, why="drawn at random")
