"""What a calibration found: a table for the terminal, and one self-contained page (``mad-ip[report]``)."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mad_ip.calibration import Calibration, Estimate, Row, UtilityTable
from mad_ip.reports.pages import environment, require
from mad_ip.runs import PERCENT
from mad_ip.statistics import GROUP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["calibration_table", "page", "require_page"]

_HEADERS = ("candidate", "rank correlation", "given MACs, parameters", "regret, points", "log density")

_TICKS = 5
"""Values that have a tick each."""

_LEGEND = (
    (
        "Designs held out",
        "Every figure is of accuracies that the candidate was not fitted to: a tenth of the designs is left out in "
        "turn, and the rest decides on all of its settings. The objective as given, MACs and parameters are shown as "
        "they rank by themselves; only their log density is of a fit. Brackets hold 95 % bootstrap intervals over "
        "designs.",
    ),
    (
        "Rank correlation",
        "Spearman's coefficient of predicted (or of the score) and measured accuracy; the second one is that of the "
        "residuals of ranks after a regression on the ranks of MACs and parameters. A dash stands where nothing is "
        "left.",
    ),
    (
        "Regret",
        f"How far the best-predicted of {GROUP} random designs is below the best of them, in points of accuracy.",
    ),
    (
        "Log density",
        "The mean logarithm of the density that a candidate gave to the accuracy measured. The candidate with "
        "the largest one is chosen among those whose fit to all designs has any coefficient; entropy and utilities "
        "give way to the utilities where the share of the entropy is 0. That it was the best of several flatters its "
        "figures a little.",
    ),
    (
        "The optimum",
        "The best design that a search of the calibrated spec finds. Its interval is that of fits to bootstrap samples "
        "of the designs with the same settings; a gain is promised only where the candidate chosen is better than what "
        "it is compared with and the whole interval is above the best trained design within the budgets of the spec "
        "as given.",
    ),
    (
        "Utilities",
        "What a value is worth in points of accuracy, about the mean over its domain; bars are 95 % intervals of "
        "fits to bootstrap samples of the designs with the same settings, hollow marks are values that no design has.",
    ),
)

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Calibration of {{ name }}</title>
<style>
:root { --ink: #1c1c1c; --soft: #5c5c5c; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 1100px; color: var(--ink); background: #fff;
  font: 16px/1.5 "Source Serif 4", "Charter", "Georgia", "DejaVu Serif", serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p, dd { max-width: 75ch; }
.soft { color: var(--soft); font-size: .875rem; }
.verdict { font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font: 13px/1.35 "Source Sans 3", "Helvetica Neue", "Arial", sans-serif;
  font-variant-numeric: tabular-nums; border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
th { font-weight: 600; text-align: left; border-bottom: 1px solid var(--ink); vertical-align: bottom; }
th, td { padding: .3rem 1.3rem .3rem 0; }
th:not(:first-child), td:not(:first-child) { text-align: right; }
td:not(:first-child) { white-space: nowrap; }
tr.chosen td { font-weight: 600; }
figure { margin: 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; }
dt { font-weight: 600; margin-top: .7rem; }
dd { margin: 0; }
@page { size: A4; margin: 14mm; }
@media print { body { padding: 0; max-width: none; font-size: 10.5pt; } h2 { break-after: avoid; } }
</style>
</head>
<body>
<header>
<h1>Calibration of {{ name }}</h1>
<p class="soft">{{ runs }}</p>
</header>
<main>
<p class="verdict">{{ verdict }}</p>
<h2>Candidates</h2>
<div class="wide">
<table>
<thead><tr>{% for header in headers %}<th>{{ header }}</th>{% endfor %}</tr></thead>
<tbody>
{% for cells in rows %}
<tr{% if loop.index0 == chosen %} class="chosen"{% endif %}>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if coefficients %}
<h2>Coefficients</h2>
<div class="wide">
<table>
<thead><tr><th>of</th><th>points of accuracy for a standard deviation</th></tr></thead>
<tbody>
{% for name, worth in coefficients %}
<tr><td>{{ name }}</td><td>{{ worth }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% for title, caption, image in figures %}
<h2>{{ title }}</h2>
<figure><img alt="{{ caption }}" src="data:image/svg+xml;base64,{{ image }}"></figure>
<p class="soft">{{ caption }}</p>
{% endfor %}
{% for part, values in utilities %}
<h3>{{ part }}</h3>
<div class="wide">
<table>
<thead><tr><th>choice</th><th>points of accuracy</th><th>designs</th></tr></thead>
<tbody>
{% for cells in values %}
<tr>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
<h2>How to read it</h2>
<dl>
{% for term, text in legend %}
<dt>{{ term }}</dt>
<dd>{{ text }}</dd>
{% endfor %}
</dl>
</main>
</body>
</html>
"""


def calibration_table(calibration: Calibration) -> RenderableType:
    """The candidates and what they are compared with, the chosen one in bold."""
    table = Table(box=box.SIMPLE_HEAD)
    for header in _HEADERS:
        table.add_column(header, justify="left" if header == _HEADERS[0] else "right")
    for number, row in enumerate((*calibration.candidates, *calibration.baselines)):
        table.add_row(*_cells(row), style="bold" if number == calibration.chosen else None)
    return Group(table, Text(_runs(calibration)))


def require_page() -> None:
    """Raise :class:`InputError` without the extra ``report``."""
    require("--page", "matplotlib", "jinja2")


def page(calibration: Calibration) -> bytes:
    """The page, its figures inside; equal calibrations give equal pages."""
    require_page()
    view = {
        "name": calibration.spec.name,
        "runs": _runs(calibration),
        "verdict": calibration.verdict,
        "headers": _HEADERS,
        "rows": [_cells(row) for row in (*calibration.candidates, *calibration.baselines)],
        "chosen": calibration.chosen,
        "coefficients": [(name, _shown(worth)) for name, worth in calibration.coefficients],
        "figures": _figures(calibration),
        "utilities": _worths(calibration),
        "legend": _LEGEND,
    }
    return environment().from_string(_TEMPLATE).render(view).encode()


def _runs(calibration: Calibration) -> str:
    runs = calibration.runs
    noise = "unknown" if runs.noise is None else f"{PERCENT * runs.noise:.2f} points"
    return (
        f"{len(runs.paths)} designs in {int(runs.number.sum())} runs of {Path(runs.source).name}; "
        f"standard deviation of a run about the mean of its design: {noise}"
    )


def _cells(row: Row) -> tuple[str, ...]:
    density = f"{row.log_density:.3f}" if math.isfinite(row.log_density) else "-"
    return row.name, *(_shown(one) for one in (row.spearman, row.partial, row.regret)), density


def _shown(estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return "-"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _worths(calibration: Calibration) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """For every part of the network its choices, what each is worth, and how many designs have it."""
    parts: dict[str, list[tuple[str, str, int]]] = {}
    for table in calibration.utilities:
        intervals = zip(table.domain, table.worth, table.low, table.high, table.seen, strict=True)
        parts.setdefault(_part(table), []).extend(
            (f"{table.axis} {value}", _shown(Estimate(*map(float, own))), int(seen)) for value, *own, seen in intervals
        )
    return list(parts.items())


def _part(table: UtilityTable) -> str:
    return f"stage {table.stage}" if isinstance(table.stage, int) else table.stage


def _figures(calibration: Calibration) -> list[tuple[str, str, str]]:
    """Title, caption and picture of each."""
    import matplotlib

    from mad_ip.reports.comparison import plots

    error = "" if calibration.runs.noise is None else " Bars are two standard errors of the mean over its runs."
    with matplotlib.rc_context(fname=plots.STYLE):
        drawn = [
            (
                "Predicted and measured",
                f"{calibration.row.name}: accuracy predicted for each design while it was held out, about the mean of "
                f"all, and measured.{error}",
                _encoded(_scatter(calibration)),
            )
        ]
        if calibration.utilities:
            drawn.append(("Utilities", "What the values of every choice are worth.", _encoded(_utilities(calibration))))
    return drawn


def _scatter(calibration: Calibration) -> Figure:
    from matplotlib.figure import Figure

    runs = calibration.runs
    figure = Figure(figsize=(5.6, 5.2))
    axes = figure.subplots()
    predicted, measured = PERCENT * calibration.predicted, PERCENT * runs.accuracy
    bars = None if runs.noise is None else 2 * PERCENT * runs.noise / np.sqrt(runs.number)
    axes.errorbar(predicted, measured, yerr=bars, fmt="o", markersize=4, color="#0072B2", elinewidth=0.8)
    ends = [min(predicted.min(), measured.min()), max(predicted.max(), measured.max())]
    axes.plot(ends, ends, color="#555555", linewidth=0.8)
    axes.set(xlabel="predicted accuracy, %", ylabel="measured accuracy, %", aspect="equal")
    return figure


def _utilities(calibration: Calibration) -> Figure:
    """A row for every part of the network, a column for every kind of choice."""
    from matplotlib.figure import Figure

    tables = calibration.utilities
    stages = list(dict.fromkeys(table.stage for table in tables))
    kinds = list(dict.fromkeys(table.axis for table in tables))
    figure = Figure(figsize=(2.6 * len(kinds) + 0.6, 1.8 * len(stages) + 0.6))
    grid = figure.subplots(len(stages), len(kinds), squeeze=False, sharey=True)
    for axes in grid.flat:
        axes.set_axis_off()
    for table in tables:
        axes = grid[stages.index(table.stage), kinds.index(table.axis)]
        axes.set_axis_on()
        x = np.array(table.domain, float)
        if len(x) <= _TICKS:
            axes.set_xticks(x, [str(value) for value in table.domain])
        axes.axhline(0, color="#555555", linewidth=0.6)
        axes.vlines(x, table.low, table.high, color="#0072B2", linewidth=0.8)
        axes.plot(x, table.worth, color="#0072B2", linewidth=0.8)
        for seen, face in ((True, "#0072B2"), (False, "white")):
            mask = (table.seen > 0) == seen
            axes.plot(x[mask], table.worth[mask], "o", markersize=4, color="#0072B2", markerfacecolor=face)
        axes.set_title(f"{_part(table)}: {table.axis}")
    figure.supylabel("points of accuracy")
    return figure


def _encoded(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return base64.b64encode(stream.getvalue()).decode()
