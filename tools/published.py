"""The zoo and the paper's own networks, as tables in models/README.md: ``python -m tools.published``.

Every number of those tables is read from a design.json or comes from a solve made here. The published networks of
DeepMAD (arXiv 2303.02165) are compared at their own measured MACs, parameters and effectiveness, on the grid of the
zoo's spec for the same budget, with non-decreasing channels, which the published ones do not all keep.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mad_ip.design import Design, Metrics
from mad_ip.errors import InputError
from mad_ip.files import resource
from mad_ip.solve import solve
from mad_ip.spec import Budget, Objective, Spec
from tools.markdown import rewrite, table

__all__ = ["NETWORKS", "SETTINGS", "Comparison", "compare", "published_table", "zoo_table"]

NETWORKS = ("deepmad-r18", "deepmad-r34", "deepmad-r50")
"""Published networks that are compared; models/<name>/spec.toml gives the grid."""

SETTINGS = (("paper", 10.0), ("tinynas", 10.0), ("paper", 0.0))
"""Convention and depth penalty beta. Without the penalty the entropies themselves compete."""


@dataclass(frozen=True)
class Comparison:
    """A published network as measured under a convention and a ``beta``, and the best design within its costs."""

    published: Design
    theirs: Metrics
    ours: Design
    beta: float


def compare(
    name: str,
    convention: str,
    beta: float,
    *,
    time_limit: float = math.inf,
    gap: float = 1e-6,
    threads: int = 1,
    seed: int = 0,
) -> Comparison:
    """Solve at exactly what the published network ``name`` costs under ``convention``, with depth penalty ``beta``."""
    published = dataclasses.replace(Design.load(_find(f"published/{name}.json")), convention=convention)
    theirs = published.measure(beta)
    spec = dataclasses.replace(
        Spec.load(_find(f"{name}/spec.toml")),
        name=f"{name}-at-published",
        convention=convention,
        budget=Budget(macs=theirs.macs, params=theirs.params, effectiveness=theirs.effectiveness),
        objective=Objective(beta),
        sha256="",
    )
    ours = solve(spec, time_limit=time_limit, gap=gap, threads=threads, seed=seed)
    return Comparison(published, theirs, ours, beta)


def published_table(comparisons: Iterable[Comparison]) -> str:
    """Published against ours, one row for each comparison, in Markdown."""
    rows = []
    for comparison in comparisons:
        ours, certificate = comparison.ours, comparison.ours.certificate
        assert certificate is not None
        rows.append(
            [
                comparison.published.name,
                f"{ours.convention}, {comparison.beta:g}",
                *_worth(comparison.theirs),
                _depths(comparison.published),
                *_worth(ours.metrics),
                _depths(ours),
                f"{certificate.gap:.1e}",
                f"{certificate.seconds:.0f}",
            ]
        )
    worth = ["entropy", "penalty", "score", "depths"]
    header = ["network", "convention, beta", *(f"published {key}" for key in worth), *(f"our {key}" for key in worth)]
    return table([*header, "gap", "seconds"], rows)


def zoo_table(models: Iterable[tuple[Spec, Design]]) -> str:
    """Grid, certificate and result of every model, in Markdown."""
    rows = []
    for spec, design in models:
        certificate = design.certificate
        assert certificate is not None
        keys = ("channels", "mid", "kernel", "depth")
        grid = " x ".join(_span([len(getattr(stage, key)) for stage in spec.stages]) for key in keys)
        budget = spec.budget
        rows.append(
            [
                f"[{design.name}]({design.name}/spec.toml)",
                _limit(budget.macs, 1e9, " G"),
                _limit(budget.params, 1e6, " M"),
                _limit(budget.effectiveness),
                f"{len(spec.stages)}: {grid}",
                f"{certificate.options:,}",
                f"{certificate.architectures:.2e}",
                f"{design.metrics.score:,.2f}",
                _depths(design),
                f"{certificate.gap:.1e}",
                f"{certificate.seconds:.0f}",
            ]
        )
    return table(
        [
            "model",
            "MACs",
            "params",
            "rho",
            "stages: widths x mids x kernels x depths",
            "options",
            "architectures",
            "score",
            "depths",
            "gap",
            "seconds",
        ],
        rows,
    )


def main() -> None:
    """Write both tables into models/README.md; the first needs every design.json of the zoo, the second solves."""
    parser = argparse.ArgumentParser(prog="python -m tools.published", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="time limit of one comparison (default 600)")
    parser.add_argument("--gap", type=float, default=1e-4, help="relative gap of one comparison (default 1e-4)")
    parser.add_argument("--threads", type=int, default=2, help="processes for one comparison (default 2)")
    arguments = parser.parse_args()
    console = Console()
    readme = _find("README.md")
    specs = [Spec.load(path) for path in sorted(readme.parent.glob("*/spec.toml"))]
    models = [(spec, Design.load(Path(spec.source).with_name("design.json"))) for spec in specs]
    rewrite(readme, zoo=zoo_table(models))
    comparisons = []
    for convention, beta in SETTINGS:
        for name in NETWORKS:
            comparison = compare(
                name,
                convention,
                beta,
                time_limit=arguments.seconds,
                gap=arguments.gap,
                threads=arguments.threads,
            )
            comparisons.append(comparison)
            console.print(
                f"{name}, {convention}, beta {beta:g}: published {comparison.theirs.score:,.2f}, "
                f"ours {comparison.ours.metrics.score:,.2f}, {comparison.ours.certificate}"
            )
    rewrite(readme, published=published_table(comparisons))


def _find(name: str) -> Path:
    path = resource(f"models/{name}")
    if path is None:
        raise InputError(f"models/{name}: not found under the working folder or in the package")
    return path


def _worth(metrics: Metrics) -> list[str]:
    # The paper's penalty of a published network can exceed its entropy by orders of magnitude.
    values = (metrics.entropy, metrics.depth_penalty, metrics.score)
    return [f"{value:,.1f}" if abs(value) < 1e6 else f"{value:.2e}" for value in values]


def _depths(design: Design) -> str:
    return ",".join(str(stage.depth) for stage in design.stages)


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low}-{high}"


def _limit(value: float | None, unit: float = 1.0, suffix: str = "") -> str:
    return "-" if value is None else f"{value / unit:g}{suffix}"


if __name__ == "__main__":
    main()
