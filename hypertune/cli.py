"""The command line: flags -> calls -> printed result."""

import ast
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypertune.errors import Checks, HypertuneError, SettingError, choices

if TYPE_CHECKING:
    from hypertune.engine import Outcome

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hyperparameter studies on Ray Tune that end with an answer. "
    "`--space NAME` alone means `run --space NAME`.",
)


StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study's folder.")]
SpaceMoved = Annotated[
    str | None, typer.Option("--space", help="The study's name or file, where that has moved.")
]
StudiesDir = Annotated[Path, typer.Option(help="Folder of the studies.")]
TrackingUri = Annotated[
    str | None, typer.Option(help="MLflow store (default: mlflow.db beside the studies).")
]


Concurrency = Annotated[
    str | None,
    typer.Option(help="Trials at a time, or auto: what Ray's nodes carry, also as they change."),
]


def _overrides(pairs: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise SettingError(f"--set must be key=value, but got '{pair}'.")
        values[key] = _value(text)
    return values


def _amounts(pairs: list[str]) -> dict[str, float]:
    amounts = {}
    for pair in pairs:
        name, _, text = pair.rpartition("=")
        try:
            amounts[name] = float(text)
        except ValueError:
            name = ""
        if not name:
            raise SettingError(f"--resources must be name=amount, but got '{pair}'.")
    return amounts


def _concurrency(text: str | None) -> int | None:
    if text is None or text == "auto":
        return None
    if not text.isdigit():
        raise SettingError(f"--n-concurrent must be auto or a number, but got '{text}'.")
    return int(text)


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
    goal: Annotated[
        str | None,
        typer.Option(
            help="best or answer: a trial goes on by its rank among all, or within its level of "
            "the question's factor, whose levels then get equal budgets. Default: the study's."
        ),
    ] = None,
    start: Annotated[Path | None, typer.Option(help="JSON file of configs to try first.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Earlier study, whose best configs to try first.")
    ] = None,
    n_trials: Annotated[int | None, typer.Option(help="Configs to try.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Epochs of a trial in full.")] = None,
    time_budget: Annotated[str | None, typer.Option(help="End after 90s, 10m, 1h30m, ...")] = None,
    n_concurrent: Concurrency = None,
    cpus_per_trial: Annotated[float, typer.Option(help="CPUs of a trial.")] = 1.0,
    gpus_per_trial: Annotated[float, typer.Option(help="GPUs of a trial; 0.25 packs four.")] = 0.0,
    resources: Annotated[
        list[str] | None,
        typer.Option(help="name=amount: what else a trial occupies of a node of Ray's."),
    ] = None,
    trial_timeout: Annotated[str, typer.Option(help="An epoch may take so long.")] = "10m",
    n_repeats: Annotated[
        int | None,
        typer.Option(help="Fresh seeds to run the best and the default again on."),
    ] = None,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided", help="Go on until the question is decided, within --time-budget."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the search and of the trials.")] = 0,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Look inside each network after each epoch.")
    ] = False,
    tensorboard: Annotated[
        str | None,
        typer.Option(metavar="all|best|N", help="Keep these trials for TensorBoard."),
    ] = None,
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
    part: Annotated[
        str | None,
        typer.Option(help="Column of --csv with train, val, test, test:NAME or nothing."),
    ] = None,
    time: Annotated[str | None, typer.Option(help="Column of --csv with the time.")] = None,
    npz: Annotated[Path | None, typer.Option(help="Arrays of your own: x, y, ...")] = None,
    studies_dir: StudiesDir = Path("studies"),
    tracking_uri: TrackingUri = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join: auto, or HOST:PORT.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Folder or bucket for checkpoints that all nodes reach.")
    ] = None,
    disk_budget: Annotated[str, typer.Option(help="What checkpoints may take.")] = "10GB",
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
    from hypertune.analysis import undecided, write_report
    from hypertune.methods import DEFAULT_METHOD
    from hypertune.settings import Settings, parse_duration, parse_size
    from hypertune.study import load_study
    from hypertune.trainable.exchange import OtherData

    check = Checks()
    with check:
        study = load_study(space).with_fixed(_overrides(set_ or []))
    durations = {"time_budget": time_budget, "trial_timeout": trial_timeout}
    seconds: dict[str, float] = {}
    for flag, text in {**durations, "sync_timeout": sync_timeout}.items():
        with check:
            if text is not None:
                seconds[f"{flag}_s"] = parse_duration(text, flag)
    at_a_time: int | None = None
    with check:
        at_a_time = _concurrency(n_concurrent)
    amounts: dict[str, float] = {}
    with check:
        amounts = _amounts(resources or [])
    disk_budget_bytes = 0.0
    with check:
        disk_budget_bytes = parse_size(disk_budget, "disk_budget")
    with check:
        settings = Settings(
            method=method or DEFAULT_METHOD,
            other_data=OtherData(
                data=data,
                data_dir=data_dir,
                csv=csv,
                target=target,
                group=group,
                part=part,
                time=time,
                npz=npz,
            ),
            scheduler=scheduler,
            goal=goal,  # type: ignore[arg-type]  # it says which there are
            start=start,
            from_study=from_,
            n_trials=n_trials,
            max_epochs=max_epochs,
            n_concurrent=at_a_time,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            resources=amounts,
            n_repeats=n_repeats,
            until_decided=until_decided,
            seed=seed,
            diagnose=diagnose,
            tensorboard=tensorboard,
            disk_budget_bytes=disk_budget_bytes,
            address=address,
            storage=storage,
            name=name,
            studies_dir=studies_dir,
            tracking_uri=tracking_uri,
            verbose=verbose,
            **seconds,
        )
        settings.check_end()
    with check:
        if probe and not dry_run:
            raise SettingError("--probe goes with --dry-run.")
    check.done()
    out = display.console()
    if dry_run:
        display.show_plan(out, study, settings, plan.make_plan(study, settings, probe=probe))
        return
    out.print(f"Goal: {display.goal_text(study, settings)}.", markup=False)
    with display.Display(out) as show:
        outcome = engine.run(study, settings, show, write_report, undecided)
    _end(outcome, until_decided=until_decided)


def _end(outcome: "Outcome", *, until_decided: bool) -> None:
    """Print what was found, and exit by how the search ended."""
    from hypertune import display
    from hypertune.analysis import read_headline, summarize, undecided

    summary = summarize(outcome.folder)
    headline = read_headline(outcome.folder)
    out = display.console()
    display.show_summary(out, summary, outcome, headline)
    if until_decided or summary.study["settings"].get("until_decided", False):
        display.show_undecided(out, [one.text for one in undecided(outcome.folder, ended=True)])
    nothing = summary.best is None and outcome.stopped_by is None
    if outcome.error is not None or nothing:
        raise typer.Exit(1)
    if outcome.stopped_by == "signal":
        raise typer.Exit(130)


@app.command()
def resume(
    study: StudyName,
    n_trials: Annotated[int | None, typer.Option(help="New total of configs to try.")] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="So much more time; else what is left of the study's.")
    ] = None,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="Go on until the question is decided, so long."),
    ] = False,
    n_concurrent: Concurrency = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join: auto, or HOST:PORT.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Where its checkpoints are, and its journal if it ran elsewhere."),
    ] = None,
    space: SpaceMoved = None,
    studies_dir: StudiesDir = Path("studies"),
    tracking_uri: TrackingUri = None,
    sync_timeout: Annotated[str, typer.Option(help="Wait so long for MLflow at the end.")] = "1m",
    verbose: Annotated[bool, typer.Option("--verbose", help="Let Ray speak.")] = False,
) -> None:
    """Go on with a study that was cut short, or extend one that is finished."""
    from hypertune import display, engine
    from hypertune.analysis import undecided, write_report
    from hypertune.settings import parse_duration

    changes: dict[str, Any] = {
        "n_trials": n_trials,
        "until_decided": until_decided or None,
        "address": address,
        "storage": storage,
        "tracking_uri": tracking_uri,
        "time_budget_s": time_budget and parse_duration(time_budget, "time_budget"),
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if n_concurrent is not None:
        changes["n_concurrent"] = _concurrency(n_concurrent)
    changes |= {"sync_timeout_s": parse_duration(sync_timeout, "sync_timeout"), "verbose": verbose}
    folder = engine.study_folder(studies_dir, study, storage)
    with display.Display(display.console()) as show:
        outcome = engine.resume(
            folder,
            changes=changes,
            space=space,
            observer=show,
            report=write_report,
            judge=undecided,
        )
    _end(outcome, until_decided=until_decided)


@app.command()
def studies(studies_dir: StudiesDir = Path("studies")) -> None:
    """Show the studies that were begun, and how far they are."""
    from hypertune import display, engine
    from hypertune.analysis import summarize

    folders = engine.study_folders(studies_dir)
    display.show_studies(
        display.console(),
        [(summarize(folder), engine.read_outcome(folder)) for folder in folders],
    )


@app.command()
def show(study: StudyName, studies_dir: StudiesDir = Path("studies")) -> None:
    """Print what a study found so far."""
    from hypertune import display, engine
    from hypertune.analysis import read_headline, summarize

    folder = engine.study_folder(studies_dir, study)
    outcome, headline = engine.read_outcome(folder), read_headline(folder)
    display.show_summary(display.console(), summarize(folder), outcome, headline)


@app.command()
def trials(
    study: StudyName,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="table, csv, json or parquet.")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; parquet needs one.")
    ] = None,
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Print all trials of a study, or write them to a file."""
    from hypertune import display, engine
    from hypertune.analysis import load_trials

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
        display.show_trials(display.console(), frame)
        return
    text = (
        frame.to_csv(index=False)
        if format_ == "csv"
        else frame.to_json(orient="records", date_format="iso", indent=1)
    )
    if output is not None:
        output.write_text(text)
    else:
        print(text.rstrip("\n"))


@app.command()
def explain(
    study: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.")],
    space: SpaceMoved = None,
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Say why a trial was proposed, why it ended where it did, and what it cost."""
    from hypertune import display, engine

    folder = engine.study_folder(studies_dir, study)
    display.show_explanation(display.console(), engine.explain(folder, trial, space=space))


@app.command()
def rerun(
    study: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.")],
    seed: Annotated[int | None, typer.Option(help="Another seed than its own.")] = None,
    space: SpaceMoved = None,
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Train a trial again, here, and say whether the numbers are the same."""
    from hypertune import display, engine

    out = display.console()
    folder = engine.study_folder(studies_dir, study)
    again = engine.rerun(folder, trial, seed=seed, space=space, watch=display.epoch_line(out))
    display.show_rerun(out, again)
    if again.failure is not None or (again.same_seed and again.differs is not None):
        raise typer.Exit(1)


@app.command()
def ui(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Name of the study's folder.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; default: a free one.")
    ] = None,
    studies_dir: StudiesDir = Path("studies"),
    tracking_uri: TrackingUri = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show a study's trials in MLflow, until Ctrl-C."""
    from hypertune.engine import read_outcome, study_folder
    from hypertune.settings import Settings

    page = ""
    store = Settings(studies_dir=studies_dir, tracking_uri=tracking_uri).store
    if study is not None:
        outcome = read_outcome(study_folder(studies_dir, study), tracking_uri=tracking_uri)
        store, page = outcome.store, outcome.page
    _serve(store, page, port=port, open_page=open_)


@app.command()
def server(
    store: Annotated[
        str | None,
        typer.Option(help="Database (postgresql://..., sqlite:///...); default: ./mlflow.db."),
    ] = None,
    artifacts: Annotated[
        str, typer.Option(help="Folder or bucket for artifacts; default: ./mlartifacts.")
    ] = "mlartifacts",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Run an MLflow server for studies to come, until Ctrl-C or SIGTERM."""
    from hypertune.settings import Settings

    if host not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"Warning: whoever reaches {host} can read and change all runs. Put a login in front.",
            file=sys.stderr,
        )
    uri = (
        Settings(tracking_uri=store).store if store else f"sqlite:///{Path('mlflow.db').resolve()}"
    )
    where = artifacts if "://" in artifacts else str(Path(artifacts).resolve())
    _serve(uri, "", port=port, host=host, artifacts=where, hint=True)


def _serve(
    store: str,
    page: str,
    *,
    port: int | None,
    host: str = "127.0.0.1",
    artifacts: str = "",
    open_page: bool = False,
    hint: bool = False,
) -> None:
    """Run a server, or point to the one that is there, and print where to look."""
    import signal
    import tempfile
    import webbrowser

    from hypertune.records import redact
    from hypertune.records.server import mlflow_server

    if store.startswith(("http:", "https:")):
        print(f"{redact(store).rstrip('/')}{page}")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="hypertune-mlflow-") as folder:
        log = Path(folder) / "server.log"
        print("Starting an MLflow server ...", flush=True)
        try:
            with mlflow_server(store, log=log, host=host, port=port, artifacts=artifacts) as url:
                print(f"{url}{page}", flush=True)
                if hint:
                    print(f"Use it with: hypertune run ... --tracking-uri {url}", flush=True)
                print("Ctrl-C ends it.", flush=True)
                if open_page:
                    webbrowser.open(f"{url}{page}")
                signal.pause()
        except KeyboardInterrupt:
            print("Ended.")


@app.command()
def delete(
    study: StudyName,
    studies_dir: StudiesDir = Path("studies"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a study's folder: its journal, checkpoints and report. MLflow keeps its runs."""
    from hypertune import engine

    folder = engine.study_folder(studies_dir, study)
    if not yes:
        typer.confirm(f"Delete '{folder}' with all its trials?", abort=True)
    engine.delete(folder)
    print(f"Deleted '{folder}'.")


@app.command()
def sync(
    study: StudyName,
    studies_dir: StudiesDir = Path("studies"),
    tracking_uri: TrackingUri = None,
    sync_timeout: Annotated[str, typer.Option(help="Give up after this time.")] = "10m",
) -> None:
    """Deliver to MLflow what it does not have yet of a study."""
    from hypertune.engine import read_outcome, study_folder
    from hypertune.records.replica import deliver
    from hypertune.settings import parse_duration

    outcome = read_outcome(study_folder(studies_dir, study), tracking_uri=tracking_uri)
    limit = parse_duration(sync_timeout, "sync_timeout")
    delivery = deliver(outcome.folder / "journal.db", outcome.store, timeout_s=limit)
    print(delivery.warning or "MLflow is up to date.")
    if outcome.stopped_by == "kill":
        print(f"The search itself was cut off; it goes on with: hypertune resume {study}")
    if delivery.pending:
        print(f"{delivery.pending} records are not delivered.", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
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


@app.command()
def compare(
    studies: Annotated[list[str], typer.Argument(help="Names of the studies' folders.")],
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Show studies side by side, at equal cost."""
    from hypertune import display
    from hypertune.analysis.compare import compare
    from hypertune.engine import study_folder

    folders = [study_folder(studies_dir, name) for name in studies]
    display.show_comparison(display.console(), compare(folders))


@app.command("lr-range")
def lr_range(
    space: Annotated[str, typer.Option(help="Study: a name from `list`, or a Python file.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value: change a fixed value, or one of the default."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Another data set: see `list`.")] = None,
    low: Annotated[float, typer.Option(help="The first rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="The last rate.")] = 10.0,
    n_batches: Annotated[int, typer.Option(help="Batches from the first rate to the last.")] = 300,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    picture: Annotated[Path, typer.Option(help="The picture's file, a page for a browser.")] = Path(
        "lr-range.html"
    ),
) -> None:
    """Train the default briefly while the learning rate rises, and say which rates are worth it."""
    from hypertune import display
    from hypertune.study import load_study
    from hypertune.trainable.exchange import OtherData, with_data
    from hypertune.trainable.lr_range import figure
    from hypertune.trainable.lr_range import lr_range as test

    study, given = load_study(space), _overrides(set_ or [])
    searched = {key: value for key, value in given.items() if key not in study.fixed}
    study = study.with_fixed({k: v for k, v in given.items() if k in study.fixed})
    study = with_data(study, OtherData(data=data))
    found = test(study, searched, low=low, high=high, n_batches=n_batches, seed=seed)
    try:
        figure(found, f"{study.name}: learning-rate range test").write_html(picture)
    except OSError as error:
        raise SettingError(f"--picture '{picture}' cannot be written: {error.strerror}.") from error
    display.show_lr_range(display.console(), study, found, picture)


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
    # Before anything computes: what the search models must not take the cores of what trains.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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
