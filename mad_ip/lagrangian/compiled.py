"""The loops of :mod:`mad_ip.lagrangian.kernels` for numba; importing this needs it."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

__all__ = ["best", "walk"]


@numba.njit(cache=True)
def best(
    node: Any,
    first: Any,
    again: Any,
    per_depth: Any,
    stepped: Any,
    sigma_first: Any,
    sigma_again: Any,
    exponent: int,
    depth: Any,
    mid: Any,
    log_mid: Any,
    first_mid: Any,
    end_mid: Any,
    pairs: Any,
    slopes: Any,
) -> Any:
    """See :func:`mad_ip.lagrangian.kernels.best_values`."""
    found = np.empty(len(pairs))
    for row in range(len(pairs)):
        pair, slope = pairs[row], slopes[row]
        n = node[pair]
        begin, end = first_mid[n], end_mid[n]
        top = -np.inf
        for k in range(first.shape[2]):
            for j in range(len(depth)):
                length = depth[j]
                repeats = length - 1
                plain = slope * (sigma_first[pair, k] + sigma_again[n, k] * repeats)
                plain -= first[0, pair, k] + again[0, n, k] * repeats + per_depth[j]
                if exponent == 0:
                    top = max(top, plain)
                    continue
                linear = first[1, pair, k] + again[1, n, k] * repeats
                square = first[2, pair, k] + again[2, n, k] * repeats
                reward = slope * (exponent * length)
                if len(stepped) > 0:
                    for w in range(begin, end):
                        value = reward * log_mid[w] - linear * mid[w] - square * mid[w] ** 2 - stepped[w] * length
                        top = max(top, plain + value)
                    continue
                charge = linear + math.sqrt(linear * linear + 8 * reward * square)
                at = end - 1
                if charge > 0:
                    ideal = 2 * reward / charge
                    low, high = begin, end
                    while low < high:
                        middle = (low + high) // 2
                        if mid[middle] < ideal:
                            low = middle + 1
                        else:
                            high = middle
                    at = min(low, end - 1)
                value = reward * log_mid[at] - linear * mid[at] - square * mid[at] ** 2
                top = max(top, plain + value)
                if at > begin:
                    at -= 1
                    value = reward * log_mid[at] - linear * mid[at] - square * mid[at] ** 2
                    top = max(top, plain + value)
        found[row] = top
    return found


@numba.njit(cache=True)
def walk(slopes: Any, intercepts: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """See :func:`mad_ip.lagrangian.kernels.envelope`: number of lines of every row, and which (rows, candidates)."""
    rows, candidates = slopes.shape
    number = np.zeros(rows, np.int64)
    found = np.zeros((rows, candidates), np.int64)
    for row in range(rows):
        current, top = 0, -np.inf
        for i in range(candidates):
            value = intercepts[row, i] + slopes[row, i] * low[row]
            if value > top or (value == top and slopes[row, i] > slopes[row, current]):
                current, top = i, value
        while True:
            found[row, number[row]] = current
            number[row] += 1
            nearest, following = np.inf, -1
            for i in range(candidates):
                rise = slopes[row, i] - slopes[row, current]
                if rise > 0 and intercepts[row, i] > -np.inf:
                    meeting = (intercepts[row, current] - intercepts[row, i]) / rise
                    if meeting < nearest or (meeting == nearest and slopes[row, i] > slopes[row, following]):
                        nearest, following = meeting, i
            if following < 0 or nearest >= high[row]:
                break
            current = following
    return number, found
