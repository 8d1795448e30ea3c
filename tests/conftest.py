"""What tests share: one local Ray for all of them, a worker without Ray, and the toy study."""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Before anything computes: threads of several processes would take each other's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import ray
import torch
from filelock import FileLock
from hypothesis import settings
from one_worker import one
from ray import tune
from ray._private.parameter import RayParams

from hypertune.core import deadlines
from hypertune.core.task import Task
from hypertune.engine.ray.token import secure_token
from hypertune.engine.ray.worker import Worker, WorkerJob
from hypertune.search.methods import METHODS
from hypertune.studies.study import Study, load_study

__all__ = ["one"]  # a fixture

# The same examples each time, however slow the machine is.
settings.register_profile("hypertune", derandomize=True, deadline=None)
settings.load_profile("hypertune")

Make = Callable[[WorkerJob, Task], Worker]

OURS = [name for name, row in METHODS.items() if name != "grid" and row.ray is None]
"""The methods that search any space, and decide without Ray's schedulers."""
TOY = Path(__file__).parent / "studies" / "toy.py"


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the tests a Ray with two CPUs and, on paper, one GPU: the address of its job server.

    Of several processes that test, only the one of the group "ray" may have it.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    secure_token()  # Ray would make one that all users can read
    # Jobs are sent through an agent whose port is the same for all Rays of a machine, and there is
    # no other way to have it take another one.
    parameters = partial(RayParams, dashboard_agent_listen_port=free_port())
    with (
        FileLock(shared / "ray.lock", timeout=0),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("ray._private.parameter.RayParams", parameters)
        context = ray.init(
            "local",
            num_cpus=2,
            num_gpus=1,
            include_dashboard=True,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield f"http://{context.dashboard_url}"
        ray.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is noted of trusted studies out of the home of whoever tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def no_calls_given_up() -> Iterator[None]:
    """Let no call that an earlier test gave up end this process with the command line."""
    yield
    deadlines._given_up.clear()


@pytest.fixture
def toy() -> Study:
    return load_study(str(TOY))


def doing(study: Study, *what: str, **fixed: Any) -> Study:
    """Return the toy study with trials that do all of these things."""
    return replace(
        study,
        space={"x": tune.uniform(0, 1), "do": tune.choice(list(what))},
        default={"x": 0.5, "do": what[0]},
        fixed={**study.fixed, **fixed},
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, as a worker does."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def job(tmp_path: Path) -> WorkerJob:
    return WorkerJob(
        key="a1",
        trial=3,
        config={"a": 1},
        to_epoch=2,
        checkpoint=None,
        folder=str(tmp_path / "checkpoints" / "3"),
        metric="loss",
        mode="min",
        timeout_s=60.0,
        n_threads=1,
        bundle={"CPU": 1.0},
    )


@pytest.fixture
def make_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """Make workers in this process; Ray hands over task and data in the same way."""
    # Every epoch is reported at once; otherwise short ones are reported together.
    monkeypatch.setattr("hypertune.engine.ray.worker._REPORT_EVERY_S", 0.0)
    # Outside of a cluster the question would start one.
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    made: list[Worker] = []
    before = ray.is_initialized()

    def make(job: WorkerJob, given: Task) -> Worker:
        class LocalWorker(Worker):
            def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
                super().setup(config, task=given, data="the data")

        made.append(LocalWorker(config=job.to_dict()))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()
    assert ray.is_initialized() == before
