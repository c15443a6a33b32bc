"""The decomposition against enumeration, in this process and through solve; its grids; a grid too fine to list."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from unittest.mock import patch

import oracle
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from strategies import specs

from mad_ip import solve as solving
from mad_ip.backends import Limits, Outcome, Problem, Profile, load_backend
from mad_ip.backends.base import Watch
from mad_ip.catalogue import raw_options
from mad_ip.decomposition import Found, crude_bound, optimise, unreachable
from mad_ip.decomposition.least import least
from mad_ip.decomposition.workers import processes, serial
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.lagrangian.grids import grids
from mad_ip.solve import InfeasibleError, rank, solve
from mad_ip.spec import Spec

MODELS = Path(__file__).parents[1] / "models"
MONOLITHIC = Profile("highs", reduction=False)


def in_this_process(profile: Profile, instance: Problem, limits: Limits, watch: Watch) -> Outcome:
    """Instead of :func:`mad_ip.backends.solve_apart`, for many small solves."""
    return load_backend(profile).solve(instance, limits, watch)


@settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(spec=specs(limit=2000))
def test_the_optimum_is_the_enumerated_one_and_the_formulations(spec: Spec) -> None:
    """The three best, against enumeration; the best, against HiGHS on the whole formulation."""
    feasible = [architecture for architecture in oracle.architectures(spec) if oracle.fits(spec.budget, architecture)]
    expected = sorted((architecture.score for architecture in feasible), reverse=True)
    with serial() as workers:
        found = optimise(spec, workers, gap=1e-9)
        ranked = optimise(spec, workers, gap=1e-9, top=3)
    if not feasible:
        assert (found.paths, ranked.paths) == ((), ())
        assert found.bound == ranked.bound == -math.inf
        with pytest.raises(InfeasibleError), patch.object(solving, "solve_apart", in_this_process):
            solve(spec, profile=MONOLITHIC)
        return
    largest = max(architecture.entropy + architecture.penalty for architecture in feasible)
    slack = 1e-9 * abs(expected[0]) + 1e-9 * (1 + largest)
    assert found.score == pytest.approx(expected[0], rel=1e-9, abs=1e-9)
    assert -1e-9 * (1 + largest) <= found.bound - expected[0] <= slack
    assert crude_bound(spec) >= max(feasible, key=lambda architecture: architecture.score).entropy
    scores = [Design.chosen(spec, path).metrics.score for path in ranked.paths]
    assert scores == pytest.approx(expected[:3], rel=1e-9, abs=slack)
    assert len(set(ranked.paths)) == len(ranked.paths)
    if len(feasible) >= 3:
        assert -1e-9 * (1 + largest) <= ranked.bound - expected[2] <= slack
    else:
        assert ranked.bound == -math.inf
    with patch.object(solving, "solve_apart", in_this_process):
        assert solve(spec, profile=MONOLITHIC).metrics.score == pytest.approx(found.score, rel=1e-9, abs=1e-9)


@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(spec=specs(limit=2000))
def test_the_least_of_every_budget_is_the_enumerated_one(spec: Spec) -> None:
    minima = oracle.minima(spec)
    limits = {key: value for key, value in dataclasses.asdict(spec.budget).items() if value is not None}
    for key in limits:
        assert least(spec, key) == pytest.approx(getattr(minima, key), rel=0 if key != "effectiveness" else 2e-9)
    budgets = [architecture for architecture in oracle.architectures(spec) if oracle.fits(spec.budget, architecture)]
    assert unreachable(spec, 60) == (not budgets)


def test_solve_gives_a_certified_design_and_names_a_conflict() -> None:
    spec = Spec.load(MODELS / "toy" / "spec.toml")
    design = solve(spec, profile=Profile("decomposition"))
    stored = Design.load(MODELS / "toy" / "design.json")
    assert design.stages == stored.stages
    assert design.metrics == stored.metrics
    certificate = design.certificate
    assert certificate is not None
    assert (certificate.backend, certificate.status) == ("decomposition", "optimal")
    poor = dataclasses.replace(spec, budget=dataclasses.replace(spec.budget, macs=1e5), sha256="")
    with pytest.raises(InfeasibleError, match=r"budget\.macs"):
        solve(poor, profile=Profile("decomposition"))


def test_designs_are_ranked_with_a_certificate_each() -> None:
    """Eight of the toy's, all within a gap of zero; a profile of another solver cannot rank."""
    spec = Spec.load(MODELS / "toy" / "spec.toml")
    designs = rank(spec, 8)
    scores = [architecture.score for architecture in oracle.architectures(spec)]
    fitting = sorted((a.score for a in oracle.architectures(spec) if oracle.fits(spec.budget, a)), reverse=True)
    assert len(scores) > len(fitting) > 8
    for design, score in zip(designs, fitting, strict=False):
        assert violations(spec, design) == []
        assert design.metrics.score == pytest.approx(score, rel=1e-12)
        assert design.certificate is not None
        assert design.certificate.status == "optimal"
        assert design.certificate.bound == pytest.approx(score, rel=1e-9)
    assert len(designs) == 8
    with pytest.raises(InputError, match="--top: only the decomposition"):
        rank(spec, 2, profile=Profile("highs"))


def test_processes_find_what_one_process_finds() -> None:
    spec = Spec.load(MODELS / "coarse" / "deepmad-29m.toml")
    with serial() as workers:
        alone = optimise(spec, workers, gap=1e-4)
    with processes(2) as workers:
        together = optimise(spec, workers, gap=1e-4)
    assert together == alone


def test_stopping_keeps_what_is_known() -> None:
    spec = Spec.load(MODELS / "mobile" / "spec.toml")
    seen: list[Found] = []

    def watch(found: Found) -> bool:
        seen.append(found)
        return len(seen) > 20

    with serial() as workers:
        found = optimise(spec, workers, gap=1e-9, watch=watch)
    assert found.paths != ()
    optimum = Design.load(MODELS / "mobile" / "design.json").metrics.score
    assert found.score <= optimum * (1 + 1e-12)
    assert found.bound >= optimum


def test_grids_grow_to_the_spec() -> None:
    spec = Spec.load(MODELS / "coarse" / "deepmad-r18.toml")
    widths = tuple(range(8, 513, 8))
    stages = tuple(dataclasses.replace(stage, channels=widths, mid=widths[:30]) for stage in spec.stages)
    fine = dataclasses.replace(spec, stages=stages, sha256="")
    sizes = [raw_options(grid) for grid in grids(fine)]
    assert sizes == sorted(sizes)
    assert len(sizes) == 4
    *coarse, last = grids(fine)
    assert last == fine
    for grid in coarse:
        for part, all_of in zip(grid.stages, fine.stages, strict=True):
            assert set(part.channels) <= set(all_of.channels)
            assert {part.channels[0], part.channels[-1]} == {widths[0], widths[-1]}


def test_a_grid_too_fine_to_list_is_decomposed() -> None:
    """Six million options; the bound of every design is proven to 0.1 %."""
    spec = Spec.load(MODELS / "coarse" / "deepmad-29m.toml")
    stages = tuple(
        dataclasses.replace(
            stage, channels=tuple(range(8, 321, 8)), mid=tuple(range(8, 961, 8)), depth=tuple(range(1, 17))
        )
        for stage in spec.stages
    )
    fine = dataclasses.replace(spec, stages=stages, sha256="")
    assert raw_options(fine) > 5_000_000
    design = solve(fine, gap=1e-3, time_limit=120)
    assert design.certificate is not None
    assert design.certificate.backend == "decomposition"
    assert design.certificate.status == "optimal"
    assert violations(fine, design) == []


def test_a_cluster_is_an_address() -> None:
    with pytest.raises(InputError, match=r"mine\.toml: options\.cluster = 0: must be the address"):
        load_backend(Profile("decomposition", {"cluster": 0}, "mine.toml"))
