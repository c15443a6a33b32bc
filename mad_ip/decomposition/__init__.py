"""The optimum of a spec at any resolution of its grids: branch and bound on the Lagrangian program, coarse to fine.

No catalogue of options is ever made. A coarse part of the grids is solved first; its designs are designs of the spec,
and its tree, with the multipliers found, is the guide for the next finer part (docs/decomposition.md).
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mad_ip import search
from mad_ip.decomposition.least import least
from mad_ip.decomposition.workers import Workers, relaxation, serial
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.grids import grids
from mad_ip.lagrangian.program import Choice, Program
from mad_ip.lagrangian.tables import Integers
from mad_ip.lagrangian.tree import Node, State, Tree, branch_and_bound
from mad_ip.spec import Objective, Spec

__all__ = ["Found", "Path", "crude_bound", "optimise", "unreachable"]

Path = tuple[Choice, ...]

_COARSE_GAPS = (1e-3, 3e-4)
"""Relative gaps to which the coarsest grids are solved; the last serves all others but the finest."""

_SHARE = 0.4
"""Share of a time limit that coarse grids may take."""

_ISLANDS = 3
"""Evolutions that look for a first design."""

_SLACK = 1e-8
"""Relative excess of a least value over its budget that proves it out of reach; above every tolerance."""

_KEPT = 5
"""Best designs of a coarse grid from which the next is searched."""


@dataclass(frozen=True)
class Found:
    """How far it is: the best paths so far, the best first, and the bound on all designs that are not among them.

    ``score`` is the best path's, minus infinity without one; ``last`` is the last one's.
    """

    paths: tuple[Path, ...]
    score: float
    last: float
    bound: float
    nodes: int


def optimise(
    spec: Spec,
    workers: Workers,
    *,
    gap: float,
    seconds: float = math.inf,
    seed: int = 0,
    top: int = 1,
    watch: Callable[[Found], bool] = lambda _: False,
) -> Found:
    """The ``top`` best paths of a spec and a bound on all others within ``gap`` of the last one's score, relative to
    the magnitude of the best's.

    Stops early after ``seconds`` or when ``watch`` returns True. There are fewer paths when fewer designs exist; none
    and a bound of minus infinity when no design meets the budgets. The result does not depend on the workers: boxes
    are examined in rounds, of equal scores the path found first ranks before.
    """
    return _Descent(spec, workers, gap, seconds, seed, top, watch).run()


def unreachable(spec: Spec, seconds: float, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Whether it is proven within ``seconds`` that no design meets the budgets of a spec."""
    free = dataclasses.replace(spec, objective=Objective(0.0), sha256="")
    with serial() as workers:
        # Any design will do.
        found = optimise(free, workers, gap=math.inf, seconds=seconds, watch=lambda _: stopped())
    return not found.paths and found.bound == -math.inf


def crude_bound(spec: Spec) -> float:
    """An upper bound on the entropy of every architecture, in no time: the largest gains times the widest paths."""
    box = whole(spec).tightened()
    assert box is not None
    program = Program(relaxation(spec), box, ranged=False)
    if program.is_empty:
        return -math.inf
    pairs = zip(program.parts, program.carried, strict=True)
    return math.fsum(float(part.gain.max() * carried[1].max()) for part, carried in pairs) * (1 + 1e-9)


class _Grid:
    """The rows of a population, as the choices of a path."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.population = search.Population(spec)
        self.genes = self.population.genes()

    def row(self, path: Path) -> Integers:
        """The nearest row."""
        values = [path[0][0], *(value for chosen in path[1 : 1 + len(self.spec.stages)] for value in chosen)]
        values += [] if self.spec.tail is None else [path[-1][0]]
        return np.array([int(np.abs(gene - value).argmin()) for gene, value in zip(self.genes, values, strict=True)])

    def path(self, row: Integers) -> Path:
        """The choices of a row."""
        values = [int(gene[index]) for gene, index in zip(self.genes, row, strict=True)]
        stages = [values[1 + 4 * t : 5 + 4 * t] for t in range(len(self.spec.stages))]
        tail = [] if self.spec.tail is None else [(values[-1], 1, 1, 1)]
        return ((values[0], 1, 1, 1), *((c, m, k, depth) for c, m, k, depth in stages), *tail)


class _Descent:
    def __init__(
        self,
        spec: Spec,
        workers: Workers,
        gap: float,
        seconds: float,
        seed: int,
        top: int,
        watch: Callable[[Found], bool],
    ) -> None:
        self.spec, self.workers, self.gap, self.seconds, self.seed = spec, workers, gap, seconds, seed
        self.top, self.watch = top, watch
        self.grid = _Grid(spec)
        self.ranked: list[tuple[float, Path]] = []
        self.surrounded: set[Path] = set()
        self.bound = crude_bound(spec) - spec.objective.depth_penalty
        self.nodes = 0
        self.judge = functools.cache(self._judge)

    @property
    def score(self) -> float:
        """The best one's."""
        return self.ranked[0][0] if self.ranked else -math.inf

    @property
    def last(self) -> float:
        """The score of the last one looked for, minus infinity while there are fewer."""
        return self.ranked[-1][0] if len(self.ranked) == self.top else -math.inf

    def run(self) -> Found:
        began = time.perf_counter()
        guide: Node | None = None
        *coarse, finest = grids(self.spec)
        starts: list[Path] = []
        for number, grid in enumerate(coarse):
            left = self.seconds * _SHARE - (time.perf_counter() - began)
            if left <= 0 or self._stopped():
                break
            level = _Level(self, grid)
            level.start(starts, self.seed)
            if level.score == -math.inf:
                continue
            share = _COARSE_GAPS[min(number, len(_COARSE_GAPS) - 1)]
            guide = level.solve(max(share, self.gap), guide, left, final=False).root
            starts = level.best(_KEPT)
        level = _Level(self, finest)
        level.start(starts, self.seed)
        self.surround()
        if self.score == -math.inf:
            feasible = self._feasible(self.seconds - (time.perf_counter() - began))
            if not feasible:
                return self._found()
        tree = level.solve(self.gap, guide, self.seconds - (time.perf_counter() - began), final=True)
        self.bound = min(self.bound, max(self.last, tree.state.unjudged))
        return self._found()

    def surround(self) -> None:
        """Where alternatives are looked for, judge what lies around those found, until none of it is better."""
        while self.top > 1:
            path = next((path for _, path in self.ranked if path not in self.surrounded), None)
            if path is None:
                break
            self.surrounded.add(path)
            rows = search.around(self.grid.population, self.grid.row(path))
            scores, violations = self.grid.population.evaluate(rows)
            for row in rows[(violations == 0) & (scores > self.last)]:
                self.judge(self.grid.path(row))

    def _found(self) -> Found:
        paths = tuple(path for _, path in self.ranked)
        last = self.ranked[-1][0] if self.ranked else -math.inf
        return Found(paths, self.score, last, max(self.last, self.bound), self.nodes)

    def _stopped(self) -> bool:
        return self.watch(self._found())

    def _judge(self, path: Path) -> float:
        """The score of a path, which is ranked if good enough; minus infinity when it breaks a budget, in integers."""
        scores, violations = self.grid.population.evaluate(self.grid.row(path)[None])
        if violations[0] > 0:
            return -math.inf
        score = float(scores[0])
        if score > self.last:
            best = score > self.score
            bisect.insort(self.ranked, (score, path), key=lambda entry: -entry[0])
            del self.ranked[self.top :]
            if best:
                self._stopped()
        return score

    def _feasible(self, seconds: float) -> bool:
        """Look for any design until there is one; the bound becomes minus infinity when it is proven there is none.

        Without a depth penalty no score is negative: a box whose bound is has no design.
        """
        limits = {key: limit for key, limit in dataclasses.asdict(self.spec.budget).items() if limit is not None}
        if any(least(self.spec, key) > limit * (1 + _SLACK) for key, limit in limits.items()):
            self.bound = -math.inf
            return False
        spec = dataclasses.replace(self.spec, objective=Objective(0.0), sha256="")
        level = _Level(self, spec)

        def watch(state: State) -> bool:
            self.nodes = state.nodes
            return self.score > -math.inf or self._stopped()

        tree = branch_and_bound(
            relaxation(spec),
            lambda: -1e-6,
            self.judge,
            explore=level.explore,
            workers=functools.partial(self.workers, spec),
            seconds=seconds,
            watch=watch,
        )
        if self.score == -math.inf and tree.state.bound <= -1e-6:
            self.bound = -math.inf
        return self.score > -math.inf


class _Level:
    """One grid: its own search for designs, and its tree."""

    def __init__(self, descent: _Descent, spec: Spec) -> None:
        self.descent, self.spec = descent, spec
        self.grid = _Grid(spec)
        self.scores: dict[Path, float] = {}
        self.seen: set[tuple[int, ...]] = set()

    @property
    def score(self) -> float:
        """The best of this grid."""
        return max(self.scores.values(), default=-math.inf)

    def best(self, number: int) -> list[Path]:
        """Its best paths, of different depths."""
        ranked: dict[tuple[int, ...], Path] = {}
        for path in sorted(self.scores, key=lambda path: (-self.scores[path], path)):
            if self.scores[path] > -math.inf:
                ranked.setdefault(_depths(path), path)
        return list(ranked.values())[:number]

    def judge(self, path: Path) -> float:
        self.scores[path] = self.descent.judge(path)
        return self.scores[path]

    def start(self, paths: list[Path], seed: int) -> None:
        """Climb from the designs of a coarser grid, or from evolutions where there are none."""
        for path in paths:
            self._climb(self.grid.row(path))
        generator = np.random.default_rng(seed)
        for _ in range(_ISLANDS if not paths else 0):
            self._climb(search.evolve_island(self.grid.population, generator, lambda: False))

    def explore(self, path: Path) -> None:
        """Climb from a path, one of every vector of depths."""
        if _depths(path) not in self.seen:
            self.seen.add(_depths(path))
            self._climb(self.grid.row(path))

    def solve(self, gap: float, guide: Node | None, seconds: float, *, final: bool) -> Tree:
        """Branch and bound to a gap, below the best design of any grid."""
        descent = self.descent

        def target() -> float:
            least = descent.last if final else descent.score
            # While there are fewer designs than asked for, no box is too poor.
            return least if least == -math.inf else least + gap * max(abs(descent.score), 1e-9)

        def watch(state: State) -> bool:
            descent.nodes = state.nodes
            if final:
                descent.surround()
                descent.bound = min(descent.bound, max(state.unjudged, descent.last))
            return descent._stopped()

        return branch_and_bound(
            relaxation(self.spec),
            target,
            self.judge,
            explore=self.explore,
            guide=guide,
            workers=functools.partial(descent.workers, self.spec),
            seconds=seconds,
            watch=watch,
        )

    def _climb(self, row: Integers) -> None:
        self.judge(self.grid.path(search.polish(self.grid.population, row, lambda: False)))


def _depths(path: Path) -> tuple[int, ...]:
    return tuple(depth for _, _, _, depth in path)
