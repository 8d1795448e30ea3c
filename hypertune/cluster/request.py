"""What is asked for when a study is to run elsewhere, checked here and made ready to be sent."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypertune import engine
from hypertune.cluster.ray_job import (
    LIMIT_BYTES,
    STUDIES_DIR,
    Entrypoint,
    check_travel,
    driver_command,
    new_name,
    runtime_env,
)
from hypertune.cluster.slurm import Batch, batch_script, check_slurm, token_file
from hypertune.cluster.upload import Upload, pack
from hypertune.core.errors import Checks, SettingError
from hypertune.settings import Settings
from hypertune.studies.study import Study, study_names

_LOGINS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
_PATHS = ("start", "data_dir", "csv", "npz", "storage")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A study to be run elsewhere.

    Attributes:
        study, settings: What to search, and how.
        space: The study as it was asked for: a name or a file.
        flags: The flags of `run` that were given: by name, how it is spelled and its value.
        name: Of the study's folder, decided here so that it can be told.
    """

    study: Study
    settings: Settings
    space: str
    flags: Mapping[str, tuple[str, Any]]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.settings.name or new_name(self.study))

    @property
    def studies_dir(self) -> str | None:
        """The folder of studies that was given, as it was given."""
        return str(self.flags["studies_dir"][1]) if "studies_dir" in self.flags else None

    def check(self, *, slurm: bool) -> None:
        """Check, without the cluster, that the study can be run there.

        Raises:
            HypertuneError: It cannot; the message lists all breaches.
        """
        check = Checks()
        with check:
            if slurm:
                check_slurm(self.settings)
            else:
                check_travel(self.settings, self.studies_dir)
        with check:
            earlier = self.settings.earlier
            here = earlier is not None and (earlier / "journal.db").is_file()
            # One that is not here is taken for one of the cluster's.
            settings = self.settings if here else replace(self.settings, from_study=None)
            engine.prepare(self.study, settings)
        check.done()

    def spelled(self, changes: Mapping[str, Any], *without: str) -> dict[str, Any]:
        """Return the flags as `run` takes them.

        Args:
            changes: Other values, by name.
            without: Names of flags to leave out.
        """
        return {
            word: changes.get(name, value)
            for name, (word, value) in self.flags.items()
            if name not in without
        }


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """How a study is sent to a Ray cluster.

    Attributes:
        entrypoint: What the driver occupies.
        working_dir: A folder that travels along.
        requirements: A file whose packages the nodes install.
        installed: hypertune is installed there, and does not travel.
    """

    entrypoint: Entrypoint = field(default_factory=Entrypoint)
    working_dir: Path | None = None
    requirements: Path | None = None
    installed: bool = False

    def ready(self, request: Request, folder: Path) -> tuple[str, dict[str, Any], Upload]:
        """Return the driver's command line, Ray's runtime environment, and what travels.

        Args:
            request: The study.
            folder: An empty folder, to lay out in it what travels.

        Raises:
            SettingError: It cannot travel.
        """
        upload = pack(
            request.space, request.study, request.settings, folder, working_dir=self.working_dir
        )
        upload.check(LIMIT_BYTES)
        env = runtime_env(
            upload,
            request.settings,
            installed=self.installed,
            requirements=self.requirements,
        )
        flags = request.spelled(upload.flags, "studies_dir", "name")
        studies_dir = request.studies_dir or STUDIES_DIR
        return driver_command({**flags, "--name": request.name}, studies_dir), env, upload

    def places(self, request: Request, upload: Upload) -> list[tuple[str, str]]:
        """Return what goes where, for people."""
        studies_dir = request.studies_dir or STUDIES_DIR
        node = "the head" if self.entrypoint.on_head else "the node that Ray chooses"
        names = ", ".join(list(upload.sizes)[:5]) or "no file"
        more = len(upload.sizes) - 5
        code = "" if self.installed else "; hypertune's code"
        logins = [name for name in _LOGINS if name in os.environ]
        # Ray writes a job's environment into its logs, and shows it to all who see the job.
        unsent = [("not sent", f"{', '.join(logins)}: set them where the nodes are started")]
        return [
            ("study", request.name),
            ("driver", f"on {node}"),
            ("studies", f"{studies_dir} there"),
            (
                "MLflow",
                request.settings.tracking_uri or f"{Path(studies_dir).parent / 'mlflow.db'} there",
            ),
            ("travels", f"{names}{f' and {more} more' if more > 0 else ''}{code}"),
            *(unsent if logins else []),
        ]


def batch_ready(request: Request, batch: Batch) -> str:
    """Return the batch script of a study.

    Raises:
        SettingError: A study of this name is here already, or the token of Ray can be read by
            others.
    """
    settings = request.settings
    if (Path("studies") / request.name).exists() and "or_resume" not in request.flags:
        raise SettingError(
            f"A study is in studies/{request.name} here already, where that of the job goes in the "
            "end: choose another --name, or let the same study go on with --or-resume."
        )
    changes: dict[str, Any] = {
        name: str(Path(value).expanduser().resolve())
        for name, (_, value) in request.flags.items()
        if name in _PATHS and "://" not in str(value)
    }
    if request.space not in study_names():
        changes["space"] = request.study.source
    if settings.earlier is not None and settings.earlier.is_dir():
        changes["from"] = str(settings.earlier.resolve())
    return batch_script(
        batch,
        request.spelled(changes, "studies_dir", "name", "or_resume"),
        name=request.name,
        studies_dir=request.studies_dir,
        python=sys.executable,
        token=token_file(),
        folder=Path.cwd(),
    )
