"""Runs one after another, each in a process of its own, with wall time, CPU time and peak memory measured."""

from __future__ import annotations

import dataclasses
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from mad_ip.backends import Profile
from mad_ip.errors import InputError, MadIpError
from mad_ip.processes import Parent, Process, started
from mad_ip.reports.comparison.records import Point, Run, Settings, condensed, without_folders
from mad_ip.solve import InfeasibleError, NoDesignError, Report, solve
from mad_ip.spec import Spec

__all__ = ["GRACE", "Job", "measure"]

GRACE = 60.0
"""Seconds beyond the time limit that a run has to stop by itself (a model may still be in the making)."""

_POLL = 0.1
_END = 5.0
"""Seconds that a process has to end by itself until it is killed."""


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
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        with started(_work, (job, settings), errors=errors) as process:
            try:
                trace, run = _follow(process, job, began, settings, watch, interrupted)
            finally:
                usage = process.end(_END)
        wall = time.perf_counter() - began
        run = run or _without_result(job, "failed", _how_it_ended(usage.status, errors))
    return dataclasses.replace(
        run,
        wall=wall,
        cpu=usage.cpu,
        memory=usage.memory,
        # What was known before a solver refused is not its work.
        trace=() if run.status == "refused" else condensed(trace),
    )


def _follow(
    process: Process,
    job: Job,
    began: float,
    settings: Settings,
    watch: Callable[[Point], None],
    interrupted: Callable[[], bool],
) -> tuple[list[Point], Run | None]:
    """Collect the reports of a process until it ends or is late; return them and how it ended."""
    trace: list[Point] = []
    run = None
    deadline = began + settings.time_limit + GRACE
    asked = False
    while True:
        if interrupted() and not asked:
            asked = True
            deadline = min(deadline, time.perf_counter() + GRACE)
            process.ask()
        if time.perf_counter() > deadline:
            why = "Ctrl-C" if asked else f"its time limit of {settings.time_limit:g} s"
            return trace, _without_result(job, "ended", f"did not stop within {GRACE:g} s after {why}")
        if not process.poll(_POLL):
            continue
        try:
            message = process.receive()
        except EOFError:
            return trace, run
        if isinstance(message, Run):
            run = message
        else:
            trace.append(message)
            watch(message)


def _without_result(job: Job, status: str, message: str) -> Run:
    return Run(job.spec, job.solver, job.seed, status, message)


def _how_it_ended(status: int, errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    last = f" ({without_folders(lines[-1])})" if lines else ""
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}{last}"
    return f"the process ended with exit code {status} and no result{last}"


def _work(task: tuple[Job, Settings], parent: Parent) -> None:
    """The process: one run, a :class:`Point` for each report and, whatever happens, a :class:`Run` with its status."""
    job, settings = task

    def watch(report: Report) -> None:
        parent.send(Point(report.seconds, report.phase, report.score, report.bound))

    try:
        # The report names specs and profiles by name: the folders that they lie in are nobody's business.
        spec = dataclasses.replace(Spec.load(job.path), source=f"{job.spec}.toml")
        profile = dataclasses.replace(Profile.load(job.profile), source=f"{job.solver}.toml")
        design = solve(
            spec,
            profile=profile,
            time_limit=settings.time_limit,
            gap=settings.gap,
            threads=settings.threads,
            seed=job.seed,
            watch=watch,
            interrupted=parent.asked,
        )
    except InfeasibleError as error:
        run = _without_result(job, "infeasible", str(error))
    except NoDesignError as error:
        run = _without_result(job, "no design", str(error))
    except InputError as error:
        run = _without_result(job, "refused", str(error))
    except MadIpError as error:
        run = _without_result(job, "failed", str(error))
    except Exception as error:  # whatever a solver's own code raises becomes a row
        traceback.print_exc()
        line = " ".join(f"{type(error).__name__}: {error}".split())
        run = _without_result(job, "failed", without_folders(line))
    else:
        certificate = design.certificate
        assert certificate is not None
        parent.send(Point(certificate.seconds, "end", design.metrics.score, certificate.bound))
        run = dataclasses.replace(
            _without_result(job, certificate.status, ""),
            version=certificate.version,
            options=certificate.options,
            architectures=certificate.architectures,
        )
    parent.send(run)
