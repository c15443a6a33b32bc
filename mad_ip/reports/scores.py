"""Scores of networks as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from mad_ip.cost import COSTS
from mad_ip.reports.layout import RHO, grid
from mad_ip.reports.table import amount
from mad_ip.scoring import Optimum, Score

__all__ = ["optimum_text", "score_table", "scores_table"]


def score_table(score: Score) -> RenderableType:
    """The totals of a network and what every resolution contributes to its entropy."""
    title = f"{score.name} ({score.convention}, {score.resolution} pixels)"
    table = grid(title, numbers=("resolution", "channels", "layers", "weight", "entropy", "share"))
    for level in score.levels:
        share = level.entropy / score.entropy if score.entropy else 0.0
        numbers = (level.resolution, level.channels, level.layers, f"{level.weight:g}", f"{level.entropy:,.4f}")
        table.add_row(*map(str, numbers), f"{share:.1%}")
    totals = (
        f"entropy {score.entropy:,.4f}, effectiveness {score.effectiveness:.6g}, {score.macs:,} MACs, "
        f"{score.params:,} parameters, {score.layers} counted layers"
    )
    lines = [Text(totals, style="bold")]
    if score.device:
        taken = (f"{key} {amount(key, value * COSTS[key].step)}" for key, value in score.device.items())
        lines.append(Text(f"on the device: {', '.join(taken)}", style="bold"))
    return Group(table, *lines)


def scores_table(scores: Sequence[Score]) -> RenderableType:
    """The totals of several networks, one row each, and what they take of a device."""
    settings = [f"{score.convention}, {score.resolution} pixels" for score in scores]
    alike = len(set(settings)) == 1
    names = [score.name if alike else f"{score.name} ({own})" for score, own in zip(scores, settings, strict=True)]
    title = f"{len(scores)} networks" + (f" ({settings[0]})" if alike else "")
    table = grid(title, texts=("network",), numbers=("MACs", "params", "entropy", "rho", "layers"))
    table.caption = RHO
    for name, score in zip(names, scores, strict=True):
        worth = (f"{score.entropy:,.2f}", f"{score.effectiveness:.4f}", str(score.layers))
        table.add_row(name, f"{score.macs:,}", f"{score.params:,}", *worth)
    keys = dict.fromkeys(key for score in scores for key in score.device)
    if not keys:
        return table
    taken = grid("on the device", texts=("network",), numbers=keys)
    for name, score in zip(names, scores, strict=True):
        own = score.device
        taken.add_row(name, *(amount(key, own[key] * COSTS[key].step) if key in own else "" for key in keys))
    return Group(table, taken)


def optimum_text(score: Score, optimum: Optimum) -> str:
    """One sentence: which share of the best entropy of a space, at its own cost, the network reaches."""
    design = optimum.design
    assert design.certificate is not None
    best = f"{design.metrics.entropy:,.4f} of {design.name}"
    if optimum.proven:
        return f"{score.name} reaches {optimum.share:.2%} of the proven optimum {best} at its own cost"
    return (
        f"{score.name} reaches {optimum.share:.2%} of the best found {best} at its own cost, and at least "
        f"{optimum.least:.2%} of the optimum (gap {design.certificate.gap:.2%})"
    )
