"""An upper bound on every feasible score, by the Lagrangian program alone, and a certificate that can be replayed.

Neither a MILP solver nor a catalogue has a part in it: :mod:`mad_ip.lagrangian` prices the budgets and solves what
remains over the grids of the spec by dynamic programming, and branches until no box can pass the asked gap. Of fine
grids, coarse parts are branched first: where they split, and with which multipliers, is tried first on the whole.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mad_ip.design import Design, relative_gap, violations
from mad_ip.errors import InputError
from mad_ip.files import finite
from mad_ip.lagrangian.box import AXES, Box, whole
from mad_ip.lagrangian.grids import grids
from mad_ip.lagrangian.program import Bound, Choice, Program, Relaxation
from mad_ip.lagrangian.tree import Node, State, branch_and_bound
from mad_ip.spec import Spec

__all__ = ["FORMAT", "Bounded", "Replay", "bound", "replay"]

FORMAT = "mad-ip/bound-certificate/1"

_LARGEST = 1e60
"""Multipliers beyond this, which no search needs, could overflow on the way to a bound."""

_TOLERANCE = 1e-9
"""Relative difference up to which two scores, or a bound and its replay, are equal."""


@dataclass(frozen=True)
class Bounded:
    """``upper`` bounds the score of every feasible design; ``score`` is the design's, measured anew.

    ``nodes`` boxes were bounded and ``open`` are left; ``better`` is a feasible design with a higher score, should the
    relaxation have come across one. ``certificate`` is what :func:`replay` takes, empty while the search runs.
    """

    upper: float
    score: float
    nodes: int
    open: int
    seconds: float
    better: Design | None = None
    certificate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """``(upper - score) / |score|``, at least 0."""
        return relative_gap(self.score, self.upper)


@dataclass(frozen=True)
class Replay:
    """What a certificate proves: ``upper`` bounds every feasible score; ``reasons`` says why it does not hold."""

    upper: float
    nodes: int
    reasons: tuple[str, ...]


def bound(
    spec: Spec,
    design: Design,
    *,
    gap: float = 1e-4,
    seconds: float = math.inf,
    watch: Callable[[Bounded], bool] | None = None,
) -> Bounded:
    """Bound the score of every feasible design to within ``gap``, relative to the score of ``design``.

    Stops early after ``seconds``, or when ``watch``, told now and then how far it is, returns True; the bound is valid
    all the same, infinite (without a certificate) where the whole grid was not reached. Whether the design is feasible
    is :func:`mad_ip.verification.audit.audit`'s to say.
    """
    score = design.measure(spec.objective.depth_penalty).score
    target = score + gap * max(abs(score), _TOLERANCE)
    better: Design | None = None

    @functools.cache
    def judge(path: tuple[Choice, ...]) -> float:
        nonlocal better
        candidate = _feasible(spec, path)
        if candidate is None:
            return -math.inf
        best = score if better is None else better.metrics.score
        if candidate.metrics.score > best + _TOLERANCE * abs(best):
            better = candidate
        return candidate.metrics.score

    def state(now: State) -> Bounded:
        return Bounded(max(now.bound, score), score, now.nodes, now.open, now.seconds, better)

    def left() -> float:
        return seconds - (time.perf_counter() - began)

    stopped = False

    def look(now: State) -> bool:
        nonlocal stopped
        # What is known of a part says nothing of the whole.
        stopped = watch is not None and watch(dataclasses.replace(state(now), upper=math.inf))
        return stopped

    began = time.perf_counter()
    *coarse, finest = grids(spec)
    guide: Node | None = None
    for grid in coarse:
        if left() > 0:
            tree = branch_and_bound(Relaxation(grid), lambda: target, judge, guide=guide, seconds=left(), watch=look)
            guide = tree.root
        if stopped:
            return dataclasses.replace(state(tree.state), upper=math.inf, seconds=time.perf_counter() - began)
    tree = branch_and_bound(
        Relaxation(finest),
        lambda: target,
        judge,
        guide=guide,
        seconds=left(),
        watch=lambda now: watch is not None and watch(state(now)),
    )
    last = dataclasses.replace(state(tree.state), seconds=time.perf_counter() - began)
    certificate = {
        "format": FORMAT,
        "spec_sha256": spec.sha256,
        "score": score,
        "upper": last.upper,
        "gap": last.gap,
        "nodes": list(_records(tree.root)),
    }
    return Bounded(last.upper, score, last.nodes, last.open, last.seconds, better, certificate)


def _feasible(spec: Spec, path: tuple[Choice, ...]) -> Design | None:
    """The design of a path, measured exactly; ``None`` when it breaks a budget or a rule."""
    design = Design.chosen(spec, path)
    return None if violations(spec, design) else design


def _records(root: Node) -> Iterator[dict[str, Any]]:
    """The tree in preorder, one record for every node."""
    stack = [root]
    while stack:
        node = stack.pop()
        if node.kind == "split":
            assert node.split is not None
            yield {"split": list(node.split)}
        elif node.kind in ("empty", "point"):
            yield {node.kind: True}
        else:
            assert node.multipliers is not None
            record: dict[str, Any] = {node.kind: node.multipliers.tolist(), "tangents": list(node.tangents)}
            if node.kind == "trim":
                record["keep"] = list(_changes(node.box, node.children[0].box))
            yield record
        stack.extend(reversed(node.children))


def _changes(before: Box, after: Box) -> Iterator[list[Any]]:
    for axis in AXES:
        for s, (old, new) in enumerate(zip(getattr(before, axis), getattr(after, axis), strict=True)):
            if old != new:
                yield [axis, s, list(new)]


def replay(spec: Spec, certificate: Mapping[str, Any], watch: Callable[[int, int], None] | None = None) -> Replay:
    """Prove a certificate's bound anew, without any search: its boxes cover the space and each bound holds.

    ``watch`` is told the nodes done and their number. Raises :class:`InputError` when it is no such certificate.
    """
    if certificate.get("format") != FORMAT:
        raise InputError(f"format = {certificate.get('format')!r}: must be {FORMAT!r}")
    records: Any = certificate.get("nodes")
    claimed: Any = certificate.get("upper")
    if not isinstance(records, list) or not finite(claimed):
        raise InputError("nodes, upper: must be a list and a number, as mad-ip writes them")
    if certificate.get("spec_sha256") != spec.sha256:
        return Replay(math.inf, 0, (f"spec_sha256: the certificate is of another spec than {spec.sha256}",))
    relaxation = Relaxation(spec)
    stack = [whole(spec)]
    upper = -math.inf
    for number, record in enumerate(records):
        if not stack:
            return Replay(math.inf, number, (f"nodes[{number}]: beyond the tree's end",))
        try:
            value, children = _replayed(relaxation, stack.pop(), record)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
            raise InputError(f"nodes[{number}]: not a node that mad-ip writes ({error})") from None
        if isinstance(value, str):
            return Replay(math.inf, number, (f"nodes[{number}]: {value}",))
        if math.isnan(value):
            return Replay(math.inf, number, (f"nodes[{number}]: the bound is not a number",))
        upper = max(upper, value)
        stack.extend(reversed(children))
        if watch is not None:
            watch(number + 1, len(records))
    if stack:
        return Replay(math.inf, len(records), (f"nodes: {len(stack)} boxes of the space are not covered",))
    if upper > claimed + _TOLERANCE * abs(claimed):
        return Replay(upper, len(records), (f"upper {claimed!r}: the nodes prove only {upper!r}",))
    return Replay(upper, len(records), ())


def _replayed(relaxation: Relaxation, box: Box, record: Mapping[str, Any]) -> tuple[float | str, list[Box]]:
    """The bound on what a node settles by itself, and the boxes that it leaves; a sentence when it does not hold."""
    tight = box.tightened()
    if "split" in record:
        axis, segment, at = record["split"]
        # Two parts cover a box only when they part integers: nothing is up to NaN, and nothing above it.
        whole_numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in (segment, at))
        if axis not in (*AXES, "total") or not whole_numbers or not 0 <= segment < len(box.channels):
            raise ValueError(f"split {record['split']!r}")
        return -math.inf, list(box.split(axis, segment, at))
    program = None if tight is None else Program(relaxation, tight)
    if tight is None or program is None or program.is_empty:
        return ("the box is empty" if "empty" not in record else -math.inf), []
    if "empty" in record:
        return "the box is not empty", []
    if "point" in record:
        if tight.point is None:
            return "the box is not a point", []
        design = _feasible(relaxation.spec, tight.point)
        return -math.inf if design is None else design.metrics.score, []
    kind = "leaf" if "leaf" in record else "trim"
    multipliers = np.array(record[kind], float)
    tangents = tuple(float(value) for value in record["tangents"])
    if multipliers.shape != relaxation.least.shape or not (multipliers >= relaxation.least).all():
        return "the multipliers are not valid", []
    if not (np.abs(multipliers) <= _LARGEST).all() or len(tangents) != len(relaxation.bounded):
        return "the multipliers are not valid", []
    if not all(0 < tangent <= _LARGEST for tangent in tangents):
        return "the tangents are not valid", []
    found = program.evaluate(multipliers, tangents)
    # There is a path, and a path has a finite value unless something overflowed.
    if not math.isfinite(found.value):
        return "the bound is not a finite number", []
    if kind == "leaf":
        return found.value, []
    return _trimmed(program, found, record["keep"])


def _trimmed(program: Program, found: Bound, keep: list[Any]) -> tuple[float, list[Box]]:
    box = program.box
    kept = {(axis, segment): tuple(values) for axis, segment, values in keep}
    dropped = -math.inf
    for s, bounds in enumerate(program.value_bounds(found)):
        for axis, values in zip(AXES, bounds, strict=True):
            domain = getattr(box, axis)[s]
            chosen = kept.get((axis, s), domain)
            gone = [value not in chosen for value in domain]
            if any(gone):
                # A value that is not a number makes the maximum one too.
                dropped = float(np.maximum(dropped, values[np.array(gone)].max()))
                box = box.restricted(axis, s, tuple(value for value in domain if value in chosen))
    return dropped, [box]
