"""The tables and sentences of a report, the same on the page and in Markdown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mad_ip.design import relative_gap
from mad_ip.reports.comparison.milestones import Comparison, Milestones, contradictions, milestones, spread
from mad_ip.reports.comparison.records import Run, Settings, distance
from mad_ip.reports.comparison.runs import GRACE

__all__ = ["Table", "headline", "method", "tables"]

_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """``text`` columns from the left are left-aligned, the rest are numbers."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int
    note: str = ""


def headline(comparison: Comparison) -> str:
    """How much ran, what is proven, and whether the runs agree."""
    proven = [spec for spec in comparison.specs if comparison.reference(spec).proven]
    optimal = sum(run.status == "optimal" for run in comparison.runs)
    agree = "No run contradicts another: no score exceeds any other run's bound (relative tolerance 1e-6)."
    return (
        f"{len(comparison.specs)} specs, {len(comparison.profiles)} solvers, {len(comparison.runs)} runs; "
        f"{optimal} runs end with a proof, and {len(proven)} of the {len(comparison.specs)} specs have a proven "
        f"optimum.{'' if contradictions(comparison.runs) else ' ' + agree}"
    )


def tables(comparison: Comparison) -> list[Table]:
    """All tables in no particular order."""
    asked = comparison.settings.gap
    summary, times, notes, models = [], [], [], []
    for spec, sha256 in comparison.specs.items():
        target = comparison.reference(spec)
        solvers = comparison.of(spec)
        for name, runs in solvers.items():
            # What refused or failed at once has no numbers.
            made = [run for run in runs if run.trace]
            found = [milestones(run, target, asked) for run in runs]
            seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
            summary.append(
                [
                    spec,
                    name + seeds,
                    _statuses(runs),
                    _over([run.score for run in made], _score),
                    _over([distance(run.score, target.score) for run in made], _percent),
                    _over([relative_gap(run.score, run.bound) for run in made], _percent),
                    _over([one.proof for one in found], _seconds),
                    _over([run.wall for run in made], _seconds),
                    _over([run.cpu for run in made], _seconds),
                    _over([run.memory for run in made], _megabytes),
                ]
            )
            keys = [field.name for field in dataclasses.fields(Milestones)]
            cells = [_over([getattr(one, key) for one in found], _seconds) for key in keys]
            times.append([spec, name + seeds, *cells])
            notes += [[spec, name, status, message] for status, message in _messages(runs)]
        sizes = next(
            ((run.options, run.architectures) for run in comparison.runs if run.spec == spec and run.options), None
        )
        models.append(
            [
                spec,
                "proven" if target.proven else "best known",
                sha256[:12],
                f"{sizes[0]:,}" if sizes else _NONE,
                f"{sizes[1]:.2e}" if sizes else _NONE,
                _score(target.score),
            ]
        )
    return [
        Table(
            "summary",
            "Summary",
            ["spec", "solver", "result", "score", "to the optimum", "gap", "proof, s", "wall, s", "CPU, s", "peak, MB"],
            summary,
            3,
            "Seconds to the proof count from the start of the solve, wall and CPU seconds are those of the whole "
            "process. To the optimum: to the best score of all runs of the spec. Over several seeds: median (least to "
            "largest).",
        ),
        Table(
            "times",
            "Time to first design, within 1 %, optimum, proof",
            ["spec", "solver", "first design, s", "within 1 %, s", "optimum, s", "proof, s"],
            times,
            2,
            "Seconds from the start of the solve. Optimum: within the asked gap of the best score of all runs of the "
            "spec (the table Models says whether it is proven).",
        ),
        Table(
            "models",
            "Models",
            ["spec", "optimum", "sha256", "options", "architectures", "score"],
            models,
            3,
            "Options: the catalogue after dominance, before any reduction. Architectures: the whole space.",
        ),
        Table("notes", "Runs without a design or a regular end", ["spec", "solver", "result", "reason"], notes, 4),
        Table("machine", "Machine", ["property", "value"], [list(pair) for pair in comparison.machine.items()], 2),
        Table("versions", "Versions", ["package", "version"], [list(pair) for pair in comparison.versions.items()], 2),
        Table(
            "profiles",
            "Solver profiles",
            ["solver", "backend", "settings"],
            [[name, str(profile["backend"]), _options(profile)] for name, profile in comparison.profiles.items()],
            3,
        ),
    ]


def _statuses(runs: Sequence[Run]) -> str:
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    if len(counts) == 1:
        return runs[0].status
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _messages(runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    """Every status with a reason, once."""
    return dict.fromkeys((run.status, run.message) for run in runs if run.message)


def _options(profile: Mapping[str, Any]) -> str:
    kept = {} if profile.get("reduction", True) else {"reduction": False}
    settings = {**kept, **profile["options"]}
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items()) or "defaults"


def _over(values: Sequence[float], form: Callable[[float], str]) -> str:
    """Median and range of a quantity; an en dash where there is none."""
    if not values:
        return _NONE
    over = spread(values)
    if over.low == over.high:
        return form(over.median)
    low, median, high = (
        form(value) if math.isfinite(value) else "never" for value in (over.low, over.median, over.high)
    )
    return median if low == high else f"{median} ({low} to {high})"


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return _NONE
    if value < 0.1:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _score(value: float) -> str:
    return f"{value:,.2f}" if math.isfinite(value) else _NONE


def _percent(value: float) -> str:
    if not math.isfinite(value):
        return _NONE
    if value < 1e-9:
        return "0 %"
    return f"{100 * value:.2g} %" if value < 1 else f"{100 * value:,.0f} %"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f}"


def method(settings: Settings) -> list[tuple[str, str]]:
    """What was measured and how: terms and their explanations."""
    limit = f"{settings.time_limit:g} s" if math.isfinite(settings.time_limit) else "none"
    return [
        (
            "Runs",
            "Every solver ran on every spec in a process of its own, one after another. A randomised solver "
            f"(evolution) ran with the seeds 0 to {settings.seeds - 1}, every other one once, with seed 0. What else "
            "the machine did meanwhile is not controlled: see its load, and wall time beyond CPU time.",
        ),
        (
            "Limits",
            f"Time limit: {limit} for each run, from the start of the solve; asked relative gap: {settings.gap:g}; "
            f"threads of the solver: {settings.threads}. A run that does not stop within {GRACE:g} s after its time "
            "limit is ended; what it had reported until then counts.",
        ),
        (
            "Start",
            "The start policy is the same for all: no run is given anything, and its own seed decides. Before a MILP "
            "solver the same seeded annealing (mad_ip.lagrangian.annealing) makes a first incumbent, which the solver "
            "gets as its start where it can take one, and, unless the profile says reduction = false, branch and bound "
            "(mad_ip.decomposition) leaves it only options that survive, or few to check. "
            "Enumeration and the evolution of the paper search by themselves. The times include all of that.",
        ),
        (
            "Times",
            "First design, within 1 %, optimum and proof are seconds of wall time from the start of the solve, after "
            "the interpreter has loaded, until the run reported an incumbent (a decoded design, re-measured and "
            "checked in exact integers) or returned with its proof. Within 1 % and optimum refer to the best score of "
            "all runs of the spec. Incumbents and bounds that a solver reports on its way count from then on; GLPK "
            "reports nothing until it returns.",
        ),
        (
            "Wall and CPU time",
            "Of the run's process from its start to its end, interpreter and imports included; CPU time is user plus "
            "system time of the process and of its child process, in which the MILP solver runs (os.wait4).",
        ),
        (
            "Peak memory",
            "The peak resident set (ru_maxrss of os.wait4) of the larger of the two processes: the one that models "
            "and the one that solves. It is not their sum.",
        ),
        (
            "Gap",
            "(bound - score) / |score|. A result is optimal only when the returned bound is within the asked gap of "
            "the score recomputed from the decoded network. Bounds are those of branch and bound and of the solver; "
            "this report does not re-prove them, but it fails when any run found a score above the bound of any "
            "other run. The evolution has no bound of its own.",
        ),
    ]
