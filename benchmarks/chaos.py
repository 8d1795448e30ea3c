"""Is anything lost? Drivers, workers and MLflow servers are killed at random; then all is compared.

    python benchmarks/chaos.py                 # an hour on two cores
    python benchmarks/chaos.py --kills 2 --worker-kills 2 --server-faults 5     # some minutes

- *drivers*: studies are started on the command line, SIGKILLed at a random moment, resumed, killed
  again, up to four times each, and resumed to their end; ``--kills`` times for each method;
- *workers*: while a study runs, a process that trains is SIGKILLed every few seconds;
- *torn tails*: the write-ahead log of a killed study is cut at a random byte, as a loss of power
  may leave it; then the study is resumed;
- *clocks*: while a study runs, the clock of all its processes is set back by up to an hour;
- *disks*: a study's folder lies on a small disk, which is full at a random moment (the study must
  end cleanly, and is resumed when there is room), or which a killed study finds read-only (it must
  be refused, and is resumed when it is not); as root only, who may mount one;
- *servers*: a journal grows by 100 results a second; its uploader delivers to a real MLflow server
  through a proxy that answers 500, 401 or 403, hangs, or loses answers after the server has done
  its work; the server is also killed, and comes back after 5, 30 or 90 seconds;
- *uploaders*: two at once deliver a journal that grows; the one or the other is SIGKILLed, and a
  new one started.

The trained "model" is a sequence in which every value follows from the one before, so that a
checkpoint that is lost or taken twice shows in all later values. After each study, row by row:

- *lost*: a result that was in the journal at a kill and is not there, or not the same, in the end;
  a gap in the epochs of a trial; a result or a trial of the journal that MLflow does not have;
- *duplicated*: a trial with two runs in MLflow, a step with two values;
- *wrong*: a value that is not what the sequence has at this epoch; a value in MLflow that is not
  the journal's; a trial that ended in a way that it should not have.

Ends with status 1 if there is any of them. Linux only.
"""

import argparse
import contextlib
import http.client
import http.server
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from hypertune.errors import HypertuneError
from hypertune.records import Journal, Uploader
from hypertune.records.replica import deliver
from hypertune.records.server import mlflow_server

ROOT = Path(__file__).parents[1]
METHODS = ("random", "tpe", "hyperband", "bohb", "auto")
MAX_KILLS = 4  # of one study
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


def compare(folder: Path, store: Path, seen: Rows, *, may_be_lost: bool = False) -> Counter[str]:
    """Return how much is lost, duplicated and wrong in a finished study, once all is delivered."""
    deliver_all(folder / "journal.db", f"sqlite:///{store}")
    found: Counter[str] = Counter(lost=0, duplicated=0, wrong=0)
    rows = results(folder)
    found["lost"] += sum(rows.get(key) != row for key, row in seen.items())
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        trials, study_id = journal.trials(), journal.study()["study_id"]
    fine = {"complete", "stopped", "lost"} if may_be_lost else {"complete", "stopped"}
    for trial in trials:
        if "x" not in trial.config:
            continue
        epochs = sorted(epoch for number, epoch in rows if number == trial.id)
        found["lost"] += epochs != list(range(1, len(epochs) + 1))
        found["wrong"] += trial.reason not in fine
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


# ---- drivers, workers, torn tails ----


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

    def finish(self) -> int:
        """Wait for its end; return its exit status."""
        try:
            return self.process.wait(timeout=600)
        finally:
            self.process.kill()
            self.log.close()

    @property
    def said(self) -> str:
        """What it printed so far."""
        return (self.folder / "log.txt").read_bytes()[self._from :].decode(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def kill_all(self) -> None:
        """Kill its uploader as well, which outlives it for a while."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        self.kill()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
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


def killed_drivers(
    folder: Path, method: str, n: int, rng: random.Random
) -> tuple[int, Counter[str]]:
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
        if status not in ((0, 2) if mine else (0,)):
            total["wrong"] += 1
            print(f"{name} ended with status {status}: {command.said[-2000:]}", file=sys.stderr)
    return n_kills, total


def killed_workers(folder: Path, n: int, rng: random.Random) -> tuple[int, Counter[str]]:
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
        total += compare(study, folder / "mlflow.db", {}, may_be_lost=True)
        total["wrong"] += status != 0
    return n_kills, total


def trains(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "Trainable" in " ".join(process.cmdline())
    return False


def torn_tails(folder: Path, n: int, rng: random.Random) -> tuple[int, Counter[str]]:
    """Cut the end of the journal's write-ahead log off after a kill."""
    total = Counter[str]()
    for number in range(n):
        name = f"torn-{number}"
        study = folder / "studies" / name
        command = Command(folder, *run_args(name, "asha", rng))
        if not command.searching(study / "journal.db", 3):
            total["wrong"] += 1
            continue
        command.kill_all()  # whoever has the journal open would go by its old index
        wal = study / "journal.db-wal"
        if wal.exists() and wal.stat().st_size:
            os.truncate(wal, int(wal.stat().st_size * rng.uniform(0.3, 1)))
        (study / "journal.db-shm").unlink(missing_ok=True)
        # What MLflow had got of the tail is no longer the journal's: it starts from nothing.
        for path in study.glob("replica.db*"):
            path.unlink()
        left = results(study)
        status = Command(folder, "resume", name, "--tracking-uri", "sqlite:///torn.db").finish()
        total += compare(study, folder / "torn.db", left)
        total["wrong"] += status != 0
    return n, total


# ---- clocks and disks ----

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


def clocks_set_back(folder: Path, n: int, rng: random.Random) -> tuple[int, Counter[str]]:
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
        total["wrong"] += status != 0
        with contextlib.closing(Journal(study / "journal.db", read_only=True)) as journal:
            t_ms = [row.t_ms for row in journal.results()]
        total["wrong"] += t_ms == sorted(t_ms)  # the fault did not arrive
    return n_faults, total


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
    return command.finish() != 0 and "Traceback" not in command.said and "rror" in command.said


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


def full_disks(folder: Path, n: int, rng: random.Random) -> tuple[int, Counter[str]]:
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
            status = Command(folder, "resume", name, *store).finish()
            total += compare(study, folder / "mlflow.db", seen)
            total["wrong"] += status not in (0, 2)
    return n, total


def read_only_disks(folder: Path, n: int, rng: random.Random) -> tuple[int, Counter[str]]:
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
            status = Command(folder, "resume", name, *store).finish()
            total += compare(study, folder / "mlflow.db", seen)
            total["wrong"] += status not in (0, 2)
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


# ---- servers ----


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands requests on to a server, unless there is trouble."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two parts would wait for its acknowledgement
    target = ""
    trouble: str | None = None

    def seen(self, body: bytes) -> None:
        """Called with the body of each request."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen(body)
        trouble = type(self).trouble
        if trouble == "hang":
            deadline = time.monotonic() + 20
            while type(self).trouble == "hang" and time.monotonic() < deadline:
                time.sleep(0.1)
            self.close_connection = True
            return
        if trouble in ("500", "401", "403"):
            return self.answer(int(trouble), b"trouble")
        try:
            upstream = http.client.HTTPConnection(type(self).target, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            upstream.request(self.command, self.path, body, headers)
            reply = upstream.getresponse()
            text = reply.read()
        except OSError:
            return self.answer(502, b"")
        if trouble == "lost answer":
            self.close_connection = True
            return None
        return self.answer(reply.status, text)

    def answer(self, status: int, text: bytes) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # whatever the verb
            return self.handle_any
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextlib.contextmanager
def proxy(target: str) -> Iterator[tuple[type[Proxy], str]]:
    handler = type("Here", (Proxy,), {"target": target, "trouble": None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def grow(journal: Journal, stop: threading.Event, rng: random.Random) -> None:
    """Let a journal grow by 100 results a second, four trials at a time, until told to stop."""
    first = 0
    while not stop.is_set():
        group = range(first, first + 4)
        for trial in group:
            journal.add_trial(trial, {"x": rng.random()}, seed=0)
            journal.set_state(trial, "running")
        sequences = {t: values(journal.trial(t).config["x"], 27) for t in group}
        for epoch in range(1, 28):
            for trial in group:
                loss = sequences[trial][epoch - 1]
                journal.add_result(trial, epoch, {"loss": loss, "twice": 2 * loss})
            time.sleep(0.04)
        for trial in group:
            journal.set_state(trial, "ended", reason="complete")
        first += 4
    journal.add_event("search_end", None, {"stopped_by": None})
    journal.close()


def server_faults(folder: Path, n: int, rng: random.Random) -> tuple[int, Counter[str]]:
    """Disturb the delivery of a growing journal."""
    study = folder / "studies" / "servers"
    study.mkdir(parents=True)
    about = {"study_id": "servers", "name": "servers", "space": "servers", "metric": "loss"}
    with contextlib.closing(Journal(study / "journal.db")) as journal:
        journal.set_study(**about, mode="min", seed=0)
        journal.add_event("search_start")
    store, stop = folder / "served.db", threading.Event()

    def write() -> None:
        grow(Journal(study / "journal.db"), stop, rng)

    writer = threading.Thread(target=write)
    servers = contextlib.ExitStack()

    def serve() -> str:
        uri, log = f"sqlite:///{store}", folder / "server.log"
        return servers.enter_context(mlflow_server(uri, log=log)).removeprefix("http://")

    with proxy(serve()) as (handler, url):
        uploader = Uploader(study / "journal.db", url)
        uploader.start()
        writer.start()
        for k in range(n):
            time.sleep(rng.uniform(0.5, 3))
            kind = ("500", "lost answer", "401", "hang", "403", "lost answer", "kill")[k % 7]
            if kind == "kill":
                servers.close()
                time.sleep((5, 30, 90)[k // 7 % 3])
                handler.target = serve()
            else:
                handler.trouble = kind
                time.sleep(rng.uniform(0.5, 4))
                handler.trouble = None
        stop.set()
        writer.join()
        uploader.finish(60)
        deliver_all(study / "journal.db", url)
    servers.close()
    with contextlib.closing(Journal(study / "journal.db", read_only=True)) as journal:
        trials = {trial.id for trial in journal.trials()}
    return n, in_mlflow(store, "servers", results(study), trials)


def two_uploaders(folder: Path, n: int, rng: random.Random) -> tuple[int, Counter[str]]:
    """Deliver a growing journal by two uploaders at once, and kill the one or the other."""
    study, store, stop = folder / "studies" / "uploaders", folder / "twice.db", threading.Event()
    study.mkdir(parents=True)
    about = {"study_id": "uploaders", "name": "uploaders", "space": "uploaders", "metric": "loss"}
    with contextlib.closing(Journal(study / "journal.db")) as journal:
        journal.set_study(**about, mode="min", seed=0)
        journal.add_event("search_start")
    uri = f"sqlite:///{store}"
    writer = threading.Thread(target=lambda: grow(Journal(study / "journal.db"), stop, rng))

    def started() -> Uploader:
        uploader = Uploader(study / "journal.db", uri)
        uploader.start()
        return uploader

    two = [started(), started()]
    writer.start()
    for _ in range(n):
        time.sleep(rng.uniform(2, 6))
        which = rng.randrange(2)
        process = two[which]._process
        assert process is not None
        process.kill()
        two[which].finish(1)
        two[which] = started()
    stop.set()
    writer.join()
    for uploader in two:
        uploader.finish(60)
    deliver_all(study / "journal.db", uri)
    with contextlib.closing(Journal(study / "journal.db", read_only=True)) as journal:
        trials = {trial.id for trial in journal.trials()}
    return n, in_mlflow(store, "uploaders", results(study), trials)


# ---- the table ----


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of drivers, for each method")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--worker-kills", type=int, default=40)
    parser.add_argument("--torn-tails", type=int, default=10)
    parser.add_argument("--clock-faults", type=int, default=15)
    parser.add_argument("--full-disks", type=int, default=5)
    parser.add_argument("--read-only-disks", type=int, default=5)
    parser.add_argument("--server-faults", type=int, default=60)
    parser.add_argument("--uploader-kills", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for all files")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rng = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        if options.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        else:
            folder = options.keep.resolve()
            folder.mkdir(parents=True)
        (folder / "chaos_study.py").write_text(STUDY)
        table: dict[str, tuple[int, Counter[str]]] = {}

        def note(what: str, outcome: tuple[int, Counter[str]]) -> None:
            table[what] = outcome
            print(f"{what}: {outcome[0]} faults, {json.dumps(outcome[1])}", flush=True)

        for method in options.methods:
            note(f"driver killed, {method}", killed_drivers(folder, method, options.kills, rng))
        note("worker killed", killed_workers(folder, options.worker_kills, rng))
        note("journal's tail torn", torn_tails(folder, options.torn_tails, rng))
        note("clock set back", clocks_set_back(folder, options.clock_faults, rng))
        if os.geteuid() == 0:
            note("disk full", full_disks(folder, options.full_disks, rng))
            note("disk read-only", read_only_disks(folder, options.read_only_disks, rng))
        note("MLflow server disturbed", server_faults(folder, options.server_faults, rng))
        note("one of two uploaders killed", two_uploaders(folder, options.uploader_kills, rng))

    print("\n| fault | faults | lost | duplicated | wrong |\n|---|---|---|---|---|")
    columns = ("lost", "duplicated", "wrong")
    for what, (n, found) in table.items():
        print(f"| {what} | {n} | {' | '.join(str(found[c]) for c in columns)} |")
    total = sum((found for _, found in table.values()), Counter[str]())
    print(
        f"| in all | {sum(n for n, _ in table.values())} | "
        f"{' | '.join(str(total[c]) for c in columns)} |"
    )
    sys.exit(1 if any(total.values()) else 0)


if __name__ == "__main__":
    main()
