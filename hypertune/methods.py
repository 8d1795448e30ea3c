"""METHODS: every way to search, one row each. The command line, `list` and the tests read it."""

from dataclasses import dataclass

from hypertune.search import Mode, Search
from hypertune.search.schedulers.base import Scheduler
from hypertune.search.schedulers.full import Full
from hypertune.search.schedulers.halving import Halving
from hypertune.search.searchers.base import Searcher
from hypertune.search.searchers.random import Random
from hypertune.search.searchers.tpe import Tpe
from hypertune.space import Config, Space


@dataclass(frozen=True, kw_only=True)
class Method:
    """A pair of a searcher and a scheduler."""

    searcher: type[Searcher]
    scheduler: type[Scheduler]
    summary: str


METHODS: dict[str, Method] = {
    "asha": Method(
        searcher=Random,
        scheduler=Halving,
        summary="random configs, halved by promotion: the best third trains three times as long",
    ),
    "random": Method(
        searcher=Random,
        scheduler=Full,
        summary="random configs, every trial in full",
    ),
    "tpe": Method(
        searcher=Tpe,
        scheduler=Full,
        summary="tree-structured Parzen estimator (Optuna), every trial in full",
    ),
}
DEFAULT_METHOD = "asha"


def make_search(
    method: str,
    space: Space,
    *,
    mode: Mode,
    max_epochs: int,
    n_trials: int,
    seed: int = 0,
    start: tuple[Config, ...] = (),
) -> Search:
    """Return the ask/tell object of a method."""
    row = METHODS[method]
    return Search(
        space,
        row.searcher(space, max_epochs),
        row.scheduler(max_epochs),
        mode=mode,
        max_epochs=max_epochs,
        n_trials=n_trials,
        seed=seed,
        start=start,
    )
