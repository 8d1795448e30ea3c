"""Several studies side by side, at equal cost."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hypertune.analysis import effects, figures
from hypertune.analysis.frames import StudyData, finite, load, study_folder
from hypertune.analysis.summary import summarize
from hypertune.core.errors import SettingError
from hypertune.core.space import Parameter, identity
from hypertune.journal.recommendation import MIN_REPEATS

_SAME = ("metric", "mode", "max_epochs", "data", "fixed")
_MIN_SEARCHES = MIN_REPEATS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What several studies found.

    Attributes:
        table: A row a study, by its name: ``method``, ``seed``, ``n_trials``, ``n_full``,
            ``epochs``, ``seconds``, ``best`` (of trials in full), ``best_at_equal_cost`` (after as
            many epochs as the shortest of the studies), ``test`` (of the best trial).
        n_epochs: The epochs of the equal cost.
        sentences: What several independent searches say of the factors.
    """

    table: pd.DataFrame
    n_epochs: int
    sentences: list[str]


def compare(names: Sequence[str | Path]) -> Comparison:
    """Compare studies of the same metric, data and epochs, at equal cost in epochs.

    Args:
        names: The studies' folders, or their names in the folder ``studies``; at least two.

    Raises:
        JournalError: A folder holds no readable journal.
        SettingError: They are too few, or cannot be compared.
    """
    if len(names) < 2:
        raise SettingError(f"compare takes at least 2 studies, but got {len(names)}.")
    folders = [study_folder(name) for name in names]
    studies = [load(folder) for folder in folders]
    problems = [
        f"Studies must have the same {key} to be compared, but {folders[0].name} has "
        f"{studies[0].study.get(key)!r} and {folder.name} {data.study.get(key)!r}."
        for folder, data in zip(folders[1:], studies[1:], strict=True)
        for key in _SAME
        if data.study.get(key) != studies[0].study.get(key)
    ]
    if problems:
        raise SettingError("\n".join(problems))
    spent = [_progress(data) for data in studies]
    least = min((int(s["epochs"].max()) for s in spent if len(s)), default=0)
    rows = []
    for folder, data, progress in zip(folders, studies, spent, strict=True):
        best = progress["best"]
        by_then = best[progress["epochs"] <= least]
        summary = summarize(folder)
        tests = [s.test for s in summary.scores if s.label == "best"]
        rows.append(
            {
                "study": folder.name,
                "method": data.study.get("method"),
                "seed": data.study.get("seed"),
                "n_trials": len(data.searched),
                "n_full": int(data.searched["full"].sum()),
                "epochs": int(progress["epochs"].max()) if len(progress) else 0,
                "seconds": summary.seconds,
                "best": best.iloc[-1] if len(best) else math.nan,
                "best_at_equal_cost": by_then.iloc[-1] if len(by_then) else math.nan,
                "test": tests[0] if tests and tests[0] is not None else math.nan,
            }
        )
    table = pd.DataFrame(rows).set_index("study")
    return Comparison(table=table, n_epochs=least, sentences=_over_searches(studies))


def _progress(data: StudyData) -> pd.DataFrame:
    """Return the best value of trials in full by then, after each epoch that was spent."""
    searched = data.curves[data.curves["trial"].isin(list(data.searched["trial"]))]
    order = searched.sort_values(["time", "trial", "epoch"])
    ends = data.searched[data.searched["full"]].set_index("trial")["epochs"].to_dict()
    last = [ends.get(t) == e for t, e in zip(order["trial"], order["epoch"], strict=True)]
    losses = np.where(last, data.objective.loss(finite(order["best"])), np.inf)
    best = np.minimum.accumulate(losses) if len(losses) else losses
    best = np.where(np.isfinite(best), data.objective.value(best), np.nan)
    return pd.DataFrame({"epochs": np.arange(1, len(order) + 1), "best": best})


def progress_figure(studies: Sequence[StudyData]) -> go.Figure:
    """Return the best value so far over the epochs spent, a line a study; of trials in full."""
    figure = go.Figure()
    for k, data in enumerate(studies):
        progress = _progress(data)
        figure.add_scatter(
            x=progress["epochs"],
            y=progress["best"],
            mode="lines",
            name=f"{data.study['name']} ({data.study.get('method')})",
            line={
                "shape": "hv",
                "color": figures.COLOURS[k % len(figures.COLOURS)],
                "dash": figures.DASHES[k % len(figures.DASHES)],
                "width": 2.2,
            },
        )
    figure.update_xaxes(title="epochs spent", rangemode="tozero")
    figure.update_yaxes(title=studies[0].study["metric"])
    return figures.styled(figure, "Best so far, at equal cost", "trials in full only")


def _over_searches(studies: Sequence[StudyData]) -> list[str]:
    """Compare levels or ranges over independent searches of the same space, pair by pair.

    What one search found is one draw: only over several is it known whether a level wins again.
    """
    plain = [data.study["parameters"] for data in studies]
    seeds = {(data.study.get("seed"), data.study.get("method")) for data in studies}
    methods = {data.study.get("method") for data in studies}
    alike = all(p == plain[0] for p in plain) and len(methods) == 1
    if not alike or len(seeds) < len(studies) or len(studies) < _MIN_SEARCHES:
        return []
    given = Counter(identity(c) for data in studies for c in data.study.get("start", [])[1:])
    if any(n > 1 for n in given.values()):
        return [
            "Several of these searches began with the same configs (--from, --start): they are not "
            "independent, and levels are not compared over them."
        ]
    sentences = []
    for name in studies[0].study["factors"]:
        parameter = studies[0].space.common(name)
        if parameter is None:
            continue
        losses = np.array([_best_by_part(data, parameter) for data in studies]).T
        enough = np.isfinite(losses).sum(axis=1) >= _MIN_SEARCHES
        levels = [part for part, known in zip(parameter.parts, enough, strict=True) if known]
        if len(levels) < 2:
            sentences.append(
                f"{name}: no two of its levels or ranges have a trial in full in {_MIN_SEARCHES} "
                "of the searches, which it takes to compare them."
            )
            continue
        found = effects.from_replicates(losses[enough], levels, alpha=effects.ALPHA)
        for i, j in combinations(range(len(levels)), 2):
            mean, reach = float(found.difference[i, j]), float(found.margin[i, j])
            if math.isnan(reach):
                continue
            a, b = (levels[i], levels[j]) if mean >= 0 else (levels[j], levels[i])
            verb = "beats" if abs(mean) > reach else "is not shown to beat"
            low, high = abs(mean) - reach, abs(mean) + reach
            sentences.append(
                f"{name}: over {found.n_compared[i, j]} independent searches the best found of {a} "
                f"{verb} the best found of {b}: better by {abs(mean):.3g} (95 %: {low:.3g} to "
                f"{high:.3g})."
            )
    return sentences


def _best_by_part(data: StudyData, parameter: Parameter) -> list[float]:
    """Return the loss of the best trial in full of each level or range; NaN where there is none."""
    best = dict.fromkeys(parameter.parts, math.nan)
    full = data.searched[data.searched["full"]]
    for trial, loss in zip(full["trial"], data.objective.loss(finite(full["value"])), strict=True):
        if parameter.key in (flat := data.flats.get(trial, {})):
            part = parameter.part(flat[parameter.key])
            best[part] = float(np.fmin(loss, best[part]))
    return [*best.values()]
