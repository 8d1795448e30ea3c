"""Checkpoints of a trial: folders on a disk, or archives in a bucket that all nodes reach."""

import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hypertune.places import below, drop, fetch, is_bucket, listed, put


def newest_checkpoint(place: str, up_to: int) -> tuple[int, str] | None:
    """Return the newest whole checkpoint of a trial, not beyond an epoch, with its epoch."""
    return max(((e, at) for e, at in _whole(place).items() if e <= up_to), default=None)


def write_checkpoint(place: str, epoch: int, save: Callable[[Path], None]) -> None:
    """Have a checkpoint written; it is there as a whole or not at all.

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
            with tarfile.open(archive, "w") as tar:
                tar.add(folder, arcname=".")
            put(archive, below(place, f"epoch-{epoch}.tar"))
    else:
        part, whole = Path(place, f"epoch-{epoch}.part"), Path(place, f"epoch-{epoch}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save(part)
        shutil.rmtree(whole, ignore_errors=True)
        part.rename(whole)
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
    """Return a folder with the files of a checkpoint in a bucket. The caller deletes it."""
    scratch = Path(tempfile.mkdtemp(prefix="hypertune-checkpoint-"))
    archive = scratch / ".tar"
    fetch(checkpoint, archive)
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    archive.unlink()
    return scratch


@contextlib.contextmanager
def opened(checkpoint: str) -> Iterator[Path]:
    """Give a folder with the files of a checkpoint, wherever it is, for the time of the block."""
    if not is_bucket(checkpoint):
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
