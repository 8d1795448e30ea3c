"""Does a shipped study answer its question, as it is run by default? On its own recorded curves.

    python benchmarks/power.py --n-studies 100
    python benchmarks/power.py gru_window batch_lr --n-repeats 5 8 12

Each study is searched with its default method and budget on the curves that `tables.py` recorded,
two workers at a time. The best of each level or range of its factors and the default run again on
fresh seeds, and the verdict is asked for: all as in a real study, but for the training.

Columns: *decided*, studies that decide something of the question ("A beats B", or no difference
that matters); *of each factor*, those that decide something of it; *false*, in how many of all
studies and factors "A beats B" of configurations on fresh seeds is wrong of some pair (at most 5 %,
if all is right); *epochs* of the search and of the repeats. Intervals are of 95 % (Clopper and
Pearson).
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tables import CURVES, play, share, table
from verdicts import trial_record

from hypertune.analysis.frames import StudyData, from_records
from hypertune.analysis.replicates import leaders, replicates
from hypertune.analysis.verdict import judge_factors
from hypertune.core.space import identity
from hypertune.search.candidates import candidates
from hypertune.search.methods import make_search
from hypertune.settings import DEFAULT_METHOD, Settings
from hypertune.studies.study import Study


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


def simulate(
    name: str, method: str, n_trials: int, n_repeats: Sequence[int], seed: int
) -> list[Answer]:
    """Run a study on its table, and say what it says by each of some numbers of fresh seeds."""
    known = table(name)
    study, space = known.study, known.space
    factors = Settings().replicated_factors(study)
    search = make_search(
        method,
        space,
        mode="min",
        max_epochs=known.max_epochs,
        n_trials=n_trials,
        seed=seed,
        start=[dict(study.default)],
        fair=study.fair_factor if factors else None,
    )
    play(search, known, seed)
    records = [
        trial_record(
            t.number,
            space.nest(t.flat),
            np.array([*t.losses.values()]),
            reason=t.reason or "stopped",
        )
        for t in search.trials
    ]
    chosen = [space.nest(t.flat) for t in candidates(search.trials, space, factors).values()]
    again = {identity(config): config for config in [*chosen, dict(study.default)]}
    truth: dict[str, float] = {}
    rng = np.random.default_rng([seed, 2])
    for config in again.values():
        k = known.nearest(config)
        truth[identity(space.flatten(config))] = float(known.truth[k])
        for repeat in range(1, max(n_repeats) + 1):
            curve = known.curve(k, rng)
            kept = curve[~np.isnan(curve)]
            reason = "failed" if len(kept) < len(curve) else "complete"
            records.append(
                trial_record(
                    len(records), config, kept, role="replicate", reason=reason, repeat=repeat
                )
            )
    about = _about(study, n_trials)
    return [
        _answer(from_records(about, [r for r in records if r.repeat <= n]), truth, seed)
        for n in n_repeats
    ]


def _answer(data: StudyData, truth: Mapping[str, float], seed: int) -> Answer:
    decided, false = {}, {}
    runs = replicates(data)
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


def _about(study: Study, n_trials: int) -> dict[str, Any]:
    return {
        "name": study.name,
        "metric": "loss",
        "mode": "min",  # tables hold losses
        "test_metric": None,
        "max_epochs": study.max_epochs,
        "factors": list(study.factors),
        "default": dict(study.default),
        "parameters": study.search_space.plain(),
        "margin": study.margin,
        "n_trials": n_trials,
        "n_sessions": 1,
    }


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
            one = partial(simulate, name, args.method, n_trials, n_repeats)
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
