"""Hypertune: ask a question about a model as a search space, and get an answer that holds."""

from hypertune.study import Study
from hypertune.trainable import forecasting

__all__ = ["Study", "forecasting"]
