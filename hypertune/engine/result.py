"""A study as it is read from its folder: how it stands, and what it found."""

import contextlib
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypertune.core.errors import HypertuneError, SettingError
from hypertune.core.space import Space
from hypertune.core.text import printable
from hypertune.engine.folder import is_under_way, locked
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import FULL, Journal, flat_names
from hypertune.settings import Settings
from hypertune.tracking.uploader import Delivery, delivered

if TYPE_CHECKING:
    import pandas as pd

    from hypertune.analysis import Score, StudyData, Summary, Verdict
    from hypertune.engine.saved_model import TrainedModel
    from hypertune.studies.study import Study

_WIDTH, _KEY_WIDTH = 80, 24
_MOST_SENTENCES, _MOST_SCORES = 3, 6
"""What is shown at most in one screen; the report has all of it."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class StudyResult:
    """A study and what it found so far: what `run`, `resume` and `load` return.

    It is read from the study's folder, each part when it is first asked for, and then kept. Of a
    study that is running, load it again for what has come since.

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
        ...     study, n_repeats=0, method="random", studies_dir=tempfile.mkdtemp()
        ... )
        >>> result.is_finished, sorted(result.best)
        (True, ['x'])
        >>> result.trials[["trial", "reason", "epochs"]].values.tolist()
        [[0, 'complete', 2], [1, 'complete', 2]]
        >>> int(result.curves["epoch"].max())
        2
        >>> result.report.name
        'report.html'

    Attributes:
        folder: The study's folder.
        stopped_by: ``signal``, ``time budget`` or ``error`` if the search was cut short, ``kill``
            if its process was; None if it is finished or running.
        error: The text of the error that ended the search early; None without one.
        warning: What went wrong although nothing failed by it; None without such.
        is_running: The study has not ended yet.
        store: MLflow's URI, with its login if it has one.
        delivery: How much of the records MLflow has.
        study_id: The study's own id; in MLflow the name of its view.
        signal: The number of the signal that came while it ran; None without one.
    """

    folder: Path
    stopped_by: str | None
    error: str | None
    warning: str | None
    store: str
    delivery: Delivery
    study_id: str
    is_running: bool = False
    signal: int | None = None

    @property
    def page(self) -> str:
        """Where an MLflow server shows the trials; empty while MLflow does not know them."""
        if self.delivery.experiment_id is None:
            return ""
        view = f"viewStateShareKey={self.study_id}"
        return f"/#/experiments/{self.delivery.experiment_id}/runs?{view}"

    @property
    def name(self) -> str:
        """The name of the study's folder."""
        return self.folder.name

    @property
    def is_finished(self) -> bool:
        """The search came to its own end."""
        return not self.is_running and self.stopped_by is None

    @cached_property
    def summary(self) -> "Summary":
        """The scores of what is recommended and of the baselines, and how the trials ended."""
        from hypertune.analysis import summarize

        return summarize(self.folder)

    @cached_property
    def data(self) -> "StudyData":
        """Its frames and its space, as the figures of `hypertune.analysis` take them."""
        from hypertune.analysis import load

        return load(self.folder)

    @cached_property
    def best(self) -> dict[str, Any] | None:
        """The recommended config, nested as the space is; None if no trial has a result yet.

        It is without the study's fixed values. A study takes it as its ``default``;
        ``train({**study.fixed, **result.best, ...}, report)`` trains it again.
        """
        if self.summary.best is None:
            return None
        space = Space.from_plain(self.summary.study["parameters"])
        config, fixed = self.summary.best.config, self.summary.study["fixed"]
        best = {name: value for name, value in config.items() if name not in fixed}
        return best if space.problems(best) else space.nest(space.flatten(best))

    @property
    def trials(self) -> "pd.DataFrame":
        """All trials, one row each; the columns are listed at the top of `analysis.frames`."""
        return self.data.trials

    @property
    def curves(self) -> "pd.DataFrame":
        """The learning curves: one row a trial and epoch, one column a metric."""
        return self.data.curves

    @cached_property
    def verdict(self) -> "Verdict":
        """What the study allows to be said about its question; ``.headline`` is the answer."""
        from hypertune.analysis import judge

        return judge(self.data)

    @property
    def report(self) -> Path:
        """The page of its report, which is written now if there is none.

        Raises:
            SettingError: The folder cannot be written to.
        """
        page = self.folder / "report" / "report.html"
        if page.is_file():
            return page
        from hypertune.analysis import write_report

        return write_report(self.folder)

    def model(
        self,
        trial: int | None = None,
        *,
        space: "Study | str | None" = None,
        device: str = "cpu",
        trust: bool = False,
    ) -> "TrainedModel":
        """Return the best model, with its weights and a ``predict`` where its task has one.

        Args:
            trial: A trial whose checkpoint is kept; None for the recommended one.
            space: The study, its name or its file, where that has moved. A `Study` that no file
                defines is needed again.
            device: Where the model is to be, such as ``cuda``.
            trust: Run the study's file although the study was not begun on this machine.

        Raises:
            HypertuneError: There is no such trial or checkpoint, or the study's file has changed.
        """
        from hypertune.engine.saved_model import load_model

        return load_model(self.folder, trial=trial, space=space, device=device, trust=trust)

    def __repr__(self) -> str:
        try:
            view = self._view()
        except HypertuneError as error:
            return printable(f"{self.name}: {error}")
        lines = [f"{view['name']} ({view['state']})", *_wrapped(view["question"], "  "), ""]
        for sentence in view["verdict"][:_MOST_SENTENCES]:
            lines += _wrapped(sentence, "  ", most=3)
        lines += [""] if view["verdict"] else []
        width = min(_KEY_WIDTH, max((len(key) for key, _ in view["rows"]), default=0))
        for key, text in view["rows"]:
            lines += _wrapped(text, f"  {printable(key)[:width]:{width}}  ", most=3)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the same for a notebook: in its colours, with nothing loaded from elsewhere."""
        from hypertune.analysis.report import environment

        try:
            view = self._view()
        except HypertuneError as error:
            view = {"name": self.name, "state": str(error), "question": "", "verdict": []}
            view["rows"] = []
        return environment(html=True).get_template("result.html.j2").render(r=view)

    def _view(self) -> dict[str, Any]:
        """Return what both views show, as texts."""
        from hypertune.analysis import read_headline

        summary = self.summary
        headline = read_headline(self.folder)
        if "verdict" in self.__dict__:
            headline = self.verdict.headline
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(summary.reasons.items()))
        n_full = sum(summary.reasons.get(reason, 0) for reason in FULL)
        rows = [
            (score.label, f"{self._score(score)} (trial {score.trial})")
            for score in summary.scores[:_MOST_SCORES]
        ]
        if self.best is not None:
            texts = [f"{key}={_number(value)}" for key, value in flat_names(self.best).items()]
            rows.append(("best config", ", ".join(texts)))
        rows += [
            ("trials", f"{sum(summary.reasons.values())} searched, {n_full} in full ({counts})"),
            ("epochs", f"{summary.n_epochs} in {summary.seconds:.0f} s"),
        ]
        if (self.folder / "report" / "report.html").is_file():
            rows.append(("report", str(self.report)))
        for key, text in (("error", self.error), ("warning", self.warning)):
            rows += [] if text is None else [(key, text)]
        if not self.is_finished and not self.is_running:
            more = ', time_budget_s="10m"' if self.stopped_by == "time budget" else ""
            rows.append(("to go on", f'hypertune.resume("{self.folder}"{more})'))
        return {
            "name": self.name,
            "state": self._state,
            "question": summary.study["question"],
            "verdict": [] if headline is None else headline.splitlines(),
            "rows": rows,
        }

    @property
    def _state(self) -> str:
        if self.is_running:
            return "running"
        return "finished" if self.stopped_by is None else f"ended early by {self.stopped_by}"

    def _score(self, score: "Score") -> str:
        study = self.summary.study
        parts = [f"{study['metric']} {_number(score.validation)}"]
        if score.fresh is not None:
            parts.append(f"{_number(score.fresh)} on {score.n_fresh} fresh seeds")
        if score.test is not None:
            parts.append(f"{study['test_metric']} {_number(score.test)}")
        return ", ".join(parts)


def is_finished(folder: Path, *, n_trials: int | None = None) -> bool:
    """Say whether a study has come to its own end.

    Args:
        folder: The study's folder.
        n_trials: A total of trials that is asked for now; more than the study had are not done.

    Raises:
        JournalError: There is no readable journal.
    """
    if is_under_way(folder):
        return False
    history = StudyHistory.read(folder)
    end = history.last_end
    more = n_trials is not None and n_trials > (history.study.get("n_trials") or 0)
    return end is not None and end.data.get("stopped_by") is None and not more


def note_report(folder: Path) -> None:
    """Journal that a report was written, so that the next delivery brings it to MLflow.

    A driver that is at work writes and delivers one of its own.
    """
    with (
        contextlib.suppress(SettingError),
        locked(folder),
        contextlib.closing(Journal(folder / "journal.db")) as journal,
    ):
        journal.add_event("report")


def read_result(folder: Path, *, tracking_uri: str | None = None) -> StudyResult:
    """Return how a study stands, by what lies in its folder.

    Args:
        folder: The study's folder.
        tracking_uri: Of another MLflow than the study's own.

    Raises:
        JournalError: There is no readable journal.
    """
    history = StudyHistory.read(folder)
    about = history.study
    changes = {} if tracking_uri is None else {"tracking_uri": tracking_uri}
    # Of the settings only what says where MLflow is: a searcher of one's own may be gone.
    record = {"tracking_uri": about["settings"].get("tracking_uri")}
    store = Settings.recorded(record, folder, **changes).store
    is_running = is_under_way(folder)
    last = {"stopped_by": "kill"} if history.last_end is None else history.last_end.data
    return StudyResult(
        folder=folder,
        stopped_by=None if is_running else last.get("stopped_by"),
        error=last.get("error"),
        warning=None,
        store=store,
        delivery=delivered(folder / "journal.db", store),
        study_id=about["study_id"],
        is_running=is_running,
    )


def _wrapped(text: str, start: str, *, most: int = 3) -> list[str]:
    """Return the lines of a text; what would take more than so many is cut."""
    return textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        max_lines=most,
        placeholder=" ...",
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
