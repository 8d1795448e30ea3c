"""What the terminal shows: the plan, the search under way, and what it found."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text as RichText

from hypertune.analysis import Comparison, Score, Summary
from hypertune.core.task import RESERVED
from hypertune.core.text import printable, redact
from hypertune.engine import Explanation, Outcome, Progress, Rerun
from hypertune.journal.store import FULL, flat_names
from hypertune.plan import Plan
from hypertune.search.methods import METHODS
from hypertune.settings import Settings
from hypertune.studies.lr_range import LearningRates
from hypertune.studies.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from hypertune.cluster import Job, Request

_PLAIN_EVERY_S = 10.0
_STAGES = {
    "start": "starting Ray",
    "search": "searching",
    "repeat": "running the best again on fresh seeds",
    "look": "looking at what is decided",
    "test": "opening the test part",
    "report": "writing the report",
    "mlflow": "bringing MLflow up to date",
}


class Text(RichText):
    """Text from outside: control characters in it are spelled out, and take their room so."""

    def __init__(self, text: str = "", style: str = "") -> None:
        super().__init__(printable(text), style)


class _Console(Console):
    """Shows text as it is: no markup or emoji in it counts, and no escape reaches the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:  # of rich itself
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Fall silent when nobody listens any more (``| head``), where rich would exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Return a console for standard output; outside a terminal, lines are not cut to 80 columns."""
    width = None if sys.stdout.isatty() else 200
    return _Console(highlight=False, markup=False, emoji=False, width=width, soft_wrap=True)


class Display:
    """Shows how a search is going: live in a terminal, by a plain line now and then elsewhere.

    Call it with a `Progress`; use it as a context manager.
    """

    def __init__(self, out: Console) -> None:
        self._out = out
        self._live: Live | None = None
        self._stage, self._said, self._warned, self._noted = "", 0.0, "", False
        if out.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._task = self._bar.add_task("checking", total=None, left="")
            self._text = Text()
            self._live = Live(Group(self._bar, self._text), console=out, transient=True)

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        if progress.note and not self._noted:
            self._noted = True
            self._out.print(Text(progress.note))
        stage = _STAGES[progress.stage]
        left = seconds_left(progress)
        text = _progress_text(progress)
        if self._live is not None:
            # Whoever attaches later sees the time of the search, not of the looking.
            began = self._bar.get_time() - (time.monotonic() - progress.started)
            self._bar.tasks[0].start_time = began
            self._bar.update(
                self._task,
                description=stage,
                completed=progress.n_epochs,
                total=max(progress.planned_epochs, progress.n_epochs),
                left="" if left is None else f"about {duration(left)} left",
            )
            self._text.plain = f"{text}\n{progress.warning}" if progress.warning else text
            return
        if progress.warning and progress.warning != self._warned:
            self._warned = progress.warning
            self._out.print(f"Warning: {progress.warning}")
        if stage == self._stage and time.monotonic() - self._said < _PLAIN_EVERY_S:
            return
        self._stage, self._said = stage, time.monotonic()
        if progress.stage == "start":
            self._out.print("Starting Ray ...")
            return
        took = duration(time.monotonic() - progress.started)
        more = "" if left is None else f", about {duration(left)} left"
        self._out.print(f"{took} {stage}: {text}{more}")


def seconds_left(progress: Progress) -> float | None:
    """Return the expected time to the end of the search; None while it cannot be told."""
    now = time.monotonic()
    if progress.stage not in ("search", "repeat") or progress.n_epochs < 3:
        return None
    # An upper estimate: trials that converge end earlier.
    rate = (now - progress.started) / progress.n_epochs
    left = max(0.0, (progress.planned_epochs - progress.n_epochs) * rate)
    return left if progress.deadline is None else min(left, max(0.0, progress.deadline - now))


def _progress_text(progress: Progress) -> str:
    ended = [f"{n} {reason}" for reason, n in sorted(progress.n_ended.items()) if n]
    counts = [f"{progress.n_started}/{progress.n_trials} trials", f"{progress.n_running} running"]
    if progress.stage == "repeat":
        of = "" if progress.n_again_due is None else f"/{progress.n_again_due}"
        counts, ended = [f"{progress.n_again}{of} runs", counts[1]], []
    elif progress.n_waiting:
        counts.append(f"{progress.n_waiting} waiting")
    text = ", ".join(counts + ended)
    if progress.best is not None:
        text += f"; best {progress.metric} {progress.best:.4g} (trial {progress.best_trial})"
    return text


def show_plan(out: Console, study: Study, settings: Settings, plan: Plan) -> None:
    """Print what a run would do."""
    if plan.note:
        out.print(Text(plan.note))
    out.print(Text(study.question, style="bold"))
    table = Table(box=None, pad_edge=False)
    table.add_column("parameter")
    table.add_column("values")
    for name, rule in plan.parameters:
        factor = name in study.factors
        table.add_row(Text(f"{name}{' (factor)' if factor else ''}"), Text(rule))
    out.print(table)
    size = "infinitely many" if plan.n_configs is None else f"{plan.n_configs:,}"
    share = plan.n_epochs / plan.max_epochs
    # What a scheduler of Ray's saves cannot be played through beforehand.
    about = "about" if METHODS[settings.method].ray is None else "at most"
    factors = " and ".join(settings.compared(study))
    again = f"the best of each level or range of {factors}" if factors else "the best two"
    rows = [
        ("space", f"{size} configs"),
        ("fixed", ", ".join(f"{k}={v}" for k, v in flat_names(study.fixed).items()) or "nothing"),
        *_constraints(study, plan),
        ("data", study.trainable.data),
        ("method", settings.method),
        ("goal", goal_text(study, settings)),
        (
            "budget",
            f"{plan.n_trials} trials of up to {plan.max_epochs} epochs; {about} {plan.n_epochs} "
            f"epochs in all, as much as {share:.3g} trials in full; then the default, and it and "
            f"{again} on {settings.of(study).n_repeats} fresh seeds: {plan.n_again} at most",
        ),
        ("at a time", f"{plan.n_concurrent} trials"),
        ("study", f"{plan.folder}"),
        ("MLflow", plan.store),
        ("disk", f"{_size(plan.free_bytes)} free"),
    ]
    if plan.n_repeated:
        rows.append(
            (
                "again",
                f"about {plan.n_repeated} epochs on top: the trainable saves no checkpoints, so a "
                "promoted trial trains again from the start",
            )
        )
    if plan.fresh_s is not None:
        least = plan.n_trials * plan.fresh_s / plan.n_concurrent
        rows.append(
            (
                "fresh workers",
                f"each stretch of a trial begins a process, about {plan.fresh_s:g} s: at least "
                f"{duration(least)} in all for {plan.n_trials} trials, {plan.n_concurrent} at a "
                "time, and as much again for each promotion and each run on a fresh seed",
            )
        )
    if settings.time_budget_s is not None:
        rows.append(("time budget", duration(settings.time_budget_s)))
    if settings.until_decided:
        rows.append(
            (
                "goes on",
                "until each factor is decided or the time is up: after each look up to twice as "
                "many repeats of the levels that are not told apart, or twice as many trials",
            )
        )
    if plan.probe is not None:
        probe = plan.probe
        low, high = min(probe.epoch_s), max(probe.epoch_s)
        rows += [
            ("probe", f"{low:.2g} to {high:.2g} s an epoch in three short trials"),
            ("checkpoints", f"{_size(probe.checkpoint_bytes * plan.n_trials)} at most"),
            ("expected time", f"about {duration(probe.total_s)}"),
        ]
    _pairs(out, rows)
    out.print("Nothing was started.")


def goal_text(study: Study, settings: Settings) -> str:
    """Say what a search is for, and what that means for it."""
    if not settings.compared(study):
        return "best: a trial goes on by its rank among all, and the best ones run again"
    factor = study.fair_factor
    if factor is None:
        return (
            f"answer: the best of each level or range of {' and '.join(study.factors)} run again; "
            f"a trial goes on by its rank among all ({study.why_not_fair})"
        )
    levels = ", ".join(map(str, factor.choices))
    return (
        f"answer: the levels of {factor.name} ({levels}) get equal budgets, a trial goes on by its "
        "rank within its level, and the best of each run again"
    )


def _constraints(study: Study, plan: Plan) -> list[tuple[str, str]]:
    if not study.constraints:
        return []
    rules = ", ".join(f"{name} {rule}" for name, rule in study.constraint_texts.items())
    return [("constraints", f"{rules}; {plan.feasible:.0%} of random configs keep them")]


def show_summary(
    out: Console, summary: Summary, outcome: Outcome, headline: str | None = None
) -> None:
    """Print what a study found; ``headline`` is the report's verdict in brief."""
    study = summary.study
    out.print()
    out.print(Text(study["question"], style="bold"))
    if headline is not None:
        for sentence in headline.splitlines():
            out.print(Text(sentence))
        out.print()
    _show_best(out, summary)
    _show_scores(out, summary)
    for sentence in summary.verdicts:
        out.print(Text(sentence))
    if headline is None:
        text = "One search with one seed does not tell what is luck: read differences with caution."
        out.print(Text(text, style="dim"))
    out.print()
    counts = ", ".join(f"{n} {reason}" for reason, n in sorted(summary.reasons.items()))
    n_full = sum(summary.reasons.get(reason, 0) for reason in FULL)
    n_trials = sum(summary.reasons.values())
    rows = [
        ("trials", f"{n_trials} searched, {n_full} of them to the end ({counts})"),
        ("epochs", f"{summary.n_epochs} in {duration(summary.seconds)}"),
        ("journal", f"{outcome.folder / 'journal.db'}"),
        ("report", _report_text(outcome)),
        ("MLflow", _mlflow_text(outcome)),
    ]
    if outcome.under_way:
        rows.insert(0, ("state", "under way"))
    if outcome.stopped_by is not None:
        rows.insert(0, ("ended early", f"by {outcome.stopped_by}; all that was measured is kept"))
    if summary.n_looks:
        rows.append(("test part", f"opened {summary.n_looks} time{'s'[: summary.n_looks > 1]}"))
    if outcome.warning is not None:
        rows.append(("warning", outcome.warning))
    rows += [("set aside", text) for text in summary.set_aside]
    rows += [("failed", f"trial {trial}: {text}") for trial, text in summary.failures[:5]]
    if len(summary.failures) > 5:
        rows.append(("", f"and {len(summary.failures) - 5} more"))
    if summary.failures:
        trial, _ = summary.failures[0]
        rows.append(("", f"with its traceback: hypertune explain {outcome.folder.name} {trial}"))
    if outcome.error is not None:
        rows.insert(0, ("error", outcome.error))
    _pairs(out, rows)
    _show_next(out, outcome)


def show_undecided(out: Console, left: Sequence[str]) -> None:
    """Print whether a study that was to go on until all is decided has come to that."""
    out.print()
    if not left:
        out.print("Every factor of the question is decided.", style="bold")
        return
    out.print("Left undecided:", style="bold")
    for text in left:
        out.print(Text(f"  {text}"))


def _show_best(out: Console, summary: Summary) -> None:
    if summary.best is None:
        out.print("No trial gave a result.")
        return
    searched = {k: v for k, v in summary.best.config.items() if k not in summary.study["fixed"]}
    config = ", ".join(f"{k}={_number(v)}" for k, v in flat_names(searched).items())
    out.print(Text(f"Recommended configuration (trial {summary.best.id}): {config}"))
    if summary.n_mutations:
        out.print(
            "It began with this one, which was changed on the way "
            f"({summary.n_mutations} time{'s'[: summary.n_mutations > 1]}): "
            f"hypertune explain {summary.study['name']} {summary.best.id}"
        )
    first = next((score for score in summary.scores if score.n_fresh), None)
    if first is not None and summary.incumbent != summary.best.id:
        out.print(
            f"The best of the search was trial {summary.incumbent}; on {first.n_fresh} fresh seeds "
            "this one is better on average."
        )
    if summary.best.role == "replicate":
        out.print("The search did not train it to the end; the fresh seeds show its worth.")
    if not summary.full:
        out.print("No trial was trained in full: this is the best of those that got furthest.")


def _show_scores(out: Console, summary: Summary) -> None:
    study = summary.study
    if not summary.scores:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("trial", justify="right")
    table.add_column("epoch", justify="right")
    table.add_column(study["metric"], justify="right")
    table.add_column("fresh seeds", justify="right")
    table.add_column(study["test_metric"] or "test", justify="right")
    further = study.get("further_test_metrics", {})
    for metric in further.values():
        table.add_column(metric, justify="right")
    for score in summary.scores:
        table.add_row(
            Text(score.label),
            str(score.trial),
            str(score.epoch) if score.epoch else "",
            f"{score.validation:.4f}",
            "" if score.fresh is None else f"{score.fresh:.4f} ({score.n_fresh})",
            Text(_test_text(score)),
            *(f"{score.further[name]:.4f}" if name in score.further else "" for name in further),
        )
    out.print(table)


def _test_text(score: Score) -> str:
    if score.test is not None:
        return f"{score.test:.4f}"
    return "not opened" if score.failure is None else f"failed: {score.failure}"


def _report_text(outcome: Outcome) -> str:
    page = outcome.folder / "report" / "report.html"
    return str(page) if page.is_file() else f"hypertune report {outcome.folder.name}"


def _mlflow_text(outcome: Outcome) -> str:
    delivery = outcome.delivery
    if delivery.warning:
        return delivery.warning
    if delivery.pending:
        return f"{delivery.pending} records are not delivered yet"
    return "up to date"


def _show_next(out: Console, outcome: Outcome) -> None:
    delivery, folder, store = outcome.delivery, outcome.folder, outcome.store
    flags = "" if folder.parent == Path("studies") else f" --studies-dir {folder.parent}"
    if outcome.stopped_by is not None:
        out.print()
        out.print("Go on with it:", style="bold")
        more = " --time-budget 10m" if outcome.stopped_by == "time budget" else ""
        out.print(f"  hypertune resume {folder.name}{more}{flags}")
    if delivery.pending != 0 and not outcome.under_way:
        out.print()
        out.print("Deliver the rest to MLflow:", style="bold")
        login = f" --tracking-uri {redact(store)}" if "***" in redact(store) else ""
        out.print(f"  hypertune sync {folder.name}{login}{flags}")
    if (events := folder / "tensorboard").is_dir() and not outcome.under_way:
        out.print()
        out.print("See weights and activations in TensorBoard:", style="bold")
        out.print(f"  tensorboard --logdir {events}")
    if not outcome.page:
        return
    out.print()
    out.print("See all trials in MLflow:", style="bold")
    if store.startswith(("http:", "https:")):
        out.print(f"  {redact(store).rstrip('/')}{outcome.page}")
    else:
        login = f" --tracking-uri {redact(store)}" if "***" in redact(store) else ""
        out.print(f"  hypertune ui {folder.name}{login}{flags}")


def show_studies(
    out: Console, studies: Iterable[tuple[Summary, Outcome]], broken: Mapping[str, str]
) -> None:
    """Print which studies there are, and by name why others cannot be shown."""
    table = Table(box=None, pad_edge=False)
    for column in ("study", "question", "method", "trials", "best", "state"):
        table.add_column(column, overflow="fold")
    for summary, outcome in studies:
        about = summary.study
        best = next((s for s in summary.scores if s.label == "best"), None)
        table.add_row(
            outcome.folder.name,
            Text(about["question"]),
            about["method"],
            f"{sum(summary.reasons.values())}/{about['n_trials']}",
            "" if best is None else f"{about['metric']} {best.validation:.4f}",
            _state(outcome),
        )
    if table.row_count or not broken:
        out.print(table if table.row_count else "There is no study yet.")
    for name, why in broken.items():
        out.print(Text(f"{name}: {why}", style="yellow"))


def _state(outcome: Outcome) -> str:
    if outcome.under_way:
        return "under way"
    return "finished" if outcome.stopped_by is None else f"ended early by {outcome.stopped_by}"


def show_trials(out: Console, trials: "pd.DataFrame") -> None:
    """Print a study's trials."""
    columns = ["trial", "role", "reason", "epochs", "value", "best_epoch", "test", "cost_s"]
    if trials["n_mutations"].any():
        columns.append("n_mutations")
    columns += [name for name in trials.columns if name.startswith("config.")]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        number = name in ("trial", "epochs", "value", "best_epoch", "test", "cost_s", "n_mutations")
        title = name.removeprefix("config.")
        table.add_column(Text(title), justify="right" if number else "left", no_wrap=True)
    shown = trials[columns].astype(object).where(trials[columns].notna(), None)
    for row in shown.itertuples(index=False):
        table.add_row(*(Text("" if value is None else _number(value)) for value in row))
    out.print(table)


def show_explanation(out: Console, known: Explanation) -> None:
    """Print why a trial is what it is."""
    trial, metric = known.trial, known.metric
    values = ", ".join(f"{k}={_number(v)}" for k, v in flat_names(trial.config).items())
    rows = [
        ("trial", f"{trial.id} ({trial.role}), seed {trial.seed}"),
        ("config", values),
        ("proposed", known.why),
    ]
    if known.expected is not None:
        rows.append(("expected", f"{metric} of about {known.expected:.4g} in full"))
    if known.best is not None:
        rows.append(("best", f"{metric} {known.best[0]:.4g} at epoch {known.best[1]}"))
    for change in known.mutations:
        now = ", ".join(f"{k}={_number(v)}" for k, v in flat_names(change["config"]).items())
        rows.append(
            (
                f"after epoch {change['epoch']}",
                f"it took over trial {change['from_trial']} as it was after epoch "
                f"{change['from_epoch']}, and went on with {now}",
            )
        )
    for c in known.comparisons:
        cut_off = "" if c.cut_off is None else f" with {c.cut_off:.4g} or better"
        verdict = "among" if c.rank <= c.n_go_on else "not among"
        before = known.stretches and known.stretches[-1].reached > c.epoch
        then = "; it had gone on before" if before and c.rank > c.n_go_on else ""
        within = f" with {c.among}" if c.among else ""
        rows.append(
            (
                f"at epoch {c.epoch}",
                f"{c.loss:.4g} is by now rank {c.rank} of {c.n}{within}: {verdict} the {c.n_go_on} "
                f"that go on{cut_off}{then}",
            )
        )
    detail = (trial.detail or "").splitlines()
    ended = trial.state if trial.reason is None else trial.reason
    rows.append(("ended", f"{ended}: {detail[0]}" if detail else ended))
    seconds = sum(s.seconds for s in known.stretches)
    epochs = sum(s.reached - s.from_epoch for s in known.stretches)
    if known.stretches:
        jobs = ", ".join(f"{s.from_epoch} to {s.reached}" for s in known.stretches)
        rows.append(("cost", f"{epochs} epochs in {duration(seconds)} (epochs {jobs})"))
    if known.n_lost:
        rows.append(("lost", f"its worker died, or had no memory left, {known.n_lost} times"))
    rows += [("damaged", text) for text in known.damaged]
    if known.left:
        rows.append(("left", "; ".join(known.left)))
    _pairs(out, rows)
    for line in detail[1:]:
        out.print(Text(f"  {line}"))


def epoch_line(out: Console) -> Callable[[int, Mapping[str, float]], None]:
    """Return a function that prints an epoch and its metrics."""

    def show(epoch: int, metrics: Mapping[str, float]) -> None:
        values = "  ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        out.print(Text(f"epoch {epoch:3}  {values}"))

    return show


def show_rerun(out: Console, again: Rerun) -> None:
    """Print whether a trial that was run again is the same."""
    before, after = again.values
    if again.source_changed:
        out.print("The study's file was changed since the study began.")
    if again.failure is not None:
        out.print(Text(f"It failed after {again.n_epochs} epochs: {again.failure}"))
    elif not again.same_seed:
        out.print(
            f"{again.metric} at epoch {again.n_epochs}: {after:.6g}, with the first seed "
            f"{before:.6g}."
        )
    elif again.differs is None:
        out.print(f"All {again.n_epochs} epochs are the same to the last digit.")
    else:
        out.print(
            f"From epoch {again.differs} on the numbers differ; {again.metric} in the end: "
            f"{after!r} against {before!r}. Versions, machine or code have changed, or the "
            "training is not deterministic."
        )
    out.print(f"Journaled as trial {again.trial}.")


def on_cluster(
    out: Console, show: Callable[[Progress], None]
) -> Callable[[Progress | None, "Job"], None]:
    """Return what shows a job's search, and before that begins, what the job waits for."""
    said = ""

    def look(progress: Progress | None, job: "Job") -> None:
        nonlocal said
        if progress is not None:
            show(progress)
        elif job.message != said:
            said = job.message
            out.print(Text(f"{job.status.lower()}: {said}"))

    return look


def show_sent(out: Console, places: Sequence[tuple[str, str]], job: str, address: str) -> None:
    """Print what was sent, and how to follow it."""
    out.print(Text(f"Sent as job {job}.", style="bold"))
    _pairs(out, places)
    out.print()
    show_left(out, job, address)


def show_left(out: Console, job: str, address: str) -> None:
    """Print how to come back to a job that goes on by itself."""
    out.print("It goes on without this terminal. Come back, look, or end it:", style="bold")
    for command in ("attach", "logs -f", "stop"):
        out.print(f"  hypertune {command} {job} --address {address}", markup=False)


def show_job_plan(
    out: Console, places: Sequence[tuple[str, str]], command: str, env: Mapping[str, Any]
) -> None:
    """Print what would be sent to a Ray cluster."""
    _pairs(out, [*places, ("command", command)])
    for name, value in env.items():
        if name != "working_dir":
            _pairs(out, [(name, str(value))])
    out.print("Nothing was sent.")


def show_ended(out: Console, job: "Job", words: str) -> None:
    """Print how a job ended, and its last words."""
    out.print(Text("What it said at its end; folders and commands are those of its node:"))
    out.print()
    out.print(Text(words))
    code = "" if job.exit_code is None else f", exit status {job.exit_code}"
    out.print()
    out.print(Text(f"Job {job.id}: {job.status}{code}.", style="bold"))
    if job.status != "SUCCEEDED":
        begun = "" if job.status == "STOPPED" else " if its search had begun"
        out.print(
            Text(
                f"The study can go on{begun}: submit it again with --name {job.study} "
                "--or-resume, the same files and the same --studies-dir."
            )
        )


def show_jobs(out: Console, jobs: Sequence["Job"]) -> None:
    """Print the studies that were sent to a cluster."""
    table = Table(box=None, pad_edge=False)
    for column in ("job", "study", "status", "since", "took", "question"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        began = job.started_s
        since = "" if began is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(began))
        took = "" if began is None else duration((job.ended_s or time.time()) - began)
        table.add_row(
            *(Text(t) for t in (job.id, job.study, job.status, since, took, job.question))
        )
    out.print(table if table.row_count else "No study was sent to this cluster.")


def show_batch(out: Console, request: "Request", script: Path, number: str) -> None:
    """Print what was handed to SLURM, and how to follow it."""
    out.print(Text(f"Sent as batch job {number}, study {request.name}.", style="bold"))
    rows = [
        ("script", f"{script}: sbatch takes it again, and the study goes on"),
        ("log", f"tail -f {request.name}-{number}.log"),
        ("end it", f"scancel --batch --signal=USR1 {number}: cleanly, and for good"),
        ("results", f"studies/{request.name}, when a run of the job has ended"),
    ]
    if request.settings.tracking_uri is None:
        rows.append(("MLflow", f"hypertune sync {request.name} then; or give --tracking-uri"))
    _pairs(out, rows)


def show_comparison(out: Console, comparison: Comparison) -> None:
    """Print studies side by side."""
    table = Table(box=None, pad_edge=False)
    table.add_column("study")
    for name in comparison.table.columns:
        title = f"best after {comparison.n_epochs} epochs" if name == "best_at_equal_cost" else name
        table.add_column(title, justify="right")
    for study, row in comparison.table.iterrows():
        cells = ["" if value != value else _number(value) for value in row]
        table.add_row(Text(str(study)), *(Text(cell) for cell in cells))
    out.print(table)
    out.print(Text("Best values are those of trials in full.", style="dim"))
    for sentence in comparison.sentences:
        out.print(Text(sentence))


def show_list(
    out: Console,
    studies: Iterable[Study],
    methods: Sequence[tuple[str, str]],
    data_sets: Sequence[tuple[str, str]],
    missing: Mapping[str, str],
) -> None:
    """Print what there is to run.

    Args:
        out: Where to.
        studies: The studies.
        methods: Names and what they are.
        data_sets: The same.
        missing: By data set that is not here: how to get it.
    """
    table = Table(title="Studies (--space)", title_justify="left", box=None, pad_edge=False)
    for column in ("name", "question", "factors", "goal", "data", "budget"):
        table.add_column(column, overflow="fold")
    for study in studies:
        budget = f"{study.n_trials} trials of up to {study.max_epochs} epochs"
        factors = ", ".join(study.factors)
        fair = study.fair_factor if study.goal == "answer" else None
        goal = study.goal if fair is None else f"{study.goal} ({fair.name})"
        data = study.trainable.data
        needed = Text(f"{data}\nneeds: {missing[data]}", "yellow") if data in missing else data
        table.add_row(study.name, study.question, factors, goal, needed, budget)
    out.print(table)
    for title, rows in (("Methods (--method)", methods), ("Data sets", data_sets)):
        out.print()
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("name")
        table.add_column("")
        for row in rows:
            table.add_row(*row)
        out.print(table)


def show_lr_range(out: Console, study: Study, found: LearningRates, picture: Path) -> None:
    """Print what a learning-rate range test found."""
    config = {k: v for k, v in found.config.items() if k not in (*RESERVED, "learning_rate")}
    rows = [("config", ", ".join(f"{k}={_number(v)}" for k, v in flat_names(config).items()))]
    if len(found.rates):
        span = f"{found.rates[0]:.1e} to {found.rates[-1]:.1e}"
        rows.append(("rates", f"{span} in {len(found.rates)} batches"))
    if found.line is None:
        rows.append(("loss", "it does not fall at any rate: more batches, or another model?"))
    else:
        rows.append(
            (
                "loss",
                f"it falls from {found.low:.1e} on, fastest at {found.steepest:.1e}, and is lowest "
                f"at {found.high:.1e}",
            )
        )
    rows.append(
        ("diverges", "not in this range" if found.diverged is None else f"at {found.diverged:.1e}")
    )
    rows += [
        ("the space", f"has {parameter.rule()}")
        for parameter in study.search_space.parameters
        if parameter.name == "learning_rate"
    ]
    rows.append(("picture", str(picture)))
    _pairs(out, rows)
    if found.line is not None:
        out.print()
        out.print(f"One rate: {found.steepest:.1e}. As a range, for the space:", style="bold")
        out.print(f"  {found.line}")


def _pairs(out: Console, rows: Iterable[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(Text(key, style="bold"), Text(value))
    out.print(table)


def duration(seconds: float) -> str:
    """Return a time to read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            return f"{n_bytes:.3g} {unit}" if unit != "GB" else f"{n_bytes:.0f} GB"
        n_bytes /= 1000
    raise AssertionError


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
