"""A script as a trial: what it prints is reported, and all that it began ends with its job."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Make
from ray import tune

from hypertune.core.space import Space
from hypertune.core.task import TrialEnded
from hypertune.engine.ray.worker import Worker, WorkerJob
from hypertune.tasks.checkpoint import newest_checkpoint, seal
from hypertune.tasks.command import CommandLoop, command

CONFIG = {
    "x": 2.0,
    "opt": {"name": "a b; rm -rf '$HOME'", "rate": 1e-05},
    "max_epochs": 4,
    "seed": 7,
}
SCRIPT = """
import json, os, sys, time
x, state = float(sys.argv[1]), os.path.join(sys.argv[2], "epoch")
start = int(open(state).read()) + 1 if os.path.exists(state) else 1
print("begins at", start)
for epoch in range(start, 5):
    with open(state + ".part", "w") as file:
        file.write(str(epoch))
    os.replace(state + ".part", state)
    print(json.dumps({"epoch": epoch, "loss": x / epoch, "note": "fine"}))
"""
FOREVER = """
import json, subprocess, sys, time
child = [sys.executable, "-c", "import time; time.sleep(600)"]
pids = [subprocess.Popen(child).pid, subprocess.Popen(child, start_new_session=True).pid]
print(json.dumps({"loss": 1.0, "first": pids[0], "second": pids[1]}))
time.sleep(600)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def script(text: str) -> str:
        path = tmp_path / "a script.py"
        path.write_text(text)
        return str(path)

    return script


@pytest.fixture
def results_of(make_worker: Make, job: WorkerJob) -> Callable[..., list[dict[str, Any]]]:
    def results_of(line: Any, report: str = "stdout", **changes: Any) -> list[dict[str, Any]]:
        job_ = replace(job, **{"config": CONFIG, "to_epoch": 4, **changes})
        return run(make_worker(job_, command(line, report=report)))

    return results_of


def run(worker: Worker) -> list[dict[str, Any]]:
    results = [worker.train()]
    while not results[-1]["done"]:
        results.append(worker.train())
    return results


def python(code: str) -> list[str]:
    return ["{python}", "-c", code.replace("{", "{{").replace("}", "}}")]


def alive(pid: float) -> bool:
    return psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != "zombie"


def gone(*pids: float) -> bool:
    """Wait until none of the processes is there."""
    until = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_lines_are_reports_and_the_next_job_goes_on_from_the_state(
    make_worker: Make, job: WorkerJob, script: Callable[[str], str]
) -> None:
    task = command(["{python}", script(SCRIPT), "{x}", "{checkpoint_dir}"])
    job = replace(job, config=CONFIG, to_epoch=2)
    worker = make_worker(job, task)
    first = run(worker)
    newest = newest_checkpoint(job.folder, up_to=9)
    assert newest is not None
    worker.reset(replace(job, to_epoch=4, checkpoint=str(newest[1])).to_dict())
    second = run(worker)

    results = first + second
    assert [(r["epoch"], r["metrics"]) for r in results] == [
        (epoch, {"loss": 2.0 / epoch}) for epoch in (1, 2, 3, 4)
    ]
    assert task.saves


def test_an_epoch_whose_state_was_saved_is_reported_though_its_line_came_later(
    make_worker: Make, job: WorkerJob, script: Callable[[str], str]
) -> None:
    late = SCRIPT.replace("    print(json", "    time.sleep(0.1 * (epoch > 1))\n    print(json")
    task = command(["{python}", script(late), "{x}", "{checkpoint_dir}"])
    job = replace(job, config=CONFIG, to_epoch=1)
    worker = make_worker(job, task)
    results = run(worker)
    for epoch in (2, 3, 4):
        newest = newest_checkpoint(job.folder, up_to=9)
        assert newest is not None
        worker.reset(replace(job, to_epoch=epoch, checkpoint=str(newest[1])).to_dict())
        results += run(worker)
    assert [r["epoch"] for r in results] == [1, 2, 3, 4]


def test_what_is_reported_early_is_kept(tmp_path: Path, script: Callable[[str], str]) -> None:
    task = command(["{python}", script(SCRIPT), "{x}", "{checkpoint_dir}"])
    first, second = (task.start(CONFIG, None, metric="loss", mode="min") for _ in range(2))
    assert first.step() == {"loss": 2.0}
    assert first._process is not None
    first._process.wait()
    first.save(tmp_path)
    second.load(tmp_path)

    assert [second.step()["loss"] for _ in range(3)] == [2 / 2, 2 / 3, 2 / 4]
    assert second._process is None
    with pytest.raises(TrialEnded):  # its state is that of the last epoch
        second.step()
    first.close()
    second.close()


@pytest.mark.parametrize(("saved", "epochs"), [(1, [3, 4]), (2, [3, 4]), (3, [4]), (4, [2])])
def test_state_may_lag_behind_what_was_reported_or_be_ahead_of_it(
    saved: int,
    epochs: list[int],
    make_worker: Make,
    job: WorkerJob,
    script: Callable[[str], str],
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "epoch-2"
    (checkpoint / "state").mkdir(parents=True)
    (checkpoint / "state" / "epoch").write_text(str(saved))
    (checkpoint / "epoch.json").write_text("2")
    (checkpoint / "early.json").write_text('{"first": 1, "reports": []}')
    seal(checkpoint)
    job = replace(job, config=CONFIG, to_epoch=4, checkpoint=str(checkpoint))

    results = run(
        make_worker(job, command(["{python}", script(SCRIPT), "{x}", "{checkpoint_dir}"]))
    )

    assert [r["epoch"] for r in results] == epochs
    assert (results[-1]["failure"], results[-1]["converged"]) == (None, saved == 4)


def test_epochs_may_be_counted_from_zero_or_not_at_all_and_the_command_may_end_early(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    for line in ("{'epoch': e, 'loss': 1.0}", "{'loss': 1.0}"):
        code = f"import json\nfor e in (0, 1): print('  ' + json.dumps({line}))"
        results = results_of(python(code))
        assert [r["epoch"] for r in results] == [1, 2, 2]
        assert (results[-1]["converged"], results[-1]["failure"]) == (True, None)
        assert results[-1]["epochs"] == []


def test_reports_may_come_in_a_file(results_of: Callable[..., list[dict[str, Any]]]) -> None:
    code = "import sys\nwith open(sys.argv[1], 'w') as f: f.write('{\"loss\": 3}\\n{\"loss\": 2}')"
    results = results_of(
        [*python("print('{\"loss\": 9}')\n" + code), "{work_dir}/log.jsonl"],
        report="{work_dir}/log.jsonl",
        to_epoch=2,
    )

    assert [r["metrics"]["loss"] for r in results] == [3.0, 2.0]


def test_arguments_go_through_no_shell(
    results_of: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    told = tmp_path / "told.json"
    code = (
        "import json, sys\njson.dump(sys.argv[1:], open(sys.argv[1], 'w')); print('{\"loss\": 1}')"
    )
    line = [*python(code), str(told), "{opt.name}", "--rate={opt.rate}", "{x:.2f}", "{opt}"]
    results_of([*line, "{config_json}", "{device}", "{{}}"], to_epoch=1)

    _, name, rate, x, opt, whole, device, braces = json.loads(told.read_text())
    assert name == "a b; rm -rf '$HOME'"
    assert (rate, x, device, braces) == ("--rate=1e-05", "2.00", "cpu", "{}")
    assert json.loads(opt) == CONFIG["opt"]
    assert json.loads(whole) == {**CONFIG, "device": "cpu"}


def test_environment_is_passed_on(
    results_of: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    code = "import os; print('{\"loss\": ' + os.environ['CUDA_VISIBLE_DEVICES'] + '}')"

    assert results_of(python(code), to_epoch=1)[0]["metrics"] == {"loss": 3.0}


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (
            "import sys; print('hello'); sys.exit('no such\\nluck')",
            "the command ended with status 1 before its first report: luck\nhello\nno such\nluck",
        ),
        (
            "import sys; print('{\"loss\": 1}'); print('so'); sys.exit(3)",
            "the command ended with status 3 after epoch 1: so\nso",
        ),
        (
            "import os; os.kill(os.getpid(), 11)",
            "the command was ended by SIGSEGV before its first report",
        ),
        ("pass", "the command ended with status 0 without a report of 'loss'"),
        (
            "print('{\"los\": 1}')",
            "the command ended with status 0 without a report of 'loss', but of los. Did you mean",
        ),
        ("print('{\"loss\": NaN}')", "loss is nan in epoch 1"),
        ("print('{\"loss\": null}')", "loss must be a number, but got None"),
        ('print(\'{"loss": 1, "epoch": 2}\')', "epochs must be counted from 0 or 1, but the fir"),
        (
            'print(\'{"loss": 1, "epoch": 1}\'); print(\'{"loss": 1, "epoch": 3}\')',
            "epochs must be reported one by one: 2 is next, but got 3",
        ),
        (
            'print(\'{"loss": 1, "epoch": 0}\'); print(\'{"loss": 1, "epoch": 0.5}\')',
            "epoch must be an integer, but got 0.5",
        ),
    ],
)
def test_what_goes_wrong_is_told(
    code: str, failure: str, results_of: Callable[..., list[dict[str, Any]]]
) -> None:
    last = results_of(python(code))[-1]

    assert last["failure"].partition("Error: ")[2].startswith(failure) or last[
        "failure"
    ].startswith(failure)


def test_program_that_is_not_there_is_told(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    (result,) = results_of("./none")

    assert result["failure"].startswith("FileNotFoundError: ")
    assert "./none" in result["failure"]


def test_all_processes_of_a_command_end_with_its_job(
    results_of: Callable[..., list[dict[str, Any]]],
) -> None:
    (result,) = results_of(python(FOREVER), to_epoch=1)

    assert result["failure"] is None
    assert gone(result["metrics"]["first"], result["metrics"]["second"])


def test_all_processes_of_a_command_end_with_a_job_that_is_cut(
    make_worker: Make, job: WorkerJob
) -> None:
    job = replace(job, config=CONFIG, to_epoch=9)
    worker = make_worker(job, command(python(FOREVER)))
    metrics = worker.train()["metrics"]
    assert alive(metrics["first"])
    worker.stop()

    assert gone(metrics["first"], metrics["second"])


def test_all_processes_of_a_command_end_with_a_worker_that_is_killed() -> None:
    code = """
import json, sys
from hypertune.tasks.command import command
loop = command(["{python}", "-c", sys.argv[1]]).start({"seed": 1}, None, metric="loss", mode="min")
print(json.dumps([loop.step(), str(loop._work)]), flush=True)
loop.step()
"""
    escaped = FOREVER.replace("{", "{{").replace("}", "}}")
    with subprocess.Popen(
        [sys.executable, "-c", code, escaped], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        metrics, scratch = json.loads(worker.stdout.readline())
        folder = Path(scratch)
        assert alive(metrics["first"])
        assert folder.is_dir()
        os.kill(worker.pid, signal.SIGKILL)

    assert gone(metrics["first"], metrics["second"])
    until = time.monotonic() + 10
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not folder.exists()


def test_no_folder_is_left(tmp_path: Path) -> None:
    loop = command(python("print('{\"loss\": 1}')")).start(CONFIG, None, metric="loss", mode="min")
    assert isinstance(loop, CommandLoop)
    loop.step()
    folder = loop._work
    assert folder.is_dir()
    loop.close()
    loop.close()

    assert not folder.exists()


SPACE = Space(
    {
        "x": tune.uniform(0, 1),
        "opt": tune.choice([{"name": "a", "rate": tune.uniform(0, 1)}, {"name": "b"}]),
    }
)


@pytest.mark.parametrize(
    ("line", "report", "problems"),
    [
        ("python {x} {opt} {n}", "stdout", []),
        ("python {config_json}", "{work_dir}/log", []),
        ("pythn {config_file}", "stdout", ["command: there is no program 'pythn' here"]),
        ("python {y} {config_file}", "stdout", ["command: unknown placeholder {y}. Choose one of"]),
        (
            "python {x} {n}",
            "stdout",
            ["'opt' is not passed to the command: put {opt}", "'opt.rate' is not passed to the"],
        ),
        ("python {x:d} {opt} {n:.2f}", "stdout", ["command: {x:d} cannot write 0."]),
        ("python {x} {opt:s} {n}", "stdout", ["command: {opt:s} cannot write {'name': 'a'"]),
        ("python {x} {opt}", "stdout", ["'n' is not passed to the command: put {n} or {config_"]),
        (
            "python {x} {opt} {opt.rate} {n}",
            "stdout",
            ["command: {opt.rate} is not in every config; pass {config_json} instead"],
        ),
        (
            "python {config_json}",
            "log",
            ["command: report must be 'stdout', or a file in {work_dir} or {checkpoint_dir}, sin"],
        ),
    ],
)
def test_command_is_checked_against_the_study(line: str, report: str, problems: list[str]) -> None:
    found = command(line, report=report).problems(SPACE, {"n": 3})

    assert len(found) == len(problems)
    assert all(text.startswith(start) for text, start in zip(found, problems, strict=True))


@pytest.mark.parametrize(
    ("line", "message"),
    [("", "must be given a program, but got none"), ("python {", "cannot be read: .*; {{ is a b")],
)
def test_command_that_cannot_be_read_is_an_error(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command(line)


def test_values_are_written_as_the_space_names_them(tmp_path: Path) -> None:
    values = {"opt": "adam", "size": (3, 3), "deep": [(1, None)], "none": None, "yes": True}
    line = [sys.executable, "-c", ECHO, "{opt}", "{size}", "{deep}", "{none}", "{yes}", "{salt}"]
    config = {**CONFIG, **values, "salt": 2**64, "out": str(tmp_path / "out")}
    loop = command([*line, "{out}"]).start(config, None, metric="loss", mode="min")
    loop.step()
    loop.close()
    written = ["adam", "[3, 3]", "[[1, null]]", "None", "True", str(2**64)]
    assert json.loads((tmp_path / "out").read_text()) == written


ECHO = """
import json, pathlib, sys
pathlib.Path(sys.argv[-1]).write_text(json.dumps(sys.argv[1:-1]))
print(json.dumps(dict(loss=1)))
"""
