"""A study on other data than its own."""

from dataclasses import replace

from hypertune.core.data_options import OtherData
from hypertune.core.errors import SettingError
from hypertune.data import DATA_SETS, DataSet, Series, csv_samples, csv_series, npz_samples
from hypertune.studies.study import Study
from hypertune.tasks.torch.forecasting import Forecasting
from hypertune.tasks.torch.supervised import Supervised


def with_data(study: Study, other: OtherData) -> Study:
    """Return the study on other data; on its own if nothing is asked for.

    The task stays as it is: a forecast stays one, classes stay classes.

    Raises:
        HypertuneError: This study cannot be run on these data.
    """
    task, name = study.trainable, other.data or study.trainable.data
    columns = {name: getattr(other, name) for name in ("target", "group", "part", "time")}
    given = [value for value in (other.data, other.csv, other.npz) if value is not None]
    problems = [
        f"--{flag} goes with --csv."
        for flag, value in columns.items()
        if value is not None and other.csv is None
    ]
    if other.csv is not None and other.target is None:
        problems.append("--csv needs --target, the column with what is to be said.")
    if len(given) > 1:
        problems.append("Give only one of --data, --csv and --npz.")
    if other.data_dir is not None and not (name in DATA_SETS and DATA_SETS[name].elsewhere):
        places = ", ".join(known for known, row in DATA_SETS.items() if row.elsewhere)
        problems.append(f"--data-dir goes with the data sets {places}, but got '{name}'.")
    if not given and other.data_dir is None and not problems:
        return study
    if not isinstance(task, Forecasting | Supervised):
        problems.append("The data of this study are its own: change its file.")
    if problems or not isinstance(task, Forecasting | Supervised):
        raise SettingError("\n".join(problems))
    try:
        if isinstance(task, Forecasting):
            return replace(study, trainable=task.on(_series(other, name)))
        return replace(study, trainable=task.on(_samples(other, name, task.source.targets)))
    except (OSError, ValueError) as problem:
        raise SettingError(f"The data cannot be used: {problem}") from problem


def _series(other: OtherData, name: str) -> str | Series:
    if (other.npz, other.group, other.part) != (None, None, None):
        raise ValueError("a series is given by --csv, --target and --time")
    if other.csv is not None and other.target is not None:
        return csv_series(other.csv, target=other.target, time=other.time)
    return name


def _samples(other: OtherData, name: str, targets: str) -> str | DataSet:
    if other.time is not None:
        raise ValueError("--time goes with a forecast; samples have no order")
    if other.csv is not None and other.target is not None:
        return csv_samples(
            other.csv, target=other.target, group=other.group, part=other.part, targets=targets
        )
    if other.npz is not None:
        return npz_samples(other.npz, targets=targets)
    if other.data_dir is None:
        return name
    place = other.data_dir.expanduser().resolve()
    if not place.exists():
        raise FileNotFoundError(f"--data-dir '{place}' does not exist")
    return replace(DATA_SETS[name], find=lambda: place)
