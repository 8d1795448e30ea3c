"""A user's own class with ``step()`` as a task.

Example:
    class Trial:
        def __init__(self, config): ...  # plain values, nested as the space is; a copy
        def step(self): ...  # train an epoch; return a dict of metrics
        def save(self, folder): ...  # optional, with load
        def load(self, folder): ...
        test_metrics = {"val_loss": "test_loss"}  # optional, with test
        def test(self): ...
        converged = False  # optional: more epochs would not help
        @staticmethod
        def sizes(config): ...  # optional: for constraints; a dict of numbers, without training
        def close(self): ...  # optional
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypertune.core.errors import shown
from hypertune.core.space import Config, Space
from hypertune.tasks.user_code import OwnLoop, OwnTask, own_config, set_seeds, state_folder, takes


@dataclass(frozen=True)
class Stepwise(OwnTask):
    """The task of a class with ``step()``."""

    kind: type

    @property
    def data(self) -> str:
        return f"loaded by {self.kind.__name__}"

    @property
    def saves(self) -> bool:  # type: ignore[override]
        """Whether the class has ``save``."""
        return hasattr(self.kind, "save")

    @property
    def test_metrics(self) -> Mapping[str, str]:  # type: ignore[override]
        """The class's own."""
        return getattr(self.kind, "test_metrics", {}) if hasattr(self.kind, "test") else {}

    def sizes(self, config: Config) -> Mapping[str, float]:
        """Return what the class knows of a config's sizes."""
        sizes = getattr(self.kind, "sizes", None)
        return {} if sizes is None else dict(sizes(own_config(config)))

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        kind, name = self.kind, self.kind.__name__
        has = {key: hasattr(kind, key) for key in ("save", "load", "test", "test_metrics")}
        problems = []
        if not takes(kind, "config"):
            problems.append(f"{name} must take one argument, (config)")
        if has["save"] != has["load"]:
            problems.append(f"{name} must have save(folder) and load(folder), or none of them")
        if has["test"] != has["test_metrics"] or (
            has["test"] and not isinstance(kind.test_metrics, Mapping)  # type: ignore[attr-defined]
        ):
            problems.append(
                f"{name} must have test() and test_metrics, a dict such as "
                '{"val_loss": "test_loss"}, or none of them'
            )
        if has["test"] and not has["save"]:
            problems.append(f"{name} must have save and load for test(), which comes after the end")
        return problems

    def start(self, config: Config, data: Any, *, metric: str, mode: str) -> "StepwiseLoop":
        return StepwiseLoop(self.kind, config)


class StepwiseLoop(OwnLoop):
    """An instance of a class with ``step()``."""

    def __init__(self, kind: type, config: Config) -> None:
        set_seeds(config["seed"])
        self._seed = config["seed"]
        self.trial = kind(own_config(config))
        self.saves = "any time" if hasattr(kind, "save") else "never"

    @property
    def converged(self) -> bool:
        return bool(getattr(self.trial, "converged", False))

    def step(self) -> Mapping[str, float]:
        metrics = self.trial.step()
        if not isinstance(metrics, Mapping):
            raise TypeError(f"step() must return a dict of metrics, but returned {shown(metrics)}")
        self.epoch += 1
        return metrics

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.trial.save(state_folder(folder))

    def load(self, folder: Path) -> None:
        super().load(folder)
        set_seeds(self._seed + self.epoch)  # not again what was drawn at the start
        self.trial.load(state_folder(folder))

    def test(self, data: Any) -> Mapping[str, float]:
        metrics: Mapping[str, float] = self.trial.test()
        return metrics

    def close(self) -> None:
        if hasattr(self.trial, "close"):
            self.trial.close()
