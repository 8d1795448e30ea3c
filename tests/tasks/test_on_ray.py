"""Trials in a user's own code under a real Ray: whatever they do, the search goes on."""

import multiprocessing
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray import tune

from hypertune import Study, command
from hypertune.engine import StudyResult, run
from hypertune.journal.store import Journal
from hypertune.settings import Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("local_ray"),
    # Ray Tune, MLflow and what they import warn about each other and about themselves.
    pytest.mark.filterwarnings("default"),
]
HANG = "an epoch took longer than --trial-timeout (3 s)"


def go(
    tmp_path: Path, trainable: Any, what: list[str], **settings: Any
) -> tuple[StudyResult, Journal]:
    study = Study(
        question="Does it go on?",
        factors=("do",),
        space={"do": tune.choice(what)},
        default={"do": what[0]},
        fixed={"pids": str(tmp_path / "pids")},
        trainable=trainable,
        metric="loss",
        max_epochs=3,
        n_trials=len(what),
    )
    quick: dict[str, Any] = {
        "studies_dir": tmp_path / "studies",
        "sync_timeout_s": 0.0,
        "n_repeats": 0,
    }
    outcome = run(study, Settings(**quick, trial_timeout_s=3.0, **settings))
    return outcome, Journal(outcome.folder / "journal.db", read_only=True)


def gone(pids: Path) -> bool:
    """Wait until none of the processes in a file is there."""
    left, until = [int(pid) for pid in pids.read_text().split()], time.monotonic() + 10
    assert left
    while (left := [pid for pid in left if psutil.pid_exists(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return not left


def reasons(journal: Journal) -> dict[str, tuple[str | None, str]]:
    return {
        t.config["do"]: (t.reason, (t.detail or "").splitlines()[0] if t.detail else "")
        for t in journal.trials()
        if t.role == "search"
    }


def make_train() -> Callable[..., None]:
    """Return a function that travels by value: a worker cannot import this file."""

    def train(config: Any, report: Any) -> None:
        print("noise")  # noqa: T201
        if config["do"] == "hang":
            fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            fork.start()
            others = [
                subprocess.Popen(["sleep", "600"], start_new_session=s) for s in (True, False)
            ]
            with Path(config["pids"]).open("a") as file:
                file.writelines(f"{pid}\n" for pid in (fork.pid, *(o.pid for o in others)))
        start = 1
        if report.checkpoint is not None:
            start = int((report.checkpoint / "epoch").read_text()) + 1
        for epoch in range(start, config["max_epochs"] + 1):
            if epoch == 2 and config["do"] == "hang":
                time.sleep(600)
            if epoch == 2 and config["do"] == "typo":
                config["lerning_rate"]
            if epoch == 3 and config["do"] == "converge":
                return

            def save(folder: Path, epoch: int = epoch) -> None:
                (folder / "epoch").write_text(str(epoch))

            report(epoch=epoch, loss=1.0 / epoch, save=save)

    return train


def test_function_that_hangs_ends_with_its_children_and_the_search_goes_on(
    tmp_path: Path,
) -> None:
    what = ["hang", "fine", "typo", "converge"]
    outcome, journal = go(tmp_path, make_train(), what, method="grid")

    assert outcome.error is None
    ends = reasons(journal)
    assert ends["hang"] == ("failed", HANG)
    assert ends["fine"] == ("complete", "")
    assert ends["typo"][0] == "failed"
    assert ends["typo"][1].startswith("KeyError: 'lerning_rate' is not in the config. Choose one")
    assert ends["converge"] == ("converged", "no improvement any more after epoch 2")
    assert gone(tmp_path / "pids")
    for trial in journal.trials():
        if trial.config["do"] == "fine":
            assert [row.epoch for row in journal.results(trial=trial.id)] == [1, 2, 3]


SCRIPT = """
import json, os, subprocess, sys, time
do, pids, state = sys.argv[1], sys.argv[2], sys.argv[3] + "/epoch"
start = int(open(state).read()) + 1 if os.path.exists(state) else 1
if do == "hang":
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    open(pids, "a").write(f"{os.getpid()} {sleeper.pid} ")
for epoch in range(start, 4):
    if epoch == 2 and do == "hang":
        time.sleep(600)
    if epoch == 2 and do == "fail":
        sys.exit("no such luck")
    open(state + ".part", "w").write(str(epoch))
    os.replace(state + ".part", state)
    print(json.dumps({"epoch": epoch, "loss": 1.0 / epoch}))
    time.sleep(0.1)
"""


def test_command_that_hangs_ends_with_all_its_processes_and_the_search_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    line = f"{{python}} {tmp_path}/train.py {{do}} {{pids}} {{checkpoint_dir}}"
    outcome, journal = go(tmp_path, command(line), ["fine", "hang", "fail"], method="grid")

    assert outcome.error is None
    assert reasons(journal) == {
        "fine": ("complete", ""),
        "hang": ("failed", HANG),
        "fail": (
            "failed",
            "RuntimeError: the command ended with status 1 after epoch 1: no such luck",
        ),
    }
    assert gone(tmp_path / "pids")
