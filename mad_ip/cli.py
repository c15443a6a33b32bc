"""The command line: thin, everything heavy is imported by the command that needs it."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mad_ip.errors import InputError, MadIpError

if TYPE_CHECKING:
    from rich.console import Console

    from mad_ip.solve import Report

__all__ = ["app", "main"]

app = typer.Typer(
    help="Design convolutional networks by exact mathematical programming.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; every error that a user can meet is one sentence and an exit code."""
    try:
        app()
    except MadIpError as error:
        print(f"mad-ip: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


@app.command()
def solve(
    spec: Annotated[Path, typer.Argument(help="The spec.toml to solve.")],
    solver: Annotated[str, typer.Option(help="Solver profile: a name under solvers/ or a .toml file.")] = "highs",
    time_limit: Annotated[
        float, typer.Option(help="Seconds after which the best design so far is returned.")
    ] = math.inf,
    gap: Annotated[float, typer.Option(help="Relative gap within which a design counts as optimal.")] = 1e-6,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the solver.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first incumbent and of the solver.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write design.json.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the design.json object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Solve a spec to a design with a certificate.

    Exit codes: 0 proven optimal, 3 feasible but not proven, 4 infeasible, 2 bad input, 1 internal error.
    """
    from mad_ip.spec import Spec

    for name, value in (("--time-limit", time_limit), ("--gap", gap)):
        if math.isnan(value) or value < 0:
            raise InputError(f"{name} = {value}: must be a number of at least 0")
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError(f"--out = {out}: its folder does not exist; an existing folder is needed")
    problem = Spec.load(spec)

    from rich.console import Console

    from mad_ip.backends import Profile
    from mad_ip.reports.table import design_table
    from mad_ip.solve import solve as run

    with _interruptible() as interrupted, _progress(Console(stderr=True), quiet) as watch:
        design = run(
            problem,
            profile=Profile.load(solver),
            time_limit=time_limit,
            gap=gap,
            threads=threads,
            seed=seed,
            watch=watch,
            interrupted=interrupted,
        )
    if out is not None:
        design.save(out)
    if json:
        sys.stdout.write(design.to_json())
    else:
        _print(design_table(design, problem.budget))
    assert design.certificate is not None
    raise typer.Exit(0 if design.certificate.status == "optimal" else 3)


@app.command()
def show(path: Annotated[Path, typer.Argument(help="A design.json or a spec.toml.")]) -> None:
    """Show a design, or the size of a spec's space and catalogue without solving it."""
    from mad_ip.files import read_bytes

    if path.suffix == ".json" or read_bytes(path).lstrip().startswith(b"{"):
        from mad_ip.design import Design
        from mad_ip.reports.table import design_table

        _print(design_table(Design.load(path)))
    else:
        from mad_ip import catalogue
        from mad_ip.reports.table import space_table
        from mad_ip.spec import Spec

        spec = Spec.load(path)
        _print(space_table(spec, catalogue.build(spec)))


@app.command()
def build(
    design: Annotated[Path, typer.Argument(help="The design.json to build.")],
    out: Annotated[Path | None, typer.Option(help="State dict: .safetensors, .pt or .pth (beside the design).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights.")] = 0,
) -> None:
    """Build the PyTorch network, check its measured against its modelled cost, and save its initial weights."""
    from mad_ip.design import Design

    content = Design.load(design)

    import torch

    from mad_ip.networks import Network, save_weights, verify_cost

    torch.manual_seed(seed)
    network = Network(content)
    verify_cost(network)
    target = out or design.with_suffix(".safetensors")
    save_weights(network, target)
    metrics = content.metrics
    _print(f"{target}: {metrics.macs:,} MACs and {metrics.params:,} parameters, measured as modelled")


def _print(content: object) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    # A pipe has no width of its own; wrapping a table at 80 columns would break its rows.
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(content, soft_wrap=isinstance(content, str))


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a wish to stop; a second one ends the program as usual."""
    wished = threading.Event()

    def handle(number: int, frame: object) -> None:
        if wished.is_set():
            raise KeyboardInterrupt
        wished.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield wished.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _progress(console: Console, quiet: bool) -> Iterator[Callable[[Report], None] | None]:
    """Show incumbent, bound, gap and time: one live line on a terminal, a line now and then elsewhere."""
    if quiet:
        yield None
        return
    if console.is_terminal:
        from rich.live import Live

        with Live(console=console, refresh_per_second=8, transient=True) as live:
            yield lambda report: live.update(_line(report))
        return
    phase, shown = "", 0.0

    def watch(report: Report) -> None:
        nonlocal phase, shown
        if report.phase != phase or time.perf_counter() - shown > 5:
            phase, shown = report.phase, time.perf_counter()
            console.print(_line(report), highlight=False, soft_wrap=True)

    yield watch


def _line(report: Report) -> str:
    def number(value: float, form: str) -> str:
        return format(value, form) if math.isfinite(value) else "-"

    return (
        f"{report.seconds:7.1f} s  {report.phase:<16}  incumbent {number(report.score, ',.3f')}  "
        f"bound {number(report.bound, ',.3f')}  gap {number(report.gap, '.4%')}"
    )
