"""The exceptions that hypertune raises on purpose.

HypertuneError
├── StudyError      the study file or its space breaks a rule; nothing has started
├── SettingError    a flag, a folder or the environment does; nothing has started
└── JournalError    the record of a study cannot be read or written
    └── NothingBegunError   there is none: no study began there
"""

from collections.abc import Sequence
from difflib import get_close_matches


class HypertuneError(Exception):
    """Base of all errors that a user can act on. The message is meant to be read as it is."""


class StudyError(HypertuneError):
    """A study breaks one or more rules; the message lists all of them."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([f"{where}:", *(f"  - {p}" for p in self.problems)]))


class SettingError(HypertuneError):
    """A setting given on the command line, or to `run`, breaks one or more rules."""


class JournalError(HypertuneError):
    """The journal cannot be opened, read or written."""


class NothingBegunError(JournalError):
    """There is no journal, or it holds no study: none began, and nothing is lost."""


class Checks:
    """Gathers what goes wrong in several ``with`` blocks, to tell it all at once.

    Example:
        check = Checks()
        with check:
            first()
        with check:
            second()
        check.done()
    """

    def __init__(self) -> None:
        self._errors: list[HypertuneError] = []

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        if isinstance(error, HypertuneError):
            self._errors.append(error)
            return True
        return False

    def done(self) -> None:
        """End the checks.

        Raises:
            HypertuneError: The only error there was, or one that tells all of them.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise SettingError("\n".join(str(error) for error in self._errors))


def choices(value: object, known: Sequence[str]) -> str:
    """Return the end of an error message: the nearest name, if any, and all the choices."""
    return f"{nearest(value, known)} Choose one of: {', '.join(known)}."


def nearest(value: object, known: Sequence[str]) -> str:
    """Return a question that names the nearest choice; nothing if none is near."""
    near = get_close_matches(str(value), known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
