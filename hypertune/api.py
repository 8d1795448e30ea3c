"""The functions to use from Python: run, resume and load studies."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher as RaySearcher

from hypertune import engine
from hypertune.cli.display.notebook import in_notebook, progress_display
from hypertune.core.errors import Checks, SettingError, choices, shown
from hypertune.core.plugs import is_plug, plug_name
from hypertune.engine.result import StudyResult, read_result
from hypertune.search.schedulers.base import Scheduler
from hypertune.search.searchers.base import Searcher
from hypertune.settings import OPTIONS, Settings
from hypertune.studies.study import Study, load_study

_RUN = [*OPTIONS, "other_data", "searcher", "scheduler", "observer", "progress"]
_CHANGES = [name for name, option in OPTIONS.items() if option.resume]
_RESUME = [*_CHANGES, "studies_dir", "space", "trust", "observer", "progress"]


def run(
    study: Study | str | os.PathLike[str],
    *,
    searcher: RaySearcher | type[Searcher] | Callable[..., Searcher] | None = None,
    scheduler: TrialScheduler | type[Scheduler] | str | None = None,
    observer: engine.Observer | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Run a study as the command line does, and write its report.

    Example:
        >>> import hypertune, tempfile
        >>> from ray import tune
        >>> def train(config, report):
        ...     for epoch in range(1, config["max_epochs"] + 1):
        ...         report(epoch=epoch, val_loss=config["x"] ** 2 + 1 / epoch)
        >>> study = hypertune.Study(
        ...     question="Which x is best?",
        ...     factors=("x",),
        ...     space={"x": tune.uniform(-1, 1)},
        ...     default={"x": 0.5},
        ...     trainable=train,
        ...     metric="val_loss",
        ...     max_epochs=2,
        ...     n_trials=2,
        ... )
        >>> result = hypertune.run(
        ...     study,
        ...     method="random",
        ...     n_repeats=0,
        ...     time_budget_s="10m",
        ...     studies_dir=tempfile.mkdtemp(),
        ... )
        >>> result.is_finished
        True
        >>> hypertune.run(study, n_trails=2)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        hypertune.core.errors.SettingError: Unknown setting 'n_trails'. Did you mean 'n_trials'? ...

    Args:
        study: The study, its name or its file.
        searcher: In place of a method: a subclass of `hypertune.Searcher`, a function of space,
            max_epochs and seed that returns an object of one, or a searcher of Ray Tune's. It must
            honour the whole space. Of what is tried first, the study's default, Ray's is not told,
            and it is asked for no levels: they get the budgets that it gives them.
        scheduler: A subclass of `hypertune.Scheduler`, a name as for ``--scheduler``, or a
            scheduler of Ray Tune's. Without a method and a searcher, configs are drawn at random.
        observer: Called with a `Progress`, in the driver's loop, when something has changed.
        progress: Show how the search is going; None to do so in a notebook.
        settings: Those of `Settings`: ``method``, ``n_trials``, ``time_budget_s``,
            ``until_decided``, ... Durations and sizes may be text (``"20m"``, ``"2 GB"``), paths
            too.

    Returns:
        How the search ended and what it found. A study with a searcher or a scheduler of Ray's
        that was given here cannot be resumed: the journal does not hold it. Of a class the journal
        holds the file, unless it stands in a notebook or in the script that is running.

    Raises:
        HypertuneError: It cannot start; nothing has been written. The message lists all arguments
            that are wrong.
        KeyboardInterrupt: There was a Ctrl-C. The study has ended cleanly, and can be resumed. In
            the same way SIGTERM has its usual effect once the study has ended: a loop over studies
            does not go on.
    """
    check, given = Checks(), dict(settings)
    with check:
        if not isinstance(study, Study | str | os.PathLike):
            raise SettingError(
                f"study must be a Study, its name or its file, but got {shown(study)}."
            )
    with check:
        _check_shown(observer, progress)
    with check:
        if searcher is not None and "method" in settings:
            raise SettingError(
                f"method '{settings['method']}' and "
                f"{getattr(searcher, '__name__', type(searcher).__name__)} are both searchers."
            )
    if searcher is not None or not isinstance(scheduler, str | None):
        given.setdefault("method", "random")
    name = plug_name(searcher) if is_plug(searcher, Searcher) else None
    if name is not None:  # so that the journal holds it
        given["method"], searcher = name, None
    name = plug_name(scheduler) if is_plug(scheduler, Scheduler) else None
    if (name := scheduler if isinstance(scheduler, str) else name) is not None:
        given["scheduler"], scheduler = name, None
    with check:
        _check_names(given, _RUN)
    with check:
        asked = Settings.from_fields({k: v for k, v in given.items() if k in _RUN})
    check.done()
    with _shown(observer, progress) as show:
        result = engine.run(
            study if isinstance(study, Study) else load_study(os.fspath(study)),
            asked,
            show,
            report=True,
            searcher=searcher,
            scheduler=scheduler,
        )
    return _after_signal(result)


def resume(
    study: StudyResult | str | os.PathLike[str],
    *,
    studies_dir: str | os.PathLike[str] = "studies",
    space: Study | str | os.PathLike[str] | None = None,
    trust: bool = False,
    observer: engine.Observer | None = None,
    progress: bool | None = None,
    **changes: Any,
) -> StudyResult:
    """Continue a study that ended early, or extend one that is finished.

    Trials that ended are kept, unfinished ones go on from their checkpoints.

    Example:
        >>> import hypertune, tempfile
        >>> from ray import tune
        >>> def train(config, report):
        ...     for epoch in range(1, config["max_epochs"] + 1):
        ...         report(epoch=epoch, val_loss=config["x"] ** 2 + 1 / epoch)
        >>> study = hypertune.Study(
        ...     question="Which x is best?",
        ...     factors=("x",),
        ...     space={"x": tune.uniform(-1, 1)},
        ...     default={"x": 0.5},
        ...     trainable=train,
        ...     metric="val_loss",
        ...     max_epochs=2,
        ...     n_trials=2,
        ... )
        >>> result = hypertune.run(
        ...     study, n_trials=1, n_repeats=0, method="random", studies_dir=tempfile.mkdtemp()
        ... )
        >>> result = hypertune.resume(result, space=study, n_trials=2)
        >>> len(result.trials)
        2

    Args:
        study: A study that was run or loaded, its name or its folder.
        studies_dir: The folder that holds the studies, for one that is given by its name.
        space: The study, its name or its file, where that has moved. A `Study` that no file
            defines is needed again.
        trust: Run the file that the journal names although the study was not begun on this
            machine.
        observer: As for `run`.
        progress: As for `run`.
        changes: Settings that differ from now on: ``n_trials`` (the new total),
            ``time_budget_s`` (from now on; without it, what is left of the study's own applies),
            ``until_decided``, ``n_concurrent``, ``address``, ``tracking_uri``, ``storage``,
            ``sync_timeout_s``, ``verbose``.

    Returns:
        How the search ended and what was found, as from `run`.

    Raises:
        HypertuneError: There is no such study, or it cannot go on; nothing has changed.
        KeyboardInterrupt: As for `run`.
    """
    check = Checks()
    with check:
        _check_shown(observer, progress)
    with check:
        _check_names(changes, _RESUME)
    with check:
        asked = Settings(**{k: v for k, v in changes.items() if k in _CHANGES})
    with check:
        folder = _folder(study, studies_dir, changes.get("storage"))
    check.done()
    if trust:
        engine.trust_study(folder)
    with _shown(observer, progress) as show:
        result = engine.resume(
            folder,
            changes={name: getattr(asked, name) for name in changes},
            space=space if isinstance(space, Study | None) else os.fspath(space),
            observer=show,
            report=True,
        )
    return _after_signal(result)


def load(
    study: StudyResult | str | os.PathLike[str], *, studies_dir: str | os.PathLike[str] = "studies"
) -> StudyResult:
    """Return a study that was begun, with what it found so far; it may be running.

    Example:
        >>> import hypertune, tempfile
        >>> from ray import tune
        >>> def train(config, report):
        ...     for epoch in range(1, config["max_epochs"] + 1):
        ...         report(epoch=epoch, val_loss=config["x"] ** 2 + 1 / epoch)
        >>> study = hypertune.Study(
        ...     question="Which x is best?",
        ...     factors=("x",),
        ...     space={"x": tune.uniform(-1, 1)},
        ...     default={"x": 0.5},
        ...     trainable=train,
        ...     metric="val_loss",
        ...     max_epochs=2,
        ...     n_trials=2,
        ... )
        >>> studies = tempfile.mkdtemp()
        >>> _ = hypertune.run(
        ...     study, name="x-1", n_repeats=0, method="random", studies_dir=studies
        ... )
        >>> hypertune.load("x-1", studies_dir=studies).curves[["trial", "epoch"]].values.tolist()
        [[0, 1], [0, 2], [1, 1], [1, 2]]

    Args:
        study: Its name, or its folder. A result is read anew.
        studies_dir: The folder that holds the studies, for one that is given by its name.

    Raises:
        HypertuneError: There is no such study, or its journal cannot be read.
    """
    return read_result(_folder(study, studies_dir))


def _folder(study: Any, studies_dir: Any, storage: str | None = None) -> Path:
    if isinstance(study, StudyResult):
        study = study.folder
    for name, value in (("study", study), ("studies_dir", studies_dir)):
        if not isinstance(value, str | os.PathLike):
            raise SettingError(f"{name} must be a name or a folder, but got {shown(value)}.")
    if (Path(study) / "journal.db").is_file():
        engine.check_study(Path(study))
        return Path(study)
    return engine.study_folder(Path(studies_dir), os.fspath(study), storage)


def _check_names(given: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise SettingError(
            "\n".join(f"Unknown setting '{name}'.{choices(name, known)}" for name in unknown)
        )


def _check_shown(observer: Any, progress: Any) -> None:
    problems = []
    if observer is not None and not callable(observer):
        problems.append(f"observer must be a function, but got {shown(observer)}.")
    if not isinstance(progress, bool | None):
        problems.append(f"progress must be True, False or None, but got {shown(progress)}.")
    if problems:
        raise SettingError("\n".join(problems))


@contextlib.contextmanager
def _shown(
    observer: engine.Observer | None, progress: bool | None
) -> Iterator[engine.Observer | None]:
    """Give the observer of a search: the user's, and what shows the progress."""
    if not (in_notebook() if progress is None else progress):
        yield observer
        return
    with progress_display() as display:

        def show(state: engine.Progress) -> None:
            display(state)
            if observer is not None:
                observer(state)

        yield show


def _after_signal(result: StudyResult) -> StudyResult:
    """Let a signal that came during the search have its usual effect."""
    if result.signal is not None:
        signal.raise_signal(result.signal)
    return result
