"""The torch module of an MLP's design."""

from __future__ import annotations

from torch import nn

from mad_ip.mlp.design import MlpDesign
from mad_ip.networks.measure import measure, verify_cost

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
