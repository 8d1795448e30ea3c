"""The training loop, for models on tensors that fit into memory. One step is one epoch."""

import contextlib
import hashlib
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hypertune.core.errors import choices
from hypertune.core.objective import Objective
from hypertune.core.space import Config, Number, Parameter, Space, Value
from hypertune.tasks.torch.optim import (
    OPTIMIZERS,
    Rule,
    is_real,
    is_whole,
    make_schedule,
    parameter_groups,
    rescale,
    schedule_problems,
)

LOOP_DEFAULTS: Config = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "batch_size": 64,
    "weight_decay": 0.0,
    "clip_norm": None,
    "schedule": "constant",
    "patience": None,
    "precision": "float32",
}
"""What the loop reads from a trial's config, and what it takes where the config is silent.

Batches hold at most ``batch_size`` samples and differ by one at most, so that none is a small rest.
``weight_decay`` spares biases and norms. A ``schedule`` is a name or a dict (see `SCHEDULES`); with
a ``patience`` a trial ends as converged after so many epochs without an improvement of one in
1,000. A ``precision`` of ``bfloat16`` computes the forward pass in mixed precision.
"""
_MIN_IMPROVEMENT = 1e-3
_N_CORNERS, _N_MODELS = 256, 32

_RULES: dict[str, Rule] = {
    "optimizer": (lambda v: v in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
    "learning_rate": (lambda v: is_real(v) and v > 0, "a number above 0"),
    "momentum": (lambda v: is_real(v) and 0 < v < 1, "a number between 0 and 1"),
    "batch_size": (lambda v: is_whole(v) and v >= 1, "an integer of at least 1"),
    "weight_decay": (lambda v: is_real(v) and v >= 0, "a number of at least 0"),
    "clip_norm": (lambda v: v is None or (is_real(v) and v > 0), "a number above 0, or None"),
    "patience": (lambda v: v is None or (is_whole(v) and v >= 1), "an integer above 0, or None"),
    "precision": (lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
}


def config_problems(
    space: Space,
    fixed: Mapping[str, Any],
    model: Callable[..., nn.Module],
    *,
    given: tuple[str, ...],
    rules: Mapping[str, Rule],
    needed: tuple[str, ...] = (),
) -> list[str]:
    """Return which keys nobody reads, which are missing, and which values break a rule.

    Args:
        space: What is searched.
        fixed: What is not.
        model: Reads what its ``__init__`` names.
        given: Parameters of the model that the task fills in itself.
        rules: What the task reads besides, with what must hold.
        needed: Those of them that must be there.
    """
    keys, missing = model_keys(model, given)
    known = sorted({*rules, *LOOP_DEFAULTS} | keys)
    there = [*space.spec, *fixed]
    problems = [
        f"'{key}' is read neither by the training loop nor by {model.__name__}."
        f"{choices(key, known)}"
        for key in there
        if key not in known
    ]
    problems += [
        f"'{key}' is missing: put it into the space or among the fixed values"
        for key in sorted({*needed} | missing)
        if key not in there
    ]
    for config in corners(space, fixed):
        for key, (holds, text) in {**_RULES, **rules}.items():
            if key in config and not holds(config[key]):
                problems.append(f"{key} must be {text}, but got {config[key]!r}")
        problems += schedule_problems(config.get("schedule", "constant"))
    return list(dict.fromkeys(problems))


def model_problems(
    make: Callable[[Config], nn.Module], space: Space, fixed: Mapping[str, Any]
) -> list[str]:
    """Return why a model refuses configs of a study; made without memory, on PyTorch's meta device.

    Only a ValueError or a TypeError is a refusal: a model may do what that device cannot.
    """
    problems = []
    for config in corners(space, fixed)[:_N_MODELS]:
        try:
            with torch.device("meta"):
                make(config)
        except (TypeError, ValueError) as problem:
            problems.append(f"the model cannot be made: {problem}")
        except Exception:
            return []
    return list(dict.fromkeys(problems))


def n_parameters(make: Callable[[], nn.Module]) -> int:
    """Return how many numbers a model learns, without the memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


def corners(space: Space, fixed: Mapping[str, Any]) -> list[Config]:
    """Return configs with every choice in some of them, and all numbers at one of their ends."""
    rng = np.random.default_rng(0)

    def value_of(parameter: Parameter) -> Value:
        if isinstance(parameter, Number):
            return parameter.snap((parameter.low, parameter.high)[rng.integers(2)])
        return parameter.from_unit(rng.random())

    return [{**fixed, **space.nest(space.build(value_of))} for _ in range(_N_CORNERS)]


def digest(*parts: Any) -> str:
    """Return a name for values, by what is in them: arrays, or frames."""
    sha = hashlib.sha256()
    for part in parts:
        values = np.ascontiguousarray(part)
        sha.update(f"{values.dtype}{values.shape}".encode())
        sha.update(repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes())
    return sha.hexdigest()[:16]


class Inputs:
    """What a model is called with: tensors whose first dimensions agree.

    Args:
        x: Inputs, shape (n, ...).
        lengths: Of sequences padded at their ends, shape (n,): how many steps are true ones. The
            model is then called with the inputs and the lengths, without the steps that none of
            the batch needs.
    """

    def __init__(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> None:
        self.x, self.lengths = x, lengths

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: torch.Tensor | slice) -> tuple[torch.Tensor, ...]:
        if self.lengths is None:
            return (self.x[rows],)
        lengths = self.lengths[rows]
        return self.x[rows][:, : int(lengths.max())], lengths

    def to(self, device: torch.device) -> "Inputs":
        """Return the same on a device."""
        return Inputs(self.x.to(device), None if self.lengths is None else self.lengths.to(device))


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """What a trial trains and validates on.

    Attributes:
        train: Training inputs.
        train_y: Their targets, shape (n, ...).
        val: Validation inputs.
        validate: Maps the model's outputs on ``val`` to metrics.
    """

    train: Inputs
    train_y: torch.Tensor
    val: Inputs
    validate: Callable[[torch.Tensor], dict[str, float]]


Predict = Callable[[Inputs], torch.Tensor]
Predictions = Mapping[str, NDArray[Any]]
"""What a model predicts on a test set, and what is true, as arrays by name.

Of classes: ``truth`` and ``predicted`` (numbers of ``classes``), ``p_predicted`` and ``p_true``
(probabilities of the predicted class and of the true one; not from a model that gives none),
``rows`` (of the data set), and the samples with the worst predictions: ``worst`` (their places) and
``worst_x`` (their inputs as they came, where these can be drawn). Of numbers: ``truth``,
``predicted`` and ``rows``. Of a series: ``values`` (from the first origin on), ``first`` (its place
in the series), ``origins`` (places in ``values``) and ``predicted``, shape (origin, horizon).
"""
_N_WORST = 12


def class_predictions(
    classes: Sequence[str],
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    rows: NDArray[np.int64],
    probabilities: NDArray[Any] | None,
) -> dict[str, NDArray[Any]]:
    """Return a model's predictions of classes.

    Args:
        classes: Their names.
        truth: Numbers of the true classes, shape (sample,).
        predicted: Numbers of the predicted classes, shape (sample,).
        rows: Of the data set.
        probabilities: Shape (sample, class); None from a model that gives none.
    """
    wrong = np.flatnonzero(predicted != truth)
    predictions = {
        "classes": np.array(classes),
        "truth": truth.astype(np.int16),
        "predicted": predicted.astype(np.int16),
        "rows": rows,
    }
    if probabilities is None:
        return {**predictions, "worst": wrong[:_N_WORST]}
    p_true = probabilities[np.arange(len(truth)), truth]
    return {
        **predictions,
        "p_predicted": probabilities[np.arange(len(predicted)), predicted].astype(np.float32),
        "p_true": p_true.astype(np.float32),
        "worst": wrong[np.argsort(p_true[wrong], kind="stable")][:_N_WORST],
    }


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """What a model reaches on the test sets.

    Attributes:
        metrics: By name.
        predictions: By test set: ``test``, and the names of further ones.
    """

    __test__ = False  # pytest takes it for a test otherwise

    metrics: dict[str, float]
    predictions: Mapping[str, Predictions]


class TensorLoop:
    """Trains a model on slices of tensors.

    Args:
        model: Called once the random state is set, so that the seed fixes its initial weights.
        tensors: On any device; they are moved.
        loss: Of outputs and targets, a mean over the batch.
        test: Maps the model and the test data to what comes of it.
        config: Whole config of the trial.
        metric, mode: What tells the best epoch.

    Attributes:
        predictions: Those of the model on the test sets, once it was tested.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        tensors: Tensors,
        *,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        test: Callable[[Predict, Any], TestResult],
        config: Config,
        metric: str,
        mode: str,
    ) -> None:
        settings = LOOP_DEFAULTS | {k: v for k, v in config.items() if k in LOOP_DEFAULTS}
        self.device = torch.device(config["device"])
        # Dropout knows the global generator only; a worker runs one trial at a time.
        torch.manual_seed(config["seed"])
        self.order = torch.Generator().manual_seed(config["seed"])
        self.model = model().to(self.device)
        self.train, self.y = tensors.train.to(self.device), tensors.train_y.to(self.device)
        self.val = tensors.val.to(self.device)
        self.validate, self.loss, self._test = tensors.validate, loss, test
        self.clip_norm: float | None = settings["clip_norm"]
        self.patience: int | None = settings["patience"]
        self.precision: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if settings["precision"] == "bfloat16":
            self.precision = torch.autocast(self.device.type, torch.bfloat16)
        self.n_batches = math.ceil(len(self.train) / settings["batch_size"])
        self.optimizer = OPTIMIZERS[settings["optimizer"]](
            parameter_groups(self.model, settings["weight_decay"]),
            settings["learning_rate"],
            settings["momentum"],
        )
        schedule = make_schedule(
            self.optimizer,
            settings["schedule"],
            n_epochs=config["max_epochs"],
            n_batches=self.n_batches,
        )
        self.rates: dict[str, float] = {
            key: settings[key] for key in ("learning_rate", "momentum", "weight_decay")
        }
        by_epoch = isinstance(schedule, ReduceLROnPlateau)
        self.schedule = schedule
        self.batch_schedule = None if by_epoch else schedule
        self.n_epochs: int = config["max_epochs"]
        self.objective = Objective(metric, mode)
        self.epoch, self.best_epoch, self.best = 0, 0, math.inf
        self.plateau_epoch, self.plateau = 0, math.inf  # the last improvement that counts
        self.best_weights: dict[str, torch.Tensor] = {}
        self.predictions: Mapping[str, Predictions] = {}

    def step(self) -> Mapping[str, float]:
        self.model.train()
        total = torch.zeros((), device=self.device)
        order = torch.randperm(len(self.train), generator=self.order).to(self.device)
        for rows in torch.tensor_split(order, self.n_batches):
            with self.precision:
                loss = self.loss(self.model(*self.train[rows]), self.y[rows])
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.optimizer.step()
            if self.batch_schedule is not None:
                self.batch_schedule.step()
            total.add_(loss.detach(), alpha=len(rows))
        self.epoch += 1
        train_loss = float(total) / len(self.train)
        if not math.isfinite(train_loss):
            raise FloatingPointError(f"train_loss is {train_loss} in epoch {self.epoch}")
        metrics = {"train_loss": train_loss, **self.validate(self.predict(self.val).cpu())}
        loss_now = self.objective.loss(metrics[self.objective.metric])
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(loss_now)
        self._keep_best(loss_now)
        return metrics

    @torch.no_grad()
    def predict(self, inputs: Inputs) -> torch.Tensor:
        """Return the outputs of the model as it is, without dropout."""
        self.model.eval()
        inputs, parts = inputs.to(self.device), range(0, len(inputs), 1024)
        with self.precision:
            outputs = [self.model(*inputs[slice(at, at + 1024)]) for at in parts]
        return torch.cat(outputs).float()

    @property
    def converged(self) -> bool:
        """The plateau is reached."""
        return self.patience is not None and self.epoch - self.plateau_epoch >= self.patience

    def _keep_best(self, loss: float) -> None:
        if self.epoch == 1 or loss < self.plateau - _MIN_IMPROVEMENT * abs(self.plateau):
            self.plateau, self.plateau_epoch = loss, self.epoch
        if not self.best_weights or loss < self.best:
            self.best, self.best_epoch = loss, self.epoch
            self.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def test(self, data: Any) -> Mapping[str, float]:
        self.model.load_state_dict(self.best_weights)
        tested = self._test(self.predict, data)
        self.predictions = tested.predictions
        return tested.metrics

    def save(self, folder: Path) -> None:
        state = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best": self.best,
            "plateau_epoch": self.plateau_epoch,
            "plateau": self.plateau,
            "best_weights": self.best_weights,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "rates": self.rates,
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        torch.save(state, folder / "state.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.epoch, self.best_epoch, self.best = state["epoch"], state["best_epoch"], state["best"]
        self.plateau_epoch, self.plateau = state["plateau_epoch"], state["plateau"]
        self.best_weights = state["best_weights"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if state["rates"] != self.rates:  # the state of a trial with another config
            rescale(self.optimizer, self.schedule, state["rates"], self.rates)
        self.order.set_state(state["order"].cpu())
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)


def use_threads(n: int) -> None:
    """Compute on ``n`` threads: one a trial beats all threads for each of several trials."""
    os.environ["OMP_NUM_THREADS"] = str(n)
    torch.set_num_threads(n)


def model_keys(
    model: Callable[..., nn.Module], given: tuple[str, ...]
) -> tuple[set[str], set[str]]:
    """Return the config keys that a model takes, and those of them that it needs.

    Args:
        model: A class, whose ``__init__`` names them, or a function.
        given: Parameters that the task fills in itself.
    """
    parameters = [
        p
        for name, p in inspect.signature(model).parameters.items()
        if name not in given and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return (
        {p.name for p in parameters},
        {p.name for p in parameters if p.default is p.empty},
    )


def build_model(
    model: Callable[..., nn.Module], given: Mapping[str, Any], config: Config
) -> nn.Module:
    """Return a model, made of what it names among ``given`` and the config.

    Args:
        model: A class or a function.
        given: What the task fills in.
        config: Whole config of the trial.
    """
    keys, _ = model_keys(model, ())
    everything = {**config, **given}
    return model(**{key: everything[key] for key in keys if key in everything})
