"""Halving on tables of curves: who is promoted, when, to where; and that every search ends."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from ray import tune

from hypertune.core.space import Space, identity
from hypertune.search import Assignment, Search
from hypertune.search.methods import make_search
from hypertune.search.schedulers.halving import Halving

SPACE = Space({"x": tune.uniform(0, 1)})
UP = range(100)  # every trial is worse than those before it


def search(n_trials: int, max_epochs: int = 27, seed: int = 0) -> Search:
    return make_search(
        "asha", SPACE, mode="min", max_epochs=max_epochs, n_trials=n_trials, seed=seed
    )


def stretches(jobs: Sequence[Assignment]) -> list[tuple[int, int, int]]:
    return [(job.trial, job.from_epoch, job.to_epoch) for job in jobs]


def run(s: Search, losses: Sequence[float], ends: dict[tuple[int, int], Any] | None = None) -> Any:
    """Run one job at a time with flat curves; ``ends`` ends trials after epochs."""
    jobs = []
    while (job := s.ask()) is not None:
        jobs.append(job)
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            s.tell(job.trial, epoch, losses[job.trial])
            if reason := (ends or {}).get((job.trial, epoch)):
                s.end(job.trial, reason)
                break
    return stretches(jobs)


@pytest.mark.parametrize(
    ("max_epochs", "rungs"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 3]),
        (9, [1, 3, 9]),
        (10, [1, 3, 9, 10]),
        (27, [1, 3, 9, 27]),
        (100, [1, 3, 9, 27, 81, 100]),
    ],
)
def test_rungs_grow_by_three_up_to_the_last_epoch(max_epochs: int, rungs: list[int]) -> None:
    assert list(Halving(max_epochs).rungs) == rungs


@pytest.mark.parametrize(
    ("n_trials", "max_epochs", "n_jobs_to"),
    [
        (27, 27, {1: 27, 3: 9, 9: 3, 27: 3}),
        (81, 27, {1: 81, 3: 27, 9: 9, 27: 3}),
        (24, 27, {1: 24, 3: 8, 9: 2, 27: 3}),
        (5, 27, {1: 5, 3: 1, 27: 3}),
        (2, 9, {1: 2, 9: 2}),
        (4, 1, {1: 4}),
    ],
)
def test_a_third_goes_on_and_three_get_to_the_end(
    n_trials: int, max_epochs: int, n_jobs_to: dict[int, int]
) -> None:
    s = search(n_trials, max_epochs)
    jobs = run(s, UP)

    assert Counter(to_epoch for _, _, to_epoch in jobs) == n_jobs_to
    assert [t.number for t in s.trials if t.reason == "complete"] == list(
        range(min(n_trials, n_jobs_to[max_epochs]))
    )


@pytest.mark.parametrize(
    ("losses", "jobs"),
    [  # after three trials the best one goes on at once; then as soon as a third one is due
        ([1, 2, 3], [(0, 0, 1), (1, 0, 1), (2, 0, 1), (0, 1, 3)]),
        ([3, 2, 1], [(0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 1, 3)]),
        ([2, 3, 4, 1], [(0, 0, 1), (1, 0, 1), (2, 0, 1), (0, 1, 3), (3, 0, 1), (3, 1, 3)]),
        ([1, 1, 1], [(0, 0, 1), (1, 0, 1), (2, 0, 1), (0, 1, 3)]),
        ([math.nan, math.nan, 1], [(0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 1, 3)]),
    ],
)
def test_best_third_is_promoted_as_soon_as_there_is_one_and_continues_at_its_epoch(
    losses: list[float], jobs: list[tuple[int, int, int]]
) -> None:
    assert run(search(len(losses)), losses)[: len(jobs)] == jobs


def test_higher_rung_is_served_first() -> None:
    s = search(9, max_epochs=9)
    jobs = [s.ask() for _ in range(9)]
    assert all(jobs)
    for k in range(9):
        s.tell(k, 1, float(k))
    second = [s.ask() for _ in range(3)]
    assert stretches([job for job in second if job]) == [(0, 1, 3), (1, 1, 3), (2, 1, 3)]
    assert s.ask() is None  # what runs may decide who goes on
    for k in (2, 1, 0):
        s.tell(k, 2, float(k))
        s.tell(k, 3, float(k))

    job = s.ask()
    assert job is not None
    assert stretches([job]) == [(0, 3, 9)]


def test_finalists_are_three_and_wait_for_those_who_may_be_promoted_yet() -> None:
    s = search(5)
    for _ in range(5):
        s.ask()
    for k in (4, 3, 2, 1):
        s.tell(k, 1, float(k))
    job = s.ask()
    assert job is not None
    assert stretches([job]) == [(1, 1, 3)]
    assert s.ask() is None
    s.tell(0, 1, 0.0)
    job = s.ask()
    assert job is not None
    assert stretches([job]) == [(0, 1, 3)]
    for trial, epoch in itertools.product((0, 1), (2, 3)):
        assert s.ask() is None
        s.tell(trial, epoch, float(trial))

    finalists = [s.ask() for _ in range(4)]
    assert stretches([job for job in finalists if job]) == [(0, 3, 27), (1, 3, 27), (2, 1, 27)]


def test_trials_are_compared_at_the_same_epoch_by_the_best_value_up_to_it() -> None:
    s = search(9, max_epochs=9)
    curves = {0: [3, 0, 1], 1: [4], 2: [5], 3: [2, 9, 9], 4: [1, 1, 9]}
    jobs = []
    for _ in range(9):
        job = s.ask()
        assert job is not None
        jobs.append(job)
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            s.tell(job.trial, epoch, curves[job.trial][epoch - 1] if epoch <= 3 else 0)

    # In epoch 1 trial 3 is better than trial 0 was there, which has come to 0 meanwhile; in epoch 3
    # trials 0, 3 and 4 have 0, 2 and 1.
    promotions = [job for job in stretches(jobs) if job[1] > 0]
    assert promotions == [(0, 1, 3), (3, 1, 3), (4, 1, 3), (0, 3, 9)]


def test_converged_trial_carries_its_value_and_is_not_run_again() -> None:
    s = search(9, max_epochs=9)
    jobs = run(s, UP, {(0, 2): "converged"})

    assert s.trials[0].loss_at(9) == 0.0
    assert [job for job in jobs if job[0] == 0] == [(0, 0, 1), (0, 1, 3)]
    # It takes its place in every rung, so that two more fill the three in full.
    assert [t.number for t in s.trials if t.full] == [0, 1, 2]


def test_failed_trials_rank_last_and_do_not_stall() -> None:
    s = search(9, max_epochs=9)
    jobs = run(s, UP, {(0, 1): "failed", (1, 2): "failed", (2, 5): "failed"})

    assert [t.number for t in s.trials if t.full] == [3, 4, 5]
    assert s.done
    for number, last in ((0, 1), (1, 3), (2, 9)):
        assert max(to for trial, _, to in jobs if trial == number) == last


def test_search_ends_where_every_trial_fails_or_is_not_finite() -> None:
    for reason, losses in (("failed", UP), (None, [math.nan] * 100)):
        s = search(7)
        jobs = run(s, losses, {(k, 1): reason for k in range(7)} if reason else None)

        assert jobs == [(k, 0, 1) for k in range(7)]
        assert s.done
        assert not any(t.full for t in s.trials)


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5])
def test_every_search_ends_with_its_trials_run_and_three_in_full(n_workers: int) -> None:
    """Random curves, failures, convergence and lost jobs, whatever the order of reports."""
    for seed in range(60):
        rng = random.Random(seed)
        n_trials, max_epochs = rng.randint(1, 30), rng.choice([1, 4, 9, 27])
        p_fail, p_converge, p_lose = (rng.choice([0, 0.02, 0.3]) for _ in range(3))
        s = search(n_trials, max_epochs, seed=seed)
        out: dict[int, tuple[Assignment, int]] = {}
        n_lost = 0
        for n_steps in itertools.count():
            assert n_steps < 10_000
            while len(out) < n_workers and (job := s.ask()) is not None:
                assert job.trial not in out
                assert job.from_epoch <= s.trials[job.trial].epoch < job.to_epoch <= max_epochs
                out[job.trial] = job, job.from_epoch
            if not out:
                break
            number = rng.choice(list(out))
            job, epoch = out.pop(number)
            chance = rng.random()
            if chance < p_lose and n_lost < 50:
                n_lost += 1
                s.lost(number, rng.randint(job.from_epoch, epoch))
            elif chance < p_lose + p_fail:
                s.end(number, "failed")
            else:
                s.tell(number, epoch + 1, rng.random())
                if s.trials[number].reason is None and rng.random() < p_converge:
                    s.end(number, "converged")
                elif epoch + 1 < job.to_epoch:
                    out[number] = job, epoch + 1

        assert s.done
        assert len({identity(t.flat) for t in s.trials}) == len(s.trials) == n_trials
        assert all(list(t.losses) == list(range(1, t.epoch + 1)) for t in s.trials)
        n_able = sum(t.reason != "failed" for t in s.trials)
        assert sum(t.full for t in s.trials) >= min(3, n_able)
        assert all(t.reason in (None, "complete", "converged", "failed") for t in s.trials)


def test_failed_trials_make_no_room_on_rungs_that_they_never_reached() -> None:
    # Nine of twelve fail in their first epoch: the rung at 3 holds the trials that got there.
    s = search(n_trials=100)
    for _ in range(12):
        assert s.ask() is not None
    for number in range(12):
        if number < 9:
            s.end(number, "failed")
        else:
            s.tell(number, 1, float(number))
    promoted = s.ask()
    assert promoted is not None
    assert (promoted.trial, promoted.to_epoch) == (9, 3)
    for epoch in (2, 3):
        s.tell(9, epoch, 9.0)
    following = s.ask()
    assert following is not None
    assert following.to_epoch <= 3
