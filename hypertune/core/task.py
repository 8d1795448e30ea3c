"""What a study trains: the contract of a task, and of its loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hypertune.core.space import Config, Space

RESERVED = ("max_epochs", "seed", "device")
"""Keys of a trial's config that the service sets itself."""


class TrialEnded(Exception):  # noqa: N818, no error
    """Raised by `Loop.step` where training has ended by itself: there is no further epoch."""


class Loop(Protocol):
    """A model in training, on a worker. One `step` is one epoch."""

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""

    @property
    def converged(self) -> bool:
        """More epochs would not help."""

    def step(self) -> Mapping[str, float]:
        """Train one epoch and return its metrics.

        Raises:
            TrialEnded: Training has ended by itself.
        """

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into an existing empty folder."""

    def load(self, folder: Path) -> None:
        """Go back to the state that `save` wrote, to the last digit."""

    def test(self, data: Any) -> Mapping[str, float]:
        """Return the metrics of the best epoch's model on the test part."""


@runtime_checkable
class Task(Protocol):
    """What `Study.trainable` holds: data and how to train on them. It travels to the workers.

    Example:
        >>> import hypertune
        >>> task = hypertune.command("python train.py --rate {rate}")
        >>> isinstance(task, hypertune.Task), task.data
        (True, "loaded by python train.py --rate '{rate}'")
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that every epoch reports; none if the first one will tell."""

    @property
    def test_metrics(self) -> Mapping[str, str]:
        """For each metric that has one, its name on the test part."""

    @property
    def data(self) -> str:
        """Name of the data set, for people."""

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a study on this task; empty if nothing is."""

    def load(self, *, test: bool) -> Any:
        """Return the data, with the test part only where asked for. Called on the driver."""

    def start(self, config: Config, data: Any, *, metric: str, mode: str) -> Loop:
        """Return a model at epoch 0. Called on a worker."""

    def baselines(self, data: Any, *, test: bool) -> Mapping[str, Mapping[str, float]]:
        """Return metrics of simple models by name, on the validation or on the test part."""
