"""What a profile of a device found, as a table, sentences and a plot; a network's time beside its prediction."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mad_ip.device import Affine, Rate
from mad_ip.errors import InputError
from mad_ip.files import require_new, write_atomically
from mad_ip.profiling import Comparison, Errors, Measured, Profile, Progress, predicted
from mad_ip.reports.pages import require

__all__ = ["PLOTS", "comparison_table", "line", "plot", "profile_table", "require_plot"]

PLOTS = (".svg", ".png")
"""Suffixes of plots."""


def line(report: Progress) -> str:
    """One line about a profile at work."""
    left = f"{report.left:5.0f} s left" if math.isfinite(report.left) else ""
    return f"{report.seconds:7.1f} s  {report.phase:<16}  {report.done:,} of {report.total:,}  {left}"


def profile_table(profile: Profile) -> RenderableType:
    """The kinds of layers with their coefficients and errors, and how well networks are predicted."""
    model = profile.device.latency
    kinds = sorted({item.operations[0].kind for item in profile.layers})
    rates = dict(model.kinds) if isinstance(model, Affine) else {}
    table = Table(title=profile.device.name, box=box.SIMPLE_HEAD, title_style="bold")
    table.add_column("kind")
    headers = ("us each", "ps / MAC", "ps / byte", "ps / weight byte") if rates else ()
    for header in (*headers, "layers", "held out", "R2", "error", "largest"):
        table.add_column(header, justify="right")
    for kind in kinds:
        own = [item for item in profile.layers if item.operations[0].kind == kind]
        held = [item for item in own if item.held]
        found = profile.errors_of(held)
        rate = rates.get(kind, rates.get(kind.partition("+")[0], Rate()))
        per_unit = (f"{1000 * value:.3g}" for value in (rate.macs, rate.bytes, rate.weights))
        coefficients = (f"{rate.base / 1000:.3g}", *per_unit) if rates else ()
        table.add_row(kind, *coefficients, str(len(own)), str(found.number), *_of(found))
    sentences = [_sentence(noun, profile, items) for noun, items in _parts(profile)]
    noise = profile.measured.get("noise")
    if isinstance(noise, int | float) and math.isfinite(noise):
        sentences.append(f"the same networks measured twice differ by {noise:.1f} % on average")
    overhead = 0.0 if model is None else model.overhead
    sentences.append(f"{overhead / 1000:.3g} us for every network besides its layers")
    return Group(table, Text("\n".join(sentences), style="bold"))


def comparison_table(comparison: Comparison) -> RenderableType:
    """A network's time beside its prediction, and the noise of the measurement."""
    table = Table(title=comparison.name, box=box.SIMPLE_HEAD, title_style="bold")
    for header in ("measured", "predicted", "difference", "noise"):
        table.add_column(header, justify="right")
    foretold, off = comparison.predicted, comparison.off
    table.add_row(
        _milliseconds(comparison.measured),
        "-" if foretold is None else _milliseconds(foretold),
        "-" if off is None else f"{off:+.1f} %",
        f"{comparison.noise:.1f} %",
    )
    return table


def require_plot(path: Path | str) -> None:
    """Raise :class:`InputError` for another suffix, a folder that is not there, or without matplotlib."""
    if Path(path).suffix not in PLOTS:
        raise InputError(f"--plot = {path}: must end in {' or '.join(PLOTS)}")
    require_new("--plot", path)
    require("--plot", "matplotlib")


def plot(profile: Profile, path: Path | str) -> None:
    """Predicted against measured times of layers and networks, those held out in full colour, as SVG or PNG.

    Raises :class:`InputError` as :func:`require_plot` does.
    """
    require_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (noun, items) in enumerate(_parts(profile), start=1):
        shown = [item for item in items if item.nanoseconds > 0]
        foretold = [value / 1e6 for value in predicted(profile.device, shown)]
        measured = [item.nanoseconds / 1e6 for item in shown]
        axes = figure.add_subplot(1, 2, place)
        for held, colour, label in ((False, "0.7", "fitted"), (True, "C0", "held out")):
            chosen = [n for n, item in enumerate(shown) if item.held == held and foretold[n] > 0]
            axes.scatter([measured[n] for n in chosen], [foretold[n] for n in chosen], s=10, c=colour, label=label)
        ends = (min(measured, default=1.0), max(measured, default=1.0))
        axes.plot(ends, ends, color="black", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms", title=noun)
        axes.xaxis.set_minor_formatter("")
        axes.legend(frameon=False)
    stream = io.BytesIO()
    # Without the date, the same profile is the same picture.
    dated = {"Date": None} if target.suffix == ".svg" else {}
    figure.savefig(stream, format=target.suffix[1:], metadata=dated)
    write_atomically(target, stream.getvalue())


def _parts(profile: Profile) -> tuple[tuple[str, Sequence[Measured]], ...]:
    return ("layers", profile.layers), ("networks", profile.networks)


def _sentence(noun: str, profile: Profile, items: Sequence[Measured]) -> str:
    found = profile.errors_of(item for item in items if item.held)
    r2, error, largest = _of(found)
    rank = _number(found.spearman, ".3f")
    return f"{found.number} {noun} held out: R2 {r2}, mean error {error}, largest {largest}, rank correlation {rank}"


def _of(found: Errors) -> tuple[str, str, str]:
    return _number(found.r2, ".3f"), _number(found.mape, ".1f", " %"), _number(found.worst, ".1f", " %")


def _number(value: float, form: str, unit: str = "") -> str:
    return f"{value:{form}}{unit}" if math.isfinite(value) else "-"


def _milliseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:,.3f} ms"
