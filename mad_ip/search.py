"""Many architectures scored and checked at once, in exact integers; an evolution, which proves nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mad_ip import blocks, entropy
from mad_ip.spec import Choice, Path, Spec

__all__ = ["POPULATION", "Amounts", "Population", "around", "evolve"]

POPULATION = 256

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Amounts(NamedTuple):
    """Of many architectures (n): how many rules of the space each breaks, what it has ``spent`` of every budget given,
    its largest bounded rho, what it is ``worth`` without the depth penalty, and the spread of its ``penalised`` depths.
    """

    broken: Floats
    spent: dict[str, Integers]
    rho: Floats
    worth: Floats
    spread: Any
    penalised: int


@dataclass(frozen=True)
class Population:
    """Architectures of a spec as rows of genes, indices into the domains of all choices, evaluated all at once."""

    spec: Spec

    @cached_property
    def genes(self) -> list[Integers]:
        """The domains of every segment's channels, inner width, kernel and depth, in this order; those of one too."""
        choices = ((s.channels, s.mid, s.kernel, s.depth) for s in self.spec.segments)
        return [np.array(domain) for choice in choices for domain in choice]

    @cached_property
    def sizes(self) -> Integers:
        """Number of values of every gene."""
        return np.array([len(domain) for domain in self.genes])

    def row(self, path: Path) -> Integers:
        """The row nearest to a path."""
        values = (value for choice in path for value in choice)
        return np.array([int(np.abs(gene - value).argmin()) for gene, value in zip(self.genes, values, strict=True)])

    def path(self, row: Integers) -> Path:
        """The path of a row."""
        values = [int(gene[index]) for gene, index in zip(self.genes, row, strict=True)]
        return tuple(Choice(*values[at : at + 4]) for at in range(0, len(values), 4))

    def measure(self, rows: Integers) -> Amounts:
        """What every row takes and is worth, costs in exact integers."""
        spec = self.spec
        values = [domain[rows[:, gene]] for gene, domain in enumerate(self.genes)]
        broken, h, worth, rho = (np.zeros(len(rows)) for _ in range(4))
        spent = {key: np.zeros(len(rows), np.int64) for key, _ in spec.budget.limits}
        carried, count = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        depths = []
        c = np.full(len(rows), spec.input.channels)
        for s, segment in enumerate(spec.segments):
            c_in, (c, m, k, depth) = c, values[4 * s : 4 * s + 4]
            first, rest = blocks.opening(segment, c_in, c, m, k), blocks.repeated(segment, c, m, k)
            head = blocks.closing(segment, c)
            if segment.ruled:
                broken += ~spec.space.follows(c_in, c) * 1.0 + ~spec.space.carries(m, c) * 1.0
            for key in spent:
                spent[key] = spec.costs[key].of_segment(spent[key], first, rest, head, depth)
            carried = carried + entropy.log_width_product(first) + (depth - 1) * entropy.log_width_product(rest)
            count = count + entropy.count(first) + (depth - 1) * entropy.count(rest)
            h = h + entropy.entropy_gain(segment.weight, segment.out_size, c, segment.time.out_frames) * carried
            worth += segment.worth(c, m, k, depth)
            if segment.bounded:
                rho = np.maximum(rho, entropy.ratio(count, carried))
            if segment.penalised:
                depths.append(depth)
        factor = entropy.entropy_factor(spec.convention, spec.objective.entropy)
        return Amounts(broken, spent, rho, factor * h + worth, entropy.spread(depths), len(depths))

    def evaluate(self, rows: Integers) -> tuple[Floats, Floats]:
        """Score and total relative violation of budgets and space rules (0 where feasible), one for each row."""
        spec, found = self.spec, self.measure(rows)
        violation = found.broken
        limits = spec.budget.enforced
        for key, value in found.spent.items():
            limit = limits[key]
            violation = violation + np.maximum(0.0, value / limit - 1) * (value > limit)
        if spec.budget.effectiveness is not None:
            # Of a limit below all normal numbers, infinity.
            with np.errstate(over="ignore"):
                ratio = found.rho / spec.budget.effectiveness
            violation = violation + np.maximum(0.0, ratio - 1) * (ratio > 1 + entropy.EFFECTIVENESS_TOLERANCE)
        beta = spec.objective.depth_penalty
        return found.worth - entropy.penalty_of(found.spread, found.penalised, beta, spec.convention), violation


def evolve(
    population: Population, generator: np.random.Generator, vary: Callable[[Integers], Integers]
) -> Iterator[tuple[Integers, float, float]]:
    """The best row, its score and its violation after every generation, without end.

    The first generation is random; of parents and the children that ``vary`` makes of them (the best first) the best
    survive: the least violation, then the highest score.
    """
    sizes = population.sizes
    rows = generator.integers(0, sizes, (POPULATION, len(sizes)))
    while True:
        rows = np.unique(np.concatenate([rows, vary(rows)]), axis=0)
        score, violation = population.evaluate(rows)
        order = np.lexsort((-score, violation))[:POPULATION]
        rows = rows[order]
        yield rows[0], float(score[order[0]]), float(violation[order[0]])


@functools.lru_cache(maxsize=8)
def _moves(sizes: tuple[int, ...]) -> Integers:
    """All changes of two genes that have a choice by up to two steps, or of one by up to four, and none."""
    unit = np.eye(len(sizes), dtype=np.int64)[np.array(sizes) > 1]
    single = np.concatenate([step * unit for step in (-2, -1, 1, 2)])
    pairs = (single[:, None, :] + single[None, :, :]).reshape(-1, len(sizes))
    return np.unique(np.concatenate([single, pairs, np.zeros((1, len(sizes)), np.int64)]), axis=0)


def around(population: Population, row: Integers) -> Integers:
    """The row and all that differ from it in two genes by up to two steps, or in one by up to four."""
    rows = row + _moves(tuple(population.sizes.tolist()))
    return np.asarray(rows[((rows >= 0) & (rows < population.sizes)).all(axis=1)])
