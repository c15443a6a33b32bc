"""Tables in Markdown, and the places in a document that they go to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mad_ip.errors import InputError
from mad_ip.files import read_bytes, write_atomically

__all__ = ["insert", "rewrite", "table"]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], texts: int = 1) -> str:
    """The first ``texts`` columns left, the others right."""
    lines = [header, ["---"] * texts + ["---:"] * (len(header) - texts), *(map(str, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def insert(text: str, name: str, content: str, source: str = "text") -> str:
    """``text`` with ``content`` between its markers ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise InputError(f"{source}: must hold the markers {begin} and {end}, in this order")
    return f"{before}{begin}\n{content}\n{end}{after}"


def rewrite(path: Path, **contents: str) -> None:
    """Put contents between the markers of their names in a file."""
    text = read_bytes(path).decode("utf-8")
    for name, content in contents.items():
        text = insert(text, name, content, str(path))
    write_atomically(path, text.encode())
