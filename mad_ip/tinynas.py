"""Structures of the reference toolbox (TinyNAS) to :class:`Design` and back.

A structure is a Python literal: a list of blocks, or a dictionary whose ``best_structures`` holds one such list. A
block is a dictionary of ``class``, ``in``, ``out``, ``k``, ``s`` and, for a stage, ``btn`` (inner width) and ``L``
(depth). Files are parsed as literals and never evaluated.

The structures correspond one to one; two details of the blocks do not: the reference's
``SuperResKXKX`` strides in its second convolution, ours in the first, and where a bottleneck of stride 2 keeps its
channels, the reference has no projection.
"""

from __future__ import annotations

import ast
import itertools
import pprint
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.errors import InputError
from mad_ip.files import read_bytes
from mad_ip.reader import Reader
from mad_ip.spec import default_weights

__all__ = ["load", "to_design", "to_structure"]

_CONVOLUTION = "ConvKXBNRELU"
_STAGES = {
    "SuperResKXKX": "basic",
    "SuperResK1KXK1": "bottleneck",
    "SuperResK1DWK1": "inverted",
    "SuperResK1DWSEK1": "inverted_se",
}
_CLASSES = {family: name for name, family in _STAGES.items()}
_KEYS = ("class", "in", "out", "k", "s")
_STAGE_KEYS = (*_KEYS, "btn", "L", "inner_class")

_LARGEST = 2**24
"""Of every number of a block: a network as wide or as deep is a mistake in the file."""


_LONGEST = 1 << 18
"""Bytes of a file, some hundred times what a structure has: Python takes 250 times as much to parse it."""


def load(path: Path | str, **options: Any) -> Design:
    """The design of a structure file, named after the file; raise :class:`InputError` naming what does not fit.

    ``options`` are those of :func:`to_design`.
    """
    try:
        content = ast.literal_eval(read_bytes(path, _LONGEST).decode("utf-8-sig").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        reason = str(error).partition("\n")[0].partition(": <")[0] or type(error).__name__
        raise InputError(f"{path}: not a Python literal ({reason}); must be a TinyNAS structure") from None
    return to_design(content, name=Path(path).stem, source=str(path), **options)


def to_design(
    content: Any,
    *,
    name: str,
    resolution: int = 224,
    classes: int = 1000,
    convention: str = "paper",
    beta: float = 10.0,
    source: str = "structure",
) -> Design:
    """The design of a parsed structure, measured with depth penalty ``beta`` and the default entropy weights.

    Raises :class:`InputError` when a block is unknown, incomplete, or does not continue the one before it.
    """
    blocks = _blocks(content, source)
    for number, (block, following) in enumerate(itertools.pairwise(blocks), start=1):
        if following["in"] != block["out"]:
            raise InputError(
                f"{source}: block {number + 1}: in = {following['in']!r}: must be {block['out']}, what block {number} "
                f"puts out"
            )
    stem, *stages = blocks
    tail = stages.pop() if stages and stages[-1]["class"] == _CONVOLUTION else None
    if stem["class"] != _CONVOLUTION or not stages or any(block["class"] == _CONVOLUTION for block in stages):
        raise InputError(
            f"{source}: blocks {', '.join(block['class'] for block in blocks)}: must be one {_CONVOLUTION}, "
            f"at least one of {', '.join(_STAGES)}, and at most one {_CONVOLUTION} at the end"
        )
    if tail is not None and (tail["k"], tail["s"]) != (1, 1):
        raise InputError(f"{source}: block {len(blocks)}: k = {tail['k']}, s = {tail['s']}: a tail must have 1 and 1")
    weights = default_weights(block["s"] for block in stages)
    return Design.create(
        beta=beta,
        name=name,
        spec_sha256="",
        convention=convention,
        resolution=resolution,
        image_channels=stem["in"],
        stem=StemChoice(stem["k"], stem["s"], stem["out"], weights[0]),
        stages=tuple(
            StageChoice(_STAGES[block["class"]], block["s"], block["out"], block["btn"], block["k"], block["L"], weight)
            for block, weight in zip(stages, weights[1:], strict=True)
        ),
        tail=None if tail is None else tail["out"],
        classes=classes,
    )


def to_structure(design: Design) -> str:
    """The structure file of ``design``; what the format has no place for (resolution, classes, weights) is left out.

    Raises :class:`InputError` for a design for clips.
    """
    if design.frames is not None:
        raise InputError(f"{design.name}: is a design for clips of {design.frames} frames; must be one for images")
    stem = design.stem
    blocks: list[dict[str, int | str]] = [
        {"class": _CONVOLUTION, "in": design.image_channels, "k": stem.kernel, "out": stem.channels, "s": stem.stride}
    ]
    channels = stem.channels
    for number, stage in enumerate(design.stages, start=1):
        if stage.block not in _CLASSES:
            raise InputError(
                f"{design.name}: stages[{number}].block = {stage.block}: for --format tinynas must be one of "
                f"{', '.join(_CLASSES)}"
            )
        name = _CLASSES[stage.block]
        blocks.append(
            {
                "L": stage.depth,
                "btn": stage.mid,
                "class": name,
                "in": channels,
                "inner_class": name.removeprefix("Super"),
                "k": stage.kernel,
                "out": stage.channels,
                "s": stage.stride,
            }
        )
        channels = stage.channels
    if design.tail is not None:
        blocks.append({"class": _CONVOLUTION, "in": channels, "k": 1, "out": design.tail, "s": 1})
    content = {"best_structures": [blocks], "space_arch": "CnnNet"}
    return pprint.pformat(content, width=160) + "\n"


def _blocks(content: Any, source: str) -> list[dict[str, Any]]:
    """The checked blocks of a structure; the first structure where the file holds several."""
    if isinstance(content, Mapping):
        structures = content.get("best_structures")
        if not isinstance(structures, list) or not structures:
            raise InputError(f"{source}: best_structures = {structures!r}: must be a list of at least one structure")
        content = structures[0]
    if not isinstance(content, list) or not content:
        raise InputError(f"{source}: must be a list of blocks, or a dictionary with best_structures")
    return [_block(block, source, number) for number, block in enumerate(content, start=1)]


def _block(block: Any, source: str, number: int) -> dict[str, Any]:
    stage = not (isinstance(block, Mapping) and block.get("class") == _CONVOLUTION)
    reader = Reader(
        source,
        block,
        _STAGE_KEYS if stage else _KEYS,
        prefix=f"block {number}: ",
        noun="dictionary",
        unknown="has no counterpart in mad-ip",
    )
    name = reader.choice("class", (_CONVOLUTION, *_STAGES))
    if stage:
        inner = name.removeprefix("Super")
        reader.choice("inner_class", (inner,), default=inner)
    return {
        "class": name,
        "k": reader.integer("k", most=_LARGEST, odd=True),
        "s": reader.integer("s", most=_LARGEST, allowed=(1, 2) if stage else None, default=1),
        **{key: reader.integer(key, most=_LARGEST) for key in ("in", "out", *(("btn", "L") if stage else ()))},
    }
