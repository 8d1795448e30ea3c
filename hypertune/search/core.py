"""Ask and tell: the one object that decides which trial runs next, and to which epoch.

It knows nothing of Ray, of MLflow or of training. Ray Tune, a simulator and a user's own loop drive
the same object:

    job = search.ask()                      # None: wait, or stop if search.done
    for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
        search.tell(job.trial, epoch, value)

Several jobs may be out at a time. All decisions follow from the history of the trials and the seed:
`Search.restore` gives the history back, and the search goes on as if it had never been away.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index

import numpy as np

from hypertune.core.errors import SettingError, choices
from hypertune.core.objective import Mode, Objective
from hypertune.core.origin import Origin
from hypertune.core.space import Categorical, Config, Flat, Space, Value, identity, plain_or
from hypertune.search.history import REASONS, Reason, Trial
from hypertune.search.schedulers.base import Comparison, Scheduler
from hypertune.search.schedulers.per_level import PerLevel
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import WAIT, Suggestion, Wait

_SUGGESTIONS = 5  # a model that repeats itself would do so all day
_DRAWS = 100
_FEASIBLE_DRAWS = 2000  # where a part of the space alone may be tried
_LISTED_CONFIGS = 10**5
_STUDY_DEFAULT = Suggestion(flat={}, origin=Origin.DEFAULT, why="the study's default")
_GIVEN = Suggestion(flat={}, origin=Origin.GIVEN, why="a config to start from")
_RESAMPLED = Suggestion(
    flat={},
    origin=Origin.RESAMPLED,
    why="drawn from what was not tried yet: the searcher repeated itself",
)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """An uninterrupted stretch of epochs of a trial: from the one after ``from_epoch`` on."""

    trial: int
    config: Config
    from_epoch: int
    to_epoch: int


class Search:
    """Searches ``space`` with up to ``n_trials`` distinct configs.

    Args:
        space: What to search.
        searcher: Proposes configs.
        scheduler: Decides which trial goes on, and how far.
        mode: Whether values are to be minimised or maximised.
        max_epochs: Epochs of a trial in full.
        n_trials: How many distinct configs to try; None for as many as are asked for.
        seed: Suggestion k draws from ``default_rng([seed, k, attempt])``, and from nothing else.
        start: Nested configs to try first.
        feasible: Says of a nested config whether it may be tried at all; None if every one may.
        fair: A parameter whose levels get equal budgets, and within which trials are compared; None
            to compare all with all.
    """

    def __init__(
        self,
        space: Space,
        searcher: Searcher,
        scheduler: Scheduler,
        *,
        mode: Mode,
        max_epochs: int,
        n_trials: int | None,
        seed: int = 0,
        start: Sequence[Config] = (),
        feasible: Callable[[Config], bool] | None = None,
        fair: Categorical | None = None,
    ) -> None:
        self.space = space
        self.trials: list[Trial] = []
        self.max_epochs = max_epochs
        self.n_trials = n_trials
        self._searcher = searcher
        self._plain = scheduler
        self._fair = None if fair is None else PerLevel(fair, scheduler)
        self._scheduler = self._fair or scheduler
        searcher.rungs = self.rungs
        self._objective = Objective("", mode)
        self._seed = seed
        self._start = [space.flatten(config) for config in start]
        self._seen: set[str] = set()
        self._feasible = feasible
        self._known_feasible: dict[str, bool] = {}
        if feasible is not None:
            searcher.feasible = self._allowed
        self._again: list[tuple[Trial, int]] = []
        self._exhausted = False
        self._waits = False  # the searcher has no config until another trial has reported

    def like(self, searcher: Searcher, n_trials: int) -> "Search":
        """Return a search of the same kind that has not begun, with another searcher."""
        return Search(
            self.space,
            searcher,
            type(self._plain)(self.max_epochs),
            mode="min",
            max_epochs=self.max_epochs,
            n_trials=n_trials,
            seed=self._seed,
            fair=self.fair,
        )

    @property
    def fair(self) -> Categorical | None:
        """The parameter whose levels get equal budgets; None if none does."""
        return None if self._fair is None else self._fair.parameter

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs after which a trial may have to wait; the last one is in full."""
        return self._scheduler.rungs

    @property
    def start(self) -> list[Config]:
        """The nested configs that are tried first."""
        return [self.space.nest(flat) for flat in self._start]

    @property
    def can_propose(self) -> bool:
        """New configs may still be proposed."""
        enough = self.n_trials is not None and len(self.trials) >= self.n_trials
        return not (enough or self._exhausted)

    @property
    def running(self) -> list[Trial]:
        """The trials with a job under way."""
        return [trial for trial in self.trials if trial.running]

    @property
    def done(self) -> bool:
        """Nothing is under way and nothing is left to do."""
        return not (self._again or self.can_propose or self.running) and self._next() is None

    def ask(self, given: Mapping[str, Value] | None = None) -> Assignment | None:
        """Return the next job; None if there is none until a running one reports.

        Args:
            given: Values, by name, that a new config must have, so that levels can be compared at
                equal effort. Trials that go on come first as always.

        Raises:
            SettingError: A value is given that new configs cannot have.
        """
        levels = self._levels(given) if given else {}
        if self._again:
            trial, from_epoch = self._again.pop(0)
            return self._job(trial, from_epoch, trial.to_epoch)
        promotion = self._next()
        if promotion:
            trial, to_epoch = promotion
            return self._job(trial, trial.epoch, to_epoch)
        if not self.can_propose:
            return None
        new = self._new_trial(levels) if levels or self._fair is None else self._new_fair_trial()
        if new is not None:
            return self._job(new, 0, new.to_epoch)
        # The space has nothing new any more, which may be the last chance of others.
        return None if levels or self._waits else self.ask()

    def prefetch(self) -> Assignment | None:
        """Return a job while no worker is free yet, where working it out takes time; else None.

        It knows a little less than one that is asked for when it is needed. A job that is not
        started in the end must be given to `cancel`.
        """
        return self.ask() if self._searcher.slow and self.can_propose else None

    def cancel(self, job: Assignment) -> None:
        """Take back the newest job, which was not started."""
        trial = self.trials[job.trial]
        trial.running = False
        if trial.losses:
            trial.to_epoch = trial.epoch
        elif trial is self.trials[-1]:
            self.trials.pop()
            self._seen.remove(self._identity(trial.flat))

    def tell(self, trial: int, epoch: int, value: float) -> None:
        """Report the value after an epoch. The last epoch of a job ends it.

        An epoch that is known already is ignored; what comes after a trial's end does not change
        how it ended. A value that is not finite ranks last.

        Args:
            trial: Its number, as its job has it.
            epoch: From 1 on; the last one is that of the job, ``to_epoch``.
            value: Of the metric.

        Raises:
            SettingError: There is no such trial, its job has no such epoch, or the value is no
                number.
        """
        record = self._trial(trial)
        if not is_integer(epoch) or not 1 <= epoch <= record.to_epoch:
            raise SettingError(
                f"tell: epoch must be an integer from 1 to {record.to_epoch}, where the job of "
                f"trial {trial} ends, but got {epoch!r}."
            )
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise SettingError(f"tell: value must be a number, but got {value!r}.") from None
        self._add(record, int(epoch), number)

    def end(self, trial: int, reason: Reason) -> None:
        """Report that a trial ended before the last epoch of its job, and how.

        The first end of a trial counts.

        Raises:
            SettingError: There is no such trial, or no such reason.
        """
        record = self._trial(trial)
        if reason not in REASONS:
            raise SettingError(f"end: Unknown reason {reason!r}.{choices(reason, REASONS)}")
        if record.reason is None:
            record.reason = reason
            self._at_rest(record)
            self._scheduler.observe(record)

    def lost(self, trial: int, checkpoint_epoch: int = 0) -> None:
        """Report that a job was lost; another one of this trial goes on from its checkpoint.

        Nothing comes of it where the trial has ended, or the last epoch of the job was told.

        Raises:
            SettingError: There is no such trial, or it has no such epoch.
        """
        record = self._trial(trial)
        if not is_integer(checkpoint_epoch) or not 0 <= checkpoint_epoch <= record.to_epoch:
            raise SettingError(
                f"lost: checkpoint_epoch must be an integer from 0 to {record.to_epoch}, where the "
                f"job of trial {trial} ends, but got {checkpoint_epoch!r}."
            )
        at_its_end = not record.running and record.epoch >= record.to_epoch
        if record.reason is not None or at_its_end:
            return
        self._at_rest(record)
        self._again.append((record, checkpoint_epoch))

    def close(self) -> list[Trial]:
        """End the search: what waits has been stopped. Return those trials."""
        stopped = [trial for trial in self.trials if trial.waiting]
        for trial in stopped:
            trial.reason = "stopped"
        return stopped

    def restore(
        self,
        config: Config,
        *,
        values: dict[int, float],
        reason: Reason | None,
        to_epoch: int | None,
    ) -> Trial:
        """Give back a trial of an earlier process, in the order of their numbers.

        Args:
            config: Its nested config.
            values: Value by epoch, as told.
            reason: How it ended for good; None if it may go on (stopped trials may be promoted
                again where the study is extended).
            to_epoch: Where its newest job was to go; None if none had begun.
        """
        trial = self._register(self.space.flatten(config), to_epoch)
        for epoch in sorted(values):
            self._add(trial, epoch, values[epoch])
        if reason is not None and trial.reason is None:
            self.end(trial.number, reason)
        return trial

    def value(self, loss: float) -> float:
        """Return the value that a loss stands for."""
        return self._objective.value(loss)

    def comparisons(self, trial: int) -> list[Comparison]:
        """Return the comparisons that decided how far a trial went, as things stand now."""
        return self._scheduler.comparisons(self.trials[trial], self.trials)

    def _next(self) -> tuple[Trial, int] | None:
        return self._scheduler.promote(self.trials, can_propose=self.can_propose)

    def _job(self, trial: Trial, from_epoch: int, to_epoch: int) -> Assignment:
        trial.running, trial.to_epoch = True, to_epoch
        return Assignment(
            trial=trial.number,
            config=self.space.nest(trial.flat),
            from_epoch=from_epoch,
            to_epoch=to_epoch,
        )

    def _trial(self, number: int) -> Trial:
        if not is_integer(number) or not 0 <= number < len(self.trials):
            last = len(self.trials) - 1
            raise SettingError(
                f"Unknown trial {number!r}: trials 0 to {last} have begun."
                if self.trials
                else f"Unknown trial {number!r}: none has begun."
            )
        return self.trials[number]

    def _at_rest(self, trial: Trial) -> None:
        """Take note that no job of a trial is under way, or due again."""
        trial.running = False
        self._again = [(other, at) for other, at in self._again if other is not trial]

    def _add(self, trial: Trial, epoch: int, value: float) -> None:
        if not trial.add(epoch, self._objective.loss(value)):
            return
        if epoch >= trial.to_epoch and trial.reason is None:
            self._at_rest(trial)
            if epoch >= self.max_epochs:
                trial.reason = "complete"
        self._scheduler.observe(trial)

    def _register(self, flat: Flat, to_epoch: int | None = None) -> Trial:
        # Two branches may hold one and the same config: it goes by one of them, in replay as well.
        flat = self.space.flatten(self.space.nest(flat))
        if to_epoch is None:
            to_epoch = self._scheduler.first_epoch(self.trials, flat)
        trial = Trial(number=len(self.trials), flat=flat, to_epoch=to_epoch)
        self.trials.append(trial)
        self._seen.add(self._identity(flat))
        return trial

    def _levels(self, given: Mapping[str, Value]) -> Flat:
        """Return given values by key."""
        always = {p.name: p for p in self.space.parameters if p.condition is None}
        given = {name: plain_or(value, value) for name, value in given.items()}
        for name, value in given.items():
            if name not in always:
                raise SettingError(
                    f"given: '{name}' is no parameter that every config has."
                    f"{choices(name, list(always))}"
                )
            if not always[name].contains(value):
                raise SettingError(
                    f"given: {name} must be {always[name].rule()}, but got {value!r}."
                )
        return {always[name].key: always[name].snap(value) for name, value in given.items()}

    def _new_fair_trial(self) -> Trial | None:
        """Return a new trial of the level that has fewest; of another one if that has no more."""
        assert self._fair is not None
        k = len(self.trials)
        if k < len(self._start) and self._new(self._start[k]):
            return self._new_trial({})  # somebody wants just this one
        for level in self._fair.due(self.trials):
            if (new := self._new_trial({self._fair.parameter.key: level})) is not None:
                return new
        self._exhausted = True
        return None

    def _new_trial(self, given: Flat) -> Trial | None:
        k = len(self.trials)
        first = self._start[k] if k < len(self._start) else None
        found: Suggestion | Wait | None
        if first is not None and _has(first, given) and self._new(first):
            found = _STUDY_DEFAULT if k == 0 else _GIVEN
            found = replace(found, flat=first)
        else:
            found = self._distinct(k, given)
        self._waits = found is WAIT
        if not isinstance(found, Suggestion):
            self._exhausted = self._exhausted or not (given or self._waits)
            return None
        trial = self._register(found.flat)
        trial.origin, trial.why, trial.expected = found.origin, found.why, found.expected
        return trial

    def _distinct(self, k: int, given: Flat) -> Suggestion | Wait | None:
        """Return a config that was not tried yet; None if there is none."""
        for attempt in range(_SUGGESTIONS):
            rng = np.random.default_rng([self._seed, k, attempt])
            found: Suggestion | Wait | None
            if given:
                found = self._searcher.suggest_given(self.trials, rng, given)
            else:
                found = self._searcher.suggest(self.trials, rng)
            if not isinstance(found, Suggestion) or self._new(found.flat):
                return found
        # A searcher that keeps proposing what was tried is helped out by chance, and where almost
        # all was tried, by what is left.
        flat = self._left(k, given)
        return None if flat is None else replace(_RESAMPLED, flat=flat)

    def _left(self, k: int, given: Flat) -> Flat | None:
        """Draw a config that was not tried yet; None if there is none."""
        rng = np.random.default_rng([self._seed, k, _SUGGESTIONS])
        for _ in range(_DRAWS if self._feasible is None else _FEASIBLE_DRAWS):
            flat = self.space.build(
                lambda p: given[p.key] if p.key in given else p.from_unit(rng.random())
            )
            if self._new(flat):
                return flat
        n = self.space.n_configs
        if n is None or n > _LISTED_CONFIGS:
            return None
        left = [
            config for config in self.space.configs() if _has(config, given) and self._new(config)
        ]
        return left[rng.integers(len(left))] if left else None

    def _new(self, flat: Flat) -> bool:
        """Say whether a config may be tried and was not."""
        return self._identity(flat) not in self._seen and self._allowed(flat)

    def _allowed(self, flat: Flat) -> bool:
        if self._feasible is None:
            return True
        key = self._identity(flat)
        if key not in self._known_feasible:
            self._known_feasible[key] = self._feasible(self.space.nest(flat))
        return self._known_feasible[key]

    def _identity(self, flat: Flat) -> str:
        """Return a text that is equal for equal configs, whichever branches they come from."""
        return identity(self.space.nest(flat))


def is_integer(number: object) -> bool:
    """Say whether something is an integer, of numpy's ones too."""
    try:
        index(number)  # type: ignore[arg-type]  # it is what is asked
    except TypeError:
        return False
    return not isinstance(number, bool)


def _has(flat: Flat, given: Flat) -> bool:
    return identity({key: flat[key] for key in given}) == identity(given)
