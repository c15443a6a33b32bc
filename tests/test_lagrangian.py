"""The Lagrangian program against a slow, literal one: every architecture in a loop, no envelopes, no compiled loop."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import pathlib
import re
import shutil
from random import Random
from typing import Any

import device_oracle
import highspy
import numpy as np
import oracle
import pytest
from fine import as_if_fine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from interpreted import interpret
from strategies import specs

from mad_ip.cost import COSTS, Cost
from mad_ip.design import Design
from mad_ip.device import Device
from mad_ip.errors import InputError
from mad_ip.lagrangian import dual, kernels, simplex
from mad_ip.lagrangian import groups as groups_module
from mad_ip.lagrangian import tree as tree_module
from mad_ip.lagrangian.box import AXES, Box, spreads, whole
from mad_ip.lagrangian.dual import minimise
from mad_ip.lagrangian.program import Bound, Program, Relaxation, path_of
from mad_ip.lagrangian.tree import Node, Task, branch_and_bound, examine
from mad_ip.spec import Budget, Path, Spec
from mad_ip.verification.bound import bound, replay

QUICK = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

SMALL = st.booleans().flatmap(lambda clips: specs(limit=250, clips=clips))

SEEDS = st.integers(0, 10**6)

SUMS = ("macs", "params", "layers")

Level = tuple[int, float]
"""Counted layers and log-width."""


@dataclasses.dataclass(frozen=True)
class Literal:
    """One architecture with its values along every segment, from the oracle's own convolutions."""

    best: oracle.Best
    levels: tuple[Level, ...]

    @property
    def path(self) -> Path:
        return self.best.path

    @classmethod
    def of(cls, spec: Spec, best: oracle.Best) -> Literal:
        c, stages, tail = best.structure
        size = spec.input.resolution // spec.stem.stride
        kernel, frames = spec.stem.temporal_kernel, spec.input.frames or 1
        pieces = [oracle.total([oracle.Conv(spec.input.channels, c, spec.stem.kernel, size, k_t=kernel)])]
        frames = oracle.frames_out(frames, kernel, spec.stem.temporal_stride)
        for stage, chosen in zip(spec.stages, stages, strict=True):
            pieces.append(oracle.stage_total(stage, c, *chosen, size, frames))
            c, size = chosen[0], size // stage.stride
            frames = oracle.frames_out(frames, stage.temporal_kernel, stage.temporal_stride)
        if tail is not None:
            pieces.append(oracle.total([oracle.Conv(c, tail, 1, size)]))
        layers = np.cumsum([piece.layers for piece in pieces])
        carried = np.cumsum([piece.log_width for piece in pieces])
        return cls(best, tuple((int(a), float(b)) for a, b in zip(layers, carried, strict=True)))

    def inside(self, box: Box, *, total: bool) -> bool:
        chosen = all(
            value in getattr(box, axis)[s]
            for s, values in enumerate(self.path)
            for axis, value in zip(AXES, values, strict=True)
        )
        depth = sum(self.path[s].depth for s in box.penalised)
        return chosen and (not total or not box.penalised or box.first <= depth <= box.last)

    def spent(self, spec: Spec) -> list[float]:
        """In units of the budgets given."""
        return [getattr(self.best, key) / limit for key in SUMS if (limit := getattr(spec.budget, key)) is not None]


def bounded_levels(spec: Spec) -> list[int]:
    """The segments at whose ends the effectiveness budget applies."""
    if spec.budget.effectiveness is None:
        return []
    weights = [spec.stem.weight, *(stage.weight for stage in spec.stages)]
    if spec.tail is not None:
        weights = [*weights[:-1], 0.0, weights[-1]]
    last = len(weights) - 1
    return [s for s, weight in enumerate(weights) if (weight > 0 if spec.convention == "tinynas" else s == last)]


def priced(spec: Spec, literal: Literal, box: Box, found: Bound) -> tuple[float, float]:
    """The Lagrangian (10.1) for one architecture, term by term, and the magnitude of its terms."""
    multipliers, tangents = list(found.multipliers), list(found.tangents)
    terms = [literal.best.entropy]
    for spent in literal.spent(spec):
        price = multipliers.pop(0)
        terms += [price, -price * spent]
    for s in bounded_levels(spec):
        assert spec.budget.effectiveness is not None
        layers, carried = literal.levels[s]
        price, at = multipliers.pop(0), tangents.pop(0)
        # A layer costs as much as phi rises at the tangent's number of layers.
        per_layer = price * (math.log(at) + 1 - math.log(spec.budget.effectiveness))
        terms += [price * carried, -per_layer * layers]
        ratio, numbers = spec.budget.effectiveness, counts(box, literal, s)
        terms += max(((per_layer * d, -price * d * math.log(d / ratio)) for d in numbers), key=sum)
    if spec.objective.depth_penalty > 0:
        beta, (curvature, price) = spec.objective.depth_penalty, multipliers
        depth = [literal.path[s].depth for s in box.penalised]
        number = len(depth)
        chord = ((box.first + box.last) * sum(depth) - box.first * box.last) / number**2
        terms.append(-beta * curvature * (sum(d**2 for d in depth) / number - chord))
        terms.append(-beta * least_penalty(spec, box, curvature))
        terms += [max(price * box.first, price * box.last), -price * sum(depth)]
    return math.fsum(terms), math.fsum(abs(term) for term in terms)


def counts(box: Box, literal: Literal, s: int) -> range:
    """All numbers of layers up to a segment from the fewest to the most, by depths, and by their sum if that says."""
    ends = [layers for layers, _ in literal.levels[: s + 1]]
    each = [(b - a) // choice.depth for a, b, choice in zip([0, *ends], ends, literal.path, strict=False)]
    fewest, most = (sum(n * box.depth[r][end] for r, n in enumerate(each)) for end in (0, -1))
    if box.penalised and box.penalised[-1] <= s and len({each[r] for r in box.penalised}) == 1:
        others = sum(n * box.depth[r][0] for r, n in enumerate(each) if r not in box.penalised)
        fewest = max(fewest, others + each[box.penalised[0]] * box.first)
        others = sum(n * box.depth[r][-1] for r, n in enumerate(each) if r not in box.penalised)
        most = min(most, others + each[box.penalised[0]] * box.last)
    return range(fewest, most + 1)


def least_penalty(spec: Spec, box: Box, curvature: float) -> float:
    """The least ``Q(V) - b V`` over the attainable ``V``, all tuples of depths in a loop."""
    root = math.sqrt if spec.convention == "tinynas" else float
    domains = [box.depth[s] for s in box.penalised]
    attained = {np.var(depths) for depths in itertools.product(*domains) if box.first <= sum(depths) <= box.last}
    return min(math.exp(min(700, root(v))) - curvature * v for v in attained)


def single_budgets(spec: Spec, literal: Literal) -> bool:
    return all(spent <= 1 for spent in literal.spent(spec))


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
        total = sum(chosen.path[s].depth for s in box.penalised)
        box = dataclasses.replace(box, first=total - random.randint(0, 3), last=total + random.randint(0, 3))
    return box


def random_multipliers(program: Program, random: Random) -> Any:
    values = [scale * random.choice([0.0, 0.01, 0.3, 1.0, 5.0]) * random.random() for scale in program.scales]
    if program.relaxation.beta > 0:
        values[-1] *= random.choice([-1, 1])
    return np.maximum(np.array(values, float), program.relaxation.least)


def literals(spec: Spec) -> list[Literal]:
    return [Literal.of(spec, best) for best in oracle.architectures(spec)]


def programs(spec: Spec, seed: int, **settings: Any) -> Any:
    """The whole space and parts of it, with random multipliers' bound, and what a loop says of every architecture."""
    random = Random(seed)
    relaxation, everything = Relaxation(spec), literals(spec)
    for attempt in range(3):
        box = (whole(spec) if attempt == 0 else random_box(relaxation, everything, random)).tightened
        assert box is not None
        program = Program(relaxation, box, **settings)
        found = None if program.is_empty else program.evaluate(random_multipliers(program, random))
        if found is None or found.path is None:
            # A limit on a maximum may forbid all that is left in a part.
            assert attempt > 0
            assert spec.budget.maxima
            continue
        values = [(*priced(spec, x, box, found), x) for x in everything if x.inside(box, total=False)]
        tolerance = 1e-9 * (1 + max(magnitude for _, magnitude, _ in values))
        yield program, found, [(value, x) for value, _, x in values], tolerance


@QUICK
@given(spec=SMALL, seed=SEEDS)
def test_the_program_is_the_literal_longest_path(spec: Spec, seed: int) -> None:
    for program, found, values, tolerance in programs(spec, seed):
        # Lines are kept where a path within every single budget can be: others may be undervalued, those may not.
        within = max((value for value, x in values if single_budgets(spec, x)), default=-math.inf)
        assert within - tolerance <= found.value <= max(value for value, _ in values) + tolerance
        assert max(value for value, x in values if x.path == found.path) >= within - tolerance
        feasible = [x for _, x in values if x.inside(program.box, total=True) and oracle.fits(spec.budget, x.best)]
        assert found.value >= max((x.best.score for x in feasible), default=-math.inf)


@QUICK
@given(spec=SMALL, seed=SEEDS)
def test_the_program_over_all_log_widths_is_exact(spec: Spec, seed: int) -> None:
    for program, found, values, tolerance in programs(spec, seed, ranged=False):
        best = max(value for value, _ in values)
        assert abs(found.value - best) <= tolerance
        assert found.path in {x.path for value, x in values if value >= best - tolerance}
        for bounds, _ in program.value_bounds(found):
            # The best path takes some value of every choice.
            assert [row.max() for row in bounds] == pytest.approx([found.value] * 4, rel=1e-9, abs=tolerance)


def widest(spec: Spec, path: Path) -> int:
    """The most channels that come out of any convolution of an architecture, or out of its head."""
    found = [choice.channels for choice in path] + [spec.input.classes]
    for stage, choice in zip(spec.stages, path[1:], strict=False):
        found.append(choice.mid)
        if stage.block == "inverted_se":
            found.append(max(8, 8 * ((choice.mid + 16) // 32)))
    return max(found)


@QUICK
@given(spec=SMALL, seed=SEEDS)
def test_what_a_budget_on_a_maximum_forbids_is_on_no_path(spec: Spec, seed: int) -> None:
    """The bound is that of the others, as exactly, and minus infinity without others."""
    random = Random(seed)
    everything = literals(spec)
    limit = random.choice([widest(spec, x.path) for x in everything])
    with pytest.MonkeyPatch.context() as patch:
        terms = lambda layers, opens: (layer.out_channels * layer.present for layer in layers)  # noqa: E731
        patch.setitem(COSTS, "widest", Cost("widest", "channels", terms, "max"))
        spec = dataclasses.replace(spec, budget=Budget(**spec.budget.given, widest=limit), sha256="")
        relaxation = Relaxation(spec)
        for _ in range(3):
            box = random_box(relaxation, everything, random).tightened
            assert box is not None
            program = Program(relaxation, box, ranged=False)
            inside = [x for x in everything if x.inside(box, total=False)]
            allowed = [x for x in inside if widest(spec, x.path) <= limit]
            if program.is_empty:
                assert not allowed
                continue
            found = program.evaluate(random_multipliers(program, random))
            if found.path is None:
                assert not allowed
                assert found.value == -math.inf
                continue
            values = [priced(spec, x, box, found) for x in allowed]
            tolerance = 1e-9 * (1 + max(magnitude for _, magnitude in values))
            assert abs(found.value - max(value for value, _ in values)) <= tolerance
            assert found.path in {x.path for x in allowed}
            for s, (bounds, _) in enumerate(program.value_bounds(found)):
                for position, (axis, row) in enumerate(zip(AXES, bounds, strict=True)):
                    for value, most in zip(getattr(box, axis)[s], row, strict=True):
                        through = (v for (v, _), x in zip(values, allowed, strict=True) if x.path[s][position] == value)
                        assert most >= max(through, default=-math.inf) - tolerance


@QUICK
@given(spec=SMALL, seed=SEEDS, share=st.floats(0, 1))
def test_every_value_is_bounded_by_the_best_path_through_it(spec: Spec, seed: int, share: float) -> None:
    """With a target, what does not pass it has one bound in common, and what does has the same bound as without."""
    for program, found, values, tolerance in programs(spec, seed):
        kept = [(value, x) for value, x in values if single_budgets(spec, x)]
        low, high = min(value for value, _ in values), max(value for value, _ in values)
        target = low + share * (high - low)
        full, targeted = program.value_bounds(found), program.value_bounds(found, target)
        for s, ((bounds, _), (passing, below)) in enumerate(zip(full, targeted, strict=True)):
            for position, axis in enumerate(AXES):
                domain = getattr(program.box, axis)[s]
                assert len(bounds[position]) == len(passing[position]) == len(domain)
                for value, most, above in zip(domain, bounds[position], passing[position], strict=True):
                    through = max((v for v, x in kept if x.path[s][position] == value), default=-math.inf)
                    assert most >= through - tolerance, (axis, s, value)
                    assert above == (most if most > target else -math.inf), (axis, s, value)
                    assert above > -math.inf or below >= through - tolerance, (axis, s, value)
            assert below <= target


@QUICK
@given(spec=SMALL, seed=SEEDS, most=st.integers(1, 4))
def test_groups_of_widths_bound_all_that_is_in_them(spec: Spec, seed: int, most: int) -> None:
    """By the same multipliers: the box, and every value; groups of one are what they hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mad_ip.lagrangian.groups._GROUPS", most)
        for program, found, values, tolerance in programs(spec, seed):
            groups = program.grouped()
            assert (groups.tables.shapes[:, [1, 3]] <= most).all()
            kept = [(value, x) for value, x in values if single_budgets(spec, x)]
            rough = groups.evaluate(found.multipliers, found.tangents)
            assert rough.value >= max((value for value, _ in kept), default=-math.inf) - tolerance
            if (program.tables.shapes[:, [1, 3]] <= most).all():
                assert rough.value == pytest.approx(found.value, abs=tolerance)
            for s, (bounds, below) in enumerate(groups.value_bounds(found)):
                assert below == -math.inf
                for position, axis in enumerate(AXES):
                    for value, bound_ in zip(getattr(program.box, axis)[s], bounds[position], strict=True):
                        through = max((v for v, x in kept if x.path[s][position] == value), default=-math.inf)
                        assert bound_ >= through - tolerance, (axis, s, value)


@pytest.mark.parametrize("number", [1, 47, 48, 49, 64, 256, 1000])
def test_groups_are_neighbours_in_about_equal_ratios(number: int) -> None:
    values = np.arange(8, 8 * number + 1, 8)
    found = groups_module.groups(values)
    assert found[0] == 0
    assert set(np.diff(found)) <= {0, 1}
    assert found[-1] < 48
    if number <= 48:
        assert found[-1] == number - 1
    else:
        # As many as there may be, nearly, and no wider than those of a grid in equal ratios would be.
        assert found[-1] > 30
        ratios = [values[found == group][-1] / values[found == group][0] for group in range(found[-1] + 1)]
        assert max(ratios) <= number ** (1 / 30)


@QUICK
@given(spec=SMALL, seed=SEEDS)
def test_every_option_is_bounded_by_the_best_path_through_it(spec: Spec, seed: int) -> None:
    for program, found, values, tolerance in programs(spec, seed):
        sources: Any = [spec.input.channels]
        bounds = list(program.option_bounds(found))
        for s, (options, (by_value, _)) in enumerate(zip(bounds, program.value_bounds(found), strict=True)):
            part = program.segment(s)
            axes = [list(sources), *(list(map(int, a)) for a in (part.nodes, part.kernel, part.mid, part.depth))]
            assert options.shape == tuple(map(len, axes))
            taken = set()
            for value, x in values:
                c, m, k, depth = x.path[s]
                c_in = spec.input.channels if s == 0 else x.path[s - 1].channels
                place = tuple(axis.index(v) for axis, v in zip(axes, (c_in, c, k, m, depth), strict=True))
                taken.add(place)
                assert not single_budgets(spec, x) or options[place] >= value - tolerance
            assert set(zip(*np.nonzero(np.isfinite(options)), strict=True)) == taken
            # The bound of a value is that of the best option that has it.
            for row, over in zip(by_value, ((0, 2, 3, 4), (0, 1, 2, 4), (0, 1, 3, 4), (0, 1, 2, 3)), strict=True):
                best = options.max(axis=over)
                assert row[np.isfinite(row)] == pytest.approx(best[np.isfinite(best)], rel=1e-12, abs=tolerance)
            sources = part.nodes


@QUICK
@given(spec=SMALL, seed=SEEDS, lines=st.integers(1, 3))
def test_chords_in_place_of_lines_only_raise_the_bound(spec: Spec, seed: int, lines: int) -> None:
    box = whole(spec).tightened
    assert box is not None
    relaxation = Relaxation(spec)
    program = Program(relaxation, box, ranged=False)
    multipliers = random_multipliers(program, Random(seed))
    exact = program.evaluate(multipliers)
    exact_values = list(program.value_bounds(exact))
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch)
        patch.setattr(kernels, "CAPACITY", lines)
        coarse = program.evaluate(multipliers)
        coarse_values = list(program.value_bounds(exact))
    tolerance = 1e-9 * (1 + abs(exact.value))
    assert coarse.value >= exact.value - tolerance
    optimum = oracle.enumerate_best(spec)
    assert optimum is None or coarse.value >= optimum.score
    for (fine_axes, _), (coarse_axes, _) in zip(exact_values, coarse_values, strict=True):
        for fine_row, coarse_row in zip(fine_axes, coarse_axes, strict=True):
            assert (coarse_row >= fine_row - tolerance).all()


def enveloped(slopes: Any, values: Any, own: Any, low: Any, high: Any) -> list[tuple[Any, Any, Any]]:
    """Slope, intercept and origin of the lines that are kept of every source."""
    slope, intercept, origin, number = kernels.envelopes(slopes, values, own, low, high)
    return [(slope[s, :n], intercept[s, :n], origin[s, :n]) for s, n in enumerate(number)]


@QUICK
@given(seed=SEEDS)
def test_an_envelope_is_the_highest_of_the_lines(seed: int) -> None:
    """Equal slopes, lines that are not there, and ends of the range included; few enough lines to keep all."""
    generator = np.random.default_rng(seed)
    number = int(generator.integers(1, kernels.CAPACITY + 1))
    slopes = np.sort(generator.integers(-5, 6, number).astype(float))
    values = generator.integers(-20, 21, (4, number)).astype(float)
    values[generator.random(values.shape) < 0.2] = -np.inf
    own = generator.uniform(0, 3, 4)
    low = generator.uniform(0, 5, 4)
    high = low + generator.choice([0.0, 1.0, 10.0], 4)
    for s, (slope, intercept, origin) in enumerate(enveloped(slopes, values, own, low, high)):
        assert (len(slope) > 0) == np.isfinite(values[s]).any()
        assert (np.diff(slope) > 0).all()
        assert (slope == slopes[origin] + own[s]).all()
        assert (intercept == values[s, origin]).all()
        for at in np.linspace(low[s], high[s], 50 if len(slope) else 0):
            assert (slope * at + intercept).max() == pytest.approx(((slopes + own[s]) * at + values[s]).max(), abs=1e-9)


def test_chords_of_an_envelope() -> None:
    """Tangents of a parabola: many lines, few chords; everywhere above, and close."""
    generator = np.random.default_rng(0)
    touch = np.linspace(0, 10, 60) + generator.uniform(0, 0.1, 60)
    slopes, values = 2 * touch, np.tile(-(touch**2), (3, 1))
    low, high = np.zeros(3), np.array([10.0, 8.0, 5.0])
    for s, (slope, intercept, origin) in enumerate(enveloped(slopes, values, np.zeros(3), low, high)):
        assert len(slope) == kernels.CAPACITY
        at = np.linspace(low[s], high[s], 1001)[:, None]
        upper = (slope * at + intercept).max(axis=1)
        true = (slopes * at + values[s]).max(axis=1)
        assert (upper >= true - 1e-12).all()
        # A chord of width w is at most w^2 / 4 above a parabola; none is twice as wide as the mean.
        assert (upper - true).max() < (2 * (high[s] - low[s]) / kernels.CAPACITY) ** 2 / 4
        assert (np.diff(slope) > 0).all()
        assert (np.diff(origin) > 0).all()


@settings(QUICK, max_examples=15)
@given(spec=specs(limit=100), seed=SEEDS)
def test_compiled_loops_are_the_plain_ones(spec: Spec, seed: int) -> None:
    within = [x for x in oracle.architectures(spec) if oracle.fits(spec.budget, x)]
    if seed % 2 and within:
        # A peak of activations takes widths away, pair by pair.
        spec = dataclasses.replace(spec, device=Device(), sha256="")
        peak = device_oracle.activation(spec, Random(seed).choice(within).structure)
        spec = dataclasses.replace(spec, budget=Budget(**spec.budget.given, activation=peak), sha256="")
    (program, found, _, _), *_ = programs(spec, seed)
    fast = [row for rows, _ in program.value_bounds(found) for row in rows], program.option_bounds(found)
    better = minimise(program, found, None, target=-math.inf, evaluations=3)
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch)
        # By bisection, however few the widths.
        patch.setattr(kernels, "_WIDE", 1)
        again = Program(Relaxation(spec), program.box)
        slow = again.evaluate(found.multipliers)
        plain = [row for rows, _ in again.value_bounds(slow) for row in rows], again.option_bounds(slow)
        as_good = minimise(again, slow, None, target=-math.inf, evaluations=3)
    assert found.value == pytest.approx(slow.value, rel=1e-13)
    assert better.best.value == pytest.approx(as_good.best.value, rel=1e-9)
    for here, there in zip([*fast[0], *fast[1]], [*plain[0], *plain[1]], strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-12)


@QUICK
@given(spec=SMALL, seed=SEEDS)
def test_a_path_is_a_plane_below_the_dual(spec: Spec, seed: int) -> None:
    """Its trace is what it adds and spends; its plane is its Lagrangian at any multipliers, and never above a bound."""
    random = Random(seed)
    for program, found, values, _ in programs(spec, seed, ranged=False):
        search, box = dual._begun(program, found, program.traces(0), 3), program.relaxed
        dual._improve(search, -math.inf, 3)
        size = len(search.start)
        for at in range(search.counts[dual._TRACES]):
            path = path_of(search.traces.choices[at])
            (own,) = (x for _, x in values if x.path == path)
            assert search.traces.worth[at] == pytest.approx(own.best.entropy, rel=1e-12, abs=1e-12)
            assert search.traces.spent[at] == pytest.approx(own.spent(spec), rel=1e-12)
            levels = [own.levels[s] for s in bounded_levels(spec)]
            assert search.traces.log_widths[at] == pytest.approx([carried for _, carried in levels], rel=1e-12)
            if len(found.multipliers) == 0:
                continue
            row = search.rows[at]
            for multipliers in (found.multipliers, random_multipliers(program, random)):
                bound = program.evaluate(multipliers, found.tangents)
                effectiveness = multipliers[box.budgets : box.budgets + len(levels)]
                ratio = program.relaxation.log_ratio
                prices = [mu * (math.log(t) + 1 - ratio) for mu, t in zip(effectiveness, found.tangents, strict=True)]
                z = ([*multipliers, *prices] - search.start) / search.scales
                height = (search.profits[row] + search.columns[row, :size] @ z) * search.numbers[dual._UNIT]
                for i, (mu, price) in enumerate(zip(effectiveness, prices, strict=True)):
                    numbers = slice(box.starts[i], box.starts[i + 1])
                    height += (price * box.layers[numbers] - mu * box.floors[numbers]).max()
                if spec.objective.depth_penalty > 0:
                    height -= spec.objective.depth_penalty * (box.uniformities - multipliers[-2] * box.variances).min()
                    height += max(multipliers[-1] * program.box.first, multipliers[-1] * program.box.last)
                expected, magnitude = priced(spec, own, program.box, bound)
                assert height == pytest.approx(expected, abs=1e-9 * (1 + magnitude))
                assert bound.value >= height - 1e-9 * (1 + magnitude)


@settings(QUICK, max_examples=200)
@given(seed=SEEDS, rows=st.integers(2, 9), free=st.integers(0, 7), planes=st.integers(1, 40))
def test_small_linear_programs_end_where_highs_ends(seed: int, rows: int, free: int, planes: int) -> None:
    """Weights of planes add up to 1 in every term; what gradients do not add up to zero is paid for. Ties abound."""
    generator = np.random.default_rng(seed)
    free = min(free, rows - 1)
    identity = np.eye(rows)[:free]
    terms = np.append(np.arange(free, rows), generator.integers(free, rows, planes))
    steep = np.zeros((len(terms), rows))
    steep[:, :free] = generator.integers(-3, 4, (len(terms), free))
    columns = np.concatenate([-identity, identity, steep + np.eye(rows)[terms]])
    limits = np.sort(generator.integers(-5, 6, (2, free)), axis=0).astype(float)
    profits = np.concatenate([limits[0], -limits[1], generator.integers(-9, 10, len(terms))])
    first = 2 * free + np.arange(rows - free)
    positive = columns[first, :free].sum(axis=0) >= 0
    basis = np.append(np.where(positive, np.arange(free), free + np.arange(free)), first)
    prices, weights = np.empty(rows), np.empty(rows)
    assert simplex.maximise(columns, profits, len(columns), basis, free, prices, weights)
    solver = highspy.Highs()
    solver.silent()
    variables = [solver.addVariable(lb=0) for _ in profits]
    for row in range(rows):
        solver.addConstr(sum(c * v for c, v in zip(columns[:, row], variables, strict=True)) == float(row >= free))
    solver.maximize(sum(p * v for p, v in zip(profits, variables, strict=True)))
    assert prices[free:].sum() == pytest.approx(solver.getObjectiveValue(), abs=1e-9)
    assert (weights >= -1e-9).all()
    assert weights @ profits[basis] == pytest.approx(prices[free:].sum(), abs=1e-9)
    assert weights @ columns[basis] == pytest.approx(1.0 * (np.arange(rows) >= free), abs=1e-9)


@QUICK
@given(spec=SMALL, seed=SEEDS, hopeless=st.booleans())
def test_minimise_only_improves(spec: Spec, seed: int, hopeless: bool) -> None:
    random = Random(seed)
    relaxation = Relaxation(spec)
    box = whole(spec).tightened
    assert box is not None
    program = Program(relaxation, box)
    before = program.evaluate(random_multipliers(program, random))
    # Some of another box's paths are not in this one.
    other = Program(relaxation, random_box(relaxation, literals(spec), random).tightened or box)
    known = minimise(other, None, None, target=-math.inf, evaluations=3).traces
    target = -math.inf if hopeless else max(x.score for x in oracle.architectures(spec))
    found = minimise(program, before, known, target=target)
    assert found.best.value <= before.value
    assert (found.best.multipliers >= relaxation.least).all()
    assert program.evaluate(found.best.multipliers, found.best.tangents).value == found.best.value
    assert len(found.weights) == len(found.heights) == len(found.traces.worth)
    assert (found.weights >= 0).all()
    assert found.weights.sum() == pytest.approx(1)
    assert {path_of(choices) for choices in found.traces.choices} <= {
        x.path for x in literals(spec) if x.inside(box, total=True)
    }


@pytest.mark.parametrize("failing", ["always", "later"])
def test_without_prices_the_first_bound_stands(spec: Spec, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the simplex method fails the bound is an evaluation's all the same, and the weights are some."""
    calls = itertools.count()

    def fail(*arguments: Any) -> bool:
        found = right(*arguments)
        arguments[-1][:] = -1.0
        return found and failing == "later" and next(calls) < 3

    box = whole(spec).tightened
    assert box is not None
    program = Program(Relaxation(spec), box)
    expected = minimise(program, None, None, target=-math.inf)
    interpret(monkeypatch)
    right = simplex.maximise
    monkeypatch.setattr(simplex, "maximise", fail)
    found = minimise(program, None, None, target=-math.inf)
    first = program.evaluate(program.start, program.tangents)
    assert expected.best.value <= found.best.value <= first.value * (1 + 1e-12)
    assert found.weights.min() >= 0
    assert found.weights.sum() == 1


def test_machine_code_is_that_of_the_sources(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of its own for every state of all files that are compiled: they call one another."""
    folder = pathlib.Path(kernels.__file__).parent
    files = [path for path in folder.glob("*.py") if re.search("^@(compiled|inner)$", path.read_text(), re.MULTILINE)]
    assert {path.stem for path in files} >= {"kernels", "passes", "dual"}
    for path in files:
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels.py"))
    places = [kernels._folder.__wrapped__()]
    for path in files:
        with (tmp_path / path.name).open("a") as stream:
            stream.write("# changed")
        places.append(kernels._folder.__wrapped__())
    assert len(set(places)) == len(files) + 1
    assert all(str(tmp_path) in place for place in places)


@QUICK
@given(seed=SEEDS, sources=st.integers(1, 40), widths=st.integers(1, 12))
def test_bisection_finds_the_best_widths(seed: int, sources: int, widths: int) -> None:
    """Costs whose differences ascend, many of them equal, and ranges that are narrower, or empty, further on."""
    generator = np.random.default_rng(seed)
    entering = generator.integers(0, 3, (sources, widths)).cumsum(axis=0).cumsum(axis=1).astype(float)
    entering += generator.integers(0, 9, (sources, 1)) + generator.integers(0, 9, widths)
    best = generator.integers(0, 40 * widths, widths).astype(float)
    first = np.sort(generator.integers(0, widths, sources))[::-1].copy()
    end = np.sort(generator.integers(0, widths + 1, sources))[::-1].copy()
    end[generator.random(sources) < 0.2] = 0
    top, at = np.empty(sources), np.empty(sources, np.int64)
    kernels._descending(best, entering, first, end, top, at)
    for s in range(sources):
        values = (best - entering[s])[first[s] : end[s]]
        assert top[s] == max(values, default=-math.inf)
        assert at[s] == (first[s] + values.argmax() if len(values) else -1)


@pytest.mark.parametrize("stops", [0, 1])
def test_told_to_stop_a_known_bound_is_left(spec: Spec, stops: int) -> None:
    """Without an evaluation at first, and with one, where that gives no better bound, later."""
    relaxation = Relaxation(spec)
    box = whole(spec).tightened
    assert box is not None
    above = minimise(Program(relaxation, box), None, None, target=-math.inf).best
    asked = iter([False] * stops)
    worse = Program(relaxation, box).evaluate(100 * above.multipliers, above.tangents)
    found = examine(relaxation, Task(box, above, worse, None, -math.inf), stop=lambda: next(asked, True))
    assert (found.kind, found.bound, found.trims, found.cuts) == ("leaf", above, (), ())
    assert len(found.candidates) == 0


def test_without_time_the_root_takes_one_evaluation(
    spec: Spec, optimum: oracle.Best, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multipliers come of a part of the grid, and are good ones."""
    boxes, right = [], tree_module.minimise

    def counting(program: Program, *arguments: Any, **options: Any) -> Any:
        boxes.append(program.box)
        found = right(program, *arguments, **options)
        assert program.box != whole(spec).tightened or len(found.traces.worth) == 1
        return found

    monkeypatch.setattr(tree_module, "minimise", counting)
    monkeypatch.setattr(tree_module, "THIN", 2)
    tree = branch_and_bound(Relaxation(spec), lambda: -math.inf, lambda _: 0.0, seconds=0.0)
    assert boxes.count(whole(spec).tightened) == 1
    assert optimum.score <= tree.state.bound < 1.5 * optimum.score
    assert [box for box, _ in tree.left] == [tree.root.box]


@QUICK
@given(spec=SMALL, seed=SEEDS, share=st.floats(0, 1), thin=st.booleans())
def test_what_is_trimmed_cannot_pass(spec: Spec, seed: int, share: float, thin: bool) -> None:
    """Every architecture of a box that is feasible and passes the target is left, whatever the target."""
    random = Random(seed)
    relaxation, everything = Relaxation(spec), literals(spec)
    box = random_box(relaxation, everything, random)
    inside = [x for x in everything if x.inside(box, total=True)]
    scores = sorted(x.best.score for x in inside)
    target = scores[round(share * (len(scores) - 1))]
    with pytest.MonkeyPatch.context() as patch:
        if thin:
            as_if_fine(patch)
        found = examine(relaxation, Task(box, None, None, None, target))
    feasible = [x for x in inside if oracle.fits(spec.budget, x.best)]
    for trim in found.trims:
        gone = [x for x in feasible if not x.inside(trim.box, total=True)]
        assert trim.dropped <= target
        assert all(x.best.score <= max(trim.dropped, target) for x in gone)
        feasible = [x for x in feasible if x.inside(trim.box, total=True)]
        assert trim.bound.value >= max((x.best.score for x in feasible), default=-math.inf)
    assert found.kind != "empty" or not feasible
    assert found.kind != "point" or [x.path for x in feasible] in ([], [found.candidates[0]])
    if found.bound is not None:
        assert found.bound.value >= max((x.best.score for x in feasible), default=-math.inf)
    assert set(found.candidates) <= {x.path for x in everything}


@QUICK
@given(
    spec=specs(limit=2000),
    gap=st.sampled_from([0.0, 1e-6, 1e-3, 0.05]),
    threads=st.sampled_from([1, 2]),
    fine=st.booleans(),
)
def test_bound_encloses_the_enumerated_optimum_and_replays(spec: Spec, gap: float, threads: int, fine: bool) -> None:
    optimum = oracle.enumerate_best(spec)
    everything = oracle.architectures(spec)
    reference = optimum or max(everything, key=lambda x: x.score)
    design = Design.chosen(spec, reference.path)
    with pytest.MonkeyPatch.context() as patch:
        if fine:
            as_if_fine(patch)
        result = bound(spec, design, gap=gap, threads=threads)
    score = reference.score
    if optimum is not None:
        assert result.better is None
        assert result.upper >= score - 1e-9 * abs(score)
        # The margin for rounding is proportional to the entropy, not to what the penalty leaves of it.
        assert result.open == 0
        assert result.upper - score <= gap * abs(score) + 1e-9 * (1 + reference.entropy + reference.penalty)
    again = replay(spec, json.loads(json.dumps(result.certificate)), threads=3 - threads)
    assert again.reasons == ()
    assert again.upper <= result.upper + 1e-9 * abs(result.upper)
    assert optimum is None or again.upper >= score - 1e-9 * abs(score)


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
    result = bound(spec, Design.chosen(spec, worse.path), gap=1e-6)
    assert result.gap > 1e-6
    assert result.better is not None
    assert worse.score < result.better.metrics.score <= optimum.score * (1 + 1e-9)
    assert result.upper >= optimum.score * (1 - 1e-12)


def test_stopping_leaves_a_valid_bound(spec: Spec, optimum: oracle.Best) -> None:
    seen = []

    def watch(state: Any) -> bool:
        seen.append(state)
        return len(seen) == 12

    result = bound(spec, Design.chosen(spec, optimum.path), gap=0.0, watch=watch)
    assert len(seen) == 12
    assert result.open > 0
    assert result.upper >= optimum.score
    assert [s.upper for s in seen] == sorted((s.upper for s in seen), reverse=True)
    assert optimum.score <= replay(spec, result.certificate).upper <= result.upper * (1 + 1e-12)
    at_once = bound(spec, Design.chosen(spec, optimum.path), gap=0.0, seconds=0.0)
    assert at_once.upper >= result.upper


@pytest.fixture(scope="module")
def certificate(spec: Spec, optimum: oracle.Best) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        json.dumps(bound(spec, Design.chosen(spec, optimum.path), gap=0.0).certificate)
    )
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
    box = whole(spec).tightened
    assert box is not None
    program = Program(Relaxation(spec), box)
    (only,) = oracle.architectures(spec)
    for curvature in np.geomspace(1.0, 1e25, 101):
        # The total's price that takes away what the curvature charges for one more of depth.
        for price in (1.0, 2.0, 0.0):
            total = price * spec.objective.depth_penalty * curvature * 7 / 3
            assert program.evaluate(np.array([0.0, curvature, total])).value >= only.score


def test_a_score_without_entropy_is_bounded() -> None:
    """No level has a weight: nothing but the depth penalty is left, and what a natural step is is not clear."""
    stage = {
        "block": "basic",
        "stride": 2,
        "channels": [8, 16],
        "mid": [8],
        "kernel": [3],
        "depth": [1, 3],
        "weight": 0,
    }
    stem = {"kernel": 3, "stride": 2, "channels": [8], "weight": 0}
    for budget in ({}, {"macs": 1e6, "effectiveness": 0.5}):
        table = {"name": "n", "input": {"resolution": 32}, "budget": budget, "stem": stem, "stage": [stage] * 2}
        spec = Spec.from_table(table)
        best = oracle.enumerate_best(spec)
        assert best is not None
        assert best.score == -spec.objective.depth_penalty
        for reference in (best, min(oracle.architectures(spec), key=lambda x: x.score)):
            result = bound(spec, Design.chosen(spec, reference.path), gap=1e-9)
            assert result.upper >= best.score - 1e-9
            assert replay(spec, result.certificate).reasons == ()


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
    box = whole(spec).tightened
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
