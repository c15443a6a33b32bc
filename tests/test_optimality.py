"""The solver's answer is the best there is: against exhaustive enumeration on random small specs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import oracle
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from strategies import BUDGETS, specs

from mad_ip.design import Design, violations
from mad_ip.spec import FAMILIES, Budget, Spec

EXAMPLES = 200
"""Random specs that are solved; the strategies draw up to 20,000 architectures for each."""

GAP = 0.0
"""The gap asked for; ``optimal`` then says that the bound meets the score."""

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
"""Drawing a spec enumerates its architectures, which takes up to half a second."""


def described(spec: Spec, expected: oracle.Best | None) -> str:
    """What a failure prints: the spec as a file, and the oracle's answer."""
    return f"\n{spec.to_toml()}\noracle: {expected}"


def check(spec: Spec) -> None:
    """Solve ``spec`` and compare every claim with the enumeration."""
    from mad_ip.solve import InfeasibleError, solve

    expected = oracle.enumerate_best(spec)
    story = described(spec, expected)
    if expected is None:
        try:
            design = solve(spec, gap=GAP, seed=0)
        except InfeasibleError:
            return
        pytest.fail(f"no architecture is feasible, but solve returned {design}{story}")
    try:
        design = solve(spec, gap=GAP, seed=0)
    except InfeasibleError as error:
        pytest.fail(f"infeasible, says solve: {error}{story}")
    compare(spec, design, expected, story)


def compare(spec: Spec, design: Design, expected: oracle.Best, story: str) -> None:
    """Feasible, as good as the best, itself measured as the oracle measures it, and certified as such."""
    assert violations(spec, design) == [], story
    assert math.isclose(design.metrics.score, expected.score, rel_tol=1e-9), f"{design.metrics.score}{story}"
    (own,) = (other for other in oracle.architectures(spec) if other.path == design.path)
    assert oracle.fits(spec.budget, own), story
    assert (design.metrics.macs, design.metrics.params, design.metrics.layers) == (own.macs, own.params, own.layers)
    assert math.isclose(design.metrics.score, own.score, rel_tol=1e-9), story
    assert design.certificate is not None, story
    assert design.certificate.status == "optimal", f"{design.certificate}{story}"
    assert design.certificate.architectures == oracle.count(spec), f"{design.certificate}{story}"
    # No feasible architecture beats the bound, the best one included.
    assert design.certificate.bound >= expected.score - 1e-9 * abs(expected.score), f"{design.certificate}{story}"


@pytest.mark.usefixtures("in_this_process")
def test_solve_finds_what_enumeration_finds() -> None:
    """On specs with each budget binding, each family, both conventions, each rule, and on infeasible ones."""
    seen: Counter[str] = Counter()

    # A failing spec is small and printed as it is: shrinking it would take hundreds of solves.
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=SLOW,
        phases=[Phase.generate],
    )
    @given(spec=specs())
    def check_and_count(spec: Spec) -> None:
        check(spec)
        seen.update(features(spec))

    check_and_count()
    wanted = [
        *(f"binding {key}" for key in BUDGETS),
        *(f"infeasible, {key}" for key in BUDGETS),
        *FAMILIES,
        *("paper", "tinynas", "tail", "no tail", "infeasible", "feasible", "no budget", "several budgets"),
        *("monotone", "not monotone", "growth", "mid_ratio", "channels fall"),
        *("stem stride 1", "stem stride 2", "stride 1", "stride 2", "irregular width", "odd resolution"),
        *("several stem channels", "channels repeat", "depths with gaps", "mixed families", "no head", "head"),
        *(f"{number} stages" for number in (1, 2, 3, 4)),
        *(f"kernel {kernel}" for kernel in (1, 3, 5, 7)),
        *(f"beta {beta}" for beta in (0.0, 0.1, 10.0, 200.0)),
        *("default weights", "explicit weights", "weight 0"),
        *("one architecture", "1,000 architectures"),
    ]
    rare = {name: seen[name] for name in wanted if seen[name] < 4}
    assert not rare, f"of {EXAMPLES} specs: {rare}; all: {seen}"


def wide_spec(**budget: float) -> Spec:
    """3 * (3 * 2 * 2 * 2)^2 = 1,728 architectures; MACs of some 1e9, so that one unit is 1e-9 of them."""
    stage = {"block": "bottleneck", "stride": 2, "mid": [64, 128], "kernel": [3, 5], "depth": [2, 3]}
    return Spec.from_table(
        {
            "name": "wide",
            "input": {"resolution": 224},
            "budget": budget,
            "stem": {"kernel": 7, "stride": 2, "channels": [64, 72, 80]},
            "stage": [
                {**stage, "channels": [256, 264, 272]},
                {**stage, "channels": [512, 520, 528]},
            ],
        }
    )


@pytest.mark.parametrize("key", BUDGETS)
def test_a_budget_one_unit_short_excludes_the_best(key: str) -> None:
    """Peel off the best, again and again: a solver's feasibility tolerance may not let it back in."""
    limit = max(getattr(architecture, key) for architecture in oracle.architectures(wide_spec()))
    for _ in range(3):
        spec = wide_spec(**{key: limit})
        best = oracle.enumerate_best(spec)
        assert best is not None
        check(spec)
        value = getattr(best, key)
        limit = value * (1 - 1e-9) if key == "effectiveness" else value - 1


def test_two_architectures_that_are_nearly_tied() -> None:
    """As stage 1 weighs more, the best architecture changes; around such a point gaps are of 1e-7, and still decide."""
    everything = oracle.architectures(wide_spec())
    limit = sorted(architecture.macs for architecture in everything)[len(everything) // 2]

    def weighted(weight: float) -> tuple[Spec, oracle.Best]:
        spec = wide_spec(macs=limit)
        first, second = spec.stages
        spec = replace(spec, stages=(replace(first, weight=weight), second))
        best = oracle.enumerate_best(spec)
        assert best is not None
        return spec, best

    low, high = 1.0, 8.0
    assert weighted(low)[1].path != weighted(high)[1].path
    while high - low > 1e-6:
        middle = (low + high) / 2
        if weighted(middle)[1].path == weighted(low)[1].path:
            low = middle
        else:
            high = middle
    low, high = low - 1e-4, high + 1e-4
    for weight, other in ((low, high), (high, low)):
        spec, best = weighted(weight)
        rival = weighted(other)[1].path
        (second,) = (architecture for architecture in oracle.architectures(spec) if architecture.path == rival)
        assert 1e-8 < (best.score - second.score) / best.score < 1e-6
        check(spec)


@pytest.mark.parametrize("convention", ["paper", "tinynas"])
@pytest.mark.parametrize("depths", [(1, 1, 9, 9), (9, 1, 1, 1), (1, 12, 1, 12), (3, 4, 5, 6)])
def test_depths_that_the_domains_force_apart(convention: str, depths: tuple[int, ...]) -> None:
    """The penalty may be far above every entropy (beta e^30), and must then still be paid."""
    stages = [
        {"block": block, "stride": 2, "channels": [16, 24], "mid": [8, 16], "kernel": 3, "depth": [depth, depth + 1]}
        for block, depth in zip(FAMILIES, depths, strict=True)
    ]
    table = {
        "name": "forced",
        "convention": convention,
        "input": {"resolution": 128, "classes": 10},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": stages,
    }
    check(Spec.from_table(table))


def features(spec: Spec) -> set[str]:
    best = oracle.enumerate_best(spec)
    count = oracle.count(spec)
    blocks = {stage.block for stage in spec.stages}
    limits = [key for key in BUDGETS if getattr(spec.budget, key) is not None]
    weights = [spec.stem.weight, *(stage.weight for stage in spec.stages)]
    strides = [stage.stride for stage in spec.stages]
    # Weight 1 where the next stage halves the resolution, 8 at the end, 0 elsewhere.
    standard = [1 if stride == 2 else 0 for stride in strides] + [8]
    domains = [spec.stem.channels, *(stage.channels for stage in spec.stages)]
    facts = {
        spec.convention: True,
        "tail": spec.tail is not None,
        "no tail": spec.tail is None,
        "infeasible": best is None,
        "feasible": best is not None,
        "no budget": not limits,
        "several budgets": len(limits) > 1,
        "monotone": spec.space.monotone,
        "not monotone": not spec.space.monotone,
        "growth": spec.space.growth is not None,
        "mid_ratio": spec.space.mid_ratio is not None,
        "channels fall": best is not None and best.path[len(spec.stages)].channels < best.path[0].channels,
        "irregular width": any(c % 8 for domain in domains for c in domain),
        "odd resolution": spec.input.resolution // spec.stem.stride % 2 == 1,
        "several stem channels": len(spec.stem.channels) > 1,
        "channels repeat": bool(set.intersection(*(set(domain) for domain in domains))),
        "depths with gaps": any(s.depth != tuple(range(s.depth[0], s.depth[-1] + 1)) for s in spec.stages),
        "mixed families": len(blocks) > 1,
        "no head": spec.input.classes == 0,
        "head": spec.input.classes > 0,
        f"{len(spec.stages)} stages": True,
        f"stem stride {spec.stem.stride}": True,
        f"beta {float(spec.objective.depth_penalty)}": True,
        "default weights": weights == standard,
        "explicit weights": weights != standard,
        "weight 0": 0 in weights,
        "one architecture": count == 1,
        "1,000 architectures": count >= 1_000,
    }
    found = {name for name, holds in facts.items() if holds} | blocks
    found |= {f"kernel {kernel}" for stage in spec.stages for kernel in stage.kernel}
    found |= {f"stride {stride}" for stride in strides}
    for key in limits:
        without = oracle.enumerate_best(replace(spec, budget=Budget(**{**spec.budget.given, key: None})))
        if best is None:
            if getattr(oracle.minima(spec), key) > getattr(spec.budget, key) * (1 + 1e-12):
                found.add(f"infeasible, {key}")
        elif without is not None and without.score > best.score + 1e-9 * abs(best.score):
            found.add(f"binding {key}")
    return found
