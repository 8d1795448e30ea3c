"""A search that begins with an earlier study's best configs."""

import contextlib
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from hypertune.core.errors import JournalError, SettingError
from hypertune.engine import prepare
from hypertune.engine.warm_start import warm_start
from hypertune.journal.store import Journal
from hypertune.settings import Settings
from hypertune.studies.study import Study


def earlier(folder: Path, trials: list[tuple[dict[str, Any], dict[int, float], str]]) -> Path:
    folder.mkdir(parents=True)
    journal = Journal(folder / "journal.db")
    journal.set_study(name=folder.name, metric="accuracy", mode="max")
    for k, (config, values, reason) in enumerate(trials):
        journal.add_trial(k, config, seed=0, role="baseline" if reason == "base" else "search")
        for epoch, value in values.items():
            journal.add_result(k, epoch, {"accuracy": value})
        journal.set_state(k, "ended", reason=reason)
    journal.close()
    return folder


@pytest.fixture
def study(toy: Study) -> Study:
    opt = tune.choice([{"name": "sgd", "rate": tune.loguniform(1e-3, 1)}, {"name": "adam"}])
    return replace(
        toy,
        space={**toy.space, "opt": opt, "units": tune.randint(1, 9)},
        default={**toy.default, "opt": {"name": "adam"}, "units": 2},
    )


def test_the_best_trials_in_full_come_first_as_far_as_the_space_has_them(
    study: Study, tmp_path: Path
) -> None:
    sgd = {"name": "sgd", "rate": 0.1}
    folder = earlier(
        tmp_path / "studies" / "old-1",
        [
            ({"x": 0.1, "opt": sgd, "other": 1}, {1: 0.2, 9: 0.5}, "complete"),
            ({"x": 0.2, "opt": sgd}, {1: 0.99}, "stopped"),
            ({"x": 0.3, "opt": {"name": "sgd", "rate": 9.0}}, {1: 0.4, 9: 0.8}, "complete"),
            ({"x": 0.4, "opt": sgd}, {1: float("nan")}, "failed"),
            ({"x": 0.5, "opt": sgd}, {9: 0.9}, "base"),
            ({"x": 0.6, "opt": {"name": "adam"}}, {1: 0.3, 3: 0.35}, "stopped"),
            ({"x": 7.0, "opt": 3}, {1: 1.0, 3: 1.0}, "stopped"),
        ],
    )
    found = warm_start(study, folder)

    assert [(config["x"], config["opt"]) for config in found.configs] == [
        (0.3, {"name": "adam"}),
        (0.1, sgd),
        (0.6, {"name": "adam"}),
        (0.2, sgd),
    ]
    assert all(study.search_space.problems(config) == [] for config in found.configs)
    assert found.text == (
        "From old-1: its 4 best configs are tried first (taken: x, opt; opt out of range in 2 of 5 "
        "trials; x out of range in 1 of 5 trials; not there, left at the default: do, units; its "
        "metric is accuracy; its best is its maximum)."
    )
    settings = Settings(studies_dir=tmp_path / "studies", from_study="old-1", n_trials=9)
    prepared = prepare(study, settings)
    assert prepared.warm == found
    search = prepared.search
    jobs = [search.ask() for _ in range(5)]
    assert [job and job.config["x"] for job in jobs] == [0.5, 0.3, 0.1, 0.6, 0.2]


def test_a_study_without_anything_in_common_is_refused(study: Study, tmp_path: Path) -> None:
    folder = earlier(tmp_path / "old-2", [({"y": 1, "x": -4}, {1: 0.2}, "complete")])
    with pytest.raises(SettingError, match="none of its 1 trials with results has a value for x"):
        warm_start(study, folder)


def test_a_journal_without_a_study_or_its_tables_is_refused(study: Study, tmp_path: Path) -> None:
    Journal(tmp_path / "journal.db").close()
    with pytest.raises(SettingError, match="its journal holds no study"):
        warm_start(study, tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        db.execute("DROP TABLE results")
    with pytest.raises(JournalError, match="cannot be opened: no such table"):
        warm_start(study, tmp_path)


def test_what_failed_or_was_changed_on_the_way_or_breaks_a_constraint_is_not_taken(
    study: Study, tmp_path: Path
) -> None:
    folder = earlier(
        tmp_path / "old-3",
        [
            ({"x": 0.9}, {9: 0.9}, "complete"),
            ({"x": 0.8}, {9: 0.8}, "failed"),
            ({"x": 0.1}, {9: 0.7}, "complete"),
            ({"x": 0.4}, {9: 0.6}, "complete"),
        ],
    )
    journal = Journal(folder / "journal.db")
    journal.add_event("mutation", 2, {"config": {"x": 0.95}})
    journal.close()
    found = warm_start(replace(study, mode="min"), folder, holds=lambda config: config["x"] <= 0.5)
    assert [config["x"] for config in found.configs] == [0.4]
    assert "against the constraints in 1 of 2 trials" in found.text
    assert found.text.startswith("From old-3: its best config is tried first (")
    assert found.text.endswith("its best is its maximum).")
    with pytest.raises(SettingError, match="the constraints of this study hold for none of its 2"):
        warm_start(study, folder, holds=lambda config: False)


def test_no_more_configs_are_promised_than_are_tried(study: Study, tmp_path: Path) -> None:
    folder = earlier(
        tmp_path / "studies" / "old-4",
        [({"x": x}, {9: x}, "complete") for x in (0.9, 0.5, 0.4, 0.3)],  # 0.5 is the default
    )
    settings = Settings(studies_dir=tmp_path / "studies", from_study="old-4", n_trials=3)
    prepared = prepare(study, settings)
    assert prepared.warm is not None
    assert "its 2 best configs are tried first" in prepared.warm.text
    assert [config["x"] for config in prepared.search.start] == [0.5, 0.9, 0.4]
    one = prepare(study, replace(settings, n_trials=1))
    assert one.warm is not None
    assert "there is no room for its configs among so few trials" in one.warm.text
    assert folder.is_dir()


def test_configs_to_start_from_are_tried_once_and_must_all_be(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    a = {**study.default, "x": 0.125}
    path.write_text(json.dumps([dict(study.default), a, a]))
    assert prepare(study, Settings(start=path, n_trials=2)).search.start == [study.default, a]
    with pytest.raises(SettingError, match="2 configs are to be tried first, the study's default"):
        prepare(study, Settings(start=path, n_trials=1))
    path.write_text("[" * 100_000)
    with pytest.raises(SettingError, match="cannot be read: maximum recursion depth exceeded"):
        prepare(study, Settings(start=path))
