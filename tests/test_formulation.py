"""The MILP of docs/formulation.md section 3: its size, its exactness on every path, and its optimum."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import specs
from test_catalogue import catalogue_paths

from mad_ip import catalogue as catalogues
from mad_ip import entropy, paths
from mad_ip.backends import Limits, Outcome, Problem, Profile, compile_model, load_backend
from mad_ip.catalogue import Catalogue
from mad_ip.design import Design, violations
from mad_ip.formulation import Formulation, Window, attainable_spreads
from mad_ip.spec import Spec

QUICK = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

TOLERANCE = 1e-6


def window_of(spec: Spec, least: int = 0) -> Window | None:
    if spec.objective.depth_penalty == 0:
        return None
    domains = [stage.depth for stage in spec.stages][spec.penalised]
    spreads = [spread for spread in attainable_spreads(domains) if spread >= least]
    return Window(tuple(spreads), len(domains), spec.convention)


def spread_of(catalogue: Catalogue, path: tuple[int, ...]) -> int:
    depth = [stage.depth for stage in decode(catalogue, path).stages]
    return entropy.spread(depth[catalogue.spec.penalised])


def decode(catalogue: Catalogue, path: tuple[int, ...]) -> Design:
    """The design of a path of options."""
    return Design.chosen(catalogue.spec, catalogue.path(path))


def broken(model: Any) -> set[str]:
    """Names of the constraint components that the variables' values miss, bounds and integrality among them."""
    found = set()
    for row in model.component_data_objects(pyo.Constraint, active=True):
        body = pyo.value(row.body)
        low = -math.inf if row.lower is None else pyo.value(row.lower)
        high = math.inf if row.upper is None else pyo.value(row.upper)
        if not low - TOLERANCE <= body <= high + TOLERANCE:
            found.add(row.parent_component().name)
    for variable in model.component_data_objects(pyo.Var):
        low, high = variable.bounds
        value = variable.value
        inside = (low is None or value >= low - TOLERANCE) and (high is None or value <= high + TOLERANCE)
        if not inside or (variable.is_integer() and value != round(value)):
            found.add(variable.name)
    return found


def solved(problem: Problem) -> Outcome:
    return load_backend(Profile()).solve(problem, Limits(0.0), lambda _: False)


def small_table(number: int = 2, **more: Any) -> dict[str, Any]:
    stage = {"block": "bottleneck", "stride": 2, "mid": [8, 16], "kernel": [3], "depth": [1, 2, 4]}
    return {
        "name": "small",
        "input": {"resolution": 64},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": [{**stage, "channels": [16, 24]} for _ in range(number)],
        **more,
    }


@QUICK
@given(spec=specs(limit=1000))
def test_sizes_follow_from_the_catalogue(spec: Spec) -> None:
    catalogue = catalogues.build(spec)
    segments, window = catalogue.segments, window_of(spec)
    model = Formulation(catalogue, window).model
    options = sum(len(s) for s in segments)
    pairs = [len(set(zip(s.c_in.tolist(), s.c.tolist(), strict=True))) for s in segments]
    nodes = [len(set(s.c.tolist())) for s in segments]
    depth = [sorted(set(s.depth.tolist())) for s in segments[1 : 1 + len(spec.stages)]]
    stages = len(spec.stages)
    limited = spec.budget.effectiveness is not None
    bounded = [n for n, s in enumerate(segments) if limited and s.segment.bounded]
    reached, attainable = {0}, []
    for segment in segments:
        reached = {a + b for a in reached for b in set(segment.layers.tolist())}
        attainable.append(len(reached))
    variables = {
        "x": options,
        "y": sum(pairs),
        "z": sum(len(values) for values in depth),
        "depth": stages,
        "F": sum(pairs[1:]),
        "S": sum(nodes),
        "layers": len(bounded),
    }
    constraints = {
        "one_path": 1,
        "pair": sum(pairs),
        "flow": sum(nodes[:-1]),
        "depth_choice": variables["z"],
        "depth_value": stages,
        "log_width": sum(nodes),
        "carry": sum(nodes[:-1]),
        "carry_least": sum(pairs[1:]),
        "carry_most": sum(pairs[1:]),
        "budget": sum(getattr(spec.budget, budget) is not None for budget in ("macs", "params", "layers")),
        "layer_count": len(bounded),
        # One secant between neighbours; a single point gives one constant.
        "effectiveness": sum(max(1, attainable[s] - 1) for s in bounded),
        "excluded": 0,
    }
    if window is not None:
        penalised = depth[2:] if spec.convention == "tinynas" and stages >= 4 else depth
        duos = [(a, b) for n, a in enumerate(penalised) for b in penalised[n + 1 :]]
        variables["w"] = len(duos)
        constraints["square"] = sum(max(1, len({i - j for i in a for j in b}) - 1) for a, b in duos)
        if duos:
            constraints["spread"] = 1
        if spec.convention == "paper":
            variables["q"] = 1
            constraints["exponential"] = max(1, len(window.spreads) - 1)
        else:
            variables["v"] = len(window.spreads)
            constraints["one_spread"] = 1
            if duos:
                constraints["spread_choice"] = 1
    assert {v.name: len(v) for v in model.component_objects(pyo.Var)} == variables
    assert {c.name: len(c) for c in model.component_objects(pyo.Constraint)} == constraints


@pytest.mark.parametrize("convention", ["paper", "tinynas"])
def test_a_model_written_twice_is_the_same_to_the_byte(convention: str, tmp_path: Path) -> None:
    budget = {"macs": 1e7, "effectiveness": 0.5}
    spec = Spec.from_table(small_table(convention=convention, budget=budget))
    texts = []
    for name in ("one.lp", "two.lp"):
        model = Formulation(catalogues.build(spec), window_of(spec)).model
        model.write(str(tmp_path / name), io_options={"symbolic_solver_labels": True})
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1]
    assert b"x(1_0)" in texts[0]


@QUICK
@given(spec=specs(limit=40))
def test_the_model_holds_on_a_path_exactly_when_its_design_is_feasible(spec: Spec) -> None:
    catalogue = catalogues.build(spec)
    everything = catalogue_paths(catalogue)
    if len(everything) > 40:
        return
    # The carried bounds assume the budgets; what is beyond them may miss (3.7) as well.
    formulation = Formulation(catalogue, window_of(spec))
    for path in everything:
        formulation.assign(path)
        design = decode(catalogue, path)
        limit = spec.budget.effectiveness
        if limit is not None and math.isclose(design.metrics.effectiveness, limit, rel_tol=1e-4):
            if not violations(spec, design):
                assert broken(formulation.model) == set()
            continue
        expected = set()
        for budget, most in spec.budget.sums.items():
            if getattr(design.metrics, budget) > most:
                expected.add("budget")
        if limit is not None and design.metrics.effectiveness > limit:
            expected.add("effectiveness")
        assert broken(formulation.model) - {"carry_most"} == expected
        if not expected:
            assert "carry_most" not in broken(formulation.model)
            score = design.metrics.score
            scale = max(1.0, design.metrics.entropy, design.metrics.depth_penalty)
            assert abs(pyo.value(formulation.model.score) - score) <= 1e-9 * scale


@pytest.mark.parametrize("convention", ["paper", "tinynas"])
@pytest.mark.parametrize("beta", [0, 10])
@pytest.mark.parametrize("least", [0, 4])
def test_the_window_changes_no_score(convention: str, beta: float, least: int) -> None:
    """A window from a larger spread on has a larger base, which the objective adds back."""
    spec = Spec.from_table(small_table(convention=convention, objective={"depth_penalty": beta}))
    catalogue = catalogues.build(spec)
    window = window_of(spec, least)
    formulation = Formulation(catalogue, window)
    assert window is None or (window.base > 1) == (least > 0)
    checked = 0
    for path in catalogue_paths(catalogue)[::5]:
        if window is not None and spread_of(catalogue, path) < least:
            continue
        checked += 1
        formulation.assign(path)
        assert broken(formulation.model) == set()
        score = decode(catalogue, path).metrics.score
        assert math.isclose(pyo.value(formulation.model.score), score, rel_tol=1e-9)
    assert checked > 0


def test_exclude_cuts_one_path_and_no_other() -> None:
    spec = Spec.from_table(small_table(number=1))
    catalogue = catalogues.build(spec)
    everything = catalogue_paths(catalogue)
    formulation = Formulation(catalogue, window_of(spec))
    formulation.exclude(everything[3])
    for path in everything:
        formulation.assign(path)
        assert broken(formulation.model) == ({"excluded"} if path == everything[3] else set())


@settings(QUICK, max_examples=12)
@given(spec=specs(limit=200))
def test_the_optimum_and_what_follows_it(spec: Spec) -> None:
    """Excluding each optimum in turn walks down the ranking of the feasible paths."""
    catalogue = paths.within_budgets(catalogues.build(spec))
    if catalogue.is_empty:
        return
    designs = {path: decode(catalogue, path) for path in catalogue_paths(catalogue)}
    ranking = sorted((d.metrics.score for d in designs.values() if not violations(spec, d)), reverse=True)
    formulation = Formulation(catalogue, window_of(spec))
    for rank in range(3):
        problem, columns = compile_model(formulation.model, start=False)
        outcome = solved(problem)
        if rank >= len(ranking):
            if outcome.values is not None:
                # Only a tolerance on effectiveness lets something through, and solve excludes it.
                assert violations(spec, designs[formulation.path(columns, outcome.values)])
            return
        assert outcome.values is not None
        path = formulation.path(columns, outcome.values)
        if violations(spec, designs[path]):
            return
        scale = max(1.0, abs(ranking[rank]))
        assert abs(designs[path].metrics.score - ranking[rank]) <= 1e-6 * scale
        assert abs(problem.objective(outcome.values) - ranking[rank]) <= 1e-6 * scale
        formulation.exclude(path)


@pytest.mark.parametrize("convention", ["paper", "tinynas"])
@pytest.mark.parametrize("beta", [0.5, 10, 60])
def test_the_depth_penalty_is_exact_where_depths_must_differ(convention: str, beta: float) -> None:
    table = small_table(3, convention=convention, objective={"depth_penalty": beta})
    for stage, domain in zip(table["stage"], ([1, 2], [3, 4], [2, 3, 5]), strict=True):
        stage["depth"] = domain
    catalogue = catalogues.build(Spec.from_table(table))
    best = max(decode(catalogue, path).metrics.score for path in catalogue_paths(catalogue))
    problem, _ = compile_model(Formulation(catalogue, window_of(catalogue.spec)).model, start=False)
    outcome = solved(problem)
    assert outcome.values is not None
    assert math.isclose(problem.objective(outcome.values), best, rel_tol=1e-7)


@pytest.mark.parametrize("convention", ["paper", "tinynas"])
def test_a_single_stage_with_a_single_option(convention: str) -> None:
    table = small_table(1, convention=convention, budget={"effectiveness": 10.0, "layers": 100})
    table["stem"]["channels"] = 8
    table["stage"][0].update(channels=16, mid=8, depth=2)
    catalogue = catalogues.build(Spec.from_table(table))
    assert [len(s) for s in catalogue.segments] == [1, 1]
    formulation = Formulation(catalogue, window_of(catalogue.spec))
    problem, columns = compile_model(formulation.model, start=False)
    outcome = solved(problem)
    assert outcome.values is not None
    assert formulation.path(columns, outcome.values) == (0, 0)
    assert math.isclose(problem.objective(outcome.values), decode(catalogue, (0, 0)).metrics.score, rel_tol=1e-9)


def test_a_start_is_what_was_assigned() -> None:
    catalogue = catalogues.build(Spec.from_table(small_table()))
    formulation = Formulation(catalogue, window_of(catalogue.spec))
    path = catalogue_paths(catalogue)[11]
    formulation.assign(path)
    problem, columns = compile_model(formulation.model, start=True)
    assert problem.start is not None
    assert formulation.path(columns, problem.start.tolist()) == path
    assert math.isclose(problem.objective(problem.start), decode(catalogue, path).metrics.score, rel_tol=1e-9)
    assert np.isfinite(problem.start).all()
