"""Why a trial was proposed, why it ended where it did, and what it cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypertune.core.origin import read_origin
from hypertune.engine.resume import Earlier
from hypertune.journal.store import TrialRow, best_result, job_results
from hypertune.search import Comparison


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """An uninterrupted stretch of epochs.

    Attributes:
        from_epoch, to_epoch: The epoch before its first one, and the one it was to end after.
        reached: The epoch that it got to.
        seconds: From its start to its last result.
    """

    from_epoch: int
    to_epoch: int
    reached: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What is known of a trial.

    Attributes:
        trial: Its row.
        metric: The study's metric.
        why: Why it was proposed.
        expected: The value that was expected of it; None if none was.
        best: Its best value and the epoch of it; None if it reported nothing.
        stretches: Its jobs, in order.
        comparisons: Where the scheduler compared it, with values in place of losses, as things
            stand now: in asynchronous searches they change as other trials come in.
        n_lost: How often its worker died.
        damaged: What was wrong with checkpoints of it that could not be used.
        left: What it left in its worker: threads that went on, settings that were not put back.
        mutations: How its config was changed on its way: after which ``epoch``, with the state of
            which trial (``from_trial``) at which epoch (``from_epoch``), and the ``config`` since.
    """

    trial: TrialRow
    metric: str
    why: str
    expected: float | None
    best: tuple[float, int] | None
    stretches: Sequence[Stretch]
    comparisons: Sequence[Comparison]
    n_lost: int
    damaged: Sequence[str]
    left: Sequence[str]
    mutations: Sequence[Mapping[str, Any]]


def explain(folder: Path, trial: int) -> Explanation:
    """Return what is known of a trial, from the journal alone.

    Args:
        folder: The study's folder.
        trial: Its id.

    Raises:
        SettingError: There is no such trial.
        JournalError: The journal cannot be read.
    """
    earlier = Earlier.read(folder)
    row, about = earlier.trial(trial), earlier.about
    events = [event for event in earlier.events if event.trial == trial]
    added = next(e for e in events if e.kind == "trial")
    comparisons: list[Comparison] = []
    if row.role == "search":
        search = earlier.recorded_search()
        number = [t.id for t in earlier.trials if t.role == "search"].index(trial)
        for c in search.comparisons(number):
            cut_off = None if c.cut_off is None else search.value(c.cut_off)
            comparisons.append(replace(c, loss=search.value(c.loss), cut_off=cut_off))
    best = best_result(earlier.results.get(trial, ()), about)
    return Explanation(
        trial=row,
        metric=about["metric"],
        why=read_origin(added.data)[1] or row.label or row.role,
        expected=added.data.get("expected"),
        best=None if best is None else (best.metrics[about["metric"]], best.epoch),
        stretches=_stretches(earlier, trial),
        comparisons=comparisons,
        n_lost=sum(event.kind == "lost" for event in events),
        damaged=[event.data["text"] for event in events if event.kind == "damaged"],
        left=_left(event.data for event in events if event.kind == "left"),
        mutations=[event.data for event in events if event.kind == "mutation"],
    )


def _left(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what a trial left in its worker, each once."""
    threads, settings = dict[str, None](), dict[str, None]()
    for data in events:
        threads |= dict.fromkeys(data.get("threads", ()))
        settings |= dict.fromkeys(data.get("not_put_back", ()))
    return [f"the thread {name}, which went on" for name in threads] + [
        f"{name}, which could not be put back" for name in settings
    ]


def _stretches(earlier: Earlier, trial: int) -> list[Stretch]:
    jobs = [e for e in earlier.events if e.kind == "job" and e.trial == trial]
    return [
        Stretch(
            from_epoch=job.data["from_epoch"],
            to_epoch=job.data["to_epoch"],
            reached=rows[-1].epoch if rows else job.data["from_epoch"],
            seconds=(rows[-1].t_ms - job.t_ms) / 1000 if rows else 0.0,
        )
        for job, rows in job_results(jobs, earlier.results.get(trial, ()))
    ]
