"""The folder of a study: where it may be, and who may write into it."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from hypertune.errors import JournalError, SettingError, choices
from hypertune.places import drop
from hypertune.records import Journal, catch_up, has_copy, study_place
from hypertune.settings import Settings

_NETWORK = {
    *("nfs", "cifs", "smb", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
    *("sshfs", "s3fs", "gcsfuse", "davfs"),
}


def usable_folder(space: str, settings: Settings) -> Path:
    """Return the folder that a new study would get; nothing is made.

    Raises:
        SettingError: It is there already, or cannot be made.
    """
    root = settings.studies_dir
    if settings.name is not None and (root / settings.name).exists():
        raise SettingError(
            f"There is a study '{settings.name}' in '{root}' already; choose another --name."
        )
    above = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise SettingError(f"--studies-dir must be a folder to write in, but '{above}' is not.")
    refuse_network(above)
    numbers = (k for k in itertools.count(1) if not (root / f"{space}-{k}").exists())
    return root / (settings.name or f"{space}-{next(numbers)}")


def new_folder(space: str, settings: Settings) -> Path:
    """Make the folder of a new study and return it."""
    while True:
        folder = usable_folder(space, settings)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # another process was faster
        except OSError as error:
            raise SettingError(f"'{folder}' cannot be made: {error.strerror}.") from error
        return folder


def study_folders(studies_dir: Path) -> list[Path]:
    """Return the folders of all studies, by name."""
    return sorted(path.parent for path in studies_dir.glob("*/journal.db"))


def study_folder(studies_dir: Path, name: str, storage: str | None = None) -> Path:
    """Return the folder of an existing study.

    Args:
        studies_dir: Where it is.
        name: Its name.
        storage: Where a copy of its journal is, if it has been run on another machine.

    Raises:
        SettingError: There is none of this name.
    """
    known = [folder.name for folder in study_folders(studies_dir)]
    if storage is not None and name not in known:
        folder = usable_folder(name, Settings(name=name, studies_dir=studies_dir, storage=storage))
        catch_up(folder, storage)
        return folder
    if name not in known:
        there = choices(name, known) if known else " There is none yet."
        raise SettingError(f"There is no study '{name}' in '{studies_dir}'.{there}")
    return studies_dir / name


def has_study(settings: Settings) -> bool:
    """Say whether a study of the settings' name has begun, here or by its copy in the storage.

    Raises:
        SettingError: The storage cannot be read.
    """
    if settings.name is None:
        return False
    if (settings.studies_dir / settings.name / "journal.db").is_file():
        return True
    return settings.storage is not None and has_copy(settings.storage, settings.name)


def delete(folder: Path) -> None:
    """Delete a study.

    Raises:
        SettingError: It is under way, or cannot be deleted.
    """
    with locked(folder):
        with (
            contextlib.suppress(JournalError),
            contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal,
        ):
            about = journal.study()
            storage = about["settings"].get("storage")
            if storage is not None:
                drop(study_place(storage, folder.name, about["study_id"]))
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
    try:
        yield
    finally:
        lock.release()


def is_under_way(folder: Path) -> bool:
    """Say whether a driver is at work on a study."""
    try:
        with locked(folder):
            return False
    except SettingError:
        return True
