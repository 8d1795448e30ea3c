"""The training loop, for models on tensors that fit into memory. One step is one epoch."""

import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypertune.space import Categorical, Config, Number, Space

LOOP_DEFAULTS: Config = {
    "learning_rate": 1e-3,
    "batch_size": 64,
    "weight_decay": 0.0,
    "clip_norm": None,
    "schedule": "constant",
    "patience": None,
}
"""What the loop reads from a trial's config, and what it takes where the config is silent.

``schedule`` is ``constant`` or ``cosine`` (to zero over ``max_epochs``, stepped by batch); with a
``patience`` a trial ends as converged after so many epochs without an improvement of one in 1,000.
"""
_MIN_IMPROVEMENT = 1e-3

_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rate": (lambda v: _real(v) and v > 0, "a number above 0"),
    "batch_size": (lambda v: _whole(v) and v >= 1, "an integer of at least 1"),
    "weight_decay": (lambda v: _real(v) and v >= 0, "a number of at least 0"),
    "clip_norm": (lambda v: v is None or (_real(v) and v > 0), "a number above 0, or None"),
    "schedule": (lambda v: v in ("constant", "cosine"), "constant or cosine"),
    "patience": (lambda v: v is None or (_whole(v) and v >= 1), "an integer above 0, or None"),
}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: Any) -> bool:
    return _whole(value) or isinstance(value, float)


def loop_problems(space: Space, fixed: Mapping[str, Any]) -> list[str]:
    """Return which values of a study the loop could not run with."""
    problems = []
    for name, (holds, rule) in _RULES.items():
        values = possible_values(space, fixed, name)
        wrong = [value for value in values if not holds(value)]
        problems += [f"{name} must be {rule}, but got {wrong[0]!r}"] if wrong else []
    return problems


def possible_values(space: Space, fixed: Mapping[str, Any], name: str) -> list[Any]:
    """Return what a key of the config may be: its one value, its choices, or its two ends."""
    values = [known[name] for known in (fixed, space.constants) if name in known]
    for parameter in space.parameters:
        if parameter.name == name and isinstance(parameter, Number):
            values += [parameter.low, parameter.high]
        elif parameter.name == name and isinstance(parameter, Categorical):
            values += parameter.choices
    return values


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """What a trial trains and validates on; first dimensions agree.

    Attributes:
        train_x, train_y: Training inputs and targets.
        val_x: Validation inputs.
        validate: Maps the model's outputs on ``val_x`` to metrics.
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    val_x: torch.Tensor
    validate: Callable[[torch.Tensor], dict[str, float]]


class TensorLoop:
    """Trains a model by Adam on slices of tensors.

    Args:
        model: Called once the random state is set, so that the seed fixes its initial weights.
        tensors: On any device; they are moved.
        loss: Of outputs and targets, a mean over the batch.
        test: Maps the model and the test data to metrics.
        config: Whole config of the trial.
        metric, mode: What tells the best epoch.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        tensors: Tensors,
        *,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        test: Callable[[Callable[[torch.Tensor], torch.Tensor], Any], dict[str, float]],
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
        self.x, self.y = tensors.train_x.to(self.device), tensors.train_y.to(self.device)
        self.val_x = tensors.val_x.to(self.device)
        self.validate, self.loss, self._test = tensors.validate, loss, test
        self.batch_size: int = settings["batch_size"]
        self.clip_norm: float | None = settings["clip_norm"]
        self.patience: int | None = settings["patience"]
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            fused=True,
        )
        n_batches = math.ceil(len(self.x) / self.batch_size) * config["max_epochs"]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, _factor(settings["schedule"], n_batches)
        )
        self.metric, self.sign = metric, -1.0 if mode == "max" else 1.0
        self.epoch, self.best_epoch, self.best = 0, 0, math.inf
        self.plateau_epoch, self.plateau = 0, math.inf  # the last improvement that counts
        self.best_weights: dict[str, torch.Tensor] = {}

    def step(self) -> Mapping[str, float]:
        self.model.train()
        total = torch.zeros((), device=self.device)
        order = torch.randperm(len(self.x), generator=self.order).to(self.device)
        for rows in torch.split(order, self.batch_size):
            loss = self.loss(self.model(self.x[rows]), self.y[rows])
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach() * len(rows)
        self.epoch += 1
        train_loss = float(total) / len(self.x)
        if not math.isfinite(train_loss):
            raise FloatingPointError(f"train_loss is {train_loss} in epoch {self.epoch}")
        metrics = {"train_loss": train_loss, **self.validate(self.predict(self.val_x).cpu())}
        self._keep_best(self.sign * metrics[self.metric])
        return metrics

    @torch.no_grad()
    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the model as it is, without dropout."""
        self.model.eval()
        return torch.cat([self.model(part.to(self.device)) for part in torch.split(x, 1024)])

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
        return self._test(self.predict, data)

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
            "schedule": {"last_epoch": self.schedule.last_epoch},
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
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.order.set_state(state["order"].cpu())
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)


def _factor(schedule: str, n_batches: int) -> Callable[[int], float]:
    if schedule == "constant":
        return lambda batch: 1.0
    return lambda batch: 0.5 * (1.0 + math.cos(math.pi * min(batch / n_batches, 1.0)))


def use_threads(n: int) -> None:
    """Compute on ``n`` threads: one a trial beats all threads for each of several trials."""
    os.environ["OMP_NUM_THREADS"] = str(n)
    torch.set_num_threads(n)


def model_keys(model: type[nn.Module], given: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Return the config keys that a model class takes, and those of them that it needs.

    Args:
        model: Its ``__init__`` names them.
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
