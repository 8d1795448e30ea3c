"""What outputs are worth. Written on tensors: scikit-learn's take longer than a short epoch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def class_metrics(part: str, log_odds: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Return how well classes are predicted.

    Args:
        part: ``val`` or ``test``; begins the names.
        log_odds: Log probabilities up to a constant, shape (n, class).
        y: Class numbers, shape (n,).

    Returns:
        Cross-entropy, accuracy and macro-F1 (over the classes that occur); of two classes also the
        area under the ROC curve, NaN where only one occurs.
    """
    n_classes = log_odds.shape[1]
    predicted = log_odds.argmax(dim=1)
    confusion = torch.bincount(y * n_classes + predicted, minlength=n_classes**2)
    confusion = confusion.view(n_classes, n_classes).float()  # (true, predicted)
    right, n_each = confusion.diagonal(), confusion.sum(dim=0) + confusion.sum(dim=1)
    f1 = 2 * right[n_each > 0] / n_each[n_each > 0]
    metrics = {
        f"{part}_loss": float(nn.functional.cross_entropy(log_odds, y)),
        f"{part}_accuracy": float(right.sum() / len(y)),
        f"{part}_macro_f1": float(f1.mean()),
    }
    if n_classes == 2:
        metrics[f"{part}_auroc"] = _auroc(log_odds[:, 1] - log_odds[:, 0], y)
    return metrics


def _auroc(score: torch.Tensor, y: torch.Tensor) -> float:
    """Return the chance that a positive sample scores above a negative one; ties count half."""
    _, place, n_tied = torch.unique(score, return_inverse=True, return_counts=True)
    rank = (n_tied.cumsum(0).double() - (n_tied - 1) / 2)[place]  # from 1, ties share their mean
    n_pos = int(y.sum())
    n_neg = len(y) - n_pos
    if not (n_pos and n_neg):
        return float("nan")
    return float((rank[y == 1].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def number_metrics(
    part: str, predicted: NDArray[Any], y: NDArray[Any], naive: float
) -> dict[str, float]:
    """Return how well numbers are predicted.

    Args:
        part: ``val`` or ``test``; begins the names.
        predicted: Predictions, shape (n,).
        y: Targets, shape (n,).
        naive: What one would say without inputs: the mean of the training targets.

    Returns:
        Mean absolute error, root of the mean squared error, and the latter as a ratio to that of
        the naive prediction.
    """
    error, rmse_naive = predicted - y, float(np.sqrt(((naive - y) ** 2).mean()))
    rmse = float(np.sqrt((error**2).mean()))
    return {
        f"{part}_mae": float(np.abs(error).mean()),
        f"{part}_rmse": rmse,
        f"{part}_rmse_ratio": rmse / rmse_naive,
    }
