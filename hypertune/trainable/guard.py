"""Ends the processes of a command: all of them, and even where the worker that began it is dead.

Run as a script, it waits until its standard input is closed, by the worker or by its death.
Processes are found by the mark, so that those that began a session of their own are among them.
"""

import os
import shutil
import sys
import time

import psutil

MARK = "HYPERTUNE_COMMAND"
_GRACE_S = 5.0
_POLL_S = 0.02


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


def main(worker: str, group: str, mark: str, folder: str) -> None:
    """Wait for the end of the standard input, and end the processes.

    Args:
        worker: Process id of the worker.
        group: Process id of the command, which is that of its group too.
        mark: What its processes have in their environment.
        folder: Its scratch, which nobody else removes where the worker is dead.
    """
    sys.stdin.read()
    end_processes(int(group), mark)
    if os.getppid() != int(worker):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
