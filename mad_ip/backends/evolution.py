"""The paper's own method as a baseline: a seeded evolution by mutation alone (DeepMAD, CVPR 2023, section 5).

A population of 256 architectures; a child changes one choice of one stage of a parent: channels or inner width times
1.5, 1.25, 0.8, 0.6 or 0.5, rounded to the grid, the depth by one or two, or another kernel. It bounds nothing, so that
it never says ``optimal``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mad_ip.backends.base import Findings, Limits, Search
from mad_ip.search import POPULATION, Floats, Integers, Population, evolve
from mad_ip.spec import Path, Spec

__all__ = ["Evolution"]

_FACTORS = (1.5, 1.25, 0.8, 0.6, 0.5)
_STEPS = (-2, -1, 1, 2)
_GENERATIONS = 2000
"""Half a million evaluations, where neither an option nor a time limit says when to end."""


class Evolution(Search):
    """Mutation and truncation selection; its only option ``generations`` ends it before the time limit."""

    name = "evolution"
    proves = False

    def __init__(self, options: Mapping[str, Any], source: str = "options") -> None:
        super().__init__(options, source)
        self.generations = self.option("generations").integer("generations", default=0)

    def solve(self, spec: Spec, limits: Limits, watch: Callable[[Findings], bool]) -> Findings:
        """Evolve until the time limit or the last generation; see :class:`mad_ip.backends.base.Search`."""
        began = time.perf_counter()
        last = self.generations or (math.inf if math.isfinite(limits.seconds) else _GENERATIONS)
        population = Population(spec)
        generator = np.random.default_rng(limits.seed)
        mutation = _Mutation(population, generator)
        best, generation = -math.inf, 0
        found: tuple[Path, ...] = ()
        for row, score, violation in evolve(population, generator, mutation):
            generation += 1
            if violation == 0 and score > best:
                best, found = score, (population.path(row),)
            stop = watch(Findings("stopped", math.inf, found, generation))
            if stop or generation >= last or time.perf_counter() - began > limits.seconds:
                break
        return Findings("stopped", math.inf, found, generation)


class _Mutation:
    """Children of random parents, each with one gene changed by one of the moves of its kind."""

    def __init__(self, population: Population, generator: np.random.Generator) -> None:
        self.generator = generator
        kinds = ("channels", "mid", "kernel", "depth") * len(population.spec.segments)
        self.genes = [gene for gene, size in enumerate(population.sizes) if size > 1]
        self.moves = {gene: _moves(population.genes[gene], kinds[gene]) for gene in self.genes}

    def __call__(self, rows: Integers) -> Integers:
        generator = self.generator
        children = rows[generator.integers(0, len(rows), POPULATION)].copy()
        gene = generator.integers(0, max(1, len(self.genes)), len(children))
        place = generator.random(len(children))
        for number, (g, moves) in enumerate(self.moves.items()):
            (chosen,) = np.nonzero(gene == number)
            move = (place[chosen] * moves.shape[1]).astype(np.int64)
            children[chosen, g] = moves[children[chosen, g], move]
        return children


def _moves(domain: Integers, kind: str) -> Integers:
    """For every index of a domain (rows), the indices that its moves lead to."""
    values = domain[:, None].astype(float)
    if kind == "kernel":
        targets: Floats = np.broadcast_to(domain.astype(float), (len(domain), len(domain)))
    elif kind == "depth":
        targets = values + np.array(_STEPS)
    else:
        targets = values * np.array(_FACTORS)
    return np.asarray(np.abs(targets[:, :, None] - domain).argmin(axis=2))
