"""What the recommended model gets right and wrong is found from its kept predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_studies import Made, write_study

from hypertune.analysis import write_report
from hypertune.analysis.predictions import read_predictions
from hypertune.engine.ray.worker import save_predictions
from hypertune.journal.store import predictions_file

CHANCE = np.array([0.9, 0.8, 0.4, 0.1, 0.7, 0.2], dtype=np.float32)


def classes(**changes: Any) -> dict[str, Any]:
    """Return predictions of six samples: a cat twice taken for a dog, a cow once for a cat."""
    return {
        "classes": np.array(["cat", "dog", "cow"]),
        "truth": np.array([0, 1, 0, 0, 2, 2], dtype=np.int16),
        "predicted": np.array([0, 1, 1, 1, 2, 0], dtype=np.int16),
        "p_predicted": np.maximum(CHANCE, 1 - CHANCE),
        "p_true": CHANCE,
        "rows": np.arange(10, 16),
        "worst": np.array([3, 5, 2]),
        "worst_x": np.arange(3 * 16, dtype=np.float32).reshape(3, 1, 4, 4),
    } | changes


def studied(tmp_path: Path, found: dict[str, dict[str, Any]], **study: Any) -> Path:
    folder = write_study(tmp_path / "s", [Made(losses=[1.0] * 9, test=0.5)], **study)
    save_predictions(predictions_file(folder, 0), found)
    return folder


def test_classes_that_are_mixed_up_are_named_and_drawn(tmp_path: Path) -> None:
    (found,) = read_predictions(studied(tmp_path, {"test": classes()}))

    assert found.record["confusion"] == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    assert found.sentences[:3] == [
        "Of 6 samples of the test part 3 are predicted correctly (0.5).",
        "Most often 'cat' is taken for 'dog': 2 of 3.",
        "Least often predicted correctly is 'cat': 1 of 3.",
    ]
    assert [row["row"] for row in found.record["worst"]] == [13, 15, 12]
    matrix, worst = found.figures
    assert matrix.data[0].customdata.tolist() == found.record["confusion"]
    assert [note.text for note in worst.layout.annotations] == [
        "cat, predicted dog", "cow, predicted cat", "cat, predicted dog",
    ]  # fmt: skip
    assert worst.data[0].z.tolist() == np.arange(16).reshape(4, 4).tolist()


@pytest.mark.parametrize(
    ("x", "n_traces"),
    [(np.zeros((3, 5, 2)), 6), (np.zeros((3, 3, 4, 4)), 3), (np.zeros((3, 7)), None)],
)
def test_worst_errors_are_drawn_as_what_they_are(x: Any, n_traces: int, tmp_path: Path) -> None:
    (found,) = read_predictions(studied(tmp_path, {"test": classes(worst_x=x)}))

    if n_traces is None:
        assert len(found.figures) == 1  # a row of a table is no picture
    else:
        assert len(found.figures[1].data) == n_traces


def test_model_that_tells_no_probabilities_is_shown_without(tmp_path: Path) -> None:
    predicted = {
        k: v for k, v in classes().items() if k not in ("p_predicted", "p_true", "worst_x")
    }
    (found,) = read_predictions(studied(tmp_path, {"test": predicted}))

    assert found.columns == ["row of the data", "true", "predicted"]
    assert found.rows[0] == ["13", "cat", "dog"]
    assert (len(found.sentences), len(found.figures)) == (3, 1)


def test_the_names_of_earlier_versions_are_read(tmp_path: Path) -> None:
    names = {"predicted": "told", "p_predicted": "certainty", "p_true": "chance"}
    earlier = {names.get(name, name): array for name, array in classes().items()}
    (now,) = read_predictions(studied(tmp_path / "now", {"test": classes()}))
    (found,) = read_predictions(studied(tmp_path / "earlier", {"test": earlier}))
    assert (found.sentences, found.rows) == (now.sentences, now.rows)


def test_model_without_an_error_has_none_to_show(tmp_path: Path) -> None:
    some = classes()
    right = classes(predicted=some["truth"], worst=np.zeros(0, int), worst_x=np.zeros((0, 1, 4, 4)))
    (found,) = read_predictions(studied(tmp_path, {"test": right}))

    assert found.sentences == ["Of 6 samples of the test part 6 are predicted correctly (1)."]
    assert (len(found.figures), found.rows) == (1, [])


def test_numbers_are_drawn_over_the_truth(tmp_path: Path) -> None:
    truth = np.arange(1, 9, dtype=np.float32)
    predicted = truth + np.array([2, 2, 0, 0, 0, 0, -1, -1], dtype=np.float32)
    (found,) = read_predictions(
        studied(
            tmp_path, {"test": {"truth": truth, "predicted": predicted, "rows": np.arange(8) + 100}}
        )
    )

    assert found.sentences == [
        "On 8 samples of the test part it is off by 0.75 on average, and by 2 at worst (row 100: 3 "
        "for 1).",
        "On average it predicts 0.25 too much.",
        "Of the lowest quarter it predicts 2 too much, of the highest 1 too little.",
    ]
    ends, samples = found.figures[0].data
    assert (list(samples.x), list(samples.y)) == (truth.tolist(), predicted.tolist())
    assert list(ends.x) == list(ends.y) == [1.0, 8.0]


def test_forecasts_are_drawn_at_the_time_that_they_are_for(tmp_path: Path) -> None:
    values = np.array([0, 1, 3, 6, 10, 15], dtype=np.float32)
    origins = np.arange(4)
    forecast = values[origins][:, None] + np.array([1.0, 3.0], dtype=np.float32)
    (found,) = read_predictions(
        studied(
            tmp_path,
            {"test": {"values": values, "first": np.array(50), "origins": origins,
                      "predicted": forecast}},
        )
    )  # fmt: skip

    assert found.sentences[1] == "They are better than carrying the last value on at every step."
    assert found.record["mae_by_step"] == [1.5, 3.0]
    assert found.record["naive_mae_by_step"] == [2.5, 6.0]
    assert found.record["worst_from_step"] == 54
    truth, one, two = found.figures[0].data
    assert list(truth.x) == list(range(50, 56))
    assert (list(one.x), list(one.y)) == ([51, 52, 53, 54], [1, 2, 4, 7])
    assert (list(two.x), list(two.y)) == ([52, 53, 54, 55], [3, 4, 6, 9])


def test_report_shows_each_test_set_and_what_fails_elsewhere(tmp_path: Path) -> None:
    further = {"elsewhere": "test_elsewhere_loss"}
    folder = studied(
        tmp_path, {"test": classes(), "elsewhere": classes()}, further_test_metrics=further
    )
    html = write_report(folder).read_text()
    markdown = (folder / "report" / "report.md").read_text()
    record = json.loads((folder / "report" / "report.json").read_text())

    for key in ("test-0", "test-1", "elsewhere-0", "elsewhere-1"):
        assert f'id="figure-predictions-{key}"' in html
    assert "The test set &#39;elsewhere&#39;" in html
    assert "Of 6 samples of the test set 'elsewhere' 3 are predicted correctly (0.5)." in markdown
    assert "| 13 | cat | dog | 0.9 | 0.1 |" in markdown
    assert record["tested"]["elsewhere"]["n_right"] == 3


def test_study_that_kept_nothing_is_told_nothing(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", [Made(losses=[1.0] * 9, test=0.5)])
    assert read_predictions(folder) == []
    assert read_predictions(write_study(tmp_path / "t", [Made(losses=[1.0])])) == []
    assert "What it gets right" not in write_report(folder).read_text()
