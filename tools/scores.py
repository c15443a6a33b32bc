"""docs/scores.md, entropy beside ImageNet error: ``python -m tools.scores``.

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

from rich.console import Console
from scipy import stats

from mad_ip.files import read_bytes
from mad_ip.scoring import Score
from tools.markdown import rewrite, table

__all__ = ["BAND", "Published", "correlation_table", "network_table", "published", "taus"]

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
    return table(header, rows, texts=3)


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
    return table(header, rows, texts=1)


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
    parser = argparse.ArgumentParser(prog="python -m tools.scores", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/scores.md"), help="file with the markers")
    out = parser.parse_args().out
    from mad_ip.networks.score import load, score

    known: dict[tuple[str, int], Score] = {}
    rows = published()
    for row in rows:
        key = row.network, row.resolution
        if key not in known:
            known[key] = score(load(row.network)[0], name=row.network, resolution=row.resolution)
    scored = [(row, known[row.network, row.resolution]) for row in rows]
    rewrite(out, correlations=correlation_table(scored), networks=network_table(scored))
    Console().print(f"{out}: {len(scored)} rows")


def _entropy(score: Score) -> float:
    return score.entropy


def _macs(score: Score) -> float:
    return float(score.macs)


if __name__ == "__main__":
    main()
