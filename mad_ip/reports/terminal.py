"""What a command shows on a terminal: while it works, and in the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from mad_ip.files import printable, write_output

__all__ = ["Terminal", "progress", "show", "terminal"]


class _Errors:
    """Standard error. Work is not given up for a place that cannot show how far it is: a terminal may be closed."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class Terminal(Console):
    """A console that takes no name or path for markup, nor obeys what control characters in it say."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        if stderr:
            options["file"] = cast(IO[str], _Errors())
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is shown, as every string that is printed and every cell of a table."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is written of anything else, such as a text with a style of its own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Output:
    """Standard output as a console writes to it: by :func:`mad_ip.files.write_output`, which knows what may fail."""

    def write(self, text: str) -> int:
        write_output(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


def terminal() -> Console:
    """Standard output."""
    console = Terminal(file=cast(IO[str], _Output()))
    # A pipe has no width of its own; wrapping a table at 80 columns would break its rows.
    if not console.is_terminal:
        console.width = max(console.width, 120)
    return console


def show(content: object) -> None:
    """Print a table or a text, which the terminal wraps.

    Raises :class:`mad_ip.errors.InputError` when standard output takes no more.
    """
    text = isinstance(content, str)
    terminal().print(content, soft_wrap=text)


@contextmanager
def progress(console: Terminal, quiet: bool, line: Callable[[Any], str]) -> Iterator[Callable[[Any], None] | None]:
    """Show reports, each as one ``line``: one live line on a terminal, a line now and then elsewhere."""
    if quiet:
        yield None
        return
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            yield lambda report: live.update(line(report))
        return
    phase, shown = "", 0.0

    def watch(report: Any) -> None:
        nonlocal phase, shown
        if report.phase != phase or time.perf_counter() - shown > 5:
            phase, shown = report.phase, time.perf_counter()
            console.print(line(report), soft_wrap=True)

    yield watch
