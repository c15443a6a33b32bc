"""Coarse parts of a spec's grids: their trees are guides for finer ones, and their designs are designs of the spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from mad_ip.errors import InputError
from mad_ip.spec import Domain, Spec

__all__ = ["grids"]

_FIRST = 8
"""Values of a width in the coarsest grid."""

_FINER = 2.5
"""How many times more the next grid has."""


def grids(spec: Spec) -> Iterator[Spec]:
    """The spec with thinned widths, coarse to fine; the last is the spec itself."""
    widths = [spec.stem.channels, *(stage.channels for stage in spec.stages), *(stage.mid for stage in spec.stages)]
    size = float(_FIRST)
    while size < max(len(values) for values in widths):
        # So few widths may leave no path that keeps the rules of the space.
        with suppress(InputError):
            yield _thinned(spec, int(size))
        size *= _FINER
    yield spec


def _thinned(spec: Spec, size: int) -> Spec:
    return dataclasses.replace(
        spec,
        sha256="",
        stem=dataclasses.replace(spec.stem, channels=_spread(spec.stem.channels, size)),
        stages=tuple(
            dataclasses.replace(stage, channels=_spread(stage.channels, size), mid=_spread(stage.mid, size))
            for stage in spec.stages
        ),
        tail=None if spec.tail is None else dataclasses.replace(spec.tail, channels=_spread(spec.tail.channels, size)),
    )


def _spread(values: Domain, size: int) -> Domain:
    """At most ``size`` of the values, both ends among them, in about equal ratios."""
    if len(values) <= size:
        return values
    logs = np.log(values)
    wanted = np.linspace(logs[0], logs[-1], size)
    return tuple(sorted({values[int(np.abs(logs - at).argmin())] for at in wanted}))
