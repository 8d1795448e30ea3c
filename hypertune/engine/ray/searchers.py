"""Searchers of Ray Tune's, and whoever wrote one to its contract, as searchers of ours."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.tune.result import TRAINING_ITERATION
from ray.tune.search import ConcurrencyLimiter, Repeater
from ray.tune.search import Searcher as RaySearcher

from hypertune.core.errors import SettingError
from hypertune.core.origin import Origin
from hypertune.core.space import Config, Flat, as_plain, identity
from hypertune.search import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import WAIT, Suggestion, Wait
from hypertune.studies.study import Study

_REFUSED = {
    ConcurrencyLimiter: "how many trials run at a time is said by n_concurrent",
    Repeater: "configs run again on fresh seeds by n_repeats",
}


class RaySearch(Searcher):
    """Asks a searcher of Ray's, and tells it what became of its own suggestions.

    A trial in full is told with its best value; one that was stopped is told as complete without a
    value, after the values of its epochs; one that failed as an error. What is tried first (the
    study's default, ``--start``) it does not hear of.

    Args:
        study: What is searched.
        theirs: The searcher; from here on it belongs to this search.
        seed: Of the search.

    Raises:
        SettingError: It cannot honour the space, or goes by another metric.
    """

    def __init__(self, study: Study, theirs: RaySearcher, seed: int) -> None:
        super().__init__(study.search_space, study.max_epochs, seed)
        if not isinstance(theirs, RaySearcher):
            raise SettingError(
                f"searcher must be an object of one of Ray Tune's searchers or a "
                f"subclass of hypertune.Searcher, but got {theirs!r}."
            )
        self.theirs, self.objective = theirs, study.objective
        self._name = type(theirs).__name__
        self._ids: dict[int, str] = {}  # by trial: what it is called over there
        self._told: dict[int, int] = {}  # by trial: the last epoch told
        self._open: tuple[int, str, Flat] | None = None  # the last suggestion
        self._n_suggested = 0
        self._ready: Flat | Wait | None = None
        self._given_space(study)
        # The first one now: what goes wrong with the space does so before anything starts.
        self._ready = self._next([])

    def suggest(
        self, trials: Sequence[Trial], rng: np.random.Generator
    ) -> Suggestion | Wait | None:
        self._tell(trials)
        found, self._ready = self._ready, None
        if found is None:
            found = self._next(trials)
        if found is None or isinstance(found, Wait):
            return found
        self._open = (len(trials), self._last_id, found)
        why = f"proposed by Ray Tune's {self._name}"
        return Suggestion(flat=found, origin=Origin.EXTERNAL, why=why)

    @property
    def _last_id(self) -> str:
        return f"hypertune-{self._n_suggested}"

    def _given_space(self, study: Study) -> None:
        theirs = self.theirs
        for kind, instead in _REFUSED.items():
            if isinstance(theirs, kind):
                raise SettingError(f"{self._name} cannot be used here: {instead}.")
        heard = _Heard()
        logger = logging.getLogger("ray.tune.search")
        level = logger.level
        logger.setLevel(logging.WARNING)  # Ray's may have been silenced: by us, in a run before
        logger.addHandler(heard)
        try:
            taken = theirs.set_search_properties(study.metric, study.mode, dict(study.space))
        except Exception as error:
            raise SettingError(self._cannot(f"{type(error).__name__}: {error}")) from error
        finally:
            logger.removeHandler(heard)
            logger.setLevel(level)
        if taken and heard.dropped:
            raise SettingError(self._cannot("; ".join(dict.fromkeys(heard.dropped))))
        for name, wanted in (("metric", study.metric), ("mode", study.mode)):
            if getattr(theirs, name) != wanted:
                raise SettingError(
                    f"{self._name} must go by the study's {name}, {wanted}, but its {name} is "
                    f"{getattr(theirs, name)}."
                )

    def _cannot(self, text: str) -> str:
        return f"{self._name} cannot search this space: {text}"

    def _next(self, trials: Sequence[Trial]) -> Flat | Wait | None:
        """Return the next suggestion; `WAIT` if there is none for now, None if none for good."""
        self._n_suggested += 1
        try:
            proposed = self.theirs.suggest(self._last_id)
        except Exception as error:
            raise SettingError(self._cannot(f"{type(error).__name__}: {error}")) from error
        if proposed is None or proposed == RaySearcher.FINISHED:
            # If it waits although nothing runs, there is nothing that it could wait for.
            return WAIT if proposed is None and any(t.running for t in trials) else None
        try:
            config: Config = as_plain(proposed)
        except TypeError:
            raise SettingError(
                self._cannot(
                    f"it proposed what is no plain value, {proposed!r}; perhaps it does not know "
                    "choices between dicts"
                )
            ) from None
        if problems := self.space.problems(config):
            raise SettingError(
                self._cannot(f"it proposed what is not in it: {'; '.join(problems)}")
            )
        return self.space.flatten(config)

    def _tell(self, trials: Sequence[Trial]) -> None:
        if self._open is not None:
            number, theirs_id, flat = self._open
            if number < len(trials) and trials[number].flat == flat:
                self._ids[number] = theirs_id
            else:
                self._tell_twin(trials, theirs_id, flat)
            self._open = None
        for number, theirs_id in list(self._ids.items()):
            trial = trials[number]
            for epoch in sorted(e for e in trial.losses if e > self._told.get(number, 0)):
                if np.isfinite(trial.losses[epoch]):
                    result = self._result(trial.losses[epoch], epoch)
                    self.theirs.on_trial_result(theirs_id, result)
                self._told[number] = epoch
            if trial.reason in (None, "interrupted"):
                continue
            del self._ids[number]
            if trial.reason in ("failed", "lost"):
                self.theirs.on_trial_complete(theirs_id, error=True)
            elif trial.full:
                value = self._result(trial.best[trial.epoch], trial.epoch)
                self.theirs.on_trial_complete(theirs_id, result=value)
            else:
                self.theirs.on_trial_complete(theirs_id)

    def _tell_twin(self, trials: Sequence[Trial], theirs_id: str, flat: Flat) -> None:
        """Tell a suggestion that was not taken, as it had been tried, with what that gave."""
        key = identity(flat)
        twin = next((t for t in trials if t.full and identity(t.flat) == key), None)
        if twin is None:
            self.theirs.on_trial_complete(theirs_id, error=True)
        else:
            value = self._result(twin.best[twin.epoch], twin.epoch)
            self.theirs.on_trial_complete(theirs_id, result=value)

    def _result(self, loss: float, epoch: int) -> dict[str, Any]:
        return {self.objective.metric: self.objective.value(loss), TRAINING_ITERATION: epoch}


class _Heard(logging.Handler):
    """Keeps what a searcher says of parts of the space that it leaves out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.dropped: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "drop" in text.lower() or "not support" in text.lower():
            self.dropped.append(text)
