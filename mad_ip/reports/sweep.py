"""The front of a sweep for the terminal."""

from __future__ import annotations

import math

from rich import box
from rich.console import RenderableType
from rich.table import Table

from mad_ip.front import Front
from mad_ip.reports.table import amount

__all__ = ["front_table"]


def front_table(front: Front) -> RenderableType:
    """A row for every point: its limits, the score, the gap, and what the multipliers say 1 % more of one is worth."""
    table = Table(title=f"{front.spec.name}: the front over {', '.join(front.over)}", box=box.SIMPLE_HEAD)
    priced = front.over[0]
    for header in (*front.over, "score", "gap", "status", f"1 % more {priced}"):
        table.add_column(header, justify="right", no_wrap=True)
    for point in front.points:
        limits = [amount(key, point.spec.budget.given[key]) for key in front.over]
        if point.design is None:
            table.add_row(*limits, "-", "-", point.status if point.status == "infeasible" else "none found", "-")
            continue
        gap = f"{point.gap:.1e}" if math.isfinite(point.gap) else "-"
        price = next((price.multiplier for price in point.prices if price.budget == priced), None)
        worth = "-" if price is None else f"{price * point.spec.budget.given[priced] / 100:+,.3f}"
        table.add_row(*limits, f"{point.design.metrics.score:,.4f}", gap, point.status, worth)
    return table
