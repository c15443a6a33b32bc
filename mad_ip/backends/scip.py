"""SCIP through PySCIPOpt: start, progress, interruption, options by SCIP's own names.

SCIP's branch and cut runs on one thread, whatever the limits allow.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyscipopt

from mad_ip.backends.base import Floats, Limits, Outcome, Problem, Progress, Solver, Watch, finite_or_infinity, proven
from mad_ip.errors import InternalError

__all__ = ["Scip"]

_EVENTS = ("BESTSOLFOUND", "LPSOLVED", "NODESOLVED")
_INFINITY = 1e20


class Scip(Solver):
    """The SCIP branch-and-cut solver (Apache-2.0 licence)."""

    name = "scip"
    title = "SCIP"
    logs = True

    def __init__(self, options: Mapping[str, Any], source: str = "options") -> None:
        super().__init__(options, source)
        scip = pyscipopt.Model()
        self.version = f"{scip.getMajorVersion()}.{scip.getMinorVersion()}.{scip.getTechVersion()}"

    def solve(self, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
        """Solve; see :class:`mad_ip.backends.base.Solver`.

        Raises :class:`InputError` when SCIP refuses an option of the profile, :class:`InternalError` on an error.
        """
        scip = pyscipopt.Model()
        scip.setParams(
            {
                "limits/gap": limits.gap,
                "limits/time": min(max(0.0, limits.seconds), _INFINITY),
                "randomization/randomseedshift": limits.seed % 2**31,
                "misc/catchctrlc": False,
            }
        )
        # SCIP explains itself on the error stream, in several lines; they go through Python from now on.
        scip.redirectOutput()
        with contextlib.redirect_stderr(io.StringIO()):
            self.apply_options(scip.getParams(), scip.setParam, AttributeError)
        scip.hideOutput()
        if self.log is not None:
            scip.setLogfile(self.log)
        columns = _add(scip, problem)
        if problem.start is not None:
            start = scip.createSol()
            for column, value in zip(columns, problem.start.tolist(), strict=True):
                scip.setSolVal(start, column, value)
            scip.addSol(start)
        scip.includeEventhdlr(_Reporter(columns, watch), "report", "reports the incumbent and the bound")
        scip.optimize()
        return _outcome(scip, columns, problem, limits)


class _Reporter(pyscipopt.Eventhdlr):  # type: ignore[misc]
    """Tells ``watch`` what SCIP knows, and interrupts SCIP when it asks for it."""

    def __init__(self, columns: list[Any], watch: Watch) -> None:
        self.columns, self.watch = columns, watch

    def eventinit(self) -> None:
        for name in _EVENTS:
            self.model.catchEvent(getattr(pyscipopt.SCIP_EVENTTYPE, name), self)

    def eventexit(self) -> None:
        for name in _EVENTS:
            self.model.dropEvent(getattr(pyscipopt.SCIP_EVENTTYPE, name), self)

    def eventexec(self, event: Any) -> None:
        scip = self.model
        improving = event.getType() == pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND
        values = _values(scip, self.columns) if improving else None
        if self.watch(Progress(finite_or_infinity(scip.getDualbound(), _INFINITY), int(scip.getNTotalNodes()), values)):
            scip.interruptSolve()


def _add(scip: Any, problem: Problem) -> list[Any]:
    """Give SCIP the problem; return its columns."""
    columns = [
        scip.addVar(vtype="I" if integer else "C", lb=_side(lower), ub=_side(upper), obj=cost)
        for integer, lower, upper, cost in zip(
            problem.integer.tolist(),
            problem.lower.tolist(),
            problem.upper.tolist(),
            problem.cost.tolist(),
            strict=True,
        )
    ]
    scip.setMaximize()
    scip.addObjoffset(problem.offset)
    rows = problem.matrix.tocsr()
    for row, (lower, upper) in enumerate(zip(problem.row_lower.tolist(), problem.row_upper.tolist(), strict=True)):
        entries = slice(rows.indptr[row], rows.indptr[row + 1])
        terms = zip(rows.indices[entries].tolist(), rows.data[entries].tolist(), strict=True)
        total = pyscipopt.quicksum(value * columns[column] for column, value in terms)
        scip.addCons(pyscipopt.ExprCons(total, _side(lower), _side(upper)))
    return columns


def _side(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _values(scip: Any, columns: list[Any]) -> Floats:
    best = scip.getBestSol()
    return np.array([scip.getSolVal(best, column) for column in columns])


def _outcome(scip: Any, columns: list[Any], problem: Problem, limits: Limits) -> Outcome:
    status, nodes = scip.getStatus(), int(scip.getNTotalNodes())
    if status == "infeasible":
        return Outcome("infeasible", -math.inf, None, nodes)
    values = _values(scip, columns) if scip.getNSols() else None
    bound = finite_or_infinity(scip.getDualbound(), _INFINITY)
    if status in ("optimal", "gaplimit"):
        if values is None:
            raise InternalError(f"SCIP ended with the status {status} but without a solution")
        if proven(problem.objective(values), bound, limits.gap):
            return Outcome("optimal", bound, values, nodes)
    elif status in ("unbounded", "inforunbd"):
        raise InternalError(f"SCIP ended with the unexpected status {status}")
    return Outcome("stopped", bound, values, nodes)
