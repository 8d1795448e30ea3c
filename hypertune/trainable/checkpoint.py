"""Checkpoints of a trial: folders on a disk, or archives in a bucket that all nodes reach.

A place is a folder's path, or a URI: ``s3://bucket/path``, ``gs://...`` or ``abfs://...``, as
``pyarrow.fs`` reads it (with ``?endpoint_override=http://host:9000`` for another S3 server). Logins
come from the environment or from the files that the service's own tools use.
"""

import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from pyarrow import fs

SCHEMES = ("s3", "gs", "abfs")


def is_bucket(place: str) -> bool:
    """Say whether a place is a URI; else it is a folder."""
    return "://" in place


def below(place: str, *names: str) -> str:
    """Return a place within another one."""
    path, mark, options = place.partition("?")
    return "/".join([path.rstrip("/"), *names]) + mark + options


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
            system, path = _system(below(place, f"epoch-{epoch}.tar"))
            # An object appears when it is complete.
            with archive.open("rb") as file, system.open_output_stream(path) as to:
                shutil.copyfileobj(file, cast("IO[bytes]", to))
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
            drop_checkpoints(at)
    if not is_bucket(place):
        for left in Path(place).glob("*.part"):
            shutil.rmtree(left, ignore_errors=True)


def fetch_checkpoint(checkpoint: str) -> Path:
    """Return a folder with the files of a checkpoint in a bucket. The caller deletes it."""
    scratch = Path(tempfile.mkdtemp(prefix="hypertune-checkpoint-"))
    system, path = _system(checkpoint)
    with (
        system.open_input_stream(path) as stream,
        tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as tar,
    ):
        tar.extractall(scratch, filter="data")
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


def checkpoint_bytes(place: str) -> int:
    """Return how much room the checkpoints at a place take."""
    if is_bucket(place):
        return sum(info.size or 0 for info in _listed(place))
    return sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())


def drop_checkpoints(place: str) -> None:
    """Delete all that is at a place, which may be that of one checkpoint."""
    if not is_bucket(place):
        shutil.rmtree(place, ignore_errors=True)
        return
    system, path = _system(place)
    kind = system.get_file_info(path).type
    if kind == fs.FileType.Directory:
        system.delete_dir(path)
    elif kind == fs.FileType.File:
        system.delete_file(path)


def places(place: str) -> list[str]:
    """Return the names of what lies directly at a place."""
    if is_bucket(place):
        system, path = _system(place)
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found)
    return sorted(path.name for path in Path(place).glob("*"))


def _whole(place: str) -> dict[int, str]:
    """Return the whole checkpoints at a trial's place, by epoch."""
    ending = ".tar" if is_bucket(place) else ""
    found = {}
    for name in places(place):
        epoch = name.removeprefix("epoch-").removesuffix(ending)
        if epoch.isdigit():
            found[int(epoch)] = below(place, name)
    return found


def _listed(place: str) -> list[Any]:
    system, path = _system(place)
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return [info for info in found if info.type == fs.FileType.File]


def _system(place: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI, and the path in it."""
    return cast("tuple[fs.FileSystem, str]", fs.FileSystem.from_uri(place))
