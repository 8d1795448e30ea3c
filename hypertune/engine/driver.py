"""Carries out a study: sends out what is due next, and writes down what comes back of it.

What is due `phases` decides, what is written the `ledger` writes, which checkpoints are kept
`retention` says, and whether a lost job is tried again `retries`.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import ray
from ray.tune.schedulers import TrialScheduler

from hypertune.core.errors import HypertuneError, JournalError, describe, user_code
from hypertune.core.space import Config, as_plain, identity
from hypertune.core.text import redact
from hypertune.engine import phases
from hypertune.engine.ledger import Ledger
from hypertune.engine.phases import Plan, Undecided
from hypertune.engine.progress import Observer, Progress
from hypertune.engine.ray.schedulers import wants_all
from hypertune.engine.ray.worker import WorkerJob, hang_file
from hypertune.engine.retention import Checkpoints, Retention, checkpoint_root
from hypertune.engine.retries import Retries, Verdict
from hypertune.engine.running import RunningJob, RunningJobs
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import FULL, Journal, predictions_file
from hypertune.search import Assignment, Reason, Search
from hypertune.settings import Settings
from hypertune.studies.study import Study
from hypertune.tasks.user_code import as_metrics
from hypertune.tracking.tensorboard import HISTOGRAMS, tensorboard_folder

_AFTER_LAST = "what its code does after the last epoch"
_DRAIN_S = 10.0
_SYNC_EVERY_S = 0.5
_COUNT_EVERY_S = 0.2  # over all trials, which at 10,000 of them would take longer than they do
_FOLLOW_EVERY_S = 5.0  # whether nodes came or went
_MAX_QUEUED = 200  # trials that have not begun; as many as Ray's own random search queues

P = ParamSpec("P")
T = TypeVar("T")
Judge = Callable[[StudyHistory], Sequence[Undecided]]
"""Analyses a study, and returns what is undecided."""


class SimpleModels(Protocol):
    """What the driver itself asks a task for."""

    def load(self, *, test: bool) -> Any:
        """Return the data; with ``test`` the test part as well."""

    def baselines(self, data: Any, *, test: bool) -> Mapping[str, Mapping[str, float]]:
        """Return what simple models reach, by name, on validation or on the test part."""


def _guarded(
    method: Callable[Concatenate["Driver", P], T],
) -> Callable[Concatenate["Driver", P], T | None]:
    """Keep an error out of Ray, where it would end the run without its records being closed.

    After the first one nothing more is taken in: a later epoch must not follow on a missing one.
    """

    @functools.wraps(method)
    def call(self: "Driver", /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        if self.error is None:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                self.error = error
        return None

    return call


class Driver:
    """Stands between the search, the journal and Ray. All its methods run in one thread.

    It is longer than other classes, and whole: each method is one thing that Ray asks or tells.

    Args:
        study, settings, search, journal: What is run, how, and where it is written.
        folder: The study's folder.
        simple: Metrics of the simple models on the validation part.
        n_concurrent: Jobs that may run at a time.
        follow: Says how many that are now, where that changes.
        most_cpus: CPUs of the largest node.
        progress: Kept up to date, for the observer.
        observer: Called when something has changed.
        warning: Asked now and then for what is wrong with the records' replica.
        judge: Says what is undecided, where the study is to go on until nothing is.
        ray_scheduler: Ray's own scheduler that the search's trials run under, if there is one.
        clock: Seconds, from whenever on.
        checkpoints: Those of the study; None for those in its folder or storage.
        task: Loads the test part, and fits the simple models; None for the study's.
        has_test: Whether there is a test part; None if the study says so by its test metric.
        put: Puts the test data where workers find them, and returns what they are told.
    """

    def __init__(
        self,
        study: Study,
        settings: Settings,
        search: Search,
        journal: Journal,
        folder: Path,
        simple: Mapping[str, Mapping[str, float]],
        *,
        n_concurrent: int,
        follow: Callable[[], int] | None = None,
        most_cpus: float = 1.0,
        progress: Progress,
        observer: Observer | None,
        warning: Callable[[], str | None] = lambda: None,
        judge: Judge | None = None,
        ray_scheduler: TrialScheduler | None = None,
        clock: Callable[[], float] = lambda: time.monotonic(),
        checkpoints: Checkpoints | None = None,
        task: SimpleModels | None = None,
        has_test: bool | None = None,
        put: Callable[[Any], Any] | None = None,
    ) -> None:
        self.study, self.settings, self.search, self.journal = study, settings, search, journal
        self.folder = folder.resolve()
        self.ledger = Ledger(journal, seed=settings.seed, fixed=study.fixed)
        self.plan = Plan(
            default=dict(study.default),
            n_repeats=study.n_repeats if settings.n_repeats is None else settings.n_repeats,
            factors=tuple(settings.replicated_factors(study)),
            until_decided=judge is not None,
            has_test=study.test_metric is not None if has_test is None else has_test,
        )
        if checkpoints is None:
            root = checkpoint_root(folder, settings.storage, journal.study()["study_id"])
            checkpoints = Checkpoints(root, settings.disk_budget_bytes)
        self.checkpoints = checkpoints
        self.retries = Retries(self._resources)
        self.n_concurrent, self.ray_scheduler = n_concurrent, ray_scheduler
        self.follow, self.most_cpus, self.followed = follow, most_cpus, clock()
        self.progress, self.observer, self.warning = progress, observer, warning
        self.judge, self.clock = judge, clock
        self.task, self.put = task or study.trainable, put or ray.put
        self.running = RunningJobs(clock)
        self.prefetched: Assignment | None = None  # worked out before a worker is free
        self.ids: list[int] = []  # search number -> trial id in the journal
        self.sent: dict[str, int] = {}  # the trial of each Ray trial
        self.changes: dict[int, Config] = {}  # what trials search now whose config was changed
        self.repeats: dict[int, phases.Training] = {}  # runs on fresh seeds of this session
        self.retention = Retention(
            checkpoints, search, self.ledger, self.plan, ids=self.ids, mutated=self.changes
        )
        self.simple = simple
        self.baselines: dict[str, int] = {}  # the simple models' trials, once they are journaled
        self.findings: dict[int, list[str]] = {}  # by trial: what its last diagnosis says
        self.test_data: Any = None
        self.test_opened = False
        self.done = False  # nothing is due any more
        self.waiting_since: int | None = None  # writes, when nothing was due
        self.error: Exception | None = None
        self.interrupted = False
        self.cut_short = False  # the time budget has refused or ended a job
        self.halted_at: float | None = None
        self.synced = clock()
        self.counted = -math.inf

    def restore(self) -> None:
        """Take up what the journal holds of earlier sessions; the search knows it already.

        A trial that was under way goes on first, from its newest checkpoint.
        """
        self.checkpoints.clear()
        for trial in self.ledger.history.trials.values():
            # All of it is there but the end of what the user's code did after its last epoch.
            if trial.reason is None and trial.epoch == self.study.max_epochs:
                detail = f"{_AFTER_LAST} was cut short: the search was killed"
                self.ledger.end(trial.id, "complete", detail)
        history = self.ledger.history
        self.ids += [trial.id for trial in history.searched]
        for trial in history.trials.values():
            if diagnoses := trial.events_of("diagnosis"):
                self.findings[trial.id] = diagnoses[-1].data["findings"]
            if trial.mutations:
                self.changes[trial.id] = self.study.from_record(trial.mutations[-1]["config"])
            if trial.role == "baseline" and trial.label != "default" and trial.full:
                self.baselines[trial.label] = trial.id
            if trial.state == "running":
                self.ledger.set_state(trial.id, "waiting")
        for record in self.search.trials:
            trial_id = self.ids[record.number]
            if record.waiting and record.epoch < record.to_epoch:
                saved = self.checkpoints.newest(trial_id, record.epoch)
                self.search.lost(record.number, saved[0] if saved else 0)
            elif record.reason is not None:
                self._count_end(record.reason)
        for trial in history.trials.values():
            for row in trial.results.values():
                if row.epoch > 0:
                    self.progress.n_epochs += 1
                    if trial.role == "search":
                        self._note_best(trial.id, row.metrics[self.study.metric])
        self.progress.n_started = len(self.ids)
        self.retention.restore()

    # ---- what ends a search ----

    @property
    def halted(self) -> bool:
        """Nothing more is to be started, and what runs is to end."""
        return self.interrupted or self.error is not None

    @property
    def overdue(self) -> bool:
        """The time budget is spent: no more training, but the test part is still opened."""
        deadline = self.progress.deadline
        return deadline is not None and self.clock() > deadline

    @property
    def stopped_by(self) -> str | None:
        """What ended the search early; None if nothing did."""
        if self.error is not None:
            return "error"
        if self.interrupted:
            return "signal"
        return "time budget" if self.cut_short else None

    @property
    def finished(self) -> bool:
        """Nothing will come any more."""
        return self.halted or (self.done and not self.running)

    def tick(self) -> bool:
        """Do what is due now and then; return True to end the run at once."""
        self.running.notice_sleep()
        if self.clock() - self.synced > _SYNC_EVERY_S:
            self._sync()
            self._follow()
            self.show()
        self._prefetch()
        if not (self.halted or (self.overdue and self.running.any_training)):
            self.halted_at = None
            return False
        self.halted_at = self.halted_at or self.clock()
        # Jobs end after their present epoch, so that nothing trained is lost; but not for ever.
        return self.clock() - self.halted_at > _DRAIN_S

    @_guarded
    def _sync(self) -> None:
        self.synced = self.clock()
        self.ledger.sync()

    @_guarded
    def _follow(self) -> None:
        """Have as many jobs run as the nodes that are there now carry."""
        if self.follow is None or self.clock() - self.followed < _FOLLOW_EVERY_S:
            return
        self.followed = self.clock()
        # Without any node there still is a job: it is what an autoscaler acts upon.
        n_concurrent = max(1, self.follow())
        if n_concurrent != self.n_concurrent:
            self.n_concurrent = n_concurrent
            self.ledger.add_event("capacity", data={"n_concurrent": n_concurrent})

    @_guarded
    def _prefetch(self) -> None:
        """Work the next job out while all workers are busy, if that takes time.

        With one worker at a time jobs are asked for when they are due, so that runs are repeatable.
        """
        busy = self.n_at_work == self.n_concurrent > 1
        if busy and self.prefetched is None and not (self.halted or self.overdue):
            self.prefetched = self.search.prefetch()

    def _cancel_prefetched(self) -> None:
        if self.prefetched is not None:
            self.search.cancel(self.prefetched)
            self.prefetched = None

    def cut(self, key: str, epoch: int = 0) -> bool:
        """Say whether a job is to end after the epoch that has just been reported.

        After the last one it ends by itself.
        """
        running = self.running.get(key)
        ends = epoch >= self.study.max_epochs
        if running is not None and (self.halted or self.overdue) and not ends:
            running.cut = True
        return running is not None and running.cut

    # ---- what is due ----

    @_guarded
    def next_job(self, key: str) -> WorkerJob | None:
        """Return a job for the Ray trial ``key``; None if none is due."""
        if self.halted or not self._has_free_slot:
            return None
        if self.overdue and not self.cut_short:
            self.cut_short = phases.is_training_left(
                self.search, self.ledger.history, self.plan, self.running.trials
            )
            self.waiting_since = None
        if self.cut_short:
            self._cancel_prefetched()
        else:
            job, self.prefetched = self.prefetched or self.search.ask(), None
            if job is not None:
                return self._send_searched(key, job)
            if self.ray_scheduler is not None and self.running.any_searched:
                return None  # what Ray's scheduler is not to see waits until it has nothing to do
        if self.waiting_since == self.ledger.n_writes:
            return None  # nothing has changed since nothing was due
        return self._next_of_phases(key)

    def _next_of_phases(self, key: str) -> WorkerJob | None:
        """Do what is due beside the search."""
        while True:
            step = phases.next_step(
                self.search,
                self.ledger.history,
                self.plan,
                self.running.trials,
                training_over=self.cut_short,
                undecided=self._undecided,
                has_checkpoint=self._has_checkpoint,
            )
            match step:
                case phases.Training():
                    return self._send_training(key, step)
                case phases.Extension():
                    self._extend(step)
                    return self.next_job(key)
                case phases.Decided():
                    self.plan = replace(self.plan, until_decided=False)
                case phases.TestRun() if self.test_opened:
                    config = self.study.from_record(self.ledger.history.trials[step.trial].config)
                    searched = {name: config[name] for name in self.study.space}
                    return self._send(key, step.trial, searched, 0, test=step.label)
                case phases.TestRun() | phases.Done() if not self.test_opened:
                    self._open_test()
                case phases.Done():
                    self.done = True
                    return None
                case _:
                    self.waiting_since = self.ledger.n_writes
                    return None

    @property
    def n_at_work(self) -> int:
        """Jobs that have a worker, or wait for one."""
        if self.ray_scheduler is None:
            return len(self.running)  # ours pauses none
        return sum(not running.paused for running in self.running.values())

    @property
    def _has_free_slot(self) -> bool:
        grown = self.retries.grown
        if grown and any(r.job.trial in grown and not r.begun for r in self.running.values()):
            return False  # smaller ones would take what becomes free, and it would never begin
        if wants_all(self.ray_scheduler) and self.search.can_propose and not self.overdue:
            return sum(running.paused for running in self.running.values()) < _MAX_QUEUED
        return self.n_at_work < self.n_concurrent

    def _undecided(self) -> Sequence[Undecided]:
        """Return what is undecided; nothing once the time is up, as it changes nothing then."""
        assert self.judge is not None
        self.progress.stage = "look"
        self.show()
        self.ledger.sync()
        undecided = self.judge(self.ledger.history)
        self.cut_short = self.overdue and bool(undecided)
        return () if self.overdue else undecided

    def _extend(self, extension: phases.Extension) -> None:
        self.ledger.extend(extension.record)
        if extension.n_trials is not None:
            self.search.n_trials = self.progress.n_trials = extension.n_trials
        self.progress.n_again_due = None
        self.progress.stage = "search"

    # ---- sending jobs ----

    def _send_searched(self, key: str, job: Assignment) -> WorkerJob:
        if job.trial == len(self.ids):
            trial = self.search.trials[job.trial]
            expected = None if trial.expected is None else self.search.value(trial.expected)
            proposal = {"origin": trial.origin, "why": trial.why, "expected": expected}
            added = self.ledger.add_trial(job.config, role="search", proposal=proposal)
            self.ids.append(added)
            self.progress.n_started += 1
        return self._send(key, self.ids[job.trial], job.config, job.to_epoch, number=job.trial)

    def _send_training(self, key: str, due: phases.Training) -> WorkerJob:
        trial = due.trial
        if due.role == "replicate":
            self._show_fresh_seeds(due)
        if trial is None:
            label = f"{due.label}, repeat {due.repeat}" if due.repeat else due.label
            trial = self.ledger.add_trial(due.config, role=due.role, label=label, repeat=due.repeat)
        if due.role == "replicate":
            self.repeats[trial] = due
        seed = self.ledger.seed(due.repeat)
        return self._send(key, trial, due.config, self.search.max_epochs, seed=seed)

    def _show_fresh_seeds(self, due: phases.Training) -> None:
        progress = self.progress
        progress.stage = "repeat"
        if progress.n_again_due is None:
            progress.n_again_due = progress.n_again + due.n_left
            to_come = due.n_left * self.search.max_epochs
            progress.planned_epochs = progress.n_epochs + to_come
        progress.n_again += 1

    def _send(
        self,
        key: str,
        trial: int,
        config: Config,
        to_epoch: int,
        *,
        number: int | None = None,
        test: str | None = None,
        seed: int | None = None,
    ) -> WorkerJob:
        if test is not None:
            reached = self.search.max_epochs
        elif number is not None:
            reached = self.search.trials[number].epoch
        else:
            reached = self._reached(trial)
        checkpoint = self.checkpoints.newest(trial, reached)
        job = WorkerJob(
            key=key,
            trial=trial,
            config=self.study.config(
                self.changes.get(trial, config),
                seed=self.settings.seed if seed is None else seed,
            ),
            to_epoch=to_epoch,
            checkpoint=checkpoint[1] if checkpoint else None,
            folder=self.checkpoints.place(trial),
            metric=self.study.metric,
            mode=self.study.mode,
            timeout_s=self.settings.trial_timeout_s,
            n_threads=max(1, int(self.settings.cpus_per_trial)),
            bundle=self._resources(self.retries.resource_factor(trial)),
            test_data=self.test_data if test else None,
            predictions=str(predictions_file(self.folder, trial)) if test else None,
            diagnose=self.settings.diagnose,
            histograms=self._histograms(trial),
            by_epoch=self.ray_scheduler is not None and number is not None,
        )
        self.sent[key] = trial
        self.running[key] = RunningJob(
            job=job,
            number=number,
            from_epoch=checkpoint[0] if checkpoint else 0,
            heard=self.clock(),
            test=test,
            paused=number is not None and wants_all(self.ray_scheduler),
        )
        return job

    def _reached(self, trial: int) -> int:
        return self.ledger.history.trials[trial].epoch

    def _has_checkpoint(self, trial: int) -> bool:
        return self.checkpoints.newest(trial, self.search.max_epochs) is not None

    def _resources(self, factor: float) -> dict[str, float]:
        bundle = self.settings.trial_resources(factor)
        most = max(self.most_cpus, self.settings.cpus_per_trial)
        return {**bundle, "CPU": min(bundle["CPU"], most)}

    def _histograms(self, trial: int) -> tuple[str, str] | None:
        if self.settings.tensorboard is None:
            return None
        return str(tensorboard_folder(self.folder, trial)), HISTOGRAMS

    # ---- the test part ----

    def _open_test(self) -> None:
        """Load the test part, once all training is over, and judge the simple models by it."""
        self.test_opened = True
        self.progress.stage = "test"
        if not phases.opens_test(self.ledger.history, self.plan):
            return
        runs = phases.test_runs(
            self.search,
            self.ledger.history,
            self.plan,
            self.running.trials,
            self._has_checkpoint,
        )
        self._record_baselines()
        known = phases.tested(self.ledger.history)
        simple = {name: trial for name, trial in self.baselines.items() if trial not in known}
        if not (runs or simple):
            return
        try:
            with user_code():
                data = self.task.load(test=True)
        except Exception as error:
            failure = {"failure": f"the test part cannot be loaded: {describe(error)}"}
            for label, trial in [*((r.label, r.trial) for r in runs), *simple.items()]:
                self.ledger.add_event("test", trial, {"label": label, **failure})
            return
        self.test_data = self.put(data)
        judged: dict[str, dict[str, Any]]
        try:
            with user_code():
                reached = self.task.baselines(data, test=True)
                judged = {name: {"metrics": as_metrics(reached[name])} for name in simple}
        except Exception as error:  # theirs alone: what was searched is judged all the same
            judged = {name: {"failure": describe(error)} for name in simple}
        for name, result in judged.items():
            self.ledger.add_event("test", simple[name], {"label": name, **result})

    def _record_baselines(self) -> None:
        """Journal the simple models and what they reach on the validation part, once."""
        for name, metrics in self.simple.items():
            if name not in self.baselines:
                self.baselines[name] = self.ledger.add_simple_model(name, metrics)

    # ---- what a scheduler of Ray's decides ----

    def is_searched(self, key: str) -> bool:
        """Say whether a Ray trial is one of the search."""
        return key in self.running and self.running[key].number is not None

    def stop(self, key: str) -> None:
        """Have a trial stopped after the epoch that is being reported."""
        if key in self.running:
            self.running[key].stopped = True

    def pause(self, key: str, epoch: int) -> None:
        """Have a trial give up its worker after the epoch that is being reported."""
        if key in self.running:
            running = self.running[key]
            running.paused, running.from_epoch = True, epoch
            running.given = running.ready = False

    @_guarded
    def stopped_in_pause(self, key: str) -> None:
        """Take note of a trial that was stopped while it had no worker."""
        if (running := self.running.get(key)) is None or not running.paused:
            return
        if running.cut:
            self.cut_short = self.cut_short or not self.halted
            self._end(key, "interrupted", f"by {self.stopped_by} after epoch {running.from_epoch}")
        else:
            self._end(key, "stopped", f"{self._stopped_text} after epoch {running.from_epoch}")

    @property
    def _stopped_text(self) -> str:
        return f"by Ray Tune's {type(self.ray_scheduler).__name__}"

    @_guarded
    def changed(self, key: str, donor: str, searched: Config, epoch: int) -> WorkerJob:
        """Take note that a trial goes on with another one's state and a config made of its config.

        Args:
            key: The trial's Ray trial.
            donor: That of the other one.
            searched: The config that it has from now on.
            epoch: The epoch of the state.

        Returns:
            The job as it is now.
        """
        running = self.running[key]
        trial = running.job.trial
        searched = {name: as_plain(value) for name, value in searched.items()}
        self.changes[trial] = searched
        self.ledger.add_event(
            "mutation",
            trial,
            {
                "epoch": running.from_epoch,
                "from_trial": self.sent[donor],
                "from_epoch": epoch,
                "config": searched,
            },
        )
        running.job = replace(
            running.job, config={**running.job.config, **searched}, checkpoint=None
        )
        running.from_epoch = epoch
        self.checkpoints.drop(trial)  # those of the state that it had before
        return running.job

    # ---- epochs back ----

    @_guarded
    def started(self, key: str) -> None:
        """Take note that a worker has begun a job."""
        self.running.notice_sleep()
        running = self.running[key]
        running.heard = self.clock()
        running.given = running.ready = running.begun = True
        if running.test is not None:
            return
        running.paused = False
        self.ledger.set_state(running.job.trial, "running")
        span = {"from_epoch": running.from_epoch, "to_epoch": running.job.to_epoch}
        self.ledger.add_event("job", running.job.trial, span)
        self.show()

    @_guarded
    def result(self, key: str, result: Mapping[str, Any]) -> None:
        """Take in what a worker reported: epochs, a test result, or a failure."""
        self.running.notice_sleep()
        running = self.running[key]
        running.heard = self.clock()
        if result.get("disk_full"):
            raise JournalError(f"A checkpoint cannot be written: {result['failure']}.")
        if not running.placed:
            running.placed = True
            where = {"node": result.get("hostname"), "device": result["device"]}
            self.ledger.add_event("worker", running.job.trial, where)
        if result.get("out_of_memory") and self.retries.grow_resources(running.job.trial):
            self.ledger.add_event("lost", running.job.trial, {"text": result["failure"]})
            self._again(key, running)
            self.show()
            return
        if result["device"] == "cpu" and self.settings.gpus_per_trial > 0:
            self.progress.warning = "Trials were given a GPU, but torch sees none: it uses the CPU."
        for damage in result.get("damaged") or ():
            self.ledger.add_event("damaged", running.job.trial, damage)
        if left := result.get("left"):
            self.ledger.add_event("left", running.job.trial, left)
        if running.test is not None and not result["done"]:
            return  # its checkpoint was damaged: it is trained once more
        if running.test is not None:
            what = {k: result[k] for k in ("metrics", "failure", "traceback") if result.get(k)}
            self.ledger.add_event("test", running.job.trial, {"label": running.test, **what})
            del self.running[key]
        else:
            for row in result["epochs"]:
                self._take(running, row["epoch"], row["metrics"], row["t_ms"])
                if "diagnosis" in row:
                    self.ledger.add_event("diagnosis", running.job.trial, row["diagnosis"])
                    self.findings[running.job.trial] = row["diagnosis"]["findings"]
            if result["failure"] is not None:
                self.findings.pop(running.job.trial, None)  # they are part of its text
                if findings := result.get("findings"):
                    diagnosis = {"epoch": self.search.max_epochs, "layers": []}
                    diagnosis |= {"findings": findings}
                    self.ledger.add_event("diagnosis", running.job.trial, diagnosis)
                had = ", ".join(f"{n:g} {kind}" for kind, n in running.job.bundle.items())
                resources = f"it had {had}" if result.get("out_of_memory") else ""
                texts = (result["failure"], resources, result["traceback"])
                self._end(key, "failed", "\n".join(text for text in texts if text))
            elif "epoch" in result:
                self._after(key, running, result)
        self.show()

    def _take(
        self, running: RunningJob, epoch: int, metrics: Mapping[str, float], t_ms: int
    ) -> None:
        trial, value = running.job.trial, metrics[self.study.metric]
        if self.ledger.add_result(trial, epoch, metrics, t_ms):
            self.progress.n_epochs += 1
        if running.number is not None:
            self._note_best(trial, value)
            self.search.tell(running.number, epoch, value)

    def _after(self, key: str, running: RunningJob, last: Mapping[str, Any]) -> None:
        """Decide what the last epoch that was reported means for its job."""
        trial, epoch, note = running.job.trial, last["epoch"], last.get("note")
        if epoch >= self.search.max_epochs:
            running.finishing = True
            if last["done"]:
                self._end(key, "complete", note or None)
        elif last["converged"]:
            text = f"no improvement any more after epoch {epoch}"
            self._end(key, "converged", f"{text}; {note}" if note else text)
        elif epoch >= running.job.to_epoch:
            self.ledger.set_state(trial, "waiting")
            del self.running[key]
            self.retention.weigh(trial)
        elif running.stopped:
            self._end(key, "stopped", f"{self._stopped_text} after epoch {epoch}")
        elif running.paused:
            self.ledger.set_state(trial, "waiting")
        elif running.cut:
            self.cut_short = self.cut_short or not self.halted
            self._end(key, "interrupted", f"by {self.stopped_by} after epoch {epoch}")

    @_guarded
    def died(self, key: str, error_file: str | None) -> None:
        """Take note of a worker that died under a job; another one goes on from its checkpoint."""
        if (running := self.running.get(key)) is None:
            return
        self.running.notice_sleep()
        hang = hang_file(self.checkpoints.root, key)
        traceback = hang.read_text(errors="replace") if hang.is_file() else ""
        hang.unlink(missing_ok=True)
        in_time = self.clock() - running.heard < running.job.timeout_s
        limit = f"took longer than --trial-timeout ({running.job.timeout_s:g} s)"
        if in_time or not running.given:
            self._lost(key, running, _last_line(error_file))
        elif not running.ready:  # the job has nothing to do with it
            self._lost(key, running, "the worker did not get ready")
        elif running.test is not None:
            self._lost(key, running, f"it {limit}")
        elif running.finishing:
            self._end(key, "complete", f"{_AFTER_LAST} {limit}\n{traceback}".strip())
        else:
            self._end(key, "failed", f"an epoch {limit}\n{traceback}".strip())

    @_guarded
    def all_died(self, text: str) -> None:
        """Take note that Ray's loop broke down under all jobs."""
        for key, running in list(self.running.items()):
            self._lost(key, running, text)

    def _lost(self, key: str, running: RunningJob, text: str) -> None:
        """Take note of a job whose worker died, and have it tried again, or give it up."""
        trial, text = running.job.trial, redact(text)
        if running.finishing:
            self._end(key, "complete", f"{_AFTER_LAST} ended its worker: {text}")
            return
        self.ledger.add_event("lost", trial, {"text": text})
        verdict = self.retries.decide(trial, text, self._reached(trial))
        n_lost = self.retries.n_lost(trial)
        if verdict is Verdict.AGAIN:
            self._again(key, running)
        elif running.test is not None:
            del self.running[key]
            self.ledger.add_event("test", trial, {"label": running.test, "failure": text})
        elif verdict is Verdict.OUT_OF_MEMORY:
            self._end(key, "failed", f"out of memory {n_lost} times; {text}")
        else:
            self._end(key, "lost", f"the worker died {n_lost} times; {text}")
            if self.progress.best is None and self.retries.is_hopeless:
                raise HypertuneError(f"No worker lived to give a result. The last one: {text}")

    def _again(self, key: str, running: RunningJob) -> None:
        """Have a job that came to nothing done again, from the newest checkpoint."""
        trial = running.job.trial
        del self.running[key]
        if running.test is not None:
            return
        self.ledger.set_state(trial, "waiting")
        if running.number is not None:
            saved = self.checkpoints.newest(trial, self.search.trials[running.number].epoch)
            self.search.lost(running.number, saved[0] if saved else 0)

    def _end(self, key: str, reason: Reason, detail: str | None) -> None:
        """End a trial, and what it no longer needs."""
        running = self.running.pop(key)
        trial, number = running.job.trial, running.number
        if number is not None and self.search.trials[number].reason is None:
            self.search.end(number, reason)
        self.ledger.end(trial, reason, self._diagnosed(trial, detail))
        if reason in ("failed", "lost", "stopped"):
            self.checkpoints.drop(trial)
        elif number is not None and reason in FULL:
            self.retention.ended_in_full(number)
        elif trial in self.repeats and reason != "interrupted":
            if self._stands(trial):
                self.retention.weigh(trial)
            else:
                self.checkpoints.drop(trial)
        if number is not None:
            self._count_end(reason)

    def _stands(self, trial: int) -> bool:
        """Say whether a run on a fresh seed stands for a config that the search stopped early."""
        due = self.repeats[trial]
        if due.repeat != 1:
            return False
        known = [self.search.space.nest(t.flat) for t in self.search.trials if t.full]
        if self.ledger.history.baseline("default") is not None:  # it was trained in full besides
            known.append(dict(self.study.default))
        return identity(due.config) not in map(identity, known)

    def _diagnosed(self, trial: int, detail: str | None) -> str | None:
        """Return why a trial ended, with what was wrong inside of it at its last epoch."""
        if not (findings := self.findings.get(trial)):
            return detail
        text = f"diagnosis: {'; '.join(findings)}"
        return text if detail is None else f"{detail}; {text}"

    def _where(self, running: RunningJob) -> str:
        """Say after which epoch a trial is."""
        reached = self._reached(running.job.trial)
        return f"after epoch {reached}" if reached else "before its first epoch"

    def _count_end(self, reason: Reason) -> None:
        self.progress.n_ended[reason] = self.progress.n_ended.get(reason, 0) + 1

    def _note_best(self, trial: int, value: float) -> None:
        best = self.progress.best
        if best is None or self.study.objective.better(value, best):
            self.progress.best, self.progress.best_trial = value, trial

    def show(self) -> None:
        """Tell the observer how things are."""
        self.progress.n_running = self.n_at_work
        if self.clock() - self.counted > _COUNT_EVERY_S:
            self.counted = self.clock()
            n_paused = len(self.running) - self.progress.n_running
            self.progress.n_waiting = n_paused + sum(t.waiting for t in self.search.trials)
        with contextlib.suppress(Exception):  # a display must not cost a result
            self.progress.warning = self.warning() or self.progress.warning
            if self.observer is not None:
                self.observer(self.progress)

    # ---- the end ----

    def close(self) -> None:
        """End what is still open, in the search and in the journal."""
        stopped_by = self.stopped_by or "the end of the search"
        if self.running.any_training and not self.halted:
            self.cut_short, stopped_by = True, "time budget"
        self._record_baselines()
        for key, running in list(self.running.items()):
            if running.finishing:
                self._end(key, "complete", f"{_AFTER_LAST} was cut short by {stopped_by}")
            elif running.test is None:
                self._end(key, "interrupted", f"by {stopped_by} {self._where(running)}")
        self.running.clear()
        self._cancel_prefetched()
        for trial in self.search.close():
            # One that has not got to the end of its job was waiting for another worker.
            reason, detail = "stopped", f"not promoted beyond epoch {trial.epoch}"
            if trial.epoch < trial.to_epoch:
                where = f"after epoch {trial.epoch}" if trial.epoch else "before its first epoch"
                reason, detail = "interrupted", f"by {stopped_by} {where}"
            detail = self._diagnosed(self.ids[trial.number], detail) or detail
            self.ledger.end(self.ids[trial.number], reason, detail)
        self.progress.n_ended["stopped"] = sum(t.reason == "stopped" for t in self.search.trials)
        if self.ray_scheduler is not None:
            self.retention.drop_stopped()  # workers save what they leave
        if self.stopped_by is None:
            self.retention.study_ended()  # it may be extended
        error = None if self.error is None else describe(self.error)
        self.ledger.add_event("search_end", None, {"stopped_by": self.stopped_by, "error": error})
        self.ledger.sync()


def _last_line(error_file: str | None) -> str:
    """Return the last line of what Ray wrote about a failure."""
    with contextlib.suppress(OSError, TypeError):
        lines = Path(error_file or "").read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        # Below the class of the error Ray lists actor id, pid and address; the first line tells.
        start = next((i for i, line in enumerate(said) if "Error" in line), len(said) - 1)
        return " ".join(said[start:])[:500]
    return "no more is known"
