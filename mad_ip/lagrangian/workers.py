"""Who examines boxes: this process and others beside it, or a Dask cluster.

Most of the time of a small box is the interpreter's, so that processes share small boxes. Of a large one it is that of
loops, which hold no lock, so that threads of this process share them. Every task travels with its spec (a few
kilobytes), and every process keeps the relaxations of the last specs: workers have no state to set up or to lose.
Results come in the order of the tasks and do not depend on who examined them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from mad_ip.errors import InputError, MadIpError
from mad_ip.lagrangian.program import Relaxation, Shared
from mad_ip.lagrangian.tree import Examined, Task, examine
from mad_ip.processes import Parent, Process, ready, started
from mad_ip.spec import Spec

__all__ = ["Workers", "cluster", "relaxation", "threads"]

Workers = Callable[[Spec, Sequence[Task], Callable[[], bool]], Iterator[Examined]]
"""Examines tasks of a spec until told to stop, at the latest when asked for what each has found, in order; an exception
of :func:`examine` is raised as it is."""

_POLL = 0.02
"""Seconds between two looks at whether to stop, while processes work."""

_HELD, _MOST = 2, 8
"""Tasks that a process has at once: the one it works on, and the next; more, up to the second, where many wait."""

_PATIENCE = 10
"""Seconds that a Dask scheduler has to answer."""


@functools.lru_cache(maxsize=2)
def relaxation(spec: Spec) -> Relaxation:
    """The relaxation of a spec, built once in a process: what boxes share takes a second on a fine grid."""
    return Relaxation(spec)


def _examined(spec: Spec, task: Task, **options: Any) -> Examined:
    return examine(relaxation(spec), task, **options)


@contextmanager
def threads(number: int) -> Iterator[Workers]:
    """This thread and ``number - 1`` processes for small boxes, and so many threads for the loops of large ones."""
    if number == 1:
        yield lambda spec, tasks, stop: (_examined(spec, task, stop=stop) for task in tasks)
        return
    with ThreadPoolExecutor(number) as pool, ExitStack() as stack:

        def shared(size: int, work: Callable[[int, int], Any]) -> list[Any]:
            # A few parts for each thread: not all take as long.
            ends = [size * part // (4 * number) for part in range(4 * number + 1)]
            return list(pool.map(work, ends[:-1], ends[1:]))

        yield _Crew([stack.enter_context(started(_serve, None)) for _ in range(number - 1)], shared).examine


class _Crew:
    """Boxes that this thread examines, and processes once they are ready.

    Every task has a number, in the order in which they come. A process holds some tasks, so that it need not wait for
    this thread, which examines the others: all large boxes, whose loops threads share.
    """

    def __init__(self, processes: list[Process], shared: Shared) -> None:
        self.starting, self.shared = processes, shared
        self.tickets = itertools.count()
        self.waiting: dict[int, tuple[Spec, Task]] = {}
        self.large: set[int] = set()
        self.found: dict[int, Examined] = {}
        self.held: dict[Process, dict[int, tuple[Spec, Task]]] = {}

    def examine(self, spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> Iterator[Examined]:
        """What the tasks find, in their order; processes begin at once."""
        tickets = list(itertools.islice(self.tickets, len(tasks)))
        self.waiting.update(zip(tickets, ((spec, task) for task in tasks), strict=True))
        self.large = {t for t, (spec, task) in self.waiting.items() if relaxation(spec).is_large(task.box)}
        self._exchange(0.0)
        return self._results(tickets, stop)

    def _results(self, tickets: Sequence[int], stop: Callable[[], bool]) -> Iterator[Examined]:
        # What was asked for before these and is not looked at by now is not wanted any more.
        for ticket in [ticket for ticket in (*self.waiting, *self.found) if ticket < min(tickets, default=0)]:
            self.waiting.pop(ticket, None)
            self.found.pop(ticket, None)
        for ticket in tickets:
            while ticket not in self.found:
                self._work(stop)
            yield self.found.pop(ticket)

    def _work(self, stop: Callable[[], bool]) -> None:
        """Examine one box here, or else wait for the processes."""
        self._exchange(0.0 if self.waiting else _POLL)
        if stop():
            for process in self.held:
                process.ask()
        if self.waiting:
            ticket = min(self.waiting)
            spec, task = self.waiting.pop(ticket)
            self.found[ticket] = _examined(spec, task, shared=self.shared, stop=stop)

    def _exchange(self, seconds: float) -> None:
        """Take what processes have found, within ``seconds``, and hand out what waits."""
        for process in ready([*self.starting, *self.held], seconds):
            try:
                ticket, found = process.receive()
                if process in self.starting:
                    self.starting.remove(process)
                    self.held[process] = {}
                elif self.held[process].pop(ticket, None):
                    self.found[ticket] = found
            except EOFError:
                self._lost(process)
        small = sorted(self.waiting.keys() - self.large, reverse=True)
        most = min(max(_HELD, len(small) // (2 * max(1, len(self.held)))), _MOST)
        for process in [process for _ in range(most) for process in self.held]:
            if small and process in self.held and len(self.held[process]) < most:
                ticket = small.pop()
                self.held[process][ticket] = self.waiting.pop(ticket)
                try:
                    process.send((ticket, *self.held[process][ticket]))
                except EOFError:
                    self._lost(process)

    def _lost(self, process: Process) -> None:
        """No task is lost with a process."""
        if process in self.starting:
            self.starting.remove(process)
        self.waiting.update(self.held.pop(process, {}))


def _serve(_: None, parent: Parent) -> None:
    """A process of a crew: it says when it is ready, and what it finds in every box that it is sent."""
    parent.send((-1, None))
    while True:
        ticket, spec, task = parent.receive()
        parent.send((ticket, _examined(spec, task, stop=parent.asked)))


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

    def examine_all(spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> Iterator[Examined]:
        futures: Any = client.map(functools.partial(_examined, spec), tasks, pure=False)
        try:
            return iter(client.gather(futures))
        except KilledWorker:
            raise MadIpError(f"--cluster {address}: several workers died over the same box") from None
        except CancelledError:
            raise MadIpError(f"--cluster {address}: the scheduler is gone") from None

    with client:
        yield examine_all
