"""The optimum of a spec on grids as fine as one likes: branch and bound on the Lagrangian program.

No catalogue of options is ever made: the tree shrinks boxes until they are below the best design, single architectures,
or so small that what survives in them can be listed for a MILP solver (docs/decomposition.md).
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import heapq
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass, field

import numpy as np

from mad_ip import search
from mad_ip.decomposition.least import least
from mad_ip.lagrangian.annealing import Annealer
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.program import Bound, Relaxation, relaxed
from mad_ip.lagrangian.reuse import reopened
from mad_ip.lagrangian.survivors import Survivors, surviving
from mad_ip.lagrangian.tree import THIN, Node, Reopened, State, Task, Tree, branch_and_bound, examine, guessed
from mad_ip.lagrangian.workers import Problem, Workers
from mad_ip.lagrangian.workers import threads as thread_pool
from mad_ip.spec import Objective, Path, Spec

__all__ = ["Earlier", "Found", "crude_bound", "magnitude", "optimise", "unreachable"]

_WALKS, _STEPS, _HOT, _COLD = 8, 300_000, 2e-3, 5e-5
"""Walks that look for a first design, their steps at most, and their temperatures relative to the score."""

_PER_VALUE = 1_000
"""Steps for every value of a choice: small spaces are walked through in no time."""

_SHORT, _WARM = 30_000, 1e-3
"""Steps and temperature of a walk from a path that holds up a bound."""

_FURTHER = 60_000
"""Steps of walks from the best design of larger limits."""

_TRIED = 8
"""Boxes that may pass the target there, of which a part is looked at first."""

_SLACK_KEPT = 0.05
"""How far below the target, relatively, values are kept in the boxes of a tree that serves for smaller limits."""

_ANY = -1e-6
"""A target that every design passes where depths are not penalised."""

_BELOW = 1e-9
"""How far below the best design, relatively, options are kept for a check, and paths judged: rounding is far less."""

_PARTS = 5e-12
"""Rounding of bounds, relative to what the parts of a score add up to; less than what counts as none."""

_AROUND = 120
"""Values over all choices of a box around the best design where that check is made."""

_CHECKED = 80
"""Options given for that check: a MILP solver takes a tenth of a second for them, a second for twice as many."""

_SLACK = 1e-8
"""Relative excess of a least value over its budget that proves it out of reach; above every tolerance."""


@dataclass(frozen=True)
class Earlier:
    """What was found for the same spec with larger limits: its tree and its best path.

    ``largest`` has the largest limits of all specs that hand their trees on, ``spec`` those of the tree. Without a tree
    there is nothing to take over, but for whoever comes next.
    """

    largest: Spec
    spec: Spec
    root: Node | None = None
    best: Path | None = None


@dataclass(frozen=True)
class Found:
    """How far it is: the best paths so far, the best first, and the bound on all designs that are not among them.

    ``score`` is the best path's, minus infinity without one; ``last`` is the last one's. ``dropped`` bounds the designs
    that are neither among the paths nor among the ``survivors``, which is ``None`` where nothing was listed. ``root``
    is the tree, where it is of use for smaller limits.
    """

    paths: tuple[Path, ...]
    score: float
    last: float
    bound: float
    nodes: int
    dropped: float = math.inf
    survivors: Survivors | None = field(default=None, repr=False)
    root: Node | None = field(default=None, repr=False)


def optimise(
    spec: Spec,
    workers: Workers,
    *,
    gap: float,
    seconds: float = math.inf,
    seed: int = 0,
    threads: int = 1,
    top: int = 1,
    most: float = math.inf,
    starts: Sequence[Path] = (),
    earlier: Earlier | None = None,
    watch: Callable[[Found], bool] = lambda _: False,
    stop: Callable[[], bool] = lambda: False,
) -> Found:
    """The ``top`` best paths of a spec and a bound on all others within ``gap`` of the last one's score, relative to
    the magnitude of the best's.

    ``threads`` look for a first design, ``workers`` examine boxes. What is open after ``most`` boxes is left, to be
    listed for another solver. ``starts`` are known designs. With ``earlier``, nothing is listed: the tree goes on from
    what is known by larger limits, and comes with the result. Stops early after ``seconds``, when ``watch`` returns
    True or when ``stop``, asked at any moment, does. There are fewer paths when fewer designs exist; none and a bound
    of minus infinity when no design meets the budgets. The result does not depend on the workers; of equal scores the
    path found first ranks before.
    """
    return _Descent(spec, workers, gap, seconds, seed, threads, top, most, earlier, watch, stop).run(starts)


def unreachable(spec: Spec, seconds: float, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Whether it is proven within ``seconds`` that no design meets the budgets of a spec."""
    free = dataclasses.replace(spec, objective=Objective(0.0), sha256="")
    with thread_pool(1) as workers:
        # Any design will do.
        found = optimise(free, workers, gap=math.inf, seconds=seconds, stop=stopped)
    return not found.paths and found.bound == -math.inf


def crude_bound(spec: Spec, largest: Spec | None = None) -> float:
    """An upper bound on the entropy in the score and the utility of every architecture, in no time: the largest gains
    times the widest paths, and the most that choices are worth.
    """
    program = relaxed(Problem(spec, largest).relaxation, whole(spec), ranged=False)
    if program is None:
        return -math.inf
    numbers = program.tables.shapes[:, 1]
    widest = np.maximum.reduceat(program.high, np.cumsum(numbers) - numbers)
    worth = math.fsum(program.worths[:, 1])
    return math.fsum(program.gains * widest) * (1 + 1e-9) + worth + 1e-9 * spec.magnitude


def magnitude(spec: Spec, largest: Spec | None = None) -> float:
    """About what the parts of a score add up to without their signs."""
    crude = crude_bound(spec, largest)
    return (abs(crude) if math.isfinite(crude) else 0.0) + spec.magnitude + spec.objective.depth_penalty


@dataclass
class _Descent:
    """A run of :func:`optimise`, whose arguments come first; ``ranked`` are the best designs with their scores."""

    spec: Spec
    workers: Workers
    gap: float
    seconds: InitVar[float]
    seed: int
    threads: int
    top: int
    most: float
    earlier: Earlier | None
    watch: Callable[[Found], bool]
    stop: Callable[[], bool]
    ranked: list[tuple[float, Path]] = field(default_factory=list)
    surrounded: set[Path] = field(default_factory=set)
    climbed: set[tuple[int, ...]] = field(default_factory=set)
    nodes: int = 0

    def __post_init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds
        self.problem = Problem(self.spec, None if self.earlier is None else self.earlier.largest)
        self.population = search.Population(self.spec)
        self.annealer = Annealer(self.problem.relaxation)
        self.bound = crude_bound(*self.problem) - self.spec.objective.depth_penalty
        # No bound is nearer to a score that is small beside its parts.
        self.rounding = 0.0 if self.spec.objective.is_plain else _PARTS * magnitude(*self.problem)
        self.judge = functools.cache(self._judge)

    @property
    def score(self) -> float:
        """The best one's."""
        return self.ranked[0][0] if self.ranked else -math.inf

    @property
    def last(self) -> float:
        """The score of the last one looked for, minus infinity while there are fewer."""
        return self.ranked[-1][0] if len(self.ranked) == self.top else -math.inf

    def run(self, starts: Sequence[Path]) -> Found:
        known = self.earlier is not None and self.earlier.best is not None
        first = self._guessed() if starts or known else None
        for path in starts:
            self.judge(path)
            if first is not None and not known:
                self.explore(path, first)
        if known and first is not None:
            self._walk_on(first)
        # Without a depth penalty, where the tree is one that looks for a first design.
        problem, tree = self.problem, None
        if not self.ranked:
            problem, tree = self.problem.unpenalised(), self._begun()
        if self.ranked and self.most > 0:
            problem, tree = self.problem, self._branch(self.problem, self._target, self._follow, self._reopened())
            self.bound = min(self.bound, max(self.last, tree.state.unjudged))
        found = self._found()
        if self.earlier is not None:
            return found if tree is None or not self.ranked else dataclasses.replace(found, root=tree.root)
        if tree is None or self.most == 0 or self.bound == -math.inf or self._stopped():
            return found
        left, dropped = self._survivors(problem.relaxation, tree)
        return dataclasses.replace(found, dropped=max(dropped, self.last), survivors=left)

    def _walk_on(self, first: Bound) -> None:
        """Look for a first design around the best one of larger limits."""
        assert self.earlier is not None
        assert self.earlier.best is not None
        self._walks(self.earlier.best, first, _FURTHER)

    def _walks(self, start: Path, by: Bound, most: int) -> None:
        """Judge what walks of at most so many steps come to, the first of which is however late it is."""
        scale = max(1.0, abs(by.value), self.spec.magnitude)
        steps = min(most, _PER_VALUE * whole(self.spec).size)

        def walk(number: int) -> Path | None:
            late = number > 0 and self._stopped()
            return None if late else self.annealer.walk(start, by, self.seed + number, steps, _HOT, _COLD, scale)

        with ThreadPoolExecutor(self.threads) as pool:
            found = {path: self.annealer.score(path) for path in pool.map(walk, range(_WALKS)) if path is not None}
        # The best first: every better one is checked and reported.
        for path in sorted(found, key=lambda path: -found[path]):
            self._consider(path)

    def _reopened(self) -> Reopened | None:
        """What is known by larger limits."""
        earlier = self.earlier
        if earlier is None or earlier.root is None:
            return None
        before, known = Problem(earlier.spec, earlier.largest).relaxation, self.problem.relaxation
        begun = reopened(earlier.root, before, known, self._target(), self.judge)
        # The more is known of the best score, the less is open.
        for node, _ in heapq.nlargest(_TRIED, begun.open, key=lambda entry: entry[1].value):
            found = guessed(known, node.box.thinned(THIN))
            if found is not None and found.path is not None and not self._stopped():
                self.explore(found.path, found)
        return reopened(earlier.root, before, known, self._target(), self.judge)

    def _survivors(self, known: Relaxation, tree: Tree) -> tuple[Survivors | None, float]:
        """What another solver is given, and a bound on all other designs.

        That is what survives in the boxes that are left. Where none is, it is a check: the options of the architectures
        that had to be judged one by one, and what survives just below the best one in its own part of the tree.
        """
        target = self._target() if self.ranked else _ANY
        parts = [surviving(known, box, bound, target) for box, bound in tree.left if bound.value > target]
        dropped = tree.state.settled
        if not parts:
            dropped = tree.state.unjudged
            parts = [self._near(known, tree)] if self.ranked else []
        points = [*tree.points, *(path for _, path in self.ranked)]
        if points:
            parts.append(Survivors.along(points, self.spec.input.channels))
        listed = [part for part in parts if part is not None]
        if len(listed) < len(parts):
            return None, dropped
        return listed[0].joined(listed[1:]), dropped

    def _near(self, known: Relaxation, tree: Tree) -> Survivors | None:
        score, best = self.ranked[0]
        node = tree.holding(best, _AROUND)
        nothing = Survivors.along([best], self.spec.input.channels)
        if node.multipliers is None:
            return nothing
        above = Bound(node.value, node.multipliers, node.tangents, None)
        target = score - _BELOW * max(abs(score), 1e-9)
        found = examine(known, Task(node.box, above, above, None, target), stop=self._stopped)
        if found.bound is None:
            return nothing
        box = found.trims[-1].box if found.trims else node.box
        return surviving(known, box, found.bound, target, best=_CHECKED)

    def _begun(self) -> Tree | None:
        """Find a first design; the bound becomes minus infinity when it is proven that there is none.

        With the paper's objective and no depth penalty no score is negative: a box whose bound is has no design. The
        tree that looks for one is returned where neither was found.
        """
        first = self._guessed()
        if first is None or first.path is None:
            self.bound = -math.inf
            return None
        self._walks(first.path, first, _STEPS)
        if self.ranked:
            return None
        limits = {key: limit for key, limit in self.spec.budget.given.items() if key not in self.spec.budget.maxima}
        if any(least(self.spec, key) > limit * (1 + _SLACK) for key, limit in limits.items()):
            self.bound = -math.inf
            return None
        free, any_design = self.problem.unpenalised(), lambda: _ANY
        tree = self._branch(free, any_design, lambda state: bool(self.ranked) or self.watch(self._found()), None)
        if not self.ranked and tree.state.bound <= _ANY:
            self.bound = -math.inf
        return tree

    def _guessed(self) -> Bound | None:
        """About what the best score is, by a part of the grid if that has any design."""
        box, known = whole(self.spec), self.problem.relaxation
        first = guessed(known, box.thinned(THIN))
        return guessed(known, box) if first is None or first.path is None else first

    def _branch(
        self, problem: Problem, target: Callable[[], float], watch: Callable[[State], bool], begun: Reopened | None
    ) -> Tree:
        def follow(state: State) -> bool:
            self.nodes = state.nodes
            return watch(state)

        return branch_and_bound(
            problem.relaxation,
            target,
            self.judge,
            consider=self._consider,
            explore=self.explore,
            workers=functools.partial(self.workers, problem),
            most=self.most,
            seconds=self.end - time.perf_counter(),
            watch=follow,
            stop=self.stop,
            slack=0.0 if self.earlier is None else _SLACK_KEPT,
            begun=begun,
        )

    def _target(self) -> float:
        # While there are fewer designs than asked for, no box is too poor.
        if self.last == -math.inf:
            return self.last
        return self.last + max(self.gap * max(abs(self.score), 1e-9), self.rounding)

    def _follow(self, state: State) -> bool:
        self.surround()
        self.bound = min(self.bound, max(state.unjudged, self.last))
        return self.watch(self._found())

    def explore(self, path: Path, bound: Bound) -> None:
        """Walk around a path that holds up a bound, one of every vector of depths."""
        depths = tuple(choice.depth for choice in path)
        if depths not in self.climbed:
            self.climbed.add(depths)
            scale = max(1.0, abs(self.score if self.ranked else self.bound), self.spec.magnitude)
            self._consider(self.annealer.walk(path, bound, self.seed, _SHORT, _WARM, _COLD, scale))

    def _consider(self, path: Path) -> None:
        """Judge a path that may be among the best: to say that of all takes longer than to find them."""
        if self.annealer.score(path) > self.last - _BELOW * abs(self.last):
            self.judge(path)

    def surround(self) -> None:
        """Where alternatives are looked for, judge what lies around those found, until none of it is better."""
        while self.top > 1:
            path = next((path for _, path in self.ranked if path not in self.surrounded), None)
            if path is None:
                break
            self.surrounded.add(path)
            rows = search.around(self.population, self.population.row(path))
            scores, violations = self.population.evaluate(rows)
            for row in rows[(violations == 0) & (scores > self.last)]:
                self.judge(self.population.path(row))

    def _found(self) -> Found:
        paths = tuple(path for _, path in self.ranked)
        last = self.ranked[-1][0] if self.ranked else -math.inf
        return Found(paths, self.score, last, max(self.last, self.bound), self.nodes)

    def _stopped(self) -> bool:
        return time.perf_counter() > self.end or self.stop()

    def _judge(self, path: Path) -> float:
        """The score of a path, which is ranked if good enough; minus infinity when it breaks a budget, in integers."""
        scores, violations = self.population.evaluate(self.population.row(path)[None])
        if violations[0] > 0:
            return -math.inf
        score = float(scores[0])
        if score > self.last:
            best = score > self.score
            bisect.insort(self.ranked, (score, path), key=lambda entry: -entry[0])
            del self.ranked[self.top :]
            if best:
                self.watch(self._found())
        return score
