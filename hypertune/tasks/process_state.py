"""What a trial changes in its process, and how it is put back before the next trial begins.

A worker is warm: it runs one job after another. What one trial sets for its process (torch's
default dtype, the working directory, the environment, a signal handler, ...) would otherwise be set
for all later ones, and a study would compare something else than it says.

`ProcessState` records what can be put back when a worker starts, and puts it back after each job.
It cannot know a user's own globals, modules that were imported, threads that go on, or what the
settings of other libraries were: whoever changes those needs a process a trial (fresh workers).
"""

import contextlib
import decimal
import gc
import locale
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_OURS = ("HYPERTUNE_", "RAY_", "TUNE_")
"""Variables of the environment that begin so are set anew for each job, by us or by Ray."""
_SIGNALS = [
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGABRT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGXCPU,
    signal.SIGVTALRM,
    signal.SIGPROF,
]
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_INFERENCE: list[Any] = []
"""Guards of torch's that must stay alive."""
_CUDNN = ("enabled", "benchmark", "benchmark_limit", "deterministic", "allow_tf32")


@dataclass(frozen=True)
class _Part:
    """A part of the state: how it is read and how it is set.

    It is set where it differs from what it was; ``always`` where that cannot be read.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    always: bool = False


def _attributes(name: str, owner: Any, *names: str) -> _Part:
    """Return the part of some attributes of a module or an object."""

    def read() -> dict[str, Any]:
        return {key: getattr(owner, key) for key in names if hasattr(owner, key)}

    def write(values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            setattr(owner, key, value)

    return _Part(name, read, write)


def _set_environ(wanted: Mapping[str, str]) -> None:
    for key in os.environ.keys() - wanted.keys():
        if not key.startswith(_OURS):
            del os.environ[key]
    for key, value in wanted.items():
        if os.environ.get(key) != value and not key.startswith(_OURS):
            os.environ[key] = value
    time.tzset()


def _environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}


def _cwd() -> str | None:
    """Return the working directory; None where it has been deleted."""
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return None


def _set_cwd(path: str | None) -> None:
    for place in (path, tempfile.gettempdir(), "/"):
        with contextlib.suppress(OSError, TypeError):
            return os.chdir(place)  # type: ignore[arg-type]


def _set_warnings(filters: list[Any]) -> None:
    warnings.resetwarnings()  # the registries of what was shown are emptied by it as well
    warnings.filters[:] = filters  # type: ignore[index]


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None)
    if torch.get_default_device() != device:
        torch.set_default_device(device)


def _signal_handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}  # no other thread can set them
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _set_signal_handlers(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        # One that was not set from Python reads as None, and cannot be set.
        if handler is not None and signal.getsignal(number) is not handler:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, handler)


def _limits() -> dict[int, tuple[int, int]]:
    return {kind: resource.getrlimit(kind) for kind in _LIMITS}


def _set_limits(limits: Mapping[int, tuple[int, int]]) -> None:
    for kind, (soft, hard) in limits.items():
        most = resource.getrlimit(kind)[1]
        if most != hard:  # nobody but root can raise it again
            soft = most if soft == resource.RLIM_INFINITY else soft
            soft = soft if most == resource.RLIM_INFINITY else min(soft, most)
        resource.setrlimit(kind, (soft, most))


def _set_inference_mode(on: bool) -> None:
    # Whoever entered the mode without leaving it holds its guard; ours is laid over it.
    _INFERENCE.append(torch.inference_mode(on))
    _INFERENCE[-1].__enter__()


def _umask() -> int:
    before = os.umask(0o077)  # it cannot be read without being set
    os.umask(before)
    return before


def _set_tempdir(folder: str | None) -> None:
    tempfile.tempdir = folder


def _set_root_handlers(handlers: list[logging.Handler]) -> None:
    logging.root.handlers[:] = handlers


def _list(name: str, attribute: str) -> _Part:
    """Return the part of a list of `sys`, which may have been replaced by another list."""

    def write(wanted: list[str]) -> None:
        setattr(sys, attribute, list(wanted))

    return _Part(name, lambda: list(getattr(sys, attribute)), write)


def _plots() -> dict[str, Any] | None:
    """Return the settings of matplotlib; None where it was not imported."""
    loaded = sys.modules.get("matplotlib")
    return None if loaded is None else dict(dict.items(loaded.rcParams))


def _set_plots(settings: Mapping[str, Any] | None) -> None:
    """Set them; to what they were when it was imported, where that was later."""
    loaded, pyplot = sys.modules["matplotlib"], sys.modules.get("matplotlib.pyplot")
    wanted = dict(dict.items(loaded.rcParamsOrig)) if settings is None else dict(settings)
    backend, now = wanted.pop("backend"), dict.__getitem__(loaded.rcParams, "backend")
    dict.update(loaded.rcParams, wanted)
    chosen = isinstance(backend, str)  # else matplotlib chooses one when it draws
    if now == backend or (not chosen and (not isinstance(now, str) or now.lower() == "agg")):
        return
    if pyplot is not None:
        pyplot.switch_backend(backend)
    else:
        dict.__setitem__(loaded.rcParams, "backend", backend)


_PARTS = [
    _Part("default dtype of torch", torch.get_default_dtype, torch.set_default_dtype),
    # One that was set to the CPU cannot be told from none, but costs time.
    _Part("default device of torch", torch.get_default_device, _set_default_device, always=True),
    _Part("gradient mode of torch", torch.is_grad_enabled, torch.set_grad_enabled),
    _Part("inference mode of torch", torch.is_inference_mode_enabled, _set_inference_mode),
    _Part(
        "anomaly detection of torch",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.autograd.set_detect_anomaly(*value),
    ),
    _Part(
        "deterministic algorithms of torch",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    _Part(
        "matmul precision of torch",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _Part(
        "autocast of torch",
        lambda: {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")},
        lambda value: [torch.set_autocast_enabled(kind, on) for kind, on in value.items()],
    ),
    _attributes("flags of cuDNN", torch.backends.cudnn, *_CUDNN),
    _Part("error handling of numpy", np.geterr, lambda value: np.seterr(**value)),
    _Part("error function of numpy", np.geterrcall, np.seterrcall),
    _Part(
        "print options of numpy",
        np.get_printoptions,
        lambda value: np.set_printoptions(**value),
    ),
    _Part(
        "decimal context",
        lambda: decimal.getcontext().copy(),
        lambda value: decimal.setcontext(value.copy()),
        always=True,
    ),
    _Part("environment", _environ, _set_environ),
    _Part("working directory", _cwd, _set_cwd),
    _Part("folder for temporary files", lambda: tempfile.tempdir, _set_tempdir),
    _Part("umask", _umask, os.umask, always=True),
    _Part("warning filters", lambda: list(warnings.filters), _set_warnings),
    _attributes("how warnings are shown", warnings, "showwarning"),
    _Part("level of the root logger", lambda: logging.root.level, logging.root.setLevel),
    _Part("handlers of the root logger", lambda: list(logging.root.handlers), _set_root_handlers),
    _Part("disabled logging", lambda: logging.root.manager.disable, logging.disable),
    _Part("settings of matplotlib", _plots, _set_plots),
    _Part("signal handlers", _signal_handlers, _set_signal_handlers),
    _Part(
        "blocked signals",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        lambda value: signal.pthread_sigmask(signal.SIG_SETMASK, value),
    ),
    _Part(
        "alarm",
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        lambda value: signal.setitimer(signal.ITIMER_REAL, 0),
    ),
    _list("import path", "path"),
    _list("arguments", "argv"),
    _attributes("standard streams", sys, "stdin", "stdout", "stderr"),
    _attributes("hooks of the interpreter", sys, "excepthook", "unraisablehook", "displayhook"),
    _attributes("hook for exceptions of threads", threading, "excepthook"),
    _Part("trace function", sys.gettrace, sys.settrace),
    _Part("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    _Part("garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    _Part(
        "locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    ),
    _Part("timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
    _Part(
        "start method of multiprocessing",
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda value: multiprocessing.set_start_method(value, force=True),
    ),
    _Part("limits of the process", _limits, _set_limits),
]


class ProcessState:
    """What the process was like when this was made.

    It must be made, and put back, in the main thread: gradient mode, numpy's error handling and
    signal handlers are those of a thread.
    """

    def __init__(self) -> None:
        self._values: list[tuple[_Part, Any]] = []
        for part in _PARTS:
            with contextlib.suppress(Exception):  # what cannot be read cannot be put back
                self._values.append((part, part.read()))
        self._threads = set(threading.enumerate())

    def put_back(self) -> list[str]:
        """Put all of it back, and return what could not be."""
        failed = []
        for part, value in self._values:
            try:
                if part.always or part.read() != value:
                    part.write(value)
            except Exception:
                failed.append(part.name)
        return failed

    def new_threads(self) -> list[str]:
        """Return the names of threads that have begun since, each once. None can be ended."""
        there = set(threading.enumerate())
        new, self._threads = there - self._threads, there
        return sorted(thread.name for thread in new)


@contextlib.contextmanager
def process_state_kept() -> Iterator[None]:
    """Put back what the block changes in this process."""
    state = ProcessState()
    try:
        yield
    finally:
        state.put_back()
