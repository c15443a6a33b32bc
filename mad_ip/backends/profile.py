"""Solver profiles: a backend and its options, in a TOML file under solvers/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mad_ip.backends.base import Backend
from mad_ip.errors import InputError
from mad_ip.files import read_toml, resource

__all__ = ["BACKENDS", "Profile", "load_backend"]

BACKENDS = ("highs",)


@dataclass(frozen=True)
class Profile:
    """``backend`` is one of :data:`BACKENDS`; ``options`` are the solver's own."""

    backend: str = "highs"
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "profile"

    @classmethod
    def load(cls, name: str) -> Profile:
        """Read a profile by the path of its file or by its name under solvers/; raise :class:`InputError`."""
        path = Path(name) if name.endswith(".toml") else resource(f"solvers/{name}.toml")
        if path is None:
            raise InputError(f"--solver = {name!r}: no such profile; a .toml file or a name under solvers/ is needed")
        table, _ = read_toml(path)
        backend, options = table.get("backend"), table.get("options", {})
        for key in table:
            if key not in ("backend", "options"):
                raise InputError(f"{path}: {key} = {table[key]!r}: unknown key; allowed are backend, options")
        if backend not in BACKENDS:
            raise InputError(f"{path}: backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
        if not isinstance(options, dict):
            raise InputError(f"{path}: options = {options!r}: must be a table [options]")
        return cls(str(backend), options, str(path))


def load_backend(profile: Profile) -> Backend:
    """The backend of a profile, its solver imported only now; raise :class:`InputError` on a bad option."""
    from mad_ip.backends.highs import Highs

    return Highs(profile.options, profile.source)
