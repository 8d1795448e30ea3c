"""A user's own function ``train(config, report)`` as a task.

The function runs in a thread of the worker and stands still in ``report`` between two steps, so
that one step is one report, and the search decides after each one whether there is another.
"""

import contextlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch

from hypertune.core.errors import UserCodeError, shown
from hypertune.core.space import Config, Space
from hypertune.core.task import TrialEnded
from hypertune.tasks.user_code import (
    OwnLoop,
    OwnTask,
    as_metrics,
    own_config,
    set_seeds,
    state_folder,
    takes,
)

Save = Callable[[Path], object]
Train = Callable[[Any, Any], object]
_NOT_RUN = {
    inspect.isgeneratorfunction: "a generator: calling it runs nothing",
    inspect.iscoroutinefunction: "a coroutine (async): calling it runs nothing",
    inspect.isasyncgenfunction: "an asynchronous generator: calling it runs nothing",
}


class TrialStopped(BaseException):
    """Raised by ``report`` where the job ends before the trial's last epoch.

    Let it pass: of the function only ``finally`` and ``with`` run from there on. After the report
    of the last epoch, ``max_epochs``, it is not raised: what follows runs to its end.

    Example:
        >>> import hypertune
        >>> def train(config, report):
        ...     log = []
        ...     try:
        ...         report(epoch=1, loss=0.5)
        ...     except hypertune.TrialStopped:
        ...         log.append("close files here, or in a finally")
        ...         raise
        ...     return log
        >>> def report(**metrics):  # in the place of the one that a trial gets
        ...     raise hypertune.TrialStopped
        >>> train({}, report)
        Traceback (most recent call last):
        ...
        hypertune.tasks.function.TrialStopped
    """


@dataclass(frozen=True)
class Function(OwnTask):
    """The task of a function ``train(config, report)``."""

    train: Train
    taken = ("epoch", "save")

    @property
    def data(self) -> str:
        return f"loaded by {_name(self.train)}()"

    @property
    def saves(self) -> bool:  # type: ignore[override]
        """Whether the function passes ``save=``, as far as its code shows."""
        return any("save" in constants for constants in _tuples(self.train))

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        name, called = _name(self.train), inspect.unwrap(self.train)
        called = called if inspect.isroutine(called) else type(called).__call__
        for is_one, kind in _NOT_RUN.items():
            if is_one(called):
                return [f"{name}() must be a plain function that calls report(), but is {kind}"]
        if takes(self.train, "config", "report"):
            return []
        return [f"{name}() must take two arguments, (config, report)"]

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

    def __call__(self, /, *, epoch: int, save: Save | None = None, **metrics: Any) -> None:
        """Report an epoch; return when the next one is due, or when it was the last one.

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
        if save is not None and not callable(save):
            raise TypeError(
                "save must be a function that writes into a folder, but got "
                f"{shown(save)}; no metric can be called save"
            )
        self._loop.report(epoch, metrics, save)


@dataclass(frozen=True)
class _Epoch:
    """What was reported of an epoch."""

    number: int
    metrics: Mapping[str, float]
    save: Save | None


class FunctionLoop(OwnLoop):
    """A function in a thread of its own. It is at work or waiting in ``report``."""

    def __init__(self, train: Train, config: Config) -> None:
        self._train, self._config = train, config
        self._checkpoint: Path | None = None
        self._thread: threading.Thread | None = None
        self._save: Save | None = None
        self._finishing = False  # its last epoch is reported, and it runs on to its end
        self._over = False  # it has returned, or raised
        # To the thread: a folder to save into, None to go on, or the exception to leave by.
        self._orders: SimpleQueue[Path | TrialStopped | None] = SimpleQueue()
        # From it: an epoch; None for "saved" and for "returned"; or what was raised.
        self._answers: SimpleQueue[_Epoch | BaseException | None] = SimpleQueue()
        # Of the function's side: it may report from several threads, some of which outlive it.
        self._reporting = threading.RLock()
        self._saving = False
        self._returned = False

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
        if isinstance(answer, _Epoch):
            self.epoch, self._save = answer.number, answer.save
            self.saves = "never" if answer.save is None else "any time"
            return answer.metrics
        self._over = True
        if answer is not None:
            raise _as_exception(answer)
        if self.epoch == 0:
            raise RuntimeError(f"{_name(self._train)}() returned without a report")
        raise TrialEnded

    def finish(self, wait_s: float | None) -> bool:
        if self._over:
            return True
        if not self._finishing:
            self._finishing = True
            self._orders.put(None)
        try:
            answer = self._answers.get(timeout=wait_s)
        except Empty:
            return False
        self._over = True
        if isinstance(answer, BaseException):
            raise _as_exception(answer)
        return True

    def save(self, folder: Path) -> None:
        assert self._save is not None
        super().save(folder)
        if not self._over:
            self._orders.put(state_folder(folder))
            if (error := self._answers.get()) is not None:
                assert isinstance(error, BaseException)
                raise _as_exception(error)
        else:  # the function has returned, and nothing has moved since
            self._save(state_folder(folder))

    def load(self, folder: Path) -> None:
        super().load(folder)
        self._checkpoint = state_folder(folder)

    def close(self) -> None:
        if self._thread is not None:
            self._orders.put(TrialStopped(f"the job ends after epoch {self.epoch}"))
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
            pass
        except BaseException as error:  # SystemExit too: it belongs to the trial
            answer = error
        with self._reporting:  # a report of another thread is served first
            self._returned = True
        self._answers.put(answer)

    def report(self, epoch: int, metrics: Mapping[str, Any], save: Save | None) -> None:
        """Hand over an epoch, and do as told until the next one is due."""
        with self._reporting:
            if self._saving:
                raise RuntimeError("report() must not be called by save")
            if self._finishing:
                most = self._config["max_epochs"]
                self.note = (
                    f"epoch {shown(epoch)} was reported after the last one, {most}: not kept"
                )
                raise TrialStopped(f"all {most} epochs are reported")
            if self._returned:
                raise TrialStopped(f"{_name(self._train)}() has ended")
            due = self.epoch + 1
            if isinstance(epoch, bool) or epoch != due:
                raise ValueError(
                    f"epochs must be counted from 1 and reported one by one: epoch={due} is next, "
                    f"but got epoch={shown(epoch)}"
                )
            self._answers.put(_Epoch(due, as_metrics(metrics), save))
            self._obey(save)

    def _obey(self, save: Save | None) -> None:
        while True:
            order = self._orders.get()
            if order is None:
                return
            if isinstance(order, TrialStopped):
                self._orders.put(order)  # for a function that reports again all the same
                raise order
            assert save is not None
            self._saving = True
            try:
                save(order)
            except BaseException as error:
                self._answers.put(error)
            else:
                self._answers.put(None)
            finally:
                self._saving = False


def _as_exception(error: BaseException) -> Exception:
    """Return what was raised in the function's thread as what may be raised in the worker's.

    There a KeyboardInterrupt or SystemExit would be the worker's own.
    """
    if isinstance(error, Exception):
        return error
    wrapped = UserCodeError()
    wrapped.__cause__ = error
    return wrapped


def _name(function: Train) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _tuples(function: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the tuples of constants in a function's code, and in what it calls of its module.

    The names of keyword arguments are among them. Decorators, partials, methods and objects that
    can be called are looked through.
    """
    todo: list[Any] = [function]
    seen: dict[int, Any] = {}  # the objects too, so that no other one gets the id of one
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, CodeType):
            yield from (constant for constant in item.co_consts if isinstance(constant, tuple))
            todo += [constant for constant in item.co_consts if isinstance(constant, CodeType)]
        elif isinstance(item, FunctionType):
            todo += [item.__code__, getattr(item, "__wrapped__", None)]
            for cell in item.__closure__ or ():
                with contextlib.suppress(ValueError):  # it is empty
                    todo.append(cell.cell_contents)
            called = [item.__globals__.get(name) for name in item.__code__.co_names]
            todo += [f for f in called if getattr(f, "__module__", "") == item.__module__]
        elif isinstance(item, partial):
            todo += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, MethodType):
            todo += [item.__func__, type(item.__self__)]
        elif isinstance(item, staticmethod | classmethod):
            todo.append(item.__func__)
        elif isinstance(item, type):
            own = [kind for kind in item.__mro__ if kind.__module__ == item.__module__]
            todo += [value for kind in own for value in vars(kind).values()]
        elif callable(item):
            is_object = isinstance(getattr(type(item), "__call__", None), FunctionType)  # noqa: B004
            todo += [getattr(item, "__wrapped__", None), type(item) if is_object else None]
