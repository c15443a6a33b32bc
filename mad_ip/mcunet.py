"""Networks of MCUNet's model zoo as :class:`Design`.

A file is a JSON object: ``first_conv`` is the stem, every entry of ``blocks`` a stage of one block (depthwise and
pointwise where ``expand_ratio`` is 1, else inverted), ``feature_mix_layer`` the tail, ``classifier`` the head. Blocks
that the zoo left out, of ``ZeroLayer`` or null beside an identity shortcut, are no stages.

Activations are not kept: what a network costs does not depend on them, so that a design has those of its families. What
would change a cost and has no counterpart is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mad_ip.blocks import hidden_width
from mad_ip.design import Design, StageChoice, StemChoice
from mad_ip.errors import InputError
from mad_ip.files import read_json
from mad_ip.reader import Reader
from mad_ip.spec import default_weights

__all__ = ["load", "to_design"]

_MOST_BLOCKS = 1000

_TOP = ("name", "bn", "first_conv", "blocks", "feature_mix_layer", "classifier", "resolution")
_BLOCK = "MobileInvertedResidualBlock"
_INVERTED = "MBInvertedConvLayer"
_IDENTITY = "IdentityLayer"
_ZERO = "ZeroLayer"

_LARGEST = 2**24
"""Of every number of a layer: a network as wide or as large is a mistake in the file."""


def load(
    path: Path | str, *, resolution: int | None = None, classes: int | None = None, convention: str = "paper"
) -> Design:
    """The design of a file, named after it; raise :class:`InputError` naming what does not fit.

    ``resolution`` and ``classes`` are the file's own where they are ``None``.
    """
    return to_design(
        read_json(path),
        name=Path(path).stem,
        resolution=resolution,
        classes=classes,
        convention=convention,
        source=str(path),
    )


def to_design(
    content: Any,
    *,
    name: str,
    resolution: int | None = None,
    classes: int | None = None,
    convention: str = "paper",
    beta: float = 10.0,
    source: str = "network",
) -> Design:
    """The design of a parsed file, measured with depth penalty ``beta`` and the default entropy weights.

    Raises :class:`InputError` when a layer is unknown, incomplete, or does not continue the one before it. A file
    without a resolution is for 224 pixels, one without a classifier has no head.
    """
    top = Reader(source, content, None, noun="JSON object")
    for key, value in top.values.items():
        if key not in _TOP and isinstance(value, Mapping | list):
            raise top.error(key, f"has no counterpart in mad-ip; layers are in {', '.join(_TOP[2:-1])}")
    stem = _convolution(top, "first_conv")
    image_channels = stem.integer("in_channels", most=_LARGEST)
    channels = stem_channels = stem.integer("out_channels", most=_LARGEST)
    found = []
    if len(top.tables("blocks", None)) > _MOST_BLOCKS:
        raise InputError(f"{source}: blocks: must be at most {_MOST_BLOCKS} of them")
    for block in top.tables("blocks", None):
        if (choice := _stage(block, channels)) is not None:
            found.append(choice)
            channels = choice["channels"]
    if not found:
        raise InputError(f"{source}: blocks: every one is left out by the network; at least one must be {_INVERTED}")
    tail = None
    if top.values.get("feature_mix_layer") is not None:
        mix = _convolution(top, "feature_mix_layer", kernel=1, stride=1, c_in=channels)
        channels = tail = mix.integer("out_channels", most=_LARGEST)
    outputs = _outputs(top, channels)
    weights = default_weights(choice["stride"] for choice in found)
    given = top.integer("resolution", most=_LARGEST, default=224)
    return Design.create(
        beta=beta,
        name=name,
        spec_sha256="",
        convention=convention,
        resolution=given if resolution is None else resolution,
        image_channels=image_channels,
        stem=StemChoice(
            stem.integer("kernel_size", most=_LARGEST, odd=True),
            stem.integer("stride", most=_LARGEST),
            stem_channels,
            weights[0],
        ),
        stages=tuple(
            StageChoice(depth=1, weight=weight, **choice) for choice, weight in zip(found, weights[1:], strict=True)
        ),
        tail=tail,
        classes=outputs if classes is None else classes,
    )


def _stage(block: Reader, c_in: int) -> dict[str, Any] | None:
    """What a stage of one block is, but for its weight; ``None`` for one that the network left out."""
    block.choice("name", (_BLOCK,), default=_BLOCK)
    shortcut = _layer(block, "shortcut", (_IDENTITY, _ZERO))
    identity = shortcut is not None and shortcut.values["name"] == _IDENTITY
    layer = _layer(block, "mobile_inverted_conv", (_INVERTED, _ZERO))
    if layer is None or layer.values["name"] == _ZERO:
        if not identity or (layer is not None and layer.integer("stride", default=1) != 1):
            raise block.fail("shortcut", f"an {_IDENTITY} at stride 1 where mobile_inverted_conv is left out")
        return None
    _same(layer, "in_channels", c_in)
    channels = layer.integer("out_channels", most=_LARGEST)
    stride = layer.integer("stride", allowed=(1, 2))
    if identity != (stride == 1 and channels == c_in):
        allowed = "null" if identity else f"an {_IDENTITY}"
        raise block.fail("shortcut", f"{allowed} between {c_in} and {channels} channels at stride {stride}")
    ratio = layer.number("expand_ratio", positive=True)
    expanded = layer.integer("mid_channels", most=_LARGEST, default=None)
    mid: int = round(min(c_in * ratio, _LARGEST + 1)) if expanded is None else expanded
    if not 1 <= mid <= _LARGEST:
        raise layer.fail("expand_ratio", f"a number that gives from 1 to {_LARGEST} channels")
    squeezed = layer.boolean("use_se", default=False)
    if ratio == 1 and mid != c_in:
        raise layer.fail("mid_channels", f"null or {c_in}, the channels before, at expand_ratio 1")
    if squeezed:
        _check_squeeze(layer, mid, expanded=ratio != 1)
    return {
        "block": "separable" if ratio == 1 else "inverted_se" if squeezed else "inverted",
        "stride": stride,
        "channels": channels,
        "mid": mid,
        "kernel": layer.integer("kernel_size", most=_LARGEST, odd=True),
    }


def _check_squeeze(layer: Reader, mid: int, *, expanded: bool) -> None:
    if not expanded:
        raise layer.fail("use_se", "false at expand_ratio 1")
    quarter = mid // 4
    hidden = max(8, (quarter + 4) // 8 * 8)
    hidden += 8 * (10 * hidden < 9 * quarter)
    if hidden != hidden_width(mid):
        raise layer.error(
            "use_se",
            f"squeezes {mid} channels to {hidden}, where mad-ip has {hidden_width(mid)}; must be false or of widths "
            "for which both agree",
        )


def _convolution(
    top: Reader, key: str, *, kernel: int | None = None, stride: int | None = None, c_in: int | None = None
) -> Reader:
    """A convolution with batch normalisation, and with the numbers given."""
    layer = _layer(top, key, ("ConvLayer",))
    if layer is None:
        raise top.fail(key, "a ConvLayer")
    for name, number in (("in_channels", c_in), ("kernel_size", kernel), ("stride", stride)):
        if number is not None:
            _same(layer, name, number)
    for name, number in (("dilation", 1), ("groups", 1)):
        if layer.values.get(name) is not None:
            _same(layer, name, number)
    _requires(layer, "bias", False)
    _requires(layer, "has_shuffle", False)
    _requires(layer, "use_bn", True)
    return layer


def _outputs(top: Reader, c_in: int) -> int:
    """Outputs of the classifier, 0 where there is none."""
    layer = _layer(top, "classifier", ("LinearLayer",))
    if layer is None:
        return 0
    _same(layer, "in_features", c_in)
    _requires(layer, "bias", True)
    _requires(layer, "use_bn", False)
    return int(layer.integer("out_features", most=_LARGEST))


def _layer(parent: Reader, key: str, names: tuple[str, ...]) -> Reader | None:
    """The layer at a key, ``None`` for a null one. The zoo writes some channels as lists of one number."""
    if parent.values.get(key) is None:
        return None
    table = parent.table(key, None)
    values = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in table.values.items()
    }
    layer = Reader(table.source, values, None, prefix=table.prefix, noun=table.noun)
    layer.choice("name", names)
    return layer


def _same(layer: Reader, key: str, number: int) -> None:
    if layer.integer(key, most=_LARGEST) != number:
        raise layer.fail(key, str(number) if key != "in_channels" else f"{number}, the channels before")


def _requires(layer: Reader, key: str, value: bool) -> None:
    if layer.boolean(key, default=value) is not value:
        raise layer.fail(key, str(value).lower())
