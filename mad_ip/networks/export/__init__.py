"""Networks for those who have no mad-ip: ONNX, torch.export, TensorFlow Lite, safetensors, and Python source.

Every file is read back by its own reader and compared with the network before it is put in its place.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mad_ip import tinynas
from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.files import require_new, write_atomically
from mad_ip.networks.export import programs, standalone
from mad_ip.networks.network import Network
from mad_ip.networks.weights import load_weights, save_weights

if TYPE_CHECKING:
    from mad_ip.networks.export.tflite import Fidelity

__all__ = ["FORMATS", "Format", "default_path", "export"]


@dataclass(frozen=True)
class Format:
    """``suffix`` of the file, the optional packages that it ``needs``, of an ``extra``, and what makes its content.

    ``content`` is ``None`` for a file of weights alone, and for one that is ``calibrated`` on images; ``weighted`` says
    whether the file holds weights at all.
    """

    suffix: str
    content: Callable[[Network], bytes] | None
    needs: tuple[str, ...] = ()
    weighted: bool = True
    calibrated: bool = False
    extra: str = "export"


FORMATS = {
    "onnx": Format(".onnx", programs.onnx_model, ("onnx", "onnxruntime", "onnxscript")),
    "torch-export": Format(".pt2", programs.torch_program),
    "tflite": Format(".tflite", None, ("ai_edge_litert", "PIL"), calibrated=True, extra="tflite"),
    "safetensors": Format(".safetensors", None),
    "python": Format(".py", standalone.source, ("jinja2",), weighted=False),
    "tinynas": Format(".txt", lambda network: tinynas.to_structure(network.design).encode(), weighted=False),
}


def default_path(design: Path, kind: str) -> Path:
    """Beside the design.json, with the suffix of the format.

    Raises :class:`InputError` for another format, or when that is the design.json itself.
    """
    path = design.with_suffix(_format(kind).suffix)
    if path == design:
        raise InputError(f"{design}: --format {kind} would take the place of the design; --out is needed")
    return path


def export(
    design: Design,
    kind: str,
    path: Path | str,
    *,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    images: Path | str | None = None,
    quantised: bool = True,
    activation: str | None = None,
) -> Fidelity | None:
    """Write the network of ``design`` in a format of :data:`FORMATS`, atomically and after a check.

    The weights are those of ``checkpoint`` (.safetensors, .pt or .pth), or initial ones from ``seed``.

    The others are for "tflite": ``images`` to calibrate on, as :func:`mad_ip.networks.export.tflite.load_images` takes
    them, random ones if ``None``; int8 numbers, or float32 where not ``quantised``; and an ``activation``, ReLU or
    ReLU6, in the place of the design's own. How close the file is to the network is returned.

    Raises:
        InputError: another format, a path of another suffix or in no folder, a missing package, a checkpoint that does
            not fit, or none for a format without weights, an option of another format, or images that are none.
        InternalError: the file does not compute what the network computes.
    """
    form = _format(kind)
    for name in form.needs:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"mad-ip export --format {kind} needs {name}, which is not installed; "
                f"pip install 'mad-ip[{form.extra}]'"
            )
    if Path(path).suffix != form.suffix:
        raise InputError(f"--out = {path}: the suffix of --format {kind} must be {form.suffix}")
    require_new("--out", path, checkpoint)
    if checkpoint is not None and not form.weighted:
        raise InputError(
            f"--checkpoint = {checkpoint}: a file of --format {kind} holds no weights; "
            "must be left out, and load_state_dict of the network takes the checkpoint"
        )
    options = {"images": images, "float32": None if quantised else True, "activation": activation}
    for option, value in options.items():
        if value is not None and not form.calibrated:
            raise InputError(f"--{option} = {value}: is for --format tflite; must be left out for {kind}")
    torch.manual_seed(seed)
    network = Network(design)
    if checkpoint is not None:
        load_weights(network, checkpoint)
    network.eval()
    if form.calibrated:
        from mad_ip.networks.export import tflite

        if activation is not None:
            tflite.replace_activations(network, activation)
        given = None if images is None else tflite.load_images(Path(images), design)
        content, fidelity = tflite.tflite_model(network, given, quantised=quantised)
        write_atomically(path, content)
        return fidelity
    if form.content is None:
        save_weights(network, path)
    else:
        write_atomically(path, form.content(network))
    return None


def _format(kind: str) -> Format:
    if kind not in FORMATS:
        raise InputError(f"--format = {kind}: must be one of {', '.join(FORMATS)}")
    return FORMATS[kind]
