"""What do the records cost? The journal, the uploader, a server that hangs, and 10,000 trials.

    python benchmarks/records.py                    # half an hour on two idle cores
    python benchmarks/records.py journal upload     # a minute

- *journal*: milliseconds that a result costs in the control loop (median, and the 99th percentile),
  with a flush to the disk every half second as the driver makes it.
- *upload*: a journal grows by 3 trials and 1,000 metric values a second for half a minute; an
  uploader delivers it over HTTP to an MLflow server on SQLite. How long after the last record is
  everything there, and how many requests did a trial take beside its batches of metrics?
- *hang*: wall seconds of a search over trials of fixed sleep, alternately with a SQLite store and
  with a server that takes requests and never answers: the median of the pairs' ratios; and the
  share of the control loop's time that it spends in calls to the journal and the uploader.
- *many*: the driver's peak resident memory, and its CPU milliseconds a trial, at 10,000 trials of
  one epoch that does nothing.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
from chaos_servers import Proxy, proxy

from hypertune.journal.store import Journal
from hypertune.tracking.mlflow.server import mlflow_server
from hypertune.tracking.uploader import Uploader

ROOT = Path(__file__).parents[1]
STUDY = """
import time

from ray import tune

from hypertune import Study


class Sleeper:
    def __init__(self, config):
        self.config = config

    def step(self):
        time.sleep(self.config["sleep_s"])
        return {"loss": self.config["x"]}

    def save(self, folder):
        (folder / "state").touch()

    def load(self, folder):
        pass


study = Study(
    question="What do the records cost?",
    factors=("x",),
    space={"x": tune.uniform(0, 1)},
    default={"x": 0.5},
    fixed={"sleep_s": 0.5},
    trainable=Sleeper,
    metric="loss",
    max_epochs=10,
    n_trials=12,
)
"""

TIMED = """
import functools
import json
import os
import sys
import threading
import time

from hypertune.engine import session
from hypertune.journal.store import Journal
from hypertune.tracking.uploader import Uploader

spent, thread = [0.0], []


def timed(method):
    @functools.wraps(method)
    def call(*args, **kwargs):
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            if [threading.get_ident()] == thread:  # the control loop's own
                spent[0] += time.perf_counter() - start
    return call


def search(*args, search_on_ray=session.search_on_ray):
    thread.append(threading.get_ident())
    start = time.perf_counter()
    try:
        return search_on_ray(*args)
    finally:
        thread.clear()
        took = time.perf_counter() - start
        with open(os.environ["RECORDS_SHARE"], "w") as file:
            json.dump(spent[0] / took, file)


for name in ("set_study", "add_trial", "set_state", "add_result", "add_event", "sync", "study",
             "trials", "trial", "results", "events"):
    setattr(Journal, name, timed(getattr(Journal, name)))
Uploader.status = property(timed(Uploader.status.fget))
session.search_on_ray = search

from hypertune.cli import main

main()
"""
"""hypertune's command line, with a clock around all that its control loop does with records."""


def journal(folder: Path, options: argparse.Namespace) -> None:
    times = []
    with contextlib.closing(Journal(folder / "journal.db")) as record:
        record.add_trial(0, {"x": 0.5}, seed=0)
        synced = time.monotonic()
        for epoch in range(1, 20_001):
            start = time.perf_counter()
            record.add_result(0, epoch, {"loss": random.random(), "val_loss": random.random()})
            times.append(1000 * (time.perf_counter() - start))
            if time.monotonic() - synced > 0.5:
                record.sync()
                synced = time.monotonic()
    times.sort()
    print(f"journal: {statistics.median(times):.3f} ms a result (99 %: {times[-200]:.3f} ms)")


def upload(folder: Path, options: argparse.Namespace) -> None:
    counts: Counter[str] = Counter()

    def counted(self: Proxy, body: bytes) -> None:
        what = self.path.rpartition("/")[2].partition("?")[0]
        counts[what if b'"metrics": [{' not in body else "metrics"] += 1

    about = {"study_id": "u", "name": "upload", "space": "upload", "metric": "m0", "mode": "min"}
    with (
        mlflow_server(f"sqlite:///{folder}/mlflow.db", log=folder / "server.log") as url,
        proxy(url.removeprefix("http://")) as (handler, through),
        contextlib.closing(Journal(folder / "journal.db")) as record,
    ):
        handler.seen = counted  # type: ignore[method-assign]
        record.set_study(**about)
        record.add_event("search_start")
        uploader = Uploader(folder / "journal.db", through)
        uploader.start()
        while uploader.status.run_id is None:
            time.sleep(0.1)
        n_seconds, trial = 30, 0
        begun = time.monotonic()
        for second in range(n_seconds):
            for _ in range(3):
                record.add_trial(trial, {"x": random.random()}, seed=0)
                record.set_state(trial, "running")
                for epoch in range(1, 34):
                    record.add_result(trial, epoch, {f"m{k}": random.random() for k in range(10)})
                record.set_state(trial, "ended", reason="complete")
                trial += 1
            time.sleep(max(0.0, begun + second + 1 - time.monotonic()))
        record.add_event("search_end", None, {"stopped_by": None})
        record.sync()
        end = time.monotonic()
        delivery = uploader.finish(600)
        late = time.monotonic() - end
    beside = sum(n for what, n in counts.items() if what != "metrics") / trial
    print(
        f"upload: {trial} trials, {trial * 330} values in {n_seconds} s; all there {late:.1f} s "
        f"after the last one ({delivery.pending} pending); {beside:.2f} requests a trial beside "
        f"its metrics, the study's own among them; {dict(counts)}"
    )


@contextlib.contextmanager
def hanging_server() -> Iterator[str]:
    """Take connections, and never answer."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()


def searched(folder: Path, *args: str) -> tuple[float, float]:
    """Run a study; return the seconds of its search, and the share of its loop in records."""
    (folder / "study.py").write_text(STUDY)
    (folder / "timed.py").write_text(TIMED)
    name = f"run-{time.time_ns()}"
    command = [sys.executable, "timed.py", "--space", "study.py", "--name", name]
    command += ["--method", "random", "--n-repeats", "0", "--sync-timeout", "0s", *args]
    share = folder / f"{name}.json"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RECORDS_SHARE": str(share)}
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    path = folder / "studies" / name / "journal.db"
    with contextlib.closing(Journal(path, read_only=True)) as record:
        rows = [row.t_ms for row in record.results() if row.epoch > 0]
    return (max(rows) - min(rows)) / 1000, json.loads(share.read_text())


def hang(folder: Path, options: argparse.Namespace) -> None:
    ratios, shares = [], []
    with hanging_server() as url:
        for _ in range(options.pairs):
            without, share_without = searched(folder)
            with_it, share = searched(folder, "--tracking-uri", url)
            ratios.append(with_it / without)
            shares.append(share)
            print(
                f"  {without:.2f} s with SQLite, {with_it:.2f} s with a server that hangs; records "
                f"block {100 * share_without:.2f} % and {100 * share:.2f} % of the control loop",
                flush=True,
            )
    print(
        f"hang: {statistics.median(ratios):.3f} times as long ({min(ratios):.3f} to "
        f"{max(ratios):.3f}), median of {len(ratios)} pairs; records block "
        f"{100 * statistics.median(shares):.2f} % of the control loop (at most "
        f"{100 * max(shares):.2f} %)"
    )


def many(folder: Path, options: argparse.Namespace) -> None:
    (folder / "study.py").write_text(STUDY)
    command = [sys.executable, str(ROOT / "hypertune.py"), "--space", "study.py", "--name", "many"]
    command += ["--method", "random", "--n-repeats", "0", "--max-epochs", "1", "--set", "sleep_s=0"]
    command += ["--n-trials", str(options.trials), "--sync-timeout", "0s"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    start, most, cpu = time.monotonic(), 0, 0.0
    shown = start
    path = folder / "studies" / "many" / "journal.db"
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL) as process:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                most = max(most, driver.memory_info().rss)
                cpu = sum(driver.cpu_times()[:2])
            if time.monotonic() - shown > 30 and path.is_file():
                shown = time.monotonic()
                with contextlib.closing(sqlite3.connect(path)) as db:
                    (n,) = db.execute(
                        "SELECT count(*) FROM trials WHERE state = 'ended'"
                    ).fetchone()
                print(
                    f"  {n} trials after {shown - start:.0f} s, {most / 2**20:.0f} MiB", flush=True
                )
            time.sleep(0.5)
    took = time.monotonic() - start
    if process.returncode != 0:
        raise RuntimeError(f"the study ended with status {process.returncode}")
    print(
        f"many: {options.trials} trials in {took:.0f} s; the driver took {most / 2**20:.0f} MiB at "
        f"its peak and {1000 * cpu / options.trials:.1f} CPU ms a trial"
    )


PARTS = {"journal": journal, "upload": upload, "hang": hang, "many": many}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=[*PARTS], help=", ".join(PARTS))
    parser.add_argument("--pairs", type=int, default=5, help="of searches, in hang")
    parser.add_argument("--trials", type=int, default=10_000, help="in many")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    for name in options.parts:
        with tempfile.TemporaryDirectory(prefix=f"records-{name}-") as folder:
            PARTS[name](Path(folder), options)


if __name__ == "__main__":
    main()
