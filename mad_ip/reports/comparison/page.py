"""The files of a comparison: report.json, report.md, one self-contained report.html, and the plots."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mad_ip.design import relative_gap
from mad_ip.errors import InputError
from mad_ip.files import write_atomically
from mad_ip.reports.comparison import plots
from mad_ip.reports.comparison.milestones import Comparison, contradictions, milestones
from mad_ip.reports.comparison.tables import headline, method, tables
from mad_ip.reports.pages import environment

__all__ = ["FORMAT", "write"]

FORMAT = "mad-ip/comparison/1"

_RESOLUTION = 160


@dataclass(frozen=True)
class _Plot:
    name: str
    caption: str
    draw: Callable[[], Figure]


def write(comparison: Comparison, folder: Path) -> None:
    """Write report.html, report.md, report.json and plots/*.png into a folder, which is made if it is missing.

    Raises :class:`InputError` when the folder cannot be written.
    """
    try:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); a writable folder is needed") from None
    images = {}
    with matplotlib.rc_context(fname=plots.STYLE):
        for plot in _plots(comparison):
            figure = plot.draw()
            write_atomically(folder / "plots" / f"{plot.name}.png", _drawn(figure, "png"))
            images[plot.name] = base64.b64encode(_drawn(figure, "svg")).decode()
    view = {
        "comparison": comparison,
        "tables": {table.name: table for table in tables(comparison)},
        "plots": {plot.name: plot for plot in _plots(comparison)},
        "images": images,
        "headline": headline(comparison),
        "contradictions": contradictions(comparison.runs),
        "method": method(comparison.settings),
    }
    templates = environment("mad_ip.reports.comparison")
    templates.filters["cell"] = _cell
    write_atomically(folder / "report.json", _json(comparison).encode())
    for name in ("report.md", "report.html"):
        write_atomically(folder / name, templates.get_template(name).render(view).encode())


def _drawn(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    # The same runs give the same file: no date inside.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(stream, format=kind, dpi=_RESOLUTION, metadata=metadata)
    return stream.getvalue()


def _plots(comparison: Comparison) -> list[_Plot]:
    palette = plots.colours(list(comparison.profiles))
    asked = comparison.settings.gap
    drawn = []
    for spec in comparison.specs:
        solvers, target = comparison.of(spec), comparison.reference(spec)
        common = (spec, solvers, target, palette)
        drawn += [
            _Plot(
                f"anytime-{spec}",
                f"{spec}: score of the incumbent and upper bound against time. A band is the range over seeds.",
                partial(plots.anytime, *common),
            ),
            _Plot(
                f"gap-{spec}",
                f"{spec}: relative gap between bound and incumbent; for a solver without bounds (dotted line), the "
                "distance of its incumbent to the best score of all runs. Values beyond the axis are drawn on its "
                "edge.",
                partial(plots.gaps, *common, asked),
            ),
            _Plot(
                f"time-{spec}",
                f"{spec}: time to the first design, to one within 1 % of the best score of all runs, to one within "
                "the asked gap of it, and to the proof. A mark that is missing was not reached.",
                partial(plots.reached, *common, asked),
            ),
            _Plot(
                f"memory-{spec}",
                f"{spec}: peak resident memory of the larger of the modelling and the solving process; the largest "
                "over seeds.",
                partial(plots.memory, spec, solvers, palette),
            ),
        ]
    return drawn


def _cell(text: str) -> str:
    """A text as the cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _json(comparison: Comparison) -> str:
    content = {
        "format": FORMAT,
        "day": comparison.day,
        "settings": dataclasses.asdict(comparison.settings),
        "machine": comparison.machine,
        "versions": comparison.versions,
        "profiles": comparison.profiles,
        "specs": {
            spec: {"sha256": sha256, "reference": dataclasses.asdict(comparison.reference(spec))}
            for spec, sha256 in comparison.specs.items()
        },
        "contradictions": contradictions(comparison.runs),
        "runs": [
            {
                **{field.name: getattr(run, field.name) for field in dataclasses.fields(run) if field.name != "trace"},
                "score": run.score,
                "bound": run.bound,
                "gap": relative_gap(run.score, run.bound),
                "seconds": dataclasses.asdict(milestones(run, comparison.reference(run.spec), comparison.settings.gap)),
                "trace": [point._asdict() for point in run.trace],
            }
            for run in comparison.runs
        ],
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    """The content with ``null`` for infinite numbers, which JSON does not know."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
