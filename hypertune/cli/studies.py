"""Commands that show what there is: list, studies, show, explain, rerun, lr-range."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hypertune.cli.options import (
    MOVED_SPACE,
    SET,
    SPACE,
    TRUST,
    StudiesDir,
    StudyName,
    checked,
    given_space,
    takes,
)
from hypertune.core.errors import HypertuneError, SettingError
from hypertune.settings import OPTIONS

PANEL = "Studies"
SET_DEFAULT = replace(SET, help="Change a fixed value of the study, or a value of its default.")
commands = typer.Typer()


@commands.command("list", rich_help_panel=PANEL)
def list_() -> None:
    """Show the studies, the methods and the data sets."""
    from hypertune.cli.display.console import console
    from hypertune.cli.display.studies import show_list
    from hypertune.data import DATA_SETS, SERIES
    from hypertune.search.methods import all_methods
    from hypertune.settings import DEFAULT_METHOD
    from hypertune.studies.study import load_study, study_names

    data_sets, missing = SERIES | DATA_SETS, {}
    for name, row in data_sets.items():
        try:
            row.find()
        except FileNotFoundError as error:
            missing[name] = str(error).rpartition("; run: ")[2]
    show_list(
        console(),
        [load_study(name) for name in study_names()],
        [
            (name + (" (default)" if name == DEFAULT_METHOD else ""), method.summary)
            for name, method in all_methods().items()
        ],
        [(name, row.summary) for name, row in data_sets.items()],
        missing,
    )


@commands.command(rich_help_panel=PANEL)
def studies(studies_dir: StudiesDir = Path("studies")) -> None:
    """Show the studies in a folder, and how far each one is."""
    from hypertune import engine
    from hypertune.analysis import summarize
    from hypertune.cli.display.console import console
    from hypertune.cli.display.studies import show_studies

    found, broken = [], {}
    for folder in engine.study_folders(studies_dir):
        try:
            engine.check_study(folder)
            found.append((summarize(folder), engine.read_result(folder)))
        except HypertuneError as problem:
            broken[folder.name] = str(problem)
    show_studies(console(), found, broken)


@commands.command(rich_help_panel=PANEL)
def show(study: StudyName, studies_dir: StudiesDir = Path("studies")) -> None:
    """Print what a study found so far."""
    from hypertune import engine

    print_study(engine.study_folder(studies_dir, study))


def print_study(folder: Path) -> None:
    """Print what the study in a folder found so far."""
    from hypertune import engine
    from hypertune.analysis import read_headline, summarize
    from hypertune.cli.display.console import console
    from hypertune.cli.display.summary import show_summary

    result, headline = engine.read_result(folder), read_headline(folder)
    show_summary(console(), summarize(folder), result, headline)


@commands.command(rich_help_panel=PANEL)
def explain(
    study: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.")],
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Say why a trial was proposed, why it ended where it did, and what it cost."""
    from hypertune import engine
    from hypertune.cli.display.console import console
    from hypertune.cli.display.trial import show_explanation

    folder = engine.study_folder(studies_dir, study)
    show_explanation(console(), engine.explain(folder, trial))


@commands.command(rich_help_panel=PANEL)
@takes([MOVED_SPACE, TRUST])
def rerun(
    study: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.")],
    seed: Annotated[int | None, typer.Option(help="Seed in place of its own.")] = None,
    studies_dir: StudiesDir = Path("studies"),
    *,
    given: dict[str, Any],
) -> None:
    """Train a trial again on this machine, and say whether its numbers are the same."""
    from hypertune import engine
    from hypertune.cli.display.console import console
    from hypertune.cli.display.trial import epoch_line, show_rerun
    from hypertune.cli.run import allow_file

    out, space = console(), given.get("space")
    folder = engine.study_folder(studies_dir, study)
    allow_file(folder, space, trust="trust" in given)
    again = engine.rerun(folder, trial, seed=seed, space=space, watch=epoch_line(out))
    show_rerun(out, again)
    if again.failure is not None or (again.same_seed and again.differs is not None):
        raise typer.Exit(1)


@commands.command("lr-range", rich_help_panel=PANEL)
@takes([SPACE, SET_DEFAULT, replace(OPTIONS["data"], group="")])
def lr_range(
    low: Annotated[float, typer.Option(help="Lowest learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Highest learning rate.")] = 10.0,
    n_batches: Annotated[int, typer.Option(help="Batches from lowest to highest.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    picture: Annotated[Path, typer.Option(help="HTML file to write the picture to.")] = Path(
        "lr-range.html"
    ),
    *,
    given: dict[str, Any],
) -> None:
    """Train the default while the learning rate rises, and say which rates work."""
    from hypertune.cli.display.console import console
    from hypertune.cli.display.studies import show_lr_range
    from hypertune.core.data_options import OtherData
    from hypertune.studies.lr_range import figure
    from hypertune.studies.lr_range import lr_range as test
    from hypertune.studies.other_data import with_data
    from hypertune.studies.study import load_study

    study, values = load_study(given_space(given)), checked(SET, given.get("set", {}))
    searched = {key: value for key, value in values.items() if key not in study.fixed}
    study = study.with_fixed({k: v for k, v in values.items() if k in study.fixed})
    study = with_data(study, OtherData(data=given.get("data")))
    found = test(study, searched, low=low, high=high, n_batches=n_batches, seed=seed)
    try:
        figure(found, f"{study.name}: learning-rate range test").write_html(picture)
    except OSError as error:
        raise SettingError(f"--picture '{picture}' cannot be written: {error.strerror}.") from error
    show_lr_range(console(), study, found, picture)
