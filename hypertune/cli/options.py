"""The options of the commands, made from the definitions of the settings.

An option that a setting stands behind has its name, text and default from `hypertune.settings`;
those that several commands share beside them are defined here. A command that takes options of its
own alone says so in its signature.
"""

import ast
import functools
import inspect
import json
import keyword
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypertune.core.errors import Checks, SettingError
from hypertune.core.options import File, Kind, Option, Switch, Text
from hypertune.settings import OPTIONS, Settings

if TYPE_CHECKING:
    from hypertune.studies.study import Study


class FixedValues(Kind):
    """Values of a study's fixed parameters: ``key=value`` on the command line."""

    metavar = "KEY=VALUE"
    repeated = True

    def read(self, text: Iterable[str]) -> Any:
        values = {}
        for pair in text:
            key, equals, value = pair.partition("=")
            if not (key and equals):
                return pair
            values[key] = _value(value)
        return values

    def take(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be key=value, but got '{value}'.")
        return {str(key): one for key, one in value.items()}

    def word(self, value: Mapping[str, Any]) -> list[str]:
        return [f"{key}={_word(one)}" for key, one in value.items()]


def _value(text: str) -> Any:
    """Return what a text says in JSON or in Python, else the text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _word(value: Any) -> str:
    """Return a text of which `_value` makes the same value again."""
    if isinstance(value, str) and _value(value) == value:
        return value
    return json.dumps(value) if isinstance(value, str | float | bool | None) else repr(value)


SPACE = Option(
    key="space",
    kind=Text("NAME|FILE"),
    help="Study: a name from `hypertune list`, or a Python file.",
)
SET = Option(
    key="set", kind=FixedValues(), help="Change a fixed value of the study; may be repeated."
)
CONFIG = Option(
    key="config",
    kind=File("FILE"),
    help="YAML or JSON file with settings; flags win over it.",
    more="Its keys are the names of the flags, with '_' in place of '-'. A flag --no-NAME turns a "
    "switch off that the file turns on.",
)
PRINT_CONFIG = Option(
    key="print_config",
    kind=Switch(),
    help="Print the settings as a file for --config, and start nothing.",
)
DRY_RUN = Option(key="dry_run", kind=Switch(), help="Show the plan, and start nothing.")
PROBE = Option(
    key="probe", kind=Switch(), help="With --dry-run: measure the time of three short trials."
)
OR_RESUME = Option(key="or_resume", kind=Switch(), help="Resume the study --name if it has begun.")
MOVED_SPACE = replace(SPACE, help="Name or file of the study, if it has moved.")
TRUST = Option(
    key="trust",
    kind=Switch(),
    help="Allow running the study's file although the study was begun by somebody else.",
)

IN_FILE = {one.key: one for one in (SPACE, SET, *OPTIONS.values())}
"""What a file for `--config` may hold, by key."""
SHARED = [SPACE, SET, OPTIONS["name"], CONFIG, PRINT_CONFIG, OR_RESUME]
RUN = [*SHARED, DRY_RUN, PROBE, *(one for one in OPTIONS.values() if one.key != "name")]
SUBMIT = [one for one in RUN if one.key not in ("address", "dry_run")]
RESUME = [
    *(replace(one, help=one.resume, group="", unset="") for one in OPTIONS.values() if one.resume),
    MOVED_SPACE,
    TRUST,
    replace(OPTIONS["studies_dir"], group=""),
]


def flag(name: str) -> Any:
    """Return the option of a setting, for a command's signature."""
    option = OPTIONS[name]
    return typer.Option(
        option.flag, help=option.help_text, metavar=option.kind.metavar, show_default=False
    )


StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study's folder.")]
StudiesDir = Annotated[Path, flag("studies_dir")]
TrackingUri = Annotated[str | None, flag("tracking_uri")]


def takes(
    options: Iterable[Option], *, hidden: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take options.

    Those that were given reach it in its argument ``given``, by key: a number as a number, all else
    as text, unchecked.

    Args:
        options: Their definitions.
        hidden: Its help screen does not show them.
    """
    names = {_parameter(one.key): one for one in options}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**values: Any) -> None:
            given = {}
            for name, option in names.items():
                value, off = values.pop(name), values.pop(f"no_{name}", None)
                if off:
                    given[option.key] = False
                elif value is not None and value != []:
                    given[option.key] = option.kind.read(value)
            command(given=given, **values)

        own = [p for p in inspect.signature(command).parameters.values() if p.name != "given"]
        made = [one for option in options for one in _parameters(option, hidden=hidden)]
        called.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]
        called.__annotations__ = {}
        return called

    return decorate


def _parameter(key: str) -> str:
    return f"{key}_" if keyword.iskeyword(key) else key


def _parameters(option: Option, *, hidden: bool) -> list[inspect.Parameter]:
    """Return what typer makes an option of, and one that turns off a switch of a file."""
    kind: Any = str | None
    if isinstance(option.kind, Switch):
        kind = bool | None
    elif option.kind.repeated:
        kind = list[str] | None
    shown = typer.Option(
        option.flag,
        help=option.help_text,
        metavar=option.kind.metavar or None,
        show_default=False,
        rich_help_panel=option.group or None,
        hidden=hidden,
    )
    made = [_keyword(_parameter(option.key), Annotated[kind, shown])]
    if isinstance(option.kind, Switch) and option.field:
        off = typer.Option(f"--no-{option.flag[2:]}", hidden=True)
        made.append(_keyword(f"no_{_parameter(option.key)}", Annotated[bool | None, off]))
    return made


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def with_file(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, and beneath them those of the file of `--config`.

    Raises:
        SettingError: The file cannot be read, or breaks rules.
    """
    if (path := given.get("config")) is None:
        return dict(given)
    from hypertune.cli.config_file import read_config

    return {**read_config(Path(path)), **given}


def parse_run_flags(given: Mapping[str, Any], **changes: Any) -> "tuple[Study, Settings]":
    """Return the study and the settings that the options of `run` ask for.

    Args:
        given: The options that were given, by key, as of `with_file`.
        changes: Settings in place of those.

    Raises:
        HypertuneError: Options break a rule; the message lists all breaches.
    """
    from hypertune.studies.study import load_study

    check = Checks()
    with check:
        changed = checked(SET, given.get("set", {}))
        study = load_study(given_space(given)).with_fixed(changed)
    values = {one.field: given[key] for key, one in IN_FILE.items() if one.field and key in given}
    with check:
        settings = Settings.from_fields({**values, **changes})
        settings.check_end()
    with check:
        if "probe" in given and "dry_run" not in given:
            raise SettingError("--probe goes with --dry-run.")
        if "or_resume" in given and "name" not in given:
            raise SettingError("--or-resume needs --name, the name of the study to resume.")
    check.done()
    return study, settings


def given_space(given: Mapping[str, Any]) -> str:
    """Return the study that was given.

    Raises:
        SettingError: None was.
    """
    if "space" not in given:
        raise SettingError(
            "--space must be given: a study's name from `hypertune list`, or a Python file."
        )
    return str(given["space"])


def checked(option: Option, value: Any) -> Any:
    """Return a value that an option of a command was given.

    Raises:
        SettingError: A rule is broken.
    """
    try:
        return option.kind.take(value)
    except ValueError as error:
        raise SettingError(f"{option.flag} {error}") from None


def words(given: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return the options of `run` as words of a command line: by key, the flag and its value.

    Args:
        given: Their values, by key; those of this command alone, such as ``dry_run``, are left out.
    """
    found = {}
    for option in (SPACE, *OPTIONS.values(), SET, OR_RESUME):
        if (value := given.get(option.key)) is not None and value is not False:
            found[option.key] = (option.flag, option.kind.word(option.kind.take(value)))
    return found
