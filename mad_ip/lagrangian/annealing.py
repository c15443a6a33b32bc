"""A start for branch and bound: simulated annealing over the choices of a spec, by the tables of its relaxation.

It proves nothing. A step changes one choice or two at random; what passes a budget is charged. Equal seeds give equal
paths.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mad_ip.lagrangian.kernels import compiled
from mad_ip.lagrangian.program import Relaxation
from mad_ip.spec import Path

__all__ = ["Annealer"]

_CHARGE = 3.0
"""Price of a budget's excess, in units of the score and of the budget: about three times what it is worth."""

_ARRAYS = (
    *("pair", "entering", "opening", "again"),
    *("log_source", "log_opening", "log_again", "first_mid", "end_mid", "gain"),
)


class _Tables(NamedTuple):
    """All tables in one array, ``offsets`` (segments, arrays) in ``real``; ``shapes`` (S, N, K, W, L) of every segment.

    ``entering`` says how many kernels matter to what enters a segment; ``depth`` (segments, L) is padded. ``rows`` of
    costs are summed; ``root``: the depth penalty is that of the standard deviation.
    """

    real: Any
    offsets: Any
    shapes: Any
    entering: Any
    depth: Any
    layers: Any
    bounded: Any
    penalised: Any
    rows: int
    log_ratio: float
    beta: float
    root: bool


class Annealer:
    """The tables of a relaxation in one array, and walks over them."""

    def __init__(self, relaxation: Relaxation) -> None:
        self.relaxation = relaxation
        tables = relaxation.tables
        arrays = [np.ravel(getattr(table, key)).astype(float) for table in tables for key in _ARRAYS]
        sizes = np.array([len(array) for array in arrays])
        depth = np.zeros((len(tables), max(len(table.depth) for table in tables)))
        for row, table in zip(depth, tables, strict=True):
            row[: len(table.depth)] = table.depth
        self.tables = _Tables(
            real=np.concatenate(arrays),
            offsets=(np.cumsum(sizes) - sizes).reshape(-1, len(_ARRAYS)),
            shapes=np.array([(*t.pair.shape[1:], *t.opening.shape[2:], len(t.depth)) for t in tables]),
            entering=np.array([table.entering.shape[2] for table in tables]),
            depth=depth,
            layers=np.array([table.layers for table in tables]),
            bounded=np.array([table.bounded for table in tables]),
            penalised=np.array([segment.penalised for segment in relaxation.spec.segments]),
            rows=len(tables[0].pair),
            log_ratio=float(relaxation.log_ratio),
            beta=float(relaxation.beta),
            root=relaxation.spec.convention == "tinynas",
        )

    def walk(self, start: Path, seed: int, steps: int, hot: float, cold: float, scale: float) -> Path:
        """The best path met within the budgets, else the one least beyond.

        The temperatures ``hot`` and ``cold`` are relative to ``scale``, a score.
        """
        tables = self.relaxation.tables
        genes = np.array(
            [
                [np.searchsorted(values, value) for values, value in zip(table.axes, choice, strict=True)]
                for table, choice in zip(tables, start, strict=True)
            ]
        )
        found = _walk(self.tables, genes, seed, steps, hot * scale, cold * scale, _CHARGE * scale)
        return tuple(table.choice(*row) for table, row in zip(tables, found, strict=True))


@compiled
def _worth(genes: Any, tables: _Tables, spent: Any) -> tuple[float, float]:
    """Score and excess of an architecture; an infinite excess where it breaks a rule."""
    real, offsets, shapes, entering, depth = tables.real, tables.offsets, tables.shapes, tables.entering, tables.depth
    rows, beta = tables.rows, tables.beta
    spent[:] = 0.0
    score, excess = 0.0, 0.0
    carried, count = 0.0, 0.0
    total, squares, number = 0.0, 0.0, 0
    source = 0
    for s in range(len(genes)):
        n, w, k, d = genes[s]
        sources, nodes, kernels, widths, _ = shapes[s]
        at = source * nodes + n
        if w < real[offsets[s, 7] + at] or w >= real[offsets[s, 8] + at]:
            return score, np.inf
        e = min(k, entering[s] - 1)
        inner = (n * kernels + k) * widths + w
        outer = (source * entering[s] + e) * widths + w
        more = depth[s, d] - 1
        for b in range(rows):
            spent[b] += (
                real[offsets[s, 0] + b * sources * nodes + at]
                + real[offsets[s, 1] + b * sources * entering[s] * widths + outer]
                + real[offsets[s, 2] + b * nodes * kernels * widths + inner]
                + more * real[offsets[s, 3] + b * nodes * kernels * widths + inner]
            )
        carried += real[offsets[s, 4] + source] + real[offsets[s, 5] + inner] + more * real[offsets[s, 6] + inner]
        count += tables.layers[s] * depth[s, d]
        score += real[offsets[s, 9] + n] * carried
        if tables.bounded[s]:
            # ln rho = ln D - S / D
            excess += max(0.0, math.log(count) - carried / count - tables.log_ratio)
        if tables.penalised[s]:
            total, squares, number = total + depth[s, d], squares + depth[s, d] ** 2, number + 1
        source = n
    for b in range(rows):
        excess += max(0.0, spent[b] - 1)
    if beta > 0:
        variance = max(0.0, squares / number - (total / number) ** 2)
        score -= beta * math.exp(min(50.0, math.sqrt(variance) if tables.root else variance))
    return score, excess


@compiled
def _walk(tables: _Tables, start: Any, seed: int, steps: int, hot: float, cold: float, charge: float) -> Any:
    state = np.uint64(seed * 2 + 1) * np.uint64(0x9E3779B97F4A7C15)
    here, trial, best = start.copy(), start.copy(), start.copy()
    spent = np.zeros(tables.rows)
    score, excess = _worth(here, tables, spent)
    value = score - charge * excess
    best_score, best_excess = score, excess
    for step in range(steps):
        temperature = hot * (cold / hot) ** (step / steps)
        trial[:] = here
        changes = 1
        change = 0
        while change < changes:
            # xorshift64: a few random bits for every decision.
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            bits = state >> np.uint64(11)
            s = int(bits % np.uint64(len(start)))
            bits //= np.uint64(len(start))
            axis = int(bits % np.uint64(4))
            bits //= np.uint64(4)
            if change == 0:
                changes = 1 + int(bits % np.uint64(3))
            bits //= np.uint64(3)
            size = tables.shapes[s, (1, 3, 2, 4)[axis]]
            change += 1
            if size > 1:
                # A step of a random magnitude: single ones, and up to a quarter of the domain.
                reach = max(1, size >> int(np.uint64(2) + bits % np.uint64(7)))
                bits //= np.uint64(7)
                length = 1 + int((bits >> np.uint64(1)) % np.uint64(reach))
                at = trial[s, axis] + (length if bits % np.uint64(2) else -length)
                trial[s, axis] = min(max(at, 0), size - 1)
        score, excess = _worth(trial, tables, spent)
        if excess == np.inf:
            continue
        other = score - charge * excess
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        chance = float(state >> np.uint64(11)) / 9007199254740992.0
        if other >= value or chance < math.exp((other - value) / temperature):
            here[:], value = trial, other
            if excess < best_excess or (excess == best_excess and score > best_score):
                best[:], best_score, best_excess = trial, score, excess
    return best
