"""The kinds of networks, each one entry of :data:`KINDS`: how its files are told, and what the commands do with it.

A spec.toml says its kind by the key ``kind``, a design.json by its ``format``. The functions of an entry import what
they need when they are called: pyomo for a solve, rich for a table, torch for a network.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mad_ip import design, mlp
from mad_ip.errors import InputError
from mad_ip.files import read_bytes, read_json, read_toml, resources
from mad_ip.keys import Key
from mad_ip.mlp.design import FORMAT as MLP_FORMAT
from mad_ip.mlp.spec import KEYS as MLP_KEYS
from mad_ip.mlp.spec import KIND as MLP_KIND
from mad_ip.reader import Reader
from mad_ip.spec import KEYS, Spec

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["CNN", "KINDS", "MLP", "Kind", "design_kind", "find_spec", "load_cnn", "require_cnn", "spec_kind"]


@dataclass(frozen=True)
class Kind:
    """One kind of network, ``noun`` in a message.

    ``key`` is the ``kind`` of its spec.toml (``None``: the key is left out), ``format`` that of its design.json.
    ``keys`` are those of its spec.toml.
    ``solve`` takes a spec, the options common to all kinds (time_limit, gap, watch, interrupted) and, where the kind
    has ``profiles`` of solvers, profile, threads, seed and top; it gives the designs and the table that shows them.
    """

    noun: str
    key: str | None
    format: str
    keys: Mapping[str, Key]
    profiles: bool
    load_spec: Callable[[Path | str], Any]
    load_design: Callable[[Path | str], Any]
    solve: Callable[..., tuple[list[Any], RenderableType]]
    design_table: Callable[..., RenderableType]
    space_table: Callable[[Any], RenderableType]
    space_content: Callable[[Any], dict[str, Any]]
    network: Callable[[Any], Any]
    verify_cost: Callable[[Any, Any], None]


def spec_kind(path: Path | str) -> Kind:
    """The kind of a spec.toml; raise :class:`InputError` when it is no TOML file or of an unknown kind."""
    kinds = {kind.key: kind for kind in KINDS}
    reader = Reader(str(path), read_toml(path)[0], None)
    return kinds[reader.choice("kind", filter(None, kinds), default=None)]


def design_kind(path: Path | str) -> Kind:
    """The kind of a design.json; raise :class:`InputError` when it is no JSON file or of an unknown format."""
    kinds = {kind.format: kind for kind in KINDS}
    reader = Reader(str(path), read_json(path), None, noun="JSON object")
    return kinds[reader.choice("format", kinds)]


def find_spec(path: Path, sha256: str) -> Path | None:
    """The file of the spec with this hash that the design.json at ``path`` came from; ``None`` where there is none.

    Looked at are the spec.toml and the toml of the design's own name beside it, then the zoo.
    """
    beside = (path.with_name("spec.toml"), path.with_suffix(".toml"))
    files = (place for place in (*beside, *resources("models/*/*.toml")) if place.is_file())
    return next((place for place in files if hashlib.sha256(read_bytes(place)).hexdigest() == sha256), None)


def require_cnn(path: Path | str, allowed: str = "must be that of a CNN") -> None:
    """Refuse the design of another kind with what is ``allowed``; raise :class:`InputError`."""
    kind = design_kind(path)
    if kind is not CNN:
        raise InputError(f"{path}: is the design of {kind.noun}; {allowed}")


def load_cnn(path: Path | str) -> Spec:
    """The spec of a CNN; raise :class:`InputError` for one of another kind."""
    kind = spec_kind(path)
    if kind is not CNN:
        raise InputError(f"{path}: is {kind.noun}, which has no convolutions; must be a spec of a CNN")
    return Spec.load(path)


def _later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module of mad_ip that is imported only when it is called."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(f"mad_ip.{module}"), name)(*arguments, **options)

    return call


def _solve_cnn(spec: Spec, *, top: int, **options: Any) -> tuple[list[design.Design], RenderableType]:
    from mad_ip.reports import table
    from mad_ip.solve import rank, solve

    if top == 1:
        best = solve(spec, **options)
        return [best], table.design_table(best, spec.budget, spec)
    designs = rank(spec, top, **options)
    return list(designs), table.ranking_table(designs, spec)


_LISTED = 2_000_000
"""Options before dominance up to which those after it are counted for a table: a second or two."""


def _of_space(name: str) -> Callable[[Spec], Any]:
    """A function of :mod:`mad_ip.reports.table` of a spec with its catalogue, where that can be listed."""

    def call(spec: Spec) -> Any:
        from mad_ip import catalogue
        from mad_ip.reports import table

        listable = catalogue.raw_options(spec) <= _LISTED
        return getattr(table, name)(spec, catalogue.build(spec) if listable else None)

    return call


def _solve_mlp(spec: mlp.MlpSpec, **options: Any) -> tuple[list[mlp.MlpDesign], RenderableType]:
    from mad_ip.mlp import optimum
    from mad_ip.reports.mlp import design_table

    best = optimum.solve(spec, **options)
    return [best], design_table(best, spec.budget, spec)


CNN = Kind(
    noun="a CNN",
    key=None,
    format=design.FORMAT,
    keys=KEYS,
    profiles=True,
    load_spec=Spec.load,
    load_design=design.Design.load,
    solve=_solve_cnn,
    design_table=_later("reports.table", "design_table"),
    space_table=_of_space("space_table"),
    space_content=_of_space("space_content"),
    network=_later("networks", "Network"),
    verify_cost=_later("networks", "verify_cost"),
)
"""Convolutional networks, of images and of clips."""

MLP = Kind(
    noun="an MLP",
    key=MLP_KIND,
    format=MLP_FORMAT,
    keys=MLP_KEYS,
    profiles=False,
    load_spec=mlp.MlpSpec.load,
    load_design=mlp.MlpDesign.load,
    solve=_solve_mlp,
    design_table=_later("reports.mlp", "design_table"),
    space_table=_later("reports.mlp", "space_table"),
    space_content=_later("reports.mlp", "space_content"),
    network=_later("networks.mlp", "build"),
    verify_cost=_later("networks", "verify_cost"),
)
"""Multilayer perceptrons (docs/mlp.md)."""

KINDS = (CNN, MLP)
