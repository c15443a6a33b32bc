"""The segments of a spec with what blocks cost, and how wide they are, taken from the families' own layers.

An option of a segment is ``(c_in, c, m, k, L)``. Every term of its cost and of its log-width depends on at most two of
the three widths, as a convolution has two ends:

    cost  = entering(c_in, k, m) + pair(c_in, c) + opening(c, k, m) + (L - 1) again(c, k, m)
    sigma = ln c_in + log_opening(c, k, m) + (L - 1) log_again(c, k, m)

Which term goes where is read off the shapes that come of broadcasting the grids: no cost is fitted or assumed, each is
what :mod:`mad_ip.blocks` says at every value. Stem and tail are segments with ``m = L = 1``; the classifier's cost is
carried by the last segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mad_ip import blocks, entropy
from mad_ip.errors import InternalError
from mad_ip.spec import Segment, Spec
from mad_ip.utility import Utility

__all__ = ["Floats", "Integers", "Table", "tables"]

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """One segment over its whole grid.

    Axes: B budgets, S sources, N nodes, K kernels, W inner widths.

    ``pair`` (B, S, N), ``entering`` (B, S, E, W) with E = K, or 1 where no kernel matters there, ``opening`` (B, N, K,
    W) and ``again`` (B, N, K, W) are costs in units of the budgets that are sums. Where a budget is a maximum, one more
    row is 2 where a limit is passed. ``log_source`` (S), ``log_opening`` and ``log_again`` (N, K, W) give the
    log-width; ``layers`` are counted per block. Widths from ``first_mid`` to before ``end_mid`` (S, N) may be taken
    between a source and a node, none where they may not follow one another. ``gain`` (N) is what a unit of log-width
    adds to the score at the segment's end, ``utility`` (N, K, W) what channels, kernel and inner width are worth by
    themselves and ``depth_utility`` (L) what a depth is. ``descending``: of every cost, one more channel before the
    segment adds no less to what enters a wider block, so that the best width does not grow with them, whatever the
    prices.
    """

    sources: Integers
    nodes: Integers
    mid: Integers
    kernel: Integers
    depth: Floats
    pair: Floats
    entering: Floats
    opening: Floats
    again: Floats
    log_source: Floats
    log_opening: Floats
    log_again: Floats
    layers: int
    first_mid: Integers
    end_mid: Integers
    gain: Floats
    utility: Floats
    depth_utility: Floats
    descending: bool


def tables(spec: Spec) -> Iterator[Table]:
    """The segments of a spec in forward order.

    Raises :class:`InternalError` when a family's costs or widths are not sums of terms as above.
    """
    return (_table(spec, segment) for segment in spec.segments)


class _Terms:
    """Sums of terms by the axes that they depend on."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape
        s, n, k, w = shape
        self.pair = np.zeros((s, n))
        self.entering = np.zeros((s, k, w))
        self.node = np.zeros((n, k, w))

    def add(self, term: Any) -> None:
        """Add an amount over (S, N, K, W), whose axes of length 1 it does not depend on."""
        term = np.asarray(term, float).reshape((1,) * (4 - np.ndim(term)) + np.shape(term))
        by_source, by_node, *others = (size > 1 for size in term.shape)
        if by_source and by_node:
            if any(others):
                raise InternalError("a cost depends on the channels before and after a block and on what is inside")
            self.pair += term[:, :, 0, 0]
        elif by_source:
            self.entering += term[:, 0]
        else:
            self.node += term[0]


def _table(spec: Spec, segment: Segment) -> Table:
    sources, nodes, mid, kernel = (
        np.array(domain) for domain in (segment.sources, segment.channels, segment.mid, segment.kernel)
    )
    shape = len(sources), len(nodes), len(kernel), len(mid)
    c_in, c, m, k = sources[:, None, None, None], nodes[:, None, None], mid, kernel[:, None]
    first = blocks.opening(segment, c_in, c, m, k)
    rest = blocks.repeated(segment, c, m, k) if max(segment.depth) > 1 else ()
    head = blocks.closing(segment, c)
    opening, again, limits = [], [], []
    allowed = _Allowed(spec, segment, shape)
    for key, limit in spec.budget.enforced.items():
        cost = spec.costs[key]
        terms = [*cost.terms(first, True), *cost.terms(head, True)], list(cost.terms(rest, False))
        if cost.combine == "max":
            allowed.limit(*terms, limit)
            continue
        opening.append(_summed(terms[0], shape))
        again.append(_summed(terms[1], shape))
        limits.append(float(limit))
    if allowed.limited:
        opening.append(allowed.first)
        again.append(allowed.rest)
        # Once is too much already.
        limits.append(0.5)
    number = len(limits)
    unit = np.array(limits)
    entering = np.array([terms.entering for terms in opening]).reshape(number, shape[0], *shape[2:])
    if (entering == entering[:, :, :1]).all():
        entering = entering[:, :, :1]
    # Exact: integers below 2**53.
    wider = bool((np.diff(np.diff(entering, axis=1), axis=3) >= 0).all())
    descending = entering.shape[2] == 1 and wider and allowed.descending
    log_first, log_rest = _log_widths(first, shape), _log_widths(rest, shape)
    gain = entropy.entropy_factor(spec.convention, spec.objective.entropy) * entropy.entropy_gain(
        segment.weight, segment.out_size, nodes, segment.time.out_frames
    )
    worth = segment.utility or Utility(segment.key)
    return Table(
        sources=sources,
        nodes=nodes,
        mid=mid,
        kernel=kernel,
        depth=np.array(segment.depth, float),
        pair=np.array([terms.pair for terms in opening]).reshape(number, *shape[:2]) / unit[:, None, None],
        entering=entering / unit[:, None, None, None],
        opening=np.array([terms.node for terms in opening]).reshape(number, *shape[1:]) / unit[:, None, None, None],
        again=np.array([terms.node for terms in again]).reshape(number, *shape[1:]) / unit[:, None, None, None],
        log_source=log_first.entering[:, 0, 0],
        log_opening=log_first.node,
        log_again=log_rest.node,
        layers=entropy.count(first),
        first_mid=allowed.first_mid,
        end_mid=allowed.end_mid,
        gain=np.asarray(gain),
        utility=worth("channels", nodes)[:, None, None] + worth("kernel", kernel)[:, None] + worth("mid", mid),
        depth_utility=worth("depth", segment.depth),
        descending=descending,
    )


def _summed(amounts: Iterable[Any], shape: tuple[int, int, int, int]) -> _Terms:
    terms = _Terms(shape)
    for amount in amounts:
        terms.add(amount)
    return terms


def _log_widths(layers: tuple[blocks.Layer, ...], shape: tuple[int, int, int, int]) -> _Terms:
    """The log-widths of a block, of which those of the channels before it depend on nothing else."""
    terms = _Terms(shape)
    for layer in layers:
        if layer.counted:
            terms.add(np.log(layer.in_channels // layer.groups))
            terms.add(np.log(layer.time.kernel * layer.kernel**2))
    if terms.pair.any() or (terms.entering != terms.entering[:, :1, :1]).any():
        raise InternalError("a log-width is no sum of those of the widths before, inside and after a block")
    return terms


class _Allowed:
    """What the rules of the space and the budgets on maxima leave of a segment's options."""

    def __init__(self, spec: Spec, segment: Segment, shape: tuple[int, int, int, int]) -> None:
        self.shape, self.limited = shape, bool(spec.budget.maxima)
        self.first, self.rest = _Terms(shape), _Terms(shape)
        s, n, _, w = shape
        sources, nodes, mid = (np.array(domain) for domain in (segment.sources, segment.channels, segment.mid))
        carries = np.ones((n, w), bool)
        follows = np.ones((s, n), bool)
        if segment.ruled:
            carries = spec.space.carries(mid[None, :], nodes[:, None])
            follows = spec.space.follows(sources[:, None], nodes[None, :])
        # Widths that go with a number of channels are consecutive, since mid_ratio is an interval.
        first = carries.argmax(axis=1)
        self.first_mid = np.broadcast_to(first, (s, n)).copy()
        self.end_mid = np.where(follows, first + carries.sum(axis=1), self.first_mid)

    @property
    def descending(self) -> bool:
        """Whether more channels before a segment allow no wider block, and forbid no narrower one."""
        some = self.first_mid < self.end_mid
        return all(
            bool((np.diff(ends[allowed]) <= 0).all())
            for array in (self.first_mid, self.end_mid)
            for ends, allowed in zip(array.T, some.T, strict=True)
        )

    def limit(self, opening: list[Any], again: list[Any], most: float) -> None:
        """Forbid what passes a limit: the options of a first block, and further blocks."""
        for amount in opening:
            above = np.asarray(amount) > most
            if not above.any():
                continue
            above = above.reshape((1,) * (4 - above.ndim) + above.shape)
            if above.shape[2] == 1 and self._narrow(above[:, :, 0]):
                continue
            if above.shape[0] > 1 and above.shape[1] > 1:
                kernel = above.shape[2] > 1
                raise InternalError(
                    "a maximum depends on the channels before and after a block and on its kernel"
                    if kernel
                    else "a maximum neither grows nor falls with the inner width"
                )
            self.first.add(above * 1)
        for amount in again:
            above = np.asarray(amount) > most
            if above.any():
                self.rest.add(above * 1)

    def _narrow(self, above: NDArray[np.bool_]) -> bool:
        """Leave the widths (S, N, W) that are not above, if those are consecutive as they must be."""
        position = np.arange(self.shape[3])
        fits = ~np.broadcast_to(above, (*self.shape[:2], self.shape[3]))
        fits = fits & (position >= self.first_mid[:, :, None]) & (position < self.end_mid[:, :, None])
        number = fits.sum(axis=2)
        some = number > 0
        first, end = fits.argmax(axis=2), self.shape[3] - fits[:, :, ::-1].argmax(axis=2)
        if ((end - first) != number)[some].any():
            return False
        self.first_mid = np.where(some, first, 0)
        self.end_mid = self.first_mid + number
        return True
