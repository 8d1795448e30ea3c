"""What does one driver carry? Sixteen real workers, and a thousand simulated ones.

    python benchmarks/cluster.py                       # some minutes on two cores
    python benchmarks/cluster.py actors --epoch-s 2
    python benchmarks/cluster.py simulated --ray-ms 8

- *actors*: a study of short trials on a local Ray with sixteen logical CPUs. An epoch sleeps, so
  that two cores carry sixteen workers. Of all the time from the start of the workers' processes to
  the end of the search it says where it went: training; what has a name (the start of processes,
  checkpoints, no trial left for a worker at the end); and the rest, which is waiting for the
  driver, Ray's loop included. Also: CPU milliseconds of the driver's process a result, and what of
  it hypertune's own part takes (the search, the journal, the display).
- *simulated*: a thousand workers in simulated time, with the real driver, search and journal, whose
  calls are timed as they run and served one after another; to each result Ray's own part is added
  as *actors* has measured it (or ``--ray-ms``). Busy is the share of training in the workers' time,
  between the first and the last quarter of all results. What is not simulated: parts of Ray's loop
  that grow with the number of workers, and a network.
"""

import argparse
import contextlib
import heapq
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import ray
from ray import tune

import hypertune
from hypertune import Study
from hypertune.engine.driver import Driver
from hypertune.engine.prepare import prepare
from hypertune.engine.progress import Progress
from hypertune.journal.store import Journal
from hypertune.settings import Settings

_CALLS = ("next_job", "started", "result", "cut", "tick", "finished")
_N_ACTORS = 16


class Sleeper:
    """Trains by sleeping, and writes down when it did what: a line a stretch of time."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.epoch = config, 0
        self.note("begin", psutil.Process().create_time())

    def note(self, what: str, begun: float) -> None:
        with Path(self.config["log"], str(os.getpid())).open("a") as file:
            file.write(f"{what} {begun} {time.time()}\n")

    def step(self) -> dict[str, float]:
        begun = time.time()
        time.sleep(self.config["epoch_s"] * (0.5 + self.config["x"]))
        self.epoch += 1
        self.note("training", begun)
        return {"loss": self.config["x"] + 1 / self.epoch}

    def save(self, folder: Path) -> None:
        begun = time.time()
        (folder / "epoch").write_text(str(self.epoch))
        self.note("checkpoint", begun)

    def load(self, folder: Path) -> None:
        begun = time.time()
        self.epoch = int((folder / "epoch").read_text())
        self.note("checkpoint", begun)


def study(options: argparse.Namespace, log: Path) -> Study:
    return Study(
        name="cluster",
        question="What does one driver carry?",
        factors=("x",),
        space={"x": tune.uniform(0, 1), "y": tune.loguniform(1e-4, 1)},
        default={"x": 0.5, "y": 0.1},
        fixed={"epoch_s": options.epoch_s, "log": str(log)},
        trainable=Sleeper,
        metric="loss",
        max_epochs=9,
        n_trials=192,
        n_repeats=0,
    )


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Time hypertune's own part of the driver, for the time of the block."""
    spent = {"s": 0.0}

    def timing(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                spent["s"] += time.perf_counter() - begun

        return timed_call

    before = {name: Driver.__dict__[name] for name in _CALLS}
    for name, found in before.items():
        is_property = isinstance(found, property)
        setattr(Driver, name, property(timing(found.fget)) if is_property else timing(found))
    try:
        yield spent
    finally:
        for name, found in before.items():
            setattr(Driver, name, found)


def actors(options: argparse.Namespace) -> float:
    """Run a study on sixteen workers, print where their time went; return Ray's ms a result."""
    ray.init(
        "local", num_cpus=_N_ACTORS, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    marks: dict[str, float] = {}

    def watch(progress: Progress) -> None:
        cpu = psutil.Process().cpu_times()
        if progress.stage == "search" and progress.n_epochs:
            marks.setdefault("cpu", cpu.user + cpu.system)
            marks.setdefault("epochs", progress.n_epochs)
        if progress.stage not in ("start", "search"):
            marks.setdefault("end", time.time())
            marks.setdefault("cpu_end", cpu.user + cpu.system)
            marks.setdefault("epochs_end", progress.n_epochs)

    with tempfile.TemporaryDirectory(prefix="cluster-") as scratch, timed() as spent:
        log = Path(scratch, "log")
        log.mkdir()
        settings = {"method": options.method, "studies_dir": Path(scratch, "studies")}
        outcome = hypertune.run(study(options, log), observer=watch, **settings)
        with contextlib.closing(Journal(outcome.folder / "journal.db", read_only=True)) as journal:
            n_results = sum(row.epoch > 0 for row in journal.results())
        share = account(log, marks["end"])
    ray.shutdown()

    print(f"{len(share)} workers, epochs of {options.epoch_s:g} s, {n_results} results")
    total = sum(sum(one.values()) for one in share)
    for what in ("training", "start", "checkpoint", "no trial left", "waiting"):
        print(f"  {what:15s}{sum(one[what] for one in share) / total:7.1%}")
    named = 1 - sum(one["waiting"] for one in share) / total
    print(f"  training or named: {named:.1%}")
    n = marks["epochs_end"] - marks["epochs"]
    all_ms = 1000 * (marks["cpu_end"] - marks["cpu"]) / n
    own_ms = 1000 * spent["s"] / n_results
    print(f"driver: {all_ms:.1f} CPU ms a result, of these {own_ms:.1f} ms in hypertune")
    return max(0.0, all_ms - own_ms)


def account(log: Path, end: float) -> list[dict[str, float]]:
    """Return, for each worker, the seconds that went into each kind of thing."""
    workers = []
    for file in log.iterdir():
        lines = [line.split() for line in file.read_text().splitlines()]
        workers.append([(what, float(begun), float(ended)) for what, begun, ended in lines])
    last_begin = max(ended for rows in workers for what, _, ended in rows if what == "begin")
    found = []
    for rows in workers:
        kinds = dict.fromkeys(("training", "start", "checkpoint", "no trial left", "waiting"), 0.0)
        _, created, last = rows[0]
        kinds["start"] = last - created
        for what, begun, ended in rows:
            if what != "begin":
                kinds["waiting"] += max(0.0, begun - last)
                kinds[what] += min(ended, end) - min(begun, end)
                last = ended
        kinds["waiting"] += max(0.0, last_begin - last)
        kinds["no trial left"] = max(0.0, end - max(last, last_begin))
        found.append(kinds)
    return found


def simulated(options: argparse.Namespace, ray_ms: float) -> None:
    """Keep simulated workers busy with the real driver, and print how busy they were."""
    print(f"{options.workers} simulated workers, {ray_ms:.1f} ms of Ray's a result")
    for epoch_s in options.epochs_s:
        with tempfile.TemporaryDirectory(prefix="cluster-") as scratch:
            busy, own_ms, per_s = simulate(options, ray_ms, epoch_s, Path(scratch))
        print(
            f"  epochs of {epoch_s:3g} s: {busy:6.1%} busy, {per_s:5.0f} results/s, "
            f"{own_ms:.2f} ms of hypertune's a result"
        )


def simulate(
    options: argparse.Namespace, ray_ms: float, epoch_s: float, folder: Path
) -> tuple[float, float, float]:
    """Return the share of training, hypertune's ms a result, and results a second."""
    settings = Settings(method=options.method, n_trials=4 * options.workers, n_repeats=0)
    its = replace(study(options, folder), n_trials=settings.n_trials or 1)
    journal = Journal(folder / "journal.db")
    journal.set_study(study_id="simulated")
    driver = Driver(
        its,
        settings,
        prepare(its, settings).search,
        journal,
        folder,
        {},
        n_concurrent=options.workers,
        progress=Progress(metric="loss", n_trials=0, planned_epochs=0, started=time.monotonic()),
        observer=lambda progress: None,
    )
    free_at, own, key = 0.0, 0.0, 0
    waiting: list[tuple[float, int]] = []  # events: when a worker reports, or asks for a job
    jobs: dict[int, tuple[str, Any, int]] = {}  # of each worker: key, job, epoch
    trained: list[tuple[float, float]] = []
    idle = set(range(options.workers))

    def serve(at: float, call: Callable[..., Any], *args: Any, ms: float = 0.0) -> Any:
        """Have the driver, which does one thing at a time, do one more."""
        nonlocal free_at, own
        begun = time.perf_counter()
        answer = call(*args)
        took = time.perf_counter() - begun
        own += took
        free_at = max(at, free_at) + took + ms / 1000
        return answer

    def hand_out(at: float) -> None:
        nonlocal key
        while idle:
            key += 1
            job = serve(at, driver.next_job, str(key))
            if job is None:
                return
            serve(at, driver.started, str(key))
            worker = idle.pop()
            first = driver.running[str(key)].from_epoch
            jobs[worker] = str(key), job, first
            seconds = epoch_s * (0.5 + job.config["x"])
            heapq.heappush(waiting, (free_at + seconds, worker))

    hand_out(0.0)
    while waiting:
        at, worker = heapq.heappop(waiting)
        name, job, epoch = jobs[worker]
        epoch += 1
        seconds = epoch_s * (0.5 + job.config["x"])
        trained.append((at, seconds))
        row = {"epoch": epoch, "metrics": {"loss": job.config["x"] + 1 / epoch}, "t_ms": epoch}
        last = {"epoch": epoch, "converged": False, "failure": None, "device": "cpu"}
        result = {**last, "epochs": [row], "traceback": ""}
        serve(at, driver.tick)
        serve(at, driver.result, name, result, ms=ray_ms)
        if epoch < job.to_epoch:
            jobs[worker] = name, job, epoch
            heapq.heappush(waiting, (free_at + seconds, worker))
            continue
        idle.add(worker)
        hand_out(at)
        if driver.search.done:
            break
    if driver.error is not None:
        raise driver.error
    journal.close()
    trained.sort()
    quarter = len(trained) // 4
    begin, end = trained[quarter][0], trained[-quarter][0]
    inside = sum(max(0.0, min(at, end) - max(at - seconds, begin)) for at, seconds in trained)
    busy = inside / (options.workers * (end - begin))
    n = len(trained)
    return busy, 1000 * own / n, sum(begin < at <= end for at, _ in trained) / (end - begin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=("actors", "simulated"), help="default: both")
    parser.add_argument("--epoch-s", type=float, default=1.0, help="of the sixteen; the mean")
    parser.add_argument("--method", default="asha")
    parser.add_argument("--repeats", type=int, default=3, help="of the sixteen: the median counts")
    parser.add_argument("--workers", type=int, default=1000, help="simulated ones")
    parser.add_argument("--epochs-s", type=float, nargs="+", default=(2, 5, 10, 20, 60))
    parser.add_argument("--ray-ms", type=float, default=math.nan, help="instead of measuring it")
    options = parser.parse_args()
    measured = options.ray_ms
    if options.part != "simulated" or math.isnan(measured):
        measured = median(actors(options) for _ in range(options.repeats))
    if options.part != "actors":
        simulated(options, measured if math.isnan(options.ray_ms) else options.ray_ms)


if __name__ == "__main__":
    main()
