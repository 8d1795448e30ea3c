"""Folders and buckets: only the URI of a bucket has options."""

from pathlib import Path

import pytest

from hypertune.core.storage import below, is_bucket, listed, put, sqlite_path, sqlite_uri

ODD = ["what?dir", "50%", "pct%20dir", "a#b", 'it\'s "x"', "ü ö", "a&b=c"]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_is_what_it_is_called(name: str, tmp_path: Path) -> None:
    place = below(str(tmp_path / name), "checkpoints", "trial-000")
    file = tmp_path / "file"
    file.write_text("x")
    put(file, below(place, "epoch-1.tar"))

    assert (tmp_path / name / "checkpoints" / "trial-000" / "epoch-1.tar").is_file()
    assert listed(place) == ["epoch-1.tar"]
    assert not is_bucket(place)
    database = tmp_path / name / "mlflow.db"
    assert sqlite_path(sqlite_uri(database)) == database


def test_options_of_a_bucket_stay_at_its_end() -> None:
    assert below("s3://b/p?x=1", "a", "b") == "s3://b/p/a/b?x=1"
    assert is_bucket("s3://b/p")
    assert sqlite_path("postgresql://host/db") is None
