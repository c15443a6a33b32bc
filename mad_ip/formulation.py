"""The Pyomo model of the exact design problem; equation numbers are those of docs/formulation.md section 3.

Symbols: segment ``s`` (stem, stages, tail), option ``o``, pair ``p = (c_in, c)``, node ``c``; stage ``t``.

- ``x[s,o]``  binary, option o is taken;  ``y[s,p]`` binary, pair p is taken
- ``z[t,l]``  binary, stage t has depth l;  ``depth[t]`` that depth
- ``F[s,p]``  log-width carried into segment s through pair p;  ``S[s,c]`` log-width at node c after segment s
- ``layers``  counted layers up to a segment whose effectiveness is bounded
- ``w[i,j]``  at least ``(L_i - L_j)^2``;  ``q`` at least ``Q``

Every nonlinearity is absorbed in coefficients or piecewise linear with breakpoints at all attainable integer points,
so that the model is exact, not an approximation.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from mad_ip import entropy, paths
from mad_ip.catalogue import Catalogue, Options
from mad_ip.spec import Spec

# Where Pyomo finds any part of SciPy, it loads most of it, half a second and 50 MB; what it does not find, it loads
# when it needs it.
sys.modules.pop("scipy")
try:
    import pyomo.environ as pyo
    from pyomo.core.expr import LinearExpression
finally:
    sys.modules["scipy"] = scipy

__all__ = ["Formulation", "Window", "attainable_spreads"]

_BUDGET_SCALE = 1e4
"""Right-hand side of a budget row: a solver's absolute tolerance of 1e-7 is then 1e-11 of the budget."""

_NOTHING = 1e-8
"""What a budget's row leaves out, in its scale: solvers do the same, with a warning. It only admits more."""

_FLAT = 1e-9
"""A slope of the depth penalty that solvers leave out, with a warning. It only admits more."""

_EFFECTIVENESS_SLACK = 1e-9
"""Added to the right of an effectiveness row, in log-width, so that rounding cuts off no feasible design."""

_CARRIED_SLACK = 1e-6
"""Relative slack on the bounds of what is carried: with two rows nearer to each other than its tolerance, the presolve
of HiGHS 1.16 cut off the optimum.
"""


@dataclass(frozen=True)
class Window:
    """Attainable values of ``n^2 Var`` of the ``number`` penalised depths that an optimum can have, ascending: the
    breakpoints of the depth penalty (equation 2.8).

    ``base`` is ``Q`` at the smallest of them: solvers minimise ``Q - base``, which stays small.
    """

    spreads: tuple[int, ...]
    number: int
    convention: str

    @property
    def uniformities(self) -> NDArray[np.float64]:
        """``Q`` at every value of the window."""
        return np.asarray(entropy.uniformity_of(np.array(self.spreads), self.number, self.convention))

    @property
    def base(self) -> float:
        """``Q`` at the smallest value."""
        return float(self.uniformities[0])


def attainable_spreads(domains: Sequence[Sequence[int]], most: float = math.inf) -> tuple[int, ...]:
    """All values of ``n^2 Var = n sum L^2 - (sum L)^2`` over a product of depth domains, ascending, up to ``most``."""
    sums = {(0, 0)}
    for domain in domains:
        sums = {(total + depth, squares + depth**2) for total, squares in sums for depth in domain}
    number = len(domains)
    spreads = {number * squares - total**2 for total, squares in sums}
    return tuple(sorted(spread for spread in spreads if spread <= most))


class Formulation:
    """The model over a catalogue without empty segments.

    ``window`` holds the attainable spreads to model; ``None`` leaves the depth penalty out (beta = 0). ``unit`` is what
    a solver takes for a score of 1, so that the depth penalty's rows suit its tolerances as the objective does.
    """

    def __init__(self, catalogue: Catalogue, window: Window | None, unit: float = 1.0) -> None:
        self.catalogue = catalogue
        self.window = window
        self.unit = unit
        self.model = self._build()

    def _build(self) -> pyo.ConcreteModel:
        catalogue = self.catalogue
        spec, segments = catalogue.spec, catalogue.segments
        low, high = paths.carried_bounds(catalogue)
        model = pyo.ConcreteModel(name=spec.name)
        indices = range(len(segments))
        stages = [s for s, segment in enumerate(spec.segments) if segment.kind == "stage"]
        depths = {t: [int(depth) for depth in np.unique(segments[t].depth)] for t in stages}

        model.x = pyo.Var(_indexed(segments, len), domain=pyo.Binary)
        model.y = pyo.Var(_indexed(segments, lambda s: len(s.starts)), domain=pyo.Binary)
        model.z = pyo.Var([(t, depth) for t in stages for depth in depths[t]], domain=pyo.Binary)
        model.depth = pyo.Var(stages, bounds=lambda _, t: (depths[t][0], depths[t][-1]))
        model.F = pyo.Var([index for index in model.y if index[0] > 0], domain=pyo.NonNegativeReals)
        model.S = pyo.Var([(s, int(c)) for s in indices for c in segments[s].nodes], domain=pyo.NonNegativeReals)

        # (3.1) exactly one stem, and with (3.2), (3.3) exactly one path:  sum_o x[0,o] = 1
        model.one_path = pyo.Constraint(expr=_sum(model.x[0, o] for o in range(len(segments[0]))) == 1)

        # (3.2) y[s,p] = sum_{o in p} x[s,o]
        model.pair = pyo.Constraint(
            model.y.index_set(),
            rule=lambda m, s, p: m.y[s, p] == _sum(m.x[s, o] for o in _options(segments[s], p)),
        )

        # (3.3) sum_{p into c} y[s,p] = sum_{p out of c} y[s+1,p]
        links = [(s, int(c)) for s in indices[:-1] for c in segments[s].nodes]
        into = {(s, int(c)): _pairs(segments[s].pair_node, n) for s in indices for n, c in enumerate(segments[s].nodes)}
        out = {
            (s - 1, int(c)): _pairs(segments[s].pair_source, n)
            for s in indices[1:]
            for n, c in enumerate(segments[s].sources)
        }
        model.flow = pyo.Constraint(
            links,
            rule=lambda m, s, c: _sum(m.y[s, p] for p in into[s, c]) == _sum(m.y[s + 1, p] for p in out[s, c]),
        )

        # (3.4) z[t,l] = sum_{o: L_o = l} x[t,o],  depth[t] = sum_l l z[t,l]
        def depth_choice(m: Any, t: int, depth: int) -> Any:
            taken = np.flatnonzero(segments[t].depth == depth)
            return m.z[t, depth] == _sum(m.x[t, int(o)] for o in taken)

        model.depth_choice = pyo.Constraint(model.z.index_set(), rule=depth_choice)
        model.depth_value = pyo.Constraint(
            stages, rule=lambda m, t: m.depth[t] == _linear((m.z[t, depth], depth) for depth in depths[t])
        )

        # (3.5) S[s,c] = sum_{p into c} F[s,p] + sum_{o into c} sigma_o x[s,o]
        def log_width(m: Any, s: int, c: int) -> Any:
            options = np.flatnonzero(segments[s].c == c)
            terms = [(m.x[s, int(o)], float(segments[s].log_width[o])) for o in options]
            if s > 0:
                terms += [(m.F[s, p], 1.0) for p in into[s, c]]
            return m.S[s, c] == _linear(terms)

        model.log_width = pyo.Constraint(model.S.index_set(), rule=log_width)

        # (3.6) sum_{p out of c} F[s+1,p] = S[s,c]
        model.carry = pyo.Constraint(links, rule=lambda m, s, c: _sum(m.F[s + 1, p] for p in out[s, c]) == m.S[s, c])

        # (3.7) lo[s,p] y[s,p] <= F[s,p] <= hi[s,p] y[s,p]
        model.carry_least = pyo.Constraint(
            model.F.index_set(), rule=lambda m, s, p: m.F[s, p] >= (1 - _CARRIED_SLACK) * float(low[s][p]) * m.y[s, p]
        )
        model.carry_most = pyo.Constraint(
            model.F.index_set(), rule=lambda m, s, p: m.F[s, p] <= (1 + _CARRIED_SLACK) * float(high[s][p]) * m.y[s, p]
        )

        # (3.8) sum_s sum_o cost_o x[s,o] <= budget, in integers
        budgets = list(spec.budget.sums)
        model.budget = pyo.Constraint(budgets, rule=lambda m, budget: _budget_row(m, segments, spec, budget))

        # (3.9) S_s >= phi(D) at every attainable D, by the secants of the convex phi between consecutive ones
        ratio = spec.budget.effectiveness
        bounded = [s for s in indices if segments[s].segment.bounded and ratio is not None]
        attainable = _attainable_layers(segments)
        model.layers = pyo.Var(bounded, bounds=lambda _, s: (attainable[s][0], attainable[s][-1]))
        model.layer_count = pyo.Constraint(
            bounded,
            rule=lambda m, s: (
                m.layers[s]
                == _linear(
                    (m.x[r, o], float(count)) for r in range(s + 1) for o, count in enumerate(segments[r].layers)
                )
            ),
        )
        model.effectiveness = pyo.ConstraintList()
        for s in bounded:
            assert ratio is not None
            carried = _sum(model.S[s, int(c)] for c in segments[s].nodes)
            floors = [float(entropy.effectiveness_floor(d, ratio)) for d in attainable[s]]
            for slope, intercept in _secants(attainable[s], floors):
                model.effectiveness.add(carried >= slope * model.layers[s] + intercept - _EFFECTIVENESS_SLACK)

        penalty = self._penalty(model, depths)
        model.score = pyo.Objective(
            expr=_linear(
                (model.S[s, int(c)], float(gain))
                for s in indices
                for c, gain in zip(segments[s].nodes, segments[s].gain, strict=True)
                if segments[s].segment.weight > 0
            )
            + self._utility(model)
            - penalty,
            sense=pyo.maximize,
        )
        model.excluded = pyo.ConstraintList()
        return model

    def _utility(self, model: pyo.ConcreteModel) -> Any:
        """What the options are worth by themselves, (2.1a), about the middle of each segment's.

        A path takes one option of every segment, so that the middle is a constant: large ones that cancel do not reach
        a solver, whose tolerances are relative.
        """
        terms, constant = [], 0.0
        for s, options in enumerate(self.catalogue.segments):
            if options.segment.utility is not None:
                middle = float(options.utility.max() + options.utility.min()) / 2
                terms += [(model.x[s, o], float(worth - middle)) for o, worth in enumerate(options.utility)]
                constant += middle
        return _linear(terms) + constant

    def _penalty(self, model: pyo.ConcreteModel, depths: dict[int, list[int]]) -> Any:
        """Variables and constraints of ``beta Q`` (3.10)-(3.12); the expression to subtract from the entropy."""
        spec, window = self.catalogue.spec, self.window
        beta = spec.objective.depth_penalty
        if window is None:
            return 0.0
        stages = [s for s, segment in enumerate(spec.segments) if segment.penalised]
        pairs = list(itertools.combinations(stages, 2))
        model.w = pyo.Var(pairs, domain=pyo.NonNegativeReals)

        # (3.10) w[i,j] >= (L_i - L_j)^2 by secants between consecutive attainable differences
        model.square = pyo.ConstraintList()
        for i, j in pairs:
            differences = sorted({a - b for a in depths[i] for b in depths[j]})
            for slope, intercept in _secants(differences, [float(d**2) for d in differences]):
                model.square.add(model.w[i, j] >= slope * (model.depth[i] - model.depth[j]) + intercept)
        total = _sum(model.w[pair] for pair in pairs)
        spreads = list(window.spreads)
        excess = [float(value) for value in beta / self.unit * (window.uniformities - window.base)]

        # (3.11) the spread stays within the window
        if pairs:
            model.spread = pyo.Constraint(expr=total <= spreads[-1])
        if spec.convention == "paper":
            # (3.12) q >= beta exp(V) by secants between consecutive attainable spreads: convex and minimised
            model.q = pyo.Var(domain=pyo.NonNegativeReals)
            model.exponential = pyo.ConstraintList()
            for slope, intercept in _secants(spreads, excess):
                rise = slope * total if slope > _FLAT else 0.0
                model.exponential.add(model.q >= rise + intercept)
            return self.unit * model.q + beta * window.base
        # (3.12') exp(std) is not convex near 0: one attainable spread is chosen, at least the real one
        model.v = pyo.Var(range(len(spreads)), domain=pyo.Binary)
        model.one_spread = pyo.Constraint(expr=_sum(model.v.values()) == 1)
        if pairs:
            model.spread_choice = pyo.Constraint(expr=_linear(zip(model.v.values(), spreads, strict=True)) >= total)
        weighted = [self.unit * value for value in excess]
        return _linear(zip(model.v.values(), weighted, strict=True)) + beta * window.base

    def exclude(self, choice: Sequence[int]) -> None:
        """(3.13) Forbid one path, an option of every segment: at least one must change."""
        taken = _sum(self.model.x[s, int(o)] for s, o in enumerate(choice))
        self.model.excluded.add(taken <= len(choice) - 1)

    def path(self, columns: Sequence[Any], values: Sequence[float]) -> tuple[int, ...]:
        """The option of every segment that a solver's values of the variables ``columns`` take."""
        for variable, value in zip(columns, values, strict=True):
            variable.set_value(float(value), skip_validation=True)
        x = self.model.x
        sizes = [len(segment) for segment in self.catalogue.segments]
        return tuple(int(np.argmax([x[s, o].value for o in range(size)])) for s, size in enumerate(sizes))

    def assign(self, choice: Sequence[int]) -> None:
        """Give every variable the value it has on one path, an option of every segment, as a solver's start."""
        model, segments = self.model, self.catalogue.segments
        for variable in model.component_data_objects(pyo.Var):
            variable.set_value(0, skip_validation=True)
        carried, layers, depth = 0.0, 0, {}
        for s, (segment, option) in enumerate(zip(segments, choice, strict=True)):
            pair, c = int(segment.pair[option]), int(segment.c[option])
            model.x[s, option].set_value(1)
            model.y[s, pair].set_value(1)
            if s > 0:
                model.F[s, pair].set_value(carried)
            carried += float(segment.log_width[option])
            layers += int(segment.layers[option])
            model.S[s, c].set_value(carried)
            if s in model.layers:
                model.layers[s].set_value(layers)
            if s in model.depth:
                depth[s] = int(segment.depth[option])
                model.depth[s].set_value(depth[s])
                model.z[s, depth[s]].set_value(1)
        if self.window is None:
            return
        for i, j in model.w:
            model.w[i, j].set_value((depth[i] - depth[j]) ** 2)
        spread = entropy.spread([depth[s] for s in sorted(depth) if segments[s].segment.penalised])
        position = self.window.spreads.index(spread)
        if self.window.convention == "paper":
            beta = self.catalogue.spec.objective.depth_penalty
            model.q.set_value(beta / self.unit * float(self.window.uniformities[position] - self.window.base))
        else:
            model.v[position].set_value(1)


def _sum(variables: Iterable[Any]) -> Any:
    return _linear((variable, 1.0) for variable in variables)


def _linear(terms: Iterable[tuple[Any, Any]]) -> Any:
    """``sum coefficient * variable`` without the cost of building an expression tree."""
    pairs = list(terms)
    return LinearExpression(
        constant=0, linear_coefs=[float(c) for _, c in pairs], linear_vars=[variable for variable, _ in pairs]
    )


def _indexed(segments: Sequence[Options], number: Callable[[Options], int]) -> list[tuple[int, int]]:
    return [(s, index) for s, segment in enumerate(segments) for index in range(number(segment))]


def _options(segment: Options, pair: int) -> range:
    starts = segment.starts
    return range(int(starts[pair]), int(starts[pair + 1]) if pair + 1 < len(starts) else len(segment))


def _pairs(ends: NDArray[np.int64], node: int) -> list[int]:
    return [int(p) for p in np.flatnonzero(ends == node)]


def _attainable_layers(segments: Sequence[Options]) -> list[list[int]]:
    """For every segment, the attainable numbers of counted layers up to its end, ascending."""
    reached, attainable = {0}, []
    for segment in segments:
        reached = {total + int(layers) for total in reached for layers in np.unique(segment.layers)}
        attainable.append(sorted(reached))
    return attainable


def _secants(points: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
    """Slope and intercept of the secants of a convex function between consecutive points; a constant for one point."""
    if len(points) == 1:
        return [(0.0, values[0])]
    slopes = [(v - u) / (b - a) for a, b, u, v in zip(points, points[1:], values, values[1:], strict=False)]
    return [(slope, u - slope * a) for slope, a, u in zip(slopes, points, values, strict=False)]


def _budget_row(model: Any, segments: Sequence[Options], spec: Spec, budget: str) -> Any:
    limit = spec.budget.sums[budget]
    unit = _BUDGET_SCALE / limit
    terms = [
        (model.x[s, o], coefficient)
        for s, segment in enumerate(segments)
        for o, cost in enumerate(segment.costs[budget])
        if (coefficient := unit * float(cost)) > _NOTHING
    ]
    if not terms:
        return pyo.Constraint.Skip
    # Costs are integers: half a unit above the last admissible one, so that rounding cuts off no feasible design.
    return _linear(terms) <= unit * (math.floor(limit) + 0.5)
