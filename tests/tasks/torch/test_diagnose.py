"""Each classic mistake is named, a healthy network is told nothing, and training stays as it is."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hypertune import classification, forecasting, regression
from hypertune.core.space import Config
from hypertune.data import DataSet, Samples
from hypertune.models import CNN, MLP, Recurrent
from hypertune.tasks.torch.diagnose import Diagnosis, Diagnostician, look_inside
from hypertune.tasks.torch.loop import TensorLoop

CONFIG: Config = {
    "max_epochs": 6,
    "seed": 0,
    "device": "cpu",
    "batch_size": 16,
    "learning_rate": 0.01,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def blobs(n_classes: int = 3) -> DataSet:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(300) % n_classes)
    x = (2.0 * np.eye(8)[y] + rng.normal(size=(300, 8))).astype(np.float32)
    samples = Samples(x=x, y=y, classes=tuple("abcdefg"[:n_classes]))
    return DataSet(
        summary="made",
        split="random",
        find=lambda: Path("made"),
        read=lambda path: samples,
        n_classes=n_classes,
        shape=(8,),
    )


class Net(nn.Module):
    """A network of which each test changes one thing."""

    def __init__(self, n_features: int, n_outputs: int, mistake: str = "", n_layers: int = 2):
        super().__init__()
        self.mistake = mistake
        act = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh}.get(mistake, nn.ReLU)
        sizes = [n_features] + [16] * n_layers
        self.layers = nn.Sequential()
        for a, b in itertools.pairwise(sizes):
            self.layers.extend([nn.Linear(a, b), act()])
        self.head = nn.Linear(16, n_outputs)
        self.spare = nn.Linear(16, n_outputs) if mistake == "spare" else None
        for name, p in self.named_parameters():
            if mistake == "zero" or (mistake == "dead" and name == "layers.0.bias"):
                nn.init.constant_(p, 0.0 if mistake == "zero" else -50.0)
            elif mistake == "huge" and name == "head.weight":
                p.data.mul_(1e6)
            elif mistake == "tanh":
                p.data.mul_(100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mistake == "unscaled":
            x = x * 64 + 128
        states = self.layers(x)
        if self.mistake == "detached":
            states = states.detach()
        outputs: torch.Tensor = self.head(states)
        if self.mistake == "softmax":
            outputs = outputs.softmax(dim=1)
        return outputs.sigmoid() if self.mistake == "squashed" else outputs


def started(task: Any, **changes: Any) -> TensorLoop:
    config = {**CONFIG, **changes}
    loop: TensorLoop = task.start(config, task.load(test=False), metric=task.metrics[1], mode="min")
    return loop


def diagnosed(loop: TensorLoop, n_epochs: int = 4) -> Diagnosis:
    inside = Diagnostician(loop)
    inside.look()
    for _ in range(n_epochs):
        loop.step()
        inside.look()
    return inside.last


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mistake": "softmax"}, ["softmax before cross-entropy: the model's outputs are"]),
        ({"mistake": "unscaled"}, ["unscaled inputs: what reaches 'layers.0' has a root mean"]),
        ({"mistake": "spare"}, ["weights that never change: no gradient reaches 'spare.weight'"]),
        (
            {"mistake": "detached"},
            ["weights that never change: no gradient reaches 'layers.0.weight', 'layers.0.bias'"],
        ),
        (
            {"mistake": "zero"},
            ["weights that never change: 4 epochs left 'layers.0.weight', 'layers.2.weight', "
             "'head.weight' as they were (their gradients are exactly 0)", "not learning: after 4"],
        ),
        ({"mistake": "sigmoid", "n_layers": 12}, ["vanishing: the gradient of the first layer "
                                                  "'layers.0' is ", "not learning: after 4 ep"]),
        ({"mistake": "tanh"}, ["saturated: "]),
        ({"mistake": "dead"}, ["dead units: 100% of 'layers.0' get no gradient from any sample"]),
        ({"learning_rate": 1e-9}, ["not learning: after 4 epochs the loss on training samples is"]),
        ({"mistake": "huge", "optimizer": "sgd", "learning_rate": 1e-9},
         ["exploding: the gradient of 'layers.", "exploding: the outputs of 'head' have a root"]),
    ],
)  # fmt: skip
def test_each_mistake_is_named(changes: dict[str, Any], expected: list[str]) -> None:
    findings = diagnosed(started(classification(blobs(), model=Net), **changes)).findings

    for start in expected:
        assert any(text.startswith(start) for text in findings), findings


def test_sigmoid_before_the_loss_is_named_for_two_classes() -> None:
    (finding,) = diagnosed(
        started(classification(blobs(2), model=Net), mistake="squashed")
    ).findings
    assert finding.startswith("sigmoid before the loss: the model's outputs are all between 0 and")


HEALTHY: dict[str, Callable[[], TensorLoop]] = {
    "mlp": lambda: started(classification(blobs(), model=Net)),
    "two classes": lambda: started(classification("breast_cancer", model=MLP)),
    "numbers": lambda: started(regression("diabetes", model=MLP), dropout=0.5),
    "batch norm": lambda: started(
        classification("digits", model=CNN, n_train=300), dropout=0.5, n_blocks=3
    ),
    "deep": lambda: started(classification(blobs(), model=MLP), n_layers=4, norm="layer"),
    "tanh": lambda: started(classification("digits", n_train=300), activation="tanh"),
    "recurrent": lambda: started(
        forecasting("sunspots", horizon=12, max_window=24),
        **{"window": 24, "dropout": 0.2, "n_layers": 2, "hidden_size": 8, "batch_size": 128},
    ),
    "attention": lambda: started(
        classification("japanese_vowels", model=Recurrent), pooling="attention", clip_norm=1.0
    ),
    "overfitted": lambda: started(classification(blobs(), n_train=20), n_units=256),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_network_is_told_nothing(name: str) -> None:
    last = diagnosed(HEALTHY[name](), n_epochs=5)

    assert list(last.findings) == []
    assert last.epoch == 5
    assert all(layer.gradient_rms and layer.change for layer in last.layers)


@pytest.mark.parametrize("name", ["batch norm", "recurrent", "numbers"])
def test_training_is_the_same_when_it_is_looked_at(name: str) -> None:
    plain = HEALTHY[name]()
    curve = [dict(plain.step()) for _ in range(3)]
    looked_at = HEALTHY[name]()
    inside = Diagnostician(looked_at)

    for metrics in curve:
        inside.look()
        assert dict(looked_at.step()) == metrics


def test_layers_are_told_as_they_are() -> None:
    loop = started(classification(blobs(), model=Net))
    model: Any = loop.model
    first = model.layers[0]
    with torch.no_grad():
        first.weight[:4] = 0.0
        first.bias[:4] = -1.0
        model.head.requires_grad_(False)
    inside = Diagnostician(loop)
    hidden, second, head = inside.look().layers

    assert [layer.name for layer in (hidden, second, head)] == ["layers.0", "layers.2", "head"]
    assert hidden.zero_weights == 0.25
    assert hidden.dead_units is not None
    assert 0.25 <= hidden.dead_units < 0.5
    assert hidden.zero_outputs is not None
    assert hidden.zero_outputs >= 0.25  # behind the ReLU
    assert (head.frozen, head.gradient_rms, second.frozen) == (True, None, False)
    before = first.weight.detach().clone()
    loop.step()
    change = (first.weight.detach() - before).norm() / before.norm()
    assert inside.look().layers[0].change == pytest.approx(float(change), rel=1e-5)


def diverge(loop: TensorLoop) -> None:
    for _ in range(3):
        loop.step()


def test_failure_is_explained_by_what_was_seen_before() -> None:
    loop = started(classification(blobs(), model=Net), learning_rate=1e30, optimizer="sgd")
    inside = Diagnostician(loop)
    inside.look()
    with pytest.raises(FloatingPointError):
        diverge(loop)
    (finding,) = inside.after_failure()

    assert finding.startswith("exploding: the weights of 'layers.0.weight'")
    assert "a lower learning rate, or clip_norm" in finding


def test_look_leaves_nothing_behind() -> None:
    loop = started(classification(blobs(), model=Net))
    seen = look_inside(loop)

    assert set(seen.outputs) == {"layers.0", "layers.1", "layers.2", "layers.3", "head"}
    assert all(not module._forward_hooks for module in loop.model.modules())
    assert all(p.grad is None for p in loop.model.parameters())
