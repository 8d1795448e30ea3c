"""A whole study in simulated time, without Ray and without training.

The same objects decide as in a real study: search, phases, driver, ledger and verdict. Only the
workers are replaced, by a function that says what a config reaches.
"""

import contextlib
import heapq
import itertools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypertune.core.space import Config
from hypertune.engine.driver import Driver, Judge
from hypertune.engine.prepare import Prepared, prepare
from hypertune.engine.progress import Progress
from hypertune.engine.ray.worker import WorkerJob
from hypertune.engine.resume import RecordedStudy
from hypertune.engine.retention import Checkpoints
from hypertune.engine.session import description, undecided
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import Journal
from hypertune.settings import Settings
from hypertune.studies.study import Study

Curve = Callable[[Config, int], Sequence[float]]
"""Returns the metric's values by epoch of a config (nested) and a seed; NaN where it fails."""


def simulate(
    study: Study,
    curve: Curve,
    *,
    folder: Path | None = None,
    n_workers: int = 1,
    epoch_s: Callable[[Config], float] = lambda config: 1.0,
    tests: Callable[[Config, int], float] | None = None,
    baselines: Mapping[str, float] | None = None,
    judge: Judge | None = None,
    **settings: Any,
) -> StudyHistory:
    """Run a study in simulated time, or go on with one, and return what came of it.

    Args:
        study: The study. Its trainable is not used.
        curve: Says what a config reaches.
        folder: Where its journal is kept. A study whose journal is there goes on. None for a
            folder that is deleted at the end.
        n_workers: Jobs at a time.
        epoch_s: Seconds that an epoch of a config takes.
        tests: Says what the model of a config and a seed reaches on the test part; None if there
            is none.
        baselines: Simple models, and what they reach on validation; on the test part the same.
        judge: Says what is undecided, where ``until_decided`` is set; None for the verdict.
        settings: Those of `Settings`: ``method``, ``seed``, ``n_trials``, ...

    Raises:
        HypertuneError: A setting breaks a rule, or the study cannot go on.

    Example:
        >>> from ray import tune
        >>> from hypertune import Study
        >>> def train(config, report): ...
        >>> study = Study(
        ...     question="Which x is best?",
        ...     factors=["x"],
        ...     trainable=train,
        ...     space={"x": tune.uniform(0, 1)},
        ...     default={"x": 0.5},
        ...     metric="loss",
        ...     mode="min",
        ...     max_epochs=9,
        ...     n_trials=20,
        ...     n_repeats=3,
        ... )
        >>> def curve(config, seed):
        ...     return [(config["x"] - 0.3) ** 2 + 1 / epoch for epoch in range(1, 10)]
        >>> history = simulate(study, curve, method="random", seed=1)
        >>> len(history.searched), len(history.of_role("replicate"))
        (20, 12)
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asked = Settings(**settings)
        is_new = not (folder / "journal.db").is_file()
        if is_new:
            prepared = prepare(study, asked)
        else:
            recorded = RecordedStudy.read(folder)
            prepared, asked = recorded.replay(study, settings)
            study = prepared.study
        asked = asked.resolved_for(study)
        clock = _Clock(0.0 if is_new else recorded.history.events[-1].t_ms / 1000)
        journal = stack.enter_context(
            contextlib.closing(
                Journal(
                    folder / "journal.db",
                    study=_description(prepared, asked, folder) if is_new else None,
                    now=clock.now_ms,
                )
            )
        )
        simple = {name: {study.metric: value} for name, value in (baselines or {}).items()}
        driver = Driver(
            prepared.study,
            asked,
            prepared.search,
            journal,
            folder,
            simple,
            n_concurrent=n_workers,
            progress=_progress(prepared, asked, clock),
            observer=None,
            judge=(judge or undecided) if asked.until_decided else None,
            clock=clock,
            checkpoints=_Checkpoints(lambda: driver.ledger.history),
            task=_Simple(prepared.study, baselines or {}),
            has_test=tests is not None,
            put=lambda data: data,
        )
        driver.ledger.add_event(
            "search_start",
            data={"n_concurrent": n_workers, "time_budget_s": asked.time_budget_s},
        )
        if not is_new and prepared.search.n_trials is not None:
            driver.ledger.set_n_trials(prepared.search.n_trials)
        driver.restore()
        _Workers(driver, curve, epoch_s, tests, clock).run()
        driver.close()
        if driver.error is not None:
            raise driver.error
        return driver.ledger.history


def _description(prepared: Prepared, settings: Settings, folder: Path) -> dict[str, Any]:
    about = description(prepared, settings, data_set=None, environment={"git_commit": None})
    return {"name": folder.name, **about, "study_id": folder.name}


def _progress(prepared: Prepared, settings: Settings, clock: "_Clock") -> Progress:
    budget = settings.time_budget_s
    return Progress(
        metric=prepared.study.metric,
        n_trials=prepared.search.n_trials or 0,
        planned_epochs=0,
        started=clock(),
        deadline=None if budget is None else clock() + budget,
        stage="search",
    )


class _Clock:
    """Simulated seconds."""

    def __init__(self, start: float) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return round(self.now * 1000)


class _Checkpoints(Checkpoints):
    """Has a checkpoint of each trial at its last epoch, until it is dropped; nothing is written."""

    def __init__(self, history: Callable[[], StudyHistory]) -> None:
        self.root = ""
        self._history = history
        self._dropped: set[int] = set()

    def clear(self) -> None:
        return

    def place(self, trial: int) -> str:
        return ""

    def newest(self, trial: int, up_to: int) -> tuple[int, str] | None:
        known = self._history().trials.get(trial)
        epochs = [e for e in known.results if e <= up_to] if known is not None else []
        return (max(epochs), "") if epochs and trial not in self._dropped else None

    def weigh(self, trial: int) -> None:
        self._dropped.discard(trial)

    @property
    def too_many(self) -> bool:
        return False

    def drop(self, trial: int) -> None:
        self._dropped.add(trial)

    def keep(self, trials: set[int]) -> None:
        self._dropped |= self._history().trials.keys() - trials


class _Simple:
    """What the driver asks a task for: the test part, and what simple models reach on it."""

    def __init__(self, study: Study, baselines: Mapping[str, float]) -> None:
        self._metric = study.test_metric or study.metric
        self._baselines = baselines

    def load(self, *, test: bool) -> None:
        return

    def baselines(self, data: Any, *, test: bool) -> dict[str, dict[str, float]]:
        return {name: {self._metric: value} for name, value in self._baselines.items()}


class _Workers:
    """Runs the jobs of a driver in simulated time."""

    def __init__(
        self,
        driver: Driver,
        curve: Curve,
        epoch_s: Callable[[Config], float],
        tests: Callable[[Config, int], float] | None,
        clock: _Clock,
    ) -> None:
        self._driver, self._clock = driver, clock
        self._curve, self._epoch_s, self._tests = curve, epoch_s, tests
        self._number = itertools.count()
        self._queue: list[tuple[float, int, WorkerJob, int]] = []  # with the next epoch
        self._curves: dict[int, Sequence[float]] = {}  # by trial

    def run(self) -> None:
        """Run all jobs, in the order in which their epochs end."""
        driver = self._driver
        while True:
            while (job := driver.next_job(str(next(self._number)))) is not None:
                driver.started(job.key)
                self._push(job, driver.running[job.key].from_epoch + 1)
            if not self._queue:
                return
            self._clock.now, _, job, epoch = heapq.heappop(self._queue)
            is_test = driver.running[job.key].test is not None
            driver.cut(job.key, epoch)
            driver.result(job.key, self._tested(job) if is_test else self._epoch(job, epoch))
            driver.tick()
            if job.key in driver.running:
                self._push(job, epoch + 1)

    def _push(self, job: WorkerJob, epoch: int) -> None:
        ends = self._clock.now + self._epoch_s(self._searched(job))
        heapq.heappush(self._queue, (ends, next(self._number), job, epoch))

    def _searched(self, job: WorkerJob) -> Config:
        return {name: job.config[name] for name in self._driver.study.space}

    def _epoch(self, job: WorkerJob, epoch: int) -> dict[str, Any]:
        if job.trial not in self._curves:
            self._curves[job.trial] = self._curve(self._searched(job), job.config["seed"])
        value = float(self._curves[job.trial][epoch - 1])
        if math.isnan(value):
            failure = {"failure": "the metric is not a number", "traceback": ""}
            return {"epochs": [], "device": "cpu", "done": True, **failure}
        done = epoch >= self._driver.search.max_epochs
        if done:
            del self._curves[job.trial]
        row = {"epoch": epoch, "metrics": {job.metric: value}, "t_ms": self._clock.now_ms()}
        last = {"epoch": epoch, "converged": False, "failure": None, "traceback": "", "done": done}
        return {"epochs": [row], "device": "cpu", **last}

    def _tested(self, job: WorkerJob) -> dict[str, Any]:
        assert self._tests is not None
        study = self._driver.study
        value = self._tests(self._searched(job), job.config["seed"])
        metrics = {study.test_metric or study.metric: value}
        return {"metrics": metrics, "failure": None, "device": "cpu", "done": True}
