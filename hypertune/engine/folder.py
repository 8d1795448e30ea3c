"""The folder of a study: where it may be, and who may write into it."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from hypertune.core.errors import JournalError, NothingBegunError, SettingError, choices
from hypertune.core.storage import drop
from hypertune.journal.snapshot import catch_up, has_copy, study_place
from hypertune.journal.store import Journal, has_begun
from hypertune.settings import Settings

_NETWORK = {
    *("nfs", "cifs", "smb", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
    *("sshfs", "s3fs", "gcsfuse", "davfs"),
}

_LEFT_AT_BIRTH = {"driver.lock", *(f"journal.db{end}" for end in ("", "-wal", "-shm", "-journal"))}
_KEYS = (
    *("name", "space", "study_id", "question", "factors", "metric", "mode", "test_metric"),
    *("default", "fixed", "max_epochs", "n_trials", "method", "seed", "parameters", "settings"),
)
"""What a journal says of every study."""


def usable_folder(space: str, settings: Settings) -> Path:
    """Return the folder that a new study would get; nothing is made.

    Raises:
        SettingError: There is a study already, or the folder cannot be made.
    """
    root = settings.studies_dir
    if settings.name is not None and not is_free(root / settings.name):
        there = f"There is a study '{settings.name}' in '{root}' already"
        if not is_study(root / settings.name):
            there = f"'{root / settings.name}' is there already, and is no study"
        raise SettingError(f"{there}; choose another --name.")
    above = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise SettingError(f"--studies-dir must be a folder to write in, but '{above}' is not.")
    refuse_network(above)
    numbers = (k for k in itertools.count(1) if not (root / f"{space}-{k}").exists())
    return root / (settings.name or f"{space}-{next(numbers)}")


@contextlib.contextmanager
def new_folder(space: str, settings: Settings) -> Iterator[Path]:
    """Have the folder of a new study, locked; it is deleted again if no study begins in it.

    Raises:
        SettingError: Another process was faster with the same name, or it cannot be made.
    """
    while True:
        folder = usable_folder(space, settings)
        with contextlib.ExitStack() as stack:
            try:
                # A name that was given may be that of a folder in which nothing has begun.
                folder.mkdir(parents=True, exist_ok=settings.name is not None)
                stack.enter_context(locked(folder))
            except FileExistsError:
                continue  # another process was faster: the next number
            except OSError as error:
                raise SettingError(f"'{folder}' cannot be made: {error.strerror}.") from error
            if not is_free(folder):
                continue  # another process was faster, and has ended: see above
            try:
                yield folder
            finally:
                if is_free(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            return


def is_free(folder: Path) -> bool:
    """Say whether a study may begin in a folder: it is not there, or nothing has begun in it.

    A process that is killed while it begins a study leaves no more than a lock and a journal that
    holds nothing.
    """
    try:
        if not os.path.lexists(folder):
            return True
        names = _names(folder)
    except OSError:
        return False
    return names <= _LEFT_AT_BIRTH and not has_begun(folder / "journal.db")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def is_study(folder: Path) -> bool:
    """Say whether a folder is a study's, be it damaged, or of one that was killed at its birth."""
    try:
        if not folder.is_dir():
            return False
        return is_free(folder) or not {"journal.db", "driver.lock"}.isdisjoint(_names(folder))
    except OSError:
        return True  # what may not be read is not passed over


def study_folders(studies_dir: Path) -> list[Path]:
    """Return the folders of all studies, by name; also of those that are damaged."""
    try:
        return sorted(path for path in studies_dir.iterdir() if is_study(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SettingError(f"'{studies_dir}' cannot be read: {error.strerror}.") from error


def study_folder(
    studies_dir: Path, name: str, storage: str | None = None, *, damaged: bool = False
) -> Path:
    """Return the folder of an existing study.

    Args:
        studies_dir: Where it is.
        name: Its name.
        storage: Where a copy of its journal is, if it has been run on another machine.
        damaged: It may be damaged, or never have begun.

    Raises:
        SettingError: There is none of this name.
        JournalError: Its journal cannot be read, or holds no study.
    """
    known = [folder.name for folder in study_folders(studies_dir)]
    folder = studies_dir / name
    if storage is not None and (name not in known or is_free(folder)):
        folder = usable_folder(name, Settings(name=name, studies_dir=studies_dir, storage=storage))
        catch_up(folder, storage)
    elif name not in known:
        there = choices(name, known) if known else " There is none yet."
        raise SettingError(f"There is no study '{name}' in '{studies_dir}'.{there}")
    if not damaged:
        check_study(folder)
    return folder


def check_study(folder: Path) -> dict[str, Any]:
    """Return what the journal in a folder says of its study, once it is known to be whole.

    Raises:
        JournalError: It cannot be read, or holds no study; the message says what to do.
    """
    if not os.path.lexists(folder):
        raise NothingBegunError(f"There is no journal at '{folder / 'journal.db'}'.")
    if is_free(folder):
        raise NothingBegunError(
            f"No study has begun in '{folder}': its start was cut short. Begin it with hypertune "
            f"run --name {folder.name}, or remove it with hypertune delete {folder.name}."
        )
    try:
        names = _names(folder)
    except OSError as error:
        raise JournalError(f"'{folder}' cannot be read: {error.strerror}.") from error
    if "journal.db" not in names:
        raise JournalError(
            f"'{folder}' lacks its journal, journal.db: put it back from a backup, or remove the "
            f"rest with hypertune delete {folder.name}."
        )
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        journal.check()
        about = journal.study()
    if missing := [key for key in _KEYS if key not in about]:
        raise JournalError(
            f"The journal '{journal.path}' lacks what every study has: {', '.join(missing)}. Put "
            f"it back from a backup, or remove it with hypertune delete {folder.name}."
        )
    return about


def has_study(settings: Settings) -> bool:
    """Say whether a study of the settings' name has begun, here or by its copy in the storage.

    Raises:
        SettingError: The storage cannot be read.
    """
    if settings.name is None:
        return False
    folder = settings.studies_dir / settings.name
    if not is_free(folder) and is_study(folder):
        return True
    return settings.storage is not None and has_copy(settings.storage, settings.name)


def delete(folder: Path) -> None:
    """Delete a study, in whatever state it is.

    Raises:
        SettingError: It is under way, or cannot be deleted.
    """
    with locked(folder):
        with contextlib.suppress(JournalError):
            about = check_study(folder)
            if (storage := about["settings"].get("storage")) is not None:
                place = study_place(storage, folder.name, about["study_id"])
                try:
                    drop(place)
                except Exception as problem:  # of a file system or a service, of whatever kind
                    raise SettingError(f"'{place}' cannot be deleted: {problem}") from problem
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise SettingError(f"'{folder}' cannot be deleted: {error}.") from error


def refuse_network(folder: Path) -> None:
    """Refuse a folder on a network file system: SQLite's locks and shared memory fail there.

    Raises:
        SettingError: It is on one.
    """
    path = folder.resolve()
    mounts = {Path(p.mountpoint): p.fstype for p in psutil.disk_partitions(all=True)}
    mount = next((at for at in (path, *path.parents) if at in mounts), None)
    kind = mounts[mount].lower() if mount is not None else ""
    if kind.removeprefix("fuse.").rstrip("0123456789") in _NETWORK:
        raise SettingError(
            f"'{folder}' is on a network file system ({kind}), which cannot hold a journal safely: "
            "choose a folder on a local disk with --studies-dir."
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other driver out of a study. The lock ends with this process, however it ends.

    Raises:
        SettingError: Another one is at work.
    """
    lock = FileLock(folder / "driver.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SettingError(
            f"Study '{folder.name}' is under way in another process; wait for it, or end it."
        ) from None
    except OSError as error:
        raise SettingError(f"'{folder}' cannot be written to: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


def is_under_way(folder: Path) -> bool:
    """Say whether a driver is at work on a study; nothing is written."""
    if not (folder / "driver.lock").exists():
        return False
    try:
        with FileLock(folder / "driver.lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # of another user, who may be at work: it is read like any other
