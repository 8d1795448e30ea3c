"""Tests for `hypertune.core.objective`."""

import math

import numpy as np
import pytest

from hypertune.core.objective import Objective


@pytest.mark.parametrize(("mode", "better", "worse"), [("min", 1.0, 2.0), ("max", 2.0, 1.0)])
def test_the_better_value_has_the_lower_loss(mode: str, better: float, worse: float) -> None:
    objective = Objective("score", mode)
    assert objective.better(better, worse)
    assert not objective.better(worse, better)
    assert not objective.better(better, better)
    assert objective.loss(better) < objective.loss(worse)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_losses_turn_back_into_their_values(mode: str) -> None:
    objective, values = Objective("score", mode), np.array([0.1, -3.0, math.inf, math.nan])
    np.testing.assert_array_equal(objective.value(objective.loss(values)), values)
    assert objective.value(objective.loss(0.1)) == 0.1


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_neither_better_nor_worse(mode: str) -> None:
    objective = Objective("score", mode)
    assert not objective.better(math.nan, 1.0)
    assert not objective.better(1.0, math.nan)


@pytest.mark.parametrize(
    ("mode", "text"), [("min", "loss (lower is better)"), ("max", "loss (higher is better)")]
)
def test_text_names_the_metric_and_its_direction(mode: str, text: str) -> None:
    assert Objective("loss", mode).text() == text


def test_objective_of_a_recorded_study() -> None:
    assert Objective.of_study({"metric": "f1", "mode": "max"}) == Objective("f1", "max")
    assert Objective.of_study({}).lower_is_better  # the journal holds no study yet
