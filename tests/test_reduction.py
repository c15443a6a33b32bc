"""The bounds of docs/formulation.md section 5 against enumeration of the catalogue's paths."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import specs
from test_catalogue import catalogue_paths

import mad_ip.solve
from mad_ip import catalogue as catalogues
from mad_ip import depths, entropy, paths
from mad_ip.backends import load_backend
from mad_ip.catalogue import Catalogue
from mad_ip.depths import Window
from mad_ip.reduction import Bound, Box, Relaxation, reduce
from mad_ip.spec import Spec

QUICK = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

SEEDS = st.integers(0, 10**6)

Floats = NDArray[np.float64]


class Paths:
    """All paths of a catalogue with their values, one row per path and one column per segment."""

    def __init__(self, catalogue: Catalogue) -> None:
        spec = catalogue.spec
        self.catalogue = catalogue
        self.option = np.array(catalogue_paths(catalogue)).reshape(-1, len(catalogue.segments))
        self.carried = np.cumsum(self.column("log_width"), axis=1)
        self.layers = np.cumsum(self.column("layers"), axis=1)
        self.depth = self.column("depth")[:, 1 : 1 + len(spec.stages)]
        gain = [s.gain[np.searchsorted(s.nodes, s.c)] for s in catalogue.segments]
        gains = np.array([g[o] for g, o in zip(gain, self.option.T, strict=True)]).T
        self.entropy = (gains * self.carried).sum(axis=1)
        penalised = self.depth[:, spec.penalised]
        self.spread = np.array([entropy.spread([int(d) for d in row]) for row in penalised])
        beta = spec.objective.depth_penalty
        penalty = [entropy.depth_penalty([int(d) for d in row], beta, spec.convention) for row in penalised]
        self.score = self.entropy - np.array(penalty)
        self.feasible = np.ones(len(self.option), bool)
        for budget in paths.LINEAR_BUDGETS:
            limit = getattr(spec.budget, budget)
            if limit is not None:
                self.feasible &= self.column(budget).sum(axis=1) <= limit
        if spec.budget.effectiveness is not None:
            for s, segment in enumerate(catalogue.segments):
                if segment.bounds_effectiveness:
                    rho = self.layers[:, s] / np.exp(self.carried[:, s] / self.layers[:, s])
                    self.feasible &= rho <= spec.budget.effectiveness

    def column(self, name: str) -> NDArray[Any]:
        columns = [getattr(s, name)[o] for s, o in zip(self.catalogue.segments, self.option.T, strict=True)]
        return np.array(columns).T

    def inside(self, box: Box, *, total: bool) -> NDArray[np.bool_]:
        """Which paths have depths within the box, with their total too where asked."""
        inside = ((self.depth >= box.low) & (self.depth <= box.high)).all(axis=1)
        penalised = self.depth[:, self.catalogue.spec.penalised].sum(axis=1)
        if total and self.catalogue.spec.objective.depth_penalty > 0:
            inside &= (penalised >= box.first) & (penalised <= box.last)
        return inside


def window_of(spec: Spec) -> Window | None:
    domains = [stage.depth for stage in spec.stages][spec.penalised]
    if spec.objective.depth_penalty == 0:
        return None
    return Window(depths.attainable_spreads(domains), len(domains), spec.convention)


def random_multipliers(relaxation: Relaxation, random: Random) -> Floats:
    """Any that are valid: not below the least ones, of quite different sizes, some zero."""
    values = [scale * random.choice([0.0, 0.01, 0.3, 1.0, 5.0]) * random.random() for scale in relaxation.scales]
    if relaxation.penalised:
        values[-1] *= random.choice([-1, 1])
    return np.maximum(np.array(values, float), relaxation.least)


def random_box(whole: Box, relaxation: Relaxation, random: Random) -> Box:
    sides = [sorted((random.randint(a, b), random.randint(a, b))) for a, b in zip(whole.low, whole.high, strict=True)]
    first, last = sorted((random.randint(whole.first, whole.last), random.randint(whole.first, whole.last)))
    box = Box(tuple(a for a, _ in sides), tuple(b for _, b in sides), first, last)
    return relaxation.tightened(box) or whole


def prepared(spec: Spec) -> tuple[Paths, Relaxation, Box] | None:
    """``None`` where no path keeps the linear budgets."""
    catalogue = paths.within_budgets(catalogues.build(spec))
    if catalogue.is_empty:
        return None
    relaxation = Relaxation(catalogue, window_of(spec))
    whole = relaxation.box
    assert whole is not None
    return Paths(catalogue), relaxation, whole


def priced(every: Paths, relaxation: Relaxation, box: Box, bound: Bound) -> tuple[Floats, Floats]:
    """The priced objective of every path, term by term, and the magnitude of its terms."""
    spec = every.catalogue.spec
    multipliers = list(bound.multipliers)
    terms = [every.entropy]
    for budget in paths.LINEAR_BUDGETS:
        limit = getattr(spec.budget, budget)
        if limit is not None:
            price = multipliers.pop(0)
            terms += [np.full(len(every.option), price), -price * every.column(budget).sum(axis=1) / limit]
    tangents = list(bound.tangents)
    if spec.budget.effectiveness is not None:
        for s, segment in enumerate(every.catalogue.segments):
            if segment.bounds_effectiveness:
                price, at = multipliers.pop(0), tangents.pop(0)
                slope = math.log(at) + 1 - math.log(spec.budget.effectiveness)
                floor = at * math.log(at / spec.budget.effectiveness) + slope * (every.layers[:, s] - at)
                terms += [price * every.carried[:, s], -price * floor]
    window = relaxation.window
    if window is not None:
        curvature, price = multipliers
        depth = every.depth[:, spec.penalised]
        total, number = depth.sum(axis=1), depth.shape[1]
        chord = ((box.first + box.last) * total - box.first * box.last) / number**2
        variance = (depth**2).sum(axis=1) / number - chord
        minorant = min(
            q - curvature * spread / number**2 for spread, q in zip(window.spreads, window.uniformities, strict=True)
        )
        beta = spec.objective.depth_penalty
        terms += [np.full(len(total), -beta * minorant), -beta * curvature * variance]
        terms += [np.full(len(total), max(price * box.first, price * box.last)), -price * total]
    return np.sum(terms, axis=0), np.sum(np.abs(terms), axis=0)


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_any_multipliers_bound_every_design_of_any_box(spec: Spec, seed: int) -> None:
    random = Random(seed)
    ready = prepared(spec)
    if ready is None:
        return
    every, relaxation, whole = ready
    for _ in range(6):
        box = random.choice([whole, random_box(whole, relaxation, random)])
        bound = relaxation.evaluate(box, random_multipliers(relaxation, random))
        designs = every.feasible & every.inside(box, total=True)
        assert bound.value >= every.score[designs].max(initial=-math.inf)
        options = relaxation.option_bounds(box, bound)
        for s, values in enumerate(options):
            best = np.full(len(values), -math.inf)
            np.maximum.at(best, every.option[designs, s], every.score[designs])
            assert (values >= best).all(), s
            # The best path takes some option of every segment.
            assert values.max() >= bound.value - 1e-9 * abs(bound.value) or bound.value == -math.inf


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_evaluate_is_the_literal_longest_path(spec: Spec, seed: int) -> None:
    """No envelopes, no dynamic program: the priced objective of every path, term by term."""
    random = Random(seed)
    ready = prepared(spec)
    if ready is None:
        return
    every, relaxation, whole = ready
    low, high = paths.carried_bounds(every.catalogue)
    within = np.ones(len(every.option), bool)
    for s, segment in enumerate(every.catalogue.segments[1:], start=1):
        pair = segment.pair[every.option[:, s]]
        within &= (every.carried[:, s - 1] >= low[s][pair]) & (every.carried[:, s - 1] <= high[s][pair])
    for _ in range(6):
        box = random.choice([whole, random_box(whole, relaxation, random)])
        bound = relaxation.evaluate(box, random_multipliers(relaxation, random))
        values, magnitudes = priced(every, relaxation, box, bound)
        inside = every.inside(box, total=False)
        if not inside.any():
            assert bound.value == -math.inf
            continue
        tolerance = 1e-9 * (1 + magnitudes[inside].max())
        assert bound.value <= values[inside].max() + tolerance
        # Lines are kept where a path within the budgets can be: others may be undervalued, those may not.
        assert bound.value >= values[inside & within].max(initial=-math.inf) - tolerance


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_the_slack_is_a_subgradient(spec: Spec, seed: int) -> None:
    random = Random(seed)
    ready = prepared(spec)
    if ready is None:
        return
    _, relaxation, whole = ready
    at = relaxation.evaluate(whole, random_multipliers(relaxation, random))
    for _ in range(5):
        other = random_multipliers(relaxation, random)
        moved = relaxation.evaluate(whole, other, at.tangents).value
        predicted = at.value + at.slack @ (other - at.multipliers)
        scale = abs(at.value) + float(np.abs(at.slack) @ (np.abs(other) + np.abs(at.multipliers)))
        assert moved >= predicted - 1e-8 * (1 + scale)


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_minimise_never_ends_above_its_start(spec: Spec, seed: int) -> None:
    random = Random(seed)
    ready = prepared(spec)
    if ready is None:
        return
    every, relaxation, whole = ready
    start = random_multipliers(relaxation, random)
    found = relaxation.minimise(whole, start, evaluations=15)
    assert found.value <= relaxation.evaluate(whole, start).value
    assert found.value >= every.score[every.feasible].max(initial=-math.inf)
    assert (found.multipliers >= relaxation.least).all()


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_splitting_loses_no_design(spec: Spec, seed: int) -> None:
    random = Random(seed)
    ready = prepared(spec)
    if ready is None:
        return
    every, relaxation, whole = ready
    box = random_box(whole, relaxation, random)
    deepest = tuple(random.randint(a, b) for a, b in zip(box.low, box.high, strict=True))
    parts = relaxation.split(box, deepest)
    covered = np.zeros(len(every.option), bool)
    for part in parts:
        assert part != box
        covered |= every.inside(part, total=True)
    if parts or not relaxation.is_point(box):
        assert (covered[every.inside(box, total=True)]).all()


@QUICK
@given(spec=specs(limit=250), seed=SEEDS)
def test_reduce_keeps_every_optimum_and_bounds_it(spec: Spec, seed: int) -> None:
    random = Random(seed)
    ready = prepared(spec)
    if ready is None:
        return
    every, relaxation, _ = ready
    catalogue, window = every.catalogue, relaxation.window
    boxes, stops = random.choice([0, 1, 5, 600]), random.random() < 0.2
    optimum = float(every.score[every.feasible].max(initial=-math.inf))
    if optimum == -math.inf:
        reduce(catalogue, window, -1e300, boxes=5)
        return
    cutoff = optimum - 1e-9 * abs(optimum)
    reduction = reduce(catalogue, window, cutoff, boxes=boxes, watch=lambda _: stops)
    assert reduction.bound >= optimum
    assert reduction.boxes <= boxes
    best = np.flatnonzero(every.feasible & (every.score > cutoff))
    assert len(best) > 0
    for s, mask in enumerate(reduction.masks):
        assert mask[every.option[best, s]].all(), s
    # Above the optimum there is nothing: what is left is nothing, or has a bound above the cutoff.
    above = optimum + 1e-6 * abs(optimum) + 1e-9
    empty = reduce(catalogue, window, above)
    assert empty.bound == -math.inf or empty.bound > above
    assert empty.bound > above or not any(mask.any() for mask in empty.masks)


def test_envelopes_of_several_lines_lose_none() -> None:
    """Which channels ahead are worth their price depends on the log-width carried: one line per node is too few."""
    stage = {"block": "basic", "stride": 2, "mid": [8, 64, 256], "kernel": [3], "depth": [1, 3, 5]}
    table = {
        "name": "net",
        "input": {"resolution": 64},
        "budget": {"macs": 2e7, "params": 1e6, "effectiveness": 0.5},
        "stem": {"kernel": 3, "stride": 2, "channels": [8]},
        "stage": [{**stage, "channels": [16]}, {**stage, "channels": [16, 64, 256], "mid": [8, 64]}],
    }
    ready = prepared(Spec.from_table(table))
    assert ready is not None
    every, relaxation, whole = ready
    random, several = Random(0), 0
    for _ in range(60):
        sizes = np.array([10 ** random.uniform(-2, 1) for _ in relaxation.scales])
        bound = relaxation.evaluate(whole, relaxation.scales * sizes)
        prices, slopes, _ = relaxation._terms(whole, bound.multipliers, bound.tangents)
        several += any(lines.slope.shape[1] > 1 for lines in relaxation._backward(prices, slopes))
        values, magnitudes = priced(every, relaxation, whole, bound)
        tolerance = 1e-9 * magnitudes.max()
        low, high = paths.carried_bounds(every.catalogue)
        within = np.ones(len(every.option), bool)
        for s, segment in enumerate(every.catalogue.segments[1:], start=1):
            pair = segment.pair[every.option[:, s]]
            within &= (every.carried[:, s - 1] >= low[s][pair]) & (every.carried[:, s - 1] <= high[s][pair])
        assert bound.value >= values[within].max() - tolerance
        for s, ceiling in enumerate(relaxation.option_bounds(whole, bound)):
            best = np.full(len(ceiling), -math.inf)
            np.maximum.at(best, every.option[within, s], values[within])
            assert (ceiling >= best - tolerance).all(), s
    assert several > 0


def test_a_cutoff_far_above_leaves_nothing_and_the_optimum_little() -> None:
    """Keeping every option would pass the test above."""
    stage = {"block": "bottleneck", "stride": 2, "mid": [8, 16, 32, 64], "kernel": [3], "depth": [1, 2, 3, 4]}
    table = {
        "name": "net",
        "input": {"resolution": 64},
        "budget": {"macs": 3e6, "params": 2e5, "effectiveness": 0.5},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16, 24]},
        "stage": [{**stage, "channels": [16, 32, 48]}, {**stage, "channels": [48, 64, 96]}],
    }
    ready = prepared(Spec.from_table(table))
    assert ready is not None
    every, relaxation, _ = ready
    optimum = float(every.score[every.feasible].max())
    nothing = reduce(every.catalogue, relaxation.window, 2 * optimum)
    assert nothing.bound == -math.inf
    assert not any(mask.any() for mask in nothing.masks)
    little = reduce(every.catalogue, relaxation.window, optimum * (1 - 1e-9))
    assert sum(int(mask.sum()) for mask in little.masks) < 0.5 * len(every.catalogue)
    assert little.bound < 1.05 * optimum


@settings(QUICK, max_examples=30)
@given(spec=specs(limit=1000))
def test_solving_after_a_reduction_finds_the_same_score(spec: Spec) -> None:
    """The solver runs in this process, which spares starting another one for every spec."""

    def here(profile: Any, problem: Any, limits: Any, watch: Any) -> Any:
        return load_backend(profile).solve(problem, limits, watch)

    expected = oracle.enumerate_best(spec)
    scores = []
    for above in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mad_ip.solve, "solve_apart", here)
            patch.setattr(mad_ip.solve, "_REDUCE_ABOVE", above)
            try:
                design = mad_ip.solve.solve(spec)
            except mad_ip.solve.InfeasibleError:
                scores.append(None)
                continue
        assert design.certificate is not None
        assert design.certificate.status == "optimal"
        scores.append(design.metrics.score)
    if expected is None:
        assert scores == [None, None]
    else:
        assert all(score is not None and math.isclose(score, expected.score, rel_tol=1e-6) for score in scores), scores


def test_a_relaxation_without_any_priced_constraint() -> None:
    table = {
        "name": "free",
        "input": {"resolution": 32},
        "objective": {"depth_penalty": 0},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": [{"block": "basic", "stride": 2, "channels": [16], "mid": [8, 16], "kernel": [3], "depth": [1, 2]}],
    }
    ready = prepared(Spec.from_table(table))
    assert ready is not None
    every, relaxation, whole = ready
    assert len(relaxation.scales) == 0
    bound = relaxation.minimise(whole, np.zeros(0))
    assert math.isclose(bound.value, every.score.max(), rel_tol=1e-9)
    assert bound.depths == (2,)
