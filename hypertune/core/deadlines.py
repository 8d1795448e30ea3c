"""Deadlines for calls to other machines, which may accept a call and never answer it.

The timeouts of network libraries begin anew with each byte, so a server that sends one byte a
second never reaches them. `within` bounds a call as a whole.
"""

import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from hypertune.core.errors import DeadlineError

_T = TypeVar("_T")
_given_up: list[threading.Thread] = []


def within(timeout_s: float, what: str, call: Callable[[], _T]) -> _T:
    """Return what a call returns, or give the call up.

    The call runs on a thread of its own. Python cannot end a thread, so a call that is given up
    goes on until it fails by itself: it must do no harm when it succeeds late.

    Args:
        timeout_s: Seconds from its beginning to its end.
        what: Who is called, for the error.
        call: Makes the call. What it raises is raised here.

    Raises:
        DeadlineError: It took longer.
    """
    done: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(call())
        except BaseException as error:  # it is raised where the call is waited for
            failed.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="hypertune-call", daemon=True)
    thread.start()
    try:
        thread.join(max(0.0, timeout_s))
    finally:
        if thread.is_alive():  # it takes too long, or Ctrl-C ended the waiting
            _given_up.append(thread)
    if failed:
        raise failed[0]
    if not done:
        raise DeadlineError(f"{what} did not answer within {timeout_s:.3g} s.")
    return done[0]


def leave(status: int) -> None:
    """Exit, if a call that was given up still runs: Python's own exit could wait for it."""
    if any(thread.is_alive() for thread in _given_up):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
