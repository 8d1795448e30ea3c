"""The engine under a real Ray: nothing is lost, nothing waits, nothing disturbs the search."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import OURS, doing
from mlflow import MlflowClient
from ray import tune

from hypertune.core.errors import JournalError, SettingError
from hypertune.core.origin import Origin
from hypertune.engine import StudyResult, run
from hypertune.engine.driver import Driver
from hypertune.engine.folder import delete
from hypertune.engine.prepare import prepare
from hypertune.engine.ray import tune as ray_tune
from hypertune.journal.store import Journal, TrialRow
from hypertune.settings import Settings
from hypertune.studies.study import Study, load_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("local_ray"),
    # Ray Tune, MLflow and what they import warn about each other and about themselves.
    pytest.mark.filterwarnings("default"),
]


def go(study: Study, tmp_path: Path, **settings: Any) -> tuple[StudyResult, Journal]:
    # Only the test that looks at MLflow waits for it.
    quick: dict[str, Any] = {
        "studies_dir": tmp_path / "studies",
        "method": "random",
        "sync_timeout_s": 0.0,
        "n_repeats": 0,
    }
    outcome = run(study, Settings(**quick | settings))
    return outcome, Journal(outcome.folder / "journal.db", read_only=True)


def searched(journal: Journal) -> list[TrialRow]:
    return [trial for trial in journal.trials() if trial.role == "search"]


def test_journal_and_mlflow_hold_every_trial_with_the_same_numbers(
    toy: Study, tmp_path: Path
) -> None:
    outcome, journal = go(
        toy, tmp_path, method="asha", n_trials=7, n_repeats=1, sync_timeout_s=60.0
    )

    assert outcome.error is None
    assert outcome.delivery.pending == 0
    assert len(searched(journal)) == 7
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {int(r.data.tags["hypertune.trial"]): r for r in runs if r is not parent}
    assert children.keys() == {trial.id for trial in journal.trials()}
    for trial in journal.trials():
        child = children[trial.id]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["hypertune.role"] == trial.role
        assert child.data.tags["hypertune.reason"] == trial.reason
        history = client.get_metric_history(child.info.run_id, "loss")
        assert {(m.step, m.value, m.timestamp) for m in history} == {
            (r.epoch, r.metrics["loss"], r.t_ms) for r in journal.results(trial=trial.id)
        }


def test_halving_spends_what_was_planned_and_promoted_trials_go_on_where_they_were(
    toy: Study, tmp_path: Path
) -> None:
    _, journal = go(toy, tmp_path, method="asha", n_trials=12, seed=3)

    epochs = Counter(row.trial for row in journal.results() if row.epoch > 0)
    assert {epochs[trial.id] for trial in searched(journal)} == {1, 3, 9}
    assert sum(epochs[trial.id] >= 3 for trial in searched(journal)) >= 12 // 3
    jobs = [(e.trial, e.data["from_epoch"], e.data["to_epoch"]) for e in journal.events(kind="job")]
    for trial in searched(journal):
        ends = [(a, b) for t, a, b in jobs if t == trial.id]
        assert [a for a, _ in ends] == [0, *(b for _, b in ends[:-1])]
    assert sum(trial.reason == "complete" for trial in searched(journal)) == 3


def test_a_failing_trial_is_told_with_its_text_and_costs_no_worker(
    toy: Study, tmp_path: Path
) -> None:
    study = doing(toy, "fine", "nan", "fail", "missing", "converge", sleep_s=0.05)
    outcome, journal = go(study, tmp_path, n_trials=20, n_concurrent=2)

    assert outcome.error is None
    said = {
        "fine": ("complete", ""),
        "nan": ("failed", "loss is nan in epoch 2"),
        "fail": ("failed", "ValueError: no such luck in epoch 1"),
        "missing": ("failed", "the metric 'loss' was not reported, but pid, seed"),
        "converge": ("converged", "no improvement any more after epoch 2"),
    }
    assert {t.config["do"] for t in searched(journal)} == set(said)
    for trial in searched(journal):
        reason, text = said[trial.config["do"]]
        assert (trial.reason, (trial.detail or "").splitlines()[:1]) == (
            reason,
            [text][: bool(text)],
        )
    workers = {row.metrics["pid"] for row in journal.results() if "pid" in row.metrics}
    assert len(workers) == 2


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_all_workers_are_at_work_from_start_to_end(method: str, toy: Study, tmp_path: Path) -> None:
    # No trial gets beyond its first epoch before both workers have started.
    study = doing(toy, "together", sleep_s=0.03, marker=str(tmp_path))
    outcome, journal = go(study, tmp_path, n_trials=24, n_concurrent=2, method=method)

    assert outcome.error is None
    assert len(searched(journal)) == 24

    pids = [row.metrics["pid"] for row in journal.results() if "pid" in row.metrics]
    for part in (pids[: len(pids) // 2], pids[len(pids) // 2 :]):
        shares = Counter(part)
        assert len(shares) == 2
        assert min(shares.values()) >= len(part) / 4


def test_a_hanging_trial_fails_with_its_traceback_and_the_search_goes_on(
    toy: Study, tmp_path: Path
) -> None:
    study = doing(toy, "fine", "hang")
    outcome, journal = go(study, tmp_path, n_trials=5, seed=1, trial_timeout_s=4.0)

    assert outcome.error is None
    reasons = {(t.config["do"], t.reason) for t in searched(journal)}
    assert reasons == {("fine", "complete"), ("hang", "failed")}
    detail = next(t.detail for t in searched(journal) if t.reason == "failed")
    assert detail is not None
    assert detail.startswith("an epoch took longer than --trial-timeout (4 s)")
    assert "in _hang" in detail
    assert not list(outcome.folder.rglob("hang-*"))


def test_a_frozen_worker_is_ended_its_trial_fails_and_the_search_goes_on(
    toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypertune.engine.running._SILENT_S", 1.0)
    study = doing(toy, "fine", "freeze", sleep_s=0.6)  # each epoch is reported alone
    outcome, journal = go(study, tmp_path, n_trials=5, seed=1, n_concurrent=1, trial_timeout_s=4.0)

    assert outcome.error is None
    reasons = Counter((t.config["do"], t.reason) for t in searched(journal))
    assert set(reasons) == {("fine", "complete"), ("freeze", "failed")}
    for trial in searched(journal):
        if trial.reason == "failed":
            assert trial.detail == "an epoch took longer than --trial-timeout (4 s)"
            assert [row.epoch for row in journal.results(trial=trial.id)] == [1]
    assert not journal.events(kind="lost")
    assert not list(outcome.folder.rglob("hang-*"))


def test_a_trial_whose_worker_dies_goes_on_in_another_one(toy: Study, tmp_path: Path) -> None:
    study = doing(toy, "die_once", marker=str(tmp_path / "marker"))
    outcome, journal = go(study, tmp_path, n_trials=3)

    assert outcome.error is None
    assert [t.reason for t in searched(journal)] == ["complete"] * 3
    assert len(journal.events(kind="lost")) == 1
    for trial in searched(journal):
        assert [row.epoch for row in journal.results(trial=trial.id)] == list(range(1, 10))


def test_a_trial_that_always_kills_its_worker_is_lost_and_the_others_are_not(
    toy: Study, tmp_path: Path
) -> None:
    outcome, journal = go(doing(toy, "fine", "die"), tmp_path, n_trials=4, seed=2)

    assert outcome.error is None
    reasons = Counter((t.config["do"], t.reason) for t in searched(journal))
    assert set(reasons) == {("fine", "complete"), ("die", "lost")}
    lost = next(t for t in searched(journal) if t.reason == "lost")
    assert "the worker died 3 times; " in (lost.detail or "")
    assert "its worker process has died" in (lost.detail or "")


def test_a_breakdown_of_rays_loop_loses_the_jobs_that_were_out_and_nothing_else(
    toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = ray_tune._loop, list[object]()

    def loop(driver: Driver, data: Any) -> None:
        if broken:
            return real(driver, data)
        broken.append(driver.next_job("key"))
        driver.started("key")
        raise RuntimeError("Caught unexpected exception: out of memory")

    monkeypatch.setattr(ray_tune, "_loop", loop)
    outcome, journal = go(toy, tmp_path, n_trials=3)

    assert outcome.error is None
    assert [t.reason for t in searched(journal)] == ["complete"] * 3
    assert "out of memory" in journal.events(kind="lost")[0].data["text"]


def test_a_store_password_stays_out_of_the_records(
    toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "http://me:secret@127.0.0.1:9"
    monkeypatch.setattr("sys.argv", ["hypertune", "--tracking-uri", uri])
    outcome, journal = go(toy, tmp_path, n_trials=1, tracking_uri=uri)

    assert journal.study()["environment"]["command"].endswith("'http://***@127.0.0.1:9'")
    for path in outcome.folder.rglob("*"):
        ours = path.suffix == ".diff"  # uncommitted changes of our code, with these words perhaps
        assert ours or path.is_dir() or b"secret" not in path.read_bytes()


def test_the_time_budget_ends_the_search_and_keeps_what_was_measured(
    toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is: the time is over when three trials are trained in full.
    def overdue(driver: Driver) -> bool:
        return sum(trial.reason == "complete" for trial in driver.journal.trials()) >= 3

    monkeypatch.setattr(Driver, "overdue", property(overdue))
    study = doing(toy, "fine", sleep_s=0.05)
    outcome, journal = go(study, tmp_path, n_trials=500)

    assert outcome.stopped_by == "time budget"
    assert {t.reason for t in searched(journal)} <= {"complete", "interrupted"}
    assert all(t.state == "ended" for t in journal.trials())
    assert {"best", "one"} <= {e.data["label"] for e in journal.events(kind="test")}


def test_one_seed_gives_one_result_to_the_last_digit(tmp_path: Path) -> None:
    study = load_study("gru_window")
    runs = []
    for _ in range(2):
        _, journal = go(study, tmp_path, n_trials=3, max_epochs=2, seed=0, n_concurrent=1)
        runs.append(
            [(t.config, [r.metrics for r in journal.results(trial=t.id)]) for t in journal.trials()]
        )
    assert runs[0] == runs[1]


@pytest.mark.parametrize("method", OURS)
def test_a_simulated_and_a_real_run_of_a_conditional_mixed_space_decide_alike(
    method: str, toy: Study, tmp_path: Path
) -> None:
    rate = tune.loguniform(1e-4, 1)
    study = replace(
        toy,
        space={
            **toy.space,
            "units": tune.lograndint(4, 65),
            "opt": tune.choice(
                [
                    {"name": "sgd", "rate": rate, "momentum": tune.quniform(0, 0.9, 0.1)},
                    {"name": "adam", "rate": rate},
                ]
            ),
            "more": tune.choice([None, [1, 2], "a"]),
        },
        default={
            **toy.default,
            "units": 8,
            "opt": {"name": "adam", "rate": 0.01},
            "more": None,
        },
    )
    n_trials = 14 if method == "auto" else 10  # its first ten fill the space
    settings: dict[str, Any] = {
        "method": method,
        "n_trials": n_trials,
        "seed": 1,
        "n_concurrent": 1,
    }
    _, journal = go(study, tmp_path, **settings)
    real = [
        (journal.trial(e.trial).config["x"], e.data["from_epoch"], e.data["to_epoch"])
        for e in journal.events(kind="job")
        if e.trial is not None and journal.trial(e.trial).role == "search"
    ]

    search = prepare(study, Settings(**settings)).search
    simulated = []
    while (job := search.ask()) is not None:
        simulated.append((job.config["x"], job.from_epoch, job.to_epoch))
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, job.config["x"] + 1 / epoch)
    assert simulated == real
    if method == "auto":  # its model was asked, not chance alone
        assert any(trial.origin is Origin.MODEL for trial in search.trials)
    shown = [{k: t.config[k] for k in study.space} for t in searched(journal)]
    assert shown == [search.space.nest(t.flat) for t in search.trials]


def test_a_fraction_of_a_gpu_packs_trials_and_one_out_of_memory_gets_it_for_itself(
    toy: Study, tmp_path: Path
) -> None:
    study = doing(toy, "fine", "crowded", sleep_s=0.03)
    _, journal = go(study, tmp_path, n_trials=4, cpus_per_trial=0.5, gpus_per_trial=0.5)

    assert journal.events(kind="search_start")[0].data["n_concurrent"] == 2
    pids: dict[str, set[float]] = {"fine": set(), "crowded": set()}
    for trial in searched(journal):
        do = trial.config["do"]
        assert trial.reason == "complete"
        pids[do] |= {row.metrics["pid"] for row in journal.results(trial=trial.id)}
        lost = journal.events(kind="lost", trial=trial.id)
        assert len(lost) == (do == "crowded")
    assert all(pids.values())
    assert len(pids["fine"] | pids["crowded"]) >= 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gpus_per_trial": 2},
            "1 trials must run at a time, but Ray can run 0 of 1 CPUs and 2 GPUs",
        ),
        (
            {"n_concurrent": 3},
            "3 trials must run at a time, but Ray can run 2 of 1 CPUs: it has 2 CPUs",
        ),
        (
            {"resources": {"licence": 1}},
            "1 CPUs and 1 licences: it has 2 CPUs and 1 GPUs and 0 licences",
        ),
    ],
)
def test_more_than_ray_has_is_an_error_before_anything_starts(
    settings: dict[str, Any], message: str, toy: Study, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        go(toy, tmp_path, **settings)
    assert not (tmp_path / "studies").exists()


def test_a_node_that_cannot_do_the_work_is_told_before_anything_starts(
    toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "common").mkdir()
    (node,) = ray.nodes()
    gone = {**node, "NodeID": "a" * 56, "NodeManagerHostname": "gone"}
    monkeypatch.setattr(ray, "nodes", lambda: [node, gone])
    with pytest.raises(SettingError, match=r"Node gone .* cannot run hypertune") as told:
        go(toy, tmp_path, storage=str(tmp_path / "common"))
    assert "\n" not in str(told.value)  # nothing is wrong with the other one

    monkeypatch.setattr(ray, "nodes", lambda: [node])
    with pytest.raises(SettingError, match=r"--storage 's3://no/where.*' cannot be written"):
        go(toy, tmp_path, storage="s3://no/where?endpoint_override=127.0.0.1:9&region=x")
    assert [path.name for path in tmp_path.rglob("*")] == ["common"]


def test_checkpoints_go_where_all_nodes_reach_them(toy: Study, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    outcome, journal = go(
        toy, tmp_path, method="asha", n_trials=4, storage=str(tmp_path / "common")
    )
    assert outcome.error is None
    assert not (outcome.folder / "checkpoints").exists()
    kept = [path.name for path in tmp_path.glob("common/toy-1-*/checkpoints/trial-*")]
    assert len(kept) >= 3
    assert [t.reason for t in searched(journal)].count("complete") >= 1
    delete(outcome.folder)
    assert not list(tmp_path.glob("common/*/checkpoints"))


def test_the_test_part_is_opened_once_for_best_default_and_baselines(
    toy: Study, tmp_path: Path
) -> None:
    _, journal = go(toy, tmp_path, method="asha", n_trials=9)

    tests = {e.data["label"]: (e.trial, e.data["metrics"]) for e in journal.events(kind="test")}
    assert len(journal.events(kind="test")) == 3
    assert tests.keys() == {"best", "default", "one"}
    trials = {t.id: t for t in journal.trials()}
    for label in ("best", "default"):
        trial, metrics = tests[label]
        assert trial is not None
        assert metrics["test_loss"] == trials[trial].config["x"] + 100.0


def test_a_journal_that_cannot_be_written_ends_the_search_with_its_text(
    toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_result = Journal.add_result

    def full_disk(self: Journal, trial: int, epoch: int, *args: Any, **kwargs: Any) -> bool:
        if trial == 1 and epoch == 3:
            raise JournalError("The journal cannot be written: database or disk is full.")
        return add_result(self, trial, epoch, *args, **kwargs)

    monkeypatch.setattr(Journal, "add_result", full_disk)
    outcome, journal = go(toy, tmp_path, n_concurrent=1)

    assert outcome.error is not None
    assert "disk is full" in outcome.error
    assert len(journal.results(trial=0)) == 9
    assert len(journal.results(trial=1)) == 2
