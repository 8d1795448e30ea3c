"""Hyperopt's tree-structured Parzen estimator (Bergstra et al. 2011), on trees of `hp.choice`."""

import math
from collections.abc import Sequence
from typing import Any

import hyperopt
import numpy as np
from hyperopt import hp

from hypertune.search.history import Trial
from hypertune.search.searchers.base import Searcher
from hypertune.space import Categorical, Condition, Flat, Parameter, Space, Value

_ENDED = hyperopt.JOB_STATE_DONE


class Hyperopt(Searcher):
    """Asks hyperopt's TPE. Numbers are searched on their unit interval, branches as a tree.

    Complete and converged trials count with their value; failed and lost ones count as failed,
    which hyperopt ranks last; of the others nothing final is known, and they are left out.
    """

    def __init__(self, space: Space, max_epochs: int, seed: int = 0) -> None:
        super().__init__(space, max_epochs, seed)
        self._domain = hyperopt.base.Domain(lambda config: 0.0, self._tree(None))
        self._docs: dict[int, dict[str, Any]] = {}

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Flat:
        history = hyperopt.Trials()
        docs = [self._doc(t) for t in trials if t.full or t.reason in ("failed", "lost")]
        if docs:
            history.insert_trial_docs(docs)
            history.refresh()
        seed = int(rng.integers(2**31))
        self.why = (
            "drawn at random, until 20 trials have ended"  # hyperopt's own default
            if len(docs) < 20
            else f"by hyperopt's TPE from {len(docs)} trials"
        )
        (doc,) = hyperopt.tpe.suggest([len(trials)], self._domain, history, seed, verbose=False)
        values = {key: value[0] for key, value in doc["misc"]["vals"].items() if len(value)}
        return self.space.build(lambda parameter: _external(parameter, values[parameter.key]))

    def _tree(self, condition: Condition | None) -> dict[str, Any]:
        return {p.key: self._node(p) for p in self.space.parameters if p.condition == condition}

    def _node(self, parameter: Parameter) -> Any:
        if not isinstance(parameter, Categorical):
            return hp.uniform(parameter.key, 0.0, 1.0)
        options = [
            self._tree(Condition(key=parameter.key, label=label)) for label in parameter.choices
        ]
        return hp.choice(parameter.key, options)

    def _doc(self, trial: Trial) -> dict[str, Any]:
        if trial.number not in self._docs:
            self._docs[trial.number] = self._new_doc(trial)
        return self._docs[trial.number]

    def _new_doc(self, trial: Trial) -> dict[str, Any]:
        tid, loss = trial.number, trial.best.get(trial.epoch, math.inf)
        good = trial.full and math.isfinite(loss)
        vals = {
            p.key: [_internal(p, trial.flat[p.key])] if p.key in trial.flat else []
            for p in self.space.parameters
        }
        return {
            "tid": tid,
            "spec": None,
            "result": {"status": "ok", "loss": loss} if good else {"status": "fail"},
            "misc": {
                "tid": tid,
                "cmd": None,
                "idxs": {key: [tid] * len(value) for key, value in vals.items()},
                "vals": vals,
            },
            "state": _ENDED,
            "exp_key": None,
            "owner": None,
            "version": 0,
            "book_time": None,
            "refresh_time": None,
        }


def _internal(parameter: Parameter, value: Value) -> float:
    if isinstance(parameter, Categorical):
        return parameter.index(value)
    return parameter.to_unit(value)


def _external(parameter: Parameter, value: float) -> Value:
    if isinstance(parameter, Categorical):
        return parameter.choices[int(value)]
    return parameter.from_unit(float(value))
