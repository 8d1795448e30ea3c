"""The MLflow replica, delivered into real stores and checked against the journal it came from."""

import contextlib
import http.server
import json
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from hypertune.core.errors import JournalError
from hypertune.journal.snapshot import copy_journal
from hypertune.journal.store import Journal
from hypertune.studies.predictor import keep
from hypertune.studies.study import Study, load_study
from hypertune.tracking.mlflow import replica
from hypertune.tracking.mlflow.cursors import pending_on_disk
from hypertune.tracking.mlflow.keys import OWN, key_name, name_key
from hypertune.tracking.mlflow.replica import deliver
from hypertune.tracking.uploader import Delivery, Uploader

# mlflow uses what the newest SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

STUDY: dict[str, Any] = {
    "name": "gru-1",
    "space": "gru",
    "study_id": "0f0e",
    "question": "Is it so?",
    "factors": ["cell"],
    "method": "asha",
    "seed": 7,
    "n_trials": 3,
    "max_epochs": 4,
    "metric": "loss",
    "mode": "min",
    "default": {"lr": 0.01, "cell": "gru"},
    "log_parameters": ["lr"],
    "settings": {"n_workers": 2, "levels": [1, 2]},
    "git_commit": "abc123",
    "environment": {"python": "3.11"},
}
T0 = 1_700_000_000_000


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; its schema takes seconds to create, a copy does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    replica._connected(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    folder = tmp_path / "gru-1"
    folder.mkdir()
    journal = Journal(folder / "journal.db")
    journal.set_study(**STUDY)
    journal.add_event("search_start")
    yield journal
    journal.close()


def add_trial(journal: Journal, trial: int, epochs: int = 4, reason: str | None = None) -> None:
    config = {"n_layers": 1, "lr": 0.01, "cell": "gru", "schedule": {"warmup": trial}, "flag": True}
    journal.add_trial(trial, config, seed=100 + trial)
    journal.set_state(trial, "running")
    add_results(journal, trial, 1, epochs)
    if reason:
        journal.set_state(trial, "ended", reason=reason)


def add_results(journal: Journal, trial: int, first: int, last: int) -> None:
    for epoch in range(first, last + 1):
        metrics = {"loss": abs(epoch - 2.5) + trial, "train/loss": 1 / epoch}
        journal.add_result(trial, epoch, metrics, t_ms=T0 + 1000 * epoch + trial)


def sent(journal: Journal, uri: str, timeout_s: float = 60) -> Delivery:
    delivery = deliver(journal.path, uri, timeout_s=timeout_s)
    assert delivery.pending == 0, delivery
    return delivery


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(uri: str, delivery: Delivery) -> dict[str, Any]:
    """Return the runs by trial id, the parent as ``study``; each is there once."""
    found = client(uri).search_runs([delivery.experiment_id])
    by_key = {run.data.tags.get("hypertune.trial", "study"): run for run in found}
    assert len(by_key) == len(found)
    return by_key


def histories(uri: str, run: Any) -> set[tuple[str, int, int, float]]:
    mlflow = client(uri)
    return {
        (key, point.step, point.timestamp, point.value)
        for key in run.data.metrics
        for point in mlflow.get_metric_history(run.info.run_id, key)
    }


def recorded(journal: Journal, trial: int) -> set[tuple[str, int, int, float]]:
    return {
        (key, row.epoch, row.t_ms, value)
        for row in journal.results(trial=trial)
        for key, value in row.metrics.items()
        if math.isfinite(value)
    }


def rows(uri: str) -> dict[str, list[Any]]:
    """Return all that a store holds, table by table."""
    tables = ("experiments", "runs", "params", "tags", "metrics", "latest_metrics")
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
        return {t: sorted(db.execute(f"SELECT * FROM {t}").fetchall(), key=repr) for t in tables}


def test_mlflow_holds_what_the_journal_holds(journal: Journal, store: str, tmp_path: Path) -> None:
    for trial, reason in enumerate(("complete", "stopped", None)):
        add_trial(journal, trial, epochs=4 - trial, reason=reason)
    journal.add_trial(3, {"lr": 1.0}, seed=0)  # waits: no run yet
    delivery = sent(journal, store)
    found = runs(store, delivery)
    assert delivery.warning is None
    assert set(found) == {"study", "0", "1", "2"}
    assert found["study"].info.run_id == delivery.run_id
    at_end = {
        "0": {("hypertune/best", 0, T0 + 4000, 0.5), ("hypertune/final", 0, T0 + 4000, 1.5)}
        | {("hypertune/best_epoch", 0, T0 + 4000, 2.0), ("hypertune/n_epochs", 0, T0 + 4000, 4.0)},
        "1": {("hypertune/best", 0, T0 + 3001, 1.5), ("hypertune/best_epoch", 0, T0 + 3001, 2.0)}
        | {("hypertune/n_epochs", 0, T0 + 3001, 3.0)},
        "2": set(),
    }
    for key, ended in at_end.items():
        run, trial = found[key], int(key)
        assert histories(store, run) == recorded(journal, trial) | ended
        assert run.data.params == {
            "lr": "0.01",
            "hypertune/log10/lr": "-2.0",
            "cell": "gru",
            "schedule.warmup": key,
            "flag": "True",
            "n_layers": "1",
            "seed": str(100 + trial),
        }
        assert run.data.tags["mlflow.parentRunId"] == delivery.run_id
        assert run.data.tags["hypertune.study_id"] == "0f0e"
        assert run.info.run_name == f"trial-{trial:03d}"
        assert run.info.start_time == journal.trial(trial).started_ms
        assert run.info.end_time == journal.trial(trial).ended_ms
    experiment = client(store).get_experiment(delivery.experiment_id)
    assert experiment.name == "gru"
    assert experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()


def test_the_study_is_the_parent_run(journal: Journal, store: str) -> None:
    add_trial(journal, 0, reason="complete")
    parent = runs(store, sent(journal, store))["study"]
    assert parent.info.status == "RUNNING"
    journal.add_event("search_end", data={"stopped_by": "signal"})
    parent = runs(store, sent(journal, store))["study"]
    assert (parent.info.run_name, parent.info.status) == ("gru-1", "KILLED")
    assert parent.data.metrics == {"hypertune/n_trials_ended": 1, "hypertune/best_so_far": 0.5}
    names = ("method", "seed", "n_trials", "max_epochs", "metric", "mode")
    settings = {name: str(STUDY[name]) for name in names} | {"n_workers": "2"}
    assert parent.data.params == {f"hypertune/{k}": v for k, v in settings.items()}
    assert "Is it so?" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["mlflow.source.git.commit"] == "abc123"
    # It is extended: the status follows, the params of the start stay, and nothing is refused.
    journal.set_study(n_trials=6)
    journal.add_event("search_start")
    delivery = sent(journal, store)
    parent = runs(store, delivery)["study"]
    assert (parent.info.status, parent.data.params["hypertune/n_trials"]) == ("RUNNING", "3")
    assert "6 trials" in parent.data.tags["mlflow.note.content"]
    journal.path.with_name("replica.db").unlink()
    journal.add_event("search_end")
    assert sent(journal, store).warning is None
    assert runs(store, delivery)["study"].info.status == "FINISHED"


def test_the_page_of_a_study_has_a_view_of_its_own(journal: Journal, store: str) -> None:
    delivery = sent(journal, store)
    assert delivery.experiment_id is not None
    tags = client(store).get_experiment(delivery.experiment_id).tags
    view = json.loads(tags["mlflow.sharedViewState.0f0e"])
    assert view["runsExpanded"] == {delivery.run_id: True}
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`hypertune/best`", True)
    assert "params.`cell`" in view["selectedColumns"]
    (section,) = view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {section["uuid"]}
    kinds = [chart["type"] for chart in view["compareRunCharts"]]
    assert kinds == ["LINE", "LINE", "PARALLEL", "SCATTER"]
    parallel, scatter = view["compareRunCharts"][2:]
    assert parallel["selectedParams"] == ["cell", "hypertune/log10/lr"]
    assert parallel["selectedMetrics"] == ["hypertune/final"]  # those stopped early have none
    assert scatter["xaxis"] == {"key": "hypertune/log10/lr", "type": "PARAM"}
    found = client(store).search_runs([delivery.experiment_id], view["searchFilter"])
    assert {run.info.run_id for run in found} == {
        run.info.run_id for run in runs(store, delivery).values()
    }


def test_a_study_shows_how_far_it_has_come(journal: Journal, store: str) -> None:
    def points() -> list[tuple[str, int, float]]:
        parent = runs(store, sent(journal, store))["study"]
        return sorted((key, step, v) for key, step, _, v in histories(store, parent))

    add_trial(journal, 3, reason="complete")
    journal.add_trial(9, {}, seed=0, role="baseline")
    journal.set_state(9, "ended", reason="complete")
    expected = [("hypertune/best_so_far", 1, 3.5), ("hypertune/n_trials_ended", 1, 1.0)]
    assert points() == expected
    add_trial(journal, 1, reason="stopped")  # its value is not one in full
    add_trial(journal, 2, reason="complete")
    journal.set_state(1, "running")  # the study was extended
    journal.set_state(1, "ended", reason="converged")
    expected = [
        ("hypertune/best_so_far", k, v) for k, v in enumerate((3.5, 3.5, 2.5, 1.5), start=1)
    ]
    expected += [
        ("hypertune/n_trials_ended", k, v) for k, v in enumerate((1.0, 2.0, 3.0, 3.0), start=1)
    ]
    assert points() == expected
    journal.path.with_name("replica.db").unlink()
    assert points() == expected


def test_the_data_set_is_an_input_of_the_study(journal: Journal, store: str) -> None:
    data_set = {"digest": "ab12", "source": "/data/it.csv", "n_train": 70, "n_val": 15}
    journal.set_study(data="it", data_set=data_set)
    add_trial(journal, 0)
    sent(journal, store)
    journal.path.with_name("replica.db").unlink()
    found = runs(store, sent(journal, store))
    (given,) = found["study"].inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("it", "ab12")
    assert json.loads(given.dataset.source) == {"uri": "/data/it.csv"}
    assert json.loads(given.dataset.profile) == {"n_train": 70, "n_val": 15}
    assert not found["0"].inputs.dataset_inputs
    assert found["0"].data.tags["hypertune.data"] == "it (ab12)"


def artifacts(uri: str, delivery: Delivery, folder: Path) -> dict[str, str]:
    """Return the artifacts of the study's run, by path."""
    assert delivery.run_id is not None
    got = folder / f"got-{time.time_ns()}"
    got.mkdir()
    place = Path(client(uri).download_artifacts(delivery.run_id, "", str(got)))
    files = (path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): path.read_text() for path in files}


def test_the_artifacts_of_a_study(journal: Journal, store: str, tmp_path: Path) -> None:
    add_trial(journal, 0, reason="complete")
    (journal.path.parent / "code-1a2b3c4d.diff").write_text("-old\n+new\n")
    journal.add_event("search_end")
    found = artifacts(store, sent(journal, store), tmp_path)
    assert set(found) == {"code/code-1a2b3c4d.diff", "trials.json"}
    assert found["code/code-1a2b3c4d.diff"] == "-old\n+new\n"
    (trial,) = json.loads(found["trials.json"])
    assert (trial["id"], trial["reason"]) == (0, "complete")
    assert trial["config"] == journal.trial(0).config
    # A report may be written later, by a command of its own.
    report = journal.path.parent / "report"
    report.mkdir()
    (report / "report.html").write_text("An answer.")
    (report / "report.json").write_text('{"verdict": {"headline": "It is so."}}')
    journal.add_event("report")
    delivery = sent(journal, store)
    assert artifacts(store, delivery, tmp_path)["report/report.html"] == "An answer."
    note = runs(store, delivery)["study"].data.tags["mlflow.note.content"]
    assert "It is so." in note
    assert "code/code-1a2b3c4d.diff" in note


def kept_model(journal: Journal, name: str) -> tuple[Study, Any, Any]:
    """Train a model for an epoch and keep it as the study's best; return what it is made of."""
    study = load_study("gru_window").with_max_epochs(1)
    data = study.trainable.load(test=False)
    config = study.config(dict(study.default), seed=len(name)) | {"device": "cpu"}
    loop = study.trainable.start(config, data, metric=study.metric, mode=study.mode)
    loop.step()
    checkpoint = journal.path.parent / name
    checkpoint.mkdir()
    loop.save(checkpoint)
    shutil.rmtree(journal.path.parent / "model", ignore_errors=True)
    keep(study, config, data, checkpoint, journal.path.parent / "model")
    return study, data, loop


def test_the_best_model_is_the_champion(journal: Journal, store: str, tmp_path: Path) -> None:
    import mlflow

    def versions() -> list[tuple[str, str]]:
        found = client(store).search_model_versions("name = 'gru'")
        return sorted((str(v.version), v.tags["hypertune.trial"]) for v in found)

    add_trial(journal, 0, reason="complete")
    _, data, loop = kept_model(journal, "first")
    journal.add_event("model", 0, {"sha256": "a" * 64})
    for again in (False, True):
        if again:
            journal.path.with_name("replica.db").unlink()
        delivery = sent(journal, store)
        assert (delivery.warning, versions()) == (None, [("1", "0")])
    files = {path.suffix for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert not files & {".pkl", ".pickle", ".joblib"}
    (model,) = client(store).search_logged_models([delivery.experiment_id])
    assert (model.status, model.source_run_id) == (
        "READY",
        runs(store, delivery)["0"].info.run_id,
    )
    assert [m.model_id for m in runs(store, delivery)["study"].outputs.model_outputs] == [
        model.model_id
    ]

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        champion = mlflow.pyfunc.load_model("models:/gru@champion")
    finally:
        mlflow.set_tracking_uri(before)
    window = loop.val.x.shape[1]
    forecast = champion.predict(data.inputs(data.origins("val"), window))
    mean, sd = data.scale
    assert np.array_equal(forecast, loop.predict(loop.val).numpy() * sd + mean)

    # Another one takes its place, and it stays; one that was made before takes nothing.
    add_trial(journal, 1, reason="complete")
    kept_model(journal, "second")
    journal.add_event("model", 1, {"sha256": "b" * 64})
    sent(journal, store)
    assert versions() == [("1", "0"), ("2", "1")]
    assert client(store).get_model_version_by_alias("gru", "champion").version == 2
    (tmp_path / "older").mkdir()
    with contextlib.closing(Journal(tmp_path / "older" / "journal.db")) as older:
        older.set_study(**STUDY | {"study_id": "01de", "name": "gru-0"})
        older.add_event("search_start")
        add_trial(older, 0, reason="complete")
        shutil.copytree(journal.path.parent / "model", tmp_path / "older" / "model")
        older.add_event("model", 0, {"sha256": "c" * 64})
        older._db.execute("UPDATE events SET t_ms = 1 WHERE kind = 'model'")
        sent(older, store)
    assert len(versions()) == 3
    assert client(store).get_model_version_by_alias("gru", "champion").version == 2


def test_a_server_without_a_registry_costs_a_warning(
    journal: Journal, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def search(*args: Any, **more: Any) -> None:
        raise MlflowException("no such page", error_code=ENDPOINT_NOT_FOUND)

    add_trial(journal, 0, reason="complete")
    kept_model(journal, "first")
    journal.add_event("model", 0, {"sha256": "a" * 64})
    with monkeypatch.context() as without:
        without.setattr(MlflowClient, "search_model_versions", search)
        delivery = sent(journal, store)
    assert "the best model (no such page)" in (delivery.warning or "")
    assert set(runs(store, delivery)) == {"study", "0"}
    assert sent(journal, store).warning is None  # it has one by now
    assert client(store).get_model_version_by_alias("gru", "champion").version == 1


def test_delivering_again_adds_nothing(journal: Journal, store: str) -> None:
    for trial, reason in enumerate(("complete", "failed", None)):
        add_trial(journal, trial, reason=reason)
    journal.add_event("search_end")
    first, before = sent(journal, store), rows(store)
    assert sent(journal, store) == first
    journal.path.with_name("replica.db").unlink()
    assert sent(journal, store) == first
    assert rows(store) == before


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("complete", "FINISHED"),
        ("converged", "FINISHED"),
        ("stopped", "KILLED"),
        ("interrupted", "KILLED"),
        ("failed", "FAILED"),
        ("lost", "FAILED"),
    ],
)
def test_how_a_trial_ended(journal: Journal, store: str, reason: str, status: str) -> None:
    add_trial(journal, 0, reason=reason)
    run = runs(store, sent(journal, store))["0"]
    assert run.info.status == status
    assert (run.data.tags["hypertune.state"], run.data.tags["hypertune.reason"]) == (
        "ended",
        reason,
    )
    assert ("hypertune/final" in run.data.metrics) == (reason in ("complete", "converged"))


def test_a_trial_that_goes_on_after_its_end(journal: Journal, store: str) -> None:
    add_trial(journal, 0, epochs=1, reason="interrupted")
    assert runs(store, sent(journal, store))["0"].data.metrics["hypertune/best"] == 1.5
    journal.set_state(0, "running")
    run = runs(store, sent(journal, store))["0"]
    assert run.info.status == "RUNNING"
    assert (run.data.tags["hypertune.state"], run.data.tags["hypertune.reason"]) == ("running", "")
    add_results(journal, 0, 2, 4)
    journal.set_state(0, "ended", reason="complete")
    run = runs(store, sent(journal, store))["0"]
    assert (run.info.status, run.data.tags["hypertune.reason"]) == ("FINISHED", "complete")
    assert run.info.end_time == journal.trial(0).ended_ms
    assert (run.data.metrics["hypertune/best"], run.data.metrics["hypertune/final"]) == (0.5, 1.5)
    assert recorded(journal, 0) < histories(store, run)


def test_a_failure_is_described(journal: Journal, store: str) -> None:
    for trial, detail in enumerate(("ValueError: no", "x" * 20_000 + "\nValueError: the end")):
        add_trial(journal, trial, epochs=1)
        journal.set_state(trial, "ended", reason="failed", detail=detail)
    found = runs(store, sent(journal, store))
    assert found["0"].data.tags["mlflow.note.content"] == "```text\nValueError: no\n```"
    note = found["1"].data.tags["mlflow.note.content"]
    assert len(note) <= 8000
    assert "(cut)" in note
    assert note.endswith("ValueError: the end\n```")


def test_names_are_told_again_after_the_notes_were_lost(journal: Journal, store: str) -> None:
    journal.add_trial(0, {"a|b": 1}, seed=0)
    journal.set_state(0, "running")
    journal.add_result(0, 1, {"loss": 1.0, "acc(1)": 2.0, "acc[1]": 3.0}, t_ms=T0 + 1)
    delivery = sent(journal, store)
    journal.path.with_name("replica.db").unlink()
    journal.add_result(0, 2, {"loss": 1.0}, t_ms=T0 + 2)
    journal.set_state(0, "ended", reason="complete")
    sent(journal, store)

    tags = runs(store, delivery)["0"].data.tags
    keys = [key for key in runs(store, delivery)["0"].data.metrics if not key.startswith(OWN)]
    assert {key_name(key, tags) for key in keys} == {"loss", "acc(1)", "acc[1]"}
    params = json.loads(tags["hypertune.json.0"])["params"]
    assert params == {name_key("a|b"): "a|b"}


def test_non_finite_values_are_left_out(journal: Journal, store: str) -> None:
    journal.add_trial(0, {}, seed=0)
    for epoch, loss in enumerate((3.0, math.nan, math.inf, 2.0, math.nan), start=1):
        journal.add_result(0, epoch, {"loss": loss, "other": -math.inf}, t_ms=T0 + epoch)
    journal.set_state(0, "ended", reason="complete")
    run = runs(store, sent(journal, store))["0"]
    assert histories(store, run) == {
        ("loss", 1, T0 + 1, 3.0),
        ("loss", 4, T0 + 4, 2.0),
        ("hypertune/best", 0, T0 + 5, 2.0),
        ("hypertune/best_epoch", 0, T0 + 5, 4.0),
        ("hypertune/n_epochs", 0, T0 + 5, 5.0),
    }


def test_what_is_refused_is_set_aside_and_the_rest_goes_on(journal: Journal, store: str) -> None:
    add_trial(journal, 0)
    journal.add_result(0, 5, {"loss": 0.1, "odd//name": 1.0}, t_ms=T0 + 9000)
    journal.set_state(0, "ended", reason="complete")
    add_trial(journal, 1, reason="complete")
    experiment = client(store).create_experiment("gru")
    tags = {"hypertune.study_id": "0f0e", "hypertune.trial": "0"}
    other = client(store).create_run(experiment, tags=tags).info.run_id
    client(store).log_param(other, "cell", "changed")
    client(store).log_param(other, "flag", "changed")
    delivery = sent(journal, store)
    assert delivery.warning is not None
    assert "refused 2 record(s)" in delivery.warning
    assert "trial 0, param 'cell'" in delivery.warning
    assert "trial 0, param 'flag'" in delivery.warning
    found = runs(store, delivery)
    assert found["0"].info.run_id == other
    assert found["0"].data.params["schedule.warmup"] == "0"
    expected = {point for point in recorded(journal, 0) if point[0] != "odd//name"}
    assert expected < histories(store, found["0"])
    assert found["1"].info.status == "FINISHED"


def test_odd_names_and_long_values_are_cut_visibly(journal: Journal, store: str) -> None:
    long, odd = "k" * 300, "loss(train)"
    journal.add_trial(
        0, {long: "v" * 7000, **{f"p{i}": "\u20ac" * 5999 for i in range(130)}}, seed=0
    )
    journal.add_result(0, 1, {long: 1.0, odd: 2.0})
    delivery = sent(journal, store)
    run = runs(store, delivery)["0"]
    assert delivery.warning is None
    assert len(run.data.params) == 1 + 130 + 1
    (key,) = (key for key in run.data.params if key.startswith("kkk"))
    assert re.fullmatch(r"k+\.key-[0-9a-f]{16}", key)
    assert len(key) == 250
    assert run.data.params[key].endswith("... (cut)")
    (other,) = (other for other in run.data.metrics if other != key)
    assert re.fullmatch(r"loss_train_\.key-[0-9a-f]{16}", other)
    assert run.data.metrics == {key: 1.0, other: 2.0}
    told = {json.loads(v) for k, v in run.data.tags.items() if k.startswith("hypertune.name.")}
    assert told == {long, odd}


def test_more_metrics_than_fit_into_a_request(journal: Journal, store: str) -> None:
    journal.add_trial(0, {}, seed=0)
    for epoch in range(1, 31):
        journal.add_result(0, epoch, {f"m{i}": float(i) for i in range(100)})
    run = runs(store, sent(journal, store))["0"]
    assert histories(store, run) == recorded(journal, 0)


def test_what_was_deleted_in_mlflow_is_restored(journal: Journal, store: str) -> None:
    add_trial(journal, 0)
    delivery = sent(journal, store)
    client(store).delete_run(runs(store, delivery)["0"].info.run_id)
    journal.set_state(0, "ended", reason="complete")
    assert runs(store, sent(journal, store))["0"].info.status == "FINISHED"
    client(store).delete_experiment(delivery.experiment_id)
    add_trial(journal, 1)
    assert set(runs(store, sent(journal, store))) == {"study", "0", "1"}


def test_a_store_that_was_replaced_gets_everything_again(journal: Journal, store: str) -> None:
    add_trial(journal, 0, reason="complete")
    sent(journal, store)
    before = [row[:3] for row in rows(store)["metrics"]]  # key, value, timestamp
    tables = ("params", "metrics", "latest_metrics", "tags", "runs")
    with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as db, db:
        for table in tables:
            db.execute(f"DELETE FROM {table}")
    found = runs(store, sent(journal, store))
    assert set(found) == {"study", "0"}
    assert sorted(row[:3] for row in rows(store)["metrics"]) == sorted(before)


def test_a_lost_answer_makes_no_second_run(
    journal: Journal, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    create, lost = MlflowClient.create_run, []

    def lose_each_first(self: Any, experiment_id: str, *args: Any) -> Any:
        run = create(self, experiment_id, *args)
        if run.info.run_name not in lost:
            lost.append(run.info.run_name)
            raise MlflowException("the connection broke")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", lose_each_first)
    add_trial(journal, 0)
    assert set(runs(store, sent(journal, store))) == {"study", "0"}
    assert lost == ["gru-1", "trial-000"]


def test_a_first_contact_cut_short_spoils_no_store(journal: Journal, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    script = (
        "import os, sys; from mlflow.store.db import utils\n"
        "from hypertune.tracking.mlflow import replica\n"
        "utils._upgrade_db = lambda engine: os._exit(9)\n"  # the tables are half made by then
        "replica._connected(sys.argv[1])"
    )
    cut = subprocess.run([sys.executable, "-c", script, f"sqlite:///{database}"], check=False)
    assert cut.returncode == 9
    assert not database.exists()

    assert sent(journal, f"sqlite:///{database}").pending == 0
    assert not database.with_name("mlflow.db.new").exists()


def test_mlflow_is_told_nothing_that_no_copy_of_the_journal_holds(
    journal: Journal, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "common"
    journal.set_study(settings={"storage": str(storage)})
    storage.write_text("in the way")
    add_trial(journal, 0)
    delivery = deliver(journal.path, store, timeout_s=1)
    assert delivery.experiment_id is None
    assert (delivery.pending or 0) > 4
    assert "cannot be copied to --storage, and MLflow waits" in (delivery.warning or "")

    storage.unlink()
    delivery = sent(journal, store)
    assert delivery.warning is None
    assert len(runs(store, delivery)) == 2
    with contextlib.closing(Journal(storage / "gru-1-0f0e" / "journal.db")) as copy:
        assert len(copy.results()) == 4


@pytest.mark.parametrize("with_cursors", [True, False])
def test_of_two_copies_that_went_on_mlflow_gets_one(
    journal: Journal, store: str, tmp_path: Path, with_cursors: bool
) -> None:
    """The one that is delivered first after the copy was made; the other is told what to do."""
    add_trial(journal, 0, reason="complete")
    sent(journal, store)
    journal.sync()
    twin = tmp_path / "twin"
    shutil.copytree(journal.path.parent, twin)
    if not with_cursors:
        (twin / "replica.db").unlink()
    with contextlib.closing(Journal(twin / "journal.db")) as copy:
        assert sent(copy, store).warning is None  # as long as it is the same
        add_trial(journal, 1, reason="complete")
        add_trial(copy, 1, reason="failed")
        sent(journal, store)
        before = rows(store)
        for epoch in (5, 6):
            add_results(copy, 1, epoch, epoch)
            delivery = deliver(copy.path, store, timeout_s=60)
            assert "another copy of it, which went on" in (delivery.warning or "")
            assert "hypertune copy twin NEW" in (delivery.warning or "")
            assert (delivery.pending or 0) >= 5
        assert rows(store) == before
    add_trial(journal, 2, reason="complete")
    delivery = sent(journal, store)
    assert delivery.warning is None
    assert set(runs(store, delivery)) == {"study", "0", "1", "2"}


def test_a_copy_without_the_last_rows_is_not_delivered(
    journal: Journal, store: str, tmp_path: Path
) -> None:
    add_trial(journal, 0, reason="complete")
    (tmp_path / "older").mkdir()
    copy_journal(journal._db, tmp_path / "older" / "journal.db")
    add_trial(journal, 1, reason="complete")
    sent(journal, store)
    before = rows(store)
    for _ in range(2):
        delivery = deliver(tmp_path / "older" / "journal.db", store, timeout_s=60)
        assert "an older copy, or one without its journal.db-wal" in (delivery.warning or "")
        assert rows(store) == before
        # Nor is it if it was put in the place of the newer one, beside what was noted there.
        shutil.copy(tmp_path / "gru-1" / "replica.db", tmp_path / "older")


def test_a_journal_that_was_moved_is_delivered_on(
    journal: Journal, store: str, tmp_path: Path
) -> None:
    add_trial(journal, 0, reason="complete")
    sent(journal, store)
    journal.close()
    moved = tmp_path / "laptop"
    shutil.copytree(journal.path.parent, moved)
    shutil.rmtree(journal.path.parent)
    (moved / "replica.db").unlink()
    with contextlib.closing(Journal(moved / "journal.db")) as now:
        add_trial(now, 1, reason="complete")
        delivery = sent(now, store)
        assert delivery.warning is None
        assert set(runs(store, delivery)) == {"study", "0", "1"}
        for trial in (0, 1):  # each point once
            there = histories(store, runs(store, delivery)[str(trial)])
            assert {p for p in there if p[0] in ("loss", "train/loss")} == recorded(now, trial)


def test_mlflow_is_told_nothing_that_a_loss_of_power_could_take(
    journal: Journal, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[int, int]] = []
    flush = Journal.flush

    def flushing(self: Journal) -> None:
        flush(self)
        flushed.append(self.last_ids())

    add_trial(journal, 0, reason="complete")
    monkeypatch.setattr(Journal, "flush", flushing)
    sent(journal, store)
    with contextlib.closing(sqlite3.connect(journal.path.with_name("replica.db"))) as db:
        assert db.execute("SELECT event, result FROM targets").fetchall() == [flushed[-1]]


def test_two_uploaders_exclude_each_other(journal: Journal, store: str) -> None:
    with FileLock(journal.path.with_name("replica.lock")):
        delivery = deliver(journal.path, store, timeout_s=0.2)
    assert delivery.warning is not None
    assert "Another uploader" in delivery.warning
    assert sent(journal, store).warning is None


def test_a_journal_that_is_not_there(tmp_path: Path, store: str) -> None:
    with pytest.raises(JournalError, match="no journal"):
        deliver(tmp_path / "none.db", store, timeout_s=1)


def test_a_journal_without_a_study(tmp_path: Path, store: str) -> None:
    Journal(tmp_path / "journal.db").close()
    delivery = deliver(tmp_path / "journal.db", store, timeout_s=1)
    assert delivery.warning == "The journal holds no study yet."


class Answer(http.server.BaseHTTPRequestHandler):
    """A server in front of no MLflow: it gives one answer."""

    code, body = 200, b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.code)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "body", "remedy"),
    [
        (401, b"You are not authenticated.", "MLFLOW_TRACKING_PASSWORD"),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
        (404, b"<html>Not Found</html>", "check the tracking URI"),
        (503, b"", "cannot be reached \\(too many 503 error"),
        (None, b"", "cannot be reached \\(refused\\): check the tracking URI"),
    ],
)
def test_trouble_is_explained(journal: Journal, code: int | None, body: bytes, remedy: str) -> None:
    handler = type("Handler", (Answer,), {"code": code, "body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if code is not None:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        else:
            server.server_close()
        uri = f"http://user:secret@127.0.0.1:{server.server_port}"
        start = time.monotonic()
        delivery = deliver(journal.path, uri, timeout_s=0.4)
        if code is not None:
            server.shutdown()
    assert time.monotonic() - start < 30
    assert delivery.pending == 2  # the study and its start
    assert delivery.warning is not None
    assert "secret" not in delivery.warning
    assert re.search(remedy, delivery.warning), delivery.warning
    for path in journal.path.parent.iterdir():
        assert b"secret" not in path.read_bytes(), path


# ---- the uploader process, and a real server ----


def eventually(condition: Callable[[], bool], timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.05)


@contextlib.contextmanager
def server(port: int, store: str, log: Path) -> Iterator[None]:
    """Run an MLflow server until the end of the block, where it is killed without warning."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", store]
    command += ["--artifacts-destination", str(log.parent / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("a") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **quiet},
            stdout=out,
            stderr=out,
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        eventually(lambda: is_healthy(port))
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_an_uploader_follows_the_journal(journal: Journal, store: str) -> None:
    uploader = Uploader(journal.path, store)
    uploader.start()
    add_trial(journal, 0)
    eventually(lambda: uploader.status.run_id is not None and uploader.status.pending == 0)
    assert uploader._process is not None
    uploader._process.terminate()  # as those do that end a job with all its processes
    add_trial(journal, 1, reason="complete")
    eventually(lambda: "1" in runs(store, uploader.status))
    add_trial(journal, 2, reason="complete")
    journal.add_event("search_end")
    seen: list[Delivery] = []
    delivery = uploader.finish(30, seen.append)
    assert (delivery.pending, delivery.warning) == (0, None)
    assert seen
    found = runs(store, delivery)
    assert set(found) == {"study", "0", "1", "2"}
    assert found["study"].info.status == "FINISHED"
    for trial in range(3):
        assert recorded(journal, trial) <= histories(store, found[str(trial)])


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(journal: Journal, store: str, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    uploader = Uploader(journal.path, uri)
    with server(port, store, tmp_path / "server.log"):
        uploader.start()
        add_trial(journal, 0)
        eventually(lambda: uploader.status.pending == 0)
        for trial in range(1, 10):
            add_trial(journal, trial, reason="complete")
    eventually(lambda: uploader.status.warning is not None)
    assert "cannot be reached" in (uploader.status.warning or "")
    add_trial(journal, 10, reason="complete")
    journal.add_event("search_end")
    with server(port, store, tmp_path / "server.log"):
        delivery = uploader.finish(40)
        assert (delivery.pending, delivery.warning) == (0, None)
        found = runs(uri, delivery)
        assert set(found) == {"study", *map(str, range(11))}
        for trial in range(11):
            history = histories(uri, found[str(trial)])
            assert {point for point in history if point[1] > 0} == recorded(journal, trial)


@pytest.mark.slow
def test_an_unreachable_server_holds_nothing_up(journal: Journal) -> None:
    add_trial(journal, 0)
    uploader = Uploader(journal.path, f"http://user:secret@127.0.0.1:{free_port()}")
    uploader.start()
    eventually(lambda: uploader.status.warning is not None)
    start = time.monotonic()
    delivery = uploader.finish(2)
    assert time.monotonic() - start < 30
    assert delivery.pending is not None
    assert delivery.pending > 4
    assert "check the tracking URI" in (delivery.warning or "")
    assert "secret" not in (delivery.warning or "")
    assert b"secret" not in journal.path.with_name("replica.log").read_bytes()


@pytest.mark.slow
def test_an_uploader_that_crashes_is_reported(journal: Journal, store: str) -> None:
    journal.path.with_name("replica.db").write_text("This is no database." * 100)
    uploader = Uploader(journal.path, store)
    uploader.start()
    eventually(lambda: uploader.status.warning is not None)
    delivery = uploader.finish(5)
    assert "not a database" in (delivery.warning or "")


@pytest.mark.slow
def test_no_orphan_stays_and_no_driver_imports_mlflow(journal: Journal, store: str) -> None:
    add_trial(journal, 0)
    script = (
        "import sys, os, time; from pathlib import Path\n"
        "from hypertune.journal.store import *; from hypertune.tracking.uploader import *\n"
        "uploader = Uploader(Path(sys.argv[1]), sys.argv[2]); uploader.start()\n"
        "assert 'mlflow' not in sys.modules\n"
        "print(uploader._process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(journal.path), store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        driver.kill()
    eventually(lambda: not is_running(pid))
    assert pending_on_disk(journal.path, store) == 0  # it delivered what there was
    assert set(runs(store, sent(journal, store))) == {"study", "0"}


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False
