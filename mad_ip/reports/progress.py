"""What a solve says of its progress and of what its solver was given."""

from __future__ import annotations

import math

from mad_ip.solve import Report

__all__ = ["given_to", "line"]


def line(report: Report) -> str:
    """One line about a solve at work."""

    def number(value: float, form: str) -> str:
        return format(value, form) if math.isfinite(value) else "-"

    return (
        f"{report.seconds:7.1f} s  {report.phase:<16}  incumbent {number(report.score, ',.3f')}  "
        f"bound {number(report.bound, ',.3f')}  gap {number(report.gap, '.4%')}"
    )


def given_to(report: Report) -> str:
    """What a solver of matrices was given, if anything."""
    model = report.model
    if model is None:
        return ""
    return (
        f"given to {report.phase}: {model.surviving:,} of {model.options:,} options, in {model.rows:,} rows and "
        f"{model.columns:,} columns; no other design scores above {model.bound:,.4f}"
    )
