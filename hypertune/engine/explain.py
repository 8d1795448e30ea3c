"""Why a trial was proposed, why it ended where it did, and what it cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypertune.engine.resume import RecordedStudy
from hypertune.journal.history import TrialHistory
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
        trial: What the journal holds of it.
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

    trial: TrialHistory
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
    recorded = RecordedStudy.read(folder)
    found, about = recorded.trial(trial), recorded.about
    added = found.events_of("trial")[0]
    comparisons: list[Comparison] = []
    if found.role == "search":
        search = recorded.recorded_search()
        number = [t.id for t in recorded.history.searched].index(trial)
        for c in search.comparisons(number):
            cut_off = None if c.cut_off is None else search.value(c.cut_off)
            comparisons.append(replace(c, loss=search.value(c.loss), cut_off=cut_off))
    best = found.best(about)
    return Explanation(
        trial=found,
        metric=about["metric"],
        why=found.why or found.label or found.role,
        expected=added.data.get("expected"),
        best=None if best is None else (best.metrics[about["metric"]], best.epoch),
        stretches=[
            Stretch(
                from_epoch=job.data["from_epoch"],
                to_epoch=job.data["to_epoch"],
                reached=rows[-1].epoch if rows else job.data["from_epoch"],
                seconds=(rows[-1].t_ms - job.t_ms) / 1000 if rows else 0.0,
            )
            for job, rows in found.jobs
        ],
        comparisons=comparisons,
        n_lost=len(found.events_of("lost")),
        damaged=[event.data["text"] for event in found.events_of("damaged")],
        left=_left(event.data for event in found.events_of("left")),
        mutations=found.mutations,
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
