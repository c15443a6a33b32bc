"""Devices: what numbers take on them in bytes, and layers in time; device.toml (docs/devices.md).

Times are exact integers in femtoseconds, so that a cost model with coefficients per multiply-accumulate and per byte is
a polynomial of the widths without rounding; a network's latency is its sum, rounded up to nanoseconds. A table's times
are whole nanoseconds, rounded up.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mad_ip import keys
from mad_ip.errors import InputError
from mad_ip.files import read_toml
from mad_ip.keys import Key
from mad_ip.reader import Reader

__all__ = [
    "BOARDS",
    "FEMTOSECONDS",
    "FORMAT",
    "LATENCY",
    "MEMORIES",
    "Affine",
    "Device",
    "Lookup",
    "Operation",
    "Rate",
    "Row",
    "processor",
]

FORMAT = "mad-ip/device/1"

MEMORIES = ("plain", "in-place")
"""How a runtime lays out tensors, every output beside its inputs, or depthwise convolutions over their own input."""

FEMTOSECONDS = 10**6
"""In a nanosecond."""

_LARGEST = 10**16
"""The longest time of a layer, ten seconds in femtoseconds: sums over a network stay below 2**62."""

Amount: TypeAlias = Any
"""A Python int or a NumPy integer array."""


class Operation(NamedTuple):
    """What a runtime does for a layer, or a whole block where ``mid`` is not 0: a row of a table, but for its time.

    ``kind`` is one of ``KINDS``, with ``+silu`` where an
    activation that no runtime fuses follows, or a family of blocks. ``size`` is the input resolution; ``macs``,
    ``moved`` and ``weights`` are multiply-accumulates, bytes read and written, and bytes of weights. ``present`` is 0
    where there is no such operation.
    """

    kind: str
    c_in: Amount
    mid: Amount
    c_out: Amount
    kernel: Amount
    stride: int
    size: int
    macs: Amount = 0
    moved: Amount = 0
    weights: Amount = 0
    present: Amount = 1

    def __str__(self) -> str:
        inner = f", {self.mid} inside" if self.mid else ""
        return (
            f"{self.kind} of {self.c_in} to {self.c_out} channels{inner}, kernel {self.kernel}, stride {self.stride}, "
            f"{self.size} x {self.size} pixels"
        )

    @property
    def base(self) -> str:
        """The kind without its activation."""
        return self.kind.partition("+")[0]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind and what serves where a device has nothing of it, without its activation, dense for grouped."""
        return (self.kind, self.base, *(("dense",) if self.base == "grouped" else ()))


def _femtoseconds(nanoseconds: float) -> int:
    """Rounded up, of the decimal number that is written."""
    return math.ceil(Fraction(repr(nanoseconds)) * FEMTOSECONDS)


_COEFFICIENT = keys.number(least=0)


@dataclass(frozen=True)
class Rate:
    """Nanoseconds of one kind of layer: ``base`` for each, and for every multiply-accumulate, byte and weight byte."""

    base: Annotated[float, Key(_COEFFICIENT, "for every layer", "nanoseconds")] = 0.0
    macs: Annotated[float, Key(_COEFFICIENT, "for every multiply-accumulate", "nanoseconds")] = 0.0
    bytes: Annotated[float, Key(_COEFFICIENT, "for every byte read or written", "nanoseconds")] = 0.0
    weights: Annotated[float, Key(_COEFFICIENT, "for every byte of weights", "nanoseconds")] = 0.0

    @cached_property
    def _whole(self) -> tuple[int, ...]:
        return tuple(_femtoseconds(getattr(self, item.name)) for item in fields(self))

    def __call__(self, operation: Operation) -> Amount:
        """Femtoseconds, exact in the coefficients rounded up to whole femtoseconds."""
        base, macs, moved, weights = self._whole
        return base + macs * operation.macs + moved * operation.moved + weights * operation.weights


@dataclass(frozen=True)
class Affine:
    """``t = base + a MACs + b bytes + w weight bytes`` for every kind of layer, and ``overhead`` for the network.

    Kinds ``unmodelled`` take no time. Where a kind with an activation has no rate, that of the kind alone is taken.
    """

    kinds: tuple[tuple[str, Rate], ...]
    overhead: float = 0.0
    unmodelled: tuple[str, ...] = ()
    source: str = field(default="device", compare=False)

    @cached_property
    def _rates(self) -> dict[str, Rate]:
        return dict(self.kinds)

    @property
    def start(self) -> int:
        """Femtoseconds that every network takes besides its layers."""
        return _femtoseconds(self.overhead)

    def missing(self, operation: Operation) -> bool:
        """Whether the model says nothing of the kind."""
        return not any(kind in self._rates or kind in self.unmodelled for kind in operation.kinds)

    def of(self, operation: Operation) -> Amount:
        """Femtoseconds of an operation; raise :class:`InputError` for a kind that the model lacks."""
        if self.missing(operation):
            if not np.any(operation.present):
                return 0 * operation.present
            raise InputError(f"{self.source}: latency.kinds has no {operation.base}, as needed for {operation}")
        rate = next((self._rates[kind] for kind in operation.kinds if kind in self._rates), None)
        return 0 * operation.present if rate is None else rate(operation) * operation.present

    def ceiling(self, operation: Operation) -> int:
        """Femtoseconds that no such operation passes; of Python integers."""
        return int(self.of(operation))

    def interpolated(self, operation: Operation) -> bool:
        """Never."""
        return False

    def of_operations(self, operations: Iterable[Operation]) -> Affine:
        """What these need: all of it."""
        return self

    def content(self) -> dict[str, Any]:
        """As it is written."""
        rates = {
            kind: {item.name: getattr(rate, item.name) for item in fields(rate) if getattr(rate, item.name)}
            for kind, rate in self.kinds
        }
        content = {"model": "affine", "overhead": self.overhead, "unmodelled": list(self.unmodelled), "kinds": rates}
        return {key: value for key, value in content.items() if value or key == "kinds"}


class Row(NamedTuple):
    """One measured layer; ``mid`` is not 0 for a whole block, ``nanoseconds`` a whole number."""

    kind: str
    c_in: int
    mid: int
    c_out: int
    kernel: int
    stride: int
    size: int
    nanoseconds: int


@dataclass(frozen=True)
class Lookup:
    """Measured times, by kind, channels, kernel, stride and resolution; a wider layer may be faster.

    ``interpolate``: what lies between measured channels and resolutions is interpolated, linearly in channels and
    pixels. Kinds ``unmodelled`` take no time. ``overhead`` is in nanoseconds. ``filled`` rows were interpolated before.
    """

    rows: tuple[Row, ...]
    overhead: float = 0.0
    unmodelled: tuple[str, ...] = ()
    interpolate: bool = False
    filled: tuple[Row, ...] = ()
    source: str = field(default="device", compare=False)

    @property
    def start(self) -> int:
        """Femtoseconds that every network takes besides its layers."""
        return _femtoseconds(self.overhead)

    @cached_property
    def _grids(self) -> dict[tuple[str, int, int], dict[int, _Grid]]:
        """By kind, kernel and stride, then by size."""
        grids: dict[tuple[str, int, int], dict[int, _Grid]] = {}
        ordered = sorted((*self.rows, *self.filled), key=lambda row: (row.kind, row.kernel, row.stride, row.size))
        for (kind, kernel, stride, size), rows in itertools.groupby(
            ordered, key=lambda row: (row.kind, row.kernel, row.stride, row.size)
        ):
            grids.setdefault((kind, kernel, stride), {})[size] = _Grid.of(list(rows))
        return grids

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of which there are rows."""
        return frozenset(row.kind for row in (*self.rows, *self.filled))

    @property
    def families(self) -> frozenset[str]:
        """The families of blocks that are measured as wholes."""
        return frozenset(row.kind for row in (*self.rows, *self.filled) if row.mid)

    @cached_property
    def _most(self) -> int:
        return max(row.nanoseconds for row in (*self.rows, *self.filled)) * FEMTOSECONDS

    def ceiling(self, operation: Operation) -> int:
        """Femtoseconds that no such operation passes."""
        return self._most

    def missing(self, operation: Operation) -> Any:
        """Whether the table lacks an operation, and cannot interpolate it; an array where its widths are."""
        if self._ignores(operation):
            return False
        return np.isnan(self._nanoseconds(operation, self.interpolate)) & (np.asarray(operation.present) != 0)

    def of(self, operation: Operation) -> Amount:
        """Femtoseconds of an operation; raise :class:`InputError` naming a single one that the table lacks.

        Of arrays what is missing is 0: whether a network of a spec needs it is asked beforehand, of :meth:`missing`.
        """
        if self._ignores(operation):
            return 0 * operation.present
        found = self._nanoseconds(operation, self.interpolate)
        if np.ndim(found) == 0:
            if not operation.present:
                return 0
            if math.isnan(found):
                raise InputError(self.lacks(operation))
            return math.ceil(found) * FEMTOSECONDS
        whole: Any = np.ceil(np.nan_to_num(found)).astype(np.int64)
        return whole * FEMTOSECONDS * operation.present

    def lacks(self, operation: Operation) -> str:
        """The sentence that says so."""
        way = "outside of what it holds" if self.interpolate else "--interpolate fills what lies between its rows"
        return f"{self.source}: latency.table has no {operation}; {way}"

    def interpolated(self, operation: Operation) -> bool:
        """Whether the time of a single operation is not a measured one."""
        if self._ignores(operation) or not operation.present:
            return False
        return self._row(operation, 0)[:-1] in self._filled or math.isnan(self._nanoseconds(operation, False))

    @cached_property
    def _filled(self) -> frozenset[tuple[Any, ...]]:
        return frozenset(row[:-1] for row in self.filled)

    def _row(self, operation: Operation, nanoseconds: int) -> Row:
        widths = (int(width) for width in (operation.c_in, operation.mid, operation.c_out))
        shape = (int(operation.kernel), operation.stride, operation.size)
        return Row(self._kind(operation), *widths, *shape, nanoseconds)  # type: ignore[call-arg]

    def of_operations(self, operations: Iterable[Operation]) -> Lookup:
        """The rows that hold these single operations; those interpolated are filled ones."""
        rows: set[Row] = set()
        filled: set[Row] = set()
        for operation in operations:
            if self.times(operation):
                row = self._row(operation, self.of(operation) // FEMTOSECONDS)
                (filled if self.interpolated(operation) else rows).add(row)
        return dataclasses.replace(self, rows=tuple(sorted(rows)), filled=tuple(sorted(filled)))

    def times(self, operation: Operation) -> bool:
        """Whether a single operation is there and has a time in the table."""
        return bool(operation.present) and not self._ignores(operation)

    def _ignores(self, operation: Operation) -> bool:
        named = {operation.kind, operation.base} & set(self.unmodelled)
        return bool(named) and operation.kind not in self.kinds and operation.base not in self.kinds

    def _kind(self, operation: Operation) -> str:
        return operation.kind if operation.kind in self.kinds else operation.base

    def _nanoseconds(self, operation: Operation, interpolate: bool) -> Any:
        """Not a number where the table lacks it."""
        if np.ndim(operation.kernel) == 0:
            return self._of_kernel(int(operation.kernel), operation, interpolate)
        found: Any = np.full(np.shape(operation.kernel), math.nan)
        for kernel in np.unique(operation.kernel):
            found = np.where(operation.kernel == kernel, self._of_kernel(int(kernel), operation, interpolate), found)
        return found

    def _of_kernel(self, kernel: int, operation: Operation, interpolate: bool) -> Any:
        grids = self._grids.get((self._kind(operation), kernel, operation.stride), {})
        widths = operation.c_in, operation.mid, operation.c_out
        grid = grids.get(operation.size)
        if not interpolate:
            return (grid or _NO_GRID).at(*widths)
        if grid is not None:
            return grid.between(*widths)
        below = max((size for size in grids if size < operation.size), default=None)
        above = min((size for size in grids if size > operation.size), default=None)
        if below is None or above is None:
            return _NO_GRID.at(*widths)
        share = (operation.size**2 - below**2) / (above**2 - below**2)
        low, high = grids[below].between(*widths), grids[above].between(*widths)
        return low + share * (high - low)

    def content(self) -> dict[str, Any]:
        """As it is written: a line for every row, its columns named in the first."""
        content: dict[str, Any] = {"model": "table", "overhead": self.overhead, "unmodelled": list(self.unmodelled)}
        content |= {"interpolate": self.interpolate, "table": _text(self.rows), "filled": _text(self.filled)}
        return {key: value for key, value in content.items() if value}


def _text(rows: Sequence[Row]) -> str:
    """A line for every row, after one that names the columns; nothing of no rows."""
    if not rows:
        return ""
    whole = any(row.mid for row in rows)
    columns = [name for name in Row._fields if whole or name != "mid"]
    lines = [" ".join(columns), *(" ".join(str(getattr(row, name)) for name in columns) for row in rows)]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Grid:
    """Nanoseconds over the channels before, inside and after, not a number where nothing was measured.

    ``dense`` layers take time by both channels, the others by one.
    """

    axes: tuple[NDArray[np.int64], ...]
    values: NDArray[np.float64]
    dense: bool = True

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Grid:
        columns = [np.array(column) for column in zip(*((row.c_in, row.mid, row.c_out) for row in rows), strict=True)]
        axes = tuple(np.unique(column) for column in columns)
        values = np.full([len(axis) for axis in axes], math.nan)
        places = tuple(np.searchsorted(axis, column) for axis, column in zip(axes, columns, strict=True))
        values[places] = [row.nanoseconds for row in rows]
        return cls(axes, values, rows[0].kind.partition("+")[0] in ("pointwise", "dense", "head"))

    def at(self, *widths: Amount) -> Any:
        """What was measured."""
        places, known = [], np.True_
        for axis, width in zip(self.axes, widths, strict=True):
            place = np.minimum(np.searchsorted(axis, width), len(axis) - 1)
            known = known & (axis[place] == width)
            places.append(place)
        found: Any = np.where(known, self.values[tuple(places)], math.nan)
        return found if found.ndim else float(found)

    def between(self, *widths: Amount) -> Any:
        """What was measured, and between it what neighbours give; not a number where there are none on both sides."""
        shape = np.broadcast_shapes(*(np.shape(width) for width in widths))
        rows = np.stack([np.broadcast_to(width, shape).ravel() for width in widths], axis=1)
        distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
        found = np.array([self._between(*map(int, row)) for row in distinct])[inverse.ravel()].reshape(shape)
        return found if shape else float(found)

    @cached_property
    def _measured(self) -> dict[tuple[int, int, int], float]:
        places = np.argwhere(~np.isnan(self.values))
        widths = zip(*(axis[column] for axis, column in zip(self.axes, places.T, strict=True)), strict=True)
        return {
            (int(a), int(b), int(c)): float(self.values[tuple(at)])
            for (a, b, c), at in zip(widths, places, strict=True)
        }

    @cached_property
    def _lines(self) -> dict[tuple[int, Fraction], list[tuple[int, float]]]:
        """For every inner width and ratio of the channels after to those before: products or channels, and times."""
        lines: dict[tuple[int, Fraction], list[tuple[int, float]]] = {}
        for (c_in, mid, c), time in sorted(self._measured.items()):
            lines.setdefault((mid, Fraction(c, c_in)), []).append((c_in * c if self.dense else c_in, time))
        return lines

    def _between(self, c_in: int, mid: int, c: int) -> float:
        """Of the four measured around the channels; else of the nearest ratios of channels that are measured."""
        exact = self._measured.get((c_in, mid, c))
        if exact is not None:
            return exact
        if mid:
            beside = sorted((m, time) for (a, m, b), time in self._measured.items() if (a, b) == (c_in, c))
            return _linear(mid, beside)
        around = [
            _linear(c, [(right, self._measured.get((left, 0, right), math.nan)) for right in _beside(self.axes[2], c)])
            for left in _beside(self.axes[0], c_in)
        ]
        found = _linear(c_in, list(zip(_beside(self.axes[0], c_in), around, strict=True)))
        if not math.isnan(found):
            return found
        ratio = Fraction(c, c_in)
        sides = [(float(r), _linear(c_in * c if self.dense else c_in, line)) for (_, r), line in self._lines.items()]
        sides = sorted((r, time) for r, time in sides if not math.isnan(time))
        return _linear(float(ratio), sides)


def _beside(axis: NDArray[np.int64], width: int) -> list[int]:
    """The width itself, or the measured ones below and above it; none where one is missing."""
    at = int(np.searchsorted(axis, width))
    if at < len(axis) and axis[at] == width:
        return [width]
    return [int(axis[at - 1]), int(axis[at])] if 0 < at < len(axis) else []


def _linear(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Between the neighbours of ``x`` among points sorted by their first; not a number outside of them."""
    for place, (at, value) in enumerate(points):
        if at == x:
            return value
        if at > x:
            if place == 0:
                break
            before, low = points[place - 1]
            return low + (x - before) / (at - before) * (value - low)
    return math.nan


_NO_GRID = _Grid((np.array([-1]),) * 3, np.full((1, 1, 1), math.nan))


KINDS = ("pointwise", "dense", "depthwise", "grouped", "squeeze-excite", "pool", "add", "head")
"""Kinds of layers, each also with what follows it, as in ``pointwise+silu``."""

AFTER = ("silu", "hardswish", "hardsigmoid", "sigmoid", "gelu", "leaky_relu", "elu", "mish", "tanh", "add")
"""Activations that runtimes do not fuse, and a sum that they do."""

BLOCKS = ("inverted", "inverted_se", "separable")
"""Families of blocks that a table may hold whole."""

_MODELS = ("affine", "table")

_NUMBER_BYTES = keys.integer(most=8)

LATENCY = {
    "model": Key(keys.choice(_MODELS), "how times are given: coefficients for every kind of layer, or measured rows"),
    "overhead": Key(_COEFFICIENT, "time of a network besides its layers", "nanoseconds", default=0.0),
    "unmodelled": Key(keys.texts(), "kinds of layers that take no time", default=()),
    "kinds": Key(
        keys.each(
            f"^({'|'.join(BLOCKS)}|({'|'.join(KINDS)})(\\+({'|'.join(AFTER)}))?)$", keys.table(Rate), "kind of layer"
        ),
        "affine: coefficients by kind of layer",
        default=None,
    ),
    "table": Key(keys.text(), "table: a line for every measured layer, after one that names the columns", default=None),
    "filled": Key(keys.text(), "table: rows as in table that were interpolated", default=None),
    "interpolate": Key(keys.boolean(), "table: fill what it lacks between its rows", default=False),
}
"""The keys of a table of times."""


@dataclass(frozen=True)
class Device:
    """A device: bytes of a number, how its runtime lays out tensors, and how long layers take, where that is known.

    ``channel_bytes`` are kept for every output channel of a layer besides its weights: a 32-bit bias, and where weights
    are of 8 bits a 32-bit scale. ``sha256`` identifies the device.toml that the times came from.
    """

    name: Annotated[str, Key(keys.text(empty=True), "name of the device")] = ""
    activation_bytes: Annotated[int, Key(_NUMBER_BYTES, "bytes of a number between layers", "bytes")] = 1
    weight_bytes: Annotated[int, Key(_NUMBER_BYTES, "bytes of a weight", "bytes")] = 1
    channel_bytes: Annotated[
        int, Key(keys.integer(least=0, most=64), "kept for every output channel beside its weights", "bytes")
    ] = 8
    memory: Annotated[str, Key(keys.choice(MEMORIES), "how the runtime lays out tensors")] = "plain"
    sha256: str = field(default="", compare=False)
    latency: Annotated[Affine | Lookup | None, Key(keys.table(LATENCY), "times of layers")] = None

    @classmethod
    def load(cls, path: Path | str) -> Device:
        """Read and validate a device.toml; raise :class:`InputError` naming file, key, value and what is allowed."""
        table, raw = read_toml(path)
        keys = [item.name for item in fields(cls) if item.name != "sha256"]
        reader = Reader(str(path), table, ("format", *keys, "measured"))
        reader.choice("format", (FORMAT,))
        found = cls.read(reader, base=cls(name=Path(path).stem))
        return dataclasses.replace(found, sha256=hashlib.sha256(raw).hexdigest())

    @classmethod
    def named(cls, name: str) -> Device:
        """The device of a board's name or of a device.toml; raise :class:`InputError`."""
        if name in BOARDS:
            return BOARDS[name].device
        if not name.endswith(".toml"):
            raise InputError(f"--device = {name}: must be a device.toml or one of {', '.join(BOARDS)}")
        return cls.load(name)

    def interpolating(self) -> Device:
        """The device with a table of which what it lacks between its rows is interpolated."""
        if not isinstance(self.latency, Lookup):
            return self
        return dataclasses.replace(self, latency=dataclasses.replace(self.latency, interpolate=True))

    @classmethod
    def read(cls, reader: Reader, *, base: Device | None = None) -> Device:
        """The device of a table, other keys as ``base`` has them."""
        base = base or cls()
        declared = keys.keys_of(cls)

        def given(key: str, default: Any) -> Any:
            return reader.value(key, declared[key].value, default=default)

        weight_bytes = given("weight_bytes", base.weight_bytes)
        kept = base.channel_bytes if weight_bytes == base.weight_bytes else 8 if weight_bytes == 1 else 4
        latency = base.latency
        if "latency" in reader.values:
            latency = _latency(reader.table("latency", LATENCY))
        return cls(
            name=given("name", base.name),
            activation_bytes=given("activation_bytes", base.activation_bytes),
            weight_bytes=weight_bytes,
            channel_bytes=given("channel_bytes", kept),
            memory=given("memory", base.memory),
            sha256=reader.text("sha256") if "sha256" in reader.values else base.sha256,
            latency=latency,
        )

    def content(self) -> dict[str, Any]:
        """As it is written in design.json and, with its format, in device.toml."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        if not self.sha256:
            del content["sha256"]
        content["latency"] = None if self.latency is None else self.latency.content()
        return {key: value for key, value in content.items() if value is not None}


@dataclass(frozen=True)
class Board:
    """A microcontroller: its device, and bytes of memory and flash."""

    device: Device
    activation: int
    flash: int


def _board(name: str, activation: int, flash: int) -> Board:
    # MCUNet's runtime computes depthwise convolutions in place.
    return Board(Device(name, memory="in-place"), activation, flash)


BOARDS = {
    "stm32f412": _board("stm32f412", 256_000, 1_000_000),
    "stm32f746": _board("stm32f746", 320_000, 1_000_000),
    "stm32h743": _board("stm32h743", 512_000, 2_000_000),
}
"""By name; kB and MB are powers of 1000."""


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _latency(reader: Reader) -> Affine | Lookup:
    model = reader.read("model")
    overhead = float(reader.read("overhead"))
    if overhead > _LARGEST / FEMTOSECONDS:
        raise reader.error("overhead", f"must be a number from 0 to {_LARGEST // FEMTOSECONDS}")
    unmodelled = reader.read("unmodelled")
    for kind in unmodelled:
        if not _known(kind):
            raise reader.error("unmodelled", f"{kind!r}: must be {_KNOWN}")
    source = reader.source
    if model == "affine":
        for key in ("table", "filled", "interpolate"):
            if key in reader.values:
                raise reader.error(key, "belongs to model = 'table'; must be left out")
        kinds = reader.table("kinds", None)
        if not kinds.values:
            raise reader.fail("kinds", "a table of at least one kind of layer")
        for kind in kinds.values:
            if not _known(kind):
                raise kinds.error(kind, f"must be {_KNOWN}")
        rates = tuple((kind, _rate(kinds.table(kind, Rate))) for kind in kinds.values)
        return Affine(rates, overhead, unmodelled, source)
    if "kinds" in reader.values:
        raise reader.error("kinds", "belongs to model = 'affine'; must be left out")
    filled = tuple(_rows(reader, "filled")) if "filled" in reader.values else ()
    rows = tuple(_rows(reader, "table")) if "table" in reader.values or not filled else ()
    return Lookup(rows, overhead, unmodelled, reader.read("interpolate"), filled, source)


def _known(kind: str) -> bool:
    base, plus, after = kind.partition("+")
    return kind in BLOCKS or (base in KINDS and (not plus or after in AFTER))


_KNOWN = f"one of {', '.join(KINDS)}, alone or with + and one of {', '.join(AFTER)}"


def _rate(reader: Reader) -> Rate:
    found = {name: float(value) for name, value in reader.read_all().items()}
    for name, value in found.items():
        if value > _LARGEST / FEMTOSECONDS:
            raise reader.error(name, f"must be a number from 0 to {_LARGEST // FEMTOSECONDS}")
    return Rate(**found)


def _rows(reader: Reader, key: str) -> Iterator[Row]:
    """The rows of a table's text; raise :class:`InputError` naming the line that is none."""
    where = f"{reader.source}: {reader.prefix}{key}"
    lines = [line.split() for line in reader.text(key).splitlines() if line.strip()]
    header, *rows = lines
    needed = [name for name in Row._fields if name != "mid"]
    if sorted(set(header) | {"mid"}) != sorted(Row._fields) or len(set(header)) != len(header):
        raise InputError(f"{where} line 1: {' '.join(header)}: must name the columns {' '.join(needed)}, mid or not")
    if not rows:
        raise InputError(f"{where} is empty: must have a line for at least one layer")
    seen: set[tuple[Any, ...]] = set()
    for number, line in enumerate(rows, start=2):
        row = _row(dict(zip(header, line, strict=False)), f"{where} line {number}")
        if len(line) != len(header):
            raise InputError(f"{where} line {number}: {' '.join(line)}: must have {len(header)} columns")
        if row[:-1] in seen:
            raise InputError(f"{where} line {number}: {' '.join(line)}: the same layer is in a line before")
        seen.add(row[:-1])
        yield row


def _row(values: dict[str, str], where: str) -> Row:
    found: dict[str, Any] = {"mid": 0}
    for key, text in values.items():
        if key == "kind":
            if not _known(text):
                raise InputError(f"{where}: kind = {text}: must be {_KNOWN}, or one of {', '.join(BLOCKS)}")
            found[key] = text
            continue
        try:
            number = float(text) if key == "nanoseconds" else int(text)
        except ValueError:
            number = math.nan
        least = 0 if key in ("nanoseconds", "mid") else 1
        most = _LARGEST // FEMTOSECONDS if key == "nanoseconds" else 2**24
        if not least <= number <= most:
            allowed = "a number" if key == "nanoseconds" else "an integer"
            raise InputError(f"{where}: {key} = {text}: must be {allowed} from {least} to {most}")
        found[key] = math.ceil(number)
    if len(found) != len(Row._fields):
        raise InputError(f"{where}: {' '.join(values.values())}: must have a value for every column")
    return Row(**found)
