"""A function of one's own: does momentum make up for a badly chosen learning rate? Digits, an MLP.

    python hypertune.py --space search_spaces/examples/function.py

Data: 1,797 images of 8 x 8 digits, of which 1,200 train and 300 validate; the rest is left alone.
Budget: 12 trials of up to 9 epochs of a few hundredths of a second: about half a minute in all.
"""

from pathlib import Path
from typing import Any

import torch
from ray import tune
from sklearn.datasets import load_digits
from torch import nn

from hypertune import Study


def train(config: Any, report: Any) -> None:
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x = x.float() / 16
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, val = order[:1200], order[1200:1500]

    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config["learning_rate"], momentum=config["momentum"]
    )
    start = 1
    if report.checkpoint is not None:
        state = torch.load(report.checkpoint / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"] + 1

    for epoch in range(start, config["max_epochs"] + 1):
        for rows in torch.split(train[torch.randperm(len(train))], 32):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x[rows]), y[rows]))
            optimizer.step()
        with torch.no_grad():
            outputs = model(x[val])
        loss = nn.functional.cross_entropy(outputs, y[val])
        accuracy = (outputs.argmax(dim=1) == y[val]).float().mean()

        def save(folder: Path, epoch: int = epoch) -> None:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch,
            }
            torch.save(state, folder / "state.pt")

        report(epoch=epoch, val_loss=loss, val_accuracy=accuracy, save=save)


study = Study(
    question="Does momentum make up for a badly chosen learning rate?",
    factors=("momentum", "learning_rate"),
    space={
        "momentum": tune.choice([0.0, 0.5, 0.9]),
        "learning_rate": tune.loguniform(1e-3, 1.0),
    },
    default={"momentum": 0.9, "learning_rate": 0.05},
    trainable=train,
    metric="val_loss",
    mode="min",
    max_epochs=9,
    n_trials=12,
)
