"""A backend in a process of its own.

A solver may sit in its presolve for minutes without looking at its time limit or its callbacks (HiGHS 1.16 does, with
50,000 binary columns). A process can be ended at any moment; what it has found and proven has been reported by then.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

from mad_ip.backends.base import Limits, Outcome, Problem, Progress, Watch
from mad_ip.backends.profile import Profile, load_backend
from mad_ip.catalogue import Catalogue
from mad_ip.errors import InternalError, MadIpError
from mad_ip.spec import Spec

__all__ = ["serve", "solve_apart"]

_POLL = 0.05
_GRACE = 2.0
"""Seconds beyond the time limit that a solver has to stop by itself."""


def solve_apart(profile: Profile, problem: Problem | Catalogue | Spec, limits: Limits, watch: Watch) -> Outcome:
    """Solve as :meth:`Backend.solve` in a process, ended when ``watch`` asks for it or the time limit is passed.

    ``watch`` is also called while the solver reports nothing. Raise :class:`InternalError` when the process fails.
    """
    command = [sys.executable, "-c", "from mad_ip.backends.process import serve; serve()"]
    # A terminal's Ctrl-C reaches the whole foreground group; only this process is to act on it.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin as stream:
            pickle.dump((profile, problem, limits), stream)
        return _follow(process.stdout, limits, watch)
    except BrokenPipeError:
        raise InternalError("the solver's process ended before it had read the model") from None
    finally:
        # The solver may have processes of its own; they are one group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _follow(stream: IO[bytes], limits: Limits, watch: Watch) -> Outcome:
    messages: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read, args=(stream, messages), daemon=True).start()
    began = time.perf_counter()
    last = Progress(float("inf"), 0)
    values = None
    while True:
        try:
            message = messages.get(timeout=_POLL)
        except queue.Empty:
            message = Progress(last.bound, last.nodes)
        if isinstance(message, Outcome):
            return message
        if isinstance(message, MadIpError):
            raise message
        if message is None:
            raise InternalError("the solver's process ended without a result")
        last = Progress(min(last.bound, message.bound), message.nodes, message.values)
        values = last.values if last.values is not None else values
        late = time.perf_counter() - began > limits.seconds + _GRACE
        if watch(last) or late:
            return Outcome("stopped", last.bound, values, last.nodes)


def _read(stream: IO[bytes], messages: queue.Queue[Any]) -> None:
    try:
        while True:
            messages.put(pickle.load(stream))  # noqa: S301 (written by our own process)
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        messages.put(None)


def serve() -> None:
    """The process: one solve from standard input, progress and outcome to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a solver prints, from C too, must not mix with the messages: HiGHS greets on standard output.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    profile, problem, limits = pickle.load(sys.stdin.buffer)  # noqa: S301 (written by the parent process)
    last = 0.0

    def send(message: Any) -> None:
        pickle.dump(message, output)
        output.flush()

    def watch(progress: Progress) -> bool:
        nonlocal last
        now = time.perf_counter()
        if progress.values is not None or now - last > _POLL:
            last = now
            send(progress)
        return False

    try:
        send(load_backend(profile).solve(problem, limits, watch))
    except MadIpError as error:
        send(error)
