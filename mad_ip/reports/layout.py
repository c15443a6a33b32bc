"""Tables that every width of a terminal can hold: no number is cut, the form of a table gives way instead."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table

__all__ = ["RHO", "Fitting", "grid"]

RHO = "rho is the effectiveness"
"""What stands below a table that has no room for the word."""

_UNBOUNDED = 10_000
"""Columns of a console that holds whatever a table has."""


def grid(title: str = "", *, texts: Iterable[str] = (), numbers: Iterable[str] = ()) -> Table:
    """An empty table with columns of ``texts``, then of ``numbers``; what finds no room is folded, the widest first."""
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for header in texts:
        table.add_column(header, overflow="fold")
    for header in numbers:
        table.add_column(header, justify="right", overflow="fold")
    return table


class Fitting:
    """The first of some forms of the same content that is no wider than the console, else the last."""

    def __init__(self, *forms: RenderableType) -> None:
        self.forms = forms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update_width(_UNBOUNDED)
        widths = ((form, Measurement.get(console, unbounded, form).maximum) for form in self.forms)
        yield next((form for form, width in widths if width <= options.max_width), self.forms[-1])
