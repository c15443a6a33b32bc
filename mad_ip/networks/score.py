"""Entropy, effectiveness and cost of any convolutional module: its operations are traced and its main path is found.

The module runs once on meta tensors, batch 1. Along the operations that depend on the image, the main path is:

- a convolution lengthens it;
- at a sum of two branches it is the branch with more convolutions (of those with as many, the one with more k x k
  ones); the other is a shortcut, whose projections count for cost only, and which has no k x k convolution;
- a multiplication by a gate computed from pooled features follows what is gated: squeeze-excite counts for cost only;
- it ends where the features are pooled: what follows is the classifier.

Whatever else combines features (concatenation, attention, ...) is refused in one sentence and never guessed.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from mad_ip.blocks import Layer
from mad_ip.errors import InputError
from mad_ip.networks.measure import evaluating
from mad_ip.scoring import Score, of_path

__all__ = ["POOLINGS", "PRODUCTS", "SUMS", "load", "score", "survey"]

_COSTS = ("aten.convolution", "aten.addmm", "aten.mm")
SUMS = ("aten.add.Tensor", "aten.add_.Tensor")
PRODUCTS = ("aten.mul.Tensor", "aten.mul_.Tensor")
POOLINGS = ("aten.mean.dim", "aten.amax.default", "aten._adaptive_avg_pool2d.default", "aten.sum.dim_IntList")


@dataclass(frozen=True, eq=False)
class _Step:
    """One convolution of a path, after ``before``; ``number`` convolutions up to here, ``spatial`` of them k x k.

    ``module`` is the dotted name of the module that holds its weight.
    """

    layer: Layer
    module: str
    before: _Step | None
    number: int
    spatial: int


@dataclass(frozen=True)
class _Features:
    """What an operation puts out: the path that leads to it, and whether it is pooled (has no more resolution)."""

    path: _Step | None
    pooled: bool = False


def load(name: str) -> tuple[nn.Module, int]:
    """The module of ``torchvision:NAME``, ``timm:NAME`` or ``FILE.py:FACTORY``, without weights, and its resolution.

    The libraries' modules are on the meta device where they can be. The resolution is the one that the module's
    ``default_cfg`` names, as timm's do, else 224. Raises :class:`InputError` when there is no such module or its
    factory fails.
    """
    origin, _, what = name.rpartition(":")
    if origin in ("torchvision", "timm"):
        build = _torchvision(what) if origin == "torchvision" else _timm(what)
    elif origin.endswith(".py") and what:
        build = _factory(Path(origin), what)
    else:
        raise InputError(f"{name}: must be a design.json, torchvision:NAME, timm:NAME or FILE.py:FACTORY")
    try:
        module = build()
    except (Exception, SystemExit) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name}: cannot be built ({type(error).__name__}: {reason})") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{name}: returns {type(module).__name__}; must return a torch.nn.Module")
    return module, _input_size(module)[1]


def _input_size(module: nn.Module) -> tuple[int, int]:
    """Image channels and resolution, by ``default_cfg``, else by the first convolution and 224."""
    settings = getattr(module, "default_cfg", None)
    if isinstance(settings, Mapping) and settings.get("input_size"):
        return int(settings["input_size"][0]), int(settings["input_size"][-1])
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return (3 if first is None else first.in_channels), 224


def _torchvision(name: str) -> Callable[[], Any]:
    try:
        from torchvision import models
    except ImportError:
        raise InputError(
            f"torchvision:{name} needs torchvision, which is not installed; pip install 'mad-ip[vision]'"
        ) from None
    # Detectors and segmenters are left out: torchvision would download the weights of their backbones.
    if name.lower() not in models.list_models(module=models):
        raise InputError(f"torchvision:{name}: torchvision has no model of that name that classifies images")
    return functools.partial(_on_meta, functools.partial(models.get_model, name, weights=None))


def _timm(name: str) -> Callable[[], Any]:
    try:
        import timm
    except ImportError:
        raise InputError(f"timm:{name} needs timm, which is not installed; pip install 'mad-ip[timm]'") from None
    if not timm.is_model(name):
        raise InputError(f"timm:{name}: timm has no model of that name")
    return functools.partial(_on_meta, functools.partial(timm.create_model, name, pretrained=False))


def _on_meta(build: Callable[[], Any]) -> Any:
    # Shapes are all that is asked for; to draw initial weights would take the most time.
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # torchvision's RegNets compute their widths on tensors
        return build()


def _factory(path: Path, name: str) -> Callable[[], Any]:
    if not path.is_file():
        raise InputError(f"{path}: cannot be read; a Python file is needed")
    described = importlib.util.spec_from_file_location(f"mad-ip score {path.stem}", path)
    assert described is not None
    assert described.loader is not None
    namespace = importlib.util.module_from_spec(described)
    # Dataclasses look for the module that defines them.
    sys.modules[described.name] = namespace
    try:
        described.loader.exec_module(namespace)
        factory: Any = getattr(namespace, name)
    except (Exception, SystemExit) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}:{name}: cannot be loaded ({type(error).__name__}: {reason})") from error
    if not callable(factory):
        raise InputError(f"{path}:{name}: must be a function without arguments that returns a torch.nn.Module")
    return factory  # type: ignore[no-any-return]


def score(
    module: nn.Module,
    *,
    name: str,
    resolution: int = 224,
    image_channels: int | None = None,
    convention: str = "paper",
) -> Score:
    """Trace ``module`` on one image of (image_channels, resolution, resolution) and measure it.

    Without ``image_channels``, they are those of the module's ``default_cfg``, else of its first convolution.
    Learnable numbers are all parameters, MACs what torch's own counter reports / 2. Raises :class:`InputError` with
    one sentence when something combines features in a way that has no place in the entropy of a network.
    """
    traced = _trace(module, name, resolution, image_channels)
    tracer = _Tracer(name, traced.graph, traced.weights)
    return of_path(name, _levels(tracer), convention=convention, gated=tracer.gated, **traced.facts)


def survey(module: nn.Module, *, name: str, resolution: int = 224) -> tuple[Score, int]:
    """A module's cost, and its convolutions resolution by resolution, with the number of its classes.

    These are the main path's where :func:`score` finds it, else all convolutions of more than one pixel: the entropies
    of such a score mean nothing. Raises :class:`InputError` when the module cannot be traced at all.
    """
    traced = _trace(module, name, resolution, None)
    try:
        tracer = _Tracer(name, traced.graph, traced.weights)
        path, gated = _levels(tracer), tracer.gated
    except InputError:
        path, gated = _resolutions(name, traced.graph)
    return of_path(name, path, convention="paper", gated=gated, **traced.facts), traced.classes


@dataclass(frozen=True)
class _Trace:
    """The operations of a module, the names of its weights, what it costs at which input, and its outputs."""

    graph: fx.Graph
    weights: list[str]
    facts: dict[str, int]
    classes: int


def _trace(module: nn.Module, name: str, resolution: int, image_channels: int | None) -> _Trace:
    if image_channels is None:
        image_channels, _ = _input_size(module)
    counter = FlopCounterMode(display=False)
    try:
        weights: dict[str, Tensor] = {
            key: tensor.detach().to("meta") for key, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        dtype = next((parameter.dtype for parameter in module.parameters()), None)
        image = torch.empty(1, image_channels, resolution, resolution, device="meta", dtype=dtype)
        with evaluating(module), torch.no_grad():
            with counter:
                functional_call(module, weights, (image,))
            graph = make_fx(lambda weights, image: functional_call(module, weights, (image,)))(weights, image).graph
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{name}: cannot be traced at {resolution} pixels ({type(error).__name__}: {reason})"
        ) from error
    for operation in counter.get_flop_counts()["Global"]:
        if str(operation) not in _COSTS:
            raise InputError(f"{name}: spends MACs in {operation}, which is neither a convolution nor a linear layer")
    facts = {
        "resolution": resolution,
        "image_channels": image_channels,
        "macs": counter.get_total_flops() // 2,
        "params": sum(parameter.numel() for parameter in module.parameters()),
    }
    (output,) = (node for node in graph.nodes if node.op == "output")
    ends = [node.meta["val"] for node in output.all_input_nodes]
    classes = int(ends[0].shape[1]) if len(ends) == 1 and ends[0].ndim == 2 else 0
    return _Trace(graph, list(weights), facts, classes)


def _resolutions(name: str, graph: fx.Graph) -> tuple[list[list[Layer]], bool]:
    """All convolutions of more than one pixel, by falling resolution, and whether there are others: those of gates."""
    layers = []
    for node in graph.nodes:
        if str(node.target).startswith("aten.convolution."):
            before, weight, after = (part.meta["val"].shape for part in (*node.args[:2], node))
            groups = before[1] // weight[1]
            stride = max(1, before[-1] // after[-1])
            size = after[-1] * stride
            layers.append(
                Layer("main", before[1], after[1], max(weight[2:]), size, stride, groups=groups, counted=True)
            )
    kept = [layer for layer in layers if layer.out_size > 1]
    if not kept:
        raise InputError(f"{name}: has no convolution of more than one pixel")
    sizes = sorted({layer.out_size for layer in kept}, reverse=True)
    return [[layer for layer in kept if layer.out_size == size] for size in sizes], len(kept) < len(layers)


class _Tracer:
    """Follows the features from operation to operation; ``weights`` names the graph's inputs but for the image."""

    def __init__(self, name: str, graph: fx.Graph, weights: Sequence[str]) -> None:
        self.name = name
        self.gated = False
        self.features: dict[fx.Node, _Features] = {}
        self.spans: dict[_Step, int] = {}
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self.weights = dict(zip(inputs, weights, strict=False))
        self.features[inputs[-1]] = _Features(None)
        for node in graph.nodes:
            if node.op == "call_function":
                self._follow(node)
        (output,) = (node for node in graph.nodes if node.op == "output")
        ends = [node for node in output.all_input_nodes if node in self.features]
        if len(ends) != 1:
            raise InputError(f"{name}: returns {len(ends)} tensors of features; must return one")
        self.end = self.features[ends[0]]

    def steps(self) -> list[_Step]:
        """The convolutions of the main path in forward order."""
        steps = list(_back(self.end.path))[::-1]
        if not steps:
            raise InputError(f"{self.name}: has no convolution on its main path")
        return steps

    def _follow(self, node: fx.Node) -> None:
        """Set the features of ``node``, if any of its inputs are features."""
        sources = [self.features[source] for source in node.all_input_nodes if source in self.features]
        value = node.meta.get("val")
        value = value[0] if isinstance(value, tuple | list) and value else value
        if not sources or not isinstance(value, Tensor):
            return
        if str(node.target).startswith("aten.convolution."):
            self.features[node] = self._convolve(node)
        elif len(sources) == 1:
            self.features[node] = self._pass(node, sources[0])
        else:
            self.features[node] = self._combine(node, sources)

    def _convolve(self, node: fx.Node) -> _Features:
        image, weight = node.args[0], node.args[1]
        assert isinstance(image, fx.Node)
        assert isinstance(weight, fx.Node)
        if weight in self.features:
            raise InputError(
                f"{self.name}: {node.name} has a kernel computed from the features, which is not understood"
            )
        features = self.features[image]
        if features.pooled:
            return features
        module = self._module(weight)
        shape, out = weight.meta["val"].shape, node.meta["val"].shape
        if len(shape) != 4 or shape[2] != shape[3] or out[2] != out[3] or node.args[6]:
            raise InputError(
                f"{self.name}: {module} has a kernel of {_sizes(shape[2:])} and puts out {_sizes(out[2:])}; must be a "
                f"square kernel on square features"
            )
        stride = max(1, image.meta["val"].shape[2] // out[2])
        # With padding of any size: the input of a padded convolution that puts out what this one does.
        layer = Layer(
            "main",
            image.meta["val"].shape[1],
            out[1],
            shape[2],
            out[2] * stride,
            stride,
            groups=image.meta["val"].shape[1] // shape[1],
            counted=True,
        )
        before = features.path
        number, spatial = (0, 0) if before is None else (before.number, before.spatial)
        return _Features(_Step(layer, module, before, number + 1, spatial + (shape[2] > 1)))

    def _pass(self, node: fx.Node, features: _Features) -> _Features:
        """One input: pointwise, normalised or pooled features keep their channels; flat ones are the classifier's."""
        if features.pooled:
            return features
        (source,) = (source for source in node.all_input_nodes if source in self.features)
        before, after = source.meta["val"], node.meta["val"]
        if isinstance(before, tuple | list):
            return features
        after = after[0] if isinstance(after, tuple | list) else after
        pools = str(node.target) in POOLINGS
        # A window of all pixels; where there are 2 x 2, it may as well be that of a shortcut.
        pools |= str(node.target) == "aten.avg_pool2d.default" and max(before.shape[2:]) > 2
        if after.ndim <= 2 or (pools and math.prod(after.shape[2:]) == 1):
            return _Features(features.path, pooled=True)
        # Pixels in one row are still pixels: a mean may follow.
        if after.ndim not in (3, 4) or after.shape[1] != before.shape[1]:
            raise InputError(
                f"{self.name}: {node.target} turns features of {_sizes(before.shape)} into {_sizes(after.shape)}, "
                f"which is not understood"
            )
        return features

    def _combine(self, node: fx.Node, sources: Sequence[_Features]) -> _Features:
        """Two inputs: a residual sum or a gate; nothing else is understood."""
        operation = str(node.target)
        if len(sources) == 2:
            one, other = sources
            if one.path is other.path and one.pooled == other.pooled:
                return one
            if operation in PRODUCTS and one.pooled != other.pooled:
                self.gated = True
                return other if one.pooled else one
            if operation in SUMS and not (one.pooled or other.pooled):
                return self._add(one, other)
        raise InputError(
            f"{self.name}: {operation} combines features {_after(sources)}, which is not understood; only residual "
            f"sums and squeeze-excite are"
        )

    def _add(self, one: _Features, other: _Features) -> _Features:
        """The branch with more convolutions is main; the other one must be a shortcut."""
        main, short = sorted((one.path, other.path), key=_worth, reverse=True)
        assert main is not None
        known = {id(step) for step in _back(main)}
        fork = next((step for step in _back(short) if id(step) in known), None)
        extra = (0 if short is None else short.spatial) - (0 if fork is None else fork.spatial)
        if extra or _worth(main) == _worth(short):
            raise InputError(
                f"{self.name}: sums features {_after((one, other))}, neither of which is a shortcut of the other; that "
                f"is not understood"
            )
        self.spans.setdefault(main, 0 if fork is None else fork.number)
        return _Features(main)

    def _module(self, weight: fx.Node) -> str:
        """The module that holds the weight, or from whose weight it is computed."""
        seen: fx.Node = weight
        while seen not in self.weights and seen.all_input_nodes:
            seen = seen.all_input_nodes[0]
        name: str = self.weights.get(seen, weight.name)
        return name.rpartition(".")[0]


def _levels(tracer: _Tracer) -> list[list[Layer]]:
    """The layers of the main path, by resolution.

    A resolution ends before the block whose convolution changes it: before the residual that holds it; without one,
    before the smallest module that holds it and another convolution of the path, unless that goes back to the first.
    """
    steps = tracer.steps()
    sizes = [step.layer.out_size for step in steps]
    starts = [0]
    for position in range(1, len(steps)):
        if sizes[position] == sizes[position - 1]:
            continue
        if sizes[position] > sizes[position - 1]:
            raise InputError(
                f"{tracer.name}: {steps[position].module} has more pixels than the convolution before it, "
                f"which is not understood"
            )
        start = _block_start(steps, tracer.spans, position)
        starts.append(start if start > starts[-1] else position)
    return [[step.layer for step in steps[start:stop]] for start, stop in itertools.pairwise([*starts, len(steps)])]


def _block_start(steps: Sequence[_Step], spans: dict[_Step, int], position: int) -> int:
    """The first convolution of the block that holds the one at ``position``."""
    residuals = [spans[step] for step in steps[position:] if step in spans and spans[step] <= position < step.number]
    if residuals:
        return max(residuals)
    parts = steps[position].module.split(".")
    for length in range(len(parts), 0, -1):
        inside = [step.module.split(".")[:length] == parts[:length] for step in steps]
        if sum(inside) > 1:
            start = position
            while start > 0 and inside[start - 1]:
                start -= 1
            return start
    return position


def _back(step: _Step | None) -> Iterator[_Step]:
    while step is not None:
        yield step
        step = step.before


def _worth(step: _Step | None) -> tuple[int, int]:
    return (0, 0) if step is None else (step.number, step.spatial)


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(str(int(size)) for size in shape)


def _after(sources: Sequence[_Features]) -> str:
    return " and ".join("of the image" if item.path is None else f"of {item.path.module}" for item in sources)
