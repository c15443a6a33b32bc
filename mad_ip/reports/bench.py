"""Benchmarks, each in a process of its own: wall time and peak memory (``make bench``).

The catalogue of two million raw options, and the zoo's deepmad-r18 to a gap of 1e-4 and of 1e-6.
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

__all__ = ["CATALOGUE", "main"]

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

_SOLVE = "from mad_ip.cli import main; main()"


def main() -> None:
    """Run the benchmarks one after another and print a table."""
    spec = resource("models/deepmad-r18/spec.toml")
    if spec is None:
        raise InternalError("models/deepmad-r18/spec.toml is missing from the installation")
    table = Table("benchmark", "seconds", "peak MB", "result")
    table.add_row("catalogue", *_measured([CATALOGUE]))
    for gap in ("1e-4", "1e-6"):
        arguments = ["solve", str(spec), "--gap", gap, "--threads", "2", "--quiet"]
        table.add_row(f"deepmad-r18 to {gap}", *_measured([_SOLVE, *arguments]))
    Console().print(table)


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
