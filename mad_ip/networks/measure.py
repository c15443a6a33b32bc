"""What a built network costs, by torch's own counter, against what its design says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mad_ip.design import Design
from mad_ip.errors import InternalError
from mad_ip.mlp import MlpDesign
from mad_ip.networks.network import Network

__all__ = ["evaluating", "measure", "verify_cost"]


def measure(network: nn.Module, design: Design | MlpDesign | None = None) -> tuple[int, int]:
    """MACs (``torch.utils.flop_counter`` / 2, batch 1, the design's input size) and learnable numbers of ``network``.

    Without ``design``, that is the network's own. The counter reads shapes only, so the forward pass runs on meta
    copies of the weights: nothing is computed, and ``network`` keeps its weights, its statistics and every module's
    train or eval mode.
    """
    design = _own(network) if design is None else design
    weights = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    dtype = next(network.parameters()).dtype
    image = torch.empty(1, *design.input_shape, device="meta", dtype=dtype)
    counter = FlopCounterMode(display=False)
    with evaluating(network), torch.no_grad(), counter:
        functional_call(network, weights, image)
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in network.parameters())


def verify_cost(network: nn.Module, design: Design | MlpDesign | None = None) -> None:
    """Raise :class:`InternalError` unless ``network`` measures what its design's metrics say, to the last unit."""
    design = _own(network) if design is None else design
    metrics = design.metrics
    macs, params = measure(network, design)
    if (macs, params) != (metrics.macs, metrics.params):
        raise InternalError(
            f"{design.name}: the built network measures {macs} MACs and {params} parameters, "
            f"but its design is modelled with {metrics.macs} MACs and {metrics.params} parameters"
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """All modules in eval mode, and afterwards each in its own again."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _own(network: nn.Module) -> Design:
    assert isinstance(network, Network)
    return network.design
