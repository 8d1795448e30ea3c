"""How a search went, and what to try next."""

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact, mannwhitneyu

from hypertune.analysis.effects import ALPHA
from hypertune.analysis.frames import StudyData, finite, value_at
from hypertune.analysis.words import show
from hypertune.space import Number

_EDGE = 0.04
_MIN_GROUP = 4
# What searchers say of where a config came from.
_BY_CHANCE, _GIVEN = "at random|quasi-random|evenly|grid|not tried yet", "default|to start from"


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
    return [*sentences, *_better_than_chance(data), *_improving(data, margin), *_failures(data)]


def by_chance(data: StudyData) -> "pd.Series[bool]":
    """Say of each searched trial whether its config was drawn by chance."""
    return data.searched["origin"].str.contains(_BY_CHANCE, regex=True).fillna(False).astype(bool)


def _better_than_chance(data: StudyData) -> list[str]:
    """Compare what a model proposed with what was drawn by chance, after an epoch of each."""
    origins, drawn = data.searched["origin"], by_chance(data)
    # The default and other configs to start from are somebody's choice, not the method's.
    chosen = (origins != "") & ~origins.str.contains(_GIVEN, regex=True).fillna(False) & ~drawn
    if not chosen.any():
        return ["No configuration was proposed by a model: there is none to credit."]
    values = value_at(data, 1).loc[data.searched.index]
    losses = data.sign * finite(values)
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


def _improving(data: StudyData, margin: float) -> list[str]:
    full = data.full.sort_values("ended")
    losses = data.sign * finite(full["value"])
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


def following(data: StudyData, *, undecided: bool) -> list[str]:
    """Say what to try next.

    Args:
        data: The study.
        undecided: Some factor is.
    """
    advice = []
    name = data.study["name"]
    champion = _champion(data)
    for parameter in data.space.parameters if champion is not None else ():
        flat = data.flats.get(int(champion or 0), {})
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
    if undecided:
        n = int(data.study.get("n_trials") or len(data.searched))
        advice.append(
            f"To decide what is undecided, go on: hypertune resume {name} --n-trials {2 * n}; or "
            "begin again with every trial in full, where each counts: --scheduler none."
        )
    return advice


def _champion(data: StudyData) -> int | None:
    if data.full.empty:
        return None
    place = int(np.argmin(data.sign * finite(data.full["value"])))
    return int(data.full["trial"].iloc[place])
