"""What one more unit of a budget is worth at an architecture, by the multipliers of the relaxation around it.

The multipliers are those of the dual bound over the architectures with the same depths and a part of the other choices,
among them the architecture's own and those next to them. To first order the bound grows by a multiplier for every unit
of its budget (docs/fronts.md); what optima do is not smooth, and neighbouring optima say that.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from mad_ip.lagrangian.box import AXES, Box, whole
from mad_ip.lagrangian.dual import minimise
from mad_ip.lagrangian.program import relaxed
from mad_ip.lagrangian.workers import relaxation
from mad_ip.spec import Domain, Path, Spec

__all__ = ["multipliers"]

_VALUES = 24
"""Values of a choice that the relaxation has."""


def multipliers(spec: Spec, path: Path, largest: Spec | None = None) -> dict[str, float]:
    """Score for every unit of each budget, in the budget's own unit, none of them negative.

    A budget on a maximum has none: it forbids choices, and sells nothing. ``largest`` is as in
    :class:`mad_ip.lagrangian.workers.Problem`.
    """
    known = relaxation(spec, largest)
    program = relaxed(known, _around(spec, path))
    if program is None:
        return {}
    best = minimise(program, None, None, target=-math.inf).best
    found = {
        key: float(value) / limit
        for (key, limit), value in zip(spec.budget.sums.items(), best.multipliers, strict=False)
    }
    ratio = spec.budget.effectiveness
    if ratio is not None:
        layers = np.cumsum(known.tables.layers * [choice.depth for choice in path])[known.bounded]
        # S >= D ln D - D ln rho_0, priced by mu.
        found["effectiveness"] = float(best.multipliers[len(known.budgets) :][: len(layers)] @ layers) / ratio
    return {key: found[key] for key in spec.budget.given if key in found}


def _around(spec: Spec, path: Path) -> Box:
    """The architectures with the depths of a path, and about so many values of every other choice."""
    box = whole(spec)
    domains: dict[str, Any] = {
        axis: tuple(
            (choice[position],) if axis == "depth" else _part(domain, choice[position])
            for domain, choice in zip(getattr(box, axis), path, strict=True)
        )
        for position, axis in enumerate(AXES)
    }
    return dataclasses.replace(box, **domains)


def _part(domain: Domain, value: int) -> Domain:
    """Some values of a domain, from a quarter of one of them to four times it, and its neighbours."""
    near = [other for other in domain if value / 4 <= other <= value * 4]
    at = domain.index(value)
    step = max(1, len(near) // _VALUES)
    return tuple(sorted({*near[::step], *domain[max(0, at - 1) : at + 2]}))
