"""Commands for records: MLflow's pages and server, sync, copy, delete."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hypertune.cli.options import StudiesDir, StudyName, TrackingUri
from hypertune.core.options import parse_duration
from hypertune.core.text import printable

if TYPE_CHECKING:
    pass

PANEL = "Records"
commands = typer.Typer()


@commands.command(rich_help_panel=PANEL)
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
    from hypertune.engine import read_result, study_folder
    from hypertune.settings import Settings

    page = ""
    store = Settings(studies_dir=studies_dir, tracking_uri=tracking_uri).store
    if study is not None:
        result = read_result(study_folder(studies_dir, study), tracking_uri=tracking_uri)
        store, page = result.store, result.page
    _serve(store, page, port=port, open_page=open_)


@commands.command(rich_help_panel=PANEL)
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
    """Run an MLflow server that studies can use, until Ctrl-C or SIGTERM."""
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


@commands.command(rich_help_panel=PANEL)
def delete(
    study: StudyName,
    studies_dir: StudiesDir = Path("studies"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a study's folder: its journal, checkpoints and report. MLflow keeps its runs."""
    from hypertune import engine

    folder = engine.study_folder(studies_dir, study, damaged=True)
    if not yes:
        typer.confirm(f"Delete '{folder}' with all its trials?", abort=True)
    engine.delete(folder)
    print(printable(f"Deleted '{folder}'."))


@commands.command(rich_help_panel=PANEL)
def copy(
    study: StudyName,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the copy's folder.")],
    studies_dir: StudiesDir = Path("studies"),
) -> None:
    """Copy a study; the copy can be resumed separately, and has its own runs in MLflow."""
    from hypertune import engine

    print(f"Copied to '{engine.copy(engine.study_folder(studies_dir, study), new)}'.")


@commands.command(rich_help_panel=PANEL)
def sync(
    study: StudyName,
    studies_dir: StudiesDir = Path("studies"),
    tracking_uri: TrackingUri = None,
    sync_timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Give up after this time.")
    ] = "10m",
) -> None:
    """Send to MLflow the records of a study that it does not have yet."""
    from hypertune.engine import read_result, study_folder
    from hypertune.tracking.mlflow.replica import deliver

    result = read_result(study_folder(studies_dir, study), tracking_uri=tracking_uri)
    limit = parse_duration(sync_timeout, "sync_timeout")
    delivery = deliver(result.folder / "journal.db", result.store, timeout_s=limit)
    if delivery.warning or not delivery.pending:
        print(printable(delivery.warning or "MLflow is up to date."))
    if result.stopped_by == "kill":
        print(f"The search itself was cut off. To resume it: hypertune resume {study}")
    if delivery.pending:
        print(f"{delivery.pending} records are not delivered.", file=sys.stderr)
        raise typer.Exit(1)
