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
from packaging.requirements import Requirement

from hypertune.cluster.slurm import Batch, batch_script

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


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


def test_mlflow_alone_reaches_the_database() -> None:
    assert COMPOSE["networks"]["database"] == {"internal": True}
    assert {n for n, s in SERVICES.items() if "database" in s["networks"]} == {"database", "mlflow"}
    assert SERVICES["database"]["networks"] == ["database"]


def test_no_secret_is_written_anywhere_and_each_is_made_by_the_page(tmp_path: Path) -> None:
    (commands,) = re.findall(
        r"^```sh\n(.*?)^```", (DOCKER / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "docker").mkdir()
    subprocess.run(["sh", "-euc", commands], cwd=tmp_path, check=True)
    made = tmp_path / "docker" / "secrets"
    assert made.stat().st_mode & 0o777 == 0o700
    declared = {Path(file["file"]) for file in COMPOSE["secrets"].values()}
    assert declared == {Path("secrets", path.name) for path in made.iterdir()}
    assert all(path.stat().st_size >= 32 for path in made.iterdir())
    identity = json.loads((made / "s3_server").read_text())["identities"][0]["credentials"][0]
    assert all(secret in (made / "s3").read_text() for secret in identity.values())
    given = {
        secret["source"] if isinstance(secret, dict) else secret
        for service in SERVICES.values()
        for secret in service.get("secrets", [])
    }
    assert given == set(COMPOSE["secrets"])
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            assert not re.search("(?i)password|secret|token$", variable) or "/" in value
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_kuberay_yaml_keeps_to_its_schemas() -> None:
    job, *others = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
    version = kubernetes_validate.latest_version()
    jsonschema.validate(job, RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == metadata.version("ray")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        kubernetes_validate.validate(pod, version, strict=True)
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["metadata"]["labels"] == {"app": "hypertune"}
    for other in others:
        kubernetes_validate.validate(other, version, strict=True)
    assert {other["kind"] for other in others} == {"NetworkPolicy", "PersistentVolumeClaim"}


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
