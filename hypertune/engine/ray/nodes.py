"""A cluster: whether it is there, and whether each of its nodes can do a study's work."""

import contextlib
import hashlib
import os
import platform
import socket
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hypertune.core.deadlines import within
from hypertune.core.errors import DeadlineError, SettingError
from hypertune.core.storage import below, drop
from hypertune.settings import Settings
from hypertune.tasks.checkpoint import newest_checkpoint, write_checkpoint

_TIMEOUT_S = 120.0  # a node may have to import everything, or to be started first
_ANSWER_S = 10.0
_HEAD_S = 25.0  # Ray itself gives up after 30, in other words
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def check_address(address: str) -> str:
    """Check that a Ray head answers at an address, which Ray itself would try for ten minutes.

    Args:
        address: ``auto`` or ``HOST:PORT``.

    Returns:
        The ``HOST:PORT`` of it.

    Raises:
        SettingError: None does.
        DeadlineError: What is there is silent.
    """
    host, _, port = address.rpartition(":")
    if address != "auto" and ("://" in address or not host or not port.isdigit()):
        raise SettingError(
            f"--address must be auto or HOST:PORT of a Ray head, but got '{address}': the driver "
            "runs inside of the cluster. From elsewhere hand the study over with hypertune submit."
        )
    found = (
        (address == "auto" and _address_above()) or canonicalize_bootstrap_address(address) or ""
    )
    if address == "auto":
        host, _, port = found.rpartition(":")
    name = address if address == found else f"{address} ({found})"

    def greet() -> bytes:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S) as connection:
            # Whoever speaks gRPC answers this greeting (RFC 9113, 3.4) with a frame of settings.
            connection.sendall(_HTTP2_HELLO)
            return connection.recv(9)

    try:
        answer = within(_ANSWER_S, name, greet)
    except TimeoutError:
        raise DeadlineError(
            f"No Ray head answers at the address {name} within {_ANSWER_S:g} s."
        ) from None
    except OSError as error:
        raise SettingError(f"No Ray head answers at the address {name}: {error}.") from error
    if answer[3:4] != b"\x04":
        raise SettingError(
            f"What answers at the address {name} is no Ray head: give the port of ray start "
            "--head, 6379 unless told otherwise, not that of its dashboard."
        )
    return found


def check_head(address: str) -> None:
    """Check that the head at an address answers calls, and not the first greeting alone.

    Raises:
        DeadlineError: It does not.
        Exception: Of Ray's own, where the head refuses.
    """
    within(_HEAD_S, f"The Ray head at the address {address}", partial(GcsClient, address=address))


def show_token() -> bool:
    """Show Ray's token to a cluster, where there is one; return whether there is.

    Ray does so by itself at the address ``auto`` alone. A cluster that asks for none takes it.
    """
    there = bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    if there and not os.environ.get("RAY_AUTH_MODE"):
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # Ray has read the environment before
    return there


def _address_above() -> str | None:
    """Return the address of the Ray that this process is a job of.

    With several on a machine Ray takes any of them for the one, and tells its jobs so.
    """
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            for word in process.cmdline():
                if word.startswith("--gcs-address="):
                    return word.partition("=")[2]
    return None


def capacity(
    settings: Settings,
    nodes: Sequence[Mapping[str, float]],
    n_trials: int | None,
    *,
    joined: bool = False,
) -> int:
    """Return how many trials are to run at a time.

    Args:
        settings: What a trial occupies, and how many are asked for.
        nodes: What each of Ray's nodes has, by Ray's names.
        n_trials: How many there are; None for no end of them.
        joined: It is a cluster that may grow.

    Raises:
        SettingError: Ray has not the resources for it.
    """
    most = float("inf") if n_trials is None else n_trials
    wanted = None if settings.n_concurrent is None else int(min(settings.n_concurrent, most))
    bundle = settings.trial_resources()
    carries = sum(carried(node, bundle) for node in nodes)
    if carries >= (wanted or 1) or (joined and wanted):
        return int(wanted or min(carries, most))
    needs = " and ".join(f"{amount:g} {kind}s" for kind, amount in bundle.items())
    has = " and ".join(
        f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}s"
        for kind in dict.fromkeys(("CPU", "GPU", *bundle))
    )
    grows = " Say for how many trials nodes are to be started: --n-concurrent." if joined else ""
    raise SettingError(
        f"{wanted or 1} trials must run at a time, but Ray can run {carries:g} of {needs}: it has "
        f"{has}. See --cpus-per-trial, --gpus-per-trial, --resources, --n-concurrent.{grows}"
    )


def cpus_here() -> int:
    """Return how many CPUs this process may use, which may be fewer than there are."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return len(allowed) or os.cpu_count() or 1


def carried(node: Mapping[str, float], bundle: Mapping[str, float]) -> float:
    """Return how many trials a node carries."""
    return min(_fits(node.get(kind, 0.0), amount) for kind, amount in bundle.items())


def _fits(has: float, need: float) -> float:
    """Return how often a need fits into a node. A fraction of a GPU is one of a single GPU."""
    if need <= 0:
        return float("inf")
    return int(has) * int(1 / need + 1e-9) if need < 1 else int(has / need + 1e-9)


def alive_nodes() -> list[dict[str, Any]]:
    """Return what Ray knows of the nodes that are there."""
    return [node for node in ray.nodes() if node["Alive"]]


class Following:
    """Says how many trials the nodes of a cluster carry, while they come and go.

    Nodes that join are checked like those that were there; Ray gives them jobs all the same.

    Args:
        settings: What a trial occupies.
        warn: Told what is wrong with nodes that joined.
    """

    def __init__(self, settings: Settings, warn: Callable[[str], None]) -> None:
        self._settings, self._warn = settings, warn
        self._known = {node["NodeID"] for node in alive_nodes()}

    def __call__(self) -> int:
        nodes, bundle = alive_nodes(), self._settings.trial_resources()
        now = {node["NodeID"] for node in nodes}
        if now - self._known:
            threading.Thread(target=self._check, name="hypertune-nodes", daemon=True).start()
        self._known |= now
        return int(sum(carried(node["Resources"], bundle) for node in nodes))

    def _check(self) -> None:
        try:
            check_nodes(self._settings)
        except Exception as problem:
            self._warn(str(problem))


def check_nodes(settings: Settings) -> None:
    """Check that all nodes have what a trial needs: same versions, and common checkpoints.

    The driver's own node alone needs no check, unless checkpoints go elsewhere.

    Raises:
        SettingError: Some of them have not. All that is wrong is said at once.
    """
    nodes = [node for node in alive_nodes() if node["Resources"].get("CPU", 0) > 0]
    own = ray.get_runtime_context().get_node_id()
    if settings.storage is None and all(node["NodeID"] == own for node in nodes):
        return
    place = _common_place(settings)
    try:
        write_checkpoint(place, 0, _touch)
    except Exception as problem:
        where = place if settings.storage is None else f"--storage '{settings.storage}'"
        raise SettingError(f"{where} cannot be written: {problem}") from problem
    try:
        problems = _problems(nodes, place, settings)
    finally:
        drop(place)
    if problems:
        raise SettingError("\n".join(problems))


def _common_place(settings: Settings) -> str:
    """Return a place that will be gone afterwards, beside where checkpoints will lie."""
    name = f"hypertune-probe-{uuid.uuid4().hex[:8]}"
    if settings.storage is not None:
        return below(settings.storage, name)
    root = settings.studies_dir.resolve()
    return str(next(path for path in (root, *root.parents) if path.is_dir()) / name)


def _problems(nodes: Sequence[Mapping[str, Any]], place: str, settings: Settings) -> list[str]:
    asked = {
        node["NodeID"]: ray.remote(_look)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(below(place, node["NodeID"]), place)
        for node in nodes
    }
    here, problems, blind = _versions(), [], []
    for node in nodes:
        name = f"Node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            found, sees = ray.get(asked[node["NodeID"]], timeout=_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            problems.append(f"{name} did not answer within {_TIMEOUT_S:g} s.")
            continue
        except Exception as problem:
            said = str(problem).strip().splitlines() or [type(problem).__name__]
            problems.append(f"{name} cannot run hypertune: {said[-1]}")
            continue
        other = [what for what in here if found[what] != here[what]]
        if other:
            has = ", ".join(f"{what} {found[what]}" for what in other)
            needs = ", ".join(here[what] for what in other)
            problems.append(f"{name} has {has}, but the driver {needs}.")
        if not (sees and newest_checkpoint(below(place, node["NodeID"]), 0)):
            blind.append(name)
    if blind and settings.storage is None:
        problems.append(
            f"{', '.join(blind)} cannot reach '{Path(place).parent}' of the driver, but trials go "
            "from node to node with their checkpoints: give --storage, a folder or a bucket that "
            "all nodes reach."
        )
    elif blind:
        problems.append(f"{', '.join(blind)} cannot read and write --storage '{settings.storage}'.")
    return problems


def _versions() -> dict[str, str]:
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "ray": ray.__version__,
        "torch": torch.__version__,
        "hypertune's code": code_version(),
    }


def code_version() -> str:
    """Return a short name for the code of this package as it is here, installed or not."""
    root = Path(__file__).parents[2]
    hashed = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        hashed.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()[:8]


def _touch(folder: Path) -> None:
    (folder / "probe").write_text("x")


def _look(own: str, place: str) -> tuple[dict[str, str], bool]:
    """Say, on a node, what it has, and whether it reads what the driver has written."""
    try:
        write_checkpoint(own, 0, _touch)
        sees = newest_checkpoint(place, 0) is not None
    except Exception:  # of a file system or a service, of whatever kind
        sees = False
    return _versions(), sees
