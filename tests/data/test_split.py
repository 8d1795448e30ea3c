"""Splits keep parts apart, and a split that leaks is an error."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hypertune.data import DATA_SETS, LeakError, Samples, check_leaks, split_rows

SHARES: dict[str, Any] = {"val_share": 0.2, "test_share": 0.2}


def sequences(n: int = 60, n_groups: int = 10) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(
        x=rng.normal(size=(n, 5, 2)).astype(np.float32),
        y=np.arange(n) % 3,
        classes=("a", "b", "c"),
        groups=np.array([f"subject {i % n_groups}" for i in range(n)]),
    )


@pytest.mark.parametrize("how", ["stratified", "random", "group"])
def test_parts_are_all_of_the_samples_and_each_once(how: str) -> None:
    samples = sequences()
    rows = split_rows(samples, how, **SHARES)

    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(60))
    assert {part: len(own) for part, own in rows.items()} == {"train": 36, "val": 12, "test": 12}
    again, other = split_rows(samples, how, **SHARES), split_rows(samples, how, seed=1, **SHARES)
    assert all(np.array_equal(rows[part], again[part]) for part in rows)
    assert not all(np.array_equal(rows[part], other[part]) for part in rows)


def test_stratified_split_keeps_the_share_of_every_class() -> None:
    samples = sequences()
    for own in split_rows(samples, "stratified", **SHARES).values():
        assert len(set(np.bincount(samples.y[own]))) == 1


def test_split_by_group_keeps_every_group_in_one_part() -> None:
    samples = sequences()
    assert samples.groups is not None
    rows = split_rows(samples, "group", **SHARES)

    groups = [set(samples.groups[own]) for own in rows.values()]
    assert [len(own) for own in groups] == [6, 2, 2]
    assert len(set.union(*groups)) == 10


def test_parts_that_the_data_say_are_kept_and_the_rest_is_split() -> None:
    parts = np.array(["test"] * 20 + [""] * 40)
    rows = split_rows(replace(sequences(), parts=parts), "random", **SHARES)
    assert rows["test"].tolist() == list(range(20))
    assert (len(rows["val"]), len(rows["train"])) == (8, 32)

    parts = np.array(["test", "val", "train", "train"] * 15)
    rows = split_rows(replace(sequences(), parts=parts), "random", **SHARES)
    assert rows["val"].tolist() == list(range(1, 60, 4))
    assert len(rows["train"]) == 30


def test_recording_that_is_parted_is_a_leak() -> None:
    watch = DATA_SETS["watch"].load()

    with pytest.raises(LeakError, match="the same recording is in train and in val"):
        split_rows(watch, "random", **SHARES)
    with pytest.raises(LeakError, match="the same recording is in val and in test"):
        split_rows(watch, "stratified", **SHARES)
    split_rows(watch, "group", **SHARES)


def test_given_parts_that_share_a_group_are_a_leak_only_where_split_by_group() -> None:
    samples = replace(sequences(), parts=np.array(["test", "val", "train"] * 20))

    with pytest.raises(
        LeakError, match=r"10 x the same group is in train and in val \('subject 0'"
    ):
        split_rows(samples, "group", **SHARES)
    split_rows(samples, "random", **SHARES)


def test_copy_of_a_sample_in_another_part_is_a_leak_but_not_of_a_row_of_a_table() -> None:
    samples = replace(sequences(), parts=np.array(["test", "val", "train"] * 20))
    samples.x[2] = samples.x[0]

    with pytest.raises(LeakError, match="1 x the same copy of a sample is in train and in test"):
        split_rows(samples, "random", **SHARES)
    split_rows(replace(samples, x=samples.x[:, 0]), "random", **SHARES)


def test_further_test_sets_are_kept_apart_from_training_and_leave_the_other_parts_as_they_are() -> (
    None
):
    samples = sequences()
    before = split_rows(samples, "random", **SHARES)
    further = replace(
        samples,
        x=np.concatenate([samples.x, samples.x[:6] + 1]),
        y=np.concatenate([samples.y, samples.y[:6]]),
        lengths=None,
        groups=None,
        recordings=None,
        parts=np.array([""] * 60 + ["test:elsewhere"] * 4 + ["test:photos"] * 2),
    )
    rows = split_rows(further, "random", **SHARES)

    assert rows["test:elsewhere"].tolist() == [60, 61, 62, 63]
    assert rows["test:photos"].tolist() == [64, 65]
    for part in ("train", "val", "test"):
        assert rows[part].tolist() == before[part].tolist()
    further.x[60] = further.x[rows["train"][0]]
    with pytest.raises(LeakError, match="copy of a sample is in train and in test:elsewhere"):
        split_rows(further, "random", **SHARES)
    further.x[60] = further.x[rows["test"][0]]
    split_rows(further, "random", **SHARES)  # nothing is learned from either


def test_sample_in_two_parts_is_a_leak() -> None:
    rows = {"train": np.arange(9), "val": np.arange(8, 12), "test": np.arange(12, 20)}

    with pytest.raises(
        LeakError, match=r"1 x the same sample is in train and in val \('8' for one"
    ):
        check_leaks(sequences(), rows, by_group=False)


@pytest.mark.parametrize(
    ("changes", "how", "problem"),
    [
        ({"groups": None}, "group", "a split by group needs groups, but the data have none"),
        (
            {"parts": np.array(["tets"] * 60)},
            "random",
            "parts must be train, val or test, empty, or test:NAME",
        ),
        ({"parts": np.array(["test:a b"] * 60)}, "random", "a name of letters, digits, '_' and"),
        ({"parts": np.array(["test", "val"] * 30)}, "random", "the train part is empty"),
    ],
)
def test_split_that_cannot_be_is_told(changes: dict[str, Any], how: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        split_rows(replace(sequences(), **changes), how, **SHARES)


@pytest.mark.parametrize("name", ["digits", "mnist_5000", "japanese_vowels", "watch", "diabetes"])
def test_installed_data_do_not_leak(name: str) -> None:
    row = DATA_SETS[name]
    rows = split_rows(row.load(), row.split, val_share=0.15, test_share=0.15)

    assert all(len(own) >= 41 for own in rows.values())
