"""A front: the proven optima of one spec along budgets that are swept, and what more of a budget is worth at each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mad_ip.design import Design, relative_gap
from mad_ip.spec import Budget, Spec

__all__ = ["Front", "Point", "Price", "Status", "limited"]

Status: TypeAlias = Literal["optimal", "feasible", "infeasible"]


@dataclass(frozen=True)
class Price:
    """What one more unit of a budget, in its cost's own unit, is worth at a point, in score.

    ``multiplier`` is that of the relaxation. ``smaller`` and ``larger`` are finite differences to the proven optima at
    the next smaller and the next larger limit. Each is ``None`` where it is not known.
    """

    budget: str
    multiplier: float | None
    smaller: float | None
    larger: float | None


@dataclass(frozen=True)
class Point:
    """One solve of a front: ``spec`` has the point's own budget, and ``name`` is the stem of its files' names.

    ``design`` is ``None`` where the budgets leave none, or where none was found in time. ``bound`` is an upper bound on
    the score, minus infinity where the point is infeasible.
    """

    name: str
    spec: Spec
    status: Status
    design: Design | None
    bound: float
    prices: tuple[Price, ...] = ()

    @property
    def gap(self) -> float:
        """Between the score and its bound, relative to the score's magnitude; infinite without a design."""
        return math.inf if self.design is None else relative_gap(self.design.metrics.score, self.bound)


@dataclass(frozen=True)
class Front:
    """The points of a sweep over the budgets ``over``, keys of a [budget], of each of which a point has a limit."""

    spec: Spec
    over: tuple[str, ...]
    points: tuple[Point, ...]

    @property
    def proven(self) -> bool:
        """Whether every point is."""
        return all(point.status in ("optimal", "infeasible") for point in self.points)


def limited(spec: Spec, limits: Mapping[str, float]) -> Spec:
    """The spec with other limits, in the units of their costs, and the hash of the file that its ``to_toml`` makes.

    That file holds the device whole, and so no hash of a device.toml.
    """
    device = None if spec.device is None else dataclasses.replace(spec.device, sha256="")
    return dataclasses.replace(spec, budget=Budget(**{**spec.budget.given, **limits}), device=device, sha256="")
