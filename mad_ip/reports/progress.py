"""What a command shows while it works, and what a solve says of its work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

if TYPE_CHECKING:
    from mad_ip.solve import Report

__all__ = ["given_to", "line", "progress"]


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


def line(report: Report) -> str:
    """One line about a solve at work."""

    def number(value: float, form: str) -> str:
        return format(value, form) if math.isfinite(value) else "-"

    return (
        f"{report.seconds:7.1f} s  {report.phase:<16}  incumbent {number(report.score, ',.3f')}  "
        f"bound {number(report.bound, ',.3f')}  gap {number(report.gap, '.4%')}"
    )


def given_to(report: Report) -> str:
    """What a solver of matrices was given, if anything."""
    model = report.model
    if model is None:
        return ""
    return (
        f"given to {report.phase}: {model.surviving:,} of {model.options:,} options, in {model.rows:,} rows and "
        f"{model.columns:,} columns; no other design scores above {model.bound:,.4f}"
    )
