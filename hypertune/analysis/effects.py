"""Differences between levels, with intervals that hold for all pairs of them at once.

Three sources, each with an estimand of its own:

- **Replicates** (`from_replicates`): configs that the search chose run again on fresh seeds, each
  on the same ones. The seeds know nothing of the choice, so that whatever way the configs were
  found, and however many trials were tried, the differences *between these configs* are estimated
  without the luck of the winner. Each pair has the paired t interval of the seeds that both ran
  on, by Bonferroni: what another config scatters by, or how often it ran, is nothing to it.
- **Searched trials** (`from_search`): a Gaussian process over configs, given every trial in full.
  Which config was tried next depended on these results alone, so that the model may ignore how it
  was chosen (Rubin 1976). Where trials were stopped early, those in full were the luckier ones:
  that this is so of every level alike is assumed. All of it holds as far as the model does, which
  is why it is said; how far it errs on trials that it is not shown scales its intervals, level by
  level, since it takes noise to be the same everywhere (`Surrogate.scale`).
- **Configs drawn by chance** (`from_chance`): where every config was drawn by chance and trained in
  full, levels are random samples of the space, and their means are compared as such: Welch's
  intervals, which do not take variances for equal, by Bonferroni. The estimand is another one: how
  good a level is on average, not at its best.

Values are losses: of scores, the negative.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import qmc, ttest_ind, ttest_rel
from scipy.stats import t as student

from hypertune.analysis.frames import StudyData, finite
from hypertune.core.space import Parameter, Value
from hypertune.journal.recommendation import MIN_REPEATS
from hypertune.search.encoding import Encoding
from hypertune.search.surrogate import GaussianProcess, Observations

Floats = NDArray[np.float64]

ALPHA = 0.05
MIN_ALIKE = 5
"""Losses of each level that say, if they are all equal, that seeds make no difference."""
_N_POINTS = 64
_N_BEST = 32
_JITTER = 1e-6
_DIGITS = 1e-6  # metrics may have been computed in single precision
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
        margin: Half the width of the interval of each difference, simultaneous over all pairs;
            NaN where two levels cannot be compared.
        tail: The error of one end of one interval.
        df: Degrees of freedom of each interval, shape (level, level).
        n_compared: Observations that each difference rests on, shape (level, level).
        n: Observations of each level, shape (level,).
    """

    levels: list[str]
    losses: Floats
    low: Floats
    high: Floats
    difference: Floats
    margin: Floats
    tail: float
    df: Floats
    n_compared: NDArray[np.int64]
    n: list[int]

    def n_more(self, i: int, j: int, target: float, tail: float) -> int:
        """Return about how many more observations make the interval of a difference so narrow.

        Args:
            i: A level.
            j: The other one.
            target: Half its width, in units of the loss, above 0 and below what it is now.
            tail: The error of one of its ends, at the next look.
        """
        n, df = self.n_compared[i, j], self.df[i, j]
        sd = float(self.margin[i, j]) / float(student.ppf(1 - self.tail, df)) * math.sqrt(n)

        def too_wide(more: float) -> float:
            return float(student.ppf(1 - tail, df + more)) * sd / math.sqrt(n + more) - target

        # With the quantile of now it takes more than with that of then.
        return math.ceil(float(brentq(too_wide, 0, n * ((too_wide(0) / target + 1) ** 2 - 1))))


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


def from_replicates(values: Floats, levels: Sequence[str], *, alpha: float) -> Effects:
    """Compare levels by configs that were run again on the same fresh seeds.

    Args:
        values: Losses, shape (level, repeat), one at least of each; NaN where one is missing. Two
            levels are compared by the repeats that both have.
        levels: Their names.
        alpha: Error of all intervals together, by Bonferroni.

    Returns:
        The differences. Of two levels that share fewer than `MIN_REPEATS` repeats the margin is
        NaN; so it is where the differences are equal on all of them, for want of digits perhaps,
        which says nothing of how they scatter. Only where the losses are equal too, on as many
        as `MIN_ALIKE` repeats, no seed is taken to make a difference.
    """
    k, known = len(levels), ~np.isnan(values)
    tail = alpha / (2 * math.comb(k, 2))
    difference, margin = np.zeros((k, k)), np.full((k, k), math.nan)
    n_compared = known.astype(int) @ known.T.astype(int)
    for i, j in combinations(range(k), 2):
        both = known[i] & known[j]
        one, other = values[i, both], values[j, both]
        if len(one) < MIN_REPEATS:
            continue
        difference[i, j] = (other - one).mean()
        difference[j, i] = -difference[i, j]
        if np.ptp(other - one) > _DIGITS * np.abs([one, other]).max():
            ends = ttest_rel(other, one).confidence_interval(1 - 2 * tail)
            margin[i, j] = margin[j, i] = (ends.high - ends.low) / 2
        elif np.ptp(one) == 0 and len(one) >= MIN_ALIKE:
            margin[i, j] = margin[j, i] = 0.0
    n = known.sum(axis=1)
    losses = np.nanmean(values, axis=1)
    df = np.maximum(n - 1, 1)  # of a single one nothing is known, and nothing said
    sd = np.sqrt(np.nansum((values - losses[:, None]) ** 2, axis=1) / df)
    half = student.ppf(0.975, df) * sd / np.sqrt(n)
    return Effects(
        levels=list(levels),
        losses=losses,
        low=losses - half,
        high=losses + half,
        difference=difference,
        margin=margin,
        tail=tail,
        df=n_compared - 1.0,
        n_compared=n_compared,
        n=[int(m) for m in n],
    )


def from_chance(samples: Sequence[Floats], levels: Sequence[str], *, alpha: float) -> Effects:
    """Compare the means of levels whose configs were drawn by chance.

    Args:
        samples: Losses of each level's trials, two or more of each.
        levels: Their names.
        alpha: Error of all intervals together.
    """
    k = len(samples)
    tail = alpha / (2 * math.comb(k, 2))
    means = np.array([sample.mean() for sample in samples])
    margin, df = np.zeros((k, k)), np.ones((k, k))
    for i, j in combinations(range(k), 2):
        found = ttest_ind(samples[i], samples[j], equal_var=False)
        ends = found.confidence_interval(1 - 2 * tail)
        margin[i, j] = margin[j, i] = (ends.high - ends.low) / 2
        df[i, j] = df[j, i] = found.df
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
        tail=tail,
        df=df,
        n_compared=np.full((k, k), n.sum()),
        n=[int(m) for m in n],
    )


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How far a model errs: by ``factor`` more than it expects, known by ``df`` + 1 errors."""

    factor: float
    df: int


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
    """

    def __init__(self, data: StudyData) -> None:
        self._encoding = Encoding(data.space)
        trials = data.full[data.full["trial"].isin(list(data.flats))]
        self._flats = [data.flats[trial] for trial in trials["trial"]]
        points = self._encoding.points(self._flats)
        losses = data.objective.loss(finite(trials["value"]))
        # Where the best may be: around what is known to be good.
        self._best = points[np.argsort(losses, kind="stable")[:_N_BEST]]
        if len(losses) > _MAX_TRIALS:
            taken = np.random.default_rng(0).choice(len(losses), _MAX_TRIALS, replace=False)
            points, losses = points[taken], losses[taken]
            self._flats = [self._flats[k] for k in taken]
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
        self._squares = self._process.left_out() ** 2

    def scale(self, parameter: Parameter, value: Value) -> Scale:
        """Return by how much errors are larger than the model expects, where it meets a value.

        They are what each trial leaves over where the model has to do without it, in standard
        deviations (Bachoc 2013): the root mean square of those of the value's level or range, or
        of all of them if that is larger.

        Args:
            parameter: The parameter.
            value: Its value.
        """
        part = parameter.part(value)
        here = [parameter.part(flat[parameter.key]) == part for flat in self._flats]
        known = (self._squares, self._squares[here])
        most = max((squares for squares in known if len(squares) > 1), key=np.mean)
        return Scale(factor=math.sqrt(float(most.mean())), df=len(most) - 1)

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
    draws: Floats,
    levels: Sequence[str],
    n: Sequence[int],
    *,
    alpha: float,
    scale: Sequence[Scale],
) -> Effects:
    """Compare levels by draws of their losses.

    Args:
        draws: From `Surrogate.by_level`, shape (draw, level).
        levels: Their names.
        n: Trials in full of each.
        alpha: Error of all intervals together, by Bonferroni.
        scale: Of the draws' standard deviations, by level; of two, the larger one.
    """
    gaps = draws[:, None, :] - draws[:, :, None]  # (draw, i, j): loss of j minus that of i
    k = len(levels)
    tail = alpha / (2 * math.comb(k, 2))
    losses = np.median(draws, axis=0)
    factors, dfs = np.array([s.factor for s in scale]), np.array([float(s.df) for s in scale])
    half = student.ppf(0.975, dfs) * factors * draws.std(axis=0)
    larger = np.maximum.outer(factors, factors)
    df = np.where(factors[:, None] >= factors[None, :], dfs[:, None], dfs[None, :])
    return Effects(
        levels=list(levels),
        losses=losses,
        low=losses - half,
        high=losses + half,
        difference=np.median(gaps, axis=0),
        margin=student.ppf(1 - tail, df) * larger * gaps.std(axis=0),
        tail=tail,
        df=df,
        n_compared=np.full((k, k), sum(n)),
        n=list(n),
    )
