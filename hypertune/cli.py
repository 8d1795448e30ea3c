"""The command line: flags -> calls -> printed result."""

import ast
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hypertune.errors import Checks, HypertuneError, SettingError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hyperparameter studies on Ray Tune that end with an answer. "
    "`--space NAME` alone means `run --space NAME`.",
)


def _overrides(pairs: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise SettingError(f"--set must be key=value, but got '{pair}'.")
        values[key] = _value(text)
    return values


def _value(text: str) -> Any:
    """Return what a text says in JSON or in Python, else the text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


@app.command()
def run(
    space: Annotated[str, typer.Option(help="Study: a name from `list`, or a Python file.")],
    method: Annotated[str | None, typer.Option(help="How to search: see `list`.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="none, asha, hyperband or median, with any method's configs.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="JSON file of configs to try first.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Earlier study, whose best configs to try first.")
    ] = None,
    n_trials: Annotated[int | None, typer.Option(help="Configs to try.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Epochs of a trial in full.")] = None,
    time_budget: Annotated[str | None, typer.Option(help="End after 90s, 10m, 1h30m, ...")] = None,
    n_concurrent: Annotated[int | None, typer.Option(help="Trials at a time.")] = None,
    cpus_per_trial: Annotated[float, typer.Option(help="CPUs of a trial.")] = 1.0,
    gpus_per_trial: Annotated[float, typer.Option(help="GPUs of a trial; 0.25 packs four.")] = 0.0,
    trial_timeout: Annotated[str, typer.Option(help="An epoch may take so long.")] = "10m",
    seed: Annotated[int, typer.Option(help="Of the search and of the trials.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the study's folder.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value: change a fixed value.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Another data set: see `list`.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where a data set lies that did not come along.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="A table or series of your own.")] = None,
    target: Annotated[str | None, typer.Option(help="Column of --csv to predict.")] = None,
    group: Annotated[str | None, typer.Option(help="Column of --csv to split by.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of --csv with the time.")] = None,
    npz: Annotated[Path | None, typer.Option(help="Arrays of your own: x, y, ...")] = None,
    studies_dir: Annotated[Path, typer.Option(help="Folder of the studies.")] = Path("studies"),
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store (default: mlflow.db beside the studies).")
    ] = None,
    sync_timeout: Annotated[str, typer.Option(help="Wait so long for MLflow at the end.")] = "1m",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, start nothing.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="With --dry-run: time three short trials.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let Ray speak.")] = False,
) -> None:
    """Search a study's space, keep every trial, and say what was found."""
    from hypertune import display, engine, plan
    from hypertune.analysis import summarize
    from hypertune.methods import DEFAULT_METHOD
    from hypertune.settings import Settings, parse_duration
    from hypertune.study import load_study
    from hypertune.trainable.exchange import OtherData, with_data

    check = Checks()
    with check:
        other = OtherData(
            data=data,
            data_dir=data_dir,
            csv=csv,
            target=target,
            group=group,
            time=time,
            npz=npz,
        )
        study = with_data(load_study(space), other)
        study = study.with_fixed(_overrides(set_ or []))
    durations = {"time_budget": time_budget, "trial_timeout": trial_timeout}
    seconds: dict[str, float] = {}
    for flag, text in {**durations, "sync_timeout": sync_timeout}.items():
        with check:
            if text is not None:
                seconds[f"{flag}_s"] = parse_duration(text, flag)
    with check:
        settings = Settings(
            method=method or DEFAULT_METHOD,
            scheduler=scheduler,
            start=start,
            from_study=from_,
            n_trials=n_trials,
            max_epochs=max_epochs,
            n_concurrent=n_concurrent,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            seed=seed,
            name=name,
            studies_dir=studies_dir,
            tracking_uri=tracking_uri,
            verbose=verbose,
            **seconds,
        )
    with check:
        if probe and not dry_run:
            raise SettingError("--probe goes with --dry-run.")
    check.done()
    out = display.console()
    if settings.earlier is not None:
        out.print(engine.warm_start(study, settings.earlier).text, markup=False)
    if dry_run:
        display.show_plan(out, study, settings, plan.make_plan(study, settings, probe=probe))
        return
    with display.Display(out) as show:
        outcome = engine.run(study, settings, show)
    summary = summarize(outcome.folder)
    display.show_summary(out, summary, outcome, settings)
    nothing = summary.best is None and outcome.stopped_by is None
    if outcome.error is not None or nothing:
        raise typer.Exit(1)
    if outcome.stopped_by == "signal":
        raise typer.Exit(130)


@app.command()
def sync(
    study: Annotated[str, typer.Argument(help="Name of the study's folder.")],
    studies_dir: Annotated[Path, typer.Option(help="Folder of the studies.")] = Path("studies"),
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store (default: mlflow.db beside the studies).")
    ] = None,
    sync_timeout: Annotated[str, typer.Option(help="Give up after this time.")] = "10m",
) -> None:
    """Deliver to MLflow what it does not have yet of a study."""
    from hypertune.records.replica import deliver
    from hypertune.settings import Settings, parse_duration

    settings = Settings(name=study, studies_dir=studies_dir, tracking_uri=tracking_uri)
    limit = parse_duration(sync_timeout, "sync_timeout")
    delivery = deliver(studies_dir / study / "journal.db", settings.store, timeout_s=limit)
    print(delivery.warning or "MLflow is up to date.")
    if delivery.pending:
        print(f"{delivery.pending} records are not delivered.", file=sys.stderr)
        raise typer.Exit(1)


@app.command("list")
def list_() -> None:
    """Show the studies, the methods and the data sets."""
    from hypertune import display
    from hypertune.data import DATA_SETS, SERIES
    from hypertune.methods import DEFAULT_METHOD, METHODS
    from hypertune.study import load_study, study_names

    display.show_list(
        display.console(),
        [load_study(name) for name in study_names()],
        [
            (name + (" (default)" if name == DEFAULT_METHOD else ""), method.summary)
            for name, method in METHODS.items()
        ],
        [(name, row.summary) for name, row in (SERIES | DATA_SETS).items()],
    )


def main() -> None:
    """Run the command line; errors that a user can act on are one message and exit status 2."""
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("-") and arguments[0] != "--help":
        arguments.insert(0, "run")
    try:
        app(args=arguments)
    except HypertuneError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
