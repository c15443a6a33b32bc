"""Every path of undominated options, for small spaces: prefixes grow in chunks, and are dropped beyond a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mad_ip import catalogue, entropy, paths
from mad_ip.backends.base import Findings, Floats, Limits, Search
from mad_ip.catalogue import Catalogue, Integers, Options
from mad_ip.errors import InputError
from mad_ip.spec import Path, Spec

__all__ = ["Enumeration"]

_CHUNK = 1 << 17
"""Prefixes extended at a time; bounds the memory."""

_ROUNDING = 1e-12
"""Error of a score summed in another order than a design's own, relative to it and to what cancels in it."""


class Enumeration(Search):
    """Exhaustive enumeration; its only option ``paths`` is the largest number of paths that it accepts."""

    name = "enumerate"

    def __init__(self, options: Mapping[str, Any], source: str = "options") -> None:
        super().__init__(options, source)
        self.paths = self.option("paths").integer("paths", default=10**9)

    def solve(self, spec: Spec, limits: Limits, watch: Callable[[Findings], bool]) -> Findings:
        """Enumerate; see :class:`mad_ip.backends.base.Search`.

        Raises :class:`InputError` when the catalogue has more paths than the option ``paths`` allows.
        """
        listed = paths.within_budgets(catalogue.build(spec))
        number = _number_of_paths(listed)
        if number > self.paths:
            raise InputError(
                f"{self.source}: backend = 'enumerate': {number:,} paths are too many; "
                f"options.paths = {self.paths:,} allows fewer"
            )
        began = time.perf_counter()
        best, seen = -math.inf, 0
        found: tuple[Path, ...] = ()
        pending = [] if listed.is_empty else [_Prefixes.empty(spec)]
        while pending:
            prefixes = pending.pop()
            options = listed.segments[prefixes.segments]
            first, end = prefixes.following(options)
            if len(first) > 1 and int((end - first).sum()) > _CHUNK:
                middle = len(first) // 2
                pending += [prefixes.rows(slice(middle, None)), prefixes.rows(slice(middle))]
                continue
            prefixes = prefixes.extended(options, spec)
            if prefixes.segments < len(listed.segments):
                pending.append(prefixes)
            else:
                seen += len(prefixes.c)
                scores = prefixes.scores(spec)
                if len(scores) and scores.max() > best:
                    best = float(scores.max())
                    found = (listed.path(prefixes.path[int(scores.argmax())].tolist()),)
            findings = Findings("stopped", math.inf, found, seen)
            if watch(findings) or time.perf_counter() - began > limits.seconds:
                return findings
        if not found:
            return Findings("infeasible", -math.inf, (), seen)
        return Findings("optimal", best + _ROUNDING * (abs(best) + spec.magnitude), found, seen)


@dataclass(frozen=True)
class _Prefixes:
    """Paths through the first segments, one a row: their options, costs, log-width, entropy and utility so far."""

    path: Integers
    depth: Integers
    c: Integers
    costs: dict[str, Integers]
    layers: Integers
    log_width: Floats
    worth: Floats

    @classmethod
    def empty(cls, spec: Spec) -> _Prefixes:
        """The one prefix without any segment: the image."""
        none, zero = np.zeros((1, 0), np.int64), np.zeros(1, np.int64)
        costs = dict.fromkeys(spec.budget.sums, zero)
        return cls(none, none, zero + spec.input.channels, costs, zero, np.zeros(1), np.zeros(1))

    @property
    def segments(self) -> int:
        """Number of segments passed."""
        return int(self.path.shape[1])

    def rows(self, chosen: slice | NDArray[np.bool_]) -> _Prefixes:
        """Some of the rows."""
        columns = {key: getattr(self, key)[chosen] for key in self.__dataclass_fields__ if key != "costs"}
        return _Prefixes(costs={key: cost[chosen] for key, cost in self.costs.items()}, **columns)

    def following(self, segment: Options) -> tuple[Integers, Integers]:
        """For every row, the first option of a segment that takes up its channels, and the end of those."""
        return np.searchsorted(segment.c_in, self.c), np.searchsorted(segment.c_in, self.c, "right")

    def extended(self, segment: Options, spec: Spec) -> _Prefixes:
        """By all options of a segment that follow, without those beyond a budget."""
        first, end = self.following(segment)
        row = np.repeat(np.arange(len(self.c)), end - first)
        option = np.arange(len(row)) - np.repeat(np.cumsum(end - first) - end, end - first)
        log_width = self.log_width[row] + segment.log_width[option]
        c = segment.c[option]
        longer = _Prefixes(
            path=np.column_stack([self.path[row], option]),
            depth=np.column_stack([self.depth[row], segment.depth[option]]),
            c=c,
            costs={key: cost[row] + segment.costs[key][option] for key, cost in self.costs.items()},
            layers=self.layers[row] + segment.layers[option],
            log_width=log_width,
            worth=self.worth[row]
            + segment.gain[np.searchsorted(segment.nodes, c)] * log_width
            + segment.utility[option],
        )
        kept = np.ones(len(row), bool)
        for key, limit in spec.budget.sums.items():
            kept &= longer.costs[key] <= limit
        ratio = spec.budget.effectiveness
        if ratio is not None and segment.segment.bounded:
            kept &= entropy.ratio(longer.layers, log_width) <= ratio * (1 + entropy.EFFECTIVENESS_TOLERANCE)
        return longer.rows(kept)

    def scores(self, spec: Spec) -> Floats:
        """The scores of complete paths."""
        depth = self.depth[:, [segment.penalised for segment in spec.segments]]
        number, spread = depth.shape[1], entropy.spread(depth.T)
        penalty = entropy.penalty_of(spread, number, spec.objective.depth_penalty, spec.convention)
        return np.asarray(self.worth - penalty)


def _number_of_paths(catalogue: Catalogue) -> int:
    """Exact number of paths, budgets ignored, in Python integers."""
    ways: dict[int, int] | None = None
    for segment in catalogue.segments:
        following: dict[int, int] = {}
        counts = np.diff(np.append(segment.starts, len(segment))).tolist()
        ends = zip(segment.c_in[segment.starts].tolist(), segment.c[segment.starts].tolist(), counts, strict=True)
        for c_in, c, count in ends:
            following[c] = following.get(c, 0) + (1 if ways is None else ways.get(c_in, 0)) * count
        ways = following
    return sum((ways or {}).values())
