"""Networks as MCUNet's zoo writes them, from what is decided about their layers; the tests take them from here, too."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["IDENTITY", "Block", "block", "convolution", "network"]

Block = tuple[int, int | None, float, int, int, int]
"""Channels before, inside (``None``: by the ratio), ratio, channels after, kernel, stride."""

IDENTITY = {"name": "IdentityLayer", "in_channels": [1], "out_channels": [1], "use_bn": False, "act_func": None}


def convolution(c_in: int, c_out: int, kernel: int, stride: int) -> dict[str, Any]:
    """A convolution with normalisation."""
    return {
        "name": "ConvLayer",
        "kernel_size": kernel,
        "stride": stride,
        "dilation": 1,
        "groups": 1,
        "bias": False,
        "has_shuffle": False,
        "in_channels": c_in,
        "out_channels": c_out,
        "use_bn": True,
        "act_func": "relu6",
        "ops_order": "weight_bn_act",
    }


def block(c_in: int, mid: int | None, ratio: float, c_out: int, kernel: int, stride: int) -> dict[str, Any]:
    """A block by its numbers, those of :data:`Block`."""
    inner = {
        "name": "MBInvertedConvLayer",
        "in_channels": c_in,
        "out_channels": c_out,
        "kernel_size": kernel,
        "stride": stride,
        "expand_ratio": ratio,
        "mid_channels": mid,
        "act_func": "relu6",
        "use_se": False,
    }
    shortcut = IDENTITY if stride == 1 and c_in == c_out else None
    return {"name": "MobileInvertedResidualBlock", "mobile_inverted_conv": inner, "shortcut": shortcut}


def network(blocks: tuple[Block, ...], resolution: int, tail: int | None = None, classes: int = 1000) -> dict[str, Any]:
    """A network of some blocks, with a stem of stride 2 and a classifier."""
    last = blocks[-1][3]
    return copy.deepcopy(
        {
            "name": "ProxylessNASNets",
            "bn": {"momentum": 0.1, "eps": 1e-05, "ws_eps": None},
            "first_conv": convolution(3, blocks[0][0], 3, 2),
            "blocks": [block(*item) for item in blocks],
            "feature_mix_layer": None if tail is None else convolution(last, tail, 1, 1),
            "classifier": {
                "name": "LinearLayer",
                "in_features": tail or last,
                "out_features": classes,
                "bias": True,
                "use_bn": False,
            },
            "resolution": resolution,
        }
    )
