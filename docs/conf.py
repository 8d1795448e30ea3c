"""Builds the docs: `pip install -e ".[docs]" && sphinx-build -W docs docs/_build`.

What the code itself can say is written from the code at each build, into ``docs/_generated``: the
options of every command, the settings, the methods, the studies, the data sets and the Python API.
"""

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

import hypertune
from hypertune.cli.app import app as command_line
from hypertune.data import DATA_SETS, SERIES
from hypertune.search.methods import METHODS
from hypertune.settings import describe
from hypertune.studies.study import load_study, study_names

project = "hypertune"
author = "the hypertune authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated", "examples"]
html_theme = "furo"
html_title = "hypertune"
html_show_copyright = False
smartquotes = False  # -- is the beginning of an option
toc_object_entries = False
html_css_files = ["wide-tables.css"]
html_static_path = ["_static"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings name shapes and units
autodoc_member_order = "bysource"
default_role = "literal"  # single backticks in docstrings
napoleon_use_rtype = False
# Reading a study file starts nothing, and no page needs the network.
intersphinx_mapping: dict[str, Any] = {}

GENERATED = Path(__file__).parent / "_generated"


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; ``|`` and ``<`` in a cell stay characters."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cell(str(one)) for one in line)} |" for line in lines) + "\n"


def cell(text: str) -> str:
    """Return the text of a cell; within backticks a ``<`` is a character already."""
    parts = text.replace("|", "\\|").replace("\n", " ").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def option_rows(command: Any) -> list[tuple[str, str]]:
    """Return a row for each argument and option of a command: how it is written, and its help."""
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "argument":
            written = parameter.metavar or parameter.name.upper()
        else:
            value = "" if parameter.is_flag else f" {parameter.metavar or 'VALUE'}"
            written = ", ".join(parameter.opts) + value
        rows.append((f"`{written}`", getattr(parameter, "help", None) or ""))
    return rows


def command_line_page() -> str:
    """Return a section for each command."""
    group: Any = typer.main.get_command(command_line)
    parts = []
    for name, command in group.commands.items():
        parts.append(f"## `hypertune {name}`\n\n{inspect.cleandoc(command.help or '')}\n")
        parts.append(table(("option", "meaning"), option_rows(command)))
    return "\n".join(parts)


def settings_page() -> str:
    """Return a section for each group of settings."""
    rows = describe()
    parts = []
    for group in dict.fromkeys(row["group"] for row in rows):
        lines = [
            (
                f"`{row['flag']}`",
                f"`{row['name']}`",
                f"`{row['type']}`" + (f" ({row['unit']})" if row["unit"] else ""),
                row["default"],
                " ".join(filter(None, (row["help"], row["more"]))),
            )
            for row in rows
            if row["group"] == group
        ]
        titles = ("flag", "in Python", "type", "default", "meaning")
        parts.append(f"## {group}\n\n{table(titles, lines)}")
    return "\n".join(parts)


def api_page() -> str:
    """Return the section of the Python API: every public name."""
    parts = []
    for name in sorted(hypertune.__all__, key=str.lower):
        found = getattr(hypertune, name)
        kind = "function"
        if inspect.isclass(found):
            kind = "exception" if issubclass(found, BaseException) else "class"
        members = "   :members:\n" if kind == "class" else ""
        directive = f".. auto{kind}:: hypertune.{name}\n{members}"
        parts.append(f"## {name}\n\n```{{eval-rst}}\n{directive}```\n")
    return "\n".join(parts)


def write_generated(_: object) -> None:
    """Write what the code says of itself."""
    studies = [load_study(name) for name in study_names()]
    pages = {
        "command-line": command_line_page(),
        "settings": settings_page(),
        "methods": table(
            ("method", "what it does"),
            [(f"`{name}`", row.summary) for name, row in METHODS.items()],
        ),
        "studies": table(
            ("study", "question"), [(f"`{study.name}`", study.question) for study in studies]
        ),
        "data-sets": table(
            ("data set", "what it is"),
            [(f"`{name}`", row.summary) for name, row in (SERIES | DATA_SETS).items()],
        ),
        "api": api_page(),
    }
    GENERATED.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = GENERATED / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Write the generated parts before pages are read."""
    app.connect("builder-inited", write_generated)
