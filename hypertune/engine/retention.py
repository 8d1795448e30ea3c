"""The checkpoints of a study's trials, and how much room they take."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hypertune.core.storage import below, drop, is_bucket, listed, n_bytes
from hypertune.journal.snapshot import study_place
from hypertune.tasks.checkpoint import newest_checkpoint


def checkpoint_root(folder: Path, storage: str | None, study_id: str) -> str:
    """Return where the checkpoints of a study lie.

    Args:
        folder: The study's.
        storage: What all nodes reach, where that is another one.
        study_id: Two studies of one name may meet there.
    """
    if storage is None:
        return str(folder.resolve() / "checkpoints")
    return below(study_place(storage, folder.name, study_id), "checkpoints")


_SCRATCH = "ray-"


class Checkpoints:
    """Checkpoints of a study, a place a trial.

    Args:
        root: Where they lie: a folder, or the URI of one in a bucket.
        budget_bytes: How much they may take in all.
    """

    def __init__(self, root: str, budget_bytes: float) -> None:
        self.root = root
        self._budget = budget_bytes
        self._bytes: dict[int, int] = {}
        for name in listed(root):
            if name.startswith("trial-"):
                self.weigh(int(name.removeprefix("trial-")))

    def scratch(self) -> "tempfile.TemporaryDirectory[str]":
        """Return a folder for Ray's own checkpoints: beside the trials', unless in a bucket."""
        if is_bucket(self.root):
            return tempfile.TemporaryDirectory(prefix=_SCRATCH)
        Path(self.root).mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self.root)

    def clear(self) -> None:
        """Delete what a process that was killed has left behind."""
        if is_bucket(self.root):
            return
        for path in Path(self.root).glob("hang-*.txt"):
            path.unlink(missing_ok=True)
        for path in Path(self.root).glob(f"{_SCRATCH}*"):
            shutil.rmtree(path, ignore_errors=True)

    def place(self, trial: int) -> str:
        """Return the place of a trial's."""
        return below(self.root, f"trial-{trial:03d}")

    def newest(self, trial: int, up_to: int) -> tuple[int, str] | None:
        """Return a trial's newest checkpoint not beyond an epoch, with its epoch."""
        return newest_checkpoint(self.place(trial), up_to)

    def weigh(self, trial: int) -> None:
        """Take note of how much room a trial takes now."""
        self._bytes[trial] = n_bytes(self.place(trial))

    @property
    def too_many(self) -> bool:
        """They take more room than they may."""
        return sum(self._bytes.values()) > self._budget

    def drop(self, trial: int) -> None:
        """Delete a trial's."""
        drop(self.place(trial))
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
