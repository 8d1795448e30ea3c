"""The file of `--config`: YAML, or JSON as a part of it, whose keys are the names of the flags."""

import math
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hypertune.cli.options import IN_FILE
from hypertune.core.errors import SettingError, choices, shown
from hypertune.core.options import Option
from hypertune.core.text import redact
from hypertune.settings import OF_STUDY
from hypertune.studies.study import Study

# YAML 1.2, in which "no" is a word, 12:30 no number, and 1e-3 a number.
_WORDS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?([0-9]*\.[0-9]+|[0-9]+\.|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # as in the class above

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [str(key) for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(
                problem=f"'{twice[0]}' is there twice", problem_mark=node.start_mark
            )
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


class _Dumper(yaml.SafeDumper):
    pass  # quotes what YAML 1.1 or 1.2 takes for something else than text


for _name, _pattern in _WORDS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), None
        )


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a file, by key.

    Raises:
        SettingError: It cannot be read, or breaks rules; the message lists all breaches.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SettingError(f"--config '{path}' cannot be read: {why}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SettingError(f"--config '{path}' must hold keys and values, such as n_trials: 20.")
    given, problems = {}, []
    for key, value in found.items():
        if key not in IN_FILE:
            problems.append(f"unknown setting '{key}'.{choices(key, list(IN_FILE))}")
            continue
        try:
            if value is not None:
                given[str(key)] = _value(IN_FILE[key], value)
            elif IN_FILE[key].default is not None:
                IN_FILE[key].kind.take(None)
        except ValueError as error:
            problems.append(f"{key} {error}")
    if problems:
        raise SettingError("\n".join([f"{path}:", *(f"  - {text}" for text in problems)]))
    return given


def _value(option: Option, value: Any) -> Any:
    """Return a value that keeps the rules of its type."""
    taken = option.kind.take(value)
    if option.key == "tracking_uri" and "***" in taken:
        raise ValueError(f"must hold its login again, which was left out of '{taken}'.")
    return option.kind.plain(taken)


def write_config(given: Mapping[str, Any], study: Study) -> str:
    """Return a file that asks for the same run, with the text of each setting as a comment.

    Args:
        given: The settings that were given, by key, with values that keep the rules.
        study: The study that is to run.

    Raises:
        SettingError: A value has no form in a file.
    """
    lines, group = ["# Settings for: hypertune run --config FILE"], ""
    for key, option in IN_FILE.items():
        if option.group != group:
            group = option.group
            lines += ["", f"## {group}"]
        value = option.kind.take(given[key]) if key in given else option.default
        lines += ["", *_comment(option, study), _line(option, value)]
    return "\n".join(lines)


def _comment(option: Option, study: Study) -> list[str]:
    choices = ", ".join(option.kind.choices)
    text = [option.help_text, f"One of: {choices}." if choices else ""]
    if option.unset == OF_STUDY:
        text.append(f"The study has {getattr(study, option.field)}.")
    return textwrap.wrap(
        " ".join(filter(None, text)), 88, initial_indent="# ", subsequent_indent="# "
    )


def _line(option: Option, value: Any) -> str:
    plain = None if value is None else option.kind.plain(value)
    if option.key == "tracking_uri" and plain is not None:
        plain = redact(plain)
    try:
        text = yaml.dump({option.key: plain}, Dumper=_Dumper, width=math.inf)
    except yaml.YAMLError:
        raise SettingError(f"{option.flag} {shown(plain)} has no form in a file.") from None
    return text.rstrip("\n")
