r"""The journal: one SQLite file a study, the truth about everything that was measured.

Written by the driver alone, in WAL mode, on a local disk; readers may open it at any time.
You may query it with any SQLite client. Times are Unix milliseconds; JSON holds plain values.
All text is UTF-8 without NUL: what a user's code says otherwise is spelled out, such as ``\udce9``
for a byte that could not be decoded.

====================  ============================================================================
table                 columns
====================  ============================================================================
``study``             ``key``, ``value`` (JSON): name, space, question, method, seed, metric, ...
``trials``            ``id``, ``config`` (JSON, nested as the space is, with the fixed values),
                      ``seed``, ``repeat``, ``role`` (search | replicate | baseline | rerun),
                      ``label`` (a name to read), ``state`` (waiting | running | ended), ``reason``
                      (how it ended: complete | converged | stopped | failed | lost |
                      interrupted), ``detail`` (the text of a failure, or why it was stopped),
                      ``created_ms``, ``started_ms``, ``ended_ms``
``results``           ``id``, ``trial``, ``epoch`` (from 1; 0 for models without epochs),
                      ``t_ms``, ``metrics`` (JSON). One row a (trial, epoch); first write wins
``events``            ``id``, ``t_ms``, ``kind``, ``trial``, ``data`` (JSON). The kinds, and what
                      each of them holds, are listed in docs/reference/journal.md
====================  ============================================================================

A result survives the kill of the process at once (it is in the operating system's hands), and a
loss of power once `Journal.sync` has run, which the driver does every half second.
"""

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hypertune.core.errors import JournalError, NothingBegunError
from hypertune.core.objective import Objective
from hypertune.core.text import storable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    id INTEGER PRIMARY KEY, config TEXT NOT NULL, seed INTEGER NOT NULL, repeat INTEGER NOT NULL,
    role TEXT NOT NULL, label TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, detail TEXT,
    created_ms INTEGER NOT NULL, started_ms INTEGER, ended_ms INTEGER);
CREATE TABLE IF NOT EXISTS results (
    id INTEGER PRIMARY KEY, trial INTEGER NOT NULL REFERENCES trials (id),
    epoch INTEGER NOT NULL, t_ms INTEGER NOT NULL, metrics TEXT NOT NULL, UNIQUE (trial, epoch));
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, t_ms INTEGER NOT NULL, kind TEXT NOT NULL, trial INTEGER,
    data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_trial ON events (trial);
"""
FORMAT = 2
_DETAIL_CHARS = 100_000
FULL = ("complete", "converged")
"""How trials end whose value is the one in full; that of no other is comparable with theirs."""


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A row of ``trials``."""

    id: int
    config: dict[str, Any]
    seed: int
    repeat: int
    role: str
    label: str
    state: str
    reason: str | None
    detail: str | None
    created_ms: int
    started_ms: int | None
    ended_ms: int | None

    @property
    def full(self) -> bool:
        """Its value is the one at the full number of epochs: complete, or converged before."""
        return self.reason in FULL


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A row of ``results``. ``id`` grows with every row: a reader may use it as a cursor."""

    id: int
    trial: int
    epoch: int
    t_ms: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """A row of ``events``. ``id`` grows with every row: a reader may use it as a cursor."""

    id: int
    t_ms: int
    kind: str
    trial: int | None
    data: dict[str, Any]


def predictions_file(folder: Path, trial: int) -> Path:
    """Return where a study keeps the predictions of a trial's model on the test part."""
    return folder / "predictions" / f"trial-{trial:03d}.npz"


def now_ms() -> int:
    """Return the time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def has_begun(path: Path) -> bool:
    """Say whether a study has begun in a journal, which may be missing or damaged.

    A process that was killed when it made the journal leaves an empty file, one without tables, or
    (as earlier versions did) tables without a study.
    """
    try:
        _check_file(path, read_only=True)
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
            db.execute("PRAGMA query_only = ON")
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                return False
            if db.execute("PRAGMA user_version").fetchone() != (FORMAT,):
                return True  # of another version, or another program's
            tables = ("study", "trials")
            return any(db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in tables)
    except NothingBegunError:
        return False
    except (sqlite3.Error, JournalError):
        return True  # something that cannot be read is not nothing


def _check_file(path: Path, *, read_only: bool) -> None:
    """Check what can be said of a journal without SQLite, whose messages are hard to understand."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise JournalError(f"'{path}' is a folder, but a study's journal is a file.")
        wal = path.with_name(path.name + "-wal")
        if size == 0 and wal.is_file() and wal.stat().st_size:
            # SQLite would delete the log of an empty file, and with it what may be saved.
            raise JournalError(
                f"The journal '{path}' is empty, but '{wal.name}' beside it is not: the file was "
                "cut off. Put the journal back from a backup, or delete the study."
            )
        if not os.access(path, os.R_OK if read_only else os.R_OK | os.W_OK):
            what = "read" if read_only else "read and write"
            raise JournalError(f"This user may not {what} the journal '{path}': see its mode.")
    except (FileNotFoundError, NotADirectoryError):
        if read_only:
            raise NothingBegunError(f"There is no journal at '{path}'.") from None
    except OSError as error:
        raise JournalError(f"The journal '{path}' cannot be opened: {error.strerror}.") from error
    else:
        if size == 0 and read_only:
            raise _nothing(path)


def _nothing(path: Path) -> NothingBegunError:
    return NothingBegunError(f"The journal '{path}' holds nothing: no study began.")


class Journal:
    """One study's record.

    Args:
        path: The file. Its folder must exist, on a local disk.
        read_only: Readers (the uploader, reports) never write, whatever happens.
        study: Keys of ``study``, of a study that begins. They are written with the tables in one
            transaction: a process that is killed meanwhile leaves a described study, or nothing.
        now: Returns the time that is written, in Unix milliseconds.

    Raises:
        JournalError: The file cannot be opened, holds another study than the one that begins, or
            was written by a newer version.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        study: Mapping[str, Any] | None = None,
        now: Callable[[], int] = now_ms,
    ) -> None:
        self.path = path
        self._now_ms = now
        self._dirty = False
        _check_file(path, read_only=read_only)
        with contextlib.ExitStack() as on_failure:
            try:
                # Not mode=ro for readers: those of a WAL file may have to make its shared-memory
                # file.
                self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
                on_failure.callback(self._db.close)
                self._prepare(read_only, study)
            except sqlite3.Error as error:
                raise JournalError(f"The journal '{path}' cannot be opened: {error}.") from error
            on_failure.pop_all()

    def _prepare(self, read_only: bool, study: Mapping[str, Any] | None) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        new = version == 0 and not self._tables()
        if new and read_only:
            raise _nothing(self.path)
        if version != FORMAT and not new:
            if version > FORMAT:
                hint = "It was written by a newer hypertune: use that one."
            else:
                hint = "It is no journal of this program."
            raise JournalError(
                f"'{self.path}' has format {version}, but this version reads {FORMAT}. {hint}"
            )
        if read_only:
            self._db.execute("PRAGMA query_only = ON")
        else:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        if new or study is not None:
            self._begin(study or {})
        self._db.execute("SELECT 1 FROM study, trials, results, events LIMIT 0")

    def _tables(self) -> int:
        ((n,),) = self._db.execute("SELECT count(*) FROM sqlite_master")
        return int(n)

    def _begin(self, study: Mapping[str, Any]) -> None:
        with self._write() as db:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")
            if study:
                if db.execute("SELECT count(*) FROM study").fetchone() != (0,):
                    raise JournalError(f"The journal '{self.path}' holds a study already.")
                self._set_study(db, study)
        self.sync()

    def close(self) -> None:
        """Bring everything to the disk and close the file."""
        if self._dirty:
            self.sync()
        self._db.close()

    # ---- writing: the driver only ----

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except Exception as error:  # of SQLite, or of a value that JSON or SQLite cannot hold
            raise JournalError(f"The journal '{self.path}' cannot be written: {error}.") from error
        self._dirty = True

    def sync(self) -> None:
        """Make what was written survive a loss of power: flush the write-ahead log to the disk."""
        if self._dirty:
            self.flush()
        self._dirty = False

    def flush(self) -> None:
        """Bring to the disk what any process has written by now."""
        with contextlib.suppress(FileNotFoundError):  # all of it is in the file itself
            fd = os.open(self.path.with_name(self.path.name + "-wal"), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def set_study(self, **values: Any) -> None:
        """Set keys of ``study``."""
        with self._write() as db:
            self._set_study(db, values)

    def _set_study(self, db: sqlite3.Connection, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            db.execute(
                "INSERT INTO study VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, _dump(value)),
            )
        self._event(db, "study", None, {"keys": sorted(values)})

    def add_trial(
        self,
        trial: int,
        config: Mapping[str, Any],
        *,
        seed: int,
        repeat: int = 0,
        role: str = "search",
        label: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a trial in state ``waiting``; ``data`` (where it came from) goes with its event."""
        t = self._now_ms()
        with self._write() as db:
            db.execute(
                "INSERT INTO trials "
                "VALUES (?, ?, ?, ?, ?, ?, 'waiting', NULL, NULL, ?, NULL, NULL)",
                (trial, _dump(config), seed, repeat, role, storable(label), t),
            )
            self._event(db, "trial", trial, {"state": "waiting", **(data or {})})

    def set_state(
        self, trial: int, state: str, *, reason: str | None = None, detail: str | None = None
    ) -> None:
        """Change a trial's state; ``reason`` and ``detail`` belong to state ``ended``."""
        t = self._now_ms()
        detail = None if detail is None else _shortened(storable(detail))
        with self._write() as db:
            db.execute(
                "UPDATE trials SET state = ?, reason = ?, detail = ?, "
                "started_ms = CASE WHEN ? = 'running' THEN coalesce(started_ms, ?) "
                "ELSE started_ms END, ended_ms = CASE WHEN ? = 'ended' THEN ? END WHERE id = ?",
                (state, reason, detail, state, t, state, t, trial),
            )
            self._event(db, "trial", trial, {"state": state, "reason": reason})

    def add_result(
        self, trial: int, epoch: int, metrics: Mapping[str, float], *, t_ms: int | None = None
    ) -> bool:
        """Add a result; return False, and change nothing, if this epoch is already there."""
        with self._write() as db:
            cursor = db.execute(
                "INSERT INTO results (trial, epoch, t_ms, metrics) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (trial, epoch) DO NOTHING",
                (trial, epoch, self._now_ms() if t_ms is None else t_ms, _dump(metrics)),
            )
            return cursor.rowcount == 1

    def add_event(
        self,
        kind: str,
        trial: int | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        study: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event, and set keys of ``study`` with it: a kill leaves both or neither."""
        with self._write() as db:
            self._event(db, kind, trial, data or {})
            if study:
                self._set_study(db, study)

    def _event(
        self, db: sqlite3.Connection, kind: str, trial: int | None, data: Mapping[str, Any]
    ) -> None:
        db.execute(
            "INSERT INTO events (t_ms, kind, trial, data) VALUES (?, ?, ?, ?)",
            (self._now_ms(), kind, trial, _dump(data)),
        )

    # ---- reading: anybody ----

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _unreadable(self, why: object) -> JournalError:
        return JournalError(
            f"The journal '{self.path}' cannot be read: {why}. If the file is damaged, .recover of "
            "SQLite's command line saves what is left of it."
        )

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise self._unreadable(f"{str(text)[:40]!r} is no JSON") from error

    def check(self) -> None:
        """Look through the whole file, in a tenth of a second for ten thousand trials.

        Raises:
            JournalError: It is damaged.
        """
        if (found := self._read("PRAGMA quick_check(1)")) != [("ok",)]:
            raise self._unreadable(" ".join(str(found[0][0]).split()))
        if strays := self._read("PRAGMA foreign_key_check"):
            raise self._unreadable(f"{len(strays)} results are of trials that it does not hold")

    def _metrics(self, text: str) -> dict[str, float]:
        return {key: float(value) for key, value in self._parsed(text).items()}

    def study(self) -> dict[str, Any]:
        """Return all keys of ``study``."""
        rows = self._read("SELECT key, value FROM study")
        return {key: self._parsed(value) for key, value in rows}

    def trials(self) -> list[TrialRow]:
        """Return all trials by id."""
        return [self._trial(row) for row in self._read("SELECT * FROM trials ORDER BY id")]

    def trial(self, trial: int) -> TrialRow:
        """Return one trial.

        Raises:
            KeyError: There is none of this id.
        """
        rows = self._read("SELECT * FROM trials WHERE id = ?", trial)
        if not rows:
            raise KeyError(trial)
        return self._trial(rows[0])

    def _trial(self, row: tuple[Any, ...]) -> TrialRow:
        names = TrialRow.__dataclass_fields__
        values = dict(zip(names, row, strict=True))
        return TrialRow(**{**values, "config": self._parsed(values["config"])})

    def results(
        self, *, trial: int | None = None, after: int = 0, limit: int = -1
    ) -> list[ResultRow]:
        """Return results in the order of their writing: of one trial, or those after a cursor."""
        # Two queries: one that serves both cases would use neither index.
        where, of = ("", ()) if trial is None else ("trial = ? AND ", (trial,))
        return [
            ResultRow(id=i, trial=k, epoch=epoch, t_ms=t_ms, metrics=self._metrics(metrics))
            for i, k, epoch, t_ms, metrics in self._read(
                f"SELECT * FROM results WHERE {where}id > ? ORDER BY id LIMIT ?", *of, after, limit
            )
        ]

    def events(
        self,
        *,
        kind: str | None = None,
        trial: int | None = None,
        after: int = 0,
        limit: int = -1,
    ) -> list[EventRow]:
        """Return events in the order of their writing: of a kind, of a trial, after a cursor."""
        where, of = ("", ()) if trial is None else ("trial = ? AND ", (trial,))
        return [
            EventRow(id=i, t_ms=t_ms, kind=k, trial=trial, data=self._parsed(data))
            for i, t_ms, k, trial, data in self._read(
                f"SELECT * FROM events WHERE {where}id > ? AND (? IS NULL OR kind = ?) "
                "ORDER BY id LIMIT ?",
                *of,
                after,
                kind,
                kind,
                limit,
            )
        ]

    def last_ids(self) -> tuple[int, int]:
        """Return the ids of the last event and of the last result; 0 where there is none."""
        ((event, result),) = self._read(
            "SELECT (SELECT ifnull(max(id), 0) FROM events),"
            " (SELECT ifnull(max(id), 0) FROM results)"
        )
        return event, result

    def mark(self) -> str:
        """Return a text by which the journal knows again how it is now: see `holds`."""
        return " ".join(
            f"{number} {self._digest(table, number)}"
            for table, number in zip(("events", "results"), self.last_ids(), strict=True)
        )

    def holds(self, mark: str) -> bool:
        """Say whether this journal, or the one that it goes on from, was once as a mark says.

        Rows are only added, each with the millisecond of its writing: two copies of a journal that
        both went on differ in all that was written since.
        """
        event, its_digest, result, of_result = mark.split()
        now = self._digest("events", int(event)), self._digest("results", int(result))
        return now == (its_digest, of_result)

    def _digest(self, table: str, number: int) -> str:
        found = self._read(f"SELECT * FROM {table} WHERE id = ?", number)
        return hashlib.sha256(repr(found).encode("utf-8", "replace")).hexdigest()[:12]


def best_result(results: Iterable[ResultRow], study: Mapping[str, Any]) -> ResultRow | None:
    """Return the result with the best value of the study's metric; of equal ones the first epoch.

    A value that is not finite, or missing, counts as no result: None where there is no other.

    Args:
        results: Of a trial.
        study: The table ``study``, of which ``metric`` and ``mode`` are read.
    """
    objective = Objective.of_study(study)
    metric = objective.metric
    finite = [row for row in results if math.isfinite(row.metrics.get(metric, math.nan))]
    return min(
        finite, key=lambda row: (objective.loss(row.metrics[metric]), row.epoch), default=None
    )


def job_results(
    jobs: Sequence[EventRow], results: Sequence[ResultRow]
) -> list[tuple[EventRow, list[ResultRow]]]:
    """Return a trial's jobs, each with the results that it gave.

    What was trained once more, after a worker was lost, belongs to the job that was first.

    Args:
        jobs: Its events of kind ``job``.
        results: Its results.
    """
    rows = {row.epoch: row for row in results}
    found = []
    for job, following in zip_longest(jobs, jobs[1:]):
        end = math.inf if following is None else following.t_ms
        span = range(job.data["from_epoch"] + 1, job.data["to_epoch"] + 1)
        own = [rows.pop(epoch) for epoch in span if epoch in rows and rows[epoch].t_ms <= end]
        found.append((job, own))
    return found


def flat_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested config by dotted names, as records show it.

    Of two that would be called alike (``{"a.b": 1, "a": {"b": 2}}``) the second gets the list of
    its keys for a name.
    """
    flat: dict[str, Any] = {}
    for path, value in _paths(config):
        name = ".".join(path)
        flat[name if name not in flat else json.dumps(path)] = value
    return flat


def _paths(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from (((key, *path), item) for path, item in _paths(value))
        else:
            yield (key,), value


def _dump(value: Any) -> str:
    return json.dumps(_spelled(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _shortened(text: str) -> str:
    """Return a text without its middle, if it is long: a traceback says most at its ends."""
    if len(text) <= _DETAIL_CHARS:
        return text
    half = _DETAIL_CHARS // 2
    return f"{text[:half]}\n... (cut: {len(text)} characters in all)\n{text[-half:]}"


def _spelled(value: Any) -> Any:
    """Spell as strings what JSON lacks: floats that are not finite, text that is not UTF-8."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        spelled = {_spelled(key): _spelled(item) for key, item in value.items()}
        if len(spelled) < len(value):
            raise ValueError(f"names must differ as UTF-8 spells them, but got {list(value)}")
        return spelled
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    return value
