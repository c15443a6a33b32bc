"""What the keys of a file may hold, each declared once: readers, the JSON Schema and the documents come from it.

A record is a dataclass whose fields are ``Annotated`` with a :class:`Key`, or a mapping of keys by their names. The
default of a field is that of its key.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mad_ip.files import finite, shown

if TYPE_CHECKING:
    from mad_ip.reader import Reader

__all__ = [
    "DEPTHS",
    "RANGE",
    "REQUIRED",
    "SIDES",
    "STAGES",
    "THREADS",
    "WIDTHS",
    "Key",
    "Record",
    "Value",
    "boolean",
    "choice",
    "domain",
    "each",
    "either",
    "factor",
    "integer",
    "interval",
    "json_schema",
    "keys_of",
    "number",
    "table",
    "tables",
    "text",
    "texts",
]

REQUIRED: Any = object()
"""The default of a key that must be there."""

SIDES, WIDTHS, DEPTHS, STAGES = 1 << 16, 1 << 20, 1_000, 64
"""The most pixels on a side, or frames; channels or classes; blocks of a stage; and stages: what is larger is a mistake
that would take all memory.
"""

THREADS = 256
"""The most that a solve may be asked for."""

LONGEST = 4_096
"""Values of a choice: what is made of all pairs of two choices still fits in memory."""

_FEW = 1_000
"""Up to here a largest value is one of some that are allowed, beyond it one that nobody comes near to."""

Schema: TypeAlias = dict[str, Any]

Found: TypeAlias = "tuple[str, Mapping[str, Any], Mapping[str, Key]]"
"""What stands between a key and those of a table in its value, that table, and the keys it may have."""


def _itself(value: Any) -> Any:
    return value


def _no_tables(value: Any) -> Iterable[Found]:
    return ()


@dataclass(frozen=True)
class Value:
    """What a key may hold.

    ``allowed`` says so, as it follows "must be", with ``{key}`` for the key; ``accepts`` decides on a parsed value, and
    ``convert`` makes of it what the program holds. ``schema`` is the JSON Schema, which allows more where it cannot say
    it. ``tables`` are those in a parsed value, allowed or not. ``reads`` takes the place of ``accepts`` where one
    sentence does not say all that may be wrong.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    schema: Callable[[], Schema]
    convert: Callable[[Any], Any] = _itself
    tables: Callable[[Any], Iterable[Found]] = _no_tables
    reads: Callable[[Reader, str], Any] | None = None

    def read(self, reader: Reader, key: str) -> Any:
        """The value at ``key``; raise :class:`mad_ip.errors.InputError`."""
        if self.reads is not None:
            return self.reads(reader, key)
        value = reader.values.get(key)
        if not self.accepts(value):
            raise reader.fail(key, self.allowed)
        return self.convert(value)


@dataclass(frozen=True)
class Key:
    """A key of a table: its value, what it means in a few words, its ``unit``, and its default.

    ``otherwise`` says what a missing key is worth where that depends on other keys.
    """

    value: Value
    meaning: str
    unit: str = ""
    default: Any = REQUIRED
    otherwise: str = ""

    @property
    def required(self) -> bool:
        """Whether the key must be there."""
        return self.default is REQUIRED and not self.otherwise

    @property
    def described(self) -> str:
        """What it means, and its unit."""
        return f"{self.meaning}, {self.unit}" if self.unit else self.meaning

    def schema(self) -> Schema:
        """The JSON Schema of its value, with its meaning and its default."""
        default = {} if self.default is REQUIRED or self.default in (None, ()) else {"default": self.default}
        return {"description": self.described, **self.value.schema(), **default}


Record: TypeAlias = type[Any] | Mapping[str, Key]


def keys_of(record: Record) -> Mapping[str, Key]:
    """The keys of a record by name; a class whose keys are not its fields gives them by ``declared``."""
    if isinstance(record, Mapping):
        return record
    if hasattr(record, "declared"):
        return record.declared()  # type: ignore[no-any-return]
    return _annotated(record)  # type: ignore[arg-type]


@functools.cache
def _annotated(record: Any) -> Mapping[str, Key]:
    hints = typing.get_type_hints(record, include_extras=True)
    found = {}
    for item in dataclasses.fields(record):
        for key in getattr(hints[item.name], "__metadata__", ()):
            default = key.default if item.default is dataclasses.MISSING else item.default
            found[item.name] = dataclasses.replace(key, default=default)
    return found


def text(*, empty: bool = False) -> Value:
    """A text, blank only where it may be ``empty``."""
    return Value(
        "a text" if empty else "a text that is not empty",
        lambda value: isinstance(value, str) and bool(empty or value.strip()),
        lambda: {"type": "string"} if empty else {"type": "string", "pattern": r"\S"},
    )


def texts() -> Value:
    """A list of at least one text, none of them empty."""
    return Value(
        "a list of at least one text",
        lambda value: isinstance(value, list) and bool(value) and all(isinstance(x, str) and x for x in value),
        lambda: {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        convert=tuple,
    )


def choice(among: Iterable[str]) -> Value:
    """One of some texts."""
    choices = list(among)
    return Value(
        "one of " + ", ".join(choices) if len(choices) > 1 else repr(choices[0]),
        lambda value: isinstance(value, str) and value in choices,
        lambda: {"enum": choices},
    )


def boolean() -> Value:
    """True or false."""
    return Value("true or false", lambda value: isinstance(value, bool), lambda: {"type": "boolean"})


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer(
    *, least: int = 1, most: int | None = None, odd: bool = False, among: tuple[int, ...] | None = None
) -> Value:
    """An integer from ``least`` to ``most``, or one of those ``among``; no boolean and no 2.0."""
    if among is not None:
        return Value(
            " or ".join(map(str, among)),
            lambda value: _is_integer(value) and value in among,
            lambda: {"enum": list(among)},
        )
    limit = f"of at least {least}" if most is None else f"from {least} to {most}"
    if most is not None and most > _FEW:
        limit = f"of at least {least} and at most {most}"

    def accepts(value: Any) -> bool:
        return (
            _is_integer(value) and least <= value and (most is None or value <= most) and not (odd and value % 2 == 0)
        )

    def schema() -> Schema:
        upper = {} if most is None else {"maximum": most}
        return {"type": "integer", "minimum": least, **upper, **({"not": {"multipleOf": 2}} if odd else {})}

    return Value(f"{'an odd' if odd else 'an'} integer {limit}", accepts, schema)


def number(*, least: float = -math.inf, positive: bool = False) -> Value:
    """A finite number of at least ``least``, or a ``positive`` one."""
    limit = " greater than 0" if positive else "" if least == -math.inf else f" of at least {least}"

    def schema() -> Schema:
        lower = {"exclusiveMinimum": 0} if positive else {"minimum": max(least, -sys.float_info.max)}
        return {"type": "number", **lower, "maximum": sys.float_info.max}

    return Value(
        f"a finite number{limit}",
        lambda value: finite(value) and value >= least and not (positive and value <= 0),
        schema,
    )


def factor(*, least: float, most: float) -> Value:
    """0, or a number from ``least`` to ``most``."""
    return Value(
        f"a finite number of at least 0: 0, or from {least:g} to {most:g}",
        lambda value: finite(value) and (value == 0 or least <= value <= most),
        lambda: {"anyOf": [{"const": 0}, {"type": "number", "minimum": least, "maximum": most}]},
    )


def interval() -> Value:
    """Two finite numbers ``[low, high]``, neither negative."""
    return Value(
        "two finite numbers [low, high] with 0 <= low <= high",
        lambda value: (
            isinstance(value, list) and len(value) == 2 and all(map(finite, value)) and 0 <= value[0] <= value[1]
        ),
        lambda: {"type": "array", "minItems": 2, "maxItems": 2, "items": number(least=0).schema()},
        convert=lambda value: (float(value[0]), float(value[1])),
    )


def table(record: Record, *, least: int = 0) -> Value:
    """A table of the keys of a record, at least ``least`` of them."""

    def found(value: Any) -> Iterator[Found]:
        if isinstance(value, Mapping):
            yield "", value, keys_of(record)

    def schema() -> Schema:
        keys = keys_of(record)
        required = [name for name, key in keys.items() if key.required]
        return {
            "type": "object",
            "properties": {name: key.schema() for name, key in keys.items()},
            "additionalProperties": False,
            **({"required": required} if required else {}),
            **({"minProperties": least} if least else {}),
        }

    return Value("a table [{key}]", lambda value: isinstance(value, Mapping), schema, tables=found)


def tables(one: Value) -> Value:
    """A list of at least one :func:`table`."""

    def found(value: Any) -> Iterator[Found]:
        for place, item in enumerate(value if isinstance(value, list) else (), start=1):
            for inside, content, keys in one.tables(item):
                yield f"[{place}]{inside}", content, keys

    return Value(
        "one or more tables [[{key}]]",
        lambda value: isinstance(value, list) and bool(value),
        lambda: {"type": "array", "minItems": 1, "items": one.schema()},
        tables=found,
    )


def each(pattern: str, value: Value, noun: str) -> Value:
    """A table of at least one ``noun``, each a ``value`` whose name is as the ``pattern`` says."""
    return Value(
        f"a table of at least one {noun}",
        lambda given: isinstance(given, Mapping) and bool(given),
        lambda: {
            "type": "object",
            "minProperties": 1,
            "patternProperties": {pattern: value.schema()},
            "additionalProperties": False,
        },
    )


def either(*values: Value) -> Value:
    """What any of some values allows; who reads it decides which it is."""
    return Value(
        ", or ".join(value.allowed for value in values),
        lambda given: any(value.accepts(given) for value in values),
        lambda: {"anyOf": [value.schema() for value in values]},
        tables=lambda given: [found for value in values for found in value.tables(given)],
    )


RANGE: Mapping[str, Key] = {
    "min": Key(integer(), "first value"),
    "max": Key(integer(), "last value, where the steps reach it"),
    "step": Key(integer(), "from one value to the next", default=1),
}
"""The keys of ``{min, max, step}``."""


def domain(*, most: int, odd: bool = False) -> Value:
    """The sorted distinct values, up to ``most``, of an integer, a list, or ``{min, max, step}`` (inclusive)."""
    one, span = integer(odd=odd, most=most), table(RANGE)
    noun = "odd integer" if odd else "integer"
    allowed = f"a list of at least one {noun}, or {{min, max, step}} with min <= max"

    def read(reader: Reader, key: str) -> tuple[int, ...]:
        value = reader.values.get(key)
        numbers: Sequence[Any] = [value] if _is_integer(value) else value if isinstance(value, list) else ()
        if isinstance(value, Mapping):
            numbers = _range(reader, key)
        if not numbers:
            raise reader.fail(key, allowed)
        for value in numbers:
            if not one.accepts(value):
                raise reader.fail(key, f"{noun}s of at least 1 and at most {most}, which {shown(value)} is not")
        values = tuple(sorted(set(numbers)))
        if len(values) > LONGEST:
            raise reader.fail(key, f"at most {LONGEST:,} values")
        return values

    return Value(
        allowed,
        lambda value: bool(value) and (_is_integer(value) or isinstance(value, list | Mapping)),
        lambda: {"anyOf": [one.schema(), {"type": "array", "minItems": 1, "items": one.schema()}, span.schema()]},
        tables=span.tables,
        reads=read,
    )


def _range(reader: Reader, key: str) -> range:
    given = reader.table(key, RANGE).read_all()
    low, high, step = given["min"], given["max"], given["step"]
    if (high - low) // step >= LONGEST:
        raise reader.fail(key, f"a range of at most {LONGEST:,} values")
    return range(low, high + 1, step)


def json_schema(title: str, record: Record) -> Schema:
    """The JSON Schema (draft 7) of a file that is a :func:`table` of a record."""
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": title, **table(record).schema()}
