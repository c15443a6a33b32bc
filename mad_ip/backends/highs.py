"""HiGHS through highspy: start, progress, interruption, and every option's status checked."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highspy
import numpy as np

from mad_ip.backends.base import Limits, Outcome, Problem, Progress, Solver, Watch, finite_or_infinity
from mad_ip.errors import InternalError

__all__ = ["Highs", "write_mps"]

_OK = highspy.HighsStatus.kOk
_ModelStatus = highspy.HighsModelStatus
_STOPPED = {
    _ModelStatus.kTimeLimit,
    _ModelStatus.kInterrupt,
    _ModelStatus.kSolutionLimit,
    _ModelStatus.kIterationLimit,
    _ModelStatus.kMemoryLimit,
    _ModelStatus.kUnknown,
}


class Highs(Solver):
    """The HiGHS branch-and-cut solver (MIT licence)."""

    name = "highs"
    title = "HiGHS"
    allowed = "one that its option list allows"
    logs = True
    version = importlib.metadata.version("highspy")

    def solve(self, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
        """Solve; see :class:`mad_ip.backends.base.Solver`.

        Raises :class:`InputError` when HiGHS refuses an option of the profile, :class:`InternalError` on an error.
        """
        # HiGHS keeps one pool of threads for the process and refuses another number of them afterwards.
        highspy.Highs.resetGlobalScheduler(True)
        solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        settings: dict[str, Any] = {
            "output_flag": self.log is not None,
            "log_to_console": False,
            "mip_rel_gap": limits.gap,
            "mip_abs_gap": 0.0,
            "threads": limits.threads,
            "random_seed": limits.seed % 2**31,
            "time_limit": max(0.0, limits.seconds),
        }
        if self.log is not None:
            settings["log_file"] = self.log
        for key, value in settings.items():
            _require(solver.setOptionValue(key, value), f"option {key} = {value}")

        def put(key: str, value: Any) -> None:
            if solver.setOptionValue(key, value) != _OK:
                raise ValueError(key)

        self.apply_options([name for name in dir(solver.getOptions()) if not name.startswith("_")], put)
        _require(solver.passModel(_highs_model(problem)), "the model")
        if problem.start is not None:
            solution = highspy.HighsSolution()
            solution.col_value = problem.start.tolist()
            _require(solver.setSolution(solution), "the start")

        def report(event: Any) -> None:
            data = event.data_out
            improving = event.callback_type == highspy.cb.HighsCallbackType.kCallbackMipImprovingSolution
            values = np.array(data.mip_solution) if improving else None
            bound = finite_or_infinity(data.mip_dual_bound, highspy.kHighsInf)
            if watch(Progress(bound, int(data.mip_node_count), values)) and not improving:
                event.interrupt()

        solver.cbMipInterrupt += report
        solver.cbMipImprovingSolution += report
        status = solver.run()
        if status == highspy.HighsStatus.kError:
            raise InternalError(f"HiGHS ended with an error ({solver.modelStatusToString(solver.getModelStatus())})")
        return _outcome(solver)


def write_mps(problem: Problem, columns: Sequence[str], rows: Sequence[str], path: Path) -> None:
    """Write a problem as an MPS file, with names for columns and rows, by HiGHS's own writer.

    Raises :class:`InternalError` when HiGHS refuses it.
    """
    model = _highs_model(problem)
    model.col_names_, model.row_names_ = list(columns), list(rows)
    solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    _require(solver.setOptionValue("output_flag", False), "option output_flag = False")
    _require(solver.passModel(model), "the model")
    _require(solver.writeModel(str(path)), f"the file {path}")


def _outcome(solver: Any) -> Outcome:
    status = solver.getModelStatus()
    info = solver.getInfo()
    nodes = int(info.mip_node_count)
    if status == _ModelStatus.kInfeasible:
        return Outcome("infeasible", -math.inf, None, nodes)
    feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    values = np.array(solver.getSolution().col_value) if feasible else None
    bound = finite_or_infinity(info.mip_dual_bound, highspy.kHighsInf)
    if status == _ModelStatus.kOptimal and values is not None:
        return Outcome("optimal", bound, values, nodes)
    if status in _STOPPED:
        return Outcome("stopped", bound, values, nodes)
    raise InternalError(f"HiGHS ended with the unexpected status {solver.modelStatusToString(status)}")


def _highs_model(problem: Problem) -> Any:
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = problem.shape
    lp.sense_ = highspy.ObjSense.kMaximize
    lp.col_cost_ = problem.cost
    lp.offset_ = problem.offset
    lp.col_lower_, lp.col_upper_ = problem.lower, problem.upper
    lp.row_lower_, lp.row_upper_ = problem.row_lower, problem.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = problem.starts
    lp.a_matrix_.index_ = problem.rows
    lp.a_matrix_.value_ = problem.values
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    lp.integrality_ = [kinds[int(integer)] for integer in problem.integer]
    return lp


def _require(status: Any, what: str) -> None:
    if status != _OK:
        raise InternalError(f"HiGHS refuses {what} ({status})")
