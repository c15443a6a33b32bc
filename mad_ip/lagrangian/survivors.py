"""What survives in boxes: the options that a design above a target may take, for a solver of catalogues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mad_ip.lagrangian.box import Box
from mad_ip.lagrangian.program import Bound, Relaxation, relaxed
from mad_ip.spec import Choice, Path

__all__ = ["MOST", "Survivors", "surviving"]

MOST = 2_000_000
"""Options of a box up to which each gets a bound of its own."""

Option = tuple[int, Choice]
"""The channels before a segment and what is chosen in it."""


@dataclass(frozen=True)
class Survivors:
    """For every segment, the options that may be part of a design above the target."""

    options: tuple[frozenset[Option], ...]

    def __len__(self) -> int:
        return sum(map(len, self.options))

    def joined(self, others: Iterable[Survivors]) -> Survivors:
        """With those of other boxes."""
        every = [self, *others]
        return Survivors(
            tuple(frozenset().union(*parts) for parts in zip(*(each.options for each in every), strict=True))
        )

    @classmethod
    def along(cls, paths: Iterable[Path], image_channels: int) -> Survivors:
        """The options of some paths, at least one."""
        rows = [zip((image_channels, *(choice.channels for choice in path)), path, strict=False) for path in paths]
        return cls(tuple(map(frozenset, zip(*rows, strict=True))))


def surviving(
    relaxation: Relaxation, box: Box, bound: Bound, target: float, *, best: int | None = None
) -> Survivors | None:
    """The options of a box whose own bound passes a target, only about the ``best`` of them if so many are wanted.

    ``None`` where there are too many to look at each.
    """
    program = relaxed(relaxation, box)
    if program is None:
        return Survivors(tuple(frozenset() for _ in relaxation.spec.segments))
    if (program.tables.shapes[:, :5].prod(axis=1) > MOST).any():
        return None
    bounds = program.option_bounds(bound)
    if best is not None:
        above = np.concatenate([values[values > target] for values in bounds])
        if len(above) > best:
            target = float(np.partition(above, -best)[-best])
    options, sources = [], np.array([relaxation.spec.input.channels])
    for number, values in enumerate(bounds):
        here = program.segment(number)
        s, n, k, w, d = np.nonzero(values > target)
        chosen = (here.nodes[n], here.mid[w], here.kernel[k], here.depth[d].astype(int))
        rows = zip(sources[s].tolist(), *(values.tolist() for values in chosen), strict=True)
        options.append(frozenset((source, Choice(*choice)) for source, *choice in rows))
        sources = here.nodes
    return Survivors(tuple(options))
