"""What does the bookkeeping cost? The same trials bare, under plain Ray Tune, and under hypertune.

    python benchmarks/overhead.py            # half an hour to an hour on two idle cores

Each arm trains the same configs (an LSTM of fixed size on sunspots; only the learning rate differs)
for the same epochs of about 0.1 s, one torch thread a trial, one trial a core:

(a) bare: a process a core (spawned), pulling from one list of configs; no Ray, no records;
(b) plain Ray Tune, as its tutorial shows it: a function that calls ``tune.report`` every epoch, the
    default loggers, and Ray's ``MLflowLoggerCallback`` on a SQLite store;
(c) hypertune: `engine.run`, method ``random``, delivery to a SQLite store of MLflow included, and
    the baselines and the look at the test part, which the other two do not do.

Every arm runs in a fresh process and a fresh folder, in an order that rotates from repeat to
repeat. The MLflow stores are made (migrated) before the clock starts, as that happens once in the
life of a store. How to read the output:

- *wall*: seconds from the start of the process to its exit.
- *CPU*: user and system seconds of the process and all its descendants, Ray's daemons and workers
  included. Ray lets the kernel discard its workers' usage, so that no ``rusage`` has it: /proc is
  sampled every 0.1 s instead, and what a process does after its last sample (below 1 %) is missed.
- *steady state*: epochs per second between the first and the last quarter of all epochs, in order
  of the times at which they ended on the workers. Start-up and the tail are left out.
- *efficiency*: in all, wall (a) / wall (c); in steady state, epochs/s (c) / epochs/s (a).
- Ratios are taken within each repeat; their median is shown, with the least and the greatest.
- The processes of (a) import Ray too, because hypertune does; one ratio leaves that time out.

The arms must agree on the last validation metric of every trial, else this ends with an error.
Linux only.
"""

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import os
import platform
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the arms import what they need themselves: imports are part of what they cost
    from hypertune import Study

SEED = 0
METRIC = "val_mae_ratio"
SAMPLE_S = 0.1
TOLERANCE = 1e-6
LINGER_S = 60.0  # how long daemons may outlive their arm
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


# ---- the arms: each runs in a process of its own, in its folder ----


def make_study(options: argparse.Namespace) -> "Study":
    from ray import tune

    from hypertune import Study, forecasting

    return Study(
        name="overhead",
        question="What does the bookkeeping cost?",
        factors=("learning_rate",),
        space={"learning_rate": tune.loguniform(1e-3, 1e-2)},
        default={"learning_rate": 3e-3},
        fixed={"cell": "lstm", "hidden_size": 32, "window": 48, "batch_size": 256},
        trainable=forecasting("sunspots", horizon=12, max_window=132),
        metric=METRIC,
        max_epochs=options.epochs,
        n_trials=options.trials,
    )


def prepare(options: argparse.Namespace) -> None:
    """Write what the arms start from: the configs that (c) will draw, and an empty MLflow store."""
    from mlflow import MlflowClient

    from hypertune.search.methods import make_search

    study = make_study(options)
    search = make_search(
        "random",
        study.search_space,
        mode=study.mode,
        max_epochs=study.max_epochs,
        n_trials=study.n_trials,
        seed=SEED,
        start=(dict(study.default),),
    )
    jobs = [search.ask() for _ in range(study.n_trials)]
    Path("configs.json").write_text(json.dumps([job.config for job in jobs if job is not None]))
    MlflowClient("sqlite:///mlflow.db").search_experiments()


def train(
    study: "Study",
    data: Any,
    config: dict[str, Any],
    record: Path,
    report: Callable[[dict[str, float]], None] | None = None,
) -> None:
    """Train one trial of (a) or (b), and write down when its epochs ended."""
    from hypertune.tasks.torch.loop import use_threads

    use_threads(1)
    whole = {**study.config(config, seed=SEED), "device": "cpu"}
    loop = study.trainable.start(whole, data, metric=study.metric, mode=study.mode)
    ends, values = [], []
    while loop.epoch < study.max_epochs:
        metrics = dict(loop.step())
        ends.append(time.time())
        values.append(metrics[study.metric])
        if report is not None:
            report(metrics)
    record.write_text(json.dumps({**config, "ends": ends, "values": values}))


def run_bare(options: argparse.Namespace) -> None:
    configs = json.loads(Path("configs.json").read_text())
    jobs = [(options, Path(f"trial-{i}.json"), config) for i, config in enumerate(configs)]
    with multiprocessing.get_context("spawn").Pool(options.workers, bare_start) as pool:
        pool.starmap(bare_trial, jobs, chunksize=1)


def bare_start() -> None:
    import torch  # noqa: F401  (so that what follows times Ray alone)

    started = time.perf_counter()
    import ray.tune  # noqa: F401

    Path(f"ray-import-{os.getpid()}").write_text(str(time.perf_counter() - started))


def bare_trial(options: argparse.Namespace, record: Path, config: dict[str, Any]) -> None:
    study = make_study(options)
    train(study, study.trainable.load(test=False), config, record)


def run_plain_ray(options: argparse.Namespace) -> None:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    def trainable(config: dict[str, Any], study: "Study", data: Any, folder: Path) -> None:
        record = folder / f"trial-{tune.get_context().get_trial_id()}.json"
        train(study, data, config, record, tune.report)

    study = make_study(options)
    configs = json.loads(Path("configs.json").read_text())
    ray.init(num_cpus=options.workers)
    task = tune.with_parameters(
        trainable, study=study, data=study.trainable.load(test=False), folder=Path.cwd()
    )
    store = f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    results = tune.Tuner(
        tune.with_resources(task, {"cpu": 1}),
        param_space={"learning_rate": tune.grid_search([c["learning_rate"] for c in configs])},
        tune_config=tune.TuneConfig(metric=study.metric, mode=study.mode),
        run_config=tune.RunConfig(
            storage_path=str(Path.cwd() / "ray_results"),
            callbacks=[MLflowLoggerCallback(tracking_uri=store, experiment_name=study.name)],
        ),
    ).fit()
    if results.num_errors:
        sys.exit(f"{results.num_errors} trials failed")


def run_hypertune(options: argparse.Namespace) -> None:
    from hypertune import engine
    from hypertune.settings import Settings

    settings = Settings(
        method="random",
        n_repeats=0,  # the other arms train each config once
        n_concurrent=options.workers,
        seed=SEED,
        name="overhead",
        studies_dir=Path("studies"),
        tracking_uri=f"sqlite:///{Path.cwd() / 'mlflow.db'}",
        sync_timeout_s=600,
    )
    outcome = engine.run(make_study(options), settings)
    if outcome.error or outcome.delivery.pending or outcome.delivery.warning:
        sys.exit(f"the study did not end well: {outcome}")


ARMS: dict[str, tuple[str, Callable[[argparse.Namespace], None]]] = {
    "bare": ("(a) bare loop", run_bare),
    "ray": ("(b) plain Ray Tune", run_plain_ray),
    "hypertune": ("(c) hypertune", run_hypertune),
}


# ---- measuring ----


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one arm.

    Attributes:
        wall, cpu: Seconds.
        ray_import: Seconds that a process of (a) spent on importing Ray; else 0.
        epochs: (learning rate, Unix time of its end, metric) of every epoch, in order of time.
    """

    wall: float
    cpu: float
    ray_import: float
    epochs: list[tuple[float, float, float]]

    @property
    def values(self) -> dict[float, float]:
        """The last metric of every trial, by its learning rate."""
        return {rate: value for rate, _, value in self.epochs}

    @property
    def steady(self) -> float:
        """Epochs per second between the first and the last quarter of all epochs."""
        first, last = len(self.epochs) // 4, len(self.epochs) * 3 // 4
        return (last - first) / (self.epochs[last][1] - self.epochs[first][1])


def descendants() -> dict[tuple[int, str], float]:
    """Return CPU seconds by (pid, start) of every process below this one, zombies included."""
    below: dict[int, list[tuple[int, str, float]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has gone
            stat = path.read_text().rpartition(")")[2].split()  # from field 3 on, proc(5)
            seconds = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
            below.setdefault(int(stat[1]), []).append((int(path.parent.name), stat[19], seconds))
    found, parents = {}, [os.getpid()]
    while parents:
        for pid, start, seconds in below.get(parents.pop(), []):
            found[pid, start] = seconds
            parents.append(pid)
    return found


def end_descendants(cpu: dict[tuple[int, str], float], *, within_s: float) -> None:
    """Wait until nothing runs below this process; kill what does not end in time."""
    deadline = time.monotonic() + within_s
    while alive := descendants():
        cpu |= alive
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > deadline:
            for pid, _ in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(SAMPLE_S)


def run_job(job: str, options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Run this file again, as ``job``, and return its wall and CPU seconds.

    Raises:
        SystemExit: It failed; the message is the end of what it printed.
    """
    root = str(Path(__file__).resolve().parents[1])
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    env.pop("RAY_ADDRESS", None)  # each arm starts a Ray of its own
    flags = [f"--{name}={getattr(options, name)}" for name in ("trials", "epochs", "workers")]
    command = [sys.executable, str(Path(__file__).resolve()), f"--job={job}", *flags]
    cpu: dict[tuple[int, str], float] = {}
    try:
        with (folder / "output.txt").open("w") as out:
            started = time.perf_counter()
            child = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        exited = os.pidfd_open(child.pid)
        while not select.select([exited], [], [], SAMPLE_S)[0]:
            cpu |= descendants()
        wall = time.perf_counter() - started
        os.close(exited)
        cpu |= descendants()  # now a zombie, it still tells its total
        if child.wait() != 0:
            tail = (folder / "output.txt").read_text(errors="replace").splitlines()[-40:]
            tail.append(f"'{job}' failed with exit status {child.returncode}; see above.")
            sys.exit("\n".join(tail))
        end_descendants(cpu, within_s=LINGER_S)
    finally:
        end_descendants(cpu, within_s=0)
    return wall, sum(cpu.values())


def measure(arm: str, options: argparse.Namespace, folder: Path, prepared: Path) -> Run:
    shutil.copytree(prepared, folder)
    wall, cpu = run_job(arm, options, folder)
    epochs = [
        (row["learning_rate"], end, value)
        for path in folder.glob("trial-*.json")
        for row in [json.loads(path.read_text())]
        for end, value in zip(row["ends"], row["values"], strict=True)
    ]
    if arm == "hypertune":
        with contextlib.closing(sqlite3.connect(folder / "studies/overhead/journal.db")) as db:
            epochs = [
                (json.loads(config)["learning_rate"], t_ms / 1000, json.loads(metrics)[METRIC])
                for config, t_ms, metrics in db.execute(
                    "SELECT config, t_ms, metrics FROM results "
                    "JOIN trials ON trials.id = results.trial WHERE role = 'search'"
                )
            ]
    imports = [float(path.read_text()) for path in folder.glob("ray-import-*")]
    return Run(
        wall=wall,
        cpu=cpu,
        ray_import=max(imports, default=0.0),
        epochs=sorted(epochs, key=lambda epoch: epoch[1]),
    )


def problem(run: Run, other: Run, n_epochs: int) -> str | None:
    """Return how two runs differ in what they computed; None if they do not."""
    if len(run.epochs) != n_epochs:
        return f"there must be {n_epochs} epochs, but got {len(run.epochs)}"
    if run.values.keys() != other.values.keys():
        return f"the configs are {sorted(run.values)}, not {sorted(other.values)}"
    gaps = [abs(value - other.values[rate]) for rate, value in run.values.items()]
    return None if max(gaps) <= TOLERANCE else f"{METRIC} differs by up to {max(gaps)}"


# ---- the whole ----


def spread(values: list[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def show(runs: dict[str, list[Run]], options: argparse.Namespace) -> None:
    cpu_info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in cpu_info if x.startswith("model name")), "?")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "mlflow"))
    ends: dict[tuple[int, float], list[float]] = {}
    for repeat, run in enumerate(runs["bare"]):
        for rate, end, _ in run.epochs:
            ends.setdefault((repeat, rate), []).append(end)
    steps = [later - end for trial in ends.values() for end, later in pairwise(trial)]
    print(
        f"{options.trials} trials x {options.epochs} epochs, {options.workers} at a time; median "
        f"(least to greatest) of {options.repeats} repeats.\n"
        f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, {packages}. "
        f"An epoch of (a) takes {median(steps) if steps else float('nan'):.3f} s (median).\n"
    )
    columns: dict[str, tuple[Callable[[Run], float], int]] = {
        "wall, s": (lambda run: run.wall, 1),
        "CPU, s": (lambda run: run.cpu, 1),
        "trials/min": (lambda run: 60 * options.trials / run.wall, 1),
        "epochs/s in steady state": (lambda run: run.steady, 2),
    }
    print(f"| | {' | '.join(label for label, _ in ARMS.values())} |\n|---|---|---|---|")
    for name, (value, digits) in columns.items():
        cells = [spread([value(run) for run in runs[arm]], digits) for arm in ARMS]
        print(f"| {name} | {' | '.join(cells)} |")
    ratios: dict[str, Callable[[Run, Run, Run], float]] = {
        "efficiency in all: wall (a) / (c)": lambda a, b, c: a.wall / c.wall,
        "the same, had (a) not imported Ray": lambda a, b, c: (a.wall - a.ray_import) / c.wall,
        "efficiency in steady state: epochs/s (c) / (a)": lambda a, b, c: c.steady / a.steady,
        "plain Ray Tune in all: wall (a) / (b)": lambda a, b, c: a.wall / b.wall,
        "plain Ray Tune in steady state: epochs/s (b) / (a)": lambda a, b, c: b.steady / a.steady,
        "wall (b) / (c)": lambda a, b, c: b.wall / c.wall,
        "CPU (b) / (c)": lambda a, b, c: b.cpu / c.cpu,
    }
    print("\n| ratio within a repeat | |\n|---|---|")
    for name, of in ratios.items():
        values = [of(*trio) for trio in zip(*(runs[arm] for arm in ARMS), strict=True)]
        print(f"| {name} | {spread(values, 3)} |")
    print(
        "\nSteady state: epochs per second between the first and the last quarter of all epochs, "
        f"by the time at which they ended.\nThe arms agree on the last {METRIC} of every trial "
        f"within {TOLERANCE:g}."
    )


def benchmark(options: argparse.Namespace, folder: Path) -> None:
    # What is orphaned below becomes a child of this process, so that nothing goes uncounted.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prepared, names = folder / "prepared", list(ARMS)
    prepared.mkdir(parents=True)
    run_job("prepare", options, prepared)
    runs: dict[str, list[Run]] = {arm: [] for arm in names}
    for repeat in range(options.repeats):
        shift = repeat % len(names)
        for arm in names[shift:] + names[:shift]:
            run = measure(arm, options, folder / f"{repeat + 1}-{arm}", prepared)
            runs[arm].append(run)
            line = f"repeat {repeat + 1}, {ARMS[arm][0]}: {run.wall:.1f} s, CPU {run.cpu:.1f} s"
            print(line, file=sys.stderr)
    for arm, measured in runs.items():
        for run in measured:
            if text := problem(run, runs["bare"][0], options.trials * options.epochs):
                sys.exit(f"{ARMS[arm][0]} computed something else than the first (a): {text}")
    show(runs, options)


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=30, help="of a trial")
    parser.add_argument("--workers", type=int, default=cores, help="trials at a time [cores]")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for all files")
    parser.add_argument("--job", choices=["prepare", *ARMS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job is not None:
        (prepare if options.job == "prepare" else ARMS[options.job][1])(options)
        return
    if min(options.repeats, options.trials, options.workers) < 1 or options.epochs < 2:
        parser.error("--repeats, --trials and --workers must be at least 1, --epochs at least 2")
    if options.workers > cores:
        parser.error(f"--workers must be at most {cores}, the cores, but got {options.workers}")
    if options.keep is not None:
        benchmark(options, options.keep.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
            benchmark(options, Path(folder))


if __name__ == "__main__":
    main()
