"""Every shipped study loads, trains an epoch of its default and stands beside its baselines."""

import math
from pathlib import Path

import pytest

from hypertune.studies.study import Study, load_study, study_names

EXPECTED = {
    "activation_depth", "batch_lr", "cnn", "gru_window", "init_optimizer", "layers_hidden",
    "lr_schedule", "optimizer_lr", "regularization", "rnn_layers", "sequence_models", "transfer",
    "units_dropout", "units_layers", "watch_window",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def test_all_studies_are_there() -> None:
    assert set(study_names()) >= EXPECTED


@pytest.mark.parametrize("name", study_names())
def test_study_trains_an_epoch_of_its_default_and_reports_what_it_declares(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    study = load_study(name)
    whole = study.trainable.load(test=True)
    config = {**study.config(study.default, seed=0), "device": "cpu"}
    loop = study.trainable.start(config, whole, metric=study.metric, mode=study.mode)

    metrics, tested = loop.step(), loop.test(whole)
    further = tuple(f"test_{name}_" for name in study.further_test_metrics)

    assert tuple(metrics) == study.trainable.metrics
    assert {m for m in tested if not m.startswith(further)} == set(
        study.trainable.test_metrics.values()
    )
    assert set(study.further_test_metrics.values()) <= set(tested)
    assert all(math.isfinite(value) for value in [*metrics.values(), *tested.values()])
    for test, metric in ((False, study.metric), (True, study.test_metric)):
        baselines = study.trainable.baselines(whole, test=test)
        assert len(baselines) >= 2
        assert all(math.isfinite(found[metric or ""]) for found in baselines.values())


@pytest.mark.parametrize("name", study_names())
def test_study_reads_as_a_lab_note(name: str) -> None:
    study = load_study(name)
    note = Path(study.source).read_text().split('"""')[1]

    assert f"python hypertune.py --space {name}" in note
    for part in ("?", "Data: ", "Baselines", "Budget: "):
        assert part in note
    assert f"{study.n_trials} trials of up to {study.max_epochs} epochs" in note
    assert study.question.endswith("?")


@pytest.mark.parametrize("name", study_names())
def test_levels_of_a_factor_differ_and_the_default_is_one_of_them(name: str) -> None:
    study: Study = load_study(name)

    for factor in study.factors:
        assert factor in study.default
        (parameter,) = (p for p in study.search_space.parameters if p.name == factor)
        assert parameter.n_values is None or parameter.n_values >= 2
