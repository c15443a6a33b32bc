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
    from mad_ip.kinds import design_kind

    kind = design_kind(path)
    network: Network | nn.Sequential = kind.network(kind.load_design(path))
    return network
