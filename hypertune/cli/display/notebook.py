"""The search under way in a cell of a notebook, as it is shown in a terminal."""

import io
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Group

from hypertune.cli.display.console import PlainConsole, Text, console
from hypertune.cli.display.progress import Display

if TYPE_CHECKING:
    from hypertune.engine import Progress

_EVERY_S = 0.25
_PAGE = (
    '<pre style="margin:0;background:none;color:inherit;white-space:pre-wrap;'
    'overflow-wrap:anywhere">{code}</pre>'
)


def in_notebook() -> bool:
    """Say whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None


def progress_display() -> Display:
    """Return what shows a search where this process is: in a notebook's cell or on the console."""
    return NotebookDisplay() if in_notebook() else Display(console())


class NotebookDisplay(Display):
    """Shows how a search is going in the cell that runs it; its last state stays there.

    It needs no widgets: the cell's output is replaced, a few times a second.
    """

    def __init__(self) -> None:
        super().__init__(_recorder())
        self._note = Text()
        self._handle: Any = None
        self._shown: tuple[str, float] = ("", 0.0)

    def __enter__(self) -> "NotebookDisplay":
        from IPython.display import display

        show: Any = display  # IPython's types do not cover it
        self._handle = show(self._bundle(), raw=True, display_id=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop_task(self._task)
        self._handle.update(self._bundle(), raw=True)

    def __call__(self, progress: "Progress") -> None:
        super().__call__(progress)
        self._note.plain = progress.note
        stage, at = self._shown
        if progress.stage != stage or time.monotonic() - at >= _EVERY_S:
            self._shown = (progress.stage, time.monotonic())
            self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        """Return the state as a notebook keeps it: as HTML, and as plain text."""
        out = _recorder()
        out.print(Group(*([self._note] if self._note.plain else []), self._content))
        return {
            "text/html": out.export_html(inline_styles=True, code_format=_PAGE, clear=False),
            "text/plain": out.export_text().rstrip(),
        }


def _recorder() -> PlainConsole:
    return PlainConsole(
        file=io.StringIO(),
        record=True,
        width=100,
        force_terminal=True,
        force_jupyter=False,
        color_system="truecolor",
        highlight=False,
        markup=False,
        emoji=False,
    )
