"""Runs one after another, each in a process of its own, with wall time, CPU time and peak memory measured."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from mad_ip.errors import InternalError
from mad_ip.reports.comparison.records import Point, Run, Settings, condensed, without_folders

__all__ = ["GRACE", "Job", "measure"]

GRACE = 60.0
"""Seconds beyond the time limit that a run has to stop by itself (a model may still be in the making)."""

_POLL = 0.1
_END = 5.0
"""Seconds that a process has to end by itself, and again once it is asked to, until it is killed."""


@dataclass(frozen=True)
class Job:
    """A run to be made: ``path`` of the spec named ``spec``, ``profile`` (name or file) of the solver, and a seed."""

    spec: str
    path: str
    solver: str
    profile: str
    seed: int


def measure(
    job: Job,
    settings: Settings,
    *,
    watch: Callable[[Point], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Run:
    """Make one run; whatever becomes of the solver becomes the status of the returned run.

    ``watch`` sees every report of the solve, ``interrupted`` is asked now and then whether to stop it.
    """
    order = {
        "spec": job.path,
        "name": job.spec,
        "profile": job.profile,
        "solver": job.solver,
        "seed": job.seed,
        "time_limit": settings.time_limit if math.isfinite(settings.time_limit) else None,
        "gap": settings.gap,
        "threads": settings.threads,
    }
    command = [sys.executable, "-m", "mad_ip.reports.comparison.worker"]
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            # A process that ended at once says why in its status.
            _write(process.stdin, json.dumps(order).encode())
            trace, end = _follow(process, began, settings, watch, interrupted)
        except KeyboardInterrupt:
            process.terminate()
            raise
        finally:
            usage = _finished(process)
            process.stdout.close()
        wall = time.perf_counter() - began
        end = end or {"status": "failed", "message": _how_it_ended(process.returncode, errors)}
    return Run(
        spec=job.spec,
        solver=job.solver,
        seed=job.seed,
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        # Kilobytes, but bytes on macOS.
        memory=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        # What was known before a solver refused is not its work.
        trace=() if end["status"] == "refused" else condensed(trace),
        **end,
    )


def _write(stream: IO[bytes], content: bytes) -> None:
    try:
        with stream:
            stream.write(content)
    except BrokenPipeError:
        pass


def _follow(
    process: subprocess.Popen[bytes],
    began: float,
    settings: Settings,
    watch: Callable[[Point], None],
    interrupted: Callable[[], bool],
) -> tuple[list[Point], dict[str, Any]]:
    """Collect the reports of a process until it ends or is late; return them and how it ended."""
    assert process.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    trace: list[Point] = []
    end: dict[str, Any] = {}
    deadline = began + settings.time_limit + GRACE
    asked = False
    while True:
        if interrupted() and not asked:
            asked = True
            deadline = min(deadline, time.perf_counter() + GRACE)
            process.send_signal(signal.SIGINT)
        if time.perf_counter() > deadline:
            process.terminate()
            why = "Ctrl-C" if asked else f"its time limit of {settings.time_limit:g} s"
            return trace, {"status": "ended", "message": f"did not stop within {GRACE:g} s after {why}"}
        try:
            line = lines.get(timeout=_POLL)
        except queue.Empty:
            continue
        if line is None:
            if asked and not end and not trace:
                end = {"status": "no design", "message": "interrupted before the solve began"}
            return trace, end
        message = json.loads(line)
        if "status" in message:
            end = message
        else:
            score, bound = message["score"], message["bound"]
            point = Point(
                message["seconds"],
                message["phase"],
                -math.inf if score is None else score,
                math.inf if bound is None else bound,
            )
            trace.append(point)
            watch(point)


def _read(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    try:
        for line in stream:
            lines.put(line)
    except (OSError, ValueError):
        pass
    lines.put(None)


def _finished(process: subprocess.Popen[bytes]) -> Any:
    """Wait for a process to end, ask it, kill it; return its resource usage with that of its finished children."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            process.send_signal(number)
        end = time.perf_counter() + _END
        while time.perf_counter() < end:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                process.returncode = os.waitstatus_to_exitcode(status)
                return usage
            time.sleep(0.01)
    raise InternalError(f"process {process.pid} cannot be ended")


def _how_it_ended(returncode: int, errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    last = f" ({without_folders(lines[-1])})" if lines else ""
    if returncode < 0:
        return f"the process was ended by {signal.Signals(-returncode).name}{last}"
    return f"the process ended with exit code {returncode} and no result{last}"
