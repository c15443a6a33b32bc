"""The decomposition against enumeration, in this process and through solve; its grids; a grid too fine to list."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import oracle
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from strategies import specs

from mad_ip.backends import Profile, load_backend
from mad_ip.catalogue import raw_options
from mad_ip.decomposition import Found, crude_bound, grids, optimise
from mad_ip.decomposition.workers import processes, serial
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.solve import InfeasibleError, solve
from mad_ip.spec import Spec

MODELS = Path(__file__).parents[1] / "models"


@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(spec=specs(limit=2000))
def test_the_optimum_is_the_enumerated_one(spec: Spec) -> None:
    best = oracle.enumerate_best(spec)
    with serial() as workers:
        found = optimise(spec, workers, gap=1e-9)
    if best is None:
        assert found.paths == ()
        assert found.bound == -math.inf
        return
    assert found.paths != ()
    magnitude = best.entropy + best.penalty
    assert found.score == pytest.approx(best.score, rel=1e-9, abs=1e-9)
    assert -1e-9 * magnitude <= found.bound - best.score <= 1e-9 * abs(best.score) + 1e-9 * (1 + magnitude)
    assert crude_bound(spec) >= best.entropy


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


def test_processes_find_what_one_process_finds() -> None:
    spec = Spec.load(MODELS / "deepmad-29m" / "spec.toml")
    with serial() as workers:
        alone = optimise(spec, workers, gap=1e-4)
    with processes(2) as workers:
        together = optimise(spec, workers, gap=1e-4)
    assert together == alone


def test_stopping_keeps_what_is_known() -> None:
    spec = Spec.load(MODELS / "deepmad-r18" / "spec.toml")
    seen: list[Found] = []

    def watch(found: Found) -> bool:
        seen.append(found)
        return len(seen) > 20

    with serial() as workers:
        found = optimise(spec, workers, gap=1e-9, watch=watch)
    assert found.paths != ()
    optimum = Design.load(MODELS / "deepmad-r18" / "design.json").metrics.score
    assert found.score <= optimum * (1 + 1e-12)
    assert found.bound >= optimum


def test_grids_grow_to_the_spec() -> None:
    spec = Spec.load(MODELS / "deepmad-r18" / "spec.toml")
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
    spec = Spec.load(MODELS / "deepmad-29m" / "spec.toml")
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
