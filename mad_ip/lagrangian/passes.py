"""Whole passes over the segments of a box, compiled: backward for a bound and its path, forward for bounds by value."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mad_ip.lagrangian import kernels
from mad_ip.lagrangian.kernels import Ahead, Prefixes, Prices, Rows, Values, compiled, inner
from mad_ip.lagrangian.packed import Packed, part, segment

__all__ = ["FORBIDDEN", "ROUNDING", "Relaxed", "Terms", "Traces"]
__all__ += ["evaluate", "forward", "held", "opened", "penalty", "per_layer", "prefixes", "suffixes"]

ROUNDING = 1e-12
"""Margin on every bound, relative to the magnitudes summed: see docs/verification.md."""

FORBIDDEN = 1e30
"""Price of an option that passes a budget on a maximum: no path that takes it is the best."""


class Relaxed(NamedTuple):
    """A box as compiled code needs it.

    ``tables`` are what the box leaves; ``low`` and ``high`` the range of the log-width at every node, one segment after
    another, ``most`` the largest after the last. For every segment, ``gains`` are the largest and ``largest``
    (segments, rows) no less than what any option costs; the terms of utilities of any path are no more than ``utility``
    in magnitude. ``budgets`` of the rows are priced, the ``bounded`` segments
    have a price of effectiveness, those from ``penalised`` to before ``end`` a depth penalty with a total from
    ``first`` to ``last``. ``variances`` are the attainable V and ``uniformities`` Q at each. ``layers`` are all numbers
    of layers that a bounded segment may have, one such segment after another from ``starts`` on, and ``floors`` phi of
    each; ``reach`` (bounded, 2) are the fewest and the most by the depths alone.
    """

    tables: Packed
    low: Any
    high: Any
    most: float
    gains: Any
    largest: Any
    utility: float
    budgets: int
    bounded: Any
    penalised: int
    end: int
    first: int
    last: int
    beta: float
    log_ratio: float
    variances: Any
    uniformities: Any
    layers: Any
    floors: Any
    starts: Any
    reach: Any


class Terms(NamedTuple):
    """What a path pays: ``prices`` of the rows of costs, ``per_depth`` (segments, L) and, per unit of the log-width at
    the end of a segment, ``slopes`` for its effectiveness. ``utility``: what it is worth by itself counts.
    """

    prices: Any
    per_depth: Any
    slopes: Any
    utility: bool


class Traces(NamedTuple):
    """Paths with what each adds to a Lagrangian: ``choices`` (M, segments, 4), the entropy in the score with what the
    choices are ``worth`` by themselves (M), what it spends of each budget in units of the budget (M, B), and the
    log-width up to every bounded segment (M, bounded).
    """

    choices: Any
    worth: Any
    spent: Any
    log_widths: Any


@inner
def per_layer(mu: float, tangent: float, log_ratio: float) -> float:
    """The price of a layer that goes with a price of effectiveness: ``mu phi'(D)`` at a number of layers."""
    return mu * (math.log(tangent) + 1 - log_ratio)


@inner
def penalty(box: Relaxed, curvature: float) -> int:
    """Where among the attainable ``V`` the difference ``Q(V) - b V`` is least."""
    found, least = 0, np.inf
    for i in range(len(box.variances)):
        value = box.uniformities[i] - curvature * box.variances[i]
        if value < least:
            found, least = i, value
    return found


@inner
def _prices(tables: Packed, budgets: Any) -> Any:
    """Prices of all rows of costs: of the budgets, and of what is forbidden."""
    prices = np.full(tables.rows, FORBIDDEN)
    prices[: len(budgets)] = budgets
    return prices


@inner
def _terms(box: Relaxed, multipliers: Any, tangents: Any) -> tuple[Terms, float, float]:
    """What a path pays, the constant of the Lagrangian, and what rounding can take from a bound.

    That is in proportion to the largest terms that a path's sum and the constant can hold.
    """
    tables, number = box.tables, box.budgets
    budgets = multipliers[:number]
    constant = budgets.sum()
    magnitude = constant
    per_depth, slopes = np.zeros(tables.depth.shape), np.zeros(len(tables.depth))
    for i in range(len(box.bounded)):
        s, mu = box.bounded[i], multipliers[number + i]
        slopes[s] = mu
        # S >= phi(D), priced by mu; mu phi(D) >= price D - most for every D that there is.
        price = per_layer(mu, tangents[i], box.log_ratio)
        for r in range(s + 1):
            per_depth[r] += price * tables.layers[r] * tables.depth[r]
        magnitude += abs(price) * box.reach[i, 1]
        most, largest = -np.inf, 0.0
        for j in range(box.starts[i], box.starts[i + 1]):
            most = max(most, price * box.layers[j] - mu * box.floors[j])
            largest = max(largest, abs(price) * box.layers[j] + mu * abs(box.floors[j]))
        constant += most
        magnitude += largest
    if box.beta > 0:
        curvature, total = multipliers[-2], multipliers[-1]
        bend, stages = box.beta * curvature, box.end - box.penalised
        for s in range(box.penalised, box.end):
            depth = tables.depth[s]
            # V >= sum L^2 / n - chord of (T / n)^2 over the range of T: additive over stages.
            chord = (box.first + box.last) * depth / stages**2
            per_depth[s] += bend * (depth**2 / stages - chord) + total * depth
            deepest = depth.max()
            magnitude += bend * (deepest**2 / stages + chord.max()) + abs(total) * deepest
        place = penalty(box, curvature)
        minorant = box.uniformities[place] - curvature * box.variances[place]
        product = bend * box.first * box.last / stages**2
        constant -= box.beta * minorant + product
        constant += max(total * box.first, total * box.last)
        magnitude += box.beta * abs(minorant) + 2 * bend * box.variances[place] + product + abs(total) * box.last
    for s in range(len(slopes)):
        per_depth[s] -= tables.depth_utility[s]
        magnitude += (box.gains[s] + slopes[s]) * box.most
        # Nothing is added up with what is forbidden.
        for b in range(number):
            magnitude += box.largest[s, b] * budgets[b]
    magnitude += box.utility
    return Terms(_prices(tables, budgets), per_depth, slopes, box.utility > 0), constant, ROUNDING * magnitude


@inner
def _priced(tables: Packed, terms: Terms, s: int) -> Prices:
    """The options of a segment with a price for every unit of a budget, and one for every depth."""
    here, per_depth = segment(tables, s), terms.per_depth[s, : tables.shapes[s, 4]]
    opening = kernels.summed(here.opening, terms.prices)
    if terms.utility:
        opening -= here.utility
    return Prices(
        kernels.summed(here.pair, terms.prices),
        kernels.summed(here.entering, terms.prices),
        opening,
        kernels.summed(here.again, terms.prices),
        here.log_source,
        here.log_opening,
        here.log_again,
        here.first_mid,
        here.end_mid,
        here.depth,
        per_depth,
        kernels.depth_lines(here.depth, per_depth),
    )


@compiled
def opened(full: Packed, widest: Any, values: Any, counts: Any) -> tuple[Packed, Any, Any, Any, float, Any, Any, Any]:
    """What a box leaves of the tables, as :func:`mad_ip.lagrangian.packed.part` does, and the range of the log-width at
    every node, up to ``widest`` of the full tables' nodes, with the largest of them after the last segment; for every
    segment, the largest gain, the least and the most that options are worth by themselves, and no less than what any
    costs of each row.

    The range is that from the narrowest to the widest prefix, rounded outward.
    """
    tables, chosen = part(full, values, counts)
    number = len(tables.shapes)
    low, high = np.empty(len(chosen)), np.empty(len(chosen))
    gains, worths, largest = np.empty(number), np.empty((number, 2)), np.empty((number, tables.rows))
    least_before, most_before, most = np.zeros(1), np.zeros(1), 0.0
    begin, offset = 0, 0
    for s in range(number if (tables.shapes[:, 1] > 0).all() else 0):
        here = segment(tables, s)
        first, last = here.depth[0] - 1, here.depth[-1] - 1
        end, most = begin + len(here.gain), 0.0
        for n in range(begin, end):
            narrowest, widest_, least, largest_ = np.inf, -np.inf, np.inf, -np.inf
            for i in range(len(least_before)):
                if here.first_mid[i, n - begin] < here.end_mid[i, n - begin]:
                    narrowest = min(narrowest, least_before[i] + here.log_source[i])
                    widest_ = max(widest_, most_before[i] + here.log_source[i])
            for k in range(len(here.kernel)):
                for w in range(len(here.mid)):
                    once, again = here.log_opening[n - begin, k, w], here.log_again[n - begin, k, w]
                    least, largest_ = min(least, once + first * again), max(largest_, once + last * again)
            low[n], high[n] = narrowest + least, widest_ + largest_
        least_before, most_before = low[begin:end].copy(), high[begin:end].copy()
        for n in range(begin, end):
            low[n], high[n] = low[n] * (1 - ROUNDING), high[n] * (1 + ROUNDING)
            # Where even the narrowest path breaks a budget nothing need be kept.
            high[n] = max(min(high[n], widest[offset + chosen[n]]), low[n])
            most = max(most, high[n])
        gains[s] = here.gain.max()
        worths[s] = here.utility.min() + here.depth_utility.min(), here.utility.max() + here.depth_utility.max()
        for b in range(tables.rows):
            outside = here.pair[b].max() + here.entering[b].max()
            largest[s, b] = outside + here.opening[b].max() + last * here.again[b].max()
        begin, offset = end, offset + full.shapes[s, 1]
    return tables, chosen, low, high, most, gains, worths, largest


@inner
def _gathered(rows: Rows) -> Ahead:
    """All lines, in ascending slope."""
    size, place = rows.number.sum(), 0
    node, slope = np.empty(size, np.int64), np.empty(size)
    intercept, origin = np.empty(size), np.empty(size, np.int64)
    for n in range(len(rows.number)):
        for i in range(rows.number[n]):
            node[place], slope[place] = n, rows.slope[n, i]
            intercept[place], origin[place] = rows.intercept[n, i], rows.origin[n, i]
            place += 1
    order = np.argsort(slope, kind="mergesort")
    return Ahead(node[order], slope[order], intercept[order], origin[order])


@inner
def _backward(box: Relaxed, terms: Terms) -> tuple[list[Prices], list[Ahead]]:
    """The prices of all segments, and lines of the value-to-go at their nodes as functions of the log-width there, the
    last segment's first.
    """
    tables, low, high = box.tables, box.low, box.high
    number = len(tables.shapes)
    priced = [_priced(tables, terms, s) for s in range(number)]
    slope = (segment(tables, number - 1).gain + terms.slopes[number - 1]).reshape((-1, 1))
    origin, one = np.zeros(slope.shape, np.int64), np.ones(len(slope), np.int64)
    ahead = [_gathered(Rows(slope, np.zeros(slope.shape), origin, one))]
    end = len(low) - len(slope)
    for s in range(number - 1, 0, -1):
        values = kernels.through(ahead[-1], priced[s], tables.descending[s])
        own = segment(tables, s - 1).gain + terms.slopes[s - 1]
        begin = end - len(own)
        ahead.append(_gathered(kernels.envelopes(ahead[-1].slope, values, own, low[begin:end], high[begin:end])))
        end = begin
    return priced, ahead


@compiled
def evaluate(box: Relaxed, multipliers: Any, tangents: Any, traces: Traces, at: int) -> float:
    """The bound that multipliers give, minus infinity where there is no path; one that has it becomes a trace."""
    terms, constant, margin = _terms(box, multipliers, tangents)
    priced, ahead = _backward(box, terms)
    number, tables = len(priced), box.tables
    values = kernels.through(ahead[-1], priced[0], tables.descending[0])[0]
    line, source, placed = np.argmax(values), 0, 0
    if not values[line] > -FORBIDDEN / 2:
        return -np.inf
    value = values[line] + constant + margin
    choices, spent = traces.choices[at], traces.spent[at]
    spent[:] = 0.0
    worth, carried = 0.0, 0.0
    for s in range(number):
        here, lines = segment(tables, s), ahead[number - 1 - s]
        n = lines.node[line]
        k, w, d = kernels.best_choice(source, n, lines.slope[line], priced[s])
        e, repeats = min(k, here.entering.shape[2] - 1), here.depth[d] - 1
        for b in range(len(spent)):
            spent[b] += here.pair[b, source, n] + here.entering[b, source, e, w]
            spent[b] += here.opening[b, n, k, w] + repeats * here.again[b, n, k, w]
        carried += here.log_source[source] + here.log_opening[n, k, w] + repeats * here.log_again[n, k, w]
        worth += here.gain[n] * carried + here.utility[n, k, w] + here.depth_utility[d]
        if placed < len(box.bounded) and box.bounded[placed] == s:
            traces.log_widths[at, placed] = carried
            placed += 1
        choices[s] = (here.nodes[n], here.mid[w], here.kernel[k], int(here.depth[d]))
        source, line = n, lines.origin[line]
    traces.worth[at] = worth
    return value  # type: ignore[no-any-return]


@inner
def _one_slope(known: Any) -> Prefixes:
    """Prefixes by source, with one value whatever the slope."""
    number = len(known)
    return Prefixes(np.zeros(number), np.zeros((number, 1)), known.reshape((number, 1)), np.ones(number, np.int64))


@inner
def _nothing(prices: Prices) -> Values:
    """Values of a segment of which no path is known."""
    nodes, kernels_, widths = prices.opening.shape
    depths = len(prices.depth)
    return Values(
        np.full(nodes, -np.inf), np.full(widths, -np.inf), np.full(kernels_, -np.inf), np.full(depths, -np.inf)
    )


@compiled
def prefixes(tables: Packed, budgets: Any, slope: float) -> Any:
    """At every node the largest ``slope S - price`` of a path up to it, by prices of the ``budgets``."""
    terms = Terms(_prices(tables, budgets), np.zeros(tables.depth.shape), np.zeros(len(tables.depth)), False)
    found, begin = np.empty(tables.shapes[:, 1].sum()), 0
    known = np.zeros(1)
    for s in range(len(tables.shapes)):
        priced, nodes = _priced(tables, terms, s), np.arange(tables.shapes[s, 1])
        ahead = Ahead(nodes, np.full(len(nodes), slope), np.full(len(nodes), -np.inf), nodes)
        known, _ = kernels.value_bounds(
            ahead, priced, tables.descending[s], _one_slope(known), np.inf, _nothing(priced)
        )
        found[begin : begin + len(nodes)] = known
        begin += len(nodes)
    return found


@compiled
def suffixes(tables: Packed, budgets: Any) -> Any:
    """At every node the largest ``-price`` of a path after it, by prices of the ``budgets``."""
    terms = Terms(_prices(tables, budgets), np.zeros(tables.depth.shape), np.zeros(len(tables.depth)), False)
    known = np.zeros(tables.shapes[-1, 1])
    found, end = np.zeros(tables.shapes[:, 1].sum()), tables.shapes[:-1, 1].sum()
    for s in range(len(tables.shapes) - 1, 0, -1):
        nodes = np.arange(len(known))
        ahead = Ahead(nodes, np.zeros(len(nodes)), known, nodes)
        values = kernels.through(ahead, _priced(tables, terms, s), tables.descending[s])
        known = np.array([row.max() for row in values])
        found[end - len(known) : end] = known
        end -= len(known)
    return found


@inner
def _insert(slopes: Any, intercepts: Any, number: int, slope: float, intercept: float) -> int:
    """Put a line where it belongs among the first ones, in ascending slope; how many there are then."""
    place = number
    while place > 0 and slopes[place - 1] > slope:
        slopes[place], intercepts[place] = slopes[place - 1], intercepts[place - 1]
        place -= 1
    slopes[place], intercepts[place] = slope, intercept
    return number + 1


@inner
def _asked(tables: Packed, terms: Terms, ahead: list[Ahead]) -> list[tuple[Any, Any]]:
    """Slopes at which the prefixes of every node are valued, ascending, padded with infinity, and intercepts; the last
    segment's first.

    They are those of the node's lines, and the ends of what is asked there: the slope of every line ahead of it plus
    its own. Only lines have an intercept.
    """
    number = len(ahead)
    least, most = np.zeros(0), np.zeros(0)
    asked = []
    for s in range(number - 1, -1, -1):
        here, lines = segment(tables, s), ahead[number - 1 - s]
        nodes, ends = len(here.gain), s < number - 1
        size = np.zeros(nodes, np.int64)
        for n in lines.node:
            size[n] += 1
        slope, intercept = np.full((nodes, size.max() + 2), np.inf), np.full((nodes, size.max() + 2), -np.inf)
        size[:] = 0
        for j in range(len(lines.node)):
            n = lines.node[j]
            size[n] = _insert(slope[n], intercept[n], size[n], lines.slope[j], lines.intercept[j])
        before_least, before_most = least, most
        least, most = np.full(len(here.log_source), np.inf), np.full(len(here.log_source), -np.inf)
        for n in range(nodes):
            own, last = here.gain[n] + terms.slopes[s], size[n]
            if ends:
                last = _insert(slope[n], intercept[n], size[n], before_least[n] + own, -np.inf)
                last = _insert(slope[n], intercept[n], last, before_most[n] + own, -np.inf)
            for i in range(len(least)):
                if here.first_mid[i, n] < here.end_mid[i, n]:
                    least[i], most[i] = min(least[i], slope[n, 0]), max(most[i], slope[n, last - 1])
        asked.append((slope, intercept))
    return asked


@inner
def _slopes(slope: Any, intercept: Any, constant: float) -> Ahead:
    """All slopes that are asked of the nodes of a segment; the constant is added to the intercepts."""
    size, j = (slope < np.inf).sum(), 0
    node, place, asked, lines = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size), np.empty(size)
    for n in range(len(slope)):
        for i in range(slope.shape[1]):
            if slope[n, i] < np.inf:
                node[j], place[j], asked[j], lines[j] = n, i, slope[n, i], intercept[n, i] + constant
                j += 1
    return Ahead(node, asked, lines, place)


@inner
def _following(own: Any, slope: Any, asked: Ahead, reached: Any) -> Prefixes:
    """The prefixes that end at the nodes of a segment, by what is ``reached`` at every slope asked of them."""
    known, number = np.full(slope.shape, -np.inf), np.zeros(len(slope), np.int64)
    for j in range(len(reached)):
        known[asked.node[j], asked.origin[j]] = reached[j]
        number[asked.node[j]] += 1
    return Prefixes(own, slope, known, number)


@compiled
def forward(box: Relaxed, multipliers: Any, tangents: Any, target: float, options: bool) -> list[Any]:
    """Per segment, bounds on the paths that take each value, one on all those that do not pass ``target``, and where
    ``options`` are asked for, bounds on those that take each (S, N, K, W, L).

    Minus infinity stands for what is on no path that passes the target.
    """
    terms, constant, margin = _terms(box, multipliers, tangents)
    priced, ahead = _backward(box, terms)
    asked = _asked(box.tables, terms, ahead)
    before = _one_slope(np.zeros(1))
    found = []
    for s in range(len(priced)):
        slope, intercept = asked[len(priced) - 1 - s]
        lines, values = _slopes(slope, intercept, constant + margin), _nothing(priced[s])
        reached, below = kernels.value_bounds(lines, priced[s], box.tables.descending[s], before, target, values)
        sources, nodes, kernels_, widths, depths, _ = box.tables.shapes[s]
        bounds = np.full((sources if options else 0, nodes, kernels_, widths, depths), -np.inf)
        if options:
            kernels.option_bounds(lines, priced[s], before, bounds)
        found.append((values, below, bounds))
        before = _following(segment(box.tables, s).gain + terms.slopes[s], slope, lines, reached)
    return found


@inner
def held(values: Any, counts: Any, choices: Any) -> bool:
    """Whether a path (segments, 4) takes only ``values``, one after another, ``counts`` (segments, 4) of each."""
    begin = 0
    for s in range(len(counts)):
        for axis in range(4):
            place, end = begin, begin + counts[s, axis]
            while place < end and values[place] < choices[s, axis]:
                place += 1
            if place == end or values[place] > choices[s, axis]:
                return False
            begin = end
    return True
