"""Commands that search: run, resume."""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hypertune.cli.options import (
    RESUME,
    RUN,
    StudyName,
    checked,
    parse_run_flags,
    takes,
    with_file,
)
from hypertune.core.errors import Checks
from hypertune.core.plugs import is_file_plug
from hypertune.settings import OPTIONS

if TYPE_CHECKING:
    from hypertune.engine import StudyResult
    from hypertune.settings import Settings
    from hypertune.studies.study import Study

PANEL = "Search"
commands = typer.Typer()


@commands.command(rich_help_panel=PANEL)
@takes(RUN)
def run(given: dict[str, Any]) -> None:
    """Search a study's space, keep every trial, and say what was found."""
    asked = with_file(given)
    study, settings = parse_run_flags(asked)
    if given.get("print_config"):
        print_config(asked, study)
        return
    from hypertune import cluster, engine
    from hypertune.cli.display.console import console
    from hypertune.cli.display.plan import goal_text, show_plan
    from hypertune.cli.display.progress import Display
    from hypertune.plan import make_plan

    cluster.check_code()
    if given.get("or_resume") and engine.has_study(settings):
        continue_study(study, settings, asked["space"], asked)
        return
    out = console()
    if given.get("dry_run"):
        show_plan(out, study, settings, make_plan(study, settings, probe="probe" in given))
        return
    out.print(f"Goal: {goal_text(study, settings)}.", markup=False)
    with Display(out) as show:
        result = engine.run(study, settings, cluster.published(show), report=True)
    print_and_exit(result, until_decided=settings.until_decided)


def print_config(given: Mapping[str, Any], study: "Study") -> None:
    """Print a file for `--config` that asks for the same run."""
    from hypertune.cli.config_file import write_config

    print(write_config(given, study))


def continue_study(
    study: "Study", settings: "Settings", space: str, asked: Collection[str]
) -> None:
    """Resume the study of the name that was given, or show it if it is finished."""
    from hypertune import engine
    from hypertune.cli.display.console import console

    out = console()
    folder = engine.study_folder(settings.studies_dir, settings.name or "", settings.storage)
    engine.refuse_other(folder, study, settings, asked)
    changes = {
        option.field: getattr(settings, option.field)
        for option in OPTIONS.values()
        if option.resume and option.field != "time_budget_s"
    }
    changes["until_decided"] = settings.until_decided or None
    # So may those of a searcher and a scheduler of one's own.
    plugs = {name: getattr(settings, name) for name in ("method", "scheduler")}
    changes |= {name: plug for name, plug in plugs.items() if plug and is_file_plug(plug)}
    # The files of other data may have moved; what is in them is checked as on any resume.
    changes["other_data"] = settings.other_data if settings.other_data.record() else None
    changes = {name: value for name, value in changes.items() if value is not None}
    if engine.is_finished(folder, n_trials=settings.n_trials):
        out.print(f"Study '{folder.name}' is finished.")
        result = engine.read_result(folder, tracking_uri=settings.tracking_uri)
        print_and_exit(result, until_decided=False)
        return
    out.print(f"Resuming study '{folder.name}'.")
    resume_and_print(folder, changes, space, until_decided=settings.until_decided)


def resume_and_print(
    folder: Path, changes: Mapping[str, Any], space: str | None, *, until_decided: bool
) -> None:
    """Resume a study, and print what was found."""
    from hypertune import cluster, engine
    from hypertune.cli.display.console import console
    from hypertune.cli.display.progress import Display

    with Display(console()) as show:
        result = engine.resume(
            folder,
            changes=changes,
            space=space,
            observer=cluster.published(show),
            report=True,
        )
    print_and_exit(result, until_decided=until_decided)


def print_and_exit(result: "StudyResult", *, until_decided: bool) -> None:
    """Print what was found, and exit with the status that says how the search ended."""
    from hypertune.analysis import read_headline, undecided
    from hypertune.cli.display.console import console
    from hypertune.cli.display.summary import show_summary, show_undecided
    from hypertune.journal.history import StudyHistory

    summary, out = result.summary, console()
    show_summary(out, summary, result, read_headline(result.folder))
    if until_decided or summary.study["settings"].get("until_decided", False):
        left = undecided(StudyHistory.read(result.folder))
        show_undecided(out, [one.text for one in left])
    nothing = summary.best is None and result.stopped_by is None
    if result.error is not None or nothing:
        raise typer.Exit(1)
    if result.stopped_by == "signal":
        raise typer.Exit(130)


@commands.command(rich_help_panel=PANEL)
@takes(RESUME)
def resume(study: StudyName, given: dict[str, Any]) -> None:
    """Continue a study that ended early, or extend one that is finished."""
    from hypertune import engine

    check, changes = Checks(), dict[str, Any]()
    for option in OPTIONS.values():
        if option.resume and option.key in given:
            with check:
                changes[option.field] = checked(option, given[option.key])
    check.done()
    space, storage = given.get("space"), changes.get("storage")
    studies_dir = Path(given.get("studies_dir", OPTIONS["studies_dir"].default))
    folder = engine.study_folder(studies_dir, study, storage)
    allow_file(folder, space, trust="trust" in given)
    later = {name: OPTIONS[name].default for name in ("sync_timeout_s", "verbose")}
    resume_and_print(
        folder, {**later, **changes}, space, until_decided=changes.get("until_decided", False)
    )


def allow_file(folder: Path, space: str | None, *, trust: bool) -> None:
    """Ask the user whether files may be run that only a journal names, where needed."""
    from hypertune import engine

    files = engine.untrusted_files(folder, moved=space is not None)
    if not files:
        return
    asked = not trust and sys.stdin.isatty()
    if asked:
        print(f"You did not begin study '{folder.name}' here, and its journal names a file.")
    named = " and ".join(repr(str(file)) for file in files)
    if trust or (asked and typer.confirm(f"Run {named}?")):
        engine.trust_study(folder)
