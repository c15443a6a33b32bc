"""Functions in processes of their own, which can be followed, asked to stop, and ended at any moment.

A terminal's Ctrl-C reaches the whole foreground group, a batch queue's SIGTERM every process of the job. Only the
process that the user started is to act on them: the others are each in a session of their own, and deaf to both. None
outlives the one that started it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import IO, Any, TypeVar

from mad_ip.errors import MadIpError
from mad_ip.stopping import SIGNALS

__all__ = ["Parent", "Process", "Usage", "ready", "started"]

_Argument = TypeVar("_Argument")

_STOP = b""
"""A message that asks a process to stop; no pickle."""

_LEAVE = signal.SIGUSR1
"""Asks a process to end; not SIGTERM, which others send."""


class Parent:
    """The process that started this one, as the function that runs here sees it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._asked = threading.Event()
        self._given: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: Any) -> None:
        """Send anything that can be pickled; wait where the parent is behind with its reading."""
        self._pipe.send(message)

    def given(self) -> Any:
        """The next that the parent gives, waited for; see :meth:`Process.give`."""
        return pickle.loads(self._given.get())  # noqa: S301 (written by the parent)

    def asked(self) -> bool:
        """Whether the parent wishes this process to stop by itself."""
        return self._asked.is_set()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                # Unpickled by who asks for it: what it imports must not be imported by two threads at once.
                message = self._pipe.recv_bytes()
                if message == _STOP:
                    self._asked.set()
                else:
                    self._given.put(message)
        # The parent is gone. What this process has started goes with it, as it goes with its own parent.
        os.killpg(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Usage:
    """How a process ended, and what it used with those children that it waited for.

    ``status`` is the exit code, or minus the number of the signal that ended it; ``cpu`` is in seconds, ``memory`` the
    largest resident set of any one of them in bytes.
    """

    status: int
    cpu: float
    memory: int


class Process:
    """A process as the one that started it sees it; made by :func:`started`."""

    def __init__(self, pipe: Connection, process: subprocess.Popen[bytes]) -> None:
        self._pipe = pipe
        self._process = process
        self._silent = False
        self._usage: Usage | None = None

    @property
    def pid(self) -> int:
        """The number of the process, and of its session and group."""
        return self._process.pid

    def poll(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for a message or the end of all messages; whether one came."""
        return self._pipe.poll(seconds)

    def receive(self) -> Any:
        """The next message, waited for.

        Raises :class:`EOFError` when the process has ended and all messages are read, and whatever
        :class:`MadIpError` its function raised.
        """
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            self._silent = True
            raise EOFError from None
        if isinstance(message, MadIpError):
            raise message
        return message

    def give(self, message: Any) -> None:
        """Give the process anything that can be pickled; see :meth:`Parent.given`."""
        # What it has ended with is still to be read.
        with suppress(OSError):
            self._pipe.send_bytes(pickle.dumps(message))

    def ask(self) -> None:
        """Ask the process to stop by itself; see :meth:`Parent.asked`."""
        with suppress(OSError):
            self._pipe.send_bytes(_STOP)

    def end(self, patience: float = 0.0) -> Usage:
        """End the process and its whole group; return what it used.

        It has ``patience`` seconds to end by itself. With them it is sent a signal, unless its messages have ended
        already; its function then exits by an exception, so that it can end, and account for, its own children.
        """
        if self._usage is None:
            self._usage = self._ended(patience)
            self._pipe.close()
            if self._process.stdin is not None:
                self._process.stdin.close()
        return self._usage

    def _ended(self, patience: float) -> Usage:
        pid = self._process.pid
        deadline = time.monotonic() + patience
        done = 0
        while not done and time.monotonic() < deadline:
            # Again and again: one that comes just before a blocking call does not interrupt it.
            if not self._silent:
                os.kill(pid, _LEAVE)
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if not done:
                time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if not done:
            _, status, usage = os.wait4(pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        # Kilobytes, but bytes on macOS.
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Usage(self._process.returncode, usage.ru_utime + usage.ru_stime, memory)


@contextmanager
def started(
    function: Callable[[_Argument, Parent], None], argument: _Argument, *, errors: IO[bytes] | None = None
) -> Iterator[Process]:
    """Call ``function`` (of an importable module) with ``argument``, pickled, and its :class:`Parent` in a new process.

    Whatever it prints goes nowhere, tracebacks and other errors to the file ``errors`` or where this process has its
    own. At the end of the context it is killed with its whole group, if it still runs.
    """
    ours, theirs = multiprocessing.Pipe()
    command = f"import sys; sys.path[:] = {sys.path!r}; from mad_ip.processes import _serve; _serve({theirs.fileno()})"
    process = None
    try:
        with theirs, _uninterrupted():
            child = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.PIPE,
                # A solver may print from C, too: HiGHS greets on standard output.
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            process = Process(ours, child)
        # Where it is gone already, its messages have ended. A large argument is not copied to memory first.
        assert child.stdin is not None
        with suppress(BrokenPipeError), child.stdin as stream:
            pickle.dump((function, argument), stream)
        yield process
    finally:
        if process is None:
            ours.close()
        else:
            process.end()


def ready(processes: Sequence[Process], seconds: float | None = None) -> list[Process]:
    """Wait, at most ``seconds``, until some have a message, or have ended; return those."""
    pipes = connection.wait([process._pipe for process in processes], seconds)
    return [process for process in processes if process._pipe in pipes]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and its like back while a process starts: until its parent holds it, nobody would end it.

    The process inherits the blocked signals; before it has its own session it would die of one sent to the group.
    """
    held: list[int] = []
    # Blocked is this thread alone: another may still take the signal to Python's handler, which runs in the main one.
    main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, lambda n, _: held.append(n)) for number in SIGNALS if main}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, before in previous.items():
            signal.signal(number, before)
    if held:
        signal.raise_signal(held[0])


def _leave(*_: object) -> None:
    """Exit once: while the function cleans up, further wishes that it end change nothing."""
    signal.signal(_LEAVE, signal.SIG_IGN)
    sys.exit(1)


def _serve(descriptor: int) -> None:
    """The process: one call."""
    os.set_inheritable(descriptor, False)
    signal.signal(_LEAVE, _leave)
    parent = Parent(Connection(descriptor))
    function, argument = pickle.load(sys.stdin.buffer)  # noqa: S301 (written by the parent)
    # A parent that is gone reads nothing.
    with suppress(BrokenPipeError):
        try:
            function(argument, parent)
        except MadIpError as error:
            parent.send(error)
        except MemoryError:
            # The parent sees that it is gone; where in its code memory ended is of no use to anybody.
            sys.exit(1)
