"""A guard ends what its worker has begun, all of it, and never anything else."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hypertune.tasks import guard
from hypertune.tasks.guard import MARK, end_processes, start_guard

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
WORKER = """
import json, os, subprocess, sys, time
from hypertune.tasks.guard import MARK, end_processes, start_guard
mark, sleep = sys.argv[1], sys.argv[2:]
os.environ[MARK] = mark
# A shell that ends at once: its child's parent is dead, and its session is another one.
line = 'setsid "$@" > /dev/null < /dev/null & echo $!'
said = subprocess.run(["sh", "-c", line, "sh", *sleep], stdout=subprocess.PIPE, text=True)
pids = [int(said.stdout), subprocess.Popen(sleep).pid]
pids.append(subprocess.Popen(sleep, env={**os.environ, MARK: "another"}).pid)
start_guard(0, mark)
print(json.dumps(pids), flush=True)
sys.stdin.readline()
end_processes(0, mark)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs that are gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str, **options: Any) -> "subprocess.Popen[str]":
        started.append(subprocess.Popen(command, text=True, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(pid: int) -> None:
    """Wait until a process is gone, or a zombie that its parent has not asked for."""
    process = psutil.Process(pid) if psutil.pid_exists(pid) else None
    if process is not None and process.status() != psutil.STATUS_ZOMBIE:
        process.wait(20)


def test_a_group_of_zero_is_no_group() -> None:
    # The system's own processes and those outside of a container are in a group that is called 0.
    assert guard._processes(0, "a mark that nobody has") == []
    assert end_processes(0, "a mark that nobody has") == []


def test_a_guard_without_a_group_ends() -> None:
    process = start_guard(0, "a mark that nobody has")
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("worker_dies", [True, False])
def test_descendants_end_and_nothing_else_does_whatever_its_mark(
    worker_dies: bool, start: Start
) -> None:
    mark = f"mark-{os.getpid()}"
    # Beside the worker, as Ray's other workers are; and below another process, that one's child.
    beside = start(*SLEEP, env={**os.environ, MARK: mark})
    line = 'MARK_OF_ANOTHER= "$@" & echo $!; wait'
    other = start("sh", "-c", line, "sh", *SLEEP, stdout=subprocess.PIPE, env={MARK: mark})
    assert other.stdout is not None
    below = int(other.stdout.readline())
    worker = start(
        *(sys.executable, "-c", WORKER, mark, *SLEEP),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    orphan, child, unmarked = json.loads(worker.stdout.readline())
    try:
        if worker_dies:
            worker.send_signal(signal.SIGKILL)
        else:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        ended(orphan)
        ended(child)
        assert psutil.pid_exists(unmarked)
        assert beside.poll() is None
        assert other.poll() is None
        assert psutil.pid_exists(below)
    finally:
        for pid in (orphan, child, unmarked, below):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)


def test_what_cannot_be_killed_is_given_up_and_told(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Such as one that waits for a disk that is gone.
    child = start(*SLEEP, env={**os.environ, MARK: "stuck"})
    monkeypatch.setattr(guard, "_send", lambda process, signal: None)
    assert [p.pid for p in end_processes(0, "stuck", grace_s=0.0, kill_s=0.0)] == [child.pid]
    assert f"did not end these processes of a trial: {child.pid}" in capsys.readouterr().err


@pytest.mark.parametrize("reused", [True, False])
def test_a_group_whose_id_was_given_to_another_one_is_left_alone(
    reused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaders = iter(["the first", "another" if reused else "the first"])
    told: list[int] = []
    monkeypatch.setattr(guard, "_leader", lambda group: next(leaders))
    monkeypatch.setattr(guard, "end_processes", lambda group, *_, **__: told.append(group))
    with Path(os.devnull).open() as closed:
        monkeypatch.setattr(sys, "stdin", closed)
        guard.main(str(os.getppid()), "77", "a mark", "")
    assert told == [0 if reused else 77]
