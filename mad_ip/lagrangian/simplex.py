"""Small linear programs, solved again and again from the last basis: the simplex method, compiled.

Nothing depends on it but time: what it finds are multipliers, and those of any value give a valid bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mad_ip.lagrangian.kernels import compiled, inner

__all__ = ["maximise"]

_TOLERANCE = 1e-11
"""Excess of a profit that is worth a step, and the least pivot relative to 1, the magnitude of all data."""

_STEPS, _DANTZIG = 2_000, 200
"""Steps at most, and those after which the first column that pays is taken, which ends every cycle."""


@inner
def _invert(columns: Any, basis: Any, inverse: Any) -> bool:
    """The inverse of the matrix of some columns, by Gauss and Jordan with the largest pivots; whether there is one."""
    size = len(basis)
    matrix = np.empty((size, size))
    for i in range(size):
        for r in range(size):
            matrix[r, i] = columns[basis[i], r]
            inverse[r, i] = 1.0 if r == i else 0.0
    for i in range(size):
        pivot = i
        for r in range(i + 1, size):
            if abs(matrix[r, i]) > abs(matrix[pivot, i]):
                pivot = r
        if abs(matrix[pivot, i]) < _TOLERANCE:
            return False
        scale = 1 / matrix[pivot, i]
        for c in range(size):
            matrix[i, c], matrix[pivot, c] = matrix[pivot, c], matrix[i, c]
            inverse[i, c], inverse[pivot, c] = inverse[pivot, c], inverse[i, c]
            matrix[i, c], inverse[i, c] = matrix[i, c] * scale, inverse[i, c] * scale
        for r in range(size):
            factor = matrix[r, i]
            if r != i and factor != 0:
                for c in range(size):
                    matrix[r, c] -= factor * matrix[i, c]
                    inverse[r, c] -= factor * inverse[i, c]
    return True


@compiled
def maximise(columns: Any, profits: Any, number: int, basis: Any, free: int, prices: Any, weights: Any) -> bool:
    """Find the maximum of ``profits @ w`` over weights ``w >= 0`` of the first ``number`` columns whose weighted sum
    is 0 in the first ``free`` rows and 1 in the others; whether there is one.

    ``basis`` is where it starts, a feasible one, and where it ends; ``prices`` of the rows and ``weights`` of the basis
    are overwritten.
    """
    size = len(basis)
    inverse, along = np.empty((size, size)), np.empty(size)
    if not _invert(columns, basis, inverse):
        return False
    for i in range(size):
        weights[i] = inverse[i, free:].sum()
        if weights[i] < -1e-7:
            return False
    for step in range(_STEPS):
        for i in range(size):
            prices[i] = 0.0
            for r in range(size):
                prices[i] += profits[basis[r]] * inverse[r, i]
        entering, most = -1, _TOLERANCE
        for j in range(number):
            excess = profits[j]
            for i in range(size):
                excess -= columns[j, i] * prices[i]
            if excess > most:
                entering, most = j, excess
                if step > _DANTZIG:
                    break
        if entering < 0:
            return True
        leaving, length = -1, np.inf
        for i in range(size):
            along[i] = 0.0
            for r in range(size):
                along[i] += inverse[i, r] * columns[entering, r]
            if along[i] > 1e-9:
                ratio = max(weights[i], 0.0) / along[i]
                if ratio < length or (ratio == length and basis[i] < basis[leaving]):
                    leaving, length = i, ratio
        if leaving < 0:
            return False
        for i in range(size):
            weights[i] -= length * along[i]
            inverse[leaving, i] /= along[leaving]
        weights[leaving], basis[leaving] = length, entering
        for i in range(size):
            if i != leaving and along[i] != 0:
                for r in range(size):
                    inverse[i, r] -= along[i] * inverse[leaving, r]
    return False
