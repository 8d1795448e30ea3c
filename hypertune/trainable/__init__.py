"""The trial: config and data -> model -> epoch -> report."""

from hypertune.trainable.forecasting import forecasting

__all__ = ["forecasting"]
