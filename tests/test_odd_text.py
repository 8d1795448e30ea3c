"""Whatever text a study or its trials bring, a search goes on, or does not begin."""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from one_worker import OneWorker, settings
from ray import tune

from hypertune import engine
from hypertune.analysis import load_trials
from hypertune.core.errors import SettingError
from hypertune.journal.store import Journal
from hypertune.studies.study import Study

UNDECODABLE = os.fsdecode(b"caf" + bytes([0xE9]))


def report_odd_text(config: dict[str, Any], report: Any) -> None:
    for epoch in (1, 2):
        if config["x"] > 0.7 and epoch == 2:
            raise ValueError(f"{UNDECODABLE}\x00\x1b[31m")
        names = {UNDECODABLE: 1.0}
        if config["x"] < 0.3:
            names["caf\\udce9"] = 2.0
        report(epoch=epoch, **names, **{"P(a|b)": config["x"] / epoch})


def odd_study(**changes: Any) -> Study:
    given: dict[str, Any] = {
        "question": "Is it so?",
        "factors": ("x",),
        "space": {"x": tune.uniform(0, 1)},
        "default": {"x": 0.5},
        "trainable": report_odd_text,
        "metric": "P(a|b)",
        "max_epochs": 2,
        "n_trials": 8,
        "n_repeats": 0,
    }
    return Study(**given | changes)


def test_nothing_that_a_trial_says_ends_the_search(one: OneWorker, tmp_path: Path) -> None:
    how = settings(tmp_path, method="random")
    outcome = engine.run(odd_study(), how, report=True)

    assert (outcome.error, outcome.stopped_by, outcome.warning) == (None, None, None)
    frame = load_trials(outcome.folder)
    searched = frame[frame["role"] == "search"]
    assert len(searched) == 8
    for x, reason, detail in zip(
        searched["config.x"], searched["reason"], searched["detail"], strict=True
    ):
        if x > 0.7:
            assert (reason, detail) == ("failed", "ValueError: caf\\udce9\\x00\x1b[31m")
        elif x < 0.3:
            assert reason == "failed"
            assert "names of metrics must differ as UTF-8 spells them" in detail
        else:
            assert reason == "complete"
    assert set(searched["reason"]) == {"failed", "complete"}
    assert searched["detail"].str.contains("names of metrics").any()
    with contextlib.closing(Journal(outcome.folder / "journal.db", read_only=True)) as journal:
        names = {name for row in journal.results() for name in row.metrics}
    assert names == {"P(a|b)", "caf\\udce9"}
    # Another client of SQLite reads all of it as UTF-8.
    with contextlib.closing(sqlite3.connect(outcome.folder / "journal.db")) as db:
        assert db.execute("SELECT max(length(detail)) FROM trials").fetchone()[0] > 100


def test_a_folder_whose_name_is_not_utf8_is_refused_and_not_made(
    one: OneWorker, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="--studies-dir must be UTF-8 without NUL"):
        engine.run(odd_study(), settings(tmp_path, studies_dir=tmp_path / UNDECODABLE))
    assert not (tmp_path / UNDECODABLE).exists()


def test_a_trial_that_says_odd_text_is_the_same_when_it_runs_again(
    one: OneWorker, tmp_path: Path
) -> None:
    outcome = engine.run(odd_study(), settings(tmp_path, method="random", n_trials=2))

    again = engine.rerun(outcome.folder, 0, space=odd_study())
    assert (again.failure, again.differs, again.n_epochs) == (None, None, 2)
