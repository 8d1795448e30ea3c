"""One frame from the journal and from MLflow, with the types of the space."""

import contextlib
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_studies import DEFAULT, SPACE, Made, write_study
from mlflow import MlflowClient
from ray import tune

from hypertune import load_curves, load_trials
from hypertune.analysis.frames import load, value_at
from hypertune.analysis.report import write_report
from hypertune.core.errors import JournalError, SettingError
from hypertune.core.storage import sqlite_uri
from hypertune.core.task import RESERVED
from hypertune.core.text import storable
from hypertune.journal.store import Journal
from hypertune.tracking.mlflow import runs as mlflow_runs
from hypertune.tracking.mlflow.keys import OWN, name_key, own_key
from hypertune.tracking.mlflow.replica import deliver

BRANCHED = {
    **SPACE,
    "flag": tune.choice([True, False]),
    "sizes": tune.choice([None, [64, 64]]),
    "schedule": tune.choice(
        [{"kind": "flat"}, {"kind": "cosine", "warmup": tune.randint(0, 5), "floor": 0.1}]
    ),
}
FLAT = {**DEFAULT, "flag": True, "sizes": None, "schedule": {"kind": "flat"}}
COSINE = {
    **DEFAULT,
    "cell": "lstm",
    "flag": False,
    "sizes": [64, 64],
    "schedule": {"kind": "cosine", "warmup": 3, "floor": 0.1},
}
TRIALS = [
    Made(losses=[3.0, 2.0, 2.5, 1.9, 2.0, 2.0, 2.0, 2.0, 2.0], config=FLAT, test=2.1),
    Made(losses=[2.5, 2.4, math.nan], config=COSINE, reason="stopped", detail="not promoted\nxx"),
    Made(
        losses=[1.5, 1.4],
        config=COSINE,
        reason="converged",
        metrics={"acc": 0.5},
        origin="random",
    ),
    Made(losses=[0.1], config=FLAT, reason="failed", detail="RuntimeError: boom\ntrace"),
    Made(losses=[], config=FLAT, reason="lost"),
    Made(losses=[2.0, 1.0], config=FLAT, reason=None),
    Made(losses=[1.7], role="baseline", label="naive", test=1.8),
    Made(losses=[2.0] * 9, config=COSINE, role="replicate", repeat=2),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_study(tmp_path / "made-1", TRIALS, spec=BRANCHED, default=FLAT)


def test_trials_have_the_types_of_the_space(folder: Path) -> None:
    trials = load_trials(folder, epochs=(1, 3, 9))

    assert len(trials) == len(TRIALS)
    assert trials["config.window"].dtype == "Int64"
    assert trials["config.lr"].dtype == "Float64"
    assert trials["config.flag"].dtype == "boolean"
    assert list(trials["config.cell"].cat.categories) == ["gru", "lstm"]
    assert list(trials["config.sizes"].cat.categories) == ["null", "[64, 64]"]
    assert list(trials["config.sizes"][:2]) == ["null", "[64, 64]"]
    assert list(trials["config.schedule"][:2]) == ["flat", "cosine"]
    assert trials["config.schedule.warmup"].isna()[0]
    assert trials["config.schedule.warmup"][1] == 3
    assert trials.filter(like="config.").iloc[6].isna().all()
    assert list(trials["value"].fillna(-1)) == [1.9, 2.4, 1.4, 0.1, -1, 1.0, 1.7, 2.0]
    assert list(trials["best_epoch"].fillna(-1)) == [4, 2, 2, 1, -1, 2, 0, 1]
    assert list(trials["last_value"].fillna(-1)) == [2.0, 2.4, 1.4, 0.1, -1, 1.0, 1.7, 2.0]
    assert list(trials["epochs"]) == [9, 2, 2, 1, 0, 2, 0, 9]
    assert list(trials["full"]) == [True, False, True, False, False, False, True, True]
    assert list(trials["detail"][1:4]) == ["not promoted", "", "RuntimeError: boom"]
    assert list(trials["origin"][:3]) == ["", "", "random"]
    assert (trials["role"][7], trials["repeat"][7]) == ("replicate", 2)
    assert trials["cost_s"][0] == 9.0
    assert trials["cost_s"].isna()[5]
    assert list(trials["test"].fillna(-1)) == [2.1, -1, -1, -1, -1, -1, 1.8, -1]


def test_value_at_an_epoch_is_missing_where_it_is_not_comparable(folder: Path) -> None:
    trials = load_trials(folder, epochs=(1, 3, 9))

    assert list(trials["value_at_1"].fillna(-1)) == [3.0, 2.5, 1.5, -1, -1, 2.0, -1, 2.0]
    assert list(trials["value_at_3"].fillna(-1)) == [2.0, -1, 1.4, -1, -1, -1, -1, 2.0]
    assert list(trials["value_at_9"].fillna(-1)) == [1.9, -1, 1.4, -1, -1, -1, 1.7, 2.0]
    with pytest.raises(SettingError, match="epoch must be from 1 to 9, but got 10"):
        value_at(load(folder), 10)


def test_best_is_the_largest_where_more_is_better(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "up", [Made(losses=[1.0, 3.0, 2.0])], mode="max")

    assert list(load_curves(folder)["best"]) == [1.0, 3.0, 3.0]
    assert list(load_trials(folder)["value"]) == [3.0]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_and_the_journal_give_equal_frames(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert deliver(folder / "journal.db", uri, timeout_s=60).pending == 0

    pd.testing.assert_frame_equal(
        load_trials("made", tracking_uri=uri, epochs=(1, 9)), load_trials(folder, epochs=(1, 9))
    )
    pd.testing.assert_frame_equal(load_curves("made-1", tracking_uri=uri), load_curves(folder))
    assert load("made-1", tracking_uri=uri).study == load(folder).study
    with pytest.raises(SettingError, match="no study or experiment 'nothing'"):
        load_trials("nothing", tracking_uri=uri)

    other = write_study(tmp_path / "made-2", TRIALS[:1], spec=BRANCHED, default=FLAT)
    assert deliver(other / "journal.db", uri, timeout_s=60).pending == 0
    assert len(load_trials("made-2", tracking_uri=uri)) == 1
    with pytest.raises(SettingError, match="'made' holds 2 studies"):
        load_trials("made", tracking_uri=uri)


HOSTILE = [
    *("val/acc@1", "val/acc_1", "acc(1)", "acc[1]", "acc 1", " acc", "acc ", "", " ", "\n", "a\n"),
    *("best", "best_loss", "final_loss", "best_epoch", "n_epochs", "cost_s", "log10_lr", "seed"),
    *("hypertune/best", "Hypertune/best", "hypertune/log10/lr", "hypertune.name.x", "test_loss"),
    *(".", "..", "../a", "/a", "a/", "a//b", "a/./b", "./a", "a/b", "a:b", "a.b", "a|b", "`", "%"),
    *("time", "trial", "epoch", "metric.time", "metric.metric.time", "metric.", "self", "value"),
    *("\u00e9", "e\u0301", "\U0001f600", "\u202e", "\x1b[2J", "x" * 250, "x" * 251, "y" * 500),
    *("acc_1_.key-" + "0" * 16, name_key("acc(1)"), name_key("x" * 251), own_key("test", "a")),
]
NAMES = st.lists(
    st.sampled_from(HOSTILE) | st.text(max_size=20).map(storable),
    min_size=3,
    max_size=8,
    unique=True,
)


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
@settings(max_examples=12)
@given(names=NAMES, params=NAMES)
@example(names=HOSTILE, params=[name for name in HOSTILE if name])
def test_mlflow_gives_the_frames_of_the_journal_whatever_the_names(
    one_store: Path, names: list[str], params: list[str]
) -> None:
    fixed = {"a.b": 1, "a": {"b": 2}}
    params = [name for name in params if name and name not in (*RESERVED, *fixed)]
    spec = {name: tune.uniform(0, 1) for name in params} | {"x": tune.loguniform(0.1, 1)}
    config = dict.fromkeys(spec, 0.5)
    folder = one_store / f"study-{len(list(one_store.glob('study-*')))}"
    metrics = {name: k + 0.5 for k, name in enumerate(names[1:])}
    write_study(
        folder,
        [
            Made(losses=[3.0, 2.0, 1.0], config=config, metrics=metrics, test=1.1),
            Made(losses=[2.0], config=config, metrics=metrics, reason="stopped"),
            Made(losses=[0.7], role="baseline", label="naive", metrics=metrics, test=0.8),
            Made(losses=[2.0], config=config, metrics=metrics, reason=None),
        ],
        spec=spec,
        default=config,
        fixed=fixed,
        factors=["x"],
        metric=names[0],
        test_metric=names[1],
        log_parameters=["x"],
    )
    uri = f"sqlite:///{one_store / 'mlflow.db'}"
    delivery = deliver(folder / "journal.db", uri, timeout_s=60)

    assert (delivery.pending, delivery.warning) == (0, None)
    assert delivery.experiment_id is not None
    pd.testing.assert_frame_equal(load_trials(folder.name, tracking_uri=uri), load_trials(folder))
    curves = load_curves(folder)
    pd.testing.assert_frame_equal(load_curves(folder.name, tracking_uri=uri), curves)
    assert len(curves.columns) == 4 + len(names)
    # No param is lost either.
    client = MlflowClient(uri)
    run = client.search_runs(
        [delivery.experiment_id],
        f"tags.`mlflow.parentRunId` = '{delivery.run_id}' and tags.`hypertune.trial` = '0'",
    )[0]
    config = {**config, "a.b": 1, '["a", "b"]': 2, "seed": 0}
    assert {k: v for k, v in run.data.params.items() if not k.startswith(OWN)} == {
        name_key(name): str(value) for name, value in config.items()
    }
    assert run.data.params[own_key("log10", "x")] == "-0.30103"


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_runs_whose_own_keys_were_not_set_apart_are_still_read(
    folder: Path, one_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of earlier versions hold best_<metric> and the like beside a study's own metrics."""
    before = {"best": "best_val_loss", "final": "final_val_loss", "test": "test_loss"}
    monkeypatch.setattr(
        mlflow_runs, "own_key", lambda *parts: before.get(parts[0], "_".join(parts))
    )
    made = mlflow_runs._json_tags
    monkeypatch.setattr(
        mlflow_runs,
        "_json_tags",
        lambda value: made({k: v for k, v in value.items() if k not in ("format", "params")}),
    )
    folder = folder.rename(folder.with_name("earlier-1"))
    with contextlib.closing(Journal(folder / "journal.db")) as journal:
        journal.set_study(name="earlier-1", study_id="earlier", space="earlier")
    uri = f"sqlite:///{one_store / 'mlflow.db'}"
    assert deliver(folder / "journal.db", uri, timeout_s=60).pending == 0

    assert_equal = pd.testing.assert_frame_equal
    assert_equal(load_trials("earlier-1", tracking_uri=uri), load_trials(folder))
    assert_equal(load_curves("earlier-1", tracking_uri=uri), load_curves(folder))


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_values_that_no_number_type_holds_are_text(tmp_path: Path) -> None:
    spec = {
        "salt": tune.choice([2**64, 2**65, 7]),
        "draw": tune.randint(0, 2**64),
        "kernel": tune.choice([(3, 3), (5, 5)]),
        "alike": tune.choice(["1", 1, None]),
        "huge": tune.choice([10**400, 0.5]),
    }
    values = (2**64, 2**64 - 1, (3, 3), "1", 10**400), (7, 1, (5, 5), 1, 0.5)
    configs = [dict(zip(spec, row, strict=True)) for row in values]
    trials = [Made(losses=[1.0], config=config) for config in configs]
    about = {"default": configs[0], "factors": ["salt", "draw", "kernel"]}
    folder = write_study(tmp_path / "50% what?" / "odd-1", trials, spec=spec, **about)

    frame = load_trials(folder, parquet=tmp_path / "trials.parquet")
    rows = frame[[f"config.{name}" for name in spec]].to_numpy().tolist()
    texts = [str(2**64), str(2**64 - 1), "[3, 3]", '"1"', str(10**400)]
    assert rows == [texts, ["7", "1", "[5, 5]", "1", "0.5"]]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trials.parquet"), frame)
    uri = sqlite_uri(tmp_path / "50% what?" / "mlflow.db")
    assert deliver(folder / "journal.db", uri, timeout_s=60).pending == 0
    assert (tmp_path / "50% what?" / "mlflow.db").is_file()
    pd.testing.assert_frame_equal(load_trials("odd-1", tracking_uri=uri), load_trials(folder))
    write_report(folder)


def test_parquet_holds_the_frames(folder: Path, tmp_path: Path) -> None:
    trials = load_trials(folder, parquet=tmp_path / "trials.parquet")
    curves = load_curves(folder, parquet=tmp_path / "curves.parquet")

    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trials.parquet"), trials)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "curves.parquet"), curves)


def test_a_study_that_never_began_is_told(tmp_path: Path) -> None:
    empty = write_study(tmp_path / "empty", [])
    assert len(load_trials(empty)) == 0
    assert len(load_curves(empty)) == 0
    with pytest.raises(JournalError, match="There is no journal"):
        load_trials(tmp_path / "none")
