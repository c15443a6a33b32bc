"""Good multipliers for a box: cutting planes in a trust region.

Every path of a box is a plane under its dual function, whoever found it: those of the box around it come along, so that
a part needs few evaluations of its own. Whatever the planes say, a bound is what an evaluation gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mad_ip.lagrangian import passes, simplex
from mad_ip.lagrangian.kernels import compiled, inner
from mad_ip.lagrangian.passes import Relaxed, Traces
from mad_ip.lagrangian.program import Bound, Program, path_of
from mad_ip.lagrangian.tables import Floats

__all__ = ["EVALUATIONS", "Dual", "minimise"]

EVALUATIONS = 60
"""Evaluations of one box at most."""

_PRECISION = 1e-7
"""Relative gain, predicted, that is not worth an evaluation."""

_RADIUS = 0.1
"""First trust region, in natural steps."""

_FAR = 100.0
"""A region, in natural steps, that the best multipliers do not leave."""

_HOPELESS = 0.1
"""Share of what lies between target and bound below which a gain is not worth an evaluation: the split comes anyway."""

_BEST, _RADIUS_NOW, _FLOOR, _UNIT = 0, 1, 2, 3
"""Places of a search's numbers: the best bound, the radius, what no multipliers get below, and the unit."""

_PLANES, _TRACES, _LEFT, _AT = 0, 1, 2, 3
"""Places of its counts: planes, paths, evaluations left, and the best bound's path."""


@dataclass(frozen=True)
class Dual:
    """The best bound found, and the paths that keep it from being lower, with weights that add up to 1; ``heights`` are
    those of their planes at the best multipliers.
    """

    best: Bound
    traces: Traces
    weights: Floats
    heights: Floats

    def active(self, number: int, others: Traces | None = None) -> Traces:
        """So many of the paths at most, those whose planes are highest at the best multipliers first, after others."""
        order = np.argsort(self.heights, kind="stable")[::-1][:number]
        found = Traces(*(column[order] for column in self.traces))
        return found if others is None else Traces(*map(np.concatenate, zip(others, found, strict=True)))


def minimise(
    program: Program,
    start: Bound | None,
    known: Traces | None,
    *,
    target: float,
    evaluations: int = EVALUATIONS,
    stop: Callable[[], bool] = lambda: False,
) -> Dual:
    """Improve the multipliers until nothing is gained, the ``target`` is reached, or it is clear that it will not be.

    ``start`` has the first multipliers and tangents; ``known`` are paths, of which those in the box count. Every bound
    on the way is valid; ``stop`` ends it early.
    """
    search = _begun(program, start, program.traces(0) if known is None else known, evaluations)
    # A small box is done at once; between two evaluations of a large one there is time to ask.
    most = 0 if stop() else 1 if program.is_large else evaluations
    while _improve(search, target, most) and most > 0 and not stop():
        pass
    value, found = float(search.numbers[_BEST]), int(search.counts[_TRACES])
    path = path_of(search.traces.choices[search.counts[_AT]]) if value > -math.inf else None
    best = Bound(value, search.multipliers, tuple(search.tangents.tolist()), path)
    return Dual(
        best, Traces(*(column[:found] for column in search.traces)), search.weights[:found], search.heights[:found]
    )


class _Search(NamedTuple):
    """The planes as a linear program over ``x = start + scales z``: multipliers, and the prices of layers after them.

    Minimised is ``paths + penalty + total + floors``: ``paths`` is above the plane of every path, ``penalty`` above
    ``beta (b V - Q)`` at every spread looked at, ``total`` above ``nu`` times the ends of the range of the depths' sum,
    and the floor of a bounded segment above ``price D - mu phi(D)`` at every number of layers looked at. All values are
    in units of the bound at the start.

    It is solved by its dual: every plane is one of the ``columns``, with its constant as the profit, and the weights of
    the planes of each of those terms add up to 1. Two columns for every ``z``, the first of all, pay for what the
    gradients do not add up to zero, with the limits of ``z`` as profits. ``rows`` are the planes of the ``traces``;
    ``spreads`` and ``layers`` say what was looked at. Known paths come first; those that are in the box are kept.
    """

    box: Relaxed
    values: Any
    domains: Any
    least: Any
    start: Any
    scales: Any
    columns: Any
    profits: Any
    basis: Any
    prices: Any
    shares: Any
    traces: Traces
    rows: Any
    weights: Any
    heights: Any
    spreads: Any
    layers: Any
    multipliers: Any
    tangents: Any
    numbers: Any
    counts: Any


def _begun(program: Program, start: Bound | None, known: Traces, evaluations: int) -> _Search:
    """A search before its first evaluation."""
    multipliers, tangents = (program.start, program.tangents) if start is None else program.adopted(start)
    box, bounded, number = program.relaxed, len(tangents), len(known.worth) + evaluations + 1
    size, terms = len(multipliers) + bounded, 3 + bounded
    traces = program.traces(number)
    for column, given in zip(traces, known, strict=True):
        column[: len(given)] = given
    planes = 2 * size + 2 + 5 * bounded + number * (6 + bounded)
    # A layer is worth some units of log-width.
    prices = 5 * program.scales[box.budgets : box.budgets + bounded]
    return _Search(
        box,
        program.values,
        program.counts,
        np.append(program.relaxation.least, np.full(bounded, -np.inf)),
        np.zeros(size),
        np.append(program.scales, prices),
        np.zeros((planes, size + terms)),
        np.zeros(planes),
        np.zeros(size + terms, np.int64),
        np.zeros(size + terms),
        np.zeros(size + terms),
        traces,
        np.zeros(number, np.int64),
        np.zeros(number),
        np.zeros(number),
        np.zeros(len(box.variances), np.bool_),
        np.zeros(len(box.layers), np.bool_),
        np.array(multipliers, float),
        np.array(tangents, float),
        np.array([0.0, _RADIUS, -math.inf, 1.0]),
        np.array([0, len(known.worth), evaluations, 0]),
    )


@inner
def _point(search: _Search, point: Any) -> None:
    """The best multipliers, and the prices of layers after them."""
    number = len(search.multipliers)
    for i in range(number):
        point[i] = search.multipliers[i]
    for i in range(len(search.tangents)):
        mu = search.multipliers[search.box.budgets + i]
        point[number + i] = passes.per_layer(mu, search.tangents[i], search.box.log_ratio)


@inner
def _plane(search: _Search, gradient: Any, constant: float, which: int) -> None:
    """``t[which] >= constant + gradient x``, or 0 instead of ``t[which]`` where that is negative."""
    place, size, unit = search.counts[_PLANES], len(search.start), search.numbers[_UNIT]
    for i in range(size):
        search.columns[place, i] = gradient[i] * search.scales[i] / unit
        constant += gradient[i] * search.start[i]
    if which >= 0:
        search.columns[place, size + which] = 1.0
    search.profits[place] = constant / unit
    search.counts[_PLANES] += 1


@inner
def _select(search: _Search) -> None:
    """Keep those of the known paths that are in the box."""
    box, traces, counts, kept = search.box, search.traces, search.counts, 0
    for i in range(counts[_TRACES]):
        total = 0
        for s in range(box.penalised, box.end):
            total += traces.choices[i, s, 3]
        if box.first <= total <= box.last and passes.held(search.values, search.domains, traces.choices[i]):
            traces.choices[kept], traces.spent[kept] = traces.choices[i], traces.spent[i]
            traces.log_widths[kept], traces.worth[kept] = traces.log_widths[i], traces.worth[i]
            kept += 1
    counts[_TRACES] = kept


@inner
def _begin(search: _Search, value: float) -> None:
    """The planes of the known paths and of the ends of all ranges, after the first evaluation."""
    box, counts, number, size = search.box, search.counts, len(search.multipliers), len(search.start)
    search.numbers[_UNIT] = max(1.0, abs(value))
    _point(search, search.start)
    for i in range(size):
        # A multiplier that is large already changes by a share of it.
        search.scales[i] = max(search.scales[i], abs(search.start[i]))
        search.columns[i, i], search.columns[size + i, i] = -1.0, 1.0
    counts[_PLANES], gradient = 2 * size, np.zeros(size)
    for i in range(counts[_TRACES]):
        _add(search, i)
    for end in (box.first, box.last):
        gradient[number - 1] = end if box.beta > 0 else 0
        _plane(search, gradient, 0.0, 2)
    gradient[number - 1] = 0.0
    if box.beta == 0:
        _plane(search, gradient, 0.0, 1)
    for i in range(len(search.tangents)):
        begin, end = box.starts[i], box.starts[i + 1]
        for place in (begin, begin + (end - begin) // 2, end - 1):
            _look(search, i, place)
        # mu phi' at the fewest layers <= price <= mu phi' at the most: beyond, nothing is gained.
        for j, sign in enumerate((1.0, -1.0)):
            gradient[box.budgets + i] = sign * passes.per_layer(1.0, box.reach[i, j], box.log_ratio)
            gradient[number + i] = -sign
            _plane(search, gradient, 0.0, -1)
        gradient[box.budgets + i], gradient[number + i] = 0.0, 0.0


@inner
def _add(search: _Search, at: int) -> None:
    """The plane of a path: its value as a function of the multipliers and the prices of layers.

    Without what floors, the spread of the depths and the range of their sum add, which is the same for all paths.
    """
    box, traces, gradient = search.box, search.traces, np.zeros(len(search.start))
    choices, number = traces.choices[at], len(search.multipliers)
    gradient[: box.budgets] = 1.0 - traces.spent[at]
    layers, placed = 0.0, 0
    for s in range(len(choices)):
        layers += box.tables.layers[s] * choices[s, 3]
        if placed < len(box.bounded) and box.bounded[placed] == s:
            gradient[box.budgets + placed] = traces.log_widths[at, placed]
            gradient[number + placed] = -layers
            placed += 1
    if box.beta > 0:
        depths = choices[box.penalised : box.end, 3]
        stages, total = len(depths), depths.sum()
        chord = ((box.first + box.last) * total - box.first * box.last) / stages**2
        gradient[number - 2] = -box.beta * ((depths**2).sum() / stages - chord)
        gradient[number - 1] = -total
    search.rows[at] = search.counts[_PLANES]
    _plane(search, gradient, traces.worth[at], 0)


@inner
def _bend(search: _Search, multipliers: Any, tangents: Any) -> None:
    """The planes of the spreads and of the numbers of layers that matter at and around these multipliers."""
    box, number = search.box, len(multipliers)
    if box.beta > 0:
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            place = passes.penalty(box, multipliers[-2] * factor)
            if not search.spreads[place]:
                search.spreads[place] = True
                gradient = np.zeros(len(search.start))
                gradient[number - 2] = box.beta * box.variances[place]
                _plane(search, gradient, -box.beta * box.uniformities[place], 1)
    for i in range(len(tangents)):
        mu = multipliers[box.budgets + i]
        price = passes.per_layer(mu, tangents[i], box.log_ratio)
        found, most = box.starts[i], -np.inf
        for place in range(box.starts[i], box.starts[i + 1]):
            value = price * box.layers[place] - mu * box.floors[place]
            if value > most:
                found, most = place, value
        _look(search, i, found)


@inner
def _look(search: _Search, i: int, place: int) -> None:
    """The plane of a number of layers up to a bounded segment."""
    box = search.box
    if not search.layers[place]:
        search.layers[place] = True
        gradient = np.zeros(len(search.start))
        gradient[box.budgets + i], gradient[len(search.multipliers) + i] = -box.floors[place], box.layers[place]
        _plane(search, gradient, 0.0, 3 + i)


@inner
def _solve(search: _Search, radius: float) -> bool:
    """Find prices and shares within ``radius`` steps of the best multipliers, by the last basis, or by a new one where
    that is of no use any more; whether there are any.
    """
    size, planes, basis = len(search.start), search.counts[_PLANES], search.basis
    _point(search, search.prices)
    for i in range(size):
        place = (search.prices[i] - search.start[i]) / search.scales[i]
        search.profits[i] = max(place - radius, (search.least[i] - search.start[i]) / search.scales[i])
        search.profits[size + i] = -max(place + radius, search.profits[i])
    for again in range(2):
        if again:
            # A plane of every term, and of the columns of every z the one whose weight is not negative then.
            for term in range(size, len(basis)):
                basis[term] = 2 * size
                while search.columns[basis[term], term] == 0:
                    basis[term] += 1
            for i in range(size):
                gradient = 0.0
                for term in range(size, len(basis)):
                    gradient += search.columns[basis[term], i]
                basis[i] = i if gradient >= 0 else size + i
        if simplex.maximise(search.columns, search.profits, planes, basis, size, search.prices, search.shares):
            return True
    return False


@inner
def _step(search: _Search, multipliers: Any, tangents: Any) -> float:
    """The planes' value at the prices found, whose multipliers and tangents are written."""
    box, size, number, prices = search.box, len(search.start), len(multipliers), search.prices
    for i in range(size):
        z = min(max(-prices[i], search.profits[i]), -search.profits[size + i])
        x = max(search.start[i] + search.scales[i] * z, search.least[i])
        if i < number:
            multipliers[i] = x
            continue
        mu = multipliers[box.budgets + i - number]
        least = passes.per_layer(1.0, box.reach[i - number, 0], box.log_ratio)
        most = passes.per_layer(1.0, box.reach[i - number, 1], box.log_ratio)
        steep = min(max(x / mu, least), most) if mu > 0 else least
        tangents[i - number] = math.exp(steep - 1 + box.log_ratio)
    value = 0.0
    for i in range(size, len(prices)):
        value += prices[i]
    return value * search.numbers[_UNIT]  # type: ignore[no-any-return]


@compiled
def _improve(search: _Search, target: float, most: int) -> bool:
    """The first evaluation, and up to ``most`` others; whether more may help."""
    numbers, counts = search.numbers, search.counts
    multipliers, tangents = search.multipliers.copy(), search.tangents.copy()
    going, gain = True, 0.0
    while going and (most > 0 or counts[_PLANES] == 0):
        if counts[_PLANES] == 0:
            _select(search)
        else:
            most -= 1
            counts[_LEFT] -= 1
            best = numbers[_BEST]
            predicted = _step(search, multipliers, tangents) if _solve(search, numbers[_RADIUS_NOW]) else np.inf
            gain = best - predicted
            if gain < _PRECISION * abs(best):
                numbers[_RADIUS_NOW] *= 4
                going = numbers[_RADIUS_NOW] < 2 * _RADIUS and counts[_LEFT] > 0
                continue
            if predicted > target > -np.inf:
                # Once the planes alone keep the bound above the target, better multipliers only help to shrink the box.
                if numbers[_FLOOR] <= target and _solve(search, _FAR):
                    numbers[_FLOOR] = search.prices[len(search.start) :].sum() * numbers[_UNIT]
                if numbers[_FLOOR] > target and min(best - numbers[_FLOOR], 4 * gain) < _HOPELESS * (best - target):
                    going = False
                    continue
        value = passes.evaluate(search.box, multipliers, tangents, search.traces, counts[_TRACES])
        going = _learn(search, value, multipliers, tangents, gain) and numbers[_BEST] > target and counts[_LEFT] > 0
    if counts[_PLANES] > 0 and numbers[_BEST] > target:
        _weigh(search, _solve(search, _FAR))
    return going


@inner
def _learn(search: _Search, value: float, multipliers: Any, tangents: Any, gain: float) -> bool:
    """Take the planes of an evaluation, the first one or where a ``gain`` was predicted; whether more may help."""
    numbers, counts, at = search.numbers, search.counts, search.counts[_TRACES]
    first, best = counts[_PLANES] == 0, numbers[_BEST]
    if value > -np.inf:
        counts[_TRACES] += 1
        if first:
            search.weights[at] = 1.0
    if first or value < best - 0.1 * gain:
        numbers[_BEST], counts[_AT] = value, at
        search.multipliers[:], search.tangents[:] = multipliers, tangents
    if value == -np.inf or len(multipliers) == 0:
        return False
    if first:
        _begin(search, value)
    else:
        _add(search, at)
    _bend(search, multipliers, tangents)
    if first:
        return True
    if value < best - 0.1 * gain:
        numbers[_RADIUS_NOW] *= 2
        return True
    if value > best + gain:
        # A bound a little worse than the best has at least taught the planes; one that is much worse was too far.
        numbers[_RADIUS_NOW] *= 0.5
    return numbers[_RADIUS_NOW] >= 1e-5  # type: ignore[no-any-return]


@inner
def _weigh(search: _Search, solved: bool) -> None:
    """The weights with which the paths hold up the planes' minimum, which keep the budgets on average, and how high
    their planes are at the best multipliers.
    """
    number, size, total, at = search.counts[_TRACES], len(search.start), 0.0, search.prices
    _point(search, at)
    for i in range(number):
        row = search.rows[i]
        search.weights[i], search.heights[i] = 0.0, search.profits[row]
        for j in range(len(search.basis)):
            if search.basis[j] == row:
                search.weights[i] = max(0.0, search.shares[j])
        total += search.weights[i]
        for j in range(size):
            search.heights[i] += search.columns[row, j] * (at[j] - search.start[j]) / search.scales[j]
    for i in range(number):
        search.weights[i] = search.weights[i] / total if solved and total > 0 else (1.0 if i == number - 1 else 0.0)
