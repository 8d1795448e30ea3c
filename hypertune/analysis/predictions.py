"""What the winner gets right and wrong: its predictions of the test sets, in words and pictures.

They were kept when the test part was opened (``predictions/trial-<k>.npz`` in the study's folder),
so that looking at them again is no second opening.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from hypertune.analysis.figures import COLOURS, styled
from hypertune.analysis.words import show
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import predictions_file

_N_NAMED = 20  # classes whose counts fit into a matrix
_N_SHOWN = 6  # worst errors in a row of pictures
_N_POINTS = 3000
_GREY = "#767676"

Arrays = Mapping[str, NDArray[Any]]
# What studies of earlier versions call them.
_NAMES = {"told": "predicted", "certainty": "p_predicted", "chance": "p_true"}


@dataclass(frozen=True, kw_only=True)
class TestSetReport:
    """The recommended model's predictions on a test set, as the report shows them.

    Attributes:
        part: ``test``, or the name of a further test set.
        sentences: What stands out.
        figures: Pictures of it.
        columns, rows: A table of the worst errors; none of a forecast.
        record: The same for JSON.
    """

    part: str
    sentences: Sequence[str]
    figures: Sequence[go.Figure]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    record: Mapping[str, Any]


def read_predictions(folder: Path) -> list[TestSetReport]:
    """Return the predictions of the model that the test part was opened for; empty without any.

    Args:
        folder: The study's folder.

    Raises:
        JournalError: There is no readable journal.
    """
    tests = [
        event
        for event in StudyHistory.read(folder).events_of("test")
        if event.data.get("label") == "best" and "metrics" in event.data
    ]
    if not tests or tests[-1].trial is None:
        return []
    file = predictions_file(folder, tests[-1].trial)
    if not file.is_file():
        return []  # of a model of the user's own, or of an earlier version
    with np.load(file, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    parts = list(dict.fromkeys(name.rpartition("/")[0] for name in arrays))
    found = []
    for part in parts:
        own = {
            _NAMES.get(name.rpartition("/")[2], name.rpartition("/")[2]): array
            for name, array in arrays.items()
            if name.rpartition("/")[0] == part
        }
        describe = _series if "origins" in own else _classes if "classes" in own else _numbers
        found.append(describe(part, own))
    return found


def _name(part: str) -> str:
    return "the test part" if part == "test" else f"the test set '{part}'"


# ---- classes ----


def _classes(part: str, found: Arrays) -> TestSetReport:
    names = [str(name) for name in found["classes"]]
    n_classes = len(names)
    pairs = found["truth"].astype(int) * n_classes + found["predicted"]
    confusion = np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
    right = found["truth"] == found["predicted"]
    n_each = confusion.sum(axis=1)
    sentences = [
        f"Of {len(right)} samples of {_name(part)} {int(right.sum())} are predicted correctly "
        f"({show(float(right.mean()))})."
    ]
    if not right.all():
        wrong = confusion - np.diag(confusion.diagonal())
        a, b = np.unravel_index(wrong.argmax(), wrong.shape)
        sentences.append(
            f"Most often '{names[a]}' is taken for '{names[b]}': {wrong[a, b]} of {n_each[a]}."
        )
        share = np.where(n_each > 0, confusion.diagonal() / np.maximum(n_each, 1), 1.0)
        worst = int(share.argmin())
        sentences.append(
            f"Least often predicted correctly is '{names[worst]}': {confusion[worst, worst]} of "
            f"{n_each[worst]}."
        )
        if "p_predicted" in found:
            wrong_p, right_p = (
                found["p_predicted"][~right].mean(),
                found["p_predicted"][right].mean(),
            )
            sentences.append(
                f"Where it is wrong it gives its class a probability of {show(float(wrong_p))} on "
                f"average, where it is right {show(float(right_p))}."
            )
    rows = [
        {
            "row": int(found["rows"][i]),
            "truth": names[found["truth"][i]],
            "predicted": names[found["predicted"][i]],
            **{name: float(found[name][i]) for name in ("p_predicted", "p_true") if name in found},
        }
        for i in found["worst"]
    ]
    drawn = [_confusion(part, names, confusion)]
    if rows and "worst_x" in found and found["worst_x"].ndim > 2:
        drawn.append(_worst(part, found["worst_x"], rows))
    return TestSetReport(
        part=part,
        sentences=sentences,
        figures=drawn,
        columns=[
            "row of the data",
            "true",
            "predicted",
            *(
                ["p of the predicted class", "p of the true class"]
                if "p_predicted" in found
                else []
            ),
        ],
        rows=[[show(value) for value in row.values()] for row in rows],
        record={
            "n": len(right),
            "n_right": int(right.sum()),
            "classes": names,
            "confusion": confusion.tolist(),
            "worst": rows,
        },
    )


def _confusion(part: str, names: list[str], confusion: NDArray[np.int64]) -> go.Figure:
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    few = len(names) <= _N_NAMED
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=names,
            y=names,
            text=np.where(confusion > 0, confusion.astype(str), "") if few else None,
            customdata=confusion,
            texttemplate="%{text}" if few else None,
            colorscale="Blues",
            zmin=0,
            zmax=1,
            colorbar={"title": {"text": "share of the true class", "side": "right"}},
            hovertemplate="true %{y}, predicted %{x}: %{customdata}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(type="category", title="predicted")
    figure.update_yaxes(type="category", title="true", autorange="reversed")
    return styled(figure, "What is taken for what", f"{confusion.sum()} samples of {_name(part)}")


def _worst(part: str, x: NDArray[Any], rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Draw the samples that the model was most wrong about: images, or sequences by channel."""
    n = min(_N_SHOWN * 2, len(x))
    n_columns = min(_N_SHOWN, n)
    titles = [f"{row['truth']}, predicted {row['predicted']}" for row in rows[:n]]
    figure = make_subplots(
        rows=-(-n // n_columns),
        cols=n_columns,
        subplot_titles=titles,
        horizontal_spacing=0.02,
        vertical_spacing=0.16,
    )
    for k in range(n):
        at = {"row": k // n_columns + 1, "col": k % n_columns + 1}
        for trace in _sample(x[k]):
            figure.add_trace(trace, **at)
        if x.ndim == 4:
            figure.update_yaxes(autorange="reversed", scaleanchor=f"x{k + 1 if k else ''}", **at)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_annotations(font_size=11)
    figure.update_layout(showlegend=False)
    styled(figure, "Worst errors", f"least probability of the true class, {_name(part)}")
    return figure.update_layout(margin_t=95)  # the samples have titles too


def _sample(x: NDArray[Any]) -> list[Any]:
    if x.ndim == 2:  # (time, channel)
        return [
            go.Scatter(y=channel, mode="lines", line={"width": 1}, hoverinfo="skip")
            for channel in x.T
        ]
    if len(x) == 3:
        span = float(x.max() - x.min()) or 1.0
        colours = ((x - x.min()) / span * 255).astype(np.uint8)
        return [go.Image(z=colours.transpose(1, 2, 0), hoverinfo="skip")]
    return [go.Heatmap(z=x[0], colorscale="Greys", showscale=False, hoverinfo="skip")]


# ---- numbers ----


def _numbers(part: str, found: Arrays) -> TestSetReport:
    truth, predicted = found["truth"].astype(float), found["predicted"].astype(float)
    error = predicted - truth
    worst = np.argsort(-np.abs(error), kind="stable")[:12]
    sentences = [
        f"On {len(truth)} samples of {_name(part)} it is off by {show(np.abs(error).mean())} on "
        f"average, and by {show(float(np.abs(error[worst[0]])))} at worst (row "
        f"{int(found['rows'][worst[0]])}: {show(predicted[worst[0]])} for "
        f"{show(truth[worst[0]])}).",
        f"On average it predicts {show(float(np.abs(error.mean())))} too "
        f"{'much' if error.mean() > 0 else 'little'}.",
    ]
    low, high = truth <= np.quantile(truth, 0.25), truth >= np.quantile(truth, 0.75)
    sentences.append(
        f"Of the lowest quarter it predicts {_more(float(error[low].mean()))}, of the highest "
        f"{_more(float(error[high].mean()))}."
    )
    rows = [
        {
            "row": int(found["rows"][i]),
            "truth": truth[i],
            "predicted": predicted[i],
            "error": error[i],
        }
        for i in worst
    ]
    shown = slice(None, None, max(1, len(truth) // _N_POINTS))
    ends = [float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))]
    figure = go.Figure(
        [
            go.Scatter(
                x=ends,
                y=ends,
                mode="lines",
                line={"color": _GREY, "dash": "dot"},
                name="predicted = true",
            ),
            go.Scatter(
                x=truth[shown],
                y=predicted[shown],
                mode="markers",
                marker={"color": COLOURS[0], "size": 6, "opacity": 0.6},
                customdata=found["rows"][shown],
                hovertemplate="row %{customdata}: %{y:.4g} for %{x:.4g}<extra></extra>",
                name="a sample",
            ),
        ]
    )
    figure.update_xaxes(title="true")
    figure.update_yaxes(title="predicted")
    return TestSetReport(
        part=part,
        sentences=sentences,
        figures=[styled(figure, "Predictions and truth", f"Samples of {_name(part)}")],
        columns=["row of the data", "true", "predicted", "error"],
        rows=[[show(value) for value in row.values()] for row in rows],
        record={"n": len(truth), "bias": float(error.mean()), "worst": rows},
    )


def _more(error: float) -> str:
    return f"{show(abs(error))} too {'much' if error > 0 else 'little'}"


# ---- series ----


def _series(part: str, found: Arrays) -> TestSetReport:
    values, origins, forecast = found["values"].astype(float), found["origins"], found["predicted"]
    first, horizon = int(found["first"]), forecast.shape[1]
    truth = values[origins[:, None] + np.arange(1, horizon + 1)]  # (origin, horizon)
    error = np.abs(forecast - truth).mean(axis=0)  # (horizon,)
    naive = np.abs(values[origins][:, None] - truth).mean(axis=0)
    steps = np.arange(1, horizon + 1)
    won = error < naive
    sentences = [
        f"One step ahead the forecasts of {_name(part)} are off by {show(float(error[0]))} on "
        f"average (the last value, carried on: {show(float(naive[0]))})"
        + (
            f", {horizon} steps ahead by {show(float(error[-1]))} ({show(float(naive[-1]))})."
            if horizon > 1
            else "."
        ),
    ]
    if won.all() or not won.any():
        sentences.append(
            "They are better than carrying the last value on at "
            f"{'every step' if won.all() else 'no step'}."
        )
    else:
        worse = ", ".join(str(step) for step in steps[~won][:10])
        sentences.append(f"They are no better than carrying the last value on at step {worse}.")
    of_origin = np.abs(forecast - truth).mean(axis=1)
    worst = int(of_origin.argmax())
    place = first + int(origins[worst]) + 1
    sentences.append(
        f"The worst forecast is that from step {place} of the series on: off by "
        f"{show(float(of_origin[worst]))} on average, against {show(float(of_origin.mean()))} of "
        "all."
    )
    ahead = dict.fromkeys((1, horizon))
    return TestSetReport(
        part=part,
        sentences=sentences,
        figures=[
            _forecasts(part, values, first, origins, forecast, list(ahead)),
            _by_step(part, steps, error, naive),
        ],
        columns=[],
        rows=[],
        record={
            "n": len(origins),
            "mae_by_step": error.tolist(),
            "naive_mae_by_step": naive.tolist(),
            "worst_from_step": place,
        },
    )


def _forecasts(
    part: str,
    values: NDArray[Any],
    first: int,
    origins: NDArray[Any],
    forecast: NDArray[Any],
    ahead: Sequence[int],
) -> go.Figure:
    figure = go.Figure(
        go.Scatter(
            x=first + np.arange(len(values)),
            y=values,
            mode="lines",
            line={"color": "#222222", "width": 1.5},
            name="true",
        )
    )
    for colour, step in zip(COLOURS, ahead, strict=False):
        figure.add_trace(
            go.Scatter(
                x=first + origins + step,
                y=forecast[:, step - 1],
                mode="lines",
                line={"color": colour, "width": 1.2, "dash": "solid" if step == 1 else "dot"},
                name=f"forecast {step} step{'s' if step > 1 else ''} before",
            )
        )
    figure.update_xaxes(title="step of the series")
    return styled(figure, "Forecasts and truth", f"{len(origins)} forecasts of {_name(part)}")


def _by_step(part: str, steps: NDArray[Any], error: NDArray[Any], naive: NDArray[Any]) -> go.Figure:
    figure = go.Figure(
        [
            go.Scatter(
                x=steps,
                y=naive,
                mode="lines+markers",
                line={"color": _GREY, "dash": "dot"},
                name="the last value, carried on",
            ),
            go.Scatter(
                x=steps,
                y=error,
                mode="lines+markers",
                line={"color": COLOURS[0]},
                name="the best configuration",
            ),
        ]
    )
    figure.update_xaxes(title="steps ahead")
    figure.update_yaxes(title="mean absolute error", rangemode="tozero")
    return styled(figure, "How the error grows with the horizon", f"On {_name(part)}")
