"""What a study lets one say, in words. What its data do not carry is not said.

Every statement names its estimand (what the number is of), its basis (which data) and its outcome:

``better``     the interval excludes zero
``equal``      it lies within the margin of what matters
``undecided``  neither
``none``       the data do not carry a statement of this kind

Intervals are of 95 %, for all that is said of a factor at once: all pairs of its levels, all kinds
of statements that the data carry, and all looks at a study that is extended while it is undecided
(`effects.spent`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from hypertune.analysis import effects
from hypertune.analysis.frames import StudyData, finite
from hypertune.analysis.importance import Importance, importances
from hypertune.analysis.interaction import interaction
from hypertune.analysis.replicates import comparable, leaders, losses, replicates
from hypertune.analysis.search_review import by_chance, following, review
from hypertune.analysis.statements import (
    MIN_FULL,
    Contrast,
    Factor,
    Finding,
    PendingStatement,
    Statement,
    cannot_say,
    left_of,
)
from hypertune.analysis.words import show
from hypertune.analysis.worth import worth
from hypertune.core.space import Categorical, Parameter, identity, level_text
from hypertune.journal.recommendation import MIN_REPEATS, dependable

MIN_DRAWN = 4
"""Trials of each level that a statement about averages needs."""
_WEIGHTS = {"levels": 1.0, "champions": 2.0, "averages": 1.0, "default": 1.0}
"""How the kinds of statements that the data carry share the error: by data, not by outcome."""
_N_GRID = 12
_MANY = 200
_MOST_TIMES = 1000.0
"""No interval is made narrower than by this factor by going on."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a study lets one say.

    Attributes:
        question: Of the study.
        headline: The answer, a line for each factor.
        scope: What it holds for.
        margin: The smallest difference of the metric that matters.
        factors: By the study's order.
        interaction: Of the first two factors; None where the question names one.
        worth: The best config against the default, and against baselines.
        importance: Of all parameters, at one epoch; None where there are too few trials.
        search: How the search went.
        following: What to try next.
    """

    question: str
    headline: str
    scope: str
    margin: float
    factors: list[Factor]
    interaction: Statement | None
    worth: list[str]
    importance: Importance | None
    search: list[str]
    following: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def judge(data: StudyData, *, seed: int = 0) -> Verdict:
    """Return what a study lets one say.

    Args:
        data: The study.
        seed: Of the draws that intervals from a model are made of.
    """
    judge = _Judge(data, seed)
    factors = judge.factors()
    found = importances(data, seed=seed)
    return Verdict(
        question=data.study["question"],
        headline="\n".join(dict.fromkeys(f.sentence for f in factors)),
        scope=judge.scope(),
        margin=judge.margin,
        factors=factors,
        interaction=judge.interaction(),
        worth=worth(data, alpha=judge.alpha),
        importance=found,
        search=review(data, margin=judge.margin),
        following=following(data, [left for f in factors if (left := left_of(f)) is not None]),
    )


def judge_factors(data: StudyData, *, seed: int = 0) -> list[Factor]:
    """Return what a study lets one say of its factors, and no more; arguments as in `judge`."""
    return _Judge(data, seed).factors()


def judge_factor(data: StudyData, name: str, *, seed: int = 0) -> Factor:
    """Return what a study lets one say of one factor; arguments as in `judge`."""
    return _Judge(data, seed).factor(name)


class _Judge:
    def __init__(self, data: StudyData, seed: int) -> None:
        self.data, self.seed = data, seed
        self.study, self.objective = data.study, data.objective
        look = max(1, int(data.study.get("n_sessions", 1)))
        self.alpha = effects.spent(look)
        self.next_share = effects.spent(look + 1) / self.alpha
        self.searched = data.searched[data.searched["n_mutations"] == 0]
        self.full = data.full
        self.runs = replicates(data)
        self.margin = self._margin()
        usable = len(self.full) >= 2 * MIN_FULL and self.full["value"].nunique() > 1
        self.surrogate = effects.Surrogate(data) if usable else None

    def rng(self, *names: str) -> np.random.Generator:
        """Return the draws for some factors, whatever others there are."""
        order = list(self.study["factors"])
        return np.random.default_rng([self.seed, *(order.index(name) for name in names)])

    def _margin(self) -> float:
        """Return the study's margin, or else a hundredth of the best value."""
        given = self.study.get("margin")
        if given is not None:
            return float(given)
        values = finite(self.searched["value"])
        values = values[np.isfinite(values)]
        return float(abs(self.objective.loss(values).min()) / 100) if len(values) else 0.0

    def scope(self) -> str:
        study = self.study
        return (
            f"Holds for {study.get('data') or 'these data'} and their split, {study['max_epochs']} "
            f"epochs, and the space that was searched. Differences below {show(self.margin)} in "
            f"{self.objective.text()} are taken not to matter."
        )

    # ---- factors ----

    def factors(self) -> list[Factor]:
        return [self.factor(name) for name in self.study["factors"]]

    def factor(self, name: str) -> Factor:
        parameter = self.data.space.common(name)
        if parameter is None:
            sentence = f"{name} is not in every config: it is not compared."
            none = cannot_say("levels of a part of the space", "none", sentence)
            return Factor(name=name, statements=[none], everywhere=False)
        ways: dict[str, Statement | PendingStatement] = {}
        respond = self._response if parameter.numeric else self._levels
        ways["levels"] = respond(parameter)
        ways["champions"] = self._champions(parameter)
        if (at_default := self._at_default(parameter)) is not None:
            ways["default"] = at_default
        ways["averages"] = self._averages(parameter)
        carried = sum(_WEIGHTS[key] for key, way in ways.items() if not isinstance(way, Statement))
        statements = [
            way if isinstance(way, Statement) else way(self.alpha * _WEIGHTS[key] / carried)
            for key, way in ways.items()
        ]
        rank = {"better": 0, "equal": 1, "undecided": 2, "none": 3}
        statements.sort(key=lambda s: rank[s.outcome])
        return Factor(name=name, statements=statements, numeric=parameter.numeric)

    def _of_part(self, parameter: Parameter, trials: pd.DataFrame) -> list[list[int]]:
        """Return the trials of each level or range of a factor."""
        found: dict[str, list[int]] = {part: [] for part in parameter.parts}
        for trial in trials["trial"]:
            flat = self.data.flats.get(trial, {})
            if parameter.key in flat:
                found[parameter.part(flat[parameter.key])].append(trial)
        return list(found.values())

    def _levels(self, parameter: Parameter) -> Statement | PendingStatement:
        """Compare levels, each at its best, by the model of the trials in full."""
        assert isinstance(parameter, Categorical)
        estimand = f"each level of {parameter.name} with all else tuned for it"
        basis = "a model of the trials in full"
        n = [len(trials) for trials in self._of_part(parameter, self.full)]
        texts = list(parameter.parts)
        kept = [k for k, count in enumerate(n) if count >= MIN_FULL]
        counts = ", ".join(f"{count} of {text}" for text, count in zip(texts, n, strict=True))
        if self.surrogate is None or len(kept) < 2:
            return cannot_say(
                estimand,
                basis,
                f"What {parameter.name} does in general this search cannot say: trials in full "
                f"are {counts}; it takes at least {MIN_FULL} of each of two levels.",
            )
        levels = [parameter.choices[k] for k in kept]
        drawn = self.surrogate.by_level(parameter.key, levels, self.rng(parameter.name))
        n_trials = len(self.full)
        scale = [self.surrogate.scale(parameter, level) for level in levels]
        end = f"by a model of {n_trials} trials in full, {counts}"
        names = {text: text for text in texts}

        def say(alpha: float) -> Statement:
            found = effects.from_search(
                drawn,
                [texts[k] for k in kept],
                [n[k] for k in kept],
                alpha=alpha,
                scale=scale,
            )
            return self._statement(
                parameter, estimand, basis, found, names, lambda _: end, "trials"
            )

        return say

    def _averages(self, parameter: Parameter) -> Statement | PendingStatement:
        """Compare the means of levels or ranges, where all configs are a random sample."""
        kind = _kind(parameter)
        estimand = f"each {kind} of {parameter.name} on average over all else in the space"
        basis = "configurations drawn by chance, in full"
        drawn = self.searched[by_chance(self.data).loc[self.searched.index]]
        rest = len(self.searched) - len(drawn)
        # The default may stand beside them; what a model chose, or was stopped, may not.
        if rest > 1 or len(drawn) < 2 * MIN_DRAWN or not drawn["full"].all():
            sentence = (
                f"What {parameter.name} does on average this search cannot say: that takes "
                f"configurations that were all drawn by chance and trained in full."
            )
            return cannot_say(estimand, basis, sentence)
        samples = {}
        for level, trials in zip(parameter.parts, self._of_part(parameter, drawn), strict=True):
            if len(trials) >= MIN_DRAWN:
                rows = drawn[drawn["trial"].isin(trials)]
                samples[level] = self.objective.loss(finite(rows["value"]))
        if len(samples) < 2 or any(np.ptp(sample) == 0 for sample in samples.values()):
            sentence = (
                f"What {parameter.name} does on average this search cannot say: it takes "
                f"{MIN_DRAWN} trials of each of two {kind}s, and some spread among them."
            )
            return cannot_say(estimand, basis, sentence)
        end = f"on average over {len(drawn)} configurations drawn by chance"
        names = {text: text for text in samples}

        def say(alpha: float) -> Statement:
            found = effects.from_chance(list(samples.values()), list(samples), alpha=alpha)
            return self._statement(
                parameter, estimand, basis, found, names, lambda _: end, "trials"
            )

        return say

    def _champions(self, parameter: Parameter) -> Statement | PendingStatement:
        """Compare the best configs that were found of each level or range, on fresh seeds."""
        kind = _kind(parameter)
        estimand = f"the best configurations found of each {kind} of {parameter.name}"
        basis = "replicates on fresh seeds"
        found = leaders(self.data, parameter, self.runs)
        notes = [self._effort(parameter)]
        for part, config in list(found.items()):
            n_tried, n_full = len(self.runs[config]), int(self.runs[config]["full"].sum())
            n_failed = n_tried - n_full
            if not dependable(n_full, n_tried):
                notes.append(
                    f"The best configuration found of {parameter.name} {part} failed on {n_failed} "
                    f"of {n_tried} fresh seeds: it is not compared."
                )
                del found[part]
            elif n_failed:
                notes.append(
                    f"The best configuration found of {parameter.name} {part} failed on {n_failed} "
                    f"of {n_tried} fresh seeds: only the others count."
                )
        if len(found) < 2:
            return cannot_say(
                estimand,
                basis,
                f"The best configurations of fewer than two {kind}s of {parameter.name} got to "
                "the end on fresh seeds.",
                *notes[1:],
            )
        values = losses(self.data, {level: self.runs[c] for level, c in found.items()})
        levels = list(map(str, values))
        names = {level: f"the best {level} configuration found" for level in levels}
        if parameter.numeric:
            names = {level: f"the best configuration found at {level}" for level in levels}
        # What another search would find is another question: `compare` has an answer.
        end = f"(of these configurations, not of the {kind}s)"

        def say(alpha: float) -> Statement:
            said = self._statement(
                parameter,
                estimand,
                basis,
                effects.from_replicates(values.to_numpy().T, levels, alpha=alpha),
                names,
                lambda n: f"on {n} fresh seeds {end}",
                "repeats of each",
                *notes,
            )
            return replace(said, of_leaders=True)

        # Where nothing can be compared yet, that takes no share of the error.
        return say if comparable(values) else say(self.alpha)

    def _at_default(self, parameter: Parameter) -> PendingStatement | None:
        """Compare levels with all else as in the default, where the study has run that."""
        default = self.data.study["default"]
        if self.data.space.problems(default):
            return None
        flat = self.data.space.flatten(default)

        def rest(config: Mapping[str, Any]) -> str:
            return identity({k: v for k, v in config.items() if k != parameter.key})

        runs, names = {}, {}
        for rows in self.runs.values():
            known = self.data.flats[rows["trial"].iloc[0]]
            if rest(known) == rest(flat):
                value = known[parameter.key]
                level = level_text(value) if parameter.by_range else parameter.part(value)
                runs[level] = rows
                names[level] = f"the default with {parameter.name} {show(value)}"
        values = losses(self.data, runs)
        if not comparable(values):
            return None
        names = {level: names[level] for level in map(str, values)}

        def say(alpha: float) -> Statement:
            return self._statement(
                parameter,
                f"each level of {parameter.name} with all else as in the default",
                "replicates on fresh seeds",
                effects.from_replicates(values.to_numpy().T, [*names], alpha=alpha),
                names,
                lambda n: f"on {n} fresh seeds",
                "repeats of each",
            )

        return say

    def interaction(self) -> Statement | None:
        """Say whether the first two factors interact."""
        if len(self.data.study["factors"]) < 2:
            return None
        one, other = self.data.study["factors"][:2]
        return interaction(
            self.data,
            one,
            other,
            self.surrogate,
            alpha=self.alpha,
            margin=self.margin,
            rng=self.rng(one, other),
        )

    def _effort(self, parameter: Parameter) -> str:
        """Say how hard each level was searched: a level that got less is not the worse for it."""
        parts = []
        for part, trials in zip(
            parameter.parts, self._of_part(parameter, self.searched), strict=True
        ):
            rows = self.searched[self.searched["trial"].isin(trials)]
            n_full, epochs = int(rows["full"].sum()), int(rows["epochs"].sum())
            parts.append(f"{part}: {len(rows)} trials, {n_full} in full, {epochs} epochs")
        kind = _kind(parameter)
        return f"How hard each {kind} was searched: {'; '.join(parts)}."

    def _contrasts(self, found: effects.Effects) -> list[Contrast]:
        contrasts = []
        for i, j in combinations(range(len(found.levels)), 2):
            difference, reach = float(found.difference[i, j]), float(found.margin[i, j])
            n = int(found.n_compared[i, j])
            a, b = found.levels[i], found.levels[j]
            if difference < 0:  # the better one first
                a, b, difference = b, a, -difference
            low, high = difference - reach, difference + reach
            outcome: Finding = "undecided"
            if math.isnan(reach):
                outcome = "none"
            elif low > 0:
                outcome = "better"
            elif max(-low, high) <= self.margin:
                outcome = "equal"
            more = max(effects.MIN_ALIKE - n, 1) if outcome == "none" else None
            if outcome == "undecided":
                target = max(difference, self.margin - difference, reach / _MOST_TIMES)
                more = found.n_more(i, j, target, found.tail * self.next_share)
            contrasts.append(
                Contrast(
                    a=a,
                    b=b,
                    difference=difference,
                    low=low,
                    high=high,
                    outcome=outcome,
                    n=n,
                    n_more=more,
                )
            )
        return contrasts

    def _say(
        self,
        c: Contrast,
        names: Mapping[str, str],
        factor: str,
        ending: Callable[[int], str],
        unit: str,
    ) -> str:
        end = ending(c.n)
        a, b = names[c.a], names[c.b]
        interval = f"95 %: {show(c.low)} to {show(c.high)}"
        if c.low == c.high and c.outcome == "better":
            text = f"{a} beats {b} by {show(c.difference)}, the same on each seed, {end}."
        elif c.low == c.high:
            text = f"{a} and {b} are equal to the last digit, {end}."
        elif c.outcome == "better":
            small = ", which is less than matters" if c.high <= self.margin else ""
            text = f"{a} beats {b} by {show(c.difference)} ({interval}){small}, {end}."
        elif c.outcome == "equal":
            most = max(-c.low, c.high)
            text = f"no difference larger than {show(most)} between {a} and {b} (95 %), {end}."
        else:
            more = c.n_more or 1
            many = f"more than {_MANY}" if more > _MANY else f"about {more}"
            text = (
                f"undecided between {a} and {b}: {c.a} is ahead by {show(c.difference)} "
                f"({interval}), {end}; {many} more {unit} would decide."
            )
        return f"{factor}: {text}"

    def _statement(
        self,
        parameter: Parameter,
        estimand: str,
        basis: str,
        found: effects.Effects,
        names: Mapping[str, str],
        ending: Callable[[int], str],
        unit: str,
        *notes: str,
    ) -> Statement:
        """Say how the levels of a factor compare.

        Args:
            parameter: The factor.
            estimand: What is compared.
            basis: What it is compared by.
            found: The comparisons.
            names: What each level is called in the sentences.
            ending: What a sentence ends with, given how many observations it rests on.
            unit: What these are.
            notes: Sentences that follow.
        """
        contrasts = self._contrasts(found)
        rank: dict[Finding, int] = {"better": 0, "equal": 1, "undecided": 2, "none": 3}
        # What is decided comes first, the largest difference before the others.
        order = sorted(
            range(len(contrasts)),
            key=lambda k: (rank[contrasts[k].outcome], -contrasts[k].difference),
        )
        undecided = [k for k in order if contrasts[k].outcome == "undecided"]
        said = [k for k in order if contrasts[k].outcome in ("better", "equal")] or undecided[:1]
        n_open = len([k for k in undecided if k not in said])
        more = [f"{_more_pairs(n_open)} undecided."] if n_open else []
        if n_apart := sum(c.outcome == "none" for c in contrasts):
            more.append(
                f"{_more_pairs(n_apart) if said else parameter.name + ':'} not compared: they "
                f"share fewer than {MIN_REPEATS} fresh seeds, or differ by the same on all of "
                "these few."
            )
        return Statement(
            estimand=estimand,
            basis=basis,
            outcome=contrasts[order[0]].outcome,
            sentences=[
                *(self._say(contrasts[k], names, parameter.name, ending, unit) for k in said),
                *more,
                *notes,
            ],
            # Of a single value no interval is known.
            levels=[row for row in self._rows(found) if row["n"] > 1],
            contrasts=[contrasts[k] for k in order],
        )

    def _rows(self, found: effects.Effects) -> list[dict[str, Any]]:
        ends = np.sort(
            np.array([self.objective.value(found.low), self.objective.value(found.high)]), axis=0
        )
        return [
            {
                "level": level,
                "value": float(self.objective.value(found.losses[k])),
                "low": float(ends[0, k]),
                "high": float(ends[1, k]),
                "n": int(found.n[k]),
            }
            for k, level in enumerate(found.levels)
        ]

    def _response(self, parameter: Parameter) -> Statement | PendingStatement:
        """Say which values of a number are as good as the best one."""
        estimand = f"each value of {parameter.name} with all else tuned for it"
        basis = "a model of the trials in full"
        if self.surrogate is None:
            return cannot_say(
                estimand,
                basis,
                f"Which {parameter.name} is best this search cannot say: it has "
                f"{len(self.full)} trials in full, and it takes at least {2 * MIN_FULL}, "
                "not all alike.",
            )
        values = _grid(parameter)
        drawn = self.surrogate.by_level(parameter.key, values, self.rng(parameter.name))
        texts = [show(v) for v in values]
        n = self._counts(parameter, values)
        scale = [self.surrogate.scale(parameter, value) for value in values]

        def say(alpha: float) -> Statement:
            found = effects.from_search(drawn, texts, n, alpha=alpha, scale=scale)
            return self._curve(parameter, estimand, basis, found, values)

        return say

    def _curve(
        self,
        parameter: Parameter,
        estimand: str,
        basis: str,
        found: effects.Effects,
        values: Sequence[Any],
    ) -> Statement:
        """Say how the values of a number compare; arguments as in `_statement`."""
        texts = found.levels
        best = int(found.losses.argmin())
        gap, reach = found.difference[best], found.margin[best]
        worse = [k for k in range(len(values)) if k != best and gap[k] - reach[k] > 0]
        if worse:
            good = [k for k in range(len(values)) if k not in worse]
            sentence = (
                f"{parameter.name}: best at about {texts[best]}; worse than that: "
                f"{_ranges(worse, texts)}; not told apart from it: {_ranges(good, texts)} "
                f"(95 %, by a model of {len(self.full)} trials in full)."
            )
        else:
            sentence = (
                f"{parameter.name}: undecided: no value is told apart from the best one, about "
                f"{texts[best]} (95 %, by a model of {len(self.full)} trials in full)."
            )
        return Statement(
            estimand=estimand,
            basis=basis,
            outcome="better" if worse else "undecided",
            sentences=[sentence],
            levels=[
                {**row, "at": value, "worse": k in worse}
                for k, (row, value) in enumerate(zip(self._rows(found), values, strict=True))
            ],
        )

    def _counts(self, parameter: Parameter, values: Sequence[Any]) -> list[int]:
        """Return how many trials in full are nearest to each value."""
        units = np.array([parameter.to_unit(v) for v in values])
        counts = [0] * len(values)
        for trial in self.full["trial"]:
            flat = self.data.flats.get(trial, {})
            if parameter.key in flat:
                at = parameter.to_unit(flat[parameter.key])
                counts[int(np.abs(units - at).argmin())] += 1
        return counts


def _kind(parameter: Parameter) -> str:
    """Return what the values of a factor are compared by."""
    return "range" if parameter.by_range else "level"


def _more_pairs(n: int) -> str:
    return "1 more pair is" if n == 1 else f"{n} more pairs are"


def _grid(parameter: Parameter) -> list[Any]:
    if parameter.n_values is not None and parameter.n_values <= _N_GRID:
        return sorted(parameter.values())
    units = (np.arange(_N_GRID) + 0.5) / _N_GRID
    return list(dict.fromkeys(parameter.from_unit(float(u)) for u in units))


def _ranges(places: Sequence[int], texts: Sequence[str]) -> str:
    """Return runs of neighbours as ranges."""
    runs: list[list[int]] = []
    for k in places:
        if runs and k == runs[-1][-1] + 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return ", ".join(
        texts[r[0]] if len(r) == 1 else f"{texts[r[0]]} to {texts[r[-1]]}" for r in runs
    )
