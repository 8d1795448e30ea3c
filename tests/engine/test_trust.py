"""A study that somebody else hands over runs no file until that is allowed."""

import contextlib
import json
import pickle
import shutil
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TOY
from one_worker import OneWorker, settings

from hypertune import cli, engine, load_model
from hypertune.core.errors import SettingError
from hypertune.data.samples import _arrays
from hypertune.engine.trust import is_trusted, trust
from hypertune.studies.study import load_study


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notes of somebody who has begun and trusted nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "hypertune" / "trusted"


@pytest.fixture
def ours(one: OneWorker, state: Path, tmp_path: Path) -> Path:
    """A study of our own, of a file that notes when it is run."""
    file = tmp_path / "mine.py"
    note = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    file.write_text(note + TOY.read_text())
    study = replace(load_study(str(file)), n_trials=2, max_epochs=2)
    folder = engine.run(study, settings(tmp_path, method="asha", n_trials=2, max_epochs=2)).folder
    (tmp_path / "ran").unlink()
    return folder


@pytest.fixture
def handed_over(ours: Path, state: Path) -> Path:
    """The same study, as somebody gets it who did not begin it."""
    state.unlink()
    return ours


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["hypertune", *args, "--studies-dir", str(folder.parent)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_a_study_of_ones_own_is_run_again_without_a_question(ours: Path, tmp_path: Path) -> None:
    assert engine.rerun(ours, 0).differs is None
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["rerun", "resume"])
def test_the_file_that_a_journal_names_is_not_run(
    command: str,
    handed_over: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = [command, handed_over.name, *(["0"] if command == "rerun" else ["--n-trials", "3"])]
    assert call(monkeypatch, handed_over, *args) == 2
    said = capsys.readouterr().err
    assert f"would run '{tmp_path / 'mine.py'}'" in said
    assert "--trust" in said
    assert not (tmp_path / "ran").exists()


def test_nor_to_load_its_model(handed_over: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="trust=True"):
        load_model(handed_over)
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(SettingError):  # of whether the toy has a model
        load_model(handed_over, trust=True)
    assert (tmp_path / "ran").exists()


def test_a_trial_is_explained_without_running_it(
    handed_over: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.explain(handed_over, 0).comparisons
    assert call(monkeypatch, handed_over, "explain", handed_over.name, "0") == 0
    (tmp_path / "mine.py").unlink()
    assert engine.explain(handed_over, 0).comparisons
    assert not (tmp_path / "ran").exists()


def test_trust_holds_for_the_study_and_the_file_that_was_seen(
    handed_over: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, handed_over, "rerun", handed_over.name, "0", "--trust") == 0
    assert call(monkeypatch, handed_over, "rerun", handed_over.name, "0") == 0
    # The same study comes back, and names another file.
    shutil.copyfile(tmp_path / "mine.py", tmp_path / "other.py")
    other = json.dumps(str(tmp_path / "other.py"))
    with contextlib.closing(sqlite3.connect(handed_over / "journal.db")) as journal, journal:
        n = journal.execute("UPDATE study SET value = ? WHERE key = 'source'", [other]).rowcount
    assert n == 1
    assert call(monkeypatch, handed_over, "rerun", handed_over.name, "0") == 2


def test_a_file_that_the_user_names_is_run(handed_over: Path, tmp_path: Path) -> None:
    assert engine.rerun(handed_over, 0, space=str(tmp_path / "mine.py")).differs is None


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 2)])
def test_on_a_terminal_it_is_asked(
    answer: str, status: int, handed_over: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text: answer == "y\n" and "mine.py" in text)
    assert call(monkeypatch, handed_over, "rerun", handed_over.name, "0") == status
    assert (tmp_path / "ran").exists() == (status == 0)


def test_notes_are_ones_own_and_of_no_use_if_others_can_write_them(state: Path) -> None:
    trust("a", "/b \udc80\n.py")
    assert is_trusted("a", "/b \udc80\n.py")
    assert not is_trusted("a", "/b")
    assert state.stat().st_mode & 0o777 == 0o600
    assert state.parent.stat().st_mode & 0o777 == 0o700
    state.chmod(0o666)
    assert not is_trusted("a", "/b \udc80\n.py")


class _Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm"),))


def test_a_file_of_data_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = {"X": np.array([np.ones(3), np.ones(2)], dtype=object), "y": np.arange(2.0)}
    np.save("good.npy", good, allow_pickle=True)  # type: ignore[arg-type]
    assert _arrays(Path("good.npy"))["y"].tolist() == [0, 1]
    np.save("bad.npy", {"X": _Harmful()}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(pickle.UnpicklingError, match="has no place in a file of data"):
        _arrays(Path("bad.npy"))
    assert not Path("harm").exists()
