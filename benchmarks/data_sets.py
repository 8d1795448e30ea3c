"""How good are simple models, and a plain network, on each data set? And what does an epoch cost?

    python benchmarks/data_sets.py                     # some minutes on an idle core
    python benchmarks/data_sets.py --seeds 3 --only digits,watch
    python benchmarks/data_sets.py --overhead          # epochs, beside a bare loop

The first table: for each data set, one network of moderate size with settings that nobody searched
for, trained with several seeds (of the initial weights and the order; the split is the same), and
judged on the test part at its best epoch by validation. Beside it, the baselines on the same part.

The second: the CPU time that an epoch of the training loop takes, over what it takes in a loop
written by hand for the same model, data, optimizer and metrics; medians of interleaved epochs.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hypertune import classification, forecasting, regression, transfer
from hypertune.models import CNN, Recurrent, sequence_model
from hypertune.tasks.torch.loop import TensorLoop


@dataclass(frozen=True)
class Reference:
    """A network for a data set.

    Attributes:
        task: The data and the kind of question.
        metric: What the best epoch is told by, without its part.
        mode: Whether ``min`` or ``max`` of it is good.
        shown: What the table shows, without its part.
        config: Settings of loop and model.
        published: What others report on the same data, and on which split.
    """

    task: Any
    metric: str
    mode: str
    shown: str
    config: dict[str, Any] = field(default_factory=dict)
    published: str = ""


SVC = ".97 (SVC, scikit-learn's example: the first half against the second)"
VOWELS = ".962 (HMM), .941 (Kudo et al. 1999; this split)"
WATCH = ".873 (random forest, Burns et al. 2018, arXiv 1802.01489v1; five folds by subject)"
FEW = transfer("mnist_5000", val_share=0.03, test_share=0.1, n_train=200)
GRU: dict[str, Any] = {"hidden_size": 64, "learning_rate": 3e-3, "clip_norm": 1.0}
WINDOW: dict[str, Any] = {**GRU, "window": 48, "batch_size": 128, "max_epochs": 27}
REFERENCES: dict[str, Reference] = {
    "digits": Reference(
        classification("digits", val_share=0.25, test_share=0.25), "loss", "min", "accuracy",
        {"max_epochs": 40}, SVC,
    ),
    "digits-cnn": Reference(
        classification("digits", model=CNN, val_share=0.25, test_share=0.25),
        "loss",
        "min",
        "accuracy",
        {"max_epochs": 40, "learning_rate": 1e-2, "schedule": "cosine"},
        SVC,
    ),
    "mnist_5000": Reference(
        classification("mnist_5000"), "accuracy", "max", "accuracy",
        {"max_epochs": 27, "n_units": 256, "dropout": 0.3},
    ),
    "mnist_5000-cnn": Reference(
        classification("mnist_5000", model=CNN),
        "accuracy",
        "max",
        "accuracy",
        {"max_epochs": 9, "n_blocks": 3, "learning_rate": 1e-2, "schedule": "cosine"},
    ),
    "mnist_200-frozen": Reference(
        FEW, "loss", "min", "accuracy",
        {"max_epochs": 40, "weights": "frozen", "image_size": 64, "batch_size": 16,
         "learning_rate": 3e-3},
    ),
    "mnist_200-fine-tuned": Reference(
        FEW, "loss", "min", "accuracy",
        {"max_epochs": 8, "weights": "fine-tuned", "image_size": 64, "batch_size": 16,
         "learning_rate": 1e-3},
    ),
    "breast_cancer": Reference(
        classification("breast_cancer"), "loss", "min", "accuracy", {"max_epochs": 40},
        ".975 (separating plane, Wolberg et al. 1995; ten folds, repeated)",
    ),
    "japanese_vowels": Reference(
        classification("japanese_vowels", model=Recurrent, val_share=0.3),
        "loss",
        "min",
        "accuracy",
        {**GRU, "batch_size": 32, "max_epochs": 60},
        VOWELS,
    ),
    "japanese_vowels-conv": Reference(
        classification("japanese_vowels", model=sequence_model, val_share=0.3),
        "loss",
        "min",
        "accuracy",
        {**GRU, "architecture": "conv", "n_layers": 2, "batch_size": 32, "max_epochs": 60},
        VOWELS,
    ),
    "watch": Reference(
        classification("watch", model=Recurrent), "accuracy", "max", "accuracy",
        {**GRU, "max_epochs": 20, "dropout": 0.2}, WATCH,
    ),
    "watch-conv": Reference(
        classification("watch", model=sequence_model), "accuracy", "max", "accuracy",
        {**GRU, "architecture": "conv", "n_layers": 3, "max_epochs": 20, "dropout": 0.2},
        WATCH,
    ),
    "diabetes": Reference(
        regression("diabetes"), "rmse", "min", "rmse_ratio",
        {"max_epochs": 60, "n_units": 32, "n_layers": 1},
    ),
    "sunspots": Reference(
        forecasting("sunspots", horizon=12, max_window=132), "mae_ratio", "min", "mae_ratio", WINDOW
    ),
    "electricity": Reference(
        forecasting("electricity", horizon=12, max_window=132), "mae_ratio", "min", "mae_ratio",
        WINDOW,
    ),
}  # fmt: skip


def started(reference: Reference, data: Any, seed: int) -> TensorLoop:
    """Return the loop of a reference."""
    config = {**reference.config, "seed": seed, "device": "cpu"}
    metric = f"val_{reference.metric}"
    loop: TensorLoop = reference.task.start(config, data, metric=metric, mode=reference.mode)
    return loop


def scores(name: str, n_seeds: int) -> str:
    """Return a row of the first table."""
    reference = REFERENCES[name]
    whole = reference.task.load(test=True)
    baselines = reference.task.baselines(whole, test=True)
    shown, found = f"test_{reference.shown}", []
    for seed in range(n_seeds):
        loop = started(reference, whole, seed)
        for _ in range(reference.config["max_epochs"]):
            loop.step()
        found.append(loop.test(whole)[shown])
    simple = ", ".join(f"{label} {values[shown]:.3f}" for label, values in baselines.items())
    spread = statistics.stdev(found) if len(found) > 1 else float("nan")
    return (
        f"| {name} | {reference.shown} | {simple} | {statistics.mean(found):.3f} ± {spread:.3f} | "
        f"{reference.published} |"
    )


class BareLoop:
    """What one would write by hand: the same model, batches, optimizer and metrics."""

    def __init__(self, loop: TensorLoop) -> None:
        self.model, self.loss, self.validate = loop.model, loop.loss, loop.validate
        self.x, self.lengths, self.y = loop.train.x, loop.train.lengths, loop.y
        self.val_x, self.val_lengths = loop.val.x, loop.val.lengths
        self.n_batches, self.clip_norm = loop.n_batches, loop.clip_norm
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)

    def step(self) -> None:
        self.model.train()
        total = 0.0
        for rows in torch.tensor_split(torch.randperm(len(self.x)), self.n_batches):
            if self.lengths is None:
                outputs = self.model(self.x[rows])
            else:
                lengths = self.lengths[rows]
                outputs = self.model(self.x[rows][:, : lengths.max()], lengths)
            loss = self.loss(outputs, self.y[rows])
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.optimizer.step()
            total += loss.item() * len(rows)
        self.model.eval()
        with torch.no_grad():
            extra = () if self.val_lengths is None else (self.val_lengths,)
            self.validate(self.model(self.val_x, *extra))


def overhead(name: str, n_epochs: int) -> str:
    """Return a row of the second table."""
    reference = REFERENCES[name]
    data = reference.task.load(test=False)
    ours, bare = started(reference, data, 0), BareLoop(started(reference, data, 0))
    seconds: dict[Any, list[float]] = {ours: [], bare: []}
    for epoch in range(n_epochs + 2):
        for loop in (ours, bare) if epoch % 2 else (bare, ours):
            begun = time.process_time()
            loop.step()
            seconds[loop] += [time.process_time() - begun] if epoch >= 2 else []
    a, b = (statistics.median(seconds[loop]) for loop in (ours, bare))
    return f"| {name} | {1e3 * a:.1f} | {1e3 * b:.1f} | {a / b:.3f} |"


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each network")
    parser.add_argument("--only", default=",".join(REFERENCES), help="rows, with commas between")
    parser.add_argument("--overhead", action="store_true", help="measure epochs instead")
    parser.add_argument("--epochs", type=int, default=40, help="epochs to measure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in REFERENCES]:
        parser.error(f"unknown '{unknown[0]}'; choose from {', '.join(REFERENCES)}")
    if options.overhead:
        print("| data, network | CPU ms an epoch | by hand | ratio |\n|---|---|---|---|")
    else:
        print(f"| data, network | metric | baselines | {options.seeds} seeds | published |")
        print("|---|---|---|---|---|")
    for name in names:
        row = overhead(name, options.epochs) if options.overhead else scores(name, options.seeds)
        print(row, flush=True)


if __name__ == "__main__":
    main()
