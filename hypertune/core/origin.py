"""Where a config came from, as records hold it."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Origin(StrEnum):
    """Where the config of a searched trial came from.

    Whether configs were drawn by chance decides which statistics apply to them.
    """

    DEFAULT = "default"
    """The study's default."""
    GIVEN = "given"
    """Somebody asked for it: a config to start from."""
    RANDOM = "random"
    """Drawn at random."""
    QUASI_RANDOM = "quasi-random"
    """A point of a sequence that fills the space evenly."""
    GRID = "grid"
    """The next of a grid."""
    RESAMPLED = "resampled"
    """Drawn at random from what was not tried yet, as the searcher repeated itself."""
    MODEL = "model"
    """Proposed by a model of the results so far."""
    EXTERNAL = "external"
    """Proposed by a searcher of another library, which does not say how."""

    @property
    def by_chance(self) -> bool:
        """Drawn by chance: it says something of the space, not of what was chosen in it."""
        return self in _BY_CHANCE

    @property
    def chosen(self) -> bool:
        """Chosen in the light of earlier results."""
        return self in (Origin.MODEL, Origin.EXTERNAL)


_BY_CHANCE = (Origin.RANDOM, Origin.QUASI_RANDOM, Origin.GRID, Origin.RESAMPLED)
# Journals that were begun before have a sentence in the place of the origin.
_SENTENCES = {
    "not tried yet": Origin.RESAMPLED,
    "quasi-random|evenly": Origin.QUASI_RANDOM,
    "at random": Origin.RANDOM,
    "of the grid": Origin.GRID,
    "study's default": Origin.DEFAULT,
    "to start from": Origin.GIVEN,
    "Ray Tune's": Origin.EXTERNAL,
    "": Origin.MODEL,
}


def read_origin(data: Mapping[str, Any]) -> tuple[str, str]:
    """Return where a trial's config came from, and why it was proposed, of its first event.

    Args:
        data: The payload of the event ``trial`` that added it.

    Returns:
        A value of `Origin` and a sentence; both are empty for what was not searched.

    Example:
        >>> read_origin({"origin": "model", "why": "largest expected improvement"})
        ('model', 'largest expected improvement')
        >>> read_origin({"state": "waiting"})
        ('', '')
    """
    origin = str(data.get("origin") or "")
    if not origin or "why" in data:
        return origin, str(data.get("why") or "")
    kind = next(kind for pattern, kind in _SENTENCES.items() if re.search(pattern, origin))
    return kind, origin
