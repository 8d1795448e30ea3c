"""Prints the lower bound of every requirement in pyproject.toml, as constraints for pip.

Usage: lowest.py [FILE ...], with files of constraints whose packages are left to them.
"""

import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def lowest(requirements: Iterable[str], constrained: Iterable[str] = ()) -> Iterator[str]:
    """Yield ``name==version`` for the lower bound of each requirement, each name once.

    Args:
        requirements: As pyproject.toml has them.
        constrained: Lines of a file of constraints.

    Raises:
        ValueError: A requirement has no lower bound, or a package has several.
    """
    left_out = {
        canonicalize_name(Requirement(text).name)
        for line in constrained
        if (text := line.partition("#")[0].strip())
    }
    bounds: dict[str, str] = {}
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        found = [s.version for s in requirement.specifier if s.operator == ">="]
        if len(found) != 1 or bounds.setdefault(name, found[0]) != found[0]:
            raise ValueError(
                f"{requirement}: {name} must have one lower bound, the same everywhere"
            )
    yield from (f"{name}=={bound}" for name, bound in bounds.items() if name not in left_out)


def requirements(project: Path = PROJECT) -> list[str]:
    """Return all requirements of the project, those of its extras among them."""
    about = tomllib.loads(project.read_text())["project"]
    extras = about["optional-dependencies"].values()
    return [*about["dependencies"], *(text for extra in extras for text in extra)]


if __name__ == "__main__":
    constraints = [line for file in sys.argv[1:] for line in Path(file).read_text().splitlines()]
    sys.stdout.writelines(f"{line}\n" for line in lowest(requirements(), constraints))
