"""TensorFlow Lite files, for LiteRT and for microcontrollers: int8, calibrated on images, or float32.

A file takes one image: ``images`` (1, H, W, C) -> ``logits`` (1, classes). Batch normalisations are folded into their
convolutions. ReLU and ReLU6 belong to the operator before them; SiLU is two more, LOGISTIC and MUL, and keeps a third
tensor in memory. Operators stand in the order of the network's own ``forward``: the main path before the shortcut.

A convolution of the network pads by ``kernel // 2`` on both sides. TFLite's SAME padding is the same with stride 1, and
with stride 2 on odd sizes; on even ones it begins a pixel later. There the kernel gets a row and a column of zeros at
its end, with which SAME padding begins where the network's does: some multiplications by zero, but no tensor more.
Where the zeros would be more numbers than a padded input has, a PAD makes that one.

int8 follows TFLite's specification: activations per tensor, from the least to the largest value over the images;
weights symmetric, per output channel, but per tensor in the head, which is all that older runtimes take; biases int32.

A file also says where in its arena TensorFlow Lite Micro shall put every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mad_ip.design import Design
from mad_ip.errors import InputError, InternalError
from mad_ip.networks.modules import ConvNorm, Residual, SqueezeExcite
from mad_ip.networks.network import Network, default_cfg

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError:
    raise InputError(
        "mad_ip.networks.export.tflite needs ai-edge-litert, which is not installed; pip install 'mad-ip[tflite]'"
    ) from None

__all__ = ["ACTIVATIONS", "Fidelity", "live_bytes", "load_images", "replace_activations", "tflite_model"]

Limits: TypeAlias = dict[int, tuple[float, float]]
"""The least and the largest value of every tensor, at most and at least 0."""

ACTIVATIONS = ("ReLU", "ReLU6")
"""Activations that belong to the operator before them."""

_FUSED = {
    nn.Identity: schema.ActivationFunctionType.NONE,
    nn.ReLU: schema.ActivationFunctionType.RELU,
    nn.ReLU6: schema.ActivationFunctionType.RELU6,
}

_KINDS: dict[int, str] = {code: kind for kind, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}

_CHANNEL_AXES = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": None}
"""The axis of output channels where weights have a scale for each."""

_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4}
"""Of the int8 operators; 2 of any other, and 1 of every float32 one."""

_TOLERANCE = 1e-4
"""Largest difference of a float32 file from PyTorch, relative to the largest output."""

_LEAST_DECIBELS = 10.0
"""Of an int8 file; those of the zoo have more than 20, even with initial weights."""

_ALIGNMENT = 16
"""Of every constant in the file and every tensor in the arena, in bytes."""

_TRIES = 2000
"""To place the tensors without a gap."""

_RANDOM_IMAGES = 16

_MOST_IMAGES = 500

_BATCH = 8


@dataclass(frozen=True)
class Fidelity:
    """How close the logits of a file are to the network's, on ``images`` images, which may be ``random``.

    ``decibels`` are of signal over noise; ``agreement`` is the share of images with the same largest logit.
    """

    images: int
    random: bool
    decibels: float
    agreement: float

    def __str__(self) -> str:
        """One sentence, with the advice to calibrate on real images where they were random."""
        kind = "random images" if self.random else "images"
        advice = "; --images calibrates on real ones" if self.random else ""
        return f"{self.decibels:.1f} dB, the same class for {self.agreement:.1%} of {self.images} {kind}{advice}"


def tflite_model(network: Network, images: Tensor | None = None, *, quantised: bool = True) -> tuple[bytes, Fidelity]:
    """The TFLite file of ``network`` in eval mode, and its fidelity on ``images``: (N, C, H, W), random ones if none.

    An int8 file is calibrated on the images, and takes and gives int8.

    Raises:
        InputError: a network of clips, or of another pooling than "avg", or whose outputs are not finite.
        InternalError: LiteRT computes anything but what PyTorch computes: a float32 file to 1e-4 of the largest output,
            an int8 file to 10 dB.
    """
    design = network.design
    if design.frames is not None:
        raise InputError(f"{design.name}: takes clips; a TFLite file takes images, and frames must be left out")
    if network.global_pool != "avg":
        raise InputError(f"{design.name}: global_pool = {network.global_pool!r}: must be 'avg' for a TFLite file")
    random = images is None
    if images is None:
        images = torch.randn(_RANDOM_IMAGES, *design.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = [network(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    expected = torch.cat(parts).numpy()
    if not np.isfinite(expected).all():
        raise InputError(f"{design.name}: the outputs with these weights are not finite; other weights are needed")
    model = _Graph(network).model()
    content = _packed(model)
    pixels = images.permute(0, 2, 3, 1).numpy()
    limits = dict.fromkeys(_lives(model.subgraphs[0]), (0.0, 0.0))
    found = _outputs(content, pixels, limits)
    error = float(np.abs(found - expected).max())
    if not error <= _TOLERANCE * float(np.abs(expected).max()):
        raise InternalError(f"{design.name}: the float32 TFLite file differs from PyTorch by {error:g}")
    if quantised:
        _quantise(model, limits)
        content = _packed(model)
        found = _outputs(content, pixels)
    fidelity = Fidelity(
        len(images),
        random,
        _decibels(found, expected),
        float((found.argmax(1) == expected.argmax(1)).mean()),
    )
    if not fidelity.decibels >= _LEAST_DECIBELS:
        raise InternalError(
            f"{design.name}: the int8 TFLite file is {fidelity.decibels:.1f} dB from PyTorch, "
            f"less than {_LEAST_DECIBELS:g} dB"
        )
    return content, fidelity


def replace_activations(network: nn.Module, activation: str) -> None:
    """Put one of :data:`ACTIVATIONS` in the place of every ReLU and SiLU of ``network``.

    Weights must have been trained with it. Raises :class:`InputError` for another name.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"--activation = {activation}: must be one of {', '.join(ACTIVATIONS)}")
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU | nn.SiLU):
                setattr(module, name, getattr(nn, activation)(inplace=True))


def load_images(path: Path, design: Design) -> Tensor:
    """Images to calibrate on, as the network takes them: (N, C, H, W).

    ``path`` is a folder of .png, .jpg or .jpeg, or an .npy file of float32. Images of a folder are resized, cropped at
    their centre and normalised as ``default_cfg(design)`` says; of more than 500, as many evenly spread over the sorted
    names. An .npy file holds normalised images: (N, C, H, W) or (N, H, W, C).

    Raises :class:`InputError` where there are no such images, and for clips.
    """
    if design.frames is not None:
        raise InputError(f"{design.name}: takes clips; a TFLite file takes images, and frames must be left out")
    return _from_folder(path, design) if path.is_dir() else _from_array(path, design)


def live_bytes(content: bytes) -> list[tuple[str, int]]:
    """For every operator of a TFLite file, its kind and output, and the bytes of the tensors in memory while it runs.

    Those are its inputs and outputs, and whatever was made before it and is needed after it, without constants; every
    tensor takes a multiple of 16 bytes. The largest is the least arena in which TensorFlow Lite Micro can run the
    operators, beside what it keeps for the model itself.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    (graph,) = model.subgraphs
    lives = _lives(graph)
    return [
        (f"{_kind(model, operator)} {graph.tensors[operator.outputs[0]].name.decode()}", _live(lives, step))
        for step, operator in enumerate(graph.operators)
    ]


# The graph ------------------------------------------------------------------------------------------------------------


class _Buffer:
    """Constant data where processors without unaligned loads can read it."""

    def __init__(self, data: NDArray[Any]) -> None:
        self.data = data

    def Pack(self, builder: Any) -> Any:  # noqa: N802
        content = np.frombuffer(self.data.tobytes(), np.uint8)
        builder.Prep(_ALIGNMENT, content.size)
        return schema.BufferT(content).Pack(builder)


class _Graph:
    """The float32 graph of a network; the methods append operators to it and return the tensor that comes out."""

    def __init__(self, network: Network) -> None:
        self.name = network.design.name
        self.buffers: list[Any] = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: dict[str, int] = {}
        channels, size, _ = network.design.input_shape
        self.images = self.activation("images", (1, size, size, channels))
        x = self.module(network.stem, self.images, "stem")
        x = self.module(network.stages, x, "stages")
        x = self.module(network.tail, x, "tail")
        self.logits = self.head(network.head, x)

    def model(self) -> Any:
        """The object that :func:`_packed` makes a file of."""
        graph = schema.SubGraphT(self.tensors, [self.images], [self.logits], self.operators, "main")
        signature = schema.SignatureDefT(
            [schema.TensorMapT("images", self.images)], [schema.TensorMapT("logits", self.logits)], "serving_default"
        )
        codes = []
        for kind in self.codes:
            code = getattr(schema.BuiltinOperator, kind)
            codes.append(schema.OperatorCodeT(code, builtinCode=code))
        return schema.ModelT(3, codes, [graph], f"mad-ip {self.name}", self.buffers, signatureDefs=[signature])

    def activation(self, name: str, shape: Sequence[int]) -> int:
        self.tensors.append(schema.TensorT(list(shape), schema.TensorType.FLOAT32, 0, name))
        return len(self.tensors) - 1

    def constant(self, name: str, data: NDArray[Any]) -> int:
        kind = schema.TensorType.INT32 if data.dtype == np.int32 else schema.TensorType.FLOAT32
        self.buffers.append(_Buffer(data))
        self.tensors.append(schema.TensorT(list(data.shape), kind, len(self.buffers) - 1, name))
        return len(self.tensors) - 1

    def append(self, kind: str, inputs: Sequence[int], name: str, shape: Sequence[int], options: Any = None) -> int:
        output = self.activation(name, shape)
        code = self.codes.setdefault(kind, len(self.codes))
        operator = schema.OperatorT(code, list(inputs), [output])
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(operator)
        return output

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self.tensors[tensor].shape)

    def module(self, module: nn.Module, x: int, name: str) -> int:
        if isinstance(module, ConvNorm):
            return self.convolution(module, x, name)
        if isinstance(module, SqueezeExcite):
            return self.squeeze_excite(module, x, name)
        if isinstance(module, Residual):
            return self.residual(module, x, name)
        if isinstance(module, nn.AvgPool2d):
            return self.pool(module, x, name)
        if isinstance(module, nn.Sequential):
            for child, part in module.named_children():
                x = self.module(part, x, f"{name}.{child}")
        elif not isinstance(module, nn.Identity):
            raise InternalError(f"{self.name}: {name} is a {type(module).__name__}, which has no TFLite operator")
        return x

    def convolution(self, module: ConvNorm, x: int, name: str) -> int:
        conv = module.conv
        (kernel, _), (stride, _) = conv.kernel_size, conv.stride
        depthwise = conv.groups > 1
        weight, bias = _folded(module)
        _, size, _, channels = self.shape(x)
        out = -(-size // stride)
        before = kernel // 2
        behind = (out - 1) * stride + kernel - size - before
        padding = schema.Padding.SAME
        if max(before + behind, 0) // 2 != before:
            sides, ends = (before, max(behind, 0)), (0, before - behind)
            padded = size + sum(sides)
            widened = np.pad(weight, ((0, 0), (0, 0), ends, ends))
            if widened.size - weight.size <= channels * padded**2:
                weight = widened
            else:
                paddings = self.constant(f"{name}.paddings", np.array([[0, 0], sides, sides, [0, 0]], np.int32))
                shape = (1, padded, padded, channels)
                x = self.append("PAD", (x, paddings), f"{name}.pad", shape, schema.PadOptionsT())
                padding = schema.Padding.VALID
        activation = getattr(module, "activation", nn.Identity())
        fused = self.fused(activation, name)
        weight = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        options = (
            schema.DepthwiseConv2DOptionsT(padding, stride, stride, 1, fused)
            if depthwise
            else schema.Conv2DOptionsT(padding, stride, stride, fused)
        )
        inputs = (x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias))
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        y = self.append(kind, inputs, name, (1, out, out, len(bias)), options)
        return self.activated(activation, y, name)

    def squeeze_excite(self, module: SqueezeExcite, x: int, name: str) -> int:
        channels = self.shape(x)[-1]
        mean = self.mean(x, f"{name}.mean", (1, 1, 1, channels))
        squeezed = self.module(module.squeeze, mean, f"{name}.squeeze")
        excited = self.module(module.excite, squeezed, f"{name}.excite")
        gate = self.append("LOGISTIC", (excited,), f"{name}.gate", self.shape(excited))
        return self.append("MUL", (x, gate), name, self.shape(x), schema.MulOptionsT())

    def residual(self, block: Residual, x: int, name: str) -> int:
        y = self.module(block.main, x, f"{name}.main")
        if block.shortcut is None:
            return y
        shortcut = self.module(block.shortcut, x, f"{name}.shortcut")
        options = schema.AddOptionsT(self.fused(block.activation, name))
        total = self.append("ADD", (y, shortcut), name, self.shape(y), options)
        return self.activated(block.activation, total, name)

    def pool(self, module: nn.AvgPool2d, x: int, name: str) -> int:
        """SAME padding, which TFLite leaves out of the average, is behind the image where it is one pixel."""
        stride: Any = module.stride
        _, size, _, channels = self.shape(x)
        out = -(-size // stride)
        options = schema.Pool2DOptionsT(schema.Padding.SAME, stride, stride, stride, stride)
        return self.append("AVERAGE_POOL_2D", (x,), name, (1, out, out, channels), options)

    def head(self, head: nn.Module, x: int) -> int:
        channels = self.shape(x)[-1]
        if not isinstance(head, nn.Linear):
            return self.mean(x, "logits", (1, channels))
        pooled = self.mean(x, "pooled", (1, channels))
        weight = self.constant("head.weight", head.weight.detach().float().numpy())
        bias = self.constant("head.bias", head.bias.detach().float().numpy())
        options = schema.FullyConnectedOptionsT()
        return self.append("FULLY_CONNECTED", (pooled, weight, bias), "logits", (1, head.out_features), options)

    def mean(self, x: int, name: str, shape: Sequence[int]) -> int:
        axes = self.constant(f"{name}.axes", np.array([1, 2], np.int32))
        return self.append("MEAN", (x, axes), name, shape, schema.ReducerOptionsT(len(shape) == 4))

    def fused(self, activation: nn.Module, name: str) -> int:
        """The part of ``activation`` that the operator before it takes over."""
        if isinstance(activation, nn.SiLU):
            activation = nn.Identity()
        if type(activation) not in _FUSED:
            raise InternalError(f"{self.name}: {name} has a {type(activation).__name__}, which has no TFLite operator")
        return int(_FUSED[type(activation)])

    def activated(self, activation: nn.Module, x: int, name: str) -> int:
        """The rest of it."""
        if not isinstance(activation, nn.SiLU):
            return x
        self.tensors[x].name = f"{name}.before"
        gate = self.append("LOGISTIC", (x,), f"{name}.gate", self.shape(x))
        return self.append("MUL", (x, gate), name, self.shape(x), schema.MulOptionsT())


def _folded(module: ConvNorm) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (C_out, C_in / groups, k, k) and bias of a convolution with its normalisation."""
    weight = module.conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if module.conv.bias is None else module.conv.bias.detach().double()
    norm = getattr(module, "norm", None)
    if norm is not None:
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * scale[:, None, None, None]
        bias = (bias - norm.running_mean.double()) * scale + norm.bias.detach().double()
    return weight.float().numpy(), bias.float().numpy()


def _packed(model: Any) -> bytes:
    """The file, with the arena's plan, which depends on the numbers' size."""
    plan = _Buffer(_plan(model.subgraphs[0]))
    metadata = [schema.MetadataT("OfflineMemoryAllocation", len(model.buffers))]
    builder = flatbuffers.Builder()
    whole = schema.ModelT(**vars(model) | {"buffers": [*model.buffers, plan], "metadata": metadata})
    builder.Finish(whole.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _kind(model: Any, operator: Any) -> str:
    return _KINDS[model.operatorCodes[operator.opcodeIndex].builtinCode]


# The arena ------------------------------------------------------------------------------------------------------------


class _Life(NamedTuple):
    """Bytes of a tensor in the arena, and the first and the last operator during which it is there."""

    size: int
    first: int
    last: int


def _lives(graph: Any) -> dict[int, _Life]:
    """Those of all tensors but constants; the logits stay to the end."""
    first = dict.fromkeys(map(int, graph.inputs), 0)
    last: dict[int, int] = {}
    for step, operator in enumerate(graph.operators):
        first.update((int(tensor), step) for tensor in operator.outputs)
        last.update((int(tensor), step) for tensor in (*operator.inputs, *operator.outputs))
    last |= dict.fromkeys(map(int, graph.outputs), len(graph.operators) - 1)
    return {tensor: _Life(_arena_bytes(graph.tensors[tensor]), first[tensor], last[tensor]) for tensor in first}


def _live(lives: dict[int, _Life], step: int) -> int:
    return sum(life.size for life in lives.values() if life.first <= step <= life.last)


def _arena_bytes(tensor: Any) -> int:
    item = 1 if tensor.type == schema.TensorType.INT8 else 4
    return -(-math.prod(map(int, tensor.shape)) * item // _ALIGNMENT) * _ALIGNMENT


def _plan(graph: Any) -> NDArray[np.int32]:
    """Where in the arena every tensor is, as TensorFlow Lite Micro's OfflineMemoryAllocation: -1 for constants.

    Its own planner leaves gaps, of up to a third of the arena. Here too tensors are placed at the lowest free offset,
    the largest first, but then again in changed orders, none of them worse, until there is no gap where most is live.
    """
    lives = _lives(graph)
    beside = {
        tensor: [
            n for n, other in lives.items() if n != tensor and other.first <= life.last and life.first <= other.last
        ]
        for tensor, life in lives.items()
    }
    least = max(_live(lives, step) for step in range(len(graph.operators)))
    order = sorted(lives, key=lambda tensor: (-lives[tensor].size, lives[tensor].first))
    offsets, height = _placed(order, lives, beside)
    generator = np.random.default_rng(0)
    for _ in range(_TRIES):
        if height == least:
            break
        other = list(order)
        taken, put = generator.integers(len(order), size=2)
        other.insert(put, other.pop(taken))
        found, its = _placed(other, lives, beside)
        if its <= height:
            order, offsets, height = other, found, its
    whole = [offsets.get(tensor, -1) for tensor in range(len(graph.tensors))]
    return np.array([1, 0, len(whole), *whole], np.int32)


def _placed(order: list[int], lives: dict[int, _Life], beside: dict[int, list[int]]) -> tuple[dict[int, int], int]:
    """Offsets of the tensors, each placed after those before it, and how many bytes they take."""
    offsets: dict[int, int] = {}
    for tensor in order:
        offset = 0
        for start, end in sorted((offsets[n], offsets[n] + lives[n].size) for n in beside[tensor] if n in offsets):
            if offset + lives[tensor].size <= start:
                break
            offset = max(offset, end)
        offsets[tensor] = offset
    return offsets, max(offset + lives[tensor].size for tensor, offset in offsets.items())


# int8 -----------------------------------------------------------------------------------------------------------------


def _quantise(model: Any, limits: Limits) -> None:
    """Make int8 of a float32 graph, in place."""
    (graph,) = model.subgraphs
    chosen: dict[int, tuple[float, int]] = {}

    def choose(tensor: int, scale: float, zero: int) -> None:
        chosen[tensor] = float(np.float32(scale)), zero
        entry = graph.tensors[tensor]
        entry.type = schema.TensorType.INT8
        entry.quantization = schema.QuantizationParametersT(scale=[chosen[tensor][0]], zeroPoint=[zero])

    choose(graph.inputs[0], *_affine(*limits[graph.inputs[0]]))
    for operator in graph.operators:
        kind = _kind(model, operator)
        (output,) = operator.outputs
        if kind == "LOGISTIC":
            choose(output, 1 / 256, -128)
        elif kind in ("AVERAGE_POOL_2D", "PAD"):
            choose(output, *chosen[operator.inputs[0]])
        else:
            choose(output, *_affine(*limits[output]))
        if kind in _CHANNEL_AXES:
            given, weight, bias = operator.inputs
            _quantise_weights(model, weight, bias, _CHANNEL_AXES[kind], chosen[given][0])
    for code in model.operatorCodes:
        code.version = _VERSIONS.get(_KINDS[code.builtinCode], 2)


def _affine(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the values from ``low``, at most 0, to ``high``, at least 0."""
    scale = (high - low) / 255 or 1.0
    return scale, min(max(round(-128 - low / scale), -128), 127)


def _quantise_weights(model: Any, weight: int, bias: int, axis: int | None, given: float) -> None:
    """Weights of ``axis``, or of the whole tensor, by their largest magnitude, and biases by ``given`` times that.

    A bias beyond what int32 holds at that scale, as weights close to zero would have it, makes the scale larger.
    """
    (graph,) = model.subgraphs
    weights, biases = (model.buffers[graph.tensors[tensor].buffer] for tensor in (weight, bias))
    others = tuple(n for n in range(weights.data.ndim) if n != axis) if axis is not None else None
    largest = np.abs(weights.data).max(others, keepdims=True).astype(np.float64)
    offsets = np.abs(biases.data).astype(np.float64)
    least = (offsets if axis is not None else offsets.max()) / (given * 2**30)
    scale = np.maximum(largest / 127, least.reshape(largest.shape))
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    weights.data = np.clip(np.rint(weights.data / scale), -127, 127).astype(np.int8)
    products = (given * scale.astype(np.float64)).ravel()
    biases.data = np.rint(biases.data / products).astype(np.int32)
    for tensor, kind, scales, dimension in (
        (weight, schema.TensorType.INT8, scale.ravel(), axis),
        (bias, schema.TensorType.INT32, products.astype(np.float32), 0),
    ):
        graph.tensors[tensor].type = kind
        graph.tensors[tensor].quantization = schema.QuantizationParametersT(
            scale=scales, zeroPoint=np.zeros(len(scales), np.int64), quantizedDimension=dimension or 0
        )


# Running --------------------------------------------------------------------------------------------------------------


def _outputs(content: bytes, images: NDArray[Any], limits: Limits | None = None) -> NDArray[Any]:
    """What LiteRT computes of (N, H, W, C), image by image: (N, classes).

    ``limits`` are widened to the values of the tensors that they name, of a float32 file.
    """
    interpreter = Interpreter(
        model_content=content,
        num_threads=torch.get_num_threads(),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=limits is not None,
    )
    interpreter.allocate_tensors()
    limits = {} if limits is None else limits
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in images:
        interpreter.set_tensor(given["index"], _encoded(image[None], given))
        interpreter.invoke()
        found.append(_decoded(interpreter.get_tensor(result["index"]), result))
        for tensor, (low, high) in limits.items():
            values = interpreter.get_tensor(tensor)
            limits[tensor] = min(low, float(values.min())), max(high, float(values.max()))
    outputs: NDArray[Any] = np.concatenate(found)
    return outputs


def _encoded(values: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    if detail["dtype"] is np.float32:
        return np.ascontiguousarray(values)
    scale, zero = detail["quantization"]
    encoded: NDArray[Any] = np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8)
    return encoded


def _decoded(values: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    if detail["dtype"] is np.float32:
        return values
    scale, zero = detail["quantization"]
    decoded: NDArray[Any] = (values.astype(np.float32) - zero) * scale
    return decoded


def _decibels(found: NDArray[Any], expected: NDArray[Any]) -> float:
    signal, noise = (float(np.square(part, dtype=np.float64).sum()) for part in (expected, found - expected))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


# Images ---------------------------------------------------------------------------------------------------------------


def _from_folder(path: Path, design: Design) -> Tensor:
    from PIL import Image

    modes = {1: "L", 3: "RGB"}
    if design.image_channels not in modes:
        raise InputError(
            f"--images = {path}: {design.name} takes {design.image_channels} channels; must be an .npy file"
        )
    names = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not names:
        raise InputError(f"--images = {path}: holds no images; must be a folder of .png, .jpg or .jpeg")
    settings = default_cfg(design)
    size, count = design.resolution, min(len(names), _MOST_IMAGES)
    pixels = []
    for name in (names[n * len(names) // count] for n in range(count)):
        try:
            with Image.open(name) as opened:
                if opened.mode[0] in "IF":
                    raise InputError(f"{name}: has numbers of more than 8 bits ({opened.mode}); must have 8")
                image = opened.convert(modes[design.image_channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{name}: cannot be read ({error}); must be an image") from None
        shorter = min(image.size)
        width, height = (math.floor(size / settings["crop_pct"]) * side // shorter for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels.append(np.asarray(resized.crop((left, top, left + size, top + size)), np.float32) / 255)
    shaped = np.stack(pixels).reshape(count, size, size, design.image_channels)
    normalised = (shaped - np.array(settings["mean"], np.float32)) / np.array(settings["std"], np.float32)
    return torch.from_numpy(normalised).permute(0, 3, 1, 2)


def _from_array(path: Path, design: Design) -> Tensor:
    try:
        # Mapped, so that a header that promises more than the file holds is refused before anything is read.
        images = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--images = {path}: cannot be read ({reason}); must be a folder or an .npy") from None
    channels, size, _ = design.input_shape
    first, last = (channels, size, size), (size, size, channels)
    if images.dtype != np.float32 or images.shape[1:] not in (first, last) or len(images) == 0:
        raise InputError(
            f"--images = {path}: holds {images.dtype} of shape {images.shape}; must be float32 of shape "
            f"(N, {channels}, {size}, {size}) or (N, {size}, {size}, {channels}), N at least 1"
        )
    if not np.isfinite(images).all():
        raise InputError(f"--images = {path}: holds what is no finite number; must be finite")
    found = torch.from_numpy(np.array(images))
    return found if images.shape[1:] == first else found.permute(0, 3, 1, 2)
