"""What is known of a study: the one reader of its journal.

`StudyHistory.read` takes in all of a journal, `StudyHistory.refresh` what was added since. Whoever
shows, analyses, resumes or steers a study asks a history, and no table.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hypertune.core.origin import read_origin
from hypertune.journal.store import (
    FULL,
    EventRow,
    Journal,
    ResultRow,
    TrialRow,
    best_result,
    job_results,
)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of epochs that one worker trained.

    Attributes:
        from_epoch: The epoch of the checkpoint that it began with; 0 for none.
        to_epoch: The last epoch that it gave.
        started_ms, ended_ms: When it began and when that epoch was there, in Unix milliseconds.
    """

    from_epoch: int
    to_epoch: int
    started_ms: int
    ended_ms: int


@dataclass(kw_only=True)
class TrialHistory:
    """A trial, and all that came of it. The first twelve attributes are those of `TrialRow`.

    Attributes:
        results: Its results by epoch, in the order of their writing.
        events: Its events, oldest first.
    """

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
    results: dict[int, ResultRow] = field(default_factory=dict)
    events: list[EventRow] = field(default_factory=list)

    def events_of(self, kind: str) -> list[EventRow]:
        """Return its events of a kind, oldest first."""
        return [event for event in self.events if event.kind == kind]

    @property
    def has_begun(self) -> bool:
        """It has had a worker, or a result."""
        return self.state != "waiting" or self.started_ms is not None or bool(self.results)

    @property
    def is_final(self) -> bool:
        """It is never run again. One that was stopped or interrupted may go on."""
        return self.reason in (*FULL, "failed", "lost")

    @property
    def full(self) -> bool:
        """Its value is the one at the full number of epochs: complete, or converged before."""
        return self.reason in FULL

    @property
    def epoch(self) -> int:
        """The last epoch with a result; 0 if there is none."""
        return max(self.results, default=0)

    @property
    def origin(self) -> str:
        """Where its config came from, a value of `Origin`; empty for what was not searched."""
        return self._proposal[0]

    @property
    def why(self) -> str:
        """Why its config was proposed, in words."""
        return self._proposal[1]

    @property
    def _proposal(self) -> tuple[str, str]:
        first = next((event for event in self.events if event.kind == "trial"), None)
        return ("", "") if first is None else read_origin(first.data)

    @property
    def mutations(self) -> list[dict[str, Any]]:
        """How its config was changed while it was under way, oldest first."""
        return [event.data for event in self.events_of("mutation")]

    @property
    def test_result(self) -> dict[str, Any] | None:
        """What its first test run gave, ``metrics`` or a ``failure``; None without one."""
        tests = self.events_of("test")
        return {k: v for k, v in tests[0].data.items() if k != "traceback"} if tests else None

    @property
    def jobs(self) -> list[tuple[EventRow, list[ResultRow]]]:
        """Its events of kind ``job``, each with the results that this job gave."""
        return job_results(self.events_of("job"), list(self.results.values()))

    @property
    def spans(self) -> list[Span]:
        """The stretches of epochs that were trained, each up to its last result."""
        return [
            Span(
                from_epoch=job.data["from_epoch"],
                to_epoch=rows[-1].epoch,
                started_ms=job.t_ms,
                ended_ms=rows[-1].t_ms,
            )
            for job, rows in self.jobs
            if rows
        ]

    @property
    def cost_s(self) -> float | None:
        """Seconds that its jobs took, each up to its last result; None without a result."""
        spans = [span.ended_ms - span.started_ms for span in self.spans]
        return sum(spans) / 1000 if spans else None

    def best(self, study: Mapping[str, Any]) -> ResultRow | None:
        """Return its best result by the study's metric; None without a finite one."""
        return best_result(self.results.values(), study)


@dataclass(kw_only=True)
class StudyHistory:
    """All that a journal holds of a study, as it was when it was read or refreshed last.

    Attributes:
        study: The keys of table ``study``.
        trials: By id, in the order of their ids.
        events: All events, oldest first; those of a trial are in its history as well.

    Example:
        >>> import tempfile
        >>> from hypertune.journal.store import Journal
        >>> path = Path(tempfile.mkdtemp()) / "journal.db"
        >>> journal = Journal(path, study={"name": "a-study", "metric": "loss", "mode": "min"})
        >>> journal.add_trial(0, {"lr": 0.1}, seed=0)
        >>> journal.add_result(0, 1, {"loss": 0.5})
        True
        >>> history = StudyHistory.read(journal)
        >>> history.trials[0].config, history.trials[0].epoch
        ({'lr': 0.1}, 1)
        >>> journal.add_result(0, 2, {"loss": 0.4})
        True
        >>> events, results = history.refresh(journal)
        >>> [row.epoch for row in results]
        [2]
        >>> history.trials[0].best(history.study).metrics
        {'loss': 0.4}
        >>> journal.close()
    """

    study: dict[str, Any] = field(default_factory=dict)
    trials: dict[int, TrialHistory] = field(default_factory=dict)
    events: list[EventRow] = field(default_factory=list)
    _last_event: int = 0
    _last_result: int = 0

    @classmethod
    def read(cls, source: "Path | Journal", *, check: bool = False) -> "StudyHistory":
        """Read a journal.

        Args:
            source: A study's folder, or its journal if that is open.
            check: Look through the whole file for damage first.

        Raises:
            JournalError: The journal cannot be read, or is damaged.
        """
        if isinstance(source, Path):
            with contextlib.closing(Journal(source / "journal.db", read_only=True)) as journal:
                return cls.read(journal, check=check)
        if check:
            source.check()
        history = cls()
        history.refresh(source)
        return history

    def refresh(self, journal: Journal) -> tuple[list[EventRow], list[ResultRow]]:
        """Take in what was written to the journal since it was read last, and return that.

        How long this takes depends on how much is new, not on how long the journal is.
        """
        # In this order: an event that is seen tells of rows that are there by then.
        events = journal.events(after=self._last_event)
        if not self._last_event:
            self.study = journal.study()
            self._take_trials(journal.trials())
        else:
            if any(event.kind == "study" for event in events):
                self.study = journal.study()
            changed = {e.trial for e in events if e.kind == "trial" and e.trial is not None}
            self._take_trials([journal.trial(trial) for trial in sorted(changed)])
        for event in events:
            self._last_event = event.id
            self.events.append(event)
            if event.trial in self.trials:
                self.trials[event.trial].events.append(event)
        results = journal.results(after=self._last_result)
        for row in results:
            self._last_result = row.id
            if row.trial not in self.trials:  # it was added after the events were read
                self._take_trials([journal.trial(row.trial)])
            self.trials[row.trial].results[row.epoch] = row
        return events, results

    def _take_trials(self, rows: Sequence[TrialRow]) -> None:
        for row in rows:
            known = self.trials.get(row.id)
            if known is None:
                self.trials[row.id] = TrialHistory(**vars(row))
            else:
                known.state, known.reason, known.detail = row.state, row.reason, row.detail
                known.started_ms, known.ended_ms = row.started_ms, row.ended_ms

    def of_role(self, role: str) -> list[TrialHistory]:
        """Return the trials of a role, by id."""
        return [trial for trial in self.trials.values() if trial.role == role]

    @property
    def searched(self) -> list[TrialHistory]:
        """The trials of the search itself, in the order in which they were proposed."""
        return self.of_role("search")

    def baseline(self, label: str) -> TrialHistory | None:
        """Return the baseline of a label, such as ``default``; None if there is none."""
        return next((t for t in self.of_role("baseline") if t.label == label), None)

    @property
    def mutated(self) -> set[int]:
        """The trials whose config was changed on the way: samples of no config."""
        return {e.trial for e in self.events_of("mutation") if e.trial is not None}

    def events_of(self, *kinds: str) -> list[EventRow]:
        """Return the events of some kinds, oldest first."""
        return [event for event in self.events if event.kind in kinds]

    @property
    def extensions(self) -> list[dict[str, Any]]:
        """What was undecided, and what was done about it, each time that the study went on."""
        return [event.data for event in self.events_of("look")]

    @property
    def marks(self) -> list[EventRow]:
        """The beginnings and ends of its sessions, as events ``search_start``, ``search_end``."""
        return self.events_of("search_start", "search_end")

    @property
    def last_end(self) -> EventRow | None:
        """The end of the last session; None if it goes on, or if its process was killed."""
        marks = self.marks
        return marks[-1] if marks and marks[-1].kind == "search_end" else None

    @property
    def session_start(self) -> EventRow | None:
        """The beginning of the last session; None if there was none."""
        starts = self.events_of("search_start")
        return starts[-1] if starts else None

    @property
    def n_analyses(self) -> int:
        """How often the study was analysed, an analysis of one that is under way among them."""
        ends = self.marks
        under_way = bool(ends) and ends[-1].kind == "search_start"
        return len(self.events_of("search_end", "look")) + under_way

    @property
    def sessions(self) -> list[tuple[int, int]]:
        """When each session of the search began and ended, in Unix milliseconds.

        One that was killed ended with its last record.
        """
        marks = self.marks
        return [
            (mark.t_ms, self._end_ms(mark, following))
            for mark, following in zip_longest(marks, marks[1:])
            if mark.kind == "search_start"
        ]

    def _end_ms(self, start: EventRow, following: EventRow | None) -> int:
        if following is not None and following.kind == "search_end":
            return following.t_ms
        return max(self._times_ms(start, following), default=start.t_ms)

    def _times_ms(self, start: EventRow, following: EventRow | None) -> Iterator[int]:
        """Yield the times of what a killed session recorded before the following one began."""
        for event in self.events_of("search_start", "job", "worker", "lost"):
            if start.id <= event.id and (following is None or event.id < following.id):
                yield event.t_ms
        for trial in self.trials.values():
            for row in trial.results.values() if trial.role != "rerun" else ():
                if following is None or row.t_ms < following.t_ms:
                    yield row.t_ms

    @property
    def spent_s(self) -> float:
        """Seconds searched so far, all sessions together."""
        return sum(end - start for start, end in self.sessions) / 1000
