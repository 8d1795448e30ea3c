"""The uploader process, as the driver sees it. MLflow itself is not imported here."""

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from hypertune.core.text import redact
from hypertune.tracking.mlflow.cursors import Cursors, pending_on_disk
from hypertune.tracking.mlflow.runs import STUDY

URI_VARIABLE = "HYPERTUNE_REPLICA_URI"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How far a delivery has come.

    Attributes:
        pending: Rows of the journal that MLflow does not have yet; None: not known (yet).
        warning: What is wrong and what to do about it, without credentials; None: nothing.
        experiment_id: MLflow's id of the experiment, once known.
        run_id: MLflow's id of the study's run, once known.
    """

    pending: int | None = None
    warning: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None


class Uploader:
    """An uploader process, as the driver sees it. None of its methods raises for MLflow's sake.

    Args:
        journal: The journal's file.
        tracking_uri: Where MLflow is. A path in it must be absolute. Credentials in it, or in
            MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, reach the process by its
            environment only.
    """

    def __init__(self, journal: Path, tracking_uri: str) -> None:
        self._journal = journal
        self._uri = tracking_uri
        self._said = Delivery()
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """Start the process; it follows the journal, at most seconds behind."""
        root = Path(__file__).parents[2]
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        command = [
            sys.executable,
            "-m",
            "hypertune.tracking.mlflow.replica",
            str(self._journal.resolve()),
            "--follow",
        ]
        try:
            with open_log(self._journal) as log:
                self._process = subprocess.Popen(
                    command,
                    env={**os.environ, "PYTHONPATH": path, URI_VARIABLE: self._uri},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # a Ctrl-C in the terminal is not for the uploader
                )
        except OSError as error:
            self._said = Delivery(warning=f"The MLflow uploader cannot be started: {error}.")
        else:
            self._reader.start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError, TypeError):  # a line cut short by a kill
                    self._said = Delivery(**json.loads(line))

    @property
    def status(self) -> Delivery:
        """The latest that the process said; never blocks."""
        if self._process is not None and self._process.poll() not in (None, 0):
            return replace(self._said, warning=self._obituary())
        return self._said

    def finish(
        self, timeout_s: float, on_progress: Callable[[Delivery], None] | None = None
    ) -> Delivery:
        """Let the process deliver the rest, and end it.

        Args:
            timeout_s: Seconds after which it is ended, whatever is pending then.
            on_progress: Called with each new status.

        Returns:
            The last status. What is pending stays in the journal, for a later `deliver`.
        """
        process = self._process
        if process is None:
            return replace(self._said, pending=pending_on_disk(self._journal, self._uri))
        deadline = time.monotonic() + timeout_s
        cut = True
        try:
            self._hang_up(process, timeout_s)
            shown = None
            while cut and time.monotonic() < deadline:
                if on_progress is not None and shown != self._said:
                    shown = self._said
                    on_progress(shown)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(0.1, max(0.0, deadline - time.monotonic())))
                    cut = False
        finally:
            _end(process)
        self._reader.join(1)
        if process.returncode != 0:
            warning = self._said.warning if cut else self._obituary()
            pending = pending_on_disk(self._journal, self._uri)
            self._said = replace(self._said, pending=pending, warning=warning)
        self._process = None
        if self._said.pending and self._said.warning is None:
            late = f"MLflow was not done in {timeout_s:g} s; the rest can be delivered later."
            self._said = replace(self._said, warning=late)
        return self._said

    @staticmethod
    def _hang_up(process: subprocess.Popen[str], timeout_s: float) -> None:
        """Close the process's stdin, on which it delivers the rest and exits."""
        assert process.stdin is not None
        # It is gone already, or has been told before.
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(f"{0.9 * timeout_s}\n")
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _obituary(self) -> str:
        assert self._process is not None
        with contextlib.suppress(OSError):
            log = log_path(self._journal).read_text(errors="replace")
            if tail := " | ".join(redact(log).strip().splitlines()[-3:])[-600:]:
                return f"The MLflow uploader ended (exit code {self._process.returncode}): {tail}"
        return f"The MLflow uploader ended (exit code {self._process.returncode})."


def delivered(journal: Path, tracking_uri: str) -> Delivery:
    """Return how far a delivery had come, by the notes of the uploader on disk."""
    pending = pending_on_disk(journal, tracking_uri)
    if not journal.with_name("replica.db").exists():
        return Delivery(pending=pending)
    try:
        with contextlib.closing(Cursors(journal, tracking_uri)) as cursors:
            parent = cursors.runs.get(STUDY)
            run_id = parent.run_id if parent else None
            return Delivery(pending=pending, experiment_id=cursors.experiment_id, run_id=run_id)
    except sqlite3.Error:
        return Delivery(pending=pending)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()  # it may be killed at any time, and listens to nothing less
        process.wait()


def log_path(journal: Path) -> Path:
    return journal.with_name("replica.log")


def open_log(journal: Path) -> IO[str]:
    path = log_path(journal)
    long = path.is_file() and path.stat().st_size > 1_000_000
    return path.open("w" if long else "a", encoding="utf-8", errors="backslashreplace")


class Redacted(io.TextIOBase):
    """A stream in front of another that lets no credentials through."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        self._stream.write(redact(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
