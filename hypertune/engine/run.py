"""Runs a study, from its settings to its records."""

import contextlib
import itertools
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import ray

from hypertune.engine.driver import Driver, Observer, Progress
from hypertune.engine.ray_tune import capacity, ray_session, search_on_ray
from hypertune.engine.warm_start import warm_start
from hypertune.errors import Checks, SettingError, StudyError
from hypertune.methods import METHODS, make_search
from hypertune.provenance import environment
from hypertune.records import Delivery, Journal, Uploader, redact
from hypertune.search import Search
from hypertune.search.searchers.random import Random
from hypertune.settings import Settings
from hypertune.space import Number
from hypertune.study import Study
from hypertune.trainable.constraints import Constraints

_MAX_PLAYED = 2000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `run` leaves behind.

    Attributes:
        folder: The study's folder.
        stopped_by: ``signal``, ``time budget`` or ``error`` if the search was cut short, else None.
        error: The text of the error that ended the search early, if one did.
        warning: What the user should know of, but nothing failed by.
        delivery: How far MLflow has come.
    """

    folder: Path
    stopped_by: str | None
    error: str | None
    warning: str | None
    delivery: Delivery


def run(study: Study, settings: Settings, observer: Observer | None = None) -> Outcome:
    """Run a study to its end, or to the end of its budget.

    Args:
        study: What to search.
        settings: How.
        observer: Called, in the driver's loop, when something has changed.

    Raises:
        HypertuneError: It cannot start; nothing has been written.
    """
    study, search = prepare(study, settings)
    usable_folder(study.name, settings)
    data = load_data(study)
    # Ray's start is mostly waiting: the simple models are fitted meanwhile.
    with ThreadPoolExecutor(1) as beside:
        fitted = beside.submit(study.trainable.baselines, data, test=False)
        with ray_session(settings):
            try:
                simple = fitted.result()
            except Exception as problem:  # the user's code
                raise SettingError(
                    f"The baselines cannot be fitted: {type(problem).__name__}: {problem}"
                ) from problem
            return _run(study, settings, search, data, simple, observer)


def load_data(study: Study) -> Any:
    """Return the data that a study is searched on.

    Raises:
        SettingError: They cannot be loaded.
    """
    try:
        return study.trainable.load(test=False)
    except Exception as problem:  # the user's code
        text = str(problem) if isinstance(problem, OSError | ValueError) else repr(problem)
        raise SettingError(f"The data cannot be used: {text}") from problem


def _run(
    study: Study,
    settings: Settings,
    search: Search,
    data: Any,
    simple: Mapping[str, Mapping[str, float]],
    observer: Observer | None,
) -> Outcome:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    n_concurrent = capacity(settings, nodes, search.n_trials)
    folder = _new_folder(study.name, settings)
    journal = Journal(folder / "journal.db")
    journal.set_study(name=folder.name, **_description(study, settings, search, n_concurrent))
    uploader = Uploader(folder / "journal.db", settings.store)
    uploader.start()
    started = time.time()
    progress = Progress(
        metric=study.metric,
        n_trials=search.n_trials or 0,
        planned_epochs=planned_epochs(search),
        started=started,
        deadline=started + settings.time_budget_s if settings.time_budget_s else None,
    )
    driver = Driver(
        study,
        settings,
        search,
        journal,
        folder,
        simple,
        n_concurrent=n_concurrent,
        progress=progress,
        observer=observer,
        warning=lambda: uploader.status.warning,
    )
    with _signals(driver):
        _search_and_close(driver, data)
        delivery = _deliver(driver, uploader)
    error = None if driver.error is None else f"{type(driver.error).__name__}: {driver.error}"
    warning = None if progress.warning == delivery.warning else progress.warning
    return Outcome(
        folder=folder,
        stopped_by=driver.stopped_by,
        error=error,
        warning=warning,
        delivery=delivery,
    )


def _search_and_close(driver: Driver, data: Any) -> None:
    """Search, and leave complete records behind however that ends."""
    try:
        driver.journal.add_event("search_start")
        search_on_ray(driver, data)
    except KeyboardInterrupt:
        driver.interrupted = True  # the second one: at once
    except Exception as problem:
        driver.error = driver.error or problem
    try:
        driver.close()
    except Exception as problem:  # the record itself fails (a full disk): what it holds is readable
        driver.error = driver.error or problem
    finally:
        with contextlib.suppress(Exception):
            driver.journal.close()


def _deliver(driver: Driver, uploader: Uploader) -> Delivery:
    driver.progress.stage = "mlflow"
    driver.show()
    try:
        return uploader.finish(driver.settings.sync_timeout_s)
    except KeyboardInterrupt:  # the journal has everything; only the replica lags behind
        return uploader.finish(0)


def prepare(study: Study, settings: Settings) -> tuple[Study, Search]:
    """Return the study as it is to be run, and the search through it.

    Raises:
        HypertuneError: The method cannot honour the space, a start config is outside of it, or
            the study to start from cannot be used.
    """
    study = study.with_max_epochs(settings.max_epochs or study.max_epochs)
    space, searcher = study.search_space, METHODS[settings.method].searcher
    check, rules = Checks(), Constraints(study)
    start: tuple[dict[str, Any], ...] = ()
    n_trials = study.n_trials
    with check:
        start = (dict(study.default), *_start_configs(study, settings.start))
        broken = [text for config in start for text in rules.broken(config)]
        if broken:
            raise StudyError("Configs to try first break constraints of the study", broken)
    with check:
        if settings.earlier is not None:
            start = (*start, *warm_start(study, settings.earlier).configs)
    with check:
        needed = searcher.n_trials(space)
        n_trials = settings.n_trials or needed or study.n_trials
        if needed is not None and n_trials < needed:
            raise SettingError(
                f"--method {settings.method} is about all {needed} configs of the space, but "
                f"--n-trials is {n_trials}."
            )
    with check:
        made = make_search(
            settings.method,
            space,
            mode=study.mode,
            max_epochs=study.max_epochs,
            n_trials=min(n_trials, space.n_configs or n_trials),
            seed=settings.seed,
            start=start,
            scheduler=settings.scheduler,
            feasible=rules.hold if study.constraints else None,
        )
    check.done()
    return study, made


def _start_configs(study: Study, path: Path | None) -> list[dict[str, Any]]:
    """Return the configs of a file, which holds a JSON list of them, or one alone."""
    if path is None:
        return []
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise SettingError(f"--start '{path}' cannot be read: {problem}.") from problem
    configs = given if isinstance(given, list) else [given]
    problems = [
        f"--start '{path}', config {i}: {problem}"
        for i, config in enumerate(configs)
        for problem in study.search_space.problems(config)
    ]
    if problems:
        raise SettingError("\n".join(problems))
    return configs


def planned_epochs(search: Search, *, saves: bool = True) -> int:
    """Return about how many epochs a search takes if no trial converges, by playing it through.

    How many trials are promoted depends on the order in which good and bad ones come: a mean.

    Args:
        search: It is left as it is.
        saves: Whether a promoted trial goes on from a checkpoint; else it trains again from the
            start, and these epochs count too.
    """
    n_trials = search.n_trials or 1
    n_played = min(n_trials, _MAX_PLAYED)  # of more, a part is played, and the rest is like it
    plays = max(1, min(20, _MAX_PLAYED // n_played))
    total = sum(_played(search, n_played, seed, saves) for seed in range(plays))
    return round(total / plays * (n_trials / n_played))


def _played(search: Search, n_trials: int, seed: int, saves: bool) -> int:
    play, rng = (
        search.like(Random(search.space, search.max_epochs, seed), n_trials),
        np.random.default_rng(seed),
    )
    losses: dict[int, float] = {}
    total = 0
    while (job := play.ask()) is not None:
        total += job.to_epoch - (job.from_epoch if saves else 0)
        play.tell(job.trial, job.to_epoch, losses.setdefault(job.trial, rng.random()))
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


def _description(
    study: Study, settings: Settings, search: Search, n_concurrent: int
) -> dict[str, Any]:
    about = environment()
    about["command"] = redact(about["command"])  # it may hold the store's password
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
        "constraints": study.constraint_texts,
        "log_parameters": sorted(
            {p.name for p in study.search_space.parameters if isinstance(p, Number) and p.log}
        ),
        "max_epochs": study.max_epochs,
        "n_trials": search.n_trials,
        "method": settings.method,
        "seed": settings.seed,
        "settings": {
            "scheduler": settings.scheduler,
            "from": None if settings.earlier is None else settings.earlier.name,
            "n_concurrent": n_concurrent,
            "cpus_per_trial": settings.cpus_per_trial,
            "gpus_per_trial": settings.gpus_per_trial,
            "time_budget_s": settings.time_budget_s,
            "trial_timeout_s": settings.trial_timeout_s,
            "data": study.trainable.data,
        },
        "environment": about,
        "git_commit": about["git_commit"],
    }


@contextlib.contextmanager
def _signals(driver: Driver) -> Iterator[None]:
    """End the search cleanly on the first Ctrl-C or SIGTERM, and at once on the second.

    While MLflow is brought up to date, the first one ends the waiting.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if driver.interrupted or driver.progress.stage == "mlflow":
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
