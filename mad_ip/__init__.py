"""Design convolutional networks by exact mathematical programming."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mad_ip.networks import Network

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(path: Path | str) -> Network:
    """Build the PyTorch network of a design.json; raise :class:`mad_ip.errors.InputError` when it is not one."""
    from mad_ip.design import Design
    from mad_ip.networks import Network

    return Network(Design.load(path))
