"""Jobs on a cluster: what was sent, how to follow it, how it ended."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from hypertune.cli.display.console import Text, duration, pairs

if TYPE_CHECKING:
    from hypertune.cluster import Job, Request


def show_sent(out: Console, places: Sequence[tuple[str, str]], job: str, address: str) -> None:
    """Print what was sent, and how to follow it."""
    out.print(Text(f"Sent as job {job}.", style="bold"))
    pairs(out, places)
    out.print()
    show_left(out, job, address)


def show_left(out: Console, job: str, address: str) -> None:
    """Print how to come back to a job that goes on by itself."""
    out.print("It runs without this terminal. Follow it, read its log, or stop it:", style="bold")
    for command in ("attach", "logs -f", "stop"):
        out.print(f"  hypertune {command} {job} --address {address}", markup=False)


def show_job_plan(
    out: Console, places: Sequence[tuple[str, str]], command: str, env: Mapping[str, Any]
) -> None:
    """Print what would be sent to a Ray cluster."""
    pairs(out, [*places, ("command", command)])
    for name, value in env.items():
        if name != "working_dir":
            pairs(out, [(name, str(value))])
    out.print("Nothing was sent.")


def show_ended(out: Console, job: "Job", words: str) -> None:
    """Print how a job ended, and its last words."""
    out.print(Text("The end of its log; folders and commands are those of its node:"))
    out.print()
    out.print(Text(words))
    code = "" if job.exit_code is None else f", exit status {job.exit_code}"
    out.print()
    out.print(Text(f"Job {job.id}: {job.status}{code}.", style="bold"))
    if job.status != "SUCCEEDED":
        begun = "" if job.status == "STOPPED" else " if its search had begun"
        out.print(
            Text(
                f"The study can be resumed{begun}: submit it again with --name {job.study} "
                "--or-resume, the same files and the same --studies-dir."
            )
        )


def show_jobs(out: Console, jobs: Sequence["Job"]) -> None:
    """Print the studies that were sent to a cluster."""
    table = Table(box=None, pad_edge=False)
    for column in ("job", "study", "status", "since", "took", "question"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        began = job.started_s
        since = "" if began is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(began))
        took = "" if began is None else duration((job.ended_s or time.time()) - began)
        table.add_row(
            *(Text(t) for t in (job.id, job.study, job.status, since, took, job.question))
        )
    out.print(table if table.row_count else "No study was sent to this cluster.")


def show_batch(out: Console, request: "Request", script: Path, number: str) -> None:
    """Print what was handed to SLURM, and how to follow it."""
    out.print(Text(f"Sent as batch job {number}, study {request.name}.", style="bold"))
    rows = [
        ("script", f"{script}; to resume the study, give it to sbatch again"),
        ("log", f"tail -f {request.name}-{number}.log"),
        (
            "end it",
            f"scancel --batch --signal=USR1 {number}; it ends cleanly and is not queued again",
        ),
        ("results", f"studies/{request.name}, once a run of the job has ended"),
    ]
    if request.settings.tracking_uri is None:
        rows.append(
            ("MLflow", f"then run: hypertune sync {request.name}; or submit it with --tracking-uri")
        )
    pairs(out, rows)
