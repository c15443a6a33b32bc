"""The inner loops of the program: the best option of a pair for a slope, and upper envelopes of lines.

Written once for NumPy, and once more for numba where that is installed (``pip install 'mad-ip[fast]'``): same
results, an order of magnitude faster on fine grids. ``MAD_IP_NUMBA=0`` in the environment chooses NumPy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mad_ip.lagrangian.tables import Floats, Integers

__all__ = [
    "ACCELERATED",
    "Groups",
    "Lines",
    "Priced",
    "best_values",
    "coarser",
    "envelope",
    "padded",
    "values",
]

_FEW = 6
"""Inner widths up to which trying all is faster than the closed form."""

_CHUNK = 1 << 17
"""Elements of an array that NumPy computes with at a time: what fits a cache."""


@dataclass(frozen=True)
class Priced:
    """A segment's options with their prices. Axes: P pairs, N nodes, K kernels, L depths, W inner widths.

    The price of an option is ``q0 + q1 m + q2 m^2 + L stepped(m) + per_depth(L)``, with ``q = first + (L - 1) again``;
    ``first`` (3, P, K), ``again`` (3, N, K). Its log-width is ``sigma_first + (L - 1) sigma_again + e L ln m``.
    Widths from ``first_mid`` to before ``end_mid`` go with the channels of a node.
    """

    node: Integers
    first: Floats
    again: Floats
    per_depth: Floats
    stepped: Floats | None
    sigma_first: Floats
    sigma_again: Floats
    exponent: int
    depth: Integers
    mid: Floats
    log_mid: Floats
    first_mid: Integers
    end_mid: Integers


@dataclass(frozen=True)
class Lines:
    """Lines ``slope S + intercept`` of every row, ``(rows, lines)``, in ascending slope.

    Those with intercept minus infinity do not exist. ``origin`` is the candidate each came from.
    """

    slope: Floats
    intercept: Floats
    origin: Integers


@dataclass(frozen=True)
class Groups:
    """Members of every group, padded: ``members`` (groups, size), of which those ``exists`` says are real."""

    members: Integers
    exists: NDArray[np.bool_]


def padded(group: Integers) -> Groups:
    """The positions of every group, ``group`` giving that of each position; none is empty."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    position = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    members = np.zeros((len(counts), int(counts.max())), np.int64)
    exists = np.zeros(members.shape, bool)
    members[group[order], position] = order
    exists[group[order], position] = True
    return Groups(members, exists)


def best_values(options: Priced, pairs: Integers, slopes: Floats) -> Floats:
    """``max over options of slope sigma - price`` for rows of a pair and a slope."""
    if _compiled is not None:
        return np.asarray(_compiled.best(*_arguments(options), pairs, slopes))
    size = max(1, _CHUNK // (options.first.shape[2] * len(options.depth)))
    if len(pairs) <= size:
        return np.asarray(values(options, pairs, slopes).max(axis=(1, 2)))
    best = np.empty(len(pairs))
    for start in range(0, len(pairs), size):
        rows = slice(start, start + size)
        best[rows] = values(options, pairs[rows], slopes[rows]).max(axis=(1, 2))
    return best


def values(options: Priced, pairs: Integers, slopes: Floats, only: int | None = None) -> Floats:
    """``max over m of slope sigma - price`` for rows of a pair and a slope: (rows, K, L).

    With ``only``, the inner width of that index alone; minus infinity where it does not go with the channels.
    """
    node, depth = options.node[pairs], options.depth
    repeats = depth - 1
    slope = slopes[:, None, None]
    constant, linear, square = options.first[:, pairs, :, None] + options.again[:, node, :, None] * repeats
    sigma = options.sigma_first[pairs, :, None] + options.sigma_again[node, :, None] * repeats
    plain = slope * sigma - (constant + options.per_depth)
    if options.exponent == 0:
        return np.asarray(plain)
    # slope e L ln m - linear m - square m^2 - L stepped(m), concave in m without the last term.
    reward = slope * (options.exponent * depth)
    first, end = options.first_mid[node][:, None, None], options.end_mid[node][:, None, None]
    best = np.full(plain.shape, -np.inf)
    if only is not None or len(options.mid) <= _FEW or options.stepped is not None:
        for w in range(len(options.mid)) if only is None else (only,):
            mid = options.mid[w]
            value = reward * options.log_mid[w] - linear * mid - square * mid**2
            if options.stepped is not None:
                value -= options.stepped[w] * depth
            np.maximum(best, np.where((first <= w) & (w < end), value, -np.inf), out=best)
        return np.asarray(plain + best)
    with np.errstate(divide="ignore", invalid="ignore"):
        ideal = 2 * reward / (linear + np.sqrt(linear**2 + 8 * reward * square))
    above = np.searchsorted(options.mid, ideal)
    for position in (above - 1, above):
        # Where nothing is charged the ideal is infinite or not a number, and the widest is best: both clip to it.
        at = np.clip(position, first, end - 1)
        mid = options.mid[at]
        np.maximum(best, reward * options.log_mid[at] - linear * mid - square * mid**2, out=best)
    return np.asarray(plain + best)


def envelope(slopes: Floats, intercepts: Floats, low: Floats, high: Floats) -> Lines:
    """Per row, the lines that are maximal somewhere on ``[low, high]``, from left to right, padded.

    Walks from the best line at a point to the line of larger slope that meets it first. Lines with intercept minus
    infinity do not exist; a row without any keeps one of them.
    """
    if _compiled is not None:
        number, found = _compiled.walk(slopes, intercepts, low, high)
        origin = np.ascontiguousarray(found[:, : number.max()])
        exists = np.arange(origin.shape[1]) < number[:, None]
    else:
        origin, exists = _walk(slopes, intercepts, low, high)
    kept = np.take_along_axis(intercepts, origin, axis=1)
    return Lines(np.take_along_axis(slopes, origin, axis=1), np.where(exists, kept, -np.inf), origin)


def coarser(lines: Lines, low: Floats, high: Floats, most: int) -> Lines:
    """Rows of more than ``most`` lines replaced by ``most`` chords of their envelope on ``[low, high]``.

    A line that is not below a convex function at two points is not below it between them.
    """
    number = np.isfinite(lines.intercept).sum(axis=1)
    many = np.flatnonzero(number > most)
    if len(many) == 0:
        return lines
    count, rows = number[many], np.arange(len(many))[:, None]
    slope, intercept = lines.slope[many], lines.intercept[many]
    # Corners of the envelope: the ends of the range, and where consecutive lines meet.
    picked = np.round(np.linspace(0, 1, most + 1) * count[:, None]).astype(int)
    left, right = np.maximum(picked - 1, 0), np.minimum(picked, count[:, None] - 1)
    rise = slope[rows, right] - slope[rows, left]
    with np.errstate(divide="ignore", invalid="ignore"):
        corner = np.where(rise > 0, (intercept[rows, left] - intercept[rows, right]) / rise, low[many, None])
    corner[:, -1] = high[many]
    corner = np.clip(corner, low[many, None], high[many, None])
    height = np.maximum(
        slope[rows, left] * corner + intercept[rows, left], slope[rows, right] * corner + intercept[rows, right]
    )
    run = np.diff(corner, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        chord = np.where(run > 0, np.diff(height, axis=1) / run, slope[rows, right[:, :-1]])
    chord = np.clip(chord, slope[rows, right[:, :-1]], slope[rows, left[:, 1:]])
    at = np.maximum(height[:, :-1] - chord * corner[:, :-1], height[:, 1:] - chord * corner[:, 1:])
    width = min(lines.slope.shape[1], max(most, int(number[number <= most].max(initial=0))))
    slopes, intercepts = lines.slope[:, :width].copy(), lines.intercept[:, :width].copy()
    origin = lines.origin[:, :width].copy()
    intercepts[many] = -np.inf
    slopes[many, :most], intercepts[many, :most] = chord, at
    origin[many, :most] = lines.origin[many][rows, (right[:, :-1] + left[:, 1:]) // 2]
    return Lines(slopes, intercepts, origin)


def _walk(slopes: Floats, intercepts: Floats, low: Floats, high: Floats) -> tuple[Integers, Any]:
    """All rows together."""
    rows = np.arange(len(slopes))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = intercepts + slopes * low[:, None]
        # Of equal values at the left end the steepest line is the best just after it.
        current = np.where(values >= values.max(axis=1, keepdims=True), slopes, -np.inf).argmax(axis=1)
        active = np.ones(len(slopes), bool)
        chosen, used = [current], [active]
        while True:
            rise = slopes - slopes[rows, current][:, None]
            fall = intercepts[rows, current][:, None] - intercepts
            meeting = np.where(rise > 0, fall / rise, np.inf)
            nearest = meeting.min(axis=1)
            active = active & (nearest < high)
            if not active.any():
                break
            following = np.where(meeting <= nearest[:, None], slopes, -np.inf).argmax(axis=1)
            current = np.where(active, following, current)
            chosen.append(current)
            used.append(active)
    return np.stack(chosen, axis=1), np.stack(used, axis=1)


def _arguments(options: Priced) -> tuple[Any, ...]:
    stepped = np.zeros(0) if options.stepped is None else options.stepped
    return (
        options.node,
        options.first,
        options.again,
        options.per_depth,
        stepped,
        options.sigma_first,
        options.sigma_again,
        options.exponent,
        options.depth,
        options.mid,
        options.log_mid,
        options.first_mid,
        options.end_mid,
    )


def _load() -> Any:
    if os.environ.get("MAD_IP_NUMBA", "1") == "0":
        return None
    try:
        from mad_ip.lagrangian import compiled
    except ImportError:
        return None
    return compiled


_compiled = _load()

ACCELERATED = _compiled is not None
"""Whether numba does the inner loops."""
