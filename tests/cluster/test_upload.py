"""What travels with a study, and how its paths are spelled there."""

import shutil
from pathlib import Path

import pytest
from conftest import TOY
from made_studies import Made, write_study

from hypertune.cluster.upload import pack
from hypertune.core.data_options import OtherData
from hypertune.core.errors import SettingError
from hypertune.journal.store import Journal
from hypertune.settings import Settings
from hypertune.studies.study import load_study


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_study_file_travels_with_what_it_imports_from_beside_it_and_nothing_else(
    tmp_path: Path,
) -> None:
    there, to = tmp_path / "mine", tmp_path / "to"
    (there / "parts_of_mine").mkdir(parents=True)
    (there / "parts_of_mine" / "__init__.py").write_text("SLEEP_S = 0.0\n")
    (there / "secrets.txt").write_text("no")
    text = TOY.read_text().replace("import time\n", "import time\nimport parts_of_mine\n")
    (there / "mine.py").write_text(text)
    to.mkdir()
    space = str(there / "mine.py")
    upload = pack(space, load_study(space), Settings(), to)
    assert names(to) == {"mine.py", "parts_of_mine/__init__.py"}
    assert upload.flags == {"space": "mine.py"}
    assert upload.n_bytes == len(text) + len("SLEEP_S = 0.0\n")
    assert load_study(str(to / "mine.py")).question == "Does anything get lost?"


def test_data_start_and_an_earlier_journal_travel_and_a_study_that_came_along_does_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "table.csv").write_text("y\n1\n")
    (tmp_path / "start.json").write_text("{}")
    earlier = write_study(tmp_path / "studies" / "old-1", [Made(losses=[1.0])])
    assert (earlier / "journal.db").is_file()
    settings = Settings(
        other_data=OtherData(csv=tmp_path / "a" / "table.csv", target="y"),
        start=tmp_path / "start.json",
        from_study="old-1",
        studies_dir=tmp_path / "studies",
    )
    to = tmp_path / "to"
    to.mkdir()
    upload = pack("gru_window", load_study("gru_window"), settings, to)
    assert upload.flags == {
        "csv": "files/table.csv",
        "start": "files/start.json",
        "from": "earlier/old-1",
    }
    assert names(to) == {"files/table.csv", "files/start.json", "earlier/old-1/journal.db"}
    with_copy = Journal(to / "earlier" / "old-1" / "journal.db", read_only=True)
    with_own = Journal(earlier / "journal.db", read_only=True)
    assert with_copy.trials() == with_own.trials() != []


def test_of_a_working_dir_all_travels_but_caches_and_records(tmp_path: Path) -> None:
    base, to = tmp_path / "base", tmp_path / "to"
    for name in ("data/x.csv", ".git/config", "__pycache__/a.pyc", "studies/a/journal.db"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("x")
    shutil.copyfile(TOY, base / "mine.py")
    (base / "mlflow.db").write_text("x")
    to.mkdir()
    space = str(base / "mine.py")
    settings = Settings(
        other_data=OtherData(csv=base / "data" / "x.csv"), studies_dir=base / "studies"
    )
    upload = pack(space, load_study(space), settings, to, working_dir=base)
    assert names(to) == {"mine.py", "data/x.csv"}
    assert upload.flags == {"space": "mine.py", "csv": "data/x.csv"}


def test_what_is_too_much_or_not_there_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "big.csv").write_text("y\n" + "1\n" * 1000)
    to = tmp_path / "to"
    to.mkdir()
    study = load_study("gru_window")
    settings = Settings(other_data=OtherData(csv=tmp_path / "big.csv"))
    upload = pack("gru_window", study, settings, to)
    upload.check(3000)
    with pytest.raises(SettingError, match=r"less than 0 MB .* \(files/big.csv 0 MB\)"):
        upload.check(2000)
    gone = Settings(other_data=OtherData(npz=tmp_path / "gone.npz"))
    with pytest.raises(SettingError, match=r"cannot be read: .*gone.npz"):
        pack("gru_window", study, gone, to)
    with pytest.raises(SettingError, match="--working-dir must be a folder"):
        pack("gru_window", study, Settings(), to, working_dir=tmp_path / "nowhere")


def test_a_searcher_and_a_scheduler_of_ones_own_travel_with_what_they_import(
    tmp_path: Path,
) -> None:
    there, to = tmp_path / "mine", tmp_path / "to"
    there.mkdir()
    to.mkdir()
    (there / "beside_them.py").write_text("X = 1\n")
    (there / "propose.py").write_text("import beside_them\n")
    (there / "rule.py").write_text("")
    settings = Settings(method=f"{there}/propose.py:A", scheduler=f"{there}/rule.py:B")
    upload = pack("gru_window", load_study("gru_window"), settings, to)
    assert names(to) == {"propose.py", "beside_them.py", "rule.py"}
    assert upload.flags == {"method": "propose.py:A", "scheduler": "rule.py:B"}
