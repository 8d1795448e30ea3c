"""Faults of servers and of what delivers to them."""

import contextlib
import http.client
import http.server
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos_study import (
    Command,
    Outcome,
    compare,
    deliver_all,
    ended,
    in_mlflow,
    results,
    run_args,
    values,
)

from hypertune.journal.store import Journal
from hypertune.tracking.mlflow.server import mlflow_server
from hypertune.tracking.uploader import Uploader


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands requests on to a server, unless there is trouble."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two parts would wait for its acknowledgement
    target = ""
    trouble: str | None = None

    def seen(self, body: bytes) -> None:
        """Called with the body of each request."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen(body)
        trouble = type(self).trouble
        if trouble == "hang":
            deadline = time.monotonic() + 20
            while type(self).trouble == "hang" and time.monotonic() < deadline:
                time.sleep(0.1)
            self.close_connection = True
            return
        if trouble in ("500", "401", "403"):
            return self.answer(int(trouble), b"trouble")
        try:
            upstream = http.client.HTTPConnection(type(self).target, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            upstream.request(self.command, self.path, body, headers)
            reply = upstream.getresponse()
            text = reply.read()
        except OSError:
            return self.answer(502, b"")
        if trouble == "lost answer":
            self.close_connection = True
            return None
        return self.answer(reply.status, text)

    def answer(self, status: int, text: bytes) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # whatever the verb
            return self.handle_any
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextlib.contextmanager
def proxy(target: str) -> Iterator[tuple[type[Proxy], str]]:
    handler = type("Here", (Proxy,), {"target": target, "trouble": None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def grow(journal: Journal, stop: threading.Event, rng: random.Random) -> None:
    """Let a journal grow by 100 results a second, four trials at a time, until told to stop."""
    first = 0
    while not stop.is_set():
        group = range(first, first + 4)
        for trial in group:
            journal.add_trial(trial, {"x": rng.random()}, seed=0)
            journal.set_state(trial, "running")
        sequences = {t: values(journal.trial(t).config["x"], 27) for t in group}
        for epoch in range(1, 28):
            for trial in group:
                loss = sequences[trial][epoch - 1]
                journal.add_result(trial, epoch, {"loss": loss, "twice": 2 * loss})
            time.sleep(0.04)
        for trial in group:
            journal.set_state(trial, "ended", reason="complete")
        first += 4
    journal.add_event("search_end", None, {"stopped_by": None})
    journal.close()


def server_faults(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Disturb the delivery of a growing journal."""
    study = folder / "studies" / "servers"
    study.mkdir(parents=True)
    about = {"study_id": "servers", "name": "servers", "space": "servers", "metric": "loss"}
    with contextlib.closing(Journal(study / "journal.db")) as journal:
        journal.set_study(**about, mode="min", seed=0)
        journal.add_event("search_start")
    store, stop = folder / "served.db", threading.Event()

    def write() -> None:
        grow(Journal(study / "journal.db"), stop, rng)

    writer = threading.Thread(target=write)
    servers = contextlib.ExitStack()

    def serve() -> str:
        uri, log = f"sqlite:///{store}", folder / "server.log"
        return servers.enter_context(mlflow_server(uri, log=log)).removeprefix("http://")

    with proxy(serve()) as (handler, url):
        uploader = Uploader(study / "journal.db", url)
        uploader.start()
        writer.start()
        for k in range(n):
            time.sleep(rng.uniform(0.5, 3))
            kind = ("500", "lost answer", "401", "hang", "403", "lost answer", "kill")[k % 7]
            if kind == "kill":
                servers.close()
                time.sleep((5, 30, 90)[k // 7 % 3])
                handler.target = serve()
            else:
                handler.trouble = kind
                time.sleep(rng.uniform(0.5, 4))
                handler.trouble = None
        stop.set()
        writer.join()
        uploader.finish(60)
        deliver_all(study / "journal.db", url)
    servers.close()
    with contextlib.closing(Journal(study / "journal.db", read_only=True)) as journal:
        trials = {trial.id for trial in journal.trials()}
    return n, in_mlflow(store, "servers", results(study), trials)


def two_uploaders(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Deliver a growing journal by two uploaders at once, and kill the one or the other."""
    study, store, stop = folder / "studies" / "uploaders", folder / "twice.db", threading.Event()
    study.mkdir(parents=True)
    about = {"study_id": "uploaders", "name": "uploaders", "space": "uploaders", "metric": "loss"}
    with contextlib.closing(Journal(study / "journal.db")) as journal:
        journal.set_study(**about, mode="min", seed=0)
        journal.add_event("search_start")
    uri = f"sqlite:///{store}"
    writer = threading.Thread(target=lambda: grow(Journal(study / "journal.db"), stop, rng))

    def started() -> Uploader:
        uploader = Uploader(study / "journal.db", uri)
        uploader.start()
        return uploader

    two = [started(), started()]
    writer.start()
    for _ in range(n):
        time.sleep(rng.uniform(2, 6))
        which = rng.randrange(2)
        process = two[which]._process
        assert process is not None
        process.kill()
        two[which].finish(1)
        two[which] = started()
    stop.set()
    writer.join()
    for uploader in two:
        uploader.finish(60)
    deliver_all(study / "journal.db", uri)
    with contextlib.closing(Journal(study / "journal.db", read_only=True)) as journal:
        trials = {trial.id for trial in journal.trials()}
    return n, in_mlflow(store, "uploaders", results(study), trials)


@contextlib.contextmanager
def silent_server(byte_every_s: float | None) -> Iterator[str]:
    """Give the address of a server that accepts whoever comes, and never answers.

    Args:
        byte_every_s: It sends a byte now and then, which never make an answer; None for nothing.
    """
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        connections: list[socket.socket] = []
        listener.settimeout(byte_every_s or 1.0)
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                connections.append(listener.accept()[0])
            for connection in connections if byte_every_s else []:
                with contextlib.suppress(OSError):
                    connection.sendall(b"H")
        for connection in connections:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def silent_servers(folder: Path, n: int, rng: random.Random) -> Outcome:
    """Have commands speak to servers that accept and never answer, in place of MLflow and Ray."""
    total, cluster = Counter[str](), (["jobs"], ["logs", "job"], ["stop", "job"], ["attach", "job"])
    for number in range(n):
        with silent_server(rng.choice((None, 1.0))) as url:
            if number % 2:
                command = Command(folder, *cluster[number // 2 % len(cluster)], "--address", url)
                total += ended(command.finish(60), well=(1, 2), said=command.said)
                continue
            name = f"silent-{number}"
            study = folder / "studies" / name
            more = ("--n-trials", "4", "--tracking-uri", url, "--sync-timeout", "5s")
            command = Command(folder, *run_args(name, "asha", rng, *more))
            total += ended(command.finish(), said=command.said)
            sync = Command(folder, "sync", name, "--tracking-uri", url, "--sync-timeout", "5s")
            total += ended(sync.finish(60), well=(1,), said=sync.said)
        total += compare(study, folder / "mlflow.db", {})
    return n, total
