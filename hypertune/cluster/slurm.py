"""Studies as batch jobs of SLURM: a script that starts Ray on its nodes, and takes itself up again.

On one node, which others may share, the driver has a Ray of its own. On several, which are the
job's alone, the script runs ``ray symmetric-run`` with the driver inside: that wants fixed ports,
and ends all of its user's Rays on a node. Before the wall limit SLURM tells the script, which tells
the driver, which ends cleanly; then the job is queued again, and goes on with the study from its
journal, on whatever node that is. It does so until the study is finished.
"""

import re
import shlex
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from hypertune.cluster.ray_job import flag_words
from hypertune.core.errors import DeadlineError, SettingError
from hypertune.engine.ray.token import make_token
from hypertune.settings import Settings

STUDIES_DIR = "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/hypertune-${USER:-$(id -un)}/studies"
"""Where studies lie on the driver's node, unless told otherwise: on its local disk."""
_WARN_S = 300
_SBATCH_S = 60.0
_TIME = re.compile(r"\d+(-\d+(:\d+){0,2}|(:\d+){0,2})?")
_MEMORY = re.compile(r"\d+[KMGT]?")
_WORD = re.compile(r"[\w.@:+,-]+")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a batch job asks SLURM for.

    Attributes:
        partition, account: None for SLURM's own choice.
        nodes: How many.
        cpus, gpus: Of each node.
        memory: Of each node, as SLURM writes it (``32G``); None for SLURM's own choice.
        time_limit: Wall time of one run of the job, as SLURM writes it (``4:00:00``).
        options: Further options of sbatch, such as ``--qos=high``.

    Raises:
        SettingError: A rule is broken; the message lists all breaches.
    """

    partition: str | None = None
    account: str | None = None
    nodes: int = 1
    cpus: int = 1
    gpus: int = 0
    memory: str | None = None
    time_limit: str | None = None
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        problems = [
            f"--{name} must be at least {least}, but got {value}."
            for name, value, least in (
                ("nodes", self.nodes, 1),
                ("cpus", self.cpus, 1),
                ("gpus", self.gpus, 0),
            )
            if value < least
        ]
        if self.time_limit is None or not _TIME.fullmatch(self.time_limit):
            problems.append(
                "--time-limit must be the wall time of one run of the job as SLURM writes it, such "
                f"as 4:00:00 or 1-12, but got {self.time_limit!r}."
            )
        elif _seconds(self.time_limit) <= 2 * _WARN_S:
            problems.append(
                f"--time-limit must be more than {2 * _WARN_S // 60} minutes, of which the last "
                f"{_WARN_S // 60} are for a clean end, but got {self.time_limit}."
            )
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            problems.append(
                "--memory must be a whole number with K, M, G or T, such as 32G, but got "
                f"'{self.memory}'."
            )
        problems += [
            f"--{name} must be a name that SLURM knows, but got {value!r}."
            for name, value in (("partition", self.partition), ("account", self.account))
            if value is not None and not _WORD.fullmatch(value)
        ]
        odd = [one for one in self.options if not one.startswith("-") or not one.isprintable()]
        problems += [
            f"--sbatch-option must be one of sbatch's, such as --qos=high, but got {one!r}."
            for one in odd
        ]
        if problems:
            raise SettingError("\n".join(problems))

    @property
    def directives(self) -> list[str]:
        """The options of sbatch."""
        asked = {
            "partition": self.partition,
            "account": self.account,
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self.cpus,
            "gpus-per-node": self.gpus or None,
            "mem": self.memory,
            "time": self.time_limit,
        }
        given = [f"--{name}={value}" for name, value in asked.items() if value is not None]
        return [*given, *(["--exclusive"] if self.nodes > 1 else []), *self.options]


def _seconds(text: str) -> int:
    """Return the seconds of SLURM's minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def check_slurm(settings: Settings) -> None:
    """Check that a study may move from node to node.

    Raises:
        SettingError: It may not.
    """
    if settings.storage is None:
        raise SettingError(
            "--slurm needs --storage, a folder or bucket that all nodes reach: a job that is "
            "queued again may run on another node, and finds there its checkpoints and the copies "
            "of its journal, which itself must lie on a local disk."
        )


def batch_script(
    batch: Batch,
    flags: Mapping[str, Any],
    *,
    name: str,
    studies_dir: str | None,
    python: str,
    token: Path,
    folder: Path,
) -> str:
    """Return the script of a batch job.

    Args:
        batch: What it asks for.
        flags: Those of `run`, as they are spelled, without ``--name`` and ``--studies-dir``.
        name: The study's.
        studies_dir: Of the driver's node; None for its local temporary disk.
        python: The interpreter, on a path that all nodes have.
        token: The file of Ray's token, on a path that all nodes have.
        folder: Where the log and, in the end, the study's folder go.
    """
    text = resources.files("hypertune.cluster").joinpath("slurm.sh").read_text()
    template = jinja2.Template(text, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    quote = shlex.quote
    script: str = template.render(
        directives=batch.directives,
        warn_s=_WARN_S,
        name=name,
        log=str(folder / f"{name}-%j.log"),
        flags=shlex.join(flag_words(flags)),
        studies_dir=f'"{STUDIES_DIR}"' if studies_dir is None else quote(studies_dir),
        python=quote(python),
        bin=quote(str(Path(python).parent)),
        token=quote(str(token)),
        folder=quote(str(folder)),
        nodes=batch.nodes,
        cpus=batch.cpus,
        gpus=batch.gpus,
    )
    return script


def token_file() -> Path:
    """Return the file of Ray's token, which is made if there is none.

    Raises:
        SettingError: Others than its owner can read it.
    """
    path = make_token()
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingError(
            f"Ray's token in '{path}' must be readable by you alone; run: chmod 600 '{path}'"
        )
    return path.resolve()


def send_batch(script: Path) -> str:
    """Hand a script to sbatch; return the job's number.

    Raises:
        SettingError: There is no sbatch, or it refuses.
        DeadlineError: It does not answer in time.
    """
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SBATCH_S,
        )
    except FileNotFoundError as error:
        raise SettingError(
            "There is no sbatch here: run this on a login node of the SLURM cluster; --dry-run "
            "shows the script anywhere."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeadlineError(
            f"sbatch did not answer within {_SBATCH_S:g} s: look with squeue whether SLURM has "
            "taken the job all the same."
        ) from error
    except subprocess.CalledProcessError as error:
        raise SettingError(f"sbatch refuses: {error.stderr.strip()}") from error
    return done.stdout.strip().partition(";")[0]
