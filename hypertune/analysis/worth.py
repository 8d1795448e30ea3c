"""What the recommended config is worth: on fresh seeds, and on the test part."""

import math
from statistics import fmean

import pandas as pd

from hypertune.analysis import effects
from hypertune.analysis.frames import StudyData
from hypertune.analysis.replicates import recommended, replicates
from hypertune.analysis.words import show
from hypertune.core.space import identity
from hypertune.journal.recommendation import MIN_REPEATS, Recommendation, dependable


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
    return sentences + _failures(data, best) + _on_test(data, best)


def _failures(data: StudyData, best: Recommendation | None) -> list[str]:
    """Say which configs failed on fresh seeds: most of those that did are not recommended."""
    sentences = []
    chosen = identity(data.flats[best.trial]) if best and best.trial in data.flats else ""
    for config, rows in replicates(data).items():
        n, n_failed = len(rows), int((~rows["full"]).sum())
        if n_failed and config == chosen:
            sentences.append(
                f"The recommended configuration failed on {n_failed} of {n} fresh seeds."
            )
        elif not dependable(n - n_failed, n):
            sentences.append(
                f"A configuration that failed on {n_failed} of {n} fresh seeds is not recommended: "
                f"{config}."
            )
    return sentences


def _against_default(data: StudyData, best: Recommendation, alpha: float) -> list[str]:
    """Compare with the default on fresh seeds.

    The best of several was chosen by these seeds: only intervals that hold for each of them at once
    hold for the one that was chosen.
    """
    names = {trial: identity(data.flats[trial]) for trial in best.losses}
    flat = data.space.flatten(data.study["default"])
    default = next((t for t, name in names.items() if name == identity(flat)), None)
    n_configs = len(best.losses)
    if default is None or n_configs < 2:
        return []
    if default == best.trial:
        return [
            f"Of {n_configs} configurations the default is the best one, on "
            f"{len(best.losses[default])} fresh seeds."
        ]
    pair = pd.DataFrame({name: best.losses[name] for name in (best.trial, default)}).dropna()
    if len(pair) < MIN_REPEATS:
        return []
    found = effects.from_replicates(
        pair.to_numpy().T, ["best", "default"], alpha=alpha / (n_configs - 1)
    )
    mean, reach = float(found.difference[0, 1]), float(found.margin[0, 1])
    if math.isnan(reach):  # for want of digits
        return []
    verb = "beats" if mean > reach else "is not told apart from"
    return [
        f"On {len(pair)} fresh seeds the recommended configuration, the best one of {n_configs}, "
        f"{verb} the default: {show(mean)} in its favour (95 %: {show(mean - reach)} to "
        f"{show(mean + reach)})."
    ]


def _regression(data: StudyData, best: Recommendation) -> list[str]:
    """Say how much of the search's best was luck, and whether another config took its place."""
    sentences = []
    trials = data.trials.set_index("trial")
    if best.incumbent in best.losses:
        again, n = fmean(best.losses[best.incumbent].values()), len(best.losses[best.incumbent])
        before = data.objective.loss(float(trials["value"][best.incumbent]))
        back = again - before
        verb = f"worse by {show(back)}" if back > 0 else f"as good, or better by {show(-back)}"
        why = ": the luck of the winner" if back > 0 else ""
        sentences.append(
            f"The best of the search (trial {best.incumbent}) had "
            f"{show(data.objective.value(before))} there and has "
            f"{show(data.objective.value(again))} on {n} fresh seeds, {verb}{why}."
        )
        if best.trial != best.incumbent:
            one, other = best.losses[best.incumbent], best.losses[best.trial]
            shared = one.keys() & other.keys()
            gap = fmean(one[r] - other[r] for r in shared) if shared else 0.0
            sentences.append(
                f"Trial {best.trial} is better by {show(gap)} on {len(shared)} of them, and is "
                "recommended in its place."
                if gap > 0
                else f"Trial {best.trial} is recommended in its place."
            )
    return sentences


def _on_test(data: StudyData, recommendation: Recommendation | None) -> list[str]:
    trials = data.trials
    looked = trials[trials["test"].notna()]
    recommended_trial = -1 if recommendation is None else recommendation.trial
    of_best = looked[looked["trial"] == recommended_trial]
    if of_best.empty:
        return ["The test part was not opened for the recommended configuration."]
    best = of_best.iloc[0]
    default = identity(data.space.flatten(data.study["default"]))
    others: list[tuple[str, float]] = []
    n_looks = 1
    for trial, role, label, test in zip(
        *(looked[name] for name in ("trial", "role", "label", "test")), strict=True
    ):
        if trial == best["trial"]:
            continue
        if identity(data.flats.get(trial, {})) == default:
            others.append(("the default configuration", test))
        elif role == "baseline":
            others.append((label, test))
        else:
            others.append((f"the configuration recommended before (trial {trial})", test))
            n_looks += 1
    name, mine = data.study["test_metric"], best["test"]
    looks = "one look" if n_looks == 1 else f"{n_looks} looks"
    return [
        f"On the test part the recommended configuration "
        f"{'beats' if data.objective.better(mine, test) else 'does not beat'} {other}: {name} "
        f"{show(mine)} against {show(test)} (one seed, {looks})."
        for other, test in others
    ]
