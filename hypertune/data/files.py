"""Where data files lie: inside of installed packages, or where a user has them."""

import importlib.util
from pathlib import Path


def in_package(package: str, file: str, *, extra: str = "") -> Path:
    """Return the path of a file that an installed package brings, without importing the package.

    Args:
        package: Its name, for Python and for pip.
        file: The file, seen from the package's folder.
        extra: The extra of this project that installs it; empty if the project needs it anyway.

    Raises:
        FileNotFoundError: The package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.exists():
        what = f"'hypertune[{extra}]'" if extra else package
        raise FileNotFoundError(
            f"'{file}' comes with the package {package}, which is not installed; "
            f"run: pip install {what}"
        )
    return path


def first_of(*paths: Path, hint: str) -> Path:
    """Return the first of these paths that exists.

    Raises:
        FileNotFoundError: None does; the message ends with ``hint``.
    """
    for path in paths:
        if path.exists():
            return path
    places = ", ".join(f"'{path}'" for path in paths)
    raise FileNotFoundError(f"none of {places} exists. {hint}")
