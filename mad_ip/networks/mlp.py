"""The torch module of an MLP's design."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mad_ip.errors import InternalError
from mad_ip.mlp.design import MlpDesign

__all__ = ["build", "measure", "verify_cost"]


def build(design: MlpDesign) -> nn.Sequential:
    """Linear layers with bias, ReLU between them: (B, features) -> (B, classes).

    Weights are Kaiming normal on the fan-in, biases 0.
    """
    modules: list[nn.Module] = []
    for layer in design.layers():
        linear = nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias)
        last = len(modules) == 2 * (design.metrics.layers - 1)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="linear" if last else "relu")
        nn.init.zeros_(linear.bias)
        modules += [linear] if last else [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)


def measure(network: nn.Sequential) -> tuple[int, int]:
    """MACs for one sample (``torch.utils.flop_counter`` / 2) and learnable numbers of an MLP."""
    weight = next(network.parameters())
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, weight.shape[1], device=weight.device, dtype=weight.dtype))
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in network.parameters())


def verify_cost(network: nn.Sequential, design: MlpDesign) -> None:
    """Raise :class:`InternalError` unless ``network`` measures what its design's metrics say, to the last unit."""
    metrics = design.metrics
    macs, params = measure(network)
    if (macs, params) != (metrics.macs, metrics.params):
        raise InternalError(
            f"{design.name}: the built network measures {macs} MACs and {params} parameters, "
            f"but its design is modelled with {metrics.macs} MACs and {metrics.params} parameters"
        )
