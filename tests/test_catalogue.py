"""The catalogue against literal enumeration: every option right, every undominated one there, the counts exact."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from strategies import specs

from mad_ip import catalogue as catalogues
from mad_ip.catalogue import Catalogue, Options
from mad_ip.cost import COSTS, Cost
from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.spec import FAMILIES, Spec

QUICK = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

COLUMNS = ("c_in", "c", "mid", "kernel", "depth", "macs", "params", "layers", "log_width")


class Option(NamedTuple):
    """One literal option; ``product`` is the exact integer whose logarithm is its log-width."""

    key: tuple[int, int, int, int, int]
    macs: int
    params: int
    layers: int
    product: int

    @property
    def group(self) -> tuple[int, int, int]:
        c_in, c, _, _, depth = self.key
        return c_in, c, depth

    @property
    def worth(self) -> tuple[int, int, int]:
        return -self.macs, -self.params, self.product


def dominates(better: Option, worse: Option) -> bool:
    """No more MACs, no more parameters, no less log-width, and not the same in all three."""
    pairs = list(zip(better.worth, worse.worth, strict=True))
    return better.group == worse.group and all(a >= b for a, b in pairs) and better.worth != worse.worth


def literal_options(spec: Spec, number: int, sources: set[int], *, head: bool) -> list[Option]:
    """Every admissible (c_in, c, m, k, L) of a stage, with the oracle's arithmetic."""
    stage = spec.stages[number - 1]
    size = spec.input.resolution // spec.stem.stride
    for before in spec.stages[: number - 1]:
        size //= before.stride
    options = []
    for c_in, c, m, k, depth in itertools.product(
        sorted(sources), stage.channels, stage.mid, stage.kernel, stage.depth
    ):
        if not (oracle.follows(spec.space, c_in, c) and oracle.carries(spec.space, m, c)):
            continue
        piece = oracle.stage_total(stage, c_in, c, m, k, depth, size)
        first = oracle.block_convs(stage.block, c_in, c, m, k, stage.stride, size)
        rest = oracle.block_convs(stage.block, c, c, m, k, 1, size // stage.stride)
        product = math.prod(conv.w for conv in first if conv.counted)
        product *= math.prod(conv.w for conv in rest if conv.counted) ** (depth - 1)
        macs = spec.input.classes * c if head else 0
        params = spec.input.classes * (c + 1) if head else 0
        options.append(Option((c_in, c, m, k, depth), piece.macs + macs, piece.params + params, piece.layers, product))
    return options


def column(options: Options, name: str) -> NDArray[Any]:
    """A column by its name in :data:`COLUMNS`, costs among them."""
    return options.costs[name] if name in options.costs else np.asarray(getattr(options, name))


def rows(options: Options) -> list[tuple[Any, ...]]:
    return list(zip(*(column(options, name).tolist() for name in COLUMNS), strict=True))


def stage_spec(block: str, random: Random) -> Spec:
    """One random stage after a few stem widths, with or without mid_ratio, growth and monotone channels."""
    stride = random.choice([1, 2])
    table = {
        "name": "stage",
        "input": {"resolution": 16 * stride, "classes": random.choice([0, 10])},
        "space": {"monotone": random.random() < 0.5},
        "stem": {"kernel": 3, "stride": 2, "channels": sorted(random.sample([4, 8, 12, 16, 24], 3))},
        "stage": [
            {
                "block": block,
                "stride": stride,
                "channels": sorted(random.sample([8, 12, 16, 24, 32, 40], 3)),
                # Multiples of 9 and 25 make log-widths of different kernels tie.
                "mid": sorted({*random.sample([1, 3, 8, 9, 16, 24, 25, 40, 72, 75, 81, 144, 225], 7)}),
                "kernel": sorted(random.sample([1, 3, 5, 7], 3)),
                "depth": sorted(random.sample([1, 2, 3, 5], 2)),
            }
        ],
    }
    if random.random() < 0.6:
        table["space"]["mid_ratio"] = [random.choice([0.0, 0.2, 0.5]), random.choice([2.0, 5.0, 20.0])]
    return Spec.from_table(table)


@pytest.mark.parametrize("block", FAMILIES)
@pytest.mark.parametrize("seed", range(12))
def test_a_stage_lists_its_undominated_options_exactly(block: str, seed: int) -> None:
    random = Random(f"{block} {seed}")
    spec = stage_spec(block, random)
    segment = catalogues.build(spec).segments[1]
    literal = {o.key: o for o in literal_options(spec, 1, set(spec.stem.channels), head=True)}
    present = {row[:5]: row for row in rows(segment)}
    assert len(present) == len(segment), "an option is listed twice"
    assert list(present) == sorted(present, key=lambda key: (key[0], key[1], key[4], key[3], key[2]))
    for key, (*_, macs, params, layers, log_width) in present.items():
        option = literal[key]
        assert (macs, params, layers) == (option.macs, option.params, option.layers), key
        assert math.isclose(log_width, math.log(option.product), rel_tol=1e-13, abs_tol=1e-13), key
    kept = [literal[key] for key in present]
    for key, option in literal.items():
        if key in present:
            assert not any(dominates(other, option) for other in literal.values()), f"{key} is dominated"
        else:
            covered = [o for o in kept if dominates(o, option) or (o.group == option.group and o.worth == option.worth)]
            assert covered, f"{key} was dropped, and nothing present is as good"


def test_dominance_drops_something_in_every_family() -> None:
    """The test above would pass on any list if nothing were ever dominated."""
    for block in FAMILIES:
        pruned = 0
        for seed in range(12):
            spec = stage_spec(block, Random(f"{block} {seed}"))
            pruned += catalogues.raw_options(spec) - len(catalogues.build(spec))
        assert pruned > 0, block


@QUICK
@given(spec=specs(limit=2000))
def test_counts_are_the_literal_ones(spec: Spec) -> None:
    assert catalogues.architectures(spec) == oracle.count(spec)
    seen: set[tuple[Any, ...]] = set()
    for path in oracle.channel_paths(spec):
        mids = [
            [m for m in stage.mid if oracle.carries(spec.space, m, c)]
            for stage, c in zip(spec.stages, path[1:], strict=True)
        ]
        if not all(mids):
            continue
        seen.add((0, path[0]))
        for number, stage in enumerate(spec.stages, start=1):
            choices = itertools.product(mids[number - 1], stage.kernel, stage.depth)
            seen |= {(number, path[number - 1], path[number], *choice) for choice in choices}
        if spec.tail is not None:
            seen |= {("tail", path[-1], c) for c in spec.tail.channels}
    assert catalogues.raw_options(spec) == len(seen)


@QUICK
@given(spec=specs(limit=1000))
def test_segments_add_up_to_whole_networks(spec: Spec) -> None:
    """Any path through the catalogue is an architecture of the oracle with the same costs, layers and entropy."""
    catalogue = catalogues.build(spec)
    everything = {a.path: a for a in oracle.architectures(spec)}
    best: oracle.Best | None = None
    number = 0
    for path in catalogue_paths(catalogue):
        number += 1
        chosen = list(zip(catalogue.segments, path, strict=True))
        own = everything[catalogue.path(path)]
        for budget in ("macs", "params", *spec.budget.sums):
            assert sum(int(s.costs[budget][o]) for s, o in chosen) == getattr(own, budget)
        assert sum(int(s.layers[o]) for s, o in chosen) == own.layers
        carried, entropy = 0.0, 0.0
        for segment, option in chosen:
            carried += float(segment.log_width[option])
            entropy += float(segment.gain[segment.nodes == segment.c[option]][0]) * carried
        assert math.isclose(entropy, own.entropy, rel_tol=1e-12, abs_tol=1e-12)
        if oracle.fits(spec.budget, own) and (best is None or own.score > best.score):
            best = own
    assert number <= len(everything)
    expected = oracle.enumerate_best(spec)
    # Dominance may drop architectures, but none that is better than all that stay.
    assert (best is None) == (expected is None)
    if best is not None and expected is not None:
        assert math.isclose(best.score, expected.score, rel_tol=1e-12, abs_tol=1e-12)


def catalogue_paths(catalogue: Catalogue) -> list[tuple[int, ...]]:
    """Every path, an option of every segment whose channels link."""
    paths = [(o,) for o in range(len(catalogue.segments[0]))]
    for left, right in itertools.pairwise(catalogue.segments):
        paths = [(*path, o) for path in paths for o in np.flatnonzero(right.c_in == left.c[path[-1]]).tolist()]
    return paths


@pytest.mark.parametrize("chunk", [1, 100, 1000])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = stage_spec("bottleneck", Random(5))
    whole = catalogues.build(spec)
    monkeypatch.setattr(catalogues, "_CHUNK", chunk)
    parts = catalogues.build(spec)
    for one, other in zip(whole.segments, parts.segments, strict=True):
        for name in COLUMNS:
            assert np.array_equal(column(one, name), column(other, name)), name
            assert column(one, name).dtype == column(other, name).dtype, name


def huge_spec(width: int, stem: tuple[int, ...] | None = None, mid: int | None = None) -> Spec:
    return Spec.from_table(
        {
            "name": "huge",
            "input": {"resolution": 2048, "classes": 0},
            "stem": {"kernel": 1, "stride": 1, "channels": [width] if stem is None else list(stem)},
            "stage": [
                {
                    "block": "basic",
                    "stride": 1,
                    "channels": [width],
                    "mid": [width if mid is None else mid],
                    "kernel": [1],
                    "depth": [1],
                }
            ],
        }
    )


def test_costs_that_leave_64_bits_are_refused() -> None:
    # 2 layers of 2^22 pixels and width^2 weights: 2^23 width^2 MACs, at most 2^62.
    spec = huge_spec(1 << 20)
    with pytest.raises(InputError, match=r"spec: .*2\*\*62"):
        catalogues.build(spec)
    below = huge_spec(1 << 19)
    (macs,) = catalogues.build(below).segments[1].costs["macs"].tolist()
    assert macs == oracle.stage_total(below.stages[0], 1 << 19, 1 << 19, 1 << 19, 1, 1, 2048).macs
    assert macs > 2**53, "the point is an exact integer that a float does not hold"


def test_keep_drops_what_no_neighbour_takes_up() -> None:
    random = Random(3)
    table = {
        "name": "three",
        "input": {"resolution": 16},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 16]},
        "stage": [
            {"block": "basic", "stride": 1, "channels": [16, 24], "mid": [8, 16], "kernel": [3], "depth": [1, 2]},
            {"block": "inverted", "stride": 2, "channels": [24, 32], "mid": [8, 16], "kernel": [3], "depth": [1, 2]},
        ],
    }
    catalogue = catalogues.build(Spec.from_table(table))
    dropped = 0
    for _ in range(20):
        masks = [np.array([random.random() < 0.4 for _ in range(len(s))]) for s in catalogue.segments]
        allowed = [set(np.flatnonzero(mask).tolist()) for mask in masks]
        paths = [p for p in catalogue_paths(catalogue) if all(o in a for o, a in zip(p, allowed, strict=True))]
        kept = catalogue.keep(masks)
        used = [sorted({path[s] for path in paths}) for s in range(len(catalogue.segments))]
        for before, after, options in zip(catalogue.segments, kept.segments, used, strict=True):
            assert rows(after) == [rows(before)[o] for o in options]
        assert kept.is_empty == (not paths)
        dropped += sum(int(mask.sum()) for mask in masks) - sum(len(u) for u in used)
    assert dropped > 0


def test_what_a_maximum_leaves_lies_on_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every limit on the largest product of two neighbouring widths; some leave channels without a neighbour."""
    stage = {"block": "basic", "stride": 1, "mid": [8, 16], "kernel": [3], "depth": [1, 2]}
    table: dict[str, Any] = {
        "name": "three",
        "input": {"resolution": 16, "classes": 0},
        "space": {"monotone": False},
        "stem": {"kernel": 3, "stride": 2, "channels": [8, 64]},
        "stage": [{**stage, "channels": [16, 24, 96]}, {**stage, "channels": [8, 32, 80]}],
    }
    cost = Cost("area", "", lambda layers, opens: (x.in_channels * x.out_channels * x.present for x in layers), "max")
    monkeypatch.setitem(COSTS, "area", cost)
    everything = oracle.architectures(Spec.from_table(table))
    areas = [Design.chosen(Spec.from_table(table), architecture.path).spent("area") for architecture in everything]
    dropped = 0
    for limit in sorted(set(areas)):
        spec = Spec.from_table({**table, "budget": {"area": limit}})
        catalogue = catalogues.build(spec)
        paths = catalogue_paths(catalogue)
        within = {x.path for x, area in zip(everything, areas, strict=True) if area <= limit}
        assert {catalogue.path(path) for path in paths} == within
        assert [len(options) for options in catalogue.segments] == [len(set(o)) for o in zip(*paths, strict=True)]
        dropped += len(catalogue.segments[0]) < len(spec.stem.channels)
    assert dropped > 0
    assert len(within) == len(everything)
    below = Spec.from_table({**table, "budget": {"area": min(areas) - 1}})
    assert catalogues.build(below).is_empty


def test_the_spec_travels_with_what_is_kept() -> None:
    catalogue = catalogues.build(stage_spec("inverted", Random(1)))
    kept = catalogue.keep([np.ones(len(s), bool) for s in catalogue.segments])
    assert kept.spec is catalogue.spec
    for one, other in zip(catalogue.segments, kept.segments, strict=True):
        assert (other.segment, other.factor) == (one.segment, one.factor)
        assert rows(other) == rows(one)
