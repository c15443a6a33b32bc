"""A budget that a test registers, a sum or a maximum, is honoured by solvers and proofs, as brute force says."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console
from strategies import specs

from mad_ip.backends import Profile
from mad_ip.blocks import Layer
from mad_ip.cost import COSTS, Cost
from mad_ip.design import Certificate, Design, violations
from mad_ip.reports.table import design_table, space_table
from mad_ip.solve import InfeasibleError, solve
from mad_ip.spec import Budget, Spec
from mad_ip.verification import attack, audit, exhaust, exhaustion, prove, verify
from mad_ip.verification.attack import evaluate
from mad_ip.verification.bound import bound, replay
from mad_ip.verification.exhaustion import own_cost

QUICK = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Toy(NamedTuple):
    """A registered budget, and what it says of an architecture in plain Python."""

    cost: Cost
    of: Callable[[Spec, oracle.Best], int]


def wide_terms(layers: Sequence[Layer], opens: bool) -> Iterator[Any]:
    """1 where the first block of a stage has a spatial kernel of 5: its second layer, or its first in basic blocks."""
    main = [layer for layer in layers if layer.role == "main"]
    yield opens * (main[1].kernel == 5) * 1 if main else 0


def peak_terms(layers: Sequence[Layer], opens: bool) -> Iterable[Any]:
    """Numbers that go into a layer and come out of it."""
    frames = [(layer.time.frames or 1, layer.time.out_frames or 1) for layer in layers]
    return [
        layer.present * (before * layer.in_size**2 * layer.in_channels + after * layer.out_size**2 * layer.out_channels)
        for layer, (before, after) in zip(layers, frames, strict=True)
    ]


def kernels_of_five(spec: Spec, architecture: oracle.Best) -> int:
    _, stages, _ = architecture.structure
    return sum(k == 5 for _, _, k, _ in stages)


def largest(spec: Spec, architecture: oracle.Best) -> int:
    """Input and output of every convolution, over the oracle's own list of them."""
    c, stages, tail = architecture.structure
    size = spec.input.resolution // spec.stem.stride
    found = [spec.input.resolution**2 * spec.input.channels + size**2 * c]
    for stage, (c_out, m, k, depth) in zip(spec.stages, stages, strict=True):
        for number in range(depth):
            stride = stage.stride if number == 0 else 1
            out = size // stride
            before = size
            for conv in oracle.block_convs(stage.block, c, c_out, m, k, stride, size):
                if not conv.norm:
                    before, after = 1, 1
                elif not conv.counted:
                    before, after = out, out
                else:
                    after = conv.out
                found.append(before**2 * conv.c_in + after**2 * conv.c_out)
                before = after
            c, size = c_out, out
    if tail is not None:
        found.append(size**2 * (c + tail))
        c = tail
    if spec.input.classes:
        found.append(c + spec.input.classes)
    return max(found)


TOYS = {
    "sum": Toy(Cost("wide", "stages", wide_terms), kernels_of_five),
    "max": Toy(Cost("peak", "numbers", peak_terms, "max"), largest),
}


@pytest.fixture(params=TOYS)
def toy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Toy:
    found = TOYS[request.param]
    monkeypatch.setitem(COSTS, found.cost.key, found.cost)
    return found


def table(**budget: float) -> dict[str, Any]:
    """2 * (3 * 2 * 2 * 3) * (2 * 2 * 2 * 3) = 1,728 architectures."""
    stage = {"block": "bottleneck", "stride": 2, "mid": [16, 32], "kernel": [3, 5], "depth": [1, 2, 3]}
    return {
        "name": "small",
        "input": {"resolution": 32, "classes": 10},
        "budget": {"macs": 5e6, "params": 60e3, "effectiveness": 0.2, **budget},
        "stem": {"kernel": 3, "stride": 1, "channels": [8, 16]},
        "stage": [
            {**stage, "channels": [32, 48, 64]},
            {**stage, "block": "inverted_se", "channels": [64, 80]},
        ],
    }


def ranked(spec: Spec, toy: Toy) -> list[oracle.Best]:
    """The feasible architectures, best first."""
    limit = getattr(spec.budget, toy.cost.key)
    everything = [x for x in oracle.architectures(spec) if oracle.fits(spec.budget, x) and toy.of(spec, x) <= limit]
    return sorted(everything, key=lambda x: x.score, reverse=True)


def limited(toy: Toy) -> Spec:
    """The limit is half a unit less than what the best architecture without it would need."""
    spec = Spec.from_table(table())
    free = oracle.enumerate_best(spec)
    assert free is not None
    return Spec.from_table(table(**{toy.cost.key: toy.of(spec, free) - 0.5}))


def certified(spec: Spec, best: oracle.Best) -> Design:
    score = Design.chosen(spec, best.path).metrics.score
    certificate = Certificate("brute force", "1", "optimal", score, 0.0, 0.0, 0, oracle.count(spec))
    return dataclasses.replace(Design.chosen(spec, best.path), certificate=certificate)


PROFILES = [
    Profile("highs"),
    Profile("highs", reduction=False),
    *(Profile(name) for name in ("scip", "cpsat", "glpk", "enumerate", "decomposition")),
    Profile("evolution", {"generations": 100}),
]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.backend}-{profile.reduction}")
def test_every_solver_honours_it(profile: Profile, toy: Toy) -> None:
    spec = limited(toy)
    best, *_ = ranked(spec, toy)
    design = solve(spec, profile=profile)
    assert design.metrics.score == pytest.approx(best.score, rel=1e-9)
    assert violations(spec, design) == []
    assert design.spent(toy.cost.key) == toy.of(spec, best) <= getattr(spec.budget, toy.cost.key)
    certificate = design.certificate
    assert certificate is not None
    assert certificate.status == ("feasible" if profile.backend == "evolution" else "optimal")
    assert certificate.bound >= best.score * (1 - 1e-9)


@pytest.mark.parametrize("name", ["highs", "enumerate", "decomposition"])
def test_what_cannot_be_met_is_named_with_the_least_there_is(name: str, toy: Toy) -> None:
    content = table()
    content["stage"][1]["kernel"] = 5
    least = min(toy.of(free, x) for free in [Spec.from_table(content)] for x in oracle.architectures(free))
    content["budget"][toy.cost.key] = least - 0.5
    with pytest.raises(InfeasibleError) as caught:
        solve(Spec.from_table(content), profile=Profile(name))
    key = toy.cost.key
    assert f"budget.{key} cannot be met;" in str(caught.value)
    assert f"{key} {least:,} (budget {least - 0.5:g})" in str(caught.value)


def test_it_is_read_written_and_shown(toy: Toy) -> None:
    spec = limited(toy)
    key, limit = toy.cost.key, getattr(spec.budget, toy.cost.key)
    assert f"\n{key} = {limit}\n" in spec.to_toml()
    best, *_ = ranked(spec, toy)
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(space_table(spec, None), design_table(Design.chosen(spec, best.path), spec.budget))
    lines = console.export_text().splitlines()
    (budgets,) = [line for line in lines if line.startswith("budgets: ")]
    assert f"{key} {limit:g}" in budgets.split(", ")
    (row,) = [line.split() for line in lines if line.split()[:1] == [key]]
    value = toy.of(spec, best)
    assert row == [key, f"{value:,}", f"{limit:g}", f"{(limit - value) / limit:.3%}"]


@pytest.mark.usefixtures("in_this_process")
@QUICK
@given(spec=specs(limit=800), seed=st.integers(0, 10**6), kinds=st.sampled_from([["sum"], ["max"], ["sum", "max"]]))
def test_solvers_agree_with_brute_force(spec: Spec, seed: int, kinds: list[str]) -> None:
    random, toys = Random(seed), [TOYS[kind] for kind in kinds]
    everything = oracle.architectures(spec)
    limits = {
        toy.cost.key: max(0.25, toy.of(spec, random.choice(everything)) + random.choice([0, 0.5])) for toy in toys
    }
    feasible = [
        x
        for x in everything
        if oracle.fits(spec.budget, x) and all(toy.of(spec, x) <= limits[toy.cost.key] for toy in toys)
    ]
    best = max(feasible, key=lambda x: x.score, default=None)
    with pytest.MonkeyPatch.context() as patch:
        for toy in toys:
            patch.setitem(COSTS, toy.cost.key, toy.cost)
        spec = dataclasses.replace(spec, budget=Budget(**spec.budget.given, **limits), sha256="")
        for profile in (Profile("highs"), Profile("highs", reduction=False), Profile("enumerate")):
            if best is None:
                with pytest.raises(InfeasibleError):
                    solve(spec, profile=profile)
                continue
            design = solve(spec, profile=profile)
            assert violations(spec, design) == []
            assert design.metrics.score == pytest.approx(best.score, rel=1e-6, abs=1e-9)


def test_every_method_honours_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = limited(toy)
    best, *others = ranked(spec, toy)
    assert exhaust(spec).score == pytest.approx(best.score, rel=1e-12)
    with monkeypatch.context() as patch:
        # Suffixes of one segment: long prefixes, which are dropped where they alone pass the limit.
        patch.setattr(exhaustion, "_SUFFIXES", 1)
        dropped = exhaust(spec).dropped
        assert dropped > exhaust(Spec.from_table(table())).dropped
    design = certified(spec, best)
    assert audit(spec, design) == []
    for method in ("exhaustion", "bound", "auto"):
        verdict = verify(spec, design, method=method, gap=1e-6, evaluations=20_000)
        assert (verdict.verdict, verdict.reasons) == ("proven", ())
    searched = bound(spec, design, gap=1e-6)
    assert replay(spec, json.loads(json.dumps(searched.certificate))).reasons == ()
    assert searched.upper == pytest.approx(best.score, rel=1e-6)
    # A worse one falls to each of them.
    worse = certified(spec, others[len(others) // 2])
    for method in ("exhaustion", "bound", "attack"):
        assert verify(spec, worse, method=method, evaluations=20_000).verdict == "failed"


def test_a_design_one_unit_beyond_it_is_named(toy: Toy) -> None:
    spec = limited(toy)
    limit = getattr(spec.budget, toy.cost.key)
    everything = [x for x in oracle.architectures(spec) if oracle.fits(spec.budget, x)]
    over = min((x for x in everything if toy.of(spec, x) > limit), key=functools.partial(toy.of, spec))
    broken = f"{toy.cost.key} {toy.of(spec, over)} exceeds the budget {limit}"
    design = certified(spec, over)
    assert audit(spec, design) == [broken]
    assert verify(spec, design).reasons == (broken,)
    assert violations(dataclasses.replace(spec, budget=Budget(), sha256=spec.sha256), design) == []


def test_a_maximum_that_nothing_keeps_leaves_an_empty_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every channel can be reached, but no option is left: the certificate says so, and the replay sees it."""
    monkeypatch.setitem(COSTS, "five", Cost("five", "", wide_terms, "max"))
    content = table(five=0.5)
    content["stage"][1]["kernel"] = 5
    spec = Spec.from_table(content)
    design = Design.chosen(spec, oracle.architectures(spec)[0].path)
    assert prove(spec, design).reasons == ("exhaustion: no architecture of the space meets the budgets",)
    assert attack(spec, design, evaluations=1_000).design is None
    searched = bound(spec, design)
    assert searched.certificate["nodes"] == [{"empty": True}]
    again = replay(spec, json.loads(json.dumps(searched.certificate)))
    assert (again.upper, again.reasons) == (-math.inf, ())


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_blocks_after_the_first_cost_where_there_are_any(combine: Any) -> None:
    """7 for the opening block, 5 for the head, 9 for every further block."""
    cost = Cost("toy", "units", lambda layers, opens: ({"a": 7, "b": 9, "h": 5}[layer] for layer in layers), combine)
    depth = np.array([1, 2, 3])
    amounts: Any = (["a"], ["b"], ["h"], depth)
    expected = [12, 21, 30] if combine == "sum" else [7, 9, 9]
    assert list(own_cost(cost, *amounts)) == expected
    assert list(cost.of_segment(np.zeros(3, int), *amounts)) == expected


@pytest.mark.parametrize("most", [0, 1, 2])
def test_a_limit_on_counts_binds_at_every_value(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = TOYS["sum"]
    monkeypatch.setitem(COSTS, "wide", toy.cost)
    # A limit must be positive; half of a stage is none.
    spec = Spec.from_table(table(wide=most + 0.5))
    best, *_ = ranked(spec, toy)
    assert prove(spec, certified(spec, best)).holds
    assert toy.of(spec, best) <= most


@QUICK
@given(spec=specs(limit=800), seed=st.integers(0, 10**6), kind=st.sampled_from(sorted(TOYS)))
def test_proofs_agree_with_brute_force(spec: Spec, seed: int, kind: str) -> None:
    random, toy = Random(seed), TOYS[kind]
    everything = oracle.architectures(spec)
    values = [toy.of(spec, x) for x in everything]
    limit = random.choice(values) + random.choice([0.0, 0.5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COSTS, toy.cost.key, toy.cost)
        budget = Budget(**{**spec.budget.given, toy.cost.key: max(0.25, limit)})
        spec = dataclasses.replace(spec, budget=budget, sha256="")
        for x, value in zip(
            everything[:: 1 + len(everything) // 20], values[:: 1 + len(everything) // 20], strict=True
        ):
            assert Design.chosen(spec, x.path).spent(toy.cost.key) == value
        genes = list(np.array([np.ravel(x.path) for x in everything]).T)
        score, violation = evaluate(spec, genes)
        assert score == pytest.approx([x.score for x in everything], rel=1e-9, abs=1e-9)
        fits = [oracle.fits(spec.budget, x) and value <= limit for x, value in zip(everything, values, strict=True)]
        assert list(violation == 0) == fits
        best = max((x for x, ok in zip(everything, fits, strict=True) if ok), key=lambda x: x.score, default=None)
        for suffixes, chunk in ((400_000, 2**17), (20, 32)):
            patch.setattr(exhaustion, "_SUFFIXES", suffixes)
            patch.setattr(exhaustion, "_CHUNK", chunk)
            patch.setattr(exhaustion, "_PIECE", min(chunk, 2**15))
            found = exhaust(spec)
            assert found.evaluated + found.dropped == len(everything)
            assert found.score == pytest.approx(-math.inf if best is None else best.score, rel=1e-9)
        reference = best or max(everything, key=lambda x: x.score)
        design = Design.chosen(spec, reference.path)
        searched = bound(spec, design, gap=1e-6)
        magnitude = 1 + reference.entropy + reference.penalty
        assert replay(spec, json.loads(json.dumps(searched.certificate))).reasons == ()
        if best is not None:
            assert searched.better is None
            assert -1e-9 * magnitude <= searched.upper - best.score <= 1.1e-6 * magnitude
            assert attack(spec, design, evaluations=3_000).reasons == ()
