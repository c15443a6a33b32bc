"""Dynamic programs over the layered graph of channels: reachable minima, and bounds on what a path can carry.

A path takes one option in every segment, its channels linking them. A value that is a sum over the path's options is
optimised exactly, in one sweep forward and one backward (docs/formulation.md section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mad_ip import entropy
from mad_ip.catalogue import Catalogue, Floats, Options

__all__ = ["carried_bounds", "smallest_effectiveness", "within_budgets"]


@dataclass(frozen=True)
class _Sweep:
    """Largest sum of option values before each pair's source, within each pair, and after each pair's node."""

    before: list[Floats]
    within: list[Floats]
    after: list[Floats]


def _sweep(segments: Sequence[Options], prefix: Sequence[Floats], suffix: Sequence[Floats] | None = None) -> _Sweep:
    """Max-plus sweep; the options' values are ``prefix`` before a pair and ``suffix`` within and after it."""
    suffix = prefix if suffix is None else suffix
    forward = [_by_pair(segment, values) for segment, values in zip(segments, prefix, strict=True)]
    within = forward if suffix is prefix else [_by_pair(s, values) for s, values in zip(segments, suffix, strict=True)]
    before = [np.zeros(len(segments[0].starts))]
    for previous, segment, values in zip(segments[:-1], segments[1:], forward[:-1], strict=True):
        arriving = _at_nodes(previous.pair_node, len(previous.nodes), before[-1] + values)
        before.append(arriving[segment.pair_source])
    after = [np.zeros(len(segments[-1].starts))]
    for segment, following, values in zip(segments[-2::-1], segments[:0:-1], within[:0:-1], strict=True):
        leaving = _at_nodes(following.pair_source, len(following.sources), after[-1] + values)
        after.append(leaving[segment.pair_node])
    return _Sweep(before, within, after[::-1])


def _by_pair(segment: Options, values: Floats) -> Floats:
    return np.maximum.reduceat(values, segment.starts)


def _at_nodes(index: NDArray[np.int64], number: int, values: Floats) -> Floats:
    best = np.full(number, -np.inf)
    np.maximum.at(best, index, values)
    return best


def within_budgets(catalogue: Catalogue) -> Catalogue:
    """Drop the options that no path within each single linear budget takes; all, if none has the effectiveness."""
    for budget, limit in catalogue.spec.budget.sums.items():
        if catalogue.is_empty:
            continue
        values = _values(catalogue, budget, -1.0)
        sweep = _sweep(catalogue.segments, values)
        masks = []
        for index, segment in enumerate(catalogue.segments):
            rest = (sweep.before[index] + sweep.after[index])[segment.pair]
            # Integers, whose sums are exact below 2**53; above it nothing within a limit may be lost.
            masks.append(-(rest + values[index]) <= limit * (1 + 1e-12))
        catalogue = catalogue.keep(masks)
    ratio = catalogue.spec.budget.effectiveness
    if ratio is not None and not catalogue.is_empty:
        # Decided exactly here: a solver would accept, one by one, all paths that miss it by less than its tolerance.
        reachable = _attainable_effectiveness(catalogue, ratio * (1 + entropy.EFFECTIVENESS_TOLERANCE))
        if reachable is None:
            return catalogue.keep([np.zeros(len(segment), bool) for segment in catalogue.segments])
    return catalogue


def carried_bounds(catalogue: Catalogue, multipliers: int = 48) -> tuple[list[Floats], list[Floats]]:
    """For every pair of every segment, a lower and an upper bound on the log-width carried into it.

    The upper bound is the least over one-budget Lagrangians: for any ``price >= 0``, a path within the budget through
    the pair carries at most ``max (S - price cost) + price budget`` (docs/formulation.md section 4).
    """
    segments = catalogue.segments
    log_width = [segment.log_width for segment in segments]
    zero = [np.zeros(len(segment)) for segment in segments]
    low = [-values for values in _sweep(segments, [-values for values in log_width], zero).before]
    high = _sweep(segments, log_width, zero).before
    for budget, limit in catalogue.spec.budget.sums.items():
        cost = _values(catalogue, budget, 1.0 / limit)
        scale = max(float(np.max(values)) for values in high)
        for price in scale * np.geomspace(1e-3, 1e2, multipliers):
            costs = [-price * values for values in cost]
            sweep = _sweep(segments, [s + p for s, p in zip(log_width, costs, strict=True)], costs)
            for index in range(len(segments)):
                through = sweep.before[index] + sweep.within[index] + sweep.after[index]
                np.minimum(high[index], through + price, out=high[index])
    # Rounding in the sweeps must not cut off an attainable value.
    high = [np.maximum(upper * (1 + 1e-9), lower) for lower, upper in zip(low, high, strict=True)]
    return [values * (1 - 1e-9) for values in low], high


def smallest_effectiveness(catalogue: Catalogue) -> float:
    """The smallest ``rho`` of any architecture of a catalogue that is not empty, to 1e-9 relative.

    With a bound on ``rho``, the largest log-width for every channel and every number of layers decides exactly
    whether a path keeps it; bisection between attained values does the rest.
    """
    low, high = 0.0, _attainable_effectiveness(catalogue, math.inf)
    assert high is not None
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        attained = _attainable_effectiveness(catalogue, middle)
        if attained is None:
            low = middle
        else:
            high = attained
    return high


def _attainable_effectiveness(catalogue: Catalogue, bound: float) -> float | None:
    """The ``rho`` of some path with ``rho <= bound``, ``None`` when there is no such path."""
    total = 1 + sum(int(segment.layers.max()) for segment in catalogue.segments)
    # Axes: node, layers so far. Largest log-width, and the largest ratio passed on the way there.
    widest = np.full((1, total), -np.inf)
    widest[0, 0] = 0.0
    ratio = np.zeros((1, total))
    depth = np.arange(total)
    previous = catalogue.segments[0].sources
    for segment in catalogue.segments:
        after = np.full((len(segment.nodes), total), -np.inf)
        passed = np.zeros((len(segment.nodes), total))
        for layers in np.unique(segment.layers):
            chosen = segment.layers == layers
            shape = (len(segment.nodes), len(previous))
            sigma = np.full(shape, -np.inf)
            at = (np.searchsorted(segment.nodes, segment.c[chosen]), np.searchsorted(previous, segment.c_in[chosen]))
            np.maximum.at(sigma, at, segment.log_width[chosen])
            for source in range(shape[1]):
                arriving = widest[source, None, : total - layers] + sigma[:, source, None]
                better = arriving > after[:, layers:]
                after[:, layers:][better] = arriving[better]
                origin = np.broadcast_to(ratio[source, None, : total - layers], arriving.shape)
                passed[:, layers:][better] = origin[better]
        if segment.segment.bounded:
            with np.errstate(divide="ignore"):
                here = entropy.ratio(np.maximum(depth, 1), after)
            after[here > bound] = -np.inf
            passed = np.maximum(passed, here)
        widest, ratio, previous = after, passed, segment.nodes
    attained = ratio[np.isfinite(widest)]
    return float(attained.min()) if len(attained) else None


def _values(catalogue: Catalogue, budget: str, factor: float) -> list[Floats]:
    return [factor * options.costs[budget].astype(float) for options in catalogue.segments]
