"""Executes: jobs go out to Ray Tune, epochs come back, the journal is written.

A *job* (one stretch of epochs of one of our trials) is a Ray trial, on an actor that is reused. So
a promotion, a resumed study and a lost worker are one and the same: another job of the same trial.
`session.py` is the way in (`resume.py` for a study that goes on), `driver.py` keeps the books,
`ray/tune.py` runs Ray Tune. Its own schedulers and searchers can take the place of ours:
`ray/schedulers.py`, `ray/searchers.py`.
"""

from hypertune.engine.copies import copy
from hypertune.engine.explain import Explanation, explain
from hypertune.engine.folder import (
    check_study,
    delete,
    has_study,
    is_under_way,
    study_folder,
    study_folders,
    usable_folder,
)
from hypertune.engine.prepare import load_data, planned_epochs, planned_repeats, prepare
from hypertune.engine.progress import Observer, Progress
from hypertune.engine.ray.nodes import capacity, cpus_here
from hypertune.engine.rerun import Rerun, rerun
from hypertune.engine.result import StudyResult, is_finished, note_report, read_result
from hypertune.engine.resume import refuse_other, untrusted_files
from hypertune.engine.session import resume, run
from hypertune.engine.trust import trust_study

__all__ = [
    "Explanation",
    "Observer",
    "Progress",
    "Rerun",
    "StudyResult",
    "capacity",
    "check_study",
    "copy",
    "cpus_here",
    "delete",
    "explain",
    "has_study",
    "is_finished",
    "is_under_way",
    "load_data",
    "note_report",
    "planned_epochs",
    "planned_repeats",
    "prepare",
    "read_result",
    "refuse_other",
    "rerun",
    "resume",
    "run",
    "study_folder",
    "study_folders",
    "trust_study",
    "untrusted_files",
    "usable_folder",
]
