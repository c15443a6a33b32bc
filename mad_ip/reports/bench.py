"""Benchmarks, each in a process of its own: wall time and peak memory (``make bench``).

The catalogue of two million raw options; the proof by exhaustion of the toy and of two spaces of more than 10^8
architectures; HiGHS against the decomposition on grids that one MILP handles; a grid that it does not, with one worker
and with two; and time and memory against the number of options, as a plot in docs/.
"""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mad_ip.catalogue import raw_options
from mad_ip.errors import InternalError
from mad_ip.files import resource, write_atomically
from mad_ip.reports.published import insert, markdown
from mad_ip.spec import Domain, Spec

__all__ = ["BOTTLENECK", "CATALOGUE", "INVERTED", "Measured", "main"]

CATALOGUE = """
from mad_ip import catalogue
from mad_ip.spec import Spec
stage = {
    "block": "bottleneck",
    "channels": {"min": 32, "max": 832, "step": 32},
    "mid": {"min": 16, "max": 512, "step": 16},
    "kernel": [3, 5, 7],
    "depth": {"min": 1, "max": 16},
}
spec = Spec.from_table({
    "name": "bench",
    "input": {"resolution": 224},
    "stem": {"kernel": 3, "stride": 2, "channels": [32, 64]},
    "stage": [{**stage, "stride": stride} for stride in (2, 2, 2, 1, 2)],
})
print(f"{catalogue.raw_options(spec):,} options, {len(catalogue.build(spec)):,} undominated")
"""
"""A program that builds a catalogue of about two million raw options without any budget."""

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

_EXHAUST = """
import sys
from mad_ip.design import Design
from mad_ip.spec import Spec
from mad_ip.verification import audit, prove
spec, design = Spec.load(sys.argv[1]), Design.load(sys.argv[2])
proof = prove(spec, design)
found = proof.exhaustion
verdict = "; ".join([*audit(spec, design), *proof.reasons]) or "proven"
rate = found.architectures / found.seconds / 1e6
print(f"{verdict}: {found.architectures:,} architectures, {rate:,.1f} million a second")
"""
"""A program that proves the design of a spec, solved before, by exhaustion on one thread."""

_SOLVE = "from mad_ip.cli import main; main()"

_HEADER = ("benchmark", "seconds", "peak MB", "result")

_COARSE = ("deepmad-r18", "deepmad-r50", "deepmad-29m")
"""Specs under models/coarse/, on which HiGHS and the decomposition are compared."""

_CURVE = (2, 3, 5, 8, 13, 21, 34, 55, 90)
"""Values of every width on the grids of the cost curve."""

_LARGEST_MILP = 300_000
"""Options up to which the curve has HiGHS too."""

_PATIENCE = "60"
"""Seconds that one solve may take."""


@dataclass(frozen=True)
class Measured:
    """Seconds and the largest peak, in MB, of a process and of those it started, and the last line that it printed."""

    seconds: float
    megabytes: float
    line: str

    @property
    def cells(self) -> tuple[str, str, str]:
        """For a row of the table."""
        return f"{self.seconds:.1f}", f"{self.megabytes:.0f}", self.line


def main() -> None:
    """Run the benchmarks one after another; print their table, and write it and its plot to docs/."""
    table = Table(*_HEADER)
    table.add_row("catalogue", *_measured([CATALOGUE]).cells)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _proofs(table, folder)
        _solvers(table)
        _workers(table, folder)
        points = _curve(table, folder)
    Console().print(table)
    write_atomically("docs/cost.svg", _plot(points))
    document = Path("docs/decomposition.md")
    columns = [list(column.cells) for column in table.columns]
    text = insert(
        document.read_text(encoding="utf-8"), "bench", markdown(_HEADER, zip(*columns, strict=True)), str(document)
    )
    write_atomically(document, text.encode())


def _proofs(table: Table, folder: Path) -> None:
    specs = [_spec("models/toy/spec.toml"), *(_written(Spec.from_table(c), folder) for c in (BOTTLENECK, INVERTED))]
    for spec in specs:
        design = folder / "design.json"
        _solved(spec, "--out", str(design))
        table.add_row(f"exhaustion, {Spec.load(spec).name}", *_measured([_EXHAUST, str(spec), str(design)]).cells)


def _solvers(table: Table) -> None:
    """HiGHS alone and after the reduction against the decomposition, to 1e-6, on the grids that one MILP handles."""
    for name in _COARSE:
        spec = _spec(f"models/coarse/{name}.toml")
        runs = {
            solver: _solved(spec, "--solver", solver, "--time-limit", _PATIENCE)
            for solver in ("decomposition", "highs", "highs-monolithic")
        }
        for solver, run in runs.items():
            ratio = run.seconds / runs["decomposition"].seconds
            table.add_row(f"coarse {name}, {solver}", *run.cells[:2], f"{run.line} ({ratio:.2f} x the decomposition)")


def _workers(table: Table, folder: Path) -> None:
    """The grid of design.md section 4, 25 x 31 widths, which HiGHS alone does not solve, with one worker and two."""
    base = Spec.load(_spec("models/coarse/deepmad-r18.toml"))
    channels = _multiples(32, 2048, 25)
    spec = _written(_on_grid(base, channels, tuple(range(16, 257, 8))), folder)
    runs = [_solved(spec, "--solver", "decomposition", threads=threads) for threads in (1, 2)]
    for number, run in enumerate(runs, start=1):
        table.add_row(f"25 x 31 widths, {number} of two workers", *run.cells)
    table.add_row("", f"{runs[0].seconds / runs[1].seconds:.2f}", "", "times as fast with two")


def _curve(table: Table, folder: Path) -> dict[str, list[tuple[int, Measured]]]:
    """The decomposition to 1e-4, and HiGHS where it may, on ever finer grids."""
    base = Spec.load(_spec("models/deepmad-r18/spec.toml"))
    points: dict[str, list[tuple[int, Measured]]] = {"decomposition": [], "highs": []}
    for number in _CURVE:
        grid = _on_grid(base, _multiples(32, 2048, number), _multiples(16, 512, number))
        spec, options = _written(grid, folder), raw_options(grid)
        for solver, found in points.items():
            if solver == "highs" and options > _LARGEST_MILP:
                continue
            run = _solved(spec, "--solver", solver, "--gap", "1e-4", "--time-limit", _PATIENCE)
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


def _written(spec: Spec, folder: Path) -> Path:
    path = folder / f"{spec.name}.toml"
    path.write_text(spec.to_toml(), encoding="utf-8")
    return path


def _spec(name: str) -> Path:
    path = resource(name)
    if path is None:
        raise InternalError(f"{name} is missing from the installation")
    return path


def _solved(spec: Path, *options: str, threads: int = 2) -> Measured:
    return _measured([_SOLVE, "solve", str(spec), *options, "--threads", str(threads), "--quiet"])


def _measured(arguments: list[str]) -> Measured:
    """Run a program in a process of its own; a solve may end unproven."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as stream:
            began = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", *arguments], stdout=stream)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
        if os.waitstatus_to_exitcode(status) not in (0, 3):
            raise InternalError(f"a benchmark ended with status {status}")
        printed = [line for line in output.read_text().splitlines() if line.strip()]
    result = next((line for line in printed if "proven" in line), printed[-1])
    return Measured(seconds, usage.ru_maxrss / 1024, result.split(", out of")[0])


if __name__ == "__main__":
    main()
