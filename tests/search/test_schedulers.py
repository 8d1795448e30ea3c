"""HyperBand's brackets and the median rule, on curves in tables."""

from collections import Counter
from collections.abc import Callable

import pytest
from ray import tune

from hypertune.core.space import Space
from hypertune.search import Assignment, Reason, Search
from hypertune.search.schedulers.base import Scheduler
from hypertune.search.schedulers.hyperband import Hyperband
from hypertune.search.schedulers.median import Median
from hypertune.search.searchers.random import Random


def play(
    scheduler: Scheduler, n_trials: int, loss: Callable[[int, int], float], workers: int = 1
) -> Search:
    """Run with so many workers, all epochs of a job at once, in the order of their starting."""
    space = Space({"x": tune.uniform(0, 1)})
    search = Search(
        space,
        Random(space, scheduler.max_epochs),
        scheduler,
        mode="min",
        max_epochs=scheduler.max_epochs,
        n_trials=n_trials,
    )
    out: list[Assignment] = []
    while True:
        while len(out) < workers and (job := search.ask()) is not None:
            out.append(job)
        if not out:
            break
        job = out.pop(0)
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, loss(job.trial, epoch))
    assert search.done
    return search


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("max_epochs", "n_trials", "epochs"),
    [
        # Table 1 of Li et al. 2018: brackets of 81, 34, 15, 8 and 5 trials for R = 81.
        (81, 81, {1: 54, 3: 18, 9: 6, 27: 2, 81: 1}),
        (81, 81 + 34, {1: 54, 3: 18 + 23, 9: 6 + 8, 27: 2 + 2, 81: 1 + 1}),
        (9, 9 + 5 + 3, {1: 6, 3: 2 + 4, 9: 1 + 1 + 3}),
        # An under-filled bracket is halved by the trials that it has.
        (9, 7, {1: 5, 3: 1, 9: 1}),
        (81, 2, {1: 1, 81: 1}),
        (1, 4, {1: 4}),
    ],
)
def test_hyperband_halves_its_brackets(
    max_epochs: int, n_trials: int, epochs: dict[int, int], workers: int
) -> None:
    search = play(Hyperband(max_epochs), n_trials, lambda trial, epoch: trial / epoch, workers)
    assert Counter(trial.epoch for trial in search.trials) == epochs


def test_hyperband_promotes_the_best_of_a_bracket_and_fills_the_next_meanwhile() -> None:
    losses = [5, 3, 8, 1, 9, 2, 7, 4, 6]
    search = play(Hyperband(9), 9, lambda trial, epoch: losses[trial])
    assert [t.epoch for t in search.trials] == [1, 3, 1, 9, 1, 3, 1, 1, 1]

    space = Space({"x": tune.uniform(0, 1)})
    waits = Search(
        space, Random(space, 9), Hyperband(9), mode="min", max_epochs=9, n_trials=17, seed=0
    )
    out = [waits.ask() for _ in range(9)]
    following = waits.ask()
    assert all(job is not None and job.to_epoch == 1 for job in out)
    assert following is not None
    assert (following.trial, following.to_epoch) == (9, 3)


@pytest.mark.parametrize("reason", ["failed", "stopped", "interrupted"])
def test_hyperband_does_not_wait_for_trials_that_have_ended(reason: Reason) -> None:
    space = Space({"x": tune.uniform(0, 1)})
    search = Search(space, Random(space, 9), Hyperband(9), mode="min", max_epochs=9, n_trials=9)
    for number in range(9):
        job = search.ask()
        assert job is not None
        if number < 8:
            search.end(job.trial, reason)
        else:
            search.tell(job.trial, 1, 1.0)
    job = search.ask()
    assert job is not None
    assert (job.trial, job.from_epoch, job.to_epoch) == (8, 1, 3)


def test_median_stops_what_is_worse_than_the_running_averages_of_the_others() -> None:
    def loss(trial: int, epoch: int) -> float:
        level = {0: 1.0, 1: 2.0, 2: 3.0, 3: 5.0, 4: 1.5}[trial]
        return level + 1 / epoch

    search = play(Median(9), 5, loss)
    # Up to three others are not enough to judge by; the fourth is worse than their median.
    assert [t.epoch for t in search.trials] == [9, 9, 9, 1, 9]


@pytest.mark.parametrize(("levels", "epoch"), [([1, 2, 3, 2.5], 1), ([1, 2, 3, 2.5, 9, 9, 9], 2)])
def test_median_lets_a_trial_go_on_when_others_turn_out_worse(
    levels: list[float], epoch: int
) -> None:
    search = play(Median(9), len(levels), lambda trial, epoch: levels[trial])
    assert search.trials[3].epoch == epoch
