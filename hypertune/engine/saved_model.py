"""The model of a study, rebuilt from its config and its weights; nothing is unpickled."""

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hypertune.core.errors import SettingError
from hypertune.core.task import Loop, Task
from hypertune.engine.folder import study_folder
from hypertune.engine.prepare import load_data
from hypertune.engine.resume import RecordedStudy
from hypertune.engine.retention import Checkpoints, checkpoint_root
from hypertune.engine.trust import trust_study
from hypertune.journal.history import StudyHistory
from hypertune.journal.recommendation import recommended
from hypertune.journal.store import Journal
from hypertune.studies.predictor import Network, keep, keeps
from hypertune.studies.study import Study
from hypertune.tasks.checkpoint import DamagedError, opened, seal, sync
from hypertune.tasks.estimator import EstimatorLoop
from hypertune.tasks.stepper import StepwiseLoop
from hypertune.tasks.torch.forecasting import Forecasting
from hypertune.tasks.torch.loop import TensorLoop
from hypertune.tasks.torch.supervised import Supervised
from hypertune.tasks.user_code import OwnLoop


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model of a study.

    Attributes:
        model: The ``nn.Module`` with the weights of its best epoch, ready to predict: it takes
            inputs as its task prepares them, and so scaled; `predict` takes them as they come. Of
            a scikit-learn study the fitted estimator, of a class of one's own its instance, as it
            was saved last.
        config: Its whole config.
        trial: Its trial's id.
        loop: The training as it was left: ``loop.step()`` trains on for an epoch.
        task, data: What it was trained on.
    """

    model: Any
    config: Mapping[str, Any]
    trial: int
    loop: Loop
    task: Task
    data: Any

    def predict(self, model_input: Any) -> NDArray[Any]:
        """Return what a network says of inputs as they come, scaled as they were in training.

        Args:
            model_input: As for `Network.predict` in `hypertune.studies.predictor`.

        Raises:
            ValueError: The inputs are not as those of the data set.
            SettingError: The model is no network of a task of ours.
        """
        task, config = self.task, dict(self.config)
        if not isinstance(self.loop, TensorLoop) or not isinstance(task, Forecasting | Supervised):
            raise SettingError("This model is not a network of ours: call `model` itself.")
        _, prepare, answer = task.rebuilt(config, task.surroundings(config, self.data))
        model = self.model if config["device"] == "cpu" else copy.deepcopy(self.model).cpu()
        return Network(model, prepare, answer).predict(model_input)


def load_model(
    study: str | Path,
    *,
    trial: int | None = None,
    studies_dir: str | Path = "studies",
    space: str | Study | None = None,
    device: str = "cpu",
    trust: bool = False,
) -> TrainedModel:
    """Return the best model of a study, or that of another trial whose checkpoint is kept.

    Example:
        >>> import tempfile
        >>> import hypertune
        >>> from ray import tune
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.tree import DecisionTreeClassifier
        >>> def data():
        ...     return load_iris(return_X_y=True)
        >>> study = hypertune.Study(
        ...     question="How deep?",
        ...     factors=("max_depth",),
        ...     space={"max_depth": tune.choice([1, 2, 3])},
        ...     default={"max_depth": 1},
        ...     trainable=hypertune.estimator(DecisionTreeClassifier, data, kind="classification"),
        ...     metric="val_accuracy",
        ...     mode="max",
        ...     max_epochs=1,
        ...     n_trials=2,
        ... )
        >>> result = hypertune.run(
        ...     study, method="random", n_repeats=0, studies_dir=tempfile.mkdtemp()
        ... )
        >>> hypertune.load_model(result.folder, space=study).model.predict([[5, 3, 1, 0.2]]).shape
        (1,)

    Args:
        study: Its name, or its folder.
        trial: A trial's id; None for the recommended one.
        studies_dir: Where studies lie.
        space: The study, its name or its file, where that has moved.
        device: Where the model is to be.
        trust: Run the file that the study's journal names, though the study was not begun here.

    Raises:
        HypertuneError: There is no such study, trial or checkpoint, or the study's file is not
            what it was.
    """
    folder = Path(study)
    if not (folder / "journal.db").is_file():
        folder = study_folder(Path(studies_dir), str(study))
    if trust:
        trust_study(folder)
    recorded = RecordedStudy.read(folder)
    asked, settings = recorded.settled(space, {})
    if trial is None:
        best = recommended(recorded.history)
        if best is None:
            raise SettingError(f"No trial of '{folder.name}' has a result yet.")
        trial = best.trial
    row = recorded.trial(trial)
    root = checkpoint_root(folder, settings.storage, recorded.about["study_id"])
    kept = Checkpoints(root, math.inf)
    found = kept.newest(row.id, asked.max_epochs)
    if found is None:
        there = [str(t) for t in recorded.history.trials if kept.newest(t, asked.max_epochs)]
        raise SettingError(
            f"There is no checkpoint of trial {row.id} of '{folder.name}'; there are those of the "
            f"trials {', '.join(there) or '(none)'}."
        )
    config = {**asked.config(asked.from_record(row.config), seed=row.seed), "device": device}
    data = load_data(asked)
    loop = asked.trainable.start(config, data, metric=asked.metric, mode=asked.mode)
    try:
        with opened(found[1]) as checkpoint:
            loop.load(checkpoint)
            model = _model(loop, found[1])
    except DamagedError as error:
        raise SettingError(
            f"The checkpoint of trial {row.id} of '{folder.name}' cannot be used: {error}. Load "
            "that of another trial with trial=..., or train the config again in a new study: "
            f"hypertune run --from {folder.name}."
        ) from error
    return TrainedModel(
        model=model,
        config=config,
        trial=row.id,
        loop=loop,
        task=asked.trainable,
        data=data,
    )


def keep_best_model(journal: Journal, study: Study, data: Any) -> None:
    """Write the model of the recommended trial into the study's folder ``model``, and journal it.

    Nothing is done where there is no such model: no trial was trained in full, its checkpoint was
    given up, or only the user's code knows how to read it; nor where it is there already.

    Args:
        journal: The study's.
        study: Itself.
        data: What it was searched on.

    Raises:
        OSError: It cannot be written.
    """
    folder = journal.path.parent
    history = StudyHistory.read(journal)
    recommendation = recommended(history)
    if recommendation is None or not recommendation.full or not keeps(study):
        return
    best, about = history.trials[recommendation.trial], history.study
    root = checkpoint_root(folder, about["settings"].get("storage"), about["study_id"])
    kept = Checkpoints(root, math.inf)
    found = kept.newest(best.id, study.max_epochs)
    if found is None:
        return
    config = study.config(study.from_record(best.config), seed=best.seed)
    sha = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    with opened(found[1]) as checkpoint:
        for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
            sha.update(path.read_bytes())
        said, target = {"sha256": sha.hexdigest()}, folder / "model"
        before = history.events_of("model")
        if target.is_dir() and before and before[-1].data == said:
            return
        new = folder / "model.new"  # a kill leaves no half of it
        shutil.rmtree(new, ignore_errors=True)
        keep(study, config, data, checkpoint, new)
    seal(new)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    sync(folder)
    journal.add_event("model", best.id, said)


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
