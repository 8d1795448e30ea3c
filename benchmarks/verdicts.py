"""Are the verdicts right? Simulated studies whose truth is known.

    python benchmarks/verdicts.py --n-studies 300 --methods auto asha
    python benchmarks/verdicts.py --n-studies 2000 --methods random --n-looks 3

Each study is searched by the project's own search on simulated curves, two workers at a time. The
best config of each level then runs again on fresh seeds, and the verdict is asked for. As long as
it is undecided the study is extended, up to ``--n-looks`` looks: as many trials and repeats again.
Three statements are judged, each by the truth of its own estimand:

- *levels*: each level with all else tuned for it, by a model of all searched trials;
- *average*: each level on average over the space, where all configs were drawn by chance;
- *configs*: the best configs that were found of each level, by their replicates.

Printed are, of all studies: how many carry the statement at all (*said*); of these how many are
decided; how often all intervals, at all looks, hold the truth (*cover*, with its own 95 %
interval); and in what share of all studies "A beats B" is said of a pair where it is not so
(*false*), or the sign is wrong where it is so. Truths that differ by less than 0.0005 are equal.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ray import tune
from scipy.stats import binomtest

from hypertune.analysis.frames import Record, StudyData, from_records
from hypertune.analysis.verdict import Statement, judge_factor
from hypertune.methods import make_search
from hypertune.records import ResultRow
from hypertune.search import Job
from hypertune.search.history import Trial
from hypertune.space import Space

Floats: TypeAlias = NDArray[np.float64]

MAX_EPOCHS = 27
N_WORKERS = 2
EQUAL = 0.0005
# Standard deviations: of a seed (all configs alike), of a config's seed, of an epoch.
SEED_SD, OWN_SD, EPOCH_SD = 0.004, 0.006, 0.002


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is true of the levels of the factor, by level.

    Attributes:
        best: Loss of the level's best config after an endless training.
        rate: How fast it learns.
        centre: Where the learning rate is best, in the unit interval.
        noise: Factor of `OWN_SD`.
    """

    best: Sequence[float]
    rate: Sequence[float]
    centre: Sequence[float]
    noise: Sequence[float]


def _scenario(
    best: Sequence[float],
    rate: Sequence[float] | float = 0.3,
    centre: Sequence[float] | float = 0.5,
    noise: Sequence[float] | float = 1.0,
) -> Scenario:
    wide = [[x] * len(best) if isinstance(x, float) else x for x in (rate, centre, noise)]
    return Scenario(best=best, rate=wide[0], centre=wide[1], noise=wide[2])


SCENARIOS = {
    "null": _scenario([0.5, 0.5]),
    "null, other optima": _scenario([0.5, 0.5], centre=[0.3, 0.7]),
    "null, other speed": _scenario([0.5, 0.5], rate=[0.5, 0.2]),
    "null, other noise": _scenario([0.5, 0.5], noise=[0.6, 1.8]),
    "null, four levels": _scenario([0.5] * 4),
    "fast winner": _scenario([0.49, 0.5], rate=[0.5, 0.2]),
    "slow winner": _scenario([0.5, 0.488], rate=[0.5, 0.2]),
    "large effect": _scenario([0.5, 0.53]),
}
SPEC: dict[str, Any] = {
    "lr": tune.loguniform(1e-4, 1e-1),
    "units": tune.lograndint(8, 129),
    "dropout": tune.uniform(0.0, 0.5),
}


class Truth:
    """A scenario's curves."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.levels = [chr(ord("a") + k) for k in range(len(scenario.best))]
        self.space = Space({"level": tune.choice(self.levels), **SPEC})

    def expected(self, config: Mapping[str, Any], epoch: float) -> float:
        """Return the expected loss of a config at an epoch."""
        s, k = self.scenario, self.levels.index(config["level"])
        lr, units, dropout = (
            self.space[name].to_unit(config[name]) for name in ("lr", "units", "dropout")
        )
        floor = s.best[k] + 0.3 * (lr - s.centre[k]) ** 2 + 0.06 * (units - 0.7) ** 2
        rate = s.rate[k] * (0.6 + 0.8 * lr)
        return floor + 0.03 * dropout**2 + 0.4 * math.exp(-rate * epoch)

    def curve(
        self, config: Mapping[str, Any], rng: np.random.Generator, *, shared: float
    ) -> Floats:
        """Return the losses of a trial, shape (epoch,)."""
        k = self.levels.index(config["level"])
        own = self.scenario.noise[k] * OWN_SD * rng.standard_normal()
        epochs = np.arange(1, MAX_EPOCHS + 1)
        base = np.array([self.expected(config, float(e)) for e in epochs])
        return base + shared + own + EPOCH_SD * rng.standard_normal(MAX_EPOCHS)

    def in_full(self, config: Mapping[str, Any]) -> float:
        """Return the expected value in full: of the best of the noisy epochs."""
        base = np.array([self.expected(config, float(e)) for e in range(1, MAX_EPOCHS + 1)])
        noise = np.random.default_rng(0).standard_normal((400, MAX_EPOCHS))
        return float((base + EPOCH_SD * noise).min(axis=1).mean())

    def best(self) -> list[float]:
        """Return the expected value in full of each level's best config."""
        rest = {"units": self.space["units"].from_unit(0.7), "dropout": 0.0}
        rates = [self.space["lr"].from_unit(k / 100) for k in range(100)]
        return [
            min(self.in_full({**rest, "level": level, "lr": lr}) for lr in rates)
            for level in self.levels
        ]

    def average(self) -> list[float]:
        """Return the expected value in full of each level, on average over the space."""
        rng = np.random.default_rng(1)
        flats = [self.space.sample(rng) for _ in range(1000)]
        return [
            float(np.mean([self.expected({**flat, "level": k}, MAX_EPOCHS) for flat in flats]))
            for k in self.levels
        ]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at a study said of its levels.

    Attributes:
        said: The study carries the statement.
        decided: Some pair is decided.
        cover: All intervals hold the truth.
        false: Some pair is decided wrongly.
    """

    said: bool = False
    decided: bool = False
    cover: bool = True
    false: bool = False

    def then(self, other: "Look") -> "Look":
        """Return both looks in one."""
        return Look(
            said=self.said or other.said,
            decided=self.decided or other.decided,
            cover=self.cover and other.cover,
            false=self.false or other.false,
        )


class SimulatedStudy:
    """A study that is searched, looked at, and extended."""

    def __init__(
        self, scenario: str, method: str, n_trials: int, n_repeats: int, seed: int
    ) -> None:
        self.truth = Truth(SCENARIOS[scenario])
        self.n_trials, self.n_repeats, self.seed = n_trials, n_repeats, seed
        self.curves: dict[int, Floats] = {}
        self.turns = np.random.default_rng([seed, 1])
        self.repeats = 0
        name, _, scheduler = method.partition("+")
        self.search_object = make_search(
            name,
            self.truth.space,
            mode="min",
            max_epochs=MAX_EPOCHS,
            n_trials=0,
            seed=seed,
            scheduler=scheduler or None,
        )

    def extend(self) -> None:
        """Search on with as many trials and repeats again."""
        search = self.search_object
        search.n_trials = (search.n_trials or 0) + self.n_trials
        self.repeats += self.n_repeats
        out: list[tuple[Job, int]] = []  # with its next epoch
        while True:
            while len(out) < N_WORKERS and (job := search.ask()) is not None:
                if job.trial not in self.curves:
                    own = np.random.default_rng([self.seed, 2, job.trial])
                    self.curves[job.trial] = self.truth.curve(job.config, own, shared=0.0)
                out.append((job, job.from_epoch + 1))
            if not out:
                return
            job, epoch = out.pop(int(self.turns.integers(len(out))))
            search.tell(job.trial, epoch, float(self.curves[job.trial][epoch - 1]))
            if epoch < job.to_epoch:
                out.append((job, epoch + 1))

    def champions(self) -> dict[str, Trial]:
        """Return the best trial of each level, of those that got furthest."""
        chosen = {}
        for level in self.truth.levels:
            trials = [t for t in self.search_object.trials if t.flat["level"] == level]
            far = max((t.epoch for t in trials), default=0)
            furthest = [t for t in trials if t.epoch == far > 0]
            if furthest:
                chosen[level] = min(furthest, key=lambda t: t.best[t.epoch])
        return chosen

    def data(self, n_sessions: int) -> StudyData:
        """Return the study as it is recorded by now."""
        nest = self.truth.space.nest
        records = [
            _record(
                t.number,
                nest(t.flat),
                self.curves[t.number][: t.epoch],
                reason=t.reason or "stopped",
                origin=t.origin,
            )
            for t in self.search_object.trials
        ]
        for trial in self.champions().values():
            config = nest(trial.flat)
            for repeat in range(1, self.repeats + 1):
                shared = SEED_SD * np.random.default_rng([self.seed, 4, repeat]).standard_normal()
                own = np.random.default_rng([self.seed, 5, trial.number, repeat])
                curve = self.truth.curve(config, own, shared=float(shared))
                records.append(
                    _record(len(records), config, curve, role="replicate", repeat=repeat)
                )
        about = {
            "name": "simulated",
            "metric": "loss",
            "mode": "min",
            "test_metric": None,
            "max_epochs": MAX_EPOCHS,
            "factors": ["level"],
            "default": {},
            "parameters": self.truth.space.plain(),
            "n_sessions": n_sessions,
        }
        return from_records(about, records)

    def look(self, k: int) -> dict[str, Look]:
        """Return what the k-th look says, by statement."""
        found = judge_factor(self.data(k), "level", seed=self.seed)
        levels = dict(zip(self.truth.levels, self.truth.best(), strict=True))
        nest = self.truth.space.nest
        configs = {
            level: self.truth.in_full(nest(trial.flat)) for level, trial in self.champions().items()
        }
        average = dict(zip(self.truth.levels, self.truth.average(), strict=True))
        looks = {}
        for statement in found.statements:
            if "replicates" in statement.basis:
                looks["configs"] = _judged(statement, configs)
            elif "average" in statement.estimand:
                looks["average"] = _judged(statement, average)
            else:
                looks["levels"] = _judged(statement, levels)
        return looks


def _judged(statement: Statement, truth: Mapping[str, float]) -> Look:
    if statement.outcome == "none":
        return Look()
    gaps = [(c, truth[c.b] - truth[c.a]) for c in statement.contrasts]
    return Look(
        said=True,
        decided=any(c.outcome in ("better", "equal") for c, _ in gaps),
        cover=all(c.low <= gap <= c.high for c, gap in gaps),
        false=any(c.outcome == "better" and gap < EQUAL for c, gap in gaps),
    )


def _record(
    trial: int,
    config: Mapping[str, Any],
    curve: Floats,
    *,
    role: str = "search",
    reason: str = "complete",
    repeat: int = 0,
    origin: str = "",
) -> Record:
    return Record(
        trial=trial,
        role=role,
        label="",
        state="ended",
        reason=reason,
        detail="",
        seed=repeat,
        repeat=repeat,
        config=dict(config),
        origin=origin,
        results=[
            ResultRow(id=0, trial=trial, epoch=e, t_ms=e, metrics={"loss": float(v)})
            for e, v in enumerate(curve, start=1)
        ],
    )


def simulate(
    scenario: str, method: str, n_trials: int, n_repeats: int, n_looks: int, seed: int
) -> dict[str, Look]:
    """Return what all looks at one study say, by statement."""
    study = SimulatedStudy(scenario, method, n_trials, n_repeats, seed)
    total = dict.fromkeys(("levels", "average", "configs"), Look())
    for k in range(1, n_looks + 1):
        study.extend()
        now = study.look(k)
        total = {name: look.then(now[name]) for name, look in total.items()}
        if now["levels"].decided:
            break
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n-studies", type=int, default=100)
    parser.add_argument(
        "--methods", nargs="+", default=["random", "asha", "auto"], help="or auto+none"
    )
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--n-trials", type=int, default=24, help="a look")
    parser.add_argument("--n-repeats", type=int, default=5, help="a look, of each level's best")
    parser.add_argument("--n-looks", type=int, default=1)
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    print("| method | scenario | about | said | decided | cover | false |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with ProcessPoolExecutor(args.n_jobs) as pool:
        for method in args.methods:
            for scenario in args.scenarios:
                one = partial(
                    simulate, scenario, method, args.n_trials, args.n_repeats, args.n_looks
                )
                seeds = range(args.first_seed, args.first_seed + args.n_studies)
                results = list(pool.map(one, seeds, chunksize=4))
                for name in ("levels", "average", "configs"):
                    print(_row(method, scenario, name, [r[name] for r in results]), flush=True)


def _row(method: str, scenario: str, name: str, looks: Sequence[Look]) -> str:
    n, said = len(looks), [look for look in looks if look.said]
    cover, false = sum(look.cover for look in said), sum(look.false for look in looks)
    cells = [
        method,
        scenario,
        name,
        f"{len(said) / n:.2f}",
        f"{sum(look.decided for look in said) / n:.2f}",
        _share(cover, len(said)),
        _share(false, n),
    ]
    return f"| {' | '.join(cells)} |"


def _share(k: int, n: int) -> str:
    """Return a share with its 95 % interval (Clopper and Pearson)."""
    if n == 0:
        return ""
    ends = binomtest(k, n).proportion_ci(0.95)
    return f"{k / n:.3f} ({ends.low:.3f} to {ends.high:.3f})"


if __name__ == "__main__":
    main()
