"""Weights in the formats that others read."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mad_ip.errors import InputError
from mad_ip.files import read_bytes, write_atomically

__all__ = ["load_weights", "save_weights", "unpickled"]

_NAMED = 3
"""How many keys of a kind the sentence on a mismatch names."""


def save_weights(network: nn.Module, path: Path | str) -> None:
    """Write the state dict of ``network`` atomically: ``.safetensors``, or ``.pt`` / ``.pth`` by :func:`torch.save`.

    The tensors are stored for the CPU and contiguous, whatever device and memory format the network has.

    Raises:
        InputError: ``path`` has another suffix or cannot be written.
    """
    serialise = _SERIALISERS[_suffix(path)]
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = serialise(weights)
    write_atomically(path, content)


def load_weights(network: nn.Module, path: Path | str) -> None:
    """Give ``network`` the state dict that :func:`save_weights`, safetensors or :func:`torch.save` wrote to ``path``.

    Every key and shape must fit; numbers are converted to the network's own type and device. Nothing but tensors is
    read from a pickle.

    Raises:
        InputError: ``path`` has another suffix, or holds no state dict that fits; the network stays as it was.
    """
    weights = _PARSERS[_suffix(path)](read_bytes(path), path)
    mismatches = _mismatches(network.state_dict(), weights)
    if mismatches:
        raise InputError(f"{path}: its weights do not fit the network: {'; '.join(mismatches)}")
    network.load_state_dict(weights)


def _suffix(path: Path | str) -> str:
    suffix = Path(path).suffix
    if suffix not in _SERIALISERS:
        raise InputError(f"{path}: suffix {suffix!r}: must be one of {', '.join(_SERIALISERS)}")
    return suffix


def _mismatches(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """What keeps ``found`` from being loaded strictly, one phrase for each kind; empty when it fits."""
    shapes = [
        f"{name} of shape {tuple(found[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [repr(name) for name in found if name not in expected],
        "ill-shaped": shapes,
    }
    phrases = []
    for kind, names in kinds.items():
        rest = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
        if names:
            phrases.append(f"{kind} {', '.join(names[:_NAMED] + rest)}")
    return phrases


def _safetensors(weights: dict[str, Tensor]) -> bytes:
    # Readers such as transformers refuse a file that does not say which framework wrote it. There is no second entry:
    # safetensors writes them in any order, and the same weights would make different files.
    return safetensors.torch.save(weights, metadata={"format": "pt"})


def _parsed_safetensors(content: bytes, path: Path | str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def _pickled(weights: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def unpickled(content: bytes) -> Any:
    """What :func:`torch.load` reads of tensors and plain values, without running code; None where it reads nothing."""
    with warnings.catch_warnings(action="ignore"):  # of pickles that it refuses afterwards
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:  # a broken pickle can raise any
            return None


def _parsed_pickle(content: bytes, path: Path | str) -> dict[str, Tensor]:
    weights = unpickled(content)
    if weights is None:
        raise InputError(f"{path}: torch.load cannot read it with weights_only=True; must be a state dict")
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise InputError(f"{path}: holds something other than named tensors; must be a state dict")
    return dict(weights)


_SERIALISERS = {".safetensors": _safetensors, ".pt": _pickled, ".pth": _pickled}
_PARSERS = {".safetensors": _parsed_safetensors, ".pt": _parsed_pickle, ".pth": _parsed_pickle}
