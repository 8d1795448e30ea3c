"""The MLflow replica of a journal, brought up to date by an uploader process of its own.

The journal is the truth. The uploader reads it, from cursors of its own (``replica.db`` beside it),
and never writes it; whatever befalls MLflow neither ends nor slows a search. Everything sent is
made from the journal alone, its timestamps too, and runs are looked up before they are created, so
sending a thing twice adds nothing.

======================  ============================================================================
in MLflow               from the journal
======================  ============================================================================
experiment              the space, by its name
parent run              the study: settings as params, question and budget as description, and at
                        the end ``n_trials_ended``, ``n_results``, ``best_<metric>``
child run               a trial, once it has started: config as params (``log10_<name>`` too for
                        parameters on a log scale), every finite metric at step = epoch; once it has
                        ended, at step 0, ``best_<metric>``, ``best_epoch`` and, if it is complete
                        or converged, ``final_<metric>``
status of a child run   FINISHED (complete, converged), KILLED (stopped, interrupted) or FAILED
                        (failed, lost); tags ``hypertune.state`` and ``hypertune.reason`` say which
======================  ============================================================================

What the server refuses for good is set aside and named in the warning; the rest goes on. What was
deleted in MLflow while there is still something to deliver to it is restored.
"""

import argparse
import contextlib
import getpass
import hashlib
import io
import json
import math
import os
import re
import select
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout

from hypertune.records.journal import Journal, ResultRow, TrialRow

if TYPE_CHECKING:  # mlflow takes a second and 160 MiB: only the uploader process imports it
    from mlflow import MlflowClient

_URI_VARIABLE = "HYPERTUNE_REPLICA_URI"
_ORPHAN_LIMIT_S = 60.0  # how long an uploader whose driver was killed goes on
_POLL_S = 0.5
_SLICE = 5000  # results read at once
_STUDY = "study"  # the key of the parent run; those of the others are trial ids
_KEY_CHARS, _PARAM_CHARS, _TAG_CHARS = 250, 6000, 8000  # MLflow's limits
_BATCH_CHARS = 150_000  # at worst 6 bytes a character in JSON: under MLflow's 1 MB a request
_STATUS = {
    **dict.fromkeys(("complete", "converged"), "FINISHED"),
    **dict.fromkeys(("stopped", "interrupted"), "KILLED"),
    **dict.fromkeys(("failed", "lost"), "FAILED"),
}
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE"}
_WHAT_COUNTS = "kind IN ('trial', 'study', 'search_start', 'search_end')"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How far a delivery has come.

    Attributes:
        pending: Rows of the journal that MLflow does not have yet; None: not known (yet).
        warning: What is wrong and what to do about it, without credentials; None: nothing.
        experiment_id: MLflow's id of the experiment, once known.
        run_id: MLflow's id of the study's run, once known.
    """

    pending: int | None = None
    warning: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None


def redact(text: str) -> str:
    """Return ``text`` with the user and password of every URI in it replaced by ``***``."""
    text = re.sub(r"://[^/\s'\"]*@", "://***@", text)
    return re.sub(
        r"(?i)([?&][^=&\s]*(?:password|token|secret|key)[^=&\s]*=)[^&\s'\"]+", r"\1***", text
    )


class Uploader:
    """An uploader process, as the driver sees it. None of its methods raises for MLflow's sake.

    Args:
        journal: The journal's file.
        tracking_uri: Where MLflow is. A path in it must be absolute. Credentials in it, or in
            MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, reach the process by its
            environment only.
    """

    def __init__(self, journal: Path, tracking_uri: str) -> None:
        self._journal = journal
        self._uri = tracking_uri
        self._said = Delivery()
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """Start the process; it follows the journal, at most seconds behind."""
        root = Path(__file__).parents[2]
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", __name__, str(self._journal.resolve()), "--follow"]
        try:
            with _open_log(self._journal) as log:
                self._process = subprocess.Popen(
                    command,
                    env={**os.environ, "PYTHONPATH": path, _URI_VARIABLE: self._uri},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # a Ctrl-C in the terminal is not for the uploader
                )
        except OSError as error:
            self._said = Delivery(warning=f"The MLflow uploader cannot be started: {error}.")
        else:
            self._reader.start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError, TypeError):  # a line cut short by a kill
                    self._said = Delivery(**json.loads(line))

    @property
    def status(self) -> Delivery:
        """The latest that the process said; never blocks."""
        if self._process is not None and self._process.poll() not in (None, 0):
            return replace(self._said, warning=self._obituary())
        return self._said

    def finish(
        self, timeout_s: float, on_progress: Callable[[Delivery], None] | None = None
    ) -> Delivery:
        """Let the process deliver the rest, and end it.

        Args:
            timeout_s: Seconds after which it is ended, whatever is pending then.
            on_progress: Called with each new status.

        Returns:
            The last status. What is pending stays in the journal, for a later `deliver`.
        """
        process = self._process
        if process is None:
            return replace(self._said, pending=_pending_on_disk(self._journal, self._uri))
        deadline = time.monotonic() + timeout_s
        cut = True
        try:
            self._hang_up(process, timeout_s)
            shown = None
            while cut and time.monotonic() < deadline:
                if on_progress is not None and shown != self._said:
                    shown = self._said
                    on_progress(shown)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(0.1, max(0.0, deadline - time.monotonic())))
                    cut = False
        finally:
            _end(process)
        self._reader.join(1)
        if process.returncode != 0:
            warning = self._said.warning if cut else self._obituary()
            pending = _pending_on_disk(self._journal, self._uri)
            self._said = replace(self._said, pending=pending, warning=warning)
        self._process = None
        if self._said.pending and self._said.warning is None:
            late = f"MLflow was not done in {timeout_s:g} s; the rest can be delivered later."
            self._said = replace(self._said, warning=late)
        return self._said

    @staticmethod
    def _hang_up(process: subprocess.Popen[str], timeout_s: float) -> None:
        """Close the process's stdin, on which it delivers the rest and exits."""
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone already
            process.stdin.write(f"{0.9 * timeout_s}\n")
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _obituary(self) -> str:
        assert self._process is not None
        with contextlib.suppress(OSError):
            log = _log_path(self._journal).read_text(errors="replace")
            tail = " | ".join(redact(log).strip().splitlines()[-3:])[-600:]
            return f"The MLflow uploader ended (exit code {self._process.returncode}): {tail}"
        return f"The MLflow uploader ended (exit code {self._process.returncode})."


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def deliver(journal: Path, tracking_uri: str, *, timeout_s: float | None) -> Delivery:
    """Deliver a journal from this process, once, and return when all is there.

    Waits for another uploader of the same study. mlflow's own messages go to ``replica.log``.

    Args:
        journal: The journal's file.
        tracking_uri: Where MLflow is. A path in it must be absolute.
        timeout_s: Seconds after which to give up, or None. A request under way is not broken off.

    Raises:
        JournalError: The journal cannot be opened.
    """
    stop = _Stop()
    stop.close(math.inf if timeout_s is None else timeout_s)
    with _open_log(journal) as log, contextlib.redirect_stderr(_Redacted(log)):
        return _Replica(journal, tracking_uri, stop).run()


def _log_path(journal: Path) -> Path:
    return journal.with_name("replica.log")


def _open_log(journal: Path) -> IO[str]:
    path = _log_path(journal)
    long = path.is_file() and path.stat().st_size > 1_000_000
    return path.open("w" if long else "a", encoding="utf-8")


class _Redacted(io.TextIOBase):
    """A stream in front of another that lets no credentials through."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        self._stream.write(redact(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


# ---- what a run holds, from the journal alone ----


class _Item(NamedTuple):
    """One thing of a run: a metric, a param or a tag."""

    kind: str
    key: str
    value: Any
    t_ms: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What MLflow is to hold of a study or a trial, but for the metrics of its epochs."""

    key: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    start_ms: int
    status: str
    end_ms: int | None
    at_end: list[_Item]


def _study_run(journal: Journal, study: Mapping[str, Any]) -> _Run:
    starts, ends = journal.events(kind="search_start"), journal.events(kind="search_end")
    end = ends[-1] if ends and (not starts or ends[-1].id > starts[-1].id) else None
    names = ("method", "seed", "n_trials", "max_epochs", "metric", "mode")
    settings = {name: study[name] for name in names if name in study} | study.get("settings", {})
    scalars = {k: v for k, v in settings.items() if isinstance(v, str | int | float | bool)}
    return _Run(
        key=_STUDY,
        name=study["name"],
        tags={
            **_common_tags(study),
            "hypertune.role": _STUDY,
            "hypertune.study": study["name"],
            "mlflow.note.content": _cut(_description(study), _TAG_CHARS),
        },
        params={_key(name): _cut(value, _PARAM_CHARS) for name, value in scalars.items()},
        start_ms=journal.events(limit=1)[0].t_ms,
        status="RUNNING" if end is None else _ended_status(end.data),
        end_ms=None if end is None else end.t_ms,
        at_end=[] if end is None else _study_metrics(journal, study, end.t_ms),
    )


def _ended_status(data: Mapping[str, Any]) -> str:
    return "KILLED" if data.get("interrupted") is True else "FINISHED"


def _study_metrics(journal: Journal, study: Mapping[str, Any], t_ms: int) -> list[_Item]:
    trials, results = journal.trials(), journal.results()
    searched = {trial.id for trial in trials if trial.role == "search"}
    n_ended = sum(trial.state == "ended" for trial in trials)
    values: dict[str, float] = {"n_trials_ended": n_ended, "n_results": len(results)}
    if best := _best([row for row in results if row.trial in searched], study):
        values[f"best_{study['metric']}"] = best[0]
    return [_Item("metric", _key(name), value, t_ms) for name, value in values.items()]


def _description(study: Mapping[str, Any]) -> str:
    lines = [
        f"**{study.get('question', study['name'])}**\n",
        f"- factors: {', '.join(study.get('factors', ())) or 'none'}",
        f"- method: {study.get('method')}, seed {study.get('seed')}",
        f"- budget: {study.get('n_trials')} trials of up to {study.get('max_epochs')} epochs",
        f"- metric: {study.get('metric')} ({study.get('mode')})",
    ]
    lines += [f"- {key}: {value}" for key, value in _flat(study.get("environment", {})).items()]
    return "\n".join(lines)


def _common_tags(study: Mapping[str, Any]) -> dict[str, str]:
    tags = {
        "hypertune.study_id": study["study_id"],
        "mlflow.user": _user(),
        "mlflow.source.name": "hypertune",
        "mlflow.source.type": "LOCAL",
    }
    if commit := study.get("git_commit"):
        tags["mlflow.source.git.commit"] = str(commit)
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())


def _trial_run(journal: Journal, study: Mapping[str, Any], trial: TrialRow) -> _Run:
    tags = {
        **_common_tags(study),
        "hypertune.trial": str(trial.id),
        "hypertune.role": trial.role,
        "hypertune.repeat": str(trial.repeat),
        "hypertune.state": trial.state,
    }
    ended = trial.state == "ended"
    if ended and trial.reason:
        tags["hypertune.reason"] = trial.reason
    status = _STATUS.get(trial.reason or "", "FINISHED") if ended else "RUNNING"
    if status == "FAILED" and trial.detail:
        text = trial.detail.replace("```", "'''")
        if len(text) > _TAG_CHARS - 50:  # the end of a traceback says most
            text = "... (cut)\n" + text[50 - _TAG_CHARS :]
        tags["mlflow.note.content"] = f"```text\n{text}\n```"
    return _Run(
        key=str(trial.id),
        name=trial.label or f"trial-{trial.id:03d}",
        tags=tags,
        params=_trial_params(study, trial),
        start_ms=trial.started_ms or trial.created_ms,
        status=status,
        end_ms=trial.ended_ms if ended else None,
        at_end=_trial_metrics(journal, study, trial) if ended else [],
    )


def _trial_params(study: Mapping[str, Any], trial: TrialRow) -> dict[str, str]:
    values = {"seed": trial.seed, **_flat(study.get("fixed", {})), **_flat(trial.config)}
    for name in study.get("log_parameters", ()):
        value = values.get(name)
        if isinstance(value, int | float) and 0 < value < math.inf:
            values[f"log10_{name}"] = round(math.log10(value), 6)
    return {_key(name): _cut(value, _PARAM_CHARS) for name, value in values.items()}


def _trial_metrics(journal: Journal, study: Mapping[str, Any], trial: TrialRow) -> list[_Item]:
    results = journal.results(trial=trial.id)
    if not (best := _best(results, study)):
        return []
    metric = study["metric"]
    values = {f"best_{metric}": best[0], "best_epoch": float(best[1])}
    final = max(results, key=lambda row: row.epoch).metrics.get(metric, math.nan)
    if trial.reason in ("complete", "converged") and math.isfinite(final):
        values[f"final_{metric}"] = final
    t_ms = max(row.t_ms for row in results)
    return [_Item("metric", _key(name), value, t_ms) for name, value in values.items()]


def _best(results: Sequence[ResultRow], study: Mapping[str, Any]) -> tuple[float, int] | None:
    """Return the best finite value of the study's metric and its (earliest) epoch."""
    sign = -1 if study.get("mode") == "max" else 1
    values = [(row.metrics.get(study.get("metric", ""), math.nan), row.epoch) for row in results]
    finite = [(value, epoch) for value, epoch in values if math.isfinite(value)]
    return min(finite, key=lambda pair: (sign * pair[0], pair[1]), default=None)


def _epoch_metrics(rows: Sequence[ResultRow]) -> list[_Item]:
    """Return all finite metrics; MLflow cannot hold others."""
    return [
        _Item("metric", _key(name), value, row.t_ms, row.epoch)
        for row in rows
        for name, value in row.metrics.items()
        if math.isfinite(value)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _key(name: str) -> str:
    """Return a key that MLflow takes: other characters become ``_``; a long one ends in a hash."""
    key = re.sub(r"[^/\w.\- :]", "_", name)
    if len(key) <= _KEY_CHARS:
        return key
    return f"{key[: _KEY_CHARS - 14]}.cut-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _cut(value: Any, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 9] + "... (cut)"


def _batches(items: Sequence[_Item], limit: int) -> Iterator[list[_Item]]:
    """Cut into batches of at most ``limit`` items that fit into a request each."""
    batch: list[_Item] = []
    chars = 0
    for item in items:
        size = len(item.key) + len(str(item.value))
        if batch and (len(batch) == limit or chars + size > _BATCH_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(item)
        chars += size
    if batch:
        yield batch


# ---- the cursors ----


@dataclass
class _Row:
    """What is known to be in MLflow of a run."""

    run_id: str
    params: list[str]
    tags: dict[str, str]
    status: str | None
    end_ms: int | None


def _target(uri: str) -> str:
    """Return a name for an MLflow that holds no credentials: the same for every user of it."""
    return hashlib.sha256(redact(uri).replace("***@", "").encode()).hexdigest()[:16]


class _Cursors:
    """What was delivered to one MLflow. Losing it costs time only: all is sent and found again."""

    def __init__(self, journal: Path, uri: str) -> None:
        self._db = sqlite3.connect(
            journal.with_name("replica.db"), timeout=30, isolation_level=None
        )
        self._db.executescript("""
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = NORMAL;
            CREATE TABLE IF NOT EXISTS targets (target TEXT PRIMARY KEY, uri TEXT,
                experiment_id TEXT, event INTEGER DEFAULT 0, result INTEGER DEFAULT 0);
            CREATE TABLE IF NOT EXISTS runs (target TEXT, key TEXT, row TEXT,
                PRIMARY KEY (target, key));
            CREATE TABLE IF NOT EXISTS refused (target TEXT, what TEXT, why TEXT,
                PRIMARY KEY (target, what));
        """)
        self._target, self._uri = _target(uri), redact(uri)
        self.load()

    def load(self) -> None:
        """Read them: at the start, and after another uploader may have written them."""
        self._db.execute(
            "INSERT INTO targets (target, uri) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (self._target, self._uri),
        )
        self.experiment_id, self.event, self.result = self._db.execute(
            "SELECT experiment_id, event, result FROM targets WHERE target = ?", (self._target,)
        ).fetchone()
        self.refused: dict[str, str] = dict(self._of_target("SELECT what, why FROM refused"))
        self.runs = {
            key: _Row(**json.loads(row))
            for key, row in self._of_target("SELECT key, row FROM runs")
        }

    def _of_target(self, statement: str) -> list[tuple[str, str]]:
        return self._db.execute(f"{statement} WHERE target = ?", (self._target,)).fetchall()

    def forget(self) -> None:
        """Start from nothing: MLflow lost what it had."""
        for table in ("targets", "runs", "refused"):
            self._db.execute(f"DELETE FROM {table} WHERE target = ?", (self._target,))
        self.load()

    def save(self) -> None:
        self._db.execute(
            "UPDATE targets SET experiment_id = ?, event = ?, result = ? WHERE target = ?",
            (self.experiment_id, self.event, self.result, self._target),
        )

    def save_run(self, key: str, row: _Row) -> None:
        self.runs[key] = row
        self._db.execute(
            "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)",
            (self._target, key, json.dumps(asdict(row))),
        )

    def refuse(self, what: str, why: str) -> None:
        self.refused[what] = why
        self._db.execute(
            "INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", (self._target, what, why)
        )

    def close(self) -> None:
        self._db.close()


def _pending(journal: Path, event: int, result: int) -> int:
    """Count the rows of a journal after two cursors."""
    with contextlib.closing(sqlite3.connect(journal, timeout=30)) as db:
        db.execute("PRAGMA query_only = ON")
        (n,) = db.execute(
            "SELECT (SELECT count(*) FROM results WHERE id > ?)"
            f" + (SELECT count(*) FROM events WHERE id > ? AND {_WHAT_COUNTS})",
            (result, event),
        ).fetchone()
    return int(n)


def _pending_on_disk(journal: Path, uri: str) -> int | None:
    try:
        with contextlib.closing(_Cursors(journal, uri)) as cursors:
            return _pending(journal, cursors.event, cursors.result)
    except sqlite3.Error:
        return None


# ---- the process side ----


class _TimeError(Exception):
    """The time to deliver is over."""


class _GoneError(Exception):
    """MLflow no longer knows a thing that it had: its store was replaced, or cleaned."""


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
        if time.monotonic() >= self._deadline:
            raise _TimeError

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the deadline, nor when the end begins."""
        if self.closing.is_set():
            time.sleep(max(0.0, min(seconds, self._deadline - time.monotonic())))
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
        self._journal = Journal(journal, read_only=True)
        self._cursors = _Cursors(journal, uri)
        self._client: MlflowClient | None = None
        self._found: dict[str, _Row] | None = None  # runs on the server, once looked up
        self._study: dict[str, Any] = {}
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
                self._catch_up()
                self._report(at_once=True)
                if closing:
                    break
                self._stop.wait(_POLL_S)
        except _TimeError:
            pass
        finally:
            self._report(at_once=True)
            lock.release()
            self._cursors.close()
            self._journal.close()
        return self._last

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
        pending = _pending(self._journal.path, cursors.event, cursors.result) - self._ahead
        refused = ", ".join(f"{what} ({why})" for what, why in [*cursors.refused.items()][:3])
        if refused:
            refused = f"MLflow refused {len(cursors.refused)} record(s), set aside: {refused}"
        parent = cursors.runs.get(_STUDY)
        now = Delivery(
            pending=pending,
            warning=" ".join(filter(None, (self._trouble, refused))) or None,
            experiment_id=cursors.experiment_id,
            run_id=parent.run_id if parent else None,
        )
        if now != self._last:
            self._last, self._last_at = now, time.monotonic()
            self._emit(now)

    # ---- requests ----

    def _call(self, request: Callable[[], _T], *, refusable: bool = False) -> _T:
        """Make a request, again and again while it fails in a way that may pass."""
        pause = 0.5
        while True:
            self._stop.check()
            try:
                answer = request()
            except Exception as error:  # anything: the uploader outlives whatever a client raises
                code = getattr(error, "error_code", None)
                if code == "RESOURCE_DOES_NOT_EXIST":
                    raise _GoneError from error
                if refusable and (code in _REFUSALS or isinstance(error, ValueError | TypeError)):
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

    def _send(self, run: _Run, run_id: str, items: list[_Item], *, whole: bool = True) -> None:
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
        parent = self._ensure(_study_run(self._journal, self._study))
        self._revive(parent.run_id)

    def _find_experiment(self) -> str:
        name = str(self._study.get("space", self._study["name"]))
        experiment = self._mlflow.get_experiment_by_name(name)
        if experiment is None:
            database = _sqlite_path(self._uri)
            artifacts = (database.parent / "mlartifacts").as_uri() if database else None
            return self._mlflow.create_experiment(name, artifact_location=artifacts)
        if experiment.lifecycle_stage != "active":
            self._mlflow.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _ensure(self, run: _Run) -> _Row:
        """Return what MLflow has of a run, after creating it if it has nothing."""
        row = self._cursors.runs.get(run.key)
        if row is None:
            row = self._call(lambda: self._find_or_create(run), refusable=run.key != _STUDY)
            self._cursors.save_run(run.key, row)
        return row

    def _find_or_create(self, run: _Run) -> _Row:
        if self._found is None:
            self._found = self._search()
        if run.key in self._found:
            return self._found[run.key]
        tags = dict(run.tags)
        if run.key != _STUDY:
            tags["mlflow.parentRunId"] = self._cursors.runs[_STUDY].run_id
        try:
            created = self._mlflow.create_run(
                self._cursors.experiment_id, run.start_ms, tags, run.name
            )
        except Exception:
            self._found = None  # only the answer may have been lost: look again before a second try
            raise
        return _Row(created.info.run_id, [], run.tags, "RUNNING", None)

    def _search(self) -> dict[str, _Row]:
        """Return all runs of this study that the server has."""
        found: dict[str, _Row] = {}
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
                    k: v for k, v in tags.items() if k.startswith(("hypertune.", "mlflow.note"))
                }
                is_study = tags.get("hypertune.role") == _STUDY
                # A study's settings may change (it is extended), its params cannot: the first stay.
                params = list(run.data.params) if is_study else []
                row = _Row(run.info.run_id, params, ours, None, None)
                found.setdefault(_STUDY if is_study else tags.get("hypertune.trial", ""), row)
            token = page.token or ""
        return found

    # ---- bringing it up to date ----

    def _catch_up(self) -> None:
        """Deliver all that the journal holds by now."""
        while True:
            self._ahead = 0
            try:
                if self._client is None:
                    self._study = self._journal.study()
                    if not self._study.keys() >= {"study_id", "name"}:
                        self._trouble = "The journal holds no study yet."
                        return
                    self._connect()
                return self._deliver_new()
            except _GoneError as gone:
                _note(f"MLflow lost what it had; all is sent again: {gone.__cause__}")
                self._cursors.forget()
                self._client = None
                self._stop.wait(_POLL_S)

    def _deliver_new(self) -> None:
        cursors, journal = self._cursors, self._journal
        events = journal.events(after=cursors.event)  # before the results: these come first
        changed = {e.trial for e in events if e.kind == "trial" and e.trial is not None}
        about_study = any(e.kind in ("study", "search_start", "search_end") for e in events)
        if about_study:
            self._study = journal.study()
        last = False
        while not last:
            rows = journal.results(after=cursors.result, limit=_SLICE)
            last = len(rows) < _SLICE
            trials: dict[int, list[ResultRow]] = {t: [] for t in sorted(changed) if last}
            for row in rows:
                trials.setdefault(row.trial, []).append(row)
            for trial, its_rows in trials.items():
                self._bring_trial(journal.trial(trial), its_rows)
                self._ahead += len(its_rows)
                self._report()
            if rows:
                cursors.result = rows[-1].id
                cursors.save()
            self._ahead = 0
        if about_study:
            self._bring(_study_run(journal, self._study), [])
        if events:
            cursors.event = events[-1].id
            cursors.save()

    def _bring_trial(self, trial: TrialRow, rows: list[ResultRow]) -> None:
        if trial.state == "waiting" and trial.started_ms is None and not rows:
            return  # nothing to show yet
        run = _trial_run(self._journal, self._study, trial)
        try:
            self._bring(run, _epoch_metrics(rows))
        except _RefusedError as refusal:
            if self._revive(None):
                self._bring_trial(trial, rows)
            else:
                self._cursors.refuse(_named(run), str(refusal))

    def _bring(self, run: _Run, metrics: list[_Item]) -> None:
        """Send what is new of a run: params apart, metrics and tags together, then its status."""
        row = self._ensure(run)
        params = [_Item("param", k, v) for k, v in run.params.items() if k not in row.params]
        for batch in _batches(params, 100):
            self._send(run, row.run_id, batch)
        tags = {k: v for k, v in run.tags.items() if row.tags.get(k) != v}
        tags |= {k: "" for k, v in row.tags.items() if v and k not in run.tags}
        items = [_Item("tag", k, v) for k, v in tags.items()]
        items += [item for item in metrics if _named(run, item) not in self._cursors.refused]
        turned = (run.status, run.end_ms) != (row.status, row.end_ms)
        if turned:
            items += run.at_end
        for batch in _batches(items, 1000):
            self._send(run, row.run_id, batch)
        if turned:
            self._call(lambda: self._set_status(run, row.run_id), refusable=True)
        if params or tags or turned:
            row = _Row(row.run_id, list(run.params), dict(run.tags), run.status, run.end_ms)
            self._cursors.save_run(run.key, row)

    def _set_status(self, run: _Run, run_id: str) -> None:
        if run.end_ms is None:
            self._mlflow.update_run(run_id, run.status)
        else:
            self._mlflow.set_terminated(run_id, run.status, run.end_ms)


def _named(run: _Run, item: _Item | None = None) -> str:
    name = run.key if run.key == _STUDY else f"trial {run.key}"
    return name if item is None else f"{name}, {item.kind} '{item.key}'"


def _connected(uri: str) -> "MlflowClient":
    """Return a client whose store exists."""
    os.environ |= {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the client's own block for minutes
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it costs a request as well
    }
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    from mlflow import MlflowClient

    database = _sqlite_path(uri)
    # Processes that open a new file at once crash in each other's schema migration.
    guard = FileLock(f"{database}.lock", timeout=60) if database else contextlib.nullcontext()
    with guard:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _note(text: str) -> None:
    """Write into ``replica.log``, which is where stderr goes while a replica is at work."""
    sys.stderr.write(f"{time.strftime('%Y/%m/%d %H:%M:%S')} {text}\n")


def _brief(error: BaseException) -> str:
    lines = redact(str(error)).strip().splitlines()
    return _cut(lines[0] if lines else type(error).__name__, 200)


def _explain(error: Exception, uri: str) -> str:
    """Say what is wrong with MLflow, and the remedy."""
    text, code = str(error), getattr(error, "error_code", None)
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
            "tracking URI and that the server runs. Nothing is lost; it is tried again."
        )
    return f"{where} fails, and is tried again: {code or type(error).__name__}: {_brief(error)}"


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
    """Run the uploader process: ``python -m hypertune.records.replica JOURNAL [--follow]``."""
    parser = argparse.ArgumentParser(description=f"The tracking URI is read from {_URI_VARIABLE}.")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--follow", action="store_true", help="until stdin is closed")
    args = parser.parse_args()
    uri = os.environ.pop(_URI_VARIABLE, None)
    if uri is None:
        parser.error(f"{_URI_VARIABLE} must hold the tracking URI.")
    os.nice(10)
    sys.stdout = sys.stderr = _Redacted(sys.stderr)  # stdout is for status lines alone
    stop = _Stop()
    if args.follow:
        threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    else:
        stop.close(math.inf)
    _Replica(args.journal, uri, stop, _say).run()


if __name__ == "__main__":
    main()
