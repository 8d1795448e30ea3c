"""Which configs run again on fresh seeds when a search is over."""

import math
from collections.abc import Collection, Iterable
from typing import TypeAlias

from hypertune.core.space import Space
from hypertune.search.history import Trial

N_TOP = 2
"""How many of the best run again where only the best counts."""
MAX_PARTS = 8
"""Of a choice of more levels than that only the best ones are compared."""

Promise: TypeAlias = tuple[bool, int, float, int]


def promise(*, full: bool, epoch: int, loss: float, number: int) -> Promise:
    """Return the key by which a search ranks configs: those in full first, then who got further."""
    return not full, 0 if full else -epoch, loss, number  # converged is as far as complete


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that gave a finite value, the most promising one first."""
    known = [t for t in trials if t.losses and t.reason not in ("failed", "lost")]
    return sorted(
        (t for t in known if math.isfinite(t.best[t.epoch])),
        key=lambda t: promise(full=t.full, epoch=t.epoch, loss=t.best[t.epoch], number=t.number),
    )


def best_of(factor: str, part: str) -> str:
    """Return what the best config of a level or range is called."""
    return f"best of {factor}={part}"


def most_candidates(space: Space, factors: Collection[str]) -> int:
    """Return how many configs `candidates` yields at most."""
    if not factors:
        return N_TOP
    parts = [
        min(len(parameter.parts), MAX_PARTS)
        for parameter in space.parameters
        if parameter.name in factors and parameter.condition is None
    ]
    return 1 + sum(n - 1 for n in parts)  # the best one is that of a level of each factor


def candidates(trials: Iterable[Trial], space: Space, factors: Collection[str]) -> dict[str, Trial]:
    """Return the trials whose configs run again, by what they are.

    Where an answer is asked for they are the best of each level or range of each factor; where none
    of a level got to the end, the best of those that got furthest. What such a config is worth the
    fresh seeds tell, however it was chosen. Otherwise they are the best ones in full.

    Args:
        trials: Of the search.
        space: What is searched.
        factors: Names of the parameters that the question is about; none if only the best counts.
    """
    best_first = ranked(trials)
    top = [trial for trial in best_first if trial.full][: 1 if factors else N_TOP]
    chosen = {"best" if k == 0 else f"number {k + 1}": trial for k, trial in enumerate(top)}
    for parameter in space.parameters:
        if parameter.name not in factors or parameter.condition is not None:
            continue
        leaders: dict[str, Trial] = {}
        for trial in best_first:
            leaders.setdefault(parameter.part(trial.flat[parameter.key]), trial)
        for part, trial in list(leaders.items())[:MAX_PARTS]:
            chosen[best_of(parameter.name, part)] = trial
    return chosen
