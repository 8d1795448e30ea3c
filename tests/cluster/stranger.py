"""Who has no token and no password knocks at ports; what each of them says comes out as JSON.

    python stranger.py HOST:PORT ...

A program, not a module: it runs on a machine of its own, where no secret is.
"""

import base64
import contextlib
import http.client
import importlib
import json
import pkgutil
import re
import socket
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import psycopg
import ray.core.generated
from psycopg.conninfo import make_conninfo


class Method(NamedTuple):
    """A method of a gRPC service, and whether it takes and gives streams."""

    path: str
    gets_many: bool = False
    gives_many: bool = False


_TIMEOUT_S = 10
_PATHS = ("/", "/api/jobs/", "/api/version", "/api/2.0/mlflow/experiments/search?max_results=1")
_GUESS = f"Basic {base64.b64encode(b'admin:0').decode()}"
_GUESS_S3 = (
    "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)
# Methods that Ray's Python package does not describe.
_MORE = (
    Method("/ray.rpc.ObjectManagerService/Push"),
    Method("/ray.rpc.ObjectManagerService/Pull"),
    Method("/ray.rpc.syncer.RaySyncer/StartSync", True, True),
)
# Without the name of a node StartSync is not refused, but ends the process: docker/README.md.
_NODE = ("node_id", "0" * 56)
_LIST = Method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", True, True)
_OPEN_TO_ALL = ("grpc.health.", "grpc.reflection.", "grpc.channelz.")


def http_statuses(host: str, port: int, login: dict[str, str]) -> dict[str, int]:
    """Return what status each path is answered with; none where that is no HTTP."""
    found = {}
    for path in _PATHS:
        # MLflow asks for its name as well; others do not mind.
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path, headers={"Host": "mlflow:5000", **login})
            found[path] = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
    return found


def speaks_grpc(host: str, port: int) -> bool:
    """Say whether there is HTTP/2: gRPC servers begin with a frame of settings."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), _TIMEOUT_S) as to:
        to.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return to.recv(9)[3:4] == b"\x04"
    return False


def knock_postgresql(host: str, port: int, password: str | None = None) -> str:
    """Return why there is no connection to PostgreSQL; empty if there is one."""
    where = make_conninfo(
        host=host,
        port=port,
        user="mlflow",
        dbname="mlflow",
        password=password,
        connect_timeout=_TIMEOUT_S,
    )
    try:
        psycopg.connect(where).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def methods() -> list[Method]:
    """Return all methods of Ray's services."""
    found = [*_MORE]
    for module in pkgutil.iter_modules(ray.core.generated.__path__):
        if module.name.endswith("_pb2"):
            described: Any = importlib.import_module(f"ray.core.generated.{module.name}")
            for service in described.DESCRIPTOR.services_by_name.values():
                found += [
                    Method(f"/{service.full_name}/{m.name}", m.client_streaming, m.server_streaming)
                    for m in service.methods
                ]
    return found


def call(
    channel: grpc.Channel, method: Method, login: dict[str, str], body: bytes = b""
) -> tuple[str, bytes]:
    """Call a method; return the code of the answer, and the answer or the first of several."""
    kind = (
        f"{'stream' if method.gets_many else 'unary'}_{'stream' if method.gives_many else 'unary'}"
    )
    make = getattr(channel, kind)
    stub = make(method.path, request_serializer=bytes, response_deserializer=bytes)
    given = iter([body]) if method.gets_many else body
    try:
        answer = stub(given, timeout=_TIMEOUT_S, metadata=(_NODE, *login.items()))
        return "OK", next(iter(answer), b"") if method.gives_many else answer
    except grpc.RpcError as error:
        return error.code().name, b""


def knock_grpc(host: str, port: int, login: dict[str, str]) -> dict[str, Any]:
    """Call all methods of all of Ray's services, and say which services the server has besides."""
    known, codes = methods(), Counter[str]()
    answered, named = [], set[str]()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        code, listing = call(channel, _LIST, login, b"\x3a\x01*")
        if code == "OK":
            named = {name.decode() for name in re.findall(rb"(?:ray|grpc)\.[\w.]+", listing)}
        for method in known:
            code, _ = call(channel, method, login)
            codes[code] += 1
            if code not in ("UNAUTHENTICATED", "UNIMPLEMENTED"):
                answered.append(f"{method.path}: {code}")
    services = {method.path.split("/")[1] for method in known}
    unknown = [name for name in named - services if not name.startswith(_OPEN_TO_ALL)]
    return {"codes": codes, "answered": answered, "unknown": unknown}


def knock(place: str) -> dict[str, Any]:
    """Say what a port speaks, and what it answers: to nobody, and to who guesses."""
    host, _, port = place.rpartition(":")
    at = (host, int(port))
    if statuses := http_statuses(*at, {}):
        guess = _GUESS_S3 if at[1] == 8333 else _GUESS
        return {"http": [statuses, http_statuses(*at, {"Authorization": guess})]}
    if speaks_grpc(*at):
        return {"grpc": [knock_grpc(*at, {}), knock_grpc(*at, {"authorization": "Bearer 0"})]}
    return {"postgresql": [knock_postgresql(*at), knock_postgresql(*at, "0")]}


if __name__ == "__main__":
    with ThreadPoolExecutor() as pool:
        said = dict(zip(sys.argv[1:], pool.map(knock, sys.argv[1:]), strict=True))
    sys.stdout.write(json.dumps(said))
