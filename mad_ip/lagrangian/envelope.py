"""Upper envelopes of lines ``slope S + intercept``, many at a time, in padded rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mad_ip.lagrangian.tables import Floats, Integers

__all__ = ["Lines", "envelope"]


@dataclass(frozen=True)
class Lines:
    """Lines of every row, ``(rows, lines)``, in ascending slope; those with intercept minus infinity do not exist.

    ``origin`` is the candidate each came from.
    """

    slope: Floats
    intercept: Floats
    origin: Integers


def envelope(slopes: Floats, intercepts: Floats, low: Floats, high: Floats) -> Lines:
    """Per row, the lines that are maximal somewhere on ``[low, high]``, from left to right, padded.

    Walks all rows together: from the best line at a point to the line of larger slope that meets it first. Lines with
    intercept minus infinity do not exist; a row without any keeps one of them.
    """
    rows = np.arange(len(slopes))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = intercepts + slopes * low[:, None]
        # Of equal values at the left end the steepest line is the best just after it.
        current = np.where(values >= values.max(axis=1, keepdims=True), slopes, -np.inf).argmax(axis=1)
        active = np.ones(len(slopes), bool)
        chosen, used = [current], [active]
        while True:
            rise = slopes - slopes[rows, current][:, None]
            fall = intercepts[rows, current][:, None] - intercepts
            meeting = np.where(rise > 0, fall / rise, np.inf)
            nearest = meeting.min(axis=1)
            active = active & (nearest < high)
            if not active.any():
                break
            following = np.where(meeting <= nearest[:, None], slopes, -np.inf).argmax(axis=1)
            current = np.where(active, following, current)
            chosen.append(current)
            used.append(active)
    origin = np.stack(chosen, axis=1)
    exists = np.stack(used, axis=1)
    kept = np.take_along_axis(intercepts, origin, axis=1)
    return Lines(np.take_along_axis(slopes, origin, axis=1), np.where(exists, kept, -np.inf), origin)
