"""The report of `search_quality.py`: from the rows of its runs to tables and a plot."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from search_peers import PEERS
from search_problems import Reference

from hypertune.search.methods import METHODS

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
ONE_EPOCH = "one-epoch"
MARKERS = "osv^D*P<>Xhd"
N_BOOT, N_BOOT_PAIRED = 2000, 10_000
ALPHA = 0.05


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


def marks(*, epochs: bool, budget: int) -> dict[str, int]:
    """Return where runs are scored: label, and trainings in full or trials."""
    if epochs:
        return {f"{b}x": b for b in BUDGETS if b <= budget}
    return {str(n): n for n in TRIALS if n <= budget * TRIALS_A_TRAINING}


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


def p_worse(board: Board, arm: str, other: str, mark: int) -> float:
    """Return the p value of "not worse than", one-sided, by the bootstrap of paired runs."""
    boot = resampled(board.paired(arm, other, mark), N_BOOT_PAIRED)
    return float((1 + (boot <= 0).sum()) / (1 + len(boot)))


def worse_than_chance(board: Board) -> str:
    """Say which methods are significantly worse than random under the same scheduler at 10x.

    Where there are no epochs, after as many trials as that: the mark next to it.
    """
    wanted = 10 if board.epochs else 10 * TRIALS_A_TRAINING
    places = list(marks(epochs=board.epochs, budget=10**6).values())[: len(board.labels)]
    mark = min(range(len(places)), key=lambda k: abs(places[k] - wanted))
    pairs = [
        (arm, control(arm, epochs=board.epochs))
        for arm in board.complete
        if arm in METHODS and arm != "random"
    ]
    pairs = [(a, b) for a, b in pairs if a != b and b in board.regrets and board.paired(a, b, mark)]
    if not pairs:
        return "There is no method to compare with random.\n"
    p = np.array([p_worse(board, arm, other, mark) for arm, other in pairs])
    corrected = holm(p)
    worse = [f"{a} (p {q:.2g})" for (a, _), q in zip(pairs, corrected, strict=True) if q < ALPHA]
    cells = [
        [
            arm,
            other,
            f"{np.mean([d.mean() for d in board.paired(arm, other, mark)]):+.3f}",
            f"{q:.2g}",
        ]
        for (arm, other), q in zip(pairs, corrected, strict=True)
    ]
    label = board.labels[mark]
    said = f"significantly worse at {label}: {', '.join(worse) or 'none'}"
    head = ["method", "random under its scheduler", f"difference at {label}", "p of worse (Holm)"]
    return f"{len(pairs)} methods, {said}.\n\n{markdown(head, cells)}"


def like_hpbandster(board: Board) -> str:
    """Say how bohb compares with HpBandSter's, and whether it is significantly worse."""
    if not {"bohb", "hpbandster"} <= set(board.complete):
        return "Both have to be run for that.\n"
    p = np.array([p_worse(board, "bohb", "hpbandster", k) for k in range(len(board.labels))])
    rows = [
        ["bohb", *(f"{mean:.3f}" for mean in board.mean("bohb"))],
        ["hpbandster", *(f"{mean:.3f}" for mean in board.mean("hpbandster"))],
        ["p of bohb worse (Holm)", *(f"{q:.2g}" for q in holm(p))],
    ]
    return markdown(["", *board.labels], rows)


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


def report(
    found: Sequence[Mapping[str, str]],
    references: Mapping[str, Any],
    *,
    workers: int,
    budget: int,
    epoch_s: float,
    picture: Path,
) -> str:
    """Return the report in Markdown, and draw the plot.

    Args:
        found: Rows of runs.csv, those that failed too.
        references: What references.json holds.
        workers: Simulated workers, the same of all these runs.
        budget: In trainings in full, the same.
        epoch_s: Seconds that an epoch takes, the same.
        picture: The plot's file.
    """
    rows = [row for row in found if not row["error"]]
    parts = [
        "# Search quality\n",
        f"{len(rows)} runs, {workers} workers, budget {budget}, "
        f"{epoch_s:g} s an epoch. Mean regret (95 % interval): less is better.\n",
    ]
    made = boards(rows, references, budget)
    for board in made:
        parts += [f"## {board.title}\n", table(board)]
        if not board.measure.endswith("_in_time"):
            parts += [f"### Differences: {board.title}\n", comparisons(board)]
            parts += [f"### Worse than chance: {board.title}\n", worse_than_chance(board)]
            if board.epochs:
                parts += [f"### bohb and HpBandSter: {board.title}\n", like_hpbandster(board)]
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
        plot([b for b in made if not b.measure.endswith("_in_time")], picture)
    return "\n".join(parts)


def plot(made: Sequence[Board], path: Path) -> None:
    """Draw the mean regret over the budget, a panel a board; of its best arm with the interval."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "regret"  # the same file for the same numbers
    pyplot, ticker = import_module("matplotlib.pyplot"), import_module("matplotlib.ticker")
    figure, axes = pyplot.subplots(
        1, len(made), figsize=(5.2 * len(made) + 2, 5), squeeze=False, layout="constrained"
    )
    arms = list(dict.fromkeys(arm for board in made for arm in board.complete))
    looks = {
        arm: {
            "color": pyplot.get_cmap("tab10")(k % 10),
            "marker": MARKERS[k % len(MARKERS)],  # as the colours come round again
            "linestyle": "--" if arm in PEERS else "-",
            "linewidth": 1.0 if k else 2.5,
            "markersize": 4,
        }
        for k, arm in enumerate(arms)
    }
    for axis, board in zip(axes[0], made, strict=True):
        places = list(marks(epochs=board.epochs, budget=10**6).values())[: len(board.labels)]
        for arm in board.complete:
            axis.plot(places, board.mean(arm), label=arm, **looks[arm])
        for arm in board.complete[:1]:  # all of them would hide each other
            bands = [board.interval(arm, mark) for mark in range(len(places))]
            colour = looks[arm]["color"]
            axis.fill_between(places, *zip(*bands, strict=True), color=colour, alpha=0.12)
        axis.set(xscale="log", yscale="log", title=board.title)
        axis.yaxis.set(
            major_locator=ticker.LogLocator(subs=(1, 2, 5)),
            major_formatter=ticker.StrMethodFormatter("{x:g}"),
            minor_locator=ticker.NullLocator(),
        )
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
