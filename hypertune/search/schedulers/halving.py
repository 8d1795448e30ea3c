"""Asynchronous successive halving by promotion.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", algorithm 2.
"""

import math
from bisect import insort
from collections.abc import Sequence
from itertools import pairwise

from hypertune.core.space import Flat
from hypertune.search.history import Trial
from hypertune.search.schedulers.base import Comparison, Scheduler, compared

_FINALISTS = 3


def rung_epochs(max_epochs: int, min_epochs: int = 1, eta: int = 3) -> list[int]:
    """Return the epochs of the rungs: ``eta`` times as far each, the last one in full."""
    rungs = [min_epochs]
    while rungs[-1] * eta < max_epochs:
        rungs.append(rungs[-1] * eta)
    return [rung for rung in rungs if rung < max_epochs] + [max_epochs]


class Halving(Scheduler):
    """Promotes the best 1/eta of each rung; nobody is stopped for good before the search ends.

    When no new trial will come and no rung promotes any more, the best of the highest rungs are
    trained on until three have been trained in full.

    Args:
        max_epochs: Epochs of a trial in full; the last rung.
        min_epochs: The first rung.
    """

    eta = 3
    """One in ``eta`` trials of a rung goes on to the next, which is ``eta`` times as far."""

    def __init__(self, max_epochs: int, min_epochs: int = 1) -> None:
        super().__init__(max_epochs)
        self._rungs = rung_epochs(max_epochs, min_epochs, self.eta)
        # Per rung: (loss there, trial number, trial), best first. A trial enters each rung once.
        self._ranking: dict[int, list[tuple[float, int, Trial]]] = {r: [] for r in self._rungs}
        self._entered: dict[int, set[int]] = {rung: set() for rung in self._rungs}

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(self._rungs)

    def first_epoch(self, trials: Sequence[Trial], flat: Flat) -> int:
        return self._rungs[0]

    def observe(self, trial: Trial) -> None:
        failed = trial.reason in ("failed", "lost")
        for rung in self._rungs:
            if failed and rung > trial.to_epoch:
                break  # it ranks last at the rung that it was on its way to, and no further
            loss = trial.loss_at(rung)
            if loss is not None and trial.number not in self._entered[rung]:
                self._entered[rung].add(trial.number)
                insort(self._ranking[rung], (loss, trial.number, trial))

    def promote(self, trials: Sequence[Trial], *, can_propose: bool) -> tuple[Trial, int] | None:
        for rung, following in self._steps:
            ranking = self._ranking[rung]
            for loss, _, trial in ranking[: len(ranking) // self.eta]:
                if self._may_go_on(trial, rung, loss):
                    return trial, following
        return None if can_propose else self._finalist(trials)

    def comparisons(self, trial: Trial, trials: Sequence[Trial]) -> list[Comparison]:
        found = []
        for rung in self._rungs[:-1]:
            if trial.number in self._entered[rung]:
                ranked = [(loss, number) for loss, number, _ in self._ranking[rung]]
                found.append(compared(rung, ranked, trial.number, len(ranked) // self.eta))
        return found

    def _finalist(self, trials: Sequence[Trial]) -> tuple[Trial, int] | None:
        """Return one more trial to be trained in full, when no rung promotes any more.

        Small searches need it: of 24 trials none would get through four rungs, and without trials
        in full there is nothing to recommend.
        """
        if any(trial.running and trial.to_epoch < self.max_epochs for trial in trials):
            return None  # it may be promoted yet
        if sum(t.full or (t.running and t.epoch < self.max_epochs) for t in trials) >= _FINALISTS:
            return None
        for rung, _ in self._steps:
            for loss, _, trial in self._ranking[rung]:
                if self._may_go_on(trial, rung, loss):
                    return trial, self.max_epochs
        return None

    @property
    def _steps(self) -> list[tuple[int, int]]:
        """Each rung and the one that follows it, the highest first."""
        return list(pairwise(self._rungs))[::-1]

    @staticmethod
    def _may_go_on(trial: Trial, rung: int, loss: float) -> bool:
        return trial.waiting and trial.to_epoch <= rung and math.isfinite(loss)


class Quartering(Halving):
    """Halving to the best quarter, which suits configs that are chosen with care."""

    eta = 4
