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
from contextlib import contextmanager
from typing import Any

from mad_ip.errors import InputError, MadIpError
from mad_ip.lagrangian.program import Relaxation
from mad_ip.lagrangian.tree import Examined, Task, examine
from mad_ip.spec import Spec

__all__ = ["Workers", "cluster", "relaxation", "threads"]

Workers = Callable[[Spec, Sequence[Task], Callable[[], bool]], list[Examined]]
"""Examines tasks of a spec, in order, until told to stop; an exception of :func:`examine` is raised as it is."""

_LARGE = 1 << 18
"""Work of the largest box of a round from which on threads share the round."""

_PATIENCE = 10
"""Seconds that a Dask scheduler has to answer."""


@functools.lru_cache(maxsize=2)
def relaxation(spec: Spec) -> Relaxation:
    """The relaxation of a spec, built once in a process: what boxes share takes a second on a fine grid."""
    return Relaxation(spec)


def _examined(spec: Spec, task: Task) -> Examined:
    return examine(relaxation(spec), task)


def _work(task: Task) -> int:
    """About how many steps one line at every node takes."""
    box = task.box
    ends = zip(box.channels, box.channels[1:], box.mid[1:], strict=False)
    return sum(len(before) * len(after) * len(mid) for before, after, mid in ends)


def _one_by_one(spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Examined]:
    return [examine(relaxation(spec), task, stop=stop) for task in tasks]


@contextmanager
def threads(number: int) -> Iterator[Workers]:
    """So many threads of this process."""
    if number == 1:
        yield _one_by_one
        return
    with ThreadPoolExecutor(number) as pool:

        def shared(size: int, work: Callable[[int, int], Any]) -> list[Any]:
            # A few parts for each thread: not all take as long.
            ends = [size * part // (4 * number) for part in range(4 * number + 1)]
            return list(pool.map(work, ends[:-1], ends[1:]))

        def examine_all(spec: Spec, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Examined]:
            known = relaxation(spec)
            known.widest  # noqa: B018 (once, before the threads ask for it)
            if len(tasks) == 1:
                return [examine(known, tasks[0], shared=shared, stop=stop)]
            # Of small boxes most of the work is the interpreter's, which threads only take from one another.
            if max(map(_work, tasks), default=0) < _LARGE:
                return _one_by_one(spec, tasks, stop)
            return list(pool.map(functools.partial(examine, known, stop=stop), tasks))

        yield examine_all


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
