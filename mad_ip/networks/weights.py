"""Weights in the formats that others read."""

from __future__ import annotations

import io
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from mad_ip.errors import InputError
from mad_ip.files import write_atomically
from mad_ip.networks.network import Network

__all__ = ["save_weights"]


def save_weights(network: Network, path: Path | str) -> None:
    """Write the state dict of ``network`` atomically: ``.safetensors``, or ``.pt`` / ``.pth`` by :func:`torch.save`.

    The tensors are stored for the CPU and contiguous, whatever device and memory format the network has.

    Raises:
        InputError: ``path`` has another suffix or cannot be written.
    """
    suffix = Path(path).suffix
    if suffix not in _SERIALISERS:
        raise InputError(f"{path}: suffix {suffix!r}: must be one of {', '.join(_SERIALISERS)}")
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = _SERIALISERS[suffix](weights)
    write_atomically(path, content)


def _safetensors(weights: dict[str, Tensor]) -> bytes:
    # Readers such as transformers refuse a file that does not say which framework wrote it.
    return safetensors.torch.save(weights, metadata={"format": "pt"})


def _pickled(weights: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


_SERIALISERS = {".safetensors": _safetensors, ".pt": _pickled, ".pth": _pickled}
