"""The seams to Ray Tune, and to Ray."""

import contextlib
import copy
import logging
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher as RaySearcher
from ray.tune.stopper import Stopper

from hypertune.engine.driver import Driver
from hypertune.engine.nodes import check_address, cpus_here, show_token
from hypertune.engine.ray_schedulers import Following
from hypertune.errors import SettingError
from hypertune.settings import Settings
from hypertune.trainable.worker import JOB, Worker

_MAX_RESTARTS = 10
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
        if trial.trial_id in self.driver.out:
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

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        # Ray then serves its queue in order. Asked here, it would give a worker that has become
        # free to a job whose own worker is still starting, and drop the latter: one would remain.
        return None

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        cut = self.driver.cut(trial.trial_id)
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
            if driver.halted or not driver.out:
                driver.error = driver.error or error
                return
            driver.all_died(f"{type(error).__name__}: {error}")
        else:
            return
    driver.error = driver.error or RuntimeError(f"Ray's loop broke down {_MAX_RESTARTS} times")


def _loop(driver: Driver, data: Any) -> None:
    settings = driver.settings
    worker = tune.with_parameters(Worker, task=driver.study.trainable, data=data)
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
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="ray",
                verbose=0,
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
    bundle = config[JOB]["bundle"] if JOB in config else settings.bundle()
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
    address, has_token = settings.address or os.environ.get("RAY_ADDRESS"), False
    try:
        # "local": without an address it would join whatever Ray somebody has left running here.
        # It listens on all interfaces, whatever one asks for. One that is started here asks for a
        # token (~/.ray/auth_token), sets RAY_AUTH_MODE for its processes, and does so where the
        # variable is not set before: it may come from a shell that is to talk to another Ray.
        if address:
            address, has_token = check_address(address), show_token()
        else:
            os.environ.pop("RAY_AUTH_MODE", None)
        with contextlib.nullcontext() if address else _for_this_process_alone(signal.SIGTERM):
            # Ray itself would take all CPUs that it sees, those of other jobs as well.
            narrower = cpus_here() < (os.cpu_count() or 1)
            ray.init(
                address=address or "local",
                num_cpus=cpus_here() if narrower and not address else None,
                include_dashboard=False,
                log_to_driver=settings.verbose,
                logging_level="INFO" if settings.verbose else "ERROR",
            )
    except SettingError:
        raise
    except Exception as error:  # Ray's are of many kinds, some of them plain exceptions
        what = f"joined at the address '{address}'" if address else "started"
        hint = f" {_hint(has_token)}" if address else ""
        raise SettingError(f"Ray cannot be {what}: {error}.{hint}") from error
    try:
        yield bool(address)
    finally:
        ray.shutdown()
