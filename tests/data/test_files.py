"""Data lie in installed packages or where a user has them; what is missing says what to do."""

from pathlib import Path

import pytest

from hypertune.data.files import first_of, in_package


def test_file_of_a_package_is_found_without_importing_it() -> None:
    assert in_package("pmdarima", "datasets/taylor.py").is_file()


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("no_such_package", "", "pip install no_such_package"),
        ("numpy", "", "pip install numpy"),
        ("no_such_package", "images", "pip install 'hypertune[images]'"),
    ],
)
def test_missing_package_says_what_to_install(package: str, extra: str, command: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        in_package(package, "no/such/file.txt", extra=extra)

    assert str(error.value).endswith(
        f"comes with the package {package}, which is not installed; run: {command}"
    )


def test_first_place_that_exists_is_taken_else_all_are_named(tmp_path: Path) -> None:
    there, nowhere = tmp_path / "there", tmp_path / "nowhere"
    there.mkdir()

    assert first_of(nowhere, there, hint="Look.") == there
    with pytest.raises(FileNotFoundError, match=r"nowhere' exists\. Look\."):
        first_of(nowhere, hint="Look.")
