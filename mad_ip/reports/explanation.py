"""Why a design is what it is, for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mad_ip.explanation import Change, Explanation, Spending
from mad_ip.front import Price
from mad_ip.reports.table import amount

__all__ = ["explanation_table"]


def explanation_table(found: Explanation) -> RenderableType:
    """What binds and what more of it is worth, what every segment spends, and changes of one choice."""
    parts: list[RenderableType] = [_prices(found)]
    if any(each.segments for each in found.spendings):
        parts.append(_segments(found))
    parts += [Text(sentence) for sentence in sentences(found)]
    parts.append(_changes(found))
    return Group(*parts)


def sentences(found: Explanation) -> list[str]:
    """What binds, and why the best design with one choice changed loses."""
    binding = [each.budget for each in found.spendings if each.binds]
    said = [f"binding: {', '.join(binding) or 'no budget: the ends of the domains hold the optimum back'}"]
    if found.runner_up is not None:
        said.append(
            f"the best design with one choice changed: {_named(found.runner_up)}, score {_gain(found.runner_up)}"
        )
    if found.wanted is not None:
        said.append(
            f"nearest to more: {_named(found.wanted)}, score {_gain(found.wanted)}, but {_broken(found.wanted)}"
        )
    return said


def _prices(found: Explanation) -> Table:
    table = Table(title="what 1 % more of a budget is worth, in score", box=box.SIMPLE_HEAD)
    table.add_column("budget", no_wrap=True)
    for header in ("limit", "left", "multipliers", "1 % less", "1 % more"):
        table.add_column(header, justify="right", no_wrap=True)
    for each in found.spendings:
        table.add_row(each.budget, amount(each.budget, each.limit), f"{each.left:.3%}", *_worth(each, each.price))
    return table


def _worth(each: Spending, price: Price) -> list[str]:
    slopes = (price.multiplier, price.smaller, price.larger)
    return ["-" if slope is None else f"{slope * each.limit / 100:,.3f}" for slope in slopes]


def _segments(found: Explanation) -> Table:
    sums = [each for each in found.spendings if each.segments]
    table = Table(title="where it is spent", box=box.SIMPLE_HEAD)
    table.add_column("part", no_wrap=True)
    for each in sums:
        table.add_column(each.budget, justify="right", no_wrap=True)
    for number, (name, _) in enumerate(sums[0].segments):
        table.add_row(name, *(f"{each.segments[number][1] / each.spent:.1%}" for each in sums))
    return table


def _changes(found: Explanation) -> Table:
    table = Table(
        title="one choice changed: the best that fits, and the nearest that would score more", box=box.SIMPLE_HEAD
    )
    for header in ("choice", "change"):
        table.add_column(header, no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("why not")
    for change in found.changes:
        why = _broken(change) if change.breaks else ("scores less" if change.difference < 0 else "scores the same")
        table.add_row(f"{change.segment} {change.axis}", f"{change.value} -> {change.other}", _gain(change), why)
    return table


def _named(change: Change) -> str:
    return f"{change.segment} {change.axis} {change.value} -> {change.other}"


def _gain(change: Change) -> str:
    return f"{change.difference:+,.3f}"


def _broken(change: Change) -> str:
    return ", ".join(f"{key} passed by {excess:.2%}" for key, excess in change.breaks)
