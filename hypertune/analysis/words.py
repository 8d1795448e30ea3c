"""Values as people read them."""

from typing import Any

import numpy as np

from hypertune.core.space import level_text


def show(value: Any) -> str:
    """Return a number with three digits, and any other value as the frames spell it."""
    if isinstance(value, float | np.floating):
        return f"{float(value):.3g}"
    return level_text(value)
