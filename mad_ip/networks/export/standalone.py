"""Python source of a network that needs nothing but torch."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mad_ip.blocks import FAMILIES
from mad_ip.design import Design
from mad_ip.errors import InputError, InternalError
from mad_ip.networks.network import Network

__all__ = ["factory", "render", "source"]

_BUILDERS = {"basic": "basic", "bottleneck": "bottleneck", "inverted": "inverted", "inverted_se": "inverted"}
"""The template's function for each family."""


def source(network: Network) -> bytes:
    """The checked source of the design of ``network``: same state-dict keys, and with the same weights same outputs.

    Raises :class:`InternalError` unless that holds, bit for bit in eval mode, in an interpreter without mad-ip.
    """
    design = network.design
    content = render(design).encode()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            # A residual branch that starts at zero would hide its own mistakes.
            nn.init.uniform_(parameter, 0.5, 1.5)
    images = torch.randn(1, *design.input_shape)
    with torch.no_grad():
        expected = network(images)
    with tempfile.TemporaryDirectory() as folder:
        module, given, found = (Path(folder) / name for name in ("network.py", "given.pt", "found.pt"))
        module.write_bytes(content)
        threads = torch.get_num_threads()
        torch.save({"weights": network.state_dict(), "images": images, "threads": threads}, given)
        probe = Path(__file__).with_name("probe.py")
        command = [sys.executable, "-P", str(probe), str(module), factory(design), str(given), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().rpartition("\n")[2]
            raise InternalError(f"{design.name}: the standalone source does not run without mad-ip ({reason})")
        if not torch.equal(torch.load(found), expected):
            raise InternalError(f"{design.name}: the standalone source computes other outputs than the network")
    return content


def render(design: Design) -> str:
    """The source, unchecked. Raises :class:`InputError` for a family that the template does not know."""
    import jinja2

    for number, stage in enumerate(design.stages, start=1):
        if stage.block not in _BUILDERS:
            raise InputError(
                f"{design.name}: stages[{number}].block = {stage.block}: "
                f"for --format python must be one of {', '.join(_BUILDERS)}"
            )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mad_ip.networks.export", "."),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  the source is Python, and every text in it comes through _plain
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    stem, rows = design.stem, _rows(design)
    return environment.get_template("network.py.jinja").render(
        design=design,
        name=_plain(design.name, " .-"),
        factory=factory(design),
        certificate=_certificate(design),
        families=FAMILIES,
        builders={_BUILDERS[stage.block] for stage in design.stages},
        squeezed=any(len(row) > len(_COLUMNS) for row in rows),
        columns=_COLUMNS,
        rows=rows,
        stem_kernel=_window(design, stem.temporal_kernel, stem.kernel),
        stem_stride=_window(design, stem.temporal_stride, stem.stride),
        one=_window(design, 1, 1),
        clips=design.frames is not None,
        dims=2 if design.frames is None else 3,
    )


def factory(design: Design) -> str:
    """The name of the function that builds the network: ``madip_`` and the design's name, as timm knows it."""
    return f"madip_{_plain(design.name, '_').lower()}"


def _plain(text: str, allowed: str) -> str:
    """ASCII letters and digits of ``text`` and the ``allowed`` characters; the last of these for every other run."""
    return re.sub(f"[^A-Za-z0-9{re.escape(allowed)}]+", allowed[-1], text)


def _certificate(design: Design) -> str:
    certificate = design.certificate
    if certificate is None:
        return "not certified"
    if certificate.status == "optimal":
        return "proven optimal"
    return f"proven to be at most {certificate.bound:,.3f}"


_COLUMNS = ("block", "depth", "channels", "mid", "kernel", "stride")


def _rows(design: Design) -> list[tuple[Any, ...]]:
    """One row of the stage table for each stage: :data:`_COLUMNS`, and with squeeze-excite its hidden width."""
    _, *segments = design.blocks()
    rows: list[tuple[Any, ...]] = []
    for stage, blocks in zip(design.stages, segments, strict=False):
        kernel = _window(design, stage.temporal_kernel, stage.kernel)
        stride = _window(design, stage.temporal_stride, stage.stride)
        hidden = (layer.out_channels for layer in blocks[0] if layer.role == "squeeze")
        rows.append((_BUILDERS[stage.block], stage.depth, stage.channels, stage.mid, kernel, stride, *hidden))
    return rows


def _window(design: Design, temporal: int, spatial: int) -> int | tuple[int, int, int]:
    return spatial if design.frames is None else (temporal, spatial, spatial)
