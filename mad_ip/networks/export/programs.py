"""ONNX models and exported programs: the graph of a network with its weights, for any batch size."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mad_ip.errors import InputError, InternalError
from mad_ip.networks.network import Network

if TYPE_CHECKING:
    import onnx

__all__ = ["onnx_model", "torch_program"]

_OPSET = 18
"""The version that torch exports to before it converts, and that more readers know than any later one."""

_TOLERANCE = 1e-4
"""Largest difference from PyTorch, relative to the largest output: logits of initial weights are tiny."""

_DYNAMIC = ({0: torch.export.Dim("batch")},)
"""Axes of the images that may have any size, by name."""


def onnx_model(network: Network) -> bytes:
    """The ONNX model of ``network`` in eval mode, weights inside: ``images`` (batch, ...) -> ``logits`` (batch, ...).

    Raises :class:`InternalError` unless the checker accepts it and ONNX Runtime computes what PyTorch computes,
    :class:`InputError` when the network's outputs are not finite.
    """
    import onnx
    import onnxruntime

    exported = torch.onnx.export(
        _program(network),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_DYNAMIC,
        opset_version=_OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    _anonymise(model)
    onnx.helper.set_model_props(model, {"design.json": network.design.to_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).partition("\n")[0]
        raise InternalError(f"{network.design.name}: the exported ONNX model is invalid ({reason})") from None
    content: bytes = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    _verify(network, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), "ONNX Runtime")
    return content


def torch_program(network: Network) -> bytes:
    """The :class:`torch.export.ExportedProgram` of ``network`` in eval mode, as :func:`torch.export.save` stores it.

    Raises :class:`InternalError` unless the stored program computes what the network computes, :class:`InputError` when
    the network's outputs are not finite.
    """
    buffer = io.BytesIO()
    torch.export.save(_program(network), buffer, extra_files={"design.json": network.design.to_json()})
    buffer.seek(0)
    _verify(network, torch.export.load(buffer).module(), "the exported program")
    return buffer.getvalue()


def _program(network: Network) -> torch.export.ExportedProgram:
    # Two images: a batch of one would be taken for a constant.
    images = torch.zeros(2, *network.design.input_shape)
    program = torch.export.export(network, (images,), dynamic_shapes=_DYNAMIC)
    # A file has no use for the images.
    program.example_inputs = None
    for node in program.graph.nodes:
        # Names the folders of the machine.
        node.meta.pop("stack_trace", None)
    return program


def _anonymise(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes on its own work, which are as long as the graph."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")


def _verify(network: Network, other: Callable[[Tensor], Tensor], name: str) -> None:
    """Compare on random images, at batch sizes other than the exported one."""
    design = network.design
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3):
        images = torch.randn(batch, *design.input_shape, generator=generator)
        with torch.no_grad():
            expected, found = network(images), other(images)
        if not expected.isfinite().all():
            raise InputError(f"{design.name}: the outputs with these weights are not finite; other weights are needed")
        error = (found - expected).abs().max().item() if found.shape == expected.shape else torch.inf
        # Not ">": a difference that is no number must fail too.
        if not error <= _TOLERANCE * expected.abs().max().item():
            raise InternalError(f"{design.name}: {name} differs from PyTorch by {error:g} at batch {batch}")
