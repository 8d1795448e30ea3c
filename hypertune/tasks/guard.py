"""Ends processes that would outlive whom they work for.

A guard is a process of its own, so that it is there even where the one that it guards is killed. It
ends a process group, and all processes that carry a mark in their environment: those that began a
session of their own are among them, those that were forked are in the group. It signals only
descendants of the process that it guards, those whose parents have died included, and gives up on
what SIGKILL does not end (a process that waits for a dead disk).
"""

import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "HYPERTUNE_MARK"
_GRACE_S = 5.0
_KILL_S = 5.0
_POLL_S = 0.02
_WATCH_S = 0.2
_BOOT_TIME_S = 2.0  # the system tells when it was started in whole seconds only
_INIT = 1


def start_guard(group: int, mark: str, folder: Path | None = None) -> "subprocess.Popen[bytes]":
    """Start a guard that ends processes when its standard input is closed, or when we are dead.

    Args:
        group: Id of a process group that we lead, or that a child of ours leads; 0 for none.
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


@dataclass(frozen=True)
class Guarded:
    """A process whose descendants may be signalled.

    Attributes:
        pid: Its id.
        parent: That of its parent; 0 if it was dead when it was looked up.
        ancestors: Those of all processes above it.
        age_s: Seconds from the start of the system to its own.
    """

    pid: int
    parent: int
    ancestors: frozenset[int]
    age_s: float

    @classmethod
    def of(cls, pid: int) -> "Guarded":
        """Look a process up."""
        try:
            process = psutil.Process(pid)
            above = [ancestor.pid for ancestor in process.parents()]
            return cls(pid, above[0] if above else 0, frozenset(above), _age_s(process))
        except psutil.Error:
            return cls(pid, 0, frozenset(), 0.0)

    def may_signal(self, process: psutil.Process) -> bool:
        """Say whether a process is no other one's business: of its user, and not older than it."""
        spared = {0, _INIT, self.pid, os.getpid(), *self.ancestors}
        return (
            process.pid not in spared
            and process.uids().real == os.getuid()
            and _age_s(process) >= self.age_s - _BOOT_TIME_S
        )

    def adopts(self, pid: int) -> bool:
        """Say whether processes whose parents have died may have this one as their parent now.

        That is init, or one above the guarded process which asked for it. The parent of the guarded
        process has other children: Ray's other workers.
        """
        if self.pid not in (os.getpid(), os.getppid()) and pid == os.getppid():
            return True  # the guarded process is dead, and we are such an orphan ourselves
        return pid == _INIT or (pid in self.ancestors and pid != self.parent)


def _age_s(process: psutil.Process) -> float:
    """Return a time of start that setting the clock does not change."""
    return process.create_time() - psutil.boot_time()


def end_processes(
    group: int,
    mark: str,
    grace_s: float = _GRACE_S,
    kill_s: float = _KILL_S,
    guarded: Guarded | None = None,
) -> list[psutil.Process]:
    """End a process group, and all other processes of a mark: politely, then at once.

    Args:
        group: Id of the group; 0 for none.
        mark: What the processes have in their environment, as MARK.
        grace_s: Seconds that they have to end by themselves.
        kill_s: Seconds that they, and those that they begin meanwhile, are killed for.
        guarded: Whose descendants they must be; None for this process.

    Returns:
        Those that did not end.
    """
    guarded = guarded or Guarded.of(os.getpid())
    for process in (found := _processes(group, mark, guarded)):
        _send(process, process.terminate)
    until = time.monotonic() + grace_s
    while found and time.monotonic() < until:
        time.sleep(_POLL_S)
        found = _processes(group, mark, guarded)
    until = time.monotonic() + kill_s
    while found and time.monotonic() < until:
        for process in found:
            _send(process, process.kill)
        time.sleep(_POLL_S)
        found = _processes(group, mark, guarded)
    if found:
        pids = ", ".join(str(process.pid) for process in found)
        sys.stderr.write(f"hypertune: SIGKILL did not end these processes of a trial: {pids}\n")
    return found


def _send(process: psutil.Process, signal: object) -> None:
    assert callable(signal)
    try:
        signal()
    except psutil.Error:
        return  # it has ended


def _processes(group: int, mark: str, guarded: Guarded | None = None) -> list[psutil.Process]:
    guarded = guarded or Guarded.of(os.getpid())
    there = {process.pid: process for process in psutil.process_iter()}
    ours = {pid for pid, process in there.items() if _belongs(process, group, mark, guarded)}
    return [there[pid] for pid in ours if _descends(there[pid], ours, guarded)]


def _belongs(process: psutil.Process, group: int, mark: str, guarded: Guarded) -> bool:
    """Say whether a process is in the group, or has the mark.

    Kernel threads, and processes of groups outside of this container, are in a group 0.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE or not guarded.may_signal(process):
            return False
        in_group = group > 0 and os.getpgid(process.pid) == group
        return in_group or process.environ().get(MARK) == mark
    except (psutil.Error, OSError):  # it has ended, or is not ours
        return False


def _descends(process: psutil.Process, ours: set[int], guarded: Guarded) -> bool:
    """Say whether a process comes from the guarded one, by parents that live or have died."""
    try:
        last = process
        for parent in process.parents():
            if parent.pid == guarded.pid:
                return True
            if guarded.adopts(parent.pid):
                break
            last = parent
        return last.pid in ours and guarded.adopts(last.ppid())
    except psutil.Error:  # it has ended
        return False


def _leader(group: int) -> psutil.Process | None:
    try:
        return psutil.Process(group) if group > 0 else None
    except psutil.Error:
        return None


def main(guarded: str, group: str, mark: str, folder: str) -> None:
    """Wait, and end the processes."""
    above, leader = Guarded.of(int(guarded)), _leader(int(group))
    # A forked process may hold our standard input open after the death of the one that we guard.
    while os.getppid() == above.pid:
        if select.select([sys.stdin], [], [], _WATCH_S)[0]:
            break
    # The id of a group is given anew only when the group is empty, to a process that leads another.
    now = _leader(int(group))
    same = now is None or now == leader
    end_processes(int(group) if same else 0, mark, guarded=above)
    if folder and os.getppid() != above.pid:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
