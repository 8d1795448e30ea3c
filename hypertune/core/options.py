"""Options: a setting's name, type, unit, default and text, defined once beside its field.

The command line, the file of `--config`, the checks and the reference page all read the same
definition. A `Kind` is a type: it reads text from the command line, converts and checks a value
given in Python or in a file, and writes a value back as text.
"""

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from hypertune.core.errors import SettingError, shown
from hypertune.core.text import unstorable

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_BYTES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0}


class Kind(ABC):
    """A type of setting. Rules and their words are in `take`, and nowhere else."""

    metavar = "TEXT"
    unit = ""
    choices: Sequence[str] = ()
    repeated = False
    """Its flag may be given several times: `read` gets a list."""

    def read(self, text: Any) -> Any:
        """Return what a text of the command line says; the text itself if it says nothing."""
        return text

    @abstractmethod
    def take(self, value: Any) -> Any:
        """Return a value as the setting holds it.

        Raises:
            ValueError: A rule is broken; the message follows the setting's name.
        """

    def plain(self, value: Any) -> Any:
        """Return a value as a file holds it; `take` makes the same value of it again."""
        return value

    def word(self, value: Any) -> Any:
        """Return a value as the command line takes it: a text, or True for a flag alone."""
        return str(self.plain(value))


@dataclass(frozen=True)
class Text(Kind):
    """Text, of any form that can be stored. A path may stand for it where ``path`` says so."""

    metavar: str = "TEXT"
    path: bool = False

    def take(self, value: Any) -> str:
        if self.path and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str):
            raise ValueError(f"must be text, but got {shown(value)}.")
        if unstorable(value):
            raise ValueError(f"must be UTF-8 without NUL, but got {value!a}.")
        return value


@dataclass(frozen=True)
class File(Kind):
    """A path to a file or a folder, as text or as a `Path`."""

    metavar: str = "FILE"

    def take(self, value: Any) -> Path:
        if not isinstance(value, str | os.PathLike):
            raise ValueError(f"must be a path, but got {shown(value)}.")
        path = Path(value)
        if unstorable(text := str(path.absolute())):
            raise ValueError(f"must be UTF-8 without NUL, but got {text!a}.")
        return path

    def plain(self, value: Path) -> str:
        return str(value)


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    choices: Sequence[str]

    @property
    def metavar(self) -> str:  # type: ignore[override]
        """The words."""
        return "|".join(self.choices)

    def take(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            *others, last = self.choices
            got = f"'{value}'" if isinstance(value, str) else shown(value)
            raise ValueError(f"must be {', '.join(others)} or {last}, but got {got}.")
        return value


@dataclass(frozen=True)
class Switch(Kind):
    """On or off."""

    metavar: str = ""

    def take(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, but got {shown(value)}.")
        return value

    def word(self, value: bool) -> bool:
        return value


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number.

    Attributes:
        least: The smallest.
        none: The word that stands for None.
    """

    least: int
    none: str = ""

    @property
    def metavar(self) -> str:  # type: ignore[override]
        """A number, or the word."""
        return f"{self.none}|N" if self.none else "N"

    def read(self, text: str) -> Any:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else text

    def take(self, value: Any) -> int | None:
        if self.none and value == self.none:
            return None
        if isinstance(value, bool) or not isinstance(value, Integral):
            rule = f"{self.none} or a whole number" if self.none else "a whole number"
            raise ValueError(f"must be {rule}, but got {shown(value)}.")
        if value < self.least:
            raise ValueError(f"must be at least {self.least}, but got {value}.")
        return int(value)

    def plain(self, value: int | None) -> Any:
        return self.none if value is None else value


@dataclass(frozen=True)
class Number(Kind):
    """A finite number.

    Attributes:
        zero: It may be 0.
    """

    zero: bool
    metavar: str = "NUMBER"
    rule = "a number"

    def read(self, text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    def take(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"must be {self.rule}, but got {shown(value)}.")
        number = float(value)
        if not (number >= 0 if self.zero else number > 0) or not number < math.inf:
            least = "at least 0" if self.zero else "more than 0"
            raise ValueError(f"must be finite and {least}, but got {value}.")
        return number


@dataclass(frozen=True)
class Duration(Number):
    """Seconds, or a text such as ``90s``, ``10m`` or ``1h30m``."""

    metavar: str = "TIME"
    unit = "seconds, or a text such as 90s, 10m or 1h30m"
    rule = "seconds, or numbers with units (s, m, h or d) such as 90s, 10m or 1h30m"

    def read(self, text: str) -> Any:
        return text

    def take(self, value: Any) -> float:
        return super().take(_seconds(value) if isinstance(value, str) else value)

    def plain(self, value: float) -> str:
        rest, parts = Decimal(repr(value)), []
        for unit, seconds in _SECONDS.items():
            n, rest = divmod(rest, Decimal(seconds)) if unit != "s" else (rest, rest)
            parts += [f"{n.normalize():f}{unit}"] if n else []
        text = "".join(parts) or "0s"
        return text if _seconds(text) == value else f"{_decimal(value)}s"


@dataclass(frozen=True)
class Size(Number):
    """Bytes, or a text such as ``500MB`` or ``10 GB``."""

    metavar: str = "SIZE"
    unit = "bytes, or a text such as 500MB or 10 GB"
    rule = "bytes, or a number with a unit (B, kB, MB, GB or TB) such as 10GB"

    def read(self, text: str) -> Any:
        return text

    def take(self, value: Any) -> float:
        return super().take(_bytes(value) if isinstance(value, str) else value)

    def plain(self, value: float) -> str:
        for unit, size in _BYTES.items():
            text = f"{_decimal(value / size)}{unit}B"
            if value >= size and len(text) <= 8 and _bytes(text) == value:
                return text
        return f"{_decimal(value)}B"


@dataclass(frozen=True)
class Amounts(Kind):
    """Amounts by name: ``name=amount`` on the command line, a mapping elsewhere."""

    metavar: str = "NAME=AMOUNT"
    repeated = True

    def read(self, text: Sequence[str]) -> Any:
        amounts = {}
        for pair in text:
            name, _, number = pair.rpartition("=")
            try:
                amounts[name] = float(number)
            except ValueError:
                return pair
        return amounts

    def take(self, value: Any) -> dict[str, float]:
        if not isinstance(value, Mapping) or not all(name for name in value):
            raise ValueError(f"must be name=amount, but got {shown(value)}.")
        for name, amount in value.items():
            number = isinstance(amount, Real) and not isinstance(amount, bool)
            if str(name).upper() in ("CPU", "GPU"):
                raise ValueError(f"names no {name}: see --{str(name).lower()}s-per-trial.")
            if not (number and 0 < amount < math.inf and (amount <= 1 or amount == int(amount))):
                raise ValueError(
                    "must be name=amount, with amounts that are whole numbers or between 0 and 1, "
                    f"but got {name}={amount:g}."
                    if number
                    else f"must be name=amount, but got {name}={shown(amount)}."
                )
        return {str(name): float(amount) for name, amount in value.items()}

    def word(self, value: Mapping[str, float]) -> list[str]:
        return [f"{name}={amount!r}" for name, amount in value.items()]


@dataclass(frozen=True)
class Kept(Kind):
    """Which trials something is kept of: ``all``, ``best``, or how many of the best."""

    metavar: str = "all|best|N"

    def take(self, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value in ("all", "best") or (
            isinstance(value, str) and value.isdigit() and int(value) > 0
        ):
            return str(value)
        got = f"'{value}'" if isinstance(value, str) else shown(value)
        raise ValueError(f"must be all, best, or how many of the best trials, but got {got}.")


@dataclass(frozen=True, kw_only=True)
class Option:
    """The definition of a setting, or of a flag of one command alone.

    Attributes:
        kind: Its type.
        help: What the help screen, the docs and a file for `--config` say of it.
        more: What only the docs add.
        group: The panel of the help screen.
        key: Its name in a file; its flag is the same with ``--`` and hyphens.
        field: Its name in Python; empty for a flag of one command alone.
        default: Its value where none is given.
        unset: What stands in for the default None, in words.
        resume: What the help of `resume` says of it, where `resume` takes it.
        recorded: The journal holds it, and a later session goes on with it.
        changeable: A study goes on with another value than it began with.
    """

    kind: Kind
    help: str
    more: str = ""
    group: str = ""
    key: str = ""
    field: str = ""
    default: Any = None
    unset: str = ""
    resume: str = ""
    recorded: bool = False
    changeable: bool = False

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        return f"--{self.key.replace('_', '-')}"

    @property
    def default_text(self) -> str:
        """Its default in words; empty where there is nothing to say."""
        if self.default is None or self.default is False or self.default == {}:
            return self.unset
        plain = self.kind.plain(self.default)
        return f"{plain:g}" if isinstance(plain, float) else str(plain)

    @property
    def help_text(self) -> str:
        """What the help screen says of it."""
        return f"{self.help} Default: {self.default_text}." if self.default_text else self.help


def setting(kind: Kind, default: Any, **about: Any) -> Any:
    """Return a field of a dataclass with its definition; ``about`` are attributes of `Option`."""
    option = Option(kind=kind, default=kind.take(default) if default is not None else None, **about)
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"option": option})
    return field(default=option.default, metadata={"option": option})


def options_of(cls: type) -> dict[str, Option]:
    """Return the definitions of a dataclass's settings, by the names of their fields."""
    return {one.name: _named(one) for one in fields(cls) if "option" in one.metadata}


def _named(one: "Field[Any]") -> Option:
    option: Option = one.metadata["option"]
    key = option.key or one.name.removesuffix("_s").removesuffix("_bytes")
    assert one.default is not MISSING or one.default_factory is not MISSING
    return replace(option, key=key, field=one.name)


def converted(settings: Any) -> dict[str, str]:
    """Convert the values of a frozen dataclass to the types of its settings, in place.

    Returns:
        By field, what is wrong with a value, beginning with the flag; empty if all are right.
    """
    problems = {}
    for name, option in options_of(type(settings)).items():
        value = getattr(settings, name)
        if value is None and option.default is None:
            continue
        try:
            object.__setattr__(settings, name, option.kind.take(value))
        except ValueError as error:
            problems[name] = f"{option.flag} {error}"
    return problems


def parse_size(text: str, name: str = "size") -> float:
    """Return the bytes of a text such as ``500MB`` or ``10 GB``.

    Example:
        >>> parse_size("10 GB")
        10000000000.0

    Raises:
        SettingError: It is no size.
    """
    return _parsed(_bytes, text, name)


def parse_duration(text: str, name: str = "duration") -> float:
    """Return the seconds of a text such as ``90s``, ``10m`` or ``1h30m``.

    Example:
        >>> parse_duration("1h30m")
        5400.0

    Args:
        text: Numbers with units.
        name: The setting, for the error message.

    Raises:
        SettingError: It is no duration.
    """
    return _parsed(_seconds, text, name)


def _parsed(parse: Any, text: str, name: str) -> float:
    try:
        value: float = parse(text)
    except ValueError as error:
        raise SettingError(f"--{name.replace('_', '-')} {error}") from None
    return value


def _decimal(value: float) -> str:
    """Return a number in all its digits, without an exponent."""
    text = f"{Decimal(repr(float(value))):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _seconds(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(
            "must be numbers with units (s, m, h or d), such as 90s, 10m or 1h30m, but got "
            f"'{text}'."
        )
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _bytes(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B", text)
    if found is None:
        raise ValueError(
            f"must be a number with a unit (B, kB, MB, GB or TB), such as 10GB, but got '{text}'."
        )
    return float(found[1]) * _BYTES[found[2]]
