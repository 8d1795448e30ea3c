"""A scheduler of one's own: ``hypertune run --space ... --scheduler my_scheduler.py:HalfWay``."""

from collections.abc import Sequence

import hypertune
from hypertune.core.space import Flat
from hypertune.search.history import Trial


class HalfWay(hypertune.Scheduler):
    """All trials to half of the epochs; then the best third of them in full."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Half of the epochs, and all of them."""
        half = self.max_epochs // 2
        return (half, self.max_epochs) if half else (self.max_epochs,)

    def first_epoch(self, trials: Sequence[Trial], flat: Flat) -> int:
        """Return half of the epochs."""
        return self.rungs[0]

    def promote(self, trials: Sequence[Trial], *, can_propose: bool) -> tuple[Trial, int] | None:
        """Return the best waiting trial if it is among the best third."""
        half = self.rungs[0]
        losses = {t.number: loss for t in trials if (loss := t.loss_at(half)) is not None}
        ranked = sorted((t for t in trials if t.number in losses), key=lambda t: losses[t.number])
        for trial in ranked[: len(ranked) // 3]:
            if trial.waiting and trial.epoch == half:
                return trial, self.max_epochs
        return None
