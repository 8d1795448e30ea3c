"""Commands that compare and export results: trials, report, compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hypertune.cli.options import StudiesDir, StudyName
from hypertune.core.errors import SettingError, choices
from hypertune.core.text import cell

if TYPE_CHECKING:
    import pandas as pd

PANEL = "Results"
commands = typer.Typer()


@commands.command(rich_help_panel=PANEL)
def trials(
    study: StudyName,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="table, csv (text such as =1+2 gets a ' in front, for spreadsheets), json or "
            "parquet.",
        ),
    ] = "table",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; parquet needs one.")
    ] = None,
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Print all trials of a study, or write them to a file."""
    from hypertune import engine
    from hypertune.analysis import load_trials
    from hypertune.cli.display.console import console
    from hypertune.cli.display.studies import show_trials

    formats = ("table", "csv", "json", "parquet")
    if format_ not in formats:
        raise SettingError(f"Unknown format '{format_}'.{choices(format_, formats)}")
    frame = load_trials(engine.study_folder(studies_dir, study))
    if format_ == "parquet":
        if output is None:
            raise SettingError("--format parquet needs a file: --output trials.parquet.")
        frame.to_parquet(output)
        return
    if format_ == "table":
        show_trials(console(), frame)
        return
    text = (
        _safe(frame).to_csv(index=False)
        if format_ == "csv"
        else frame.to_json(orient="records", date_format="iso", indent=1)
    )
    if output is not None:
        output.write_text(text, encoding="utf-8")
    else:
        print(text.rstrip("\n"))


def _safe(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a frame whose texts no terminal obeys, and no spreadsheet takes for formulas."""
    texts = frame.select_dtypes(["string", "category"])
    safe = texts.astype("string").map(cell, na_action="ignore")
    return frame.assign(**safe).rename(columns=cell)


@commands.command(rich_help_panel=PANEL)
def report(
    study: StudyName,
    studies_dir: StudiesDir = Path("studies"),
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Write a study's report: HTML, Markdown and JSON."""
    from hypertune.analysis import write_report
    from hypertune.engine import note_report, study_folder

    folder = study_folder(studies_dir, study)
    page = write_report(folder)
    note_report(folder)
    print(page)
    if open_:
        typer.launch(page.resolve().as_uri())


@commands.command(rich_help_panel=PANEL)
def compare(
    studies: Annotated[list[str], typer.Argument(help="Names of the studies' folders.")],
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Show studies side by side, at equal cost."""
    from hypertune.analysis.compare import compare
    from hypertune.cli.display.console import console
    from hypertune.cli.display.studies import show_comparison
    from hypertune.engine import study_folder

    folders = [study_folder(studies_dir, name) for name in studies]
    show_comparison(console(), compare(folders))
