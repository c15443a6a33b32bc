"""The Lagrangian relaxation over one box, solved exactly by a dynamic program whose values are envelopes of lines.

Budgets, effectiveness, depth penalty and the total of the depths are priced; what remains is a longest path whose
value-to-go is a convex piecewise linear function of the log-width carried (docs/verification.md). Any multipliers give
a valid bound on the score of every feasible design of the box.

Symbols: ``sigma`` log-width of an option; ``A S + B`` a line in the carried log-width ``S``; ``x`` multipliers, in the
order budgets, effectiveness of every bounded segment, curvature ``b`` (at least 0) and total ``nu`` (of any sign);
``a + b V`` an affine minorant of ``Q(V)``. Axes as in :mod:`mad_ip.lagrangian.kernels`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mad_ip import entropy
from mad_ip.lagrangian import kernels
from mad_ip.lagrangian.box import Box, largest_spread, spreads, whole
from mad_ip.lagrangian.kernels import Ahead, Prefixes, Prices, Rows
from mad_ip.lagrangian.tables import Floats, Integers, Table
from mad_ip.lagrangian.tables import tables as build_tables
from mad_ip.spec import Path, Spec

__all__ = ["Bound", "Program", "Relaxation", "Shared", "Trace", "alone", "relaxed"]

_ROUNDING = 1e-12
"""Margin on every bound, relative to the magnitudes summed: see docs/verification.md."""

_PRICES = np.geomspace(0.02, 20, 10)
"""Prices of a budget, in units of the widest path, that bound what a path carries."""

_FORBIDDEN = 1e30
"""Price of an option that passes a budget on a maximum: no path that takes it is the best."""

_LARGE = 1 << 20
"""Elementary steps of an evaluation, for one line at every node, above which a box is large."""

_SHARED = 1 << 22
"""Elementary steps of a loop above which threads share it."""

Shared = Callable[[int, Callable[[int, int], Any]], list[Any]]
"""Calls a function of ``begin`` and ``end`` on parts of a range that cover it, and returns what the parts return."""


def alone(size: int, work: Callable[[int, int], Any]) -> list[Any]:
    """This thread does all of it."""
    return [work(0, size)]


@dataclass(frozen=True)
class Trace:
    """A path with what it adds to a Lagrangian: its entropy, what it spends of each budget (in units of the budget),
    and log-width and layers up to every bounded segment.
    """

    path: Path
    entropy: float
    spent: Floats
    log_widths: tuple[float, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Bound:
    """An upper bound ``value`` on the score within a box, by ``multipliers``.

    ``tangents`` are the numbers of layers at which the slope of phi prices a layer, one for each bounded segment;
    ``trace`` is the maximising path, ``None`` where there is none.
    """

    value: float
    multipliers: Floats
    tangents: tuple[float, ...]
    trace: Trace | None


class Relaxation:
    """What the boxes of a spec share: its tables, budgets and scales."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.tables = build_tables(spec)
        self.budgets = list(spec.budget.sums)
        self.forbidding = bool(spec.budget.maxima)
        self.bounded = [s for s, table in enumerate(self.tables) if table.bounded]
        ratio = spec.budget.effectiveness
        self.log_ratio = 0.0 if ratio is None else math.log(ratio) + math.log1p(entropy.EFFECTIVENESS_TOLERANCE)
        self.beta = spec.objective.depth_penalty

    def is_large(self, box: Box) -> bool:
        """Whether an evaluation of a box takes long: most of its time is then in the loops that threads may share."""
        sources = (1, *map(len, box.channels))
        sizes = zip(sources, box.channels, self.tables, box.mid, strict=False)
        return bool(sum(s * len(n) * table.entering.shape[2] * len(w) for s, n, table, w in sizes) > _LARGE)

    def prices(self, budgets: Floats) -> Floats:
        """The prices of all rows of costs."""
        return np.append(budgets, _FORBIDDEN) if self.forbidding else np.asarray(budgets, float)

    @cached_property
    def widest(self) -> list[Floats]:
        """For every node of every segment, a bound on the log-width that paths within each single budget carry there.

        For any price, a path within the budget carries at most ``max (S - price cost) + price``; the best of several.
        """
        bounds = [np.full(len(table.nodes), np.inf) for table in self.tables]
        program = relaxed(self, whole(self.spec), ranged=False)
        if program is None:
            return bounds
        scale = float(program.carried[-1][1].max())
        for budget in np.eye(len(self.budgets)):
            least = program.prefixes(0.0, budget)[1]
            for price in scale * _PRICES:
                most = program.prefixes(1.0, price * budget)[0]
                for s, nodes in enumerate(program.nodes):
                    found = (most[s] + price * (least[s] + 1)) * (1 + 1e-9)
                    bounds[s][nodes] = np.minimum(bounds[s][nodes], found)
        return bounds

    @cached_property
    def least(self) -> Floats:
        """Lower limits of the multipliers."""
        depth = [0.0, -np.inf] if self.beta > 0 else []
        return np.array([0.0] * (len(self.budgets) + len(self.bounded)) + depth)


class _Priced(NamedTuple):
    """A part's prices; ``slope`` is what the price of effectiveness adds at its end, ``largest`` no price passes."""

    prices: Prices
    slope: float
    largest: float


class Program:
    """The relaxation over a box; ``is_empty`` when no path of channels remains.

    ``shared`` lets threads share large loops.
    """

    def __init__(self, relaxation: Relaxation, box: Box, *, ranged: bool = True, shared: Shared = alone) -> None:
        self.relaxation = relaxation
        self.box = box
        self.shared = shared
        self.parts: list[Table] = []
        places = [
            tuple(np.searchsorted(full, values) for full, values in zip(table.axes[:3], domains[:3], strict=True))
            for table, domains in zip(relaxation.tables, box.choices, strict=True)
        ]
        self.nodes = self._linked(places)
        self.is_empty = any(len(nodes) == 0 for nodes in self.nodes)
        if self.is_empty:
            return
        sources = np.zeros(1, np.int64)
        for table, nodes, (_, mid, kernel), depth in zip(relaxation.tables, self.nodes, places, box.depth, strict=True):
            self.parts.append(table.part(sources, nodes, mid, kernel, np.array(depth, float)))
            sources = nodes
        self.carried = self._carried()
        if ranged:
            most = [bound[nodes] for bound, nodes in zip(relaxation.widest, self.nodes, strict=True)]
            # Where even the narrowest path breaks a budget nothing need be kept.
            self.carried = [(low, np.clip(m, low, high)) for (low, high), m in zip(self.carried, most, strict=True)]
        self.spreads = spreads(tuple(box.depth[s] for s in box.penalised), box.first, box.last)
        self.is_empty = bool(box.penalised) and len(self.spreads) == 0
        self.largest_spread = largest_spread(self.spreads, tuple(box.depth[s] for s in box.penalised))

    def _linked(self, places: list[tuple[Integers, ...]]) -> list[Integers]:
        """The nodes of every segment that lie on a complete path, as positions in its table."""
        follows, sources = [], np.zeros(1, np.int64)
        for table, (nodes, mid, _) in zip(self.relaxation.tables, places, strict=True):
            first, end = table.allowed(sources, nodes, mid)
            follows.append(first < end)
            sources = nodes
        kept = [np.ones(len(nodes), bool) for nodes, _, _ in places]
        before = np.ones(1, bool)
        for allowed, here in zip(follows, kept, strict=True):
            here &= allowed[before].any(axis=0)
            before = here
        for s in range(len(kept) - 1, 0, -1):
            kept[s - 1] &= follows[s][:, kept[s]].any(axis=1)
        return [nodes[mask] for (nodes, _, _), mask in zip(places, kept, strict=True)]

    def _carried(self) -> list[tuple[Floats, Floats]]:
        """The range of the log-width at every node, from the narrowest and the widest prefix, rounded outward."""
        low = high = np.zeros(1)
        ranges = []
        for part in self.parts:
            narrowest = (part.log_opening + (part.depth[0] - 1) * part.log_again).min(axis=(1, 2))
            widest = (part.log_opening + (part.depth[-1] - 1) * part.log_again).max(axis=(1, 2))
            least = np.where(part.follows, (low + part.log_source)[:, None], np.inf).min(axis=0)
            most = np.where(part.follows, (high + part.log_source)[:, None], -np.inf).max(axis=0)
            low, high = least + narrowest, most + widest
            ranges.append((low * (1 - _ROUNDING), high * (1 + _ROUNDING)))
        return ranges

    def prefixes(self, slope: float, budgets: Floats) -> tuple[list[Floats], list[Floats]]:
        """At every node the largest ``slope S - price`` of a path up to it, and the largest ``-price`` after it."""
        prices = self.relaxation.prices(budgets)
        priced = [_priced(part, prices, len(budgets), np.zeros(len(part.depth)), 0.0) for part in self.parts]
        before, after = [np.zeros(1)], [np.zeros(len(self.parts[-1].nodes))]
        for part, price in zip(self.parts, priced, strict=True):
            number = len(part.nodes)
            ahead = Ahead(np.arange(number), np.full(number, slope), np.full(number, -np.inf), np.arange(number))
            prefixes = _one_slope(before[-1])
            before.append(self._bounds(part, price, ahead, prefixes, math.inf)[0])
        for part, price in zip(self.parts[:0:-1], priced[:0:-1], strict=True):
            number = len(part.nodes)
            ahead = Ahead(np.arange(number), np.zeros(number), after[-1], np.arange(number))
            after.append(self._through(part, price, ahead).max(axis=1))
        return before[1:], after[::-1]

    @cached_property
    def scales(self) -> Floats:
        """A natural step for every multiplier."""
        score = max(1.0, sum(float(part.gain.max()) for part in self.parts) * float(self.carried[-1][1].max()) / 10)
        depth = [1.0, score / 100] if self.relaxation.beta > 0 else []
        relaxation = self.relaxation
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
        layers = [part.layers * value for part, value in zip(self.parts, middle, strict=True)]
        return tuple(max(1.0, math.fsum(layers[: s + 1])) for s in self.relaxation.bounded)

    def evaluate(self, multipliers: Floats, tangents: tuple[float, ...] | None = None) -> Bound:
        """The bound that these multipliers give; minus infinity when the box is empty."""
        tangents = self.tangents if tangents is None else tangents
        priced, constant, magnitude = self._terms(multipliers, tangents)
        ahead = self._backward(priced)
        values = self._through(self.parts[0], priced[0], ahead[0])[0]
        line = int(np.argmax(values))
        if not values[line] > -_FORBIDDEN / 2:
            return Bound(-math.inf, multipliers, tangents, None)
        value = float(values[line]) + constant + self._margin(priced, magnitude)
        return Bound(value, multipliers, tangents, self._trace(priced, ahead, line))

    def plane(self, trace: Trace) -> tuple[Floats, float]:
        """Gradient and constant of a path's value as a function of the multipliers, and of the prices of layers after
        them.

        Without what floors, the spread of the depths and the range of their sum add, which is the same for all paths.
        """
        relaxation, box = self.relaxation, self.box
        gradient = [*(1.0 - trace.spent), *trace.log_widths]
        if relaxation.beta > 0:
            depths = [trace.path[s].depth for s in box.penalised]
            number, total = len(depths), sum(depths)
            chord = ((box.first + box.last) * total - box.first * box.last) / number**2
            gradient.append(-relaxation.beta * (sum(depth**2 for depth in depths) / number - chord))
            gradient.append(-total)
        return np.array([*gradient, *(-layers for layers in trace.layers)]), trace.entropy

    def depth_penalty(self, path: Path) -> float:
        """``beta Q`` of a path."""
        depths = [path[s].depth for s in self.box.penalised]
        return entropy.depth_penalty(depths, self.relaxation.beta, self.relaxation.spec.convention) if depths else 0.0

    def per_layer(self, mu: float, tangent: float) -> float:
        """The price of a layer that goes with a price of effectiveness: ``mu phi'(D)`` at a number of layers."""
        return mu * (math.log(tangent) + 1 - self.relaxation.log_ratio)

    def point(self, multipliers: Floats, tangents: tuple[float, ...]) -> Floats:
        """Multipliers, and the prices of layers after them."""
        first = len(self.relaxation.budgets)
        bounded = zip(multipliers[first : first + len(tangents)], tangents, strict=True)
        return np.array([*multipliers, *(self.per_layer(float(mu), tangent) for mu, tangent in bounded)])

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
        lost = self.per_layer(mu, bound.tangents[-1]) - self.per_layer(mu, tangents[-1])
        multipliers[-1] += lost * self.parts[self.box.penalised[0]].layers
        return multipliers, tangents

    @cached_property
    def layer_ranges(self) -> tuple[tuple[int, int], ...]:
        """For every bounded segment, the fewest and the most layers up to it by the depths of the segments."""
        depths = zip(self.parts, self.box.depth, strict=True)
        totals = np.cumsum([(part.layers * depth[0], part.layers * depth[-1]) for part, depth in depths], axis=0)
        return tuple((least, most) for least, most in totals[self.relaxation.bounded].tolist())

    @cached_property
    def floors(self) -> tuple[tuple[Floats, Floats], ...]:
        """For every bounded segment, all numbers of layers up to it that the box may have, and phi of each.

        ``phi(D) = D ln D - D ln rho_0`` is the least log-width.
        """
        box = self.box
        found = []
        for s, (least, most) in zip(self.relaxation.bounded, self.layer_ranges, strict=True):
            layers = [part.layers for part in self.parts[: s + 1]]
            same = {layers[r] for r in box.penalised if r <= s}
            if box.penalised and box.penalised[-1] <= s and len(same) == 1:
                # The total of the penalised depths says how many of the layers are theirs.
                number = same.pop()
                low, high = (sum(box.depth[r][end] for r in box.penalised) for end in (0, -1))
                least += number * max(0, box.first - low)
                most -= number * max(0, high - box.last)
            count = np.arange(least, most + 1, dtype=float)
            found.append((count, count * np.log(count) - count * self.relaxation.log_ratio))
        return tuple(found)

    def penalty(self, curvature: float) -> tuple[float, float]:
        """``Q`` and ``V`` at the attainable ``V`` where ``Q(V) - b V`` is least."""
        variances, uniformities = self._penalties
        position = int(np.argmin(uniformities - curvature * variances))
        return float(uniformities[position]), float(variances[position])

    def _terms(self, multipliers: Floats, tangents: tuple[float, ...]) -> tuple[list[_Priced], float, float]:
        """Prices of every segment, the constant of the Lagrangian, and the magnitudes of what these two add up."""
        relaxation, box = self.relaxation, self.box
        number = len(relaxation.budgets)
        budgets = multipliers[:number]
        effectiveness = multipliers[number : number + len(relaxation.bounded)]
        constant = magnitude = math.fsum(budgets)
        per_depth = [np.zeros(len(part.depth)) for part in self.parts]
        slopes = [0.0] * len(self.parts)
        for s, mu, tangent, (count, floor) in zip(
            relaxation.bounded, effectiveness, tangents, self.floors, strict=True
        ):
            slopes[s] = float(mu)
            # S >= phi(D), priced by mu; mu phi(D) >= price D - most for every D that there is.
            per_layer = self.per_layer(float(mu), tangent)
            for r in range(s + 1):
                per_depth[r] = per_depth[r] + per_layer * self.parts[r].layers * self.parts[r].depth
                magnitude += abs(per_layer) * self.parts[r].layers * float(self.parts[r].depth[-1])
            constant += float((per_layer * count - mu * floor).max())
            magnitude += float((abs(per_layer) * count + mu * np.abs(floor)).max())
        if relaxation.beta > 0:
            curvature, total = (float(value) for value in multipliers[-2:])
            bend, stages = relaxation.beta * curvature, len(box.penalised)
            for s in box.penalised:
                depth = self.parts[s].depth
                # V >= sum L^2 / n - chord of (T / n)^2 over the range of T: additive over stages.
                chord = (box.first + box.last) * depth / stages**2
                per_depth[s] = per_depth[s] + bend * (depth**2 / stages - chord) + total * depth
                deepest = float(depth[-1])
                magnitude += bend * (deepest**2 / stages + float(chord[-1])) + abs(total) * deepest
            uniformity, variance = self.penalty(curvature)
            minorant = uniformity - curvature * variance
            product = bend * box.first * box.last / stages**2
            constant -= relaxation.beta * minorant + product
            constant += max(total * box.first, total * box.last)
            magnitude += relaxation.beta * abs(minorant) + 2 * bend * variance + product + abs(total) * box.last
        prices = relaxation.prices(budgets)
        priced = [
            _priced(part, prices, number, more, slope)
            for part, more, slope in zip(self.parts, per_depth, slopes, strict=True)
        ]
        return priced, constant, magnitude

    @cached_property
    def _penalties(self) -> tuple[Floats, Floats]:
        """The attainable ``V`` and ``Q`` at each."""
        number = len(self.box.penalised)
        variances = self.spreads / number**2
        uniformities = entropy.uniformity_of(self.spreads, number, self.relaxation.spec.convention)
        # Beyond the last one listed, up to the largest there may be, Q is at least that of the last.
        variances[-1] = self.largest_spread / number**2
        return variances, np.minimum(uniformities, 1e300 / max(1.0, self.relaxation.beta))

    def _margin(self, priced: list[_Priced], magnitude: float) -> float:
        """What rounding can take from a bound: proportional to the largest terms that a path's sum can hold."""
        most = float(self.carried[-1][1].max())
        for part, price in zip(self.parts, priced, strict=True):
            magnitude += (float(part.gain.max()) + price.slope) * most + price.largest
        return _ROUNDING * magnitude

    def _backward(self, priced: list[_Priced]) -> list[Ahead]:
        """Lines of the value-to-go at the nodes of every segment, as functions of the log-width there."""
        slope = self.parts[-1].gain + priced[-1].slope
        one = np.ones(len(slope), np.int64)
        ahead = [_gathered(Rows(slope[:, None], slope[:, None] * 0, one[:, None] * 0, one))]
        for s in range(len(self.parts) - 1, 0, -1):
            values = self._through(self.parts[s], priced[s], ahead[-1])
            own = self.parts[s - 1].gain + priced[s - 1].slope
            ahead.append(self._enveloped(ahead[-1].slope, values, own, *self.carried[s - 1]))
        return ahead[::-1]

    def _enveloped(self, lines: Floats, values: Floats, own: Floats, low: Floats, high: Floats) -> Ahead:
        """The highest of the lines of slopes ``lines`` and intercepts ``values`` (S, J) in the sources' ranges."""
        shape = len(values), kernels.CAPACITY
        kept = Rows(np.empty(shape), np.empty(shape), np.empty(shape, np.int64), np.empty(len(values), np.int64))
        self._split(len(values), values.size * 8, kernels.envelopes, lines, values, own, low, high, kept)
        return _gathered(kept)

    def _through(self, part: Table, price: _Priced, ahead: Ahead) -> Floats:
        """For every source and every line ahead, its intercept before the part, (S, J)."""
        values = np.empty((len(part.log_source), len(ahead.node)))
        steps = part.work * len(ahead.node) // max(1, len(part.nodes))
        self._split(len(ahead.node), steps, kernels.through, ahead, price.prices, part.descending, values)
        return values

    def _split(self, size: int, steps: int, loop: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What parts of a loop of a number of steps return, by one thread or several."""
        work = functools.partial(loop, *arguments)
        return self.shared(size, work) if steps > _SHARED else alone(size, work)

    def _trace(self, priced: list[_Priced], ahead: list[Ahead], line: int) -> Trace:
        """The maximising path that begins with a line of the first segment."""
        path, source = [], 0
        spent = np.zeros(len(self.parts[0].pair))
        entropy_, carried, total = 0.0, 0.0, 0
        log_widths, layers = [], []
        for s, (part, price) in enumerate(zip(self.parts, priced, strict=True)):
            n, slope = int(ahead[s].node[line]), float(ahead[s].slope[line])
            k, w, d = kernels.best_choice(source, n, slope, price.prices)
            path.append(part.choice(n, w, k, d))
            depth = path[-1].depth
            repeats, e = depth - 1, min(k, part.entering.shape[2] - 1)
            spent += part.pair[:, source, n] + part.entering[:, source, e, w]
            spent += part.opening[:, n, k, w] + repeats * part.again[:, n, k, w]
            carried += float(part.log_source[source] + part.log_opening[n, k, w] + repeats * part.log_again[n, k, w])
            entropy_ += float(part.gain[n]) * carried
            total += part.layers * depth
            if s in self.relaxation.bounded:
                log_widths.append(carried)
                layers.append(total)
            source, line = n, int(ahead[s].origin[line])
        number = len(self.relaxation.budgets)
        return Trace(tuple(path), entropy_, spent[:number], tuple(log_widths), tuple(layers))

    def option_bounds(self, bound: Bound) -> Iterator[Floats]:
        """Per segment, an upper bound on the designs of the box that take each option, (S, N, K, W, L).

        Minus infinity where there is no such option on a complete path.
        """
        for part, price, ahead, prefixes in self._forward(bound):
            real = ahead.intercept > -np.inf
            bounds = np.full((*part.first_mid.shape, *part.opening.shape[2:], len(part.depth)), -np.inf)
            kernels.option_bounds(Ahead(*(column[real] for column in ahead)), price.prices, prefixes, bounds)
            yield bounds

    def value_bounds(
        self, bound: Bound, target: float = -math.inf
    ) -> Iterator[tuple[tuple[Floats, Floats, Floats, Floats], float]]:
        """Per segment, an upper bound on the designs that take each value of the axes of :data:`AXES`, in the order
        of the box, and one on all designs that do not pass ``target``.

        Minus infinity stands for values on no complete path, and for what does not pass the target.
        """
        for (part, price, ahead, prefixes), domain in zip(self._forward(bound), self.box.channels, strict=True):
            _, (by_node, by_mid, by_kernel, by_depth), below = self._bounds(part, price, ahead, prefixes, target)
            channels = np.full(len(domain), -np.inf)
            channels[np.searchsorted(domain, part.nodes)] = by_node
            yield (channels, by_mid, by_kernel, by_depth), below

    def _forward(self, bound: Bound) -> Iterator[tuple[Table, _Priced, Ahead, Prefixes]]:
        """Every segment with the slopes asked of the prefixes that end there, and the prefixes that end before it.

        Of the slopes, those of lines of the value-to-go come with an intercept, to which all constants are added.
        """
        priced, constant, magnitude = self._terms(bound.multipliers, bound.tangents)
        constant += self._margin(priced, magnitude)
        lines = self._backward(priced)
        asked = self._asked(lines, priced)
        prefixes = _one_slope(np.zeros(1))
        for part, price, (slope, intercept) in zip(self.parts, priced, asked, strict=True):
            node, place = (np.ascontiguousarray(axis) for axis in np.nonzero(np.isfinite(slope)))
            ahead = Ahead(node, slope[node, place], intercept[node, place] + constant, place)
            yield part, price, ahead, prefixes
            if part is not self.parts[-1]:
                known = np.full(slope.shape, -np.inf)
                known[node, place] = self._bounds(part, price, ahead, prefixes, math.inf)[0]
                prefixes = Prefixes(part.gain + price.slope, slope, known, np.isfinite(slope).sum(axis=1))

    def _asked(self, lines: list[Ahead], priced: list[_Priced]) -> list[tuple[Floats, Floats]]:
        """Slopes at which the prefixes of every node are valued, ascending, padded with infinity, and intercepts.

        They are those of the node's lines, and the ends of what is asked there: the slope of every line ahead of it
        plus its own. Only lines have an intercept.
        """
        least = most = None
        asked: list[tuple[Floats, Floats]] = []
        for s in range(len(self.parts) - 1, -1, -1):
            part, ahead = self.parts[s], lines[s]
            number = np.bincount(ahead.node, minlength=len(part.nodes))
            order = np.argsort(ahead.node, kind="stable")
            place = np.arange(len(order)) - np.repeat(np.cumsum(number) - number, number)
            shape = len(part.nodes), int(number.max()) + 2
            slope, intercept = np.full(shape, np.inf), np.full(shape, -np.inf)
            slope[ahead.node[order], place] = ahead.slope[order]
            intercept[ahead.node[order], place] = ahead.intercept[order]
            if least is not None and most is not None:
                own = part.gain + priced[s].slope
                slope[:, -2], slope[:, -1] = least + own, most + own
                by_slope = np.argsort(slope, axis=1, kind="stable")
                slope, intercept = (np.take_along_axis(array, by_slope, axis=1) for array in (slope, intercept))
            asked.append((slope, intercept))
            ends = np.where(np.isfinite(slope), slope, -np.inf).max(axis=1)
            least = np.where(part.follows, slope[:, 0], np.inf).min(axis=1)
            most = np.where(part.follows, ends, -np.inf).max(axis=1)
        return asked[::-1]

    def _bounds(
        self, part: Table, price: _Priced, ahead: Ahead, prefixes: Prefixes, target: float
    ) -> tuple[Floats, tuple[Floats, ...], float]:
        """The best prefixes by slope, the best paths by value of every axis, and the best of what misses the target.

        Where the target is infinite, no value is looked at.
        """
        reached = np.empty(len(ahead.node))
        steps = part.work * len(reached) // len(part.nodes)
        arguments = ahead, price.prices, part.descending, prefixes, target, reached
        axes, below = zip(*self._split(len(reached), steps, kernels.value_bounds, *arguments), strict=True)
        return reached, tuple(functools.reduce(np.maximum, axis) for axis in zip(*axes, strict=True)), max(below)


def relaxed(relaxation: Relaxation, box: Box, *, ranged: bool = True, shared: Shared = alone) -> Program | None:
    """The program over what is left of a box without depths that no total allows, ``None`` where nothing is."""
    tight = box.tightened()
    program = None if tight is None else Program(relaxation, tight, ranged=ranged, shared=shared)
    return None if program is None or program.is_empty else program


def _one_slope(known: Floats) -> Prefixes:
    """Prefixes by source, with one value whatever the slope."""
    shape = len(known), 1
    return Prefixes(np.zeros(len(known)), np.zeros(shape), known.reshape(shape), np.ones(len(known), np.int64))


def _gathered(rows: Rows) -> Ahead:
    """All lines, in ascending slope."""
    slope, intercept, origin, number = rows
    node, place = np.nonzero(np.arange(slope.shape[1]) < number[:, None])
    order = np.argsort(slope[node, place], kind="stable")
    node, place = node[order], place[order]
    return Ahead(node, slope[node, place], intercept[node, place], origin[node, place])


def _priced(part: Table, prices: Floats, budgets: int, per_depth: Floats, slope: float) -> _Priced:
    """The options of a part with a price for every unit of a budget, and one for every depth."""
    costs = kernels.priced(prices, part.pair, part.entering, part.opening, part.again)
    constants = part.log_source, part.log_opening, part.log_again, part.first_mid, part.end_mid, part.depth
    lines = kernels.depth_lines(part.depth, per_depth)
    # Nothing is added up with what is forbidden.
    largest = float(prices[:budgets] @ part.largest[:budgets])
    return _Priced(Prices._make((*costs, *constants, per_depth, lines)), slope, largest)
