"""The worker's side: an actor that Ray Tune keeps warm and hands one job after another."""

import contextlib
import errno
import faulthandler
import io
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.result import TRAINING_ITERATION

from hypertune.core.errors import describe, nearest, trace_of
from hypertune.core.local_modules import LocalModules
from hypertune.core.space import Config
from hypertune.core.storage import drop, is_bucket
from hypertune.core.task import Loop, Task, TrialEnded
from hypertune.tasks.checkpoint import (
    DamagedError,
    check_sealed,
    checkpoint_epoch,
    fetch_checkpoint,
    newest_checkpoint,
    seal,
    write_checkpoint,
)
from hypertune.tasks.guard import MARK, start_guard
from hypertune.tasks.process_state import ProcessState
from hypertune.tasks.torch.diagnose import Diagnostician
from hypertune.tasks.torch.histograms import Histograms
from hypertune.tasks.torch.loop import Predictions, TensorLoop, use_threads
from hypertune.tasks.user_code import OwnLoop, OwnTask, Saves, as_metrics

_SAVE_EVERY_S = 30.0
_REPORT_EVERY_S = 0.5
_FINISH_S = 0.5
"""So long a user's code may take after its last epoch before the latter is reported alone."""
JOB = "hypertune job"
"""Where a Ray trial's config has the job; there is more in it only for schedulers of Ray's."""
_UNSAVED = "not-saved.txt"


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """What a worker is told: plain values only.

    Attributes:
        key: Names this job alone.
        trial: The trial's id in the journal.
        config: Its whole config.
        to_epoch: The epoch that this job ends after.
        checkpoint: Place of the one to go on from; None to begin anew.
        folder: Place for the trial's checkpoints.
        metric, mode: What the search goes by.
        timeout_s: Seconds that an epoch may take.
        n_threads: Threads to compute on.
        bundle: What it occupies of a node, by Ray's names.
        test_data: Reference to the test part: do not train, but judge the checkpoint's best epoch
            on it. None while the search is under way.
        diagnose: Look inside the model after each epoch, and say what is wrong with it.
        histograms: Folder and ending of names for TensorBoard's histograms; None for none.
        predictions: File for the model's predictions on the test part, which is opened only once.
        by_epoch: Report every epoch alone, its metrics at the top of the result, as schedulers of
            Ray's expect it.
    """

    key: str
    trial: int
    config: Config
    to_epoch: int
    checkpoint: str | None
    folder: str
    metric: str
    mode: str
    timeout_s: float
    n_threads: int
    bundle: Mapping[str, float]
    test_data: ray.ObjectRef | None = None
    predictions: str | None = None
    diagnose: bool = False
    histograms: tuple[str, str] | None = None
    by_epoch: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as Ray Tune wants a trial's config."""
        return {JOB: {f.name: getattr(self, f.name) for f in fields(self)}}


class Worker(tune.Trainable):
    """Runs jobs; a step trains an epoch of the present one.

    No step raises: an exception would cost Ray the actor. What goes wrong in a trial is reported as
    ``failure``, and the next job begins with a new model, in a process whose state is put back.
    """

    def setup(
        self, config: dict[str, Any], task: Task, data: Any, modules: LocalModules | None = None
    ) -> None:
        if modules is not None:
            modules.install()
        self.task, self.data = task, data
        self.device = "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"
        self._hang: tuple[Path, TextIO] | None = None
        self._fetched: Path | None = None
        self._guard = _guard() if isinstance(task, OwnTask) else None
        self.loop: Loop | None = None
        self.inside: Diagnostician | None = None
        self.histograms: Histograms | None = None
        self._state = ProcessState()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._drop_loop()  # of a job that was cut short
        if self.device == "cuda":
            torch.cuda.empty_cache()  # others may share this GPU
        self.job = WorkerJob(**new_config[JOB])
        # What a user's own code records elsewhere may say whose it is.
        study = Path(self.job.folder).parents[1].name
        os.environ |= {"HYPERTUNE_STUDY": study, "HYPERTUNE_TRIAL": str(self.job.trial)}
        self.saved_epoch, self.saved_at = 0, time.monotonic()
        self._unloaded: dict[str, Any] | None = None
        self._checkpoint = self.job.checkpoint
        self._reached = 0  # epochs that are trained once more, since their checkpoint was damaged
        self._finishing = False
        return True

    def step(self) -> dict[str, Any]:
        """Train an epoch; or several, where they are so short that reports would hold them up."""
        begun, epochs, damaged = time.monotonic(), [], []
        while True:
            result = self._try()
            damaged += result.pop("damaged", [])
            if {"epoch", "metrics"} <= result.keys():
                epochs.append(result)
            due = bool(damaged) or self._finishing or time.monotonic() - begun > _REPORT_EVERY_S
            if self.job.by_epoch:
                due = "metrics" in result
            if result["done"] or due:
                last = {"failure": None, "traceback": "", **result, "damaged": damaged}
                return {**self._at_top(result), **last, "epochs": epochs, "device": self.device}

    def _at_top(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return what schedulers of Ray's read."""
        if not (self.job.by_epoch and "epoch" in result):
            return {}
        return {**result.get("metrics", {}), TRAINING_ITERATION: result["epoch"]}

    def _try(self) -> dict[str, Any]:
        if self._unloaded is not None:
            return self._unloaded
        try:
            self._watch()
            return self._epoch()
        except BaseException as error:
            if _is_of_ray(error):
                raise
            return self._failed(error)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _failed(self, error: BaseException) -> dict[str, Any]:
        """Return what is to be said of anything that a trial raised."""
        text = describe(error)
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if "CUDA error" in text and not out_of_memory:
            os._exit(1)  # this process can use its GPU no more: let another one take over
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            # It is not the trial's fault, and would be the next one's as well.
            return self._failure(os.strerror(error.errno)) | {"disk_full": True}
        failure = self._failure(text, trace_of(error))
        return failure | {"out_of_memory": True} if out_of_memory else failure

    def cleanup(self) -> None:
        """Keep what was trained when the job is cut short, and leave no file behind."""
        if self.loop is not None and self.loop.epoch > self.saved_epoch:
            with contextlib.suppress(BaseException):
                self._save()
        self._drop_loop()
        self._drop_hang_file()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            os.environ.pop(MARK, None)

    def _epoch(self) -> dict[str, Any]:
        job = self.job
        if job.test_data is not None and job.checkpoint is None:
            return self._failure("there is no checkpoint to judge")
        if self.loop is None:
            try:
                self._begin(self._take_checkpoint())
            except DamagedError as damage:
                return self._go_back(damage)
            assert self.loop is not None
        if self._finishing:
            return self._finish(self.loop, {"epoch": self.loop.epoch, "converged": False}, None)
        if self.loop.epoch < self._reached:
            return self._train_again(self.loop)
        if job.test_data is not None:
            return self._judge(self.loop, ray.get(job.test_data))
        try:
            metrics = as_metrics(self.loop.step())
        except TrialEnded:
            return self._ended(self.loop)
        if job.metric not in metrics:
            known = ", ".join(metrics) or "nothing"
            if near := nearest(job.metric, list(metrics)):
                known += f".{near}"
            return self._failure(f"the metric '{job.metric}' was not reported, but {known}")
        if not math.isfinite(metrics[job.metric]):
            value, epoch = metrics[job.metric], self.loop.epoch
            return self._failure(f"{job.metric} is {value} in epoch {epoch}")
        diagnosis = self._look_inside()
        if self.histograms is not None:
            self.histograms.write()
        epoch, converged = self.loop.epoch, bool(self.loop.converged)
        done = epoch >= job.to_epoch or converged
        if done or (
            _saves(self.loop) == "any time" and time.monotonic() - self.saved_at > _SAVE_EVERY_S
        ):
            self._save()
        result = {
            "epoch": epoch,
            "metrics": metrics,
            "t_ms": time.time_ns() // 1_000_000,
            "converged": converged,
            "done": done,
            **diagnosis,
        }
        if done and epoch >= job.config.get("max_epochs", math.inf):
            return self._finish(self.loop, result, None if job.by_epoch else _FINISH_S)
        return result | self._close() if done else result

    def _finish(self, loop: Loop, result: dict[str, Any], wait_s: float | None) -> dict[str, Any]:
        """Let a user's code run on after the last epoch of a trial in full.

        What becomes of it changes no result. They are reported first where it takes its time.
        """
        note = ""
        if isinstance(loop, OwnLoop):
            try:
                self._finishing = not loop.finish(wait_s)
                if self._finishing:
                    return result | {"done": False}
                note = loop.note
            except BaseException as error:
                if _is_of_ray(error):
                    raise
                self._finishing = False
                note = f"after the last epoch it raised {describe(error)}\n{trace_of(error)}"
        closed = self._close()
        notes = [text for text in (note, closed["note"]) if text]
        return result | closed | {"done": True, "note": "; ".join(notes)}

    def _close(self) -> dict[str, Any]:
        """End the present loop in good order; return what is to be said of that."""
        return {"note": self._drop_loop(), "left": self._left_behind()}

    def _left_behind(self) -> dict[str, list[str]]:
        """Return what a trial has left in this process that cannot be ended or put back."""
        found = {"threads": self._state.new_threads(), "not_put_back": self._not_put_back}
        return {name: values for name, values in found.items() if values}

    # ---- checkpoints ----

    def _take_checkpoint(self) -> Path | None:
        """Return a folder with the files of the checkpoint to go on from; None to begin anew."""
        if self._checkpoint is None:
            return None
        if is_bucket(self._checkpoint):
            self._fetched = fetch_checkpoint(self._checkpoint)  # it may be read while training
            return self._fetched
        check_sealed(Path(self._checkpoint))
        return Path(self._checkpoint)

    def _go_back(self, damage: DamagedError) -> dict[str, Any]:
        """Give a damaged checkpoint up: the one before is next, or the trial begins anew."""
        epoch = checkpoint_epoch(damage.place)
        self._reached = max(self._reached, epoch)
        drop(damage.place)
        before = newest_checkpoint(self.job.folder, up_to=epoch - 1)
        self._checkpoint = before[1] if before else None
        return {"done": False, "damaged": [{"epoch": epoch, "text": str(damage)}]}

    def _train_again(self, loop: Loop) -> dict[str, Any]:
        """Train an epoch that was reported before, up to the one of the damaged checkpoint.

        There the trial goes on as it would have: from a checkpoint.
        """
        try:
            loop.step()
        except TrialEnded:
            self._reached = loop.epoch
        if loop.epoch >= self._reached:
            self._save()
            saved = newest_checkpoint(self.job.folder, up_to=loop.epoch)
            self._checkpoint, self._reached = saved[1] if saved else None, 0
            self._drop_loop()
        return {"done": False}

    def _look_inside(self) -> dict[str, Any]:
        if self.inside is None:
            return {}
        try:
            return {"diagnosis": self.inside.look().plain()}
        except Exception as error:  # a model may do what hooks cannot follow, and still train
            _log(error)
            self.inside = None
            text = f"no look inside was possible: {describe(error)}"
            return {"diagnosis": {"epoch": self.job.to_epoch, "layers": [], "findings": [text]}}

    def _begin(self, checkpoint: Path | None) -> None:
        job = self.job
        use_threads(job.n_threads)
        config = {**job.config, "device": self.device}
        self.loop = self.task.start(config, self.data, metric=job.metric, mode=job.mode)
        if checkpoint is not None:
            self.loop.load(checkpoint)
            self.saved_epoch = self.loop.epoch
        if isinstance(self.loop, TensorLoop) and job.test_data is None:
            if job.histograms is not None:
                folder, suffix = job.histograms
                self.histograms = Histograms(self.loop, Path(folder), suffix)
            if job.diagnose:
                self.inside = Diagnostician(self.loop)
                self._look_inside()

    # ---- for schedulers of Ray's, which pause a trial, or hand its state to another one ----

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save the trial where Ray wants it. A failure is kept for whoever loads it."""
        folder = Path(checkpoint_dir)
        try:
            self._arm()
            if self.loop is None or _saves(self.loop) != "any time":
                raise RuntimeError("the trainable saves no checkpoint: its trial cannot be paused")
            part = folder / "state"
            part.mkdir()
            self.loop.save(part)
            seal(part)
        except BaseException as error:
            if _is_of_ray(error):
                raise
            text = describe(error).encode(errors="backslashreplace")
            (folder / _UNSAVED).write_bytes(text)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def load_checkpoint(self, checkpoint: str) -> None:
        """Begin with what `save_checkpoint` wrote. A failure is reported by the next step."""
        folder = Path(checkpoint)
        try:
            self._drop_loop()
            self._watch()
            if (unsaved := folder / _UNSAVED).is_file():
                text = unsaved.read_text(errors="replace")
                raise RuntimeError(f"its checkpoint was not saved: {text}")
            check_sealed(folder / "state")
            self._begin(folder / "state")
        except BaseException as error:
            if _is_of_ray(error):
                raise
            self._unloaded = self._failure(describe(error), trace_of(error))
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _ended(self, loop: Loop) -> dict[str, Any]:
        """Return what is to be said of training that has ended by itself after its last epoch."""
        if loop.epoch > self.saved_epoch:
            self._save()
        return {"epoch": loop.epoch, "converged": True, "done": True, **self._close()}

    def _judge(self, loop: Loop, test_data: Any) -> dict[str, Any]:
        metrics = as_metrics(loop.test(test_data))
        predictions = loop.predictions if isinstance(loop, TensorLoop | OwnLoop) else {}
        if predictions and self.job.predictions is not None:
            try:
                save_predictions(Path(self.job.predictions), predictions)
            except OSError as error:  # pictures alone depend on it
                _log(error)
        return {"metrics": metrics, "done": True, **self._close()}

    def _failure(self, text: str, lines: str = "") -> dict[str, Any]:
        findings: list[str] = []
        if self.inside is not None:
            with contextlib.suppress(Exception):  # it looks into the user's model
                findings = self.inside.after_failure()
        if findings:
            text += f"; diagnosis: {'; '.join(findings)}"
        left = self._close()["left"]
        failure = {"failure": text, "traceback": lines, "done": True}
        return failure | {"findings": findings, "left": left}

    def _drop_loop(self) -> str:
        """Be done with the present loop, and put back what it changed in this process.

        One that goes on outside of its steps is ended.

        Returns:
            What is to be said of its end; nothing if all went well.
        """
        loop, self.loop, self.inside, note = self.loop, None, None, ""
        if self.histograms is not None:
            self.histograms.close()
            self.histograms = None
        if isinstance(loop, OwnLoop):
            try:
                self._arm()
                loop.close()
            except BaseException as error:
                if _is_of_ray(error):
                    raise
                note = f"close() raised {describe(error)}"  # what was trained is reported
                _log(error)
            finally:
                faulthandler.cancel_dump_traceback_later()
        if self._fetched is not None:
            shutil.rmtree(self._fetched, ignore_errors=True)
            self._fetched = None
        self._not_put_back = self._state.put_back()
        return note

    def _save(self) -> None:
        assert self.loop is not None
        if _saves(self.loop) == "never":
            return
        write_checkpoint(self.job.folder, self.loop.epoch, self.loop.save)
        self.saved_epoch, self.saved_at = self.loop.epoch, time.monotonic()

    def _drop_hang_file(self) -> None:
        if self._hang is not None:
            path, file = self._hang
            file.close()
            path.unlink(missing_ok=True)
            self._hang = None

    def _watch(self) -> None:
        """End this process, with a traceback in a file, if the step that follows hangs.

        A thread of C code watches, so that it works even where Python itself is stuck.
        """
        if self.loop is None:
            self._drop_hang_file()
            path = hang_file(self.job.folder.rpartition("/")[0], self.job.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._hang = path, path.open("w")
        self._arm()

    def _arm(self) -> None:
        assert self._hang is not None
        faulthandler.dump_traceback_later(self.job.timeout_s, exit=True, file=self._hang[1])


def _is_of_ray(error: BaseException) -> bool:
    """Say whether it is how Ray ends this process: by SIGTERM, wherever the main thread is.

    A Ctrl-C never gets here: Ray's processes block SIGINT. A KeyboardInterrupt is the user's own.
    """
    return hasattr(error, "ray_terminate_msg")


def _log(error: BaseException) -> None:
    """Write a traceback into the worker's log, if that is still open."""
    with contextlib.suppress(Exception):
        sys.stderr.write(trace_of(error))


def _guard() -> "subprocess.Popen[bytes]":
    """Have what a user's own code has begun ended with this process.

    Ray takes a worker for alive as long as a process that it has forked is.
    """
    mark = uuid.uuid4().hex
    is_leader = os.getpgid(0) == os.getpid()  # else the group is not ours alone
    guard = start_guard(os.getpid() if is_leader else 0, mark)
    os.environ[MARK] = mark
    return guard


def _saves(loop: Loop) -> Saves:
    return loop.saves if isinstance(loop, OwnLoop) else "any time"


def save_predictions(file: Path, predictions: Mapping[str, Predictions]) -> None:
    """Write what a model said of the test sets: arrays as ``<test set>/<name>``."""
    arrays = {
        f"{part}/{name}": array
        for part, found in predictions.items()
        for name, array in found.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = io.BytesIO()
    np.savez_compressed(whole, **arrays)  # type: ignore[arg-type]
    aside = file.with_suffix(".part")
    aside.write_bytes(whole.getvalue())
    aside.replace(file)


def hang_file(checkpoints: str, key: str) -> Path:
    """Return where the traceback of a job that hangs is written.

    Where checkpoints go to a bucket it stays on the worker's own disk, and is read if that is the
    driver's as well.
    """
    folder = tempfile.gettempdir() if is_bucket(checkpoints) else checkpoints
    return Path(folder, f"hang-{key}.txt")
