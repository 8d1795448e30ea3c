"""Arm-fair search: equal budgets for the levels of a factor, and ranks within them."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from ray import tune

from hypertune.core.space import Categorical, Config, Space
from hypertune.search import Assignment, Search
from hypertune.search.methods import SCHEDULERS, make_search
from hypertune.search.schedulers.halving import Halving

SPEC: dict[str, Any] = {
    "x": tune.uniform(0, 1),
    "level": tune.choice(["slow", "fast"]),
    "steps": tune.randint(0, 40),
}


def make(
    method: str, spec: Mapping[str, Any] = SPEC, *, factor: str | None = "level", **more: Any
) -> Search:
    space = Space(spec)
    fair = None if factor is None else next(p for p in space.parameters if p.name == factor)
    assert fair is None or isinstance(fair, Categorical)
    settings: dict[str, Any] = {"mode": "min", "max_epochs": 27, "n_trials": 24, **more}
    return make_search(method, space, fair=fair, **settings)


def slow_winner(config: Config, epoch: int) -> float:
    """Return a loss: the slow level ends lower, and is behind at every rung but the last."""
    rate, end = (0.05, 0.4) if config["level"] == "slow" else (0.8, 0.55)
    return end + 0.01 * float(config["x"]) + math.exp(-rate * epoch)


def play(
    search: Search, loss: Callable[[Config, int], float], n_workers: int = 2
) -> list[Assignment]:
    jobs: list[Assignment] = []
    out: list[tuple[Assignment, int]] = []
    while True:
        while len(out) < n_workers and (job := search.ask()) is not None:
            jobs.append(job)
            out.append((job, job.from_epoch + 1))
        if not out:
            return jobs
        job, epoch = out.pop(0)
        search.tell(job.trial, epoch, loss(job.config, epoch))
        if epoch < job.to_epoch:
            out.append((job, epoch + 1))


def by_level(search: Search, of: Callable[[Any], int]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for trial in search.trials:
        counts[trial.flat["level"]] += of(trial)
    return dict(counts)


def test_plain_halving_stops_the_slow_level_and_the_fair_one_does_not() -> None:
    plain, fair = make("asha", factor=None), make("asha")
    play(plain, slow_winner)
    play(fair, slow_winner)
    assert by_level(plain, lambda t: t.full)["slow"] == 0
    assert by_level(fair, lambda t: t.full) == {"slow": 3, "fast": 3}


ROWS: list[tuple[str, str | None]] = [
    (name, None) for name in ("auto", "asha", "random", "hyperband", "bohb")
]
ROWS += [("sobol", key) for key in SCHEDULERS]


@pytest.mark.parametrize(("method", "scheduler"), ROWS)
def test_levels_get_equal_budgets(method: str, scheduler: str | None) -> None:
    search = make(method, scheduler=scheduler)
    play(search, slow_winner)
    assert by_level(search, lambda t: 1) == {"slow": 12, "fast": 12}
    epochs = by_level(search, lambda t: t.epoch)
    if scheduler != "median":  # it stops by values alone
        # Asynchronous promotion depends a little on the order in which values come.
        assert abs(epochs["slow"] - epochs["fast"]) <= 0.1 * sum(epochs.values())
    assert min(by_level(search, lambda t: t.full).values()) >= 1


def test_a_search_that_is_cut_short_has_been_fair_so_far() -> None:
    search = make("asha", n_trials=60)
    for n, _ in enumerate(iter(search.ask, None)):
        counts = by_level(search, lambda t: 1)
        assert abs(counts.get("slow", 0) - counts.get("fast", 0)) <= 1
        running = search.running
        for trial in running:
            for epoch in range(trial.epoch + 1, trial.to_epoch + 1):
                search.tell(trial.number, epoch, slow_winner(search.space.nest(trial.flat), epoch))
        if n > 50:
            granted = by_level(search, lambda t: t.to_epoch)
            assert abs(granted["slow"] - granted["fast"]) <= 27


@pytest.mark.parametrize("method", ["auto", "asha", "hyperband", "bohb", "random", "median"])
def test_a_search_that_is_rebuilt_goes_on_with_the_same_decisions(method: str) -> None:
    first = make(method, n_trials=14)
    jobs = play(first, slow_winner, 1)
    for n_seen in (1, 7, 15):
        again = make(method, n_trials=14)
        reached = {job.trial: job.to_epoch for job in jobs[:n_seen]}
        for number, epoch in sorted(reached.items()):
            config = first.space.nest(first.trials[number].flat)
            values = {e: slow_winner(config, e) for e in range(1, epoch + 1)}
            again.restore(config, values=values, reason=None, to_epoch=epoch)
        assert play(again, slow_winner, 1) == jobs[n_seen:]


def test_ranks_are_within_the_level_and_say_so() -> None:
    search = make("asha")
    play(search, slow_winner)
    for trial in search.trials:
        first = search.comparisons(trial.number)[0]
        assert (first.epoch, first.n, first.n_go_on) == (1, 12, 4)
        assert first.among == f"level {trial.flat['level']}"
        level = [t for t in search.trials if t.flat["level"] == trial.flat["level"]]
        assert first.rank == 1 + sum(t.losses[1] < trial.losses[1] for t in level)
    brackets = make("hyperband")
    play(brackets, slow_winner)
    assert {c.among for t in brackets.trials for c in brackets.comparisons(t.number)} <= {
        "level slow",
        "level fast",
    }


def test_configs_to_start_from_are_tried_as_they_are_and_the_rest_makes_up_for_them() -> None:
    start = [{"x": k / 10, "level": "fast", "steps": k} for k in range(3)]
    search = make("random", start=start, n_trials=8)
    play(search, slow_winner)
    levels = [t.flat["level"] for t in search.trials]
    assert [search.space.nest(t.flat) for t in search.trials[:3]] == start
    assert levels[3:6] == ["slow"] * 3
    assert Counter(levels) == {"slow": 4, "fast": 4}


def test_a_level_that_has_no_more_configs_leaves_its_share_to_the_others() -> None:
    spec = {"level": tune.choice(["slow", "fast"]), "x": tune.choice([0, 1, 2, 3, 4])}
    search = make(
        "random", spec, n_trials=10, feasible=lambda c: c["level"] == "fast" or c["x"] < 2
    )
    play(search, slow_winner)
    assert by_level(search, lambda t: 1) == {"slow": 2, "fast": 5}
    assert search.done
    grid = make("grid", spec, n_trials=10)
    play(grid, slow_winner)
    assert by_level(grid, lambda t: 1) == {"slow": 5, "fast": 5}
    levels = [t.flat["level"] for t in grid.trials]
    assert levels[:4] == ["slow", "fast", "slow", "fast"]


def test_branches_may_be_levels() -> None:
    spec = {
        "level": tune.choice([{"kind": "a"}, {"kind": "b", "rate": tune.uniform(0, 1)}]),
        "x": tune.uniform(0, 1),
    }
    search = make("auto", spec, n_trials=14)
    play(search, lambda config, epoch: float(config["x"]) + 1 / epoch)
    assert Counter(t.flat["level"] for t in search.trials) == {"a": 7, "b": 7}


def test_a_search_like_another_one_is_as_fair() -> None:
    search = make("asha")
    like = search.like(search._searcher, 10)
    assert like.fair is search.fair
    assert isinstance(like._plain, Halving)
    assert make("asha", factor=None).like(search._searcher, 10).fair is None
