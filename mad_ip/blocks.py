"""Block families: the layers each is made of, the one place where a layer's numbers are written.

Every function takes single integers or NumPy integer arrays (broadcast against each other) for the channel counts,
inner widths and kernels, so that one arithmetic serves one network, a catalogue of a million options, and the torch
modules (docs/formulation.md section 1).

Networks for clips have the same families: a ``k x k`` convolution becomes ``k_t x k x k``, and the others act on every
frame by itself.

Symbols: ``c_in`` channels in, ``c`` channels out, ``m`` inner width, ``k`` kernel, ``s`` stride, ``size`` input
resolution in pixels, ``time`` the time axis with its kernel ``k_t`` and stride, of an image where it is not given.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mad_ip.spec import Segment, Time

__all__ = [
    "FAMILIES",
    "KNOWN",
    "Amount",
    "Family",
    "Layer",
    "Role",
    "block",
    "closing",
    "head",
    "hidden_width",
    "opening",
    "repeated",
    "stem",
    "tail",
]

Amount: TypeAlias = Any
"""A Python int or a NumPy integer array."""

_IMAGE = Time()

Role = Literal["stem", "main", "shortcut", "squeeze", "excite", "tail", "head"]


@dataclass(frozen=True)
class Layer:
    """One convolution (or the head's linear layer, a 1x1 convolution on one pixel).

    ``present`` is 0 or 1 and multiplies the layer's cost: whether a shortcut needs a projection depends on the
    channels, which may be arrays. ``activation`` is the torch.nn class of the one that follows the layer itself, if
    any. ``depthwise`` layers have one group for every channel. ``pooled`` is the resolution of what is averaged before
    the layer, where something is, of ``pooled_frames`` frames.
    """

    role: Role
    in_channels: Amount
    out_channels: Amount
    kernel: Amount
    in_size: int
    stride: int = 1
    groups: Amount = 1
    bias: bool = False
    norm: bool = True
    activation: str = ""
    counted: bool = False
    present: Amount = 1
    time: Time = _IMAGE
    depthwise: bool = False
    pooled: int = 0
    pooled_frames: int = 1

    @property
    def out_size(self) -> int:
        """Output resolution in pixels, with padding ``kernel // 2``."""
        return -(-self.in_size // self.stride)

    @property
    def positions(self) -> int:
        """Output pixels, of all frames."""
        return (self.time.out_frames or 1) * self.out_size**2

    @property
    def inputs(self) -> Amount:
        """Numbers that enter."""
        return (self.time.frames or 1) * self.in_size**2 * self.in_channels

    @property
    def outputs(self) -> Amount:
        """Numbers that leave."""
        return self.positions * self.out_channels

    @property
    def averaged(self) -> Amount:
        """Numbers that are averaged before it."""
        return self.pooled_frames * self.pooled**2 * self.in_channels

    @property
    def pool_stride(self) -> int:
        """Stride and window of that averaging, in pixels."""
        return -(-self.pooled // self.in_size)

    @property
    def width(self) -> Amount:
        """``w = c_in k_t k^2 / groups`` (paper, Prop. 2)."""
        return self.in_channels // self.groups * self.time.kernel * self.kernel**2


def hidden_width(m: Amount) -> Amount:
    """Squeeze-excite hidden width ``max(8, 8 floor(m/32 + 1/2))``."""
    hidden = 8 * ((m + 16) // 32)
    return hidden + 8 * (hidden == 0)


def _projection(c_in: Amount, c: Amount, stride: int, size: int, time: Time) -> Layer:
    """ResNet-D shortcut: 1x1 convolution, after average pooling by the strides; absent where identity serves."""
    changes = (c_in != c) | (stride != 1) | (time.stride != 1)
    out, pooled = Time(time.out_frames), size if stride > 1 or time.stride > 1 else 0
    smaller, frames = -(-size // stride), time.frames or 1
    return Layer("shortcut", c_in, c, 1, smaller, present=changes * 1, time=out, pooled=pooled, pooled_frames=frames)


def _basic(c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int, time: Time) -> tuple[Layer, ...]:
    first = Layer("main", c_in, m, k, size, stride, activation="ReLU", counted=True, time=time)
    second = Layer("main", m, c, k, first.out_size, counted=True, time=time.after)
    return first, second, _projection(c_in, c, stride, size, time)


def _bottleneck(c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int, time: Time) -> tuple[Layer, ...]:
    reduce = Layer("main", c_in, m, 1, size, activation="ReLU", counted=True, time=Time(time.frames))
    spatial = Layer("main", m, m, k, size, stride, activation="ReLU", counted=True, time=time)
    expand = Layer("main", m, c, 1, spatial.out_size, counted=True, time=Time(time.out_frames))
    return reduce, spatial, expand, _projection(c_in, c, stride, size, time)


def _inverted(c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int, time: Time) -> tuple[Layer, ...]:
    expand = Layer("main", c_in, m, 1, size, activation="SiLU", counted=True, time=Time(time.frames))
    return expand, *_separable(m, c, m, k, stride, size, time)


def _separable(c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int, time: Time) -> tuple[Layer, ...]:
    depthwise = Layer(
        "main", m, m, k, size, stride, groups=m, activation="SiLU", counted=True, time=time, depthwise=True
    )
    project = Layer("main", m, c, 1, depthwise.out_size, counted=True, time=Time(time.out_frames))
    return depthwise, project


def _inverted_se(
    c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int, time: Time
) -> tuple[Layer, ...]:
    expand, depthwise, project = _inverted(c_in, c, m, k, stride, size, time)
    hidden = hidden_width(m)
    pooled = Time(None if time.frames is None else 1)
    size, frames = depthwise.out_size, time.out_frames or 1
    squeeze = Layer(
        "squeeze",
        m,
        hidden,
        1,
        1,
        bias=True,
        norm=False,
        activation="SiLU",
        time=pooled,
        pooled=size,
        pooled_frames=frames,
    )
    excite = Layer("excite", hidden, m, 1, 1, bias=True, norm=False, time=pooled)
    return expand, depthwise, squeeze, excite, project


@dataclass(frozen=True)
class Family:
    """``layers`` builds one block in forward order; ``activation`` is a torch.nn class name.

    ``activated_sum``: an activation follows the residual sum. Where identity does not serve, the shortcut is the layer
    of role "shortcut", or none when the block has no such layer.
    """

    layers: Callable[[Amount, Amount, Amount, Amount, int, int, Time], tuple[Layer, ...]]
    activation: str
    activated_sum: bool


FAMILIES: dict[str, Family] = {
    "basic": Family(_basic, "ReLU", activated_sum=True),
    "bottleneck": Family(_bottleneck, "ReLU", activated_sum=True),
    "inverted": Family(_inverted, "SiLU", activated_sum=False),
    "inverted_se": Family(_inverted_se, "SiLU", activated_sum=False),
}
"""What a spec may choose, by name."""

KNOWN: Mapping[str, Family] = ChainMap({"separable": Family(_separable, "SiLU", activated_sum=False)}, FAMILIES)
"""Also what only networks that others made have, an inverted block without its first layer, whose inner width is that
of the channels before it.
"""


def block(
    family: str, c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int, time: Time = _IMAGE
) -> tuple[Layer, ...]:
    """The layers of one block of ``family`` (a key of :data:`KNOWN`) on a ``size x size`` input."""
    return KNOWN[family].layers(c_in, c, m, k, stride, size, time)


def stem(
    channels: Amount, c: Amount, k: Amount, stride: int, size: int, time: Time = _IMAGE, activation: str = "ReLU"
) -> tuple[Layer, ...]:
    """The stem's convolution from ``channels`` image channels to ``c``."""
    return (Layer("stem", channels, c, k, size, stride, activation=activation, counted=True, time=time),)


def tail(c_in: Amount, c: Amount, size: int, time: Time = _IMAGE, activation: str = "ReLU") -> tuple[Layer, ...]:
    """The tail's 1x1 convolution."""
    return (Layer("tail", c_in, c, 1, size, activation=activation, counted=True, time=time),)


def head(c_in: Amount, classes: int, size: int = 1, frames: int = 1) -> tuple[Layer, ...]:
    """The linear classifier after global average pooling; no layer when ``classes`` is 0."""
    if classes == 0:
        return ()
    return (Layer("head", c_in, classes, 1, 1, bias=True, norm=False, pooled=size, pooled_frames=frames),)


def opening(segment: Segment, c_in: Amount, c: Amount, m: Amount, k: Amount) -> tuple[Layer, ...]:
    """The layers of a segment's first block, or the one of the stem or the tail."""
    if segment.kind == "stem":
        return stem(c_in, c, k, segment.stride, segment.size, segment.time, KNOWN[segment.block].activation)
    if segment.kind == "tail":
        return tail(c_in, c, segment.size, segment.time, KNOWN[segment.block].activation)
    return block(segment.block, c_in, c, m, k, segment.stride, segment.size, segment.time)


def repeated(segment: Segment, c: Amount, m: Amount, k: Amount) -> tuple[Layer, ...]:
    """The layers of every further block of a segment; none of the stem and the tail."""
    if segment.kind != "stage":
        return ()
    return block(segment.block, c, c, m, k, 1, segment.out_size, segment.time.after)


def closing(segment: Segment, c: Amount) -> tuple[Layer, ...]:
    """The head where it follows a segment."""
    return head(c, segment.classes, segment.out_size, segment.time.out_frames or 1)
