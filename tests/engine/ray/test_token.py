"""Ray's token is its owner's alone, from its first moment on."""

import os
import stat
from pathlib import Path

import pytest

from hypertune.core.errors import SettingError
from hypertune.engine.ray.token import secure_token


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_in_a_closed_folder_and_stays(home: Path) -> None:
    before = os.umask(0)
    try:
        secure_token()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    text = token.read_text()
    assert len(text) == 64
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert list(token.parent.iterdir()) == [token]
    secure_token()
    assert token.read_text() == text


def test_an_open_token_is_closed(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o755)
    token.write_text("mine")
    token.chmod(0o644)
    secure_token()
    assert token.read_text() == "mine"
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("whose", ["auth_token", "."])
def test_a_token_of_another_user_is_refused(whose: str, home: Path) -> None:
    secure_token()
    os.chown(home / ".ray" / whose, 12345, 12345)
    with pytest.raises(SettingError, match="belongs to the user with the id 12345"):
        secure_token()


def test_the_environment_says_where_the_token_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "common").mkdir(mode=0o755)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "common" / "token"))
    secure_token()
    assert mode(home / "common" / "token") == 0o600
    assert mode(home / "common") == 0o755  # it may be there for other things
    (home / "common" / "token").unlink()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    secure_token()
    assert [path.name for path in home.rglob("*")] == ["common"]


def test_what_cannot_be_made_is_told(home: Path) -> None:
    (home / ".ray").write_text("a file in the way")
    with pytest.raises(SettingError, match="cannot be made or kept from others"):
        secure_token()
