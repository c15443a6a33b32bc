"""Several verifications at once, each in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from mad_ip.design import Design
from mad_ip.errors import MadIpError
from mad_ip.processes import Parent, Process, ready, started
from mad_ip.spec import Spec
from mad_ip.verification.exhaustion import architectures
from mad_ip.verification.verdict import Report, Verdict, verify

__all__ = ["Job", "verify_all"]

_PATIENCE = 1.0
"""Seconds from a process's last message to its end."""


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


def verify_all(
    jobs: Sequence[Job],
    settings: Mapping[str, Any],
    processes: int,
    watch: Callable[[int, Report | Verdict], object] = lambda number, message: None,
) -> list[Verdict]:
    """Verify all jobs, ``settings`` being keywords of :func:`verify`, at most ``processes`` at a time, longest first.

    ``watch`` is told the number of a job with every report and the verdict. A process that fails gives a failed
    verdict, one that a signal ended a stopped one. Whatever ends this function, Ctrl-C included, ends the processes.
    """
    waiting = sorted(range(len(jobs)), key=lambda number: jobs[number].effort)
    running: dict[Process, int] = {}
    verdicts: dict[int, Verdict] = {}
    with ExitStack() as stack:
        while waiting or running:
            while waiting and len(running) < processes:
                number = waiting.pop()
                running[stack.enter_context(started(_verify, (jobs[number], settings)))] = number
            for process in ready(list(running)):
                number = running[process]
                try:
                    message = process.receive()
                except EOFError:
                    ended = process.end(_PATIENCE).status < 0
                    message = _without("stopped" if ended else "failed", "its process ended without a verdict")
                except MadIpError as error:
                    message = _without("failed", str(error))
                if isinstance(message, Verdict):
                    verdicts[number] = message
                    del running[process]
                    process.end()
                watch(number, message)
    return [verdicts[number] for number in range(len(jobs))]


def _verify(task: tuple[Job, Mapping[str, Any]], parent: Parent) -> None:
    """The process: one verification, its reports and its verdict."""
    job, settings = task

    def send(report: Report) -> bool:
        parent.send(report)
        return False

    parent.send(verify(job.spec, job.design, **settings, watch=send))


def _without(verdict: str, reason: str) -> Verdict:
    """A verdict without a proof."""
    return Verdict(verdict, (), None, None, None, None, None, 0.0, (reason,))
