"""Tables of designs and spaces for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mad_ip import cost, entropy
from mad_ip.blocks import Layer
from mad_ip.catalogue import Catalogue, architectures, raw_options
from mad_ip.cost import COSTS
from mad_ip.design import Design
from mad_ip.memory import memory_of
from mad_ip.reports.hints import PROXY, hints
from mad_ip.reports.layout import RHO, Fitting, grid
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
    "space_content",
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


def design_table(design: Design, budget: Budget | None = None, spec: Spec | None = None) -> RenderableType:
    """Stages, totals (against ``budget`` where given) and the certificate of a design, and hints from its ``spec``."""
    small = (stage_table(design, compact=True, unit=unit) for unit in (1, 10**6))
    stages = Fitting(stage_table(design), *small)
    parts: list[RenderableType] = [stages, _totals(design, budget or Budget())]
    if design.device is not None:
        parts += [Text(sentence) for sentence in memory_of(design, budget).sentences()]
    certificate = design.certificate
    if certificate is not None:
        parts.append(Text(claim(design), style="bold green" if certificate.status == "optimal" else "bold yellow"))
        parts.append(Text(PROXY))
    if spec is not None:
        parts += [Text(f"hint: {sentence}") for sentence in hints(design, spec)]
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


def ranking_table(designs: Sequence[Design], spec: Spec) -> RenderableType:
    """The best design in full, and all beside it: score, share of the best, cost, channels and depths."""
    proven = all(design.certificate is not None and design.certificate.status == "optimal" for design in designs)
    said = "each proven in its rank within its gap" if proven else "not proven in their ranks"
    title = f"the {len(designs)} best designs, {said}"
    worth = {
        "score": [f"{design.metrics.score:,.4f}" for design in designs],
        "of the best": [_share(design, designs[0]) for design in designs],
        "MACs": [f"{design.metrics.macs:,}" for design in designs],
        "params": [f"{design.metrics.params:,}" for design in designs],
        "rho": [f"{design.metrics.effectiveness:.6f}" for design in designs],
        "gap": ["-" if design.certificate is None else f"{design.certificate.gap:.1e}" for design in designs],
    }
    made = {
        "channels": [", ".join(str(stage.channels) for stage in design.stages) for design in designs],
        "depths": [", ".join(str(stage.depth) for stage in design.stages) for design in designs],
    }
    tables = Fitting(_ranks(title, worth | made), Group(_ranks(title, worth), _ranks("", made)))
    return Group(design_table(designs[0], spec.budget, spec), tables)


def _share(design: Design, best: Design) -> str:
    return f"{design.metrics.score / best.metrics.score:.4%}" if best.metrics.score > 0 else "-"


def _ranks(title: str, columns: Mapping[str, Sequence[str]]) -> Table:
    table = grid(title, texts=("rank",), numbers=columns)
    table.caption = RHO if "rho" in columns else None
    for rank, cells in enumerate(zip(*columns.values(), strict=True), start=1):
        table.add_row(str(rank), *cells)
    return table


def stage_table(design: Design, *, compact: bool = False, unit: int = 1) -> Table:
    """The stem, the stages, the tail and the head: what was chosen, what each costs, to the last unit or in millions
    (``unit`` 10**6), and its share of the entropy.
    """
    headers = _headers(design.frames is not None, compact)
    millions = "" if unit == 1 else "M "
    table = grid(
        _title(design, compact),
        texts=("part",),
        numbers=(*headers, f"{millions}MACs", f"{millions}params", "entropy"),
    )
    shares = [f"{share:.1%}" for share in entropy_shares(design)]

    def spent(value: int) -> str:
        return f"{value:,}" if unit == 1 else "<0.001" if 0 < value < unit / 1000 else f"{value / unit:,.3f}"

    def row(part: str, output: list[str], numbers: Sequence[object], layers: Sequence[Layer], share: str) -> None:
        costs = (spent(count(layers)) for count in (cost.macs, cost.params))
        table.add_row(part, *output, *map(str, numbers), *costs, share)

    for number, (segment, choice, blocks) in enumerate(zip(design.segments, design.path, design.blocks(), strict=True)):
        part = _part(number, segment, compact)
        inner = (choice.mid, choice.depth) if segment.kind == "stage" else ("", "")
        numbers = [choice.channels, inner[0], _kernel(segment.time, choice.kernel), inner[1]]
        share = shares[number] if number < len(shares) else ""
        output = _output(segment.time.out_frames, segment.out_size, compact)
        row(part, output, numbers, [x for b in blocks for x in b], share)
    head = design.head_layers()
    if head:
        row("head", _output(design.frames and 1, 1, compact), [design.classes, "", "", ""], head, "")
    return table


def _title(problem: Design | Spec, compact: bool) -> str:
    """Name and convention; of compact tables with the families of the stages, whose rows do not say them."""
    blocks = [segment.block for segment in problem.segments if segment.kind == "stage"]
    families = f", {', '.join(blocks if len(set(blocks)) > 1 else blocks[:1])}" if compact else ""
    return f"{problem.name} ({problem.convention}{families})"


def _part(number: int, segment: Segment, compact: bool) -> str:
    if segment.kind != "stage":
        return segment.kind
    return str(number) if compact else f"{number} {segment.block}"


def _headers(temporal: bool, compact: bool) -> tuple[str, ...]:
    """The columns from the part's name to its costs, with the output frames where there are any."""
    frames = ("frames",) if temporal else ()
    return (*(("output",) if compact else (*frames, "resolution")), "channels", "inner", "kernel", "depth")


def _output(frames: int | None, size: int, compact: bool) -> list[str]:
    """Output frames, where there are any, and resolution; compact in one cell, ``13x80x80`` of clips."""
    if compact:
        return [str(size) if frames is None else f"{frames}x{size}x{size}"]
    return ([] if frames is None else [str(frames)]) + [str(size)]


def _kernel(time: Time, kernel: int) -> str:
    """``5`` for images, ``3x5x5`` for clips."""
    return str(kernel) if time.frames is None else f"{time.kernel}x{kernel}x{kernel}"


def _totals(design: Design, budget: Budget) -> Table:
    table = grid(texts=("total",), numbers=("value", "budget", "slack"))
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
    left = "too many to list here" if catalogue is None else f"{len(catalogue):,} after dominance"
    limits = [f"{key} {amount(key, limit)}" for key, limit in spec.budget.given.items()]
    return Group(
        Fitting(_domains(spec, catalogue), _domains(spec, catalogue, compact=True)),
        Text(f"budgets: {', '.join(limits) or 'none'}"),
        *_objective(spec),
        Text(
            f"{architectures(spec):,} architectures; {raw_options(spec):,} options, {left}",
            style="bold",
        ),
    )


def _domains(spec: Spec, catalogue: Catalogue | None, *, compact: bool = False) -> Table:
    headers = (*_headers(spec.input.frames is not None, compact), "options")
    table = grid(_title(spec, compact), texts=("part",), numbers=headers)
    counts = [""] * len(spec.segments) if catalogue is None else [f"{len(options):,}" for options in catalogue.segments]
    for number, (segment, count) in enumerate(zip(spec.segments, counts, strict=True)):
        kernel = _domain([_kernel(segment.time, k) for k in segment.kernel])
        inner = (_domain(segment.mid), _domain(segment.depth)) if segment.kind == "stage" else ("", "")
        output = _output(segment.time.out_frames, segment.out_size, compact)
        domains = (_domain(segment.channels), inner[0], kernel, inner[1])
        table.add_row(_part(number, segment, compact), *output, *domains, count)
    return table


def space_content(spec: Spec, catalogue: Catalogue | None) -> dict[str, Any]:
    """What :func:`space_table` shows, for JSON: domains value by value, limits in the units that are reported.

    ``options`` are all of them, ``undominated`` what dominance leaves, ``None`` where they are too many to list.
    """
    parts = []
    for number, segment in enumerate(spec.segments):
        frames = {} if segment.time.out_frames is None else {"frames": segment.time.out_frames}
        part = {"part": segment.name, **({"block": segment.block} if segment.kind == "stage" else {}), **frames}
        kernel = {} if segment.kind == "tail" else {"kernel": segment.kernel}
        undominated = None if catalogue is None else len(catalogue.segments[number])
        parts.append({**part, "resolution": segment.out_size, **kernel, **segment.domains, "undominated": undominated})
    reported = {key: COSTS[key].reported(limit) if key in COSTS else limit for key, limit in spec.budget.given.items()}
    return {
        "name": spec.name,
        "spec_sha256": spec.sha256,
        "convention": spec.convention,
        "parts": parts,
        "budget": reported,
        "architectures": architectures(spec),
        "options": raw_options(spec),
        "undominated": None if catalogue is None else len(catalogue),
    }


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
