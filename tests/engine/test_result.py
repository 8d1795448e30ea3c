"""What a study found, as `run`, `resume` and `load` return it."""

import contextlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from one_worker import OneWorker, settings
from ray import tune

from hypertune import engine
from hypertune.engine.result import StudyResult, read_result
from hypertune.journal.store import Journal
from hypertune.studies.study import Study

RECORDED = Path(__file__).parents[2] / "analysis" / "recorded" / "gru_window"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("studies") / "gru_window"
    shutil.copytree(RECORDED, folder)
    return read_result(folder)


def test_a_study_is_read_in_parts_and_its_folder_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "gru_window"
    folder.mkdir()
    shutil.copy(RECORDED / "journal.db", folder)
    result = read_result(folder)
    assert (result.name, result.is_finished, result.is_running) == ("gru_window", True, False)
    assert "data" not in vars(result)
    assert "summary" not in vars(result)
    assert len(result.trials) == len(result.data.trials) > 100
    assert set(result.curves["trial"]) <= set(result.trials["trial"])
    pd.testing.assert_frame_equal(result.trials, result.trials)
    assert repr(result)
    assert {path.name for path in folder.iterdir()} <= {
        "journal.db",
        "journal.db-wal",
        "journal.db-shm",
    }
    assert result.report == folder / "report" / "report.html"
    assert result.report.is_file()


def test_the_verdict_is_the_one_that_the_report_shows(recorded: StudyResult) -> None:
    page = recorded.report.read_text(encoding="utf-8")
    first = recorded.verdict.headline.splitlines()[0]
    assert first.startswith("cell: ")
    assert first[:40] in page
    assert first[:40] in repr(recorded)


def test_one_screen_is_enough(recorded: StudyResult) -> None:
    lines = repr(recorded).splitlines()
    assert lines[0] == "gru_window (finished)"
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "cell=gru, window=48" in repr(recorded)


def test_the_best_config_is_one_that_a_study_takes_as_its_default(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    study = replace(
        toy,
        space={
            **toy.space,
            "kernel": tune.choice([(3, 3), (5, 5)]),
            "more": {"y": tune.uniform(0, 1)},
        },
        default={**toy.default, "kernel": (5, 5), "more": {"y": 0.25}},
    )
    result = engine.run(study, settings(tmp_path, method="random", n_repeats=0, n_trials=4))
    best = result.best
    assert best is not None
    assert isinstance(best["kernel"], tuple)
    assert best["x"] == result.trials["config.x"].min()
    assert replace(study, default=best).default == best


def test_a_study_without_a_result_has_no_best_config(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    bad = replace(
        toy,
        space={"x": toy.space["x"], "do": tune.choice(["fail"])},
        default={"x": 0.5, "do": "fail"},
    )
    result = engine.run(bad, settings(tmp_path, method="random", n_repeats=0, n_trials=2))
    assert result.best is None
    assert "2 failed" in repr(result)
    assert "best config" not in repr(result)


def test_texts_of_a_study_are_escaped_in_the_view_of_a_notebook(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    study = replace(toy, question="Is <script>alert(1)</script> & 'x' \x1b[31m best?")
    result = engine.run(study, settings(tmp_path, method="random", n_repeats=0, n_trials=2))
    page = result._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page
    assert "<script" not in page
    assert "\x1b" not in page + repr(result)
    assert not re.search(r"https?:|src=|@import|url\(", page)
    assert "report</th><td>" in page or "trials</th><td>" in page


def test_a_study_is_read_while_it_runs(toy: Study, one: OneWorker, tmp_path: Path) -> None:
    seen: list[StudyResult] = []

    def observe(progress: engine.Progress) -> None:
        if not seen and progress.n_epochs == 4:
            seen.append(read_result(tmp_path / "studies" / "s"))
            seen[0].summary  # noqa: B018, it is read now
            seen[0].data  # noqa: B018

    engine.run(toy, settings(tmp_path, method="random", n_repeats=0), observe)
    (running,) = seen
    assert (running.is_running, running.is_finished) == (True, False)
    assert repr(running).startswith("s (running)")
    assert 0 < len(running.curves) < len(read_result(running.folder).curves)


def test_a_study_that_ended_early_says_how_to_go_on(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    result = engine.run(toy, settings(tmp_path, method="random", n_repeats=0))
    path = result.folder / "journal.db"
    with contextlib.closing(Journal(path)) as journal:  # a session that is killed
        journal.add_event("search_start", data={})
    killed = read_result(result.folder)
    assert repr(killed).startswith("s (ended early by kill)")
    assert f'hypertune.resume("{killed.folder}")' in "".join(repr(killed).split())


def test_a_folder_that_is_gone_is_said(recorded: StudyResult, tmp_path: Path) -> None:
    gone = replace(recorded, folder=tmp_path / "gone")
    assert repr(gone).startswith("gone: ")
    assert "gone" in gone._repr_html_()
