"""Solver profiles: a backend and its options, in a TOML file under solvers/."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mad_ip.backends.base import Backend
from mad_ip.errors import InputError
from mad_ip.files import read_toml, resource

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

_KEYS = ("backend", "reduction", "options")


@dataclass(frozen=True)
class Profile:
    """``backend`` is one of :data:`BACKENDS`; ``options`` are the solver's own.

    Without ``reduction`` a solver of matrices gets the formulation of all undominated options, not only of those that
    the Lagrangian reduction leaves.
    """

    backend: str = "highs"
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "profile"
    reduction: bool = True

    @classmethod
    def load(cls, name: str) -> Profile:
        """Read a profile by the path of its file or by its name under solvers/; raise :class:`InputError`."""
        path = Path(name) if name.endswith(".toml") else resource(f"solvers/{name}.toml")
        if path is None:
            raise InputError(f"--solver = {name!r}: no such profile; a .toml file or a name under solvers/ is needed")
        table, _ = read_toml(path)
        backend, reduction, options = table.get("backend"), table.get("reduction", True), table.get("options", {})
        for key in table:
            if key not in _KEYS:
                raise InputError(f"{path}: {key} = {table[key]!r}: unknown key; allowed are {', '.join(_KEYS)}")
        if not isinstance(backend, str) or backend not in BACKENDS:
            raise InputError(f"{path}: backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
        if not isinstance(reduction, bool):
            raise InputError(f"{path}: reduction = {reduction!r}: must be true or false")
        if not isinstance(options, dict):
            raise InputError(f"{path}: options = {options!r}: must be a table [options]")
        return cls(backend, options, str(path), reduction)


def load_backend(profile: Profile) -> Backend:
    """The backend of a profile, its solver imported only now.

    Raises :class:`InputError` when the solver's package is missing or an option is bad.
    """
    name = profile.backend
    try:
        module = importlib.import_module(f"mad_ip.backends.{name}")
    except ImportError as error:
        # The modules of optional backends import their solver's package at their head.
        raise InputError(
            f"{profile.source}: backend = {name!r}: {error}; it comes with pip install 'mad-ip[{name}]'"
        ) from None
    backend: Backend = getattr(module, BACKENDS[name])(profile.options, profile.source)
    return backend
