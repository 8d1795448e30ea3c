"""Where files lie that all nodes reach: in a folder, or in a bucket.

A place is a folder's path, or a URI: ``s3://bucket/path``, ``gs://...`` or ``abfs://...``, as
``pyarrow.fs`` reads it (with ``?endpoint_override=http://host:9000`` for another S3 server). Logins
come from the environment or from the files that the service's own tools use.
"""

import contextlib
import shutil
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


def listed(place: str) -> list[str]:
    """Return the names of what lies directly at a place."""
    if is_bucket(place):
        system, path = _system(place)
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found)
    return sorted(path.name for path in Path(place).glob("*"))


def put(file: Path, place: str) -> None:
    """Copy a file to a place; it is there as a whole or not at all."""
    if is_bucket(place):
        system, path = _system(place)
        # An object appears when it is complete.
        with file.open("rb") as source, system.open_output_stream(path) as to:
            shutil.copyfileobj(source, cast("IO[bytes]", to))
        return
    whole = Path(place)
    whole.parent.mkdir(parents=True, exist_ok=True)
    part = whole.with_name(f"{whole.name}.part")
    shutil.copyfile(file, part)
    part.replace(whole)


def fetch(place: str, file: Path) -> None:
    """Copy what lies at a place into a file.

    Raises:
        FileNotFoundError: Nothing does.
    """
    if not is_bucket(place):
        shutil.copyfile(place, file)
        return
    system, path = _system(place)
    with system.open_input_stream(path) as source, file.open("wb") as to:
        shutil.copyfileobj(cast("IO[bytes]", source), to)


def copy(place: str, to: str) -> None:
    """Copy all that is at a place to another one, where nothing is yet, of the same kind."""
    if not is_bucket(place):
        shutil.copytree(place, to)
        return
    (system, path), (target, to_path) = _system(place), _system(to)
    fs.copy_files(path, to_path, source_filesystem=system, destination_filesystem=target)


def n_bytes(place: str) -> int:
    """Return how much room all takes that is at a place."""
    if not is_bucket(place):
        return sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
    system, path = _system(place)
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return sum(info.size or 0 for info in found if info.type == fs.FileType.File)


def drop(place: str) -> None:
    """Delete all that is at a place, which may be that of one file."""
    if not is_bucket(place):
        if Path(place).is_file():
            with contextlib.suppress(OSError):
                Path(place).unlink()
        else:
            shutil.rmtree(place, ignore_errors=True)
        return
    system, path = _system(place)
    kind = system.get_file_info(path).type
    if kind == fs.FileType.Directory:
        system.delete_dir(path)
    elif kind == fs.FileType.File:
        system.delete_file(path)


def _system(place: str) -> tuple[Any, str]:
    """Return the file system of a URI, and the path in it."""
    return cast("tuple[fs.FileSystem, str]", fs.FileSystem.from_uri(place))
