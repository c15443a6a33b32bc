"""Benchmarks, each in a process of its own: wall time and peak memory (``make bench``).

The catalogue of two million raw options, the zoo's deepmad-r18 to a gap of 1e-4 and of 1e-6, and the proof by
exhaustion of the toy and of two spaces of more than 10^8 architectures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mad_ip.errors import InternalError
from mad_ip.files import resource
from mad_ip.spec import Spec

__all__ = ["BOTTLENECK", "CATALOGUE", "INVERTED", "main"]

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


def main() -> None:
    """Run the benchmarks one after another and print a table."""
    zoo = {name: _spec(name) for name in ("deepmad-r18", "toy")}
    table = Table("benchmark", "seconds", "peak MB", "result")
    table.add_row("catalogue", *_measured([CATALOGUE]))
    for gap in ("1e-4", "1e-6"):
        table.add_row(f"deepmad-r18 to {gap}", *_measured([_SOLVE, *_solving(zoo["deepmad-r18"], "--gap", gap)]))
    with tempfile.TemporaryDirectory() as folder:
        specs = [zoo["toy"]]
        for content in (BOTTLENECK, INVERTED):
            specs.append(Path(folder) / f"{content['name']}.toml")
            specs[-1].write_text(Spec.from_table(content).to_toml(), encoding="utf-8")
        for spec in specs:
            design = Path(folder) / "design.json"
            _measured([_SOLVE, *_solving(spec, "--out", str(design))])
            name = Spec.load(spec).name
            table.add_row(f"exhaustion, {name}", *_measured([_EXHAUST, str(spec), str(design)]))
    Console().print(table)


def _spec(name: str) -> Path:
    path = resource(f"models/{name}/spec.toml")
    if path is None:
        raise InternalError(f"models/{name}/spec.toml is missing from the installation")
    return path


def _solving(spec: Path, *options: str) -> list[str]:
    return ["solve", str(spec), *options, "--threads", "2", "--quiet"]


def _measured(arguments: list[str]) -> tuple[str, str, str]:
    """Wall time, the largest peak of the process and of those it started, and the last line that it printed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as stream:
            began = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", *arguments], stdout=stream)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
        if status != 0:
            raise InternalError(f"a benchmark ended with status {status}")
        printed = [line for line in output.read_text().splitlines() if line.strip()]
    result = next((line for line in printed if "proven" in line), printed[-1])
    return f"{seconds:.1f}", f"{usage.ru_maxrss / 1024:.0f}", result.split(", out of")[0]


if __name__ == "__main__":
    main()
