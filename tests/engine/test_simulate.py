"""Whole studies in simulated time: their phases, their ends, and how they go on after a kill."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import OURS
from ray import tune

from hypertune.analysis.statements import Undecided
from hypertune.core.errors import SettingError
from hypertune.core.space import Config
from hypertune.engine.driver import Driver
from hypertune.engine.simulate import simulate
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import Journal
from hypertune.studies.study import Study


def curve(config: Config, seed: int) -> list[float]:
    """Return what the toy study's trials reach, and a little of the seed."""
    return [config["x"] + 1 / epoch + 0.001 * seed for epoch in range(1, 10)]


def known(history: StudyHistory) -> list[Any]:
    """Return what a study holds, but for times and kills."""
    return [
        (
            *(t.id, t.config, t.seed, t.role, t.label, t.state, t.reason),
            *(t.origin, t.why, t.test_result),
            None if (t.detail or "").endswith("the search was killed") else t.detail,
            [(row.epoch, row.metrics) for row in t.results.values()],
        )
        for t in history.trials.values()
    ]


class Left:
    """Stands for what is undecided, analysis by analysis: a study goes on while something is."""

    def __init__(self, *answers: list[Undecided]) -> None:
        self.answers, self.n = answers, 0

    def __call__(self, history: StudyHistory) -> list[Undecided]:
        self.n = len(history.extensions)
        return self.answers[self.n] if self.n < len(self.answers) else []


def left(*levels: str, n_more: int | None) -> list[Undecided]:
    return [Undecided(factor="level", levels=levels, n_more=n_more, text="undecided yet")]


@pytest.fixture
def study(toy: Study) -> Study:
    return replace(
        toy,
        space={**toy.space, "level": tune.choice(["a", "b", "c"])},
        default={**toy.default, "level": "a"},
        factors=("level",),
        goal="answer",
        n_repeats=3,
    )


UNTIL: dict[str, Any] = {
    "method": "asha",
    "n_trials": 8,
    "until_decided": True,
    "time_budget_s": 1e6,
}


def n_repeats_by_level(history: StudyHistory) -> dict[str, int]:
    again = history.of_role("replicate")
    assert {t.reason for t in again} == {"complete"}
    return {level: max(t.repeat for t in again if t.config["level"] == level) for level in "abc"}


def on_test(config: Config, seed: int) -> float:
    return 100.0 + float(config["x"])


@pytest.mark.parametrize("method", OURS)
def test_a_study_of_each_method_ends_with_fresh_seeds_and_one_test(
    method: str, study: Study
) -> None:
    history = simulate(
        study,
        curve,
        method=method,
        n_trials=12,
        n_workers=2,
        tests=on_test,
        baselines={"mean": 101.0},
    )
    assert history.last_end is not None
    assert history.last_end.data == {"stopped_by": None, "error": None}
    assert len(history.searched) == 12
    assert {t.config["level"] for t in history.of_role("replicate")} == set("abc")
    assert all(1 <= t.repeat <= 3 and t.seed == t.repeat for t in history.of_role("replicate"))
    tests = {event.data["label"]: event for event in history.events_of("test")}
    assert tests.keys() in ({"best", "default", "mean"}, {"best", "mean"})
    assert len(history.events_of("test")) == len(tests)
    # It is opened after all training.
    last = max(e.id for e in history.events_of("trial") if e.data.get("reason") == "complete")
    assert tests["best"].id > last or tests["mean"].id > last


def test_the_same_seed_gives_the_same_study(study: Study) -> None:
    how: dict[str, Any] = {"method": "tpe", "n_trials": 20, "seed": 4}
    assert known(simulate(study, curve, **how)) == known(simulate(study, curve, **how))


def test_fifty_trials_take_no_time_of_a_worker(study: Study) -> None:
    began = time.process_time()
    history = simulate(study, curve, method="asha", n_trials=50, epoch_s=lambda config: 3600.0)
    spans = [span.ended_ms - span.started_ms for t in history.searched for span in t.spans]
    assert sum(spans) / 1000 == 3600 * sum(t.epoch for t in history.searched)
    assert history.spent_s > 1e5 > time.process_time() - began


def test_until_decided_repeats_what_is_undecided_and_searches_where_that_is_needed(
    study: Study,
) -> None:
    judge = Left(left("a", "b", n_more=1), left("a", "b", n_more=90), left(n_more=None))
    history = simulate(study, curve, judge=judge, tests=on_test, **UNTIL)
    # 3, and half as many more; then as many more as there are, however many it would take.
    assert n_repeats_by_level(history) == {"a": 10, "b": 10, "c": 3}
    extensions = history.extensions
    assert [one.get("n_repeats", one.get("n_trials")) for one in extensions] == [5, 10, 16]
    assert len(history.searched) == history.study["n_trials"] == 16
    assert history.n_analyses == 4
    # The test part is opened once, at the end.
    tests = history.events_of("test")
    assert min(e.id for e in tests) > max(e.id for e in history.events_of("look"))
    assert sum(e.data["label"] == "best" for e in tests) == 1


def test_an_extension_that_leads_to_nothing_ends_the_study(study: Study) -> None:
    judge = Left(left("a", "b", n_more=1), left("never seen", n_more=1), left("a", n_more=1))
    assert len(simulate(study, curve, judge=judge, **UNTIL).extensions) == 1


def test_what_nothing_would_decide_is_no_reason_to_go_on(study: Study) -> None:
    hopeless = [replace(left(n_more=None)[0], hopeless=True)]
    assert simulate(study, curve, judge=Left(hopeless), **UNTIL).extensions == []


def test_the_defaults_level_runs_on_where_there_are_more_than_run_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypertune.search.candidates.MAX_PARTS", 1)
    study = replace(study, default={**study.default, "x": 0.999})  # others are better
    history = simulate(study, curve, judge=Left(left("a", n_more=1)), **UNTIL)
    again = history.of_role("replicate")
    assert max(t.repeat for t in again if t.config["x"] == 0.999) == 5
    assert max(t.repeat for t in again if t.config["x"] != 0.999) == 3


def test_what_can_never_be_decided_ends_with_the_time(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = Left(*[left("a", "b", n_more=99)] * 9)
    stages = ("look", 2, 12), ("repeat", 1, 6)  # the time is up at an analysis, or after one
    for stage, n, repeats in stages:

        def overdue(self: Driver, stage: str = stage) -> bool:
            return len(self.ledger.history.extensions) == 2 and self.progress.stage == stage

        monkeypatch.setattr(Driver, "overdue", property(overdue))
        history = simulate(study, curve, judge=never, tests=on_test, **UNTIL)
        assert history.last_end is not None
        assert (history.last_end.data["stopped_by"], never.n) == ("time budget", n)
        assert max(t.repeat for t in history.of_role("replicate") if t.full) == repeats
        assert history.events_of("test")


def test_a_finite_space_ends_what_needs_more_configs(toy: Study) -> None:
    space = {"x": tune.choice([0.1, 0.5, 0.7]), "do": tune.choice(["fine"])}
    history = simulate(
        replace(toy, space=space),
        curve,
        judge=Left(*[left(n_more=None)] * 9),
        **{**UNTIL, "method": "random", "n_trials": 2},
    )
    assert history.last_end is not None
    assert history.last_end.data["stopped_by"] is None
    assert len(history.searched) == 3


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("budget_s", [1.5, 20.0, 40.0, 55.0])
def test_nothing_is_trained_after_the_time_budget(
    budget_s: float, n_workers: int, study: Study
) -> None:
    history = simulate(
        study, curve, n_workers=n_workers, method="random", n_trials=8, time_budget_s=budget_s
    )
    assert history.last_end is not None
    assert history.last_end.data["stopped_by"] == "time budget"
    last = max(row.t_ms for t in history.trials.values() for row in t.results.values())
    assert last <= 1000 * (budget_s + 1)  # the epoch that runs is kept
    ends = {t.reason for t in history.trials.values()}
    assert ends <= {"complete", "interrupted", "stopped"}


def test_a_study_goes_on_with_the_time_that_it_was_given(study: Study, tmp_path: Path) -> None:
    whole = simulate(study, curve, method="asha", n_trials=8)
    folder = tmp_path / "s"
    folder.mkdir()
    cut = simulate(study, curve, folder=folder, method="asha", n_trials=8, time_budget_s=12.0)
    assert len(known(cut)) < len(known(whole))
    with pytest.raises(SettingError, match="time budget of 's' is spent"):
        simulate(study, curve, folder=folder)
    history = simulate(study, curve, folder=folder, time_budget_s=1e5)
    results = {(t.role, t.label, str(t.config)): t.epoch for t in whole.trials.values()}
    assert {(t.role, t.label, str(t.config)): t.epoch for t in history.trials.values()} == results


class Killed(BaseException):
    """Nothing more is written from here on, as after a SIGKILL."""


def simulate_until(n: int, monkeypatch: pytest.MonkeyPatch, *args: Any, **more: Any) -> bool:
    """Run a study until the n-th write to its journal; return whether it came to that."""
    n_writes, write = 0, Journal._write

    def counted(self: Journal) -> Any:
        nonlocal n_writes
        n_writes += 1
        if n_writes > n:
            raise Killed
        return write(self)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", counted)
        try:
            simulate(*args, **more)
        except Killed:
            return True
    return False


@pytest.mark.parametrize(("method", "every"), [("asha", 1), ("auto", 9)])
def test_a_study_that_is_killed_at_any_write_comes_to_the_same_end(
    method: str, every: int, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(study.with_max_epochs(3), n_repeats=1)
    judge = Left(left("a", "b", n_more=1), left(n_more=None))
    how: dict[str, Any] = {**UNTIL, "method": method, "n_trials": 3}
    given: dict[str, Any] = {"judge": judge, "tests": on_test, "baselines": {"mean": 101.0}}
    whole = known(simulate(short, curve, **given, **how))
    assert {row[3] for row in whole} == {"search", "replicate", "baseline"}
    n = 1
    while True:
        folder = tmp_path / str(n)
        folder.mkdir()
        if not simulate_until(n, monkeypatch, short, curve, folder=folder, **given, **how):
            break
        assert known(simulate(short, curve, folder=folder, **given)) == whole, n
        n += every
    assert n > 60


def test_a_trial_whose_metric_is_not_a_number_fails_alone(study: Study) -> None:
    def breaks(config: Config, seed: int) -> Sequence[float]:
        whole = curve(config, seed)
        return [*whole[:2], float("nan"), *whole[3:]] if config["level"] == "b" else whole

    history = simulate(study, breaks, method="random", n_trials=9)
    failed = {t.config["level"] for t in history.searched if t.reason == "failed"}
    assert failed == {"b"}
    assert {t.epoch for t in history.searched if t.reason == "failed"} == {2}
    assert {t.config["level"] for t in history.of_role("replicate")} <= {"a", "c"}
