"""What is left to decide, and by what: more repeats, or more configs."""

import contextlib
from pathlib import Path

import pytest
from made_studies import DEFAULT, Made, write_study

from hypertune.analysis import deciding
from hypertune.analysis.deciding import undecided
from hypertune.analysis.frames import load
from hypertune.analysis.statements import Contrast, Factor, Finding, Statement
from hypertune.analysis.verdict import judge
from hypertune.journal.history import StudyHistory
from hypertune.journal.store import Journal

LSTM = {**DEFAULT, "cell": "lstm"}
SPREAD = [0.90, 0.97, 0.93, 0.95]


def repeated(gap: float, n: int = 4) -> list[Made]:
    rows = [Made(losses=[1.0] * 9), Made(losses=[1.0] * 9, config=LSTM)]
    for r, loss in enumerate(SPREAD[:n], start=1):
        own = 0.02 * (-1) ** r
        for config, value in ((DEFAULT, loss), (LSTM, loss + gap + own)):
            rows.append(Made(losses=[value] * 9, config=config, role="replicate", repeat=r))
    return rows


@pytest.mark.parametrize(
    ("gap", "margin", "levels"),
    [(0.5, 0.01, None), (0.01, 0.2, None), (0.02, 0.01, ["gru", "lstm"])],
)
def test_levels_are_decided_by_a_difference_or_by_its_being_small(
    gap: float, margin: float, levels: list[str] | None, tmp_path: Path
) -> None:
    folder = write_study(tmp_path / "s", repeated(gap), factors=["cell"], margin=margin)
    found = undecided(StudyHistory.read(folder))
    if levels is None:
        assert found == []
    else:
        assert [(one.factor, list(one.levels)) for one in found] == [("cell", levels)]
        assert (found[0].n_more or 0) > 4
        assert found[0].text == (
            "cell: gru is not told apart yet from lstm (replicates on fresh seeds)."
        )


def test_what_repeats_cannot_decide_needs_more_configs(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", repeated(0.5), factors=["cell", "window"])
    (found,) = undecided(StudyHistory.read(folder))
    assert (found.factor, list(found.levels), found.n_more) == ("window", [], None)


def test_each_look_has_less_error_to_spend(tmp_path: Path) -> None:
    gaps = [0.03 + 0.002 * k for k in range(60)]

    def first(*, again: bool) -> int:
        for k, gap in enumerate(gaps):
            folder = write_study(tmp_path / f"{again}-{k}", repeated(gap), factors=["cell"])
            if again:
                with contextlib.closing(Journal(folder / "journal.db")) as journal:
                    journal.add_event("search_start")
            if not undecided(StudyHistory.read(folder)):
                return k
        raise AssertionError("no gap is decided")

    # The made studies' searches have ended once: the end is look 1, going on is look 2.
    assert first(again=False) < first(again=True)


def contrast(a: str, b: str, outcome: Finding) -> Contrast:
    more = 4 if outcome == "undecided" else None
    return Contrast(a=a, b=b, difference=0.1, low=0.0, high=0.2, outcome=outcome, n=8, n_more=more)


def test_levels_that_lead_in_a_circle_are_undecided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pairs may have run on different seeds: a is ahead of b, b of c, and c of a.
    said = Statement(
        estimand="leaders",
        basis="replicates on fresh seeds",
        outcome="better",
        sentences=["a beats b"],
        contrasts=[
            contrast("a", "b", "better"),
            contrast("b", "c", "undecided"),
            contrast("c", "a", "undecided"),
        ],
        of_leaders=True,
    )
    monkeypatch.setattr(
        deciding, "judge_factors", lambda _: [Factor(name="cell", statements=[said])]
    )
    (found,) = undecided(
        StudyHistory.read(write_study(tmp_path / "s", repeated(0.5), factors=["cell"]))
    )
    assert set(found.levels) in ({"a", "c"}, {"b", "c"})
    assert found.n_more == 4


@pytest.mark.parametrize(
    ("factor", "flag"), [("cell", "--until-decided --time-budget 15m"), ("window", "--n-trials 4")]
)
def test_what_would_decide_is_what_to_try_next(factor: str, flag: str, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", repeated(0.02), factors=[factor], margin=0.01, n_trials=2)
    (advice,) = (line for line in judge(load(folder)).following if "undecided" in line)
    assert f"hypertune resume s {flag}" in advice
