"""Are the verdicts right? Studies whose truth is known, simulated and resampled from real curves.

    python benchmarks/verdicts.py --methods random asha --n-studies 2000
    python benchmarks/verdicts.py --methods auto --n-studies 300
    python benchmarks/verdicts.py --set kept-apart      # scenarios that nothing was chosen by

Each study is searched by the project's own search, two workers at a time, in simulated time. The
best config of each level then runs again on fresh seeds, and the verdict is asked for. As long as
the best level is not told from every other one the study is extended, up to ``--n-looks`` looks: by
more trials, and by more repeats of those levels that may be the best. Three statements are judged,
each by the truth of its own estimand, and all of them together:

- *levels*: each level with all else tuned for it, by a model of the trials in full;
- *average*: each level on average over the space, where all configs were drawn by chance;
- *configs*: the best configs that were found of each level, by their replicates;
- *any*: whatever the study says of the factor.

Printed are, after 0, 1, 2 and 5 extensions: the share of studies that carry the statement (*said*);
of these the share that is decided; how often all intervals, of all pairs and at all looks, hold the
truth (*cover*, with its own 95 % interval); in what share of all studies "A beats B" is said at all
(*beats*), and in what share of a pair where it is not so, or with the wrong sign (*false*). Truths
that differ by less than `Truth.equal` count as equal. Where levels are alike the best configs that
a search found of them need not be: it may well be true that one of these beats the other. *Astray*
is the share of studies in which "A beats B" is said though B is the better level at its best: of
configs it may be true all the same, where the search stopped the slow learner.

The scenarios are of two sets: by those of ``chosen-by`` the method of the verdict was chosen, those
of ``kept-apart`` were not looked at until it was (other shapes of curves, noise with heavy tails,
an interaction with the factor; real curves of `verdict_curves.py`, resampled).
"""

import argparse
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ray import tune
from scipy.stats import binomtest
from tables import drain

from hypertune.analysis.frames import Record, StudyData, from_records
from hypertune.analysis.statements import Factor, Statement, left_of
from hypertune.analysis.verdict import judge_factor
from hypertune.core.space import Flat, Space
from hypertune.journal.store import ResultRow
from hypertune.search import Assignment
from hypertune.search.encoding import Encoding
from hypertune.search.history import Trial
from hypertune.search.methods import make_search

Floats: TypeAlias = NDArray[np.float64]

MAX_EPOCHS = 27
EPOCHS = np.arange(1, MAX_EPOCHS + 1, dtype=float)
SHOWN_LOOKS = (1, 2, 3, 6)
STATEMENTS = ("levels", "average", "configs", "any")
# Standard deviations: of a seed (all configs alike), of a config's seed, of an epoch.
SEED_SD, OWN_SD, EPOCH_SD = 0.004, 0.006, 0.002
CURVES = Path(__file__).with_name("verdict_curves.npz")


class Truth(ABC):
    """What is true of a scenario: curves, and what they are worth in full.

    Attributes:
        levels: Of the factor ``level``.
        equal: Truths that differ by less are equal.
    """

    levels: list[str]
    equal: float
    spec: Mapping[str, Any] = {
        "lr": tune.loguniform(1e-4, 1e-1),
        "units": tune.lograndint(8, 129),
        "dropout": tune.uniform(0.0, 0.5),
    }

    @cached_property
    def space(self) -> Space:
        """The space that is searched."""
        return Space({"level": tune.choice(self.levels), **self.spec})

    @cached_property
    def _encoding(self) -> Encoding:
        return Encoding(self.space)

    def curve(self, flat: Flat, rng: np.random.Generator, *, shared: float = 0.0) -> Floats:
        """Return the losses of a trial, shape (epoch,).

        Args:
            flat: Its config.
            rng: The source of chance.
            shared: What its seed does to every config, in standard deviations.
        """
        k = self.levels.index(str(flat["level"]))
        point = self._encoding.points([flat])
        return self._curve(k, self._rest(point)[0], rng, shared)

    def in_full(self, flat: Flat) -> float:
        """Return the expected value in full: of the best of the noisy epochs."""
        k = self.levels.index(str(flat["level"]))
        return float(self._in_full(k, self._rest(self._encoding.points([flat])))[0])

    @cached_property
    def best(self) -> list[float]:
        """The expected value in full of each level's best config."""
        points = np.random.default_rng(0).random((4000, 3))
        found = []
        for k in range(len(self.levels)):
            around = points[np.argmin(self._in_full(k, points))]
            for width in (0.1, 0.03, 0.01):
                near = around + width * (points[:500] - 0.5)
                near = np.clip(np.vstack([around, near]), 0, 1 - 1e-9)
                around = near[np.argmin(self._in_full(k, near))]
            found.append(float(self._in_full(k, around[None])[0]))
        return found

    @cached_property
    def average(self) -> list[float]:
        """The expected value in full of each level, on average over the space."""
        points = np.random.default_rng(1).random((8000, 3))
        return [float(self._in_full(k, points).mean()) for k in range(len(self.levels))]

    def _rest(self, points: Floats) -> Floats:
        return points[:, 1:]  # in the order of `spec`; the level comes first

    @abstractmethod
    def _curve(self, level: int, u: Floats, rng: np.random.Generator, shared: float) -> Floats: ...

    @abstractmethod
    def _in_full(self, level: int, u: Floats) -> Floats:
        """Return the expected values in full of configs, shape (config, 3) in the unit cube."""


@cache
def _epoch_noise() -> Floats:
    return np.random.default_rng(0).standard_normal((200, MAX_EPOCHS))


class Simulated(Truth):
    """Curves from a formula.

    Args:
        best: Loss of each level's best config after an endless training.
        rate: How fast it learns.
        centre: Where the learning rate is best, in the unit interval.
        noise: Factor of `OWN_SD`.
        shape: ``exponential``; or ``power``: curves by a power law that are far from flat in the
            end, a narrow valley whose width is each level's own, noise with heavy tails.
    """

    equal = 0.0005

    def __init__(
        self,
        best: Sequence[float],
        rate: Sequence[float] | float = 0.3,
        centre: Sequence[float] | float = 0.5,
        noise: Sequence[float] | float = 1.0,
        shape: str = "exponential",
    ) -> None:
        wide = [[x] * len(best) if isinstance(x, float) else x for x in (rate, centre, noise)]
        self.floor, (self.rate, self.centre, self.noise), self.shape = best, wide, shape
        self.levels = [chr(ord("a") + k) for k in range(len(best))]

    def _expected(self, k: int, u: Floats) -> Floats:
        """Return expected losses, shape (config, epoch)."""
        lr, units, dropout = u[:, :1], u[:, 1:2], u[:, 2:]
        off = lr - self.centre[k]
        if self.shape == "power":
            width = 0.12 + 0.08 * k  # the wrong learning rate costs one level more than another
            valley = 0.05 * np.log(np.cosh(off / width)) + 0.04 * (units - 0.5 - 0.6 * off) ** 2
            early = 0.25 * (1 + EPOCHS) ** (-2.5 * self.rate[k] * (0.7 + 0.6 * units))
            base: Floats = self.floor[k] + valley + 0.02 * dropout + early
            return base
        floor = self.floor[k] + 0.3 * off**2 + 0.06 * (units - 0.7) ** 2 + 0.03 * dropout**2
        rate = self.rate[k] * (0.6 + 0.8 * lr)
        losses: Floats = floor + 0.4 * np.exp(-rate * EPOCHS)
        return losses

    def _curve(self, level: int, u: Floats, rng: np.random.Generator, shared: float) -> Floats:
        heavy = self.shape == "power"
        own = rng.standard_t(4) / math.sqrt(2) if heavy else rng.standard_normal()
        curve: Floats = (
            self._expected(level, u[None])[0]
            + SEED_SD * shared
            + self.noise[level] * OWN_SD * own
            + EPOCH_SD * rng.standard_normal(MAX_EPOCHS)
        )
        return curve

    def _in_full(self, level: int, u: Floats) -> Floats:
        # The minimum over epochs that are noisy: alike for configs whose curves are alike in the
        # end, so that a few hundred draws of it do.
        base = self._expected(level, u)
        values = np.empty(len(u))
        for k, row in enumerate(base) if len(u) < 50 else ():
            values[k] = (row + EPOCH_SD * _epoch_noise()).min(axis=1).mean()
        if len(u) >= 50:  # the same draws for all, in blocks
            for start in range(0, len(u), 250):
                block = base[start : start + 250, None, :] + EPOCH_SD * _epoch_noise()[:40]
                values[start : start + 250] = block.min(axis=2).mean(axis=1)
        return values


@cache
def _recorded() -> tuple[Floats, Floats]:
    with np.load(CURVES) as held:
        return np.log(held["losses"].astype(float)), held["points"].astype(float)


class Resampled(Truth):
    """Real curves: a config has that of the nearest one that was recorded, and noise of others.

    A seed's deviation from its config's mean, of the logarithms and as a whole curve, is drawn
    from those of all configs of the optimizer.

    Args:
        optimizers: Places in `verdict_curves.OPTIMIZERS`, one a level.
        gain: Factor of the losses, one a level.
    """

    equal = 0.0005

    def __init__(self, optimizers: Sequence[int], gain: Sequence[float] | None = None) -> None:
        logs, self._points = _recorded()
        self.levels = [chr(ord("a") + k) for k in range(len(optimizers))]
        gains = np.log(gain or [1.0] * len(optimizers))
        n_seeds = logs.shape[2]
        means = logs.mean(axis=2)
        rest = (logs - means[:, :, None, :]) * math.sqrt(n_seeds / (n_seeds - 1))
        self._means = means[list(optimizers)] + gains[:, None, None]
        self._rest_of = rest[list(optimizers)].reshape(len(optimizers), -1, MAX_EPOCHS)
        self._values = np.array(
            [
                [np.exp((mean + rest).min(axis=1)).mean() for mean in means]
                for means, rest in zip(self._means, self._rest_of, strict=True)
            ]
        )

    def _nearest(self, u: Floats) -> NDArray[np.int64]:
        squares = ((u[:, None, :] - self._points[None]) ** 2).sum(axis=2)
        nearest: NDArray[np.int64] = squares.argmin(axis=1)
        return nearest

    def _curve(self, level: int, u: Floats, rng: np.random.Generator, shared: float) -> Floats:
        pool = self._rest_of[level]
        rest = pool[rng.integers(len(pool))] + 0.01 * shared
        curve: Floats = np.exp(self._means[level, self._nearest(u[None])[0]] + rest)
        return curve

    def _in_full(self, level: int, u: Floats) -> Floats:
        values: Floats = self._values[level, self._nearest(u)]
        return values


SETS: dict[str, dict[str, Any]] = {
    "chosen-by": {
        "null": partial(Simulated, [0.5, 0.5]),
        "null, other optima": partial(Simulated, [0.5, 0.5], centre=[0.3, 0.7]),
        "null, other speed": partial(Simulated, [0.5, 0.5], rate=[0.5, 0.2]),
        "null, other noise": partial(Simulated, [0.5, 0.5], noise=[0.6, 1.8]),
        "null, four levels": partial(Simulated, [0.5] * 4),
        "null, one noisy of four": partial(Simulated, [0.5] * 4, noise=[10.0, 1.0, 1.0, 1.0]),
        "fast winner": partial(Simulated, [0.49, 0.5], rate=[0.5, 0.2]),
        "slow winner": partial(Simulated, [0.5, 0.488], rate=[0.5, 0.2]),
        "large effect": partial(Simulated, [0.5, 0.53]),
    },
    "kept-apart": {
        "power, null": partial(Simulated, [0.5, 0.5], shape="power"),
        "power, null, other speed": partial(Simulated, [0.5, 0.5], rate=[0.6, 0.4], shape="power"),
        "power, null, three levels": partial(
            Simulated, [0.5] * 3, centre=[0.4, 0.5, 0.6], noise=[0.7, 1.0, 1.4], shape="power"
        ),
        "power, fast winner": partial(Simulated, [0.485, 0.5], rate=[0.6, 0.4], shape="power"),
        "power, slow winner": partial(Simulated, [0.5, 0.475], rate=[0.6, 0.4], shape="power"),
        "real, null (sgd)": partial(Resampled, [0, 0]),
        "real, null (adam)": partial(Resampled, [2, 2]),
        "real, nesterov and sgd": partial(Resampled, [1, 0]),
        "real, fast winner": partial(Resampled, [2, 0], [1.0, 0.8]),  # adam, sgd
        "real, slow winner": partial(Resampled, [2, 0], [1.0, 0.42]),
    },
}
SCENARIOS = {name: make for group in SETS.values() for name, make in group.items()}


@cache
def truth_of(scenario: str) -> Truth:
    """Return the truth of a scenario."""
    made: Truth = SCENARIOS[scenario]()
    return made


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at a study said of its levels.

    Attributes:
        said: The study carries the statement.
        decided: Some pair is decided.
        beats: Of some pair one is said to be better.
        cover: All intervals hold the truth.
        false: Some pair is decided wrongly.
        astray: Of some pair the level that is worse at its best is said to be better.
    """

    said: bool = False
    decided: bool = False
    beats: bool = False
    cover: bool = True
    false: bool = False
    astray: bool = False

    def then(self, other: "Look") -> "Look":
        """Return both looks in one."""
        return Look(
            said=self.said or other.said,
            decided=self.decided or other.decided,
            beats=self.beats or other.beats,
            cover=self.cover and other.cover,
            false=self.false or other.false,
            astray=self.astray or other.astray,
        )


class StudyOfCurves:
    """A study that is searched, looked at, and extended."""

    def __init__(self, scenario: str, method: str, seed: int) -> None:
        self.truth, self.seed = truth_of(scenario), seed
        self.curves: dict[int, Floats] = {}
        self.turns = np.random.default_rng([seed, 1])
        self.n_repeats = dict.fromkeys(self.truth.levels, 0)
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

    def extend(self, n_trials: int, n_repeats: int, levels: Sequence[str]) -> None:
        """Search on, and repeat the best of some levels more often."""
        search = self.search_object
        search.n_trials = (search.n_trials or 0) + n_trials
        for level in levels:
            self.n_repeats[level] += n_repeats
        drain(search, self._curve_of, self.turns)

    def _curve_of(self, job: Assignment) -> Floats:
        if job.trial not in self.curves:
            rng = np.random.default_rng([self.seed, 2, job.trial])
            flat = self.search_object.trials[job.trial].flat
            self.curves[job.trial] = self.truth.curve(flat, rng)
        return self.curves[job.trial]

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
            trial_record(
                t.number,
                nest(t.flat),
                self.curves[t.number][: t.epoch],
                reason=t.reason or "stopped",
                origin=t.origin or "",
            )
            for t in self.search_object.trials
        ]
        for level, trial in self.champions().items():
            config = nest(trial.flat)
            for repeat in range(1, self.n_repeats[level] + 1):
                shared = np.random.default_rng([self.seed, 4, repeat]).standard_normal()
                own = np.random.default_rng([self.seed, 5, trial.number, repeat])
                curve = self.truth.curve(trial.flat, own, shared=float(shared))
                records.append(
                    trial_record(len(records), config, curve, role="replicate", repeat=repeat)
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

    def judge(self, found: Factor) -> dict[str, Look]:
        """Return how right a look is, by statement."""
        truth = self.truth
        looks = {}
        for statement in found.statements:
            if "replicates" in statement.basis:
                name = "configs"
                values = {level: truth.in_full(t.flat) for level, t in self.champions().items()}
            elif "average" in statement.estimand:
                name, values = "average", dict(zip(truth.levels, truth.average, strict=True))
            else:
                name, values = "levels", dict(zip(truth.levels, truth.best, strict=True))
            looks[name] = _judged(statement, values, truth)
        looks["any"] = Look()
        for name in STATEMENTS[:-1]:
            looks["any"] = looks["any"].then(looks[name])
        return looks


def _judged(statement: Statement, values: Mapping[str, float], truth: Truth) -> Look:
    if statement.outcome == "none":
        return Look()
    gaps = [(c, values[c.b] - values[c.a]) for c in statement.contrasts if c.outcome != "none"]
    best = dict(zip(truth.levels, truth.best, strict=True))
    better = [c for c in statement.contrasts if c.outcome == "better"]
    return Look(
        said=True,
        decided=any(c.outcome in ("better", "equal") for c, _ in gaps),
        beats=bool(better),
        cover=all(c.low <= gap <= c.high for c, gap in gaps),
        false=any(c.outcome == "better" and gap < truth.equal for c, gap in gaps),
        astray=any(best[c.a] > best[c.b] + truth.equal for c in better),
    )


def trial_record(
    trial: int,
    config: Mapping[str, Any],
    losses: Floats,
    *,
    role: str = "search",
    reason: str = "complete",
    repeat: int = 0,
    origin: str = "",
) -> Record:
    """Return a simulated trial as it is recorded; ``losses`` of shape (epoch,), or of none."""
    epochs = {int(losses.argmin()) + 1, len(losses)} if len(losses) else set()
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
            ResultRow(id=0, trial=trial, epoch=e, t_ms=e, metrics={"loss": float(losses[e - 1])})
            for e in sorted(epochs)  # no other epoch counts
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a study costs: trials and repeats at first, and more of them at each extension."""

    n_trials: int
    n_repeats: int
    n_more_trials: int
    n_more_repeats: int
    n_looks: int


def simulate(scenario: str, method: str, effort: Effort, seed: int) -> list[dict[str, Look]]:
    """Return what a study has said by each look, by statement; extended while it is undecided."""
    study = StudyOfCurves(scenario, method, seed)
    total = dict.fromkeys(STATEMENTS, Look())
    by_look: list[dict[str, Look]] = []
    study.extend(effort.n_trials, effort.n_repeats, study.truth.levels)
    for k in range(1, effort.n_looks + 1):
        found = judge_factor(study.data(k), "level", seed=seed)
        now = study.judge(found)
        total = {name: look.then(now[name]) for name, look in total.items()}
        by_look.append(total)
        left = left_of(found)
        if left is None or k == effort.n_looks:
            break
        levels = left.levels or study.truth.levels
        study.extend(effort.n_more_trials, effort.n_more_repeats, levels)
    return by_look + [total] * (effort.n_looks - len(by_look))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n-studies", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=["random", "asha"], help="or auto+none")
    parser.add_argument("--set", choices=SETS, help="of scenarios")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS)
    parser.add_argument("--n-trials", type=int, default=24)
    parser.add_argument("--n-repeats", type=int, default=5, help="of each level's best")
    parser.add_argument("--n-more-trials", type=int, default=12, help="an extension")
    parser.add_argument("--n-more-repeats", type=int, default=3, help="an extension")
    parser.add_argument("--n-looks", type=int, default=6)
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    effort = Effort(**{name: getattr(args, name) for name in Effort.__dataclass_fields__})
    names = args.scenarios or list(SETS[args.set] if args.set else SCENARIOS)
    columns = [
        "method",
        "scenario",
        "about",
        "extensions",
        "said",
        "decided",
        "cover",
        "beats",
        "false",
        "astray",
    ]
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}", flush=True)
    with ProcessPoolExecutor(args.n_jobs) if args.n_jobs > 1 else nullcontext() as pool:
        each = map if pool is None else partial(pool.map, chunksize=4)
        for method in args.methods:
            for scenario in names:
                one = partial(simulate, scenario, method, effort)
                seeds = range(args.first_seed, args.first_seed + args.n_studies)
                results = list(each(one, seeds))
                for name in STATEMENTS:
                    for k in SHOWN_LOOKS:
                        if k <= args.n_looks:
                            looks = [r[k - 1][name] for r in results]
                            if not any(look.said for look in looks):
                                continue
                            print(_row(method, scenario, name, k - 1, looks), flush=True)


def _row(method: str, scenario: str, name: str, n_extensions: int, looks: Sequence[Look]) -> str:
    n, said = len(looks), [look for look in looks if look.said]
    cover, false = sum(look.cover for look in said), sum(look.false for look in looks)
    cells = [
        method,
        scenario,
        name,
        str(n_extensions),
        f"{len(said) / n:.2f}",
        f"{sum(look.decided for look in said) / max(1, len(said)):.2f}",
        _share(cover, len(said)),
        f"{sum(look.beats for look in looks) / n:.2f}",
        _share(false, n),
        f"{sum(look.astray for look in looks) / n:.2f}",
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
