"""What is remembered: the journal (the truth) and its MLflow replica."""

from hypertune.records.champion import Champion, Run, champion, read_champion
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
    "Champion",
    "Delivery",
    "EventRow",
    "Journal",
    "ResultRow",
    "Run",
    "TrialRow",
    "Uploader",
    "champion",
    "delivered",
    "flat_names",
    "job_results",
    "read_champion",
    "redact",
]
