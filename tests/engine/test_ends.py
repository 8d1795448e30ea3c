"""How trials end that go wrong late: with damaged checkpoints, or after their last epoch."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from one_worker import OneWorker, settings

from hypertune import engine, load_model
from hypertune.core.errors import SettingError
from hypertune.engine.driver import Driver
from hypertune.engine.ray.worker import WorkerJob
from hypertune.journal.store import EventRow, Journal, TrialRow
from hypertune.studies.study import Study


def rows(folder: Path) -> tuple[list[TrialRow], list[EventRow], list[Any]]:
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        results = [(r.trial, r.epoch, r.metrics["loss"]) for r in journal.results()]
        return journal.trials(), journal.events(), sorted(results)


def test_damaged_checkpoints_change_no_result_and_are_journaled(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engine.run(toy, settings(tmp_path, method="asha", n_repeats=1, name="whole")).folder
    send, harmed = Driver._send, []

    def harm(self: Driver, *args: Any, **more: Any) -> WorkerJob:
        job = send(self, *args, **more)
        if job.checkpoint is not None:
            harmed.append((job.trial, job.test_data is not None))
            Path(job.checkpoint, "state.json").write_bytes(b"")
        return job

    monkeypatch.setattr(Driver, "_send", harm)
    outcome = engine.run(toy, settings(tmp_path, method="asha", n_repeats=1, name="harmed"))
    trials, events, results = rows(outcome.folder)
    before, tests_before, results_before = rows(whole)

    assert outcome.error is None
    assert [(t.id, t.reason) for t in trials] == [(t.id, t.reason) for t in before]
    assert results == results_before
    damaged = [event for event in events if event.kind == "damaged"]
    assert [event.trial for event in damaged] == [trial for trial, _ in harmed]
    assert all("state.json has 0 bytes" in event.data["text"] for event in damaged)
    looks = [[e.data for e in each if e.kind == "test"] for each in (events, tests_before)]
    assert any(of_test for _, of_test in harmed)
    assert looks[0] == looks[1]


def test_a_model_is_not_loaded_from_a_damaged_checkpoint(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    folder = engine.run(toy, settings(tmp_path, method="random", n_trials=2)).folder
    for file in folder.glob("checkpoints/*/*/state.json"):
        file.write_bytes(b"\0")
    with pytest.raises(SettingError, match=r"state\.json holds other bytes.*trial=\.\.\., or"):
        load_model(folder, space=toy)


def one_epoch(study: Study) -> Study:
    return replace(study, max_epochs=1, n_trials=1, n_repeats=0)


@pytest.mark.parametrize(
    ("how", "detail"),
    [
        ("died", "what its code does after the last epoch ended its worker: "),
        ("hung", "what its code does after the last epoch took longer than --trial-timeout (600 s"),
        ("loop", "what its code does after the last epoch ended its worker: Ray broke down"),
        ("end", "what its code does after the last epoch was cut short by time budget"),
    ],
)
def test_a_worker_that_is_lost_after_the_last_epoch_costs_no_result(
    how: str,
    detail: str,
    toy: Study,
    one: OneWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def search(driver: Driver, data: Any) -> None:
        assert driver.next_job("a") is not None
        driver.started("a")
        row = {"epoch": 1, "metrics": {"loss": 0.5}, "t_ms": 1}
        last = {"epoch": 1, "converged": False, "failure": None, "traceback": "", "done": False}
        assert not driver.cut("a", 1)
        driver.result("a", {"epochs": [row], **last, "device": "cpu"})
        if how == "hung":
            driver.running["a"].given = driver.running["a"].ready = True
            driver.running["a"].heard -= 601
        if how in ("died", "hung"):
            driver.died("a", None)
        elif how == "loop":
            driver.all_died("Ray broke down")

    monkeypatch.setattr("hypertune.engine.session.search_on_ray", search)
    outcome = engine.run(one_epoch(toy), settings(tmp_path, method="random", n_trials=1))
    trials, events, _ = rows(outcome.folder)
    assert outcome.error is None
    (trial,) = [t for t in trials if t.role == "search"]
    assert trial.reason == "complete"
    assert (trial.detail or "").startswith(detail)
    assert not [event for event in events if event.kind == "lost"]


def test_a_kill_after_the_last_epoch_leaves_a_complete_trial(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def search(driver: Driver, data: Any) -> None:
        driver.next_job("a")
        driver.started("a")
        row = {"epoch": 1, "metrics": {"loss": 0.5}, "t_ms": 1}
        last = {"epoch": 1, "converged": False, "failure": None, "traceback": "", "done": False}
        driver.result("a", {"epochs": [row], **last, "device": "cpu"})
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("hypertune.engine.session.search_on_ray", search)
        with pytest.raises(Killed):
            engine.run(one_epoch(toy), settings(tmp_path, method="random", n_trials=2))
    engine.resume(tmp_path / "studies" / "s", space=one_epoch(toy))
    trials, _, _ = rows(tmp_path / "studies" / "s")
    assert [t.reason for t in trials if t.role == "search"] == ["complete", "complete"]
    assert trials[0].detail is not None
    assert trials[0].detail.endswith("was cut short: the search was killed")


def test_a_test_part_that_cannot_be_loaded_is_told_and_ends_nothing(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = type(toy.trainable).load

    def refuse(self: Any, *, test: bool) -> Any:
        if test:
            raise SystemExit("no such file")
        return load(self, test=test)

    monkeypatch.setattr(type(toy.trainable), "load", refuse)
    outcome = engine.run(toy, settings(tmp_path, method="random", n_trials=2, n_repeats=0))
    _, events, _ = rows(outcome.folder)
    assert outcome.error is None
    texts = {event.data["failure"] for event in events if event.kind == "test"}
    assert texts == {"the test part cannot be loaded: SystemExit: no such file"}
