"""One trial: why it is what it is, and whether it comes out the same again."""

from collections.abc import Callable, Mapping

from rich.console import Console

from hypertune.cli.display.console import Text, duration, number_text, pairs
from hypertune.engine import Explanation, Rerun
from hypertune.journal.store import flat_names


def show_explanation(out: Console, known: Explanation) -> None:
    """Print why a trial is what it is."""
    trial, metric = known.trial, known.metric
    values = ", ".join(f"{k}={number_text(v)}" for k, v in flat_names(trial.config).items())
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
        now = ", ".join(f"{k}={number_text(v)}" for k, v in flat_names(change["config"]).items())
        rows.append(
            (
                f"after epoch {change['epoch']}",
                f"it took over the state of trial {change['from_trial']} after epoch "
                f"{change['from_epoch']}, and continued with {now}",
            )
        )
    for c in known.comparisons:
        cut_off = "" if c.cut_off is None else f" with {c.cut_off:.4g} or better"
        verdict = "among" if c.rank <= c.n_go_on else "not among"
        before = known.stretches and known.stretches[-1].reached > c.epoch
        then = "; it was promoted earlier" if before and c.rank > c.n_go_on else ""
        within = f" with {c.among}" if c.among else ""
        rows.append(
            (
                f"at epoch {c.epoch}",
                f"{c.loss:.4g} now ranks {c.rank} of {c.n}{within}: {verdict} the {c.n_go_on} "
                f"that train on{cut_off}{then}",
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
    pairs(out, rows)
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
            f"{again.metric} at epoch {again.n_epochs}: {after:.6g} with this seed, {before:.6g} "
            "with the first one."
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
