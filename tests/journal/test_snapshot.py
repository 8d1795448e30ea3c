"""Copies of a journal: a study goes on where its driver has not been."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest

from hypertune.core.errors import JournalError, SettingError
from hypertune.journal.snapshot import Snapshots, catch_up, set_aside, study_place
from hypertune.journal.store import Journal

ID = "0123456789abcdef"


@pytest.fixture
def storage(tmp_path: Path) -> str:
    (tmp_path / "common").mkdir()
    return str(tmp_path / "common")


def test_no_journal_leads_away_from_the_storage() -> None:
    assert study_place("/common", "s1", ID) == "/common/s1-01234567"
    with pytest.raises(JournalError, match=r"letters and digits, .* has '/\.\./\.\./x'"):
        study_place("/common", "s1", "/../../x")


def begun(folder: Path, **study: Any) -> Journal:
    folder.mkdir(parents=True)
    journal = Journal(folder / "journal.db")
    journal.set_study(**{"study_id": ID, "name": folder.name} | study)
    session(journal, 1)
    return journal


def session(journal: Journal, trial: int) -> None:
    journal.add_event("search_start")
    journal.add_trial(trial, {"x": trial}, seed=trial)


def copied(journal: Journal, storage: str) -> None:
    about = journal.study()
    place = study_place(storage, about["name"], about["study_id"])
    with contextlib.closing(Snapshots(journal.path, place)) as snapshots:
        assert snapshots.take(at_once=True)


def trials(folder: Path) -> list[int]:
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        return [trial.id for trial in journal.trials()]


def test_a_copy_is_made_when_it_is_due_and_something_is_new(tmp_path: Path, storage: str) -> None:
    journal = begun(tmp_path / "here" / "s")
    snapshots = Snapshots(journal.path, study_place(storage, "s", ID))
    assert snapshots.take(at_once=False)
    journal.add_result(1, 1, {"loss": 1.0})
    assert not snapshots.take(at_once=False)
    assert snapshots.take(at_once=True)
    assert not snapshots.take(at_once=True)
    snapshots.close()
    journal.close()
    with contextlib.closing(Journal(snapshots.copy, read_only=True)) as copy:
        assert [row.metrics for row in copy.results()] == [{"loss": 1.0}]
    # One file each holds everything.
    assert [path.name for path in Path(storage).rglob("*.*")] == ["journal.db"]
    assert not list((tmp_path / "here").rglob("snapshot.db-*"))


def test_a_study_goes_on_elsewhere_and_back_again(tmp_path: Path, storage: str) -> None:
    here, there = tmp_path / "here" / "s", tmp_path / "there" / "s"
    with contextlib.closing(begun(here)) as journal:
        assert not catch_up(here, storage)  # there is no copy yet
        copied(journal, storage)
        journal.add_trial(2, {"x": 2}, seed=2)  # lost with this machine

    assert not catch_up(here, storage)  # what is here is newer
    assert trials(here) == [1, 2]
    assert catch_up(there, storage)
    assert trials(there) == [1]
    with contextlib.closing(Journal(there / "journal.db")) as journal:
        session(journal, 3)
        copied(journal, storage)
    assert not catch_up(there, storage)

    assert catch_up(here, storage)
    assert trials(here) == [1, 3]
    with contextlib.closing(Journal(here / "journal-superseded-1.db")) as old:
        assert [trial.id for trial in old.trials()] == [1, 2]


def test_a_journal_that_is_set_aside_is_told_with_what_is_in_which(
    tmp_path: Path, storage: str
) -> None:
    here, there = tmp_path / "here" / "s", tmp_path / "there" / "s"
    with contextlib.closing(begun(here)) as journal:
        copied(journal, storage)
        journal.add_event("search_start", data={"home": {"host": "old"}})
        for trial in (2, 3):
            journal.add_trial(trial, {"x": 2}, seed=2)
            journal.add_result(trial, 1, {"loss": 1.0})
    assert catch_up(there, storage)
    assert set_aside(there) == []
    with contextlib.closing(Journal(there / "journal.db")) as journal:
        journal.add_event("search_start", data={"home": {"host": "new"}})
        journal.add_trial(2, {"x": 3}, seed=3)
        copied(journal, storage)

    assert catch_up(here, storage)
    with contextlib.closing(Journal(here / "journal.db")) as journal:
        (event,) = journal.events(kind="superseded")
        assert journal.last_ids()[0] == event.id
    sides = {k: (event.data[k]["n_trials"], event.data[k]["n_results"]) for k in ("here", "there")}
    assert sides == {"here": (2, 2), "there": (1, 0)}
    (text,) = set_aside(here)
    assert re.fullmatch(
        r"Two machines went on with this study\. The journal that was here \(of 'old', until "
        r"[\d :-]+, 2 trials and 2 results that the other one lacks\) is kept as "
        r"journal-superseded-1\.db; the study goes on with that of the storage \(of 'new', until "
        r"[\d :-]+, 1 trial and 0 results that the other one lacks\)\.",
        text,
    )
    # Of one that was set aside before, and is only a file by now, that much is said.
    (here / "journal-superseded-2.db").touch()
    assert set_aside(here)[1].startswith("journal-superseded-2.db holds what another machine's")


def test_a_journal_that_lacks_only_what_came_later_is_replaced_without_fuss(
    tmp_path: Path, storage: str
) -> None:
    here, there = tmp_path / "here" / "s", tmp_path / "there" / "s"
    with contextlib.closing(begun(here)) as journal:
        copied(journal, storage)
    assert catch_up(there, storage)
    with contextlib.closing(Journal(there / "journal.db")) as journal:
        session(journal, 2)
        copied(journal, storage)
    assert catch_up(here, storage)
    assert trials(here) == [1, 2]
    assert set_aside(here) == []
    assert not list(here.glob("journal-superseded*"))


def test_a_journal_in_which_nothing_has_begun_is_in_no_ones_way(
    tmp_path: Path, storage: str
) -> None:
    with contextlib.closing(begun(tmp_path / "here" / "s")) as journal:
        copied(journal, storage)
    there = tmp_path / "there" / "s"
    there.mkdir(parents=True)
    (there / "journal.db").touch()
    assert catch_up(there, storage)
    assert trials(there) == [1]


def test_what_is_not_there_is_told(tmp_path: Path, storage: str) -> None:
    with pytest.raises(SettingError, match=r"There is no study 's' in '.*'\. There is none\."):
        catch_up(tmp_path / "s", storage)
    for study_id in (ID, ID[::-1]):
        with contextlib.closing(begun(tmp_path / study_id / "s1", study_id=study_id)) as journal:
            copied(journal, storage)
    with pytest.raises(SettingError, match="Choose one of: s1"):
        catch_up(tmp_path / "s2", storage)
    with pytest.raises(SettingError, match="There are 2 studies 's1' in"):
        catch_up(tmp_path / "s1", storage)
    with pytest.raises(SettingError, match="cannot be read"):
        catch_up(tmp_path / "s1", "s3://none/where?endpoint_override=127.0.0.1:9&region=x")
    assert not (tmp_path / "s1").exists()
