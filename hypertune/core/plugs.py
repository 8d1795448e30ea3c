"""Plugs: classes of a user's own, named by an entry point or as ``file.py:Class``."""

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hypertune.core.errors import SettingError, choices, describe, raised, user_code

T = TypeVar("T")

_LOADED: dict[tuple[Path, str], ModuleType] = {}
"""Modules that were run, by their file and its digest: each state of a file is run once."""


def is_file_plug(name: str) -> bool:
    """Say whether a name is one of a class in a file.

    Example:
        >>> is_file_plug("mine.py:Mine"), is_file_plug("asha")
        (True, False)
    """
    file, colon, _ = name.rpartition(":")
    return bool(colon) and file.endswith(".py")


def plug_file(name: str) -> Path | None:
    """Return the full path of the file in ``file.py:Class``; None for any other name."""
    return Path(name.rpartition(":")[0]).expanduser().resolve() if is_file_plug(name) else None


def full_name(name: str) -> str:
    """Return ``file.py:Class`` with the file's full path, any other name as it is."""
    file = plug_file(name)
    return name if file is None else f"{file}:{name.rpartition(':')[2]}"


def same_plug(one: Any, other: Any) -> bool:
    """Say whether two names are of one plug, wherever its file lies now."""
    if not all(isinstance(name, str) and is_file_plug(name) for name in (one, other)):
        return bool(one == other)
    return Path(one).name == Path(other).name


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def plug_names(group: str) -> list[str]:
    """Return the names of the entry points of a group that are installed."""
    return sorted({point.name for point in entry_points(group=group)})


def plug_problems(name: str, *, kind: str, group: str, known: Sequence[str]) -> list[str]:
    """Return what is wrong with a name, without running what it names; empty if nothing is.

    Args:
        name: What was given. Whether a file is there, `load_plug` says.
        kind: What it names, for the message.
        group: The group of entry points.
        known: Names that come with hypertune.
    """
    if is_file_plug(name):
        return []
    names = [*known, *(other for other in plug_names(group) if other not in known)]
    if name in names:
        return []
    return [f"Unknown {kind} '{name}'.{choices(name, names)} A class of your own: FILE.py:CLASS."]


def load_plug(
    name: str, base: type[T], *, flag: str, group: str, function: bool = False
) -> type[T]:
    """Return the class that a name stands for.

    Args:
        name: That of an entry point, or ``file.py:Class``.
        base: The class that it must derive from.
        flag: The flag that it was given with.
        group: The group of entry points.
        function: A function that returns such an object will do too.

    Raises:
        SettingError: It cannot be imported, or is no such class.
    """
    file = plug_file(name)
    if file is not None:
        wanted = name.rpartition(":")[2]
        module = _run_file(file, f"{flag} '{name}'")
        if not hasattr(module, wanted):
            raise SettingError(f"{flag} '{name}': '{file}' has no '{wanted}'.")
        return as_plug(getattr(module, wanted), base, f"{flag} '{name}'", function=function)
    point = _entry_point(name, group)
    try:
        with user_code():
            found = point.load()
    except Exception as problem:
        raise SettingError(
            f"{flag} {name}: the entry point {point.value} of {_package(point)} cannot be "
            f"imported: {describe(raised(problem))}"
        ) from problem
    return as_plug(found, base, f"{flag} {name}", function=function)


def as_plug(found: Any, base: type[T], named: str, *, function: bool = False) -> type[T]:
    """Return a class that was given, after a check.

    Args:
        found: What was given.
        base: The class that it must derive from.
        named: How it was given, for the message.
        function: A function that returns such an object will do too: it stands for a class.

    Raises:
        SettingError: It is none.
    """
    if isinstance(found, type):
        if not issubclass(found, base):
            raise SettingError(f"{named}: {found.__name__} is no subclass of {_home(base)}.")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise SettingError(f"{named}: {found.__name__} lacks {', '.join(missing)}.")
        return found
    if function and inspect.isfunction(found):
        return _made_by(found, base, named)
    other = " or a function that returns an object of one" if function else ""
    raise SettingError(
        f"{named} must be a subclass of {_home(base)}{other}, but is of type "
        f"{type(found).__name__}."
    )


def is_plug(given: Any, base: type) -> bool:
    """Say whether what was given from Python is a class of ours, or a function that may make one.

    Example:
        >>> is_plug(bool, int), is_plug(print, int), is_plug(3, int)
        (True, False, False)
    """
    return inspect.isfunction(given) or (isinstance(given, type) and issubclass(given, base))


def plug_name(given: Any) -> str | None:
    """Return ``file.py:Class`` of a class or a function that a module defines at its top.

    None if there is no such file: it stands in a notebook, or in the script that is running, which
    cannot be run again to get at it.
    """
    module = sys.modules.get(getattr(given, "__module__", None) or "")
    name = getattr(given, "__qualname__", "")
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ == "__main__":
        return None
    return f"{Path(file).resolve()}:{name}" if getattr(module, name, None) is given else None


def _made_by(make: Callable[..., Any], base: type[T], named: str) -> type[T]:
    def new(cls: type[T], *args: Any) -> Any:
        made = make(*args)
        if not isinstance(made, base):
            raise SettingError(
                f"{named}: {make.__name__} must return a {_home(base)}, but returned "
                f"{type(made).__name__}."
            )
        return made

    return type(make.__name__, (base,), {"__new__": new})


def _home(base: type) -> str:
    return f"hypertune.{base.__name__}"


def _entry_point(name: str, group: str) -> EntryPoint:
    found = [point for point in entry_points(group=group) if point.name == name]
    if not found:
        raise SettingError(f"No package that is installed has an entry point '{name}' in {group}.")
    return found[0]


def _package(point: EntryPoint) -> str:
    return "a package" if point.dist is None else f"the package {point.dist.name}"


def _run_file(file: Path, named: str) -> ModuleType:
    """Run a file as a module of its own, or return the module if that state of it was run."""
    try:
        key = file, file_digest(file)
    except OSError as problem:
        raise SettingError(f"{named}: '{file}' cannot be read: {problem.strerror}.") from problem
    if key in _LOADED:
        return _LOADED[key]
    name = f"hypertune_plug_{file.stem}_{key[1][:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it
    sys.path.append(str(file.parent))  # what lies beside it, but never in place of a library
    try:
        with user_code():
            spec.loader.exec_module(module)
    except Exception as problem:
        del sys.modules[name]
        cause = raised(problem)
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        line = cause.lineno if isinstance(cause, SyntaxError) else (lines or [None])[-1]
        raise SettingError(
            f"{named}: '{file}' cannot be read: line {line or '?'}: {describe(cause)}"
        ) from problem
    finally:
        sys.path.remove(str(file.parent))
    _LOADED[key] = module
    return module
