"""The default searcher: a Gaussian process over configs and epochs, and expected improvement.

Made of known parts: curves of any length as observations (Swersky et al. 2014), expected
improvement of the value in full (Jones et al. 1998), running trials believed to end as expected
(Ginsbourger et al. 2010). What makes it robust is a *gap*: nothing is proposed close to what was
tried. Where trials are cheap at first and halved later, configs that hardly differ win every rung
together, and the search would spend itself on one of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr, ndtri

from hypertune.core.origin import Origin
from hypertune.core.space import Flat, Space, Value
from hypertune.search.encoding import Encoding
from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.search.searchers.random import Random
from hypertune.search.searchers.sobol import Sobol
from hypertune.search.suggestion import Suggestion
from hypertune.search.surrogate import GaussianProcess, Observations, square_distances

Floats = NDArray[np.float64]

_MIN_TOLD = 4
_GUARD = 1 / 12  # share of random configs, against a model that is sure of what is wrong
_N_FIT = 100  # observations that hyperparameters are fitted to
_FIT_STEPS = 25
_N_TOLD = 250  # observations that predictions are made from
_N_BELIEVED = 25
_MARGIN = 0.2  # what does not improve by so many standard deviations does not count
_RANKS = 0.3  # weight of ranks in the targets; the rest is that of sizes
# Gap to what was tried, in lengths of the unit cube, times n ** (-1 / d) for n trials of a branch
# of the space in which configs differ in d parameters. On a line, where .75 / n is more than any n
# points can keep (Renyi 1958), half of it.
_GAP, _GAP_IN_FULL = 0.8, 0.3
_NEAR = -1e6  # merit of what is too near, the less the nearer; that of others is above
_MAX_CANDIDATES = 2500
_MAX_COVARIANCES = 400_000  # of candidates and what is known: they take the time
_N_CHECKED = 200  # candidates at most that are asked whether they may be tried
_ROUNDS = 3
_N_BASES = 8


class Auto(Searcher):
    """Proposes the config of the largest expected improvement in full, off what was tried."""

    slow = True

    def __init__(self, space: Space, max_epochs: int, seed: int = 0) -> None:
        super().__init__(space, max_epochs, seed)
        self._encoding = Encoding(space)
        self._start = Sobol(space, max_epochs, seed)
        self._random = Random(space, max_epochs, seed)
        # Where epochs are many a first one costs little, and the model has more to learn.
        self._n_start = 6 if max_epochs == 1 else max(6, len(space.parameters) + 2)
        # What follows from what does not change any more is kept: the points of configs, and what
        # the model knows from so many results.
        self._points: list[Floats] = []
        self._known: tuple[tuple[object, ...], _Knowledge] | None = None

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Suggestion:
        return self.suggest_given(trials, rng, {})

    def suggest_given(
        self, trials: Sequence[Trial], rng: np.random.Generator, given: Mapping[str, Value]
    ) -> Suggestion:
        n_told = sum(bool(trial.losses) for trial in trials)
        if len(trials) < self._n_start or n_told < _MIN_TOLD:
            why = "one of the first points, which fill the space evenly"
            return replace(self._start.suggest_given(trials, rng, given), why=why)
        if rng.random() < _GUARD:
            why = "drawn at random, in case the model is wrong"
            return replace(self._random.suggest_given(trials, rng, given), why=why)
        for trial in trials[len(self._points) :]:
            self._points.append(self._encoding.points([trial.flat])[0])
        points = np.array(self._points[: len(trials)])
        knowledge = self._knowledge(trials, points)
        flat, is_near = self._propose(trials, points, knowledge, given, rng)
        why = f"by a Gaussian process on {len(knowledge.model)} results: " + (
            "farthest from what was tried, as nothing is far from it any more"
            if is_near
            else "largest expected improvement"
        )
        features = self._encoding.features(self._encoding.points([flat]))
        (expected,), _ = knowledge.model.predict(features)
        return Suggestion(
            flat=flat, origin=Origin.MODEL, why=why, expected=knowledge.loss(float(expected))
        )

    # ---- what is known ----

    def _knowledge(self, trials: Sequence[Trial], points: Floats) -> "_Knowledge":
        """Return the model of the results so far."""
        state = tuple(n for t in trials for n in (len(t.losses), t.running, t.reason))
        if self._known is None or self._known[0] != state:
            features = self._encoding.features(points)
            observed, losses = self._observations(trials, features)
            told = _thinned(observed, trials)
            model = GaussianProcess(self._encoding.groups, fidelity=self.max_epochs > 1)
            model.fit(told[_spread(told, _N_FIT)], _FIT_STEPS)
            model.condition(told)
            numbers = np.unique(told.trials)
            expected = np.full(len(trials), np.inf)
            expected[numbers], _ = model.predict(features[numbers], numbers)
            scale = np.argsort(losses, kind="stable")
            self._known = (
                state,
                _Knowledge(model, features, expected, observed.targets[scale], losses[scale]),
            )
        return self._known[1]

    def _observations(
        self, trials: Sequence[Trial], features: Floats
    ) -> tuple[Observations, Floats]:
        """Return the curves, at some epochs each, and their losses.

        A trial that failed is the worst there is.
        """
        rows = [
            (trial.number, epoch, loss)
            for trial in trials
            for epoch, loss in self._curve(trial).items()
        ]
        numbers = np.array([number for number, _, _ in rows])
        losses = np.array([loss for _, _, loss in rows])
        observed = Observations(
            features=features[numbers],
            at=np.array([self._place(epoch) for _, epoch, _ in rows]),
            trials=numbers,
            targets=_targets(losses),
        )
        return observed, losses

    def _curve(self, trial: Trial) -> dict[int, float]:
        """Return the best loss up to the rungs that a trial reached, and up to its end."""
        if trial.reason == "failed":
            return {trial.to_epoch: math.inf}
        rungs = [rung for rung in self.rungs if rung <= trial.epoch]
        curve = {rung: best for rung in rungs if (best := trial.best_at(rung)) is not None}
        if trial.losses and not trial.running:
            last = self.max_epochs if trial.reason == "converged" else trial.epoch
            curve[last] = trial.best[trial.epoch]
        return curve

    def _place(self, epoch: int) -> float:
        """Return the logarithm of an epoch: 0 at the first, 1 at the last."""
        return math.log(epoch) / math.log(self.max_epochs) if self.max_epochs > 1 else 1.0

    # ---- what to propose ----

    def _propose(
        self,
        trials: Sequence[Trial],
        points: Floats,
        known: "_Knowledge",
        given: Mapping[str, Value],
        rng: np.random.Generator,
    ) -> tuple[Flat, bool]:
        """Return the config of the largest expected improvement among random and local ones.

        And whether it is nearer to what was tried than it should be, as all of them are.
        """
        ranked = np.argsort(known.expected, kind="stable")
        unfinished = [
            number
            for number in ranked[:_N_BELIEVED]
            if not trials[number].full and np.isfinite(known.expected[number])
        ]
        running = [t.number for t in trials if t.running and t.number not in unfinished]
        believed = np.array(unfinished + running, dtype=np.int64)
        model = known.model
        if len(believed):
            model = model.believing(known.features[believed], believed)
        goal = float(known.expected.min()) - _MARGIN
        halved = any(t.losses and not (t.full or t.running or t.reason) for t in trials)
        gap = _GAP if halved else _GAP_IN_FULL
        tried, counts = np.unique(self._encoding.branches(points)[0], return_counts=True)

        def merit(candidates: Floats) -> Floats:
            features = self._encoding.features(candidates)
            value = _log_improvement(*model.predict(features), goal)
            # What is too near comes last, the farthest of it first.
            distance = _distance(features, known.features)
            branch, n_free = self._encoding.branches(candidates)
            at = np.minimum(np.searchsorted(tried, branch), len(tried) - 1)
            n_like = np.where(tried[at] == branch, counts[at], 1)
            widths = gap * np.where(n_free > 1, 1.0, 0.5) * n_like ** (-1 / np.maximum(n_free, 1))
            return np.where(distance > widths, np.maximum(value, _NEAR), _NEAR * (2 - distance))

        n = min(_MAX_CANDIDATES, _MAX_COVARIANCES // len(model))
        candidates = np.vstack(
            [
                rng.random((n, points.shape[1])),
                self._near(points[ranked[:_N_BASES]], n // 2, 1.0, rng),
            ]
        )
        candidates = self._encoding.given(candidates, given)
        merits = merit(candidates)
        for k in range(_ROUNDS):
            best = candidates[np.argsort(-merits, kind="stable")[:_N_BASES]]
            more = self._near(best, n // 3, 0.5 ** (k + 1), rng)
            candidates = np.vstack([best, self._encoding.given(more, given)])
            merits = merit(candidates)
        ranking = np.argsort(-merits, kind="stable")
        proposals = (
            (self._encoding.flat(candidates[row], given), bool(merits[row] < _NEAR))
            for row in ranking[:_N_CHECKED]
        )
        feasible = self.feasible or (lambda flat: True)
        # If none of them may be tried, the search says so of the best, and asks again.
        first = self._encoding.flat(candidates[ranking[0]], given), False
        return next((found for found in proposals if feasible(found[0])), first)

    def _near(self, bases: Floats, n: int, scale: float, rng: np.random.Generator) -> Floats:
        """Return points that differ from one of ``bases`` in one, some or all parameters."""
        points = bases[rng.integers(len(bases), size=n)]
        n_parameters = points.shape[1]
        share = rng.choice([1.5 / n_parameters, 0.5, 1.0], size=(n, 1))
        moved = rng.random(points.shape) < share
        moved[np.arange(n), rng.integers(n_parameters, size=n)] = True
        step = rng.normal(size=points.shape) * scale * 10 ** rng.uniform(-2, -0.5, size=(n, 1))
        walked = 1 - np.abs(1 - np.abs(points + step))  # reflected at the ends
        walked = np.clip(walked, 0.0, 1 - 1e-9)
        redrawn = rng.random(points.shape)
        return np.where(moved, np.where(self._encoding.choices, redrawn, walked), points)


@dataclass(frozen=True)
class _Knowledge:
    """The model of the results so far.

    Attributes:
        model: The process.
        features: Of all trials, shape (trial, column).
        expected: Target of each trial in full, shape (trial,); inf where nothing is known.
        targets, losses: Those of all observations in ascending order, shape (observation,).
    """

    model: GaussianProcess
    features: Floats
    expected: Floats
    targets: Floats
    losses: Floats

    def loss(self, target: float) -> float | None:
        """Return about which loss a target stands for; None where it is not finite."""
        loss = float(np.interp(target, self.targets, self.losses))
        return loss if math.isfinite(loss) else None


def _targets(losses: Floats) -> Floats:
    """Return losses as targets: a mean of their normal scores and of their sizes.

    Ranks do not mind scales, and sizes tell how much a difference matters (asinh: those of the
    better half in the main). What is not finite is as bad as the worst.
    """
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return np.zeros(len(losses))
    losses = np.where(np.isfinite(losses), losses, finite.max())
    _, inverse, counts = np.unique(losses, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share theirs
    scores = ndtri((ranks - 0.5) / len(losses))
    low, middle, high = finite.min(), np.median(finite), np.quantile(finite, 0.9)
    # Where more than half are equal, the others tell what a difference is.
    unit = middle - low if middle > low else max(high - low, 1e-300)
    sizes = np.arcsinh(2 * (np.minimum(losses, high) - low) / unit)
    return _standard(_RANKS * _standard(scores) + (1 - _RANKS) * _standard(sizes))


def _standard(values: Floats) -> Floats:
    spread = values.std()
    standard: Floats = (values - values.mean()) / (spread if spread > 0 else 1.0)
    return standard


def _thinned(told: Observations, trials: Sequence[Trial]) -> Observations:
    """Return no more than so many observations: of the furthest and best trials, and of others."""
    if len(told) <= _N_TOLD:
        return told
    numbers, first, counts = np.unique(told.trials, return_index=True, return_counts=True)
    best = np.minimum.reduceat(told.targets, first)
    epochs = np.array([trials[number].epoch for number in numbers])
    order = np.lexsort((numbers, best, -epochs))
    within = np.cumsum(counts[order]) <= 0.75 * _N_TOLD
    kept, others = order[within], order[~within]
    room = _N_TOLD - counts[kept].sum()
    kept = np.concatenate([kept, others[:: max(1, math.ceil(counts[others].sum() / room))]])
    return told[np.isin(told.trials, numbers[kept])]


def _spread(told: Observations, n: int) -> NDArray[np.int64]:
    """Return the rows of ``n`` observations: half of them late and good, half spread evenly."""
    order = np.argsort(0.3 * told.targets - told.at, kind="stable")
    if len(order) <= n:
        return order
    rest = order[n // 2 :]
    return np.concatenate(
        [order[: n // 2], rest[np.linspace(0, len(rest) - 1, n - n // 2).astype(int)]]
    )


def _distance(features: Floats, others: Floats) -> Floats:
    """Return how far each row is from the nearest of others, shape (row,)."""
    distance: Floats = np.sqrt(square_distances(features, others).min(1))
    return distance


def _log_improvement(mean: Floats, sd: Floats, goal: float) -> Floats:
    """Return the logarithm of the expected improvement below ``goal``.

    Written so that it stays finite far above the goal (Ament et al. 2023).
    """
    z = (goal - mean) / sd
    log_density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    low = np.minimum(z, -1.0)
    ratio = np.exp(log_ndtr(low) + 0.5 * low**2 + 0.5 * math.log(2 * math.pi))
    # Below -1, of distribution and density; 1 + z ratio is about 1 / z**2 where it would cancel.
    below = log_density + np.log(np.where(low > -1e4, 1 + low * ratio, low**-2.0))
    high = np.maximum(z, -1.0)
    above = np.log(np.exp(-0.5 * high**2) / math.sqrt(2 * math.pi) + high * ndtr(high))
    improvement: Floats = np.where(z < -1, below, above) + np.log(sd)
    return improvement
