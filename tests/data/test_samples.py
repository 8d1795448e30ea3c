"""Labelled data: what comes with the installation, and what a user brings."""

import gzip
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypertune.data import DATA_SETS, Samples
from hypertune.data.samples import pad

INSTALLED = [name for name in DATA_SETS if name not in ("fashion_mnist", "gestures")]


@pytest.mark.parametrize(
    ("name", "shape", "n_by_class"),
    [
        ("digits", (1797, 1, 8, 8), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
        ("mnist_5000", (5000, 1, 28, 28), [500] * 10),
        ("breast_cancer", (569, 30), [212, 357]),
        ("japanese_vowels", (640, 29, 12), [61, 65, 118, 74, 59, 54, 70, 80, 59]),
        ("watch", (1693, 128, 6), None),
        ("diabetes", (442, 10), None),
    ],
)
def test_installed_data_are_what_their_authors_say(
    name: str, shape: tuple[int, ...], n_by_class: list[int] | None
) -> None:
    row, samples = DATA_SETS[name], DATA_SETS[name].load()

    assert samples.x.shape == shape
    assert len(samples.classes) == (row.n_classes or 0)
    if row.n_classes:
        counts = np.bincount(samples.y)
        assert len(counts) == row.n_classes
        assert n_by_class in (None, counts.tolist())
    assert row.summary
    assert set(INSTALLED) == {
        "digits",
        "mnist_5000",
        "breast_cancer",
        "japanese_vowels",
        "watch",
        "diabetes",
        "digits_and_mnist",
    }


def test_digits_from_elsewhere_are_made_as_small_as_the_others() -> None:
    digits, both = DATA_SETS["digits"].load(), DATA_SETS["digits_and_mnist"].load()

    assert both.test_sets == DATA_SETS["digits_and_mnist"].test_sets == ("mnist",)
    assert both.parts is not None
    added = both.parts == "test:mnist"
    assert np.array_equal(both.x[~added], digits.x)
    assert np.bincount(both.y[added]).tolist() == [100] * 10
    x = both.x[added]
    assert set(np.unique(x)) <= set(range(17))
    # The digit fills the height, and is in the middle.
    assert x[:, 0, 0].any(axis=1).mean() > 0.9
    assert x[:, 0, 7].any(axis=1).mean() > 0.9
    assert x[..., 0].mean() < 0.5 > x[..., 7].mean()


def test_vowels_end_where_they_end_and_keep_the_test_part_of_their_authors() -> None:
    samples = DATA_SETS["japanese_vowels"].load()

    assert samples.lengths is not None
    assert samples.parts is not None
    assert (samples.lengths.min(), samples.lengths.max()) == (7, 29)
    assert (samples.parts == "test").sum() == 370
    assert samples.x[0, 0, 0] == pytest.approx(1.860936)  # the first number of the file
    for x, n in zip(samples.x, samples.lengths, strict=True):
        assert x[n - 1].any()
        assert not x[n:].any()


def test_watch_samples_know_their_subject_and_their_recording() -> None:
    samples = DATA_SETS["watch"].load()

    assert samples.groups is not None
    assert samples.recordings is not None
    assert len(set(samples.groups)) == 10
    assert len(set(samples.recordings)) == 140
    for recording in set(samples.recordings):
        assert len(set(samples.groups[samples.recordings == recording])) == 1
    # Neighbours overlap by half: that is why a recording must not be parted.
    first, second = samples.x[0], samples.x[1]
    assert np.array_equal(first[64:], second[:64])


def write_gestures(folder: Path) -> None:
    """Write files as those of the data set: <user>/<gesture>/<repetition>.txt."""
    rng = np.random.default_rng(0)
    for user in ("U01", "U02", "U03"):
        for gesture in ("01", "02"):
            place = folder / "gestures-dataset" / user / gesture
            place.mkdir(parents=True)
            for repetition in range(3):
                n = int(rng.integers(5, 9))
                time = 1384186054309 + 100 * np.arange(n)
                xyz = rng.normal(size=(n, 3)) + int(gesture)
                lines = [
                    f"{t} {t * 1000} {t * 10} {a:.6f} {b:.6f} {c:.6f}"
                    for t, (a, b, c) in zip(time, xyz, strict=True)
                ]
                (place / f"{repetition:02d}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_gestures_are_read_from_a_folder_a_zip_or_a_folder_with_a_zip(
    packed: bool, inside: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "gestures"
    write_gestures(folder)
    files = sorted(folder.rglob("*.txt"))
    files.append(files[0].with_name("._00.txt"))
    files[-1].write_text("what a Mac adds")
    longest = max(len(file.read_text().splitlines()) for file in files[:-1])
    last = [float(v) for v in files[0].read_text().splitlines()[-1].split()[3:]]
    if packed:
        place = tmp_path / "zips"
        place.mkdir()
        with zipfile.ZipFile(place / "gestures-dataset.zip", "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
        folder = place if inside else place / "gestures-dataset.zip"
    elif not inside:
        folder = folder / "gestures-dataset"

    samples = replace(DATA_SETS["gestures"], find=lambda: folder).load()

    assert samples.x.shape == (18, longest, 3)
    assert samples.groups is not None
    assert samples.lengths is not None
    assert samples.groups.tolist() == ["U01"] * 6 + ["U02"] * 6 + ["U03"] * 6
    assert samples.y.tolist() == [0, 0, 0, 1, 1, 1] * 3
    assert samples.classes == ("gesture 1", "gesture 2")
    assert samples.x[0, samples.lengths[0] - 1].tolist() == pytest.approx(last)


def test_folder_without_gestures_and_a_file_of_another_format_are_told(tmp_path: Path) -> None:
    row = replace(DATA_SETS["gestures"], find=lambda: tmp_path)

    with pytest.raises(ValueError, match="holds no file such as U01"):
        row.load()
    (tmp_path / "U01" / "01").mkdir(parents=True)
    (tmp_path / "U01" / "01" / "00.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="must hold rows of 6 numbers"):
        row.load()


def test_fashion_mnist_is_read_from_its_four_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images: list[Any] = []
    for name, n in (("train", 7), ("t10k", 3)):
        images.append(rng.integers(0, 256, size=(n, 28, 28), dtype=np.uint8))
        labels = np.arange(n, dtype=np.uint8)
        header = np.array([2051, n, 28, 28], dtype=">i4").tobytes()
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(header + images[-1].tobytes())
        )
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(header[:8] + labels.tobytes())
        )

    samples = replace(DATA_SETS["fashion_mnist"], find=lambda: tmp_path).load()

    assert np.array_equal(samples.x[:, 0], np.concatenate(images))
    assert samples.y.tolist() == [*range(7), *range(3)]
    assert samples.parts is not None
    assert samples.parts.tolist() == [""] * 7 + ["test"] * 3


@pytest.mark.parametrize("name", ["fashion_mnist", "gestures"])
def test_data_that_are_not_there_say_how_to_give_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)

    with pytest.raises(FileNotFoundError, match="with --data-dir"):
        DATA_SETS[name].load()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"y": np.zeros(3)}, r"y must have the shape \(4,\) as x has 4 samples, but got \(3,\)"),
        ({"x": np.zeros(4)}, r"x must have 2, 3 or 4 dimensions, but got the shape \(4,\)"),
        ({"x": np.full((4, 2), np.nan)}, "x must hold finite numbers only"),
        ({"x": np.full((4, 2), "a")}, "x must hold finite numbers only"),
        ({"lengths": np.ones(4, dtype=int)}, "lengths go with sequences"),
        (
            {"x": np.zeros((4, 5, 2)), "lengths": np.array([1, 2, 3, 6])},
            "lengths must be from 1 to 5",
        ),
        (
            {"x": np.zeros((4, 5, 2)), "lengths": np.array([0, 2, 3, 5])},
            "lengths must be from 1 to 5",
        ),
        ({"groups": np.array(["a"])}, "groups must have the shape"),
    ],
)
def test_samples_that_do_not_fit_together_are_told(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Samples(**{"x": np.zeros((4, 2)), "y": np.zeros(4), **changes})


def test_padding_puts_zeros_after_the_end_and_keeps_the_lengths() -> None:
    x, lengths = pad([np.ones((2, 3), dtype=np.float32), np.full((4, 3), 2.0, dtype=np.float32)])

    assert lengths.tolist() == [2, 4]
    assert x[0, :, 0].tolist() == [1, 1, 0, 0]
    assert x[1, :, 2].tolist() == [2, 2, 2, 2]
