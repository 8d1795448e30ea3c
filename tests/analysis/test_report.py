"""Figures compare equal budgets only; the report says it all, offline, whatever the study holds."""

import errno
import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_studies import DEFAULT, SPACE, Made, write_study
from ray import tune

from hypertune.analysis import figures
from hypertune.analysis.compare import compare
from hypertune.analysis.frames import load
from hypertune.analysis.report import write_report
from hypertune.core.errors import SettingError

LSTM = {**DEFAULT, "cell": "lstm", "window": 24}


def halved(seed: int = 0, n: int = 12) -> list[Made]:
    """Return trials of 1, 3 and 9 epochs, one failed, and a baseline."""
    rng = np.random.default_rng(seed)
    trials = []
    for k in range(n):
        config = {
            "cell": ["gru", "lstm"][k % 2],
            "window": int(rng.choice([6, 12, 24])),
            "lr": float(10 ** rng.uniform(-4, -1)),
            "units": int(rng.integers(8, 129)),
        }
        epochs = [9, 3, 1][k % 3] if k else 9
        losses = [1 + 0.5 / e + 0.1 * k / n for e in range(1, epochs + 1)]
        reason = "complete" if epochs == 9 else "stopped"
        trials.append(
            Made(losses=losses, config=config, reason=reason, test=0.9 if k == 0 else None)
        )
    trials.append(Made(losses=[], config=LSTM, reason="failed", detail="RuntimeError: <b>boom</b>"))
    trials.append(Made(losses=[1.3], role="baseline", label="naive", test=1.1))
    return trials


def test_unequal_budgets_are_refused_unless_forced_and_then_labelled(tmp_path: Path) -> None:
    data = load(write_study(tmp_path / "s", halved()))

    with pytest.raises(SettingError, match="Trials of unequal budgets"):
        figures.heatmap(data, "window", "cell", fidelity="last")
    forced = figures.heatmap(data, "window", "cell", fidelity="last", force=True)
    assert "UNEQUAL BUDGETS" in forced.layout.title.text
    at_three = figures.heatmap(data, "window", "cell", fidelity=3)
    n = [
        int(x)
        for row in at_three.data[0].text
        for cell in row
        for x in re.findall(r"n = (\d+)", cell)
    ]
    assert sum(n) == 8
    assert "8 trials, all at epoch 3" in at_three.layout.title.text
    assert len(figures.compared(data)) == 4


def test_heatmap_holds_means_counts_and_spread(tmp_path: Path) -> None:
    trials = [Made(losses=[x] * 9) for x in (1.0, 3.0)] + [Made(losses=[5.0] * 9, config=LSTM)]
    data = load(write_study(tmp_path / "s", trials))
    (trace,) = figures.heatmap(data, "window", "cell").data

    assert list(trace.x) == ["6", "12", "24"]
    assert list(trace.y) == ["gru", "lstm"]
    assert trace.z[0][1] == 2.0
    assert trace.z[1][2] == 5.0
    assert math.isnan(trace.z[0][0])
    assert trace.text[0][1] == "2<br>± 1.41<br>n = 2"
    with pytest.raises(SettingError, match="'windw' is no parameter"):
        figures.heatmap(data, "windw", "cell")


def test_interaction_has_the_t_interval_of_each_cell(tmp_path: Path) -> None:
    trials = [Made(losses=[x] * 9) for x in (1.0, 2.0, 3.0)]
    data = load(write_study(tmp_path / "s", trials))
    gru = figures.interaction(data, "window", "cell").data[0]

    assert (list(gru.x), list(gru.y), gru.name) == (["12"], [2.0], "cell = gru")
    assert gru.error_y.array[0] == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


def test_every_figure_shows_the_study(tmp_path: Path) -> None:
    data = load(write_study(tmp_path / "s", halved(), method="asha"))

    assert len(figures.learning_curves(data).data) == 12
    assert sorted({trace.name for trace in figures.learning_curves(data, "window").data})
    spent = figures.epochs_by_rung(data).data[0]
    assert list(spent.y) == [12, 16, 24]
    assert list(spent.text) == ["12 trials", "8 trials", "4 trials"]
    best = figures.best_so_far(data).data[1]
    assert best.y[-1] == pytest.approx(1 + 0.5 / 9)
    lines = figures.parallel(data).data
    assert len(lines) == 4
    assert lines[-1].line.width > lines[0].line.width
    jobs = figures.timeline(data).data[0]
    assert len(jobs.y) == 12
    assert len(figures.slices(data, "lr").data[0].y) == 4
    shares = [list(line.y) for line in figures.edf(data, fidelity=1).data]
    assert sum(len(own) for own in shares) == 12
    assert all(own == sorted(own) and own[-1] == 1 for own in shares)
    with pytest.raises(SettingError, match="unequal budgets"):
        figures.edf(data, fidelity="last")


def test_random_searchs_band_stands_on_trials_in_full_by_chance(tmp_path: Path) -> None:
    def notes(name: str, n_drawn: int, n_chosen: int, drawn_epochs: int = 9) -> list[str]:
        trials = [
            Made(
                losses=[2 - k / 10] * (drawn_epochs if k else 9),
                origin="random",
                reason="complete" if k == 0 or drawn_epochs == 9 else "stopped",
                config={**DEFAULT, "units": 8 + k},
            )
            for k in range(n_drawn)
        ]
        trials += [
            Made(losses=[1.0] * 9, origin="model", config={**DEFAULT, "units": 60 + k})
            for k in range(n_chosen)
        ]  # fmt: skip
        figure = figures.best_so_far(load(write_study(tmp_path / name, trials)))
        names = {trace.name for trace in figure.data}
        assert ("random search" in names) == ("random search" in figure.layout.title.text)
        if "random search" in names:
            band = next(trace for trace in figure.data if trace.name == "random search")
            assert list(band.x[:3]) == [9, 18, 27]
            assert min(band.y) >= 2 - (n_drawn - 1) / 10
        return [figure.layout.title.text]

    assert "90 % of draws from 10 trials" in notes("band", 10, 6)[0]
    assert "random" not in notes("few", 7, 6)[0]
    assert "random" not in notes("itself", 16, 0)[0]
    assert "random" not in notes("stopped", 10, 6, drawn_epochs=3)[0]


def test_timeline_is_refused_without_jobs(tmp_path: Path) -> None:
    data = load(write_study(tmp_path / "s", halved()))
    from dataclasses import replace

    with pytest.raises(SettingError, match="MLflow does not hold the jobs"):
        figures.timeline(replace(data, jobs=None))


def test_the_pages_show_text_as_it_is(tmp_path: Path) -> None:
    odd = "P(a|b) \x1b[31m<i>"
    config = {**DEFAULT, "cell": "x|y"}
    folder = write_study(
        tmp_path / "s",
        [Made(losses=[2.0, 1.0], config=config, test=1.0)] * 3,
        spec={**SPACE, "cell": tune.choice(["gru", "x|y"])},
        question=odd,
        metric=odd,
        default=config,
    )
    page = write_report(folder)

    markdown = (folder / "report" / "report.md").read_text()
    assert "# P(a\\|b) \\\\x1b[31m\\<i>\n" in markdown
    assert "| cell | x\\|y | x\\|y |" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    for before, row in pairwise(rows):
        if row.startswith("|---"):  # as many cells in the head as in the line below it
            assert len(re.findall(r"(?<!\\)\|", before)) == row.count("|")
    html = page.read_text()
    own = html.replace(html[html.index("<script>") : html.index("</script>")], "", 1)  # plotly's
    for text in (markdown, own):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert "P(a|b) \\x1b[31m&lt;i&gt;" in own


def test_the_report_is_whole_and_offline(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", halved(), question="Is <this> so & so?", hypothesis="No.")
    page = write_report(folder)
    html = page.read_text()

    assert page == folder / "report" / "report.html"
    assert "Expected before the first trial: No." in html
    assert "Is &lt;this&gt; so &amp; so?" in html
    assert "RuntimeError: &lt;b&gt;boom" in html
    assert "<b>boom" not in html
    own = html.replace(html[html.index("<script>") : html.index("</script>")], "", 1)
    assert own.count("<title>") == 1
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    assert len(re.findall(r"class=\"plotly-graph-div\"", own)) >= 6
    table = own[own.index('id="trials"') :]
    assert table.count("<tr>") == 1 + 14
    record = json.loads((folder / "report" / "report.json").read_text())
    assert record["verdict"]["factors"][0]["name"] == "cell"
    assert [s["label"] for s in record["scores"]] == ["best", "default", "naive"]
    markdown = (folder / "report" / "report.md").read_text()
    assert "# Is \\<this> so & so?" in markdown  # where it would be taken for HTML
    assert "| naive | 13 |  | 1.3000 |  | 1.1000 |" in markdown


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [Made(losses=[], reason="failed", detail="boom")],
        [Made(losses=[1.0], reason=None)],
        [Made(losses=[1.0], reason="stopped")],
        [Made(losses=[math.nan] * 9)],
        [Made(losses=[1.0] * 9)],
        [Made(losses=[1.0] * 9)] * 20,
    ],
)
def test_a_report_is_written_of_whatever_there_is(trials: list[Made], tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials, test_metric=None)
    html = write_report(folder).read_text()
    assert "cannot say" in html or "undecided" in html


def test_a_report_on_a_full_disk_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_study(tmp_path / "s", halved())
    write = Path.write_text

    def full(path: Path, text: str, **how: Any) -> int:
        write(path, text[:10], **how)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SettingError, match=r"cannot be written: .*No space left"):
        write_report(folder)
    assert list((folder / "report").iterdir()) == []


def test_studies_are_compared_at_equal_cost(tmp_path: Path) -> None:
    long = [Made(losses=[2.0] * 9), Made(losses=[1.0] * 9, config=LSTM)]
    a = write_study(tmp_path / "a", long, method="random")
    b = write_study(tmp_path / "b", [Made(losses=[1.5] * 9)], method="tpe")
    table = compare([a, b]).table

    assert compare([a, b]).n_epochs == 9
    assert list(table["best_at_equal_cost"]) == [2.0, 1.5]
    assert list(table["best"]) == [1.0, 1.5]
    assert list(table["epochs"]) == [18, 9]
    other = write_study(tmp_path / "c", long, metric="other", mode="max")
    with pytest.raises(SettingError, match="same metric") as caught:
        compare([a, other])
    assert "same mode" in str(caught.value)
    with pytest.raises(SettingError, match="at least 2 studies"):
        compare([a])


def four_searches(tmp_path: Path, *, starts: Sequence[Sequence[Any]] = ([DEFAULT],) * 4) -> Any:
    """Write four searches that began with some configs each; return their folders."""
    return [
        write_study(
            tmp_path / f"s{seed}",
            [Made(losses=[2.0 + 0.1 * seed] * 9), Made(losses=[1.0] * 9, config=LSTM)],
            seed=seed,
            start=start,
        )
        for seed, start in enumerate(starts)
    ]


def test_independent_searches_compare_levels(tmp_path: Path) -> None:
    folders = four_searches(tmp_path)
    cells, windows = compare(folders).sentences
    assert cells.startswith(
        "cell: over 4 independent searches the best found of lstm beats the best found of gru: "
        "better by 1.15"
    )
    assert windows.startswith("window: over 4 independent searches the best found of 24 beats ")
    assert compare(folders[:2]).sentences == []


def test_searches_that_began_with_the_same_configs_are_not_independent(tmp_path: Path) -> None:
    both = [DEFAULT, LSTM]
    folders = four_searches(tmp_path, starts=(both, both, [DEFAULT], both))
    (said,) = compare(folders).sentences
    assert "are not independent" in said


def test_independent_searches_compare_ranges_pair_by_pair(tmp_path: Path) -> None:
    losses = {8: [0.90, 0.95, 0.99, 0.93], 30: [0.51, 0.50, 0.53, 0.52], 100: [0.5, 0.7, 0.4]}
    folders = [
        write_study(
            tmp_path / f"s{seed}",
            [
                Made(losses=[found[seed]] * 9, config={**DEFAULT, "units": units})
                for units, found in losses.items()
                if seed < len(found)
            ],
            factors=["units"],
            seed=seed,
        )
        for seed in range(4)
    ]
    said = compare(folders).sentences
    starts = [
        "over 4 independent searches the best found of 20 to 49 beats the best found of 8 to 19: ",
        "over 3 independent searches the best found of 50 to 128 is not shown to beat the best "
        "found of 8 to 19: ",
        "over 3 independent searches the best found of 20 to 49 is not shown to beat the best "
        "found of 50 to 128: ",
    ]
    starts = [f"units: {start}" for start in starts]
    assert [s[: len(start)] for s, start in zip(said, starts, strict=True)] == starts
