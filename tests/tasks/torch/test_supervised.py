"""Classification and regression: nothing leaks, padding is nothing, baselines are honest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from torch import nn

from hypertune import classification, regression
from hypertune.core.space import Config, Space
from hypertune.data import DATA_SETS, DataSet, LeakError, Samples
from hypertune.models import CNN, MLP, sequence_model
from hypertune.tasks.torch.loop import TensorLoop
from hypertune.tasks.torch.supervised import Supervised

CONFIG: Config = {"max_epochs": 6, "seed": 0, "device": "cpu", "batch_size": 16}


pytestmark = pytest.mark.usefixtures("one_thread")


def data_of(samples: Samples, split: str = "random", max_window: int | None = None) -> DataSet:
    return DataSet(
        summary="made",
        split=split,
        find=lambda: Path("made"),
        read=lambda path: samples,
        n_classes=len(samples.classes) or None,
        shape=samples.x.shape[1:],
        max_window=max_window,
        test_sets=samples.test_sets,
    )


def blobs(n: int = 200, n_classes: int = 3) -> Samples:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(n) % n_classes)
    centres = 2.0 * np.eye(5)[:n_classes]
    x = (centres[y] + rng.normal(size=(n, 5))) * [1, 10, 100, 1, 1] + 7
    return Samples(x=x.astype(np.float32), y=y, classes=tuple("abcdefg"[:n_classes]))


def line(n: int = 200) -> Samples:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return Samples(x=x, y=(50 + 10 * x[:, 0] + rng.normal(size=n)).astype(np.float32))


def walks(n: int = 80, steps: int = 9) -> Samples:
    """Sequences that drift up or down, of 3 to ``steps`` steps."""
    rng = np.random.default_rng(0)
    y, lengths = np.arange(n) % 2, rng.integers(3, steps + 1, size=n)
    x = rng.normal(size=(n, steps, 2)) + (2 * y - 1)[:, None, None]
    x[np.arange(steps) >= lengths[:, None]] = 0.0
    return Samples(x=x.astype(np.float32), y=y, classes=("down", "up"), lengths=lengths)


def started(task: Supervised, **changes: Any) -> TensorLoop:
    config = {**CONFIG, **changes}
    metric = task.metrics[1]
    return task.start(config, task.load(test=False), metric=metric, mode="min")


def curve(loop: TensorLoop, n_epochs: int) -> list[dict[str, float]]:
    return [dict(loop.step()) for _ in range(n_epochs)]


def test_inputs_are_scaled_by_the_training_part_alone() -> None:
    samples = blobs()
    rows = classification(data_of(samples)).load(test=True)
    samples.x[:, 1] = 4.0  # a feature that says nothing is no reason to divide by zero
    parts = classification(data_of(samples)).load(test=True)
    assert parts.test is not None

    assert parts.train.x.mean(axis=0) == pytest.approx([0] * 5, abs=1e-5)
    assert parts.train.x.std(axis=0) == pytest.approx([1, 0, 1, 1, 1], abs=1e-5)
    assert abs(parts.val.x.mean(axis=0)).max() > 1e-3
    assert len(rows.train.x) + len(rows.val.x) + len(parts.test.x) == 200


@pytest.mark.parametrize("part", ["val", "test"])
def test_other_parts_change_nothing_in_training(part: str) -> None:
    samples = blobs()
    parts = np.array((["train"] * 6 + ["val"] * 2 + ["test"] * 2) * 20)
    samples = replace(samples, parts=parts)
    other = replace(samples, x=samples.x.copy())
    other.x[parts == part] *= 100
    before, after = (classification(data_of(s)).load(test=False) for s in (samples, other))

    assert np.array_equal(before.train.x, after.train.x)
    assert before.test is after.test is None
    assert np.array_equal(before.val.x, after.val.x) == (part == "test")


def test_image_channels_and_sequence_channels_are_scaled_as_one() -> None:
    digits = classification("digits").load(test=False).train
    vowels = classification("japanese_vowels").load(test=False).train
    assert digits.x.mean() == pytest.approx(0, abs=1e-4)
    assert digits.x.std() == pytest.approx(1, abs=1e-4)
    assert vowels.lengths is not None
    true = vowels.x[np.arange(29) < vowels.lengths[:, None]]  # (true step, channel)
    assert abs(true.mean(axis=0)).max() < 1e-4
    assert true.std(axis=0) == pytest.approx([1] * 12, abs=1e-4)
    assert not vowels.x[np.arange(29) >= vowels.lengths[:, None]].any()


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (classification("digits"), ["loss", "accuracy", "macro_f1"]),
        (classification("breast_cancer"), ["loss", "accuracy", "macro_f1", "auroc"]),
        (regression("diabetes"), ["mae", "rmse", "rmse_ratio"]),
        (regression("diabetes", loss="mae"), ["mae", "rmse", "rmse_ratio"]),
        (regression("diabetes", loss="huber", n_train=60), ["mae", "rmse", "rmse_ratio"]),
    ],
)
def test_task_reports_what_it_names_and_so_do_its_baselines(
    task: Supervised, names: list[str]
) -> None:
    loop, whole = started(task), task.load(test=True)
    (metrics,) = curve(loop, 1)

    assert tuple(metrics) == task.metrics == ("train_loss", *(f"val_{n}" for n in names))
    assert task.test_metrics == {f"val_{n}": f"test_{n}" for n in names}
    assert set(loop.test(whole)) == set(task.test_metrics.values())
    for test in (False, True):
        for found in task.baselines(whole, test=test).values():
            assert list(found) == [f"{'test' if test else 'val'}_{n}" for n in names]
            assert all(np.isfinite(value) for value in found.values())


def test_test_sets_are_judged_by_themselves_and_what_was_said_is_kept() -> None:
    samples = blobs()
    parts = np.array([""] * 150 + ["test:far"] * 50)
    x = samples.x.copy()
    x[150:] = 7 - (x[150:] - 7)  # what was learned is turned round
    task = classification(data_of(replace(samples, x=x, parts=parts)), model=MLP)
    assert task.test_sets == ("far",)
    loop, whole = started(task, learning_rate=0.02), task.load(test=True)
    assert task.load(test=False).further == {}
    curve(loop, 6)
    metrics, baselines = loop.test(whole), task.baselines(whole, test=True)

    assert metrics["test_accuracy"] > 0.8 > 0.4 > metrics["test_far_accuracy"]
    assert list(baselines["majority"]) == list(metrics)
    for name, part in (("test", "test"), ("far", "test:far")):
        found, prefix = loop.predictions[name], part.replace(":", "_")
        right = found["truth"] == found["predicted"]
        assert right.mean() == pytest.approx(metrics[f"{prefix}_accuracy"])
        assert np.log(found["p_true"]).mean() == pytest.approx(-metrics[f"{prefix}_loss"], rel=1e-4)
        assert np.array_equal(samples.y[found["rows"]], found["truth"])
        assert not right[found["worst"]].any()
        worst = found["rows"][found["worst"]]
        assert found["worst_x"] == pytest.approx(x[worst], rel=1e-3)  # as they came


def test_numbers_that_were_said_are_kept_in_their_units() -> None:
    task = regression(data_of(line()))
    loop = started(task, learning_rate=0.02)
    curve(loop, 3)
    metrics = loop.test(task.load(test=True))
    found = loop.predictions["test"]

    assert np.abs(found["predicted"] - found["truth"]).mean() == pytest.approx(metrics["test_mae"])
    assert np.array_equal(line().y[found["rows"]], found["truth"])


def test_baselines_are_what_they_are_called() -> None:
    task = classification("breast_cancer")
    whole = task.load(test=True)
    assert whole.test is not None
    found = task.baselines(whole, test=True)

    majority = np.bincount(whole.train.y).argmax()
    assert found["majority"]["test_accuracy"] == pytest.approx((whole.test.y == majority).mean())
    assert found["majority"]["test_auroc"] == 0.5
    assert found["logistic regression"]["test_accuracy"] > 0.93
    ridge = regression(data_of(line()))
    found = ridge.baselines(ridge.load(test=False), test=False)
    assert found["mean"]["val_rmse_ratio"] == pytest.approx(1.0)
    assert found["ridge"]["val_rmse"] == pytest.approx(1.0, rel=0.3)  # the noise


def test_baseline_of_sequences_tells_them_by_their_true_steps() -> None:
    task = classification(data_of(walks()), model=sequence_model)
    samples = walks()
    long = replace(samples, x=np.concatenate([samples.x, np.zeros((80, 7, 2))], axis=1))
    longer = classification(data_of(long), model=sequence_model)
    found, padded = (t.baselines(t.load(test=False), test=False) for t in (task, longer))

    assert found["logistic regression"]["val_accuracy"] > 0.8
    assert found == padded


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm", "gru_attention", "conv"])
def test_training_is_the_same_under_different_padding(architecture: str) -> None:
    samples = walks()
    long = replace(samples, x=np.concatenate([samples.x, np.zeros((80, 7, 2))], axis=1))
    short, padded = (
        curve(
            started(classification(data_of(s), model=sequence_model), architecture=architecture), 3
        )
        for s in (samples, long)
    )

    for a, b in zip(short, padded, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_models_learn_what_there_is_to_learn() -> None:
    loops = [
        started(classification(data_of(blobs())), learning_rate=0.02),
        started(classification(data_of(blobs(n_classes=2))), learning_rate=0.02),
        started(classification(data_of(walks()), model=sequence_model), learning_rate=0.02),
    ]
    for loop in loops:
        assert curve(loop, 6)[-1]["val_accuracy"] > 0.8
    loop = started(regression(data_of(line())), learning_rate=0.02)
    assert curve(loop, 6)[-1]["val_rmse_ratio"] < 0.3


def test_two_classes_are_told_by_one_logit() -> None:
    loop = started(classification("breast_cancer"))

    assert loop.predict(loop.val).shape == (86, 1)
    assert loop.y.tolist() != []
    outputs, y = torch.tensor([[0.0], [2.0]]), torch.tensor([1, 1])
    expected = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], torch.ones(2))
    assert loop.loss(outputs, y).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_label_smoothing_is_for_training_alone(n_classes: int) -> None:
    task = classification(data_of(blobs(n_classes=n_classes)))
    plain, smooth = started(task), started(task, label_smoothing=0.2)
    outputs = torch.full((1, 3 if n_classes == 3 else 1), 0.0)
    outputs[0, 0] = 4.0
    y = torch.tensor([0 if n_classes == 3 else 1])

    assert smooth.loss(outputs, y) > plain.loss(outputs, y) + 0.3
    outputs = outputs.expand(len(plain.val), -1)
    assert plain.validate(outputs) == smooth.validate(outputs)


def test_window_is_the_end_of_a_sequence() -> None:
    task = classification("watch", model=sequence_model)
    whole, some = started(task), started(task, window=32)

    assert whole.train.x.shape == (1021, 128, 6)
    assert torch.equal(some.train.x, whole.train.x[:, -32:])
    assert torch.equal(some.y, whole.y)
    assert torch.equal(some.val.x, whole.val.x[:, -32:])


def test_few_samples_are_drawn_from_the_training_part_in_the_shares_of_the_classes() -> None:
    few = classification("digits", n_train=100).load(test=True)
    whole = classification("digits").load(test=True)
    assert few.test is not None
    assert whole.test is not None

    assert np.bincount(few.train.y).tolist() == [10] * 10
    assert np.array_equal(few.test.y, whole.test.y)
    known = {x.tobytes() for x in (whole.train.x > 0)}
    assert len(few.train.x) == 100
    assert len(known) > 1000
    with pytest.raises(ValueError, match="n_train must be below 1257, the training samples"):
        classification("digits", n_train=1257).load(test=False)


def test_split_that_leaks_is_an_error_of_the_data() -> None:
    with pytest.raises(LeakError, match="the same recording is in train and in val"):
        classification("watch", split="random", model=sequence_model).load(test=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "nesterov", "schedule": {"kind": "one_cycle"}},
        {"optimizer": "adamw", "weight_decay": 0.1, "schedule": {"kind": "cosine"}},
        {"optimizer": "rmsprop", "schedule": {"kind": "plateau", "patience": 0}},
        {"dropout": 0.5, "norm": "batch", "precision": "bfloat16"},
    ],
)
def test_training_goes_on_from_a_checkpoint_to_the_last_digit(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    task = classification(data_of(blobs()))
    uninterrupted = curve(started(task, **changes), 6)
    first = started(task, **changes)
    begun = curve(first, 3)
    first.save(tmp_path)
    second = started(task, **changes)
    second.load(tmp_path)

    assert begun + curve(second, 3) == uninterrupted
    if first.schedule is not None:
        assert second.schedule is not None
        assert second.schedule.last_epoch == (6 if first.batch_schedule is None else 54)


def test_mixed_precision_computes_in_half_and_keeps_whole_weights() -> None:
    task = classification(data_of(blobs()))
    whole, mixed = started(task), started(task, precision="bfloat16")
    kinds: set[torch.dtype] = set()
    for layer in mixed.model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda module, given, result: kinds.add(result.dtype))
    (a,), (b,) = curve(whole, 1), curve(mixed, 1)

    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in mixed.model.parameters()} == {torch.float32}
    assert a != b
    assert a["val_loss"] == pytest.approx(b["val_loss"], rel=0.05)


def test_batches_differ_by_one_sample_at_most() -> None:
    task = classification(data_of(blobs()), val_share=0.25, test_share=0.25)
    loop = started(task, batch_size=33)
    sizes: list[int] = []
    loop.model.register_forward_hook(
        lambda module, given, result: sizes.append(len(given[0])) if module.training else None
    )
    loop.step()

    assert sizes == [25] * 4  # and not 33, 33, 33 and a rest of 1


@pytest.mark.parametrize(
    ("fixed", "problems"),
    [
        ({"n_layers": 2, "label_smoothing": 0.1, "optimizer": "sgd"}, []),
        ({"hidden_size": 3}, ["'hidden_size' is read neither by the training loop nor by MLP."]),
        ({"window": 8}, ["'window' is read neither by the training loop nor by MLP."]),
        (
            {"label_smoothing": 1.0},
            ["label_smoothing must be a number from 0 to below 1, but got 1.0"],
        ),
        (
            {"optimizer": "adma"},
            ["optimizer must be one of sgd, momentum, nesterov, adam, adamw, "],
        ),
        ({"momentum": 1.0}, ["momentum must be a number between 0 and 1, but got 1.0"]),
        ({"precision": "half"}, ["precision must be float32 or bfloat16, but got 'half'"]),
        ({"schedule": {"kind": "step"}}, ["schedule must be one of constant, cosine, one_cycle, "]),
    ],
)
def test_keys_nobody_reads_and_values_that_cannot_be_are_named(
    fixed: dict[str, Any], problems: list[str]
) -> None:
    space = Space({"n_units": tune.lograndint(8, 65)})
    found = classification("digits").problems(space, fixed)

    assert [text[: len(start)] for text, start in zip(found, problems, strict=True)] == problems


def test_branches_of_a_space_are_checked_too() -> None:
    space = Space(
        {
            "schedule": tune.choice(
                [
                    "constant",
                    {"kind": "cosine", "warmup_epochs": tune.randint(0, 4)},
                    {"kind": "plateau", "factor": tune.uniform(0.1, 1.5), "patiense": 3},
                ]
            )
        }
    )
    found = classification("digits", model=CNN).problems(space, {})

    assert sorted(found) == [
        "schedule.factor must be a number between 0 and 1, but got 1.5",
        "schedule.patiense is not read by the schedule plateau, which reads factor, patience",
    ]


def test_window_of_a_study_must_fit_the_data() -> None:
    task = classification("watch", model=sequence_model)

    assert task.problems(Space({"window": tune.choice([8, 128])}), {}) == []
    (problem,) = task.problems(Space({"window": tune.choice([8, 129])}), {})
    assert problem == "window must be an integer from 1 to 128, the steps of a sample, but got 129"


@pytest.mark.parametrize(
    ("data", "model", "fixed", "problem"),
    [
        ("digits", MLP, {"activation": "rleu"}, "activation must be one of relu, leaky_relu"),
        ("digits", CNN, {"norm": "layer"}, "norm must be one of none, batch, group, but got"),
        ("breast_cancer", CNN, {}, "a CNN needs images, but a sample has the shape (30,)"),
        ("watch", sequence_model, {"architecture": "cnn"}, "architecture must be rnn, gru, lstm"),
    ],
)
def test_model_that_cannot_be_made_is_told_before_anything_starts(
    data: str, model: Any, fixed: dict[str, Any], problem: str
) -> None:
    space = Space({"learning_rate": tune.loguniform(1e-4, 1e-2)})
    (found,) = classification(data, model=model).problems(space, fixed)

    assert found.startswith(f"the model cannot be made: {problem}")


def test_size_of_a_model_is_known_without_training() -> None:
    tasks: list[tuple[Any, Config]] = [
        (classification("watch", model=sequence_model), {"window": 16, "architecture": "lstm"}),
        (classification("breast_cancer"), {"n_units": 9, "norm": "batch"}),
        (classification("digits", model=CNN), {"n_blocks": 3}),
    ]
    for task, config in tasks:
        made = sum(p.numel() for p in started(task, **config).model.parameters())
        assert task.sizes(config) == {"n_parameters": made}


class MyNet(nn.Module):
    def __init__(self, n_features: int, n_outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, width), nn.Linear(width, n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(x)
        return outputs


def test_model_of_ones_own_is_called_with_what_it_names() -> None:
    task = classification("breast_cancer", model=MyNet)

    (problem,) = task.problems(Space({"learning_rate": tune.loguniform(1e-4, 1e-2)}), {})
    assert problem == "'width' is missing: put it into the space or among the fixed values"
    assert task.problems(Space({"width": tune.randint(2, 9)}), {}) == []
    loop = started(task, width=7)
    assert [tuple(p.shape) for p in loop.model.parameters()] == [(7, 30), (7,), (1, 7), (1,)]


def test_task_goes_on_with_other_data() -> None:
    task = classification("japanese_vowels", model=sequence_model).on("watch")

    assert (task.data, task.split) == ("watch", "group")
    assert task.load(test=False).train.x.shape == (1021, 128, 6)
    with pytest.raises(ValueError, match="the targets of 'diabetes' are numbers, not classes"):
        task.on("diabetes")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classification("digit"), "Unknown data set 'digit'. Did you mean 'digits'"),
        (lambda: classification("diabetes"), "the targets of 'diabetes' are numbers, not classes"),
        (lambda: regression("digits"), "the targets of 'digits' are classes, not numbers"),
        (lambda: regression("diabetes", loss="l2"), "Unknown loss 'l2'. Choose one of: mse, mae"),
        (lambda: classification("digits", split="time"), "Unknown split 'time'. Choose one of"),
        (lambda: regression("diabetes", split="stratified"), "a stratified split needs classes"),
        (lambda: classification("digits", val_share=0.0), "must be above 0, and below 1 together"),
        (lambda: classification("digits", n_train=1), "n_train must be at least 2, but got 1"),
    ],
)
def test_broken_rule_of_the_task_is_told(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_data_sets_and_series_have_names_of_their_own() -> None:
    from hypertune.data import SERIES

    assert not set(DATA_SETS) & set(SERIES)
