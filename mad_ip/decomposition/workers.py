"""Who examines the boxes of a round: this process, a pool of processes, or a Dask cluster.

Each is a context manager that yields :data:`Workers`. Every task travels with its spec (a few kilobytes), and every
process keeps the relaxations of the last specs, so that workers have no state to set up or to lose: one pool serves
the grids of a solve, and what a dead worker leaves undone any other can do. Results come in the order of the tasks and
do not depend on who examined them.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from mad_ip.errors import InputError, MadIpError
from mad_ip.lagrangian.program import Relaxation
from mad_ip.lagrangian.tree import Examined, Task, examine
from mad_ip.spec import Spec

__all__ = ["Workers", "cluster", "processes", "relaxation", "serial"]

Workers = Callable[[Spec, Sequence[Task]], list[Examined]]
"""Examines tasks of a spec, in order; an exception of :func:`examine` is raised as it is."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_ATTEMPTS = 3
"""Pools that a round may break, as many as the workers that a task may kill on a Dask scheduler by default."""

_PATIENCE = 10
"""Seconds that a Dask scheduler has to answer."""


@functools.lru_cache(maxsize=2)
def relaxation(spec: Spec) -> Relaxation:
    """The relaxation of a spec, built once in a process: what boxes share takes seconds on a fine grid."""
    return Relaxation(spec)


def _examined(spec: Spec, task: Task) -> Examined:
    return examine(relaxation(spec), task)


@contextmanager
def serial() -> Iterator[Workers]:
    """This process, one task after the other."""
    yield lambda spec, tasks: [_examined(spec, task) for task in tasks]


@contextmanager
def processes(number: int) -> Iterator[Workers]:
    """A pool of ``number`` processes, which Ctrl-C does not reach and which end with the context or with this process.

    Where one dies, the pool is replaced and the tasks that were lost are examined again; :class:`MadIpError` when the
    same round loses a few in a row.
    """
    pool = _Pool(number)
    try:
        yield pool.examine
    finally:
        pool.close()


class _Pool:
    def __init__(self, number: int) -> None:
        self.number = number
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.inner, self.outer = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(self.number, context, _live_until_closed, (self.inner,))
        # All start at once rather than when a task waits for them: a round may be of one task.
        for _ in range(self.number):
            with suppress(BrokenProcessPool):
                self._submit(os.getpid)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self.outer.close()
        self.executor.shutdown(cancel_futures=True)
        self.inner.close()

    def examine(self, spec: Spec, tasks: Sequence[Task]) -> list[Examined]:
        found: dict[int, Examined] = {}
        for attempt in range(_ATTEMPTS):
            if attempt > 0:
                self.close()
                self._open()
            futures: dict[int, Future[Examined]] = {}
            try:
                for n in range(len(tasks)):
                    if n not in found:
                        futures[n] = self._submit(_examined, spec, tasks[n])
            except BrokenProcessPool:
                pass
            for n, future in futures.items():
                try:
                    found[n] = future.result()
                except BrokenProcessPool:
                    continue
            if len(found) == len(tasks):
                return [found[n] for n in range(len(tasks))]
        raise MadIpError(f"processes that examine boxes died {_ATTEMPTS} times in a row; is there enough memory?")

    def _submit(self, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> Future[_T]:
        """Submit with SIGINT blocked: processes start here and inherit that, from their first moment on.

        A terminal sends Ctrl-C to the whole foreground group, but only the parent is to act on it.
        """
        # Starting multiprocessing's tracker unblocks the signal, so that must have happened before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self.executor.submit(function, *arguments, **named)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live_until_closed(inner: Connection) -> None:
    """End this process at once when the parent closes the other end of the pipe, be it by dying."""

    def wait() -> None:
        inner.poll(None)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


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

    def examine_all(spec: Spec, tasks: Sequence[Task]) -> list[Examined]:
        futures: Any = client.map(functools.partial(_examined, spec), tasks, pure=False)
        try:
            return list(client.gather(futures))
        except KilledWorker:
            raise MadIpError(f"--cluster {address}: several workers died over the same box") from None
        except CancelledError:
            raise MadIpError(f"--cluster {address}: the scheduler is gone") from None

    with client:
        yield examine_all
