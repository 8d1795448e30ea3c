"""What is remembered: the journal (the truth) and its MLflow replica."""

from hypertune.records.champion import Champion, Run, champion, read_champion, recommended
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
    "best_result",
    "champion",
    "delivered",
    "flat_names",
    "job_results",
    "read_champion",
    "recommended",
    "redact",
]
