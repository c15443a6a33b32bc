"""Scores as tables, and docs/scores.md, entropy beside ImageNet error: ``python -m mad_ip.reports.scores``.

The published errors and costs are in imagenet.csv: facts from the weight metadata of torchvision 0.29.1 (BSD-3-Clause;
recipes V1 and V2) and from the model zoo of facebookresearch/pycls (MIT; one recipe for all of its networks).
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from scipy import stats

from mad_ip.files import read_bytes, write_atomically
from mad_ip.reports.published import insert
from mad_ip.scoring import Optimum, Score

__all__ = [
    "BAND",
    "Published",
    "correlation_table",
    "network_table",
    "optimum_text",
    "published",
    "score_table",
    "taus",
]

BAND = 1.3
"""Networks whose MACs differ by at most this factor count as equally expensive."""


@dataclass(frozen=True)
class Published:
    """A network that others trained: its ImageNet top-1 error in percent, at a resolution, by a recipe."""

    network: str
    family: str
    recipe: str
    resolution: int
    error: float
    gmacs: float
    params: int


def published() -> list[Published]:
    """The rows of imagenet.csv, in its order."""
    rows = csv.reader(io.StringIO(read_bytes(Path(__file__).with_name("imagenet.csv")).decode("utf-8")))
    next(rows)
    return [
        Published(network, family, recipe, int(resolution), float(error), float(gmacs), int(params))
        for network, family, recipe, resolution, error, gmacs, params in rows
    ]


def score_table(score: Score) -> RenderableType:
    """The totals of a network and what every resolution contributes to its entropy."""
    title = f"{score.name} ({score.convention}, {score.resolution} pixels)"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold")
    for header in ("resolution", "channels", "layers", "weight", "entropy", "share"):
        table.add_column(header, justify="right")
    for level in score.levels:
        share = level.entropy / score.entropy if score.entropy else 0.0
        numbers = (level.resolution, level.channels, level.layers, f"{level.weight:g}", f"{level.entropy:,.4f}")
        table.add_row(*map(str, numbers), f"{share:.1%}")
    totals = (
        f"entropy {score.entropy:,.4f}, effectiveness {score.effectiveness:.6g}, {score.macs:,} MACs, "
        f"{score.params:,} parameters, {score.layers} counted layers"
    )
    return Group(table, Text(totals, style="bold"))


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


def network_table(scored: Iterable[tuple[Published, Score]]) -> str:
    """One row for each network, in Markdown."""
    rows = [
        [
            row.network,
            row.family,
            row.recipe,
            str(row.resolution),
            f"{score.macs / 1e9:.3f}",
            f"{score.params / 1e6:.2f}",
            str(score.layers),
            f"{score.effectiveness:.3f}",
            f"{score.entropy:,.0f}",
            f"{row.error:.2f}",
        ]
        for row, score in scored
    ]
    header = [
        "network",
        "family",
        "recipe",
        "resolution",
        "GMACs",
        "M params",
        "layers",
        "rho",
        "entropy",
        "top-1 error",
    ]
    return _markdown(header, rows, texts=3)


def correlation_table(scored: Sequence[tuple[Published, Score]]) -> str:
    """Rank correlations with accuracy, overall and among networks of equal MACs, by recipe and family, in Markdown."""
    groups = [("all", list(scored))]
    for attribute in ("recipe", "family"):
        for value in dict.fromkeys(getattr(row, attribute) for row, _ in scored):
            members = [pair for pair in scored if getattr(pair[0], attribute) == value]
            groups.append((value, members))
    rows = []
    for name, members in groups:
        accuracy = [-row.error for row, _ in members]
        cells = [name, str(len(members))]
        for measure in (_entropy, _macs):
            values = [measure(score) for _, score in members]
            cells += [
                f"{stats.spearmanr(values, accuracy).statistic:.2f}",
                f"{stats.kendalltau(values, accuracy).statistic:.2f}",
            ]
        pairs = taus(members, _entropy)
        cells += [str(pairs[1]), "-" if pairs[1] == 0 else f"{pairs[0]:.2f}"]
        rows.append(cells)
    header = [
        "networks",
        "number",
        "entropy: Spearman",
        "entropy: Kendall",
        "MACs: Spearman",
        "MACs: Kendall",
        "pairs at equal MACs",
        "entropy: Kendall at equal MACs",
    ]
    return _markdown(header, rows, texts=1)


def taus(scored: Sequence[tuple[Published, Score]], measure: Callable[[Score], float]) -> tuple[float, int]:
    """Kendall's coefficient over the pairs whose MACs are within :data:`BAND` and whose recipe is the same.

    Concordant minus discordant pairs, over all pairs that tie in neither; and the number of those pairs.
    """
    total = number = 0
    for position, (row, score) in enumerate(scored):
        for other, rival in scored[position + 1 :]:
            dear, cheap = max(score.macs, rival.macs), min(score.macs, rival.macs)
            if row.recipe != other.recipe or dear > BAND * cheap:
                continue
            product = (measure(score) - measure(rival)) * (other.error - row.error)
            total += (product > 0) - (product < 0)
            number += product != 0
    return (total / number if number else 0.0), number


def main() -> None:
    """Score every network of imagenet.csv and write the tables of docs/scores.md; takes minutes."""
    parser = argparse.ArgumentParser(prog="python -m mad_ip.reports.scores", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/scores.md"), help="file with the markers")
    out = parser.parse_args().out
    text = read_bytes(out).decode("utf-8")
    from mad_ip.networks.score import load, score

    known: dict[tuple[str, int], Score] = {}
    rows = published()
    for row in rows:
        key = row.network, row.resolution
        if key not in known:
            known[key] = score(load(row.network)[0], name=row.network, resolution=row.resolution)
    scored = [(row, known[row.network, row.resolution]) for row in rows]
    text = insert(text, "correlations", correlation_table(scored), str(out))
    text = insert(text, "networks", network_table(scored), str(out))
    write_atomically(out, text.encode())
    Console().print(f"{out}: {len(scored)} rows")


def _entropy(score: Score) -> float:
    return score.entropy


def _macs(score: Score) -> float:
    return float(score.macs)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    lines = [header, ["---"] * texts + ["---:"] * (len(header) - texts), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
