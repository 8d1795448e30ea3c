"""What the looks inside of the networks found (``--diagnose``), over all trials of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from hypertune.analysis.figures import COLOURS, DASHES, styled
from hypertune.journal.history import StudyHistory

_N_TRIALS = 8  # named in a sentence


@dataclass(frozen=True, kw_only=True)
class Diagnoses:
    """What was found inside of the networks.

    Attributes:
        sentences: What is wrong with which trials at their last epochs; or that nothing is.
        figures: Gradients and changes of the weights, by layer and epoch, of one trial.
        columns, rows: Its layers at its last epoch.
        record: The findings by trial, for JSON.
    """

    sentences: Sequence[str]
    figures: Sequence[go.Figure]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    record: Mapping[str, Any]


def diagnoses(folder: Path, best: int | None) -> Diagnoses | None:
    """Return what was found; None if no trial was looked into.

    Args:
        folder: The study's folder.
        best: The trial that is shown by layer.

    Raises:
        JournalError: There is no readable journal.
    """
    looks: dict[int, dict[int, Mapping[str, Any]]] = {}
    for event in StudyHistory.read(folder).events_of("diagnosis"):
        if event.trial is not None:
            looks.setdefault(event.trial, {})[event.data["epoch"]] = event.data
    if not looks:
        return None
    found: dict[int, Sequence[str]] = {t: of[max(of)]["findings"] for t, of in looks.items()}
    shown = best if best in looks else min(looks)
    of_shown = {e: look for e, look in looks[shown].items() if look["layers"]}
    last = of_shown[max(of_shown)]["layers"] if of_shown else []
    return Diagnoses(
        sentences=_sentences(found),
        figures=_drawn(shown, of_shown) if last else [],
        columns=[
            "layer", "kind", "outputs (rms)", "zero outputs", "gradient (rms)", "weights (rms)",
            "zero weights", "change in an epoch", "dead units",
        ],
        rows=[[_cell(key, layer) for key in _KEYS] for layer in last],
        record={
            "findings": {str(trial): list(texts) for trial, texts in found.items()},
            "trial": shown,
            "layers": last,
        },
    )  # fmt: skip


_KEYS = (
    "name", "kind", "output_rms", "zero_outputs", "gradient_rms", "weight_rms", "zero_weights",
    "change", "dead_units",
)  # fmt: skip
_SHARES = ("zero_outputs", "zero_weights", "change", "dead_units")


def _cell(key: str, layer: Mapping[str, Any]) -> str:
    value = layer[key]
    if key == "gradient_rms" and layer["frozen"]:
        return "frozen"
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.1%}" if key in _SHARES else f"{value:.3g}"


def _sentences(found: Mapping[int, Sequence[str]]) -> list[str]:
    """Say each kind of finding once, with the trials that have it and the words of one of them."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for trial, texts in found.items():
        for text in texts:
            kinds.setdefault(text.partition(":")[0], []).append((trial, text))
    sentences = []
    for kind, pairs in sorted(kinds.items(), key=lambda pair: -len({t for t, _ in pair[1]})):
        trials = list(dict.fromkeys(trial for trial, _ in pairs))
        names = ", ".join(str(trial) for trial in trials[:_N_TRIALS])
        more = f" and {len(trials) - _N_TRIALS} more" if len(trials) > _N_TRIALS else ""
        trial, text = pairs[-1]
        said = text.partition(": ")[2]
        sentences.append(
            f"{kind[:1].upper()}{kind[1:]}, in {len(trials)} of {len(found)} trials ({names}{more})"
            + (f". Trial {trial}: {said}." if said else ".")
        )
    well = sum(not texts for texts in found.values())
    if well:
        sentences.append(f"Nothing is wrong inside of {well} of {len(found)} trials.")
    return sentences


def _drawn(trial: int, looks: Mapping[int, Mapping[str, Any]]) -> list[go.Figure]:
    epochs = sorted(looks)
    layers = [layer["name"] for layer in looks[epochs[-1]]["layers"]]
    figures = []
    for key, title, axis in (
        ("gradient_rms", "Gradients by layer", "root mean square of the gradient"),
        ("change", "How much the weights change by layer", "change in an epoch, relative"),
    ):
        figure = go.Figure()
        for k, name in enumerate(layers):
            values = [
                next((layer[key] for layer in looks[e]["layers"] if layer["name"] == name), None)
                for e in epochs
            ]
            figure.add_trace(
                go.Scatter(
                    x=epochs,
                    y=values,
                    mode="lines+markers",
                    name=name,
                    line={
                        "color": COLOURS[k % len(COLOURS)],
                        "dash": DASHES[k // len(COLOURS) % len(DASHES)],
                    },
                )
            )
        figure.update_xaxes(title="epoch")
        figure.update_yaxes(title=axis, type="log", exponentformat="power")
        figures.append(styled(figure, title, f"trial {trial}"))
    return figures
