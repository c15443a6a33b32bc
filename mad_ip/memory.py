"""Where a design's memory goes on a device, and what MCUNet's runtime would need (docs/devices.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mad_ip.blocks import Layer
from mad_ip.cost import identity, live
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
    """Numbers that TensorFlow Lite Micro keeps at its worst, of activations that are part of the operator before."""
    return max(int(numbers) for _, layers in _parts(design) for _, numbers in live(layers, "arena"))


def tinyengine_memory(design: Design) -> int:
    """Bytes of 8-bit activations and buffers that MCUNet's runtime allocates, by its published memory schedule.

    One buffer for inputs and outputs, in which depthwise convolutions work in place by two channels, one for the source
    of a shortcut, one for columns of inputs and one for kernels in 16 bits, each as large as its largest use.
    """
    tensors = sources = columns = kernels = 0
    for _, layers in _parts(design):
        path = [layer for layer in layers if layer.role in ("stem", "main", "tail", "head")]
        main = [layer for layer in path if layer.role == "main"]
        if main and (identity(main) or any(layer.role == "shortcut" for layer in layers)):
            sources = max(sources, main[0].inputs)
            tensors = max(tensors, 2 * main[-1].outputs)
        for layer in path:
            if layer.depthwise:
                tensors = max(tensors, layer.inputs + 2 * layer.in_size**2)
                columns = max(columns, 2 * (layer.in_size + 2 * (layer.kernel // 2)) ** 2)
                continue
            tensors = max(tensors, layer.inputs + layer.outputs)
            columns = max(columns, 4 * layer.kernel**2 * layer.in_channels)
            if layer.kernel > 1:
                kernels = max(kernels, 2 * layer.kernel**2 * layer.in_channels * layer.out_channels)
    return int(tensors + sources + columns + kernels) + _TINYENGINE_STATIC


def _parts(design: Design) -> Iterator[tuple[str, tuple[Layer, ...]]]:
    """The stem, every block, the tail and the head, with their names."""
    for segment, blocks in zip(design.segments, design.blocks(), strict=True):
        for number, layers in enumerate(blocks, start=1):
            yield segment.name + (f" block {number}" if segment.kind == "stage" else ""), layers
    yield "head", design.head_layers()
