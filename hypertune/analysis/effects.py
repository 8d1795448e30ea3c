"""Differences between levels, with intervals that hold for all pairs of them at once.

Three sources, each with an estimand of its own:

- **Replicates** (`from_replicates`): configs that the search chose run again on fresh seeds, each
  on the same ones. The seeds know nothing of the choice, so that whatever way the configs were
  found, and however many trials were tried, the differences *between these configs* are estimated
  without the luck of the winner. Repeats are blocks: Tukey's intervals for randomised complete
  blocks (Hochberg and Tamhane 1987, chapter 5); for two configs this is the paired t interval.
- **Searched trials** (`from_search`): a Gaussian process over configs and epochs, given every
  curve of the search, those that were stopped early too. Which config was tried next, and which
  trial went on, depended on these results alone; a model that is given all of them may ignore how
  they were chosen (Rubin 1976). That holds as far as the model does, which is why it is said, and
  why its intervals are wider than the model itself would have them (`INFLATION`).

- **Configs drawn by chance** (`from_chance`): where every config was drawn by chance and trained in
  full, levels are random samples of the space, and their means are compared as such: Games and
  Howell's intervals, which do not take variances for equal. The estimand is another one: how good
  a level is on average, not at its best.

Values are losses: of scores, the negative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc, studentized_range, tukey_hsd
from scipy.stats import t as student

from hypertune.analysis.frames import StudyData, finite
from hypertune.search.encoding import Encoding
from hypertune.search.schedulers.halving import rung_epochs
from hypertune.search.surrogate import GaussianProcess, Observations
from hypertune.space import Value

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALPHA = 0.05
_FIRST = 2 / 3
_N_POINTS = 128
_N_BEST = 64
_JITTER = 1e-6
_N_DRAWS = 2000
_FIT_STEPS = 60
_MOST_OBSERVATIONS = 250
INFLATION = 2.0
"""Factor of the model's own standard deviations, found by `benchmarks/verdicts.py`."""


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Losses of levels and their differences.

    Attributes:
        levels: The levels, shape (level,).
        losses: Estimated loss of each, shape (level,).
        low, high: Ends of the interval of each loss, 95 %, not simultaneous.
        difference: ``difference[i, j]`` is the loss of level j minus that of i: above 0, i is
            better.
        margin: Half the width of the interval of each difference, simultaneous over all pairs.
        n: Observations of each level, shape (level,).
    """

    levels: list[str]
    losses: Floats
    low: Floats
    high: Floats
    difference: Floats
    margin: Floats
    n: list[int]


def spent(look: int, alpha: float = ALPHA) -> float:
    """Return the error that the k-th look at a study may spend; over all looks they sum to alpha.

    A study that was extended since it was undecided is looked at again, and each look is another
    chance to be wrong. The first may spend two thirds, each later one two thirds of what is left
    (Lan and DeMets 1983 give the principle).

    Args:
        look: 1 for the first.
        alpha: Error over all looks.
    """
    return alpha * _FIRST * (1 - _FIRST) ** (look - 1)


def from_replicates(
    values: Floats, groups: Sequence[str], levels: Sequence[str], *, alpha: float
) -> Effects:
    """Compare levels by configs that were run again on the same fresh seeds.

    Where a level has several configs its loss is that of its best one. As which that is is not
    known either, the interval is made from those of all pairs of configs: the difference of two
    minima lies between the extremes over the pairs.

    Args:
        values: Losses, shape (config, repeat), at least two of each. Later repeats may be missing
            (NaN) for some configs, the same ones in each: then the others are compared with each
            other by all repeats, and with these by the shared ones, with half of the error each.
        groups: The level of each config, shape (config,).
        levels: The levels to compare, each with a config.
        alpha: Error of all intervals together.
    """
    whole = np.asarray(~np.isnan(values).any(axis=1))
    if not whole.all():
        return _in_two_tiers(values, groups, levels, whole, alpha)
    return _in_blocks(values, groups, levels, alpha, len(values))


def _in_two_tiers(
    values: Floats, groups: Sequence[str], levels: Sequence[str], whole: Bools, alpha: float
) -> Effects:
    shared = values[:, ~np.isnan(values).any(axis=0)]
    found = _in_blocks(shared, groups, levels, alpha / 2, len(values))
    further = [group for group, more in zip(groups, whole, strict=True) if more]
    places = [k for k, level in enumerate(levels) if level in further]
    if len(places) < 2:
        return found
    # Which ones were repeated more depends on earlier looks: the quantile is that of all configs.
    more = _in_blocks(values[whole], further, [levels[k] for k in places], alpha / 2, len(values))
    block = np.ix_(places, places)
    found.difference[block], found.margin[block] = more.difference, more.margin
    for name in ("losses", "low", "high"):
        getattr(found, name)[places] = getattr(more, name)
    n = dict(zip(more.levels, more.n, strict=True))
    return replace(found, n=[n.get(level, k) for level, k in zip(levels, found.n, strict=True)])


def _in_blocks(
    values: Floats, groups: Sequence[str], levels: Sequence[str], alpha: float, n_compared: int
) -> Effects:
    n_configs, n_repeats = values.shape
    means = values.mean(axis=1)
    rest = values - means[:, None] - values.mean(axis=0)[None, :] + values.mean()
    df = (n_configs - 1) * (n_repeats - 1)
    sd = math.sqrt(float((rest**2).sum()) / df)
    # The variance of `rest` is that of a config's own noise: of half a difference's.
    reach = _tukey(alpha, n_compared, df) * sd / math.sqrt(n_repeats)
    gaps = means[None, :] - means[:, None]  # (i, j): loss of j minus that of i
    places = {level: [k for k, g in enumerate(groups) if g == level] for level in levels}
    k = len(levels)
    difference, margin = np.zeros((k, k)), np.zeros((k, k))
    for i, a in enumerate(levels):
        for j, b in enumerate(levels):
            if i != j:
                # min_b - min_a = max over a of min over b of (b - a): monotone in every gap.
                block = gaps[np.ix_(places[a], places[b])]
                difference[i, j] = block.min(axis=1).max()
                margin[i, j] = reach
    losses = np.array([means[places[level]].min() for level in levels])
    se = values.std(axis=1, ddof=1) / math.sqrt(n_repeats)
    half = float(student.ppf(0.975, n_repeats - 1)) * np.array(
        [se[places[level][int(means[places[level]].argmin())]] for level in levels]
    )
    return Effects(
        levels=list(levels),
        losses=losses,
        low=losses - half,
        high=losses + half,
        difference=difference,
        margin=margin,
        n=[len(places[level]) * n_repeats for level in levels],
    )


def from_chance(samples: Sequence[Floats], levels: Sequence[str], *, alpha: float) -> Effects:
    """Compare the means of levels whose configs were drawn by chance.

    Args:
        samples: Losses of each level's trials, two or more of each.
        levels: Their names.
        alpha: Error of all intervals together.
    """
    found = tukey_hsd(*samples, equal_var=False)
    ends = found.confidence_interval(confidence_level=1 - alpha)
    means = np.array([sample.mean() for sample in samples])
    n = np.array([len(sample) for sample in samples])
    se = np.array([sample.std(ddof=1) for sample in samples]) / np.sqrt(n)
    half = student.ppf(0.975, n - 1) * se
    return Effects(
        levels=list(levels),
        losses=means,
        low=means - half,
        high=means + half,
        difference=means[None, :] - means[:, None],
        margin=(ends.high - ends.low) / 2,
        n=[int(k) for k in n],
    )


@cache
def _tukey(alpha: float, n_means: int, df: int) -> float:
    """Return the quantile of the studentised range; it takes a tenth of a second."""
    return float(studentized_range.ppf(1 - alpha, n_means, df))


class Surrogate:
    """What a Gaussian process makes of all curves of a study: losses in full, by config.

    Args:
        data: The study. Failed trials, simple models and replicates are left out.

    Attributes:
        n_full: Trials in full among those that it knows.
    """

    def __init__(self, data: StudyData) -> None:
        self._encoding = Encoding(data.space)
        rows = _observed(data)
        numbers = sorted({trial for trial, _, _ in rows})
        points = self._encoding.points([data.flats[trial] for trial in numbers])
        place = {trial: k for k, trial in enumerate(numbers)}
        own = np.array([place[trial] for trial, _, _ in rows])
        losses = np.array([data.sign * value for _, _, value in rows])
        epochs = np.array([epoch for _, epoch, _ in rows], dtype=float)
        last = data.study["max_epochs"]
        full = losses[epochs == last]
        self.n_full = len(full)
        # Where the best may be: around what is known to be good.
        reached = np.full(len(numbers), np.inf)
        np.minimum.at(reached, own, losses)
        self._best = points[np.argsort(reached, kind="stable")[:_N_BEST]]
        # Losses far above the best are squeezed: what matters is told apart near the best one.
        self._low = float(full.min())
        spread = float(np.median(full)) - self._low
        self._unit = max(spread, 1e-12) / 2
        cap = np.quantile(losses, 0.95)
        squeezed = np.arcsinh((np.minimum(losses, max(cap, full.max())) - self._low) / self._unit)
        self._mean, self._sd = float(squeezed.mean()), float(squeezed.std()) or 1.0
        told = Observations(
            features=self._encoding.features(points)[own],
            at=np.log(epochs) / math.log(last) if last > 1 else np.ones(len(epochs)),
            trials=own,
            targets=(squeezed - self._mean) / self._sd,
        )
        if len(told) > _MOST_OBSERVATIONS:
            told = told[np.argsort(-told.at, kind="stable")[:_MOST_OBSERVATIONS]]
        self._process = GaussianProcess(self._encoding.groups, fidelity=last > 1)
        self._process.fit(told, _FIT_STEPS)
        self._process.condition(told)

    def draws(self, points: Floats, rng: np.random.Generator) -> Floats:
        """Return draws of the losses in full at some points, shape (draw, point)."""
        mean, covariance = self._process.joint(self._encoding.features(points))
        # Points that are close make it singular but for rounding.
        covariance[np.diag_indices(len(mean))] += _JITTER * float(covariance.diagonal().max())
        root = np.linalg.cholesky(covariance)
        normal = rng.standard_normal((_N_DRAWS, len(mean)))
        squeezed = (mean + normal @ root.T) * self._sd + self._mean
        losses: Floats = self._low + self._unit * np.sinh(squeezed)
        return losses

    def by_level(self, key: str, levels: Sequence[Value], rng: np.random.Generator) -> Floats:
        """Return draws of the loss of each level with all else tuned for it, shape (draw, level).

        Args:
            key: The parameter.
            levels: Its values.
            rng: The source of chance.
        """
        spread = qmc.Sobol(self._encoding.n_parameters, rng=rng).random(_N_POINTS)
        others = np.vstack([spread, self._best])
        points = [self._encoding.given(others, {key: level}) for level in levels]
        drawn = self.draws(np.vstack(points), rng).reshape(_N_DRAWS, len(levels), len(others))
        losses: Floats = drawn.min(axis=2)
        return losses


def _observed(data: StudyData) -> list[tuple[int, int, float]]:
    """Return trial, epoch and best value up to there, at the rungs and at the end of each curve."""
    last = data.study["max_epochs"]
    rungs = set(rung_epochs(last))
    rows: list[tuple[int, int, float]] = []
    # Replicates have other seeds than the search, whose trials share theirs: they stay apart.
    usable = data.trials[
        ~data.trials["reason"].isin(("failed", "lost")).fillna(False)
        & data.trials["role"].isin(("search", "baseline"))
    ]
    reasons = dict(zip(usable["trial"], usable["reason"], strict=True))
    for key, curve in data.curves.groupby("trial"):
        trial = int(str(key))
        if trial not in reasons or trial not in data.flats:
            continue
        best = dict(zip(curve["epoch"], finite(curve["best"]), strict=True))
        ends = max(best)
        kept = {epoch: value for epoch, value in best.items() if epoch in rungs or epoch == ends}
        if reasons[trial] == "converged":
            kept[last] = best[ends]
        rows += [(trial, e, v) for e, v in kept.items() if e >= 1 and math.isfinite(v)]
    return rows


def from_search(draws: Floats, levels: Sequence[str], n: Sequence[int], *, alpha: float) -> Effects:
    """Compare levels by draws of their losses.

    Args:
        draws: From `Surrogate.by_level`, shape (draw, level).
        levels: Their names.
        n: Searched trials of each.
        alpha: Error of all intervals together.
    """
    gaps = draws[:, None, :] - draws[:, :, None]  # (draw, i, j): loss of j minus that of i
    difference = np.median(gaps, axis=0)
    spread = gaps.std(axis=0)
    off = ~np.eye(len(levels), dtype=bool)
    scaled = np.abs(gaps - difference)[:, off] / np.maximum(spread[off], 1e-12)
    reach = float(np.quantile(scaled.max(axis=1), 1 - alpha))
    losses = np.median(draws, axis=0)
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return Effects(
        levels=list(levels),
        losses=losses,
        low=losses - INFLATION * (losses - low),
        high=losses + INFLATION * (high - losses),
        difference=difference,
        margin=INFLATION * reach * spread,
        n=list(n),
    )
