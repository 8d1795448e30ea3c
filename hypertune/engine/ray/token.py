"""Ray's token: who has it may run any code as the user that Ray runs as."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from ray._private.authentication.authentication_token_generator import (
    generate_new_authentication_token,
)

from hypertune.core.errors import SettingError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def token_path() -> Path:
    """Return where Ray looks for its token: where RAY_AUTH_TOKEN_PATH says, else at home."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(given) if given else Path.home() / ".ray" / "auth_token"


def make_token() -> Path:
    """Make Ray's token if there is none, readable by its owner alone; return its file.

    Ray would make one that all users of the machine can read.
    """
    path = token_path()
    if path.is_file():
        return path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".auth_token-") as file:
        file.write(generate_new_authentication_token())  # the file's mode is 0600 from its birth
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: its token counts
            os.link(file.name, path)
    return path


def secure_token() -> None:
    """See to it that a token is there, which no other user of this machine can read.

    One that is given by RAY_AUTH_TOKEN is only in this process's environment.

    Raises:
        SettingError: It belongs to another user, or cannot be made or closed.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = token_path()
    try:
        make_token()
        _close(path, 0o600)
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            _close(path.parent, 0o700)
    except OSError as error:
        raise SettingError(
            f"Ray's token in '{path}' cannot be made or kept from others: {error}. Name another "
            "file with RAY_AUTH_TOKEN_PATH."
        ) from error


def _close(path: Path, mode: int) -> None:
    """Take from others what they may do with a file or folder."""
    found = path.stat()
    if found.st_uid == os.geteuid():
        if found.st_mode & _OTHERS:
            path.chmod(mode)
    elif found.st_uid != 0:  # a secret of a container may be its administrator's
        raise SettingError(
            f"Ray's token must be yours, but '{path}' belongs to the user with the id "
            f"{found.st_uid}, who could run code as you: name a file of yours with "
            "RAY_AUTH_TOKEN_PATH."
        )
