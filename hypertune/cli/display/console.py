"""What all that the terminal shows is written with: the console, text, tables of pairs, units."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text as RichText

from hypertune.core.text import printable


class Text(RichText):
    """Text from outside: control characters in it are spelled out, and take their room so."""

    def __init__(self, text: str = "", style: str = "") -> None:
        super().__init__(printable(text), style)


class PlainConsole(Console):
    """Shows text as it is: no markup or emoji in it counts, and no escape reaches the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:  # of rich itself
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Fall silent when nobody listens any more (``| head``), where rich would exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Return a console for standard output; outside a terminal, lines are not cut to 80 columns."""
    width = None if sys.stdout.isatty() else 200
    return PlainConsole(highlight=False, markup=False, emoji=False, width=width, soft_wrap=True)


def pairs(out: Console, rows: Iterable[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(Text(key, style="bold"), Text(value))
    out.print(table)


def duration(seconds: float) -> str:
    """Return a time to read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def size_text(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            return f"{n_bytes:.3g} {unit}" if unit != "GB" else f"{n_bytes:.0f} GB"
        n_bytes /= 1000
    raise AssertionError


def number_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
