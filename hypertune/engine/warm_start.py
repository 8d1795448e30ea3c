"""Begins a search where an earlier study ended: its best configs are tried first."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypertune.errors import SettingError
from hypertune.records import Journal
from hypertune.space import Config, identity
from hypertune.study import Study

_N_TAKEN = 5


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What an earlier study is good for.

    Attributes:
        configs: Configs of the new study, the best of the earlier one first.
        text: What could be used, and what could not.
    """

    configs: list[Config]
    text: str


def warm_start(study: Study, folder: Path) -> WarmStart:
    """Return the best configs of an earlier study, as far as the new one's space has them.

    Spaces are matched by the names at their top and by range: a value that the new space does not
    allow, or a name that the earlier one lacks, is left at the new study's default. Trials that
    ran in full come first, then those that got furthest.

    Args:
        study: The new study.
        folder: The earlier one's folder.

    Raises:
        SettingError: Nothing there can be used.
        JournalError: Its journal cannot be read.
    """
    journal = Journal(folder / "journal.db", read_only=True)
    try:
        about = journal.study()
        if "metric" not in about:
            raise SettingError(f"--from '{folder.name}': its journal holds no study.")
        sign, metric = (-1.0 if about["mode"] == "max" else 1.0), about["metric"]
        ranked: list[tuple[bool, int, float, dict[str, Any]]] = []
        for trial in journal.trials():
            rows = journal.results(trial=trial.id)
            losses = [sign * row.metrics[metric] for row in rows if metric in row.metrics]
            finite = [loss for loss in losses if math.isfinite(loss)]
            if trial.role == "search" and finite:
                full = trial.full
                reached = 0 if full else -max(row.epoch for row in rows)
                ranked.append((not full, reached, min(finite), trial.config))
    finally:
        journal.close()
    ranked.sort(key=lambda entry: entry[:3])
    space = study.search_space
    taken: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    configs: dict[str, Config] = {}
    for *_, earlier in ranked:
        config, any_taken = dict(study.default), False
        for name in study.space:
            if name not in earlier:
                continue
            if space.problems({**config, name: earlier[name]}):
                outside[name] += 1
            else:
                config[name] = earlier[name]
                taken[name] += 1
                any_taken = True
        if any_taken:
            configs.setdefault(identity(config), config)
    if not taken:
        raise SettingError(
            f"--from '{folder.name}': none of its {len(ranked)} trials with results has a value "
            f"for {', '.join(study.space)} that this study allows."
        )
    best = list(configs.values())[:_N_TAKEN]
    missing = [name for name in study.space if name not in taken and name not in outside]
    parts = [f"taken: {', '.join(taken)}"]
    parts += [f"{name} out of range in {n} of {len(ranked)} trials" for name, n in outside.items()]
    parts += [f"not there, left at the default: {', '.join(missing)}"] if missing else []
    if metric != study.metric:
        parts.append(f"its metric is {metric}")
    return WarmStart(
        configs=best,
        text=f"From {folder.name}: its {len(best)} best configs are tried first "
        f"({'; '.join(parts)}).",
    )
