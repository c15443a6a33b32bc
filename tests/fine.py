"""The ways of fine grids on small spaces, which can be enumerated."""

from __future__ import annotations

import pytest

__all__ = ["as_if_fine"]


def as_if_fine(patch: pytest.MonkeyPatch, groups: int = 2) -> None:
    """Every box is bounded by a part of it first, then by so many groups of its widths, and only then by itself."""
    patch.setattr("mad_ip.lagrangian.program._LARGE", 0)
    patch.setattr("mad_ip.lagrangian.tree.THIN", 2)
    patch.setattr("mad_ip.lagrangian.groups._GROUPS", groups)
