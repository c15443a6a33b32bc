"""The tables of a box over groups of neighbouring widths: a bound that holds, for a fraction of the work."""

from __future__ import annotations

from typing import Any

import numpy as np

from mad_ip.lagrangian.kernels import compiled, inner
from mad_ip.lagrangian.packed import Packed, Segment, laid_out, segment
from mad_ip.lagrangian.tables import Integers

__all__ = ["grouped", "groups"]

_GROUPS = 48
"""Groups of the channels, and of the inner widths, of a segment at most."""


def groups(values: Integers) -> Integers:
    """The groups of ascending values, counted from 0, so many that the values of each are in about equal ratios."""
    logs, number = np.log(values), len(values)
    found = np.arange(number)
    wanted = 2 * _GROUPS
    while found[-1] >= _GROUPS:
        # The least values are far from each other: not all of the groups that are wanted have any.
        places = (logs - logs[0]) / (logs[-1] - logs[0]) * wanted
        found = np.unique(np.minimum(places.astype(int), wanted - 1), return_inverse=True)[1]
        wanted = wanted * 9 // 10
    return found


@compiled
def grouped(full: Packed, nodes: Any, mid: Any, numbers: Any) -> Packed:
    """The tables over groups of neighbouring nodes and inner widths, ``numbers`` (segments, 2) of each.

    ``nodes`` and ``mid`` are the groups of all nodes and inner widths, one segment after another. Whatever is in a
    group is at most as wide as the group and at least as expensive, and may follow whatever the group may follow.
    """
    number = len(full.shapes)
    shapes, sources = full.shapes.copy(), np.zeros(1, np.int64)
    for s in range(number):
        shapes[s, 0] = numbers[s - 1, 0] if s > 0 else 1
        shapes[s, 1], shapes[s, 3] = numbers[s, 0], numbers[s, 1]
    at, reals, wholes = laid_out(full.rows, shapes)
    real, whole = np.empty(reals), np.zeros(wholes, np.int64)
    # What enters a wider block is searched without what holds of single channels.
    descending = np.zeros(number, np.bool_)
    tables = Packed(full.rows, shapes, at, real, whole, full.depth, full.depth_utility, full.layers, descending)
    begin, start = 0, 0
    for s in range(number):
        here, group = segment(full, s), segment(tables, s)
        targets, widths = nodes[begin : begin + len(here.nodes)], mid[start : start + len(here.mid)]
        begin, start = begin + len(targets), start + len(widths)
        group.pair[:], group.entering[:], group.opening[:], group.again[:] = np.inf, np.inf, np.inf, np.inf
        group.log_source[:], group.log_opening[:], group.log_again[:] = -np.inf, -np.inf, -np.inf
        group.gain[:], group.utility[:] = -np.inf, -np.inf
        group.first_mid[:], group.kernel[:] = len(group.mid), here.kernel
        _gather(here, group, sources, targets, widths)
        sources = targets
    return tables


@inner
def _gather(here: Segment, group: Segment, sources: Any, nodes: Any, mid: Any) -> None:
    """Take all that a segment has into its groups."""
    for w in range(len(mid)):
        group.mid[mid[w]] = here.mid[w]
    for i in range(len(sources)):
        p = sources[i]
        group.log_source[p] = max(group.log_source[p], here.log_source[i])
        for b in range(len(here.pair)):
            for e in range(here.entering.shape[2]):
                for w in range(len(mid)):
                    group.entering[b, p, e, mid[w]] = min(group.entering[b, p, e, mid[w]], here.entering[b, i, e, w])
            for j in range(len(nodes)):
                group.pair[b, p, nodes[j]] = min(group.pair[b, p, nodes[j]], here.pair[b, i, j])
        for j in range(len(nodes)):
            first, end = here.first_mid[i, j], here.end_mid[i, j]
            if first < end:
                group.first_mid[p, nodes[j]] = min(group.first_mid[p, nodes[j]], mid[first])
                group.end_mid[p, nodes[j]] = max(group.end_mid[p, nodes[j]], mid[end - 1] + 1)
    for j in range(len(nodes)):
        q = nodes[j]
        group.nodes[q], group.gain[q] = here.nodes[j], max(group.gain[q], here.gain[j])
        for k in range(len(here.kernel)):
            for w in range(len(mid)):
                r = mid[w]
                group.log_opening[q, k, r] = max(group.log_opening[q, k, r], here.log_opening[j, k, w])
                group.log_again[q, k, r] = max(group.log_again[q, k, r], here.log_again[j, k, w])
                group.utility[q, k, r] = max(group.utility[q, k, r], here.utility[j, k, w])
                for b in range(len(here.pair)):
                    group.opening[b, q, k, r] = min(group.opening[b, q, k, r], here.opening[b, j, k, w])
                    group.again[b, q, k, r] = min(group.again[b, q, k, r], here.again[b, j, k, w])
