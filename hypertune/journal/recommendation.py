"""Which config a study recommends: the one that is best on fresh seeds, on validation.

The best config of a search is good, and was lucky as well. So after the search the best configs and
the default run again on fresh seeds, the same seeds for each, and the best mean over them decides;
the test part is opened for that config. Where nothing ran again the search's own best, the
incumbent, is recommended.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from hypertune.core.objective import Objective
from hypertune.core.space import identity
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import FULL

MIN_REPEATS = 3
"""Fresh seeds that configs must share to be compared, where some have as many."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trial, as far as it counts for the recommendation.

    Attributes:
        trial: Its id.
        config: A text that is equal for equal configs.
        role, label, reason, repeat: As in the journal.
        epochs: The last epoch with a result.
        loss: Its best value as a loss; None without a finite one.
        mutated: Its config was changed on the way: it cannot be run again.
    """

    trial: int
    config: str
    role: str
    label: str
    reason: str | None
    repeat: int
    epochs: int
    loss: float | None
    mutated: bool = False


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What a study recommends.

    Attributes:
        trial: The trial that stands for the config: whose model is loaded, and judged on test. Of a
            config that the search stopped early that is its run on the first fresh seed.
        full: It ran in full; else it is the best of those that got furthest.
        incumbent: The trial that the search alone would recommend.
        losses: Losses on fresh seeds by repeat, by the trial that stands for a config; empty where
            the search alone decides. Those that were not told apart may have more of them.
    """

    trial: int
    full: bool
    incumbent: int
    losses: Mapping[int, Mapping[int, float]]


def dependable(n_full: int, n_tried: int) -> bool:
    """Say whether a config got to the end on enough of its fresh seeds to be judged by these.

    Those on which it failed are no random ones.
    """
    return 4 * n_full >= 3 * n_tried


def recommend(runs: Iterable[Run]) -> Recommendation | None:
    """Return what a study recommends; None if there is nothing.

    Configs are dropped one by one, the one with the worst mean over the seeds that all those left
    have run on: so further seeds count between those that were not told apart. One that failed on
    more than a quarter of its seeds is not recommended. An incumbent whose config was changed on
    the way cannot run again, and is recommended as it is.
    """
    runs = list(runs)
    usable = [r for r in runs if r.loss is not None and r.reason not in ("failed", "lost")]
    # The default may have been stopped early in the search, and trained in full later.
    searched = [
        r for r in usable if r.role == "search" or (r.role, r.label) == ("baseline", "default")
    ]
    pool = [r for r in searched if r.reason in FULL]
    full = bool(pool)
    if not full:
        searched = [r for r in searched if r.role == "search"]
        furthest = max((r.epochs for r in searched), default=0)
        pool = [r for r in searched if r.epochs == furthest]
    ranked = sorted(pool, key=lambda r: (_loss(r), r.trial))
    if not ranked:
        return None
    incumbent = ranked[0].trial
    stands: dict[str, int] = {}
    for run in ranked:
        if not run.mutated:
            stands.setdefault(run.config, run.trial)
    again = [r for r in runs if r.role == "replicate"] if full and not ranked[0].mutated else []
    for run in again:
        if run.repeat == 1 and run.reason in FULL:
            stands.setdefault(run.config, run.trial)
    tried = Counter(r.config for r in again if r.reason in (*FULL, "failed", "lost"))
    tables: dict[str, dict[int, float]] = {}
    for run in again:
        if run.reason in FULL and run.loss is not None and run.config in stands:
            tables.setdefault(run.config, {})[run.repeat] = run.loss
    tables = {c: table for c, table in tables.items() if dependable(len(table), tried[c])}
    # One that was begun late, before the time was up, must not cost the others their seeds.
    if any(len(table) >= MIN_REPEATS for table in tables.values()):
        tables = {c: table for c, table in tables.items() if len(table) >= MIN_REPEATS}
    if not tables:
        return Recommendation(trial=incumbent, full=full, incumbent=incumbent, losses={})
    losses = {stands[config]: table for config, table in tables.items()}
    left = dict(losses)
    while len(left) > 1:
        shared = set.intersection(*map(set, left.values()))
        ranks = {
            # Where they share none, the one with the fewest goes first.
            trial: (fmean(table[r] for r in shared) if shared else -len(table), trial)
            for trial, table in left.items()
        }
        del left[max(ranks, key=ranks.__getitem__)]
    return Recommendation(trial=next(iter(left)), full=True, incumbent=incumbent, losses=losses)


def recommended(history: StudyHistory) -> Recommendation | None:
    """Return what a study recommends; None if there is nothing."""
    study, mutated = history.study, history.mutated
    objective = Objective.of_study(study)
    runs = []
    for trial in history.trials.values():
        best = trial.best(study)
        runs.append(
            Run(
                trial=trial.id,
                config=identity(trial.config),
                role=trial.role,
                label=trial.label,
                reason=trial.reason,
                repeat=trial.repeat,
                epochs=trial.epoch,
                loss=None if best is None else objective.loss(best.metrics[objective.metric]),
                mutated=trial.id in mutated,
            )
        )
    return recommend(runs)


def _loss(run: Run) -> float:
    assert run.loss is not None
    return run.loss
