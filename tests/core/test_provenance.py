"""What the code was when a study ran is kept, with its uncommitted changes."""

import subprocess
from pathlib import Path

import pytest

from hypertune.core import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A commit of a file of our own, in which the code seems to lie."""
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "code.py").write_text("old\n")
    for command in (["init", "-q"], ["add", "code.py"], [*who, "commit", "-q", "-m", "First"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_uncommitted_changes_are_told_up_to_a_length(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert provenance.uncommitted() == ""
    assert provenance.environment()["git_dirty"] is False
    (checkout / "code.py").write_text("new\n")
    text = provenance.uncommitted()
    assert "-old\n+new\n" in text
    assert provenance.environment()["git_dirty"] is True
    monkeypatch.setattr(provenance, "_DIFF_CHARS", 20)
    assert provenance.uncommitted() == f"{text[:20]}\n(cut: {len(text) - 1} characters in all)\n"


def test_outside_of_a_checkout_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.uncommitted() == ""
    assert provenance.environment()["git_commit"] is None


def test_the_command_is_kept_without_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://u:1 2/'x@host/db"
    monkeypatch.setattr("sys.argv", ["run.py", f"--tracking-uri={uri}", "--token", "x y", "--ok"])

    command = provenance.environment()["command"]
    assert command == "run.py '--tracking-uri=postgresql://***@host/db' --token '***' --ok"
