"""What MLflow is to hold of a study, made from the journal alone.

======================  ============================================================================
in MLflow               from the journal
======================  ============================================================================
experiment              the space, by its name
parent run              the study: settings as params; question, budget and verdict as description;
                        the data set as input; ``n_trials_ended`` and ``best_so_far`` (of the
                        metric, by trials in full) at every end of a searched trial, counted by the
                        step; at the end tag ``hypertune.champion``, the recommended trial, and
                        ``champion``, the mean of its config on fresh seeds; as artifacts the
                        report, the config of each trial (``trials.json``) and, where the code had
                        uncommitted changes, these (``code/``)
child run               a trial, once it has started: config as params (``log10/<name>`` too for
                        parameters on a log scale), every finite metric at step = epoch; once it has
                        ended, at step 0, ``best`` (of the metric), ``best_epoch``, ``n_epochs``
                        (that it got to), ``cost_s`` (seconds of its jobs), what it reached on the
                        test part (``test/<metric>``) and, if it is complete or converged, ``final``
keys                    ``hypertune/`` stands before all of these but the config and the metrics of
                        epochs, which have keys of their own: `hypertune.tracking.mlflow.keys`
status of a child run   FINISHED (complete, converged), KILLED (stopped, interrupted) or FAILED
                        (failed, lost); tags ``hypertune.state`` and ``hypertune.reason`` say which
``hypertune.json.<k>``  tags: JSON to read it all back, types and all, in parts of 4000 characters
                        (none above 100,000): of the parent run the table ``study``, of a child run
                        its config, label, origin and why, first line of its detail, mutations, what
                        it reached on the test part, and the names of the params whose keys are
                        others
registered model        the space, by its name; a version for the best model of a study that has
                        one, see `hypertune.tracking.mlflow.registry`
======================  ============================================================================

The data set is an input of the study alone: on a trial it would cost a request more, so that there
a tag names it.
"""

import contextlib
import getpass
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from hypertune.core.objective import Objective
from hypertune.core.text import markdown, printable
from hypertune.journal.history import StudyHistory, TrialHistory
from hypertune.journal.recommendation import Recommendation, recommended
from hypertune.journal.store import (
    FULL,
    EventRow,
    ResultRow,
    best_result,
    flat_names,
)
from hypertune.tracking.mlflow.keys import name_key, name_tag, own_key

STUDY = "study"  # the key of the parent run; those of the others are trial ids
FORMAT = 2  # of what a trial's run holds; in the first one own keys were not set apart
_PARAM_CHARS, _TAG_CHARS = 6000, 8000  # MLflow's limits
_MAX_TAGS = 100  # of a request
_BATCH_CHARS = 150_000  # at worst 6 bytes a character in JSON: under MLflow's 1 MB a request
_PART_CHARS, _JSON_CHARS = 4000, 100_000
JSON_TAG, TEST_EVENT = "hypertune.json.", "test"
_STATUS = {
    **dict.fromkeys(FULL, "FINISHED"),
    **dict.fromkeys(("stopped", "interrupted"), "KILLED"),
    **dict.fromkeys(("failed", "lost"), "FAILED"),
}


class Item(NamedTuple):
    """One thing of a run: a metric, a param or a tag."""

    kind: str
    key: str
    value: Any
    t_ms: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What MLflow is to hold of a study or a trial, but for the metrics of its epochs."""

    key: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    start_ms: int
    status: str
    end_ms: int | None
    at_end: list[Item]


def study_run(history: StudyHistory, folder: Path) -> Run:
    study, end = history.study, history.last_end
    names = ("method", "seed", "n_trials", "max_epochs", "metric", "mode")
    settings = {name: study[name] for name in names if name in study} | study.get("settings", {})
    best = recommended(history) if end is not None else None
    scalars = {k: v for k, v in settings.items() if isinstance(v, str | int | float | bool)}
    return Run(
        key=STUDY,
        name=study["name"],
        tags={
            **_common_tags(study),
            **_json_tags({**study, "n_sessions": history.n_analyses}),
            "hypertune.role": STUDY,
            "hypertune.study": study["name"],
            **({} if best is None else {"hypertune.champion": str(best.trial)}),
            "mlflow.note.content": cut(_description(study, folder), _TAG_CHARS),
        },
        params={own_key(name): cut(value, _PARAM_CHARS) for name, value in scalars.items()},
        start_ms=history.events[0].t_ms,
        status="RUNNING" if end is None else _ended_status(end.data),
        end_ms=None if end is None else end.t_ms,
        at_end=[] if end is None else _study_metrics(study, best, end.t_ms),
    )


def _ended_status(data: Mapping[str, Any]) -> str:
    return {"signal": "KILLED", "error": "FAILED"}.get(data.get("stopped_by") or "", "FINISHED")


def _study_metrics(study: Mapping[str, Any], best: Recommendation | None, t_ms: int) -> list[Item]:
    if best is None or not best.losses:
        return []
    value = Objective.of_study(study).value(fmean(best.losses[best.trial].values()))
    return [Item("metric", own_key("champion"), value, t_ms)]


class StudyProgress:
    """How far a study has come, told by the ends of its searched trials, in their order."""

    def __init__(self, study: Mapping[str, Any]) -> None:
        self._study = study
        self._n_ends = 0
        self._ended: set[int] = set()
        self._best: ResultRow | None = None

    def follow(self, history: StudyHistory, events: Iterable[EventRow]) -> list[Item]:
        """Return the metrics at those of the next events that end a trial."""
        items: list[Item] = []
        for event in events:
            if event.kind != "trial" or event.trial is None or event.data.get("state") != "ended":
                continue
            if (trial := history.trials[event.trial]).role != "search":
                continue
            self._n_ends += 1
            self._ended.add(event.trial)
            if event.data.get("reason") in FULL:
                rows = [*trial.results.values()]
                rows += [self._best] if self._best is not None else []
                self._best = best_result(rows, self._study)
            values = {"n_trials_ended": float(len(self._ended))}
            if self._best is not None:
                values["best_so_far"] = self._best.metrics[self._study["metric"]]
            items += [
                Item("metric", own_key(k), v, event.t_ms, self._n_ends) for k, v in values.items()
            ]
        return items


def _description(study: Mapping[str, Any], folder: Path) -> str:
    headline = _headline(folder)
    lines = [
        f"**{markdown(str(study.get('question', study['name'])))}**\n",
        *([f"{markdown(headline)}\n"] if headline else []),
        f"- factors: {markdown(', '.join(study.get('factors', ()))) or 'none'}",
        f"- method: {study.get('method')}, seed {study.get('seed')}",
        f"- budget: {study.get('n_trials')} trials of up to {study.get('max_epochs')} epochs",
        f"- metric: {markdown(str(study.get('metric')))} ({study.get('mode')})",
    ]
    if diffs := code_diffs(folder):
        lines.append(f"- uncommitted changes of the code: code/{diffs[-1].name}, an artifact")
    lines += [
        f"- {key}: {markdown(str(value))}"
        for key, value in flat_names(study.get("environment", {})).items()
    ]
    return "\n".join(lines)


def _headline(folder: Path) -> str:
    """Return the verdict in brief, as the study's report has it; empty where there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
        return str(record["verdict"]["headline"] or "")
    return ""


def code_diffs(folder: Path) -> list[Path]:
    """Return the files with uncommitted changes of the code that a study ran on, oldest first."""
    return sorted(folder.glob("code-*.diff"), key=lambda path: path.stat().st_mtime)


def configs(history: StudyHistory) -> list[dict[str, Any]]:
    """Return each trial's config, types and all."""
    names = ("id", "role", "label", "reason", "seed", "repeat", "config")
    return [{name: getattr(trial, name) for name in names} for trial in history.trials.values()]


def data_tag(study: Mapping[str, Any]) -> str:
    """Return what names a study's data: the name, and a digest where it is known."""
    digest = (study.get("data_set") or {}).get("digest")
    return f"{study.get('data')}" + (f" ({digest})" if digest else "")


def _common_tags(study: Mapping[str, Any]) -> dict[str, str]:
    tags = {
        "hypertune.study_id": study["study_id"],
        "mlflow.user": _user(),
        "mlflow.source.name": "hypertune",
        "mlflow.source.type": "LOCAL",
    }
    if study.get("data"):
        tags["hypertune.data"] = cut(data_tag(study), _TAG_CHARS)
    if commit := study.get("git_commit"):
        tags["mlflow.source.git.commit"] = str(commit)
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())


def _json_tags(value: Mapping[str, Any]) -> dict[str, str]:
    text = json.dumps(value, separators=(",", ":"))
    if len(text) > _JSON_CHARS:
        return {}  # a request of more than 1 MB would be refused, and the run with it
    parts = range(0, len(text), _PART_CHARS)
    return {f"{JSON_TAG}{k}": text[i : i + _PART_CHARS] for k, i in enumerate(parts)}


def from_json_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return what a run's tags hold as JSON; empty if they hold none."""
    parts = {key.removeprefix(JSON_TAG): v for key, v in tags.items() if key.startswith(JSON_TAG)}
    text = "".join(parts[key] for key in sorted(parts, key=int))
    value: dict[str, Any] = json.loads(text or "{}")
    return value


def trial_run(study: Mapping[str, Any], trial: TrialHistory) -> Run:
    detail = (trial.detail or "").partition("\n")[0]
    params = _trial_params(trial)
    record = {
        "format": FORMAT,
        "config": trial.config,
        "label": trial.label,
        "origin": trial.origin,
        "why": trial.why,
        "detail": detail,
        "mutations": trial.mutations,
        "test": trial.test_result,
        "params": {key: name for name in params if (key := name_key(name)) != name},
    }
    tags = {
        **_common_tags(study),
        **_json_tags(record),
        "hypertune.trial": str(trial.id),
        "hypertune.role": trial.role,
        "hypertune.repeat": str(trial.repeat),
        "hypertune.state": trial.state,
    }
    for event in trial.events_of("worker")[-1:]:
        tags |= {f"hypertune.{key}": str(value) for key, value in event.data.items()}
    ended = trial.state == "ended"
    if ended and trial.reason:
        tags["hypertune.reason"] = trial.reason
    status = _STATUS.get(trial.reason or "", "FINISHED") if ended else "RUNNING"
    if status == "FAILED" and trial.detail:
        text = printable(trial.detail).replace("```", "'''")
        if len(text) > _TAG_CHARS - 50:  # the end of a traceback says most
            text = "... (cut)\n" + text[50 - _TAG_CHARS :]
        tags["mlflow.note.content"] = f"```text\n{text}\n```"
    return Run(
        key=str(trial.id),
        name=trial.label or f"trial-{trial.id:03d}",
        tags=tags,
        params={key: cut(value, _PARAM_CHARS) for key, value in _param_keys(params, study)},
        start_ms=trial.started_ms or trial.created_ms,
        status=status,
        end_ms=trial.ended_ms if ended else None,
        at_end=_trial_metrics(study, trial) if ended else [],
    )


def view_state(study: Mapping[str, Any], run_id: str) -> tuple[str, str]:
    """Return an experiment's tag, key and value, that presets the page with a study's trials.

    How MLflow's pages keep their state is not documented: this is decoration, and nothing depends
    on it.
    """
    params = list(study.get("factors", ()))
    params += [key for key in flat_names(study.get("default", {})) if key not in params]
    columns = [f"metrics.`{own_key(name)}`" for name in ("best", "final", "n_epochs", "cost_s")]
    columns += [f"params.`{name_key(name)}`" for name in params]
    columns += ["tags.`hypertune.reason`", "tags.`hypertune.role`"]
    state = {
        "searchFilter": f"tags.`hypertune.study_id` = '{study['study_id']}'",
        "orderByKey": f"metrics.`{own_key('best')}`",
        "orderByAsc": Objective.of_study(study).lower_is_better,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsExpanded": {run_id: True},
        "runsHiddenMode": "SHOW_ALL",
        **_charts(study, params),
    }
    return f"mlflow.sharedViewState.{study['study_id']}", json.dumps(state)


def _charts(study: Mapping[str, Any], params: Sequence[str]) -> dict[str, Any]:
    """Return the charts of the preset page, as MLflow 3.17 keeps them.

    What compares trials by their configs shows those in full alone: ``final`` is theirs.
    """
    final = own_key("final")
    default, logs = flat_names(study.get("default", {})), study.get("log_parameters", ())
    axes = [own_key("log10", name) if name in logs else name_key(name) for name in params]
    numbers = [
        axis
        for axis, name in zip(axes, params, strict=True)
        if isinstance(default.get(name), int | float) and not isinstance(default[name], bool)
    ]
    value = {"key": final, "type": "METRIC", "dataAccessKey": final}

    def parameter(key: str) -> dict[str, str]:
        return {"key": key, "type": "PARAM"}

    def line(key: str) -> dict[str, Any]:
        return {"type": "LINE", "metricKey": key, "selectedMetricKeys": [key]}

    charts: list[dict[str, Any]] = [
        line(name_key(str(study["metric"]))),
        line(own_key("best_so_far")),
        {
            "type": "PARALLEL",
            "selectedParams": axes,
            "selectedMetrics": [final],
            "showAllRuns": True,
        },
    ]
    charts += [
        {
            "type": "SCATTER",
            "xaxis": parameter(name),
            "yaxis": value,
            "runsCountToCompare": 100,
        }
        for name in numbers[:2]
    ]
    if len(numbers) > 1:
        x, y = map(parameter, numbers[:2])
        charts.append({"type": "CONTOUR", "xaxis": x, "yaxis": y, "zaxis": value})
    section = "hypertune"
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False}
    return {
        "compareRunCharts": [
            {"uuid": f"{section}-{k}", **common, **chart} for k, chart in enumerate(charts)
        ],
        "compareRunSections": [
            {
                "uuid": section,
                "name": "The study",
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "isAccordionReordered": True,  # else what MLflow adds by itself comes first
    }


def _trial_params(trial: TrialHistory) -> dict[str, Any]:
    return {"seed": trial.seed, **flat_names(trial.config)}


def _param_keys(params: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        yield name_key(name), value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in study.get("log_parameters", ()) and is_number and 0 < value < math.inf:
            yield own_key("log10", name), round(math.log10(value), 6)


def _trial_metrics(study: Mapping[str, Any], trial: TrialHistory) -> list[Item]:
    if not (best := trial.best(study)):
        return []
    metric = study["metric"]
    values = {"best": best.metrics[metric], "best_epoch": float(best.epoch)}
    last = trial.results[trial.epoch]
    if last.epoch > 0:
        values["n_epochs"] = float(last.epoch)
    final = last.metrics.get(metric, math.nan)
    if trial.full and math.isfinite(final):
        values["final"] = final
    if (cost := trial.cost_s) is not None:
        values["cost_s"] = cost
    keyed = {own_key(name): value for name, value in values.items()}
    test = trial.test_result or {}
    reached = {own_key("test", k): float(v) for k, v in test.get("metrics", {}).items()}
    keyed |= {key: value for key, value in reached.items() if math.isfinite(value)}
    t_ms = max(row.t_ms for row in trial.results.values())
    return [Item("metric", key, value, t_ms) for key, value in keyed.items()]


def epoch_metrics(rows: Sequence[ResultRow]) -> list[Item]:
    """Return all finite metrics, MLflow cannot hold others; and the names that keys do not say."""
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    tags = [Item("tag", *tag) for name in names if (tag := name_tag(name)) is not None]
    keys = {name: name_key(name) for name in names}
    return tags + [
        Item("metric", keys[name], value, row.t_ms, row.epoch)
        for row in rows
        for name, value in row.metrics.items()
        if math.isfinite(value)
    ]


def cut(value: Any, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 9] + "... (cut)"


def batches(items: Sequence[Item], limit: int) -> Iterator[list[Item]]:
    """Cut into batches of at most ``limit`` items that fit into a request each."""
    batch: list[Item] = []
    chars = tags = 0
    for item in items:
        size, is_tag = len(item.key) + len(str(item.value)), item.kind == "tag"
        full = len(batch) == limit or tags + is_tag > _MAX_TAGS
        if batch and (full or chars + size > _BATCH_CHARS):
            yield batch
            batch, chars, tags = [], 0, 0
        batch.append(item)
        chars += size
        tags += is_tag
    if batch:
        yield batch
