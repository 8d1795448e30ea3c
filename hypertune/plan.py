"""What a run would do, without doing it."""

import contextlib
import io
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from hypertune.core.errors import SettingError, describe, user_code
from hypertune.core.space import Config
from hypertune.core.task import Task, TrialEnded
from hypertune.core.text import redact
from hypertune.engine import (
    capacity,
    cpus_here,
    load_data,
    planned_epochs,
    planned_repeats,
    prepare,
    usable_folder,
)
from hypertune.settings import Settings
from hypertune.studies.constraints import Constraints
from hypertune.studies.study import Study
from hypertune.tasks.process_state import process_state_kept
from hypertune.tasks.torch.loop import use_threads
from hypertune.tasks.user_code import OwnLoop, ended, saves

_N_FEASIBLE = 50  # random configs that are held against the constraints
_START_S = 25.0  # Ray, workers and records, on two cores
_PROCESS_S = 4.0  # from the end of a job to the first epoch in a new process, on two cores


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What three short trials took.

    Attributes:
        epoch_s: Seconds an epoch, of each.
        checkpoint_bytes: Size of the largest of their checkpoints.
        total_s: What the whole search is expected to take.
    """

    epoch_s: Sequence[float]
    checkpoint_bytes: int
    total_s: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    Attributes:
        parameters: Name and range of each parameter.
        n_configs: Distinct configs in the space; None if there are infinitely many.
        feasible: Share of random configs that break no constraint.
        n_trials, max_epochs, n_epochs: The budget; epochs in all, if no trial converges early.
        n_again: Epochs besides, of the default and of runs on fresh seeds, at most.
        n_repeated: Epochs besides, where promoted trials train again from the start.
        fresh_s: Seconds a job that the start of a process of its own costs; None where workers run
            one job after another.
        n_concurrent: Trials at a time, by what this machine has.
        folder, store: Where records go.
        free_bytes: Space left there.
        probe: Measured cost, where asked for.
        note: What was taken from an earlier study.
    """

    parameters: Sequence[tuple[str, str]]
    n_configs: int | None
    feasible: float
    n_trials: int
    max_epochs: int
    n_epochs: int
    n_again: int
    n_repeated: int
    fresh_s: float | None
    n_concurrent: int
    folder: Path
    store: str
    free_bytes: int
    probe: Probe | None
    note: str = ""


def make_plan(study: Study, settings: Settings, *, probe: bool) -> Plan:
    """Return what `run` would do with the same arguments; with ``probe``, train three trials a bit.

    Raises:
        SettingError: `run` would not start.
    """
    prepared = prepare(study, settings)
    study, search = prepared.study, prepared.search
    space, n_trials = study.search_space, search.n_trials or 0
    n_epochs = planned_epochs(search)
    n_repeated = 0 if saves(study.trainable) else planned_epochs(search, saves=False) - n_epochs
    n_again = planned_repeats(study, settings)
    cpus = cpus_here()
    here = {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        here = {"CPU": 1e6, "GPU": 1e6}  # what that Ray has shows when it is joined
        settings = replace(settings, n_concurrent=settings.n_concurrent or cpus)
    n_concurrent = capacity(settings, [here], n_trials)
    folder = usable_folder(study.name, settings)
    root = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return Plan(
        parameters=[(p.key, p.rule()) for p in space.parameters],
        n_configs=space.n_configs,
        feasible=_feasible(study, settings.seed),
        n_trials=n_trials,
        max_epochs=study.max_epochs,
        n_epochs=n_epochs,
        n_again=n_again,
        n_repeated=n_repeated,
        fresh_s=_PROCESS_S if settings.fresh_workers else None,
        n_concurrent=n_concurrent,
        folder=folder,
        store=redact(settings.store),
        free_bytes=shutil.disk_usage(root).free,
        probe=(
            _probe(study, settings, n_epochs + n_repeated + n_again, n_concurrent)
            if probe
            else None
        ),
        note=prepared.warm.text if prepared.warm is not None else "",
    )


def _feasible(study: Study, seed: int) -> float:
    """Return which share of random configs may be tried."""
    rules, space, rng = Constraints(study), study.search_space, np.random.default_rng(seed)
    n = _N_FEASIBLE if study.constraints else 1
    return sum(rules.hold(space.nest(space.sample(rng))) for _ in range(n)) / n


def _probe(study: Study, settings: Settings, n_epochs: int, n_concurrent: int) -> Probe:
    """Train the default and two random configs for two epochs each; the second one is timed."""
    use_threads(max(1, int(settings.cpus_per_trial)))
    data = load_data(study)
    space, rng = study.search_space, np.random.default_rng(settings.seed)
    rules = Constraints(study)
    samples = (space.nest(space.sample(rng)) for _ in range(_N_FEASIBLE))
    configs = [dict(study.default), *itertools.islice(filter(rules.hold, samples), 2)]
    seconds, size = [], 0
    for searched in configs:
        config = {**study.config(searched, seed=settings.seed), "device": "cpu"}
        # A trial prints what it likes; here that would come between the lines of the plan.
        silent = contextlib.redirect_stdout(io.StringIO())
        with process_state_kept(), silent, contextlib.redirect_stderr(io.StringIO()):
            try:
                with user_code():
                    took, n_bytes = _probed(study, config, data)
            except Exception as error:
                raise SettingError(
                    f"The probe failed with {searched}: {describe(error)}"
                ) from error
        seconds.append(took)
        size = max(size, n_bytes)
    mean = sum(seconds) / len(seconds)
    return Probe(
        epoch_s=seconds,
        checkpoint_bytes=size,
        total_s=_START_S + mean * n_epochs / n_concurrent,
    )


def _probed(study: Study, config: Config, data: Any) -> tuple[float, int]:
    """Train a trial for two epochs; return what the second took, and the size of a checkpoint."""
    task: Task = study.trainable
    loop = task.start(config, data, metric=study.metric, mode=study.mode)
    with ended(loop):
        # A config that diverges is not the probe's business: the search will record it.
        for _ in range(2):
            start = time.perf_counter()
            with contextlib.suppress(ArithmeticError, TrialEnded):
                loop.step()
        seconds = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            if not (isinstance(loop, OwnLoop) and loop.saves == "never"):
                loop.save(Path(folder))
            return seconds, sum(f.stat().st_size for f in Path(folder).rglob("*"))
