"""A study: a question about a model, asked as a search space; and where studies are found."""

import importlib.util
import math
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ray import cloudpickle

import search_spaces
from hypertune.core.errors import SettingError, StudyError, choices, describe, raised, user_code
from hypertune.core.local_modules import is_local, local_modules
from hypertune.core.objective import Mode, Objective
from hypertune.core.space import PLAIN, Categorical, Config, Space, as_plain, like, plain_problem
from hypertune.core.task import RESERVED, Task
from hypertune.core.text import MAX_NAME, unstorable

CONSTRAINT = r"(<=|>=|<|>)\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)"
"""How a constraint on a size is written."""
Goal = Literal["best", "answer"]
MAX_FAIR_LEVELS = 4
"""Of a factor whose levels get equal budgets: with more of them each would get too little."""
_MODULE = "_hypertune_study_"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and all that is needed to search for its answer.

    Example:
        >>> from ray import tune
        >>> import hypertune
        >>> def train(config, report):
        ...     for epoch in range(1, config["max_epochs"] + 1):
        ...         report(epoch=epoch, val_loss=config["rate"] + 1 / epoch)
        >>> study = hypertune.Study(
        ...     question="Which rate is best?",
        ...     factors=("rate",),
        ...     space={"rate": tune.loguniform(1e-4, 1.0), "layers": tune.choice([1, 2])},
        ...     default={"rate": 0.01, "layers": 1},
        ...     trainable=train,
        ...     metric="val_loss",
        ...     max_epochs=27,
        ...     n_trials=30,
        ... )
        >>> sorted(study.space)
        ['layers', 'rate']

    Args:
        question: What is to be found out, in a sentence.
        factors: Names of the parameters that the question is about.
        space: Nested dict of Ray Tune domains.
        default: The nested config that one would have used without a search. It is tried first.
        trainable: A task, such as ``forecasting(...)``, ``command(...)`` or ``estimator(...)``; or
            a function ``train(config, report)`` or a class with ``step()`` of one's own. Here it
            is the task that was made of it.
        metric: The metric that the search goes by; a validation metric.
        mode: Whether ``min`` or ``max`` of it is good.
        max_epochs: Epochs of a trial in full.
        n_trials: How many configs to try by default.
        n_repeats: On how many fresh seeds the best ones run again by default.
        fixed: Values for what is not searched.
        constraints: What must hold before a config is trained, by name: a limit to a size that the
            task can tell, such as ``{"n_parameters": "<= 1e6"}``, or a function of the config that
            says whether it may be tried. What breaks one is never trained.
        goal: What a study is for, unless told otherwise. For an ``answer`` the best config of each
            level or range of the factors runs again, and the levels of the question's first choice
            of at most four get equal budgets: a trial goes on by its rank within its level. For the
            ``best`` config only the best ones run again, and a trial goes on by its rank among all.
        hypothesis: What is expected, in a sentence; journaled before the first trial.
        margin: The smallest difference of the metric that matters; None for a hundredth of the best
            value.
        name, source: Name and path of its file, filled in when a study is loaded.

    Raises:
        StudyError: A rule is broken; the message lists all breaches.
    """

    question: str
    factors: Sequence[str]
    space: Mapping[str, Any]
    default: Mapping[str, Any]
    trainable: Any
    metric: str
    max_epochs: int
    n_trials: int
    n_repeats: int = 5
    mode: Mode = "min"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, str | Callable[[Config], bool]] = field(default_factory=dict)
    goal: Goal = "answer"
    hypothesis: str = ""
    margin: float | None = None
    name: str = "study"
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "trainable", _task(self.trainable))
        problems = self._problems()
        if problems:
            raise StudyError(f"Study '{self.name}' is not valid", problems)
        # Whole, in plain types: constants of the space may be left out of it.
        default = self.search_space.nest(self.search_space.flatten(self.default))
        object.__setattr__(self, "default", default)
        object.__setattr__(self, "fixed", as_plain(self.fixed))
        object.__setattr__(self, "space", self.search_space.spec)

    @cached_property
    def objective(self) -> Objective:
        """What is minimised or maximised."""
        return Objective(self.metric, self.mode)

    @cached_property
    def search_space(self) -> Space:
        """The parsed space."""
        return Space(self.space)

    @property
    def test_metric(self) -> str | None:
        """The metric's name on the test part; None if the task has none."""
        task: Task = self.trainable
        return task.test_metrics.get(self.metric)

    @property
    def further_test_metrics(self) -> dict[str, str]:
        """The metric's name on each further test set of the data, by the set's name."""
        metric, sets = self.test_metric, getattr(self.trainable, "test_sets", ())
        if metric is None:
            return {}
        return {name: f"test_{name}_{metric.removeprefix('test_')}" for name in sets}

    @property
    def constraint_texts(self) -> dict[str, str]:
        """The constraints, for people."""
        return {k: v if isinstance(v, str) else "must hold" for k, v in self.constraints.items()}

    @cached_property
    def fair_factor(self) -> Categorical | None:
        """The factor whose levels get equal budgets where an answer is asked for.

        It is the question's first one that is a choice of at most four levels, none of more or
        less, in every config; None if there is none.
        """
        return fair_factor(self.search_space, self.factors)

    @property
    def why_not_fair(self) -> str:
        """Why no factor's levels can get equal budgets; empty if those of one can."""
        if self.fair_factor is not None:
            return ""
        return "; ".join(f"{name} {_unfair(self.search_space, name)}" for name in self.factors)

    def config(self, searched: Mapping[str, Any], *, seed: int) -> Config:
        """Return a trial's whole config: what is searched, what is fixed and what is reserved."""
        return {**self.fixed, **searched, "max_epochs": self.max_epochs, "seed": seed}

    def from_record(self, config: Mapping[str, Any]) -> Config:
        """Return a config that was read from JSON, as trials get it.

        JSON has lists alone: what is a tuple is told by the space, and by the fixed values.

        Args:
            config: What is searched, nested as the space is, perhaps with other values besides.
                What a scheduler has taken out of the space stays as it is.
        """
        space = self.search_space
        searched = {name: config[name] for name in self.space if name in config}
        if not space.problems(searched):
            searched = space.nest(space.flatten(searched))
        fixed = {k: like(config[k], value) for k, value in self.fixed.items() if k in config}
        return {**config, **fixed, **searched}

    def with_max_epochs(self, max_epochs: int) -> "Study":
        """Return this study with another number of epochs in full."""
        return replace(self, max_epochs=max_epochs)

    def with_fixed(self, values: Mapping[str, Any]) -> "Study":
        """Return this study with other fixed values.

        Raises:
            SettingError: A name is not among the fixed ones.
        """
        unknown = [name for name in values if name not in self.fixed]
        if unknown:
            raise SettingError(
                "\n".join(
                    f"'{name}' is not a fixed value of this study.{choices(name, list(self.fixed))}"
                    for name in unknown
                )
            )
        values = {name: like(value, self.fixed[name]) for name, value in values.items()}
        odd = [
            f"'{name}' must be of the kind of {self.fixed[name]!r}, but got {value!r}"
            for name, value in values.items()
            if _kind(value) != _kind(self.fixed[name])
            and not (value is None or self.fixed[name] is None)
        ]
        if odd:
            raise SettingError("\n".join(odd))
        return replace(self, fixed={**self.fixed, **values})

    def _problems(self) -> list[str]:
        problems = []
        if not isinstance(self.question, str) or not self.question.strip():
            problems.append("question must be a sentence, but is empty")
        for name in ("max_epochs", "n_trials"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(f"{name} must be an integer of at least 1, but got {value!r}")
        if isinstance(self.n_repeats, bool) or not (
            isinstance(self.n_repeats, int) and self.n_repeats >= 0
        ):
            problems.append(
                f"n_repeats must be an integer of at least 0, but got {self.n_repeats!r}"
            )
        if self.margin is not None and not 0 < self.margin < math.inf:
            problems.append(f"margin must be finite and more than 0, but got {self.margin!r}")
        if self.mode not in ("min", "max"):
            problems.append(f"mode must be 'min' or 'max', but got {self.mode!r}")
        try:
            space = self.search_space
        except StudyError as error:
            return problems + list(error.problems)
        taken = [n for n in self.fixed if n in self.space] + [
            n for n in RESERVED if n in self.space or n in self.fixed
        ]
        problems += [f"'{n}' is in the space and must not be set besides" for n in taken]
        problems += [
            f"names of fixed values must be strings, but got {name!r}"
            for name in self.fixed
            if not isinstance(name, str)
        ]
        problems += [
            f"fixed value '{name}' must be plain ({PLAIN}): {problem}"
            for name, value in self.fixed.items()
            if (problem := plain_problem(value))
        ]
        problems += [
            f"factor '{name}' is not in the space.{choices(name, space.names)}"
            for name in self.factors
            if name not in space.names
        ]
        if self.goal not in ("best", "answer"):
            problems.append(f"goal must be 'best' or 'answer', but got {self.goal!r}")
        if not self.factors:
            problems.append("factors must name at least one parameter that the question is about")
        problems += [f"default: {problem}" for problem in space.problems(self.default)]
        problems += [
            f"constraints: {name} must be a limit such as '<= 1e6', or a function of the config, "
            f"but got {rule!r}"
            for name, rule in self.constraints.items()
            if not (re.fullmatch(CONSTRAINT, rule) if isinstance(rule, str) else callable(rule))
        ]
        problems += self._text_problems(space)
        return problems + self._task_problems(space)

    def _text_problems(self, space: Space) -> list[str]:
        """Return what cannot be recorded as it is, so that no record would say what was run."""
        # What is not plain is told elsewhere.
        fixed = {name: value for name, value in self.fixed.items() if not plain_problem(value)}
        texts: dict[str, Any] = {
            **{n: getattr(self, n) for n in ("question", "hypothesis", "metric", "name", "source")},
            "factors": list(self.factors),
            "space": space.plain(),
            "fixed": fixed,
            "constraints": self.constraint_texts,
        }
        if isinstance(self.trainable, Task):
            texts["the name of the data"] = self.trainable.data
            texts["test metrics"] = dict(self.trainable.test_metrics)
            texts["test sets"] = list(getattr(self.trainable, "test_sets", ()))
        problems = [
            f"{name}: text must be UTF-8 without NUL, so that it can be recorded, but got {text!a}"
            for name, value in texts.items()
            for text in unstorable(value)
        ]
        if isinstance(self.metric, str) and len(self.metric) > MAX_NAME:
            n = len(self.metric)
            problems.append(f"metric must have at most {MAX_NAME} characters, but has {n}")
        return problems

    def _task_problems(self, space: Space) -> list[str]:
        if not isinstance(self.trainable, Task):
            return [
                "trainable must be a task such as forecasting(...), a function "
                "train(config, report) or a class with step(), but got "
                f"{type(self.trainable).__name__}"
            ]
        problems = []
        if self.trainable.metrics and self.metric not in self.trainable.metrics:
            known = choices(self.metric, self.trainable.metrics)
            problems.append(f"metric '{self.metric}' is not reported by the task.{known}")
        if self.metric in getattr(self.trainable, "taken", ()):
            problems.append(f"metric cannot be '{self.metric}', which means something else here")
        better = getattr(self.trainable, "modes", {}).get(self.metric, self.mode)
        if better != self.mode:
            problems.append(f"mode must be '{better}' for {self.metric}, but got '{self.mode}'")
        return problems + list(self.trainable.problems(space, self.fixed))


def _task(trainable: Any) -> Any:
    """Return the task that a function or a class stands for; what is none of them as it is."""
    if isinstance(trainable, Task) or not callable(trainable):
        return trainable
    from hypertune.tasks.user_code import own_task  # torch: it takes a second to import

    return own_task(trainable)


def _kind(value: Any) -> type:
    """Return a value's type; all numbers are of one kind."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def fair_factor(space: Space, factors: Sequence[str]) -> Categorical | None:
    """Return the first factor whose levels can get equal budgets; None if there is none."""
    found = (p for name in factors for p in space.parameters if p.name == name)
    return next(
        (p for p in found if isinstance(p, Categorical) and not _unfair(space, p.name)), None
    )


def _unfair(space: Space, name: str) -> str:
    """Return why the levels of a factor cannot get equal budgets; empty if they can."""
    parameter = space.common(name)
    if parameter is None:
        return "is not in every config"
    if not isinstance(parameter, Categorical) or parameter.numeric:
        return "is a matter of more or less"
    if not 2 <= len(parameter.choices) <= MAX_FAIR_LEVELS:
        return f"has {len(parameter.choices)} levels, and not 2 to {MAX_FAIR_LEVELS}"
    return ""


def comes_along(path: Path) -> bool:
    """Say whether a file is one of those that come with the installation."""
    return any(path.resolve().is_relative_to(Path(at).resolve()) for at in search_spaces.__path__)


def study_names() -> list[str]:
    """Return the names of the studies that come with the installation."""
    return sorted(m.name for m in pkgutil.iter_modules(search_spaces.__path__) if not m.ispkg)


def load_study(name_or_path: str) -> Study:
    """Return the study of a name, or of a path to a Python file that holds ``study = Study(...)``.

    Raises:
        SettingError: There is no such study.
        StudyError: The file is no study, or not a valid one.
    """
    if name_or_path.endswith(".py") or "/" in name_or_path or "\\" in name_or_path:
        path = Path(name_or_path).expanduser().resolve()
        if not path.is_file():
            raise SettingError(f"--space must be a name or a Python file, but '{path}' is no file.")
        name = path.stem
    else:
        name = name_or_path
        if name not in study_names():
            raise SettingError(f"Unknown space '{name}'.{choices(name, study_names())}")
        spec = importlib.util.find_spec(f"search_spaces.{name}")
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
    module = _run_file(path, name)
    study = getattr(module, "study", None)
    if not isinstance(study, Study):
        raise StudyError(
            f"'{path}' is no study",
            [f"it must hold a variable study = Study(...), but study is {type(study).__name__}"],
        )
    return replace(study, name=name, source=str(path))


def source_files(study: Study) -> list[Path]:
    """Return a study's file, and what beside it its code imports: all that it is made of."""
    path = Path(study.source)
    # Of other studies that this process has read only what they share is taken for this one's.
    modules = [
        sys.modules.get(name)
        for name in cloudpickle.list_registry_pickle_by_value()
        if not name.startswith(_MODULE)
    ]
    files = {Path(file) for m in modules if (file := getattr(m, "__file__", None)) is not None}
    files |= {Path(file) for file, _ in local_modules(path).files.values()}  # imported later
    return [path, *sorted(file for file in files if file.is_relative_to(path.parent))]


def _run_file(path: Path, name: str) -> ModuleType:
    module_name = f"{_MODULE}{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise StudyError(f"'{path}' is no study", ["it must be a Python file"])
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    before = set(sys.modules)
    sys.path.append(str(path.parent))  # what lies beside it, but never in place of a library
    try:
        with user_code():
            spec.loader.exec_module(module)
    except StudyError as error:
        raise StudyError(f"'{path}' is not valid", error.problems) from error
    except Exception as problem:
        cause = raised(problem)
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = getattr(cause, "lineno", None) if isinstance(cause, SyntaxError) else None
        at = f"line {line or (lines[-1] if lines else '?')}"
        raise StudyError(f"'{path}' cannot be read", [f"{at}: {describe(cause)}"]) from problem
    finally:
        sys.path.remove(str(path.parent))
    local_modules(path).install()  # its functions may import what lies beside it when they run
    # Workers cannot import a file that lies anywhere: what it defines travels with the job.
    cloudpickle.register_pickle_by_value(module)
    for name in set(sys.modules) - before:
        if _only_beside(sys.modules[name], path.parent):
            cloudpickle.register_pickle_by_value(sys.modules[name])
    return module


def _only_beside(module: ModuleType, folder: Path) -> bool:
    """Say whether a module lies in a folder, and could not be imported from anywhere else."""
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_relative_to(folder):
        return False
    top = module.__name__.partition(".")[0]
    finders = [f for f in sys.meta_path if hasattr(f, "find_spec") and not is_local(f)]
    return not any(finder.find_spec(top, None) for finder in finders)
