"""Conformance: what every row of METHODS keeps on every space."""

import json
import math
import re
import statistics
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.tune.search import sample

from hypertune.core.errors import SettingError
from hypertune.core.origin import Origin
from hypertune.core.space import Config, Space, identity
from hypertune.search import Search
from hypertune.search.methods import METHODS, SCHEDULERS, ask_tell, make_search, method_rungs

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
    "beyond 64 bits": {
        "a": tune.choice([2**64, 2**65, 7, 10**400]),
        "b": tune.randint(0, 2**64),
        "c": tune.randint(2**70, 2**70 + 10),
        "d": tune.qrandint(-7 * 2**80, 7 * 2**80, 7),
        "e": tune.lograndint(1, 2**100),
        "f": tune.randint(-(10**308), 10**308),
    },
    "wide and narrow": {
        "a": tune.uniform(-1e308, 1e308),
        "b": tune.uniform(-sys.float_info.max, sys.float_info.max),
        "c": tune.quniform(-1.7e308, 1.7e308, 1e307),
        "d": tune.uniform(1.0, 1.0 + 2**-52),
        "e": tune.uniform(0, 5e-324),
        "f": tune.loguniform(1e-320, 1),
        "g": tune.loguniform(1e-300, sys.float_info.max),
        "h": tune.qloguniform(1e300, 1e308, 1e300),
        "i": X,
    },
    "tuples": {
        "a": tune.choice([(3, 3), (5, 5)]),
        "b": tune.choice([((1, 2), [3, (4,)]), {"k": (None,)}, ()]),
        "c": tune.choice([{"size": (tune.randint(1, 4), 3), "pad": (1, 2)}, (X, [X]), None]),
        "d": X,
    },
}
ROWS = pytest.mark.parametrize("method", METHODS)


def make(method: str, spec: Any, **settings: Any) -> Search:
    settings = {"mode": "min", "max_epochs": 3, "n_trials": 14, **settings}
    return make_search(method, Space(stepped(spec) if method == "grid" else spec), **settings)


def stepped(spec: Any) -> Any:
    """Return the space with values in place of continuous ranges, which a grid cannot have."""
    if isinstance(spec, dict):
        return {key: stepped(value) for key, value in spec.items()}
    if isinstance(spec, list | tuple):
        return type(spec)(stepped(value) for value in spec)
    if isinstance(spec, sample.Categorical):
        return tune.choice(stepped(list(spec.categories)))
    if isinstance(spec, sample.Float) and not isinstance(spec.sampler, sample.Quantized):
        (x,) = Space({"x": spec}).parameters
        return tune.choice(sorted({x.from_unit(k / 20) for k in range(20)}))
    return spec


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
        # JSON knows plain types only; what are tuples the space knows, and its record.
        back = json.loads(json.dumps(config, allow_nan=False))
        assert identity(back) == identity(config)
        assert repr(search.space.nest(search.space.flatten(back))) == repr(config)
        recorded = Space.from_plain(json.loads(json.dumps(search.space.plain())))
        assert repr(recorded.nest(recorded.flatten(back))) == repr(config)
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


@ROWS
def test_new_config_has_the_values_that_are_given(method: str) -> None:
    spec = {**SPACES["lists and none"], "s": SPACES["branches"]["s"], "c": tune.choice(["u", "v"])}
    search = make(method, spec, n_trials=30, max_epochs=1)
    for k in range(20):
        given = {"c": "uv"[k % 2], "a": [None, [1, [2]], True, 1][k % 4], "s": "ab"[k % 3 == 0]}
        job = search.ask(given)
        assert job is not None
        assert {**job.config, "s": job.config["s"]["kind"]} == {**job.config, **given}
        assert search.space.problems(job.config) == []
        search.tell(job.trial, 1, math.sin(k))
    assert len({identity(search.space.nest(t.flat)) for t in search.trials}) == 20


def test_level_may_run_out_while_others_have_configs_left() -> None:
    spec = {"c": tune.choice(["u", "v"]), "n": tune.choice([1, True])}
    search = make("auto", spec, n_trials=4, max_epochs=1)
    jobs = [search.ask({"c": "u"}) for _ in range(3)]

    assert [job and job.config["c"] for job in jobs] == ["u", "u", None]
    assert search.can_propose
    job = search.ask({"n": True})
    assert job is not None
    assert job.config == {"c": "v", "n": True}
    with pytest.raises(SettingError, match=r"given: 'd' is no parameter .* Choose one of: c, n"):
        search.ask({"d": 1})
    with pytest.raises(SettingError, match=r"given: c must be one of u, v, but got 'w'"):
        search.ask({"c": "w"})


def test_grid_names_continuous_parameters_and_goes_through_all_others_once() -> None:
    with pytest.raises(SettingError, match=r"grid needs parameters .* but a is continuous"):
        make_search("grid", Space(SPACES["mixed"]), mode="min", max_epochs=1, n_trials=9)
    spec = {"a": tune.choice([{"x": tune.quniform(0, 1, 0.25)}, None]), "b": tune.randint(0, 3)}
    search = make("grid", spec, n_trials=None, start=[{"a": None, "b": 1}])

    configs = play(search)
    assert len({identity(config) for config in configs}) == len(configs) == (5 + 1) * 3


def test_sobol_spreads_points_more_evenly_than_chance() -> None:
    def emptiest(method: str, seed: int) -> int:
        search = make(method, {"x": X, "y": X}, n_trials=64, max_epochs=1, seed=seed)
        cells = Counter((int(4 * c["x"] + 4) // 2, int(4 * c["y"] + 4) // 2) for c in play(search))
        return min(cells[i, j] for i in range(4) for j in range(4))

    assert all(emptiest("sobol", seed) >= 3 for seed in range(5))
    assert any(emptiest("random", seed) < 3 for seed in range(5))


def test_bohb_learns_from_the_largest_budget_with_enough_trials() -> None:
    # At one epoch small x look good, in full large ones: the full budget must decide.
    search = make("bohb", {"x": tune.uniform(0, 1)}, n_trials=60, max_epochs=9, seed=1)
    while (job := search.ask()) is not None:
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            x = job.config["x"]
            search.tell(job.trial, epoch, x if epoch < 9 else 1 - x)
    early = [t.flat["x"] for t in search.trials[:20]]
    late = [t.flat["x"] for t in search.trials[40:]]
    assert statistics.mean(late) > statistics.mean(early)


def test_scheduler_goes_with_any_searcher() -> None:
    search = make("tpe", {"x": X}, n_trials=20, max_epochs=9, scheduler="asha")
    play(search)
    assert {t.epoch for t in search.trials if t.number not in (4, 5)} == {1, 3, 9}


@pytest.mark.parametrize(
    ("model", "scheduler", "n_trials"),
    [
        ("tpe", "asha", 60),
        ("tpe", "hyperband", 60),
        ("hyperopt", "asha", 60),
        ("hyperopt", "hyperband", 60),
        ("bayes", "asha", 40),
    ],
)
def test_models_learn_from_trials_that_are_halved(
    model: str, scheduler: str, n_trials: int
) -> None:
    spec = {"x": X, "y": tune.loguniform(1e-4, 1)}

    def later_losses(method: str, seed: int) -> list[float]:
        search = make(
            method, spec, seed=seed, n_trials=n_trials, max_epochs=27, scheduler=scheduler
        )
        losses: dict[int, float] = {}
        while (job := search.ask()) is not None:
            x, y = job.config["x"], math.log10(job.config["y"])
            losses[job.trial] = (x - 0.3) ** 2 + (y + 2.5) ** 2 / 4
            for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
                search.tell(job.trial, epoch, losses[job.trial] + 1 / epoch)
        by_chance = [t.number for t in search.trials[20:] if t.origin is Origin.RANDOM]
        assert not by_chance or method == "random"
        return [losses[number] for number in range(20, n_trials)]

    ours, random = (later_losses(m, 0) + later_losses(m, 1) for m in (model, "random"))
    assert np.quantile(ours, 0.25) < 0.7 * np.quantile(random, 0.25)


@pytest.mark.parametrize("method", ["bayes", "tpe"])
@pytest.mark.parametrize(
    "range_", [tune.randint(0, 10**7), tune.qrandint(0, 10**12, 10), tune.randint(0, 2**62)]
)
def test_best_value_of_a_long_range_may_be_its_last(method: str, range_: Any) -> None:
    search = make(method, {"x": range_}, mode="max", max_epochs=1)
    high = search.space.parameters[0].from_unit(1.0)
    while (job := search.ask()) is not None:
        search.tell(job.trial, 1, job.config["x"])
    assert high in range(10**7 - 1, 2**62)
    assert max(trial.flat["x"] for trial in search.trials) <= high


@pytest.mark.parametrize(
    ("method", "scheduler", "message"),
    [
        ("tpee", None, "Unknown method 'tpee'. Did you mean 'tpe'?"),
        ("tpe", "ahsa", "Unknown scheduler 'ahsa'. Did you mean 'asha'?"),
    ],
)
def test_unknown_names_are_told(method: str, scheduler: str | None, message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        make_search(
            method, Space({"x": X}), mode="min", max_epochs=1, n_trials=1, scheduler=scheduler
        )


def test_ask_tell_drives_a_search_without_an_end() -> None:
    search = ask_tell("hyperband", {"x": X}, mode="max", max_epochs=9, seed=3)
    for _ in range(50):
        job = search.ask()
        assert job is not None
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, job.config["x"])
    assert not search.done


def test_tpe_is_silent_on_a_range_of_64_bits() -> None:
    play(make("tpe", {"seed": tune.randint(0, 2**53), "x": X}, n_trials=40))


def test_tpe_searches_multiples_of_a_very_small_step() -> None:
    play(make("tpe", {"a": tune.quniform(0, 1, 1e-9)}))


@pytest.mark.parametrize(
    ("model", "n_trials", "n_seeds"), [("tpe", 30, 8), ("hyperopt", 60, 8), ("bayes", 20, 2)]
)
def test_models_find_better_configs_than_chance(model: str, n_trials: int, n_seeds: int) -> None:
    spec = {"x": X, "y": tune.loguniform(1e-4, 1)}

    def best(method: str, seed: int) -> float:
        losses: list[float] = []
        search = make(method, spec, seed=seed, n_trials=n_trials, max_epochs=1)
        while (job := search.ask()) is not None:
            x, y = job.config["x"], math.log10(job.config["y"])
            losses.append((x - 0.3) ** 2 + (y + 2.5) ** 2 / 4)
            search.tell(job.trial, 1, losses[-1])
        return min(losses)

    mean = {m: statistics.mean(best(m, seed) for seed in range(n_seeds)) for m in ("random", model)}
    assert mean[model] < 0.5 * mean["random"]


@ROWS
def test_no_config_is_tried_that_may_not_be(method: str) -> None:
    space = {"n": tune.randint(0, 40), "k": tune.choice(["a", "b", "c"])}

    def feasible(config: Config) -> bool:
        return bool(config["n"] < 10 and config["k"] != "c")

    start = ({"n": 3, "k": "a"}, {"n": 30, "k": "a"})
    n_trials = 120 if method == "grid" else 14
    search = make(method, space, n_trials=n_trials, start=start, feasible=feasible)
    while (job := search.ask()) is not None:
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, -job.config["n"] + 1 / epoch)

    tried = [search.space.nest(trial.flat) for trial in search.trials]
    assert tried[0] == start[0]
    assert all(map(feasible, tried))
    # A grid tries all that may be tried; 10 times 2 of its 120 configs may.
    assert len({identity(config) for config in tried}) == (20 if method == "grid" else 14)


def test_default_method_finds_what_is_best_of_what_may_be_tried() -> None:
    space = {"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}

    def feasible(config: Config) -> bool:
        return bool(config["x"] + config["y"] < 0.4)

    search = make("auto", space, n_trials=30, max_epochs=1, feasible=feasible)
    while (job := search.ask()) is not None:
        search.tell(job.trial, 1, -job.config["x"] - job.config["y"])

    assert min(trial.losses[1] for trial in search.trials) < -0.39


def test_of_many_trials_tpe_is_told_the_best_and_some_of_the_others() -> None:
    search = make("tpe", {"x": tune.uniform(0, 1)}, max_epochs=1, n_trials=None)
    for k in range(200):
        search.restore({"x": k / 200}, values={1: k / 200}, reason="complete", to_epoch=1)
    near = []
    for _ in range(10):
        job = search.ask()
        assert job is not None
        assert search.trials[-1].why.endswith("from 100 trials")
        near.append(job.config["x"])
        search.tell(job.trial, 1, job.config["x"])
    assert statistics.median(near) < 0.1


@pytest.mark.parametrize("max_epochs", [1, 18, 27, 50, 54])
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("method", ["auto", "bohb"])
def test_models_know_the_epochs_at_which_their_scheduler_stops_trials(
    method: str, scheduler: str, max_epochs: int
) -> None:
    search = make(method, {"x": X}, max_epochs=max_epochs, scheduler=scheduler, n_trials=14)
    stops = set()
    while (job := search.ask()) is not None:
        stops.add(job.to_epoch)
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, job.config["x"] + 1 / epoch)
    assert stops <= set(search.rungs)
    assert search.rungs[-1] == max_epochs
    assert search._searcher.rungs == search.rungs == method_rungs(method, scheduler, max_epochs)


def test_bohb_models_the_epochs_of_its_brackets() -> None:
    search = make("bohb", {"x": X}, max_epochs=18, n_trials=40)
    while (job := search.ask()) is not None:
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, job.config["x"] + 1 / epoch)
    modelled = {t.why.rpartition(" ")[2] for t in search.trials if t.origin is Origin.MODEL}
    assert search.rungs == (2, 6, 18)
    assert modelled <= {"2", "6", "18"}
    assert len(modelled) >= 2


@pytest.mark.parametrize("method", [name for name in METHODS if name != "grid"])
@pytest.mark.parametrize(
    "range_",
    [
        tune.uniform(-1e308, 1e308),
        tune.uniform(1.0, 1.0 + 2**-40),
        tune.loguniform(1e-320, 1),
        tune.randint(0, 2**64),
    ],
)
def test_values_are_spread_over_the_range_however_wide_or_narrow(method: str, range_: Any) -> None:
    search = make(method, {"x": range_}, max_epochs=1)
    x = search.space["x"]
    units = [x.to_unit(config["x"]) for config in play(search)]
    assert len({int(3 * unit) for unit in units}) == 3
    assert len(set(units)) == 14
