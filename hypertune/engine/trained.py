"""The model of a study, rebuilt from its config and its weights; nothing is unpickled."""

import copy
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypertune.engine.checkpoints import Checkpoints, checkpoint_root
from hypertune.engine.earlier import Earlier
from hypertune.engine.folder import study_folder
from hypertune.engine.prepare import load_data
from hypertune.errors import SettingError
from hypertune.search import incumbent
from hypertune.study import Loop, Study
from hypertune.trainable.checkpoint import fetch_checkpoint, is_bucket
from hypertune.trainable.estimator import EstimatorLoop
from hypertune.trainable.loop import TensorLoop
from hypertune.trainable.own import OwnLoop
from hypertune.trainable.stepwise import StepwiseLoop


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model of a study.

    Attributes:
        model: The ``nn.Module`` with the weights of its best epoch, ready to predict: it takes
            inputs as its task prepares them, and so scaled. Of a scikit-learn study the fitted
            estimator, of a class of one's own its instance, as it was saved last.
        config: Its whole config.
        trial: Its trial's id.
        loop: The training as it was left: ``loop.step()`` trains on for an epoch.
    """

    model: Any
    config: Mapping[str, Any]
    trial: int
    loop: Loop


def load_model(
    study: str | Path,
    *,
    trial: int | None = None,
    studies_dir: str | Path = "studies",
    space: str | Study | None = None,
    device: str = "cpu",
) -> TrainedModel:
    """Return the best model of a study, or that of another trial whose checkpoint is kept.

    Args:
        study: Its name, or its folder.
        trial: A trial's id; None for the recommended one.
        studies_dir: Where studies lie.
        space: The study, its name or its file, where that has moved.
        device: Where the model is to be.

    Raises:
        HypertuneError: There is no such study, trial or checkpoint, or the study's file is not
            what it was.
    """
    folder = Path(study)
    if not (folder / "journal.db").is_file():
        folder = study_folder(Path(studies_dir), str(study))
    earlier = Earlier.read(folder)
    asked, settings = earlier.settled(space, {})
    if trial is None:
        best = incumbent(earlier.search(asked, settings).trials)
        if best is None:
            raise SettingError(f"No trial of '{folder.name}' has a result yet.")
        row = [t for t in earlier.trials if t.role == "search"][best.number]
    else:
        row = earlier.trial(trial)
    root = checkpoint_root(folder, settings.storage, earlier.about["study_id"])
    kept = Checkpoints(root, math.inf)
    found = kept.newest(row.id, asked.max_epochs)
    if found is None:
        there = [str(t.id) for t in earlier.trials if kept.newest(t.id, asked.max_epochs)]
        raise SettingError(
            f"There is no checkpoint of trial {row.id} of '{folder.name}'; there are those of the "
            f"trials {', '.join(there) or '(none)'}."
        )
    config = {**asked.config(row.config, seed=row.seed), "device": device}
    data = load_data(asked)
    loop = asked.trainable.start(config, data, metric=asked.metric, mode=asked.mode)
    fetched = fetch_checkpoint(found[1]) if is_bucket(found[1]) else None
    try:
        loop.load(fetched or Path(found[1]))
        model = _model(loop, found[1])
    finally:
        if fetched is not None:
            shutil.rmtree(fetched, ignore_errors=True)
    return TrainedModel(model=model, config=config, trial=row.id, loop=loop)


def _model(loop: Loop, checkpoint: str) -> Any:
    if isinstance(loop, TensorLoop):
        model = copy.deepcopy(loop.model)
        model.load_state_dict(loop.best_weights)
        return model.eval()
    if isinstance(loop, EstimatorLoop):
        return copy.deepcopy(loop.best_model())
    if isinstance(loop, StepwiseLoop):
        return loop.trial
    if isinstance(loop, OwnLoop):
        loop.close()
    raise SettingError(
        f"Only the code that trained this model knows how to load it: see '{checkpoint}'."
    )
