"""The Lagrangian relaxation over one box, solved exactly by a dynamic program whose values are envelopes of lines.

Budgets, effectiveness, depth penalty and the total of the depths are priced; what remains is a longest path whose
value-to-go is a convex piecewise linear function of the log-width carried (docs/verification.md section 10). Any
multipliers give a valid bound on the score of every feasible design of the box.

Symbols: ``sigma`` log-width of an option; ``A S + B`` a line in the carried log-width ``S``; ``x`` multipliers, in the
order budgets, effectiveness of every bounded segment, curvature ``b`` (at least 0) and total ``nu`` (of any sign);
``a + b V`` an affine minorant of ``Q(V)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mad_ip import entropy
from mad_ip.lagrangian.box import Box, largest_spread, spreads, whole
from mad_ip.lagrangian.kernels import Groups, Lines, Priced, best_values, coarser, envelope, padded, values
from mad_ip.lagrangian.tables import BUDGETS, Floats, Integers, Table
from mad_ip.lagrangian.tables import tables as build_tables
from mad_ip.spec import Spec

__all__ = ["Bound", "Choice", "Program", "Relaxation"]

Choice = tuple[int, int, int, int]
"""Channels, inner width, kernel and depth of a segment."""

_ROUNDING = 1e-12
"""Margin on every bound, relative to the magnitudes summed: see docs/verification.md."""

_PRICES = np.geomspace(0.02, 20, 10)
"""Prices of a budget, in units of the widest path, that bound what a path carries."""

_LINES = 16
"""Lines kept at a node; more are replaced by as many chords, which are nowhere below them."""

_CHUNK = 1 << 17
"""Options valued at a time when every value of a choice gets a bound of its own."""


@dataclass(frozen=True)
class Bound:
    """An upper bound ``value`` on the score within a box, by ``multipliers``; ``slack`` is its subgradient.

    ``tangents`` are the numbers of layers where phi is replaced by its tangent, one for each bounded segment;
    ``path`` is the maximising path, one choice for each segment.
    """

    value: float
    multipliers: Floats
    slack: Floats
    tangents: tuple[float, ...]
    path: tuple[Choice, ...]


class Relaxation:
    """What the boxes of a spec share: its tables, budgets and scales."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.tables = build_tables(spec)
        self.budgets = [name for name in BUDGETS if getattr(spec.budget, name) is not None]
        self.bounded = [s for s, table in enumerate(self.tables) if table.bounded]
        ratio = spec.budget.effectiveness
        self.log_ratio = 0.0 if ratio is None else math.log(ratio) + math.log1p(entropy.EFFECTIVENESS_TOLERANCE)
        self.beta = spec.objective.depth_penalty

    @cached_property
    def widest(self) -> list[Floats]:
        """For every node of every segment, a bound on the log-width that paths within each single budget carry there.

        For any price, a path within the budget carries at most ``max (S - price cost) + price``; the best of several.
        """
        box = whole(self.spec).tightened()
        bounds = [np.full(len(table.nodes), np.inf) for table in self.tables]
        program = None if box is None else Program(self, box, ranged=False)
        if program is None or program.is_empty:
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


@dataclass(frozen=True)
class _Part:
    """One segment within a box; axes as in :class:`mad_ip.lagrangian.kernels.Priced`, B budgets.

    ``source`` and ``node`` are the ends of every pair, as positions among the channels before and after the segment.
    """

    source: Integers
    node: Integers
    channels: Integers
    mid: Floats
    log_mid: Floats
    first_mid: Integers
    end_mid: Integers
    kernel: Integers
    depth: Integers
    first: Floats
    again: Floats
    stepped: Floats | None
    sigma_first: Floats
    sigma_again: Floats
    exponent: int
    layers: int
    gain: Floats
    leaving: Groups

    def priced(self, budgets: Floats, per_depth: Floats) -> Priced:
        """The options with a price for every unit of a budget, and one for every depth."""
        return Priced(
            node=self.node,
            first=np.tensordot(budgets, self.first, (0, 1)),
            again=np.tensordot(budgets, self.again, (0, 1)),
            per_depth=per_depth,
            stepped=None if self.stepped is None else budgets @ self.stepped,
            sigma_first=self.sigma_first,
            sigma_again=self.sigma_again,
            exponent=self.exponent,
            depth=self.depth,
            mid=self.mid,
            log_mid=self.log_mid,
            first_mid=self.first_mid,
            end_mid=self.end_mid,
        )


@dataclass(frozen=True)
class _Prices:
    """A segment's priced options, and the slope that the price of effectiveness adds at its end."""

    options: Priced
    slope: float


class Program:
    """The relaxation over a box; ``is_empty`` when no path of channels remains."""

    def __init__(self, relaxation: Relaxation, box: Box, *, ranged: bool = True) -> None:
        self.relaxation = relaxation
        self.box = box
        self.parts: list[_Part] = []
        positions = [
            [np.searchsorted(full, values) for full, values in zip(grids, domains, strict=True)]
            for grids, domains in (
                ([table.nodes for table in relaxation.tables], box.channels),
                ([table.mid for table in relaxation.tables], box.mid),
                ([table.kernel for table in relaxation.tables], box.kernel),
            )
        ]
        links = self._linked(*positions[:2])
        self.is_empty = any(len(nodes) == 0 for nodes in links)
        if self.is_empty:
            return
        before = np.array([0])
        for s, table in enumerate(relaxation.tables):
            depth = np.array(box.depth[s])
            self.parts.append(_part(table, before, links[s], positions[1][s], positions[2][s], depth))
            before = links[s]
        self.nodes = links
        self.carried = self._carried()
        if ranged:
            most = [bound[nodes] for bound, nodes in zip(relaxation.widest, links, strict=True)]
            # Where even the narrowest path breaks a budget nothing need be kept.
            self.carried = [(low, np.clip(m, low, high)) for (low, high), m in zip(self.carried, most, strict=True)]
        self.spreads = spreads(tuple(box.depth[s] for s in box.penalised), box.first, box.last)
        self.is_empty = bool(box.penalised) and len(self.spreads) == 0
        self.largest_spread = largest_spread(self.spreads, tuple(box.depth[s] for s in box.penalised))

    def _linked(self, nodes: list[Integers], mids: list[Integers]) -> list[Integers]:
        """The nodes of every segment that lie on a complete path, as positions in its table."""
        tables = self.relaxation.tables
        kept = [n[table.carries[n][:, m].any(axis=1)] for table, n, m in zip(tables, nodes, mids, strict=True)]
        for s in range(1, len(kept)):
            kept[s] = kept[s][tables[s].follows[kept[s - 1]][:, kept[s]].any(axis=0)]
        for s in range(len(kept) - 1, 0, -1):
            kept[s - 1] = kept[s - 1][tables[s].follows[kept[s - 1]][:, kept[s]].any(axis=1)]
        return kept

    def _carried(self) -> list[tuple[Floats, Floats]]:
        """The range of the log-width at every node, from the narrowest and the widest prefix, rounded outward."""
        low, high = np.zeros(1), np.zeros(1)
        ranges = []
        for part in self.parts:
            ends = []
            for k, depth, mid in ((0, part.depth[0], part.first_mid), (-1, part.depth[-1], part.end_mid - 1)):
                repeated = part.sigma_again[:, k] * (depth - 1) + part.exponent * depth * part.log_mid[mid]
                ends.append(part.sigma_first[:, k] + repeated[part.node])
            least, most = low[part.source] + ends[0], high[part.source] + ends[1]
            low, high = np.full(len(part.channels), np.inf), np.full(len(part.channels), -np.inf)
            np.minimum.at(low, part.node, least)
            np.maximum.at(high, part.node, most)
            ranges.append((low * (1 - _ROUNDING), high * (1 + _ROUNDING)))
        return ranges

    def prefixes(self, slope: float, budgets: Floats) -> tuple[list[Floats], list[Floats]]:
        """At every node the largest ``slope S - price`` of a path up to it, and the largest ``-price`` after it."""
        options = [part.priced(budgets, np.zeros(len(part.depth))) for part in self.parts]
        rows = [np.arange(len(part.node)) for part in self.parts]
        before, after = [np.zeros(1)], [np.zeros(len(self.parts[-1].channels))]
        for part, priced, pairs in zip(self.parts, options, rows, strict=True):
            arriving = before[-1][part.source] + best_values(priced, pairs, np.full(len(pairs), slope))
            before.append(np.full(len(part.channels), -np.inf))
            np.maximum.at(before[-1], part.node, arriving)
        for part, priced, pairs in zip(self.parts[:0:-1], options[:0:-1], rows[:0:-1], strict=True):
            leaving = after[-1][part.node] + best_values(priced, pairs, np.zeros(len(pairs)))
            after.append(np.full(len(part.leaving.members), -np.inf))
            np.maximum.at(after[-1], part.source, leaving)
        return before[1:], after[::-1]

    @cached_property
    def scales(self) -> Floats:
        """A natural step for every multiplier."""
        score = sum(float(part.gain.max()) for part in self.parts) * float(self.carried[-1][1].max()) / 10
        depth = [1.0, score / 100] if self.relaxation.beta > 0 else []
        relaxation = self.relaxation
        return np.array([score] * len(relaxation.budgets) + [score / 300] * len(relaxation.bounded) + depth)

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
        prices, constant, magnitude = self._terms(multipliers, tangents)
        lines = self._backward(prices)
        _, intercept = self._through(0, prices[0], lines[0])
        pair, line = np.unravel_index(int(np.argmax(intercept)), intercept.shape)
        value = float(intercept[pair, line]) + constant + self._margin(prices, magnitude)
        path = self._path(prices, lines, int(pair), int(line))
        return Bound(value, multipliers, self._slack(multipliers, tangents, path), tangents, path)

    def _terms(self, multipliers: Floats, tangents: tuple[float, ...]) -> tuple[list[_Prices], float, float]:
        """Prices of every segment, the constant of the Lagrangian, and the magnitudes of what these two add up."""
        relaxation, box = self.relaxation, self.box
        number = len(relaxation.budgets)
        budgets = multipliers[:number]
        effectiveness = multipliers[number : number + len(relaxation.bounded)]
        constant = magnitude = math.fsum(budgets)
        per_depth = [np.zeros(len(part.depth)) for part in self.parts]
        slopes = [0.0] * len(self.parts)
        for s, mu, tangent in zip(relaxation.bounded, effectiveness, tangents, strict=True):
            slopes[s] = float(mu)
            # S >= phi(D) >= phi'(D0) D - D0 with phi'(D0) = ln D0 + 1 - ln rho_0.
            per_layer = float(mu) * (math.log(tangent) + 1 - relaxation.log_ratio)
            for r in range(s + 1):
                per_depth[r] = per_depth[r] + per_layer * self.parts[r].layers * self.parts[r].depth
                magnitude += abs(per_layer) * self.parts[r].layers * float(self.parts[r].depth[-1])
            constant += float(mu) * tangent
            magnitude += float(mu) * tangent * (2 + abs(math.log(tangent)) + abs(relaxation.log_ratio))
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
            minorant, variance = self._minorant(curvature)
            product = bend * box.first * box.last / stages**2
            constant -= relaxation.beta * minorant + product
            constant += max(total * box.first, total * box.last)
            magnitude += relaxation.beta * abs(minorant) + 2 * bend * variance + product + abs(total) * box.last
        prices = []
        for part, more, slope in zip(self.parts, per_depth, slopes, strict=True):
            prices.append(_Prices(part.priced(budgets, more), slope))
        return prices, constant, magnitude

    def _minorant(self, curvature: float) -> tuple[float, float]:
        """``a = min_V Q(V) - b V`` over the attainable ``V``, and the minimising ``V``."""
        number = len(self.box.penalised)
        variances = self.spreads / number**2
        uniformities = entropy.uniformity_of(self.spreads, number, self.relaxation.spec.convention)
        # Beyond the last one listed, up to the largest there may be, Q is at least that of the last.
        variances[-1] = self.largest_spread / number**2
        values = np.minimum(uniformities, 1e300 / max(1.0, self.relaxation.beta)) - curvature * variances
        position = int(np.argmin(values))
        return float(values[position]), float(variances[position])

    def _margin(self, prices: list[_Prices], magnitude: float) -> float:
        """What rounding can take from a bound: proportional to the largest terms that a path's sum can hold."""
        most = float(self.carried[-1][1].max())
        for part, price in zip(self.parts, prices, strict=True):
            powers, options = part.mid[-1] ** np.arange(3), price.options
            blocks = part.depth[-1] * float(np.max(powers @ np.abs(options.again).max(axis=(1, 2)), initial=0.0))
            blocks += float(powers @ np.abs(options.first).max(axis=(1, 2)))
            if options.stepped is not None:
                blocks += float(part.depth[-1] * options.stepped.max())
            slope = float(part.gain.max()) + price.slope
            magnitude += slope * most + blocks
        return _ROUNDING * magnitude

    def _backward(self, prices: list[_Prices]) -> list[Lines]:
        """Lines of the value-to-go at every node of every segment, as functions of the log-width there."""
        slope = (self.parts[-1].gain + prices[-1].slope)[:, None]
        lines = [Lines(slope, np.zeros_like(slope), np.zeros(slope.shape, np.int64))]
        for s in range(len(self.parts) - 1, 0, -1):
            slope, intercept = self._through(s, prices[s], lines[-1])
            part, low, high = self.parts[s], *self.carried[s - 1]
            own = (self.parts[s - 1].gain + prices[s - 1].slope)[:, None, None]
            flat = len(low), -1
            slopes = (slope[part.leaving.members] + own).reshape(flat)
            intercepts = np.where(part.leaving.exists[:, :, None], intercept[part.leaving.members], -np.inf).reshape(
                flat
            )
            lines.append(coarser(envelope(slopes, intercepts, low, high), low, high, _LINES))
        return lines[::-1]

    def _through(self, s: int, prices: _Prices, ahead: Lines) -> tuple[Floats, Floats]:
        """For every pair and every line ahead of it, slope and intercept before the pair, (pairs, lines)."""
        part = self.parts[s]
        slope, intercept = ahead.slope[part.node], ahead.intercept[part.node].copy()
        pairs, line = np.nonzero(np.isfinite(intercept))
        intercept[pairs, line] += best_values(prices.options, pairs, slope[pairs, line])
        return slope, intercept

    def _path(self, prices: list[_Prices], lines: list[Lines], pair: int, line: int) -> tuple[Choice, ...]:
        """The maximising path that begins with a line of a pair of the first segment."""
        path = []
        for s, part in enumerate(self.parts):
            node = part.node[pair]
            slope = float(lines[s].slope[node, line])
            path.append(self._option(s, prices[s], pair, slope))
            if s + 1 < len(self.parts):
                position, line = divmod(int(lines[s].origin[node, line]), lines[s + 1].slope.shape[1])
                pair = int(self.parts[s + 1].leaving.members[node, position])
        return tuple(path)

    def _option(self, s: int, prices: _Prices, pair: int, slope: float) -> Choice:
        """The best option of a pair for the slope ahead."""
        part = self.parts[s]
        options = prices.options
        worth = values(options, np.array([pair]), np.array([slope]))[0]
        k, position = np.unravel_index(int(np.argmax(worth)), worth.shape)
        node, depth = part.node[pair], int(part.depth[position])
        widths = slice(part.first_mid[node], part.end_mid[node])
        mid = part.mid[widths]
        _, linear, square = options.first[:, pair, k] + (depth - 1) * options.again[:, node, k]
        each = slope * part.exponent * depth * part.log_mid[widths] - linear * mid - square * mid**2
        if options.stepped is not None:
            each -= depth * options.stepped[widths]
        return int(part.channels[node]), int(mid[np.argmax(each)]), int(part.kernel[k]), depth

    def _slack(self, multipliers: Floats, tangents: tuple[float, ...], path: tuple[Choice, ...]) -> Floats:
        """Subgradient of the bound: the slack of the maximising path in every priced constraint."""
        relaxation, box = self.relaxation, self.box
        spent = np.zeros(len(relaxation.budgets))
        carried, layers, before = [0.0], [0], 0
        for table, (c, m, k, depth) in zip(relaxation.tables, path, strict=True):
            node, kernel = np.searchsorted(table.nodes, c), np.searchsorted(table.kernel, k)
            cost = table.first[:, :, before, node, kernel] + (depth - 1) * table.again[:, :, node, kernel]
            spent += cost[0] + cost[1] * m + cost[2] * m**2
            if table.stepped is not None:
                spent += depth * table.stepped[:, np.searchsorted(table.mid, m)]
            sigma = table.log_first[before, node, kernel] + (depth - 1) * table.log_again[node, kernel]
            carried.append(carried[-1] + float(sigma) + table.exponent * depth * math.log(m))
            layers.append(layers[-1] + table.layers * depth)
            before = int(node)
        slack = list(1.0 - spent)
        for s, tangent in zip(relaxation.bounded, tangents, strict=True):
            floor = (math.log(tangent) + 1 - relaxation.log_ratio) * layers[s + 1] - tangent
            slack.append(carried[s + 1] - floor)
        if relaxation.beta > 0:
            curvature, total = multipliers[-2:]
            number = len(box.penalised)
            depths = [path[s][3] for s in box.penalised]
            chord = ((box.first + box.last) * sum(depths) - box.first * box.last) / number**2
            variance = sum(depth**2 for depth in depths) / number - chord
            slack.append(relaxation.beta * (self._minorant(float(curvature))[1] - variance))
            slack.append((box.last if total >= 0 else box.first) - sum(depths))
        return np.array(slack)

    def value_bounds(self, bound: Bound) -> list[tuple[Floats, Floats, Floats, Floats]]:
        """Per segment, an upper bound on the designs that take each value of the axes of :data:`AXES`, in the order
        of the box; minus infinity for values on no complete path.
        """
        prices, constant, magnitude = self._terms(bound.multipliers, bound.tangents)
        constant += self._margin(prices, magnitude)
        lines = self._backward(prices)
        ahead = [*self._candidate_slopes(lines, prices), None]
        bounds = []
        # Value of the best prefix at every node (rows) at some slopes (columns); convex between them.
        slopes, known = np.zeros((1, 1)), np.zeros((1, 1))
        for s, part in enumerate(self.parts):
            own = np.zeros(1) if s == 0 else self.parts[s - 1].gain + prices[s - 1].slope
            line_slope, line_intercept = lines[s].slope[part.node], lines[s].intercept[part.node]
            pairs, line = np.nonzero(np.isfinite(line_intercept))
            slope = line_slope[pairs, line]
            source = part.source[pairs]
            before = _interpolated(slopes, known, source, slope + own[source])
            rest = before + line_intercept[pairs, line] + constant
            bounds.append(self._by_value(s, prices[s], pairs, slope, rest))
            following = ahead[s]
            if following is not None:
                at = following[part.node]
                rows, column = np.nonzero(np.isfinite(at))
                slope, source = at[rows, column], part.source[rows]
                reached = _interpolated(slopes, known, source, slope + own[source])
                reached += best_values(prices[s].options, rows, slope)
                slopes, known = following, np.full(following.shape, -np.inf)
                np.maximum.at(known, (part.node[rows], column), reached)
        return bounds

    def _candidate_slopes(self, lines: list[Lines], prices: list[_Prices]) -> list[Floats]:
        """Slopes at which the prefixes of every node are valued: of its lines, and the ends of what is asked there.

        Ascending, padded with infinity. What is asked of a node is the slope of every line ahead of it plus its own.
        """
        slopes: list[Floats] = []
        ahead, real = lines[-1].slope, np.isfinite(lines[-1].intercept)
        for s in range(len(self.parts) - 2, -1, -1):
            part, own = self.parts[s + 1], self.parts[s].gain + prices[s].slope
            least, most = np.full(len(own), np.inf), np.full(len(own), -np.inf)
            np.minimum.at(least, part.source, np.where(real, ahead, np.inf).min(axis=1)[part.node])
            np.maximum.at(most, part.source, np.where(real, ahead, -np.inf).max(axis=1)[part.node])
            kept = np.where(np.isfinite(lines[s].intercept), lines[s].slope, np.inf)
            columns = [(least + own)[:, None], kept, (most + own)[:, None]]
            ahead = np.sort(np.concatenate(columns, axis=1), axis=1)
            real = np.isfinite(ahead)
            slopes.append(ahead)
        return slopes[::-1]

    def _by_value(
        self, s: int, prices: _Prices, pairs: Integers, slope: Floats, rest: Floats
    ) -> tuple[Floats, Floats, Floats, Floats]:
        part, options = self.parts[s], prices.options
        nodes = np.full(len(part.channels), -np.inf)
        kernel, depth = np.full(len(part.kernel), -np.inf), np.full(len(part.depth), -np.inf)
        mids = np.full(len(part.mid), -np.inf)
        size = max(1, _CHUNK // (len(kernel) * len(depth)))
        for start in range(0, len(pairs), size):
            rows = slice(start, start + size)
            worth = values(options, pairs[rows], slope[rows]) + rest[rows, None, None]
            np.maximum.at(nodes, part.node[pairs[rows]], worth.max(axis=(1, 2)))
            np.maximum(kernel, worth.max(axis=(0, 2)), out=kernel)
            np.maximum(depth, worth.max(axis=(0, 1)), out=depth)
            for w in range(len(mids)) if len(mids) > 1 else ():
                each = values(options, pairs[rows], slope[rows], w) + rest[rows, None, None]
                mids[w] = max(mids[w], float(each.max()))
        if len(mids) == 1:
            mids[0] = nodes.max()
        channels = np.full(len(self.box.channels[s]), -np.inf)
        channels[np.searchsorted(self.box.channels[s], part.channels)] = nodes
        return channels, mids, kernel, depth


def _part(
    table: Table, sources: Integers, nodes: Integers, mids: Integers, kernels: Integers, depth: Integers
) -> _Part:
    source, node = np.nonzero(table.follows[sources][:, nodes])
    carries = table.carries[nodes][:, mids]
    # Widths that go with a number of channels are consecutive, since mid_ratio is an interval.
    first = carries.argmax(axis=1)
    end = first + carries.sum(axis=1)
    pick = (sources[source][:, None], nodes[node][:, None], kernels[None, :])
    return _Part(
        source=source,
        node=node,
        channels=table.nodes[nodes],
        mid=table.mid[mids].astype(float),
        log_mid=np.log(table.mid[mids]),
        first_mid=first,
        end_mid=end,
        kernel=table.kernel[kernels],
        depth=depth,
        first=table.first[(slice(None), slice(None), *pick)],
        again=table.again[:, :, nodes[:, None], kernels[None, :]],
        stepped=None if table.stepped is None else table.stepped[:, mids],
        sigma_first=table.log_first[pick],
        sigma_again=table.log_again[nodes[:, None], kernels[None, :]],
        exponent=table.exponent,
        layers=table.layers,
        gain=table.gain[nodes],
        leaving=padded(source),
    )


def _interpolated(slopes: Floats, values: Floats, rows: Integers, at: Floats) -> Floats:
    """The chord of a convex function known at ascending ``slopes`` of every row, which is never below it."""
    grid, known = slopes[rows], values[rows]
    if grid.shape[1] == 1:
        return known[:, 0]
    upper = np.clip((grid < at[:, None]).sum(axis=1), 1, np.maximum(1, np.isfinite(grid).sum(axis=1) - 1))
    row = np.arange(len(rows))
    left, right = grid[row, upper - 1], grid[row, upper]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(right > left, (at - left) / (right - left), 1.0)
    share = np.clip(share, 0.0, 1.0)
    low, high = known[row, upper - 1], known[row, upper]
    return np.asarray(np.where(share <= 0, low, np.where(share >= 1, high, (1 - share) * low + share * high)))
