"""What a command shows on a terminal: while it works, and in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live

__all__ = ["progress", "show", "terminal"]


def terminal() -> Console:
    """Standard output."""
    console = Console(highlight=False)
    # A pipe has no width of its own; wrapping a table at 80 columns would break its rows.
    if not console.is_terminal:
        console.width = max(console.width, 120)
    return console


def show(content: object) -> None:
    """Print a table or a text, which the terminal wraps."""
    terminal().print(content, soft_wrap=isinstance(content, str))


@contextmanager
def progress(console: Console, quiet: bool, line: Callable[[Any], str]) -> Iterator[Callable[[Any], None] | None]:
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
            console.print(line(report), highlight=False, soft_wrap=True)

    yield watch
