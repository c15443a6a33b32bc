"""A problem in integers, for solvers that know no others: rows are relaxed by their rounding, the objective is raised.

Column j is ``origin_j + unit_j k_j`` with an integer ``0 <= k_j <= most_j``; the unit of a continuous column is a power
of two. A point of the true problem becomes one of the integer problem by rounding its continuous columns: up where the
objective rewards them, down elsewhere. Since every ``k_j >= 0``, a coefficient is rounded down in ``G x <= h`` and up
in the objective, and ``h`` is raised by what the rounding of columns may add. No feasible point is cut off, and the
objective in integers is at least the true one, so that an upper bound on it is an upper bound on the problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from mad_ip.backends.base import Floats, Problem
from mad_ip.errors import InternalError

__all__ = ["IntegerProblem", "IntegerRow", "to_integers"]

Integers = NDArray[np.int64]

_OBJECTIVE_BITS = 60
"""The objective in integers stays below two to this power, and so do the rows: a signed 64-bit integer has 63."""

_MOST_BITS = 48
"""More bits would not make the bound better: its error is then some 1e-6 of one unit of score."""

_SAFETY = 1e-9
"""Bounds derived in floating point are widened by so much, relatively."""


@dataclass(frozen=True)
class IntegerRow:
    """``lower <= coefficients k[columns] <= upper``; a missing side is ``None``."""

    columns: Integers
    coefficients: Integers
    lower: int | None
    upper: int | None


@dataclass(frozen=True)
class IntegerProblem:
    """``maximise scale (cost k) + offset`` over ``rows`` and ``0 <= k <= most``.

    ``rounding`` is the most by which the rounded coefficients of the objective exceed the true ones at any point.
    """

    origin: Floats
    unit: Floats
    most: Integers
    rows: list[IntegerRow]
    cost: Integers
    scale: float
    offset: float
    rounding: float

    def values(self, k: Integers) -> Floats:
        """The point of the true problem's columns."""
        return self.origin + self.unit * k

    def rounded(self, point: Floats, problem: Problem) -> Integers:
        """The integer point that a point of the true problem becomes."""
        exact = (point - self.origin) / self.unit
        coarse = np.where(problem.cost > 0, np.ceil(exact), np.floor(exact))
        return np.clip(np.where(self.unit < 1, coarse, np.rint(exact)), 0, self.most).astype(np.int64)


def to_integers(problem: Problem) -> IntegerProblem:
    """Scale a problem whose lower bounds are finite; raise :class:`InternalError` when a column has no finite range."""
    matrix = problem.matrix.tocsr()
    matrix.eliminate_zeros()
    integer = problem.integer | _implied_integers(problem, matrix)
    switches = _switches(problem, matrix, integer)
    upper = _ranges(problem, matrix, switches)
    origin = np.where(problem.integer, np.ceil(problem.lower), problem.lower)
    width = np.maximum(0.0, upper - origin)

    total = float(np.abs(problem.cost) @ width)
    bits = min(_MOST_BITS, math.floor(_OBJECTIVE_BITS - math.log2(max(total, 1.0))))
    # Half of the bits for the columns, half for their coefficients.
    unit_bits = bits // 2
    unit = np.where(integer, 1.0, 2.0**-unit_bits)
    exact_cost = problem.cost * unit * 2.0**bits
    cost = np.ceil(exact_cost)
    most = np.where(integer, np.floor(width * (1 + _SAFETY)), np.ceil(width / unit))

    rows = []
    for row, (low, high) in enumerate(zip(problem.row_lower, problem.row_upper, strict=True)):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns, values = matrix.indices[entries], matrix.data[entries]
        rows += _integer_rows(columns, values, low, high, problem.cost > 0, origin, unit, most, switches, unit_bits)
    return IntegerProblem(
        origin=origin,
        unit=unit,
        most=most.astype(np.int64),
        rows=rows,
        cost=cost.astype(np.int64),
        scale=2.0**-bits,
        offset=problem.offset + float(problem.cost @ origin),
        rounding=float((cost - exact_cost) @ most) * 2.0**-bits,
    )


def _implied_integers(problem: Problem, matrix: csr_array) -> NDArray[np.bool_]:
    """Continuous columns that an equality makes an integer combination of integer columns."""
    implied = np.zeros(len(problem.integer), bool)
    for row in np.flatnonzero(problem.row_lower == problem.row_upper):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns, values = matrix.indices[entries], matrix.data[entries]
        (others,) = np.nonzero(~problem.integer[columns])
        whole = np.append(values, problem.row_upper[row])
        if len(others) == 1 and abs(values[others[0]]) == 1 and (whole == np.rint(whole)).all():
            implied[columns[others[0]]] = True
    return np.asarray(implied & (problem.lower == np.rint(problem.lower)))


def _switches(problem: Problem, matrix: csr_array, integer: NDArray[np.bool_]) -> dict[int, int]:
    """The binary column that is 1 wherever a continuous one is not 0, from rows ``a x - b y <= 0``."""
    switches = {}
    binary = integer & (problem.lower == 0) & (problem.upper == 1)
    for row in np.flatnonzero((np.diff(matrix.indptr) == 2) & (problem.row_upper == 0)):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        for (x, y), (a, b) in zip(
            (matrix.indices[entries], matrix.indices[entries][::-1]),
            (matrix.data[entries], matrix.data[entries][::-1]),
            strict=True,
        ):
            if not integer[x] and problem.lower[x] == 0 and binary[y] and a > 0 > b:
                switches[int(x)] = int(y)
    return switches


def _ranges(problem: Problem, matrix: csr_array, switches: dict[int, int]) -> Floats:
    """Finite upper bounds of all columns that cut off no optimum."""
    if not np.isfinite(problem.lower).all():
        raise InternalError("a problem can be written in integers only with finite lower bounds")
    upper = problem.upper.copy()
    # All rows as G x <= h.
    have_upper, have_lower = np.isfinite(problem.row_upper), np.isfinite(problem.row_lower)
    less = csr_array(vstack([matrix[have_upper], -matrix[have_lower]], format="csr"))
    limit = np.concatenate([problem.row_upper[have_upper], -problem.row_lower[have_lower]])
    by_column = less.tocsc()
    changed = True
    while changed and not np.isfinite(upper).all():
        changed = False
        opposite, unbounded = _largest(-less, problem, upper, switches)
        for j in np.flatnonzero(~np.isfinite(upper)):
            entries = slice(by_column.indptr[j], by_column.indptr[j + 1])
            rows, values = by_column.indices[entries], by_column.data[entries]
            # Where g_ij > 0, G x is smallest at the lower bound of x_j: what is left of h is the room above it.
            usable = (values > 0) & (unbounded[rows] == 0)
            room = limit[rows] + opposite[rows] + values * problem.lower[j]
            most = np.min((room / values)[usable], initial=math.inf)
            if math.isfinite(most):
                upper[j] = max(problem.lower[j], most + _SAFETY * max(1.0, abs(most)))
                changed = True
    largest, unbounded = _largest(less, problem, upper, switches)
    for j in np.flatnonzero(~np.isfinite(upper)):
        entries = slice(by_column.indptr[j], by_column.indptr[j + 1])
        rows, values = by_column.indices[entries], by_column.data[entries]
        # A column that only costs is never larger than the rows demand at their worst.
        if problem.cost[j] > 0 or (values > 0).any() or unbounded[rows].any():
            raise InternalError("a problem can be written in integers only with finite ranges")
        demand = (largest[rows] - values * problem.lower[j] - limit[rows]) / -values
        most = float(np.max(demand, initial=problem.lower[j]))
        upper[j] = most + _SAFETY * max(1.0, abs(most))
    return upper


def _largest(
    rows: csr_array, problem: Problem, upper: Floats, switches: dict[int, int]
) -> tuple[Floats, NDArray[np.int64]]:
    """The largest finite part of ``rows x``, and the number of columns without a bound in every row.

    Of a choice only one column is 1, and only the continuous columns that it switches on are not 0.
    """
    coo = rows.tocoo()
    finite = np.isfinite(upper)
    ends = np.where(coo.data > 0, np.where(finite, upper, 0.0)[coo.col], problem.lower[coo.col])
    unbounded = np.bincount(coo.row[(coo.data > 0) & ~finite[coo.col]], minlength=rows.shape[0])
    owner = np.arange(rows.shape[1])
    for column, switch in switches.items():
        owner[column] = switch
    parts = csr_array((coo.data * ends, (coo.row, owner[coo.col])), shape=rows.shape)
    parts.sum_duplicates()
    parts = parts.tocsc()
    chosen = np.zeros(rows.shape[1], bool)
    total = np.zeros(rows.shape[0])
    for choice in problem.choices:
        chosen[choice] = True
        total += np.maximum(0.0, parts[:, choice].max(axis=1).toarray().ravel())
    return total + parts[:, np.flatnonzero(~chosen)].sum(axis=1), unbounded


def _integer_rows(
    columns: Integers,
    values: Floats,
    low: float,
    high: float,
    rewarded: NDArray[np.bool_],
    origin: Floats,
    unit: Floats,
    most: Floats,
    switches: dict[int, int],
    unit_bits: int,
) -> list[IntegerRow]:
    """A row in integers: one where all is exact, else one for each side."""
    coarse = unit[columns] < 1
    wide = most[columns] > 1
    shift = float(values @ origin[columns])
    sides = [side for side in (low, high) if math.isfinite(side)]
    whole = np.concatenate([values, [side - shift for side in sides]])
    if not coarse.any() and (whole == np.rint(whole)).all():
        bounds = [None if not math.isfinite(side) else int(side - shift) for side in (low, high)]
        return [IntegerRow(columns.astype(np.int64), values.astype(np.int64), *bounds)]
    # In steps of the unit where that is exact for all columns but binary ones; else as fine as 64 bits allow.
    bits = unit_bits
    size = math.log2(max(1.0, float(np.abs(values) @ (most * unit)[columns]), *map(abs, sides)))
    if (values[wide] != np.rint(values[wide])).any():
        bits += unit_bits
    bits = min(bits, math.floor(_OBJECTIVE_BITS - size))
    rows = []
    for side, sign in ((high, 1.0), (low, -1.0)):
        if not math.isfinite(side):
            continue
        exact = sign * values * unit[columns] * 2.0**bits
        coefficients = np.floor(exact)
        limit = sign * (side - shift) * 2.0**bits
        if shift:
            limit += 1e-12 * (abs(side) + float(np.abs(values) @ np.abs(origin[columns]))) * 2.0**bits
        # Rounding a column up adds where its coefficient is positive, down where it is negative.
        added = np.where(coarse & (rewarded[columns] == (exact > 0)), np.ceil(np.abs(exact)), 0.0)
        extra: dict[int, float] = {}
        for column, amount in zip(columns[added > 0].tolist(), added[added > 0].tolist(), strict=True):
            switch = switches.get(column)
            if switch is None:
                limit += amount
            else:
                extra[switch] = extra.get(switch, 0.0) - amount
        rows.append(_merged(columns, coefficients, extra, math.floor(limit)))
    return rows


def _merged(columns: Integers, coefficients: Floats, extra: dict[int, float], limit: int) -> IntegerRow:
    """The row ``coefficients k <= limit`` with more coefficients for some columns."""
    together = dict(zip(columns.tolist(), coefficients.tolist(), strict=True))
    for column, amount in extra.items():
        together[column] = together.get(column, 0.0) + amount
    return IntegerRow(
        np.array(list(together), np.int64), np.array(list(together.values()), float).astype(np.int64), None, limit
    )
