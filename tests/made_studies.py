"""Journals of studies that were never run, written through the journal itself."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from hypertune.core.space import Space
from hypertune.journal.store import Journal

T0 = 1_700_000_000_000
SPACE: dict[str, Any] = {
    "cell": tune.choice(["gru", "lstm"]),
    "window": tune.choice([6, 12, 24]),
    "lr": tune.loguniform(1e-4, 1e-1),
    "units": tune.lograndint(8, 129),
}
DEFAULT = {"cell": "gru", "window": 12, "lr": 1e-2, "units": 32}


@dataclass(kw_only=True)
class Made:
    """A trial to write: its loss at each epoch, and the rest of its row."""

    losses: Sequence[float]
    config: Mapping[str, Any] = field(default_factory=lambda: DEFAULT)
    reason: str | None = "complete"
    detail: str | None = None
    role: str = "search"
    label: str = ""
    origin: str = ""
    repeat: int = 0
    test: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def write_study(folder: Path, trials: Sequence[Made], **study: Any) -> Path:
    """Write a journal into a folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    space = study.pop("spec", SPACE)
    about = {
        "name": folder.name,
        "space": "made",
        "study_id": f"id-{folder.name}",
        "question": "Does the cell matter?",
        "factors": ["cell", "window"],
        "data": "made up",
        "metric": "val_loss",
        "test_metric": "test_loss",
        "mode": "min",
        "default": DEFAULT,
        "fixed": {"batch_size": 64},
        "log_parameters": ["lr", "units"],
        "max_epochs": 9,
        "n_trials": len(trials),
        "method": "auto",
        "seed": 0,
        "parameters": Space(space).plain(),
        "settings": {"n_concurrent": 2},
        "environment": {"command": "hypertune --space made", "python": "3.11", "git_commit": None},
        "git_commit": None,
    } | study
    with contextlib.closing(Journal(folder / "journal.db")) as journal:
        journal.set_study(**about)
        journal.add_event("search_start")
        for k, made in enumerate(trials):
            _write(journal, k, made, about)
        journal.add_event("search_end", None, {"stopped_by": None})
    return folder


def _write(journal: Journal, k: int, made: Made, about: Mapping[str, Any]) -> None:
    epochs = range(1, len(made.losses) + 1)
    simple = made.role == "baseline" and made.label != "default"
    config = {"model": made.label} if simple else {**about["fixed"], **made.config}
    journal.add_trial(
        k,
        config,
        seed=made.repeat,
        repeat=made.repeat,
        role=made.role,
        label=made.label,
        data={"origin": made.origin, "why": ""} if made.origin else None,
    )
    if not simple:
        journal.set_state(k, "running")
        journal.add_event("job", k, {"from_epoch": 0, "to_epoch": about["max_epochs"]})
    start = journal.events(trial=k)[-1].t_ms + 20_000 * k  # one after the other
    for epoch, loss in zip([0] if simple else epochs, made.losses, strict=True):
        metrics = {about["metric"]: loss, **made.metrics}
        journal.add_result(k, epoch, metrics, t_ms=start + 1000 * epoch)
    if made.reason is not None:
        journal.set_state(k, "ended", reason=made.reason, detail=made.detail)
    if made.test is not None:
        look = {"label": made.label or "best", "metrics": {about["test_metric"]: made.test}}
        journal.add_event("test", k, look)
