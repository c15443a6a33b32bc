"""Benchmarks, each in a process of its own: wall time and peak memory (``make bench``).

The catalogue of two million raw options; the proof by exhaustion of the toy and of two spaces of more than 10^8
architectures; HiGHS against the decomposition on grids that one MILP handles; a grid that it does not, with one worker
and with two; and time and memory against the number of options, as a plot in docs/.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mad_ip import catalogue
from mad_ip.backends import Profile
from mad_ip.design import Design
from mad_ip.errors import InternalError
from mad_ip.files import write_atomically
from mad_ip.processes import Parent, started
from mad_ip.solve import solve
from mad_ip.spec import Domain, Spec
from mad_ip.verification import audit, prove
from tools import markdown

__all__ = ["BOTTLENECK", "CATALOGUE", "INVERTED", "Measured", "main"]

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

_HEADER = ("benchmark", "seconds", "peak MB", "result")

_COARSE = ("deepmad-r18", "deepmad-r50", "deepmad-29m")
"""Specs under models/coarse/, on which HiGHS and the decomposition are compared."""

_CURVE = (2, 3, 5, 8, 13, 21, 34, 55, 90)
"""Values of every width on the grids of the cost curve."""

_LARGEST_MILP = 300_000
"""Options up to which the curve has HiGHS too."""

_PATIENCE = 60.0
"""Seconds that one solve may take."""


@dataclass(frozen=True)
class Measured:
    """Seconds and the largest peak, in MB, of a process and of those it started, and what it found."""

    seconds: float
    megabytes: float
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


def main() -> None:
    """Run the benchmarks one after another; print their table, and write it and its plot to docs/."""
    table = Table(*_HEADER)
    table.add_row("catalogue", *_measured(_listed, Spec.from_table(CATALOGUE)).cells)
    _proofs(table)
    _solvers(table)
    _workers(table)
    points = _curve(table)
    Console().print(table)
    write_atomically("docs/cost.svg", _plot(points))
    columns = [list(column.cells) for column in table.columns]
    rows = zip(*columns, strict=True)
    markdown.rewrite(Path("docs/decomposition.md"), bench=markdown.table(_HEADER, rows))


def _proofs(table: Table) -> None:
    for spec in (_spec("toy/spec"), Spec.from_table(BOTTLENECK), Spec.from_table(INVERTED)):
        design = _solved(spec).found
        table.add_row(f"exhaustion, {spec.name}", *_measured(_proven, (spec, design)).cells)


def _solvers(table: Table) -> None:
    """HiGHS alone and after the reduction against the decomposition, to 1e-6, on the grids that one MILP handles."""
    for name in _COARSE:
        spec = _spec(f"coarse/{name}")
        runs = {
            solver: _solved(spec, solver, time_limit=_PATIENCE)
            for solver in ("decomposition", "highs", "highs-monolithic")
        }
        for solver, run in runs.items():
            ratio = run.seconds / runs["decomposition"].seconds
            table.add_row(f"coarse {name}, {solver}", *run.cells[:2], f"{run} ({ratio:.2f} x the decomposition)")


def _workers(table: Table) -> None:
    """A grid of 25 x 31 widths, which HiGHS alone does not solve, with one worker and two."""
    spec = _on_grid(_spec("coarse/deepmad-r18"), _multiples(32, 2048, 25), tuple(range(16, 257, 8)))
    runs = [_solved(spec, "decomposition", threads=threads) for threads in (1, 2)]
    for number, run in enumerate(runs, start=1):
        table.add_row(f"25 x 31 widths, {number} of two workers", *run.cells)
    table.add_row("", f"{runs[0].seconds / runs[1].seconds:.2f}", "", "times as fast with two")


def _curve(table: Table) -> dict[str, list[tuple[int, Measured]]]:
    """The decomposition to 1e-4, and HiGHS where it may, on ever finer grids."""
    base = _spec("deepmad-r18/spec")
    points: dict[str, list[tuple[int, Measured]]] = {"decomposition": [], "highs": []}
    for number in _CURVE:
        spec = _on_grid(base, _multiples(32, 2048, number), _multiples(16, 512, number))
        options = catalogue.raw_options(spec)
        for solver, found in points.items():
            if solver == "highs" and options > _LARGEST_MILP:
                continue
            run = _solved(spec, solver, gap=1e-4, time_limit=_PATIENCE)
            found.append((options, run))
            table.add_row(f"{options:,} options, {solver}", *run.cells)
    return points


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


def _measured(function: Callable[[Any, Parent], None], argument: Any) -> Measured:
    """What a function sends from a process of its own, and what that takes from its start to its end."""
    began = time.perf_counter()
    with started(function, argument) as process:
        try:
            found = process.receive()
        except EOFError:
            raise InternalError("a benchmark ended without a result") from None
        usage = process.end()
    return Measured(time.perf_counter() - began, usage.memory / 1e6, found)


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
