"""How far MLflow has come: the uploader's own notes, beside the journal."""

import contextlib
import hashlib
import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from hypertune.core.text import redact

_WHAT_COUNTS = "kind IN ('trial', 'study', 'search_start', 'search_end', 'report', 'model')"


@dataclass
class Known:
    """What is known to be in MLflow of a run."""

    run_id: str
    params: list[str]
    tags: dict[str, str]
    status: str | None
    end_ms: int | None


def _target(uri: str) -> str:
    """Return a name for an MLflow that holds no credentials: the same for every user of it."""
    return hashlib.sha256(redact(uri).replace("***@", "").encode()).hexdigest()[:16]


class Cursors:
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
            key: Known(**json.loads(row))
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

    def save_run(self, key: str, row: Known) -> None:
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

    def accept(self, what: str) -> None:
        """Forget that something was refused: another try went well."""
        self.refused.pop(what, None)
        self._db.execute("DELETE FROM refused WHERE target = ? AND what = ?", (self._target, what))

    def close(self) -> None:
        self._db.close()


def delivered_ids(journal: Path) -> tuple[int, int]:
    """Return the last event and the last result of a journal that any MLflow was given."""
    notes = journal.with_name("replica.db")
    if not notes.is_file():
        return 0, 0
    try:
        with contextlib.closing(sqlite3.connect(notes, timeout=30)) as db:
            found = db.execute("SELECT max(event), max(result) FROM targets").fetchone()
    except sqlite3.Error:
        return 0, 0  # they may be lost: all is sent and found again
    return found[0] or 0, found[1] or 0


def count_pending(journal: Path, event: int, result: int) -> int:
    """Count the rows of a journal after two cursors."""
    with contextlib.closing(sqlite3.connect(journal, timeout=30)) as db:
        db.execute("PRAGMA query_only = ON")
        (n,) = db.execute(
            "SELECT (SELECT count(*) FROM results WHERE id > ?)"
            f" + (SELECT count(*) FROM events WHERE id > ? AND {_WHAT_COUNTS})",
            (result, event),
        ).fetchone()
    return int(n)


def pending_on_disk(journal: Path, uri: str) -> int | None:
    """Count the rows that an MLflow lacks, by the notes beside the journal; None if unknown."""
    try:
        if not journal.with_name("replica.db").exists():
            return count_pending(journal, 0, 0)
        with contextlib.closing(Cursors(journal, uri)) as cursors:
            return count_pending(journal, cursors.event, cursors.result)
    except sqlite3.Error:
        return None
