"""Design convolutional networks by exact mathematical programming."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from mad_ip.networks import Network

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(path: Path | str) -> Network | nn.Sequential:
    """Build the PyTorch network of a design.json, an ``nn.Sequential`` for an MLP's.

    Raises :class:`mad_ip.errors.InputError` when it is not one.
    """
    from mad_ip import mlp
    from mad_ip.design import Design
    from mad_ip.networks import Network
    from mad_ip.networks import mlp as mlp_networks

    if mlp.is_design(path):
        return mlp_networks.build(mlp.MlpDesign.load(path))
    return Network(Design.load(path))
