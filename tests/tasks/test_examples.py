"""The examples of own training: each trains, goes on from its checkpoint, and is tested."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Make

from hypertune.engine.ray.worker import WorkerJob
from hypertune.studies.study import load_study, study_names

EXAMPLES = Path(__file__).parents[2] / "search_spaces" / "examples"


@pytest.mark.parametrize(
    ("name", "better_than"),
    [
        ("function", 1.0),
        ("stepwise", 65.0),
        ("script", 0.8),
        ("boosting", -0.8),
        pytest.param(
            *("keras_cnn", 1.0),
            # Keras turns tensors into arrays in a way that NumPy 2 would rather not see.
            marks=pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
        ),
    ],
)
def test_example_trains_and_goes_on(
    name: str,
    better_than: float,
    make_worker: Make,
    job: WorkerJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # the example sets it too, but for good
    study = load_study(str(EXAMPLES / f"{name}.py"))
    assert name not in study_names()
    config = study.config(study.default, seed=0)
    job = replace(job, config=config, metric=study.metric, mode=study.mode, to_epoch=2)
    worker = make_worker(job, study.trainable)
    worker.data = study.trainable.load(test=False)
    results = [worker.train(), worker.train()]
    onward = replace(job, to_epoch=4, checkpoint=f"{job.folder}/epoch-2")
    worker.reset_config(onward.to_dict())
    results += [worker.train(), worker.train()]

    assert [r["failure"] for r in results] == [None] * 4
    assert [r["epoch"] for r in results] == [1, 2, 3, 4]
    values = [r["metrics"][study.metric] for r in results]
    sign = -1 if study.mode == "max" else 1
    assert sign * values[-1] < sign * better_than
    assert sign * values[-1] < sign * values[0]
    if study.test_metric is not None:
        monkeypatch.setattr("ray.get", lambda reference: study.trainable.load(test=True))
        test: Any = "reference"
        judged = replace(job, checkpoint=f"{job.folder}/epoch-4", test_data=test)
        worker.reset_config(judged.to_dict())
        assert worker.train()["metrics"].keys() >= {study.test_metric}
