"""Is the slow learner stopped for being slow? Arm-fair halving on curves of our own studies.

    python benchmarks/arm_fair.py --n-studies 300
    python benchmarks/arm_fair.py --methods auto --tables gru_window --n-studies 60
    python benchmarks/arm_fair.py --record gru_window --n-configs 24 --n-seeds 2

``--record`` trains random configs of a shipped study, equally many of each level of its factor and
each in full, and adds their curves to a table in ``benchmarks/curves``. All else resamples these
tables: a study of two levels is searched by the project's own search, two workers at a time; a
config that is proposed is the nearest one of the table in its level. Each time it is trained its
curve is its mean over seeds plus or minus what one of its seeds differs by from that.
Afterwards the best config in full of each level runs again on fresh seeds, and is judged as the
report does it: the difference is decided if its interval excludes 0, or lies within the margin that
the study declares (a hundredth of the best value if it declares none).

Three ways: *plain* halving, *fair* halving, and every trial in *full* (with fair numbers of trials;
as many of them as cost what fair halving does, so that it is no dearer). What is true is known from
the table: a winner is *slow* if in most pairs of configs it is behind after the first epoch.

Columns: *two full*, studies with two trials in full of each level; *decided*; *sign*, of the
studies that say which level is better those that say it rightly of the levels each at its best;
*cover*, intervals that hold the truth of the two configs; *epochs* of search; *regret* of the
recommended config in full (0: the best of the table, 1: the median), and what fairness adds to it.
Intervals are of 95 %.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ray import tune
from scipy.stats import binomtest

from hypertune.analysis import effects
from hypertune.methods import make_search
from hypertune.search import Job, Search
from hypertune.space import Categorical, Config, Flat, Space
from hypertune.study import TrialEnded, load_study
from hypertune.trainable.loop import use_threads

Floats: TypeAlias = NDArray[np.float64]
CURVES = Path(__file__).parent / "curves"
N_WORKERS = 2


# ---- recording ----


def record(name: str, n_configs: int, n_seeds: int) -> None:
    """Train configs of a study in full, and write their curves; what is there is not run again."""
    use_threads(1)
    study = load_study(name)
    factor, space = study.fair_factor, study.search_space
    assert factor is not None
    data, rng = study.trainable.load(test=False), np.random.default_rng(7)
    path = CURVES / f"{name}.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    done = {(row["config"], row["seed"]) for row in rows}
    configs: list[tuple[int, Config]] = []
    for _ in range(n_configs):
        for level, value in enumerate(factor.choices):
            known = {**space.sample(rng), factor.key: value}
            flat = space.build(
                lambda p, known=known: known[p.key] if p.key in known else p.from_unit(rng.random())  # type: ignore[misc]
            )
            configs.append((level, space.nest(flat)))
    for seed in range(n_seeds):
        for k, (level, config) in enumerate(configs):
            if (k, seed) in done:
                continue
            whole = {**study.config(config, seed=seed), "device": "cpu"}
            loop = study.trainable.start(whole, data, metric=study.metric, mode=study.mode)
            values: list[float] = []
            try:
                while loop.epoch < study.max_epochs and not loop.converged:
                    values.append(round(float(loop.step()[study.metric]), 5))
            except (TrialEnded, ArithmeticError):
                pass
            row = {"config": k, "level": level, "seed": seed, "c": config, "values": values}
            rows.append(row)
            path.parent.mkdir(exist_ok=True)
            lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)
            path.write_text(f"[\n{lines}\n]\n")


# ---- what is known of a study ----


class Table:
    """The curves of a study's configs, as losses, in full (a trial that converged keeps its last).

    Args:
        name: The study.
        pair: Two levels of its factor, by number.
    """

    def __init__(self, name: str, pair: tuple[int, int]) -> None:
        study = load_study(name)
        factor = study.fair_factor
        assert factor is not None
        self.max_epochs = study.max_epochs
        self.sign = -1.0 if study.mode == "max" else 1.0
        self.margin = study.margin
        self.labels = [str(factor.choices[k]) for k in pair]
        options = study.space[factor.name].categories
        self.space = Space({**study.space, factor.name: tune.choice([options[k] for k in pair])})
        found = next(p for p in self.space.parameters if p.name == factor.name)
        assert isinstance(found, Categorical)
        self.factor = found
        rows = json.loads((CURVES / f"{name}.json").read_text())
        rows = [row for row in rows if row["level"] in pair and row["values"]]
        # A study's space may have become smaller since.
        rows = [row for row in rows if not self.space.problems(row["c"])]
        numbers = sorted({row["config"] for row in rows})
        curves = {
            k: np.array([self._in_full(row) for row in rows if row["config"] == k]) for k in numbers
        }
        first = {row["config"]: row for row in reversed(rows)}
        flats = [self.space.flatten(first[k]["c"]) for k in numbers]
        self.level = np.array([self.factor.index(flat[self.factor.key]) for flat in flats])
        self.points = np.array([self._point(flat) for flat in flats])
        self.mean = np.array([curves[k].mean(axis=0) for k in numbers])  # (config, epoch)
        # What a seed adds, at the size of a single one's; where a config has but one seed, what it
        # adds to the most similar one that has several.
        own = {
            k: (c - c.mean(axis=0)) * math.sqrt(len(c) / (len(c) - 1))
            for k, c in enumerate(curves.values())
            if len(c) > 1
        }
        ends = self.mean.min(axis=1)
        alike = [
            min(own, key=lambda o: (self.level[o] != self.level[k], abs(ends[o] - ends[k])))
            for k in range(len(numbers))
        ]
        self.noise = [np.vstack([own[k], -own[k]]) for k in alike]
        self.truth = np.array(
            [(self.mean[k] + noise).min(axis=1).mean() for k, noise in enumerate(self.noise)]
        )
        self.best = np.array([self.truth[self.level == level].min() for level in (0, 1)])
        self.unit = float(np.median(self.truth) - self.truth.min())

    def _in_full(self, row: Mapping[str, Any]) -> Floats:
        values = [self.sign * v for v in row["values"]]
        losses = np.array(values + [min(values)] * (self.max_epochs - len(values)))
        return np.where(np.isfinite(losses), losses, np.nanmax(losses[np.isfinite(losses)]))

    def _point(self, flat: Flat) -> Floats:
        """Return a config in the unit cube; choices that are no numbers are far from each other."""
        at = []
        for p in self.space.parameters:
            if isinstance(p, Categorical) and not p.numeric:
                hot = np.zeros(len(p.choices))
                if p.key in flat:
                    hot[p.index(flat[p.key])] = 1.0
                at += [*hot]
            else:
                at.append(p.to_unit(flat[p.key]) if p.key in flat else 0.5)
        return np.array(at)

    def nearest(self, config: Config) -> int:
        """Return the config of the table that a config is taken for."""
        flat = self.space.flatten(config)
        distance = ((self.points - self._point(flat)) ** 2).sum(axis=1)
        other = self.level != self.factor.index(flat[self.factor.key])
        return int(np.where(other, np.inf, distance).argmin())

    def curve(self, k: int, rng: np.random.Generator) -> Floats:
        """Return the losses of a training of config ``k``, shape (epoch,)."""
        noise = self.noise[k]
        losses: Floats = self.mean[k] + noise[rng.integers(len(noise))]
        return losses

    @property
    def winner(self) -> int:
        """The level that is better, each at its best."""
        return int(self.best.argmin())

    @property
    def slow(self) -> bool:
        """In most pairs of configs the winner is behind after the first epoch."""
        a, b = (self.mean[self.level == level, 0] for level in (self.winner, 1 - self.winner))
        return bool((a[:, None] > b[None, :]).mean() > 0.5)


@cache
def table(name: str, pair: tuple[int, int]) -> Table:
    return Table(name, pair)


# ---- studies ----


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one study found.

    Attributes:
        two_full: Each level has two trials in full.
        said: It says of the levels which is better.
        equal: It says that they do not differ by more than the margin.
        right: The sign of what it says is that of the levels, each at its best.
        cover: The interval holds the difference of the two configs; None without one.
        epochs: Epochs of the search.
        regret: Of the recommended config.
    """

    two_full: bool
    said: bool = False
    equal: bool = False
    right: bool = False
    cover: bool | None = None
    epochs: int
    regret: float


def simulate(
    name: str,
    pair: tuple[int, int],
    method: str,
    way: str,
    n_trials: int,
    n_repeats: int,
    alpha: float,
    seed: int,
) -> Found:
    """Search a study and say what it found."""
    known = table(name, pair)
    scheduler = {"full": "none"}.get(way)
    search = make_search(
        method,
        known.space,
        mode="min",
        max_epochs=known.max_epochs,
        n_trials=n_trials,
        seed=seed,
        scheduler=scheduler,
        fair=None if way == "plain" else known.factor,
    )
    taken = _play(search, known, seed)
    full = [t for t in search.trials if t.full]
    n_full = [sum(known.level[taken[t.number]] == level for t in full) for level in (0, 1)]
    best = min(full, key=lambda t: t.best[t.epoch])
    epochs = sum(t.epoch for t in search.trials)
    candidates = {taken[best.number]}
    rng = np.random.default_rng([seed, 2])
    leaders: list[int] = []
    for level in (0, 1):
        own = [t for t in full if known.level[taken[t.number]] == level]
        if own:
            leaders.append(taken[min(own, key=lambda t: t.best[t.epoch]).number])
    candidates |= set(leaders)
    again = {
        k: np.array([known.curve(k, rng).min() for _ in range(n_repeats)])
        for k in sorted(candidates)
    }
    champion = min(again, key=lambda k: again[k].mean())
    regret = float(known.truth[champion] - known.truth.min()) / known.unit
    found = partial(Found, two_full=min(n_full) >= 2, epochs=epochs, regret=regret)
    if len(leaders) < 2:
        return found()
    values = np.array([again[k] for k in leaders])
    compared = effects.from_replicates(values, ["0", "1"], ["0", "1"], alpha=alpha)
    gap, reach = float(compared.difference[0, 1]), float(compared.margin[0, 1])
    truth = float(known.truth[leaders[1]] - known.truth[leaders[0]])
    margin = known.margin or abs(float(values.min())) / 100
    said = abs(gap) > reach
    return found(
        said=said,
        equal=not said and abs(gap) + reach <= margin,
        right=said and (gap > 0) == (known.winner == 0),
        cover=abs(gap - truth) <= reach,
    )


def _play(search: Search, known: Table, seed: int) -> dict[int, int]:
    """Run a search to its end; return the config of the table that each trial is."""
    turns = np.random.default_rng([seed, 1])
    taken: dict[int, int] = {}
    curves: dict[int, Floats] = {}
    out: list[tuple[Job, int]] = []  # with its next epoch
    while True:
        while len(out) < N_WORKERS and (job := search.ask()) is not None:
            if job.trial not in taken:
                taken[job.trial] = known.nearest(job.config)
                own = np.random.default_rng([seed, 3, job.trial])
                curves[job.trial] = known.curve(taken[job.trial], own)
            out.append((job, job.from_epoch + 1))
        if not out:
            return taken
        job, epoch = out.pop(int(turns.integers(len(out))))
        search.tell(job.trial, epoch, float(curves[job.trial][epoch - 1]))
        if epoch < job.to_epoch:
            out.append((job, epoch + 1))


def _share(k: int, n: int) -> str:
    """Return a share with its 95 % interval (Clopper and Pearson)."""
    if n == 0:
        return ""
    ends = binomtest(k, n).proportion_ci(0.95)
    return f"{k}/{n} = {k / n:.2f} ({ends.low:.2f} to {ends.high:.2f})"


def row(way: str, found: Sequence[Found], plain: Sequence[Found]) -> str:
    """Return a line of the table; ``plain`` are the same studies with plain halving."""
    n, said = len(found), [f for f in found if f.said]
    covered = [f.cover for f in found if f.cover is not None]
    extra = np.array([f.regret - p.regret for f, p in zip(found, plain, strict=True)])
    reach = 1.96 * extra.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
    cells = [
        way,
        _share(sum(f.two_full for f in found), n),
        _share(sum(f.said or f.equal for f in found), n),
        _share(sum(f.right for f in said), len(said)),
        _share(sum(covered), len(covered)),
        f"{np.mean([f.epochs for f in found]):.0f}",
        f"{np.mean([f.regret for f in found]):.3f}",
        "" if way == "plain" else f"{extra.mean():+.3f} ± {reach:.3f}",
    ]
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = sorted(path.stem for path in CURVES.glob("*.json"))
    parser.add_argument("--record", metavar="SPACE", help="train and write curves of a study")
    parser.add_argument("--n-configs", type=int, default=24, help="of each level, to record")
    parser.add_argument("--n-seeds", type=int, default=2, help="of each config, to record")
    parser.add_argument("--tables", nargs="+", default=known, choices=known)
    parser.add_argument("--methods", nargs="+", default=["asha"], help="asha, hyperband, auto, ...")
    parser.add_argument("--n-studies", type=int, default=300)
    parser.add_argument("--n-trials", type=int, default=24)
    parser.add_argument("--n-repeats", type=int, default=5)
    parser.add_argument(
        "--alpha", type=float, default=effects.spent(1), help="error of the intervals"
    )
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    if args.record:
        record(args.record, args.n_configs, args.n_seeds)
        return
    print(
        "| method | study | winner | way | two full | decided | sign | cover | epochs | regret | "
        "fairness adds |\n|---|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    with ProcessPoolExecutor(args.n_jobs) as pool:
        for method in args.methods:
            for name in args.tables:
                study = load_study(name)
                assert study.fair_factor is not None
                for pair in combinations(range(len(study.fair_factor.choices)), 2):
                    _compare(args, pool, method, name, pair)


def _compare(
    args: argparse.Namespace,
    pool: ProcessPoolExecutor,
    method: str,
    name: str,
    pair: tuple[int, int],
) -> None:
    about = table(name, pair)
    loser, winner = about.labels[1 - about.winner], about.labels[about.winner]
    gap = abs(about.best[0] - about.best[1]) / about.unit
    of = f"{winner} over {loser}, {'slow' if about.slow else 'fast'}, by {gap:.2f}"
    n_trials = args.n_trials
    plain: list[Found] = []
    for way in ("plain", "fair", "full"):
        one = partial(simulate, name, pair, method, way, n_trials, args.n_repeats, args.alpha)
        found = list(pool.map(one, range(args.n_studies), chunksize=8))
        plain = plain or found
        print(f"| {method} | {name} | {of} | {row(way, found, plain)} |", flush=True)
        if way == "fair":  # as many trials in full as cost the same
            epochs = float(np.mean([f.epochs for f in found]))
            n_trials = max(4, round(epochs / about.max_epochs))


if __name__ == "__main__":
    main()
