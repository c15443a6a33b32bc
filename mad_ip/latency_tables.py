"""Latency tables of other projects as a :class:`Device` (docs/devices.md).

TinyNAS's: a line ``{type,batch,c_in,height,width,c_out,kernel,stride,fused} milliseconds`` for every convolution, -1
where it could not be measured. Its times are those of the whole batch.

Once-for-all's: YAML of layers and whole inverted blocks, by names such as ``Conv-input:160x160x3-output:80x80x24``,
with the mean time in milliseconds. They are told apart by their first line. Times become whole nanoseconds, rounded up
from the decimal number that is written.
"""

from __future__ import annotations

import decimal
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from mad_ip.device import FORMAT, Device, Lookup, Row
from mad_ip.errors import InputError
from mad_ip.files import read_bytes, write_atomically
from mad_ip.spec import toml_lines

__all__ = ["KINDS", "Table", "read", "read_once_for_all", "read_tinynas", "write"]

KINDS = ("tinynas", "once-for-all")
"""Formats of tables."""

_LONGEST = 10_000
"""Milliseconds that a layer may take, as in a device.toml."""

_MOST_BYTES = 256 * 2**20
"""Of an unpacked table; the published ones have four million."""

_LARGEST = 2**24
"""Of every other number of a layer, as in a device.toml."""

_EXACT = decimal.Context(prec=100, rounding=decimal.ROUND_CEILING)

_NUMBER = r"([1-9]\d{0,7})"
_CONVOLUTION = re.compile(rf"\{{(Regular|Depthwise),{','.join([_NUMBER] * 7)},([01])\}}\s+(\S+)", re.ASCII)
_SIDES = rf"input:{'x'.join([_NUMBER] * 3)}-output:(?:{_NUMBER}x{_NUMBER}x)?{_NUMBER}"
_LAYER = re.compile(rf"(Conv|Conv_1|Conv_2|AvgPool2D|Logits)-{_SIDES}", re.ASCII)
_BLOCK = re.compile(
    rf"(expanded_conv)-{_SIDES}-expand:{_NUMBER}-kernel:{_NUMBER}-stride:{_NUMBER}-idskip:([01])-se:([01])-hs:[01]",
    re.ASCII,
)


@dataclass(frozen=True)
class Table:
    """A table that was read: its device, its format, and how many ``rows`` its ``lines`` or layers became.

    Of the others ``invalid`` could not be measured, ``other`` are of another batch, of a sum that is fused, or of a
    block that mad-ip does not have, and ``repeated`` are of a layer that has a row.
    """

    device: Device
    kind: str
    source: str
    rows: int
    lines: int
    invalid: int
    other: int
    repeated: int

    def measured(self) -> dict[str, Any]:
        """What a device.toml says of its origin."""
        counts = {key: getattr(self, key) for key in ("lines", "rows", "invalid", "other", "repeated")}
        return {"source": Path(self.source).name, "format": self.kind, **counts}

    def sentences(self) -> Iterator[str]:
        """One line each."""
        yield f"{self.source}: {self.rows:,} of {self.lines:,} measurements read"
        if self.invalid:
            yield f"{self.invalid:,} are marked as not measured"
        if self.other:
            what = "another batch or a fused sum" if self.kind == "tinynas" else "blocks that mad-ip does not have"
            yield f"{self.other:,} are of {what}"
        if self.repeated:
            which = "the last one counts" if self.kind == "tinynas" else "the slower one counts"
            yield f"{self.repeated:,} are of a layer that is measured more than once, of which {which}"


def read_tinynas(path: Path | str, *, batch: int = 1, number_bytes: int = 4, fused: bool = False) -> Device:
    """The device of a table of TinyNAS, plain or compressed by gzip; options as of :func:`read`."""
    return read(path, "tinynas", batch=batch, number_bytes=number_bytes, fused=fused).device


def read_once_for_all(path: Path | str, *, number_bytes: int = 4) -> Device:
    """The device of a table of Once-for-all; options as of :func:`read`."""
    return read(path, "once-for-all", number_bytes=number_bytes).device


def read(
    path: Path | str,
    kind: str | None = None,
    *,
    batch: int = 1,
    number_bytes: int = 4,
    fused: bool = False,
) -> Table:
    """Read a table of a format of :data:`KINDS`, by default the one that its first line has.

    ``number_bytes`` is what a number takes on the device. Of a TinyNAS table the lines of one ``batch`` count; where
    ``fused``, convolutions with the sum of a shortcut are kinds of layers of their own, else they are left out. Raises
    :class:`InputError` naming the line that does not fit.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"--format = {kind}: must be one of {', '.join(KINDS)}")
    source = str(path)
    for option, value, most in (("--batch", batch, _LARGEST), ("--bytes", number_bytes, 8)):
        if not 1 <= value <= most:
            raise InputError(f"{option} = {value}: must be an integer from 1 to {most}")
    lines = _lines(read_bytes(path), source)
    kind = kind or _kind_of(lines[0], source)
    if kind == "once-for-all" and batch != 1:
        raise InputError(f"--batch = {batch}: {source} is a table of Once-for-all, of batch 1; must be left out")
    found = _tinynas(lines, source, batch, fused) if kind == "tinynas" else _once_for_all(lines, source)
    latency = Lookup(tuple(found.rows), unmodelled=found.unmodelled, source=source)
    device = Device(
        name=Path(path).name.partition(".")[0],
        activation_bytes=number_bytes,
        weight_bytes=number_bytes,
        channel_bytes=8 if number_bytes == 1 else 4,
        latency=latency,
    )
    return Table(device, kind, source, len(found.rows), found.lines, found.invalid, found.other, found.repeated)


def write(device: Device, path: Path | str, measured: Mapping[str, Any]) -> None:
    """Write a device.toml atomically, with a table ``measured`` of where its times are from."""
    content = {"format": FORMAT, **device.content(), "measured": dict(measured)}
    write_atomically(path, ("\n".join(toml_lines("", content)) + "\n").encode())


class _Line(NamedTuple):
    number: int
    text: str


class _Found(NamedTuple):
    rows: list[Row]
    lines: int
    invalid: int
    other: int
    repeated: int
    unmodelled: tuple[str, ...]


def _lines(raw: bytes, source: str) -> list[_Line]:
    """The lines that are not blank, at least one."""
    try:
        text = (_unpacked(raw, source) if raw.startswith(b"\x1f\x8b") else raw).decode("utf-8")
    except (zlib.error, ValueError) as error:
        raise InputError(
            f"{source}: not a text, plain or compressed by gzip ({error}); must be a latency table"
        ) from None
    lines = [_Line(number, line.rstrip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{source}: is empty; must have a line for at least one layer")
    return lines


def _unpacked(raw: bytes, source: str) -> bytes:
    unpacking = zlib.decompressobj(wbits=31)
    content = unpacking.decompress(raw, _MOST_BYTES)
    if unpacking.unconsumed_tail:
        raise InputError(f"{source}: more than {_MOST_BYTES:,} bytes unpacked; must be a latency table")
    if not unpacking.eof:
        raise ValueError("it ends too early")
    return content


def _kind_of(line: _Line, source: str) -> str:
    if line.text.lstrip().startswith("{"):
        return "tinynas"
    if re.match(r"[A-Za-z0-9_]+-input:", line.text):
        return "once-for-all"
    raise _wrong(
        line, source, "must begin a table of TinyNAS, {type,...} milliseconds, or of Once-for-all, name-input:"
    )


def _wrong(line: _Line, source: str, sentence: str) -> InputError:
    text = line.text.strip()
    shown = text if text.isprintable() and len(text) <= 120 else repr(text[:120])
    return InputError(f"{source}: line {line.number}: {shown}: {sentence}")


def _milliseconds(text: str, line: _Line, source: str, *, invalid: bool = False) -> Decimal | None:
    """The time that is written; ``None`` for -1 where that is the mark of one that is ``invalid``."""
    try:
        time = Decimal(text)
    except decimal.InvalidOperation:
        time = Decimal("nan")
    if invalid and time.is_finite() and time == -1:
        return None
    if not (time.is_finite() and 0 <= time <= _LONGEST):
        mark = ", or -1 where there is no measurement" if invalid else ""
        raise _wrong(line, source, f"its time {text} must be a number of milliseconds from 0 to {_LONGEST:,}{mark}")
    return time


def _nanoseconds(milliseconds: Decimal) -> int:
    return math.ceil(milliseconds.scaleb(6, _EXACT))


def _tinynas(lines: list[_Line], source: str, batch: int, fused: bool) -> _Found:
    times: dict[tuple[Any, ...], int] = {}
    batches: set[int] = set()
    invalid = other = repeated = 0
    for line in lines:
        match = _CONVOLUTION.fullmatch(line.text.strip())
        if match is None:
            raise _wrong(
                line,
                source,
                "must be {type,batch,c_in,height,width,c_out,kernel,stride,fused} and milliseconds, its type Regular "
                "or Depthwise, its numbers integers of at least 1, fused 0 or 1",
            )
        name, *texts, time_text = match.groups()
        own, c_in, height, width, c_out, kernel, stride, summed = map(int, texts)
        time = _milliseconds(time_text, line, source, invalid=True)
        if time is None:
            invalid += 1
            continue
        batches |= {own} if summed <= fused else set()
        if own != batch or summed > fused:
            other += 1
            continue
        most = max(c_in, c_out, kernel, stride, height)
        if height != width or (name == "Depthwise" and c_in != c_out) or most > _LARGEST:
            raise _wrong(
                line, source, f"must be of square images and numbers up to {_LARGEST}, Depthwise of as many in as out"
            )
        kind = "depthwise" if name == "Depthwise" else "pointwise" if kernel == 1 else "dense"
        layer = kind + "+add" * summed, c_in, 0, c_out, kernel, stride, height
        repeated += layer in times
        times[layer] = _nanoseconds(time)
    if not times:
        measured = ", ".join(map(str, sorted(batches))) or "none"
        raise InputError(
            f"{source}: batch = {batch}: no line has a time; must be one of the batches measured: {measured}"
        )
    rows = [Row(*(*layer, time)) for layer, time in times.items()]
    return _Found(rows, len(lines), invalid, other, repeated, ("add", "head", "pool"))


def _once_for_all(lines: list[_Line], source: str) -> _Found:
    times: dict[tuple[Any, ...], int] = {}
    entries = other = repeated = 0
    for line, mean in _entries(lines, source):
        entries += 1
        layer = _named_layer(line, source)
        if layer is None:
            other += 1
            continue
        repeated += layer in times
        times[layer] = max(times.get(layer, 0), _nanoseconds(mean))
    if not times:
        raise InputError(f"{source}: holds no layer and no block that mad-ip has; at least one must be")
    return _Found([Row(*(*layer, time)) for layer, time in times.items()], entries, 0, other, repeated, ())


def _entries(lines: list[_Line], source: str) -> Iterator[tuple[_Line, Decimal]]:
    """The names of layers, and their mean times: each a line without indentation, with indented numbers below."""
    entry: _Line | None = None
    numbers: dict[str, Decimal | None] = {}
    for line in lines:
        key, colon, value = line.text.strip().partition(": ")
        if not line.text[0].isspace() and line.text.endswith(":"):
            if entry is not None:
                yield entry, _mean(entry, numbers, source)
            entry, numbers = _Line(line.number, line.text[:-1]), {}
        elif entry is None or not line.text[0].isspace() or not colon or key not in ("count", "mean", "std"):
            allowed = "must be the name of a layer and a colon, or below one its count, mean or std"
            raise _wrong(line, source, allowed)
        elif key in numbers:
            raise _wrong(line, source, f"{key} is given twice; must be given once")
        else:
            numbers[key] = _milliseconds(value.strip(), line, source) if key == "mean" else None
    if entry is not None:
        yield entry, _mean(entry, numbers, source)


def _mean(entry: _Line, numbers: dict[str, Decimal | None], source: str) -> Decimal:
    mean = numbers.get("mean")
    if mean is None:
        raise _wrong(entry, source, "has no mean; must have one, in milliseconds")
    return mean


def _named_layer(line: _Line, source: str) -> tuple[Any, ...] | None:
    """What a row says of a layer, but for its time; ``None`` of a block that mad-ip does not have.

    An activation, hard or not, does not count. Where ``expand`` is the channels before, nothing is expanded.
    """
    match = _LAYER.fullmatch(line.text) or _BLOCK.fullmatch(line.text)
    if match is None:
        raise _wrong(
            line, source, "must be one of Conv, Conv_1, Conv_2, AvgPool2D, Logits and expanded_conv, with its numbers"
        )
    name, *texts = match.groups()
    height, width, c_in, out_height, out_width, c_out, *more = (1 if text is None else int(text) for text in texts)
    stride = more[2] if more else -(-height // out_height)
    fits = height == width and out_height == out_width and max(height, c_in, c_out, *more) <= _LARGEST
    pooled = name == "AvgPool2D"
    if not fits or -(-height // stride) != out_height or (name in ("Conv_1", "Conv_2", "Logits") and stride != 1):
        raise _wrong(
            line, source, "its input and output must be square images that its stride leads from one to the other"
        )
    if (pooled and (out_height, c_in) != (1, c_out)) or (name == "Logits" and height != 1):
        raise _wrong(
            line, source, "must lead to one pixel with the channels before" if pooled else "must start at one pixel"
        )
    if not more:
        kind = {"Conv": "dense", "AvgPool2D": "pool", "Logits": "head"}.get(name, "pointwise")
        kernel = {"Conv": 3, "AvgPool2D": height}.get(name, 1)
        return kind, c_in, 0, c_out, kernel, stride, height
    mid, kernel, _, shortcut, squeezed = more
    if shortcut != (stride == 1 and c_in == c_out) or (squeezed and mid == c_in):
        return None
    kind = "separable" if mid == c_in else "inverted_se" if squeezed else "inverted"
    return kind, c_in, mid, c_out, kernel, stride, height
