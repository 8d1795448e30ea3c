"""The MLflow replica of a journal, brought up to date by an uploader process of its own.

The journal is the truth. The uploader reads it, from cursors of its own (``replica.db`` beside it),
and never writes it; whatever befalls MLflow neither ends nor slows a search. Everything sent is
made from the journal alone, its timestamps too, but for the artifacts and the best model, which lie
beside it. Runs are looked up before they are created, so sending a thing twice adds nothing.

What the server refuses for good is set aside and named in the warning; the rest goes on. What was
deleted in MLflow while there is still something to deliver to it is restored.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from hypertune.core.deadlines import within
from hypertune.core.errors import DeadlineError
from hypertune.core.storage import sqlite_path, sqlite_uri
from hypertune.core.text import redact
from hypertune.journal.history import StudyHistory, TrialHistory
from hypertune.journal.snapshot import Snapshots, study_place
from hypertune.journal.store import EventRow, Journal, ResultRow
from hypertune.tracking.mlflow.cursors import Cursors, Known, count_pending
from hypertune.tracking.mlflow.keys import NAME_TAG, OWN
from hypertune.tracking.mlflow.registry import register
from hypertune.tracking.mlflow.runs import (
    STUDY,
    TEST_EVENT,
    Item,
    Run,
    StudyProgress,
    batches,
    code_diffs,
    configs,
    cut,
    epoch_metrics,
    study_run,
    trial_run,
    view_state,
)
from hypertune.tracking.uploader import URI_VARIABLE, Delivery, Redacted, open_log

if TYPE_CHECKING:  # mlflow takes a second and 160 MiB: only the uploader process imports it
    from mlflow import MlflowClient

_ORPHAN_LIMIT_S = 60.0  # how long an uploader whose driver was killed goes on
_POLL_S = 2.0  # a request takes a tenth of a second of a core that could train
_SLICE = 5000  # results read at once
_REQUEST_S = (
    300.0  # an answer that takes longer never comes; an upload of many files is one request
)
# A server without this part of MLflow: too old, made without a registry, or closed to us.
_UNABLE = {"ENDPOINT_NOT_FOUND", "RESOURCE_DOES_NOT_EXIST", "NOT_IMPLEMENTED", "FEATURE_DISABLED"}
_UNABLE |= {"PERMISSION_DENIED"}
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE"}
_NOT_THERE = (AttributeError, NotImplementedError, ImportError)  # in an older client
_MODEL = "the best model"
_MARK = "hypertune.journal"  # the tag that says how the journal was that a run was brought from
_T = TypeVar("_T")


def deliver(journal: Path, tracking_uri: str, *, timeout_s: float | None) -> Delivery:
    """Deliver a journal from this process, once, and return when all is there.

    Waits for another uploader of the same study. mlflow's own messages go to ``replica.log``.

    Args:
        journal: The journal's file.
        tracking_uri: Where MLflow is. A path in it must be absolute.
        timeout_s: Seconds after which to give up, or None. A request that is under way then is
            left to itself.

    Raises:
        JournalError: The journal cannot be opened.
    """
    Journal(journal, read_only=True).close()
    stop = _Stop()
    stop.close(math.inf if timeout_s is None else timeout_s)
    with open_log(journal) as log, contextlib.redirect_stderr(Redacted(log)):
        return _Replica(journal, tracking_uri, stop).run()


class _TimeError(Exception):
    """The time to deliver is over."""


class _GoneError(Exception):
    """MLflow no longer knows a thing that it had: its store was replaced, or cleaned."""


class _OtherJournalError(Exception):
    """MLflow was given what another journal of this study holds; the text says what to do."""


class _RefusedError(Exception):
    """MLflow will never take this."""


class _Stop:
    """Until when to follow the journal, and until when to deliver what is left then."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self._deadline = math.inf

    def close(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self.closing.set()

    def check(self) -> None:
        """Raise `_TimeError` if the time is over."""
        if self.left_s <= 0:
            raise _TimeError

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the deadline, nor when the end begins."""
        if self.closing.is_set():
            time.sleep(max(0.0, min(seconds, self.left_s)))
        else:
            self.closing.wait(seconds)


class _Replica:
    """Brings one MLflow up to date with one journal."""

    def __init__(
        self,
        journal: Path,
        uri: str,
        stop: _Stop,
        emit: Callable[[Delivery], None] = lambda delivery: None,
    ) -> None:
        self._uri = uri
        self._stop = stop
        self._emit = emit
        self._path = journal
        self._journal = Journal(journal, read_only=True)  # or a copy of it, where one is kept
        self._history = StudyHistory()
        self._snapshots: Snapshots | None = None
        self._uncopied: str | None = None  # why there is no newer copy
        self._cursors = Cursors(journal, uri)
        self._client: MlflowClient | None = None
        self._found: dict[str, Known] | None = None  # runs on the server, once looked up
        self._progress: StudyProgress | None = None
        self._mark: str | None = None  # as MLflow has it
        self._model_due = True  # until it is known to be there
        self._trouble: str | None = None
        self._ahead = 0  # results delivered after the cursor
        self._last, self._last_at = Delivery(), -math.inf

    def run(self) -> Delivery:
        """Follow the journal until the end begins, deliver the rest, and return."""
        lock = FileLock(self._journal.path.with_name("replica.lock"))
        try:
            self._report(at_once=True)
            self._acquire(lock)
            self._cursors.load()
            while True:
                closing = self._stop.closing.is_set()  # before: what was written by then is read
                copied = self._copy(at_once=closing)
                if self._snapshots is None or self._journal.path == self._snapshots.copy:
                    self._catch_up()
                self._report(at_once=True)
                if closing and copied:
                    break
                self._stop.check()
                self._stop.wait(_POLL_S)
        except _TimeError:
            pass
        finally:
            self._report(at_once=True)
            lock.release()
            self._cursors.close()
            self._journal.close()
            if self._snapshots is not None:
                self._snapshots.close()
        return self._last

    def _copy(self, *, at_once: bool) -> bool:
        """Copy the journal to the study's storage, if it has one, and go on from the copy.

        Returns:
            Whether the newest copy holds all that it should.
        """
        try:
            if self._snapshots is None:
                about = self._journal.study()
                storage = about.get("settings", {}).get("storage")
                if storage is None:
                    return True
                place = study_place(storage, about["name"], about["study_id"])
                self._snapshots = Snapshots(self._path, place)
            taken = self._snapshots.take(
                at_once=at_once or self._uncopied is not None, timeout_s=self._stop.left_s
            )
        except Exception as error:  # anything: the uploader outlives whatever a service raises
            why = f"The journal cannot be copied to --storage, and MLflow waits: {_brief(error)}."
            if why != self._uncopied:
                _note(why)
            self._uncopied = why
            return False
        self._uncopied = None
        if taken:
            self._journal.close()
            self._journal = Journal(self._snapshots.copy, read_only=True)
        return True

    def _acquire(self, lock: FileLock) -> None:
        while True:
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                self._trouble = None
                return
            self._trouble = "Another uploader delivers this study; this one waits for it."
            self._report()
            self._stop.check()
            self._stop.wait(_POLL_S)

    def _report(self, *, at_once: bool = False) -> None:
        """Say how far it is, if that changed, at most about twice a second."""
        if not at_once and time.monotonic() - self._last_at < _POLL_S:
            return
        cursors = self._cursors
        pending = count_pending(self._path, cursors.event, cursors.result) - self._ahead
        refused = ", ".join(f"{what} ({why})" for what, why in [*cursors.refused.items()][:3])
        if refused:
            refused = f"MLflow refused {len(cursors.refused)} record(s), set aside: {refused}"
        parent = cursors.runs.get(STUDY)
        now = Delivery(
            pending=pending,
            warning=" ".join(filter(None, (self._uncopied, self._trouble, refused))) or None,
            experiment_id=cursors.experiment_id,
            run_id=parent.run_id if parent else None,
        )
        if now != self._last:
            self._last, self._last_at = now, time.monotonic()
            self._emit(now)

    # ---- requests ----

    def _call(
        self, request: Callable[[], _T], *, refusable: bool = False, optional: bool = False
    ) -> _T:
        """Make a request, again and again while it fails in a way that may pass.

        Args:
            request: Makes it.
            refusable: What the server will never take is a `_RefusedError`.
            optional: So is what this server cannot do.
        """
        pause = 0.5
        while True:
            self._stop.check()
            try:
                where = f"MLflow at {redact(self._uri)}"
                answer = within(min(_REQUEST_S, self._stop.left_s), where, request)
            except Exception as error:  # anything: the uploader outlives whatever a client raises
                code = getattr(error, "error_code", None)
                if optional and (code in _UNABLE or isinstance(error, _NOT_THERE)):
                    raise _RefusedError(_brief(error)) from error
                if code == "RESOURCE_DOES_NOT_EXIST":
                    raise _GoneError from error
                never = code in _REFUSALS or isinstance(error, ValueError | TypeError)
                if (refusable or optional) and never:
                    raise _RefusedError(_brief(error)) from error
                trouble = _explain(error, self._uri)
                if trouble != self._trouble:
                    _note(trouble)
                self._trouble = trouble
                self._report()
                self._stop.wait(pause)
                pause = min(2 * pause, 2.0 if self._stop.closing.is_set() else 15.0)
            else:
                self._trouble = None
                return answer

    @property
    def _mlflow(self) -> "MlflowClient":
        assert self._client is not None
        return self._client

    def _send(self, run: Run, run_id: str, items: list[Item], *, whole: bool = True) -> None:
        """Send a batch. What is refused is halved until the culprits stand alone."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(i.key, i.value, i.t_ms, i.step) for i in items if i.kind == "metric"]
        params = [Param(i.key, i.value) for i in items if i.kind == "param"]
        tags = [RunTag(i.key, i.value) for i in items if i.kind == "tag"]
        try:
            self._call(
                lambda: self._mlflow.log_batch(run_id, metrics, params, tags, synchronous=True),
                refusable=True,
            )
        except _RefusedError as refusal:
            if whole and self._revive(run_id):
                self._send(run, run_id, items)
            elif len(items) == 1:
                self._cursors.refuse(_named(run, items[0]), str(refusal))
            else:
                for half in (items[: len(items) // 2], items[len(items) // 2 :]):
                    self._send(run, run_id, half, whole=False)

    def _revive(self, run_id: str | None) -> bool:
        """Restore the experiment and the run if they were deleted; return whether they were."""
        revived = False
        experiment_id = self._cursors.experiment_id
        if (
            self._call(lambda: self._mlflow.get_experiment(experiment_id)).lifecycle_stage
            != "active"
        ):
            self._call(lambda: self._mlflow.restore_experiment(experiment_id))
            revived = True
        if (
            run_id
            and self._call(lambda: self._mlflow.get_run(run_id)).info.lifecycle_stage != "active"
        ):
            self._call(lambda: self._mlflow.restore_run(run_id))
            revived = True
        return revived

    # ---- first contact ----

    def _connect(self) -> None:
        """Find or make the experiment and the study's run."""
        self._client = self._call(lambda: _connected(self._uri))
        cursors = self._cursors
        if cursors.experiment_id is None:
            cursors.experiment_id = self._call(self._find_experiment)
            cursors.save()
        self._found = None
        parent = self._ensure(study_run(self._history, self._journal.path.parent))
        self._revive(parent.run_id)
        if "metric" in self._study:
            key, state = view_state(self._study, parent.run_id)
            with contextlib.suppress(_RefusedError):  # decoration
                experiment = cursors.experiment_id
                self._call(
                    lambda: self._mlflow.set_experiment_tag(experiment, key, state), refusable=True
                )

    def _find_experiment(self) -> str:
        name = str(self._study.get("space", self._study["name"]))
        experiment = self._mlflow.get_experiment_by_name(name)
        if experiment is None:
            database = sqlite_path(self._uri)
            artifacts = (database.parent / "mlartifacts").as_uri() if database else None
            # Without the tag the pages open in the view for language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return self._mlflow.create_experiment(name, artifacts, kind)
        if experiment.lifecycle_stage != "active":
            self._mlflow.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _ensure(self, run: Run) -> Known:
        """Return what MLflow has of a run, after creating it if it has nothing."""
        row = self._cursors.runs.get(run.key)
        if row is None:
            row = self._call(lambda: self._find_or_create(run), refusable=run.key != STUDY)
            self._cursors.save_run(run.key, row)
        return row

    def _find_or_create(self, run: Run) -> Known:
        if self._found is None:
            self._found = self._search()
        if run.key in self._found:
            return self._found[run.key]
        tags = dict(run.tags)
        if run.key != STUDY:
            tags["mlflow.parentRunId"] = self._cursors.runs[STUDY].run_id
        try:
            created = self._mlflow.create_run(
                self._cursors.experiment_id, run.start_ms, tags, run.name
            )
        except Exception:
            self._found = None  # only the answer may have been lost: look again before a second try
            raise
        return Known(created.info.run_id, [], run.tags, "RUNNING", None)

    def _search(self) -> dict[str, Known]:
        """Return all runs of this study that the server has."""
        found: dict[str, Known] = {}
        token = None
        while token != "":
            page = self._mlflow.search_runs(
                [self._cursors.experiment_id],
                f"tags.`hypertune.study_id` = '{self._study['study_id']}'",
                run_view_type=3,  # ViewType.ALL, the deleted too
                max_results=1000,
                page_token=token,
            )
            for run in page:
                tags = run.data.tags
                ours = {
                    k: v
                    for k, v in tags.items()
                    if k.startswith(("hypertune.", "mlflow.note"))
                    and not k.startswith((_MARK, NAME_TAG))
                }
                is_study = tags.get("hypertune.role") == STUDY
                # A study's settings may change (it is extended), its params cannot: the first stay.
                params = list(run.data.params) if is_study else []
                row = Known(run.info.run_id, params, ours, None, None)
                found.setdefault(STUDY if is_study else tags.get("hypertune.trial", ""), row)
            token = page.token or ""
        return found

    # ---- bringing it up to date ----

    @property
    def _study(self) -> dict[str, Any]:
        return self._history.study

    def _catch_up(self) -> None:
        """Deliver all that the journal holds by now."""
        while True:
            self._ahead = 0
            try:
                if self._client is None:
                    self._history.refresh(self._journal)
                    if not self._study.keys() >= {"study_id", "name"}:
                        self._trouble = "The journal holds no study yet."
                        return
                    self._connect()
                return self._deliver_new()
            except _OtherJournalError as other:
                if str(other) != self._trouble:
                    _note(str(other))
                self._trouble = str(other)
                return None
            except _GoneError as gone:
                _note(f"MLflow lost what it had; all is sent again: {gone.__cause__}")
                self._cursors.forget()
                self._client, self._progress, self._model_due = None, None, True
                self._mark = None
                self._stop.wait(_POLL_S)

    def _claim(self) -> None:
        """Mark the study's run as brought up to date from this journal.

        Raises:
            _OtherJournalError: It was from another one: a copy that went on, or a later state.
        """
        journal, cursors, name = self._journal, self._cursors, self._study["name"]
        # MLflow is told nothing that a loss of power could take from the journal.
        journal.flush()
        mark, ids, run_id = journal.mark(), journal.last_ids(), cursors.runs[STUDY].run_id
        if mark == self._mark:
            return
        tag = self._call(lambda: self._mlflow.get_run(run_id)).data.tags.get(_MARK, "")
        theirs = re.fullmatch(r"(\d{1,18}) \w+ (\d{1,18}) \w+", tag)
        ends = [(cursors.event, cursors.result)]
        ends += [(int(theirs[1]), int(theirs[2]))] if theirs else []
        later = any(event > ids[0] or result > ids[1] for event, result in ends)
        if later or (theirs and not journal.holds(tag)):
            why = f"MLflow has records of study '{name}' from another copy of it, which went on"
            if later:
                why = (
                    f"MLflow has later records of study '{name}' than this journal, which is an "
                    "older copy, or one without its journal.db-wal, which holds the last rows"
                )
            raise _OtherJournalError(
                f"{why}. So that their trials are not mixed up, nothing of this one is delivered: "
                f"hypertune copy {self._path.parent.name} NEW makes it a study of its own."
            )
        self._send(
            study_run(self._history, self._journal.path.parent), run_id, [Item("tag", _MARK, mark)]
        )
        self._mark = mark

    def _deliver_new(self) -> None:
        self._claim()
        cursors, journal = self._cursors, self._journal
        self._history.refresh(journal)  # events before results: these come first
        events = [event for event in self._history.events if event.id > cursors.event]
        kinds = ("trial", TEST_EVENT)
        changed = {e.trial for e in events if e.kind in kinds and e.trial is not None}
        about_study = any(e.kind in ("study", "search_start", "search_end") for e in events)
        last = False
        while not last:
            rows = journal.results(after=cursors.result, limit=_SLICE)
            self._history.refresh(journal)
            last = len(rows) < _SLICE
            trials: dict[int, list[ResultRow]] = {t: [] for t in sorted(changed) if last}
            for row in rows:
                trials.setdefault(row.trial, []).append(row)
            for trial, its_rows in trials.items():
                self._bring_trial(self._history.trials[trial], its_rows)
                self._ahead += len(its_rows)
                self._report()
            if rows:
                cursors.result = rows[-1].id
                cursors.save()
            self._ahead = 0
        self._bring_progress(events)
        kinds_now = {e.kind for e in events}
        if about_study or "report" in kinds_now:  # which holds the verdict
            self._bring(study_run(self._history, self._journal.path.parent), [])
        self._bring_artifacts(kinds_now)
        if self._model_due or "model" in kinds_now:
            self._model_due = False
            self._bring_model()
        if events:
            cursors.event = events[-1].id
            cursors.save()

    def _bring_progress(self, events: list[EventRow]) -> None:
        """Send the study's own metrics, and its data set before the first of them."""
        run_id = self._cursors.runs[STUDY].run_id
        if self._progress is None:
            self._bring_data_set(run_id)
            self._progress = StudyProgress(self._study)
            if before := self._cursors.event:
                past = self._history.events_of("trial")
                self._progress.follow(self._history, [e for e in past if e.id <= before])
        for batch in batches(self._progress.follow(self._history, events), 1000):
            self._send(study_run(self._history, self._journal.path.parent), run_id, batch)

    def _bring_data_set(self, run_id: str) -> None:
        """Log the data set as an input of the study; twice it is the same one."""
        about = self._study.get("data_set")
        if not about:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        sizes = {key: value for key, value in about.items() if key.startswith("n_")}
        data_set = Dataset(
            name=str(self._study["data"])[:500],
            digest=about["digest"],
            source_type="local",
            source=json.dumps({"uri": about["source"]}),
            profile=json.dumps(sizes),
        )
        given = [DatasetInput(data_set, [InputTag("mlflow.data.context", "training")])]
        try:
            self._call(lambda: self._mlflow.log_inputs(run_id, given), optional=True)
        except _RefusedError as refusal:
            self._cursors.refuse("the data set", str(refusal))

    def _bring_artifacts(self, kinds: set[str]) -> None:
        folder, run_id = self._journal.path.parent, self._cursors.runs[STUDY].run_id
        if "search_start" in kinds:
            for path in map(str, code_diffs(folder)):
                self._call(functools.partial(self._mlflow.log_artifact, run_id, path, "code"))
        if "search_end" in kinds:
            text = json.dumps(configs(self._history), indent=1)
            self._call(lambda: self._mlflow.log_text(run_id, text, "trials.json"))
        report = folder / "report"
        if "report" in kinds and report.is_dir():
            self._call(lambda: self._mlflow.log_artifacts(run_id, str(report), "report"))

    def _bring_model(self) -> None:
        """Register the best model, unless it is; a server that cannot costs a warning alone."""
        cursors, folder = self._cursors, self._journal.path.parent / "model"
        made = self._history.events_of("model")[-1:]
        if not made or made[0].trial is None or not folder.is_dir():
            return
        sha256, trial = made[0].data["sha256"], self._history.trials[made[0].trial]
        known, its_run = cursors.runs.get("model"), cursors.runs.get(str(trial.id))
        if its_run is None or (known is not None and known.tags.get("sha256") == sha256):
            return
        run = trial_run(self._study, trial)
        said = {k: run.tags[k] for k in ("hypertune.study_id", "hypertune.trial")}
        reached = {item.key: item.value for item in run.at_end}
        said |= {"hypertune.study": str(self._study["name"])}
        said |= {f"hypertune.{k.removeprefix(OWN)}": str(v) for k, v in reached.items()}
        try:
            version = register(
                self._mlflow,
                functools.partial(self._call, optional=True),
                uri=self._uri,
                name=str(self._study.get("space", self._study["name"])),
                experiment_id=cursors.experiment_id or "",
                run_ids=(its_run.run_id, cursors.runs[STUDY].run_id),
                folder=folder,
                sha256=sha256,
                made_ms=made[0].t_ms,
                tags=said,
                params=run.params,
                versions=self._study.get("environment", {}).get("versions", {}),
            )
        except (_TimeError, _GoneError):
            raise
        except Exception as error:  # whatever it is, the trials are there
            cause = getattr(error.__cause__, "error_code", None)
            why = _brief(error)
            if cause == "PERMISSION_DENIED":
                study = self._journal.path.parent.name
                why = (
                    "this login may not register models: `hypertune sync "
                    f"{study}` with one that may registers it"
                )
            cursors.refuse(_MODEL, why)
            _note(f"The best model is not registered: {why}")
        else:
            cursors.accept(_MODEL)
            cursors.save_run("model", Known(version, [], {"sha256": sha256}, None, None))

    def _bring_trial(self, trial: TrialHistory, rows: list[ResultRow]) -> None:
        if not trial.has_begun:
            return  # nothing to show yet
        run = trial_run(self._study, trial)
        try:
            self._bring(run, epoch_metrics(rows))
        except _RefusedError as refusal:
            if self._revive(None):
                self._bring_trial(trial, rows)
            else:
                self._cursors.refuse(_named(run), str(refusal))

    def _bring(self, run: Run, metrics: list[Item]) -> None:
        """Send what is new of a run: params apart, metrics and tags together, then its status."""
        row = self._ensure(run)
        params = [Item("param", k, v) for k, v in run.params.items() if k not in row.params]
        for batch in batches(params, 100):
            self._send(run, row.run_id, batch)
        tags = {k: v for k, v in run.tags.items() if row.tags.get(k) != v}
        tags |= {k: "" for k, v in row.tags.items() if v and k not in run.tags}
        items = [Item("tag", k, v) for k, v in tags.items()]
        items += [item for item in metrics if _named(run, item) not in self._cursors.refused]
        turned = (run.status, run.end_ms) != (row.status, row.end_ms)
        if turned or tags:  # a look at the test part comes after the end
            items += run.at_end
        for batch in batches(items, 1000):
            self._send(run, row.run_id, batch)
        if turned:
            self._call(lambda: self._set_status(run, row.run_id), refusable=True)
        if params or tags or turned:
            row = Known(row.run_id, list(run.params), dict(run.tags), run.status, run.end_ms)
            self._cursors.save_run(run.key, row)

    def _set_status(self, run: Run, run_id: str) -> None:
        if run.end_ms is None:
            self._mlflow.update_run(run_id, run.status)
        else:
            self._mlflow.set_terminated(run_id, run.status, run.end_ms)


def _named(run: Run, item: Item | None = None) -> str:
    name = run.key if run.key == STUDY else f"trial {run.key}"
    return name if item is None else f"{name}, {item.kind} '{item.key}'"


def _connected(uri: str) -> "MlflowClient":
    """Return a client whose store exists."""
    os.environ |= {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the client's own block for minutes
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it costs a request as well
    }
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    from mlflow import MlflowClient

    def opened(uri: str) -> MlflowClient:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # this makes the tables
        return client

    database = sqlite_path(uri)
    if database is None:
        return opened(uri)
    # Processes that open a new file at once crash in each other's schema migration, and a file
    # whose migration was cut short by a kill can never be opened again: it is made aside.
    with FileLock(f"{database}.lock", timeout=60):
        if not database.exists() or not database.stat().st_size:
            new = database.with_name(f"{database.name}.new")
            new.unlink(missing_ok=True)
            opened(sqlite_uri(new))
            new.replace(database)
        return opened(uri)


def _note(text: str) -> None:
    """Write into ``replica.log``, which is where stderr goes while a replica is at work."""
    sys.stderr.write(f"{time.strftime('%Y/%m/%d %H:%M:%S')} {text}\n")


def _brief(error: BaseException) -> str:
    lines = redact(str(error)).strip().splitlines()
    return cut(lines[0] if lines else type(error).__name__, 200)


def _explain(error: Exception, uri: str) -> str:
    """Say what is wrong with MLflow, and the remedy."""
    text, code = str(error), getattr(error, "error_code", None)
    if isinstance(error, DeadlineError):
        return f"{text.removesuffix('.')}: check that the server runs. Nothing is lost."
    where = f"MLflow at {redact(uri)}"
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        return (
            f"{where} wants a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
            "(or MLFLOW_TRACKING_TOKEN)."
        )
    if code == "PERMISSION_DENIED" and "host" in text.lower():
        return (
            f"{where} refuses the name it is called by: start the server with --allowed-hosts "
            "and this name, or call it by its IP address."
        )
    if code == "ENDPOINT_NOT_FOUND":
        return f"{where} answers, but not as an MLflow server does: check the tracking URI."
    if "API request" in text and "failed with" in text and code == "INTERNAL_ERROR":
        reason = re.search(
            r"refused|timed out|resolve|unreachable|reset|aborted|too many \d+ error", text
        )
        return (
            f"{where} cannot be reached ({reason[0] if reason else _brief(error)}): check the "
            "tracking URI and that the server runs. Nothing is lost."
        )
    return f"{where} fails: {code or type(error).__name__}: {_brief(error)}"


def _listen(stop: _Stop) -> None:
    """Wait for the driver to hang up: with a limit in seconds, or because it is dead."""
    said, driver = b"", os.getppid()
    # The parent is asked for too, since a fork of the driver could keep the pipe open.
    while not said.endswith(b"\n") and os.getppid() == driver:
        if select.select([0], [], [], 1.0)[0]:
            chunk = os.read(0, 64)  # unbuffered: a lock held at the exit would abort it
            if not chunk:
                break
            said += chunk
    limit = float(said) if said.endswith(b"\n") else _ORPHAN_LIMIT_S
    stop.close(limit)
    time.sleep(limit + 5)
    os._exit(1)  # a request hangs: leave no orphan


def _say(delivery: Delivery) -> None:
    with contextlib.suppress(OSError):  # nobody is listening any more
        os.write(1, json.dumps(asdict(delivery)).encode() + b"\n")


def main() -> None:
    """Run the uploader: ``python -m hypertune.tracking.mlflow.replica JOURNAL [--follow]``."""
    parser = argparse.ArgumentParser(description=f"The tracking URI is read from {URI_VARIABLE}.")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--follow", action="store_true", help="until stdin is closed")
    args = parser.parse_args()
    uri = os.environ.pop(URI_VARIABLE, None)
    if uri is None:
        parser.error(f"{URI_VARIABLE} must hold the tracking URI.")
    os.nice(19)
    sys.stdout = sys.stderr = Redacted(sys.stderr)  # stdout is for status lines alone
    stop = _Stop()
    if args.follow:
        # Cluster managers send it to all processes of a job: the driver says when this one ends.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    else:
        stop.close(math.inf)
    _Replica(args.journal, uri, stop, _say).run()


if __name__ == "__main__":
    main()
