"""Copies of a study's folder: which one goes on, and how one becomes a study of its own.

A study has one journal that goes on; MLflow knows its runs by the study's id. A folder that was
moved, or put back from a backup, goes on as if nothing had happened. Of a folder that was copied
only one may go on under that id: were both to, their trials would be mixed up in MLflow.
"""

import contextlib
import shutil
import socket
import sqlite3
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hypertune.core.errors import HypertuneError, JournalError, SettingError
from hypertune.core.storage import copy as copy_place
from hypertune.core.storage import listed
from hypertune.engine.folder import check_study, locked, new_folder
from hypertune.engine.retention import Checkpoints, checkpoint_root
from hypertune.engine.trust import is_trusted, trust
from hypertune.journal.snapshot import copy_journal
from hypertune.journal.store import Journal
from hypertune.settings import Settings
from hypertune.tracking.mlflow.cursors import delivered_ids

_OWN = ("journal", "snapshot.", "replica.", "driver.lock", "checkpoints")
"""How files begin that do not belong into a copy as they are."""


def home(folder: Path) -> dict[str, Any]:
    """Return where a study lies, as each of its sessions notes it."""
    inode = (folder / "journal.db").stat().st_ino
    return {"host": socket.gethostname(), "folder": str(folder.resolve()), "inode": inode}


def _last_home(folder: Path) -> dict[str, Any] | None:
    """Return where the last session of a study that noted it was."""
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        starts = journal.events(kind="search_start")
    return next((e.data["home"] for e in reversed(starts) if "home" in e.data), None)


def refuse_copy(folder: Path) -> None:
    """Refuse to write into a copy of a study whose original is still there.

    Raises:
        SettingError: It is one.
        JournalError: It holds no readable journal.
    """
    about, before = check_study(folder), _last_home(folder)
    if before is None or before["host"] != socket.gethostname():
        return
    there = Path(before["folder"])
    try:
        if (there / "journal.db").samefile(folder / "journal.db"):
            return
        original = check_study(there)
    except (OSError, HypertuneError):
        return  # it was moved, or replaced
    common = about["settings"].get("storage") is not None and there.name == folder.resolve().name
    if common or original["study_id"] != about["study_id"]:
        return  # from the copy in its storage it may go on anywhere
    raise SettingError(
        f"'{folder}' is a copy of the study in '{there}', which is still there: if both went on, "
        "their trials would be mixed up in MLflow. Go on with that one, or make a study of its own "
        f"of this one: hypertune copy {folder.name} NEW."
    )


def lost_end(folder: Path) -> str | None:
    """Find out whether the end of a study's journal is missing, and drop what belonged to it.

    Returns:
        What is missing, where the journal is the one that the last session wrote: after a loss of
        power the search goes on from what is left. None if nothing is.

    Raises:
        JournalError: The journal was copied without its write-ahead log.
    """
    path, before, here = folder / "journal.db", _last_home(folder), home(folder)
    with contextlib.closing(Journal(path, read_only=True)) as journal:
        about, known = journal.study(), {trial.id for trial in journal.trials()}
        ids = journal.last_ids()
    storage = about["settings"].get("storage")
    root = checkpoint_root(folder, storage, about["study_id"])
    checkpoints = [int(name[6:]) for name in listed(root) if name.startswith("trial-")]
    unknown = sorted(set(checkpoints) - known)
    further = [n for n, last in zip(delivered_ids(path), ids, strict=True) if n > last]
    if not unknown and not further:
        return None
    if unknown:
        what = f"there are checkpoints of trials that it does not know: {_listed(unknown)}"
    else:
        what = "MLflow was given later records than its last one"
    copied = before is not None and before != here
    if copied and storage is None:
        raise JournalError(
            f"The journal '{path}' lacks its end: {what}. The last rows of a journal are in "
            "journal.db-wal beside it, and it seems to have been copied without that file: copy "
            "both, while no search is under way. If that file is lost, hypertune copy "
            f"{folder.name} NEW makes a study of what is left, which can go on."
        )
    kept = Checkpoints(root, float("inf"))
    for trial in unknown:
        kept.drop(trial)
    return f"The end of the journal is missing ({what}): what it held is trained again."


def _listed(trials: Collection[int]) -> str:
    shown = ", ".join(map(str, list(trials)[:5]))
    return shown if len(trials) <= 5 else f"{shown} and {len(trials) - 5} more"


def copy(folder: Path, name: str) -> Path:
    """Copy a study into a folder beside it, as a study of its own; MLflow knows nothing of it yet.

    Args:
        folder: The study's.
        name: The new one's.

    Returns:
        The new folder.

    Raises:
        SettingError: The study is under way, the name is taken, or the files cannot be copied.
        JournalError: The journal cannot be read.
    """
    about = check_study(folder)
    with locked(folder), new_folder("", Settings(name=name, studies_dir=folder.parent)) as new:
        try:
            study_id = _copy(folder, new, about)
        except BaseException as problem:
            for path in new.iterdir():
                if path.name != "driver.lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if isinstance(problem, OSError | sqlite3.Error):
                raise SettingError(f"'{folder}' cannot be copied: {problem}") from problem
            raise
        if is_trusted(about["study_id"], about.get("source", "")):
            trust(study_id, about["source"])
        return new


def _copy(folder: Path, new: Path, about: dict[str, Any]) -> str:
    """Copy a study, and return the id of the new one."""
    part = new / "journal.db.part"  # the journal is there when all else is
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as db:
        copy_journal(db, part)
    before = {"name": about["name"], "study_id": about["study_id"]}
    study_id = uuid.uuid4().hex
    with contextlib.closing(Journal(part)) as journal:
        journal.set_study(name=new.name, study_id=study_id, copied_from=before)
        trials = [trial.id for trial in journal.trials()]
    for path in folder.iterdir():
        if path.name.startswith(_OWN):
            continue
        if path.is_dir():
            shutil.copytree(path, new / path.name)
        else:
            shutil.copy2(path, new / path.name)
    storage = about["settings"].get("storage")
    source = Checkpoints(checkpoint_root(folder, storage, about["study_id"]), float("inf"))
    target = Checkpoints(checkpoint_root(new, storage, study_id), float("inf"))
    names = set(listed(source.root))
    for trial in trials:
        if f"trial-{trial:03d}" in names:
            copy_place(source.place(trial), target.place(trial))
    part.replace(new / "journal.db")
    return study_id
