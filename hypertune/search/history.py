"""What a searcher and a scheduler know: trials, with their curves and how they ended."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from hypertune.core.origin import Origin
from hypertune.core.space import Flat

Reason = Literal["complete", "converged", "stopped", "failed", "lost", "interrupted"]
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(kw_only=True)
class Trial:
    """One searched config, as the search sees it. Losses are always to be minimised.

    Attributes:
        number: Its place among the searched trials, from 0.
        flat: Its flat config.
        to_epoch: The epoch that its newest job goes to.
        running: A job of it is under way.
        reason: How it ended; None while it may go on.
        losses: Loss by epoch, as reported; inf for what was not finite.
        best: Lowest loss up to each of these epochs.
        origin: Where it came from; None where that is not known, as after a restart.
        why: Why it was proposed, in words.
        expected: The loss that was expected of it; None if nothing was.
    """

    number: int
    flat: Flat
    to_epoch: int
    running: bool = False
    reason: Reason | None = None
    losses: dict[int, float] = field(default_factory=dict)
    best: dict[int, float] = field(default_factory=dict)
    origin: Origin | None = None
    why: str = ""
    expected: float | None = None

    @property
    def epoch(self) -> int:
        """The last epoch that was reported; 0 if none was."""
        return max(self.losses, default=0)

    @property
    def waiting(self) -> bool:
        """It is neither under way nor ended: it may be promoted."""
        return not self.running and self.reason is None

    @property
    def full(self) -> bool:
        """Its value is the one at the full number of epochs: complete, or converged before."""
        return self.reason in ("complete", "converged")

    def add(self, epoch: int, loss: float) -> bool:
        """Take a result; return False for an epoch that is known already (the first one counts)."""
        if epoch in self.losses:
            return False
        loss = loss if math.isfinite(loss) else math.inf
        before = self.best_at(epoch)
        self.best[epoch] = loss if before is None else min(loss, before)
        if epoch < self.epoch:  # reported out of order
            self.best |= {e: min(loss, best) for e, best in self.best.items() if e > epoch}
        self.losses[epoch] = loss
        return True

    def loss_at(self, epoch: int) -> float | None:
        """Return the lowest loss up to ``epoch``; None if it is not comparable there.

        A converged trial keeps its value; one that failed or was lost has the worst there is.
        """
        if self.reason in ("failed", "lost"):
            return math.inf
        if epoch <= self.epoch:
            return self.best_at(epoch)
        return self.best.get(self.epoch) if self.reason == "converged" else None

    def best_at(self, epoch: int) -> float | None:
        """Return the lowest loss up to an epoch, however it ended; None if none was reported."""
        if epoch in self.best:
            return self.best[epoch]
        return self.best.get(max((e for e in self.best if e <= epoch), default=0))


def common_epoch(trials: Iterable[Trial], n: int, max_epochs: int) -> int:
    """Return the largest epoch that ``n`` trials got to, of those that are not under way.

    There a model that knows no epochs compares them (Falkner et al. 2018, section 4.2). Where fewer
    have got anywhere it is the last one, ``max_epochs``.
    """
    reached = sorted(
        (
            max_epochs if trial.full else trial.epoch
            for trial in trials
            if trial.losses and not trial.running and trial.reason not in ("failed", "lost")
        ),
        reverse=True,
    )
    return reached[n - 1] if len(reached) >= n else max_epochs


def rank_at(trial: Trial, epoch: int) -> tuple[bool, int, float, int]:
    """Return what trials are ranked by: first those that got to an epoch, by their loss there.

    Of the others those come first that got furthest, and then the better ones.
    """
    loss = trial.loss_at(epoch)
    if loss is not None:
        return False, 0, loss, trial.number
    return True, -trial.epoch, trial.best.get(trial.epoch, math.inf), trial.number


def incumbent(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial to recommend: the lowest loss at the largest fidelity that any reached."""
    scored = [t for t in trials if t.reason not in ("failed", "lost") and t.losses]
    full = [t for t in scored if t.full]
    if not full:
        furthest = max((t.epoch for t in scored), default=0)
        full = [t for t in scored if t.epoch == furthest]
    finite = [t for t in full if math.isfinite(t.best[t.epoch])]
    return min(finite, key=lambda t: (t.best[t.epoch], t.number), default=None)
