"""The report of a study: one HTML file that works offline, and the same as Markdown and JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from hypertune.analysis import figures
from hypertune.analysis.diagnoses import diagnoses
from hypertune.analysis.frames import StudyData, load, value_at
from hypertune.analysis.predictions import TestSetReport, read_predictions
from hypertune.analysis.summary import Score, Summary, summarize
from hypertune.analysis.verdict import Verdict, judge
from hypertune.core.errors import SettingError
from hypertune.core.text import markdown, printable, storable
from hypertune.journal.store import flat_names

_TEMPLATES = Path(__file__).parent / "templates"
_MIN_FOR_EDF = 10
_SHOWN_AFTER = ("role", "reason", "epochs", "value", "best_epoch", "cost_s", "seed", "detail")


def write_report(folder: Path) -> Path:
    """Write ``report/report.html``, ``.md`` and ``.json`` into a study's folder.

    Args:
        folder: The study's folder.

    Returns:
        The HTML file.

    Raises:
        JournalError: There is no readable journal, or it holds no study.
        SettingError: The folder cannot be written to.
    """
    data, summary = load(folder), summarize(folder)
    verdict = judge(data)
    tested = read_predictions(folder)
    content = _content(data, summary, verdict) | {"tested": _tested(tested)}
    inside = diagnoses(folder, None if summary.best is None else summary.best.id)
    content["inside"] = inside
    drawn = _figures(data, verdict)
    for k, figure in enumerate(() if inside is None else inside.figures):
        drawn[f"inside-{k}"] = figure.update_layout(height=360)
    for test_set in tested:
        for k, figure in enumerate(test_set.figures):
            drawn[f"predictions-{test_set.part}-{k}"] = figure.update_layout(height=360)
    target = folder / "report"
    try:
        target.mkdir(exist_ok=True)
        page = target / "report.html"
        _write(page, _html(content, drawn))
        markdown = (
            environment(html=False).get_template("report.md.j2").render(r=content, code=_code)
        )
        _write(target / "report.md", markdown)
        record = {
            "study": dict(data.study),
            "verdict": verdict.to_dict(),
            "best": None if summary.best is None else asdict(summary.best),
            "scores": [asdict(score) for score in summary.scores],
            "inside": None if inside is None else inside.record,
            "tested": {test_set.part: test_set.record for test_set in tested},
            "reasons": dict(summary.reasons),
            "n_epochs": summary.n_epochs,
            "seconds": summary.seconds,
        }
        text = json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False)
        _write(target / "report.json", text)
    except OSError as problem:
        raise SettingError(f"The report cannot be written: {problem}.") from problem
    return page


def _write(path: Path, text: str) -> None:
    """Write a file; on a full disk there is none, or the one before."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(storable(text), encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_headline(folder: Path) -> str | None:
    """Return the verdict in brief, as the report of a study has it; None if there is none."""
    try:
        record = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
        return str(record["verdict"]["headline"])
    except (OSError, ValueError, KeyError):
        return None


def environment(*, html: bool) -> jinja2.Environment:
    """Return what renders the templates: as HTML, in which texts are escaped, or as Markdown."""
    escape = printable if html else markdown

    def shown(value: Any) -> Any:
        """Return a text from outside as a page shows it; what is of a page itself is no `str`."""
        return escape(value) if type(value) is str else value

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=html,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )


def _code(text: str) -> markupsafe.Markup:
    """Return a text for a block of code in Markdown, where nothing is escaped."""
    return markupsafe.Markup(" ".join(printable(text).split("\n")))


def _html(content: dict[str, Any], drawn: dict[str, go.Figure]) -> str:
    def figure(key: str) -> str:
        if key not in drawn:
            return ""
        html = drawn[key].to_html(
            full_html=False,
            include_plotlyjs=False,
            default_width="100%",
            div_id=f"figure-{key}",
            config={"displaylogo": False, "responsive": True, "displayModeBar": False},
        )

        return markupsafe.Markup(f'<div class="figure">{html}</div>')  # plotly escapes its data

    template = environment(html=True).get_template("report.html.j2")
    script = get_plotlyjs() if drawn else ""
    return template.render(r=content, figure=figure, figures=bool(drawn), plotly_js=script)


def _figures(data: StudyData, verdict: Verdict) -> dict[str, go.Figure]:
    """Return what there is to show; what the study has too little for is left out."""
    drawn: dict[str, go.Figure] = {}
    shown = [(f.name, s) for f in verdict.factors for s in f.statements if s.levels]
    shown.sort(key=lambda pair: pair[1].outcome not in ("better", "equal"))  # what is decided first
    for k, (name, said) in enumerate(shown):
        drawn["main" if k == 0 else f"statement-{k}"] = figures.statement(data, name, said)
    factors = [name for name in data.study["factors"] if name in data.space.names]
    if len(data.curves) and data.searched["value"].notna().any():
        drawn["curves" if "main" in drawn else "main"] = figures.learning_curves(data)
        drawn["rungs"] = figures.epochs_by_rung(data)
    n_full = int(data.searched["full"].sum())
    if n_full:
        drawn["best_so_far"] = figures.best_so_far(data)
    if n_full >= 3:
        drawn["parallel"] = figures.parallel(data)
    if n_full >= _MIN_FOR_EDF:
        drawn["edf"] = figures.edf(data)
    if len(factors) > 1 and data.searched["value"].notna().any():
        drawn["heatmap"] = figures.heatmap(
            data, factors[1], factors[0], fidelity=_common_epoch(data)
        )
    if verdict.importance is not None:
        drawn["importance"] = figures.importance(verdict.importance)
    if data.jobs is not None and len(data.jobs):
        drawn["timeline"] = figures.timeline(data)
    for key in ("curves", "heatmap", "best_so_far", "importance", "rungs", "timeline", "edf"):
        if key in drawn:
            drawn[key].update_layout(height=360)
    return drawn


def _common_epoch(data: StudyData) -> figures.Fidelity:
    """Return the furthest epoch that half of the trials got to, or else the first."""
    half = len(data.searched) / 2
    if data.searched["full"].sum() >= half:
        return "full"
    reached = sorted(set(data.searched["epochs"]) - {0}, reverse=True)
    epochs = [
        int(e) for e in reached if value_at(data, int(e))[data.searched.index].count() >= half
    ]
    return epochs[0] if epochs else 1


def _content(data: StudyData, summary: Summary, verdict: Verdict) -> dict[str, Any]:
    study = data.study
    ended = data.trials["ended"].dropna()
    environment = dict(study.get("environment", {}))
    command = environment.pop("command", None)
    statements = [s for factor in verdict.factors for s in factor.statements]
    if verdict.interaction is not None:
        statements.append(verdict.interaction)
    return {
        "name": study["name"],
        "question": verdict.question,
        "hypothesis": study.get("hypothesis"),
        "headline": [factor.sentence for factor in verdict.factors],
        "found": _found(data, summary),
        "scope": verdict.scope,
        "data": study.get("data") or "",
        "metric": study["metric"],
        "test_metric": study["test_metric"],
        "further": list(study.get("further_test_metrics", {}).values()),
        "direction": data.objective.direction,
        "date": ended.max().strftime("%Y-%m-%d %H:%M UTC") if len(ended) else "",
        "best": _best(data, summary),
        "scores": [_score(score, study) for score in summary.scores],
        "n_looks": summary.n_looks,
        "worth": [*verdict.worth, *summary.on_further],
        "said": [s for s in statements if s.outcome != "none"],
        "unsaid": [" ".join(s.sentences) for s in statements if s.outcome == "none"],
        "extra": [f"statement-{k}" for k in range(1, 20)],
        "search": verdict.search,
        "importance": None if verdict.importance is None else verdict.importance.sentence,
        "following": verdict.following,
        **_table(data),
        "command": None if command is None else str(command),
        "facts": _facts(study, environment, summary),
    }


def _best(data: StudyData, summary: Summary) -> dict[str, Any] | None:
    if summary.best is None:
        return None
    default, fixed = flat_names(data.study["default"]), data.study.get("fixed", {})
    config = flat_names({k: v for k, v in summary.best.config.items() if k not in fixed})
    return {
        "trial": summary.best.id,
        "full": summary.full,
        "rows": [
            {"name": name, "best": _show(config.get(name)), "default": _show(default.get(name))}
            for name in dict.fromkeys([*config, *default])
        ],
    }


def _tested(tested: list[TestSetReport]) -> list[dict[str, Any]]:
    return [
        {
            "title": "The test part"
            if test_set.part == "test"
            else f"The test set '{test_set.part}'",
            "sentences": test_set.sentences,
            "figures": [f"predictions-{test_set.part}-{k}" for k in range(len(test_set.figures))],
            "columns": test_set.columns,
            "rows": test_set.rows,
        }
        for test_set in tested
    ]


def _found(data: StudyData, summary: Summary) -> str | None:
    """Say what the best configuration is, and beside what its value is to be seen."""
    best = _best(data, summary)
    if best is None or not summary.scores:
        return None
    config = ", ".join(f"{row['name']}={row['best']}" for row in best["rows"])
    first, *others = summary.scores
    values = ", ".join(f"{s.label} {_validation(s)}" for s in others)
    beside = f"; beside it: {values}" if values else ""
    by = (
        f"chosen by its mean over {first.n_fresh} fresh seeds"
        if first.fresh is not None
        else "of one seed, chosen for this value"
    )
    return (
        f"The recommended configuration: {config} ({data.study['metric']} on validation "
        f"{_validation(first)}, {by}{beside})."
    )


def _validation(score: Score) -> str:
    return f"{score.validation if score.fresh is None else score.fresh:.4g}"


def _score(score: Score, study: Mapping[str, Any]) -> dict[str, Any]:
    test = "not opened" if score.failure is None else f"failed: {score.failure}"
    return {
        "label": score.label,
        "trial": score.trial,
        "epoch": score.epoch,
        "validation": f"{score.validation:.4f}",
        "fresh": "" if score.fresh is None else f"{score.fresh:.4f} ({score.n_fresh})",
        "test": test if score.test is None else f"{score.test:.4f}",
        "further": [
            f"{score.further[name]:.4f}" if name in score.further else ""
            for name in study.get("further_test_metrics", {})
        ],
    }


def _table(data: StudyData) -> dict[str, Any]:
    names = ["trial", *data.columns, *_SHOWN_AFTER]
    titles = {"value": data.study["metric"], "cost_s": "seconds", "best_epoch": "best epoch"}
    columns = [
        {
            "title": titles.get(name, name.removeprefix("config.")),
            "number": pd.api.types.is_numeric_dtype(data.trials[name].dtype),
        }
        for name in names
    ]
    rows = []
    for values in data.trials[names].astype(object).itertuples(index=False):
        cells = []
        for value, column in zip(values, columns, strict=True):
            missing = value is None or value is pd.NA or value != value
            text = "" if missing else _show(value)
            key = "" if missing else str(value)
            cells.append({"text": text, "key": key, "number": column["number"]})
        rows.append(cells)
    return {"columns": columns, "rows": rows}


def _facts(study: Any, environment: dict[str, Any], summary: Summary) -> list[tuple[str, str]]:
    fixed = ", ".join(f"{k}={_show(v)}" for k, v in flat_names(study.get("fixed", {})).items())
    facts: dict[str, Any] = {
        "study file": study.get("source"),
        "method": study.get("method"),
        "seed": study.get("seed"),
        "budget": f"{study.get('n_trials')} trials of up to {study['max_epochs']} epochs; "
        f"{summary.n_epochs} epochs and {summary.seconds:.0f} s were spent",
        "fixed": fixed or None,
        **{key: value for key, value in environment.items() if key != "versions"},
        "versions": ", ".join(f"{k} {v}" for k, v in environment.get("versions", {}).items()),
    }
    return [(key, str(value)) for key, value in facts.items() if value not in (None, "")]


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _plain(value: Any) -> Any:
    """Return what JSON can hold: numbers that are not finite are null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
