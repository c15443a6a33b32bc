"""The backend interface: statuses, starts, options and processes, on small problems made by hand."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array
from strategies import specs

from mad_ip import catalogue as catalogues
from mad_ip import paths
from mad_ip import solve as solving
from mad_ip.backends import (
    Findings,
    Limits,
    Outcome,
    Problem,
    Profile,
    Progress,
    Search,
    Solver,
    compile_model,
    load_backend,
    solve_apart,
)
from mad_ip.backends.integers import to_integers
from mad_ip.backends.profile import BACKENDS
from mad_ip.decomposition.least import least
from mad_ip.design import Design, violations
from mad_ip.errors import InputError, InternalError
from mad_ip.formulation import Formulation, Window, attainable_spreads
from mad_ip.solve import NoDesignError, choices
from mad_ip.solve import solve as solve_spec
from mad_ip.spec import Budget, Spec

MODELS = Path(__file__).parent.parent / "models"
PACKAGES = {"highs": "highspy", "scip": "pyscipopt", "cpsat": "ortools", "gurobi": "gurobipy", "glpk": "swiglpk"}
"""The solvers of matrices."""
REPORTING = [name for name in PACKAGES if name != "glpk"]
"""Those that take a start and call back."""
PROMPT = 20
"""Seconds within which a busy machine too has stopped what would take it minutes."""
SEARCHES = ("enumerate", "evolution", "decomposition")
"""Those that find designs of a spec by themselves."""

OPTIONS: dict[str, tuple[str, str, object]] = {
    "highs": ("mip_rel_gapp", "mip_rel_gap", -3),
    "scip": ("limits/gapp", "limits/gap", -3),
    "cpsat": ("num_worker", "num_workers", -3),
    "gurobi": ("MIPGapp", "MIPGap", -3),
    "glpk": ("mip_gapp", "mip_gap", -3),
    "enumerate": ("path", "paths", 0),
    "evolution": ("generation", "generations", 0),
    "decomposition": ("clusters", "cluster", 0),
}
"""A misspelt option of every backend, its name, and a value out of its range."""


def problem(
    cost: list[float], rows: list[list[float]], upper: list[float], *, start: list[float] | None = None
) -> Problem:
    """Binary variables, ``rows x <= upper``."""
    matrix = csc_array(np.array(rows, float))
    size = len(cost)
    return Problem(
        cost=np.array(cost, float),
        offset=5.0,
        shape=(len(rows), size),
        starts=matrix.indptr.astype(np.int32),
        rows=matrix.indices.astype(np.int32),
        values=matrix.data,
        row_lower=np.full(len(rows), -np.inf),
        row_upper=np.array(upper, float),
        lower=np.zeros(size),
        upper=np.ones(size),
        integer=np.ones(size, bool),
        start=None if start is None else np.array(start, float),
    )


COST, ROWS, UPPER = [5.0, 4.0, 3.0, 7.0], [[2.0, 3.0, 1.0, 4.0], [4.0, 1.0, 2.0, 3.0]], [5.0, 7.0]


def enumerated() -> float:
    points = (np.array(bits) for bits in itertools.product([0, 1], repeat=4))
    feasible = [x for x in points if (np.array(ROWS) @ x <= UPPER).all()]
    return max(float(np.array(COST) @ x) for x in feasible) + 5.0


def hard(start: list[float] | None = None) -> Problem:
    """A knapsack with many rows, of which no solver proves the optimum within minutes."""
    generator = np.random.default_rng(1)
    rows = generator.integers(1, 1000, (15, 150)).astype(float)
    cost = rows.mean(axis=0) + generator.integers(0, 100, 150)
    return problem(cost.tolist(), rows.tolist(), (rows.sum(axis=1) / 2).tolist(), start=start)


@functools.cache
def known() -> list[float]:
    """A good point of the hard problem, the same on every machine, that no solver begins with."""
    values = solve(hard(), profile=Profile("highs", {"mip_max_nodes": 20})).values
    assert values is not None
    return list(values)


def carry_on(_: Progress | Findings) -> bool:
    return False


def solver(profile: Profile) -> Solver:
    backend = load_backend(profile)
    assert isinstance(backend, Solver)
    return backend


def searcher(profile: Profile) -> Search:
    backend = load_backend(profile)
    assert isinstance(backend, Search)
    return backend


def solve(instance: Problem, limits: Limits = Limits(0.0), profile: Profile = Profile()) -> Outcome:  # noqa: B008
    return solver(profile).solve(instance, limits, carry_on)


def search(spec: Spec, profile: Profile, limits: Limits = Limits(0.0)) -> Findings:  # noqa: B008
    return searcher(profile).solve(spec, limits, carry_on)


def toy() -> Spec:
    return Spec.load(MODELS / "toy" / "spec.toml")


def large() -> Spec:
    """More paths than can be enumerated in minutes."""
    return Spec.load(MODELS / "coarse" / "resnet-basic.toml")


def use(profile: Profile) -> None:
    """Load the backend, and let it solve something small."""
    if profile.backend in SEARCHES:
        search(toy(), profile)
    else:
        solve(problem(COST, ROWS, UPPER), profile=profile)


def test_every_solver_is_installed_here() -> None:
    """A solver that is missing would not be tested; ``pip install .[dev]`` brings them all."""
    for name in BACKENDS:
        assert load_backend(Profile(name)).name == name


@pytest.mark.parametrize("name", PACKAGES)
def test_the_optimum_is_the_enumerated_one(name: str) -> None:
    instance = problem(COST, ROWS, UPPER)
    outcome = solve(instance, profile=Profile(name))
    assert outcome.status == "optimal"
    assert outcome.values is not None
    assert math.isclose(instance.objective(outcome.values), enumerated())
    assert enumerated() - 1e-9 <= outcome.bound <= enumerated() + 1e-5


@pytest.mark.parametrize("name", PACKAGES)
def test_an_infeasible_problem_is_called_so(name: str) -> None:
    outcome = solve(problem([1.0, 1.0], [[-1.0, -1.0], [1.0, 1.0]], [-2.0, 1.0]), profile=Profile(name))
    assert (outcome.status, outcome.bound, outcome.values) == ("infeasible", -math.inf, None)


@pytest.mark.parametrize("name", PACKAGES)
def test_columns_without_bounds_that_only_rows_limit(name: str) -> None:
    """Binary x; s = 1.7 x_0 + 2.3 x_1 + 3.1 x_2 is rewarded, q is at least some multiples of s and costs."""
    size, weights, cuts = 3, [1.7, 2.3, 3.1], [(0.4, 0.1), (1.1, -2.0), (2.9, -9.5)]
    matrix = csc_array(np.array([[*weights, -1.0, 0.0], *([0, 0, 0, slope, -1.0] for slope, _ in cuts)]))
    instance = Problem(
        cost=np.array([0.1, 0.0, -0.2, 1.6, -1.0]),
        offset=0.5,
        shape=matrix.shape,
        starts=matrix.indptr.astype(np.int32),
        rows=matrix.indices.astype(np.int32),
        values=matrix.data,
        row_lower=np.array([0.0, *[-np.inf] * len(cuts)]),
        row_upper=np.array([0.0, *(-intercept for _, intercept in cuts)]),
        lower=np.zeros(5),
        upper=np.array([1.0, 1.0, 1.0, np.inf, np.inf]),
        integer=np.arange(5) < size,
        start=None,
    )
    sums = {bits: float(np.dot(weights, bits)) for bits in itertools.product([0, 1], repeat=size)}
    best = max(
        0.1 * bits[0] - 0.2 * bits[2] + 1.6 * s - max(0.0, *(a * s + b for a, b in cuts)) + 0.5
        for bits, s in sums.items()
    )
    outcome = solve(instance, profile=Profile(name))
    assert outcome.status == "optimal"
    assert math.isclose(outcome.bound, best, rel_tol=1e-6)
    assert outcome.values is not None
    assert math.isclose(instance.objective(outcome.values), best, rel_tol=1e-6)
    assert 0 <= outcome.rounding <= 1e-6
    # With the whole of the choice forced, the costly column is as large as it can be.
    forced = dataclasses.replace(instance, lower=np.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    everything = sum(weights)
    score = -0.1 + 1.6 * everything - max(a * everything + b for a, b in cuts) + 0.5
    assert math.isclose(solve(forced, profile=Profile(name)).bound, score, rel_tol=1e-6)


@pytest.mark.parametrize("name", REPORTING)
def test_a_start_is_honoured(name: str) -> None:
    """The first point that a solver reports is the start, or a better one."""
    instance = hard(start=known())
    scores: list[float] = []

    def watch(progress: Progress) -> bool:
        if progress.values is not None:
            scores.append(instance.objective(progress.values))
        return bool(scores)

    outcome = solver(Profile(name)).solve(instance, Limits(0.0, seconds=10.0), watch)
    assert outcome.values is not None
    assert min([*scores, instance.objective(outcome.values)]) >= instance.objective(np.array(known())) - 1e-6


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("name", PACKAGES)
def test_a_time_limit_is_not_optimality(name: str, apart: bool) -> None:
    profile, instance, limits = Profile(name), hard(), Limits(0.0, seconds=0.5)
    began = time.perf_counter()
    outcome = solve_apart(profile, instance, limits, carry_on) if apart else solve(instance, limits, profile)
    assert time.perf_counter() - began < PROMPT
    assert outcome.status == "stopped"
    assert outcome.values is None or outcome.bound >= instance.objective(outcome.values)


@pytest.mark.parametrize("name", PACKAGES)
def test_no_time_at_all_proves_nothing(name: str) -> None:
    outcome = solve(hard(), Limits(0.0, seconds=0.0), Profile(name))
    assert outcome.status == "stopped"
    # The optimum is above 43,000.
    assert outcome.bound > 43_000


@pytest.mark.parametrize("name", PACKAGES)
def test_watch_stops_a_solve_at_once(name: str) -> None:
    asked: list[float] = []

    def watch(_: Progress) -> bool:
        asked.append(time.perf_counter())
        return len(asked) >= 5

    outcome = solve_apart(Profile(name), hard(), Limits(0.0), watch)
    assert outcome.status == "stopped"
    assert len(asked) == 5
    assert time.perf_counter() - asked[-1] < PROMPT


@pytest.mark.parametrize("name", REPORTING)
def test_watch_stops_a_solve_in_the_same_process(name: str) -> None:
    began = time.perf_counter()
    outcome = solver(Profile(name)).solve(
        hard(), Limits(0.0, seconds=60.0), lambda _: time.perf_counter() - began > 0.2
    )
    assert time.perf_counter() - began < PROMPT
    assert outcome.status == "stopped"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_process_of_its_own_gives_the_same(name: str) -> None:
    instance, profile = problem(COST, ROWS, UPPER), Profile(name)
    here, apart = solve(instance, profile=profile), solve_apart(profile, instance, Limits(0.0), carry_on)
    assert here.values is not None
    assert apart.values is not None
    assert (here.status, here.bound, here.values.tolist()) == (apart.status, apart.bound, apart.values.tolist())


@pytest.mark.parametrize("name", BACKENDS)
def test_an_unknown_option_names_its_neighbours(name: str) -> None:
    wrong, right, _ = OPTIONS[name]
    with pytest.raises(InputError, match=rf"mine\.toml: options\.{wrong} = 1: unknown to .*\b{right}\b"):
        use(Profile(name, {wrong: 1}, "mine.toml"))


def test_an_unknown_option_is_told_by_a_process_of_its_own() -> None:
    with pytest.raises(InputError, match=r"mine\.toml: options\.mip_rel_gapp = 0\.1: .*mip_rel_gap\b"):
        solve_apart(
            Profile("highs", {"mip_rel_gapp": 0.1}, "mine.toml"), problem(COST, ROWS, UPPER), Limits(0.0), carry_on
        )


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "decomposition"])
def test_a_value_that_an_option_does_not_take(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Of another type or out of its range, it is one sentence and nothing else on the terminal."""
    _, key, beyond = OPTIONS[name]
    for value in ("fast", beyond):
        with pytest.raises(InputError, match=r"^mine\.toml: options.*(refuses|must)[^\n]*$") as caught:
            use(Profile(name, {key: value}, "mine.toml"))
        assert key in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("highs", {"mip_max_nodes": 0, "presolve": "off", "mip_heuristic_effort": 0.0}),
        ("scip", {"limits/nodes": 1}),
        ("cpsat", {"max_number_of_conflicts": 10}),
        ("gurobi", {"NodeLimit": 0}),
        ("glpk", {"mip_gap": 0.5}),
        # A wider gap than the asked one is no proof.
        ("scip", {"limits/gap": 0.5}),
        ("gurobi", {"MIPGap": 0.5}),
        ("cpsat", {"relative_gap_limit": 0.5}),
    ],
)
def test_an_option_reaches_the_solver(name: str, options: dict[str, Any]) -> None:
    outcome = solve(hard(), Limits(0.0, seconds=60.0), Profile(name, options))
    assert outcome.status == "stopped"
    assert outcome.bound > 43_000


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "highs"])
def test_a_missing_package_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"mad_ip.backends.{name}", raising=False)
    for module in [module for module in sys.modules if module.split(".")[0] == PACKAGES[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(InputError, match=rf"mine\.toml: backend = '{name}': .*pip install 'mad-ip\[{name}\]'"):
        load_backend(Profile(name, {}, "mine.toml"))


def test_a_licence_that_is_too_small_is_one_sentence() -> None:
    size = 2500
    rows = [[0.0] * size]
    rows[0][0] = 1.0
    with pytest.raises(InputError, match=r"2500 variables and 1 constraints; the free one is limited to 2,000"):
        solve(problem([1.0] * size, rows, [1.0]), profile=Profile("gurobi"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('backend = "highs"\nspeed = 3\n', r"speed = 3: unknown key; allowed are backend, reduction, options"),
        ('backend = "magic"\n', r"backend = 'magic': must be one of highs, scip"),
        ('backend = ["highs"]\n', r"backend = \['highs'\]: must be one of highs, scip"),
        ("[options]\npresolve = 'off'\n", r"backend is missing: must be one of highs, scip"),
        ('backend = "highs"\noptions = 3\n', r"options = 3: must be a table"),
        ('backend = "highs"\nreduction = 3\n', r"reduction = 3: must be true or false"),
        ("backend = \n", r"profile\.toml"),
    ],
)
def test_a_bad_profile_names_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Profile.load(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.toml"])
def test_a_missing_profile(name: str) -> None:
    with pytest.raises(InputError, match="nowhere"):
        Profile.load(name)


def test_the_profiles_of_the_house_load() -> None:
    names = {path.stem for path in (MODELS.parent / "solvers").glob("*.toml")}
    assert names == {*BACKENDS, "highs-monolithic"}
    for name in names:
        profile = Profile.load(name)
        assert profile.backend == name.split("-")[0]
        assert profile.reduction == (name != "highs-monolithic")
        load_backend(profile)


@pytest.mark.parametrize(("status", "bound"), [("infeasible", -math.inf), ("optimal", 10_000.0), ("stopped", 9.0)])
def test_a_wrong_claim_is_not_believed(status: str, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A design of the toy with a score above 10,700 is known before the solver starts."""
    outcome = Outcome(status, bound, None, 0)  # type: ignore[arg-type]
    monkeypatch.setattr(solving, "solve_apart", lambda *_: outcome)
    with pytest.raises(InternalError, match="is below the score 107"):
        solve_spec(toy())


def test_the_toy_is_enumerated() -> None:
    spec = toy()
    design = solve_spec(spec, profile=Profile("enumerate"))
    best = solve_spec(spec)
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert math.isclose(design.metrics.score, best.metrics.score, rel_tol=1e-12)


def test_a_space_that_is_too_large_to_enumerate() -> None:
    with pytest.raises(InputError, match=r"mine\.toml: .* paths are too many; options\.paths = 1,000,000,000"):
        search(large(), Profile("enumerate", {}, "mine.toml"))


def test_enumeration_stops_at_a_limit() -> None:
    began = time.perf_counter()
    found = search(large(), Profile("enumerate", {"paths": 10**40}), Limits(0.0, seconds=1.0))
    assert time.perf_counter() - began < PROMPT
    assert (found.status, found.bound) == ("stopped", math.inf)


def test_evolution_repeats_itself_and_proves_nothing() -> None:
    """It reports ever better designs, and its bound is valid and finite."""
    spec = toy()
    profile = Profile("evolution", {"generations": 40})
    scores: list[float] = []
    first = solve_spec(spec, profile=profile, seed=3, watch=lambda report: scores.append(report.score))
    second = solve_spec(spec, profile=profile, seed=3)
    assert first.metrics == second.metrics
    assert first.certificate is not None
    assert first.certificate.status == "feasible"
    best = solve_spec(spec).metrics.score
    assert first.metrics.score <= best <= first.certificate.bound < math.inf
    assert scores == sorted(scores)
    assert len(set(scores)) > 3
    others = {solve_spec(spec, profile=Profile("evolution", {"generations": 1}), seed=s).metrics for s in range(3)}
    assert len(others) > 1


def test_evolution_is_optimal_at_no_gap_whatever() -> None:
    spec = toy()
    design = solve_spec(spec, profile=Profile("evolution", {"generations": 3}), gap=1.0)
    assert design.certificate is not None
    assert design.certificate.status == "feasible"


def test_evolution_runs_until_its_time_limit() -> None:
    began = time.perf_counter()
    found = search(toy(), Profile("evolution"), Limits(0.0, seconds=1.0))
    assert 1.0 <= time.perf_counter() - began < PROMPT
    assert (found.status, found.bound) == ("stopped", math.inf)
    assert search(toy(), Profile("evolution", {"generations": 7}), Limits(0.0, seconds=60.0)).nodes == 7


def test_evolution_that_finds_nothing() -> None:
    """Only the cheapest architectures are allowed, and 512 attempts at random miss them: that proves nothing."""
    spec = toy()
    cheapest = dataclasses.replace(spec, budget=Budget(macs=least(spec, "macs")))
    assert solve_spec(cheapest, profile=Profile("enumerate")).metrics.macs == cheapest.budget.macs
    with pytest.raises(NoDesignError):
        solve_spec(cheapest, profile=Profile("evolution", {"generations": 1}))


@pytest.mark.parametrize("name", ["enumerate", "decomposition"])
def test_an_infeasible_spec_is_told(name: str) -> None:
    smallest = least(toy(), "macs")
    for macs, status in ((smallest, "optimal"), (smallest - 1, "infeasible")):
        spec = dataclasses.replace(toy(), budget=Budget(macs=macs))
        found = search(spec, Profile(name))
        assert found.status == status
        assert [Design.chosen(spec, path).metrics.macs for path in found.paths] == [macs] * (status == "optimal")
        assert math.isfinite(found.bound) == (status == "optimal")


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_stops_when_it_is_asked(name: str) -> None:
    asked: list[Findings] = []

    def watch(findings: Findings) -> bool:
        asked.append(findings)
        return len(asked) == 3

    options = {"paths": 10**40} if name == "enumerate" else {}
    found = searcher(Profile(name, options)).solve(large(), Limits(0.0), watch)
    assert found.status == "stopped"
    assert len(asked) == 3


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=specs(limit=500), seed=st.integers(0, 100))
def test_integers_cut_off_no_design(spec: Spec, seed: int) -> None:
    """Every feasible design rounds to a feasible point of at least its score, and hardly more."""
    catalogue = paths.within_budgets(catalogues.build(spec))
    if catalogue.is_empty:
        return
    domains = [stage.depth for stage in spec.stages][spec.penalised]
    penalised = spec.objective.depth_penalty > 0
    window = Window(attainable_spreads(domains, 40), len(domains), spec.convention) if penalised else None
    formulation = Formulation(catalogue, window)
    generator = np.random.default_rng(seed)
    for _ in range(5):
        path, c = [], spec.input.channels
        for segment in catalogue.segments:
            path.append(int(generator.choice(np.flatnonzero(segment.c_in == c))))
            c = int(segment.c[path[-1]])
        design = Design.chosen(spec, catalogue.path(path))
        depths = [stage.depth for stage in design.stages][spec.penalised]
        spread = len(depths) * sum(depth**2 for depth in depths) - sum(depths) ** 2
        if violations(spec, design) or spread > 40:
            continue
        formulation.assign(path)
        instance, columns = compile_model(formulation.model, start=True)
        if seed % 2:
            instance = dataclasses.replace(instance, choices=choices(formulation.model, columns))
        assert instance.start is not None
        integers = to_integers(instance)
        k = integers.rounded(instance.start, instance)
        for row in integers.rows:
            total = sum(int(a) * int(x) for a, x in zip(row.coefficients, k[row.columns], strict=True))
            assert row.upper is None or total <= row.upper
            assert row.lower is None or total >= row.lower
        score = instance.objective(instance.start)
        raised = int(integers.cost @ k) * integers.scale + integers.offset
        assert -1e-9 <= (raised - score) / max(1.0, abs(score)) <= 1e-6
        assert np.abs(integers.values(k) - instance.start).max() <= 1e-4
        # Nothing leaves 64 bits, wherever the columns are.
        everything = [(row.coefficients, integers.most[row.columns]) for row in integers.rows]
        for coefficients, most in [*everything, (integers.cost, integers.most)]:
            assert sum(abs(int(a)) * int(x) for a, x in zip(coefficients, most, strict=True)) < 2**62
