"""Where files lie that all nodes reach: in a folder, or in a bucket.

A place is a folder's path, or a URI: ``s3://bucket/path``, ``gs://...`` or ``abfs://...``, as
``pyarrow.fs`` reads it (with ``?endpoint_override=http://host:9000`` for another S3 server). Logins
come from the environment or from the files that the service's own tools use.
"""

import contextlib
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar, cast
from urllib.parse import quote, unquote

from pyarrow import fs

from hypertune.core.deadlines import within

SCHEMES = ("s3", "gs", "abfs")
_TIMEOUT_S = 60.0
_LEAST_BYTES_PER_S = 100_000  # a copy gets so much more time, by its size
_T = TypeVar("_T")


def is_bucket(place: str) -> bool:
    """Say whether a place is a URI; else it is a folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def below(place: str, *names: str) -> str:
    """Return a place within another one."""
    if not is_bucket(place):
        return str(Path(place, *names))
    path, mark, options = place.partition("?")
    return "/".join([path.rstrip("/"), *names]) + mark + options


def listed(place: str) -> list[str]:
    """Return the names of what lies directly at a place."""
    if is_bucket(place):
        return sorted(info.base_name for info in _infos(place, recursive=False))
    return sorted(path.name for path in Path(place).glob("*"))


def put(file: Path, place: str, *, timeout_s: float = math.inf) -> None:
    """Copy a file to a place; it is there as a whole or not at all.

    Args:
        file: To be copied.
        place: Where to.
        timeout_s: At most so many seconds for a bucket, whatever the file's size would allow.

    Raises:
        Exception: Of the file system or the service, of whatever kind.
    """
    if is_bucket(place):

        def send(system: Any, path: str) -> None:
            # An object appears when it is complete.
            with file.open("rb") as source, system.open_output_stream(path) as to:
                shutil.copyfileobj(source, cast("IO[bytes]", to))

        _asked(place, send, n_bytes=file.stat().st_size, timeout_s=timeout_s)
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
    info = _asked(place, lambda system, path: system.get_file_info(path))

    def receive(system: Any, path: str) -> None:
        with system.open_input_stream(path) as source, file.open("wb") as to:
            shutil.copyfileobj(cast("IO[bytes]", source), to)

    _asked(place, receive, n_bytes=info.size or 0)


def copy(place: str, to: str) -> None:
    """Copy all that is at a place to another one, where nothing is yet, of the same kind."""
    if not is_bucket(place):
        shutil.copytree(place, to)
        return

    def transfer(system: Any, path: str) -> None:
        target, to_path = fs.FileSystem.from_uri(to)
        fs.copy_files(path, to_path, source_filesystem=system, destination_filesystem=target)

    _asked(place, transfer, n_bytes=n_bytes(place))


def n_bytes(place: str) -> int:
    """Return how much room all takes that is at a place."""
    if not is_bucket(place):
        return sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
    found = _infos(place, recursive=True)
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

    def delete(system: Any, path: str) -> None:
        kind = system.get_file_info(path).type
        if kind == fs.FileType.Directory:
            system.delete_dir(path)
        elif kind == fs.FileType.File:
            system.delete_file(path)

    _asked(place, delete)


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite database, as SQLAlchemy reads it."""
    return f"sqlite:///{quote(str(path))}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite database's URI; None for that of another store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


def _infos(place: str, *, recursive: bool) -> list[Any]:
    """Return what a bucket has below a place."""

    def find(system: Any, path: str) -> list[Any]:
        wanted = fs.FileSelector(path, recursive=recursive, allow_not_found=True)
        return list(system.get_file_info(wanted))

    return _asked(place, find)


def _asked(
    place: str,
    request: Callable[[Any, str], _T],
    *,
    n_bytes: int = 0,
    timeout_s: float = math.inf,
) -> _T:
    """Return what a bucket answers to a request.

    Args:
        place: A URI.
        request: Makes it, given the URI's file system and the path in it.
        n_bytes: How much it moves.
        timeout_s: At most so many seconds.

    Raises:
        DeadlineError: It does not answer in time.
    """
    # Already to make the file system may ask the service, for the bucket's region.
    return within(
        min(timeout_s, _TIMEOUT_S + n_bytes / _LEAST_BYTES_PER_S),
        f"'{place}'",
        lambda: request(*cast("tuple[Any, str]", fs.FileSystem.from_uri(place))),
    )
