"""The plan of a run, and its goal in words."""

from rich.console import Console
from rich.table import Table

from hypertune.cli.display.console import Text, duration, pairs, size_text
from hypertune.journal.store import flat_names
from hypertune.plan import Plan
from hypertune.search.methods import find_method
from hypertune.settings import Settings
from hypertune.studies.study import Study


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
    about = "about" if find_method(settings.method).ray is None else "at most"
    factors = " and ".join(settings.replicated_factors(study))
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
            f"{plan.n_trials} trials of up to {plan.max_epochs} epochs: {about} {plan.n_epochs} "
            f"epochs in all, as many as {share:.3g} trials in full",
        ),
        (
            "after it",
            f"the default runs in full; then the default and {again} run in full on "
            f"{settings.resolved_for(study).n_repeats} fresh seeds: at most {plan.n_again} epochs",
        ),
        ("at a time", f"{plan.n_concurrent} trial{'s'[: plan.n_concurrent > 1]}"),
        ("study", f"{plan.folder}"),
        ("MLflow", plan.store),
        ("disk", f"{size_text(plan.free_bytes)} free"),
    ]
    if plan.n_repeated:
        rows.append(
            (
                "retrained",
                f"about {plan.n_repeated} more epochs: the trainable saves no checkpoints, so a "
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
                "time, and more for each promotion and each run on a fresh seed",
            )
        )
    if settings.time_budget_s is not None:
        rows.append(("time budget", duration(settings.time_budget_s)))
    if settings.until_decided:
        rows.append(
            (
                "extended",
                "until each factor is decided or the time is up: each extension runs up to twice "
                "as many fresh seeds of the levels that cannot be told apart, or twice as many "
                "trials",
            )
        )
    if plan.probe is not None:
        probe = plan.probe
        low, high = min(probe.epoch_s), max(probe.epoch_s)
        rows += [
            ("probe", f"{low:.2g} to {high:.2g} s an epoch in three short trials"),
            ("checkpoints", f"{size_text(probe.checkpoint_bytes * plan.n_trials)} at most"),
            ("expected time", f"about {duration(probe.total_s)}"),
        ]
    pairs(out, rows)
    out.print("Nothing was started.")


def goal_text(study: Study, settings: Settings) -> str:
    """Say what a search is for, and what that means for it."""
    if not settings.replicated_factors(study):
        return "best: each trial is ranked among all, and the best two run again on fresh seeds"
    factor = study.fair_factor
    if factor is None:
        return (
            f"answer: the best of each level or range of {' and '.join(study.factors)} runs again; "
            f"each trial is ranked among all ({study.why_not_fair})"
        )
    levels = ", ".join(map(str, factor.choices))
    return (
        f"answer: the levels of {factor.name} ({levels}) get equal budgets, each trial is ranked "
        "within its level, and the best of each runs again on fresh seeds"
    )


def _constraints(study: Study, plan: Plan) -> list[tuple[str, str]]:
    if not study.constraints:
        return []
    rules = ", ".join(f"{name} {rule}" for name, rule in study.constraint_texts.items())
    return [("constraints", f"{rules}; {plan.feasible:.0%} of random configs keep them")]
