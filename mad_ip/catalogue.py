"""Options with exact coefficients, as NumPy arrays, without the dominated ones (docs/formulation.md section 2).

The network is a path through segments: stem, stages, and the tail where there is one. An option of a segment is a
tuple ``(c_in, c, m, k, L)``; options with the same ``(c_in, c)`` form a pair. The classifier's cost is carried by the
last segment, whose output channels it depends on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mad_ip import blocks, cost, entropy
from mad_ip.errors import InputError
from mad_ip.frames import Time
from mad_ip.spec import Spec, Stage

__all__ = ["LISTABLE", "Catalogue", "Segment", "architectures", "build", "raw_options", "stage_quantities"]

LISTABLE = 20_000_000
"""Options before dominance up to which a catalogue is made: some 5 GB."""

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

_CHUNK = 1 << 19
"""Raw options evaluated at a time; bounds the memory of :func:`build`."""

_COLUMNS = ("c_in", "c", "mid", "kernel", "depth", "macs", "params", "layers", "log_width")


@dataclass(frozen=True)
class Segment:
    """The options of the stem, of one stage, or of the tail, sorted by ``(c_in, c, depth, kernel, mid)``.

    All arrays have one entry per option. ``depth`` and ``mid`` are 0 where there are no blocks. ``log_width`` is
    sigma, ``layers`` the counted layers. ``weight``, ``size`` and ``frames`` give the entropy gain at the segment's
    end; ``bounds_effectiveness`` says whether the effectiveness budget applies there.
    """

    name: str
    c_in: Integers
    c: Integers
    mid: Integers
    kernel: Integers
    depth: Integers
    macs: Integers
    params: Integers
    layers: Integers
    log_width: Floats
    weight: float
    size: int
    frames: int | None
    factor: float
    bounds_effectiveness: bool

    def __len__(self) -> int:
        return len(self.c)

    @cached_property
    def nodes(self) -> Integers:
        """Distinct output channels, ascending."""
        return np.unique(self.c)

    @cached_property
    def sources(self) -> Integers:
        """Distinct input channels, ascending."""
        return np.unique(self.c_in)

    @cached_property
    def starts(self) -> Integers:
        """Index of the first option of every pair."""
        changes = (np.diff(self.c_in) != 0) | (np.diff(self.c) != 0)
        return np.concatenate([np.zeros(min(1, len(self)), np.int64), np.flatnonzero(changes) + 1])

    @cached_property
    def pair(self) -> Integers:
        """Pair of every option."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self))))

    @cached_property
    def pair_source(self) -> Integers:
        """For every pair, the index of ``c_in`` in :attr:`sources`."""
        return np.searchsorted(self.sources, self.c_in[self.starts])

    @cached_property
    def pair_node(self) -> Integers:
        """For every pair, the index of ``c`` in :attr:`nodes`."""
        return np.searchsorted(self.nodes, self.c[self.starts])

    @cached_property
    def gain(self) -> Floats:
        """Entropy per unit of log-width at every node, ``alpha ln(f r^2 c)`` times the convention's factor."""
        return np.asarray(self.factor * entropy.entropy_gain(self.weight, self.size, self.nodes, self.frames))

    def keep(self, mask: NDArray[np.bool_]) -> Segment:
        """The segment with the options where ``mask`` is true."""
        columns = {name: getattr(self, name)[mask] for name in _COLUMNS}
        return Segment(
            self.name,
            **columns,
            weight=self.weight,
            size=self.size,
            frames=self.frames,
            factor=self.factor,
            bounds_effectiveness=self.bounds_effectiveness,
        )


@dataclass(frozen=True)
class Catalogue:
    """The segments of a spec in forward order, and the exact size of its space."""

    spec: Spec
    segments: tuple[Segment, ...]
    architectures: int

    @property
    def stages(self) -> tuple[Segment, ...]:
        """The segments that are stages."""
        return self.segments[1 : 1 + len(self.spec.stages)]

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    @property
    def is_empty(self) -> bool:
        """Whether some segment has no option left, so that no path exists."""
        return any(len(segment) == 0 for segment in self.segments)

    def keep(self, masks: Sequence[NDArray[np.bool_]]) -> Catalogue:
        """The options where the masks of the segments are true, less those whose channels no neighbour takes up."""
        segments = [segment.keep(mask) for segment, mask in zip(self.segments, self.linked(masks), strict=True)]
        return Catalogue(self.spec, tuple(segments), self.architectures)

    def linked(self, masks: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
        """The masks less the options whose channels no neighbour takes up."""
        linked = [mask.copy() for mask in masks]
        before = -1
        while before != (before := sum(int(mask.sum()) for mask in linked)):
            for s, (left, right) in enumerate(itertools.pairwise(self.segments)):
                linked[s] &= np.isin(left.c, right.c_in[linked[s + 1]])
                linked[s + 1] &= np.isin(right.c_in, left.c[linked[s]])
        return linked


def stage_quantities(
    stage: Stage, size: int, time: Time, c_in: Any, c: Any, m: Any, k: Any, depth: Any
) -> tuple[Any, ...]:
    """MACs, parameters, counted layers and log-width of a whole stage on a ``size x size`` input, broadcast.

    ``time`` is the time axis of its first block.
    """
    first = blocks.block(stage.block, c_in, c, m, k, stage.stride, size, time)
    rest = blocks.block(stage.block, c, c, m, k, 1, size // stage.stride, time.after)
    repeats = depth - 1
    return (
        cost.macs(first) + repeats * cost.macs(rest),
        cost.params(first) + repeats * cost.params(rest),
        entropy.count(first) + repeats * entropy.count(rest),
        entropy.log_width_product(first) + repeats * entropy.log_width_product(rest),
    )


def build(spec: Spec) -> Catalogue:
    """List all admissible, undominated options of every segment.

    Raises :class:`InputError` when a network of the spec could cost more than an exact 64-bit integer holds, or when
    there are more than :data:`LISTABLE` options before dominance.
    """
    _check_range(spec)
    options = raw_options(spec)
    if options > LISTABLE:
        raise InputError(
            f"{spec.source}: {options:,} options are too many to list, at most {LISTABLE:,} are; the decomposition "
            "(--solver decomposition) needs no list"
        )
    levels = _channel_levels(spec)
    sizes, times = spec.resolutions, spec.times

    def segment(name: str, columns: dict[str, Any], weight: float, level: int, *, final: bool) -> Segment:
        if final:
            head = blocks.head(columns["c"], spec.input.classes)
            columns["macs"] = columns["macs"] + cost.macs(head)
            columns["params"] = columns["params"] + cost.params(head)
        bounds = weight > 0 if spec.convention == "tinynas" else final
        return Segment(
            name,
            **columns,
            weight=weight,
            size=sizes[level],
            frames=times[level].out_frames,
            factor=factor,
            bounds_effectiveness=bounds,
        )

    factor = entropy.entropy_factor(spec.convention)
    stem = spec.stem
    image = np.full(len(levels[0]), spec.input.channels)
    layers = blocks.stem(image, levels[0], stem.kernel, stem.stride, spec.input.resolution, times[0])
    columns = _plain_options(image, levels[0], layers, stem.kernel)
    segments = [segment("stem", columns, stem.weight, 0, final=False)]
    for number, stage in enumerate(spec.stages, start=1):
        final = number == len(spec.stages) and spec.tail is None
        ends = number < len(spec.stages) or final
        columns = _stage_options(spec, stage, sizes[number - 1], times[number], levels[number - 1], levels[number])
        weight = stage.weight if ends else 0.0
        segments.append(segment(f"stage {number}", columns, weight, number, final=final))
    if spec.tail is not None:
        c_in, c = (grid.ravel() for grid in np.meshgrid(levels[-1], spec.tail.channels, indexing="ij"))
        columns = _plain_options(c_in, c, blocks.tail(c_in, c, sizes[-1], Time(times[-1].out_frames)), 1)
        segments.append(segment("tail", columns, spec.stages[-1].weight, len(spec.stages), final=True))
    return Catalogue(spec, tuple(segments), architectures(spec))


def architectures(spec: Spec) -> int:
    """Exact number of architectures: all choices within the domains and the ``[space]`` rules, before budgets."""
    ways = dict.fromkeys(spec.stem.channels, 1)
    for stage in spec.stages:
        following = {}
        for c in stage.channels:
            options = sum(bool(spec.space.carries(m, c)) for m in stage.mid) * len(stage.kernel) * len(stage.depth)
            arriving = sum(count for c_in, count in ways.items() if spec.space.follows(c_in, c))
            following[c] = arriving * options
        ways = following
    return sum(ways.values()) * (1 if spec.tail is None else len(spec.tail.channels))


def raw_options(spec: Spec) -> int:
    """Number of options over all segments before dominance."""
    levels = _channel_levels(spec)
    total = len(levels[0]) + (0 if spec.tail is None else len(levels[-1]) * len(spec.tail.channels))
    for stage, before, after in zip(spec.stages, levels[:-1], levels[1:], strict=True):
        pairs = spec.space.follows(before[:, None], after[None, :]).sum(axis=0)
        widths = spec.space.carries(np.array(stage.mid)[:, None], after[None, :]).sum(axis=0)
        total += int((pairs * widths).sum()) * len(stage.kernel) * len(stage.depth)
    return total


def _channel_levels(spec: Spec) -> list[Integers]:
    """Channels of the stem and of every stage that lie on a complete path."""
    levels = [np.array(spec.stem.channels)]
    for stage in spec.stages:
        c = np.array(stage.channels)
        usable = spec.space.carries(np.array(stage.mid)[:, None], c[None, :]).any(axis=0)
        levels.append(c[usable & spec.space.follows(levels[-1][:, None], c[None, :]).any(axis=0)])
    for t in range(len(levels) - 2, -1, -1):
        levels[t] = levels[t][spec.space.follows(levels[t][:, None], levels[t + 1][None, :]).any(axis=1)]
    return levels


def _plain_options(c_in: Integers, c: Integers, layers: tuple[blocks.Layer, ...], kernel: int) -> dict[str, Any]:
    """Columns of a segment that is one layer: the stem or the tail."""
    zeros = np.zeros(len(c), np.int64)
    return {
        "c_in": c_in,
        "c": c,
        "mid": zeros,
        "kernel": np.full(len(c), kernel),
        "depth": zeros,
        "macs": cost.macs(layers) + zeros,
        "params": cost.params(layers) + zeros,
        "layers": zeros + entropy.count(layers),
        "log_width": np.asarray(entropy.log_width_product(layers)) + 0.0,
    }


def _stage_options(
    spec: Spec, stage: Stage, size: int, time: Time, before: Integers, after: Integers
) -> dict[str, Any]:
    """Columns of the undominated options of a stage, sorted by ``(c_in, c, depth, kernel, mid)``."""
    follows = spec.space.follows(before[:, None], after[None, :])
    sources, targets = np.nonzero(follows)
    kernel, mid, depth = (np.array(values) for values in (stage.kernel, stage.mid, stage.depth))
    carried = spec.space.carries(mid[None, :], after[:, None])
    per_pair = len(kernel) * len(mid) * len(depth)
    step = max(1, _CHUNK // per_pair)
    dominators = _dominators(stage, kernel, mid)
    chunks = []
    for start in range(0, len(sources), step):
        c_in, c = before[sources[start : start + step]], after[targets[start : start + step]]
        # Axes: pair, depth, kernel, mid.
        shape = (len(c), len(depth), len(kernel), len(mid))
        axes = (
            c_in[:, None, None, None],
            c[:, None, None, None],
            mid[None, None, None, :],
            kernel[None, None, :, None],
            depth[None, :, None, None],
        )
        quantities = [np.broadcast_to(q, shape) for q in stage_quantities(stage, size, time, *axes)]
        admissible = carried[targets[start : start + step]]
        kept = _undominated(quantities, admissible, dominators)
        columns = [np.broadcast_to(axis, shape)[kept] for axis in axes]
        chunks.append([*columns, *(q[kept] for q in quantities)])
    c_in, c, mid, kernel, depth, *rest = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return dict(zip(_COLUMNS, (c_in, c, mid, kernel, depth, *rest), strict=True))


def _dominators(stage: Stage, kernel: Integers, mid: Integers) -> Integers:
    """For every ``(k', k, m)``, the index of the least ``m'`` such that ``(k', m')`` has at least the log-width.

    Cost and log-width grow with the inner width, so that among the options with kernel ``k'`` only that one can
    dominate ``(k, m)``, whatever the pair and the depth. A wrong index could only miss a dominance:
    :func:`_undominated` compares the exact quantities.
    """
    block = blocks.block(stage.block, 1, 1, mid[None, :], kernel[:, None], 1, 1)
    widths = np.broadcast_to(entropy.log_width_product(block), (len(kernel), len(mid)))
    return np.array([np.searchsorted(row, widths) for row in widths])


def _undominated(quantities: list[Any], admissible: NDArray[np.bool_], dominators: Integers) -> NDArray[np.bool_]:
    """Mask over (pair, depth, kernel, mid) of the options that no admissible one with another kernel dominates."""
    macs, params, _, log_width = quantities
    pairs, depths, kernels, mids = macs.shape
    kept = np.broadcast_to(admissible[:, None, None, :], macs.shape).copy()
    # Admissible inner widths of a pair are consecutive, since mid_ratio is an interval.
    first = admissible.argmax(axis=1)
    end = first + admissible.sum(axis=1)
    for other in range(kernels):
        index = np.maximum(dominators[other][None], first[:, None, None])
        exists = (index < end[:, None, None])[:, None]
        flat = np.minimum(index, mids - 1).reshape(pairs, 1, kernels * mids)

        def at(values: Any, other: int = other, flat: Integers = flat) -> Any:
            rows = np.broadcast_to(values[:, :, other, :], (pairs, depths, mids))
            return np.take_along_axis(rows, flat, axis=2).reshape(pairs, depths, kernels, mids)

        no_worse = exists & (at(macs) <= macs) & (at(params) <= params) & (at(log_width) >= log_width)
        no_worse[:, :, other, :] = False
        # Of two equal options the one with the smaller kernel stays.
        equal = (at(macs) == macs) & (at(params) == params) & (at(log_width) == log_width)
        equal[:, :, other:, :] = False
        kept &= ~(no_worse & ~equal)
    return kept


def _check_range(spec: Spec) -> None:
    """Refuse a spec whose costs could leave 64-bit integers, by its largest network in Python integers."""
    c_in = max(spec.stem.channels)
    stem = spec.stem
    total = cost.macs(
        blocks.stem(spec.input.channels, c_in, stem.kernel, stem.stride, spec.input.resolution, spec.times[0])
    )
    for stage, size, time in zip(spec.stages, spec.resolutions, spec.times[1:], strict=False):
        c, m, k = max(stage.channels), max(stage.mid), max(stage.kernel)
        macs, params, _, _ = stage_quantities(stage, size, time, c_in, c, m, k, max(stage.depth))
        # Equal channels have a free shortcut in these numbers; a projection never costs more than the last term.
        total += max(macs, params, c_in * c * size**2 * (time.frames or 1))
        c_in = c
    width = c_in if spec.tail is None else max(spec.tail.channels)
    frames = spec.times[-1].out_frames or 1
    total += c_in * width * spec.resolutions[-1] ** 2 * frames + width * (spec.input.classes + 1)
    if total >= 2**62:
        clip = "" if spec.input.frames is None else ", input.frames"
        raise InputError(
            f"{spec.source}: input.resolution{clip}, stage.channels and stage.mid: the largest network would take "
            f"{total} MACs; at most 2**62 are allowed"
        )
