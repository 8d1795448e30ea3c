"""From settings to what is run: the study, its data and the search through it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as RaySearcher

from hypertune.core.errors import (
    Checks,
    HypertuneError,
    SettingError,
    StudyError,
    describe,
    user_code,
)
from hypertune.core.plugs import as_plug, is_plug
from hypertune.core.space import Categorical, Config, Space
from hypertune.engine.ray.schedulers import changes_configs, checked, ray_scheduler
from hypertune.engine.ray.searchers import RaySearch
from hypertune.engine.warm_start import WarmStart, warm_start
from hypertune.search import Search
from hypertune.search.candidates import most_candidates
from hypertune.search.methods import find_method, find_scheduler, make_search
from hypertune.search.schedulers.base import Scheduler
from hypertune.search.schedulers.full import Full
from hypertune.search.searchers.base import Searcher
from hypertune.search.searchers.random import Random
from hypertune.settings import Settings
from hypertune.studies.constraints import Constraints
from hypertune.studies.other_data import with_data
from hypertune.studies.study import Study
from hypertune.tasks.torch.forecasting import Forecasting
from hypertune.tasks.torch.supervised import Supervised
from hypertune.tracking.tensorboard import has_tensorboard

_MAX_PLAYED = 2000


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is run.

    Attributes:
        study: The study as it is to be run.
        search: The search through it.
        method: What it is searched by: a row of METHODS, or what was given from Python.
        ray_scheduler: Ray's own scheduler that its trials run under, if there is one.
        warm: What was taken from an earlier study.
    """

    study: Study
    search: Search
    method: str
    ray_scheduler: TrialScheduler | None = None
    warm: WarmStart | None = None


def load_data(study: Study) -> Any:
    """Return the data that a study is searched on.

    Raises:
        SettingError: They cannot be loaded.
    """
    try:
        with user_code():
            return study.trainable.load(test=False)
    except Exception as problem:
        text = describe(problem)
        if isinstance(problem, OSError | ValueError):  # their texts say it all
            text = text.partition(": ")[2] or text
        raise SettingError(f"The data cannot be used: {text}") from problem


def prepare(
    study: Study,
    settings: Settings,
    start: Sequence[Config] | None = None,
    *,
    searcher: RaySearcher | type[Searcher] | None = None,
    scheduler: TrialScheduler | type[Scheduler] | None = None,
) -> Prepared:
    """Return the study as it is to be run, and the search through it.

    Args:
        study: As it was loaded.
        settings: How it is to be run.
        start: Configs to try first; None for the study's default and what the settings say.
        searcher: One of Ray's in place of the method's own, or a class of ours.
        scheduler: The same.

    Raises:
        HypertuneError: The method cannot honour the space, a start config is outside of it, or
            the study to start from cannot be used.
    """
    study = study.with_max_epochs(settings.max_epochs or study.max_epochs)
    space, row = study.search_space, find_method(settings.method)
    check = Checks()
    # What is of neither kind is refused by what takes Ray's.
    rays = None if is_plug(searcher, Searcher) else searcher
    theirs = None if is_plug(scheduler, Scheduler) else scheduler
    ours: type[Searcher] | None = None
    promoter: type[Scheduler] | None = None
    with check:
        if rays is None:
            ours = row.searcher if searcher is None else _searcher_class(searcher)
    with check:
        if scheduler is not None and theirs is None:
            promoter = as_plug(scheduler, Scheduler, "scheduler")  # type: ignore[type-abstract]
        elif settings.scheduler is not None:
            promoter = find_scheduler(settings.scheduler)
    check.done()
    with check:
        study = with_data(study, settings.other_data)
    with check:
        if settings.diagnose and not isinstance(study.trainable, Forecasting | Supervised):
            raise SettingError(
                "--diagnose looks inside of the networks of forecasting(...), classification(...) "
                "and regression(...), but the training of this study is its own."
            )
    with check:
        if settings.tensorboard is not None and not has_tensorboard():
            raise SettingError(
                "--tensorboard needs the package tensorboard, which is not installed; run: "
                "pip install 'hypertune[tensorboard]'"
            )
    rules = Constraints(study)
    n_trials = study.n_trials
    with check:
        needed = ours.n_trials(space) if ours is not None else None
        n_trials = settings.n_trials or needed or study.n_trials
        if needed is not None and n_trials < needed:
            raise SettingError(
                f"--method {settings.method} is about all {needed} configs of the space, but "
                f"--n-trials is {n_trials}."
            )
    first, warm = list(start or ()), None
    if start is None:
        with check:
            first = _distinct(study, [dict(study.default), *_start_configs(study, settings.start)])
            if settings.start is not None and len(first) > n_trials:
                raise SettingError(
                    f"--start '{settings.start}': {len(first)} configs are to be tried first, the "
                    f"study's default among them, but there are {n_trials} trials: give more "
                    "with --n-trials."
                )
            broken = [text for config in first for text in rules.broken(config)]
            if broken:
                raise StudyError("Configs to try first break constraints of the study", broken)
        with check:
            if settings.earlier is not None:
                warm = warm_start(
                    study,
                    settings.earlier,
                    tried=first,
                    n=n_trials - len(first),
                    holds=rules.hold,
                )
                first += warm.configs
    own, followed = None, None
    with check:
        own = None if rays is None else RaySearch(study, rays, settings.seed)
    with check:
        followed = _ray_scheduler(study, settings, rays, theirs)
    with check:
        if ours is not None and (problems := ours.problems(space)):
            raise SettingError("\n".join(problems))
    check.done()
    with check:
        made = make_search(
            settings.method,
            space,
            mode=study.mode,
            max_epochs=study.max_epochs,
            n_trials=min(n_trials, space.n_configs or n_trials),
            seed=settings.seed,
            start=first,
            scheduler=promoter,
            feasible=rules.hold if study.constraints else None,
            # Another one's searcher knows no levels: it searches as it likes.
            fair=fair_factor(study, settings) if own is None else None,
            searcher=own or _made(ours, space, study.max_epochs, settings.seed),
        )
    check.done()
    given = [_class_name(one) for one in (searcher, scheduler) if one is not None]
    if scheduler is not None and searcher is None:
        given.insert(0, settings.method)
    elif searcher is not None and settings.scheduler is not None:
        given.append(settings.scheduler)
    return Prepared(
        study=study,
        search=made,
        method=" + ".join(given) or settings.method,
        ray_scheduler=followed,
        warm=warm,
    )


def _searcher_class(given: Any) -> type[Searcher]:
    return as_plug(given, Searcher, "searcher", function=True)  # type: ignore[type-abstract]


def _class_name(given: Any) -> str:
    return str(getattr(given, "__name__", type(given).__name__))


def _made(kind: type[Searcher] | None, space: Space, max_epochs: int, seed: int) -> Searcher:
    """Return a searcher of a class, which may be a user's own."""
    assert kind is not None
    try:
        with user_code():
            return kind(space, max_epochs, seed)
    except HypertuneError:
        raise
    except Exception as problem:
        text = describe(problem)
        raise SettingError(f"The searcher {kind.__name__} cannot be made: {text}") from problem


def _ray_scheduler(
    study: Study,
    settings: Settings,
    searcher: RaySearcher | None,
    scheduler: TrialScheduler | None,
) -> TrialScheduler | None:
    """Return Ray's own scheduler that a search runs under, if there is one."""
    row = find_method(settings.method)
    if scheduler is None:
        if row.ray is not None and searcher is not None:
            raise SettingError(f"--method {settings.method} goes without another searcher.")
        return None if row.ray is None else ray_scheduler(row.ray, study)
    if row.ray is not None or settings.scheduler is not None:
        named = settings.scheduler or settings.method
        raise SettingError(f"'{named}' and {type(scheduler).__name__} are both schedulers.")
    if searcher is None and row.scheduler is not Full:
        raise SettingError(
            f"Method '{settings.method}' has a scheduler of its own: with "
            f"{type(scheduler).__name__} choose one that trains in full, such as random or tpe."
        )
    followed = checked(scheduler, study)
    if changes_configs(followed) and (searcher is not None or settings.method != "random"):
        raise SettingError(
            f"{type(scheduler).__name__} changes configs on the way, of which a searcher would "
            "learn what is not so: it goes with method random alone."
        )
    return followed


def fair_factor(study: Study, settings: Settings) -> Categorical | None:
    """Return the factor whose levels get equal budgets; None if none does."""
    return study.fair_factor if settings.replicated_factors(study) else None


def _distinct(study: Study, configs: Iterable[Config]) -> list[Config]:
    """Return each of some nested configs once, in their order."""
    whole = map(study.from_record, configs)
    return list({study.search_space.identity(config): config for config in whole}.values())


def _start_configs(study: Study, path: Path | None) -> list[dict[str, Any]]:
    """Return the configs of a file, which holds a JSON list of them, or one alone."""
    if path is None:
        return []
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as problem:
        raise SettingError(f"--start '{path}' cannot be read: {problem}.") from problem
    configs = given if isinstance(given, list) else [given]
    problems = [] if configs else [f"--start '{path}' holds no config."]
    for i, config in enumerate(configs):
        if isinstance(config, dict):
            found = study.search_space.problems(config)
        else:
            found = [f"must be an object of names and values, but got {config!r}"]
        problems += [f"--start '{path}', config {i}: {problem}" for problem in found]
    if problems:
        raise SettingError("\n".join(problems))
    return configs


def planned_repeats(study: Study, settings: Settings) -> int:
    """Return how many epochs the runs on fresh seeds take at most."""
    # Besides them the default, once for the search and on each fresh seed.
    n_configs = most_candidates(study.search_space, settings.replicated_factors(study)) + 1
    return ((settings.resolved_for(study).n_repeats or 0) * n_configs + 1) * study.max_epochs


def planned_epochs(search: Search, *, saves: bool = True) -> int:
    """Return about how many epochs a search takes if no trial converges, by playing it through.

    How many trials are promoted depends on the order in which good and bad ones come: a mean.

    Args:
        search: It is left as it is.
        saves: Whether a promoted trial goes on from a checkpoint; else it trains again from the
            start, and these epochs count too.

    Raises:
        SettingError: A scheduler of a user's own fails on the way.
    """
    n_trials = search.n_trials or 1
    n_played = min(n_trials, _MAX_PLAYED)  # of more, a part is played, and the rest is like it
    plays = max(1, min(20, _MAX_PLAYED // n_played))
    try:
        with user_code():
            total = sum(_played(search, n_played, seed, saves) for seed in range(plays))
    except Exception as problem:
        raise SettingError(
            f"The scheduler fails when the search is played through: {describe(problem)}"
        ) from problem
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
