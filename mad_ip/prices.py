"""What one more unit of a budget is worth at an architecture, by the multipliers of the relaxation around it.

The multipliers are those of the dual bound over the architectures with as many blocks, by a part of the widths, among
them the architecture's own and those next to them. To first order the bound grows by a multiplier for every unit
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
from mad_ip.lagrangian.tree import THIN
from mad_ip.lagrangian.workers import relaxation
from mad_ip.spec import Domain, Path, Spec

__all__ = ["multipliers"]


def multipliers(spec: Spec, path: Path, largest: Spec | None = None) -> dict[str, float]:
    """Score for every unit of each budget, in the budget's own unit, none of them negative.

    A budget on a maximum has none: it forbids choices, and sells nothing; nor has one on layers, whose number the
    relaxation fixes. ``largest`` is as in
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
    return {key: found[key] for key in spec.budget.given if key in found and key != "layers"}


def _around(spec: Spec, path: Path) -> Box:
    """Architectures with as many blocks as a path, by a part of the widths, among them its own and those next to them.

    With the number of blocks fixed the bound is near to the optimum, and without the very depths its prices are what
    more of a budget may buy.
    """
    box = whole(spec)
    thin = box.thinned(THIN)
    total = sum(path[s].depth for s in box.penalised)
    domains: dict[str, Any] = {
        axis: tuple(
            _with(part, full, choice[position])
            for part, full, choice in zip(getattr(thin, axis), getattr(box, axis), path, strict=True)
        )
        for position, axis in enumerate(AXES)
    }
    found = dataclasses.replace(box, **domains)
    return dataclasses.replace(found, first=total, last=total) if box.penalised else found


def _with(part: Domain, full: Domain, value: int) -> Domain:
    """A part of a domain with a value and its neighbours."""
    at = full.index(value)
    return tuple(sorted({*part, *full[max(0, at - 1) : at + 2]}))
