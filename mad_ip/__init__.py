"""Design convolutional networks by exact mathematical programming.

From Python: ``mad_ip.Spec`` is a problem, ``mad_ip.solve(spec)`` its proven optimum, ``mad_ip.sweep(spec, over)`` a
front of them, ``mad_ip.explain(spec, design)`` says why, ``mad_ip.load(path)`` is the PyTorch network of a design.json.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from mad_ip.design import Design as Design
    from mad_ip.explanation import explain as explain
    from mad_ip.front import Front as Front
    from mad_ip.networks import Network
    from mad_ip.solve import rank as rank
    from mad_ip.solve import solve as solve
    from mad_ip.spec import Spec as Spec
    from mad_ip.sweep import sweep as sweep

__all__ = ["Design", "Front", "Spec", "__version__", "explain", "load", "rank", "solve", "sweep"]

__version__ = "0.1.0"

_PLACES = {
    "Design": "design",
    "Front": "front",
    "Spec": "spec",
    "explain": "explanation",
    "rank": "solve",
}
"""The modules of what is loaded when it is first asked for."""


class _Called(ModuleType):
    """A module that may be called as the function that it is named for: ``mad_ip.solve(spec)``."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **options)


def _called(name: str) -> None:
    """Let the module of a name be called."""
    sys.modules[name].__class__ = _Called


def _shown(design: Design) -> str:
    """What a notebook shows of a design, whose own module knows no tables: proofs import it."""
    from mad_ip.reports.notebook import as_html
    from mad_ip.reports.table import design_table

    return as_html(design_table(design))


def __getattr__(name: str) -> Any:
    if name in ("solve", "sweep") or name in _PLACES:
        importlib.import_module("mad_ip.design").Design._repr_html_ = _shown
    if name in ("solve", "sweep"):
        return importlib.import_module(f"mad_ip.{name}")
    if name in _PLACES:
        return getattr(importlib.import_module(f"mad_ip.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'mad_ip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(path: Path | str) -> Network | nn.Sequential:
    """Build the PyTorch network of a design.json, an ``nn.Sequential`` for an MLP's.

    Raises :class:`mad_ip.errors.InputError` when it is not one.
    """
    from mad_ip.kinds import design_kind

    kind = design_kind(path)
    network: Network | nn.Sequential = kind.network(kind.load_design(path))
    return network
