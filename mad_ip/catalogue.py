"""Options with exact coefficients, as NumPy arrays, without the dominated ones (docs/formulation.md section 2).

The network is a path through segments: stem, stages, and the tail where there is one. An option of a segment is a
tuple ``(c_in, c, m, k, L)``; options with the same ``(c_in, c)`` form a pair. The classifier's cost is carried by the
last segment, whose output channels it depends on. What passes a budget on a maximum is no option.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mad_ip import blocks, entropy
from mad_ip.cost import LARGEST, Cost, operations
from mad_ip.device import Lookup
from mad_ip.errors import InputError
from mad_ip.spec import Choice, Path, Segment, Spec

__all__ = ["LISTABLE", "Catalogue", "Options", "architectures", "build", "listed", "quantities", "raw_options"]

LISTABLE = 20_000_000
"""Options before dominance up to which a catalogue is made: some 5 GB."""

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

_CHUNK = 1 << 19
"""Raw options evaluated at a time; bounds the memory of :func:`build`."""

_AXES = ("c_in", "c", "depth", "kernel", "mid")


@dataclass(frozen=True)
class Options:
    """The options of one segment, sorted by ``(c_in, c, depth, kernel, mid)``.

    All arrays have one entry per option: ``costs`` by budget, ``layers`` counted, ``log_width`` sigma, ``utility`` what
    the choices are worth by themselves. ``factor`` is what entropies are multiplied by.
    """

    segment: Segment
    c_in: Integers
    c: Integers
    mid: Integers
    kernel: Integers
    depth: Integers
    costs: dict[str, Integers]
    layers: Integers
    log_width: Floats
    utility: Floats
    factor: float

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
        """What a unit of log-width is worth at every node, ``alpha ln(f r^2 c)`` times the factor."""
        segment = self.segment
        frames = segment.time.out_frames
        return np.asarray(self.factor * entropy.entropy_gain(segment.weight, segment.out_size, self.nodes, frames))

    def keep(self, mask: NDArray[np.bool_]) -> Options:
        """The options where ``mask`` is true."""
        columns = {name: getattr(self, name)[mask] for name in (*_AXES, "layers", "log_width", "utility")}
        return dataclasses.replace(self, costs={key: cost[mask] for key, cost in self.costs.items()}, **columns)


@dataclass(frozen=True)
class Catalogue:
    """The options of every segment of a spec in forward order."""

    spec: Spec
    segments: tuple[Options, ...]

    def __len__(self) -> int:
        return sum(len(options) for options in self.segments)

    @property
    def is_empty(self) -> bool:
        """Whether some segment has no option left, so that no path exists."""
        return any(len(options) == 0 for options in self.segments)

    def keep(self, masks: Sequence[NDArray[np.bool_]]) -> Catalogue:
        """The options where the masks are true, less those whose channels no neighbour takes up."""
        linked = [mask.copy() for mask in masks]
        before = -1
        while before != (before := sum(int(mask.sum()) for mask in linked)):
            for s, (left, right) in enumerate(itertools.pairwise(self.segments)):
                linked[s] &= np.isin(left.c, right.c_in[linked[s + 1]])
                linked[s + 1] &= np.isin(right.c_in, left.c[linked[s]])
        kept = tuple(options.keep(mask) for options, mask in zip(self.segments, linked, strict=True))
        return Catalogue(self.spec, kept)

    def linked(self) -> Catalogue:
        """The options whose channels the neighbours take up."""
        return self.keep([np.ones(len(options), bool) for options in self.segments])

    def valued(self, spec: Spec) -> Catalogue:
        """The same options by another objective."""
        segments = (
            _options(spec, segment, {key: getattr(options, key) for key in _AXES})
            for segment, options in zip(spec.segments, self.segments, strict=True)
        )
        return Catalogue(spec, tuple(segments))

    def path(self, chosen: Sequence[int]) -> Path:
        """The path that takes option ``chosen[s]`` of every segment."""
        return tuple(
            Choice(*(int(getattr(options, key)[o]) for key in ("c", "mid", "kernel", "depth")))
            for options, o in zip(self.segments, chosen, strict=True)
        )

    def chosen(self, path: Path) -> tuple[int, ...]:
        """The options of a path, each replaced by one that dominates it where that was dropped."""
        found = []
        c_in = self.spec.input.channels
        for options, choice in zip(self.segments, path, strict=True):
            compared = [self.spec.costs[key] for key in options.costs]
            costs, _, log_width = quantities(options.segment, compared, c_in, *choice)
            fits = (options.c_in == c_in) & (options.c == choice.channels) & (options.depth == choice.depth)
            fits &= (options.log_width >= log_width) & (options.utility >= options.segment.worth(*choice))
            for key, cost in costs.items():
                fits &= options.costs[key] <= cost
            found.append(int(np.flatnonzero(fits)[0]))
            c_in = choice.channels
        return tuple(found)


def quantities(
    segment: Segment, compared: Iterable[Cost], c_in: Any, c: Any, m: Any, k: Any, depth: Any
) -> tuple[dict[str, Any], Any, Any]:
    """Costs by key, counted layers and log-width of whole segments, with the head where it follows, broadcast."""
    first, rest = blocks.opening(segment, c_in, c, m, k), blocks.repeated(segment, c, m, k)
    head = blocks.closing(segment, c)
    costs = {cost.key: cost.of_segment(0, first, rest, head, depth) for cost in compared}
    repeats = depth - 1
    return (
        costs,
        entropy.count(first) + repeats * entropy.count(rest),
        entropy.log_width_product(first) + repeats * entropy.log_width_product(rest),
    )


def build(spec: Spec) -> Catalogue:
    """List all admissible, undominated options of every segment.

    Raises :class:`InputError` when a network of the spec could cost more than an exact 64-bit integer holds, or when
    there are more than :data:`LISTABLE` options before dominance.
    """
    check_range(spec)
    options = raw_options(spec)
    if options > LISTABLE:
        raise InputError(
            f"{spec.source}: {options:,} options are too many to list, at most {LISTABLE:,} are; what survives "
            "branch and bound (reduction = true in a profile, or export-model --reduced) needs no list"
        )
    levels = [np.array([spec.input.channels]), *_channel_levels(spec)]
    segments = [
        _segment(spec, segment, *ends) for segment, ends in zip(spec.segments, itertools.pairwise(levels), strict=True)
    ]
    catalogue = Catalogue(spec, tuple(segments))
    # The rules on channels are met by all; a limit on a maximum may leave some that no neighbour takes up.
    return catalogue.linked() if spec.budget.maxima else catalogue


def listed(spec: Spec, options: Sequence[Iterable[tuple[int, Choice]]]) -> Catalogue:
    """The catalogue of exactly these options of every segment, each with the channels before it, dominated or not."""
    segments = []
    for segment, found in zip(spec.segments, options, strict=True):
        rows = sorted((c_in, c, depth, kernel, mid) for c_in, (c, mid, kernel, depth) in found)
        columns = np.array(rows, np.int64).reshape(-1, len(_AXES)).T
        segments.append(_options(spec, segment, dict(zip(_AXES, columns, strict=True))))
    return Catalogue(spec, tuple(segments))


def architectures(spec: Spec) -> int:
    """Exact number of architectures: all choices within the domains and the ``[space]`` rules, before budgets."""
    # Of Python's integers: no width holds the products.
    ways, before = np.ones(1, object), np.array([spec.input.channels])
    for segment in spec.segments:
        after = np.array(segment.channels)
        follows, carries = _rules(spec, segment, before, after)
        options = carries.sum(axis=1).astype(object) * len(segment.kernel) * len(segment.depth)
        ways, before = ways @ follows.astype(object) * options, after
    return int(ways.sum())


def raw_options(spec: Spec) -> int:
    """Number of options over all segments before dominance."""
    levels = [np.array([spec.input.channels]), *_channel_levels(spec)]
    total = 0
    for segment, (before, after) in zip(spec.segments, itertools.pairwise(levels), strict=True):
        follows, carries = _rules(spec, segment, before, after)
        pairs, widths = follows.sum(axis=0), carries.sum(axis=1)
        total += int((pairs * widths).sum()) * len(segment.kernel) * len(segment.depth)
    return total


def _rules(
    spec: Spec, segment: Segment, before: Integers, after: Integers
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which channels may follow which, (before, after), and which inner widths go with them, (after, mid)."""
    if not segment.ruled:
        return np.ones((len(before), len(after)), bool), np.ones((len(after), len(segment.mid)), bool)
    follows = spec.space.follows(before[:, None], after[None, :])
    return follows, spec.space.carries(np.array(segment.mid)[None, :], after[:, None])


def _channel_levels(spec: Spec) -> list[Integers]:
    """Channels of every segment that lie on a complete path."""
    levels = [np.array([spec.input.channels])]
    for segment in spec.segments:
        c = np.array(segment.channels)
        follows, carries = _rules(spec, segment, levels[-1], c)
        levels.append(c[carries.any(axis=1) & follows.any(axis=0)])
    for s in range(len(levels) - 1, 1, -1):
        follows, _ = _rules(spec, spec.segments[s - 1], levels[s - 1], levels[s])
        levels[s - 1] = levels[s - 1][follows.any(axis=1)]
    return levels[1:]


def _compared(spec: Spec) -> list[Cost]:
    """What an option must not have more of to dominate another."""
    return [spec.costs[key] for key in dict.fromkeys(["macs", "params", *spec.budget.sums])]


def _options(spec: Spec, segment: Segment, columns: dict[str, Integers]) -> Options:
    """The options with these values, in order."""
    axes = [columns[key] for key in ("c", "mid", "kernel", "depth")]
    costs, layers, log_width = quantities(segment, _compared(spec), columns["c_in"], *axes)
    zeros = np.zeros(len(columns["c"]), np.int64)
    return Options(
        segment,
        **columns,
        costs={key: cost + zeros for key, cost in costs.items()},
        layers=layers + zeros,
        log_width=np.asarray(log_width) + 0.0 * zeros,
        utility=segment.worth(*axes) + 0.0 * zeros,
        factor=entropy.entropy_factor(spec.convention, spec.objective.entropy),
    )


def _segment(spec: Spec, segment: Segment, before: Integers, after: Integers) -> Options:
    """The undominated options of a segment between these channels."""
    follows, carries = _rules(spec, segment, before, after)
    sources, targets = np.nonzero(follows)
    kernel, mid, depth = (np.array(values) for values in (segment.kernel, segment.mid, segment.depth))
    step = max(1, _CHUNK // (len(kernel) * len(mid) * len(depth)))
    dominators = _dominators(segment, kernel, mid)
    chunks = []
    for start in range(0, len(sources), step):
        c_in, c = before[sources[start : start + step]], after[targets[start : start + step]]
        # Axes: pair, depth, kernel, mid.
        shape = (len(c), len(depth), len(kernel), len(mid))
        axes = {
            "c_in": c_in[:, None, None, None],
            "c": c[:, None, None, None],
            "depth": depth[None, :, None, None],
            "kernel": kernel[None, None, :, None],
            "mid": mid[None, None, None, :],
        }
        limits = spec.budget.maxima
        keys = _compared(spec)
        values = (axes[key] for key in ("c_in", "c", "mid", "kernel", "depth"))
        costs, _, log_width = quantities(segment, [*keys, *(spec.costs[key] for key in limits)], *values)
        worth = segment.worth(*(axes[key] for key in ("c", "mid", "kernel", "depth")))
        less = (*(costs[x.key] for x in keys), -log_width, -worth)
        compared = [np.broadcast_to(quantity, shape) for quantity in less]
        admissible = np.broadcast_to(carries[targets[start : start + step]][:, None, None, :], shape)
        for key, limit in limits.items():
            admissible = admissible & (costs[key] <= limit)
        kept = _undominated(compared, admissible, dominators)
        chunks.append([np.broadcast_to(axis, shape)[kept] for axis in axes.values()])
    columns = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return _options(spec, segment, dict(zip(_AXES, columns, strict=True)))


def _dominators(segment: Segment, kernel: Integers, mid: Integers) -> Integers:
    """For every ``(k', k, m)``, the index of the least ``m'`` such that ``(k', m')`` has at least the log-width.

    Where cost and log-width grow with the inner width, among the options with kernel ``k'`` only the first admissible
    one from there on can dominate ``(k, m)``, whatever the pair and the depth. A wrong index could only miss a
    dominance: :func:`_undominated` compares the exact quantities.
    """
    block = blocks.opening(segment, 1, 1, mid[None, :], kernel[:, None])
    widths = np.broadcast_to(entropy.log_width_product(block), (len(kernel), len(mid)))
    return np.array([np.searchsorted(row, widths) for row in widths])


def _undominated(
    compared: list[NDArray[Any]], admissible: NDArray[np.bool_], dominators: Integers
) -> NDArray[np.bool_]:
    """Mask over (pair, depth, kernel, mid) of the options that no admissible one with another kernel dominates.

    Of every quantity compared, less is better.
    """
    pairs, depths, kernels, mids = admissible.shape
    kept = admissible.copy()
    # The first admissible inner width from every one on, and from beyond the last.
    following = np.full((pairs, depths, kernels, mids + 1), mids)
    following[..., :-1] = np.where(admissible, np.arange(mids), mids)
    following = np.minimum.accumulate(following[..., ::-1], axis=-1)[..., ::-1]
    for other in range(kernels):
        index = following[:, :, other, dominators[other].ravel()]

        def at(values: NDArray[Any], other: int = other, index: Integers = index) -> NDArray[Any]:
            rows = np.broadcast_to(values[:, :, other, :], (pairs, depths, mids))
            return np.take_along_axis(rows, np.minimum(index, mids - 1), axis=2).reshape(pairs, depths, kernels, mids)

        no_worse, equal = (index < mids).reshape(admissible.shape), np.ones((1, 1, 1, 1), bool)
        for values in compared:
            theirs = at(values)
            no_worse = no_worse & (theirs <= values)
            equal = equal & (theirs == values)
        no_worse[:, :, other, :] = False
        # Of two equal options the one with the smaller kernel stays.
        equal = np.broadcast_to(equal, no_worse.shape).copy()
        equal[:, :, other:, :] = False
        kept &= ~(no_worse & ~equal)
    return kept


def check_range(spec: Spec) -> None:
    """Refuse a spec whose costs could leave 64-bit integers, by its largest network in Python integers.

    Also one of which some network needs a layer that its device's table lacks.
    """
    totals = dict.fromkeys((cost.key for cost in _compared(spec)), 0)
    c_in = spec.input.channels
    for segment in spec.segments:
        c, m, k, depth = (max(domain) for domain in (segment.channels, segment.mid, segment.kernel, segment.depth))
        # With a projection even where the largest channels need none.
        first = [dataclasses.replace(layer, present=1) for layer in blocks.opening(segment, c_in, c, m, k)]
        rest, head = blocks.repeated(segment, c, m, k), blocks.closing(segment, c)
        for key in totals:
            cost = spec.costs[key]
            parts = sum(cost.largest(first, True)) + sum(cost.largest(head, True))
            totals[key] += parts + (depth - 1) * sum(cost.largest(rest, False))
        c_in = c
    key, total = max(totals.items(), key=lambda entry: entry[1])
    if total >= LARGEST:
        clip = "" if spec.input.frames is None else ", input.frames"
        raise InputError(
            f"{spec.source}: input.resolution{clip}, stage.channels and stage.mid: the largest network would take "
            f"{spec.costs[key].reported(total)} {spec.costs[key].unit}; at most "
            f"{'2**62' if spec.costs[key].step == 1 else spec.costs[key].reported(LARGEST)} are allowed"
        )
    if "latency" in spec.costs:
        _check_table(spec)


def _check_table(spec: Spec) -> None:
    """Raise :class:`InputError` naming a layer of some network of the spec that a table of times lacks."""
    assert spec.device is not None
    table = spec.device.latency
    if not isinstance(table, Lookup):
        return
    levels = [np.array([spec.input.channels]), *_channel_levels(spec)]
    for segment, (before, after) in zip(spec.segments, itertools.pairwise(levels), strict=True):
        follows, carries = _rules(spec, segment, before, after)
        c_in, c = before[:, None, None, None], after[:, None, None]
        k, m = np.array(segment.kernel)[:, None], np.array(segment.mid)
        admissible = follows[:, :, None, None] & carries[:, None, :]
        parts = [blocks.opening(segment, c_in, c, m, k), blocks.closing(segment, c)]
        if max(segment.depth) > 1:
            parts.append(blocks.repeated(segment, c, m, k))
        for operation in itertools.chain.from_iterable(operations(part, spec.device) for part in parts):
            missing = table.missing(operation) & admissible
            if missing.any():
                shape = len(before), len(after), len(k), len(m)
                at = tuple(np.argwhere(np.broadcast_to(missing, shape))[0])

                def width(amount: Any, shape: Any = shape, at: Any = at) -> int:
                    return int(np.broadcast_to(amount, shape)[at])

                first = operation._replace(
                    c_in=width(operation.c_in),
                    mid=width(operation.mid),
                    c_out=width(operation.c_out),
                    kernel=width(operation.kernel),
                )
                raise InputError(f"{spec.source}: {segment.name}: {table.lacks(first)}")
