"""Conformance: what every row of METHODS keeps on every space."""

import json
import math
import statistics
from typing import Any

import pytest
from ray import tune

from hypertune.methods import METHODS, make_search
from hypertune.search import Search
from hypertune.space import Config, Space, identity

X = tune.uniform(-1, 1)
SPACES: dict[str, dict[str, Any]] = {
    "mixed": {
        "a": X,
        "b": tune.loguniform(1e-4, 1e-1),
        "c": tune.quniform(0, 1, 0.1),
        "d": tune.qloguniform(1e-4, 1e-1, 5e-5),
        "e": tune.randint(-3, 4),
        "f": tune.lograndint(8, 129),
        "g": tune.qrandint(16, 64, 16),
        "h": tune.qlograndint(4, 64, 4),
        "i": tune.choice(["gru", "lstm"]),
        "j": tune.grid_search([1, 1.0, True]),
    },
    "branches": {
        "s": tune.choice(
            [
                {"kind": "a", "rate": X, "more": tune.choice([{"rate": X}, {"n": 1, "rate": 3}])},
                {"kind": "b", "rate": tune.loguniform(1, 9), "more": [tune.randint(0, 9), X]},
            ]
        )
    },
    "one element": {"a": tune.choice([3]), "b": tune.randint(5, 6), "c": X},
    "lists and none": {
        "a": tune.choice([None, [1, [2]], (3,), {"k": [None]}, True, 1, 1.0, "1"]),
        "b": X,
    },
    "many": {f"x{i}": tune.uniform(0, 1) if i % 2 else tune.randint(0, 9) for i in range(100)},
    "huge and tiny": {
        "a": tune.loguniform(1e-300, 1e300),
        "b": tune.loguniform(1e-12, 1e-11),
        "c": tune.lograndint(1, 2**40),
        "d": tune.uniform(0, 1e-300),
        "e": tune.uniform(-1e200, 1e200),
    },
}
ROWS = pytest.mark.parametrize("method", METHODS)


def make(method: str, spec: dict[str, Any], **settings: Any) -> Search:
    settings = {"mode": "min", "max_epochs": 3, "n_trials": 14, **settings}
    return make_search(method, Space(spec), **settings)


def play(search: Search) -> list[Config]:
    """Run with three jobs out; one trial fails, one is not finite. Return all configs."""
    configs: list[Config] = []
    while not search.done:
        out = [job for job in (search.ask() for _ in range(3)) if job is not None]
        for job in out:
            if job.from_epoch == 0:
                configs.append(job.config)
            for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
                value = math.sin(sum(map(ord, identity(job.config))))
                search.tell(job.trial, epoch, math.nan if job.trial == 4 else value)
                if job.trial == 5:
                    search.end(job.trial, "failed")
                    break
    return configs


@ROWS
@pytest.mark.parametrize("space", SPACES)
def test_configs_are_in_range_plain_distinct_and_fixed_by_the_seed(method: str, space: str) -> None:
    search = make(method, SPACES[space], seed=2)
    configs = play(search)

    assert len(configs) == len({identity(config) for config in configs}) == 14
    for config in configs:
        assert search.space.problems(config) == []
        # JSON knows plain types only, and gives back the same ones.
        assert identity(json.loads(json.dumps(config, allow_nan=False))) == identity(config)
    again = play(make(method, SPACES[space], seed=2))
    assert [identity(config) for config in again] == [identity(config) for config in configs]
    assert search.trials[5].reason == "failed"
    assert (4 in [t.number for t in search.trials if t.full]) == (search.trials[4].epoch == 3)


@ROWS
def test_many_jobs_may_be_out_before_the_first_value(method: str) -> None:
    search = make(method, SPACES["lists and none"], n_trials=30)
    jobs = [search.ask() for _ in range(30)]

    assert len({identity(job.config) for job in jobs if job is not None}) == 30
    assert search.ask() is None


def test_tpe_is_silent_on_a_range_of_64_bits() -> None:
    play(make("tpe", {"seed": tune.randint(0, 2**53), "x": X}, n_trials=40))


def test_tpe_searches_multiples_of_a_very_small_step() -> None:
    play(make("tpe", {"a": tune.quniform(0, 1, 1e-9)}))


def test_tpe_finds_better_configs_than_chance() -> None:
    spec = {"x": X, "y": tune.loguniform(1e-4, 1)}

    def best(method: str, seed: int) -> float:
        losses: list[float] = []
        search = make(method, spec, seed=seed, n_trials=30, max_epochs=1)
        while (job := search.ask()) is not None:
            x, y = job.config["x"], math.log10(job.config["y"])
            losses.append((x - 0.3) ** 2 + (y + 2.5) ** 2 / 4)
            search.tell(job.trial, 1, losses[-1])
        return min(losses)

    mean = {m: statistics.mean(best(m, seed) for seed in range(8)) for m in ("random", "tpe")}
    assert mean["tpe"] < 0.5 * mean["random"]
