"""What a verification says to people: lines while it runs, sentences about one verdict, a table of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mad_ip.design import Design
from mad_ip.reports.terminal import terminal
from mad_ip.spec import Spec
from mad_ip.verification.exhaustion import LIMIT, architectures
from mad_ip.verification.verdict import Report, Verdict

__all__ = ["STYLES", "Model", "display", "line", "sentences", "show", "table"]

STYLES = {"proven": "green", "audited": "yellow", "open": "yellow", "stopped": "yellow", "failed": "bold red"}


_NOTES = {
    "proven": "proven: feasible, and no feasible design is better by more than the gap.",
    "open": "open: nothing contradicts the design, but the bound leaves more than the asked gap.",
    "stopped": "stopped: the time limit came before a proof.",
}


@dataclass(frozen=True)
class Model:
    """A verdict with what it is about."""

    name: str
    spec: Spec
    design: Design
    verdict: Verdict

    @property
    def space(self) -> str:
        """The number of architectures: every digit where the space can be enumerated."""
        number = architectures(self.spec)
        return f"{number:,}" if number <= LIMIT else f"{Decimal(number):.2e}"


def line(report: Report) -> str:
    """One line about a verification at work."""
    parts = [f"{report.seconds:7.1f} s  {report.phase:<11}"]
    if report.share is not None:
        parts.append(f"{report.share:.1%}")
    if report.upper is not None:
        parts.append(f"upper bound {report.upper:,.3f}")
    if report.gap is not None:
        parts.append(f"gap {report.gap:.4%}")
    if report.nodes is not None:
        parts.append(f"{report.nodes:,} nodes")
    return "  ".join(parts)


def sentences(model: Model) -> list[str]:
    """The verdict of one design, by which methods, and why no more was proven."""
    verdict, score = model.verdict, model.design.metrics.score
    # A method that has found something better, within the certificate's gap, says so among the reasons.
    nothing = {method: not any(reason.startswith(method) for reason in verdict.reasons) for method in verdict.methods}
    by_bound = ""
    if verdict.bound is not None:
        by_bound = f"no feasible design scores above {verdict.bound:,.6f}, a gap of {verdict.gap:.1e}"
    said = {
        "audit": "structure, budgets, metrics and certificate agree with the spec",
        "exhaustion": f"{verdict.architectures or 0:,} architectures enumerated"
        + ", none is better" * nothing.get("exhaustion", 0),
        "bound": f"{by_bound}; {verdict.nodes or 0:,} nodes",
        "certificate": f"{by_bound}; {verdict.nodes or 0:,} nodes replayed, which cover the space",
        "attack": f"{verdict.evaluations or 0:,} evaluations" + " found nothing better" * nothing.get("attack", 0),
    }
    head = f"{model.name}: {verdict.verdict}"
    if verdict.verdict == "proven":
        head += f", score {score:,.6f} within {verdict.gap:.1e} of the best of {model.space} architectures"
    methods = verdict.methods if verdict.verdict != "failed" else ()
    return [
        f"{head} ({verdict.seconds:.1f} s)",
        *(f"  {method}: {said[method]}" for method in methods),
        *(f"  {verdict.verdict}: {reason}" for reason in verdict.reasons),
    ]


def table(models: Sequence[Model]) -> Table:
    """One row for every model."""
    grid = Table(title="Verification of the certified designs", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("model", overflow="fold")
    for header in ("architectures", "score", "solver's bound", "independent bound", "gap"):
        grid.add_column(header, justify="right", overflow="fold")
    grid.add_column("verdict")
    grid.add_column("seconds", justify="right")
    for model in models:
        verdict, certificate = model.verdict, model.design.certificate
        style = STYLES[verdict.verdict]
        grid.add_row(
            model.name,
            model.space,
            f"{model.design.metrics.score:,.3f}",
            "-" if certificate is None else f"{certificate.bound:,.3f}",
            "-" if verdict.bound is None else f"{verdict.bound:,.3f}",
            "-" if verdict.gap is None else f"{verdict.gap:.1e}",
            Text(verdict.verdict, style),
            f"{verdict.seconds:.1f}",
        )
    return grid


def show(models: Sequence[Model], without: Sequence[str]) -> None:
    """Print the table, what its verdicts mean, their reasons, and the names of the models ``without`` a design."""
    console = terminal()
    console.print(table(models))
    for verdict, note in _NOTES.items():
        if any(model.verdict.verdict == verdict for model in models):
            console.print(note, markup=False)
    if without:
        console.print(f"no design.json, not verified: {', '.join(without)}", markup=False)
    for model in models:
        for reason in model.verdict.reasons:
            console.print(f"{model.verdict.verdict}: {model.name}: {reason}", markup=False, soft_wrap=True)


@contextmanager
def display(names: Sequence[str], console: Console) -> Iterator[Any]:
    """Show reports and verdicts by the number of the name: a live table on a terminal, verdicts alone elsewhere."""
    if not console.is_terminal:

        def tell(number: int, message: Report | Verdict) -> None:
            if isinstance(message, Verdict):
                console.print(f"{names[number]}: {message.verdict}, {message.seconds:.1f} s", markup=False)

        yield tell
        return
    rows = [Text("waiting", style="dim") for _ in names]

    def grid() -> Table:
        table = Table.grid(padding=(0, 2))
        for name, row in zip(names, rows, strict=True):
            table.add_row(Text(name), row)
        return table

    with Live(grid(), console=console, refresh_per_second=8, transient=True) as live:

        def show(number: int, message: Report | Verdict) -> None:
            if isinstance(message, Verdict):
                rows[number] = Text(f"{message.verdict}, {message.seconds:.1f} s", style=STYLES[message.verdict])
            else:
                rows[number] = Text(line(message))
            live.update(grid())

        yield show
