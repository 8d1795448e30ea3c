"""The model of a study is what was measured, and trains on."""

import contextlib
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_worker import OneWorker, settings
from ray import tune
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hypertune import Study, engine, load_model
from hypertune.analysis import summarize, write_report
from hypertune.analysis.predictions import read_predictions
from hypertune.core.errors import SettingError
from hypertune.engine.folder import locked
from hypertune.engine.saved_model import keep_best_model
from hypertune.journal.store import Journal, TrialRow
from hypertune.studies.predictor import Network, read
from hypertune.studies.study import load_study
from hypertune.tasks.estimator import Estimator
from hypertune.tasks.torch.loop import TensorLoop
from hypertune.tracking.tensorboard import tensorboard_folder

EXAMPLES = Path(__file__).parents[2] / "search_spaces" / "examples"


def run(study: Study, tmp_path: Path, n_trials: int = 3) -> Path:
    how = settings(tmp_path, method="random", n_trials=n_trials, max_epochs=3, n_repeats=1)
    return engine.run(study, how).folder


def trials_of(folder: Path) -> list[TrialRow]:
    with closing(Journal(folder / "journal.db", read_only=True)) as journal:
        return journal.trials()


def values(folder: Path, study: Study) -> dict[int, list[float]]:
    """Return the metric by epoch of the searched trials."""
    journal = Journal(folder / "journal.db", read_only=True)
    found = {
        t.id: [row.metrics[study.metric] for row in journal.results(trial=t.id)]
        for t in journal.trials()
        if t.role == "search"
    }
    journal.close()
    return found


@pytest.mark.usefixtures("one")
def test_network_predicts_as_in_its_best_epoch_and_trains_on(tmp_path: Path) -> None:
    study = load_study("gru_window")
    folder = run(study, tmp_path)
    losses = values(folder, study)
    found = load_model("s", studies_dir=tmp_path / "studies")
    loop: Any = found.loop

    def judged() -> float:
        with torch.no_grad():
            outputs = found.model(*loop.val[slice(None)])
        return float(loop.validate(outputs)[study.metric])

    assert isinstance(loop, TensorLoop)
    assert not found.model.training
    best = summarize(folder).best
    assert best is not None
    assert found.trial == best.id
    assert judged() == pytest.approx(min(losses[found.trial]), rel=1e-6)
    assert found.config["seed"] == 0
    metrics = loop.step()
    assert loop.epoch == 4
    assert np.isfinite(metrics[study.metric])
    assert judged() == pytest.approx(min(losses[found.trial]), rel=1e-6)  # a model of its own

    # From values as they come: the forecasts that were scored.
    data, origins = found.data, found.data.origins("val")
    forecasts = found.predict(data.inputs(origins, data.max_window))
    naive = np.abs(data.targets(origins) - data.inputs(origins, 1)).mean()
    error = np.abs(forecasts - data.targets(origins)).mean()
    assert error / naive == pytest.approx(min(losses[found.trial]), rel=1e-4)

    # It is kept for MLflow too, once.
    kept = read(folder / "model")
    assert isinstance(kept, Network)
    for name, weights in found.model.state_dict().items():
        assert torch.equal(weights, kept.model.state_dict()[name])
    journal = Journal(folder / "journal.db")
    assert [e.trial for e in journal.events(kind="model")] == [found.trial]
    keep_best_model(journal, study.with_max_epochs(3), study.trainable.load(test=False))
    assert len(journal.events(kind="model")) == 1
    sizes = {k: v for k, v in journal.study()["data_set"].items() if k.startswith("n_")}
    assert sizes == {"n_train": 1973, "n_val": 424, "n_test": 423}
    journal.close()


@pytest.mark.usefixtures("one")
def test_report_that_is_written_later_is_journaled(tmp_path: Path) -> None:
    folder = run(load_study(str(EXAMPLES / "function.py")), tmp_path, n_trials=1)

    def n_noted() -> int:
        with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
            return len(journal.events(kind="report"))

    before = n_noted()
    engine.note_report(folder)
    assert n_noted() == before + 1
    with locked(folder):  # a driver is at work, and will write its own
        engine.note_report(folder)
    assert n_noted() == before + 1


@pytest.mark.usefixtures("one")
def test_what_the_winner_says_is_kept_when_the_test_part_is_opened(tmp_path: Path) -> None:
    folder = run(load_study("regularization"), tmp_path)
    summary = summarize(folder)
    best = summary.scores[0]
    with closing(Journal(folder / "journal.db", read_only=True)) as journal:
        looks = {e.data["label"]: e for e in journal.events(kind="test")}
    metrics = looks["best"].data["metrics"]
    test, elsewhere = read_predictions(folder)

    assert best.test == metrics["test_loss"]
    assert best.further == {"mnist": metrics["test_mnist_loss"]}
    assert looks["majority"].data["metrics"]["test_mnist_accuracy"] == pytest.approx(0.1)
    for said, name in ((test, "test"), (elsewhere, "test_mnist")):
        share = said.record["n_right"] / said.record["n"]
        assert share == pytest.approx(metrics[f"{name}_accuracy"])
    kept = {path.name for path in (folder / "predictions").iterdir()}
    assert kept == {f"trial-{looks[label].trial:03d}.npz" for label in ("best", "default")}
    # From images as they come: what was said of the errors when the test part was opened.
    found: Any = load_model(folder, trial=best.trial)
    images, wrong = found.task.source.load().x, test.record["worst"]
    at = np.array([error["row"] for error in wrong])
    assert found.predict(images[at]).tolist() == [error["predicted"] for error in wrong]
    (sentence,) = summary.on_further
    assert sentence.startswith("On the test set 'mnist' the best configuration reaches ")


@pytest.mark.usefixtures("one")
def test_what_is_wrong_inside_is_part_of_why_a_trial_ended_and_of_the_report(
    tmp_path: Path,
) -> None:
    study = load_study("init_optimizer")
    space = {**study.space, "init": tune.choice(["zero", "glorot"])}
    default = {"init": "zero", "optimizer": "sgd", "learning_rate": 1.0}
    study = replace(study, space=space, default={**study.default, **default})
    asked: dict[str, Any] = {"diagnose": True, "tensorboard": "best"}
    how = settings(tmp_path, method="random", n_trials=1, max_epochs=3, n_repeats=0, **asked)
    folder = engine.run(study, how).folder
    (trial,) = (t for t in trials_of(folder) if t.role == "search")
    with closing(Journal(folder / "journal.db", read_only=True)) as journal:
        looks = journal.events(kind="diagnosis", trial=trial.id)
    html = write_report(folder).read_text()
    record = json.loads((folder / "report" / "report.json").read_text())

    assert trial.reason == "complete"
    assert trial.detail is not None
    assert trial.detail.startswith("diagnosis: weights that never change: 3 epochs left 'layers.")
    assert "; not learning: after 3 epochs the loss on training samples is 2.3" in trial.detail
    assert [look.data["epoch"] for look in looks] == [1, 2, 3]
    assert record["inside"]["findings"] == {"0": looks[-1].data["findings"]}
    assert "Inside of the networks" in html
    assert "Weights that never change, in 1 of 1 trials (0). Trial 0: 3 epochs left" in html
    shown = EventAccumulator(str(tensorboard_folder(folder, 0)), {"histograms": 0})
    shown.Reload()
    assert [e.step for e in shown.Histograms("weights/layers.1.weight")] == [1, 2, 3]
    assert [e.step for e in shown.Histograms("activations/layers.2")] == [1, 2, 3]
    assert len(shown.Scalars("val/loss")) == 3
    with pytest.raises(SettingError, match="--diagnose looks inside of the networks of forecast"):
        engine.run(load_study(str(EXAMPLES / "function.py")), replace(how, name="t"))


@pytest.mark.usefixtures("one")
def test_estimator_scores_as_in_its_best_epoch(tmp_path: Path) -> None:
    study = load_study(str(EXAMPLES / "boosting.py"))
    study = replace(study, default={**study.default, "max_iter": 9})
    folder = run(study, tmp_path, n_trials=1)
    scores = values(folder, study)[0]
    found = load_model(folder, space=study)
    task = study.trainable

    assert isinstance(task, Estimator)
    score = task.scores(found.model, "val", task.load(test=False).val)[study.metric]
    assert score == max(scores)


@pytest.mark.usefixtures("one")
def test_class_of_ones_own_is_given_back_as_it_was_saved(tmp_path: Path) -> None:
    study = load_study(str(EXAMPLES / "stepwise.py"))
    folder = run(study, tmp_path, n_trials=1)
    found = load_model(folder)

    assert found.model._mae(slice(265, 353)) == values(folder, study)[0][-1]


def test_what_cannot_be_loaded_is_said(one: OneWorker, tmp_path: Path) -> None:
    study = load_study(str(EXAMPLES / "function.py"))
    folder = run(study, tmp_path, n_trials=6)
    lost = next(k for k in range(6) if not (folder / "checkpoints" / f"trial-00{k}").exists())

    with pytest.raises(SettingError, match="There is no study 't' in"):
        load_model("t", studies_dir=tmp_path / "studies")
    with pytest.raises(SettingError, match=f"There is no checkpoint of trial {lost} of 's'; there"):
        load_model(folder, trial=lost)
    with pytest.raises(SettingError, match=r"Only the code that trained this .* see '.*/epoch-3'"):
        load_model(folder)
