"""An MLflow server of our own starts, answers, and leaves nothing behind."""

import socket
import sqlite3
import urllib.request
from pathlib import Path

import psutil
import pytest

from hypertune.core.errors import SettingError
from hypertune.tracking.mlflow.server import is_healthy, mlflow_server


@pytest.mark.slow
def test_a_server_answers_until_the_end_of_the_block(tmp_path: Path) -> None:
    store, log = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "server.log"
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with mlflow_server(store, log=log, artifacts=str(tmp_path / "artifacts")) as url:
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=10) as page:
            assert b"MLflow" in page.read()
        ours = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
        port = int(url.rpartition(":")[2])
        listening = [c.laddr for p in ours for c in p.net_connections() if c.status == "LISTEN"]
        assert {tuple(address) for address in listening} == {("127.0.0.1", port)}
        with pytest.raises(SettingError, match=f"--port {port} of 127.0.0.1 cannot be listened on"):
            mlflow_server(store, log=log, port=port).__enter__()
    assert not is_healthy(url)
    assert not [p for p in ours if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert sqlite3.connect(tmp_path / "mlflow.db").execute("SELECT 1 FROM experiments").fetchall()


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_text("This is no database, and it is long enough to tell.")
    broken = f"sqlite:///{tmp_path}/broken.db"
    with pytest.raises(SettingError, match=r"did not start; '.*server.log' ends with"):
        mlflow_server(broken, log=tmp_path / "server.log").__enter__()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match="choose another"):
            mlflow_server("sqlite://", log=tmp_path / "log", port=port).__enter__()
    assert not (tmp_path / "log").exists()
