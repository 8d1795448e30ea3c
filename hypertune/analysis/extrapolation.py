"""What trials that did not get to an epoch would have had there, and how well that is known.

The value at the epoch is regressed on the value so far, over the trials that got there: one line
for each epoch that trials ended at (performance prediction in its simplest form; Baker et al. 2018,
"Accelerating Neural Architecture Search using Performance Prediction"). Its errors are told by
trials that are known in full, each left out in turn.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import linregress
from scipy.stats import t as student

from hypertune.analysis.frames import StudyData, finite, value_at
from hypertune.analysis.words import show

MIN_COMPLETE = 6
"""Trials that got there, which a line takes."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """Values at an epoch, of the searched trials.

    Attributes:
        values: By the index of ``StudyData.searched``: ``value``; ``low`` and ``high``, the ends of
            the 95 % interval where it is extrapolated; ``extrapolated``.
        n_complete: Trials that got there, which the lines are fitted to.
        error: Root mean square of the errors on trials that were left out, in the metric; None if
            nothing was extrapolated.
        cover: Share of them that lie within their interval.
    """

    values: pd.DataFrame
    n_complete: int
    error: float | None
    cover: float | None

    @property
    def note(self) -> str:
        """What a figure is to say of it."""
        n = int(self.values["extrapolated"].sum())
        if self.error is None or self.cover is None:
            return "none could be extrapolated"
        return (
            f"{n} of them EXTRAPOLATED by {self.n_complete} complete curves: error on those left "
            f"out {show(self.error)}, {self.cover:.0%} within their 95 % interval"
        )


def extrapolate(data: StudyData, epoch: int) -> Extrapolation:
    """Return the value of each searched trial at an epoch, or what it would have been.

    Trials that failed or were lost are not extrapolated, nor are any where fewer than
    `MIN_COMPLETE` got there. A best value so far never gets worse, nor does an extrapolated one.
    Where most trials were stopped early, those that got there are the better ones: what the line
    says of the others it says from afar, and its interval widens accordingly.

    Args:
        data: The study.
        epoch: Of the comparison.

    Raises:
        SettingError: No trial of the study has such an epoch.
    """
    searched = data.searched
    known = data.objective.loss(finite(value_at(data, epoch).loc[searched.index]))
    value, low, high = known.copy(), np.full(len(known), np.nan), np.full(len(known), np.nan)
    failed = searched["reason"].isin(("failed", "lost")).fillna(False).to_numpy()
    there = np.isfinite(known)
    missing = ~there & ~failed & (searched["epochs"].to_numpy() > 0)
    errors: list[_Floats] = []
    inside: list[NDArray[np.bool_]] = []
    for at in sorted(set(searched["epochs"][missing])):
        so_far = data.objective.loss(finite(value_at(data, int(at)).loc[searched.index]))
        fitted = there & np.isfinite(so_far)
        asked = missing & (searched["epochs"].to_numpy() == at)
        line = _fit(so_far[fitted], known[fitted])
        if line is None:
            continue
        mean, reach = line.predict(so_far[asked])
        value[asked] = np.minimum(mean, so_far[asked])
        low[asked] = np.minimum(mean - reach, so_far[asked])
        high[asked] = np.minimum(mean + reach, so_far[asked])
        left, half = line.left_out()
        errors.append(left)
        inside.append(np.abs(left) <= half)
    ends = np.sort(np.array([data.objective.value(low), data.objective.value(high)]), axis=0)
    values = pd.DataFrame(
        {
            "value": data.objective.value(value),
            "low": ends[0],
            "high": ends[1],
            "extrapolated": np.isfinite(low),
        },
        index=searched.index,
    )
    for column in ("value", "low", "high"):
        values[column] = values[column].astype("Float64")
    return Extrapolation(
        values=values,
        n_complete=int(there.sum()),
        error=math.sqrt(float((np.concatenate(errors) ** 2).mean())) if errors else None,
        cover=float(np.concatenate(inside).mean()) if inside else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of y over x, with what its intervals are made of."""

    x: _Floats
    y: _Floats
    fit: Any

    @property
    def _lever(self) -> _Floats:
        return self._leverage(self.x)

    def _leverage(self, x: _Floats) -> _Floats:
        off = self.x - self.x.mean()
        leverage: _Floats = 1 / len(self.x) + (x - self.x.mean()) ** 2 / (off**2).sum()
        return leverage

    @property
    def _rest(self) -> _Floats:
        rest: _Floats = self.y - self.fit.intercept - self.fit.slope * self.x
        return rest

    def predict(self, x: _Floats) -> tuple[_Floats, _Floats]:
        """Return means and half the widths of intervals of 95 % for single values."""
        df = len(self.x) - 2
        sd = math.sqrt(float((self._rest**2).sum()) / df)
        reach = float(student.ppf(0.975, df)) * sd * np.sqrt(1 + self._leverage(x))
        return self.fit.intercept + self.fit.slope * x, reach

    def left_out(self) -> tuple[_Floats, _Floats]:
        """Return errors on each value by the line of the others, and half its interval's width."""
        lever, rest = self._lever, self._rest
        df = len(self.x) - 3
        # The sum of squares without one of them, and the interval for a value that is not in.
        sd = np.sqrt(np.maximum((rest**2).sum() - rest**2 / (1 - lever), 0) / df)
        half = float(student.ppf(0.975, df)) * sd / np.sqrt(1 - lever)
        return rest / (1 - lever), half


def _fit(x: _Floats, y: _Floats) -> _Line | None:
    if len(x) < MIN_COMPLETE or float(np.ptp(x)) == 0:
        return None
    return _Line(x=x, y=y, fit=linregress(x, y))
