"""Points of a front that are solved one after another, each from what larger limits have left; chains side by side.

Of each other they know at most what is infeasible: a front is the same whoever solves its chains, and how many at once
(docs/fronts.md).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mad_ip.backends.decomposition import Decomposition
from mad_ip.decomposition import Earlier
from mad_ip.design import Design
from mad_ip.errors import MadIpWarning
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

    ``heads`` are the points that the next ones go on from, each for a budget, and ``trees`` those of their solves, if
    any: :func:`mad_ip.lagrangian.reuse.written` as JSON.
    """

    specs: dict[Place, Spec]
    solved: dict[Place, Solved] = field(default_factory=dict)
    heads: list[tuple[int, Place]] = field(default_factory=list)
    trees: dict[Place, bytes | None] = field(default_factory=dict)

    def left(self, time_limit: float) -> list[Place]:
        """The points that are still to be solved."""
        return [
            place for place in self.specs if not (found := self.solved.get(place)) or not found.suffices(time_limit)
        ]

    def run(
        self,
        settings: Settings,
        watch: Callable[[Place, Report], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Place]:
        """Solve what is left, point by point, until ``stopped``: what is at work then is dropped."""
        known = {at: self._earlier(at) for at in self.trees}
        for place in self.left(settings.time_limit):
            at = dict(self.heads).get(_axis(place))
            fits = at is not None and all(own <= other for own, other in zip(at, place, strict=True))
            found, earlier = self._solve(
                place, known[at] if at is not None and fits else None, settings, watch, stopped
            )
            if stopped():
                return
            self.solved[place] = found
            if earlier is not None:
                known[place] = earlier
                self.trees[place] = None if earlier.root is None else json.dumps(written(earlier.root)).encode()
                self.heads = list({**dict(self.heads), **dict.fromkeys(range(_axis(place), len(place)), place)}.items())
            if not self.left(math.inf):
                self.heads = []
            needed = {at for _, at in self.heads}
            self.trees = {at: tree for at, tree in self.trees.items() if at in needed}
            known = {at: earlier for at, earlier in known.items() if at in needed}
            yield place

    def _earlier(self, place: Place) -> Earlier:
        """What a solve takes over from a point."""
        spec, best, tree = self.specs[place], self.solved[place].design, self.trees[place]
        root = None if tree is None else restored(whole(spec), json.loads(tree))
        return Earlier(self._largest, spec, root, None if best is None else best.path)

    @property
    def _largest(self) -> Spec:
        return next(iter(self.specs.values()))

    def _solve(
        self,
        place: Place,
        earlier: Earlier | None,
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
        backend.earlier = earlier or Earlier(self._largest, self._largest)
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
        # Where it ended early, and unproven, for want of memory, the same time may tell more.
        seconds = settings.time_limit if status == "optimal" else min(settings.time_limit, design.certificate.seconds)
        return Solved(status, design.certificate.bound, seconds, prices, design), backend.earlier


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
    lost = False
    with ExitStack() as stack:

        def give(process: Process) -> None:
            while waiting:
                chain = waiting.pop()
                begin(chain)
                if chain.left(settings.time_limit):
                    running[process] = chain
                    process.give(chain)
                    return

        def messages(seconds: float) -> Iterator[Place]:
            nonlocal lost
            for process in ready(list(running), seconds):
                chain = running[process]
                try:
                    message = process.receive()
                except EOFError:
                    lost = True
                    del running[process]
                    continue
                match message:
                    case None:
                        del running[process]
                        if not lost and not stopped():
                            give(process)
                    case MadIpWarning():
                        warnings.warn(message, stacklevel=2)
                    case place, Report() as report:
                        if chain is next(iter(running.values())):
                            watch(place, report)
                    case place, found, heads, trees:
                        chain.solved[place], chain.heads, chain.trees = found, heads, trees
                        yield place

        for number in range(processes):
            own = dataclasses.replace(settings, threads=share + (number < more))
            give(stack.enter_context(started(_work, own)))
        while running and not lost and not stopped():
            yield from messages(_POLL)
        # What was proven by then.
        while ready(list(running), 0):
            yield from messages(0)
    if lost:
        raise Lost


def _work(settings: Settings, parent: Parent) -> None:
    """A process: chain after chain, with reports, warnings, points and, at the end of each, ``None``."""
    last, others = -math.inf, warnings.showwarning

    def warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if isinstance(message, MadIpWarning):
            parent.send(message)
        else:
            others(message, category, *place, **more)

    warnings.showwarning = warn

    def watch(place: Place, report: Report) -> None:
        nonlocal last
        if time.monotonic() - last > _POLL:
            last = time.monotonic()
            parent.send((place, report))

    while True:
        chain = parent.given()
        for place in chain.run(settings, watch):
            parent.send((place, chain.solved[place], chain.heads, chain.trees))
        parent.send(None)


def _axis(place: Place) -> int:
    """The budget along which a point is approached."""
    return max((axis for axis, at in enumerate(place) if at > 0), default=0)


def _infeasible(settings: Settings) -> Solved:
    return Solved("infeasible", -math.inf, settings.time_limit, {}, None)
