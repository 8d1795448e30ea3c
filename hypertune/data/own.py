"""Data of one's own: CSV and NPZ files."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hypertune.data.samples import DataSet, Samples
from hypertune.data.series import Floats, Series

_NPZ_KEYS = ("x", "y", "lengths", "groups", "recordings", "parts")


def csv_samples(
    path: str | Path,
    *,
    target: str,
    group: str | None = None,
    part: str | None = None,
    targets: str = "classes",
) -> DataSet:
    """Return a table: a row a sample, a column a feature.

    Args:
        path: A CSV file with a header; all features are numbers, and nothing is missing.
        target: Column with what is to be said.
        group: Column with what a row belongs to; it is no feature, and splits keep it together.
        part: Column with the part of a row, as in `Samples`; it is no feature, and may be empty.
        targets: ``classes`` or ``numbers``.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a table; the message lists all breaches.
    """
    read = functools.partial(_csv_samples, target=target, group=group, part=part, targets=targets)
    return _own(Path(path), read, targets=targets)


def npz_samples(path: str | Path, *, targets: str = "classes") -> DataSet:
    """Return samples from NumPy arrays.

    Args:
        path: An NPZ file with ``x`` and ``y`` and, where they apply, ``lengths``, ``groups``,
            ``recordings`` and ``parts``, all as in `Samples`.
        targets: ``classes`` or ``numbers``.

    Raises:
        OSError: The file cannot be read.
        ValueError: It does not hold such arrays.
    """
    return _own(Path(path), functools.partial(_npz_samples, targets=targets), targets=targets)


def csv_series(
    path: str | Path, *, target: str, time: str | None = None, season: int = 1
) -> Series:
    """Return a series: a row a time step.

    Args:
        path: A CSV file with a header.
        target: Column with the values.
        time: Column with numbers or dates, by which rows are put in order; steps must be even
            within a half. None if rows are in order.
        season: Steps after which it repeats itself; 1 if it does not.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a series.
    """
    read = functools.partial(_csv_series, target=target, time=time)
    path = Path(path)
    read(path)  # what is wrong with it is said before anything starts
    return Series(
        summary=f"{path.name}, {target}",
        season=season,
        find=functools.partial(Path, path.resolve()),
        read=read,
    )


def _own(path: Path, read: "functools.partial[Samples]", *, targets: str) -> DataSet:
    samples = read(path)  # what is wrong with it is said before anything starts
    classes = len(samples.classes)
    kind = "stratified" if targets == "classes" else "random"
    return DataSet(
        summary=path.name,
        split=kind if samples.groups is None else "group",
        find=functools.partial(Path, path.resolve()),
        read=read,
        n_classes=classes if targets == "classes" else None,
        shape=samples.x.shape[1:],
        max_window=samples.x.shape[1]
        if samples.kind == "sequence" and samples.lengths is None
        else None,
        test_sets=samples.test_sets,
    )


def _csv_samples(
    path: Path, *, target: str, group: str | None, part: str | None, targets: str
) -> Samples:
    table = _table(path, target, group, part, may_be_empty=part)
    features = table.drop(columns=[name for name in (target, group, part) if name is not None])
    words = [str(name) for name in features if not pd.api.types.is_numeric_dtype(features[name])]
    problems = [f"column '{name}' must hold numbers: encode it or leave it out" for name in words]
    problems += [] if len(features.columns) else ["there is no column beside the target"]
    if problems:
        raise ValueError(f"'{path}': " + "; ".join(problems))
    y, classes = _targets(table[target].to_numpy(), targets, path)
    return Samples(
        x=features.to_numpy(dtype=np.float32),
        y=y,
        classes=classes,
        groups=table[group].astype(str).to_numpy(dtype=str) if group else None,
        parts=table[part].fillna("").astype(str).to_numpy(dtype=str) if part else None,
    )


def _npz_samples(path: Path, *, targets: str) -> Samples:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    unknown, missing = set(arrays) - set(_NPZ_KEYS), {"x", "y"} - set(arrays)
    if unknown or missing:
        raise ValueError(
            f"'{path}' must hold x and y and may hold {', '.join(_NPZ_KEYS[2:])}, but holds "
            f"{', '.join(sorted(arrays)) or 'nothing'}"
        )
    y, classes = _targets(arrays.pop("y"), targets, path)
    words = {name: arrays.pop(name).astype(str) for name in _NPZ_KEYS[3:] if name in arrays}
    return Samples(y=y, classes=classes, **arrays, **words)


def _targets(
    values: NDArray[Any], targets: str, path: Path
) -> tuple[NDArray[Any], tuple[str, ...]]:
    if targets == "numbers":
        return values.astype(np.float32), ()
    classes, y = np.unique(values.astype(str), return_inverse=True)
    if not 2 <= len(classes) <= len(values) // 2:
        raise ValueError(
            f"'{path}' has {len(classes)} classes in {len(values)} samples: are they numbers?"
        )
    return y.astype(np.int64), tuple(classes.tolist())


def _csv_series(path: Path, *, target: str, time: str | None) -> Floats:
    table = _table(path, target, time)
    if time is not None:
        times = table[time]
        if not pd.api.types.is_numeric_dtype(times):
            times = pd.to_datetime(times)
        order = times.to_numpy().argsort(kind="stable")
        table, steps = table.iloc[order], np.diff(times.to_numpy()[order].astype(np.float64))
        if len(steps) and not (steps > 0.5 * np.median(steps)).all():
            raise ValueError(f"'{path}': column '{time}' holds the same time twice")
        if len(steps) and not (steps < 1.5 * np.median(steps)).all():
            raise ValueError(f"'{path}': column '{time}' must be evenly spaced, but has gaps")
    values: Floats = table[target].to_numpy(dtype=np.float32)
    return values


def _table(path: Path, *columns: str | None, may_be_empty: str | None = None) -> pd.DataFrame:
    table = pd.read_csv(path)
    asked = [name for name in columns if name is not None]
    absent = [name for name in asked if name not in table]
    if absent:
        raise ValueError(
            f"'{path}' has no column '{absent[0]}', but {', '.join(map(str, table.columns))}"
        )
    gaps = [str(name) for name in table if name != may_be_empty and table[name].isna().any()]
    if gaps:
        raise ValueError(f"'{path}': values are missing in {', '.join(gaps)}")
    return table
