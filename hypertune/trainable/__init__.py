"""The trial: config and data -> model -> epoch -> report."""

from hypertune.trainable.command import command
from hypertune.trainable.estimator import estimator
from hypertune.trainable.forecasting import forecasting
from hypertune.trainable.supervised import classification, regression

__all__ = ["classification", "command", "estimator", "forecasting", "regression"]
