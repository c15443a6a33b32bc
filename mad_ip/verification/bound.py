"""An upper bound on every feasible score, by the Lagrangian program alone, and a certificate that can be replayed.

Neither a MILP solver nor a catalogue has a part in it: :mod:`mad_ip.lagrangian` prices the budgets and solves what
remains over the grids of the spec by dynamic programming, and branches until no box can pass the asked gap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mad_ip.design import Design, negligible, relative_gap, violations
from mad_ip.errors import InputError
from mad_ip.files import finite
from mad_ip.lagrangian import workers
from mad_ip.lagrangian.box import AXES, Box, whole
from mad_ip.lagrangian.program import Bound, Program, Relaxation
from mad_ip.lagrangian.tree import Node, State, branch_and_bound
from mad_ip.spec import Path, Spec

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
    threads: int = 1,
    watch: Callable[[Bounded], bool] | None = None,
) -> Bounded:
    """Bound the score of every feasible design to within ``gap``, relative to the score of ``design``.

    Stops early after ``seconds``, or when ``watch``, told after every box how far it is, returns True; the bound is
    valid all the same. The result does not depend on the number of ``threads``. Whether the design is feasible is
    :func:`mad_ip.verification.audit.audit`'s to say.
    """
    metrics = design.measure(spec.objective)
    score = metrics.score
    # No bound is nearer to a score that is small beside its parts.
    rounding = 0.0 if spec.objective.is_plain else negligible(spec, metrics) / 2
    target = score + max(gap * max(abs(score), _TOLERANCE), rounding)
    better: Design | None = None

    @functools.cache
    def judge(path: Path) -> float:
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

    with workers.threads(threads) as examine:
        tree = branch_and_bound(
            workers.relaxation(spec),
            lambda: target,
            judge,
            workers=functools.partial(examine, workers.Problem(spec)),
            seconds=seconds,
            watch=lambda now: watch is not None and watch(state(now)),
        )
    last = state(tree.state)
    certificate = {
        "format": FORMAT,
        "spec_sha256": spec.sha256,
        "score": score,
        "upper": last.upper,
        "gap": last.gap,
        "nodes": list(_records(tree.root)),
    }
    return Bounded(last.upper, score, last.nodes, last.open, last.seconds, better, certificate)


def _feasible(spec: Spec, path: Path) -> Design | None:
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
                record["keep"] = node.box.kept_in(node.children[0].box)
            yield record
        stack.extend(reversed(node.children))


def replay(
    spec: Spec, certificate: Mapping[str, Any], *, threads: int = 1, watch: Callable[[int, int], None] | None = None
) -> Replay:
    """Prove a certificate's bound anew, without any search: its boxes cover the space and each bound holds.

    ``watch`` is told the nodes done and their number. Raises :class:`InputError` when it is no such certificate.
    """
    if certificate.get("format") != FORMAT:
        raise InputError(f"format = {certificate.get('format')!r}: must be {FORMAT!r}")
    records: Any = certificate.get("nodes")
    claimed: Any = certificate.get("upper")
    if not isinstance(records, list) or not all(finite(certificate.get(key)) for key in ("upper", "score", "gap")):
        raise InputError("nodes, upper, score, gap: must be a list and three numbers, as mad-ip writes them")
    if certificate.get("spec_sha256") != spec.sha256:
        return Replay(math.inf, 0, (f"spec_sha256: the certificate is of another spec than {spec.sha256}",))
    stack = [whole(spec)]
    boxes = []
    for number, record in enumerate(records):
        if not stack:
            return Replay(math.inf, number, (f"nodes[{number}]: beyond the tree's end",))
        boxes.append(stack.pop())
        with _reading(number):
            stack.extend(reversed(_children(boxes[-1], record)))
    if stack:
        return Replay(math.inf, len(records), (f"nodes: {len(stack)} boxes of the space are not covered",))
    upper = -math.inf
    known = workers.relaxation(spec)
    known.widest  # noqa: B018 (once, before the threads ask for it)
    pool = ThreadPoolExecutor(threads)
    try:
        values = pool.map(functools.partial(_settled, known), boxes, records)
        for number in range(len(records)):
            with _reading(number):
                value = next(values)
            if isinstance(value, str):
                return Replay(math.inf, number, (f"nodes[{number}]: {value}",))
            if math.isnan(value):
                return Replay(math.inf, number, (f"nodes[{number}]: the bound is not a number",))
            upper = max(upper, value)
            if watch is not None:
                watch(number + 1, len(records))
    finally:
        pool.shutdown(cancel_futures=True)
    if upper > claimed + _TOLERANCE * abs(claimed):
        return Replay(upper, len(records), (f"upper {claimed!r}: the nodes prove only {upper!r}",))
    return Replay(upper, len(records), ())


@contextmanager
def _reading(number: int) -> Iterator[None]:
    """Whatever is wrong with what a record holds is bad input."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        raise InputError(f"nodes[{number}]: not a node that mad-ip writes ({error})") from None


def _children(box: Box, record: Mapping[str, Any]) -> list[Box]:
    """The boxes that a node leaves."""
    if "split" in record:
        axis, segment, at = record["split"]
        # Two parts cover a box only when they part integers: nothing is up to NaN, and nothing above it.
        whole_numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in (segment, at))
        if axis not in (*AXES, "total") or not whole_numbers or not 0 <= segment < len(box.channels):
            raise ValueError(f"split {record['split']!r}")
        return list(box.split(axis, segment, at))
    if "trim" not in record:
        return []
    tight = box.tightened
    # An empty box has no parts: what is settled of it says that it should have been called empty.
    return [box if tight is None else tight.keeping(record["keep"])]


def _settled(known: Relaxation, box: Box, record: Mapping[str, Any]) -> float | str:
    """The bound on what a node settles by itself; a sentence when it does not hold."""
    if "split" in record:
        return -math.inf
    tight = box.tightened
    program = None if tight is None else Program(known, tight)
    if tight is None or program is None or program.is_empty:
        return -math.inf if "empty" in record else "the box is empty"
    if "empty" in record:
        # Without prices only what a budget on a maximum forbids has no value.
        forbidden = program.evaluate(np.zeros(len(known.least))).path is None
        return -math.inf if forbidden else "the box is not empty"
    if "point" in record:
        if tight.point is None:
            return "the box is not a point"
        design = _feasible(known.spec, tight.point)
        return -math.inf if design is None else design.metrics.score
    kind = "leaf" if "leaf" in record else "trim"
    multipliers = np.array(record[kind], float)
    tangents = tuple(float(value) for value in record["tangents"])
    shaped = multipliers.shape == known.least.shape and len(tangents) == len(known.bounded)
    if not shaped or not ((multipliers >= known.least) & (np.abs(multipliers) <= _LARGEST)).all():
        return "the multipliers are not valid"
    if not all(0 < tangent <= _LARGEST for tangent in tangents):
        return "the tangents are not valid"
    found = program.evaluate(multipliers, tangents)
    # There is a path, and a path has a finite value unless something overflowed.
    if not math.isfinite(found.value):
        return "the bound is not a finite number"
    return found.value if kind == "leaf" else _dropped(program, found, tight.keeping(record["keep"]))


def _dropped(program: Program, found: Bound, left: Box) -> float:
    """A bound on the designs that take a value of a box that is not left."""
    dropped = [-math.inf]
    for s, (bounds, _) in enumerate(program.value_bounds(found)):
        for axis, values in zip(AXES, bounds, strict=True):
            kept = getattr(left, axis)[s]
            dropped += [bound for v, bound in zip(getattr(program.box, axis)[s], values, strict=True) if v not in kept]
    # A value that is not a number makes the maximum one too.
    return float(np.max(dropped))
