"""Train, validation and test parts of samples, and the checks that none leaks into another."""

import re
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypertune.data.samples import FURTHER, Ints, Labels, Samples

SPLITS = ("stratified", "random", "group")
PARTS = ("train", "val", "test")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class LeakError(ValueError):
    """A part knows something of another one."""


def split_rows(
    samples: Samples, how: str, *, val_share: float, test_share: float, seed: int = 0
) -> dict[str, Ints]:
    """Return the rows of each part, in ascending order; further test sets as ``test:NAME``.

    Parts that the data say themselves are kept; what they leave out is split.

    Args:
        samples: What is split.
        how: ``stratified`` (by class), ``random``, or ``group`` (by `Samples.groups`).
        val_share: Share of the samples, or groups, that make the validation part; where the data
            say a test part, of those outside of it.
        test_share: The same of the test part.
        seed: Of the draw.

    Raises:
        LeakError: The parts are not apart.
        ValueError: The samples cannot be split so.
    """
    said = np.full(len(samples.x), "") if samples.parts is None else samples.parts
    further = [f"{FURTHER}{name}" for name in samples.test_sets if _NAME.fullmatch(name)]
    unknown = sorted(set(said.tolist()) - {"", *PARTS, *further})
    if unknown:
        raise ValueError(
            "parts must be train, val or test, empty, or test:NAME for a further test set (a name "
            f"of letters, digits, '_' and '-'), but got {unknown[0]!r}"
        )
    brings_test = "test" in said
    if how == "group" and samples.groups is None:
        raise ValueError("a split by group needs groups, but the data have none")
    if not brings_test:
        free = np.flatnonzero(said == "")
        said = _set(said, _draw(samples, free, how, test_share, seed), "test")
    if "val" not in said:
        free = np.flatnonzero(said == "")
        share = val_share if brings_test else val_share / (1 - test_share)
        said = _set(said, _draw(samples, free, how, share, seed), "val")
    said = np.where(said == "", "train", said)
    rows = {part: np.flatnonzero(said == part) for part in (*PARTS, *further)}
    check_leaks(samples, rows, by_group=how == "group")
    return rows


def _set(said: Labels, rows: Ints, part: str) -> Labels:
    drawn = np.zeros(len(said), dtype=bool)
    drawn[rows] = True
    return np.where(drawn, part, said)


def _draw(samples: Samples, free: Ints, how: str, share: float, seed: int) -> Ints:
    """Return a share of the free rows."""
    from sklearn.model_selection import GroupShuffleSplit, train_test_split  # the driver's business

    if how == "group":
        assert samples.groups is not None
        cut = GroupShuffleSplit(1, test_size=share, random_state=seed)
        _, drawn = next(cut.split(free, groups=samples.groups[free]))
        return np.sort(free[drawn])
    classes = samples.y[free] if how == "stratified" else None
    _, drawn = train_test_split(free, test_size=share, stratify=classes, random_state=seed)
    return np.sort(drawn)


def check_leaks(samples: Samples, rows: dict[str, Ints], *, by_group: bool) -> None:
    """Check that parts share no sample, no recording and, if split so, no group.

    Test sets may share them among themselves: nothing is learned from either.

    Two samples of images or sequences that are equal to the last digit count as the same one; rows
    of a table may be equal by chance.

    Raises:
        LeakError: They do share something; the message lists it all.
        ValueError: A part is empty.
    """
    empty = [part for part, own in rows.items() if len(own) == 0]
    if empty:
        raise ValueError(f"the {empty[0]} part is empty")
    names: dict[str, NDArray[Any]] = {"sample": np.arange(len(samples.x))}
    if samples.kind != "table":
        names["copy of a sample"] = _copies(samples)
    if samples.recordings is not None:
        names["recording"] = samples.recordings
    if by_group and samples.groups is not None:
        names["group"] = samples.groups
    problems = []
    for what, keys in names.items():
        for a, b in combinations(rows, 2):
            if a not in ("train", "val"):
                continue
            shared = np.intersect1d(keys[rows[a]], keys[rows[b]])
            if len(shared):
                one = shared[0]
                problems.append(
                    f"{len(shared)} x the same {what} is in {a} and in {b} ('{one}' for one)"
                )
    if problems:
        raise LeakError("the parts leak: " + "; ".join(problems))


def _copies(samples: Samples) -> NDArray[np.int64]:
    """Return the first row that holds the same sample, for each row."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(x.tobytes(), row) for row, x in enumerate(samples.x)])
