"""The median stopping rule (Golovin et al. 2017, section 3.2.2)."""

import math
from collections.abc import Sequence
from statistics import median

from hypertune.core.space import Flat
from hypertune.search.history import Trial
from hypertune.search.schedulers.base import Comparison, Scheduler

_LOOKS = 9
_MIN_TRIALS = 3


class Median(Scheduler):
    """Lets a trial go on while its best value beats the median of the others' running averages.

    It looks at nine epochs at most, evenly spread, and from three trials on. A trial that does not
    go on waits, and goes on when others have made the median worse.
    """

    def __init__(self, max_epochs: int) -> None:
        super().__init__(max_epochs)
        step = math.ceil(max_epochs / _LOOKS)
        self.looks: list[int] = [*range(step, max_epochs, step), max_epochs]
        # Per look: each trial's mean loss up to there.
        self._means: dict[int, dict[int, float]] = {look: {} for look in self.looks}

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(self.looks)

    def first_epoch(self, trials: Sequence[Trial], flat: Flat) -> int:
        return self.looks[0]

    def observe(self, trial: Trial) -> None:
        for look in self.looks:
            if trial.epoch >= look and trial.number not in self._means[look]:
                losses = [loss for epoch, loss in trial.losses.items() if epoch <= look]
                self._means[look][trial.number] = sum(losses) / len(losses)

    def promote(self, trials: Sequence[Trial], *, can_propose: bool) -> tuple[Trial, int] | None:
        waiting = [trial for trial in trials if trial.waiting]
        for trial in sorted(waiting, key=lambda trial: (-trial.epoch, trial.number)):
            following = next(look for look in self.looks if look > trial.epoch)
            look = max((look for look in self.looks if look <= trial.epoch), default=0)
            if look == 0 or self._deserves(trial, look):
                return trial, following
        return None

    def comparisons(self, trial: Trial, trials: Sequence[Trial]) -> list[Comparison]:
        found = []
        for look in self.looks[:-1]:
            others = [mean for number, mean in self._means[look].items() if number != trial.number]
            loss = trial.best_at(look)
            if trial.epoch >= look and loss is not None and len(others) >= _MIN_TRIALS:
                cut_off = median(others)
                found.append(
                    Comparison(
                        epoch=look,
                        loss=loss,
                        rank=1 + sum(mean < loss for mean in others),
                        n=1 + len(others),
                        n_go_on=1 + sum(mean < cut_off for mean in others),
                        cut_off=cut_off,
                    )
                )
        return found

    def _deserves(self, trial: Trial, look: int) -> bool:
        others = [mean for number, mean in self._means[look].items() if number != trial.number]
        loss = trial.loss_at(look)
        if loss is None or loss == math.inf:
            return False
        return len(others) < _MIN_TRIALS or loss <= median(others)
