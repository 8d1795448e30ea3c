"""From settings to what is run: the study, its data and the search through it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hypertune.engine.warm_start import warm_start
from hypertune.errors import Checks, SettingError, StudyError
from hypertune.methods import METHODS, make_search
from hypertune.records import has_tensorboard
from hypertune.search import Search
from hypertune.search.searchers.random import Random
from hypertune.settings import Settings
from hypertune.space import Categorical, Config
from hypertune.study import Study
from hypertune.trainable.constraints import Constraints
from hypertune.trainable.exchange import with_data
from hypertune.trainable.forecasting import Forecasting
from hypertune.trainable.supervised import Supervised

_MAX_PLAYED = 2000


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


def prepare(
    study: Study, settings: Settings, start: Sequence[Config] | None = None
) -> tuple[Study, Search]:
    """Return the study as it is to be run, and the search through it.

    Args:
        study: As it was loaded.
        settings: How it is to be run.
        start: Configs to try first; None for the study's default and what the settings say.

    Raises:
        HypertuneError: The method cannot honour the space, a start config is outside of it, or
            the study to start from cannot be used.
    """
    study = study.with_max_epochs(settings.max_epochs or study.max_epochs)
    space, searcher = study.search_space, METHODS[settings.method].searcher
    check = Checks()
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
    first = list(start or ())
    if start is None:
        with check:
            first = [dict(study.default), *_start_configs(study, settings.start)]
            broken = [text for config in first for text in rules.broken(config)]
            if broken:
                raise StudyError("Configs to try first break constraints of the study", broken)
        with check:
            if settings.earlier is not None:
                first += warm_start(study, settings.earlier).configs
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
            start=first,
            scheduler=settings.scheduler,
            feasible=rules.hold if study.constraints else None,
            fair=fair_factor(study, settings),
        )
    check.done()
    return study, made


def fair_factor(study: Study, settings: Settings) -> Categorical | None:
    """Return the factor whose levels get equal budgets; None if none does."""
    return study.fair_factor if (settings.goal or study.goal) == "answer" else None


def _start_configs(study: Study, path: Path | None) -> list[dict[str, Any]]:
    """Return the configs of a file, which holds a JSON list of them, or one alone."""
    if path is None:
        return []
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
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
