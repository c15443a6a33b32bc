"""Branch and bound over boxes, and the certificate that it leaves.

A node of the tree is a box. It is *empty* (no path of channels, or no total of depths), a *point* (one architecture
judged exactly), a *leaf* (multipliers give a bound on it), *trimmed* (multipliers show that values outside a smaller
box cannot pass the target), or *split* in two. The tree covers the space by construction, so that replaying it needs no
search: one evaluation for every leaf, one pass forward and backward for every trim.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mad_ip.lagrangian.box import AXES, Axis, Box, whole
from mad_ip.lagrangian.dual import Dual, minimise
from mad_ip.lagrangian.program import Bound, Choice, Program, Relaxation
from mad_ip.lagrangian.tables import Floats

__all__ = ["Judge", "Node", "State", "Tree", "branch_and_bound"]

Judge = Callable[[tuple[Choice, ...]], float]
"""The exact score of an architecture, minus infinity when it breaks a budget."""

_ROUNDS = 3
"""Trims of one box before it is split."""

_WORTH = 0.8
"""A box is bounded anew where trimming leaves at most this share of its values."""


@dataclass
class Node:
    """A node of the tree; ``kind`` is open, empty, point, leaf, trim or split; ``box`` as its parent left it."""

    box: Box
    kind: str = "open"
    multipliers: Floats | None = None
    tangents: tuple[float, ...] = ()
    value: float = math.inf
    split: tuple[str, int, int] | None = None
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """How far branch and bound is: ``bound`` on the whole space, nodes bounded, boxes left, seconds."""

    bound: float
    nodes: int
    open: int
    seconds: float


@dataclass(frozen=True)
class Tree:
    """The finished tree and the bound that it proves."""

    root: Node
    state: State


def branch_and_bound(
    relaxation: Relaxation,
    target: Callable[[], float],
    judge: Judge,
    *,
    start: Floats | None = None,
    seconds: float = math.inf,
    watch: Callable[[State], bool] = lambda _: False,
) -> Tree:
    """Branch, best bound first, until no box can pass ``target()``, or until ``watch`` or the time says stop.

    ``judge`` is asked about boxes of one architecture, and about paths on the way that may be better designs: those
    that keep all priced constraints of their box. ``start`` are multipliers to begin with.
    """
    return _Search(relaxation, target, judge, start, seconds, watch).run()


@dataclass(frozen=True)
class _Open:
    """A leaf so far, with what its dual says about where to split."""

    node: Node
    box: Box
    dual: Dual


class _Search:
    def __init__(
        self,
        relaxation: Relaxation,
        target: Callable[[], float],
        judge: Judge,
        start: Floats | None,
        seconds: float,
        watch: Callable[[State], bool],
    ) -> None:
        self.relaxation, self.target, self.judge = relaxation, target, judge
        self.start, self.seconds, self.watch = start, seconds, watch
        self.began = time.perf_counter()
        self.queue: list[tuple[float, int, _Open]] = []
        self.order = itertools.count()
        self.settled = -math.inf
        self.nodes = 0

    def run(self) -> Tree:
        root = Node(whole(self.relaxation.spec))
        self._bound(root, None)
        while self.queue and -self.queue[0][0] > self.target() and not self._stopped():
            _, _, item = heapq.heappop(self.queue)
            self._split(item)
        return Tree(root, self._state())

    def _state(self) -> State:
        bound = max(self.settled, -self.queue[0][0] if self.queue else -math.inf)
        return State(bound, self.nodes, len(self.queue), time.perf_counter() - self.began)

    def _stopped(self) -> bool:
        state = self._state()
        return self.watch(state) or state.seconds > self.seconds

    def _bound(self, node: Node, above: Node | None) -> None:
        """Bound a box, from the multipliers of the one ``above`` it, and trim it as long as that pays."""
        for attempt in range(_ROUNDS + 1):
            box = node.box.tightened()
            program = None if box is None else Program(self.relaxation, box)
            if box is None or program is None or program.is_empty:
                node.kind = "empty"
                return
            self.nodes += 1
            if box.point is not None:
                node.kind, node.value = "point", self.judge(box.point)
                self.settled = max(self.settled, node.value)
                return
            start = self.start if above is None else above.multipliers
            if start is None:
                start = np.where(np.isfinite(self.relaxation.least), program.scales / 2, 0.0)
            dual = minimise(program, start, cutoff=self.target())
            best = dual.best
            if above is not None and best.value > above.value:
                # Other tangents of phi may bound less well; with those above, a part is never bounded worse.
                best = program.evaluate(start, above.tangents)
            node.kind, node.multipliers, node.tangents = "leaf", best.multipliers, best.tangents
            node.value = best.value
            for cut in dual.cuts:
                if (cut.slack >= 0).all():
                    self.judge(cut.path)
            if node.value <= self.target():
                self.settled = max(self.settled, node.value)
                return
            smaller = None if attempt == _ROUNDS else self._trimmed(program, best)
            if smaller is None:
                heapq.heappush(self.queue, (-node.value, next(self.order), _Open(node, box, dual)))
                return
            node.kind, node.children = "trim", [Node(smaller)]
            node, above = node.children[0], node

    def _trimmed(self, program: Program, best: Bound) -> Box | None:
        """The box without the values that cannot pass the target; ``None`` where that does not pay."""
        box, target = program.box, self.target()
        dropped, kept_count, count = -math.inf, 0, 0
        for s, bounds in enumerate(program.value_bounds(best)):
            for axis, values in zip(AXES, bounds, strict=True):
                domain = getattr(box, axis)[s]
                kept = tuple(value for value, bound in zip(domain, values, strict=True) if bound > target)
                kept_count, count = kept_count + len(kept), count + len(domain)
                if len(kept) < len(domain):
                    dropped = max(dropped, float(values[values <= target].max()))
                    box = box.restricted(axis, s, kept)
        if kept_count > _WORTH * count:
            return None
        self.settled = max(self.settled, dropped)
        return box

    def _split(self, item: _Open) -> None:
        node = item.node
        cut = _cut(item.box, item.dual)
        node.kind, node.split = "split", cut
        node.children = [Node(part) for part in item.box.split(*cut)]
        for child in node.children:
            self._bound(child, node)


def _cut(box: Box, dual: Dual) -> tuple[Any, int, int]:
    """Where the paths that hold up the bound differ most: axis, segment, and the last value of the lower part."""
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


_DEPTH = 4.0
"""Log-width of a block, roughly: what one more of depth is worth beside a change of widths."""
