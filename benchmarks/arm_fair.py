"""Is the slow learner stopped for being slow? Arm-fair halving on curves of our own studies.

    python benchmarks/arm_fair.py --n-studies 300
    python benchmarks/arm_fair.py --methods auto --tables gru_window --n-studies 60

A study of two levels is searched by the project's own search, two workers at a time, on the curves
that `tables.py` recorded: a config that is proposed is the nearest one of the table in its level.
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
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from tables import CURVES, play, share, table

from hypertune.analysis import effects
from hypertune.core.space import Categorical
from hypertune.search.methods import make_search
from hypertune.studies.study import load_study


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
    assert isinstance(known.factor, Categorical)
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
    taken = play(search, known, seed)
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
    compared = effects.from_replicates(values, ["0", "1"], alpha=alpha)
    gap, reach = float(compared.difference[0, 1]), float(compared.margin[0, 1])
    truth = float(known.truth[leaders[1]] - known.truth[leaders[0]])
    margin = known.study.margin or abs(float(values.min())) / 100
    said = abs(gap) > reach
    return found(
        said=said,
        equal=not said and abs(gap) + reach <= margin,
        right=said and (gap > 0) == (known.winner == 0),
        cover=abs(gap - truth) <= reach,
    )


def row(way: str, found: Sequence[Found], plain: Sequence[Found]) -> str:
    """Return a line of the table; ``plain`` are the same studies with plain halving."""
    n, said = len(found), [f for f in found if f.said]
    covered = [f.cover for f in found if f.cover is not None]
    extra = np.array([f.regret - p.regret for f, p in zip(found, plain, strict=True)])
    reach = 1.96 * extra.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
    cells = [
        way,
        share(sum(f.two_full for f in found), n),
        share(sum(f.said or f.equal for f in found), n),
        share(sum(f.right for f in said), len(said)),
        share(sum(covered), len(covered)),
        f"{np.mean([f.epochs for f in found]):.0f}",
        f"{np.mean([f.regret for f in found]):.3f}",
        "" if way == "plain" else f"{extra.mean():+.3f} ± {reach:.3f}",
    ]
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = sorted(p.stem for p in CURVES.glob("*.json") if load_study(p.stem).fair_factor)
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
    loser, winner = about.parts[1 - about.winner], about.parts[about.winner]
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
