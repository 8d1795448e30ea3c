"""The plan says what a run would do, and does nothing."""

import random
import statistics
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from made_studies import write_study
from ray import tune
from rich.console import Console

from hypertune.cli.display.console import console as make_console
from hypertune.cli.display.plan import show_plan
from hypertune.core.errors import SettingError
from hypertune.plan import Plan, make_plan
from hypertune.search import Assignment
from hypertune.search.methods import make_search
from hypertune.settings import Settings
from hypertune.studies.study import Study, load_study


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study("gru_window")


def plan(study: Study, tmp_path: Path, *, probe: bool = False, **settings: object) -> Plan:
    values: dict[str, object] = {"studies_dir": tmp_path / "studies", **settings}
    return make_plan(study, Settings(**values), probe=probe)  # type: ignore[arg-type]


def spent(study: Study, method: str, n_trials: int, loss: Callable[[int], float]) -> int:
    """Return the epochs of a search with three workers that report in turn."""
    search = make_search(
        method,
        study.search_space,
        mode=study.mode,
        max_epochs=study.max_epochs,
        n_trials=n_trials,
        start=(dict(study.default),),
        fair=study.fair_factor if study.goal == "answer" else None,
    )
    total, out = 0, deque[Assignment]()
    while True:
        while len(out) < 3 and (job := search.ask()) is not None:
            total += job.to_epoch - job.from_epoch
            out.append(job)
        if not out:
            return total
        job = out.popleft()
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, loss(job.trial))


@pytest.mark.parametrize("method", ["random", "tpe"])
@pytest.mark.parametrize(("n_trials", "max_epochs"), [(24, 27), (5, 9), (1, 1)])
def test_planned_epochs_are_what_a_search_in_full_spends(
    method: str, n_trials: int, max_epochs: int, study: Study, tmp_path: Path
) -> None:
    short = study.with_max_epochs(max_epochs)
    found = plan(study, tmp_path, method=method, n_trials=n_trials, max_epochs=max_epochs)

    assert found.n_epochs == spent(short, method, n_trials, float) == n_trials * max_epochs


def test_planned_epochs_are_about_what_a_search_with_random_curves_spends(
    study: Study, tmp_path: Path
) -> None:
    found = plan(study, tmp_path, method="asha", n_trials=100, max_epochs=81)
    long = study.with_max_epochs(81)

    def epochs(seed: int) -> int:
        losses = random.Random(seed).sample(range(100), 100)
        return spent(long, "asha", 100, lambda trial: float(losses[trial]))

    assert found.n_epochs == pytest.approx(statistics.mean(map(epochs, range(20))), rel=0.15)


@pytest.mark.parametrize(
    "settings", [{"cpus_per_trial": 10_000.0}, {"n_concurrent": 10_000, "n_trials": 10_000}]
)
def test_a_plan_is_refused_where_a_run_would_be(
    settings: dict[str, Any], study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(SettingError, match=r"must run at a time, but Ray can run"):
        plan(study, tmp_path, **settings)


def test_a_large_search_is_planned_at_once(study: Study, tmp_path: Path) -> None:
    found, small = (plan(study, tmp_path, method="asha", n_trials=n) for n in (10**7, 2000))
    assert found.n_epochs == pytest.approx(5000 * small.n_epochs, rel=0.05)


def test_a_probe_that_fails_says_so(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*args: object, **kwargs: object) -> None:
        raise TypeError("no such layer")

    monkeypatch.setattr(type(study.trainable), "start", start)
    with pytest.raises(SettingError, match=r"The probe failed with .*: TypeError: no such layer"):
        plan(study, tmp_path, probe=True)


def test_number_of_trials_is_that_of_the_study_and_at_most_what_the_space_holds(
    study: Study, tmp_path: Path
) -> None:
    small = replace(
        study,
        space={"cell": tune.choice(["gru", "lstm"]), "window": tune.choice([6, 12, 24])},
        default={"cell": "gru", "window": 6},
    )

    infinite = plan(study, tmp_path)
    finite = plan(small, tmp_path, n_concurrent=9, cpus_per_trial=0.01)

    assert (infinite.n_configs, infinite.n_trials) == (None, study.n_trials)
    assert (finite.n_configs, finite.n_trials, finite.n_concurrent) == (6, 6, 6)
    assert finite.parameters == [("cell", "one of gru, lstm"), ("window", "one of 6, 12, 24")]


def test_nothing_is_made_by_a_plan_with_a_probe(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("work", "scratch"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    n_threads = torch.get_num_threads()

    found = make_plan(study, Settings(max_epochs=2, n_trials=2, n_concurrent=1), probe=True)

    torch.set_num_threads(n_threads)
    left = [path.name for path in tmp_path.rglob("*") if "torchinductor" not in path.name]
    assert left == ["work", "scratch"]
    assert found.folder == Path("studies") / "gru_window-1"
    assert found.store == f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}"
    assert found.free_bytes > 0
    assert found.probe is not None
    assert len(found.probe.epoch_s) == 3
    assert all(seconds > 0 for seconds in found.probe.epoch_s)
    assert found.probe.checkpoint_bytes > 1000
    mean = statistics.mean(found.probe.epoch_s)
    assert found.probe.total_s > found.n_epochs * mean


@pytest.mark.parametrize("saves", [True, False])
def test_plan_counts_what_is_trained_again_where_nothing_is_saved(
    saves: bool, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: Any, report: Any) -> None:
        print("noise")  # noqa: T201
        for epoch in range(1, config["max_epochs"] + 1):
            report(epoch=epoch, val_mae_ratio=1.0, save=lambda folder: None)

    def without_save(config: Any, report: Any) -> None:
        print("noise")  # noqa: T201
        for epoch in range(1, config["max_epochs"] + 1):
            report(epoch=epoch, val_mae_ratio=1.0)

    own = replace(study, trainable=train if saves else without_save)
    found = plan(own, tmp_path, probe=True, method="asha", n_trials=9, max_epochs=9)
    in_full = plan(own, tmp_path, method="random", n_trials=9, max_epochs=9)

    # 9 trials of 1 epoch, 3 to 9 of them to 3, 1 to 3 of these to 9; each promotion begins anew.
    assert (found.n_repeated > 0) != saves
    assert saves or 3 * 1 + 1 * 3 <= found.n_repeated <= 9 * 1 + 3 * 3
    assert in_full.n_repeated == 0
    show_plan(make_console(), own, Settings(), found)
    shown = capsys.readouterr().out
    assert ("promoted trial trains again from the start" in shown) != saves
    assert "noise" not in shown


def test_probe_trains_a_default_that_leaves_out_constants_of_the_space(
    study: Study, tmp_path: Path
) -> None:
    space = {"window": 6, "cell": tune.choice(["gru"])}
    short = replace(study, space=space, default={"cell": "gru"}, factors=("cell",), goal="best")

    assert plan(short, tmp_path, probe=True, max_epochs=1, n_trials=1).probe is not None


def test_folder_is_the_first_free_one_and_a_taken_name_is_refused(
    study: Study, tmp_path: Path
) -> None:
    write_study(tmp_path / "studies" / "gru_window-1", [])

    assert plan(study, tmp_path).folder.name == "gru_window-2"
    assert plan(study, tmp_path, name="mine").folder.name == "mine"
    with pytest.raises(SettingError, match="There is a study 'gru_window-1' in"):
        plan(study, tmp_path, name="gru_window-1")


def test_what_fresh_workers_cost_is_shown(study: Study, tmp_path: Path) -> None:
    out = StringIO()
    given = Settings(
        studies_dir=tmp_path / "studies", fresh_workers=True, n_trials=8, n_concurrent=1
    )
    console = Console(file=out, width=400)
    show_plan(console, study, given, make_plan(study, given, probe=False))
    assert "begins a process, about 4 s: at least 32 s in all for 8 trials" in out.getvalue()
    assert given.record()["fresh_workers"] is True
