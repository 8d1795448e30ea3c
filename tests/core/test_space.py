"""Ray Tune's domains become flat typed parameters, and configs go there and back."""

import datetime
import enum
import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ray import tune

from hypertune.core.errors import StudyError
from hypertune.core.space import Space, Value, identity, level_texts, like

X = tune.uniform(0, 1)
BRANCHES = {
    "schedule": tune.choice(
        [
            {"kind": "cosine", "warmup": tune.randint(0, 5), "floor": tune.uniform(0, 0.1)},
            {"kind": "step", "warmup": tune.randint(0, 9), "decay": tune.choice([0.1, 0.5])},
            None,
        ]
    ),
    "model": {"sizes": [tune.lograndint(8, 65), tune.qrandint(16, 64, 16)], "bias": True},
    "mode": tune.choice([1, 1.0, True, None, "1", (1, 2), {"a": (3,)}]),
    "deep": tune.choice([{"a": tune.choice([{"b": tune.quniform(0, 1, 0.1)}, 7])}, "off"]),
}
FINITE = {"a": tune.randint(0, 3), "b": tune.choice([{"c": tune.quniform(0, 1, 0.25)}, None])}
TUPLES = {
    "kernel": tune.choice([(3, 3), (5, 5)]),
    "deep": tune.choice([[(1, (2,))], {"k": (None, [1])}, "a"]),
    "branch": tune.choice([{"size": (tune.randint(1, 4), 3), "pad": ((1,), 2)}, (X, [X]), None]),
    "constant": [(1, 2), {"k": ()}],
}
SPACES = [BRANCHES, FINITE, TUPLES, {"lr": tune.loguniform(1e-300, 1e300)}]


def points(space: Space, key: str, n: int = 400) -> list[Value]:
    return [space[key].from_unit((i + 0.5) / n) for i in range(n)]


@pytest.mark.parametrize(
    ("domain", "rule", "values"),
    [
        (tune.randint(0, 4), "an integer in [0, 3]", [0, 1, 2, 3]),
        (tune.lograndint(1, 5), "an integer in [1, 4]", [1, 2, 3, 4]),
        (tune.qrandint(0, 10, 5), "an integer in [0, 10] in steps of 5", [0, 5, 10]),
        (tune.qrandint(0, 4, 1), "an integer in [0, 3]", [0, 1, 2, 3]),
        (tune.qlograndint(4, 16, 4), "an integer in [4, 16] in steps of 4", [4, 8, 12, 16]),
        (tune.quniform(-0.2, 0.4, 0.2), "a number in [-0.2, 0.4] in steps of 0.2", None),
        (tune.quniform(0, 1, 0.1), "a number in [0, 1] in steps of 0.1", None),
        (tune.qloguniform(0.1, 0.4, 0.1), "a number in [0.1, 0.4] in steps of 0.1", None),
        (tune.choice([3]), "one of 3", [3]),
        (tune.choice(["b", None, 1, 1.0, True]), "one of b, null, 1, 1.0, true", None),
    ],
)
def test_finite_domain_has_the_values_that_ray_draws(
    domain: Any, rule: str, values: list[Value] | None
) -> None:
    space = Space({"x": domain})

    found = {identity({"": v}) for v in points(space, "x")}

    drawn = domain.sample(size=2000, random_state=np.random.RandomState(0))
    drawn = values or [round(v, 9) + 0.0 if isinstance(v, float) else v for v in drawn]
    assert found == {identity({"": v}) for v in drawn}
    assert space["x"].rule() == rule
    assert space["x"].n_values == space.n_configs == len(found)


@pytest.mark.parametrize(
    ("domain", "rule", "low", "middle", "high"),
    [
        (tune.uniform(2, 3), "a number in [2, 3]", 2, 2.5, 3),
        (tune.loguniform(1e-4, 1e-2), "a number in [0.0001, 0.01]", 1e-4, 1e-3, 1e-2),
    ],
)
def test_continuous_domain_is_searched_uniformly_on_its_scale(
    domain: Any, rule: str, low: float, middle: float, high: float
) -> None:
    x = Space({"x": domain})["x"]

    values = [x.from_unit(u) for u in (0, 0.5, 1 - 2**-53)]

    assert values == pytest.approx([low, middle, high])
    assert all(type(v) is float and low <= v <= high for v in values)
    assert (x.rule(), x.n_values) == (rule, None)


def test_grid_search_is_a_choice() -> None:
    x = Space({"x": tune.grid_search([1, "a"])})["x"]

    assert [x.from_unit(0.2), x.from_unit(0.8)] == [1, "a"]


@pytest.mark.parametrize(
    ("domain", "below", "share"),
    [
        (tune.loguniform(1e-4, 1), 1e-2, 0.5),
        (tune.lograndint(1, 1000), 31.5, 0.545),
        (tune.uniform(-1, 1), 0, 0.5),
        (tune.randint(0, 4), 0.5, 0.25),
        (tune.quniform(0, 1, 0.25), 0.1, 0.2),
        (tune.choice([0, 1, 2]), 0.5, 1 / 3),
    ],
)
def test_draws_are_uniform_on_the_scale(domain: Any, below: float, share: float) -> None:
    space, rng = Space({"x": domain}), np.random.default_rng(0)

    n = sum(space.sample(rng)["x"] < below for _ in range(4000))

    assert n / 4000 == pytest.approx(share, abs=0.03)


def test_multiples_are_free_of_float_dust() -> None:
    values = sorted(set(points(Space({"x": tune.quniform(0, 1, 0.1)}), "x")))

    assert values == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_value_with_float_dust_is_the_multiple_that_it_stands_for() -> None:
    assert Space({"x": tune.quniform(0, 1, 0.1)}).flatten({"x": 0.1 * 3}) == {"x": 0.3}


@pytest.mark.parametrize(
    ("domain", "high"),
    [
        (tune.quniform(0, 1, 1e-5), 1.0),
        (tune.quniform(0, 1, 1e-9), 1.0),
        (tune.randint(0, 2**53), 2**53 - 1),
    ],
)
def test_upper_end_is_exact_in_long_ranges(domain: Any, high: float) -> None:
    assert Space({"x": domain})["x"].from_unit(1 - 2**-53) == high


@pytest.mark.parametrize("spec", SPACES)
def test_config_comes_back_from_nested_and_unit_form(spec: dict[str, Any]) -> None:
    space, rng = Space(spec), np.random.default_rng(1)
    for _ in range(200):
        flat = space.sample(rng)
        nested = space.nest(flat)

        assert space.problems(nested) == []
        assert identity(space.flatten(nested)) == identity(flat)
        assert identity(json.loads(json.dumps(nested))) == identity(nested)
        for key, value in flat.items():
            again = space[key].from_unit(space[key].to_unit(value))
            assert type(again) is type(value)
            assert again == (pytest.approx(value) if isinstance(value, float) else value)


def test_nested_config_has_the_shape_of_the_space_and_is_the_callers_own() -> None:
    space = Space({"a": {"b": tune.choice([(1, 2)]), "c": [3, 4]}, "d": [tune.randint(5, 6), 7]})
    config = space.nest({"a.b": [1, 2], "d.0": 5})
    assert config == {"a": {"b": (1, 2), "c": [3, 4]}, "d": [5, 7]}

    config["a"]["c"].append(0)
    assert space.nest({"a.b": [1, 2], "d.0": 5})["a"]["c"] == [3, 4]


@pytest.mark.parametrize(
    ("options", "labels", "keys"),
    [
        ([{"kind": "a", "x": X}, {"kind": "b", "x": X}], ("a", "b"), ["s[a].x", "s[b].x"]),
        ([{"n": 1, "k": 3, "x": X}, {"n": 1, "k": 4}], (3, 4), ["s[3].x"]),
        ([{"x": X}, {"y": X}], (0, 1), ["s[0].x", "s[1].y"]),
        ([{"x": X}, None], (0, None), ["s[0].x"]),
        (["off", {"x": X}], ("off", 1), ["s[1].x"]),
        ([X, tune.uniform(2, 3)], (0, 1), ["s[0]", "s[1]"]),
        ([[X, 1], [X, 2]], (0, 1), ["s[0].0", "s[1].0"]),
    ],
)
def test_branches_go_by_the_constant_that_differs_else_by_index(
    options: list[Any], labels: tuple[Value, ...], keys: list[str]
) -> None:
    first, *rest = Space({"s": tune.choice(options)}).parameters

    assert [first.from_unit(0.1), first.from_unit(0.9)] == list(labels)
    assert [p.key for p in rest] == keys
    assert all(p.condition and p.condition.key == "s" for p in rest)


def test_index_of_a_branch_may_be_a_constant_beside_it() -> None:
    assert Space({"s": tune.choice([{"x": X}, 0])}).flatten({"s": 0}) != {}


def test_keys_are_unique_for_labels_that_read_alike() -> None:
    space = Space({"s": tune.choice([{"k": "1", "x": X}, {"k": 1, "x": X}])})

    assert len({p.key for p in space.parameters}) == 3


def test_branches_share_names_but_not_keys_and_only_the_chosen_one_is_active() -> None:
    space = Space(BRANCHES)

    assert space.names.count("schedule.warmup") == 1
    assert space.n_configs is None
    flat = space.build(lambda p: p.from_unit(0.4))
    assert flat["schedule"] == "step"
    assert "schedule[step].warmup" in flat
    assert "schedule[cosine].warmup" not in flat
    assert space.nest(flat)["schedule"] == {"kind": "step", "warmup": 3, "decay": 0.1}


@pytest.mark.parametrize(
    ("spec", "n"),
    [
        (FINITE, 3 * (5 + 1)),
        ({"a": tune.choice([{"x": tune.randint(0, 4)}, {"y": tune.choice([1, 2])}])}, 6),
        ({"a": tune.choice([1]), "b": 5}, 1),
        ({"a": tune.choice([1, 2]), "b": X}, None),
        ({"a": tune.choice([{"x": X}, None])}, None),
    ],
)
def test_number_of_configs(spec: dict[str, Any], n: int | None) -> None:
    assert Space(spec).n_configs == n


@pytest.mark.parametrize(
    ("config", "problems"),
    [
        ({"a": 2, "b": {"c": 0.25}}, []),
        ({"a": 3, "b": None}, ["a must be an integer in [0, 2], but got 3"]),
        ({"a": 1.0, "b": None}, ["a must be an integer in [0, 2], but got 1.0"]),
        ({"a": True, "b": None}, ["a must be an integer in [0, 2], but got true"]),
        ({"b": {"c": 0.3}}, ["a is missing", "b.c must be a number in [0, 1] in steps of 0.25"]),
        pytest.param({"a": 0, "b": {"d": 1}}, ["b.d is not in the space", "b.c is missing"]),
        ({"a": 0, "b": None, "aa": 1}, ["aa is not in the space. Did you mean 'a'?"]),
        ({"a": 0, "b": 4}, ["b must be null or a dict, but got 4"]),
    ],
)
def test_problems_name_rule_and_value(config: dict[str, Any], problems: list[str]) -> None:
    found = Space(FINITE).problems(config)

    assert len(found) == len(problems)
    assert all(text.startswith(start) for text, start in zip(found, problems, strict=True))
    if problems:
        with pytest.raises(ValueError, match=r"must be|missing|not in the space"):
            Space(FINITE).flatten(config)


BROKEN: dict[str, tuple[Any, str]] = {
    "reversed": (tune.uniform(1, 0), "reversed: low < high must hold, but got low=1, high=0"),
    "empty": (tune.randint(3, 3), "empty: low < high must hold, but got low=3, high=2 (an integer"),
    "infinite": (tune.uniform(math.inf, 1), "infinite: bounds must be finite, but got [inf, 1]"),
    "gap": (tune.qrandint(1, 5, 7), "gap: no multiple of 7 lies in [1, 5]"),
    "none": (tune.choice([]), "none: a choice must hold at least one value, but got none"),
    "twice": (tune.choice([1, 1]), "twice: choices must differ, but got [1, 1]"),
    "tuple": (tune.choice([[1], (1,)]), "tuple: choices must differ, but got [[1], (1,)]"),
    "normal": (tune.randn(), "normal: a normal distribution has no bounds; use tune.uniform"),
    "drawn": (tune.sample_from(lambda _: 1), "drawn: tune.sample_from has no range that could be"),
    "thing": ({1, 2}, "thing must be a Ray Tune domain or a plain value"),
    "nan": (math.nan, "nan must be a Ray Tune domain or a plain value"),
    "things": (tune.choice([{1}]), "things: choices must be plain values"),
    "text": (tune.uniform(False, True), "text: bounds and steps must be numbers, but got False"),
    "half": (tune.randint(0.5, 3), "half: bounds and steps of integers must be integers, but got"),
    "huge": (tune.randint(0, 10**400), "huge: bounds must be finite, but got [0, 9999"),
    "nested": (
        tune.choice([(X, 1), [X, 1]]),
        "nested: choices must differ",
    ),
    "": (1, "names must be non-empty strings, but got ''"),
}


def test_all_problems_of_a_space_are_told_at_once() -> None:
    zero = tune.uniform(0, 1)
    zero.set_sampler(type(tune.loguniform(1, 2).get_sampler())(), allow_override=True)

    with pytest.raises(StudyError) as caught:
        Space({**{k: v for k, (v, _) in BROKEN.items()}, "deep": [{"zero": zero}]})

    expected = [text for _, text in BROKEN.values()] + ["deep.0.zero: low > 0 must hold on a log"]
    assert len(caught.value.problems) == len(expected)
    for text in expected:
        assert sum(problem.startswith(text) for problem in caught.value.problems) == 1, text


def test_names_may_hold_dots_unless_two_parameters_get_the_same() -> None:
    dotted = tune.uniform(0, 1)

    assert Space({"a.b": dotted, "b": {"c": dotted}}).names == ("a.b", "b.c")
    with pytest.raises(StudyError, match=r"dotted names, but 2 are called 'a\.b'"):
        Space({"a.b": dotted, "a": {"b": dotted}})


@pytest.mark.parametrize("spec", [{}, {"a": 5}])
def test_space_without_a_parameter_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="must hold at least one parameter"):
        Space(spec)


@pytest.mark.parametrize("spec", [*SPACES, {"k": tune.qrandint(4, 20, 4), "n": tune.randint(1, 5)}])
def test_a_space_comes_back_from_its_record(spec: dict[str, Any]) -> None:
    space = Space(spec)
    again = Space.from_plain(json.loads(json.dumps(space.plain())))

    assert again.parameters == space.parameters
    rng = np.random.default_rng(0)
    for _ in range(50):
        config = space.nest(space.sample(rng))
        assert repr(again.nest(again.flatten(json.loads(json.dumps(config))))) == repr(config)


@pytest.mark.parametrize(
    ("domain", "parts"),
    [
        (tune.loguniform(1e-4, 1e-1), ["0.0001 to 0.001", "0.001 to 0.01", "0.01 to 0.1"]),
        (tune.uniform(0, 0.6), ["0 to 0.2", "0.2 to 0.4", "0.4 to 0.6"]),
        (tune.quniform(0, 1, 0.1), ["0 to 0.3", "0.4 to 0.6", "0.7 to 1"]),
        (tune.lograndint(4, 257), ["4 to 14", "15 to 61", "62 to 256"]),
        (tune.lograndint(1, 6), ["1", "2", "3 to 5"]),
        (tune.randint(1, 5), ["1", "2", "3", "4"]),
        (tune.randint(1, 6), ["1 to 2", "3", "4 to 5"]),
        (tune.choice([8, 16, 32, 64, 128, 256, 512]), ["8 to 16", "32 to 128", "256 to 512"]),
        (tune.choice([512, 8, 64, 1, 2]), ["1 to 2", "8", "64 to 512"]),
        (tune.choice([1, 2, 3]), ["1", "2", "3"]),
        (tune.choice(["1", 1]), ['"1"', "1"]),
        (tune.uniform(1000.0, 1006.0), ["1000 to 1002", "1002 to 1004", "1004 to 1006"]),
        (tune.uniform(0.999, 0.9996), ["0.999 to 0.9992", "0.9992 to 0.9994", "0.9994 to 0.9996"]),
        (tune.choice(["a", "b", None, True, 0.5]), ["a", "b", "null", "true", "0.5"]),
    ],
)
def test_a_number_is_compared_by_ranges_and_a_choice_by_levels(
    domain: Any, parts: list[str]
) -> None:
    (parameter,) = Space({"x": domain}).parameters
    assert parameter.parts == parts
    drawn = [parameter.from_unit(k / 600) for k in range(600)]
    counts = {part: [parameter.part(v) for v in drawn].count(part) for part in parts}
    assert sum(counts.values()) == 600
    assert min(counts.values()) > 0


def test_label_of_a_branch_is_none_of_the_plain_options() -> None:
    space = Space({"o": tune.choice(["adam", {"name": "adam", "lr": X}, {"name": "sgd"}])})
    rng = np.random.default_rng(0)
    shapes = {json.dumps(space.nest(space.sample(rng)), default=str)[:18] for _ in range(50)}
    assert len(shapes) == 3


@pytest.mark.parametrize(
    ("range_", "value", "inside"),
    [
        (tune.quniform(0, 0.3, 0.1), 3 * 0.1, True),
        (tune.quniform(0, 0.3, 0.1), 0.4, False),
        (tune.quniform(0, 0.3, 0.1), 0.25, False),
        (tune.quniform(0, 0.3, 0.1), math.inf, False),
        (tune.quniform(0, 0.3, 0.1), math.nan, False),
        (tune.quniform(0, 1e-12, 1e-13), 1.5e-13, False),
        (tune.qrandint(0, 7 * 10**9, 7), 7 * 10**9 - 7, True),
        (tune.qrandint(0, 7 * 10**9, 7), 7 * 10**9 - 5, False),
        (tune.randint(0, 5), 5, False),
        (tune.randint(0, 5), 10**400, False),
    ],
)
def test_steps_are_exact_but_for_the_last_digit_of_floats(
    range_: Any, value: float, inside: bool
) -> None:
    assert Space({"x": range_}).parameters[0].contains(value) is inside


class Opt(str, enum.Enum):  # noqa: UP042, it is formatted unlike a StrEnum
    ADAM = "adam"


class Size(enum.IntEnum):
    SMALL = 8


class Rate(float, enum.Enum):
    LOW = 0.1


class Point(NamedTuple):
    x: int
    y: int


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Opt.ADAM, "adam"),
        (enum.StrEnum("E", {"A": "a"}).A, "a"),  # type: ignore[attr-defined]
        (Size.SMALL, 8),
        (Rate.LOW, 0.1),
        (Name("n"), "n"),
        (np.str_("s"), "s"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (2**64, 2**64),
        (-0.0, -0.0),
        ((Opt.ADAM, [Size.SMALL]), ("adam", [8])),
        ({Opt.ADAM: (np.int8(1),)}, {"adam": (1,)}),
    ],
)
def test_a_choice_is_of_pythons_own_types_everywhere(value: Any, plain: Value) -> None:
    space = Space({"x": tune.choice([value, "other"]), "c": value})
    config = space.nest(space.flatten({"x": value, "c": value}))
    recorded = Space.from_plain(json.loads(json.dumps(space.plain())))
    again = recorded.nest(recorded.flatten(json.loads(json.dumps(config))))
    for found in (config, again):
        assert repr(found) == repr({"x": plain, "c": plain})
        assert type(found["x"]) is type(plain)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (enum.Enum("E", "A").A, "its .value or its .name"),  # type: ignore[attr-defined]
        (Path("a"), "str(path)"),
        (datetime.date(2020, 1, 1), ".isoformat()"),
        (datetime.datetime(2020, 1, 1), ".isoformat()"),
        (np.datetime64("2020-01-01"), ".isoformat()"),
        ({1, 2}, "sorted(values), a list"),
        (b"a", ".decode()"),
        (1j, "real and its imaginary part"),
        (Decimal("0.1"), "float(number), or str(number)"),
        (Fraction(1, 3), "float(number), or str(number)"),
        (range(3), "list(values)"),
        (np.zeros(2), ".tolist()"),
        (Point(1, 2), "tuple(value)"),
        (math.sin, "its name, and look that up"),
        (dict, "its name, and look that up"),
        (object(), "make it in the trainable"),
        ((1, math.nan), "nan is not finite"),
        ([np.inf], "inf is not finite"),
        ({1: 2}, "instead of 1 write '1'"),
        pytest.param(10**5000, "at most 4300 digits", id="5000 digits"),
    ],
)
def test_what_is_not_plain_is_refused_with_what_to_write(value: Any, advice: str) -> None:
    with pytest.raises(StudyError) as caught:
        Space({"x": tune.choice([value, "other"]), "c": (value,)})
    (first, second) = caught.value.problems
    assert first.startswith("x: choices must be plain values")
    assert second.startswith("c must be a Ray Tune domain or a plain value")
    assert advice in first
    assert advice in second


def test_integers_beyond_64_bits_are_exact() -> None:
    x = Space({"x": tune.randint(2**70, 2**70 + 5)})["x"]
    assert list(x.values()) == [2**70 + k for k in range(5)]
    assert [x.from_unit(x.to_unit(v)) for v in x.values()] == list(x.values())
    assert [x.contains(v) for v in (2**70 - 1, 2**70, 2**70 + 4, 2**70 + 5)] == [0, 1, 1, 0]
    assert x.rule() == f"an integer in [{2**70}, {2**70 + 4}]"
    assert x.part(2**70 + 4) == x.parts[-1]


def test_values_from_json_become_tuples_as_another_one_has_them() -> None:
    assert like([[1, 2], [3, 4], [5]], ((0, 0),)) == ((1, 2), (3, 4), (5,))
    assert like({"a": [1], "b": [1]}, {"a": (2,)}) == {"a": (1,), "b": [1]}
    assert like([1], None) == [1]


def test_levels_that_read_alike_stay_apart() -> None:
    assert level_texts(["1", 1, True]) == ['"1"', "1", "true"]
    assert level_texts(["a", None, (1, 2)]) == ["a", "null", "[1, 2]"]
