"""A study is checked as a whole before anything starts, and found by name or path."""

import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle, tune
from torch import nn

from hypertune import Study, forecasting
from hypertune.core.errors import SettingError, StudyError
from hypertune.core.task import Task
from hypertune.studies.study import load_study, study_names

SPACE = {"window": tune.choice([6, 12]), "cell": tune.choice(["gru", "lstm"])}
VALID: dict[str, Any] = {
    "question": "Does a longer window pay?",
    "factors": ("window",),
    "space": SPACE,
    "default": {"window": 6, "cell": "gru"},
    "fixed": {"dropout": 0.1},
    "trainable": forecasting("sunspots", horizon=12, max_window=24),
    "metric": "val_mae",
    "max_epochs": 9,
    "n_trials": 4,
}


def problems_of(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(StudyError) as caught:
        Study(**{**VALID, **changes})
    return caught.value.problems


def test_text_that_cannot_be_recorded_is_refused() -> None:
    odd = "caf\udce9"
    space = {**SPACE, odd: tune.choice(["a", "b\x00"])}
    found = problems_of(
        question=odd,
        metric=odd,
        name=odd,
        source=f"/{odd}.py",
        space=space,
        default={**VALID["default"], odd: "a"},
        fixed={"dropout": [odd]},
        constraints={odd: "<= 1"},
    )

    rule = "text must be UTF-8 without NUL, so that it can be recorded, but got"
    for what in ("question", "metric", "name", "space", "fixed", "constraints"):
        assert f"{what}: {rule} 'caf\\udce9'" in found
    assert f"source: {rule} '/caf\\udce9.py'" in found
    assert f"space: {rule} 'b\\x00'" in found


def test_valid_study_tells_the_whole_config_of_a_trial() -> None:
    study = Study(**VALID)

    assert study.config({"window": 12, "cell": "gru"}, seed=3) == {
        "window": 12,
        "cell": "gru",
        "dropout": 0.1,
        "max_epochs": 9,
        "seed": 3,
    }
    assert study.mode == "min"
    assert study.test_metric == "test_mae"
    assert study.search_space.n_configs == 4
    assert study.with_max_epochs(3).max_epochs == 3


def test_function_and_class_are_made_tasks_whose_metrics_are_not_known_yet() -> None:
    class Mine:
        def __init__(self, config: Any) -> None:
            return

        def step(self) -> dict[str, float]:
            return {}

    for trainable in (lambda config, report: None, Mine):
        study = Study(**{**VALID, "trainable": trainable, "metric": "anything"})
        assert isinstance(study.trainable, Task)
        assert study.test_metric is None
        assert study.with_max_epochs(3).trainable is study.trainable


def test_metric_may_have_no_counterpart_on_the_test_part() -> None:
    assert Study(**{**VALID, "metric": "train_loss"}).test_metric is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"question": "  "}, "question must be a sentence, but is empty"),
        ({"max_epochs": 0}, "max_epochs must be an integer of at least 1, but got 0"),
        ({"n_trials": 2.5}, "n_trials must be an integer of at least 1, but got 2.5"),
        ({"n_trials": True}, "n_trials must be an integer of at least 1, but got True"),
        ({"margin": 0.0}, "margin must be finite and more than 0, but got 0.0"),
        ({"margin": float("inf")}, "margin must be finite and more than 0, but got inf"),
        ({"mode": "up"}, "mode must be 'min' or 'max', but got 'up'"),
        ({"factors": ()}, "factors must name at least one parameter"),
        ({"factors": ("windw",)}, "factor 'windw' is not in the space. Did you mean 'window'?"),
        ({"fixed": {"window": 3}}, "'window' is in the space and must not be set besides"),
        ({"default": {"window": 7, "cell": "gru"}}, "default: window must be one of 6, 12"),
        ({"default": {"window": 6}}, "default: cell is missing"),
        ({"trainable": 3}, "trainable must be a task such as forecasting(...), a function"),
        ({"trainable": nn.Module}, "trainable must be a task such as forecasting(...), a function"),
        ({"trainable": nn.ReLU()}, "trainable must be a task such as forecasting(...), a function"),
        ({"trainable": dict}, "trainable must be a task such as forecasting(...), a function"),
        ({"trainable": lambda config: 1}, "<lambda>() must take two arguments, (config, report)"),
        ({"metric": "val_mse"}, "metric 'val_mse' is not reported by the task. Did you mean"),
        ({"space": {**SPACE, "x": tune.choice([])}}, "x: a choice must hold at least one value"),
    ],
)
def test_broken_rule_is_told(changes: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(**changes)

    assert found.startswith(problem)


def test_reserved_key_is_refused_as_fixed_value() -> None:
    assert "'seed' is in the space and must not be set besides" in problems_of(fixed={"seed": 1})


@pytest.mark.parametrize("value", [tune.uniform(0, 0.5), float("nan"), {1, 2}])
def test_fixed_value_must_be_plain(value: object) -> None:
    assert any("dropout" in problem for problem in problems_of(fixed={"dropout": value}))


def test_all_problems_are_told_at_once() -> None:
    changes = {"question": "", "max_epochs": 0, "factors": ("cel",), "metric": "loss"}

    found = problems_of(**changes, default={}, fixed={"hiden_size": 3})

    starts = ["question", "max_epochs", "factor 'cel'", "default: window", "default: cell"]
    starts += ["metric 'loss'", "'hiden_size'"]
    assert len(found) == len(starts)
    assert all(text.startswith(start) for text, start in zip(found, starts, strict=True))


def test_fixed_values_can_be_replaced_but_not_added() -> None:
    study = Study(**VALID)

    assert study.with_fixed({"dropout": 0.3}).fixed == {"dropout": 0.3}
    assert study.fixed == {"dropout": 0.1}
    with pytest.raises(SettingError) as caught:
        study.with_fixed({"dropot": 0.3, "window": 6})
    first, second = str(caught.value).splitlines()
    assert first.startswith("'dropot' is not a fixed value of this study. Did you mean 'dropout'?")
    assert second.startswith("'window' is not a fixed value of this study.")


def test_modules_beside_a_study_travel_with_it(tmp_path: Path) -> None:
    package = tmp_path / "beside_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("def three():\n    return 3\n")
    (tmp_path / "beside_module.py").write_text(
        "from beside_package.inner import three\n\ndef twice():\n    return 2 * three()\n"
    )
    (tmp_path / "mine.py").write_text(
        "import beside_module\n"
        "from hypertune import Study\n"
        "from ray import tune\n"
        "def train(config, report):\n"
        "    report(epoch=1, loss=beside_module.twice())\n"
        "study = Study(question='?', factors=('x',), space={'x': tune.choice([1, 2])},\n"
        "    default={'x': 1}, trainable=train, metric='loss', max_epochs=1, n_trials=1)\n"
    )
    path = list(sys.path)
    packed = cloudpickle.dumps(load_study(str(tmp_path / "mine.py")).trainable)
    assert sys.path == path
    for name in ("beside_module", "beside_package", "beside_package.inner"):
        del sys.modules[name]

    loop = cloudpickle.loads(packed).start({"seed": 0}, None, metric="loss", mode="min")

    assert loop.step() == {"loss": 6.0}
    loop.close()


@pytest.mark.parametrize("name", study_names())
def test_study_that_is_shipped_loads_by_name(name: str) -> None:
    study = load_study(name)

    assert study.name == name
    assert Path(study.source).name == f"{name}.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gru_windw", r"Unknown space 'gru_windw'. Did you mean 'gru_window'\? Choose one of:"),
        ("no/such.py", r"--space must be a name or a Python file, but '.*no/such.py' is no file"),
    ],
)
def test_unknown_study_is_a_setting_error(name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load_study(name)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1\n", "it must hold a variable study = Study(...), but study is NoneType"),
        ("study = 'me'\n", "it must hold a variable study = Study(...), but study is str"),
        ("from ray import tune\n\ntune.loguniform(0, 1)\n", "line 3: ValueError: LogUniform"),
        ("x = 1\nprint(y)\n", "line 2: NameError: name 'y' is not defined"),
        ("x = 1\ndef f(:\n", "line 2: SyntaxError: invalid syntax"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_"),
    ],
)
def test_file_that_is_no_study_says_what_and_where(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)

    with pytest.raises(StudyError) as caught:
        load_study(str(path))

    assert str(path) in str(caught.value)
    assert [p[: len(problem)] for p in caught.value.problems] == [problem]


def test_line_of_an_error_is_told_for_a_relative_path_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("x = 1\nprint(y)\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(StudyError, match="line 2: NameError"):
        load_study("./mine.py")


def test_file_is_loaded_by_path_and_its_rules_are_told(tmp_path: Path) -> None:
    shipped = Path(load_study("gru_window").source).read_text()
    path = tmp_path / "mine.py"
    path.write_text(shipped)

    study = load_study(str(path))

    assert (study.name, study.source) == ("mine", str(path.resolve()))
    path.write_text(shipped.replace("max_epochs=27", "max_epochs=0"))
    with pytest.raises(StudyError, match=r"mine.py' is not valid:\n  - max_epochs must be"):
        load_study(str(path))


@pytest.mark.parametrize(
    ("factors", "fair", "why"),
    [
        (("window", "cell"), "cell", ""),
        (("few", "cell"), "few", ""),
        (("two", "cell"), "two", ""),
        (("window",), None, "window is a matter of more or less"),
        (("many", "rate"), None, "many has 5 levels, and not 2 to 4; rate is a matter of more or"),
        (("only", "branch.deep"), None, "only has 1 levels, and not 2 to 4; branch.deep is not in"),
    ],
)
def test_the_first_choice_of_few_levels_is_the_factor_that_is_searched_fairly(
    factors: tuple[str, ...], fair: str | None, why: str
) -> None:
    space = {
        "window": tune.choice([6, 12, 24]),
        "cell": tune.choice(["gru", "lstm"]),
        "few": tune.choice([1, 2, 3, True]),  # True is no number
        "two": tune.choice([1, 2]),
        "many": tune.choice(list("abcde")),
        "only": tune.choice(["a"]),
        "rate": tune.loguniform(1e-4, 1e-1),
        "branch": tune.choice([{"kind": "a"}, {"kind": "b", "deep": tune.choice(["x", "y"])}]),
    }
    default = {"window": 6, "cell": "gru", "few": 1, "two": 1, "many": "a", "only": "a"}
    default |= {"rate": 1e-2, "branch": {"kind": "a"}}
    own = {"trainable": lambda config, report: None, "metric": "loss", "fixed": {}}
    changes = {**own, "space": space, "default": default, "factors": factors}
    given: dict[str, Any] = {**VALID, **changes}
    study = Study(**given)
    assert study.goal == "answer"
    assert (study.fair_factor and study.fair_factor.name) == fair
    assert study.why_not_fair.startswith(why)
    assert bool(why) == bool(study.why_not_fair)
    (problem,) = problems_of(goal="both")
    assert problem == "goal must be 'best' or 'answer', but got 'both'"
