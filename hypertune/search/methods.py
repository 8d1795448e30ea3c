"""METHODS: every way to search, one row each. The command line, `list` and the tests read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args

from hypertune.core.errors import Checks, SettingError, choices
from hypertune.core.objective import Mode
from hypertune.core.plugs import load_plug, plug_names, plug_problems
from hypertune.core.space import Categorical, Config, Space
from hypertune.search import Search
from hypertune.search.core import is_integer
from hypertune.search.schedulers.base import Scheduler
from hypertune.search.schedulers.full import Full
from hypertune.search.schedulers.halving import Halving, Quartering
from hypertune.search.schedulers.hyperband import Hyperband
from hypertune.search.schedulers.median import Median
from hypertune.search.searchers.base import Searcher

_OWN = "a searcher of another package's or of your own, every trial in full"
METHODS_GROUP, SCHEDULERS_GROUP = "hypertune.methods", "hypertune.schedulers"
"""Groups of entry points: other packages offer searchers and schedulers by them."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A pair of a searcher and a scheduler.

    Attributes:
        home: Module and class of the searcher. The libraries behind them take seconds to import:
            only the one that is used is. One that is not here: its ``file.py:Class``, or the name
            of an entry point.
        scheduler: The scheduler.
        summary: What it does, for `list`.
        ray: The class of Ray Tune's own scheduler that stops, pauses and changes trials; None where
            ``scheduler`` decides alone. Only the engine can follow it.
        own: The searcher is no part of hypertune.
    """

    home: str
    scheduler: type[Scheduler]
    summary: str
    ray: str | None = None
    own: bool = False

    @property
    def searcher(self) -> type[Searcher]:
        """The searcher's class."""
        if self.own:
            return load_plug(
                self.home,
                Searcher,  # type: ignore[type-abstract]
                flag="--method",
                group=METHODS_GROUP,
                function=True,
            )
        module, name = self.home.split(":")
        found: type[Searcher] = getattr(import_module(f"hypertune.search.searchers.{module}"), name)
        return found


SCHEDULERS: dict[str, type[Scheduler]] = {
    "none": Full,
    "asha": Halving,
    "hyperband": Hyperband,
    "median": Median,
}
METHODS: dict[str, Method] = {
    "auto": Method(
        home="auto:Auto",
        scheduler=Quartering,
        summary="Gaussian process over configs and epochs; the best quarter trains on",
    ),
    "asha": Method(
        home="random:Random",
        scheduler=Halving,
        summary="random configs, halved by promotion: the best third trains three times as long",
    ),
    "random": Method(
        home="random:Random", scheduler=Full, summary="random configs, every trial in full"
    ),
    "grid": Method(
        home="grid:Grid", scheduler=Full, summary="every config of a finite space, in full"
    ),
    "sobol": Method(
        home="sobol:Sobol", scheduler=Full, summary="evenly spread quasi-random configs, in full"
    ),
    "tpe": Method(
        home="optuna:Tpe",
        scheduler=Full,
        summary="tree-structured Parzen estimator (Optuna), every trial in full",
    ),
    "hyperopt": Method(
        home="hyperopt:Hyperopt",
        scheduler=Full,
        summary="tree-structured Parzen estimator (hyperopt), every trial in full",
    ),
    "bayes": Method(
        home="optuna:Bayes",
        scheduler=Full,
        summary="Gaussian process, expected improvement (Optuna), every trial in full",
    ),
    "hyperband": Method(
        home="random:Random", scheduler=Hyperband, summary="random configs in HyperBand's brackets"
    ),
    "bohb": Method(
        home="bohb:Bohb", scheduler=Hyperband, summary="kernel densities in HyperBand's brackets"
    ),
    "median": Method(
        home="random:Random", scheduler=Median, summary="random configs, stopped by the median rule"
    ),
    "ray-asha": Method(
        home="random:Random",
        scheduler=Full,
        ray="ASHAScheduler",
        summary="random configs under Ray Tune's ASHA: the worst three quarters are stopped",
    ),
    "ray-hyperband": Method(
        home="random:Random",
        scheduler=Full,
        ray="HyperBandScheduler",
        summary="random configs under Ray Tune's HyperBand, which pauses and stops them",
    ),
    "ray-pbt": Method(
        home="random:Random",
        scheduler=Full,
        ray="PopulationBasedTraining",
        summary="Ray Tune's population-based training: the worst take over and vary the best",
    ),
}


def find_method(name: str) -> Method:
    """Return a row of METHODS, or one for a searcher of a user's own, which trains in full.

    Args:
        name: Of a row, of an entry point in `METHODS_GROUP`, or ``file.py:Class``.
    """
    return METHODS.get(name) or Method(home=name, scheduler=Full, summary=_OWN, own=True)


def find_scheduler(name: str) -> type[Scheduler]:
    """Return a scheduler of SCHEDULERS, or one of a user's own.

    Args:
        name: Of a row, of an entry point in `SCHEDULERS_GROUP`, or ``file.py:Class``.

    Raises:
        SettingError: It cannot be imported.
    """
    if name in SCHEDULERS:
        return SCHEDULERS[name]
    return load_plug(
        name,
        Scheduler,  # type: ignore[type-abstract]
        flag="--scheduler",
        group=SCHEDULERS_GROUP,
    )


def all_methods() -> dict[str, Method]:
    """Return METHODS and the methods of other packages that are installed, by name."""
    return {name: find_method(name) for name in [*METHODS, *plug_names(METHODS_GROUP)]}


def unknown(method: str, scheduler: str | None) -> list[str]:
    """Return what is wrong with the names of a method and of a scheduler; empty if nothing is.

    No code of the user's is run for that.
    """
    problems = plug_problems(method, kind="method", group=METHODS_GROUP, known=list(METHODS))
    if not problems and scheduler is not None and find_method(method).ray is not None:
        problems.append(f"--method {method} is about a scheduler: it goes without --scheduler.")
    if scheduler is not None:
        problems += plug_problems(
            scheduler, kind="scheduler", group=SCHEDULERS_GROUP, known=list(SCHEDULERS)
        )
    return problems


def method_rungs(method: str, scheduler: str | None, max_epochs: int) -> tuple[int, ...] | None:
    """Return the epochs at which a method stops trials; None where it does not name them.

    Args:
        method: A row of METHODS, or what was given from Python.
        scheduler: A row of SCHEDULERS in place of the method's own.
        max_epochs: Epochs of a trial in full.
    """
    if method not in METHODS or METHODS[method].ray is not None:
        return None
    chosen = METHODS[method].scheduler if scheduler is None else SCHEDULERS.get(scheduler)
    return None if chosen is None else chosen(max_epochs).rungs


def make_search(
    method: str,
    space: Space,
    *,
    mode: Mode,
    max_epochs: int,
    n_trials: int | None,
    seed: int = 0,
    start: Sequence[Config] = (),
    scheduler: str | type[Scheduler] | None = None,
    feasible: Callable[[Config], bool] | None = None,
    fair: Categorical | None = None,
    searcher: Searcher | None = None,
) -> Search:
    """Return the ask/tell object of a method.

    Args:
        method: A row of METHODS, or what else `find_method` takes.
        space: What to search.
        mode: Whether values are to be minimised or maximised.
        max_epochs: Epochs of a trial in full.
        n_trials: Distinct configs to try; None for as many as are asked for.
        seed: Of all chance.
        start: Nested configs to try first.
        scheduler: A row of SCHEDULERS, or what else `find_scheduler` takes, or a class, in place of
            the method's own.
        feasible: Says of a nested config whether it may be tried at all; None if every one may.
        fair: A parameter whose levels get equal budgets, and within which trials are compared; None
            to compare all with all.
        searcher: A searcher in place of the method's own.

    Raises:
        SettingError: There is no such method, or it cannot honour the space.
    """
    named = scheduler if isinstance(scheduler, str) else None
    if problems := unknown(method, named):
        raise SettingError("\n".join(problems))
    row = find_method(method)
    if searcher is None and (problems := row.searcher.problems(space)):
        raise SettingError("\n".join(problems))
    if scheduler is None:
        chosen = row.scheduler
    else:
        chosen = find_scheduler(scheduler) if isinstance(scheduler, str) else scheduler
    return Search(
        space,
        row.searcher(space, max_epochs, seed) if searcher is None else searcher,
        chosen(max_epochs),
        mode=mode,
        max_epochs=max_epochs,
        n_trials=n_trials,
        seed=seed,
        start=start,
        feasible=feasible,
        fair=fair,
    )


def ask_tell(
    method: str,
    space: Mapping[str, Any],
    *,
    mode: Mode = "min",
    max_epochs: int = 1,
    seed: int = 0,
    n_trials: int | None = None,
) -> Search:
    """Return a search to drive by hand, for loops and benchmarks of one's own.

    Example:
        >>> from ray import tune
        >>> search = ask_tell("asha", {"x": tune.uniform(0, 1)}, max_epochs=9, n_trials=20)
        >>> while (job := search.ask()) is not None:  # several may be out at a time
        ...     for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
        ...         search.tell(job.trial, epoch, (job.config["x"] - 0.5) ** 2 + 1 / epoch)
        >>> len(search.trials)
        20

    Args:
        method: A row of METHODS, but for those that need Ray Tune; or ``file.py:Class``.
        space: Nested dict of Ray Tune domains.
        mode: Whether values are to be minimised or maximised.
        max_epochs: Epochs of a trial in full; 1 where there are no epochs.
        seed: Of all chance.
        n_trials: Distinct configs to try; None for as many as are asked for.

    Raises:
        StudyError: The space is not valid.
        SettingError: There is no such method, it cannot honour the space, or another value breaks a
            rule.
    """
    check = Checks()
    with check:
        if method in METHODS and METHODS[method].ray is not None:
            raise SettingError(f"Method '{method}' needs Ray Tune: run a study with it.")
    with check:
        if mode not in get_args(Mode):
            raise SettingError(f"Unknown mode '{mode}'.{choices(mode, get_args(Mode))}")
    for name, value, least in (
        ("max_epochs", max_epochs, 1),
        ("n_trials", 1 if n_trials is None else n_trials, 1),
        ("seed", seed, 0),
    ):
        with check:
            if not is_integer(value) or value < least:
                raise SettingError(
                    f"{name} must be an integer of at least {least}, but got {value!r}."
                )
    check.done()
    return make_search(
        method, Space(space), mode=mode, max_epochs=max_epochs, n_trials=n_trials, seed=seed
    )
