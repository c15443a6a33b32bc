"""The first incumbent's evaluation is the design's own, and what it returns is feasible."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from strategies import specs

from mad_ip import catalogue as catalogues
from mad_ip import search
from mad_ip.design import Design, StageChoice, StemChoice, violations
from mad_ip.search import Population
from mad_ip.solve import decode
from mad_ip.spec import Budget, Spec

QUICK = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def design_of(spec: Spec, values: list[int]) -> Design:
    """The design that the values of a row's genes describe."""
    stages = []
    for t, stage in enumerate(spec.stages):
        stages.append(StageChoice(stage.block, stage.stride, *values[1 + 4 * t : 5 + 4 * t], stage.weight))
    return Design.create(
        beta=spec.objective.depth_penalty,
        name=spec.name,
        spec_sha256=spec.sha256,
        convention=spec.convention,
        resolution=spec.input.resolution,
        image_channels=spec.input.channels,
        stem=StemChoice(spec.stem.kernel, spec.stem.stride, values[0], spec.stem.weight),
        stages=tuple(stages),
        tail=None if spec.tail is None else values[-1],
        classes=spec.input.classes,
    )


@QUICK
@given(spec=specs(limit=1000))
def test_rows_are_worth_what_their_designs_are(spec: Spec) -> None:
    population = Population(spec)
    genes = population.genes()
    generator = np.random.default_rng(0)
    rows = generator.integers(0, [len(domain) for domain in genes], (40, len(genes)))
    scores, violation = population.evaluate(rows)
    for row, score, broken in zip(rows, scores, violation, strict=True):
        design = design_of(spec, [int(domain[index]) for domain, index in zip(genes, row, strict=True)])
        assert math.isclose(score, design.metrics.score, rel_tol=1e-11, abs_tol=1e-9)
        limit = spec.budget.effectiveness
        if limit is not None and math.isclose(design.metrics.effectiveness, limit, rel_tol=1e-11):
            continue  # Rounding decides, within the tolerance of a design's own check.
        assert (broken > 0) == bool(violations(spec, design)), violations(spec, design)
        assert broken >= 0


@settings(QUICK, max_examples=6)
@given(spec=specs(limit=1000))
def test_the_first_incumbent_is_feasible_and_repeatable(spec: Spec) -> None:
    catalogue = catalogues.build(spec)
    path = search.first_incumbent(catalogue, 7)
    assert path == search.first_incumbent(catalogue, 7)
    if path is not None:
        assert violations(spec, decode(catalogue, path)) == []


@settings(QUICK, max_examples=6)
@given(spec=specs(limit=1000))
def test_something_is_found_without_budgets(spec: Spec) -> None:
    catalogue = catalogues.build(dataclasses.replace(spec, budget=Budget()))
    path = search.first_incumbent(catalogue, 0)
    assert path is not None
    assert violations(catalogue.spec, decode(catalogue, path)) == []


def test_depths_whose_penalty_overflows() -> None:
    """exp(Var) passes the largest float at a variance of 710; rows of such depths are only very bad."""
    stage = {"block": "basic", "stride": 2, "channels": [8], "mid": [8], "kernel": [3], "depth": [1, 100]}
    table = {
        "name": "deep",
        "input": {"resolution": 32},
        "stem": {"kernel": 3, "stride": 2, "channels": [8]},
        "stage": [stage, stage],
    }
    spec = Spec.from_table(table)
    path = search.first_incumbent(catalogues.build(spec), 0)
    assert path is not None
    depths = {stage.depth for stage in decode(catalogues.build(spec), path).stages}
    assert depths == {100}
