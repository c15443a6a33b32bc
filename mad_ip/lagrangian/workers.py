"""Who examines boxes: threads of this process, most of whose work holds no lock, or a Dask cluster.

Every task travels to a cluster with its spec (a few kilobytes), and every process keeps the relaxations of the last
specs: workers have no state to set up or to lose. Results come in the order of the tasks and do not depend on who
examined them.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from mad_ip.errors import InputError, MadIpError
from mad_ip.lagrangian.program import Relaxation
from mad_ip.lagrangian.tree import Examined, Task, examine
from mad_ip.spec import Objective, Spec

__all__ = ["Problem", "Workers", "cluster", "relaxation", "threads"]


class Problem(NamedTuple):
    """A spec, and one that is the same but for limits, none of them smaller, whose tables serve for both."""

    spec: Spec
    largest: Spec | None = None

    @property
    def relaxation(self) -> Relaxation:
        """Its relaxation."""
        return relaxation(*self)

    def unpenalised(self) -> Problem:
        """The same without a depth penalty and utilities."""
        free = [spec and dataclasses.replace(spec, objective=Objective(0.0), sha256="") for spec in self]
        assert free[0] is not None
        return Problem(free[0], free[1])


Workers = Callable[[Problem, Task, Callable[[], bool]], Callable[[], Examined]]
"""Takes on a task of a problem, to be examined until told to stop, and returns what is called for its result, in the
order of the tasks; an exception of :func:`examine` is raised as it is."""

_POLL = 0.01
"""Seconds between two looks at whether to stop, while a cluster works."""

_PATIENCE = 10
"""Seconds that a Dask scheduler has to answer."""


@functools.lru_cache(maxsize=4)
def relaxation(spec: Spec, largest: Spec | None = None) -> Relaxation:
    """The relaxation of a problem, built once in a process: what boxes share takes a second on a fine grid."""
    return Relaxation(spec) if largest in (None, spec) else relaxation(largest).limited(spec)


def _examined(problem: Problem, task: Task, **options: Any) -> Examined:
    return examine(problem.relaxation, task, **options)


@contextmanager
def threads(number: int) -> Iterator[Workers]:
    """So many threads; a single one is that which asks for the results."""
    if number == 1:
        yield lambda problem, task, stop: functools.partial(_examined, problem, task, stop=stop)
        return
    begun: deque[tuple[Future[Examined], threading.Event]] = deque()

    def begin(problem: Problem, task: Task, stop: Callable[[], bool]) -> Callable[[], Examined]:
        # The tables are built here, by one thread.
        problem.relaxation  # noqa: B018
        unwanted = threading.Event()
        future = pool.submit(_examined, problem, task, stop=lambda: unwanted.is_set() or stop())
        begun.append((future, unwanted))
        return functools.partial(result, future)

    def result(future: Future[Examined] | None) -> Any:
        # What was begun before it and is not looked at by now is not wanted any more.
        while begun and begun[0][0] is not future:
            earlier, unwanted = begun.popleft()
            unwanted.set()
            earlier.cancel()
        return None if future is None else begun.popleft()[0].result()

    with ThreadPoolExecutor(number) as pool:
        try:
            yield begin
        finally:
            result(None)


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

    def begin(problem: Problem, task: Task, stop: Callable[[], bool]) -> Callable[[], Examined]:
        future: Any = client.submit(_examined, problem, task, pure=False)
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
