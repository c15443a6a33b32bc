"""The dynamic programs of docs/formulation.md section 4 against enumeration."""

from __future__ import annotations

import dataclasses
import math

import oracle
from hypothesis import HealthCheck, given, settings
from strategies import specs
from test_catalogue import catalogue_paths

from mad_ip import catalogue as catalogues
from mad_ip import paths
from mad_ip.catalogue import Catalogue
from mad_ip.decomposition.least import least
from mad_ip.spec import Budget, Spec

QUICK = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


LINEAR = ("macs", "params", "layers")


def cost(catalogue: Catalogue, path: tuple[int, ...], budget: str) -> int:
    return sum(int(s.costs[budget][o]) for s, o in zip(catalogue.segments, path, strict=True))


def keeps(catalogue: Catalogue, path: tuple[int, ...]) -> bool:
    """Whether a path is within the linear budgets."""
    limits = {budget: getattr(catalogue.spec.budget, budget) for budget in LINEAR}
    return all(limit is None or cost(catalogue, path, budget) <= limit for budget, limit in limits.items())


def is_effective(catalogue: Catalogue, path: tuple[int, ...]) -> bool:
    """Whether a path keeps the effectiveness budget at every level that it applies to."""
    limit, layers, carried = catalogue.spec.budget.effectiveness, 0, 0.0
    for segment, option in zip(catalogue.segments, path, strict=True):
        layers, carried = layers + int(segment.layers[option]), carried + float(segment.log_width[option])
        if segment.segment.bounded and limit is not None and layers / math.exp(carried / layers) > limit:
            return False
    return True


def keys(catalogue: Catalogue) -> list[set[tuple[int, ...]]]:
    return [
        set(zip(*(getattr(s, name).tolist() for name in ("c_in", "c", "mid", "kernel", "depth")), strict=True))
        for s in catalogue.segments
    ]


def taken(catalogue: Catalogue, chosen: list[tuple[int, ...]]) -> list[set[tuple[int, ...]]]:
    """The options of every segment that some path among ``chosen`` takes."""
    options: list[set[tuple[int, ...]]] = [set() for _ in catalogue.segments]
    for path in chosen:
        for found, s, o in zip(options, catalogue.segments, path, strict=True):
            found.add((int(s.c_in[o]), int(s.c[o]), int(s.mid[o]), int(s.kernel[o]), int(s.depth[o])))
    return options


@QUICK
@given(spec=specs(limit=2000))
def test_least_values_are_the_oracles(spec: Spec) -> None:
    """In exact integers, whatever the limit is: here below, far above and about what is reachable."""
    minima = oracle.minima(spec)
    for budget in LINEAR:
        smallest = getattr(minima, budget)
        for limit in (0.1, 1e18, smallest):
            alone = dataclasses.replace(spec, budget=Budget(**{budget: limit}), sha256="")
            assert least(alone, budget) == smallest, (budget, limit)


@QUICK
@given(spec=specs(limit=2000))
def test_smallest_effectiveness_is_the_oracles(spec: Spec) -> None:
    """Both conventions are drawn; in tinynas rho is a maximum over levels, so that no single sum decides."""
    expected = oracle.minima(spec).effectiveness
    found = paths.smallest_effectiveness(catalogues.build(spec))
    assert math.isclose(found, expected, rel_tol=2e-9), spec.to_toml()


@QUICK
@given(spec=specs(limit=300))
def test_within_budgets_keeps_what_a_feasible_path_takes(spec: Spec) -> None:
    catalogue = catalogues.build(spec)
    kept = keys(paths.within_budgets(catalogue))
    feasible = [path for path in catalogue_paths(catalogue) if keeps(catalogue, path) and is_effective(catalogue, path)]
    for found, needed in zip(kept, taken(catalogue, feasible), strict=True):
        assert needed <= found


@QUICK
@given(spec=specs(limit=300))
def test_within_one_budget_keeps_nothing_else(spec: Spec) -> None:
    for budget in LINEAR:
        unlimited = dataclasses.replace(spec, budget=Budget(**{budget: 2.0**60}))
        everything = catalogues.build(unlimited)
        costs = sorted(cost(everything, path, budget) for path in catalogue_paths(everything))
        for limit in (costs[0] - 1, costs[0], costs[len(costs) // 3], costs[-1]):
            alone = dataclasses.replace(spec, budget=Budget(**{budget: limit}))
            catalogue = dataclasses.replace(everything, spec=alone)
            feasible = [path for path in catalogue_paths(catalogue) if keeps(catalogue, path)]
            assert keys(paths.within_budgets(catalogue)) == taken(catalogue, feasible), (budget, limit)


@QUICK
@given(spec=specs(limit=300))
def test_carried_bounds_hold_for_every_feasible_path(spec: Spec) -> None:
    catalogue = paths.within_budgets(catalogues.build(spec))
    if catalogue.is_empty:
        return
    low, high = paths.carried_bounds(catalogue)
    for path in catalogue_paths(catalogue):
        if not keeps(catalogue, path):
            continue
        carried = 0.0
        for s, (segment, option) in enumerate(zip(catalogue.segments, path, strict=True)):
            pair = segment.pair[option]
            assert low[s][pair] <= carried <= high[s][pair], (s, path)
            carried += float(segment.log_width[option])


@QUICK
@given(spec=specs(limit=300))
def test_carried_bounds_are_attained_without_budgets(spec: Spec) -> None:
    """A bound of 0 or infinity would be valid too: without budgets they are the minima and maxima, and a billionth."""
    catalogue = catalogues.build(dataclasses.replace(spec, budget=Budget()))
    low, high = paths.carried_bounds(catalogue)
    found: dict[tuple[int, int], list[float]] = {}
    for path in catalogue_paths(catalogue):
        carried = 0.0
        for s, (segment, option) in enumerate(zip(catalogue.segments, path, strict=True)):
            found.setdefault((s, int(segment.pair[option])), []).append(carried)
            carried += float(segment.log_width[option])
    assert len(found) == sum(len(values) for values in low)
    for (s, pair), values in found.items():
        assert math.isclose(low[s][pair], min(values) * (1 - 1e-9), rel_tol=1e-12, abs_tol=1e-12)
        assert math.isclose(high[s][pair], max(values) * (1 + 1e-9), rel_tol=1e-12, abs_tol=1e-12)


def test_a_budget_tightens_the_carried_bound() -> None:
    table = {
        "name": "net",
        "input": {"resolution": 128},
        "stem": {"kernel": 3, "stride": 2, "channels": [8]},
        "stage": [
            {"block": "basic", "stride": 2, "channels": [16, 32], "mid": [8, 16, 32], "kernel": [3, 5], "depth": [1, 4]}
            for _ in range(3)
        ],
    }
    free = catalogues.build(Spec.from_table(table))
    macs = sorted(cost(free, path, "macs") for path in catalogue_paths(free)[::7])
    table["budget"] = {"macs": macs[len(macs) // 4]}
    limited = catalogues.build(Spec.from_table(table))
    before, after = paths.carried_bounds(free)[1], paths.carried_bounds(limited)[1]
    assert max(after[-1]) < 0.95 * max(before[-1])
