"""A search space: Ray Tune's domains, read into flat typed parameters.

A space is written in Ray Tune's own vocabulary, as a nested dict. Reading it gives

* `Space.parameters`: every parameter once, parents before children, each with a unique ``key``
  (``schedule[cosine].warmup``) and a ``name`` to read (``schedule.warmup``), which branches share;
* a *flat* config: ``{key: value}`` of the parameters that are active, which is what searchers see;
* a *nested* config: the shape that the space was written in, which is what trials get.

A dict inside `tune.choice` is a branch: its parameters are active only where it is chosen. In a
flat config a branch goes by its label: the first of its constants that differs in all branches of
the choice, else its index.
"""

import json
import math
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import cached_property
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
from ray.tune.search import sample as ray_sample

from hypertune.core.errors import StudyError, choices

Value: TypeAlias = Any
"""A plain value: None, bool, int, float, str, or lists, tuples and dicts of them.

JSON, in which records keep configs, spells a tuple as a list. The two count as the same value, and
a space says which one it is: `Space.flatten` and `Space.nest` give back what the space has.
"""
_LARGEST = sys.float_info.max
N_RANGES = 3
"""Ranges in which the values of a number are compared."""
MAX_VALUES = 4
"""A number of no more values than that is compared value by value."""
Flat: TypeAlias = dict[str, Value]
Config: TypeAlias = dict[str, Value]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Active only where parameter ``key`` takes ``label``."""

    key: str
    label: Value


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """One parameter. Its values correspond to the unit interval, uniformly as it is to be searched.

    Attributes:
        key: Unique in the space.
        name: Dotted name to read; equal in branches that share it.
        condition: Where it is active; None if it is whenever its surroundings are.
    """

    key: str
    name: str
    condition: Condition | None = None

    @property
    @abstractmethod
    def n_values(self) -> int | None:
        """Number of distinct values; None if continuous."""

    @abstractmethod
    def values(self) -> Iterator[Value]:
        """Yield the distinct values in order; not for continuous parameters."""

    @abstractmethod
    def from_unit(self, u: float) -> Value:
        """Return the value at ``u`` in [0, 1): equal shares of the interval are equally likely."""

    @abstractmethod
    def to_unit(self, value: Value) -> float:
        """Return a point in [0, 1) that `from_unit` maps to ``value``."""

    @abstractmethod
    def snap(self, value: Value) -> Value:
        """Return an allowed value as configs hold it."""

    @abstractmethod
    def rule(self) -> str:
        """Say which values are allowed, to follow "must be"."""

    @abstractmethod
    def contains(self, value: Value) -> bool:
        """Say whether ``value`` is allowed."""

    @property
    @abstractmethod
    def numeric(self) -> bool:
        """Whether it is a matter of more or less."""

    @property
    def by_range(self) -> bool:
        """Whether its values are compared by ranges, not one by one."""
        return self.numeric and (self.n_values is None or self.n_values > MAX_VALUES)

    @cached_property
    def parts(self) -> list[str]:
        """What its values are compared as: each, or three ranges that are searched alike."""
        if not self.by_range:
            return level_texts(list(self.values()))
        ranges = self._ranges()
        for digits in range(3, 18):  # as many as tell the ends from each other
            ends = [(_brief(low, digits), _brief(high, digits)) for low, high in ranges]
            if all(
                (a == b) == (low == high) for (a, b), (low, high) in zip(ends, ranges, strict=True)
            ):
                break
        return [low if low == high else f"{low} to {high}" for low, high in ends]

    def part(self, value: Value) -> str:
        """Return which one of its `parts` a value belongs to."""
        return self.parts[self._range_of(value) if self.by_range else self._place(value)]

    @abstractmethod
    def _place(self, value: Value) -> int:
        """Return the place of a value among `values`; not for continuous parameters."""

    @abstractmethod
    def _range_of(self, value: Value) -> int:
        """Return which range a value belongs to, where they are compared by ranges."""

    @abstractmethod
    def _ranges(self) -> list[tuple[Value, Value]]:
        """Return the lowest and the highest value of each range."""


@dataclass(frozen=True, kw_only=True)
class Number(Parameter):
    """An interval of floats or of integers, both ends included.

    Attributes:
        low, high: The ends; multiples of ``step`` where there is one.
        log: Searched on a logarithmic scale; then ``low > 0``.
        step: Values are the multiples of it; None for continuous floats.
        integer: Values are ints.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    @property
    def n_values(self) -> int | None:
        return None if self.step is None else self._last - self._first + 1

    def values(self) -> Iterator[Value]:
        return (self._multiple(k) for k in range(self._first, self._last + 1))

    @cached_property
    def _first(self) -> int:
        """Which multiple of the step the lower end is."""
        return self._index(self.low)

    @cached_property
    def _last(self) -> int:
        """Which multiple of the step the upper end is."""
        return self._index(self.high)

    def _index(self, value: float) -> int:
        """Return which multiple of the step is nearest; exactly, however long the range."""
        return round(_exact(value) / _exact(self.step or 1))

    def _multiple(self, k: int) -> float:
        """Return ``k`` steps: 3 * 0.1 is 0.3."""
        step = self.step or 1
        return k * int(step) if self.integer else float(k * _exact(step))

    def snap(self, value: Value) -> float:
        """Return the nearest value of the parameter."""
        if self.step is None:
            return float(min(max(value, self.low), self.high))
        inside = min(max(value, self.low), self.high)  # it may be infinite
        return self._multiple(min(max(self._index(inside), self._first), self._last))

    @cached_property
    def _shrunk(self) -> float:
        """What values are multiplied with so that no difference of theirs overflows."""
        if self.integer or math.isfinite(4 * (self.high - self.low) + 4 * (self.step or 0)):
            return 1
        return 0.125

    @cached_property
    def _log_ends(self) -> tuple[float, float]:
        """The ends on a logarithmic scale, half a step beyond where there are steps."""
        # A first multiple at one step would put the lower end at half of it, never at zero.
        half = 0 if self.step is None else self.step / 2
        low = math.log(self.low) + math.log1p(-half / self.low)
        return low, math.log(self.high) + math.log1p(half / self.high)

    def from_unit(self, u: float) -> Value:
        if self.log:
            low, high = self._log_ends
            x = low + u * (high - low)
            return self.snap(math.exp(x) if x < math.log(self.high) else self.high)
        if self.n_values is not None:
            k = min(int(Fraction(u) * self.n_values), self.n_values - 1)
            return self._multiple(self._first + k)
        low, high = self.low * self._shrunk, self.high * self._shrunk
        return self.snap((low + u * (high - low)) / self._shrunk)

    def to_unit(self, value: Value) -> float:
        if self.log:
            low, high = self._log_ends
            place, size = math.log(value) - low, high - low
        else:
            # Integers stay integers up to the division: floats tell those above 2**53 not apart.
            low, high = self.low * self._shrunk, self.high * self._shrunk
            step = (self.step or 0) * self._shrunk
            place, size = 2 * (value * self._shrunk - low) + step, 2 * (high - low) + 2 * step
        return min(max(place / size, 0.0), 1.0 - 2**-53) if size > 0 else 0.5

    @property
    def numeric(self) -> bool:
        return True

    def _place(self, value: Value) -> int:
        return self._index(value) - self._first

    def _range_of(self, value: Value) -> int:
        return int(N_RANGES * self.to_unit(value))

    def _ranges(self) -> list[tuple[Value, Value]]:
        ends = [self.from_unit(k / N_RANGES) for k in range(N_RANGES)]
        if self.step is None:
            return list(zip(ends, [*ends[1:], self.high], strict=True))
        # The first multiple of each: what is nearest to its end may still belong below.
        first = [self._index(value) for value in ends]
        first = [m + (self._range_of(self._multiple(m)) < k) for k, m in enumerate(first)]
        last = [m - 1 for m in first[1:]] + [self._last]
        return [(self._multiple(a), self._multiple(b)) for a, b in zip(first, last, strict=True)]

    def rule(self) -> str:
        kind = "an integer" if self.integer else "a number"
        step = f" in steps of {_number(self.step)}" if self.step not in (None, 1) else ""
        return f"{kind} in [{_number(self.low)}, {_number(self.high)}]{step}"

    def contains(self, value: Value) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.integer and not isinstance(value, int):
            return False
        margin = 0 if self.integer else self.step or 0
        if not self.low - margin <= value <= self.high + margin:  # so is NaN
            return False
        if self.step is None:
            return True
        if self.integer:
            return value == self.snap(value)
        # 3 * 0.1 is as good as 0.3, and as the end of a range.
        return math.isclose(value, self.snap(value), rel_tol=1e-9, abs_tol=1e-9 * self.step)


@dataclass(frozen=True, kw_only=True)
class Categorical(Parameter):
    """A choice of plain values, or of branches by their labels."""

    choices: tuple[Value, ...]

    @property
    def n_values(self) -> int:
        return len(self.choices)

    @property
    def numeric(self) -> bool:
        """Whether it is a matter of more or less: a choice of more than two numbers."""
        return len(self.choices) > 2 and all(
            isinstance(c, int | float) and not isinstance(c, bool) for c in self.choices
        )

    def _place(self, value: Value) -> int:
        return self.index(value)

    def _range_of(self, value: Value) -> int:
        ordered = [_text(choice) for choice in sorted(self.choices)]  # 1 and 1.0 are two
        return N_RANGES * (2 * ordered.index(_text(value)) + 1) // (2 * len(ordered))

    def _ranges(self) -> list[tuple[Value, Value]]:
        ordered = sorted(self.choices)
        within = [[v for v in ordered if self._range_of(v) == k] for k in range(N_RANGES)]
        return [(values[0], values[-1]) for values in within]

    def values(self) -> Iterator[Value]:
        return iter(self.choices)

    def index(self, value: Value) -> int:
        """Return the place of ``value``; 1, 1.0 and True are three values.

        Raises:
            ValueError: It is none of the choices.
        """
        text = _text(value)
        if text not in self._places:
            raise ValueError(f"{self.name} must be {self.rule()}, but got {text}")
        return self._places[text]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {_text(choice): k for k, choice in enumerate(self.choices)}

    def snap(self, value: Value) -> Value:
        return self.choices[self.index(value)]

    def from_unit(self, u: float) -> Value:
        return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]

    def to_unit(self, value: Value) -> float:
        return (self.index(value) + 0.5) / len(self.choices)

    def rule(self) -> str:
        return f"one of {', '.join(_show(choice) for choice in self.choices)}"

    def contains(self, value: Value) -> bool:
        return _text(value) in self._places


# The tree that the space was written as: what is needed to go from flat to nested and back.
@dataclass(frozen=True)
class _Constant:
    value: Value


@dataclass(frozen=True)
class _Leaf:
    parameter: Parameter


@dataclass(frozen=True)
class _Group:
    """A dict, or a list or tuple (then the keys are its indices)."""

    members: dict[Any, "_Node"]
    kind: type


@dataclass(frozen=True)
class _Branches:
    parameter: Categorical
    options: tuple["_Node", ...]


_Node: TypeAlias = _Constant | _Leaf | _Group | _Branches


@dataclass(frozen=True)
class Space:
    """A parsed space.

    Args:
        spec: A dict of Ray Tune domains, constants, dicts and lists of them.

    Raises:
        StudyError: It breaks a rule; the message lists all breaches.
    """

    spec: Mapping[str, Any]
    parameters: tuple[Parameter, ...] = field(init=False)
    _root: _Node = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", {_plain_name(k): v for k, v in self.spec.items()})
        reader = _Reader()
        root = reader.read(self.spec, key="", name="", condition=None)
        keys = Counter(parameter.key for parameter in reader.parameters)
        reader.problems += [
            f"parameters must differ in their dotted names, but {n} are called '{key}'"
            for key, n in keys.items()
            if n > 1
        ]
        if not reader.parameters and not reader.problems:
            reader.problems.append(
                "the space must hold at least one parameter, such as tune.choice"
            )
        if reader.problems:
            raise StudyError("The space is not valid", reader.problems)
        object.__setattr__(self, "parameters", tuple(reader.parameters))
        object.__setattr__(self, "_root", root)

    def __getitem__(self, key: str) -> Parameter:
        return next(p for p in self.parameters if p.key == key)

    def common(self, name: str) -> Parameter | None:
        """Return the parameter of a name; None unless every config has it, and but once."""
        found = [p for p in self.parameters if p.name == name]
        return found[0] if len(found) == 1 and found[0].condition is None else None

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, each once."""
        return tuple(dict.fromkeys(p.name for p in self.parameters))

    @property
    def constants(self) -> dict[str, Value]:
        """What the space holds besides parameters, at its top."""
        assert isinstance(self._root, _Group)
        return {k: m.value for k, m in self._root.members.items() if isinstance(m, _Constant)}

    def plain(self) -> dict[str, Any]:
        """Return the space in plain values, for records; `from_plain` reads it back."""
        return _to_plain(self._root)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Space":
        """Return the space of a record that `plain` made."""
        spec: Mapping[str, Any] = _from_plain(plain)
        return cls(spec)

    def configs(self, given: Mapping[str, Value] | None = None) -> Iterator[Flat]:
        """Yield all flat configs of a space without continuous parameters, in order.

        Args:
            given: Only those with these values, by key.
        """
        return _all(self._root, {key: identity(value) for key, value in (given or {}).items()})

    @property
    def n_configs(self) -> int | None:
        """Number of configs, in each branch by itself; None if there is a continuous parameter."""
        return _count(self._root)

    def sample(self, rng: np.random.Generator) -> Flat:
        """Draw a flat config: each active parameter uniformly on its unit interval."""
        return self.build(lambda parameter: parameter.from_unit(rng.random()))

    def build(self, value_of: Callable[[Parameter], Value]) -> Flat:
        """Return a flat config by asking for each active parameter's value, parents first."""
        flat: Flat = {}
        _walk(self._root, flat, value_of)
        return flat

    def nest(self, flat: Mapping[str, Value]) -> Config:
        """Return the nested config of a flat one. The result is the caller's own."""
        nested: Config = _nest(self._root, flat)
        return nested

    def flatten(self, config: Mapping[str, Value]) -> Flat:
        """Return the flat config of a nested one.

        Raises:
            ValueError: It is outside the space; the message lists all problems.
        """
        flat: Flat = {}
        problems = _flatten(self._root, config, flat, "")
        if problems:
            raise ValueError("; ".join(problems))
        return flat

    def identity(self, config: Mapping[str, Value]) -> str:
        """Return a text that is equal for nested configs that are searched as one and the same."""
        return identity(self.nest(self.flatten(config)))

    def problems(self, config: Mapping[str, Value]) -> list[str]:
        """Return what puts a nested config outside the space; empty if nothing does."""
        return _flatten(self._root, config, {}, "")


def identity(config: Value) -> str:
    """Return a text that is equal for equal configs or values, and differs for 1, 1.0 and True."""
    return _text(config)


def level_text(level: Value) -> str:
    """Return a level of a choice as records and frames spell it."""
    return level if isinstance(level, str) else json.dumps(level)


def level_texts(levels: Sequence[Value]) -> list[str]:
    """Return levels as frames spell them, told apart: ``"1"`` in quotes where 1 is one of them."""
    texts = [level_text(level) for level in levels]
    return texts if len(set(texts)) == len(texts) else [_text(level) for level in levels]


def _brief(value: Value, digits: int) -> str:
    if not isinstance(value, float):
        return level_text(value)
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and value < 1e7 else text


def _number(value: float | None) -> str:
    """Return a number as people write it, with all digits that it takes to tell it."""
    text = f"{value:g}" if isinstance(value, float) else _in_brief(value)
    return text if not isinstance(value, float) or float(text) == value else str(value)


def _exact(value: float) -> Fraction:
    """Return the number that a float is written as: 0.1, not the nearest fraction of two."""
    return Fraction(value) if isinstance(value, int) else Fraction(str(value))


def _text(value: Value) -> str:
    try:
        return json.dumps(value, sort_keys=True, default=repr)
    except (TypeError, ValueError):  # no plain value: it is told, and equal to no other
        return _in_brief(value)


def _show(value: Value) -> str:
    return value if isinstance(value, str) else _text(value)


PLAIN = "None, bool, finite number, str, or lists, tuples and dicts of them"
_INSTEAD: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Enum, "its .value or its .name"),
    (PathLike, "str(path)"),
    ((date, time), "its .isoformat()"),
    ((bytes, bytearray), "its .hex() or its .decode()"),
    ((set, frozenset), "sorted(values), a list"),
    (range, "list(values)"),
    (complex, "its real and its imaginary part"),
    ((Decimal, Fraction), "float(number), or str(number)"),
    (type, "its name, and look that up in the trainable"),
)
_ALIKE = "; a list counts as the tuple of the same values"
_MAX_DIGITS = 4300  # of what Python and others read from JSON


def as_plain(value: Any) -> Value:
    """Return a plain copy of ``value``, of Python's own types.

    NumPy's numbers become Python's, members of ``(str, Enum)``, ``IntEnum`` and their like the
    text or the number that they are.

    Raises:
        TypeError: It is not plain. The message says what to write instead.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if abs(value) >= 10**_MAX_DIGITS:
            raise TypeError(f"an integer must have at most {_MAX_DIGITS} digits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{float(value)} is not finite")
        return float(value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return (tuple if isinstance(value, tuple) else list)(as_plain(item) for item in value)
    if isinstance(value, Mapping):
        return {_plain_key(key): as_plain(item) for key, item in value.items()}
    raise TypeError(f"instead of {_in_brief(value)} write {_instead(value)}")


def _plain_key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the keys of a dict must be strings: instead of {key!r} write '{key}'")
    return str.__str__(key)


def _plain_name(name: Any) -> Any:
    """Return a name in plain text: a member of an Enum would be formatted otherwise."""
    return _plain_key(name) if isinstance(name, str) else name


def _instead(value: Any) -> str:
    for kinds, advice in _INSTEAD:
        if isinstance(value, kinds):
            return advice
    if hasattr(value, "_fields"):
        return "tuple(value), or its ._asdict()"
    if callable(getattr(value, "tolist", None)):
        return "its .tolist()"
    if callable(value):
        return "its name, and look that up in the trainable"
    return "what it is made of, and make it in the trainable"


def _in_brief(value: Any) -> str:
    """Return how a value that may be anything looks, in brief."""
    try:
        text = repr(value)
    except Exception:  # theirs
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain_problem(value: Any) -> str | None:
    """Return why a config cannot hold a value, and what to write instead; None if it can."""
    try:
        as_plain(value)
    except TypeError as problem:
        return str(problem)
    except RecursionError:
        return "it is nested too deeply"
    return None


def like(value: Value, template: Value) -> Value:
    """Return a value from JSON with tuples where another one of its kind has them.

    Args:
        value: A plain value, which may have lists in place of tuples.
        template: Of the types that it is to have; of a longer list all others are as its last one.
    """
    if isinstance(value, list | tuple) and isinstance(template, list | tuple):
        kinds = [*template, *[template[-1] if template else None] * len(value)]
        return type(template)(like(v, t) for v, t in zip(value, kinds, strict=False))
    if isinstance(value, Mapping) and isinstance(template, Mapping):
        return {key: like(item, template.get(key)) for key, item in value.items()}
    return value


def _holds_domain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "grid_search" in value or any(_holds_domain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_domain(item) for item in value)
    return isinstance(value, ray_sample.Domain)


class _Reader:
    """Reads a nested spec into a tree, and gathers its parameters and all its problems."""

    def __init__(self) -> None:
        self.parameters: list[Parameter] = []
        self.problems: list[str] = []

    def read(self, spec: Any, *, key: str, name: str, condition: Condition | None) -> _Node:
        if isinstance(spec, ray_sample.Categorical):
            return self._choice(list(spec.categories), key=key, name=name, condition=condition)
        if isinstance(spec, Mapping) and set(spec) == {"grid_search"}:
            return self._choice(list(spec["grid_search"]), key=key, name=name, condition=condition)
        if isinstance(spec, ray_sample.Domain):
            return self._number(spec, key=key, name=name, condition=condition)
        if isinstance(spec, Mapping):
            self._check_keys(spec, name)
            items = [(_plain_name(k), v) for k, v in spec.items()]
            return self._group(items, dict, key=key, name=name, condition=condition)
        if isinstance(spec, list | tuple) and _holds_domain(spec):
            kind = tuple if isinstance(spec, tuple) else list
            return self._group(list(enumerate(spec)), kind, key=key, name=name, condition=condition)
        if problem := plain_problem(spec):
            self.problems.append(
                f"{name} must be a Ray Tune domain or a plain value ({PLAIN}), but got "
                f"{_in_brief(spec)}: {problem}"
            )
            return _Constant(None)
        return _Constant(as_plain(spec))

    def _check_keys(self, spec: Mapping[Any, Any], name: str) -> None:
        for k in spec:
            if not isinstance(k, str) or not k:
                where = f" in {name}" if name else ""
                self.problems.append(f"names must be non-empty strings, but got {k!r}{where}")

    def _group(
        self,
        items: list[tuple[Any, Any]],
        kind: type,
        *,
        key: str,
        name: str,
        condition: Condition | None,
    ) -> _Node:
        dot = "." if key else ""
        return _Group(
            {
                k: self.read(v, key=f"{key}{dot}{k}", name=f"{name}{dot}{k}", condition=condition)
                for k, v in items
            },
            kind,
        )

    def _number(self, domain: Any, *, key: str, name: str, condition: Condition | None) -> _Node:
        if not isinstance(domain, ray_sample.Float | ray_sample.Integer):
            self.problems.append(
                f"{name}: tune.sample_from has no range that could be searched; use tune.uniform, "
                "tune.loguniform, tune.randint, tune.choice or one of their kin, and a dict inside "
                "tune.choice for a parameter that depends on another"
            )
            return _Constant(None)
        sampler, step = domain.get_sampler(), None
        integer = isinstance(domain, ray_sample.Integer)
        low, high = domain.lower, domain.upper
        if isinstance(sampler, ray_sample.Quantized):
            sampler, step = sampler.get_sampler(), sampler.q
        try:
            low, high, step = (_bound(end, integer=integer) for end in (low, high, step))
        except TypeError as problem:
            self.problems.append(f"{name}: {problem}")
            return _Constant(None)
        if integer:
            # Ray's integers end before `upper`, but for quantised ones, unless q is 1.
            high = high - 1 if step in (None, 1) else high
            step = 1 if step is None else step
        if isinstance(sampler, ray_sample.Normal):
            self.problems.append(
                f"{name}: a normal distribution has no bounds; use tune.uniform(low, high)"
            )
            return _Constant(None)
        log = isinstance(sampler, ray_sample.LogUniform)
        number = self._checked(name, low, high, step, log, integer)
        if number is None:
            return _Constant(None)
        parameter = Number(key=key, name=name, condition=condition, log=log, **number)
        self.parameters.append(parameter)
        return _Leaf(parameter)

    def _checked(
        self, name: str, low: Any, high: Any, step: Any, log: bool, integer: bool
    ) -> dict[str, Any] | None:
        n_before = len(self.problems)
        got = f"[{_number(low)}, {_number(high)}]"
        if not (abs(low) <= _LARGEST and abs(high) <= _LARGEST):
            finite = math.inf not in (abs(low), abs(high)) and low == low and high == high
            limit = f" (floats end at {_LARGEST:.3g})" if finite else ""
            self.problems.append(f"{name}: bounds must be finite, but got {got}{limit}")
        elif log and low <= 0:
            self.problems.append(
                f"{name}: low > 0 must hold on a log scale, but got low={_number(low)}"
            )
        elif step is not None and not 0 < step <= _LARGEST:
            self.problems.append(f"{name}: a finite step > 0 must hold, but got {_number(step)}")
        elif low > high or (low == high and step is None):
            end = " (an integer domain ends before its upper bound)" if integer else ""
            self.problems.append(
                f"{name}: low < high must hold, but got low={_number(low)}, "
                f"high={_number(high)}{end}"
            )
        elif step is not None:
            exact = _exact(step)
            first, last = math.ceil(_exact(low) / exact), math.floor(_exact(high) / exact)
            if first > last:
                self.problems.append(f"{name}: no multiple of {_number(step)} lies in {got}")
            low, high = first * exact, last * exact
            if log and low <= 0:
                self.problems.append(
                    f"{name}: low > 0 must hold on a log scale, but the lowest multiple of "
                    f"{_number(step)} is {_number(float(low))}"
                )
        if len(self.problems) > n_before:
            return None
        cast = int if integer else float
        return {"low": cast(low), "high": cast(high), "step": step, "integer": integer}

    def _choice(
        self, options: list[Any], *, key: str, name: str, condition: Condition | None
    ) -> _Node:
        if not options:
            self.problems.append(f"{name}: a choice must hold at least one value, but got none")
            return _Constant(None)
        if not any(_holds_domain(option) for option in options):
            if problem := plain_problem(options):
                self.problems.append(
                    f"{name}: choices must be plain values ({PLAIN}), but got "
                    f"{_in_brief(options)}: {problem}"
                )
                return _Constant(None)
            labels = as_plain(options)
            nodes: list[_Node] = [_Constant(label) for label in labels]
        else:
            labels = _labels(options)
            nodes = []
        if not _differ(labels):
            alike = _ALIKE if any(map(_holds_tuple, labels)) else ""
            self.problems.append(
                f"{name}: choices must differ, but got {_in_brief(options)}{alike}"
            )
            return _Constant(None)
        parameter = Categorical(key=key, name=name, condition=condition, choices=tuple(labels))
        self.parameters.append(parameter)
        if nodes:
            return _Leaf(parameter)
        # 1 and "1" read alike, but are two branches.
        show = _show if len({_show(label) for label in labels}) == len(labels) else _text
        branches = tuple(
            self.read(
                option,
                key=f"{key}[{show(label)}]",
                name=name,
                condition=Condition(key=key, label=label),
            )
            for option, label in zip(options, labels, strict=True)
        )
        kinds: dict[str, str] = {}
        for branch in branches:
            text = _text(_to_plain(branch))
            if kinds.setdefault(text.replace('"tuple": [', '"list": ['), text) != text:
                self.problems.append(
                    f"{name}: choices must differ, but got {_in_brief(options)}{_ALIKE}"
                )
        return _Branches(parameter, branches)


def _labels(options: Sequence[Any]) -> list[Value]:
    """Return a label for each option, of which at least one is a branch."""
    branches = [option for option in options if isinstance(option, Mapping)]
    constant = _telling_constant(branches)
    plain = {_text(option) for option in options if not _holds_domain(option)}
    if constant is not None and plain & {_text(branch[constant]) for branch in branches}:
        constant = None  # its label would be that of another option
    labels = []
    for index, option in enumerate(options):
        if isinstance(option, Mapping) and constant is not None:
            labels.append(as_plain(option[constant]))
        elif not isinstance(option, Mapping) and not _holds_domain(option):
            labels.append(plain_or(option, index))
        else:
            labels.append(index if str(index) not in plain else f"#{index}")
    return labels


def _telling_constant(branches: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the first name whose constants differ in all branches."""
    scalar = (bool, int, float, str, type(None))
    for name in branches[0] if len(branches) > 1 else ():
        values = [branch.get(name, ray_sample.Domain) for branch in branches]
        plain = all(isinstance(value, scalar) and not plain_problem(value) for value in values)
        if plain and _differ(values):
            return name
    return None


def _differ(values: Sequence[Value]) -> bool:
    return len({_text(value) for value in values}) == len(values)


def plain_or(option: Any, other: Value) -> Value:
    """Return a plain copy of a value; of one that is not plain another one."""
    return other if plain_problem(option) else as_plain(option)


def _bound(value: Any, *, integer: bool) -> Any:
    """Return an end or a step of a range as a plain number.

    Raises:
        TypeError: It is none.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None:
        return None
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise TypeError(f"bounds and steps must be numbers, but got {_in_brief(value)}")
    if not integer:
        return float(plain) if isinstance(plain, float) or abs(plain) <= _LARGEST else int(plain)
    if isinstance(plain, float) and not math.isfinite(plain):
        return plain
    if plain != int(plain):
        raise TypeError(f"bounds and steps of integers must be integers, but got {plain}")
    return int(plain)


def _to_plain(node: _Node) -> dict[str, Any]:
    match node:
        case _Constant(value):
            return _plain_constant(value)
        case _Leaf(Number() as number):
            ends = {name: getattr(number, name) for name in ("low", "high", "step")}
            return {"number": ends, "log": number.log, "integer": number.integer}
        case _Leaf(parameter):
            return {"choice": [_plain_constant(value) for value in parameter.values()]}
        case _Group(members, kind):
            plain = {str(key): _to_plain(member) for key, member in members.items()}
            return {kind.__name__: plain if kind is dict else list(plain.values())}
        case _Branches(_, options):
            return {"choice": [_to_plain(option) for option in options]}


def _plain_constant(value: Value) -> dict[str, Any]:
    """Return a constant for records: in parts where JSON would not tell its tuples."""
    if not _holds_tuple(value):
        return {"constant": value}
    if isinstance(value, Mapping):
        return {"dict": {key: _plain_constant(item) for key, item in value.items()}}
    kind = "tuple" if isinstance(value, tuple) else "list"
    return {kind: [_plain_constant(item) for item in value]}


def _holds_tuple(value: Value) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tuple, value.values()))
    return isinstance(value, tuple) or (isinstance(value, list) and any(map(_holds_tuple, value)))


def as_lists(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of a space without what tells its tuples from lists."""
    match plain:
        case {"choice": options}:
            return {"choice": [as_lists(option) for option in options]}
        case {"list": members} | {"tuple": members}:
            parts = [as_lists(member) for member in members]
            if all("constant" in part for part in parts):
                return {"constant": [part["constant"] for part in parts]}
            return {"list": parts}
        case {"dict": members}:
            named = {name: as_lists(member) for name, member in members.items()}
            if all("constant" in part for part in named.values()):
                return {"constant": {name: part["constant"] for name, part in named.items()}}
            return {"dict": named}
    return dict(plain)


def _from_plain(plain: Mapping[str, Any]) -> Any:
    match plain:
        case {"constant": value}:
            return value
        case {"choice": options}:
            return ray_sample.Categorical([_from_plain(option) for option in options])
        case {"list": members}:
            return [_from_plain(member) for member in members]
        case {"tuple": members}:
            return tuple(_from_plain(member) for member in members)
        case {"dict": members}:
            return {key: _from_plain(member) for key, member in members.items()}
    low, high, step = (plain["number"][name] for name in ("low", "high", "step"))
    if plain["integer"]:
        # Ray's integers end before their upper bound, but for quantised ones.
        domain = ray_sample.Integer(low, high + 1 if step == 1 else high)
    else:
        domain = ray_sample.Float(low, high)
    domain = domain.loguniform() if plain["log"] else domain.uniform()
    return domain if step is None or (plain["integer"] and step == 1) else domain.quantized(step)


def _count(node: _Node) -> int | None:
    match node:
        case _Constant():
            return 1
        case _Leaf(parameter):
            return parameter.n_values
        case _Group(members):
            counts = [_count(member) for member in members.values()]
            return None if None in counts else math.prod(c for c in counts if c is not None)
        case _Branches(_, options):
            counts = [_count(option) for option in options]
            return None if None in counts else sum(c for c in counts if c is not None)


def _all(node: _Node, given: Mapping[str, str]) -> Iterator[Flat]:
    """Yield what a node may be, with values whose identities are given."""
    match node:
        case _Constant():
            yield {}
        case _Leaf(parameter):
            wanted = given.get(parameter.key)
            for value in parameter.values():
                if wanted is None or identity(value) == wanted:
                    yield {parameter.key: value}
        case _Group(members):
            yield from _product(list(members.values()), given)
        case _Branches(parameter, options):
            wanted = given.get(parameter.key)
            for label, option in zip(parameter.choices, options, strict=True):
                if wanted is None or identity(label) == wanted:
                    for rest in _all(option, given):
                        yield {parameter.key: label, **rest}


def _product(nodes: Sequence[_Node], given: Mapping[str, str]) -> Iterator[Flat]:
    """Yield all combinations; unlike itertools' product, without listing the factors first."""
    if not nodes:
        yield {}
        return
    for part in _all(nodes[0], given):
        for rest in _product(nodes[1:], given):
            yield {**part, **rest}


def _walk(node: _Node, flat: Flat, value_of: Callable[[Parameter], Value]) -> None:
    match node:
        case _Leaf(parameter):
            flat[parameter.key] = value_of(parameter)
        case _Group(members):
            for member in members.values():
                _walk(member, flat, value_of)
        case _Branches(parameter, options):
            label = flat[parameter.key] = value_of(parameter)
            _walk(options[parameter.index(label)], flat, value_of)


def _nest(node: _Node, flat: Mapping[str, Value]) -> Any:
    match node:
        case _Constant(value):
            return as_plain(value)
        case _Leaf(Number() as parameter):
            return flat[parameter.key]
        case _Leaf(parameter):
            return as_plain(parameter.snap(flat[parameter.key]))
        case _Group(members, kind):
            nested = {key: _nest(member, flat) for key, member in members.items()}
            return nested if kind is dict else kind(nested.values())
        case _Branches(parameter, options):
            return _nest(options[parameter.index(flat[parameter.key])], flat)


def _flatten(node: _Node, value: Value, flat: Flat, name: str) -> list[str]:
    """Add to ``flat`` what ``value`` says at ``node``; return the problems."""
    match node:
        case _Constant(expected):
            if _text(plain_or(value, value)) != _text(expected):
                return [f"{name} must be {_show(expected)}, but got {_show(value)}"]
            return []
        case _Leaf(parameter):
            plain = plain_or(value, value)
            if not parameter.contains(plain):
                return [f"{name} must be {parameter.rule()}, but got {_show(value)}"]
            flat[parameter.key] = parameter.snap(plain)
            return []
        case _Group(members, kind):
            return _flatten_group(members, kind, value, flat, name)
        case _Branches(parameter, options):
            return _flatten_branch(parameter, options, value, flat, name)


def _flatten_group(
    members: Mapping[Any, _Node], kind: type, value: Value, flat: Flat, name: str
) -> list[str]:
    if kind is not dict and isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return [f"{name} must be a {kind.__name__}, but got {_show(value)}"]
    dot = "." if name else ""
    problems = [
        f"{name}{dot}{key} is not in the space.{choices(key, [str(k) for k in members])}"
        for key in value
        if key not in members
    ]
    for key, member in members.items():
        if key in value:
            problems += _flatten(member, value[key], flat, f"{name}{dot}{key}")
        elif not isinstance(member, _Constant):
            problems.append(f"{name}{dot}{key} is missing")
    return problems


def _flatten_branch(
    parameter: Categorical, options: Sequence[_Node], value: Value, flat: Flat, name: str
) -> list[str]:
    groups = [isinstance(option, _Group) for option in options]
    fewest: list[str] | None = None
    for label, option, is_group in zip(parameter.choices, options, groups, strict=True):
        inner: Flat = {}
        problems = _flatten(option, value, inner, name)
        if not problems:
            flat[parameter.key] = label
            flat.update(inner)
            return []
        if is_group and (fewest is None or len(problems) < len(fewest)):
            fewest = problems
    if isinstance(value, Mapping) and fewest is not None:
        return fewest  # it was meant to be one of the branches, and is told what it lacks there
    rules = [_show(o.value) for o in options if isinstance(o, _Constant)] + ["a dict"] * any(groups)
    return [f"{name} must be {' or '.join(rules)}, but got {_show(value)}"]


def active(parameters: Sequence[Parameter], flat: Mapping[str, Value]) -> Iterator[Parameter]:
    """Yield the parameters that a flat config has."""
    return (parameter for parameter in parameters if parameter.key in flat)
