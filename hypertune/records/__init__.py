"""What is remembered: the journal (the truth) and its MLflow replica."""

from hypertune.records.cursors import redact
from hypertune.records.journal import (
    FULL,
    EventRow,
    Journal,
    ResultRow,
    TrialRow,
    flat_names,
    job_results,
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
    "delivered",
    "flat_names",
    "job_results",
    "redact",
]
