"""A series is split by time: what is known at an origin lies before it, targets after it."""

import numpy as np
import pytest

from hypertune.data import SERIES, SeriesSplit


def split(n_train: int = 12, n_val: int = 16, n: int = 20, max_window: int = 4) -> SeriesSplit:
    values = np.arange(n, dtype=np.float32)
    return SeriesSplit(
        values=values, n_train=n_train, n_val=n_val, horizon=2, max_window=max_window
    )


@pytest.mark.parametrize("name", SERIES)
def test_series_is_finite_and_longer_than_some_seasons(name: str) -> None:
    values = SERIES[name].load()

    assert values.dtype == np.float32
    assert values.ndim == 1
    assert len(values) > 10 * SERIES[name].season
    assert np.isfinite(values).all()
    assert SERIES[name].summary


def test_sunspots_are_in_the_order_of_time() -> None:
    values = SERIES["sunspots"].load()

    assert values[:3] == pytest.approx([58.0, 62.6, 70.0])  # January to March 1749
    assert len(values) == 12 * (1983 - 1749 + 1)


def test_electricity_repeats_itself_by_the_week() -> None:
    values, week = SERIES["electricity"].load(), 336

    assert (len(values), values[0], values[-1]) == (4032, 22262.0, 23132.0)
    assert np.corrcoef(values[:-week], values[week:])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("part", "first_target", "last_target"), [("train", 4, 11), ("val", 12, 15), ("test", 16, 19)]
)
@pytest.mark.parametrize("window", [1, 3, 4])
def test_targets_lie_within_their_part_and_inputs_right_before_them(
    part: str, first_target: int, last_target: int, window: int
) -> None:
    data = split()
    origins = data.origins(part)
    inputs, targets = data.inputs(origins, window), data.targets(origins)

    assert inputs.shape == (len(origins), window)
    assert targets.shape == (len(origins), 2)
    assert (targets.min(), targets.max()) == (first_target, last_target)
    # Every step of the part that has a horizon after it is an origin once.
    assert targets[:, 0].tolist() == list(range(first_target, last_target))
    # The series counts its own steps: inputs are the steps up to the one before the target.
    expected = targets[:, :1] + np.arange(-window, 0)
    assert np.array_equal(inputs, expected)
    assert inputs.min() >= 0


def test_window_may_be_longer_than_the_training_part() -> None:
    data = split(n_train=3, max_window=6)

    assert data.targets(data.origins("val"))[:, 0].tolist() == list(range(6, 15))


@pytest.mark.parametrize(
    ("data", "part", "steps"),
    [
        (split(n_train=5), "train", 1),
        (split(n_val=13), "val", 1),
        (split(n=16), "test", 0),
    ],
)
def test_part_that_holds_no_target_block_is_told(data: SeriesSplit, part: str, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"The {part} part \({steps} steps\) must hold a horizon"):
        data.origins(part)


def test_scale_is_that_of_the_training_part_alone() -> None:
    data = split()

    assert data.scale == pytest.approx((5.5, np.arange(12).std()))
    constant = np.full(20, 3.0, dtype=np.float32)
    assert SeriesSplit(values=constant, n_train=9, n_val=15, horizon=1, max_window=1).scale == (
        3,
        1,
    )
