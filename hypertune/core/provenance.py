"""Where a study came from: code, machine and versions, so that it can be run again."""

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from hypertune.core.text import redact_command

_DIFF_CHARS = 1_000_000
_PACKAGES = ("hypertune", "ray", "torch", "optuna", "mlflow", "numpy", "pandas", "scikit-learn")


def environment() -> dict[str, Any]:
    """Return versions, the machine, the command line and the state of the code, as plain values."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join(redact_command(sys.argv)),  # it may hold the store's password
        "cpus": os.cpu_count(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def uncommitted() -> str:
    """Return the changes of the code that runs here against its commit; empty without any.

    Nothing in it is hidden, and of long ones only the first million characters are kept.
    """
    text = _git("diff", "HEAD") or ""
    if len(text) > _DIFF_CHARS:
        text = f"{text[:_DIFF_CHARS]}\n(cut: {len(text)} characters in all)"
    return text + "\n" if text else ""


def _git(*args: str) -> str | None:
    """Return what git says of the code that runs here; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", *args],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
