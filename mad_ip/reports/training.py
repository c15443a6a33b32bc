"""What a terminal shows of a training at work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mad_ip.networks.training import Report

__all__ = ["line"]


def line(report: Report) -> str:
    """One line about a training at work."""
    accuracy = f"{report.accuracy:.2%}" if math.isfinite(report.accuracy) else "-"
    minutes, seconds = divmod(round(report.seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"epoch {report.epoch} of {report.epochs}  loss {report.loss:.4f}  accuracy {accuracy}  "
        f"{report.images_per_second:,.0f} images/s  {hours}:{minutes:02}:{seconds:02} left"
    )
