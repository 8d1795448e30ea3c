"""Curves of the shipped studies' own configs, and studies that are searched on them.

    python benchmarks/tables.py gru_window --n-configs 24 --n-seeds 2

trains random configs of a shipped study, equally many of each level or range of its first factor
and each in full, and adds their curves to a table in ``benchmarks/curves``; what is there is not
run again. `arm_fair.py` and `power.py` resample these tables: a config that is proposed is taken
for the nearest one of the table. Each time it is trained its curve is its mean over seeds plus or
minus what one of its seeds differs by from that.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ray import tune
from scipy.stats import binomtest

from hypertune.core.space import Categorical, Config, Flat, Parameter, Space
from hypertune.core.task import TrialEnded
from hypertune.search import Assignment, Search
from hypertune.studies.study import Study, load_study
from hypertune.tasks.torch.loop import use_threads

Floats: TypeAlias = NDArray[np.float64]
CURVES = Path(__file__).parent / "curves"
N_WORKERS = 2


def first_factor(study: Study) -> Parameter:
    """Return the factor by whose levels or ranges a study's table is balanced."""
    if study.fair_factor is not None:
        return study.fair_factor
    return next(p for p in study.search_space.parameters if p.name == study.factors[0])


# ---- recording ----


def record(name: str, n_configs: int, n_seeds: int) -> None:
    """Train configs of a study in full, and write their curves; what is there is not run again."""
    use_threads(1)
    study = load_study(name)
    space = study.search_space
    factor = first_factor(study)
    data, rng = study.trainable.load(test=False), np.random.default_rng(7)
    path = CURVES / f"{name}.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    done = {(row["config"], row["seed"]) for row in rows}
    configs: list[tuple[int, Config]] = []
    for _ in range(n_configs):
        for level, part in enumerate(factor.parts):
            value = None if factor.by_range else list(factor.values())[level]
            while factor.by_range and (value is None or factor.part(value) != part):
                value = factor.from_unit(rng.random())
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
            failed = False
            try:
                while loop.epoch < study.max_epochs and not loop.converged:
                    values.append(round(float(loop.step()[study.metric]), 5))
            except (TrialEnded, ArithmeticError):
                failed = True
            row = {"config": k, "level": level, "seed": seed, "c": config, "values": values}
            row |= {"failed": True} if failed else {}
            rows.append(row)
            path.parent.mkdir(exist_ok=True)
            lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)
            path.write_text(f"[\n{lines}\n]\n")


# ---- what is known of a study ----


class Table:
    """The curves of a study's configs, as losses, in full: NaN from where they failed.

    A trial that converged keeps its last value.

    Args:
        name: The study.
        pair: Two levels of its fair factor, by number, and no others; None for the whole study.
    """

    def __init__(self, name: str, pair: tuple[int, int] | None = None) -> None:
        self.study = study = load_study(name)
        self.max_epochs = study.max_epochs
        self.sign = -1.0 if study.mode == "max" else 1.0
        rows = [r for r in json.loads((CURVES / f"{name}.json").read_text()) if r["values"]]
        self.space, self.factor = study.search_space, first_factor(study)
        if pair is not None:
            options = study.space[self.factor.name].categories
            chosen = tune.choice([options[k] for k in pair])
            self.space = Space({**study.space, self.factor.name: chosen})
            self.factor = next(p for p in self.space.parameters if p.name == self.factor.name)
            rows = [row for row in rows if row["level"] in pair]
        self.parts = self.factor.parts
        # A study's space may have become smaller since.
        rows = [row for row in rows if not self.space.problems(row["c"])]
        numbers = sorted({row["config"] for row in rows})
        curves = {
            k: np.array([self._in_full(row) for row in rows if row["config"] == k]) for k in numbers
        }
        first = {row["config"]: row for row in reversed(rows)}
        flats = [self.space.flatten(first[k]["c"]) for k in numbers]
        self.level = np.array([self._level(flat) for flat in flats])
        self.points = np.array([self._point(flat) for flat in flats])
        self.mean = np.array([curves[k].mean(axis=0) for k in numbers])  # (config, epoch)
        # What a seed adds, at the size of a single one's; where a config has but one seed, what it
        # adds to the most similar one that has several.
        own = {
            k: (c - c.mean(axis=0)) * math.sqrt(len(c) / (len(c) - 1))
            for k, c in enumerate(curves.values())
            if len(c) > 1
        }
        ends = np.nan_to_num(self.mean.min(axis=1), nan=1e9)
        alike = [
            min(own, key=lambda o: (self.level[o] != self.level[k], abs(ends[o] - ends[k])))
            for k in range(len(numbers))
        ]
        self.noise = [np.nan_to_num(np.vstack([own[k], -own[k]])) for k in alike]
        self.truth = np.array(
            [(self.mean[k] + noise).min(axis=1).mean() for k, noise in enumerate(self.noise)]
        )
        self.truth[np.isnan(self.truth)] = np.inf  # they fail
        places = range(len(self.parts))
        self.best = np.array([self.truth[self.level == level].min() for level in places])
        self.unit = float(np.median(self.truth) - self.truth.min())

    def _in_full(self, row: Mapping[str, Any]) -> Floats:
        values = [self.sign * v for v in row["values"]]
        rest = math.nan if row.get("failed") else min(values)
        losses = np.array(values + [rest] * (self.max_epochs - len(values)))
        return np.where(np.isinf(losses), np.nanmax(losses[np.isfinite(losses)]), losses)

    def _level(self, flat: Flat) -> int:
        return self.parts.index(self.factor.part(flat[self.factor.key]))

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
        other = self.level != self._level(flat)
        return int(np.where(other, np.inf, distance).argmin())

    def curve(self, k: int, rng: np.random.Generator) -> Floats:
        """Return the losses of a training of config ``k``, shape (epoch,); NaN once it fails."""
        noise = self.noise[k]
        losses: Floats = self.mean[k] + noise[rng.integers(len(noise))]
        return losses

    @property
    def winner(self) -> int:
        """The level that is best, each at its best."""
        return int(self.best.argmin())

    @property
    def slow(self) -> bool:
        """In most pairs of configs of two levels the winner is behind after the first epoch."""
        a, b = (self.mean[self.level == level, 0] for level in (self.winner, 1 - self.winner))
        return bool((a[:, None] > b[None, :]).mean() > 0.5)


@cache
def table(name: str, pair: tuple[int, int] | None = None) -> Table:
    """Return the table of a study; arguments as of `Table`."""
    return Table(name, pair)


# ---- searching ----


def drain(
    search: Search, curve_of: Callable[[Assignment], Floats], turns: np.random.Generator
) -> None:
    """Run a search until it has no job any more, two workers at a time.

    Args:
        search: The search.
        curve_of: Returns the losses of a job's trial by epoch; at a NaN it fails.
        turns: Which worker is the next one to report.
    """
    out: list[tuple[Assignment, int]] = []  # with its next epoch
    while True:
        while len(out) < N_WORKERS and (job := search.ask()) is not None:
            out.append((job, job.from_epoch + 1))
        if not out:
            return
        job, epoch = out.pop(int(turns.integers(len(out))))
        loss = float(curve_of(job)[epoch - 1])
        if math.isnan(loss):
            search.end(job.trial, "failed")
            continue
        search.tell(job.trial, epoch, loss)
        if epoch < job.to_epoch:
            out.append((job, epoch + 1))


def play(search: Search, known: Table, seed: int) -> dict[int, int]:
    """Run a search to its end; return the config of the table that each trial is."""
    taken: dict[int, int] = {}

    @cache
    def curve(trial: int) -> Floats:
        taken[trial] = known.nearest(search.space.nest(search.trials[trial].flat))
        return known.curve(taken[trial], np.random.default_rng([seed, 3, trial]))

    drain(search, lambda job: curve(job.trial), np.random.default_rng([seed, 1]))
    return taken


def share(k: int, n: int) -> str:
    """Return a share with its 95 % interval (Clopper and Pearson)."""
    if n == 0:
        return ""
    ends = binomtest(k, n).proportion_ci(0.95)
    return f"{k}/{n} = {k / n:.2f} ({ends.low:.2f} to {ends.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="+")
    parser.add_argument("--n-configs", type=int, default=24, help="of each level")
    parser.add_argument("--n-seeds", type=int, default=2, help="of each config")
    args = parser.parse_args()
    for name in args.study:
        record(name, args.n_configs, args.n_seeds)


if __name__ == "__main__":
    main()
