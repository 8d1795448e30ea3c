"""BOHB's searcher, written from the paper: Falkner, Klein and Hutter 2018, sections 3.1 and 4.

Two kernel densities, one of the better and one of the worse configs, on the largest budget with
enough of them; a new config maximises their ratio among candidates drawn near the better ones.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import truncnorm

from hypertune.core.origin import Origin
from hypertune.core.space import Categorical, Flat, Parameter, Space, Value
from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import Suggestion

Floats = NDArray[np.float64]

# Names and values of the paper (its section 4.3 and appendix).
RANDOM_FRACTION = 1 / 3
QUANTILE = 0.15
N_CANDIDATES = 64
BANDWIDTH_FACTOR = 3.0
MIN_BANDWIDTH = 1e-3


class Bohb(Searcher):
    """Proposes what is likely among the better configs and unlikely among the others.

    Budgets are the rungs of the scheduler. Every trial counts at every budget that it reached, at
    that budget alone; one that failed counts as the worst. Parameters that a config does not have
    tell nothing about it: there, its kernels are uniform.
    """

    def __init__(self, space: Space, max_epochs: int, seed: int = 0) -> None:
        super().__init__(space, max_epochs, seed)
        self.n_min = len(space.parameters) + 1

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Suggestion:
        split = self._split(trials)
        if split is None or rng.random() < RANDOM_FRACTION:
            why = "drawn at random" + (", as a third of all are" if split else "")
            return Suggestion(flat=self.space.sample(rng), origin=Origin.RANDOM, why=why)
        budget, *parts = split
        why = (
            f"likely among the {len(parts[0])} best and unlikely among the {len(parts[1])} worst "
            f"at epoch {budget}"
        )
        good, bad = (_Density(self.space.parameters, part) for part in parts)
        candidates = [good.draw(self.space, rng) for _ in range(N_CANDIDATES)]
        ratios = good.logpdf(candidates) - bad.logpdf(candidates)  # eq. 2, Falkner et al. 2018
        best = candidates[int(np.argmax(ratios))]
        return Suggestion(flat=best, origin=Origin.MODEL, why=why)

    def _split(self, trials: Sequence[Trial]) -> tuple[int, list[Flat], list[Flat]] | None:
        """Return the largest budget with enough configs, and its better and worse ones."""
        for budget in reversed(self.rungs):
            losses = [(loss, t) for t in trials if (loss := t.loss_at(budget)) is not None]
            if len(losses) < self.n_min + 2:
                continue
            ranked = [t.flat for _, t in sorted(losses, key=lambda pair: (pair[0], pair[1].number))]
            # eq. 3, Falkner et al. 2018
            n_good = max(self.n_min, int(QUANTILE * len(ranked)))
            n_bad = max(self.n_min, len(ranked) - n_good)
            return budget, ranked[:n_good], ranked[-n_bad:]
        return None


class _Density:
    """A product of kernels, one a parameter, around each of some configs.

    Numbers have a Gaussian kernel on the unit interval, choices that of Aitchison and Aitken
    (1976). The bandwidth is Scott's normal reference rule; for a choice, with the root of the Gini
    dispersion as its spread.
    """

    def __init__(self, parameters: Sequence[Parameter], configs: Sequence[Flat]) -> None:
        self.parameters, self.configs = parameters, configs
        self.points = np.array(
            [_point(parameters, flat) for flat in configs]
        )  # (config, parameter)
        shrink = 1.06 * len(configs) ** (-1.0 / (4 + len(parameters)))
        self.bandwidths = [
            max(MIN_BANDWIDTH, shrink * _spread(parameter, column[~np.isnan(column)]))
            for parameter, column in zip(parameters, self.points.T, strict=True)
        ]

    def draw(self, space: Space, rng: np.random.Generator) -> Flat:
        """Return a config near one of this density, its kernels widened by the factor."""
        centre = self.configs[int(rng.integers(len(self.configs)))]

        def value(parameter: Parameter) -> Value:
            if parameter.key not in centre:
                return parameter.from_unit(rng.random())
            index = self.parameters.index(parameter)
            width = self.bandwidths[index] * BANDWIDTH_FACTOR
            if isinstance(parameter, Categorical):
                keep = rng.random() >= min(width, _most(parameter))
                return centre[parameter.key] if keep else parameter.from_unit(rng.random())
            at = parameter.to_unit(centre[parameter.key])
            low, high = -at / width, (1 - at) / width
            return parameter.from_unit(
                float(truncnorm.rvs(low, high, loc=at, scale=width, random_state=rng))
            )

        return space.build(value)

    def logpdf(self, configs: Sequence[Flat]) -> Floats:
        """Return the log density of each config, shape (config,)."""
        at = np.array([_point(self.parameters, flat) for flat in configs])  # (candidate, parameter)
        log = np.zeros((len(at), len(self.points)))  # (candidate, config)
        for i, parameter in enumerate(self.parameters):
            x, centres, width = at[:, i, None], self.points[None, :, i], self.bandwidths[i]
            if isinstance(parameter, Categorical):
                n, width = len(parameter.choices), min(width, _most(parameter))
                kernel = np.where(x == centres, 1 - width, width / max(n - 1, 1))
                uniform = 1.0 / n
            else:
                kernel = np.exp(-0.5 * ((x - centres) / width) ** 2) / (width * np.sqrt(2 * np.pi))
                uniform = 1.0
            kernel = np.where(np.isnan(centres), uniform, kernel)
            log += np.where(np.isnan(x), 0.0, np.log(np.maximum(kernel, 1e-300)))
        top = log.max(axis=1, keepdims=True)
        density: Floats = top[:, 0] + np.log(np.exp(log - top).mean(axis=1))
        return density


def _point(parameters: Sequence[Parameter], flat: Flat) -> list[float]:
    """Return a config as numbers: unit interval, or index of the choice; NaN where inactive."""
    return [
        float("nan")
        if p.key not in flat
        else float(p.index(flat[p.key]))
        if isinstance(p, Categorical)
        else p.to_unit(flat[p.key])
        for p in parameters
    ]


def _spread(parameter: Parameter, values: Floats) -> float:
    if len(values) < 2:
        return 0.5  # nothing is known
    if isinstance(parameter, Categorical):
        shares = np.unique(values, return_counts=True)[1] / len(values)
        return float(np.sqrt(1 - np.sum(shares**2)))
    return float(values.std(ddof=1))


def _most(parameter: Categorical) -> float:
    """Return the bandwidth at which a choice's kernel is uniform."""
    n = len(parameter.choices)
    return (n - 1) / n
