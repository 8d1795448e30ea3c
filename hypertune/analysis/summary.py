"""What a study found, in brief, from its journal alone."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from hypertune.core.errors import JournalError
from hypertune.core.objective import Objective
from hypertune.journal.history import StudyHistory, TrialHistory
from hypertune.journal.recommendation import Recommendation, recommended
from hypertune.journal.snapshot import set_aside


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one model reached.

    Attributes:
        label: ``best``, ``default``, or the baseline's name.
        trial: Its id.
        epoch: Its best epoch; 0 for models without epochs.
        validation: The study's metric at that epoch, on the validation part.
        fresh: The mean of its config's best values on fresh seeds; None if it did not run again.
        n_fresh: How many they are.
        test: The same on the test part; None where that was not opened, or the look failed.
        further: The same on further test sets, by name.
        failure: Why a look at the test part failed; None if it did not.
    """

    label: str
    trial: int
    epoch: int
    validation: float
    fresh: float | None
    n_fresh: int
    test: float | None
    failure: str | None
    further: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a study found.

    Attributes:
        study: The journal's keys.
        best: The recommended trial: its config is the best one on fresh seeds, or else in the
            search; None if there is none.
        incumbent: The trial that the search alone would recommend.
        full: Whether ``best`` is a trial in full, or only the best of the longest ones.
        scores: ``best``, the default and the baselines, as far as they exist.
        reasons: How many searched trials ended how.
        failures: Searched trials that failed or were lost, each with the first line of why.
        n_epochs: Epochs trained in all.
        seconds: From the start of the search to its end, all sessions together.
        n_looks: How often the test part was opened.
        n_mutations: How often the config of ``best`` was changed while it was under way.
        set_aside: Of each journal that another machine's took the place of, what is in it.
    """

    study: Mapping[str, Any]
    best: TrialHistory | None
    incumbent: int | None
    full: bool
    scores: tuple[Score, ...]
    reasons: Mapping[str, int]
    failures: tuple[tuple[int, str], ...]
    n_epochs: int
    seconds: float
    n_looks: int
    n_mutations: int
    set_aside: tuple[str, ...] = ()

    def better(self, a: float, b: float) -> bool:
        """Say whether ``a`` is better than ``b``."""
        return Objective.of_study(self.study).better(a, b)

    @property
    def verdicts(self) -> list[str]:
        """Sentences that set the best configuration against everything else, on the test part."""
        best = next((s for s in self.scores if s.label == "best"), None)
        if best is None or best.test is None:
            return []
        sentences = []
        for other in self.scores:
            if other.trial == best.trial and other is not best:
                n_full = self.reasons["complete"] + self.reasons["converged"]
                searched = self.best is not None and self.best.role == "search"
                sentences.append(
                    "The default configuration is the best one that was found."
                    if n_full > searched
                    else "Only the default configuration was trained in full."
                )
            if other.trial == best.trial or other.test is None:
                continue
            verb = "beats" if self.better(best.test, other.test) else "does not beat"
            if best.test == other.test:
                verb = "is as good as"
            sentences.append(
                f"On the test part the best configuration {verb} {_named(other.label)} "
                f"({best.test:.3f} against {other.test:.3f})."
            )
        return sentences + self.on_further

    @property
    def on_further(self) -> list[str]:
        """Sentences on what the best configuration reaches on each further test set."""
        best = next((s for s in self.scores if s.label == "best"), None)
        if best is None or best.test is None:
            return []
        sentences = []
        for name, value in best.further.items():
            if not (math.isfinite(value) and math.isfinite(best.test)):
                sentences.append(f"On the test set '{name}' the best configuration fails: {value}.")
                continue
            worse = self.better(best.test, value)
            text = (
                f"On the test set '{name}' the best configuration reaches {value:.3f}, "
                f"{'worse' if worse else 'no worse'} than the {best.test:.3f} on the test part"
            )
            others = [
                (f"{_named(s.label)} {s.further[name]:.3f}", s.further[name])
                for s in self.scores
                if s.trial != best.trial and name in s.further
            ]
            better = [said for said, reached in others if self.better(reached, value)]
            if better:
                text += f", and is beaten by {', '.join(better)}"
            elif others:
                text += "; nothing else that was tested on it does better"
            sentences.append(f"{text}.")
        return sentences


def summarize(folder: Path) -> Summary:
    """Return the summary of the study in a folder.

    Raises:
        JournalError: There is no readable journal, or it holds no study.
    """
    history = StudyHistory.read(folder, check=True)
    study, trials = history.study, list(history.trials.values())
    if missing := {"metric", "mode", "test_metric"} - study.keys():
        lacking = ", ".join(sorted(missing))
        raise JournalError(f"'{folder / 'journal.db'}' lacks {lacking}: no study began.")
    searched = [t for t in trials if t.role == "search"]
    mutated = history.mutated
    recommendation = recommended(history)
    best = None if recommendation is None else history.trials[recommendation.trial]
    n_looks = sum(event.data.get("label") == "best" for event in history.events_of("test"))
    shown = [("best", best)] if best else []
    default = [t for t in searched[:1] if t.full and t.id not in mutated]
    shown += [("default", t) for t in default]
    shown += [
        (t.label, t)
        for t in trials
        if t.role == "baseline" and t.full and not (default and t.label == "default")
    ]
    return Summary(
        study=study,
        best=best,
        incumbent=None if recommendation is None else recommendation.incumbent,
        full=recommendation is not None and recommendation.full,
        scores=tuple(
            score
            for label, trial in shown
            if (score := _score(label, trial, study, recommendation)) is not None
        ),
        reasons=Counter(t.reason or t.state for t in searched),
        failures=tuple(
            (t.id, (t.detail or "").splitlines()[0] if t.detail else "")
            for t in searched
            if t.reason in ("failed", "lost")
        ),
        n_epochs=sum(epoch > 0 for t in trials if t.role != "rerun" for epoch in t.results),
        seconds=history.spent_s,
        n_looks=n_looks,
        n_mutations=len(best.mutations) if best else 0,
        set_aside=tuple(set_aside(folder)),
    )


def _score(
    label: str,
    trial: TrialHistory,
    study: Mapping[str, Any],
    recommendation: Recommendation | None,
) -> Score | None:
    row = trial.best(study)
    if row is None:
        return None
    again = []
    if recommendation is not None:
        again = [*recommendation.losses.get(trial.id, {}).values()]
    look = trial.test_result or {}
    test = look.get("metrics", {}).get(study["test_metric"] or "")
    return Score(
        label=label,
        trial=trial.id,
        epoch=row.epoch,
        validation=row.metrics[study["metric"]],
        fresh=Objective.of_study(study).value(fmean(again)) if again else None,
        n_fresh=len(again),
        test=None if test is None else float(test),
        failure=look.get("failure"),
        further={
            name: float(look["metrics"][metric])
            for name, metric in study.get("further_test_metrics", {}).items()
            if metric in look.get("metrics", {})
        },
    )


def _named(label: str) -> str:
    return "the default configuration" if label == "default" else label
