"""A study outlives its process: cut at any point, it goes on as if nothing had happened.

Ray and MLflow are not needed for that: jobs run one after another in this process.
"""

import contextlib
import errno
import io
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import OURS, TOY, doing
from one_worker import Killed, OneWorker, cut, record, settings
from ray import tune
from rich.console import Console

from hypertune import cli, engine, load_model, load_trials
from hypertune.analysis import summarize
from hypertune.analysis.statements import Undecided
from hypertune.cli.display.trial import show_rerun
from hypertune.core.errors import HypertuneError, JournalError, SettingError
from hypertune.core.space import as_lists, identity
from hypertune.engine import StudyResult
from hypertune.engine.driver import Driver
from hypertune.engine.folder import locked
from hypertune.engine.ray.worker import Worker
from hypertune.engine.retention import Checkpoints
from hypertune.journal.history import StudyHistory
from hypertune.journal.snapshot import Snapshots, study_place
from hypertune.journal.store import Journal
from hypertune.studies.study import Goal, Study, load_study


@pytest.fixture
def study(toy: Study) -> Study:
    rate = tune.loguniform(1e-4, 1)
    opt = tune.choice([{"name": "sgd", "rate": rate}, {"name": "adam", "rate": rate}])
    space = {**doing(toy, "fine", "nan", "converge").space, "opt": opt}
    return replace(
        doing(toy, "fine", "nan", "converge"),
        space=space,
        default={"x": 0.5, "do": "fine", "opt": {"name": "adam", "rate": 0.1}},
    )


@pytest.mark.parametrize("method", OURS)
def test_a_study_that_is_killed_anywhere_ends_as_if_it_had_not_been(
    method: str, study: Study, one: OneWorker, tmp_path: Path
) -> None:
    whole = settings(tmp_path, method=method, name="whole")
    engine.run(study, whole)
    n_reports, one.n_reports = one.n_reports, 0
    assert n_reports > 20

    for at in {1, 2, n_reports // 3, n_reports // 2, n_reports - 3, n_reports}:
        folder = cut(one, study, settings(tmp_path, method=method, name=f"cut-{at}"), at=at)
        outcome = engine.resume(folder, space=study)
        assert outcome.error is None
        assert record(folder) == record(whole.studies_dir / "whole"), at


def test_a_study_goes_on_on_another_machine(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypertune.engine.session.check_nodes", lambda settings: None)
    storage = tmp_path / "common"
    storage.mkdir()
    how = settings(tmp_path, method="asha", storage=str(storage))
    folder = cut(one, toy, how, at=5)
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        place = study_place(str(storage), "s", journal.study()["study_id"])
    with contextlib.closing(Snapshots(folder / "journal.db", place)) as snapshots:
        snapshots.take(at_once=True)

    elsewhere = engine.study_folder(tmp_path / "elsewhere", "s", str(storage))
    assert elsewhere == tmp_path / "elsewhere" / "s"
    assert engine.resume(elsewhere, space=toy).error is None
    engine.run(toy, replace(how, name="whole"))
    assert record(elsewhere) == record(tmp_path / "studies" / "whole")
    with pytest.raises(SettingError, match=r"must be at most 100 letters.*got '\.\./s'"):
        engine.study_folder(tmp_path / "elsewhere", "../s", str(storage))


@pytest.mark.parametrize("method", ["asha", "auto", "random"])
def test_a_fair_study_that_is_killed_goes_on_with_the_same_decisions(
    method: str, study: Study, one: OneWorker, tmp_path: Path
) -> None:
    study = replace(study, factors=("opt",), goal="answer")
    whole = settings(tmp_path, method=method, name="whole")
    engine.run(study, whole)
    n_reports = one.n_reports
    with contextlib.closing(Journal(tmp_path / "studies/whole/journal.db", read_only=True)) as j:
        assert j.study()["settings"]["goal"] == "answer"
        searched = [t.config["opt"]["name"] for t in j.trials() if t.role == "search"]
    assert sorted(searched) == ["adam"] * 4 + ["sgd"] * 4
    ranked = [engine.explain(tmp_path / "studies/whole", k) for k in range(8)]
    if method != "random":
        among = {(c.n, c.among) for known in ranked for c in known.comparisons if c.epoch == 1}
        assert among == {(4, "opt adam"), (4, "opt sgd")}
    # What the study's file says by then does not matter: the journal says what it was begun with.
    now = replace(study, factors=("x",), goal="best")
    for at in (n_reports // 3, n_reports // 2):
        folder = cut(one, study, settings(tmp_path, method=method, name=f"cut-{at}"), at=at)
        assert engine.resume(folder, space=now).error is None
        assert record(folder) == record(whole.studies_dir / "whole"), at


def test_under_a_scheduler_of_rays_what_ended_stays_and_the_rest_goes_on(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(driver: Driver, data: Any) -> None:
        def report(key: str, epochs: range) -> None:
            for epoch in epochs:
                row = {"epoch": epoch, "metrics": {"loss": 5.0 - epoch / 10}, "t_ms": epoch}
                last: dict[str, Any] = {"epoch": epoch, "converged": False, "failure": None}
                last["traceback"] = ""
                last["done"] = epoch == 9
                driver.result(key, {"epochs": [row], **last, "device": "cpu"})

        for key, epochs in (("a", range(1, 2)), ("b", range(1, 10)), ("c", range(1, 3))):
            driver.next_job(key)
            driver.started(key)
            if key == "a":
                driver.stop(key)
            report(key, epochs)
        driver.pause("c", 2)
        driver.changed("c", "b", {"x": 0.25, "do": "fine"}, 3)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("hypertune.engine.session.search_on_ray", begin)
        with pytest.raises(Killed):
            engine.run(toy, settings(tmp_path, method="ray-asha", n_trials=4, n_repeats=1))
    folder = tmp_path / "studies" / "s"
    outcome = engine.resume(folder, space=toy)
    assert outcome.error is None

    rows = record(folder)
    searched = [row for row in rows if row[2] == "search"]
    assert [row[5] for row in searched] == ["stopped", "complete", "complete", "complete"]
    assert searched[0][6] == "by Ray Tune's AsyncHyperBandScheduler after epoch 1"
    assert [len(row[7]) for row in searched] == [1, 9, 9, 9]
    # It goes on with the config that it was given on the way, under which it is not repeated.
    assert [loss for _, loss in searched[2][7][:2]] == [4.9, 4.8]
    assert [loss for _, loss in searched[2][7][2:]] == [0.25 + 1 / e for e in range(3, 10)]
    labels = {row[3]: row[7][-1][1] for row in rows if row[2] != "search"}
    assert labels["default"] == 0.5 + 1 / 9  # stopped in the search: trained in full besides
    assert "best, repeat 1" in labels
    assert all(loss != 0.25 + 1 / 9 for loss in labels.values())


def test_a_study_may_be_killed_again_and_again(
    study: Study, one: OneWorker, tmp_path: Path
) -> None:
    whole = settings(tmp_path, method="asha", name="whole")
    engine.run(study, whole)
    folder = cut(one, study, settings(tmp_path, method="asha"), at=4)
    n_kills = 1
    for _ in range(50):
        one.kill_at, one.n_reports = 10, 0  # further than any job
        try:
            engine.resume(folder, space=study)
        except Killed:
            n_kills += 1
        else:
            break
    assert n_kills > 2
    assert record(folder) == record(whole.studies_dir / "whole")


def test_without_its_checkpoints_a_trial_begins_anew_and_its_results_stay(
    study: Study, one: OneWorker, tmp_path: Path
) -> None:
    whole = settings(tmp_path, method="asha", name="whole")
    engine.run(study, whole)
    folder = cut(one, study, settings(tmp_path, method="asha"), at=14)
    shutil.rmtree(folder / "checkpoints")
    engine.resume(folder, space=study)
    assert record(folder) == record(whole.studies_dir / "whole")


def test_the_default_is_recommended_where_it_is_better_in_full(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    study = doing(toy, "fine", "late")
    study = replace(study, default={"x": 0.2, "do": "late"})
    folder = engine.run(study, settings(tmp_path, method="asha", n_trials=12)).folder
    summary = summarize(folder)
    assert summary.best is not None
    assert (summary.best.label, summary.best.config["x"]) == ("default", 0.2)
    best = next(score for score in summary.scores if score.label == "best")
    assert best.test == 100.2
    assert "The default configuration is the best one that was found." in summary.verdicts


@pytest.mark.parametrize("method", ["asha", "random"])
def test_the_best_on_fresh_seeds_is_recommended_and_judged_in_place_of_a_lucky_winner(
    method: str, toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    study = replace(doing(toy, "fine", "lucky"), default={"x": 0.9, "do": "fine"}, factors=("do",))
    study = replace(study, goal="answer")
    folder = engine.run(study, settings(tmp_path, method=method, n_trials=12)).folder
    summary = summarize(folder)
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        trials = {t.id: t for t in journal.trials()}
        looks = {e.data["label"]: e.trial for e in journal.events(kind="test")}
        again = [t.config["x"] for t in trials.values() if t.role == "replicate"]
    assert summary.best is not None
    assert summary.incumbent is not None
    assert trials[summary.incumbent].config["do"] == "lucky"
    # Without the luck of its seed every config is as good as its x is small.
    assert summary.best.config["x"] == min(again)
    assert looks["best"] == summary.best.id
    best = next(score for score in summary.scores if score.label == "best")
    assert best.fresh == pytest.approx(min(again) + 1 / 9)
    assert best.n_fresh == 5
    assert best.test == pytest.approx(min(again) + 100)
    found = load_model_of(folder, study)
    assert (found, summary.n_looks) == (summary.best.id, 1)
    if trials[summary.best.id].config["do"] == "fine":
        assert summary.best.id != summary.incumbent


def load_model_of(folder: Path, study: Study) -> int:
    """Return the trial whose checkpoint `load_model` finds without being told a trial."""
    with pytest.raises(SettingError, match="Only the code that trained this model") as told:
        load_model(folder, space=study)
    return int(str(told.value).partition("trial-")[2][:3])


def test_checkpoints_keep_to_their_budget_and_trials_without_one_train_again(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What may be recommended stays whatever it takes: without repeats that is the best one.
    whole = settings(tmp_path, method="asha", n_trials=12, n_repeats=0, name="whole")
    engine.run(toy, whole)
    n_most = 0
    weigh = Checkpoints.weigh

    def counted(self: Checkpoints, trial: int) -> None:
        nonlocal n_most
        n_most = max(n_most, len(list(Path(self.root).glob("trial-*"))))
        weigh(self, trial)

    monkeypatch.setattr(Checkpoints, "weigh", counted)
    tight = replace(whole, name="tight", disk_budget_bytes=3.0)  # of a byte each
    folder = engine.run(toy, tight).folder
    assert n_most <= 4
    assert record(folder) == record(whole.studies_dir / "whole")


def test_a_finished_study_keeps_few_files(toy: Study, one: OneWorker, tmp_path: Path) -> None:
    folder = engine.run(toy, settings(tmp_path, method="asha", n_trials=150)).folder
    assert sum(path.is_file() for path in folder.rglob("*")) < 100
    assert engine.resume(folder, space=toy, changes={"n_trials": 160}).error is None


def test_a_full_disk_ends_the_search_and_fails_no_trial(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Worker) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_save", full)
        outcome = engine.run(toy, settings(tmp_path, method="asha"))
    assert outcome.error is not None
    assert "A checkpoint cannot be written: No space left on device" in outcome.error
    assert [row[5] for row in record(outcome.folder) if row[2] == "search"] == ["interrupted"]
    again = engine.resume(outcome.folder, space=toy)
    assert (again.error, again.stopped_by) == (None, None)


@pytest.mark.parametrize("goal", ["answer", "best"])
def test_what_the_goal_asks_for_and_the_default_run_again_on_the_same_fresh_seeds(
    goal: Goal, toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    study = replace(
        toy,
        space={**toy.space, "level": tune.choice(["a", "b"])},
        default={**toy.default, "level": "a"},
        factors=("level",),
    )
    how = settings(tmp_path, method="random", n_repeats=2, seed=5, goal=goal)
    folder = engine.run(study, how).folder
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        trials = journal.trials()
        again = [t for t in trials if t.role == "replicate"]
        epochs = {t.id: len(journal.results(trial=t.id)) for t in again}
        seeds = {row.metrics["seed"] for t in again for row in journal.results(trial=t.id)}
    searched = [t for t in trials if t.role == "search"]
    best = {
        level: min(t.config["x"] for t in searched if t.config["level"] == level)
        for level in ("a", "b")
    }
    top = sorted((t.config["x"], t.config["level"]) for t in searched)[:2]
    chosen = {(x, level) for level, x in best.items()} if goal == "answer" else set(top)
    expected = {*chosen, (0.5, "a")}
    for repeat in (1, 2):
        block = [t for t in again if t.repeat == repeat]
        assert {(t.config["x"], t.config["level"]) for t in block} == expected
        assert {t.seed for t in block} == {5 + repeat}
    assert seeds == {6.0, 7.0}
    assert set(epochs.values()) == {9}
    assert {t.reason for t in again} == {"complete"}
    # They are no searched configs, and a study that goes on makes no second ones.
    assert sum(summarize(folder).reasons.values()) == 8
    engine.resume(folder, space=study, changes={"n_trials": 9})
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        more = [t for t in journal.trials() if t.role == "replicate"]
    pairs = [(json.dumps(t.config, sort_keys=True), t.repeat) for t in more]
    assert len(pairs) == len(set(pairs))


def test_a_slow_learner_that_was_stopped_early_is_recommended_if_fresh_seeds_show_its_worth(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    # "late" is behind for eight epochs, and far ahead at the ninth; five levels are not kept fair.
    study = replace(doing(toy, "fine", "lucky", "converge", "nan", "late"), factors=("do",))
    how = settings(tmp_path, method="asha", n_trials=16, n_repeats=2)
    folder = engine.run(study, how).folder
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        trials = {t.id: t for t in journal.trials()}
        looks = {e.data["label"]: e.trial for e in journal.events(kind="test")}
    late = [t for t in trials.values() if t.role == "search" and t.config["do"] == "late"]
    assert {t.reason for t in late} == {"stopped"}
    summary = summarize(folder)
    assert summary.best is not None
    best = trials[summary.best.id]
    assert (best.config["do"], best.role, best.repeat) == ("late", "replicate", 1)
    assert looks["best"] == best.id
    assert (folder / "checkpoints" / f"trial-{best.id:03d}").is_dir()
    # It stays so when the study goes on and is over again.
    engine.resume(folder, space=study, changes={"n_trials": 17})
    assert summarize(folder).best == summary.best


def test_a_default_that_failed_in_the_search_is_recommended_if_fresh_seeds_show_its_worth(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    study = replace(doing(toy, "fine", "unlucky"), default={"x": 0.0, "do": "unlucky"})
    folder = engine.run(study, settings(tmp_path, method="random", n_repeats=2)).folder
    summary = summarize(folder)
    assert summary.best is not None
    assert (summary.best.config["x"], summary.best.role) == (0.0, "replicate")
    score = summary.scores[0]
    assert (score.label, score.trial, score.test) == ("best", summary.best.id, 100.0)


@pytest.mark.parametrize("method", ["asha", "random", "hyperband", "auto"])
def test_a_finished_study_is_extended_and_nothing_is_run_twice(
    method: str, toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    engine.run(toy, settings(tmp_path, method=method))
    folder = tmp_path / "studies" / "s"
    before = record(folder)
    outcome = engine.resume(folder, space=toy, changes={"n_trials": 12})

    assert outcome.error is None
    after = record(folder)
    n_searched = sum(role == "search" for _, _, role, *_ in after)
    assert n_searched == 12
    for old, new in zip(before, after, strict=False):
        n = len(old[7])
        assert (new[:4], new[7][:n]) == (old[:4], old[7])
        assert old[5] == "stopped" or new == old or new[9]  # it became the best, and was looked at
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        assert journal.study()["n_trials"] == 12
        looks = [event.trial for event in journal.events(kind="test")]
        assert len(looks) == len(set(looks))
        assert len(StudyHistory.read(journal).sessions) == 2
    assert summarize(folder).study["n_trials"] == 12


def test_until_decided_needs_an_end(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingError, match="--until-decided needs a --time-budget"):
        engine.run(toy, settings(tmp_path, until_decided=True))
    with pytest.raises(SettingError, match="needs --n-repeats of at least 1, but got 0"):
        engine.run(toy, settings(tmp_path, until_decided=True, time_budget_s=9.0, n_repeats=0))
    assert not (tmp_path / "studies").exists()
    folder = ran(one, toy, tmp_path).folder
    with pytest.raises(SettingError, match="--until-decided needs a --time-budget"):
        engine.resume(folder, space=toy, changes={"until_decided": True})
    more = {"until_decided": True, "time_budget_s": 1e6}
    asked: list[int] = []

    def judge(history: StudyHistory) -> list[Undecided]:
        asked.append(history.n_analyses)
        left = Undecided(factor="level", levels=(), n_more=None, text="undecided yet")
        return [left] if len(asked) == 1 else []

    monkeypatch.setattr("hypertune.analysis.deciding.undecided", judge)
    assert engine.resume(folder, space=toy, changes=more).error is None
    assert sum(row[2] == "search" for row in record(folder)) == 16
    assert len(asked) == 2


def test_a_trial_that_waited_for_another_worker_is_told_as_interrupted(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_and_stop(driver: Driver, data: Any) -> None:
        driver.next_job("a")
        driver.started("a")
        driver.all_died("gone")
        driver.interrupted = True

    monkeypatch.setattr("hypertune.engine.session.search_on_ray", lose_and_stop)
    outcome = engine.run(toy, settings(tmp_path))
    (row,) = [row for row in record(outcome.folder) if row[2] == "search"]
    assert row[4:7] == ("ended", "interrupted", "by signal before its first epoch")


def ran(one: OneWorker, toy: Study, tmp_path: Path, **changes: Any) -> StudyResult:
    return engine.run(toy, settings(tmp_path, method="random", **changes))


def test_what_cannot_go_on_is_said(toy: Study, one: OneWorker, tmp_path: Path) -> None:
    folder = ran(one, toy, tmp_path).folder

    def refused(match: str, kind: type[HypertuneError] = SettingError, **kwargs: Any) -> None:
        before = (folder / "journal.db").stat().st_mtime_ns
        with pytest.raises(kind, match=match):
            engine.resume(kwargs.pop("folder", folder), **kwargs)
        assert (folder / "journal.db").stat().st_mtime_ns == before

    refused("finished: 8 trials. For more of them give the new total with --n-trials", space=toy)
    refused("must be at least 8, .* but got 3", space=toy, changes={"n_trials": 3})
    wider = replace(toy, space={**toy.space, "x": tune.uniform(0, 2)}, mode="max")
    refused("not that of 's' any more: space, mode changed", space=wider)
    refused("There is no journal", kind=JournalError, folder=tmp_path / "studies" / "nobody")
    (tmp_path / "moved.py").write_text(TOY.read_text())
    refused("is finished", space=str(tmp_path / "moved.py"))
    with locked(folder):
        refused("under way in another process", space=toy)


def test_a_study_file_that_moved_or_changed(one: OneWorker, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(TOY.read_text())
    folder = cut(one, engine_study(path), settings(tmp_path), at=5)
    text = path.read_text()
    path.unlink()
    with pytest.raises(SettingError, match=r"is not at .*mine.py' any more: say where it is"):
        engine.resume(folder)

    path.write_text(text + "\n# A remark.\n")
    outcome = engine.resume(folder)
    assert outcome.warning is not None
    assert "was changed since this study began" in outcome.warning
    assert outcome.stopped_by is None
    again = engine.rerun(folder, 1)
    assert (again.source_changed, again.differs) == (True, None)
    out = io.StringIO()
    show_rerun(Console(file=out), again)
    assert "file was changed since" in out.getvalue()


def engine_study(path: Path) -> Study:
    from hypertune.studies.study import load_study

    return load_study(str(path))


def test_nothing_is_trained_after_the_time_budget(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_result = Journal.add_result

    def late(self: Journal, trial: int, epoch: int, *args: Any, **kwargs: Any) -> bool:
        if (trial, epoch) == (2, 4):
            monkeypatch.setattr("time.monotonic", lambda now=time.monotonic: now() + 2000.0)
        return add_result(self, trial, epoch, *args, **kwargs)

    monkeypatch.setattr(Journal, "add_result", late)
    outcome = engine.run(toy, settings(tmp_path, method="random", time_budget_s=1000.0))

    assert outcome.stopped_by == "time budget"
    with contextlib.closing(Journal(outcome.folder / "journal.db", read_only=True)) as journal:
        searched = [trial for trial in journal.trials() if trial.role == "search"]
        ended = [(t.reason, len(journal.results(trial=t.id))) for t in searched]
        tests = {event.data["label"] for event in journal.events(kind="test")}
    assert ended == [("complete", 9), ("complete", 9), ("interrupted", 5)]
    assert {"best", "one"} <= tests


def test_trials_that_are_paused_as_the_time_budget_ends_can_be_promoted_later(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(folder: Path) -> dict[str, tuple[str | None, list[int]]]:
        with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
            return {
                identity(t.config): (t.reason, [r.epoch for r in journal.results(trial=t.id)])
                for t in journal.trials()
                if t.role == "search"
            }

    how = {"method": "asha", "n_trials": 12}
    whole = trained(engine.run(toy, settings(tmp_path / "whole", **how)).folder)
    add_result, clock = Journal.add_result, time.monotonic

    def late(self: Journal, trial: int, epoch: int, *args: Any, **kwargs: Any) -> bool:
        if trial == 9:  # some were promoted by now, others wait for it
            monkeypatch.setattr("time.monotonic", lambda: clock() + 2000.0)
        return add_result(self, trial, epoch, *args, **kwargs)

    monkeypatch.setattr(Journal, "add_result", late)
    outcome = engine.run(toy, settings(tmp_path / "cut", **how, time_budget_s=1000.0))
    cut_short = trained(outcome.folder)
    assert outcome.stopped_by == "time budget"
    assert cut_short != whole
    assert {epochs[-1] for _, epochs in cut_short.values()} >= {1, 3}

    monkeypatch.setattr(Journal, "add_result", add_result)
    monkeypatch.setattr("time.monotonic", clock)
    engine.resume(outcome.folder, space=toy, changes={"time_budget_s": 1000.0})
    assert trained(outcome.folder) == whole


def test_what_is_left_of_the_time_budget_applies(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut(one, toy, settings(tmp_path, time_budget_s=1000.0), at=5)
    seen: list[float] = []

    def search(driver: Driver, data: Any) -> None:
        assert driver.progress.deadline is not None
        seen.append(driver.progress.deadline - driver.progress.started)
        raise Killed

    monkeypatch.setattr("hypertune.engine.session.search_on_ray", search)
    for changes in ({}, {"time_budget_s": 50.0}):
        with pytest.raises(Killed):
            engine.resume(folder, space=toy, changes=changes)
    assert 900 < seen[0] < 1000
    assert seen[1] == pytest.approx(50.0)

    with contextlib.closing(Journal(folder / "journal.db")) as journal:
        journal.set_study(settings={**journal.study()["settings"], "time_budget_s": 1e-9})
    with pytest.raises(SettingError, match=r"time budget of 's' is spent .* --time-budget"):
        engine.resume(folder, space=toy)


def test_a_journal_on_a_network_file_system_is_refused(
    toy: Study, one: OneWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut(one, toy, settings(tmp_path), at=5)
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(tmp_path), fstype="nfs4"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    with pytest.raises(SettingError, match=r"network file system \(nfs4\).* --studies-dir"):
        engine.resume(folder, space=toy)
    with pytest.raises(SettingError, match="network file system"):
        engine.run(toy, settings(tmp_path, name="other"))
    assert not (tmp_path / "studies" / "other").exists()


def test_a_store_whose_login_was_not_recorded_must_be_named_again(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    uri = "http://me:secret@127.0.0.1:9"
    folder = cut(one, toy, settings(tmp_path, tracking_uri=uri), at=5)
    # But for the uncommitted changes of our own code, in which these words may be.
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".diff"]
    assert b"secret" not in b"".join(p.read_bytes() for p in files)
    with pytest.raises(SettingError, match="give --tracking-uri again"):
        engine.resume(folder, space=toy)
    outcome = engine.resume(folder, space=toy, changes={"tracking_uri": uri})
    assert outcome.store == uri


def test_a_trial_is_explained(toy: Study, one: OneWorker, tmp_path: Path) -> None:
    folder = engine.run(toy, settings(tmp_path, method="asha", n_trials=9)).folder
    known = [engine.explain(folder, trial) for trial in range(9)]

    assert known[0].why == "the study's default"
    assert {k.why for k in known[1:]} == {"drawn at random"}
    first = [k.comparisons[0] for k in known]
    assert sorted(c.rank for c in first) == list(range(1, 10))
    assert {(c.epoch, c.n, c.n_go_on) for c in first} == {(1, 9, 3)}
    for k in known:
        goes_on = k.comparisons[0].rank <= 3
        assert goes_on == (k.comparisons[0].loss <= (k.comparisons[0].cut_off or 0.0))
        assert k.trial.config["x"] + 1 == pytest.approx(k.comparisons[0].loss)
        if goes_on:
            assert len(k.stretches) >= 2
        assert sum(s.reached - s.from_epoch for s in k.stretches) in (1, 3, 9)
    with pytest.raises(SettingError, match="no trial 99: its trials are numbered 0 to"):
        engine.explain(folder, 99)


def test_the_model_says_what_it_expected(toy: Study, one: OneWorker, tmp_path: Path) -> None:
    study = replace(toy, mode="max", max_epochs=4)
    folder = engine.run(study, settings(tmp_path, method="auto", n_trials=14)).folder
    known = [engine.explain(folder, trial) for trial in range(14)]
    by_model = [k for k in known if "Gaussian process" in k.why]
    assert len(by_model) >= 4
    for k in by_model:
        assert k.expected is not None
        assert 0 < k.expected < 2.5  # values, not losses: these are to be maximised


@pytest.fixture
def trained(one: OneWorker, tmp_path: Path) -> Path:
    study = replace(engine_study(Path("search_spaces/gru_window.py").resolve()), n_trials=2)
    how = settings(tmp_path, method="random", n_trials=2, max_epochs=2, n_repeats=1)
    return engine.run(study, how).folder


def test_a_trial_is_run_again_to_the_last_digit(trained: Path) -> None:
    folder = trained
    lines: list[int] = []
    n_epochs = summarize(folder).n_epochs
    again = engine.rerun(folder, 1, watch=lambda epoch, metrics: lines.append(epoch))
    assert not again.source_changed
    assert (again.of, again.n_epochs, again.differs, again.failure) == (1, 2, None, None)
    assert lines == [1, 2]
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        row = journal.trial(again.trial)
        assert (row.role, row.label, row.reason) == ("rerun", "rerun of 1", "complete")
        first, second = (journal.results(trial=trial) for trial in (1, again.trial))
        assert [r.metrics for r in first] == [r.metrics for r in second]

    other = engine.rerun(folder, 1, seed=5)
    assert (other.same_seed, other.differs) == (False, 1)
    # Neither is a searched config: the study's answer and its cost are what they were.
    assert sum(summarize(folder).reasons.values()) == 2
    assert summarize(folder).n_epochs == n_epochs
    simple = [t for t in range(again.trial) if engine.explain(folder, t).trial.role == "baseline"]
    with pytest.raises(SettingError, match="was not trained for an epoch"):
        engine.rerun(folder, simple[-1])


def test_study_that_has_tried_its_whole_space_says_so(
    toy: Study, one: OneWorker, tmp_path: Path
) -> None:
    study = replace(toy, space={"x": tune.choice([0.25, 0.5, 0.75])}, default={"x": 0.5})
    folder = engine.run(study, settings(tmp_path, n_trials=50, n_repeats=0)).folder
    with pytest.raises(SettingError, match=r"finished: 3 trials. The space has no more configs"):
        engine.resume(folder, space=study, changes={"n_trials": 60})


def test_settings_in_the_journal_are_plain(toy: Study, one: OneWorker, tmp_path: Path) -> None:
    outcome = ran(one, toy, tmp_path)
    with contextlib.closing(Journal(outcome.folder / "journal.db", read_only=True)) as journal:
        about = journal.study()
    assert json.loads(json.dumps(about)) == about
    assert about["start"] == [dict(toy.default)]


def test_run_or_resume_begins_goes_on_here_or_elsewhere_and_ends_for_good(
    one: OneWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr("hypertune.engine.session.check_nodes", lambda settings: None)

    err = ""

    def call(folder: str, *more: str) -> tuple[int, str]:
        nonlocal err
        args = ["run", "--space", str(TOY), "--method", "random", "--n-trials", "4"]
        args += ["--name", "s", "--or-resume", "--storage", str(shared), "--n-concurrent", "1"]
        args += ["--studies-dir", str(tmp_path / folder / "studies"), *more]
        monkeypatch.setattr(sys, "argv", ["hypertune", *args])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        err = said.err
        return int(end.value.code or 0), said.out

    one.kill_at = 12
    with pytest.raises(Killed):
        call("here")
    one.kill_at, one.n_reports = 10, 0
    with pytest.raises(Killed):
        call("here")  # it goes on
    one.kill_at = None
    folder = tmp_path / "here" / "studies" / "s"
    assert "Resuming study 's'." in capsys.readouterr().out
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        assert len(journal.results()) > 11  # those of the first session, and more
        place = study_place(str(shared), "s", journal.study()["study_id"])
        with contextlib.closing(Snapshots(journal.path, place)) as copies:
            copies.take(at_once=True)

    status, out = call("there")
    assert status == 0
    assert "Resuming study 's'." in out
    assert "4 searched, 4 of them to the end" in out
    there = tmp_path / "there" / "studies" / "s"
    n_reports = one.n_reports
    status, out = call("there")
    assert status == 0
    assert "Study 's' is finished." in out
    assert "4 searched, 4 of them to the end" in out
    assert one.n_reports == n_reports
    # It is not shown as the answer to another question, nor as one that was found otherwise.
    assert call("there", "--space", "batch_lr")[0] == 2
    assert "Study 's' is one of 'toy', not of 'batch_lr'" in err
    others = ["--method", "tpe", "--max-epochs", "3", "--set", "sleep_s=0.5", "--seed", "7"]
    others += ["--cpus-per-trial", "2", "--time-budget", "9m"]
    assert call("there", *others)[0] == 2
    for expected in (
        "--method random, not tpe",
        "--cpus-per-trial 1.0, not 2.0",
        "--time-budget none, not 540.0",
        "--seed 0, not 7",
        "--max-epochs 9, not 3",
        "--set sleep_s=0.0, not 0.5",
    ):
        assert expected in err
    with contextlib.closing(Journal(there / "journal.db", read_only=True)) as journal:
        assert len(journal.events(kind="search_start")) == 3


VALUES = """
import enum
from ray import tune
from hypertune import Study

class Opt(str, enum.Enum):
    ADAM = "adam"
    SGD = "sgd"

def train(config, report):
    kinds = [type(config[name]) for name in ("kernel", "opt", "salt", "pad", "steps")]
    assert kinds == [tuple, str, int, tuple, list], kinds
    assert type(config["branch"]["size"]) is tuple
    assert all(type(step) is tuple for step in config["steps"])
    for epoch in range(1, config["max_epochs"] + 1):
        report(epoch=epoch, loss={(3, 3): 0.1, (5, 5): 0.2}[config["kernel"]] + config["x"])

study = Study(
    question="Do values arrive as they are named?", factors=("kernel",),
    space={
        "kernel": tune.choice([(3, 3), (5, 5)]),
        "opt": tune.choice([Opt.ADAM, Opt.SGD]),
        "salt": tune.choice([2**64, 2**65, 7]),
        "branch": tune.choice([{"size": (tune.randint(1, 9), 2)}]),
        "x": tune.uniform(0, 1),
    },
    default={"kernel": (3, 3), "opt": Opt.ADAM, "salt": 2**64, "branch": {"size": (1, 2)}, "x": 1},
    fixed={"pad": (1, 1), "steps": [(1, 2), (3, 4)]},
    trainable=train, metric="loss", max_epochs=3, n_trials=6, n_repeats=1,
)
"""


@pytest.mark.parametrize("method", ["auto", "random"])
def test_values_arrive_as_the_space_names_them_from_the_journal_too(
    method: str, one: OneWorker, tmp_path: Path
) -> None:
    path = tmp_path / "values.py"
    path.write_text(VALUES)
    study = load_study(str(path)).with_fixed({"pad": [2, 2]})
    assert study.fixed["pad"] == (2, 2)
    folder = engine.run(study, settings(tmp_path, method=method, n_trials=3)).folder
    engine.resume(folder, changes={"n_trials": 6})
    again = engine.rerun(folder, 1)
    assert (again.failure, again.differs) == (None, None)
    how = settings(tmp_path, name="warm", from_study=str(folder), method=method, n_trials=6)
    engine.run(study, how)
    for name in ("s", "warm"):
        with contextlib.closing(Journal(tmp_path / "studies" / name / "journal.db")) as journal:
            assert {trial.reason for trial in journal.trials()} <= {"complete", "stopped"}
    summarize(folder)
    frame = load_trials(folder)
    assert frame["config.salt"].isin([str(2**64), str(2**65), "7"]).all()
    assert frame["config.kernel"].isin(["[3, 3]", "[5, 5]"]).all()


def test_study_that_began_before_records_told_tuples_goes_on(
    one: OneWorker, tmp_path: Path
) -> None:
    path = tmp_path / "values.py"
    path.write_text(VALUES)
    folder = engine.run(load_study(str(path)), settings(tmp_path, n_trials=2)).folder
    with contextlib.closing(Journal(folder / "journal.db")) as journal:
        journal.set_study(parameters=as_lists(journal.study()["parameters"]))
    engine.resume(folder, changes={"n_trials": 4})
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        assert {trial.reason for trial in journal.trials()} <= {"complete", "stopped"}
