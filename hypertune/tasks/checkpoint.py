"""Checkpoints of a trial: folders on a disk, or archives in a bucket that all nodes reach.

Each holds a list of its files with their sizes and digests, written last. What does not agree with
its list was damaged after it was written (a loss of power, a bad disk), and is never loaded.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hypertune.core.errors import HypertuneError
from hypertune.core.storage import below, drop, fetch, is_bucket, listed, put

FILES = ".hypertune-files.json"
"""The list of a checkpoint's other files."""


class DamagedError(HypertuneError):
    """A checkpoint, or a model that was kept, is not what was written.

    Attributes:
        place: Where it is.
    """

    def __init__(self, place: str, text: str) -> None:
        self.place = place
        super().__init__(f"'{place}' is damaged: {text}")


def seal(folder: Path) -> None:
    """Write the list of a folder's files, and bring all of it to the disk."""
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _digest(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / FILES).write_text(json.dumps(files))
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            sync(path)


def check_sealed(folder: Path, place: str | None = None) -> None:
    """Check that a folder holds what `seal` found in it. Files that were added do not matter.

    Args:
        folder: The folder.
        place: Where it came from, for the message.

    Raises:
        DamagedError: It does not.
        FileNotFoundError: There is no such folder.
    """
    place = place or str(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is nothing at '{place}'")
    try:
        files = dict(json.loads((folder / FILES).read_text()))
        for name, (size, digest) in files.items():
            path = folder / name
            if not path.is_file():
                raise DamagedError(place, f"{name} is missing")
            if (now := path.stat().st_size) != size:
                raise DamagedError(place, f"{name} has {now} bytes, and not {size}")
            if _digest(path) != digest:
                raise DamagedError(place, f"{name} holds other bytes than were written")
    except FileNotFoundError as error:
        raise DamagedError(place, f"{FILES}, the list of its files, is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedError(place, f"{FILES}, the list of its files, cannot be read") from error


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def checkpoint_epoch(checkpoint: str) -> int:
    """Return the epoch that a checkpoint is of."""
    found = re.search(r"epoch-(\d+)(\.tar)?$", checkpoint.partition("?")[0])
    if found is None:
        raise ValueError(f"'{checkpoint}' is no place of a checkpoint")
    return int(found[1])


def newest_checkpoint(place: str, up_to: int) -> tuple[int, str] | None:
    """Return the newest whole checkpoint of a trial, not beyond an epoch, with its epoch."""
    return max(((e, at) for e, at in _whole(place).items() if e <= up_to), default=None)


def write_checkpoint(place: str, epoch: int, save: Callable[[Path], None]) -> None:
    """Have a checkpoint written; it is there as a whole or not at all, also after a loss of power.

    Args:
        place: Of the trial's checkpoints.
        epoch: After which it is.
        save: Writes its files into a folder.
    """
    if is_bucket(place):
        with tempfile.TemporaryDirectory(prefix="hypertune-checkpoint-") as scratch:
            folder, archive = Path(scratch, "files"), Path(scratch, "archive.tar")
            folder.mkdir()
            save(folder)
            seal(folder)
            with tarfile.open(archive, "w") as tar:
                tar.add(folder, arcname=".")
            put(archive, below(place, f"epoch-{epoch}.tar"))
    else:
        part, whole = Path(place, f"epoch-{epoch}.part"), Path(place, f"epoch-{epoch}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save(part)
        seal(part)
        shutil.rmtree(whole, ignore_errors=True)
        part.rename(whole)
        sync(Path(place))
    # The one before stays: the driver may not have heard of this epoch yet, and then needs it.
    there = _whole(place)
    before = max((other for other in there if other < epoch), default=None)
    for other, at in there.items():
        if other not in (epoch, before):
            drop(at)
    if not is_bucket(place):
        for left in Path(place).glob("*.part"):
            shutil.rmtree(left, ignore_errors=True)


def fetch_checkpoint(checkpoint: str) -> Path:
    """Return a folder with the files of a checkpoint in a bucket. The caller deletes it.

    Raises:
        DamagedError: It is not what was written.
    """
    scratch = Path(tempfile.mkdtemp(prefix="hypertune-checkpoint-"))
    archive = scratch / ".tar"
    try:
        fetch(checkpoint, archive)
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise DamagedError(checkpoint, f"the archive cannot be read ({error})") from error
        archive.unlink()
        check_sealed(scratch, checkpoint)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return scratch


@contextlib.contextmanager
def opened(checkpoint: str) -> Iterator[Path]:
    """Give a folder with the files of a checkpoint, wherever it is, for the time of the block.

    Raises:
        DamagedError: It is not what was written.
    """
    if not is_bucket(checkpoint):
        check_sealed(Path(checkpoint))
        yield Path(checkpoint)
        return
    fetched = fetch_checkpoint(checkpoint)
    try:
        yield fetched
    finally:
        shutil.rmtree(fetched, ignore_errors=True)


def _whole(place: str) -> dict[int, str]:
    """Return the whole checkpoints at a trial's place, by epoch."""
    ending = ".tar" if is_bucket(place) else ""
    found = {}
    for name in listed(place):
        epoch = name.removeprefix("epoch-").removesuffix(ending)
        if epoch.isdigit():
            found[int(epoch)] = below(place, name)
    return found
