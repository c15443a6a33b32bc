"""The decomposition and the solver after it against enumeration; its ends; a grid too fine to list."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import oracle
import pytest
from fine import as_if_fine
from hypothesis import HealthCheck, Phase, given, seed, settings
from strategies import specs

from mad_ip import decomposition
from mad_ip import solve as solving
from mad_ip.backends import Problem, Profile, load_backend
from mad_ip.catalogue import raw_options
from mad_ip.decomposition import Found, crude_bound, optimise, unreachable
from mad_ip.decomposition.least import least
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.lagrangian import dual, workers
from mad_ip.lagrangian.tree import Examined
from mad_ip.lagrangian.workers import threads
from mad_ip.solve import InfeasibleError, rank, solve
from mad_ip.spec import CONVENTIONS, FAMILIES, Budget, Spec

MODELS = Path(__file__).parents[1] / "models"

SURVIVORS, EVERYTHING = Profile("highs"), Profile("highs", reduction=False)

SAME = 1e-9
"""Relative difference of equal scores."""


def sample(batch: int, number: int, check: Callable[[Spec], None], *, clips: bool = False) -> list[Spec]:
    """Check so many specs, others in every batch; a failing one is small and printed as it is."""
    drawn: list[Spec] = []

    @seed(batch)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spec=specs(limit=600, clips=clips))
    def every(spec: Spec) -> None:
        drawn.append(spec)
        try:
            check(spec)
        except Exception as error:
            error.add_note(spec.to_toml())
            raise

    every()
    return drawn


def feasible(spec: Spec) -> list[oracle.Best]:
    """What keeps the budgets, the best first."""
    fitting = (architecture for architecture in oracle.architectures(spec) if oracle.fits(spec.budget, architecture))
    return sorted(fitting, key=lambda architecture: -architecture.score)


def designed(spec: Spec, profile: Profile) -> Design | None:
    """The certified optimum; ``None`` when there is no design."""
    try:
        design = solve(spec, profile=profile)
    except InfeasibleError:
        return None
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert violations(spec, design) == []
    return design


def is_best(design: Design | None, expected: list[oracle.Best]) -> bool:
    if design is None or not expected:
        return design is None and not expected
    return math.isclose(design.metrics.score, expected[0].score, rel_tol=SAME, abs_tol=SAME)


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch, in_this_process: Any) -> None:
    """Little search before branch and bound, which then has something to do, and no words on what is infeasible."""
    monkeypatch.setattr(decomposition, "_WALKS", 1)
    monkeypatch.setattr(decomposition, "_STEPS", 300)
    monkeypatch.setattr(decomposition, "_SHORT", 100)
    monkeypatch.setattr(solving, "explain", lambda *_: "infeasible")


@pytest.mark.usefixtures("unlucky")
@pytest.mark.parametrize(("batch", "fine"), [*((batch, False) for batch in (0, 1, 2, 3, 4, 6)), (0, True), (5, True)])
def test_all_roads_lead_to_the_enumerated_optimum(batch: int, fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Branch and bound alone and its three best, HiGHS on what survives it, HiGHS on everything."""
    if fine:
        as_if_fine(monkeypatch)

    def check(spec: Spec) -> None:
        expected = feasible(spec)
        scores = [architecture.score for architecture in expected]
        with threads(1) as one:
            found = optimise(spec, one, gap=SAME)
        for profile in (SURVIVORS, EVERYTHING):
            assert is_best(designed(spec, profile), expected), profile
        if not expected:
            assert (found.paths, found.bound) == ((), -math.inf)
            with pytest.raises(InfeasibleError):
                rank(spec, 3)
            return
        largest = max(architecture.entropy + architecture.penalty for architecture in expected)
        slack = SAME * (1 + abs(scores[0]) + largest)
        assert found.score == pytest.approx(scores[0], rel=SAME, abs=SAME)
        assert abs(found.bound - scores[0]) <= slack
        assert crude_bound(spec) >= max(architecture.entropy for architecture in oracle.architectures(spec))
        ranked = rank(spec, 3)
        assert [design.metrics.score for design in ranked] == pytest.approx(scores[:3], rel=SAME, abs=slack)
        assert len({design.path for design in ranked}) == len(ranked)
        for design in ranked:
            assert violations(spec, design) == []
            assert design.certificate is not None
            assert design.certificate.status == "optimal"

    drawn = sample(batch, 50, check, clips=batch == 6)
    assert {spec.convention for spec in drawn} == {"paper", "tinynas"}
    assert {stage.block for spec in drawn for stage in spec.stages} == set(FAMILIES)
    assert {spec.tail is None for spec in drawn} == {True, False}
    assert {bool(feasible(spec)) for spec in drawn} == {True, False}
    for key in ("macs", "params", "layers", "effectiveness"):
        assert {getattr(spec.budget, key) is None for spec in drawn} == {True, False}


@pytest.mark.usefixtures("unlucky")
def test_the_least_and_the_most_carried_may_be_the_same() -> None:
    """With bounds on it as near to each other as that, HiGHS 1.16 claimed 1460.5 as the optimum."""
    stage = {"block": "inverted", "stride": 2}
    spec = Spec.from_table(
        {
            "name": "presolve",
            "input": {"resolution": 96},
            "budget": {"macs": 10187704, "params": 472251, "effectiveness": 0.3135684804621656, "layers": 22},
            "objective": {"depth_penalty": 200},
            "stem": {"kernel": 7, "stride": 4, "channels": [8, 12, 16]},
            "stage": [
                {**stage, "channels": [8, 40], "mid": [31, 48, 73, 95], "kernel": 7, "depth": 2, "weight": 1},
                {**stage, "block": "basic", "channels": [8, 56, 109], "mid": 32, "kernel": 5, "depth": 3, "weight": 1},
                {**stage, "stride": 1, "channels": [24, 32, 58, 80], "mid": 64, "kernel": 5, "depth": 1, "weight": 1},
                {**stage, "channels": 109, "mid": [16, 31, 32, 75], "kernel": 3, "depth": 2, "weight": 1},
            ],
        }
    )
    assert feasible(spec)[0].score == pytest.approx(1583.717967939715)
    assert is_best(designed(spec, EVERYTHING), feasible(spec))


def tight(number: int) -> Spec:
    """10,368 architectures of two stages; two of the budgets are each kept by a few of them."""
    random = Random(number)
    stages = [
        {
            "block": random.choice(FAMILIES),
            "stride": 2,
            "channels": sorted(random.sample(range(16 * t, 72 * t, 8), 3)),
            "mid": sorted(random.sample(range(8, 129, 8), 3)),
            "kernel": [3, 5],
            "depth": {"min": 1, "max": 4},
        }
        for t in (1, 2)
    ]
    table: dict[str, Any] = {
        "name": f"tight {number}",
        "convention": random.choice(CONVENTIONS),
        "input": {"resolution": 64, "classes": 10},
        "space": {"monotone": False},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": stages,
    }
    everything = oracle.architectures(Spec.from_table(table))
    limits = {}
    for key in random.sample(["macs", "params", "layers", "effectiveness"], 2):
        values = sorted(getattr(architecture, key) for architecture in everything)
        limits[key] = values[len(values) // 15]
    return Spec.from_table({**table, "budget": limits})


@pytest.mark.usefixtures("unlucky")
@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 7])
def test_a_solver_takes_over_what_branch_and_bound_leaves(
    number: int, in_this_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a box and after a round, also where no design is known by then: the solver then finds one first."""
    spec = tight(number)
    expected = feasible(spec)
    given: list[Problem] = []

    def counted(profile: Profile, problem: Problem, *rest: Any) -> Any:
        given.append(problem)
        return in_this_process(profile, problem, *rest)

    monkeypatch.setattr(solving, "solve_apart", counted)
    for boxes in (1, 9):
        given.clear()
        monkeypatch.setattr(solving, "_BOXES", boxes)
        assert is_best(designed(spec, SURVIVORS), expected)
        assert len(given) > 0
    right = workers.examine

    def silent(*arguments: Any, **options: Any) -> Examined:
        found = right(*arguments, **options)
        return found if found.kind == "point" else dataclasses.replace(found, candidates=found.candidates[:1])

    monkeypatch.setattr(workers, "examine", silent)
    monkeypatch.setattr(decomposition, "_WALKS", 0)
    monkeypatch.setattr(decomposition._Descent, "explore", lambda *_: None)
    for boxes, profile in ((1, SURVIVORS), (9, SURVIVORS), (9, EVERYTHING)):
        given.clear()
        monkeypatch.setattr(solving, "_BOXES", boxes)
        assert is_best(designed(spec, profile), expected)
        assert [problem.start is None for problem in given] == [True, False]
        assert given[0].integer.sum() > 50


@pytest.mark.parametrize("batch", range(4))
def test_the_least_of_every_budget_is_the_enumerated_one(batch: int) -> None:
    def check(spec: Spec) -> None:
        minima = oracle.minima(spec)
        for key in spec.budget.given:
            assert least(spec, key) == pytest.approx(getattr(minima, key), rel=0 if key != "effectiveness" else 2e-9)
        assert unreachable(spec, 60) == (not feasible(spec))

    sample(batch, 15, check)


def test_solve_gives_a_certified_design_and_names_a_conflict() -> None:
    spec = Spec.load(MODELS / "toy" / "spec.toml")
    design = solve(spec, profile=Profile("decomposition"))
    stored = Design.load(MODELS / "toy" / "design.json")
    assert design.stages == stored.stages
    assert design.metrics == stored.metrics
    certificate = design.certificate
    assert certificate is not None
    assert (certificate.backend, certificate.status) == ("decomposition", "optimal")
    poor = dataclasses.replace(spec, budget=Budget(**{**spec.budget.given, "macs": 1e5}), sha256="")
    with pytest.raises(InfeasibleError, match=r"budget\.macs"):
        solve(poor, profile=Profile("decomposition"))


def test_designs_are_ranked_with_a_certificate_each() -> None:
    """Eight of the toy's, all within a gap of zero; a profile of another solver cannot rank."""
    spec = Spec.load(MODELS / "toy" / "spec.toml")
    designs = rank(spec, 8)
    fitting = feasible(spec)
    assert len(oracle.architectures(spec)) > len(fitting) > 8
    assert len(designs) == 8
    for design, best in zip(designs, fitting, strict=False):
        assert violations(spec, design) == []
        assert design.metrics.score == pytest.approx(best.score, rel=1e-12)
        assert design.certificate is not None
        assert design.certificate.status == "optimal"
        assert design.certificate.bound == pytest.approx(best.score, rel=1e-9)
    with pytest.raises(InputError, match="--top: only the decomposition"):
        rank(spec, 2, profile=Profile("highs"))


def test_threads_find_what_one_thread_finds() -> None:
    spec = Spec.load(MODELS / "coarse" / "deepmad-29m.toml")
    found = []
    for number in (1, 2, 3):
        with threads(number) as some:
            found.append(optimise(spec, some, gap=1e-4, top=3))
    assert found[0] == found[1] == found[2]
    assert len(found[0].paths) == 3


@pytest.fixture(scope="module")
def coarse() -> tuple[Spec, float]:
    """A spec that takes some 800 evaluations of the relaxation, and its optimum."""
    spec = Spec.load(MODELS / "coarse" / "deepmad-r18.toml")
    with threads(1) as one:
        return spec, optimise(spec, one, gap=1e-9).score


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("evaluations", [0, 1, 40, 400])
def test_it_stops_at_any_moment_and_keeps_what_is_known(
    evaluations: int, number: int, coarse: tuple[Spec, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many evaluations, most of which are in the middle of a box."""
    spec, optimum = coarse
    done = 0
    right = dual._improve

    def counting(search: Any, *arguments: Any) -> Any:
        nonlocal done
        left = search.counts[dual._LEFT]
        going = right(search, *arguments)
        done += left - search.counts[dual._LEFT]
        return going

    monkeypatch.setattr(dual, "_improve", counting)
    with threads(number) as some:
        found = optimise(spec, some, gap=0.0, stop=lambda: done >= evaluations)
    assert found.paths != ()
    assert found.score <= optimum * (1 + 1e-12)
    assert optimum * (1 - 1e-12) <= found.bound < math.inf

    # What a thread is at is done first.
    assert done <= max(evaluations, dual.EVALUATIONS) + number * dual.EVALUATIONS


def test_the_watch_stops_it_too(coarse: tuple[Spec, float]) -> None:
    spec, optimum = coarse
    seen: list[Found] = []

    def watch(found: Found) -> bool:
        seen.append(found)
        return len(seen) > 8

    with threads(1) as one:
        found = optimise(spec, one, gap=1e-9, watch=watch)
    assert found.paths != ()
    assert found.score <= optimum * (1 + 1e-12)
    assert found.bound > optimum * (1 + 1e-6)


def fine() -> Spec:
    """Six million options."""
    spec = Spec.load(MODELS / "coarse" / "deepmad-29m.toml")
    stages = tuple(
        dataclasses.replace(
            stage, channels=tuple(range(8, 321, 8)), mid=tuple(range(8, 961, 8)), depth=tuple(range(1, 17))
        )
        for stage in spec.stages
    )
    return dataclasses.replace(spec, stages=stages, sha256="")


def test_a_grid_too_fine_to_list_is_solved() -> None:
    """The bound on every design is proven to 0.1 %."""
    spec = fine()
    assert raw_options(spec) > 5_000_000
    design = solve(spec, gap=1e-3, time_limit=120)
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert violations(spec, design) == []


def test_a_time_limit_leaves_a_design_and_a_bound() -> None:
    spec = fine()
    reports: list[float] = []
    design = solve(spec, gap=0.0, time_limit=0.5, watch=lambda report: reports.append(report.seconds))
    certificate = design.certificate
    assert certificate is not None
    assert certificate.status == "feasible"
    assert 0.5 <= certificate.seconds < 20
    assert design.metrics.score < certificate.bound < 2 * design.metrics.score
    assert reports == sorted(reports)


def test_a_cluster_is_an_address() -> None:
    with pytest.raises(InputError, match=r"mine\.toml: options\.cluster = 0: must be the address"):
        load_backend(Profile("decomposition", {"cluster": 0}, "mine.toml"))
