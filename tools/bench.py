"""Benchmarks, each in a process of its own: wall time and peak memory (``make bench``).

The zoo's fine grids as they were at an earlier revision, with that revision's code and with this one; the catalogue of
two million raw options; the proof by exhaustion of the toy and of two spaces of more than 10^8 architectures; HiGHS
against the decomposition on grids that one MILP handles; how the solves of the zoo go, and what a second thread gives;
time and memory against the number of options, as a plot in docs/; and fronts against one solve. Every part has a table
of its own there, which stays as it is where the part is not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mad_ip import catalogue
from mad_ip.backends import Profile
from mad_ip.design import Design, relative_gap
from mad_ip.errors import InputError, InternalError
from mad_ip.files import write_atomically
from mad_ip.processes import Parent, started
from mad_ip.solve import Model, Report, solve
from mad_ip.spec import Domain, Spec
from mad_ip.sweep import grid, sweep
from mad_ip.verification import audit, prove
from tools import markdown

__all__ = ["BOTTLENECK", "CATALOGUE", "INVERTED", "PARTS", "Measured", "Trace", "compared", "main", "trace", "zoo"]

Row = Sequence[str]

CATALOGUE = {
    "name": "catalogue",
    "input": {"resolution": 224},
    "stem": {"kernel": 3, "stride": 2, "channels": [32, 64]},
    "stage": [
        {
            "block": "bottleneck",
            "stride": stride,
            "channels": {"min": 32, "max": 832, "step": 32},
            "mid": {"min": 16, "max": 512, "step": 16},
            "kernel": [3, 5, 7],
            "depth": {"min": 1, "max": 16},
        }
        for stride in (2, 2, 2, 1, 2)
    ],
}
"""About two million raw options without any budget."""

BOTTLENECK = {
    "name": "bottleneck",
    "input": {"resolution": 224},
    "budget": {"macs": 1.8e9, "params": 12e6, "effectiveness": 0.2},
    "stem": {"kernel": 3, "stride": 2, "channels": [32]},
    "stage": [
        {"block": "bottleneck", "stride": 2, "channels": c, "mid": m, "kernel": [3, 5], "depth": {"min": 1, "max": 6}}
        for c, m in (
            ([128, 192, 256], [32, 48, 64]),
            ([256, 384, 512], [64, 96, 128]),
            ([512, 768, 1024], [96, 128, 192]),
            ([1024, 1536, 2048], [160, 256, 384]),
        )
    ],
}
"""A ResNet of ResNet-18's cost: (3 * 3 * 2 * 6)^4 = 136 million architectures."""

INVERTED = {
    "name": "inverted",
    "input": {"resolution": 224},
    "budget": {"macs": 0.3e9, "params": 3.5e6, "effectiveness": 0.5},
    "stem": {"kernel": 3, "stride": 2, "channels": [16]},
    "stage": [
        {"block": "inverted_se", "stride": s, "channels": c, "mid": m, "kernel": [3, 5], "depth": {"min": 1, "max": 4}}
        for s, c, m in (
            (1, [16, 24], [32, 48, 64]),
            (2, [24, 32], [96, 144, 192]),
            (2, [40, 48], [144, 192, 240]),
            (2, [96, 112], [384, 480, 576]),
            (2, [160, 192], [576, 768, 960]),
        )
    ],
    "tail": {"channels": [1280]},
}
"""A MobileNet of MobileNetV2's cost: (2 * 3 * 2 * 4)^5 = 255 million architectures."""

_REVISION = "44264ed"
"""What the code is compared with: the last revision before the MILP of what survives branch and bound."""

_FINE = ("deepmad-r18", "deepmad-r34", "deepmad-r50", "deepmad-29m", "resnet-basic", "e3d-s")
"""Specs under models/, as they were then, on which it is."""

_COARSE = ("deepmad-r18", "deepmad-r50", "deepmad-29m")
"""Specs under models/coarse/, on which HiGHS and the decomposition are compared."""

_SLOWEST = 5
"""Specs of the zoo that are solved with one thread, too."""

_FRONTS = {"deepmad-r18": "200e6:2e9:20", "mobile": "60e6:300e6:20"}
"""Specs under models/ whose fronts are swept, each over its MACs."""

_CURVE = (2, 3, 5, 8, 13, 21, 34, 55, 90)
"""Values of every width on the grids of the cost curve."""

_PATIENCE = 30.0
"""Seconds that one solve of the solvers' comparison and of the curve may take."""

_SAMPLING = 0.5
"""Seconds between two looks at the memory of all processes together."""

_COMMAND = "from mad_ip.cli import main; main()"

_HEADER = ("benchmark", "seconds", "peak MB", "result")


@dataclass(frozen=True)
class Measured:
    """Seconds and the largest peak, in MB, of a process and of those it started, and what it found.

    The peak is at least what this process holds: Linux counts it for every process that it starts.
    ``together`` is the most, in MB, that those it started were seen to hold at one time, without the process itself,
    what they share counted once; 0 where /proc does not say.
    """

    seconds: float
    megabytes: float
    together: float
    found: Any

    @property
    def cells(self) -> tuple[str, str, str]:
        """For a row of the table."""
        return f"{self.seconds:.1f}", f"{self.megabytes:.0f}", str(self)

    def __str__(self) -> str:
        if not isinstance(self.found, Design):
            return str(self.found)
        certificate = self.found.certificate
        assert certificate is not None
        claim = "proven optimal within" if certificate.status == "optimal" else "feasible, not proven optimal:"
        return f"{claim} {certificate.gap:.1e} (relative), bound {certificate.bound:,.4f}"


@dataclass(frozen=True)
class Trace:
    """A solve in hindsight, in seconds from its start.

    ``near`` is when the bound was within 10 % of the best score, ``early`` the bound after 10 s, ``check`` what the
    MILP of the ``model`` took, 0 where there was none.
    """

    design: Design
    near: float
    early: float
    model: Model | None
    check: float


def trace(design: Design, reports: Sequence[Report]) -> Trace:
    """What the reports of a solve say about the way to its design."""
    certificate = design.certificate
    assert certificate is not None
    score = design.metrics.score
    near = next((report.seconds for report in reports if relative_gap(score, report.bound) <= 0.1), math.inf)
    early = min((report.bound for report in reports if report.seconds <= 10), default=math.inf)
    given = next((report for report in reports if report.model is not None), None)
    if given is None:
        return Trace(design, near, early, None, 0.0)
    return Trace(design, near, early, given.model, certificate.seconds - given.seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run benchmarks one after another; print their rows as they come, and write tables and plot to docs/."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=main.__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="a part to run, repeatable (default: all)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--baseline", metavar="REVISION", default=_REVISION, help=f"to compare with ({_REVISION})")
    which.add_argument("--no-baseline", action="store_true", help="leave the comparison out")
    options = parser.parse_args(arguments)
    chosen = [name for name in PARTS if name in (options.only or PARTS)]
    if options.no_baseline and "baseline" in chosen:
        chosen.remove("baseline")
    # Compiles what numba keeps on the disk.
    _solved(_spec("toy/spec"))
    for name in chosen:
        rows = []
        for row in _baseline(options.baseline) if name == "baseline" else PARTS[name]():
            print(" | ".join(row), flush=True)
            rows.append(row)
        markdown.rewrite(Path("docs/decomposition.md"), **{f"bench-{name}": markdown.table(rows[0], rows[1:])})


def _baseline(revision: str = _REVISION) -> Iterator[Row]:
    """The code of a revision of this repository against the code that runs here."""
    with tempfile.TemporaryDirectory() as folder:
        archived = subprocess.run(["git", "archive", revision, "mad_ip", "models", "solvers"], capture_output=True)
        if archived.returncode:
            raise InputError(f"--baseline = {revision}: must be a revision of mad-ip in this git repository")
        with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield from compared({revision: Path(folder), "now": Path(__file__).parent.parent}, Path(folder), _FINE)


def compared(codes: dict[str, Path], specs: Path, names: Sequence[str]) -> Iterator[Row]:
    """Rows of ``mad-ip solve`` to 1e-6 with two threads, alternately by the code of each folder, the reference first.

    The specs are models/NAME/spec.toml under the folder ``specs``. Ratios are of seconds, the total's of their sums.
    """
    yield "spec", "code", "seconds", "times as fast", "largest MB", "all MB", "score", "gap", "status"
    for folder in codes.values():
        for solver in ([], ["--solver", "decomposition"]):
            # Compiles what numba keeps on the disk.
            _measured(_commanded, (folder, specs / "models/toy/spec.toml", solver))
    totals = dict.fromkeys(codes, 0.0)
    for name in names:
        reference = None
        for code, folder in codes.items():
            run = _measured(_commanded, (folder, specs / f"models/{name}/spec.toml", ["--gap", "1e-6"]))
            seconds, design = run.found
            reference = reference or seconds
            totals[code] += seconds
            yield (
                name,
                code,
                f"{seconds:.1f}",
                f"{reference / seconds:.2f}",
                f"{run.megabytes:.0f}",
                f"{run.together:.0f}",
                f"{design['metrics']['score']:,.4f}",
                f"{design['certificate']['gap']:.1e}",
                design["certificate"]["status"],
            )
    reference = next(iter(totals.values()))
    for code, seconds in totals.items():
        yield "total", code, f"{seconds:.1f}", f"{reference / seconds:.2f}", "", "", "", "", ""


def _catalogue() -> Iterator[Row]:
    yield _HEADER
    yield "catalogue", *_measured(_listed, Spec.from_table(CATALOGUE)).cells


def _proofs() -> Iterator[Row]:
    yield _HEADER
    specs = (_spec("toy/spec"), Spec.from_table(BOTTLENECK), Spec.from_table(INVERTED))
    # Compiles what numba keeps on the disk.
    _measured(_proven, (specs[0], _solved(specs[0]).found))
    for spec in specs:
        design = _solved(spec).found
        yield f"exhaustion, {spec.name}", *_measured(_proven, (spec, design)).cells


def _solvers() -> Iterator[Row]:
    """HiGHS alone and after branch and bound against the decomposition, on the grids that one MILP handles."""
    yield _HEADER
    for name in _COARSE:
        spec = _spec(f"coarse/{name}")
        reference = None
        for solver in ("decomposition", "highs", "highs-monolithic"):
            run = _solved(spec, solver, time_limit=_PATIENCE)
            reference = reference or run.seconds
            ratio = run.seconds / reference
            yield f"coarse {name}, {solver}", *run.cells[:2], f"{run} ({ratio:.2f} x the decomposition)"


def zoo(names: Sequence[str], slowest: int = _SLOWEST) -> Iterator[Row]:
    """Rows of solves of models/NAME/spec.toml with two threads, and of those that take longest also with one."""
    yield (
        "spec",
        "seconds, two threads",
        "seconds, one thread",
        "ratio",
        "peak MB",
        "score",
        "gap",
        "seconds to a bound within 10 %",
        "bound after 10 s",
        "seconds of the MILP",
        "its options",
        "rows",
        "columns",
    )
    runs = {name: _traced(name, threads=2) for name in names}
    runs = dict(sorted(runs.items(), key=lambda item: -_seconds(item[1])))
    for number, (name, run) in enumerate(runs.items()):
        single = _seconds(_traced(name, threads=1)) if number < slowest else None
        found: Trace = run.found
        certificate, model = found.design.certificate, found.model
        assert certificate is not None
        yield (
            name,
            f"{_seconds(run):.1f}",
            "" if single is None else f"{single:.1f}",
            "" if single is None else f"{single / _seconds(run):.2f}",
            f"{run.megabytes:.0f}",
            f"{found.design.metrics.score:,.2f}",
            f"{certificate.gap:.1e}",
            f"{found.near:.1f}",
            f"{found.early:,.2f}",
            *(("", "", "", "") if model is None else (f"{found.check:.1f}", *_sizes(model))),
        )


def _sizes(model: Model) -> tuple[str, str, str]:
    return f"{model.surviving:,}", f"{model.rows:,}", f"{model.columns:,}"


def _seconds(run: Measured) -> float:
    """Of the solve itself, without the start of its process."""
    certificate = run.found.design.certificate
    return float(certificate.seconds)


def _threads() -> Iterator[Row]:
    return zoo([path.parent.name for path in sorted(Path("models").glob("*/spec.toml"))])


def _curve() -> Iterator[Row]:
    """The decomposition and HiGHS to 1e-4 on ever finer grids."""
    yield _HEADER
    base = _spec("deepmad-r18/spec")
    points: dict[str, list[tuple[int, Measured]]] = {"decomposition": [], "highs": []}
    for number in _CURVE:
        spec = _on_grid(base, _multiples(32, 2048, number), _multiples(16, 512, number))
        options = catalogue.raw_options(spec)
        for solver, found in points.items():
            run = _solved(spec, solver, gap=1e-4, time_limit=_PATIENCE)
            found.append((options, run))
            yield f"{options:,} options, {solver}", *run.cells
    write_atomically("docs/cost.svg", _plot(points))


def _front() -> Iterator[Row]:
    """Fronts of the zoo over their MACs against one solve, with two threads."""
    yield "spec", "MACs, points", "seconds, one solve", "seconds, front", "ratio", "proven"
    for name, text in _FRONTS.items():
        spec, over = _spec(f"{name}/spec"), grid([f"macs={text}"])
        began = time.perf_counter()
        solve(spec, threads=2)
        one = time.perf_counter() - began
        front = sweep(spec, over, threads=2)
        every = time.perf_counter() - began - one
        proven = sum(point.status in ("optimal", "infeasible") for point in front.points)
        yield name, text, f"{one:.1f}", f"{every:.1f}", f"{every / one:.1f}", f"{proven} of {len(front.points)}"


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "baseline": _baseline,
    "catalogue": _catalogue,
    "proofs": _proofs,
    "solvers": _solvers,
    "threads": _threads,
    "curve": _curve,
    "front": _front,
}
"""What can be run, each a header and its rows, made while they are asked for."""


def _plot(points: dict[str, list[tuple[int, Measured]]]) -> bytes:
    """Seconds and peak memory against the options, on logarithmic axes, as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from mad_ip.reports.comparison.plots import STYLE

    with mpl.rc_context(fname=STYLE):
        mpl.rcParams["svg.hashsalt"] = "cost"
        figure = Figure((8, 3.4), layout="constrained")
        for axes, quantity in zip(figure.subplots(1, 2), ("seconds", "megabytes"), strict=True):
            for solver, found in points.items():
                values = [getattr(run, quantity) for _, run in found]
                axes.loglog([options for options, _ in found], values, marker="o", label=solver)
            axes.set_xlabel("options before dominance")
            axes.set_ylabel({"seconds": "seconds to a gap of 1e-4", "megabytes": "largest process, MB"}[quantity])
        figure.axes[0].legend()
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _multiples(low: int, high: int, number: int) -> tuple[int, ...]:
    """At most ``number`` multiples of 8 in about equal ratios."""
    return tuple(sorted({8 * round(value / 8) for value in np.geomspace(low, high, number)}))


def _on_grid(base: Spec, channels: Domain, mid: Domain) -> Spec:
    """The spec with these channels and inner widths, and depths up to 16."""
    stages = tuple(
        dataclasses.replace(stage, channels=channels, mid=mid, depth=tuple(range(1, 17))) for stage in base.stages
    )
    stem = dataclasses.replace(base.stem, channels=(16, 24, 32, 48, 64))
    name = f"{len(channels)}-{len(mid)}"
    return dataclasses.replace(base, name=name, stem=stem, stages=stages, sha256="")


def _spec(name: str) -> Spec:
    return Spec.load(f"models/{name}.toml")


def _solved(spec: Spec, solver: str | None = None, **settings: Any) -> Measured:
    return _measured(_solve, (spec, solver, {"threads": 2, **settings}))


def _traced(name: str, threads: int) -> Measured:
    return _measured(_trace, (_spec(f"{name}/spec"), threads))


def _measured(function: Callable[[Any, Parent], None], argument: Any) -> Measured:
    """What a function sends from a process of its own, and what that takes from its start to its end."""
    began = time.perf_counter()
    together = 0
    with started(function, argument) as process:
        while not process.poll(_SAMPLING):
            together = max(together, _held(process.pid))
        try:
            found = process.receive()
        except EOFError:
            raise InternalError("a benchmark ended without a result") from None
        usage = process.end()
    return Measured(time.perf_counter() - began, usage.memory / 1e6, together / 1e6, found)


def _held(pid: int) -> int:
    """Bytes that the descendants of a process hold by now, shared ones in parts: the PSS of Linux."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end while it is looked at.
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    total, left = 0, list(children.get(pid, ()))
    while left:
        child = left.pop()
        left += children.get(child, ())
        with suppress(OSError):
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


# What the processes do ------------------------------------------------------------------------------------------------


def _commanded(task: tuple[Path, Path, list[str]], parent: Parent) -> None:
    """Send the seconds that ``mad-ip solve`` takes by the code of a folder, and the design.json object it prints."""
    folder, spec, options = task
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    began = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", _COMMAND, "solve", spec, "--threads", "2", "--json", "--quiet", *options],
        # The working folder comes before all others where modules are looked for.
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    if not run.stdout:
        raise InternalError(f"{spec}: mad-ip solve ended with {run.returncode} and no design: {run.stderr.strip()}")
    parent.send((seconds, json.loads(run.stdout)))


def _trace(task: tuple[Spec, int], parent: Parent) -> None:
    spec, threads = task
    reports: list[Report] = []
    parent.send(trace(solve(spec, threads=threads, watch=reports.append), reports))


def _listed(spec: Spec, parent: Parent) -> None:
    parent.send(f"{catalogue.raw_options(spec):,} options, {len(catalogue.build(spec)):,} undominated")


def _proven(task: tuple[Spec, Design], parent: Parent) -> None:
    proof = prove(*task)
    found = proof.exhaustion
    if found is None:
        raise InternalError("a benchmark's space is too large for exhaustion")
    verdict = "; ".join([*audit(*task), *proof.reasons]) or "proven"
    rate = found.architectures / found.seconds / 1e6
    parent.send(f"{verdict}: {found.architectures:,} architectures, {rate:,.1f} million a second")


def _solve(task: tuple[Spec, str | None, dict[str, Any]], parent: Parent) -> None:
    spec, solver, settings = task
    parent.send(solve(spec, profile=None if solver is None else Profile.load(solver), **settings))


if __name__ == "__main__":
    # The other processes know this module's functions by its name.
    from tools import bench

    bench.main()
