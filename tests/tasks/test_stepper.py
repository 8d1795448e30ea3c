"""A class of one's own with ``step()``: an instance is a trial."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make

from hypertune.core.space import Space
from hypertune.engine.ray.worker import WorkerJob
from hypertune.tasks.checkpoint import newest_checkpoint
from hypertune.tasks.stepper import Stepwise

SPACE: Any = None  # no rule of these tasks is about the space


class Counts:
    """Has all that a class may have."""

    test_metrics = {"loss": "test_loss"}  # noqa: RUF012, as people write it
    closed = 0

    def __init__(self, config: Any) -> None:
        self.config, self.n = config, 0

    def step(self) -> dict[str, Any]:
        self.n += 1
        return {"loss": self.config["x"] / self.n, "drawn": float(torch.rand(()))}

    @property
    def converged(self) -> bool:
        return bool(self.n == self.config["converge_at"])

    def save(self, folder: Path) -> None:
        (folder / "n").write_text(json.dumps(self.n))

    def load(self, folder: Path) -> None:
        self.n = json.loads((folder / "n").read_text())

    def test(self) -> dict[str, float]:
        return {"test_loss": 10.0 * self.n}

    def close(self) -> None:
        type(self).closed += 1


class Least:
    def __init__(self, config: Any) -> None:
        self.loss = config["x"]

    def step(self) -> Any:
        return {"loss": self.loss} if self.loss else None


@pytest.fixture
def own(job: WorkerJob) -> WorkerJob:
    return replace(job, config={"x": 1.0, "converge_at": 3, "max_epochs": 9, "seed": 1})


def test_trial_goes_on_converges_and_is_tested(
    make_worker: Make, own: WorkerJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    Counts.closed = 0
    worker = make_worker(own, Stepwise(Counts))
    first = [worker.train(), worker.train()]
    newest = newest_checkpoint(own.folder, up_to=9)
    assert newest is not None
    worker.reset(replace(own, to_epoch=9, checkpoint=str(newest[1])).to_dict())
    last = worker.train()

    assert [r["metrics"]["loss"] for r in (*first, last)] == [1.0, 1 / 2, 1 / 3]
    assert len({r["metrics"]["drawn"] for r in (*first, last)}) == 3
    assert (last["converged"], last["done"], last["failure"]) == (True, True, None)
    monkeypatch.setattr("ray.get", lambda reference: None)
    test: Any = "reference"
    checkpoint = f"{own.folder}/epoch-3"
    worker.reset(replace(own, checkpoint=checkpoint, test_data=test).to_dict())
    assert worker.train()["metrics"] == {"test_loss": 30.0}
    assert Counts.closed == 3


def test_least_class_saves_nothing(make_worker: Make, own: WorkerJob) -> None:
    worker = make_worker(own, Stepwise(Least))

    assert [worker.train()["epoch"], worker.train()["epoch"]] == [1, 2]
    assert not Path(own.folder).exists()
    assert not Stepwise(Least).saves
    assert Stepwise(Counts).saves


def test_step_must_return_metrics(make_worker: Make, own: WorkerJob) -> None:
    result = make_worker(replace(own, config={**own.config, "x": 0}), Stepwise(Least)).train()

    assert result["failure"] == (
        "TypeError: step() must return a dict of metrics, but returned None"
    )


def made(**members: Any) -> type:
    return type("Mine", (), {"__init__": lambda self, config: None, "step": dict, **members})


@pytest.mark.parametrize(
    ("kind", "problems"),
    [
        (made(), []),
        (Counts, []),
        (made(__init__=lambda self: None), ["Mine must take one argument, (config)"]),
        (made(save=0), ["Mine must have save(folder) and load(folder), or none of them"]),
        (made(load=0), ["Mine must have save(folder) and load(folder), or none of them"]),
        (
            made(test=0, test_metrics={}),
            ["Mine must have save and load for test(), which comes after the end"],
        ),
        (
            made(test=0, save=0, load=0),
            [
                'Mine must have test() and test_metrics, a dict such as {"val_loss": "test_loss"}, '
                "or none of them"
            ],
        ),
    ],
)
def test_class_that_lacks_something_is_refused(kind: type, problems: list[str]) -> None:
    space: Space = SPACE
    assert Stepwise(kind).problems(space, {}) == problems
