"""The learning-rate range test finds where the loss falls and rises."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from torch import nn

from hypertune import Study, cli
from hypertune.core.errors import SettingError
from hypertune.core.space import Space
from hypertune.studies.lr_range import figure, lr_range
from hypertune.studies.study import load_study
from hypertune.tasks.torch.loop import Inputs, TensorLoop, Tensors, TestResult


@dataclass(frozen=True)
class Quadratic:
    """Least squares by plain gradient: it diverges above 2 / curvature, and nowhere below."""

    metrics: tuple[str, ...] = ("train_loss",)
    test_metrics: Mapping[str, str] = field(default_factory=dict)
    data: str = "a line"

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        return []

    def load(self, *, test: bool) -> torch.Tensor:
        return torch.linspace(-1, 1, 64)[:, None]

    def start(self, config: Any, data: torch.Tensor, *, metric: str, mode: str) -> TensorLoop:
        x = data * math.sqrt(config["curvature"] / 2 / float((data**2).mean()))
        if config["nan"]:
            x = x * float("nan")
        return TensorLoop(
            lambda: nn.Linear(1, 1, bias=False),
            Tensors(
                train=Inputs(x),
                train_y=3 * x + _noise(len(x)),
                val=Inputs(x),
                validate=lambda outputs: {},
            ),
            loss=lambda outputs, y: ((outputs - y) ** 2).mean() * config["scale"],
            test=lambda predict, whole: TestResult(metrics={}, predictions={}),
            config=config,
            metric=metric,
            mode=mode,
        )

    def baselines(self, data: Any, *, test: bool) -> dict[str, dict[str, float]]:
        return {}


def _noise(n: int) -> torch.Tensor:
    return 0.3 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0))


def study(**fixed: Any) -> Study:
    return Study(
        question="Which rate?",
        factors=("curvature",),
        space={"curvature": tune.choice([1.0, 100.0])},
        default={"curvature": 1.0},
        fixed={"batch_size": 64, "optimizer": "sgd", "nan": False, "scale": 1.0, **fixed},
        trainable=Quadratic(),
        metric="train_loss",
        max_epochs=3,
        n_trials=2,
    )


@pytest.mark.parametrize("curvature", [1.0, 100.0])
def test_range_lies_below_where_a_quadratic_diverges(curvature: float) -> None:
    limit = 2 / curvature
    found = lr_range(study(), {"curvature": curvature}, low=1e-6, high=100.0, n_batches=400)

    assert found.config["curvature"] == curvature
    assert found.low is not None
    assert found.high is not None
    assert found.steepest is not None
    assert found.diverged is not None
    assert limit < found.diverged < 5 * limit
    assert 0.001 * limit < found.low < found.steepest < found.high < 1.3 * limit
    # The loss of a rising rate falls as exp(-2 curvature * sum of rates): fastest near this.
    per_batch = math.log(1e8) / 399
    assert found.steepest == pytest.approx(per_batch / curvature / 2, rel=0.5)
    assert found.line == f'"learning_rate": tune.loguniform({found.low:.1e}, {found.high:.1e}),'
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 400


def test_same_seed_gives_the_same_test() -> None:
    first, again = (lr_range(study(), {}, n_batches=50).losses for _ in range(2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, lr_range(study(), {}, n_batches=50, seed=1).losses)


@pytest.mark.parametrize(("fixed", "n"), [({"scale": 0.0}, 60), ({"nan": True}, 0)])
def test_no_range_where_nothing_is_learned(fixed: dict[str, Any], n: int) -> None:
    found = lr_range(study(**fixed), {}, n_batches=60)

    assert (found.low, found.steepest, found.high, found.line) == (None,) * 4
    assert len(found.losses) == n
    assert (found.diverged is None) == (n == 60)
    figure(found, "nothing")


def test_no_divergence_is_told() -> None:
    found = lr_range(study(), {}, high=0.1, n_batches=60)

    assert found.diverged is None
    assert found.high is not None
    assert len(found.rates) == 60


@pytest.mark.parametrize(
    ("given", "settings", "messages"),
    [
        ({"curvatur": 1.0}, {}, ["'curvatur' is neither in the space nor a fixed value"]),
        ({"curvature": 2.0}, {}, ["curvature must be one of 1.0, 100.0, but got 2.0"]),
        (
            {},
            {"low": 1.0, "high": 0.1, "n_batches": 3},
            ["0 < --low < --high must hold, but got 1 and 0.1.", "--n-batches must be at least 20"],
        ),
    ],
)
def test_odd_settings_are_an_error(
    given: dict[str, Any], settings: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(SettingError) as caught:
        lr_range(study(), given, **settings)
    said = str(caught.value).splitlines()
    assert all(text.startswith(start) for text, start in zip(said, messages, strict=True))


def test_task_with_a_loop_of_its_own_is_refused() -> None:
    own = Study(
        question="Which rate?",
        factors=("a",),
        space={"a": tune.choice([1, 2])},
        default={"a": 1},
        trainable=lambda config, report: None,
        metric="loss",
        max_epochs=1,
        n_trials=1,
    )
    with pytest.raises(SettingError, match="lr-range needs a task that trains by hypertune's loop"):
        lr_range(own, {})


def test_command_prints_a_line_to_paste_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "lr.html"
    settings = ["--set", "cell=lstm", "--set", "batch_size=256", "--n-batches", "120"]
    arguments = ["lr-range", "--space", "gru_window", *settings, "--picture", str(picture)]
    monkeypatch.setattr("sys.argv", ["hypertune", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()

    shown = capsys.readouterr().out
    assert caught.value.code in (0, None)
    assert "batch_size=256" in shown
    assert "cell=lstm" in shown
    assert "has a number in [0.0003, 0.03]" in shown
    line = next(text for text in shown.splitlines() if "tune.loguniform(" in text)
    domain = eval(line.strip().removesuffix(",").partition(": ")[2], {"tune": tune})
    assert 1e-6 < domain.lower < domain.upper < 10
    assert "plotly" in picture.read_text()
    assert load_study("gru_window").fixed["batch_size"] != 256
