"""Ends processes that would outlive whom they work for.

A guard is a process of its own, so that it is there even where the one that it guards is killed. It
ends a process group, and all processes that carry a mark in their environment: those that began a
session of their own are among them, those that were forked are in the group.
"""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

MARK = "HYPERTUNE_MARK"
_GRACE_S = 5.0
_POLL_S = 0.02
_WATCH_S = 0.2


def start_guard(group: int, mark: str, folder: Path | None = None) -> "subprocess.Popen[bytes]":
    """Start a guard that ends processes when its standard input is closed, or when we are dead.

    Args:
        group: Id of a process group; 0 for none.
        mark: What the processes have in their environment, as MARK.
        folder: Scratch, which it removes where we are dead.
    """
    told = [os.getpid(), group, mark, folder or ""]
    return subprocess.Popen(
        [sys.executable, "-P", __file__, *map(str, told)],
        env={key: value for key, value in os.environ.items() if key != MARK},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def end_processes(group: int, mark: str, grace_s: float = _GRACE_S) -> None:
    """End a process group, and all other processes of a mark: politely, then at once."""
    for process in (found := _processes(group, mark)):
        _send(process, process.terminate)
    until = time.monotonic() + grace_s
    while found and time.monotonic() < until:
        time.sleep(_POLL_S)
        found = _processes(group, mark)
    while found:  # those that were begun meanwhile too
        for process in found:
            _send(process, process.kill)
        time.sleep(_POLL_S)
        found = _processes(group, mark)


def _send(process: psutil.Process, signal: object) -> None:
    assert callable(signal)
    try:
        signal()
    except psutil.Error:
        return  # it has ended


def _processes(group: int, mark: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _belongs(process, group, mark)]


def _belongs(process: psutil.Process, group: int, mark: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.getpgid(process.pid) == group or process.environ().get(MARK) == mark
    except (psutil.Error, OSError):  # it has ended, or is not ours
        return False


def main(guarded: str, group: str, mark: str, folder: str) -> None:
    """Wait, and end the processes."""
    # A forked process may hold our standard input open after the death of the one that we guard.
    while os.getppid() == int(guarded):
        if select.select([sys.stdin], [], [], _WATCH_S)[0]:
            break
    end_processes(int(group), mark)
    if folder and os.getppid() != int(guarded):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
