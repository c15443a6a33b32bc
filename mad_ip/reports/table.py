"""Tables of designs and spaces for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mad_ip import cost, entropy
from mad_ip.blocks import Layer
from mad_ip.catalogue import Catalogue, architectures, raw_options
from mad_ip.cost import COSTS
from mad_ip.design import Design
from mad_ip.memory import memory_of
from mad_ip.spec import Budget, Segment, Spec, Time

__all__ = [
    "amount",
    "claim",
    "compact",
    "design_table",
    "entropy_shares",
    "prefixed",
    "quantity",
    "ranking_table",
    "space_table",
    "spending",
    "stage_table",
]

_PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}

_COMPACT = {"macs": "MACs", "params": " parameters", "activation": "B", "flash": "B"}
"""Units that take a prefix, by the key of their budget."""


def quantity(value: float) -> str:
    """A whole number with thousands separators, any other with six significant digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"


def amount(key: str, value: float) -> str:
    """What a budget limits, with its unit where it depends on a device."""
    cost = COSTS.get(key)
    if cost is None or not cost.units:
        return quantity(value)
    if cost.step > 1:
        return f"{value / cost.step / 1e6:,.6g} ms"
    return f"{quantity(value)} {cost.unit}"


def prefixed(value: float) -> str:
    """A number to four digits with its decimal prefix: ``1.82 G``, ``99.64 k``, ``31``."""
    prefix, size = next(((prefix, size) for prefix, size in _PREFIXES.items() if abs(value) >= size), ("", 1.0))
    return f"{value / size:.4g} {prefix}".rstrip()


def compact(key: str, value: float) -> str:
    """What a budget limits, to four digits where its unit takes a prefix: ``1.82 GMACs``, ``11.69 M parameters``."""
    if key not in _COMPACT:
        return amount(key, value)
    number, _, prefix = prefixed(value).partition(" ")
    return f"{number} {prefix}{_COMPACT[key]}".replace("  ", " ")


def design_table(design: Design, budget: Budget | None = None) -> RenderableType:
    """Stages, totals (against ``budget`` where given) and the certificate of a design."""
    parts: list[RenderableType] = [stage_table(design), _totals(design, budget or Budget())]
    if design.device is not None:
        parts += [Text(sentence) for sentence in memory_of(design, budget).sentences()]
    certificate = design.certificate
    if certificate is not None:
        parts.append(Text(claim(design), style="bold green" if certificate.status == "optimal" else "bold yellow"))
    return Group(*parts)


def claim(design: Design) -> str:
    """What the certificate of a design says, in one line; empty without one."""
    certificate = design.certificate
    if certificate is None:
        return ""
    within, left = f"{certificate.gap:.1e} (relative)", certificate.bound - design.metrics.score
    if certificate.gap > 1e-6 and left < 1e-5:
        # Of a score near 0 no relative gap means anything.
        within = f"{left:.1e} (absolute)"
    proven = (
        f"proven optimal within {within}"
        if certificate.status == "optimal"
        else f"feasible, not proven optimal: gap {certificate.gap:.2%}"
    )
    return (
        f"{proven}, bound {certificate.bound:,.4f}, out of {certificate.architectures:,} architectures, "
        f"{certificate.options:,} options; {certificate.backend} {certificate.version}, {certificate.seconds:.1f} s"
    )


def entropy_shares(design: Design) -> list[float]:
    """The share of the entropy that each level has, of :meth:`Design.levels`; zeros where there is none."""
    levels = design.levels()
    total = entropy.entropy(levels, "paper")
    return [level.gain * level.log_width / total if total else 0.0 for level in levels]


def spending(design: Design, budget: Budget) -> Iterator[tuple[str, float, float | None]]:
    """Key, cost and limit (``None``: none) of all that a budget may limit, in the cost's own unit."""
    metrics = design.metrics.content()
    for key in Budget.keys():  # noqa: SIM118 (no mapping)
        limit = getattr(budget, key)
        if limit is not None or key in metrics:
            yield key, metrics[key] if key == "effectiveness" else design.spent(key), limit


def ranking_table(designs: Sequence[Design], budget: Budget | None = None) -> RenderableType:
    """The best design in full, and all in one table: score, share of the best, cost, channels and depths."""
    table = Table(title=f"the {len(designs)} best designs, each proven in its rank within its gap", box=box.SIMPLE_HEAD)
    for header in ("rank", "score", "of the best", "MACs", "params", "effectiveness", "channels", "depths", "gap"):
        table.add_column(header, justify="right")
    best = designs[0].metrics.score
    for rank, design in enumerate(designs, start=1):
        metrics, certificate = design.metrics, design.certificate
        table.add_row(
            str(rank),
            f"{metrics.score:,.4f}",
            f"{metrics.score / best:.4%}" if best > 0 else "-",
            f"{metrics.macs:,}",
            f"{metrics.params:,}",
            f"{metrics.effectiveness:.6f}",
            ",".join(str(stage.channels) for stage in design.stages),
            ",".join(str(stage.depth) for stage in design.stages),
            "-" if certificate is None else f"{certificate.gap:.1e}",
        )
    if any(design.certificate is None or design.certificate.status != "optimal" for design in designs):
        table.title = f"the {len(designs)} best designs found, not proven in their ranks"
    return Group(design_table(designs[0], budget), table)


def stage_table(design: Design) -> Table:
    """The stem, the stages, the tail and the head: what was chosen, what each costs, and its share of the entropy."""
    table = Table(title=f"{design.name} ({design.convention})", box=box.SIMPLE_HEAD, title_style="bold")
    table.add_column("part")
    for header in _headers(design.frames is not None, "MACs", "params", "entropy"):
        table.add_column(header, justify="right")
    shares = [f"{share:.1%}" for share in entropy_shares(design)]

    def row(part: str, output: list[str], numbers: Sequence[object], layers: Sequence[Layer], share: str) -> None:
        table.add_row(part, *output, *map(str, numbers), f"{cost.macs(layers):,}", f"{cost.params(layers):,}", share)

    for number, (segment, choice, blocks) in enumerate(zip(design.segments, design.path, design.blocks(), strict=True)):
        part, inner = _part(number, segment), (choice.mid, choice.depth) if segment.kind == "stage" else ("", "")
        numbers = [choice.channels, inner[0], _kernel(segment.time, choice.kernel), inner[1]]
        share = shares[number] if number < len(shares) else ""
        row(part, _output(segment.time.out_frames, segment.out_size), numbers, [x for b in blocks for x in b], share)
    head = design.head_layers()
    if head:
        row("head", _output(design.frames and 1, 1), [design.classes, "", "", ""], head, "")
    return table


def _part(number: int, segment: Segment) -> str:
    return f"{number} {segment.block}" if segment.kind == "stage" else segment.kind


def _headers(temporal: bool, *last: str) -> tuple[str, ...]:
    """The columns after the part's name, with the output frames where there are any."""
    return (*(("frames",) if temporal else ()), "resolution", "channels", "inner", "kernel", "depth", *last)


def _output(frames: int | None, size: int) -> list[str]:
    """Output frames, where there are any, and resolution."""
    return ([] if frames is None else [str(frames)]) + [str(size)]


def _kernel(time: Time, kernel: int) -> str:
    """``5`` for images, ``3x5x5`` for clips."""
    return str(kernel) if time.frames is None else f"{time.kernel}x{kernel}x{kernel}"


def _totals(design: Design, budget: Budget) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("total")
    for header in ("value", "budget", "slack"):
        table.add_column(header, justify="right")
    metrics = design.metrics.content()
    for key, value, limit in spending(design, budget):
        slack = "" if limit is None else f"{(limit - value) / limit:.3%}"
        table.add_row(key, amount(key, value), "" if limit is None else amount(key, limit), slack)
    for key in ("entropy", "depth_penalty", "utility", "score"):
        if key in metrics:
            share = metrics.get("share", 1.0) if key == "entropy" else 1.0
            named = key.replace("_", " ") + ("" if share == 1 else f" (times {share:g})")
            table.add_row(named, f"{metrics[key]:,.4f}", "", "")
    return table


def space_table(spec: Spec, catalogue: Catalogue | None) -> RenderableType:
    """The domains of a spec, the exact size of its space, of its catalogue before and, where given, after dominance."""
    table = Table(title=f"{spec.name} ({spec.convention})", box=box.SIMPLE_HEAD, title_style="bold")
    table.add_column("part")
    for header in _headers(spec.input.frames is not None, "options"):
        table.add_column(header, justify="right")
    counts = [""] * len(spec.segments) if catalogue is None else [f"{len(options):,}" for options in catalogue.segments]
    left = "too many to list" if catalogue is None else f"{len(catalogue):,} after dominance"
    for number, (segment, count) in enumerate(zip(spec.segments, counts, strict=True)):
        kernel = _domain([_kernel(segment.time, k) for k in segment.kernel])
        inner = (_domain(segment.mid), _domain(segment.depth)) if segment.kind == "stage" else ("", "")
        output = _output(segment.time.out_frames, segment.out_size)
        table.add_row(_part(number, segment), *output, _domain(segment.channels), inner[0], kernel, inner[1], count)
    limits = [f"{key} {amount(key, limit)}" for key, limit in spec.budget.given.items()]
    return Group(
        table,
        Text(f"budgets: {', '.join(limits) or 'none'}"),
        *_objective(spec),
        Text(
            f"{architectures(spec):,} architectures; {raw_options(spec):,} options, {left}",
            style="bold",
        ),
    )


def _objective(spec: Spec) -> list[Text]:
    """What is maximised, where that is not the paper's objective."""
    objective = spec.objective
    if objective.is_plain:
        return []
    terms = [f"{axis} of {utility.stage}" for utility in objective.utilities for axis, _ in utility.terms]
    valued = f" + utilities: {', '.join(terms)}" if terms else ""
    return [Text(f"objective: {objective.entropy:g} entropy - {objective.depth_penalty:g} Q{valued}")]


def _domain(values: Sequence[object]) -> str:
    if len(values) <= 2:
        return ", ".join(map(str, values))
    return f"{values[0]}..{values[-1]} ({len(values)})"
