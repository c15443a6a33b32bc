"""Solvers compared on specs: runs in processes of their own, and a report of what they found, proved and used."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mad_ip.backends import Profile
from mad_ip.errors import InputError, InternalError
from mad_ip.files import resource
from mad_ip.reports.comparison.machine import machine, versions
from mad_ip.reports.comparison.milestones import Comparison, contradictions
from mad_ip.reports.comparison.records import Point, Run, Settings
from mad_ip.reports.comparison.runs import Job, measure
from mad_ip.reports.pages import require
from mad_ip.reports.terminal import Terminal
from mad_ip.spec import Spec

__all__ = ["Settings", "compare"]

_Item = TypeVar("_Item")

_RANDOMISED = ("evolution",)
"""Backends whose result depends on the seed by design, and that bound nothing: they run once for each seed."""


def compare(
    specs: Sequence[Path],
    solvers: Sequence[str],
    settings: Settings,
    folder: Path,
    *,
    interrupted: Callable[[], bool] = lambda: False,
    console: Console | None = None,
) -> list[Run]:
    """Run every solver (a profile's name or file; all profiles where there is none) on every spec; write the report.

    A solver that is missing, fails or finds nothing is a row of the report. After Ctrl-C (``interrupted``) the runs
    that are left are not made, and the report is written.

    Raises :class:`InputError` on a bad spec or profile and without the extra ``report``, before anything runs;
    :class:`InternalError` when runs contradict each other, after the report is written.
    """
    require("mad-ip compare", "matplotlib", "jinja2")
    problems = _named([(spec.name, str(path), spec) for path, spec in ((path, Spec.load(path)) for path in specs)])
    profiles = _named([(Path(name).stem, name, Profile.load(name)) for name in solvers or _profiles()])
    jobs = [
        Job(spec, path, solver, profile, seed)
        for spec, (path, _) in problems.items()
        for solver, (profile, content) in profiles.items()
        for seed in range(settings.seeds if content.backend in _RANDOMISED else 1)
    ]
    surroundings = machine()
    runs = [
        _without_bounds(run) if profiles[run.solver][1].backend in _RANDOMISED else run
        for run in _run(jobs, settings, interrupted, console or Terminal(stderr=True))
    ]

    # matplotlib is loaded only now: until here it would take memory and time from the solvers.
    from mad_ip.reports.comparison.page import write

    comparison = Comparison(
        settings=settings,
        specs={name: spec.sha256 for name, (_, spec) in problems.items()},
        profiles={name: _content(profile) for name, (_, profile) in profiles.items()},
        runs=runs,
        machine=surroundings,
        versions=versions(),
        day=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    write(comparison, folder)
    contradiction = contradictions(runs)
    if contradiction:
        raise InternalError(f"{folder}: the report is written, but its runs contradict each other: {contradiction[0]}")
    return runs


def _profiles() -> list[str]:
    """The names of all profiles beside that of HiGHS, which comes first."""
    default = resource("solvers/highs.toml")
    if default is None:
        raise InternalError("solvers/highs.toml is missing from the installation")
    names = sorted(path.stem for path in default.parent.glob("*.toml"))
    return ["highs", *(name for name in names if name != "highs")]


def _named(items: Sequence[tuple[str, str, _Item]]) -> dict[str, tuple[str, _Item]]:
    """Items by the names that the report and its plots have for them, each with where it comes from."""
    named: dict[str, tuple[str, _Item]] = {}
    for text, source, content in items:
        # The plots are files of these names.
        name = re.sub(r"[^\w.-]+", "-", text)
        if name in named:
            raise InputError(f"{source}: has the name {name!r} of {named[name][0]}; names must differ in a comparison")
        named[name] = (source, content)
    return named


def _content(profile: Profile) -> dict[str, object]:
    content = dataclasses.asdict(profile)
    del content["source"]
    return content


def _run(jobs: Sequence[Job], settings: Settings, interrupted: Callable[[], bool], console: Console) -> list[Run]:
    """Make the runs one after another and show how they go."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    runs = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(jobs), state="")

        def watch(point: Point) -> None:
            progress.update(task, state=_state(point.score, point.bound))

        for job in jobs:
            if interrupted():
                runs.append(Run(job.spec, job.solver, job.seed, "not run", "interrupted before its start"))
                continue
            progress.update(task, description=f"{job.spec}, {job.solver}, seed {job.seed}", state="")
            run = measure(job, settings, watch=watch, interrupted=interrupted)
            runs.append(run)
            progress.console.print(_line(run), highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)
    return runs


def _without_bounds(run: Run) -> Run:
    """The run without the bound that is known before any search: a heuristic has none of its own to compare."""
    return dataclasses.replace(run, trace=tuple(point._replace(bound=math.inf) for point in run.trace))


def _line(run: Run) -> str:
    head = f"{run.wall:7.1f} s {run.memory / 1e6:6,.0f} MB  {run.spec}, {run.solver}, seed {run.seed}: {run.status}"
    return f"{head}; {run.message}" if run.message else f"{head}; {_state(run.score, run.bound)}"


def _state(score: float, bound: float) -> str:
    shown = [f"{value:,.3f}" if math.isfinite(value) else "-" for value in (score, bound)]
    return f"incumbent {shown[0]}, bound {shown[1]}"
