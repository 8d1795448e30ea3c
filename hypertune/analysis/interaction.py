"""Whether the lead of one level of a factor depends on another factor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import t as student

from hypertune.analysis.effects import Surrogate
from hypertune.analysis.frames import StudyData
from hypertune.analysis.statements import MIN_FULL, Finding, Statement, cannot_say
from hypertune.analysis.words import show
from hypertune.core.space import Parameter, identity

_MOST_CELLS = 24


@dataclass(frozen=True, kw_only=True)
class _Change:
    """The lead of ``a`` over ``b`` is larger by ``by`` at ``to`` than at ``at``."""

    a: str
    b: str
    at: str
    to: str
    by: float
    reach: float


def interaction(
    data: StudyData,
    first: str,
    second: str,
    model: Surrogate | None,
    *,
    alpha: float,
    margin: float,
    rng: np.random.Generator,
) -> Statement | None:
    """Say whether differences between levels of a factor depend on another one.

    Compared are the leads of all pairs of levels, with all else tuned, between all pairs of values
    of the other factor (of numbers: a low, a middle and a high one); intervals hold for all of
    them at once, by Bonferroni.

    Args:
        data: The study.
        first: A factor.
        second: The other one.
        model: Of the trials in full; None where there are too few.
        alpha: Error of all intervals together.
        margin: The smallest difference that matters.
        rng: The source of chance.

    Returns:
        The statement; None if a factor is not in every config.
    """
    one, other = data.space.common(first), data.space.common(second)
    if one is None or other is None:
        return None
    pair = f"{first} and {second}"
    estimand = f"whether the lead of a level of {first} depends on {second}, with all else tuned"
    basis = "a model of the trials in full"
    rows, columns = _values(data, one), _values(data, other)
    if model is None or min(len(rows), len(columns)) < 2 or len(rows) * len(columns) > _MOST_CELLS:
        return cannot_say(
            estimand,
            basis,
            f"Whether {pair} interact this search cannot say: it takes at least {2 * MIN_FULL} "
            f"trials in full, {MIN_FULL} of each of two levels, and at most {_MOST_CELLS} cells.",
        )
    cells = [{one.key: r, other.key: c} for r in rows for c in columns]
    drawn = model.tuned(cells, rng).reshape(-1, len(rows), len(columns))
    n_changes = math.comb(len(rows), 2) * math.comb(len(columns), 2)
    scales = [[model.scale(p, v) for v in values] for p, values in ((one, rows), (other, columns))]
    changes = []
    for a, b in combinations(range(len(rows)), 2):
        leads = drawn[:, b] - drawn[:, a]  # (draw, column): above 0, a is the better one
        for at, to in combinations(range(len(columns)), 2):
            change = leads[:, to] - leads[:, at]
            of_cells = (scales[0][a], scales[0][b], scales[1][at], scales[1][to])
            scale = max(of_cells, key=lambda s: s.factor)
            quantile = float(student.ppf(1 - alpha / (2 * n_changes), scale.df))
            by = float(np.median(change))
            reach = quantile * scale.factor * float(change.std())
            k, m = (a, b) if by >= 0 else (b, a)
            changes.append(
                _Change(
                    a=show(rows[k]),
                    b=show(rows[m]),
                    at=show(columns[at]),
                    to=show(columns[to]),
                    by=abs(by),
                    reach=reach,
                )
            )
    sentence, outcome = _say(changes, pair, second, margin, model.n_full)
    return Statement(estimand=estimand, basis=basis, outcome=outcome, sentences=[sentence])


def _say(
    changes: Sequence[_Change], pair: str, second: str, margin: float, n: int
) -> tuple[str, Finding]:
    end = f"by a model of {n} trials in full"
    most = max(c.by + c.reach for c in changes)
    c = max(changes, key=lambda c: c.by - c.reach)
    text = (
        f"the lead of {c.a} over {c.b} is larger by {show(c.by)} at {second} = {c.to} than at "
        f"{c.at} (95 %: {show(c.by - c.reach)} to {show(c.by + c.reach)})"
    )
    if c.by > c.reach:
        return f"{pair} interact: {text}, {end}.", "better"
    if most <= margin:
        return f"{pair}: no interaction larger than {show(most)} (95 %), {end}.", "equal"
    return f"{pair}: undecided whether they interact: {text}, {end}.", "undecided"


def _values(data: StudyData, parameter: Parameter) -> list[Any]:
    """Return the levels that enough trials in full had; of numbers a low, middle and high one."""
    if parameter.numeric:
        if parameter.n_values is not None and parameter.n_values <= 12:
            values = sorted(parameter.values())
            return [values[k] for k in sorted({0, len(values) // 2, len(values) - 1})]
        return list(dict.fromkeys(parameter.from_unit(u) for u in (1 / 6, 1 / 2, 5 / 6)))
    had = [identity({"": data.flats.get(t, {}).get(parameter.key)}) for t in data.full["trial"]]
    return [v for v in parameter.values() if had.count(identity({"": v})) >= MIN_FULL]
