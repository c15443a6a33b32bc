"""Modules built from layers of :mod:`mad_ip.blocks`: every number they hold is read off a :class:`Layer`.

Shapes: ``B`` images, ``C`` channels, ``H x W`` pixels. Clips have another axis, ``F`` frames, before the pixels, and
layers with frames act on them. Convolutions pad by ``kernel // 2`` and strides round up, so that any input size passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mad_ip.blocks import Family, Layer
from mad_ip.cost import identity

__all__ = ["ClipPool", "ConvNorm", "DropPath", "Residual", "SqueezeExcite", "chain", "init_weights", "total_stride"]


def _window(layer: Layer, temporal: int, spatial: int) -> tuple[int, ...]:
    """(frames, rows, columns) of a kernel, padding or stride of a layer with frames, (rows, columns) of any other."""
    return (spatial, spatial) if layer.time.frames is None else (temporal, spatial, spatial)


def total_stride(layers: Iterable[Layer]) -> int:
    """Input size over output size of consecutive layers; a shortcut's own stride is 1, its pooling has the stride."""
    return math.prod(layer.stride for layer in layers)


class ConvNorm(nn.Sequential):
    """``conv``, then ``norm`` and ``activation`` where the layer has them: (B, C_in, H, W) -> (B, C_out, H/s, W/s)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        convolution: Any = nn.Conv2d if layer.time.frames is None else nn.Conv3d
        norm: Any = nn.BatchNorm2d if layer.time.frames is None else nn.BatchNorm3d
        self.conv = convolution(
            layer.in_channels,
            layer.out_channels,
            _window(layer, layer.time.kernel, layer.kernel),
            _window(layer, layer.time.stride, layer.stride),
            padding=_window(layer, layer.time.kernel // 2, layer.kernel // 2),
            groups=layer.groups,
            bias=layer.bias,
        )
        if layer.norm:
            self.norm = norm(layer.out_channels)
        if layer.activation:
            # In place is safe: neither convolution nor batch normalisation needs its own output for the backward pass.
            self.activation = getattr(nn, layer.activation)(inplace=True)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate in (0, 1) computed from all channels' means: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, squeeze: Layer, excite: Layer) -> None:
        super().__init__()
        self.pooled = (2, 3) if squeeze.time.frames is None else (2, 3, 4)
        self.squeeze = ConvNorm(squeeze)
        self.excite = ConvNorm(excite)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate: Tensor = self.excite(self.squeeze(x.mean(self.pooled, keepdim=True)))
        return x * gate.sigmoid()


class DropPath(nn.Module):
    """Stochastic depth: in training a sample is zero with probability ``rate``, else scaled by ``1 / (1 - rate)``."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training:
            return x
        return x * functional.dropout(x.new_ones([x.shape[0]] + [1] * (x.ndim - 1)), self.rate)

    def extra_repr(self) -> str:
        """The rate, for ``print``."""
        return f"rate={self.rate:.3g}"


class ClipPool(nn.Module):
    """Average pooling by strides, at an odd border over what is there: (B, C, F, H, W) -> (B, C, F/s_t, H/s, W/s).

    Unlike torch's own, and like that for images, it takes what is smaller than a window.
    """

    def __init__(self, temporal_stride: int, stride: int) -> None:
        super().__init__()
        self.temporal_stride = temporal_stride
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> (B, C, F/s_t, H/s, W/s), sizes rounded up."""
        window = [min(self.temporal_stride, x.shape[2]), min(self.stride, x.shape[3]), min(self.stride, x.shape[4])]
        return functional.avg_pool3d(x, window, window, ceil_mode=True, count_include_pad=False)

    def extra_repr(self) -> str:
        """The strides, for ``print``."""
        return f"temporal_stride={self.temporal_stride}, stride={self.stride}"


class Residual(nn.Module):
    """One block: ``main`` path plus ``shortcut``, which is a projection, an identity or ``None``.

    ``layers`` are the block's, in forward order: (B, C_in, H, W) -> (B, C, H/s, W/s), sizes rounded up.
    ``drop_path_rate`` is the probability that training drops the main path; it is kept where there is no shortcut.
    """

    def __init__(self, layers: tuple[Layer, ...], family: Family, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.main = chain(layer for layer in layers if layer.role != "shortcut")
        self.shortcut = _shortcut(layers)
        dropped = drop_path_rate > 0 and self.shortcut is not None
        self.drop_path = DropPath(drop_path_rate) if dropped else nn.Identity()
        self.activation = getattr(nn, family.activation)(inplace=True) if family.activated_sum else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H/s, W/s)."""
        y = self.main(x)
        if self.shortcut is not None:
            y = self.drop_path(y) + self.shortcut(x)
        activated: Tensor = self.activation(y)
        return activated


def chain(layers: Iterable[Layer]) -> nn.Sequential:
    """The layers one after another, a squeeze and the excite that follows it as one module; identity if empty."""
    modules = nn.Sequential()
    remaining = iter(layers)
    for layer in remaining:
        if layer.role == "squeeze":
            modules.append(SqueezeExcite(layer, next(remaining)))
        else:
            modules.append(ConvNorm(layer))
    return modules


def _shortcut(layers: tuple[Layer, ...]) -> nn.Module | None:
    """The projection that the family lists and the shapes need (ResNet-D), else identity where the shapes allow it."""
    stride, temporal_stride = total_stride(layers), math.prod(layer.time.stride for layer in layers)
    main = [layer for layer in layers if layer.role == "main"]
    projection = [layer for layer in layers if layer.role == "shortcut" and layer.present]
    if projection:
        path = chain(projection)
        if stride > 1 or temporal_stride > 1:
            # Partial windows at an odd border, averaged over real pixels only: as many as the strided convolution has.
            if main[0].time.frames is None:
                path.insert(0, nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
            else:
                path.insert(0, ClipPool(temporal_stride, stride))
        return path
    return nn.Identity() if identity(main) else None


def init_weights(module: nn.Module) -> None:
    """Initialise one module, for :meth:`torch.nn.Module.apply`, which visits a block after its layers.

    Convolutions: Kaiming normal on the fan-out (of one group), biases 0. Normalisations: 1 and 0, and the last one of
    a residual branch 0 and 0, so that a block starts as its shortcut; without a shortcut that would stop the signal.
    Linear: normal with standard deviation 0.01, bias 0.
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        module.reset_parameters()
    elif isinstance(module, Residual) and module.shortcut is not None:
        *_, last = (layer for layer in module.main.modules() if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d))
        nn.init.zeros_(last.weight)
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
