"""What a cluster has, and whether there is one; without any."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import ray

from hypertune.core.errors import SettingError
from hypertune.engine.driver import Driver
from hypertune.engine.prepare import prepare
from hypertune.engine.progress import Progress
from hypertune.engine.ray import nodes
from hypertune.engine.ray.nodes import Following, capacity, check_address, check_nodes, show_token
from hypertune.engine.ray.silence import Silence
from hypertune.engine.ray.tune import ray_session
from hypertune.journal.store import Journal
from hypertune.settings import Settings
from hypertune.studies.study import Study

SMALL = {"CPU": 4.0}
LARGE = {"CPU": 16.0, "GPU": 2.0, "accelerator_type:A100": 1.0}


@pytest.mark.parametrize(
    ("asked", "carried"),
    [
        ({}, 20),
        ({"cpus_per_trial": 3}, 6),
        ({"gpus_per_trial": 0.25}, 8),
        ({"gpus_per_trial": 0.4, "cpus_per_trial": 4}, 4),
        ({"gpus_per_trial": 2}, 1),
        ({"resources": {"accelerator_type:A100": 0.25}}, 4),
        ({"n_concurrent": 7}, 7),
    ],
)
def test_a_trial_is_never_spread_over_nodes(asked: dict[str, Any], carried: int) -> None:
    assert capacity(Settings(**asked), [SMALL, LARGE], None) == carried


def test_a_cluster_that_was_joined_may_grow_to_what_is_asked_for() -> None:
    many = Settings(n_concurrent=50, gpus_per_trial=1)
    with pytest.raises(SettingError, match="50 trials must run at a time, but Ray can run 0 of"):
        capacity(many, [SMALL], None)
    assert capacity(many, [SMALL], None, joined=True) == 50
    assert capacity(many, [SMALL], 30, joined=True) == 30
    with pytest.raises(SettingError, match=r"nodes are to be started: --n-concurrent\.$"):
        capacity(replace(many, n_concurrent=None), [SMALL], None, joined=True)


@pytest.mark.parametrize(
    ("resources", "rule"),
    [
        ({"gpu": 1}, "--resources names no gpu: see --gpus-per-trial"),
        ({"x": 1.5}, "whole numbers or between 0 and 1, but got x=1.5"),
        ({"x": 0}, "but got x=0"),
    ],
)
def test_other_resources_are_checked(resources: dict[str, float], rule: str) -> None:
    with pytest.raises(SettingError, match=rule):
        Settings(resources=resources)


def test_room_grows_where_others_are_in_the_way() -> None:
    assert Settings(gpus_per_trial=0.4).trial_resources(2) == {"CPU": 1.0, "GPU": 0.8}
    assert Settings(gpus_per_trial=0.4).trial_resources(4) == {"CPU": 1.0, "GPU": 1.0}
    assert Settings(gpus_per_trial=2).trial_resources(4) == {"CPU": 1.0, "GPU": 2}
    assert Settings(cpus_per_trial=2).trial_resources(2) == {"CPU": 4.0}


@pytest.fixture
def driver(toy: Study, tmp_path: Path) -> Iterator[Driver]:
    """Give one with four jobs out, whose workers the test stands for."""
    settings = Settings(method="random", n_trials=20)
    journal = Journal(tmp_path / "journal.db")
    journal.set_study(study_id="x")
    driver = Driver(
        toy,
        settings,
        prepare(toy, settings).search,
        journal,
        tmp_path,
        {},
        n_concurrent=4,
        most_cpus=4.0,
        progress=Progress(metric="loss", n_trials=20, planned_epochs=0, started=0.0),
        observer=None,
    )
    for key in "abcd":
        assert driver.next_job(key) is not None
        driver.started(key)
    assert driver.next_job("e") is None
    yield driver
    assert driver.error is None
    journal.close()


def report(driver: Driver, key: str, epoch: int, **more: Any) -> None:
    row = {"epoch": epoch, "metrics": {"loss": 1.0 / epoch}, "t_ms": epoch}
    result = {"epochs": [row], "epoch": epoch, "converged": False, "failure": None}
    result["done"] = epoch == driver.study.max_epochs
    driver.result(key, {**result, "device": "cpu", "traceback": "", **more})


NO_MEMORY = {"epochs": [], "failure": "MemoryError: no", "out_of_memory": True}


def test_a_trial_out_of_memory_goes_on_with_more_room_until_there_is_no_more(
    driver: Driver,
) -> None:
    report(driver, "a", 1, **NO_MEMORY)
    job = driver.next_job("a2")
    assert job is not None
    assert (job.trial, job.bundle) == (0, {"CPU": 2.0})
    # It waits for its room: what becomes free meanwhile is not given to others.
    report(driver, "b", 9)
    assert driver.next_job("f") is None
    driver.started("a2")
    assert driver.next_job("f") is not None
    driver.started("f")

    report(driver, "a2", 1, **NO_MEMORY)
    assert (job := driver.next_job("a3")) is not None
    assert (job.trial, job.bundle) == (0, {"CPU": 4.0})
    driver.started("a3")
    report(driver, "a3", 1, **NO_MEMORY)
    trial = driver.journal.trial(0)
    assert (trial.reason, trial.detail) == ("failed", "MemoryError: no\nit had 4 CPU")


def test_a_worker_that_was_killed_for_its_nodes_memory_gets_more_of_the_node(
    driver: Driver,
) -> None:
    driver.all_died("Task was killed due to the node running low on memory.")
    bundles = []
    for key in "efgh":
        if (job := driver.next_job(key)) is not None:
            driver.started(key)
            bundles.append(job.bundle)
    assert bundles == [{"CPU": 2.0}] * 4
    assert driver.retries.n_lost(0) == 0


def test_nodes_that_leave_never_end_a_trial_that_gets_further(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = iter(["its node has died"] * 5 + ["unavailable"] * 20)
    monkeypatch.setattr("hypertune.engine.driver._last_line", lambda file: next(texts))

    def again() -> None:
        """Have the job of trial 0 lost, and begun again."""
        key = next(key for key, out in driver.running.items() if out.job.trial == 0)
        driver.died(key, None)
        job = driver.next_job(key + "+")
        assert job is None or job.trial == 0
        if job is not None:
            driver.started(key + "+")

    for _ in range(5):
        again()
    for n in range(6):  # a worker that dies otherwise, each time an epoch later
        report(
            driver, next(key for key, out in driver.running.items() if out.job.trial == 0), n + 1
        )
        again()
    again()
    assert driver.journal.trial(0).reason is None
    key = next(key for key, out in driver.running.items() if out.job.trial == 0)
    driver.died(key, None)
    trial = driver.journal.trial(0)
    assert (trial.reason, trial.detail) == ("lost", "the worker died 3 times; unavailable")


def test_as_many_jobs_are_out_as_the_nodes_carry_now(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypertune.engine.driver._FOLLOW_EVERY_S", 0.0)
    monkeypatch.setattr("hypertune.engine.driver._SYNC_EVERY_S", 0.0)
    found = iter([6, 0, 6])
    driver.follow = lambda: next(found)
    driver.tick()
    assert [driver.next_job(key) is not None for key in "efg"] == [True, True, False]
    driver.tick()  # all nodes have left: one job goes on being asked for
    for key in "abcdef":
        driver.died(key, None)
    assert [driver.next_job(key) is not None for key in "hi"] == [True, False]
    driver.tick()
    told = [e.data["n_concurrent"] for e in driver.journal.events(kind="capacity")]
    assert told == [6, 1, 6]


def test_nodes_that_join_are_counted_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}}
    joined = {"NodeID": "b", "Alive": True, "Resources": {"CPU": 4.0}}
    gone = {**joined, "NodeID": "c", "Alive": False}
    there = [first, gone]
    monkeypatch.setattr(ray, "nodes", lambda: there)
    told: list[str] = []
    checked = threading.Event()

    def check(settings: Settings) -> None:
        checked.set()
        raise SettingError("Node b has torch 1.0")

    monkeypatch.setattr("hypertune.engine.ray.nodes.check_nodes", check)
    follow = Following(Settings(cpus_per_trial=2), told.append)
    assert follow() == 1
    assert not checked.is_set()
    there.append(joined)
    assert follow() == 3
    assert checked.wait(10)
    there.remove(joined)
    assert follow() == 1
    for thread in threading.enumerate():
        if thread.name == "hypertune-nodes":
            thread.join(10)
    assert told == ["Node b has torch 1.0"]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Give something that listens, and answers with what the test says."""
    found = SimpleNamespace(answer=b"")
    with socket.create_server(("127.0.0.1", 0)) as server:
        found.port = server.getsockname()[1]

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(found.answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        # Ray calls this machine by another of its addresses.
        name = "hypertune.engine.ray.nodes.canonicalize_bootstrap_address"
        monkeypatch.setattr(name, lambda address: address)
        yield found
        thread.join(5)


def test_an_address_is_that_of_a_ray_head(listener: SimpleNamespace) -> None:
    listener.answer = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    address = f"127.0.0.1:{listener.port}"
    assert check_address(address) == address


def test_a_job_joins_the_ray_that_started_it_whatever_others_there_are(
    listener: SimpleNamespace,
) -> None:
    listener.answer = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    child = "from hypertune.engine.ray.nodes import check_address; print(check_address('auto'))"
    raylet = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    address = f"127.0.0.1:{listener.port}"
    said = subprocess.run(
        [sys.executable, "-c", raylet, child, f"--gcs-address={address}"],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == address, said.stderr


def test_another_server_at_the_address_is_told(listener: SimpleNamespace) -> None:
    listener.answer = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with pytest.raises(SettingError, match="is no Ray head: give the port of ray start --head"):
        check_address(f"127.0.0.1:{listener.port}")


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SettingError, match=r"No Ray head answers at the address .* refused"):
        check_address(f"127.0.0.1:{port}")
    for odd in ("ray://127.0.0.1:10001", "nonsense", ":6379", "127.0.0.1:"):
        with pytest.raises(SettingError, match="hand the study over with hypertune submit"):
            check_address(odd)


@pytest.mark.parametrize(
    ("nodes_with_cpus", "storage", "asked"),
    [
        (["own"], None, False),
        (["own"], "/shared", True),
        (["a"], None, True),
        (["own", "a"], None, True),
    ],
)
def test_nodes_are_asked_where_any_but_the_drivers_trains(
    nodes_with_cpus: list[str],
    storage: str | None,
    asked: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    there = {"own": 0.0} | dict.fromkeys(nodes_with_cpus, 2.0)
    seen: list[str] = []

    def problems(found: Sequence[Mapping[str, Any]], *_: object) -> list[str]:
        seen.extend(node["NodeID"] for node in found)
        return []

    monkeypatch.setattr(
        nodes,
        "alive_nodes",
        lambda: [{"NodeID": name, "Resources": {"CPU": n}} for name, n in there.items()],
    )
    context = SimpleNamespace(get_node_id=lambda: "own")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(nodes, "_problems", problems)
    settings = Settings(studies_dir=tmp_path, storage=None if storage is None else str(tmp_path))
    check_nodes(settings)
    assert seen == (nodes_with_cpus if asked else [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("before", "there", "after"),
    [(None, True, "token"), (None, False, None), ("disabled", True, "disabled")],
)
def test_a_cluster_is_shown_the_token_where_there_is_one(
    before: str | None, there: bool, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = [before]
    config = SimpleNamespace(initialize=lambda _: modes.append(os.environ["RAY_AUTH_MODE"]))
    loader = SimpleNamespace(has_token=lambda *, ignore_auth_mode: there)
    monkeypatch.setattr(nodes, "Config", config)
    monkeypatch.setattr(
        nodes, "AuthenticationTokenLoader", SimpleNamespace(instance=lambda: loader)
    )
    environ = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    mode = {} if before is None else {"RAY_AUTH_MODE": before}
    monkeypatch.setattr("os.environ", environ | mode)  # a copy, which nothing is left in

    assert show_token() == there
    assert os.environ.get("RAY_AUTH_MODE") == after == modes[-1]


@pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
def test_a_ray_of_our_own_asks_for_the_token_whatever_the_shell_says(
    address: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    modes: list[str | None] = []
    home = {"HOME": str(tmp_path)}
    monkeypatch.setattr("os.environ", {**os.environ, **home, "RAY_AUTH_MODE": "disabled"})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: modes.append(os.environ.get("RAY_AUTH_MODE")))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr("hypertune.engine.ray.tune.check_address", lambda _: None)
    monkeypatch.setattr("hypertune.engine.ray.tune.check_head", lambda _: None)
    with ray_session(Settings(address=address)):
        pass
    # Without the variable, Ray asks for it.
    assert modes == [None if address is None else "disabled"]


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("local_ray")
def test_a_local_ray_refuses_who_has_no_token() -> None:
    address = ray.get_runtime_context().gcs_address
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"", timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


class Clock:
    """In the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def pass_by(self, seconds: float, driver: Driver) -> None:
        """Let time pass in which the driver's own loop goes on."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 1.0)
            driver.tick()


@pytest.fixture
def clock(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    driver.clock = driver.running._clock = clock.monotonic
    driver.running._awake = clock.now
    for out in driver.running.values():
        out.heard = clock.now
    return clock


def test_a_silent_worker_is_ended_and_its_trial_fails_as_one_that_hangs(
    driver: Driver, clock: Clock
) -> None:
    timeout = driver.settings.trial_timeout_s
    clock.pass_by(timeout, driver)
    report(driver, "b", 1)
    clock.pass_by(timeout + 10, driver)  # for the code behind the last epoch
    assert not driver.running.is_silent("a")
    clock.pass_by(10, driver)
    assert [key for key in driver.running if driver.running.is_silent(key)] == ["a", "c", "d"]
    assert not driver.running.is_silent("unknown")
    driver.died("a", None)
    trial = driver.journal.trial(0)
    limit = "an epoch took longer than --trial-timeout (600 s)"
    assert (trial.reason, trial.detail) == ("failed", limit)


def test_nobody_is_silent_while_the_driver_itself_stood_still(driver: Driver, clock: Clock) -> None:
    timeout = driver.settings.trial_timeout_s
    clock.pass_by(timeout - 10, driver)
    clock.now += 100_000.0  # a laptop that slept
    assert not driver.running.is_silent("a")
    driver.died("b", None)  # by the watch in the worker, which knows of no sleep
    assert driver.journal.trial(1).reason is None
    assert [e.trial for e in driver.journal.events(kind="lost")] == [1]
    clock.pass_by(timeout + 30, driver)
    assert driver.running.is_silent("a")


def test_a_job_that_waits_for_its_resources_is_not_silent_but_one_whose_worker_never_begins_is(
    driver: Driver, clock: Clock
) -> None:
    timeout = driver.settings.trial_timeout_s
    driver.died("a", None)
    assert (job := driver.next_job("a2")) is not None
    assert job.trial == 0
    clock.pass_by(10 * timeout, driver)
    assert not driver.running.is_silent("a2")  # Ray has just given it a worker
    clock.pass_by(2 * timeout + 200, driver)
    assert not driver.running.is_silent("a2")
    clock.pass_by(200, driver)
    assert driver.running.is_silent("a2")
    driver.died("a2", None)
    assert driver.journal.trial(0).reason is None  # another worker is tried
    assert driver.journal.events(kind="lost")[-1].data["text"] == "the worker did not get ready"


def test_only_silent_workers_that_have_begun_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr(ray, "kill", killed.append)

    @dataclass(frozen=True)
    class Trial:
        trial_id: str

    controller = SimpleNamespace(
        _trial_to_actor={Trial(key): key for key in ("silent", "queued", "fine")},
        _actor_manager=SimpleNamespace(
            _live_actors_to_ray_actors_resources={
                key: (f"actor of {key}", None) for key in ("silent", "fine")
            }
        ),
    )
    running = SimpleNamespace(is_silent=lambda key: key != "fine")
    silence = Silence(SimpleNamespace(running=running))  # type: ignore[arg-type]
    silence.end_silent_workers(SimpleNamespace(_tune_controller=controller))
    silence.end_silent_workers(None)  # a moment later: it does not look every time
    assert killed == ["actor of silent"]


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_node_that_leaves_and_comes_back_costs_no_trial(tmp_path: Path) -> None:
    program = Path(__file__).parents[2] / "studies" / "node_comes_back.py"
    (tmp_path / "home").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        env={**env, "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["error"] is None
    assert said["steps"] == 0  # it has left, and it is back
    assert said["reasons"] == ["complete"] * 20
    assert said["lost"] >= 1
    assert said["capacity"] == [1, 2]
