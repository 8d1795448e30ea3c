"""The model of a study as a thing of its own: inputs as they are in, answers out.

A folder that `keep` writes holds all of it, and nothing in it is a pickle:

====================  ==============================================================================
file                  content
====================  ==============================================================================
``model.json``        the trial's config, what inputs look like, and how they are scaled
``study/``            the study's file, and what beside it was imported: the code of the model
``checkpoint/``       of a network the weights of its best epoch; else what the trial saved
====================  ==============================================================================

A network is rebuilt from that alone, wherever the packages are. An estimator of scikit-learn is
fitted again, to the same result, and needs its data for that. MLflow loads either by `_load_pyfunc`
(``mlflow.pyfunc.load_model``).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hypertune.core.space import Config
from hypertune.studies.study import Study, load_study, source_files
from hypertune.tasks.checkpoint import FILES, check_sealed
from hypertune.tasks.estimator import Estimator, EstimatorLoop
from hypertune.tasks.torch.forecasting import Forecasting
from hypertune.tasks.torch.loop import Inputs
from hypertune.tasks.torch.supervised import Supervised

_N_AT_ONCE = 1024


class Network:
    """A trained network, with what comes before and after it.

    Args:
        model: With the weights of its best epoch.
        prepare: Maps inputs as they are to those of the model.
        answer: Maps the model's outputs to answers.
    """

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[[Any], Inputs],
        answer: Callable[[torch.Tensor], NDArray[Any]],
    ) -> None:
        self.model = model.eval()
        self._prepare, self._answer = prepare, answer

    @torch.no_grad()
    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> NDArray[Any]:
        """Return the answers to inputs, one each.

        Args:
            model_input: Of a forecast the last values, oldest first, shape (n, window) or more; of
                samples those of a data set, shape (n, ...), unscaled; of sequences that are padded
                at their ends a dict of these, ``x``, and of their true ``lengths``.
            params: None are known.

        Returns:
            The next values, shape (n, horizon); or names of classes or numbers, shape (n,).
        """
        inputs = self._prepare(model_input)
        parts = range(0, len(inputs), _N_AT_ONCE)
        outputs = [self.model(*inputs[slice(at, at + _N_AT_ONCE)]) for at in parts]
        return self._answer(torch.cat(outputs).float())


class _Fitted:
    """An estimator, with its preprocessing."""

    def __init__(self, model: Any, transform: Any) -> None:
        self.model, self._transform = model, transform

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> NDArray[Any]:
        """Return the answers to inputs, shape (n,)."""
        x = model_input if self._transform is None else self._transform.transform(model_input)
        return np.asarray(self.model.predict(x))


def keeps(study: Study) -> bool:
    """Say whether the models of a study can be kept: it has a file, and a task of ours."""
    known = isinstance(study.trainable, Forecasting | Supervised | Estimator)
    return known and Path(study.source).is_file()


def keep(study: Study, config: Config, data: Any, checkpoint: Path, folder: Path) -> None:
    """Write a trial's model into a new folder.

    Args:
        study: Its study.
        config: Whole config of the trial.
        data: Those that it was trained on.
        checkpoint: Of the trial.
        folder: Made here.
    """
    task = study.trainable
    place = folder / "checkpoint"
    place.mkdir(parents=True)
    about = {
        "study": study.name,
        "file": Path(study.source).name,
        "metric": study.metric,
        "mode": study.mode,
        "config": config,
    }
    if isinstance(task, Forecasting | Supervised):
        state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        torch.save(state["best_weights"], place / "weights.pt")
        about["network"] = task.surroundings(config, data)
    else:
        shutil.copytree(checkpoint, place, dirs_exist_ok=True)
    for path in source_files(study):
        target = folder / "study" / path.relative_to(Path(study.source).parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "model.json").write_text(json.dumps(about, indent=1))


def read(folder: Path, *, device: str = "cpu") -> Network | _Fitted:
    """Return the model that `keep` wrote.

    Raises:
        DamagedError: It is not what was written: copy it again from the study's folder ``model``,
            or load the model of the study (``hypertune.load_model``).
        HypertuneError: The study's file cannot be read here.
        OSError: A file is missing; of an estimator, that of its data.
    """
    if (folder / FILES).exists():  # earlier versions wrote none
        check_sealed(folder)
    about = json.loads((folder / "model.json").read_text())
    study = load_study(str(folder / "study" / about["file"]))
    config, task = {**study.from_record(about["config"]), "device": device}, study.trainable
    if isinstance(task, Forecasting | Supervised):
        model, prepare, answer = task.rebuilt(config, about["network"])
        path = folder / "checkpoint" / "weights.pt"
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return Network(model, prepare, answer)
    data = task.load(test=False)
    loop = task.start(config, data, metric=about["metric"], mode=about["mode"])
    assert isinstance(loop, EstimatorLoop)
    loop.load(folder / "checkpoint")
    return _Fitted(loop.best_model(), data.transform)


def _load_pyfunc(data_path: str) -> Network | _Fitted:
    """Return the model that MLflow has; called by ``mlflow.pyfunc.load_model``."""
    return read(Path(data_path))
