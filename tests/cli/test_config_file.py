"""The file of `--config`: what it asks for, why it is refused, and that what is printed is read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import call

from hypertune.cli.config_file import read_config, write_config
from hypertune.cli.options import IN_FILE, parse_run_flags, with_file
from hypertune.core.errors import SettingError
from hypertune.settings import OPTIONS, Settings, describe
from hypertune.studies.study import load_study

STUDY = load_study("gru_window")
GIVEN: dict[str, Any] = {
    "space": "gru_window",
    "set": {"n_layers": 2, "dropout": 1e-3},
    "name": "no",
    "method": "tpe",
    "scheduler": "none",
    "goal": "best",
    "start": "first ones.json",
    "from": "gru_window-1",
    "n_trials": 7,
    "max_epochs": 9,
    "time_budget": "1h30m",
    "n_repeats": 0,
    "until_decided": True,
    "seed": 3,
    "n_concurrent": 2,
    "cpus_per_trial": 0.5,
    "gpus_per_trial": 2.0,
    "resources": {"tpu": 1.0, "1e3": 0.5},
    "trial_timeout": "5m",
    "fresh_workers": True,
    "address": "auto",
    "studies_dir": "somewhere/else",
    "tracking_uri": "http://127.0.0.1:5000",
    "storage": "s3://bucket/a: b",
    "disk_budget": "2.5GB",
    "sync_timeout": "0s",
    "diagnose": True,
    "tensorboard": "3",
    "verbose": True,
    "data": "digits",
    "data_dir": "a/b",
    "csv": "t\N{LATIN SMALL LETTER U WITH DIAERESIS}r \N{RIGHT-TO-LEFT OVERRIDE}.csv",
    "target": "2024-01-01",
    "group": "12:30",
    "part": "null",
    "time": "on",
    "npz": "- x #1",
}


def written(tmp_path: Path, given: dict[str, Any]) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(write_config(given, STUDY), encoding="utf-8")
    return path


def settings_of(given: dict[str, Any]) -> Settings:
    return Settings.from_fields(
        {one.field: given[key] for key, one in IN_FILE.items() if one.field and key in given}
    )


def test_every_setting_has_a_value_in_these_tests_that_is_not_its_default() -> None:
    assert set(GIVEN) == set(IN_FILE)
    plain = Settings()
    asked = settings_of(GIVEN)
    for name in OPTIONS:
        holders = (asked, plain) if hasattr(plain, name) else (asked.other_data, plain.other_data)
        value, default = (getattr(holder, name) for holder in holders)
        assert value != default, name


@pytest.mark.parametrize("key", list(IN_FILE))
def test_each_setting_comes_back_from_the_file_that_was_printed(key: str, tmp_path: Path) -> None:
    again = read_config(written(tmp_path, {key: GIVEN[key]}))
    assert again[key] == GIVEN[key]
    assert settings_of(again) == settings_of({key: GIVEN[key]})


def test_all_settings_come_back_and_the_same_file_is_printed_again(tmp_path: Path) -> None:
    path = written(tmp_path, GIVEN)
    again = read_config(path)
    assert again == GIVEN
    assert settings_of(again) == settings_of(GIVEN)
    assert write_config(again, STUDY) == path.read_text(encoding="utf-8")


def test_what_is_printed_without_any_setting_asks_for_nothing_else(tmp_path: Path) -> None:
    again = read_config(written(tmp_path, {"space": "gru_window"}))
    assert settings_of(again) == Settings()


def test_the_file_explains_each_setting_in_the_words_of_the_help(tmp_path: Path) -> None:
    text = " ".join(written(tmp_path, GIVEN).read_text().replace("\n# ", " ").split())
    for option in IN_FILE.values():
        assert option.help_text in text
    assert "Default: the study's own. The study has 27." in text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("n_trials: 20\ntime_budget: 20m", {"n_trials": 20, "time_budget": "20m"}),
        ('{"n_trials": 20, "set": {"a": [1, 2]}}', {"n_trials": 20, "set": {"a": [1, 2]}}),
        (
            "set: {lr: 1e-3, act: off, at: 12:30}",
            {"set": {"lr": 0.001, "act": "off", "at": "12:30"}},
        ),
        ("n_concurrent: auto", {"n_concurrent": "auto"}),
        ("disk_budget: 10 GB", {"disk_budget": "10GB"}),
        ("time_budget: 90", {"time_budget": "1m30s"}),
        ("goal:\nn_trials: null", {}),
        ("# nothing", {}),
        ("resources: {tpu: 2}", {"resources": {"tpu": 2.0}}),
    ],
)
def test_yaml_and_json_are_read(text: str, found: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    assert read_config(path) == found


def test_all_that_is_wrong_is_told_at_once_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "n_trails: 3\nseed: true\nn_trials: '7'\ngoal: both\ntime_budget: 10x\nresources: [a]\n"
        "set: n_layers=2\nfresh_workers: yes\nmethod: null\nmax_epochs: 0\ntracking_uri: http://***@h\n"
    )
    with pytest.raises(SettingError) as caught:
        read_config(path)
    first, *problems = str(caught.value).splitlines()
    assert first == f"{path}:"
    for problem, expected in zip(
        problems,
        [
            "unknown setting 'n_trails'. Did you mean 'n_trials'? Choose one of: space, set, name",
            "seed must be a whole number, but got True.",
            "n_trials must be a whole number, but got '7'.",
            "goal must be best or answer, but got 'both'.",
            "time_budget must be numbers with units (s, m, h or d), such as 90s",
            "resources must be name=amount, but got ['a'].",
            "set must be key=value, but got 'n_layers=2'.",
            "fresh_workers must be true or false, but got 'yes'.",
            "method must be text, but got None.",
            "max_epochs must be at least 1, but got 0.",
            "tracking_uri must hold its login again, which was left out of 'http://***@h'.",
        ],
        strict=True,
    ):
        assert problem.startswith(f"  - {expected}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_trials: [", "cannot be read: while parsing"),
        ("n_trials: 1\nn_trials: 2", "cannot be read: 'n_trials' is there twice"),
        ("- n_trials", "must hold keys and values, such as n_trials: 20."),
        ("set: !!python/object/apply:os.system [ls]", "cannot be read: could not determine"),
    ],
)
def test_what_is_no_file_of_settings_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=re.escape(f"--config '{path}' {message}")):
        read_config(path)
    with pytest.raises(SettingError, match=r"--config 'gone.yaml' cannot be read: No such file"):
        read_config(Path("gone.yaml"))


def test_a_login_is_not_written() -> None:
    text = write_config({"tracking_uri": "http://me:hush@host"}, STUDY)
    assert "hush" not in text
    assert "tracking_uri: http://***@host" in text


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "space: gru_window\nn_trials: 20\nseed: 5\ndiagnose: true\nset: {n_layers: 2}\n"
    )
    given = with_file({"config": str(path), "n_trials": 3, "diagnose": False})
    study, settings = parse_run_flags(given)
    assert (study.name, study.fixed["n_layers"]) == ("gru_window", 2)
    assert (settings.n_trials, settings.seed, settings.diagnose) == (3, 5, False)


def test_a_run_prints_its_settings_starts_nothing_and_takes_them_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--space", "gru_window", "--n-trials", "4", "--set", "n_layers=2", "--diagnose"]
    assert call(monkeypatch, tmp_path, *args, "--print-config") == 0
    printed = capsys.readouterr().out
    assert "\nn_trials: 4\n" in printed
    assert not list(tmp_path.iterdir())

    (tmp_path / "settings.yaml").write_text(printed)
    again = ["run", "--config", "settings.yaml", "--print-config"]
    assert call(monkeypatch, tmp_path, *again) == 0
    assert capsys.readouterr().out == printed
    assert call(monkeypatch, tmp_path, *again, "--seed", "9", "--no-diagnose") == 0
    changed = capsys.readouterr().out
    assert changed == printed.replace("seed: 0", "seed: 9").replace("nose: true", "nose: false")

    assert call(monkeypatch, tmp_path, "run", "--config", "settings.yaml", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "4 trials of up to 27" in shown
    assert "n_layers=2" in shown


def test_a_study_must_be_named_by_flag_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text("n_trials: 0\nseed: one\n")
    assert call(monkeypatch, tmp_path, "run", "--n-trials", "zero", "--seed", "-1") == 2
    error = capsys.readouterr().err
    for text in (
        "--space must be given",
        "--n-trials must be a whole",
        "--seed must be at least 0",
    ):
        assert text in error
    assert call(monkeypatch, tmp_path, "run", "--config", "settings.yaml") == 2
    error = capsys.readouterr().err
    assert "settings.yaml:\n  - n_trials must be at least 1, but got 0.\n  - seed must be" in error


def test_a_submitted_study_takes_the_settings_of_the_file_along_as_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"space": "gru_window", "set": {"n_layers": 2}, "n_trials": 5, "name": "far"}
    settings |= {"time_budget": 1200, "resources": {"tpu": 1}, "diagnose": True, "verbose": False}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    args = ["submit", "--config", "settings.json", "--n-trials", "6", "--dry-run"]
    assert call(monkeypatch, tmp_path, *args) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "run --space gru_window --n-trials 6 --time-budget 20m --resources tpu=1.0 --diagnose "
        "--set n_layers=2 --name far --address auto"
    ) in shown
    assert "--config" not in shown

    assert call(monkeypatch, tmp_path, *args, "--print-config") == 0
    assert "\nn_trials: 6\n" in capsys.readouterr().out
    (tmp_path / "settings.json").write_text(json.dumps({**settings, "address": "auto"}))
    assert call(monkeypatch, tmp_path, *args) == 2
    assert "'address' in the file of --config goes with `run` alone" in capsys.readouterr().err


def test_the_reference_has_a_row_with_text_and_flag_for_each_setting() -> None:
    rows = {row["name"]: row for row in describe()}
    assert set(rows) == set(OPTIONS)
    assert all(row["help"].endswith(".") for row in rows.values())
    assert rows["time_budget_s"]["flag"] == "--time-budget"
    assert rows["time_budget_s"]["commands"] == ["run", "resume", "submit"]
    assert rows["goal"]["choices"] == ["best", "answer"]
    assert rows["disk_budget_bytes"]["default"] == "10GB"
    assert rows["n_trials"]["default"] == "the study's own"
