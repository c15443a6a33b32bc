"""The interface of a solver backend, and the compilation of the Pyomo model to matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "Limits", "Outcome", "Problem", "Progress", "Watch", "compile_model"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """``maximise cost x + offset`` subject to ``row_lower <= A x <= row_upper`` and bounds; some x integer.

    ``A`` has shape ``shape`` and is stored by columns: ``starts``, ``rows``, ``values``. ``start`` is a feasible point
    or ``None``.
    """

    cost: Floats
    offset: float
    shape: tuple[int, int]
    starts: NDArray[np.int32]
    rows: NDArray[np.int32]
    values: Floats
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    integer: NDArray[np.bool_]
    start: Floats | None

    def objective(self, point: Floats) -> float:
        """The objective at a point."""
        return float(self.cost @ point) + self.offset


@dataclass(frozen=True)
class Limits:
    """``gap`` is relative to the incumbent, ``seconds`` infinite without a time limit."""

    gap: float
    seconds: float = math.inf
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """What a running solver knows: its upper bound, infinite when there is none yet, and a new best point if any."""

    bound: float
    nodes: int
    values: Floats | None = None


Watch = Callable[[Progress], bool]
"""Called now and then during a solve; returning True asks the solver to stop."""


@dataclass(frozen=True)
class Outcome:
    """How a solve ended: ``bound`` is an upper bound on the objective, ``values`` the best point or ``None``."""

    status: Literal["optimal", "stopped", "infeasible"]
    bound: float
    values: Floats | None
    nodes: int


class Backend(Protocol):
    """A solver of compiled models."""

    name: str
    version: str

    def solve(self, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
        """Solve within the limits; ``optimal`` only when proven within their gap."""


def compile_model(model: Any, *, start: bool) -> tuple[Problem, list[Any]]:
    """Compile a linear Pyomo model; return the problem and its variables in the order of the columns.

    With ``start``, the variables' present values become the start.
    """
    # Only the process that models needs Pyomo; the one that solves starts without it.
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    form = LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=None)
    sense = np.array([row.bound_type for row in form.rows])
    columns = list(form.columns)
    bounds = [variable.bounds for variable in columns]
    problem = Problem(
        cost=form.c.toarray().ravel(),
        offset=float(form.c_offset[0]),
        shape=form.A.shape,
        starts=form.A.indptr.astype(np.int32),
        rows=form.A.indices.astype(np.int32),
        values=form.A.data,
        row_lower=np.where(sense <= 0, form.rhs, -np.inf),
        row_upper=np.where(sense >= 0, form.rhs, np.inf),
        lower=np.array([-np.inf if low is None else low for low, _ in bounds]),
        upper=np.array([np.inf if high is None else high for _, high in bounds]),
        integer=np.array([not variable.is_continuous() for variable in columns]),
        start=np.array([variable.value for variable in columns], float) if start else None,
    )
    return problem, columns
