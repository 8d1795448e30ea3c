"""The best model of a study in MLflow: a logged model, and a version in the registry.

It is made from the study's folder ``model``, which holds no pickle: MLflow loads it by a module of
ours (`hypertune.studies.predictor`), a copy of which goes with it. The version gets the alias
``champion``; those of earlier studies of the space stay.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"
_NEEDED = ("ray", "torch", "numpy", "pandas", "scikit-learn")  # to load a model; ours comes with it
_ID, _MADE = "hypertune.model", "hypertune.made_ms"
_T = TypeVar("_T")
Call = Callable[[Callable[[], _T]], _T]


def register(
    client: "MlflowClient",
    call: "Call[Any]",
    *,
    uri: str,
    name: str,
    experiment_id: str,
    run_ids: tuple[str, str],
    folder: Path,
    sha256: str,
    made_ms: int,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    versions: Mapping[str, str],
) -> str:
    """Have a model in the registry, once, and return its version.

    Each step is looked up before it is made: whatever got lost, it may be called again.

    Args:
        client: Of the tracking server.
        call: Makes a request, again and again while it fails in a way that may pass.
        uri: Of the tracking server.
        name: What the model is registered as.
        experiment_id: Of the study's experiment.
        run_ids: Of the trial's run, and of the study's.
        folder: The study's folder ``model``.
        sha256: Of the model; what tells it from all others.
        made_ms: When it was made: an older one does not take the alias from a newer one.
        tags: Of the logged model and of the version.
        params: Of the logged model.
        versions: Of the packages that it was trained with.
    """
    tags = {**tags, _ID: sha256, _MADE: str(made_ms)}
    known = call(lambda: _versions(client, name))
    ours = next((v for v in known if v.tags.get(_ID) == sha256), None)
    if ours is None:
        run_id, parent_id = run_ids
        model = _logged(client, call, experiment_id, run_id, folder, sha256, tags, params, versions)
        call(lambda: _show_on(client, parent_id, model.model_id))
        if not known:
            call(lambda: _create_name(client, name))
        # Only a server can look a model up in its own store; without one its place is given.
        served = uri.startswith(("http:", "https:"))
        source = f"models:/{model.model_id}" if served else model.artifact_location

        def create() -> Any:
            again = next((v for v in _versions(client, name) if v.tags.get(_ID) == sha256), None)
            return again or client.create_model_version(
                name, source, run_id, dict(tags), model_id=model.model_id, await_creation_for=0
            )

        ours = call(create)
    newest = max((int(v.tags.get(_MADE, 0)) for v in known), default=0)
    if newest <= made_ms:
        call(lambda: client.set_registered_model_alias(name, ALIAS, str(ours.version)))
    return str(ours.version)


def _versions(client: "MlflowClient", name: str) -> list[Any]:
    return list(client.search_model_versions(f"name = {_quoted(name)}", max_results=1000))


def _quoted(name: str) -> str:
    """Return a name as MLflow's filters have it, which know no escapes."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def _show_on(client: "MlflowClient", run_id: str, model_id: str) -> None:
    """Show a model among the outputs of a run."""
    from mlflow.entities import LoggedModelOutput

    outputs = client.get_run(run_id).outputs
    if model_id not in [m.model_id for m in (outputs.model_outputs if outputs else [])]:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _create_name(client: "MlflowClient", name: str) -> None:
    if not client.search_registered_models(f"name = {_quoted(name)}", max_results=1):
        client.create_registered_model(name)


def _logged(
    client: "MlflowClient",
    call: "Call[Any]",
    experiment_id: str,
    run_id: str,
    folder: Path,
    sha256: str,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    versions: Mapping[str, str],
) -> Any:
    """Return the logged model, complete."""
    from mlflow.entities import LoggedModelStatus

    def find() -> Any:
        found = client.search_logged_models([experiment_id], f"tags.`{_ID}` = '{sha256}'")
        return found[0] if found else None

    def create() -> Any:
        return find() or client.create_logged_model(
            experiment_id, "best-model", run_id, dict(tags), dict(params)
        )

    model = call(create)
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory(prefix="hypertune-model-") as scratch:
            made = Path(scratch) / "model"
            _save(made, folder, model, run_id, versions)
            call(lambda: client.log_model_artifacts(model.model_id, str(made)))
        call(lambda: client.finalize_logged_model(model.model_id, LoggedModelStatus.READY))
    return model


def _save(made: Path, folder: Path, model: Any, run_id: str, versions: Mapping[str, str]) -> None:
    """Write what MLflow takes for a model: ours as it is, and how to load it."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    about = json.loads((folder / "model.json").read_text())
    takes = about.get("network", {}).get("inputs")
    signature = None
    if takes is not None:
        # What is told is a name or a number: the network's own signature says which.
        signature = ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, *takes))]))
    pinned = {k: v.partition("+")[0] for k, v in versions.items() if k in (*_NEEDED, "mlflow")}
    pinned["ray[tune]"] = pinned.pop("ray", "2.60.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it would like an example
        pyfunc.save_model(
            str(made),
            loader_module="hypertune.studies.predictor",
            data_path=str(folder),
            code_paths=[str(Path(__file__).parents[2])],
            mlflow_model=Model(
                artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id
            ),
            signature=signature,
            pip_requirements=[f"{name}=={version}" for name, version in sorted(pinned.items())],
        )
