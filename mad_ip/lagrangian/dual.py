"""Good multipliers for a box: cutting planes in a trust region.

Every path of a box is a plane under its dual function, whoever found it: those of the box around it come along, so that a
part needs few evaluations of its own. Whatever the planes say, a bound is what an evaluation gives.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from highspy.highs import _Highs

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
"""Share of what lies between target and bound below which a gain is not worth an evaluation: the box is split anyway."""

_LOCAL = threading.local()


@dataclass(frozen=True)
class Dual:
    """The best bound found, and the paths that keep it from being lower, with weights that add up to 1."""

    best: Bound
    traces: tuple[Trace, ...]
    weights: Floats


def minimise(
    program: Program,
    start: Floats,
    known: Sequence[Trace],
    *,
    target: float,
    evaluations: int = EVALUATIONS,
    stop: Callable[[], bool] = lambda: False,
) -> Dual:
    """Improve the multipliers until nothing is gained, the ``target`` is reached, or it is clear that it will not be.

    ``known`` are paths of the box. Every bound on the way is valid; ``stop`` ends it early.
    """
    best = program.evaluate(start)
    if best.trace is None or best.value <= target or len(start) == 0 or evaluations == 0:
        traces = () if best.trace is None else (best.trace,)
        return Dual(best, traces, np.ones(len(traces)))
    master = _Master(program, best)
    for trace in (*known, best.trace):
        master.add(trace)
    master.bend(float(start[-2]) if program.relaxation.beta > 0 else 0.0)
    radius = _RADIUS
    floor = -math.inf
    for _ in range(evaluations):
        if stop():
            break
        step, predicted = master.solve(best.multipliers, radius)
        gain = best.value - predicted
        if gain < _PRECISION * abs(best.value):
            if radius >= _RADIUS / 2:
                break
            radius *= 4
            continue
        if predicted > target > -math.inf:
            # Once the planes alone keep the bound above the target, better multipliers only help to shrink the box.
            if floor <= target:
                _, floor = master.solve(best.multipliers, _FAR)
            if floor > target and min(best.value - floor, 4 * gain) < _HOPELESS * (best.value - target):
                break
        trial = program.evaluate(step, best.tangents)
        if trial.trace is None:
            best = trial
            break
        master.add(trial.trace)
        master.bend(float(step[-2]) if program.relaxation.beta > 0 else 0.0)
        if trial.value < best.value - 0.1 * gain:
            if trial.value < best.value - 0.6 * gain:
                radius *= 2
            best = trial
            if best.value <= target:
                break
        else:
            radius *= 0.5
            if radius < 1e-5:
                break
    return Dual(best, *master.active(best.multipliers, radius))


class _Master:
    """The planes as a linear program: least ``paths + penalty + total`` over the multipliers, which are ``start + scales z``.

    ``paths`` is above the plane of every path, ``penalty`` above ``beta (b V - Q)`` at every spread looked at, ``total``
    above ``nu`` times the ends of the range of the depths' sum. All values are in units of the bound at the start.
    """

    def __init__(self, program: Program, start: Bound) -> None:
        self.program, self.start = program, start
        self.size = len(start.multipliers)
        self.unit = max(1.0, abs(start.value))
        self.scales, self.least = program.scales, program.relaxation.least
        self.traces: list[Trace] = []
        self.rows: list[int] = []
        self.spreads: set[float] = set()
        self.number = 0
        free = np.full(3, highspy.kHighsInf)
        self.lp = _fresh()
        columns = self.size + 3
        self.columns = np.arange(columns, dtype=np.int32)
        self.lp.addVars(columns, np.append(np.zeros(self.size), -free), np.append(np.zeros(self.size), free))
        self.lp.changeColsCost(3, self.columns[self.size :], np.ones(3))
        if program.relaxation.beta > 0:
            for end in (program.box.first, program.box.last):
                self._row(np.append(np.zeros(self.size - 1), end), 0.0, 2)
        else:
            self._row(np.zeros(self.size), 0.0, 1)
            self._row(np.zeros(self.size), 0.0, 2)

    def _row(self, gradient: Floats, constant: float, which: int) -> None:
        """``t[which] >= constant + gradient x``."""
        row = np.zeros(self.size + 3)
        row[: self.size] = -gradient * self.scales / self.unit
        row[self.size + which] = 1.0
        value = (constant + float(gradient @ self.start.multipliers)) / self.unit
        self.lp.addRow(value, highspy.kHighsInf, len(row), self.columns, row)
        self.number += 1

    def add(self, trace: Trace) -> None:
        """The plane of a path."""
        self.traces.append(trace)
        self.rows.append(self.number)
        self._row(*self.program.plane(trace, self.start.tangents), 0)

    def bend(self, curvature: float) -> None:
        """The planes of the spreads that matter at and around a curvature."""
        if self.program.relaxation.beta == 0:
            return
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            uniformity, variance = self.program.penalty(curvature * factor)
            if variance not in self.spreads:
                self.spreads.add(variance)
                gradient = np.zeros(self.size)
                gradient[-2] = self.program.relaxation.beta * variance
                self._row(gradient, -self.program.relaxation.beta * uniformity, 1)

    def solve(self, centre: Floats, radius: float) -> tuple[Floats, float]:
        """The best multipliers within ``radius`` natural steps around ``centre``, and what the planes say there."""
        at = (centre - self.start.multipliers) / self.scales
        low = np.maximum(at - radius, (self.least - self.start.multipliers) / self.scales)
        high = np.maximum(at + radius, low)
        self.lp.changeColsBounds(self.size, self.columns[: self.size], low, high)
        self.lp.run()
        if self.lp.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return centre, math.inf
        z = np.array(self.lp.getSolution().col_value[: self.size])
        value = float(self.lp.getInfo().objective_function_value) * self.unit
        return np.maximum(self.start.multipliers + self.scales * z, self.least), value

    def active(self, centre: Floats, radius: float) -> tuple[tuple[Trace, ...], Floats]:
        """The paths, and the weights with which they hold up the planes' minimum around a centre."""
        self.solve(centre, radius)
        duals = np.abs(np.array(self.lp.getSolution().row_dual))
        if len(duals) < self.number or not duals[self.rows].any():
            return tuple(self.traces), np.append(np.zeros(len(self.traces) - 1), 1.0)
        weights = duals[self.rows]
        return tuple(self.traces), weights / weights.sum()


def _fresh() -> Any:
    """This thread's solver of small linear programs, without a model."""
    if not hasattr(_LOCAL, "solver"):
        # The public class greets on standard output.
        _LOCAL.solver = _Highs()
        settings: dict[str, Any] = {
            "output_flag": False,
            "threads": 1,
            "solver": "simplex",
            "presolve": "off",
            "primal_feasibility_tolerance": 1e-10,
            "dual_feasibility_tolerance": 1e-10,
        }
        for key, value in settings.items():
            _LOCAL.solver.setOptionValue(key, value)
    _LOCAL.solver.clearModel()
    return _LOCAL.solver
