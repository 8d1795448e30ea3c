"""The command line: errors before anything starts, the whole way once, and clean ends."""

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pandas as pd
import psutil
import pytest
from commands import call, finished, started, wait_for_results
from conftest import TOY
from made_studies import DEFAULT, SPACE, Made, write_study
from ray import tune

from hypertune.cli import options
from hypertune.data import SERIES
from hypertune.journal.store import Journal

GOOD = "--space", "gru_window"


ESCAPES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def test_no_text_of_a_study_is_obeyed_by_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "\x1b]8;;http://x\x07[red]it[/red] :smile: \u202e"
    config = {**DEFAULT, "cell": odd}
    write_study(
        tmp_path / "studies" / "s",
        [
            Made(losses=[2.0, 1.0], config=config, label=odd, origin=odd),
            Made(losses=[2.0], config=config, reason="failed", detail=f"{odd}\n{odd}"),
        ],
        spec={**SPACE, "cell": tune.choice(["gru", odd])},
        question=odd,
        metric=odd,
        fixed={odd: odd},
        default=config,
        settings={"n_concurrent": 2, "other_data": {}},
    )

    for args in (["studies"], ["show", "s"], ["trials", "s"], ["trials", "s", "-f", "csv"]):
        call(monkeypatch, tmp_path, *args)
        said = capsys.readouterr()
        assert not ESCAPES.search(said.out + said.err), args
        assert "[red]it[/red]" in said.out
        assert ":smile:" in said.out
    assert call(monkeypatch, tmp_path, "show", odd) == 2
    error = capsys.readouterr().err
    assert not ESCAPES.search(error)
    assert "There is no study '\\x1b]8;;http://x\\x07[red]it[/red] :smile: \\u202e'" in error


def test_a_table_for_spreadsheets_holds_no_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    formula = "=HYPERLINK(A1)"
    config = {**DEFAULT, "cell": formula}
    write_study(
        tmp_path / "studies" / "s",
        [Made(losses=[-2.5], config=config)],
        spec={**SPACE, "cell": tune.choice(["gru", formula])},
        default=config,
    )
    call(monkeypatch, tmp_path, "trials", "s", "-f", "csv")
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    call(monkeypatch, tmp_path, "trials", "s", "-f", "json")
    (row,) = json.loads(capsys.readouterr().out)

    assert (frame["config.cell"][0], frame["value"][0]) == ("'=HYPERLINK(A1)", -2.5)
    assert row["config.cell"] == formula  # as it is, for programs


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--space", "gru_windw"], "Unknown space 'gru_windw'. Did you mean 'gru_window'?"),
        (["--space", "no/such.py"], "no/such.py' is no file"),
        (["--space", "empty.py"], "it must hold a variable study = Study(...)"),
        (["--space", "broken.py"], "line 2: ValueError: LogUniform requires a lower bound"),
        (["--space", "reversed.py"], "x: low < high must hold, but got low=5, high=1"),
        (["--space", "outside.py"], "default: x must be a number in [0, 1], but got 3"),
        (["--space", "metric.py"], "metric 'los' is not reported by the task. Did you mean 'loss'"),
        ([*GOOD, "--method", "tpx"], "Unknown method 'tpx'. Did you mean 'tpe'?"),
        ([*GOOD, "--time-budget", "10x"], "--time-budget must be numbers with units"),
        ([*GOOD, "--n-trials", "0"], "--n-trials must be at least 1, but got 0"),
        ([*GOOD, "--cpus-per-trial", "0"], "--cpus-per-trial must be finite and more than 0"),
        ([*GOOD, "--gpus-per-trial", "1.5"], "--gpus-per-trial must be a whole number, or"),
        ([*GOOD, "--name", "../x"], "--name must be at most 100 letters"),
        ([*GOOD, "--set", "layers=2"], "'layers' is not a fixed value of this study"),
        ([*GOOD, "--set", "n_layers"], "--set must be key=value"),
        ([*GOOD, "--set", "n_layers=two"], "'n_layers' must be of the kind of 1, but got 'two'"),
        ([*GOOD, "--data", "sunspot"], "Unknown data set 'sunspot'. Did you mean 'sunspots'?"),
        ([*GOOD, "--csv", "x.csv"], "--csv needs --target, the column with what is to be said"),
        (["--space", "init_optimizer", "--set", "activation=tnah"], "activation must be one of"),
        ([*GOOD, "--tracking-uri", "file:/tmp/x"], "--tracking-uri must begin with one of"),
        ([*GOOD, "--method", "grid"], "grid needs parameters with a number of values, but"),
        ([*GOOD, "--start", "empty.py"], "--start 'empty.py' cannot be read"),
        ([*GOOD, "--start", "start.json"], "config 0: hidden_size must be an integer in [8, 64]"),
        ([*GOOD, "--from", "nobody"], "There is no journal at 'studies/nobody/journal.db'"),
        ([*GOOD, "--scheduler", "ahsa"], "Unknown scheduler 'ahsa'. Did you mean 'asha'?"),
        ([*GOOD, "--set", "batch_size=0"], "batch_size must be an integer of at least 1"),
        ([*GOOD, "--disk-budget", "10"], "--disk-budget must be a number with a unit"),
        ([*GOOD, "--probe"], "--probe goes with --dry-run"),
        ([*GOOD, "--studies-dir", "empty.py"], "--studies-dir must be a folder to write in"),
        ([*GOOD, "--dry-run", "--studies-dir", "empty.py/a"], "must be a folder to write in"),
        (["--space", "nope", "--method", "nope", "--seed", "-1"], "--seed must be at least 0"),
        ([*GOOD, "--goal", "both"], "--goal must be best or answer, but got 'both'."),
    ],
)
def test_bad_input_is_told_with_rule_and_value_before_anything_starts(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    toy = TOY.read_text()
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("from ray import tune\ntune.loguniform(0, 1)\n")
    (tmp_path / "reversed.py").write_text(toy.replace("uniform(0, 1)", "uniform(5, 1)"))
    (tmp_path / "outside.py").write_text(toy.replace('"x": 0.5', '"x": 3'))
    (tmp_path / "metric.py").write_text(toy.replace('metric="loss"', 'metric="los"'))
    best = {"cell": "gru", "window": 6, "hidden_size": 4, "learning_rate": 0.01}
    (tmp_path / "start.json").write_text(json.dumps(best))
    before = sorted(tmp_path.rglob("*"))

    assert call(monkeypatch, tmp_path, *args) == 2

    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert message in error
    assert "Traceback" not in error
    assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(p)] == before


def test_a_study_that_is_not_there_cannot_be_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, tmp_path, "sync", "nobody") == 2
    assert "There is no study 'nobody' in 'studies'" in capsys.readouterr().err


def test_a_name_that_is_taken_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "studies" / "mine", [Made(losses=[1.0] * 9)])
    assert call(monkeypatch, tmp_path, *GOOD, "--name", "mine") == 2
    assert "There is a study 'mine'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "width"),
    [
        *product(["run", "resume", "attach", "sync", "lr-range", "rerun"], ["60", "80"]),
        ("submit", "80"),
    ],
)
def test_a_help_screen_shows_flags_whole_and_texts_as_they_are_defined(
    command: str,
    width: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("NO_COLOR", "1")
    assert call(monkeypatch, tmp_path, command, "--help") == 0
    shown = capsys.readouterr().out
    defined = {
        "run": options.RUN,
        "resume": options.RESUME,
        "lr-range": [options.SPACE],
        "rerun": [options.TRUST, options.MOVED_SPACE],
    }
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= int(width)
    texts = " ".join(re.split(" {2,}", line.strip("\u2502 "))[-1] for line in shown.splitlines())
    for option in defined.get(command, []):
        assert f" {option.flag} " in shown
        assert option.help_text in texts
    assert ("--max-epochs" in shown) == (command == "run")


def test_the_command_line_starts_without_the_libraries_that_take_seconds(tmp_path: Path) -> None:
    heavy = "{'ray', 'torch', 'pandas', 'numpy', 'mlflow', 'pyarrow', 'yaml'}"
    code = f"import sys, hypertune.cli.app; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "\n")


def test_list_shows_studies_methods_and_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, tmp_path, "list") == 0
    shown = capsys.readouterr().out
    expected = ("gru_window", "Does a longer window pay", "answer (cell)", "auto (default)", "tpe")
    for text in (*expected, "sunspots"):
        assert text in shown


def test_without_the_extra_data_sets_list_and_errors_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    gone = ("mlxtend", "pmdarima", "seglearn", "sktime")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in gone else find(name, *more)
    )
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, tmp_path, "list") == 0
    shown = capsys.readouterr().out
    assert shown.count("needs: pip install 'hypertune[datasets]'") == 8
    assert len(SERIES["sunspots"].load()) == 2820  # what the README runs comes with the project
    assert call(monkeypatch, tmp_path, "--space", "units_dropout", "--n-trials", "1") == 2
    assert "run: pip install 'hypertune[datasets]'" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_explain_tells_of_damaged_checkpoints_and_of_what_a_trial_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_study(tmp_path / "studies" / "s", [Made(losses=[2.0, 1.0])], start=[])
    with contextlib.closing(Journal(folder / "journal.db")) as journal:
        journal.add_event("damaged", 0, {"epoch": 1, "text": "state.pt holds 3 bytes, not 900"})
        for _ in range(2):
            journal.add_event("left", 0, {"threads": ["pump"], "not_put_back": ["umask"]})
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, tmp_path, "explain", "s", "0") == 0
    shown = capsys.readouterr().out
    assert "state.pt holds 3 bytes, not 900" in shown
    assert "the thread pump, which went on; umask, which could not be put back" in shown


def test_a_dry_run_shows_the_plan_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, tmp_path, *GOOD, "--dry-run", "--set", "n_layers=2") == 0
    shown = capsys.readouterr().out
    for text in ("window (factor)", "one of 6, 12, 24", "32 trials of up to 27", "n_layers=2"):
        assert text in shown
    assert "answer: the levels of cell (gru, lstm) get equal budgets" in shown
    args = ["--space", "optimizer_lr", "--goal", "answer", "--dry-run", "--until-decided"]
    assert call(monkeypatch, tmp_path, *args) == 2
    assert "--until-decided needs a --time-budget" in capsys.readouterr().err
    assert call(monkeypatch, tmp_path, *args, "--goal", "best", "--time-budget", "9m") == 2
    assert "--until-decided needs --goal answer, but got best" in capsys.readouterr().err
    args += ["--time-budget", "1h"]
    assert call(monkeypatch, tmp_path, *args) == 0
    shown = capsys.readouterr().out
    assert "optimizer has 5 levels, and not 2 to 4; learning_rate is a" in shown
    assert "until each factor is decided or the time is up" in shown
    assert "Nothing was started." in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_study_runs_from_any_folder_to_a_summary(tmp_path: Path) -> None:
    args = [*GOOD, "--n-trials", "4", "--max-epochs", "3", "--method", "random"]
    args += ["--n-repeats", "1"]
    status, out, err = finished(tmp_path, *args)

    assert status == 0, err
    assert err == ""
    for text in (
        "Recommended configuration (trial ",
        "ridge AR(",
        "test_mae_ratio",
        "4 searched, 4 of them to the end",
        "hypertune ui gru_window-1",
    ):
        assert text in out
    assert re.search(r"On the test part the best configuration (beats|does not beat) naive", out)
    there = ["mlartifacts", "mlflow.db", "mlflow.db.lock", "studies"]
    assert sorted(p.name for p in tmp_path.iterdir()) == there


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(
    "send",
    [
        lambda process: process.send_signal(signal.SIGINT),
        # To all processes of the job, Ray's too, as batch systems do.
        lambda process: os.killpg(process.pid, signal.SIGTERM),
    ],
    ids=["SIGINT", "SIGTERM to all"],
)
def test_an_interrupt_keeps_what_was_measured_and_what_mlflow_did_not_get_comes_later(
    send: Callable[[subprocess.Popen[str]], None], tmp_path: Path
) -> None:
    study = tmp_path / "sleepy.py"
    study.write_text(TOY.read_text().replace('"sleep_s": 0.0', '"sleep_s": 0.1'))
    args = ["--space", str(study), "--method", "random", "--max-epochs", "30"]
    args += ["--sync-timeout", "0s"]
    with started(tmp_path, *args) as process:
        # Each of two workers is a third into its second trial.
        wait_for_results(tmp_path, 80).close()
        family = psutil.Process(process.pid).children(recursive=True)
        send(process)
        out, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    assert err == ""
    assert "by signal; all that was measured is kept" in out
    assert "Recommended configuration (trial " in out
    journal = Journal(tmp_path / "studies" / "sleepy-1" / "journal.db", read_only=True)
    trials = journal.trials()
    assert len(journal.results()) >= 80
    assert {t.reason for t in trials if t.role == "search"} == {"complete", "interrupted"}
    assert all(t.state == "ended" for t in trials)
    # An interrupted trial can go on: its newest checkpoint is that of its last result.
    for trial in trials:
        if trial.reason == "interrupted" and (rows := journal.results(trial=trial.id)):
            (state,) = (journal.path.parent / "checkpoints").glob(
                f"trial-{trial.id:03d}/epoch-*/[!.]*"
            )
            assert json.loads(state.read_text()) == rows[-1].epoch
    _gone, alive = psutil.wait_procs(family, timeout=60)
    assert not alive

    assert "hypertune sync sleepy-1" in out
    _status, out, err = finished(tmp_path, "sync", "sleepy-1")
    assert out == "MLflow is up to date.\n", err
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        (n,) = db.execute("SELECT count(*) FROM metrics WHERE key = 'loss'").fetchone()
    assert n == len(journal.results())


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_machine_that_sleeps_for_longer_than_an_epoch_may_take_costs_no_trial(
    tmp_path: Path,
) -> None:
    study = tmp_path / "sleepy.py"
    study.write_text(TOY.read_text().replace('"sleep_s": 0.0', '"sleep_s": 0.1'))
    args = ["--space", str(study), "--method", "random", "--n-trials", "4", "--max-epochs", "20"]
    args += ["--n-repeats", "0", "--trial-timeout", "5s"]
    with started(tmp_path, *args) as process:
        wait_for_results(tmp_path, 12).close()
        driver = psutil.Process(process.pid)
        family = [driver, *driver.children(recursive=True)]  # Ray, the workers, the uploader
        for one in family:
            one.suspend()
        time.sleep(12)
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()
        _out, err = process.communicate(timeout=240)

    assert process.returncode == 0, err
    journal = Journal(tmp_path / "studies" / "sleepy-1" / "journal.db", read_only=True)
    trials = [trial for trial in journal.trials() if trial.role == "search"]
    assert [trial.reason for trial in trials] == ["complete"] * 4
    for trial in trials:
        assert [row.epoch for row in journal.results(trial=trial.id)] == list(range(1, 21))
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        (n,) = db.execute("SELECT count(*) FROM metrics WHERE key = 'loss'").fetchone()
    assert n == len([row for row in journal.results() if "loss" in row.metrics])


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_driver_that_loses_its_reader_and_is_killed_leaves_a_study_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "sleepy.py"
    study.write_text(TOY.read_text().replace('"sleep_s": 0.0', '"sleep_s": 0.1'))
    args = ["--space", str(study), "--method", "asha", "--n-trials", "9"]
    with started(tmp_path, *args) as process:
        # Whoever reads what it prints may go away: the search goes on.
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        wait_for_results(tmp_path, 12).close()
        process.kill()
        process.wait()
    with contextlib.closing(
        Journal(tmp_path / "studies/sleepy-1/journal.db", read_only=True)
    ) as journal:
        before = {(row.trial, row.epoch): row for row in journal.results()}

    status, out, err = finished(tmp_path, "resume", "sleepy-1")
    assert (status, err) == (0, "")
    assert "9 searched, 3 of them to the end" in out
    with contextlib.closing(
        Journal(tmp_path / "studies/sleepy-1/journal.db", read_only=True)
    ) as journal:
        after = {(row.trial, row.epoch): row for row in journal.results()}
        trials = journal.trials()
    assert {key: after[key] for key in before} == before
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        runs = db.execute("SELECT value FROM tags WHERE key = 'hypertune.trial'").fetchall()
        metrics = db.execute("SELECT count(*) FROM metrics WHERE key = 'loss'").fetchone()
    assert sorted(int(trial) for (trial,) in runs) == [t.id for t in trials]
    assert metrics == (len(after),)

    assert call(monkeypatch, tmp_path, "studies") == 0
    assert re.search(r"sleepy-1 .* asha +9/9 +loss .* finished", capsys.readouterr().out)
    assert call(monkeypatch, tmp_path, "explain", "sleepy-1", "0") == 0
    assert re.search("proposed +the study's default", capsys.readouterr().out)
    assert call(monkeypatch, tmp_path, "show", "sleepy-1") == 0
    assert "9 searched" in capsys.readouterr().out
    assert call(monkeypatch, tmp_path, "trials", "sleepy-1", "-f", "csv") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[0][:11]) == (1 + len(trials), "trial,role,")
    assert call(monkeypatch, tmp_path, "trials", "sleepy-1", "-f", "jsn") == 2
    assert "Did you mean 'json'?" in capsys.readouterr().err
    assert call(monkeypatch, tmp_path, "trials", "sleepy-1") == 0
    assert "complete" in capsys.readouterr().out
    assert call(monkeypatch, tmp_path, "resume", "sleepy-1") == 2
    assert call(monkeypatch, tmp_path, "delete", "sleepy-1", "--yes") == 0
    assert not (tmp_path / "studies" / "sleepy-1").exists()


def test_report_and_compare_speak_of_recorded_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, loss in (("a", 2.0), ("b", 1.0)):
        write_study(tmp_path / "studies" / name, [Made(losses=[loss] * 9)])

    assert call(monkeypatch, tmp_path, "report", "a") == 0
    assert capsys.readouterr().out == "studies/a/report/report.html\n"
    assert (tmp_path / "studies" / "a" / "report" / "report.html").stat().st_size > 10**6
    assert call(monkeypatch, tmp_path, "compare", "a", "b") == 0
    out = capsys.readouterr().out
    assert "best after 9 epochs" in out
    assert re.search(r"^b +auto", out, flags=re.MULTILINE)
    assert call(monkeypatch, tmp_path, "report", "nobody") == 2
    assert "There is no study 'nobody'" in capsys.readouterr().err
    assert call(monkeypatch, tmp_path, "compare", "a") == 2
    assert "compare takes at least 2 studies, but got 1" in capsys.readouterr().err
