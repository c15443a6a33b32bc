"""The Lagrangian program against a slow, literal one: every architecture in a loop, no envelopes, no closed form."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from random import Random
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import specs

from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.lagrangian.box import AXES, Box, spreads, whole
from mad_ip.lagrangian.dual import minimise
from mad_ip.lagrangian.kernels import ACCELERATED, coarser, envelope
from mad_ip.lagrangian.program import Bound, Program, Relaxation
from mad_ip.lagrangian.tree import Node, branch_and_bound
from mad_ip.spec import Spec
from mad_ip.verification.bound import bound, replay

QUICK = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

SEEDS = st.integers(0, 10**6)

Level = tuple[int, float]
"""Counted layers and log-width."""


@dataclasses.dataclass(frozen=True)
class Literal:
    """One architecture with its values along every segment, from the oracle's own convolutions."""

    best: oracle.Best
    levels: tuple[Level, ...]
    path: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def of(cls, spec: Spec, best: oracle.Best) -> Literal:
        c, stages, tail = best.structure
        size = spec.input.resolution // spec.stem.stride
        pieces = [oracle.total([oracle.Conv(spec.input.channels, c, spec.stem.kernel, size)])]
        path = [(c, 1, 1, 1)]
        for stage, chosen in zip(spec.stages, stages, strict=True):
            pieces.append(oracle.stage_total(stage, c, *chosen, size))
            path.append(chosen)
            c, size = chosen[0], size // stage.stride
        if tail is not None:
            pieces.append(oracle.total([oracle.Conv(c, tail, 1, size)]))
            path.append((tail, 1, 1, 1))
        layers = np.cumsum([piece.layers for piece in pieces])
        carried = np.cumsum([piece.log_width for piece in pieces])
        return cls(best, tuple((int(a), float(b)) for a, b in zip(layers, carried, strict=True)), tuple(path))

    def inside(self, box: Box, *, total: bool) -> bool:
        chosen = all(
            value in getattr(box, axis)[s]
            for s, values in enumerate(self.path)
            for axis, value in zip(AXES, values, strict=True)
        )
        depth = sum(self.path[s][3] for s in box.penalised)
        return chosen and (not total or not box.penalised or box.first <= depth <= box.last)


def priced(spec: Spec, literal: Literal, box: Box, found: Bound) -> tuple[float, float]:
    """The Lagrangian of docs/verification.md section 10 of one architecture, term by term, and the terms' magnitude."""
    multipliers, tangents = list(found.multipliers), list(found.tangents)
    terms = [literal.best.entropy]
    for budget in ("macs", "params", "layers"):
        limit = getattr(spec.budget, budget)
        if limit is not None:
            price = multipliers.pop(0)
            terms += [price, -price * getattr(literal.best, budget) / limit]
    if spec.budget.effectiveness is not None:
        weights = [spec.stem.weight, *(stage.weight for stage in spec.stages)]
        if spec.tail is not None:
            weights = [*weights[:-1], 0.0, weights[-1]]
        for s, (layers, carried) in enumerate(literal.levels):
            if weights[s] > 0 if spec.convention == "tinynas" else s == len(literal.levels) - 1:
                price, at = multipliers.pop(0), tangents.pop(0)
                slope = math.log(at) + 1 - math.log(spec.budget.effectiveness)
                terms += [price * carried, -price * (at * math.log(at / spec.budget.effectiveness))]
                terms.append(-price * slope * (layers - at))
    if spec.objective.depth_penalty > 0:
        beta, (curvature, price) = spec.objective.depth_penalty, multipliers
        depth = [literal.path[s][3] for s in box.penalised]
        number, domains = len(depth), tuple(box.depth[s] for s in box.penalised)
        chord = ((box.first + box.last) * sum(depth) - box.first * box.last) / number**2
        terms.append(-beta * curvature * (sum(d**2 for d in depth) / number - chord))
        root = math.sqrt if spec.convention == "tinynas" else float
        attained = (float(spread) / number**2 for spread in spreads(domains, box.first, box.last))
        terms.append(-beta * min(math.exp(min(700, root(v))) - curvature * v for v in attained))
        terms += [max(price * box.first, price * box.last), -price * sum(depth)]
    return math.fsum(terms), math.fsum(abs(term) for term in terms)


def single_budgets(spec: Spec, literal: Literal) -> bool:
    return all(
        (limit := getattr(spec.budget, budget)) is None or getattr(literal.best, budget) <= limit
        for budget in ("macs", "params", "layers")
    )


def random_box(relaxation: Relaxation, everything: list[Literal], random: Random) -> Box:
    """A part of the space around one of its architectures."""
    box = whole(relaxation.spec)
    chosen = random.choice(everything)
    for s, values in enumerate(chosen.path):
        for axis, value in zip(AXES, values, strict=True):
            domain = getattr(box, axis)[s]
            kept = tuple(v for v in domain if v == value or random.random() < 0.7)
            box = box.restricted(axis, s, kept)
    if box.penalised and random.random() < 0.7:
        total = sum(chosen.path[s][3] for s in box.penalised)
        box = dataclasses.replace(box, first=total - random.randint(0, 3), last=total + random.randint(0, 3))
    return box


def random_multipliers(program: Program, random: Random) -> Any:
    values = [scale * random.choice([0.0, 0.01, 0.3, 1.0, 5.0]) * random.random() for scale in program.scales]
    if program.relaxation.beta > 0:
        values[-1] *= random.choice([-1, 1])
    return np.maximum(np.array(values, float), program.relaxation.least)


def literals(spec: Spec) -> list[Literal]:
    return [Literal.of(spec, best) for best in oracle.architectures(spec)]


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_the_program_is_the_literal_longest_path(spec: Spec, seed: int) -> None:
    random = Random(seed)
    relaxation, everything = Relaxation(spec), literals(spec)
    for attempt in range(4):
        box = (whole(spec) if attempt == 0 else random_box(relaxation, everything, random)).tightened()
        assert box is not None
        program = Program(relaxation, box)
        assert not program.is_empty
        found = program.evaluate(random_multipliers(program, random))
        values = [(*priced(spec, x, box, found), x) for x in everything if x.inside(box, total=False)]
        tolerance = 1e-9 * (1 + max(magnitude for _, magnitude, _ in values))
        # Lines are kept where a path within every single budget can be: others may be undervalued, those may not.
        within = max((value for value, _, x in values if single_budgets(spec, x)), default=-math.inf)
        assert within - tolerance <= found.value <= max(value for value, _, _ in values) + tolerance
        assert max(value for value, _, x in values if x.path == found.path) >= within - tolerance
        feasible = [x for x in everything if x.inside(box, total=True) and oracle.fits(spec.budget, x.best)]
        assert found.value >= max((x.best.score for x in feasible), default=-math.inf)
        for s, bounds in enumerate(program.value_bounds(found)):
            for position, (axis, row) in enumerate(zip(AXES, bounds, strict=True)):
                assert len(row) == len(getattr(box, axis)[s])
                for value, most in zip(getattr(box, axis)[s], row, strict=True):
                    through = (v for v, _, x in values if x.path[s][position] == value and single_budgets(spec, x))
                    assert most >= max(through, default=-math.inf) - tolerance, (axis, s, value)


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_the_program_over_all_log_widths_is_exact(spec: Spec, seed: int) -> None:
    random = Random(seed)
    relaxation, everything = Relaxation(spec), literals(spec)
    for _ in range(3):
        box = random_box(relaxation, everything, random).tightened()
        assert box is not None
        program = Program(relaxation, box, ranged=False)
        found = program.evaluate(random_multipliers(program, random))
        values = [(*priced(spec, x, box, found), x) for x in everything if x.inside(box, total=False)]
        tolerance = 1e-9 * (1 + max(magnitude for _, magnitude, _ in values))
        best = max(value for value, _, _ in values)
        assert abs(found.value - best) <= tolerance
        assert found.path in {x.path for value, _, x in values if value >= best - tolerance}
        for bounds in program.value_bounds(found):
            # The best path takes some value of every choice.
            assert [row.max() for row in bounds] == pytest.approx([found.value] * 4, rel=1e-9, abs=tolerance)


@QUICK
@given(spec=specs(limit=250), seed=SEEDS, lines=st.integers(1, 3))
def test_chords_in_place_of_lines_only_raise_the_bound(spec: Spec, seed: int, lines: int) -> None:
    box = whole(spec).tightened()
    assert box is not None
    relaxation = Relaxation(spec)
    program = Program(relaxation, box, ranged=False)
    multipliers = random_multipliers(program, Random(seed))
    exact = program.evaluate(multipliers)
    exact_values = program.value_bounds(exact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mad_ip.lagrangian.program._LINES", lines)
        coarse = program.evaluate(multipliers)
        coarse_values = program.value_bounds(exact)
    tolerance = 1e-9 * (1 + abs(exact.value))
    assert coarse.value >= exact.value - tolerance
    optimum = oracle.enumerate_best(spec)
    assert optimum is None or coarse.value >= optimum.score
    for fine_axes, coarse_axes in zip(exact_values, coarse_values, strict=True):
        for fine_row, coarse_row in zip(fine_axes, coarse_axes, strict=True):
            assert (coarse_row >= fine_row - tolerance).all()


def test_chords_of_an_envelope() -> None:
    """Tangents of a parabola: many lines, few chords; everywhere above, and close."""
    generator = np.random.default_rng(0)
    touch = np.linspace(0, 10, 60) + generator.uniform(0, 0.1, (3, 60))
    slopes, intercepts = 2 * touch, -(touch**2)
    low, high = np.zeros(3), np.array([10.0, 8.0, 5.0])
    exact = envelope(slopes, intercepts, low, high)
    few = coarser(exact, low, high, 12)
    assert few.slope.shape == (3, 12)
    for row in range(3):
        at = np.linspace(low[row], high[row], 1001)[:, None]
        upper = (few.slope[row] * at + few.intercept[row]).max(axis=1)
        true = (slopes[row] * at + intercepts[row]).max(axis=1)
        assert (upper >= true - 1e-12).all()
        # A chord of width w is at most w^2 / 4 above a parabola; none is twice as wide as the mean.
        assert (upper - true).max() < (2 * (high[row] - low[row]) / 12) ** 2 / 4
        assert (np.diff(few.slope[row]) > 0).all()


def numpy_only(function: Any, *arguments: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mad_ip.lagrangian.kernels._compiled", None)
        return function(*arguments)


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_numba_and_numpy_agree(spec: Spec, seed: int) -> None:
    if not ACCELERATED:
        pytest.skip("numba is not installed")
    random = Random(seed)
    relaxation = Relaxation(spec)
    box = whole(spec).tightened()
    assert box is not None
    program = Program(relaxation, box)
    multipliers = random_multipliers(program, random)
    fast, slow = program.evaluate(multipliers), numpy_only(program.evaluate, multipliers)
    assert fast.value == pytest.approx(slow.value, rel=1e-13)
    fast_values, slow_values = program.value_bounds(fast), numpy_only(program.value_bounds, fast)
    for fast_axes, slow_axes in zip(fast_values, slow_values, strict=True):
        for fast_row, slow_row in zip(fast_axes, slow_axes, strict=True):
            np.testing.assert_allclose(fast_row, slow_row, rtol=1e-12)


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_the_slack_is_a_subgradient(spec: Spec, seed: int) -> None:
    random = Random(seed)
    relaxation = Relaxation(spec)
    box = random_box(relaxation, literals(spec), random).tightened()
    assert box is not None
    program = Program(relaxation, box, ranged=False)
    centre = program.evaluate(random_multipliers(program, random))
    for _ in range(5):
        other = program.evaluate(random_multipliers(program, random), centre.tangents)
        predicted = centre.value + centre.slack @ (other.multipliers - centre.multipliers)
        scale = abs(centre.value) + np.abs(centre.slack * (other.multipliers - centre.multipliers)).sum()
        assert other.value >= predicted - 1e-8 * (1 + scale)


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_minimise_only_improves(spec: Spec, seed: int) -> None:
    random = Random(seed)
    relaxation = Relaxation(spec)
    box = whole(spec).tightened()
    assert box is not None
    program = Program(relaxation, box)
    dual = minimise(program.evaluate, random_multipliers(program, random), program.scales, program.relaxation.least)
    assert dual.best.value == min(cut.value for cut in dual.cuts)
    assert len(dual.weights) == len(dual.cuts)
    assert dual.weights.sum() == pytest.approx(1)


@QUICK
@given(spec=specs(limit=2000), gap=st.sampled_from([0.0, 1e-6, 1e-3, 0.05]))
def test_bound_encloses_the_enumerated_optimum_and_replays(spec: Spec, gap: float) -> None:
    optimum = oracle.enumerate_best(spec)
    everything = oracle.architectures(spec)
    reference = optimum or max(everything, key=lambda x: x.score)
    design = design_of(spec, reference)
    result = bound(spec, design, gap=gap)
    score = reference.score
    if optimum is not None:
        assert result.better is None
        assert result.upper >= score - 1e-9 * abs(score)
        # The margin for rounding is proportional to the entropy, not to what the penalty leaves of it.
        assert result.open == 0
        assert result.upper - score <= gap * abs(score) + 1e-9 * (1 + reference.entropy + reference.penalty)
    again = replay(spec, json.loads(json.dumps(result.certificate)))
    assert again.reasons == ()
    assert max(again.upper, score) == pytest.approx(result.upper, rel=1e-12, abs=1e-9)


def design_of(spec: Spec, best: oracle.Best) -> Design:
    return Design.chosen(spec, Literal.of(spec, best).path)


def small() -> Spec:
    stage = {"block": "bottleneck", "stride": 2, "mid": [16, 32, 48], "kernel": [3, 5], "depth": [1, 2, 3, 4]}
    return Spec.from_table(
        {
            "name": "small",
            "input": {"resolution": 32, "classes": 10},
            "budget": {"macs": 5e6, "params": 60e3, "effectiveness": 0.2},
            "stem": {"kernel": 3, "stride": 1, "channels": [8, 16]},
            "stage": [{**stage, "channels": [32, 48, 64]}, {**stage, "channels": [64, 80, 96]}],
        }
    )


@pytest.fixture(scope="module")
def spec() -> Spec:
    return small()


@pytest.fixture(scope="module")
def optimum(spec: Spec) -> oracle.Best:
    best = oracle.enumerate_best(spec)
    assert best is not None
    return best


def test_a_worse_design_is_refuted_with_a_better_one(spec: Spec, optimum: oracle.Best) -> None:
    feasible = [x for x in oracle.architectures(spec) if oracle.fits(spec.budget, x)]
    worse = sorted(feasible, key=lambda x: x.score)[len(feasible) // 2]
    result = bound(spec, design_of(spec, worse), gap=1e-6)
    assert result.gap > 1e-6
    assert result.better is not None
    assert worse.score < result.better.metrics.score <= optimum.score * (1 + 1e-9)
    assert result.upper >= optimum.score * (1 - 1e-12)


def test_stopping_leaves_a_valid_bound(spec: Spec, optimum: oracle.Best) -> None:
    seen = []

    def watch(state: Any) -> bool:
        seen.append(state)
        return len(seen) == 3

    result = bound(spec, design_of(spec, optimum), gap=0.0, watch=watch)
    assert len(seen) == 3
    assert result.open > 0
    assert result.upper >= optimum.score
    assert [s.upper for s in seen] == sorted((s.upper for s in seen), reverse=True)
    assert replay(spec, result.certificate).upper == pytest.approx(result.upper, rel=1e-12)
    at_once = bound(spec, design_of(spec, optimum), gap=0.0, seconds=0.0)
    assert at_once.upper >= result.upper


@pytest.fixture(scope="module")
def certificate(spec: Spec, optimum: oracle.Best) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(bound(spec, design_of(spec, optimum), gap=0.0).certificate))
    kinds = {key for node in content["nodes"] for key in node}
    assert {"leaf", "split", "trim"} <= kinds
    return content


def first(content: dict[str, Any], kind: str) -> dict[str, Any]:
    node: dict[str, Any] = next(node for node in content["nodes"] if kind in node)
    return node


def lower_upper(content: dict[str, Any]) -> None:
    content["upper"] *= 1 - 1e-6


def drop_last(content: dict[str, Any]) -> None:
    content["nodes"].pop()


def add_one(content: dict[str, Any]) -> None:
    content["nodes"].append({"empty": True})


def claim_empty(content: dict[str, Any]) -> None:
    node = first(content, "leaf")
    node.clear()
    node["empty"] = True


def change_multipliers(content: dict[str, Any]) -> None:
    for node in content["nodes"]:
        if "leaf" in node:
            node["leaf"] = [0.5 * value for value in node["leaf"]]


def negative_multiplier(content: dict[str, Any]) -> None:
    first(content, "leaf")["leaf"][0] = -1.0


def infinite_multiplier(content: dict[str, Any]) -> None:
    first(content, "leaf")["leaf"][0] = math.inf


def trim_more(content: dict[str, Any]) -> None:
    """All but the shallowest networks, which the optimum is not among."""
    node = first(content, "trim")
    node["keep"] = [["depth", s, [1]] for s in (1, 2)]


def infinite_tangent(content: dict[str, Any]) -> None:
    first(content, "leaf")["tangents"] = [math.inf]


def tangent_of_nothing(content: dict[str, Any]) -> None:
    first(content, "trim")["tangents"] = [math.nan]


def overflowing_multiplier(content: dict[str, Any]) -> None:
    first(content, "leaf")["leaf"][0] = 1e308


def other_spec(content: dict[str, Any]) -> None:
    content["spec_sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lower_upper, "the nodes prove only"),
        (drop_last, "not covered"),
        (add_one, "beyond the tree's end"),
        (claim_empty, "the box is not empty"),
        (change_multipliers, "the nodes prove only"),
        (negative_multiplier, "multipliers are not valid"),
        (infinite_multiplier, "multipliers are not valid"),
        (trim_more, "nodes"),
        (infinite_tangent, "tangents are not valid"),
        (tangent_of_nothing, "tangents are not valid"),
        (overflowing_multiplier, "multipliers are not valid"),
        (other_spec, "spec_sha256"),
    ],
)
def test_a_tampered_certificate_does_not_replay(
    spec: Spec, certificate: dict[str, Any], tamper: Any, reason: str
) -> None:
    content = copy.deepcopy(certificate)
    assert replay(spec, content).reasons == ()
    tamper(content)
    result = replay(spec, content)
    assert len(result.reasons) == 1
    assert reason in result.reasons[0]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "mad-ip/bound-certificate/2"},
        {"nodes": 3},
        {"upper": "high"},
        {"nodes": [{"leaf": "x", "tangents": []}]},
        {"nodes": [{"split": ["width", 0, 1]}]},
        {"nodes": [{"split": ["depth", 1, math.nan]}, {"empty": True}, {"empty": True}]},
        {"nodes": [{"split": ["total", 0, 2.5]}]},
        {"nodes": [{"split": ["depth", -1, 2]}]},
        {"upper": math.nan},
        {"nodes": [{"trim": [1.0]}]},
        {"nodes": [7]},
    ],
)
def test_what_is_no_certificate_is_bad_input(spec: Spec, certificate: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replay(spec, {**certificate, **change})


def test_multipliers_that_cancel_leave_a_valid_bound() -> None:
    """Equal fixed depths, where the prices of curvature and total cancel: the margin covers what they lose."""
    stage = {"block": "bottleneck", "stride": 2, "channels": [64], "mid": [16], "kernel": [3], "depth": [7]}
    table = {"name": "n", "input": {"resolution": 64}, "budget": {"macs": 1e9}}
    spec = Spec.from_table({**table, "stem": {"kernel": 3, "stride": 2, "channels": [16]}, "stage": [stage] * 3})
    box = whole(spec).tightened()
    assert box is not None
    program = Program(Relaxation(spec), box)
    (only,) = oracle.architectures(spec)
    for curvature in np.geomspace(1.0, 1e25, 101):
        # The total's price that takes away what the curvature charges for one more of depth.
        for price in (1.0, 2.0, 0.0):
            total = price * spec.objective.depth_penalty * curvature * 7 / 3
            assert program.evaluate(np.array([0.0, curvature, total])).value >= only.score


def test_spreads_too_many_to_list_still_bound() -> None:
    """52 stages of depth 1 or 60 in tinynas: variances far beyond the listed integers."""
    one = {"block": "inverted", "stride": 1, "channels": [8], "mid": [8], "kernel": [3]}
    spec = Spec.from_table(
        {
            "name": "deep",
            "convention": "tinynas",
            "input": {"resolution": 16},
            "objective": {"depth_penalty": 1e-9},
            "stem": {"kernel": 3, "stride": 1, "channels": [8]},
            "stage": [{**one, "depth": [1 if t % 2 else 60]} for t in range(52)],
        }
    )
    box = whole(spec).tightened()
    assert box is not None
    program = Program(Relaxation(spec), box)
    (only,) = oracle.architectures(spec)
    for curvature in (0.0, 1.0, 1e6, 1e10, 1e12):
        assert program.evaluate(np.array([curvature, 0.0])).value >= only.score


def test_the_tree_partitions_the_space(spec: Spec, optimum: oracle.Best) -> None:
    """Every architecture lies in exactly one leaf, or was trimmed away on the road to one."""
    everything = literals(spec)
    exact = {x.path: x.best.score if oracle.fits(spec.budget, x.best) else -math.inf for x in everything}
    tree = branch_and_bound(Relaxation(spec), lambda: optimum.score, exact.__getitem__)

    def visit(node: Node, inside: list[Literal]) -> None:
        if node.kind == "split":
            parts = [[x for x in inside if x.inside(child.box, total=True)] for child in node.children]
            assert sum(len(part) for part in parts) == len(inside)
            for child, part in zip(node.children, parts, strict=True):
                visit(child, part)
        elif node.kind == "trim":
            kept = [x for x in inside if x.inside(node.children[0].box, total=True)]
            gone = [x for x in inside if x not in kept and oracle.fits(spec.budget, x.best)]
            assert all(x.best.score <= optimum.score for x in gone)
            visit(node.children[0], kept)
        elif node.kind == "empty":
            assert not inside
        else:
            scores = [x.best.score for x in inside if oracle.fits(spec.budget, x.best)]
            assert node.value >= max(scores, default=-math.inf)

    visit(tree.root, everything)


def test_spreads_of_depths_are_those_of_all_tuples() -> None:
    domains = ((1, 2, 5), (2, 3), (1, 4, 6))
    for first_total, last_total in ((0, 99), (6, 9), (14, 14)):
        expected = {
            3 * sum(d**2 for d in depths) - sum(depths) ** 2
            for depths in itertools.product(*domains)
            if first_total <= sum(depths) <= last_total
        }
        assert set(spreads(domains, first_total, last_total).tolist()) == expected
