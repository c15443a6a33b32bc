"""What trained networks say of entropy, from the runs in docs/evidence/runs.csv: ``python -m tools.evidence``.

Writes the tables of docs/evidence.md, its plots, and the sentence in the README. A run is one training of one design
with one seed (:mod:`mad_ip.networks.training`); a row of the file has its design.json and its accuracy.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.files import write_atomically
from mad_ip.runs import listed
from tools.markdown import rewrite, table

__all__ = ["Entry", "against", "correlation", "entries", "interval", "main", "paired", "summary"]

FOLDER = Path("docs/evidence")
DOCUMENT = Path("docs/evidence.md")
README = Path("README.md")

CALIBRATED = "calibrated"
"""The design that all others are compared with, seed by seed."""

CONFIDENCE = 0.95

KINDS = {
    "calibrated": "calibrated optimum",
    "optimum": "proven entropy optimum",
    "evolution": "evolution",
    "resnet": "hand-made ResNet",
    "random": "random, feasible",
}
"""Kinds of designs by the first word of their names, in the order of the legend."""


@dataclass(frozen=True)
class Entry:
    """A design with the accuracies of its runs, by seed."""

    name: str
    design: Design
    accuracies: dict[int, float]

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        return self.name.partition("-")[0]

    @cached_property
    def mean(self) -> float:
        """Over the seeds."""
        return math.fsum(self.accuracies.values()) / len(self.accuracies)

    @cached_property
    def half(self) -> float:
        """Half the width of the confidence interval of the mean; not a number for one run."""
        return interval(list(self.accuracies.values()))


def interval(values: Sequence[float]) -> float:
    """Half the width of Student's confidence interval for the mean of values; not a number for fewer than two."""
    number = len(values)
    if number < 2:
        return math.nan
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, number - 1)
    return float(quantile * np.std(values, ddof=1) / math.sqrt(number))


def entries(path: Path) -> list[Entry]:
    """The designs of a CSV of runs, the best mean first; raise :class:`InputError` for a row that is none."""
    runs: dict[str, dict[int, float]] = {}
    for row, name, seed, accuracy, _ in listed(path):
        if seed is None or not 0 <= accuracy <= 1:
            raise InputError(f"{path}: row {row}: must have a seed, and an accuracy from 0 to 1")
        if seed in runs.setdefault(name, {}):
            raise InputError(f"{path}: row {row}: design {name} with seed {seed} is there twice; must be once")
        runs[name][seed] = accuracy
    found = [Entry(Path(name).stem, Design.load(path.parent / name), known) for name, known in runs.items()]
    return sorted(found, key=lambda entry: -entry.mean)


def paired(one: Entry, other: Entry) -> tuple[int, float, float, float]:
    """Seeds that both have, the mean difference of their accuracies, half its interval, and the paired t-test's p."""
    seeds = sorted(one.accuracies.keys() & other.accuracies.keys())
    differences = [one.accuracies[seed] - other.accuracies[seed] for seed in seeds]
    mean = math.fsum(differences) / len(differences) if seeds else math.nan
    p = float(stats.ttest_1samp(differences, 0.0).pvalue) if len(seeds) > 1 else math.nan
    return len(seeds), mean, interval(differences), p


def correlation(found: Iterable[Entry], quantity: str) -> float:
    """Spearman's rank correlation of a metric of the designs with their mean accuracy."""
    pairs = [(getattr(entry.design.metrics, quantity), entry.mean) for entry in found]
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else math.nan


def against(ours: Entry, found: Iterable[Entry]) -> list[tuple[Entry, tuple[int, float, float, float], float]]:
    """Every other design with what :func:`paired` says of ours and it, and p with Holm's correction for all of them."""
    tests = [(other, paired(ours, other)) for other in found if other is not ours]
    made = sorted((p, other.name) for other, (_, _, _, p) in tests if not math.isnan(p))
    # The smallest p times the number of tests, the next times one less, never below the one before it.
    adjusted, least = {}, 0.0
    for smaller, (p, name) in enumerate(made):
        adjusted[name] = least = max(least, min(1.0, p * (len(made) - smaller)))
    return [(other, test, adjusted.get(other.name, math.nan)) for other, test in tests]


def summary(found: Sequence[Entry]) -> str:
    """What was found, in sentences."""
    runs = sum(len(entry.accuracies) for entry in found)
    optima = [entry for entry in found if entry.kind == "optimum"]
    others = [entry for entry in found if entry.kind == "random"]
    best, worst = optima[0], optima[-1]
    beaten = [sum(entry.mean > other.mean for other in others) for entry in (best, worst)]
    calibrated = _calibrated(found)
    rank = 1 + sum(entry.mean > calibrated.mean for entry in found)
    tests = against(calibrated, found)
    better, worse = (sum(sign * mean > 0 and p < 1 - CONFIDENCE for _, (_, mean, _, _), p in tests) for sign in (1, -1))
    return (
        f"CIFAR-10 at equal MACs and parameters (networks: {len(found)}, runs: {runs})."
        f" The proven entropy optimum is better than {beaten[0]} of {len(others)} random networks at rho_0 ="
        f" {_ratio(best)} ({best.mean:.2%}) and than {beaten[1]} at rho_0 = {_ratio(worst)} ({worst.mean:.2%});"
        f" the rank correlation of entropy with accuracy is {correlation(found, 'entropy'):.2f}."
        f" The calibrated optimum comes {_ordinal(rank)} of {len(found)} ({calibrated.mean:.2%});"
        f" paired tests over seeds, with Holm's correction, find it better than {better} of the {len(tests)} others and"
        f" worse than {worse}."
    )


def _calibrated(found: Iterable[Entry]) -> Entry:
    return next(entry for entry in found if entry.kind == CALIBRATED)


def _ratio(entry: Entry) -> str:
    return entry.name.partition("-")[2]


def _ordinal(rank: int) -> str:
    return "first" if rank == 1 else f"{rank}{'th' if 10 < rank % 100 < 14 else _ENDINGS.get(rank % 10, 'th')}"


_ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def _percent(value: float, plus: str = "") -> str:
    return "-" if math.isnan(value) else f"{100 * value:{plus}.2f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _designs(found: Sequence[Entry]) -> str:
    rows = []
    for rank, entry in enumerate(found, start=1):
        m = entry.design.metrics
        shape = ", ".join(f"{s.channels}/{s.mid} x{s.depth}" for s in entry.design.stages)
        rows.append(
            [
                f"[{entry.name}](evidence/designs/{entry.name}.json)",
                f"{entry.design.stem.channels}; {shape}",
                str(rank),
                _percent(entry.mean),
                _percent(entry.half),
                f"{m.macs / 1e6:.3f}",
                f"{m.params / 1e3:.1f}",
                f"{m.effectiveness:.3f}",
                str(m.layers),
                f"{m.entropy:,.0f}",
            ]
        )
    header = [
        "design",
        "stem; channels/inner x depth",
        "rank",
        "accuracy, %",
        "± 95 %",
        "M MACs",
        "k parameters",
        "rho",
    ]
    return table([*header, "layers", "entropy"], rows, texts=2)


def _comparison(found: Sequence[Entry]) -> str:
    rows = [
        [other.name, str(seeds), _percent(mean, "+"), _percent(half), _p(p), _p(adjusted)]
        for other, (seeds, mean, half, p), adjusted in against(_calibrated(found), found)
    ]
    return table(["calibrated against", "seeds", "difference, points", "± 95 %", "p", "p (Holm)"], rows)


def _runs(found: Sequence[Entry]) -> str:
    seeds = sorted({seed for entry in found for seed in entry.accuracies})
    rows = [
        [entry.name, *(_percent(entry.accuracies[seed]) if seed in entry.accuracies else "-" for seed in seeds)]
        for entry in sorted(found, key=lambda entry: entry.name)
    ]
    return table(["design", *(f"seed {seed}" for seed in seeds)], rows)


def _quantities(found: Sequence[Entry]) -> str:
    named = {"entropy": "entropy", "effectiveness": "effectiveness", "layers": "layers", "macs": "MACs"}
    named["params"] = "parameters"
    random = [entry for entry in found if entry.kind == "random"]
    rows = [[text, *(f"{correlation(group, key):+.2f}" for group in (found, random))] for key, text in named.items()]
    return table(["Spearman correlation with accuracy", f"all {len(found)}", f"random {len(random)}"], rows)


def _plot(found: Sequence[Entry], path: Path) -> None:
    """Accuracy against effectiveness and against entropy, with the intervals of the means."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = dict(zip(KINDS, ("#d55e00", "#0072b2", "#cc79a7", "#009e73", "#999999"), strict=True))
    marks = dict(zip(KINDS, "*sDPo", strict=True))
    with mpl.rc_context({"svg.hashsalt": "mad-ip", "font.size": 9}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
        for axis, (key, text) in zip(
            axes, (("effectiveness", "effectiveness rho"), ("entropy", "entropy")), strict=True
        ):
            for kind, label in KINDS.items():
                group = [entry for entry in found if entry.kind == kind]
                if group:
                    axis.errorbar(
                        [getattr(entry.design.metrics, key) for entry in group],
                        [100 * entry.mean for entry in group],
                        yerr=[0.0 if math.isnan(entry.half) else 100 * entry.half for entry in group],
                        fmt=marks[kind],
                        color=colours[kind],
                        label=label,
                        capsize=2,
                        linewidth=0.8,
                    )
            axis.set_xlabel(text)
        axes[0].set_ylabel("CIFAR-10 test accuracy, %")
        axes[0].legend(fontsize=8)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    write_atomically(path, drawn.getvalue())


def main(folder: Path = FOLDER, document: Path = DOCUMENT, readme: Path | None = README) -> None:
    """Write tables, plots and the sentence."""
    found = entries(folder / "runs.csv")
    said = summary(found)
    contents: dict[str, Any] = {
        "summary": said,
        "designs": _designs(found),
        "comparison": _comparison(found),
        "correlations": _quantities(found),
        "runs": _runs(found),
    }
    rewrite(document, **contents)
    if readme is not None:
        rewrite(readme, evidence=said)
    _plot(found, folder / "accuracy.svg")


if __name__ == "__main__":
    main()
