"""Whether many solves in one process leave anything behind: ``python -m tools.soak`` (``make soak``).

Random budgets of a small space are solved through the Python interface, one after another, with and without HiGHS, on
one thread and on two. After each solve the process is measured: resident memory, open descriptors, threads and child
processes. What grows fails.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from mad_ip import solve
from mad_ip.backends import Profile
from mad_ip.errors import InputError
from mad_ip.files import read_toml
from mad_ip.solve import InfeasibleError
from mad_ip.spec import Spec

__all__ = ["MEMORY", "Growth", "Sample", "growths", "main", "measured", "random_solve", "table"]

MEMORY = 20.0
"""Kilobytes that a solve may add, on the average of the last half."""

WARM = 0.2
"""Share of the solves after which numbers of descriptors, threads and processes must not grow any more."""


class Sample(NamedTuple):
    """A process at a moment; ``memory`` is the resident set in kilobytes, the others are numbers."""

    memory: float
    descriptors: int
    threads: int
    processes: int


@dataclass(frozen=True)
class Growth:
    """A quantity before the first solve, after the warm-up and at the end, and what a solve of the last half adds."""

    quantity: str
    first: float
    warm: float
    last: float
    slope: float
    grows: bool


def random_solve(number: int, seed: int = 0) -> None:
    """Solve the toy with budgets that ``number`` and ``seed`` determine; no design within them is a result, too."""
    random = Random(f"{seed} {number}")  # noqa: S311
    content, _ = read_toml("models/toy/spec.toml")
    content["budget"] = {
        "macs": random.uniform(4e6, 30e6),
        "params": random.uniform(30e3, 150e3),
        "effectiveness": random.uniform(0.2, 0.7),
    }
    for stage in content["stage"]:
        stage["depth"] = {"min": 1, "max": random.randint(1, 4)}
    profile = Profile(random.choice(["highs", "decomposition"]))
    try:
        solve(Spec.from_table(content), profile=profile, threads=random.choice([1, 2]), seed=random.randrange(1000))
    except InfeasibleError:
        return


def measured(
    work: Callable[[int], object], times: int, watch: Callable[[int], object] = lambda _: None
) -> list[Sample]:
    """Call ``work`` with 0, 1, ...; the samples before the first call and after each."""
    process = psutil.Process()

    def sample() -> Sample:
        gc.collect()
        children = process.children(recursive=True)
        memory = process.memory_info().rss / 1000
        return Sample(memory, process.num_fds(), process.num_threads(), len(children))

    samples = [sample()]
    for number in range(times):
        work(number)
        samples.append(sample())
        watch(number + 1)
    return samples


def growths(samples: Sequence[Sample], memory: float = MEMORY) -> list[Growth]:
    """How each quantity went; ``memory`` is the limit on what a solve adds to it."""
    warm, half = samples[int(WARM * (len(samples) - 1))], samples[len(samples) // 2 :]
    found = []
    for place, quantity in enumerate(Sample._fields):
        first, settled, last = (float(sample[place]) for sample in (samples[0], warm, samples[-1]))
        slope = float(np.polyfit(np.arange(len(half)), [sample[place] for sample in half], 1)[0])
        grows = slope > memory if quantity == "memory" else last > settled
        found.append(Growth(quantity, first, settled, last, slope, grows))
    return found


def table(found: Sequence[Growth]) -> Table:
    """The growths as a table."""
    shown = Table(box=None)
    shown.add_column("")
    for name in ("at first", "warm", "at last", "a solve adds"):
        shown.add_column(name, justify="right")
    shown.add_column("verdict")
    for growth in found:
        unit = " kB" if growth.quantity == "memory" else ""
        values = [f"{value:,.0f}{unit}" for value in (growth.first, growth.warm, growth.last)]
        verdict = "grows" if growth.grows else "does not grow"
        shown.add_row(growth.quantity, *values, f"{growth.slope:,.2f}{unit}", verdict)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description="Solve many specs in one process.")
    parser.add_argument("--solves", type=int, default=500, help="how many (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the budgets (default 0)")
    parser.add_argument("--memory", type=float, default=MEMORY, help=f"kB that a solve may add (default {MEMORY:g})")
    options = parser.parse_args(arguments)
    if options.solves < 10:
        raise InputError(f"--solves = {options.solves}: must be at least 10")
    console = Console(highlight=False)
    began = time.monotonic()

    def watch(number: int) -> None:
        if number % 50 == 0:
            console.print(f"{number} of {options.solves} solves, {time.monotonic() - began:.0f} s")

    found = growths(measured(lambda number: random_solve(number, options.seed), options.solves, watch), options.memory)
    console.print(table(found))
    wrong = [growth.quantity for growth in found if growth.grows]
    console.print(f"{options.solves} solves: {' and '.join(wrong) or 'nothing'} grows")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
