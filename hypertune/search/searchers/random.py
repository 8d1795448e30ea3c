"""Random search (Bergstra and Bengio 2012)."""

from collections.abc import Sequence

import numpy as np

from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.space import Flat


class Random(Searcher):
    """Draws every parameter independently and uniformly on its scale."""

    why = "drawn at random"

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Flat:
        return self.space.sample(rng)
