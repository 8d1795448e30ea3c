"""Ask and tell: the life of a search, and its return from a plain record."""

import heapq
import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ray import tune

from hypertune.core.errors import SettingError
from hypertune.core.space import Config, Space, identity
from hypertune.search import Assignment, Mode, Reason, Search, incumbent
from hypertune.search.history import Trial
from hypertune.search.methods import METHODS, ask_tell, make_search

SPACE = Space(
    {
        "x": tune.uniform(0, 1),
        "model": tune.choice(
            [{"kind": "a", "n": tune.lograndint(4, 65)}, {"kind": "b", "n": tune.randint(1, 9)}]
        ),
    }
)
DEFAULT: Config = {"x": 0.5, "model": {"kind": "b", "n": 3}}


def search(method: str = "random", space: Space = SPACE, **kwargs: Any) -> Search:
    return make_search(method, space, **{"mode": "min", "max_epochs": 4, "n_trials": 3, **kwargs})


def asked(search: Search) -> Assignment:
    job = search.ask()
    assert job is not None
    return job


def configs(search: Search) -> list[str]:
    return [identity(search.space.nest(trial.flat)) for trial in search.trials]


def test_trial_lives_from_ask_to_its_last_epoch() -> None:
    s = search(start=(DEFAULT,), n_trials=1)
    assert (s.can_propose, s.done) == (True, False)

    job = asked(s)
    assert job == Assignment(trial=0, config=DEFAULT, from_epoch=0, to_epoch=4)
    assert s.ask() is None
    assert not s.done
    for epoch, value in [(1, 3.0), (2, 1.0), (3, 2.0), (4, 2.0)]:
        assert s.running == [s.trials[0]]
        s.tell(0, epoch, value)

    assert (s.running, s.can_propose, s.done, s.ask()) == ([], False, True, None)
    trial = s.trials[0]
    assert (trial.reason, trial.epoch, trial.full) == ("complete", 4, True)
    assert [trial.loss_at(epoch) for epoch in (1, 2, 3, 4)] == [3.0, 1.0, 1.0, 1.0]


def test_first_value_of_an_epoch_counts() -> None:
    s = search()
    asked(s)
    s.tell(0, 1, 5.0)
    s.tell(0, 1, 1.0)

    assert s.trials[0].losses == {1: 5.0}


@pytest.mark.parametrize(
    ("reason", "full", "loss_in_full"),
    [
        ("converged", True, 2.0),
        ("failed", False, math.inf),
        ("lost", False, math.inf),
        ("stopped", False, None),
        ("interrupted", False, None),
    ],
)
def test_trial_that_ends_early_is_not_run_again(
    reason: Reason, full: bool, loss_in_full: float | None
) -> None:
    s = search(n_trials=1)
    asked(s)
    s.tell(0, 1, 2.0)
    s.end(0, reason)

    trial = s.trials[0]
    assert (s.done, s.ask(), trial.running, trial.waiting) == (True, None, False, False)
    assert (trial.full, trial.loss_at(4)) == (full, loss_in_full)


def test_lost_job_is_given_out_again_from_its_checkpoint_before_anything_new() -> None:
    s = search(n_trials=3)
    first, second = asked(s), asked(s)
    s.tell(first.trial, 1, 1.0)
    s.tell(first.trial, 2, 1.0)
    s.lost(first.trial, checkpoint_epoch=1)
    s.lost(second.trial)

    assert not s.done
    assert asked(s) == Assignment(trial=0, config=first.config, from_epoch=1, to_epoch=4)
    assert asked(s) == second
    assert asked(s).trial == 2


def test_close_stops_what_waits() -> None:
    s = search("asha", n_trials=2)
    asked(s)
    asked(s)
    s.tell(0, 1, 1.0)

    assert [trial.number for trial in s.close()] == [0]
    assert [trial.reason for trial in s.trials] == ["stopped", None]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "grid"])
def test_no_config_runs_twice_and_a_small_space_is_exhausted(method: str) -> None:
    space = Space({"a": tune.choice([{"b": tune.randint(0, 4)}, None]), "c": tune.choice([1, 1.0])})
    s = search(method, space, n_trials=99, max_epochs=1, start=({"a": None, "c": 1},) * 2)
    while (job := s.ask()) is not None:
        s.tell(job.trial, 1, float(job.trial))

    assert space.n_configs == 10
    assert len(configs(s)) == len(set(configs(s))) == 10
    assert (s.can_propose, s.done) == (False, True)


def test_space_of_a_few_thousand_configs_is_exhausted() -> None:
    s = search(space=Space({"a": tune.randint(0, 2000)}), n_trials=2000, max_epochs=1)
    while (job := s.ask()) is not None:
        s.tell(job.trial, 1, 0.0)

    assert len(s.trials) == 2000


def test_config_that_two_branches_hold_runs_once() -> None:
    space = Space({"a": tune.choice([{"b": tune.randint(0, 3)}, {"b": tune.randint(2, 5)}])})
    s = search(space=space, n_trials=99, max_epochs=1)
    while (job := s.ask()) is not None:
        s.tell(job.trial, 1, 0.0)

    assert len(configs(s)) == len(set(configs(s))) == 5


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [3.0, 1.0, 2.0], 1),
        ("max", [1.0, 3.0, 2.0], 1),
        ("min", [math.nan, 3.0, -math.inf], 1),
        ("max", [-5.0, math.inf, math.nan], 0),
        ("min", [1.0, 1.0, 1.0], 0),
        ("max", [math.nan, math.inf, -math.inf], None),
    ],
)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "grid"])
def test_best_trial_goes_by_mode_and_values_that_are_not_finite_rank_last(
    method: str, mode: Mode, values: list[float], best: int | None
) -> None:
    s = search(method, mode=mode, max_epochs=3)
    while (job := s.ask()) is not None:
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            s.tell(job.trial, epoch, values[job.trial])

    found = incumbent(s.trials)
    assert (None if found is None else found.number) == best


@pytest.mark.parametrize("method", [name for name in METHODS if name != "grid"])
def test_seed_fixes_the_configs(method: str) -> None:
    def play(seed: int) -> list[str]:
        s = search(method, n_trials=14, max_epochs=2, seed=seed)
        while (job := s.ask()) is not None:
            for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
                s.tell(job.trial, epoch, job.config["x"] / epoch)
        return configs(s)

    assert play(1) == play(1)
    assert not set(play(1)) & set(play(2))


@pytest.mark.parametrize("method", ["auto", "bayes"])
def test_job_that_was_asked_for_ahead_and_is_withdrawn_leaves_no_trace(method: str) -> None:
    def played(ahead: bool) -> Search:
        s = search(method, n_trials=14, max_epochs=4, seed=5)
        while (job := s.ask()) is not None:
            for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
                s.tell(job.trial, epoch, job.config["x"] / epoch)
            if ahead and (taken := s.prefetch()) is not None:
                s.cancel(taken)
        return s

    plain, withdrawn = played(False), played(True)
    assert configs(withdrawn) == configs(plain)
    assert [t.epoch for t in withdrawn.trials] == [t.epoch for t in plain.trials]
    assert search("random").prefetch() is None


def test_trial_compares_to_nothing_before_its_first_report() -> None:
    trial = Trial(number=0, flat={}, to_epoch=9)
    trial.add(3, 1.0)
    trial.add(6, 0.5)

    assert [trial.loss_at(epoch) for epoch in (2, 3, 5, 6, 7)] == [None, 1.0, 1.0, 0.5, None]


# ---- replay ----


@dataclass
class Play:
    """A search in simulated time, with three workers and trials of different speed."""

    search: Search
    values: dict[int, dict[int, float]] = field(default_factory=dict)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    out: list[tuple[float, int, int, Assignment]] = field(default_factory=list)
    now: float = 0.0

    def fill(self) -> None:
        while len(self.out) < 3 and (job := self.search.ask()) is not None:
            self.log.append((job.trial, identity(job.config), job.from_epoch, job.to_epoch))
            self.hand_out(job, job.from_epoch + 1, self.now)

    def hand_out(self, job: Assignment, epoch: int, now: float) -> None:
        heapq.heappush(self.out, (now + 1 + job.trial * 0.37 % 1, job.trial, epoch, job))

    def advance(self) -> None:
        """Let one epoch end; some trials fail, some converge."""
        self.now, number, epoch, job = heapq.heappop(self.out)
        if number % 7 == 5 and epoch == 2:
            self.search.end(number, "failed")
        else:
            noise = np.random.default_rng([number, epoch]).normal()
            value = math.nan if number == 6 else job.config["x"] + (1 + 0.3 * noise) / epoch
            self.values.setdefault(number, {})[epoch] = value
            self.search.tell(number, epoch, value)
            if number % 5 == 3 and epoch == 5:
                self.search.end(number, "converged")
            elif epoch < job.to_epoch:
                self.hand_out(job, epoch + 1, self.now)
        self.fill()

    def to_the_end(self) -> int:
        for n_events in itertools.count():
            if not self.out:
                return n_events
            self.advance()
        raise AssertionError


@pytest.mark.parametrize("share", [0.1, 0.6])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "grid"])
def test_search_that_is_rebuilt_from_its_record_goes_on_as_if_it_had_never_been_away(
    method: str, share: float
) -> None:
    settings: dict[str, Any] = {"n_trials": 20, "max_epochs": 9, "seed": 3, "start": (DEFAULT,)}
    whole, play = Play(search(method, **settings)), Play(search(method, **settings))
    whole.fill()
    play.fill()
    for _ in range(int(share * whole.to_the_end())):
        play.advance()
    record = [
        (play.search.space.nest(t.flat), dict(play.values.get(t.number, {})), t.reason, t.to_epoch)
        for t in play.search.trials
    ]

    again = Play(search(method, **settings), now=play.now)
    for config, values, reason, to_epoch in record:
        again.search.restore(config, values=values, reason=reason, to_epoch=to_epoch)
    # What was under way is gone with the process; it goes on from the last epoch.
    for _, number, epoch, _ in sorted(play.out):
        again.search.lost(number, epoch - 1)
    for time, number, epoch, job in sorted(play.out):
        once_more = asked(again.search)
        assert (once_more.trial, once_more.from_epoch) == (number, epoch - 1)
        assert (once_more.config, once_more.to_epoch) == (job.config, job.to_epoch)
        heapq.heappush(again.out, (time, number, epoch, once_more))
    n_before = len(play.log)
    play.to_the_end()
    again.to_the_end()

    assert play.log == whole.log
    assert again.log == play.log[n_before:]
    assert configs(again.search) == configs(play.search)
    for a, b in itertools.zip_longest(again.search.trials, play.search.trials):
        assert (a.reason, a.losses, a.best) == (b.reason, b.losses, b.best)
    assert again.search.done
    assert play.search.done


def test_finished_search_is_extended_by_a_larger_number_of_trials() -> None:
    short, long = search("asha", n_trials=6, max_epochs=9), search("asha", n_trials=9, max_epochs=9)
    for s in (short, long):
        while (job := s.ask()) is not None:
            for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
                s.tell(job.trial, epoch, float(job.trial % 4))
        s.close()

    extended = search("asha", n_trials=9, max_epochs=9)
    for trial in short.trials:
        extended.restore(
            short.space.nest(trial.flat),
            values=trial.losses,
            reason=None if trial.reason == "stopped" else trial.reason,
            to_epoch=trial.to_epoch,
        )
    assert not extended.done
    while (job := extended.ask()) is not None:
        assert job.trial >= 6 or short.trials[job.trial].reason == "stopped"
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            extended.tell(job.trial, epoch, float(job.trial % 4))

    assert configs(extended) == configs(long)


# ---- what must not be told ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.tell(1, 1, 0.0), "Unknown trial 1: trials 0 to 0 have begun."),
        (lambda s: s.tell(-1, 1, 0.0), "Unknown trial -1: "),
        (lambda s: s.tell(0, 0, 0.0), "epoch must be an integer from 1 to 4, where the job"),
        (lambda s: s.tell(0, 5, 0.0), "but got 5."),
        (lambda s: s.tell(0, 1.5, 0.0), "but got 1.5."),
        (lambda s: s.tell(0, 1, None), "value must be a number, but got None."),
        (lambda s: s.end(0, "crashed"), "Unknown reason 'crashed'. Choose one of: complete, "),
        (lambda s: s.end(2, "failed"), "Unknown trial 2: "),
        (lambda s: s.lost(0, 5), "checkpoint_epoch must be an integer from 0 to 4"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(call: Any, message: str) -> None:
    s = search()
    asked(s)
    with pytest.raises(SettingError, match=re.escape(message)):
        call(s)
    assert (s.trials[0].running, s.trials[0].reason, s.trials[0].losses) == (True, None, {})


def test_without_a_trial_nothing_can_be_told() -> None:
    with pytest.raises(SettingError, match="Unknown trial 0: none has begun"):
        search().tell(0, 1, 0.0)


def test_numbers_of_numpy_are_numbers() -> None:
    s = search()
    asked(s)
    for epoch in np.arange(1, 5):
        s.tell(np.int64(0), epoch, np.float32(0.5))  # type: ignore[arg-type]
    assert s.trials[0].reason == "complete"


def test_first_end_of_a_trial_counts() -> None:
    s = search(n_trials=2)
    asked(s), asked(s)
    s.end(0, "failed")
    s.tell(0, 4, 0.0)  # what was still on its way
    s.lost(0)
    for epoch in (1, 2, 3, 4):
        s.tell(1, epoch, 0.0)
    s.end(1, "failed")
    assert [(t.reason, t.running) for t in s.trials] == [("failed", False), ("complete", False)]
    assert (s.ask(), s.done) == (None, True)


def test_job_that_is_lost_twice_is_done_again_once() -> None:
    s = search(n_trials=1)
    asked(s)
    s.lost(0)
    s.lost(0, 0)
    assert asked(s).trial == 0
    assert s.ask() is None


def test_job_whose_end_comes_late_is_not_done_again() -> None:
    s = search(n_trials=1)
    asked(s)
    s.lost(0)
    for epoch in (1, 2, 3, 4):
        s.tell(0, epoch, 0.0)
    assert (s.ask(), s.done, s.trials[0].reason) == (None, True, "complete")


def test_best_is_of_the_epochs_before_in_whatever_order_they_come() -> None:
    s = search()
    asked(s)
    for epoch, value in [(1, 9.0), (4, 0.1), (3, 5.0), (2, 6.0)]:
        s.tell(0, epoch, value)
    assert s.trials[0].best == {1: 9.0, 2: 6.0, 3: 5.0, 4: 0.1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "maximize"}, "Unknown mode 'maximize'. Choose one of: min, max."),
        ({"max_epochs": 0}, "max_epochs must be an integer of at least 1, but got 0."),
        ({"max_epochs": 2.5}, "max_epochs must be an integer of at least 1, but got 2.5."),
        ({"n_trials": -1}, "n_trials must be an integer of at least 1, but got -1."),
        ({"seed": -1}, "seed must be an integer of at least 0, but got -1."),
        ({"method": "ray-asha"}, "needs Ray Tune"),
    ],
)
def test_ask_tell_refuses_what_it_cannot_do(wrong: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"method": "random", "space": {"x": tune.uniform(0, 1)}} | wrong
    with pytest.raises(SettingError, match=re.escape(message)):
        ask_tell(**given)


@pytest.mark.parametrize("method", ["random", "grid", "tpe", "auto"])
def test_given_values_are_as_configs_hold_them(method: str) -> None:
    space = {"q": tune.quniform(0, 5, 1), "c": tune.choice([[1, 2], "a"])}
    s = ask_tell(method, space, n_trials=30)
    found: list[Config] = []
    while (job := s.ask({"q": 3, "c": (1, 2)} if len(found) == 5 else {"q": 3})) is not None:
        found.append(job.config)
        s.tell(job.trial, 1, 0.0)
    assert sorted(map(identity, found)) == ['{"c": "a", "q": 3.0}', '{"c": [1, 2], "q": 3.0}']


def test_given_value_of_a_continuous_range_is_kept_to_the_last_digit() -> None:
    s = ask_tell("auto", {"lr": tune.loguniform(1e-5, 1), "x": tune.uniform(0, 1)}, seed=1)
    for _ in range(20):
        job = s.ask({"lr": 0.001})
        assert job is not None
        assert job.config["lr"] == 0.001
        s.tell(job.trial, 1, job.config["x"])
