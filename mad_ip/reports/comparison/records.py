"""What one run of a solver on a spec leaves behind, as it is measured, plotted and stored in report.json."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Point", "Run", "Settings", "condensed", "distance", "without_folders"]

_FOLDERS = re.compile(r"(?<![\w.])(?:/[^/\s:'\"]+)*/(?=[^/\s:'\"])")


class Point(NamedTuple):
    """What a solve knew ``seconds`` after its start: the incumbent's score (-inf without one) and the bound (inf)."""

    seconds: float
    phase: str
    score: float
    bound: float


@dataclass(frozen=True)
class Settings:
    """The same for every run: limits as in :func:`mad_ip.solve.solve`; ``seeds`` runs of a randomised solver."""

    time_limit: float = math.inf
    gap: float = 1e-6
    threads: int = 1
    seeds: int = 5


@dataclass(frozen=True)
class Run:
    """One solver on one spec with one seed.

    ``status`` is ``optimal``, ``feasible``, ``infeasible`` or ``no design`` as the solve ended, ``refused`` when the
    solver is not installed or does not take the spec, ``failed`` when it ended with an error, ``ended`` when the
    comparison had to end it, ``not run`` after Ctrl-C; ``message`` says why. ``wall`` and ``cpu`` are seconds of the
    process with its children, ``memory`` the largest resident set of any one of them in bytes.
    """

    spec: str
    solver: str
    seed: int
    status: str
    message: str = ""
    version: str = ""
    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    options: int = 0
    architectures: int = 0
    trace: tuple[Point, ...] = ()

    @property
    def score(self) -> float:
        """The incumbent's score at the end, -inf without one."""
        return self.trace[-1].score if self.trace else -math.inf

    @property
    def bound(self) -> float:
        """The upper bound at the end, inf without one."""
        return self.trace[-1].bound if self.trace else math.inf

    @property
    def seconds(self) -> float:
        """Seconds from the start of the solve to its end."""
        return self.trace[-1].seconds if self.trace else 0.0


def distance(score: float, target: float) -> float:
    """How far a score is below a target, relative to the target: 0 at or above it, infinite where one is missing."""
    if not (math.isfinite(score) and math.isfinite(target)):
        return math.inf
    return max(0.0, target - score) / max(abs(target), 1e-9)


def condensed(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points at which phase, score or bound change, and the last one."""
    kept = [point for n, point in enumerate(points) if n == 0 or point[1:] != points[n - 1][1:]]
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return tuple(kept)


def without_folders(text: str) -> str:
    """A message with every absolute path cut to its last name: a report tells nothing about the machine's folders."""
    return _FOLDERS.sub("", text)
