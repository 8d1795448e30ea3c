"""A model that was kept answers as it did when it was trained, without its study's data."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hypertune.data import Samples, split_rows
from hypertune.studies.predictor import Network, keep, keeps, read
from hypertune.studies.study import Study, load_study
from hypertune.tasks.torch.supervised import Supervised

EXAMPLES = Path(__file__).parents[2] / "search_spaces" / "examples"
STUDY = """
from beside import widths
from ray import tune

from hypertune import Study, {kind}
from hypertune.models import MLP, Recurrent

study = Study(
    question="What?",
    factors=("{size}",),
    space={{"{size}": tune.choice(widths)}},
    default={{"{size}": 4}},
    fixed={{"n_layers": 1, "dropout": 0.0}},
    trainable={kind}("{data}", model={model}),
    metric="{metric}",
    mode="{mode}",
    max_epochs=1,
    n_trials=1,
)
"""


def written(folder: Path, **how: str) -> Study:
    folder.mkdir()
    (folder / "beside.py").write_text("widths = [4, 8]\n")
    size = "n_units" if how["model"] == "MLP" else "hidden_size"
    (folder / "own.py").write_text(STUDY.format(size=size, **how))
    sys.modules.pop("beside", None)
    return load_study(str(folder / "own.py"))


def kept(study: Study, folder: Path) -> tuple[Any, Any]:
    """Train an epoch and keep the model; return the training as it was left, and its data."""
    config = study.config(dict(study.default), seed=0) | {"device": "cpu"}
    data = study.trainable.load(test=False)
    loop = study.trainable.start(config, data, metric=study.metric, mode=study.mode)
    loop.step()
    (folder / "trial").mkdir()
    loop.save(folder / "trial")
    assert keeps(study)
    keep(study, config, data, folder / "trial", folder / "model")
    return loop, data


@pytest.mark.parametrize(
    ("kind", "data", "model", "metric", "mode"),
    [
        ("classification", "breast_cancer", "MLP", "val_accuracy", "max"),
        ("classification", "digits", "MLP", "val_accuracy", "max"),
        ("classification", "japanese_vowels", "Recurrent", "val_loss", "min"),
        ("regression", "diabetes", "MLP", "val_mae", "min"),
    ],
)
def test_network_answers_on_inputs_as_they_are(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    data: str,
    model: str,
    metric: str,
    mode: str,
) -> None:
    study = written(tmp_path / "s", kind=kind, data=data, model=model, metric=metric, mode=mode)
    loop, parts = kept(study, tmp_path)
    task: Supervised = study.trainable
    samples = task.source.load()
    rows = split_rows(samples, task.split, val_share=task.val_share, test_share=task.test_share)
    val: Samples = samples.take(rows["val"])
    outputs = loop.predict(loop.val)

    shutil.rmtree(tmp_path / "s")  # nothing but the folder is needed

    def load(self: Supervised, *, test: bool) -> None:
        raise AssertionError("the data are read")

    monkeypatch.setattr(Supervised, "load", load)
    sys.modules.pop("beside")
    found = read(tmp_path / "model")
    assert isinstance(found, Network)
    inputs = val.x if val.lengths is None else {"x": val.x, "lengths": val.lengths}
    answers = found.predict(inputs)
    if kind == "regression":
        assert np.allclose(answers, outputs[:, 0].numpy() * parts.y_sd + parts.y_mean, rtol=1e-5)
    else:
        told = outputs[:, 0] > 0 if outputs.shape[1] == 1 else torch.argmax(outputs, dim=1)
        assert list(answers) == [samples.classes[int(k)] for k in told]
    wrong = np.zeros((2, *np.shape(val.x)[1:], 3))
    with pytest.raises(ValueError, match="inputs must have the shape"):
        found.predict(wrong)


def test_forecast_needs_its_window(tmp_path: Path) -> None:
    kept(load_study("gru_window"), tmp_path)
    found = read(tmp_path / "model")
    assert np.shape(found.predict(np.zeros(30))) == (1, 12)
    with pytest.raises(ValueError, match="the last 24 values are needed"):
        found.predict(np.zeros((1, 23)))


def test_estimator_is_fitted_again(tmp_path: Path) -> None:
    study = load_study(str(EXAMPLES / "boosting.py"))
    study = study.with_max_epochs(2)
    loop, data = kept(study, tmp_path)
    expected = loop.best_model().predict(data.val[0])
    assert np.array_equal(read(tmp_path / "model").predict(data.val[0]), expected)


@pytest.mark.parametrize("name", ["function", "script", "stepwise"])
def test_what_only_the_users_code_can_read_is_not_kept(name: str) -> None:
    assert not keeps(load_study(str(EXAMPLES / f"{name}.py")))


def test_data_are_identified_by_what_is_in_them() -> None:
    study = load_study("units_layers")
    task: Supervised = study.trainable
    first, again = (task.data_set(task.load(test=test)) for test in (False, True))
    assert first == again
    n = sum(first[f"n_{part}"] for part in ("train", "val", "test"))
    assert n == len(task.source.load().y)
    assert Path(first["source"]).is_file()
    other = task.on("breast_cancer")
    assert other.data_set(other.load(test=False))["digest"] != first["digest"]
