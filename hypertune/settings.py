"""How a study is to be run: the settings of `run` and of the command line, each defined once.

A field's definition holds its flag, type, unit, default and text. The options of the command line,
the file of `--config`, the checks, the docstring of `Settings` and the reference page of the docs
are made from it: see `describe`.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypertune.core.data_options import OtherData
from hypertune.core.errors import SettingError, choices, shown
from hypertune.core.options import (
    Amounts,
    Choice,
    Duration,
    File,
    Kept,
    Number,
    Option,
    Size,
    Switch,
    Text,
    Whole,
    converted,
    options_of,
    setting,
)
from hypertune.core.plugs import full_name, plug_file, same_plug
from hypertune.core.text import redact

if TYPE_CHECKING:
    from hypertune.studies.study import Goal, Study

DEFAULT_METHOD = "auto"
OF_STUDY = "the study's own"
"""The default where a study has a value of its own."""
_STORES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run a study.

    Paths may be given as text, durations and sizes as numbers or as text.

    Example:
        >>> Settings(time_budget_s="20m", disk_budget_bytes="2 GB").time_budget_s
        1200.0
    """

    name: str | None = setting(
        Text("NAME"),
        None,
        help="Name of the study's folder.",
        more="At most 100 letters, digits, '.', '_' and '-'.",
        unset="<space>-<k>",
    )
    method: str = setting(
        Text("NAME"),
        DEFAULT_METHOD,
        help="How configs are proposed: see `hypertune list`.",
        more="Or a searcher of one's own, as FILE.py:CLASS.",
        group="Search",
        recorded=True,
    )
    scheduler: str | None = setting(
        Text("NAME"),
        None,
        help="Which trials train on, in place of the method's own rule: none, asha, hyperband or "
        "median.",
        more="Or one of one's own, as FILE.py:CLASS.",
        group="Search",
        unset="the method's own",
        recorded=True,
    )
    goal: "Goal | None" = setting(
        Choice(("best", "answer")),
        None,
        help="answer compares the levels or ranges of the factors: the best config of each runs "
        "again on fresh seeds. best looks for one config: only the best two run again.",
        more="With answer, the levels of the first factor that is a choice of two to four values "
        "get equal budgets, and a trial is ranked within its level.",
        group="Search",
        unset=OF_STUDY,
        recorded=True,
    )
    start: Path | None = setting(
        File("FILE"),
        None,
        help="JSON file with configs to try first.",
        more="It holds a list of configs, or one alone.",
        group="Search",
    )
    from_study: str | None = setting(
        Text("STUDY", path=True),
        None,
        key="from",
        help="Earlier study (its name or its folder) whose best configs are tried first.",
        group="Search",
    )
    n_trials: int | None = setting(
        Whole(1),
        None,
        help="Number of configs to try.",
        group="Search",
        unset=OF_STUDY,
        resume="New total number of configs to try.",
    )
    max_epochs: int | None = setting(
        Whole(1),
        None,
        help="Epochs of a trial that is trained in full.",
        group="Search",
        unset=OF_STUDY,
    )
    time_budget_s: float | None = setting(
        Duration(zero=False),
        None,
        help="End the search after this time, such as 90s, 10m or 1h30m.",
        more="Nothing new is started after it, and what runs is ended; all results are kept.",
        group="Search",
        unset="no limit",
        resume="Time to search from now on; without it, what is left of the study's time budget.",
        recorded=True,
    )
    n_repeats: int | None = setting(
        Whole(0),
        None,
        help="Number of fresh seeds on which the best configs and the default run again, in full.",
        more="They run after the search. The best configs are, with the goal answer, those of each "
        "level or range of the factors.",
        group="Search",
        unset=OF_STUDY,
        recorded=True,
    )
    until_decided: bool = setting(
        Switch(),
        False,
        help="Extend the search until each factor is decided, within --time-budget.",
        group="Search",
        resume="Extend the search until each factor is decided, within the time budget.",
        recorded=True,
        changeable=True,
    )
    seed: int = setting(
        Whole(0),
        0,
        help="Seed of the search and of the trials.",
        group="Search",
        recorded=True,
    )
    n_concurrent: int | None = setting(
        Whole(1, none="auto"),
        None,
        help="Trials that run at the same time; auto means as many as fit.",
        more="With auto the number follows the nodes of a cluster as they join and leave. On a "
        "cluster that was joined, a number may be more than fits now: the rest waits for nodes, "
        "which is the demand that an autoscaler sees.",
        group="Resources",
        unset="auto",
        resume="Trials that run at the same time; auto means as many as fit.",
        recorded=True,
        changeable=True,
    )
    cpus_per_trial: float = setting(
        Number(zero=False),
        1.0,
        help="CPUs that a trial takes, or a fraction of one.",
        group="Resources",
        recorded=True,
    )
    gpus_per_trial: float = setting(
        Number(zero=True),
        0.0,
        help="GPUs that a trial takes; with 0.25, four trials share one.",
        group="Resources",
        recorded=True,
    )
    resources: Mapping[str, float] = setting(
        Amounts(),
        {},
        help="What else a trial takes of a node, by the names that Ray's nodes give it.",
        more="All that a trial takes is on one node.",
        group="Resources",
        recorded=True,
    )
    trial_timeout_s: float = setting(
        Duration(zero=False),
        600.0,
        help="Time for one epoch; a trial that takes longer counts as hung.",
        group="Resources",
        recorded=True,
    )
    fresh_workers: bool = setting(
        Switch(),
        False,
        help="Start a new process for each stretch of a trial.",
        more="For code that changes what cannot be put back between trials, such as globals of its "
        "own. Each start costs seconds.",
        group="Resources",
        recorded=True,
    )
    address: str | None = setting(
        Text("HOST:PORT"),
        None,
        help="Ray cluster to join: HOST:PORT, or auto for one on this machine.",
        group="Resources",
        unset="a Ray of its own",
        resume="Ray cluster to join: HOST:PORT, or auto for one on this machine.",
    )
    other_data: OtherData = field(default_factory=OtherData)
    studies_dir: Path = setting(
        File("FOLDER"), "studies", help="Folder that holds the studies.", group="Records"
    )
    tracking_uri: str | None = setting(
        Text("URI", path=True),
        None,
        help="MLflow store.",
        more="A URI that begins with one of sqlite:, http:, https:, postgresql:, mysql:, mssql: or "
        "databricks:. The journal holds it without its login.",
        group="Records",
        unset="mlflow.db beside the studies",
        resume="MLflow store, if it has moved or needs its login again.",
    )
    storage: str | None = setting(
        Text("PLACE", path=True),
        None,
        help="Folder or bucket for checkpoints that all nodes reach.",
        more="The full path of a folder, or s3://bucket/path, gs://... or abfs://... without a "
        "login.",
        group="Records",
        unset="the study's folder",
        resume="Where its checkpoints are, and its journal if the study ran on another machine.",
        recorded=True,
        changeable=True,
    )
    disk_budget_bytes: float = setting(
        Size(zero=True),
        "10GB",
        help="Disk space for checkpoints.",
        more="Those of the least promising trials are deleted first.",
        group="Records",
        recorded=True,
    )
    sync_timeout_s: float = setting(
        Duration(zero=True),
        60.0,
        help="Time to wait at the end until MLflow has everything.",
        group="Records",
        resume="Time to wait at the end until MLflow has everything.",
    )
    diagnose: bool = setting(
        Switch(),
        False,
        help="Check each network after each epoch, and say what is wrong with it.",
        group="Records",
        recorded=True,
    )
    tensorboard: str | None = setting(
        Kept(),
        None,
        help="Trials to record for TensorBoard; best includes the default.",
        group="Records",
        unset="none",
        recorded=True,
    )
    verbose: bool = setting(
        Switch(),
        False,
        help="Show what Ray prints.",
        group="Records",
        resume="Show what Ray prints.",
    )

    def __post_init__(self) -> None:
        from hypertune.search.methods import unknown

        wrong = converted(self)
        for name in ("method", "scheduler"):
            if isinstance(plug := getattr(self, name), str):
                object.__setattr__(self, name, full_name(plug))
        problems = (
            [] if {"method", "scheduler"} & set(wrong) else unknown(self.method, self.scheduler)
        )
        problems += wrong.values()
        if not isinstance(self.other_data, OtherData):
            problems.append(f"other_data must be an OtherData, but got {shown(self.other_data)}.")
        checks: dict[str, Callable[[Any], list[str]]] = {
            "gpus_per_trial": _gpu_problems,
            "name": _name_problems,
            "storage": _storage_problems,
            "tracking_uri": _uri_problems,
        }
        for name, check in checks.items():
            if name not in wrong and (value := getattr(self, name)) is not None:
                problems += check(value)
        if problems:
            raise SettingError("\n".join(problems))

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> "Settings":
        """Return settings from values by name, those of `OtherData` among them.

        Example:
            >>> Settings.from_fields({"n_trials": 9, "data": "digits"}).other_data.data
            'digits'

        Raises:
            SettingError: A name is unknown, or a value breaks a rule; the message lists all
                breaches.
        """
        known = [*OPTIONS, "other_data"]
        problems = [
            f"Unknown setting '{name}'.{choices(name, known)}"
            for name in values
            if name not in known
        ]
        data = {name: values[name] for name in options_of(OtherData) if name in values}
        own = {name: values[name] for name in values if name in known and name not in data}
        try:
            found = OtherData(**data)
        except SettingError as error:
            problems.append(str(error))
        try:
            settings = cls(**own)
        except SettingError as error:
            problems.append(str(error))
        if problems:
            raise SettingError("\n".join(problems))
        return replace(settings, other_data=found) if data else settings

    def resolved_for(self, study: "Study") -> "Settings":
        """Return these settings with the study's own values where they leave it to the study."""
        n_repeats = study.n_repeats if self.n_repeats is None else self.n_repeats
        return replace(self, goal=self.goal or study.goal, n_repeats=n_repeats)

    def replicated_factors(self, study: "Study") -> Sequence[str]:
        """Return the factors whose levels or ranges run again on fresh seeds."""
        return study.factors if self.resolved_for(study).goal == "answer" else ()

    def check_end(self, *, begun: bool = False) -> None:
        """Check that a study that goes on until it is decided has an end.

        Args:
            begun: It began as it is, and may go on.

        Raises:
            SettingError: It has none, or nothing to go on with.
        """
        if self.until_decided and self.time_budget_s is None:
            raise SettingError("--until-decided needs a --time-budget: it may never be decided.")
        if self.until_decided and self.n_repeats == 0:
            raise SettingError(
                f"--until-decided needs --n-repeats of at least 1, but got {self.n_repeats}."
            )
        if self.until_decided and self.goal == "best" and not begun:
            raise SettingError(
                "--until-decided needs --goal answer, but got best: no levels are compared there."
            )

    def differing(self, record: Mapping[str, Any], asked: Collection[str]) -> list[str]:
        """Return what is asked for otherwise than a study began, in words.

        Args:
            record: The journal's ``settings``.
            asked: Names of flags that were given; what else there is may be as it was. So may what
                `resume` can change.
        """
        return [
            f"{option.flag} {'none' if before is None else before}, not {now}"
            for name, option in OPTIONS.items()
            if option.key in asked
            and option.recorded
            and not option.changeable
            and not same_plug(now := getattr(self, name), before := record.get(name))
        ]

    def record(self) -> dict[str, Any]:
        """Return what a later session goes on with, as plain values without credentials."""
        recorded = [name for name, option in OPTIONS.items() if option.recorded]
        return {name: getattr(self, name) for name in recorded} | {
            "tracking_uri": None if self.tracking_uri is None else redact(self.store),
            "other_data": self.other_data.record(),
        }

    @classmethod
    def recorded(cls, record: Mapping[str, Any], folder: Path, **changes: Any) -> "Settings":
        """Return the settings of a study that is there, from what `record` gave.

        Args:
            record: The journal's ``settings``.
            folder: The study's folder.
            changes: What differs from now on.

        Raises:
            SettingError: A change breaks a rule, or the store's login is needed again.
        """
        known = {one.name: record[one.name] for one in fields(cls) if one.name in record}
        known["other_data"] = OtherData.recorded(record.get("other_data", {}))
        settings = cls(**{**known, **changes, "name": folder.name, "studies_dir": folder.parent})
        if "***" in (settings.tracking_uri or ""):
            raise SettingError(
                f"The login of {settings.tracking_uri} was not recorded: give --tracking-uri again."
            )
        return settings

    def trial_resources(self, factor: float = 1.0) -> dict[str, float]:
        """Return what a trial takes of a node, by Ray's names.

        Args:
            factor: So many times as much as usual of what other trials would take: of its GPU if it
                shares one, of CPUs if it has none.
        """
        cpus, gpus = self.cpus_per_trial, self.gpus_per_trial
        if not gpus:
            cpus *= factor
        elif gpus < 1:
            gpus = min(1.0, gpus * factor)
        return {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **self.resources}

    @property
    def plug_files(self) -> list[Path]:
        """The files of a searcher and a scheduler of one's own."""
        files = (plug_file(name) for name in (self.method, self.scheduler) if name is not None)
        return list(dict.fromkeys(file for file in files if file is not None))

    @property
    def earlier(self) -> Path | None:
        """The folder of the study to start from."""
        if self.from_study is None:
            return None
        path = Path(self.from_study)
        return path if path.is_dir() else self.studies_dir / self.from_study

    @property
    def store(self) -> str:
        """The MLflow store's URI."""
        from hypertune.core.storage import sqlite_path, sqlite_uri

        if self.tracking_uri is None:
            return sqlite_uri(self.studies_dir.resolve().parent / "mlflow.db")
        if database := sqlite_path(self.tracking_uri):
            _, mark, options = self.tracking_uri.partition("?")
            return sqlite_uri(database.resolve()) + mark + options
        return self.tracking_uri


OPTIONS = options_of(Settings) | options_of(OtherData)
"""The definition of every setting, by its name in Python."""


def describe() -> list[dict[str, Any]]:
    """Return a row for each setting, for a page of reference.

    Example:
        >>> next(row for row in describe() if row["name"] == "time_budget_s")["flag"]
        '--time-budget'

    Returns:
        By setting: ``name`` (in Python), ``key`` (in a file for `--config`), ``flag``, ``type``,
        ``unit``, ``default``, ``choices``, ``help``, ``more``, ``group``, ``commands`` (that take
        it), ``recorded`` (the journal holds it) and ``changeable`` (a study goes on with another
        value than it began with). All but the last four are text or, for ``choices``, a list of it.
    """
    return [
        {
            "name": option.field,
            "key": option.key,
            "flag": option.flag,
            "type": option.kind.metavar or "true|false",
            "unit": option.kind.unit,
            "default": option.default_text,
            "choices": list(option.kind.choices),
            "help": option.help,
            "more": option.more,
            "group": option.group or "Study",
            "commands": _commands(option),
            "recorded": option.recorded or option.field in options_of(OtherData),
            "changeable": option.changeable,
        }
        for option in OPTIONS.values()
    ]


def _commands(option: Option) -> list[str]:
    # `submit` takes the address of the job server in its place.
    submit = [] if option.field == "address" else ["submit"]
    return ["run", *(["resume"] if option.resume else []), *submit]


def _documented(options: Iterable[Option]) -> str:
    """Return the section of a docstring that explains settings."""
    lines = ["Args:"]
    for option in options:
        unit = f"In {option.kind.unit}." if option.kind.unit else ""
        text = " ".join(filter(None, (option.help_text, option.more, unit)))
        wrap = textwrap.TextWrapper(96, initial_indent="    ", subsequent_indent="        ")
        lines += wrap.wrap(f"{option.field}: {text}")
    return "\n".join(lines)


Settings.__doc__ = f"""{inspect.cleandoc(Settings.__doc__ or "")}

{_documented(options_of(Settings).values())}
    other_data: Data to run the study on in place of its own.

Raises:
    SettingError: A rule is broken; the message lists all breaches.
"""


def _gpu_problems(gpus: float) -> list[str]:
    if gpus <= 1 or gpus % 1 == 0:
        return []
    return [f"--gpus-per-trial must be a whole number, or a fraction of one GPU, but got {gpus}."]


def _name_problems(name: str) -> list[str]:
    if _NAME.fullmatch(name):
        return []
    return [
        "--name must be at most 100 letters, digits, '.', '_' and '-', and begin with a letter or "
        f"a digit, but got '{name}'."
    ]


def _uri_problems(tracking_uri: str) -> list[str]:
    from hypertune.core.storage import sqlite_path

    if tracking_uri.split(":")[0].split("+")[0] not in _STORES:
        return [
            "--tracking-uri must begin with one of "
            f"{', '.join(f'{known}:' for known in _STORES)} but got "
            f"'{redact(tracking_uri)}'; for a local store say sqlite:///mlflow.db."
        ]
    if (path := sqlite_path(tracking_uri)) is None:
        return []
    rule = "--tracking-uri is a URI, in whose path % is written as %25 and ? as %3F"
    file, _, options = tracking_uri.removeprefix("sqlite:///").partition("?")
    as_it_is = Path(file)
    elsewhere = path != as_it_is and as_it_is.parent.is_dir() and not path.parent.is_dir()
    if elsewhere or not all("=" in option for option in options.split("&") if options):
        return [f"{rule}, but got '{redact(tracking_uri)}'."]
    return []


def _storage_problems(storage: str) -> list[str]:
    from hypertune.core.storage import SCHEMES, is_bucket

    if not is_bucket(storage):
        if Path(storage).is_dir() and Path(storage).is_absolute():
            return []
        return [f"--storage must be the full path of a folder that is there, but got '{storage}'."]
    scheme, _, rest = storage.partition("://")
    if redact(storage) != storage or "access_key" in rest:
        return ["--storage must hold no login: give it by the environment."]
    if scheme in SCHEMES and rest.strip("/"):
        return []
    known = ", ".join(f"{name}://" for name in SCHEMES)
    return [f"--storage must be a folder, or begin with one of {known} but got '{storage}'."]
