"""Decides: which config, which trial goes on, to which epoch. No Ray, no MLflow, no training."""

from hypertune.search.core import Job, Search
from hypertune.search.history import REASONS, Mode, Reason, Trial, incumbent
from hypertune.search.schedulers.base import Comparison

__all__ = ["REASONS", "Comparison", "Job", "Mode", "Reason", "Search", "Trial", "incumbent"]
