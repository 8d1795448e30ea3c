"""Decides: which config, which trial goes on, to which epoch. No Ray, no MLflow, no training."""

from hypertune.core.objective import Mode
from hypertune.search.core import Assignment, Search
from hypertune.search.history import REASONS, Reason, Trial, incumbent
from hypertune.search.schedulers.base import Comparison

__all__ = ["REASONS", "Assignment", "Comparison", "Mode", "Reason", "Search", "Trial", "incumbent"]
