"""Estimators of scikit-learn: what an epoch is, what is kept of a trial, and how data are split."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Make
from ray import tune
from sklearn.datasets import load_digits, load_iris, make_regression
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from hypertune import Study, estimator
from hypertune.core.errors import StudyError
from hypertune.core.space import Space
from hypertune.engine.ray.worker import WorkerJob
from hypertune.tasks.estimator import Estimator, EstimatorLoop

IRIS = partial(load_iris, return_X_y=True)
REGRESSION = partial(make_regression, n_samples=200, random_state=0)
RESERVED = {"max_epochs": 4, "seed": 3, "device": "cpu"}


def loop_of(task: Estimator, **config: Any) -> EstimatorLoop:
    whole = {**RESERVED, **config}
    metric = task.metrics[0]
    return task.start(whole, task.load(test=False), metric=metric, mode="max")


def classify(make: Any, **settings: Any) -> Estimator:
    return estimator(make, IRIS, kind="classification", **settings)


@pytest.mark.parametrize(
    ("make", "config", "sizes"),
    [
        (RandomForestClassifier, {"n_estimators": 10}, [3, 5, 8, 10]),
        (RandomForestClassifier, {"n_estimators": 2}, [1, 1, 2, 2]),
        (HistGradientBoostingClassifier, {"max_iter": 8, "min_samples_leaf": 5}, [2, 4, 6, 8]),
    ],
)
def test_ensemble_grows_to_its_size_over_the_epochs(
    make: Any, config: dict[str, Any], sizes: list[int]
) -> None:
    loop, grown = loop_of(classify(make), **config), []
    for _ in range(4):
        loop.step()
        grown.append(
            len(getattr(loop._model, "estimators_", getattr(loop._model, "_predictors", [])))
        )

    assert grown == sizes
    assert not loop.converged


@pytest.mark.parametrize("make", [SGDClassifier, MLPClassifier])
def test_partial_fit_is_an_epoch(make: Any) -> None:
    loop = loop_of(classify(make, preprocess=StandardScaler))
    scores = [loop.step()["val_accuracy"] for _ in range(30)]

    assert scores[-1] > max(scores[0], 0.8)
    assert loop._model.t_ == 30 * 90 + (make is SGDClassifier)  # samples seen
    assert not loop.converged


@pytest.mark.parametrize(
    "make", [LogisticRegression, lambda C: make_pipeline(StandardScaler(), LogisticRegression(C=C))]
)
def test_what_is_fitted_in_one_go_has_converged_after_it(
    make: Any, make_worker: Make, job: WorkerJob
) -> None:
    config = {"C": 0.5, **RESERVED}
    worker = make_worker(replace(job, config=config, to_epoch=4), classify(make))
    worker.data = worker.task.load(test=False)
    worker.job = replace(worker.job, metric="val_accuracy", mode="max")
    result = worker.train()

    assert result["failure"] is None
    assert (result["epoch"], result["converged"], result["done"]) == (1, True, True)
    assert result["metrics"]["val_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("make", "kind", "config"),
    [
        (RandomForestClassifier, "classification", {"n_estimators": 8}),
        (SGDClassifier, "classification", {}),
        (GradientBoostingRegressor, "regression", {"n_estimators": 8, "subsample": 0.5}),
    ],
)
def test_trial_that_goes_on_and_one_that_is_tested_are_fitted_to_the_same_result(
    make: Any, kind: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    task = estimator(make, IRIS if kind == "classification" else REGRESSION, kind=kind)
    whole, halved, again = (loop_of(task, **config) for _ in range(3))
    scores = [whole.step() for _ in range(4)]
    for _ in range(2):
        halved.step()
    halved.save(tmp_path)
    again.load(tmp_path)

    assert [again.step(), again.step()] == scores[2:]
    best = max(range(4), key=lambda e: scores[e][task.metrics[0]])
    tested = again.test(task.load(test=True))
    fresh = loop_of(task, **config)
    for _ in range(best + 1):
        fresh.step()
    part = task.load(test=True).test
    assert part is not None
    assert tested == task.scores(fresh._model, "test", part)


@pytest.mark.parametrize("make", [LogisticRegression, LinearSVC])
def test_what_it_said_of_each_sample_of_the_test_part_is_kept(make: Any) -> None:
    def named() -> tuple[Any, Any]:
        x, y = load_iris(return_X_y=True)
        return x[:, :1], np.array(["setosa", "versicolor", "virginica"])[y]

    task = estimator(make, named, kind="classification")
    loop = loop_of(task)
    loop.step()
    scores = loop.test(task.load(test=True))

    found = loop.predictions["test"]
    x, y = named()
    names = found["classes"]
    assert names[found["truth"]].tolist() == y[found["rows"]].tolist()
    assert (
        names[found["predicted"]].tolist() == loop.best_model().predict(x[found["rows"]]).tolist()
    )
    assert np.mean(found["truth"] == found["predicted"]) == pytest.approx(scores["test_accuracy"])
    assert ("p_true" in found) == (make is LogisticRegression)
    if "p_true" in found:
        wrong = found["p_true"][found["worst"]]
        assert sorted(wrong) == wrong.tolist()


def test_numbers_that_it_said_are_kept() -> None:
    task = estimator(GradientBoostingRegressor, REGRESSION, kind="regression")
    loop = loop_of(task)
    loop.step()
    loop.test(task.load(test=True))

    found = loop.predictions["test"]
    x, y = REGRESSION()
    assert found["truth"].tolist() == y[found["rows"]].tolist()
    assert found["predicted"].tolist() == loop.best_model().predict(x[found["rows"]]).tolist()


def test_seed_is_that_of_the_trial_and_nested_values_reach_the_estimator() -> None:
    loop = loop_of(classify(MLPClassifier), hidden_layer_sizes=[5, 4])
    loop.step()

    assert loop._model.random_state == 3
    assert [w.shape[1] for w in loop._model.coefs_] == [5, 4, 3]


def test_parts_are_disjoint_stratified_and_scaled_by_the_training_part() -> None:
    task = classify(LogisticRegression, preprocess=StandardScaler, val_share=0.1, test_share=0.3)
    parts = task.load(test=True)
    assert parts.test is not None
    sizes = [len(y) for _, y in (parts.train, parts.val, parts.test)]

    assert sizes == [90, 15, 45]
    assert np.bincount(parts.val[1]).tolist() == [5, 5, 5]
    assert np.allclose(parts.train[0].mean(axis=0), 0)
    assert task.load(test=False).test is None


@pytest.mark.parametrize("frame", [True, False])
def test_groups_stay_together_and_time_keeps_its_order(frame: bool) -> None:
    x = np.arange(100.0)[:, None]
    inputs: Any = pd.DataFrame({"x": x[:, 0]}) if frame else x
    y, groups = np.arange(100) % 2, np.arange(100) // 10

    def values(part: Any) -> list[float]:
        return [float(v) for v in np.asarray(part[0])[:, 0]]

    def parts(task: Estimator) -> list[list[float]]:
        found = task.load(test=True)
        return [values(found.train), values(found.val), values(found.test)]

    grouped = parts(
        estimator(LogisticRegression, lambda: (inputs, y, groups), kind="classification")
    )
    timed = parts(
        estimator(LogisticRegression, lambda: (inputs, y), kind="classification", by_time=True)
    )

    owners = [{int(v) // 10 for v in part} for part in grouped]
    assert [len(part) for part in owners] == [6, 2, 2]
    assert set.union(*owners) == set(range(10))
    assert timed == [x[:60, 0].tolist(), x[60:80, 0].tolist(), x[80:, 0].tolist()]


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (classify(LogisticRegression), ["logistic regression", "majority"]),
        (estimator(GradientBoostingRegressor, REGRESSION, kind="regression"), ["mean", "ridge"]),
        (
            estimator(
                LogisticRegression,
                lambda: (pd.DataFrame({"x": ["a", "b"] * 50}), ["n", "y"] * 50),
                kind="classification",
            ),
            ["majority"],
        ),
    ],
)
def test_baselines_are_judged_on_both_parts(task: Estimator, names: list[str]) -> None:
    val = task.baselines(task.load(test=False), test=False)
    test = task.baselines(task.load(test=True), test=True)

    assert sorted(val) == sorted(test) == names
    assert {name for scores in val.values() for name in scores} == set(task.metrics)
    assert {name for scores in test.values() for name in scores} == set(task.test_metrics.values())
    if len(names) == 2:
        simple, linear = sorted(val.values(), key=lambda scores: scores[task.metrics[0]])
        assert linear[task.metrics[0]] > simple[task.metrics[0]] + 0.3


def study(**changes: Any) -> Study:
    given: dict[str, Any] = {
        "question": "Do more trees pay?",
        "factors": ("n_estimators",),
        "space": {"n_estimators": tune.randint(5, 50)},
        "default": {"n_estimators": 10},
        "trainable": classify(RandomForestClassifier),
        "metric": "val_accuracy",
        "mode": "max",
        "max_epochs": 4,
        "n_trials": 4,
    }
    return Study(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mode": "min"}, "mode must be 'max' for val_accuracy, but got 'min'"),
        ({"metric": "val_f1"}, "metric 'val_f1' is not reported by the task. Did you mean 'val_f1"),
        ({"fixed": {"max_dept": 3}}, "'max_dept' is no parameter of RandomForestClassifier. Did y"),
        (
            {"trainable": classify(lambda n_estimators, depth: None)},
            "'depth' is missing: put it into the space or among the fixed values",
        ),
    ],
)
def test_what_does_not_fit_together_is_told(changes: dict[str, Any], problem: str) -> None:
    assert isinstance(study().trainable, Estimator)
    with pytest.raises(StudyError) as caught:
        study(**changes)
    assert [p[: len(problem)] for p in caught.value.problems] == [problem]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "regresion"}, "Unknown kind 'regresion'. Did you mean 'regression'"),
        ({"scoring": ["acuracy"]}, "Unknown scoring 'acuracy'. Did you mean 'accuracy'"),
        ({"val_share": 0.9}, "val_share and test_share must be above 0, and below 1 together"),
    ],
)
def test_odd_settings_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimator(LogisticRegression, IRIS, **{"kind": "classification", **settings})


def test_function_that_takes_anything_gets_anything() -> None:
    made: list[dict[str, Any]] = []

    def make(**values: Any) -> Any:
        made.append(values)
        return LogisticRegression()

    task = classify(make)
    assert task.problems(Space({"a": tune.choice([1, 2])}), {"b": 2}) == []
    task.new({"a": 1, "b": {"c": 2}, **RESERVED})
    assert made == [{"a": 1, "b": {"c": 2}}]
    assert estimator(make, partial(load_digits), kind="classification").data == "load_digits"


def test_an_estimator_gets_tuples_and_a_copy_of_what_is_nested() -> None:
    task = classify(lambda size, deep: (size, deep))
    config = {"size": (25.0, 75.0), "deep": [(1, 2)], "max_epochs": 1, "seed": 0, "device": "cpu"}

    size, deep = task.new(config)
    deep.append(0)

    assert (size, config["deep"]) == ((25.0, 75.0), [(1, 2)])
