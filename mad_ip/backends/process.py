"""A solver in a process of its own.

A solver may sit in its presolve for minutes without looking at its time limit or its callbacks (HiGHS 1.16 does, with
50,000 binary columns). A process can be ended at any moment; what it has found and proven has been reported by then.
"""

from __future__ import annotations

import time
import warnings

from mad_ip.backends.base import Limits, Outcome, Problem, Progress, Solver, Watch
from mad_ip.backends.profile import Profile, load_backend
from mad_ip.errors import MadIpWarning
from mad_ip.processes import Parent, started

__all__ = ["solve_apart"]

_POLL = 0.05
_GRACE = 2.0
"""Seconds beyond the time limit that a solver has to stop by itself."""


def solve_apart(profile: Profile, problem: Problem, limits: Limits, watch: Watch) -> Outcome:
    """Solve as :meth:`Solver.solve` in a process, ended when ``watch`` asks for it or the time limit is passed.

    ``watch`` is also called while the solver reports nothing. A process that fails, as where the system ends it for its
    memory, stops with what it has reported, and a :class:`mad_ip.errors.MadIpWarning`.
    """
    last = Progress(float("inf"), 0)
    values = None
    with started(_solve, (profile, problem, limits)) as process:
        began = time.perf_counter()
        while True:
            try:
                message = process.receive() if process.poll(_POLL) else Progress(last.bound, last.nodes)
            except EOFError:
                warnings.warn(f"the process of {profile.backend} ended without a result", MadIpWarning, stacklevel=2)
                return Outcome("stopped", last.bound, values, last.nodes)
            if isinstance(message, Outcome):
                return message
            last = Progress(min(last.bound, message.bound), message.nodes, message.values)
            values = last.values if last.values is not None else values
            late = time.perf_counter() - began > limits.seconds + _GRACE
            if watch(last) or late:
                return Outcome("stopped", last.bound, values, last.nodes)


def _solve(task: tuple[Profile, Problem, Limits], parent: Parent) -> None:
    """The process: one solve, its progress and its outcome."""
    profile, problem, limits = task
    last = 0.0

    def watch(progress: Progress) -> bool:
        nonlocal last
        now = time.perf_counter()
        if progress.values is not None or now - last > _POLL:
            last = now
            parent.send(progress)
        return False

    solver = load_backend(profile)
    assert isinstance(solver, Solver)
    parent.send(solver.solve(problem, limits, watch))
