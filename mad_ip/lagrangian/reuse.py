"""What the tree of a spec proves of the same spec with smaller limits, in no time.

A bound by multipliers ``x`` is at least ``score + sum x (1 - cost / limit) + sum mu (S - phi(D))`` of every
architecture of its box, feasible or not. Those within a smaller limit ``l'`` leave at least ``1 - l' / l`` of the first
term, and a smaller ``rho_0`` at least ``D ln(rho_0 / rho_0')`` of the second: the bound falls by as much, whatever the
box, without an evaluation (docs/fronts.md).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mad_ip.lagrangian.box import Box
from mad_ip.lagrangian.program import Bound, Relaxation
from mad_ip.lagrangian.tables import Floats
from mad_ip.lagrangian.tree import Judge, Node, Reopened

__all__ = ["reopened", "restored", "written"]


_PARTS = 3
"""Parts of a box that may be open before the box is instead."""

_ROUNDING = 1e-12
"""Of a bound that has moved, relative to what it moved by."""


def written(root: Node) -> list[list[Any]]:
    """A tree in preorder, in lists, texts and numbers that JSON keeps to the last bit."""
    records, stack = [], [root]
    while stack:
        node = stack.pop()
        multipliers = None if node.multipliers is None else node.multipliers.tolist()
        record: list[Any] = [node.kind, _finite(node.value), _finite(node.dropped), multipliers, list(node.tangents)]
        if node.kind == "split":
            assert node.split is not None
            record.append(list(node.split))
        elif node.kind == "trim":
            record.append(node.box.kept_in(node.children[0].box))
        records.append(record)
        stack.extend(reversed(node.children))
    return records


def restored(box: Box, records: list[list[Any]]) -> Node:
    """The tree over a box that :func:`written` gave; raise :class:`ValueError` where it is none of that box."""
    root = Node(box)
    stack = [root]
    for kind, value, dropped, multipliers, tangents, *rest in records:
        if not stack:
            raise ValueError("the records go on beyond the tree")
        node = stack.pop()
        node.kind, node.tangents = kind, tuple(tangents)
        node.value, node.dropped = (math.inf if value is None else value), (-math.inf if dropped is None else dropped)
        node.multipliers = None if multipliers is None else np.array(multipliers, float)
        if kind == "split":
            axis, segment, at = rest[0]
            node.split = axis, segment, at
            node.children = [Node(part) for part in node.box.tight.split(axis, segment, at)]
        elif kind == "trim":
            node.children = [Node(node.box.tight.keeping(rest[0]))]
        stack.extend(reversed(node.children))
    if stack:
        raise ValueError("the records do not cover the box")
    return root


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def reopened(root: Node, before: Relaxation, after: Relaxation, target: float, judge: Judge) -> Reopened:
    """The tree at ``root``, made for the relaxation ``before``, as one for ``after``, whose limits are no larger.

    Nodes that may pass the ``target`` are open. ``judge`` is asked about the points.
    """
    return _Reopening(before, after, target, judge).run(root)


class _Reopening:
    """A run of :func:`reopened`."""

    def __init__(self, before: Relaxation, after: Relaxation, target: float, judge: Judge) -> None:
        self.after, self.target, self.judge = after, target, judge
        old, new = (np.array(list(known.spec.budget.sums.values()), float) for known in (before, after))
        self.left = new / old
        self.tighter = before.log_ratio - after.log_ratio
        assert (self.left <= 1).all()
        assert self.tighter >= 0
        self.open: list[tuple[Node, Bound]] = []
        self.settled = self.judged = -math.inf

    def run(self, root: Node) -> Reopened:
        built = self._node(root)
        return Reopened(built, tuple(self.open), self.settled, self.judged)

    def _node(self, node: Node) -> Node:
        """A copy of a node and of all below it."""
        copy = Node(node.box, node.kind, split=node.split)
        if node.kind == "split":
            bound, _ = self._moved(node)
            copy.settle("split", bound)
            number = len(self.open)
            copy.children = [self._node(child) for child in node.children]
            if len(self.open) - number > _PARTS and not self.after.is_large(node.box):
                # What was cut for other prices costs more than to cut anew.
                del self.open[number:]
                self._open(copy, bound)
        elif node.kind == "point":
            tight = node.box.tightened
            assert tight is not None
            assert tight.point is not None
            copy.value = self.judge(tight.point)
            self.judged = max(self.judged, copy.value)
        elif node.kind == "leaf":
            bound, _ = self._moved(node)
            copy.settle("leaf", bound)
            if bound.value <= self.target:
                self.settled = max(self.settled, bound.value)
            else:
                self._open(copy, bound)
        elif node.kind == "trim":
            bound, lost = self._moved(node)
            copy.settle("trim", bound)
            copy.dropped = node.dropped - lost
            if copy.dropped > self.target:
                self._open(copy, bound)
            else:
                self.settled = max(self.settled, copy.dropped)
                copy.children = [self._node(child) for child in node.children]
        return copy

    def _open(self, node: Node, bound: Bound) -> None:
        node.reopen()
        self.open.append((node, bound))

    def _moved(self, node: Node) -> tuple[Bound, float]:
        """The bound of a node at the new limits, at the same prices, and how much lower it is."""
        assert node.multipliers is not None
        multipliers, number = node.multipliers.copy(), len(self.left)
        multipliers[:number] *= self.left
        lost = float((node.multipliers[:number] - multipliers[:number]).sum())
        lost += self.tighter * float(node.multipliers[number:][: len(node.tangents)] @ self._layers(node.box.tight))
        lost -= _ROUNDING * (abs(lost) + abs(node.value))
        return Bound(node.value - lost, multipliers, node.tangents, None), lost

    def _layers(self, box: Box) -> Floats:
        """The fewest layers of a box up to the end of every bounded segment."""
        depths = np.array([depth[0] if depth else 1 for depth in box.depth])
        return np.cumsum(self.after.tables.layers * depths)[self.after.bounded].astype(float)
