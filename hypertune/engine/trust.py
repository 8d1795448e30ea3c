"""Which study files are run that only a journal names.

A study file is code, and a journal says where that of its study lies. A folder that somebody else
handed over must not choose what is run here, and who owns the files proves nothing: an unpacked
archive belongs to whoever unpacks it. So hypertune notes, outside of all studies, which studies
this user began on this machine, or said to trust. The file of any other study is run only once it
is trusted, or named with ``--space``.
"""

import contextlib
import json
import os
import stat
from pathlib import Path

from hypertune.journal.store import Journal


def trust(study_id: str, source: str) -> None:
    """Note that a study's file may be run.

    Where nothing can be written (a home that is read-only), the study is asked about again.
    """
    path = _notes()
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note = (json.dumps([study_id, source]) + "\n").encode()
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, note)
        finally:
            os.close(file)


def trust_study(folder: Path) -> None:
    """Note that the files which a study's journal names may be run.

    Raises:
        JournalError: There is no readable journal.
    """
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        about = journal.study()
    for file in (about.get("source"), *about.get("plug_files", ())):
        trust(str(about.get("study_id")), str(file))


def is_trusted(study_id: str, source: str) -> bool:
    """Say whether a study's file may be run, by notes that nobody else can have written."""
    try:
        with _notes().open("rb") as notes:
            about = os.fstat(notes.fileno())
            if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return False
            return json.dumps([study_id, source]).encode() in notes.read().splitlines()
    except OSError:
        return False


def _notes() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "hypertune" / "trusted"
