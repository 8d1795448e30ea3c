"""Metrics are those of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from hypertune.tasks.torch.metrics import class_metrics, number_metrics


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_class_metrics_are_those_of_scikit_learn(n_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, max(2, n_classes - 2), size=40)  # not every class occurs
    outputs = rng.normal(size=(40, n_classes)).round(1)  # with ties
    shares = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)

    found = class_metrics("val", torch.tensor(outputs), torch.tensor(y))

    told, labels = outputs.argmax(axis=1), list(range(n_classes))
    assert found["val_loss"] == pytest.approx(sk.log_loss(y, shares, labels=labels))
    assert found["val_accuracy"] == pytest.approx(sk.accuracy_score(y, told))
    assert found["val_macro_f1"] == pytest.approx(sk.f1_score(y, told, average="macro"))
    if n_classes == 2:
        score = outputs[:, 1] - outputs[:, 0]
        assert found["val_auroc"] == pytest.approx(sk.roc_auc_score(y, score))
    assert ("val_auroc" in found) == (n_classes == 2)


def test_area_under_the_curve_of_one_class_is_not_a_number() -> None:
    found = class_metrics("test", torch.randn(5, 2), torch.zeros(5, dtype=torch.long))

    assert np.isnan(found["test_auroc"])


def test_number_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y, told = rng.normal(size=30), rng.normal(size=30)

    found = number_metrics("test", told, y, float(y.mean()))

    assert found["test_mae"] == pytest.approx(sk.mean_absolute_error(y, told))
    assert found["test_rmse"] == pytest.approx(sk.root_mean_squared_error(y, told))
    assert 1 - found["test_rmse_ratio"] ** 2 == pytest.approx(sk.r2_score(y, told))
