"""Runs a study, from its settings to its records."""

import contextlib
import hashlib
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as RaySearcher

from hypertune.core.errors import SettingError, describe, user_code
from hypertune.core.plugs import file_digest
from hypertune.core.provenance import environment, uncommitted
from hypertune.core.space import Number
from hypertune.engine.copies import home, lost_end, refuse_copy
from hypertune.engine.driver import Driver
from hypertune.engine.folder import check_study, locked, new_folder, refuse_network, usable_folder
from hypertune.engine.phases import Undecided
from hypertune.engine.prepare import Prepared, load_data, planned_epochs, planned_repeats, prepare
from hypertune.engine.progress import Observer, Progress
from hypertune.engine.ray.nodes import Following, alive_nodes, capacity, check_nodes
from hypertune.engine.ray.tune import ray_session, search_on_ray
from hypertune.engine.result import StudyResult
from hypertune.engine.resume import RecordedStudy, source_hash
from hypertune.engine.saved_model import keep_best_model
from hypertune.engine.trust import trust
from hypertune.journal.history import StudyHistory
from hypertune.journal.snapshot import catch_up, superseded_text
from hypertune.journal.store import Journal
from hypertune.search import Search
from hypertune.search.schedulers.base import Scheduler
from hypertune.search.searchers.base import Searcher
from hypertune.settings import Settings
from hypertune.studies.study import Study
from hypertune.tasks.user_code import as_metrics
from hypertune.tracking.tensorboard import write_tensorboard
from hypertune.tracking.uploader import Delivery, Uploader


def run(
    study: Study,
    settings: Settings,
    observer: Observer | None = None,
    *,
    report: bool = False,
    searcher: RaySearcher | type[Searcher] | None = None,
    scheduler: TrialScheduler | type[Scheduler] | None = None,
) -> StudyResult:
    """Run a study to its end, or to the end of its budget.

    Args:
        study: What to search.
        settings: How.
        observer: Called, in the driver's loop, when something has changed.
        report: Write the report when the search has ended. It is delivered to MLflow as well.
        searcher: One of Ray's in place of the method's own, or a class of ours.
        scheduler: The same.

    Raises:
        HypertuneError: It cannot start; nothing has been written.
    """
    settings = settings.resolved_for(study)
    settings.check_end()
    prepared = prepare(study, settings, searcher=searcher, scheduler=scheduler)
    study = prepared.study
    usable_folder(study.name, settings)
    with ready_session(prepared, settings, observer) as session:
        about = description(
            prepared,
            settings,
            data_set=_data_set(study, session.data),
            environment=environment(),
        )
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(new_folder(study.name, settings))
            journal = Journal(folder / "journal.db", study={"name": folder.name, **about})
            for file in (about["source"], *settings.plug_files):
                trust(about["study_id"], str(file))
            stack.enter_context(contextlib.closing(journal))
            return session.run(journal, settings.time_budget_s, report=report)


def resume(
    folder: Path,
    *,
    changes: Mapping[str, Any] | None = None,
    space: str | Study | None = None,
    observer: Observer | None = None,
    report: bool = False,
) -> StudyResult:
    """Go on with a study, from where its journal ends; or extend it.

    Trials that ended are not run again, unfinished ones go on from their checkpoints, and the
    search is rebuilt by replay. A scheduler of Ray's cannot be: it begins anew, knowing nothing of
    the trials that ended, and those that it had paused begin anew as well.

    Args:
        folder: The study's folder.
        changes: Settings that differ from now on. ``n_trials`` is the new total,
            ``time_budget_s`` comes on top of the time already spent; without it what is left of
            the study's own applies.
        space: The study, its name or its file, where that has moved.
        observer: Called, in the driver's loop, when something has changed.
        report: As in `run`.

    Raises:
        HypertuneError: It cannot go on; nothing has changed.
    """
    refuse_network(folder)
    check_study(folder)
    with locked(folder):
        refuse_copy(folder)
        notes: list[str | None] = []
        storage = RecordedStudy.storage(folder, changes or {})
        if storage and catch_up(folder, storage):
            notes += _just_superseded(folder)
        recorded = RecordedStudy.read(folder)
        prepared, settings = recorded.replay(space, changes or {})
        study = prepared.study
        settings.resolved_for(study).check_end(begun=True)
        notes.append(lost_end(folder))
        with (
            ready_session(prepared, settings, observer) as session,
            contextlib.closing(Journal(folder / "journal.db")) as journal,
        ):
            if recorded.source_changed:
                notes.append(
                    f"'{study.source}' was changed since this study began: its trials may differ "
                    "in what is neither in the space nor fixed."
                )
            notes += recorded.plug_notes(settings)
            session.progress.warning = " ".join(filter(None, notes)) or None
            return session.run(journal, settings.time_budget_s, report=report)


def _just_superseded(folder: Path) -> list[str]:
    """Say what is in the journal that was set aside just now, if one was."""
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        last = journal.events(after=journal.last_ids()[0] - 1)
    return [superseded_text(e.data, e.data["file"]) for e in last if e.kind == "superseded"]


@dataclass(frozen=True, kw_only=True)
class _Session:
    """All that is at hand when the journal is opened: Ray runs, data are loaded."""

    study: Study
    settings: Settings
    search: Search
    ray_scheduler: TrialScheduler | None
    data: Any
    simple: Mapping[str, Mapping[str, float]]
    n_concurrent: int
    follow: Callable[[], int] | None
    most_cpus: float
    progress: Progress
    observer: Observer | None

    def run(self, journal: Journal, time_budget_s: float | None, *, report: bool) -> StudyResult:
        """Search, and bring the records up to date."""
        folder, progress = journal.path.parent, self.progress
        uploader = Uploader(journal.path, self.settings.store)
        uploader.start()
        progress.stage, progress.started = "search", time.monotonic()
        if time_budget_s is not None:
            progress.deadline = progress.started + time_budget_s
        driver = Driver(
            self.study,
            self.settings,
            self.search,
            journal,
            folder,
            self.simple,
            n_concurrent=self.n_concurrent,
            follow=self.follow,
            most_cpus=self.most_cpus,
            progress=progress,
            observer=self.observer,
            warning=lambda: uploader.status.warning,
            judge=undecided if self.settings.until_decided else None,
            ray_scheduler=self.ray_scheduler,
        )
        _keep_diff(folder)
        start = {
            "n_concurrent": self.n_concurrent,
            "planned_epochs": progress.planned_epochs,
            "time_budget_s": time_budget_s,
            "environment": environment(),
            "home": home(folder),
        }
        ledger = driver.ledger
        ledger.add_event("search_start", data=start)
        n_trials = self.search.n_trials
        if n_trials is not None and n_trials != ledger.history.study["n_trials"]:
            ledger.set_n_trials(n_trials)
        driver.restore()
        with _signals(driver) as came:
            _search_and_close(driver, self.data)
            _keep_model(driver, self.data)
            if self.settings.tensorboard is not None:
                with _at_no_cost(driver, "What TensorBoard shows was not written"):
                    write_tensorboard(folder, self.settings.tensorboard)
            if report:
                _report(driver, folder)
            delivery = _deliver(driver, uploader)
        error = None if driver.error is None else describe(driver.error)
        warning = None if progress.warning == delivery.warning else progress.warning
        return StudyResult(
            folder=folder,
            stopped_by=driver.stopped_by,
            error=error,
            warning=warning,
            store=self.settings.store,
            delivery=delivery,
            study_id=journal.study()["study_id"],
            signal=came[0] if came else None,
        )


@contextlib.contextmanager
def ready_session(
    prepared: Prepared, settings: Settings, observer: Observer | None
) -> Iterator[_Session]:
    """Load the data, fit the simple models, and have Ray.

    One after the other: Ray's start forks, and a fork beside a thread that imports may hang.
    """
    study, search = prepared.study, prepared.search
    data = load_data(study)
    try:
        with user_code():
            found = study.trainable.baselines(data, test=False)
            simple = {name: as_metrics(values) for name, values in found.items()}
    except Exception as problem:
        raise SettingError(f"The baselines cannot be fitted: {describe(problem)}") from problem
    progress = Progress(
        metric=study.metric,
        n_trials=search.n_trials or 0,
        planned_epochs=planned_epochs(search) + planned_repeats(study, settings),
        started=time.monotonic(),
        note=prepared.warm.text if prepared.warm is not None else "",
    )
    if observer is not None:
        observer(progress)
    with ray_session(settings) as joined:
        check_nodes(settings)
        nodes = [node["Resources"] for node in alive_nodes()]
        n_concurrent = capacity(settings, nodes, search.n_trials, joined=joined)
        changing = joined and settings.n_concurrent is None
        yield _Session(
            study=study,
            settings=settings,
            search=search,
            ray_scheduler=prepared.ray_scheduler,
            data=data,
            simple=simple,
            n_concurrent=n_concurrent,
            follow=Following(settings, progress.warn) if changing else None,
            most_cpus=max(node.get("CPU", 0.0) for node in nodes),
            progress=progress,
            observer=observer,
        )


def _search_and_close(driver: Driver, data: Any) -> None:
    """Search, and leave complete records behind however that ends."""
    try:
        search_on_ray(driver, data)
    except KeyboardInterrupt:
        driver.interrupted = True  # the second one: at once
    except Exception as problem:
        driver.error = driver.error or problem
    try:
        driver.close()
    except Exception as problem:  # the record itself fails (a full disk): what it holds is readable
        driver.error = driver.error or problem


def _keep_model(driver: Driver, data: Any) -> None:
    """Keep the best model, for MLflow's registry."""
    if driver.stopped_by not in (None, "time budget"):
        return  # it may go on
    with _at_no_cost(driver, "The best model was not kept"):
        keep_best_model(driver.journal, driver.study, data)


def undecided(history: StudyHistory) -> Sequence[Undecided]:
    """Return what a study has not decided yet, by its verdict."""
    from hypertune.analysis import deciding  # scipy: only where it is needed

    return deciding.undecided(history)


def _report(driver: Driver, folder: Path) -> None:
    from hypertune.analysis.report import write_report

    with _at_no_cost(driver, "The report was not written"):
        driver.progress.stage = "report"
        driver.show()
        write_report(folder)
        driver.journal.add_event("report")


@contextlib.contextmanager
def _at_no_cost(driver: Driver, failure: str) -> Iterator[None]:
    """Let what goes wrong in the block cost nothing else: the journal holds all that matters."""
    try:
        yield
    except KeyboardInterrupt:
        driver.progress.warning = f"{failure}: interrupted."
    except Exception as problem:
        driver.progress.warning = f"{failure}: {describe(problem)}"


def _deliver(driver: Driver, uploader: Uploader) -> Delivery:
    try:
        driver.progress.stage = "mlflow"
        driver.show()
        return uploader.finish(driver.settings.sync_timeout_s)
    except KeyboardInterrupt:  # the journal has everything; only the replica lags behind
        return uploader.finish(0)


def _data_set(study: Study, data: Any) -> dict[str, Any] | None:
    """Return what identifies the data; None for those that only the user's code knows."""
    told = getattr(study.trainable, "data_set", None)
    try:
        return None if told is None else dict(told(data))
    except Exception:  # the user's data: of what no digest can be made there is none
        return None


def description(
    prepared: Prepared,
    settings: Settings,
    *,
    data_set: Mapping[str, Any] | None,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the journal says of a study: all that a later session and a reader need.

    Args:
        prepared: What is run.
        settings: How.
        data_set: What identifies its data.
        environment: What it runs on.
    """
    study, search = prepared.study, prepared.search
    return {
        "study_id": uuid.uuid4().hex,
        "space": study.name,
        "source": study.source,
        "question": study.question,
        "hypothesis": study.hypothesis,
        "margin": study.margin,
        "factors": list(study.factors),
        "data": study.trainable.data,
        "data_set": data_set,
        "metric": study.metric,
        "mode": study.mode,
        "test_metric": study.test_metric,
        "further_test_metrics": study.further_test_metrics,
        "default": dict(study.default),
        "fixed": dict(study.fixed),
        "constraints": study.constraint_texts,
        "log_parameters": sorted(
            {p.name for p in study.search_space.parameters if isinstance(p, Number) and p.log}
        ),
        "max_epochs": study.max_epochs,
        "n_trials": search.n_trials,
        "method": prepared.method,
        "seed": settings.seed,
        "settings": {
            **settings.record(),
            "from": settings.earlier and settings.earlier.name,
        },
        "start": search.start,
        "rungs": None if prepared.ray_scheduler is not None else list(search.rungs),
        "parameters": study.search_space.plain(),
        "plug_files": {str(file): file_digest(file) for file in settings.plug_files},
        "source_sha256": source_hash(Path(study.source)) if study.source else None,
        "environment": environment,
        "git_commit": environment["git_commit"],
    }


def _keep_diff(folder: Path) -> None:
    """Keep the uncommitted changes of the code beside the journal, each state of them once."""
    if text := uncommitted():
        sha = hashlib.sha256(text.encode()).hexdigest()[:8]
        with contextlib.suppress(OSError):  # a full disk shows where it matters
            (folder / f"code-{sha}.diff").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _signals(driver: Driver) -> Iterator[list[int]]:
    """End the search cleanly on the first Ctrl-C or SIGTERM, and at once on the second.

    While MLflow is brought up to date, the first one ends the waiting.

    Yields:
        The numbers of the signals that have come.
    """
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if driver.interrupted or driver.progress.stage in ("report", "mlflow"):
            raise KeyboardInterrupt
        driver.interrupted = True

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
