"""The contract of a scheduler."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from hypertune.core.space import Flat
from hypertune.search.history import Trial


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison that decides whether a trial goes on.

    Attributes:
        epoch: Where it was compared.
        loss: What was compared.
        rank: Its place among those compared, from 1.
        n: How many were compared.
        n_go_on: How many of them go on.
        cut_off: The worst loss with which one does; None if none does.
        among: The part of the trials that it was compared in, in words; empty for all of them.
    """

    epoch: int
    loss: float
    rank: int
    n: int
    n_go_on: int
    cut_off: float | None
    among: str = ""


class Scheduler(ABC):
    """Decides how far a new trial goes at first, and which waiting trial goes on.

    Example:
        >>> class Once(Scheduler):
        ...     @property
        ...     def rungs(self):
        ...         return (1, self.max_epochs)
        ...     def first_epoch(self, trials, flat):
        ...         return 1 if trials else self.max_epochs
        ...     def promote(self, trials, *, more):
        ...         return None
        >>> scheduler = Once(max_epochs=9)
        >>> scheduler.first_epoch([], {}), scheduler.rungs
        (9, (1, 9))

    Args:
        max_epochs: Epochs of a trial in full.
    """

    def __init__(self, max_epochs: int) -> None:
        self.max_epochs = max_epochs

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs after which a trial may have to wait, ascending; the last one is in full."""
        return (self.max_epochs,)

    def first_epoch(self, trials: Sequence[Trial], flat: Flat) -> int:
        """Return the epoch that a new trial goes to before it waits.

        Args:
            trials: Those before it.
            flat: Its flat config.
        """
        return self.max_epochs

    def observe(self, trial: Trial) -> None:
        """Take note of a trial that has reported or ended; live and in replay alike."""
        return

    def comparisons(self, trial: Trial, trials: Sequence[Trial]) -> list[Comparison]:
        """Return the comparisons that a trial has got to, as things stand now."""
        return []

    @abstractmethod
    def promote(self, trials: Sequence[Trial], *, can_propose: bool) -> tuple[Trial, int] | None:
        """Return a waiting trial and the epoch that it goes to; None if none deserves it.

        Args:
            trials: All trials that are compared, in the order of their numbers.
            can_propose: New trials will come.
        """


def compared(
    epoch: int, ranked: Sequence[tuple[float, int]], number: int, n_go_on: int
) -> Comparison:
    """Return how a trial compares among (loss, number) of all that are compared, best first."""
    place = next(i for i, (_, other) in enumerate(ranked) if other == number)
    return Comparison(
        epoch=epoch,
        loss=ranked[place][0],
        rank=place + 1,
        n=len(ranked),
        n_go_on=n_go_on,
        cut_off=ranked[n_go_on - 1][0] if n_go_on else None,
    )
