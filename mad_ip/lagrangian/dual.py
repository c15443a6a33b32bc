"""Good multipliers for a box: cutting planes in a trust region.

Every path of a box is a plane under its dual function, whoever found it: those of the box around it come along, so that
a part needs few evaluations of its own. Whatever the planes say, a bound is what an evaluation gives.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from highspy._core import _Highs

from mad_ip.lagrangian.program import Bound, Program, Trace
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

_LOCAL = threading.local()


@dataclass(frozen=True)
class Dual:
    """The best bound found, and the paths that keep it from being lower, with weights that add up to 1."""

    best: Bound
    traces: tuple[Trace, ...]
    weights: Floats


def minimise(
    program: Program,
    start: Bound | None,
    known: Sequence[Trace],
    *,
    target: float,
    evaluations: int = EVALUATIONS,
    stop: Callable[[], bool] = lambda: False,
) -> Dual:
    """Improve the multipliers until nothing is gained, the ``target`` is reached, or it is clear that it will not be.

    ``start`` has the first multipliers and tangents, ``known`` are paths of the box. Every bound on the way is valid;
    ``stop`` ends it early.
    """
    if start is None:
        best = program.evaluate(program.start, program.tangents)
    else:
        best = program.evaluate(*program.adopted(start))
    if best.trace is None or best.value <= target or len(best.multipliers) == 0:
        traces = () if best.trace is None else (best.trace,)
        return Dual(best, traces, np.ones(len(traces)))
    master = _Master(program, best)
    for trace in (*known, best.trace):
        master.add(trace)
    radius = _RADIUS
    floor = -math.inf
    for _ in range(evaluations):
        if stop():
            break
        step, predicted = master.solve(best, radius)
        gain = best.value - predicted
        if gain < _PRECISION * abs(best.value):
            if radius >= _RADIUS / 2:
                break
            radius *= 4
            continue
        if predicted > target > -math.inf:
            # Once the planes alone keep the bound above the target, better multipliers only help to shrink the box.
            if floor <= target:
                _, floor = master.solve(best, _FAR)
            if floor > target and min(best.value - floor, 4 * gain) < _HOPELESS * (best.value - target):
                break
        trial = program.evaluate(*step)
        if trial.trace is None:
            best = trial
            break
        master.add(trial.trace)
        master.bend(*step)
        if trial.value < best.value - 0.1 * gain:
            radius *= 2
            best = trial
            if best.value <= target:
                break
        elif trial.value > best.value + gain:
            # A bound a little worse than the best has at least taught the planes; one that is much worse was too far.
            radius *= 0.5
            if radius < 1e-5:
                break
    return Dual(best, *master.active(best))


class _Master:
    """The planes as a linear program over ``x = start + scales z``: multipliers, and the prices of layers after them.

    Minimised is ``paths + penalty + total + floors``: ``paths`` is above the plane of every path, ``penalty`` above
    ``beta (b V - Q)`` at every spread looked at, ``total`` above ``nu`` times the ends of the range of the depths' sum,
    and the floor of a bounded segment above ``price D - mu phi(D)`` at every number of layers looked at. All values are
    in units of the bound at the start.
    """

    def __init__(self, program: Program, start: Bound) -> None:
        self.program = program
        self.number = len(start.multipliers)
        self.floors = program.floors
        self.first_mu = len(program.relaxation.budgets)
        self.start = program.point(start.multipliers, start.tangents)
        self.size = len(self.start)
        self.unit = max(1.0, abs(start.value))
        # A layer is worth some units of log-width; a multiplier that is large already changes by a share of it.
        prices = 5 * program.scales[self.first_mu : self.first_mu + len(self.floors)]
        self.scales = np.maximum(np.append(program.scales, prices), np.abs(self.start))
        self.least = np.append(program.relaxation.least, np.full(len(self.floors), -np.inf))
        self.traces: list[Trace] = []
        self.rows: list[int] = []
        self.looked: set[tuple[int, float]] = set()
        self.planes = 0
        free = np.full(3 + len(self.floors), highspy.kHighsInf)
        self.lp = _fresh()
        columns = self.size + len(free)
        self.columns = np.arange(columns, dtype=np.int32)
        self.lp.addVars(columns, np.append(np.zeros(self.size), -free), np.append(np.zeros(self.size), free))
        self.lp.changeColsCost(len(free), self.columns[self.size :], np.ones(len(free)))
        if program.relaxation.beta > 0:
            for end in (program.box.first, program.box.last):
                self._plane({self.number - 1: float(end)}, 0.0, 2)
        else:
            self._plane({}, 0.0, 1)
            self._plane({}, 0.0, 2)
        self.bend(start.multipliers, start.tangents)
        for s, (count, _) in enumerate(self.floors):
            for place in (0, len(count) // 2, len(count) - 1):
                self._look(s, place)
            # mu phi' at the fewest layers <= price <= mu phi' at the most: beyond, nothing is gained.
            for end, sign in zip(program.layer_ranges[s], (1.0, -1.0), strict=True):
                self._plane({self.first_mu + s: sign * program.per_layer(1.0, end), self.number + s: -sign}, 0.0, None)

    def _plane(self, gradient: dict[int, float], constant: float, which: int | None) -> None:
        row = np.zeros(self.size)
        for column, value in gradient.items():
            row[column] = value
        self._row(row, constant, which)

    def _row(self, gradient: Floats, constant: float, which: int | None) -> None:
        """``t[which] >= constant + gradient x``, or 0 instead of ``t[which]``."""
        row = np.zeros(len(self.columns))
        row[: self.size] = -gradient * self.scales / self.unit
        if which is not None:
            row[self.size + which] = 1.0
        value = (constant + float(gradient @ self.start)) / self.unit
        self.lp.addRow(value, highspy.kHighsInf, len(row), self.columns, row)
        self.planes += 1

    def add(self, trace: Trace) -> None:
        """The plane of a path."""
        self.traces.append(trace)
        self.rows.append(self.planes)
        self._row(*self.program.plane(trace), 0)

    def bend(self, multipliers: Floats, tangents: tuple[float, ...]) -> None:
        """The planes of the spreads and of the numbers of layers that matter at and around these multipliers."""
        beta = self.program.relaxation.beta
        if beta > 0:
            for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
                uniformity, variance = self.program.penalty(float(multipliers[-2]) * factor)
                if (-1, variance) not in self.looked:
                    self.looked.add((-1, variance))
                    self._plane({self.number - 2: beta * variance}, -beta * uniformity, 1)
        for s, (tangent, (count, floor)) in enumerate(zip(tangents, self.floors, strict=True)):
            mu = float(multipliers[self.first_mu + s])
            self._look(s, int(np.argmax(self.program.per_layer(mu, tangent) * count - mu * floor)))

    def _look(self, s: int, place: int) -> None:
        """The plane of a number of layers up to a bounded segment."""
        count, floor = (float(values[place]) for values in self.floors[s])
        if (s, count) not in self.looked:
            self.looked.add((s, count))
            self._plane({self.first_mu + s: -floor, self.number + s: count}, 0.0, 3 + s)

    def solve(self, centre: Bound, radius: float) -> tuple[tuple[Floats, tuple[float, ...]], float]:
        """The best multipliers and tangents within ``radius`` steps of those of a bound, and the planes' value."""
        at = (self.program.point(centre.multipliers, centre.tangents) - self.start) / self.scales
        low = np.maximum(at - radius, (self.least - self.start) / self.scales)
        high = np.maximum(at + radius, low)
        self.lp.changeColsBounds(self.size, self.columns[: self.size], low, high)
        self.lp.run()
        if self.lp.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return (centre.multipliers, centre.tangents), math.inf
        z = np.array(self.lp.getSolution().col_value[: self.size])
        value = float(self.lp.getInfo().objective_function_value) * self.unit
        x = np.maximum(self.start + self.scales * z, self.least)
        tangents = []
        mus = x[self.first_mu : self.first_mu + len(self.floors)]
        for ends, mu, price in zip(self.program.layer_ranges, mus, x[self.number :], strict=True):
            least, most = (self.program.per_layer(1.0, end) for end in ends)
            steep = min(max(price / mu, least), most) if mu > 0 else least
            tangents.append(math.exp(steep - 1 + self.program.relaxation.log_ratio))
        return (x[: self.number], tuple(tangents)), value

    def active(self, centre: Bound) -> tuple[tuple[Trace, ...], Floats]:
        """The paths, and the weights with which they hold up the planes' minimum: they keep the budgets on average."""
        self.solve(centre, _FAR)
        duals = np.abs(np.array(self.lp.getSolution().row_dual))
        if len(duals) < self.planes or not duals[self.rows].any():
            return tuple(self.traces), np.append(np.zeros(len(self.traces) - 1), 1.0)
        weights = duals[self.rows]
        return tuple(self.traces), weights / weights.sum()


def _fresh() -> Any:
    """This thread's solver of small linear programs, without a model."""
    if not hasattr(_LOCAL, "solver"):
        # The public class greets on standard output.
        _LOCAL.solver = _Highs()
        settings: dict[str, Any] = {"output_flag": False, "threads": 1, "solver": "simplex", "presolve": "off"}
        tolerances = dict.fromkeys(("primal_feasibility_tolerance", "dual_feasibility_tolerance"), 1e-10)
        for key, value in (settings | tolerances).items():
            _LOCAL.solver.setOptionValue(key, value)
    _LOCAL.solver.clearModel()
    return _LOCAL.solver
