"""Copies of a journal where all nodes reach them, for a study whose driver may move.

A journal lies on the local disk of its driver (SQLite's locks fail on network file systems). Where
a study has ``--storage``, its uploader also copies the journal there every few seconds, as one
file, and MLflow is given what such a copy holds, and nothing beyond: a driver that goes on
elsewhere, from the copy, then never contradicts what MLflow was told.
"""

import contextlib
import itertools
import math
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hypertune.core.errors import JournalError, SettingError, choices
from hypertune.core.storage import below, fetch, listed, put
from hypertune.journal.store import Journal, has_begun

_NAME = "journal.db"
_SUPERSEDED = "journal-superseded-{}.db"
_PLACE = re.compile(r"(.+)-[0-9a-f]{8}")
_EVERY_S = 10.0
_SHARE = 0.1  # of the uploader's time, where copies take long


def study_place(storage: str, name: str, study_id: str) -> str:
    """Return where a study's files lie in a storage; two studies of one name may meet there.

    Raises:
        JournalError: The id, which a journal from elsewhere may hold, would lead away from there.
    """
    if not study_id.isalnum():
        raise JournalError(
            f"A study's id must be letters and digits, but '{name}' has '{study_id}'."
        )
    return below(storage, f"{name}-{study_id[:8]}")


def copy_journal(journal: sqlite3.Connection, to: Path) -> None:
    """Copy a journal, whole even while it grows, into one new file."""
    with contextlib.closing(sqlite3.connect(to)) as copy:
        journal.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # all of it is in the one file


class Snapshots:
    """Copies of a growing journal.

    Args:
        journal: Its file.
        place: Of the copies, as `study_place` gives it.
    """

    def __init__(self, journal: Path, place: str) -> None:
        self._to = below(place, _NAME)
        self.copy = journal.with_name("snapshot.db")
        self._db = sqlite3.connect(journal, timeout=30)
        self._db.execute("PRAGMA query_only = ON")
        self._held: tuple[int, ...] | None = None
        self._due_at = -float("inf")

    def take(self, *, at_once: bool, timeout_s: float = math.inf) -> bool:
        """Make a copy, if one is due and the journal has grown; return whether one was made.

        Args:
            at_once: It is due.
            timeout_s: At most so many seconds for a bucket.

        Raises:
            Exception: Of the storage, of whatever kind. The copy before is still there.
        """
        if time.monotonic() < self._due_at and not at_once:
            return False
        (now,) = self._db.execute(
            "SELECT (SELECT ifnull(max(id), 0) FROM events),"
            " (SELECT ifnull(max(id), 0) FROM results)"
        ).fetchall()
        if now == self._held and self.copy.is_file():
            return False
        begun = time.monotonic()
        part = self.copy.with_suffix(".part")
        part.unlink(missing_ok=True)
        copy_journal(self._db, part)
        put(part, self._to, timeout_s=timeout_s)
        part.replace(self.copy)
        self._held = now
        took = time.monotonic() - begun
        self._due_at = time.monotonic() + max(_EVERY_S, took / _SHARE)
        return True

    def close(self) -> None:
        self._db.close()


def catch_up(folder: Path, storage: str) -> bool:
    """Bring a study's journal here up to date, where another driver has gone on with the study.

    Args:
        folder: The study's, which need not exist.
        storage: Where copies of its journal are.

    Returns:
        Whether the journal was fetched. One that was here, and holds what the other lacks, is kept
        under another name, and the journal's last event ``superseded`` says what is in which.

    Raises:
        SettingError: Neither a journal nor a copy of it is there, or there are several.
        JournalError: One of them cannot be read.
    """
    here = folder / _NAME
    study_id = _study_id(here) if has_begun(here) else None
    place = _found(folder.name, storage, study_id)
    if place is None:
        return False
    with tempfile.TemporaryDirectory(prefix="hypertune-") as scratch:
        copy = Path(scratch, _NAME)
        try:
            fetch(below(place, _NAME), copy)
        except FileNotFoundError:
            if study_id is not None:
                return False  # none was made yet
            raise SettingError(f"There is no journal at '{place}'.") from None
        except Exception as problem:  # of a file system or a service, of whatever kind
            raise SettingError(f"'{place}' cannot be read: {problem}") from problem
        there = _sessions(copy)
        if study_id is not None and set(there) <= set(_sessions(here)):
            return False
        lacks = None if study_id is None else _difference(here, copy)
        kept = None if lacks is None else _set_aside(here)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_NAME}.part"
        part.write_bytes(copy.read_bytes())
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if study_id is not None and kept is None:
            # All of it is in the other one. Its log must not be taken for that of the new file.
            _into_one_file(here)
        part.replace(here)
    if kept is not None:
        with contextlib.closing(Journal(here)) as journal:
            journal.add_event("superseded", None, {"file": kept, **(lacks or {})})
    return True


def set_aside(folder: Path) -> list[str]:
    """Return what is to be said of each journal of a study that another one took the place of."""
    with contextlib.closing(Journal(folder / _NAME, read_only=True)) as journal:
        known = {e.data["file"]: e.data for e in journal.events(kind="superseded")}
    files = sorted(path.name for path in folder.glob(_SUPERSEDED.format("*")))
    return [superseded_text(known.get(name, {}), name) for name in files]


def superseded_text(data: Mapping[str, Any], name: str) -> str:
    """Say what is in a journal that was set aside, and what in the one that took its place.

    Args:
        data: Of the event ``superseded``; it may be empty, where only the file is left.
        name: Of the file.
    """
    if not data:
        return f"{name} holds what another machine's journal of this study did not."
    return (
        f"Two machines went on with this study. The journal that was here ({_side(data['here'])}) "
        f"is kept as {name}; the study goes on with that of the storage ({_side(data['there'])})."
    )


def _side(side: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(side["last_ms"] / 1000).strftime("%Y-%m-%d %H:%M:%S")
    host = "" if side["host"] is None else f"of '{side['host']}', "
    n_trials, n_results = side["n_trials"], side["n_results"]
    return (
        f"{host}until {at}, {n_trials} trial{'s'[: n_trials != 1]} and {n_results} "
        f"result{'s'[: n_results != 1]} that the other one lacks"
    )


def _difference(here: Path, there: Path) -> dict[str, Any] | None:
    """Return what each of two journals has that the other lacks; None if the first has nothing."""
    with (
        contextlib.closing(Journal(here, read_only=True)) as a,
        contextlib.closing(Journal(there, read_only=True)) as b,
    ):
        trials = [{(t.id, t.created_ms) for t in j.trials()} for j in (a, b)]
        results = [{(r.trial, r.epoch, r.t_ms) for r in j.results()} for j in (a, b)]
        if trials[0] <= trials[1] and results[0] <= results[1]:
            return None
        return {
            name: {
                "n_trials": len(trials[k] - trials[1 - k]),
                "n_results": len(results[k] - results[1 - k]),
                "last_ms": max((e.t_ms for e in journal.events()), default=0),
                "host": _host(journal),
            }
            for k, (name, journal) in enumerate((("here", a), ("there", b)))
        }


def _host(journal: Journal) -> str | None:
    """Return the machine of a journal's last session; None where that was not noted yet."""
    starts = journal.events(kind="search_start")
    return starts[-1].data.get("home", {}).get("host") if starts else None


def has_copy(storage: str, name: str) -> bool:
    """Say whether a storage holds a copy of a study's journal.

    Raises:
        SettingError: The storage cannot be read.
    """
    return bool(_copies(storage, name, _listed(storage)))


def _copies(storage: str, name: str, names: list[str]) -> list[str]:
    """Return which of the names in a storage are places of a study with a copy of its journal."""
    places = [n for n in names if (m := _PLACE.fullmatch(n)) and m[1] == name]
    return [n for n in places if _NAME in _listed(below(storage, n))]


def _listed(storage: str) -> list[str]:
    try:
        return listed(storage)
    except Exception as problem:  # of a file system or a service, of whatever kind
        raise SettingError(f"--storage '{storage}' cannot be read: {problem}") from problem


def _found(name: str, storage: str, study_id: str | None) -> str | None:
    """Return the place of a study in a storage; None if only the storage lacks it."""
    names = _listed(storage)
    if study_id is not None:
        mine = study_place("", name, study_id).lstrip("/")
        return below(storage, mine) if mine in names else None
    known = {m[1] for n in names if (m := _PLACE.fullmatch(n))}
    found = _copies(storage, name, names)
    if len(found) == 1:
        return below(storage, found[0])
    if found:
        raise SettingError(
            f"There are {len(found)} studies '{name}' in '{storage}': {', '.join(found)}. Remove "
            "those that are not meant."
        )
    there = choices(name, sorted(known)) if known else " There is none."
    raise SettingError(f"There is no study '{name}' in '{storage}'.{there}")


def _study_id(journal: Path) -> str:
    with contextlib.closing(Journal(journal, read_only=True)) as opened:
        return str(opened.study()["study_id"])


def _sessions(journal: Path) -> list[int]:
    """Return when the sessions of a study began."""
    with contextlib.closing(Journal(journal, read_only=True)) as opened:
        return [event.t_ms for event in opened.events(kind="search_start")]


def _set_aside(journal: Path) -> str:
    """Rename a journal that another one takes the place of; return its new name."""
    _into_one_file(journal)
    names = (_SUPERSEDED.format(number) for number in itertools.count(1))
    name = next(name for name in names if not journal.with_name(name).exists())
    journal.replace(journal.with_name(name))
    return name


def _into_one_file(journal: Path) -> None:
    with contextlib.closing(sqlite3.connect(journal, timeout=30)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
