"""CP-SAT of OR-Tools: the problem in integers, start, progress, interruption, options by its own parameter names."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from ortools import __version__
from ortools.sat.python import cp_model

from mad_ip.backends.base import Limits, Outcome, Problem, Progress, Solver, Watch, proven
from mad_ip.backends.integers import IntegerProblem, to_integers
from mad_ip.errors import InputError, InternalError

__all__ = ["CpSat"]

_SAFETY = 1e-12
"""Relative error of writing an integer bound as a float."""


class CpSat(Solver):
    """The CP-SAT solver of OR-Tools (Apache-2.0 licence)."""

    name = "cpsat"
    title = "CP-SAT"
    allowed = "of its parameter's type"
    version = str(__version__)

    def solve(self, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
        """Solve; see :class:`mad_ip.backends.base.Solver`.

        Raises :class:`InputError` when CP-SAT refuses an option of the profile, :class:`InternalError` on an error.
        """
        solver = cp_model.CpSolver()
        parameters = solver.parameters
        parameters.num_workers = limits.threads
        parameters.random_seed = limits.seed % 2**31
        parameters.relative_gap_limit = limits.gap
        parameters.catch_sigint_signal = False
        if math.isfinite(limits.seconds):
            parameters.max_time_in_seconds = max(0.0, limits.seconds)
        names = [name for name in dir(parameters) if name.islower() and not name.startswith("_")]
        names = [name for name in names if not callable(getattr(parameters, name))]
        self.apply_options(names, functools.partial(setattr, parameters))
        integers = to_integers(problem)
        model, columns = _model(integers, problem)
        follower = _Follower(solver, integers, columns, watch)
        solver.best_bound_callback = follower.follow_bound
        status = solver.solve(model, follower)
        return self._outcome(solver, status, integers, follower, limits)

    def _outcome(
        self, solver: Any, status: Any, integers: IntegerProblem, follower: _Follower, limits: Limits
    ) -> Outcome:
        nodes, rounding = int(solver.num_branches), integers.rounding
        if status == cp_model.INFEASIBLE:
            return Outcome("infeasible", -math.inf, None, nodes, rounding)
        if status == cp_model.MODEL_INVALID:
            reason = solver.solution_info()
            if "parameter" in reason:
                raise InputError(f"{self.source}: options: CP-SAT refuses a value ({reason})")
            raise InternalError(f"CP-SAT refuses the problem in integers ({reason})")
        if status == cp_model.UNKNOWN:
            return Outcome("stopped", follower.bound, None, nodes, rounding)
        bound = _outward(float(solver.best_objective_bound))
        k = np.array([solver.value(column) for column in follower.columns], np.int64)
        # The rounded objective decides: the true one may be below it by the rounding.
        reached = proven(float(solver.objective_value), bound, limits.gap)
        optimal = status == cp_model.OPTIMAL and reached
        return Outcome("optimal" if optimal else "stopped", bound, integers.values(k), nodes, rounding)


class _Follower(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
    """Tells ``watch`` what CP-SAT finds and proves, and stops CP-SAT when it asks for it."""

    def __init__(self, solver: Any, integers: IntegerProblem, columns: list[Any], watch: Watch) -> None:
        super().__init__()
        self.solver, self.integers, self.columns, self.watch = solver, integers, columns, watch
        self.bound = math.inf

    def on_solution_callback(self) -> None:
        """A new best point."""
        k = np.array([self.value(column) for column in self.columns], np.int64)
        self.bound = min(self.bound, _outward(float(self.best_objective_bound)))
        self._tell(self.integers.values(k))

    def follow_bound(self, bound: float) -> None:
        """A new upper bound."""
        self.bound = min(self.bound, _outward(bound))
        self._tell(None)

    def _tell(self, values: Any) -> None:
        if self.watch(Progress(self.bound, 0, values)):
            self.solver.stop_search()


def _outward(bound: float) -> float:
    return bound + _SAFETY * abs(bound)


def _model(integers: IntegerProblem, problem: Problem) -> tuple[Any, list[Any]]:
    """The CP-SAT model and its columns; its objective is in the problem's own units."""
    model = cp_model.CpModel()
    columns = [model.new_int_var(0, most, "") for most in integers.most.tolist()]
    for row in integers.rows:
        total = cp_model.LinearExpr.weighted_sum([columns[j] for j in row.columns.tolist()], row.coefficients.tolist())
        low = cp_model.INT_MIN if row.lower is None else row.lower
        high = cp_model.INT_MAX if row.upper is None else row.upper
        model.add_linear_constraint(total, low, high)
    for choice in problem.choices:
        model.add_exactly_one(columns[j] for j in choice.tolist())
    paid = np.flatnonzero(integers.cost).tolist()
    model.maximize(cp_model.LinearExpr.weighted_sum([columns[j] for j in paid], integers.cost[paid].tolist()))
    objective = model.proto.objective
    objective.scaling_factor = -integers.scale
    objective.offset = -integers.offset / integers.scale
    if problem.start is not None:
        for column, value in zip(columns, integers.rounded(problem.start, problem).tolist(), strict=True):
            model.add_hint(column, value)
    return model, columns
