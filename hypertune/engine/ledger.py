"""The one writer of a study's journal while the study runs."""

from collections.abc import Mapping
from typing import Any

from hypertune.core.space import Config
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import Journal


class Ledger:
    """Writes what happens in a study, and gives back what is known of it.

    Args:
        journal: Where it is written.
        seed: That of the study.
        fixed: What every trial's config holds besides the searched values.
    """

    def __init__(self, journal: Journal, *, seed: int, fixed: Mapping[str, Any]) -> None:
        self.journal = journal
        self._seed, self._fixed = seed, fixed
        self._history = StudyHistory.read(journal)
        self._next_id = max(self._history.trials, default=-1) + 1
        self._is_new = False
        self.n_writes = 0

    @property
    def history(self) -> StudyHistory:
        """All that is known of the study by now."""
        if self._is_new:
            self._history.refresh(self.journal)
            self._is_new = False
        return self._history

    def seed(self, repeat: int) -> int:
        """Return the seed of a repeat: the same one for every config."""
        return self._seed + repeat

    def add_trial(
        self,
        config: Config,
        *,
        role: str,
        label: str = "",
        repeat: int = 0,
        proposal: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a trial, and return its id.

        Args:
            config: The searched config, nested.
            role: ``search``, ``baseline`` or ``replicate``.
            label: A name to read.
            repeat: Number of its fresh seed; 0 for the study's own.
            proposal: ``origin``, ``why`` and ``expected``, of a searched one.
        """
        trial = self._next_id
        self._next_id += 1
        self.journal.add_trial(
            trial,
            {**self._fixed, **config},
            seed=self.seed(repeat),
            repeat=repeat,
            role=role,
            label=label,
            data=proposal,
        )
        self._note()
        return trial

    def add_simple_model(self, name: str, metrics: Mapping[str, float]) -> int:
        """Add a model without epochs, with its metrics on the validation part; return its id.

        If a kill left it without them it gets them now.
        """
        known = self.history.baseline(name)
        if known is None:
            trial = self._next_id
            self._next_id += 1
            self.journal.add_trial(
                trial, {"model": name}, seed=self._seed, role="baseline", label=name
            )
        else:
            trial = known.id
        self.journal.add_result(trial, 0, metrics)
        self.end(trial, "complete")
        return trial

    def add_result(
        self, trial: int, epoch: int, metrics: Mapping[str, float], t_ms: int | None
    ) -> bool:
        """Add a result; return False if this epoch is there already."""
        self._note()
        return self.journal.add_result(trial, epoch, metrics, t_ms=t_ms)

    def set_state(self, trial: int, state: str) -> None:
        """Note that a trial is ``running``, or ``waiting``."""
        self.journal.set_state(trial, state)
        self._note()

    def end(self, trial: int, reason: str, detail: str | None = None) -> None:
        """Note that a trial ended, and how."""
        self.journal.set_state(trial, "ended", reason=reason, detail=detail)
        self._note()

    def add_event(
        self, kind: str, trial: int | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Add an event."""
        self.journal.add_event(kind, trial, data)
        self._note()

    def extend(self, record: Mapping[str, Any]) -> None:
        """Note that the study goes on, and its new total of trials if that changes."""
        study = {"n_trials": record["n_trials"]} if "n_trials" in record else None
        self.journal.add_event("look", None, record, study=study)
        self._note()

    def set_n_trials(self, n_trials: int) -> None:
        """Note a new total of trials."""
        self.journal.set_study(n_trials=n_trials)
        self._note()

    def sync(self) -> None:
        """Make what was written survive a loss of power."""
        self.journal.sync()

    def _note(self) -> None:
        self._is_new = True
        self.n_writes += 1
