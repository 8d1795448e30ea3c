"""A searcher of one's own: ``hypertune run --space ... --method my_searcher.py:NearTheBest``."""

from collections.abc import Sequence
from math import inf

import numpy as np

import hypertune
from hypertune.core.origin import Origin
from hypertune.core.space import Parameter, Value
from hypertune.search.history import Trial


class NearTheBest(hypertune.Searcher):
    """Half of the time a random config, half of the time the best one with one value redrawn."""

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> hypertune.Suggestion:
        """Propose a config; what it is follows from the trials and from ``rng`` alone."""
        drawn = self.space.sample(rng)
        best = min(trials, key=lambda t: min(t.losses.values(), default=inf), default=None)
        if best is None or rng.random() < 0.5:
            return hypertune.Suggestion(flat=drawn, origin=Origin.RANDOM, why="drawn at random")
        changed = str(rng.choice([p.key for p in self.space.parameters]))
        known = {key: value for key, value in best.flat.items() if key != changed}

        def value(parameter: Parameter) -> Value:
            if parameter.key in known:
                return known[parameter.key]
            return parameter.from_unit(rng.random())

        why = f"the best one, with another {changed}"
        return hypertune.Suggestion(flat=self.space.build(value), origin=Origin.MODEL, why=why)
