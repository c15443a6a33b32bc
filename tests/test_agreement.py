"""All solvers agree: with enumeration on small random specs, and with each other where they have to branch.

They get the whole formulation, without branch and bound before it, and all the same first incumbent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from strategies import specs

from mad_ip import catalogue as catalogues
from mad_ip import decomposition
from mad_ip import solve as solving
from mad_ip.backends import Limits, Outcome, Problem, Profile
from mad_ip.backends.base import Watch
from mad_ip.catalogue import Catalogue
from mad_ip.decomposition import Found
from mad_ip.design import Design, violations
from mad_ip.paths import within_budgets
from mad_ip.spec import Budget, Spec

MATRIX = ("highs", "scip", "cpsat", "gurobi", "glpk")
AGREEMENT = 1e-6
Solve = Callable[[Profile, Problem, Limits, Watch], Outcome]
SEEDS = (*range(15), 20)
"""Of the mid-size specs; the last one makes Gurobi branch."""

HARDER = 5
"""Every fifth mid-size spec is larger than the others."""


pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(autouse=True)
def _shared(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Found] = {}
    optimise = decomposition.optimise

    def remembered(spec: Spec, *arguments: Any, most: float = math.inf, **more: Any) -> Found:
        if most > 0:
            return optimise(spec, *arguments, most=most, **more)
        key = repr(spec)
        if key not in known:
            known[key] = optimise(spec, *arguments, most=most, **more)
        return known[key]

    monkeypatch.setattr(decomposition, "optimise", remembered)


def solve(spec: Spec, backend: str) -> Design | None:
    """The design with a certificate of its optimality, ``None`` when there is none; checked on the way."""
    try:
        design = solving.solve(spec, profile=Profile(backend, reduction=False))
    except solving.InfeasibleError:
        return None
    certificate = design.certificate
    assert certificate is not None
    assert violations(spec, design) == []
    assert (certificate.backend, certificate.status) == (backend, "optimal"), certificate
    assert certificate.gap <= AGREEMENT
    return design


# A failing spec is small and printed as it is: shrinking it would take thousands of solves.
@settings(
    max_examples=50,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
@given(spec=specs(limit=2000))
def test_every_solver_finds_what_enumeration_finds(spec: Spec) -> None:
    expected = oracle.enumerate_best(spec)
    for backend in (*MATRIX, "enumerate"):
        design = solve(spec, backend)
        story = f"{backend}\n{spec.to_toml()}\noracle: {expected}\n{design}"
        assert (design is None) == (expected is None), story
        if design is None or expected is None:
            continue
        assert design.certificate is not None
        assert math.isclose(design.metrics.score, expected.score, rel_tol=AGREEMENT), story
        assert design.certificate.bound >= expected.score - 1e-9 * abs(expected.score), story


def random_design(catalogue: Catalogue, generator: np.random.Generator) -> Design:
    path, c = [], catalogue.spec.input.channels
    for segment in catalogue.segments:
        path.append(int(generator.choice(np.flatnonzero(segment.c_in == c))))
        c = int(segment.c[path[-1]])
    return Design.chosen(catalogue.spec, catalogue.path(path))


def mid_size(seed: int) -> Spec:
    """Three stages of 200 to 700 options in all, with budgets that a third of the random architectures keep."""
    random = Random(seed)
    stages = [
        {
            "block": random.choice(["basic", "bottleneck", "inverted", "inverted_se"]),
            "stride": 2,
            "channels": sorted(random.sample(range(16 * 2**t, 72 * 2**t + 1, 8), 3)),
            "mid": sorted(random.sample(range(8, 129, 8), 3 if seed % HARDER else 4)),
            "kernel": [3, 5],
            "depth": {"min": 1, "max": 4},
        }
        for t in range(3)
    ]
    table: dict[str, Any] = {
        "name": f"mid-size {seed}",
        "convention": random.choice(["paper", "tinynas"]),
        "input": {"resolution": 128, "classes": 10},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": stages,
    }
    catalogue = catalogues.build(Spec.from_table(table))
    generator = np.random.default_rng(seed)
    sample = [random_design(catalogue, generator).metrics for _ in range(31)]
    keys = random.sample(["macs", "params", "layers", "effectiveness"], random.randint(2, 3))
    budget = {key: sorted(getattr(metrics, key) for metrics in sample)[random.randint(10, 20)] for key in keys}
    return Spec.from_table({**table, "budget": budget})


@pytest.mark.parametrize("seed", SEEDS)
def test_every_solver_agrees_where_it_has_to_branch(seed: int) -> None:
    """The enumeration of all paths knows no matrix and no bound."""
    spec = mid_size(seed)
    expected = solve(spec, "enumerate")
    assert expected is not None
    for backend in MATRIX:
        design = solve(spec, backend)
        assert design is not None
        assert math.isclose(design.metrics.score, expected.metrics.score, rel_tol=AGREEMENT), backend


def test_the_mid_size_specs_are_worth_solving(in_this_process: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of options, several budgets that bind, and a tree to search."""
    nodes: list[int] = []

    def counting(profile: Profile, instance: Problem, limits: Limits, watch: Watch) -> Outcome:
        outcome = in_this_process(profile, instance, limits, watch)
        nodes.append(outcome.nodes)
        return outcome

    monkeypatch.setattr(solving, "solve_apart", counting)
    sample = [mid_size(seed) for seed in SEEDS if seed % HARDER == 0]
    assert {spec.convention for spec in sample} == {"paper", "tinynas"}
    for spec in sample:
        assert len(catalogues.build(spec)) > 200
        design, free = solve(spec, "gurobi"), solve(dataclasses.replace(spec, budget=Budget()), "gurobi")
        assert design is not None
        assert free is not None
        assert design.metrics.score < 0.99 * free.metrics.score
    assert max(nodes) > 1


def test_without_branch_and_bound_a_solver_gets_all_options(
    in_this_process: Solve, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: dict[bool, int] = {}
    spec = mid_size(0)

    for reduction in (False, True):

        def counting(
            profile: Profile, instance: Problem, limits: Limits, watch: Watch, reduction: bool = reduction
        ) -> Outcome:
            columns[reduction] = instance.shape[1]
            return in_this_process(profile, instance, limits, watch)

        monkeypatch.setattr(solving, "solve_apart", counting)
        solving.solve(spec, profile=Profile("gurobi", reduction=reduction))
    within = len(within_budgets(catalogues.build(spec)))
    assert columns[True] < within < columns[False]


def test_designs_are_reported_as_a_solver_finds_them(in_this_process: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a bad start, the scores rise before the solve has ended."""
    spec = mid_size(0)

    def mediocre(*_: Any, **__: Any) -> Found:
        generator = np.random.default_rng(0)
        while True:
            design = random_design(catalogues.build(spec), generator)
            if not violations(spec, design):
                return Found((design.path,), design.metrics.score, design.metrics.score, math.inf, 0)

    def unfinished(profile: Profile, instance: Problem, limits: Limits, watch: Watch) -> Outcome:
        outcome = in_this_process(profile, instance, limits, watch)
        return dataclasses.replace(outcome, status="stopped", values=None)

    expected = solve(spec, "enumerate")
    assert expected is not None
    monkeypatch.setattr(decomposition, "optimise", mediocre)
    monkeypatch.setattr(solving, "solve_apart", unfinished)
    scores: list[float] = []
    design = solving.solve(
        spec, profile=Profile("scip", reduction=False), watch=lambda report: scores.append(report.score)
    )
    assert scores == sorted(scores)
    assert len({score for score in scores if math.isfinite(score)}) > 2
    assert math.isclose(design.metrics.score, expected.metrics.score, rel_tol=AGREEMENT)
