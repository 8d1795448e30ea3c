"""What a searcher answers."""

from dataclasses import dataclass
from typing import Final

from hypertune.core.origin import Origin
from hypertune.core.space import Flat


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A config that a searcher proposes.

    Example:
        >>> import hypertune
        >>> from hypertune.core.origin import Origin
        >>> from hypertune.core.space import Space
        >>> from ray import tune
        >>> flat = Space({"x": tune.uniform(0, 1)}).flatten({"x": 0.5})
        >>> found = hypertune.Suggestion(flat=flat, origin=Origin.RANDOM, why="drawn by chance")
        >>> found.expected is None
        True

    Attributes:
        flat: The flat config.
        origin: Where it came from.
        why: The same in words, for people.
        expected: The loss that it is expected to reach; None if nothing is expected.
    """

    flat: Flat
    origin: Origin
    why: str
    expected: float | None = None


class Wait:
    """A searcher's answer that it has no config until another trial has reported."""


WAIT: Final = Wait()
