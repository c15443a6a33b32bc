"""Branch and bound over boxes, and the tree that it leaves as a certificate.

A node of the tree is a box. It is *empty* (no path of channels, or no total of depths), a *point* (one architecture,
judged exactly), a *leaf* (multipliers give a bound on it), *trimmed* (multipliers show that values outside a smaller
box cannot pass the target), or *split* in two. The tree covers the space by construction, so that replaying it needs no
search: one evaluation for every leaf, one pass forward and backward for every trim.

Boxes are examined in rounds of a fixed number, best bound first, so that the result does not depend on how many
workers share a round.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mad_ip.lagrangian.box import AXES, Axis, Box, whole
from mad_ip.lagrangian.dual import EVALUATIONS, Dual, minimise
from mad_ip.lagrangian.program import Bound, Choice, Program, Relaxation
from mad_ip.lagrangian.tables import Floats

__all__ = ["Examined", "Judge", "Node", "State", "Task", "Tree", "branch_and_bound", "examine"]

Path = tuple[Choice, ...]

Judge = Callable[[Path], float]
"""The exact score of an architecture, minus infinity when it breaks a budget."""

Cut = tuple[Axis | Literal["total"], int, int]
"""Axis, segment, and the last value of the lower part."""

_ROUND = 8
"""Boxes examined between two looks at the incumbent."""

_WORTH = 0.8
"""A box is bounded anew where trimming leaves at most this share of its values."""

_DEPTH = 4.0
"""Log-width of a block, roughly: what one more of depth is worth beside a change of widths."""


@dataclass
class Node:
    """A node of the tree; ``kind`` is open, empty, point, leaf, trim or split; ``box`` as its parent left it."""

    box: Box
    kind: str = "open"
    multipliers: Floats | None = None
    tangents: tuple[float, ...] = ()
    value: float = math.inf
    split: Cut | None = None
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """How far branch and bound is: boxes examined, boxes left, seconds.

    ``bound`` holds for the whole space, ``unjudged`` for the designs that ``judge`` was not asked about.
    """

    bound: float
    unjudged: float
    nodes: int
    open: int
    seconds: float


@dataclass(frozen=True)
class Tree:
    """The finished tree and the bound that it proves."""

    root: Node
    state: State


@dataclass(frozen=True)
class Task:
    """A box to bound from ``multipliers``; ``thorough`` improves them, otherwise one evaluation is all.

    ``above`` are the multipliers and tangents of a box around it, whose bound ``most`` holds here too. With ``trims``,
    values that cannot pass ``target`` are looked for.
    """

    box: Box
    multipliers: Floats | None
    above: tuple[Floats, tuple[float, ...]] | None
    most: float
    target: float
    thorough: bool
    trims: bool


@dataclass(frozen=True)
class Examined:
    """What a task found: nothing for an empty box, the only path of a point, or a bound.

    ``smaller`` is the box without the values that cannot pass the target, ``dropped`` the bound on those; ``cut`` is
    where to split; ``candidates`` are paths that may be designs, the maximising one first.
    """

    kind: Literal["empty", "point", "leaf"]
    bound: Bound | None = None
    smaller: Box | None = None
    dropped: float = -math.inf
    cut: Cut | None = None
    candidates: tuple[Path, ...] = ()


def branch_and_bound(
    relaxation: Relaxation,
    target: Callable[[], float],
    judge: Judge,
    *,
    explore: Callable[[Path], None] = lambda _: None,
    guide: Node | None = None,
    workers: Callable[[Sequence[Task]], Iterable[Examined]] | None = None,
    seconds: float = math.inf,
    watch: Callable[[State], bool] = lambda _: False,
) -> Tree:
    """Branch, best bound first, until no box can pass ``target()``, or until ``watch`` or the time says stop.

    ``judge`` is asked about boxes of one architecture, and about paths on the way that keep all priced constraints;
    ``explore`` is told the maximising paths of boxes, near which good designs are. ``guide`` is the tree of a coarser
    grid over the same ranges: its splits are taken over unseen, and its multipliers are the first tried, since those
    of a fine grid differ little. ``workers`` examine the tasks of a round, in order; by default this process does.
    """
    return _Search(relaxation, target, judge, explore, workers, seconds, watch).run(guide)


def examine(relaxation: Relaxation, task: Task) -> Examined:
    """Bound one box."""
    box = task.box.tightened()
    program = None if box is None else Program(relaxation, box)
    if box is None or program is None or program.is_empty:
        return Examined("empty")
    if box.point is not None:
        return Examined("point", candidates=(box.point,))
    start = np.where(np.isfinite(relaxation.least), program.scales / 2, 0.0)
    start = start if task.multipliers is None else task.multipliers
    dual = minimise(
        program.evaluate,
        start,
        program.scales,
        relaxation.least,
        cutoff=task.target,
        evaluations=EVALUATIONS if task.thorough else 0,
    )
    best = dual.best
    if task.above is not None and best.value > task.most:
        # Other tangents of phi may bound less well; with those above, a part is never bounded worse.
        best = program.evaluate(*task.above)
    candidates = (best.path, *(cut.path for cut in dual.cuts if (cut.slack >= 0).all()))
    smaller, dropped, cut = box, -math.inf, None
    if best.value > task.target and task.trims:
        smaller, dropped = _trimmed(program, best, task.target)
    if best.value > task.target and task.thorough:
        cut = _cut(box, dual)
    return Examined("leaf", best, smaller, dropped, cut, candidates)


def _trimmed(program: Program, best: Bound, target: float) -> tuple[Box, float]:
    """The box without the values that cannot pass the target, and a bound on the designs that take one of those."""
    box, dropped = program.box, -math.inf
    for s, bounds in enumerate(program.value_bounds(best)):
        for axis, values in zip(AXES, bounds, strict=True):
            domain = getattr(box, axis)[s]
            kept = tuple(value for value, bound in zip(domain, values, strict=True) if bound > target)
            if len(kept) < len(domain):
                dropped = max(dropped, float(values[values <= target].max()))
                box = box.restricted(axis, s, kept)
    return box, dropped


def _cut(box: Box, dual: Dual[Bound]) -> Cut:
    """Where the paths that hold up the bound differ most."""
    active = [(weight, cut.path) for weight, cut in zip(dual.weights, dual.cuts, strict=True) if weight > 1e-6]
    weights = np.array([weight for weight, _ in active])
    weights /= weights.sum()
    if box.first < box.last:
        total = sum(w * sum(path[s][3] for s in box.penalised) for w, (_, path) in zip(weights, active, strict=True))
        return "total", 0, min(max(math.floor(total), box.first), box.last - 1)
    best: tuple[float, Axis, int, float] = (0.0, "channels", 0, 0.0)
    for s in range(len(box.channels)):
        values = np.array([path[s] for _, path in active], float)
        depth = float(weights @ values[:, 3])
        for position, axis in enumerate(AXES):
            if len(getattr(box, axis)[s]) == 1:
                continue
            column = values[:, position]
            effect = column * _DEPTH if axis == "depth" else np.log(column) * depth
            mean = float(weights @ effect)
            spread = float(weights @ np.abs(effect - mean))
            if spread > best[0]:
                best = spread, axis, s, float(weights @ column)
    spread, axis, s, mean = best
    if spread == 0:
        # All agree: the widest choice.
        _, axis, s = max((len(getattr(box, axis)[s]), axis, s) for axis in AXES for s in range(len(box.channels)))
        domain = getattr(box, axis)[s]
        mean = domain[len(domain) // 2 - 1]
    domain = getattr(box, axis)[s]
    lower = [value for value in domain[:-1] if value <= mean]
    return axis, s, lower[-1] if lower else domain[0]


@dataclass(frozen=True)
class _Open:
    """A box in the queue: once bounded (``thorough`` comes next), or with the ``cut`` that comes next."""

    node: Node
    above: Node | None
    guide: Node | None = None
    bounded: bool = False
    cut: Cut | None = None


class _Search:
    def __init__(
        self,
        relaxation: Relaxation,
        target: Callable[[], float],
        judge: Judge,
        explore: Callable[[Path], None],
        workers: Callable[[Sequence[Task]], Iterable[Examined]] | None,
        seconds: float,
        watch: Callable[[State], bool],
    ) -> None:
        self.relaxation, self.target, self.judge, self.explore = relaxation, target, judge, explore
        self.workers = workers or (lambda tasks: [examine(relaxation, task) for task in tasks])
        self.seconds, self.watch = seconds, watch
        self.began = time.perf_counter()
        self.queue: list[tuple[float, int, _Open]] = []
        self.order = itertools.count()
        self.settled = -math.inf
        self.judged = -math.inf
        self.nodes = 0

    def run(self, guide: Node | None) -> Tree:
        root = Node(whole(self.relaxation.spec))
        self._push(_Open(root, None, guide), math.inf)
        # At least one round: there is no bound without it.
        while True:
            self._round()
            if not self.queue or -self.queue[0][0] <= self.target() or self._stopped():
                break
        for _, _, item in self.queue:
            if item.node.kind == "open":
                assert item.above is not None
                self._proven_by(item.node, item.above)
        return Tree(root, self._state())

    def _state(self) -> State:
        unjudged = max(self.settled, -self.queue[0][0] if self.queue else -math.inf)
        bound = max(unjudged, self.judged)
        return State(bound, unjudged, self.nodes, len(self.queue), time.perf_counter() - self.began)

    def _stopped(self) -> bool:
        state = self._state()
        return self.watch(state) or state.seconds > self.seconds

    def _push(self, item: _Open, value: float) -> None:
        heapq.heappush(self.queue, (-value, next(self.order), item))

    def _proven_by(self, node: Node, above: Node) -> None:
        """A part has at least the bound of the box around it."""
        node.kind, node.multipliers, node.tangents, node.value = "leaf", above.multipliers, above.tangents, above.value

    def _round(self) -> None:
        target = self.target()
        items: list[_Open] = []
        while self.queue and len(items) < _ROUND and (-self.queue[0][0] > target or not items):
            _, _, item = heapq.heappop(self.queue)
            if item.cut is None:
                items.append(item)
            else:
                self._split(item)
        tasks = [self._task(item, target) for item in items]
        for item, found in zip(items, self.workers(tasks), strict=True):
            self._apply(item, found, target)

    def _split(self, item: _Open) -> None:
        node, cut = item.node, item.cut
        assert cut is not None
        box = node.box.tightened()
        assert box is not None
        value, above = node.value, Node(node.box, "leaf", node.multipliers, node.tangents, node.value)
        node.kind, node.split = "split", cut
        node.children = [Node(part) for part in box.split(*cut)]
        for child in node.children:
            self._push(_Open(child, above), value)

    def _task(self, item: _Open, target: float) -> Task:
        node, above, guide = item.node, item.above, item.guide
        known = [n.multipliers for n in (node, guide, above) if n is not None and n.multipliers is not None]
        return Task(
            box=node.box,
            multipliers=known[0] if known else None,
            above=None if above is None or above.multipliers is None else (above.multipliers, above.tangents),
            most=math.inf if above is None else above.value,
            target=target,
            thorough=item.bounded or (item.above is None and guide is None),
            trims=item.bounded or (guide is not None and guide.kind == "trim"),
        )

    def _apply(self, item: _Open, found: Examined, target: float) -> None:
        node, guide = item.node, item.guide
        self.nodes += not item.bounded
        if found.kind == "empty":
            node.kind = "empty"
            return
        if found.kind == "point":
            node.kind, node.value = "point", self.judge(found.candidates[0])
            self.judged = max(self.judged, node.value)
            return
        assert found.bound is not None
        assert found.smaller is not None
        node.kind, node.value = "leaf", found.bound.value
        node.multipliers, node.tangents = found.bound.multipliers, found.bound.tangents
        for path in found.candidates[1:]:
            self.judge(path)
        if node.value <= target:
            self.settled = max(self.settled, node.value)
            return
        if item.bounded:
            self.explore(found.candidates[0])
        tight = node.box.tightened()
        pays = False
        if found.smaller != tight:
            self.settled = max(self.settled, found.dropped)
            child = Node(found.smaller, "leaf", node.multipliers, node.tangents, node.value)
            node.kind, node.children = "trim", [child]
            if found.smaller.tightened() is None:
                child.kind = "empty"
                return
            assert tight is not None
            pays = _size(found.smaller) <= _WORTH * _size(tight)
            node = child
        if guide is not None and guide.kind in ("trim", "split"):
            self._follow(node, guide if guide.kind == "split" else guide.children[0])
        else:
            above = Node(node.box, "leaf", node.multipliers, node.tangents, node.value)
            self._push(_Open(node, above, bounded=True, cut=None if pays else found.cut), node.value)

    def _follow(self, node: Node, guide: Node) -> None:
        """Take over the guide's splits without a look at the boxes between."""
        above = Node(node.box, "leaf", node.multipliers, node.tangents, node.value)
        stack = [(node, guide)]
        while stack:
            node, guide = stack.pop()
            if guide.kind == "split":
                assert guide.split is not None
                node.kind, node.split, node.multipliers = "split", guide.split, None
                node.children = [Node(part) for part in node.box.split(*guide.split)]
                stack += zip(node.children, guide.children, strict=True)
            else:
                self._push(_Open(node, above, guide), above.value)


def _size(box: Box) -> int:
    return sum(len(values) for axis in AXES for values in getattr(box, axis))
