"""The summary says what a journal holds, and recommends from trials in full only."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hypertune.analysis.summary import Summary, summarize
from hypertune.core.errors import JournalError
from hypertune.journal.store import Journal

STUDY: dict[str, Any] = {
    "name": "s-1",
    "metric": "val_loss",
    "test_metric": "test_loss",
    "mode": "min",
}
# losses by epoch, how it ended, detail
Reported = tuple[Sequence[float], str | None, str | None]


def write(
    folder: Path,
    searched: Sequence[Reported],
    *,
    baselines: dict[str, float] | None = None,
    tests: dict[int, float] | None = None,
    ended: dict[str, Any] | None = None,
    **study: Any,
) -> Summary:
    with contextlib.closing(Journal(folder / "journal.db")) as journal:
        journal.set_study(**{**STUDY, **study})
        journal.add_event("search_start")
        for k, (losses, reason, detail) in enumerate(searched):
            journal.add_trial(k, {"x": k}, seed=0)
            journal.set_state(k, "running")
            for epoch, loss in enumerate(losses, start=1):
                journal.add_result(k, epoch, {"val_loss": loss, "other": 0.0})
            if reason is not None:
                journal.set_state(k, "ended", reason=reason, detail=detail)
        for k, (name, loss) in enumerate((baselines or {}).items(), start=len(searched)):
            journal.add_trial(k, {}, seed=0, role="baseline", label=name)
            journal.add_result(k, 0, {"val_loss": loss})
            journal.set_state(k, "ended", reason="complete")
        for trial, loss in (tests or {}).items():
            label = "best" if trial == min(tests or {}) else "other"
            metrics = {"test_loss": loss}
            journal.add_event("test", trial, {"label": label, "metrics": metrics})
        if ended is not None:
            journal.add_event("search_end", None, ended)
    return summarize(folder)


def test_best_is_the_best_of_the_trials_in_full(tmp_path: Path) -> None:
    summary = write(
        tmp_path,
        [
            ([3.0, 2.5, 2.0], "complete", None),
            ([1.0], "stopped", None),  # better, but not comparable
            ([2.0, 1.5, 1.8], "complete", None),
            ([2.1, 1.6], "converged", None),
            ([0.5, 0.4], "failed", "RuntimeError: boom\nat line 3"),
            ([], "lost", "the worker died"),
            ([], "failed", None),
            ([0.1], None, None),
        ],
        baselines={"naive": 1.9, "ridge": 1.4},
        ended={"stopped_by": "signal"},
    )

    assert summary.best is not None
    assert (summary.best.id, summary.best.config, summary.full) == (2, {"x": 2}, True)
    assert [(s.label, s.trial, s.epoch, s.validation, s.test) for s in summary.scores] == [
        ("best", 2, 2, 1.5, None),
        ("default", 0, 3, 2.0, None),
        ("naive", 8, 0, 1.9, None),
        ("ridge", 9, 0, 1.4, None),
    ]
    assert summary.reasons == {
        "complete": 2,
        "stopped": 1,
        "converged": 1,
        "failed": 2,
        "lost": 1,
        "running": 1,
    }
    assert summary.failures == ((4, "RuntimeError: boom"), (5, "the worker died"), (6, ""))
    assert summary.n_epochs == 3 + 1 + 3 + 2 + 2 + 1
    assert (summary.verdicts, summary.n_looks) == ([], 0)
    assert summary.study["name"] == "s-1"
    assert 0 <= summary.seconds < 60


BEATS = "On the test part the best configuration beats "
AS_GOOD = "On the test part the best configuration is as good as "
DOES_NOT = "On the test part the best configuration does not beat "


@pytest.mark.parametrize(
    ("mode", "tests", "verdicts"),
    [
        (
            "min",
            {1: 1.0, 0: 1.5, 2: 0.75},
            [BEATS + "the default configuration (1.000 against 1.500).",
             DOES_NOT + "naive (1.000 against 0.750)."],
        ),
        (
            "max",
            {1: 1.0, 0: 1.5, 2: 0.75},
            [DOES_NOT + "the default configuration (1.000 against 1.500).",
             BEATS + "naive (1.000 against 0.750)."],
        ),
        ("min", {1: 1.0, 2: 1.0}, [AS_GOOD + "naive (1.000 against 1.000)."]),
        ("min", {0: 1.0}, []),
    ],
)  # fmt: skip
def test_verdicts_compare_on_the_test_part(
    mode: str, tests: dict[int, float], verdicts: list[str], tmp_path: Path
) -> None:
    losses = [2.0, 1.0] if mode == "min" else [1.0, 2.0]
    searched: list[Reported] = [([loss], "complete", None) for loss in losses]

    summary = write(tmp_path, searched, baselines={"naive": 3.0}, tests=tests, mode=mode)

    assert summary.best is not None
    assert summary.best.id == 1
    assert summary.verdicts == verdicts
    assert summary.n_looks == 1


def test_default_that_is_the_best_is_told_in_both_roles(tmp_path: Path) -> None:
    searched: list[Reported] = [([1.0], "complete", None), ([2.0], "complete", None)]
    summary = write(tmp_path, searched, tests={0: 0.5})

    assert [(s.label, s.trial, s.test) for s in summary.scores] == [
        ("best", 0, 0.5),
        ("default", 0, 0.5),
    ]


def test_without_a_trial_in_full_the_best_of_the_longest_ones_is_shown(tmp_path: Path) -> None:
    summary = write(
        tmp_path,
        [
            ([5.0, 4.0], "stopped", None),
            ([1.0], "stopped", None),
            ([3.0, 3.5], "interrupted", None),
            ([2.0, 2.0], "failed", "boom"),
        ],
        test_metric=None,
    )

    assert summary.best is not None
    assert (summary.best.id, summary.full) == (2, False)
    assert [(s.label, s.trial, s.epoch) for s in summary.scores] == [("best", 2, 1)]
    assert summary.verdicts == []


@pytest.mark.parametrize(
    "searched", [[], [([], "failed", "boom")], [([1.0], "lost", None)], [([], None, None)]]
)
def test_study_without_a_usable_trial_recommends_nothing(
    searched: list[Reported], tmp_path: Path
) -> None:
    summary = write(tmp_path, searched)

    assert (summary.best, summary.full, summary.scores) == (None, False, ())
    assert (summary.verdicts, summary.n_looks) == ([], 0)
    assert sum(summary.reasons.values()) == len(searched)


def test_journal_in_which_nothing_is_written_yet_is_told(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.db").close()

    with pytest.raises(JournalError):
        summarize(tmp_path)


def test_folder_without_a_journal_is_told(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="There is no journal at"):
        summarize(tmp_path)


@pytest.mark.parametrize(
    ("mode", "default", "said"),
    [
        ("min", 0.5, "reaches 2.000, worse than the 1.000 on the test part, and is beaten by the "
         "default configuration 0.500."),
        ("min", 3.0, "reaches 2.000, worse than the 1.000 on the test part; nothing else that was "
         "tested on it does better."),
        ("max", 0.5, "reaches 2.000, no worse than the 1.000 on the test part; nothing else that "
         "was tested on it does better."),
    ],
)  # fmt: skip
def test_what_fails_elsewhere_is_said(mode: str, default: float, said: str, tmp_path: Path) -> None:
    losses = [2.0, 1.0] if mode == "min" else [1.0, 2.0]
    searched: list[Reported] = [([loss], "complete", None) for loss in losses]
    summary = write(tmp_path, searched, baselines={}, tests={1: 1.0, 0: 1.5}, mode=mode)
    first, second = summary.scores
    further = (
        replace(first, further={"photos": 2.0}),
        replace(second, further={"photos": default}),
    )

    (sentence,) = replace(summary, scores=further).on_further
    assert sentence == f"On the test set 'photos' the best configuration {said}"
    assert replace(summary, scores=further).verdicts[-1] == sentence
