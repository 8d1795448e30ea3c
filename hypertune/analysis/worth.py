"""What the recommended config is worth: on fresh seeds, and on the test part."""

import math
from statistics import fmean

import numpy as np

from hypertune.analysis import effects
from hypertune.analysis.frames import StudyData
from hypertune.analysis.replicates import recommended
from hypertune.analysis.words import show
from hypertune.records import MIN_REPEATS, Champion
from hypertune.space import identity


def worth(data: StudyData, *, alpha: float) -> list[str]:
    """Say what the recommended config is worth against the default and the baselines.

    Args:
        data: The study.
        alpha: Error of the interval.
    """
    best = recommended(data)
    sentences = []
    if best is not None and best.losses:
        sentences += _against_default(data, best, alpha) + _regression(data, best)
    return sentences + _on_test(data, best)


def _against_default(data: StudyData, best: Champion, alpha: float) -> list[str]:
    """Compare with the default on fresh seeds.

    The best of several was chosen by these seeds: only intervals that hold for each of them at once
    hold for the one that was chosen.
    """
    names = {trial: identity(data.flats[trial]) for trial in best.losses}
    flat = data.space.flatten(data.study["default"])
    default = next((t for t, name in names.items() if name == identity(flat)), None)
    values = np.array(list(best.losses.values()))
    n_configs, n = values.shape
    if default is None or n < MIN_REPEATS or n_configs < 2:
        return []
    if default == best.trial:
        return [f"Of {n_configs} configurations the default is the best one on {n} fresh seeds."]
    pair = np.array([best.losses[best.trial], best.losses[default]])
    found = effects.from_replicates(pair, ["best", "default"], alpha=alpha / (n_configs - 1))
    mean, reach = float(found.difference[0, 1]), float(found.margin[0, 1])
    if math.isnan(reach):  # for want of digits
        return []
    verb = "beats" if mean > reach else "is not told apart from"
    return [
        f"On {n} fresh seeds the recommended configuration, the best one of {n_configs}, {verb} "
        f"the default: {show(mean)} in its favour (95 %: {show(mean - reach)} to "
        f"{show(mean + reach)})."
    ]


def _regression(data: StudyData, best: Champion) -> list[str]:
    """Say how much of the search's winner was luck, and whether another config took its place."""
    sentences = []
    trials = data.trials.set_index("trial")
    if best.winner in best.losses:
        again, n = fmean(best.losses[best.winner]), len(best.losses[best.winner])
        before = data.sign * float(trials["value"][best.winner])
        back = again - before
        verb = f"worse by {show(back)}" if back > 0 else f"as good, or better by {show(-back)}"
        why = ": the luck of the winner" if back > 0 else ""
        sentences.append(
            f"The search's winner (trial {best.winner}) had {show(data.sign * before)} in the "
            f"search and has {show(data.sign * again)} on {n} fresh seeds, {verb}{why}."
        )
        if best.trial != best.winner:
            gap = again - fmean(best.losses[best.trial])
            sentences.append(
                f"Trial {best.trial} is better there by {show(gap)}, and is recommended in its "
                "place."
            )
    return sentences


def _on_test(data: StudyData, champion: Champion | None) -> list[str]:
    trials = data.trials
    looked = trials[trials["test"].notna()]
    of_best = looked[looked["trial"] == (champion.trial if champion is not None else -1)]
    if of_best.empty:
        return ["The test part was not opened for the recommended configuration."]
    best = of_best.iloc[0]
    name = data.study["test_metric"]
    sentences = []
    for _, row in looked.iterrows():
        if row["trial"] == best["trial"]:
            continue
        simple = row["role"] == "baseline" and row["label"] != "default"
        other = row["label"] if simple else "the default configuration"
        gap = data.sign * (row["test"] - best["test"])
        verb = "beats" if gap > 0 else "does not beat"
        sentences.append(
            f"On the test part the recommended configuration {verb} {other}: {name} "
            f"{show(best['test'])} against {show(row['test'])} (one seed, one look)."
        )
    return sentences
