"""Executes: jobs go out to Ray Tune, epochs come back, the journal is written.

A *job* (one stretch of epochs of one of our trials) is a Ray trial, on an actor that is reused. So
a promotion, a resumed study and a lost worker are one and the same: another job of the same trial.
"""

import contextlib
import functools
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher as RaySearcher
from ray.tune.stopper import Stopper

from hypertune.errors import HypertuneError, SettingError
from hypertune.methods import METHODS, make_search
from hypertune.provenance import environment
from hypertune.records import Delivery, Journal, Uploader
from hypertune.search import Search, incumbent
from hypertune.search.searchers.random import Random
from hypertune.settings import Settings
from hypertune.space import Number
from hypertune.study import Study
from hypertune.trainable.worker import Worker, WorkerJob, hang_file, newest_checkpoint

MAX_LOST = 2
"""A job whose worker died is tried again so many times."""
_DRAIN_S = 10.0
_PLAYS = 20
_SYNC_EVERY_S = 0.5

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(kw_only=True)
class Progress:
    """How a search is going, for whoever shows it. Values are those of the study's metric."""

    metric: str
    n_trials: int
    planned_epochs: int
    started: float
    deadline: float | None = None
    n_started: int = 0
    n_running: int = 0
    n_waiting: int = 0
    n_ended: dict[str, int] = field(default_factory=dict)
    n_epochs: int = 0
    best: float | None = None
    best_trial: int | None = None
    stage: str = "search"


Observer = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `run` leaves behind.

    Attributes:
        folder: The study's folder.
        stopped_by: ``signal`` or ``time budget`` if the search was cut short, else None.
        error: What ended the search early, if anything did.
        delivery: How far MLflow has come.
    """

    folder: Path
    stopped_by: str | None
    error: str | None
    delivery: Delivery


@dataclass(kw_only=True)
class _Out:
    """A job that is out.

    ``number`` is the trial's in the search, None for a baseline; ``test`` is the label under which
    the job looks at the test part, None for training.
    """

    job: WorkerJob
    number: int | None
    from_epoch: int
    heard: float
    test: str | None = None


def _guarded(
    method: Callable[Concatenate["_Driver", P], T],
) -> Callable[Concatenate["_Driver", P], T | None]:
    """Keep an error out of Ray, where it would end the run without its records being closed.

    After the first one nothing more is taken in: a later epoch must not follow on a missing one.
    """

    @functools.wraps(method)
    def call(self: "_Driver", /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        if self.error is None:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                self.error = error
        return None

    return call


class _Driver:
    """Stands between the search, the journal and Ray. All its methods run in one thread."""

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
        progress: Progress,
        observer: Observer | None,
    ) -> None:
        self.study, self.settings, self.search, self.journal = study, settings, search, journal
        self.checkpoints = folder / "checkpoints"
        self.n_concurrent = n_concurrent
        self.progress, self.observer = progress, observer
        self.out: dict[str, _Out] = {}
        self.ids: list[int] = []  # search number -> trial id in the journal
        self.next_id = 0
        self.n_lost: dict[int, int] = {}
        self.in_vain = 0  # jobs lost in a row, without a result in between
        self.default: int | None = None  # the baseline trial that trains the default in full
        self.simple = simple
        self.baselines: dict[str, int] = {}  # the simple models' trials, once they are journaled
        self.to_test: list[tuple[str, int]] | None = None  # (label, trial); None: not opened
        self.test_data: ray.ObjectRef | None = None
        self.values: dict[int, float] = {}  # trial id -> best value so far
        self.error: Exception | None = None
        self.interrupted = False
        self.drain_since: float | None = None
        self.synced = time.monotonic()

    # ---- what ends a search ----

    @property
    def stopping(self) -> str | None:
        """Why the search is to end early; None if it is not."""
        if self.error is not None:
            return "error"
        if self.interrupted:
            return "signal"
        deadline = self.progress.deadline
        return "time budget" if deadline is not None and time.time() > deadline else None

    def tick(self) -> bool:
        """Do what is due now and then; return True to end the run at once."""
        if time.monotonic() - self.synced > _SYNC_EVERY_S:
            self._sync()
            self._show()
        if not self.stopping:
            return False
        if self.drain_since is None:
            self.drain_since = time.monotonic()
        # Jobs end after their present epoch, so that nothing trained is lost; but not for ever.
        return time.monotonic() - self.drain_since > _DRAIN_S

    @_guarded
    def _sync(self) -> None:
        self.synced = time.monotonic()
        self.journal.sync()

    # ---- jobs out ----

    @_guarded
    def next_job(self, key: str) -> WorkerJob | None:
        """Return a job for the Ray trial ``key``; None if none is due."""
        if len(self.out) >= self.n_concurrent or self.stopping:
            return None
        job = self.search.ask()
        if job is None:
            return self._default_in_full(key) or self._next_test(key)
        if job.trial == len(self.ids):
            self.ids.append(self._add_trial(job.config, role="search"))
        return self._send(key, self.ids[job.trial], job.config, job.to_epoch, job.trial)

    @property
    def finished(self) -> bool:
        """Nothing will come any more."""
        return bool(self.stopping) or (not self.out and self.search.done and self.to_test == [])

    def _default_in_full(self, key: str) -> WorkerJob | None:
        """Return a job that trains the default to the end, where the search did not.

        The default is what the answer is compared with; it goes where a worker would be idle.
        """
        first = self.search.trials[0] if self.search.trials else None
        if self.default is not None or self.search.more or first is None or not first.waiting:
            return None
        config = dict(self.study.default)
        self.default = self._add_trial(config, role="baseline", label="default")
        return self._send(key, self.default, config, self.search.max_epochs, None)

    def _next_test(self, key: str) -> WorkerJob | None:
        """Return a job that looks at the test part, when all training is over.

        It is opened once: for the recommended trial, the default and the baselines.
        """
        if self.to_test is None:
            if self.out or not self.search.done:
                return None
            self.progress.stage = "test"
            self._open_test()
        if not self.to_test:
            return None
        label, trial = self.to_test.pop(0)
        row = self.journal.trial(trial)
        searched = {name: row.config[name] for name in self.study.space}
        job = self._send(key, trial, searched, 0, None, test=label)
        return job

    def _open_test(self) -> None:
        study, best = self.study, incumbent(self.search.trials)
        self.to_test = []
        if best is None or not best.full or study.test_metric is None:
            return
        default = self.ids[0] if self.search.trials[0].full else self.default
        self.to_test.append(("best", self.ids[best.number]))
        if default is not None and newest_checkpoint(self.folder(default), 10**9):
            self.to_test.append(("default", default))
        data = study.trainable.load(test=True)
        self.test_data = ray.put(data)
        self._record_baselines()
        for name, metrics in study.trainable.baselines(data, test=True).items():
            self.journal.add_event(
                "test", self.baselines[name], {"label": name, "metrics": metrics}
            )

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

    def _add_trial(self, config: dict[str, Any], *, role: str, label: str = "") -> int:
        trial = self.next_id
        self.next_id += 1
        self.journal.add_trial(
            trial,
            {**self.study.fixed, **config},
            seed=self.settings.seed,
            role=role,
            label=label,
        )
        if role == "search":
            self.progress.n_started += 1
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
    ) -> WorkerJob:
        folder = self.folder(trial)
        reached = 0 if number is None else self.search.trials[number].epoch
        checkpoint = newest_checkpoint(folder, self.search.max_epochs if test else reached)
        job = WorkerJob(
            trial=trial,
            config=self.study.config(config, seed=self.settings.seed),
            to_epoch=to_epoch,
            checkpoint=str(checkpoint[1]) if checkpoint else None,
            folder=str(folder),
            metric=self.study.metric,
            mode=self.study.mode,
            timeout_s=self.settings.trial_timeout_s,
            n_threads=max(1, int(self.settings.cpus_per_trial)),
            test_data=self.test_data if test else None,
        )
        self.out[key] = _Out(
            job=job,
            number=number,
            from_epoch=checkpoint[0] if checkpoint else 0,
            heard=time.monotonic(),
            test=test,
        )
        return job

    def folder(self, trial: int) -> Path:
        """Return the folder of a trial's checkpoints."""
        return self.checkpoints.resolve() / f"trial-{trial:03d}"

    # ---- epochs back ----

    @_guarded
    def started(self, key: str) -> None:
        out = self.out[key]
        out.heard = time.monotonic()
        if out.test is not None:
            return
        self.journal.set_state(out.job.trial, "running")
        self.journal.add_event(
            "job", out.job.trial, {"from_epoch": out.from_epoch, "to_epoch": out.job.to_epoch}
        )
        self._show()

    @_guarded
    def result(self, key: str, result: dict[str, Any]) -> None:
        out = self.out[key]
        out.heard, self.in_vain = time.monotonic(), 0
        if out.test is not None:
            what = {k: result[k] for k in ("metrics", "failure", "traceback") if result.get(k)}
            self.journal.add_event("test", out.job.trial, {"label": out.test, **what})
            del self.out[key]
            return
        if result["failure"] is not None:
            detail = "\n".join(part for part in (result["failure"], result["traceback"]) if part)
            self._ended(out, "failed", detail)
            del self.out[key]
            return
        epoch, metrics = result["epoch"], result["metrics"]
        trial, value = out.job.trial, metrics[self.study.metric]
        if self.journal.add_result(trial, epoch, metrics, t_ms=result["t_ms"]):
            self.progress.n_epochs += 1
        self._note_best(trial, value)
        if out.number is not None:
            self.search.tell(out.number, epoch, value)
        # Not by "done", which Ray sets as well where we stop a job before its end.
        if epoch >= out.job.to_epoch or result["converged"]:
            del self.out[key]
            if result["converged"] and epoch < self.search.max_epochs:
                self._ended(out, "converged", f"no improvement any more after epoch {epoch}")
            elif epoch >= self.search.max_epochs:
                self._ended(out, "complete", None)
            else:
                self.journal.set_state(trial, "waiting")
        self._show()

    @_guarded
    def died(self, key: str, text: str) -> None:
        """Take note of a worker that died under a job."""
        out = self.out.pop(key, None)
        if out is None:
            return
        if out.test is not None:
            self.journal.add_event("test", out.job.trial, {"label": out.test, "failure": text})
            return
        trial, hang = out.job.trial, hang_file(self.folder(out.job.trial), out.job.trial)
        if time.monotonic() - out.heard >= self.settings.trial_timeout_s:
            where = hang.read_text(errors="replace") if hang.is_file() else ""
            hang.unlink(missing_ok=True)
            timeout = f"an epoch took longer than --trial-timeout ({out.job.timeout_s:g} s)"
            self._ended(out, "failed", f"{timeout}\n{where}".strip())
            return
        hang.unlink(missing_ok=True)
        self.journal.add_event("lost", trial, {"text": text})
        self.in_vain += 1
        if self.in_vain > MAX_LOST * (self.n_concurrent + 1):
            raise HypertuneError(
                f"{self.in_vain} jobs in a row lost their worker before any result. "
                f"The last one: {text}"
            )
        self.n_lost[trial] = self.n_lost.get(trial, 0) + 1
        if self.n_lost[trial] > MAX_LOST or out.number is None:
            self._ended(out, "lost", f"the worker died {self.n_lost[trial]} times; {text}")
            return
        self.journal.set_state(trial, "waiting")
        saved = newest_checkpoint(self.folder(trial), out.job.to_epoch)
        self.search.lost(out.number, saved[0] if saved else 0)

    def _ended(self, out: _Out, reason: Any, detail: str | None) -> None:
        if out.number is not None and self.search.trials[out.number].reason is None:
            self.search.end(out.number, reason)
        trial = out.job.trial
        self.journal.set_state(trial, "ended", reason=reason, detail=detail)
        if reason in ("failed", "lost"):
            shutil.rmtree(self.folder(trial), ignore_errors=True)
        elif out.number is not None:
            self._drop_checkpoints(out.number)
        self.progress.n_ended[reason] = self.progress.n_ended.get(reason, 0) + 1
        self._show()

    def _drop_checkpoints(self, number: int) -> None:
        """Delete the checkpoint of a full trial, unless it is the best one's or the default's."""
        best = incumbent(self.search.trials)
        for trial in self.search.trials[1:]:
            if trial.full and trial is not best and (trial.number == number or best is not None):
                shutil.rmtree(self.folder(self.ids[trial.number]), ignore_errors=True)

    def _note_best(self, trial: int, value: float) -> None:
        better = min if self.study.mode == "min" else max
        self.values[trial] = better(value, self.values.get(trial, value))
        best = self.progress.best
        if best is None or better(value, best) != best:
            self.progress.best, self.progress.best_trial = value, trial

    def _show(self) -> None:
        if self.observer is None:
            return
        self.progress.n_running = len(self.out)
        self.progress.n_waiting = sum(t.waiting for t in self.search.trials)
        with contextlib.suppress(Exception):  # a display must not cost a result
            self.observer(self.progress)

    # ---- the end ----

    def close(self) -> None:
        """End what is still open, in the search and in the journal."""
        self._record_baselines()
        for out in self.out.values():
            if out.test is not None:
                continue
            if out.number is not None:
                self.search.end(out.number, "interrupted")
            self.journal.set_state(
                out.job.trial, "ended", reason="interrupted", detail=f"by {self.stopping}"
            )
        self.out.clear()
        for trial in self.search.close():
            self.journal.set_state(
                self.ids[trial.number],
                "ended",
                reason="stopped",
                detail=f"not promoted beyond epoch {trial.epoch}",
            )
        self.progress.n_ended["stopped"] = sum(t.reason == "stopped" for t in self.search.trials)


# ---- the seams to Ray Tune ----


class _Unpicklable:
    """Ray pickles what it is given into the folder of a run, for a restore that is not used."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Source(_Unpicklable, RaySearcher):
    """Gives Ray one job after another, only when a worker is free for it."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()
        self.driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        job = self.driver.next_job(trial_id)
        if job is not None:
            return job.to_dict()
        return RaySearcher.FINISHED if self.driver.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        return

    def save(self, checkpoint_path: str) -> None:
        return

    def restore(self, checkpoint_path: str) -> None:
        return

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        return


class _Listener(_Unpicklable, tune.Callback):
    """Hands on what happens to jobs."""

    def __init__(self, driver: _Driver) -> None:
        self.driver = driver

    def on_trial_start(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        self.driver.started(trial.trial_id)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[RayTrial],
        trial: RayTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        if trial.trial_id in self.driver.out:
            self.driver.result(trial.trial_id, result)

    def on_trial_error(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        error = trial.get_pickled_error() or trial.get_error()
        text = str(error).strip() if error else "no more is known"
        self.driver.died(trial.trial_id, text.splitlines()[-1] if text else "no more is known")


class _Scheduler(_Unpicklable, FIFOScheduler):
    """Lets every job run to its end, or to the end of its epoch when the search is to stop."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()
        self.driver = driver

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        # Ray then serves its queue in order. Asked here, it would give a worker that has become
        # free to a job whose own worker is still starting, and drop the latter: one would remain.
        return None

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        stop = self.driver.stopping is not None
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class _Clock(_Unpicklable, Stopper):
    """Ray asks it in every turn of its loop, a tenth of a second at most apart."""

    def __init__(self, driver: _Driver) -> None:
        self.driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.driver.tick()


# ---- running a study ----


def run(study: Study, settings: Settings, observer: Observer | None = None) -> Outcome:
    """Run a study to its end, or to the end of its budget.

    Args:
        study: What to search.
        settings: How.
        observer: Called, in the driver's loop, when something has changed.

    Raises:
        HypertuneError: It cannot start; nothing has been written.
    """
    max_epochs = settings.max_epochs or study.max_epochs
    study = study.with_max_epochs(max_epochs)
    n_trials = settings.n_trials or study.n_trials
    usable_folder(study.name, settings)
    try:
        data = study.trainable.load(test=False)
        simple = study.trainable.baselines(data, test=False)
    except (OSError, ValueError) as problem:
        raise SettingError(f"The data cannot be used: {problem}") from problem
    with _ray(settings):
        n_concurrent = _n_concurrent(settings, n_trials)
        folder = _new_folder(study.name, settings)
        journal = Journal(folder / "journal.db")
        search = make_search(
            settings.method,
            study.search_space,
            mode=study.mode,
            max_epochs=max_epochs,
            n_trials=n_trials,
            seed=settings.seed,
            start=(dict(study.default),),
        )
        journal.set_study(name=folder.name, **_description(study, settings, n_trials, n_concurrent))
        uploader = Uploader(folder / "journal.db", settings.store)
        uploader.start()
        started = time.time()
        progress = Progress(
            metric=study.metric,
            n_trials=n_trials,
            planned_epochs=planned_epochs(study, settings.method, n_trials),
            started=started,
            deadline=started + settings.time_budget_s if settings.time_budget_s else None,
        )
        driver = _Driver(
            study,
            settings,
            search,
            journal,
            folder,
            simple,
            n_concurrent=n_concurrent,
            progress=progress,
            observer=observer,
        )
        try:
            journal.add_event("search_start")
            with _signals(driver):
                _search(driver, data)
            stopped_by = driver.stopping
            driver.close()
            journal.add_event("search_end", None, {"interrupted": stopped_by == "signal"})
            journal.sync()
        except HypertuneError as problem:
            # The record itself failed (a full disk): what it holds stays readable.
            stopped_by, driver.error = "error", driver.error or problem
        finally:
            progress.stage = "mlflow"
            driver._show()
            with contextlib.suppress(Exception):
                journal.close()
            delivery = uploader.finish(settings.sync_timeout_s)
    error = None if driver.error is None else f"{type(driver.error).__name__}: {driver.error}"
    return Outcome(folder=folder, stopped_by=stopped_by, error=error, delivery=delivery)


def planned_epochs(study: Study, method: str, n_trials: int) -> int:
    """Return about how many epochs a search takes if no trial converges, by playing it through.

    How many trials are promoted depends on the order in which good and bad ones come: a mean.
    """
    return round(sum(_played(study, method, n_trials, seed) for seed in range(_PLAYS)) / _PLAYS)


def _played(study: Study, method: str, n_trials: int, seed: int) -> int:
    space, rng = study.search_space, np.random.default_rng(seed)
    search = Search(
        space,
        Random(space, study.max_epochs),
        METHODS[method].scheduler(study.max_epochs),
        mode="min",
        max_epochs=study.max_epochs,
        n_trials=n_trials,
        seed=seed,
    )
    losses: dict[int, float] = {}
    total = 0
    while (job := search.ask()) is not None:
        total += job.to_epoch - job.from_epoch
        search.tell(job.trial, job.to_epoch, losses.setdefault(job.trial, rng.random()))
    return total


def usable_folder(space: str, settings: Settings) -> Path:
    """Return the folder that a new study would get; nothing is made.

    Raises:
        SettingError: It is there already, or cannot be made.
    """
    root = settings.studies_dir
    if settings.name is not None and (root / settings.name).exists():
        raise SettingError(
            f"There is a study '{settings.name}' in '{root}' already; choose another --name."
        )
    above = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise SettingError(f"--studies-dir must be a folder to write in, but '{above}' is not.")
    numbers = (k for k in itertools.count(1) if not (root / f"{space}-{k}").exists())
    return root / (settings.name or f"{space}-{next(numbers)}")


def _new_folder(space: str, settings: Settings) -> Path:
    while True:
        folder = usable_folder(space, settings)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # another process was faster
        except OSError as error:
            raise SettingError(f"'{folder}' cannot be made: {error.strerror}.") from error
        return folder


def _search(driver: _Driver, data: Any) -> None:
    settings = driver.settings
    resources = {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}
    worker = tune.with_parameters(Worker, task=driver.study.trainable, data=data)
    # Ray keeps a few files a run for a restore that is not used here.
    with tempfile.TemporaryDirectory(prefix="hypertune-ray-") as scratch:
        tune.Tuner(
            tune.with_resources(worker, resources),
            tune_config=tune.TuneConfig(
                search_alg=_Source(driver),
                scheduler=_Scheduler(driver),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="ray",
                verbose=0,
                stop=_Clock(driver),
                callbacks=[_Listener(driver)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def _description(
    study: Study, settings: Settings, n_trials: int, n_concurrent: int
) -> dict[str, Any]:
    about = environment()
    return {
        "study_id": uuid.uuid4().hex,
        "space": study.name,
        "source": study.source,
        "question": study.question,
        "factors": list(study.factors),
        "data": study.trainable.data,
        "metric": study.metric,
        "mode": study.mode,
        "test_metric": study.test_metric,
        "default": dict(study.default),
        "fixed": dict(study.fixed),
        "log_parameters": sorted(
            {p.name for p in study.search_space.parameters if isinstance(p, Number) and p.log}
        ),
        "max_epochs": study.max_epochs,
        "n_trials": n_trials,
        "method": settings.method,
        "seed": settings.seed,
        "settings": {
            "method": settings.method,
            "n_trials": n_trials,
            "max_epochs": study.max_epochs,
            "n_concurrent": n_concurrent,
            "cpus_per_trial": settings.cpus_per_trial,
            "gpus_per_trial": settings.gpus_per_trial,
            "time_budget_s": settings.time_budget_s,
            "trial_timeout_s": settings.trial_timeout_s,
            "seed": settings.seed,
            "metric": study.metric,
            "mode": study.mode,
            "data": study.trainable.data,
        },
        "environment": about,
        "git_commit": about["git_commit"],
    }


def _n_concurrent(settings: Settings, n_trials: int) -> int:
    """Return how many trials run at a time.

    Raises:
        SettingError: Ray has not the resources for it.
    """
    has = ray.cluster_resources()
    fits = n_trials
    problems = []
    for kind, flag, need in (
        ("CPU", "--cpus-per-trial", settings.cpus_per_trial),
        ("GPU", "--gpus-per-trial", settings.gpus_per_trial),
    ):
        if need <= 0:
            continue
        available = has.get(kind, 0.0)
        carries = int(available / need + 1e-9)
        fits = min(fits, carries)
        wanted = settings.n_concurrent or 1
        if carries < wanted:
            problems.append(
                f"{wanted} trials at a time with {flag} {need:g} need {wanted * need:g} {kind}s, "
                f"but Ray has {available:g}."
            )
    if problems:
        raise SettingError("\n".join(problems))
    return settings.n_concurrent or fits


@contextlib.contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    """Have Ray at hand: the one that is connected already, or one of our own that ends with us."""
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0 it still prints a table
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        # Else Ray starts one actor at a time, and drops one that is starting for one that is free.
        "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    }
    if ray.is_initialized():
        yield
        return
    # Ray listens on all interfaces, whatever one asks for, but from 2.60 on a Ray that is started
    # here asks for a token (~/.ray/auth_token), unless RAY_AUTH_MODE says otherwise.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    ray.init(
        include_dashboard=False,
        log_to_driver=settings.verbose,
        logging_level="INFO" if settings.verbose else "ERROR",
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _signals(driver: _Driver) -> Iterator[None]:
    """End the search cleanly on the first Ctrl-C or SIGTERM, and at once on the second."""

    def handle(number: int, frame: FrameType | None) -> None:
        if driver.interrupted:
            raise KeyboardInterrupt
        driver.interrupted = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
