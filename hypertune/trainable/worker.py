"""The worker's side: an actor that Ray Tune keeps warm and hands one job after another."""

import contextlib
import errno
import faulthandler
import math
import os
import shutil
import subprocess
import tempfile
import time
import traceback
import uuid
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import ray
import torch
from ray import tune

from hypertune.errors import nearest
from hypertune.space import Config
from hypertune.study import Loop, Task, TrialEnded
from hypertune.trainable.checkpoint import fetch_checkpoint, is_bucket, write_checkpoint
from hypertune.trainable.guard import MARK, start_guard
from hypertune.trainable.loop import use_threads
from hypertune.trainable.own import OwnLoop, OwnTask, Saves

_SAVE_EVERY_S = 30.0
_REPORT_EVERY_S = 0.5


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
        test_data: Reference to the test part: do not train, but judge the checkpoint's best epoch
            on it. None while the search is under way.
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
    test_data: ray.ObjectRef | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as Ray Tune wants a trial's config."""
        return {"job": {f.name: getattr(self, f.name) for f in fields(self)}}


class Worker(tune.Trainable):
    """Runs jobs; a step trains an epoch of the present one.

    No step raises: an exception would cost Ray the actor. What goes wrong in a trial is reported as
    ``failure``, and the next job begins with a new model.
    """

    def setup(self, config: dict[str, Any], task: Task, data: Any) -> None:
        self.task, self.data = task, data
        self.device = "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"
        self._hang: tuple[Path, TextIO] | None = None
        self._fetched: Path | None = None
        self._guard = _guard() if isinstance(task, OwnTask) else None
        self.loop: Loop | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._drop_loop()  # of a job that was cut short
        self.job = WorkerJob(**new_config["job"])
        self.saved_epoch, self.saved_at = 0, time.monotonic()
        return True

    def step(self) -> dict[str, Any]:
        """Train an epoch; or several, where they are so short that reports would hold them up."""
        begun, epochs = time.monotonic(), []
        while True:
            result = self._try()
            if {"epoch", "metrics"} <= result.keys():
                epochs.append(result)
            late = time.monotonic() - begun > _REPORT_EVERY_S
            if result["done"] or late:
                last = {"failure": None, "traceback": "", **result}
                return {**last, "epochs": epochs, "device": self.device}

    def _try(self) -> dict[str, Any]:
        try:
            self._watch()
            return self._epoch()
        except (Exception, SystemExit) as error:
            if "CUDA error" in str(error) and not isinstance(error, torch.OutOfMemoryError):
                os._exit(1)  # this process can use its GPU no more: let another one take over
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                # It is not the trial's fault, and would be the next one's as well.
                return self._failure(f"{error}") | {"disk_full": True}
            return self._failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        finally:
            faulthandler.cancel_dump_traceback_later()

    def cleanup(self) -> None:
        """Keep what was trained when the job is cut short, and leave no file behind."""
        if self.loop is not None and self.loop.epoch > self.saved_epoch:
            with contextlib.suppress(Exception):
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
            use_threads(job.n_threads)
            config = {**job.config, "device": self.device}
            self.loop = self.task.start(config, self.data, metric=job.metric, mode=job.mode)
            if job.checkpoint is not None:
                if is_bucket(job.checkpoint):  # a user's function may read it later: it stays
                    self._fetched = fetch_checkpoint(job.checkpoint)
                self.loop.load(self._fetched or Path(job.checkpoint))
                self.saved_epoch = self.loop.epoch
        if job.test_data is not None:
            return self._judge(self.loop, ray.get(job.test_data))
        try:
            metrics = {name: float(value) for name, value in self.loop.step().items()}
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
        epoch, converged = self.loop.epoch, self.loop.converged
        done = epoch >= job.to_epoch or converged
        if done or (
            _saves(self.loop) == "any time" and time.monotonic() - self.saved_at > _SAVE_EVERY_S
        ):
            self._save()
        if done:
            self._drop_loop()
        return {
            "epoch": epoch,
            "metrics": metrics,
            "t_ms": time.time_ns() // 1_000_000,
            "converged": converged,
            "done": done,
        }

    def _ended(self, loop: Loop) -> dict[str, Any]:
        """Return what is to be said of training that has ended by itself after its last epoch."""
        if loop.epoch > self.saved_epoch:
            self._save()
        self._drop_loop()
        return {"epoch": loop.epoch, "converged": True, "done": True}

    def _judge(self, loop: Loop, test_data: Any) -> dict[str, Any]:
        metrics = {name: float(value) for name, value in loop.test(test_data).items()}
        self._drop_loop()
        return {"metrics": metrics, "done": True}

    def _failure(self, text: str, lines: str = "") -> dict[str, Any]:
        self._drop_loop()
        return {"failure": text, "traceback": lines, "done": True}

    def _drop_loop(self) -> None:
        """Be done with the present loop. One that goes on outside of its steps is ended."""
        loop, self.loop = self.loop, None
        if isinstance(loop, OwnLoop):
            try:
                self._arm()
                loop.close()
            except Exception:
                traceback.print_exc()  # into the worker's log: what was trained is reported
            finally:
                faulthandler.cancel_dump_traceback_later()
        if self._fetched is not None:
            shutil.rmtree(self._fetched, ignore_errors=True)
            self._fetched = None

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


def hang_file(checkpoints: str, key: str) -> Path:
    """Return where the traceback of a job that hangs is written.

    Where checkpoints go to a bucket it stays on the worker's own disk, and is read if that is the
    driver's as well.
    """
    folder = tempfile.gettempdir() if is_bucket(checkpoints) else checkpoints
    return Path(folder, f"hang-{key}.txt")
