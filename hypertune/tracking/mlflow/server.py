"""An MLflow server of our own: closed, small, and gone when it is told to."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from hypertune.core.deadlines import within
from hypertune.core.errors import SettingError
from hypertune.core.text import redact

_START_S = 120.0  # a new database takes half a minute on a busy machine
_END_S = 10.0
_ANSWER_S = 2.0


@contextlib.contextmanager
def mlflow_server(
    store: str, *, log: Path, host: str = "127.0.0.1", port: int | None = None, artifacts: str = ""
) -> Iterator[str]:
    """Run an MLflow server, from the moment it answers to the end of the block.

    Args:
        store: URI of a database. Its password reaches the server by the environment only.
        log: File for what the server says.
        host: Address to listen on.
        port: Port to listen on; None for a free one.
        artifacts: Where artifacts go that come by the server; empty for MLflow's own choice.

    Yields:
        The server's URL.

    Raises:
        SettingError: The port is taken, or the server does not start.
    """
    port = _free_port(host) if port is None else port
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--workers", "1"]
    command += ["--artifacts-destination", artifacts] if artifacts else []
    settings = {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a dozen processes that nobody asked for
    }
    _refuse_taken(host, port)
    with log.open("a", encoding="utf-8") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # it ends when this process says so
        )
    try:
        url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        _wait(process, url, log)
        yield url
    finally:
        _end(process)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingError(
                f"--port {port} of {host} cannot be listened on ({error.strerror}): choose another."
            ) from error


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not is_healthy(url):
        if process.poll() is not None or time.monotonic() > deadline:
            said = redact(log.read_text(errors="replace")).strip().splitlines()
            raise SettingError(
                f"The MLflow server did not start; '{log}' ends with: {' | '.join(said[-3:])}"
            )
        time.sleep(0.2)


def is_healthy(url: str) -> bool:
    """Say whether an MLflow server answers at a URL."""

    def ask() -> bool:
        with urllib.request.urlopen(f"{url}/health", timeout=_ANSWER_S) as answer:
            return bool(answer.status == 200)

    try:
        return within(_ANSWER_S, url, ask)
    except (OSError, http.client.HTTPException):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            return
