"""The lower bounds of the requirements, as the tests on the lowest versions install them."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "lowest.py"))
lowest: Callable[..., Iterator[str]] = SCRIPT["lowest"]


def test_each_package_comes_once_at_its_lower_bound() -> None:
    required = ["ray[tune]>=2.52,<3", "Pandas>=2.2.2; python_version > '3'", "pandas>=2.2.2"]
    assert list(lowest(required)) == ["ray==2.52", "pandas==2.2.2"]


def test_what_another_file_constrains_is_left_to_it() -> None:
    required = ["torch>=2.11", "typing_extensions>=4.1"]
    constrained = ["# the CPU build", "torch==2.13.0  # pinned", "", "typing-extensions<9"]
    assert list(lowest(required, constrained)) == []


@pytest.mark.parametrize("required", [["ray"], ["ray<3"], ["ray>=2.1", "ray>=2.2"]])
def test_a_package_without_one_lower_bound_is_refused(required: list[str]) -> None:
    with pytest.raises(ValueError, match="must have one lower bound"):
        list(lowest(required))


def test_the_project_has_a_lower_bound_for_all_that_it_requires() -> None:
    found = {Requirement(line).name for line in lowest(SCRIPT["requirements"]())}
    assert {"ray", "torch", "optuna", "hyperopt", "mlflow", "pandas", "pytest"} <= found
