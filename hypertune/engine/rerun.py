"""Runs one trial of a study again, in this process, and sets the two side by side."""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hypertune.core.errors import SettingError, describe, trace_of, user_code
from hypertune.engine.copies import refuse_copy
from hypertune.engine.folder import locked, refuse_network
from hypertune.engine.prepare import load_data
from hypertune.engine.resume import RecordedStudy
from hypertune.journal.store import Journal, ResultRow
from hypertune.studies.study import Study
from hypertune.tasks.process_state import process_state_kept
from hypertune.tasks.torch.loop import use_threads
from hypertune.tasks.user_code import as_metrics, ended

Watcher = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A trial that was run again.

    Attributes:
        trial: Its id in the journal; its role is ``rerun``.
        of: The trial that it repeats.
        metric: The study's metric.
        n_epochs: Epochs trained.
        differs: First epoch at which a metric is not the same to the last digit; None if none is.
        same_seed: Whether the two should be the same.
        values: The metric at the last epoch: of the first run, and of this one.
        failure: Why it ended early, if it did.
        source_changed: Whether the study's file is not what it was when the study began.
    """

    trial: int
    of: int
    metric: str
    n_epochs: int
    differs: int | None
    same_seed: bool
    values: tuple[float, float]
    failure: str | None
    source_changed: bool


def rerun(
    folder: Path,
    trial: int,
    *,
    seed: int | None = None,
    space: str | Study | None = None,
    watch: Watcher = lambda epoch, metrics: None,
) -> Rerun:
    """Train a trial again, as far as it got, and journal it.

    Args:
        folder: The study's folder.
        trial: Its id.
        seed: Another one than its own.
        space: The study, its name or its file, where that has moved.
        watch: Called with each epoch and its metrics.

    Raises:
        HypertuneError: There is no such trial, or the study is not what it was.
    """
    refuse_network(folder)
    with locked(folder):
        refuse_copy(folder)
        recorded = RecordedStudy.read(folder)
        row = recorded.trial(trial)
        before = {r.epoch: r for r in row.results.values() if r.epoch > 0}
        if not before:
            raise SettingError(
                f"Trial {trial} of '{folder.name}' was not trained for an epoch: there is nothing "
                "to compare with."
            )
        if row.mutations:
            raise SettingError(
                f"Trial {trial} of '{folder.name}' went on with other trials' states and configs: "
                "it cannot be run again by itself."
            )
        study, settings = recorded.settled(space, {})
        data = load_data(study)
        new_id = 1 + max(recorded.history.trials)
        used = row.seed if seed is None else seed
        use_threads(max(1, int(settings.cpus_per_trial)))
        gpu = settings.gpus_per_trial > 0 and torch.cuda.is_available()
        config = study.config(study.from_record(row.config), seed=used)
        config["device"] = "cuda" if gpu else "cpu"
        with closing(Journal(folder / "journal.db")) as journal:
            label = f"rerun of {trial}" + ("" if used == row.seed else f", seed {used}")
            journal.add_trial(
                new_id, row.config, seed=used, repeat=row.repeat, role="rerun", label=label
            )
            journal.set_state(new_id, "running")
            failure = None
            try:
                with process_state_kept(), user_code():
                    loop = study.trainable.start(config, data, metric=study.metric, mode=study.mode)
                    with ended(loop):
                        while loop.epoch < max(before):
                            metrics = as_metrics(loop.step())
                            journal.add_result(new_id, loop.epoch, metrics)
                            watch(loop.epoch, metrics)
            except Exception as error:
                failure = describe(error)
                detail = f"{failure}\n{trace_of(error)}"
                journal.set_state(new_id, "ended", reason="failed", detail=detail)
            except BaseException:
                journal.set_state(new_id, "ended", reason="interrupted", detail="by signal")
                raise
            else:
                whole = row.reason if row.full else "stopped"
                journal.set_state(new_id, "ended", reason=whole, detail=f"as trial {trial}")
            after = {r.epoch: r for r in journal.results(trial=new_id)}
    last = max(after, default=0)
    return Rerun(
        trial=new_id,
        of=trial,
        metric=study.metric,
        n_epochs=len(after),
        differs=_first_difference(before, after),
        same_seed=used == row.seed,
        values=(_value(before, last, study.metric), _value(after, last, study.metric)),
        failure=failure,
        source_changed=recorded.source_changed,
    )


def _first_difference(
    before: Mapping[int, ResultRow], after: Mapping[int, ResultRow]
) -> int | None:
    def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        return a.keys() == b.keys() and all(
            a[key] == b[key] or (math.isnan(a[key]) and math.isnan(b[key])) for key in a
        )

    epochs = [e for e in sorted(after) if not same(before[e].metrics, after[e].metrics)]
    return epochs[0] if epochs else None


def _value(rows: Mapping[int, ResultRow], epoch: int, metric: str) -> float:
    return rows[epoch].metrics.get(metric, math.nan) if epoch in rows else math.nan
