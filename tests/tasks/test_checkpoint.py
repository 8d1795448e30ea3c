"""Checkpoints in a folder and in a bucket behave alike: whole or not there, the newest two kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from hypertune.core.storage import below, drop, fetch, is_bucket, listed, n_bytes, put
from hypertune.tasks.checkpoint import (
    DamagedError,
    check_sealed,
    checkpoint_epoch,
    fetch_checkpoint,
    newest_checkpoint,
    opened,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of an S3 server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        options = f"endpoint_override=http://{host}:{port}&region=us-east-1"
        system, path = fs.FileSystem.from_uri(f"s3://studies?{options}&allow_bucket_creation=true")
        system.create_dir(path)
        yield f"s3://studies/mine?{options}"
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path)
    return below(request.getfixturevalue("bucket"), tmp_path.name)


def write(place: str, epoch: int) -> None:
    def save(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_text(str(epoch))

    write_checkpoint(place, epoch, save)


def test_newest_two_stay_and_can_be_read(root: str) -> None:
    place = below(root, "trial-000")
    for epoch in (1, 3, 9):
        write(place, epoch)

    assert newest_checkpoint(place, 2) is None
    before, newest = newest_checkpoint(place, 8), newest_checkpoint(place, 99)
    assert before is not None
    assert newest is not None
    assert (before[0], newest[0]) == (3, 9)
    folder = fetch_checkpoint(newest[1]) if is_bucket(root) else Path(newest[1])
    assert (folder / "inner" / "weights").read_text() == "9"
    assert n_bytes(place) >= 2
    assert len(listed(place)) == 2


def test_one_that_is_cut_short_is_not_there(root: str) -> None:
    place = below(root, "trial-001")
    write(place, 1)

    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_checkpoint(place, 2, fail)
    newest = newest_checkpoint(place, 9)
    assert newest is not None
    assert newest[0] == 1


def test_what_is_dropped_is_gone_and_may_be_dropped_again(root: str) -> None:
    for trial in ("trial-000", "trial-001"):
        write(below(root, trial), 1)
    for _ in range(2):
        drop(below(root, "trial-000"))
    assert newest_checkpoint(below(root, "trial-000"), 9) is None
    assert n_bytes(below(root, "trial-000")) == 0
    assert newest_checkpoint(below(root, "trial-001"), 9) is not None


def test_options_of_a_uri_stay_at_its_end() -> None:
    assert below("s3://a/b?region=x", "c", "d") == "s3://a/b/c/d?region=x"
    assert below("/a/b/", "c") == "/a/b/c"


def harm(checkpoint: str, how: str, scratch: Path) -> None:
    """Damage a checkpoint in a folder or in a bucket."""
    if is_bucket(checkpoint):
        file = scratch / "archive"
        fetch(checkpoint, file)
        whole = file.read_bytes()
        changed = {"truncated": whole[:700], "zeros": bytes(len(whole)), "garbage": b"x" * 4000}
        file.write_bytes(changed[how])
        put(file, checkpoint)
        return
    file = Path(checkpoint, "inner", "weights")
    size = file.stat().st_size
    file.write_bytes({"truncated": b"", "zeros": bytes(size), "garbage": b"x" * size}[how])


@pytest.mark.parametrize("how", ["truncated", "zeros", "garbage"])
def test_one_that_is_not_what_was_written_is_never_opened(
    how: str, root: str, tmp_path: Path
) -> None:
    place = below(root, f"trial-{how}")
    write(place, 1)
    newest = newest_checkpoint(place, 9)
    assert newest is not None
    harm(newest[1], how, tmp_path)
    with pytest.raises(DamagedError, match="is damaged: ") as caught, opened(newest[1]):
        pytest.fail("it was opened")
    assert caught.value.place == newest[1]
    assert checkpoint_epoch(newest[1]) == 1


def test_its_files_are_brought_to_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(path: Path) -> None:
        synced.append(str(path.relative_to(tmp_path)))

    monkeypatch.setattr("hypertune.tasks.checkpoint.sync", note)
    write(str(tmp_path / "trial-000"), 1)
    assert sorted(synced[:-1]) == [
        f"trial-000/epoch-1.part{name}"
        for name in ("", "/.hypertune-files.json", "/inner", "/inner/weights")
    ]
    assert synced[-1] == "trial-000"


def test_files_that_were_added_do_not_matter(tmp_path: Path) -> None:
    write(str(tmp_path), 1)
    (tmp_path / "epoch-1" / "lock").touch()
    check_sealed(tmp_path / "epoch-1")
