"""A study may run on other data, where they fit its task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypertune.core.data_options import OtherData
from hypertune.core.errors import HypertuneError, SettingError
from hypertune.studies.other_data import with_data
from hypertune.studies.study import Study, load_study


def epoch(study: Study) -> dict[str, float]:
    config = {**study.config(study.default, seed=0), "device": "cpu"}
    data = study.trainable.load(test=False)
    loop = study.trainable.start(config, data, metric=study.metric, mode=study.mode)
    return dict(loop.step())


@pytest.mark.parametrize(
    ("space", "data"),
    [
        ("gru_window", "electricity"),
        ("layers_hidden", "watch"),
        ("rnn_layers", "watch"),
        ("sequence_models", "watch"),
        ("units_layers", "mnist_5000"),
        ("cnn", "digits"),
    ],
)
def test_study_trains_on_another_data_set(space: str, data: str) -> None:
    study = with_data(load_study(space), OtherData(data=data))

    assert study.trainable.data == data
    assert study.metric in epoch(study)


def test_study_trains_on_files_of_ones_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table, arrays, series = tmp_path / "t.csv", tmp_path / "a.npz", tmp_path / "s.csv"
    rows = [f"{a},{b},{'up' if a + b > 0 else 'down'}" for a, b in rng.normal(size=(90, 2))]
    table.write_text("a,b,way\n" + "\n".join(rows) + "\n")
    np.savez(
        arrays, x=rng.normal(size=(90, 7, 2)), y=np.arange(90) % 3, lengths=np.arange(90) % 5 + 3
    )
    series.write_text("value\n" + "\n".join(str(np.sin(i / 5)) for i in range(1600)) + "\n")

    own = {
        "units_layers": OtherData(csv=table, target="way"),
        "layers_hidden": OtherData(npz=arrays),
        "gru_window": OtherData(csv=series, target="value"),
    }
    for space, other in own.items():
        study = with_data(load_study(space), other)
        assert study.metric in epoch(study)
        baselines = study.trainable.baselines(study.trainable.load(test=False), test=False)
        assert "seasonal naive" not in baselines


def test_nothing_else_asked_for_leaves_the_study_as_it_is(toy: Study) -> None:
    study = load_study("cnn")

    assert with_data(study, OtherData()) is study
    assert with_data(toy, OtherData()) is toy


@pytest.mark.parametrize(
    ("space", "options", "problem"),
    [
        ("cnn", {"data": "fashion"}, "Unknown data set 'fashion'. Did you mean 'fashion_mnist'"),
        ("gru_window", {"data": "digits"}, "Unknown data set 'digits'"),
        ("cnn", {"data": "diabetes"}, "the targets of 'diabetes' are numbers, not classes"),
        (
            "cnn",
            {"data": "digits", "npz": Path("x.npz")},
            "Give only one of --data, --csv and --npz",
        ),
        ("cnn", {"csv": Path("x.csv")}, "--csv needs --target"),
        ("cnn", {"csv": Path("no.csv"), "target": "y"}, "No such file or directory: 'no.csv'"),
        (
            "cnn",
            {"target": "y", "group": "g"},
            "--target goes with --csv.\n--group goes with --csv.",
        ),
        ("cnn", {"csv": Path("x"), "target": "y", "time": "t"}, "--time goes with a forecast"),
        ("cnn", {"part": "p"}, "--part goes with --csv."),
        ("gru_window", {"npz": Path("x.npz")}, "a series is given by --csv, --target and --time"),
        (
            "cnn",
            {"data_dir": Path("x")},
            "--data-dir goes with the data sets fashion_mnist, gestures",
        ),
        ("cnn", {"data": "gestures", "data_dir": Path("no/x")}, "no/x' does not exist"),
        ("watch_window", {"data": "japanese_vowels"}, "'window' is read neither by the training"),
    ],
)
def test_data_that_do_not_fit_are_told(space: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(HypertuneError) as error:
        with_data(load_study(space), OtherData(**options))

    assert problem in str(error.value)


def test_study_with_a_task_of_its_own_keeps_its_data(toy: Study) -> None:
    with pytest.raises(SettingError, match="The data of this study are its own"):
        with_data(toy, OtherData(data="digits"))
