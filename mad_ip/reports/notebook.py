"""What notebooks show of designs, fronts and explanations: the tables of the terminal."""

from __future__ import annotations

import io

from rich.console import RenderableType

from mad_ip.reports.terminal import Terminal

__all__ = ["as_html"]

_WIDTH = 100


def as_html(content: RenderableType) -> str:
    """A table or a text as HTML that needs no styles of its page."""
    console = Terminal(record=True, file=io.StringIO(), width=_WIDTH, force_jupyter=False)
    console.print(content)
    style = "font-family: monospace; line-height: 1.25; overflow-x: auto"
    return console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')
