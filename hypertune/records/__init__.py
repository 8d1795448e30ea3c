"""What is remembered: the journal (the truth) and its MLflow replica."""

from hypertune.records.cursors import redact
from hypertune.records.journal import (
    FULL,
    EventRow,
    Journal,
    ResultRow,
    TrialRow,
    best_result,
    flat_names,
    job_results,
    recommended,
    told_file,
)
from hypertune.records.uploader import Delivery, Uploader, delivered

__all__ = [
    "FULL",
    "Delivery",
    "EventRow",
    "Journal",
    "ResultRow",
    "TrialRow",
    "Uploader",
    "best_result",
    "delivered",
    "flat_names",
    "job_results",
    "recommended",
    "redact",
    "told_file",
]
