"""A Gaussian process over (config, epoch): from curves of any length to what comes in full.

Rasmussen and Williams 2006, chapters 2 and 5, for the process; the product of a kernel on configs
and one on epochs is that of Swersky, Snoek and Adams 2014 ("Freeze-Thaw Bayesian Optimization") in
spirit: how much an early epoch tells about the last one is learned with everything else.
"""

import copy
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

_JITTER = 1e-6
_NEW = -1  # a trial that there is not yet
# Priors: mean and standard deviation of the logarithm. Targets have unit variance.
_LENGTH = (-0.3, 1.1)  # of a space of one feature; it grows with the root of their number
_EPOCH_LENGTH = (-0.7, 0.7)
_LASTING = (-0.5, 1.0)
_PASSING = (-0.9, 1.0)
_OWN = (-3.5, 1.0)
_NOISE = (-5.8, 1.5)
_TREND = 2.0


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What the process is told, one row an observation.

    Attributes:
        features: Of the config, shape (observation, column).
        at: Logarithm of the epoch, 0 at the first and 1 at the last; shape (observation,).
        trials: Number of the trial, shape (observation,).
        targets: To be minimised; about zero mean and unit variance, shape (observation,).
    """

    features: Floats
    at: Floats
    trials: Ints
    targets: Floats

    def __getitem__(self, rows: NDArray[np.generic]) -> "Observations":
        return Observations(
            features=self.features[rows],
            at=self.at[rows],
            trials=self.trials[rows],
            targets=self.targets[rows],
        )

    def __len__(self) -> int:
        return len(self.targets)


class GaussianProcess:
    """The process.

    The covariance of two observations, of configs x and y at log epochs s and t, is

        k(x, y) (a_0 + a_1 k_t(s, t)) + [same trial] a_2 k_t(s, t) + trend + noise

    where k is a Matérn 5/2 kernel with a length scale per feature and k_t one with a single length
    scale. What lasts over the epochs has variance a_0, what passes a_1, and what is a trial's own
    (its seed, what the features do not tell) a_2.

    Args:
        groups: The feature that each column is part of, shape (column,).
        fidelity: Observations are of several epochs.
    """

    def __init__(self, groups: Ints, *, fidelity: bool) -> None:
        self._groups = groups
        self._n = n = int(groups.max()) + 1
        self._fidelity = fidelity
        length = (_LENGTH[0] + 0.5 * math.log(n), _LENGTH[1])
        prior = [length] * n + [_EPOCH_LENGTH, _LASTING, _PASSING, _OWN, _NOISE]
        self._mean, self._sd = np.array(prior).T
        free = [True] * n + [fidelity, True, fidelity, fidelity, True]
        self._free = np.array(free)
        if not fidelity:
            self._mean[n + 2 : n + 4] = -np.inf  # nothing passes, nothing is a trial's own
        self._theta = self._mean.copy()

    def __len__(self) -> int:
        """Return the number of observations that are known."""
        return len(self._told)

    # ---- hyperparameters ----

    def fit(self, told: Observations, max_steps: int) -> None:
        """Set the hyperparameters to their most probable values, from the prior's mean on."""
        squares = np.zeros((self._n, len(told), len(told)))  # distances along each feature
        for column, group in zip(told.features.T, self._groups, strict=True):
            squares[group] += (column[:, None] - column[None, :]) ** 2
        found = minimize(
            self._loss,
            self._mean[self._free],
            (
                squares,
                (told.at[:, None] - told.at[None, :]) ** 2,
                (told.trials[:, None] == told.trials[None, :]).astype(float),
                self._trend(told.at, told.at),
                told.targets,
            ),
            jac=True,
            method="L-BFGS-B",
            bounds=[
                (mean - 4 * sd, mean + 4 * sd)
                for mean, sd in zip(self._mean[self._free], self._sd[self._free], strict=True)
            ],
            options={"maxiter": max_steps},
        )
        self._theta[self._free] = found.x

    def _loss(
        self,
        free: Floats,
        squares: Floats,
        epochs: Floats,
        same: Floats,
        trend: Floats,
        targets: Floats,
    ) -> tuple[float, Floats]:
        """Return minus the log of the posterior of the hyperparameters, and its gradient."""
        theta = self._mean.copy()
        theta[self._free] = free
        n = self._n
        weights = np.exp(-2 * theta[:n])
        length, lasting, passing, own, noise = np.exp(theta[n:])
        scaled = weights[:, None, None] * squares
        configs, d_configs = _matern(scaled.sum(0))
        near, d_near = _matern(epochs / length**2)
        share = lasting + passing * near
        covariance = configs * share + own * same * near + trend
        covariance[np.diag_indices(len(targets))] += noise + _JITTER
        try:
            root = cholesky(covariance, lower=True, check_finite=False)
        except LinAlgError:
            return 1e10, np.zeros_like(free)
        inverse = cho_solve((root, True), np.eye(len(targets)), check_finite=False)
        alpha = inverse @ targets
        loss = 0.5 * targets @ alpha + float(np.log(np.diag(root)).sum())
        # d loss / d covariance; eq. 5.9 of Rasmussen and Williams 2006
        slope = 0.5 * (inverse - np.outer(alpha, alpha))
        over_configs, over_near = slope * share, slope * (passing * configs + own * same)
        gradient = np.zeros_like(theta)
        gradient[:n] = -2 * np.tensordot(scaled, over_configs * d_configs, 2)
        gradient[n] = -2 / length**2 * float((over_near * d_near * epochs).sum())
        gradient[n + 1] = lasting * float((slope * configs).sum())
        gradient[n + 2] = passing * float((slope * configs * near).sum())
        gradient[n + 3] = own * float((slope * same * near).sum())
        gradient[n + 4] = noise * float(np.trace(slope))
        off = (free - self._mean[self._free]) / self._sd[self._free]
        return loss + 0.5 * float(off @ off), gradient[self._free] + off / self._sd[self._free]

    # ---- posterior ----

    def condition(self, told: Observations) -> None:
        """Take observations as known, with the hyperparameters as they are."""
        self._told = told
        covariance = self._kernel(told, told)
        covariance[np.diag_indices(len(told))] += np.exp(self._theta[self._n + 4]) + _JITTER
        self._root = cholesky(covariance, lower=True, check_finite=False)
        self._alpha = cho_solve((self._root, True), told.targets, check_finite=False)

    def left_out(self) -> Floats:
        """Return by how much each observation differs from what the others make of it.

        In standard deviations (eq. 5.12 of Rasmussen and Williams 2006), shape (observation,).
        """
        inverse = cho_solve((self._root, True), np.eye(len(self)), check_finite=False)
        errors: Floats = self._alpha / np.sqrt(np.diag(inverse))
        return errors

    def believing(self, features: Floats, trials: Ints) -> "GaussianProcess":
        """Return the process as it would be if these trials ended in full as it expects them to.

        No mean changes, and the variance around them is gone (the "kriging believer" of Ginsbourger
        et al. 2010): there, a new config would tell and bring little.
        """
        other = copy.copy(self)
        targets, _ = self.predict(features, trials)
        more = Observations(
            features=features, at=np.ones(len(trials)), trials=trials, targets=targets
        )
        cross = solve_triangular(
            self._root, self._kernel(self._told, more), lower=True, check_finite=False
        )
        rest = self._kernel(more, more) - cross.T @ cross
        rest[np.diag_indices(len(more))] += np.exp(self._theta[self._n + 4]) + _JITTER
        n, m = len(self._told), len(more)
        other._root = np.zeros((n + m, n + m))
        other._root[:n, :n] = self._root
        other._root[n:, :n] = cross.T
        other._root[n:, n:] = cholesky(rest, lower=True, check_finite=False)
        other._alpha = np.concatenate([self._alpha, np.zeros(m)])
        other._told = Observations(
            features=np.vstack([self._told.features, features]),
            at=np.concatenate([self._told.at, more.at]),
            trials=np.concatenate([self._told.trials, trials]),
            targets=np.concatenate([self._told.targets, targets]),
        )
        return other

    def predict(self, features: Floats, trials: Ints | None = None) -> tuple[Floats, Floats]:
        """Return mean and standard deviation at the last epoch, each of shape (config,).

        Args:
            features: Of configs, shape (config, column).
            trials: Which trials they are, shape (config,); None for new ones.
        """
        n = len(features)
        asked = Observations(
            features=features,
            at=np.ones(n),
            trials=np.full(n, _NEW) if trials is None else trials,
            targets=np.zeros(n),
        )
        cross = self._kernel(asked, self._told)
        reduced = solve_triangular(self._root, cross.T, lower=True, check_finite=False)
        _, lasting, passing, own, _ = np.exp(self._theta[self._n :])
        variance = lasting + passing + own + 1.0 - (reduced**2).sum(0)
        return cross @ self._alpha, np.sqrt(np.maximum(variance, 1e-9))

    def joint(self, features: Floats) -> tuple[Floats, Floats]:
        """Return mean, shape (config,), and covariance at the last epoch, of what seeds share.

        Without a trial's own part: a config's expected value over its seeds.

        Args:
            features: Of configs, shape (config, column).
        """
        n = len(features)
        asked = Observations(
            features=features, at=np.ones(n), trials=np.full(n, _NEW), targets=np.zeros(n)
        )
        cross = self._kernel(asked, self._told)
        reduced = solve_triangular(self._root, cross.T, lower=True, check_finite=False)
        own = float(np.exp(self._theta[self._n + 3]))
        covariance: Floats = self._kernel(asked, asked) - own - reduced.T @ reduced
        return cross @ self._alpha, covariance

    def _kernel(self, a: Observations, b: Observations) -> Floats:
        scale = np.exp(-self._theta[: self._n])[self._groups]
        length, lasting, passing, own, _ = np.exp(self._theta[self._n :])
        configs = _matern(square_distances(a.features * scale, b.features * scale))[0]
        near = _matern(((a.at[:, None] - b.at[None, :]) / length) ** 2)[0]
        covariance: Floats = configs * (lasting + passing * near) + self._trend(a.at, b.at)
        if own:
            covariance += own * near * (a.trials[:, None] == b.trials[None, :])
        return covariance

    def _trend(self, a: Floats, b: Floats) -> Floats:
        """Return the covariance of an unknown constant and of a slope over the log epochs."""
        trend: Floats = 1.0 + _TREND * np.outer(a - 1, b - 1)
        return trend


def square_distances(a: Floats, b: Floats) -> Floats:
    """Return the squared distances between the rows of two arrays, shape (row of a, row of b)."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    positive: Floats = np.maximum(squares, 0.0)  # rounding
    return positive


def _matern(square: Floats) -> tuple[Floats, Floats]:
    """Return the Matérn 5/2 kernel at squared distances, and its derivative by them."""
    root = np.sqrt(5 * square)
    decay = np.exp(-root)
    return (1 + root + root * root / 3) * decay, -5 / 6 * (1 + root) * decay
