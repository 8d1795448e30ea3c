"""The command line: flags -> calls -> printed result."""

import ast
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypertune.core.deadlines import leave
from hypertune.core.errors import Checks, HypertuneError, SettingError, choices
from hypertune.core.text import cell, printable

if TYPE_CHECKING:
    import pandas as pd

    from hypertune.cluster import Batch, Cluster, RayJob, Request
    from hypertune.engine import Outcome
    from hypertune.settings import Settings
    from hypertune.studies.study import Study

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
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the study's file though the study was not begun here."),
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
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


@app.command()
def run(
    ctx: typer.Context,
    space: Annotated[str, typer.Option(help="Study: a name from `list`, or a Python file.")],
    method: Annotated[str | None, typer.Option(help="How to search: see `list`.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="none, asha, hyperband or median, with any method's configs.")
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option(
            help="answer: the best of each level or range of the factors run again, and levels of "
            "the first choice of at most four get equal budgets. best: only the best ones do. "
            "Default: the study's."
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
    fresh_workers: Annotated[
        bool,
        typer.Option(
            "--fresh-workers", help="A new process for each stretch of a trial: slower to start."
        ),
    ] = False,
    n_repeats: Annotated[
        int | None,
        typer.Option(help="Fresh seeds to run the best of each level and the default again on."),
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
    or_resume: Annotated[
        bool, typer.Option("--or-resume", help="Go on with the study --name if it has begun.")
    ] = False,
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
    from hypertune import cluster, engine, plan
    from hypertune.analysis import undecided, write_report
    from hypertune.cli import display

    study, settings = _settled(ctx.params)
    cluster.check_code()
    if or_resume and engine.has_study(settings):
        _go_on(study, settings, space, {name for name in ctx.params if _is_given(ctx, name)})
        return
    out = display.console()
    if dry_run:
        display.show_plan(out, study, settings, plan.make_plan(study, settings, probe=probe))
        return
    out.print(f"Goal: {display.goal_text(study, settings)}.", markup=False)
    with display.Display(out) as show:
        outcome = engine.run(study, settings, cluster.published(show), write_report, undecided)
    _end(outcome, until_decided=until_decided)


def _settled(given: Mapping[str, Any], **changes: Any) -> "tuple[Study, Settings]":
    """Return the study and the settings that the flags of `run` ask for.

    Args:
        given: The values of all its flags, by their names in its signature.
        changes: Settings in place of those.

    Raises:
        HypertuneError: Flags break a rule; the message lists all breaches.
    """
    from hypertune.search.methods import DEFAULT_METHOD
    from hypertune.settings import Settings, parse_duration, parse_size
    from hypertune.studies.other_data import OtherData
    from hypertune.studies.study import load_study

    def path(name: str) -> Path | None:
        return None if given[name] is None else Path(given[name])

    check = Checks()
    with check:
        study = load_study(given["space"]).with_fixed(_overrides(given["set_"] or []))
    values = {name: given[name] for name in Settings.__dataclass_fields__ if name in given}
    values |= {"n_concurrent": None, "resources": {}}
    for name in ("time_budget", "trial_timeout", "sync_timeout"):
        with check:
            if given[name] is not None:
                values[f"{name}_s"] = parse_duration(given[name], name)
    with check:
        values["n_concurrent"] = _concurrency(given["n_concurrent"])
    with check:
        values["resources"] = _amounts(given["resources"] or [])
    with check:
        values["disk_budget_bytes"] = parse_size(given["disk_budget"], "disk_budget")
    values |= {
        "method": given["method"] or DEFAULT_METHOD,
        "from_study": given["from_"],
        "start": path("start"),
        "studies_dir": path("studies_dir"),
    }
    with check:
        other = {name: given[name] for name in ("data", "target", "group", "part", "time")}
        values["other_data"] = OtherData(
            **other, data_dir=path("data_dir"), csv=path("csv"), npz=path("npz")
        )
        settings = Settings(**{**values, **changes})
        settings.check_end()
    with check:
        if given["probe"] and not given["dry_run"]:
            raise SettingError("--probe goes with --dry-run.")
        if given["or_resume"] and given["name"] is None:
            raise SettingError("--or-resume needs --name, the study's to go on with.")
    check.done()
    return study, settings


def _go_on(study: "Study", settings: "Settings", space: str, asked: set[str]) -> None:
    """Go on with the study of a name, as `run --or-resume` does; a finished one is only shown."""
    from hypertune import engine
    from hypertune.cli import display

    out = display.console()
    folder = engine.study_folder(settings.studies_dir, settings.name or "", settings.storage)
    engine.refuse_other(folder, study, settings, asked)
    changes = {
        "n_trials": settings.n_trials,
        "n_concurrent": settings.n_concurrent,
        "until_decided": settings.until_decided or None,
        "address": settings.address,
        "storage": settings.storage,
        "tracking_uri": settings.tracking_uri,
        "sync_timeout_s": settings.sync_timeout_s,
        "verbose": settings.verbose,
        # Its files may lie elsewhere now; what is in them is checked as on any resume.
        "other_data": settings.other_data if settings.other_data.record() else None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if engine.is_finished(folder, n_trials=settings.n_trials):
        out.print(f"Study '{folder.name}' is finished.")
        _end(engine.read_outcome(folder, tracking_uri=settings.tracking_uri), until_decided=False)
        return
    out.print(f"Going on with study '{folder.name}'.")
    _resumed(folder, changes, space, until_decided=settings.until_decided)


def _resumed(
    folder: Path, changes: Mapping[str, Any], space: str | None, *, until_decided: bool
) -> None:
    """Go on with a study, and print what was found."""
    from hypertune import cluster, engine
    from hypertune.analysis import undecided, write_report
    from hypertune.cli import display

    with display.Display(display.console()) as show:
        outcome = engine.resume(
            folder,
            changes=changes,
            space=space,
            observer=cluster.published(show),
            report=write_report,
            judge=undecided,
        )
    _end(outcome, until_decided=until_decided)


def _end(outcome: "Outcome", *, until_decided: bool) -> None:
    """Print what was found, and exit by how the search ended."""
    from hypertune.analysis import read_headline, summarize, undecided
    from hypertune.cli import display

    summary = summarize(outcome.folder)
    headline = read_headline(outcome.folder)
    out = display.console()
    display.show_summary(out, summary, outcome, headline)
    if until_decided or summary.study["settings"].get("until_decided", False):
        display.show_undecided(out, [one.text for one in undecided(outcome.folder)])
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
    trust: Trust = False,
    studies_dir: StudiesDir = Path("studies"),
    tracking_uri: TrackingUri = None,
    sync_timeout: Annotated[str, typer.Option(help="Wait so long for MLflow at the end.")] = "1m",
    verbose: Annotated[bool, typer.Option("--verbose", help="Let Ray speak.")] = False,
) -> None:
    """Go on with a study that was cut short, or extend one that is finished."""
    from hypertune import engine
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
    _allow_file(folder, space, trust=trust)
    _resumed(folder, changes, space, until_decided=until_decided)


def _allow_file(folder: Path, space: str | None, *, trust: bool) -> None:
    """Have the user allow that a file is run which only a journal names, where that is needed."""
    from hypertune import engine

    file = None if space is not None else engine.untrusted_file(folder)
    if file is None:
        return
    asked = not trust and sys.stdin.isatty()
    if asked:
        print(f"Study '{folder.name}' was not begun here by you, and its journal names a file.")
    if trust or (asked and typer.confirm(f"Run {str(file)!r}?")):
        engine.trust_study(folder)


JobServer = typer.Option(
    envvar="RAY_API_SERVER_ADDRESS", help="The cluster's job server: http://HOST:8265."
)
Address = Annotated[str, JobServer]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job, as `jobs` shows it.")]


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="[OPTIONS] --space NAME [OPTIONS OF run]",
)
def submit(
    ctx: typer.Context,
    address: Annotated[str | None, JobServer] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not follow the search once it is sent.")
    ] = False,
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder that travels along; the driver runs in it.")
    ] = None,
    requirements: Annotated[
        Path | None,
        typer.Option(help="pyproject.toml or requirements file: the nodes install its packages."),
    ] = None,
    installed: Annotated[
        bool,
        typer.Option("--installed", help="hypertune is on all nodes: its code does not travel."),
    ] = False,
    entrypoint_num_cpus: Annotated[
        float | None, typer.Option(help="CPUs of the driver (0).", min=0)
    ] = None,
    entrypoint_num_gpus: Annotated[
        float | None, typer.Option(help="GPUs of the driver (0).", min=0)
    ] = None,
    entrypoint_memory: Annotated[
        str | None, typer.Option(help="Memory of the driver, such as 2GB.")
    ] = None,
    entrypoint_resources: Annotated[
        str | None, typer.Option(help="Custom resources of the driver, as a JSON object.")
    ] = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="As a batch job of SLURM, with a Ray of its own.")
    ] = False,
    partition: Annotated[str | None, typer.Option(help="SLURM's partition.")] = None,
    account: Annotated[str | None, typer.Option(help="SLURM's account.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes of the batch job (1).")] = None,
    cpus: Annotated[int | None, typer.Option(help="CPUs of each node (1).")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of each node (0).")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of each node, such as 32G.")] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Wall time of one run of the batch job, such as 4:00:00.")
    ] = None,
    sbatch_option: Annotated[
        list[str] | None, typer.Option(help="Another option of sbatch, such as --qos=high.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, send nothing.")
    ] = False,
) -> None:
    """Send a study to a cluster, where it runs on without this machine.

    All options of `run` go along, and are checked before anything is sent.
    """
    from hypertune import cluster
    from hypertune.settings import parse_size

    given = _given_to_run(ctx)
    for_batch = {
        "partition": partition,
        "account": account,
        "nodes": nodes,
        "cpus": cpus,
        "gpus": gpus,
        "memory": memory,
        "time_limit": time_limit,
        "options": sbatch_option or None,
    }
    batch_flags = {name: value for name, value in for_batch.items() if value is not None}
    entrypoint = {
        "entrypoint_num_cpus": entrypoint_num_cpus,
        "entrypoint_num_gpus": entrypoint_num_gpus,
        "entrypoint_memory": entrypoint_memory,
        "entrypoint_resources": entrypoint_resources,
    }
    for_job = {
        **entrypoint,
        "working_dir": working_dir,
        "requirements": requirements,
        "installed": installed or None,
        "no_wait": no_wait or None,
        "address": address if _is_given(ctx, "address") else None,
    }
    job_flags = {name: value for name, value in for_job.items() if value is not None}
    check = Checks()
    with check:
        # A folder for --storage is one of the nodes, which may not be here.
        shared = given.params["storage"] or ""
        study, settings = _settled(
            given.params, **({} if slurm or "://" in shared else {"storage": None})
        )
        request = cluster.Request(
            study=study, settings=settings, space=given.params["space"], flags=_flags(given)
        )
        request.check(slurm=slurm)
    with check:
        _refuse(job_flags if slurm else batch_flags, "not" if slurm else "only")
    with check:
        if slurm:
            batch = cluster.Batch(**batch_flags)  # type: ignore[arg-type]
        elif address is None and not dry_run:
            raise SettingError(
                "Say where: --address http://HOST:8265 of a Ray cluster, or --slurm."
            )
    with check:
        memory_text = entrypoint_memory or "0MB"
        job = cluster.RayJob(
            entrypoint=cluster.Entrypoint(
                num_cpus=entrypoint_num_cpus or 0,
                num_gpus=entrypoint_num_gpus or 0,
                memory_bytes=int(parse_size(memory_text, "entrypoint_memory")),
                resources=cluster.parse_resources(entrypoint_resources or "{}"),
            ),
            working_dir=working_dir,
            requirements=requirements,
            installed=installed,
        )
    check.done()
    if slurm:
        _submit_batch(request, batch, dry_run=dry_run)
    else:
        _submit_job(request, job, address, dry_run=dry_run, wait=not no_wait)


def _given_to_run(ctx: typer.Context) -> typer.Context:
    """Parse the words that `submit` itself does not know as `run` does."""
    command = ctx.parent.command.commands["run"]  # type: ignore[union-attr]  # a group
    given: typer.Context = command.make_context("hypertune submit", [*ctx.args])
    wrong = [flag for flag in ("address", "probe") if _is_given(given, flag)]
    if wrong:
        raise SettingError(f"--{wrong[0]} goes with `run` alone.")
    return given


def _is_given(ctx: typer.Context, flag: str) -> bool:
    source = ctx.get_parameter_source(flag)
    return source is not None and source.name == "COMMANDLINE"


def _flags(given: typer.Context) -> dict[str, tuple[str, Any]]:
    """Return the flags that were given: by name, how each is spelled and its value."""
    return {
        option.name: (option.opts[0], given.params[option.name])
        for option in given.command.params
        if option.name is not None and _is_given(given, option.name)
    }


def _refuse(flags: Mapping[str, object], what: str) -> None:
    """Refuse flags of the other way to submit."""
    if flags:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in flags)
        raise SettingError(f"{words}: {what} with --slurm.")


def _submit_batch(request: "Request", batch: "Batch", *, dry_run: bool) -> None:
    """Show a batch script, and hand it to SLURM unless it is only to be shown."""
    from hypertune import cluster
    from hypertune.cli import display

    out = display.console()
    script = cluster.batch_ready(request, batch)
    out.print(script, markup=False)
    if dry_run:
        out.print("Nothing was sent.")
        return
    path = Path(f"{request.name}.sbatch")
    path.write_text(script)
    number = cluster.send_batch(path)
    display.show_batch(out, request, path, number)


def _submit_job(
    request: "Request", job: "RayJob", address: str | None, *, dry_run: bool, wait: bool
) -> None:
    """Send a study to a Ray cluster, and follow it."""
    import tempfile

    from hypertune import cluster
    from hypertune.cli import display

    out = display.console()
    with tempfile.TemporaryDirectory(prefix="hypertune-submit-") as folder:
        command, env, upload = job.ready(request, Path(folder))
        places = job.places(request, upload)
        if dry_run or address is None:
            display.show_job_plan(out, places, command, env)
            return
        server = cluster.Cluster(address)
        server.check(request.name, known="or_resume" in request.flags)
        name = server.submit(command, request.study, request.name, env, job.entrypoint)
    display.show_sent(out, places, name, server.address)
    if wait:
        _follow_job(server, name)


def _follow_job(server: "Cluster", name: str) -> None:
    """Show how a job's search goes until it has ended, or until Ctrl-C ends the looking."""
    from hypertune.cli import display

    out = display.console()
    try:
        with display.Display(out) as show:
            ended = server.follow(name, display.on_cluster(out, show))
    except KeyboardInterrupt:
        display.show_left(out, name, server.address)
        return
    display.show_ended(out, ended, server.last_words(ended))
    if ended.status != "SUCCEEDED":
        raise typer.Exit(ended.exit_code or 1)


@app.command()
def jobs(address: Address) -> None:
    """Show the studies that were sent to a Ray cluster."""
    from hypertune import cluster
    from hypertune.cli import display

    display.show_jobs(display.console(), cluster.Cluster(address).jobs())


@app.command()
def logs(
    job: JobName,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
) -> None:
    """Print what a job on a Ray cluster has printed."""
    from hypertune import cluster

    server = cluster.Cluster(address)
    name = server.job(job).id
    if not follow:
        print(printable(server.log(name).rstrip("\n")))
        return
    try:
        server.follow_log(name, lambda text: print(printable(text), end="", flush=True))
    except KeyboardInterrupt:
        print(file=sys.stderr)


@app.command()
def stop(
    job: JobName,
    address: Address,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for its end.")] = False,
) -> None:
    """End a job's search cleanly: what was measured is kept, and the study can go on."""
    from hypertune import cluster
    from hypertune.cli import display

    out = display.console()
    server = cluster.Cluster(address)
    found = server.job(job)
    if found.over or not server.stop(found.id):
        out.print(f"Job '{found.id}' has ended already.", markup=False)
        return
    out.print(f"Job '{found.id}' was told to end; it writes its report first.", markup=False)
    if not no_wait:
        ended = server.wait(found.id)
        display.show_ended(out, ended, server.last_words(ended))


@app.command()
def attach(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study here, or a job there.")],
    address: Annotated[str | None, JobServer] = None,
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Show how a search goes that runs in another terminal, or on a cluster, until Ctrl-C."""
    from hypertune import cluster, engine
    from hypertune.cli import display

    if address is not None:
        server = cluster.Cluster(address)
        _follow_job(server, server.job(study).id)
        return
    folder = engine.study_folder(studies_dir, study)
    try:
        with display.Display(display.console()) as look, cluster.Watch(folder) as watch:
            watch.follow(look)
    except KeyboardInterrupt:
        return
    show(study, studies_dir)


@app.command()
def studies(studies_dir: StudiesDir = Path("studies")) -> None:
    """Show the studies that were begun, and how far they are."""
    from hypertune import engine
    from hypertune.analysis import summarize
    from hypertune.cli import display

    found, broken = [], {}
    for folder in engine.study_folders(studies_dir):
        try:
            engine.check_study(folder)
            found.append((summarize(folder), engine.read_outcome(folder)))
        except HypertuneError as problem:
            broken[folder.name] = str(problem)
    display.show_studies(display.console(), found, broken)


@app.command()
def show(study: StudyName, studies_dir: StudiesDir = Path("studies")) -> None:
    """Print what a study found so far."""
    from hypertune import engine
    from hypertune.analysis import read_headline, summarize
    from hypertune.cli import display

    folder = engine.study_folder(studies_dir, study)
    outcome, headline = engine.read_outcome(folder), read_headline(folder)
    display.show_summary(display.console(), summarize(folder), outcome, headline)


@app.command()
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
    from hypertune.cli import display

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


@app.command()
def explain(
    study: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.")],
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Say why a trial was proposed, why it ended where it did, and what it cost."""
    from hypertune import engine
    from hypertune.cli import display

    folder = engine.study_folder(studies_dir, study)
    display.show_explanation(display.console(), engine.explain(folder, trial))


@app.command()
def rerun(
    study: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.")],
    seed: Annotated[int | None, typer.Option(help="Another seed than its own.")] = None,
    space: SpaceMoved = None,
    trust: Trust = False,
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Train a trial again, here, and say whether the numbers are the same."""
    from hypertune import engine
    from hypertune.cli import display

    out = display.console()
    folder = engine.study_folder(studies_dir, study)
    _allow_file(folder, space, trust=trust)
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
    uri = Settings(tracking_uri=store or "sqlite:///mlflow.db").store
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

    from hypertune.core.text import redact
    from hypertune.tracking.mlflow.server import mlflow_server

    if store.startswith(("http:", "https:")):
        print(printable(f"{redact(store).rstrip('/')}{page}"))
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

    folder = engine.study_folder(studies_dir, study, damaged=True)
    if not yes:
        typer.confirm(f"Delete '{folder}' with all its trials?", abort=True)
    engine.delete(folder)
    print(printable(f"Deleted '{folder}'."))


@app.command()
def copy(
    study: StudyName,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the copy's folder.")],
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Copy a study as one of its own, which may go on apart, also in MLflow."""
    from hypertune import engine

    print(f"Copied to '{engine.copy(engine.study_folder(studies_dir, study), new)}'.")


@app.command()
def sync(
    study: StudyName,
    studies_dir: StudiesDir = Path("studies"),
    tracking_uri: TrackingUri = None,
    sync_timeout: Annotated[str, typer.Option(help="Give up after this time.")] = "10m",
) -> None:
    """Deliver to MLflow what it does not have yet of a study."""
    from hypertune.engine import read_outcome, study_folder
    from hypertune.settings import parse_duration
    from hypertune.tracking.mlflow.replica import deliver

    outcome = read_outcome(study_folder(studies_dir, study), tracking_uri=tracking_uri)
    limit = parse_duration(sync_timeout, "sync_timeout")
    delivery = deliver(outcome.folder / "journal.db", outcome.store, timeout_s=limit)
    if delivery.warning or not delivery.pending:
        print(printable(delivery.warning or "MLflow is up to date."))
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
    from hypertune.analysis.compare import compare
    from hypertune.cli import display
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
    from hypertune.cli import display
    from hypertune.studies.lr_range import figure
    from hypertune.studies.lr_range import lr_range as test
    from hypertune.studies.other_data import OtherData, with_data
    from hypertune.studies.study import load_study

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
    from hypertune.cli import display
    from hypertune.data import DATA_SETS, SERIES
    from hypertune.search.methods import DEFAULT_METHOD, METHODS
    from hypertune.studies.study import load_study, study_names

    data_sets, missing = SERIES | DATA_SETS, {}
    for name, row in data_sets.items():
        try:
            row.find()
        except FileNotFoundError as error:
            missing[name] = str(error).rpartition("; run: ")[2]
    display.show_list(
        display.console(),
        [load_study(name) for name in study_names()],
        [
            (name + (" (default)" if name == DEFAULT_METHOD else ""), method.summary)
            for name, method in METHODS.items()
        ],
        [(name, row.summary) for name, row in data_sets.items()],
        missing,
    )


def main() -> None:
    """Run the command line; errors that a user can act on are one message and exit status 2."""
    # Before anything computes: what the search models must not take the cores of what trains.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may know less than UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("-") and arguments[0] != "--help":
        arguments.insert(0, "run")
    try:
        app(args=arguments)
    except HypertuneError as error:
        print(printable(f"Error: {error}"), file=sys.stderr)
        leave(2)
        sys.exit(2)
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


if __name__ == "__main__":
    main()
