"""How a search goes that runs in another process, here or on a cluster."""

import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import ray

from hypertune.core.errors import SettingError
from hypertune.core.objective import Objective
from hypertune.engine import Observer, Progress, is_under_way
from hypertune.engine.ray.nodes import code_version
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import Journal, ResultRow

JOB = "HYPERTUNE_JOB"
"""The environment variable by which a driver knows which job of a cluster it is."""
CODE = "HYPERTUNE_CODE"
"""The one that says with which code of hypertune the job was sent, if none came along."""
_PUBLISH_EVERY_S = 1.0
_LOOK_EVERY_S = 0.5


class Watch:
    """Tells how a search on this machine goes, from its journal alone, which it only reads.

    Args:
        folder: The study's.

    Raises:
        JournalError: It has no readable journal.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / "journal.db", read_only=True)
        self._history = StudyHistory()
        self._n_epochs = 0
        self._best: tuple[float, float, int] | None = None  # (loss, value, trial)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._journal.close()

    def follow(self, show: Observer) -> None:
        """Show how it goes until it has ended; the process that searches knows nothing of it."""
        while is_under_way(self._journal.path.parent):
            show(self.progress())
            time.sleep(_LOOK_EVERY_S)

    def progress(self) -> Progress:
        """Return how it goes now."""
        history = self._history
        self._count(history.refresh(self._journal)[1])
        about, trials, searched = history.study, history.trials.values(), history.searched
        start, stage = history.session_start, self._stage()
        began_ms, told = (start.t_ms, start.data) if start else (None, {})
        began_s = 0.0 if began_ms is None else time.time() - began_ms / 1000
        started = time.monotonic() - max(0.0, began_s)  # the clock may have been set back
        budget = told.get("time_budget_s")
        if any(t.state == "running" and t.role == "replicate" for t in trials):
            stage = "repeat"
        return Progress(
            metric=about.get("metric", ""),
            n_trials=about.get("n_trials") or 0,
            planned_epochs=told.get("planned_epochs", 0),
            started=started,
            deadline=None if budget is None else started + budget,
            n_started=len(searched),
            n_running=sum(trial.state == "running" for trial in trials),
            n_waiting=sum(trial.state == "waiting" for trial in searched),
            n_again=sum(t.role == "replicate" and t.state != "waiting" for t in trials),
            n_ended=Counter(t.reason for t in searched if t.reason is not None),
            n_epochs=self._n_epochs,
            best=None if self._best is None else self._best[1],
            best_trial=None if self._best is None else self._best[2],
            stage=stage,
        )

    def _count(self, results: Sequence[ResultRow]) -> None:
        """Take in results that are new."""
        objective = Objective.of_study(self._history.study)
        for row in results:
            self._n_epochs += row.epoch > 0
            value = row.metrics.get(objective.metric, math.nan)
            searched = self._history.trials[row.trial].role == "search"
            if row.epoch > 0 and searched and math.isfinite(value):
                found = (objective.loss(value), value, row.trial)
                if self._best is None or found[0] < self._best[0]:
                    self._best = found

    def _stage(self) -> str:
        """Return what this session of the search is doing."""
        start = self._history.session_start
        if start is None:
            return "start"
        stages = {"search_end": "report", "report": "mlflow", "test": "test", "look": "search"}
        since = [event for event in self._history.events_of(*stages) if event.id > start.id]
        return stages[since[-1].kind] if since else "search"


# ---- on a cluster ----


def published(show: Observer) -> Observer:
    """Return an observer that also tells whoever asks the cluster, if this is one of its jobs.

    It keeps a line of JSON among Ray's logs of this node, which Ray's job server hands out. So
    nothing listens, nothing runs besides, and whoever follows may come and go.
    """
    job = os.environ.get(JOB)
    if job is None:
        return show
    said = ("", -math.inf)

    def tell(progress: Progress) -> None:
        nonlocal said
        show(progress)
        stage, at = said
        if progress.stage == stage and time.monotonic() - at < _PUBLISH_EVERY_S:
            return
        said = (progress.stage, time.monotonic())
        with contextlib.suppress(Exception):  # decoration: no search may end by it
            _write(Path(_log_folder()) / progress_file(job), asdict(progress))

    return tell


def progress_file(job: str) -> str:
    """Return the name of the file that a job tells its progress in."""
    return f"hypertune-{job}.json"


def read_progress(text: str) -> Progress:
    """Return what a job has told; times by the clock of the driver's node become those of ours."""
    told = json.loads(text)
    ahead = told.pop("now") - time.monotonic()
    for name in ("started", "deadline"):
        if told[name] is not None:
            told[name] -= ahead
    return Progress(**told)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps({**values, "now": time.monotonic()}) + "\n")
    scratch.replace(path)


def _log_folder() -> str:
    """Return where Ray keeps its logs on this node; there is no public way to ask for it."""
    return str(ray._private.worker._global_node.get_logs_dir_path())


def check_code() -> None:
    """Check that a job runs with the code that it was sent for.

    Raises:
        SettingError: It does not.
    """
    wanted = os.environ.get(CODE)
    if wanted not in (None, here := code_version()):
        raise SettingError(
            f"The cluster has hypertune's code {here}, but the job was sent with {wanted}: install "
            "the same there, or submit without --installed, and the code travels along."
        )
