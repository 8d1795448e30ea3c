"""The notebooks run from top to bottom, and a notebook shows a search as a terminal does."""

import ast
import shutil
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parents[1] / "analysis"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_notebooks_define_nothing_and_are_committed_with_their_outputs() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    for path in NOTEBOOKS:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        for cell in cells:
            nodes = ast.walk(ast.parse(cell.source))
            kinds = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
            assert not any(isinstance(node, kinds) for node in nodes), cell.source
        shown = [output for cell in cells for output in cell.outputs]
        assert not any(output.output_type == "error" for output in shown)
        assert any("image/png" in output.get("data", {}) for output in shown), path.name


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery, which runs in this process
def test_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a copy: readers of a journal may leave files beside it.
    shutil.copytree(FOLDER, tmp_path / "analysis", ignore=shutil.ignore_patterns("pictures"))
    monkeypatch.setenv("PLOTLY_RENDERER", "json")
    # One kernel for all, emptied in between: it takes seconds to import what they need.
    cells = []
    for path in NOTEBOOKS:
        code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        cells += [nbformat.v4.new_code_cell("%reset -f"), *code]
    book = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(
        book, timeout=200, resources={"metadata": {"path": str(tmp_path / "analysis")}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(str(error))
    figures = [
        output
        for cell in book.cells
        for output in cell.get("outputs", ())
        if "application/json" in output.get("data", {})
    ]
    assert len(figures) >= 20


STUDY = """
import hypertune
from ray import tune

def train(config, report):
    for epoch in range(1, config["max_epochs"] + 1):
        report(epoch=epoch, val_loss=config["x"] ** 2 + 1 / epoch)

study = hypertune.Study(
    question="Which <b>x</b> is best?",
    factors=("x",),
    space={"x": tune.uniform(-1, 1)},
    default={"x": 0.5},
    trainable=train,
    metric="val_loss",
    max_epochs=2,
    n_trials=2,
)
settings = {"method": "random", "n_repeats": 0, "n_concurrent": 1, "sync_timeout_s": 0}
"""


class Recorder(NotebookClient):  # type: ignore[misc]
    """Keeps each state of what is shown and then replaced."""

    shown: ClassVar[list[str]] = []

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.shown.append(msg["content"]["data"]["text/plain"])
        return super().process_message(msg, cell, cell_index)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # the kernel starts a Ray of its own
@pytest.mark.filterwarnings("ignore")
def test_a_search_is_shown_in_the_cell_that_runs_it(tmp_path: Path) -> None:
    sources = (STUDY, "result = hypertune.run(study, **settings)\nresult")
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    book = nbformat.v4.new_notebook(cells=cells)
    Recorder(book, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()

    # Ray Tune clears no cell, and prints nothing into it.
    progress, result = book.cells[1].outputs
    assert progress.output_type == "display_data"
    assert "2/2 trials, 0 running, 2 complete; best val_loss" in progress.data["text/html"]
    for stage in ("starting Ray", "searching"):
        assert any(stage in text for text in Recorder.shown)
    assert result.data["text/plain"].startswith("study-1 (finished)")
    assert "Which &lt;b&gt;x&lt;/b&gt; is best?" in result.data["text/html"]
