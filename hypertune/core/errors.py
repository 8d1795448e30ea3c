"""The exceptions that hypertune raises on purpose, and how those of others are put into words.

HypertuneError
├── StudyError      the study file or its space breaks a rule; nothing has started
├── SettingError    a flag, a folder or the environment does; nothing has started
├── DeadlineError   another machine did not answer in time
└── JournalError    the record of a study cannot be read or written
    └── NothingBegunError   there is none: no study began there

UserCodeError       a user's code raised what is no ``Exception``, such as ``SystemExit``
"""

import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from types import TracebackType

_LONGEST = 20_000  # characters of a text that is kept
_LONGEST_VALUE = 200


class HypertuneError(Exception):
    """Base of all errors that a user can act on. The message is meant to be read as it is.

    Example:
        >>> import hypertune
        >>> try:
        ...     hypertune.ask_tell("asha", {"x": 1}, max_epochs=0)
        ... except hypertune.HypertuneError as error:
        ...     print(error)
        max_epochs must be an integer of at least 1, but got 0.
    """


class StudyError(HypertuneError):
    """A study breaks one or more rules; the message lists all of them.

    Example:
        >>> from hypertune import StudyError
        >>> print(StudyError("my_study.py", ["n_trials must be at least 1, but got 0."]))
        my_study.py:
          - n_trials must be at least 1, but got 0.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([f"{where}:", *(f"  - {p}" for p in self.problems)]))


class SettingError(HypertuneError):
    """A setting given on the command line, or to `run`, breaks one or more rules.

    Example:
        >>> import hypertune
        >>> from ray import tune
        >>> try:
        ...     hypertune.ask_tell("ahsa", {"x": tune.uniform(0, 1)})
        ... except hypertune.SettingError as error:
        ...     print(str(error).partition(" Choose")[0])
        Unknown method 'ahsa'. Did you mean 'asha'?
    """


class DeadlineError(HypertuneError, TimeoutError):
    """Another machine did not answer in time.

    Example:
        >>> import hypertune
        >>> issubclass(hypertune.DeadlineError, TimeoutError)
        True
    """


class JournalError(HypertuneError):
    """The journal cannot be opened, read or written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import hypertune
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "journal.db").write_text("no journal")
        >>> try:
        ...     hypertune.load_trials(folder)
        ... except hypertune.JournalError:
        ...     print("it cannot be read")
        it cannot be read
    """


class NothingBegunError(JournalError):
    """There is no journal, or it holds no study: none began, and nothing is lost.

    Example:
        >>> import tempfile
        >>> import hypertune
        >>> try:
        ...     hypertune.load_trials(tempfile.mkdtemp())
        ... except hypertune.NothingBegunError:
        ...     print("no study began there")
        no study began there
    """


class UserCodeError(Exception):
    """Stands for what a user's code raised that is no `Exception`, as its cause."""


class user_code:  # noqa: N801, it is used like a function
    """In this ``with`` block a user's code runs: whatever it raises leaves it as an `Exception`.

    ``SystemExit``, ``GeneratorExit`` or ``asyncio.CancelledError`` would pass every ``except
    Exception``. A ``KeyboardInterrupt`` passes: here it is somebody's Ctrl-C.
    """

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception | KeyboardInterrupt):
            raise UserCodeError from error


def raised(error: BaseException) -> BaseException:
    """Return what a user's code raised, where another exception stands for it."""
    stands = isinstance(error, UserCodeError) and error.__cause__ is not None
    return error.__cause__ or error if stands else error


def describe(error: BaseException) -> str:
    """Return an exception's type and text, however its own methods behave."""
    error = raised(error)
    name = type(error).__name__
    try:
        text = str.__str__(str(error))  # exactly a str: one of a subclass may do anything
    except BaseException as problem:
        text = f"(its text cannot be told: str() of it raised {type(problem).__name__})"
    return f"{name}: {_cut(text)}" if text else name


def trace_of(error: BaseException) -> str:
    """Return an exception's traceback, however its own methods behave."""
    try:
        return _cut("".join(traceback.format_exception(raised(error))))
    except BaseException as problem:
        return f"(its traceback cannot be told: {type(problem).__name__})"


def shown(value: object) -> str:
    """Return a value's representation, cut to a readable length, however the value behaves."""
    try:
        text = str.__str__(repr(value))
    except BaseException:
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _cut(text: str) -> str:
    """Leave out the middle of a text that is too long for a record."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}\n...\n{text[-half:]}"


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
