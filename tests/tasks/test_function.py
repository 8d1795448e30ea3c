"""A function of one's own: one step is one report, and every way to go wrong has its text."""

import contextlib
import functools
import json
import random
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Make
from one_worker import settings

from hypertune import engine
from hypertune.core.errors import StudyError
from hypertune.engine.ray.worker import Worker, WorkerJob
from hypertune.journal.store import Journal
from hypertune.studies.study import Study
from hypertune.tasks.checkpoint import newest_checkpoint
from hypertune.tasks.function import Function, TrialStopped
from hypertune.tasks.user_code import as_metrics

CONFIG = {"x": 1.0, "opt": {"name": "adam", "rate": 0.1}, "max_epochs": 4, "seed": 7}


def train(config: Any, report: Any) -> None:
    start = 1
    if report.checkpoint is not None:
        start = json.loads((report.checkpoint / "epoch").read_text()) + 1
    for epoch in range(start, config["max_epochs"] + 1):

        def save(folder: Path, epoch: int = epoch) -> None:
            (folder / "epoch").write_text(json.dumps(epoch))
            (folder / "thread").write_text(threading.current_thread().name)

        report(epoch=epoch, loss=config["x"] / epoch, save=save)


def without_save(config: Any, report: Any) -> None:
    for epoch in range(1, config["max_epochs"] + 1):
        report(epoch=epoch, loss=config["x"] / epoch)


def run(worker: Worker, job: WorkerJob, **changes: Any) -> list[dict[str, Any]]:
    """Run a job to its end and return its steps' results."""
    worker.reset_config(replace(job, config=CONFIG, **changes).to_dict())
    results = [worker.train()]
    while not results[-1]["done"]:
        results.append(worker.train())
    return results


@pytest.fixture
def results_of(make_worker: Make, job: WorkerJob) -> Callable[..., list[dict[str, Any]]]:
    def results_of(function: Callable[..., object], **changes: Any) -> list[dict[str, Any]]:
        return run(make_worker(job, Function(function)), job, **changes)

    return results_of


def n_threads() -> int:
    return sum(thread.name == "train" for thread in threading.enumerate())


def test_a_step_is_a_report_and_the_next_job_goes_on_from_what_was_saved(
    make_worker: Make, job: WorkerJob
) -> None:
    worker = make_worker(job, Function(train))
    first = run(worker, job, to_epoch=2)
    newest = newest_checkpoint(job.folder, up_to=9)

    assert [(r["epoch"], r["metrics"]) for r in first] == [(1, {"loss": 1.0}), (2, {"loss": 0.5})]
    assert n_threads() == 0
    assert newest is not None
    assert newest[0] == 2
    assert (Path(newest[1]) / "state" / "thread").read_text() == "train"

    second = run(worker, job, to_epoch=4, checkpoint=str(newest[1]))

    assert [(r["epoch"], r["metrics"]["loss"]) for r in second] == [(3, 1 / 3), (4, 1 / 4)]
    assert second[-1]["failure"] is None
    assert n_threads() == 0


def test_without_save_there_is_no_checkpoint_and_a_trial_begins_again(
    make_worker: Make, job: WorkerJob
) -> None:
    worker = make_worker(job, Function(without_save))
    run(worker, job, to_epoch=2)

    assert newest_checkpoint(job.folder, up_to=9) is None
    assert [r["epoch"] for r in run(worker, job, to_epoch=3)] == [1, 2, 3]


def test_function_that_returns_early_has_converged_where_it_was(
    results_of: Callable[..., list[dict[str, Any]]], job: WorkerJob
) -> None:
    def early(config: Any, report: Any) -> None:
        report(epoch=1, loss=2.0, save=lambda folder: (folder / "x").write_text("kept"))

    *_, last = results_of(early, to_epoch=4)

    assert (last["epoch"], last["converged"], last["failure"]) == (1, True, None)
    assert last["epochs"] == []  # its one epoch had been told
    assert (Path(job.folder) / "epoch-1" / "state" / "x").read_text() == "kept"


def reports(*epochs: Any, **metrics: Any) -> Callable[..., object]:
    def function(config: Any, report: Any) -> None:
        for epoch in epochs:
            report(epoch=epoch, **{"loss": 1.0, **metrics})

    return function


def misspelt(config: Any, report: Any) -> None:
    report(epoch=1, loss=config["opt"]["rat"])


def misspelt_on_top(config: Any, report: Any) -> None:
    report(epoch=1, loss=config["max_epoch"])


def exits(config: Any, report: Any) -> None:
    raise SystemExit("bye")


def bad_save(config: Any, report: Any) -> None:
    report(epoch=1, loss=1.0, save=lambda folder: 1 / 0)


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        (reports(), "RuntimeError: function() returned without a report"),
        (reports(0), "ValueError: epochs must be counted from 1 and reported one by one: epoch=1"),
        (reports(1, 1), "ValueError: epochs must be counted from 1 and reported one by one: epoc"),
        (reports(1, 3), "ValueError: epochs must be counted from 1 and reported one by one: epoc"),
        (reports(True), "ValueError: epochs must be counted from 1 and reported one by one: epoc"),
        (reports(1, loss=float("nan")), "loss is nan in epoch 1"),
        (reports(1, loss="low"), "TypeError: loss must be a number, but got the text 'low'"),
        (reports(1, acc=[1]), "TypeError: acc must be a number, but got [1]"),
        (
            lambda config, report: report(epoch=1, losss=1.0),
            "the metric 'loss' was not reported, but losss. Did you mean 'losss'?",
        ),
        (misspelt, "KeyError: 'rat' is not in the config. Did you mean 'rate'? Choose one of: na"),
        (misspelt_on_top, "KeyError: 'max_epoch' is not in the config. Did you mean 'max_epochs'"),
        (exits, "SystemExit: bye"),
        (bad_save, "ZeroDivisionError: division by zero"),
    ],
)
def test_what_goes_wrong_is_told(
    function: Callable[..., object],
    failure: str,
    results_of: Callable[..., list[dict[str, Any]]],
    job: WorkerJob,
) -> None:
    last = results_of(function, to_epoch=1 if function is bad_save else 4)[-1]

    assert (last["failure"] or "").startswith(failure)
    assert last["done"]
    assert n_threads() == 0


def test_traceback_shows_the_line_of_the_function(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    (result,) = results_of(misspelt)

    assert 'config["opt"]["rat"]' in result["traceback"]


def test_checkpoint_that_the_function_does_not_load_is_told(
    make_worker: Make, job: WorkerJob
) -> None:
    def forgets(config: Any, report: Any) -> None:
        for epoch in range(1, 5):
            report(epoch=epoch, loss=1.0, save=lambda folder: None)

    worker = make_worker(job, Function(forgets))
    run(worker, job, to_epoch=2)
    (result,) = run(worker, job, to_epoch=4, checkpoint=f"{job.folder}/epoch-2")

    assert "epoch=3 is next, but got epoch=1" in result["failure"]


def test_job_that_is_cut_ends_the_function_which_may_tidy_up(
    make_worker: Make, job: WorkerJob
) -> None:
    said: list[str] = []

    def tidy(config: Any, report: Any) -> None:
        try:
            train(config, report)
        except TrialStopped:
            said.append("stopped")
            raise
        finally:
            said.append("tidied")

    job = replace(job, config=CONFIG, to_epoch=4)
    worker = make_worker(job, Function(tidy))
    worker.train()
    worker.reset_config(job.to_dict())

    assert said == ["stopped", "tidied"]
    assert n_threads() == 0
    worker.train()
    worker.stop()
    assert said == ["stopped", "tidied"] * 2
    assert newest_checkpoint(job.folder, up_to=9) is not None


def test_function_that_catches_everything_ends_all_the_same(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    def stubborn(config: Any, report: Any) -> None:
        for epoch in (1, 2, 3):
            try:  # noqa: SIM105, as people write it
                report(epoch=epoch, loss=1.0)
            except:  # noqa: E722
                pass

    assert results_of(stubborn, to_epoch=1)[-1]["failure"] is None
    assert n_threads() == 0


def test_seeds_are_set_and_a_trial_that_goes_on_draws_anew(
    results_of: Callable[..., list[dict[str, Any]]], job: WorkerJob
) -> None:
    def draws(config: Any, report: Any) -> None:
        start = 1 if report.checkpoint is None else 2
        for epoch in range(start, 4):
            a, b = float(torch.rand(())), float(np.random.random())  # noqa: NPY002
            report(epoch=epoch, loss=random.random(), a=a, b=b, save=lambda folder: None)

    first, again = (results_of(draws, to_epoch=1)[0]["metrics"] for _ in range(2))
    onward = results_of(draws, to_epoch=2, checkpoint=f"{job.folder}/epoch-1")[0]["metrics"]

    assert first == again
    assert not set(first.values()) & set(onward.values())


def test_config_is_a_copy_of_plain_values(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    def spoils(config: Any, report: Any) -> None:
        assert config == {**CONFIG, "device": "cpu"}
        assert json.loads(json.dumps(config)) == config
        config["opt"]["name"] = "spoilt"
        report(epoch=1, loss=1.0)

    assert results_of(spoils, to_epoch=1)[0]["failure"] is None
    assert CONFIG["opt"] == {"name": "adam", "rate": 0.1}


def test_prints_and_processes_of_a_function_do_no_harm(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    def noisy(config: Any, report: Any) -> None:
        print("x" * 10**5)  # noqa: T201
        subprocess.run(["true"], check=True)
        report(epoch=1, loss=1.0)

    assert results_of(noisy, to_epoch=1)[0]["failure"] is None


@pytest.mark.parametrize(
    ("function", "saves"),
    [(train, True), (without_save, False), (partial(train), True)],
)
def test_plan_can_tell_whether_a_function_saves(function: Any, saves: bool) -> None:
    assert Function(function).saves is saves


def calls_train(config: Any, report: Any) -> None:
    train(config, report)


def test_plan_looks_into_the_functions_that_are_called() -> None:
    assert Function(calls_train).saves


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize("saves", [True, False])
def test_promoted_trial_that_saves_nothing_trains_again(
    saves: bool, toy: Study, tmp_path: Path
) -> None:
    calls: list[int] = []

    def train(config: Any, report: Any) -> None:
        start = 1 if report.checkpoint is None else 1 + int((report.checkpoint / "e").read_text())
        for epoch in range(start, config["max_epochs"] + 1):
            calls.append(epoch)

            def save(folder: Path, epoch: int = epoch) -> None:
                (folder / "e").write_text(str(epoch))

            loss = config["x"] + 1 / epoch
            report(epoch=epoch, loss=loss, save=save if saves else None)

    study = replace(toy, trainable=train)
    folder = engine.run(study, settings(tmp_path, method="asha", n_trials=9)).folder
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        trials = [t.id for t in journal.trials() if t.reason in ("complete", "stopped")]
        results = {t: journal.results(trial=t) for t in trials}
        jobs = [(e.data["from_epoch"], e.data["to_epoch"]) for e in journal.events(kind="job")]

    assert len(calls) == sum(b - a for a, b in jobs)
    assert {a for a, _ in jobs} == ({0, 1, 3} if saves else {0})
    for rows in results.values():
        assert [row.epoch for row in rows] == list(range(1, len(rows) + 1))
    n_told = sum(len(rows) for rows in results.values())
    assert (len(calls) == n_told) == saves


def test_what_follows_the_last_epoch_of_a_trial_in_full_runs_to_its_end(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    said: list[str] = []

    def tidy(config: Any, report: Any) -> None:
        try:
            without_save(config, report)
            said.append("after the loop")
        finally:
            said.append("finally")

    last = results_of(tidy, to_epoch=4)[-1]
    assert (last["epoch"], last["done"], last["failure"], last["note"]) == (4, True, None, "")
    assert said == ["after the loop", "finally"]
    results_of(tidy, to_epoch=2)  # not the last one: it ends in report
    assert said == ["after the loop", "finally", "finally"]


def test_the_last_epoch_is_reported_before_what_follows_it_has_ended(
    make_worker: Make, job: WorkerJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypertune.engine.ray.worker._FINISH_S", 0.01)
    heard = threading.Event()

    def waits(config: Any, report: Any) -> None:
        report(epoch=1, loss=1.0, save=lambda folder: (folder / "x").write_text("kept"))
        heard.wait()

    worker = make_worker(job, Function(waits))
    worker.reset_config(replace(job, config={**CONFIG, "max_epochs": 1}, to_epoch=1).to_dict())
    first = worker.step()
    assert [row["metrics"] for row in first["epochs"]] == [{"loss": 1.0}]
    assert (first["epoch"], first["done"]) == (1, False)
    assert (Path(job.folder) / "epoch-1" / "state" / "x").is_file()
    heard.set()
    last = worker.step()
    assert (last["epoch"], last["done"], last["epochs"], last["failure"]) == (1, True, [], None)


def raises_at_last(config: Any, report: Any) -> None:
    without_save(config, report)
    raise KeyboardInterrupt


def reports_beyond(config: Any, report: Any) -> None:
    for epoch in range(1, 100):
        report(epoch=epoch, loss=1.0)


@pytest.mark.parametrize(
    ("function", "note"),
    [
        (raises_at_last, "after the last epoch it raised KeyboardInterrupt\nTraceback"),
        (reports_beyond, "epoch 5 was reported after the last one, 4: not kept"),
    ],
)
def test_what_goes_wrong_after_the_last_epoch_is_told_and_the_results_stand(
    function: Callable[..., object],
    note: str,
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    results = results_of(function, to_epoch=4)
    assert len([row for result in results for row in result["epochs"]]) == 4
    last = results[-1]
    assert (last["epoch"], last["done"], last["failure"]) == (4, True, None)
    assert last["note"].startswith(note)
    assert n_threads() == 0


def test_a_report_of_a_thread_that_outlives_the_function_hangs_nothing(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    ended, stopped = threading.Event(), threading.Event()

    def train(config: Any, report: Any) -> None:
        def late() -> None:
            ended.wait()
            with contextlib.suppress(TrialStopped):
                report(epoch=2, loss=0.1)
            stopped.set()

        report(epoch=1, loss=1.0)
        threading.Thread(target=late).start()

    results = results_of(train, to_epoch=4)
    assert (results[-1]["epoch"], results[-1]["converged"]) == (1, True)
    ended.set()
    assert stopped.wait(60)


def test_a_function_that_raises_trial_stopped_itself_has_ended(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    def stops(config: Any, report: Any) -> None:
        report(epoch=1, loss=1.0)
        raise TrialStopped

    last = results_of(stops, to_epoch=4)[-1]
    assert (last["epoch"], last["converged"], last["failure"]) == (1, True, None)


def test_report_in_save_is_refused(results_of: Callable[..., list[dict[str, Any]]]) -> None:
    def train(config: Any, report: Any) -> None:
        report(epoch=1, loss=1.0, save=lambda folder: report(epoch=2, loss=1.0))

    (last,) = results_of(train, to_epoch=1)
    assert last["failure"] == "RuntimeError: report() must not be called by save"


class Ten:
    def item(self) -> float:
        return 10.0


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (np.array(0.5), 0.5),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 2), 0.5),
        (Ten(), 10.0),
    ],
)
def test_numbers_of_all_kinds_are_metrics(value: Any, number: float) -> None:
    metrics = as_metrics({"loss": value})
    assert metrics == {"loss": number}
    assert type(metrics["loss"]) is float


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.5", "loss must be a number, but got the text '0.5': convert it with float(...)"),
        (np.str_("0.5"), "loss must be a number, but got the text"),
        (np.array("0.5"), "loss must be a number, but got the text '0.5'"),
        (b"0.5", "loss must be a number, but got the text b'0.5'"),
        (None, "loss must be a number, but got None"),
        ({"a": 1}, "loss must be a number, but got {'a': 1}"),
        (1j, "loss must be a number, but got 1j"),
        (np.zeros(2), "loss must be a number, but got array"),
        (10**400, "loss must be a number up to 1.8e308, which a float can hold, but got 1000"),
        pytest.param(
            10**5000,
            "loss must be a number up to 1.8e308, which a float can hold, but got a value",
            id="longer",
        ),
    ],
)
def test_what_is_no_number_is_refused_in_words(value: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        as_metrics({"loss": value})
    assert str(caught.value).startswith(text)


def test_a_metric_may_be_called_self_but_not_what_report_takes(
    results_of: Callable[..., list[dict[str, Any]]], toy: Study
) -> None:
    def train(config: Any, report: Any) -> None:
        report(epoch=1, loss=1.0, **{"self": 2})

    def clash(config: Any, report: Any) -> None:
        report(epoch=1, loss=1.0, save=0.5)

    assert results_of(train, to_epoch=1)[-1]["metrics"] == {"loss": 1.0, "self": 2.0}
    assert "no metric can be called save" in results_of(clash, to_epoch=1)[-1]["failure"]
    for name in ("save", "epoch"):
        with pytest.raises(StudyError, match=f"metric cannot be '{name}'"):
            replace(toy, trainable=train, metric=name)


def test_what_would_not_run_is_refused(toy: Study) -> None:
    def generator(config: Any, report: Any) -> Any:
        yield report(epoch=1, loss=1.0)

    async def coroutine(config: Any, report: Any) -> None:
        report(epoch=1, loss=1.0)

    for function in (generator, coroutine):
        with pytest.raises(StudyError, match="must be a plain function that calls report"):
            replace(toy, trainable=function)


def logged(function: Callable[..., object]) -> Callable[..., object]:
    def wrapper(config: Any, report: Any) -> None:
        function(config, report)

    return wrapper


class Trainer:
    def run(self, config: Any, report: Any) -> None:
        self._fit(report)

    def _fit(self, report: Any) -> None:
        report(epoch=1, loss=1.0, save=lambda folder: None)

    __call__ = run


class SavesNothing:
    def __call__(self, config: Any, report: Any) -> None:
        without_save(config, report)


@pytest.mark.parametrize(
    ("function", "saves"),
    [
        (Trainer().run, True),
        (Trainer(), True),
        (SavesNothing(), False),
        (SavesNothing().__call__, False),
        (logged(train), True),
        (logged(without_save), False),
        (functools.wraps(train)(logged(train)), True),
        (functools.lru_cache(train), True),
        (partial(Trainer().run), True),
    ],
)
def test_plan_looks_through_methods_and_decorators(function: Any, saves: bool) -> None:
    assert Function(function).saves is saves
