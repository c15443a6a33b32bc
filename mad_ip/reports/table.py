"""Tables of designs and spaces for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mad_ip import cost, entropy
from mad_ip.blocks import Layer
from mad_ip.catalogue import Catalogue, raw_options
from mad_ip.design import Design
from mad_ip.spec import Budget, Domain, Spec

__all__ = ["design_table", "quantity", "space_table"]


def quantity(value: float) -> str:
    """A whole number with thousands separators, any other with six significant digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"


def design_table(design: Design, budget: Budget | None = None) -> RenderableType:
    """Stages, totals (against ``budget`` where given) and the certificate of a design."""
    parts: list[RenderableType] = [_stages(design), _totals(design, budget or Budget())]
    certificate = design.certificate
    if certificate is not None:
        claim = (
            f"proven optimal within {certificate.gap:.1e} (relative)"
            if certificate.status == "optimal"
            else f"feasible, not proven optimal: gap {certificate.gap:.2%}"
        )
        parts.append(
            Text(
                f"{claim}, bound {certificate.bound:,.4f}, out of {certificate.architectures:,} architectures, "
                f"{certificate.options:,} options; {certificate.backend} {certificate.version}, "
                f"{certificate.seconds:.1f} s",
                style="bold green" if certificate.status == "optimal" else "bold yellow",
            )
        )
    return Group(*parts)


def _stages(design: Design) -> Table:
    table = Table(title=f"{design.name} ({design.convention})", box=box.SIMPLE_HEAD, title_style="bold")
    table.add_column("part")
    for header in ("resolution", "channels", "inner", "kernel", "depth", "MACs", "params", "entropy"):
        table.add_column(header, justify="right")
    stem, *stages, tail, head = design.parts()
    levels = design.levels()
    total = entropy.entropy(levels, "paper")
    shares = [level.gain * level.log_width / total if total else 0.0 for level in levels]
    sizes = design.resolutions

    def row(part: str, size: int, numbers: Sequence[object], layers: Sequence[Layer], share: float | None) -> None:
        spent = f"{cost.macs(layers):,}", f"{cost.params(layers):,}"
        table.add_row(part, str(size), *map(str, numbers), *spent, "" if share is None else f"{share:.1%}")

    row("stem", sizes[0], [design.stem.channels, "", design.stem.kernel, ""], stem, shares[0])
    for number, (stage, layers) in enumerate(zip(design.stages, stages, strict=True), start=1):
        numbers = [stage.channels, stage.mid, stage.kernel, stage.depth]
        row(f"{number} {stage.block}", sizes[number], numbers, layers, shares[number])
    if tail:
        row("tail", sizes[-1], [design.tail, "", 1, ""], tail, None)
    if head:
        row("head", 1, [design.classes, "", "", ""], head, None)
    return table


def _totals(design: Design, budget: Budget) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("total")
    for header in ("value", "budget", "slack"):
        table.add_column(header, justify="right")
    metrics = asdict(design.metrics)
    for key, limit in asdict(budget).items():
        value = metrics[key]
        slack = "" if limit is None else f"{(limit - value) / limit:.3%}"
        table.add_row(key, quantity(value), "" if limit is None else quantity(limit), slack)
    for key in ("entropy", "depth_penalty", "score"):
        table.add_row(key.replace("_", " "), f"{metrics[key]:,.4f}", "", "")
    return table


def space_table(spec: Spec, catalogue: Catalogue) -> RenderableType:
    """The domains of a spec, the exact size of its space, and of its catalogue before and after dominance."""
    table = Table(title=f"{spec.name} ({spec.convention})", box=box.SIMPLE_HEAD, title_style="bold")
    table.add_column("part")
    for header in ("resolution", "channels", "inner", "kernel", "depth", "options"):
        table.add_column(header, justify="right")
    sizes = spec.resolutions
    counts = [f"{len(segment):,}" for segment in catalogue.segments]
    table.add_row("stem", str(sizes[0]), _domain(spec.stem.channels), "", str(spec.stem.kernel), "", counts[0])
    for number, stage in enumerate(spec.stages, start=1):
        domains = [_domain(domain) for domain in (stage.channels, stage.mid, stage.kernel, stage.depth)]
        table.add_row(f"{number} {stage.block}", str(sizes[number]), *domains, counts[number])
    if spec.tail is not None:
        table.add_row("tail", str(sizes[-1]), _domain(spec.tail.channels), "", "1", "", counts[-1])
    limits = [f"{key} {quantity(limit)}" for key, limit in asdict(spec.budget).items() if limit is not None]
    return Group(
        table,
        Text(f"budgets: {', '.join(limits) or 'none'}"),
        Text(
            f"{catalogue.architectures:,} architectures; {raw_options(spec):,} options, "
            f"{len(catalogue):,} after dominance",
            style="bold",
        ),
    )


def _domain(values: Domain) -> str:
    if len(values) <= 2:
        return ", ".join(map(str, values))
    return f"{values[0]}..{values[-1]} ({len(values)})"
