"""Who examines boxes: this process and others beside it, or a Dask cluster.

Processes share boxes. The loops of a large one, which hold no lock, are shared by threads that take what cores the
others leave. Every task travels with its spec (a few kilobytes), and every process keeps the relaxations of the last
specs: workers have no state to set up or to lose. Results come in the order of the tasks and do not depend on who
examined them.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from mad_ip.errors import InputError, MadIpError
from mad_ip.lagrangian.box import whole
from mad_ip.lagrangian.program import Relaxation, Shared
from mad_ip.lagrangian.tree import THIN, Examined, Task, examine, guessed
from mad_ip.processes import Parent, Process, ready, started
from mad_ip.spec import Spec

__all__ = ["Workers", "cluster", "relaxation", "threads"]

Workers = Callable[[Spec, Task, Callable[[], bool]], Callable[[], Examined]]
"""Takes on a task of a spec, to be examined until told to stop, and returns what is called for its result, in the order
of the tasks; an exception of :func:`examine` is raised as it is."""

_POLL = 0.01
"""Seconds between two looks at whether to stop, while processes work."""

_HELD = 2
"""Small boxes that a process has at once: the one that it works on, and the next."""

_PATIENCE = 10
"""Seconds that a Dask scheduler has to answer."""


@functools.lru_cache(maxsize=2)
def relaxation(spec: Spec) -> Relaxation:
    """The relaxation of a spec, built once in a process: what boxes share takes a second on a fine grid."""
    return Relaxation(spec)


def _examined(spec: Spec, task: Task, **options: Any) -> Examined:
    return examine(relaxation(spec), task, **options)


@contextmanager
def threads(number: int, spec: Spec | None = None) -> Iterator[Workers]:
    """This thread and ``number - 1`` processes, which make themselves ready for a spec while they start."""
    if number == 1:
        yield lambda spec, task, stop: functools.partial(_examined, spec, task, stop=stop)
        return
    with _shared(number) as shared, ExitStack() as stack:
        processes = [stack.enter_context(started(_serve, (spec, number))) for _ in range(number - 1)]
        yield _Crew(processes, shared).examine


@contextmanager
def _shared(number: int) -> Iterator[Shared]:
    """Threads that share large loops."""
    with ThreadPoolExecutor(number) as pool:

        def shared(size: int, work: Callable[[int, int], Any]) -> list[Any]:
            # A few parts for each thread: not all take as long.
            ends = [size * part // (4 * number) for part in range(4 * number + 1)]
            return list(pool.map(work, ends[:-1], ends[1:]))

        yield shared


class _Crew:
    """Boxes that this thread examines, and processes once they are ready.

    Every task has a number, in the order in which they come. A process holds one large box or a few small ones, so that
    it need not wait for this thread, which examines others, and sees to the processes between two evaluations.
    """

    def __init__(self, processes: list[Process], shared: Shared) -> None:
        self.starting, self.shared = processes, shared
        self.tickets = itertools.count()
        self.waiting: dict[int, tuple[Spec, Task]] = {}
        self.large: set[int] = set()
        self.found: dict[int, Examined] = {}
        self.held: dict[Process, dict[int, tuple[Spec, Task]]] = {}

    def examine(self, spec: Spec, task: Task, stop: Callable[[], bool]) -> Callable[[], Examined]:
        """Hand a task out where a process is ready; what is returned waits for its result."""
        ticket = next(self.tickets)
        self.waiting[ticket] = spec, task
        if relaxation(spec).is_large(task.box):
            self.large.add(ticket)
        self._hand_out()
        return functools.partial(self._result, ticket, stop)

    def _result(self, ticket: int, stop: Callable[[], bool]) -> Examined:
        # What was begun before it and is not looked at by now is not wanted any more.
        for earlier in [other for other in (*self.waiting, *self.found) if other < ticket]:
            self.waiting.pop(earlier, None)
            self.found.pop(earlier, None)
        self.large = {other for other in self.large if other >= ticket}
        while ticket not in self.found:
            self._work(stop)
        return self.found.pop(ticket)

    def _work(self, stop: Callable[[], bool]) -> None:
        """Examine one box here, or else wait for the processes."""
        self._exchange(0.0 if self.waiting else _POLL)
        if stop():
            for process in self.held:
                process.ask()
        if self.waiting:
            ticket = min(self.waiting)
            spec, task = self.waiting.pop(ticket)

            def stopped() -> bool:
                self._exchange(0.0)
                return stop()

            self.found[ticket] = _examined(spec, task, shared=self.shared, stop=stopped)

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
        self._hand_out()

    def _hand_out(self) -> None:
        """All but the last large box, which threads share, and small ones."""
        large = sorted(self.waiting.keys() & self.large, reverse=True)
        small = sorted(self.waiting.keys() - self.large, reverse=True)
        for process in [process for _ in range(_HELD) for process in self.held]:
            if process not in self.held or len(held := self.held[process]) == _HELD or held.keys() & self.large:
                continue
            tickets = large if len(large) > 1 and not held else small
            if tickets:
                ticket = tickets.pop()
                held[ticket] = self.waiting.pop(ticket)
                try:
                    process.send((ticket, *held[ticket]))
                except EOFError:
                    self._lost(process)

    def _lost(self, process: Process) -> None:
        """No task is lost with a process."""
        if process in self.starting:
            self.starting.remove(process)
        self.waiting.update(self.held.pop(process, {}))


def _serve(task: tuple[Spec | None, int], parent: Parent) -> None:
    """A process of a crew: it says when it is ready, and what it finds in every box that it is sent."""
    # For products of matrices, of which there are none here, numba would load them in a third of a second.
    sys.modules["scipy.linalg"] = None  # type: ignore[assignment]
    spec, number = task
    if spec is not None:
        # Loads all that was compiled, too.
        guessed(relaxation(spec), whole(spec).thinned(THIN))
    parent.send((-1, None))
    with _shared(number) as shared:
        while True:
            ticket, spec, box = parent.receive()
            parent.send((ticket, _examined(spec, box, shared=shared, stop=parent.asked)))


@contextmanager
def cluster(address: str) -> Iterator[Workers]:
    """The workers of the Dask scheduler at ``address``, which have mad-ip installed too.

    Dask examines the tasks of lost workers again. Raise :class:`InputError` without the extra ``cluster``, or when no
    scheduler answers; :class:`MadIpError` when the scheduler is lost or a task kills several workers.
    """
    try:
        import dask.distributed
    except ImportError:
        raise InputError(
            "--cluster needs dask.distributed, which is not installed; pip install 'mad-ip[cluster]'"
        ) from None
    try:
        client = dask.distributed.Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError):
        raise InputError(
            f"--cluster {address}: no Dask scheduler answers there within {_PATIENCE} s; "
            "must be an address such as tcp://127.0.0.1:8786"
        ) from None

    def begin(spec: Spec, task: Task, stop: Callable[[], bool]) -> Callable[[], Examined]:
        future: Any = client.submit(_examined, spec, task, pure=False)
        return functools.partial(result, future, task, stop)

    def result(future: Any, task: Task, stop: Callable[[], bool]) -> Examined:
        # Dask's own wait with a time limit may end in an UnboundLocalError where the result comes just then.
        while not future.done():
            if task.above is not None and stop():
                future.cancel()
                return Examined("leaf", (), task.above)
            time.sleep(_POLL)
        try:
            return future.result()  # type: ignore[no-any-return]
        except dask.distributed.KilledWorker:
            raise MadIpError(f"--cluster {address}: several workers died over the same box") from None
        except CancelledError:
            raise MadIpError(f"--cluster {address}: the scheduler is gone") from None

    with client:
        yield begin
