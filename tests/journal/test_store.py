"""The journal gives back what it was told, whatever becomes of the process."""

import contextlib
import itertools
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hypertune
from hypertune.core.errors import JournalError
from hypertune.journal.history import StudyHistory, TrialHistory
from hypertune.journal.recommendation import recommended
from hypertune.journal.store import (
    FORMAT,
    Journal,
    ResultRow,
    best_result,
    flat_names,
    now_ms,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path / "journal.db")) as journal:
        yield journal


@contextlib.contextmanager
def reader(journal: Journal) -> Iterator[Journal]:
    with contextlib.closing(Journal(journal.path, read_only=True)) as other:
        yield other


def test_what_was_written_is_read_back_by_another_connection_at_once(journal: Journal) -> None:
    before = now_ms()
    config = {"a": {"b": [1, None, "ü"]}, "c": 1.0, "d": True}
    with reader(journal) as other:
        journal.set_study(name="s-1", levels=[1, 2])
        journal.set_study(name="s-2")
        journal.add_trial(0, config, seed=7, repeat=1, role="replicate", label="best")
        journal.add_result(0, 1, {"loss": 0.1 + 0.2}, t_ms=123)
        journal.add_event("test", 0, {"label": "best"})

        assert other.study() == {"name": "s-2", "levels": [1, 2]}
        (trial,) = other.trials()
        assert trial == other.trial(0)
        assert trial.config == config
        assert [type(v) for v in trial.config.values()] == [dict, float, bool]
        assert (trial.seed, trial.repeat, trial.role, trial.label) == (7, 1, "replicate", "best")
        assert (trial.state, trial.reason, trial.started_ms) == ("waiting", None, None)
        assert before <= trial.created_ms <= now_ms()
        (row,) = other.results()
        assert (row.trial, row.epoch, row.t_ms, row.metrics) == (0, 1, 123, {"loss": 0.1 + 0.2})
        assert other.events(kind="test")[0].data == {"label": "best"}


def test_state_keeps_the_first_start_and_the_end_of_a_trial(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1)
    monkeypatch.setattr("hypertune.journal.store.now_ms", lambda: next(clock))
    journal.add_trial(0, {}, seed=0)
    states = ["running", "waiting", "running", "ended"]
    rows = []
    for state in states:
        reason, detail = ("failed", "boom") if state == "ended" else (None, None)
        journal.set_state(0, state, reason=reason, detail=detail)
        rows.append(journal.trial(0))

    assert [row.state for row in rows] == states
    assert len({row.started_ms for row in rows}) == 1
    assert rows[0].started_ms is not None
    assert [row.ended_ms is None for row in rows] == [True, True, True, False]
    assert (rows[-1].reason, rows[-1].detail) == ("failed", "boom")


def test_first_result_of_an_epoch_wins(journal: Journal) -> None:
    journal.add_trial(0, {}, seed=0)

    assert journal.add_result(0, 1, {"loss": 1.0})
    assert not journal.add_result(0, 1, {"loss": 2.0})
    assert journal.add_result(0, 2, {"loss": 3.0})

    assert [row.metrics["loss"] for row in journal.results(trial=0)] == [1.0, 3.0]


def test_trial_can_be_added_once_and_must_be_there_to_be_read(journal: Journal) -> None:
    journal.add_trial(0, {"a": 1}, seed=0)

    with pytest.raises(JournalError, match="cannot be written: UNIQUE"):
        journal.add_trial(0, {"a": 2}, seed=0)
    with pytest.raises(KeyError):
        journal.trial(1)

    journal.set_state(0, "running")  # a refused write leaves the journal usable
    assert journal.trial(0).config == {"a": 1}
    assert [e.data["state"] for e in journal.events(kind="trial")] == ["waiting", "running"]


def test_events_and_results_are_read_after_a_cursor(journal: Journal) -> None:
    journal.add_trial(0, {}, seed=0, data={"why": "default"})
    journal.set_study(b=1, a=2)
    for epoch in (1, 2, 3):
        journal.add_result(0, epoch, {"loss": 1.0})
        journal.add_event("job", 0, {"to_epoch": epoch})

    events = journal.events()
    assert [e.kind for e in events] == ["trial", "study", "job", "job", "job"]
    assert events[0].data == {"state": "waiting", "why": "default"}
    assert events[1].data == {"keys": ["a", "b"]}
    assert journal.events(after=events[2].id) == events[3:]
    assert journal.events(kind="job", after=events[2].id, limit=1) == events[3:4]
    rows = journal.results()
    assert journal.results(after=rows[0].id, limit=1) == rows[1:2]
    assert journal.results(trial=1) == []
    assert journal.results(after=rows[-1].id) == []


def test_metrics_that_are_not_finite_come_back(journal: Journal) -> None:
    journal.add_result(0, 1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})

    (row,) = journal.results()
    assert math.isnan(row.metrics.pop("a"))
    assert row.metrics == {"b": math.inf, "c": -math.inf, "d": 1.0}


def test_reader_never_writes(journal: Journal) -> None:
    with reader(journal) as other:
        for write in (
            lambda: other.set_study(a=1),
            lambda: other.add_trial(0, {}, seed=0),
            lambda: other.set_state(0, "ended"),
            lambda: other.add_result(0, 1, {}),
            lambda: other.add_event("job"),
        ):
            with pytest.raises(JournalError, match="cannot be written"):
                write()

    assert (journal.study(), journal.trials(), journal.events()) == ({}, [], [])


def test_reader_needs_a_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="There is no journal at"):
        Journal(tmp_path / "journal.db", read_only=True)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "text.db").write_text("no database, but more than a hundred bytes of text\n" * 9)
    with pytest.raises(JournalError, match="cannot be opened: file is not a database"):
        Journal(tmp_path / "text.db", read_only=True)


def test_a_journal_that_is_damaged_or_empty_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with contextlib.closing(Journal(path)) as journal:
        for trial in range(200):
            journal.add_trial(trial, {"x": 0.5}, seed=0)
    with path.open("r+b") as file:
        file.seek(4096)  # the schema is on the page before
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with (
        contextlib.closing(Journal(path, read_only=True)) as journal,
        pytest.raises(JournalError, match="cannot be read: database disk image is malformed"),
    ):
        journal.trials()

    (tmp_path / "empty.db").touch()
    with pytest.raises(JournalError, match="holds nothing: no study began"):
        Journal(tmp_path / "empty.db", read_only=True)


@pytest.mark.parametrize(
    "read_only",
    [
        True,
        pytest.param(False),
    ],
)
def test_journal_of_another_format_is_refused_and_left_as_it_is(
    tmp_path: Path, read_only: bool
) -> None:
    path = tmp_path / "journal.db"
    Journal(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")

    with pytest.raises(JournalError, match=f"has format {FORMAT + 1}, but this version reads"):
        Journal(path, read_only=read_only).close()


def test_sync_flushes_the_log_once_for_what_was_written(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []

    def fsync(fd: int) -> None:
        flushed.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    log = journal.path.with_name("journal.db-wal")

    journal.add_result(0, 1, {"loss": 1.0})
    assert flushed == []
    journal.sync()
    journal.sync()

    assert flushed == [log.stat().st_ino]


def test_text_that_is_not_utf8_is_spelled_out(journal: Journal) -> None:
    odd, spelled = "caf\udce9 \x00", "caf\\udce9 \\x00"
    journal.set_study(**{"question": odd, "settings": {odd: [odd]}})
    journal.add_trial(0, {"a": odd}, seed=0, label=odd, data={"origin": odd})
    journal.add_result(0, 1, {odd: 1.0})
    journal.set_state(0, "ended", reason="failed", detail=odd)
    journal.add_event("test", 0, {"failure": odd})

    with reader(journal) as other:
        assert other.study() == {"question": spelled, "settings": {spelled: [spelled]}}
        trial = other.trial(0)
        assert (trial.config, trial.label, trial.detail) == ({"a": spelled}, spelled, spelled)
        assert [row.metrics for row in other.results()] == [{spelled: 1.0}]
        assert other.events(kind="test")[0].data == {"failure": spelled}


def test_a_long_detail_keeps_its_ends(journal: Journal) -> None:
    journal.add_trial(0, {}, seed=0)
    journal.set_state(0, "ended", reason="failed", detail="a" + "x" * 10_000_000 + "z")

    detail = journal.trial(0).detail
    assert detail is not None
    assert len(detail) < 110_000
    assert detail.startswith("ax")
    assert detail.endswith("xz")
    assert "(cut: 10000002 characters in all)" in detail


@pytest.mark.parametrize(
    "metrics",
    [{"a": object()}, {"\udce9": 1.0, "\\udce9": 2.0}, {"a": 10**5000}],
)
def test_what_cannot_be_written_is_an_error_of_the_journal_and_changes_nothing(
    journal: Journal, metrics: dict[str, float]
) -> None:
    journal.add_trial(0, {}, seed=0)
    n_events = len(journal.events())

    with pytest.raises(JournalError, match="cannot be written"):
        journal.add_result(0, 1, metrics)
    with pytest.raises(JournalError, match="cannot be written"):
        journal.add_trial(10**30, {}, seed=0)
    assert (journal.results(), len(journal.events())) == ([], n_events)


def test_nested_configs_keep_names_that_read_alike_apart() -> None:
    assert flat_names({"a": {"b": 1}, "a.b": 2}) == {"a.b": 1, '["a.b"]': 2}


def test_nested_configs_are_shown_by_dotted_names() -> None:
    flat = flat_names({"a": {"b": 1, "c": {"d": None}}, "e": {}})

    assert flat == {"a.b": 1, "a.c.d": None, "e": {}}


def row(trial: int, epoch: int, loss: float) -> ResultRow:
    return ResultRow(id=100 * trial + epoch, trial=trial, epoch=epoch, t_ms=0, metrics={"a": loss})


@pytest.mark.parametrize(
    ("values", "mode", "epoch"),
    [
        ([3.0, 1.0, 2.0], "min", 2),
        ([3.0, 1.0, 2.0], "max", 1),
        ([2.0, 1.0, 1.0], "min", 2),  # of equal ones the first
        ([math.nan, 2.0, -math.inf], "min", 2),
        ([math.inf, 2.0, math.nan], "max", 2),
        ([math.nan, math.inf], "min", None),
        ([], "min", None),
    ],
)
def test_best_result_is_a_finite_one(values: list[float], mode: str, epoch: int | None) -> None:
    rows = [row(0, e, value) for e, value in enumerate(values, start=1)]
    best = best_result(rows, {"metric": "a", "mode": mode})
    assert (None if best is None else best.epoch) == epoch
    assert best_result(rows, {"metric": "b", "mode": mode}) is None


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        # role, label, reason, values
        ([("search", "", "complete", [2, 2]), ("search", "", "stopped", [1])], (0, True)),
        ([("search", "", "complete", [2, 2]), ("search", "", "converged", [1])], (1, True)),
        ([("search", "", "stopped", [2, 2]), ("search", "", "stopped", [1])], (0, False)),
        ([("search", "", "failed", [1, 1]), ("search", "", "stopped", [2])], (1, False)),
        ([("search", "", "complete", [2]), ("baseline", "default", "complete", [1])], (1, True)),
        ([("search", "", "complete", [2]), ("baseline", "ridge", "complete", [1])], (0, True)),
        ([("search", "", "complete", [2]), ("replicate", "best", "complete", [1])], (0, True)),
        ([("search", "", "complete", [math.nan])], (None, False)),
        ([], (None, False)),
    ],
)
def test_recommended_trial(
    trials: list[tuple[str, str, str, list[float]]], expected: tuple[int | None, bool]
) -> None:
    rows = [
        TrialHistory(
            id=k,
            config={},
            seed=0,
            repeat=0,
            role=role,
            label=label,
            state="ended",
            reason=reason,
            detail=None,
            created_ms=0,
            started_ms=0,
            ended_ms=0,
        )
        for k, (role, label, reason, _) in enumerate(trials)
    ]
    for (*_, values), trial in zip(trials, rows, strict=True):
        trial.results = {e: row(trial.id, e, v) for e, v in enumerate(values, 1)}
    known = {trial.id: trial for trial in rows}
    history = StudyHistory(study={"metric": "a", "mode": "min"}, trials=known)
    best = recommended(history)
    assert ((None, False) if best is None else (best.trial, best.full)) == expected


WRITER = """
import sys
from pathlib import Path
from hypertune.journal.store import Journal
journal = Journal(Path(sys.argv[1]))
journal.add_trial(0, {"a": 1}, seed=0)
for epoch in range(1, 1_000_000):
    journal.add_result(0, epoch, {"loss": 1 / epoch})
    print(epoch, flush=True)
"""


def test_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    root = Path(hypertune.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        text=True,
    ) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL

    for read_only in (True, False):
        with contextlib.closing(Journal(path, read_only=read_only)) as journal:
            found = {row.epoch: row.metrics["loss"] for row in journal.results(trial=0)}
            assert found.keys() >= set(acknowledged)
            assert len(found) <= len(acknowledged) + 1
            assert all(loss == 1 / epoch for epoch, loss in found.items())
            assert journal.trial(0).config == {"a": 1}
