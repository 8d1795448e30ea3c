"""Answers: from the journal to what can be said."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypertune.analysis.frames import StudyData, load, load_curves, load_trials, value_at
    from hypertune.analysis.summary import Score, Summary, summarize

_HOMES = {
    "Score": "summary",
    "StudyData": "frames",
    "Summary": "summary",
    "load": "frames",
    "load_curves": "frames",
    "load_trials": "frames",
    "summarize": "summary",
    "value_at": "frames",
}
__all__ = [
    "Score",
    "StudyData",
    "Summary",
    "load",
    "load_curves",
    "load_trials",
    "summarize",
    "value_at",
]


def __getattr__(name: str) -> object:
    # On demand: pandas, scikit-learn and plotly take seconds to import, and a search needs none.
    if name in _HOMES:
        return getattr(import_module(f"hypertune.analysis.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hypertune.analysis' has no attribute '{name}'")
