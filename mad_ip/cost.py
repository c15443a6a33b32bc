"""MACs and parameters of a list of layers, for single integers and arrays alike (docs/formulation.md section 1)."""

from __future__ import annotations

from collections.abc import Iterable

from mad_ip.blocks import Amount, Layer

__all__ = ["macs", "params"]


def macs(layers: Iterable[Layer]) -> Amount:
    """Multiply-accumulates at batch 1, what ``torch.utils.flop_counter`` reports divided by 2."""
    return sum(layer.positions * layer.out_channels * layer.width * layer.present for layer in layers)


def params(layers: Iterable[Layer]) -> Amount:
    """Learnable numbers: kernels, biases, and the scale and shift of every batch normalisation."""
    return sum(layer.out_channels * (layer.width + layer.bias + 2 * layer.norm) * layer.present for layer in layers)
