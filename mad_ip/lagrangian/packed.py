"""The tables of all segments in a few arrays, as compiled code reads them, and what a box leaves of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mad_ip.lagrangian.kernels import compiled, inner
from mad_ip.lagrangian.tables import Floats, Integers, tables
from mad_ip.spec import Spec

__all__ = ["Packed", "Segment", "laid_out", "packed", "part", "relimited", "segment"]


class Packed(NamedTuple):
    """The arrays of every :class:`mad_ip.lagrangian.tables.Table`, one after another.

    ``shapes`` (segments, 6) are S, N, K, W, L and E, ``at`` (segments, 14) where the arrays of a segment begin: the
    first 9 in ``real``, the others in ``whole``. ``depth`` and ``depth_utility`` (segments, L) are padded.
    """

    rows: int
    shapes: Any
    at: Any
    real: Any
    whole: Any
    depth: Any
    depth_utility: Any
    layers: Any
    descending: Any


class Segment(NamedTuple):
    """The arrays of one segment, with the axes of a :class:`mad_ip.lagrangian.tables.Table`."""

    pair: Any
    entering: Any
    opening: Any
    again: Any
    log_source: Any
    log_opening: Any
    log_again: Any
    gain: Any
    utility: Any
    first_mid: Any
    end_mid: Any
    nodes: Any
    mid: Any
    kernel: Any
    depth: Any
    depth_utility: Any


_REAL, _WHOLE = Segment._fields[:9], Segment._fields[9:14]
"""What is kept as real and as whole numbers."""


def packed(spec: Spec) -> Packed:
    """All tables of a spec, one built after another: they are large."""
    segments = spec.segments
    rows = len(spec.budget.sums) + bool(spec.budget.maxima)
    domains = [(s.sources, s.channels, s.kernel, s.mid, s.depth, s.kernel) for s in segments]
    shapes = np.array([list(map(len, row)) for row in domains])
    depth, depth_utility = np.zeros((2, len(segments), shapes[:, 4].max()))
    layers, descending = np.empty(len(segments), np.int64), np.empty(len(segments), bool)
    # Where no kernel matters to what enters a block the rest is never touched.
    _, reals, wholes = laid_out(rows, shapes)
    real, whole = np.empty(reals), np.empty(wholes, np.int64)
    for s, table in enumerate(tables(spec)):
        shapes[s, 5] = table.entering.shape[2]
        at, _, _ = laid_out(rows, shapes)
        for key, begin in zip((*_REAL, *_WHOLE), at[s], strict=True):
            values = np.ravel(getattr(table, key))
            (real if key in _REAL else whole)[begin : begin + len(values)] = values
        depth[s, : len(table.depth)], depth_utility[s, : len(table.depth)] = table.depth, table.depth_utility
        layers[s], descending[s] = table.layers, table.descending
    at, reals, wholes = laid_out(rows, shapes)
    return Packed(rows, shapes, at, real[:reals], whole[:wholes], depth, depth_utility, layers, descending)


def relimited(tables: Packed, before: Floats, after: Floats) -> Packed:
    """The tables, whose costs are in units of limits ``before``, in units of others.

    Costs are integers: they come back as they were, and what is made of them is what :func:`packed` would make.
    """
    real = tables.real.copy()
    for at, (sources, nodes, kernels, widths, _, entering) in zip(tables.at, tables.shapes, strict=True):
        inside = nodes * kernels * widths
        for begin, size in zip(at, (sources * nodes, sources * entering * widths, inside, inside), strict=False):
            rows = real[begin : begin + tables.rows * size].reshape(tables.rows, size)
            for row, own, given in zip(rows, before, after, strict=False):
                if own != given:
                    row[:] = np.rint(row * own) / given
    return tables._replace(real=real)


@compiled
def laid_out(rows: int, shapes: Any) -> tuple[Any, int, int]:
    """Where every array begins, and the sizes of ``real`` and of ``whole``."""
    at = np.empty((len(shapes), 14), np.int64)
    real, whole = 0, 0
    for s in range(len(shapes)):
        sources, nodes, kernels, widths, _, entering = shapes[s]
        inside, between = nodes * kernels * widths, sources * nodes
        costs = (rows * between, rows * sources * entering * widths, rows * inside, rows * inside)
        for i, size in enumerate((*costs, sources, inside, inside, nodes, inside)):
            at[s, i] = real
            real += size
        for i, size in enumerate((between, between, nodes, widths, kernels)):
            at[s, 9 + i] = whole
            whole += size
    return at, real, whole


@compiled
def segment(tables: Packed, s: int) -> Segment:
    """Views of the arrays of one segment."""
    sources, nodes, kernels, widths, depths, entering = tables.shapes[s]
    at, real, whole, rows = tables.at[s], tables.real, tables.whole, tables.rows
    inside, between = nodes * kernels * widths, sources * nodes
    outside = rows * sources * entering * widths
    return Segment(
        real[at[0] : at[0] + rows * between].reshape((rows, sources, nodes)),
        real[at[1] : at[1] + outside].reshape((rows, sources, entering, widths)),
        real[at[2] : at[2] + rows * inside].reshape((rows, nodes, kernels, widths)),
        real[at[3] : at[3] + rows * inside].reshape((rows, nodes, kernels, widths)),
        real[at[4] : at[4] + sources],
        real[at[5] : at[5] + inside].reshape((nodes, kernels, widths)),
        real[at[6] : at[6] + inside].reshape((nodes, kernels, widths)),
        real[at[7] : at[7] + nodes],
        real[at[8] : at[8] + inside].reshape((nodes, kernels, widths)),
        whole[at[9] : at[9] + between].reshape((sources, nodes)),
        whole[at[10] : at[10] + between].reshape((sources, nodes)),
        whole[at[11] : at[11] + nodes],
        whole[at[12] : at[12] + widths],
        whole[at[13] : at[13] + kernels],
        tables.depth[s, :depths],
        tables.depth_utility[s, :depths],
    )


@inner
def _positions(values: Any, domain: Any) -> Any:
    """Where ascending values are in an ascending domain that has them."""
    found = np.empty(len(values), np.int64)
    place = 0
    for i in range(len(values)):
        while domain[place] < values[i]:
            place += 1
        found[i] = place
    return found


@inner
def _widths_before(mid: Any, widths: int) -> Any:
    """For every position of a width, the number of those at ``mid`` that are before it."""
    before = np.zeros(widths + 1, np.int64)
    for place in mid:
        before[place + 1] = 1
    return np.cumsum(before)


@inner
def _slice(values: Any, starts: Any, number: int) -> Any:
    return values[starts[number] : starts[number + 1]]


@inner
def _follows(here: Segment, sources: Any, nodes: Any, mid: Any) -> Any:
    """Whether widths at ``mid`` are left between sources and nodes (S, N), all by their positions."""
    before = _widths_before(mid, len(here.mid))
    found = np.empty((len(sources), len(nodes)), np.bool_)
    for i in range(len(sources)):
        for j in range(len(nodes)):
            first, end = here.first_mid[sources[i], nodes[j]], here.end_mid[sources[i], nodes[j]]
            found[i, j] = before[first] < before[end]
    return found


@inner
def part(full: Packed, values: Integers, counts: Integers) -> tuple[Packed, Any]:
    """What is left with some ``values`` of every choice, one after another, ``counts`` (segments, 4) of each.

    Of the nodes only those on a complete path; their positions in the full tables come with it, one after another.
    """
    number = len(counts)
    starts = np.zeros(4 * number + 1, np.int64)
    starts[1:] = np.cumsum(counts.ravel())
    places = np.empty_like(values)
    for s in range(number):
        here = segment(full, s)
        for axis, domain in enumerate((here.nodes, here.mid, here.kernel)):
            _slice(places, starts, 4 * s + axis)[:] = _positions(_slice(values, starts, 4 * s + axis), domain)
    kept, origin = np.ones(len(values), np.bool_), np.zeros(1, np.int64)
    # First without the nodes that no path from the start reaches, then without those that lead nowhere.
    for s in range(number):
        sources = _slice(places, starts, 4 * s - 4) if s > 0 else origin
        nodes, mid = _slice(places, starts, 4 * s), _slice(places, starts, 4 * s + 1)
        follows, here = _follows(segment(full, s), sources, nodes, mid), _slice(kept, starts, 4 * s)
        for j in range(len(nodes)):
            here[j] = (follows[:, j] & (_slice(kept, starts, 4 * s - 4) if s > 0 else follows[:, j])).any()
    for s in range(number - 1, 0, -1):
        sources, nodes = _slice(places, starts, 4 * s - 4), _slice(places, starts, 4 * s)
        follows = _follows(segment(full, s), sources, nodes, _slice(places, starts, 4 * s + 1))
        before = _slice(kept, starts, 4 * s - 4)
        for i in range(len(sources)):
            before[i] &= (follows[i] & _slice(kept, starts, 4 * s)).any()
    shapes, depth = np.empty_like(full.shapes), np.zeros((number, counts[:, 3].max()))
    depth_utility = np.zeros_like(depth)
    chosen, left = np.empty_like(places), 0
    ends = np.zeros(number + 1, np.int64)
    for s in range(number):
        nodes = _slice(places, starts, 4 * s)[_slice(kept, starts, 4 * s)]
        ends[s + 1] = ends[s] + len(nodes)
        _slice(chosen, ends, s)[:] = nodes
        sources, entering = (left if s > 0 else 1), (counts[s, 2] if full.shapes[s, 5] > 1 else 1)
        shapes[s] = (sources, len(nodes), counts[s, 2], counts[s, 1], counts[s, 3], entering)
        depth[s, : counts[s, 3]] = _slice(values, starts, 4 * s + 3)
        taken = _positions(depth[s, : counts[s, 3]], full.depth[s, : full.shapes[s, 4]])
        depth_utility[s, : counts[s, 3]] = full.depth_utility[s][taken]
        left = len(nodes)
    at, real, whole = full.at, full.real, full.whole
    smaller = (shapes[:, :4] != full.shapes[:, :4]).any()
    if smaller:
        at, reals, wholes = laid_out(full.rows, shapes)
        real, whole = np.empty(reals), np.empty(wholes, np.int64)
    tables = Packed(full.rows, shapes, at, real, whole, depth, depth_utility, full.layers, full.descending)
    for s in range(number if smaller else 0):
        mid, kernel = _slice(places, starts, 4 * s + 1), _slice(places, starts, 4 * s + 2)
        sources = _slice(chosen, ends, s - 1) if s > 0 else origin
        _copy(segment(full, s), segment(tables, s), sources, _slice(chosen, ends, s), mid, kernel)
    return tables, chosen[: ends[-1]]


@inner
def _copy(full: Segment, part: Segment, sources: Any, nodes: Any, mid: Any, kernel: Any) -> None:
    """Fill a part with what a segment has at some positions."""
    before = _widths_before(mid, len(full.mid))
    for i in range(len(sources)):
        part.log_source[i] = full.log_source[sources[i]]
        for j in range(len(nodes)):
            part.first_mid[i, j] = before[full.first_mid[sources[i], nodes[j]]]
            part.end_mid[i, j] = before[full.end_mid[sources[i], nodes[j]]]
            for b in range(len(full.pair)):
                part.pair[b, i, j] = full.pair[b, sources[i], nodes[j]]
        for b in range(len(full.pair)):
            for e in range(part.entering.shape[2]):
                k = kernel[e] if full.entering.shape[2] > 1 else 0
                for w in range(len(mid)):
                    part.entering[b, i, e, w] = full.entering[b, sources[i], k, mid[w]]
    for j in range(len(nodes)):
        part.nodes[j], part.gain[j] = full.nodes[nodes[j]], full.gain[nodes[j]]
        for k in range(len(kernel)):
            part.kernel[k] = full.kernel[kernel[k]]
            for w in range(len(mid)):
                part.mid[w] = full.mid[mid[w]]
                part.log_opening[j, k, w] = full.log_opening[nodes[j], kernel[k], mid[w]]
                part.log_again[j, k, w] = full.log_again[nodes[j], kernel[k], mid[w]]
                part.utility[j, k, w] = full.utility[nodes[j], kernel[k], mid[w]]
                for b in range(len(full.pair)):
                    part.opening[b, j, k, w] = full.opening[b, nodes[j], kernel[k], mid[w]]
                    part.again[b, j, k, w] = full.again[b, nodes[j], kernel[k], mid[w]]
