"""A user's own function ``train(config, report)`` as a task.

The function runs in a thread of the worker and stands still in ``report`` between two steps, so
that one step is one report, and the search decides after each one whether there is another.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import CodeType, FunctionType
from typing import Any

import torch

from hypertune.space import Config, Space
from hypertune.study import TrialEnded
from hypertune.trainable.own import (
    OwnLoop,
    OwnTask,
    own_config,
    set_seeds,
    state_folder,
    takes,
)

Save = Callable[[Path], object]
Train = Callable[[Any, Any], object]


class TrialStopped(BaseException):
    """Raised by ``report`` where the job ends. Let it pass; tidy up in ``finally``."""


@dataclass(frozen=True)
class Function(OwnTask):
    """The task of a function ``train(config, report)``."""

    train: Train

    @property
    def data(self) -> str:
        return f"loaded by {_name(self.train)}()"

    @property
    def saves(self) -> bool:  # type: ignore[override]
        """Whether the function passes ``save=``, as far as its code shows."""
        return any("save" in constants for constants in _tuples(self.train))

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        if takes(self.train, "config", "report"):
            return []
        return [f"{_name(self.train)}() must take two arguments, (config, report)"]

    def start(self, config: Config, data: Any, *, metric: str, mode: str) -> "FunctionLoop":
        return FunctionLoop(self.train, config)


class Report:
    """What a function reports its epochs to.

    Attributes:
        checkpoint: The folder that ``save`` wrote to, when this trial goes on after an earlier
            job; else None.
    """

    def __init__(self, loop: "FunctionLoop", checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint
        self._loop = loop
        self._process = os.getpid()

    def __call__(self, *, epoch: int, save: Save | None = None, **metrics: Any) -> None:
        """Report an epoch; return when the next one is due.

        Args:
            epoch: Its number. They are counted from 1, and reported one by one.
            save: Writes all that is needed to go on after this epoch into a folder, when called
                with it. Without it a promoted trial trains again from the start.
            metrics: Numbers by name, the study's metric among them.

        Raises:
            TrialStopped: The job ends here.
        """
        if os.getpid() != self._process:
            raise RuntimeError("report() must be called in the process that train() was called in")
        due = self._loop.epoch + 1
        if isinstance(epoch, bool) or epoch != due:
            raise ValueError(
                f"epochs must be counted from 1 and reported one by one: epoch={due} is next, but "
                f"got epoch={epoch!r}"
            )
        self._loop.reported(due, {k: _number(k, v) for k, v in metrics.items()}, save)


class FunctionLoop(OwnLoop):
    """A function in a thread of its own. It is either at work or waiting in ``report``."""

    def __init__(self, train: Train, config: Config) -> None:
        self._train, self._config = train, config
        self._checkpoint: Path | None = None
        self._thread: threading.Thread | None = None
        self._save: Save | None = None
        self._over = False  # it has returned, or raised
        # To the thread: a folder to save into, None to go on, or the exception to leave by.
        self._orders: SimpleQueue[Path | TrialStopped | None] = SimpleQueue()
        # From it: metrics; None for "saved" and for "returned"; or what was raised.
        self._answers: SimpleQueue[Mapping[str, float] | BaseException | None] = SimpleQueue()

    # ---- the worker's side ----

    def step(self) -> Mapping[str, float]:
        if self._over:
            raise TrialEnded
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="train", daemon=True)
            self._thread.start()
        else:
            self._orders.put(None)
        answer = self._answers.get()
        self._over = not isinstance(answer, Mapping)
        if isinstance(answer, BaseException):
            raise answer
        if answer is not None:
            return answer
        if self.epoch == 0:
            raise RuntimeError(f"{_name(self._train)}() returned without a report")
        raise TrialEnded

    def save(self, folder: Path) -> None:
        assert self._save is not None
        super().save(folder)
        if not self._over:
            self._orders.put(state_folder(folder))
            if (error := self._answers.get()) is not None:
                assert isinstance(error, BaseException)
                raise error
        else:  # the function has returned, and nothing has moved since
            self._save(state_folder(folder))

    def load(self, folder: Path) -> None:
        super().load(folder)
        self._checkpoint = state_folder(folder)

    def close(self) -> None:
        if self._thread is not None:
            self._orders.put(TrialStopped())
            self._thread.join()

    # ---- the function's side ----

    def _run(self) -> None:
        answer: BaseException | None = None
        try:
            # A trial that goes on must not draw again what it drew at its start.
            set_seeds(self._config["seed"] + self.epoch)
            torch.set_num_threads(torch.get_num_threads())  # some backends count by thread
            self._train(own_config(self._config), Report(self, self._checkpoint))
        except TrialStopped:
            return
        except BaseException as error:  # SystemExit too: it belongs to the trial
            answer = error
        self._answers.put(answer)

    def reported(self, epoch: int, metrics: Mapping[str, float], save: Save | None) -> None:
        """Hand over an epoch, and do as told until the next one is due."""
        self.epoch, self._save = epoch, save
        self.saves = "never" if save is None else "any time"
        self._answers.put(metrics)
        while True:
            order = self._orders.get()
            if order is None:
                return
            if isinstance(order, TrialStopped):
                self._orders.put(order)  # for a function that reports again all the same
                raise order
            try:
                assert save is not None
                save(order)
            except Exception as error:
                self._answers.put(error)
            else:
                self._answers.put(None)


def _name(function: Train) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, but got {value!r}") from error


def _tuples(function: Train) -> Iterator[tuple[Any, ...]]:
    """Yield the tuples of constants in a function's code, and in its module's that it calls.

    The names of keyword arguments are among them.
    """
    start = getattr(function, "func", function)  # a functools.partial
    start = start if isinstance(start, FunctionType) else type(start).__call__
    todo: list[Any] = [start]
    seen: set[int] = set()
    while todo:
        item = todo.pop()
        code = item if isinstance(item, CodeType) else getattr(item, "__code__", None)
        if code is None or id(code) in seen:
            continue
        seen.add(id(code))
        yield from (constant for constant in code.co_consts if isinstance(constant, tuple))
        todo += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        if isinstance(item, FunctionType):
            called = [item.__globals__.get(name) for name in code.co_names]
            todo += [f for f in called if getattr(f, "__module__", "") == item.__module__]
