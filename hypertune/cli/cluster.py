"""Commands for studies on a cluster: submit, jobs, logs, stop, attach."""

import sys
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypertune.cli.options import (
    SUBMIT,
    StudiesDir,
    checked,
    parse_run_flags,
    takes,
    with_file,
    words,
)
from hypertune.core.errors import Checks, SettingError
from hypertune.core.options import Number, Option, parse_size
from hypertune.core.text import printable

if TYPE_CHECKING:
    from hypertune.cluster import Batch, Cluster, RayJob, Request

PANEL = "On a cluster"
commands = typer.Typer()
DRIVER_CPUS = Option(
    key="entrypoint_num_cpus", kind=Number(zero=True), help="CPUs of the driver (0)."
)
DRIVER_GPUS = replace(DRIVER_CPUS, key="entrypoint_num_gpus", help="GPUs of the driver (0).")
SubmitTo = typer.Option(
    envvar="RAY_API_SERVER_ADDRESS",
    show_envvar=False,  # the command's text names it: here a narrow terminal would cut it
    metavar="URL",
    help="Job server of the cluster: http://HOST:8265.",
)
JobServer = copy(SubmitTo)
JobServer.show_envvar = True
Address = Annotated[str, JobServer]
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="The job, as `hypertune jobs` shows it.")
]


@commands.command(rich_help_panel=PANEL, options_metavar="[OPTIONS] [OPTIONS OF run]")
@takes(SUBMIT, hidden=True)
def submit(
    ctx: typer.Context,
    given: dict[str, Any],
    address: Annotated[str | None, SubmitTo] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not follow the search once it is sent.")
    ] = False,
    working_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to send along; the driver runs in it."),
    ] = None,
    requirements: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="pyproject.toml or requirements file whose packages the nodes install.",
        ),
    ] = None,
    installed: Annotated[
        bool,
        typer.Option("--installed", help="All nodes have hypertune: its code is not sent."),
    ] = False,
    entrypoint_num_cpus: Annotated[
        float | None, typer.Option(metavar="NUMBER", help=DRIVER_CPUS.help)
    ] = None,
    entrypoint_num_gpus: Annotated[
        float | None, typer.Option(metavar="NUMBER", help=DRIVER_GPUS.help)
    ] = None,
    entrypoint_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of the driver, such as 2GB.")
    ] = None,
    entrypoint_resources: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Custom resources of the driver, as a JSON object."),
    ] = None,
    slurm: Annotated[
        bool,
        typer.Option("--slurm", help="Send it as a batch job to SLURM, with a Ray of its own."),
    ] = False,
    partition: Annotated[
        str | None, typer.Option(metavar="NAME", help="SLURM's partition.")
    ] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="SLURM's account.")] = None,
    nodes: Annotated[
        int | None, typer.Option(metavar="N", help="Nodes of the batch job (1).")
    ] = None,
    cpus: Annotated[int | None, typer.Option(metavar="N", help="CPUs of each node (1).")] = None,
    gpus: Annotated[int | None, typer.Option(metavar="N", help="GPUs of each node (0).")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of each node, such as 32G.")
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Wall time of one run of the batch job, such as 4:00:00."
        ),
    ] = None,
    sbatch_option: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="Another option of sbatch, such as --qos=high."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")
    ] = False,
) -> None:
    """Send a study to a cluster, where it runs without this machine.

    All options of `hypertune run` may be given too. They are checked before anything is sent.

    Without --address the variable RAY_API_SERVER_ADDRESS names the cluster.
    """
    from hypertune import cluster
    from hypertune.cli.run import print_config

    if "probe" in given:
        raise SettingError("--probe goes with `run` alone.")
    asked = with_file(given)
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
        if "address" in asked:
            raise SettingError("'address' in the file of --config goes with `run` alone.")
    with check:
        # A folder for --storage is one of the nodes, which may not be here.
        shared = str(asked.get("storage", ""))
        study, settings = parse_run_flags(
            asked, **({} if slurm or "://" in shared else {"storage": None})
        )
        request = cluster.Request(
            study=study,
            settings=settings,
            space=str(asked["space"]),
            flags=words(asked),
        )
        request.check(slurm=slurm)
    with check:
        _refuse(job_flags if slurm else batch_flags, "not" if slurm else "only")
    with check:
        if slurm:
            batch = cluster.Batch(**batch_flags)  # type: ignore[arg-type]
        elif address is None and not dry_run and "print_config" not in given:
            raise SettingError(
                "Say where: --address http://HOST:8265 of a Ray cluster, or --slurm."
            )
    with check:
        memory_text = entrypoint_memory or "0MB"
        job = cluster.RayJob(
            entrypoint=cluster.Entrypoint(
                num_cpus=checked(DRIVER_CPUS, entrypoint_num_cpus or 0),
                num_gpus=checked(DRIVER_GPUS, entrypoint_num_gpus or 0),
                memory_bytes=int(parse_size(memory_text, "entrypoint_memory")),
                resources=cluster.parse_resources(entrypoint_resources or "{}"),
            ),
            working_dir=working_dir,
            requirements=requirements,
            installed=installed,
        )
    check.done()
    if "print_config" in given:
        print_config(asked, study)
    elif slurm:
        _submit_batch(request, batch, dry_run=dry_run)
    else:
        _submit_job(request, job, address, dry_run=dry_run, wait=not no_wait)


def _is_given(ctx: typer.Context, flag: str) -> bool:
    source = ctx.get_parameter_source(flag)
    return source is not None and source.name == "COMMANDLINE"


def _refuse(flags: Mapping[str, object], what: str) -> None:
    """Refuse flags of the other way to submit."""
    if flags:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in flags)
        raise SettingError(f"{words}: {what} with --slurm.")


def _submit_batch(request: "Request", batch: "Batch", *, dry_run: bool) -> None:
    """Show a batch script, and hand it to SLURM unless it is only to be shown."""
    from hypertune import cluster
    from hypertune.cli.display.cluster import show_batch
    from hypertune.cli.display.console import console

    out = console()
    script = cluster.batch_ready(request, batch)
    out.print(script, markup=False)
    if dry_run:
        out.print("Nothing was sent.")
        return
    path = Path(f"{request.name}.sbatch")
    path.write_text(script)
    number = cluster.send_batch(path)
    show_batch(out, request, path, number)


def _submit_job(
    request: "Request", job: "RayJob", address: str | None, *, dry_run: bool, wait: bool
) -> None:
    """Send a study to a Ray cluster, and follow it."""
    import tempfile

    from hypertune import cluster
    from hypertune.cli.display.cluster import show_job_plan, show_sent
    from hypertune.cli.display.console import console

    out = console()
    with tempfile.TemporaryDirectory(prefix="hypertune-submit-") as folder:
        command, env, upload = job.ready(request, Path(folder))
        places = job.places(request, upload)
        if dry_run or address is None:
            show_job_plan(out, places, command, env)
            return
        server = cluster.Cluster(address)
        server.check(request.name, known="or_resume" in request.flags)
        name = server.submit(command, request.study, request.name, env, job.entrypoint)
    show_sent(out, places, name, server.address)
    if wait:
        _follow_job(server, name)


def _follow_job(server: "Cluster", name: str) -> None:
    """Show a job's search until it has ended, or until Ctrl-C."""
    from hypertune.cli.display.cluster import show_ended, show_left
    from hypertune.cli.display.console import console
    from hypertune.cli.display.progress import Display, on_cluster

    out = console()
    try:
        with Display(out) as show:
            ended = server.follow(name, on_cluster(out, show))
    except KeyboardInterrupt:
        show_left(out, name, server.address)
        return
    show_ended(out, ended, server.last_words(ended))
    if ended.status != "SUCCEEDED":
        raise typer.Exit(ended.exit_code or 1)


@commands.command(rich_help_panel=PANEL)
def jobs(address: Address) -> None:
    """Show the studies that were sent to a Ray cluster."""
    from hypertune import cluster
    from hypertune.cli.display.cluster import show_jobs
    from hypertune.cli.display.console import console

    show_jobs(console(), cluster.Cluster(address).jobs())


@commands.command(rich_help_panel=PANEL)
def logs(
    job: JobName,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print until it ends.")] = False,
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


@commands.command(rich_help_panel=PANEL)
def stop(
    job: JobName,
    address: Address,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for its end.")] = False,
) -> None:
    """End a job's search cleanly; its results are kept, and the study can be resumed."""
    from hypertune import cluster
    from hypertune.cli.display.cluster import show_ended
    from hypertune.cli.display.console import console

    out = console()
    server = cluster.Cluster(address)
    found = server.job(job)
    if found.over or not server.stop(found.id):
        out.print(f"Job '{found.id}' has ended already.", markup=False)
        return
    out.print(f"Job '{found.id}' is asked to end; it writes its report first.", markup=False)
    if not no_wait:
        ended = server.wait(found.id)
        show_ended(out, ended, server.last_words(ended))


@commands.command(rich_help_panel=PANEL)
def attach(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Study on this machine, or with --address a job.")
    ],
    address: Annotated[str | None, JobServer] = None,
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Follow a search in another terminal or on a cluster, until Ctrl-C."""
    from hypertune import cluster, engine
    from hypertune.cli.display.console import console
    from hypertune.cli.display.progress import Display
    from hypertune.cli.studies import print_study

    if address is not None:
        server = cluster.Cluster(address)
        _follow_job(server, server.job(study).id)
        return
    folder = engine.study_folder(studies_dir, study)
    try:
        with Display(console()) as display, cluster.Watch(folder) as watch:
            watch.follow(display)
    except KeyboardInterrupt:
        return
    print_study(folder)
