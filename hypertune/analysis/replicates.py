"""Configs that ran again on fresh seeds: their losses, and which of them is best."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from hypertune.analysis.frames import StudyData, finite
from hypertune.core.space import Parameter, identity
from hypertune.journal.recommendation import MIN_REPEATS, Recommendation, Run, recommend
from hypertune.search.candidates import Promise, promise

_COLUMNS = ("trial", "role", "label", "reason", "repeat", "epochs", "n_mutations")
_UNRANKED = promise(full=False, epoch=0, loss=math.inf, number=0)


def replicates(data: StudyData) -> dict[str, pd.DataFrame]:
    """Return the replicates of each config, in full or failed, by the text of its identity."""
    rows = data.trials[data.trials["role"] == "replicate"]
    rows = rows[rows["full"] | rows["reason"].isin(["failed", "lost"])]
    groups: dict[str, list[int]] = {}
    for trial in rows["trial"]:
        if flat := data.flats.get(trial):
            groups.setdefault(identity(flat), []).append(trial)
    return {config: rows[rows["trial"].isin(trials)] for config, trials in groups.items()}


def leaders(
    data: StudyData, parameter: Parameter, runs: Mapping[str, pd.DataFrame]
) -> dict[str, str]:
    """Return a config of each level or range: of those that ran again what the search ranked first.

    What ran again has no say in that, so that its values are those of a config like any other.
    Those with enough repeats go before others; the default, which runs again whatever it is, counts
    only where the search found no better one.

    Args:
        data: The study.
        parameter: The factor.
        runs: Replicates by config.
    """
    rows = data.searched[~data.searched["reason"].isin(["failed", "lost"])]
    ranks: dict[str, Promise] = {}
    parts: dict[str, str] = {}
    values = data.objective.loss(finite(rows["value"]))
    for trial, full, epochs, loss in zip(
        rows["trial"], rows["full"], rows["epochs"], values, strict=True
    ):
        config = identity(data.flats[trial]) if trial in data.flats else ""
        if config and math.isfinite(loss):
            rank = promise(full=bool(full), epoch=int(epochs), loss=float(loss), number=int(trial))
            ranks[config] = min(rank, ranks.get(config, rank))
        if config:
            parts[config] = parameter.part(data.flats[trial][parameter.key])
    default = data.study["default"]
    default = "" if data.space.problems(default) else identity(data.space.flatten(default))
    rivals = [ranks[c] for c in ranks if c != default and parts[c] == parts.get(default)]
    beaten = default in ranks and min(rivals, default=_UNRANKED) < ranks[default]
    found: dict[str, str] = {}
    for config in sorted(runs, key=lambda c: (len(runs[c]) < MIN_REPEATS, ranks.get(c, _UNRANKED))):
        if config != default or not beaten:
            flat = data.flats[runs[config]["trial"].iloc[0]]
            found.setdefault(parameter.part(flat[parameter.key]), config)
    return {part: found[part] for part in parameter.parts if part in found}


def losses(data: StudyData, runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return losses on fresh seeds: a row a repeat, a column a config, NaN where there is none.

    Args:
        data: The study.
        runs: Replicates by config, or by what else is to stand above its column.
    """
    table = pd.DataFrame(
        {
            name: pd.Series(data.objective.loss(finite(rows["value"])), index=list(rows["repeat"]))
            .groupby(level=0)
            .first()
            for name, rows in ((name, rows[rows["full"]]) for name, rows in runs.items())
            if len(rows)
        }
    )
    return table.astype(float)


def comparable(values: pd.DataFrame) -> bool:
    """Say whether two configs share enough repeats to be compared; ``values`` of `losses`."""
    known = values.notna().to_numpy().astype(int)
    shared = known.T @ known
    return bool((shared[np.triu_indices(len(shared), 1)] >= MIN_REPEATS).any())


def recommended(data: StudyData) -> Recommendation | None:
    """Return which config a study recommends; None if there is nothing."""
    rows = data.trials
    values = data.objective.loss(finite(rows["value"]))
    return recommend(
        Run(
            trial=int(trial),
            config=identity(data.flats[trial]) if trial in data.flats else "",
            role=str(role),
            label=str(label),
            reason=None if pd.isna(reason) else str(reason),
            repeat=int(repeat),
            epochs=int(epochs),
            loss=float(loss) if math.isfinite(loss) else None,
            mutated=bool(n_mutations),
        )
        for trial, role, label, reason, repeat, epochs, n_mutations, loss in zip(
            *(rows[name] for name in _COLUMNS),
            values,
            strict=True,
        )
    )
