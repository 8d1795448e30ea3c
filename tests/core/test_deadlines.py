"""Every call to another machine has a deadline, from its first byte to its last."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_studies import Made, write_study
from servers import BAD, HANGING, SILENT, bad_server

from hypertune import cli, load_trials
from hypertune.cluster import Cluster
from hypertune.cluster.slurm import send_batch
from hypertune.core.deadlines import leave, within
from hypertune.core.errors import DeadlineError, HypertuneError, SettingError
from hypertune.core.storage import fetch, listed, put
from hypertune.engine.ray.nodes import check_address, check_head
from hypertune.tracking.mlflow.server import is_healthy

pytestmark = pytest.mark.timeout(120)  # what is tested here would hang for longer
Call = Callable[..., tuple[int, str]]
SECOND = 1.5
"""A deadline for tests: many bytes of a server that drips."""


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run the command line in this process; it returns the exit status and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hypertune.cli.app.leave", lambda status: None)  # it would end the tests

    def run(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hypertune", *args])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return run


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "cluster.ray_job._TIMEOUT_S",
        "cluster.ray_job._SILENT_S",
        "core.storage._TIMEOUT_S",
    ):
        monkeypatch.setattr(f"hypertune.{name}", SECOND)
    for name in (
        "engine.ray.nodes._ANSWER_S",
        "analysis.frames._ANSWER_S",
        "tracking.mlflow.server._ANSWER_S",
    ):
        monkeypatch.setattr(f"hypertune.{name}", SECOND)


def test_a_call_gives_what_it_returns_or_raises_or_is_given_up() -> None:
    assert within(60, "It", lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(60, "It", lambda: 1 // 0)
    never = threading.Event()
    with pytest.raises(DeadlineError, match=r"^http://a:1 did not answer within 0.01 s\.$"):
        within(0.01, "http://a:1", never.wait)
    with pytest.raises(TimeoutError):  # whoever expects the built-in one gets it
        within(0.01, "It", never.wait)
    never.set()


def test_a_call_that_was_given_up_does_not_hold_the_process() -> None:
    held = (
        "import atexit, threading, sys\n"
        "from hypertune.core.deadlines import leave, within\n"
        "atexit.register(threading.Event().wait)\n"  # as a library does that waits for its calls
        "try: within(0.1, 'It', threading.Event().wait)\n"
        "except TimeoutError as error: print(error)\n"
        "leave(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", held], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, "It did not answer within 0.1 s.\n")


def test_without_such_a_call_nothing_is_cut_short() -> None:
    assert within(60, "It", lambda: 3) == 3
    done = threading.Event()
    with contextlib.suppress(DeadlineError):
        within(0.01, "It", done.wait)
    done.set()
    for thread in threading.enumerate():
        if thread.name == "hypertune-call":
            thread.join(60)
    leave(1)  # returns


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize(
    "args",
    [
        ["jobs"],
        ["logs", "a"],
        ["logs", "--follow", "a"],
        ["stop", "a"],
        ["attach", "a"],
        ["submit", "--space", "gru_window"],
    ],
    ids=" ".join,
)
def test_a_job_server_that_does_not_answer_is_told(args: list[str], how: str, call: Call) -> None:
    with bad_server(how) as port:
        address = f"http://127.0.0.1:{port}"
        status, said = call(*args, "--address", address)
    assert status == 2
    assert address in said
    assert (f"did not answer within {SECOND:g} s" in said) == (how in HANGING)
    assert "Traceback" not in said


@pytest.mark.parametrize("text", ["[]", "{}", '{"ray_version": 3}', '"x"', "null", "<html>"])
def test_what_answers_and_is_no_job_server_is_told(text: str) -> None:
    with job_server(text) as server, pytest.raises(HypertuneError, match="job server"):
        Cluster(server.address)


class _Jobs(BaseHTTPRequestHandler):
    """Answers as Ray's job server does, but for what it is silent about."""

    version, silent, over = "{}", "", threading.Event()

    def do_GET(self) -> None:
        if self.silent and self.path.startswith(self.silent):
            self.over.wait()
            return
        about = {"hypertune_study": "a", "hypertune_question": "Why?"}
        job = {"type": "SUBMISSION", "submission_id": "a", "entrypoint": "x", "metadata": about}
        job |= {"status": "RUNNING", "driver_node_id": "node"}
        text = self.version if self.path == "/api/version" else json.dumps([job])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def job_server(
    version: str = '{"ray_version": "2.60.0"}', silent: str = ""
) -> Iterator[SimpleNamespace]:
    over = threading.Event()
    handler = type("Jobs", (_Jobs,), {"version": version, "silent": silent, "over": over})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}")
        over.set()
        server.shutdown()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("args", "silent"),
    [
        (["jobs"], "/api/jobs"),
        (["logs", "a"], "/api/jobs/a/logs"),
        (["logs", "-f", "a"], "/api/jobs/a/logs/tail"),
        (["stop", "a"], "/api/jobs/a/stop"),
        (["attach", "a"], "/api/v0/logs/file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_job_server_that_falls_silent_later_is_told(
    args: list[str], silent: str, call: Call
) -> None:
    with job_server(silent=silent) as server:
        status, said = call(*args, "--address", server.address)
        assert status == 2
        assert f"{server.address} did not answer within {SECOND:g} s" in said


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", BAD)
def test_an_address_without_a_ray_head_is_told(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "hypertune.engine.ray.nodes.canonicalize_bootstrap_address"
    monkeypatch.setattr(name, lambda address: address)
    with (
        bad_server(how) as port,
        pytest.raises(HypertuneError, match=f"address 127.0.0.1:{port}") as error,
    ):
        check_address(f"127.0.0.1:{port}")
    assert ("within" in str(error.value)) == (how == SILENT)


def test_a_head_that_greets_and_is_silent_then_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypertune.engine.ray.nodes._HEAD_S", SECOND)
    with bad_server(SILENT) as port, pytest.raises(DeadlineError, match=f"127.0.0.1:{port} did no"):
        check_head(f"127.0.0.1:{port}")


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", BAD)
def test_a_server_that_is_none_is_not_healthy(how: str) -> None:
    with bad_server(how) as port:
        assert not is_healthy(f"http://127.0.0.1:{port}")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    options = "region=us-east-1&scheme=http&endpoint_override=127.0.0.1"
    return lambda port: f"s3://bucket/a?{options}:{port}"


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", HANGING)
def test_a_bucket_that_does_not_answer_is_told(
    how: str, bucket: Callable[[int], str], tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("x")
    with bad_server(how) as port:
        place = bucket(port)
        for request in (
            lambda: listed(place),
            lambda: put(tmp_path / "a", place),
            lambda: fetch(place, tmp_path / "b"),
        ):
            with pytest.raises(DeadlineError, match=f":{port}' did not answer within {SECOND:g} s"):
                request()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", HANGING)
def test_a_study_in_a_bucket_that_does_not_answer_is_not_waited_for(
    how: str, bucket: Callable[[int], str], call: Call
) -> None:
    with bad_server(how) as port:
        status, said = call("resume", "s", "--storage", bucket(port))
    assert status == 2
    assert f":{port}' did not answer within {SECOND:g} s" in said


@pytest.mark.parametrize("how", BAD)
def test_sync_ends_when_it_is_told_to(how: str, call: Call, tmp_path: Path) -> None:
    write_study(tmp_path / "studies/s", [Made(losses=[1.0])], settings=SETTINGS)
    with bad_server(how) as port:
        address = f"http://127.0.0.1:{port}"
        status, said = call("sync", "s", "--tracking-uri", address, "--sync-timeout", "4s")
    assert status == 1
    assert f"MLflow at {address}" in said
    assert "records are not delivered" in said
    assert "up to date" not in said


@pytest.mark.parametrize("how", HANGING)
def test_sync_does_not_wait_longer_for_a_bucket(
    how: str, bucket: Callable[[int], str], call: Call, tmp_path: Path
) -> None:
    with bad_server(how) as port:
        about = {**SETTINGS, "storage": bucket(port)}
        write_study(tmp_path / "studies/s", [Made(losses=[1.0])], settings=about, study_id="a1")
        status, said = call("sync", "s", "--sync-timeout", "1s")
    assert status == 1
    assert f":{port}/" in said or f":{port}'" in said


SETTINGS = {"n_concurrent": 2, "other_data": {}}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", HANGING)
def test_trials_of_an_mlflow_that_does_not_answer(how: str) -> None:
    with bad_server(how) as port:
        address = f"http://127.0.0.1:{port}"
        with pytest.raises(DeadlineError, match=f"MLflow at {address} did not answer within"):
            load_trials("s", tracking_uri=address)


def test_an_sbatch_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!{sys.executable}\nimport threading\nthreading.Event().wait()\n")
    sbatch.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("hypertune.cluster.slurm._SBATCH_S", SECOND)
    with pytest.raises(DeadlineError, match=r"sbatch did not answer within .* look with squeue"):
        send_batch(tmp_path / "x.sbatch")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["jobs", "listed"])
def test_the_process_ends_with_the_deadline(command: str, bucket: Callable[[int], str]) -> None:
    with bad_server(SILENT) as port:
        args = ["jobs", "--address", f"http://127.0.0.1:{port}"]
        if command == "listed":
            args = ["resume", "s", "--storage", bucket(port)]
        main = (
            "from hypertune import cli\n"
            "from hypertune.cluster import ray_job\n"
            "from hypertune.core import storage\n"
            f"ray_job._TIMEOUT_S = storage._TIMEOUT_S = {SECOND}\n"
            "cli.main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", main, *args], capture_output=True, text=True, timeout=90
        )
    assert done.returncode == 2, done.stderr
    assert f"did not answer within {SECOND:g} s" in done.stderr


def test_a_deadline_is_an_error_to_read() -> None:
    assert issubclass(DeadlineError, HypertuneError)
    assert not issubclass(DeadlineError, SettingError)  # what was asked for may be right
