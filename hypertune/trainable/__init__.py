"""The trial: config and data -> model -> epoch -> report."""

from hypertune.trainable.forecasting import forecasting
from hypertune.trainable.supervised import classification, regression

__all__ = ["classification", "forecasting", "regression"]
