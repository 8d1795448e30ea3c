"""The search under way: live in a terminal, by a plain line now and then elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from hypertune.cli.display.console import Text, duration

if TYPE_CHECKING:
    from hypertune.cluster import Job
    from hypertune.engine import Progress

_PLAIN_EVERY_S = 10.0
_STAGES = {
    "start": "starting Ray",
    "search": "searching",
    "repeat": "running on fresh seeds",
    "look": "checking what is decided",
    "test": "evaluating on the test part",
    "report": "writing the report",
    "mlflow": "bringing MLflow up to date",
}


class Display:
    """Shows how a search is going: live in a terminal, by a plain line now and then elsewhere.

    Call it with a `Progress`; use it as a context manager.
    """

    def __init__(self, out: Console) -> None:
        self._out = out
        self._live: Live | None = None
        self._stage, self._printed_at, self._warned, self._noted = "", 0.0, "", False
        if out.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._task = self._bar.add_task("checking", total=None, left="")
            self._text = Text()
            # The console itself keeps lines whole: a long one would be cut.
            self._text.no_wrap = False
            self._text.overflow = "fold"
            self._content = Group(self._bar, self._text)
            self._live = Live(self._content, console=out, transient=True)

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: "Progress") -> None:
        if progress.note and not self._noted:
            self._noted = True
            self._out.print(Text(progress.note))
        stage = _STAGES[progress.stage]
        left = seconds_left(progress)
        text = _progress_text(progress)
        if self._live is not None:
            # Whoever attaches later sees the time since the search began.
            began = self._bar.get_time() - (time.monotonic() - progress.started)
            self._bar.tasks[0].start_time = began
            self._bar.update(
                self._task,
                description=stage,
                completed=progress.n_epochs,
                total=max(progress.planned_epochs, progress.n_epochs),
                left="" if left is None else f"about {duration(left)} left",
            )
            self._text.plain = f"{text}\n{progress.warning}" if progress.warning else text
            return
        if progress.warning and progress.warning != self._warned:
            self._warned = progress.warning
            self._out.print(f"Warning: {progress.warning}")
        if stage == self._stage and time.monotonic() - self._printed_at < _PLAIN_EVERY_S:
            return
        self._stage, self._printed_at = stage, time.monotonic()
        if progress.stage == "start":
            self._out.print("Starting Ray ...")
            return
        took = duration(time.monotonic() - progress.started)
        more = "" if left is None else f", about {duration(left)} left"
        self._out.print(f"{took} {stage}: {text}{more}")


def seconds_left(progress: "Progress") -> float | None:
    """Return the expected time to the end of the search; None while it cannot be told."""
    now = time.monotonic()
    if progress.stage not in ("search", "repeat") or progress.n_epochs < 3:
        return None
    # An upper estimate: trials that converge end earlier.
    rate = (now - progress.started) / progress.n_epochs
    left = max(0.0, (progress.planned_epochs - progress.n_epochs) * rate)
    return left if progress.deadline is None else min(left, max(0.0, progress.deadline - now))


def _progress_text(progress: "Progress") -> str:
    ended = [f"{n} {reason}" for reason, n in sorted(progress.n_ended.items()) if n]
    counts = [f"{progress.n_started}/{progress.n_trials} trials", f"{progress.n_running} running"]
    if progress.stage == "repeat":
        of = "" if progress.n_again_due is None else f"/{progress.n_again_due}"
        counts, ended = [f"{progress.n_again}{of} runs", counts[1]], []
    elif progress.n_waiting:
        counts.append(f"{progress.n_waiting} waiting")
    text = ", ".join(counts + ended)
    if progress.best is not None:
        text += f"; best {progress.metric} {progress.best:.4g} (trial {progress.best_trial})"
    return text


def on_cluster(
    out: Console, show: "Callable[[Progress], None]"
) -> "Callable[[Progress | None, Job], None]":
    """Return a function that shows a job's search, and until it begins, why the job waits."""
    shown = ""

    def update(progress: "Progress | None", job: "Job") -> None:
        nonlocal shown
        if progress is not None:
            show(progress)
        elif job.message != shown:
            shown = job.message
            out.print(Text(f"{job.status.lower()}: {shown}"))

    return update
