"""Answers: from the journal to what can be said.

`figures` draws, `compare` sets studies side by side; both are modules.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypertune.analysis.compare import Comparison
    from hypertune.analysis.deciding import undecided
    from hypertune.analysis.frames import StudyData, load, load_curves, load_trials, value_at
    from hypertune.analysis.report import read_headline, write_report
    from hypertune.analysis.summary import Score, Summary, summarize
    from hypertune.analysis.verdict import Verdict, judge

_HOMES = {
    "Comparison": "compare",
    "Score": "summary",
    "StudyData": "frames",
    "Summary": "summary",
    "Verdict": "verdict",
    "judge": "verdict",
    "load": "frames",
    "load_curves": "frames",
    "load_trials": "frames",
    "read_headline": "report",
    "summarize": "summary",
    "undecided": "deciding",
    "value_at": "frames",
    "write_report": "report",
}
__all__ = [
    "Comparison",
    "Score",
    "StudyData",
    "Summary",
    "Verdict",
    "judge",
    "load",
    "load_curves",
    "load_trials",
    "read_headline",
    "summarize",
    "undecided",
    "value_at",
    "write_report",
]


def __getattr__(name: str) -> object:
    # On demand: pandas, scikit-learn and plotly take seconds to import, and a search needs none.
    if name in _HOMES:
        return getattr(import_module(f"hypertune.analysis.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hypertune.analysis' has no attribute '{name}'")
