"""How a run of a study ended."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from hypertune.core.errors import SettingError
from hypertune.engine.folder import is_under_way, locked
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import Journal
from hypertune.settings import Settings
from hypertune.tracking.uploader import Delivery, delivered


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves behind.

    Attributes:
        folder: The study's folder.
        stopped_by: ``signal``, ``time budget`` or ``error`` if the search was cut short, ``kill``
            if its process was; None if it is finished.
        error: The text of the error that ended the search early, if one did.
        warning: What the user should know of, but nothing failed by.
        store: MLflow's URI.
        delivery: How far MLflow has come.
        study_id: The study's own, in MLflow the name of its view.
        under_way: It has not ended yet.
        signal: The number of the signal that came while it ran, if one did.
    """

    folder: Path
    stopped_by: str | None
    error: str | None
    warning: str | None
    store: str
    delivery: Delivery
    study_id: str
    under_way: bool = False
    signal: int | None = None

    @property
    def page(self) -> str:
        """Where an MLflow server shows the trials; empty while MLflow does not know them."""
        if self.delivery.experiment_id is None:
            return ""
        view = f"viewStateShareKey={self.study_id}"
        return f"/#/experiments/{self.delivery.experiment_id}/runs?{view}"


def is_finished(folder: Path, *, n_trials: int | None = None) -> bool:
    """Say whether a study has come to its own end.

    Args:
        folder: The study's folder.
        n_trials: A total of trials that is asked for now; more than the study had are not done.

    Raises:
        JournalError: There is no readable journal.
    """
    if is_under_way(folder):
        return False
    history = StudyHistory.read(folder)
    end = history.last_end
    more = n_trials is not None and n_trials > (history.study.get("n_trials") or 0)
    return end is not None and end.data.get("stopped_by") is None and not more


def note_report(folder: Path) -> None:
    """Journal that a report was written, so that the next delivery brings it to MLflow.

    A driver that is at work writes and delivers one of its own.
    """
    with (
        contextlib.suppress(SettingError),
        locked(folder),
        contextlib.closing(Journal(folder / "journal.db")) as journal,
    ):
        journal.add_event("report")


def read_outcome(folder: Path, *, tracking_uri: str | None = None) -> Outcome:
    """Return how a study stands, by what lies in its folder.

    Args:
        folder: The study's folder.
        tracking_uri: Of another MLflow than the study's own.

    Raises:
        JournalError: There is no readable journal.
    """
    history = StudyHistory.read(folder)
    about = history.study
    changes = {} if tracking_uri is None else {"tracking_uri": tracking_uri}
    store = Settings.recorded(about["settings"], folder, **changes).store
    under_way = is_under_way(folder)
    last = {"stopped_by": "kill"} if history.last_end is None else history.last_end.data
    return Outcome(
        folder=folder,
        stopped_by=None if under_way else last.get("stopped_by"),
        error=last.get("error"),
        warning=None,
        store=store,
        delivery=delivered(folder / "journal.db", store),
        study_id=about["study_id"],
        under_way=under_way,
    )
