"""The table of a sample."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from mad_ip.design import Design
from mad_ip.reports.layout import grid
from mad_ip.sampling import shares
from mad_ip.spec import Spec

__all__ = ["sample_table"]


def sample_table(designs: Sequence[Design], spec: Spec) -> Table:
    """The designs with the shares that they spend of the spec's budgets, effectiveness, layers and entropy."""
    headers = (*(key for key, _ in spec.budget.limits), "effectiveness", "layers", "entropy")
    table = grid(f"{len(designs)} designs of {spec.name}", texts=("design",), numbers=headers)
    for design in designs:
        metrics = design.metrics
        spent = (f"{share:.1%}" for share in shares(spec, design).values())
        table.add_row(
            design.name, *spent, f"{metrics.effectiveness:.4f}", str(metrics.layers), f"{metrics.entropy:,.2f}"
        )
    return table
