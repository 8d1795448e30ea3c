"""Executes: jobs go out to Ray Tune, epochs come back, the journal is written.

A *job* (one stretch of epochs of one of our trials) is a Ray trial, on an actor that is reused. So
a promotion, a resumed study and a lost worker are one and the same: another job of the same trial.
`run.py` is the way in, `driver.py` keeps the books, `ray_tune.py` is all that knows Ray Tune.
"""

from hypertune.engine.driver import Observer, Progress
from hypertune.engine.ray_tune import capacity
from hypertune.engine.run import Outcome, load_data, planned_epochs, prepare, run, usable_folder
from hypertune.engine.warm_start import warm_start

__all__ = [
    "Observer",
    "Outcome",
    "Progress",
    "capacity",
    "load_data",
    "planned_epochs",
    "prepare",
    "run",
    "usable_folder",
    "warm_start",
]
