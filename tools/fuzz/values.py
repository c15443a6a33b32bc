"""Values that no reader expects, and TOML and JSON texts that hold them."""

from __future__ import annotations

import copy
import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

__all__ = ["NUMBERS", "TEXTS", "broken", "json_bytes", "mutated", "number_text", "places", "toml_bytes"]

NUMBERS: tuple[int | float, ...] = (
    *(0, -1, 1, 2, 3, 7, 2**31 - 1, 2**31, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**5, 10**9, 10**12, 10**30),
    *(-(10**30), 10**400, 0.5, -0.0, 1.5, 1e-300, 5e-324, 1e-9, -1e-9, 1e9, 1e20, 1e30, 1e300, 1e308, -1e308),
    *(math.inf, -math.inf, math.nan),
)

TEXTS = (
    *("", " ", "x", "0", "1e6", "-1", "nan", "inf", "1 MB", "-1 kB", "1e400 B", "8 ms", "0 ns", "paper", "true"),
    *("[/red]", "[bold]x[/bold]", "[link=x]y", "\x1b[31mred\x1b[0m", "two\nlines", "\r", "\t", "\x00", "\x7f", "\x9b"),
    *("\u202eright", "größer", "\ud800", "\U0001f600", "%s{0}", "../x", "a/b", "x" * 300, "x" * 100_000),
)

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_NUMERAL = re.compile(rb"(?<![\w.])\d+(?![\w.])")


def number_text(draw: Random) -> str:
    """A number, or what stands in its place on a command line."""
    texts = ("", "x", "nan", "inf", "-inf", "1e400", "0x10", "1_000", " 1", "1.0", "\u0661", "[/red]", "9" * 5000)
    return draw.choice([*map(str, NUMBERS), *texts])


def hostile(draw: Random) -> Any:
    """A value of any type."""
    kind = draw.random()
    if kind < 0.55:
        return draw.choice(NUMBERS)
    if kind < 0.8:
        return draw.choice(TEXTS)
    return copy.deepcopy(
        draw.choice(
            [
                *(True, False, None, [], {}, [[]], [{}], [None], [1, "x"], [3, 3], [0], [-1], [math.nan], [1] * 2000),
                *({"min": 1, "max": 10**9}, {"min": 3, "max": 1}, {"min": 1, "max": 2**63, "step": 2**62}),
                *(
                    {"min": 1, "max": 4, "step": 0},
                    {"min": 0.5, "max": 2},
                    {"min": 1},
                    {"x": 1},
                    {"": 1},
                    {"[/red]": 1},
                ),
                *(list(range(1, 5000)), [10**9], [2**63], [10**30], datetime.date(1979, 5, 27), nested(draw)),
            ]
        )
    )


def nested(draw: Random) -> Any:
    """Lists or tables in each other."""
    value: Any = 1
    for _ in range(draw.choice([2, 10, 150])):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def near(value: Any, draw: Random) -> Any:
    """A value that is like another one."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        factor = draw.choice([2, 10, 1000, 10**6, -1])
        whole = max(-(10**300), min(value, 10**300))
        return draw.choice([value + 1, value - 1, value * factor, float(whole), str(value), [value], value])
    if isinstance(value, str):
        return draw.choice([value + " ", value.upper(), value[:-1], value * 2, f"{value}\x1b[0m", [value]])
    if isinstance(value, list) and value:
        item = draw.choice(value)
        return draw.choice([value[1:], [*value, item], value[::-1], item, [value], value * 50, {"min": item}])
    return [value]


def places(tree: Any, deepest: int = 20) -> Iterator[tuple[Any, Any]]:
    """Every container in a tree with each of its keys or indices, outer ones first, down to some depth."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        if deepest:
            yield from places(tree[key], deepest - 1)


def mutated(tree: Any, draw: Random, times: int) -> Any:
    """A copy of a tree with so many changes."""
    tree = copy.deepcopy(tree)
    for _ in range(times):
        found = list(places(tree))
        if not found:
            return tree
        container, key = draw.choice(found)
        action = draw.random()
        if action < 0.4:
            container[key] = hostile(draw)
        elif action < 0.65:
            container[key] = near(container[key], draw)
        elif action < 0.77:
            del container[key]
        elif action < 0.87:
            other, place = draw.choice(found)
            container[key] = copy.deepcopy(other[place])
        elif isinstance(container, dict):
            name = draw.choice([f"{key}x", key[:-1], key.upper(), *TEXTS, "__class__", "source", "x" * 5000])
            container[name] = container[key] if draw.random() < 0.5 else container.pop(key)
        else:
            container[key:key] = [copy.deepcopy(container[key])] * draw.choice([1, 2, 40])
    return tree


def broken(content: bytes, draw: Random) -> bytes:
    """Bytes with noise."""
    at = draw.randrange(len(content) + 1)
    lines = content.splitlines(keepends=True) or [b""]
    line = draw.randrange(len(lines))
    pieces = (b"\0", b"\x1b[31m", b"\xff\xfe", b"\x80", b"\xed\xa0\x80", *(bytes([code]) for code in b"\"'[]{}=#,"))
    piece = draw.choice(pieces)
    kind = draw.randrange(14)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b"]) + content
    if kind == 2:
        return content.replace(b"\n", draw.choice([b"\r\n", b"\r"]))
    if kind in (3, 4):
        return content[:at] + piece + content[at + draw.randrange(2) :]
    if kind == 5:
        return b"".join([*lines[: line + 1], *lines[line:]])
    if kind == 6:
        return b"".join([*lines[:line], *lines[line + 1 :]])
    if kind == 7:
        depth = draw.choice([100, 3000])
        opened, closed = b"[" * depth, b"]" * depth
        deep = draw.choice([opened, b"x = " + opened + closed, b'{"a":' * depth, b"a." * depth + b"a = 1"])
        return b"".join([*lines[:line], deep, b"\n", *lines[line:]])
    if kind == 8:
        many = b"x" * 200_000
        return content + draw.choice([many + b" = 1\n", b"# " + many, b'x = "' + many + b'"\n'])
    if kind == 9:
        changed = bytearray(content)
        for _ in range(draw.choice([1, 4, 40])):
            if changed:
                changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    if kind == 10:
        return draw.choice([b"", b"\n", b"{}", b"[]", b"null", b"1", b'""', b"\0" * 1000, draw.randbytes(200)])
    if kind in (11, 12):
        value = draw.choice([*map(str, NUMBERS[:-3]), "1" + "0" * 5000, "1e99999", "0x" + "f" * 9000]).encode()
        numerals = list(_NUMERAL.finditer(content))
        if not numerals:
            return content + value
        chosen = draw.choice(numerals)
        return content[: chosen.start()] + value + content[chosen.end() :]
    return content[: at // 2] + content[at:]


def json_bytes(tree: Any) -> bytes:
    """A JSON text; what JSON has not becomes a text."""
    return json.dumps(tree, indent=2, default=str, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def toml_bytes(table: Mapping[str, Any]) -> bytes:
    """A TOML text; null, which TOML has not, becomes an empty list."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not _is_section(value)]
    for key, value in table.items():
        if not _is_section(value):
            continue
        for section in [value] if isinstance(value, Mapping) else value:
            lines.append(f"\n[{_key(key)}]" if isinstance(value, Mapping) else f"\n[[{_key(key)}]]")
            lines += [f"{_key(name)} = {_value(inner)}" for name, inner in section.items()]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _is_section(value: Any) -> bool:
    several = isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping) or several


def _key(key: Any) -> str:
    return key if isinstance(key, str) and _BARE.fullmatch(key) else _text(str(key))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        # Python writes no integer of more than 4,300 digits in decimal.
        if isinstance(value, int) and value.bit_length() > 10_000:
            return hex(value)
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return "[]" if value is None else value.isoformat() if isinstance(value, datetime.date) else _text(str(value))
