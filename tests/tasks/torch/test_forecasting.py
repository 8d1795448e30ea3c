"""Forecasting: fair targets, no look ahead, honest baselines, and training that can be resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from torch import nn

from hypertune import forecasting
from hypertune.core.space import Config, Space
from hypertune.data import SERIES, Series
from hypertune.data.series import Floats
from hypertune.tasks.torch.forecasting import Forecasting
from hypertune.tasks.torch.loop import Inputs, TensorLoop

CONFIG: Config = {
    "window": 6,
    "hidden_size": 4,
    "batch_size": 32,
    "learning_rate": 0.01,
    "max_epochs": 6,
    "seed": 0,
    "device": "cpu",
}
DROPOUT: Config = {"n_layers": 2, "dropout": 0.3, "schedule": "cosine", "weight_decay": 0.01}


pytestmark = pytest.mark.usefixtures("one_thread")


Made = Callable[[Any], Forecasting]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Return a task on a series of ones own, with a season of 4."""
    path = tmp_path / "made.txt"
    series = Series(
        summary="made",
        season=4,
        find=lambda: path,
        read=lambda path: np.loadtxt(path, dtype=np.float32),
    )
    monkeypatch.setitem(SERIES, "made", series)

    def make(values: Any) -> Forecasting:
        np.savetxt(path, values)
        return forecasting("made", horizon=3, max_window=8, val_share=0.2, test_share=0.2)

    return make


def noise(n: int = 200) -> Floats:
    return np.random.default_rng(0).normal(size=n).cumsum().astype(np.float32)


def started(task: Forecasting, **changes: Any) -> TensorLoop:
    data = task.load(test=False)
    return task.start({**CONFIG, **changes}, data, metric="val_mae", mode="min")


def curve(loop: TensorLoop, n_epochs: int) -> list[dict[str, float]]:
    return [dict(loop.step()) for _ in range(n_epochs)]


def test_every_window_is_trained_and_judged_on_the_same_targets(made: Made) -> None:
    task = made(noise())
    data = task.load(test=False)
    loops = [started(task, window=window) for window in (1, 3, 8)]

    assert [loop.train.x.shape for loop in loops] == [(110, window, 1) for window in (1, 3, 8)]
    assert [loop.val.x.shape for loop in loops] == [(38, window, 1) for window in (1, 3, 8)]
    mean, sd = data.scale
    for loop in loops:
        assert torch.equal(loop.y, loops[0].y)
        # The last input is the value before the first target, whatever the window.
        torch.testing.assert_close(
            loop.train.x[:, -1, 0] * sd + mean, torch.tensor(data.values[7:117])
        )
        torch.testing.assert_close(loop.y[:, 0] * sd + mean, torch.tensor(data.values[8:118]))


def test_what_comes_after_the_training_part_does_not_change_training(made: Made) -> None:
    values = noise()
    before = started(made(values))
    values[120:] = 1e3
    task = made(values)
    after = started(task)

    assert torch.equal(before.train.x, after.train.x)
    assert torch.equal(before.y, after.y)
    assert not torch.equal(before.val.x, after.val.x)
    assert task.load(test=False).scale == pytest.approx((values[:120].mean(), values[:120].std()))


def test_search_never_gets_to_see_the_test_part(made: Made) -> None:
    values = noise()
    task = made(values)
    before, whole = task.load(test=False), task.load(test=True)
    values[160:] = 1e3
    after = made(values).load(test=False)

    assert np.array_equal(before.values, after.values)
    assert (len(before.values), len(whole.values), before.n_val) == (160, 200, 160)
    assert task.baselines(before, test=False) == task.baselines(after, test=False)
    with pytest.raises(ValueError, match="The test part"):
        before.origins("test")


@pytest.mark.parametrize("part", ["val", "test"])
def test_naive_forecast_has_ratio_one_and_the_season_is_known_exactly(
    part: str, made: Made
) -> None:
    task = made(np.tile([1.0, 5.0, 2.0, 4.0], 50))
    found = task.baselines(task.load(test=part == "test"), test=part == "test")

    ratios = [f"{part}_mae_ratio", f"{part}_mae_ratio_h1", f"{part}_mae_ratio_h3"]
    names = [f"{part}_mae", f"{part}_rmse", f"{part}_mase", *ratios]
    assert [found["naive"][name] for name in ratios] == [1.0, 1.0, 1.0]
    assert found["naive"][f"{part}_rmse"] >= found["naive"][f"{part}_mae"] > 1
    assert set(found["seasonal naive"].values()) == {0.0}
    assert set(found["naive"]) == set(names)
    assert {task.test_metrics.get(f"val_{name[len(part) + 1 :]}") for name in names} == {
        f"test_{name[len(part) + 1 :]}" for name in names
    }


def test_seasonal_naive_takes_the_last_whole_season_where_the_horizon_is_longer(made: Made) -> None:
    task = replace(made(np.tile([1.0, 5.0, 2.0, 4.0], 50) + np.repeat(range(50), 4)), horizon=6)
    data = task.load(test=False)

    # The series grows by one a season; two seasons back is what is known of all six steps.
    assert task.baselines(data, test=False)["seasonal naive"]["val_mae"] == pytest.approx(2.0)


def test_ridge_beats_the_naive_forecast_of_sunspots() -> None:
    task = forecasting("sunspots", horizon=12, max_window=48)
    data = task.load(test=False)

    found = task.baselines(data, test=False)

    assert len(SERIES["sunspots"].load()) == 2820
    (ridge,) = (name for name in found if name.startswith("ridge AR("))
    assert found["naive"]["val_mae_ratio"] == 1.0
    assert found[ridge]["val_mae_ratio"] < 0.85


def test_metrics_are_those_that_the_task_names_and_agree_with_each_other(made: Made) -> None:
    task = made(noise())
    loop, data = started(task), task.load(test=True)

    (metrics,) = curve(loop, 1)

    assert tuple(metrics) == task.metrics
    assert all(type(value) is float for value in metrics.values())
    targets = data.targets(data.origins("val"))
    mean, sd = data.scale
    outputs = loop.predict(loop.val).numpy() * sd + mean
    mae = float(np.abs(outputs - targets).mean())
    naive = float(np.abs(targets - data.inputs(data.origins("val"), 1)).mean())
    assert metrics["val_mae"] == pytest.approx(mae)
    assert metrics["val_mae_ratio"] == pytest.approx(mae / naive)


def test_test_metrics_are_those_of_the_best_epoch(made: Made) -> None:
    task = made(noise())
    data, loop = task.load(test=True), started(task, learning_rate=0.5)
    tests: list[Any] = []
    values: list[float] = []
    for _ in range(6):
        other = started(task, learning_rate=0.5)
        values = [metrics["val_mae"] for metrics in curve(other, len(tests) + 1)]
        other.best_weights = other.model.state_dict()
        tests.append(other.test(data))
    curve(loop, 6)

    best = int(np.argmin(values))
    assert best < 5  # else the last epoch would do as well
    assert loop.best_epoch == best + 1
    assert loop.test(data) == tests[best]
    assert set(tests[best]) == set(task.test_metrics.values())


@pytest.mark.parametrize("n_before", [1, 3])
def test_training_goes_on_from_a_checkpoint_to_the_last_digit(
    n_before: int, made: Made, tmp_path: Path
) -> None:
    task = made(noise())
    whole = started(task, **DROPOUT)
    uninterrupted = curve(whole, 6)
    first = started(task, **DROPOUT)
    begun = curve(first, n_before)
    first.save(tmp_path)

    second = started(task, **DROPOUT)
    torch.manual_seed(99)  # another process has another state of chance
    second.load(tmp_path)

    assert (second.epoch, second.best, second.best_epoch) == (
        first.epoch,
        first.best,
        first.best_epoch,
    )
    assert begun + curve(second, 6 - n_before) == uninterrupted
    data = task.load(test=True)
    assert second.test(data) == whole.test(data)
    third = started(task, **DROPOUT)
    third.load(tmp_path)
    assert third.test(data) == first.test(data)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["epoch"] == n_before


def test_seed_fixes_the_metrics(made: Made) -> None:
    task = made(noise())
    first, again, other = (curve(started(task, **DROPOUT, seed=seed), 2) for seed in (1, 1, 2))

    assert first == again
    assert first != other
    x = Inputs(torch.ones(1, 6, 1))
    assert not torch.equal(started(task, seed=1).predict(x), started(task, seed=2).predict(x))


def test_cosine_schedule_ends_at_zero(made: Made) -> None:
    loop = started(made(noise()), schedule="cosine", learning_rate=0.01)
    rates = []
    for _ in range(6):
        loop.step()
        rates.append(loop.optimizer.param_groups[0]["lr"])

    assert rates == pytest.approx([0.005 * (1 + np.cos(np.pi * e / 6)) for e in range(1, 7)])


def test_trial_converges_after_so_many_epochs_without_an_improvement(made: Made) -> None:
    task = made(noise())
    loop, endless = started(task, patience=2, learning_rate=0.0), started(task, learning_rate=0.0)
    found = []
    for _ in range(3):
        loop.step()
        endless.step()
        found.append(loop.converged)

    assert found == [False, False, True]
    assert loop.best_epoch == 1
    assert not endless.converged


def test_best_epoch_counts_every_gain_and_patience_only_those_that_matter(made: Made) -> None:
    loop = started(made(noise()), patience=2)
    converged = []
    for loop.epoch, loss in enumerate([0.8, 0.7999, 0.7998], start=1):  # gains below 1 in 1,000
        loop._keep_best(loss)
        converged.append(loop.converged)

    assert (loop.best_epoch, loop.best) == (3, 0.7998)
    assert converged == [False, False, True]


def test_loss_that_is_not_finite_raises(made: Made) -> None:
    loop = started(made(noise()), learning_rate=1e38)

    with pytest.raises(FloatingPointError, match="train_loss is nan in epoch 1"):
        loop.step()


class Wide(nn.Module):
    def __init__(self, n_features: int, n_outputs: int, width: int, **options: Any) -> None:
        super().__init__()


WINDOW = {"window": tune.choice([6, 12])}


@pytest.mark.parametrize(
    ("space", "fixed", "problems"),
    [
        (WINDOW, {"dropout": 0.1, "patience": None}, []),
        (WINDOW, {"hiden_size": 3}, ["'hiden_size' is read neither by the training loop nor by"]),
        ({**WINDOW, "cel": tune.choice(["gru"])}, {}, ["'cel' is read neither by the training"]),
        ({"cell": tune.choice(["gru"])}, {}, ["'window' is missing: put it into the space"]),
        ({"cell": tune.choice(["gru"])}, {"window": 24}, []),
        ({"cell": tune.choice(["gru"])}, {"window": 25}, ["window must be"]),
        ({"window": tune.choice([6, 30])}, {}, ["window must be"]),
        ({"window": tune.lograndint(2, 26)}, {}, ["window must be"]),
        ({"window": tune.lograndint(2, 25)}, {}, []),
        ({"window": tune.randint(0, 9)}, {}, ["window must be"]),
        ({"window": tune.uniform(2.5, 3.5)}, {}, ["window must be", "window must be"]),
        (
            WINDOW,
            {"schedule": "linear"},
            ["schedule must be one of constant, cosine, one_cycle, plateau, or"],
        ),
        (WINDOW, {"learning_rate": 0.0}, ["learning_rate must be a number above 0, but got 0.0"]),
        (WINDOW, {"patience": 2.5}, ["patience must be an integer above 0, or None, but got 2.5"]),
        pytest.param({"window": tune.uniform(2, 3)}, {}, ["window must be", "window must be"]),
        pytest.param({"window": 200, "cell": tune.choice(["gru"])}, {}, ["window must be"]),
    ],
)
def test_keys_nobody_reads_and_values_that_cannot_be_are_named(
    space: dict[str, Any], fixed: dict[str, Any], problems: list[str]
) -> None:
    task = forecasting("sunspots", horizon=12, max_window=24)

    found = task.problems(Space(space), fixed)

    assert [text[: len(start)] for text, start in zip(found, problems, strict=True)] == problems


def test_nearest_key_is_proposed() -> None:
    task = forecasting("sunspots", horizon=12, max_window=24)

    (problem,) = task.problems(Space(WINDOW), {"hiden_size": 3})
    assert "by Recurrent. Did you mean 'hidden_size'? Choose one of: batch_size, " in problem


def test_model_of_ones_own_says_what_it_needs() -> None:
    task = forecasting("sunspots", horizon=12, max_window=24, model=Wide)

    found = task.problems(Space(WINDOW), {})
    assert "'width' is missing: put it into the space or among the fixed values" in found


def test_model_that_cannot_be_made_is_told_and_its_size_is_known() -> None:
    task = forecasting("sunspots", horizon=12, max_window=24)

    (found,) = task.problems(Space(WINDOW), {"cell": "gur"})
    assert found == "the model cannot be made: cell must be one of gru, lstm, rnn, but got 'gur'"
    config = {**CONFIG, "window": 6}
    made = sum(p.numel() for p in started(task, window=6).model.parameters())
    assert task.sizes(config) == {"n_parameters": made}


def test_model_of_ones_own_may_take_further_options() -> None:
    task = forecasting("sunspots", horizon=12, max_window=24, model=Wide)

    assert task.problems(Space(WINDOW), {"width": 3}) == []


def test_metrics_have_distinct_names_for_one_step_ahead() -> None:
    metrics = forecasting("sunspots", horizon=1, max_window=24).metrics

    assert len(set(metrics)) == len(metrics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "sunspot"}, "Unknown data set 'sunspot'. Did you mean 'sunspots'"),
        ({"horizon": 0}, "horizon and max_window must be at least 1, but got 0 and 24"),
        ({"max_window": 0}, "horizon and max_window must be at least 1, but got 12 and 0"),
        ({"val_share": 0.5, "test_share": 0.5}, "below 1 together, but got 0.5 and 0.5"),
        ({"test_share": 0.0}, "must be above 0, and below 1 together, but got 0.15 and 0.0"),
    ],
)
def test_broken_rule_of_the_task_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forecasting(**{"data": "sunspots", "horizon": 12, "max_window": 24, **arguments})
