"""The statistics of a comparison, all from the traces: milestones, medians over seeds, curves, contradictions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mad_ip.reports.comparison.records import Run, Settings, distance

__all__ = [
    "Comparison",
    "Curve",
    "Milestones",
    "Reference",
    "Spread",
    "contradictions",
    "curve",
    "milestones",
    "reference",
    "spread",
]

_NEAR = 0.01
"""What ``within 1 %`` means."""

_CONTRADICTION = 1e-6
"""How far, relatively, a score may exceed another run's bound: solvers work to tolerances of that size."""


@dataclass(frozen=True)
class Reference:
    """The best score that any run of a spec found, -inf without one, and whether a run proved it optimal."""

    score: float
    proven: bool


@dataclass(frozen=True)
class Comparison:
    """All that a report is made of: runs in the order of their making, specs and profiles by name.

    ``specs`` holds the sha256 of every spec, ``profiles`` backend, options and whatever else a profile has; ``day``
    is the date in UTC.
    """

    settings: Settings
    specs: Mapping[str, str]
    profiles: Mapping[str, Mapping[str, Any]]
    runs: Sequence[Run]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    day: str

    def of(self, spec: str) -> dict[str, list[Run]]:
        """The runs of a spec by solver."""
        found = {name: [run for run in self.runs if (run.spec, run.solver) == (spec, name)] for name in self.profiles}
        return {name: runs for name, runs in found.items() if runs}

    def reference(self, spec: str) -> Reference:
        """The best that any run found for a spec."""
        return reference((run for run in self.runs if run.spec == spec), self.settings.gap)


@dataclass(frozen=True)
class Milestones:
    """Seconds from the start of the solve, infinite where never reached.

    ``first`` incumbent; incumbent ``near`` the reference, within 1 %; at the ``optimum``, within the asked gap of the
    reference; ``proof``, the return with a bound within the asked gap.
    """

    first: float
    near: float
    optimum: float
    proof: float


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of a quantity over the seeds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A quantity as a step function of time over the runs of a solver: median and range at every time of a change."""

    seconds: NDArray[np.float64]
    median: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def reference(runs: Iterable[Run], asked: float) -> Reference:
    """The reference of the runs of one spec; proven when a run that says ``optimal`` is within the asked gap of it."""
    runs = list(runs)
    best = max((run.score for run in runs), default=-math.inf)
    return Reference(best, any(run.status == "optimal" and distance(run.score, best) <= asked for run in runs))


def milestones(run: Run, target: Reference, asked: float) -> Milestones:
    """When a run reached what, for the asked relative gap."""
    return Milestones(
        first=_time_to(run, -math.inf),
        near=_time_to(run, target.score - _NEAR * abs(target.score)),
        optimum=_time_to(run, target.score - asked * abs(target.score)),
        proof=run.seconds if run.status == "optimal" else math.inf,
    )


def _time_to(run: Run, score: float) -> float:
    """Seconds until the first incumbent of at least a score."""
    reached = (point.seconds for point in run.trace if math.isfinite(point.score) and point.score >= score)
    return next(reached, math.inf)


def spread(values: Sequence[float]) -> Spread:
    """Median and range; an infinite value (never reached) is larger than every other."""
    return Spread(statistics.median(values), min(values), max(values))


def curve(runs: Sequence[Run], quantity: str) -> Curve:
    """The attribute ``quantity`` (``score`` or ``bound``) of the traces' points as a curve.

    Before the first point of a trace it is -inf or inf, after the last the last value holds.
    """
    before = -math.inf if quantity == "score" else math.inf
    seconds = np.unique([point.seconds for run in runs for point in run.trace])
    values = np.full((len(runs), len(seconds)), before)
    for row, run in zip(values, runs, strict=True):
        for point in run.trace:
            row[seconds >= point.seconds] = getattr(point, quantity)
    if not runs or not len(seconds):
        return Curve(seconds, seconds, seconds, seconds)
    with np.errstate(invalid="ignore"):
        # Halfway between nothing and something is nothing.
        median = np.nan_to_num(np.median(values, axis=0), nan=before, posinf=math.inf, neginf=-math.inf)
    return Curve(seconds, median, values.min(axis=0), values.max(axis=0))


def contradictions(runs: Iterable[Run]) -> list[str]:
    """Sentences, one for each pair of runs of a spec of which one found what the other claims to be impossible."""
    runs = list(runs)
    found = []
    for run in runs:
        for other in runs:
            if run.spec != other.spec or not math.isfinite(run.score):
                continue
            if other.status == "infeasible":
                found.append(f"{run.spec}: {other.solver} says infeasible, {run.solver} found a design")
            elif math.isfinite(other.bound) and distance(other.bound, run.score) > _CONTRADICTION:
                found.append(
                    f"{run.spec}: {run.solver} (seed {run.seed}) found {run.score:,.4f}, above the bound "
                    f"{other.bound:,.4f} of {other.solver} (seed {other.seed})"
                )
    return found
