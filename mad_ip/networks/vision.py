"""Detectors and segmenters of torchvision over the network of a design. Needs the extra ``vision``.

``out_indices`` count the resolutions of ``network.feature_info``, from the end where negative. What is built shares
its layers with ``network``, so that weights loaded into that one before or after count here too; its checkpointing does
not. Detectors normalise images as the network's ``default_cfg`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mad_ip.errors import InputError
from mad_ip.networks.network import Network

try:
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.segmentation import DeepLabV3
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
except ImportError:
    raise InputError(
        "mad_ip.networks.vision needs torchvision, which is not installed; pip install 'mad-ip[vision]'"
    ) from None

__all__ = ["backbone", "deeplabv3", "fcos", "pyramid", "retinanet"]

_LAST_THREE = (-3, -2, -1)


def backbone(network: Network, out_indices: Sequence[int] = _LAST_THREE) -> Any:
    """Features as an ``IntermediateLayerGetter``: (B, C, H, W) -> {"0": (B, num_chs, h, w), "1": ...}.

    Raises :class:`InputError` for an index that ``feature_info`` does not have, or a network of clips.
    """
    return IntermediateLayerGetter(_flat(network), _return_layers(_infos(network, out_indices)))


def pyramid(network: Network, out_indices: Sequence[int] = _LAST_THREE, out_channels: int = 256) -> Any:
    """A ``BackboneWithFPN`` over the features, with two more levels of half the size each, ``"p6"`` and ``"p7"``.

    (B, C, H, W) -> {"0": (B, out_channels, h, w), ..., "p6": ..., "p7": ...}. Raises as :func:`backbone` does.
    """
    infos = _infos(network, out_indices)
    return BackboneWithFPN(
        _flat(network),
        _return_layers(infos),
        [info["num_chs"] for info in infos],
        out_channels,
        extra_blocks=LastLevelP6P7(out_channels, out_channels),
    )


def fcos(
    network: Network,
    num_classes: int,
    out_indices: Sequence[int] = _LAST_THREE,
    out_channels: int = 256,
    **options: Any,
) -> Any:
    """An ``FCOS`` detector of ``num_classes``, background included, over :func:`pyramid`.

    An anchor is as large as its level's reduction. ``options`` are torchvision's, such as ``min_size``.
    """
    sizes = tuple((size,) for size in _reductions(network, out_indices))
    anchors = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
    features = pyramid(network, out_indices, out_channels)
    return FCOS(features, num_classes, anchor_generator=anchors, **(_normalisation(network) | options))


def retinanet(
    network: Network,
    num_classes: int,
    out_indices: Sequence[int] = _LAST_THREE,
    out_channels: int = 256,
    **options: Any,
) -> Any:
    """A ``RetinaNet`` detector of ``num_classes``, background included, over :func:`pyramid`.

    Anchors are four times the level's reduction and two thirds of an octave beyond, in three aspect ratios.
    ``options`` are torchvision's, such as ``min_size``.
    """
    sizes = tuple(
        tuple(int(4 * size * 2 ** (third / 3)) for third in range(3)) for size in _reductions(network, out_indices)
    )
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    features = pyramid(network, out_indices, out_channels)
    return RetinaNet(features, num_classes, anchor_generator=anchors, **(_normalisation(network) | options))


def deeplabv3(network: Network, num_classes: int) -> Any:
    """A ``DeepLabV3`` segmenter over the last features: (B, C, H, W) -> {"out": (B, num_classes, H, W)}.

    The total stride is the design's own: nothing is dilated but the head. Training takes batches of two or more.
    """
    (info,) = _infos(network, (-1,))
    body = IntermediateLayerGetter(_flat(network), {_flat_name(info["module"]): "out"})
    return DeepLabV3(body, DeepLabHead(info["num_chs"], num_classes))


def _infos(network: Network, out_indices: Sequence[int]) -> list[dict[str, Any]]:
    """The entries of ``feature_info`` in the order of the network."""
    total = len(network.feature_info)
    if network.design.frames is not None:
        raise InputError(f"{network.design.name}: takes clips; torchvision's detectors and segmenters take images")
    for index in out_indices:
        if not -total <= index < total:
            raise InputError(f"out_indices = {tuple(out_indices)!r}: must be from {-total} to {total - 1}")
    if not out_indices:
        raise InputError("out_indices = (): must name at least one resolution")
    return [network.feature_info[index] for index in sorted({index % total for index in out_indices})]


def _reductions(network: Network, out_indices: Sequence[int]) -> list[int]:
    """Those of the levels of :func:`pyramid`."""
    reductions = [info["reduction"] for info in _infos(network, out_indices)]
    return [*reductions, 2 * reductions[-1], 4 * reductions[-1]]


def _normalisation(network: Network) -> dict[str, Any]:
    return {f"image_{key}": list(network.default_cfg[key]) for key in ("mean", "std")}


def _return_layers(infos: list[dict[str, Any]]) -> dict[str, str]:
    return {_flat_name(info["module"]): str(number) for number, info in enumerate(infos)}


def _flat_name(module: str) -> str:
    return module.replace(".", "_")


def _flat(network: Network) -> nn.Sequential:
    """Stem and stages side by side: ``IntermediateLayerGetter`` looks at direct children only."""
    flat = nn.Sequential()
    for part in ("stem", "stages"):
        for name, module in network.get_submodule(part).named_children():
            flat.add_module(_flat_name(f"{part}.{name}"), module)
    return flat
