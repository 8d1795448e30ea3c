"""What is shown of a search that runs elsewhere is what its driver shows."""

import contextlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from hypertune import cli
from hypertune.cluster import attach, check_code, published
from hypertune.core.errors import SettingError
from hypertune.engine import Progress
from hypertune.engine.folder import locked
from hypertune.engine.ray.nodes import code_version
from hypertune.journal.store import Journal

ABOUT = {"metric": "loss", "mode": "max", "n_trials": 4, "question": "Why?"}


def test_a_search_is_told_from_its_journal_as_it_goes_on(tmp_path: Path) -> None:
    with contextlib.closing(Journal(tmp_path / "journal.db")) as journal:
        journal.set_study(**ABOUT)
        with attach.Watch(tmp_path) as watch:
            assert watch.progress().stage == "start"
            journal.add_event("search_start", None, {"planned_epochs": 40, "time_budget_s": 60.0})
            for trial in range(3):
                journal.add_trial(trial, {}, seed=0)
            journal.set_state(0, "running")
            journal.add_result(0, 1, {"loss": 0.5})
            journal.add_result(0, 2, {"loss": 0.4})
            journal.set_state(1, "running")
            journal.add_result(1, 1, {"loss": float("nan")})
            journal.set_state(1, "ended", reason="failed", detail="nan")
            seen = watch.progress()
            assert (seen.n_started, seen.n_running, seen.n_waiting) == (3, 1, 1)
            assert (seen.n_epochs, seen.best, seen.best_trial) == (3, 0.5, 0)
            assert (seen.n_trials, seen.planned_epochs, seen.n_ended) == (4, 40, {"failed": 1})
            assert seen.deadline == seen.started + 60.0
            assert seen.stage == "search"
            # The simple models and replicates are no part of what is searched.
            journal.add_trial(3, {}, seed=1, role="replicate")
            journal.set_state(3, "running")
            journal.add_result(3, 1, {"loss": 0.9})
            seen = watch.progress()
            assert (seen.stage, seen.best, seen.n_started, seen.n_epochs) == ("repeat", 0.5, 3, 4)
            journal.set_state(3, "ended", reason="complete")
            journal.add_event("test", 0, {"label": "best"})
            assert watch.progress().stage == "test"
            journal.add_event("search_end", None, {"stopped_by": None})
            assert watch.progress().stage == "report"
            journal.add_event("report")
            assert watch.progress().stage == "mlflow"


def test_attach_looks_until_the_search_has_ended_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(Journal(tmp_path / "journal.db")) as journal:
        journal.set_study(**ABOUT)
        journal.add_event("search_start")
        before, looks = len(journal.events()), []
        lock = contextlib.ExitStack()
        lock.enter_context(locked(tmp_path))

        def look(progress: Progress) -> None:
            looks.append(progress.stage)
            if len(looks) == 2:
                lock.close()  # the driver ends

        monkeypatch.setattr(attach, "_LOOK_EVERY_S", 0.0)
        with attach.Watch(tmp_path) as watch:
            watch.follow(look)
        assert looks == ["search", "search"]
        assert len(journal.events()) == before


def test_a_driver_in_a_job_tells_its_progress_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Progress] = []
    monkeypatch.delenv(attach.JOB, raising=False)
    assert published(shown.append) == shown.append
    monkeypatch.setenv(attach.JOB, "mine-2")
    monkeypatch.setattr(attach, "_log_folder", lambda: str(tmp_path))
    tell = published(shown.append)
    progress = Progress(metric="loss", n_trials=4, planned_epochs=9, started=time.monotonic())
    tell(progress)
    (path,) = tmp_path.iterdir()
    assert path.name == attach.progress_file("mine-2")
    assert attach.read_progress(path.read_text()).metric == "loss"
    progress.stage, progress.n_started = "search", 2
    tell(progress)
    assert attach.read_progress(path.read_text()).n_started == 2
    progress.n_started = 3
    tell(progress)  # at most once a second, unless the stage has changed
    assert attach.read_progress(path.read_text()).n_started == 2
    assert len(shown) == 3
    # No search ends by it.
    monkeypatch.setattr(attach, "_log_folder", lambda: str(tmp_path / "gone"))
    progress.stage = "report"
    tell(progress)
    assert len(shown) == 4


def test_times_of_another_machine_become_those_of_this_one() -> None:
    told = asdict(Progress(metric="m", n_trials=1, planned_epochs=1, started=5000.0))
    now = time.monotonic()
    there = {**told, "started": now + 900, "deadline": now + 1100, "now": now + 1000}
    here = attach.read_progress(json.dumps(there))
    assert here.started == pytest.approx(now - 100, abs=60)
    assert here.deadline == pytest.approx(now + 100, abs=60)


def test_a_job_refuses_other_code_than_it_was_sent_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(attach.CODE, code_version())
    check_code()
    monkeypatch.setenv(attach.CODE, "deadbeef")
    with pytest.raises(SettingError, match="but the job was sent with deadbeef: install"):
        check_code()


def test_attach_to_a_study_that_has_ended_shows_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from made_studies import Made, write_study

    write_study(
        tmp_path / "studies" / "old-1",
        [Made(losses=[3.0, 1.0])],
        settings={"tracking_uri": None, "other_data": {}},
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setattr(sys, "argv", ["hypertune", "attach", "old-1"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "Does the cell matter?" in capsys.readouterr().out
    assert (tmp_path / "studies" / "old-1" / "journal.db").is_file()
