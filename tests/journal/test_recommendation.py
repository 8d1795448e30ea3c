"""Which config is recommended, by tables of trials."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hypertune.journal.recommendation import Run, recommend

# config, reason, loss[, repeat]: with a repeat it is a replicate
Row = tuple[str, str | None, float | None] | tuple[str, str | None, float | None, int]
SEARCH: list[Row] = [("a", "complete", 5.0), ("b", "converged", 1.0), ("c", "complete", 2.0)]


def runs(rows: Sequence[Row]) -> list[Run]:
    return [
        Run(
            trial=k,
            config=row[0],
            role="search" if len(row) == 3 else "replicate",
            label="",
            reason=row[1],
            repeat=0 if len(row) == 3 else row[3],
            epochs=9 if row[1] in ("complete", "converged") else 1 + k,
            loss=row[2],
        )
        for k, row in enumerate(rows)
    ]


ABC = (("a", 9.0), ("b", 3.0), ("c", 2.0))


@pytest.mark.parametrize(
    ("again", "best", "losses"),
    [
        ([], 1, {}),
        # The search's winner is worse on fresh seeds.
        (
            [("b", "complete", 4.0, 1), ("c", "complete", 2.5, 1), ("a", "complete", 6.0, 1)],
            2,
            {1: [4.0], 2: [2.5], 0: [6.0]},
        ),
        # The mean over seeds decides, not the best of them.
        (
            [
                ("b", "complete", 3.0, 1),
                ("b", "complete", 3.0, 2),
                ("c", "complete", 1.0, 1),
                ("c", "complete", 6.0, 2),
            ],
            1,
            {1: [3.0, 3.0], 2: [1.0, 6.0]},
        ),
        # Seeds that only one of them has decide nothing.
        (
            [
                ("b", "complete", 3.0, 1),
                ("c", "complete", 2.0, 1),
                ("c", "complete", 9.0, 2),
                ("b", "interrupted", 0.0, 2),
            ],
            2,
            {1: [3.0], 2: [2.0, 9.0]},
        ),
        # Those that were not told apart ran more often: their further seeds decide between them.
        (
            [(c, "complete", x, k) for c, x in ABC for k in (1, 2, 3)]
            + [(c, "complete", x, k) for c, x in (("b", 1.0), ("c", 4.0)) for k in (4, 5)],
            1,
            {0: [9.0, 9.0, 9.0], 1: [3.0, 3.0, 3.0, 1.0, 1.0], 2: [2.0, 2.0, 2.0, 4.0, 4.0]},
        ),
        # One failure of many is said, and does no harm; see the report.
        ([("b", "complete", 3.0, k) for k in (1, 2, 3, 4)]
         + [("c", "complete", 1.0, k) for k in (1, 2, 3)] + [("c", "failed", None, 4)], 2,
         {1: [3.0, 3.0, 3.0, 3.0], 2: [1.0, 1.0, 1.0]}),
        # One that fails on many fresh seeds, or has no finite value there, is not recommended.
        ([("b", "complete", 3.0, 1), ("c", "complete", 1.0, 1), ("c", "failed", None, 2)], 1,
         {1: [3.0]}),
        ([("b", "complete", 3.0, 1), ("c", "complete", None, 1)], 1, {1: [3.0]}),
        ([("b", "lost", 3.0, 1), ("c", "failed", 1.0, 1)], 1, {}),
        # For what the search stopped early its run on the first fresh seed stands.
        ([("z", "complete", 0.5, 1), ("b", "complete", 3.0, 1), ("z", "complete", 0.7, 2),
          ("b", "complete", 3.5, 2)], 3, {3: [0.5, 0.7], 1: [3.0, 3.5]}),
        # One that hardly ran again does not cost the others their seeds.
        ([("b", "complete", 3.0, k) for k in (1, 2, 3)] + [("z", "complete", 0.1, 1)], 1,
         {1: [3.0, 3.0, 3.0]}),
        ([("z", "complete", 0.0, 2), ("b", "complete", 3.0, 2)], 1, {1: [3.0]}),
    ],
)  # fmt: skip
def test_fresh_seeds_decide(again: list[Row], best: int, losses: dict[int, list[float]]) -> None:
    found = recommend(runs([*SEARCH, *again]))
    assert found is not None
    assert (found.trial, found.full, found.incumbent) == (best, True, 1)
    assert {t: [*table.values()] for t, table in found.losses.items()} == losses


def test_without_a_trial_in_full_the_best_of_the_furthest_is_shown() -> None:
    rows: list[Row] = [("a", "stopped", 1.0), ("b", "failed", 0.0), ("c", "stopped", 3.0)]
    found = recommend(runs([*rows, ("d", None, 2.0, 1)]))
    assert found is not None
    assert (found.trial, found.full, found.losses) == (2, False, {})
    assert recommend(runs([("a", "failed", 1.0), ("b", "complete", None)])) is None


def test_the_default_in_full_stands_for_the_default_that_was_stopped() -> None:
    rows = runs([("a", "stopped", 1.5), ("b", "complete", 1.0), ("a", "complete", 2.0)])
    rows[2] = Run(**{**vars(rows[2]), "role": "baseline", "label": "default"})
    again = runs([*SEARCH, ("a", "complete", 0.5, 1), ("b", "complete", 0.9, 1)])[3:]
    found = recommend([*rows, *again])
    assert found is not None
    assert (found.trial, found.incumbent) == (2, 1)


def test_a_winner_that_was_changed_on_the_way_is_recommended_as_it_is() -> None:
    rows = runs([("a", "complete", 1.0), ("b", "complete", 2.0)])
    again = runs([("b", "complete", 0.5, 1)])
    found = recommend([*rows, *again])
    assert found is not None
    assert found.trial == 1
    found = recommend([replace(rows[0], mutated=True), rows[1], *again])
    assert found is not None
    assert (found.trial, found.losses) == (0, {})
    found = recommend([rows[0], replace(rows[1], mutated=True), *again])
    assert found is not None
    assert found.trial == 0
