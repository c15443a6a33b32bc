"""What a runtime does for any convolutional module, and the activations that it keeps: what devices ask of networks.

The module is traced once on meta tensors, batch 1, as for its score. Batch normalisations are part of the convolutions
before them and activations work in place, as in :mod:`mad_ip.cost` (docs/devices.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from mad_ip.device import FEMTOSECONDS, Device, Operation
from mad_ip.errors import InputError
from mad_ip.networks.measure import evaluating
from mad_ip.networks.score import POOLINGS, PRODUCTS, SUMS
from mad_ip.scoring import Score

__all__ = ["live_numbers", "on_device", "operations_of"]

_NORMS = ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")

_LINEAR = ("addmm", "mm", "linear")

_VIEWS = (
    "_unsafe_view",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "expand",
    "flatten",
    "permute",
    "reshape",
    "squeeze",
    "squeeze_",
    "t",
    "transpose",
    "unsqueeze",
    "view",
)

_FUSED = ("relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_")
"""Activations that runtimes compute with the convolution before them."""

_ACTIVATIONS = {
    "silu": "silu",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "sigmoid": "sigmoid",
    "gelu": "gelu",
    "leaky_relu": "leaky_relu",
    "elu": "elu",
    "mish": "mish",
    "tanh": "tanh",
}
"""Suffixes of kinds, by the names in aten."""


def operations_of(module: nn.Module, resolution: int, device: Device, image_channels: int = 3) -> list[Operation]:
    """The operations of ``module`` on an image of ``resolution`` pixels, in the order in which they run.

    Raises :class:`InputError` when it cannot be traced or does what no device has times of.
    """
    return list(_Operations(_trace(module, resolution, image_channels), device))


def on_device(score: Score, module: nn.Module, device: Device) -> Score:
    """The score with what the module takes on a device: memory by its layout, flash, latency where times are known.

    Raises :class:`InputError` for an operation of which there is no time.
    """
    traced = _trace(module, score.resolution, score.image_channels)
    operations = list(_Operations(traced, device))
    numbers, _ = _live(traced, device.memory)
    taken = {
        "activation": numbers * device.activation_bytes,
        "flash": sum(int(operation.weights) for operation in operations),
    }
    if device.latency is not None:
        total = device.latency.start + sum(map(device.latency.of, operations))
        taken["latency"] = -(-total // FEMTOSECONDS)
    return dataclasses.replace(score, device=taken)


def live_numbers(module: nn.Module, resolution: int, image_channels: int = 3, memory: str = "plain") -> tuple[int, str]:
    """The most numbers that are kept at a time, and the operation during which: inputs, outputs, and what is needed
    later, of operations one after another; raise :class:`InputError` when the module cannot be traced.

    ``memory`` is one of :data:`mad_ip.device.MEMORIES`: in place, depthwise convolutions and sums overwrite an input
    that nothing needs later.
    """
    return _live(_trace(module, resolution, image_channels), memory)


def _live(traced: _Traced, memory: str) -> tuple[int, str]:
    owner: dict[fx.Node, fx.Node] = {traced.image: traced.image}
    last: dict[fx.Node, int] = {}
    nodes = list(traced.graph.nodes)
    places = {node: place for place, node in enumerate(nodes)}
    used: dict[fx.Node, int] = {}
    for place, node in enumerate(nodes):
        sources = [source for source in node.all_input_nodes if source in owner]
        if not sources:
            continue
        for source in sources:
            last[owner[source]] = place
        if node.op == "call_function":
            owned = [owner[source] for source in sources]
            same = _in_place(node, owned)
            if same is None and memory == "in-place" and _may_overwrite(node):
                same = next((item for item in owned if used[item] <= place and item is not traced.image), None)
            owner[node] = node if same is None else same
            last[owner[node]] = place
        if node in owner:
            # The last use of all that lies in the same memory.
            here = max((places[user] for user in node.users), default=place)
            used[owner[node]] = max(used.get(owner[node], 0), here)
    peak, where = 0, ""
    live: set[fx.Node] = {traced.image}
    for place, node in enumerate(nodes):
        if node in owner:
            live.add(owner[node])
        if node.op == "call_function" and node in owner:
            numbers = sum(math.prod(_value(item).shape) for item in live)
            if numbers > peak:
                peak, where = numbers, traced.where(node)
        live = {item for item in live if last.get(item, -1) > place}
    return peak, where


class _Traced:
    """A module's graph; ``names`` are those of the weights among its inputs."""

    def __init__(self, graph: fx.Graph, names: list[str]) -> None:
        self.graph = graph
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self.names = dict(zip(inputs, names, strict=False))
        self.image = inputs[-1]
        self.features = {self.image}
        for node in graph.nodes:
            if node.op == "call_function" and any(source in self.features for source in node.all_input_nodes):
                self.features.add(node)

    def where(self, node: fx.Node) -> str:
        """The module whose weight it takes, else what it does after which."""
        for source in node.all_input_nodes:
            if source in self.names:
                return self.names[source].rpartition(".")[0] or _operation(node)
        before = [source for source in node.all_input_nodes if source in self.features and source is not self.image]
        while before and not any(source in self.names for source in before[-1].all_input_nodes):
            before = [source for source in before[-1].all_input_nodes if source in self.features]
        return f"{_operation(node)} after {self.where(before[-1])}" if before else _operation(node)


def _trace(module: nn.Module, resolution: int, image_channels: int) -> _Traced:
    weights = {
        name: tensor.detach().to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    dtype = next((parameter.dtype for parameter in module.parameters()), None)
    image = torch.empty(1, image_channels, resolution, resolution, device="meta", dtype=dtype)
    try:
        with evaluating(module), torch.no_grad():
            graph = make_fx(lambda weights, image: functional_call(module, weights, (image,)))(weights, image).graph
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{type(module).__name__}: cannot be traced at {resolution} pixels ({type(error).__name__}: {reason})"
        ) from error
    return _Traced(graph, list(weights))


def _operation(node: fx.Node) -> str:
    """The name in aten, without its overload."""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _value(node: fx.Node) -> Tensor:
    value: Any = node.meta.get("val")
    first: Tensor = value[0] if isinstance(value, tuple | list) else value
    return first


def _changes_nothing(node: fx.Node) -> bool:
    """Whether a node is a view of its input, or part of the layer before it."""
    name = _operation(node)
    return (
        name in (*_VIEWS, *_NORMS, *_FUSED, "dropout")
        or name.removesuffix("_") in _ACTIVATIONS
        or "getitem" in str(node.target)
    )


def _in_place(node: fx.Node, sources: list[fx.Node]) -> fx.Node | None:
    """The tensor that a node overwrites or looks at, ``None`` where it needs one of its own."""
    if _changes_nothing(node):
        return sources[0]
    if str(node.target) in PRODUCTS:
        numbers = math.prod(_value(node).shape)
        return next((source for source in sources if math.prod(_value(source).shape) == numbers), None)
    return None


def _may_overwrite(node: fx.Node) -> bool:
    """Whether a runtime that works in place puts the output over an input: depthwise convolutions, and sums."""
    if _operation(node) == "convolution":
        image, weight = (_value(item).shape for item in node.all_input_nodes[:2])
        return int(weight[1]) == 1 and int(weight[0]) == int(image[1]) > 1
    return str(node.target) in SUMS


def _normalised(node: fx.Node) -> bool:
    """Whether it is a batch normalisation, or the first of its results."""
    return _operation(node) in _NORMS or ("getitem" in str(node.target) and bool(node.args[1] == 0))


class _Operations:
    """Follows a graph and says what each of its nodes is."""

    def __init__(self, traced: _Traced, device: Device) -> None:
        self.traced = traced
        self.device = device
        self.gates: set[fx.Node] = set()
        for node in traced.graph.nodes:
            if node in traced.features and str(node.target) in PRODUCTS:
                self.gates |= set(self._gate(node))

    def __iter__(self) -> Iterator[Operation]:
        for node in self.traced.graph.nodes:
            if node.op == "call_function" and node in self.traced.features and node not in self.gates:
                yield from self._of(node)

    def _of(self, node: fx.Node) -> Iterator[Operation]:
        name = _operation(node)
        plain = name.removesuffix("_")
        if name == "convolution":
            yield self._convolution(node)
        elif name in _LINEAR:
            yield self._linear(node)
        elif str(node.target) in PRODUCTS:
            if gate := self._gate(node):
                yield self._squeeze_excite(node, gate)
            elif not self._activates(node):
                raise self._unknown(node)
        elif str(node.target) in SUMS:
            if len([source for source in node.all_input_nodes if source in self.traced.features]) > 1:
                yield self._sum(node)
        elif str(node.target) in POOLINGS or plain in ("avg_pool2d", "max_pool2d", "max_pool2d_with_indices"):
            yield self._pool(node)
        elif not _changes_nothing(node):
            raise self._unknown(node)

    def _unknown(self, node: fx.Node) -> InputError:
        return InputError(
            f"{self.traced.where(node)}: {node.target} is no operation that devices have times of; must be made of "
            f"convolutions, linear layers, sums, poolings and squeeze-excite"
        )

    def _convolution(self, node: fx.Node) -> Operation:
        image, weight = node.args[0], node.args[1]
        assert isinstance(image, fx.Node)
        assert isinstance(weight, fx.Node)
        before, after, shape = _value(image).shape, _value(node).shape, _value(weight).shape
        if len(shape) != 4 or shape[2] != shape[3] or before[2] != before[3]:
            raise self._unknown(node)
        c_in, c_out, k = int(before[1]), int(after[1]), int(shape[2])
        groups = c_in // int(shape[1])
        strides: Any = node.args[3]
        stride = int(strides[0])
        if k == 1 and groups == 1 and self._follows_pooling(image):
            kind = "head"
        elif groups > 1:
            kind = "depthwise" if groups == c_in else "grouped"
        else:
            kind = "pointwise" if k == 1 else "dense"
        width = int(math.prod(shape[1:]))
        macs = c_out * width * int(after[2]) ** 2
        return Operation(
            kind + self._suffix(node),
            c_in,
            0,
            c_out,
            k,
            stride,
            int(before[2]),
            macs,
            self._moved(image, node),
            c_out * (width * self.device.weight_bytes + self.device.channel_bytes),
        )

    def _follows_pooling(self, node: fx.Node) -> bool:
        """Whether features are those of a pooling to one pixel."""
        while node in self.traced.features and _changes_nothing(node):
            node = next(source for source in node.all_input_nodes if source in self.traced.features)
        return str(node.target) in POOLINGS

    def _linear(self, node: fx.Node) -> Operation:
        source = next(item for item in node.all_input_nodes if item in self.traced.features)
        c_in, c_out = int(_value(source).shape[-1]), int(_value(node).shape[-1])
        weights = c_out * (c_in * self.device.weight_bytes + self.device.channel_bytes)
        moved = self._moved(source, node)
        return Operation("head" + self._suffix(node), c_in, 0, c_out, 1, 1, 1, c_in * c_out, moved, weights)

    def _squeeze_excite(self, node: fx.Node, gate: list[fx.Node]) -> Operation:
        macs = weights = 0
        for item in gate:
            if _operation(item) in ("convolution", *_LINEAR):
                layer = self._convolution(item) if _operation(item) == "convolution" else self._linear(item)
                macs, weights = macs + layer.macs, weights + layer.weights
        _, c, size, _ = map(int, _value(node).shape)
        moved = 3 * self.device.activation_bytes * c * size**2
        return Operation("squeeze-excite", c, 0, c, 1, 1, size, macs, moved, weights)

    def _sum(self, node: fx.Node) -> Operation:
        shape = _value(node).shape
        c, size = int(shape[1]), int(shape[-1])
        moved = 3 * self.device.activation_bytes * math.prod(shape)
        return Operation("add" + self._suffix(node), c, 0, c, 1, 1, size, moved=moved)

    def _pool(self, node: fx.Node) -> Operation:
        source = next(item for item in node.all_input_nodes if item in self.traced.features)
        while _operation(source) in _VIEWS and len(_value(source).shape) != 4:
            source = source.all_input_nodes[0]
        before, after = _value(source).shape, _value(node).shape
        if len(before) != 4:
            raise self._unknown(node)
        size = int(before[2])
        out = int(after[2]) if len(after) == 4 else 1
        stride = -(-size // out)
        windowed = "pool2d" in _operation(node) and "adaptive" not in _operation(node)
        given: Any = node.args[1] if windowed else stride
        kernel = int(given[0]) if isinstance(given, list | tuple) else int(given)
        c = int(before[1])
        return Operation("pool", c, 0, c, kernel, stride, size, moved=self._moved(source, node))

    def _moved(self, source: fx.Node, node: fx.Node) -> int:
        numbers = math.prod(_value(source).shape) + math.prod(_value(node).shape)
        return int(self.device.activation_bytes * numbers)

    def _suffix(self, node: fx.Node) -> str:
        """What follows a layer and is not fused: an activation of one input, or a product with the layer's sigmoid."""
        users = list(node.users)
        while follows := [user for user in users if _normalised(user)]:
            users = list(follows[0].users)
        names = {_operation(user).removesuffix("_") for user in users}
        if {"sigmoid", "mul"} <= names:
            return "+silu"
        if {"hardsigmoid", "mul"} <= names:
            return "+hardswish"
        found = next((_ACTIVATIONS[name] for name in names if name in _ACTIVATIONS), "")
        return f"+{found}" if found else ""

    def _activates(self, node: fx.Node) -> bool:
        """Whether a product is that of features with a function of themselves."""
        one, *others = (source for source in node.all_input_nodes if source in self.traced.features)
        return not others or any(
            _operation(two).removesuffix("_") in _ACTIVATIONS and three in two.all_input_nodes
            for two, three in ((one, others[0]), (others[0], one))
        )

    def _gate(self, node: fx.Node) -> list[fx.Node]:
        """The nodes from a pooling to the gate of a product; none of another product."""
        sources = [source for source in node.all_input_nodes if source in self.traced.features]
        if len(sources) != 2:
            return []
        small, large = sorted(sources, key=lambda source: math.prod(_value(source).shape[2:]))
        if math.prod(_value(large).shape[2:]) == math.prod(_value(small).shape[2:]):
            return []
        found: list[fx.Node] = []
        waiting = [small]
        while waiting:
            item = waiting.pop()
            if item in found or item is large or item not in self.traced.features:
                continue
            found.append(item)
            if str(item.target) not in POOLINGS:
                waiting += item.all_input_nodes
        return found
