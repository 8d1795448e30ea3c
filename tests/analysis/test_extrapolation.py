"""What trials would have had: by the complete curves, with an error that is true."""

from pathlib import Path

import numpy as np
import pytest
from made_studies import DEFAULT, Made, write_study

from hypertune.analysis import figures
from hypertune.analysis.extrapolation import extrapolate
from hypertune.analysis.frames import StudyData, finite, load, load_trials
from hypertune.core.errors import SettingError


def study(folder: Path, n_complete: int = 20, n_stopped: int = 20, mode: str = "min") -> StudyData:
    """Return a study whose value in full is half the first one, and 0.2, but for noise of 0.01."""
    rng = np.random.default_rng(0)
    trials = []
    for k in range(n_complete + n_stopped):
        first = rng.uniform(1.0, 2.0)
        last = 0.2 + 0.5 * first + 0.01 * rng.standard_normal()
        curve = [first, *np.linspace(first, last, 8)]
        stopped = k >= n_complete
        trials.append(
            Made(
                losses=[x if mode == "min" else -x for x in (curve[:1] if stopped else curve)],
                config={**DEFAULT, "units": 8 + k},
                reason="stopped" if stopped else "complete",
                metrics={"truth": last},
            )
        )
    trials.append(Made(losses=[1.5], config={**DEFAULT, "units": 100}, reason="failed"))
    return load(write_study(folder, trials, mode=mode))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_stopped_trials_get_what_they_would_have_had(mode: str, tmp_path: Path) -> None:
    data = study(tmp_path / "s", mode=mode)
    found = extrapolate(data, 9)
    truth = data.objective.loss(finite(data.curves.groupby("trial")["truth"].first()))[:40]
    values = found.values.iloc[:40]
    far = values["extrapolated"].to_numpy()

    assert found.n_complete == 20
    assert far.sum() == 20
    assert np.abs(finite(values["value"]) - truth).max() < 0.05
    held = (finite(values["low"]) <= truth) & (truth <= finite(values["high"]))
    assert held[far].sum() >= 17
    assert values["low"][~far].isna().all()
    assert found.values.iloc[40][["value", "low"]].isna().all()  # it failed
    assert found.error == pytest.approx(0.01, abs=0.005)
    assert found.cover is not None
    assert 0.8 <= found.cover <= 1
    assert f"20 of them EXTRAPOLATED by 20 complete curves: error on those left out "\
        f"{found.error:.3g}" in found.note  # fmt: skip


def test_errors_are_of_trials_that_were_truly_left_out(tmp_path: Path) -> None:
    data = study(tmp_path / "s", n_complete=10, n_stopped=1)
    curves = data.curves[data.curves["trial"] < 10]
    x = finite(curves[curves["epoch"] == 1]["best"])
    y = finite(curves[curves["epoch"] == 9]["best"])
    left = [
        y[k] - np.polyval(np.polyfit(np.delete(x, k), np.delete(y, k), 1), x[k]) for k in range(10)
    ]
    assert extrapolate(data, 9).error == pytest.approx(np.sqrt(np.mean(np.square(left))))


def test_too_few_complete_curves_tell_nothing(tmp_path: Path) -> None:
    found = extrapolate(study(tmp_path / "s", n_complete=5, n_stopped=3), 9)
    assert not found.values["extrapolated"].any()
    assert found.error is None
    assert found.note == "none could be extrapolated"


def test_frames_and_figures_say_what_is_extrapolated(tmp_path: Path) -> None:
    data = study(tmp_path / "s")
    plain = load_trials(tmp_path / "s", epochs=[9])
    trials = load_trials(tmp_path / "s", epochs=[1, 9], extrapolate=True)
    assert plain["value_at_9"].notna().sum() == 20
    assert trials["value_at_9"].notna().sum() == 40
    assert trials["value_at_9_low"].notna().sum() == 20
    assert trials["value_at_1_low"].notna().sum() == 0
    assert trials.attrs["extrapolation_error"][9] == pytest.approx(extrapolate(data, 9).error)

    note = extrapolate(data, 9).note
    drawn = [
        figures.heatmap(data, "window", "cell", extrapolate=True),
        figures.interaction(data, "window", "cell", extrapolate=True),
        figures.slices(data, "units", fidelity=9, extrapolate=True),
        figures.parallel(data, extrapolate=True),
    ]
    assert all(note in figure.layout.title.text for figure in drawn)
    assert "20 extrapolated" in drawn[0].data[0].text[0][1]
    assert list(drawn[2].data[0].marker.symbol).count("circle-open") == 20
    assert figures.compared(data).shape[0] == 20
    with pytest.raises(SettingError, match="fidelity is 'last'"):
        figures.compared(data, "last", extrapolate=True)
