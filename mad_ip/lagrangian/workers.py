"""Who examines the boxes of a round: threads of this process, or a Dask cluster.

The loops of :mod:`mad_ip.lagrangian.kernels` hold no lock, so that threads share the boxes of a round, and the loops of
a box where a round has only one. On a cluster every task travels with its spec (a few kilobytes), and every process
keeps the relaxations of the last specs: workers have no state to set up or to lose. Results come in the order of the
tasks and do not depend on who examined them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from mad_ip.errors import InputError, MadIpError
from mad_ip.lagrangian.program import Relaxation
from mad_ip.lagrangian.tree import Examined, Task, examine
from mad_ip.processes import Parent, Process, ready, started
from mad_ip.spec import Spec

__all__ = ["Workers", "cluster", "relaxation", "threads"]

Workers = Callable[[Spec, Sequence[Task], Callable[[], bool]], list[Examined]]
"""Examines tasks of a spec, in order, until told to stop; an exception of :func:`examine` is raised as it is."""

_POLL = 0.02
"""Seconds between two looks at whether to stop, while processes work."""

_PATIENCE = 10
"""Seconds that a Dask scheduler has to answer."""


@functools.lru_cache(maxsize=2)
def relaxation(spec: Spec) -> Relaxation:
    """The relaxation of a spec, built once in a process: what boxes share takes a second on a fine grid."""
    return Relaxation(spec)


def _examined(spec: Spec, task: Task) -> Examined:
    return examine(relaxation(spec), task)


def _one_by_one(spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Examined]:
    return [examine(relaxation(spec), task, stop=stop) for task in tasks]


@contextmanager
def threads(number: int) -> Iterator[Workers]:
    """So many threads of this process, and as many processes for rounds of several boxes."""
    if number == 1:
        yield _one_by_one
        return
    with ThreadPoolExecutor(number) as pool, _Crew(number) as crew:

        def shared(size: int, work: Callable[[int, int], Any]) -> list[Any]:
            # A few parts for each thread: not all take as long.
            ends = [size * part // (4 * number) for part in range(4 * number + 1)]
            return list(pool.map(work, ends[:-1], ends[1:]))

        def examine_all(spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Examined]:
            known = relaxation(spec)
            known.widest  # noqa: B018 (once, before the threads ask for it)
            if len(tasks) == 1:
                return [examine(known, tasks[0], shared=shared, stop=stop)]
            return crew.examine(spec, tasks, stop) or list(
                pool.map(functools.partial(examine, known, stop=stop), tasks)
            )

        yield examine_all


class _Crew:
    """Processes that examine the boxes of a spec once they are ready; they end with the context."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.spec: Spec | None = None
        self.processes: list[Process] = []
        self.starting: set[Process] = set()
        self.stack = ExitStack()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def examine(self, spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Examined]:
        """What the tasks find; nothing as long as the processes are not ready, or when one is lost."""
        try:
            return self._examined(tasks, stop) if self._is_ready(spec) else []
        except EOFError:
            # No task is lost with it: this process examines them all.
            self.stack.close()
            self.processes = []
            return []

    def _is_ready(self, spec: Spec) -> bool:
        if self.spec != spec:
            self.stack.close()
            self.spec = spec
            self.processes = [self.stack.enter_context(started(_serve, spec)) for _ in range(self.number)]
            self.starting = set(self.processes)
        for process in [process for process in self.starting if process.poll(0)]:
            process.receive()
            self.starting.remove(process)
        return bool(self.processes) and not self.starting

    def _examined(self, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Examined]:
        found: dict[int, Examined] = {}
        left = iter(range(len(tasks)))
        busy: dict[Process, int] = {}
        free = list(self.processes)
        while len(found) < len(tasks):
            for process, place in zip(free, left, strict=False):
                process.send(tasks[place])
                busy[process] = place
            free = ready(list(busy), _POLL)
            for process in free:
                found[busy.pop(process)] = process.receive()
            if stop():
                for process in self.processes:
                    process.ask()
        return [found[place] for place in range(len(tasks))]


def _serve(spec: Spec, parent: Parent) -> None:
    """A process of a crew: it says when it is ready, and what it finds in every box that it is sent."""
    known = Relaxation(spec)
    known.widest  # noqa: B018 (once, for all boxes)
    parent.send("ready")
    while True:
        parent.send(examine(known, parent.receive(), stop=parent.asked))


@contextmanager
def cluster(address: str) -> Iterator[Workers]:
    """The workers of the Dask scheduler at ``address``, which have mad-ip installed too.

    Dask examines the tasks of lost workers again. Raise :class:`InputError` without the extra ``cluster``, or when no
    scheduler answers; :class:`MadIpError` when the scheduler is lost or a task kills several workers.
    """
    try:
        from dask.distributed import Client, KilledWorker
    except ImportError:
        raise InputError(
            "--cluster needs dask.distributed, which is not installed; pip install 'mad-ip[cluster]'"
        ) from None
    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError):
        raise InputError(
            f"--cluster {address}: no Dask scheduler answers there within {_PATIENCE} s; "
            "must be an address such as tcp://127.0.0.1:8786"
        ) from None

    def examine_all(spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Examined]:
        futures: Any = client.map(functools.partial(_examined, spec), tasks, pure=False)
        try:
            return list(client.gather(futures))
        except KilledWorker:
            raise MadIpError(f"--cluster {address}: several workers died over the same box") from None
        except CancelledError:
            raise MadIpError(f"--cluster {address}: the scheduler is gone") from None

    with client:
        yield examine_all
