"""Constraints are checked of a config alone, and what breaks one is never tried."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from hypertune import Study, command, forecasting
from hypertune.cli.display.console import console as make_console
from hypertune.cli.display.plan import show_plan
from hypertune.core.errors import HypertuneError, StudyError
from hypertune.engine.prepare import prepare
from hypertune.plan import make_plan
from hypertune.settings import Settings
from hypertune.studies.constraints import Constraints

STUDY = Study(
    question="Does it fit?",
    factors=("cell",),
    space={"cell": tune.choice(["gru", "lstm"]), "hidden_size": tune.randint(4, 65)},
    default={"cell": "gru", "hidden_size": 16},
    fixed={"window": 12},
    constraints={
        "n_parameters": "<= 1e4",
        "even": lambda config: config["hidden_size"] % 2 == 0 and config["window"] == 12,
    },
    trainable=forecasting("sunspots", horizon=12, max_window=12),
    metric="val_mae",
    max_epochs=4,
    n_trials=12,
)


class Sized:
    def __init__(self, config: Any) -> None:
        return

    def step(self) -> dict[str, float]:
        return {"val_mae": 1.0}

    @staticmethod
    def sizes(config: Any) -> dict[str, float]:
        return {"n_units": config["hidden_size"] * config["max_epochs"]}


def n_parameters(n: int, gates: int) -> int:
    """Return the parameters of a recurrent layer of one feature and of a linear layer to 12."""
    return gates * (n + n * n + 2 * n) + 12 * n + 12


@pytest.mark.parametrize(("cell", "gates"), [("gru", 3), ("lstm", 4)])
@pytest.mark.parametrize("n", [4, 17, 64])
def test_parameters_of_a_model_are_counted_without_training(cell: str, gates: int, n: int) -> None:
    broken = Constraints(STUDY).broken({"cell": cell, "hidden_size": n})

    size = n_parameters(n, gates)
    about = f"for {{'cell': '{cell}', 'hidden_size': {n}}}"
    expected = [f"n_parameters must be <= 1e4, but is {size:,}, {about}"] if size > 1e4 else []
    expected += [f"even must hold, but does not, {about}"] if n % 2 else []
    assert broken == expected


@pytest.mark.parametrize(
    ("rule", "holds"), [("<= 64", True), ("< 64", False), (">= 64.0", True), ("> 6.4e1", False)]
)
def test_class_may_tell_its_own_sizes(rule: str, holds: bool) -> None:
    study = replace(STUDY, trainable=Sized, constraints={"n_units": rule})

    assert Constraints(study).hold(STUDY.default) is holds


def test_search_tries_nothing_that_breaks_a_constraint() -> None:
    search = prepare(STUDY, Settings(method="random")).search
    rules = Constraints(STUDY)
    while (job := search.ask()) is not None:
        assert rules.hold(job.config)
        search.tell(job.trial, 4, 1.0)

    assert len(search.trials) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"default": {"cell": "gru", "hidden_size": 63}},
            r"break constraints of the study:\n  - n_parameters must be <= 1e4, but is 13,.*\n"
            r"  - even must hold, but does not, for",
        ),
        (
            {"constraints": {"n_parameter": "< 9"}},
            r"cannot tell 'n_parameter' before training. Did you mean 'n_parameters'\?",
        ),
        (
            {"constraints": {"n": "< 9"}, "trainable": lambda config, report: None},
            "cannot tell 'n' before training. It knows no sizes. A function of the config will do",
        ),
        (
            {"constraints": {"n": "< 9"}, "trainable": command("true {config_json}")},
            "cannot tell 'n' before training. It knows no sizes.",
        ),
        (
            {"constraints": {"n": lambda config: config["m"]}},
            "The constraints cannot be checked for .*: KeyError: 'm'",
        ),
    ],
)
def test_what_cannot_be_kept_or_checked_is_told_before_anything_starts(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HypertuneError, match=message):
        prepare(replace(STUDY, **changes), Settings())


def test_config_of_a_file_must_keep_the_constraints(tmp_path: Path) -> None:
    (tmp_path / "start.json").write_text('{"cell": "gru", "hidden_size": 5}')

    with pytest.raises(StudyError, match="even must hold"):
        prepare(STUDY, Settings(start=tmp_path / "start.json"))


@pytest.mark.parametrize("rule", ["== 3", "<= many", 3, None])
def test_constraint_must_be_a_limit_or_a_function(rule: Any) -> None:
    with pytest.raises(StudyError, match="constraints: n_parameters must be a limit such as"):
        replace(STUDY, constraints={"n_parameters": rule})


def test_plan_shows_the_constraints_and_how_much_of_the_space_keeps_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(studies_dir=tmp_path)
    found = make_plan(STUDY, settings, probe=True)
    show_plan(make_console(), STUDY, settings, found)

    assert 0.2 < found.feasible < 0.8
    shown = capsys.readouterr().out
    assert f"n_parameters <= 1e4, even must hold; {found.feasible:.0%} of random configs" in shown
    assert make_plan(replace(STUDY, constraints={}), settings, probe=False).feasible == 1.0
