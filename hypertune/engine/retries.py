"""Whether a job whose worker was lost is tried again, and with what resources."""

from collections.abc import Callable, Mapping
from enum import Enum, auto

_NODE_GONE = "its node has died"  # in Ray's words
_NO_MEMORY = "running low on memory"
MAX_LOST = 2
"""A job whose worker died is tried again so many times, unless it gets further each time."""
_HOPELESS = 3  # trials that all lost their workers, and no result ever: it is not the trials


class Verdict(Enum):
    """What becomes of a trial whose worker was lost."""

    AGAIN = auto()
    """It is tried again."""
    OUT_OF_MEMORY = auto()
    """It failed: it had not enough memory, several times."""
    LOST = auto()
    """It is given up: its worker died too often."""


class Retries:
    """Counts how often trials lost their workers, and what they need.

    Args:
        resources: Returns what a trial occupies by the factor that its resources are grown by.
    """

    def __init__(self, resources: Callable[[float], Mapping[str, float]]) -> None:
        self._resources = resources
        self._factors: dict[int, float] = {}
        self._n_lost: dict[int, int] = {}
        self._reached: dict[int, int] = {}  # the last epoch of a trial when its worker died last

    def resource_factor(self, trial: int) -> float:
        """Return how much more than usual a trial occupies."""
        return self._factors.get(trial, 1.0)

    @property
    def grown(self) -> set[int]:
        """The trials that occupy more than usual."""
        return set(self._factors)

    def grow_resources(self, trial: int) -> bool:
        """Let a trial occupy twice as much from now on; say whether there is as much.

        Other trials had taken what it lacked: the memory of its GPU, or of its node.
        """
        before = self.resource_factor(trial)
        if self._resources(2 * before) == self._resources(before):
            return False
        self._factors[trial] = 2 * before
        return True

    def n_lost(self, trial: int) -> int:
        """Return how often a trial lost its worker without getting further."""
        return self._n_lost.get(trial, 0)

    @property
    def is_hopeless(self) -> bool:
        """So many trials lost their workers that the trials are not the reason."""
        return len(self._n_lost) >= _HOPELESS

    def decide(self, trial: int, text: str, reached: int) -> Verdict:
        """Take note of a lost worker, and say what becomes of its trial.

        Args:
            trial: Its id.
            text: Why the worker died, as Ray has it.
            reached: The trial's last epoch with a result.
        """
        if _NODE_GONE in text or (_NO_MEMORY in text and self.grow_resources(trial)):
            return Verdict.AGAIN  # where nodes leave, or memory is short, it may be often
        if reached > self._reached.get(trial, 0):
            self._n_lost[trial] = 0  # it is not the trial: nodes may come and go all the time
        self._reached[trial] = reached
        self._n_lost[trial] = self._n_lost.get(trial, 0) + 1
        if self._n_lost[trial] <= MAX_LOST:
            return Verdict.AGAIN
        return Verdict.OUT_OF_MEMORY if _NO_MEMORY in text else Verdict.LOST
