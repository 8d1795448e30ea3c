"""Optimizers and schedules: what decays, when the rate changes, and which settings can be."""

from typing import Any

import pytest
import torch
from torch import nn

from hypertune.tasks.torch.optim import (
    OPTIMIZERS,
    SCHEDULES,
    make_schedule,
    parameter_groups,
    rescale,
    schedule_problems,
)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_decay_and_biases_and_norms_do_not(name: str) -> None:
    model = net()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    optimizer = OPTIMIZERS[name](parameter_groups(model, 0.1), 0.01, 0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    for parameter in model.parameters():
        assert bool((parameter < 1).all()) == (parameter.ndim > 1)
        assert bool((parameter == 1).all()) == (parameter.ndim == 1)


def test_what_is_frozen_is_not_trained_and_no_group_is_empty() -> None:
    model = net()
    for parameter in model.parameters():
        parameter.requires_grad = parameter.ndim == 1

    for decay in (0.0, 0.1):
        (group,) = parameter_groups(model, decay)
        assert [p.ndim for p in group["params"]] == [1, 1, 1, 1]
        assert group["weight_decay"] == 0.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name: str) -> None:
    model, x = net(), torch.randn(64, 3)
    y = x.sum(dim=1, keepdim=True)
    optimizer = OPTIMIZERS[name](parameter_groups(model, 0.0), 0.03, 0.9)
    losses = []
    for _ in range(200):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.7 * losses[0]


def rates(schedule: Any, *, losses: list[float] | None = None) -> list[float]:
    """Return the rate of each batch, of 4 epochs of 5 batches; by epoch on a plateau."""
    optimizer = torch.optim.SGD(net().parameters(), lr=0.1)
    made = make_schedule(optimizer, schedule, n_epochs=4, n_batches=5)
    found = []
    for loss in losses or range(20):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if losses is not None:
            made.step(loss)  # type: ignore[union-attr, arg-type]
        elif made is not None:
            made.step()
    return found


def test_constant_rate_needs_no_schedule() -> None:
    assert rates("constant") == rates({"kind": "constant"}) == [0.1] * 20


def test_cosine_warms_up_and_falls_to_zero_batch_by_batch() -> None:
    found = rates({"kind": "cosine", "warmup_epochs": 1})

    assert found[:5] == pytest.approx([0.1 * i / 6 for i in range(1, 6)])
    assert found[5] == pytest.approx(0.1)
    assert found[5:] == sorted(found[5:], reverse=True)
    assert 0 < found[-1] < 0.002
    assert rates("cosine")[0] == pytest.approx(0.1)
    assert rates({"kind": "cosine", "warmup_epochs": 9})[-1] < 0.1  # never out of the warm-up


def test_one_cycle_rises_for_its_share_and_falls_to_almost_nothing() -> None:
    found = rates({"kind": "one_cycle", "rise_share": 0.5})

    assert found[0] == pytest.approx(0.1 / 25)
    assert found.index(max(found)) == 9
    assert max(found) == pytest.approx(0.1)
    assert found[-1] < 0.002


def test_plateau_waits_for_its_patience_and_multiplies() -> None:
    schedule = {"kind": "plateau", "factor": 0.5, "patience": 1}

    assert rates(schedule, losses=[1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]) == pytest.approx(
        [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025]
    )


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        *((kind, None) for kind in SCHEDULES),
        ({"kind": "plateau", "factor": 0.5, "patience": 0}, None),
        ("linear", "schedule must be one of constant, cosine, one_cycle, plateau, or a dict"),
        (None, "or a dict with such a 'kind', but got None"),
        ({"warmup_epochs": 3}, "or a dict with such a 'kind', but got {'warmup_epochs': 3}"),
        (
            {"kind": "constant", "factor": 0.5},
            "schedule.factor is not read by the schedule constant",
        ),
        ({"kind": "cosine", "warmup": 1}, "schedule.warmup is not read by the schedule cosine"),
        ({"kind": "cosine", "warmup_epochs": -1}, "schedule.warmup_epochs must be a number of at"),
        ({"kind": "one_cycle", "rise_share": 1.0}, "schedule.rise_share must be a number between"),
        ({"kind": "plateau", "factor": 1.0}, "schedule.factor must be a number between 0 and 1"),
        (
            {"kind": "plateau", "patience": 1.5},
            "schedule.patience must be an integer of at least 0",
        ),
    ],
)
def test_schedule_that_cannot_be_is_told(schedule: Any, problem: str | None) -> None:
    found = schedule_problems(schedule)

    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_state_goes_on_with_another_rate_as_its_schedule_has_it(kind: str) -> None:
    def rates(changed: bool) -> list[float]:
        optimizer = OPTIMIZERS["momentum"](parameter_groups(net(), 0.1), 0.1, 0.9)
        schedule = make_schedule(optimizer, kind, n_epochs=8, n_batches=1)
        found = []
        for epoch in range(8):
            if epoch == 3 and changed:
                before = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1}
                now = {"learning_rate": 0.02, "momentum": 0.8, "weight_decay": 0.3}
                rescale(optimizer, schedule, before, now)
                assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0]
                assert {g["momentum"] for g in optimizer.param_groups} == {0.8}
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                schedule.step(1.0)
            elif schedule is not None:
                schedule.step()
        return found

    plain, changed = rates(False), rates(True)
    assert changed[:3] == plain[:3]
    assert changed[3:] == pytest.approx([rate / 5 for rate in plain[3:]], rel=1e-6)
