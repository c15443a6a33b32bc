"""Points of a front that are solved one after another, each from what larger limits have left; chains side by side.

A chain depends on no other: a front is the same whoever solves its chains, and how many at once (docs/fronts.md).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mad_ip.backends.decomposition import Decomposition
from mad_ip.decomposition import Earlier
from mad_ip.design import Design
from mad_ip.front import Status
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.reuse import restored, written
from mad_ip.prices import multipliers
from mad_ip.processes import Parent, Process, ready, started
from mad_ip.solve import InfeasibleError, NoDesignError, Report, search
from mad_ip.spec import Spec

__all__ = ["Chain", "Lost", "Place", "Settings", "Solved", "chains", "larger", "side_by_side"]

_LEAST = 10
"""Points of a chain at least, where there are as many: the first has nobody's tree to go on from."""

_POLL = 0.05
"""Seconds between looks at whether to stop, and between the reports of a process."""

Place: TypeAlias = tuple[int, ...]
"""Where a point is on its grid: 0 is the largest limit of each budget."""


class Lost(Exception):  # noqa: N818 - no error of its own
    """A process ended with its chain not done."""


@dataclass(frozen=True)
class Settings:
    """How every point is solved: as in :func:`mad_ip.solve.solve`, with the address of a ``cluster``, if any."""

    gap: float
    time_limit: float
    threads: int
    seed: int
    cluster: str | None


@dataclass(frozen=True)
class Solved:
    """What is kept of a point: how its solve ended, within which seconds, and the multipliers at its design."""

    status: Status
    bound: float
    seconds: float
    multipliers: dict[str, float]
    design: Design | None

    def suffices(self, time_limit: float) -> bool:
        """Whether so many seconds would not tell more."""
        return self.status in ("optimal", "infeasible") or time_limit <= self.seconds


@dataclass
class Chain:
    """Some points of a grid in the order in which they are solved, the largest limits first, and what is known of them.

    ``trees`` are what the next points go on from: for a budget, the place of a point, and its tree (as
    :func:`mad_ip.lagrangian.reuse.written` has it), if any.
    """

    specs: dict[Place, Spec]
    solved: dict[Place, Solved] = field(default_factory=dict)
    trees: list[tuple[int, Place, list[Any] | None]] = field(default_factory=list)

    def left(self, time_limit: float) -> list[Place]:
        """The points that are still to be solved."""
        return [
            place for place in self.specs if not (found := self.solved.get(place)) or not found.suffices(time_limit)
        ]

    def heads(self) -> dict[int, tuple[Place, Earlier]]:
        """The ``trees`` as a solve takes them over; raise :class:`ValueError` or so where they are none."""
        found = {}
        for axis, place, records in self.trees:
            spec, best = self.specs[place], self.solved[place].design
            root = None if records is None else restored(whole(spec), records)
            found[axis] = place, Earlier(self._largest, spec, root, None if best is None else best.path)
        return found

    def run(
        self,
        settings: Settings,
        watch: Callable[[Place, Report], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Place]:
        """Solve what is left, point by point, until ``stopped``: what is at work then is dropped."""
        heads, axes = self.heads(), len(next(iter(self.specs)))
        for place in self.left(settings.time_limit):
            found, earlier = self._solve(place, heads, settings, watch, stopped)
            if stopped():
                return
            self.solved[place] = found
            if earlier is not None:
                for axis in range(_axis(place), axes):
                    heads[axis] = place, earlier
            if self.left(math.inf):
                trees = {at: None if head.root is None else written(head.root) for at, head in heads.values()}
                self.trees = [(axis, at, trees[at]) for axis, (at, _) in heads.items()]
            else:
                self.trees = []
            yield place

    @property
    def _largest(self) -> Spec:
        return next(iter(self.specs.values()))

    def _solve(
        self,
        place: Place,
        heads: Mapping[int, tuple[Place, Earlier]],
        settings: Settings,
        watch: Callable[[Place, Report], None],
        stopped: Callable[[], bool],
    ) -> tuple[Solved, Earlier | None]:
        """A point, and what the next one may use of it."""
        spec = self.specs[place]
        # Nothing within smaller limits is better.
        bound = min((self.solved[other].bound for other in larger(place) if other in self.solved), default=math.inf)
        if bound == -math.inf:
            return _infeasible(settings), None
        backend = Decomposition({} if settings.cluster is None else {"cluster": settings.cluster})
        head, earlier = heads.get(_axis(place), (place, None))
        fits = all(own <= other for own, other in zip(head, place, strict=True))
        backend.earlier = earlier if earlier is not None and fits else Earlier(self._largest, self._largest)
        # Whatever is within these limits, too.
        backend.starts = [done.design.path for done in self.solved.values() if done.design is not None]
        try:
            design: Design | None = search(
                spec,
                backend,
                bound=bound,
                time_limit=settings.time_limit,
                gap=settings.gap,
                threads=settings.threads,
                seed=settings.seed,
                watch=lambda report: watch(place, report),
                interrupted=stopped,
            )
        except InfeasibleError:
            return _infeasible(settings), None
        except NoDesignError:
            return Solved("feasible", bound, settings.time_limit, {}, None), None
        assert design is not None
        assert design.certificate is not None
        status: Status = "optimal" if design.certificate.status == "optimal" else "feasible"
        prices = multipliers(spec, design.path, self._largest)
        return Solved(status, design.certificate.bound, settings.time_limit, prices, design), backend.earlier


def chains(specs: Mapping[Place, Spec]) -> list[Chain]:
    """The points of a grid in chains of so many neighbours along the first budget that each is long enough."""
    first = [place[0] for place in specs]
    rows = max(1, math.ceil(_LEAST * (1 + max(first)) / len(first)))
    found: dict[int, Chain] = {}
    for place, spec in specs.items():
        found.setdefault(place[0] // rows, Chain({})).specs[place] = spec
    return list(found.values())


def larger(place: Place) -> Iterator[Place]:
    """The points with the next larger limit on one budget."""
    for axis, at in enumerate(place):
        if at > 0:
            yield (*place[:axis], at - 1, *place[axis + 1 :])


def side_by_side(
    given: Sequence[Chain],
    settings: Settings,
    processes: int,
    watch: Callable[[Place, Report], None],
    stopped: Callable[[], bool],
    begin: Callable[[Chain], None],
) -> Generator[Place, None, None]:
    """Solve what is left of chains, so many at a time, in processes that share the threads; every point as it is known.

    ``begin`` is called with every chain before it is begun. ``watch`` is told of one of them at a time, the one that
    was begun first. When ``stopped``, what is at work is dropped. Raises :class:`Lost` where a process ended, and what
    a solve raises.
    """
    share, more = divmod(settings.threads, processes)
    waiting = list(given)[::-1]
    running: dict[Process, Chain] = {}
    with ExitStack() as stack:

        def give(process: Process) -> None:
            while waiting:
                chain = waiting.pop()
                begin(chain)
                if chain.left(settings.time_limit):
                    running[process] = chain
                    process.give(chain)
                    return

        for number in range(processes):
            own = dataclasses.replace(settings, threads=share + (number < more))
            give(stack.enter_context(started(_work, own)))
        while running and not stopped():
            for process in ready(list(running), _POLL):
                chain = running[process]
                try:
                    message = process.receive()
                except EOFError:
                    raise Lost from None
                match message:
                    case None:
                        del running[process]
                        give(process)
                    case place, Report() as report:
                        if chain is next(iter(running.values())):
                            watch(place, report)
                    case place, found, trees:
                        chain.solved[place], chain.trees = found, trees
                        yield place


def _work(settings: Settings, parent: Parent) -> None:
    """A process: chain after chain, with reports, points and, at the end of each, ``None``."""
    last = -math.inf

    def watch(place: Place, report: Report) -> None:
        nonlocal last
        if time.monotonic() - last > _POLL:
            last = time.monotonic()
            parent.send((place, report))

    while True:
        chain = parent.given()
        for place in chain.run(settings, watch):
            parent.send((place, chain.solved[place], chain.trees))
        parent.send(None)


def _axis(place: Place) -> int:
    """The budget along which a point is approached."""
    return max((axis for axis, at in enumerate(place) if at > 0), default=0)


def _infeasible(settings: Settings) -> Solved:
    return Solved("infeasible", -math.inf, settings.time_limit, {}, None)
