"""The contract of a scheduler."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hypertune.search.history import Trial


class Scheduler(ABC):
    """Decides how far a new trial goes at first, and which waiting trial goes on.

    Args:
        max_epochs: Epochs of a trial in full.
    """

    def __init__(self, max_epochs: int) -> None:
        self.max_epochs = max_epochs

    def first_epoch(self, number: int) -> int:
        """Return the epoch that the trial of this number goes to before it waits."""
        return self.max_epochs

    def observe(self, trial: Trial) -> None:
        """Take note of a trial that has reported or ended; live and in replay alike."""
        return

    @abstractmethod
    def promote(self, trials: Sequence[Trial], *, more: bool) -> tuple[Trial, int] | None:
        """Return a waiting trial and the epoch that it goes to; None if none deserves it.

        Args:
            trials: All trials by number.
            more: New trials will come.
        """
