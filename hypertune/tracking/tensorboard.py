"""TensorBoard: scalars and HParams of trials, made from the journal, beside what the workers wrote.

While a search runs, its workers write histograms of weights and activations for every trial, since
nobody knows yet which ones will matter; at the end those of the trials that were not asked for are
deleted. A trial's folder is ``tensorboard/trial-<k>`` in the study's.
"""

import importlib.util
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

from hypertune.core.objective import Objective
from hypertune.journal.store import Journal, ResultRow, TrialRow, flat_names

HISTOGRAMS = ".histograms"
"""Ends the names of the workers' files."""


def has_tensorboard() -> bool:
    """Say whether TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


def tensorboard_folder(folder: Path, trial: int) -> Path:
    """Return where a study keeps what TensorBoard shows of a trial."""
    return folder / "tensorboard" / f"trial-{trial:03d}"


def write_tensorboard(folder: Path, which: str) -> list[int]:
    """Write scalars and HParams of the trials asked for, and delete what was kept of the others.

    Args:
        folder: The study's folder.
        which: ``all``, ``best`` (the recommended trial and the default), or how many of the best.

    Returns:
        The trials.
    """
    with closing(Journal(folder / "journal.db", read_only=True)) as journal:
        study, trials = journal.study(), {t.id: t for t in journal.trials()}
        results = {t: [r for r in journal.results(trial=t) if r.epoch > 0] for t in trials}
        looks = {e.trial: e.data for e in journal.events(kind="test") if "metrics" in e.data}
    asked = _asked(study, trials, results, looks, which)
    kept = {tensorboard_folder(folder, trial) for trial in asked}
    for path in (folder / "tensorboard").glob("trial-*"):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for trial in asked:
        at = tensorboard_folder(folder, trial)
        for old in at.glob("events.*"):
            if not old.name.endswith(HISTOGRAMS):
                old.unlink()  # of an earlier session: it is all written anew
        _write(at, study, trials[trial], results[trial], looks.get(trial, {}))
    return asked


def _asked(
    study: dict[str, Any],
    trials: dict[int, TrialRow],
    results: dict[int, list[ResultRow]],
    looks: dict[int | None, dict[str, Any]],
    which: str,
) -> list[int]:
    trained = [t for t in trials.values() if results[t.id]]
    if which == "all":
        return [t.id for t in trained]
    objective = Objective.of_study(study)

    def rank(trial: TrialRow) -> tuple[Any, ...]:
        losses = [objective.loss(row.metrics[objective.metric]) for row in results[trial.id]]
        recommended = looks.get(trial.id, {}).get("label") == "best"
        # What was trained for longer is not compared with what was stopped before.
        return not recommended, not trial.full, -results[trial.id][-1].epoch, min(losses), trial.id

    searched = [t for t in trained if t.role == "search" and t.reason not in ("failed", "lost")]
    default = [t.id for t in trained if t.role == "baseline" or t in searched[:1]]
    best = [t.id for t in sorted(searched, key=rank)]
    chosen = best[: 1 if which == "best" else int(which)]
    return list(dict.fromkeys(chosen + (default[-1:] if which == "best" else [])))


def _write(
    at: Path, study: dict[str, Any], trial: TrialRow, rows: list[ResultRow], look: dict[str, Any]
) -> None:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    config = {"trial": trial.id, "seed": trial.seed, "role": trial.role}
    config |= {k: _plain(v) for k, v in flat_names(trial.config).items()}
    reached: dict[str, float] = {}
    if trial.full:  # the values of others are not comparable with these
        objective = Objective.of_study(study)
        best = min(objective.loss(row.metrics[objective.metric]) for row in rows)
        reached = {f"final/best_{objective.metric}": objective.value(best)}
        reached |= {f"final/{k}": float(v) for k, v in look.get("metrics", {}).items()}
    with closing(SummaryWriter(str(at))) as writer:
        for row in rows:
            for name, value in row.metrics.items():
                part, _, rest = name.partition("_")
                key = f"{part}/{rest}" if rest else name
                writer.add_scalar(key, value, row.epoch, walltime=row.t_ms / 1000)
        last = rows[-1].t_ms / 1000
        for summary in hparams(config, reached):  # type: ignore[no-untyped-call]
            writer._get_file_writer().add_summary(summary, walltime=last)  # type: ignore[no-untyped-call]
        for key, value in reached.items():
            writer.add_scalar(key, value, rows[-1].epoch, walltime=last)


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
