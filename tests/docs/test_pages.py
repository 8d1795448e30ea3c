"""The pages say what is so: their code runs, their commands do what is printed below them."""

import contextlib
import doctest
import io
import json
import re
import shutil
import sqlite3
import subprocess
import tempfile
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, call

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(`{3})(python|console|yaml)\n(.*?)^`{3}$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w-]+\.(?:py|yaml))\n")


def pages_with_code() -> list[str]:
    pages = sorted([*DOCS.glob("how-to/*.md"), *DOCS.glob("reference/*.md")])
    found = [page for page in pages if BLOCK.search(page.read_text(encoding="utf-8"))]
    return [str(page.relative_to(DOCS)) for page in found]


def modules_with_examples() -> list[str]:
    files = sorted((ROOT / "hypertune").rglob("*.py"))
    found = [file for file in files if ">>>" in file.read_text(encoding="utf-8")]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in found]


JOB_SERVER, ON_HEAD = "http://127.0.0.1:8265", "/tmp/cluster"
"""Where the pages have the job server of a cluster, and its studies; the tests have others."""


def run_page(page: Path, patch: pytest.MonkeyPatch, folder: Path, job_server: str = "") -> None:
    """Do what a page says in a folder, from top to bottom."""
    names: dict[str, Any] = {"__name__": "page"}
    patch.chdir(folder)
    for _, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        named = FILE.match(text)
        if language == "console":
            text = text.replace(JOB_SERVER, job_server).replace(ON_HEAD, str(folder / "cluster"))
            run_console(text, patch, folder)
        elif named:
            (folder / named[1]).write_text(text[named.end() :], encoding="utf-8")
        else:
            exec(compile(text, page.name, "exec"), names)


def run_console(text: str, patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run the commands of a block, and compare what they print with what stands below each."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, wanted = part.replace("\\\n", " ").partition("\n")
        program, *words = command.split()
        if program == "hypertune":
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                status = call(patch, folder, *words)
            printed = said.getvalue()
        else:
            done = subprocess.run(
                command, shell=True, capture_output=True, text=True, cwd=folder, timeout=200
            )
            status, printed = done.returncode, done.stdout + done.stderr
        assert status == 0, f"{command}\n{printed}"
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        same = doctest.OutputChecker().check_output(wanted, printed, flags)
        assert not wanted or same, f"{command} printed\n{printed}\nand not\n{wanted}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it who follows the tutorials from the first to the last."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "studies").mkdir()
    shutil.copytree(ROOT / "analysis" / "recorded" / "gru_window", folder / "studies/gru_window")
    for example in (DOCS / "examples").glob("*.py"):
        shutil.copy(example, folder)
    return folder


@pytest.mark.usefixtures("one")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["first-study", "own-training", "reading-the-answer"])
def test_a_tutorial_does_what_it_says(
    name: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_page(DOCS / "tutorials" / f"{name}.md", monkeypatch, desk)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.filterwarnings("default")
def test_the_tutorial_on_clusters_does_what_it_says(
    desk: Path, local_ray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_page(DOCS / "tutorials" / "cluster.md", monkeypatch, desk, local_ray)


@pytest.mark.usefixtures("one")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", pages_with_code())
def test_a_page_does_what_it_says(page: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(DOCS / page, monkeypatch, desk)


def test_every_page_is_in_the_table_of_contents_and_every_link_of_the_readme_leads_somewhere() -> (
    None
):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert len(links) >= 10
    assert [link for link in links if not (ROOT / link).exists()] == []
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.glob("*/*.md")}
    pages = {page for page in pages if not page.startswith("_")}
    assert [page for page in sorted(pages) if f"\n{page}\n" not in contents] == []


def test_the_readme_is_a_door_and_shows_the_test_command_that_ci_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = (ROOT / ".ci" / "test").read_text(encoding="utf-8").splitlines()[-1]
    assert len(text.split()) <= 700
    assert f"\n{command}\n" in text
    assert ".ci/test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    page = (DOCS / "explanation" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([\d; ]+) (?:\| 0 ){4}\|$", page, re.MULTILINE)
    n = sum(int(number) for row in rows for number in row.split(";"))
    assert f"{n} of {n}" in text


def test_the_page_on_architecture_has_the_layers_that_are_checked() -> None:
    text = (DOCS / "explanation" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    assert [row.replace("`", "").replace(", ", " | ") for row in rows] == layers


def test_the_journal_s_page_names_every_event_and_what_is_in_it() -> None:
    text = (DOCS / "reference" / "journal.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", text, re.MULTILINE))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "hypertune").rglob("*.py"))
    assert {*re.findall(r'\b_?(?:add_)?event\(\s*"(\w+)"', code)} <= {*rows}
    for path in (ROOT / "analysis" / "recorded").glob("*/journal.db"):
        with contextlib.closing(sqlite3.connect(path)) as db:
            for kind, data in db.execute("SELECT kind, data FROM events"):
                assert {*json.loads(data)} <= {*re.findall(r"`(\w+)`", rows[kind])}, kind
            keys = [key for (key,) in db.execute("SELECT key FROM study")]
        assert [key for key in keys if f"`{key}`" not in text] == []


@pytest.mark.usefixtures("one")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_in_docstrings_run(
    name: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setattr(tempfile, "tempdir", str(desk))
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
    assert result.attempted > 0
