"""Classification and regression of tables, images and sequences."""

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hypertune.core.errors import choices
from hypertune.core.space import Config, Space
from hypertune.data import DATA_SETS, FURTHER, SPLITS, DataSet, Samples, split_rows
from hypertune.models import MLP
from hypertune.tasks.torch.loop import (
    Inputs,
    Predict,
    Predictions,
    TensorLoop,
    Tensors,
    TestResult,
    build_model,
    class_predictions,
    config_problems,
    digest,
    model_problems,
    n_parameters,
)
from hypertune.tasks.torch.metrics import class_metrics, number_metrics
from hypertune.tasks.torch.optim import Rule, is_real, is_whole

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

REGRESSION_LOSSES: dict[str, Loss] = {
    "mse": nn.functional.mse_loss,
    "mae": nn.functional.l1_loss,
    "huber": nn.functional.huber_loss,
}
_GIVEN = ("n_features", "n_outputs", "input_shape")
_SMOOTHING: Rule = (lambda v: is_real(v) and 0 <= v < 1, "a number from 0 to below 1")
_INVERSE_PENALTIES = (0.003, 0.03, 0.3)
_N_TO_TUNE = 5000
_RIDGE_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True, kw_only=True)
class ScaledParts:
    """The parts of a data set, scaled by the training part.

    Attributes:
        train, val: Samples whose inputs have mean 0 and standard deviation 1 in the training part,
            by feature or channel; what comes after the end of a sequence is 0.
        test: The same; None while the search is under way.
        n_test: How many they are.
        mean, sd: Of the inputs before they were scaled.
        further: The same of further test sets, by name; none while the search is under way.
        rows: Which samples of the data set are in each part, by its name.
        y_mean, y_sd: Of the training targets, if they are numbers.
    """

    train: Samples
    val: Samples
    test: Samples | None
    n_test: int
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    further: Mapping[str, Samples] = field(default_factory=dict)
    rows: Mapping[str, NDArray[np.int64]]
    y_mean: float
    y_sd: float

    def part(self, name: str) -> Samples:
        """Return a part by its name; a further test set is ``test:NAME``."""
        if name.startswith(FURTHER):
            return self.further[name.removeprefix(FURTHER)]
        part: Samples = getattr(self, name)
        return part

    @property
    def tests(self) -> list[str]:
        """Names of the parts that are only tested on."""
        return ["test", *(f"{FURTHER}{name}" for name in self.further)]


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """A task with one answer a sample. Made by `classification` or `regression`."""

    data: str
    source: DataSet
    model: Callable[..., nn.Module]
    loss: str
    split: str
    val_share: float
    test_share: float
    n_train: int | None
    metrics: tuple[str, ...] = field(init=False)
    test_metrics: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        names = ["mae", "rmse", "rmse_ratio"]
        if self.source.targets == "classes":
            names = ["loss", "accuracy", "macro_f1"]
            names += ["auroc"] if self.source.n_classes == 2 else []
        object.__setattr__(self, "metrics", ("train_loss", *(f"val_{n}" for n in names)))
        object.__setattr__(self, "test_metrics", {f"val_{n}": f"test_{n}" for n in names})

    def on(self, data: str | DataSet) -> "Supervised":
        """Return the same task on other data.

        Raises:
            ValueError: A rule is broken.
        """
        name, source = _source(data, self.source.targets)
        return replace(self, data=name, source=source, split=source.split)

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the further test sets."""
        return self.source.test_sets

    def problems(self, space: Space, fixed: Mapping[str, Any]) -> list[str]:
        rules: dict[str, Rule] = {}
        if self.source.targets == "classes":
            rules["label_smoothing"] = _SMOOTHING
        if (longest := self.source.max_window) is not None:
            rules["window"] = (
                lambda v: is_whole(v) and 1 <= v <= longest,
                f"an integer from 1 to {longest}, the steps of a sample",
            )
        problems = config_problems(space, fixed, self.model, given=_GIVEN, rules=rules)
        if self.source.shape is None:
            return problems
        return problems or model_problems(self._model, space, fixed)

    def sizes(self, config: Config) -> dict[str, float]:
        """Return what is known of a config's model before it is trained."""
        return {"n_parameters": n_parameters(lambda: self._model(config))}

    def _model(
        self, config: Config, shape: tuple[int, ...] | None = None, n_classes: int = 0
    ) -> nn.Module:
        """Return a model for samples of a shape; without it, for those of the data set."""
        if shape is None:
            shape, n_classes = self.source.shape, self.source.n_classes or 1
        if shape is None:
            samples = self.source.load()
            shape, n_classes = samples.x.shape[1:], len(samples.classes)
        given = {
            "n_features": shape[0] if len(shape) == 3 else shape[-1],
            "n_outputs": n_classes if n_classes > 2 else 1,
            "input_shape": (config.get("window", shape[0]), *shape[1:]),
        }
        return build_model(self.model, given, config)

    def load(self, *, test: bool) -> ScaledParts:
        samples = self.source.load()
        rows = split_rows(samples, self.split, val_share=self.val_share, test_share=self.test_share)
        train_rows = rows["train"]
        if self.n_train is not None:
            train_rows = _some(samples, train_rows, self.n_train)
        train = samples.take(train_rows)
        mean, sd = _scale(train)
        y = train.y.astype(np.float64)
        return ScaledParts(
            train=_scaled(train, mean, sd),
            val=_scaled(samples.take(rows["val"]), mean, sd),
            test=_scaled(samples.take(rows["test"]), mean, sd) if test else None,
            n_test=len(rows["test"]),
            mean=mean,
            sd=sd,
            further={
                name: _scaled(samples.take(rows[f"{FURTHER}{name}"]), mean, sd)
                for name in (samples.test_sets if test else ())
            },
            rows={**rows, "train": train_rows},
            y_mean=float(y.mean()),
            y_sd=float(y.std()) or 1.0,
        )

    def data_set(self, data: ScaledParts) -> dict[str, Any]:
        """Return what identifies the data, as plain values: of all but the test part."""
        sizes = {"n_train": len(data.train.y), "n_val": len(data.val.y), "n_test": data.n_test}
        seen = digest(data.train.x, data.train.y, data.val.x, data.val.y)
        return {"digest": seen, "source": str(self.source.find()), **sizes}

    def surroundings(self, config: Config, data: ScaledParts) -> dict[str, Any]:
        """Return what a network of this task needs besides its weights, as plain values."""
        shape = list(data.train.x.shape[1:])
        # Of padded sequences the lengths are needed too, and a signature has no choice.
        takes = None if data.train.lengths is not None else [*shape]
        if takes is not None and len(shape) == 2:
            takes[0] = -1  # sequences of any length
        return {
            "mean": data.mean.tolist(),
            "sd": data.sd.tolist(),
            "y_mean": data.y_mean,
            "y_sd": data.y_sd,
            "classes": list(data.train.classes),
            "shape": shape,
            "inputs": takes,
        }

    def rebuilt(
        self, config: Config, around: Mapping[str, Any]
    ) -> tuple[nn.Module, Callable[[Any], Inputs], Callable[[torch.Tensor], NDArray[Any]]]:
        """Return a network without its weights, and what comes before and after it."""
        shape, classes, window = tuple(around["shape"]), around["classes"], config.get("window")
        mean, sd = np.array(around["mean"]), np.array(around["sd"])

        def prepare(given: Any) -> Inputs:
            both = isinstance(given, Mapping)
            x = np.asarray(given["x"] if both else given, dtype=np.float64)
            free = 2 if len(shape) == 2 else 1  # sequences may be shorter, or longer
            if x.ndim != 1 + len(shape) or x.shape[free:] != shape[free - 1 :]:
                raise ValueError(f"inputs must have the shape (n, {shape}), but have {x.shape}")
            lengths = np.asarray(given["lengths"], dtype=np.int64) if both else None
            samples = Samples(x=x, y=np.zeros(len(x)), lengths=lengths)
            x = _scaled(samples, mean, sd).x
            x = x if window is None else x[:, -window:]
            return Inputs(torch.tensor(x), None if lengths is None else torch.tensor(lengths))

        def answer(outputs: torch.Tensor) -> NDArray[Any]:
            if not classes:
                numbers: NDArray[Any] = outputs[:, 0].numpy() * around["y_sd"] + around["y_mean"]
                return numbers
            predicted = outputs[:, 0] > 0 if len(classes) == 2 else outputs.argmax(dim=1)
            names: NDArray[Any] = np.array(classes)[predicted.long().numpy()]
            return names

        return self._model(config, shape, len(classes)), prepare, answer

    def start(self, config: Config, data: ScaledParts, *, metric: str, mode: str) -> TensorLoop:
        def test(predict: Predict, whole: ScaledParts) -> TestResult:
            metrics: dict[str, float] = {}
            predictions: dict[str, Predictions] = {}
            for part in whole.tests:
                outputs = predict(self._inputs(config, whole, part)).cpu()
                metrics |= self._metrics(part, whole, outputs)
                predictions[part.removeprefix(FURTHER)] = self._predictions(part, whole, outputs)
            return TestResult(metrics=metrics, predictions=predictions)

        return TensorLoop(
            lambda: self._model(config, data.train.x.shape[1:], len(data.train.classes)),
            Tensors(
                train=self._inputs(config, data, "train"),
                train_y=self._targets(data),
                val=self._inputs(config, data, "val"),
                validate=functools.partial(self._metrics, "val", data),
            ),
            loss=self._loss(config, data),
            test=test,
            config=config,
            metric=metric,
            mode=mode,
        )

    def _inputs(self, config: Config, data: ScaledParts, part: str) -> Inputs:
        """Return what the model is given of a part."""
        samples, window = data.part(part), config.get("window")
        lengths = None if samples.lengths is None else torch.tensor(samples.lengths)
        x = samples.x if window is None else samples.x[:, -window:]
        # A copy: what the workers share cannot be written to, and PyTorch warns about that.
        return Inputs(torch.tensor(x), lengths)

    def _targets(self, data: ScaledParts) -> torch.Tensor:
        if data.train.classes:
            return torch.tensor(data.train.y.astype(np.int64))
        return torch.tensor(((data.train.y - data.y_mean) / data.y_sd).astype(np.float32))

    def _loss(self, config: Config, data: ScaledParts) -> Loss:
        if not data.train.classes:
            loss = REGRESSION_LOSSES[self.loss]
            return lambda outputs, y: loss(outputs[:, 0], y)
        smoothing = config.get("label_smoothing", 0.0)
        if len(data.train.classes) > 2:
            return lambda outputs, y: nn.functional.cross_entropy(
                outputs, y, label_smoothing=smoothing
            )
        return lambda outputs, y: nn.functional.binary_cross_entropy_with_logits(
            outputs[:, 0], y * (1.0 - smoothing) + smoothing / 2
        )

    def _metrics(self, part: str, data: ScaledParts, outputs: torch.Tensor) -> dict[str, float]:
        samples, prefix = data.part(part), _prefix(part)
        if not samples.classes:
            return number_metrics(prefix, _numbers(outputs, data), samples.y, data.y_mean)
        y = torch.tensor(samples.y.astype(np.int64))
        return class_metrics(prefix, _log_odds(outputs, samples), y)

    def _predictions(self, part: str, data: ScaledParts, outputs: torch.Tensor) -> Predictions:
        samples, rows = data.part(part), data.rows[part]
        if not samples.classes:
            truth = samples.y.astype(np.float32)
            return {"truth": truth, "predicted": _numbers(outputs, data), "rows": rows}
        probabilities = torch.softmax(_log_odds(outputs, samples), dim=1).numpy()  # (n, class)
        predictions = class_predictions(
            samples.classes,
            samples.y.astype(np.int64),
            probabilities.argmax(axis=1),
            rows,
            probabilities,
        )
        worst = predictions["worst"]
        x = samples.x[worst] * data.sd + data.mean
        if samples.lengths is not None:
            x[np.arange(x.shape[1]) >= samples.lengths[worst, None]] = np.nan  # after the end
        return {**predictions, "worst_x": x.astype(np.float32)}

    def baselines(self, data: ScaledParts, *, test: bool) -> dict[str, dict[str, float]]:
        """Majority and logistic regression, or mean and ridge; penalties by validation."""
        parts = data.tests if test else ["val"]
        judge = _class_baselines if data.train.classes else _number_baselines
        found: dict[str, dict[str, float]] = {}
        for part in parts:
            for name, metrics in judge(data, part).items():
                found[name] = found.get(name, {}) | metrics
        return found


def classification(
    data: str | DataSet,
    *,
    model: Callable[..., nn.Module] = MLP,
    split: str | None = None,
    val_share: float = 0.15,
    test_share: float = 0.15,
    n_train: int | None = None,
) -> Supervised:
    """Return the task of telling classes; of two classes by one logit.

    Example:
        >>> from torch import nn
        >>> import hypertune
        >>> def make(n_features, n_outputs, width):
        ...     hidden = nn.Linear(n_features, width)
        ...     return nn.Sequential(hidden, nn.ReLU(), nn.Linear(width, n_outputs))
        >>> hypertune.classification("digits", model=make).data
        'digits'

    Args:
        data: Name of a data set, or one of one's own.
        model: Called with those of ``n_features`` (features, or channels), ``n_outputs`` and
            ``input_shape`` (of one sample), and those config values, that it names; maps a batch
            of inputs, and of padded sequences their true lengths, to (batch, output).
        split: ``stratified``, ``random`` or ``group``; None for what suits the data.
        val_share: Share of the samples, or groups, that the search is steered by.
        test_share: Share that is looked at once, when all is over; unread where the data come with
            a test part.
        n_train: Training samples, fewer than there are; None for all.

    Raises:
        ValueError: A rule is broken.
    """
    return _supervised(
        "classes", "cross-entropy", data, model, split, val_share, test_share, n_train
    )


def regression(
    data: str | DataSet,
    *,
    model: Callable[..., nn.Module] = MLP,
    loss: str = "mse",
    split: str | None = None,
    val_share: float = 0.15,
    test_share: float = 0.15,
    n_train: int | None = None,
) -> Supervised:
    """Return the task of telling one number a sample.

    Example:
        >>> from torch import nn
        >>> import hypertune
        >>> def make(n_features, n_outputs):
        ...     return nn.Linear(n_features, n_outputs)
        >>> hypertune.regression("diabetes", model=make, loss="huber").data
        'diabetes'

    Args:
        data: Name of a data set, or one of one's own.
        model: As for `classification`.
        loss: ``mse``, ``mae`` or ``huber``, of targets scaled to a standard deviation of 1.
        split: As for `classification`.
        val_share: As for `classification`.
        test_share: As for `classification`.
        n_train: As for `classification`.

    Raises:
        ValueError: A rule is broken.
    """
    if loss not in REGRESSION_LOSSES:
        raise ValueError(f"Unknown loss '{loss}'.{choices(loss, list(REGRESSION_LOSSES))}")
    return _supervised("numbers", loss, data, model, split, val_share, test_share, n_train)


def _supervised(
    targets: str,
    loss: str,
    data: str | DataSet,
    model: Callable[..., nn.Module],
    split: str | None,
    val_share: float,
    test_share: float,
    n_train: int | None,
) -> Supervised:
    name, source = _source(data, targets)
    if split not in (None, *SPLITS):
        raise ValueError(f"Unknown split '{split}'.{choices(split, SPLITS)}")
    if split == "stratified" and targets == "numbers":
        raise ValueError("a stratified split needs classes; choose random or group")
    if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
        raise ValueError(
            "val_share and test_share must be above 0, and below 1 together, but got "
            f"{val_share} and {test_share}"
        )
    if n_train is not None and n_train < 2:
        raise ValueError(f"n_train must be at least 2, but got {n_train}")
    return Supervised(
        data=name,
        source=source,
        model=model,
        loss=loss,
        split=split or source.split,
        val_share=val_share,
        test_share=test_share,
        n_train=n_train,
    )


def _source(data: str | DataSet, targets: str) -> tuple[str, DataSet]:
    if isinstance(data, DataSet):
        name, source = data.summary, data
    elif data in DATA_SETS:
        name, source = data, DATA_SETS[data]
    else:
        raise ValueError(f"Unknown data set '{data}'.{choices(data, list(DATA_SETS))}")
    if source.targets != targets:
        raise ValueError(f"the targets of '{name}' are {source.targets}, not {targets}")
    return name, source


def _prefix(part: str) -> str:
    """Return what the names of a part's metrics begin with."""
    return part.replace(":", "_")


def _numbers(outputs: torch.Tensor, data: ScaledParts) -> NDArray[Any]:
    """Return predictions in the units of the targets, shape (n,)."""
    return np.asarray(outputs[:, 0].numpy() * data.y_sd + data.y_mean)


def _log_odds(outputs: torch.Tensor, samples: Samples) -> torch.Tensor:
    """Return log probabilities up to a constant, shape (n, class)."""
    if len(samples.classes) == 2:  # one logit against none
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    return outputs


def _some(samples: Samples, rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return ``n`` of the rows, each class in its share."""
    from sklearn.model_selection import train_test_split  # the driver's business

    if n >= len(rows):
        raise ValueError(f"n_train must be below {len(rows)}, the training samples, but is {n}")
    classes = samples.y[rows] if samples.classes else None
    kept, _ = train_test_split(rows, train_size=n, stratify=classes, random_state=0)
    return np.sort(kept)


def _scale(train: Samples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation by feature or channel, in the training part alone."""
    x = train.x.astype(np.float64)
    if train.lengths is not None:
        x = x[np.arange(x.shape[1]) < train.lengths[:, None]]  # (true step, channel)
    axes = {"table": (0,), "sequence": tuple(range(x.ndim - 1)), "image": (0, 2, 3)}[train.kind]
    keep = train.kind == "image"
    mean, sd = x.mean(axis=axes, keepdims=keep), x.std(axis=axes, keepdims=keep)
    return mean, np.where(sd > 0, sd, 1.0)


def _scaled(samples: Samples, mean: NDArray[np.float64], sd: NDArray[np.float64]) -> Samples:
    x = ((samples.x - mean) / sd).astype(np.float32)
    if samples.lengths is not None:
        x[np.arange(x.shape[1]) >= samples.lengths[:, None]] = 0.0
    return replace(samples, x=x)


def _features(samples: Samples) -> NDArray[np.float32]:
    """Return what a linear model is given, shape (n, feature).

    Of sequences: mean, deviation, least and greatest value, mean change and last value by channel.
    """
    if samples.kind != "sequence":
        return samples.x.reshape(len(samples.x), -1).astype(np.float32)
    lengths = samples.lengths
    if lengths is None:
        lengths = np.full(len(samples.x), samples.x.shape[1])
    rows = []
    for x, n in zip(samples.x, lengths, strict=True):
        true = x[:n]
        change = np.abs(np.diff(true, axis=0)).mean(axis=0) if n > 1 else np.zeros(x.shape[1])
        rows.append([true.mean(0), true.std(0), true.min(0), true.max(0), change, true[-1]])
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1)


def _class_baselines(data: ScaledParts, part: str) -> dict[str, dict[str, float]]:
    from sklearn.exceptions import ConvergenceWarning  # the driver's business
    from sklearn.linear_model import LogisticRegression

    y = data.train.y.astype(np.int64)
    n_classes = len(data.train.classes)

    def judge(name: str, probabilities: NDArray[np.float64]) -> dict[str, float]:
        truth = torch.tensor(data.part(name).y.astype(np.int64))
        return class_metrics(
            _prefix(name), torch.tensor(np.log(np.maximum(probabilities, 1e-12))), truth
        )

    features = {name: _features(data.part(name)) for name in {"train", "val", part}}

    def probabilities(model: Any, name: str) -> NDArray[np.float64]:
        result = np.zeros((len(features[name]), n_classes))
        result[:, model.classes_] = model.predict_proba(features[name])
        return result

    def fitted(c: float, x: NDArray[Any], y: NDArray[Any]) -> Any:
        with warnings.catch_warnings():  # a baseline need not be at its very best
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=c, max_iter=200, tol=1e-3).fit(x, y)

    few = slice(None, None, max(1, len(y) // _N_TO_TUNE))
    tried = [fitted(c, features["train"][few], y[few]) for c in _INVERSE_PENALTIES]
    best = min(tried, key=lambda model: judge("val", probabilities(model, "val"))["val_loss"])
    if few.step > 1:
        best = fitted(best.C, features["train"], y)
    majority = np.bincount(y, minlength=n_classes) / len(y)
    return {
        "majority": judge(part, np.tile(majority, (len(data.part(part).x), 1))),
        "logistic regression": judge(part, probabilities(best, part)),
    }


def _number_baselines(data: ScaledParts, part: str) -> dict[str, dict[str, float]]:
    from sklearn.linear_model import Ridge  # the driver's business

    def judge(name: str, predicted: NDArray[Any]) -> dict[str, float]:
        return number_metrics(_prefix(name), predicted, data.part(name).y, data.y_mean)

    features = {name: _features(data.part(name)) for name in {"train", "val", part}}
    models = [Ridge(alpha=a).fit(features["train"], data.train.y) for a in _RIDGE_PENALTIES]
    best = min(models, key=lambda m: judge("val", m.predict(features["val"]))["val_rmse"])
    return {
        "mean": judge(part, np.full(len(data.part(part).y), data.y_mean)),
        "ridge": judge(part, best.predict(features[part])),
    }
