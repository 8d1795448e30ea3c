"""Searchers by Optuna: the tree-structured Parzen estimator and the Gaussian process."""

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from hypertune.core.origin import Origin
from hypertune.core.space import Categorical, Number, Parameter, Space, Value
from hypertune.search.history import Trial, common_epoch, rank_at
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import Suggestion

_N_START = 10
_AT_RANDOM = f"drawn at random, until {_N_START} trials have reported"
_UNTOLD = ("failed", "lost")
_TOLD = (TrialState.COMPLETE, TrialState.PRUNED)
_LONG = 10**6  # more values than this are searched as a continuum: Optuna counts them in floats
_WIDE, _NARROW = 1e100, 1e-6  # beyond these, Optuna's kernels overflow, or see one value alone


class OptunaSearcher(Searcher):
    """Asks an Optuna sampler, with the history as its study.

    Trials are compared at the largest epoch that enough of them got to; what was cut short or waits
    before it counts as pruned, what is under way as running; failed and lost ones are left out.
    """

    joint = False
    """Whether inactive parameters take part too, so that all trials have the same ones."""

    def __init__(self, space: Space, max_epochs: int, seed: int = 0) -> None:
        super().__init__(space, max_epochs, seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._distributions = {p.key: _distribution(p) for p in space.parameters}
        # What Optuna made of trials at rest is kept: by what it is made of.
        self._frozen: dict[tuple[object, ...], FrozenTrial] = {}

    knows_pruned = True
    """Whether the sampler learns from pruned trials; else they count as the worst of the others."""
    label = ""
    """What chooses, in words."""
    n_told = 100
    """Of more trials than these the best are told, and some of the others: all of them would take
    too long."""
    n_best = 50
    """How many are the best."""

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """Return Optuna's sampler."""

    def _telling(self, known: Sequence[Trial], at: int) -> Sequence[Trial]:
        """Return which of the trials at rest that have a value are told."""
        if len(known) <= self.n_told:
            return known
        ranked = sorted(known, key=lambda trial: rank_at(trial, at))
        best, rest = ranked[: self.n_best], ranked[self.n_best :]
        places = np.linspace(0, len(rest) - 1, self.n_told - self.n_best).round()
        return best + [rest[int(place)] for place in places]

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Suggestion:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            at = common_epoch(trials, _N_START, self.max_epochs)
            at_rest = [t for t in trials if not _under_way(t) and t.reason not in _UNTOLD]
            known = [trial for trial in at_rest if rank_at(trial, at)[2] < math.inf]
            told = {trial.number for trial in self._telling(known, at)}
            study = optuna.create_study(sampler=self.sampler(int(rng.integers(2**31))))
            worst = None
            if not self.knows_pruned:
                there = (trial.loss_at(at) for trial in known)
                worst = max((loss for loss in there if loss is not None), default=None)
            history = [
                self._history(trial, at, worst)
                for trial in trials
                if trial.number in told or _under_way(trial)
            ]
            study.add_trials(history)
            n_told = sum(trial.state in _TOLD for trial in history)
            if self.joint:
                params = study.ask(self._distributions).params
                flat = self.space.build(lambda p: _external(p, params[p.key]))
            else:
                proposal = study.ask()
                flat = self.space.build(lambda p: _ask(proposal, p))
            if n_told < _N_START:
                return Suggestion(flat=flat, origin=Origin.RANDOM, why=_AT_RANDOM)
            why = f"{self.label} from {n_told} trials"
            return Suggestion(flat=flat, origin=Origin.MODEL, why=why)

    def _history(self, trial: Trial, at: int, worst: float | None) -> FrozenTrial:
        """Return a trial as Optuna has it.

        Args:
            trial: The trial.
            at: The epoch at which trials are compared.
            worst: The value of those that did not get there; None if they count as pruned.
        """
        before, _, loss, _ = rank_at(trial, at)
        if before and worst is not None:
            before, loss = False, worst
        state = TrialState.PRUNED if before else TrialState.COMPLETE
        state = TrialState.RUNNING if _under_way(trial) else state
        made_of = (trial.number, trial.epoch, state, loss)
        if made_of in self._frozen:
            return self._frozen[made_of]
        keys = self._distributions if self.joint else trial.flat
        params = {
            key: _internal(p, trial.flat[key] if key in trial.flat else p.from_unit(0.5))
            for key, p in ((key, self.space[key]) for key in keys)
        }
        frozen = create_trial(
            state=state,
            value=loss if state is TrialState.COMPLETE else None,
            params=params,
            distributions={key: self._distributions[key] for key in params},
            intermediate_values={trial.epoch: loss} if state is TrialState.PRUNED else None,
        )
        if state is not TrialState.RUNNING:
            self._frozen[made_of] = frozen
        return frozen


class Tpe(OptunaSearcher):
    """Multivariate TPE (Watanabe 2023), grouped where the space has branches."""

    label = "by TPE: likely among the better and unlikely among the worse,"

    n_told, n_best = 100, 10

    def sampler(self, seed: int) -> BaseSampler:
        return TPESampler(
            seed=seed,
            multivariate=True,
            group=any(p.condition for p in self.space.parameters),
            constant_liar=True,
            n_startup_trials=_N_START,
        )


class Bayes(OptunaSearcher):
    """Gaussian process with expected improvement, on all parameters of a space together."""

    joint = True
    knows_pruned = False
    label = "by a Gaussian process: largest expected improvement, judged"
    slow = True

    def sampler(self, seed: int) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=_N_START, deterministic_objective=False)


def _under_way(trial: Trial) -> bool:
    return trial.running or (trial.waiting and not trial.losses)


def _by_unit(parameter: Number) -> bool:
    """Say whether a number is searched on its unit interval, since Optuna cannot take its range."""
    ends = abs(parameter.low), abs(parameter.high)
    if parameter.n_values is not None:
        return parameter.n_values > _LONG or max(ends) > 2**53
    if parameter.log and parameter.low < 1 / _WIDE:
        return True
    least = max(_NARROW * max(ends), 1 / _WIDE)
    return not least < parameter.high - parameter.low < _WIDE


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Return Optuna's range. Steps are ours: it has none on a log scale, and stumbles elsewhere."""
    if isinstance(parameter, Categorical):
        return CategoricalDistribution(range(len(parameter.choices)))
    assert isinstance(parameter, Number)
    if _by_unit(parameter):
        return FloatDistribution(0.0, 1.0)
    if parameter.integer:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _internal(parameter: Parameter, value: Value) -> float:
    """Return a value as Optuna has it."""
    if isinstance(parameter, Categorical):
        return parameter.index(value)
    assert isinstance(parameter, Number)
    return parameter.to_unit(value) if _by_unit(parameter) else value


def _external(parameter: Parameter, value: float) -> Value:
    """Return a value of Optuna's as ours."""
    if isinstance(parameter, Categorical):
        return parameter.choices[int(value)]
    assert isinstance(parameter, Number)
    return parameter.from_unit(value) if _by_unit(parameter) else parameter.snap(value)


def _ask(proposal: optuna.Trial, parameter: Parameter) -> Value:
    key, range_ = parameter.key, _distribution(parameter)
    value: float
    if isinstance(range_, IntDistribution):
        value = proposal.suggest_int(key, range_.low, range_.high, log=range_.log)
    elif isinstance(range_, FloatDistribution):
        value = proposal.suggest_float(key, range_.low, range_.high, log=range_.log)
    else:
        assert isinstance(parameter, Categorical)
        value = proposal.suggest_categorical(key, range(len(parameter.choices)))
    return _external(parameter, value)
