"""The notebooks run from top to bottom, each with nothing but what it imports."""

import ast
import shutil
from pathlib import Path

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
