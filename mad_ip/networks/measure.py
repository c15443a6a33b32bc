"""What a built network costs, by torch's own counter, against what its design says."""

from __future__ import annotations

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mad_ip.errors import InternalError
from mad_ip.networks.network import Network

__all__ = ["measure", "verify_cost"]


def measure(network: Network) -> tuple[int, int]:
    """MACs (``torch.utils.flop_counter`` / 2, batch 1, the design's input size) and learnable numbers of ``network``.

    The counter reads shapes only, so the forward pass runs on meta copies of the weights: nothing is computed, and
    ``network`` keeps its weights, its statistics and every module's train or eval mode.
    """
    design = network.design
    weights = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    dtype = next(network.parameters()).dtype
    image = torch.empty(1, *design.input_shape, device="meta", dtype=dtype)
    modes = [(module, module.training) for module in network.modules()]
    counter = FlopCounterMode(display=False)
    try:
        network.eval()
        with torch.no_grad(), counter:
            functional_call(network, weights, image)
    finally:
        for module, training in modes:
            module.training = training
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in network.parameters())


def verify_cost(network: Network) -> None:
    """Raise :class:`InternalError` unless ``network`` measures what its design's metrics say, to the last unit."""
    metrics = network.design.metrics
    macs, params = measure(network)
    if (macs, params) != (metrics.macs, metrics.params):
        raise InternalError(
            f"{network.design.name}: the built network measures {macs} MACs and {params} parameters, "
            f"but its design is modelled with {metrics.macs} MACs and {metrics.params} parameters"
        )
