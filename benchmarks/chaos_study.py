"""The study that `chaos.py` disturbs, and what is compared of it afterwards.

The trained "model" is a sequence in which every value follows from the one before, so that a
checkpoint that is lost or taken twice shows in all later values.
"""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import psutil

from hypertune.core.errors import HypertuneError
from hypertune.journal.store import Journal
from hypertune.tracking.mlflow.replica import deliver

ROOT = Path(__file__).parents[1]
LIMIT_S = 600.0
"""A command that takes longer than this hangs."""
Outcome = tuple[int, Counter[str]]
"""How many faults there were, and how often something was lost, duplicated, wrong or hung."""
STUDY = textwrap.dedent('''
    """A sequence in which every value follows from the one before."""

    import json
    import time

    from ray import tune

    from hypertune import Study


    class Sequence:
        def __init__(self, config):
            self.config, self.epoch, self.value = config, 0, config["x"]

        def step(self):
            time.sleep(self.config["sleep_s"])
            self.epoch += 1
            self.value = (self.value * 997.0 + self.epoch) % 1.0
            return {"loss": self.value, "twice": 2 * self.value}

        def save(self, folder):
            (folder / "state.json").write_text(json.dumps([self.epoch, self.value]))

        def load(self, folder):
            self.epoch, self.value = json.loads((folder / "state.json").read_text())


    study = Study(
        question="Is anything lost?",
        factors=("x",),
        space={"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)},
        default={"x": 0.5, "y": 0.5},
        fixed={"sleep_s": 0.06},
        trainable=Sequence,
        metric="loss",
        max_epochs=27,
        n_trials=12,
    )
''')

Rows = dict[tuple[int, int], tuple[int, float]]


def values(x: float, n: int) -> list[float]:
    """Return what the sequence has at epochs 1 to n."""
    value, found = x, []
    for epoch in range(1, n + 1):
        value = (value * 997.0 + epoch) % 1.0
        found.append(value)
    return found


# ---- what is compared ----


def results(folder: Path) -> Rows:
    """Return time and loss by trial and epoch, but for baselines without epochs."""
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        rows = journal.results()
    return {(r.trial, r.epoch): (r.t_ms, r.metrics["loss"]) for r in rows if r.epoch > 0}


def compare(
    folder: Path, store: Path, seen: Rows, *, may_end: Collection[str] = ("complete", "stopped")
) -> Counter[str]:
    """Return how much is lost, duplicated and wrong in a finished study, once all is delivered.

    Args:
        folder: The study's.
        store: MLflow's database.
        seen: Results that the journal held at some time before.
        may_end: The reasons that its trials may have ended for.
    """
    deliver_all(folder / "journal.db", f"sqlite:///{store}")
    found: Counter[str] = Counter(lost=0, duplicated=0, wrong=0)
    rows = results(folder)
    found["lost"] += sum(rows.get(key) != row for key, row in seen.items())
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        trials, study_id = journal.trials(), journal.study()["study_id"]
    for trial in trials:
        if "x" not in trial.config:
            continue
        epochs = sorted(epoch for number, epoch in rows if number == trial.id)
        found["lost"] += epochs != list(range(1, len(epochs) + 1))
        found["wrong"] += trial.reason not in may_end
        expected = values(trial.config["x"], len(epochs))
        found["wrong"] += sum(
            rows[trial.id, e][1] != v for e, v in enumerate(expected, 1) if (trial.id, e) in rows
        )
    ours = {trial.id for trial in trials if "x" in trial.config}
    found += in_mlflow(store, study_id, rows, ours)
    if found.total():
        print(f"{folder.name}: {dict(found)}", file=sys.stderr)
        for trial in trials:
            print(f"  {trial.id} {trial.role} {trial.state} {trial.reason}", file=sys.stderr)
    return found


def deliver_all(journal: Path, uri: str) -> None:
    """Bring MLflow up to date; what takes too long counts as lost, and this is told."""
    if left := deliver(journal, uri, timeout_s=600).pending:
        print(f"{journal.parent.name}: {left} records are not delivered yet", file=sys.stderr)


def in_mlflow(store: Path, study_id: str, rows: Rows, trials: set[int]) -> Counter[str]:
    """Return how much of some trials is lost, duplicated and wrong in MLflow's database."""
    found: Counter[str] = Counter(lost=0, duplicated=0, wrong=0)
    with contextlib.closing(sqlite3.connect(store)) as db:
        runs = db.execute(
            "SELECT a.run_uuid, CAST(b.value AS INTEGER) FROM tags a JOIN tags b USING (run_uuid) "
            "WHERE a.key = 'hypertune.study_id' AND a.value = ? AND b.key = 'hypertune.trial'",
            (study_id,),
        ).fetchall()
        count = Counter(trial for _, trial in runs if trial in trials)
        found["lost"] += len(trials - count.keys())
        found["duplicated"] += sum(n - 1 for n in count.values())
        there: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for run, trial in runs:
            for step, t_ms, value in db.execute(
                "SELECT step, timestamp, value FROM metrics WHERE run_uuid = ? AND key = 'loss'",
                (run,),
            ):
                if trial in trials:
                    there.setdefault((trial, step), []).append((t_ms, value))
    found["lost"] += len(rows.keys() - there.keys())
    found["duplicated"] += sum(len(there[key]) - 1 for key in there)
    found["wrong"] += sum(there[key][0] != rows.get(key) for key in there)
    return found


class Command:
    """hypertune's command line, as a process."""

    def __init__(self, folder: Path, *args: str, before: Path | None = None) -> None:
        self.folder = folder
        self.log = (folder / "log.txt").open("a")
        self._from = self.log.tell()
        path = os.pathsep.join(map(str, (*([before] if before else []), ROOT)))
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "hypertune.py"), *args],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdout=self.log,
            stderr=self.log,
        )

    def finish(self, limit_s: float = LIMIT_S) -> int | None:
        """Wait for its end; return its exit status, or None if it hung and was killed."""
        try:
            return self.process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            print(f"a command hung: {self.said[-2000:]}", file=sys.stderr)
            self.kill_tree()
            return None
        finally:
            self.log.close()

    @property
    def said(self) -> str:
        """What it printed so far."""
        return (self.folder / "log.txt").read_bytes()[self._from :].decode(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def tree(self) -> list[psutil.Process]:
        """Return its process and all that descend from it: Ray's, the workers, the uploader."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def kill_tree(self) -> None:
        """Kill its descendants as well; the uploader would outlive it for a while."""
        processes = self.tree()
        self.kill()
        send(processes, signal.SIGKILL)
        psutil.wait_procs(processes, timeout=60)

    def searching(self, journal: Path, n_before: int) -> bool:
        """Wait until the journal holds new results; return False if the process ended before."""
        while self.process.poll() is None:
            if journal.is_file():
                with contextlib.suppress(HypertuneError):  # it is being made
                    if len(results(journal.parent)) > n_before:
                        return True
            time.sleep(0.05)
        return False


def run_args(name: str, method: str, rng: random.Random, *more: str) -> list[str]:
    study = ["--space", "chaos_study.py", "--name", name, "--method", method]
    return [*study, "--seed", str(rng.randrange(1000)), "--n-concurrent", "2", *more]


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to those processes that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def trains(process: psutil.Process) -> bool:
    """Say whether a process is one that trains."""
    with contextlib.suppress(psutil.Error):
        return "Trainable" in " ".join(process.cmdline())
    return False


def ended(status: int | None, *, well: Collection[int] = (0,), said: str = "") -> Counter[str]:
    """Return what is to be counted for the way that a command has ended.

    Args:
        status: Its exit status; None if it hung.
        well: Those that are right.
        said: What it printed, to be shown where it did not end well.
    """
    if status is None:
        return Counter(hung=1)
    if status in well:
        return Counter()
    print(f"ended with status {status}: {said[-2000:]}", file=sys.stderr)
    return Counter(wrong=1)
