"""The least that architectures of a space too large for a catalogue take of every budget."""

from __future__ import annotations

import bisect
import dataclasses

import numpy as np

from mad_ip import catalogue, paths
from mad_ip.cost import LARGEST
from mad_ip.lagrangian import passes
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.program import Program, Relaxation
from mad_ip.spec import Budget, Objective, Spec

__all__ = ["least"]


def least(spec: Spec, budget: str) -> float:
    """The smallest value of one of the spec's budgets over all architectures of its space (effectiveness: to 1e-9)."""
    if budget in spec.budget.maxima:
        return float(_least_maximum(spec, budget))
    single = Budget(**{budget: getattr(spec.budget, budget)})
    alone = dataclasses.replace(spec, budget=single, objective=Objective(0.0), sha256="")
    if budget == "effectiveness":
        return paths.smallest_effectiveness(catalogue.build(_widest(alone)))
    program = _program(alone)
    before = passes.prefixes(program.tables, np.ones(1), 0.0)
    return float(round(-float(before[-program.tables.shapes[-1, 1] :].max()) * single.sums[budget]))


def _least_maximum(spec: Spec, budget: str) -> int:
    """By bisection: whether some path keeps a limit is read off the tables."""

    def possible(limit: int) -> bool:
        alone = Budget(**{budget: limit})
        program = _program(dataclasses.replace(spec, budget=alone, objective=Objective(0.0), sha256=""))
        return not program.is_empty and program.evaluate(np.zeros(0)).path is not None

    # The largest network has a limit on 64 bits; beyond it the spec has no path at all.
    high = 1
    while high < LARGEST and not possible(high):
        high *= 2
    return bisect.bisect_left(range(high), True, high // 2, key=possible)


def _program(spec: Spec) -> Program:
    box = whole(spec).tightened
    assert box is not None
    return Program(Relaxation(spec), box, ranged=False)


def _widest(spec: Spec) -> Spec:
    """The spec with all its depths, but only the largest channels, inner width and kernel.

    The rules on channels keep the larger of two paths, channel by channel, and larger numbers make wider layers: of the
    architectures with the same depths, the one with the largest has the least effectiveness.
    """
    program = _program(spec)
    channels = [int(program.segment(s).nodes[-1]) for s in range(len(spec.segments))]
    return dataclasses.replace(
        spec,
        sha256="",
        stem=dataclasses.replace(spec.stem, channels=(channels[0],)),
        stages=tuple(
            dataclasses.replace(
                stage,
                channels=(c,),
                mid=(max(m for m in stage.mid if spec.space.carries(m, c)),),
                kernel=stage.kernel[-1:],
            )
            for stage, c in zip(spec.stages, channels[1:], strict=False)
        ),
    )
