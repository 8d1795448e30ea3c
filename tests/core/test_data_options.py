"""Which data a study runs on: what is held, recorded and refused."""

from pathlib import Path

import pytest

from hypertune.core.data_options import OtherData
from hypertune.core.errors import SettingError


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        OtherData(csv=Path("\udce9"), target=3)  # type: ignore[arg-type]

    csv, target = str(caught.value).splitlines()
    assert csv.startswith("--csv must be UTF-8 without NUL, but got '")
    assert target == "--target must be text, but got 3."


def test_a_record_means_the_same_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = OtherData(csv="table.csv", target="y")  # type: ignore[arg-type]  # text for a path

    assert asked.csv == Path("table.csv")
    assert OtherData.recorded(asked.record()) == OtherData(csv=tmp_path / "table.csv", target="y")
