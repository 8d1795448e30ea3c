"""A class of one's own: is heavy shrinkage worth its bias? Diabetes, least squares by gradient.

    python hypertune.py --space search_spaces/examples/stepwise.py

Data: ten measurements of 442 patients, and how far the disease had gone a year later; 60 % train,
20 % validate, 20 % are the test part.
Budget: 12 trials of up to 27 steps of no time at all: the start of Ray is what takes the time.
"""

from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from sklearn.datasets import load_diabetes

from hypertune import Study


class GradientDescent:
    test_metrics = {"val_mae": "test_mae"}  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        x, y = load_diabetes(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        self.x, self.y = x[order] / x.std(), y[order]
        self.rate, self.penalty = config["learning_rate"], config["penalty"]
        self.weights, self.offset = np.zeros(x.shape[1]), self.y[:265].mean()

    def step(self) -> dict[str, float]:
        x, error = self.x[:265], self._errors(slice(0, 265))
        self.weights -= self.rate * (x.T @ error / len(x) + self.penalty * self.weights)
        return {"val_mae": self._mae(slice(265, 353))}

    def _errors(self, rows: slice) -> Any:
        return self.x[rows] @ self.weights + self.offset - self.y[rows]

    def _mae(self, rows: slice) -> float:
        return float(np.abs(self._errors(rows)).mean())

    def save(self, folder: Path) -> None:
        np.save(folder / "weights.npy", self.weights)

    def load(self, folder: Path) -> None:
        self.weights = np.load(folder / "weights.npy")

    def test(self) -> dict[str, float]:
        return {"test_mae": self._mae(slice(353, None))}


study = Study(
    question="Is heavy shrinkage worth its bias?",
    factors=("penalty",),
    space={
        "penalty": tune.loguniform(1e-4, 1.0),
        "learning_rate": tune.loguniform(1e-2, 1.0),
    },
    default={"penalty": 1e-3, "learning_rate": 0.3},
    trainable=GradientDescent,
    metric="val_mae",
    mode="min",
    max_epochs=27,
    n_trials=12,
)
