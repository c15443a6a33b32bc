"""What layers cost: the registry of budgets, for single integers and arrays alike (docs/formulation.md section 1).

A budget of the key ``macs`` limits what :data:`COSTS` says of ``macs``. Whatever lists, prices, searches, enumerates or
checks designs loops over this registry: a new budget is one entry here. Some depend on a device (docs/devices.md).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mad_ip.device import FEMTOSECONDS, Device, Lookup, Operation

if TYPE_CHECKING:
    from mad_ip.blocks import Amount, Layer

__all__ = ["COSTS", "LARGEST", "Cost", "costs", "identity", "live", "macs", "operations", "params"]

LARGEST = 1 << 62
"""No network of a spec may cost as much, in any cost's own unit, so that sums stay exact in 64 bits."""

Terms: TypeAlias = "Callable[[Sequence[Layer], bool], Iterable[Amount]]"


@dataclass(frozen=True)
class Cost:
    """A quantity that a budget limits, an exact integer.

    ``terms`` gives what a block's layers cost, of which the stem, the tail and the head are one each: amounts that
    ``combine`` to the block's own, as the blocks' do to the network's. Each is that of one layer or of two neighbours,
    so that it depends on at most two of the block's three widths. ``terms`` is also told whether the block opens its
    segment. No amount is negative. ``most`` gives amounts that those of ``terms`` do not pass, of Python integers.

    A cost with ``of_device`` has terms once it is :func:`bound <costs>`. ``units`` are those in which a text may give a
    limit, and how many of the cost's own are one of each; ``step`` of those are one of the unit that is reported.
    ``meaning`` is what a budget of the key limits, in a few words.
    """

    key: str
    unit: str
    terms: Terms
    combine: Literal["sum", "max"] = "sum"
    of_device: Callable[[Device], tuple[Terms, Terms]] | None = None
    most: Terms | None = None
    units: Mapping[str, int] = dataclasses.field(default_factory=dict)
    step: int = 1
    meaning: str = ""

    def of_segment(
        self, before: Amount, first: Sequence[Layer], rest: Sequence[Layer], head: Sequence[Layer], depth: Amount
    ) -> Amount:
        """What a network costs up to the end of a segment: ``before`` it, its first block, ``depth - 1`` further ones
        of the layers ``rest``, and the head where it follows.
        """
        parts = [*self.terms(first, True), *self.terms(head, True)]
        more = depth - 1
        # A device may have no time for blocks that no network has.
        again = self.terms(rest, False) if np.max(depth, initial=1) > 1 else ()
        if self.combine == "sum":
            return before + sum(parts) + more * sum(again)
        for amount in (*parts, *((more > 0) * amount for amount in again)):
            before = before + (amount - before) * (amount > before)
        return before

    def largest(self, layers: Sequence[Layer], opens: bool) -> list[int]:
        """Amounts that the terms do not pass, of Python integers."""
        return list((self.most or self.terms)(layers, opens))

    def limit(self, value: object) -> float | None:
        """A limit in the cost's own unit, of a number of reported units or a text with one; ``None`` where it is none.

        A time needs a text: of a bare number nobody knows the unit.
        """
        if isinstance(value, str):
            written = re.fullmatch(self.pattern, value)
            if written is None or written[2] not in self.units:
                return None
            amount = float(Decimal(written[1]) * self.units[written[2]])
            return amount if 0 < amount < math.inf else None
        number_given = isinstance(value, int | float) and not isinstance(value, bool)
        if not number_given or self.step > 1 or not 0 < value <= 1e300:  # type: ignore[operator]
            return None
        return value  # type: ignore[return-value]

    @property
    def pattern(self) -> str:
        """The regular expression of a text that gives a limit, its number and its unit."""
        units = "|".join(map(re.escape, self.units))
        return rf"^\s*([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]{{1,2}})?)\s*({units})\s*$"

    @property
    def allowed(self) -> str:
        """What :meth:`limit` takes, for messages."""
        if not self.units:
            return "a finite number greater than 0"
        texts = f"a text with a number greater than 0 and one of {', '.join(self.units)}"
        return texts if self.step > 1 else f"a number of {self.unit} greater than 0, or {texts}"

    def reported(self, amount: float) -> int | float:
        """An amount in the unit that is reported; whole amounts are rounded up."""
        if self.step == 1:
            return amount
        return -(-amount // self.step) if isinstance(amount, int) else amount / self.step

    def text(self, amount: float) -> str:
        """A limit as it is written into a spec.toml, which :meth:`limit` reads back."""
        if self.step == 1:
            return repr(amount)
        own = next(unit for unit, size in self.units.items() if size == 1)
        return f'"{int(amount) if float(amount).is_integer() else amount!r} {own}"'


def _macs(layer: Layer) -> Amount:
    return layer.positions * layer.out_channels * layer.width * layer.present


def _params(layer: Layer) -> Amount:
    return layer.out_channels * (layer.width + layer.bias + 2 * layer.norm) * layer.present


def _unbound(layers: Sequence[Layer], opens: bool) -> Iterable[Amount]:
    raise TypeError("the cost depends on a device: mad_ip.cost.costs binds it to one")


def identity(layers: Iterable[Layer]) -> Amount:
    """Whether a block puts out the shape that it takes, so that identity can be its shortcut: 0 or 1."""
    main = [layer for layer in layers if layer.role == "main"]
    same = all(layer.stride == 1 and layer.time.stride == 1 for layer in main)
    return (main[0].in_channels == main[-1].out_channels) * (1 if same else 0)


def live(layers: Sequence[Layer], memory: str) -> Iterator[tuple[str, Amount]]:
    """Numbers that are kept while each operation of a block runs, or of the stem, the tail, the head, with its name.

    Inputs, outputs, and what is needed later. ``memory`` is one of :data:`mad_ip.device.MEMORIES`, or ``arena``: plain
    with all that TensorFlow Lite Micro keeps of inverted blocks (docs/devices.md).
    """
    if not layers:
        return
    first = layers[0]
    if first.role in ("stem", "tail"):
        yield "convolution", first.inputs + first.outputs
    elif first.role == "head":
        yield "pooling", first.averaged + first.inputs
        yield "classifier", first.inputs + first.outputs
    elif any(layer.depthwise for layer in layers):
        yield from _inverted_live(layers, memory)
    else:
        yield from _residual_live(layers, memory)


def _inverted_live(layers: Sequence[Layer], memory: str) -> Iterator[tuple[str, Amount]]:
    main = [layer for layer in layers if layer.role == "main"]
    *expansion, depthwise, project = main
    before, inside, after = main[0].inputs, depthwise.outputs, project.outputs
    kept = before * identity(main)
    for layer in expansion:
        yield "1x1 convolution", before + layer.outputs
    if not expansion:
        # Its input is the block's, which a depthwise convolution may not overwrite where it is needed later.
        yield "depthwise convolution", before + inside * ((memory != "in-place") | (kept > 0))
        yield "last 1x1 convolution", inside + after + kept
    else:
        yield "depthwise convolution", depthwise.inputs + kept + (0 if memory == "in-place" else inside)
        yield "last 1x1 convolution", inside + after + (0 if memory == "plain" else kept)
    if memory == "arena":
        yield "sum", 3 * kept
        if any(layer.role == "squeeze" for layer in layers):
            yield "product with the gate", kept + 2 * inside + depthwise.out_channels


def _residual_live(layers: Sequence[Layer], memory: str) -> Iterator[tuple[str, Amount]]:
    main = [layer for layer in layers if layer.role == "main"]
    before, after = main[0].inputs, main[-1].outputs
    for number, layer in enumerate(main):
        yield f"convolution {number + 1}", layer.inputs + layer.outputs + (before if number else 0)
    for layer in layers:
        if layer.role != "shortcut":
            continue
        if layer.pooled:
            yield "pooling of the shortcut", before + layer.inputs + after
        source = layer.inputs if layer.pooled else before
        yield "convolution of the shortcut", layer.present * (source + layer.outputs + after)
    yield "sum", after * (2 if memory == "in-place" else 3)


def operations(layers: Sequence[Layer], device: Device) -> Iterator[Operation]:
    """What a runtime does for a block, or for the stem, the tail, the head: what a device's latency is made of.

    Batch normalisations are part of convolutions, ReLU too. A family that the device's table holds whole is one.
    """
    if not layers:
        return
    main = [layer for layer in layers if layer.role == "main"]
    squeezed = any(layer.role == "squeeze" for layer in layers)
    families = device.latency.families if isinstance(device.latency, Lookup) else frozenset()
    if main and families:
        family = ("inverted" if len(main) == 3 else "separable") + ("_se" if squeezed else "")
        if any(layer.depthwise for layer in main) and family in families:
            depthwise = main[-2]
            stride, kernel = depthwise.stride, depthwise.kernel
            ends = main[0].in_channels, depthwise.in_channels, main[-1].out_channels
            yield Operation(family, *ends, kernel, stride, main[0].in_size)
            return
    for number, layer in enumerate(layers):
        if layer.role == "excite":
            continue
        if layer.role == "squeeze":
            yield _squeeze_excite(layer, layers[number + 1], device)
            continue
        if layer.pooled:
            yield _pool(layer, device)
        yield from _convolution(layer, device)
    if main:
        yield _sum(layers, main, device)


def _convolution(layer: Layer, device: Device) -> Iterator[Operation]:
    active = "" if layer.activation in ("", "ReLU") else f"+{layer.activation.lower()}"
    weights = layer.out_channels * (layer.width * device.weight_bytes + device.channel_bytes)
    moved = device.activation_bytes * (layer.inputs + layer.outputs)
    # A kernel may be one of many, of which 1 is another kind.
    small = layer.kernel == 1
    kinds: list[tuple[str, Any]] = [("pointwise", small * 1), ("dense", (1 - small * 1))]
    if layer.role == "head" or layer.depthwise:
        kinds = [("head" if layer.role == "head" else "depthwise", 1)]
    for kind, chosen in kinds:
        if isinstance(chosen, int) and not chosen:
            continue
        yield Operation(
            kind + active,
            layer.in_channels,
            0,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            layer.in_size,
            _macs(dataclasses.replace(layer, present=1)),
            moved,
            weights,
            layer.present * chosen,
        )


def _pool(layer: Layer, device: Device) -> Operation:
    stride = layer.pool_stride
    moved = device.activation_bytes * (layer.averaged + layer.inputs)
    c = layer.in_channels
    return Operation("pool", c, 0, c, stride, stride, layer.pooled, moved=moved, present=layer.present)


def _squeeze_excite(squeeze: Layer, excite: Layer, device: Device) -> Operation:
    """Reads its input twice and writes it once."""
    moved = 3 * device.activation_bytes * squeeze.averaged
    kept = [
        layer.out_channels * (layer.width * device.weight_bytes + device.channel_bytes) for layer in (squeeze, excite)
    ]
    c, macs = squeeze.in_channels, _macs(squeeze) + _macs(excite)
    return Operation("squeeze-excite", c, 0, c, 1, 1, squeeze.pooled, macs, moved, sum(kept))


def _sum(layers: Sequence[Layer], main: Sequence[Layer], device: Device) -> Operation:
    """Of the main path and the shortcut, where there is one."""
    last = main[-1]
    always = any(layer.role == "shortcut" for layer in layers)
    present = 1 if always else identity(main)
    moved = 3 * device.activation_bytes * last.outputs
    return Operation("add", last.out_channels, 0, last.out_channels, 1, 1, last.out_size, moved=moved, present=present)


def _activation(device: Device) -> tuple[Terms, Terms]:
    def terms(layers: Sequence[Layer], opens: bool) -> Iterable[Amount]:
        return (device.activation_bytes * amount for _, amount in live(layers, device.memory))

    return terms, terms


def _flash(device: Device) -> tuple[Terms, Terms]:
    def terms(layers: Sequence[Layer], opens: bool) -> Iterable[Amount]:
        kept = device.weight_bytes, device.channel_bytes
        return (x.out_channels * (x.width * kept[0] + kept[1]) * x.present for x in layers)

    return terms, terms


def _latency(device: Device) -> tuple[Terms, Terms]:
    model = device.latency
    assert model is not None

    def terms(layers: Sequence[Layer], opens: bool) -> Iterable[Amount]:
        if opens and any(layer.role == "stem" for layer in layers):
            yield model.start
        yield from map(model.of, operations(layers, device))

    def most(layers: Sequence[Layer], opens: bool) -> Iterable[Amount]:
        yield model.start * opens
        yield from map(model.ceiling, operations(layers, device))

    return terms, most


_BYTES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}

_TIMES = {
    unit: size * FEMTOSECONDS for unit, size in {"ns": 1, "us": 1000, "µs": 1000, "ms": 10**6, "s": 10**9}.items()
} | {"ps": FEMTOSECONDS // 1000, "fs": 1}

COSTS: dict[str, Cost] = {
    "macs": Cost("macs", "MACs", lambda layers, opens: map(_macs, layers), meaning="limit on multiply-accumulates"),
    "params": Cost(
        "params", "parameters", lambda layers, opens: map(_params, layers), meaning="limit on learnable numbers"
    ),
    "layers": Cost(
        "layers",
        "counted layers",
        lambda layers, opens: (layer.counted * 1 for layer in layers),
        meaning="limit on depth",
    ),
    "activation": Cost(
        "activation",
        "bytes",
        _unbound,
        "max",
        _activation,
        units=_BYTES,
        meaning="limit on the peak of live activations",
    ),
    "flash": Cost(
        "flash",
        "bytes",
        _unbound,
        of_device=_flash,
        units=_BYTES,
        meaning="limit on weights and what is stored beside them",
    ),
    "latency": Cost(
        "latency",
        "ns",
        _unbound,
        of_device=_latency,
        units=_TIMES,
        step=FEMTOSECONDS,
        meaning="limit on the time of an image",
    ),
}
"""Multiply-accumulates at batch 1, what ``torch.utils.flop_counter`` reports divided by 2; learnable numbers: kernels,
biases, and the scale and shift of every batch normalisation; counted layers; of a device, bytes of activations that
are kept at the same time, bytes of weights with what is stored beside them, and time, in femtoseconds.
"""


def costs(device: Device | None) -> dict[str, Cost]:
    """The costs of :data:`COSTS` bound to a device; without one, or without its latency, those that need none."""
    found: dict[str, Cost] = {}
    for key, cost in COSTS.items():
        if cost.of_device is None:
            found[key] = cost
        elif device is not None and (key != "latency" or device.latency is not None):
            terms, most = cost.of_device(device)
            found[key] = dataclasses.replace(cost, terms=terms, most=most)
    return found


def macs(layers: Iterable[Layer]) -> Any:
    """Multiply-accumulates of a list of layers."""
    return sum(map(_macs, layers))


def params(layers: Iterable[Layer]) -> Any:
    """Learnable numbers of a list of layers."""
    return sum(map(_params, layers))
