"""A study as a job of a real Ray: sent, followed, left alone, and stopped."""

import contextlib
import sys
from pathlib import Path

import pytest
from conftest import TOY

from hypertune import cli
from hypertune.cluster import Cluster, Job
from hypertune.engine import Progress
from hypertune.journal.store import Journal


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_study_runs_as_a_job_that_whoever_sent_it_may_leave_and_stop(
    local_ray: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hypertune", *args, "--address", local_ray])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert said.err == ""
        return int(end.value.code or 0), said.out

    laptop, there = tmp_path / "laptop", tmp_path / "there"
    laptop.mkdir()
    (laptop / "beside.py").write_text("SLEEP_S = 0.1\n")
    text = TOY.read_text().replace('"sleep_s": 0.0', '"sleep_s": SLEEP_S')
    (laptop / "mine.py").write_text("from beside import SLEEP_S\n" + text)
    monkeypatch.chdir(laptop)
    args = ["--space", "mine.py", "--name", "distant", "--method", "random", "--n-trials", "500"]
    args += ["--sync-timeout", "3m"]
    status, out = call("submit", *args, "--studies-dir", str(there / "studies"), "--no-wait")
    assert status == 0
    assert "Sent as job distant." in out
    assert f"hypertune attach distant --address {local_ray}" in out

    server, seen = Cluster(local_ray), list[Progress]()

    def look(progress: Progress | None, job: Job) -> None:
        if progress is not None and progress.n_epochs > 0:
            seen.append(progress)
            raise KeyboardInterrupt  # as Ctrl-C does

    with pytest.raises(KeyboardInterrupt):
        server.follow("distant", look)
    assert (seen[0].n_trials, seen[0].metric, seen[0].stage) == (500, "loss", "search")
    assert "RUNNING" in call("jobs")[1]

    status, out = call("stop", "distant")
    assert status == 0
    for expected in ("by signal; all that was measured is kept", "Job distant: STOPPED."):
        assert expected in out
    # It had the time to bring MLflow up to date, though its uploader was told to end as well.
    assert "up to date" in out
    assert "Starting Ray ..." in call("logs", "distant")[1]
    assert "has ended already" in call("stop", "distant")[1]
    path = there / "studies" / "distant" / "journal.db"
    with contextlib.closing(Journal(path, read_only=True)) as journal:
        assert journal.events(kind="search_end")[-1].data["stopped_by"] == "signal"
        assert {trial.state for trial in journal.trials()} == {"ended"}
        assert len(journal.results()) >= seen[0].n_epochs
    assert sorted(p.name for p in laptop.iterdir() if p.name != "__pycache__") == [
        "beside.py",
        "mine.py",
    ]
