"""Modules built from layers of :mod:`mad_ip.blocks`: every number they hold is read off a :class:`Layer`.

Shapes: ``B`` images, ``C`` channels, ``H x W`` pixels. Convolutions pad by ``kernel // 2`` and strides round up, so
that any input size passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from mad_ip.blocks import Family, Layer

__all__ = ["ConvNorm", "Residual", "SqueezeExcite", "chain", "init_weights", "total_stride"]


def total_stride(layers: Iterable[Layer]) -> int:
    """Input size over output size of consecutive layers; a shortcut's own stride is 1, its pooling has the stride."""
    return math.prod(layer.stride for layer in layers)


class ConvNorm(nn.Sequential):
    """``conv``, then ``norm`` and ``activation`` where the layer has them: (B, C_in, H, W) -> (B, C_out, H/s, W/s)."""

    def __init__(self, layer: Layer, activation: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            padding=layer.kernel // 2,
            groups=layer.groups,
            bias=layer.bias,
        )
        if layer.norm:
            self.norm = nn.BatchNorm2d(layer.out_channels)
        if layer.activation:
            # In place is safe: neither convolution nor batch normalisation needs its own output for the backward pass.
            self.activation = getattr(nn, activation)(inplace=True)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate in (0, 1) computed from all channels' means: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, squeeze: Layer, excite: Layer, activation: str) -> None:
        super().__init__()
        self.squeeze = ConvNorm(squeeze, activation)
        self.excite = ConvNorm(excite, activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate: Tensor = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * gate.sigmoid()


class Residual(nn.Module):
    """One block: ``main`` path plus ``shortcut``, which is a projection, an identity or ``None``.

    ``layers`` are the block's, in forward order: (B, C_in, H, W) -> (B, C, H/s, W/s), sizes rounded up.
    """

    def __init__(self, layers: tuple[Layer, ...], family: Family) -> None:
        super().__init__()
        self.main = chain((layer for layer in layers if layer.role != "shortcut"), family.activation)
        self.shortcut = _shortcut(layers, family.activation)
        self.activation = getattr(nn, family.activation)(inplace=True) if family.activated_sum else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H/s, W/s)."""
        y = self.main(x)
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        activated: Tensor = self.activation(y)
        return activated


def chain(layers: Iterable[Layer], activation: str) -> nn.Sequential:
    """The layers one after another, a squeeze and the excite that follows it as one module; identity if empty."""
    modules = nn.Sequential()
    remaining = iter(layers)
    for layer in remaining:
        if layer.role == "squeeze":
            modules.append(SqueezeExcite(layer, next(remaining), activation))
        else:
            modules.append(ConvNorm(layer, activation))
    return modules


def _shortcut(layers: tuple[Layer, ...], activation: str) -> nn.Module | None:
    """The projection that the family lists and the shapes need (ResNet-D), else identity where the shapes allow it."""
    stride = total_stride(layers)
    main = [layer for layer in layers if layer.role == "main"]
    projection = [layer for layer in layers if layer.role == "shortcut" and layer.present]
    if projection:
        path = chain(projection, activation)
        if stride > 1:
            # Partial windows at an odd border, averaged over real pixels only: as many as the strided convolution has.
            path.insert(0, nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        return path
    unchanged = stride == 1 and main[0].in_channels == main[-1].out_channels
    return nn.Identity() if unchanged else None


def init_weights(module: nn.Module) -> None:
    """Initialise one module, for :meth:`torch.nn.Module.apply`, which visits a block after its layers.

    Convolutions: Kaiming normal on the fan-out (of one group), biases 0. Normalisations: 1 and 0, and the last one of
    a residual branch 0 and 0, so that a block starts as its shortcut; without a shortcut that would stop the signal.
    Linear: normal with standard deviation 0.01, bias 0.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
    elif isinstance(module, Residual) and module.shortcut is not None:
        *_, last = (layer for layer in module.main.modules() if isinstance(layer, nn.BatchNorm2d))
        nn.init.zeros_(last.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
