"""Tables of MLPs for the terminal."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mad_ip import cost, entropy
from mad_ip.mlp.design import MlpDesign
from mad_ip.mlp.spec import BUDGETS, MlpSpec
from mad_ip.reports.hints import PROXY, mlp_hints
from mad_ip.reports.layout import grid
from mad_ip.reports.table import quantity
from mad_ip.spec import Budget

__all__ = ["design_table", "space_content", "space_table"]


def design_table(design: MlpDesign, budget: Budget | None = None, spec: MlpSpec | None = None) -> RenderableType:
    """Layers, totals (against ``budget`` where given) and the certificate of a design, and hints from its ``spec``."""
    layers = grid(f"{design.name} (mlp)", numbers=("layer", "inputs", "outputs", "MACs", "params", "entropy"))
    total = entropy.log_width(design.layers())
    for number, layer in enumerate(design.layers(), start=1):
        numbers = [number, layer.in_channels, layer.out_channels, cost.macs([layer]), cost.params([layer])]
        share = entropy.log_width([layer]) / total if total else 0.0
        layers.add_row(*(f"{value:,}" for value in numbers), f"{share:.1%}")
    totals = grid(texts=("total",), numbers=("value", "budget", "slack"))
    metrics = asdict(design.metrics)
    for key in BUDGETS:
        limit = getattr(budget or Budget(), key)
        slack = "" if limit is None else f"{(limit - metrics[key]) / limit:.3%}"
        totals.add_row(key, quantity(metrics[key]), "" if limit is None else quantity(limit), slack)
    totals.add_row("entropy", f"{design.metrics.entropy:,.4f}", "", "")
    parts: list[RenderableType] = [layers, totals]
    certificate = design.certificate
    if certificate is not None:
        proven = certificate.status == "optimal"
        claim = (
            f"proven optimal within {certificate.gap:.1e} (relative)"
            if proven
            else f"feasible, not proven optimal: gap {certificate.gap:.2%}"
        )
        parts.append(
            Text(
                f"{claim}, bound {certificate.bound:,.4f}, out of {_number(certificate.architectures)} architectures; "
                f"{certificate.backend} {certificate.version}, {certificate.seconds:.1f} s",
                style="bold green" if proven else "bold yellow",
            )
        )
        parts.append(Text(PROXY))
    if spec is not None:
        parts += [Text(f"hint: {sentence}") for sentence in mlp_hints(design, spec)]
    return Group(*parts)


def space_table(spec: MlpSpec) -> RenderableType:
    """The domains and budgets of a spec and the exact size of its space."""
    table = grid(f"{spec.name} (mlp)", numbers=("features", "widths", "classes", "depth"))
    widths, depth = (
        f"{values[0]}..{values[-1]} ({len(values)})" if len(values) > 2 else ", ".join(map(str, values))
        for values in (spec.space.widths, spec.space.depth)
    )
    table.add_row(str(spec.input.features), widths, str(spec.input.classes), depth)
    limits = [f"{key} {quantity(limit)}" for key, limit in spec.budget.given.items()]
    return Group(
        table,
        Text(f"budgets: {', '.join(limits) or 'none'}"),
        Text(f"{_number(spec.architectures)} architectures", style="bold"),
    )


def space_content(spec: MlpSpec) -> dict[str, Any]:
    """What :func:`space_table` shows, for JSON."""
    return {
        "name": spec.name,
        "spec_sha256": spec.sha256,
        **asdict(spec.input),
        **asdict(spec.space),
        "budget": spec.budget.given,
        "architectures": spec.architectures,
    }


def _number(count: int) -> str:
    """An exact count, or its magnitude where a line would not hold it."""
    return f"{count:,}" if count < 10**18 else f"{Decimal(count):.2e}"
