"""Decides: which config, which trial goes on, to which epoch. No Ray, no MLflow, no training."""

from hypertune.search.core import Job, Search
from hypertune.search.history import REASONS, Mode, Reason, Trial, incumbent

__all__ = ["REASONS", "Job", "Mode", "Reason", "Search", "Trial", "incumbent"]
