"""The signals that ask a program to end: Ctrl-C, the SIGTERM of a batch queue, the SIGHUP of a terminal that is closed.

The first one is a wish: what works on a design returns the best one. A second one, or the first where there is nothing
to keep, ends the program.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

__all__ = ["SIGNALS", "Stopped", "interruptible", "stoppable"]

_Handler: TypeAlias = Callable[[int, FrameType | None], Any]


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """The user wants the program to end. No error, so that nothing that handles errors takes it for one."""

    exit_code = 3


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Stopped` at the first signal."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    with _handled(end):
        yield


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first signal into a wish to stop, which the function that is given tells of; the second one ends."""
    wished = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if wished.is_set():
            raise Stopped(f"stopped by {signal.Signals(number).name}")
        wished.set()

    with _handled(handle):
        yield wished.is_set


@contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    """Handle the signals; not SIGHUP where it is ignored, as nohup has it.

    SIGINT is handled even there: shells ignore it for what runs in the background, where only kill -INT sends it.
    """
    deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    previous = {number: signal.signal(number, handler) for number in SIGNALS if not (deaf and number == signal.SIGHUP)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
