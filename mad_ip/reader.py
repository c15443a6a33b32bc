"""Tables of TOML and JSON files, and dictionaries like them: typed look-ups whose errors name file, key and value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mad_ip.errors import InputError
from mad_ip.files import finite, named

__all__ = ["REQUIRED", "Reader"]

REQUIRED: Any = object()
"""The default of a key that must be there."""


class Reader:
    """One table. Every look-up raises :class:`InputError` when the key is missing or its value not what is allowed.

    ``known`` are the keys that the table may have, or the dataclass whose fields they are; ``None`` allows any.
    ``prefix`` stands before every key in a message, ``noun`` is what the format calls a table, ``unknown`` what is
    said of a key that is not known. Where a look-up has a default, a missing key and a null are both worth that.
    """

    def __init__(
        self,
        source: str,
        values: Any,
        known: type[Any] | Iterable[str] | None,
        *,
        prefix: str = "",
        noun: str = "table",
        unknown: str = "unknown key",
    ) -> None:
        self.source, self.prefix, self.noun = source, prefix, noun
        if not isinstance(values, Mapping):
            where = f"{prefix.rstrip('.: ')} = {values!r}: " if prefix else ""
            raise InputError(f"{source}: {where}must be a {noun}")
        self.values: Mapping[str, Any] = values
        if known is None:
            return
        allowed = _names(known) if isinstance(known, type) else list(known)
        # Before any look-up: a misspelt key is that, not a missing one.
        for key in values:
            if key not in allowed:
                raise self.error(key, f"{unknown}; allowed are {', '.join(allowed)}")

    def error(self, key: str, sentence: str) -> InputError:
        """The error that says ``sentence`` of a key that is there."""
        return InputError(f"{self.source}: {self.prefix}{named(str(key))} = {self.values[key]!r}: {sentence}")

    def fail(self, key: str, allowed: str) -> InputError:
        """The error that says what a key, missing or there, must be."""
        if key in self.values:
            return self.error(key, f"must be {allowed}")
        return InputError(f"{self.source}: {self.prefix}{key} is missing: must be {allowed}")

    def table(self, key: str, known: type[Any] | Iterable[str] | None, *, optional: bool = False) -> Reader:
        """The table at ``key``; an empty one where it is ``optional`` and missing."""
        value = self.values.get(key)
        if value is None and optional:
            value = {}
        if not isinstance(value, Mapping):
            raise self.fail(key, f"a table [{key}]" if self.noun == "table" else f"a {self.noun}")
        return Reader(self.source, value, known, prefix=f"{self.prefix}{named(key)}.", noun=self.noun)

    def tables(self, key: str, known: type[Any] | Iterable[str] | None) -> list[Reader]:
        """The tables of the list at ``key``, at least one."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value:
            allowed = f"one or more tables [[{key}]]" if self.noun == "table" else f"a list of at least one {self.noun}"
            raise self.fail(key, allowed)
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
        value = self.values.get(key)
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self.fail(key, "a text" if empty else "a text that is not empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of at least one text, none of them empty."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise self.fail(key, "a list of at least one text")
        return tuple(value)

    def choice(self, key: str, allowed: Iterable[str], *, default: str | None = REQUIRED) -> Any:
        """One of the texts ``allowed``."""
        value = self.values.get(key)
        if value is None and default is not REQUIRED:
            return default
        choices = list(allowed)
        if value not in choices:
            raise self.fail(key, "one of " + ", ".join(choices) if len(choices) > 1 else repr(choices[0]))
        return value

    def boolean(self, key: str, *, default: bool = REQUIRED) -> bool:
        """True or false."""
        value = self.values.get(key)
        if value is None and default is not REQUIRED:
            return default
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

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
        value: Any = self.values.get(key)
        if value is None and default is not REQUIRED:
            return default
        if allowed is not None:
            if not _is_integer(value) or value not in allowed:
                raise self.fail(key, " or ".join(str(item) for item in allowed))
            return int(value)
        fits = _is_integer(value) and value >= least and (most is None or value <= most)
        if not fits or (odd and value % 2 == 0):
            limit = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise self.fail(key, f"{'an odd' if odd else 'an'} integer {limit}")
        return int(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list, empty or not, of integers of at least 1."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self.fail(key, "a list of integers")
        items = {f"{key}[{number}]": item for number, item in enumerate(value, start=1)}
        reader = Reader(self.source, items, None, prefix=self.prefix)
        return tuple(reader.integer(item) for item in items)

    def number(
        self, key: str, *, least: float = -math.inf, positive: bool = False, default: float | None = REQUIRED
    ) -> Any:
        """A finite number of at least ``least``, or a ``positive`` one."""
        value: Any = self.values.get(key)
        if value is None and default is not REQUIRED:
            return default
        if not finite(value) or value < least or (positive and value <= 0):
            limit = "" if least == -math.inf else f" of at least {least}"
            raise self.fail(key, "a finite number" + (" greater than 0" if positive else limit))
        return value

    def interval(self, key: str, *, default: tuple[float, float] | None = REQUIRED) -> tuple[float, float] | None:
        """Two finite numbers ``[low, high]``, neither negative."""
        value = self.values.get(key)
        if value is None and default is not REQUIRED:
            return default
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(finite(item) for item in value)
            or not 0 <= value[0] <= value[1]
        ):
            raise self.fail(key, "two finite numbers [low, high] with 0 <= low <= high")
        return float(value[0]), float(value[1])

    def domain(self, key: str, *, odd: bool = False) -> tuple[int, ...]:
        """The sorted distinct values of an integer, a list, or ``{min, max, step}`` (inclusive)."""
        value = self.values.get(key)
        numbers: list[Any] | range
        if _is_integer(value):
            numbers = [value]
        elif isinstance(value, list):
            numbers = value
        elif isinstance(value, Mapping):
            numbers = self._range(key)
        else:
            numbers = []
        if not numbers:
            raise self.fail(key, "a list of at least one integer, or {min, max, step} with min <= max")
        for number in numbers:
            if not _is_integer(number) or number < 1 or (odd and number % 2 == 0):
                raise self.fail(key, f"{'odd integers' if odd else 'integers'} of at least 1, which {number!r} is not")
        return tuple(sorted(set(numbers)))

    def _range(self, key: str) -> range:
        reader = self.table(key, ("min", "max", "step"))
        low, high = reader.integer("min"), reader.integer("max")
        step = reader.integer("step", default=1)
        if (high - low) // step >= 1_000_000:
            raise self.fail(key, "a range of at most a million values")
        return range(low, high + 1, step)


def _names(kind: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(kind)]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
