"""The way in from Python."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from one_worker import OneWorker

import hypertune
from hypertune.engine.progress import Progress
from hypertune.journal.store import Journal
from hypertune.studies.study import Study

pytestmark = pytest.mark.filterwarnings("default")


class StoppedError(Exception):
    """What a program of a user does on SIGTERM."""


@pytest.fixture
def on_sigterm() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGTERM, stop)
    # A shell has what it runs in the background ignore a Ctrl-C.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, ctrl_c)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("number", "effect"),
    [(signal.SIGTERM, StoppedError), (signal.SIGINT, KeyboardInterrupt)],
)
@pytest.mark.parametrize("stage", ["search", "report"])
@pytest.mark.usefixtures("on_sigterm")
def test_a_signal_ends_a_loop_over_studies_once_the_present_one_is_closed(
    number: signal.Signals,
    effect: type[BaseException],
    stage: str,
    toy: Study,
    one: OneWorker,
    tmp_path: Path,
) -> None:
    sent: list[int] = []

    def observe(progress: Progress) -> None:
        if not sent and progress.n_epochs >= 4 and progress.stage == stage:
            sent.append(number)
            signal.raise_signal(number)

    settings: dict[str, Any] = {"studies_dir": tmp_path, "method": "random", "n_repeats": 0}

    def loop() -> None:
        for _ in range(3):
            hypertune.run(toy, observer=observe, n_trials=2, **settings)

    with pytest.raises(effect):
        loop()

    (folder,) = [path for path in tmp_path.iterdir() if (path / "journal.db").exists()]
    journal = Journal(folder / "journal.db", read_only=True)
    (end,) = journal.events(kind="search_end")
    assert end.data["stopped_by"] == ("signal" if stage == "search" else None)
    assert all(trial.state == "ended" for trial in journal.trials())
    journal.close()
