"""Between the search, the journal and Ray: which job goes out next, and what came back of it."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import ray
from ray.tune.schedulers import TrialScheduler

from hypertune.core.errors import HypertuneError, JournalError, describe, user_code
from hypertune.core.space import Config, as_plain, identity
from hypertune.core.text import redact
from hypertune.engine.ray.schedulers import wants_all
from hypertune.engine.ray.worker import WorkerJob, hang_file
from hypertune.engine.retention import Checkpoints, checkpoint_root
from hypertune.journal.recommendation import read_champion
from hypertune.journal.store import FULL, Journal, told_file
from hypertune.search import Job, Reason, Search, Trial
from hypertune.search.candidates import best_of, candidates, ranked
from hypertune.settings import Settings
from hypertune.studies.study import Study
from hypertune.tasks.user_code import as_metrics
from hypertune.tracking.tensorboard import HISTOGRAMS, tensorboard_folder

FINAL = (*FULL, "failed", "lost")
"""How trials end that are never run again; those that were stopped or interrupted may go on."""
MAX_LOST = 2
"""A job whose worker died is tried again so many times, unless it gets further each time."""
_AFTER_LAST = "what its code does after the last epoch"
_DRAIN_S = 10.0
_KEPT = 20  # checkpoints of a finished study
_SYNC_EVERY_S = 0.5
_COUNT_EVERY_S = 0.2  # over all trials, which at 10,000 of them would take longer than they do
_FOLLOW_EVERY_S = 5.0  # whether nodes came or went
_MAX_QUEUED = 200  # trials that have not begun; as many as Ray's own random search queues
_LATE_S = 5.0  # turns of Ray's loop are a tenth of a second apart
_SILENT_S = 15.0  # for the way of a report to the driver
_START_S = 300.0  # for a new worker: its process, its imports, the data
_NODE_GONE = "its node has died"  # in Ray's words
_NO_MEMORY = "running low on memory"
_HOPELESS = (
    3  # so many trials that all lost their workers, and no result ever: it is not the trials
)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(kw_only=True)
class Progress:
    """How a search is going, for whoever shows it. Values are those of the study's metric.

    ``n_again`` counts the runs on fresh seeds that have begun, of those that are due in this
    session; None while that is not known. ``started`` and ``deadline`` are of the monotonic clock:
    that of the day may be set meanwhile.
    """

    metric: str
    n_trials: int
    planned_epochs: int
    started: float
    deadline: float | None = None
    n_started: int = 0
    n_running: int = 0
    n_waiting: int = 0
    n_ended: dict[str, int] = field(default_factory=dict)
    n_again: int = 0
    n_again_due: int | None = None
    n_epochs: int = 0
    best: float | None = None
    best_trial: int | None = None
    stage: str = "start"
    note: str = ""
    warning: str | None = None

    def warn(self, text: str) -> None:
        """Say what is wrong, where nothing fails by it."""
        self.warning = text


Observer = Callable[[Progress], None]


class Undecided(Protocol):
    """What a study has not decided yet of a factor of its question."""

    @property
    def factor(self) -> str:
        """The factor."""

    @property
    def levels(self) -> Sequence[str]:
        """Its levels that are not told apart yet, as texts."""

    @property
    def n_more(self) -> int | None:
        """Replicates of each that are expected to decide; None if more configs must be tried."""

    @property
    def text(self) -> str:
        """The same in words."""

    @property
    def hopeless(self) -> bool:
        """Nothing that a study can go on with would decide it."""


Judge = Callable[[Path], Sequence[Undecided]]
"""Looks at a study's folder, as the next look at it, and returns what is undecided."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """A replicate that is due: a config on a fresh seed. ``trial`` is its id, once it has one."""

    config: dict[str, Any]
    repeat: int
    label: str
    trial: int | None = None


@dataclass(kw_only=True)
class Out:
    """A job that is out.

    ``number`` is the trial's in the search, None for a baseline; ``test`` is the label under which
    the job looks at the test part, None for training. It is ``given`` to a worker, and has
    ``begun`` when that is ``ready``; ``heard`` is when something came of it last. A scheduler of
    Ray's may have it ``paused`` (it has no worker), and have it ``stopped`` after the epoch that
    was just reported. It is ``finishing`` when all its epochs are there, and the user's code does
    what it does after them.
    """

    job: WorkerJob
    number: int | None
    from_epoch: int
    heard: float
    test: str | None = None
    cut: bool = False
    given: bool = False
    ready: bool = False
    begun: bool = False
    placed: bool = False
    paused: bool = False
    stopped: bool = False
    finishing: bool = False


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

    Args:
        study, settings, search, journal: What is run, how, and where it is written.
        folder: The study's folder.
        simple: Metrics of the simple models on the validation part.
        n_concurrent: Jobs that may be out.
        follow: Says how many that are now, where that changes.
        most_cpus: CPUs of the largest node.
        progress: Kept up to date, for the observer.
        observer: Called when something has changed.
        warning: Asked now and then for what is wrong with the records' replica.
        judge: Says what is undecided, where the study is to go on until nothing is.
        ray_scheduler: Ray's own scheduler that the search's trials run under, if there is one.
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
    ) -> None:
        self.study, self.settings, self.search, self.journal = study, settings, search, journal
        self.folder = folder.resolve()
        root = checkpoint_root(folder, settings.storage, journal.study()["study_id"])
        self.checkpoints = Checkpoints(root, settings.disk_budget_bytes)
        self.n_concurrent, self.ray_scheduler = n_concurrent, ray_scheduler
        self.follow, self.most_cpus, self.followed = follow, most_cpus, time.monotonic()
        self.room: dict[int, float] = {}  # so much more than usual, for trials that need it
        self.sent: dict[str, int] = {}  # the trial of each Ray trial
        self.changes: dict[int, Config] = {}  # what trials search now whose config was changed
        self.progress, self.observer, self.warning = progress, observer, warning
        self.judge = judge
        self.looks: list[dict[str, Any]] = []  # those after which the study went on
        self.looked = judge is None
        self.n_repeats = study.n_repeats if settings.n_repeats is None else settings.n_repeats
        self.out: dict[str, Out] = {}
        self.ahead: Job | None = None  # the next job, where it was worked out before its time
        self.ids: list[int] = []  # search number -> trial id in the journal
        self.next_id = 0
        self.n_lost: dict[int, int] = {}
        self.reached: dict[int, int] = {}  # the last epoch of a trial when its worker died last
        self.default: int | None = None  # the baseline trial that trains the default in full
        self.default_due = True
        self.to_repeat: list[Repeat] | None = None  # None: the search is not over
        self.repeats: dict[int, Repeat] = {}  # by trial, of this session
        self.simple = simple
        self.baselines: dict[str, int] = {}  # the simple models' trials, once they are journaled
        self.findings: dict[int, list[str]] = {}  # by trial: what its last diagnosis says
        self.to_test: list[tuple[str, int]] | None = None  # (label, trial); None: not opened
        self.test_data: ray.ObjectRef | None = None
        self.kept: set[int] = set()  # the trials in full whose checkpoints are kept
        self.error: Exception | None = None
        self.interrupted = False
        self.cut_short = False  # the time budget has refused or ended a job
        self.halted_at: float | None = None
        self.synced = self.awake = time.monotonic()
        self.counted = -math.inf

    def restore(self) -> None:
        """Take up what the journal holds of earlier sessions; the search knows it already.

        A trial that was under way goes on first, from its newest checkpoint.
        """
        self.checkpoints.clear()
        for event in self.journal.events(kind="diagnosis"):
            if event.trial is not None:
                self.findings[event.trial] = event.data["findings"]
        for event in self.journal.events(kind="mutation"):
            config = self.study.from_record(event.data["config"])
            self.changes[int(event.trial or 0)] = config
        reached: dict[int, int] = {}
        for row in self.journal.results():
            reached[row.trial] = max(row.epoch, reached.get(row.trial, 0))
        for trial in self.journal.trials():
            # All of it is there but the end of what the user's code did after its last epoch.
            if trial.reason is None and reached.get(trial.id) == self.study.max_epochs:
                detail = f"{_AFTER_LAST} was cut short: the search was killed"
                self.journal.set_state(trial.id, "ended", reason="complete", detail=detail)
        trials = self.journal.trials()
        self.next_id = max((trial.id for trial in trials), default=-1) + 1
        for trial in trials:
            if trial.role == "search":
                self.ids.append(trial.id)
            elif trial.role == "baseline" and trial.label == "default":
                self.default, self.default_due = trial.id, trial.reason not in FINAL
            elif trial.role == "baseline":
                self.baselines[trial.label] = trial.id
            if trial.state == "running":
                self.journal.set_state(trial.id, "waiting")
        for record in self.search.trials:
            trial_id = self.ids[record.number]
            if record.waiting and record.epoch < record.to_epoch:
                saved = self.checkpoints.newest(trial_id, record.epoch)
                self.search.lost(record.number, saved[0] if saved else 0)
            elif record.reason is not None:
                self._count_end(record.reason)
        searched = set(self.ids)
        for row in self.journal.results():
            if row.epoch > 0:
                self.progress.n_epochs += 1
                if row.trial in searched:
                    self._note_best(row.trial, row.metrics[self.study.metric])
        self.progress.n_started = len(self.ids)
        self.looks = [event.data for event in self.journal.events(kind="look")]
        self.kept = {t.number for t in self.search.trials if t.full}

    # ---- what ends a search ----

    @property
    def halted(self) -> bool:
        """Nothing more is to be started, and what runs is to end."""
        return self.interrupted or self.error is not None

    @property
    def overdue(self) -> bool:
        """The time budget is spent: no more training, but the test part is still opened."""
        deadline = self.progress.deadline
        return deadline is not None and time.monotonic() > deadline

    @property
    def stopped_by(self) -> str | None:
        """What ended the search early; None if nothing did."""
        if self.error is not None:
            return "error"
        if self.interrupted:
            return "signal"
        return "time budget" if self.cut_short else None

    def tick(self) -> bool:
        """Do what is due now and then; return True to end the run at once."""
        self._notice_sleep()
        if time.monotonic() - self.synced > _SYNC_EVERY_S:
            self._sync()
            self._follow()
            self.show()
        self._look_ahead()
        waits = self.halted or (self.overdue and any(o.test is None for o in self.out.values()))
        if not waits:
            self.halted_at = None
            return False
        self.halted_at = self.halted_at or time.monotonic()
        # Jobs end after their present epoch, so that nothing trained is lost; but not for ever.
        return time.monotonic() - self.halted_at > _DRAIN_S

    @_guarded
    def _sync(self) -> None:
        self.synced = time.monotonic()
        self.journal.sync()

    @_guarded
    def _follow(self) -> None:
        """Have as many jobs out as the nodes that are there now carry."""
        if self.follow is None or time.monotonic() - self.followed < _FOLLOW_EVERY_S:
            return
        self.followed = time.monotonic()
        # Without any node there still is a job: it is what an autoscaler acts upon.
        n_concurrent = max(1, self.follow())
        if n_concurrent != self.n_concurrent:
            self.n_concurrent = n_concurrent
            self.journal.add_event("capacity", data={"n_concurrent": n_concurrent})

    @_guarded
    def _look_ahead(self) -> None:
        """Work the next job out while all workers are busy, if that takes time.

        With one worker at a time jobs are asked for when they are due, so that runs are repeatable.
        """
        busy = self.n_at_work == self.n_concurrent > 1
        if busy and self.ahead is None and not (self.halted or self.overdue):
            self.ahead = self.search.ask_ahead()

    def cut(self, key: str, epoch: int = 0) -> bool:
        """Say whether a job is to end after the epoch that has just been reported.

        After the last one it ends by itself.
        """
        out = self.out.get(key)
        ends = epoch >= self.study.max_epochs
        if out is not None and (self.halted or self.overdue) and not ends:
            out.cut = True
        return out is not None and out.cut

    # ---- jobs out ----

    @_guarded
    def next_job(self, key: str) -> WorkerJob | None:
        """Return a job for the Ray trial ``key``; None if none is due."""
        if self.halted or not self._room:
            return None
        if self.overdue and (not self.search.done or self._repeats_left()):
            self.cut_short = True
        if self.cut_short:
            self._withdraw()
            return self._next_test(key)
        job, self.ahead = self.ahead or self.search.ask(), None
        if job is None and self.ray_scheduler is not None and self._any_searched_out:
            return None  # what Ray's scheduler is not to see waits until it has nothing to do
        if job is None:
            if due := self._default_in_full(key) or self._next_repeat(key):
                return due
            return self.next_job(key) if self._goes_on() else self._next_test(key)
        if job.trial == len(self.ids):
            self.ids.append(self._add_trial(job.config, role="search", origin=self._origin(job)))
            self.progress.n_started += 1
        return self._send(key, self.ids[job.trial], job.config, job.to_epoch, job.trial)

    @property
    def n_at_work(self) -> int:
        """Jobs that have a worker, or wait for one."""
        if self.ray_scheduler is None:
            return len(self.out)  # ours pauses none
        return sum(not out.paused for out in self.out.values())

    @property
    def _any_searched_out(self) -> bool:
        return any(out.number is not None for out in self.out.values())

    @property
    def _room(self) -> bool:
        """There is room for another job."""
        if self.room and any(
            out.job.trial in self.room and not out.begun for out in self.out.values()
        ):
            return False  # smaller ones would take what becomes free, and it would never begin
        if wants_all(self.ray_scheduler) and self.search.more and not self.overdue:
            return sum(out.paused for out in self.out.values()) < _MAX_QUEUED
        return self.n_at_work < self.n_concurrent

    def _withdraw(self) -> None:
        if self.ahead is not None:
            self.search.withdraw(self.ahead)
            self.ahead = None

    @property
    def finished(self) -> bool:
        """Nothing will come any more."""
        over = self.cut_short or self.search.done
        return self.halted or (over and not self.out and self.to_test == [])

    def _default_in_full(self, key: str) -> WorkerJob | None:
        """Return a job that trains the default to the end, where the search did not.

        The default is what the answer is compared with. It goes where a worker would be idle, once
        the search cannot get to it any more.
        """
        full, trials = self.search.max_epochs, self.search.trials
        undecided = self.search.more or any(t.to_epoch < full for t in self.search.running)
        if not self.default_due or undecided or not trials:
            return None
        if not (trials[0].waiting or trials[0].reason == "stopped" or self.ids[0] in self.changes):
            return None
        self.default_due = False
        config = dict(self.study.default)
        if self.default is None:
            self.default = self._add_trial(config, role="baseline", label="default")
        return self._send(key, self.default, config, full, None)

    def _next_repeat(self, key: str) -> WorkerJob | None:
        """Return a job for a replicate, once the search is over and no best trial can change.

        What won a search was lucky besides being good, and one seed is one draw: what matters for
        the answer runs again on fresh seeds, the same ones for each config, so that differences
        are paired.
        """
        if not self.search.done or not (left := self._repeats_left()):
            return None
        self.progress.stage = "repeat"
        due = left.pop(0)
        trial = due.trial
        if trial is None:
            label = f"{due.label}, repeat {due.repeat}"
            trial = self._add_trial(due.config, role="replicate", label=label, repeat=due.repeat)
        self.repeats[trial] = replace(due, trial=trial)
        self.progress.n_again += 1
        return self._send(
            key, trial, due.config, self.search.max_epochs, None, seed=self._seed(due.repeat)
        )

    def _seed(self, repeat: int) -> int:
        """Return the seed of a repeat: the same for every config."""
        return self.settings.seed + repeat

    def _repeats_left(self) -> list[Repeat]:
        """Return the replicates that are to be sent yet, once the search is over."""
        if self.to_repeat is None:
            self.to_repeat = self._repeats_due(self.looks)
            done, due = self.progress.n_again, len(self.to_repeat)
            self.progress.n_again_due = done + due
            to_come = due * self.search.max_epochs
            self.progress.planned_epochs = self.progress.n_epochs + to_come
        return self.to_repeat

    def _repeats_due(self, looks: Sequence[dict[str, Any]]) -> list[Repeat]:
        """Return the replicates that are due after some looks, but for those that are there."""
        candidates = self._candidates(self.search.trials[: len(self.ids)])
        if "best" not in candidates:  # nothing in full: there is nothing to confirm
            return []
        configs = {key: self.search.space.nest(t.flat) for key, t in candidates.items()}
        configs["default"] = dict(self.study.default)
        labels: dict[str, str] = {}
        for label, config in configs.items():
            labels.setdefault(identity(config), label)
        known = {
            (identity({name: t.config[name] for name in self.study.space}), t.repeat): t
            for t in self.journal.trials()
            if t.role == "replicate"
        }
        # Of more levels than run again the default's is compared as well, by the default.
        flat = self.search.space.flatten(self.study.default)
        for parameter in self.search.space.parameters:
            if parameter.name in self.settings.compared(self.study) and parameter.key in flat:
                part = parameter.part(flat[parameter.key])
                configs.setdefault(best_of(parameter.name, part), configs["default"])
        due = []
        n_repeats = dict.fromkeys(labels, self.n_repeats)
        for label, n in _more_repeats(looks).items():
            if label in configs:
                key = identity(configs[label])
                n_repeats[key] = max(n_repeats[key], n)
        for repeat in range(1, max(n_repeats.values()) + 1):
            for key, label in labels.items():
                row = known.get((key, repeat))
                if repeat > n_repeats[key]:
                    continue
                if row is None or row.reason not in FINAL:
                    trial = None if row is None else row.id
                    due.append(
                        Repeat(config=configs[label], repeat=repeat, label=label, trial=trial)
                    )
        return due

    def _goes_on(self) -> bool:
        """Look at what is decided, and say whether the study goes on since something is not.

        A look that ends the study is not journaled: the end of the search stands for it.
        """
        if self.looked or self.out or self.judge is None or not self.search.done:
            return False
        self.progress.stage = "look"
        self.show()
        self.journal.sync()
        undecided = self.judge(self.journal.path.parent)
        look = self._extension(undecided) if undecided and not self.overdue else None
        if look is None or not self._leads_on(look):
            self.looked = True
            self.cut_short = bool(undecided) and self.overdue
            return False
        self.journal.add_event("look", None, look)
        self.looks.append(look)
        if "n_trials" in look:
            self.journal.set_study(n_trials=self.search.n_trials)
            self.progress.n_trials = look["n_trials"]
        self.to_repeat = None
        self.progress.stage = "search"
        return True

    def _leads_on(self, look: dict[str, Any]) -> bool:
        """Say whether there is anything to do after a look: else the next one would be the same."""
        return "n_trials" in look or bool(self._repeats_due([*self.looks, look]))

    def _extension(self, undecided: Sequence[Undecided]) -> dict[str, Any] | None:
        """Return what is to be done next about what is undecided; None if nothing can be.

        More repeats of the levels that are not told apart go first, at most as many as there are;
        where a factor needs more configs instead, twice as many of them. If both are needed they
        take turns.
        """
        look: dict[str, Any] = {"undecided": [one.text for one in undecided]}
        undecided = [one for one in undecided if not one.hopeless]
        repeats = [one for one in undecided if one.n_more is not None]
        repeated = bool(self.looks) and "levels" in self.looks[-1]
        if len(repeats) < len(undecided) and (repeated or not repeats):
            before = self.search.n_trials
            self.search.n_trials = 2 * (before or 1)
            if not self.search.done:
                return {**look, "n_trials": self.search.n_trials}
            self.search.n_trials = before  # there are no more configs
        if not repeats:
            return None
        now = max([self.n_repeats, *(past.get("n_repeats", 0) for past in self.looks)])
        wanted = max(one.n_more or 0 for one in repeats)
        more = min(max(wanted, math.ceil(now / 2)), now)
        levels = {one.factor: list(one.levels) for one in repeats}
        return {**look, "levels": levels, "n_repeats": now + more}

    def _candidates(self, trials: Iterable[Trial]) -> dict[str, Trial]:
        """Return those of some trials whose configs run again on fresh seeds, by what they are."""
        # One whose config was changed on the way is no sample of a config: it cannot be repeated.
        unchanged = [t for t in trials if self.ids[t.number] not in self.changes]
        return candidates(unchanged, self.search.space, self.settings.compared(self.study))

    def _next_test(self, key: str) -> WorkerJob | None:
        """Return a job that looks at the test part, when all training is over.

        It is opened once: for the config that is recommended by its replicates, the default and
        the baselines.
        """
        if self.to_test is None:
            if self.out:
                return None
            self.progress.stage = "test"
            self._open_test()
        if not self.to_test:
            return None
        label, trial = self.to_test.pop(0)
        config = self.study.from_record(self.journal.trial(trial).config)
        searched = {name: config[name] for name in self.study.space}
        return self._send(key, trial, searched, 0, None, test=label)

    def _open_test(self) -> None:
        study, best = self.study, read_champion(self.journal)
        self.to_test = []
        if best is None or not best.full or study.test_metric is None:
            return
        # A study that was extended looks again only at what is new: at another best trial.
        looks = self.journal.events(kind="test")
        known = {event.trial for event in looks if "metrics" in event.data}
        first = self.search.trials[0]
        intact = first.full and self.ids[0] not in self.changes
        default = self.ids[0] if intact else self.default
        for label, trial in {"best": best.trial, "default": default}.items():
            if trial is not None and trial not in known and self._has_checkpoint(trial):
                self.to_test.append((label, trial))
                known.add(trial)
        self._record_baselines()
        simple = {name: trial for name, trial in self.baselines.items() if trial not in known}
        if not (self.to_test or simple):
            return
        try:
            with user_code():
                data = study.trainable.load(test=True)
        except Exception as error:
            failure = {"failure": f"the test part cannot be loaded: {describe(error)}"}
            for label, trial in [*self.to_test, *simple.items()]:
                self.journal.add_event("test", trial, {"label": label, **failure})
            self.to_test = []
            return
        self.test_data = ray.put(data)
        judged: dict[str, dict[str, Any]]
        try:
            with user_code():
                reached = study.trainable.baselines(data, test=True)
                judged = {name: {"metrics": as_metrics(reached[name])} for name in simple}
        except Exception as error:  # theirs alone: what was searched is judged all the same
            judged = {name: {"failure": describe(error)} for name in simple}
        for name, look in judged.items():
            self.journal.add_event("test", simple[name], {"label": name, **look})

    def _record_baselines(self) -> None:
        """Journal the simple models and what they reach on the validation part, once."""
        for name, metrics in self.simple.items():
            if name in self.baselines:
                continue
            trial = self.baselines[name] = self.next_id
            self.next_id += 1
            self.journal.add_trial(
                trial, {"model": name}, seed=self.settings.seed, role="baseline", label=name
            )
            self.journal.add_result(trial, 0, metrics)
            self.journal.set_state(trial, "ended", reason="complete")

    def _origin(self, job: Job) -> dict[str, Any]:
        """Return where a new trial came from, for the record."""
        trial = self.search.trials[job.trial]
        expected = None if trial.expected is None else self.search.value(trial.expected)
        return {"origin": trial.origin, "why": trial.why, "expected": expected}

    def _add_trial(
        self,
        config: dict[str, Any],
        *,
        role: str,
        label: str = "",
        repeat: int = 0,
        origin: Mapping[str, Any] | None = None,
    ) -> int:
        trial = self.next_id
        self.next_id += 1
        config = {**self.study.fixed, **config}
        self.journal.add_trial(
            trial,
            config,
            seed=self._seed(repeat),
            repeat=repeat,
            role=role,
            label=label,
            data=origin,
        )
        return trial

    def _send(
        self,
        key: str,
        trial: int,
        config: dict[str, Any],
        to_epoch: int,
        number: int | None,
        *,
        test: str | None = None,
        seed: int | None = None,
    ) -> WorkerJob:
        if number is None:
            reached = max((row.epoch for row in self.journal.results(trial=trial)), default=0)
        else:
            reached = self.search.trials[number].epoch
        checkpoint = self.checkpoints.newest(trial, self.search.max_epochs if test else reached)
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
            bundle=self._bundle(self.room.get(trial, 1.0)),
            test_data=self.test_data if test else None,
            told=str(told_file(self.folder, trial)) if test else None,
            diagnose=self.settings.diagnose,
            histograms=self._histograms(trial),
            by_epoch=self.ray_scheduler is not None and number is not None,
        )
        self.sent[key] = trial
        self.out[key] = Out(
            job=job,
            number=number,
            from_epoch=checkpoint[0] if checkpoint else 0,
            heard=time.monotonic(),
            test=test,
            paused=number is not None and wants_all(self.ray_scheduler),
        )
        return job

    def _bundle(self, room: float) -> dict[str, float]:
        bundle = self.settings.bundle(room)
        most = max(self.most_cpus, self.settings.cpus_per_trial)
        return {**bundle, "CPU": min(bundle["CPU"], most)}

    def _histograms(self, trial: int) -> tuple[str, str] | None:
        if self.settings.tensorboard is None:
            return None
        return str(tensorboard_folder(self.folder, trial)), HISTOGRAMS

    # ---- what a scheduler of Ray's decides ----

    def is_searched(self, key: str) -> bool:
        """Say whether a Ray trial is one of the search."""
        return key in self.out and self.out[key].number is not None

    def stop(self, key: str) -> None:
        """Have a trial stopped after the epoch that is being reported."""
        if key in self.out:
            self.out[key].stopped = True

    def pause(self, key: str, epoch: int) -> None:
        """Have a trial give up its worker after the epoch that is being reported."""
        if key in self.out:
            out = self.out[key]
            out.paused, out.from_epoch = True, epoch
            out.given = out.ready = False

    @_guarded
    def stopped_in_pause(self, key: str) -> None:
        """Take note of a trial that was stopped while it had no worker."""
        if (out := self.out.get(key)) is None or not out.paused:
            return
        if out.cut:
            self.cut_short = self.cut_short or not self.halted
            self._end(key, "interrupted", f"by {self.stopped_by} after epoch {out.from_epoch}")
        else:
            self._end(key, "stopped", f"{self._stopped_text} after epoch {out.from_epoch}")

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
        out = self.out[key]
        trial = out.job.trial
        searched = {name: as_plain(value) for name, value in searched.items()}
        self.changes[trial] = searched
        self.journal.add_event(
            "mutation",
            trial,
            {
                "epoch": out.from_epoch,
                "from_trial": self.sent[donor],
                "from_epoch": epoch,
                "config": searched,
            },
        )
        out.job = replace(out.job, config={**out.job.config, **searched}, checkpoint=None)
        out.from_epoch = epoch
        self.checkpoints.drop(trial)  # those of the state that it had before
        return out.job

    # ---- epochs back ----

    @_guarded
    def started(self, key: str) -> None:
        """Take note that a worker has begun a job."""
        self._notice_sleep()
        out = self.out[key]
        out.heard = time.monotonic()
        out.given = out.ready = out.begun = True
        if out.test is not None:
            return
        out.paused = False
        self.journal.set_state(out.job.trial, "running")
        span = {"from_epoch": out.from_epoch, "to_epoch": out.job.to_epoch}
        self.journal.add_event("job", out.job.trial, span)
        self.show()

    @_guarded
    def result(self, key: str, result: Mapping[str, Any]) -> None:
        """Take in what a worker reported: epochs, a look at the test part, or a failure."""
        self._notice_sleep()
        out = self.out[key]
        out.heard = time.monotonic()
        if result.get("disk_full"):
            raise JournalError(f"A checkpoint cannot be written: {result['failure']}.")
        if not out.placed:
            out.placed = True
            where = {"node": result.get("hostname"), "device": result["device"]}
            self.journal.add_event("worker", out.job.trial, where)
        if result.get("out_of_memory") and self._more_room(out.job.trial):
            self.journal.add_event("lost", out.job.trial, {"text": result["failure"]})
            self._again(key, out)
            self.show()
            return
        if result["device"] == "cpu" and self.settings.gpus_per_trial > 0:
            self.progress.warning = "Trials were given a GPU, but torch sees none: it uses the CPU."
        for damage in result.get("damaged") or ():
            self.journal.add_event("damaged", out.job.trial, damage)
        if left := result.get("left"):
            self.journal.add_event("left", out.job.trial, left)
        if out.test is not None and not result["done"]:
            return  # its checkpoint was damaged: it is trained once more
        if out.test is not None:
            what = {k: result[k] for k in ("metrics", "failure", "traceback") if result.get(k)}
            self.journal.add_event("test", out.job.trial, {"label": out.test, **what})
            del self.out[key]
        else:
            for row in result["epochs"]:
                self._take(out, row["epoch"], row["metrics"], row["t_ms"])
                if "diagnosis" in row:
                    self.journal.add_event("diagnosis", out.job.trial, row["diagnosis"])
                    self.findings[out.job.trial] = row["diagnosis"]["findings"]
            if result["failure"] is not None:
                self.findings.pop(out.job.trial, None)  # they are part of its text
                if findings := result.get("findings"):
                    look = {"epoch": self.search.max_epochs, "layers": [], "findings": findings}
                    self.journal.add_event("diagnosis", out.job.trial, look)
                had = ", ".join(f"{n:g} {kind}" for kind, n in out.job.bundle.items())
                room = f"it had {had}" if result.get("out_of_memory") else ""
                texts = (result["failure"], room, result["traceback"])
                self._end(key, "failed", "\n".join(text for text in texts if text))
            elif "epoch" in result:
                self._after(key, out, result)
        self.show()

    def _take(self, out: Out, epoch: int, metrics: Mapping[str, float], t_ms: int) -> None:
        trial, value = out.job.trial, metrics[self.study.metric]
        if self.journal.add_result(trial, epoch, metrics, t_ms=t_ms):
            self.progress.n_epochs += 1
        if out.number is not None:
            self._note_best(trial, value)
            self.search.tell(out.number, epoch, value)

    def _after(self, key: str, out: Out, last: Mapping[str, Any]) -> None:
        """Decide what the last epoch that was reported means for its job."""
        trial, epoch, note = out.job.trial, last["epoch"], last.get("note")
        if epoch >= self.search.max_epochs:
            out.finishing = True
            if last["done"]:
                self._end(key, "complete", note or None)
        elif last["converged"]:
            text = f"no improvement any more after epoch {epoch}"
            self._end(key, "converged", f"{text}; {note}" if note else text)
        elif epoch >= out.job.to_epoch:
            self.journal.set_state(trial, "waiting")
            del self.out[key]
            self._weigh(trial)
        elif out.stopped:
            self._end(key, "stopped", f"{self._stopped_text} after epoch {epoch}")
        elif out.paused:
            self.journal.set_state(trial, "waiting")
        elif out.cut:
            self.cut_short = self.cut_short or not self.halted
            self._end(key, "interrupted", f"by {self.stopped_by} after epoch {epoch}")

    @_guarded
    def died(self, key: str, error_file: str | None) -> None:
        """Take note of a worker that died under a job; another one goes on from its checkpoint."""
        if (out := self.out.get(key)) is None:
            return
        self._notice_sleep()
        hang = hang_file(self.checkpoints.root, key)
        traceback = hang.read_text(errors="replace") if hang.is_file() else ""
        hang.unlink(missing_ok=True)
        in_time = time.monotonic() - out.heard < out.job.timeout_s
        if in_time or not out.given:
            self._lost(key, out, _last_line(error_file))
        elif not out.ready:  # the job has nothing to do with it
            self._lost(key, out, "the worker did not get ready")
        elif out.test is not None:
            self._lost(key, out, f"it took longer than --trial-timeout ({out.job.timeout_s:g} s)")
        elif out.finishing:
            limit = f"took longer than --trial-timeout ({out.job.timeout_s:g} s)"
            self._end(key, "complete", f"{_AFTER_LAST} {limit}\n{traceback}".strip())
        else:
            limit = f"an epoch took longer than --trial-timeout ({out.job.timeout_s:g} s)"
            self._end(key, "failed", f"{limit}\n{traceback}".strip())

    def is_silent(self, key: str) -> bool:
        """Say whether the worker that has a job is to be ended, since nothing comes of it.

        A worker ends itself where an epoch takes too long, and where the end of the code behind the
        last epoch does: each may take the timeout. It cannot where all of it stands still (its
        process was stopped, it waits for a dead disk).
        """
        self._notice_sleep()
        if (out := self.out.get(key)) is None:
            return False
        if not out.given:  # it has waited for its resources until now
            out.given, out.heard = True, time.monotonic()
        most = 2 * out.job.timeout_s + (_SILENT_S if out.ready else _START_S)
        return time.monotonic() - out.heard > most

    def _notice_sleep(self) -> None:
        """Hold no silence against workers while this process itself stood still.

        The machine may have been suspended, and its workers with it.
        """
        now = time.monotonic()
        if (slept := now - self.awake) > _LATE_S:
            for out in self.out.values():
                out.heard = min(now, out.heard + slept)
        self.awake = now

    @_guarded
    def all_died(self, text: str) -> None:
        """Take note that Ray's loop broke down under all jobs."""
        for key, out in list(self.out.items()):
            self._lost(key, out, text)

    def _lost(self, key: str, out: Out, text: str) -> None:
        trial, text = out.job.trial, redact(text)
        if out.finishing:
            self._end(key, "complete", f"{_AFTER_LAST} ended its worker: {text}")
            return
        self.journal.add_event("lost", trial, {"text": text})
        if _NODE_GONE in text or (_NO_MEMORY in text and self._more_room(trial)):
            self._again(key, out)  # with a node that leaves, or for want of room, it may be often
            return
        reached = max((row.epoch for row in self.journal.results(trial=trial)), default=0)
        if reached > self.reached.get(trial, 0):
            self.n_lost[trial] = 0  # it is not the trial: nodes may come and go all the time
        self.reached[trial] = reached
        self.n_lost[trial] = self.n_lost.get(trial, 0) + 1
        if self.n_lost[trial] <= MAX_LOST:
            self._again(key, out)
        elif out.test is not None:
            del self.out[key]
            self.journal.add_event("test", trial, {"label": out.test, "failure": text})
        elif _NO_MEMORY in text:
            self._end(key, "failed", f"out of memory {self.n_lost[trial]} times; {text}")
        else:
            self._end(key, "lost", f"the worker died {self.n_lost[trial]} times; {text}")
            if self.progress.best is None and len(self.n_lost) >= _HOPELESS:
                raise HypertuneError(f"No worker lived to give a result. The last one: {text}")

    def _again(self, key: str, out: Out) -> None:
        """Have a job that came to nothing done again, from the newest checkpoint."""
        trial = out.job.trial
        del self.out[key]
        if out.test is not None:
            self.to_test = [*(self.to_test or []), (out.test, trial)]
            return
        self.journal.set_state(trial, "waiting")
        if out.number is None and trial == self.default:
            self.default_due = True
        elif out.number is None:
            self.to_repeat = [self.repeats[trial], *(self.to_repeat or [])]
        else:
            saved = self.checkpoints.newest(trial, self.search.trials[out.number].epoch)
            self.search.lost(out.number, saved[0] if saved else 0)

    def _more_room(self, trial: int) -> bool:
        """Let a trial occupy twice as much from now on; say whether there is as much.

        What it had not enough of, other trials had taken: of the memory of its GPU, or of its node.
        """
        before = self.room.get(trial, 1.0)
        if self._bundle(2 * before) == self._bundle(before):
            return False
        self.room[trial] = 2 * before
        return True

    def _end(self, key: str, reason: Reason, detail: str | None) -> None:
        """End a trial, and what it no longer needs."""
        out = self.out.pop(key)
        trial, number = out.job.trial, out.number
        if number is not None and self.search.trials[number].reason is None:
            self.search.end(number, reason)
        self.journal.set_state(trial, "ended", reason=reason, detail=self._diagnosed(trial, detail))
        if reason in ("failed", "lost", "stopped"):
            self.checkpoints.drop(trial)
        elif number is not None and reason in FULL:
            self._keep_candidates(number)
        elif trial in self.repeats and reason != "interrupted":
            if self._stands(trial):
                self._weigh(trial)
            else:
                self.checkpoints.drop(trial)
        if number is not None:
            self._count_end(reason)

    def _weigh(self, trial: int) -> None:
        """Take note of a trial's checkpoint, and make room where all take too much."""
        self.checkpoints.weigh(trial)
        if self.checkpoints.too_many:
            # A trial that lost its checkpoint trains again when it is promoted after all.
            self.checkpoints.trim(self.ids[t.number] for t in reversed(self._promising()))

    def _stands(self, trial: int) -> bool:
        """Say whether a run on a fresh seed stands for a config that the search stopped early."""
        due = self.repeats[trial]
        if due.repeat != 1:
            return False
        known = [self.search.space.nest(t.flat) for t in self.search.trials if t.full]
        if self.default is not None:  # it was trained in full besides
            known.append(dict(self.study.default))
        return identity(due.config) not in map(identity, known)

    def _diagnosed(self, trial: int, detail: str | None) -> str | None:
        """Return why a trial ended, with what was wrong inside of it at its last epoch."""
        if not (findings := self.findings.get(trial)):
            return detail
        text = f"diagnosis: {'; '.join(findings)}"
        return text if detail is None else f"{detail}; {text}"

    def _where(self, out: Out) -> str:
        """Say after which epoch a trial is."""
        reached = max((row.epoch for row in self.journal.results(trial=out.job.trial)), default=0)
        return f"after epoch {reached}" if reached else "before its first epoch"

    def _count_end(self, reason: Reason) -> None:
        self.progress.n_ended[reason] = self.progress.n_ended.get(reason, 0) + 1

    def _promising(self) -> list[Trial]:
        """Return the trials that may go on, those first that got furthest and were best."""
        left = [t for t in self.search.trials if t.losses and t.reason in (None, "stopped")]
        waiting = [t for t in left if not t.running]
        return sorted(waiting, key=lambda t: (-t.epoch, t.best[t.epoch], t.number))

    def _has_checkpoint(self, trial: int) -> bool:
        return self.checkpoints.newest(trial, self.search.max_epochs) is not None

    def _keep_candidates(self, number: int) -> None:
        """Keep the checkpoints of full trials that may be recommended, and the default's."""
        full = self.kept | {number}
        self.kept = self._worth_keeping(full)
        for dropped in full - self.kept:
            self.checkpoints.drop(self.ids[dropped])

    def _worth_keeping(self, numbers: set[int]) -> set[int]:
        """Return those of some trials in full that may be recommended, and the default.

        One that is beaten will always be: earlier ones that were given up need no second look.
        """
        trials = [self.search.trials[number] for number in numbers]
        chosen = [*self._candidates(trials).values(), *ranked(trials)[:1]]  # changed or not
        return numbers & {0, *(trial.number for trial in chosen)}

    def _note_best(self, trial: int, value: float) -> None:
        best, better = self.progress.best, min if self.study.mode == "min" else max
        if best is None or better(value, best) != best:
            self.progress.best, self.progress.best_trial = value, trial

    def show(self) -> None:
        """Tell the observer how things are."""
        self.progress.n_running = self.n_at_work
        if time.monotonic() - self.counted > _COUNT_EVERY_S:
            self.counted = time.monotonic()
            n_paused = len(self.out) - self.progress.n_running
            self.progress.n_waiting = n_paused + sum(t.waiting for t in self.search.trials)
        with contextlib.suppress(Exception):  # a display must not cost a result
            self.progress.warning = self.warning() or self.progress.warning
            if self.observer is not None:
                self.observer(self.progress)

    # ---- the end ----

    def close(self) -> None:
        """End what is still open, in the search and in the journal."""
        stopped_by = self.stopped_by or "the end of the search"
        if any(out.test is None for out in self.out.values()) and not self.halted:
            self.cut_short, stopped_by = True, "time budget"
        self._record_baselines()
        for key, out in list(self.out.items()):
            if out.finishing:
                self._end(key, "complete", f"{_AFTER_LAST} was cut short by {stopped_by}")
            elif out.test is None:
                self._end(key, "interrupted", f"by {stopped_by} {self._where(out)}")
        self.out.clear()
        self._withdraw()
        for trial in self.search.close():
            # One that has not got to the end of its job was waiting for another worker.
            reason, detail = "stopped", f"not promoted beyond epoch {trial.epoch}"
            if trial.epoch < trial.to_epoch:
                where = f"after epoch {trial.epoch}" if trial.epoch else "before its first epoch"
                reason, detail = "interrupted", f"by {stopped_by} {where}"
            detail = self._diagnosed(self.ids[trial.number], detail) or detail
            self.journal.set_state(self.ids[trial.number], "ended", reason=reason, detail=detail)
        self.progress.n_ended["stopped"] = sum(t.reason == "stopped" for t in self.search.trials)
        if self.ray_scheduler is not None:
            for trial in self.search.trials:  # workers save what they leave
                if trial.reason == "stopped":
                    self.checkpoints.drop(self.ids[trial.number])
        if self.stopped_by is None:
            # It may be extended: then most that is promoted is among these.
            kept = {self.ids[t.number] for t in self._promising()[:_KEPT]}
            kept |= {self.ids[number] for number in self._worth_keeping(self.kept)}
            kept |= {t for t in [*self.ids[:1], self.default] if t is not None}
            if (best := read_champion(self.journal)) is not None:
                kept |= set(best.losses)
            self.checkpoints.keep(kept)
        error = None if self.error is None else describe(self.error)
        self.journal.add_event("search_end", None, {"stopped_by": self.stopped_by, "error": error})
        self.journal.sync()


def _more_repeats(looks: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return on how many fresh seeds the best of some levels are to run, as looks asked for."""
    return {
        best_of(name, level): look["n_repeats"]
        for look in looks
        for name, levels in look.get("levels", {}).items()
        for level in levels
    }


def _last_line(error_file: str | None) -> str:
    """Return the last line of what Ray wrote about a failure."""
    with contextlib.suppress(OSError, TypeError):
        lines = Path(error_file or "").read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        # Below the class of the error Ray lists actor id, pid and address; the first line tells.
        start = next((i for i, line in enumerate(said) if "Error" in line), len(said) - 1)
        return " ".join(said[start:])[:500]
    return "no more is known"
