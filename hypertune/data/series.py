"""Time series, and how they are split without looking ahead."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One evenly spaced series.

    Attributes:
        summary: What it is, and where it comes from.
        season: Steps after which it repeats itself, for the seasonal naive forecast.
        package: The installed package that brings the file.
        file: The file inside the package's folder: numbers in reading order.
    """

    summary: str
    season: int
    package: str
    file: str


SERIES: dict[str, Series] = {
    "sunspots": Series(
        summary="monthly mean sunspot numbers 1749-1983 (2,820 months; from pmdarima, MIT)",
        season=132,  # the solar cycle, about eleven years
        package="pmdarima",
        file="datasets/data/sunspots.txt.gz",
    ),
}


def load_series(name: str) -> Floats:
    """Return the values of a series, oldest first, shape (time,).

    Raises:
        FileNotFoundError: The package that brings it is not installed.
    """
    series = SERIES[name]
    spec = importlib.util.find_spec(series.package)  # finds it without importing it
    path = Path(spec.origin).parent / series.file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"The data set '{name}' comes with the package {series.package}, which is not "
            f"installed; run: pip install {series.package}"
        )
    return np.loadtxt(path, dtype=np.float32).ravel()


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
