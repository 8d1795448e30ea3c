"""Faults of files and disks: torn, damaged, copied, full, read-only."""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from chaos_study import Command, Outcome, compare, ended, results, run_args

from hypertune.core.errors import HypertuneError
from hypertune.journal.store import Journal


def torn_tails(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Cut the end of the journal's write-ahead log off after a kill."""
    total = Counter[str]()
    for number in range(n):
        name = f"torn-{number}"
        study = folder / "studies" / name
        command = Command(folder, *run_args(name, "asha", rng))
        if not command.searching(study / "journal.db", 3):
            total["wrong"] += 1
            continue
        command.kill_tree()  # whoever has the journal open would go by its old index
        wal = study / "journal.db-wal"
        if wal.exists() and wal.stat().st_size:
            os.truncate(wal, int(wal.stat().st_size * rng.uniform(0.3, 1)))
        (study / "journal.db-shm").unlink(missing_ok=True)
        # What MLflow had got of the tail is no longer the journal's: it starts from nothing.
        for path in study.glob("replica.db*"):
            path.unlink()
        left = results(study)
        command = Command(folder, "resume", name, "--tracking-uri", "sqlite:///torn.db")
        total += ended(command.finish(), said=command.said)
        total += compare(study, folder / "torn.db", left)
    return n, total


def damage(file: Path, rng: random.Random) -> None:
    """Damage a file in one of the ways that disks and copies do."""
    size = file.stat().st_size
    match rng.choice(("cut", "emptied", "zeros", "noise", "gone")):
        case "cut":
            os.truncate(file, int(size * rng.random()))
        case "emptied":
            os.truncate(file, 0)
        case "zeros":
            file.write_bytes(bytes(size))
        case "noise":
            file.write_bytes(rng.randbytes(size))
        case "gone":
            file.unlink()


def damaged_checkpoints(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Damage the newest checkpoints of trials that are under way, while their driver is dead."""
    n_faults, total, number = 0, Counter[str](), 0
    while n_faults < n:
        number += 1
        name = f"checkpoint-{number}"
        study = folder / "studies" / name
        command = Command(folder, *run_args(name, "asha", rng))
        if not command.searching(study / "journal.db", 30):
            total += ended(command.finish(), said=command.said)
            continue
        time.sleep(rng.expovariate(1.0))
        command.kill_tree()
        seen = results(study)
        newest = [
            max(trial.glob("epoch-*"), key=lambda at: int(at.name.removeprefix("epoch-")))
            for trial in study.glob("checkpoints/trial-*")
            if any(trial.glob("epoch-*"))
        ]
        for checkpoint in rng.sample(newest, min(len(newest), 3, n - n_faults)):
            damage(rng.choice([p for p in checkpoint.rglob("*") if p.is_file()]), rng)
            n_faults += 1
        again = Command(folder, "resume", name)
        total += ended(again.finish(), well=(0, 2), said=again.said)
        total += compare(study, folder / "mlflow.db", seen)
    return n_faults, total


def copied_studies(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Copy the folders of killed studies, and have both go on with one MLflow.

    A copy may be refused, or go on under an identity of its own; the original is as it should be.
    """
    total = Counter[str]()
    for number in range(n):
        name = f"copied-{number}"
        study = folder / "studies" / name
        command = Command(folder, *run_args(name, "asha", rng))
        if not command.searching(study / "journal.db", 3):
            total += ended(command.finish(), said=command.said)
            continue
        time.sleep(rng.expovariate(1.0))
        command.kill_tree()
        seen = results(study)
        elsewhere = folder / rng.choice(("studies", "elsewhere"))
        copy = elsewhere / f"{name}-copy"
        shutil.copytree(study, copy)
        store = ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        more = ["--studies-dir", str(elsewhere), *store]
        both = [
            Command(folder, "resume", name, *store),
            Command(folder, "resume", copy.name, *more),
        ]
        for command in both:  # at work at the same time
            total += ended(command.finish(), well=(0, 2), said=command.said)
        total += compare(study, folder / "mlflow.db", seen)
        if identity(copy) != identity(study):
            total += compare(copy, folder / "mlflow.db", seen)
    return n, total


def identity(study: Path) -> str | None:
    """Return what a study calls itself in MLflow."""
    with (
        contextlib.suppress(HypertuneError),
        contextlib.closing(Journal(study / "journal.db", read_only=True)) as journal,
    ):
        return str(journal.study()["study_id"])
    return None


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a small file system in memory."""
    folder.mkdir()
    size = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until there is no room any more."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def clean(command: Command) -> bool:
    """Say whether a command that could not go on ended with a message and nothing else."""
    return bool(command.finish()) and "Traceback" not in command.said and "rror" in command.said


@contextlib.contextmanager
def study_on_a_small_disk(
    folder: Path, name: str, mib: int, rng: random.Random
) -> Iterator[tuple[Path, Command, list[str]]]:
    """Have a study under way on a disk of its own: its folder, its command, where it keeps what."""
    with small_disk(folder / f"disk-{name}", mib) as disk:
        store = ["--studies-dir", str(disk / "studies")]
        store += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        command = Command(folder, *run_args(name, "asha", rng, *store))
        study = disk / "studies" / name
        if not command.searching(study / "journal.db", 3):
            raise RuntimeError(f"'{name}' did not begin: {command.said}")
        time.sleep(rng.expovariate(1.0))
        yield study, command, store


def full_disks(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Fill the disk that studies are written to."""
    total = Counter[str]()
    for number in range(n):
        name = f"full-{number}"
        with study_on_a_small_disk(folder, name, 8, rng) as (study, command, store):
            filler = study.parents[1] / "filler"
            fill(filler)
            total["wrong"] += not clean(command)
            seen = results(study)  # readable, full or not
            filler.unlink()
            command = Command(folder, "resume", name, *store)
            total += ended(command.finish(), well=(0, 2), said=command.said)
            total += compare(study, folder / "mlflow.db", seen)
    return n, total


def read_only_disks(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Let studies that were killed find their folder read-only."""
    total = Counter[str]()
    for number in range(n):
        name = f"closed-{number}"
        with study_on_a_small_disk(folder, name, 64, rng) as (study, command, store):
            command.kill()
            seen = results(study)
            remount(study.parents[1], "ro")
            total["wrong"] += not clean(Command(folder, "resume", name, *store))
            total["wrong"] += not clean(
                Command(folder, *run_args(f"{name}-new", "asha", rng, *store))
            )
            remount(study.parents[1], "rw")
            command = Command(folder, "resume", name, *store)
            total += ended(command.finish(), well=(0, 2), said=command.said)
            total += compare(study, folder / "mlflow.db", seen)
    return n, total


def remount(disk: Path, how: str) -> None:
    """Make a file system writable or not, once what was killed has let go of its files."""
    for _ in range(100):
        done = subprocess.run(
            ["mount", "-o", f"remount,{how}", str(disk)], capture_output=True, check=False
        )
        if done.returncode == 0:
            return
        time.sleep(1)
    raise RuntimeError(f"'{disk}' cannot be remounted: {done.stderr.decode()}")
