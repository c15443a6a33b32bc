"""Where a design's memory goes on a device, and what MCUNet's runtime would need (docs/devices.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mad_ip.blocks import Layer
from mad_ip.cost import live
from mad_ip.design import Design
from mad_ip.device import Lookup
from mad_ip.spec import Budget

__all__ = ["Memory", "arena_memory", "memory_of", "tinyengine_memory"]

_TINYENGINE_STATIC = 2_500
"""Bytes that TinyEngine keeps besides its buffers: what published figures have in common above them."""


@dataclass(frozen=True)
class Memory:
    """The ``peak`` of live tensors in bytes, ``where`` it is, what a budget leaves; TinyEngine's figure, of images.

    ``arena`` is what TensorFlow Lite Micro keeps, where activations are fused. ``interpolated`` of ``timed`` layers
    have times that are not measured ones, where times come from a table.
    """

    peak: int
    where: str
    slack: int | None
    arena: int
    tinyengine: int | None
    interpolated: int | None = None
    timed: int | None = None

    def content(self) -> dict[str, Any]:
        """What there is, for JSON."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    def sentences(self) -> Iterator[str]:
        """One line each."""
        slack = ""
        if self.slack is not None:
            slack = f", {abs(self.slack):,} bytes {'below' if self.slack >= 0 else 'above'} the budget"
        yield f"peak of live activations: {self.peak:,} bytes at {self.where}{slack}"
        yield f"TensorFlow Lite Micro's arena, with ReLU or ReLU6: {self.arena:,} bytes"
        if self.tinyengine is not None:
            yield f"TinyEngine with its buffers: {self.tinyengine:,} bytes ({self.tinyengine / 1024:,.1f} KiB)"
        if self.timed is not None:
            yield f"{self.interpolated} of {self.timed} layers have interpolated times, the others measured ones"


def memory_of(design: Design, budget: Budget | None = None) -> Memory:
    """The memory of a design for a device; raise :class:`ValueError` for one without."""
    device = design.device
    if device is None:
        raise ValueError("the design is for no device")
    peak, where = 0, ""
    for name, layers in _parts(design):
        for operation, numbers in live(layers, device.memory):
            if numbers * device.activation_bytes > peak:
                peak, where = int(numbers * device.activation_bytes), f"{name}, {operation}"
    limit = None if budget is None else budget.activation
    interpolated = timed = None
    if isinstance(device.latency, Lookup) and device.latency.interpolate:
        operations = [operation for operation in design.operations() if device.latency.times(operation)]
        timed, interpolated = len(operations), sum(map(device.latency.interpolated, operations))
    return Memory(
        peak,
        where,
        None if limit is None else int(limit) - peak,
        arena_memory(design) * device.activation_bytes,
        None if design.frames is not None else tinyengine_memory(design),
        interpolated,
        timed,
    )


def arena_memory(design: Design) -> int:
    """Numbers that TensorFlow Lite Micro keeps at its worst, of activations that are part of the operator before.

    As ``plain``, with all that inverted blocks keep: the shortcut's source during the last convolution, three tensors
    during a sum, and the gate that a squeeze-excite multiplies with.
    """
    most = 0
    for _, layers in _parts(design):
        most = max([most, *(int(numbers) for _, numbers in live(layers, "plain"))])
        main = [layer for layer in layers if layer.role == "main"]
        if not any(layer.depthwise for layer in main):
            continue
        inside, after = _values(main[-1], main[-1].in_size), main[-1].positions * main[-1].out_channels
        same = main[0].in_channels == main[-1].out_channels and all(x.stride == x.time.stride == 1 for x in main)
        kept = after * same
        gate = main[-1].in_channels if any(layer.role == "squeeze" for layer in layers) else 0
        most = max(most, inside + after + kept, 3 * kept, (kept + 2 * inside + gate) * (gate > 0))
    return most


def tinyengine_memory(design: Design) -> int:
    """Bytes of 8-bit activations and buffers that MCUNet's runtime allocates, by its published memory schedule.

    One buffer for inputs and outputs, in which depthwise convolutions work in place by two channels, one for the source
    of a shortcut, one for columns of inputs and one for kernels in 16 bits, each as large as its largest use.
    """
    tensors = sources = columns = kernels = 0
    for _, layers in _parts(design):
        path = [layer for layer in layers if layer.role in ("stem", "main", "tail", "head")]
        body = [layer for layer in path if layer.role == "main"]
        if body:
            start, end = _values(body[0], body[0].in_size), body[-1].out_size ** 2 * body[-1].out_channels
            shortcut = [layer for layer in layers if layer.role == "shortcut"]
            identity = body[0].in_channels == body[-1].out_channels and all(layer.stride == 1 for layer in body)
            if identity or shortcut:
                sources = max(sources, start)
                tensors = max(tensors, 2 * end)
        for layer in path:
            before, after = _values(layer, layer.in_size), layer.out_size**2 * layer.out_channels
            if layer.depthwise:
                tensors = max(tensors, before + 2 * layer.in_size**2)
                columns = max(columns, 2 * (layer.in_size + 2 * (layer.kernel // 2)) ** 2)
                continue
            tensors = max(tensors, before + after)
            columns = max(columns, 4 * layer.kernel**2 * layer.in_channels)
            if layer.kernel > 1:
                kernels = max(kernels, 2 * layer.kernel**2 * layer.in_channels * layer.out_channels)
    return tensors + sources + columns + kernels + _TINYENGINE_STATIC


def _values(layer: Layer, size: int) -> int:
    """Numbers that enter a layer."""
    return int((layer.time.frames or 1) * size**2 * layer.in_channels)


def _parts(design: Design) -> Iterator[tuple[str, tuple[Layer, ...]]]:
    """The stem, every block, the tail and the head, with their names."""
    for segment, blocks in zip(design.segments, design.blocks(), strict=True):
        for number, layers in enumerate(blocks, start=1):
            yield segment.name + (f" block {number}" if segment.kind == "stage" else ""), layers
    yield "head", design.head_layers()
