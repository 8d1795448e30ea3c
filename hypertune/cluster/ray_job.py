"""Studies as jobs of a Ray cluster: sent, listed, followed and stopped through Ray's job server."""

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import re
import shlex
import socket
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
from ray.exceptions import AuthenticationError

from hypertune.cluster.attach import CODE, JOB, progress_file, read_progress
from hypertune.cluster.upload import Upload
from hypertune.core.deadlines import within
from hypertune.core.errors import DeadlineError, HypertuneError, SettingError, choices
from hypertune.core.text import redact
from hypertune.engine import Progress
from hypertune.engine.ray.nodes import code_version, show_token
from hypertune.settings import Settings
from hypertune.studies.study import Study

STUDIES_DIR = "~/hypertune/studies"
"""Where studies lie on the node of the driver, unless told otherwise."""
_STUDY, _QUESTION = "hypertune_study", "hypertune_question"  # of a job's metadata
_REACH_TIMEOUT_S = 10.0
_TIMEOUT_S = 30.0
_LEAST_BYTES_PER_S = 100_000  # an upload gets so much more time, by its size
_SILENT_S = 120.0  # so long a server is asked again that does not answer while a job is followed
_END_S = 180  # what the end of a study takes beside MLflow: its last epochs, the model, the report
_POLL_S = 1.0
LIMIT_BYTES = int(DASHBOARD_CLIENT_MAX_SIZE)
"""What the job server takes in one upload."""


@dataclass(frozen=True, kw_only=True)
class Entrypoint:
    """What the driver of a job occupies, apart from its trials.

    With all of it at zero the driver runs on the head, else on any node that has as much.

    Attributes:
        num_cpus, num_gpus: CPUs and GPUs.
        memory_bytes: Memory.
        resources: Custom resources, by name.
    """

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_bytes: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def on_head(self) -> bool:
        """Whether the driver runs on the head."""
        return not (self.num_cpus or self.num_gpus or self.memory_bytes or self.resources)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A study that was sent to a cluster.

    Attributes:
        id: The job's.
        study: The name of the study's folder there.
        question: The study's.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: What Ray says of it.
        started_s, ended_s: Unix seconds; None where it has not come to that.
        node: Ray's name of the driver's node.
        exit_code: The driver's, once it has ended.
    """

    id: str
    study: str
    question: str
    status: str
    message: str
    started_s: float | None
    ended_s: float | None
    node: str | None
    exit_code: int | None

    @property
    def over(self) -> bool:
        """It has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


def driver_command(flags: Mapping[str, Any], studies_dir: str) -> str:
    """Return the command line of the driver in a job.

    Args:
        flags: Those of `run`, as they are spelled; True for one without a value, a list for one
            that is given repeatedly.
        studies_dir: A folder on the driver's node.
    """
    words = ["python", "-m", "hypertune.cli", "run", *flag_words(flags), "--address", "auto"]
    # "~" is the home on that node; the shell says which one that is.
    home, rest = ("~/", studies_dir[2:]) if studies_dir.startswith("~/") else ("", studies_dir)
    return f"exec {shlex.join(words)} --studies-dir {home}{shlex.quote(rest)}"


def flag_words(flags: Mapping[str, Any]) -> list[str]:
    """Return flags and their values as words of a command line."""
    words: list[str] = []
    for flag, value in flags.items():
        if value is True:
            words.append(flag)
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [flag, str(one)]
    return words


def runtime_env(
    upload: Upload, settings: Settings, *, installed: bool, requirements: Path | None
) -> dict[str, Any]:
    """Return Ray's runtime environment for a job.

    Args:
        upload: The study's files.
        settings: Those of the study.
        installed: hypertune is installed on the cluster, in this version; else its code travels.
        requirements: A ``pyproject.toml`` or a requirements file whose packages all nodes install.

    Raises:
        SettingError: The requirements cannot be read.
    """
    env: dict[str, Any] = {
        # On a stop Ray sends SIGTERM, and after so many seconds, 3 by default, SIGKILL.
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(round(_END_S + settings.sync_timeout_s))}
    }
    if upload.sizes:
        env["working_dir"] = str(upload.folder)
    if installed:
        env["env_vars"][CODE] = code_version()
    else:
        env["py_modules"] = [str(path) for path in _our_packages()]
    if requirements is not None:
        env["pip"] = {"packages": _requirements(requirements), "pip_check": False}
    return env


def _our_packages() -> list[Path]:
    places = [Path(__file__).parents[1]]
    studies = importlib.util.find_spec("search_spaces")
    if studies is not None and studies.origin is not None:
        places.append(Path(studies.origin).parent)
    return places


def _requirements(path: Path) -> list[str]:
    try:
        text = path.read_text()
        if path.suffix != ".toml":
            lines = (line.partition(" #")[0].strip() for line in text.splitlines())
            return [line for line in lines if line and not line.startswith("#")]
        return list(tomllib.loads(text)["project"]["dependencies"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"--requirements '{path}' cannot be read: {error}") from error
    except KeyError as error:
        raise SettingError(
            f"--requirements '{path}' has no [project] dependencies; give a pyproject.toml that "
            "has, or a requirements file."
        ) from error


def check_travel(settings: Settings, studies_dir: str | None) -> None:
    """Check what holds only on this machine, or must not be seen where a job is shown.

    Raises:
        SettingError: Something does.
    """
    problems = []
    uri = settings.tracking_uri
    if uri is not None and redact(uri) != uri:
        # Ray shows a job's command line and environment, and writes them into its logs.
        problems.append(
            "--tracking-uri must hold no login, which Ray would show to all who see the job and "
            "keep in its logs: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where "
            "the cluster's nodes are started."
        )
    if uri is not None and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        problems.append(
            "--tracking-uri must name a database of the driver's node by its full path "
            f"(sqlite:////...), but got '{uri}'."
        )
    if studies_dir is not None and not studies_dir.startswith(("/", "~/")):
        problems.append(
            "--studies-dir is a folder on the node of the driver, and must begin with / or ~/, but "
            f"got '{studies_dir}'."
        )
    if problems:
        raise SettingError("\n".join(problems))


def new_name(study: Study) -> str:
    """Return a name for a study that is told before the cluster has made its folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", study.name).lstrip("._-")[:90] or "study"
    return f"{plain}-{uuid.uuid4().hex[:6]}"


class Cluster:
    """A Ray cluster, by its job server.

    Args:
        address: ``http://HOST:8265``. The token is the one that Ray's RAY_AUTH_TOKEN,
            RAY_AUTH_TOKEN_PATH or ``~/.ray/auth_token`` holds.

    Raises:
        SettingError: It cannot be reached, refuses the token, or a package is not installed here.
    """

    def __init__(self, address: str) -> None:
        self.address = _usable(address)
        if missing := [m for m in ("aiohttp", "requests") if importlib.util.find_spec(m) is None]:
            raise SettingError(
                f"Ray's job server is spoken with by {' and '.join(missing)}, not installed here; "
                "run: pip install 'hypertune[cluster]'"
            )
        url = urlsplit(self.address)
        place = (url.hostname, url.port or {"http": 80, "https": 443}[url.scheme])
        try:
            within(_REACH_TIMEOUT_S, self.address, lambda: socket.create_connection(place).close())
        except OSError as error:
            raise SettingError(
                f"Nothing answers at --address '{self.address}': {error}. It must be that of Ray's "
                "job server (the dashboard, port 8265), which needs ray[default] on the head."
            ) from error
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        show_token()
        with self._told(), _own_address():
            self._client = _client(self.address)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what goes wrong with the cluster into an error to read."""
        import requests

        try:
            yield
        except HypertuneError:
            raise
        except AuthenticationError as error:
            first = str(error).strip().splitlines()[0].partition(". ")[0]
            raise SettingError(
                f"{self.address} lets nobody in without its token ({first}): that belongs into "
                "~/.ray/auth_token, readable by you alone, or into a file that RAY_AUTH_TOKEN_PATH "
                "names."
            ) from error
        except requests.exceptions.JSONDecodeError as error:
            raise SettingError(self._no_job_server()) from error
        except requests.exceptions.RequestException as error:
            raise SettingError(f"{self.address} does not answer: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:  # JSON of another kind
            raise SettingError(self._no_job_server()) from error
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            text = redact(str(error)).strip()
            if not hasattr(self, "_client"):
                text += " It must be the address of Ray's job server (the dashboard, port 8265)."
            raise SettingError(f"{self.address} cannot do that: {text}") from error

    def _no_job_server(self) -> str:
        return (
            f"What answers at {self.address} is not Ray's job server (the dashboard, port 8265): "
            "give its address."
        )

    # ---- jobs ----

    def jobs(self) -> list[Job]:
        """Return the studies that were sent to this cluster, the newest first."""
        with self._told():
            found = [_job(details) for details in self._client.list_jobs()]
        ours = [job for job in found if job is not None]
        return sorted(ours, key=lambda job: -(job.started_s or 0))

    def job(self, name: str) -> Job:
        """Return a job by its id.

        Raises:
            SettingError: There is none, or it is no study.
        """
        jobs = self.jobs()
        found = next((job for job in jobs if job.id == name), None)
        if found is None:
            there = choices(name, [job.id for job in jobs]) if jobs else " It has none yet."
            raise SettingError(f"The cluster has no study as a job '{name}'.{there}")
        return found

    def check(self, name: str, *, known: bool) -> None:
        """Check that a study's name is free, or that its job has ended if it is to go on.

        Raises:
            SettingError: It is not.
        """
        jobs = [job for job in self.jobs() if job.study == name]
        if running := [job.id for job in jobs if not job.over]:
            raise SettingError(f"Study '{name}' is under way on the cluster, as job {running[0]}.")
        if jobs and not known:
            raise SettingError(
                f"There was a job for a study '{name}' on this cluster: choose another --name, or "
                "let the study go on, or begin if it did not, with --or-resume."
            )

    def submit(
        self, command: str, study: Study, name: str, env: Mapping[str, Any], entrypoint: Entrypoint
    ) -> str:
        """Send a study's driver as a job; return the job's id.

        Args:
            command: The driver's command line.
            study: The study.
            name: That of its folder. The first job of a study is called so, too.
            env: Ray's runtime environment.
            entrypoint: What the driver occupies.

        Raises:
            SettingError: The cluster does not take it.
        """
        with self._told():
            taken = {details.submission_id for details in self._client.list_jobs()}
            job = next(n for n in _names(name) if n not in taken)
            env = {**env, "env_vars": {**env.get("env_vars", {}), JOB: job}}
            with _all_files():
                self._client.submit_job(
                    entrypoint=command,
                    submission_id=job,
                    runtime_env=dict(env),
                    metadata={_STUDY: name, _QUESTION: study.question},
                    entrypoint_num_cpus=entrypoint.num_cpus or None,
                    entrypoint_num_gpus=entrypoint.num_gpus or None,
                    entrypoint_memory=entrypoint.memory_bytes or None,
                    entrypoint_resources=dict(entrypoint.resources) or None,
                )
        return job

    def stop(self, job: str) -> bool:
        """Ask a job to end, with time to do so cleanly; return False if it had ended already."""
        with self._told():
            return bool(self._client.stop_job(job))

    def wait(self, job: str) -> Job:
        """Wait until a job has ended."""
        while not (now := self.job(job)).over:
            time.sleep(_POLL_S)
        return now

    # ---- what they say ----

    def log(self, job: str) -> str:
        """Return what a job has printed."""
        with self._told():
            return str(self._client.get_job_logs(job))

    def follow_log(self, job: str, write: Callable[[str], object]) -> None:
        """Hand on what a job prints, from its beginning to its end."""
        with self._told():
            asyncio.run(self._tail(job, write))

    async def _tail(self, job: str, write: Callable[[str], object]) -> None:
        """Hand on what a job prints; where it prints nothing for a while, ask how it is."""
        import aiohttp

        client = self._client
        async with aiohttp.ClientSession(cookies=client._cookies) as session:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    log = await session.ws_connect(
                        f"{client._address}/api/jobs/{job}/logs/tail", headers=client._headers
                    )
            except TimeoutError:
                raise DeadlineError(
                    f"{self.address} did not answer within {_TIMEOUT_S:g} s."
                ) from None
            except aiohttp.ClientError as error:
                raise SettingError(f"{self.address} does not show the log: {error}") from error
            while True:
                try:
                    message = await log.receive(timeout=_TIMEOUT_S)
                except TimeoutError:
                    if self.job(job).over:  # which is an error where the server is gone
                        return
                    continue
                if message.type != aiohttp.WSMsgType.TEXT:
                    break
                write(message.data)
            if log.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
                raise SettingError(f"{self.address} broke off while it showed the log.")

    def progress(self, job: Job) -> Progress | None:
        """Return how a job's search goes; None while it has not told."""
        if job.node is None:
            return None
        where = {"node_id": job.node, "filename": progress_file(job.id), "lines": 1}
        with self._told():
            said = self._client._do_request("GET", "/api/v0/logs/file", params=where)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return read_progress(said.text) if said.ok else None
        return None

    def follow(self, job: str, show: Callable[[Progress | None, Job], object]) -> Job:
        """Show how a job's search goes until it has ended; return how it ended.

        A cluster that does not answer for a while (a laptop that slept) is asked again.
        """
        answered = time.monotonic()
        while True:
            try:
                now = self.job(job)
                progress = None if now.over else self.progress(now)
                answered = time.monotonic()
            except HypertuneError:
                if time.monotonic() - answered > _SILENT_S:
                    raise
            else:
                if now.over:
                    return now
                show(progress, now)
            time.sleep(_POLL_S)

    def last_words(self, job: Job) -> str:
        """Return what a job printed at its end: the summary, or else the last lines."""
        lines = self.log(job.id).rstrip().splitlines()
        begins = [k for k, line in enumerate(lines) if line.strip() == job.question]
        return "\n".join(lines[begins[-1] :] if begins else lines[-20:])


def _client(address: str) -> Any:
    """Return Ray's client, each of whose requests has a deadline, the first ones as well."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]  # Ray's classes are untyped
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            n_bytes = len(options.get("data") or b"")
            timeout_s = _TIMEOUT_S + n_bytes / _LEAST_BYTES_PER_S
            request = super()._do_request
            return within(
                timeout_s,
                address,
                lambda: request(method, endpoint, **{"timeout": timeout_s, **options}),
            )

    return Client(address)


def _job(details: Any) -> Job | None:
    """Return a job of Ray's as one of ours; None if it is no study."""
    about = details.metadata or {}
    if _STUDY not in about or details.submission_id is None:
        return None
    return Job(
        id=details.submission_id,
        study=about[_STUDY],
        question=about.get(_QUESTION, ""),
        status=details.status.value,
        message=details.message or "",
        started_s=None if details.start_time is None else details.start_time / 1000,
        ended_s=None if details.end_time is None else details.end_time / 1000,
        node=details.driver_node_id,
        exit_code=details.driver_exit_code,
    )


def _names(name: str) -> Iterator[str]:
    yield name
    n = 2
    while True:
        yield f"{name}-{n}"
        n += 1


def _usable(address: str) -> str:
    url = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
    parts = urlsplit(url)
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good or redact(url) != url:
        raise SettingError(
            "--address must be that of the cluster's job server, such as http://HOST:8265, without "
            f"a login, but got '{redact(address)}'."
        )
    return url


@contextlib.contextmanager
def _changed(**values: str | None) -> Iterator[None]:
    """Change the environment for a while; None takes a variable away."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _own_address() -> contextlib.AbstractContextManager[None]:
    """Have Ray's client take the address that it is given, whatever the environment says."""
    return _changed(RAY_ADDRESS=None, RAY_API_SERVER_ADDRESS=None)


def _all_files() -> contextlib.AbstractContextManager[None]:
    """Have Ray send all that was laid out, whatever a .gitignore in there says."""
    return _changed(RAY_RUNTIME_ENV_IGNORE_GITIGNORE="1")


def parse_resources(text: str) -> dict[str, float]:
    """Return custom resources from a JSON object.

    Raises:
        SettingError: It is none.
    """
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and all(_is_amount(value) for value in found.values()):
            return found
    raise SettingError(
        "--entrypoint-resources must be a JSON object of names and numbers, such as "
        f"'{{\"driver\": 1}}', but got '{text}'."
    )


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
