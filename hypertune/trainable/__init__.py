"""The trial: config and data -> model -> epoch -> report."""

from hypertune.trainable.command import command
from hypertune.trainable.estimator import estimator
from hypertune.trainable.forecasting import forecasting

__all__ = ["command", "estimator", "forecasting"]
