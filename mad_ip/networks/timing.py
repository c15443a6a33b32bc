"""How long layers and networks take on this machine: ONNX Runtime, PyTorch on its CPU, or on its CUDA device.

A layer is timed as it runs inside of a network: batch normalisation folded, its activation fused where the runtime
does so, its input just written by a layer before it in the layout that the runtime prefers. ONNX Runtime's own profile
says how long its nodes take, so that what stands before and after the layer does not count; a sum, which ONNX Runtime
fuses with the convolution before it, is the difference that it makes. All are run in turn, so that none has its
weights in the innermost caches and a slow second hits all alike.

With one thread on the processor, its own processor time is counted: what the wall clock shows where nothing else takes
the core away, and on a shared machine ten times as repeatable (docs/devices.md). Otherwise it is the wall clock. What
is reported is a low quantile of the repeats: neighbours only ever add time.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from mad_ip import device
from mad_ip.blocks import Layer, hidden_width
from mad_ip.cost import identity
from mad_ip.design import Design
from mad_ip.device import Operation
from mad_ip.errors import InputError
from mad_ip.networks.network import Network

__all__ = [
    "QUANTILE",
    "RUNTIMES",
    "Run",
    "Runtime",
    "in_turn",
    "measure",
    "processor",
    "run_of_design",
    "run_of_module",
    "time_designs",
    "time_operations",
    "torch_version",
]

RUNTIMES = ("onnxruntime", "torch", "cuda")

QUANTILE = 0.25
"""Of the repeats, which is reported: the quarter that nothing else disturbed."""

_SMALLEST = 8
"""Channels of a convolution that stands before a layer: with fewer, runtimes take another road."""

_OPSET = 18

Run: TypeAlias = Callable[[], float]
"""Runs something once and returns nanoseconds."""


@dataclass(frozen=True)
class Runtime:
    """A runtime with pinned ``threads``; raises :class:`InputError` for an unknown one or one that is not there."""

    name: str = "onnxruntime"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check that it runs here."""
        if self.name not in RUNTIMES:
            raise InputError(f"--runtime = {self.name}: must be one of {', '.join(RUNTIMES)}")
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or not 1 <= self.threads <= 1024:
            raise InputError(f"--threads = {self.threads}: must be an integer from 1 to 1024")
        if self.name == "cuda" and not torch.cuda.is_available():
            raise InputError("--runtime = cuda: torch finds no CUDA device here; must be onnxruntime or torch")
        if self.name == "onnxruntime":
            for package in ("onnx", "onnxruntime", "onnxscript"):
                try:
                    __import__(package)
                except ImportError:
                    raise InputError(
                        f"--runtime = onnxruntime needs {package}, which is not installed; pip install 'mad-ip[export]'"
                    ) from None

    @property
    def version(self) -> str:
        """That of the package."""
        if self.name == "onnxruntime":
            import onnxruntime

            return str(onnxruntime.__version__)
        return str(torch.__version__)


def processor(runtime: Runtime) -> str:
    """The name of what computes."""
    if runtime.name == "cuda":
        return str(torch.cuda.get_device_name())
    return device.processor()


def torch_version() -> str:
    """That of torch, whichever runtime is timed."""
    return str(torch.__version__)


def time_operations(
    operations: Sequence[Operation],
    runtime: Runtime,
    *,
    rounds: int = 15,
    group: int = 64,
    watch: Callable[[int], None] | None = None,
) -> list[float]:
    """Nanoseconds of every operation, in groups that run in turn ``rounds`` times; ``watch`` hears how many are done.

    A group is timed with more weights than the inner caches hold, as a network is.
    """
    times: list[float] = []
    for start in range(0, len(operations), group):
        part = operations[start : start + group]
        if runtime.name == "onnxruntime":
            times += _profiled(part, runtime, rounds)
        else:
            runs = [_module_run(_module(operation), _shapes(operation), runtime) for operation in part]
            times += in_turn(runs, runtime, rounds=rounds, burst=1)
        if watch is not None:
            watch(len(times))
    return times


def time_designs(
    designs: Sequence[Design], runtime: Runtime, *, group: int = 8, watch: Callable[[int], None] | None = None
) -> list[float]:
    """Nanoseconds of whole networks at batch 1, in groups that run in turn; ``watch`` hears how many are done."""
    times: list[float] = []
    for start in range(0, len(designs), group):
        times += in_turn([run_of_design(design, runtime) for design in designs[start : start + group]], runtime)
        if watch is not None:
            watch(len(times))
    return times


def run_of_design(design: Design, runtime: Runtime) -> Run:
    """A design's network with random weights, without the export that takes the most time of :func:`measure`."""
    if runtime.name == "onnxruntime":
        return _session_run(_onnx_of_design(design), design.input_shape, runtime)
    return _module_run(Network(design), [design.input_shape], runtime)


def run_of_module(module: nn.Module, shape: Sequence[int], runtime: Runtime) -> Run:
    """Any module on an input of ``shape`` (channels, height, width); for ONNX Runtime it is exported."""
    if runtime.name == "onnxruntime":
        return _session_run(_exported(module, shape), shape, runtime)
    return _module_run(module, [shape], runtime)


def measure(design: Design, runtime: Runtime, *, repeats: int = 2) -> list[float]:
    """Nanoseconds of a design's network as ``mad-ip export`` writes it, measured ``repeats`` times over.

    How far the repeats are apart is the noise below which no prediction can be judged.
    """
    if runtime.name == "onnxruntime":
        from mad_ip.networks.export.programs import onnx_model

        run = _session_run(onnx_model(Network(design).eval()), design.input_shape, runtime, name="images")
    else:
        run = _module_run(Network(design), [design.input_shape], runtime)
    return [in_turn([run], runtime)[0] for _ in range(repeats)]


def in_turn(
    runs: Sequence[Run], runtime: Runtime, *, rounds: int = 12, burst: int = 4, seconds: float = 1.0
) -> list[float]:
    """Nanoseconds of every run, a low quantile of its repeats: bursts, of which the first run only warms the caches.

    There are ``rounds`` of bursts, or as many, of at least three, as take a run's share of ``seconds``.
    """
    times: list[list[float]] = [[] for _ in runs]
    spent = [0.0] * len(runs)
    with _pinned(runtime):
        for run in runs:
            run()
        for number in range(rounds):
            for place, run in enumerate(runs):
                if number >= _FEWEST and spent[place] > seconds:
                    continue
                began = time.perf_counter()
                if burst > 1:
                    run()
                times[place] += [run() for _ in range(max(1, burst - 1))]
                spent[place] += time.perf_counter() - began
    return [float(np.quantile(found, QUANTILE)) for found in times]


_FEWEST = 3
"""Rounds that any run has."""


@contextmanager
def _pinned(runtime: Runtime) -> Iterator[None]:
    """Torch's threads, and no subnormal numbers; both as they were afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(runtime.threads)
    try:
        with _without_subnormals():
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _without_subnormals() -> Iterator[None]:
    """Flush subnormal numbers to zero in this thread, and do what the thread did before afterwards.

    Random weights may shrink features to numbers with which processors are slow; trained ones do not. ONNX Runtime's
    option for it reaches a process's first session only, and then outlives it: everything later, a solve too, would
    compute with other floats.
    """
    before = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _clock(runtime: Runtime) -> Callable[[], int]:
    """Nanoseconds: of this thread where it does all the work, of the wall otherwise."""
    return time.thread_time_ns if runtime.threads == 1 and runtime.name != "cuda" else time.perf_counter_ns


def _module_run(module: nn.Module, shapes: Iterable[Sequence[int]], runtime: Runtime) -> Run:
    place = "cuda" if runtime.name == "cuda" else "cpu"
    module = module.to(place).eval()
    inputs = [torch.randn(1, *shape, device=place) for shape in shapes]

    clock = _clock(runtime)

    def once() -> float:
        with torch.inference_mode():
            began = clock()
            module(*inputs)
            return float(clock() - began)

    def queued() -> float:
        # As networks run: kernels are started while others compute.
        with torch.inference_mode():
            torch.cuda.synchronize()
            began = time.perf_counter_ns()
            for _ in range(_QUEUED):
                module(*inputs)
            torch.cuda.synchronize()
            return (time.perf_counter_ns() - began) / _QUEUED

    return queued if place == "cuda" else once


_QUEUED = 10
"""Runs between two synchronisations of a CUDA device."""


def _session_run(model: bytes, shape: Sequence[int], runtime: Runtime, name: str = "image") -> Run:
    session = _session(model, runtime)
    feed = {name: _random(np.random.default_rng(0), 1, *shape)}

    clock = _clock(runtime)

    def once() -> float:
        began = clock()
        session.run(None, feed)
        return float(clock() - began)

    return once


def _session(model: bytes, runtime: Runtime, profile: str = "") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # For the threads that the session starts.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    with _without_subnormals():
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _profiled(operations: Sequence[Operation], runtime: Runtime, rounds: int) -> list[float]:
    """ONNX Runtime's own times of what stands between the nodes before and after every operation."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for number, operation in enumerate(operations):
            parts = [_onnx_of_operation(operation, generator)]
            if operation.base == "add":
                parts.append(_onnx_of_operation(operation, generator, without=True))
            feed = {f"image{n}": _random(generator, 1, *shape) for n, shape in enumerate(_shapes(operation))}
            sessions.append(
                [(_session(part, runtime, f"{folder}/{number}-{n}-"), feed) for n, part in enumerate(parts)]
            )
        with _without_subnormals():
            for _ in range(rounds + 1):
                for session, feed in (item for items in sessions for item in items):
                    session.run(None, feed)
        found = []
        for operation, items in zip(operations, sessions, strict=True):
            added = operation.base == "add"
            times = [_spent(Path(session.end_profiling()), whole=added) for session, _ in items]
            found.append(max(0.0, times[0] - times[1]) if added else times[0])
    return found


def _spent(profile: Path, whole: bool) -> float:
    """Nanoseconds of a run between the nodes before and after; with those before where they are ``whole``."""
    events = json.loads(profile.read_text())
    profile.unlink()
    nodes = [
        (event["name"], 1000.0 * event["dur"])
        for event in events
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time")
    ]
    length = len(nodes) // sum(name == nodes[0][0] for name, _ in nodes)
    # Without the first run, which allocates.
    table = np.array([time for _, time in nodes]).reshape(-1, length)[1:]
    names = [name for name, _ in nodes[:length]]
    before = [number for number, name in enumerate(names) if name.startswith("before")]
    after = next((number for number, name in enumerate(names) if name.startswith("after")), length)
    if whole:
        # The order of what stands before, and where its layout is changed, is the runtime's.
        counted = [number for number, name in enumerate(names[:after]) if not name.startswith("Reorder")]
    else:
        counted = list(range(before[-1] + 1 if before else 0, after))
    return float(np.quantile(table[:, counted].sum(axis=1), QUANTILE))


def _random(generator: np.random.Generator, *shape: int) -> Any:
    return generator.standard_normal(shape, dtype=np.float32)


def _shapes(operation: Operation) -> list[tuple[int, ...]]:
    """Of the inputs, without the batch."""
    if operation.base == "head":
        return [(operation.c_in,)]
    shape = (operation.c_in, operation.size, operation.size)
    return [shape, shape] if operation.base == "add" else [shape]


def _groups(operation: Operation) -> int:
    if operation.base == "depthwise":
        return int(operation.c_in)
    if operation.base != "grouped":
        return 1
    positions = (-(-operation.size // operation.stride)) ** 2
    return int(operation.c_in * operation.c_out * operation.kernel**2 * positions // operation.macs)


def _hidden(operation: Operation) -> int:
    """Of squeeze-excite, whose two layers have as many multiply-accumulates."""
    if operation.macs:
        return max(1, int(operation.macs // (2 * operation.c_in)))
    return int(hidden_width(operation.c_in))


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(nn.functional.silu(self.squeeze(x.mean((2, 3), keepdim=True))))
        scaled: Tensor = x * gate.sigmoid()
        return scaled


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


class _Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def _module(operation: Operation) -> nn.Module:
    """An operation in torch: batch normalisation is not folded there, and has to run."""
    kind, c_in, c_out = operation.base, int(operation.c_in), int(operation.c_out)
    if kind == "head":
        return nn.Linear(c_in, c_out)
    if kind == "add":
        return _Sum()
    if kind == "squeeze-excite":
        return _SqueezeExcite(c_in, _hidden(operation))
    if kind == "pool":
        if operation.stride >= operation.size:
            return _Mean()
        return nn.AvgPool2d(operation.stride, ceil_mode=True, count_include_pad=False)
    k = int(operation.kernel)
    convolution = nn.Conv2d(c_in, c_out, k, operation.stride, k // 2, groups=_groups(operation), bias=False)
    activation = nn.SiLU(inplace=True) if operation.kind.endswith("+silu") else nn.ReLU(inplace=True)
    return nn.Sequential(convolution, nn.BatchNorm2d(c_out), activation)


class _Graph:
    """An ONNX graph with random weights."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A node, whose output has its name."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Random, so that features keep their size."""
        return self.constant(name, _random(self.generator, *shape) / np.float32(math.sqrt(math.prod(shape[1:]) or 1)))

    def convolution(
        self, name: str, x: str, c_in: int, c: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> str:
        """With a bias, which is where batch normalisation goes."""
        weight = self.weight(f"{name}.weight", c, c_in // groups, kernel, kernel)
        bias = self.weight(f"{name}.bias", c)
        half = kernel // 2
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [half] * 4, "group": groups}
        return self.add("Conv", name, x, weight, bias, **window)

    def activation(self, kind: str, name: str, x: str) -> str:
        """ReLU, or SiLU as two nodes, as exporters write it."""
        if kind.lower() == "silu":
            return self.add("Mul", f"{name}.silu", x, self.add("Sigmoid", f"{name}.sigmoid", x))
        return self.add("Relu", f"{name}.relu", x) if kind else x

    def mean(self, name: str, x: str, keep: bool) -> str:
        axes = self.constant(f"{name}.axes", np.array([2, 3]))
        return self.add("ReduceMean", name, x, axes, keepdims=int(keep))

    def squeeze_excite(self, name: str, x: str, channels: int, hidden: int) -> str:
        pooled = self.mean(f"{name}.mean", x, keep=True)
        inner = self.convolution(f"{name}.squeeze", pooled, channels, hidden)
        inner = self.activation("silu", f"{name}.squeeze", inner)
        gate = self.convolution(f"{name}.excite", inner, hidden, channels)
        return self.add("Mul", f"{name}.scaled", x, self.add("Sigmoid", f"{name}.gate", gate))

    def pool(self, name: str, x: str, stride: int) -> str:
        window = {"kernel_shape": [stride] * 2, "strides": [stride] * 2, "ceil_mode": 1}
        return self.add("AveragePool", name, x, **window)

    def linear(self, name: str, x: str, c_in: int, c: int) -> str:
        weight, bias = self.weight(f"{name}.weight", c, c_in), self.weight(f"{name}.bias", c)
        return self.add("Gemm", name, x, weight, bias, transB=1)

    def layer(self, name: str, x: str, layer: Layer) -> str:
        """A convolution with its activation."""
        sizes = layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.groups
        return self.activation(layer.activation, name, self.convolution(name, x, *sizes))

    def model(self, inputs: Mapping[str, Sequence[int]], outputs: Iterable[str]) -> bytes:
        """Serialised; ``inputs`` are shapes without the batch, which is 1."""
        from onnx import TensorProto, helper

        ins = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *shape]) for name, shape in inputs.items()]
        outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", ins, outs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
        content: bytes = model.SerializeToString()
        return content


def _onnx_of_operation(operation: Operation, generator: np.random.Generator, without: bool = False) -> bytes:
    """An operation between convolutions whose layout it takes over, or ``without`` it only what stands before it."""
    graph = _Graph(generator)
    kind, c_in, c_out = operation.base, int(operation.c_in), int(operation.c_out)
    shapes = {f"image{number}": shape for number, shape in enumerate(_shapes(operation))}
    ends = list(shapes)
    if kind != "head" and c_in >= _SMALLEST:
        ends = [graph.convolution(f"before{number}", end, c_in, c_in, groups=c_in) for number, end in enumerate(ends)]
    if without:
        return graph.model(shapes, ends)
    x = ends[0]
    if kind == "head":
        return graph.model(shapes, [graph.linear("head", x, c_in, c_out)])
    if kind == "add":
        y = graph.add("Add", "sum", *ends)
    elif kind == "squeeze-excite":
        y = graph.squeeze_excite("gate", x, c_in, _hidden(operation))
    elif kind == "pool" and operation.stride >= operation.size:
        return graph.model(shapes, [graph.mean("mean", x, keep=False)])
    elif kind == "pool":
        y = graph.pool("pool", x, operation.stride)
    else:
        sizes = c_in, c_out, int(operation.kernel), operation.stride, _groups(operation)
        y = graph.convolution("layer", x, *sizes)
        y = graph.activation("silu" if operation.kind.endswith("+silu") else "relu", "layer", y)
    return graph.model(shapes, [graph.convolution("after", y, c_out, c_out, groups=c_out)])


def _onnx_of_design(design: Design) -> bytes:
    """The whole network as ``mad-ip export`` writes it, with batch normalisation folded, at once."""
    graph = _Graph(np.random.default_rng(0))
    x = "image"
    for s, blocks in enumerate(design.blocks()):
        for b, layers in enumerate(blocks):
            x = _onnx_of_block(graph, f"{s}.{b}", x, layers, activated="SiLU" not in {y.activation for y in layers})
    for layer in design.head_layers():
        x = graph.linear("head", graph.mean("mean", x, keep=False), layer.in_channels, layer.out_channels)
    return graph.model({"image": design.input_shape}, [x])


def _onnx_of_block(graph: _Graph, name: str, x: str, layers: Sequence[Layer], activated: bool) -> str:
    main = [layer for layer in layers if layer.role == "main"]
    y, remaining = x, iter(enumerate(layer for layer in layers if layer.role != "shortcut"))
    for number, layer in remaining:
        here = f"{name}.{number}"
        if layer.role == "squeeze":
            next(remaining)
            y = graph.squeeze_excite(here, y, layer.in_channels, layer.out_channels)
        else:
            y = graph.layer(here, y, layer)
    if not main:
        return y
    kept = identity(main)
    for layer in layers:
        if layer.role == "shortcut" and layer.present:
            short = graph.pool(f"{name}.pool", x, layer.pool_stride) if layer.pooled else x
            y = graph.add("Add", f"{name}.sum", y, graph.layer(f"{name}.shortcut", short, layer))
            kept = 0
    if kept:
        y = graph.add("Add", f"{name}.sum", y, x)
    return graph.activation("relu", f"{name}.sum", y) if activated else y


def _exported(module: nn.Module, shape: Sequence[int]) -> bytes:
    """The ONNX model of any module at batch 1."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            module.eval(),
            (torch.randn(1, *shape),),
            path,
            input_names=["image"],
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return path.read_bytes()
