"""Schedulers of Ray Tune's, as Ray has them: which can go with a study, and the seam to them.

Under one of them a Ray trial is a whole trial of ours, a job from epoch 0 to the last. The
scheduler stops, pauses and continues it, and may give it another trial's state and config.
"""

import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ray.tune import schedulers
from ray.tune.experiment import Trial as RayTrial
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search.sample import Float

from hypertune.core.errors import SettingError
from hypertune.core.space import Config, Number, Space
from hypertune.engine.ray.silence import Silence
from hypertune.engine.ray.worker import JOB
from hypertune.studies.constraints import Constraints
from hypertune.studies.study import Study
from hypertune.tasks.command import Command
from hypertune.tasks.user_code import saves

if TYPE_CHECKING:
    from hypertune.engine.driver import Driver

_PAUSING = (
    schedulers.HyperBandScheduler,
    schedulers.PopulationBasedTraining,
)
_REFUSED = {
    schedulers.HyperBandForBOHB: "it works with Ray's TuneBOHB alone; method bohb is both",
    schedulers.ResourceChangingScheduler: "what a trial occupies is said by cpus_per_trial",
    schedulers.PopulationBasedTrainingReplay: "it trains one trial; rerun trains one again",
}
_N_GENERATIONS = 10


def ray_scheduler(name: str, study: Study) -> TrialScheduler:
    """Return a scheduler of Ray's, with Ray's own settings but for what the study says.

    Args:
        name: Its class in ``ray.tune.schedulers``.
        study: With the number of epochs that trials run.

    Raises:
        SettingError: It cannot work with the study.
    """
    kind = getattr(schedulers, name)
    if kind is not schedulers.PopulationBasedTraining:
        return checked(kind(time_attr=TRAINING_ITERATION, max_t=study.max_epochs), study)
    numbers = _continuous(study.space)
    if not numbers:
        raise SettingError(
            f"{name} varies the continuous parameters that every config has (tune.uniform, "
            "tune.loguniform, ...), but the space has none. To have it vary others, give run() a "
            "PopulationBasedTraining with hyperparam_mutations of your own."
        )

    def within(config: Config) -> Config:
        _snap(config, numbers)
        return config

    scheduler = kind(
        time_attr=TRAINING_ITERATION,
        perturbation_interval=max(1, study.max_epochs // _N_GENERATIONS),
        hyperparam_mutations=_draws(numbers),
        custom_explore_fn=within,
    )
    return checked(scheduler, study)


def checked(scheduler: TrialScheduler, study: Study) -> TrialScheduler:
    """Return a copy of a scheduler that goes by the study's metric.

    Raises:
        SettingError: It cannot work with the study.
    """
    if not isinstance(scheduler, TrialScheduler):
        raise SettingError(
            f"scheduler must be an object of one of Ray Tune's schedulers or a "
            f"subclass of hypertune.Scheduler, but got {scheduler!r}."
        )
    name = type(scheduler).__name__
    for kind, instead in _REFUSED.items():
        if isinstance(scheduler, kind):
            raise SettingError(f"{name} cannot be used here: {instead}.")
    if isinstance(scheduler, _PAUSING) and (
        not saves(study.trainable) or isinstance(study.trainable, Command)
    ):
        raise SettingError(
            f"{name} pauses trials, which then go on from a checkpoint, but this study's trainable "
            "saves none after an epoch."
        )
    for key, wanted in (("metric", study.metric), ("mode", study.mode)):
        has = getattr(scheduler, f"_{key}", None)
        if has not in (None, wanted):
            raise SettingError(
                f"{name} must go by the study's {key}, {wanted}, but its {key} is {has}."
            )
    mutations: Mapping[str, Any] = getattr(scheduler, "_hyperparam_mutations", {})
    if unknown := sorted(set(mutations) - set(study.space)):
        raise SettingError(
            f"{name} would vary {', '.join(unknown)}, but the study searches "
            f"{', '.join(study.space)}: hyperparam_mutations can hold only these."
        )
    last = getattr(scheduler, "_max_t", getattr(scheduler, "_max_t_attr", None))
    by_epochs = getattr(scheduler, "_time_attr", None) == TRAINING_ITERATION
    ends = getattr(scheduler, "_stop_last_trials", True)
    if by_epochs and ends and last is not None and last < study.max_epochs:
        raise SettingError(
            f"{name} ends every trial at its max_t, {last:g}, and none would get to the "
            f"{study.max_epochs} epochs of this study: make it with max_t={study.max_epochs}, or "
            f"give --max-epochs {last:g}."
        )
    scheduler = copy.deepcopy(scheduler)
    known = getattr(scheduler, "_mode", None)
    scheduler.set_search_properties(
        None if scheduler.metric else study.metric, None if known else study.mode
    )
    return scheduler


def wants_all(scheduler: TrialScheduler | None) -> bool:
    """Say whether a scheduler is about all trials together, so that it needs them at once."""
    return isinstance(scheduler, _PAUSING)


def changes_configs(scheduler: TrialScheduler | None) -> bool:
    """Say whether a scheduler changes the config of a trial that is under way."""
    return isinstance(scheduler, schedulers.PopulationBasedTraining)


def _continuous(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of floats that every config has, nested as the space is."""
    found: dict[str, Any] = {}
    for name, part in spec.items():
        if isinstance(part, Float):
            (found[name],) = Space({name: part}).parameters
        elif isinstance(part, Mapping) and (inner := _continuous(part)):
            found[name] = inner
    return found


def _draws(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what draws each parameter anew: Ray's own domains overflow where they are wide."""

    def draw(number: Number) -> Callable[[], Any]:
        return lambda: number.from_unit(random.random())

    return {k: _draws(v) if isinstance(v, Mapping) else draw(v) for k, v in numbers.items()}


def _snap(config: Config, numbers: Mapping[str, Any]) -> None:
    """Bring a config's values back into their ranges."""
    for name, number in numbers.items():
        if isinstance(number, Mapping):
            _snap(config[name], number)
        else:
            config[name] = number.snap(config[name])


class Controller(Protocol):
    """What is used of Ray's."""

    def get_trials(self) -> list[RayTrial]: ...

    def stop_trial(self, trial: RayTrial) -> None: ...


class _View:
    """The controller as a scheduler is to see it.

    PBT refuses any searcher: it sees none, and ours only hands out jobs. Nor does it see trials
    that have been chosen and whose worker is about to begin: it would choose them again and again,
    and no other worker would get anything to do meanwhile.
    """

    search_alg = None

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def get_trials(self) -> list[RayTrial]:
        return [t for t in self._controller.get_trials() if t.status != RayTrial.PENDING]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)


class Following(FIFOScheduler):
    """Asks a scheduler of Ray's about the trials of the search, and tells the driver its answers.

    A trial begins as a paused one, so that how many run at a time is up to `choose_trial_to_run`
    alone. All other jobs (the default, replicates, looks at the test part) it never hears of.

    Args:
        driver: The driver.
        theirs: The scheduler.
    """

    def __init__(self, driver: "Driver", theirs: TrialScheduler) -> None:
        super().__init__()
        self.driver, self.theirs = driver, theirs
        self._silence = Silence(driver)
        self._rules = Constraints(driver.study)
        self._waiting: list[RayTrial] = []  # those that have not begun
        self._live: dict[str, RayTrial] = {}
        self._configs: dict[str, Config] = {}  # as the scheduler knows them, by Ray's trial id
        self._chance: tuple[Any, Any] = (
            random.Random(driver.settings.seed).getstate(),
            np.random.RandomState(driver.settings.seed).get_state(),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles it for a restore that is not used

    def on_trial_add(self, tune_controller: Controller, trial: RayTrial) -> None:
        if not self.driver.is_searched(trial.trial_id):
            return
        self._live[trial.trial_id] = trial
        self._waiting.append(trial)
        with self._asking():
            self.theirs.on_trial_add(_View(tune_controller), trial)
        self._configs[trial.trial_id] = trial.config
        trial.set_status(RayTrial.PAUSED)  # Ray looks at it next

    def choose_trial_to_run(self, tune_controller: Controller) -> RayTrial | None:
        self._silence.end_silent_workers(tune_controller)
        if not self._live:
            return None
        if self.driver.halted or self.driver.overdue:
            paused = [t for t in self._live.values() if t.status == RayTrial.PAUSED]
            for trial in paused:
                self.driver.cut(trial.trial_id)
            for trial in paused:
                tune_controller.stop_trial(trial)
            return None
        at_work = (RayTrial.PENDING, RayTrial.RUNNING)
        if sum(t.status in at_work for t in self._live.values()) >= self.driver.n_concurrent:
            return None
        chosen: RayTrial | None = None
        with self._asking():
            chosen = self.theirs.choose_trial_to_run(_View(tune_controller))
        self._waiting = [t for t in self._waiting if t.status == RayTrial.PAUSED]
        if chosen is None or chosen.status != RayTrial.PAUSED:
            chosen = self._waiting[0] if self._waiting else None
        if chosen in self._waiting:
            self._waiting.remove(chosen)
        return chosen

    def on_trial_result(
        self, tune_controller: Controller, trial: RayTrial, result: dict[str, Any]
    ) -> str:
        key = trial.trial_id
        if self.driver.cut(key, result.get(TRAINING_ITERATION, 0)):
            return str(TrialScheduler.STOP)
        if key not in self._live:
            return str(TrialScheduler.CONTINUE)
        action = str(TrialScheduler.STOP)
        with self._asking():
            action = str(self.theirs.on_trial_result(tune_controller, trial, result))
        if action == TrialScheduler.STOP:
            self.driver.stop(key)
        elif action == TrialScheduler.PAUSE or trial.status == RayTrial.PAUSED:
            self.driver.pause(key, result[TRAINING_ITERATION])
        with self._asking():
            self._note_changes()
        return action

    def on_trial_complete(
        self, tune_controller: Controller, trial: RayTrial, result: dict[str, Any]
    ) -> None:
        if self._live.pop(trial.trial_id, None) is None:
            return
        with self._asking():
            # It failed, or ended by itself without another value: there is nothing to rank it by.
            if self.driver.study.metric in result:
                self.theirs.on_trial_complete(tune_controller, trial, result)
            else:
                self.theirs.on_trial_error(tune_controller, trial)

    def on_trial_error(self, tune_controller: Controller, trial: RayTrial) -> None:
        if self._live.pop(trial.trial_id, None) is not None:
            with self._asking():
                self.theirs.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Controller, trial: RayTrial) -> None:
        if self._live.pop(trial.trial_id, None) is not None:
            with self._asking():
                self.theirs.on_trial_remove(tune_controller, trial)

    def debug_string(self) -> str:
        return str(self.theirs.debug_string())

    def _note_changes(self) -> None:
        """Take note of trials that were given another one's state and config.

        With the config came the other one's job: they get their own back.
        """
        for key, trial in self._live.items():
            if trial.config is self._configs[key]:
                continue
            donor = trial.config.get(JOB, {}).get("key", key)
            names = list(self.driver.study.space)
            searched = {name: trial.config[name] for name in names}
            if not self._rules.hold(searched):  # what breaks a constraint is never trained
                searched = {name: self._configs[donor][name] for name in names}
            job = self.driver.changed(key, donor, searched, _epoch_of(trial))
            if job is not None:
                trial.set_config({**job.to_dict(), **searched})
            self._configs[key] = trial.config

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Let the scheduler draw by chance of its own, and keep its errors out of Ray's loop."""
        before = random.getstate(), np.random.get_state()  # noqa: NPY002
        _set_chance(self._chance)
        try:
            yield
        except Exception as error:
            self.driver.error = self.driver.error or error
        finally:
            self._chance = random.getstate(), np.random.get_state()  # noqa: NPY002
            _set_chance(before)


def _set_chance(state: tuple[Any, Any]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002


def _epoch_of(trial: RayTrial) -> int:
    """Return the epoch of the checkpoint that a trial goes on from."""
    found = trial.latest_checkpoint_result
    metrics: Mapping[str, Any] = found.metrics if found is not None else {}
    return int(metrics.get(TRAINING_ITERATION, 0))
