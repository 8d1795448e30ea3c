"""What TensorBoard shows of a study is what its journal holds."""

from pathlib import Path
from typing import Any

import pytest
from made_studies import DEFAULT, Made, write_study
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from hypertune.core.errors import SettingError
from hypertune.engine.prepare import prepare
from hypertune.settings import Settings
from hypertune.studies.study import Study
from hypertune.tracking.tensorboard import HISTOGRAMS, tensorboard_folder, write_tensorboard

LSTM = {**DEFAULT, "cell": "lstm"}
TRIALS = [
    Made(losses=[3.0, 2.5, 2.0]),
    Made(losses=[1.0], config=LSTM, reason="stopped"),  # better, but not comparable
    Made(losses=[2.0, 1.5, 1.8], config=LSTM, test=1.7, metrics={"train_loss": 0.5}),
    Made(losses=[2.0, 1.6, 1.7], reason="complete"),
    Made(losses=[0.5], reason="failed", detail="boom"),
    Made(losses=[1.9], role="baseline", label="naive"),
]


def read(folder: Path, trial: int) -> EventAccumulator:
    found = EventAccumulator(str(tensorboard_folder(folder, trial)))
    found.Reload()
    return found


@pytest.mark.parametrize(
    ("which", "expected"),
    [("all", [0, 1, 2, 3, 4]), ("best", [2, 0]), ("1", [2]), ("2", [2, 3]), ("9", [2, 3, 0, 1])],
)
def test_trials_that_are_asked_for_are_kept(
    which: str, expected: list[int], tmp_path: Path
) -> None:
    folder = write_study(tmp_path / "s", TRIALS)
    for trial in range(5):
        at = tensorboard_folder(folder, trial)
        at.mkdir(parents=True)
        (at / f"events.out.tfevents.1.x{HISTOGRAMS}").touch()
        (at / "events.out.tfevents.1.x").touch()  # of an earlier session

    assert write_tensorboard(folder, which) == expected
    assert {path.name for path in (folder / "tensorboard").iterdir()} == {
        f"trial-{trial:03d}" for trial in expected
    }
    files = [path.name for path in tensorboard_folder(folder, expected[0]).iterdir()]
    assert sum(name.endswith(HISTOGRAMS) for name in files) == 1
    assert len(files) == 2


def test_scalars_and_hparams_are_those_of_the_journal(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", TRIALS)
    write_tensorboard(folder, "all")
    best, stopped = read(folder, 2), read(folder, 1)

    losses = [(e.step, e.value) for e in best.Scalars("val/loss")]
    assert losses == [(1, 2.0), (2, 1.5), (3, pytest.approx(1.8))]
    assert [e.value for e in best.Scalars("train/loss")] == [0.5] * 3
    assert best.Scalars("final/best_val_loss")[0].value == 1.5
    assert best.Scalars("final/test_loss")[0].value == pytest.approx(1.7)
    assert "final/best_val_loss" not in stopped.Tags()["scalars"]  # not comparable
    data: Any = plugin_data_pb2.HParamsPluginData
    start = best.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = data.FromString(start).session_start_info.hparams
    assert values["cell"].string_value == "lstm"
    assert values["window"].number_value == 12
    experiment = best.summary_metadata["_hparams_/experiment"].plugin_data.content
    metrics = data.FromString(experiment).experiment.metric_infos
    assert [m.name.tag for m in metrics] == ["final/best_val_loss", "final/test_loss"]


@pytest.mark.parametrize("which", ["some", "0", "-1", ""])
def test_trials_that_cannot_be_asked_for_are_told(which: str) -> None:
    with pytest.raises(SettingError, match="--tensorboard must be all, best, or how many of the"):
        Settings(tensorboard=which)


def test_missing_package_is_told_before_anything_starts(
    toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = Settings(tensorboard="best", studies_dir=tmp_path)
    with pytest.raises(SettingError, match=r"pip install 'hypertune\[tensorboard\]'"):
        prepare(toy, settings)
