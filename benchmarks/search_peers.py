"""Other search systems, behind the one small protocol that `search_quality.py` drives: `Arm`.

All of them are optional; the packages they need are in `PEERS`. They run as they come, but for the
seed and settings that are named below. What a peer is charged follows from the jobs it asks for:
the epochs from ``from_epoch`` to ``to_epoch``, or to where it stops the trial. One that promotes a
trial goes on from the checkpoint and pays the new epochs; one that cannot starts from epoch 0 and
pays all of them again.

A branch is shared where a peer's language allows it: parameters of the same name and range in
several branches are one parameter, active in all of these (a `Knob`). Hypertune's own methods get
the space as it is written.
"""

import logging
import math
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from hypertune.core.origin import Origin
from hypertune.core.space import Categorical, Config, Number, Parameter, Space, identity
from hypertune.search import Assignment, Search, Trial
from hypertune.search.schedulers.hyperband import Hyperband
from hypertune.search.searchers.base import Searcher
from hypertune.search.suggestion import Suggestion

Named = Mapping[str, Any]  # by name of the knob: a number, or the place of a choice
_ENDLESS = 100_000  # trials, for a system that wants to know


class Arm(Protocol):
    """Something that searches. Several jobs may be under way; losses are to be minimised."""

    def ask(self) -> Assignment | None:
        """Return the next job; None if there is none until a running one reports."""

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        """Take the loss after an epoch; return whether the job is to go on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an arm is made for.

    Attributes:
        space: The space.
        max_epochs: Epochs in full.
        budget: Trials in full that the budget would pay.
        seed: Of all chance.
    """

    space: Space
    max_epochs: int
    budget: int
    seed: int


# ---- spaces without branches ----


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A parameter as a peer sees it.

    Attributes:
        name: A plain name, as systems differ in what they accept.
        parameter: Its range, or its choices: their places count from 0.
        parent: The knob that decides whether it is active; None if it always is.
        places: The choices of the parent with which it is.
    """

    name: str
    parameter: Parameter
    parent: str | None
    places: tuple[int, ...]

    @property
    def n_choices(self) -> int:
        """Number of choices; 0 for a number."""
        return len(self.parameter.choices) if isinstance(self.parameter, Categorical) else 0

    def active(self, named: Named) -> bool:
        """Say whether it counts, given those before it."""
        return self.parent is None or named.get(self.parent) in self.places


class Knobs:
    """The parameters of a space as knobs, parents first, and the way back to configs."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._name: dict[str, str] = {}  # of the knob, by key of the parameter
        found: dict[str, Knob] = {}  # by what makes two parameters one
        for parameter in space.parameters:
            parent: str | None = None
            places: tuple[int, ...] = ()
            if (condition := parameter.condition) is not None:
                parent = self._name[condition.key]
                decider = space[condition.key]
                assert isinstance(decider, Categorical)
                places = (decider.index(condition.label),)
            same = repr((parameter.name, _range(parameter), parent))
            if same in found:
                places = found[same].places + places
            name = found[same].name if same in found else f"p{len(found)}"
            found[same] = Knob(name=name, parameter=parameter, parent=parent, places=places)
            self._name[parameter.key] = name
        self.all = tuple(found.values())

    def config(self, named: Named) -> Config:
        """Return the nested config; knobs that are not active may be left out."""

        def value_of(parameter: Parameter) -> Any:
            value = named[self._name[parameter.key]]
            if isinstance(parameter, Categorical):
                return parameter.choices[int(value)]
            assert isinstance(parameter, Number)
            return parameter.snap(float(value))

        return self._space.nest(self._space.build(value_of))


def _range(parameter: Parameter) -> tuple[Any, ...]:
    if isinstance(parameter, Number):
        return parameter.low, parameter.high, parameter.log, parameter.step, parameter.integer
    assert isinstance(parameter, Categorical)
    return parameter.choices


def _number(knob: Knob) -> Number:
    assert isinstance(knob.parameter, Number)
    return knob.parameter


# ---- every trial in full ----


class InFull(ABC):
    """Trains every trial in full, and learns from its last loss."""

    def __init__(self, setting: Setting) -> None:
        self.knobs = Knobs(setting.space)
        self._max_epochs = setting.max_epochs
        self._tokens: list[Any] = []

    @abstractmethod
    def suggest(self) -> tuple[Any, Named]:
        """Return what the system knows the trial by, and its values."""

    @abstractmethod
    def observe(self, token: Any, loss: float) -> None:
        """Take the loss of a trial."""

    def ask(self) -> Assignment | None:
        token, named = self.suggest()
        self._tokens.append(token)
        return Assignment(
            trial=len(self._tokens) - 1,
            config=self.knobs.config(named),
            from_epoch=0,
            to_epoch=self._max_epochs,
        )

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        if epoch == self._max_epochs:
            self.observe(self._tokens[trial], loss)
        return True


class OptunaFull(InFull):
    """A sampler of Optuna's. Branches are asked for as its define-by-run has them."""

    def __init__(self, setting: Setting, sampler: str, **settings: Any) -> None:
        super().__init__(setting)
        optuna = import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, they say
            chosen = getattr(optuna.samplers, sampler)(seed=setting.seed, **settings)
        self._study = optuna.create_study(sampler=chosen, pruner=self.pruner(setting))

    def pruner(self, setting: Setting) -> Any:
        """Return what stops trials."""
        return import_module("optuna").pruners.NopPruner()

    def suggest(self) -> tuple[Any, Named]:
        trial, named = self._study.ask(), dict[str, Any]()
        for knob in self.knobs.all:
            if not knob.active(named):
                continue
            if knob.n_choices:
                named[knob.name] = trial.suggest_categorical(knob.name, range(knob.n_choices))
                continue
            range_ = _number(knob)
            suggest = trial.suggest_int if range_.integer else trial.suggest_float
            named[knob.name] = suggest(knob.name, range_.low, range_.high, log=range_.log)
        return trial, named

    def observe(self, token: Any, loss: float) -> None:
        self._study.tell(token, loss)


class OptunaHalved(OptunaFull):
    """The same with Optuna's successive halving, which stops trials at its rungs."""

    def pruner(self, setting: Setting) -> Any:
        pruners = import_module("optuna").pruners
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        token = self._tokens[trial]
        token.report(loss, epoch)
        if epoch < self._max_epochs and token.should_prune():
            self._study.tell(token, state=import_module("optuna").trial.TrialState.PRUNED)
            return False
        return super().tell(trial, epoch, loss)


class Hyperopt(InFull):
    """Hyperopt's TPE, asked one at a time; trials under way are not known to it."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._hyperopt = import_module("hyperopt")
        nodes: dict[str, Any] = {}
        for knob in reversed(self.knobs.all):  # children first: a parent holds its children
            nodes[knob.name] = self._node(knob, nodes)
        top = {knob.name: nodes[knob.name] for knob in self.knobs.all if knob.parent is None}
        self._domain = self._hyperopt.base.Domain(lambda _: 0.0, top)
        self._trials = self._hyperopt.base.Trials()
        self._rng = np.random.default_rng(setting.seed)

    def _node(self, knob: Knob, nodes: Mapping[str, Any]) -> Any:
        hp = self._hyperopt.hp
        if knob.n_choices:
            children = [child for child in self.knobs.all if child.parent == knob.name]
            return hp.choice(
                knob.name,
                [
                    {"place": k, **{c.name: nodes[c.name] for c in children if k in c.places}}
                    for k in range(knob.n_choices)
                ],
            )
        range_ = _number(knob)
        low, high = range_.low, range_.high
        if range_.log:
            low, high = math.log(low), math.log(high)
        if not range_.integer:
            return (hp.loguniform if range_.log else hp.uniform)(knob.name, low, high)
        if range_.log:
            return hp.qloguniform(knob.name, low, high, 1)
        return hp.uniformint(knob.name, low, high)

    def suggest(self) -> tuple[Any, Named]:
        seed = int(self._rng.integers(2**31 - 1))
        ids = self._trials.new_trial_ids(1)
        [document] = self._hyperopt.tpe.suggest(ids, self._domain, self._trials, seed)
        self._trials.insert_trial_docs([document])
        self._trials.refresh()
        values = document["misc"]["vals"]
        return ids[0], {name: value[0] for name, value in values.items() if value}

    def observe(self, token: Any, loss: float) -> None:
        document = next(t for t in self._trials._dynamic_trials if t["tid"] == token)
        document["state"] = self._hyperopt.JOB_STATE_DONE
        document["result"] = {"loss": loss, "status": self._hyperopt.STATUS_OK}
        self._trials.refresh()


def _config_space(knobs: Knobs, seed: int) -> Any:
    """Return the space in the language of SMAC and DEHB, conditions included."""
    cs = import_module("ConfigSpace")
    made: dict[str, Any] = {}
    for knob in knobs.all:
        if knob.n_choices:
            made[knob.name] = cs.CategoricalHyperparameter(knob.name, range(knob.n_choices))
            continue
        range_ = _number(knob)
        kind = cs.UniformIntegerHyperparameter if range_.integer else cs.UniformFloatHyperparameter
        made[knob.name] = kind(knob.name, range_.low, range_.high, log=range_.log)
    space = cs.ConfigurationSpace(seed=seed)
    space.add(*made.values())
    for knob in knobs.all:
        if knob.parent is not None:
            space.add(cs.InCondition(made[knob.name], made[knob.parent], list(knob.places)))
    return space


def _smac(facade: str, knobs: Knobs, setting: Setting, folder: str, **settings: Any) -> Any:
    smac = import_module("smac")
    scenario = smac.Scenario(
        _config_space(knobs, setting.seed),
        deterministic=True,
        seed=setting.seed,
        output_directory=folder,
        **settings,
    )
    return getattr(smac, facade)(
        scenario, lambda config, seed=0, budget=0: 0.0, logging_level=False, overwrite=True
    )


def _smac_tell(optimizer: Any, info: Any, loss: float) -> None:
    value = import_module("smac.runhistory.dataclasses").TrialValue(cost=loss, time=1.0)
    optimizer.tell(info, value)


class Smac(InFull):
    """SMAC3's facade for hyperparameters: a random forest, and expected improvement of the log."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._folder = tempfile.TemporaryDirectory(prefix="smac-")
        self._optimizer = _smac(
            "HyperparameterOptimizationFacade",
            self.knobs,
            setting,
            self._folder.name,
            n_trials=setting.budget + 1,
        )

    def suggest(self) -> tuple[Any, Named]:
        info = self._optimizer.ask()
        return info, dict(info.config)

    def observe(self, token: Any, loss: float) -> None:
        _smac_tell(self._optimizer, token, loss)


# ---- trials that are cut short ----


class SmacHyperband:
    """SMAC3's multi-fidelity facade: HyperBand and a random forest.

    A config that is asked for again at more epochs goes on where it was.
    """

    def __init__(self, setting: Setting) -> None:
        self._knobs = Knobs(setting.space)
        self._folder = tempfile.TemporaryDirectory(prefix="smac-")
        self._optimizer = _smac(
            "MultiFidelityFacade",
            self._knobs,
            setting,
            self._folder.name,
            n_trials=_ENDLESS,
            min_budget=1,
            max_budget=setting.max_epochs,
        )
        self._jobs: list[tuple[Any, int]] = []  # what was asked, to which epoch
        self._trained: dict[Any, int] = {}  # epochs, by config

    def ask(self) -> Assignment | None:
        info = self._optimizer.ask()
        to_epoch = max(1, round(info.budget))
        self._jobs.append((info, to_epoch))
        return Assignment(
            trial=len(self._jobs) - 1,
            config=self._knobs.config(dict(info.config)),
            from_epoch=min(self._trained.get(info.config, 0), to_epoch - 1),
            to_epoch=to_epoch,
        )

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        info, to_epoch = self._jobs[trial]
        if epoch == to_epoch:
            self._trained[info.config] = epoch
            _smac_tell(self._optimizer, info, loss)
        return True


class Dehb:
    """DEHB, asked one at a time. Its configs are all new: each is trained from scratch.

    It knows no conditions: parameters of branches that are not chosen are searched as well.
    """

    def __init__(self, setting: Setting) -> None:
        self._knobs = Knobs(setting.space)
        self._folder = tempfile.TemporaryDirectory(prefix="dehb-")
        flat = Knobs(setting.space)
        flat.all = tuple(
            Knob(name=k.name, parameter=k.parameter, parent=None, places=()) for k in flat.all
        )
        import_module("loguru").logger.remove()
        self._dehb = import_module("dehb").DEHB(
            f=None,
            cs=_config_space(flat, setting.seed),
            min_fidelity=1,
            max_fidelity=setting.max_epochs,
            n_workers=1,
            seed=setting.seed,
            output_path=self._folder.name,
            save_freq="end",
        )
        self._jobs: list[tuple[Any, int]] = []

    def ask(self) -> Assignment | None:
        job = self._dehb.ask()
        to_epoch = max(1, round(job["fidelity"]))
        self._jobs.append((job, to_epoch))
        return Assignment(
            trial=len(self._jobs) - 1,
            config=self._knobs.config(dict(job["config"])),
            from_epoch=0,
            to_epoch=to_epoch,
        )

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        job, to_epoch = self._jobs[trial]
        if epoch == to_epoch:
            self._dehb.tell(job, {"fitness": loss, "cost": float(to_epoch)})
        return True


class Syne:
    """A scheduler of Syne Tune's that stops trials, with rungs at 1, 3, 9, ... epochs.

    It knows no conditions: parameters of branches that are not chosen are searched as well.
    """

    def __init__(self, setting: Setting, scheduler: str) -> None:
        self._knobs = Knobs(setting.space)
        self._max_epochs = setting.max_epochs
        np.random.seed(setting.seed)  # noqa: NPY002  (some of it draws from there)
        baselines = import_module("syne_tune.optimizer.baselines")
        self._scheduler = getattr(baselines, scheduler)(
            {knob.name: _syne_domain(knob) for knob in self._knobs.all},
            metric="loss",
            time_attr="epoch",
            max_t=setting.max_epochs,
            do_minimize=True,
            random_seed=setting.seed,
            grace_period=1,
            reduction_factor=3,
        )
        self._trials: list[Any] = []

    def ask(self) -> Assignment | None:
        config = self._scheduler.suggest().config
        trial = import_module("syne_tune.backend.trial_status").Trial(
            trial_id=len(self._trials), config=config, creation_time=datetime.now()
        )
        self._trials.append(trial)
        self._scheduler.on_trial_add(trial)
        return Assignment(
            trial=trial.trial_id,
            config=self._knobs.config(config),
            from_epoch=0,
            to_epoch=self._max_epochs,
        )

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        result = {"loss": loss, "epoch": epoch}
        if epoch == self._max_epochs:
            self._scheduler.on_trial_complete(self._trials[trial], result)
            return False
        return str(self._scheduler.on_trial_result(self._trials[trial], result)) == "CONTINUE"


def _syne_domain(knob: Knob) -> Any:
    domains = import_module("syne_tune.config_space")
    if knob.n_choices:
        return domains.choice([str(k) for k in range(knob.n_choices)])
    range_ = _number(knob)
    if range_.integer:
        return (domains.lograndint if range_.log else domains.randint)(range_.low, range_.high)
    return (domains.loguniform if range_.log else domains.uniform)(range_.low, range_.high)


class HpBandSter:
    """The kernel densities of HpBandSter (BOHB as published), in this project's HyperBand.

    Its own HyperBand wants servers. Promoted trials go on where they were.
    """

    def __init__(self, setting: Setting) -> None:
        np.random.seed(setting.seed)  # noqa: NPY002  (it draws from there)
        knobs = Knobs(setting.space)
        source = import_module("hpbandster.optimizers.config_generators.bohb")
        silent = logging.getLogger("hpbandster")
        silent.setLevel(logging.CRITICAL + 1)
        self._model = source.BOHB(_config_space(knobs, setting.seed), logger=silent)
        self._values: dict[str, Named] = {}  # by config
        self._jobs: dict[int, Assignment] = {}
        self._search = Search(
            setting.space,
            _Drawn(setting.space, setting.max_epochs, self._draw(knobs)),
            Hyperband(setting.max_epochs),
            mode="min",
            max_epochs=setting.max_epochs,
            n_trials=None,
            seed=setting.seed,
        )

    def _draw(self, knobs: Knobs) -> Callable[[], Config]:
        def draw() -> Config:
            values = self._model.get_config(None)[0]
            config = knobs.config(values)
            self._values[identity(config)] = values
            return config

        return draw

    def ask(self) -> Assignment | None:
        job = self._search.ask()
        if job is not None:
            self._jobs[job.trial] = job
        return job

    def tell(self, trial: int, epoch: int, loss: float) -> bool:
        self._search.tell(trial, epoch, loss)
        job = self._jobs[trial]
        if epoch == job.to_epoch:
            self._model.new_result(_Result(self._values[identity(job.config)], epoch, loss))
        return True


class _Drawn(Searcher):
    """Proposes what a function draws."""

    def __init__(self, space: Space, max_epochs: int, draw: Callable[[], Config]) -> None:
        super().__init__(space, max_epochs)
        self._draw = draw

    def suggest(self, trials: Sequence[Trial], rng: np.random.Generator) -> Suggestion:
        return Suggestion(
            flat=self.space.flatten(self._draw()), origin=Origin.EXTERNAL, why="by a function"
        )


class _Result:
    """A job as HpBandSter has it."""

    exception = None

    def __init__(self, values: Named, epoch: int, loss: float) -> None:
        self.kwargs = {"config": values, "budget": float(epoch)}
        self.result = {"loss": loss}


# ---- all of them ----


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A row of PEERS.

    Attributes:
        packages: Modules it needs.
        make: Makes the arm.
        control: The arm of random configs under the same scheduler, or one much like it.
        trials: Whether it is for problems without epochs as well.
    """

    packages: tuple[str, ...]
    make: Callable[[Setting], Arm]
    control: str
    trials: bool = False

    def missing(self) -> list[str]:
        """Return the modules that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


PEERS: dict[str, Peer] = {
    "optuna-tpe": Peer(
        packages=("optuna",),
        make=lambda s: OptunaFull(s, "TPESampler", multivariate=True, group=True),
        control="random",
        trials=True,
    ),
    "optuna-gp": Peer(
        packages=("optuna", "torch"),
        make=lambda s: OptunaFull(s, "GPSampler", deterministic_objective=True),
        control="random",
        trials=True,
    ),
    "optuna-tpe-asha": Peer(
        packages=("optuna",),
        make=lambda s: OptunaHalved(s, "TPESampler", multivariate=True, group=True),
        control="asha",
    ),
    "hyperopt": Peer(packages=("hyperopt",), make=Hyperopt, control="random", trials=True),
    "smac": Peer(packages=("smac",), make=Smac, control="random", trials=True),
    "smac-mf": Peer(packages=("smac",), make=SmacHyperband, control="hyperband"),
    "syne-asha": Peer(packages=("syne_tune",), make=lambda s: Syne(s, "ASHA"), control="asha"),
    "syne-bohb": Peer(packages=("syne_tune",), make=lambda s: Syne(s, "BOHB"), control="asha"),
    "syne-ashabore": Peer(
        packages=("syne_tune",), make=lambda s: Syne(s, "ASHABORE"), control="asha"
    ),
    "dehb": Peer(packages=("dehb",), make=Dehb, control="hyperband"),
    "hpbandster": Peer(
        packages=("hpbandster", "ConfigSpace"), make=HpBandSter, control="hyperband"
    ),
}
