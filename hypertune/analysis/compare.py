"""Several studies side by side, at equal cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import t as student

from hypertune.analysis import figures
from hypertune.analysis.frames import StudyData, finite, load, study_folder
from hypertune.analysis.summary import summarize
from hypertune.errors import SettingError
from hypertune.space import Categorical

_SAME = ("metric", "mode", "max_epochs", "data", "fixed")
_MIN_SEARCHES = 3


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
    losses = np.where(last, data.sign * finite(order["best"]), np.inf)
    best = np.minimum.accumulate(losses) if len(losses) else losses
    best = np.where(np.isfinite(best), data.sign * best, np.nan)
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
    """Compare levels over independent searches of the same space, by the t interval.

    What one search found is one draw: only over several is it known whether a level wins again.
    """
    plain = [data.study["parameters"] for data in studies]
    seeds = {(data.study.get("seed"), data.study.get("method")) for data in studies}
    methods = {data.study.get("method") for data in studies}
    alike = all(p == plain[0] for p in plain) and len(methods) == 1
    if not alike or len(seeds) < len(studies) or len(studies) < _MIN_SEARCHES:
        return []
    sentences = []
    for name in studies[0].study["factors"]:
        parameter = next(p for p in studies[0].space.parameters if p.name == name)
        if not isinstance(parameter, Categorical) or parameter.n_values != 2:
            continue
        pairs = [_best_by_level(data, parameter.key) for data in studies]
        known = np.array([pair for pair in pairs if np.isfinite(pair).all()])
        if len(known) < _MIN_SEARCHES:
            sentences.append(
                f"{name}: {len(known)} of {len(studies)} searches have both levels in full; it "
                f"takes {_MIN_SEARCHES}."
            )
            continue
        gaps = known[:, 1] - known[:, 0]
        n, mean = len(gaps), float(gaps.mean())
        reach = float(student.ppf(0.975, n - 1) * gaps.std(ddof=1) / math.sqrt(n))
        a, b = (figures.show(v) for v in parameter.values())
        if mean < 0:
            a, b, mean = b, a, -mean
        verb = "beats" if mean > reach else "is not shown to beat"
        sentences.append(
            f"{name}: over {n} independent searches the best {a} found {verb} the best {b} found: "
            f"better by {mean:.3g} (95 %: {mean - reach:.3g} to {mean + reach:.3g})."
        )
    return sentences


def _best_by_level(data: StudyData, key: str) -> list[float]:
    full = data.searched[data.searched["full"]]
    losses = data.sign * finite(full["value"])
    levels = [data.flats.get(trial, {}).get(key) for trial in full["trial"]]
    return [
        min((x for x, of in zip(losses, levels, strict=True) if of == level), default=math.nan)
        for level in data.space[key].values()
    ]
