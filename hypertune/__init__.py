"""Hypertune: ask a question about a model as a search space, and get an answer that holds."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypertune.analysis.frames import load_curves, load_trials
    from hypertune.api import run
    from hypertune.engine.saved_model import load_model
    from hypertune.search.methods import ask_tell
    from hypertune.studies.study import Study
    from hypertune.tasks.command import command
    from hypertune.tasks.estimator import estimator
    from hypertune.tasks.function import TrialStopped
    from hypertune.tasks.torch.forecasting import forecasting
    from hypertune.tasks.torch.supervised import classification, regression
    from hypertune.tasks.torch.transfer import transfer

__all__ = [
    "Study",
    "TrialStopped",
    "ask_tell",
    "classification",
    "command",
    "estimator",
    "forecasting",
    "load_curves",
    "load_model",
    "load_trials",
    "regression",
    "run",
    "transfer",
]

_HOMES = {
    "Study": "hypertune.studies.study",
    "TrialStopped": "hypertune.tasks.function",
    "ask_tell": "hypertune.search.methods",
    "classification": "hypertune.tasks.torch.supervised",
    "command": "hypertune.tasks.command",
    "estimator": "hypertune.tasks.estimator",
    "forecasting": "hypertune.tasks.torch.forecasting",
    "load_curves": "hypertune.analysis.frames",
    "load_model": "hypertune.engine.saved_model",
    "load_trials": "hypertune.analysis.frames",
    "regression": "hypertune.tasks.torch.supervised",
    "run": "hypertune.api",
    "transfer": "hypertune.tasks.torch.transfer",
}


def __getattr__(name: str) -> object:
    # On demand: `hypertune --help` and the uploader's process need neither Ray nor torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hypertune' has no attribute '{name}'")
