"""HyperBand (Li et al. 2018, algorithm 1), with brackets that fill one after another."""

import math
from collections.abc import Sequence

from hypertune.core.space import Flat
from hypertune.search.history import Trial
from hypertune.search.schedulers.base import Comparison, Scheduler, compared


class Hyperband(Scheduler):
    """Successive halving in brackets that differ in how early they begin to stop trials.

    The k-th trial belongs to a fixed place of a fixed bracket. A bracket is halved when all of its
    trials have got to its rung; while it waits for them, the next bracket is filled. One that the
    search does not fill is halved by the trials that it has.

    Args:
        max_epochs: Epochs of a trial in full (R of the paper).
        eta: One in ``eta`` goes on to ``eta`` times as many epochs.
    """

    def __init__(self, max_epochs: int, eta: int = 3) -> None:
        super().__init__(max_epochs)
        self.eta = eta
        s_max = int(math.log(max_epochs, eta) + 1e-9)
        self._shapes = [
            (
                math.ceil((s_max + 1) / (s + 1) * eta**s),  # n of the paper's line 2
                [max(1, round(max_epochs * float(eta) ** (i - s))) for i in range(s + 1)],
            )
            for s in range(s_max, -1, -1)
        ]
        self._cycle = sum(size for size, _ in self._shapes)
        self._first_open = 0  # brackets before it have nothing left to promote

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(sorted({rung for _, rungs in self._shapes for rung in rungs}))

    def first_epoch(self, trials: Sequence[Trial], flat: Flat) -> int:
        return self._bracket_of(len(trials))[2][0]

    def _bracket_of(self, at: int) -> tuple[int, int, list[int]]:
        """Return where a bracket begins that holds trial ``at``, its size and its rungs."""
        first, place = at - at % self._cycle, at % self._cycle
        for size, rungs in self._shapes:
            if place < size:
                return first, size, rungs
            first, place = first + size, place - size
        raise AssertionError

    def promote(self, trials: Sequence[Trial], *, can_propose: bool) -> tuple[Trial, int] | None:
        at = self._first_open
        while at < len(trials):
            first, size, rungs = self._bracket_of(at)
            members = trials[first : first + size]
            if len(members) == size or not can_propose:
                found, over = self._promote_in(members, rungs)
                if found is not None:
                    return found
                if over and first == self._first_open and len(members) == size:
                    self._first_open = first + size
            at = first + size
        return None

    def comparisons(self, trial: Trial, trials: Sequence[Trial]) -> list[Comparison]:
        place = next(k for k, other in enumerate(trials) if other.number == trial.number)
        first, size, rungs = self._bracket_of(place)
        left, comparisons = list(trials[first : first + size]), []
        by_number = {t.number: t for t in left}
        for rung in rungs[:-1]:
            ranked = sorted((loss, t.number) for t in left if (loss := t.loss_at(rung)) is not None)
            if trial.number not in [number for _, number in ranked]:
                break
            n_go_on = max(1, len(left) // self.eta)
            comparisons.append(compared(rung, ranked, trial.number, min(n_go_on, len(ranked))))
            left = [by_number[number] for _, number in ranked[:n_go_on]]
        return comparisons

    def _promote_in(
        self, members: Sequence[Trial], rungs: Sequence[int]
    ) -> tuple[tuple[Trial, int] | None, bool]:
        """Return a trial of a bracket that is to go on, and whether the bracket is over."""
        left = list(members)
        for rung in rungs:
            losses = {trial.number: trial.loss_at(rung) for trial in left}
            for trial in left:
                if losses[trial.number] is None and trial.waiting:
                    return (trial, rung), False
            # One that ended before is compared no more.
            left = [t for t in left if losses[t.number] is not None or t.reason is None]
            if any(losses[trial.number] is None for trial in left):
                return None, False  # some are on their way
            ranked = sorted(left, key=lambda trial: (losses[trial.number] or 0.0, trial.number))
            fit = [t for t in ranked if (losses[t.number] or 0.0) < math.inf]
            left = fit[: max(1, len(left) // self.eta)]
        return None, True
