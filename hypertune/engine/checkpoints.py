"""The checkpoints of a study's trials, and how much room they take."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hypertune.trainable.worker import newest_checkpoint

_SCRATCH = "ray-"


class Checkpoints:
    """Checkpoints on disk, a folder a trial.

    Args:
        folder: Where they lie.
        budget_bytes: How much they may take in all.
    """

    def __init__(self, folder: Path, budget_bytes: float) -> None:
        self.root = folder
        self._budget = budget_bytes
        self._bytes: dict[int, int] = {}
        for path in folder.glob("trial-*"):
            self.weigh(int(path.name.removeprefix("trial-")))

    def scratch(self) -> "tempfile.TemporaryDirectory[str]":
        """Return a folder for Ray's own checkpoints, beside the trials'."""
        self.root.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self.root)

    def clear(self) -> None:
        """Delete what a process that was killed has left behind."""
        for path in self.root.glob("hang-*.txt"):
            path.unlink(missing_ok=True)
        for path in self.root.glob(f"{_SCRATCH}*"):
            shutil.rmtree(path, ignore_errors=True)

    def folder(self, trial: int) -> Path:
        """Return the folder of a trial."""
        return self.root / f"trial-{trial:03d}"

    def newest(self, trial: int, up_to: int) -> tuple[int, Path] | None:
        """Return a trial's newest checkpoint not beyond an epoch, with its epoch."""
        return newest_checkpoint(self.folder(trial), up_to)

    def weigh(self, trial: int) -> None:
        """Take note of how much room a trial takes now."""
        files = self.folder(trial).rglob("*")
        self._bytes[trial] = sum(path.stat().st_size for path in files if path.is_file())

    @property
    def too_many(self) -> bool:
        """They take more room than they may."""
        return sum(self._bytes.values()) > self._budget

    def drop(self, trial: int) -> None:
        """Delete a trial's."""
        shutil.rmtree(self.folder(trial), ignore_errors=True)
        self._bytes.pop(trial, None)

    def trim(self, dispensable: Iterable[int]) -> None:
        """Delete those of the first ones of some trials, until the others fit."""
        for trial in dispensable:
            if not self.too_many:
                return
            self.drop(trial)

    def keep(self, trials: set[int]) -> None:
        """Delete those of all other trials."""
        for trial in self._bytes.keys() - trials:
            self.drop(trial)
