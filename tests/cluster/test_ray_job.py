"""What is asked of Ray's job server, and what is refused before it is asked."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TOY

from hypertune import cli
from hypertune.cluster import Cluster, Entrypoint, Job
from hypertune.cluster import ray_job as jobs
from hypertune.cluster.attach import CODE, JOB
from hypertune.cluster.upload import Upload
from hypertune.core.errors import SettingError
from hypertune.engine.ray.nodes import code_version
from hypertune.settings import Settings
from hypertune.studies.study import Study

GOOD = ["submit", "--space", "gru_window", "--address", "http://127.0.0.1:1"]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run the command line in this process; it returns the exit status and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hypertune", *args])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


class FakeClient:
    """Ray's client, without a Ray."""

    def __init__(self, *known: SimpleNamespace) -> None:
        self.known, self.sent = list(known), dict[str, Any]()

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.known

    def submit_job(self, **sent: Any) -> None:
        self.sent = sent

    def get_job_logs(self, job: str) -> str:
        return "Starting ...\nWhy?\nearly\n\nWhy?\nBecause.\n"


def details(name: str, status: str = "RUNNING", **metadata: str) -> SimpleNamespace:
    about = {"hypertune_study": name, "hypertune_question": "Why?", **metadata}
    return SimpleNamespace(
        submission_id=name,
        metadata=about,
        status=SimpleNamespace(value=status),
        message="",
        start_time=1000,
        end_time=None,
        driver_node_id="node",
        driver_exit_code=None,
    )


def cluster(client: FakeClient) -> Cluster:
    server = Cluster.__new__(Cluster)
    server.address, server._client = "http://there:8265", client
    return server


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--n-trials", "0"], "--n-trials must be at least 1, but got 0"),
        (["--csv", "x.csv"], "--csv needs --target"),
        (["--method", "grid"], "grid needs parameters with a number of values"),
        (["--probe"], "--probe goes with `run` alone"),
        (["--or-resume"], "--or-resume needs --name"),
        (["--nodes", "2"], "--nodes: only with --slurm"),
        (["--tracking-uri", "http://me:secret@host"], "--tracking-uri must hold no login"),
        (["--tracking-uri", "sqlite:///m.db"], "by its full path (sqlite:////...)"),
        (["--studies-dir", "here"], "must begin with / or ~/, but got 'here'"),
        (["--storage", "s3://me:secret@bucket/a"], "--storage must hold no login"),
        (["--entrypoint-num-cpus", "-1"], "--entrypoint-num-cpus must be finite and at least 0"),
        (["--entrypoint-memory", "2"], "--entrypoint-memory must be a number with a unit"),
        (["--entrypoint-resources", "[1]"], "--entrypoint-resources must be a JSON object"),
        (["--requirements", "gone.toml"], "--requirements 'gone.toml' cannot be read"),
        (["--requirements", "bare.toml"], "'bare.toml' has no [project] dependencies"),
        (["--working-dir", "gone"], "--working-dir must be a folder"),
        (["--slurm", "--installed"], "--installed, --address: not with --slurm"),
        ([], "Nothing answers at --address 'http://127.0.0.1:1'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    args: list[str], message: str, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "bare.toml").write_text("[tool.x]\n")
    status, _out, err = call(*GOOD, *args)
    assert status == 2
    assert message in err
    assert "secret" not in err


def test_all_breaches_are_told_at_once(call: Call) -> None:
    _status, _out, err = call(*GOOD, "--studies-dir", "here", "--csv", "x.csv", "--gpus", "1")
    for text in ("--studies-dir is a folder", "--csv needs --target", "--gpus: only with --slurm"):
        assert text in err


@pytest.mark.parametrize(
    "address", ["ftp://host:1", "http://me:secret@host:8265", "http://host:port", "ray://host:1"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match="must be that of the cluster's job server") as error:
        Cluster(address)
    assert "secret" not in str(error.value)


def test_a_dry_run_shows_the_command_with_the_paths_of_the_job(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TOY.read_text())
    (tmp_path / "start.json").write_text('[{"x": 0.5, "do": "fine"}]')
    args = ["submit", "--space", str(tmp_path / "mine.py"), "--start", "start.json", "--n-trials=3"]
    args += ["--name", "m 1"]
    assert call(*args, "--dry-run")[0] == 2  # a name that is none
    args[-1] = "m-1"
    status, out, err = call(*args, "--set", "sleep_s=0.5", "--set", "marker=a b", "--dry-run")
    assert status == 0, err
    command = (
        "exec python -m hypertune.cli run --space mine.py --start files/start.json --n-trials 3 "
        "--set sleep_s=0.5 --set 'marker=a b' --name m-1 --address auto "
        "--studies-dir ~/hypertune/studies"
    )
    assert command in out
    for text in ("Nothing was sent.", "mine.py, start.json"[:7], "~/hypertune/mlflow.db there"):
        assert text in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py", "start.json"]


def test_a_login_of_this_machine_is_not_sent_and_that_is_said(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    _status, out, _err = call("submit", "--space", "gru_window", "--dry-run")
    assert "MLFLOW_TRACKING_PASSWORD: set them where the nodes are started" in out
    assert "hush" not in out


@pytest.mark.parametrize("name", ["mine", "my study", "_ä", "x" * 200])
def test_a_name_that_is_decided_here_is_one(name: str, toy: Study) -> None:
    first, second = (jobs.new_name(replace(toy, name=name)) for _ in range(2))
    assert Settings(name=first).name != Settings(name=second).name
    assert first[0] == (name[0] if name[0].isalpha() else "s")


def test_where_studies_lie_is_quoted_but_for_the_home() -> None:
    command = jobs.driver_command({}, "~/my studies")
    assert command.endswith("--studies-dir ~/'my studies'")
    assert jobs.driver_command({}, "/a b").endswith("--studies-dir '/a b'")


def test_the_runtime_environment_gives_time_to_end_and_sends_what_is_not_there(
    tmp_path: Path,
) -> None:
    settings = Settings(sync_timeout_s=120.0)
    nothing = Upload(folder=tmp_path, flags={}, sizes={})
    env = jobs.runtime_env(nothing, settings, installed=False, requirements=None)
    assert int(env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 120 + 60
    assert {Path(path).name for path in env["py_modules"]} == {"hypertune", "search_spaces"}
    assert "working_dir" not in env
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["polars>=1"]\n')
    (tmp_path / "requirements.txt").write_text("# mine\npolars>=1  # frames\n\n")
    some = Upload(folder=tmp_path, flags={}, sizes={"a": 1})
    for name in ("pyproject.toml", "requirements.txt"):
        env = jobs.runtime_env(some, settings, installed=True, requirements=tmp_path / name)
        assert env["pip"]["packages"] == ["polars>=1"]
    assert "py_modules" not in env
    assert env["env_vars"][CODE] == code_version()
    assert env["working_dir"] == str(tmp_path)


def test_a_job_is_called_as_its_study_and_never_as_another_job() -> None:
    client = FakeClient(details("mine", "STOPPED"))
    study = SimpleNamespace(question="Why?")
    entrypoint = Entrypoint(memory_bytes=5, resources={"driver": 1})
    job = cluster(client).submit("run", study, "mine", {"env_vars": {"A": "b"}}, entrypoint)  # type: ignore[arg-type]
    assert job == client.sent["submission_id"] == "mine-2"
    assert client.sent["runtime_env"]["env_vars"] == {"A": "b", JOB: "mine-2"}
    assert client.sent["metadata"] == {"hypertune_study": "mine", "hypertune_question": "Why?"}
    assert client.sent["entrypoint_memory"] == 5
    assert client.sent["entrypoint_num_cpus"] is None


def test_two_drivers_on_one_study_are_refused_and_a_name_is_not_taken_twice() -> None:
    server = cluster(FakeClient(details("on"), details("off", "FAILED")))
    server.check("new", known=False)
    with pytest.raises(SettingError, match="Study 'on' is under way on the cluster, as job on"):
        server.check("on", known=True)
    with pytest.raises(SettingError, match="choose another --name, or let the study go on"):
        server.check("off", known=False)
    server.check("off", known=True)


def test_only_studies_are_shown_and_an_unknown_job_is_told_with_those_there_are() -> None:
    other = details("other")
    other.metadata = {}
    server = cluster(FakeClient(details("mine"), other))
    assert [job.id for job in server.jobs()] == ["mine"]
    assert server.job("mine").question == "Why?"
    with pytest.raises(SettingError, match="Did you mean 'mine'"):
        server.job("mina")


def test_the_last_words_are_the_summary() -> None:
    server = cluster(FakeClient())
    job = Job(
        id="a",
        study="a",
        question="Why?",
        status="SUCCEEDED",
        message="",
        started_s=1.0,
        ended_s=2.0,
        node=None,
        exit_code=0,
    )
    assert server.last_words(job) == "Why?\nBecause."


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m == "aiohttp" else there(m))
    with pytest.raises(SettingError, match=r"aiohttp, not installed.*'hypertune\[cluster\]'"):
        Cluster("http://127.0.0.1:1")
