"""Differences between levels, with intervals that hold for all pairs of them at once.

Three sources, each with an estimand of its own:

- **Replicates** (`from_replicates`): configs that the search chose run again on fresh seeds, each
  on the same ones. The seeds know nothing of the choice, so that whatever way the configs were
  found, and however many trials were tried, the differences *between these configs* are estimated
  without the luck of the winner. Repeats are blocks: Tukey's intervals for randomised complete
  blocks (Hochberg and Tamhane 1987, chapter 5); for two configs this is the paired t interval.
- **Searched trials** (`from_search`): a Gaussian process over configs, given every trial in full.
  Which config was tried next depended on these results alone, so that the model may ignore how it
  was chosen (Rubin 1976). Where trials were stopped early, those in full were the luckier ones:
  that this is so of every level alike is assumed. All of it holds as far as the model does, which
  is why it is said; how far it errs on trials that it is not shown scales its intervals
  (`Surrogate.scale`).
- **Configs drawn by chance** (`from_chance`): where every config was drawn by chance and trained in
  full, levels are random samples of the space, and their means are compared as such: Welch's
  intervals, which do not take variances for equal, by Bonferroni. The estimand is another one: how
  good a level is on average, not at its best.

Values are losses: of scores, the negative.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc, studentized_range, ttest_ind
from scipy.stats import t as student

from hypertune.analysis.frames import StudyData, finite
from hypertune.search.encoding import Encoding
from hypertune.search.surrogate import GaussianProcess, Observations
from hypertune.space import Value

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALPHA = 0.05
_N_POINTS = 64
_N_BEST = 32
_JITTER = 1e-6
_N_DRAWS = 500
_FIT_STEPS = 60
_MAX_TRIALS = 1000


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
    chance to be wrong. How many there will be nobody knows: the k-th spends in proportion to 1/k^2,
    three fifths at the first (Lan and DeMets 1983 give the principle).

    Args:
        look: 1 for the first.
        alpha: Error over all looks.
    """
    return alpha * 6 / (math.pi * look) ** 2


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
    k = len(samples)
    level = 1 - alpha / math.comb(k, 2)
    means = np.array([sample.mean() for sample in samples])
    margin = np.zeros((k, k))
    for i, j in combinations(range(k), 2):
        found = ttest_ind(samples[i], samples[j], equal_var=False).confidence_interval(level)
        margin[i, j] = margin[j, i] = (found.high - found.low) / 2
    n = np.array([len(sample) for sample in samples])
    se = np.array([sample.std(ddof=1) for sample in samples]) / np.sqrt(n)
    half = student.ppf(0.975, n - 1) * se
    return Effects(
        levels=list(levels),
        losses=means,
        low=means - half,
        high=means + half,
        difference=means[None, :] - means[:, None],
        margin=margin,
        n=[int(m) for m in n],
    )


@cache
def _tukey(alpha: float, n_means: int, df: int) -> float:
    """Return the quantile of the studentised range; for three means or more it takes a while."""
    if n_means == 2:
        return math.sqrt(2) * float(student.ppf(1 - alpha / 2, df))
    return float(studentized_range.ppf(1 - alpha, n_means, df))


class Surrogate:
    """What a Gaussian process makes of the trials in full: expected losses by config.

    Losses stay in the metric's own unit, in which a seed's noise is about the same everywhere: a
    scale that is stretched near the best makes it look larger there, and the levels more alike.
    Of more than a thousand trials a thousand are taken by lot, since its time and memory grow with
    the third and second power; by their losses they must not be chosen.

    Args:
        data: The study. Failed trials, simple models and replicates are left out, and so are trials
            that did not run in full.

    Attributes:
        n_full: Trials that it knows.
        scale: By how much its errors are larger than it expects them to be, where it has to do
            without the trial in question: the root mean square of what each leaves over, in
            standard deviations (Bachoc 2013). Intervals are scaled by it.
    """

    def __init__(self, data: StudyData) -> None:
        self._encoding = Encoding(data.space)
        trials = data.full[data.full["trial"].isin(list(data.flats))]
        points = self._encoding.points([data.flats[trial] for trial in trials["trial"]])
        losses = data.sign * finite(trials["value"])
        # Where the best may be: around what is known to be good.
        self._best = points[np.argsort(losses, kind="stable")[:_N_BEST]]
        if len(losses) > _MAX_TRIALS:
            taken = np.random.default_rng(0).choice(len(losses), _MAX_TRIALS, replace=False)
            points, losses = points[taken], losses[taken]
        self.n_full = len(losses)
        # A few runs that diverged must not be all that there is to explain: Tukey's outer fence.
        low, high = np.quantile(losses, (0.25, 0.75))
        losses = np.minimum(losses, high + 3 * max(high - low, 1e-12))
        self._mean, self._sd = float(losses.mean()), float(losses.std()) or 1.0
        told = Observations(
            features=self._encoding.features(points),
            at=np.ones(len(losses)),
            trials=np.arange(len(losses)),
            targets=(losses - self._mean) / self._sd,
        )
        self._process = GaussianProcess(self._encoding.groups, fidelity=False)
        self._process.fit(told, _FIT_STEPS)
        self._process.condition(told)
        self.scale = float(np.sqrt((self._process.left_out() ** 2).mean()))

    def draws(self, points: Floats, rng: np.random.Generator) -> Floats:
        """Return draws of the losses in full at some points, shape (draw, point)."""
        mean, covariance = self._process.joint(self._encoding.features(points))
        # Points that are close make it singular but for rounding.
        covariance[np.diag_indices(len(mean))] += _JITTER * float(covariance.diagonal().max())
        root = np.linalg.cholesky(covariance)
        normal = rng.standard_normal((_N_DRAWS, len(mean)))
        losses: Floats = (mean + normal @ root.T) * self._sd + self._mean
        return losses

    def by_level(self, key: str, levels: Sequence[Value], rng: np.random.Generator) -> Floats:
        """Return draws of the loss of each level with all else tuned for it, shape (draw, level).

        Args:
            key: The parameter.
            levels: Its values.
            rng: The source of chance.
        """
        return self.tuned([{key: level} for level in levels], rng)

    def tuned(self, cells: Sequence[Mapping[str, Value]], rng: np.random.Generator) -> Floats:
        """Return draws of the loss with some values given and all else tuned, shape (draw, cell).

        Args:
            cells: Values by parameter's key.
            rng: The source of chance.
        """
        spread = qmc.Sobol(self._encoding.n_parameters, rng=rng).random(_N_POINTS)
        others = np.vstack([spread, self._best])
        points = [self._encoding.given(others, cell) for cell in cells]
        drawn = self.draws(np.vstack(points), rng).reshape(_N_DRAWS, len(cells), len(others))
        losses: Floats = drawn.min(axis=2)
        return losses


def from_search(
    draws: Floats, levels: Sequence[str], n: Sequence[int], *, alpha: float, df: int, scale: float
) -> Effects:
    """Compare levels by draws of their losses.

    Args:
        draws: From `Surrogate.by_level`, shape (draw, level).
        levels: Their names.
        n: Trials in full of each.
        alpha: Error of all intervals together, by Bonferroni.
        df: Degrees of freedom that the model's variance is known with.
        scale: Factor of the draws' standard deviations.
    """
    gaps = draws[:, None, :] - draws[:, :, None]  # (draw, i, j): loss of j minus that of i
    n_pairs = math.comb(len(levels), 2)
    losses = np.median(draws, axis=0)
    half = float(student.ppf(0.975, df)) * scale * draws.std(axis=0)
    return Effects(
        levels=list(levels),
        losses=losses,
        low=losses - half,
        high=losses + half,
        difference=np.median(gaps, axis=0),
        margin=float(student.ppf(1 - alpha / (2 * n_pairs), df)) * scale * gaps.std(axis=0),
        n=list(n),
    )
