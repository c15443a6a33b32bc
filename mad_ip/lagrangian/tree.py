"""Branch and bound over boxes, and the tree that it leaves as a certificate.

A node of the tree is a box. It is *empty* (no path of channels, or no total of depths), a *point* (one architecture,
judged exactly), a *leaf* (multipliers give a bound on it), *trimmed* (multipliers show that values outside a smaller
box cannot pass the target), or *split* in two. The tree covers the space by construction, so that replaying it needs no
search: one evaluation for every leaf, one pass forward and backward for every trim.

A fixed number of boxes is being examined at any time, best bound first, and what was found is looked at in the order in
which they were begun: the result does not depend on how many workers share them.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mad_ip.lagrangian.box import AXES, Axis, Box, whole
from mad_ip.lagrangian.dual import EVALUATIONS, Dual, minimise
from mad_ip.lagrangian.passes import Traces
from mad_ip.lagrangian.program import Bound, Program, Relaxation, path_of, relaxed
from mad_ip.lagrangian.tables import Floats
from mad_ip.spec import Path

__all__ = [
    *("THIN", "Judge", "Workers", "branch_and_bound", "examine", "guessed"),
    *("Examined", "Node", "Reopened", "State", "Task", "Tree", "Trim"),
]

Judge = Callable[[Path], float]
"""The exact score of an architecture, minus infinity when it breaks a budget."""

Workers = Callable[["Task", Callable[[], bool]], Callable[[], "Examined"]]
"""Takes on a task, to be examined until told to stop, and returns what is called for its result, in the order of the
tasks."""

Cut = tuple[Axis | Literal["total"], int, int]
"""Axis, segment, and the last value of the lower part."""

_TOTALS = 8
"""Parts of the range of the depths' sum that a split makes: the penalty's bound over a range is loose at first."""

_BEGUN = 24
"""Boxes that are begun before the result of the first is looked at: nobody who shares them waits for another."""

_WORTH = 0.8
"""A box is bounded anew where trimming leaves at most this share of its values."""

_DEPTH = 4.0
"""Log-width of a block, roughly: what one more of depth is worth beside a change of widths."""

_TRIED, _TRIES = 6, 2
"""Cuts of a small box that are tried before one is made, and evaluations after the first of each part."""

_CLEAR = 1e-3
"""Excess of a bound over the target, relatively, below which a box is cut without a trial."""

_GAIN = 1e-3
"""Share of what lies between bound and target that a part gains at least, being smaller: the product of both counts."""

THIN = 20
"""Widths of every choice in the part of a large box that is tried first."""

_NEAR = 1e-3
"""How far below the target, relatively, a path is still looked at."""

_CORRECTIONS = 2
"""Evaluations of the whole box after that."""

_ROUGH = 10
"""Evaluations after the first by groups of widths."""

_KNOWN = 24
"""Paths that the parts of a box get to know."""


@dataclass
class Node:
    """A node of the tree; ``kind`` is open, empty, point, leaf, trim or split; ``box`` as its parent left it.

    ``value`` bounds all of the box, ``dropped`` what a trim takes from it.
    """

    box: Box
    kind: str = "open"
    multipliers: Floats | None = None
    tangents: tuple[float, ...] = ()
    value: float = math.inf
    dropped: float = -math.inf
    split: Cut | None = None
    children: list[Node] = field(default_factory=list)

    def reopen(self) -> None:
        """Forget what is known of it."""
        self.kind, self.value, self.dropped = "open", math.inf, -math.inf
        self.multipliers, self.tangents, self.split, self.children = None, (), None, []

    def settle(self, kind: str, bound: Bound) -> None:
        """Become a leaf or a trim by a bound."""
        self.kind, self.value = kind, bound.value
        self.multipliers, self.tangents = bound.multipliers, bound.tangents


@dataclass(frozen=True)
class Reopened:
    """A tree for other limits: what is ``open`` may pass the target, each box with a bound.

    ``settled`` bounds all other designs but the points, of which ``judged`` is the best one's score.
    """

    root: Node
    open: tuple[tuple[Node, Bound], ...]
    settled: float
    judged: float


@dataclass(frozen=True)
class State:
    """How far branch and bound is: boxes examined, boxes left, seconds.

    ``bound`` holds for the whole space, ``unjudged`` for the designs that ``judge`` was not asked about, ``settled``
    for those that are in no box left.
    """

    bound: float
    unjudged: float
    settled: float
    nodes: int
    open: int
    seconds: float


@dataclass(frozen=True)
class Tree:
    """The tree, the bound that it proves, the boxes that are left, each with a bound, and the points judged."""

    root: Node
    state: State
    left: tuple[tuple[Box, Bound], ...]
    points: tuple[Path, ...]

    def holding(self, path: Path, size: int) -> Node:
        """The first node whose box holds a path and has at most ``size`` values, or else the last that holds it."""
        node = self.root
        while node.box.size > size and (
            child := next((child for child in node.children if child.box.holds(path)), None)
        ):
            node = child
        return node


@dataclass(frozen=True)
class Task:
    """A box to bound, and to shrink and cut where its bound passes ``target``.

    ``above`` bounds the box around it; ``start`` has the multipliers to begin with, ``known`` are paths of it. A large
    box is first shrunk to what may come within ``slack`` of the target.
    """

    box: Box
    above: Bound | None
    start: Bound | None
    known: Traces | None
    target: float
    slack: float = 0.0


@dataclass(frozen=True)
class Trim:
    """A bound whose multipliers shrink a box to ``box``; no design outside it scores more than ``dropped``."""

    bound: Bound
    box: Box
    dropped: float


@dataclass(frozen=True)
class Examined:
    """What a task found: how the box shrank, and of what is left that it is empty, a point, or bounded by ``bound``.

    Where that passes the target, ``cuts`` are where to split, ascending, none where it was stopped, ``start`` has the
    multipliers to begin with there, and ``known`` are paths that matter; ``candidates`` are paths that may be designs,
    the maximising one first, none where it was stopped before an evaluation.
    """

    kind: Literal["empty", "point", "leaf"]
    trims: tuple[Trim, ...]
    bound: Bound | None = None
    start: Bound | None = None
    cuts: tuple[Cut, ...] = ()
    known: Traces | None = None
    candidates: tuple[Path, ...] = ()


def branch_and_bound(
    relaxation: Relaxation,
    target: Callable[[], float],
    judge: Judge,
    *,
    consider: Callable[[Path], object] | None = None,
    explore: Callable[[Path, Bound], None] = lambda *_: None,
    workers: Workers | None = None,
    most: float = math.inf,
    seconds: float = math.inf,
    watch: Callable[[State], bool] = lambda _: False,
    stop: Callable[[], bool] = lambda: False,
    slack: float = 0.0,
    begun: Reopened | None = None,
) -> Tree:
    """Branch, best bound first, until no box can pass ``target()``, or until ``watch`` or the time says stop.

    ``judge`` is asked about boxes of one architecture; ``consider``, by default ``judge``, is told of paths on the way
    that keep all priced constraints, and ``explore`` of the maximising paths of boxes, with the bounds that they hold
    up: good designs are near.
    ``workers`` examine the tasks; by default this thread does. What is open after ``most`` boxes is left. ``watch`` is
    told the state after every box; ``stop`` is asked at any moment, by any thread. A tree that is to be used for other
    limits shrinks large boxes with a ``slack``, relative to the target, so that they need not be opened again soon;
    ``begun`` is such a tree (:func:`mad_ip.lagrangian.reuse.reopened`).
    """
    workers = workers or (lambda task, stopped: functools.partial(examine, relaxation, task, stop=stopped))
    run = _Search(relaxation, target, judge, consider or judge, explore, workers, most, seconds, watch, stop, slack)
    return run.run(begun)


def examine(relaxation: Relaxation, task: Task, *, stop: Callable[[], bool] = lambda: False) -> Examined:
    """Bound one box, and shrink it as long as that pays.

    Told to ``stop``, keep the bound that is known of it; without one, it takes one evaluation.
    """
    trims: list[Trim] = []
    left, above, start, known = task.box, task.above, task.start, task.known
    candidates: dict[Path, None] = {}
    rough = True
    while True:
        if above is not None and stop():
            return Examined("leaf", tuple(trims), above, candidates=tuple(candidates))
        program = relaxed(relaxation, left)
        if program is None:
            return Examined("empty", tuple(trims))
        box = program.box
        if box.point is not None:
            return Examined("point", tuple(trims), candidates=(box.point,))
        kept = task.target - task.slack if program.is_large else task.target
        first: Dual | None = None
        if program.is_large and not (thin := Program(relaxation, box.thinned(THIN))).is_empty:
            # A part of the grid has much the same multipliers, for a fraction of the work; its paths are paths here.
            first = minimise(thin, start, known, target=task.target, stop=stop)
            if first.best.path is not None:
                start, known = first.best, first.active(_KNOWN, known)
                candidates = dict.fromkeys([first.best.path, *candidates])
        if program.is_large and rough:
            groups = program.grouped()
            found = _roughly(groups, start, known, task, stop)
            if found.value == -math.inf:
                return Examined("empty", tuple(trims))
            if above is None or found.value < above.value:
                above = found
            if found.value <= task.target:
                if kept < found.value and box.first == box.last:
                    trims += _trims(groups, found, [kept])
                return Examined("leaf", tuple(trims), found, candidates=tuple(candidates))
            if stop():
                return Examined("leaf", tuple(trims), above, candidates=tuple(candidates))
            trims += (smaller := _shrunk(groups, found, kept, task.target))
            if smaller:
                tight = smaller[-1].box.tightened
                if tight is None:
                    return Examined("empty", tuple(trims))
                left, rough = tight, tight.size <= _WORTH * box.size
                continue
        if first is not None and first.best.value > task.target and above is not None and box.first < box.last:
            # Whatever the multipliers, the whole box is bounded no better than a part of it: one bound is enough.
            return Examined("leaf", tuple(trims), above, start, tuple(_cuts(box, first)), known, tuple(candidates))
        evaluations = _CORRECTIONS if program.is_large else EVALUATIONS
        dual = minimise(program, start, known, target=task.target, evaluations=evaluations, stop=stop)
        best = dual.best
        if above is not None and best.value > above.value:
            if stop():
                return Examined("leaf", tuple(trims), above, candidates=tuple(candidates))
            # Others than the best multipliers of a box may be the best of its part; those of the box still hold there.
            best = program.evaluate(above.multipliers, above.tangents)
        if best.path is None:
            return Examined("empty", tuple(trims))
        candidates = dict.fromkeys([best.path, *_promising(program, dual.traces, task.target), *candidates])
        if best.value <= task.target or stop():
            if kept < best.value <= task.target and box.first == box.last:
                trims += _trims(program, best, [kept])
            return Examined("leaf", tuple(trims), best, candidates=tuple(candidates))
        known, above, start = dual.active(_KNOWN), best, best
        trims += (smaller := _shrunk(program, best, kept, task.target))
        if (tight := (smaller[-1].box if smaller else box).tightened) is None:
            return Examined("empty", tuple(trims))
        left = tight
        if left.size > _WORTH * box.size:
            break
    cuts = _cuts(left, dual)
    if left.first == left.last:
        tried = not relaxation.is_large(left) and best.value - task.target > _CLEAR * abs(task.target)
        cuts = [_best_cut(relaxation, left, cuts[:_TRIED], dual, task.target, stop) if tried else cuts[0]]
    return Examined("leaf", tuple(trims), best, best, tuple(cuts), known, tuple(candidates))


def _roughly(groups: Program, start: Bound | None, known: Traces | None, task: Task, stop: Callable[[], bool]) -> Bound:
    """A bound by groups of widths, whose path is none."""
    best = minimise(groups, start, known, target=task.target, evaluations=_ROUGH, stop=stop).best
    return dataclasses.replace(best, path=None)


def _shrunk(program: Program, best: Bound, kept: float, target: float) -> list[Trim]:
    """What a bound takes from a box that passes the target: what is below ``kept``, and then below the target."""
    trims = _trims(program, best, sorted({kept, target}))
    if kept < target and len(trims) == 2 and program.relaxation.is_large(trims[-1].box):
        # What is dropped just below the target has to be opened again by whoever uses the tree.
        trims.pop()
    return trims


def guessed(relaxation: Relaxation, box: Box) -> Bound | None:
    """A bound on a box by itself."""
    program = relaxed(relaxation, box)
    return None if program is None else minimise(program, None, None, target=-math.inf).best


def _promising(program: Program, traces: Traces, target: float) -> Iterator[Path]:
    """The paths that, by their tables, keep the budgets and come near the target."""
    layers = np.cumsum(program.tables.layers * traces.choices[:, :, 3], axis=1)[:, program.relaxation.bounded]
    fits = (traces.log_widths >= layers * (np.log(layers) - program.relaxation.log_ratio)).all(axis=1)
    fits &= (traces.spent <= 1).all(axis=1) & (traces.worth > target - _NEAR * abs(target))
    for number in np.flatnonzero(fits):
        path = path_of(traces.choices[number])
        if traces.worth[number] - program.depth_penalty(path) > target - _NEAR * abs(target):
            yield path


def _trims(program: Program, best: Bound, targets: list[float]) -> list[Trim]:
    """The box without the values that cannot pass the first of ascending ``targets``, of what is left without those
    that cannot pass the next, and so on, each with a bound on the designs that take one of those.
    """
    box, trims = program.box, []
    bounds = list(program.value_bounds(best, targets[0]))
    for target in targets:
        smaller, dropped = box, -math.inf
        for s, (by_axis, below) in enumerate(bounds):
            for axis, values in zip(AXES, by_axis, strict=True):
                worth = dict(zip(getattr(program.box, axis)[s], values.tolist(), strict=True))
                domain = getattr(box, axis)[s]
                kept = tuple(value for value in domain if worth[value] > target)
                if len(kept) < len(domain):
                    dropped = max(dropped, below, *(worth[value] for value in domain if worth[value] <= target))
                    smaller = smaller.restricted(axis, s, kept)
        if smaller != box:
            trims.append(Trim(best, smaller, dropped))
            box = smaller
    return trims


def _cuts(box: Box, dual: Dual) -> list[Cut]:
    """Where to cut, the most promising first: the range of the total, as long as it is one, in several places at once;
    else one of the choices in which the paths that hold up the bound differ.
    """
    if box.first < box.last:
        ends = np.linspace(box.first - 1, box.last, min(_TOTALS, box.last - box.first + 1) + 1)
        return [("total", 0, int(at)) for at in np.floor(ends[1:-1])]
    active = dual.weights > 1e-6
    weights, choices = dual.weights[active], dual.traces.choices[active]
    weights /= weights.sum()
    found: list[tuple[float, Cut]] = []
    for s in range(len(box.channels)):
        values = choices[:, s].astype(float)
        depth = float(weights @ values[:, 3])
        for position, axis in enumerate(AXES):
            domain = getattr(box, axis)[s]
            column = values[:, position]
            effect = column * _DEPTH if axis == "depth" else np.log(column) * depth
            spread = float(weights @ np.abs(effect - weights @ effect))
            if len(domain) > 1 and spread > 0:
                lower = [value for value in domain[:-1] if value <= weights @ column]
                found.append((spread, (axis, s, lower[-1] if lower else domain[0])))
    if not found:
        # All agree: the widest choice.
        _, axis, s = max((len(getattr(box, axis)[s]), axis, s) for axis in AXES for s in range(len(box.channels)))
        domain = getattr(box, axis)[s]
        return [(axis, s, domain[len(domain) // 2 - 1])]
    return [cut for _, cut in sorted(found, key=lambda entry: -entry[0])]


def _best_cut(
    relaxation: Relaxation, box: Box, cuts: list[Cut], dual: Dual, target: float, stop: Callable[[], bool]
) -> Cut:
    """The cut whose parts lose most of their bound in a few evaluations: trees are smaller for it than for a guess."""
    best, most = dual.best, dual.best.value - target
    tried: list[tuple[float, Cut]] = []
    for cut in cuts:
        gains = []
        for part in box.split(*cut):
            program = relaxed(relaxation, part)
            value = target
            if program is not None:
                value = minimise(program, best, dual.traces, target=target, evaluations=_TRIES, stop=stop).best.value
            gains.append(min(max(best.value - value, _GAIN * most), most))
        tried.append((gains[0] * gains[1], cut))
        if min(gains) == most or stop():
            break
    return max(tried, key=lambda entry: entry[0])[1]


@dataclass
class _Search:
    """A run of :func:`branch_and_bound`, whose arguments come first."""

    relaxation: Relaxation
    target: Callable[[], float]
    judge: Judge
    consider: Callable[[Path], object]
    explore: Callable[[Path, Bound], None]
    workers: Workers
    most: float
    seconds: float
    watch: Callable[[State], bool]
    stop: Callable[[], bool]
    slack: float
    left: list[tuple[Box, Bound]] = field(default_factory=list)
    points: list[Path] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    queue: list[tuple[float, int, Node, Task]] = field(default_factory=list)
    begun: deque[tuple[Node, Task, Callable[[], Examined]]] = field(default_factory=deque)
    order: Iterator[int] = field(default_factory=itertools.count)
    settled: float = -math.inf
    judged: float = -math.inf
    nodes: int = 0

    def run(self, begun: Reopened | None) -> Tree:
        root = Node(whole(self.relaxation.spec)) if begun is None else begun.root
        if begun is None:
            # Multipliers by a part of the grid, where only one evaluation is left.
            start = guessed(self.relaxation, root.box.thinned(THIN)) if self._stopped() else None
            self._push(root, None, start, None)
        else:
            self.settled, self.judged = begun.settled, begun.judged
            for node, bound in begun.open:
                self._push(node, bound, bound, None)
        while True:
            self._begin()
            if not self.begun:
                break
            node, task, result = self.begun[0]
            found = result()
            self.begun.popleft()
            self._apply(node, found, task.target)
            # At least the first box: there is no bound without it.
            if self.watch(self._state()) or self.nodes >= self.most or self._stopped():
                break
        left = list(self.left)
        for node, task in (*(item[:2] for item in self.begun), *(item[2:] for item in self.queue)):
            assert task.above is not None
            # A part has at least the bound of the box around it.
            node.settle("leaf", task.above)
            left.append((node.box, task.above))
        return Tree(root, self._state(), tuple(left), tuple(self.points))

    def _state(self) -> State:
        waiting = [math.inf if task.above is None else task.above.value for _, task, _ in self.begun]
        # The first of the queue has the highest bound.
        waiting += [-value for value, *_ in self.queue[:1]]
        unjudged = max(self.settled, *waiting, -math.inf, *(bound.value for _, bound in self.left))
        bound, seconds = max(unjudged, self.judged), time.perf_counter() - self.began
        return State(bound, unjudged, self.settled, self.nodes, len(self.begun) + len(self.queue), seconds)

    def _stopped(self) -> bool:
        """Whether it is late, or somebody wants to stop."""
        return time.perf_counter() - self.began > self.seconds or self.stop()

    def _push(self, node: Node, above: Bound | None, start: Bound | None, known: Traces | None) -> None:
        value = math.inf if above is None else above.value
        heapq.heappush(self.queue, (-value, next(self.order), node, Task(node.box, above, start, known, -math.inf)))

    def _begin(self) -> None:
        """Begin boxes that may pass the target, which the first may whatever it is."""
        target = self.target()
        while (
            self.queue and len(self.begun) < _BEGUN and (-self.queue[0][0] > target or self.queue[0][3].above is None)
        ):
            _, _, node, task = heapq.heappop(self.queue)
            slack = self.slack * abs(target) if math.isfinite(target) else 0.0
            task = dataclasses.replace(task, target=target, slack=slack)
            self.begun.append((node, task, self.workers(task, self._stopped)))

    def _apply(self, node: Node, found: Examined, target: float) -> None:
        self.nodes += 1
        for trim in found.trims:
            self.settled = max(self.settled, trim.dropped)
            node.settle("trim", trim.bound)
            node.dropped = trim.dropped
            node.children = [Node(trim.box)]
            (node,) = node.children
        if found.kind == "empty":
            node.kind = "empty"
            return
        if found.kind == "point":
            node.kind, node.value = "point", self.judge(found.candidates[0])
            self.judged = max(self.judged, node.value)
            self.points.append(found.candidates[0])
            return
        bound = found.bound
        assert bound is not None
        for path in found.candidates[1:]:
            self.consider(path)
        if bound.value <= target:
            self.settled = max(self.settled, bound.value)
            node.settle("leaf", bound)
            return
        if found.candidates:
            self.explore(found.candidates[0], found.start or bound)
        if not found.cuts:
            node.settle("leaf", bound)
            self.left.append((node.box, bound))
            return
        for cut in found.cuts:
            node.settle("split", bound)
            node.split = cut
            node.children = [Node(part) for part in node.box.tight.split(*cut)]
            self._push(node.children[0], bound, found.start, found.known)
            node = node.children[1]
        self._push(node, bound, found.start, found.known)
