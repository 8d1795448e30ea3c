"""Does a shipped study answer its question, as it is run by default? On its own recorded curves.

    python benchmarks/power.py --n-studies 100
    python benchmarks/power.py gru_window batch_lr --n-repeats 5 8 12

Each study runs whole, in simulated time, on the curves that `tables.py` recorded: with its default
method and budget, two workers at a time, the fresh seeds of its finalists, and the verdict. All is
as in a real study, but for the training.

Columns: *decided*, studies that decide something of the question ("A beats B", or no difference
that matters); *of each factor*, those that decide something of it; *false*, in how many of all
studies and factors "A beats B" of configurations on fresh seeds is wrong of some pair (at most 5 %,
if all is right); *epochs* of the search and of the repeats. Intervals are of 95 % (Clopper and
Pearson).
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from zlib import crc32

import numpy as np
from tables import CURVES, N_WORKERS, Table, share, table

from hypertune.analysis.frames import StudyData, from_history
from hypertune.analysis.replicates import leaders, replicates
from hypertune.analysis.verdict import judge_factors
from hypertune.core.space import Config, identity
from hypertune.engine.simulate import simulate
from hypertune.journal.history import StudyHistory
from hypertune.settings import DEFAULT_METHOD


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one study says.

    Attributes:
        decided: Whether something is decided, by factor.
        false: Whether "A beats B" is said of two configurations where it is not so, by factor.
        epochs: Of the search, and of the repeats.
    """

    decided: dict[str, bool]
    false: dict[str, bool]
    epochs: tuple[int, int]


def run(name: str, method: str, n_trials: int, n_repeats: Sequence[int], seed: int) -> list[Answer]:
    """Run a study on its table, and say what it says by each of some numbers of fresh seeds."""
    known = table(name)
    study = known.study

    def curve(config: Config, its_seed: int) -> list[float]:
        rng = np.random.default_rng([seed, its_seed, crc32(identity(config).encode())])
        return [known.sign * loss for loss in known.curve(known.nearest(config), rng)]

    history = simulate(
        study,
        curve,
        n_workers=N_WORKERS,
        method=method,
        n_trials=n_trials,
        n_repeats=max(n_repeats),
        seed=seed,
    )
    return [_answer(from_history(_with_repeats(history, n)), known, seed) for n in n_repeats]


def _with_repeats(history: StudyHistory, n_repeats: int) -> StudyHistory:
    """Return a study as if its configs had run on so many fresh seeds."""
    trials = {k: trial for k, trial in history.trials.items() if trial.repeat <= n_repeats}
    return replace(history, trials=trials)


def _answer(data: StudyData, known: Table, seed: int) -> Answer:
    decided, false = {}, {}
    runs = replicates(data)
    truth = {
        identity(flat): float(known.truth[known.nearest(data.space.nest(flat))])
        for flat in data.flats.values()
    }
    for factor in judge_factors(data, seed=seed):
        said = factor.statements
        decided[factor.name] = any(s.outcome in ("better", "equal") for s in said)
        of = leaders(data, data.space[factor.name], runs)
        of_configs = (s.contrasts for s in said if s.of_leaders)
        better = [c for contrasts in of_configs for c in contrasts if c.outcome == "better"]
        false[factor.name] = any(truth[of[c.a]] >= truth[of[c.b]] for c in better)
    sums = data.trials.groupby("role")["epochs"].sum()
    epochs = int(sums["search"]), int(sums["replicate"])
    return Answer(decided=decided, false=false, epochs=epochs)


def main() -> None:
    known = sorted(path.stem for path in CURVES.glob("*.json"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("studies", nargs="*", default=known, help=f"of {', '.join(known)}")
    parser.add_argument("--method", default=DEFAULT_METHOD)
    parser.add_argument("--n-studies", type=int, default=100)
    parser.add_argument("--n-trials", type=int, help="in place of the study's own")
    parser.add_argument("--n-repeats", type=int, nargs="+", help="in place of the study's own")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    print("| study | trials | repeats | decided | of each factor | false | epochs |")
    print(f"|{'---|' * 7}", flush=True)
    with ProcessPoolExecutor(args.n_jobs) as pool:
        for name in args.studies:
            study = table(name).study
            n_trials = args.n_trials or study.n_trials
            n_repeats = args.n_repeats or [study.n_repeats]
            one = partial(run, name, args.method, n_trials, n_repeats)
            answers = list(pool.map(one, range(args.n_studies)))
            for k, n in enumerate(n_repeats):
                print(_row(name, n_trials, n, [each[k] for each in answers]), flush=True)


def _row(name: str, n_trials: int, n_repeats: int, answers: Sequence[Answer]) -> str:
    n = len(answers)
    false = [wrong for a in answers for wrong in a.false.values()]
    each = [
        f"{factor} {sum(a.decided[factor] for a in answers) / n:.2f}"
        for factor in answers[0].decided
    ]
    epochs = np.mean([a.epochs for a in answers], axis=0)
    cells = [
        name,
        str(n_trials),
        str(n_repeats),
        share(sum(any(a.decided.values()) for a in answers), n),
        ", ".join(each),
        share(sum(false), len(false)),
        f"{epochs[0]:.0f} + {epochs[1]:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
