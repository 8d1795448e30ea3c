"""Verdicts say what the data carry, with the right sign, and nothing else."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_studies import DEFAULT, SPACE, Made, write_study
from ray import tune
from scipy import stats

from hypertune.analysis import effects
from hypertune.analysis.deciding import undecided
from hypertune.analysis.frames import load
from hypertune.analysis.replicates import comparable, recommended
from hypertune.analysis.replicates import losses as losses_of
from hypertune.analysis.replicates import replicates as replicates_of
from hypertune.analysis.statements import Statement
from hypertune.analysis.summary import summarize
from hypertune.analysis.verdict import Verdict, judge, judge_factor
from hypertune.core.space import Space, identity
from hypertune.journal.history import StudyHistory

LSTM = {**DEFAULT, "cell": "lstm", "lr": 3e-3}


def replicates(gru: Sequence[float], lstm: Sequence[float], **more: Any) -> list[Made]:
    """Return a searched trial of each cell, and its repeats with these final losses."""
    runs = [Made(losses=[1.0] * 9), Made(losses=[1.0] * 9, config=LSTM)]
    for losses, config in ((gru, DEFAULT), (lstm, LSTM)):
        runs += [
            Made(losses=[loss] * 9, config=config, role="replicate", repeat=r, **more)
            for r, loss in enumerate(losses, start=1)
        ]
    return runs


def of_configs(folder: Path) -> Statement:
    return next(s for s in judge_factor(load(folder), "cell").statements if "replicates" in s.basis)


@pytest.mark.parametrize(
    ("mode", "better"), [("min", "lstm"), ("max", "gru")]
)  # fmt: skip
def test_replicates_give_the_paired_t_interval(mode: str, better: str, tmp_path: Path) -> None:
    gru, lstm = [0.92, 0.93, 0.90, 0.94, 0.91], [0.90, 0.90, 0.89, 0.915, 0.89]
    folder = write_study(tmp_path / "s", replicates(gru, lstm), mode=mode)

    (contrast,) = of_configs(folder).contrasts
    # The first look spends three fifths of 5 %.
    paired = stats.ttest_rel(gru, lstm).confidence_interval(1 - 0.05 * 6 / math.pi**2)
    assert (contrast.a, contrast.outcome) == (better, "better")
    assert contrast.difference == pytest.approx(np.mean(np.subtract(gru, lstm)))
    assert (contrast.low, contrast.high) == pytest.approx((paired.low, paired.high), rel=1e-3)
    said = of_configs(folder).sentences
    assert said[0].startswith(f"cell: the best {better} configuration found beats the best")
    assert "5 fresh seeds" in said[0]
    assert "gru: 1 trials, 1 in full, 9 epochs; lstm: 1 trials" in said[-1]


def test_what_is_small_is_called_equal_and_what_is_noisy_undecided(tmp_path: Path) -> None:
    gru, lstm = [0.920, 0.930, 0.900, 0.940], [0.9201, 0.9299, 0.9002, 0.9398]
    equal = of_configs(write_study(tmp_path / "equal", replicates(gru, lstm)))
    assert equal.outcome == "equal"
    assert equal.sentences[0].startswith("cell: no difference larger than 0.000")

    noisy = of_configs(
        write_study(tmp_path / "noisy", replicates([0.9, 0.5, 0.8, 0.6], [0.6, 0.8, 0.5, 0.7]))
    )
    assert noisy.outcome == "undecided"
    assert noisy.contrasts[0].low < 0 < noisy.contrasts[0].high
    assert "more repeats of each would decide" in noisy.sentences[0]

    margin = of_configs(
        write_study(
            tmp_path / "margin", replicates([0.9, 0.5, 0.8, 0.6], [0.6, 0.8, 0.5, 0.7]), margin=2.0
        )
    )
    assert margin.outcome == "equal"


def test_later_looks_are_wider(tmp_path: Path) -> None:
    gru, lstm = [0.92, 0.93, 0.90, 0.94], [0.90, 0.90, 0.89, 0.915]
    folder = write_study(tmp_path / "s", replicates(gru, lstm))
    first = of_configs(folder).contrasts[0]
    write_again = write_study(tmp_path / "s2", replicates(gru, lstm))
    from hypertune.journal.store import Journal

    journal = Journal(write_again / "journal.db")
    journal.add_event("search_end")
    journal.close()
    second = of_configs(write_again).contrasts[0]

    assert second.low < first.low < first.high < second.high
    assert math.fsum(effects.spent(k) for k in range(1, 20_000)) == pytest.approx(0.05, rel=1e-3)


def test_only_common_repeats_in_full_count(tmp_path: Path) -> None:
    runs = replicates([0.92, 0.93, 0.90], [0.90, 0.90, 0.89])
    runs.append(Made(losses=[0.1] * 9, role="replicate", repeat=9))
    runs.append(Made(losses=[0.1] * 2, config=LSTM, role="replicate", repeat=9, reason="failed"))
    few = replicates([0.92, 0.93], [0.90, 0.90])

    assert "on 3 fresh seeds" in of_configs(write_study(tmp_path / "a", runs)).sentences[0]
    nothing = of_configs(write_study(tmp_path / "b", few))
    assert nothing.outcome == "none"
    assert "cell: not compared: they share fewer than 3 fresh seeds" in nothing.sentences[0]


def test_five_trials_cannot_say(tmp_path: Path) -> None:
    configs = [DEFAULT, LSTM, DEFAULT, LSTM, {**DEFAULT, "window": 6}]
    losses = [0.9, 0.1, 0.8, 0.2, 0.9]
    trials = [Made(losses=[loss] * 9, config=c) for loss, c in zip(losses, configs, strict=True)]
    verdict = judge(load(write_study(tmp_path / "s", trials)))

    assert [f.statements[0].outcome for f in verdict.factors] == ["none", "none"]
    assert "cannot say" in verdict.headline
    assert "trials in full are 3 of gru, 2 of lstm" in verdict.headline
    assert verdict.importance is None
    assert any("too little to tell how well the search went" in s for s in verdict.search)


def test_trials_that_are_all_alike_say_nothing(tmp_path: Path) -> None:
    trials = [
        Made(losses=[0.5] * 9, config={**(DEFAULT if k % 2 else LSTM), "units": 8 + k})
        for k in range(14)
    ]
    verdict = judge(load(write_study(tmp_path / "s", trials)))
    assert [f.statements[0].outcome for f in verdict.factors] == ["none", "none"]
    assert verdict.interaction is not None
    assert verdict.interaction.outcome == "none"


def full_search(folder: Path, effect: float, n: int = 30, seed: int = 0) -> Verdict:
    """Judge a random search in full, whose lstm is better by ``effect``, and its window alike."""
    rng = np.random.default_rng(seed)
    trials = []
    for k in range(n):
        config = {
            "cell": ["gru", "lstm"][k % 2],
            "window": int(rng.choice([6, 12, 24])),
            "lr": float(10 ** rng.uniform(-4, -1)),
            "units": int(rng.integers(8, 129)),
        }
        bowl = 0.05 * (math.log10(config["lr"]) + 2.5) ** 2  # type: ignore[arg-type]
        loss = 1 + bowl - effect * (k % 2) + 0.002 * rng.standard_normal()
        curve = [loss + 0.5 * 0.5**e for e in range(9)]
        trials.append(Made(losses=curve, config=config, origin="random"))
    return judge(load(write_study(folder, trials, method="random")))


def test_searched_trials_in_full_decide_large_effects_only(tmp_path: Path) -> None:
    large = full_search(tmp_path / "large", 0.2)
    none = full_search(tmp_path / "none", 0.0)

    cell = large.factors[0].statements[0]
    assert (cell.outcome, cell.contrasts[0].a) == ("better", "lstm")
    assert cell.contrasts[0].low < 0.2 < cell.contrasts[0].high
    assert large.headline.startswith("cell: lstm beats gru by")
    assert none.factors[0].statements[0].outcome in ("undecided", "equal")
    window = none.factors[1].statements[0]
    assert [row["level"] for row in window.levels] == ["6", "12", "24"]
    assert sum(row["n"] for row in window.levels) == 30
    assert large.importance is not None
    assert next(iter(large.importance.share)) in ("cell", "lr")
    assert large.importance.n_trials == 30


def by_chance(folder: Path, losses: dict[str, list[float]], **more: Any) -> Statement:
    """Return what is said of the cell's average, of trials in full with these losses."""
    trials = [
        Made(losses=[x] * 9, config={**DEFAULT, "cell": cell, "units": 8 + k}, origin="random")
        for cell, values in losses.items()
        for k, x in enumerate(values)
    ]
    trials += more.pop("trials", [])
    found = judge_factor(load(write_study(folder, trials, **more)), "cell").statements
    return next(s for s in found if "on average" in s.estimand)


def test_averages_are_those_of_welch(tmp_path: Path) -> None:
    gru, lstm = [1.0, 1.1, 0.9, 1.05, 0.95], [0.5, 0.52, 0.6, 0.55]
    said = by_chance(tmp_path / "a", {"gru": gru, "lstm": lstm})
    welch = stats.ttest_ind(gru, lstm, equal_var=False)

    (contrast,) = said.contrasts
    assert (contrast.a, contrast.outcome) == ("lstm", "better")
    ends = welch.confidence_interval(1 - 0.05 * 6 / math.pi**2)
    assert (contrast.low, contrast.high) == pytest.approx((ends.low, ends.high), rel=1e-3)
    assert said.sentences[0].startswith("cell: lstm beats gru by 0.45")
    assert said.sentences[0].endswith("on average over 9 configurations drawn by chance.")

    stopped = [Made(losses=[0.9], config=LSTM, reason="stopped", origin="random")]
    assert by_chance(tmp_path / "b", {"gru": gru, "lstm": lstm}, trials=stopped).outcome == "none"
    chosen = [Made(losses=[0.9] * 9, config=LSTM, origin="model") for _ in range(2)]
    assert by_chance(tmp_path / "c", {"gru": gru, "lstm": lstm}, trials=chosen).outcome == "none"
    assert by_chance(tmp_path / "d", {"gru": gru, "lstm": lstm[:3]}).outcome == "none"
    assert by_chance(tmp_path / "e", {"gru": gru, "lstm": [0.5] * 5}).outcome == "none"


def test_kinds_of_statements_share_the_error(tmp_path: Path) -> None:
    gru, lstm = [1.0, 1.1, 0.9, 1.05, 0.95], [0.5, 0.52, 0.6, 0.55]
    alone = by_chance(tmp_path / "alone", {"gru": gru, "lstm": lstm}).contrasts[0]
    again = [
        Made(losses=[loss] * 9, config=config, role="replicate", repeat=r)
        for config in (DEFAULT, LSTM)
        for r, loss in enumerate((0.9, 0.91, 0.93), start=1)
    ]
    beside = by_chance(tmp_path / "beside", {"gru": gru, "lstm": lstm}, trials=again).contrasts[0]

    # Replicates count for two of three parts.
    welch = stats.ttest_ind(gru, lstm, equal_var=False)
    ends = welch.confidence_interval(1 - 0.05 * 6 / math.pi**2 / 3)
    assert (beside.low, beside.high) == pytest.approx((ends.low, ends.high), rel=1e-3)
    assert beside.low < alone.low < alone.high < beside.high


def test_of_very_many_trials_the_model_is_given_some_by_lot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    trials = [
        Made(losses=[1 + (u - 0.5) ** 2] * 9, config={**DEFAULT, "lr": float(10 ** (3 * u - 4))})
        for u in rng.random(40)
    ]
    data = load(write_study(tmp_path / "many", trials))
    whole = effects.Surrogate(data)
    monkeypatch.setattr(effects, "_MAX_TRIALS", 20)
    part = effects.Surrogate(data)

    assert (whole.n_full, part.n_full) == (40, 20)
    drawn = part.tuned([{"lr": 10**-2.5}, {"lr": 1e-4}], np.random.default_rng(1)).mean(axis=0)
    assert drawn[0] < drawn[1]  # where the best is


def test_the_models_intervals_grow_with_its_errors(tmp_path: Path) -> None:
    """A model that errs on what it is not shown is believed the less."""

    def scale(name: str, noise: float) -> tuple[float, float]:
        rng = np.random.default_rng(0)
        trials = [
            Made(
                losses=[1 + 0.1 * (k % 2) + 0.5 * (u - 0.5) ** 2 + noise * e] * 9,
                config={**DEFAULT, "cell": ["gru", "lstm"][k % 2], "lr": float(10 ** (3 * u - 4))},
            )
            for k, (u, e) in enumerate(zip(rng.random(24), rng.standard_normal(24), strict=True))
        ]
        model = effects.Surrogate(load(write_study(tmp_path / name, trials)))
        drawn = model.by_level("cell", ["gru", "lstm"], np.random.default_rng(1))
        compare = partial(effects.from_search, drawn, ["a", "b"], [12, 12], alpha=0.05)
        one, half, two = (effects.Scale(factor=f, df=23) for f in (1.0, 0.5, 2.0))
        found, twice = compare(scale=[one, one]), compare(scale=[half, two])
        assert twice.margin[0, 1] == pytest.approx(2 * found.margin[0, 1])
        assert found.difference[0, 1] == pytest.approx(0.1, abs=0.05)
        cell = next(p for p in Space(SPACE).parameters if p.name == "cell")
        return model.scale(cell, "gru").factor, float(found.margin[0, 1])

    quiet, noisy = scale("quiet", 0.001), scale("noisy", 0.05)
    assert 0.3 < noisy[0] < 3
    assert quiet[1] < noisy[1]


def test_the_model_is_believed_least_of_the_level_that_it_errs_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trials = [
        Made(
            losses=[1 + (0.2 if k % 2 else 0.01) * rng.standard_normal()] * 9,
            config={**DEFAULT, "cell": ["gru", "lstm"][k % 2], "units": 8 + k},
        )
        for k in range(24)
    ]
    model = effects.Surrogate(load(write_study(tmp_path / "s", trials)))
    cell, window = (p for p in Space(SPACE).parameters if p.name in ("cell", "window"))
    assert model.scale(cell, "lstm").factor > 1.2 * model.scale(cell, "gru").factor
    assert (model.scale(cell, "lstm").df, model.scale(cell, "gru").df) == (11, 23)
    assert model.scale(cell, "gru") == model.scale(window, 12) == model.scale(window, 24)


def test_best_at_a_bound_and_failures_are_told(tmp_path: Path) -> None:
    at_end = {**DEFAULT, "lr": 0.0999}
    trials = [Made(losses=[1.0] * 9), Made(losses=[0.5] * 9, config=at_end)]
    trials += [Made(losses=[0.9] * 9, config={**DEFAULT, "units": 8 + k}) for k in range(12)]
    trials += [Made(losses=[], config={**LSTM, "units": 8 + k}, reason="failed") for k in range(8)]
    verdict = judge(load(write_study(tmp_path / "s", trials)))

    assert any(
        s.startswith("Widen lr: the best configuration has 0.0999") for s in verdict.following
    )
    assert any("8 of 22 trials failed" in s for s in verdict.search)
    assert any("cluster at cell = lstm: 8 of 8" in s for s in verdict.search)


def test_a_model_is_credited_only_for_what_it_proposed(tmp_path: Path) -> None:
    def study(name: str, origins: Sequence[str]) -> list[str]:
        trials = [
            Made(losses=[1 + (0.5 if "random" in origin else 0) + 0.01 * k] * 9, origin=origin,
                 config={**DEFAULT, "units": 8 + k})
            for k, origin in enumerate(origins)
        ]  # fmt: skip
        return judge(load(write_study(tmp_path / name, trials))).search

    drawn, proposed = ["random"] * 6, ["model"] * 6
    (said,) = (s for s in study("a", ["default", *drawn, *proposed]) if "proposed" in s)
    assert said.startswith("The 6 configurations that the model proposed were better than chance")
    assert "in 100% of pairs" in said
    assert any("No configuration was proposed by a model" in s for s in study("b", drawn * 2))
    assert any("Too few configurations to compare" in s for s in study("c", drawn + proposed[:3]))


def test_what_chance_would_have_found_at_equal_cost_is_bounded(tmp_path: Path) -> None:
    def said(name: str, n_drawn: int, losses: float, **more: Any) -> list[str]:
        trials = [
            Made(losses=[0.8] * 9, origin="random", config={**DEFAULT, "units": 8 + k})
            for k in range(n_drawn)
        ]
        trials += [
            Made(losses=[losses] * (9 if k < 3 else 1), origin="model",
                 reason="complete" if k < 3 else "stopped", config={**DEFAULT, "units": 60 + k})
            for k in range(6)
        ]  # fmt: skip
        verdict = judge(load(write_study(tmp_path / name, trials, **more)))
        return [s for s in verdict.search if "random search at equal cost" in s]

    # 30 and 3 trials in full and three epochs: 33 trials' worth; none of 30 as good.
    share = 1 - 0.05 ** (1 / 30)
    (many,) = said("many", 30, 0.1)
    assert "at equal cost, 33 trials in full" in many
    assert f"with a chance of at most {1 - (1 - share) ** 33:.0%} (95 %" in many
    assert many.startswith("That the search did better than chance would is not shown")
    (worse,) = said("worse", 6, 0.9)
    assert "chance of at most 100%" in worse

    plain = [
        Made(losses=[0.8 + 0.01 * k] * 9, origin="random",
             config={**DEFAULT, "units": 8 + k})
        for k in range(9)
    ]  # fmt: skip
    verdict = judge(load(write_study(tmp_path / "plain", plain)))
    assert not any("random search" in s for s in verdict.search)


def grid(folder: Path, change: float, noise: float = 0.002) -> Verdict:
    """Judge a search in full, whose lstm leads by 0.1, and by ``change`` more at window 24."""
    rng = np.random.default_rng(0)
    trials = []
    for k in range(36):
        cell, window = ["gru", "lstm"][k % 2], [6, 12, 24][k % 3]
        u = rng.random()
        lead = (0.1 + change * (window == 24)) * (cell == "lstm")
        loss = 1 - lead + 0.3 * (u - 0.5) ** 2 + noise * rng.standard_normal()
        config = {"cell": cell, "window": window, "lr": float(10 ** (3 * u - 4)), "units": 32}
        trials.append(Made(losses=[loss] * 9, config=config, origin="random"))
    return judge(load(write_study(folder, trials, method="random", margin=0.03)))


def test_an_interaction_is_told_from_none(tmp_path: Path) -> None:
    strong = grid(tmp_path / "strong", 0.3).interaction
    none = grid(tmp_path / "none", 0.0).interaction
    noisy = grid(tmp_path / "noisy", 0.0, noise=0.3).interaction

    assert strong is not None
    assert none is not None
    assert noisy is not None
    assert strong.outcome == "better"
    assert strong.sentences[0].startswith("cell and window interact: the lead of lstm over gru is")
    assert "larger by 0.27" in strong.sentences[0]
    assert "at window = 24 than at 6 (95 %: 0.1" in strong.sentences[0]
    assert none.outcome == "equal"
    assert none.sentences[0].startswith("cell and window: no interaction larger than 0.0")
    assert noisy.outcome == "undecided"


def test_levels_are_compared_at_the_default_where_that_was_run(tmp_path: Path) -> None:
    lstm = {**DEFAULT, "cell": "lstm"}
    gru_losses, lstm_losses = [0.92, 0.93, 0.90, 0.94], [0.80, 0.81, 0.79, 0.82]
    runs = [Made(losses=[1.0] * 9)]
    for config, losses in ((DEFAULT, gru_losses), (lstm, lstm_losses)):
        runs += [
            Made(losses=[x] * 9, config=config, role="replicate", repeat=r)
            for r, x in enumerate(losses, start=1)
        ]
    found = judge_factor(load(write_study(tmp_path / "s", runs)), "cell").statements
    (said,) = (s for s in found if "as in the default" in s.estimand)
    assert said.outcome == "better"
    assert said.contrasts[0].difference == pytest.approx(np.mean(gru_losses) - np.mean(lstm_losses))
    assert "the default with cell lstm beats the default with cell gru by" in said.sentences[0]

    other = judge_factor(
        load(write_study(tmp_path / "o", replicates(gru_losses, lstm_losses))), "cell"
    )
    assert not any("as in the default" in s.estimand for s in other.statements)


def test_the_best_is_set_against_the_default_and_baselines(tmp_path: Path) -> None:
    trials = replicates([0.92, 0.93, 0.90, 0.94], [0.80, 0.81, 0.79, 0.82])
    trials[1] = Made(losses=[0.7] * 9, config=LSTM, test=0.85)
    trials[0] = Made(losses=[1.0] * 9, test=0.95)
    trials.append(Made(losses=[0.9], role="baseline", label="naive", test=0.8))
    worth = judge(load(write_study(tmp_path / "s", trials))).worth

    assert worth[0].startswith(
        "On 4 fresh seeds the recommended configuration, the best one of 2, "
    )
    assert "beats the default: 0.117 in its favour" in worth[0]
    assert worth[1].startswith("The best of the search (trial 1) had 0.7 there and has 0.805 ")
    assert worth[1].endswith("worse by 0.105: the luck of the winner.")
    assert worth[2].startswith("On the test part the recommended configuration beats the default")
    assert worth[3].startswith("On the test part the recommended configuration does not beat naive")


def test_a_winner_that_was_only_lucky_is_replaced_and_that_is_said(tmp_path: Path) -> None:
    third = {**LSTM, "units": 100}
    trials = replicates([0.92, 0.93, 0.90, 0.94], [0.95, 0.96, 0.94, 0.97])
    trials[0] = Made(losses=[1.0] * 9, test=0.95)
    trials[1] = Made(losses=[0.7] * 9, config=LSTM)
    trials.insert(2, Made(losses=[0.8] * 9, config=third, test=0.9))
    trials += [
        Made(losses=[0.7 + 0.001 * k] * 9, config=third, role="replicate", repeat=k)
        for k in range(1, 5)
    ]
    folder = write_study(tmp_path / "s", trials)
    worth = judge(load(folder)).worth
    assert "the best one of 3, beats the default" in worth[0]
    assert worth[1].endswith("on 4 fresh seeds, worse by 0.255: the luck of the winner.")
    assert worth[2].startswith("Trial 2 is better by 0.253 on 4 of them, and is recommended")
    assert "0.9 against 0.95" in worth[3]
    summary = summarize(folder)
    assert summary.best is not None
    assert (summary.best.id, summary.incumbent) == (2, 1)
    assert [(s.label, s.trial, s.n_fresh) for s in summary.scores][:2] == [
        ("best", 2, 4),
        ("default", 0, 4),
    ]


@pytest.mark.parametrize("sds", [(0.02,) * 4, (0.2, 0.02, 0.02, 0.02)])
def test_intervals_hold_for_all_pairs_however_much_one_level_scatters(
    sds: tuple[float, ...],
) -> None:
    rng = np.random.default_rng(0)
    truth, levels = np.array([1.0, 1.02, 1.01, 1.05]), ["a", "b", "c", "d"]
    covered = []
    for _ in range(400):
        noise = np.array(sds)[:, None] * rng.standard_normal((4, 8))
        values = truth[:, None] + rng.standard_normal((1, 8)) + noise
        found = effects.from_replicates(values, levels, alpha=0.05)
        off = np.abs(found.difference - (truth[None, :] - truth[:, None])) - found.margin
        covered.append(bool((off[~np.eye(4, dtype=bool)] <= 0).all()))
    assert 0.94 <= np.mean(covered) <= 1.0


def test_two_levels_are_compared_by_the_seeds_that_both_ran_on() -> None:
    rng = np.random.default_rng(3)
    values = np.array([[1.0], [1.02], [1.5], [1.1]]) + 0.02 * rng.standard_normal((4, 12))
    values[2, 4:] = np.nan
    values[3, 6] = np.nan  # failed
    found = effects.from_replicates(values, ["a", "b", "c", "d"], alpha=0.06)
    assert found.n == [12, 12, 4, 11]
    for i, j, shared in ((0, 1, slice(None)), (0, 2, slice(4)), (1, 3, np.arange(12) != 6)):
        paired = stats.ttest_rel(values[j, shared], values[i, shared])
        interval = paired.confidence_interval(0.99)  # six pairs
        assert found.difference[i, j] - found.margin[i, j] == pytest.approx(interval.low)
        assert found.difference[i, j] + found.margin[i, j] == pytest.approx(interval.high)
        assert found.n_compared[i, j] == len(values[0, shared])


def test_more_repeats_are_asked_for_by_what_they_would_show() -> None:
    rng = np.random.default_rng(5)
    values = np.array([[1.0], [1.02]]) + 0.02 * rng.standard_normal((2, 400))
    first = effects.from_replicates(values[:, :4], ["a", "b"], alpha=0.03)
    sd = np.diff(values[:, :4], axis=0).std(ddof=1)
    n = 4 + first.n_more(0, 1, 0.01, tail=0.002)
    reaches = [stats.t.ppf(0.998, m - 1) * sd / math.sqrt(m) for m in (n - 1, n)]
    assert reaches[0] > 0.01 >= reaches[1]


def test_differences_that_scatter_by_less_than_a_digit_are_no_evidence(tmp_path: Path) -> None:
    # Three seeds, accuracies of few digits: one better by the same on each, as it happens.
    made = replicates([0.9, 0.8, 0.85], [0.95, 0.85, 0.9])
    said = of_configs(write_study(tmp_path / "a", made))
    assert said.outcome == "none"
    assert "or differ by the same on all of these few" in said.sentences[0]
    # Where no seed makes a difference there is nothing to scatter; three may be alike by chance.
    for n, outcome in ((3, "none"), (5, "better")):
        said = of_configs(write_study(tmp_path / f"{n}", replicates([0.9] * n, [0.95] * n)))
        assert (said.outcome, said.contrasts[0].n) == (outcome, n)
    assert "beats the best lstm configuration found by 0.05, the same on each" in said.sentences[0]
    said = of_configs(write_study(tmp_path / "equal", replicates([1.0] * 5, [1.0] * 5)))
    assert said.outcome == "equal"
    assert "are equal to the last digit, on 5 fresh seeds" in said.sentences[0]


def test_losses_on_fresh_seeds_stand_by_repeat(tmp_path: Path) -> None:
    third, fourth = {**DEFAULT, "units": 100}, {**DEFAULT, "units": 101}
    trials = replicates([0.9, 0.8, 0.7, 0.6, 0.5], [1.9, 1.8, 1.7, 1.6, 1.5])
    for config, repeats in ((third, (3, 4, 5)), (fourth, (1, 2))):
        trials += [Made(losses=[r] * 9, config=config, role="replicate", repeat=r) for r in repeats]
    data = load(write_study(tmp_path / "a", trials))
    found = losses_of(data, replicates_of(data))
    assert found.shape == (5, 4)
    assert comparable(found)
    assert not comparable(found.iloc[:2])
    assert found[identity(third)].dropna().to_dict() == {3: 3.0, 4: 4.0, 5: 5.0}


def runs_of(config: dict[str, Any], searched: float, again: Sequence[float]) -> list[Made]:
    """Return a config as the search found it, and on fresh seeds."""
    repeats = [
        Made(losses=[loss] * 9, config=config, role="replicate", repeat=r)
        for r, loss in enumerate(again, start=1)
    ]
    return [Made(losses=[searched] * 9, config=config), *repeats]


def test_a_level_is_judged_by_what_the_search_ranked_first_in_it(tmp_path: Path) -> None:
    # The default ran again too, and has better seeds than the best gru: it has no say in that.
    best_gru = {**DEFAULT, "lr": 2e-3}
    made = runs_of(DEFAULT, 0.8, [0.50, 0.51, 0.52])
    made += runs_of(best_gru, 0.6, [0.70, 0.72, 0.71])
    made += runs_of(LSTM, 0.7, [0.60, 0.61, 0.615])

    (contrast,) = of_configs(write_study(tmp_path / "s", made)).contrasts
    assert (contrast.a, contrast.outcome) == ("lstm", "better")
    paired = stats.ttest_rel([0.70, 0.72, 0.71], [0.60, 0.61, 0.615])
    interval = paired.confidence_interval(1 - 0.05 * 6 / math.pi**2)
    assert (contrast.low, contrast.high) == pytest.approx((interval.low, interval.high), rel=1e-3)


def test_numbers_are_compared_by_ranges_on_fresh_seeds(tmp_path: Path) -> None:
    made = [
        run
        for units, loss in ((8, 0.9), (30, 0.5), (100, 0.51))
        for run in runs_of(
            {**DEFAULT, "units": units}, loss, [loss, loss + 0.01, loss + units / 9e3]
        )
    ]
    folder = write_study(tmp_path / "s", made, factors=["units"])

    factor = judge_factor(load(folder), "units")
    assert factor.numeric
    assert factor.sentence.startswith(
        "units: the best configuration found at 20 to 49 beats the best configuration found at "
        "8 to 19 by 0.399 (95 %: "
    )
    assert "not of the ranges" in factor.sentence
    said = next(s for s in factor.statements if "replicates" in s.basis)
    assert {(c.a, c.b, c.outcome) for c in said.contrasts} >= {
        ("20 to 49", "8 to 19", "better"),
        ("50 to 128", "8 to 19", "better"),
    }
    assert "8 to 19: 1 trials, 1 in full, 9 epochs" in said.sentences[-1]
    assert undecided(StudyHistory.read(folder)) == []  # one range is told from the best


def test_what_fails_on_most_fresh_seeds_is_left_out_of_the_comparison(tmp_path: Path) -> None:
    made = [
        run
        for units, loss in ((8, 0.9), (30, 0.5), (100, 0.4))
        for run in runs_of(
            {**DEFAULT, "units": units}, loss, [loss, loss + 0.01, loss + units / 9e3]
        )
    ]
    for run in made[-2:]:
        run.reason, run.losses = "failed", []
    folder = write_study(tmp_path / "s", made, factors=["units"])

    said = next(s for s in judge_factor(load(folder), "units").statements if s.contrasts)
    assert [(c.a, c.b, c.outcome) for c in said.contrasts] == [("20 to 49", "8 to 19", "better")]
    assert said.sentences[-1] == (
        "The best configuration found of units 50 to 128 failed on 2 of 3 fresh seeds: it is not "
        "compared."
    )


def test_the_default_is_not_called_the_best_found_of_its_level(tmp_path: Path) -> None:
    made = runs_of({**LSTM}, 0.5, [0.5, 0.51, 0.52])
    made += runs_of(DEFAULT, 2.0, [2.0, 2.1, 2.05])
    made += [Made(losses=[0.6] * 9, config={**DEFAULT, "lr": 2e-3})]  # a better gru, not run again
    said = judge_factor(load(write_study(tmp_path / "s", made)), "cell").statements
    assert not any(s.of_leaders for s in said)
    assert any("configurations of fewer than two levels of cell" in s.sentences[0] for s in said)


def test_a_leader_that_hardly_ran_again_does_not_cost_a_comparison(tmp_path: Path) -> None:
    made = runs_of({**DEFAULT, "lr": 2e-3}, 0.6, [0.6, 0.61, 0.62])
    made += runs_of(LSTM, 0.9, [0.9, 0.91, 0.93])
    made += runs_of({**DEFAULT, "lr": 3e-3}, 0.5, [0.5])  # found when the time was nearly up
    data = load(write_study(tmp_path / "s", made))
    (said,) = [s for s in judge_factor(data, "cell").statements if s.of_leaders]
    assert [(c.a, c.outcome) for c in said.contrasts] == [("gru", "better")]
    assert "on 3 fresh seeds" in said.sentences[0]
    best = recommended(data)
    assert best is not None
    assert {len(losses) for losses in best.losses.values()} == {3}


def test_an_extension_decides_what_is_recommended_as_what_is_said(tmp_path: Path) -> None:
    # The default has three seeds; the leaders were not told apart by these, and ran five more.
    best_gru = {**DEFAULT, "lr": 2e-3}
    made = runs_of(DEFAULT, 2.0, [1.90, 1.95, 1.99])
    made += runs_of(best_gru, 0.6, [0.70, 0.72, 0.71, 0.50, 0.51, 0.52, 0.49, 0.50])
    made += runs_of(LSTM, 0.7, [0.69, 0.715, 0.70, 0.60, 0.61, 0.615, 0.60, 0.59])
    verdict = judge(load(write_study(tmp_path / "s", made, factors=["cell"])))
    assert verdict.headline.startswith("cell: the best gru configuration found")
    assert verdict.worth[0].startswith("On 3 fresh seeds the recommended configuration")
    best = recommended(load(tmp_path / "s"))
    assert best is not None
    assert (best.trial, best.incumbent) == (4, 4)
    scores = {s.label: s.n_fresh for s in summarize(tmp_path / "s").scores}
    assert scores == {"best": 8, "default": 3}


def test_what_was_recommended_before_is_not_called_the_default(tmp_path: Path) -> None:
    made = runs_of(DEFAULT, 2.0, [1.90, 1.95, 1.99])
    made += runs_of(LSTM, 0.7, [0.70, 0.715, 0.70])
    made += runs_of({**LSTM, "units": 50}, 0.8, [0.60, 0.615, 0.61])
    made[0].test, made[4].test, made[8].test = 1.1, 0.95, 0.97
    worth = judge(load(write_study(tmp_path / "s", made))).worth
    assert worth[-2].endswith(
        "beats the default configuration: test_loss 0.97 against 1.1 (one seed, 2 looks)."
    )
    assert worth[-1].endswith(
        "does not beat the configuration recommended before (trial 4): test_loss 0.97 against 0.95 "
        "(one seed, 2 looks)."
    )


@pytest.mark.parametrize("reason", ["failed", "lost"])
def test_failures_on_fresh_seeds_mean_the_same_to_verdict_and_recommendation(
    reason: str, tmp_path: Path
) -> None:
    made = runs_of(DEFAULT, 0.9, [0.90, 0.95, 0.99, 0.93])
    made += runs_of(LSTM, 0.5, [0.50, 0.52, 0.51, 0.0])
    made[-1].reason, made[-1].losses = reason, []
    verdict = judge(load(write_study(tmp_path / "one", made, factors=["cell"])))
    assert "lstm configuration found beats the best gru configuration found" in verdict.headline
    assert "on 3 fresh seeds" in verdict.headline
    assert "The recommended configuration failed on 1 of 4 fresh seeds." in verdict.worth

    made[-2].reason, made[-2].losses = reason, []
    data = load(write_study(tmp_path / "two", made, factors=["cell"]))
    verdict = judge(data)
    assert "beats" not in verdict.headline
    said = [s for s in verdict.factors[0].statements if "fresh" in s.basis]
    assert said[0].sentences == [
        "The best configurations of fewer than two levels of cell got to the end on fresh seeds.",
        "The best configuration found of cell lstm failed on 2 of 4 fresh seeds: it is not "
        "compared.",
    ]
    best = recommended(data)
    assert best is not None
    assert best.trial == 0
    assert any(s.startswith("A configuration that failed on 2 of 4") for s in verdict.worth)


def test_the_headline_tells_what_is_undecided_of_the_best_level(tmp_path: Path) -> None:
    three = {**SPACE, "cell": tune.choice(["gru", "lstm", "rnn"])}
    made = runs_of(DEFAULT, 0.9, [0.90, 0.91, 0.92, 0.905])
    made += runs_of({**DEFAULT, "cell": "lstm"}, 1.2, [1.20, 1.19, 1.21, 1.23])
    made += runs_of({**DEFAULT, "cell": "rnn"}, 0.5, [0.1, 1.3, 0.2, 1.1])
    folder = write_study(tmp_path / "s", made, factors=["cell"], spec=three)
    headline = judge(load(folder)).headline
    assert "the best gru configuration found beats the best lstm" in headline
    assert headline.endswith(
        "Undecided: rnn is not told apart yet from lstm, gru (replicates on fresh seeds)."
    )


def test_too_few_seeds_are_an_undecided_matter_of_seeds(tmp_path: Path) -> None:
    made = runs_of(DEFAULT, 0.9, [0.90, 0.95]) + runs_of(LSTM, 0.5, [0.50, 0.52])
    folder = write_study(tmp_path / "s", made, factors=["cell"])
    (left,) = undecided(StudyHistory.read(folder))
    assert (sorted(left.levels), left.n_more) == (["gru", "lstm"], 3)


def test_a_factor_that_not_every_config_has_is_hopeless(tmp_path: Path) -> None:
    branch = tune.choice([{"name": "sgd", "momentum": tune.uniform(0, 1)}, {"name": "adam"}])
    configs = [
        {**DEFAULT, "opt": {"name": "adam"}},
        {**DEFAULT, "opt": {"name": "sgd", "momentum": 0.5}},
    ]
    folder = write_study(
        tmp_path / "s",
        [Made(losses=[1.0] * 9, config=config) for config in configs],
        factors=["opt.momentum"],
        default=configs[0],
        spec={**SPACE, "opt": branch},
    )
    (left,) = undecided(StudyHistory.read(folder))
    assert left.hopeless
    assert judge(load(folder)).following == []


def test_ranges_of_a_choice_of_numbers_are_in_their_order(tmp_path: Path) -> None:
    windows = {**SPACE, "window": tune.choice([24, 132, 48])}
    rng = np.random.default_rng(0)
    made = [
        Made(losses=[value + 0.01 * rng.standard_normal()] * 9, config={**DEFAULT, "window": w})
        for w, value in ((24, 1.0), (132, 1.0), (48, 0.1))
        for _ in range(12)
    ]
    for k, one in enumerate(made):
        lr = float(10 ** rng.uniform(-4, -1))
        one.config = {**one.config, "units": 8 + k, "lr": lr, "cell": ["gru", "lstm"][k % 2]}
    folder = write_study(
        tmp_path / "s", made, factors=["window"], spec=windows, default=made[0].config
    )
    said = next(s for s in judge_factor(load(folder), "window").statements if s.levels)
    assert [row["level"] for row in said.levels] == ["24", "48", "132"]
    assert "worse than that: 24, 132; not told apart from it: 48" in said.sentences[0]


def test_a_report_says_what_the_look_at_it_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    made = [
        Made(
            losses=[1.0 + 0.1 * rng.standard_normal()] * 9,
            config={**DEFAULT, "cell": cell, "window": window, "units": 8 + k},
        )
        for k in range(5)
        for cell in ("gru", "lstm")
        for window in (6, 12)
    ]
    data = load(write_study(tmp_path / "s", made))
    assert judge(data).factors[1] == judge_factor(data, "window")
