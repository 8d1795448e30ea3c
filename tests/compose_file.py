"""What docker/compose.yaml says, and the secrets that the page beside it makes."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def make_secrets(folder: Path) -> Path:
    """Return the folder of secrets that the page's commands make in a checkout."""
    (commands,) = re.findall(
        r"^```sh\n(.*?)^```", (DOCKER / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (folder / "docker").mkdir()
    subprocess.run(["sh", "-euc", commands], cwd=folder, check=True)
    return folder / "docker" / "secrets"
