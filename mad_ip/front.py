"""A front: the proven optima of one spec along budgets that are swept, and what more of a budget is worth at each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mad_ip.cost import COSTS
from mad_ip.design import Design, relative_gap
from mad_ip.errors import InputError
from mad_ip.spec import Budget, Spec

if TYPE_CHECKING:
    import pandas

__all__ = ["BINDING", "Front", "Point", "Price", "Status", "limited", "reported", "step"]

BINDING = 0.01
"""A budget binds of which no larger share is left."""

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

    def to_pandas(self) -> pandas.DataFrame:
        """A row for every point, with the columns of front.csv but the files of the designs.

        Limits are in the units of design.json's metrics: bytes of activation and flash, nanoseconds of latency. Raises
        :class:`InputError` without pandas.
        """
        try:
            import pandas
        except ImportError:
            raise InputError(
                "a table of pandas needs pandas, which is not installed; pip install 'mad-ip[pandas]'"
            ) from None
        return pandas.DataFrame(list(self.rows()))

    def rows(self) -> Iterator[dict[str, Any]]:
        """What front.csv has of every point: its limits, score, bound, status, and what a unit of each limit is worth.

        Numbers are in the units of design.json's metrics: bytes of activation and flash, nanoseconds of latency.
        """
        for point in self.points:
            limits = point.spec.budget.given
            row: dict[str, Any] = {key: reported(key, limit) for key, limit in limits.items()}
            row["score"] = None if point.design is None else point.design.metrics.score
            row["bound"] = point.bound if math.isfinite(point.bound) else None
            row["status"] = point.status
            priced = {price.budget: price.multiplier for price in point.prices}
            for key in limits:
                price = priced.get(key)
                row[f"price_{key}"] = None if price is None else price * step(key)
            yield row

    def _repr_html_(self) -> str:
        from mad_ip.reports.notebook import as_html
        from mad_ip.reports.sweep import front_table

        return as_html(front_table(self))

    @property
    def proven(self) -> bool:
        """Whether every point is."""
        return all(point.status in ("optimal", "infeasible") for point in self.points)


def step(key: str) -> int:
    """How many units of a budget's cost one is of the unit that is reported."""
    return 1 if key == "effectiveness" else COSTS[key].step


def reported(key: str, amount: float) -> float:
    """An amount of a budget in the unit that metrics have; whole ones are integers."""
    value = amount if key == "effectiveness" else COSTS[key].reported(amount)
    return int(value) if float(value).is_integer() else value


def limited(spec: Spec, limits: Mapping[str, float]) -> Spec:
    """The spec with other limits, in the units of their costs, and the hash of the file that its ``to_toml`` makes.

    That file holds the device whole, and so no hash of a device.toml.
    """
    device = None if spec.device is None else dataclasses.replace(spec.device, sha256="")
    return dataclasses.replace(spec, budget=Budget(**{**spec.budget.given, **limits}), device=device, sha256="")
