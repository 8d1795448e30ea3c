"""Folders of studies: damaged ones, ones in which nothing has begun, and two that begin at once."""

import contextlib
import errno
import itertools
import os
import re
import sqlite3
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import call
from conftest import TOY
from made_studies import Made, write_study
from one_worker import OneWorker, settings

import hypertune
from hypertune import engine
from hypertune.core.errors import HypertuneError, JournalError, SettingError
from hypertune.engine.folder import locked, new_folder
from hypertune.journal.store import FORMAT, Journal
from hypertune.settings import Settings
from hypertune.studies.study import Study

# ---- damage ----


def write(folder: Path, content: bytes) -> None:
    (folder / "journal.db").write_bytes(content)


def halve(folder: Path) -> None:
    os.truncate(folder / "journal.db", (folder / "journal.db").stat().st_size // 2)


def spoil_a_page(folder: Path) -> None:
    with (folder / "journal.db").open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\x5a" * 4096)


def change(folder: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def put_a_folder(folder: Path) -> None:
    (folder / "journal.db").unlink()
    (folder / "journal.db").mkdir()
    (folder / "journal.db" / "file").write_text("x")


def only(folder: Path, *names: str) -> None:
    (folder / "journal.db").unlink()
    for name in names:
        (folder / name).touch()


def only_schema(folder: Path) -> None:
    (folder / "journal.db").unlink()
    Journal(folder / "journal.db").close()


def only_header(folder: Path) -> None:
    """Leave what a kill does between the choice of the write-ahead log and the first table."""
    (folder / "journal.db").unlink()
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")
    assert (folder / "journal.db").stat().st_size


def cut_off_beside_its_log(folder: Path) -> None:
    write(folder, b"")
    (folder / "journal.db-wal").write_bytes(b"the last rows")


def lock_out(folder: Path) -> None:
    (folder / "journal.db").chmod(0)


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What befalls a study's folder, and what is said of it."""

    do: Callable[[Path], None]
    said: str


BEGAN_NOTHING = {
    "empty folder": lambda folder: only(folder),
    "lock alone": lambda folder: only(folder, "driver.lock"),
    "0 bytes": lambda folder: only(folder, "driver.lock", "journal.db"),
    "no table": only_header,
    "tables without a study": only_schema,
}
DAMAGES = {
    **{name: Damage(do=do, said="No study has begun in") for name, do in BEGAN_NOTHING.items()},
    "garbage": Damage(
        do=lambda folder: write(folder, b"no database, but text\n" * 500),
        said="cannot be opened: file is not a database",
    ),
    "half a file": Damage(do=halve, said=r"malformed|cannot be read"),
    "a damaged page": Damage(do=spoil_a_page, said=r"cannot be read: .*\.recover"),
    "a folder in its place": Damage(do=put_a_folder, said="is a folder, but a study's journal is"),
    "newer format": Damage(
        do=lambda folder: change(folder, f"PRAGMA user_version = {FORMAT + 1}"),
        said="has format 3, but this version reads 2. It was written by a newer hypertune",
    ),
    "another program's database": Damage(
        do=lambda folder: change(folder, "PRAGMA user_version = 0", "DROP TABLE results"),
        said="has format 0, but this version reads 2. It is no journal",
    ),
    "a table less": Damage(
        do=lambda folder: change(folder, "DROP TABLE events"), said="no such table: events"
    ),
    "keys less": Damage(
        do=lambda folder: change(folder, "DELETE FROM study WHERE key IN ('mode', 'settings')"),
        said="lacks what every study has: mode, settings",
    ),
    "no JSON": Damage(
        do=lambda folder: change(folder, "UPDATE study SET value = 'x' WHERE key = 'mode'"),
        said="'x' is no JSON",
    ),
    "results of no trial": Damage(
        do=lambda folder: change(folder, "DELETE FROM trials"),
        said="9 results are of trials that it does not hold",
    ),
    "0 bytes beside its log": Damage(
        do=cut_off_beside_its_log, said="is empty, but 'journal.db-wal' beside it is not"
    ),
}
COMMANDS = {
    "show": ["show", "bad"],
    "trials": ["trials", "bad"],
    "report": ["report", "bad"],
    "explain": ["explain", "bad", "0"],
    "rerun": ["rerun", "bad", "0"],
    "compare": ["compare", "good", "bad"],
    "resume": ["resume", "bad"],
    "sync": ["sync", "bad"],
    "attach": ["attach", "bad"],
    "ui": ["ui", "bad"],
}


@pytest.fixture
def spoil(tmp_path: Path) -> Callable[[str], Path]:
    """Have a good study, and one that something befalls."""

    def spoil(damage: str) -> Path:
        for name in ("good", "bad"):
            write_study(tmp_path / "studies" / name, [Made(losses=[1.0] * 9)])
        DAMAGES[damage].do(tmp_path / "studies" / "bad")
        return tmp_path / "studies" / "bad"

    return spoil


def assert_told(text: str, damage: str) -> None:
    assert re.search(DAMAGES[damage].said, " ".join(text.split())), text
    assert "Traceback" not in text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_study_is_told_in_one_message_by_every_command(
    damage: str,
    command: str,
    spoil: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = spoil(damage)
    before = {p.name: p.stat().st_size for p in folder.iterdir() if p.name != "journal.db-shm"}
    assert call(monkeypatch, tmp_path, *COMMANDS[command]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert_told(error, damage)
    # It is as it was: what may be saved is not spoiled by a look at it.
    assert {p.name: p.stat().st_size for p in folder.iterdir()} == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_study_hides_no_other_and_can_be_deleted(
    damage: str,
    spoil: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = spoil(damage)
    monkeypatch.setenv("COLUMNS", "500")
    assert call(monkeypatch, tmp_path, "studies") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if re.match(r"good .* finished", line)]
    (line,) = [line for line in lines if line.startswith("bad: ")]
    assert_told(line, damage)

    with pytest.raises(HypertuneError):
        hypertune.load_trials(folder)
    with pytest.raises(HypertuneError):
        hypertune.load_model("bad", studies_dir=tmp_path / "studies")
    assert call(monkeypatch, tmp_path, "delete", "bad", "--yes") == 0
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="whoever is root may read everything")
def test_a_journal_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("closed", "good", "locked"):
        write_study(tmp_path / "studies" / name, [Made(losses=[1.0] * 9)])
    (tmp_path / "studies" / "locked" / "journal.db").chmod(0)
    (tmp_path / "studies" / "closed").chmod(0)
    monkeypatch.setenv("COLUMNS", "500")
    try:
        assert call(monkeypatch, tmp_path, "studies") == 0
        out = capsys.readouterr().out
        assert re.search(r"^good .* finished", out, flags=re.MULTILINE)
        assert re.search(r"^locked: This user may not read the journal", out, flags=re.MULTILINE)
        assert re.search(r"^closed: .*Permission denied", out, flags=re.MULTILINE)
        assert call(monkeypatch, tmp_path, "delete", "locked", "--yes") == 0
    finally:
        (tmp_path / "studies" / "closed").chmod(0o700)


def test_an_empty_folder_of_studies_and_none_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, tmp_path, "studies") == 0
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "notes.txt").write_text("no study")
    (tmp_path / "studies" / "pictures").mkdir()
    (tmp_path / "studies" / "pictures" / "one.png").touch()
    assert call(monkeypatch, tmp_path, "studies") == 0
    assert capsys.readouterr().out == "There is no study yet.\n" * 2
    # Nor is what is no study's taken for one, to be deleted or to be written into.
    assert call(monkeypatch, tmp_path, "delete", "pictures", "--yes") == 2
    for name in ("pictures", "notes.txt"):
        assert call(monkeypatch, tmp_path, "--space", str(TOY), "--name", name) == 2
        assert "is there already, and is no study" in capsys.readouterr().err


# ---- birth ----


def begin(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> int:
    monkeypatch.setattr("hypertune.analysis.write_report", lambda folder: None)
    args = ["--space", str(TOY), "--method", "random", "--n-trials", "1", "--max-epochs", "1"]
    return call(monkeypatch, folder, *args, "--n-repeats", "0", "--name", "bad", *more)


@pytest.mark.parametrize("more", [(), ("--or-resume",)], ids=["run", "or-resume"])
@pytest.mark.parametrize("left", BEGAN_NOTHING)
def test_a_name_under_which_nothing_has_begun_is_free(
    left: str,
    more: tuple[str, ...],
    spoil: Callable[[str], Path],
    one: OneWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = spoil(left)
    assert begin(monkeypatch, tmp_path, *more) == 0, capsys.readouterr().err
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        assert journal.study()["name"] == "bad"
        assert [trial.reason for trial in journal.trials() if trial.role == "search"] == [
            "complete"
        ]


@pytest.mark.parametrize("more", [(), ("--or-resume",)], ids=["run", "or-resume"])
@pytest.mark.parametrize("damage", sorted(DAMAGES.keys() - BEGAN_NOTHING.keys()))
def test_nothing_begins_where_a_study_is_that_cannot_be_read(
    damage: str,
    more: tuple[str, ...],
    spoil: Callable[[str], Path],
    one: OneWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(damage)
    assert begin(monkeypatch, tmp_path, *more) == 2
    error = capsys.readouterr().err
    if more:
        assert_told(error, damage)
    else:
        assert "There is a study 'bad'" in error


KILLED, BEGAN = 9, 10


def killed_at(n: int, begin: Callable[[], object]) -> int:
    """Begin a study in a process that is killed at its n-th step on the study's folder.

    Steps are folders and files that are made or opened, and statements to SQLite.

    Returns:
        KILLED, or BEGAN if the search was about to start by then.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    n_steps, connect = 0, sqlite3.connect

    def step(what: str) -> None:
        nonlocal n_steps
        n_steps += 1
        if "search_start" in what:
            os._exit(BEGAN)
        if n_steps > n:
            os._exit(KILLED)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("os.mkdir", "open", "sqlite3.connect") and "bad" in str(args[0]):
            step(event)

    def traced(*args: Any, **more: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*args, **more)
        db.set_trace_callback(step)
        return db

    try:
        sys.addaudithook(hook)
        sqlite3.connect = traced  # type: ignore[assignment]
        begin()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def test_a_kill_at_any_step_of_a_birth_leaves_the_name_free_or_a_study_that_goes_on(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    how = settings(tmp_path, name="bad", n_trials=1, max_epochs=1, n_repeats=0, method="random")
    went_on: list[bool] = []
    for n in itertools.count():
        end = killed_at(n, lambda: engine.run(toy, how))
        if end == BEGAN:
            break
        assert end == KILLED
        went_on.append(engine.has_study(how))
        if went_on[-1]:
            outcome = engine.resume(engine.study_folder(how.studies_dir, "bad"), space=toy)
        else:
            outcome = engine.run(toy, how)
        assert outcome.error is None
        with contextlib.closing(Journal(outcome.folder / "journal.db", read_only=True)) as journal:
            assert [trial.reason for trial in journal.trials()][:1] == ["complete"]
        engine.delete(outcome.folder)
    # Nothing has begun for many steps, and from one on it is a study.
    assert went_on == sorted(went_on)
    assert went_on.count(False) > 15
    assert went_on.count(True) >= 1


def test_a_study_that_cannot_be_described_leaves_nothing(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*args: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Journal, "_set_study", no_room)
    with pytest.raises(JournalError, match="disk is full"):
        engine.run(toy, settings(tmp_path, name="bad"))
    assert list((tmp_path / "studies").iterdir()) == []


def test_of_two_that_begin_the_same_name_at_once_one_has_it(tmp_path: Path) -> None:
    how = Settings(studies_dir=tmp_path, name="s")
    with new_folder("toy", how) as folder:
        with pytest.raises(SettingError, match="'s' is under way in another"), new_folder("x", how):
            pass
        Journal(folder / "journal.db", study={"name": "s"}).close()
    with pytest.raises(SettingError, match="There is a study 's'"), new_folder("toy", how):
        pass
    with pytest.raises(JournalError, match="holds a study already"):
        Journal(folder / "journal.db", study={"name": "other"})


def test_numbers_go_to_one_study_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how, mkdir = Settings(studies_dir=tmp_path), Path.mkdir

    def taken(path: Path, *args: Any, **more: Any) -> None:
        monkeypatch.undo()
        mkdir(path)  # another process is faster
        mkdir(path, *args, **more)

    monkeypatch.setattr(Path, "mkdir", taken)
    with new_folder("toy", how) as folder:
        assert folder.name == "toy-2"
    # No study has begun there: the number is free again.
    assert [path.name for path in tmp_path.iterdir()] == ["toy-1"]


def test_a_folder_that_cannot_be_written_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("hypertune.engine.folder.FileLock.acquire", refused)
    with (
        pytest.raises(SettingError, match="cannot be written to: Permission denied"),
        locked(tmp_path),
    ):
        pass
    assert not engine.is_under_way(tmp_path)
