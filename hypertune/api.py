"""The way in from Python."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from hypertune import engine
from hypertune.core.errors import SettingError
from hypertune.settings import Settings
from hypertune.studies.study import Study, load_study

if TYPE_CHECKING:
    from hypertune.engine import Observer, Outcome


def run(
    study: Study | str | Path,
    *,
    searcher: Searcher | None = None,
    scheduler: TrialScheduler | str | None = None,
    observer: "Observer | None" = None,
    **settings: Any,
) -> "Outcome":
    """Run a study as the command line does, and write its report.

    Example:
        outcome = hypertune.run("gru_window", searcher=OptunaSearch(), scheduler=ASHAScheduler())

    Args:
        study: The study, its name or its file.
        searcher: A searcher of Ray Tune's, in place of a method. It must honour the whole space. Of
            what is tried first, the study's default, it is not told, and it is asked for no levels:
            they get the budgets that it gives them.
        scheduler: A scheduler of Ray Tune's, or a row of SCHEDULERS. Without a method and a
            searcher, configs are drawn at random.
        observer: Called, in the driver's loop, when something has changed.
        settings: Those of `Settings` and of `OtherData`: ``n_trials``, ``time_budget_s``, ``csv``,
            ... Paths may be text, durations and sizes numbers or text such as ``"20m"``.

    Returns:
        How the search ended, and where its records are. A study with a searcher or a scheduler of
        Ray's that was given here cannot be resumed: the journal does not hold it.

    Raises:
        HypertuneError: It cannot start; nothing has been written.
        KeyboardInterrupt: There was a Ctrl-C. The study has ended cleanly, and can be resumed. In
            the same way SIGTERM has its usual effect once the study has ended: a loop over studies
            does not go on.
    """
    if searcher is not None and "method" in settings:
        raise SettingError(
            f"method '{settings['method']}' and {type(searcher).__name__} are both searchers."
        )
    theirs = None if isinstance(scheduler, str) else scheduler
    if searcher is not None or theirs is not None:
        settings.setdefault("method", "random")
    if isinstance(scheduler, str):
        settings["scheduler"] = scheduler
    outcome = engine.run(
        study if isinstance(study, Study) else load_study(str(study)),
        Settings.from_fields(settings),
        observer,
        report=True,
        searcher=searcher,
        scheduler=theirs,
    )
    if outcome.signal is not None:
        signal.raise_signal(outcome.signal)
    return outcome
