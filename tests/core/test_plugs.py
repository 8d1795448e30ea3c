"""Classes of a user's own: from a file, from an installed package, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from ray import tune

from hypertune.core.errors import SettingError
from hypertune.core.plugs import plug_name, same_plug
from hypertune.core.space import Space
from hypertune.search.methods import (
    all_methods,
    ask_tell,
    find_method,
    find_scheduler,
    make_search,
)
from hypertune.search.searchers.base import Searcher
from hypertune.search.searchers.random import Random

MINE = """
from hypertune.search.searchers.random import Random

class Mine(Random):
    pass

def made(space, max_epochs, seed):
    return Random(space, max_epochs, seed)

def wrong(space, max_epochs, seed):
    return 7

number = 7

class Other:
    pass
"""
SPACE = Space({"x": tune.uniform(0, 1)})


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution that is installed: its modules, and what it says of itself."""
    about = tmp_path / "strangers_search-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-search\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[hypertune.methods]\nstrange = strangers_search:Mine\ngone = strangers_search.gone:Mine\n"
    )
    (tmp_path / "strangers_search.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["Mine", "made"])
def test_a_searcher_from_a_file_searches(mine: Path, name: str) -> None:
    search = ask_tell(f"{mine}:{name}", {"x": tune.uniform(0, 1)}, n_trials=3, seed=5)
    same = ask_tell("random", {"x": tune.uniform(0, 1)}, n_trials=3, seed=5)
    for _ in range(3):
        job, other = search.ask(), same.ask()
        assert job is not None
        assert other is not None
        assert job.config == other.config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mime", "has no 'Mime'"),
        ("Other", "Other is no subclass of hypertune.Searcher"),
        ("number", "must be a subclass of hypertune.Searcher or a function"),
        ("wrong", "wrong must return a hypertune.Searcher, but returned int"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(mine: Path, name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make_search(f"{mine}:{name}", SPACE, mode="min", max_epochs=1, n_trials=2)


def test_an_abstract_class_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "half.py"
    file.write_text("import hypertune\nclass Half(hypertune.Scheduler):\n    pass\n")
    with pytest.raises(SettingError, match="Half lacks promote"):
        find_scheduler(f"{file}:Half")


def test_a_file_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "fails.py"
    file.write_text("x = 1\nimport no_such_module_here\n")
    with pytest.raises(SettingError, match=r"fails\.py' cannot be read: line 2: ModuleNotFound"):
        _ = find_method(f"{file}:Mine").searcher
    with pytest.raises(SettingError, match=r"gone\.py' cannot be read: No such file"):
        _ = find_method(f"{tmp_path / 'gone.py'}:Mine").searcher


def test_a_file_that_changes_is_run_again(mine: Path) -> None:
    before = find_method(f"{mine}:Mine").searcher
    assert find_method(f"{mine}:Mine").searcher is before
    mine.write_text(MINE.replace("pass", "slow = True", 1))
    assert find_method(f"{mine}:Mine").searcher.slow


def test_a_package_offers_a_method(package: Path) -> None:
    assert {"strange", "auto"} <= set(all_methods())
    assert issubclass(find_method("strange").searcher, Random)
    with pytest.raises(SettingError, match=r"entry point strangers_search\.gone:Mine of the pack"):
        _ = find_method("gone").searcher
    with pytest.raises(SettingError, match=r"Unknown method .stranger.\. Did you mean .strange.\?"):
        make_search("stranger", SPACE, mode="min", max_epochs=1, n_trials=2)


def test_names_of_classes() -> None:
    class Here(Searcher):
        def suggest(self, trials: object, rng: np.random.Generator) -> None:
            return None

    assert (plug_name(Random) or "").endswith("searchers/random.py:Random")
    assert plug_name(Here) is None
    assert plug_name(None) is None
    assert same_plug("/a/mine.py:Mine", "/b/mine.py:Mine")
    assert not same_plug("/a/mine.py:Mine", "/a/mine.py:Other")
    assert not same_plug("auto", "random")
