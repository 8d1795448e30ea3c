"""The command line as tests call it: in this process, or as one of its own."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypertune import cli
from hypertune.core.errors import JournalError
from hypertune.journal.store import Journal

ROOT = Path(__file__).parents[1]


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *args: str) -> int:
    """Run the command line in this process; return its exit status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["hypertune", *args])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@contextlib.contextmanager
def started(folder: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command line in a process of its own, which does not outlive the test."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "hypertune.py"), *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(folder: Path, *args: str) -> tuple[int, str, str]:
    """Run the command line to its end; return its exit status, stdout and stderr."""
    with started(folder, *args) as process:
        out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def wait_for_results(folder: Path, n: int) -> Journal:
    """Return the journal of the study in a folder once it holds so many results."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for path in folder.glob("studies/*/journal.db"):
            with contextlib.suppress(JournalError):  # it is being made
                journal = Journal(path, read_only=True)
                if len(journal.results()) >= n:
                    return journal
                journal.close()
        time.sleep(0.2)
    raise TimeoutError
