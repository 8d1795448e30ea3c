"""What travels with a study to a cluster: the user's own files, and nothing else."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hypertune.core.errors import SettingError
from hypertune.core.local_modules import local_modules
from hypertune.core.plugs import plug_file
from hypertune.journal.snapshot import copy_journal
from hypertune.settings import Settings
from hypertune.studies.study import Study, source_files, study_names

_NOT_SENT = ("__pycache__", "*.pyc", ".*", "mlflow.db*", "mlartifacts", "mlruns")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Files that were laid out to be sent.

    Attributes:
        folder: Where they lie here. On the cluster it is the folder that the driver runs in.
        flags: Flags of `run` that name another path there, by their names in `Settings`.
        sizes: Bytes of each of them, by its path in the folder.
    """

    folder: Path
    flags: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def n_bytes(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())

    def check(self, limit_bytes: int) -> None:
        """Check that Ray takes as much.

        Raises:
            SettingError: It does not.
        """
        if self.n_bytes < limit_bytes:
            return
        largest = sorted(self.sizes, key=lambda name: -self.sizes[name])[:3]
        raise SettingError(
            f"Ray sends less than {_mb(limit_bytes)} with a job, but the study's files take "
            f"{_mb(self.n_bytes)} ({', '.join(f'{n} {_mb(self.sizes[n])}' for n in largest)}). "
            "Have the study file read large data from a folder or a bucket that the cluster "
            "reaches, or put them into the cluster's image."
        )


def pack(
    space: str, study: Study, settings: Settings, folder: Path, *, working_dir: Path | None = None
) -> Upload:
    """Lay out what is to travel.

    The study's file with the modules beside it that it imports, unless the study is one of those
    that come with hypertune; the files of a searcher and a scheduler of one's own; those of
    ``--csv``, ``--npz``, ``--start``, ``--data-dir``; of ``--from`` the journal, if that study is
    here.

    Args:
        space: The study as it was asked for: a name or a file.
        study: The same, loaded.
        settings: As they were asked for.
        folder: An empty folder, to lay the files out in.
        working_dir: A folder of which all travels but hidden files, caches and records of studies.
            Files in it keep their places.

    Raises:
        SettingError: Something cannot be read.
    """
    base = None if working_dir is None else working_dir.expanduser().resolve()
    if base is not None and not base.is_dir():
        raise SettingError(f"--working-dir must be a folder, but got '{working_dir}'.")
    flags: dict[str, str] = {}
    try:
        if base is not None:
            studies = settings.studies_dir.resolve()
            shutil.copytree(base, folder, dirs_exist_ok=True, ignore=_left_out(studies))
        if space not in study_names():
            flags["space"] = _lay_source(study, folder, base)
        other = settings.other_data
        given = {"start": settings.start, "csv": other.csv, "npz": other.npz}
        for flag, path in (given | {"data_dir": other.data_dir}).items():
            if path is not None:
                flags[flag] = _lay(path.expanduser().resolve(), folder, base)
        for flag in ("method", "scheduler"):
            if (file := plug_file(plug := getattr(settings, flag) or "")) is not None:
                flags[flag] = f"{_lay_module(file, folder, base)}:{plug.rpartition(':')[2]}"
        if (earlier := settings.earlier) is not None and (earlier / "journal.db").is_file():
            flags["from"] = _lay_journal(earlier, folder)
    except (OSError, sqlite3.Error) as error:
        raise SettingError(f"What is to travel with the study cannot be read: {error}") from error
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return Upload(folder=folder, flags=flags, sizes=sizes)


def _left_out(studies: Path) -> Callable[[str, list[str]], set[str]]:
    ignore = shutil.ignore_patterns(*_NOT_SENT)

    def left_out(folder: str, names: list[str]) -> set[str]:
        return ignore(folder, names) | {n for n in names if Path(folder, n).resolve() == studies}

    return left_out


def _lay_source(study: Study, folder: Path, base: Path | None) -> str:
    """Lay out a study's file and what it imports from beside it; return its path there."""
    source = Path(study.source)
    if base is not None and source.is_relative_to(base):
        return source.relative_to(base).as_posix()
    for path in source_files(study):
        to = folder / path.relative_to(source.parent)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    return source.name


def _lay_module(file: Path, folder: Path, base: Path | None) -> str:
    """Lay out a file of Python and what it imports from beside it; return its path there."""
    if base is not None and file.is_relative_to(base):
        return file.relative_to(base).as_posix()
    for path in (file, *(Path(name) for name, _ in local_modules(file).files.values())):
        to = folder / path.relative_to(file.parent)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    return file.name


def _lay(path: Path, folder: Path, base: Path | None) -> str:
    """Lay out a file or a folder; return its path there."""
    if (
        base is not None
        and path.is_relative_to(base)
        and (folder / path.relative_to(base)).exists()
    ):
        return path.relative_to(base).as_posix()
    to = folder / "files" / path.name
    to.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, to)
    else:
        shutil.copyfile(path, to)
    return to.relative_to(folder).as_posix()


def _lay_journal(earlier: Path, folder: Path) -> str:
    """Lay out the journal of an earlier study, whole even while that is under way."""
    to = folder / "earlier" / earlier.resolve().name
    to.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(earlier / "journal.db")) as journal:
        copy_journal(journal, to / "journal.db")
    return to.relative_to(folder).as_posix()


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
