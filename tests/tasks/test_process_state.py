"""What a trial changes in its process is put back after it, whatever else it does."""

import gc
import locale
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Make

from hypertune.engine.ray.worker import WorkerJob
from hypertune.tasks.function import Function
from hypertune.tasks.process_state import ProcessState, process_state_kept
from hypertune.tasks.stepper import Stepwise


def chdir_into_nothing() -> None:
    folder = Path("gone").resolve()
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()


def enter_catch_warnings() -> None:
    warnings.catch_warnings().__enter__()
    warnings.simplefilter("always")


def where() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:
        return None


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "device": (lambda: torch.set_default_device("meta"), lambda: torch.zeros(1).device.type),
    "grad": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "anomaly": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "cudnn": (
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: torch.backends.cudnn.benchmark,
    ),
    "matmul": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
    ),
    "seterr": (lambda: np.seterr(all="raise"), np.geterr),
    "print": (lambda: np.set_printoptions(precision=2), np.get_printoptions),
    "cwd": (lambda: os.chdir("/"), where),
    "deleted cwd": (chdir_into_nothing, where),
    "environ": (lambda: os.environ.update(A_TRIAL="1", HOME="/"), lambda: dict(os.environ)),
    "umask": (lambda: os.umask(0o007), lambda: [os.umask(0o022), os.umask(0o022)][0]),
    "filters": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "caught": (enter_catch_warnings, lambda: list(warnings.filters)),
    "logging": (lambda: logging.root.setLevel(5), lambda: logging.root.level),
    "disabled": (lambda: logging.disable(), lambda: logging.root.manager.disable),
    "signals": (
        lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGUSR1),
    ),
    "path": (lambda: sys.path.insert(0, "/elsewhere"), lambda: list(sys.path)),
    "another path": (
        lambda: setattr(sys, "path", ["/elsewhere", *sys.path]),
        lambda: list(sys.path),
    ),
    "stdout": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout),
    "excepthook": (lambda: setattr(sys, "excepthook", print), lambda: sys.excepthook),
    "recursion": (lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit),
    "gc": (gc.disable, gc.isenabled),
    "locale": (
        lambda: locale.setlocale(locale.LC_ALL, "C"),
        lambda: locale.setlocale(locale.LC_ALL),
    ),
    "start method": (
        lambda: multiprocessing.set_start_method("spawn", force=True),
        lambda: multiprocessing.get_start_method(allow_none=True),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_part_is_put_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, read = CHANGES[name]
    os.umask(0o022)
    if name == "locale":
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
    before = read()
    with process_state_kept():
        change()
        assert read() != before
    assert read() == before


def test_inference_mode_that_was_not_left_is_left() -> None:
    state = ProcessState()
    guard = torch.inference_mode()
    guard.__enter__()
    assert torch.is_inference_mode_enabled()
    assert state.put_back() == []
    assert not torch.is_inference_mode_enabled()
    assert torch.zeros(1, requires_grad=True).mul(2).requires_grad
    del guard


def test_where_the_working_directory_is_gone_there_still_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    state = ProcessState()
    here.rmdir()

    assert state.put_back() == []
    assert Path.cwd().is_dir()
    monkeypatch.chdir(tmp_path)


def test_what_is_ours_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ProcessState()
    monkeypatch.setenv("HYPERTUNE_TRIAL", "7")
    monkeypatch.setenv("RAY_SOMETHING", "set by Ray")
    state.put_back()
    assert os.environ["HYPERTUNE_TRIAL"] == "7"
    assert os.environ["RAY_SOMETHING"] == "set by Ray"


def test_what_fails_to_be_put_back_is_named_and_holds_up_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = ProcessState()
    np.seterr(all="raise")
    torch.set_default_dtype(torch.float64)

    def refuse(dtype: object) -> None:
        raise RuntimeError("no")

    parts = [(replace(p, write=refuse) if "dtype" in p.name else p, v) for p, v in state._values]
    monkeypatch.setattr(state, "_values", parts)
    assert state.put_back() == ["default dtype of torch"]
    assert np.geterr()["over"] == "warn"
    torch.set_default_dtype(torch.float32)


def bits(job: WorkerJob, make: Make, task: Any) -> list[float]:
    """Return the bits that three trials compute in, of which the second one asks for more."""
    worker = make(job, task)
    found = []
    for trial, more in enumerate((False, True, False)):
        config = {"more": more, "max_epochs": 1, "seed": 0}
        worker.reset_config(
            replace(job, key=str(trial), trial=trial, config=config, to_epoch=1).to_dict()
        )
        result = worker.train()
        assert result["done"]
        found.append(result.get("metrics", {}).get("bits", result["failure"]))
    return found


def test_a_study_about_dtype_gets_a_right_answer_of_a_function(
    job: WorkerJob, make_worker: Make
) -> None:
    def train(config: Any, report: Any) -> None:
        if config["more"]:
            torch.set_default_dtype(torch.float64)
        report(epoch=1, loss=1.0, bits=8 * torch.zeros(1).element_size())

    assert bits(job, make_worker, Function(train)) == [32, 64, 32]


def test_a_study_about_dtype_gets_a_right_answer_of_a_class_that_fails(
    job: WorkerJob, make_worker: Make
) -> None:
    class Trial:
        def __init__(self, config: Any) -> None:
            if config["more"]:
                torch.set_default_dtype(torch.float64)
                torch.set_grad_enabled(False)
                raise KeyboardInterrupt

        def step(self) -> dict[str, Any]:
            size = torch.zeros(1, requires_grad=True).mul(2)
            return {"loss": 1.0, "bits": 8 * size.element_size() * size.requires_grad}

    assert bits(job, make_worker, Stepwise(Trial)) == [32, "KeyboardInterrupt", 32]


def test_threads_that_a_trial_leaves_are_named_once(job: WorkerJob, make_worker: Make) -> None:
    end = threading.Event()

    def train(config: Any, report: Any) -> None:
        if config["more"]:
            threading.Thread(target=end.wait, name="logger of mine", daemon=True).start()
        report(epoch=1, loss=1.0)

    worker = make_worker(job, Function(train))
    left = []
    for more in (True, False):
        config = {"more": more, "max_epochs": 1, "seed": 0}
        worker.reset_config(replace(job, config=config, to_epoch=1).to_dict())
        left.append(worker.train()["left"])
    end.set()
    assert left == [{"threads": ["logger of mine"]}, {}]
