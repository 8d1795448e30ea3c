"""Figures of a study (plotly). Values are compared at equal epochs, or of trials in full only.

Colours are those of Okabe and Ito, which the colour-blind tell apart; levels differ in their
symbols and dashes too, for print.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from scipy.stats import t as student

from hypertune.analysis.extrapolation import extrapolate as extrapolation
from hypertune.analysis.frames import StudyData, finite, spelling, value_at
from hypertune.analysis.importance import Importance
from hypertune.analysis.search_review import by_chance
from hypertune.analysis.statements import Statement
from hypertune.core.errors import SettingError, choices
from hypertune.core.space import Categorical, Number, identity

COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#B8A900"
)  # fmt: skip
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_GREY = "#767676"
_MAX_LEVELS = 8
_N_BINS = 6
_MIN_DRAWN = 8
_N_ORDERS = 1000
Fidelity: TypeAlias = int | Literal["full", "last"]


def compared(
    data: StudyData,
    fidelity: Fidelity = "full",
    *,
    force: bool = False,
    extrapolate: bool = False,
) -> pd.DataFrame:
    """Return the searched trials that are comparable, with their values as ``compared``.

    Args:
        data: The study.
        fidelity: ``full`` for trials in full, or an epoch for those that got there. ``last`` for
            the value of every trial as far as it got: refused unless forced.
        force: Compare unequal budgets all the same; figures say so.
        extrapolate: Give trials that did not get there the value that they would have had, with
            ``low``, ``high`` and ``extrapolated`` beside it (`extrapolation.extrapolate`); figures
            say so, and how large its error is.

    Raises:
        SettingError: The budgets are unequal, or the study has no such epoch, or ``last`` is to be
            extrapolated.
    """
    trials = data.searched
    if extrapolate:
        if fidelity == "last":
            raise SettingError("extrapolate takes an epoch or 'full', but fidelity is 'last'.")
        found = extrapolation(data, data.study["max_epochs"] if fidelity == "full" else fidelity)
        joined = trials.join(found.values.rename(columns={"value": "compared"}))
        joined = joined[joined["compared"].notna()]
        joined.attrs["note"] = found.note
        return joined
    if fidelity == "full":
        kept = trials[trials["full"]]
        return kept.assign(compared=kept["value"])
    if fidelity == "last":
        kept = trials[trials["value"].notna()]
        epochs = sorted(set(kept.loc[~kept["full"], "epochs"]))
        unequal = bool(epochs) and (len(epochs) > 1 or bool(kept["full"].any()))
        if unequal and not force:
            raise SettingError(
                f"Trials of unequal budgets ({epochs[0]} to {max(kept['epochs'])} epochs) are not "
                "comparable: give an epoch, or 'full', or force=True to see what goes wrong."
            )
        return kept.assign(compared=kept["value"])
    values = value_at(data, fidelity).loc[trials.index]
    return trials.assign(compared=values)[values.notna()]


def fidelity_text(data: StudyData, fidelity: Fidelity, trials: pd.DataFrame) -> str:
    """Return what a figure is to say of the budgets of the trials that it shows."""
    n = len(trials)
    if fidelity == "last":
        return f"UNEQUAL BUDGETS, not comparable: {n} trials, each as far as it got"
    if note := trials.attrs.get("note"):
        at = data.study["max_epochs"] if fidelity == "full" else fidelity
        return f"{n} trials at epoch {at};<br>{note}"
    if fidelity == "full":
        return f"{n} trials in full ({data.study['max_epochs']} epochs, or converged before)"
    return f"{n} trials, all at epoch {fidelity}"


# ---- factors ----


def heatmap(
    data: StudyData,
    x: str,
    y: str,
    *,
    fidelity: Fidelity = "full",
    force: bool = False,
    extrapolate: bool = False,
) -> go.Figure:
    """Return the mean value in each cell of two parameters, with its count and spread.

    Args:
        data: The study.
        x: Name of a parameter; a continuous one is cut into bins.
        y: The same.
        fidelity: As in `compared`.
        force: As in `compared`.
        extrapolate: As in `compared`.

    Raises:
        SettingError: There is no such parameter, or budgets are unequal.
    """
    trials = compared(data, fidelity, force=force, extrapolate=extrapolate)
    levels_x, of_x = _levels(data, x, trials)
    levels_y, of_y = _levels(data, y, trials)
    values = finite(trials["compared"])
    mean = np.full((len(levels_y), len(levels_x)), np.nan)
    text = [["" for _ in levels_x] for _ in levels_y]
    for i, b in enumerate(levels_y):
        for j, a in enumerate(levels_x):
            cell = values[(of_x == a) & (of_y == b)]
            if len(cell):
                mean[i, j] = cell.mean()
                spread = f"<br>± {show(cell.std(ddof=1))}" if len(cell) > 1 else ""
                text[i][j] = f"{show(cell.mean())}{spread}<br>n = {len(cell)}"
                if extrapolate:
                    n = int(trials["extrapolated"][(of_x == a) & (of_y == b)].sum())
                    text[i][j] += f", {n} extrapolated"
    figure = go.Figure(
        go.Heatmap(
            z=mean,
            x=levels_x,
            y=levels_y,
            text=text,
            texttemplate="%{text}",
            colorscale="Cividis",
            reversescale=data.objective.lower_is_better,
            colorbar={"title": {"text": data.study["metric"], "side": "right"}},
            hovertemplate=f"{x} %{{x}}<br>{y} %{{y}}<br>%{{text}}<extra></extra>",
            xgap=2,
            ygap=2,
        )
    )
    figure.update_xaxes(type="category", title=x)
    figure.update_yaxes(type="category", title=y)
    title = f"Mean {data.study['metric']} ± standard deviation"
    return styled(figure, title, fidelity_text(data, fidelity, trials), warn=fidelity)


def interaction(
    data: StudyData,
    x: str,
    by: str,
    *,
    fidelity: Fidelity = "full",
    force: bool = False,
    extrapolate: bool = False,
) -> go.Figure:
    """Return the mean value over one parameter, a line for each level of another.

    Intervals are of 95 % (t) where a cell holds two trials or more; they take the trials of a cell
    for a random sample of it.

    Args:
        data: The study.
        x: Name of a parameter.
        by: The same.
        fidelity: As in `compared`.
        force: As in `compared`.
        extrapolate: As in `compared`.

    Raises:
        SettingError: There is no such parameter, or budgets are unequal.
    """
    trials = compared(data, fidelity, force=force, extrapolate=extrapolate)
    levels_x, of_x = _levels(data, x, trials)
    levels_by, of_by = _levels(data, by, trials)
    values = finite(trials["compared"])
    figure = go.Figure()
    for k, level in enumerate(levels_by):
        rows = []
        for a in levels_x:
            cell = values[(of_x == a) & (of_by == level)]
            n = len(cell)
            if n:
                half = (
                    float(student.ppf(0.975, n - 1)) * cell.std(ddof=1) / math.sqrt(n)
                    if n > 1
                    else math.nan
                )
                rows.append((a, cell.mean(), half, n))
        figure.add_scatter(
            x=[r[0] for r in rows],
            y=[r[1] for r in rows],
            error_y={"array": [r[2] for r in rows], "thickness": 1.2},
            customdata=[r[3] for r in rows],
            hovertemplate=f"{x} %{{x}}: %{{y:.4g}} (n = %{{customdata}})<extra>{level}</extra>",
            mode="lines+markers",
            name=f"{by} = {level}",
            line={"color": COLOURS[k % 8], "dash": DASHES[k % 6]},
            marker={"symbol": _SYMBOLS[k % 8], "size": 9},
        )
    figure.update_xaxes(type="category", categoryarray=levels_x, title=x)
    figure.update_yaxes(title=data.study["metric"])
    title = f"{data.study['metric']} over {x}, by {by}"
    return styled(figure, title, fidelity_text(data, fidelity, trials), warn=fidelity)


def statement(data: StudyData, factor: str, said: Statement) -> go.Figure:
    """Return the figure of a statement: each level's value with its interval of 95 %."""
    rows = said.levels
    figure = _response(rows) if rows and "at" in rows[0] else _forest(rows)
    axes: dict[str, Any] = {"title": factor}
    note = f"95 % intervals; {said.basis}"
    if rows and "at" in rows[0]:
        x = [row["at"] for row in rows]
        if factor in data.study.get("log_parameters", ()) or _geometric(x):
            axes |= {"type": "log", "tickvals": x, "ticktext": [row["level"] for row in rows]}
        figure.update_xaxes(**axes)
        figure.update_yaxes(title=data.study["metric"])
        note += "; crosses: worse than the best"
    else:
        figure.update_yaxes(type="category", **axes)
        figure.update_xaxes(title=data.study["metric"])
    figure.update_layout(showlegend=False)
    figure = styled(figure, f"{said.estimand[0].upper()}{said.estimand[1:]}", note)
    if rows and "at" not in rows[0]:
        figure.update_layout(height=150 + 50 * len(rows))
    return figure


def _response(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return the values over a number, as a line in a band."""
    x = [row["at"] for row in rows]
    worse = [row["worse"] for row in rows]
    figure = go.Figure()
    figure.add_scatter(
        x=x + x[::-1],
        y=[row["high"] for row in rows] + [row["low"] for row in rows][::-1],
        mode="lines",
        fill="toself",
        fillcolor="rgba(0,114,178,0.18)",
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=x,
        y=[row["value"] for row in rows],
        mode="lines+markers",
        customdata=[row["n"] for row in rows],
        hovertemplate="%{x}: %{y:.4g} (n = %{customdata})<extra></extra>",
        line={"color": COLOURS[0]},
        marker={
            "size": 10,
            "symbol": ["x" if w else "circle" for w in worse],
            "color": [COLOURS[5] if w else COLOURS[0] for w in worse],
        },
    )
    return figure


def _forest(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return a line a level: its value in its interval."""
    figure = go.Figure()
    for k, row in enumerate(rows):
        figure.add_scatter(
            x=[row["value"]],
            y=[row["level"]],
            mode="markers",
            error_x={
                "array": [row["high"] - row["value"]],
                "arrayminus": [row["value"] - row["low"]],
                "symmetric": False,
                "thickness": 3,
                "color": COLOURS[k % 8],
            },
            customdata=[row["n"]],
            hovertemplate="%{y}: %{x:.4g} (n = %{customdata})<extra></extra>",
            marker={"color": COLOURS[k % 8], "size": 13, "symbol": _SYMBOLS[k % 8]},
        )
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6])
    return figure


def _geometric(x: Sequence[Any]) -> bool:
    """Say whether numbers spread over more than a decade, so that a log axis shows them better."""
    return bool(x) and all(isinstance(v, int | float) and v > 0 for v in x) and max(x) > 10 * min(x)


# ---- curves ----


def learning_curves(data: StudyData, by: str | None = None) -> go.Figure:
    """Return the best value so far of every searched trial over epochs, coloured by a level.

    A trial that ran in full ends in a filled symbol, one that was stopped in an open one.
    """
    trials = data.searched
    name = by or (data.study["factors"] or data.space.names)[0]
    levels, of = _levels(data, name, trials)
    figure = go.Figure()
    shown = set()
    for trial, full, level in zip(trials["trial"], trials["full"], of, strict=True):
        curve = data.curves[data.curves["trial"] == trial]
        if curve.empty or level not in levels:
            continue
        k = levels.index(level) % 8
        n = len(curve)
        symbol = _SYMBOLS[k] if full else f"{_SYMBOLS[k]}-open"
        figure.add_scatter(
            x=curve["epoch"],
            y=finite(curve["best"]),
            mode="lines+markers",
            name=f"{name} = {level}",
            legendgroup=level,
            showlegend=level not in shown,
            opacity=0.85 if full else 0.55,
            line={"color": COLOURS[k], "dash": DASHES[k % 6], "width": 1.6},
            marker={"size": [0] * (n - 1) + [8], "symbol": symbol, "color": COLOURS[k]},
            hovertemplate=f"trial {trial}, epoch %{{x}}: %{{y:.4g}}<extra>{level}</extra>",
        )
        shown.add(level)
    figure.update_xaxes(title="epoch", type="log", dtick=math.log10(2), tickformat="~g")
    figure.update_yaxes(title=f"best {data.study['metric']} so far")
    note = "filled ends: in full; open ends: stopped before"
    return styled(figure, "Learning curves", note)


def best_so_far(data: StudyData) -> go.Figure:
    """Return the best value of trials in full over the epochs that were spent by then.

    Beside it, where at least eight configs drawn by chance were all trained in full and others were
    chosen by a model: what random search finds, the middle 90 % of draws from them.
    """
    own = data.curves[data.curves["trial"].isin(list(data.searched["trial"]))]
    order = own.sort_values(["time", "trial", "epoch"]).reset_index(drop=True)
    spent = dict(
        zip(zip(order["trial"], order["epoch"], strict=True), order.index + 1, strict=True)
    )
    full = data.searched[data.searched["full"]]
    x = np.array([spent[t, e] for t, e in zip(full["trial"], full["epochs"], strict=True)])
    values = data.objective.loss(finite(full["value"]))
    ranks = np.argsort(x)
    best = data.objective.value(np.minimum.accumulate(values[ranks])) if len(x) else values
    figure = go.Figure()
    n_drawn = _add_random_band(figure, data, n_epochs=len(order))
    figure.add_scatter(
        x=x[ranks] if len(x) else [],
        y=data.objective.value(values[ranks]) if len(x) else [],
        mode="markers",
        name="a trial in full",
        marker={"color": _GREY, "symbol": "circle-open", "size": 8},
        customdata=full["trial"].to_numpy()[ranks] if len(x) else [],
        hovertemplate="trial %{customdata}: %{y:.4g}<extra></extra>",
    )
    figure.add_scatter(
        x=[*x[ranks], len(order)] if len(x) else [],
        y=[*best, best[-1]] if len(x) else [],
        mode="lines",
        name="the best so far",
        line={"shape": "hv", "color": COLOURS[0], "width": 2.5},
    )
    figure.update_xaxes(title="epochs spent", rangemode="tozero")
    figure.update_yaxes(title=data.study["metric"])
    figure.update_layout(showlegend=False)
    note = "circles: trials in full; line: the best so far"
    if n_drawn:
        note += f"; band: random search, 90 % of draws from {n_drawn} trials"
    return styled(figure, "Best so far", note)


def _add_random_band(figure: go.Figure, data: StudyData, n_epochs: int) -> int:
    """Draw what random search finds at equal cost; return how many trials that stands on."""
    drawn = data.searched[by_chance(data)]
    n = len(drawn)
    chosen = len(data.searched) - n > 1  # but for the default
    # Of stopped trials only the better ones are known in full: they stand for nothing.
    if n < _MIN_DRAWN or not chosen or not drawn["full"].all():
        return 0
    losses = data.objective.loss(finite(drawn["value"]))
    # Beyond half of them, draws are much the same.
    n_steps = max(1, min(n // 2, n_epochs // int(data.study["max_epochs"])))
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(losses, (_N_ORDERS, 1)), axis=1)[:, :n_steps]
    best = data.objective.value(np.minimum.accumulate(orders, axis=1))
    low, high = np.quantile(best, (0.05, 0.95), axis=0)
    x = np.cumsum(np.full(n_steps, drawn["epochs"].mean()))
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*low, *high[::-1]],
        mode="lines",
        fill="toself",
        fillcolor="rgba(118,118,118,0.22)",
        line={"width": 0},
        hoverinfo="skip",
        name="random search",
    )
    return n


def edf(data: StudyData, by: str | None = None, *, fidelity: Fidelity = "full") -> go.Figure:
    """Return the share of trials that are as good as a value, by level of a parameter.

    Args:
        data: The study.
        by: A parameter; None for the first factor.
        fidelity: As in `compared`; unequal budgets are refused.

    Raises:
        SettingError: There is no such parameter, or budgets are unequal.
    """
    trials = compared(data, fidelity)
    name = by or (data.study["factors"] or data.space.names)[0]
    levels, of = _levels(data, name, trials)
    values = finite(trials["compared"])
    figure = go.Figure()
    for k, level in enumerate(levels):
        own = np.sort(data.objective.loss(values[of == level]))
        if len(own):
            figure.add_scatter(
                x=data.objective.value(own),
                y=np.arange(1, len(own) + 1) / len(own),
                mode="lines+markers",
                name=f"{name} = {level} (n = {len(own)})",
                line={"shape": "hv", "color": COLOURS[k % 8], "dash": DASHES[k % 6]},
                marker={"symbol": _SYMBOLS[k % 8], "size": 6},
            )
    figure.update_xaxes(
        title=data.study["metric"], autorange=True if data.objective.lower_is_better else "reversed"
    )
    figure.update_yaxes(title="share of trials as good", tickformat=".0%", range=[0, 1.03])
    return styled(figure, "How often a value is reached", fidelity_text(data, fidelity, trials))


# ---- configs ----


def parallel(
    data: StudyData,
    *,
    fidelity: Fidelity = "full",
    force: bool = False,
    extrapolate: bool = False,
) -> go.Figure:
    """Return configs as lines across their parameters, coloured by value; the best one is thick.

    Args:
        data: The study.
        fidelity: As in `compared`.
        force: As in `compared`.
        extrapolate: As in `compared`.

    Raises:
        SettingError: Budgets are unequal.
    """
    trials = compared(data, fidelity, force=force, extrapolate=extrapolate)
    parameters = [p for p in data.space.parameters if p.condition is None]
    values = finite(trials["compared"])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    shares = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    figure = go.Figure()
    names = [p.name for p in parameters] + [data.study["metric"]]
    ranks = np.argsort(-data.objective.loss(values), kind="stable")  # the best one last, on top
    for k in ranks:
        trial = int(trials["trial"].iloc[k])
        flat = data.flats.get(trial, {})
        if any(p.key not in flat for p in parameters):
            continue
        good = 1 - shares[k] if data.objective.lower_is_better else shares[k]
        best = k == ranks[-1]
        figure.add_scatter(
            x=names,
            y=[*(p.to_unit(flat[p.key]) for p in parameters), float(shares[k])],
            mode="lines+markers",
            line={
                "color": COLOURS[5] if best else sample_colorscale("Cividis", float(good))[0],
                "width": 3.5 if best else 1.2,
            },
            marker={"size": 7 if best else 4},
            opacity=1.0 if best else 0.75,
            text=[*(show(flat[p.key]) for p in parameters), show(float(values[k]))],
            hovertemplate=f"trial {trial}: %{{text}}<extra></extra>",
            showlegend=False,
        )
    for place, parameter in enumerate(parameters):
        if isinstance(parameter, Categorical):
            ticks = [(parameter.to_unit(v), show(v)) for v in parameter.values()]
        else:
            ticks = [(u, show(parameter.from_unit(u))) for u in (0.0, 0.5, 0.999)]
        _ticks(figure, place, ticks)
    _ticks(figure, len(parameters), [(0.0, show(low)), (1.0, show(high))])
    figure.update_yaxes(range=[-0.06, 1.06], visible=False)
    figure.update_xaxes(
        side="top", showgrid=True, gridcolor="#aaaaaa", range=[-0.3, len(names) - 0.4]
    )
    text = f"{fidelity_text(data, fidelity, trials)}; thick: the best"
    figure = styled(figure, "All parameters", text, warn=fidelity)
    figure.update_layout(margin={"t": 100, "b": 20})
    return figure


def _ticks(figure: go.Figure, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    for u, text in ticks:
        figure.add_annotation(
            x=place,
            y=u,
            text=text,
            showarrow=False,
            xanchor="right",
            xshift=-6,
            font={"size": 10, "color": "#333333"},
            bgcolor="rgba(255,255,255,0.75)",
        )


def slices(
    data: StudyData,
    name: str,
    *,
    fidelity: Fidelity = "full",
    force: bool = False,
    extrapolate: bool = False,
) -> go.Figure:
    """Return values over one parameter, a point a trial.

    Args:
        data: The study.
        name: The parameter.
        fidelity: As in `compared`.
        force: As in `compared`.
        extrapolate: As in `compared`.

    Raises:
        SettingError: There is no such parameter, or budgets are unequal.
    """
    trials = compared(data, fidelity, force=force, extrapolate=extrapolate)
    _levels(data, name, trials)
    column = trials[f"config.{name}"]
    figure = go.Figure()
    figure.add_scatter(
        x=column.astype(object).where(column.notna(), None),
        y=finite(trials["compared"]),
        mode="markers",
        customdata=trials["trial"],
        hovertemplate="trial %{customdata}: %{y:.4g}<extra></extra>",
        marker={"color": COLOURS[0], "size": 9, "opacity": 0.75},
    )
    if extrapolate:
        far = trials["extrapolated"].to_numpy(dtype=bool)
        values = finite(trials["compared"])
        figure.update_traces(
            marker_symbol=np.where(far, "circle-open", "circle"),
            error_y={
                "array": np.where(far, finite(trials["high"]) - values, 0),
                "arrayminus": np.where(far, values - finite(trials["low"]), 0),
                "symmetric": False,
                "thickness": 1,
                "color": _GREY,
            },
        )
    if name in data.study.get("log_parameters", ()):
        figure.update_xaxes(type="log")
    figure.update_xaxes(title=name)
    figure.update_yaxes(title=data.study["metric"])
    text = fidelity_text(data, fidelity, trials)
    return styled(figure, f"{data.study['metric']} over {name}", text, warn=fidelity)


def importance(found: Importance) -> go.Figure:
    """Return the share of the variance of each parameter, with the range of the bootstrap."""
    names = list(found.share)[::-1]
    share = np.array([found.share[name] for name in names])
    figure = go.Figure(
        go.Bar(
            x=share,
            y=names,
            orientation="h",
            marker={"color": COLOURS[0]},
            error_x={
                "array": [found.high[n] - found.share[n] for n in names],
                "arrayminus": [found.share[n] - found.low[n] for n in names],
                "symmetric": False,
                "color": "#333333",
            },
        )
    )
    figure.update_xaxes(title="share of the variance", tickformat=".0%", rangemode="tozero")
    note = f"{found.n_trials} trials at epoch {found.epoch}; 90 % of resamples"
    return styled(figure, "What matters", note)


# ---- the search ----


def epochs_by_rung(data: StudyData) -> go.Figure:
    """Return the epochs that were spent between rungs, and how many trials reached each."""
    rungs = data.rungs
    epochs = data.searched["epochs"].to_numpy()
    labels, spent, reached = [], [], []
    for low, high in zip([0, *rungs], rungs, strict=False):
        labels.append(f"{low + 1} to {high}" if high > low + 1 else f"{high}")
        spent.append(int(np.clip(epochs - low, 0, high - low).sum()))
        reached.append(int((epochs > low).sum()))
    figure = go.Figure(
        go.Bar(
            x=labels,
            y=spent,
            text=[f"{n} trials" for n in reached],
            marker={"color": COLOURS[0]},
        )
    )
    figure.update_xaxes(type="category", title="epochs")
    figure.update_yaxes(title="epochs spent")
    return styled(figure, "Where the epochs went", "labels: trials that got into the stretch")


def timeline(data: StudyData) -> go.Figure:
    """Return what ran when: a bar a job, in as many lanes as ran at once.

    Raises:
        SettingError: The jobs are not known: MLflow does not hold them.
    """
    if data.jobs is None:
        raise SettingError("The timeline needs the journal: MLflow does not hold the jobs.")
    jobs = data.jobs.sort_values("started")
    figure = go.Figure()
    if len(jobs):
        zero = jobs["started"].min()
        starts = (jobs["started"] - zero).dt.total_seconds().to_numpy()
        ends = (jobs["ended"] - zero).dt.total_seconds().to_numpy()
        lanes: list[float] = []
        places = []
        for start, end in zip(starts, ends, strict=True):
            free = next((k for k, until in enumerate(lanes) if until <= start), len(lanes))
            lanes[free : free + 1] = [end]
            places.append(f"{free + 1}")
        colours = dict(zip(sorted(set(jobs["trial"])), cycle(COLOURS), strict=False))
        figure.add_bar(
            x=ends - starts,
            base=starts,
            y=places,
            orientation="h",
            marker={
                "color": [colours[t] for t in jobs["trial"]],
                "line": {"color": "white", "width": 1},
            },
            customdata=jobs[["trial", "from_epoch", "to_epoch"]],
            hovertemplate=(
                "trial %{customdata[0]}, epochs %{customdata[1]} to %{customdata[2]}<extra></extra>"
            ),
        )
    figure.update_xaxes(title="seconds")
    figure.update_yaxes(title="at a time", type="category", categoryorder="category ascending")
    figure.update_layout(showlegend=False)
    return styled(figure, "Who worked when", f"{len(jobs)} jobs; a colour a trial")


# ---- shared ----


def _levels(
    data: StudyData, name: str, trials: pd.DataFrame
) -> tuple[list[str], np.ndarray[Any, np.dtype[np.object_]]]:
    """Return a parameter's levels as text, and that of each trial; numbers are cut into bins."""
    if name not in data.space.names:
        raise SettingError(
            f"'{name}' is no parameter of the study.{choices(name, data.space.names)}"
        )
    column = trials[f"config.{name}"]
    parameter = next(p for p in data.space.parameters if p.name == name)
    n_values = parameter.n_values
    if isinstance(parameter, Categorical) or (n_values is not None and n_values <= _MAX_LEVELS):
        spelled = spelling(data.space, name) if _is_text(column) else {}
        levels = [spelled.get(identity(v)) or show(v) for v in parameter.values()]
        of = ["" if missing else show(v) for v, missing in zip(column, column.isna(), strict=True)]
        return levels, np.array(of, dtype=object)
    assert isinstance(parameter, Number)
    edges = [parameter.from_unit(k / _N_BINS) for k in range(_N_BINS)] + [parameter.high]
    levels = [f"{show(a)} to {show(b)}" for a, b in pairwise(edges)]
    places = [
        levels[min(int(parameter.to_unit(v) * _N_BINS), _N_BINS - 1)] if not math.isnan(v) else ""
        for v in finite(column)
    ]
    return levels, np.array(places, dtype=object)


def _is_text(column: "pd.Series[Any]") -> bool:
    return not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


def show(value: Any) -> str:
    """Return a value to read."""
    return f"{float(value):.3g}" if isinstance(value, float | np.floating) else str(value)


def styled(figure: go.Figure, title: str, note: str, *, warn: Fidelity = "full") -> go.Figure:
    """Return a figure in the style of all of them, with a title and a note below it."""
    colour = COLOURS[5] if warn == "last" else _GREY
    figure.update_layout(
        template="plotly_white",
        title={
            "text": f"{title}<br><span style='font-size:0.75em;color:{colour}'>{note}</span>",
            "x": 0.0,
            "xanchor": "left",
            "xref": "paper",
            "font": {"size": 16},
        },
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#222222"},
        height=380,
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom"},
    )
    named = {
        trace.name for trace in figure.data if getattr(trace, "showlegend", None) is not False
    } - {None}
    legend = figure.layout.showlegend is not False and len(named) > 1
    figure.update_layout(margin={"l": 60, "r": 20, "t": 70, "b": 85 if legend else 50})
    return figure
