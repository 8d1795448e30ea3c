"""How a study is going, for whoever shows it."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Progress:
    """How a search is going, for whoever shows it. Values are those of the study's metric.

    ``n_again`` counts the runs on fresh seeds that have begun, of those that are due in this
    session; None while that is not known. ``started`` and ``deadline`` are of the monotonic clock:
    that of the day may be set meanwhile.
    """

    metric: str
    n_trials: int
    planned_epochs: int
    started: float
    deadline: float | None = None
    n_started: int = 0
    n_running: int = 0
    n_waiting: int = 0
    n_ended: dict[str, int] = field(default_factory=dict)
    n_again: int = 0
    n_again_due: int | None = None
    n_epochs: int = 0
    best: float | None = None
    best_trial: int | None = None
    stage: str = "start"
    note: str = ""
    warning: str | None = None

    def warn(self, text: str) -> None:
        """Say what is wrong, where nothing fails by it."""
        self.warning = text


Observer = Callable[[Progress], None]
