"""Faults in the solver, one at a time, and what verification makes of the designs that then come out as optimal.

Every mutation breaks the catalogue, the dynamic programs over it, the formulation or the solve; nothing is edited, all
is patched. So that the formulation decides, every solve starts from the design with the least spread of depths instead
of a searched one, which would often be the best already. So that verification alone can catch what is not feasible,
the faults that let too much pass also take away the checks that the solve makes of its own result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

from mad_ip import catalogue, formulation, paths, search, solve
from mad_ip.depths import Window
from mad_ip.design import Design
from mad_ip.spec import Spec, Stage
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


def solved(spec: Spec) -> Design:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "first_incumbent", lambda *_: None)
        return solve.solve(spec)


# Faults of the catalogue.


def larger(quantity: int) -> Mutate:
    """MACs (0) or parameters (1) of every stage a tenth too large."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = catalogue.stage_quantities

        def wrong(*arguments: Any) -> tuple[Any, ...]:
            values = list(right(*arguments))
            values[quantity] = values[quantity] * 11 // 10
            return tuple(values)

        patch.setattr(catalogue, "stage_quantities", wrong)

    return mutate


def resolution_as_after_one_more_stride(patch: pytest.MonkeyPatch) -> None:
    right = catalogue._stage_options
    patch.setattr(catalogue, "_stage_options", lambda spec, stage, size, *ends: right(spec, stage, size * 2, *ends))


def gain_of_the_widest_node_halved(patch: pytest.MonkeyPatch) -> None:
    right = catalogue.Segment.__dict__["gain"].func

    def wrong(segment: catalogue.Segment) -> NDArray[np.float64]:
        gains = np.array(right(segment))
        gains[-1] *= 0.5
        return gains

    patch.setattr(catalogue.Segment, "gain", property(wrong))


def without(key: str, value: int) -> Mutate:
    """One value of a domain silently missing."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = catalogue._stage_options

        def wrong(spec: Spec, stage: Stage, *rest: Any) -> dict[str, Any]:
            domain = tuple(other for other in getattr(stage, key) if other != value)
            return right(spec, replace(stage, **{key: domain}), *rest)

        patch.setattr(catalogue, "_stage_options", wrong)

    return mutate


def channels_must_rise(patch: pytest.MonkeyPatch) -> None:
    """Options that keep the number of channels are missing."""
    right = catalogue._stage_options

    def wrong(*arguments: Any) -> dict[str, Any]:
        columns = right(*arguments)
        rises = columns["c"] > columns["c_in"]
        return {name: column[rises] for name, column in columns.items()}

    patch.setattr(catalogue, "_stage_options", wrong)


def dominance_reversed(patch: pytest.MonkeyPatch) -> None:
    """The option that costs no more and carries no less is dropped, and the other one kept."""
    right = catalogue._undominated

    def wrong(quantities: list[Any], *rest: Any) -> NDArray[np.bool_]:
        macs, params, layers, log_width = quantities
        return right([-macs, -params, layers, -log_width], *rest)

    def dominators(stage: Stage, kernel: NDArray[np.int64], mid: NDArray[np.int64]) -> NDArray[np.int64]:
        block = catalogue.blocks.block(stage.block, 1, 1, mid[None, :], kernel[:, None], 1, 1)
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


def no_row(budget: str) -> Mutate:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        unchecked(patch)
        patch.setattr(paths, "LINEAR_BUDGETS", tuple(name for name in paths.LINEAR_BUDGETS if name != budget))

    return mutate


def tighter_row(patch: pytest.MonkeyPatch) -> None:
    right = formulation._budget_row

    def wrong(model: Any, segments: Any, spec: Spec, budget: str) -> Any:
        limit = 0.95 * getattr(spec.budget, budget)
        return right(model, segments, replace(spec, budget=replace(spec.budget, **{budget: limit})), budget)

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
    """Secants of the depth penalty as if every unit of the spread were worth 1000 more."""
    right = formulation._secants

    def wrong(points: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
        if points[0] == 0:
            values = [value + 1000 * point for point, value in zip(points, values, strict=True)]
        return right(points, values)

    patch.setattr(formulation, "_secants", wrong)


# Faults of the solve.


def window_of_one_spread(patch: pytest.MonkeyPatch) -> None:
    right = solve._Solve._window

    def wrong(self: Any, *arguments: Any) -> Window:
        window = right(self, *arguments)
        assert window is not None
        return replace(window, spreads=window.spreads[:1])

    patch.setattr(solve._Solve, "_window", wrong)


class Mutation(NamedTuple):
    """``claim``: what the solve says of its design; ``audit``: the budget that this design breaks."""

    mutate: Mutate
    spec: Spec
    claim: str = "optimal"
    audit: str | None = None


MUTATIONS = {
    "MACs too large": Mutation(larger(0), BASIC),
    "parameters too large": Mutation(larger(1), BOTTLENECK),
    "stride": Mutation(resolution_as_after_one_more_stride, BASIC),
    "entropy gain": Mutation(gain_of_the_widest_node_halved, BOTTLENECK),
    "kernel missing": Mutation(without("kernel", 5), BASIC),
    "depth missing": Mutation(without("depth", 4), BOTTLENECK),
    "channels must rise": Mutation(channels_must_rise, BASIC),
    "dominance reversed": Mutation(dominance_reversed, INVERTED),
    "carried bound": Mutation(carried_bound_too_tight, BOTTLENECK),
    "no flow, no carry": Mutation(missing("flow", "carry"), BOTTLENECK, claim="feasible"),
    "no layer count": Mutation(missing("layer_count"), BOTTLENECK, audit="effectiveness"),
    "no MACs row": Mutation(no_row("macs"), BOTTLENECK, audit="macs"),
    "no layers row": Mutation(no_row("layers"), BASIC, audit="layers"),
    "budget row": Mutation(tighter_row, BASIC),
    "effectiveness secants": Mutation(inner_floors_dropped, BOTTLENECK),
    "penalty secants": Mutation(penalty_shifted, BASIC),
    "window": Mutation(window_of_one_spread, BASIC),
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
        design = solved(spec)
    assert design.certificate is not None
    assert design.certificate.status == mutation.claim
    found = audit(spec, design)
    if mutation.audit is not None:
        assert any(reason.startswith(f"{mutation.audit} ") and "exceeds the budget" in reason for reason in found)
        return
    assert found == []
    for method in METHODS:
        verdict = verify(spec, design, method=method, evaluations=20_000)
        assert verdict.verdict == "failed"
        assert any("better than the design's" in reason for reason in verdict.reasons)
