"""The seams to Ray Tune, and to Ray."""

import contextlib
import copy
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune
from ray._private import ray_constants
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher as RaySearcher
from ray.tune.stopper import Stopper

from hypertune.core.errors import DeadlineError, SettingError, describe
from hypertune.core.local_modules import local_modules
from hypertune.core.text import redact
from hypertune.engine.driver import Driver
from hypertune.engine.ray.nodes import check_address, check_head, cpus_here, show_token
from hypertune.engine.ray.schedulers import Following
from hypertune.engine.ray.silence import Silence
from hypertune.engine.ray.token import secure_token
from hypertune.engine.ray.worker import JOB, Worker
from hypertune.settings import Settings

_MAX_RESTARTS = 10
_N_STARTS = 2  # a machine that was busy has read Ray's programs from its disk after the first one
_END_S = 10.0
_GCS_WAIT_S = 120  # Ray's default is 30; what it waits for next has 30 s that cannot be changed
_N_KEPT = 4  # checkpoints of a trial at Ray's: another one may be about to take up an older one


class _Unpicklable:
    """Ray pickles what it is given into the folder of a run, for a restore that is not used."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Source(_Unpicklable, RaySearcher):
    """Gives Ray one job after another, only when a worker is free for it."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        job = self.driver.next_job(trial_id)
        if job is not None:
            searched = {name: job.config[name] for name in self.driver.study.space}
            return {**job.to_dict(), **(searched if job.by_epoch else {})}
        return RaySearcher.FINISHED if self.driver.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        return

    def save(self, checkpoint_path: str) -> None:
        return

    def restore(self, checkpoint_path: str) -> None:
        return

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        return


class _Listener(_Unpicklable, tune.Callback):
    """Hands on what happens to jobs."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def on_trial_start(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        self.driver.started(trial.trial_id)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[RayTrial],
        trial: RayTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        if trial.trial_id in self.driver.running:
            self.driver.result(trial.trial_id, result)

    def on_trial_complete(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        self.driver.stopped_in_pause(trial.trial_id)
        # Ray keeps what has ended, and the last values of each metric: 20 kB a job for nobody.
        trial.run_metadata.metric_n_steps.clear()
        trial.run_metadata.metric_analysis.clear()

    def on_trial_error(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        self.driver.died(trial.trial_id, trial.error_file)


class _Scheduler(_Unpicklable, FIFOScheduler):
    """Lets every job run to its end, or to the end of its epoch when the search is to end."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver
        self._silence = Silence(driver)

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        self._silence.end_silent_workers(tune_controller)
        # Ray then serves its queue in order. Asked here, it would give a worker that has become
        # free to a job whose own worker is still starting, and drop the latter: one would remain.
        return None

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        cut = self.driver.cut(trial.trial_id, result.get("epoch", 0))
        return str(TrialScheduler.STOP if cut else TrialScheduler.CONTINUE)


class _Clock(_Unpicklable, Stopper):
    """Ray asks it in every turn of its loop, a tenth of a second at most apart."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.driver.tick()


def search_on_ray(driver: Driver, data: Any) -> None:
    """Run a search's jobs until it is finished.

    Where Ray's loop breaks down (it does when its memory monitor kills a worker), the jobs that
    were out are lost like those of a dead worker, and a new loop goes on.
    """
    for _ in range(_MAX_RESTARTS):
        try:
            _loop(driver, data)
        except Exception as error:
            if driver.halted or not driver.running:
                driver.error = driver.error or error
                return
            driver.all_died(describe(error))
        else:
            return
    driver.error = driver.error or RuntimeError(f"Ray's loop broke down {_MAX_RESTARTS} times")


def _loop(driver: Driver, data: Any) -> None:
    settings = driver.settings
    source = driver.study.source
    worker = tune.with_parameters(
        Worker,
        task=driver.study.trainable,
        data=data,
        modules=local_modules(Path(source)) if source else None,
    )
    scheduler: TrialScheduler = _Scheduler(driver)
    if driver.ray_scheduler is not None:
        # A new one: it would wait for trials of a loop that broke down.
        scheduler = Following(driver, copy.deepcopy(driver.ray_scheduler))
    with _scratch(driver) as scratch:
        tune.Tuner(
            tune.with_resources(worker, lambda config: _placed(config, settings)),
            tune_config=tune.TuneConfig(
                search_alg=_Source(driver),
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=not settings.fresh_workers,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="ray",
                verbose=0,
                # In a notebook the default one clears the cell.
                progress_reporter=tune.CLIReporter(),
                stop=_Clock(driver),
                callbacks=[_Listener(driver)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_at_end=False, num_to_keep=_N_KEPT
                ),
            ),
        ).fit()


def _placed(config: Mapping[str, Any], settings: Settings) -> tune.PlacementGroupFactory:
    """Return what a job needs. One bundle is never spread over several nodes."""
    bundle = config[JOB]["bundle"] if JOB in config else settings.trial_resources()
    return tune.PlacementGroupFactory([dict(bundle)])


def _scratch(driver: Driver) -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for Ray's own files: a few a run for a restore that is not used here.

    Its schedulers pause trials as well, with checkpoints that all nodes must see: those lie beside
    ours.
    """
    if driver.ray_scheduler is None:
        return tempfile.TemporaryDirectory(prefix="hypertune-ray-")
    return driver.checkpoints.scratch()


@contextlib.contextmanager
def _for_this_process_alone(number: int) -> Iterator[None]:
    """Let processes that are started meanwhile ignore a signal, as Ray's do a Ctrl-C.

    Batch systems and service managers send SIGTERM to all processes of a job. Ray's daemons would
    be gone at once, and with them the epochs under way and the orderly end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hint(has_token: bool) -> str:
    mode = os.environ.get("RAY_AUTH_MODE")
    if has_token and mode == "token":
        return (
            "Is the token in ~/.ray/auth_token, or where RAY_AUTH_TOKEN_PATH says, the cluster's?"
        )
    if has_token:
        return f"With RAY_AUTH_MODE={mode} it is not shown a token."
    return (
        "There is no token here: if the cluster asks for one, put it into ~/.ray/auth_token, "
        "readable by you alone, or into a file that RAY_AUTH_TOKEN_PATH names."
    )


@contextlib.contextmanager
def ray_session(settings: Settings) -> Iterator[bool]:
    """Have Ray at hand: the one that is connected already, or one of our own that ends with us.

    Yields:
        Whether it is another one's, whose nodes may come and go.

    Raises:
        SettingError: Ray cannot be started.
    """
    if not settings.verbose:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0 it still prints a table
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        # Else Ray starts one actor at a time.
        "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    }
    if ray.is_initialized():
        yield not ray._private.worker.global_worker.node.is_head()
        return
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    address = settings.address or os.environ.get("RAY_ADDRESS")
    before = signal.getsignal(signal.SIGTERM)  # Ray has one of its own from now on
    try:
        if address:
            _join(address, settings)
        else:
            _start(settings)
        yield bool(address)
    finally:
        ray.shutdown()
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _join(address: str, settings: Settings) -> None:
    """Join a Ray that runs.

    Raises:
        SettingError: It cannot be joined.
        DeadlineError: It does not answer.
    """
    address, has_token = check_address(address), show_token()
    try:
        check_head(address)
        _init(settings, address=address)
    except DeadlineError:
        raise
    except Exception as error:  # Ray's are of many kinds, some of them plain exceptions
        raise SettingError(
            f"Ray cannot be joined at the address '{address}': {redact(str(error))}. "
            f"{_hint(has_token)}"
        ) from error


def _start(settings: Settings) -> None:
    """Start a Ray of our own.

    It asks for a token, sets RAY_AUTH_MODE for its processes, and does so where the variable is not
    set before: it may come from a shell that is to talk to another Ray.

    Raises:
        SettingError: It does not come up, or nobody else can be kept from its token.
    """
    os.environ.pop("RAY_AUTH_MODE", None)
    secure_token()
    # Metrics are shown to whoever asks, without the token.
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(_GCS_WAIT_S))
    # Ray itself would take all CPUs that it sees, those of other jobs as well.
    narrower = cpus_here() < (os.cpu_count() or 1)
    for n in range(1, _N_STARTS + 1):
        there = set(psutil.Process().children())
        try:
            with _for_this_process_alone(signal.SIGTERM), _on_this_machine_alone():
                # "local": else it would join whatever Ray somebody has left running here.
                _init(settings, address="local", num_cpus=cpus_here() if narrower else None)
            return
        except BaseException as error:
            _end_daemons(set(psutil.Process().children()) - there)
            if not isinstance(error, Exception):
                raise
            if n == _N_STARTS:
                raise SettingError(
                    f"Ray cannot be started: {error}. It was tried {n} times; its processes have "
                    f"30 s to come up. {_state_of_machine()} Its logs are in "
                    f"'{_logs()}'. Try again when the machine is less busy, or join a Ray that "
                    "runs (ray start --head) with --address."
                ) from error


def _init(settings: Settings, **options: Any) -> None:
    try:
        ray.init(
            include_dashboard=False,
            log_to_driver=settings.verbose,
            logging_level="INFO" if settings.verbose else "ERROR",
            **options,
        )
    except BaseException:
        ray.shutdown()  # what it believes to be connected to
        raise


@contextlib.contextmanager
def _on_this_machine_alone() -> Iterator[None]:
    """Have a Ray that is started meanwhile listen on 127.0.0.1, instead of on all interfaces.

    It does so where it is not to form clusters, as on macOS: this constant says whether it is.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _end_daemons(started: Iterable[psutil.Process]) -> None:
    """End what a start of Ray that failed has left behind, with all that it began."""
    package, left = str(Path(ray.__file__).parent), list[psutil.Process]()
    for process in started:
        with contextlib.suppress(psutil.Error):
            if any(word.startswith(package) for word in process.cmdline()):
                left += [process, *process.children(recursive=True)]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_END_S)


def _state_of_machine() -> str:
    """Say what may keep Ray from coming up."""
    load, memory = psutil.getloadavg()[0], psutil.virtual_memory()
    disk = shutil.disk_usage(_temporary())
    return (
        f"The machine's load is {load:.1f} on {cpus_here()} CPUs, {memory.available / 2**30:.1f} "
        f"GiB of memory are free, and {disk.free / 2**30:.1f} GiB of the disk of '{_temporary()}'."
    )


def _temporary() -> str:
    return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()


def _logs() -> Path:
    return Path(_temporary(), "ray", "session_latest", "logs")
