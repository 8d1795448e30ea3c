"""Terminals of 60 and 80 columns: nothing that matters is cut."""

import io
import time

import pandas as pd
import pytest
from rich.console import Console

from hypertune.analysis import Score, Summary
from hypertune.cli.display import studies, summary
from hypertune.cli.display.progress import Display
from hypertune.data import SERIES
from hypertune.engine import Progress
from hypertune.studies.study import load_study


def console(width: int, *, terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, force_terminal=terminal, soft_wrap=True), out


@pytest.mark.parametrize("width", [60, 80])
def test_the_live_display_shows_its_whole_line(width: int) -> None:
    out, text = console(width, terminal=True)
    progress = Progress(
        metric="validation_mae_ratio",
        n_trials=32,
        planned_epochs=400,
        started=time.monotonic(),
        n_started=30,
        n_running=2,
        n_ended={"complete": 11, "stopped early": 17},
        n_epochs=300,
        best=0.878,
        best_trial=12,
        stage="search",
    )
    with Display(out) as show:
        show(progress)
    assert "(trial 12)" in text.getvalue()
    assert "left" in text.getvalue()


def frame() -> pd.DataFrame:
    values = {"trial": [0, 1], "role": "replicate", "reason": "stopped early", "epochs": 27}
    values |= {"value": 0.12345, "best_epoch": 9, "test": [0.5, None], "cost_s": 12.5}
    values |= {"n_mutations": 0, "config.hidden_size": 42, "config.learning_rate": 0.02456}
    return pd.DataFrame({**values, "config.cell": ["gru", None]})


@pytest.mark.parametrize("width", [60, 80, 200])
def test_trials_show_all_parameters_on_any_terminal(width: int) -> None:
    out, text = console(width)
    studies.show_trials(out, frame())
    shown = text.getvalue()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert ("hidden_size=42" in "".join(shown.split())) == (width < 200)
    for word in ("replicate", "0.1235", "0.02456"):
        assert word in shown


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_list_of_studies_names_each_on_any_terminal(width: int) -> None:
    out, text = console(width)
    study = load_study("gru_window")
    studies.show_list(out, [study], [], [], {study.trainable.data: "pip install x"})
    lines = text.getvalue().splitlines()
    assert any(line.startswith("gru_window ") for line in lines)
    assert max(map(len, lines)) <= width
    words = " ".join(text.getvalue().split())
    for expected in ("answer (cell)", "32 trials", "needs: pip install x"):
        assert expected in words
    assert study.trainable.data in SERIES


def test_the_name_of_a_metric_is_whole_in_a_narrow_summary() -> None:
    out, text = console(60)
    score = Score(
        label="seasonal naive",
        trial=8,
        epoch=0,
        validation=1.2,
        fresh=1.1,
        n_fresh=20,
        test=1.4,
        failure=None,
    )
    about = {"metric": "val_mae_ratio", "test_metric": "test_mae_ratio"}
    found = Summary.__new__(Summary)
    object.__setattr__(found, "study", about)
    object.__setattr__(found, "scores", [score])
    summary._show_scores(out, found)
    assert "…" not in text.getvalue()
