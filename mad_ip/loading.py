"""Pyomo, loaded so that it leaves most of SciPy alone.

Where Pyomo finds any part of SciPy loaded, it loads most of it, statistics above all: half a second and 60 MB. What it
does not find, it loads when it needs it.
"""

from __future__ import annotations

import sys

import scipy  # noqa: F401

__all__: list[str] = []

_hidden = sys.modules.pop("scipy")
try:
    import pyomo.environ  # noqa: F401
finally:
    sys.modules["scipy"] = _hidden
