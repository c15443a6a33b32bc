"""The tables of the bound are what the registry and the paper's formulas say of every option."""

from __future__ import annotations

import dataclasses
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import clip_tables, spec_tables

from mad_ip import blocks, entropy
from mad_ip.blocks import Layer
from mad_ip.cost import COSTS, Cost, costs, live
from mad_ip.device import Affine, Device, Rate
from mad_ip.errors import InternalError
from mad_ip.lagrangian.tables import Table, tables
from mad_ip.spec import FAMILIES, Budget, Choice, Segment, Spec

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def layers_of(segment: Segment, c_in: int, choice: Choice) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    """A segment's first block, and the others' layers one by one."""
    first = blocks.opening(segment, c_in, choice.channels, choice.mid, choice.kernel)
    return first, blocks.repeated(segment, choice.channels, choice.mid, choice.kernel) * (choice.depth - 1)


def looked_up(table: Table, c_in: int, choice: Choice) -> tuple[Any, float, bool]:
    """Costs in units of the budgets and the log-width of an option, and whether its widths may be taken together."""
    s, n = np.searchsorted(table.sources, c_in), np.searchsorted(table.nodes, choice.channels)
    w, k = np.searchsorted(table.mid, choice.mid), np.searchsorted(table.kernel, choice.kernel)
    e, more = min(k, table.entering.shape[2] - 1), choice.depth - 1
    costs = (
        table.pair[:, s, n] + table.entering[:, s, e, w] + table.opening[:, n, k, w] + more * table.again[:, n, k, w]
    )
    carried = table.log_source[s] + table.log_opening[n, k, w] + more * table.log_again[n, k, w]
    return costs, float(carried), bool(table.first_mid[s, n] <= w < table.end_mid[s, n])


def random_options(spec: Spec, random: Random) -> list[tuple[Segment, Table, int, Choice]]:
    """Some options of every segment, whether the rules allow them or not."""
    return [
        (
            segment,
            table,
            random.choice(segment.sources),
            Choice(*(random.choice(d) for d in (segment.channels, segment.mid, segment.kernel, segment.depth))),
        )
        for segment, table in zip(spec.segments, tables(spec), strict=True)
        for _ in range(12)
    ]


RATES = {
    kind: Rate(100.0 + number, 0.1 * number, 0.01, 0.003)
    for number, kind in enumerate(("pointwise", "dense", "depthwise", "squeeze-excite", "pool", "add", "head"))
}
DEVICE = Device(activation_bytes=4, latency=Affine(tuple(RATES.items()), overhead=1000.0))


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=SLOW)
@given(table=st.booleans().flatmap(lambda clips: (clip_tables if clips else spec_tables)(500)), seed=st.integers(0, 99))
def test_terms_add_up_to_costs_and_log_widths(table: dict[str, Any], seed: int) -> None:
    random = Random(seed)
    device = DEVICE if "frames" not in table["input"] else Device(weight_bytes=4)
    sums = sorted(key for key, cost in costs(device).items() if cost.combine == "sum")
    limits = {key: random.randint(1, 10**6) for key in random.sample(sums, random.randint(0, len(sums)))}
    budget = Budget(effectiveness=0.5, **limits)
    spec = dataclasses.replace(Spec.from_table(table), budget=budget, device=device, sha256="")
    for segment, table_of, c_in, choice in random_options(spec, random):
        first, others = layers_of(segment, c_in, choice)
        head = blocks.closing(segment, choice.channels)
        repeats, rest = choice.depth - 1, others[: len(others) // max(1, choice.depth - 1)]
        spent, carried, allowed = looked_up(table_of, c_in, choice)
        # Rounded, the terms times the limits are the integers themselves.
        exact = [
            sum(cost.terms(first, True)) + repeats * sum(cost.terms(rest, False)) + sum(cost.terms(head, True))
            for key, cost in spec.costs.items()
            if key in limits
        ]
        amounts = spent * [limits[key] for key in COSTS if key in limits]
        # The sums of a latency are beyond the integers that a float holds.
        assert [round(amount) for amount in amounts if amount < 2**50] == [x for x in exact if x < 2**50]
        assert amounts == pytest.approx(exact, rel=1e-12)
        assert carried == pytest.approx(entropy.log_width([*first, *others]), rel=1e-12, abs=1e-12)
        assert table_of.layers * choice.depth == entropy.count([*first, *others])
        ruled = segment.kind == "stage"
        may = spec.space.follows(c_in, choice.channels) and spec.space.carries(choice.mid, choice.channels)
        assert allowed == (bool(may) or not ruled)
        gain = entropy.entropy_factor(spec.convention) * segment.weight
        gain *= math.log((segment.time.out_frames or 1) * segment.out_size**2 * choice.channels)
        assert table_of.gain[np.searchsorted(table_of.nodes, choice.channels)] == pytest.approx(gain, rel=1e-12)


def test_every_family_and_clips_are_drawn() -> None:
    """What the property above has seen."""
    seen: set[str] = set()

    @settings(max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW)
    @given(table=st.booleans().flatmap(lambda clips: (clip_tables if clips else spec_tables)(500)))
    def collect(table: dict[str, Any]) -> None:
        seen.update(stage["block"] for stage in table["stage"])
        seen.update({table["convention"], "clips" if "frames" in table["input"] else "images"})

    collect()
    assert seen == {*FAMILIES, "paper", "tinynas", "clips", "images"}


def one_stage(family: str, **budget: float) -> Spec:
    stage = {"block": family, "stride": 2, "channels": [8, 16], "mid": [8, 16, 24], "kernel": [3, 5], "depth": [1, 2]}
    stem = {"kernel": 3, "stride": 2, "channels": [4, 8]}
    return Spec.from_table({"name": "n", "input": {"resolution": 32}, "budget": budget, "stem": stem, "stage": [stage]})


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_a_cost_that_mixes_three_widths_is_refused(monkeypatch: pytest.MonkeyPatch, combine: Any) -> None:
    """The volume of a whole block depends on the channels before, inside and after it at once."""

    def terms(layers: Any, opens: bool) -> Any:
        if any(layer.role == "main" for layer in layers):
            yield layers[0].in_channels * layers[0].out_channels * layers[-1].out_channels * layers[1].kernel
        else:
            yield 0

    monkeypatch.setitem(COSTS, "volume", Cost("volume", "m^3", terms, combine))
    with pytest.raises(InternalError, match="depends on the channels before and after a block and on"):
        list(tables(one_stage("bottleneck", volume=1e4)))


@pytest.mark.parametrize("width", ["mid", "channels"])
def test_a_family_whose_layer_mixes_three_widths_is_refused(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    def layers(c_in: Any, c: Any, m: Any, k: Any, stride: int, size: int, time: Any) -> tuple[Layer, ...]:
        if width == "mid":
            return (Layer("main", c_in * m, c, k, size, stride, counted=True, time=time),)
        # A log-width of the channels on both sides is no sum.
        return (Layer("main", c_in + c, m, k, size, stride, counted=True, time=time),)

    monkeypatch.setitem(blocks.FAMILIES, "basic", dataclasses.replace(blocks.FAMILIES["basic"], layers=layers))
    with pytest.raises(InternalError):
        list(tables(one_stage("basic", macs=1e9)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_limit_on_a_maximum_leaves_what_keeps_it(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """Largest feature map; the last row is not 0 where an option passes the limit, or its widths are not left."""

    def terms(layers: Any, opens: bool) -> Any:
        return (layer.present * layer.positions * (layer.in_channels + layer.out_channels) for layer in layers)

    monkeypatch.setitem(COSTS, "peak", Cost("peak", "values", terms, "max"))
    kept = set()
    for peak in (1000, 2000, 3000, 4000, 6000):
        spec = one_stage(family, peak=peak)
        for segment, table in zip(spec.segments, tables(spec), strict=True):
            for c_in in segment.sources:
                for choice in _choices(segment):
                    first, others = layers_of(segment, c_in, choice)
                    head = blocks.closing(segment, choice.channels)
                    most = max([*terms(first, True), *terms(others, False), *terms(head, True)])
                    (passed,), _, allowed = looked_up(table, c_in, choice)
                    rules = not segment.ruled or choice.channels >= c_in
                    assert (allowed and passed == 0) == (rules and most <= peak), (segment.name, c_in, choice)
                    kept.add(most <= peak)
    assert kept == {True, False}


@pytest.mark.parametrize("memory", ["plain", "in-place"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_peak_of_activations_leaves_what_keeps_it(family: str, memory: str) -> None:
    """Widths of a pair are taken away, and what depends on more is a row of its own."""
    device, kept = Device(memory=memory), set()
    for peak in (4000, 6000, 8000, 12000, 20000):
        spec = dataclasses.replace(one_stage(family, activation=peak), device=device, sha256="")
        for segment, table in zip(spec.segments, tables(spec), strict=True):
            for c_in in segment.sources:
                for choice in _choices(segment):
                    first, others = layers_of(segment, c_in, choice)
                    rest = others[: len(others) // max(1, choice.depth - 1)]
                    parts = (first, rest, blocks.closing(segment, choice.channels))
                    most = max(numbers for part in parts for _, numbers in live(part, memory))
                    (passed,), _, allowed = looked_up(table, c_in, choice)
                    rules = not segment.ruled or choice.channels >= c_in
                    assert (allowed and passed == 0) == (rules and most <= peak), (segment.name, c_in, choice)
                    kept.add(most <= peak)
    assert kept == {True, False}


def _choices(segment: Segment) -> list[Choice]:
    return [
        Choice(c, m, k, depth)
        for c in segment.channels
        for m in segment.mid
        for k in segment.kernel
        for depth in segment.depth
    ]
