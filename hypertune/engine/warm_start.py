"""Begins a search where an earlier study ended: its best configs are tried first."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypertune.core.errors import SettingError
from hypertune.core.objective import Objective
from hypertune.core.space import Config
from hypertune.journal.history import StudyHistory
from hypertune.studies.study import Study

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


def warm_start(
    study: Study,
    folder: Path,
    *,
    tried: Sequence[Config] = (),
    n: int = _N_TAKEN,
    holds: Callable[[Config], bool] = lambda config: True,
) -> WarmStart:
    """Return the best configs of an earlier study, as far as the new one's space has them.

    Spaces are matched by the names at their top and by range: a value that the new space does not
    allow, or a name that the earlier one lacks, is left at the new study's default. Trials that
    ran in full come first, then those that got furthest. Left out are those that failed, and those
    whose config was changed on the way: no config of theirs gave their value.

    Args:
        study: The new study.
        folder: The earlier one's folder.
        tried: Configs that are tried before.
        n: How many more can be tried.
        holds: Says whether a config keeps to the study's constraints.

    Raises:
        SettingError: Nothing there can be used.
        JournalError: Its journal cannot be read.
    """
    history = StudyHistory.read(folder, check=True)
    about, changed = history.study, history.mutated
    if "metric" not in about:
        raise SettingError(f"--from '{folder.name}': its journal holds no study.")
    objective = Objective.of_study(about)
    ranked: list[tuple[bool, int, float, dict[str, Any]]] = []
    for trial in history.searched:
        if trial.id in changed or trial.reason in ("failed", "lost"):
            continue
        if (row := trial.best(about)) is not None:
            reached = 0 if trial.full else -trial.epoch
            loss = objective.loss(row.metrics[objective.metric])
            ranked.append((not trial.full, reached, loss, trial.config))
    ranked.sort(key=lambda entry: entry[:3])
    space = study.search_space
    taken: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    configs: dict[str, Config] = {}
    n_broken = 0
    for *_, earlier in ranked:
        config, any_taken = dict(study.default), False
        for name in study.space:
            if name not in earlier:
                continue
            if space.problems({**config, name: earlier[name]}):
                outside[name] += 1
            else:
                config = study.from_record({**config, name: earlier[name]})
                taken[name] += 1
                any_taken = True
        if any_taken and not holds(config):
            n_broken += 1
        elif any_taken:
            configs.setdefault(space.identity(config), config)
    if not taken:
        raise SettingError(
            f"--from '{folder.name}': none of its {len(ranked)} trials with results has a value "
            f"for {', '.join(study.space)} that this study allows."
        )
    if not configs:
        raise SettingError(
            f"--from '{folder.name}': the constraints of this study hold for none of its "
            f"{len(ranked)} trials with results."
        )
    for config in tried:
        configs.pop(space.identity(config), None)
    best = list(configs.values())[: max(0, min(n, _N_TAKEN))]
    missing = [name for name in study.space if name not in taken and name not in outside]
    parts = [f"taken: {', '.join(taken)}"]
    parts += [f"{name} out of range in {n} of {len(ranked)} trials" for name, n in outside.items()]
    parts += [f"not there, left at the default: {', '.join(missing)}"] if missing else []
    if n_broken:
        parts.append(f"against the constraints in {n_broken} of {len(ranked)} trials")
    if objective.metric != study.metric:
        parts.append(f"its metric is {objective.metric}")
    if about["mode"] != study.mode:
        parts.append(f"its best is its {about['mode']}imum")
    what = f"its {len(best)} best configs are" if len(best) != 1 else "its best config is"
    if not configs:
        what = "only what is tried anyway can be taken, and is"
    elif not best:
        what = "there is no room for its configs among so few trials; the others are"
    return WarmStart(
        configs=best, text=f"From {folder.name}: {what} tried first ({'; '.join(parts)})."
    )
