"""Ray Tune's own schedulers and searchers in the place of ours."""

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import doing
from ray import tune
from ray.tune import schedulers
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search import Searcher as RaySearcher
from ray.tune.search.hyperopt import HyperOptSearch
from ray.tune.search.optuna import OptunaSearch

import hypertune
from hypertune.analysis.frames import load
from hypertune.analysis.summary import summarize
from hypertune.analysis.verdict import judge
from hypertune.core.errors import SettingError
from hypertune.engine import explain, prepare, rerun, resume
from hypertune.engine.prepare import Prepared
from hypertune.engine.ray.schedulers import ray_scheduler
from hypertune.journal.store import Journal
from hypertune.search.methods import METHODS, ask_tell
from hypertune.settings import Settings
from hypertune.studies.study import Study
from hypertune.tasks.command import command

ROWS = [name for name, row in METHODS.items() if row.ray is not None]


# ---- schedulers ----


def test_the_rows_are_listed_and_need_ray() -> None:
    assert ROWS == ["ray-asha", "ray-hyperband", "ray-pbt"]
    with pytest.raises(SettingError, match="'ray-asha' needs Ray Tune: run a study with it"):
        ask_tell("ray-asha", {"x": tune.uniform(0, 1)})


@pytest.mark.parametrize(
    ("space", "settings", "message"),
    [
        ({}, {"method": "ray-asha", "scheduler": "asha"}, "goes without --scheduler"),
        ({"x": tune.randint(0, 9)}, {"method": "ray-pbt"}, "continuous .* but the space has none"),
    ],
)
def test_what_a_row_cannot_do_is_said_before_anything_starts(
    space: dict[str, Any], settings: dict[str, Any], message: str, toy: Study
) -> None:
    study = replace(toy, space=space, default={"x": 1}) if space else toy
    with pytest.raises(SettingError, match=message):
        prepare(study, Settings(**settings))


@pytest.mark.parametrize("method", ["ray-hyperband", "ray-pbt"])
def test_trials_that_save_nothing_cannot_be_paused(method: str, toy: Study) -> None:
    study = replace(toy, trainable=command("python train.py {config_json}"))
    with pytest.raises(SettingError, match=r"pauses trials, .* saves none after an epoch"):
        prepare(study, Settings(method=method))
    assert prepare(study, Settings(method="ray-asha")).ray_scheduler is not None


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            schedulers.ASHAScheduler(metric="accuracy", mode="min"),
            "must go by the study's metric, loss, but its metric is accuracy",
        ),
        (
            schedulers.ASHAScheduler(metric="loss", mode="max"),
            "must go by the study's mode, min, but its mode is max",
        ),
        (schedulers.HyperBandForBOHB(), "TuneBOHB alone"),
        (
            schedulers.PopulationBasedTraining(hyperparam_mutations={"y": tune.uniform(0, 1)}),
            "would vary y, but the study searches x",
        ),
        (schedulers.ResourceChangingScheduler(), "cpus_per_trial"),
    ],
)
def test_a_scheduler_that_cannot_be_used_is_refused(
    scheduler: schedulers.TrialScheduler, message: str, toy: Study
) -> None:
    with pytest.raises(SettingError, match=message):
        prepare(toy, Settings(method="random"), scheduler=scheduler)


def test_one_scheduler_is_enough_and_mutations_need_random_configs(toy: Study) -> None:
    asha = schedulers.ASHAScheduler()
    pbt = schedulers.PopulationBasedTraining(hyperparam_mutations={"x": tune.uniform(0, 1)})
    cases: list[tuple[dict[str, Any], schedulers.TrialScheduler, str]] = [
        ({"method": "auto"}, asha, "'auto' has a scheduler of its own"),
        ({"method": "ray-pbt"}, asha, "'ray-pbt' and AsyncHyperBandScheduler are both schedulers"),
        ({"method": "random", "scheduler": "asha"}, asha, "are both schedulers"),
        ({"method": "tpe"}, pbt, "goes with method random alone"),
    ]
    for settings, scheduler, message in cases:
        with pytest.raises(SettingError, match=message):
            prepare(toy, Settings(**settings), scheduler=scheduler)
    prepared = prepare(toy, Settings(method="tpe"), scheduler=asha)
    assert prepared.method == "tpe + AsyncHyperBandScheduler"
    assert asha.metric is None  # the user's own is left as it is


def test_population_based_training_varies_what_is_continuous_and_stays_in_range(toy: Study) -> None:
    study = replace(
        toy,
        space={
            **toy.space,
            "units": tune.randint(1, 9),
            "inner": {"rate": tune.quniform(0, 1, 0.1)},
            "opt": tune.choice([{"name": "a", "rate": tune.uniform(0, 1)}, {"name": "b"}]),
        },
        default={**toy.default, "units": 2, "inner": {"rate": 0.5}, "opt": {"name": "b"}},
    )
    pbt: Any = ray_scheduler("PopulationBasedTraining", study)
    assert pbt._hyperparam_mutations.keys() == {"x", "inner"}
    explore = pbt._custom_explore_fn
    config = {**study.default, "x": 1.3, "inner": {"rate": 0.44}}
    assert explore(config) == {**study.default, "x": 1.0, "inner": {"rate": 0.4}}


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", ROWS)
def test_a_study_runs_under_rays_own_scheduler(method: str, toy: Study, tmp_path: Path) -> None:
    study = doing(toy, "fine", "fail", "converge")
    outcome = hypertune.run(
        study,
        method=method,
        n_trials=12,
        max_epochs=4,
        n_repeats=0,
        n_concurrent=2,
        seed=1,
        studies_dir=tmp_path / "studies",
        sync_timeout_s=0.0,
    )
    assert (outcome.error, outcome.stopped_by) == (None, None)
    folder = outcome.folder
    with closing(Journal(folder / "journal.db", read_only=True)) as journal:
        assert journal.study()["method"] == method
        trials = [t for t in journal.trials() if t.role == "search"]
        epochs = {t.id: [r.epoch for r in journal.results(trial=t.id)] for t in trials}
        jobs = {t.id: journal.events(kind="job", trial=t.id) for t in trials}
        changes = journal.events(kind="mutation")
        roles = {t.role: t.reason for t in journal.trials() if t.role != "search"}
        looks = {e.data["label"] for e in journal.events(kind="test")}
    assert len(trials) == 12
    assert {t.state for t in trials} == {"ended"}
    assert roles == {"baseline": "complete"}
    assert {"best", "default", "one"} <= looks
    best = summarize(folder).best
    assert best is not None
    assert list((folder / "checkpoints" / f"trial-{best.id:03d}").glob("epoch-*"))
    for trial in trials:
        if trial.config["do"] == "fail":
            assert trial.reason == "failed"
        if trial.reason == "complete":
            assert epochs[trial.id][-1] == 4
    reasons = {t.reason for t in trials}
    paused = [t for t in trials if len(jobs[t.id]) > 1]
    if method == "ray-pbt":
        assert changes
        assert "stopped" not in reasons
    else:
        assert not changes
        stopped = [t for t in trials if t.reason == "stopped"]
        assert stopped
        assert all("by Ray Tune's " in (t.detail or "") for t in stopped)
    assert bool(paused) == (method != "ray-asha")
    for trial in paused:  # each goes on where it was
        if trial.id not in {c.trial for c in changes}:
            at = [job.data["from_epoch"] for job in jobs[trial.id]]
            assert at == sorted(set(at))
            assert epochs[trial.id] == list(range(1, len(epochs[trial.id]) + 1))

    data = load(folder)
    mutated = set(data.mutated["trial"])
    assert mutated == {c.trial for c in changes}
    assert not mutated & data.flats.keys()
    verdict = judge(data)
    assert any("leaves them out" in text for text in verdict.search) == bool(mutated)
    for change in changes:
        assert 0 <= change.data["config"]["x"] <= 1
        assert change.data["from_trial"] != change.trial
    for trial_id in mutated:
        known = explain(folder, trial_id)
        assert known.mutations == [c.data for c in changes if c.trial == trial_id]
        with pytest.raises(SettingError, match="cannot be run again by itself"):
            rerun(folder, trial_id, space=study)
    best = summarize(folder).best
    assert best is not None
    assert not list((folder / "checkpoints").glob("ray-*"))


# ---- searchers ----


def played(prepared: Prepared) -> list[Any]:
    """Run a search, one trial at a time, in which every third trial fails."""
    search = prepared.search
    while (job := search.ask()) is not None:
        if job.trial % 3 == 2:
            search.end(job.trial, "failed")
            continue
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, (job.config["x"] - 0.3) ** 2 + 1 / epoch)
    return [search.space.nest(t.flat) for t in search.trials]


def with_searcher(study: Study, searcher: RaySearcher, **settings: Any) -> Prepared:
    return prepare(study, Settings(method="random", **settings), searcher=searcher)


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution:UserWarning")
@pytest.mark.parametrize("make", [OptunaSearch, HyperOptSearch])
def test_searchers_of_rays_search_and_learn(make: Any, toy: Study) -> None:
    seed = {"seed": 3} if make is OptunaSearch else {"random_state_seed": 3}
    study = replace(
        toy,
        space={**toy.space, "units": tune.lograndint(4, 65), "some": tune.choice([[1, 2], None])},
        default={**toy.default, "units": 8, "some": None},
    )
    prepared = with_searcher(study, make(**seed), n_trials=40)
    configs = played(prepared)
    assert len(configs) == 40
    assert configs[0] == study.default
    assert prepared.method == make.__name__
    assert all(study.search_space.problems(config) == [] for config in configs)
    origins = {(t.origin, t.why) for t in prepared.search.trials[1:]}
    assert origins == {("external", f"proposed by Ray Tune's {make.__name__}")}
    late = sorted(abs(c["x"] - 0.3) for c in configs[20:])
    early = sorted(abs(c["x"] - 0.3) for c in configs[1:20])
    assert late[10] < early[9]


class Listed(RaySearcher):  # type: ignore[misc]
    """Proposes what is on a list, and writes down what it is told."""

    def __init__(self, *proposals: Any, says: str = "") -> None:
        super().__init__(metric="loss", mode="min")
        self.proposals, self.says = list(proposals), says
        self.told: list[tuple[str, Any]] = []

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        if self.says:
            logging.getLogger("ray.tune.search.listed").warning(self.says)
        return True

    def suggest(self, trial_id: str) -> Any:
        return self.proposals.pop(0) if self.proposals else RaySearcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append((trial_id, result["loss"]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.told.append((trial_id, "error" if error else result and result["loss"]))


def at(x: float) -> dict[str, Any]:
    return {"x": x, "do": "fine"}


def test_a_searcher_is_told_what_became_of_its_trials(toy: Study) -> None:
    study = replace(toy, max_epochs=2)
    theirs = Listed(at(0.1), at(0.2), at(0.3), at(0.1), None, at(0.4))
    search = with_searcher(study, theirs, n_trials=9).search
    jobs = [job for job in (search.ask() for _ in range(4)) if job is not None]
    assert [job.config["x"] for job in jobs] == [0.5, 0.1, 0.2, 0.3]
    search.tell(1, 1, 3.0)
    search.tell(1, 2, 2.0)
    search.tell(2, 1, 4.0)
    search.end(2, "stopped")
    search.end(3, "failed")
    # What is proposed twice is not run twice; and None is "not now", while a trial runs.
    assert search.ask() is None
    assert search.can_propose
    assert theirs.told == [
        ("hypertune-1", 3.0),
        ("hypertune-1", 2.0),
        ("hypertune-1", 2.0),
        ("hypertune-2", 4.0),
        ("hypertune-2", None),
        ("hypertune-3", "error"),
        ("hypertune-4", 2.0),
    ]
    last = search.ask()
    assert last is not None
    assert last.config["x"] == 0.4
    assert search.ask() is None
    assert not search.can_propose  # FINISHED


@pytest.mark.parametrize(
    ("searcher", "message"),
    [
        (Listed(at(0.1), says="The log sampler will be dropped."), "sampler will be dropped"),
        (Listed({"x": 3.0, "do": "fine"}), r"not in it: x must be a number in \[0, 1\]"),
        (Listed({"x": 0.5}), "do is missing"),
        (ConcurrencyLimiter(Listed(), 2), "said by n_concurrent"),
        (OptunaSearch({"x": tune.uniform(0, 1)}, "acc", "max"), "metric, loss, but its metric is"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_a_searcher_that_does_not_fit_is_refused_with_the_reason(
    searcher: RaySearcher, message: str, toy: Study, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="ray.tune")  # as it is after a run
    with pytest.raises(SettingError, match=message):
        with_searcher(toy, searcher)


@pytest.mark.parametrize("make", [OptunaSearch, HyperOptSearch])
def test_branches_are_refused_by_who_cannot_search_them(make: Any, toy: Study) -> None:
    rate = tune.loguniform(1e-3, 1)
    opt = tune.choice([{"name": "a", "rate": rate}, {"name": "b", "rate": rate}])
    study = replace(
        toy,
        space={**toy.space, "opt": opt},
        default={**toy.default, "opt": {"name": "a", "rate": 0.1}},
    )
    with pytest.raises(SettingError, match=f"{make.__name__} cannot search this space"):
        with_searcher(study, make())


def test_what_is_no_plain_value_is_refused(toy: Study) -> None:
    with pytest.raises(SettingError, match="Listed cannot search this space: it proposed what is"):
        with_searcher(toy, Listed({**toy.default, "x": object()}))


def test_searchers_of_rays_are_asked_for_no_levels(toy: Study) -> None:
    study = replace(
        toy,
        space={**toy.space, "kind": tune.choice(["a", "b"])},
        default={**toy.default, "kind": "a"},
        factors=("kind",),
        goal="answer",
    )
    assert prepare(study, Settings(method="random")).search.fair is not None
    proposals = [{**toy.default, "x": k / 10, "kind": "b"} for k in range(6)]
    prepared = with_searcher(study, Listed(*proposals), n_trials=7)
    assert [config["kind"] for config in played(prepared)] == ["a"] + ["b"] * 6


@pytest.mark.parametrize("make", [schedulers.ASHAScheduler, schedulers.HyperBandScheduler])
def test_scheduler_that_ends_every_trial_early_is_refused(make: Any, toy: Study) -> None:
    settings = Settings(method="random")
    with pytest.raises(SettingError, match=r"ends every trial at its max_t, 3, .*max_t=9"):
        prepare(toy, settings, scheduler=make(max_t=3))
    prepare(toy, settings, scheduler=make(max_t=9))


@pytest.mark.parametrize("what", [3, schedulers.ASHAScheduler, OptunaSearch])
def test_what_is_no_object_of_rays_is_refused(what: Any, toy: Study) -> None:
    with pytest.raises(SettingError, match="searcher must be an object of one of Ray Tune's"):
        with_searcher(toy, what)
    with pytest.raises(SettingError, match="scheduler must be an object of one of Ray Tune's"):
        prepare(toy, Settings(method="random"), scheduler=what)


def test_what_does_not_go_together_is_said(toy: Study) -> None:
    with pytest.raises(SettingError, match="method 'tpe' and Listed are both searchers"):
        hypertune.run(toy, method="tpe", searcher=Listed())
    with pytest.raises(SettingError, match=r"Unknown setting 'n_trails'.* 'n_trials'"):
        hypertune.run(toy, n_trails=3)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("default")
def test_objects_of_rays_run_a_study_that_cannot_be_resumed(toy: Study, tmp_path: Path) -> None:
    outcome = hypertune.run(
        toy,
        searcher=OptunaSearch(seed=1),
        scheduler=schedulers.ASHAScheduler(max_t=9, reduction_factor=2),
        n_trials=10,
        n_repeats=0,
        studies_dir=tmp_path / "studies",
        sync_timeout_s=0.0,
    )
    assert outcome.error is None
    with closing(Journal(outcome.folder / "journal.db", read_only=True)) as journal:
        assert journal.study()["method"] == "OptunaSearch + AsyncHyperBandScheduler"
        trials = [t for t in journal.trials() if t.role == "search"]
    assert len(trials) == 10
    assert {t.reason for t in trials} == {"complete", "stopped"}
    with pytest.raises(SettingError, match=r"given from Python .* cannot be gone on with.* --from"):
        resume(outcome.folder, space=toy, changes={"n_trials": 20})
