"""Solver profiles: a backend and its options, in a TOML file under solvers/."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mad_ip.backends.base import Search, Solver
from mad_ip.errors import InputError
from mad_ip.files import read_toml, resource
from mad_ip.reader import Reader

__all__ = ["BACKENDS", "Profile", "load_backend"]

BACKENDS = {
    "highs": "Highs",
    "scip": "Scip",
    "cpsat": "CpSat",
    "gurobi": "Gurobi",
    "glpk": "Glpk",
    "enumerate": "Enumeration",
    "decomposition": "Decomposition",
    "evolution": "Evolution",
}
"""The class of every backend in the module of its name."""


@dataclass(frozen=True)
class Profile:
    """``backend`` is one of ``BACKENDS``; ``options`` are the solver's own.

    Without ``reduction`` a solver of matrices gets the formulation of all undominated options, not only of those that
    branch and bound on the Lagrangian program leaves. ``log`` is the path of a file for the solver's own log.
    """

    backend: str = "highs"
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "profile"
    reduction: bool = True
    log: str | None = None

    @classmethod
    def load(cls, name: str) -> Profile:
        """Read a profile by the path of its file or by its name under solvers/; raise :class:`InputError`."""
        path = Path(name) if name.endswith(".toml") else resource(f"solvers/{name}.toml")
        if path is None:
            raise InputError(f"--solver = {name!r}: no such profile; a .toml file or a name under solvers/ is needed")
        reader = Reader(str(path), read_toml(path)[0], ("backend", "reduction", "options"))
        return cls(
            backend=reader.choice("backend", BACKENDS),
            options=reader.table("options", None, optional=True).values,
            source=str(path),
            reduction=reader.boolean("reduction", default=True),
        )


def load_backend(profile: Profile) -> Solver | Search:
    """The backend of a profile, its solver imported only now.

    Raises :class:`InputError` when the solver's package is missing, an option is bad, or it has no log and is to write
    one.
    """
    name = profile.backend
    try:
        module = importlib.import_module(f"mad_ip.backends.{name}")
    except ImportError as error:
        # The modules of optional backends import their solver's package at their head.
        raise InputError(
            f"{profile.source}: backend = {name!r}: {error}; it comes with pip install 'mad-ip[{name}]'"
        ) from None
    backend: Solver | Search = getattr(module, BACKENDS[name])(profile.options, profile.source)
    if profile.log is not None and not backend.logs:
        raise InputError(f"--log = {profile.log}: the backend {name!r} has no log of its own; must be left out")
    backend.log = profile.log
    return backend
