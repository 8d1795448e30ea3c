"""Modules beside a study's file may be imported anywhere in its code, on any machine."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import cloudpickle

from hypertune.core.local_modules import local_modules
from hypertune.studies.study import load_study, source_files

STUDY = """
from ray import tune
from hypertune import Study


def train(config, report):
    import one_beside_lazily
    from package_beside.part import third
    assert __import__("two_beside_lazily").half(4) == 2
    for epoch in range(1, config["max_epochs"] + 1):
        report(epoch=epoch, loss=one_beside_lazily.double(config["x"]) + third(3))


study = Study(
    question="Does it find them?", factors=("x",), space={"x": tune.uniform(0, 1)},
    default={"x": 0.5}, trainable=train, metric="loss", max_epochs=2, n_trials=2, n_repeats=0,
)
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "mine"
    (folder / "package_beside").mkdir(parents=True)
    (folder / "study.py").write_text(STUDY)
    (folder / "one_beside_lazily.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "two_beside_lazily.py").write_text("def half(x):\n    return x / 2\n")
    (folder / "unused.py").write_text("raise SystemExit\n")
    (folder / "package_beside/__init__.py").write_text("")
    (folder / "package_beside/part.py").write_text("from .other import third\n")
    (folder / "package_beside/other.py").write_text("def third(x):\n    return x / 3\n")
    before = list(sys.meta_path)
    yield folder / "study.py"
    sys.meta_path[:] = before
    for name in [name for name in sys.modules if "beside" in name]:
        del sys.modules[name]


WORKER = """
import pickle, sys
modules, train = pickle.load(open(sys.argv[1], "rb"))
modules.install()
reported = []
train({"x": 0.5, "max_epochs": 2}, lambda **metrics: reported.append(metrics["loss"]))
assert reported == [2.0, 2.0], reported
"""


@pytest.mark.parametrize("folder_is_there", [True, False])
def test_what_a_function_imports_is_there_in_another_process(
    folder_is_there: bool, study_file: Path, tmp_path: Path
) -> None:
    study = load_study(str(study_file))
    sent = cloudpickle.dumps((local_modules(study_file), study.trainable.train))
    (tmp_path / "sent").write_bytes(sent)
    if not folder_is_there:
        shutil.rmtree(study_file.parent)

    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "sent")],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr


def test_what_is_imported_later_belongs_to_the_study(study_file: Path) -> None:
    names = [path.name for path in source_files(load_study(str(study_file)))]
    assert names == [
        "study.py",
        "one_beside_lazily.py",
        "__init__.py",
        "other.py",
        "part.py",
        "two_beside_lazily.py",
    ]


def test_it_can_be_run_in_the_process_that_loaded_it(study_file: Path) -> None:
    reported: list[float] = []
    study = load_study(str(study_file))
    study.trainable.train(
        {"x": 0.5, "max_epochs": 1}, lambda **metrics: reported.append(metrics["loss"])
    )
    assert reported == [2.0]


def test_what_cannot_be_read_or_is_a_library_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "study.py"
    (tmp_path / "numpy.py").write_text("raise SystemExit")
    path.write_text("import numpy\nimport broken_beside")
    (tmp_path / "broken_beside.py").write_text("def (")
    with contextlib.suppress(SyntaxError):
        found = local_modules(path)
    assert list(found.files) == ["broken_beside"]
