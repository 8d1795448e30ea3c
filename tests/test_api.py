"""The way in from Python."""

import contextlib
import inspect
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from one_worker import OneWorker
from ray import tune

import hypertune
from hypertune.core.errors import SettingError
from hypertune.core.space import Space
from hypertune.engine import untrusted_files
from hypertune.engine.progress import Progress
from hypertune.engine.result import StudyResult
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import Journal
from hypertune.search.searchers.random import Random
from hypertune.studies.study import Study

pytestmark = pytest.mark.filterwarnings("default")


class StoppedError(Exception):
    """What a program of a user does on SIGTERM."""


@pytest.fixture
def on_sigterm() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGTERM, stop)
    # A shell has what it runs in the background ignore a Ctrl-C.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, ctrl_c)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("number", "effect"),
    [(signal.SIGTERM, StoppedError), (signal.SIGINT, KeyboardInterrupt)],
)
@pytest.mark.parametrize("stage", ["search", "report"])
@pytest.mark.usefixtures("on_sigterm")
def test_a_signal_ends_a_loop_over_studies_once_the_present_one_is_closed(
    number: signal.Signals,
    effect: type[BaseException],
    stage: str,
    toy: Study,
    one: OneWorker,
    tmp_path: Path,
) -> None:
    sent: list[int] = []

    def observe(progress: Progress) -> None:
        if not sent and progress.n_epochs >= 4 and progress.stage == stage:
            sent.append(number)
            signal.raise_signal(number)

    settings: dict[str, Any] = {"studies_dir": tmp_path, "method": "random", "n_repeats": 0}

    def loop() -> None:
        for _ in range(3):
            hypertune.run(toy, observer=observe, n_trials=2, **settings)

    with pytest.raises(effect):
        loop()

    (folder,) = [path for path in tmp_path.iterdir() if (path / "journal.db").exists()]
    journal = Journal(folder / "journal.db", read_only=True)
    (end,) = journal.events(kind="search_end")
    assert end.data["stopped_by"] == ("signal" if stage == "search" else None)
    assert all(trial.state == "ended" for trial in journal.trials())
    journal.close()


PLAIN: dict[str, Any] = {"method": "random", "n_repeats": 0, "n_trials": 2}


def test_all_that_is_wrong_is_said_by_name_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as told:
        hypertune.run(
            3,  # type: ignore[arg-type]
            n_trails=2,
            until_decided="yes",
            time_budget_s="20 q",
            observer=4,  # type: ignore[arg-type]
            progress="x",  # type: ignore[arg-type]
            studies_dir=tmp_path / "studies",
        )
    lines = str(told.value).splitlines()
    assert len(lines) == 6
    for line, name in zip(
        lines,
        ("study", "observer", "progress", "'n_trails'", "--time-budget", "--until"),
        strict=True,
    ):
        assert name in line
    assert "Did you mean 'n_trials'?" in lines[3]
    with pytest.raises(SettingError, match=r"'progres'\. Did you mean 'progress'\?"):
        hypertune.run("gru_window", progres=True)
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_resumed_by_its_name_its_folder_or_its_result(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    studies = str(tmp_path / "studies")
    result = hypertune.run(toy, name="s", studies_dir=studies, time_budget_s="20m", **PLAIN)
    assert isinstance(result, StudyResult)
    with pytest.raises(SettingError) as told:
        hypertune.resume("s", studies_dir=studies, n_trials="x", sead=1, n_concurent=1)
    lines = str(told.value).splitlines()
    assert [line.split(".")[0] for line in lines[:2]] == [
        "Unknown setting 'sead'",
        "Unknown setting 'n_concurent'",
    ]
    assert "Did you mean 'n_concurrent'?" in lines[1]
    assert "--n-trials must be a whole number" in lines[2]
    ways: list[Any] = ["s", result.folder, str(result.folder), result]
    for n_trials, way in enumerate(ways, start=3):
        more = hypertune.resume(way, studies_dir=studies, space=toy, n_trials=n_trials)
        assert (more.stopped_by, len(more.trials[more.trials["role"] == "search"])) == (
            None,
            n_trials,
        )
    with pytest.raises(SettingError, match="is finished"):
        hypertune.resume(result, space=toy)


def test_a_searcher_and_a_scheduler_of_ones_own_search_and_go_on(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "import hypertune\nfrom hypertune.search.searchers.random import Random\n"
    text += "class Mine(Random):\n    pass\n"
    (tmp_path / "searcher_of_mine.py").write_text(text)
    mine = import_module("searcher_of_mine").Mine
    given: dict[str, Any] = {**PLAIN, "studies_dir": tmp_path / "studies"}
    given.pop("method", None)
    result = hypertune.run(toy, searcher=mine, **given)
    method = StudyHistory.read(result.folder).study["method"]
    assert method == f"{tmp_path / 'searcher_of_mine.py'}:Mine"
    same = hypertune.run(toy, method="random", **given)
    configs = [trial.config for trial in StudyHistory.read(same.folder).searched]
    assert [trial.config for trial in StudyHistory.read(result.folder).searched] == configs
    # Somebody who did not begin the study is asked before the journal has its file run.
    notes = tmp_path / "state" / "hypertune" / "trusted"
    begun = notes.read_text()
    notes.write_text("")
    with pytest.raises(SettingError, match=r"searcher_of_mine\.py', which its journal names, but"):
        hypertune.resume(result, space=toy, n_trials=3)
    assert untrusted_files(result.folder, moved=True) == [tmp_path / "searcher_of_mine.py"]
    notes.write_text(begun)
    (tmp_path / "searcher_of_mine.py").write_text(text + "# another word\n")
    more = hypertune.resume(result, space=toy, n_trials=3)
    assert "searcher_of_mine.py' was changed since this study began" in (more.warning or "")
    assert len(StudyHistory.read(more.folder).searched) == 3
    (tmp_path / "searcher_of_mine.py").unlink()
    with pytest.raises(SettingError, match="which is not there any more: put it back"):
        hypertune.resume(result, space=toy, n_trials=4)
    assert hypertune.load(result).study_id == result.study_id


def test_a_class_in_no_file_searches_and_is_not_gone_on_with(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    class Here(Random):
        pass

    def made(space: Space, max_epochs: int, seed: int) -> Random:
        return Here(space, max_epochs, seed)

    given: dict[str, Any] = {**PLAIN, "studies_dir": tmp_path / "studies"}
    given.pop("method", None)
    for searcher in (Here, made):
        result = hypertune.run(toy, searcher=searcher, **given)
        assert StudyHistory.read(result.folder).study["method"] == searcher.__name__
        with pytest.raises(SettingError, match="given from Python and is not in the journal"):
            hypertune.resume(result, space=toy, n_trials=4)
    with pytest.raises(SettingError, match="or a subclass of hypertune"):
        hypertune.run(toy, searcher=int, **given)


def test_a_study_is_loaded_by_its_name_or_its_folder(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = hypertune.run(toy, name="s", **PLAIN)
    for way in ("s", "studies/s", Path("studies/s"), result):
        assert hypertune.load(way).study_id == result.study_id
    with pytest.raises(SettingError, match=r"no study 't' in 'studies'.* Choose one of: s"):
        hypertune.load("t")
    with pytest.raises(SettingError, match="study must be a name or a folder, but got 3"):
        hypertune.load(3)  # type: ignore[arg-type]


def test_until_decided_goes_on_as_the_flag_does(toy: Study, one: OneWorker, tmp_path: Path) -> None:
    study = replace(
        toy,
        space={**toy.space, "level": tune.choice(["a", "b"])},
        default={**toy.default, "level": "a"},
        factors=("level",),
    )
    with pytest.raises(SettingError, match="--until-decided needs a --time-budget"):
        hypertune.run(study, until_decided=True, studies_dir=tmp_path)
    result = hypertune.run(
        study, until_decided=True, time_budget_s="5s", studies_dir=tmp_path, n_repeats=2, n_trials=4
    )
    with contextlib.closing(Journal(result.folder / "journal.db", read_only=True)) as journal:
        assert journal.events(kind="look")


def test_progress_is_shown_where_it_is_asked_for(
    toy: Study,
    one: OneWorker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    settings = {"studies_dir": tmp_path, **PLAIN}
    hypertune.run(toy, observer=lambda state: seen.append(state.stage), progress=True, **settings)
    assert "searching: " in capsys.readouterr().out
    assert {"search", "report"} <= {*seen}
    hypertune.run(toy, **settings)
    assert "searching" not in capsys.readouterr().out
    monkeypatch.setattr("hypertune.api.in_notebook", lambda: True)
    hypertune.run(toy, **settings)
    assert "searching: " in capsys.readouterr().out
    hypertune.run(toy, progress=False, **settings)
    assert "searching" not in capsys.readouterr().out


def test_every_public_name_is_there_and_says_how_it_is_used() -> None:
    lacking = []
    for name in hypertune.__all__:
        found = getattr(hypertune, name)
        if ">>> " not in (inspect.getdoc(found) or ""):
            lacking.append(name)
    assert lacking == []


def test_the_package_is_imported_without_what_it_needs_later() -> None:
    code = "import sys, hypertune; print(*{'ray', 'torch', 'mlflow', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
