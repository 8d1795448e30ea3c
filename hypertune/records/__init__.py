"""What is remembered: the journal (the truth) and its MLflow replica."""

from hypertune.records.journal import Journal, ResultRow, TrialRow

__all__ = ["Journal", "ResultRow", "TrialRow"]
