"""A seeded search for a feasible design that is better than a given one: evolution and local search, no bound.

It proves nothing by failing; it refutes by succeeding. Half of its rounds start from random architectures, half from
the design itself; each evolves a population and then climbs from the best of it. The evaluation is written from
blocks, cost and entropy alone, so that a fault in the solver's own search is not repeated here.

Architectures are columns of an array ``genes[g, n]``: gene ``g`` (channels, inner width, kernel and depth of every
segment, in this order) of architecture ``n`` as an index into its domain, which may be of one value.

Symbols as in :mod:`mad_ip.verification.exhaustion`.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mad_ip import blocks, entropy
from mad_ip.design import EFFECTIVENESS_TOLERANCE, Design
from mad_ip.errors import InputError
from mad_ip.spec import Choice, Path, Spec
from mad_ip.verification.exhaustion import MERGE, better, check_costs, own_cost, own_utility, realise, score_slack

__all__ = ["EVALUATIONS", "Attack", "attack"]

EVALUATIONS = 1_000_000
"""Architectures evaluated by default."""

_POPULATION = 512

_ROUNDS = 4
"""Parts of the evaluations: as much is spent on each round, alternately from random architectures and the design."""

_EVOLUTION = 0.8
"""Share of a round's evaluations that the evolution gets; what the climb after it leaves goes to further rounds."""

_WEIGHTS = (0.5, 10.0)
"""Weight of the relative violation against the score, relative to the design's score, from first to last."""

_STEPS = (-2, -1, 1, 2)
"""Changes of a gene's index that a climb tries in pairs."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

Watch = Callable[["Attack"], bool]
"""Called now and then with the state so far; returning True stops the attack."""


@dataclass(frozen=True)
class Attack:
    """What the search found: ``design`` is the best feasible one, ``None`` if it met none.

    ``reasons`` says that it is better than the design attacked, and is empty if it is not. ``finished`` is false when
    the search was stopped before its last evaluation.
    """

    score: float
    design: Design | None
    evaluations: int
    finished: bool
    seconds: float
    reasons: tuple[str, ...] = ()


def attack(
    spec: Spec,
    design: Design,
    *,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    seconds: float = math.inf,
    watch: Watch | None = None,
) -> Attack:
    """Search for a feasible design whose score exceeds that of ``design``, measured anew, by more than 1e-9 relative.

    Equal arguments give equal results unless ``seconds`` or ``watch`` stops the search. What is found is measured
    anew from its layers and checked against the spec.

    Raises :class:`InputError` when ``evaluations`` is not positive or costs pass 64 bits, :class:`InternalError` when
    the search contradicts the design's own measurement.
    """
    if evaluations < 1:
        raise InputError(f"evaluations = {evaluations}: must be an integer of at least 1")
    check_costs(spec)
    return _Search(spec, design, evaluations, seed, seconds, watch).run()


class _Stopped(Exception):  # noqa: N818 (no error: the search is over)
    """The evaluations are spent, or somebody wants to stop."""


class _Search:
    """One attack: the evaluations spent, and the best feasible architecture so far."""

    def __init__(
        self, spec: Spec, design: Design, evaluations: int, seed: int, seconds: float, watch: Watch | None
    ) -> None:
        self.spec, self.design = spec, design
        self.evaluations, self.seconds, self.watch = evaluations, seconds, watch
        self.began = time.perf_counter()
        self.generator = np.random.default_rng(seed)
        self.domains = _domains(spec)
        self.sizes = np.array([len(domain) for domain in self.domains])[:, None]
        self.free = np.count_nonzero(self.sizes > 1)
        self.moves = _moves(self.sizes)
        self.measured = design.measure(spec.objective)
        self.scale = max(1.0, abs(self.measured.score), spec.magnitude)
        self.spent = 0
        self.score = -math.inf
        self.best: Integers | None = None

    def run(self) -> Attack:
        own = _genes(self.design, self.domains)
        share = int(_EVOLUTION * self.evaluations / _ROUNDS)
        try:
            if own is not None:
                self._climb(own)
            for number in itertools.count():
                self._climb(self._evolve(own if number % 2 else None, self.spent + share))
        except _Stopped:
            pass
        finished = self.spent >= self.evaluations
        seconds = time.perf_counter() - self.began
        if self.best is None:
            return Attack(-math.inf, None, self.spent, finished, seconds)
        found = realise(self.spec, self._path(self.best), self.score)
        score = found.metrics.score
        reasons: tuple[str, ...] = ()
        if score > self.measured.score + score_slack(self.spec, self.measured):
            reasons = (better("attack", found, self.measured.score),)
        return Attack(score, found, self.spent, finished, seconds, reasons)

    def _evaluate(self, genes: Integers) -> tuple[Floats, Floats]:
        """Score and violation of every column; raise :class:`_Stopped` when the search is over."""
        genes = genes[:, : self.evaluations - self.spent]
        if genes.shape[1] == 0:
            raise _Stopped
        score, violation = evaluate(self.spec, [domain[g] for domain, g in zip(self.domains, genes, strict=True)])
        self.spent += genes.shape[1]
        feasible = np.where(violation == 0, score, -np.inf)
        top = int(np.argmax(feasible))
        if feasible[top] > self.score:
            self.score, self.best = float(feasible[top]), genes[:, top].copy()
        state = Attack(self.score, None, self.spent, False, time.perf_counter() - self.began)
        if self.spent >= self.evaluations or state.seconds > self.seconds:
            raise _Stopped
        if self.watch is not None and self.watch(state):
            raise _Stopped
        return score, violation

    def _evolve(self, start: Integers | None, end: int) -> Integers:
        """Evolve a population until ``end`` evaluations are spent; the best of it.

        Truncation selection, one-point crossover, and changes of single genes: steps, or any value. Violations weigh
        little at first and much in the end: the way to the best designs within tight budgets leads past infeasible
        ones.
        """
        if start is None:
            genes = self.generator.integers(0, self.sizes, (len(self.sizes), _POPULATION))
        else:
            genes = self._mutated(np.repeat(start[:, None], _POPULATION, axis=1), 8)
        begin = self.spent
        score, violation = self._evaluate(genes)
        while self.spent < end:
            first, second = np.minimum(*self.generator.integers(0, genes.shape[1], (2, 2, _POPULATION)))
            cut = self.generator.integers(0, 2 * len(genes), _POPULATION)
            crossed = np.where(np.arange(len(genes))[:, None] <= cut, genes[:, first], genes[:, second])
            children = self._mutated(crossed, self.generator.integers(1, 5, _POPULATION))
            scores, violations = self._evaluate(children)
            genes = np.concatenate([genes, children], axis=1)
            score, violation = np.concatenate([score, scores]), np.concatenate([violation, violations])
            low, high = _WEIGHTS
            weight = self.scale * low * (high / low) ** min(1.0, (self.spent - begin) / (end - begin))
            fitness = score - weight * violation
            order = np.argsort(-fitness, kind="stable")
            # Of architectures with equal fitness, mostly copies, one is enough.
            order = order[np.append(True, np.diff(fitness[order]) != 0)][:_POPULATION]
            genes, score, violation = genes[:, order], score[order], violation[order]
        return np.asarray(genes[:, np.lexsort((-score, violation))[0]])

    def _mutated(self, genes: Integers, expected: Integers | int) -> Integers:
        """``genes`` with about so many of those that have a choice changed in every column."""
        shape = genes.shape
        changed = self.generator.random(shape, np.float32) * self.free < expected
        moved = genes + self.generator.choice(np.array([-3, -2, -1, -1, 1, 1, 2, 3]), shape)
        anywhere = self.generator.random(shape, np.float32) < 0.2
        moved = np.where(anywhere, self.generator.integers(0, self.sizes, shape), moved)
        return np.where(changed, np.clip(moved, 0, self.sizes - 1), genes)

    def _climb(self, start: Integers) -> None:
        """Take the best of all changes of one gene and of pairs of genes until none improves."""
        here = start
        while True:
            around = here[:, None] + self.moves
            around = around[:, ((around >= 0) & (around < self.sizes)).all(axis=0)]
            score, violation = self._evaluate(around)
            best = around[:, np.lexsort((-score, violation))[0]]
            if (best == here).all():
                return
            here = best

    def _path(self, column: Integers) -> Path:
        values = [int(domain[index]) for domain, index in zip(self.domains, column, strict=True)]
        return tuple(Choice(*values[g : g + 4]) for g in range(0, len(values), 4))


def _domains(spec: Spec) -> list[Integers]:
    """The domain of every gene."""
    choices = ((s.channels, s.mid, s.kernel, s.depth) for s in spec.segments)
    return [np.array(domain, np.int64) for choice in choices for domain in choice]


def _genes(design: Design, domains: list[Integers]) -> Integers | None:
    """The column of a design; ``None`` when it is no architecture of the space."""
    values = [value for choice in design.path for value in choice]
    if len(values) != len(domains) or not all(v in domain for v, domain in zip(values, domains, strict=True)):
        return None
    return np.array([int(np.searchsorted(domain, v)) for v, domain in zip(values, domains, strict=True)])


def _moves(sizes: Integers) -> Integers:
    """Columns of changes: none; one gene by any step; two genes by up to two steps each."""
    number = len(sizes)
    unit = np.eye(number, dtype=np.int64)
    anywhere = [step * unit[:, g] for g in range(number) for step in range(1 - sizes[g, 0], sizes[g, 0])]
    small = np.concatenate([step * unit[:, sizes[:, 0] > 1] for step in _STEPS], axis=1)
    pairs = (small[:, :, None] + small[:, None, :]).reshape(number, -1)
    moves: Integers = np.unique(np.concatenate([np.array(anywhere).T, pairs], axis=1), axis=1)
    return moves


def evaluate(spec: Spec, values: list[Integers]) -> tuple[Floats, Floats]:
    """Score, and total relative violation of budgets and rules (0 where feasible), of many architectures at once.

    ``values`` has an array for every gene. Effectiveness is allowed half the slack of :func:`violations`, so that
    rounding here cannot pass what is refused there.
    """
    limits = spec.budget.given
    ratio = limits.pop("effectiveness", math.inf)
    number = len(values[0])
    spent = dict.fromkeys(limits, np.zeros(number, np.int64))
    violation, h, log_width, layers = np.zeros(number), np.zeros(number), np.zeros(number), np.zeros(number, np.int64)
    worth = np.zeros(number)
    c, depths = np.full(number, spec.input.channels), []
    for s, segment in enumerate(spec.segments):
        c_in, (c, m, k, depth) = c, values[4 * s : 4 * s + 4]
        if segment.ruled:
            violation += ~spec.space.follows(c_in, c) * 1.0 + ~spec.space.carries(m, c) * 1.0
        first, rest = blocks.opening(segment, c_in, c, m, k), blocks.repeated(segment, c, m, k)
        head = blocks.closing(segment, c)
        for key, before in spent.items():
            spent[key] = MERGE[spec.costs[key].combine](before, own_cost(spec.costs[key], first, rest, head, depth))
        more = depth - 1
        layers = layers + entropy.count(first) + more * entropy.count(rest)
        log_width = log_width + entropy.log_width_product(first) + more * entropy.log_width_product(rest)
        h = h + entropy.entropy_gain(segment.weight, segment.out_size, c, segment.time.out_frames) * log_width
        worth += own_utility(segment, c, m, k, depth)
        if segment.bounded:
            excess = entropy.ratio(layers, log_width) / ratio - 1
            violation += np.where(excess > EFFECTIVENESS_TOLERANCE / 2, excess, 0.0)
        if segment.penalised:
            depths.append(depth)
    for key, limit in limits.items():
        violation += np.where(spent[key] > limit, spent[key] / limit - 1, 0.0)
    beta = spec.objective.depth_penalty
    penalty = entropy.penalty_of(entropy.spread(depths), len(depths), beta, spec.convention)
    factor = entropy.entropy_factor(spec.convention, spec.objective.entropy)
    return np.asarray(factor * h + worth - penalty), violation
