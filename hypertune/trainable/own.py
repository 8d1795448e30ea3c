"""What tasks on a user's own code share: functions, classes, commands, estimators."""

import contextlib
import inspect
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from hypertune.errors import choices
from hypertune.space import Config, Space
from hypertune.study import Loop, Task
from hypertune.trainable.loop import Told

Saves = Literal["any time", "at the end", "never"]


class OwnConfig(dict[str, Any]):
    """A trial's config, which says what is near a key that it lacks. It is pickled as a dict."""

    def __missing__(self, key: object) -> Any:
        raise KeyError(_Text(f"'{key}' is not in the config.{choices(key, list(self))}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _Text(str):
    """A KeyError shows the representation of what it is given."""

    def __repr__(self) -> str:
        return str(self)


def own_config(config: Config) -> OwnConfig:
    """Return a copy of a config for a user's own code."""

    def copy(value: Any) -> Any:
        if isinstance(value, Mapping):
            return OwnConfig({key: copy(item) for key, item in value.items()})
        return [copy(item) for item in value] if isinstance(value, list) else value

    copied: OwnConfig = copy(config)
    return copied


class OwnLoop(ABC):
    """A trial in a user's own code.

    Attributes:
        epoch: Epochs reported so far.
        saves: When `save` may be called.
        told: What the model said of the test sets, once it was tested, where that is known.
    """

    epoch = 0
    saves: Saves = "never"
    told: Mapping[str, Told] = {}

    @property
    def converged(self) -> bool:
        return False

    @abstractmethod
    def step(self) -> Mapping[str, float]: ...

    def save(self, folder: Path) -> None:
        """Write the epoch; what else there is goes into `state`."""
        (folder / "epoch.json").write_text(json.dumps(self.epoch))
        state_folder(folder).mkdir()

    def load(self, folder: Path) -> None:
        self.epoch = json.loads((folder / "epoch.json").read_text())

    def test(self, data: Any) -> Mapping[str, float]:
        raise NotImplementedError  # a task without test metrics is never asked

    def close(self) -> None:
        """End what goes on outside of `step`. More than once is allowed."""
        return


class OwnTask(ABC):
    """A task on a user's own code, which loads its data itself.

    Attributes:
        saves: Whether a promoted trial goes on from a checkpoint; else it trains again from the
            start.
    """

    metrics: tuple[str, ...] = ()
    test_metrics: Mapping[str, str] = {}
    saves = True

    @property
    @abstractmethod
    def data(self) -> str: ...

    @abstractmethod
    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]: ...

    @abstractmethod
    def start(self, config: Config, data: Any, *, metric: str, mode: str) -> OwnLoop: ...

    def load(self, *, test: bool) -> Any:
        return None

    def baselines(self, data: Any, *, test: bool) -> Mapping[str, Mapping[str, float]]:
        return {}


def own_task(trainable: Callable[..., Any]) -> Any:
    """Return the task that a function or a class stands for; what is none of them as it is."""
    from hypertune.trainable.function import Function
    from hypertune.trainable.stepwise import Stepwise

    if isinstance(trainable, nn.Module):
        return trainable
    if not inspect.isclass(trainable):
        return Function(trainable)
    if issubclass(trainable, nn.Module) or not callable(getattr(trainable, "step", None)):
        return trainable
    return Stepwise(trainable)


@contextlib.contextmanager
def ended(loop: Loop) -> Iterator[None]:
    """End what a loop has going on outside of its steps, however this is left."""
    try:
        yield
    finally:
        if isinstance(loop, OwnLoop):
            loop.close()


def saves(task: Task) -> bool:
    """Say whether a promoted trial goes on from a checkpoint."""
    return not isinstance(task, OwnTask) or task.saves


def state_folder(folder: Path) -> Path:
    """Return where, in a checkpoint, the user's own files are."""
    return folder / "state"


def set_seeds(seed: int) -> None:
    """Set the generators that a user's own code may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002, theirs
    torch.manual_seed(seed)


def takes(function: Callable[..., Any], *names: str) -> bool:
    """Say whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*names)
    except TypeError:
        return False
    except ValueError:  # some of those that are written in C have no signature
        return True
    return True
