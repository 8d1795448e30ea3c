"""How a search went, and what to try next."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest, fisher_exact, mannwhitneyu

from hypertune.analysis.effects import ALPHA
from hypertune.analysis.frames import StudyData, finite, value_at
from hypertune.analysis.replicates import recommended
from hypertune.analysis.statements import Undecided
from hypertune.analysis.words import show
from hypertune.core.origin import Origin
from hypertune.core.space import Number

_EDGE = 0.04
_MIN_GROUP = 4
_UNLIKELY = 0.5


def review(data: StudyData, *, margin: float) -> list[str]:
    """Say how the search went.

    Args:
        data: The study.
        margin: The smallest difference that matters.
    """
    n, n_full = len(data.searched), int(data.searched["full"].sum())
    sentences = [
        f"{n} configurations were tried, {n_full} of them in full, with "
        f"{int(data.searched['epochs'].sum())} epochs in all."
    ]
    if n_mutated := len(data.mutated):
        sentences.append(
            f"{n_mutated} of these trials went on with another one's state and a changed "
            "configuration: none of them tells how good a configuration is, and all that is said "
            "of configurations leaves them out."
        )
    if n < 8 or len(data.full) < 3:
        sentences.append("That is too little to tell how well the search went.")
        return sentences + _failures(data)
    return [
        *sentences,
        *_better_than_chance(data),
        *_against_random(data),
        *_improving(data, margin),
        *_failures(data),
    ]


def by_chance(data: StudyData) -> "pd.Series[bool]":
    """Say of each searched trial whether its config was drawn by chance."""
    return data.searched["origin"].isin([origin for origin in Origin if origin.by_chance])


def _better_than_chance(data: StudyData) -> list[str]:
    """Compare what a model proposed with what was drawn by chance, after an epoch of each."""
    drawn = by_chance(data)
    # The default and other configs to start from are somebody's choice, not the method's.
    chosen = data.searched["origin"].isin([origin for origin in Origin if origin.chosen])
    if not chosen.any():
        return ["No configuration was proposed by a model: there is none to credit."]
    values = value_at(data, 1).loc[data.searched.index]
    losses = data.objective.loss(finite(values))
    known = np.isfinite(losses)
    early, late = losses[known & drawn.to_numpy()], losses[known & chosen.to_numpy()]
    if len(early) < _MIN_GROUP or len(late) < _MIN_GROUP:
        return ["Too few configurations to compare the method's proposals with chance."]
    test = mannwhitneyu(late, early, alternative="less")
    share = 1 - float(test.statistic) / (len(early) * len(late))
    p = float(test.pvalue)
    shown = "better than chance" if p < ALPHA else "not shown to be better than chance"
    return [
        f"The {len(late)} configurations that the model proposed were {shown} at equal cost: "
        f"after one epoch one of them beats one of the {len(early)} that were drawn by chance "
        f"in {share:.0%} of pairs (p = {p:.2g})."
    ]


def _against_random(data: StudyData) -> list[str]:
    """Bound the chance that random search would have found as good a config at equal cost.

    Of the n configs that were drawn by chance, x came to a value as good as the best one: that
    bounds the share of such configs in the space from above (Clopper and Pearson), and by it the
    chance that one of as many trials in full as the search could have paid for has such a value.
    """
    searched, max_epochs = data.searched, int(data.study["max_epochs"])
    n_paid = int(searched["epochs"].sum()) // max_epochs
    usable = by_chance(data) & searched["value"].notna()
    n = int(usable.sum())
    given = searched["origin"].isin([Origin.DEFAULT, Origin.GIVEN])
    itself = bool((searched["full"] & (usable | given)).all())
    if n_paid < 1 or n == 0 or itself:
        return []
    best = float((data.objective.loss(finite(data.full["value"]))).min())
    reached = (usable & searched["full"]).to_numpy() & (
        data.objective.loss(finite(searched["value"])) <= best
    )
    share = binomtest(int(reached.sum()), n).proportion_ci(1 - 2 * ALPHA, method="exact").high
    chance = 1 - (1 - float(share)) ** n_paid
    stopped = ", of which those that were stopped early are taken for no better"
    said = stopped if not searched.loc[usable, "full"].all() else ""
    text = (
        f"random search at equal cost, {n_paid} trials in full, would have found as good a "
        f"configuration with a chance of at most {chance:.0%} (95 %, by the {n} configurations "
        f"that were drawn by chance{said})"
    )
    if chance < _UNLIKELY:
        return [f"The search did better than chance would: {text}."]
    return [f"That the search did better than chance would is not shown: {text}."]


def _improving(data: StudyData, margin: float) -> list[str]:
    full = data.full.sort_values("ended")
    losses = data.objective.loss(finite(full["value"]))
    if len(losses) < 6:
        return ["Too few trials in full to tell whether the search still improves."]
    best = np.minimum.accumulate(losses)
    third = len(losses) - len(losses) // 3
    gain = float(best[third - 1] - best[-1])
    if gain > margin:
        return [
            f"The search was still improving: its last third of trials in full gained {show(gain)}."
        ]
    return ["The last third of trials in full brought nothing that matters."]


def _failures(data: StudyData) -> list[str]:
    failed = data.searched["reason"].isin(("failed", "lost")).fillna(False)
    if not failed.any():
        return []
    sentences = [f"{int(failed.sum())} of {len(failed)} trials failed or were lost."]
    for column in data.columns:
        kinds = data.searched[column]
        if not isinstance(kinds.dtype, pd.CategoricalDtype):
            continue
        for level in kinds.cat.categories:
            here = kinds == level
            table = pd.crosstab(here, failed)
            if table.shape == (2, 2):
                p = float(fisher_exact(table.to_numpy(), alternative="greater").pvalue)
                if p < 0.01:
                    name = column.removeprefix("config.")
                    sentences.append(
                        f"They cluster at {name} = {level}: {int((here & failed).sum())} of "
                        f"{int(here.sum())} there (p = {p:.2g})."
                    )
    return sentences


def following(data: StudyData, left: Sequence[Undecided]) -> list[str]:
    """Say what to try next.

    Args:
        data: The study.
        left: What it has not decided.
    """
    advice = []
    name = data.study["name"]
    best = recommended(data)
    for parameter in data.space.parameters if best is not None else ():
        flat = data.flats.get(best.trial if best is not None else -1, {})
        if isinstance(parameter, Number) and parameter.key in flat:
            unit = parameter.to_unit(flat[parameter.key])
            if parameter.n_values is not None and parameter.n_values < 1 / _EDGE:
                at_low, at_high = (
                    flat[parameter.key] == e for e in (parameter.low, parameter.high)
                )
            else:
                at_low, at_high = unit < _EDGE, unit > 1 - _EDGE
            if at_low or at_high:
                end = "lower" if at_low else "upper"
                advice.append(
                    f"Widen {parameter.name}: the best configuration has "
                    f"{show(flat[parameter.key])}, at the {end} end of "
                    f"{show(parameter.low)} to {show(parameter.high)}."
                )
    left = [one for one in left if not one.hopeless]
    goal = data.study.get("settings", {}).get("goal")
    if any(one.n_more for one in left) and goal != "best":
        advice.append(
            f"To decide what is undecided, go on: hypertune resume {name} --until-decided "
            "--time-budget 15m runs the best of what is not told apart on more fresh seeds."
        )
    elif left:
        n = int(data.study.get("n_trials") or len(data.searched))
        advice.append(
            f"To decide what is undecided, go on: hypertune resume {name} --n-trials {2 * n}; or "
            "begin again with every trial in full, where each counts: --scheduler none."
        )
    return advice
