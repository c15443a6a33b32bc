"""Upper bounds on the score by a Lagrangian dynamic program with envelopes of lines (docs/formulation.md section 5).

Shares no code with the MILP. Budgets, effectiveness and the depth total are priced; what remains is a longest path
whose value-to-go is a convex piecewise linear function of the log-width carried, kept exactly as a maximum of lines.
Any multipliers give a valid bound.

Symbols: ``sigma`` log-width of an option; ``A S + B`` a line in the carried log-width ``S``; ``T`` the sum of the
penalised depths, between ``first`` and ``last``; ``V`` their variance; ``a + b V`` an affine minorant of ``Q(V)``.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mad_ip import paths
from mad_ip.catalogue import Catalogue, Floats, Integers
from mad_ip.depths import Window
from mad_ip.entropy import EFFECTIVENESS_TOLERANCE
from mad_ip.lagrangian.dual import EVALUATIONS, minimise
from mad_ip.lagrangian.kernels import Lines, envelope, padded

__all__ = ["Bound", "Box", "Relaxation", "reduce"]

_ROUNDING = 1e-13
"""Margin added to every bound, relative to the magnitudes summed: some hundred operations of 2**-53 each."""

_PAYS = 0.6
"""A relaxation is set up anew where at most this share of its options survives."""


@dataclass(frozen=True)
class Box:
    """Depths of the stages from ``low`` to ``high``, inclusive, those of the penalised ones adding up to ``first`` to
    ``last``.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Bound:
    """An upper bound ``value`` on the score within a range, by ``multipliers``; ``slack`` is its subgradient."""

    value: float
    multipliers: Floats
    slack: Floats
    tangents: tuple[float, ...]
    depths: tuple[int, ...]


class Relaxation:
    """The relaxation over the explicit options of a catalogue without empty segments."""

    def __init__(self, catalogue: Catalogue, window: Window | None) -> None:
        spec = catalogue.spec
        self.catalogue = catalogue
        self.segments = catalogue.segments
        self.window = window
        self.beta = spec.objective.depth_penalty
        self.budgets = [name for name in paths.LINEAR_BUDGETS if getattr(spec.budget, name) is not None]
        limits = [getattr(spec.budget, name) for name in self.budgets]
        # Costs in units of the budget, (budgets, options): multipliers are then in units of the score.
        self.costs = [
            np.array(
                [getattr(segment, name) / limit for name, limit in zip(self.budgets, limits, strict=True)]
            ).reshape(len(limits), len(segment))
            for segment in self.segments
        ]
        ratio = spec.budget.effectiveness
        self.bounded = [
            s for s, segment in enumerate(self.segments) if ratio is not None and segment.bounds_effectiveness
        ]
        self.log_ratio = 0.0 if ratio is None else math.log(ratio) + math.log1p(EFFECTIVENESS_TOLERANCE)
        self.stages = list(range(1, len(spec.stages) + 1))
        self.penalised = self.stages[spec.penalised] if window is not None else []
        low, high = paths.carried_bounds(catalogue)
        self.carried = [_per_source(segment, a, b) for segment, a, b in zip(self.segments, low, high, strict=True)]
        self.groups = [padded(segment.pair_source) for segment in self.segments]

    @property
    def box(self) -> Box | None:
        """All depths."""
        return self.tightened(
            Box(
                tuple(int(self.segments[s].depth.min()) for s in self.stages),
                tuple(int(self.segments[s].depth.max()) for s in self.stages),
                0,
                sum(int(self.segments[s].depth.max()) for s in self.penalised),
            )
        )

    def tightened(self, box: Box) -> Box | None:
        """The smallest box with the same designs, by the depth total and the largest spread; ``None`` if empty."""
        low, high, first, last = list(box.low), list(box.high), box.first, box.last
        penalised = [s - 1 for s in self.penalised]
        number = len(penalised)
        while penalised:
            before = (*low, *high, first, last)
            first = max(first, sum(low[t] for t in penalised))
            last = min(last, sum(high[t] for t in penalised))
            # n sum (L - T/n)^2 <= spread bounds every single deviation from the mean.
            assert self.window is not None
            reach = math.sqrt((number - 1) * self.window.spreads[-1]) / number + 1e-9
            for t in penalised:
                others_low = sum(low[u] for u in penalised) - low[t]
                others_high = sum(high[u] for u in penalised) - high[t]
                low[t] = max(low[t], first - others_high, math.ceil(first / number - reach))
                high[t] = min(high[t], last - others_low, math.floor(last / number + reach))
            if first > last or any(a > b for a, b in zip(low, high, strict=True)):
                return None
            if before == (*low, *high, first, last):
                break
        return Box(tuple(low), tuple(high), first, last)

    def is_point(self, box: Box) -> bool:
        """Whether all depths are fixed."""
        return box.low == box.high

    def split(self, box: Box, depths: tuple[int, ...]) -> list[Box]:
        """Two parts of a box, which keep the depths of the maximising path away from their mean; none for one point."""
        if box.first < box.last:
            middle = (box.first + box.last) // 2
            parts = [Box(box.low, box.high, box.first, middle), Box(box.low, box.high, middle + 1, box.last)]
        else:
            mean = box.first / max(1, len(self.penalised))
            wide = [t for t in range(len(depths)) if box.low[t] < box.high[t]]
            if not wide:
                return []
            penalised = [s - 1 for s in self.penalised]
            t = max(wide, key=lambda u: (abs(depths[u] - mean) if u in penalised else 0.0, box.high[u] - box.low[u]))
            at = math.floor((depths[t] + mean) / 2) if t in penalised else (box.low[t] + box.high[t]) // 2
            at = min(max(at, box.low[t]), box.high[t] - 1)
            parts = [
                Box(box.low, (*box.high[:t], at, *box.high[t + 1 :]), box.first, box.last),
                Box((*box.low[:t], at + 1, *box.low[t + 1 :]), box.high, box.first, box.last),
            ]
        tightened = [self.tightened(part) for part in parts]
        return [part for part in tightened if part is not None]

    @property
    def scales(self) -> Floats:
        """A natural step for every multiplier."""
        score = sum(float(s.gain.max()) for s in self.segments) * float(self.carried[-1][1].max()) / 10
        depth = [1.0, score / 100] if self.penalised else []
        return np.array([score] * len(self.budgets) + [score / 300] * len(self.bounded) + depth)

    @property
    def least(self) -> Floats:
        """Lower limits of the multipliers."""
        depth = [0.0, -np.inf] if self.penalised else []
        return np.array([0.0] * (len(self.budgets) + len(self.bounded)) + depth)

    def evaluate(self, box: Box, multipliers: Floats, tangents: tuple[float, ...] | None = None) -> Bound:
        """The bound that these multipliers give for designs whose depths are in ``box``.

        ``tangents`` are the numbers of layers where phi is replaced by its tangent, one for each bounded segment;
        without them, those of the maximising path are taken.
        """
        tangents = self._typical_layers(box) if tangents is None else tangents
        prices, slopes, constant = self._terms(box, multipliers, tangents)
        lines = self._backward(prices, slopes)
        value, choice = self._best(prices, lines)
        if value == -math.inf:
            return Bound(value, multipliers, np.zeros(len(multipliers)), tangents, box.low)
        return Bound(
            value + constant + self._margin(prices, slopes),
            multipliers,
            self._slack(box, multipliers, tangents, choice),
            tangents,
            tuple(int(self.segments[s].depth[choice[s]]) for s in self.stages),
        )

    def _typical_layers(self, box: Box) -> tuple[float, ...]:
        """Layers up to every bounded segment with depths in the middle of the box; exact where they are fixed."""
        layers = []
        for s, segment in enumerate(self.segments):
            if s in self.stages:
                inside = (segment.depth >= box.low[s - 1]) & (segment.depth <= box.high[s - 1])
                depth = (box.low[s - 1] + box.high[s - 1]) / 2
                ratio = segment.layers[inside] / segment.depth[inside]
                layers.append(depth * float(ratio[0]) if len(ratio) else depth)
            else:
                layers.append(float(segment.layers[0]))
        if self.penalised:
            fixed = sum((box.low[s - 1] + box.high[s - 1]) / 2 for s in self.penalised)
            scale = (box.first + box.last) / 2 / fixed
            layers = [d * scale if s in self.penalised else d for s, d in enumerate(layers)]
        return tuple(max(1.0, math.fsum(layers[: s + 1])) for s in self.bounded)

    def _terms(
        self, box: Box, multipliers: Floats, tangents: tuple[float, ...]
    ) -> tuple[list[Floats], list[float], float]:
        """Price of every option, slope that effectiveness adds at every segment's end, and the constant."""
        budgets, effectiveness, rest = self._split(multipliers)
        prices = [budgets @ costs for costs in self.costs]
        slopes = [0.0] * len(self.segments)
        constant = math.fsum(budgets)
        for s, mu, tangent in zip(self.bounded, effectiveness, tangents, strict=True):
            slopes[s] = float(mu)
            # S >= phi(D) >= phi'(D0) D - D0 with phi'(D0) = ln D0 + 1 - ln rho_0.
            for r in range(s + 1):
                prices[r] = prices[r] + mu * (math.log(tangent) + 1 - self.log_ratio) * self.segments[r].layers
            constant += float(mu) * tangent
        if self.window is not None:
            curvature, total = rest
            number = len(self.penalised)
            minorant, _ = self._minorant(curvature)
            bend = self.beta * curvature
            for s in self.penalised:
                depth = self.segments[s].depth
                # V >= sum L^2 / n - chord of (T / n)^2 over the range: additive over stages.
                chord = (box.first + box.last) * depth / number**2
                prices[s] = prices[s] + bend * (depth**2 / number - chord) + total * depth
            constant -= self.beta * minorant + bend * box.first * box.last / number**2
            constant += max(total * box.first, total * box.last)
        for s, low, high in zip(self.stages, box.low, box.high, strict=True):
            depth = self.segments[s].depth
            prices[s] = np.where((depth < low) | (depth > high), np.inf, prices[s])
        return prices, slopes, constant

    def _margin(self, prices: list[Floats], slopes: list[float]) -> float:
        """What rounding can take from a bound: proportional to the largest terms that a path's sum can hold."""
        magnitude = 0.0
        for s, segment in enumerate(self.segments):
            worth = (float(segment.gain.max()) + slopes[s]) * float(self.carried[-1][1].max())
            magnitude += worth + float(np.max(np.abs(prices[s][np.isfinite(prices[s])]), initial=0.0))
        # The constant is the price of the budgets, which the options' prices match.
        return _ROUNDING * 3 * magnitude

    def _split(self, multipliers: Floats) -> tuple[Floats, Floats, Floats]:
        first = len(self.budgets)
        second = first + len(self.bounded)
        return multipliers[:first], multipliers[first:second], multipliers[second:]

    def _minorant(self, curvature: float) -> tuple[float, float]:
        """``a = min_V Q(V) - b V`` over the attainable ``V``, and the minimising ``V``."""
        assert self.window is not None
        variances = np.array(self.window.spreads) / self.window.number**2
        values = self.window.uniformities - curvature * variances
        position = int(np.argmin(values))
        return float(values[position]), float(variances[position])

    def _backward(self, prices: list[Floats], slopes: list[float]) -> list[Lines]:
        """Lines of the value-to-go at every node of every segment, as functions of the log-width there."""
        last = self.segments[-1]
        slope = (last.gain + slopes[-1])[:, None]
        lines = [Lines(slope, np.zeros_like(slope), np.zeros(slope.shape, np.int64))]
        for s in range(len(self.segments) - 1, 0, -1):
            slope, intercept = self._through(s, prices[s], lines[-1])
            group = self.groups[s]
            candidates = slope[group.members], intercept[group.members]
            own = (self.segments[s - 1].gain + slopes[s - 1])[:, None, None]
            flat = group.members.shape[0], -1
            slopes_at = (candidates[0] + own).reshape(flat)
            intercepts_at = np.where(group.exists[:, :, None], candidates[1], -np.inf).reshape(flat)
            low, high = self.carried[s]
            lines.append(envelope(slopes_at, intercepts_at, low, high))
        return lines[::-1]

    def _through(self, s: int, prices: Floats, ahead: Lines) -> tuple[Floats, Floats]:
        """For every pair and every line ahead of it, slope and intercept before the pair, (pairs, lines)."""
        segment = self.segments[s]
        slope, intercept = ahead.slope[segment.pair_node], ahead.intercept[segment.pair_node]
        values = slope[segment.pair] * segment.log_width[:, None] - prices[:, None]
        return slope, intercept + np.maximum.reduceat(values, segment.starts, axis=0)

    def _best(self, prices: list[Floats], lines: list[Lines]) -> tuple[float, list[int]]:
        """The largest value of a path, and its options."""
        _, intercept = self._through(0, prices[0], lines[0])
        pair, line = np.unravel_index(int(np.argmax(intercept)), intercept.shape)
        value = float(intercept[pair, line])
        choice = []
        for s, segment in enumerate(self.segments):
            node = segment.pair_node[pair]
            options = np.flatnonzero(segment.pair == pair)
            worth = lines[s].slope[node, line] * segment.log_width[options] - prices[s][options]
            choice.append(int(options[np.argmax(worth)]))
            if s + 1 < len(self.segments):
                position, line = divmod(int(lines[s].origin[node, line]), lines[s + 1].slope.shape[1])
                pair = self.groups[s + 1].members[node, position]
        return value, choice

    def _slack(self, box: Box, multipliers: Floats, tangents: tuple[float, ...], choice: list[int]) -> Floats:
        """Subgradient of the bound: the slack of the maximising path in every priced constraint."""
        chosen = list(enumerate(choice))
        slack = [1.0 - value for value in np.sum([self.costs[s][:, o] for s, o in chosen], axis=0)]
        for s, tangent in zip(self.bounded, tangents, strict=True):
            carried = sum(float(self.segments[r].log_width[o]) for r, o in chosen[: s + 1])
            layers = sum(int(self.segments[r].layers[o]) for r, o in chosen[: s + 1])
            slack.append(carried - (math.log(tangent) + 1 - self.log_ratio) * layers + tangent)
        if self.window is not None:
            curvature, total = self._split(multipliers)[2]
            number = len(self.penalised)
            depth = [int(self.segments[s].depth[choice[s]]) for s in self.penalised]
            chord = ((box.first + box.last) * sum(depth) - box.first * box.last) / number**2
            variance = sum(d**2 for d in depth) / number - chord
            slack.append(self.beta * (self._minorant(curvature)[1] - variance))
            slack.append((box.last if total >= 0 else box.first) - sum(depth))
        return np.array(slack)

    def option_bounds(self, box: Box, bound: Bound) -> list[Floats]:
        """For every option an upper bound on the score of the designs in ``box`` that take it."""
        prices, slopes, constant = self._terms(box, bound.multipliers, bound.tangents)
        constant += self._margin(prices, slopes)
        lines = self._backward(prices, slopes)
        bounds = []
        # Points (S, value so far) of the best prefixes, per source; as lines in the slope ahead.
        prefix = Lines(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1), np.int64))
        for s, segment in enumerate(self.segments):
            ahead = lines[s]
            slope, intercept = ahead.slope[segment.pair_node], ahead.intercept[segment.pair_node]
            carried, value = prefix.slope[segment.pair_source], prefix.intercept[segment.pair_source]
            # (pairs, lines ahead): the best prefix for the slope of every line.
            before = np.max(value[:, None, :] + slope[:, :, None] * carried[:, None, :], axis=2)
            worth = slope[segment.pair] * segment.log_width[:, None] + (before + intercept)[segment.pair]
            bounds.append(worth.max(axis=1) - prices[s] + constant)
            if s + 1 < len(self.segments):
                own = segment.gain + slopes[s]
                after = carried[segment.pair] + segment.log_width[:, None]
                reached = value[segment.pair] - prices[s][:, None] + own[segment.pair_node][segment.pair, None] * after
                group = padded(segment.pair_node[segment.pair])
                flat = group.members.shape[0], -1
                points = after[group.members].reshape(flat)
                values = np.where(group.exists[:, :, None], reached[group.members], -np.inf).reshape(flat)
                real = np.isfinite(ahead.intercept)
                least = np.where(real, ahead.slope, np.inf).min(axis=1) - own
                most = np.where(real, ahead.slope, -np.inf).max(axis=1) - own
                prefix = envelope(points, values, least, most)
        return bounds

    def minimise(self, box: Box, start: Floats, *, cutoff: float = -math.inf, evaluations: int = EVALUATIONS) -> Bound:
        """Improve the multipliers by cutting planes in a trust region until nothing is gained or ``cutoff`` is passed.

        Every bound on the way is valid; the best one is returned.
        """
        evaluate = functools.partial(self.evaluate, box)
        return minimise(evaluate, start, self.scales, self.least, cutoff=cutoff, evaluations=evaluations).best


def _per_source(segment: Any, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    least = np.full(len(segment.sources), np.inf)
    most = np.full(len(segment.sources), -np.inf)
    np.minimum.at(least, segment.pair_source, low)
    np.maximum.at(most, segment.pair_source, high)
    return least, most


@dataclass(frozen=True)
class Reduction:
    """What survives a cutoff: every design that scores above it takes only options where ``masks`` are true.

    ``bound`` is an upper bound on the score of all designs above the cutoff, minus infinity if there are none.
    """

    masks: list[NDArray[np.bool_]]
    bound: float
    boxes: int


@dataclass(frozen=True)
class _Node:
    """A box with the relaxation of what survives in it; ``index`` are its options in the original catalogue."""

    relaxation: Relaxation
    index: list[Integers]
    box: Box
    found: Bound


def reduce(
    catalogue: Catalogue,
    window: Window | None,
    cutoff: float,
    *,
    boxes: int = 600,
    watch: Callable[[float], bool] = lambda _: False,
) -> Reduction:
    """Branch on depths, best bound first, and drop every option whose own bound does not pass ``cutoff``.

    At most ``boxes`` boxes are branched on. ``watch`` is told the bound now and then; when it returns True, branching
    stops at once and what is left counts as surviving.
    """
    masks = [np.zeros(len(segment), bool) for segment in catalogue.segments]
    relaxation = Relaxation(catalogue, window)
    start = np.where(np.isfinite(relaxation.least), relaxation.scales / 2, 0.0)
    whole = relaxation.box
    queue: list[tuple[float, int, _Node]] = []
    order = itertools.count()
    settled, branched, stop = -math.inf, 0, False

    def visit(relaxation: Relaxation, index: list[Integers], box: Box, start: Floats) -> None:
        found = relaxation.minimise(box, start, cutoff=cutoff)
        if found.value > cutoff:
            node = _shrunk(_Node(relaxation, index, box, found), window, cutoff)
            heapq.heappush(queue, (-found.value, next(order), node))

    if whole is not None:
        visit(relaxation, [np.arange(len(mask)) for mask in masks], whole, start)
    while queue:
        _, _, node = heapq.heappop(queue)
        parts = None if stop or branched >= boxes else node.relaxation.split(node.box, node.found.depths)
        if parts is None or (not parts and node.relaxation.is_point(node.box)):
            settled = max(settled, node.found.value)
            bounds = node.relaxation.option_bounds(node.box, node.found)
            for mask, index, values in zip(masks, node.index, bounds, strict=True):
                mask[index[values > cutoff]] = True
            continue
        branched += 1
        for part in parts:
            visit(node.relaxation, node.index, part, node.found.multipliers)
        stop = watch(max(settled, -queue[0][0] if queue else cutoff))
    return Reduction(masks, settled, branched)


def _shrunk(node: _Node, window: Window | None, cutoff: float) -> _Node:
    """The node with a relaxation of the surviving options, where that pays."""
    relaxation = node.relaxation
    alive = [values > cutoff for values in relaxation.option_bounds(node.box, node.found)]
    if sum(int(mask.sum()) for mask in alive) > _PAYS * len(relaxation.catalogue):
        return node
    alive = relaxation.catalogue.linked(alive)
    smaller = relaxation.catalogue.keep(alive)
    if smaller.is_empty:
        return node
    index = [kept[mask] for kept, mask in zip(node.index, alive, strict=True)]
    return _Node(Relaxation(smaller, window), index, node.box, node.found)
