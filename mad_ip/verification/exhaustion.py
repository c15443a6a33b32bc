"""Exhaustive enumeration of a space of at most 10^9 architectures: the proof that needs no solver.

Every architecture is *evaluated*, as one pair of a *prefix* (stem and first segments) and a *suffix* (the others) that
meet in the same number of channels, or *dropped*, since it continues a prefix that alone breaks a budget; both are
counted to the last one. There is no dominance: of two prefixes with equal channels both are kept. What of a pair is
computed, and why nothing more matters, is in docs/verification.md section 9.

How entropy splits: with ``S`` the log-width of the prefix, ``sigma_u`` the log-widths of the suffix's segments and
``g_t = alpha_t ln(f_t r_t^2 c_t)`` (times 1/2 in ``tinynas``),

    H = H_prefix + S * sum_{t in suffix} g_t + sum_{u in suffix} sigma_u sum_{t >= u} g_t.

What choices are worth by themselves is added to the ``H`` of the part that makes them.

Symbols: ``c_in``, ``c`` channels into and out of a segment; ``m`` inner width; ``k`` kernel; ``L`` depth in blocks;
``S``, ``D`` log-width and counted layers; ``H`` entropy; ``rho`` effectiveness; ``Q`` uniformity; ``beta`` its weight;
B budgets given, of those in :data:`mad_ip.cost.COSTS`.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mad_ip import blocks, entropy
from mad_ip.cost import Cost
from mad_ip.design import EFFECTIVENESS_TOLERANCE, Design, Metrics, parts, violations
from mad_ip.errors import InputError, InternalError
from mad_ip.spec import Choice, Path, Segment, Spec

__all__ = [
    "LIMIT",
    "MERGE",
    "Exhaustion",
    "Progress",
    "Proof",
    "architectures",
    "better",
    "check_costs",
    "describe",
    "exhaust",
    "own_cost",
    "own_utility",
    "prove",
    "realise",
    "score_slack",
]

LIMIT = 10**9
"""Architectures up to which a space is enumerated."""

_SUFFIXES = 400_000
"""Rows of the suffix tables: about 100 bytes each."""

_CHUNK = 2**17
"""Prefixes held at once per level, and pairs computed at once: what fits a cache."""

_PIECE = 2**15
"""Options of a stage computed at once."""

_LARGEST = 2**62
"""No cost may reach this: 64-bit sums and differences of costs stay exact below it."""

_SCORE_TOLERANCE = 1e-9
"""Relative difference up to which two scores are equal."""

_ROUNDING = 1e-12
"""Rounding of a score relative to its parts, which matters when these nearly cancel."""

MERGE = {"sum": np.add, "max": np.maximum}
"""How the costs of two parts of a network are one."""

Progress = Callable[[int, int], None]
"""Called now and then with the architectures met so far and their total; an exception that it raises ends the run."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Exhaustion:
    """What the enumeration found; ``design`` is ``None`` when nothing meets the budgets.

    ``architectures = evaluated + dropped`` is the size of the space, ``seconds`` the time it took.
    """

    score: float
    design: Design | None
    architectures: int
    evaluated: int
    dropped: int
    seconds: float


@dataclass(frozen=True)
class Proof:
    """The enumeration beside a design; ``reasons`` says why the design is not proven optimal, and is empty if it is."""

    exhaustion: Exhaustion
    reasons: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the design's score is the best there is, to 1e-9 relative."""
        return not self.reasons


def prove(spec: Spec, design: Design, progress: Progress | None = None) -> Proof:
    """Enumerate the space and compare the best score with that of ``design``, measured anew, to 1e-9 relative.

    Raises :class:`InputError` when the space is too large (see :func:`exhaust`). Whether the design is feasible is
    :func:`mad_ip.verification.audit.audit`'s to say.
    """
    exhaustion = exhaust(spec, progress)
    measured = design.measure(spec.objective)
    slack = score_slack(spec, measured)
    if exhaustion.design is None:
        return Proof(exhaustion, ("exhaustion: no architecture of the space meets the budgets",))
    if exhaustion.score > measured.score + slack:
        return Proof(exhaustion, (better("exhaustion", exhaustion.design, measured.score),))
    if exhaustion.score < measured.score - slack:
        best = f"{exhaustion.score!r} ({describe(exhaustion.design)})"
        return Proof(exhaustion, (f"exhaustion: the best is {best}; no feasible design has {measured.score!r}",))
    return Proof(exhaustion, ())


def describe(design: Design) -> str:
    """An architecture in words."""
    parts = []
    for segment, choice in zip(design.segments, design.path, strict=True):
        stage = segment.kind == "stage"
        parts.append("c{} m{} k{} L{}".format(*choice) if stage else f"{segment.kind} {choice.channels}")
    return ", ".join(parts)


def better(method: str, design: Design, score: float) -> str:
    """The sentence that says what better design a method has found than one of ``score``."""
    return f"{method}: {describe(design)} scores {design.metrics.score!r}, better than the design's {score!r}"


def architectures(spec: Spec) -> int:
    """Number of architectures that satisfy the domains and the ``[space]`` rules, budgets ignored: a Python integer.

    Counted from the last segment backwards: from ``c_in`` channels on there are as many completions as the options of
    every ``c`` that may follow, times the completions from ``c`` on.
    """
    return sum(_completions(_segments(spec))[0].values())


def exhaust(spec: Spec, progress: Progress | None = None) -> Exhaustion:
    """The architecture of the highest score within the budgets, by enumeration.

    Costs are compared with their budgets as exact integers, effectiveness within
    :data:`mad_ip.design.EFFECTIVENESS_TOLERANCE` relative. The best is measured anew from its layers and checked
    against the spec before it is returned.

    Memory is bounded whatever the spec: suffix tables of some 400,000 rows, chunks of 131,072 prefixes per level.

    Raises :class:`InputError` when the space holds more than ``LIMIT`` architectures or costs pass 64 bits,
    :class:`InternalError` when the enumeration contradicts the design's own measurement or missed an architecture.
    """
    return _Enumeration(spec, progress).run()


def own_cost(
    cost: Cost, first: Sequence[blocks.Layer], rest: Sequence[blocks.Layer], head: Sequence[blocks.Layer], depth: Any
) -> Any:
    """What a segment of ``depth`` blocks costs by itself, its layers as in :meth:`mad_ip.cost.Cost.of_segment`."""
    merge = MERGE[cost.combine]
    once: Any = functools.reduce(merge, [*cost.terms(first, True), *cost.terms(head, True)], 0)
    again: Any = functools.reduce(merge, cost.terms(rest, False) if np.max(depth, initial=1) > 1 else (), 0)
    times = depth - 1 if cost.combine == "sum" else depth > 1
    return merge(once, times * again)


def check_costs(spec: Spec) -> None:
    """Raise :class:`InputError` when costs pass what 64-bit integers sum exactly."""
    total = 0
    for segment in spec.segments:
        c, m, k, depth = (max(d) for d in (segment.channels, segment.mid, segment.kernel, segment.depth))
        # Unequal channels, so that a projection is counted.
        first = blocks.opening(segment, max(segment.sources) + c, c, m, k)
        rest, head = blocks.repeated(segment, c, m, k), blocks.closing(segment, c)
        for key, cost in spec.costs.items():
            if cost.of_device is not None and key not in spec.budget.given:
                continue
            # Python integers have no limit; no maximum passes the sum.
            once, again = [*cost.largest(first, True), *cost.largest(head, True)], cost.largest(rest, False)
            total += int(sum(once) + depth * sum(again))
    if total >= _LARGEST:
        raise InputError(f"{spec.source}: costs of up to {total} pass 64-bit integers, which cannot sum them")


def own_utility(facts: Segment, c: Integers, m: Integers, k: Integers, depth: Integers) -> Floats:
    """What choices of a segment, from its domains, are worth by themselves."""
    worth = np.zeros(len(c))
    if facts.utility is None:
        return worth
    for term, domain, values in (
        (facts.utility.channels, facts.channels, c),
        (facts.utility.mid, facts.mid, m),
        (facts.utility.kernel, facts.kernel, k),
        (facts.utility.depth, facts.depth, depth),
    ):
        if term is not None:
            table = dict(term.table)
            smooth = (term.log * math.log(x) + term.linear * x + term.square * x * x for x in domain)
            known = np.array([table[x] for x in domain] if table else list(smooth))
            worth += known[np.searchsorted(domain, values)]
    return worth


def score_slack(spec: Spec, metrics: Metrics) -> float:
    """Difference up to which another score of a spec counts as equal: 1e-9 relative, for rounding alone."""
    return max(_SCORE_TOLERANCE * abs(metrics.score), _ROUNDING * parts(spec, metrics))


def realise(spec: Spec, path: Path, score: float) -> Design:
    """The design of a path that was found to be feasible with ``score``, measured anew from its layers.

    Raises :class:`InternalError` when it is not feasible or measures another score.
    """
    design = Design.chosen(spec, path)
    broken = violations(spec, design)
    if broken:
        raise InternalError(f"verification found a design that is not feasible: {'; '.join(broken)}")
    if abs(design.metrics.score - score) > score_slack(spec, design.metrics):
        raise InternalError(f"verification scored a design {score!r} that measures {design.metrics.score!r}")
    return design


@dataclass(frozen=True)
class _Options:
    """Options of one segment between two channel counts, flat over (m, k, L); ``depth`` is 0 if not penalised.

    ``costs`` (B, options) are by themselves, ``worth`` is their utility.
    """

    costs: Integers
    layers: Integers
    log_width: Floats
    worth: Floats
    depth: Integers

    def __len__(self) -> int:
        return len(self.layers)


@dataclass(frozen=True)
class _Segment:
    """A segment of a spec with what its rules leave."""

    spec: Spec
    facts: Segment

    def following(self, c_in: int) -> list[int]:
        """The channels that may follow ``c_in``."""
        space = self.spec.space
        return [c for c in self.facts.channels if not self.facts.ruled or space.follows(c_in, c)]

    def mids(self, c: int) -> Integers:
        """The inner widths that go with ``c`` channels."""
        mids = np.array(self.facts.mid, np.int64)
        carried: Integers = mids[np.asarray(self.spec.space.carries(mids, c))] if self.facts.ruled else mids
        return carried

    def shape(self, c: int) -> tuple[int, int, int]:
        """Numbers of inner widths, kernels and depths that go with ``c`` channels."""
        return len(self.mids(c)), len(self.facts.kernel), len(self.facts.depth)

    def decode(self, c: int, option: int) -> Choice:
        """The choice that an option is."""
        m, k, depth = (int(place) for place in np.unravel_index(option, self.shape(c)))
        return Choice(c, int(self.mids(c)[m]), self.facts.kernel[k], self.facts.depth[depth])

    def gain(self, c: int) -> float:
        """``alpha ln(f r^2 c)``, with the convention's factor."""
        facts = self.facts
        gain = float(entropy.entropy_gain(facts.weight, facts.out_size, c, facts.time.out_frames))
        return entropy.entropy_factor(self.spec.convention, self.spec.objective.entropy) * gain

    def options(self, budgets: Sequence[Cost], c_in: int, c: int, low: int, high: int) -> _Options:
        """The options ``low <= o < high`` of the flat list."""
        m_at, k_at, depth_at = np.unravel_index(np.arange(low, high), self.shape(c))
        m, depth = self.mids(c)[m_at], np.array(self.facts.depth, np.int64)[depth_at]
        k = np.array(self.facts.kernel, np.int64)[k_at]
        first, rest = blocks.opening(self.facts, c_in, c, m, k), blocks.repeated(self.facts, c, m, k)
        head = blocks.closing(self.facts, c)
        repeats = depth - 1
        costs = np.empty((len(budgets), high - low), np.int64)
        for row, cost in zip(costs, budgets, strict=True):
            row[:] = own_cost(cost, first, rest, head, depth)
        return _Options(
            costs=costs,
            layers=entropy.count(first) + repeats * entropy.count(rest),
            log_width=entropy.log_width_product(first) + repeats * entropy.log_width_product(rest),
            worth=own_utility(self.facts, np.full_like(m, c), m, k, depth),
            depth=depth if self.facts.penalised else np.zeros_like(depth),
        )


def _segments(spec: Spec) -> list[_Segment]:
    return [_Segment(spec, facts) for facts in spec.segments]


def _completions(segments: Sequence[_Segment]) -> list[dict[int, int]]:
    """For every t and every channel count before segment t, how many completions there are (nodes with none left out).

    Nodes are those that the domains have, reached or not.
    """
    ways = [dict.fromkeys(segments[-1].facts.channels, 1)]
    for segment in reversed(segments):
        ahead = {c: math.prod(segment.shape(c)) * number for c, number in ways[0].items()}
        here = {c_in: sum(ahead.get(c, 0) for c in segment.following(c_in)) for c_in in segment.facts.sources}
        ways.insert(0, {c_in: number for c_in, number in here.items() if number > 0})
    return ways


@dataclass(frozen=True)
class _Suffixes:
    """All completions from before one segment on, the rows of each ``c_in`` together (``rows``).

    ``H`` is their entropy without what the prefix's log-width adds, ``gain`` is what one unit of that adds. ``option``,
    ``c`` and ``child`` (a row of the next table) say what the row is; ``own_*`` belong to its first segment alone.
    """

    rows: dict[int, slice]
    costs: Integers
    H: Floats
    gain: Floats
    depths: Integers
    squares: Integers
    own_layers: Integers
    own_log_width: Floats
    option: Integers
    c: Integers
    child: Integers


@dataclass(frozen=True)
class _Prefixes:
    """Networks up to the end of a segment, all with ``c`` channels; ``rho`` is the largest so far, where it is bounded.

    ``parent`` and ``row`` lead back to the prefix that each extends by ``option``.
    """

    c: int
    costs: Integers
    layers: Integers
    H: Floats
    log_width: Floats
    depths: Integers
    squares: Integers
    rho: Floats
    parent: _Prefixes | None
    row: Integers
    option: Integers

    def __len__(self) -> int:
        return len(self.layers)


class _Enumeration:
    """One run: the tables, and the best architecture so far."""

    def __init__(self, spec: Spec, progress: Progress | None) -> None:
        self.spec, self.progress = spec, progress
        self.segments = _segments(spec)
        self.ways = _completions(self.segments)
        self.total = sum(self.ways[0].values())
        if self.total > LIMIT:
            raise InputError(
                f"{spec.source}: the space holds {self.total} architectures; exhaustion takes at most {LIMIT}"
            )
        check_costs(spec)
        limits = {key: limit for key, limit in spec.budget.given.items() if key in spec.costs}
        self.budgets = [spec.costs[key] for key in limits]
        self.limits = [min(math.floor(limit), _LARGEST) for limit in limits.values()]
        rho = spec.budget.effectiveness
        self.rho = None if rho is None else rho * (1 + EFFECTIVENESS_TOLERANCE)
        self.beta = spec.objective.depth_penalty
        self.penalised = sum(segment.facts.penalised for segment in self.segments)
        self.evaluated = self.dropped = 0
        self.score = -math.inf
        self.path: Path | None = None
        self.options = functools.lru_cache(maxsize=64)(self._options)
        self.space = np.empty(_CHUNK)

    def run(self) -> Exhaustion:
        began = time.perf_counter()
        reached = self._reached()
        rows = [sum(ways[c] for c in nodes) for ways, nodes in zip(self.ways, reached, strict=True)]
        last = len(self.segments)
        # The longest suffixes whose table is small enough: the fewest prefixes to loop over.
        self.split = next((t for t, number in enumerate(rows) if number <= _SUFFIXES), last)
        self.tables = [self._ends(reached[last])]
        for t in range(last - 1, self.split - 1, -1):
            self.tables.insert(0, self._suffixes(t, reached[t], self.tables[0]))
        self._extend(0, self._empty())
        if self.evaluated + self.dropped != self.total:
            raise InternalError(f"exhaustion met {self.evaluated + self.dropped} architectures of {self.total}")
        design = None if self.path is None else realise(self.spec, self.path, self.score)
        score = -math.inf if design is None else design.metrics.score
        seconds = time.perf_counter() - began
        return Exhaustion(score, design, self.total, self.evaluated, self.dropped, seconds)

    def _reached(self) -> list[list[int]]:
        """For every t the channel counts before segment t that a whole network passes."""
        reached = [sorted(self.ways[0])]
        for segment, ways in zip(self.segments, self.ways[1:], strict=True):
            nodes = {c for c_in in reached[-1] for c in segment.following(c_in) if c in ways and segment.shape(c)[0]}
            reached.append(sorted(nodes))
        return reached

    def _options(self, t: int, c_in: int, c: int, low: int, high: int) -> _Options:
        return self.segments[t].options(self.budgets, c_in, c, low, high)

    def _merged(self, before: Integers, first: Integers, after: Integers, second: Integers) -> Integers:
        """The costs (B, rows) of the columns ``first`` of ``before`` with the columns ``second`` of ``after``."""
        merged = np.empty((len(self.budgets), len(first)), np.int64)
        for row, cost, left, right in zip(merged, self.budgets, before, after, strict=True):
            MERGE[cost.combine](left[first], right[second], out=row)
        return merged

    # Suffixes

    def _ends(self, nodes: Sequence[int]) -> _Suffixes:
        """Nothing more to come: one empty row per channel count."""
        rows = {c: slice(row, row + 1) for row, c in enumerate(nodes)}
        whole, real = np.zeros(len(nodes), np.int64), np.zeros(len(nodes))
        costs = np.zeros((len(self.budgets), len(nodes)), np.int64)
        return _Suffixes(rows, costs, real, real, whole, whole, whole, real, whole, whole, whole - 1)

    def _suffixes(self, t: int, nodes: Sequence[int], after: _Suffixes) -> _Suffixes:
        """Every option of segment t before every completion in ``after``."""
        segment = self.segments[t]
        columns: list[tuple[NDArray[Any], ...]] = []
        rows: dict[int, slice] = {}
        number = 0
        for c_in in nodes:
            start = number
            for c in segment.following(c_in):
                count = math.prod(segment.shape(c))
                if count == 0 or c not in after.rows:
                    continue
                options = self._options(t, c_in, c, 0, count)
                child = np.arange(after.rows[c].start, after.rows[c].stop)
                o = np.repeat(np.arange(count), len(child))
                child = np.tile(child, count)
                gain = segment.gain(c) + after.gain[child]
                depth, sigma = options.depth[o], options.log_width[o]
                columns.append(
                    (
                        self._merged(options.costs, o, after.costs, child),
                        sigma * gain + options.worth[o] + after.H[child],
                        gain,
                        depth + after.depths[child],
                        depth**2 + after.squares[child],
                        options.layers[o],
                        sigma,
                        o,
                        np.full(len(o), c),
                        child,
                    )
                )
                number += len(o)
            rows[c_in] = slice(start, number)
        return _Suffixes(rows, *(np.concatenate(column, axis=-1) for column in zip(*columns, strict=True)))

    # Prefixes

    def _empty(self) -> _Prefixes:
        """The network without a segment."""
        whole, real = np.zeros(1, np.int64), np.zeros(1)
        costs = np.zeros((len(self.budgets), 1), np.int64)
        return _Prefixes(
            self.spec.input.channels, costs, whole, real, real, whole, whole, real, parent=None, row=whole, option=whole
        )

    def _extend(self, t: int, prefixes: _Prefixes) -> None:
        """Every way on from ``prefixes``, which end before segment t."""
        if t == self.split:
            self._join(prefixes)
            return
        for c in self.segments[t].following(prefixes.c):
            ways = self.ways[t + 1].get(c, 0)
            count = math.prod(self.segments[t].shape(c)) if ways else 0
            for low in range(0, count, _PIECE):
                options = self.options(t, prefixes.c, c, low, min(low + _PIECE, count))
                step = _CHUNK // len(options)
                for start in range(0, len(prefixes), step):
                    rows = np.arange(start, min(start + step, len(prefixes)))
                    longer = self._appended(t, prefixes, rows, c, options, low)
                    dropped = len(rows) * len(options) - len(longer)
                    if dropped:
                        self.dropped += dropped * ways
                        self._report()
                    if len(longer):
                        self._extend(t + 1, longer)

    def _appended(self, t: int, before: _Prefixes, rows: Integers, c: int, options: _Options, low: int) -> _Prefixes:
        """``rows`` of ``before`` times ``options``, without those over a budget already."""
        segment = self.segments[t]
        row = np.repeat(rows, len(options))
        o = np.tile(np.arange(len(options)), len(rows))
        kept = np.ones(len(row), bool)
        costs = self._merged(before.costs, row, options.costs, o)
        for limit, spent in zip(self.limits, costs, strict=True):
            kept &= spent <= limit
        layers = before.layers[row] + options.layers[o]
        log_width = before.log_width[row] + options.log_width[o]
        rho = before.rho[row]
        if self.rho is not None and segment.facts.bounded:
            rho = np.maximum(rho, entropy.ratio(layers, log_width))
            kept &= rho <= self.rho
        depth = options.depth[o]
        return _Prefixes(
            c,
            costs=costs.compress(kept, axis=1),
            layers=layers[kept],
            H=(before.H[row] + segment.gain(c) * log_width + options.worth[o])[kept],
            log_width=log_width[kept],
            depths=(before.depths[row] + depth)[kept],
            squares=(before.squares[row] + depth**2)[kept],
            rho=rho[kept],
            parent=before,
            row=row[kept],
            option=o[kept] + low,
        )

    # Pairs

    def _join(self, prefixes: _Prefixes) -> None:
        """Every prefix with every suffix that starts from its channels."""
        rows = self.tables[0].rows[prefixes.c]
        number = rows.stop - rows.start
        # NumPy is fast along the last axis: the longer side goes there.
        width = min(max(number, len(prefixes)), _CHUNK // 8)
        height = _CHUNK // width
        suffix_last = number >= len(prefixes)
        suffix_step, prefix_step = (width, height) if suffix_last else (height, width)
        for first in range(rows.start, rows.stop, suffix_step):
            suffixes = slice(first, min(first + suffix_step, rows.stop))
            for start in range(0, len(prefixes), prefix_step):
                self._evaluate(prefixes, slice(start, min(start + prefix_step, len(prefixes))), suffixes, suffix_last)
        self.evaluated += number * len(prefixes)
        self._report()

    def _evaluate(self, prefixes: _Prefixes, which: slice, rows: slice, suffix_last: bool) -> None:
        """A block of pairs: cheap tests on all, the rest on those that may improve on the best."""
        table = self.tables[0]

        def left(column: NDArray[Any]) -> NDArray[Any]:
            return column[which, None] if suffix_last else column[None, which]

        def right(column: NDArray[Any]) -> NDArray[Any]:
            return column[None, rows] if suffix_last else column[rows, None]

        mask = None
        for cost, limit, spent, more in zip(self.budgets, self.limits, prefixes.costs, table.costs, strict=True):
            # A maximum that the prefix keeps, the pair keeps where the suffix does.
            room = limit - (cost.combine == "sum") * left(spent)
            fits = right(more) <= room
            mask = fits if mask is None else np.logical_and(mask, fits, out=mask)
            if not mask.any():
                return
        shape = np.broadcast_shapes(left(prefixes.H).shape, right(table.H).shape)
        added = self.space[: math.prod(shape)].reshape(shape)
        np.multiply(left(prefixes.log_width), right(table.gain), out=added)
        added += right(table.H)
        # Q >= 1: what does not pass best + beta without its penalty does not pass best with it.
        needed = self.score + self.beta - left(prefixes.H)
        better = added > needed
        mask = better if mask is None else np.logical_and(mask, better, out=mask)
        pairs = np.flatnonzero(mask)
        if len(pairs):
            above, along = np.divmod(pairs, shape[1])
            p, row = (above, along) if suffix_last else (along, above)
            self._compare(prefixes, p + which.start, row + rows.start, added.ravel()[pairs])

    def _compare(self, prefixes: _Prefixes, p: Integers, row: Integers, added: Floats) -> None:
        """Score of the pairs given, then effectiveness of those that improve; keep the best.

        ``added`` is what the suffix adds to the entropy of the prefix.
        """
        score = prefixes.H[p] + added - self._penalty(prefixes, p, row)
        improves = score > self.score
        p, row, score = p[improves], row[improves], score[improves]
        if self.rho is not None:
            fits = self._effectiveness(prefixes, p, row) <= self.rho
            p, row, score = p[fits], row[fits], score[fits]
        if len(score) == 0:
            return
        best = int(np.argmax(score))
        self.score = float(score[best])
        self.path = self._path(prefixes, int(p[best]), int(row[best]))

    def _penalty(self, prefixes: _Prefixes, p: Integers, row: Integers) -> Any:
        table = self.tables[0]
        total = prefixes.depths[p] + table.depths[row]
        spread = self.penalised * (prefixes.squares[p] + table.squares[row]) - total**2
        return entropy.penalty_of(spread, self.penalised, self.beta, self.spec.convention)

    def _effectiveness(self, prefixes: _Prefixes, p: Integers, row: Integers) -> Floats:
        """The largest ``rho`` where it is bounded."""
        depth, log_width, rho = prefixes.layers[p], prefixes.log_width[p], prefixes.rho[p]
        for segment, table in zip(self.segments[self.split :], self.tables, strict=False):
            depth = depth + table.own_layers[row]
            log_width = log_width + table.own_log_width[row]
            if segment.facts.bounded:
                rho = np.maximum(rho, entropy.ratio(depth, log_width))
            row = table.child[row]
        return rho

    # The answer

    def _path(self, prefixes: _Prefixes, p: int, row: int) -> Path:
        choices: list[tuple[int, int]] = []
        here = prefixes
        while here.parent is not None:
            choices.insert(0, (here.c, int(here.option[p])))
            p = int(here.row[p])
            here = here.parent
        for table in self.tables[:-1]:
            choices.append((int(table.c[row]), int(table.option[row])))
            row = int(table.child[row])
        return tuple(segment.decode(*choice) for segment, choice in zip(self.segments, choices, strict=True))

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(self.evaluated + self.dropped, self.total)
