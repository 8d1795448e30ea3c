"""The default searcher: its encoding, its surrogate, and what it proposes."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ray import tune
from scipy.optimize import approx_fprime

from hypertune.core.space import Categorical, Space, active
from hypertune.search import Assignment, Search
from hypertune.search.encoding import Encoding
from hypertune.search.history import Reason, incumbent
from hypertune.search.methods import ask_tell
from hypertune.search.searchers import auto
from hypertune.search.surrogate import GaussianProcess, Observations

Floats = NDArray[np.float64]
X = tune.uniform(0, 1)
BRANCHES = {
    "n": tune.randint(1, 5),
    "opt": tune.choice(
        [
            {"name": "sgd", "rate": tune.loguniform(1e-4, 1), "momentum": X},
            {"name": "adam", "rate": tune.loguniform(1e-4, 1)},
            {"name": "lion", "rate": tune.loguniform(1e-5, 1)},
        ]
    ),
}


# ---- encoding ----


def test_points_stand_for_their_configs() -> None:
    space = Space({**BRANCHES, "units": tune.lograndint(4, 257), "q": tune.quniform(0, 1, 0.1)})
    encoding, rng = Encoding(space), np.random.default_rng(0)
    flats = [space.sample(rng) for _ in range(50)]
    points = encoding.points(flats)

    for flat, point in zip(flats, points, strict=True):
        again = encoding.flat(point, {})
        assert again == pytest.approx(flat)
    # What a point is rounded to has the features of the point.
    anywhere = rng.random((200, encoding.n_parameters))
    rounded = encoding.points([encoding.flat(point, {}) for point in anywhere])
    assert np.allclose(encoding.features(anywhere), encoding.features(rounded), atol=0.02)


def test_equal_parameters_of_two_branches_are_one_feature() -> None:
    encoding = Encoding(Space(BRANCHES))
    # n, opt (three columns), the rate of sgd and adam, momentum, the rate of lion
    assert list(encoding.groups) == [0, 1, 1, 1, 2, 3, 4]
    sgd, adam = (
        {"n": 2, "opt": kind, f"opt[{kind}].rate": 0.01, **more}
        for kind, more in (("sgd", {"opt[sgd].momentum": 0.5}), ("adam", {}))
    )
    a, b = encoding.features(encoding.points([sgd, adam]))
    # They differ in their kind alone, by one; momentum sits in the middle, as adam's absent one.
    assert np.linalg.norm(a - b) == pytest.approx(1)


# ---- surrogate ----


def told(n: int, seed: int, fidelity: bool) -> Observations:
    rng = np.random.default_rng(seed)
    features = rng.random((n, 2)) - 0.5
    at = rng.choice([0.0, 0.5, 1.0], n) if fidelity else np.ones(n)
    targets = np.sin(6 * features[:, 0]) + (1 - at) + 0.1 * rng.normal(size=n)
    return Observations(features=features, at=at, trials=np.arange(n) // 2, targets=targets)


@pytest.mark.parametrize("fidelity", [True, False])
def test_gradient_of_the_posterior_is_that_of_finite_differences(fidelity: bool) -> None:
    process = GaussianProcess(np.array([0, 1]), fidelity=fidelity)
    seen: dict[str, Any] = {}

    def loss(free: Floats) -> tuple[float, Floats]:
        return process._loss(free, *seen["args"])

    process.fit(told(1, 0, fidelity), 0)
    obs = told(20, 1, fidelity)
    squares = np.stack([(c[:, None] - c[None, :]) ** 2 for c in obs.features.T])
    same = (obs.trials[:, None] == obs.trials[None, :]).astype(float)
    epochs = (obs.at[:, None] - obs.at[None, :]) ** 2
    seen["args"] = (squares, epochs, same, process._trend(obs.at, obs.at), obs.targets)
    at = np.random.default_rng(0).normal(-1, 0.3, size=int(process._free.sum()))

    numeric = approx_fprime(at, lambda free: loss(free)[0], 1e-6)
    assert loss(at)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_process_learns_a_function_and_believing_takes_doubt_away_but_moves_nothing() -> None:
    process, obs = GaussianProcess(np.array([0, 1]), fidelity=True), told(80, 0, True)
    process.fit(obs, 50)
    process.condition(obs)
    asked = np.random.default_rng(9).random((200, 2)) - 0.5
    mean, sd = process.predict(asked)
    truth = np.sin(6 * asked[:, 0])

    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.25 < truth.std()
    assert np.mean(np.abs(mean - truth) < 2 * sd) > 0.8
    few = told(12, 0, True)
    process.condition(few)
    mean, sd = process.predict(asked)
    sure = process.believing(asked[:20], np.arange(100, 120))
    mean_after, sd_after = sure.predict(asked)
    assert mean_after == pytest.approx(mean, abs=1e-6)
    assert (sd_after <= sd + 1e-9).all()
    assert sd_after[:20].mean() < 0.6 * sd[:20].mean()


def test_what_is_left_over_is_that_of_a_process_that_was_not_told() -> None:
    obs = told(12, 3, False)
    process = GaussianProcess(np.array([0, 1]), fidelity=False)
    process.fit(obs, 50)
    process.condition(obs)
    left = process.left_out()
    noise = math.exp(float(process._theta[-1])) + 1e-6
    for k in range(12):
        process.condition(obs[np.arange(12) != k])
        mean, sd = process.predict(obs.features[k : k + 1])
        error = (obs.targets[k] - mean[0]) / math.sqrt(sd[0] ** 2 + noise)
        assert left[k] == pytest.approx(error, rel=1e-4)


def test_process_finds_out_whether_early_epochs_tell() -> None:
    rng = np.random.default_rng(0)
    n = 60
    features = np.repeat(rng.random((n, 1)) - 0.5, 2, axis=0)
    at, trials = np.tile([0.0, 1.0], n), np.repeat(np.arange(n), 2)
    late = np.sin(8 * features[:, 0])
    asked = np.array([[0.2]])

    def expected(early: Floats) -> float:
        """Return what is expected in full where only an early value is known, and a low one."""
        targets = np.where(at == 1, late, early)
        process = GaussianProcess(np.array([0]), fidelity=True)
        known = Observations(features=features, at=at, trials=trials, targets=targets)
        process.fit(known, 60)
        near = Observations(
            features=asked, at=np.zeros(1), trials=np.array([n]), targets=np.array([-2.0])
        )
        process.condition(
            Observations(
                features=np.vstack([features, near.features]),
                at=np.concatenate([at, near.at]),
                trials=np.concatenate([trials, near.trials]),
                targets=np.concatenate([targets, near.targets]),
            )
        )
        return float(process.predict(asked, np.array([n]))[0][0])

    truth = math.sin(8 * 0.2)
    telling, idle = expected(late.copy()), expected(np.repeat(rng.normal(size=n), 2))
    assert abs(idle - truth) < 0.5
    assert telling < idle


# ---- proposals ----


def play(search: Search, n: int, loss: Any, n_out: int = 1) -> Search:
    out: list[Assignment] = []
    while len(search.trials) < n:
        while len(out) < n_out and (job := search.ask()) is not None:
            out.append(job)
        job = out.pop(0)
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            search.tell(job.trial, epoch, loss(job.config, epoch))
    return search


def bowl(config: dict[str, Any], epoch: int) -> float:
    off = sum((config[f"x{i}"] - 0.3) ** 2 for i in range(4)) + (config["c"] != "b") * 0.3
    return float(off + 1 / epoch)


@pytest.mark.parametrize("max_epochs", [1, 9])
def test_auto_finds_what_random_search_does_not(max_epochs: int) -> None:
    spec = {**{f"x{i}": X for i in range(4)}, "c": tune.choice(["a", "b", "c"])}

    def best(method: str, seed: int) -> float:
        search = ask_tell(method, spec, max_epochs=max_epochs, seed=seed)
        play(search, 45, bowl, n_out=3)
        return min(bowl(t.flat, max_epochs) for t in search.trials)

    ours, random = (np.array([best(m, seed) for seed in range(4)]) for m in ("auto", "random"))
    floor = 1 / max_epochs
    assert (ours - floor).mean() < 0.6 * (random - floor).mean()


def options(names: str, n: int) -> Any:
    """Return a choice between branches of ``n`` numbers each."""
    return tune.choice([{"kind": k, **{f"{k}{i}": X for i in range(n)}} for k in names])


@pytest.mark.parametrize(
    "spec",
    [
        {"o": options("abc", 3)},
        {"o": options("abcd", 1), "x": X},
        {"x": X, "y": X, **{f"c{k}": tune.choice(["only"]) for k in range(3)}},
        {"x": X},
    ],
    ids=["three branches", "lines", "one value", "line"],
)
def test_auto_finds_what_random_search_does_not_in_any_space(spec: dict[str, Any]) -> None:
    space = Space(spec)

    def off(flat: dict[str, Any]) -> float:
        parts = [
            0.03 * p.index(flat[p.key]) if isinstance(p, Categorical) else (flat[p.key] - 0.3) ** 2
            for p in active(space.parameters, flat)
        ]
        return float(sum(parts))

    def found(method: str, seed: int) -> tuple[float, Search]:
        search = ask_tell(method, spec, max_epochs=27, seed=seed, n_trials=40)
        while (job := search.ask()) is not None:
            for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
                search.tell(job.trial, epoch, off(search.trials[job.trial].flat) + 1 / epoch)
        best = incumbent(search.trials)
        assert best is not None
        return off(best.flat), search

    ours, random = ([found(m, seed) for seed in range(3)] for m in ("auto", "asha"))
    assert sum(loss for loss, _ in ours) < 0.8 * sum(loss for loss, _ in random)
    # What is too near to what was tried is the last resort, and not called an improvement.
    last_resort = [t.why for _, search in ours for t in search.trials if "far" in t.why]
    assert len(last_resort) < 0.1 * 3 * 40


def test_branches_are_told_apart_and_count_what_varies_within_them() -> None:
    space = Space({"o": options("ab", 2), "n": tune.choice(["only"]), "c": tune.choice([1, 2])})
    a, also_a, b = (
        {"o": kind, f"o[{kind}].{kind}0": x, f"o[{kind}].{kind}1": 0.5, "n": "only", "c": c}
        for kind, x, c in (("a", 0.1, 1), ("a", 0.9, 2), ("b", 0.1, 1))
    )
    encoding = Encoding(space)
    branch, n_free = encoding.branches(encoding.points([a, also_a, b]))
    assert branch[0] == branch[1] != branch[2]
    assert list(n_free) == [3, 3, 3]  # two numbers and c


def test_targets_are_finite_where_most_losses_are_equal() -> None:
    targets = auto._targets(np.array([0.0] * 6 + [1e9, 2e9, 3e9]))
    assert np.isfinite(targets).all()
    assert (np.diff(targets) >= 0).all()
    assert targets[6] < targets[8]


def test_nothing_is_proposed_next_to_what_was_tried_while_trials_are_halved() -> None:
    spec = {f"x{i}": X for i in range(4)} | {"c": tune.choice(["a", "b", "c"])}
    search = play(ask_tell("auto", spec, max_epochs=27), 60, bowl)
    encoding = Encoding(search.space)
    features = encoding.features(encoding.points([t.flat for t in search.trials]))
    near = [
        np.linalg.norm(features[k] - features[:k], axis=1).min() for k in range(20, len(features))
    ]
    # But for the random ones, one in twelve.
    assert np.quantile(near, 0.25) > 0.8 * 60 ** (-1 / 5) * 0.99


@pytest.mark.parametrize(
    "loss",
    [
        lambda config, epoch: math.nan,
        lambda config, epoch: 1.0,
        lambda config, epoch: math.nan if config["x"] > 0.3 else config["x"],
        lambda config, epoch: 10 ** (300 * config["x"]),
        lambda config, epoch: -(10 ** (-300 * config["x"])),
    ],
    ids=["nothing is finite", "all equal", "half fails", "huge", "tiny"],
)
@pytest.mark.parametrize("max_epochs", [1, 9])
def test_auto_copes_with_any_values(loss: Any, max_epochs: int) -> None:
    search = play(ask_tell("auto", {"x": X, "y": X}, max_epochs=max_epochs), 25, loss, n_out=2)
    assert len(search.trials) == 25


def test_failed_and_lost_trials_are_told_as_what_they_are() -> None:
    ends: dict[int, Reason] = {3: "failed", 5: "lost", 6: "converged", 7: "interrupted"}
    search = ask_tell("auto", {"x": X}, max_epochs=16)
    while len(search.trials) < 20:
        job = search.ask()
        assert job is not None
        if reason := ends.get(job.trial):
            search.tell(job.trial, 1, job.config["x"])
            search.end(job.trial, reason)
        else:
            for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
                search.tell(job.trial, epoch, job.config["x"] + 1 / epoch)
    searcher = auto.Auto(search.space, 16)
    searcher.rungs = search.rungs
    value = search.trials[5].losses[1]

    assert searcher._curve(search.trials[3]) == {1: math.inf}
    assert searcher._curve(search.trials[5]) == {1: value}
    assert set(searcher._curve(search.trials[6])) == {1, 16}
    assert set(searcher._curve(search.trials[7])) == {1}
