"""Why a design is what it is: which budgets bind and what more of them is worth, and what a change of one choice does.

Nothing here is part of a proof. Costs and scores of changed architectures are exact; prices are those of
``mad_ip.prices`` and of proven optima with limits nearby.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mad_ip.cost import COSTS
from mad_ip.design import EFFECTIVENESS_TOLERANCE, Design, violations
from mad_ip.errors import InputError
from mad_ip.front import BINDING, Price, reported, step
from mad_ip.prices import multipliers
from mad_ip.search import Population
from mad_ip.solve import Report
from mad_ip.spec import Spec
from mad_ip.utility import AXES

__all__ = ["Change", "Explanation", "Spending", "explain"]

_NEAR = 0.01
"""Share of a limit by which neighbouring optima have more or less."""


@dataclass(frozen=True)
class Spending:
    """What a design takes of a budget, in the unit of its cost: in all, and in each segment of a sum."""

    budget: str
    limit: float
    spent: float
    segments: tuple[tuple[str, int], ...]
    price: Price

    @property
    def left(self) -> float:
        """Share of the limit that is left."""
        return (self.limit - self.spent) / self.limit

    @property
    def binds(self) -> bool:
        """Whether next to nothing is left."""
        return self.left <= BINDING


@dataclass(frozen=True)
class Change:
    """The design with one choice changed, and how its score differs.

    ``breaks`` has the budgets that it then passes, each with the share by which it does; ``allowed`` is whether the
    rules of the space have it at all.
    """

    segment: str
    axis: str
    value: int
    other: int
    difference: float
    allowed: bool
    breaks: tuple[tuple[str, float], ...]

    @property
    def fits(self) -> bool:
        """Whether it is a feasible design."""
        return self.allowed and not self.breaks


@dataclass(frozen=True)
class Explanation:
    """The spendings by budget, and of every choice the best changes: one that fits, and one that would score more."""

    design: Design
    spendings: tuple[Spending, ...]
    changes: tuple[Change, ...]

    @property
    def runner_up(self) -> Change | None:
        """The best feasible design with one choice changed."""
        return max(
            (change for change in self.changes if change.fits), key=lambda change: change.difference, default=None
        )

    @property
    def wanted(self) -> Change | None:
        """Of the changes that would score more, the one that passes budgets by least."""
        more = [change for change in self.changes if change.allowed and change.breaks and change.difference > 0]
        return min(more, key=lambda change: sum(excess for _, excess in change.breaks), default=None)

    def _repr_html_(self) -> str:
        from mad_ip.reports.explanation import explanation_table
        from mad_ip.reports.notebook import as_html

        return as_html(explanation_table(self))

    def content(self) -> dict[str, Any]:
        """As JSON has it; amounts are in the units of design.json's metrics, prices in score per unit."""
        return {
            "budgets": {
                each.budget: {
                    "limit": reported(each.budget, each.limit),
                    "spent": reported(each.budget, each.spent),
                    "binds": each.binds,
                    "segments": {name: reported(each.budget, amount) for name, amount in each.segments},
                    "price": {
                        key: None if value is None else value * step(each.budget)
                        for key, value in (
                            ("multiplier", each.price.multiplier),
                            ("smaller", each.price.smaller),
                            ("larger", each.price.larger),
                        )
                    },
                }
                for each in self.spendings
            },
            "changes": [
                {
                    "segment": change.segment,
                    "choice": change.axis,
                    "from": change.value,
                    "to": change.other,
                    "score": change.difference,
                    "allowed": change.allowed,
                    "breaks": dict(change.breaks),
                }
                for change in self.changes
            ],
        }


def explain(
    spec: Spec,
    design: Design,
    *,
    neighbours: bool = True,
    threads: int = 1,
    gap: float = 1e-6,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Explanation:
    """Explain a design of a spec.

    With ``neighbours``, two optima are proven for every budget that binds, 1 % of its limit below and above: that takes
    some solves. Raises :class:`InputError` when the design is no feasible one of the spec.
    """
    from mad_ip.sweep import sweep

    broken = violations(spec, design)
    if broken:
        raise InputError(f"{design.name}: is no feasible design of {spec.source}: {broken[0]}")
    found = multipliers(spec, design.path)
    spendings = []
    for key, spent in design.spendings(spec.budget).items():
        limit = spec.budget.given[key]
        spending = Spending(key, limit, spent, _by_segment(design, key), Price(key, found.get(key), None, None))
        if neighbours and spending.binds:
            # Between whole numbers there is nothing.
            apart = limit * _NEAR if key == "effectiveness" else max(1.0, limit * _NEAR // 1)
            limits = [limit - apart, limit, limit + apart] if apart < limit else [limit, limit + apart]
            front = sweep(spec, {key: limits}, threads=threads, gap=gap, watch=watch, interrupted=interrupted)
            (price,) = (each for each in front.points[-2].prices if each.budget == key)
            spending = dataclasses.replace(spending, price=price)
        spendings.append(spending)
    return Explanation(design, tuple(spendings), _changes(spec, design))


def _by_segment(design: Design, key: str) -> tuple[tuple[str, int], ...]:
    """What every segment adds to a sum."""
    if key == "effectiveness" or COSTS[key].combine == "max":
        return ()
    totals = design.running(key)
    names = [segment.name for segment in design.segments]
    return tuple(zip(names, np.diff([0, *totals]).tolist(), strict=True))


def _changes(spec: Spec, design: Design) -> tuple[Change, ...]:
    population = Population(spec)
    row = population.row(design.path)
    found: list[Change] = []
    for gene, domain in enumerate(population.genes):
        others = np.flatnonzero(np.arange(len(domain)) != row[gene])
        if not len(others):
            continue
        rows = np.repeat(row[None], len(others), axis=0)
        rows[:, gene] = others
        amounts = population.measure(rows)
        scores, _ = population.evaluate(rows)
        segment, axis = spec.segments[gene // 4], AXES[gene % 4]
        changes = []
        for number, place in enumerate(others):
            taken: dict[str, float] = {key: float(values[number]) for key, values in amounts.spent.items()}
            taken["effectiveness"] = float(amounts.rho[number])
            breaks = tuple(
                (key, taken[key] / limit - 1)
                for key, limit in spec.budget.given.items()
                if taken[key] > limit * (1 + (EFFECTIVENESS_TOLERANCE if key == "effectiveness" else 0))
            )
            difference = float(scores[number]) - design.metrics.score
            allowed = not amounts.broken[number]
            value, other = int(domain[row[gene]]), int(domain[place])
            changes.append(Change(segment.name, axis, value, other, difference, allowed, breaks))
        fitting = [change for change in changes if change.fits]
        better = [change for change in changes if change.allowed and change.breaks and change.difference > 0]
        found += sorted(fitting, key=lambda change: -change.difference)[:1]
        found += sorted(better, key=lambda change: sum(excess for _, excess in change.breaks))[:1]
    return tuple(found)
