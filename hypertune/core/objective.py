"""The objective of a study: a metric, and whether less or more of it is better.

The one place that knows a sign. All else compares losses, of which less is better.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Mode = Literal["min", "max"]
Numbers = TypeVar("Numbers", float, NDArray[np.float64])


@dataclass(frozen=True)
class Objective:
    """What a study minimises or maximises.

    Example:
        >>> objective = Objective("val_accuracy", "max")
        >>> objective.loss(0.9), objective.value(-0.9), objective.better(0.9, 0.8)
        (-0.9, 0.9, True)
        >>> objective.text()
        'val_accuracy (higher is better)'

    Args:
        metric: Name of the metric.
        mode: ``min`` or ``max``: whether its values are to be minimised or maximised.
    """

    metric: str
    mode: str

    @classmethod
    def of_study(cls, study: Mapping[str, Any]) -> "Objective":
        """Return the objective of a recorded study, from its ``metric`` and ``mode``."""
        return cls(study.get("metric", ""), study.get("mode", "min"))

    @property
    def lower_is_better(self) -> bool:
        """Values are to be minimised."""
        return self.mode != "max"

    @property
    def direction(self) -> Literal["lower", "higher"]:
        """Which values are the better ones."""
        return "lower" if self.lower_is_better else "higher"

    def loss(self, value: Numbers) -> Numbers:
        """Return the loss that a value, or each of an array of them, stands for."""
        return self._sign * value

    def value(self, loss: Numbers) -> Numbers:
        """Return the value that a loss, or each of an array of them, stands for."""
        return self._sign * loss

    def better(self, a: float, b: float) -> bool:
        """Return whether value ``a`` is better than value ``b``.

        NaN is neither better nor worse than anything.
        """
        return self.loss(a) < self.loss(b)

    def text(self) -> str:
        """Return the metric and its direction, for people."""
        return f"{self.metric} ({self.direction} is better)"

    @property
    def _sign(self) -> float:
        return 1.0 if self.lower_is_better else -1.0
