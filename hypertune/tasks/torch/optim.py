"""Optimizers and learning-rate schedules by name, and the rules that their settings keep."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

Rule = tuple[Callable[[Any], bool], str]
"""What must hold for a value, and how to say so after "must be"."""

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": lambda groups, lr, momentum: optim.SGD(groups, lr=lr, fused=True),
    "momentum": lambda groups, lr, momentum: optim.SGD(
        groups, lr=lr, momentum=momentum, fused=True
    ),
    "nesterov": lambda groups, lr, momentum: optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=True, fused=True
    ),
    "adam": lambda groups, lr, momentum: optim.Adam(groups, lr=lr, fused=True),
    "adamw": lambda groups, lr, momentum: optim.AdamW(groups, lr=lr, fused=True),
    "rmsprop": lambda groups, lr, momentum: optim.RMSprop(groups, lr=lr, foreach=True),
}
"""``momentum`` is read by ``momentum`` and ``nesterov`` alone; ``sgd`` is plain."""


def is_whole(value: Any) -> bool:
    """Say whether a value is an integer, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Say whether a value is a number, and not a bool."""
    return is_whole(value) or isinstance(value, float)


SCHEDULES: dict[str, dict[str, tuple[Any, Rule]]] = {
    "constant": {},
    "cosine": {
        "warmup_epochs": (0, (lambda v: is_real(v) and v >= 0, "a number of at least 0")),
    },
    "one_cycle": {
        "rise_share": (0.3, (lambda v: is_real(v) and 0 < v < 1, "a number between 0 and 1")),
    },
    "plateau": {
        "factor": (0.1, (lambda v: is_real(v) and 0 < v < 1, "a number between 0 and 1")),
        "patience": (10, (lambda v: is_whole(v) and v >= 0, "an integer of at least 0")),
    },
}
"""What each schedule reads: default and rule.

``cosine`` rises linearly for ``warmup_epochs`` and falls to zero over the rest (Loshchilov and
Hutter 2017); ``one_cycle`` rises from a 25th of the rate during ``rise_share`` of the training and
falls to almost nothing (Smith and Topin 2019); both step by batch. ``plateau`` multiplies the rate
by ``factor`` after ``patience`` epochs without an improvement of the study's metric.
"""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return what is trained; weights decay, biases and norms (vectors and scalars) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not weight_decay:
        return [{"params": trained, "weight_decay": 0.0}]  # one group is a faster step
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def schedule_problems(schedule: Any) -> list[str]:
    """Return what is wrong with a ``schedule``: a name, or a dict of ``kind`` and its settings."""
    if isinstance(schedule, str) and schedule in SCHEDULES:
        return []
    if not isinstance(schedule, Mapping) or schedule.get("kind") not in SCHEDULES:
        return [
            f"schedule must be one of {', '.join(SCHEDULES)}, or a dict with such a 'kind', "
            f"but got {schedule!r}"
        ]
    known = SCHEDULES[schedule["kind"]]
    problems = [
        f"schedule.{key} is not read by the schedule {schedule['kind']}, which reads "
        f"{', '.join(known) or 'nothing'}"
        for key in schedule
        if key not in {"kind", *known}
    ]
    for key, (_, (holds, text)) in known.items():
        if key in schedule and not holds(schedule[key]):
            problems.append(f"schedule.{key} must be {text}, but got {schedule[key]!r}")
    return problems


def make_schedule(
    optimizer: optim.Optimizer, schedule: str | Mapping[str, Any], *, n_epochs: int, n_batches: int
) -> LRScheduler | None:
    """Return a schedule; None for a constant rate.

    Args:
        optimizer: Holds the base rate, which is the highest one.
        schedule: As in a config.
        n_epochs: Epochs of the trial in full.
        n_batches: Batches an epoch.
    """
    given = {"kind": schedule} if isinstance(schedule, str) else dict(schedule)
    kind = given.pop("kind")
    options = {key: default for key, (default, _) in SCHEDULES[kind].items()} | given
    total = n_epochs * n_batches
    if kind == "cosine":
        return LambdaLR(optimizer, _cosine(round(options["warmup_epochs"] * n_batches), total))
    if kind == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        share = options["rise_share"]
        return OneCycleLR(
            optimizer, rates, total_steps=total, pct_start=share, cycle_momentum=False
        )
    if kind == "plateau":
        return ReduceLROnPlateau(
            optimizer, factor=options["factor"], patience=options["patience"], threshold=1e-3
        )
    return None


def _cosine(n_rise: int, n_total: int) -> Callable[[int], float]:
    def factor(batch: int) -> float:
        if batch < n_rise:
            return (batch + 1) / (n_rise + 1)
        done = min((batch - n_rise) / max(n_total - n_rise, 1), 1.0)
        return 0.5 * (1.0 + math.cos(math.pi * done))

    return factor


def rescale(
    optimizer: optim.Optimizer,
    schedule: LRScheduler | None,
    before: Mapping[str, float],
    now: Mapping[str, float],
) -> None:
    """Go on from an optimizer's state with another learning rate, momentum and weight decay.

    Whatever a schedule has made of the rate is a multiple of it, and stays that multiple.

    Args:
        optimizer: With the state that was loaded.
        schedule: The same.
        before: ``learning_rate``, ``momentum`` and ``weight_decay`` of that state.
        now: Those from now on.
    """
    ratio = now["learning_rate"] / before["learning_rate"]
    for group in optimizer.param_groups:
        for key in ("lr", "initial_lr", "max_lr", "min_lr"):
            if key in group:
                group[key] *= ratio
        if group["weight_decay"]:  # biases and norms have none
            group["weight_decay"] = now["weight_decay"]
        if group.get("momentum"):
            group["momentum"] = now["momentum"]
    base = getattr(schedule, "base_lrs", None)
    if schedule is not None and base is not None:
        schedule.base_lrs = [rate * ratio for rate in base]
