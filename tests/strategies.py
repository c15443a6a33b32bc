"""Hypothesis strategies for random small specs: valid by construction, small enough for the oracle.

A *witness* architecture that keeps the rules is drawn first and the domains are drawn around it, so that no rule
empties the space. Budgets are drawn from the values that the oracle enumerates: each of them is tight in some specs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from random import Random
from typing import Any

import oracle
from hypothesis import strategies as st

from mad_ip.spec import Spec

__all__ = ["BUDGETS", "architecture_and_spec", "clip_tables", "spec_tables", "specs"]

BUDGETS = ("macs", "params", "effectiveness", "layers")

LIMIT = 20_000
"""Architectures of a drawn space, at most."""

WIDTHS = (8, 16, 24, 32, 40, 48, 64, 96)
"""A regular grid; irregular widths are drawn beside it."""


def widths(most: int) -> st.SearchStrategy[int]:
    return st.sampled_from([width for width in WIDTHS if width <= most]) | st.integers(1, most)


@st.composite
def written(draw: st.DrawFn, values: Sequence[int]) -> Any:
    """A domain as the file may write it: an integer, a list in any order, or an inclusive range."""
    ordered = sorted(values)
    steps = {high - low for low, high in itertools.pairwise(ordered)}
    if len(ordered) == 1 and draw(st.booleans()):
        return ordered[0]
    if len(steps) == 1 and draw(st.booleans()):
        (step,) = steps
        table = {"min": ordered[0], "max": ordered[-1] + draw(st.integers(0, step - 1))}
        return table if step == 1 and draw(st.booleans()) else {**table, "step": step}
    return draw(st.permutations(ordered))


def decimal(ratio: Fraction, places: int, *, up: bool) -> float:
    """The next decimal of so many places, at or beyond ``ratio``: what a file can say exactly."""
    scaled = ratio * 10**places
    return (math.ceil(scaled) if up else math.floor(scaled)) / 10**places


@st.composite
def growths(draw: st.DrawFn, ratios: Sequence[Fraction]) -> float | None:
    """No limit, or one that the witness keeps, often to the last digit."""
    if draw(st.booleans()):
        return None
    tightest = decimal(max(ratios), draw(st.integers(1, 2)), up=True)
    return tightest + draw(st.sampled_from([0.0, 0.0, 0.5, 2.0]))


@st.composite
def mid_ratios(draw: st.DrawFn, ratios: Sequence[Fraction]) -> list[float] | None:
    if draw(st.booleans()):
        return None
    places = draw(st.integers(1, 2))
    low, high = decimal(min(ratios), places, up=False), decimal(max(ratios), places, up=True)
    return [draw(st.sampled_from([low, low, 0.0])), draw(st.sampled_from([high, high, high + 1.0]))]


@st.composite
def spec_tables(draw: st.DrawFn, limit: int = LIMIT) -> dict[str, Any]:
    """A valid TOML table without budgets, of at most ``limit`` architectures."""
    number = draw(st.sampled_from([1, 2, 2, 3, 3, 4, 4]))
    convention = draw(st.sampled_from(["paper", "tinynas"]))
    monotone = draw(st.sampled_from([True, True, False]))
    strides = [draw(st.sampled_from([1, 2, 2])) for _ in range(number)]
    stem_stride = draw(st.sampled_from([1, 2, 2, 4]))
    reduction = stem_stride * math.prod(strides)
    resolution = reduction * draw(st.integers(-(-16 // reduction), 224 // reduction))
    sizes = [resolution // product for product in itertools.accumulate([stem_stride, *strides], lambda a, b: a * b)]
    blocks = [draw(st.sampled_from(["basic", "bottleneck", "inverted", "inverted_se"])) for _ in strides]
    kernels = [[k for k in (1, 3, 5, 7) if k <= size] for size in sizes]

    # The witness: one architecture that keeps every rule.
    channels = [draw(widths(40))]
    for _ in strides:
        previous = channels[-1]
        rising = st.just(previous) | widths(48).map(lambda rise, previous=previous: previous + rise)
        channels.append(draw(rising if monotone else widths(96)))
    mids = [draw(widths(96)) for _ in strides]
    depth = draw(st.integers(1, 6))
    depths = [max(1, depth + draw(st.integers(-2, 2))) for _ in strides]
    growth = draw(growths([Fraction(c, c_in) for c_in, c in itertools.pairwise(channels)]))
    mid_ratio = draw(mid_ratios([Fraction(m, c) for m, c in zip(mids, channels[1:], strict=True)]))
    has_tail = draw(st.sampled_from([False, False, True]))

    # Domains around it: (where, witness, what else), the product of their sizes at most ``limit``.
    repeated = st.sampled_from(channels)
    slots: list[tuple[tuple[int, str], int, st.SearchStrategy[int], int]] = [
        ((0, "channels"), channels[0], widths(40), 4)
    ]
    for t in range(1, number + 1):
        slots += [
            ((t, "channels"), channels[t], repeated | widths(160), 4),
            ((t, "mid"), mids[t - 1], widths(96), 4),
            ((t, "kernel"), draw(st.sampled_from(kernels[t])), st.sampled_from(kernels[t]), 3),
            ((t, "depth"), depths[t - 1], st.integers(1, 8), 5),
        ]
    if has_tail:
        slots.append(((number + 1, "channels"), draw(widths(200)), widths(200), 3))
    domains: dict[tuple[int, str], Any] = {}
    room = limit
    for place, value, others, most in draw(st.permutations(slots)):
        more = draw(st.sampled_from(range(min(most, room))))
        values = {value, *draw(st.lists(others, min_size=more, max_size=more))}
        room //= len(values)
        domains[place] = draw(written(sorted(values)))

    table: dict[str, Any] = {
        "name": draw(st.sampled_from(["net", 'odd "name" \\ with\ttabs', "größer"])),
        "convention": convention,
        "input": {"resolution": resolution, "channels": draw(st.sampled_from([1, 3, 3, 4]))},
        "space": {"monotone": monotone},
        "stem": {
            "kernel": draw(st.sampled_from([k for k in (1, 3, 5, 7) if k <= resolution])),
            "stride": stem_stride,
            "channels": domains[0, "channels"],
        },
        "stage": [
            {
                "block": block,
                "stride": stride,
                **{key: domains[t, key] for key in ("channels", "mid", "kernel", "depth")},
            }
            for t, (block, stride) in enumerate(zip(blocks, strides, strict=True), start=1)
        ],
    }
    if has_tail:
        table["tail"] = {"channels": domains[number + 1, "channels"]}
    if growth is not None:
        table["space"]["growth"] = growth
    if mid_ratio is not None:
        table["space"]["mid_ratio"] = mid_ratio
    if draw(st.booleans()):
        table["input"]["classes"] = draw(st.sampled_from([0, 1, 10]))
    beta = draw(st.sampled_from([None, 0, 0.1, 10, 200]))
    if beta is not None:
        table["objective"] = {"depth_penalty": beta}
    if draw(st.booleans()):
        weights = [draw(st.sampled_from([0, 0, 0.5, 1, 1, 2, 8])) for _ in range(number + 1)]
        if convention == "tinynas" and not any(weights):
            weights[-1] = 1  # The largest rho over no level at all is not defined.
        for level, weight in zip([table["stem"], *table["stage"]], weights, strict=True):
            level["weight"] = weight
    return table


@st.composite
def clip_tables(draw: st.DrawFn, limit: int = LIMIT) -> dict[str, Any]:
    """A table of :func:`spec_tables` for clips: temporal kernels no longer than them, strides at odd lengths too.

    The time axis comes from a plain generator, for the reason that :func:`budgets` gives.
    """
    table = draw(spec_tables(limit))
    random = Random(f"{draw(st.integers(0, 1000))} {table}")
    frames = table["input"]["frames"] = random.choice([1, 2, 4, 5, 7, 8, 13, 16])
    for level in [table["stem"], *table["stage"]]:
        stride = random.choice([None, 1, 2, 2])
        frames = math.ceil(frames / (stride or 1))
        kernel = random.choice([None, 1, 3, 3] if frames >= 3 else [None, 1])
        level |= {
            key: value for key, value in (("temporal_kernel", kernel), ("temporal_stride", stride)) if value is not None
        }
    return table


def near(value: float, key: str, *, above: bool) -> float:
    """A budget that just admits, or just excludes, ``value``."""
    if key == "effectiveness":
        return value * (1 + 1e-9) if above else value * (1 - 1e-9)
    return value + 0.5 if above else value - 0.5


def budgets(spec: Spec, random: Random) -> dict[str, float]:
    """Budgets from the values of the architectures themselves.

    none: no budget. quantile: one budget, at a quantile. several: some, each at a quantile of its own, often
    infeasible together. witness: some that one architecture keeps, with or without slack. exclude: just too little for
    the best architecture. below: one just less than the smallest value there is.

    A plain generator seeded by the spec: Hypothesis repeats some alternatives and leaves others nearly untried.
    """
    everything = oracle.architectures(spec)

    def at(key: str, place: float) -> float:
        values = sorted(getattr(architecture, key) for architecture in everything)
        return values[round(place * (len(values) - 1))]

    def some() -> list[str]:
        return random.sample(BUDGETS, random.randint(1, len(BUDGETS)))

    kind = random.choice(
        ["none", "quantile", "quantile", "several", "several", "witness", "witness", "exclude", "below", "below"]
    )
    limits: dict[str, float] = {}
    if kind == "quantile":
        key = random.choice(BUDGETS)
        limits[key] = at(key, random.random())
    elif kind == "several":
        limits = {key: at(key, random.random()) for key in some()}
    elif kind == "witness":
        ranked = sorted(everything, key=lambda architecture: (-architecture.score, architecture.structure[:2]))
        chosen = ranked[round(random.random() ** 2 * (len(ranked) - 1))]
        limits = {key: getattr(chosen, key) * random.choice([1, 1, 1.01, 1.3]) for key in some()}
    elif kind == "exclude":
        best = max(everything, key=lambda architecture: architecture.score)
        limits = {key: near(getattr(best, key), key, above=False) for key in some()}
    elif kind == "below":
        key = random.choice(BUDGETS)
        limits = {key: near(at(key, 0.0), key, above=False)}
        other = random.choice(BUDGETS)
        limits.setdefault(other, at(other, random.random()))
    for key, value in limits.items():
        if isinstance(value, int):
            limits[key] = random.choice([value, float(value), near(value, key, above=True)])
    return limits


@st.composite
def specs(draw: st.DrawFn, limit: int = LIMIT, *, clips: bool = False) -> Spec:
    """A spec of at most ``limit`` architectures, with budgets or without; some are infeasible."""
    table = draw((clip_tables if clips else spec_tables)(limit))
    spec = Spec.from_table(table)
    limits = budgets(spec, Random(f"{draw(st.integers(0, 1000))} {spec.to_toml()}"))
    return Spec.from_table({**table, "budget": limits}) if limits else spec


@st.composite
def architecture_and_spec(draw: st.DrawFn, limit: int = 500, *, clips: bool = False) -> tuple[oracle.Best, Spec]:
    """A spec without budgets and one of its architectures."""
    spec = Spec.from_table(draw((clip_tables if clips else spec_tables)(limit)))
    return draw(st.sampled_from(oracle.architectures(spec))), spec
