"""A script as people have it: arguments, and a line of JSON an epoch. See `script.py`."""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, required=True)
    args = parser.parse_args()

    x, y = load_digits(return_X_y=True)
    x, targets = x / 16, np.eye(10)[y]
    order = np.random.default_rng(0).permutation(len(x))
    train, val = order[:1200], order[1200:1500]
    weights, start = np.zeros((64, 10)), 1
    saved = args.checkpoints / "state.npz"
    if saved.exists():
        state = np.load(saved)
        weights, start = state["weights"], int(state["epoch"]) + 1
        print(f"going on with epoch {start}")

    for epoch in range(start, args.epochs + 1):
        rng = np.random.default_rng([args.seed, epoch])
        for rows in np.array_split(rng.permutation(train), len(train) // args.batch_size):
            scores = np.exp(x[rows] @ weights)
            error = scores / scores.sum(axis=1, keepdims=True) - targets[rows]
            weights -= args.learning_rate * x[rows].T @ error / len(rows)
        accuracy = float((np.argmax(x[val] @ weights, axis=1) == y[val]).mean())
        # Said before it is saved: a script that is ended in between says it once more, which does
        # no harm; the other way round the epoch would never be heard of.
        print(json.dumps({"epoch": epoch, "val_accuracy": accuracy}))
        np.savez(args.checkpoints / "part.npz", weights=weights, epoch=epoch)
        (args.checkpoints / "part.npz").replace(saved)


if __name__ == "__main__":
    main()
