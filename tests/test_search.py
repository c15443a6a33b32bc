"""The evaluation of many rows at once is the design's own; the evolution over them, and the annealer's walks."""

from __future__ import annotations

import itertools
import math
import pathlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import specs

from mad_ip import search
from mad_ip.design import Design, violations
from mad_ip.lagrangian.annealing import Annealer
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.program import Bound, Relaxation, relaxed
from mad_ip.lagrangian.tree import THIN, guessed
from mad_ip.search import Integers, Population
from mad_ip.spec import Choice, Path, Spec

ZOO = pathlib.Path(__file__).parent.parent / "models"

QUICK = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def random_rows(population: Population, number: int) -> Integers:
    sizes = [len(domain) for domain in population.genes]
    return np.random.default_rng(0).integers(0, sizes, (number, len(sizes)))


@QUICK
@given(spec=specs(limit=1000))
def test_rows_are_worth_what_their_designs_are(spec: Spec) -> None:
    population = Population(spec)
    rows = random_rows(population, 40)
    scores, violation = population.evaluate(rows)
    for row, score, broken in zip(rows, scores, violation, strict=True):
        design = Design.chosen(spec, population.path(row))
        assert math.isclose(score, design.metrics.score, rel_tol=1e-11, abs_tol=1e-9)
        limit = spec.budget.effectiveness
        if limit is not None and math.isclose(design.metrics.effectiveness, limit, rel_tol=1e-11):
            continue  # Rounding decides, within the tolerance of a design's own check.
        assert (broken > 0) == bool(violations(spec, design)), violations(spec, design)
        assert broken >= 0


@QUICK
@given(spec=specs(limit=1000))
def test_rows_and_paths_are_each_others(spec: Spec) -> None:
    """A row has the indices of stem, stages and tail in order; a path off the grid has the nearest row."""
    population = Population(spec)
    for row in random_rows(population, 10):
        path = population.path(row)
        assert (population.row(path) == row).all()
        values = iter(row.tolist())
        assert path[0] == (spec.stem.channels[next(values)], 1, spec.stem.kernel, 1)
        next(values), next(values), next(values)
        for stage, choice in zip(spec.stages, path[1:], strict=False):
            domains = (stage.channels, stage.mid, stage.kernel, stage.depth)
            assert choice == tuple(domain[next(values)] for domain in domains)
        if spec.tail is not None:
            assert path[-1] == (spec.tail.channels[next(values)], 1, 1, 1)
        far = (Choice(10**6, 1, path[0].kernel, 1), *path[1:])
        assert population.path(population.row(far))[0].channels == max(spec.stem.channels)


def toy() -> Spec:
    stage = {"block": "basic", "stride": 2, "kernel": [3], "channels": [8, 16, 24, 32], "mid": [8, 16, 24, 32]}
    table = {
        "name": "toy",
        "input": {"resolution": 32},
        "stem": {"kernel": 3, "stride": 2, "channels": [8]},
        "stage": [{**stage, "depth": [1, 2, 3, 4]}, stage | {"depth": 2}],
        "budget": {"macs": 4e6, "effectiveness": 0.1},
    }
    return Spec.from_table(table)


def test_around_a_row_is_what_two_small_changes_reach() -> None:
    population = Population(toy())
    row = random_rows(population, 1)[0]
    everything = np.array(list(itertools.product(*(range(size) for size in population.sizes))))
    steps = np.abs(everything - row)
    genes, farthest = (steps > 0).sum(axis=1), steps.max(axis=1)
    near = everything[(genes <= 1) | (genes == 2) & (farthest <= 2)]
    found = search.around(population, row)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, near.tolist()))
    assert len(near) < len(everything)


def climbed(spec: Spec, path: Path) -> Path:
    """Where a climb alone ends."""
    return Annealer(Relaxation(spec)).walk(path, unpriced(spec), 0, 0, 1.0, 1.0, 1.0)


def unpriced(spec: Spec) -> Bound:
    relaxation = Relaxation(spec)
    return Bound(math.inf, np.zeros(len(relaxation.least)), (1.0,) * len(relaxation.bounded), None)


def test_a_climb_ends_where_nothing_around_is_better() -> None:
    """The least violation counts first, then the score."""
    population = Population(toy())
    rows = random_rows(population, 20)
    moved = 0
    for row in rows:
        end = population.row(climbed(population.spec, population.path(row)))
        around = search.around(population, end)
        (score, start, *scores), (violation, broken, *excesses) = (
            found.tolist() for found in population.evaluate(np.concatenate([end[None], row[None], around]))
        )
        for other, excess in zip(scores, excesses, strict=True):
            # The climb adds up in floating point.
            assert excess > violation - 1e-9
            assert excess > violation + 1e-9 or other <= score + 1e-9 * abs(score)
        moved += violation < broken - 1e-9 or (violation == broken and score > start)
    assert moved > 10
    _, at_random = population.evaluate(rows)
    assert at_random.min() == 0 < at_random.max()


@QUICK
@given(spec=specs(limit=1000))
def test_a_walk_ends_within_the_space_and_nowhere_worse_than_a_climb(spec: Spec) -> None:
    population = Population(spec)
    start = population.path(random_rows(population, 1)[0])
    box, relaxation = whole(spec), Relaxation(spec)
    program = relaxed(relaxation, box)
    bound = unpriced(spec) if program is None else program.evaluate(program.start)
    annealer = Annealer(relaxation)
    found = annealer.walk(start, bound, 1, 2000, 1e-2, 1e-4, 100.0)
    assert annealer.walk(start, bound, 1, 2000, 1e-2, 1e-4, 100.0) == found
    rows = np.array([population.row(path) for path in (found, climbed(spec, found))])
    assert population.path(rows[0]) == found
    scores, violation = population.evaluate(rows)
    assert violation[0] <= violation[1] + 1e-9
    assert violation[0] > 0 or scores[0] >= scores[1] - 1e-9 * abs(scores[1])


def test_some_walk_of_a_few_ends_near_the_optimum() -> None:
    """Of ten walks at least one ends within half a per cent of the optimum of mobile."""
    spec = Spec.load(ZOO / "mobile" / "spec.toml")
    relaxation, population = Relaxation(spec), Population(spec)
    best = Design.load(ZOO / "mobile" / "design.json").metrics.score
    first = guessed(relaxation, whole(spec).thinned(THIN))
    assert first is not None
    assert first.path is not None
    annealer = Annealer(relaxation)
    walks = [annealer.walk(first.path, first, seed, 300_000, 2e-3, 5e-5, first.value) for seed in range(10)]
    scores, violation = population.evaluate(np.array([population.row(path) for path in walks]))
    assert scores[violation == 0].max() > best * (1 - 5e-3)


def test_an_evolution_never_loses_its_best() -> None:
    """Feasible ones before all others, and in the end the best of all, of these few."""
    population = Population(toy())
    generator = np.random.default_rng(1)

    def vary(rows: Integers) -> Integers:
        return generator.integers(0, population.sizes, (64, len(population.sizes)))

    generations = list(itertools.islice(search.evolve(population, generator, vary), 100))
    ranks = [(violation, -score) for _, score, violation in generations]
    assert ranks == sorted(ranks, reverse=True)
    everything = np.array(list(itertools.product(*(range(size) for size in population.sizes))))
    scores, violation = population.evaluate(everything)
    row, score, broken = generations[-1]
    assert (score, broken) == (pytest.approx(scores[violation == 0].max(), rel=1e-12), 0)
    assert violations(population.spec, Design.chosen(population.spec, population.path(row))) == []


def test_depths_whose_penalty_overflows() -> None:
    """exp(Var) passes the largest float at a variance of 710; rows of such depths are only very bad."""
    stage = {"block": "basic", "stride": 2, "channels": [8], "mid": [8], "kernel": [3], "depth": [1, 100]}
    table = {
        "name": "deep",
        "input": {"resolution": 32},
        "stem": {"kernel": 3, "stride": 2, "channels": [8]},
        "stage": [stage, stage],
    }
    population = Population(Spec.from_table(table))
    for row in random_rows(population, 5):
        path = climbed(population.spec, population.path(row))
        assert [choice.depth for choice in path[1:]] == [100, 100]
