"""Settings are checked all at once; durations are texts with units."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

import hypertune
from hypertune.core.data_options import OtherData
from hypertune.core.errors import SettingError
from hypertune.core.options import options_of
from hypertune.search.methods import METHODS
from hypertune.settings import Settings
from hypertune.studies.study import load_study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ashaa"}, "Unknown method 'ashaa'. Did you mean 'asha'? Choose one of: auto, "),
        ({"studies_dir": Path("caf\udce9")}, "--studies-dir must be UTF-8 without NUL, but got '"),
        ({"start": Path("a\x00b")}, "--start must be UTF-8 without NUL, but got '"),
        ({"tracking_uri": "sqlite:///\udce9"}, "--tracking-uri must be UTF-8 without NUL, but"),
        ({"other_data": {"csv": "x.csv"}}, "other_data must be an OtherData, but got {'csv'"),
        ({"n_trials": "ten"}, "--n-trials must be a whole number, but got 'ten'."),
        ({"n_trials": 2.5}, "--n-trials must be a whole number, but got 2.5."),
        ({"seed": True}, "--seed must be a whole number, but got True."),
        ({"seed": None}, "--seed must be a whole number, but got None."),
        ({"gpus_per_trial": "one"}, "--gpus-per-trial must be a number, but got 'one'."),
        ({"time_budget_s": "20x"}, "--time-budget must be numbers with units (s, m, h or d), such"),
        ({"method": 3}, "--method must be text, but got 3."),
        ({"diagnose": "yes"}, "--diagnose must be true or false, but got 'yes'."),
        ({"resources": {"GPU": 1}}, "--resources names no GPU: see --gpus-per-trial."),
        ({"tensorboard": "some"}, "--tensorboard must be all, best, or how many of the best"),
        ({"n_trials": 0}, "--n-trials must be at least 1, but got 0."),
        ({"max_epochs": 0}, "--max-epochs must be at least 1, but got 0."),
        ({"n_concurrent": 0}, "--n-concurrent must be at least 1, but got 0."),
        ({"goal": "both"}, "--goal must be best or answer, but got 'both'."),
        ({"seed": -1}, "--seed must be at least 0, but got -1."),
        ({"gpus_per_trial": -0.5}, "--gpus-per-trial must be finite and at least 0, but got -0.5."),
        ({"gpus_per_trial": 1.5}, "--gpus-per-trial must be a whole number, or a fraction of one"),
        ({"sync_timeout_s": -1.0}, "--sync-timeout must be finite and at least 0, but got -1.0."),
        ({"cpus_per_trial": 0.0}, "--cpus-per-trial must be finite and more than 0, but got 0.0."),
        ({"trial_timeout_s": 0.0}, "--trial-timeout must be finite and more than 0, but got 0.0."),
        (
            {"time_budget_s": float("nan")},
            "--time-budget must be finite and more than 0, but got nan.",
        ),
        ({"name": "../up"}, "--name must be at most 100 letters, digits, '.', '_' and '-', and"),
        ({"name": ""}, "--name must be at most 100 letters"),
        ({"name": "-x"}, "--name must be at most 100 letters"),
        ({"name": "x" * 101}, "--name must be at most 100 letters"),
    ],
)
def test_broken_rule_is_told_with_flag_and_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings(**changes)

    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_rule_does_not_tell_a_password() -> None:
    with pytest.raises(SettingError, match=r"but got 'ftp://\*\*\*@host';"):
        Settings(tracking_uri="ftp://me:hush@host")


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        Settings(method="grit", n_trials=0, cpus_per_trial=0, name="a b")

    found = [line.split()[0] for line in str(caught.value).splitlines()]
    assert found == ["Unknown", "--n-trials", "--cpus-per-trial", "--name"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gpus_per_trial": 0.5, "cpus_per_trial": 0.25},
        {"gpus_per_trial": 2.0, "sync_timeout_s": 0.0},
        {"name": "x" * 100, "n_trials": 1, "max_epochs": 1, "seed": 0},
        *({"method": name} for name in METHODS),
    ],
)
def test_what_keeps_the_rules_is_accepted(changes: dict[str, Any]) -> None:
    settings = Settings(**changes)

    assert {name: getattr(settings, name) for name in changes} == changes


def test_store_lies_beside_the_folder_of_studies_unless_it_is_given(tmp_path: Path) -> None:
    beside = f"sqlite:///{tmp_path.resolve()}/mlflow.db"

    assert Settings(studies_dir=tmp_path / "studies").store == beside
    assert Settings(tracking_uri="http://127.0.0.1:5000").store == "http://127.0.0.1:5000"
    absolute = f"sqlite:///{Path.cwd() / 'mine.db'}"
    assert Settings(tracking_uri="sqlite:///mine.db").store == absolute
    assert Settings(tracking_uri=absolute).store == absolute


@pytest.mark.parametrize("name", ["50%", "pct%20dir", "what?dir", "a#b", "it's", "ü ö", "x" * 200])
def test_store_is_in_the_folder_that_was_asked_for(name: str, tmp_path: Path) -> None:
    store = Settings(studies_dir=tmp_path / name / "studies").store

    assert make_url(store).database == str(tmp_path.resolve() / name / "mlflow.db")
    assert Settings(tracking_uri=store).store == store
    with_options = Settings(tracking_uri=f"{store}?timeout=5").store
    assert with_options == f"{store}?timeout=5"


@pytest.mark.parametrize("name", ["pct%20dir", "what?dir"])
def test_path_that_is_no_uri_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SettingError, match="in whose path % is written as %25 and \\? as %3F"):
        Settings(tracking_uri=f"sqlite:///{name}/mlflow.db")


def test_what_is_left_to_the_study_is_taken_from_it() -> None:
    study = replace(load_study("optimizer_lr"), n_repeats=7, goal="best")
    left = Settings().resolved_for(study)
    assert (left.goal, left.n_repeats) == ("best", 7)
    said = Settings(goal="answer", n_repeats=0).resolved_for(study)
    assert (said.goal, said.n_repeats) == ("answer", 0)
    assert Settings.recorded(said.record(), Path("s")).goal == "answer"


def test_durations_sizes_and_paths_may_be_text() -> None:
    asked = Settings(
        time_budget_s="20m",  # type: ignore[arg-type]
        disk_budget_bytes="2 GB",  # type: ignore[arg-type]
        studies_dir="x",  # type: ignore[arg-type]
        start="file.json",  # type: ignore[arg-type]
        storage=Path("/"),  # type: ignore[arg-type]
        n_concurrent="auto",  # type: ignore[arg-type]
        tensorboard=3,  # type: ignore[arg-type]
    )
    assert asked == Settings(
        time_budget_s=1200.0,
        disk_budget_bytes=2e9,
        studies_dir=Path("x"),
        start=Path("file.json"),
        storage="/",
        tensorboard="3",
    )
    assert type(asked.time_budget_s) is float


def test_fields_of_other_data_are_settings_too() -> None:
    asked = Settings.from_fields({"n_trials": 3, "csv": "x.csv", "target": "y"})
    other = OtherData(csv=Path("x.csv"), target="y")
    assert asked == Settings(n_trials=3, other_data=other)
    assert Settings.from_fields({"other_data": other}) == Settings(other_data=other)


def test_unknown_names_and_wrong_values_are_told_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_fields({"n_trails": 3, "csv": 1, "seed": True, "goal": "both"})
    unknown, csv, goal, seed = str(caught.value).splitlines()
    assert unknown.startswith("Unknown setting 'n_trails'. Did you mean 'n_trials'? Choose one of")
    assert csv == "--csv must be a path, but got 1."
    assert goal == "--goal must be best or answer, but got 'both'."
    assert seed == "--seed must be a whole number, but got True."


def test_a_wrong_setting_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="n-trials must be a whole number, but got 'ten'"):
        hypertune.run("gru_window", n_trials="ten")
    assert not list(tmp_path.iterdir())


def test_the_docstring_explains_every_setting_in_the_words_of_its_definition() -> None:
    text = " ".join((Settings.__doc__ or "").split())
    for name, option in options_of(Settings).items():
        assert f"{name}: {option.help}" in text
