"""Faults of processes: killed, frozen, suspended, or with a clock that is set back."""

import contextlib
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
from chaos_study import Command, Outcome, Rows, compare, ended, results, run_args, send, trains

from hypertune.journal.store import Journal

MAX_KILLS = 4  # of one study


def killed_drivers(folder: Path, n: int, rng: random.Random, *, method: str) -> Outcome:
    """Kill drivers of studies by one method; return how often, and what was found."""
    n_kills, total, number = 0, Counter[str](), 0
    while n_kills < n:
        number += 1
        name = f"{method}-{number}"
        study, seen, mine = folder / "studies" / name, Rows(), 0
        command = Command(folder, *run_args(name, method, rng))
        while mine < min(MAX_KILLS, n - n_kills):
            if not command.searching(study / "journal.db", len(seen)):
                break
            time.sleep(rng.expovariate(1.0))
            if command.process.poll() is not None:
                break
            command.kill()
            mine += 1
            seen |= results(study)
            command = Command(folder, "resume", name)
        status = command.finish()
        n_kills += mine
        total += compare(study, folder / "mlflow.db", seen)
        # Status 2: it was killed after its end, and there was nothing to resume.
        total += ended(status, well=(0, 2) if mine else (0,), said=command.said)
    return n_kills, total


def killed_workers(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Kill training processes of studies that run."""
    n_kills, total, number = 0, Counter[str](), 0
    while n_kills < n:
        number += 1
        name = f"workers-{number}"
        study = folder / "studies" / name
        command = Command(folder, *run_args(name, "asha", rng, "--n-trials", "40"))
        if command.searching(study / "journal.db", 0):
            family = psutil.Process(command.process.pid)
            while command.process.poll() is None and n_kills < n:
                time.sleep(rng.uniform(1, 4))
                with contextlib.suppress(psutil.NoSuchProcess):
                    workers = [p for p in family.children(recursive=True) if trains(p)]
                    if workers:
                        rng.choice(workers).kill()
                        n_kills += 1
        status = command.finish()
        may_end = ("complete", "stopped", "lost")
        total += compare(study, folder / "mlflow.db", {}, may_end=may_end)
        total += ended(status, said=command.said)
    return n_kills, total


def frozen_workers(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Freeze training processes of studies that run; each may cost its present trial, no more."""
    n_frozen, total, number = 0, Counter[str](), 0
    while n_frozen < n:
        number += 1
        name = f"frozen-{number}"
        study, mine = folder / "studies" / name, 0
        command = Command(
            folder, *run_args(name, "asha", rng, "--n-trials", "40", "--trial-timeout", "5s")
        )
        if command.searching(study / "journal.db", 0):
            while command.process.poll() is None and n_frozen < n and mine < MAX_KILLS:
                time.sleep(rng.uniform(1, 3))
                running = [p for p in command.tree() if trains(p)]
                if running and (process := rng.choice(running)).status() != psutil.STATUS_STOPPED:
                    send([process], signal.SIGSTOP)
                    mine += 1
                    n_frozen += 1
        status = command.finish()
        may_end = ("complete", "stopped", "failed")
        total += compare(study, folder / "mlflow.db", {}, may_end=may_end)
        total += ended(status, said=command.said)
        with contextlib.closing(Journal(study / "journal.db", read_only=True)) as journal:
            n_failed = sum(trial.reason == "failed" for trial in journal.trials())
        total["wrong"] += max(0, n_failed - mine)
    return n_frozen, total


def suspended_trees(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Suspend all processes of a study for up to a minute, as the closed lid of a laptop does."""
    n_faults, total, number = 0, Counter[str](), 0
    while n_faults < n:
        number += 1
        name = f"suspended-{number}"
        study, mine = folder / "studies" / name, 0
        more = ("--n-trials", "40", "--trial-timeout", "10s")
        command = Command(folder, *run_args(name, "asha", rng, *more))
        if command.searching(study / "journal.db", 0):
            while command.process.poll() is None and n_faults < n and mine < MAX_KILLS:
                time.sleep(rng.uniform(0, 3))
                tree = command.tree()
                send(tree, signal.SIGSTOP)
                time.sleep(rng.uniform(5, 60))
                send(tree, signal.SIGCONT)
                mine += 1
                n_faults += 1
        status = command.finish()
        total += compare(study, folder / "mlflow.db", {})
        total += ended(status, said=command.said)
    return n_faults, total


def kills_at_birth(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Kill studies while their journal is being made; the same command then begins, or goes on."""
    total = Counter[str]()
    for number in range(n):
        name = f"birth-{number}"
        study = folder / "studies" / name
        args = run_args(name, "asha", rng, "--n-trials", "4", "--or-resume")
        command = Command(folder, *args)
        while command.process.poll() is None and not study.exists():
            time.sleep(0.001)
        time.sleep(rng.choice((0.0, 0.005, 0.05, 0.5)) * rng.random())
        command.kill_tree()
        again = Command(folder, *args)
        total += ended(again.finish(), said=again.said)
        total += compare(study, folder / "mlflow.db", {})
    return n, total


CLOCK = '''
"""Runs first in every Python process: its clock is off by the seconds that a file holds."""

import time
from pathlib import Path

_file, _time, _time_ns = Path(__file__).with_name("offset"), time.time, time.time_ns


def _offset():
    try:
        return float(_file.read_text())
    except (OSError, ValueError):
        return 0.0


time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
'''


def clocks_set_back(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Set the clock of running studies back."""
    clock, n_faults, total, number = folder / "clock", 0, Counter[str](), 0
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(CLOCK)
    while n_faults < n:
        number += 1
        name, offset = f"clock-{number}", 0.0
        (clock / "offset").write_text("0")
        study = folder / "studies" / name
        command = Command(folder, *run_args(name, "asha", rng), before=clock)
        if command.searching(study / "journal.db", 0):
            while command.process.poll() is None and n_faults < n:
                offset -= rng.choice([1, 60, 3600]) * rng.random()
                (clock / "offset.new").write_text(str(offset))
                (clock / "offset.new").replace(clock / "offset")
                n_faults += 1
                time.sleep(rng.uniform(1, 3))
        status = command.finish()
        total += compare(study, folder / "mlflow.db", {})
        total += ended(status, said=command.said)
        with contextlib.closing(Journal(study / "journal.db", read_only=True)) as journal:
            t_ms = [row.t_ms for row in journal.results()]
        total["wrong"] += t_ms == sorted(t_ms)  # the fault did not arrive
    return n_faults, total
