"""Tables of TOML and JSON files, and dictionaries like them: typed look-ups whose errors name file, key and value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from mad_ip import keys as values_of
from mad_ip.errors import InputError
from mad_ip.files import named, shown
from mad_ip.keys import REQUIRED, Key, Value, keys_of

__all__ = ["REQUIRED", "Reader"]

Known: TypeAlias = type[Any] | Mapping[str, Key] | Iterable[str] | None
"""The keys of a table: a record of :mod:`mad_ip.keys`, any other dataclass, or names; ``None`` allows any."""


_TOLD = 8
"""Wrong keys that are told at once."""


class Reader:
    """One table. Every look-up raises :class:`InputError` when the key is missing or its value not what is allowed.

    Keys that are not ``known`` are told together; of a record also all that are missing, those of its tables too.
    ``prefix`` stands before every key in a message, ``noun`` is what the format calls a table, ``unknown`` what is
    said of a key that is not known. Where a look-up has a default, a missing key and a null are both worth that.
    """

    def __init__(
        self,
        source: str,
        values: Any,
        known: Known,
        *,
        prefix: str = "",
        noun: str = "table",
        unknown: str = "unknown key",
    ) -> None:
        self.source, self.prefix, self.noun, self.unknown = source, prefix, noun, unknown
        if not isinstance(values, Mapping):
            where = f"{prefix.rstrip('.: ')} = {shown(values)}: " if prefix else ""
            raise InputError(f"{source}: {where}must be a {noun}")
        self.values: Mapping[str, Any] = values
        self.keys: Mapping[str, Key] = keys_of(known) if isinstance(known, type | Mapping) else {}
        if known is None:
            return
        names = list(self.keys) or (_names(known) if isinstance(known, type) else list(known))
        # Before any look-up: a misspelt key is that, not a missing one.
        wrong = list(self._wrong(names))
        if wrong:
            more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
            raise InputError(f"{source}: {'; '.join(wrong[:_TOLD])}{more}")

    def _wrong(self, names: list[str]) -> Iterator[str]:
        """What is said of keys that are not among ``names``, or declared and missing, here and in declared tables."""
        for key in self.values:
            if key not in names:
                yield self._said(key, f"{self.unknown}; allowed are {', '.join(names)}")
        for key, declared in self.keys.items():
            if declared.required and key not in self.values:
                yield self._missing(key, declared.value.allowed)
            for place, table, keys in declared.value.tables(self.values.get(key)):
                inner = Reader(self.source, table, None, prefix=f"{self.prefix}{key}{place}.", noun=self.noun)
                inner.keys = keys
                yield from inner._wrong(list(keys))

    def _said(self, key: str, sentence: str) -> str:
        return f"{self.prefix}{named(str(key))} = {shown(self.values[key])}: {sentence}"

    def _missing(self, key: str, allowed: str) -> str:
        return f"{self.prefix}{key} is missing: must be {allowed.replace('{key}', key)}"

    def error(self, key: str, sentence: str) -> InputError:
        """The error that says ``sentence`` of a key that is there."""
        return InputError(f"{self.source}: {self._said(key, sentence)}")

    def fail(self, key: str, allowed: str) -> InputError:
        """The error that says what a key, missing or there, must be."""
        if key in self.values:
            return self.error(key, f"must be {allowed.replace('{key}', key)}")
        return InputError(f"{self.source}: {self._missing(key, allowed)}")

    def read(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a declared key, by its declaration; ``default`` stands for the declared one."""
        declared = self.keys[key]
        return self.value(key, declared.value, default=declared.default if default is REQUIRED else default)

    def read_all(self, **defaults: Any) -> dict[str, Any]:
        """The values of all declared keys; ``defaults`` stand for the declared ones."""
        return {key: self.read(key, defaults.get(key, REQUIRED)) for key in self.keys}

    def value(self, key: str, value: Value, *, default: Any = REQUIRED) -> Any:
        """What ``value`` allows."""
        if self.values.get(key) is None and default is not REQUIRED:
            return default
        return value.read(self, key)

    def table(self, key: str, known: Known, *, optional: bool = False) -> Reader:
        """The table at ``key``; an empty one where it is ``optional`` and missing."""
        value = self.values.get(key)
        if value is None and optional:
            value = {}
        if not isinstance(value, Mapping):
            raise self.fail(key, values_of.table({}).allowed if self.noun == "table" else f"a {self.noun}")
        return Reader(self.source, value, known, prefix=f"{self.prefix}{named(key)}.", noun=self.noun)

    def tables(self, key: str, known: Known) -> list[Reader]:
        """The tables of the list at ``key``, at least one."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value:
            tables = values_of.tables(values_of.table({})).allowed
            raise self.fail(key, tables if self.noun == "table" else f"a list of at least one {self.noun}")
        return [
            Reader(self.source, item, known, prefix=f"{self.prefix}{key}[{number}].", noun=self.noun)
            for number, item in enumerate(value, start=1)
        ]

    def record(self, key: str, kind: type[Any]) -> Any:
        """A dataclass of texts, integers of at least 0 and numbers, there or not, read by its own annotations."""
        reader = self.table(key, kind)
        values: dict[str, Any] = {}
        for item in dataclasses.fields(kind):
            if item.type == "int | None":
                values[item.name] = reader.integer(item.name, least=0, default=None)
            elif item.type == "int":
                values[item.name] = reader.integer(item.name, least=0)
            elif item.type == "float | None":
                values[item.name] = reader.number(item.name, default=None)
            elif item.type == "str":
                values[item.name] = reader.text(item.name, empty=True)
            else:
                values[item.name] = reader.number(item.name)
        return kind(**values)

    def optional(self, key: str, read: Callable[[str], Any]) -> Any:
        """``null`` or what ``read`` reads; the key itself must be there."""
        if key in self.values and self.values[key] is None:
            return None
        return read(key)

    def text(self, key: str, *, empty: bool = False) -> str:
        """A text, blank only where it may be ``empty``."""
        return self.value(key, values_of.text(empty=empty))  # type: ignore[no-any-return]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of at least one text, none of them empty."""
        return self.value(key, values_of.texts())  # type: ignore[no-any-return]

    def choice(self, key: str, allowed: Iterable[str], *, default: str | None = REQUIRED) -> Any:
        """One of the texts ``allowed``."""
        return self.value(key, values_of.choice(allowed), default=default)

    def boolean(self, key: str, *, default: bool = REQUIRED) -> bool:
        """True or false."""
        return self.value(key, values_of.boolean(), default=default)  # type: ignore[no-any-return]

    def integer(
        self,
        key: str,
        *,
        least: int = 1,
        most: int | None = None,
        odd: bool = False,
        allowed: tuple[int, ...] | None = None,
        default: int | None = REQUIRED,
    ) -> Any:
        """An integer from ``least`` to ``most``, or one of those ``allowed``; no boolean and no 2.0."""
        return self.value(key, values_of.integer(least=least, most=most, odd=odd, among=allowed), default=default)

    def integers(self, key: str, *, most: int, longest: int) -> tuple[int, ...]:
        """A list, empty or not, of at most ``longest`` integers from 1 to ``most``."""
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) > longest:
            raise self.fail(key, f"a list of at most {longest:,} integers")
        items = {f"{key}[{number}]": item for number, item in enumerate(value, start=1)}
        reader = Reader(self.source, items, None, prefix=self.prefix)
        return tuple(reader.integer(item, most=most) for item in items)

    def number(
        self, key: str, *, least: float = -math.inf, positive: bool = False, default: float | None = REQUIRED
    ) -> Any:
        """A finite number of at least ``least``, or a ``positive`` one."""
        return self.value(key, values_of.number(least=least, positive=positive), default=default)


def _names(kind: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(kind)]
