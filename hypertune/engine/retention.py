"""The checkpoints of a study's trials: how much room they take, and which ones are kept."""

import shutil
import tempfile
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from hypertune.core.storage import below, drop, is_bucket, listed, n_bytes
from hypertune.engine.ledger import Ledger
from hypertune.engine.phases import Plan
from hypertune.journal.recommendation import recommended
from hypertune.journal.snapshot import study_place
from hypertune.search import Search, Trial
from hypertune.search.candidates import candidates, ranked
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
_KEPT = 20  # checkpoints of a finished study


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


class Retention:
    """Decides which checkpoints are kept while a study runs, and at its end.

    Args:
        checkpoints: Those of the study.
        search: The search.
        ledger: What is known of the study.
        plan: What was asked for.
        ids: The searched trials' ids by their numbers. It grows as the study goes on.
        mutated: The trials whose config was changed on the way. It grows as well.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        search: Search,
        ledger: Ledger,
        plan: Plan,
        *,
        ids: Sequence[int],
        mutated: Container[int],
    ) -> None:
        self.checkpoints = checkpoints
        self._search, self._ledger, self._plan = search, ledger, plan
        self._ids, self._mutated = ids, mutated
        self._kept: set[int] = set()  # numbers of the trials in full whose checkpoints are kept

    def restore(self) -> None:
        """Take up a study that has begun."""
        self._kept = {trial.number for trial in self._search.trials if trial.full}

    def weigh(self, trial: int) -> None:
        """Take note of a trial's checkpoint, and delete others where all take too much."""
        self.checkpoints.weigh(trial)
        if self.checkpoints.too_many:
            # A trial that lost its checkpoint trains again when it is promoted after all.
            self.checkpoints.trim(self._ids[t.number] for t in reversed(self._promising()))

    def ended_in_full(self, number: int) -> None:
        """Keep the checkpoints of full trials that may be recommended, and the default's."""
        full = self._kept | {number}
        self._kept = self._worth_keeping(full)
        for dropped in full - self._kept:
            self.checkpoints.drop(self._ids[dropped])

    def study_ended(self) -> None:
        """Keep what an extension would go on from, and what may be loaded or judged."""
        history = self._ledger.history
        kept = {self._ids[trial.number] for trial in self._promising()[:_KEPT]}
        kept |= {self._ids[number] for number in self._worth_keeping(self._kept)}
        default = history.baseline("default")
        kept |= {*self._ids[:1], *([] if default is None else [default.id])}
        if (best := recommended(history)) is not None:
            kept |= set(best.losses)
        self.checkpoints.keep(kept)

    def drop_stopped(self) -> None:
        """Delete those of trials that were stopped."""
        for trial in self._search.trials:
            if trial.reason == "stopped":
                self.checkpoints.drop(self._ids[trial.number])

    def _promising(self) -> list[Trial]:
        """Return the trials that may go on, those first that got furthest and were best."""
        left = [t for t in self._search.trials if t.losses and t.reason in (None, "stopped")]
        waiting = [t for t in left if not t.running]
        return sorted(waiting, key=lambda t: (-t.epoch, t.best[t.epoch], t.number))

    def _worth_keeping(self, numbers: set[int]) -> set[int]:
        """Return those of some trials in full that may be recommended, and the default.

        One that is beaten will always be: earlier ones that were given up are not looked at again.
        """
        trials = [self._search.trials[number] for number in numbers]
        unchanged = [t for t in trials if self._ids[t.number] not in self._mutated]
        chosen = candidates(unchanged, self._search.space, self._plan.factors)
        best = [*chosen.values(), *ranked(trials)[:1]]  # changed or not
        return numbers & {0, *(trial.number for trial in best)}
