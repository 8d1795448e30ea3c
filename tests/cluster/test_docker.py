"""What is in docker/ is well formed and closed; test_cluster.py runs what compose.yaml says."""

import json
import re
import subprocess
import tomllib
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from compose_file import COMPOSE, DOCKER, ROOT, SERVICES, make_secrets
from packaging.requirements import Requirement

from hypertune.cluster.ray_job import STUDIES_DIR
from hypertune.cluster.slurm import Batch, batch_script


def of(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def exactly(required: str = "", **fields: Any) -> dict[str, Any]:
    return of("object", properties=fields, required=required.split(), additionalProperties=False)


# Kubernetes itself describes a pod; of RayJob's own fields those that are used here, as KubeRay
# 1.6's API reference has them (RayJobSpec, RayClusterSpec, HeadGroupSpec, WorkerGroupSpec).
_COUNT = of("integer", minimum=0)
_PARAMS = of("object", additionalProperties=of("string"))
_TEMPLATE = of("object", required=["spec"])
RAY_JOB = exactly(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=exactly("name", name=of("string", maxLength=47)),
    spec=exactly(
        "entrypoint rayClusterSpec",
        entrypoint=of("string"),
        backoffLimit=_COUNT,
        shutdownAfterJobFinishes=of("boolean"),
        ttlSecondsAfterFinished=_COUNT,
        rayClusterSpec=exactly(
            "rayVersion authOptions headGroupSpec workerGroupSpecs",
            rayVersion=of("string"),
            authOptions=exactly("mode", mode={"const": "token"}),
            headGroupSpec=exactly(
                "rayStartParams template", rayStartParams=_PARAMS, template=_TEMPLATE
            ),
            workerGroupSpecs=of(
                "array",
                items=exactly(
                    "groupName rayStartParams template",
                    groupName=of("string"),
                    replicas=_COUNT,
                    minReplicas=_COUNT,
                    maxReplicas=_COUNT,
                    rayStartParams=_PARAMS,
                    template=_TEMPLATE,
                ),
            ),
        ),
    ),
)


def test_the_dockerfile_is_clean() -> None:
    done = subprocess.run(
        ["hadolint", str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_holds_fixed_versions_of_all_that_is_required() -> None:
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    for text in required:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name]), text
    assert pins["ray"] == metadata.version("ray")


def test_compose_yaml_keeps_to_its_schema() -> None:
    files = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((files / "compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(COMPOSE)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_watched_and_closed(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:(\d[\w.-]*|local)", service["image"])
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")
    # Who is reached from outside says so; nobody else has a way there.
    assert ("outside" in service["networks"]) == bool(service.get("ports"))
    one_off, follows = (
        service.get("restart") == "no",
        name == "worker",
    )  # `ray start` watches itself
    assert one_off or follows or "healthcheck" in service
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert service["mem_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    if "ray" in str(service.get("command", "")):
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_writes_to_volumes_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    mounts = {volume.split(":")[-1] for volume in service.get("volumes", [])}
    assert "/tmp" in mounts | {*service.get("tmpfs", [])}
    if service["image"] == "hypertune:local":
        # Trials write there, as much as they like: on the disk, not in the memory of the container.
        assert {"/tmp", "/home/hypertune"} <= mounts
        assert "tmpfs" not in service
    if "ray" in str(service.get("command", "")):
        assert "/work" in mounts  # where the image starts programs


def test_what_the_head_remembers_lies_on_the_volume_of_studies() -> None:
    head = SERVICES["head"]
    assert "studies:/work" in head["volumes"]
    # Which studies are trusted, and the studies of jobs.
    assert Path(head["environment"]["XDG_STATE_HOME"]).is_relative_to("/work")
    (link,) = re.findall(r"ln --symbolic (\S+) (\S+)", (DOCKER / "Dockerfile").read_text())
    assert Path(STUDIES_DIR.replace("~", "/home/hypertune")).is_relative_to(link[1])
    assert link[0] == "/work"


def networks(name: str) -> set[str]:
    return set(SERVICES[name]["networks"])


def test_mlflow_alone_reaches_the_database() -> None:
    assert COMPOSE["networks"]["database"] == {"internal": True}
    assert {name for name in SERVICES if "database" in networks(name)} == {"database", "mlflow"}
    assert SERVICES["database"]["networks"] == ["database"]


def test_workers_reach_the_bucket_and_the_head_alone() -> None:
    reached = {name for name in SERVICES if networks(name) & networks("worker")}
    assert reached == {"bucket", "head", "worker"}
    for network in networks("worker"):
        assert COMPOSE["networks"][network] == {"internal": True}


def secrets_of(name: str) -> set[str]:
    given = SERVICES[name].get("secrets", [])
    return {secret["source"] if isinstance(secret, dict) else secret for secret in given}


def test_who_runs_trials_has_no_key_to_models() -> None:
    assert secrets_of("worker") == {"ray_token", "s3_studies"}
    assert secrets_of("head") == {"ray_token", "s3_studies", "mlflow_studies"}
    for name in ("mlflow_admin", "mlflow_models", "s3_mlflow", "s3_server"):
        holders = {service for service in SERVICES if name in secrets_of(service)}
        assert holders <= {"bucket", "buckets", "mlflow", "logins", "models"}
    for name in ("head", "worker"):
        keys = SERVICES[name]["environment"]["AWS_SHARED_CREDENTIALS_FILE"]
        assert keys == "/run/secrets/s3_studies"
    # Nor can they run code where such a key is.
    assert not networks("models") & networks("worker")
    assert "ray_token" not in secrets_of("models")


def test_no_secret_is_written_anywhere_and_each_is_made_by_the_page(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)
    assert made.stat().st_mode & 0o777 == 0o700
    declared = {Path(file["file"]) for file in COMPOSE["secrets"].values()}
    assert declared == {Path("secrets", path.name) for path in made.iterdir()}
    assert all(path.stat().st_size >= 32 for path in made.iterdir())
    identities = json.loads((made / "s3_server").read_text())["identities"]
    for identity in identities:
        keys = (made / f"s3_{identity['name']}").read_text()
        assert all(secret in keys for secret in identity["credentials"][0].values())
    may = {identity["name"]: identity["actions"] for identity in identities}
    assert may["mlflow"] == ["Admin"]
    assert {action.partition(":")[2] for action in may["studies"]} == {"studies"}
    secrets = [path.read_text() for path in made.iterdir()]
    assert len({*secrets}) == len(secrets)
    assert {secret for name in SERVICES for secret in secrets_of(name)} == set(COMPOSE["secrets"])
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            assert not re.search("(?i)password|secret|token$", variable) or "/" in value
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_each_volume_has_a_backup() -> None:
    page = (DOCKER / "README.md").read_text()
    backup, restored = page.partition("**Backups**")[2].split("```")[1:4:2]
    assert "pg_dump" in backup
    assert "pg_restore" in restored
    for commands in (backup, restored):
        (volumes,) = re.findall(r"for volume in (.*?);", commands)
        assert {*volumes.split(), "database"} == set(COMPOSE["volumes"])
        assert f"-v {COMPOSE['name']}_$volume:" in commands
        assert SERVICES["database"]["image"] in commands
        subprocess.run(["sh", "-nc", commands], check=True)


def test_kuberay_yaml_keeps_to_its_schemas() -> None:
    job, *others = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
    version = kubernetes_validate.latest_version()
    jsonschema.validate(job, RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == metadata.version("ray")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        kubernetes_validate.validate(pod, version, strict=True)
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        assert pod["metadata"]["labels"] == {"app": "hypertune"}
    for other in others:
        kubernetes_validate.validate(other, version, strict=True)
    assert {other["kind"] for other in others} == {"NetworkPolicy", "PersistentVolumeClaim"}


def peers(rules: list[dict[str, Any]], side: str) -> list[tuple[Any, Any, list[int]]]:
    """Return namespace, pod labels and ports of each peer that rules let through."""
    return [
        (
            peer.get("namespaceSelector", {}).get("matchLabels"),
            peer["podSelector"]["matchLabels"],
            [port["port"] for port in rule.get("ports", [])],
        )
        for rule in rules
        for peer in rule[side]
    ]


def test_kuberay_yaml_lets_pods_reach_what_a_study_needs_and_no_more() -> None:
    job, *others = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
    specs = {one["metadata"]["name"]: one["spec"] for one in others}
    everybody, driver = specs["hypertune"], specs["hypertune-driver"]
    us, space = {"app": "hypertune"}, "kubernetes.io/metadata.name"
    assert everybody["podSelector"] == {"matchLabels": us}
    assert everybody["policyTypes"] == ["Ingress", "Egress"]
    submitter = {
        "ray.io/originated-from-crd": "RayJob",
        "ray.io/originated-from-cr-name": job["metadata"]["name"],
    }
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    assert peers(everybody["ingress"], "from") == [
        (None, us, []),
        (None, submitter, [8265]),
        ({space: "kuberay-operator"}, operator, [8265]),
    ]
    assert peers(everybody["egress"], "to") == [
        (None, us, []),
        ({space: "kube-system"}, {"k8s-app": "kube-dns"}, [53, 53]),
        (None, {"app": "bucket"}, [8333]),
    ]
    assert driver["podSelector"] == {"matchLabels": {**us, "ray.io/node-type": "head"}}
    assert peers(driver["egress"], "to") == [(None, {"app": "mlflow"}, [5000])]
    assert "http://mlflow:5000" in job["spec"]["entrypoint"]


def test_workers_on_kubernetes_have_no_login_to_mlflow_and_the_head_keeps_its_notes() -> None:
    job, *_ = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in head["env"]}
    assert Path(variables["XDG_STATE_HOME"]).is_relative_to("/work")
    assert "/work" in {mount["mountPath"] for mount in head["volumeMounts"]}
    for group in cluster["workerGroupSpecs"]:
        for container in group["template"]["spec"]["containers"]:
            assert not [one for one in container["env"] if "MLFLOW" in one["name"]]
            assert container["envFrom"] == [{"secretRef": {"name": "hypertune-bucket"}}]


def test_slurm_sh_is_what_submit_renders() -> None:
    script = batch_script(
        Batch(nodes=2, cpus=8, gpus=4, time_limit="4:00:00"),
        {"--space": "gru_window", "--gpus-per-trial": 0.5, "--storage": "/shared/hypertune"},
        name="gru-window",
        studies_dir=None,
        python="/shared/venv/bin/python",
        token=Path("/home/me/.ray/auth_token"),
        folder=Path("/home/me"),
    )
    assert (DOCKER / "slurm.sh").read_text() == script
