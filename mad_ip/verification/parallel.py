"""Several verifications at once, each in a process of its own."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mad_ip.design import Design
from mad_ip.errors import MadIpError
from mad_ip.spec import Spec
from mad_ip.verification.exhaustion import architectures
from mad_ip.verification.report import STYLES, line
from mad_ip.verification.verdict import Report, Verdict, verify

__all__ = ["Job", "verify_all"]


@dataclass(frozen=True)
class Job:
    """One design to verify."""

    name: str
    spec: Spec
    design: Design

    @property
    def effort(self) -> tuple[float, int]:
        """Grows with the time to expect: what the last proof took, without one more than any, by the space's size."""
        known = self.design.verification
        return math.inf if known is None else known.seconds, architectures(self.spec)


def verify_all(jobs: Sequence[Job], settings: Mapping[str, Any], processes: int, console: Console) -> list[Verdict]:
    """Verify all jobs, ``settings`` being keywords of :func:`verify`, at most ``processes`` at a time, longest first.

    ``console`` shows how far each is. A process that fails gives a failed verdict. Whatever ends this function, Ctrl-C
    included, ends the processes.
    """
    context = multiprocessing.get_context("spawn")
    waiting = sorted(range(len(jobs)), key=lambda number: jobs[number].effort)
    running: dict[Any, tuple[int, Connection, Any]] = {}
    verdicts: dict[int, Verdict] = {}
    with _display(jobs, console) as show:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    number = waiting.pop()
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=_verify, args=(sender, jobs[number], settings), daemon=True)
                    with _uninterrupted():
                        process.start()
                    sender.close()
                    running[receiver] = number, receiver, process
                for ready in wait(list(running)):
                    number, receiver, process = running[ready]
                    try:
                        message = receiver.recv()
                    except EOFError:
                        message = _failed("its process ended without a verdict")
                    if isinstance(message, Verdict):
                        verdicts[number] = message
                        del running[ready]
                        process.join()
                    show(number, message)
        finally:
            for _, _, process in running.values():
                process.terminate()
            for _, _, process in running.values():
                process.join()
    return [verdicts[number] for number in range(len(jobs))]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while a process starts, which inherits the blocked signal: only the parent ever acts on it.

    A terminal sends it to the whole foreground group, and half-started processes would answer with tracebacks.
    """
    # Starting multiprocessing's tracker unblocks the signal, so that must have happened before.
    resource_tracker.ensure_running()
    held: list[int] = []
    # Blocked is the main thread alone: a thread of a library may still take the signal to this handler.
    previous = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, previous)
    if held:
        raise KeyboardInterrupt


def _verify(sender: Connection, job: Job, settings: Mapping[str, Any]) -> None:
    """The process: one verification, its reports and its verdict through ``sender``."""

    def send(report: Report) -> bool:
        sender.send(report)
        return False

    # A parent that is gone reads nothing.
    with contextlib.suppress(BrokenPipeError):
        try:
            sender.send(verify(job.spec, job.design, **settings, watch=send))
        except MadIpError as error:
            sender.send(_failed(str(error)))


def _failed(reason: str) -> Verdict:
    return Verdict("failed", (), None, None, None, None, None, 0.0, (reason,))


@contextmanager
def _display(jobs: Sequence[Job], console: Console) -> Iterator[Any]:
    """Show reports and verdicts by the number of the job: a live table on a terminal, verdicts alone elsewhere."""
    if not console.is_terminal:

        def tell(number: int, message: Report | Verdict) -> None:
            if isinstance(message, Verdict):
                console.print(f"{jobs[number].name}: {message.verdict}, {message.seconds:.1f} s", markup=False)

        yield tell
        return
    rows = [Text("waiting", style="dim") for _ in jobs]

    def grid() -> Table:
        table = Table.grid(padding=(0, 2))
        for job, row in zip(jobs, rows, strict=True):
            table.add_row(Text(job.name), row)
        return table

    with Live(grid(), console=console, refresh_per_second=8, transient=True) as live:

        def show(number: int, message: Report | Verdict) -> None:
            if isinstance(message, Verdict):
                rows[number] = Text(f"{message.verdict}, {message.seconds:.1f} s", style=STYLES[message.verdict])
            else:
                rows[number] = Text(line(message))
            live.update(grid())

        yield show
