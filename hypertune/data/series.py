"""Time series, and how they are split without looking ahead."""

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypertune.data.files import in_package

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Where one evenly spaced series comes from.

    Attributes:
        summary: What it is, and where it comes from.
        season: Steps after which it repeats itself, for the seasonal naive forecast.
        find: Returns its file; raises FileNotFoundError that says what to do.
        read: Returns the values in it, oldest first, shape (time,).
    """

    summary: str
    season: int
    find: Callable[[], Path]
    read: Callable[[Path], Floats]

    def load(self) -> Floats:
        """Return the values, oldest first, shape (time,).

        Raises:
            OSError: They are not there.
            ValueError: They are no series.
        """
        values = self.read(self.find())
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"a series must be finite, but '{self.find()}' holds gaps")
        return values


def _numbers(path: Path) -> Floats:
    return np.loadtxt(path, dtype=np.float32).ravel()


def _taylor(path: Path) -> Floats:
    """Return the longest list of numbers in a Python file, without running it."""
    lists = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.List)]
    return np.array(ast.literal_eval(max(lists, key=lambda node: len(node.elts))), dtype=np.float32)


SERIES: dict[str, Series] = {
    "sunspots": Series(
        summary="monthly mean sunspot numbers 1749-1983 (2,820 months; Andrews and Herzberg 1985)",
        season=132,  # the solar cycle, about eleven years
        find=lambda: Path(__file__).with_name("sunspots.txt"),
        read=_numbers,
    ),
    "electricity": Series(
        summary="half-hourly electricity demand of England and Wales, summer 2000 (4,032 values; "
        "Taylor 2003; from pmdarima, MIT; the extra 'datasets')",
        season=336,  # a week
        find=functools.partial(in_package, "pmdarima", "datasets/taylor.py", extra="datasets"),
        read=_taylor,
    ),
}


@dataclass(frozen=True, kw_only=True)
class SeriesSplit:
    """A chronological split into train, validation and test, made before any window is cut.

    A *target block* is ``horizon`` consecutive values, all in one part; its *origin* is the last
    step before it. Inputs are the ``window`` values up to the origin, which may reach back into an
    earlier part (the past is known when one forecasts), never forward. Origins do not depend on
    the window, so that all windows are trained and judged on the same targets.

    Args:
        values: The series, shape (time,); without the test part where that must not be seen.
        n_train: End of the training part.
        n_val: End of the validation part.
        horizon: Values in a target block.
        max_window: The longest window that is compared.
    """

    values: Floats
    n_train: int
    n_val: int
    horizon: int
    max_window: int

    def origins(self, part: str) -> NDArray[np.int64]:
        """Return the origins of a part (``train``, ``val`` or ``test``), shape (n,).

        Raises:
            ValueError: The part is too short for one target block after the longest window.
        """
        begin, end = {
            "train": (self.max_window, self.n_train),
            "val": (max(self.n_train, self.max_window), self.n_val),
            "test": (max(self.n_val, self.max_window), len(self.values)),
        }[part]
        origins = np.arange(begin - 1, end - self.horizon)
        if len(origins) == 0:
            raise ValueError(
                f"The {part} part ({end - begin} steps) must hold a horizon of {self.horizon}."
            )
        return origins

    def inputs(self, origins: NDArray[np.int64], window: int) -> Floats:
        """Return the ``window`` values up to each origin, shape (n, window), oldest first.

        Raises:
            ValueError: The window reaches beyond the start of the series.
        """
        if not 1 <= window <= self.max_window:
            raise ValueError(f"window must be from 1 to {self.max_window}, but got {window}.")
        inputs: Floats = self.values[origins[:, None] + np.arange(1 - window, 1)]
        return inputs

    def targets(self, origins: NDArray[np.int64]) -> Floats:
        """Return the ``horizon`` values after each origin, shape (n, horizon)."""
        targets: Floats = self.values[origins[:, None] + np.arange(1, self.horizon + 1)]
        return targets

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training part, and of nothing else."""
        train = self.values[: self.n_train]
        return float(train.mean()), float(train.std()) or 1.0
