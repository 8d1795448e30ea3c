"""Tidy frames of a study, from its journal or from an MLflow server alone, equal to each other.

The columns of `load_trials`, one row a trial that has started:

==================  ================================================================================
``trial``           its id
``role``            search | replicate | baseline | rerun
``label``           a baseline's name; empty for most
``origin``          where its config came from, a value of `hypertune.core.origin.Origin`
``why``             why it was proposed, in words
``state``           waiting | running | ended
``reason``          how it ended: complete | converged | stopped | failed | lost | interrupted
``detail``          the first line of why
``full``            it ran in full: it is complete, or converged before
``n_mutations``     how often it was given another trial's state and another config on its way; its
                    ``config`` is the one that it began with
``seed``            of its training
``repeat``          trials of equal repeat share split and data order: they are compared in pairs
``epochs``          the last epoch with a result; 0 for models without epochs
``value``           best value of the study's metric up to its last epoch
``best_epoch``      the epoch of that value
``last_value``      the metric at its last epoch
``value_at_<e>``    best value up to epoch e, for each epoch that was asked for; missing where the
                    trial is not comparable there (see `value_at`), unless it was extrapolated
``cost_s``          seconds that its jobs took, each up to its last result; once it has ended
``test``            the metric on the test part, where that was opened for it
``test_failure``    why that look failed
``started``         when it began, UTC
``ended``           when it ended, UTC
``config.<name>``   each parameter of the space: integers, floats and booleans as such; all other
                    choices as categories of text, lists and tuples as JSON; integers that 64 bits
                    cannot hold as text; missing where the config has no such parameter
==================  ================================================================================

The columns of `load_curves`, one row a trial and epoch: ``trial``, ``epoch``, ``time`` (UTC),
``best`` (value of the study's metric up to there), and every metric by its name (with ``metric.``
before it if it is called like one of these, or begins so itself).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hypertune.core.deadlines import within
from hypertune.core.errors import JournalError, NothingBegunError, SettingError, choices
from hypertune.core.objective import Objective
from hypertune.core.origin import read_origin
from hypertune.core.space import Categorical, Flat, Number, Space, identity, level_text, level_texts
from hypertune.core.text import redact
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import FULL, ResultRow
from hypertune.search.methods import method_rungs
from hypertune.tracking.mlflow.keys import key_name, own_key
from hypertune.tracking.mlflow.runs import JSON_TAG, from_json_tags

_NEEDED = (
    "name",
    "metric",
    "mode",
    "test_metric",
    "max_epochs",
    "factors",
    "default",
    "parameters",
)
_ANSWER_S = 60.0  # of MLflow, to one request
_CONFIG, _CURVE = "config.", ("trial", "epoch", "time", "best")


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """A study, as frames.

    Attributes:
        study: The table ``study`` of its journal; and ``n_sessions``, how often a search ended.
        space: The space that was searched.
        trials: See the top of this module.
        curves: The same.
        flats: Flat configs by trial, of those whose config is of the space and was the same from
            their first epoch to the last. What compares configs goes by these alone.
        jobs: Stretches of epochs: ``trial``, ``from_epoch``, ``to_epoch``, ``started``, ``ended``;
            None where they are not known (MLflow does not hold them).
    """

    study: Mapping[str, Any]
    space: Space
    trials: pd.DataFrame
    curves: pd.DataFrame
    flats: Mapping[int, Flat]
    jobs: pd.DataFrame | None = None

    @property
    def objective(self) -> Objective:
        """What the study minimises or maximises."""
        return Objective.of_study(self.study)

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """The epochs after which trials were stopped or had to wait; the last one is in full.

        Those of the study's scheduler. One of Ray's does not name its own: there, the last epochs
        of the trials that it stopped.
        """
        known = self.study.get("rungs")
        if "rungs" not in self.study:  # it was begun before they were recorded
            known = method_rungs(
                self.study["method"],
                self.study["settings"].get("scheduler"),
                self.study["max_epochs"],
            )
        if known:
            return tuple(known)
        stopped = self.searched[self.searched["reason"] == "stopped"]
        return tuple(sorted({*map(int, stopped["epochs"]), int(self.study["max_epochs"])} - {0}))

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The trials of the search itself."""
        return self.trials[self.trials["role"] == "search"]

    @property
    def mutated(self) -> pd.DataFrame:
        """Those of them whose config was changed on the way: samples of no config."""
        return self.searched[self.searched["n_mutations"] > 0]

    @cached_property
    def full(self) -> pd.DataFrame:
        """Those of the search that ran in full, with one and the same config."""
        return self.searched[self.searched["full"] & (self.searched["n_mutations"] == 0)]

    @property
    def columns(self) -> list[str]:
        """The columns of the config."""
        return [f"{_CONFIG}{name}" for name in self.space.names]


@dataclass(kw_only=True)
class Record:
    """A trial, as every source gives it: the journal, MLflow, or a simulation."""

    trial: int
    role: str
    label: str
    state: str
    reason: str | None
    detail: str
    seed: int
    repeat: int
    config: dict[str, Any]
    results: list[ResultRow]
    started_ms: int = 0
    ended_ms: int | None = None
    cost_s: float | None = None
    look: Mapping[str, Any] | None = None
    origin: str = ""
    why: str = ""
    n_mutations: int = 0


def load(study: str | Path, *, tracking_uri: str | None = None) -> StudyData:
    """Return a study as frames.

    Args:
        study: The study's folder, or its name in the folder ``studies``. With ``tracking_uri``: the
            study's name, or that of an experiment that holds a single study.
        tracking_uri: The MLflow store to read, in place of the journal.

    Raises:
        JournalError: There is no readable journal, or it holds no study.
        SettingError: MLflow has no such study, or several.
    """
    if tracking_uri is None:
        folder = study_folder(study)
        history = StudyHistory.read(folder, check=True)
        if not history.study:
            raise NothingBegunError(f"'{folder / 'journal.db'}' holds no study: none began.")
        return from_history(history)
    return from_records(*_from_mlflow(str(study), tracking_uri))


def from_records(
    about: Mapping[str, Any], records: Sequence[Record], jobs: pd.DataFrame | None = None
) -> StudyData:
    """Return the frames of a study that is given by its trials.

    Args:
        about: The table ``study``.
        records: Its trials.
        jobs: As in `StudyData`.

    Raises:
        JournalError: A key of ``study`` is missing.
    """
    if missing := [key for key in _NEEDED if key not in about]:
        raise JournalError(f"The record of study '{about.get('name')}' lacks {', '.join(missing)}.")
    space = Space.from_plain(about["parameters"])
    flats = {r.trial: flat for r in records if (flat := _flat(space, r.config))}
    mutated = {r.trial for r in records if r.n_mutations}
    return StudyData(
        study=about,
        space=space,
        trials=_trials(records, about, space, flats),
        curves=_curves(records, about),
        flats={trial: flat for trial, flat in flats.items() if trial not in mutated},
        jobs=jobs,
    )


def load_trials(
    study: str | Path,
    *,
    tracking_uri: str | None = None,
    epochs: Sequence[int] = (),
    extrapolate: bool = False,
    parquet: Path | None = None,
) -> pd.DataFrame:
    """Return a study's trials, one row each; the columns are those listed in `analysis.frames`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ray import tune
        >>> import hypertune
        >>> from hypertune.engine.simulate import simulate
        >>> study = hypertune.Study(
        ...     question="Which x is best?",
        ...     factors=("x",),
        ...     space={"x": tune.uniform(-1, 1)},
        ...     default={"x": 0.5},
        ...     trainable=lambda config, report: None,
        ...     metric="loss",
        ...     max_epochs=3,
        ...     n_trials=2,
        ... )
        >>> folder = Path(tempfile.mkdtemp())
        >>> curve = lambda config, seed: [config["x"] ** 2 + 1 / epoch for epoch in (1, 2, 3)]
        >>> _ = simulate(study, curve, folder=folder, method="random", n_repeats=0)  # no Ray
        >>> hypertune.load_trials(folder, epochs=[1])[["trial", "reason", "value_at_1"]].shape
        (2, 3)

    Args:
        study: The study's folder, or its name in the folder ``studies``; or a study or an
            experiment in MLflow.
        tracking_uri: The MLflow store to read, in place of the journal.
        epochs: Epochs to add a column ``value_at_<epoch>`` for.
        extrapolate: Fill them for searched trials that did not get there, with the ends of the
            95 % interval of each in ``value_at_<epoch>_low`` and ``_high``. The root mean square of
            the errors on trials that were left out is in the frame's
            ``attrs["extrapolation_error"]``, by epoch.
        parquet: A file to write the frame to.

    Raises:
        JournalError: There is no readable journal, or it holds no study.
        SettingError: MLflow has no such study, or several; or an epoch is not in the study.
    """
    data = load(study, tracking_uri=tracking_uri)
    trials = data.trials.copy()
    for epoch in epochs:
        column = f"value_at_{epoch}"
        trials[column] = value_at(data, epoch)
        if extrapolate:
            # On demand: it builds on this module.
            from hypertune.analysis import extrapolation

            found = extrapolation.extrapolate(data, epoch)
            trials[column] = found.values["value"].combine_first(trials[column])
            for end in ("low", "high"):
                trials[f"{column}_{end}"] = found.values[end]
            trials.attrs.setdefault("extrapolation_error", {})[epoch] = found.error
    if parquet is not None:
        trials.to_parquet(parquet)
    return trials


def load_curves(
    study: str | Path, *, tracking_uri: str | None = None, parquet: Path | None = None
) -> pd.DataFrame:
    """Return a study's learning curves, one row a trial and epoch.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ray import tune
        >>> import hypertune
        >>> from hypertune.engine.simulate import simulate
        >>> study = hypertune.Study(
        ...     question="Which x is best?",
        ...     factors=("x",),
        ...     space={"x": tune.uniform(-1, 1)},
        ...     default={"x": 0.5},
        ...     trainable=lambda config, report: None,
        ...     metric="loss",
        ...     max_epochs=3,
        ...     n_trials=2,
        ... )
        >>> folder = Path(tempfile.mkdtemp())
        >>> curve = lambda config, seed: [config["x"] ** 2 + 1 / epoch for epoch in (1, 2, 3)]
        >>> _ = simulate(study, curve, folder=folder, method="random", n_repeats=0)  # no Ray
        >>> hypertune.load_curves(folder)[["trial", "epoch"]].values.tolist()
        [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [1, 3]]

    Args:
        study: As in `load_trials`.
        tracking_uri: As in `load_trials`.
        parquet: A file to write the frame to.

    Raises:
        JournalError: There is no readable journal, or it holds no study.
        SettingError: MLflow has no such study, or several.
    """
    curves = load(study, tracking_uri=tracking_uri).curves
    if parquet is not None:
        curves.to_parquet(parquet)
    return curves


def value_at(data: StudyData, epoch: int) -> "pd.Series[Any]":
    """Return each trial's best value up to an epoch, by the index of ``data.trials``.

    It is missing for a trial that ended before, unless it had converged (then it keeps its value);
    for one that failed or was lost; and for a model without epochs, unless ``epoch`` is the last.

    Raises:
        SettingError: No trial of the study has such an epoch.
    """
    max_epochs = data.study["max_epochs"]
    if not 1 <= epoch <= max_epochs:
        raise SettingError(f"epoch must be from 1 to {max_epochs}, but got {epoch}.")
    trials = data.trials
    upto = data.curves[data.curves["epoch"] <= epoch]
    best = upto.groupby("trial")["best"].last().reindex(trials["trial"]).set_axis(trials.index)
    failed = trials["reason"].isin(("failed", "lost"))
    simple = (trials["epochs"] == 0) & trials["full"]
    reached = (trials["epochs"] >= epoch) | (trials["reason"] == "converged")
    if epoch == max_epochs:
        reached |= simple
    return best.where(reached & ~failed.fillna(False)).astype("Float64")


def study_folder(study: str | Path) -> Path:
    """Return the folder of a study: itself, or one of its name in the folder ``studies``."""
    path = Path(study)
    return path if path.is_dir() else Path("studies") / path


# ---- from the journal ----


def from_history(history: StudyHistory) -> StudyData:
    """Return the frames of a study.

    Raises:
        JournalError: A key of ``study`` is missing.
    """
    about = {**history.study, "n_sessions": history.n_analyses}
    records = [
        Record(
            trial=trial.id,
            role=trial.role,
            label=trial.label,
            state=trial.state,
            reason=trial.reason,
            detail=(trial.detail or "").partition("\n")[0],
            seed=trial.seed,
            repeat=trial.repeat,
            config=trial.config,
            started_ms=trial.started_ms or trial.created_ms,
            ended_ms=trial.ended_ms,
            cost_s=trial.cost_s,
            look=trial.test_result,
            origin=trial.origin,
            why=trial.why,
            n_mutations=len(trial.mutations),
            results=list(trial.results.values()),
        )
        for trial in history.trials.values()
        if trial.has_begun
    ]
    rows = [
        {
            "trial": trial.id,
            "from_epoch": span.from_epoch,
            "to_epoch": span.to_epoch,
            "started": span.started_ms,
            "ended": span.ended_ms,
        }
        for trial in history.trials.values()
        for span in trial.spans
    ]
    spans = pd.DataFrame(rows, columns=["trial", "from_epoch", "to_epoch", "started", "ended"])
    for column in ("started", "ended"):
        spans[column] = _times(spans[column])
    spans = spans.astype({"trial": "int64", "from_epoch": "int64", "to_epoch": "int64"})
    return from_records(about, records, spans)


# ---- from MLflow ----


class _Client:
    """MLflow's client, each of whose requests has a deadline."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self._client, self._where = MlflowClient(tracking_uri=uri), f"MLflow at {redact(uri)}"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from mlflow.exceptions import MlflowException

        request = getattr(self._client, name)

        def ask(*args: Any, **options: Any) -> Any:
            try:
                return within(_ANSWER_S, self._where, lambda: request(*args, **options))
            except MlflowException as error:
                raise SettingError(f"{self._where} fails: {redact(str(error))}") from error

        return ask


def _from_mlflow(name: str, uri: str) -> tuple[dict[str, Any], list[Record]]:
    client = _Client(uri)
    parent = _find_study(client, name)
    about = from_json_tags(parent.data.tags)
    raws, token = [], None
    while token != "":
        page = client.search_runs(
            [parent.info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
            max_results=1000,
            page_token=token,
        )
        raws += [_raw(client, run, about) for run in page]
        token = page.token or ""
    return about, sorted(raws, key=lambda raw: raw.trial)


def _find_study(client: Any, name: str) -> Any:
    experiments = {e.experiment_id: e.name for e in client.search_experiments()}
    studies = [
        run
        for run in client.search_runs(list(experiments), "tags.`hypertune.role` = 'study'")
        if name in (run.data.tags["hypertune.study"], experiments[run.info.experiment_id])
    ]
    named = [run for run in studies if run.data.tags["hypertune.study"] == name]
    found = named or studies
    if len(found) == 1:
        return found[0]
    known = sorted(run.data.tags["hypertune.study"] for run in found)
    if known:
        raise SettingError(f"'{name}' holds {len(known)} studies.{choices(name, known)}")
    everywhere = client.search_runs(list(experiments), "tags.`hypertune.role` = 'study'")
    known = sorted({run.data.tags["hypertune.study"] for run in everywhere})
    raise SettingError(f"MLflow has no study or experiment '{name}'.{choices(name, known)}")


def _raw(client: Any, run: Any, about: Mapping[str, Any]) -> Record:
    tags, metric = run.data.tags, about["metric"]
    record = from_json_tags(tags)
    if not record:
        raise JournalError(
            f"MLflow's run {run.info.run_id} holds no tag {JSON_TAG}0: use the journal."
        )
    origin, why = read_origin(record)
    look = record["test"]
    # Runs of the first format, whose own keys a metric's name could be as well, hold these.
    at_end = {f"best_{metric}", f"final_{metric}", "best_epoch", "n_epochs", "cost_s"}
    at_end |= set((look or {}).get("metrics", {}))
    first, cost_key = (True, "cost_s") if "format" not in record else (False, own_key("cost_s"))
    rows: dict[int, ResultRow] = {}
    for key in run.data.metrics:
        if (name := key if first else key_name(key, tags)) is None:
            continue
        for point in client.get_metric_history(run.info.run_id, key):
            if first and key in at_end and point.step == 0:
                continue
            row = ResultRow(
                id=0,
                trial=int(tags["hypertune.trial"]),
                epoch=point.step,
                t_ms=point.timestamp,
                metrics={},
            )
            rows.setdefault(point.step, row).metrics[name] = point.value
    ended = tags["hypertune.state"] == "ended"
    return Record(
        trial=int(tags["hypertune.trial"]),
        role=tags["hypertune.role"],
        label=record["label"],
        state=tags["hypertune.state"],
        reason=tags.get("hypertune.reason") or None,
        detail=record["detail"],
        seed=int(run.data.params["seed"]),
        repeat=int(tags["hypertune.repeat"]),
        config=record["config"],
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time if ended else None,
        cost_s=run.data.metrics.get(cost_key) if ended else None,
        look=look,
        origin=origin,
        why=why,
        n_mutations=len(record["mutations"]),
        results=list(rows.values()),
    )


# ---- both ----


def _curves(raws: Iterable[Record], about: Mapping[str, Any]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for raw in raws:
        for row in raw.results:
            known = {
                _curve_column(k): v
                for k, v in row.metrics.items()
                if math.isfinite(v)  # what is not finite MLflow cannot hold
            }
            if known:
                rows.append({"trial": raw.trial, "epoch": row.epoch, "time": row.t_ms, **known})
    metrics = sorted({key for row in rows for key in row} - set(_CURVE))
    curves = pd.DataFrame(rows, columns=[*_CURVE[:3], *metrics])
    curves = curves.sort_values(["trial", "epoch"], ignore_index=True)
    curves = curves.astype({"trial": "int64", "epoch": "int64"})
    curves[metrics] = curves[metrics].astype("Float64")
    curves["time"] = _times(curves["time"])
    metric = _curve_column(about["metric"])
    if metric not in curves:
        curves[metric] = pd.array([pd.NA] * len(curves), dtype="Float64")
    groups = curves.groupby("trial")[metric]
    best = groups.cummin() if Objective.of_study(about).lower_is_better else groups.cummax()
    # A value that is missing at an epoch leaves the best one up to there as it was.
    best = best.groupby(curves["trial"]).ffill().astype("Float64")
    curves.insert(3, "best", best)
    return curves


def _curve_column(name: str) -> str:
    """Return a metric's column, which is no other's."""
    return f"metric.{name}" if name in _CURVE or name.startswith("metric.") else name


def _trials(
    raws: Sequence[Record], about: Mapping[str, Any], space: Space, flats: Mapping[int, Flat]
) -> pd.DataFrame:
    rows = [_row(raw, about) for raw in raws]
    trials = pd.DataFrame(rows, columns=list(_DTYPES)).astype(
        {name: kind for name, kind in _DTYPES.items() if kind != "time"}
    )
    for column in ("started", "ended"):
        trials[column] = _times(trials[column])
    named = [{space[k].name: v for k, v in flats.get(raw.trial, {}).items()} for raw in raws]
    for name in space.names:
        trials[f"{_CONFIG}{name}"] = _column(space, name, [row.get(name, _ABSENT) for row in named])
    return trials


_ABSENT = object()
_DTYPES = {
    "trial": "int64",
    "role": "string",
    "label": "string",
    "origin": "string",
    "why": "string",
    "state": "string",
    "reason": "string",
    "detail": "string",
    "full": "bool",
    "n_mutations": "int64",
    "seed": "int64",
    "repeat": "int64",
    "epochs": "int64",
    "value": "Float64",
    "best_epoch": "Int64",
    "last_value": "Float64",
    "cost_s": "Float64",
    "test": "Float64",
    "test_failure": "string",
    "started": "time",
    "ended": "time",
}


def _row(raw: Record, about: Mapping[str, Any]) -> dict[str, Any]:
    objective = Objective.of_study(about)
    metric = objective.metric
    rows = sorted(raw.results, key=lambda row: row.epoch)
    rows = [row for row in rows if any(map(math.isfinite, row.metrics.values()))]
    values = [(row.metrics.get(metric, math.nan), row.epoch) for row in rows]
    finite = [(value, epoch) for value, epoch in values if math.isfinite(value)]
    value, best_epoch = min(
        finite, key=lambda pair: (objective.loss(pair[0]), pair[1]), default=(None, None)
    )
    last = values[-1][0] if values else math.nan
    look = raw.look or {}
    return {
        "trial": raw.trial,
        "role": raw.role,
        "label": raw.label,
        "origin": raw.origin,
        "why": raw.why,
        "state": raw.state,
        "reason": raw.reason,
        "detail": raw.detail,
        "full": raw.reason in FULL and value is not None,
        "n_mutations": raw.n_mutations,
        "seed": raw.seed,
        "repeat": raw.repeat,
        "epochs": rows[-1].epoch if rows else 0,
        "value": value,
        "best_epoch": best_epoch,
        "last_value": last if math.isfinite(last) else None,
        "cost_s": raw.cost_s if raw.state == "ended" else None,
        "test": look.get("metrics", {}).get(about["test_metric"] or ""),
        "test_failure": look.get("failure"),
        "started": raw.started_ms,
        "ended": raw.ended_ms,
    }


def _flat(space: Space, config: Mapping[str, Any]) -> Flat:
    """Return a flat config; empty for one that is not of the space, as of a simple model."""
    searched = {name: config[name] for name in space.spec if name in config}
    return {} if space.problems(searched) else space.flatten(searched)


def _column(space: Space, name: str, values: Sequence[Any]) -> "pd.Series[Any]":
    """Return values as the space has them. Branches may share a name, with other ranges."""
    parameters = [p for p in space.parameters if p.name == name]
    levels = [v for p in parameters if isinstance(p, Categorical) for v in p.choices]
    numbers = [p for p in parameters if isinstance(p, Number)]
    kinds = {type(level) for level in levels} | {int if p.integer else float for p in numbers}
    known = [None if value is _ABSENT else value for value in values]
    ends = [end for p in numbers for end in (p.low, p.high)]
    integers = [number for number in (*levels, *ends) if isinstance(number, int)]
    if kinds == {int} and all(-(2**63) <= number < 2**63 for number in integers):
        return pd.Series(pd.array(known, dtype="Int64"))
    if float in kinds and kinds <= {int, float} and all(abs(n) <= 2**53 for n in integers):
        return pd.Series(pd.array(known, dtype="Float64"))
    if kinds == {bool}:
        return pd.Series(pd.array(known, dtype="boolean"))
    spelled = spelling(space, name)
    texts = [None if v is _ABSENT else spelled.get(identity(v), level_text(v)) for v in values]
    if numbers:
        return pd.Series(pd.array(texts, dtype="string"))
    return pd.Series(pd.Categorical(texts, categories=list(spelled.values())))


def spelling(space: Space, name: str) -> dict[str, str]:
    """Return how frames spell the levels of a parameter's choices, by their identity."""
    parameters = [p for p in space.parameters if p.name == name and isinstance(p, Categorical)]
    levels = {identity(level): level for p in parameters for level in p.values()}
    return dict(zip(levels, level_texts(list(levels.values())), strict=True))


def _times(ms: "pd.Series[Any]") -> "pd.Series[Any]":
    return pd.to_datetime(ms.astype("Int64"), unit="ms", utc=True).astype("datetime64[ms, UTC]")


def finite(values: "pd.Series[Any]") -> NDArray[np.float64]:
    """Return numbers as an array, missing ones as NaN."""
    return values.to_numpy(dtype=float, na_value=math.nan)
