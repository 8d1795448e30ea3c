"""A worker runs one job after another, and no failing trial takes it down. No Ray is started."""

import asyncio
import math
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import Make

from hypertune.core.space import Config
from hypertune.core.task import Loop
from hypertune.engine.ray.worker import Worker, WorkerJob
from hypertune.tasks.checkpoint import newest_checkpoint


class FakeLoop:
    """Counts its epochs, and does in one of them what its config says."""

    def __init__(self, config: Config) -> None:
        self.config, self.epoch = config, 0

    @property
    def converged(self) -> bool:
        return self.epoch == self.config.get("converge_at")

    def step(self) -> Mapping[str, float]:
        self.epoch += 1
        if self.epoch == self.config.get("at"):
            metrics: Mapping[str, float] = self.config["what"]()
            return metrics
        return {"loss": 1 / self.epoch}

    def save(self, folder: Path) -> None:
        (folder / "epoch.txt").write_text(str(self.epoch))

    def load(self, folder: Path) -> None:
        self.epoch = int((folder / "epoch.txt").read_text())

    def test(self, data: Any) -> Mapping[str, float]:
        return {"test_loss": data / self.epoch}


class FakeTask:
    data = "none"
    metrics = ("loss",)

    def __init__(self) -> None:
        self.test_metrics = {"loss": "test_loss"}
        self.started: list[tuple[Config, Any, str, str]] = []

    def problems(self, space: Any, fixed: Any) -> list[str]:
        return []

    def load(self, *, test: bool) -> Any:
        return 8.0 if test else 4.0

    def start(self, config: Config, data: Any, *, metric: str, mode: str) -> Loop:
        self.started.append((config, data, metric, mode))
        if "start" in config:
            config["start"]()
        return FakeLoop(config)

    def baselines(self, data: Any, *, test: bool) -> Mapping[str, Mapping[str, float]]:
        return {}


def boom(*args: object) -> Any:
    raise RuntimeError("out of\nluck")


@pytest.fixture
def make(make_worker: Make) -> Callable[[WorkerJob], Worker]:
    return lambda job: make_worker(job, FakeTask())


def epochs(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_job_ends_at_its_epoch_with_a_checkpoint_and_the_next_goes_on_from_it(
    job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    worker = make(job)
    results = [worker.train(), worker.train()]

    assert [r["epoch"] for r in results] == [1, 2]
    assert [r["metrics"] for r in results] == [{"loss": 1.0}, {"loss": 0.5}]
    assert [(r["done"], r["failure"], r["converged"]) for r in results] == [
        (False, None, False),
        (True, None, False),
    ]
    assert isinstance(worker.task, FakeTask)
    assert worker.task.started == [({"a": 1, "device": "cpu"}, "the data", "loss", "min")]
    newest = newest_checkpoint(job.folder, up_to=2)
    assert newest is not None
    assert newest[0] == 2

    worker.reset(replace(job, checkpoint=str(newest[1]), to_epoch=4).to_dict())
    results = [worker.train(), worker.train()]

    assert [r["metrics"] for r in results] == [{"loss": 1 / 3}, {"loss": 1 / 4}]
    assert [r["done"] for r in results] == [False, True]
    assert epochs(job.folder) == ["epoch-2", "epoch-4"]  # the newest, and the one before


@pytest.mark.parametrize(
    ("config", "failure"),
    [
        ({"at": 1, "what": boom}, "RuntimeError: out of\nluck"),
        ({"start": boom}, "RuntimeError: out of\nluck"),
        ({"at": 1, "what": lambda: {"loss": math.nan}}, "loss is nan in epoch 1"),
        ({"at": 1, "what": lambda: {"loss": math.inf}}, "loss is inf in epoch 1"),
        (
            {"at": 1, "what": lambda: {"los": 1.0}},
            "the metric 'loss' was not reported, but los. Did you mean 'los'?",
        ),
        ({"at": 1, "what": dict}, "the metric 'loss' was not reported, but nothing"),
        ({"at": 1, "what": lambda: {"loss": None}}, "TypeError: loss must be a number, but got N"),
        (
            {"at": 1, "what": lambda: {"loss": 1.0, "\udce9": 1.0, "\\udce9": 2.0}},
            "ValueError: names of metrics must differ as UTF-8 spells them, but two are",
        ),
        (
            {"at": 1, "what": lambda: {"loss": 1.0, 7: 1.0}},
            "TypeError: names of metrics must be text, but got 7",
        ),
        ({"load": "gone"}, "FileNotFoundError"),
    ],
)
def test_trial_that_fails_says_why_and_leaves_the_worker_to_the_next_one(
    config: Config, failure: str, job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    worker = make(replace(job, config=config, checkpoint=config.get("load")))
    result = worker.train()

    assert result["done"]
    assert result["failure"].startswith(failure)
    assert ("RuntimeError" in failure) == ("in boom" in result["traceback"])
    assert "metrics" not in result
    worker.reset(replace(job, to_epoch=1).to_dict())
    result = worker.train()
    assert (result["failure"], result["epoch"], result["done"]) == (None, 1, True)


def test_failing_epoch_leaves_no_checkpoint_behind_the_last_good_one(
    job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    worker = make(job)
    worker.train()
    worker.train()
    newest = newest_checkpoint(job.folder, up_to=9)
    assert newest is not None
    worker.reset(
        replace(
            job, checkpoint=str(newest[1]), to_epoch=9, config={"at": 4, "what": boom}
        ).to_dict()
    )

    assert worker.train()["failure"] is None
    assert worker.train()["failure"] is not None
    assert epochs(job.folder) == ["epoch-2"]


def test_converged_trial_ends_its_job_early_with_a_checkpoint(
    job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    result = make(replace(job, to_epoch=9, config={"converge_at": 1})).train()

    assert (result["converged"], result["done"], result["failure"]) == (True, True, None)
    assert epochs(job.folder) == ["epoch-1"]


def test_metrics_beside_the_searched_one_may_be_anything_finite_or_not(
    job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    config = {"at": 1, "what": lambda: {"loss": 1, "other": math.nan}}
    result = make(replace(job, config=config)).train()

    assert result["failure"] is None
    assert type(result["metrics"]["loss"]) is float


def test_names_of_metrics_that_are_not_utf8_are_spelled_out(
    job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    config = {"at": 1, "what": lambda: {"loss": 1.0, "caf\udce9": 2.0}}
    result = make(replace(job, config=config)).train()

    assert (result["failure"], result["metrics"]) == (None, {"loss": 1.0, "caf\\udce9": 2.0})


def test_job_that_is_cut_short_keeps_its_epochs_and_leaves_no_other_file(
    job: WorkerJob, make: Callable[[WorkerJob], Worker], tmp_path: Path
) -> None:
    worker = make(replace(job, to_epoch=9))
    for _ in range(3):
        worker.train()
    worker.stop()

    files = sorted(path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file())
    assert [str(path.relative_to(tmp_path)) for path in files] == [
        "checkpoints/3/epoch-3/.hypertune-files.json",
        "checkpoints/3/epoch-3/epoch.txt",
    ]
    assert files[1].read_text() == "3"


@pytest.mark.parametrize(
    ("up_to", "newest"), [(0, None), (1, 1), (2, 1), (9, 9), (10, 10), (99, 10)]
)
def test_newest_checkpoint_is_whole_and_not_beyond_what_was_recorded(
    tmp_path: Path, up_to: int, newest: int | None
) -> None:
    for name in ("epoch-1", "epoch-9", "epoch-10", "epoch-11.part", "epoch-x", "other"):
        (tmp_path / name).mkdir()

    found = newest_checkpoint(str(tmp_path), up_to)

    assert found == (None if newest is None else (newest, f"{tmp_path}/epoch-{newest}"))
    assert newest_checkpoint(f"{tmp_path}/none", 9) is None


def test_test_part_is_judged_from_the_checkpoint_without_training(
    job: WorkerJob, make: Callable[[WorkerJob], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"reference to the test part": 8.0}
    monkeypatch.setattr(ray, "get", parts.__getitem__)
    worker = make(job)
    worker.train()
    worker.train()
    test: Any = "reference to the test part"
    worker.reset(replace(job, checkpoint=f"{job.folder}/epoch-2", test_data=test).to_dict())

    result = worker.train()

    assert (result["metrics"], result["failure"]) == ({"test_loss": 4.0}, None)
    assert result["done"]
    assert epochs(job.folder) == ["epoch-2"]


def test_workers_that_swap_trials_keep_their_hang_files_apart(
    job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    def give(worker: Worker, trial: int, key: str) -> None:
        folder = str(Path(job.folder).with_name(str(trial)))
        task = replace(job, trial=trial, key=key, to_epoch=1, folder=folder)
        worker.reset_config(task.to_dict())

    first, second = make(replace(job, to_epoch=1)), make(replace(job, key="b1", to_epoch=1))
    results = [first.train(), second.train()]
    give(second, 5, "b2")
    results.append(second.train())
    give(first, 9, "a2")
    results.append(first.train())
    give(second, 11, "b3")
    results.append(second.train())

    assert [result["failure"] for result in results] == [None] * 5


def test_trial_is_named_in_its_environment(
    make: Callable[[WorkerJob], Worker],
    job: WorkerJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HYPERTUNE_STUDY", "HYPERTUNE_TRIAL"):
        monkeypatch.setenv(name, "before")  # and given back afterwards
    seen: list[tuple[str, str]] = []

    def look() -> None:
        seen.append((os.environ["HYPERTUNE_STUDY"], os.environ["HYPERTUNE_TRIAL"]))

    folder = str(tmp_path / "gru-1" / "checkpoints" / "trial-003")
    first = replace(job, config={"start": look}, folder=folder)
    worker = make(first)
    worker.step()
    worker.reset_config(replace(first, trial=4).to_dict())
    worker.step()
    assert seen == [("gru-1", "3"), ("gru-1", "4")]


def test_a_scheduler_of_rays_reads_each_epoch_and_hands_on_a_trials_state(
    job: WorkerJob, make: Callable[[WorkerJob], Worker], tmp_path: Path
) -> None:
    paused = replace(job, to_epoch=9, by_epoch=True)
    worker = make(paused)
    for epoch in (1, 2):
        result = worker.train()
        assert (result["loss"], result["training_iteration"]) == (1 / epoch, epoch)
    (tmp_path / "state").mkdir()
    worker.save_checkpoint(str(tmp_path / "state"))

    worker.reset(replace(paused, key="b", trial=4, config={"a": 2}).to_dict())
    worker.load_checkpoint(str(tmp_path / "state"))
    result = worker.train()
    assert (result["epoch"], result["training_iteration"]) == (3, 3)
    assert isinstance(worker.task, FakeTask)
    assert worker.task.started[-1][0] == {"a": 2, "device": "cpu"}


def test_a_state_that_could_not_be_saved_fails_the_trial_that_goes_on_from_it(
    job: WorkerJob, make: Callable[[WorkerJob], Worker], tmp_path: Path
) -> None:
    worker = make(replace(job, to_epoch=9, by_epoch=True))
    worker.train()
    assert worker.loop is not None
    worker.loop.save = lambda folder: boom()  # type: ignore[method-assign]
    worker.save_checkpoint(str(tmp_path))

    worker.reset(replace(job, key="b", by_epoch=True).to_dict())
    worker.load_checkpoint(str(tmp_path))
    result = worker.train()
    assert result["done"]
    assert result["failure"] == (
        "RuntimeError: its checkpoint was not saved: RuntimeError: out of\nluck"
    )
    assert "loss" not in result
    worker.reset(replace(job, key="c").to_dict())
    assert worker.train()["failure"] is None


class WithoutText(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise ValueError("there is none")


class WithAnotherText(Exception):  # noqa: N818
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class Own(BaseException):
    def __reduce__(self) -> Any:
        raise TypeError("it cannot be pickled")


def recurse() -> None:
    recurse()


RAISED: list[tuple[BaseException, str]] = [
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (asyncio.CancelledError("cut"), "CancelledError: cut"),
    (GeneratorExit(), "GeneratorExit"),
    (SystemExit(3), "SystemExit: 3"),
    (StopIteration(), "StopIteration"),
    (MemoryError("x"), "MemoryError: x"),
    (ExceptionGroup("g", [ValueError("a")]), "ExceptionGroup: g (1 sub-exception)"),
    (WithoutText(), "WithoutText: (its text cannot be told: str() of it raised ValueError)"),
    (WithAnotherText(), "WithAnotherText: (its text cannot be told: str() of it raised TypeError)"),
    (Own("mine"), "Own: mine"),
]


@pytest.mark.parametrize(("error", "text"), RAISED)
@pytest.mark.parametrize("where", ["start", "step", "converged", "save", "test", "load"])
def test_whatever_a_trial_raises_wherever_it_fails_and_the_worker_goes_on(
    where: str,
    error: BaseException,
    text: str,
    job: WorkerJob,
    make: Callable[[WorkerJob], Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def throw(*args: object) -> Any:
        raise error

    monkeypatch.setattr(ray, "get", lambda reference: 8.0)
    worker = make(replace(job, to_epoch=1))
    worker.train()  # leaves a checkpoint
    config = {"start": throw} if where == "start" else {}
    test: Any = "reference to the test part" if where == "test" else None
    asked = replace(job, config=config, checkpoint=f"{job.folder}/epoch-1", test_data=test)
    with monkeypatch.context() as patch:
        if where == "converged":
            patch.setattr(FakeLoop, where, property(throw))
        elif where != "start":
            patch.setattr(FakeLoop, where, throw)
        worker.reset_config(asked.to_dict())
        result = worker.step()

    assert (result["failure"], result["done"]) == (text, True)
    pickle.dumps(result)
    worker.reset_config(replace(job, to_epoch=1).to_dict())
    assert worker.step()["failure"] is None


def test_recursion_without_an_end_is_a_failure(
    job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    result = make(replace(job, config={"start": recurse})).train()
    assert result["failure"].startswith("RecursionError: maximum recursion depth exceeded")
    assert "in recurse" in result["traceback"]


def test_a_sigterm_as_ray_handles_it_ends_the_worker(
    job: WorkerJob, make: Callable[[WorkerJob], Worker]
) -> None:
    def sigterm() -> None:
        error = SystemExit(1)
        error.ray_terminate_msg = "The process receives a SIGTERM."  # type: ignore[attr-defined]
        raise error

    worker = make(replace(job, config={"start": sigterm}))
    with pytest.raises(SystemExit):
        worker.step()


def damage(checkpoint: Path, how: str) -> None:
    file = checkpoint / "epoch.txt"
    if how == "missing file":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "zeros":
        file.write_bytes(bytes(file.stat().st_size))
    elif how == "garbage":
        file.write_text("9")
    elif how == "list":
        (checkpoint / ".hypertune-files.json").write_text('{"epoch.txt": 1')
    elif how == "no list":
        (checkpoint / ".hypertune-files.json").unlink()


@pytest.mark.parametrize("how", ["missing file", "empty", "zeros", "garbage", "list", "no list"])
@pytest.mark.parametrize("damaged", [[3], [1, 3]])
def test_a_damaged_checkpoint_is_told_and_what_it_held_is_trained_once_more(
    how: str,
    damaged: list[int],
    job: WorkerJob,
    make: Callable[[WorkerJob], Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "get", lambda reference: 8.0)
    worker = make(replace(job, to_epoch=1))
    worker.train()
    first, second = f"{job.folder}/epoch-1", f"{job.folder}/epoch-3"
    worker.reset_config(replace(job, checkpoint=first, to_epoch=3).to_dict())
    while not worker.step()["done"]:
        continue
    for epoch in damaged:
        damage(Path(job.folder, f"epoch-{epoch}"), how)

    worker.reset_config(replace(job, checkpoint=second, to_epoch=5).to_dict())
    results = [worker.step()]
    while not results[-1]["done"]:
        results.append(worker.step())
    told = [one for result in results for one in result["damaged"]]
    assert [one["epoch"] for one in told] == sorted(damaged, reverse=True)
    assert all("is damaged" in one["text"] for one in told)
    rows = [row for result in results for row in result["epochs"]]
    assert [row["metrics"] for row in rows] == [{"loss": 1 / 4}, {"loss": 1 / 5}]
    assert results[-1]["failure"] is None

    damage(Path(job.folder, "epoch-5"), how)
    test: Any = "reference to the test part"
    asked = replace(job, checkpoint=f"{job.folder}/epoch-5", to_epoch=0, test_data=test)
    worker.reset_config(asked.to_dict())
    result = worker.step()
    while not result["done"]:
        result = worker.step()
    assert result["metrics"] == {"test_loss": 8.0 / 5}


def test_a_checkpoint_that_is_whole_but_not_loaded_fails_its_trial(
    job: WorkerJob, make: Callable[[WorkerJob], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make(replace(job, to_epoch=1))
    worker.train()
    monkeypatch.setattr(FakeLoop, "load", boom)
    worker.reset_config(replace(job, checkpoint=f"{job.folder}/epoch-1").to_dict())
    result = worker.step()
    assert (result["failure"], result["damaged"]) == ("RuntimeError: out of\nluck", [])
    assert epochs(job.folder) == ["epoch-1"]
