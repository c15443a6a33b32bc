"""The tables of docs/spec.md, from the declarations that spec.toml is read by: ``python -m tools.reference``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mad_ip import keys
from mad_ip.device import LATENCY, Rate
from mad_ip.keys import Key, Record
from mad_ip.mlp import spec as mlp
from mad_ip.spec import DEVICE, KEYS, OBJECTIVE, Budget, Input, Space, Stage, Stem, Tail
from mad_ip.utility import Utility
from tools.markdown import rewrite, table

__all__ = ["SECTIONS", "contents", "main"]

DOCUMENT = Path("docs/spec.md")

SECTIONS: Mapping[str, Record] = {
    "top": KEYS,
    "input": Input,
    "budget": Budget,
    "device": DEVICE,
    "latency": LATENCY,
    "rate": Rate,
    "objective": OBJECTIVE,
    "utility": Utility,
    "space": Space,
    "stem": Stem,
    "stage": Stage,
    "tail": Tail,
    "range": keys.RANGE,
    "mlp": mlp.KEYS,
    "mlp-input": mlp.Input,
    "mlp-space": mlp.Space,
}
"""The tables of a spec.toml, by the names of their places in the document."""


def contents() -> dict[str, str]:
    """The tables in Markdown, by the names of their places."""
    return {name: _table(keys.keys_of(record)) for name, record in SECTIONS.items()}


def _table(declared: Mapping[str, Key]) -> str:
    header = ["key", "meaning", "unit", "allowed", "default"]
    rows = [
        [f"`{name}`", key.meaning, key.unit, key.value.allowed.replace("{key}", name), _default(key)]
        for name, key in declared.items()
    ]
    return table(header, rows, texts=len(header))


def _default(key: Key) -> str:
    if key.required:
        return "**required**"
    if key.otherwise:
        return key.otherwise
    if key.default in (None, (), ""):
        return "none"
    return f"`{str(key.default).lower() if isinstance(key.default, bool) else key.default}`"


def main() -> None:
    """Rewrite the tables of the document."""
    rewrite(DOCUMENT, **contents())


if __name__ == "__main__":
    main()
