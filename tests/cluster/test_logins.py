"""What each login to MLflow may, which docker/compose.yaml makes, with a real server."""

import configparser
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from compose_file import SERVICES, make_secrets
from made_studies import Made, write_study

from hypertune.journal.store import Journal
from hypertune.tracking.mlflow.replica import deliver
from hypertune.tracking.mlflow.server import _end, _free_port, _wait


def password(secrets: Path, user: str) -> str:
    file = configparser.ConfigParser(interpolation=None)
    file.read(secrets / f"mlflow_{user}")
    assert file["mlflow"]["mlflow_tracking_username"] == user
    return file["mlflow"]["mlflow_tracking_password"]


@contextlib.contextmanager
def closed_server(folder: Path, secrets: Path) -> Iterator[str]:
    """Run an MLflow server that asks for a login, as compose.yaml has it, but with SQLite."""
    told = " ".join(SERVICES["mlflow"]["command"])
    assert "'default_permission = NO_PERMISSIONS'" in told
    config, log, port = folder / "auth.ini", folder / "server.log", _free_port("127.0.0.1")
    users = f"database_uri = sqlite:///{folder / 'users.db'}"
    config.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\nauth_cache_ttl_seconds = 60\n{users}\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--app-name", "basic-auth"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": password(secrets, "admin"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 32,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **settings},
            stdout=out,
            stderr=out,
            cwd=folder,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, log)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        _end(process)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_who_writes_runs_cannot_touch_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    refused = (MlflowException, requests.HTTPError)
    secrets = make_secrets(tmp_path)

    def become(user: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password(secrets, user))

    folder = write_study(tmp_path / "made-1", [Made(losses=[3.0, 2.0])])
    model = folder / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    with contextlib.closing(Journal(folder / "journal.db")) as journal:
        journal.add_event("model", 0, {"sha256": "a" * 64})
    with closed_server(tmp_path, secrets) as url:
        client = MlflowClient(tracking_uri=url)
        become("admin")
        program = SERVICES["logins"]["command"][2].replace("http://mlflow:5000", url)
        program = program.replace("/run/secrets", str(secrets))
        for _ in range(2):  # each start of the services runs it
            subprocess.run([sys.executable, "-c", program], check=True)
        theirs = client.create_run(client.create_experiment("somebody's")).info.run_id

        become("studies")
        delivery = deliver(folder / "journal.db", url, timeout_s=None)
        assert delivery.pending == 0
        assert "hypertune sync" in (delivery.warning or "")
        experiment = str(delivery.experiment_id)
        run = next(one for one in client.search_runs([experiment]) if one.data.metrics)
        with pytest.raises(refused, match=r"(?i)permission denied"):
            client.log_param(theirs, "a", 1)

        become("models")
        assert deliver(folder / "journal.db", url, timeout_s=None).warning is None
        version = client.get_model_version_by_alias("made", "champion")
        (logged,) = client.search_logged_models([experiment])
        there = f"{experiment}/models/{logged.model_id}/artifacts"
        (made,) = (tmp_path / "artifacts" / there).rglob("MLmodel")
        before = made.read_bytes()

        become("studies")
        client.set_tag(run.info.run_id, "mine", "yes")
        other = tmp_path / "other"
        shutil.copytree(model, other)
        (other / "MLmodel").write_text("mine")
        attempts: list[Any] = [
            lambda: client.create_registered_model("mine"),
            lambda: client.create_model_version("made", str(version.source), run.info.run_id),
            lambda: client.set_registered_model_alias("made", "champion", "1"),
            lambda: client.delete_registered_model_alias("made", "champion"),
            lambda: client.set_model_version_tag("made", "1", "a", "b"),
            lambda: client.delete_model_version("made", "1"),
            lambda: client.delete_registered_model("made"),
            lambda: client.create_logged_model(experiment),
            lambda: client.log_model_artifacts(logged.model_id, str(other)),
            lambda: client.set_logged_model_tags(logged.model_id, {"a": "b"}),
            lambda: client.delete_logged_model(logged.model_id),
        ]
        for attempt in attempts:
            with pytest.raises(refused, match=r"(?i)permission denied|may not have access"):
                attempt()
        for method, path in [
            ("PUT", f"{there}/MLmodel"),
            ("DELETE", f"{there}/MLmodel"),
            ("DELETE", f"{experiment}/models"),
            ("DELETE", experiment),
            ("PUT", f"{experiment}/{run.info.run_id}/artifacts/../../models/x"),
        ]:
            address = f"{url}/api/2.0/mlflow-artifacts/artifacts/{path}"
            assert answer(method, address, "studies", password(secrets, "studies")) in (400, 403)
        assert made.read_bytes() == before

        become("models")
        assert client.get_model_version_by_alias("made", "champion").version == version.version


def answer(method: str, url: str, user: str, word: str) -> int:
    login = urllib.request.HTTPPasswordMgrWithPriorAuth()
    login.add_password(None, url, user, word, is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(login))
    data = b"mine" if method == "PUT" else None
    try:
        with opener.open(urllib.request.Request(url, data, method=method), timeout=20) as said:
            return int(said.status)
    except urllib.error.HTTPError as error:
        return error.code
