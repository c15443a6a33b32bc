"""Attainable spreads of depths, the breakpoints of the depth penalty (docs/formulation.md, equation 2.8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mad_ip import entropy

__all__ = ["Window", "attainable_spreads"]


@dataclass(frozen=True)
class Window:
    """Attainable values of ``n^2 Var`` of the ``number`` penalised depths that an optimum can have, ascending.

    ``base`` is ``Q`` at the smallest of them: solvers minimise ``Q - base``, which stays small.
    """

    spreads: tuple[int, ...]
    number: int
    convention: str

    @property
    def uniformities(self) -> NDArray[np.float64]:
        """``Q`` at every value of the window."""
        return np.asarray(entropy.uniformity_of(np.array(self.spreads), self.number, self.convention))

    @property
    def base(self) -> float:
        """``Q`` at the smallest value."""
        return float(self.uniformities[0])


def attainable_spreads(domains: Sequence[Sequence[int]], most: float = math.inf) -> tuple[int, ...]:
    """All values of ``n^2 Var = n sum L^2 - (sum L)^2`` over a product of depth domains, ascending, up to ``most``."""
    sums = {(0, 0)}
    for domain in domains:
        sums = {(total + depth, squares + depth**2) for total, squares in sums for depth in domain}
    number = len(domains)
    spreads = {number * squares - total**2 for total, squares in sums}
    return tuple(sorted(spread for spread in spreads if spread <= most))
