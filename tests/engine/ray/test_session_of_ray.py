"""A Ray of a study's own: it comes up, or nothing of it is left; and it is nobody else's."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from hypertune.core.errors import SettingError
from hypertune.engine.ray import tune as ray_tune
from hypertune.engine.ray.tune import ray_session
from hypertune.settings import Settings

Starts = Callable[[int], list[int]]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Starts]:
    """Have a stand-in for Ray whose first starts fail, and leave processes behind."""
    # A copy, which nothing is left in.
    monkeypatch.setattr("os.environ", {**os.environ, "HOME": str(tmp_path)})
    os.environ.pop("RAY_ADDRESS", None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    daemons: list[subprocess.Popen[bytes]] = []

    def starts(n_failures: int) -> list[int]:
        pids: list[int] = []

        def init(**options: Any) -> None:
            sleep = "import subprocess, sys, time\n"
            sleep += "child = subprocess.Popen([sys.executable, '-c', 'import time; "
            sleep += "time.sleep(600)'])\nprint(child.pid, flush=True)\ntime.sleep(600)"
            daemon = subprocess.Popen(
                [sys.executable, "-c", sleep, str(Path(ray.__file__).parent / "gcs_server")],
                stdout=subprocess.PIPE,
            )
            daemons.append(daemon)
            assert daemon.stdout is not None
            pids.extend([daemon.pid, int(daemon.stdout.readline())])
            daemon.stdout.close()
            if len(pids) <= 2 * n_failures:
                raise RuntimeError("The current node timed out during startup.")

        monkeypatch.setattr(ray, "init", init)
        return pids

    yield starts
    ray_tune._end_daemons(psutil.Process().children())
    for daemon in daemons:
        daemon.wait()


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_ray_that_does_not_come_up_is_tried_again_and_leaves_nothing(starts: Starts) -> None:
    pids = starts(1)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with ray_session(Settings()):
            assert [runs(pid) for pid in pids] == [False, False, True, True]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_ray_that_never_comes_up_is_told_with_what_may_be_the_cause(starts: Starts) -> None:
    pids = starts(9)
    with pytest.raises(SettingError) as told, ray_session(Settings()):
        pass
    assert not any(map(runs, pids))
    assert len(pids) == 4
    text = str(told.value)
    assert text.startswith("Ray cannot be started: The current node timed out during startup.")
    assert "It was tried 2 times" in text
    for hint in ("The machine's load is", "GiB of memory are free", "session_latest", "--address"):
        assert hint in text


def test_a_programs_own_handler_of_sigterm_is_back_after_a_study(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, print))

    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with ray_session(Settings()):
            assert signal.getsignal(signal.SIGTERM) is print
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


SCRIPT = """
import json, psutil, ray
from hypertune.engine.ray.tune import ray_session
from hypertune.settings import Settings
with ray_session(Settings()):
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    here, found = psutil.Process(), []
    for process in [here, *here.children(recursive=True)]:
        for one in process.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                found.append([one.laddr.ip.removeprefix("::ffff:"), " ".join(process.cmdline())])
    print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_ray_of_a_study_listens_on_this_machine_alone_and_its_token_is_closed(
    tmp_path: Path,
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**env, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(said.stdout.splitlines()[-1])
    assert len(found) >= 5, found  # GCS, raylet, driver, worker, agents
    assert {ip for ip, _ in found} == {"127.0.0.1"}, found
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_the_metrics_of_a_study_of_ones_own_are_shown_to_nobody_unless_asked_for(
    starts: Starts,
) -> None:
    starts(0)
    metrics = "RAY_enable_metrics_collection"
    with ray_session(Settings()):
        assert os.environ[metrics] == "0"
    os.environ[metrics] = "1"
    with ray_session(Settings()):
        assert os.environ[metrics] == "1"
