"""The plots of a comparison: anytime curves, gaps, milestones and memory, as matplotlib figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mad_ip.design import relative_gap
from mad_ip.reports.comparison.milestones import Curve, Milestones, Reference, curve, milestones, spread
from mad_ip.reports.comparison.records import Run, distance

__all__ = ["STYLE", "anytime", "gaps", "memory", "reached"]

STYLE = Path(__file__).with_name("report.mplstyle")
"""For :func:`matplotlib.rc_context` around drawing and saving."""

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow (too faint on white).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
_SIZE = (6.6, 4.0)
_EARLIEST = 1e-3
"""Seconds at which the time axis starts at the earliest."""

_WIDEST = 10.0
"""The largest relative gap that is drawn."""

_WORDS = {"first": "first design", "near": "within 1 %", "optimum": "optimum", "proof": "proof"}
_MARKERS = {"first": "o", "near": "D", "optimum": "^", "proof": "s"}

_Style = Literal["-", "--", ":", ""]

Solvers = Mapping[str, Sequence[Run]]
"""The runs of one spec by solver, in the order in which they are shown."""


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every solver, the same in all plots of a comparison."""
    return {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(names)}


def anytime(spec: str, solvers: Solvers, target: Reference, palette: Mapping[str, str]) -> Figure:
    """Incumbent (solid) and bound (dashed) against time; median and range where a solver ran with several seeds."""
    figure, axes = _figure(f"{spec}: incumbent and bound")
    for name, runs in solvers.items():
        for quantity, style in (("score", "-"), ("bound", "--")):
            _draw(axes, curve(runs, quantity), palette[name], style)
        for run in runs:
            if math.isfinite(run.score):
                marker = "o" if run.status == "optimal" else "x"
                axes.plot(max(run.seconds, _EARLIEST), run.score, marker, color=palette[name], markersize=5)
    finite = [value for runs in solvers.values() for run in runs for p in run.trace for value in (p.score, p.bound)]
    finite = [value for value in finite if math.isfinite(value)]
    if math.isfinite(target.score):
        word = "proven optimum" if target.proven else "best known"
        axes.axhline(target.score, color="#555555", linewidth=0.7, linestyle=":", zorder=1)
        # A first bound may be orders of magnitude off; it would flatten everything else.
        reach = 0.25 * abs(target.score)
        low, high = max(min(finite), target.score - reach), min(max(finite), target.score + reach)
        margin = 0.06 * (high - low) or max(1.0, 0.01 * abs(target.score))
        axes.set_ylim(low - margin, high + margin)
        axes.set_ylabel(f"score ({word}: {target.score:,.2f})")
    else:
        _say(axes, "no run found a design" if not finite else "no run found a design; bounds only")
        axes.set_ylabel("score")
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    _times(axes, solvers)
    more: list[tuple[str, _Style, str | None]] = [
        ("incumbent", "-", None),
        ("bound", "--", None),
        ("ended proven", "", "o"),
        ("ended unproven", "", "x"),
    ]
    _legend(figure, solvers, palette, more)
    return figure


def gaps(spec: str, solvers: Solvers, target: Reference, palette: Mapping[str, str], asked: float) -> Figure:
    """The relative gap against time; a solver without bounds shows its distance to the best known score instead."""
    figure, axes = _figure(f"{spec}: gap")
    floor = min(asked, 1e-6) / 10
    shown = []
    for name, runs in solvers.items():
        bounded = any(math.isfinite(point.bound) for run in runs for point in run.trace)
        times = np.unique([point.seconds for run in runs for point in run.trace])
        rows = np.array([_gap_at(run, times, None if bounded else target.score) for run in runs])
        if not rows.size or not np.isfinite(rows).any():
            continue
        shown.append(name)
        rows[np.isfinite(rows)] = np.clip(rows[np.isfinite(rows)], floor, _WIDEST)
        with np.errstate(invalid="ignore"):
            summary = Curve(times, np.median(rows, axis=0), rows.min(axis=0), rows.max(axis=0))
        _draw(axes, summary, palette[name], "-" if bounded else ":")
        for run in runs:
            last = relative_gap(run.score, run.bound) if bounded else distance(run.score, target.score)
            if math.isfinite(last):
                last = min(max(last, floor), _WIDEST)
                marker = "o" if run.status == "optimal" else "x"
                axes.plot(max(run.seconds, _EARLIEST), last, marker, color=palette[name], markersize=5, clip_on=False)
    axes.set_yscale("log")
    if shown:
        axes.set_ylim(bottom=floor)
        axes.axhline(asked, color="#555555", linewidth=0.7)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(_percent))
    else:
        _say(axes, "no run has both an incumbent and a bound")
        axes.set_yticks([])
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylabel("relative gap (thin line: the asked gap)" if shown else "relative gap")
    _times(axes, solvers)
    more: list[tuple[str, _Style, str | None]] = [("gap", "-", None), ("distance to the best", ":", None)]
    _legend(figure, solvers, palette, more)
    return figure


def reached(spec: str, solvers: Solvers, target: Reference, palette: Mapping[str, str], asked: float) -> Figure:
    """When each solver reached which milestone: medians, with the range over seeds as a line."""
    figure, axes = _figure(f"{spec}: time to")
    names = list(solvers)
    keys = [field.name for field in fields(Milestones)]
    for row, (name, runs) in enumerate(solvers.items()):
        times = [milestones(run, target, asked) for run in runs]
        for lane, key in enumerate(keys):
            y = row + (lane - 1.5) * 0.19
            values = spread([getattr(one, key) for one in times])
            if math.isfinite(values.low) and values.high > values.low:
                axes.plot([_shown(values.low), _shown(min(values.high, _last(solvers)))], [y, y], color=palette[name])
            if math.isfinite(values.median):
                axes.plot(_shown(values.median), y, _MARKERS[key], color=palette[name], markersize=6)
        if not any(math.isfinite(one.first) for one in times):
            status = runs[0].status
            axes.text(0.02, row, status, color="#555555", va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for line in range(len(names) - 1):
        axes.axhline(line + 0.5, color="#e3e3e3", linewidth=0.6)
    _times(axes, solvers)
    grey = "#333333"
    handles = [Line2D([], [], color=grey, linestyle="", marker=_MARKERS[key], label=_WORDS[key]) for key in keys]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def memory(spec: str, solvers: Solvers, palette: Mapping[str, str]) -> Figure:
    """The peak memory of every solver, the largest over its seeds."""
    figure, axes = _figure(f"{spec}: peak memory")
    names = list(solvers)
    # What a refused run used says nothing about the solver.
    peaks = [max((run.memory / 1e6 for run in runs if run.trace), default=0.0) for runs in solvers.values()]
    bars = axes.barh(names, peaks, color=[palette[name] for name in names], height=0.6)
    shown = [f"{peak:,.0f}" if peak else runs[0].status for peak, runs in zip(peaks, solvers.values(), strict=True)]
    axes.bar_label(bars, shown, padding=4)
    axes.set_xlim(0, 1.15 * max([*peaks, 1.0]))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("MB")
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _draw(axes: Axes, values: Curve, colour: str, style: str) -> None:
    shown = np.isfinite(values.median)
    if not shown.any():
        return
    seconds = np.maximum(values.seconds[shown], _EARLIEST)
    axes.step(seconds, values.median[shown], style, where="post", color=colour, linewidth=1.5)
    low, high = values.low[shown], values.high[shown]
    if (low < high).any():
        axes.fill_between(seconds, low, high, step="post", color=colour, alpha=0.18, linewidth=0)


def _gap_at(run: Run, times: NDArray[np.float64], target: float | None) -> list[float]:
    """The run's gap at each time, or its distance to a target; infinite before there is one."""
    values = np.full(len(times), math.inf)
    for point in run.trace:
        now = relative_gap(point.score, point.bound) if target is None else distance(point.score, target)
        values[times >= point.seconds] = now
    return values.tolist()


def _times(axes: Axes, solvers: Solvers) -> None:
    """A logarithmic time axis from just before anything is known to the last end, at least a factor of ten."""
    known = [
        point.seconds
        for runs in solvers.values()
        for run in runs
        for point in run.trace
        if math.isfinite(point.score) or math.isfinite(point.bound)
    ]
    right = 1.25 * max(_last(solvers), 10 * _EARLIEST)
    left = max(_EARLIEST, 0.8 * min(known, default=right / 10))
    axes.set_xscale("log")
    axes.set_xlim(min(left, right / 10), right)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_plainly))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("seconds since the start of the solve")


def _last(solvers: Solvers) -> float:
    return max((run.seconds for runs in solvers.values() for run in runs), default=0.0)


def _shown(seconds: float) -> float:
    return max(seconds, _EARLIEST)


def _plainly(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:.9f}".rstrip("0").rstrip(".") + " %"


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#555555", transform=axes.transAxes)


def _legend(
    figure: Figure,
    solvers: Solvers,
    palette: Mapping[str, str],
    styles: Sequence[tuple[str, _Style, str | None]],
) -> None:
    grey = "#333333"
    drawn = [name for name, runs in solvers.items() if any(run.trace for run in runs)]
    handles = [Line2D([], [], color=palette[name], label=name, linewidth=3) for name in drawn]
    handles += [Line2D([], [], color=grey, linestyle=line, marker=mark, label=word) for word, line, mark in styles]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
