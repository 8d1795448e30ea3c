"""What is remembered: the journal (the truth) and its MLflow replica."""

from hypertune.records.champion import (
    MIN_REPEATS,
    Champion,
    Run,
    champion,
    dependable,
    read_champion,
    recommended,
)
from hypertune.records.cursors import delivered_ids
from hypertune.records.journal import (
    FULL,
    EventRow,
    Journal,
    ResultRow,
    TrialRow,
    best_result,
    flat_names,
    has_begun,
    job_results,
    told_file,
)
from hypertune.records.snapshot import (
    catch_up,
    copy_journal,
    has_copy,
    set_aside,
    study_place,
    superseded_text,
)
from hypertune.records.tensorboard import (
    HISTOGRAMS,
    has_tensorboard,
    tensorboard_folder,
    write_tensorboard,
)
from hypertune.records.uploader import Delivery, Uploader, delivered

__all__ = [
    "FULL",
    "HISTOGRAMS",
    "MIN_REPEATS",
    "Champion",
    "Delivery",
    "EventRow",
    "Journal",
    "ResultRow",
    "Run",
    "TrialRow",
    "Uploader",
    "best_result",
    "catch_up",
    "champion",
    "copy_journal",
    "delivered",
    "delivered_ids",
    "dependable",
    "flat_names",
    "has_begun",
    "has_copy",
    "has_tensorboard",
    "job_results",
    "read_champion",
    "recommended",
    "set_aside",
    "study_place",
    "superseded_text",
    "tensorboard_folder",
    "told_file",
    "write_tensorboard",
]
