"""The segments of a spec with costs as polynomials in the inner width, taken from the block families' own layers.

A segment is the stem, a stage, or the tail. With inner width ``m``, kernel ``k`` and depth ``L``, an option of the pair
``(c_in, c)`` costs ``q0 + q1 m + q2 m^2`` of every budget, plus ``L`` times a step function of ``m`` (squeeze-excite),
and has the log-width ``sigma = first + (L - 1) again + e L ln m``. Stem and tail are segments with
``m = k = L = 1`` and ``e = 0``. The classifier's cost is carried by the last segment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mad_ip import blocks, cost, entropy
from mad_ip.blocks import Layer
from mad_ip.frames import Time
from mad_ip.spec import Domain, Spec, Stage

__all__ = ["BUDGETS", "Floats", "Integers", "Table", "tables"]

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Layers: TypeAlias = Sequence[Layer]

BUDGETS = ("macs", "params", "layers")
"""Budgets that are sums over the segments."""

_STEPPED = ("squeeze", "excite")
"""Roles of the layers whose cost is no polynomial of the inner width; it depends on nothing else."""

_ONE: Domain = (1,)


@dataclass(frozen=True)
class Table:
    """One segment over its whole grid. Axes: B budgets, S sources, N nodes, K kernels, W inner widths.

    ``first`` (3, B, S, N, K) and ``again`` (3, B, N, K) are the coefficients of ``1, m, m^2`` in the cost of the first
    block and of every further one, in units of the budgets; ``stepped`` (B, W) is added for every block.
    ``log_first`` (S, N, K), ``log_again`` (N, K) and ``exponent`` (e) give the log-width; ``layers`` are counted per
    block. ``follows`` (S, N) and ``carries`` (N, W) are the rules of the space. ``gain`` (N) is the entropy per unit of
    log-width at the segment's end; ``bounded`` says whether the effectiveness budget applies there.
    """

    sources: Integers
    nodes: Integers
    mid: Integers
    kernel: Integers
    depth: Integers
    follows: NDArray[np.bool_]
    carries: NDArray[np.bool_]
    first: Floats
    again: Floats
    stepped: Floats | None
    log_first: Floats
    log_again: Floats
    exponent: int
    layers: int
    gain: Floats
    bounded: bool


def tables(spec: Spec) -> tuple[Table, ...]:
    """The segments of a spec in forward order."""
    sizes, times = spec.resolutions, spec.times
    stem = spec.stem
    built = [
        _table(
            spec,
            (spec.input.channels,),
            stem.channels,
            first=lambda c_in, c, m, k: blocks.stem(c_in, c, stem.kernel, stem.stride, spec.input.resolution, times[0]),
            weight=stem.weight,
            level=0,
        )
    ]
    channels = stem.channels
    for t, stage in enumerate(spec.stages):
        built.append(_stage_table(spec, t, channels))
        channels = stage.channels
    if spec.tail is not None:
        tail = _table(
            spec,
            channels,
            spec.tail.channels,
            first=lambda c_in, c, m, k: blocks.tail(c_in, c, sizes[-1], Time(times[-1].out_frames)),
            weight=spec.stages[-1].weight,
            level=len(spec.stages),
            final=True,
        )
        built.append(tail)
    return tuple(built)


def _stage_table(spec: Spec, t: int, sources: Domain) -> Table:
    stage: Stage = spec.stages[t]
    before, after = spec.resolutions[t : t + 2]
    time = spec.times[t + 1]
    last = t == len(spec.stages) - 1
    return _table(
        spec,
        sources,
        stage.channels,
        first=lambda c_in, c, m, k: blocks.block(stage.block, c_in, c, m, k, stage.stride, before, time),
        again=lambda c_in, c, m, k: blocks.block(stage.block, c, c, m, k, 1, after, time.after),
        # The tail, where there is one, ends the last stage's level.
        weight=0.0 if last and spec.tail is not None else stage.weight,
        level=t + 1,
        final=last and spec.tail is None,
        domains=(stage.mid, stage.kernel, stage.depth),
        rules=True,
    )


def _table(
    spec: Spec,
    sources: Domain,
    nodes: Domain,
    *,
    first: Callable[[Any, Any, Any, Any], Layers],
    again: Callable[[Any, Any, Any, Any], Layers] | None = None,
    weight: float,
    level: int,
    final: bool = False,
    domains: tuple[Domain, Domain, Domain] = (_ONE, _ONE, _ONE),
    rules: bool = False,
) -> Table:
    mid, kernel, depth = (np.array(domain) for domain in domains)
    c_in, c = np.array(sources), np.array(nodes)
    shape = (len(c_in), len(c), len(kernel))
    axes = c_in[:, None, None], c[None, :, None]
    limits = [(name, float(limit)) for name in BUDGETS if (limit := getattr(spec.budget, name)) is not None]

    def costs(block: Callable[[Any, Any, Any, Any], Layers] | None) -> Floats:
        values = np.zeros((3, len(limits), *shape))
        if block is not None:
            three = [[x for x in block(*axes, m, kernel) if x.role not in _STEPPED] for m in (1, 2, 3)]
            for b, (name, limit) in enumerate(limits):
                values[:, b] = _polynomial([_amount(name, layers) for layers in three], shape) / limit
        return values

    def log_width(block: Callable[[Any, Any, Any, Any], Layers] | None, m: int) -> Floats:
        layers = () if block is None else block(*axes, m, kernel)
        return np.broadcast_to(np.asarray(entropy.log_width_product(layers), float), shape)

    stepped = [x for x in first(1, 1, mid, 1) if x.role in _STEPPED]
    head = blocks.head(c, spec.input.classes) if final else ()
    block_costs, head_costs = costs(first), np.zeros((len(limits), len(c)))
    for b, (name, limit) in enumerate(limits):
        head_costs[b] = _amount(name, head) / limit
    block_costs[0] += head_costs[:, None, :, None]
    steps = np.zeros((len(limits), len(mid)))
    for b, (name, limit) in enumerate(limits):
        steps[b] = _amount(name, stepped) / limit
    factor = entropy.entropy_factor(spec.convention)
    size, frames = spec.resolutions[level], spec.times[level].out_frames
    return Table(
        sources=c_in,
        nodes=c,
        mid=mid,
        kernel=kernel,
        depth=depth,
        follows=spec.space.follows(c_in[:, None], c[None, :]) if rules else np.ones(shape[:2], bool),
        carries=spec.space.carries(mid[None, :], c[:, None]) if rules else np.ones((len(c), len(mid)), bool),
        first=block_costs,
        again=costs(again)[:, :, 0],
        stepped=steps if stepped else None,
        log_first=log_width(first, 1),
        log_again=log_width(again, 1)[0],
        exponent=round(float((log_width(first, 2) - log_width(first, 1)).flat[0]) / math.log(2)),
        layers=entropy.count(first(1, 1, 1, 1)),
        gain=np.asarray(factor * entropy.entropy_gain(weight, size, c, frames)),
        bounded=spec.budget.effectiveness is not None and (weight > 0 if spec.convention == "tinynas" else final),
    )


def _amount(budget: str, layers: Layers) -> Any:
    """What layers take of a budget."""
    if budget == "layers":
        return entropy.count(layers)
    return cost.macs(layers) if budget == "macs" else cost.params(layers)


def _polynomial(values: list[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Integer coefficients of ``1, m, m^2`` from the values at ``m = 1, 2, 3``."""
    one, two, three = (np.broadcast_to(value, shape) for value in values)
    square = (three - 2 * two + one) // 2
    linear = two - one - 3 * square
    return np.array([one - linear - square, linear, square])
