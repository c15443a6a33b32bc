"""The interfaces of solver backends, and the compilation of the Pyomo model to matrices."""

from __future__ import annotations

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mad_ip import __version__
from mad_ip.errors import InputError
from mad_ip.files import shown
from mad_ip.reader import Reader
from mad_ip.spec import Path, Spec

if TYPE_CHECKING:
    from scipy.sparse import csc_array

__all__ = [
    "Backend",
    "Findings",
    "Limits",
    "Outcome",
    "Problem",
    "Progress",
    "Search",
    "Solver",
    "Watch",
    "compile_model",
    "compile_named",
    "finite_or_infinity",
    "proven",
    "unknown_option",
]

Floats = NDArray[np.float64]
Status = Literal["optimal", "stopped", "infeasible"]


@dataclass(frozen=True)
class Problem:
    """``maximise cost x + offset`` subject to ``row_lower <= A x <= row_upper`` and bounds; some x integer.

    ``A`` has shape ``shape`` and is stored by columns: ``starts``, ``rows``, ``values``. ``start`` is a feasible point
    or ``None``. ``choices`` are disjoint sets of binary columns of which exactly one is 1; the rows imply it.
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
    choices: tuple[NDArray[np.int64], ...] = ()

    @property
    def matrix(self) -> csc_array:
        """``A`` as a sparse array."""
        # Only some solvers ask for it; a process of the others starts in half the time.
        from scipy.sparse import csc_array

        return csc_array((self.values, self.rows, self.starts), shape=self.shape)

    def scaled(self, factor: float) -> Problem:
        """With the objective times a factor, a power of two so that nothing is rounded."""
        return dataclasses.replace(self, cost=self.cost * factor, offset=self.offset * factor)

    def objective(self, point: Floats) -> float:
        """The objective at a point."""
        return float(self.cost @ point) + self.offset


@dataclass(frozen=True)
class Limits:
    """``gap`` is relative to the incumbent, ``seconds`` infinite without a time limit.

    ``top`` is how many of the best points are wanted; only the decomposition gives more than one.
    """

    gap: float
    seconds: float = math.inf
    threads: int = 1
    seed: int = 0
    top: int = 1


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
    """How a solve ended: ``bound`` is an upper bound on the objective, ``values`` the best point or ``None``.

    ``bound`` holds for the problem as given; ``rounding`` is the most by which rounded objective coefficients have
    raised it, 0 for a solver of floating-point numbers.
    """

    status: Status
    bound: float
    values: Floats | None
    nodes: int
    rounding: float = 0.0


@dataclass(frozen=True)
class Findings:
    """What a search knows, while it runs (``stopped``) or at its end: the best paths, the best first, and ``bound`` on
    the score of all designs that are not among them.
    """

    status: Status
    bound: float
    paths: tuple[Path, ...]
    nodes: int


class Backend(ABC):
    """What :class:`Solver` and :class:`Search` have in common; ``options`` are those of the profile ``source``.

    ``proves`` says whether the backend bounds the optimum at all, ``logs`` whether it appends what it does to the
    file ``log``, where that is not ``None``.
    """

    name: str
    version: str
    proves: bool = True
    logs: bool = False
    log: str | None = None

    def __init__(self, options: Mapping[str, Any], source: str = "options") -> None:
        self.options, self.source = dict(options), source


class Solver(Backend):
    """A solver of compiled models, ``title`` in a message; the values of its options must be ``allowed``."""

    title: str
    allowed: str = "one that its parameter allows"

    def apply_options(
        self, names: Collection[str], put: Callable[[str, Any], object], *refusals: type[Exception]
    ) -> None:
        """Set the options of the profile, all of these ``names``, by ``put``.

        Raises :class:`InputError` for another option, and where ``put`` raises an error of a bad value or one of
        ``refusals``.
        """
        refused: tuple[type[Exception], ...] = (TypeError, ValueError, OverflowError, *refusals)
        for key, value in self.options.items():
            where = f"{self.source}: options.{key} = {shown(value)}"
            if key not in names:
                raise unknown_option(where, self.title, key, names)
            if isinstance(value, str) and any(word in key.lower() for word in ("file", "prefix")):
                raise InputError(
                    f"{where}: would read or write a file; must be left out (--log writes the solver's log)"
                )
            try:
                put(key, value)
            except refused:
                raise InputError(f"{where}: {self.title} refuses the value; must be {self.allowed}") from None

    @abstractmethod
    def solve(self, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
        """Solve within the limits; ``optimal`` only when proven within their gap."""


class Search(Backend):
    """A method that finds designs of a spec by itself."""

    version = __version__

    def option(self, key: str) -> Reader:
        """The reader of the only option that there is; raise :class:`InputError` for another one."""
        for other, value in self.options.items():
            if other != key:
                raise unknown_option(f"{self.source}: options.{other} = {value!r}", self.name, other, [key])
        return Reader(self.source, self.options, None, prefix="options.")

    @abstractmethod
    def solve(self, spec: Spec, limits: Limits, watch: Callable[[Findings], bool]) -> Findings:
        """Search within the limits, until ``watch``, called now and then, is true; ``optimal`` only when proven."""


def proven(objective: float, bound: float, gap: float) -> bool:
    """Whether a bound is within a relative ``gap`` of an objective, up to a solver's tolerance of 1e-6."""
    return bound - objective <= max(gap, 1e-6) * max(1.0, abs(objective))


def finite_or_infinity(bound: float, infinity: float) -> float:
    """An upper bound, infinite where a solver says its own ``infinity`` or minus that."""
    return float(bound) if abs(bound) < infinity else math.inf


def unknown_option(where: str, solver: str, key: str, names: Iterable[str]) -> InputError:
    """The error for an option that a solver does not have, with the nearest ones that it has."""
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.0)
    return InputError(f"{where}: unknown to {solver}; the nearest names are {', '.join(near)}")


def compile_model(model: Any, *, start: bool) -> tuple[Problem, list[Any]]:
    """Compile a linear Pyomo model; return the problem and its variables in the order of the columns.

    With ``start``, the variables' present values become the start.
    """
    problem, columns, _ = compile_named(model, start=start)
    return problem, columns


def compile_named(model: Any, *, start: bool) -> tuple[Problem, list[Any], list[Any]]:
    """As :func:`compile_model`, and the constraints in the order of the rows."""
    # Only the process that models needs Pyomo and SciPy; the one that solves starts without them.
    import scipy.sparse
    from pyomo.repn.plugins import standard_form

    # What Pyomo has in its place loads most of SciPy; see mad_ip.formulation.
    standard_form.scipy = scipy
    form = standard_form.LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=None)
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
    return problem, columns, [row.constraint for row in form.rows]
