"""A Keras 3 model on the PyTorch backend: does dropout pay in a small network? Digits, a CNN.

    pip install -e ".[keras]"
    python hypertune.py --space search_spaces/examples/keras_cnn.py

Data: 1,797 images of 8 x 8 digits: 1,200 train, 300 validate, and the rest is the test part.
Budget: 12 trials of up to 9 epochs of about a second: about a minute and a half in all.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from sklearn.datasets import load_digits

from hypertune import Study


class Trial:
    test_metrics = {"val_loss": "test_loss"}  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported: in the worker
        import keras

        keras.utils.set_random_seed(config["seed"])
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        self.x, self.y = x[order].reshape(-1, 8, 8, 1).astype("float32") / 16, y[order]
        self.model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(config["n_filters"], 3, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dropout(config["dropout"]),
                keras.layers.Dense(10),
            ]
        )
        self.model.compile(
            keras.optimizers.Adam(config["learning_rate"]),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    def step(self) -> dict[str, float]:
        self.model.fit(self.x[:1200], self.y[:1200], batch_size=32, verbose=0)
        return {f"val_{k}": v for k, v in self._judge(slice(1200, 1500)).items()}

    def _judge(self, rows: slice) -> dict[str, float]:
        scores: dict[str, float] = self.model.evaluate(
            self.x[rows], self.y[rows], verbose=0, return_dict=True
        )
        return scores

    def save(self, folder: Path) -> None:
        self.model.save(folder / "model.keras")

    def load(self, folder: Path) -> None:
        import keras

        self.model = keras.models.load_model(folder / "model.keras")

    def test(self) -> dict[str, float]:
        return {"test_loss": self._judge(slice(1500, None))["loss"]}


study = Study(
    question="Does dropout pay in a small network?",
    factors=("dropout",),
    space={
        "dropout": tune.uniform(0.0, 0.6),
        "n_filters": tune.choice([4, 8, 16]),
        "learning_rate": tune.loguniform(1e-3, 3e-2),
    },
    default={"dropout": 0.0, "n_filters": 8, "learning_rate": 0.01},
    trainable=Trial,
    metric="val_loss",
    mode="min",
    max_epochs=9,
    n_trials=12,
)
