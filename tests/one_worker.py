"""A study run without Ray and MLflow: its jobs, one after another, in this process."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from hypertune import engine
from hypertune.engine.driver import Driver
from hypertune.engine.ray.worker import Worker
from hypertune.journal.store import Journal
from hypertune.settings import Settings
from hypertune.studies.study import Study
from hypertune.tracking.uploader import Delivery


class Killed(BaseException):
    """Nothing more is done from here on, as after a SIGKILL."""


class OneWorker:
    """Runs the jobs of a driver in this process, as Ray would with one worker.

    Attributes:
        kill_at: The report at which the process is killed, before the driver has heard of it.
    """

    def __init__(self) -> None:
        self.kill_at: int | None = None
        self.n_reports = 0

    def search(self, driver: Driver, data: Any) -> None:
        class Here(Worker):
            def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
                super().setup(config, task=driver.study.trainable, data=data)

        worker = None
        for n in range(10_000):
            job = driver.next_job(str(n))
            if job is None:
                break
            if worker is None:
                worker = Here(config=job.to_dict())
            else:
                worker.reset_config(job.to_dict())
            driver.started(str(n))
            done = False
            while not done:
                result = worker.step()
                self.n_reports += 1
                if self.n_reports == self.kill_at:
                    worker._drop_hang_file()
                    raise Killed
                cut = driver.cut(str(n), result.get("epoch", 0))  # Ray asks first, too
                done = cut or result["done"]
                driver.result(str(n), result)
        if worker is not None:
            worker.cleanup()


class NoUploader:
    """In the place of MLflow."""

    status = Delivery()

    def __init__(self, journal: Path, tracking_uri: str) -> None: ...

    def start(self) -> None: ...

    def finish(self, timeout_s: float) -> Delivery:
        return Delivery(pending=0)


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OneWorker:
    one = OneWorker()
    monkeypatch.setattr("hypertune.engine.session.search_on_ray", one.search)
    monkeypatch.setattr("hypertune.engine.session.Uploader", NoUploader)
    monkeypatch.setattr(
        "hypertune.engine.session.ray_session", lambda settings: contextlib.nullcontext(False)
    )
    monkeypatch.setattr("hypertune.engine.ray.worker._REPORT_EVERY_S", 0.0)
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    node = {"NodeID": "here", "Alive": True, "Resources": {"CPU": 1.0}}
    here = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    monkeypatch.setattr(ray, "put", lambda data: data)
    monkeypatch.setattr(ray, "get", lambda data: data)
    return one


def settings(tmp_path: Path, **changes: Any) -> Settings:
    given: dict[str, Any] = {"studies_dir": tmp_path / "studies", "n_trials": 8, "name": "s"}
    return Settings(**given | changes)


def cut(one: OneWorker, study: Study, how: Settings, *, at: int) -> Path:
    """Run a study, kill it at a report, and return its folder."""
    one.kill_at, one.n_reports = at, 0
    with pytest.raises(Killed):
        engine.run(study, how)
    one.kill_at = None
    return how.studies_dir / (how.name or "")


def record(folder: Path) -> list[Any]:
    """Return what a study holds, but for times and for who ran it."""
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        return [
            (
                trial.id,
                trial.config,
                trial.role,
                trial.label,
                trial.state,
                trial.reason,
                trial.detail,
                [(row.epoch, row.metrics["loss"]) for row in journal.results(trial=trial.id)],
                journal.events(kind="trial", trial=trial.id)[0].data,
                [e.data for e in journal.events(kind="test", trial=trial.id)],
            )
            for trial in journal.trials()
        ]
