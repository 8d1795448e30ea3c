"""Where a config came from: as records hold it now, and as they held it before."""

import pytest

from hypertune.core.origin import Origin, read_origin


@pytest.mark.parametrize("origin", list(Origin))
def test_an_origin_is_read_as_it_was_written(origin: Origin) -> None:
    assert read_origin({"origin": origin, "why": "at random, it says"}) == (
        origin,
        "at random, it says",
    )
    assert not (origin.by_chance and origin.chosen)


@pytest.mark.parametrize(
    ("sentence", "origin"),
    [
        ("drawn at random", "random"),
        ("drawn at random, in case the model is wrong", "random"),
        ("drawn at random, until 10 trials have reported", "random"),
        ("one of the first points, which fill the space evenly", "quasi-random"),
        ("the next point of a quasi-random sequence", "quasi-random"),
        ("the next of the grid", "grid"),
        ("drawn from what was not tried yet: the searcher repeated itself", "resampled"),
        ("the study's default", "default"),
        ("a config to start from", "given"),
        ("proposed by Ray Tune's OptunaSearch", "external"),
        ("by a Gaussian process on 12 results: largest expected improvement", "model"),
        ("likely among the 3 best and unlikely among the 9 worst at epoch 3", "model"),
    ],
)
def test_the_sentences_of_older_journals_are_read(sentence: str, origin: str) -> None:
    assert read_origin({"origin": sentence, "expected": None}) == (origin, sentence)


def test_what_was_not_searched_has_no_origin() -> None:
    assert read_origin({"state": "waiting"}) == ("", "")
