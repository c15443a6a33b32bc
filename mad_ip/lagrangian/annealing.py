"""A start for branch and bound: simulated annealing over the choices of a spec, by the tables of its relaxation.

It proves nothing. A step changes one choice or a few at random. What passes a budget is charged, and at first what it
spends of any budget has a price, by good multipliers: what a trade of one choice for another gains is then seen before
it fits. At its end a walk climbs over all changes of one choice or two. Equal seeds give equal paths.
"""

from __future__ import annotations

import bisect
import math
from typing import Any, NamedTuple

import numpy as np

from mad_ip.lagrangian.kernels import compiled, inner
from mad_ip.lagrangian.packed import Packed
from mad_ip.lagrangian.program import Bound, Relaxation
from mad_ip.lagrangian.tables import Integers
from mad_ip.spec import Choice, Path

__all__ = ["Annealer"]

_CHARGE = 0.7
"""Price of a budget's excess, in units of the score and of the budget: more than it is worth, but little more."""

_PRICED = 0.8
"""Share of the multipliers that a walk begins with as prices; it falls to nothing on the way."""

_SAME = 1e-12
"""Excess that rounding alone may show: far less than a MAC too many."""

_BEYOND = 1e-9
"""Excess beyond which a path is not asked about any more: far more than rounding shows."""

_SINGLE, _DOUBLE = 4, 2
"""Steps that a climb looks at in one choice, and in each of two."""


class _Space(NamedTuple):
    """The tables, and what they do not say: which segments are bounded and which penalised.

    ``root``: the depth penalty is that of the standard deviation.
    """

    tables: Packed
    bounded: Any
    penalised: Any
    log_ratio: float
    beta: float
    root: bool


class Annealer:
    """Walks over the tables of a relaxation."""

    def __init__(self, relaxation: Relaxation) -> None:
        self.relaxation = relaxation
        segments = relaxation.spec.segments
        self.axes = [(s.channels, s.mid, s.kernel, s.depth) for s in segments]
        self.space = _Space(
            tables=relaxation.tables,
            bounded=np.isin(np.arange(len(segments)), relaxation.bounded),
            penalised=np.array([segment.penalised for segment in segments]),
            log_ratio=float(relaxation.log_ratio),
            beta=float(relaxation.beta),
            root=relaxation.spec.convention == "tinynas",
        )

    def walk(self, start: Path, by: Bound, seed: int, steps: int, hot: float, cold: float, scale: float) -> Path:
        """What a climb from the best path met within the budgets ends at; without one, from the one least beyond.

        Prices are by the multipliers of ``by``. The temperatures ``hot`` and ``cold`` are relative to ``scale``, a
        score.
        """
        genes = self._genes(start)
        rows, number = self.space.tables.rows, len(self.relaxation.budgets)
        prices = np.zeros(rows + len(genes))
        prices[:number] = by.multipliers[:number]
        prices[[rows + s for s in self.relaxation.bounded]] = by.multipliers[number:][: len(by.tangents)]
        found = _walk(self.space, prices * _PRICED, genes, seed, steps, hot * scale, cold * scale, _CHARGE * scale)
        _climb(self.space, found)
        return tuple(
            Choice(*(values[at] for values, at in zip(axes, row, strict=True)))
            for axes, row in zip(self.axes, found.tolist(), strict=True)
        )

    def score(self, path: Path) -> float:
        """By the tables, minus infinity where a budget or a rule is broken by more than rounding shows."""
        return float(_score(self.space, self._genes(path)))

    def _genes(self, path: Path) -> Integers:
        """Where the choices of a path are in their domains (segments, 4)."""
        return np.array(
            [list(map(bisect.bisect_left, axes, choice)) for axes, choice in zip(self.axes, path, strict=True)]
        )


@inner
def _worth(genes: Any, space: _Space, prices: Any, spent: Any) -> tuple[float, float, float]:
    """Score and excess of an architecture, an infinite one where it breaks a rule, and what all it spends costs.

    ``prices`` are of every row of costs, and of the log-width that every segment wants for its effectiveness.
    """
    tables, beta = space.tables, space.beta
    at, real, whole, rows = tables.at, tables.real, tables.whole, tables.rows
    spent[:] = 0.0
    score, excess, paid = 0.0, 0.0, 0.0
    carried, count = 0.0, 0.0
    total, squares, number = 0.0, 0.0, 0
    source = 0
    for s in range(len(genes)):
        n, w, k, d = genes[s]
        sources, nodes, kernels, widths, _, entering = tables.shapes[s]
        pair, more = source * nodes + n, tables.depth[s, d] - 1
        if w < whole[at[s, 9] + pair] or w >= whole[at[s, 10] + pair]:
            return score, np.inf, 0.0
        inside = (n * kernels + k) * widths + w
        outside = (source * entering + min(k, entering - 1)) * widths + w
        for b in range(rows):
            spent[b] += (
                real[at[s, 0] + b * sources * nodes + pair]
                + real[at[s, 1] + b * sources * entering * widths + outside]
                + real[at[s, 2] + b * nodes * kernels * widths + inside]
                + more * real[at[s, 3] + b * nodes * kernels * widths + inside]
            )
        carried += real[at[s, 4] + source] + real[at[s, 5] + inside] + more * real[at[s, 6] + inside]
        count += tables.layers[s] * (more + 1)
        score += real[at[s, 7] + n] * carried + real[at[s, 8] + inside] + tables.depth_utility[s, d]
        if space.bounded[s]:
            # ln rho = ln D - S / D
            over = math.log(count) - carried / count - space.log_ratio
            excess += max(0.0, over)
            paid += prices[rows + s] * count * over
        if space.penalised[s]:
            total, squares, number = total + more + 1, squares + (more + 1) ** 2, number + 1
        source = n
    for b in range(rows):
        paid += prices[b] * (spent[b] - 1)
        if spent[b] > 1 + _SAME:
            excess += spent[b] - 1
    if beta > 0:
        variance = max(0.0, squares / number - (total / number) ** 2)
        score -= beta * math.exp(min(50.0, math.sqrt(variance) if space.root else variance))
    return score, excess, paid


@compiled
def _score(space: _Space, genes: Any) -> float:
    spent, free = np.zeros(space.tables.rows), np.zeros(space.tables.rows + len(genes))
    score, excess, _ = _worth(genes, space, free, spent)
    return score if excess <= _BEYOND else -np.inf


@compiled
def _walk(space: _Space, prices: Any, start: Any, seed: int, steps: int, hot: float, cold: float, charge: float) -> Any:
    state = np.uint64(seed * 2 + 1) * np.uint64(0x9E3779B97F4A7C15)
    here, trial, best = start.copy(), start.copy(), start.copy()
    spent = np.zeros(space.tables.rows)
    score, excess, paid = _worth(here, space, prices, spent)
    value, cost = score - charge * excess, paid
    best_score, best_excess = score, excess
    for step in range(steps):
        temperature, priced = hot * (cold / hot) ** (step / steps), 1 - step / steps
        trial[:] = here
        changes = 1
        change = 0
        while change < changes:
            # xorshift64: a few random bits for every decision.
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            bits = state >> np.uint64(11)
            s = np.int64(bits % np.uint64(len(start)))
            bits //= np.uint64(len(start))
            # Widths are tied to their neighbours' by the rules of the space: a change may move several at once.
            kind = np.int64(bits % np.uint64(6))
            bits //= np.uint64(6)
            if change == 0:
                changes = 1 + int(bits % np.uint64(3))
            bits //= np.uint64(3)
            change += 1
            first, end = (kind, kind + 1) if kind < 4 else (0, kind - 3)
            last: Any = s + 1 if kind < 4 else min(len(start), s + 1 + np.int64(bits % np.uint64(3)))
            bits //= np.uint64(3)
            # A step of a random magnitude: single ones, and up to a quarter of the domain.
            size = space.tables.shapes[s, (1, 3, 2, 4)[first]]
            reach = max(1, size >> int(np.uint64(2) + bits % np.uint64(7)))
            bits //= np.uint64(7)
            length = 1 + int((bits >> np.uint64(1)) % np.uint64(reach))
            for t in range(s, last):
                for axis in range(first, end):
                    at = trial[t, axis] + (length if bits % np.uint64(2) else -length)
                    trial[t, axis] = min(max(at, 0), space.tables.shapes[t, (1, 3, 2, 4)[axis]] - 1)
        score, excess, paid = _worth(trial, space, prices, spent)
        if excess == np.inf:
            continue
        other = score - charge * excess
        gain = other - value - priced * (paid - cost)
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        chance = float(state >> np.uint64(11)) / 9007199254740992.0
        if gain >= 0 or chance < math.exp(gain / temperature):
            here[:], value, cost = trial, other, paid
            if excess < best_excess or (excess == best_excess and score > best_score):
                best[:], best_score, best_excess = trial, score, excess
    return best


@compiled
def _climb(space: _Space, here: Any) -> None:
    """Move to the best of what one change of up to four steps or two of up to two give, until none is better.

    The least excess counts first, then the score.
    """
    spent = np.zeros(space.tables.rows)
    segments, axes = here.shape
    sizes = space.tables.shapes[:, np.array((1, 3, 2, 4))]
    free = np.zeros(space.tables.rows + segments)
    score, excess, _ = _worth(here, space, free, spent)
    best = here.copy()
    while True:
        best_score, best_excess = score, excess
        for i in range(segments * axes):
            s, x = i // axes, i % axes
            at = here[s, x]
            for first in range(max(0, at - _SINGLE), min(sizes[s, x], at + _SINGLE + 1)):
                here[s, x] = first
                for j in range(i, segments * axes if abs(first - at) <= _DOUBLE and first != at else i + 1):
                    t, y = j // axes, j % axes
                    other = here[t, y]
                    # Of two changes the second is of another choice; j = i stands for the first alone.
                    reach = 0 if j == i else _DOUBLE
                    for second in range(max(0, other - reach), min(sizes[t, y], other + reach + 1)):
                        if j > i and second == other:
                            continue
                        here[t, y] = second
                        trial_score, trial_excess, _ = _worth(here, space, free, spent)
                        if trial_excess < best_excess or (trial_excess == best_excess and trial_score > best_score):
                            best[:], best_score, best_excess = here, trial_score, trial_excess
                    here[t, y] = other
            here[s, x] = at
        if best_score == score and best_excess == excess:
            return
        here[:], score, excess = best, best_score, best_excess
