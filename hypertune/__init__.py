"""Hypertune: ask a question about a model as a search space, and get an answer that holds."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypertune.analysis.frames import load_curves, load_trials
    from hypertune.api import load, resume, run
    from hypertune.core.errors import (
        DeadlineError,
        HypertuneError,
        JournalError,
        NothingBegunError,
        SettingError,
        StudyError,
    )
    from hypertune.core.task import Task
    from hypertune.engine.result import StudyResult
    from hypertune.engine.saved_model import load_model
    from hypertune.search.methods import ask_tell
    from hypertune.search.schedulers.base import Scheduler
    from hypertune.search.searchers.base import Searcher
    from hypertune.search.suggestion import Suggestion
    from hypertune.studies.study import Study
    from hypertune.tasks.command import command
    from hypertune.tasks.estimator import estimator
    from hypertune.tasks.function import TrialStopped
    from hypertune.tasks.torch.forecasting import forecasting
    from hypertune.tasks.torch.supervised import classification, regression
    from hypertune.tasks.torch.transfer import transfer

__all__ = [
    "DeadlineError",
    "HypertuneError",
    "JournalError",
    "NothingBegunError",
    "Scheduler",
    "Searcher",
    "SettingError",
    "Study",
    "StudyError",
    "StudyResult",
    "Suggestion",
    "Task",
    "TrialStopped",
    "ask_tell",
    "classification",
    "command",
    "estimator",
    "forecasting",
    "load",
    "load_curves",
    "load_model",
    "load_trials",
    "regression",
    "resume",
    "run",
    "transfer",
]

_HOMES = {
    "DeadlineError": "hypertune.core.errors",
    "HypertuneError": "hypertune.core.errors",
    "JournalError": "hypertune.core.errors",
    "NothingBegunError": "hypertune.core.errors",
    "Scheduler": "hypertune.search.schedulers.base",
    "Searcher": "hypertune.search.searchers.base",
    "SettingError": "hypertune.core.errors",
    "Study": "hypertune.studies.study",
    "StudyError": "hypertune.core.errors",
    "StudyResult": "hypertune.engine.result",
    "Suggestion": "hypertune.search.suggestion",
    "Task": "hypertune.core.task",
    "TrialStopped": "hypertune.tasks.function",
    "ask_tell": "hypertune.search.methods",
    "classification": "hypertune.tasks.torch.supervised",
    "command": "hypertune.tasks.command",
    "estimator": "hypertune.tasks.estimator",
    "forecasting": "hypertune.tasks.torch.forecasting",
    "load": "hypertune.api",
    "load_curves": "hypertune.analysis.frames",
    "load_model": "hypertune.engine.saved_model",
    "load_trials": "hypertune.analysis.frames",
    "regression": "hypertune.tasks.torch.supervised",
    "resume": "hypertune.api",
    "run": "hypertune.api",
    "transfer": "hypertune.tasks.torch.transfer",
}


def __getattr__(name: str) -> object:
    # On demand: `hypertune --help` and the uploader's process need neither Ray nor torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hypertune' has no attribute '{name}'")
