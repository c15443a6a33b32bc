"""Gurobi through gurobipy: start, progress, interruption, options by Gurobi's own names.

The licence that pip installs with Gurobi is limited to models of 2,000 variables and 2,000 constraints.
"""

from __future__ import annotations

import math
from typing import Any

import gurobipy
import numpy as np
from gurobipy import GRB

from mad_ip.backends.base import Limits, Outcome, Problem, Progress, Solver, Watch, finite_or_infinity, proven
from mad_ip.errors import InputError, InternalError

__all__ = ["Gurobi"]

_STOPPED = {
    GRB.NODE_LIMIT,
    GRB.TIME_LIMIT,
    GRB.SOLUTION_LIMIT,
    GRB.INTERRUPTED,
    GRB.USER_OBJ_LIMIT,
    GRB.WORK_LIMIT,
    GRB.MEM_LIMIT,
    GRB.ITERATION_LIMIT,
    GRB.SUBOPTIMAL,
}


class Gurobi(Solver):
    """The Gurobi optimizer (commercial licence)."""

    name = "gurobi"
    title = "Gurobi"
    version = ".".join(map(str, gurobipy.gurobi.version()))

    def solve(self, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
        """Solve; see :class:`mad_ip.backends.base.Solver`.

        Raises :class:`InputError` when Gurobi refuses an option of the profile or its licence the problem,
        :class:`InternalError` on an error.
        """
        try:
            with gurobipy.Env(params={"OutputFlag": 0}) as environment, gurobipy.Model(env=environment) as model:
                return self._solve(model, problem, limits, watch)
        except gurobipy.GurobiError as error:
            if error.errno == GRB.Error.SIZE_LIMIT_EXCEEDED:
                rows, columns = problem.shape
                raise InputError(
                    f"{self.source}: backend = 'gurobi': its licence refuses a model of {columns} variables and "
                    f"{rows} constraints; the free one is limited to 2,000 of each"
                ) from None
            if error.errno == GRB.Error.NO_LICENSE:
                raise InputError(f"{self.source}: backend = 'gurobi': a licence is needed ({error})") from None
            raise InternalError(f"Gurobi ended with an error ({error})") from None

    def _solve(self, model: Any, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
        settings = {"MIPGap": limits.gap, "MIPGapAbs": 0.0, "Threads": limits.threads, "Seed": limits.seed % 2000000000}
        for key, value in settings.items():
            model.setParam(key, value)
        if math.isfinite(limits.seconds):
            model.setParam("TimeLimit", max(0.0, limits.seconds))
        names = [name for name in dir(GRB.Param) if not name.startswith("_")]
        self.apply_options(names, model.setParam, gurobipy.GurobiError)
        point = _add(model, problem)
        if problem.start is not None:
            point.Start = problem.start
        columns = point.tolist()

        def report(model: Any, where: int) -> None:
            if where == GRB.Callback.MIP:
                bound, nodes, values = GRB.Callback.MIP_OBJBND, GRB.Callback.MIP_NODCNT, None
            elif where == GRB.Callback.MIPSOL:
                bound, nodes = GRB.Callback.MIPSOL_OBJBND, GRB.Callback.MIPSOL_NODCNT
                values = np.array(model.cbGetSolution(columns))
            else:
                return
            known = finite_or_infinity(model.cbGet(bound), GRB.INFINITY)
            if watch(Progress(known, int(model.cbGet(nodes)), values)):
                model.terminate()

        model.optimize(report)
        return _outcome(model, point, problem, limits)


def _add(model: Any, problem: Problem) -> Any:
    """Give Gurobi the problem; return its columns."""
    point = model.addMVar(
        problem.shape[1],
        lb=problem.lower,
        ub=problem.upper,
        vtype=np.where(problem.integer, GRB.INTEGER, GRB.CONTINUOUS),
    )
    model.setObjective(problem.cost @ point + problem.offset, GRB.MAXIMIZE)
    matrix = problem.matrix.tocsr()
    equal = problem.row_lower == problem.row_upper
    for chosen, sense, side in (
        (equal, GRB.EQUAL, problem.row_upper),
        (~equal & np.isfinite(problem.row_upper), GRB.LESS_EQUAL, problem.row_upper),
        (~equal & np.isfinite(problem.row_lower), GRB.GREATER_EQUAL, problem.row_lower),
    ):
        if chosen.any():
            model.addMConstr(matrix[chosen], point, sense, side[chosen])
    return point


def _outcome(model: Any, point: Any, problem: Problem, limits: Limits) -> Outcome:
    status, nodes = model.Status, int(model.NodeCount)
    if status == GRB.INFEASIBLE:
        return Outcome("infeasible", -math.inf, None, nodes)
    values = np.array(point.X) if model.SolCount else None
    bound = finite_or_infinity(model.ObjBound, GRB.INFINITY)
    if status == GRB.OPTIMAL and values is not None:
        certain = proven(problem.objective(values), bound, limits.gap)
        return Outcome("optimal" if certain else "stopped", bound, values, nodes)
    if status in _STOPPED:
        return Outcome("stopped", bound, values, nodes)
    raise InternalError(f"Gurobi ended with the unexpected status {status}")
