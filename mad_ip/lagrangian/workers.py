"""Who examines the boxes of a round: threads of this process, or a Dask cluster.

The loops of :mod:`mad_ip.lagrangian.kernels` hold no lock, so that threads share the boxes of a round, and the loops of
a box where a round has only one. On a cluster every task travels with its spec (a few kilobytes), and every process
keeps the relaxations of the last specs: workers have no state to set up or to lose. Results come in the order of the
tasks and do not depend on who examined them.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from mad_ip.errors import InputError, MadIpError
from mad_ip.lagrangian.program import Relaxation
from mad_ip.lagrangian.tree import Examined, Task, examine
from mad_ip.spec import Spec

__all__ = ["Workers", "cluster", "relaxation", "threads"]

Workers = Callable[[Spec, Sequence[Task], Callable[[], bool]], list[Examined]]
"""Examines tasks of a spec, in order, until told to stop; an exception of :func:`examine` is raised as it is."""

_POLL = 0.02
"""Seconds between two looks at whether to stop, while processes work."""

_T = TypeVar("_T")

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
    """Processes that examine boxes once they are ready; they end with the context or with this process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.executor: ProcessPoolExecutor | None = None
        self.ready: dict[bytes, list[Future[None]]] = {}

    def __enter__(self) -> _Crew:
        context = multiprocessing.get_context("spawn")
        self.inner, self.outer = context.Pipe(duplex=False)
        self.stop = context.Event()
        return self

    def __exit__(self, *_: object) -> None:
        self.outer.close()
        if self.executor is not None:
            self.executor.shutdown(cancel_futures=True)
        self.inner.close()

    def examine(self, spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Examined]:
        """What the tasks find, nothing as long as the processes are not ready, or where one is lost."""
        packed = _packed(spec)
        try:
            if packed not in self.ready:
                self.ready[packed] = [self._submit(_prepare, packed) for _ in range(self.number)]
            if not all(future.done() and future.exception() is None for future in self.ready[packed]):
                return []
            self.stop.clear()
            futures = [self._submit(_examined_there, packed, task) for task in tasks]
            while wait(futures, _POLL).not_done:
                if stop():
                    self.stop.set()
            return [future.result() for future in futures]
        except BrokenProcessPool:
            # No task is lost: this process examines them.
            self.ready[packed] = [Future()]
            return []

    def _submit(self, function: Callable[..., _T], *arguments: Any) -> Future[_T]:
        """Submit with SIGINT blocked: processes start here and inherit that, from their first moment on.

        A terminal sends Ctrl-C to the whole foreground group, but only the parent is to act on it.
        """
        # Starting multiprocessing's tracker unblocks the signal, so that must have happened before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            if self.executor is None:
                context = multiprocessing.get_context("spawn")
                self.executor = ProcessPoolExecutor(self.number, context, _enlist, (self.inner, self.stop))
            return self.executor.submit(function, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _enlist(inner: Connection, stop: Any) -> None:
    """In a process of the crew: end at once when the parent closes the other end of the pipe, be it by dying."""
    global _told
    _told = stop.is_set

    def wait_for_end() -> None:
        inner.poll(None)
        os._exit(0)

    threading.Thread(target=wait_for_end, daemon=True).start()


def _told() -> bool:
    """Whether this process, one of a crew, is told to stop."""
    return False


@functools.lru_cache(maxsize=2)
def _packed(spec: Spec) -> bytes:
    """A spec as it travels, pickled once."""
    return pickle.dumps(spec)


@functools.lru_cache(maxsize=2)
def _unpacked(packed: bytes) -> Relaxation:
    return Relaxation(pickle.loads(packed))  # noqa: S301 (written by the parent)


def _prepare(packed: bytes) -> None:
    _unpacked(packed).widest  # noqa: B018 (for the tasks to come)


def _examined_there(packed: bytes, task: Task) -> Examined:
    return examine(_unpacked(packed), task, stop=_told)


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
