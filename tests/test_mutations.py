"""Faults in the solver, one at a time, and what verification makes of the designs that then come out as optimal.

Nothing is edited, all is patched. Most mutations break the catalogue, the dynamic programs over it, the formulation or
the solve, on the road where these decide: the solver gets all undominated options, and no design but where noted. So
that verification alone can catch what is not feasible, the faults that let too much pass also take away the checks that
the solve makes of its own result. The others break what joins branch and bound and the solver, on the usual road.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from interpreted import interpret
from numpy.typing import NDArray

from mad_ip import catalogue, decomposition, formulation, paths, solve
from mad_ip.backends import Profile
from mad_ip.decomposition import Found
from mad_ip.design import Design
from mad_ip.errors import InternalError
from mad_ip.formulation import Window
from mad_ip.lagrangian import dual, kernels, packed, passes, program, tree, workers
from mad_ip.lagrangian.survivors import Survivors
from mad_ip.spec import Budget, Segment, Spec
from mad_ip.verification import audit, verify

pytestmark = pytest.mark.usefixtures("in_this_process")

Mutate = Callable[[pytest.MonkeyPatch], None]


def table(block: str, **sections: Any) -> dict[str, Any]:
    """2 * (3 * 2 * 2 * 4)^2 = 4,608 architectures without rules and a tail."""
    stage = {"block": block, "stride": 2, "kernel": [3, 5], "depth": {"min": 1, "max": 4}}
    return {
        "name": block,
        "input": {"resolution": 32, "classes": 10},
        "stem": {"kernel": 3, "stride": 1, "channels": [16, 24]},
        "stage": [
            {**stage, "channels": [24, 32, 48], "mid": [16, 24]},
            {**stage, "channels": [48, 64, 96], "mid": [32, 48]},
        ],
        **sections,
    }


BOTTLENECK = Spec.from_table(table("bottleneck", budget={"macs": 8e6, "params": 78e3, "effectiveness": 0.3}))
BASIC = Spec.from_table(table("basic", budget={"macs": 30e6, "params": 300e3, "layers": 14}))
INVERTED = Spec.from_table(
    table("inverted", budget={"macs": 4e6, "params": 40e3}, tail={"channels": [64, 128]}, convention="tinynas")
)


def solved(spec: Spec, start: bool = False) -> Design:
    """By the catalogue and the formulation alone; a ``start`` is the worst of the designs of equal depths."""
    fitting = [best for best in oracle.architectures(spec) if oracle.fits(spec.budget, best)]
    least = min(best.penalty for best in fitting)
    worst = min((best for best in fitting if best.penalty == least), key=lambda best: best.score)

    def begun(self: solve._Solve, *_: Any) -> Found:
        if start:
            self._follow(Found((worst.path,), -math.inf, -math.inf, math.inf, 0))
        return Found((), -math.inf, -math.inf, math.inf, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve._Solve, "_branch", begun)
        return solve.solve(spec, profile=Profile("highs", reduction=False))


# Faults of the catalogue.


def quantities_of_stages(change: Callable[..., Any]) -> Mutate:
    """``change`` is given the right function and its arguments."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = catalogue.quantities

        def wrong(segment: Segment, *arguments: Any) -> Any:
            return (change if segment.kind == "stage" else apply)(right, segment, *arguments)

        patch.setattr(catalogue, "quantities", wrong)

    return mutate


def apply(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def larger(key: str) -> Mutate:
    """What every stage costs of a budget a tenth too large."""

    def change(right: Callable[..., Any], *arguments: Any) -> Any:
        costs, *rest = right(*arguments)
        return {**costs, key: costs[key] * 11 // 10}, *rest

    return quantities_of_stages(change)


def resolution_as_before_a_stride(right: Callable[..., Any], segment: Segment, *arguments: Any) -> Any:
    return right(replace(segment, size=segment.size * 2, out_size=segment.out_size * 2), *arguments)


def gain_of_the_widest_node_halved(patch: pytest.MonkeyPatch) -> None:
    right = catalogue.Options.__dict__["gain"].func

    def wrong(options: catalogue.Options) -> NDArray[np.float64]:
        gains = np.array(right(options))
        gains[-1] *= 0.5
        return gains

    patch.setattr(catalogue.Options, "gain", property(wrong))


def without(key: str, value: int) -> Mutate:
    """One value of a domain silently missing."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = catalogue._segment

        def wrong(spec: Spec, segment: Segment, *ends: Any) -> catalogue.Options:
            domain = tuple(other for other in getattr(segment, key) if other != value)
            return right(spec, replace(segment, **{key: domain}) if segment.kind == "stage" else segment, *ends)

        patch.setattr(catalogue, "_segment", wrong)

    return mutate


def channels_must_rise(patch: pytest.MonkeyPatch) -> None:
    """Options that keep the number of channels are missing."""
    right = catalogue._segment

    def wrong(*arguments: Any) -> catalogue.Options:
        options = right(*arguments)
        return options.keep(options.c > options.c_in)

    patch.setattr(catalogue, "_segment", wrong)


def dominance_reversed(patch: pytest.MonkeyPatch) -> None:
    """The option that costs no more and carries no less is dropped, and the other one kept."""
    right = catalogue._undominated

    def wrong(compared: list[Any], *rest: Any) -> NDArray[np.bool_]:
        return right([-quantity for quantity in compared], *rest)

    def dominators(segment: Segment, kernel: NDArray[np.int64], mid: NDArray[np.int64]) -> NDArray[np.int64]:
        block = catalogue.blocks.opening(segment, 1, 1, mid[None, :], kernel[:, None])
        widths = np.broadcast_to(catalogue.entropy.log_width_product(block), (len(kernel), len(mid)))
        return np.array([np.searchsorted(row, widths, side="right") - 1 for row in widths])

    patch.setattr(catalogue, "_undominated", wrong)
    patch.setattr(catalogue, "_dominators", dominators)


# Faults of the dynamic programs.


def carried_bound_too_tight(patch: pytest.MonkeyPatch) -> None:
    right = paths.carried_bounds

    def wrong(*arguments: Any) -> Any:
        low, high = right(*arguments)
        return low, [lower + 0.4 * (upper - lower) for lower, upper in zip(low, high, strict=True)]

    patch.setattr(paths, "carried_bounds", wrong)


# Faults of the formulation.


def unchecked(patch: pytest.MonkeyPatch) -> None:
    """The solve's own checks of what it decodes are gone."""
    patch.setattr(solve, "violations", lambda *_: [])
    patch.setattr(solve, "_compare", lambda *_: None)


def missing(*constraints: str) -> Mutate:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        unchecked(patch)
        right = formulation.Formulation._build

        def wrong(self: formulation.Formulation) -> Any:
            model = right(self)
            for name in constraints:
                getattr(model, name).deactivate()
            return model

        patch.setattr(formulation.Formulation, "_build", wrong)

    return mutate


def limits(spec: Spec, changes: Callable[[dict[str, float]], Any]) -> Spec:
    """A spec with changed budgets."""
    given = spec.budget.given
    changes(given)
    return replace(spec, budget=Budget(**given))


def no_row(budget: str) -> Mutate:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        unchecked(patch)
        right = formulation.Formulation.__init__

        def wrong(self: formulation.Formulation, options: catalogue.Catalogue, *rest: Any) -> None:
            right(self, replace(options, spec=limits(options.spec, lambda given: given.pop(budget))), *rest)

        patch.setattr(formulation.Formulation, "__init__", wrong)

    return mutate


def tighter_row(patch: pytest.MonkeyPatch) -> None:
    right = formulation._budget_row

    def wrong(model: Any, segments: Any, spec: Spec, budget: str) -> Any:
        tight = limits(spec, lambda given: given.update({budget: 0.95 * given[budget]}))
        return right(model, segments, tight, budget)

    patch.setattr(formulation, "_budget_row", wrong)


def inner_floors_dropped(patch: pytest.MonkeyPatch) -> None:
    """One secant from the first to the last attainable depth, which lies above the convex floor between them."""
    right = formulation._secants

    def wrong(points: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
        if points[0] > 0:
            points, values = [points[0], points[-1]], [values[0], values[-1]]
        return right(points, values)

    patch.setattr(formulation, "_secants", wrong)


def penalty_shifted(patch: pytest.MonkeyPatch) -> None:
    """Secants of the depth penalty as if every unit of the spread were worth 100,000 more."""
    right = formulation._secants

    def wrong(points: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
        if points[0] == 0:
            values = [value + 1e5 * point for point, value in zip(points, values, strict=True)]
        return right(points, values)

    patch.setattr(formulation, "_secants", wrong)


# Faults of the solve.


def window_of_one_spread(patch: pytest.MonkeyPatch) -> None:
    right = solve._Solve._window

    def wrong(self: Any, *arguments: Any) -> Window | None:
        window = right(self, *arguments)
        return None if window is None else replace(window, spreads=window.spreads[:1])

    patch.setattr(solve._Solve, "_window", wrong)


class Mutation(NamedTuple):
    """``claim``: what the solve says of its design; ``audit``: the budget that this design breaks."""

    mutate: Mutate
    spec: Spec
    claim: str = "optimal"
    audit: str | None = None
    start: bool = False


MUTATIONS = {
    "MACs too large": Mutation(larger("macs"), BASIC),
    "parameters too large": Mutation(larger("params"), BOTTLENECK),
    "stride": Mutation(quantities_of_stages(resolution_as_before_a_stride), BASIC),
    "entropy gain": Mutation(gain_of_the_widest_node_halved, BOTTLENECK),
    "kernel missing": Mutation(without("kernel", 5), BASIC),
    "depth missing": Mutation(without("depth", 4), BOTTLENECK),
    "channels must rise": Mutation(channels_must_rise, BASIC),
    "dominance reversed": Mutation(dominance_reversed, INVERTED),
    "carried bound": Mutation(carried_bound_too_tight, BASIC),
    "no flow, no carry": Mutation(missing("flow", "carry"), BOTTLENECK, claim="feasible", start=True),
    "no layer count": Mutation(missing("layer_count"), BOTTLENECK, audit="effectiveness"),
    "no MACs row": Mutation(no_row("macs"), BOTTLENECK, audit="macs"),
    "no layers row": Mutation(no_row("layers"), BASIC, audit="layers"),
    "budget row": Mutation(tighter_row, BASIC),
    "effectiveness secants": Mutation(inner_floors_dropped, BOTTLENECK),
    "penalty secants": Mutation(penalty_shifted, BASIC, start=True),
    "window": Mutation(window_of_one_spread, BASIC, start=True),
}


METHODS = ("exhaustion", "bound", "attack")


@pytest.mark.parametrize("spec", [BOTTLENECK, BASIC, INVERTED], ids=lambda spec: spec.name)
def test_without_a_fault_the_design_is_proven(spec: Spec) -> None:
    design = solved(spec)
    best = oracle.enumerate_best(spec)
    assert best is not None
    assert design.metrics.score == pytest.approx(best.score, rel=1e-9)
    assert audit(spec, design) == []
    assert {method: verify(spec, design, method=method, evaluations=20_000).verdict for method in METHODS} == {
        "exhaustion": "proven",
        "bound": "proven",
        "attack": "audited",
    }


@pytest.mark.parametrize("name", MUTATIONS)
def test_verification_catches_the_fault(name: str) -> None:
    """What is not feasible the audit names; what is not the best, each method refutes on its own."""
    mutation = MUTATIONS[name]
    spec = mutation.spec
    with pytest.MonkeyPatch.context() as patch:
        mutation.mutate(patch)
        design = solved(spec, mutation.start)
    assert design.certificate is not None
    assert design.certificate.status == mutation.claim
    found = audit(spec, design)
    if mutation.audit is not None:
        assert any(reason.startswith(f"{mutation.audit} ") and "exceeds the budget" in reason for reason in found)
        return
    assert found == []
    for method in METHODS:
        verdict = verify(spec, design, method=method, evaluations=20_000)
        # What is better by no more than the certificate admits is said, and no contradiction.
        assert (verdict.verdict == "failed") == (mutation.claim == "optimal")
        assert any(reason.startswith(f"{method}: ") and " better " in reason for reason in verdict.reasons)


# Faults of what joins branch and bound and the solver.


def log_width_of_sources_dropped(patch: pytest.MonkeyPatch) -> None:
    """From the tables: what the channels before a segment add to the width of its first layer."""
    right = packed.tables
    patch.setattr(
        packed,
        "tables",
        lambda spec: [replace(table, log_source=0 * table.log_source) for table in right(spec)],
    )


def envelope_without_its_highest_line(patch: pytest.MonkeyPatch) -> None:
    """Where there are more than one, and of the widest node always."""
    interpret(patch, packed, passes, dual)
    right = kernels.envelopes

    def wrong(slopes: Any, values: Any, own: Any, low: Any, high: Any) -> kernels.Rows:
        kept = right(slopes, values, own, low, high)
        slope, intercept, origin, number = kept
        for s in range(len(values)):
            lines = slice(0, number[s])
            highest = int(np.argmax(slope[s, lines] * (low[s] + high[s]) / 2 + intercept[s, lines]))
            if number[s] > 1 or s == len(low) - 1 > 0:
                for array in (slope, intercept, origin):
                    array[s, highest : number[s] - 1] = array[s, highest + 1 : number[s]].copy()
                number[s] -= 1
        return kept

    patch.setattr(kernels, "envelopes", wrong)


def trim_above_the_target(patch: pytest.MonkeyPatch) -> None:
    """A tenth above it, as if it were the target."""
    right = tree._trims

    def wrong(part: program.Program, best: program.Bound, targets: list[float]) -> list[tree.Trim]:
        found = right(part, best, [1.1 * target for target in targets])
        return [replace(trim, dropped=target) for trim, target in zip(found, targets, strict=False)]

    patch.setattr(tree, "_trims", wrong)


def bounds_too_low(patch: pytest.MonkeyPatch) -> None:
    """Of whole boxes, by a tenth; what an option is worth in a box is not."""
    evaluate, minimise = program.Program.evaluate, tree.minimise

    def lower(bound: program.Bound) -> program.Bound:
        return replace(bound, value=bound.value - 0.1 * abs(bound.value))

    def lowered(*arguments: Any, **options: Any) -> dual.Dual:
        found = minimise(*arguments, **options)
        return replace(found, best=lower(found.best))

    patch.setattr(program.Program, "evaluate", lambda *arguments: lower(evaluate(*arguments)))
    patch.setattr(tree, "minimise", lowered)


def survivors_without_a_kernel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(solve, "_BOXES", 1)
    right = decomposition.surviving

    def wrong(*arguments: Any) -> Survivors | None:
        found = right(*arguments)
        assert found is not None
        return Survivors(
            tuple(
                frozenset(option for option in options if option[1].kernel != 5 or s == 0)
                for s, options in enumerate(found.options)
            )
        )

    patch.setattr(decomposition, "surviving", wrong)


def settled_boxes_forgotten(patch: pytest.MonkeyPatch) -> None:
    right = decomposition.branch_and_bound

    def wrong(*arguments: Any, **options: Any) -> Any:
        found = right(*arguments, **options)
        return replace(found, state=replace(found.state, settled=-math.inf, unjudged=-math.inf))

    patch.setattr(decomposition, "branch_and_bound", wrong)


class Joint(NamedTuple):
    """``bound``: the verdict of the bound, which shares :mod:`mad_ip.lagrangian` and every fault of it; ``solver``:
    whether the solver finds something better in what it is given for a check.
    """

    mutate: Mutate
    bound: str
    spec: Spec = BASIC
    gap: float = 1e-6
    solver: bool = False


JOINTS = {
    "tables": Joint(log_width_of_sources_dropped, "proven", solver=True),
    "envelope": Joint(envelope_without_its_highest_line, "proven"),
    "trim": Joint(trim_above_the_target, "proven", INVERTED),
    "survivors": Joint(survivors_without_a_kernel, "failed"),
    "settled": Joint(settled_boxes_forgotten, "failed", gap=0.1, solver=True),
}


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No search before branch and bound and none beside it, so that these decide; tables are built anew."""
    monkeypatch.setattr(decomposition, "_WALKS", 0)
    monkeypatch.setattr(decomposition._Descent, "explore", lambda *_: None)
    workers.relaxation.cache_clear()
    yield monkeypatch
    workers.relaxation.cache_clear()


@pytest.mark.usefixtures("unlucky")
@pytest.mark.parametrize("gap", [1e-6, 0.1])
@pytest.mark.parametrize("spec", [BASIC, INVERTED], ids=lambda spec: spec.name)
def test_without_a_fault_branch_and_bound_needs_no_luck(spec: Spec, gap: float) -> None:
    design = solve.solve(spec, gap=gap)
    best = oracle.enumerate_best(spec)
    assert best is not None
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert design.metrics.score * (1 + design.certificate.gap) >= best.score * (1 - 1e-9)


@pytest.mark.parametrize("name", JOINTS)
def test_a_shared_fault_is_caught_by_what_does_not_share_it(name: str, unlucky: pytest.MonkeyPatch) -> None:
    """Exhaustion and the attack know nothing of the Lagrangian program; the fault stays in place while they work.

    The bound believes the first three faults. Those of the survivors and of what is forgotten are the solve's alone.
    """
    joint = JOINTS[name]
    joint.mutate(unlucky)
    if joint.solver:
        with pytest.raises(InternalError, match=r"the bound .* is below the score .* of a design"):
            solve.solve(joint.spec, gap=joint.gap)
        unlucky.setattr(decomposition._Descent, "_near", lambda *_: None)
    design = solve.solve(joint.spec, gap=joint.gap)
    best = oracle.enumerate_best(joint.spec)
    assert best is not None
    assert design.certificate is not None
    assert design.certificate.status == "optimal"
    assert design.metrics.score * (1 + design.certificate.gap) < best.score * (1 - 1e-3)
    assert audit(joint.spec, design) == []
    verdicts = {method: verify(joint.spec, design, method=method, evaluations=20_000).verdict for method in METHODS}
    assert verdicts == {"exhaustion": "failed", "bound": joint.bound, "attack": "failed"}


def test_the_solver_has_the_last_word(unlucky: pytest.MonkeyPatch) -> None:
    """Where branch and bound stops too early, the solver finds a better design in what survives near the best."""
    bounds_too_low(unlucky)
    with pytest.raises(InternalError, match=r"the bound .* is below the score .* of a design"):
        solve.solve(BASIC)
