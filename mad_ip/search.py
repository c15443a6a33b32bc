"""A first incumbent by a seeded evolution over the domains, and a local search around its best (no bound, no proof).

The paper's own method is evolutionary (DeepMAD, section 5); here it only gives the exact solver a start.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mad_ip import blocks, cost, entropy
from mad_ip.catalogue import Catalogue, Integers, stage_quantities
from mad_ip.frames import Time
from mad_ip.spec import Spec

__all__ = ["POPULATION", "Population", "around", "evolve", "evolve_island", "first_incumbent", "path_of", "polish"]

POPULATION = 256
_GENERATIONS = 200
_PATIENCE = 25
"""Generations without a better best after which an island ends."""
_ISLANDS = 4


@dataclass(frozen=True)
class Population:
    """Architectures of a spec as rows of indices into the domains of :meth:`genes`, evaluated all at once."""

    spec: Spec

    def genes(self) -> list[Integers]:
        """Domains in the order stem channels; channels, mid, kernel, depth of each stage; tail channels."""
        spec = self.spec
        domains = [spec.stem.channels]
        for stage in spec.stages:
            domains += [stage.channels, stage.mid, stage.kernel, stage.depth]
        if spec.tail is not None:
            domains.append(spec.tail.channels)
        return [np.array(domain) for domain in domains]

    def evaluate(self, rows: Integers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score and total relative violation of budgets and space rules (0 where feasible), one for each row."""
        spec = self.spec
        values = [domain[rows[:, gene]] for gene, domain in enumerate(self.genes())]
        sizes, times = spec.resolutions, spec.times
        c, stem = values[0], spec.stem
        layers = blocks.stem(spec.input.channels, c, stem.kernel, stem.stride, spec.input.resolution, times[0])
        macs, params, count = cost.macs(layers), cost.params(layers), entropy.count(layers) + 0 * c
        carried = entropy.log_width_product(layers)
        levels = [(stem.weight, 0, c, carried, count)]
        violation = np.zeros(len(rows))
        for t, stage in enumerate(spec.stages):
            c_in, (c, m, k, depth) = c, values[1 + 4 * t : 5 + 4 * t]
            violation += ~spec.space.follows(c_in, c) * 1.0 + ~spec.space.carries(m, c) * 1.0
            more = stage_quantities(stage, sizes[t], times[t + 1], c_in, c, m, k, depth)
            macs, params, count, carried = macs + more[0], params + more[1], count + more[2], carried + more[3]
            levels.append((stage.weight, t + 1, c, carried, count))
        if spec.tail is not None:
            c_in, c = c, values[-1]
            layers = blocks.tail(c_in, c, sizes[-1], Time(times[-1].out_frames))
            macs, params, count = macs + cost.macs(layers), params + cost.params(layers), count + 1
            carried = carried + entropy.log_width_product(layers)
            levels[-1] = (spec.stages[-1].weight, len(spec.stages), c, carried, count)
        head = blocks.head(c, spec.input.classes)
        macs, params = macs + cost.macs(head), params + cost.params(head)
        score = entropy.entropy_factor(spec.convention) * sum(
            entropy.entropy_gain(weight, sizes[t], c, times[t].out_frames) * carried
            for weight, t, c, carried, _ in levels
        )
        depths = np.array(values[4 : 4 * len(spec.stages) + 1 : 4])[spec.penalised]
        if spec.objective.depth_penalty > 0:
            spread = len(depths) * (depths**2).sum(axis=0) - depths.sum(axis=0) ** 2
            uniformity = entropy.uniformity_of(spread, len(depths), spec.convention)
            # A penalty beyond the largest float saturates there, as in entropy.depth_penalty.
            largest = sys.float_info.max / spec.objective.depth_penalty
            score = score - spec.objective.depth_penalty * np.minimum(uniformity, largest)
        for limit, value in ((spec.budget.macs, macs), (spec.budget.params, params), (spec.budget.layers, count)):
            if limit is not None:
                violation += np.maximum(0.0, value / limit - 1) * (value > limit)
        if spec.budget.effectiveness is not None:
            checked = [level for level in levels if level[0] > 0] if spec.convention == "tinynas" else levels[-1:]
            for _, _, _, carried, count in checked:
                ratio = entropy.ratio(count, carried) / spec.budget.effectiveness
                violation += np.maximum(0.0, ratio - 1) * (ratio > 1 + entropy.EFFECTIVENESS_TOLERANCE)
        return score, violation


def first_incumbent(
    catalogue: Catalogue, seed: int, stop: Callable[[], bool] = lambda: False
) -> tuple[int, ...] | None:
    """The best feasible path found, as an option of every segment; ``None`` when nothing feasible was found."""
    population = Population(catalogue.spec)
    generator = np.random.default_rng(seed)
    best: Integers | None = None
    best_score = -math.inf
    for _ in range(_ISLANDS):
        if stop() and best is not None:
            break
        row = polish(population, evolve_island(population, generator, stop), stop)
        score, violation = population.evaluate(row[None])
        if violation[0] == 0 and score[0] == best_score:
            # Two islands that climb to the same top have most likely found the highest.
            break
        if violation[0] == 0 and score[0] > best_score:
            best, best_score = row, float(score[0])
    return None if best is None else path_of(catalogue, best)


def evolve(
    population: Population, generator: np.random.Generator, vary: Callable[[Integers], Integers]
) -> Iterator[tuple[Integers, float, float]]:
    """The best row, its score and its violation after every generation, without end.

    The first generation is random; of parents and the children that ``vary`` makes of them (the best first) the best
    survive: the least violation, then the highest score.
    """
    sizes = np.array([len(domain) for domain in population.genes()])
    rows = generator.integers(0, sizes, (POPULATION, len(sizes)))
    while True:
        rows = np.unique(np.concatenate([rows, vary(rows)]), axis=0)
        score, violation = population.evaluate(rows)
        order = np.lexsort((-score, violation))[:POPULATION]
        rows = rows[order]
        yield rows[0], float(score[order[0]]), float(violation[order[0]])


def evolve_island(population: Population, generator: np.random.Generator, stop: Callable[[], bool]) -> Integers:
    """One island: truncation selection, uniform crossover of whole stages, steps and resets of single genes."""
    sizes = np.array([len(domain) for domain in population.genes()])

    def vary(rows: Integers) -> Integers:
        parents = np.minimum(*generator.integers(0, len(rows), (2, 2 * POPULATION)))
        children = rows[parents].copy()
        mates = rows[generator.integers(0, len(rows), len(children))]
        crossed = generator.random(children.shape) < 0.3
        crossed &= (generator.random(len(children)) < 0.3)[:, None]
        children[crossed] = mates[crossed]
        changed = generator.random(children.shape) < generator.choice([1.0, 2.0, 4.0], (len(children), 1)) / len(sizes)
        steps = generator.choice([-3, -2, -1, -1, 1, 1, 2, 3], children.shape)
        return np.asarray(np.clip(children + changed * steps, 0, sizes - 1))

    best, age = (-math.inf, -math.inf), 0
    for row, score, violation in itertools.islice(evolve(population, generator, vary), _GENERATIONS):
        present = (-violation, score)
        best, age = (present, 0) if present > best else (best, age + 1)
        if stop() or age > _PATIENCE:
            return row
    return row


@functools.lru_cache(maxsize=8)
def _moves(number: int) -> Integers:
    """All changes of one or two of ``number`` genes by up to two steps, and none."""
    single = np.concatenate([step * np.eye(number, dtype=np.int64) for step in (-2, -1, 1, 2)])
    pairs = (single[:, None, :] + single[None, :, :]).reshape(-1, number)
    return np.unique(np.concatenate([single, pairs, np.zeros((1, number), np.int64)]), axis=0)


def around(population: Population, row: Integers) -> Integers:
    """The row and all that differ from it in one or two genes by up to two steps."""
    sizes = np.array([len(domain) for domain in population.genes()])
    rows = row + _moves(len(sizes))
    return np.asarray(rows[((rows >= 0) & (rows < sizes)).all(axis=1)])


def polish(population: Population, row: Integers, stop: Callable[[], bool]) -> Integers:
    """Climb over the rows :func:`around` until none is better."""
    while not stop():
        rows = around(population, row)
        score, violation = population.evaluate(rows)
        best = rows[np.lexsort((-score, violation))[0]]
        if (best == row).all():
            break
        row = best
    return row


def path_of(catalogue: Catalogue, row: Integers) -> tuple[int, ...]:
    """The options of a row, each replaced by one that dominates it where the catalogue has dropped it."""
    population = Population(catalogue.spec)
    values = [int(domain[index]) for domain, index in zip(population.genes(), row, strict=True)]
    spec = catalogue.spec
    c, path = values[0], []
    segments = catalogue.segments
    path.append(int(np.flatnonzero(segments[0].c == c)[0]))
    for t, (stage, segment) in enumerate(zip(spec.stages, catalogue.stages, strict=True)):
        c_in, (c, m, k, depth) = c, values[1 + 4 * t : 5 + 4 * t]
        head = blocks.head(c, spec.input.classes) if segment is segments[-1] else ()
        size, time = spec.resolutions[t], spec.times[t + 1]
        macs, params, _, log_width = stage_quantities(stage, size, time, c_in, c, m, k, depth)
        macs, params = macs + cost.macs(head), params + cost.params(head)
        fits = (segment.c_in == c_in) & (segment.c == c) & (segment.depth == depth)
        fits &= (segment.macs <= macs) & (segment.params <= params) & (segment.log_width >= log_width)
        path.append(int(np.flatnonzero(fits)[0]))
    if spec.tail is not None:
        path.append(int(np.flatnonzero((segments[-1].c_in == c) & (segments[-1].c == values[-1]))[0]))
    return tuple(path)
