"""Real learning curves that `verdicts.py` resamples, and how they were recorded.

    python benchmarks/verdict_curves.py            # train them again: some minutes on a core

MLPs on digits, as the project's own studies train them: 64 configs (learning rate, units, dropout;
Sobol points of `SPEC`), each with four optimizers and three seeds, 27 epochs. What is kept is the
validation loss after each epoch, in ``verdict_curves.npz``: ``losses`` of shape (optimizer, config,
seed, epoch) and ``points`` of shape (config, parameter) in the unit cube.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from scipy.stats import qmc

from hypertune.core.space import Space

FILE = Path(__file__).with_suffix(".npz")
OPTIMIZERS = ("sgd", "nesterov", "adam", "rmsprop")
SPEC: dict[str, Any] = {
    "lr": tune.loguniform(1e-3, 1e-1),
    "units": tune.lograndint(8, 129),
    "dropout": tune.uniform(0.0, 0.5),
}
N_CONFIGS, N_SEEDS, MAX_EPOCHS = 64, 3, 27


def record() -> None:
    """Train them all, and write the file."""
    import torch

    from hypertune import classification

    torch.set_num_threads(1)
    space = Space(SPEC)
    points = qmc.Sobol(len(SPEC), rng=np.random.default_rng(0)).random(N_CONFIGS)
    task = classification("digits", val_share=0.25, test_share=0.25)
    data = task.load(test=False)
    shape = (len(OPTIMIZERS), N_CONFIGS, N_SEEDS, MAX_EPOCHS)
    losses = np.full(shape, np.nan, dtype=np.float32)
    places = {p.key: k for k, p in enumerate(space.parameters)}
    for c, point in enumerate(points):
        flat = {p.key: p.from_unit(float(point[places[p.key]])) for p in space.parameters}
        for o, optimizer in enumerate(OPTIMIZERS):
            for seed in range(N_SEEDS):
                config = {
                    "optimizer": optimizer,
                    "learning_rate": flat["lr"],
                    "n_units": flat["units"],
                    "dropout": flat["dropout"],
                    "n_layers": 2,
                    "batch_size": 64,
                    "max_epochs": MAX_EPOCHS,
                    "seed": seed,
                    "device": "cpu",
                }
                loop = task.start(config, data, metric="val_loss", mode="min")
                for epoch in range(MAX_EPOCHS):
                    losses[o, c, seed, epoch] = loop.step()["val_loss"]
        print(f"{c + 1} of {N_CONFIGS} configs", file=sys.stderr, flush=True)
    np.savez_compressed(FILE, losses=losses, points=points.astype(np.float32))


if __name__ == "__main__":
    record()
