"""Configs that ran again on fresh seeds, in blocks of equal seeds; and which of them is best."""

import math
from collections.abc import Mapping

import pandas as pd

from hypertune.analysis.effects import Floats
from hypertune.analysis.frames import StudyData, finite
from hypertune.records import Champion, Run, champion
from hypertune.space import identity

_COLUMNS = ("trial", "role", "label", "reason", "repeat", "epochs", "n_mutations")
MIN_REPEATS = 3
"""Repeats that configs must share to be compared."""


def replicates(data: StudyData) -> dict[str, pd.DataFrame]:
    """Return the replicates in full of each config, by the text of its identity."""
    rows = data.trials
    rows = rows[(rows["role"] == "replicate") & rows["full"]]
    groups: dict[str, list[int]] = {}
    for trial in rows["trial"]:
        if flat := data.flats.get(trial):
            groups.setdefault(identity(flat), []).append(trial)
    return {config: rows[rows["trial"].isin(trials)] for config, trials in groups.items()}


def blocks(data: StudyData, runs: Mapping[str, pd.DataFrame]) -> tuple[list[str], Floats]:
    """Return configs, and their losses on the repeats that all of them have.

    Configs that were not told apart may have been repeated more often than the others: the repeats
    that all of *them* have follow, as missing for the others.

    Args:
        data: The study.
        runs: Replicates by config.

    Returns:
        The configs, and their losses, shape (config, repeat).
    """
    tables = {
        config: pd.Series(data.sign * finite(rows["value"]), index=list(rows["repeat"]))
        .groupby(level=0)
        .first()
        for config, rows in runs.items()
    }
    wide = pd.DataFrame(tables)
    shared, counts = wide.dropna(), wide.count()
    most = wide.loc[:, counts == counts.max()].dropna()
    if most.shape[1] < 2 or len(most) <= len(shared):
        wide = shared
    else:
        rest = wide.loc[most.index.difference(shared.index)].copy()
        rest.loc[:, counts < counts.max()] = math.nan
        wide = pd.concat([shared, rest])
    return list(wide.columns), wide.to_numpy(dtype=float).T


def recommended(data: StudyData) -> Champion | None:
    """Return which config a study recommends; None if there is nothing."""
    rows = data.trials
    losses = data.sign * finite(rows["value"])
    return champion(
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
            losses,
            strict=True,
        )
    )
