"""A folder that was moved goes on; of one that was copied only one goes on as the same study."""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from one_worker import OneWorker, settings
from test_cli import call
from test_resume import cut, record

from hypertune import engine
from hypertune.engine.checkpoints import Checkpoints
from hypertune.engine.folder import locked
from hypertune.errors import JournalError, SettingError
from hypertune.records import Journal
from hypertune.records.cursors import Cursors
from hypertune.study import Study


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
