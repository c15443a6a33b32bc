"""Block families: the layers each is made of, the one place where a layer's numbers are written.

Every function takes single integers or NumPy integer arrays (broadcast against each other) for the channel counts,
inner widths and kernels, so that one arithmetic serves one network, a catalogue of a million options, and the torch
modules (design.md sections 1 and 3).

Symbols: ``c_in`` channels in, ``c`` channels out, ``m`` inner width, ``k`` kernel, ``s`` stride, ``size`` input
resolution in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["FAMILIES", "Amount", "Family", "Layer", "Role", "block", "head", "hidden_width", "stem", "tail"]

Amount: TypeAlias = Any
"""A Python int or a NumPy integer array."""

Role = Literal["stem", "main", "shortcut", "squeeze", "excite", "tail", "head"]


@dataclass(frozen=True)
class Layer:
    """One convolution (or the head's linear layer, a 1x1 convolution on one pixel).

    ``present`` is 0 or 1 and multiplies the layer's cost: whether a shortcut needs a projection depends on the
    channels, which may be arrays. ``activation`` says whether one follows the layer itself.
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
    activation: bool = True
    counted: bool = False
    present: Amount = 1

    @property
    def out_size(self) -> int:
        """Output resolution in pixels, with padding ``kernel // 2``."""
        return -(-self.in_size // self.stride)

    @property
    def width(self) -> Amount:
        """``w = c_in k^2 / groups`` (paper, Prop. 2)."""
        return self.in_channels // self.groups * self.kernel**2


def hidden_width(m: Amount) -> Amount:
    """Squeeze-excite hidden width ``max(8, 8 floor(m/32 + 1/2))``."""
    hidden = 8 * ((m + 16) // 32)
    return hidden + 8 * (hidden == 0)


def _projection(c_in: Amount, c: Amount, stride: int, size: int) -> Layer:
    """ResNet-D shortcut: 1x1 convolution, after 2x2 average pooling at stride 2; absent where identity serves."""
    changes = (c_in != c) | (stride != 1)
    return Layer("shortcut", c_in, c, 1, -(-size // stride), activation=False, present=changes * 1)


def _basic(c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int) -> tuple[Layer, ...]:
    first = Layer("main", c_in, m, k, size, stride, counted=True)
    second = Layer("main", m, c, k, first.out_size, activation=False, counted=True)
    return first, second, _projection(c_in, c, stride, size)


def _bottleneck(c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int) -> tuple[Layer, ...]:
    reduce = Layer("main", c_in, m, 1, size, counted=True)
    spatial = Layer("main", m, m, k, size, stride, counted=True)
    expand = Layer("main", m, c, 1, spatial.out_size, activation=False, counted=True)
    return reduce, spatial, expand, _projection(c_in, c, stride, size)


def _inverted(c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int) -> tuple[Layer, ...]:
    expand = Layer("main", c_in, m, 1, size, counted=True)
    depthwise = Layer("main", m, m, k, size, stride, groups=m, counted=True)
    project = Layer("main", m, c, 1, depthwise.out_size, activation=False, counted=True)
    return expand, depthwise, project


def _inverted_se(c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int) -> tuple[Layer, ...]:
    expand, depthwise, project = _inverted(c_in, c, m, k, stride, size)
    hidden = hidden_width(m)
    squeeze = Layer("squeeze", m, hidden, 1, 1, bias=True, norm=False)
    excite = Layer("excite", hidden, m, 1, 1, bias=True, norm=False, activation=False)
    return expand, depthwise, squeeze, excite, project


@dataclass(frozen=True)
class Family:
    """``layers`` builds one block in forward order; ``activation`` is a torch.nn class name.

    ``activated_sum``: an activation follows the residual sum. Where identity does not serve, the shortcut is the layer
    of role "shortcut", or none when the block has no such layer.
    """

    layers: Callable[[Amount, Amount, Amount, Amount, int, int], tuple[Layer, ...]]
    activation: str
    activated_sum: bool


FAMILIES: dict[str, Family] = {
    "basic": Family(_basic, "ReLU", activated_sum=True),
    "bottleneck": Family(_bottleneck, "ReLU", activated_sum=True),
    "inverted": Family(_inverted, "SiLU", activated_sum=False),
    "inverted_se": Family(_inverted_se, "SiLU", activated_sum=False),
}


def block(family: str, c_in: Amount, c: Amount, m: Amount, k: Amount, stride: int, size: int) -> tuple[Layer, ...]:
    """The layers of one block of ``family`` (a key of :data:`FAMILIES`) on a ``size x size`` input."""
    return FAMILIES[family].layers(c_in, c, m, k, stride, size)


def stem(channels: Amount, c: Amount, k: Amount, stride: int, size: int) -> tuple[Layer, ...]:
    """The stem's convolution from ``channels`` image channels to ``c``."""
    return (Layer("stem", channels, c, k, size, stride, counted=True),)


def tail(c_in: Amount, c: Amount, size: int) -> tuple[Layer, ...]:
    """The tail's 1x1 convolution."""
    return (Layer("tail", c_in, c, 1, size, counted=True),)


def head(c_in: Amount, classes: int) -> tuple[Layer, ...]:
    """The linear classifier after global average pooling; no layer when ``classes`` is 0."""
    if classes == 0:
        return ()
    return (Layer("head", c_in, classes, 1, 1, bias=True, norm=False, activation=False),)
