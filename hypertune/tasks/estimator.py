"""A scikit-learn estimator as a task.

An epoch is a pass of ``partial_fit`` over the training part; else, where the estimator has a
``warm_start``, a share of its ``n_estimators`` (or of the ``max_iter`` of histogram boosting); else
the estimator is fitted in one go, and its trial has converged after one epoch.
"""

import copy
import inspect
import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hypertune.core.errors import choices
from hypertune.core.objective import Objective
from hypertune.core.space import Config, Space
from hypertune.core.task import RESERVED
from hypertune.tasks.torch.loop import Predictions, class_predictions, digest
from hypertune.tasks.user_code import OwnLoop, OwnTask, set_seeds

Kind = Literal["classification", "regression"]
_SCORING = {
    "classification": ("accuracy", "f1_macro"),
    "regression": ("r2", "neg_mean_absolute_error"),
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A data set in parts: inputs and targets of each. No test part while the search is on.

    Inputs are as ``transform`` left them, the fitted preprocessing; None if there is none.
    ``test_rows`` are those of the test part in the data.
    """

    train: tuple[Any, Any]
    val: tuple[Any, Any]
    test: tuple[Any, Any] | None
    test_rows: NDArray[np.int64]
    transform: Any = None


@dataclass(frozen=True, kw_only=True)
class Estimator(OwnTask):
    """The task of fitting a scikit-learn estimator. Made by `estimator`.

    A fitted estimator is not kept: to read one back is to run what the file says. A trial that goes
    on, or is tested, is fitted again, to the same result.
    """

    make: Callable[..., Any]
    source: Callable[[], tuple[Any, ...]]
    kind: Kind
    scoring: tuple[str, ...]
    by_time: bool
    preprocess: Callable[[], Any] | None
    val_share: float
    test_share: float

    saves = False

    @property
    def data(self) -> str:
        return _name(self.source)

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """The scores on the validation part."""
        return tuple(f"val_{name}" for name in self.scoring)

    @property
    def test_metrics(self) -> Mapping[str, str]:  # type: ignore[override]
        """The same scores on the test part."""
        return {f"val_{name}": f"test_{name}" for name in self.scoring}

    @property
    def modes(self) -> Mapping[str, str]:
        """Of all scores of scikit-learn more is better."""
        return dict.fromkeys(self.metrics, "max")

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        keys, needed, others = _keys(self.make)
        given = [*space.spec, *fixed]
        problems = [
            f"'{key}' is no parameter of {_name(self.make)}.{choices(key, sorted(keys))}"
            for key in given
            if key not in keys and not others
        ]
        return problems + [
            f"'{key}' is missing: put it into the space or among the fixed values"
            for key in sorted(needed - {*given, *RESERVED})
        ]

    def load(self, *, test: bool) -> Parts:
        x, y, *rest = self.source()
        split = self._split(np.asarray(y), np.asarray(rest[0]) if rest else None)
        parts = [(_rows(x, rows), _rows(y, rows)) for rows in split]
        fitted = None
        if self.preprocess is not None:
            fitted = self.preprocess().fit(parts[0][0])
            parts = [(fitted.transform(x), y) for x, y in parts]
        return Parts(
            train=parts[0],
            val=parts[1],
            test=parts[2] if test else None,
            test_rows=split[2],
            transform=fitted,
        )

    def data_set(self, data: Parts) -> dict[str, Any]:
        """Return what identifies the data, as plain values."""
        sizes = {
            "n_train": len(data.train[1]),
            "n_val": len(data.val[1]),
            "n_test": len(data.test_rows),
        }
        return {"digest": digest(*data.train, *data.val), "source": self.data, **sizes}

    def _split(self, y: NDArray[Any], groups: NDArray[Any] | None) -> tuple[NDArray[np.int64], ...]:
        """Return the rows of training, validation and test part, the same for all trials."""
        from sklearn.model_selection import GroupShuffleSplit, train_test_split

        rows = np.arange(len(y))
        n_test, n_val = (round(len(y) * share) for share in (self.test_share, self.val_share))
        if self.by_time:
            return rows[: -n_test - n_val], rows[-n_test - n_val : -n_test], rows[-n_test:]

        def without(rows: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], ...]:
            """Return all but about ``n`` rows, and these."""
            if groups is not None:
                split = GroupShuffleSplit(n_splits=1, test_size=n / len(rows), random_state=0)
                first, second = next(split.split(rows, groups=groups[rows]))
                return rows[first], rows[second]
            stratify = y[rows] if self.kind == "classification" else None
            first, second = train_test_split(rows, test_size=n, random_state=0, stratify=stratify)
            return first, second

        rest, test = without(rows, n_test)
        train, val = without(rest, n_val)
        return train, val, test

    def start(self, config: Config, data: Parts, *, metric: str, mode: str) -> "EstimatorLoop":
        return EstimatorLoop(self, config, data, metric, mode)

    def new(self, config: Config) -> Any:
        """Return an estimator of a config that is not fitted yet."""
        keys, _, others = _keys(self.make)
        own = {k: v for k, v in config.items() if k not in RESERVED}
        reserved = {k: config[k] for k in RESERVED if k in keys}
        if "random_state" in keys:
            reserved["random_state"] = config["seed"]
        # Nested values are copies, which an estimator may hold on to.
        values = {**reserved, **copy.deepcopy(own)}
        return self.make(**{k: v for k, v in values.items() if k in keys or others})

    def scores(self, model: Any, part: str, data: tuple[Any, Any]) -> dict[str, float]:
        """Return the scores of a fitted estimator on a part."""
        from sklearn.metrics import get_scorer

        return {f"{part}_{name}": float(get_scorer(name)(model, *data)) for name in self.scoring}

    def predictions(self, model: Any, data: Parts) -> Predictions:
        """Return what a fitted estimator said of the test part."""
        assert data.test is not None
        x, y = data.test[0], np.asarray(data.test[1])
        predicted = np.asarray(model.predict(x))
        if self.kind == "regression":
            return {"truth": y, "predicted": predicted, "rows": data.test_rows}
        classes = np.unique(np.concatenate([np.asarray(data.train[1]), y, predicted]))
        probabilities = None
        if hasattr(model, "predict_proba"):
            probabilities = np.zeros((len(y), len(classes)))
            probabilities[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(x)
        return class_predictions(
            [str(name) for name in classes],
            np.searchsorted(classes, y),
            np.searchsorted(classes, predicted),
            data.test_rows,
            probabilities,
        )

    def baselines(self, data: Parts, *, test: bool) -> Mapping[str, Mapping[str, float]]:
        """The majority or the mean; and a linear model, where all inputs are numbers."""
        from sklearn.dummy import DummyClassifier, DummyRegressor
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        models: dict[str, Any] = {"mean": DummyRegressor()}
        linear: Any = {"ridge": RidgeCV(alphas=np.logspace(-3, 3, 13))}
        if self.kind == "classification":
            models = {"majority": DummyClassifier(strategy="most_frequent")}
            linear = {"logistic regression": LogisticRegression(max_iter=1000)}
        if _all_numbers(data.train[0]):
            models |= {k: make_pipeline(StandardScaler(), model) for k, model in linear.items()}
        part, xy = ("test", data.test) if test else ("val", data.val)
        assert xy is not None
        return {
            name: self.scores(model.fit(*data.train), part, xy) for name, model in models.items()
        }


def estimator(
    make: Callable[..., Any],
    data: Callable[[], tuple[Any, ...]],
    *,
    kind: Kind,
    scoring: Sequence[str] = (),
    by_time: bool = False,
    preprocess: Callable[[], Any] | None = None,
    val_share: float = 0.2,
    test_share: float = 0.2,
) -> Estimator:
    """Return the task of fitting a scikit-learn estimator.

    Example:
        >>> import hypertune
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.ensemble import RandomForestClassifier
        >>> def data():
        ...     return load_iris(return_X_y=True)
        >>> task = hypertune.estimator(RandomForestClassifier, data, kind="classification")
        >>> task.metrics
        ('val_accuracy', 'val_f1_macro')

    Args:
        make: Its class, or a function that makes one; called with those config values that it
            names, and with ``random_state`` (the trial's seed) if it names that.
        data: Returns inputs, shape (sample, ...), and targets, shape (sample,); and a group of each
            sample, if samples of one group must not be in two parts.
        kind: ``classification`` (the split is stratified) or ``regression``.
        scoring: Names of scikit-learn's scorers; metrics are called ``val_<name>``, and of all of
            them more is better. By default accuracy and macro F1, or R2 and the mean absolute
            error, negated.
        by_time: Split in the order of the samples, the last ones for the test part.
        preprocess: Makes a transformer, such as ``StandardScaler``, that is fitted to the inputs of
            the training part.
        val_share: Share of the samples that the search is steered by.
        test_share: Share of the samples that is looked at once, when all is over.

    Raises:
        ValueError: A rule is broken.
    """
    from sklearn.metrics import get_scorer_names

    if kind not in _SCORING:
        raise ValueError(f"Unknown kind '{kind}'.{choices(kind, list(_SCORING))}")
    for name in scoring:
        if name not in get_scorer_names():
            raise ValueError(f"Unknown scoring '{name}'.{choices(name, get_scorer_names())}")
    if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
        raise ValueError(
            "val_share and test_share must be above 0, and below 1 together, but got "
            f"{val_share} and {test_share}"
        )
    return Estimator(
        make=make,
        source=data,
        kind=kind,
        scoring=tuple(scoring) or _SCORING[kind],
        by_time=by_time,
        preprocess=preprocess,
        val_share=val_share,
        test_share=test_share,
    )


class EstimatorLoop(OwnLoop):
    """An estimator that is fitted epoch by epoch."""

    saves = "any time"

    def __init__(
        self, task: Estimator, config: Config, data: Parts, metric: str, mode: str
    ) -> None:
        self._task, self._config, self._data = task, config, data
        self._objective = Objective(metric, mode)
        self._best, self._best_epoch = math.inf, 0
        self._model: Any = None
        self._n_fitted = 0  # epochs that the model has seen

    @property
    def converged(self) -> bool:
        return self._growing is None and not hasattr(self._model, "partial_fit")

    def step(self) -> Mapping[str, float]:
        self._fit(self.epoch + 1)
        scores = self._task.scores(self._model, "val", self._data.val)
        self.epoch += 1
        loss = self._objective.loss(scores[self._objective.metric])
        if loss < self._best:
            self._best, self._best_epoch = loss, self.epoch
        return scores

    def best_model(self) -> Any:
        """Return the estimator as it was at its best epoch."""
        self._fit(self._best_epoch)
        return self._model

    def test(self, data: Parts) -> Mapping[str, float]:
        assert data.test is not None
        model = self.best_model()
        try:
            self.predictions = {"test": self._task.predictions(model, data)}
        except Exception:  # pictures alone depend on it; a scorer asks for less
            traceback.print_exc()
        return self._task.scores(model, "test", data.test)

    def save(self, folder: Path) -> None:
        super().save(folder)
        best = {"best": self._best, "best_epoch": self._best_epoch}
        (folder / "best.json").write_text(json.dumps(best))

    def load(self, folder: Path) -> None:
        super().load(folder)
        best = json.loads((folder / "best.json").read_text())
        self._best, self._best_epoch = best["best"], best["best_epoch"]

    @property
    def _growing(self) -> str | None:
        """The parameter that grows from epoch to epoch."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        parameters = self._model.get_params()
        if hasattr(self._model, "partial_fit") or "warm_start" not in parameters:
            return None
        if isinstance(self._model, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
            return "max_iter"
        return "n_estimators" if "n_estimators" in parameters else None

    def _fit(self, n_epochs: int) -> None:
        """Have a model that has seen so many epochs."""
        if self._model is None or self._n_fitted > n_epochs:
            set_seeds(self._config["seed"])
            self._model, self._n_fitted = self._task.new(self._config), 0
            if self._growing is not None:
                self._in_full: int = self._model.get_params()[self._growing]
        while self._n_fitted < n_epochs:
            self._n_fitted += 1
            self._fit_epoch(self._n_fitted)

    def _fit_epoch(self, epoch: int) -> None:
        x, y = self._data.train
        if hasattr(self._model, "partial_fit"):
            takes_classes = "classes" in inspect.signature(self._model.partial_fit).parameters
            self._model.partial_fit(x, y, **({"classes": np.unique(y)} if takes_classes else {}))
            return
        if (name := self._growing) is not None:
            size = math.ceil(self._in_full * epoch / self._config["max_epochs"])
            if epoch > 1 and size == self._model.get_params()[name]:
                return  # fewer trees than epochs
            self._model.set_params(warm_start=True, **{name: size})
        self._model.fit(x, y)


def _keys(make: Callable[..., Any]) -> tuple[set[str], set[str], bool]:
    """Return what a class or function takes, what of it it needs, and if it takes anything else."""
    parameters = inspect.signature(make).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return (
        {p.name for p in named},
        {p.name for p in named if p.default is p.empty},
        any(p.kind == p.VAR_KEYWORD for p in parameters),
    )


def _name(function: Any) -> str:
    function = getattr(function, "func", function)  # of a functools.partial
    return getattr(function, "__name__", type(function).__name__)


def _rows(values: Any, rows: NDArray[np.int64]) -> Any:
    return values.iloc[rows] if hasattr(values, "iloc") else np.asarray(values)[rows]


def _all_numbers(x: Any) -> bool:
    try:
        numbers = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return numbers.ndim == 2 and bool(np.isfinite(numbers).all())
