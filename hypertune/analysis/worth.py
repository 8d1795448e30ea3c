"""What the best config is worth: on fresh seeds, and on the test part."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student

from hypertune.analysis.frames import StudyData, finite
from hypertune.analysis.replicates import MIN_REPEATS, blocks, replicates
from hypertune.analysis.words import show
from hypertune.space import identity


def worth(data: StudyData, *, alpha: float) -> list[str]:
    """Say what the best config is worth against the default and the baselines.

    Args:
        data: The study.
        alpha: Error of the interval.
    """
    sentences = []
    runs = replicates(data)
    default = data.space.problems(data.study["default"]) == []
    if runs and default:
        key = identity(data.space.flatten(data.study["default"]))
        others = [config for config in runs if config != key]
        if key in runs and others:
            sentences += _against_default(data, runs, key, others, alpha)
    sentences += _on_test(data)
    return sentences


def _against_default(
    data: StudyData, runs: Mapping[str, pd.DataFrame], key: str, others: Sequence[str], alpha: float
) -> list[str]:
    # The one that the search ranked first: choosing by the replicates would be choosing luck.
    searched = {
        identity(data.flats[t]): data.sign * v
        for t, v in zip(data.full["trial"], finite(data.full["value"]), strict=True)
        if t in data.flats
    }
    best = min(others, key=lambda config: searched.get(config, math.inf))
    configs, values = blocks(data, {c: runs[c] for c in (key, best)})
    if values.shape[1] < MIN_REPEATS or len(configs) < 2:
        return []
    gaps = values[configs.index(key)] - values[configs.index(best)]
    n, mean = len(gaps), float(gaps.mean())
    reach = float(student.ppf(1 - alpha / 2, n - 1) * gaps.std(ddof=1) / math.sqrt(n))
    interval = f"95 %: {show(mean - reach)} to {show(mean + reach)}; {n} fresh seeds"
    verb = "beats" if mean > reach else "loses to" if mean < -reach else "is not told apart from"
    sentences = [
        f"On validation the search's best configuration {verb} the default: "
        f"{show(mean)} in its favour ({interval})."
    ]
    if best in searched:
        back = float(values[configs.index(best)].mean()) - searched[best]
        if back > 0:
            sentences.append(
                f"On fresh seeds it is worse by {show(back)} than it was in the search: the luck "
                "of the winner."
            )
        else:
            sentences.append(
                "On fresh seeds it is as good as it was in the search, or better "
                f"(by {show(-back)})."
            )
    return sentences


def _on_test(data: StudyData) -> list[str]:
    trials = data.trials
    looked = trials[trials["test"].notna()]
    searched = looked[looked["role"].isin(("search", "replicate", "rerun"))]
    full = searched[searched["full"]]
    if full.empty:
        return ["The test part was not opened for a searched configuration."]
    best = full.iloc[int(np.argmin(data.sign * finite(full["value"])))]
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
            f"On the test part the best configuration {verb} {other}: {name} "
            f"{show(best['test'])} against {show(row['test'])} (one seed, one look)."
        )
    return sentences
