"""Hypertune: ask a question about a model as a search space, and get an answer that holds."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypertune.analysis.frames import load_curves, load_trials
    from hypertune.api import run
    from hypertune.engine.trained import load_model
    from hypertune.methods import ask_tell
    from hypertune.study import Study
    from hypertune.trainable.command import command
    from hypertune.trainable.estimator import estimator
    from hypertune.trainable.forecasting import forecasting
    from hypertune.trainable.function import TrialStopped
    from hypertune.trainable.supervised import classification, regression
    from hypertune.trainable.transfer import transfer

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
    "Study": "hypertune.study",
    "TrialStopped": "hypertune.trainable.function",
    "ask_tell": "hypertune.methods",
    "classification": "hypertune.trainable.supervised",
    "command": "hypertune.trainable.command",
    "estimator": "hypertune.trainable.estimator",
    "forecasting": "hypertune.trainable.forecasting",
    "load_curves": "hypertune.analysis.frames",
    "load_model": "hypertune.engine.trained",
    "load_trials": "hypertune.analysis.frames",
    "regression": "hypertune.trainable.supervised",
    "run": "hypertune.api",
    "transfer": "hypertune.trainable.transfer",
}


def __getattr__(name: str) -> object:
    # On demand: `hypertune --help` and the uploader's process need neither Ray nor torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hypertune' has no attribute '{name}'")
