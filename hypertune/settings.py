"""How a study is to be run: the settings of `run` and of the command line, checked."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypertune.core.errors import SettingError
from hypertune.core.storage import SCHEMES, is_bucket, sqlite_path, sqlite_uri
from hypertune.core.text import redact, unstorable
from hypertune.search.methods import DEFAULT_METHOD, unknown
from hypertune.studies.other_data import OtherData
from hypertune.studies.study import Goal, Study

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_STORES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
_RECORDED = (
    "method",
    "scheduler",
    "goal",
    "n_concurrent",
    "cpus_per_trial",
    "gpus_per_trial",
    "resources",
    "time_budget_s",
    "trial_timeout_s",
    "fresh_workers",
    "disk_budget_bytes",
    "n_repeats",
    "until_decided",
    "storage",
    "seed",
    "diagnose",
    "tensorboard",
)
_TEXTS = ("start", "from_study", "name", "studies_dir", "tracking_uri", "address", "storage")
_CHANGEABLE = ("n_concurrent", "until_decided", "storage")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run a study.

    Args:
        method: A row of METHODS.
        scheduler: A row of SCHEDULERS in place of the method's own.
        goal: ``best`` or ``answer``, as in `Study`; None for the study's own.
        start: A file with configs to try first: a JSON list of them, or one alone.
        from_study: An earlier study, by its folder or the name of it: its best configs are tried
            first.
        n_trials: Distinct configs to try; None for the study's own number.
        max_epochs: Epochs of a trial in full; None for the study's own number.
        time_budget_s: Seconds after which nothing new is started and what runs is ended.
        n_concurrent: Trials at work at a time; None for as many as the resources carry, also when
            nodes join or leave. On a cluster that was joined it may be more than fit there now:
            the rest waits for nodes, and is what an autoscaler sees as demand.
        cpus_per_trial: CPUs, or a fraction of one, that a trial occupies.
        gpus_per_trial: GPUs, or a fraction of one, that a trial occupies.
        resources: What else it occupies of what Ray's nodes have, by name. All of it is on one
            node.
        trial_timeout_s: Seconds that one epoch may take before its trial counts as hung.
        fresh_workers: Run each job in a process of its own, which no other trial has changed: for
            what cannot be put back between trials, such as a user's globals. It costs the start of
            a process a job.
        other_data: Data to run the study on in place of its own.
        n_repeats: Fresh seeds on which the best configs, for an answer those of each level or range
            of the factors, and the default run again in full after the search; None for the study's
            own number.
        until_decided: Go on after the search, within the time budget, until each factor of the
            question is decided.
        seed: Of the search and of the trials.
        diagnose: Look inside each network after each epoch, and say what is wrong with it.
        tensorboard: Of which trials to keep what TensorBoard shows: ``all``, ``best`` (and the
            default), or how many of the best; None for none.
        name: Of the study's folder; None for ``<space>-<k>``.
        studies_dir: The folder that studies are kept in.
        tracking_uri: MLflow store; None for ``mlflow.db`` beside the folder of studies.
        disk_budget_bytes: What checkpoints may take; those of the least promising trials go first.
        address: Of a Ray cluster to join: ``auto`` for the one that runs on this machine, or
            ``HOST:PORT``; None for a Ray of our own.
        storage: A folder or a bucket (``s3://bucket/path``, ``gs://...``, ``abfs://...``) that all
            nodes reach: there checkpoints go. None for the study's own folder.
        sync_timeout_s: Seconds to wait at the end until MLflow has everything.
        verbose: Let Ray speak.

    Raises:
        SettingError: A rule is broken; the message lists all breaches.
    """

    method: str = DEFAULT_METHOD
    scheduler: str | None = None
    goal: Goal | None = None
    start: Path | None = None
    from_study: str | None = None
    n_trials: int | None = None
    max_epochs: int | None = None
    time_budget_s: float | None = None
    n_concurrent: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    trial_timeout_s: float = 600.0
    fresh_workers: bool = False
    other_data: OtherData = field(default_factory=OtherData)
    n_repeats: int | None = None
    until_decided: bool = False
    seed: int = 0
    diagnose: bool = False
    tensorboard: str | None = None
    name: str | None = None
    studies_dir: Path = field(default_factory=lambda: Path("studies"))
    tracking_uri: str | None = None
    disk_budget_bytes: float = 10e9
    address: str | None = None
    storage: str | None = None
    sync_timeout_s: float = 60.0
    verbose: bool = False

    def __post_init__(self) -> None:
        problems = unknown(self.method, self.scheduler)
        if self.goal not in (None, "best", "answer"):
            problems.append(f"--goal must be best or answer, but got '{self.goal}'.")
        rules: dict[str, tuple[Any, float, str]] = {
            "n_trials": (self.n_trials, 1, "at least 1"),
            "max_epochs": (self.max_epochs, 1, "at least 1"),
            "n_concurrent": (self.n_concurrent, 1, "at least 1"),
            "seed": (self.seed, 0, "at least 0"),
            "n_repeats": (self.n_repeats, 0, "at least 0"),
            "gpus_per_trial": (self.gpus_per_trial, 0, "finite and at least 0"),
            "disk_budget_bytes": (self.disk_budget_bytes, 0, "at least 0"),
            "sync_timeout_s": (self.sync_timeout_s, 0, "finite and at least 0"),
        }
        for name, (value, least, rule) in rules.items():
            if value is not None and not least <= value < math.inf:
                problems.append(f"{_flag(name)} must be {rule}, but got {value}.")
        for name in ("cpus_per_trial", "trial_timeout_s", "time_budget_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                problems.append(f"{_flag(name)} must be finite and more than 0, but got {value}.")
        for name, amount in self.resources.items():
            if name.upper() in ("CPU", "GPU"):
                problems.append(f"--resources names no {name}: see --{name.lower()}s-per-trial.")
            elif not 0 < amount < math.inf or (amount > 1 and amount != int(amount)):
                problems.append(
                    "--resources must be name=amount, with amounts that are whole numbers or "
                    f"between 0 and 1, but got {name}={amount:g}."
                )
        if 1 < self.gpus_per_trial < math.inf and self.gpus_per_trial % 1:
            problems.append(
                "--gpus-per-trial must be a whole number, or a fraction of one GPU, but got "
                f"{self.gpus_per_trial}."
            )
        which = self.tensorboard
        if which not in (None, "all", "best") and not (str(which).isdigit() and int(which) > 0):
            problems.append(
                "--tensorboard must be all, best, or how many of the best trials, but got "
                f"'{which}'."
            )
        if self.name is not None and not _NAME.fullmatch(self.name):
            problems.append(
                "--name must be at most 100 letters, digits, '.', '_' and '-', and begin with a "
                f"letter or a digit, but got '{self.name}'."
            )
        if self.storage is not None:
            problems += _storage_problems(self.storage)
        given = {name: getattr(self, name) for name in _TEXTS} | vars(self.other_data)
        texts = {
            name: str(value.absolute() if isinstance(value, Path) else value)
            for name, value in given.items()
        }
        problems += [
            f"{_flag(name)} must be UTF-8 without NUL, but got {text!a}."
            for name, text in texts.items()
            if unstorable(text)
        ]
        scheme = (self.tracking_uri or "sqlite:").split(":")[0].split("+")[0]
        if scheme not in _STORES:
            problems.append(
                "--tracking-uri must begin with one of "
                f"{', '.join(f'{known}:' for known in _STORES)} but got "
                f"'{redact(self.tracking_uri or '')}'; "
                "for a local store say sqlite:///mlflow.db."
            )
        problems += _uri_problems(self.tracking_uri or "")
        if problems:
            raise SettingError("\n".join(problems))

    def of(self, study: Study) -> "Settings":
        """Return these settings with the study's own values where they leave it to the study."""
        n_repeats = study.n_repeats if self.n_repeats is None else self.n_repeats
        return replace(self, goal=self.goal or study.goal, n_repeats=n_repeats)

    def compared(self, study: Study) -> Sequence[str]:
        """Return the factors whose levels or ranges run again on fresh seeds."""
        return study.factors if self.of(study).goal == "answer" else ()

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
            f"{_flag(name)} {'none' if before is None else before}, not {now}"
            for name in _RECORDED
            if _flag_name(name) in asked
            and name not in _CHANGEABLE
            and (now := getattr(self, name)) != (before := record.get(name))
        ]

    def record(self) -> dict[str, Any]:
        """Return what a later session goes on with, as plain values without credentials."""
        return {name: getattr(self, name) for name in _RECORDED} | {
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
        known = {key: record[key] for key in cls.__dataclass_fields__ if key in record}
        known["other_data"] = OtherData.recorded(record.get("other_data", {}))
        settings = cls(**{**known, **changes, "name": folder.name, "studies_dir": folder.parent})
        if "***" in (settings.tracking_uri or ""):
            raise SettingError(
                f"The login of {settings.tracking_uri} was not recorded: give --tracking-uri again."
            )
        return settings

    def bundle(self, room: float = 1.0) -> dict[str, float]:
        """Return what a trial occupies of a node, by Ray's names.

        Args:
            room: So much more than usual, of what other trials would take: of its GPU if it shares
                one, of CPUs if it has none.
        """
        cpus, gpus = self.cpus_per_trial, self.gpus_per_trial
        if not gpus:
            cpus *= room
        elif gpus < 1:
            gpus = min(1.0, gpus * room)
        return {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **self.resources}

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
        if self.tracking_uri is None:
            return sqlite_uri(self.studies_dir.resolve().parent / "mlflow.db")
        if database := sqlite_path(self.tracking_uri):
            _, mark, options = self.tracking_uri.partition("?")
            return sqlite_uri(database.resolve()) + mark + options
        return self.tracking_uri


def _uri_problems(tracking_uri: str) -> list[str]:
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


def _flag_name(name: str) -> str:
    return name.removesuffix("_s").removesuffix("_bytes")


def _flag(name: str) -> str:
    return "--" + _flag_name(name).replace("_", "-")


def parse_size(text: str, name: str = "size") -> float:
    """Return the bytes of a text such as ``500MB`` or ``10GB``.

    Raises:
        SettingError: It is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT])B", text)
    if found is None:
        raise SettingError(
            f"{_flag(name)} must be a number with a unit (kB, MB, GB or TB), such as 10GB, but got "
            f"'{text}'."
        )
    return float(found[1]) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[found[2]]


def parse_duration(text: str, name: str = "duration") -> float:
    """Return the seconds of a text such as ``90s``, ``10m`` or ``1h30m``.

    Args:
        text: Numbers with units.
        name: The setting, for the error message.

    Raises:
        SettingError: It is no duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise SettingError(
            f"{_flag(name)} must be numbers with units (s, m, h or d), such as 90s, 10m or 1h30m, "
            f"but got '{text}'."
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
