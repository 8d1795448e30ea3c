"""Arm-fair scheduling: trials are compared within the level of a factor that they have."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from hypertune.core.space import Categorical, Flat, Value, level_text
from hypertune.search.history import Trial
from hypertune.search.schedulers.base import Comparison, Scheduler


class PerLevel(Scheduler):
    """Gives each level of a factor a scheduler of its own, and all of them equal budgets.

    A level that learns slowly is the worse one at every early rung, whatever it comes to in the
    end. Where levels are to be compared it must not be stopped for that.

    Args:
        parameter: The factor; every config has it.
        scheduler: What is to decide within a level: one that has seen no trial.
    """

    def __init__(self, parameter: Categorical, scheduler: Scheduler) -> None:
        super().__init__(scheduler.max_epochs)
        self.parameter = parameter
        self._each = [copy.deepcopy(scheduler) for _ in parameter.choices]
        self._known: dict[int, tuple[Trial, int]] = {}  # by number: a trial and its level

    @property
    def rungs(self) -> tuple[int, ...]:
        return self._each[0].rungs

    def due(self, trials: Sequence[Trial]) -> list[Value]:
        """Return the levels in the order in which they are due a new trial."""
        n = [len(own) for own in self._split(trials)]
        order = sorted(range(len(n)), key=lambda k: (n[k], k))
        return [self.parameter.choices[k] for k in order]

    def first_epoch(self, trials: Sequence[Trial], flat: Flat) -> int:
        k = self._level(flat)
        return self._each[k].first_epoch(self._split(trials)[k], flat)

    def observe(self, trial: Trial) -> None:
        self._each[self._level(trial.flat)].observe(trial)

    def promote(self, trials: Sequence[Trial], *, can_propose: bool) -> tuple[Trial, int] | None:
        levels = self._split(trials)
        # The level that was granted least goes first, so that they are level at any time.
        granted = [sum(trial.to_epoch for trial in own) for own in levels]
        for k in sorted(range(len(levels)), key=lambda k: (granted[k], k)):
            if (found := self._each[k].promote(levels[k], can_propose=can_propose)) is not None:
                return found
        return None

    def comparisons(self, trial: Trial, trials: Sequence[Trial]) -> list[Comparison]:
        k = self._level(trial.flat)
        among = f"{self.parameter.name} {level_text(self.parameter.choices[k])}"
        return [
            replace(found, among=among)
            for found in self._each[k].comparisons(trial, self._split(trials)[k])
        ]

    def _level(self, flat: Flat) -> int:
        return self.parameter.index(flat[self.parameter.key])

    def _split(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """Return the trials of each level, by number."""
        levels: list[list[Trial]] = [[] for _ in self.parameter.choices]
        for trial in trials:
            known = self._known.get(trial.number)
            if known is None or known[0] is not trial:  # one that was withdrawn leaves its number
                known = self._known[trial.number] = trial, self._level(trial.flat)
            levels[known[1]].append(trial)
        return levels
