"""Which parameters matter: shares of the variance, at one epoch that many trials got to."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hypertune.analysis.frames import StudyData, finite, value_at
from hypertune.core.space import Categorical
from hypertune.search.encoding import Encoding

_N_BOOTSTRAP = 16
_N_TREES = 24
_MIN_TRIALS, _MOST_TRIALS = 12, 200


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares of the variance between configs that parameters explain, each by itself.

    Attributes:
        epoch: Where all trials are compared.
        n_trials: How many got there.
        share: Median share by parameter, the largest first.
        low, high: 5 % and 95 % of the bootstrap, by parameter.
    """

    epoch: int
    n_trials: int
    share: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]

    @property
    def sentence(self) -> str:
        """What it says."""
        parts = [
            f"{name} {share:.0%} ({self.low[name]:.0%} to {self.high[name]:.0%})"
            for name, share in self.share.items()
        ]
        return (
            f"Share of the variance at epoch {self.epoch}, over {self.n_trials} trials: "
            f"{', '.join(parts)}."
        )


def importances(data: StudyData, *, seed: int = 0) -> Importance | None:
    """Return the importance of each parameter by functional ANOVA (Hutter et al. 2014).

    At the furthest rung that at least twelve searched trials, and three a parameter, reached: the
    further, the fewer, and those that got on are alike. Intervals are from resampled trials.

    Args:
        data: The study.
        seed: Of the bootstrap and of the trees.
    """
    # On demand: optuna takes half a second to import.
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator

    names = {p.key: p.name for p in data.space.parameters if p.condition is None}
    needed = max(_MIN_TRIALS, 3 * len(names))
    for epoch in reversed(data.rungs):
        values = value_at(data, epoch).loc[data.searched.index]
        known = values.notna() & data.searched["trial"].isin(list(data.flats))
        if known.sum() >= needed:
            break
    else:
        return None
    trials = list(data.searched.loc[known, "trial"])
    losses = data.objective.loss(finite(values[known]))
    if float(np.ptp(losses)) == 0 or len(names) < 2:
        return None
    points = Encoding(data.space).points([data.flats[t] for t in trials])
    places = {p.key: k for k, p in enumerate(data.space.parameters)}
    kinds: dict[str, BaseDistribution] = {}
    for key in names:
        parameter = data.space[key]
        if isinstance(parameter, Categorical):
            kinds[key] = CategoricalDistribution(list(range(parameter.n_values)))
        else:
            kinds[key] = FloatDistribution(0.0, 1.0)

    def params(row: int) -> dict[str, float | int]:
        found: dict[str, float | int] = {}
        for key in names:
            u = float(points[row, places[key]])
            parameter = data.space[key]
            n = parameter.n_values if isinstance(parameter, Categorical) else None
            found[key] = u if n is None else min(int(u * n), n - 1)
        return found

    # Ranks: a few runs that diverged would be all of the variance.
    ranks = np.argsort(np.argsort(losses)).astype(float)
    frozen = [
        optuna.trial.create_trial(params=params(k), distributions=kinds, value=float(ranks[k]))
        for k in range(len(trials))
    ]
    optuna.logging.get_logger("optuna").setLevel(logging.WARNING)
    rng = np.random.default_rng(seed)
    shares: dict[str, list[float]] = {key: [] for key in names}
    for k in range(_N_BOOTSTRAP):
        study = optuna.create_study()
        drawn = rng.integers(len(frozen), size=min(len(frozen), _MOST_TRIALS))
        study.add_trials([frozen[i] for i in drawn])
        evaluator = FanovaImportanceEvaluator(n_trees=_N_TREES, max_depth=16, seed=seed + k)
        for key, share in evaluator.evaluate(study, params=list(names)).items():
            shares[key].append(float(share))
    order = sorted(names, key=lambda key: -float(np.median(shares[key])))
    return Importance(
        epoch=epoch,
        n_trials=len(trials),
        share={names[k]: float(np.median(shares[k])) for k in order},
        low={names[k]: float(np.quantile(shares[k], 0.05)) for k in order},
        high={names[k]: float(np.quantile(shares[k], 0.95)) for k in order},
    )
