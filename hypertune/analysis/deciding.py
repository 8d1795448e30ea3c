"""What a study has not decided yet: for studies that go on until it is."""

from hypertune.analysis.frames import from_history
from hypertune.analysis.statements import Undecided, left_of
from hypertune.analysis.verdict import judge_factors
from hypertune.journal.history import StudyHistory


def undecided(history: StudyHistory) -> list[Undecided]:
    """Return the factors that a study does not decide.

    A factor is decided if one of its statements tells its best level from every other one, or says
    that they differ by less than matters; of a number, of which neighbours may well be as good, if
    it says so of any other value or range.

    Args:
        history: What is known of the study.
    """
    factors = judge_factors(from_history(history))
    return [left for factor in factors if (left := left_of(factor)) is not None]
