"""Types of settings: what they read, what they refuse, and that what they write is read again."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypertune.core.errors import SettingError
from hypertune.core.options import (
    Amounts,
    Choice,
    Duration,
    File,
    Kept,
    Kind,
    Number,
    Size,
    Switch,
    Text,
    Whole,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("1d2h3m4.5s", 93_784.5),
        ("0s", 0),
    ],
)
def test_duration_is_the_sum_of_its_parts(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "10x", "h", "-5s", "1h 30m", "1h30", ".5h", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=f"such as 90s, 10m or 1h30m, but got '{text}'"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("500MB", 5e8), ("10 GB", 1e10), ("1.5kB", 1500), ("7B", 7), ("2TB", 2e12)],
)
def test_size_is_a_number_with_a_unit(text: str, n_bytes: float) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "10", "10gb", "-1GB", "1  GB", "GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=f"--memory must be a number.* but got '{text}'"):
        parse_size(text, "memory")


@pytest.mark.parametrize(
    ("kind", "value", "held"),
    [
        (Whole(1), 3, 3),
        (Whole(1, none="auto"), "auto", None),
        (Number(zero=True), 0, 0.0),
        (Number(zero=False), 2, 2.0),
        (Duration(zero=False), "20m", 1200.0),
        (Duration(zero=False), 90, 90.0),
        (Size(zero=True), "10 GB", 1e10),
        (Size(zero=True), 1000, 1000.0),
        (File(), "a/b.json", Path("a/b.json")),
        (File(), Path("x"), Path("x")),
        (Text(path=True), Path("x"), "x"),
        (Kept(), 3, "3"),
        (Kept(), "best", "best"),
        (Amounts(), {"tpu": 2, "disk": 0.5}, {"tpu": 2.0, "disk": 0.5}),
        (Switch(), True, True),
        (Choice(("a", "b")), "b", "b"),
    ],
)
def test_a_value_is_held_in_its_type(kind: Kind, value: Any, held: Any) -> None:
    taken = kind.take(value)
    assert (taken, type(taken)) == (held, type(held))
    assert kind.take(kind.plain(held)) == held


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Whole(1), "ten", "must be a whole number, but got 'ten'."),
        (Whole(1), "10", "must be a whole number, but got '10'."),
        (Whole(1), 2.5, "must be a whole number, but got 2.5."),
        (Whole(0), True, "must be a whole number, but got True."),
        (Whole(1), None, "must be a whole number, but got None."),
        (Whole(1, none="auto"), "two", "must be auto or a whole number, but got 'two'."),
        (Number(zero=True), "one", "must be a number, but got 'one'."),
        (Number(zero=True), True, "must be a number, but got True."),
        (Number(zero=True), float("inf"), "must be finite and at least 0, but got inf."),
        (Duration(zero=False), "soon", "must be numbers with units (s, m, h or d), such as"),
        (Duration(zero=False), [], "must be seconds, or numbers with units (s, m, h or d) such"),
        (Duration(zero=False), "0s", "must be finite and more than 0, but got 0.0."),
        (Size(zero=True), "10 MiB", "must be a number with a unit (B, kB, MB, GB or TB), such"),
        (Size(zero=True), None, "must be bytes, or a number with a unit"),
        (File(), 3, "must be a path, but got 3."),
        (Text(), 3, "must be text, but got 3."),
        (Text(), Path("x"), "must be text, but got PosixPath('x')."),
        (Text(), "a\x00b", "must be UTF-8 without NUL, but got"),
        (Kept(), 0, "must be all, best, or how many of the best trials, but got '0'."),
        (Kept(), True, "must be all, best, or how many of the best trials, but got True."),
        (Amounts(), "tpu", "must be name=amount, but got 'tpu'."),
        (Amounts(), {"tpu": "two"}, "must be name=amount, but got tpu='two'."),
        (Amounts(), {"tpu": 1.5}, "with amounts that are whole numbers or between 0 and 1, but"),
        (Amounts(), {"gpu": 1}, "names no gpu: see --gpus-per-trial."),
        (Switch(), "yes", "must be true or false, but got 'yes'."),
        (Switch(), 1, "must be true or false, but got 1."),
        (Choice(("a", "b", "c")), "d", "must be a, b or c, but got 'd'."),
        (Choice(("a", "b")), 1, "must be a or b, but got 1."),
    ],
)
def test_a_wrong_value_is_refused_with_rule_and_value(kind: Kind, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kind.take(value)


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (Whole(1), "12", 12),
        (Whole(1), "1_2", "1_2"),
        (Whole(1), "ten", "ten"),
        (Number(zero=True), "1e3", 1000.0),
        (Number(zero=True), "one", "one"),
        (Amounts(), ["tpu=1", "a=b=0.5"], {"tpu": 1.0, "a=b": 0.5}),
        (Amounts(), ["tpu=1", "disk"], "disk"),
    ],
)
def test_text_that_says_nothing_is_left_for_the_check(kind: Kind, text: Any, said: Any) -> None:
    assert kind.read(text) == said


@given(st.floats(min_value=0, max_value=1e12, allow_nan=False))
def test_durations_and_sizes_are_read_again_to_the_last_digit(value: float) -> None:
    for kind in (Duration(zero=True), Size(zero=True)):
        assert kind.take(kind.plain(value)) == value


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Duration(zero=True), 5400.0, "1h30m"),
        (Duration(zero=True), 600.0, "10m"),
        (Duration(zero=True), 86400.0, "1d"),
        (Duration(zero=True), 0.0, "0s"),
        (Duration(zero=True), 0.1, "0.1s"),
        (Size(zero=True), 10e9, "10GB"),
        (Size(zero=True), 1.5e6, "1.5MB"),
        (Size(zero=True), 123_456_789.0, "123456789B"),
        (Size(zero=True), 0.0, "0B"),
    ],
)
def test_durations_and_sizes_are_written_for_people(kind: Kind, value: float, text: str) -> None:
    assert kind.plain(value) == text
