"""Tables: what there is to run, which studies there are, their trials, and several side by side."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from hypertune.cli.display.console import Text, number_text, pairs
from hypertune.core.task import RESERVED
from hypertune.journal.store import flat_names

if TYPE_CHECKING:
    import pandas as pd

    from hypertune.analysis import Comparison, Summary
    from hypertune.engine import StudyResult
    from hypertune.studies.lr_range import LearningRates
    from hypertune.studies.study import Study

_WIDE = 120  # columns of a terminal from which on a table has one for everything


def show_studies(
    out: Console, studies: "Iterable[tuple[Summary, StudyResult]]", broken: Mapping[str, str]
) -> None:
    """Print which studies there are, and by name why others cannot be shown."""
    table = Table(box=None, pad_edge=False)
    for column in ("study", "question", "method", "trials", "best", "state"):
        table.add_column(column, overflow="fold")
    for summary, result in studies:
        about = summary.study
        best = next((s for s in summary.scores if s.label == "best"), None)
        table.add_row(
            result.folder.name,
            Text(about["question"]),
            about["method"],
            f"{sum(summary.reasons.values())}/{about['n_trials']}",
            "" if best is None else f"{about['metric']} {best.validation:.4f}",
            _state(result),
        )
    if table.row_count or not broken:
        out.print(table if table.row_count else "There is no study yet.")
    for name, why in broken.items():
        out.print(Text(f"{name}: {why}", style="yellow"))


def _state(result: "StudyResult") -> str:
    if result.is_running:
        return "under way"
    return "finished" if result.stopped_by is None else f"ended early by {result.stopped_by}"


def show_trials(out: Console, trials: "pd.DataFrame") -> None:
    """Print a study's trials: as a table, or a few lines each where the table does not fit."""
    columns = ["trial", "role", "reason", "epochs", "value", "best_epoch", "test", "cost_s"]
    if trials["n_mutations"].any():
        columns.append("n_mutations")
    config = [name for name in trials.columns if name.startswith("config.")]
    table = Table(box=None, pad_edge=False)
    for name in [*columns, *config]:
        number = name in ("trial", "epochs", "value", "best_epoch", "test", "cost_s", "n_mutations")
        title = name.removeprefix("config.")
        table.add_column(Text(title), justify="right" if number else "left", no_wrap=True)
    shown = (
        trials[[*columns, *config]].astype(object).where(trials[[*columns, *config]].notna(), None)
    )
    rows = [
        ["" if value is None else number_text(value) for value in row]
        for row in shown.itertuples(index=False)
    ]
    for row in rows:
        table.add_row(*map(Text, row))
    if Measurement.get(out, out.options.update(width=10_000), table).maximum <= out.width:
        out.print(table)
        return
    for row in rows:
        (trial, *rest), values = row[: len(columns)], row[len(columns) :]
        results = zip(columns[1:], rest, strict=True)
        searched = zip(config, values, strict=True)
        lines = [
            ", ".join(f"{name} {value}" for name, value in results if value),
            ", ".join(f"{k.removeprefix('config.')}={v}" for k, v in searched if v),
        ]
        pairs(out, [(f"trial {trial}", "\n".join(filter(None, lines)))])


def show_comparison(out: Console, comparison: "Comparison") -> None:
    """Print studies side by side."""
    table = Table(box=None, pad_edge=False)
    table.add_column("study")
    for name in comparison.table.columns:
        title = f"best after {comparison.n_epochs} epochs" if name == "best_at_equal_cost" else name
        table.add_column(title, justify="right")
    for study, row in comparison.table.iterrows():
        cells = ["" if value != value else number_text(value) for value in row]
        table.add_row(Text(str(study)), *(Text(cell) for cell in cells))
    out.print(table)
    out.print(Text("Best values are those of trials in full.", style="dim"))
    for sentence in comparison.sentences:
        out.print(Text(sentence))


def show_list(
    out: Console,
    studies: "Iterable[Study]",
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
    wide = out.width >= _WIDE
    table.add_column("name", no_wrap=True)
    titles = ("question", "factors", "goal", "data", "budget")
    for column in titles if wide else titles[:1]:
        table.add_column(column, overflow="fold")
    for study in studies:
        budget = f"{study.n_trials} trials of up to {study.max_epochs} epochs"
        factors = ", ".join(study.factors)
        fair = study.fair_factor if study.goal == "answer" else None
        goal = study.goal if fair is None else f"{study.goal} ({fair.name})"
        data = study.trainable.data
        needed = Text(f"{data}\nneeds: {missing[data]}", "yellow") if data in missing else data
        if wide:
            table.add_row(study.name, study.question, factors, goal, needed, budget)
            continue
        about = Text(f"{factors}; goal {goal}; {budget}; data {data}", "dim")
        table.add_row(study.name, Text(study.question))
        table.add_row("", about)
        if data in missing:
            table.add_row("", Text(f"needs: {missing[data]}", "yellow"))
    out.print(table)
    for title, rows in (("Methods (--method)", methods), ("Data sets", data_sets)):
        out.print()
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("name")
        table.add_column("")
        for row in rows:
            table.add_row(*row)
        out.print(table)


def show_lr_range(out: Console, study: "Study", found: "LearningRates", picture: Path) -> None:
    """Print what a learning-rate range test found."""
    config = {k: v for k, v in found.config.items() if k not in (*RESERVED, "learning_rate")}
    rows = [("config", ", ".join(f"{k}={number_text(v)}" for k, v in flat_names(config).items()))]
    if len(found.rates):
        span = f"{found.rates[0]:.1e} to {found.rates[-1]:.1e}"
        rows.append(("rates", f"{span} in {len(found.rates)} batches"))
    if found.line is None:
        rows.append(("loss", "it does not fall at any rate: try more batches, or another model"))
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
    pairs(out, rows)
    if found.line is not None:
        out.print()
        out.print(f"Suggested rate: {found.steepest:.1e}. As a range for the space:", style="bold")
        out.print(f"  {found.line}")
