"""What a study found."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hypertune.analysis import Score, Summary
from hypertune.cli.display.console import Text, duration, number_text, pairs
from hypertune.core.text import redact
from hypertune.engine import StudyResult
from hypertune.journal.store import FULL, flat_names


def show_summary(
    out: Console, summary: Summary, result: StudyResult, headline: str | None = None
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
        text = "One search with one seed cannot tell effect from luck: be careful with differences."
        out.print(Text(text, style="dim"))
    out.print()
    counts = ", ".join(f"{n} {reason}" for reason, n in sorted(summary.reasons.items()))
    n_full = sum(summary.reasons.get(reason, 0) for reason in FULL)
    n_trials = sum(summary.reasons.values())
    rows = [
        ("trials", f"{n_trials} searched, {n_full} of them to the end ({counts})"),
        ("epochs", f"{summary.n_epochs} in {duration(summary.seconds)}"),
        ("journal", f"{result.folder / 'journal.db'}"),
        ("report", _report_text(result)),
        ("MLflow", _mlflow_text(result)),
    ]
    if result.is_running:
        rows.insert(0, ("state", "under way"))
    if result.stopped_by is not None:
        rows.insert(0, ("ended early", f"by {result.stopped_by}; all that was measured is kept"))
    if summary.n_looks:
        rows.append(("test part", f"opened {summary.n_looks} time{'s'[: summary.n_looks > 1]}"))
    if result.warning is not None:
        rows.append(("warning", result.warning))
    rows += [("set aside", text) for text in summary.set_aside]
    rows += [("failed", f"trial {trial}: {text}") for trial, text in summary.failures[:5]]
    if len(summary.failures) > 5:
        rows.append(("", f"and {len(summary.failures) - 5} more"))
    if summary.failures:
        trial, _ = summary.failures[0]
        rows.append(("", f"with its traceback: hypertune explain {result.folder.name} {trial}"))
    if result.error is not None:
        rows.insert(0, ("error", result.error))
    pairs(out, rows)
    _show_next(out, result)


def show_undecided(out: Console, left: Sequence[str]) -> None:
    """Print whether a study that was to go on until all is decided has come to that."""
    out.print()
    if not left:
        out.print("Every factor of the question is decided.", style="bold")
        return
    out.print("Not decided:", style="bold")
    for text in left:
        out.print(Text(f"  {text}"))


def _show_best(out: Console, summary: Summary) -> None:
    if summary.best is None:
        out.print("No trial gave a result.")
        return
    searched = {k: v for k, v in summary.best.config.items() if k not in summary.study["fixed"]}
    config = ", ".join(f"{k}={number_text(v)}" for k, v in flat_names(searched).items())
    out.print(Text(f"Recommended configuration (trial {summary.best.id}): {config}"))
    if summary.n_mutations:
        out.print(
            "The trial began with this configuration, and the scheduler changed it "
            f"{summary.n_mutations} time{'s'[: summary.n_mutations > 1]}: "
            f"hypertune explain {summary.study['name']} {summary.best.id}"
        )
    first = next((score for score in summary.scores if score.n_fresh), None)
    if first is not None and summary.incumbent != summary.best.id:
        out.print(
            f"The best of the search was trial {summary.incumbent}; on {first.n_fresh} fresh seeds "
            "this one is better on average."
        )
    if summary.best.role == "replicate":
        out.print("The search stopped it early; its runs on fresh seeds were trained in full.")
    if not summary.full:
        out.print("No trial was trained in full: this is the best of those that trained longest.")


def _show_scores(out: Console, summary: Summary) -> None:
    study = summary.study
    if not summary.scores:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("trial", justify="right")
    table.add_column("epoch", justify="right")
    table.add_column(study["metric"], justify="right", overflow="fold")
    table.add_column("fresh seeds", justify="right")
    table.add_column(study["test_metric"] or "test", justify="right", overflow="fold")
    further = study.get("further_test_metrics", {})
    for metric in further.values():
        table.add_column(metric, justify="right", overflow="fold")
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


def _report_text(result: StudyResult) -> str:
    page = result.folder / "report" / "report.html"
    return str(page) if page.is_file() else f"hypertune report {result.folder.name}"


def _mlflow_text(result: StudyResult) -> str:
    delivery = result.delivery
    if delivery.warning:
        return delivery.warning
    if delivery.pending:
        return f"{delivery.pending} records are not delivered yet"
    return "up to date"


def _show_next(out: Console, result: StudyResult) -> None:
    delivery, folder, store = result.delivery, result.folder, result.store
    flags = "" if folder.parent == Path("studies") else f" --studies-dir {folder.parent}"
    if result.stopped_by is not None:
        out.print()
        out.print("Resume it:", style="bold")
        more = " --time-budget 10m" if result.stopped_by == "time budget" else ""
        out.print(f"  hypertune resume {folder.name}{more}{flags}")
    if delivery.pending != 0 and not result.is_running:
        out.print()
        out.print("Deliver the rest to MLflow:", style="bold")
        login = f" --tracking-uri {redact(store)}" if "***" in redact(store) else ""
        out.print(f"  hypertune sync {folder.name}{login}{flags}")
    if (events := folder / "tensorboard").is_dir() and not result.is_running:
        out.print()
        out.print("See weights and activations in TensorBoard:", style="bold")
        out.print(f"  tensorboard --logdir {events}")
    if not result.page:
        return
    out.print()
    out.print("See all trials in MLflow:", style="bold")
    if store.startswith(("http:", "https:")):
        out.print(f"  {redact(store).rstrip('/')}{result.page}")
    else:
        login = f" --tracking-uri {redact(store)}" if "***" in redact(store) else ""
        out.print(f"  hypertune ui {folder.name}{login}{flags}")
