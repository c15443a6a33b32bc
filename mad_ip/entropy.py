"""The paper's quantities on a list of layers (DeepMAD, CVPR 2023, arXiv 2303.02165; docs/formulation.md section 2).

Symbols: ``D`` counted layers, ``S`` sum of log-widths ``ln w``, ``alpha`` entropy weight, ``r`` output resolution,
``f`` output frames (1 for images), ``c`` output channels, ``rho`` effectiveness, ``Q`` uniformity of depths, ``beta``
its weight.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mad_ip.blocks import Amount, Layer

__all__ = [
    "EFFECTIVENESS_TOLERANCE",
    "Level",
    "count",
    "depth_penalty",
    "effectiveness",
    "effectiveness_floor",
    "entropy",
    "entropy_gain",
    "log_width",
    "log_width_product",
    "ratio",
    "uniformity",
]


EFFECTIVENESS_TOLERANCE = 1e-12
"""Relative slack on the effectiveness budget, for the rounding of logarithms; MACs and parameters have none."""


@dataclass(frozen=True)
class Level:
    """The network up to the end of the stem or of a stage.

    ``depth`` and ``log_width`` are ``D_t`` and ``S_t``, ``gain`` is ``alpha_t ln(f_t r_t^2 c_t)``, ``weight`` alpha_t.
    """

    depth: int
    log_width: float
    gain: float
    weight: float


def count(layers: Iterable[Layer]) -> int:
    """Number of counted layers."""
    return sum(layer.counted for layer in layers)


def log_width(layers: Iterable[Layer]) -> float:
    """``S = sum ln w`` over counted layers, correctly rounded by ``math.fsum``."""
    return math.fsum(math.log(layer.width) for layer in layers if layer.counted)


def log_width_product(layers: Iterable[Layer]) -> Any:
    """``S`` of few layers as the logarithm of the product of widths, for integer arrays.

    Equal products give equal floats, so that ties between options stay ties.
    """
    product: Amount = 1.0
    for layer in layers:
        if layer.counted:
            product = product * layer.width
    return np.log(product)


def entropy_gain(weight: float, size: int, c: Amount, frames: int | None = None) -> Any:
    """``alpha ln(f r^2 c)``: what one unit of log-width is worth at a level (Prop. 3, Guideline 1).

    ``size`` is the level's output resolution in pixels, ``frames`` its output frames, ``None`` for an image's one.
    """
    # Of floats: integers of 64 bits do not hold the largest products, and those below 2**53 are the same.
    return weight * np.log(float((frames or 1) * size**2) * c)


def entropy(levels: Sequence[Level], convention: str) -> float:
    """``H = sum_t alpha_t ln(f_t r_t^2 c_t) S_t``, halved in ``tinynas``."""
    return entropy_factor(convention) * math.fsum(level.gain * level.log_width for level in levels)


def entropy_factor(convention: str, share: float = 1.0) -> float:
    """What entropies are multiplied by: the ``share`` of an objective, half of it in ``tinynas``."""
    return 0.5 * share if convention == "tinynas" else share


def ratio(depth: Any, log_width: Any) -> Any:
    """``rho = D / exp(S / D)``, depth over geometric mean width (Prop. 4)."""
    return depth / np.exp(log_width / depth)


def effectiveness(levels: Sequence[Level], convention: str) -> float:
    """``rho`` of the whole network; in ``tinynas`` the largest over the levels with weight > 0 (0 if none)."""
    bounded = [level for level in levels if level.weight > 0] if convention == "tinynas" else levels[-1:]
    return max((float(ratio(level.depth, level.log_width)) for level in bounded), default=0.0)


def effectiveness_floor(depth: Any, bound: float) -> Any:
    """``phi(D) = D ln D - D ln rho_0``: ``rho <= rho_0`` exactly when ``S >= phi(D)``; convex in D."""
    return depth * np.log(depth) - depth * math.log(bound)


def uniformity(depths: Sequence[int], convention: str) -> float:
    """``Q = exp(Var)`` of the depths given, or ``exp(std)`` in ``tinynas`` (population moments).

    Saturates at the largest float, which ``exp`` passes at a variance of 710.
    """
    return float(uniformity_of(spread(depths), len(depths), convention))


def spread(depths: Any) -> Any:
    """``M^2 Var = sum_{i<j} (L_i - L_j)^2``, an exact integer; of a sequence of integer arrays, one of those."""
    return len(depths) * sum(depth**2 for depth in depths) - sum(depths) ** 2


def uniformity_of(spread: Any, number: int, convention: str) -> Any:
    """``Q`` as a function of ``M^2 Var`` (an integer or an array) for ``number`` depths."""
    variance = np.asarray(spread) / number**2
    exponent = np.sqrt(variance) if convention == "tinynas" else variance
    return np.exp(np.minimum(exponent, math.log(sys.float_info.max)))


def depth_penalty(depths: Sequence[int], beta: float, convention: str) -> float:
    """``beta Q`` (Guideline 2), saturating at the largest float; ``depths`` are those of the penalised stages."""
    return float(penalty_of(spread(depths), len(depths), beta, convention))


def penalty_of(spread: Any, number: int, beta: float, convention: str) -> Any:
    """``beta Q`` as a function of ``M^2 Var`` (an integer or an array), saturating at the largest float."""
    if beta == 0:
        return 0.0
    with np.errstate(over="ignore"):
        return np.minimum(beta * uniformity_of(spread, number, convention), sys.float_info.max)
