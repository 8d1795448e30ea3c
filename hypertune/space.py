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
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from ray.tune.search import sample as ray_sample

from hypertune.errors import StudyError, choices

Value: TypeAlias = Any
"""A plain value: None, bool, int, float, str, or lists and dicts of them."""
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
            texts = [level_text(value) for value in self.values()]
            unique = len(set(texts)) == len(texts)
            return texts if unique else [_text(value) for value in self.values()]  # "1" and 1
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
        return None if self.step is None else self._index(self.high) - self._index(self.low) + 1

    def values(self) -> Iterator[Value]:
        return (self._multiple(k) for k in range(self._index(self.low), self._index(self.high) + 1))

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
        k = min(max(self._index(value), self._index(self.low)), self._index(self.high))
        return self._multiple(k)

    def _ends(self) -> tuple[float, float]:
        """Return the ends on the scale of the search, half a step beyond where there are steps."""
        low, high = float(self.low), float(self.high)
        if self.step is not None:
            low, high = low - self.step / 2, high + self.step / 2
        if self.log:
            # A first multiple at one step would put the lower end at half of it, never at zero.
            return math.log(low), math.log(high)
        return low, high

    def from_unit(self, u: float) -> Value:
        if self.n_values is not None and not self.log:
            k = min(int(Decimal(u) * self.n_values), self.n_values - 1)
            return self._multiple(self._index(self.low) + k)
        low, high = self._ends()
        value = low + u * (high - low)
        return self.snap(math.exp(value) if self.log else value)

    def to_unit(self, value: Value) -> float:
        low, high = self._ends()
        x = math.log(value) if self.log else float(value)
        return min(max((x - low) / (high - low), 0.0), 1.0 - 2**-53) if high > low else 0.5

    @property
    def numeric(self) -> bool:
        return True

    def _place(self, value: Value) -> int:
        return self._index(value) - self._index(self.low)

    def _range_of(self, value: Value) -> int:
        return int(N_RANGES * self.to_unit(value))

    def _ranges(self) -> list[tuple[Value, Value]]:
        ends = [self.from_unit(k / N_RANGES) for k in range(N_RANGES)]
        if self.step is None:
            return list(zip(ends, [*ends[1:], self.high], strict=True))
        # The first multiple of each: what is nearest to its end may still belong below.
        first = [self._index(value) for value in ends]
        first = [m + (self._range_of(self._multiple(m)) < k) for k, m in enumerate(first)]
        last = [m - 1 for m in first[1:]] + [self._index(self.high)]
        return [(self._multiple(a), self._multiple(b)) for a, b in zip(first, last, strict=True)]

    def rule(self) -> str:
        kind = "an integer" if self.integer else "a number"
        step = f" in steps of {self.step:g}" if self.step not in (None, 1) else ""
        return f"{kind} in [{self.low:g}, {self.high:g}]{step}"

    def contains(self, value: Value) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.integer and not isinstance(value, int):
            return False
        if self.step is None:
            return self.low <= value <= self.high
        if self.integer:
            return value == self.snap(value)
        if not abs(value) < math.inf:
            return False
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
        return N_RANGES * (2 * sorted(self.choices).index(value) + 1) // (2 * len(self.choices))

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
        return [_text(choice) for choice in self.choices].index(_text(value))

    def snap(self, value: Value) -> Value:
        return self.choices[self.index(value)]

    def from_unit(self, u: float) -> Value:
        return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]

    def to_unit(self, value: Value) -> float:
        return (self.index(value) + 0.5) / len(self.choices)

    def rule(self) -> str:
        return f"one of {', '.join(_show(choice) for choice in self.choices)}"

    def contains(self, value: Value) -> bool:
        return _text(value) in [_text(choice) for choice in self.choices]


# The tree that the space was written as: what is needed to go from flat to nested and back.
@dataclass(frozen=True)
class _Constant:
    value: Value


@dataclass(frozen=True)
class _Leaf:
    parameter: Parameter


@dataclass(frozen=True)
class _Group:
    """A dict, or a list (then the keys are its indices)."""

    members: dict[Any, "_Node"]
    is_list: bool


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
        reader = _Reader()
        root = reader.read(dict(self.spec), key="", name="", condition=None)
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


def identity(config: Mapping[str, Value]) -> str:
    """Return a text that is equal for equal configs, and differs for 1, 1.0 and True."""
    return _text(config)


def level_text(level: Value) -> str:
    """Return a level of a choice as records and frames spell it."""
    return level if isinstance(level, str) else json.dumps(level)


def _brief(value: Value, digits: int) -> str:
    if not isinstance(value, float):
        return level_text(value)
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and value < 1e7 else text


def _exact(value: float) -> Decimal:
    """Return the number that a float is written as: 0.1, not the nearest fraction of two."""
    return Decimal(str(value))


def _text(value: Value) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _show(value: Value) -> str:
    return value if isinstance(value, str) else _text(value)


def as_plain(value: Any) -> Value:
    """Return a plain copy of ``value``: NumPy's numbers become Python's, tuples become lists.

    Raises:
        TypeError: It is not plain.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError
        return value
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: as_plain(item) for key, item in value.items()}
    raise TypeError


def is_plain(value: Any) -> bool:
    """Say whether a config may hold this."""
    try:
        as_plain(value)
    except TypeError:
        return False
    return True


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
            return self._group(list(spec.items()), False, key=key, name=name, condition=condition)
        if isinstance(spec, list | tuple) and _holds_domain(spec):
            return self._group(list(enumerate(spec)), True, key=key, name=name, condition=condition)
        try:
            return _Constant(as_plain(spec))
        except TypeError:
            self.problems.append(
                f"{name} must be a Ray Tune domain or a plain value (None, bool, finite number, "
                f"str, lists or dicts of them), but got {spec!r}"
            )
            return _Constant(None)

    def _check_keys(self, spec: Mapping[Any, Any], name: str) -> None:
        for k in spec:
            if not isinstance(k, str) or not k:
                where = f" in {name}" if name else ""
                self.problems.append(f"names must be non-empty strings, but got {k!r}{where}")

    def _group(
        self,
        items: list[tuple[Any, Any]],
        is_list: bool,
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
            is_list,
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
        if not (math.isfinite(low) and math.isfinite(high)):
            self.problems.append(f"{name}: bounds must be finite, but got [{low}, {high}]")
        elif log and low <= 0:
            self.problems.append(f"{name}: low > 0 must hold on a log scale, but got low={low}")
        elif step is not None and not step > 0:
            self.problems.append(f"{name}: step > 0 must hold, but got {step}")
        elif low > high or (low == high and step is None):
            end = " (an integer domain ends before its upper bound)" if integer else ""
            self.problems.append(
                f"{name}: low < high must hold, but got low={low}, high={high}{end}"
            )
        elif step is not None:
            exact = _exact(step)
            first, last = math.ceil(_exact(low) / exact), math.floor(_exact(high) / exact)
            if first > last:
                self.problems.append(f"{name}: no multiple of {step} lies in [{low}, {high}]")
            low, high = first * exact, last * exact
            if log and low <= 0:
                self.problems.append(f"{name}: low > 0 must hold on a log scale, but got low={low}")
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
            try:
                labels = [as_plain(option) for option in options]
            except TypeError:
                self.problems.append(
                    f"{name}: choices must be plain values (None, bool, finite number, str, lists "
                    f"or dicts of them), but got {options!r}"
                )
                return _Constant(None)
            nodes: list[_Node] = [_Constant(label) for label in labels]
        else:
            labels = _labels(options)
            nodes = []
        if not _differ(labels):
            self.problems.append(f"{name}: choices must differ, but got {options!r}")
            return _Constant(None)
        parameter = Categorical(key=key, name=name, condition=condition, choices=tuple(labels))
        self.parameters.append(parameter)
        if nodes:
            return _Leaf(parameter)
        # 1 and "1" read alike, but are two branches.
        show = _show if len({_show(label) for label in labels}) == len(labels) else _text
        return _Branches(
            parameter,
            tuple(
                self.read(
                    option,
                    key=f"{key}[{show(label)}]",
                    name=name,
                    condition=Condition(key=key, label=label),
                )
                for option, label in zip(options, labels, strict=True)
            ),
        )


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
            labels.append(option[constant])
        elif not isinstance(option, Mapping) and not _holds_domain(option):
            labels.append(_plain_or(option, index))
        else:
            labels.append(index if str(index) not in plain else f"#{index}")
    return labels


def _telling_constant(branches: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the first name whose constants differ in all branches."""
    scalar = (bool, int, float, str, type(None))
    for name in branches[0] if len(branches) > 1 else ():
        values = [branch.get(name, ray_sample.Domain) for branch in branches]
        if all(isinstance(value, scalar) for value in values) and _differ(values):
            return name
    return None


def _differ(values: Sequence[Value]) -> bool:
    return len({_text(value) for value in values}) == len(values)


def _plain_or(option: Any, index: int) -> Value:
    try:
        return as_plain(option)
    except TypeError:
        return index


def _to_plain(node: _Node) -> dict[str, Any]:
    match node:
        case _Constant(value):
            return {"constant": value}
        case _Leaf(Number() as number):
            ends = {name: getattr(number, name) for name in ("low", "high", "step")}
            return {"number": ends, "log": number.log, "integer": number.integer}
        case _Leaf(parameter):
            return {"choice": [{"constant": value} for value in parameter.values()]}
        case _Group(members, is_list):
            plain = {str(key): _to_plain(member) for key, member in members.items()}
            return {"list": list(plain.values())} if is_list else {"dict": plain}
        case _Branches(_, options):
            return {"choice": [_to_plain(option) for option in options]}


def _from_plain(plain: Mapping[str, Any]) -> Any:
    match plain:
        case {"constant": value}:
            return value
        case {"choice": options}:
            return ray_sample.Categorical([_from_plain(option) for option in options])
        case {"list": members}:
            return [_from_plain(member) for member in members]
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
        case _Leaf(parameter):
            return as_plain(flat[parameter.key])
        case _Group(members, is_list):
            nested = {key: _nest(member, flat) for key, member in members.items()}
            return list(nested.values()) if is_list else nested
        case _Branches(parameter, options):
            return _nest(options[parameter.index(flat[parameter.key])], flat)


def _flatten(node: _Node, value: Value, flat: Flat, name: str) -> list[str]:
    """Add to ``flat`` what ``value`` says at ``node``; return the problems."""
    match node:
        case _Constant(expected):
            if _text(_lists(value)) != _text(expected):
                return [f"{name} must be {_show(expected)}, but got {_show(value)}"]
            return []
        case _Leaf(parameter):
            if not parameter.contains(_lists(value)):
                return [f"{name} must be {parameter.rule()}, but got {_show(value)}"]
            flat[parameter.key] = parameter.snap(_lists(value))
            return []
        case _Group(members, is_list):
            return _flatten_group(members, is_list, value, flat, name)
        case _Branches(parameter, options):
            return _flatten_branch(parameter, options, value, flat, name)


def _flatten_group(
    members: Mapping[Any, _Node], is_list: bool, value: Value, flat: Flat, name: str
) -> list[str]:
    if is_list and isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return [f"{name} must be a {'list' if is_list else 'dict'}, but got {_show(value)}"]
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


def _lists(value: Value) -> Value:
    """Return ``value`` with tuples as lists, as configs hold them."""
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return value


def active(parameters: Sequence[Parameter], flat: Mapping[str, Value]) -> Iterator[Parameter]:
    """Yield the parameters that a flat config has."""
    return (parameter for parameter in parameters if parameter.key in flat)
