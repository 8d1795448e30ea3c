"""Hyperopt's tree-structured Parzen estimator (Bergstra et al. 2011), on trees of `hp.choice`."""

import math
from collections.abc import Sequence
from typing import Any

import hyperopt
import numpy as np
from hyperopt import hp

from hypertune.core.origin import Origin
from hypertune.core.space import Categorical, Condition, Parameter, Space, Value
from hypertune.search.history import Trial, common_epoch, rank_at
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import Suggestion

_ENDED = hyperopt.JOB_STATE_DONE
_FAILED = ("failed", "lost")
_N_START = 20  # hyperopt's own default


class Hyperopt(Searcher):
    """Asks hyperopt's TPE. Numbers are searched on their unit interval, branches as a tree.

    Its losses are places in a ranking, as it asks for their order alone: trials are compared at the
    largest epoch that enough of them got to, and those that did not get so far come after. Failed
    and lost ones count as failed, which hyperopt ranks last.
    """

    def __init__(self, space: Space, max_epochs: int, seed: int = 0) -> None:
        super().__init__(space, max_epochs, seed)
        self._domain = hyperopt.base.Domain(lambda config: 0.0, self._tree(None))

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Suggestion:
        history = hyperopt.Trials()
        at = common_epoch(trials, _N_START, self.max_epochs)
        known = [t for t in trials if not t.running and (t.losses or t.reason in _FAILED)]
        ranked = sorted(rank_at(trial, at) for trial in known)
        docs = [
            self._doc(trials[number], place if math.isfinite(loss) else None)
            for place, (_, _, loss, number) in enumerate(ranked)
        ]
        docs.sort(key=lambda doc: int(doc["tid"]))
        if docs:
            history.insert_trial_docs(docs)
            history.refresh()
        seed = int(rng.integers(2**31))
        (doc,) = hyperopt.tpe.suggest([len(trials)], self._domain, history, seed, verbose=False)
        values = {key: value[0] for key, value in doc["misc"]["vals"].items() if len(value)}
        flat = self.space.build(lambda parameter: _external(parameter, values[parameter.key]))
        if len(docs) < _N_START:
            why = f"drawn at random, until {_N_START} trials have reported"
            return Suggestion(flat=flat, origin=Origin.RANDOM, why=why)
        why = f"by hyperopt's TPE from {len(docs)} trials"
        return Suggestion(flat=flat, origin=Origin.MODEL, why=why)

    def _tree(self, condition: Condition | None) -> dict[str, Any]:
        return {p.key: self._node(p) for p in self.space.parameters if p.condition == condition}

    def _node(self, parameter: Parameter) -> Any:
        if not isinstance(parameter, Categorical):
            return hp.uniform(parameter.key, 0.0, 1.0)
        options = [
            self._tree(Condition(key=parameter.key, label=label)) for label in parameter.choices
        ]
        return hp.choice(parameter.key, options)

    def _doc(self, trial: Trial, place: int | None) -> dict[str, Any]:
        """Return a trial as hyperopt has it; without a place it failed."""
        tid = trial.number
        vals = {
            p.key: [_internal(p, trial.flat[p.key])] if p.key in trial.flat else []
            for p in self.space.parameters
        }
        return {
            "tid": tid,
            "spec": None,
            "result": {"status": "fail"} if place is None else {"status": "ok", "loss": place},
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
