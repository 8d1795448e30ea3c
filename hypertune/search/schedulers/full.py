"""No scheduling: every trial runs in full."""

from collections.abc import Sequence

from hypertune.search.history import Trial
from hypertune.search.schedulers.base import Scheduler


class Full(Scheduler):
    """Trains every trial to the last epoch in one job."""

    def promote(self, trials: Sequence[Trial], *, can_propose: bool) -> tuple[Trial, int] | None:
        # A trial waits here only where an earlier process left it unfinished.
        return next(((trial, self.max_epochs) for trial in trials if trial.waiting), None)
