"""Tree-structured Parzen estimator, by Optuna (Bergstra et al. 2011; Watanabe 2023)."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.space import Categorical, Flat, Number, Parameter, Space, Value, active


class Tpe(Searcher):
    """Multivariate TPE, grouped where the space has branches, aware of running trials.

    Complete and converged trials count with their value, trials that were cut short as pruned at
    their epoch, which Optuna ranks behind; failed and lost ones are left out.
    """

    def __init__(self, space: Space, max_epochs: int) -> None:
        super().__init__(space, max_epochs)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._distributions = {p.key: _distribution(p) for p in space.parameters}
        self._grouped = any(p.condition for p in space.parameters)
        # Ended trials do not change: what Optuna made of them is kept.
        self._frozen: dict[int, FrozenTrial] = {}

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Flat:
        study = optuna.create_study(sampler=self._sampler(rng))
        study.add_trials([self._history(trial) for trial in trials])
        proposal = study.ask()
        return self.space.build(lambda parameter: self._ask(proposal, parameter))

    def _sampler(self, rng: np.random.Generator) -> optuna.samplers.TPESampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=int(rng.integers(2**31)),
                multivariate=True,
                group=self._grouped,
                constant_liar=True,
                n_startup_trials=10,
            )

    def _ask(self, proposal: optuna.Trial, parameter: Parameter) -> object:
        if isinstance(parameter, Categorical):
            return parameter.choices[
                proposal.suggest_categorical(parameter.key, range(len(parameter.choices)))
            ]
        assert isinstance(parameter, Number)
        if _long(parameter):
            return parameter.from_unit(proposal.suggest_float(parameter.key, 0.0, 1.0))
        # Steps are ours: Optuna has none on a log scale, and stumbles over very small ones.
        if parameter.integer:
            value: float = proposal.suggest_int(
                parameter.key, int(parameter.low), int(parameter.high), log=parameter.log
            )
        else:
            value = proposal.suggest_float(
                parameter.key, parameter.low, parameter.high, log=parameter.log
            )
        return parameter.snap(value)

    def _history(self, trial: Trial) -> FrozenTrial:
        if trial.number in self._frozen:
            return self._frozen[trial.number]
        params = {
            p.key: _internal(p, trial.flat[p.key])
            for p in active(self.space.parameters, trial.flat)
        }
        state, value = TrialState.RUNNING, None
        loss = trial.best.get(trial.epoch, math.inf)
        if trial.full and math.isfinite(loss):
            state, value = TrialState.COMPLETE, loss
        elif trial.reason in ("stopped", "interrupted") and math.isfinite(loss):
            state = TrialState.PRUNED
        elif trial.reason is not None:
            state = TrialState.FAIL
        frozen = create_trial(
            state=state,
            value=value,
            params=params,
            distributions={key: self._distributions[key] for key in params},
            intermediate_values={trial.epoch: loss} if state is TrialState.PRUNED else None,
        )
        if trial.reason is not None:
            self._frozen[trial.number] = frozen
        return frozen


def _long(parameter: Number) -> bool:
    """Say whether there are more values than Optuna's arithmetic tells apart."""
    return parameter.n_values is not None and parameter.n_values > 10**6


def _internal(parameter: Parameter, value: Value) -> float:
    """Return a value as Optuna has it."""
    if isinstance(parameter, Categorical):
        return parameter.index(value)
    if isinstance(parameter, Number) and _long(parameter):
        return parameter.to_unit(value)
    return float(value)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Categorical):
        return optuna.distributions.CategoricalDistribution(range(len(parameter.choices)))
    assert isinstance(parameter, Number)
    if _long(parameter):
        return optuna.distributions.FloatDistribution(0.0, 1.0)
    if parameter.integer:
        return optuna.distributions.IntDistribution(
            int(parameter.low), int(parameter.high), log=parameter.log
        )
    return optuna.distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
