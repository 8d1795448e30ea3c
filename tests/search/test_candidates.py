"""Which configs run again on fresh seeds."""

from typing import Any

from ray import tune

from hypertune.core.space import Space
from hypertune.search import Trial
from hypertune.search.candidates import candidates, ranked

SPACE = Space(
    {
        "cell": tune.choice(["gru", "lstm"]),
        "units": tune.lograndint(4, 257),
        "kind": tune.choice([{"name": "a"}, {"name": "b", "depth": tune.choice([1, 2])}]),
    }
)


def trial(number: int, loss: float, *, epochs: int = 9, **of: Any) -> Trial:
    flat = {"cell": "gru", "units": 64, "kind": "a"} | {
        k: v for k, v in of.items() if k != "reason"
    }
    made = Trial(number=number, flat=flat, to_epoch=epochs, reason=of.get("reason", "complete"))
    for epoch in range(1, epochs + 1):
        made.add(epoch, loss)
    return made


def chosen(trials: list[Trial], *factors: str) -> dict[str, int]:
    return {label: t.number for label, t in candidates(trials, SPACE, factors).items()}


def test_trials_in_full_come_first_then_those_that_got_further() -> None:
    trials = [
        trial(0, 0.1, epochs=1, reason="stopped"),
        trial(1, 0.5, epochs=3, reason="stopped"),
        trial(2, 0.4, epochs=3, reason="stopped"),
        trial(3, 0.9),
        trial(4, 0.8, epochs=5, reason="converged"),
        trial(5, 0.0, reason="failed"),
        trial(6, 0.0, epochs=2, reason="lost"),
        trial(7, float("inf")),
        trial(8, 0.0, epochs=0, reason="stopped"),
    ]
    assert [t.number for t in ranked(trials)] == [4, 3, 2, 1, 0]


def test_for_the_best_the_best_two_in_full_run_again() -> None:
    trials = [
        trial(0, 0.5),
        trial(1, 0.3),
        trial(2, 0.1, epochs=3, reason="stopped"),
        trial(3, 0.4),
    ]
    assert chosen(trials) == {"best": 1, "number 2": 3}


def test_for_an_answer_the_best_of_each_level_and_range_do() -> None:
    trials = [
        trial(0, 0.5, units=200),
        trial(1, 0.3, units=4),
        trial(2, 0.2, cell="lstm", units=20, epochs=3, reason="stopped"),
        trial(3, 0.4, units=5, cell="lstm", epochs=1, reason="stopped"),
    ]
    assert SPACE["units"].parts == ["4 to 14", "15 to 61", "62 to 256"]
    assert chosen(trials, "cell", "units") == {
        "best": 1,
        "best of cell=gru": 1,
        "best of cell=lstm": 2,
        "best of units=4 to 14": 1,
        "best of units=15 to 61": 2,
        "best of units=62 to 256": 0,
    }


def test_what_is_not_in_every_config_is_not_compared() -> None:
    trials = [trial(0, 0.5, kind="b", **{"kind[b].depth": 1}), trial(1, 0.3)]
    names = [p.name for p in SPACE.parameters if p.condition is not None]
    assert chosen(trials, *names) == {"best": 1}


def test_of_very_many_levels_the_best_ones_run_again() -> None:
    space = Space({"letter": tune.choice(list("abcdefghijkl"))})
    trials = [trial(k, 1.0 - k / 100, letter=letter) for k, letter in enumerate("abcdefghijkl")]
    labels = list(candidates(trials, space, ["letter"]))
    assert labels == ["best", *(f"best of letter={letter}" for letter in "lkjihgfe")]
