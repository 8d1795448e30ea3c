"""Data of one's own are read as they are, and what is wrong with them is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypertune.data import csv_samples, csv_series, npz_samples

TABLE = "width,kind,height,who\n" + "".join(
    f"{i},{'cat' if i % 3 else 'dog'},{i / 2},user {i % 4}\n" for i in range(12)
)


def written(folder: Path, text: str) -> Path:
    path = folder / "own.csv"
    path.write_text(text)
    return path


def test_table_has_its_features_its_classes_and_its_groups(tmp_path: Path) -> None:
    row = csv_samples(written(tmp_path, TABLE), target="kind", group="who")
    samples = row.load()

    assert samples.x.tolist() == [[i, i / 2] for i in range(12)]
    assert samples.classes == ("cat", "dog")
    assert samples.y.tolist() == [int(i % 3 == 0) for i in range(12)]
    assert samples.groups is not None
    assert samples.groups.tolist() == [f"user {i % 4}" for i in range(12)]
    assert (row.summary, row.split, row.n_classes) == ("own.csv", "group", 2)


def test_table_may_say_the_part_of_a_row(tmp_path: Path) -> None:
    lines = [line + "," for line in TABLE.splitlines()]
    lines[0] += "part"
    lines[3:6] = [lines[3] + "test", lines[4] + "test:elsewhere", lines[5] + "train"]
    row = csv_samples(
        written(tmp_path, "\n".join(lines) + "\n"), target="kind", group="who", part="part"
    )
    samples = row.load()

    assert samples.x.shape == (12, 2)
    assert samples.parts is not None
    assert samples.parts.tolist() == ["", "", "test", "test:elsewhere", "train"] + [""] * 7
    assert row.test_sets == samples.test_sets == ("elsewhere",)


def test_numbers_may_be_the_target(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n" + "".join(f"{i},{i**2}\n" for i in range(9)))
    row = csv_samples(path, target="b", targets="numbers")

    assert row.load().y.tolist() == [i**2 for i in range(9)]
    assert (row.split, row.n_classes, row.load().classes) == ("random", None, ())


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        (TABLE, {"target": "kin"}, "has no column 'kin', but width, kind, height, who"),
        (TABLE, {"target": "kind"}, "column 'who' must hold numbers: encode it or leave it out"),
        (TABLE, {"target": "kind", "group": "whom"}, "has no column 'whom'"),
        (
            "a,b\n" + "".join(f"1,{i}\n" for i in range(9)),
            {"target": "b"},
            "has 9 classes in 9 sam",
        ),
        ("a,b\n1,x\n,y\n3,x\n", {"target": "b"}, "values are missing in a"),
        ("b\nx\ny\nx\ny\n", {"target": "b"}, "there is no column beside the target"),
    ],
)
def test_table_that_cannot_be_is_told(
    text: str, options: dict[str, str], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=problem):
        csv_samples(written(tmp_path, text), **options)


def test_arrays_of_padded_sequences_come_with_their_lengths(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    x = np.zeros((6, 4, 2), dtype=np.float32)
    np.savez(path, x=x, y=np.array(list("ababab")), lengths=np.array([1, 2, 3, 4, 1, 2]))
    row = npz_samples(path)

    samples = row.load()
    assert samples.classes == ("a", "b")
    assert samples.lengths is not None
    assert samples.lengths.tolist() == [1, 2, 3, 4, 1, 2]
    assert row.max_window is None
    np.savez(path, x=x, y=np.array(list("ababab")), groups=np.arange(6))
    row = npz_samples(path)
    assert (row.max_window, row.split) == (4, "group")


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": np.zeros((4, 2))}, "must hold x and y and may hold lengths, groups, .* but holds x"),
        ({"x": np.zeros((4, 2)), "y": [0, 1, 0, 1], "z": [1]}, "but holds x, y, z"),
        ({"x": np.zeros((4, 2)), "y": [0, 1, 0, 1, 1]}, "y must have the shape"),
    ],
)
def test_arrays_that_cannot_be_are_told(
    arrays: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "own.npz", **arrays)

    with pytest.raises(ValueError, match=problem):
        npz_samples(tmp_path / "own.npz")


@pytest.mark.parametrize(
    "times", [["2024-03-01", "2024-01-01", "2024-02-01", "2024-04-01"], ["3", "1", "2", "4"]]
)
def test_series_is_put_in_the_order_of_time(times: list[str], tmp_path: Path) -> None:
    lines = "".join(f"{t},{v}\n" for t, v in zip(times, [30, 10, 20, 40], strict=True))
    series = csv_series(written(tmp_path, "when,what\n" + lines), target="what", time="when")

    assert series.load().tolist() == [10, 20, 30, 40]
    assert (series.summary, series.season) == ("own.csv, what", 1)


@pytest.mark.parametrize(
    ("times", "problem"),
    [([1, 2, 2, 3], "column 'when' holds the same time twice"), ([1, 2, 3, 6], "but has gaps")],
)
def test_series_with_gaps_or_doubles_is_told(
    times: list[int], problem: str, tmp_path: Path
) -> None:
    text = "when,what\n" + "".join(f"{t},{t}\n" for t in times)

    with pytest.raises(ValueError, match=problem):
        csv_series(written(tmp_path, text), target="what", time="when")
