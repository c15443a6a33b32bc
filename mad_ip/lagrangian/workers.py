"""Who examines boxes: threads of this process, most of whose work holds no lock, or a cluster (cluster.py).

Every task travels to a cluster with its spec (a few kilobytes), and every process keeps the relaxations of the last
specs: workers have no state to set up or to lose. Results come in the order of the tasks and do not depend on who
examined them.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from mad_ip.lagrangian.program import Relaxation
from mad_ip.lagrangian.tree import Examined, Task, examine
from mad_ip.spec import Objective, Spec

__all__ = ["Problem", "Workers", "examined", "relaxation", "threads"]


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


@functools.lru_cache(maxsize=4)
def relaxation(spec: Spec, largest: Spec | None = None) -> Relaxation:
    """The relaxation of a problem, built once in a process: what boxes share takes a second on a fine grid."""
    return Relaxation(spec) if largest in (None, spec) else relaxation(largest).limited(spec)


def examined(problem: Problem, task: Task, **options: Any) -> Examined:
    """What a task of a problem finds, with the ``options`` of :func:`examine`."""
    return examine(problem.relaxation, task, **options)


@contextmanager
def threads(number: int) -> Iterator[Workers]:
    """So many threads; a single one is that which asks for the results."""
    if number == 1:
        yield lambda problem, task, stop: functools.partial(examined, problem, task, stop=stop)
        return
    begun: deque[tuple[Future[Examined], threading.Event]] = deque()

    def begin(problem: Problem, task: Task, stop: Callable[[], bool]) -> Callable[[], Examined]:
        # The tables are built here, by one thread.
        problem.relaxation  # noqa: B018
        unwanted = threading.Event()
        future = pool.submit(examined, problem, task, stop=lambda: unwanted.is_set() or stop())
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
