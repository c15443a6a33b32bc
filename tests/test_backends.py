"""The backend interface: statuses, starts, options and processes, on small problems made by hand."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csc_array

from mad_ip.backends import Limits, Outcome, Problem, Profile, Progress, load_backend, solve_apart
from mad_ip.errors import InputError


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


def hard(*, start: bool = False) -> Problem:
    """A knapsack with many rows, of which no solver proves the optimum within minutes."""
    generator = np.random.default_rng(1)
    rows = generator.integers(1, 1000, (15, 150)).astype(float)
    cost = rows.mean(axis=0) + generator.integers(0, 100, 150)
    return problem(cost.tolist(), rows.tolist(), (rows.sum(axis=1) / 2).tolist(), start=[0.0] * 150 if start else None)


def carry_on(_: Progress) -> bool:
    return False


def solve(instance: Problem, limits: Limits = Limits(0.0), profile: Profile = Profile()) -> Outcome:  # noqa: B008
    return load_backend(profile).solve(instance, limits, carry_on)


def test_the_optimum_is_the_enumerated_one() -> None:
    instance = problem(COST, ROWS, UPPER)
    outcome = solve(instance)
    assert outcome.status == "optimal"
    assert outcome.values is not None
    assert math.isclose(instance.objective(outcome.values), enumerated())
    assert math.isclose(outcome.bound, enumerated())


def test_an_infeasible_problem_is_called_so() -> None:
    outcome = solve(problem([1.0, 1.0], [[-1.0, -1.0], [1.0, 1.0]], [-2.0, 1.0]))
    assert (outcome.status, outcome.bound, outcome.values) == ("infeasible", -math.inf, None)


def test_a_start_is_honoured() -> None:
    """Without any time to search, the start is what there is."""
    instance = hard(start=True)
    outcome = solve(instance, Limits(0.0, seconds=0.0))
    assert outcome.status == "stopped"
    assert outcome.values is not None
    assert instance.objective(outcome.values) >= 5.0


@pytest.mark.parametrize("apart", [False, True])
def test_a_time_limit_is_not_optimality(apart: bool) -> None:
    instance, limits = hard(), Limits(0.0, seconds=1.0)
    began = time.perf_counter()
    outcome = solve_apart(Profile(), instance, limits, carry_on) if apart else solve(instance, limits)
    assert time.perf_counter() - began < 10
    assert outcome.status == "stopped"
    assert outcome.values is None or outcome.bound >= instance.objective(outcome.values)


def test_watch_stops_a_solve_at_once() -> None:
    asked: list[float] = []

    def watch(_: Progress) -> bool:
        asked.append(time.perf_counter())
        return len(asked) >= 5

    outcome = solve_apart(Profile(), hard(), Limits(0.0), watch)
    assert outcome.status == "stopped"
    assert len(asked) == 5
    assert time.perf_counter() - asked[-1] < 1


def test_a_process_of_its_own_gives_the_same() -> None:
    instance = problem(COST, ROWS, UPPER)
    here, apart = solve(instance), solve_apart(Profile(), instance, Limits(0.0), carry_on)
    assert here.values is not None
    assert apart.values is not None
    assert (here.status, here.bound, here.values.tolist()) == (apart.status, apart.bound, apart.values.tolist())


@pytest.mark.parametrize("apart", [False, True])
def test_an_unknown_option_names_its_neighbours(apart: bool) -> None:
    profile = Profile("highs", {"mip_rel_gapp": 0.1}, "mine.toml")
    run = solve_apart if apart else load_backend(profile).solve
    arguments = (problem(COST, ROWS, UPPER), Limits(0.0), carry_on)
    with pytest.raises(InputError, match=r"mine\.toml: options\.mip_rel_gapp = 0\.1: .*mip_rel_gap\b"):
        run(*((profile, *arguments) if apart else arguments))


@pytest.mark.parametrize("value", ["fast", -3])
def test_a_value_that_an_option_does_not_take(value: object) -> None:
    profile = Profile("highs", {"mip_max_nodes": value}, "mine.toml")
    with pytest.raises(InputError, match=r"mine\.toml: options\.mip_max_nodes = .*refuses"):
        solve(problem(COST, ROWS, UPPER), profile=profile)


def test_an_option_reaches_the_solver() -> None:
    profile = Profile("highs", {"mip_max_nodes": 0, "presolve": "off", "mip_heuristic_effort": 0.0})
    assert solve(hard(), profile=profile).status == "stopped"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('backend = "highs"\nspeed = 3\n', r"speed = 3: unknown key; allowed are backend, options"),
        ('backend = "magic"\n', r"backend = 'magic': must be one of highs"),
        ("[options]\npresolve = 'off'\n", r"backend = None: must be one of highs"),
        ('backend = "highs"\noptions = 3\n', r"options = 3: must be a table"),
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


def test_the_profile_of_the_house_loads() -> None:
    assert Profile.load("highs").backend == "highs"
