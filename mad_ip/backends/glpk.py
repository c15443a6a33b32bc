"""GLPK through swiglpk, options by the names of its control parameters.

The wheel offers no callbacks: GLPK takes no start, reports no progress, and is interrupted only in a process of its
own. Its branch and bound has neither a seed nor threads.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import swiglpk as glpk

from mad_ip.backends.base import Limits, Outcome, Problem, Solver, Watch, proven, unknown_option
from mad_ip.errors import InputError, InternalError
from mad_ip.files import finite

__all__ = ["Glpk"]

_ALLOWED = {
    "br_tech": (1, 5),
    "bt_tech": (1, 4),
    "pp_tech": (0, 2),
    "tol_int": (1e-15, 0.99),
    "tol_obj": (1e-15, 0.99),
    "mip_gap": (0.0, math.inf),
    **dict.fromkeys(("presolve", "binarize"), (0, 1)),
    **dict.fromkeys(("fp_heur", "ps_heur", "sr_heur"), (0, 1)),
    **dict.fromkeys(("gmi_cuts", "mir_cuts", "cov_cuts", "clq_cuts"), (0, 1)),
}
"""Control parameters of the branch and bound and their ranges: GLPK ends the whole process on a value outside."""


class Glpk(Solver):
    """The GNU Linear Programming Kit (GPL-3.0 licence)."""

    name = "glpk"
    title = "GLPK"
    version = str(glpk.glp_version())

    def solve(self, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
        """Solve; see :class:`mad_ip.backends.base.Solver`. ``watch`` is never called.

        Raises :class:`InputError` when GLPK refuses an option of the profile, :class:`InternalError` on an error.
        """
        began = time.perf_counter()
        glpk.glp_term_out(glpk.GLP_OFF)
        control = glpk.glp_iocp()
        glpk.glp_init_iocp(control)
        control.mip_gap = limits.gap
        self._apply_options(control)
        model = _model(problem)
        try:
            simplex = glpk.glp_smcp()
            glpk.glp_init_smcp(simplex)
            simplex.presolve = glpk.GLP_ON
            simplex.tm_lim = _milliseconds(limits.seconds)
            code = glpk.glp_simplex(model, simplex)
            if code == glpk.GLP_ENOPFS or glpk.glp_get_status(model) == glpk.GLP_NOFEAS:
                return Outcome("infeasible", -math.inf, None, 0)
            if code == glpk.GLP_ETMLIM:
                return Outcome("stopped", math.inf, None, 0)
            if code or glpk.glp_get_status(model) != glpk.GLP_OPT:
                raise InternalError(f"GLPK did not solve the linear relaxation (code {code})")
            relaxed = glpk.glp_get_obj_val(model)
            control.tm_lim = _milliseconds(limits.seconds - (time.perf_counter() - began))
            code = glpk.glp_intopt(model, control)
            return _outcome(model, code, relaxed, control, problem, limits)
        finally:
            glpk.glp_delete_prob(model)

    def _apply_options(self, control: Any) -> None:
        for key, value in self.options.items():
            where = f"{self.source}: options.{key} = {value!r}"
            if key not in _ALLOWED:
                raise unknown_option(where, self.title, key, _ALLOWED)
            low, high = _ALLOWED[key]
            if not finite(value) or not low <= value <= high or (isinstance(low, int) and not isinstance(value, int)):
                kind = "an integer" if isinstance(low, int) else "a number"
                raise InputError(f"{where}: GLPK refuses the value; must be {kind} from {low} to {high}")
            setattr(control, key, value)


def _model(problem: Problem) -> Any:
    model = glpk.glp_create_prob()
    glpk.glp_set_obj_dir(model, glpk.GLP_MAX)
    rows, columns = problem.shape
    glpk.glp_add_rows(model, rows)
    glpk.glp_add_cols(model, columns)
    glpk.glp_set_obj_coef(model, 0, problem.offset)
    for row, (lower, upper) in enumerate(zip(problem.row_lower.tolist(), problem.row_upper.tolist(), strict=True), 1):
        glpk.glp_set_row_bnds(model, row, _kind(lower, upper), lower, upper)
    for column, (lower, upper) in enumerate(zip(problem.lower.tolist(), problem.upper.tolist(), strict=True), 1):
        glpk.glp_set_col_bnds(model, column, _kind(lower, upper), lower, upper)
        glpk.glp_set_col_kind(model, column, glpk.GLP_IV if problem.integer[column - 1] else glpk.GLP_CV)
        glpk.glp_set_obj_coef(model, column, float(problem.cost[column - 1]))
    matrix = problem.matrix.tocoo()
    count = len(matrix.data)
    # GLPK counts from 1, and its arrays have an unused first place.
    place, across, value = glpk.intArray(count + 1), glpk.intArray(count + 1), glpk.doubleArray(count + 1)
    entries = zip((matrix.row + 1).tolist(), (matrix.col + 1).tolist(), matrix.data.tolist(), strict=True)
    for index, (row, column, number) in enumerate(entries, 1):
        place[index], across[index], value[index] = row, column, number
    glpk.glp_load_matrix(model, count, place, across, value)
    return model


def _kind(lower: float, upper: float) -> int:
    if lower == upper:
        return int(glpk.GLP_FX)
    if math.isfinite(lower):
        return int(glpk.GLP_DB if math.isfinite(upper) else glpk.GLP_LO)
    return int(glpk.GLP_UP if math.isfinite(upper) else glpk.GLP_FR)


def _milliseconds(seconds: float) -> int:
    return int(min(max(0.0, seconds) * 1000, 2**31 - 1))


def _outcome(model: Any, code: int, relaxed: float, control: Any, problem: Problem, limits: Limits) -> Outcome:
    status = glpk.glp_mip_status(model)
    if code == 0 and status == glpk.GLP_NOFEAS:
        return Outcome("infeasible", -math.inf, None, 0)
    values = None
    if status in (glpk.GLP_OPT, glpk.GLP_FEAS):
        values = np.array([glpk.glp_mip_col_val(model, column + 1) for column in range(problem.shape[1])])
    if code in (0, glpk.GLP_EMIPGAP) and values is not None:
        objective = problem.objective(values)
        # Branches are cut off where they cannot be better than by the tolerance; the search ends at the gap.
        excess = control.tol_obj if code == 0 else control.mip_gap
        bound = min(relaxed, objective + excess * (1 + abs(objective)))
        return Outcome("optimal" if proven(objective, bound, limits.gap) else "stopped", bound, values, 0)
    if code == glpk.GLP_ETMLIM:
        return Outcome("stopped", relaxed, values, 0)
    raise InternalError(f"GLPK ended with the unexpected status {status} (code {code})")
