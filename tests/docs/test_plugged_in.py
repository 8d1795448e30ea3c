"""The examples of the docs, used as a stranger would: from files outside of the package."""

import contextlib
import json
from pathlib import Path

import pytest
from commands import ROOT, finished

from hypertune.engine.resume import RecordedStudy
from hypertune.journal.store import Journal

EXAMPLES = ROOT / "docs" / "examples"
STUDY = """
from ray import tune
import hypertune

def train(config, report):
    for epoch in range(1, config["max_epochs"] + 1):
        report(epoch=epoch, val_loss=(config["x"] - 0.3) ** 2 + 1 / epoch)

study = hypertune.Study(
    question="Which x is best?",
    factors=("x",),
    space={"x": tune.uniform(-1, 1)},
    default={"x": 0.5},
    trainable=train,
    metric="val_loss",
    max_epochs=4,
    n_trials=6,
)
"""


def test_examples_are_short() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    assert files
    for file in files:
        assert len(file.read_text().splitlines()) <= 60, file.name


@pytest.mark.slow
def test_searcher_and_scheduler_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "question.py").write_text(STUDY)
    for name in ("my_searcher.py", "my_scheduler.py"):
        (tmp_path / name).write_text((EXAMPLES / name).read_text())
    flags = "--space question.py --name s --method my_searcher.py:NearTheBest --n-repeats 0"
    flags += " --scheduler my_scheduler.py:HalfWay --n-concurrent 1 --n-trials 6"
    status, out, err = finished(tmp_path, "run", *flags.split())
    assert status == 0, out + err
    folder = tmp_path / "studies" / "s"
    with contextlib.closing(Journal(folder / "journal.db", read_only=True)) as journal:
        about, trials = journal.study(), journal.trials()
        epochs = {t.id: len(journal.results(trial=t.id)) for t in trials if t.role == "search"}
    assert about["method"] == f"{tmp_path / 'my_searcher.py'}:NearTheBest"
    assert about["rungs"] == [2, 4]
    assert set(about["plug_files"]) == {str(tmp_path / f"my_{n}.py") for n in PLUGS}
    assert set(epochs.values()) == {2, 4}
    # It is rebuilt from its record, and goes on; a file that is gone is told of.
    search = RecordedStudy.read(folder).recorded_search()
    assert [t.flat for t in search.trials] == [
        {"x": t.config["x"]} for t in trials if t.role == "search"
    ]
    (tmp_path / "my_scheduler.py").rename(tmp_path / "elsewhere.py")
    status, out, err = finished(tmp_path, "resume", "s", "--n-trials", "8")
    assert status == 2
    assert "my_scheduler.py', which is not there any more" in " ".join((out + err).split())
    assert json.loads((folder / "report" / "report.json").read_text())


PLUGS = ("searcher", "scheduler")
