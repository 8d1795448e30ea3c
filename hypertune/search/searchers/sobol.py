"""Quasi-random search: the points of a scrambled Sobol sequence (Owen 1998), evenly spread."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import qmc

from hypertune.core.origin import Origin
from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import Suggestion


class Sobol(Searcher):
    """Takes point k of one sequence for trial k; every parameter has a dimension of its own."""

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Suggestion:
        keys = [parameter.key for parameter in self.space.parameters]
        sequence = qmc.Sobol(len(keys), rng=np.random.default_rng(self.seed))
        if trials:
            sequence.fast_forward(len(trials))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # one point is no power of two, it says
            point = dict(zip(keys, sequence.random(1)[0], strict=True))
        flat = self.space.build(lambda parameter: parameter.from_unit(float(point[parameter.key])))
        why = "the next point of a quasi-random sequence"
        return Suggestion(flat=flat, origin=Origin.QUASI_RANDOM, why=why)
