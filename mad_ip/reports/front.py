"""One self-contained page of a front, or of a single design: it opens from disk and asks nothing of any network."""

from __future__ import annotations

import contextlib
import hashlib
import html
import math
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mad_ip import entropy
from mad_ip.cost import COSTS
from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.files import read_bytes, write_atomically
from mad_ip.front import Front, Point, Price
from mad_ip.memory import memory_of
from mad_ip.reports.pages import environment, require
from mad_ip.reports.table import (
    claim,
    compact,
    entropy_shares,
    prefixed,
    quantity,
    spending,
    stage_table,
)
from mad_ip.scoring import Score
from mad_ip.spec import Budget, Spec

__all__ = ["design_page", "missing_for_page", "page", "require_page", "save"]

# Colours of the template, of Okabe and Ito's palette for light and dark paper; lines differ by marks and dashes, too.
_COLOURS = ("var(--first)", "var(--second)", "var(--third)", "var(--fourth)")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagram", "triangle-down")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_GREY = "var(--soft)"

_HEIGHTS = {"inner": (3, 1), "channels": (6, 3), "ends": (6, 0)}
"""Pixels of the height of a bar in the drawing, and of the space below it."""

_SQUARE = 56
"""Pixels of the side of the largest resolution in the drawing."""

_TIMES, _DASH = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"

_AXIS = 62
"""Pixels between two parallel axes at the least."""

_WIDE = 20
"""Largest over smallest limit from which their axis is logarithmic."""

_NAMES = {"macs": "MACs", "params": "parameters", "activation": "peak activations", "layers": "counted layers"}

_BROKEN = {
    "params": "para-<br>meters",
    "effectiveness": "effective-<br>ness",
    "layers": "counted<br>layers",
    "activation": "peak acti-<br>vations",
}
"""Names that are too long above an axis."""

_AXES = {"macs": "MACs", "params": "parameters", "activation": "bytes", "flash": "bytes", "latency": "ms"}
"""The units of axes, of budgets that have one."""


def require_page() -> None:
    """Raise :class:`InputError` without what :func:`page` needs, for a sweep that takes long before it writes one."""
    require("the page of a front", "jinja2", "plotly")


def missing_for_page() -> str:
    """What to install for :func:`page`, nothing where all is there."""
    try:
        require_page()
    except InputError as error:
        return str(error)
    return ""


def save(front: Front, path: Path, networks: Sequence[Score] = ()) -> None:
    """Write the page of a front atomically; raise :class:`InputError` where it cannot be."""
    write_atomically(path, page(front, networks).encode())


def page(front: Front, networks: Sequence[Score] = ()) -> str:
    """The page of a front as HTML, with networks that others made beside it.

    A network is drawn at its entropy by the weights of the front's spec, where it has levels at those resolutions and
    the score is made of nothing else; it has no depth penalty. Raises :class:`InputError` without the extra ``report``.
    """
    panels = [
        _panel(point.name, point.design, point.spec, point.spec.budget, point.prices, _status(point))
        | {
            "limits": [(compact(key, _limit(point, key)), _exact(key, _limit(point, key))) for key in front.over],
            "bound": _number(point.bound) if math.isfinite(point.bound) else "",
            "gap": f"{point.gap:.1e}" if math.isfinite(point.gap) else "",
        }
        for point in front.points
    ]
    return _rendered(front.spec.name, panels, front, _compared(front, networks))


def design_page(
    design: Design, spec: Spec | None = None, prices: Sequence[Price] = (), *, budget: Budget | None = None
) -> str:
    """The page of a single design as HTML, its costs against ``budget`` (that of its ``spec`` by default).

    With the spec, which must be the one that the design was made for, the page saves what ``mad-ip verify`` needs.
    Raises :class:`InputError` without the extra ``report``.
    """
    if budget is None:
        budget = Budget() if spec is None else spec.budget
    claimed = "proven" if design.certificate is not None and design.certificate.status == "optimal" else "not proven"
    return _rendered(design.name, [_panel(design.name, design, spec, budget, prices, claimed)])


def _rendered(
    name: str, panels: list[dict[str, Any]], front: Front | None = None, networks: Sequence[dict[str, Any]] = ()
) -> str:
    require("the page", "jinja2")
    files = [{key: panel.pop(key) for key in ("stem", "design", "spec", "needs")} for panel in panels]
    view: dict[str, Any] = {"name": name, "panels": panels, "networks": networks, "sliders": [], "plotly": ""}
    view["data"] = {"files": files, "chosen": 0}
    if front is not None and len(panels) > 1:
        require_page()
        from plotly.offline import get_plotlyjs

        values = [sorted({_limit(point, key) for point in front.points}) for key in front.over]
        view["plotly"] = get_plotlyjs()
        texts = [[compact(key, value) for value in own] for key, own in zip(front.over, values, strict=True)]
        view["sliders"] = [(_NAMES.get(key, key), len(own)) for key, own in zip(front.over, values, strict=True)]
        places = [
            [own.index(_limit(point, key)) for key, own in zip(front.over, values, strict=True)]
            for point in front.points
        ]
        view["data"] |= {
            "places": places,
            "texts": texts,
            "chosen": max((n for n, point in enumerate(front.points) if point.design is not None), default=0),
            "front": _front_plot(front, networks),
            "parallel": _parallel_plot(front),
        }
    return environment().get_template("front.html").render(view)


def _limit(point: Point, key: str) -> float:
    """The limit of a swept budget at a point, in the cost's own unit."""
    return float(getattr(point.spec.budget, key))


def _exact(key: str, value: float) -> str:
    """What a budget limits with all of its digits."""
    if key not in COSTS:
        return repr(value)
    reported = COSTS[key].reported(value)
    return f"{int(reported) if reported == int(reported) else reported:,} {COSTS[key].unit}"


def _status(point: Point) -> str:
    if point.status == "infeasible":
        return "infeasible"
    if point.design is None:
        return "nothing found"
    return "proven" if point.status == "optimal" else "not proven"


def _panel(
    name: str, design: Design | None, spec: Spec | None, budget: Budget, prices: Iterable[Price], status: str
) -> dict[str, Any]:
    """What the template shows of a design, or of a point without one, and the files that can be saved."""
    text = None if spec is None else _text(spec)
    panel: dict[str, Any] = {
        "name": name,
        "status": status,
        "limits": [],
        "drawn": design is not None,
        "prices": [_price(price, budget) for price in prices],
        "stem": _stem(name),
        "design": None if design is None else design.to_json(),
        "spec": text,
        "needs": None if text is None else _needs(text),
    }
    if design is None:
        return panel | {"claim": _WHY_NOT[status]}
    table = stage_table(design)
    metrics = design.metrics
    sentences = [] if design.device is None else list(memory_of(design, budget).sentences())
    return panel | {
        "claim": claim(design) or "No certificate: nothing is claimed about how good this design is.",
        "notes": [*_verified(design), *sentences],
        "totals": [
            (key.replace("_", " "), _number(value), repr(value))
            for key, value in metrics.content().items()
            if key in ("score", "entropy", "depth_penalty", "utility")
        ],
        "metrics": metrics,
        "costs": [_cost(*own) for own in spending(design, budget)],
        "network": _drawing(design),
        "levels": _levels(design),
        "channels": ", ".join(str(stage.channels) for stage in design.stages),
        "depths": ", ".join(str(stage.depth) for stage in design.stages),
        "headers": [str(column.header) for column in table.columns],
        "rows": list(zip(*(map(str, column.cells) for column in table.columns), strict=True)),
    }


_WHY_NOT = {
    "infeasible": "Infeasible: no design of the space meets these budgets.",
    "nothing found": "The solve was stopped before it found a design.",
}


def _stem(name: str) -> str:
    """A name as the stem of a file's, which no system finds too long."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "design"


def _text(spec: Spec) -> str | None:
    """The spec.toml that a spec's hash is of, without which no verification takes it; ``None`` where it is gone."""
    texts = [spec.to_toml().encode()]
    with contextlib.suppress(InputError):
        texts.append(read_bytes(spec.source))
    return next((text.decode() for text in texts if hashlib.sha256(text).hexdigest() == spec.sha256), None)


def _needs(text: str) -> str | None:
    """The device.toml that a spec.toml names."""
    device = tomllib.loads(text).get("device")
    named = device.get("latency") if isinstance(device, dict) else None
    return named if isinstance(named, str) else None


def _number(value: float) -> str:
    """A score or a part of it; a penalty may be as large as any float."""
    return f"{value:,.4f}" if abs(value) < 1e12 else f"{value:.6g}"


def _verified(design: Design) -> list[str]:
    found = design.verification
    if found is None:
        return []
    return [f"mad-ip verify {found.version}: {found.verdict}, by {', '.join(found.methods)}, without the solver"]


def _cost(key: str, value: float, limit: float | None) -> dict[str, Any]:
    used = 0.0 if limit is None else value / limit
    over = used > 1 + entropy.EFFECTIVENESS_TOLERANCE
    return {
        "name": _NAMES.get(key, key),
        "value": compact(key, value),
        "exact": _exact(key, value) + ("" if limit is None else f" of {_exact(key, limit)}"),
        "limit": "" if limit is None else compact(key, limit),
        "percent": 100 * min(used, 1.0),
        "slack": f"{used - 1:.2%} over" if over else f"{abs(1 - used):.2%} left",
        "over": over,
    }


def _price(price: Price, budget: Budget) -> dict[str, Any]:
    """What one per cent of a limit is worth, which can be compared between budgets."""
    limit = getattr(budget, price.budget)
    cells = []
    for worth in (price.multiplier, price.smaller, price.larger):
        known = worth is not None and limit is not None and math.isfinite(worth)
        cells.append((f"{worth * limit / 100:,.4g}", f"{worth!r} for one more of its units") if known else (_DASH, ""))
    return {"name": _NAMES.get(price.budget, price.budget), "cells": cells}


def _levels(design: Design) -> list[dict[str, Any]]:
    """The share of the entropy of the stem and of every stage, the tail being part of the last one."""
    names = [segment.name for segment in design.segments if segment.kind != "tail"]
    if design.tail is not None:
        names[-1] += ", tail"
    return [
        {
            "name": name,
            "share": f"{share:.1%}",
            "percent": 100 * share,
            "exact": f"weight {level.weight:g}, {level.depth} counted layers so far, log-width {level.log_width:,.4f}",
        }
        for name, level, share in zip(names, design.levels(), entropy_shares(design), strict=True)
    ]


def _drawing(design: Design) -> list[dict[str, Any]]:
    """The rows of the drawing: squares as large as the resolution, and bars as wide as the channels, to scale."""
    widest = max(max(choice.channels, choice.mid) for choice in design.path)
    scale = _SQUARE / design.resolution

    def row(name: str, size: int, facts: list[str], bars: Iterable[tuple[str, int]], frames: int | None) -> None:
        drawn, top = [], 0
        for kind, width in bars:
            height, space = _HEIGHTS[kind]
            drawn.append({"kind": kind, "percent": 100 * width / widest, "top": top, "height": height})
            top += height + space
        pixels = _TIMES.join(str(axis) for axis in (frames, size, size) if axis is not None)
        rows.append(
            {
                "name": name,
                "facts": [*facts, f"{pixels} pixels" if size > 1 else "1 pixel"],
                "side": max(1.0, scale * size),
                "bars": drawn,
                "height": top,
            }
        )

    rows: list[dict[str, Any]] = []
    row(
        "input",
        design.resolution,
        [f"{design.image_channels} channels"],
        [("ends", design.image_channels)],
        design.frames,
    )
    for segment, choice in zip(design.segments, design.path, strict=True):
        frames = segment.time.out_frames
        if segment.kind != "stage":
            row(
                segment.name,
                segment.out_size,
                [f"{choice.channels:,} channels"],
                [("channels", choice.channels)],
                frames,
            )
            continue
        kernel = _TIMES.join(map(str, ([segment.time.kernel] if frames else []) + 2 * [choice.kernel]))
        facts = [
            f"{choice.depth} {segment.block} block{'s' if choice.depth > 1 else ''}",
            f"{choice.channels:,} channels",
            f"inner width {choice.mid:,}",
            f"kernel {kernel}",
        ]
        bars = [("inner", choice.mid), ("channels", choice.channels)] * choice.depth
        row(segment.name, segment.out_size, facts, bars, frames)
    if design.classes:
        row(
            "head",
            1,
            ["average pool", f"linear to {design.classes:,} classes"],
            [("ends", design.feature_channels)],
            None,
        )
    return rows


def _compared(front: Front, networks: Sequence[Score]) -> list[dict[str, Any]]:
    """The networks that the front is compared with, numbered as their marks in the plot are."""
    key = front.over[0] if front.over else ""
    compared = []
    for number, network in enumerate(networks, start=1):
        taken = {"macs": network.macs, "params": network.params}
        others = {name: value * COSTS[name].step for name, value in network.device.items()}
        spent = (taken | others | {"layers": network.layers, "effectiveness": network.effectiveness}).get(key)
        worth = _worth(front.spec, network)
        compared.append(
            {
                "number": number,
                "name": network.name,
                "resolution": network.resolution,
                "worth": _DASH if worth is None else _number(worth),
                "effectiveness": f"{network.effectiveness:.4g}",
                "layers": network.layers,
                "costs": [(compact(name, value), _exact(name, value)) for name, value in taken.items()],
                "place": None if worth is None or spent is None else (_drawn(key, spent), worth),
            }
        )
    return compared


def _worth(spec: Spec, network: Score) -> float | None:
    """The entropy of a network by the weights of a spec, as the score counts it; ``None`` where nothing compares."""
    if spec.objective.utilities:
        return None
    try:
        levels = network.under(spec)
    except InputError:
        return None
    return spec.objective.entropy * entropy.entropy(levels, spec.convention)


def _drawn(key: str, value: float) -> float:
    """An amount of a cost's own unit in the unit of an axis."""
    return value / COSTS[key].step / 1e6 if key == "latency" else float(value)


def _front_plot(front: Front, networks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Score against the first swept budget, a line for every value of the others, as Plotly takes it.

    The last trace is the ring around the point that is chosen; ``places`` is where each point is.
    """
    key, *others = front.over
    xs = [_drawn(key, _limit(point, key)) for point in front.points]
    scores = [None if point.design is None else point.design.metrics.score for point in front.points]
    drawn = [score for score in scores if score is not None]
    drawn += [point.bound for point in front.points if math.isfinite(point.bound)]
    low, high = (min(drawn), max(drawn)) if drawn else (0.0, 1.0)
    floor = low - 0.08 * ((high - low) or 1.0)
    words = [_words(front, point) for point in front.points]

    def trace(numbers: Sequence[int], ys: Sequence[float], name: str, **how: Any) -> dict[str, Any]:
        return {
            "type": "scatter",
            "x": [xs[n] for n in numbers],
            "y": list(ys),
            "customdata": list(numbers),
            "text": [words[n] for n in numbers],
            "hovertemplate": "%{text}<extra></extra>",
            "mode": "markers",
            "name": name,
            **how,
        }

    lines: dict[tuple[float, ...], list[int]] = {}
    for n, point in enumerate(front.points):
        if scores[n] is not None:
            lines.setdefault(tuple(_limit(point, other) for other in others), []).append(n)
    traces = []
    for order, (limits, numbers) in enumerate(sorted(lines.items())):
        numbers = sorted(numbers, key=xs.__getitem__)
        colour, symbol = _COLOURS[order % len(_COLOURS)], _SYMBOLS[order % len(_SYMBOLS)]
        name = ", ".join(compact(other, value) for other, value in zip(others, limits, strict=True)) or "score"
        open_ends = ["" if front.points[n].status == "optimal" else "-open" for n in numbers]
        above = [front.points[n].bound - (scores[n] or 0.0) for n in numbers]
        traces.append(
            trace(
                numbers,
                [scores[n] or 0.0 for n in numbers],
                name,
                mode="lines+markers",
                line={"color": colour, "dash": _DASHES[order % len(_DASHES)], "width": 1.5},
                marker={"color": colour, "size": 9, "symbol": [symbol + end for end in open_ends]},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [gap if math.isfinite(gap) and gap > 0 else 0.0 for gap in above],
                    "arrayminus": [0.0] * len(numbers),
                    "color": colour,
                    "thickness": 1.5,
                    "width": 0,
                },
            )
        )
    bounded = [n for n, point in enumerate(front.points) if math.isfinite(point.bound)]
    mark = {"symbol": "line-ew", "size": 16, "line": {"width": 1.5, "color": _GREY}}
    traces.append(trace(bounded, [front.points[n].bound for n in bounded], "upper bound", marker=mark))
    for status, symbol in (("infeasible", "x-thin"), ("nothing found", "asterisk")):
        numbers = [n for n, point in enumerate(front.points) if _status(point) == status]
        mark = {"symbol": symbol, "size": 10, "line": {"width": 2.5, "color": _GREY}}
        if numbers:
            traces.append(trace(numbers, [floor] * len(numbers), status, marker=mark))
    placed = [(network, *network["place"]) for network in networks if network["place"] is not None]
    if placed:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": "other networks",
                "x": [x for _, x, _ in placed],
                "y": [y for _, _, y in placed],
                "text": [str(network["number"]) for network, _, _ in placed],
                "textposition": "top center",
                "hovertext": [
                    f"{html.escape(network['name'])}<br>entropy {network['worth']}" for network, _, _ in placed
                ],
                "hoverinfo": "text",
                "marker": {"symbol": "star", "size": 11, "color": _COLOURS[3]},
            }
        )
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "chosen",
            "hoverinfo": "skip",
            "x": [],
            "y": [],
            "marker": {"symbol": "circle-open", "size": 19, "color": _COLOURS[1], "line": {"width": 2.5}},
        }
    )
    unit = _AXES.get(key)
    title = f"{_NAMES.get(key, key)} budget" + (f", {unit}" if unit not in (None, _NAMES.get(key)) else "")
    axis: dict[str, Any] = {"type": "linear"}
    if key not in ("latency", "effectiveness", "layers"):
        axis["tickformat"] = "~s"
    if max(xs) >= _WIDE * min(xs):
        powers = range(math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs))) + 1)
        values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        axis = {"type": "log", "tickvals": values, "ticktext": [_short(value) for value in values]}
    return {
        "traces": traces,
        "places": [[x, floor if score is None else score] for x, score in zip(xs, scores, strict=True)],
        "layout": {
            "height": 440,
            "xaxis": {"title": {"text": title}, **axis},
            "yaxis": {
                "title": {"text": "score", "standoff": 14},
                "exponentformat": "none",
                "separatethousands": True,
            },
        },
    }


def _words(front: Front, point: Point) -> str:
    """What hovering over a point says; Plotly takes some HTML."""
    lines = [f"{_NAMES.get(key, key)} budget {compact(key, _limit(point, key))}" for key in front.over]
    lines.append(_status(point))
    if point.design is not None:
        lines.append(f"score {_number(point.design.metrics.score)}")
    if math.isfinite(point.bound):
        lines.append(f"bound {_number(point.bound)}")
    if math.isfinite(point.gap):
        lines.append(f"gap {point.gap:.1e}")
    return "<br>".join(map(html.escape, lines))


def _parallel_plot(front: Front) -> dict[str, Any]:
    """Parallel coordinates: an axis for every limit, total and choice, a line for every design.

    Plotly's own kind of it needs WebGL, which not every browser has; these are lines of a scatter plot.
    """
    found = [(n, point, point.design) for n, point in enumerate(front.points) if point.design is not None]
    axes: list[tuple[str, list[float], list[str]]] = []

    def axis(title: str, values: Sequence[float]) -> None:
        axes.append((title, list(map(float, values)), [_short(value) for value in values]))

    for key in front.over:
        unit = " (ms)" if key == "latency" else ""
        axis(
            f"{_BROKEN.get(key, _NAMES.get(key, key))}<br>budget{unit}",
            [_drawn(key, _limit(point, key)) for _, point, _ in found],
        )
    for key in ("score", "macs", "params", "effectiveness", "layers"):
        axis(_BROKEN.get(key, _NAMES.get(key, key)), [getattr(design.metrics, key) for _, _, design in found])
    for key, symbol in (("channels", "c"), ("depth", "L")):
        for stage in range(len(front.spec.stages)):
            axis(f"{symbol}<sub>{stage + 1}</sub>", [getattr(design.stages[stage], key) for _, _, design in found])
    heights: list[list[float]] = [[] for _ in found]
    notes: list[dict[str, Any]] = []

    def note(place: int, height: float, text: str, anchor: str) -> None:
        notes.append({"x": place, "y": height, "text": text, "yanchor": anchor, "showarrow": False})

    for place, (title, values, texts) in enumerate(axes):
        low, high = (min(values), max(values)) if values else (0.0, 0.0)
        for row, value in zip(heights, values, strict=True):
            row.append((value - low) / (high - low) if high > low else 0.5)
        named = dict(zip(values, texts, strict=True))
        note(place, 1.2, title, "bottom")
        if high > low:
            note(place, 1.03, named[high], "bottom")
            note(place, -0.03, named[low], "top")
        elif named:
            note(place, 0.53, named[low], "bottom")
    lines: dict[str, list[Any]] = {"x": [], "y": [], "customdata": [], "text": []}
    for (n, point, _), row in zip(found, heights, strict=True):
        # A gap in the line parts one design from the next.
        lines["x"] += [*range(len(axes)), None]
        lines["y"] += [*row, None]
        lines["customdata"] += [n] * (len(axes) + 1)
        lines["text"] += [_words(front, point)] * (len(axes) + 1)
    hidden = {"visible": False, "fixedrange": True}
    return {
        "traces": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "hovertemplate": "%{text}<extra></extra>",
                "line": {"color": _COLOURS[0], "width": 1},
                "marker": {"size": 5},
                "opacity": 0.7,
                **lines,
            },
            {
                "type": "scatter",
                "mode": "lines+markers",
                "hoverinfo": "skip",
                "line": {"color": _COLOURS[1], "width": 3},
                "marker": {"size": 8},
                "x": list(range(len(axes))),
                "y": [],
            },
        ],
        "paths": {n: row for (n, _, _), row in zip(found, heights, strict=True)},
        "layout": {
            "height": 320,
            "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
            "showlegend": False,
            "xaxis": {**hidden, "range": [-0.6, len(axes) - 0.4]},
            "yaxis": {**hidden, "range": [-0.14, 1.5]},
            "annotations": notes,
            "shapes": [
                {
                    "type": "line",
                    "x0": n,
                    "x1": n,
                    "y0": 0,
                    "y1": 1,
                    "line": {"color": _GREY, "width": 1},
                    "layer": "below",
                }
                for n in range(len(axes))
            ],
        },
        "width": _AXIS * len(axes),
    }


def _short(value: float) -> str:
    return prefixed(value) if abs(value) >= 1e4 else quantity(value) if float(value).is_integer() else f"{value:.4g}"
