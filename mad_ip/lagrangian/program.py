"""The Lagrangian relaxation over one box, solved exactly by a dynamic program whose values are envelopes of lines.

Budgets, effectiveness, depth penalty and the total of the depths are priced; what remains is a longest path whose
value-to-go is a convex piecewise linear function of the log-width carried (docs/verification.md). Any multipliers give
a valid bound on the score of every feasible design of the box.

Symbols: ``sigma`` log-width of an option; ``A S + B`` a line in the carried log-width ``S``; ``x`` multipliers, in the
order budgets, effectiveness of every bounded segment, curvature ``b`` (at least 0) and total ``nu`` (of any sign);
``a + b V`` an affine minorant of ``Q(V)``. Axes as in :mod:`mad_ip.lagrangian.kernels`.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mad_ip import entropy
from mad_ip.lagrangian import passes
from mad_ip.lagrangian.box import Box, largest_spread, spreads, whole
from mad_ip.lagrangian.groups import grouped, groups
from mad_ip.lagrangian.packed import Segment, packed, relimited, segment
from mad_ip.lagrangian.passes import Relaxed, Traces
from mad_ip.lagrangian.tables import Floats, Integers
from mad_ip.spec import Choice, Path, Spec

__all__ = ["Bound", "Program", "Relaxation", "path_of", "relaxed"]

_PRICES = np.geomspace(0.02, 20, 10)
"""Prices of a budget, in units of the widest path, that bound what a path carries."""

_TINY = 1e-6
"""A score below which a natural step is no smaller."""

_LARGE = 1 << 20
"""Elementary steps of an evaluation, for one line at every node, above which a box is large."""


@dataclass(frozen=True)
class Bound:
    """An upper bound ``value`` on the score within a box, by ``multipliers``.

    ``tangents`` are the numbers of layers at which the slope of phi prices a layer, one for each bounded segment;
    ``path`` is the maximising one, ``None`` where there is none.
    """

    value: float
    multipliers: Floats
    tangents: tuple[float, ...]
    path: Path | None


def path_of(choices: Floats) -> Path:
    """The path of choices (segments, 4)."""
    return tuple(itertools.starmap(Choice, choices.tolist()))


class Relaxation:
    """What the boxes of a spec share: its tables, budgets and scales."""

    def __init__(self, spec: Spec) -> None:
        self.tables = packed(spec)
        self._limit(spec)

    def _limit(self, spec: Spec) -> None:
        self.spec = spec
        self.budgets = list(spec.budget.sums)
        ratio = spec.budget.effectiveness
        self.bounded = [s for s, segment in enumerate(spec.segments) if segment.bounded and ratio is not None]
        self.log_ratio = 0.0 if ratio is None else math.log(ratio) + math.log1p(entropy.EFFECTIVENESS_TOLERANCE)
        self.beta = spec.objective.depth_penalty

    def limited(self, spec: Spec) -> Relaxation:
        """The relaxation of a spec that is this one's but for limits, none of which is larger.

        Nothing is built anew unless a limit on a maximum differs; what paths carry at most is what they carry here.
        """
        if spec.budget.maxima != self.spec.budget.maxima:
            other = Relaxation(spec)
        else:
            other = copy.copy(self)
            own, given = (np.array(list(found.budget.sums.values()), float) for found in (self.spec, spec))
            other.tables = relimited(self.tables, own, given)
            other._limit(spec)
        other.__dict__["widest"] = self.widest
        return other

    def is_large(self, box: Box) -> bool:
        """Whether an evaluation of a box takes long: a part of it then comes first."""
        sources = (1, *map(len, box.channels))
        sizes = zip(sources, box.channels, self.tables.shapes[:, 5].tolist(), box.mid, strict=False)
        return bool(sum(s * len(n) * e * len(w) for s, n, e, w in sizes) > _LARGE)

    @cached_property
    def widest(self) -> Floats:
        """For every node, one segment after another, what paths within each single budget carry there at most.

        For any price, a path within the budget carries at most ``max (S - price cost) + price``; the best of several.
        """
        bounds = np.full(int(self.tables.shapes[:, 1].sum()), np.inf)
        program = relaxed(self, whole(self.spec), ranged=False)
        if program is None:
            return bounds
        full = self.tables.shapes[:, 1]
        nodes = program.nodes + np.repeat(np.cumsum(full) - full, program.tables.shapes[:, 1])
        for budget in np.eye(len(self.budgets)):
            least = passes.suffixes(program.tables, budget)
            for price in program.most * _PRICES:
                most = passes.prefixes(program.tables, price * budget, 1.0)
                found = (most + price * (least + 1)) * (1 + 1e-9)
                bounds[nodes] = np.minimum(bounds[nodes], found)
        return bounds

    @cached_property
    def least(self) -> Floats:
        """Lower limits of the multipliers."""
        depth = [0.0, -np.inf] if self.beta > 0 else []
        return np.array([0.0] * (len(self.budgets) + len(self.bounded)) + depth)


class Program:
    """The relaxation over a box; ``is_empty`` when no path of channels remains.

    The rest is what :func:`mad_ip.lagrangian.passes.opened` returns.
    """

    def __init__(self, relaxation: Relaxation, box: Box, *, ranged: bool = True) -> None:
        self.relaxation = relaxation
        self.box = box
        self.values = np.fromiter(itertools.chain.from_iterable(itertools.chain.from_iterable(box.choices)), np.int64)
        self.counts = np.array([[len(domain) for domain in domains] for domains in box.choices])
        widest = relaxation.widest if ranged else np.full(int(relaxation.tables.shapes[:, 1].sum()), np.inf)
        found = passes.opened(relaxation.tables, widest, self.values, self.counts)
        self.tables, self.nodes, self.low, self.high, self.most, self.gains, self.worths, self.largest = found
        self.spreads = spreads(tuple(box.depth[s] for s in box.penalised), box.first, box.last)
        self.groups: list[tuple[Integers, Integers]] | None = None
        self.is_empty = not self.tables.shapes[:, 1].all() or (bool(box.penalised) and len(self.spreads) == 0)

    @cached_property
    def is_large(self) -> bool:
        """Whether an evaluation takes long."""
        return self.groups is None and self.relaxation.is_large(self.box)

    def grouped(self) -> Program:
        """The relaxation over groups of neighbouring widths, each as wide as its widest and as cheap as its cheapest.

        Whatever multipliers bound by it bounds the box, and each of its values, for a fraction of the work. What it
        traces need not be a path.
        """
        other = copy.copy(self)
        for name in ("relaxed", "is_large"):
            other.__dict__.pop(name, None)
        segments = [self.segment(s) for s in range(len(self.counts))]
        other.groups = [(groups(here.nodes), groups(here.mid)) for here in segments]
        nodes, mid = (np.concatenate(parts) for parts in zip(*other.groups, strict=True))
        numbers = np.array([(of_nodes[-1] + 1, of_mid[-1] + 1) for of_nodes, of_mid in other.groups])
        other.tables = grouped(self.tables, nodes, mid, numbers)
        # One group after another, wherever the next begins.
        starts = np.flatnonzero(np.concatenate([np.diff(part, prepend=-1) for part, _ in other.groups]))
        other.low, other.high = np.minimum.reduceat(self.low, starts), np.maximum.reduceat(self.high, starts)
        # A path of groups is wider than any of theirs, by far less.
        other.most = 2 * self.most
        other.__dict__["scales"] = self.scales
        return other

    def segment(self, s: int) -> Segment:
        """The arrays of a segment."""
        return segment(self.tables, s)

    @cached_property
    def relaxed(self) -> Relaxed:
        """All that compiled code needs."""
        relaxation, box = self.relaxation, self.box
        variances, uniformities = self._penalties if box.penalised else (np.zeros(0), np.zeros(0))
        reach = np.array(self.layer_ranges, float).reshape(-1, 2)
        layers = [np.arange(least, most + 1, dtype=float) for least, most in self._numbers_of_layers]
        count = np.concatenate([np.zeros(0), *layers])
        return Relaxed(
            self.tables,
            self.low,
            self.high,
            self.most,
            self.gains,
            self.largest,
            float(relaxation.spec.magnitude),
            len(relaxation.budgets),
            np.array(relaxation.bounded, np.int64),
            box.penalised[0] if box.penalised else 0,
            box.penalised[-1] + 1 if box.penalised else 0,
            box.first,
            box.last,
            float(relaxation.beta),
            float(relaxation.log_ratio),
            variances,
            uniformities,
            count,
            # phi(D) = D ln D - D ln rho_0 is the least log-width.
            count * np.log(count) - count * relaxation.log_ratio,
            np.cumsum([0, *map(len, layers)]),
            reach,
        )

    @cached_property
    def scales(self) -> Floats:
        """A natural step for every multiplier."""
        relaxation = self.relaxation
        score = float(self.gains.sum()) * self.most / 10 + float(np.ptp(self.worths, axis=1).sum())
        score = max(score, 1.0 if relaxation.spec.objective.is_plain else _TINY)
        depth = [1.0, score / 100] if relaxation.beta > 0 else []
        return np.array([score] * len(relaxation.budgets) + [score / 300] * len(relaxation.bounded) + depth)

    @property
    def start(self) -> Floats:
        """Multipliers of the right magnitude."""
        return np.where(np.isfinite(self.relaxation.least), self.scales / 2, 0.0)

    @cached_property
    def tangents(self) -> tuple[float, ...]:
        """Layers up to every bounded segment with depths in the middle of the box; exact where they are fixed."""
        box = self.box
        middle = [(depth[0] + depth[-1]) / 2 for depth in box.depth]
        if box.penalised:
            scale = (box.first + box.last) / 2 / sum(middle[s] for s in box.penalised)
            middle = [value * scale if s in box.penalised else value for s, value in enumerate(middle)]
        layers = [number * value for number, value in zip(self.tables.layers.tolist(), middle, strict=True)]
        return tuple(max(1.0, math.fsum(layers[: s + 1])) for s in self.relaxation.bounded)

    def traces(self, number: int) -> Traces:
        """Place for so many."""
        budgets, bounded = len(self.relaxation.budgets), len(self.relaxation.bounded)
        choices = np.empty((number, len(self.counts), 4), np.int64)
        return Traces(choices, np.empty(number), np.empty((number, budgets)), np.empty((number, bounded)))

    def evaluate(self, multipliers: Floats, tangents: tuple[float, ...] | None = None) -> Bound:
        """The bound that these multipliers give; minus infinity when the box is empty."""
        tangents = self.tangents if tangents is None else tangents
        trace = self.traces(1)
        value = passes.evaluate(self.relaxed, multipliers, np.array(tangents, float), trace, 0)
        return Bound(value, multipliers, tangents, path_of(trace.choices[0]) if value > -math.inf else None)

    def depth_penalty(self, path: Path) -> float:
        """``beta Q`` of a path."""
        depths = [path[s].depth for s in self.box.penalised]
        return entropy.depth_penalty(depths, self.relaxation.beta, self.relaxation.spec.convention) if depths else 0.0

    def adopted(self, bound: Bound) -> tuple[Floats, tuple[float, ...]]:
        """The multipliers of another box, with tangents in the range of this one, at the same price for every block.

        That is so where one segment is bounded and all penalised blocks have as many layers; else it is near.
        """
        inside = zip(bound.tangents, self.layer_ranges, strict=True)
        tangents = tuple(min(max(tangent, low), high) for tangent, (low, high) in inside)
        if self.relaxation.beta == 0 or not tangents:
            return bound.multipliers, tangents
        multipliers = bound.multipliers.copy()
        mu = float(multipliers[len(self.relaxation.budgets) + len(tangents) - 1])
        lost = mu * (math.log(bound.tangents[-1]) - math.log(tangents[-1]))
        multipliers[-1] += lost * self.tables.layers[self.box.penalised[0]]
        return multipliers, tangents

    @cached_property
    def layer_ranges(self) -> tuple[tuple[int, int], ...]:
        """For every bounded segment, the fewest and the most layers up to it by the depths of the segments."""
        depths = np.array([(depth[0], depth[-1]) for depth in self.box.depth])
        totals = np.cumsum(self.tables.layers[:, None] * depths, axis=0)
        return tuple((least, most) for least, most in totals[self.relaxation.bounded].tolist())

    @property
    def _numbers_of_layers(self) -> Iterator[tuple[int, int]]:
        """For every bounded segment, the fewest and the most layers up to it that the box may have."""
        box = self.box
        for s, (least, most) in zip(self.relaxation.bounded, self.layer_ranges, strict=True):
            layers = self.tables.layers.tolist()
            same = {layers[r] for r in box.penalised if r <= s}
            if box.penalised and box.penalised[-1] <= s and len(same) == 1:
                # The total of the penalised depths says how many of the layers are theirs.
                number = same.pop()
                low, high = (sum(box.depth[r][end] for r in box.penalised) for end in (0, -1))
                least += number * max(0, box.first - low)
                most -= number * max(0, high - box.last)
            yield least, most

    @cached_property
    def _penalties(self) -> tuple[Floats, Floats]:
        """The attainable ``V`` and ``Q`` at each."""
        number = len(self.box.penalised)
        variances = self.spreads / number**2
        uniformities = entropy.uniformity_of(self.spreads, number, self.relaxation.spec.convention)
        # Beyond the last one listed, up to the largest there may be, Q is at least that of the last.
        variances[-1] = largest_spread(self.spreads, tuple(self.box.depth[s] for s in self.box.penalised)) / number**2
        return variances, np.minimum(uniformities, 1e300 / max(1.0, self.relaxation.beta))

    def option_bounds(self, bound: Bound) -> list[Floats]:
        """Per segment, an upper bound on the designs of the box that take each option, (S, N, K, W, L).

        Minus infinity where there is no such option on a complete path.
        """
        return [bounds for _, _, bounds in self._forward(bound, -math.inf, options=True)]

    def value_bounds(
        self, bound: Bound, target: float = -math.inf
    ) -> Iterator[tuple[tuple[Floats, Floats, Floats, Floats], float]]:
        """Per segment, an upper bound on the designs that take each value of the axes of :data:`AXES`, in the order
        of the box, and one on all designs that do not pass ``target``.

        Minus infinity stands for values on no complete path, and for what does not pass the target.
        """
        begin = 0
        for s, (values, below, _) in enumerate(self._forward(bound, target)):
            by_node, mid = values.channels, values.mid
            if self.groups is not None:
                by_node, mid = by_node[self.groups[s][0]], mid[self.groups[s][1]]
            nodes = np.array(self.relaxation.spec.segments[s].channels)[self.nodes[begin : begin + len(by_node)]]
            begin += len(nodes)
            channels = np.full(len(self.box.channels[s]), -np.inf)
            channels[np.searchsorted(self.box.channels[s], nodes)] = by_node
            yield (channels, mid, values.kernel, values.depth), below

    def _forward(self, bound: Bound, target: float, *, options: bool = False) -> list[Any]:
        tangents = np.array(bound.tangents, float)
        return passes.forward(self.relaxed, bound.multipliers, tangents, target, options)


def relaxed(relaxation: Relaxation, box: Box, *, ranged: bool = True) -> Program | None:
    """The program over what is left of a box without depths that no total allows, ``None`` where nothing is."""
    tight = box.tightened
    program = None if tight is None else Program(relaxation, tight, ranged=ranged)
    return None if program is None or program.is_empty else program
