"""Memory and time of an architecture on a device, in plain Python, written from docs/devices.md alone.

It reads the fields of a spec, its device and the oracle's structure, and shares no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from mad_ip.spec import Spec

FEMTO = 10**6


class Step(NamedTuple):
    """One operation: its kind, channels, kernel, stride and input size; MACs, numbers read and written, weights."""

    kind: str
    c_in: int
    c_out: int
    kernel: int
    stride: int
    size: int
    macs: int
    moved: int
    weights: int
    channels: int


class Block(NamedTuple):
    """What is kept at its worst, in numbers, and its steps."""

    live: int
    steps: list[Step]


def conv(c_in: int, c_out: int, k: int, stride: int, size: int, *, kind: str = "", silu: bool = False) -> Step:
    out = -(-size // stride)
    per = k * k if kind == "depthwise" else k * k * c_in
    name = (kind or ("pointwise" if k == 1 else "dense")) + ("+silu" if silu else "")
    moved = size * size * c_in + out * out * c_out
    return Step(name, c_in, c_out, k, stride, size, out * out * c_out * per, moved, c_out * per, c_out)


def pool(c: int, stride: int, size: int, out: int) -> Step:
    return Step("pool", c, c, stride, stride, size, 0, c * (size * size + out * out), 0, 0)


def add(c: int, size: int) -> Step:
    return Step("add", c, c, 1, 1, size, 0, 3 * c * size * size, 0, 0)


def residual(family: str, c_in: int, c: int, m: int, k: int, stride: int, size: int, in_place: bool) -> Block:
    out = size // stride
    source, target = c_in * size * size, c * out * out
    steps = [conv(c_in, m, k, stride, size), conv(m, c, k, 1, out)]
    live = [source + m * out * out, m * out * out + target + source]
    if family == "bottleneck":
        steps = [conv(c_in, m, 1, 1, size), conv(m, m, k, stride, size), conv(m, c, 1, 1, out)]
        wide, inner = m * size * size, m * out * out
        live = [source + wide, wide + inner + source, inner + target + source]
    if c_in != c or stride != 1:
        shrunk = c_in * out * out
        if stride == 2:
            steps.append(pool(c_in, 2, size, out))
            live.append(source + shrunk + target)
        steps.append(conv(c_in, c, 1, 1, out))
        live.append(shrunk + 2 * target)
    live.append((2 if in_place else 3) * target)
    return Block(max(live), [*steps, add(c, out)])


def inverted(family: str, c_in: int, c: int, m: int, k: int, stride: int, size: int, in_place: bool) -> Block:
    out = size // stride
    I, E, D, O = c_in * size * size, m * size * size, m * out * out, c * out * out  # noqa: E741
    res = I if c_in == c and stride == 1 else 0
    live = max(I + E, E + res, D + O + res) if in_place else max(I + E, E + D + res, D + O)
    steps = [conv(c_in, m, 1, 1, size, silu=True), conv(m, m, k, stride, size, kind="depthwise", silu=True)]
    if family == "inverted_se":
        hidden = max(8, 8 * math.floor(m / 32 + 1 / 2))
        steps.append(Step("squeeze-excite", m, m, 1, 1, out, 2 * m * hidden, 3 * D, 2 * m * hidden, m + hidden))
    steps.append(conv(m, c, 1, 1, out))
    return Block(live, [*steps, *([add(c, out)] if res else [])])


def blocks(spec: Spec, structure: Any, in_place: bool) -> Iterator[Block]:
    stem, stages, tail = structure
    size = spec.input.resolution
    silu = spec.stages[0].block.startswith("inverted")
    first = conv(spec.input.channels, stem, spec.stem.kernel, spec.stem.stride, size, silu=silu)
    yield Block(first.moved, [first])
    c, size = stem, size // spec.stem.stride
    for stage, (width, m, k, depth) in zip(spec.stages, stages, strict=True):
        make = inverted if stage.block.startswith("inverted") else residual
        for number in range(depth):
            stride = stage.stride if number == 0 else 1
            yield make(stage.block, c, width, m, k, stride, size, in_place)
            c, size = width, size // stride
    if tail is not None:
        last = conv(c, tail, 1, 1, size, silu=spec.stages[-1].block.startswith("inverted"))
        yield Block(last.moved, [last])
        c = tail
    if spec.input.classes:
        n = spec.input.classes
        head = Step("head", c, n, 1, 1, 1, c * n, c + n, c * n, n)
        yield Block(max(c * size * size + c, c + n), [pool(c, size, size, 1), head])


def activation(spec: Spec, structure: Any) -> int:
    device = spec.device
    in_place = device.memory == "in-place"
    return device.activation_bytes * max(block.live for block in blocks(spec, structure, in_place))


def flash(spec: Spec, structure: Any) -> int:
    device = spec.device
    steps = [step for block in blocks(spec, structure, False) for step in block.steps]
    return sum(step.weights * device.weight_bytes + step.channels * device.channel_bytes for step in steps)


def latency(spec: Spec, structure: Any, times: dict[Any, Any], overhead: float = 0.0) -> int:
    """Femtoseconds; ``times`` holds a rate for every kind, or nanoseconds for every layer."""
    device = spec.device
    total = math.ceil(Fraction(str(overhead)) * FEMTO)
    for block in blocks(spec, structure, False):
        for step in block.steps:
            base = step.kind.partition("+")[0]
            if base in times:
                rate = times[step.kind] if step.kind in times else times[base]
                stored = step.weights * device.weight_bytes + step.channels * device.channel_bytes
                amounts = (1, step.macs, step.moved * device.activation_bytes, stored)
                # In decimals, as they are written.
                whole = [math.ceil(Fraction(str(x)) * FEMTO) for x in rate]
                total += sum(x * amount for x, amount in zip(whole, amounts, strict=True))
            elif base in ("pointwise", "dense", "depthwise"):
                total += times[base, step.c_in, step.c_out, step.kernel, step.stride, step.size] * FEMTO
    return total
