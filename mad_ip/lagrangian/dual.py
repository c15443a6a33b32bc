"""Good multipliers for a box: cutting planes in a trust region."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from scipy.optimize import linprog

from mad_ip.lagrangian.tables import Floats

__all__ = ["EVALUATIONS", "Dual", "minimise"]

EVALUATIONS = 60
"""Evaluations of one box at most."""

_PRECISION = 1e-7
"""Relative gain, predicted, that is not worth an evaluation."""

_RADIUS = 0.1
"""First trust region, in natural steps."""


class Cut(Protocol):
    """A valid bound ``value`` by ``multipliers``, with its subgradient ``slack``."""

    @property
    def value(self) -> float: ...
    @property
    def multipliers(self) -> Floats: ...
    @property
    def slack(self) -> Floats: ...
    @property
    def tangents(self) -> tuple[float, ...]: ...


C = TypeVar("C", bound=Cut)


@dataclass(frozen=True)
class Dual(Generic[C]):
    """The best bound found, and the paths that keep it from being lower, with weights that add up to 1."""

    best: C
    cuts: tuple[C, ...]
    weights: Floats


def minimise(
    evaluate: Callable[[Floats, tuple[float, ...] | None], C],
    start: Floats,
    scales: Floats,
    least: Floats,
    *,
    cutoff: float = -math.inf,
    evaluations: int = EVALUATIONS,
) -> Dual[C]:
    """Improve the multipliers until nothing is gained or ``cutoff`` is passed. Every bound on the way is valid.

    ``evaluate`` gives the bound of multipliers and tangents (its own choice of tangents for ``None``); ``scales`` are
    natural steps of the multipliers, ``least`` their lower limits.
    """
    best = evaluate(start, None)
    radius = _RADIUS
    cuts = [best]
    weights = np.ones(1)
    for _ in range(evaluations):
        if best.value <= cutoff or len(start) == 0:
            break
        step, predicted, weights = _model_minimum(cuts, best, scales * radius, least)
        if predicted > best.value - _PRECISION * abs(best.value):
            if radius >= _RADIUS / 2:
                break
            radius *= 4
            continue
        trial = evaluate(step, best.tangents)
        cuts.append(trial)
        if trial.value < best.value - 0.1 * (best.value - predicted):
            if trial.value < best.value - 0.6 * (best.value - predicted):
                radius *= 2
            best = trial
        else:
            radius *= 0.5
            if radius < 1e-5:
                break
    weights = np.concatenate([weights, np.zeros(len(cuts) - len(weights))])
    return Dual(min(cuts, key=lambda cut: cut.value), tuple(cuts), weights)


def _model_minimum(cuts: Sequence[Cut], centre: Cut, box: Floats, least: Floats) -> tuple[Floats, float, Floats]:
    """Minimise the maximum of the cuts within ``box`` around ``centre``: multipliers, value, weights of the cuts."""
    size = len(centre.multipliers)
    rows = np.array([[*cut.slack, -1.0] for cut in cuts])
    right = np.array([cut.slack @ (cut.multipliers - centre.multipliers) - cut.value + centre.value for cut in cuts])
    low = np.maximum(-box, least - centre.multipliers)
    bounds = [*zip(low, box, strict=True), (None, None)]
    result = linprog([0.0] * size + [1.0], A_ub=rows, b_ub=right, bounds=bounds, method="highs")
    if result.x is None:
        return centre.multipliers, centre.value, np.eye(len(cuts))[0]
    weights = np.abs(result.ineqlin.marginals)
    multipliers = np.maximum(centre.multipliers + result.x[:size], least)
    return multipliers, centre.value + float(result.x[size]), weights / max(1e-300, float(weights.sum()))
