"""A study without training, whose trials do what their config says: what the engine is tried on."""

import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from hypertune import Study
from hypertune.core.space import Config, Space


class ToyLoop:
    def __init__(self, config: Config) -> None:
        self.config, self.epoch, self.converged = config, 0, False

    def step(self) -> dict[str, float]:
        time.sleep(self.config["sleep_s"])
        self.epoch += 1
        getattr(self, "_" + self.config["do"])()
        loss = self.config["x"] + 1 / self.epoch
        if self.config["do"] == "late":
            loss = 5.0 - 0.6 * self.epoch
        if self.config["do"] == "lucky" and self.config["seed"] == 0:
            loss -= 1.0
        loss = float("nan") if self.config["do"] == "nan" and self.epoch == 2 else loss
        metrics = {"loss": loss, "pid": float(os.getpid()), "seed": float(self.config["seed"])}
        if self.config["do"] == "missing":
            del metrics["loss"]
        return metrics

    def _fine(self) -> None:
        return

    _nan = _missing = _late = _lucky = _fine

    def _together(self) -> None:
        """Wait until two workers have begun."""
        folder = Path(self.config["marker"])
        (folder / f"worker-{os.getpid()}").touch()
        while len(list(folder.glob("worker-*"))) < 2:
            time.sleep(0.01)

    def _fail(self) -> None:
        raise ValueError(f"no such luck in epoch {self.epoch}")

    def _unlucky(self) -> None:
        if self.config["seed"] == 0:
            raise ValueError("no luck with this seed")

    def _converge(self) -> None:
        self.converged = self.epoch == 2

    def _hang(self) -> None:
        if self.epoch == 2:
            time.sleep(600)

    def _freeze(self) -> None:
        if self.epoch == 2:
            os.kill(os.getpid(), signal.SIGSTOP)

    def _die(self) -> None:
        if self.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def _crowded(self) -> None:
        had = ray.get_runtime_context().get_assigned_resources()
        if self.epoch == 2 and had.get("GPU", 1) < 1:
            raise MemoryError("others have taken it")

    def _die_once(self) -> None:
        marker = Path(self.config["marker"])
        if self.epoch == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def save(self, folder: Path) -> None:
        (folder / "state.json").write_text(json.dumps(self.epoch))

    def load(self, folder: Path) -> None:
        self.epoch = json.loads((folder / "state.json").read_text())

    def test(self, data: Any) -> dict[str, float]:
        return {"test_loss": self.config["x"] + data["test"]}


@dataclass(frozen=True)
class Toy:
    metrics: tuple[str, ...] = ("loss", "pid", "seed")
    test_metrics: Mapping[str, str] = field(default_factory=lambda: {"loss": "test_loss"})
    data: str = "nothing"

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        return []

    def load(self, *, test: bool) -> dict[str, float]:
        return {"test": 100.0} if test else {}

    def start(self, config: Config, data: Any, *, metric: str, mode: str) -> ToyLoop:
        assert "test" not in data or self.data == "never"  # the search never sees the test part
        return ToyLoop(config)

    def baselines(self, data: Any, *, test: bool) -> dict[str, dict[str, float]]:
        return {"one": {"test_loss": 101.0} if test else {"loss": 1.0}}


study = Study(
    question="Does anything get lost?",
    factors=("x",),
    space={"x": tune.uniform(0, 1), "do": tune.choice(["fine"])},
    default={"x": 0.5, "do": "fine"},
    fixed={"sleep_s": 0.0, "marker": ""},
    trainable=Toy(),
    metric="loss",
    max_epochs=9,
    n_trials=6,
)
