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

from hypertune.core.errors import choices, shown
from hypertune.core.space import Config, Space
from hypertune.core.task import Loop, Task
from hypertune.core.text import metric_names
from hypertune.tasks.torch.loop import Predictions

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
        if isinstance(value, list | tuple):
            return type(value)(copy(item) for item in value)
        return value

    copied: OwnConfig = copy(config)
    return copied


class OwnLoop(ABC):
    """A trial in a user's own code.

    Attributes:
        epoch: Epochs reported so far.
        saves: When `save` may be called.
        predictions: Those of the model on the test sets, once it was tested, where they are known.
        note: What is to be said of how it ended, besides.
    """

    epoch = 0
    note = ""
    saves: Saves = "never"
    predictions: Mapping[str, Predictions] = {}

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

    def finish(self, wait_s: float | None) -> bool:
        """Let the user's code end by itself after the last epoch of a trial in full.

        Args:
            wait_s: Seconds to wait for it; None for as long as it takes.

        Returns:
            Whether it has ended; else this may be called again. What it raises is raised here.
        """
        return True

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
        taken: Names that no metric can have, since they mean something else in a report.
    """

    metrics: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
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
    from hypertune.tasks.function import Function
    from hypertune.tasks.stepper import Stepwise

    if isinstance(trainable, nn.Module):
        return trainable
    if not inspect.isclass(trainable):
        return Function(trainable)
    if issubclass(trainable, nn.Module) or not callable(getattr(trainable, "step", None)):
        return trainable
    return Stepwise(trainable)


def as_metrics(values: Any) -> dict[str, float]:
    """Return what a user's code reports as plain numbers by name.

    Names are as they are recorded: UTF-8 without NUL. Numbers are all that ``float()`` takes, such
    as numpy's and torch's, a bool or a Decimal; text is none, though ``float()`` takes it: it comes
    of a mistake.

    Raises:
        TypeError: It is no dict, a name is no text, or a value is no number.
        ValueError: A name is too long, or two are recorded as one.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"metrics must be a dict of numbers by name, but got {shown(values)}")
    metrics = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(f"names of metrics must be text, but got {shown(name)}")
        metrics[str.__str__(name)] = _number(name, value)
    names = metric_names(metrics)
    return {names[name]: value for name, value in metrics.items()}


def _number(name: str, value: Any) -> float:
    try:
        plain = value.item() if hasattr(value, "item") else value  # of numpy's and torch's
        number = None if isinstance(plain, str | bytes | bytearray) else float(plain)
    except OverflowError as error:
        raise TypeError(
            f"{name} must be a number up to 1.8e308, which a float can hold, but got {shown(value)}"
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number, but got {shown(value)}") from error
    if number is None:
        raise TypeError(
            f"{name} must be a number, but got the text {shown(plain)}: convert it with float(...) "
            "before it is reported"
        )
    return number


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
