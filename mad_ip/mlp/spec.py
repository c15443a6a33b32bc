"""spec.toml of ``kind = "mlp"`` -> :class:`MlpSpec`: validated, errors name the key.

Symbols (docs/mlp.md): ``L`` linear layers; ``w_1`` features, ``w_2 .. w_L`` hidden widths, ``w_{L+1}`` classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mad_ip.errors import InputError
from mad_ip.files import read_toml
from mad_ip.reader import Reader
from mad_ip.spec import Budget, Domain

__all__ = ["BUDGETS", "KIND", "Input", "MlpSpec", "Space"]

KIND = "mlp"

BUDGETS = ("macs", "params", "effectiveness", "layers")
"""What an MLP's budget may limit."""

_WIDEST = 2**24
_DEEPEST = 1000
"""Layers; a network of this depth and width still costs less than 2**63."""

_CHOICES = 1024
"""Hidden widths to choose from: the bound looks at every pair of them."""


@dataclass(frozen=True)
class Input:
    """``features`` is ``w_1``, ``classes`` is ``w_{L+1}``."""

    features: int
    classes: int


@dataclass(frozen=True)
class Space:
    """``widths`` of every hidden layer; ``depth`` is the number ``L`` of linear layers, 1 for none hidden."""

    widths: Domain
    depth: Domain


@dataclass(frozen=True)
class MlpSpec:
    """A design problem for an MLP. ``sha256`` identifies the file it came from."""

    name: str
    input: Input
    space: Space
    budget: Budget = field(default_factory=Budget)
    sha256: str = field(default="", compare=False)
    source: str = field(default="spec", compare=False)

    def __post_init__(self) -> None:
        """Validate sizes; raise :class:`InputError`."""
        largest = {
            "input.features": (self.input.features, _WIDEST),
            "input.classes": (self.input.classes, _WIDEST),
            "space.widths": (max(self.space.widths), _WIDEST),
            "space.depth": (max(self.space.depth), _DEEPEST),
        }
        for key, (value, most) in largest.items():
            if value > most:
                raise InputError(f"{self.source}: {key} = {value}: must be at most {most:,}")
        if len(self.space.widths) > _CHOICES:
            raise InputError(
                f"{self.source}: space.widths = {self.space.widths[0]}..{self.space.widths[-1]}: has "
                f"{len(self.space.widths):,} values; must be at most {_CHOICES:,}"
            )

    @property
    def architectures(self) -> int:
        """The exact number of networks in the space, before budgets."""
        return sum(len(self.space.widths) ** (depth - 1) for depth in self.space.depth)

    @classmethod
    def load(cls, path: Path | str) -> MlpSpec:
        """Read and validate a spec.toml; raise :class:`InputError` naming file, key, value and what is allowed."""
        table, raw = read_toml(path)
        return cls.from_table(table, source=str(path), sha256=hashlib.sha256(raw).hexdigest())

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, source: str = "spec", sha256: str = "") -> MlpSpec:
        """Build a spec from a parsed TOML table; raise :class:`InputError`."""
        top = Reader(source, table, ("kind", "name", "input", "budget", "space"))
        top.choice("kind", (KIND,))
        ends = top.table("input", Input)
        budget = top.table("budget", BUDGETS, optional=True)
        space = top.table("space", Space)
        return cls(
            name=top.text("name"),
            input=Input(ends.integer("features"), ends.integer("classes")),
            space=Space(space.domain("widths"), space.domain("depth")),
            budget=Budget(**{key: budget.number(key, positive=True, default=None) for key in BUDGETS}),
            source=source,
            sha256=sha256,
        )
