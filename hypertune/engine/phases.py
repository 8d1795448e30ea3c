"""What is due next in a study: decided from what is known of it, and from nothing else.

A study goes through these phases, and `next_step` says what is due once the search itself has no
job to give:

1. *search*: trials of new configs, or of promoted ones (`hypertune.search.Search.ask`);
2. *default in full*: the default is trained to the end where the search did not do so;
3. *fresh seeds*: the finalists and the default run again, in full, on the same new seeds;
4. *extension*: while the question is undecided the study goes on, with more fresh seeds or more
   trials, where that was asked for;
5. *test*: the test part is opened, once, for the recommended config, the default and the baselines.

Nothing here knows Ray, a clock or a display, so a study can run in simulated time as well.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from hypertune.core.space import Config, identity
from hypertune.journal.history import StudyHistory, TrialHistory
from hypertune.journal.recommendation import Recommendation, recommended
from hypertune.search import Search, Trial
from hypertune.search.candidates import best_of, candidates


class Undecided(Protocol):
    """What a study has not decided yet of a factor of its question."""

    @property
    def factor(self) -> str:
        """The factor."""

    @property
    def levels(self) -> Sequence[str]:
        """Its levels that are not told apart yet, as texts."""

    @property
    def n_more(self) -> int | None:
        """Fresh seeds of each that are expected to decide; None if more configs must be tried."""

    @property
    def text(self) -> str:
        """The same in words."""

    @property
    def hopeless(self) -> bool:
        """Nothing that a study can go on with would decide it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked of a study, as far as it decides its course.

    Attributes:
        default: The study's default config, nested.
        n_repeats: Fresh seeds on which the finalists run.
        factors: Those whose levels or ranges are compared; none if only the best counts.
        until_decided: Whether the study goes on until its factors are decided.
        has_test: Whether there is a test part.
    """

    default: Config
    n_repeats: int
    factors: Sequence[str] = ()
    until_decided: bool = False
    has_test: bool = True


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training in full is due, besides the search.

    Attributes:
        role: ``baseline`` for the default, ``replicate`` for a run on a fresh seed.
        config: The searched config, nested.
        label: What it is called.
        repeat: Number of the fresh seed, from 1; 0 for the study's own seed.
        trial: Its trial's id, if it has one already.
        n_left: How many runs on fresh seeds are due, this one among them.
    """

    role: str
    config: Config
    label: str
    repeat: int = 0
    trial: int | None = None
    n_left: int = 0


@dataclass(frozen=True, kw_only=True)
class Extension:
    """The study goes on, since something is undecided.

    Attributes:
        record: What the journal keeps of it: ``undecided``, in words; and either ``n_trials``, the
            new total, or ``levels``, the levels by factor that run on ``n_repeats`` fresh seeds.
    """

    record: dict[str, Any]

    @property
    def n_trials(self) -> int | None:
        """The new number of trials; None if it stays."""
        return self.record.get("n_trials")


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The study does not go on: nothing is undecided, or nothing would decide it.

    Attributes:
        undecided: What is left undecided, in words.
    """

    undecided: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class TestRun:
    """The model of a trial is to be judged on the test part.

    Attributes:
        label: ``best`` or ``default``.
        trial: The trial's id.
    """

    __test__ = False  # pytest takes it for a test otherwise

    label: str
    trial: int


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing can begin before something that runs has ended."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Nothing is due any more."""


Step: TypeAlias = Training | Extension | Decided | TestRun | Wait | Done


@dataclass(frozen=True, kw_only=True)
class Running:
    """The trials that have a job now.

    Attributes:
        training: Ids of those that train.
        testing: Ids of those that are judged on the test part.
    """

    training: Collection[int] = field(default_factory=frozenset)
    testing: Collection[int] = field(default_factory=frozenset)


def next_step(
    search: Search,
    history: StudyHistory,
    plan: Plan,
    running: Running,
    *,
    training_over: bool,
    undecided: Callable[[], Sequence[Undecided]],
    has_checkpoint: Callable[[int], bool],
) -> Step:
    """Return what is due, when the search has no job to give now.

    Args:
        search: The search. It is left as it is.
        history: All that is known of the study.
        plan: What was asked for.
        running: What runs already.
        training_over: Nothing is to be trained any more (the time budget is spent).
        undecided: Says what the study has not decided. It takes its time, and is called only where
            the answer counts.
        has_checkpoint: Says whether there is a checkpoint of a trial at its end.
    """
    if not training_over:
        if (default := default_in_full(search, history, plan, running)) is not None:
            return default
        if not search.done:
            return Wait()
        if seeds := fresh_seeds(search, history, plan, running):
            return seeds[0]
    if running.training:
        return Wait()
    if plan.until_decided and not training_over:
        open_ends = undecided()
        extension = extend(search, history, plan, open_ends)
        return extension or Decided(undecided=[one.text for one in open_ends])
    if tests := test_runs(search, history, plan, running, has_checkpoint):
        return tests[0]
    return Wait() if running.testing else Done()


def default_in_full(
    search: Search, history: StudyHistory, plan: Plan, running: Running
) -> Training | None:
    """Return a training of the default to the end, where the search did not do it.

    The answer is compared with the default. It trains where a worker would be idle, once the
    search cannot get to it any more.
    """
    full, trials = search.max_epochs, search.trials
    known = history.baseline("default")
    if known is not None and (known.is_final or known.id in running.training):
        return None
    if not (trials and history.searched):
        return None
    if search.can_propose or any(trial.to_epoch < full for trial in search.running):
        return None
    changed = history.searched[0].id in history.mutated
    if not (trials[0].waiting or trials[0].reason == "stopped" or changed):
        return None
    trial = None if known is None else known.id
    return Training(role="baseline", config=plan.default, label="default", trial=trial)


def finalists(search: Search, history: StudyHistory, plan: Plan) -> dict[str, Trial]:
    """Return the searched trials whose configs run again on fresh seeds, by what they are."""
    # One whose config was changed on the way is no sample of a config: it cannot be repeated.
    ids, mutated = [trial.id for trial in history.searched], history.mutated
    unchanged = [t for t in search.trials[: len(ids)] if ids[t.number] not in mutated]
    return candidates(unchanged, search.space, plan.factors)


def fresh_seeds(
    search: Search,
    history: StudyHistory,
    plan: Plan,
    running: Running,
    extensions: Sequence[dict[str, Any]] | None = None,
) -> list[Training]:
    """Return the runs on fresh seeds that are due, once the search is over.

    The best config of a search was lucky besides being good, and one seed is one draw: so the
    configs that the answer depends on run again on fresh seeds, the same ones for each config, so
    that differences are paired.

    Args:
        search: As in `next_step`.
        history: As in `next_step`.
        plan: As in `next_step`.
        running: As in `next_step`.
        extensions: Those that the study went on by; None for those of its history.
    """
    chosen = finalists(search, history, plan)
    if "best" not in chosen:  # nothing in full: there is nothing to confirm
        return []
    configs = {key: search.space.nest(t.flat) for key, t in chosen.items()}
    configs["default"] = dict(plan.default)
    labels: dict[str, str] = {}
    for label, config in configs.items():
        labels.setdefault(identity(config), label)
    known = {
        (identity({name: t.config[name] for name in search.space.spec}), t.repeat): t
        for t in history.of_role("replicate")
    }
    # Of more levels than run again the default's is compared as well, by the default.
    flat = search.space.flatten(plan.default)
    for parameter in search.space.parameters:
        if parameter.name in plan.factors and parameter.key in flat:
            part = parameter.part(flat[parameter.key])
            configs.setdefault(best_of(parameter.name, part), configs["default"])
    n_repeats = dict.fromkeys(labels, plan.n_repeats)
    for label, n in _n_repeats_of(history.extensions if extensions is None else extensions).items():
        if label in configs:
            key = identity(configs[label])
            n_repeats[key] = max(n_repeats[key], n)
    due: list[tuple[int, str, int | None]] = []
    for repeat in range(1, max(n_repeats.values()) + 1):
        for key in labels:
            row = known.get((key, repeat))
            if repeat <= n_repeats[key] and not _is_over(row, running):
                due.append((repeat, labels[key], None if row is None else row.id))
    return [
        Training(
            role="replicate",
            config=configs[label],
            label=label,
            repeat=repeat,
            trial=trial,
            n_left=len(due) - k,
        )
        for k, (repeat, label, trial) in enumerate(due)
    ]


def _is_over(trial: TrialHistory | None, running: Running) -> bool:
    return trial is not None and (trial.is_final or trial.id in running.training)


def _n_repeats_of(extensions: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return on how many fresh seeds the best of some levels are to run, by extensions."""
    return {
        best_of(name, level): extension["n_repeats"]
        for extension in extensions
        for name, levels in extension.get("levels", {}).items()
        for level in levels
    }


def is_training_left(search: Search, history: StudyHistory, plan: Plan, running: Running) -> bool:
    """Say whether anything is to be trained that does not run yet, extensions apart."""
    return not search.done or bool(fresh_seeds(search, history, plan, running))


def extend(
    search: Search, history: StudyHistory, plan: Plan, undecided: Sequence[Undecided]
) -> Extension | None:
    """Return how a study goes on about what is undecided; None if nothing would decide it.

    More fresh seeds of the levels that are not told apart come first, at most as many as there
    are; where a factor needs more configs instead, twice as many of them. If both are needed they
    take turns.
    """
    record: dict[str, Any] = {"undecided": [one.text for one in undecided]}
    undecided = [one for one in undecided if not one.hopeless]
    repeats = [one for one in undecided if one.n_more is not None]
    extensions = history.extensions
    repeated = bool(extensions) and "levels" in extensions[-1]
    if len(repeats) < len(undecided) and (repeated or not repeats):
        twice = 2 * (search.n_trials or 1)
        if _goes_on_with(search, twice):
            return Extension(record={**record, "n_trials": twice})
    if not repeats:
        return None
    now = max([plan.n_repeats, *(past.get("n_repeats", 0) for past in extensions)])
    wanted = max(one.n_more or 0 for one in repeats)
    more = min(max(wanted, math.ceil(now / 2)), now)
    levels = {one.factor: list(one.levels) for one in repeats}
    extension = Extension(record={**record, "levels": levels, "n_repeats": now + more})
    # Without anything to do the next analysis would be the same.
    due = fresh_seeds(search, history, plan, Running(), [*extensions, extension.record])
    return extension if due else None


def _goes_on_with(search: Search, n_trials: int) -> bool:
    """Say whether there are configs left for a larger number of trials."""
    before, search.n_trials = search.n_trials, n_trials
    try:
        return not search.done
    finally:
        search.n_trials = before


def opens_test(history: StudyHistory, plan: Plan) -> bool:
    """Say whether there is a config in full that the test part may be opened for."""
    return _to_test(history, plan) is not None


def _to_test(history: StudyHistory, plan: Plan) -> Recommendation | None:
    best = recommended(history) if plan.has_test else None
    return best if best is not None and best.full else None


def tested(history: StudyHistory) -> set[int]:
    """Return the trials that are not judged on the test part again.

    One that has metrics never is, one whose test failed only in a later session.
    """
    start = history.session_start
    return {
        event.trial
        for event in history.events_of("test")
        if event.trial is not None
        and ("metrics" in event.data or (start is not None and event.id > start.id))
    }


def test_runs(
    search: Search,
    history: StudyHistory,
    plan: Plan,
    running: Running,
    has_checkpoint: Callable[[int], bool],
) -> list[TestRun]:
    """Return which trials' models are to be judged on the test part, when all training is over.

    A study that was extended opens it again only where another config is recommended.
    """
    best = _to_test(history, plan)
    if best is None:
        return []
    known = tested(history) | set(running.testing)
    first, baseline = history.searched[0].id, history.baseline("default")
    intact = search.trials[0].full and first not in history.mutated
    default = first if intact else (None if baseline is None else baseline.id)
    due = []
    for label, trial in {"best": best.trial, "default": default}.items():
        if trial is not None and trial not in known and has_checkpoint(trial):
            due.append(TestRun(label=label, trial=trial))
            known.add(trial)
    return due


test_runs.__test__ = False  # type: ignore[attr-defined]
