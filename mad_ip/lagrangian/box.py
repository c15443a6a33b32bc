"""Parts of a spec's space: for every segment the values that each choice may still take."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mad_ip.spec import Choice, Domain, Path, Spec
from mad_ip.utility import AXES, Axis

__all__ = ["AXES", "Axis", "Box", "largest_spread", "spreads", "whole"]

_TABLE = 10**8
_LATTICE = 10**5


@dataclass(frozen=True)
class Box:
    """Ascending values of every choice, one tuple for each segment (stem, stages, tail); 1 where there is no choice.

    The depths of the segments in ``penalised`` (a range of segments) add up to a total from ``first`` to ``last``.
    """

    channels: tuple[Domain, ...]
    mid: tuple[Domain, ...]
    kernel: tuple[Domain, ...]
    depth: tuple[Domain, ...]
    penalised: tuple[int, ...]
    first: int
    last: int

    @property
    def point(self) -> Path | None:
        """The only architecture, when there is only one."""
        if any(len(values) > 1 for row in self.choices for values in row):
            return None
        return tuple(Choice(*(values[0] for values in row)) for row in self.choices)

    @property
    def size(self) -> int:
        """Number of values over all choices."""
        return sum(len(values) for row in self.choices for values in row)

    def thinned(self, most: int) -> Box:
        """The box with at most ``most`` of the channels and inner widths of every segment, both ends among them."""
        channels, mid = (tuple(_spread(values, most) for values in axis) for axis in (self.channels, self.mid))
        return dataclasses.replace(self, channels=channels, mid=mid)

    def holds(self, path: Path) -> bool:
        """Whether an architecture is in the box."""
        total = sum(path[s].depth for s in self.penalised)
        return self.first <= total <= self.last and all(
            value in values
            for s, choice in enumerate(path)
            for value, values in zip(choice, self.choices[s], strict=True)
        )

    @functools.cached_property
    def choices(self) -> tuple[tuple[Domain, ...], ...]:
        """The values of every segment in the order of :data:`AXES`."""
        return tuple(zip(self.channels, self.mid, self.kernel, self.depth, strict=True))

    @functools.cached_property
    def tightened(self) -> Box | None:
        """The box without the depths that no admissible total allows; ``None`` when nothing is left."""
        if not all(map(all, self.choices)):
            return None
        depth, first, last = list(self.depth), self.first, self.last
        narrowed = bool(self.penalised)
        while narrowed:
            low, high = (sum([depth[s][end] for s in self.penalised]) for end in (0, -1))
            first, last, narrowed = max(first, low), min(last, high), False
            for s in self.penalised:
                domain = depth[s]
                # What the others leave of the least and of the largest total.
                least, most = first - (high - domain[-1]), last - (low - domain[0])
                if least <= domain[0] and domain[-1] <= most:
                    continue
                depth[s] = tuple(value for value in domain if least <= value <= most)
                if not depth[s]:
                    return None
                narrowed = True
        if first > last:
            return None
        return dataclasses.replace(self, depth=tuple(depth), first=first, last=last)

    @property
    def tight(self) -> Box:
        """The box as :attr:`tightened`, or as it is where nothing is left."""
        return self.tightened or self

    def restricted(self, axis: Axis, segment: int, values: Domain) -> Box:
        """The box with other values of one choice."""
        domains = getattr(self, axis)
        changed: dict[str, Any] = {axis: (*domains[:segment], values, *domains[segment + 1 :])}
        return dataclasses.replace(self, **changed)

    def keeping(self, keep: Iterable[tuple[Any, Any, Any]]) -> Box:
        """The box with no other values of some choices than those in ``keep``: axes, segments, and values.

        Raise :class:`ValueError` where there is no such choice.
        """
        box = self
        for axis, segment, values in keep:
            if axis not in AXES or not 0 <= segment < len(box.channels):
                raise ValueError(f"keep {axis!r}, {segment!r}")
            domain = getattr(box, axis)[segment]
            box = box.restricted(axis, segment, tuple(value for value in domain if value in values))
        return box

    def kept_in(self, part: Box) -> list[list[Any]]:
        """What :meth:`keeping` takes to make a part of the box."""
        return [
            [axis, s, list(new)]
            for axis in AXES
            for s, (old, new) in enumerate(zip(getattr(self, axis), getattr(part, axis), strict=True))
            if old != new
        ]

    def split(self, axis: Axis | Literal["total"], segment: int, at: int) -> tuple[Box, Box]:
        """The parts with values up to and above ``at`` of one choice, or of the total of the penalised depths."""
        if axis == "total":
            return dataclasses.replace(self, last=min(self.last, at)), dataclasses.replace(
                self, first=max(self.first, at + 1)
            )
        values = getattr(self, axis)[segment]
        low, high = tuple(v for v in values if v <= at), tuple(v for v in values if v > at)
        return self.restricted(axis, segment, low), self.restricted(axis, segment, high)


def _spread(values: Domain, most: int) -> Domain:
    """At most so many of the values, in about equal ratios."""
    if len(values) <= most:
        return values
    logs = np.log(values)
    wanted = np.linspace(logs[0], logs[-1], most)
    return tuple(sorted({values[int(np.abs(logs - at).argmin())] for at in wanted}))


def whole(spec: Spec) -> Box:
    """The whole space of a spec."""
    segments = spec.segments
    penalised = tuple(s for s, segment in enumerate(segments) if segment.penalised and spec.objective.depth_penalty > 0)
    domains: dict[str, Any] = {axis: tuple(getattr(segment, axis) for segment in segments) for axis in AXES}
    return Box(**domains, penalised=penalised, first=0, last=sum(segments[s].depth[-1] for s in penalised))


@functools.lru_cache(maxsize=4096)
def spreads(domains: tuple[Domain, ...], first: int, last: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """All values of ``n^2 Var = n sum L^2 - (sum L)^2`` for depths with a sum from ``first`` to ``last``.

    For domains too deep to list them, the first integers; :func:`largest_spread` is where they may end.
    """
    number = len(domains)
    most = sum(domain[-1] for domain in domains)
    squares = sum(domain[-1] ** 2 for domain in domains)
    if most * squares > _TABLE:
        return np.arange(_LATTICE)
    # Whether a sum (row) and a sum of squares (column) can be attained.
    attained = np.zeros((most + 1, squares + 1), bool)
    attained[0, 0] = True
    for domain in domains:
        following = np.zeros_like(attained)
        for depth in domain:
            following[depth:, depth**2 :] |= attained[: most + 1 - depth, : squares + 1 - depth**2]
        attained = following
    total, square = np.nonzero(attained[max(0, first) : last + 1])
    return np.unique(number * square - (total + max(0, first)) ** 2)


def largest_spread(listed: np.ndarray[Any, np.dtype[np.int64]], domains: tuple[Domain, ...]) -> int:
    """The last of the :func:`spreads`, or a bound on it where only the first integers are listed."""
    if len(listed) == _LATTICE and int(listed[-1]) == _LATTICE - 1:
        return len(domains) * sum(domain[-1] ** 2 for domain in domains)
    return int(listed[-1]) if len(listed) else 0
