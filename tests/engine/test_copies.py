"""A folder that was moved goes on; of one that was copied only one goes on as the same study."""

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from commands import call, finished, started, wait_for_results
from conftest import TOY
from one_worker import Killed, OneWorker, cut, record, settings

from hypertune import engine
from hypertune.core.errors import JournalError, SettingError
from hypertune.engine.folder import locked
from hypertune.engine.retention import Checkpoints
from hypertune.journal.snapshot import Snapshots, study_place
from hypertune.journal.store import Journal
from hypertune.studies.study import Study
from hypertune.tracking.mlflow.cursors import Cursors


@pytest.fixture
def begun(toy: Study, one: OneWorker, tmp_path: Path) -> Path:
    """A study that was killed, and goes on."""
    return cut(one, toy, settings(tmp_path, method="asha"), at=5)


def about(folder: Path) -> dict[str, Any]:
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        return journal.study()


def test_a_copy_beside_its_original_does_not_go_on(begun: Path, toy: Study) -> None:
    twin = begun.with_name("twin")
    shutil.copytree(begun, twin)
    before = (twin / "journal.db").read_bytes()
    message = r"'.*twin' is a copy of the study in '.*s', which is still .* hypertune copy twin NEW"
    with pytest.raises(SettingError, match=message):
        engine.resume(twin, space=toy)
    with pytest.raises(SettingError, match=message):
        engine.rerun(twin, 0, space=toy)
    assert (twin / "journal.db").read_bytes() == before
    assert engine.resume(begun, space=toy).error is None  # the original does


@pytest.mark.parametrize("how", ["renamed", "copied, and the first one deleted", "put back"])
def test_a_folder_that_is_the_only_one_goes_on(
    how: str, begun: Path, toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    now = begun if how == "put back" else tmp_path / "laptop" / "studies" / "s"
    if how == "renamed":
        now.parent.mkdir(parents=True)
        begun.rename(now)
    elif how == "put back":
        shutil.copytree(begun, tmp_path / "backup")
        shutil.rmtree(begun)
        shutil.copytree(tmp_path / "backup", begun)
    else:
        shutil.copytree(begun, now)
        shutil.rmtree(begun)
    outcome = engine.resume(now, space=toy)
    assert (outcome.error, outcome.warning) == (None, None)
    engine.run(toy, settings(tmp_path, method="asha", name="whole"))
    assert record(now) == record(tmp_path / "studies" / "whole")


def test_a_study_is_copied_as_one_of_its_own(
    begun: Path,
    toy: Study,
    one: OneWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun.joinpath("report").mkdir()
    begun.joinpath("report", "report.md").write_text("so far")
    with contextlib.closing(Cursors(begun / "journal.db", "sqlite:///mlflow.db")) as cursors:
        cursors.event = cursors.result = 3
        cursors.save()
    assert call(monkeypatch, tmp_path, "copy", "s", "t") == 0
    assert capsys.readouterr().out == "Copied to 'studies/t'.\n"

    new = begun.with_name("t")
    assert about(new)["name"] == "t"
    assert about(new)["study_id"] != about(begun)["study_id"]
    assert about(new)["copied_from"] == {"name": "s", "study_id": about(begun)["study_id"]}
    assert record(new) == record(begun)
    assert not list(new.glob("replica*"))
    assert (new / "report" / "report.md").read_text() == "so far"
    # Both go on, each to the same end, from the same checkpoints.
    reports = []
    for folder in (begun, new):
        one.n_reports = 0
        assert engine.resume(folder, space=toy).error is None
        reports.append(one.n_reports)
    assert record(new) == record(begun)
    assert reports[0] == reports[1]

    for args, message in (
        (("s", "t"), "There is a study 't' in 'studies' already"),
        (("s", "../t"), "--name must be at most 100 letters"),
        (("nobody", "u"), "There is no study 'nobody'"),
    ):
        assert call(monkeypatch, tmp_path, "copy", *args) == 2
        assert message in capsys.readouterr().err


def test_of_a_copy_that_fails_nothing_is_left(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("hypertune.engine.copies.copy_place", full)
    with pytest.raises(SettingError, match="cannot be copied: No space left"):
        engine.copy(begun, "t")
    assert not begun.with_name("t").exists()
    with locked(begun), pytest.raises(SettingError, match="under way"):
        engine.copy(begun, "t")


def tear_off(folder: Path, to: Path | None = None) -> Path:
    """Lose the rows of a journal from trial 1 on, in its place or in a copy without its log.

    The journal that is written to is in the log; what was there before, in the file itself.
    """
    if to is not None:
        shutil.copytree(folder, to)
    path = (to or folder) / "journal.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        for table in ("results", "events"):
            db.execute(f"DELETE FROM {table} WHERE trial > 0")
        db.execute("DELETE FROM trials WHERE id > 0")
        db.commit()
    return path.parent


def test_a_journal_that_was_copied_without_its_log_is_told(
    begun: Path, toy: Study, tmp_path: Path
) -> None:
    there = tear_off(begun, tmp_path / "studies" / "there")
    shutil.rmtree(begun)
    kept = sorted(path.name for path in (there / "checkpoints").glob("trial-*"))
    assert len(kept) > 1
    with pytest.raises(JournalError, match=r"checkpoints of trials .* not know: 1, .*db-wal besid"):
        engine.resume(there, space=toy)
    assert sorted(path.name for path in (there / "checkpoints").glob("trial-*")) == kept
    # What is left of it may go on as a study of its own.
    new = engine.copy(there, "left")
    assert [path.name for path in (new / "checkpoints").glob("trial-*")] == ["trial-000"]
    outcome = engine.resume(new, space=toy)
    assert (outcome.error, outcome.warning) == (None, None)


def test_mlflow_that_knows_more_tells_that_the_log_is_missing(
    begun: Path, toy: Study, tmp_path: Path
) -> None:
    shutil.rmtree(begun / "checkpoints")
    with contextlib.closing(Cursors(begun / "journal.db", "sqlite:///mlflow.db")) as cursors:
        cursors.event = cursors.result = 10_000
        cursors.save()
    there = tmp_path / "studies" / "there"
    begun.rename(there)
    with pytest.raises(JournalError, match=r"MLflow was given later records .*db-wal beside"):
        engine.resume(there, space=toy)


def test_after_a_loss_of_power_the_search_goes_on_from_what_is_left(
    begun: Path, toy: Study
) -> None:
    tear_off(begun)
    stale = Checkpoints(str(begun / "checkpoints"), 1e9)
    assert stale.newest(1, 9) is not None
    outcome = engine.resume(begun, space=toy)
    assert outcome.error is None
    assert "end of the journal is missing" in (outcome.warning or "")
    assert "trained again" in (outcome.warning or "")


def test_two_machines_that_went_on_are_told_of_each_other(
    toy: Study,
    one: OneWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("hypertune.engine.session.check_nodes", lambda settings: None)
    storage = tmp_path / "common"
    storage.mkdir()

    def copied(folder: Path) -> None:
        place = study_place(str(storage), "s", about(folder)["study_id"])
        with contextlib.closing(Snapshots(folder / "journal.db", place)) as snapshots:
            snapshots.take(at_once=True)

    here = cut(one, toy, settings(tmp_path, method="asha", storage=str(storage)), at=5)
    copied(here)
    there = engine.study_folder(tmp_path / "there", "s", str(storage))
    one.kill_at, one.n_reports = 4, 0
    with pytest.raises(Killed):
        engine.resume(here, space=toy)  # its last copy does not reach the storage
    one.kill_at = None
    assert engine.resume(there, space=toy).error is None
    copied(there)

    outcome = engine.resume(here, space=toy, changes={"n_trials": 9})
    assert outcome.error is None
    assert "Two machines went on with this study" in (outcome.warning or "")
    monkeypatch.setenv("COLUMNS", "500")
    assert call(monkeypatch, tmp_path, "show", "s") == 0
    out = capsys.readouterr().out
    assert re.search(r"set aside +Two machines .* is kept as journal-superseded-1\.db", out)
    with contextlib.closing(Journal(here / "journal-superseded-1.db", read_only=True)) as old:
        assert len(old.events(kind="search_start")) == 2


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_copy_is_refused_and_a_proper_one_has_runs_of_its_own(tmp_path: Path) -> None:
    study = tmp_path / "sleepy.py"
    study.write_text(TOY.read_text().replace('"sleep_s": 0.0', '"sleep_s": 0.05'))
    args = ["--space", str(study), "--method", "asha", "--n-trials", "4", "--name", "s"]
    with started(tmp_path, *args, "--n-concurrent", "1") as process:
        wait_for_results(tmp_path, 6).close()
        process.kill()
        process.wait()
    folder = tmp_path / "studies" / "s"
    shutil.copytree(folder, folder.with_name("plain"))
    status, _out, err = finished(tmp_path, "resume", "plain")
    assert status == 2
    assert "hypertune copy plain NEW" in err
    status, _out, err = finished(tmp_path, "copy", "plain", "proper")
    assert (status, err) == (0, "")
    shutil.rmtree(folder.with_name("plain"))

    points = []
    for name in ("s", "proper"):
        status, out, err = finished(tmp_path, "resume", name)
        assert (status, err) == (0, "")
        assert re.search("MLflow +up to date", out)
        study_id = about(folder.with_name(name))["study_id"]
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
            rows = db.execute(
                "SELECT run_uuid, step, count(*) FROM metrics JOIN tags t USING (run_uuid) "
                "WHERE metrics.key = 'loss' AND t.key = 'hypertune.study_id' AND t.value = ? "
                "GROUP BY run_uuid, step",
                (study_id,),
            ).fetchall()
        with contextlib.closing(
            Journal(folder.with_name(name) / "journal.db", read_only=True)
        ) as journal:
            assert len(rows) == len(journal.results())
        assert {n for _, _, n in rows} == {1}
        points.append({run for run, _, _ in rows})
    assert points[0].isdisjoint(points[1])
