"""spec.toml of ``kind = "mlp"`` -> :class:`MlpSpec`: validated, errors name the key.

Symbols (docs/mlp.md): ``L`` linear layers; ``w_1`` features, ``w_2 .. w_L`` hidden widths, ``w_{L+1}`` classes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mad_ip import keys
from mad_ip.errors import InputError
from mad_ip.files import read_toml
from mad_ip.keys import Key
from mad_ip.reader import Reader
from mad_ip.spec import Budget, Domain

__all__ = ["BUDGETS", "DEEPEST", "KEYS", "KIND", "WIDEST", "Input", "MlpSpec", "Space"]

KIND = "mlp"

BUDGETS = ("macs", "params", "effectiveness", "layers")
"""What an MLP's budget may limit."""

WIDEST = 2**24
DEEPEST = 1000
"""Layers; a network of this depth and width still costs less than 2**63."""

_CHOICES = 1024
"""Hidden widths to choose from: the bound looks at every pair of them."""


@dataclass(frozen=True)
class Input:
    """``features`` is ``w_1``, ``classes`` is ``w_{L+1}``."""

    features: Annotated[int, Key(keys.integer(most=WIDEST), "inputs of the first layer")]
    classes: Annotated[int, Key(keys.integer(most=WIDEST), "outputs of the last layer")]


@dataclass(frozen=True)
class Space:
    """``widths`` of every hidden layer; ``depth`` is the number ``L`` of linear layers, 1 for none hidden."""

    widths: Annotated[Domain, Key(keys.domain(most=WIDEST), "hidden widths to choose from, the same for every layer")]
    depth: Annotated[Domain, Key(keys.domain(most=DEEPEST), "numbers of linear layers to choose from; 1: none hidden")]


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
            "input.features": (self.input.features, WIDEST),
            "input.classes": (self.input.classes, WIDEST),
            "space.widths": (max(self.space.widths), WIDEST),
            "space.depth": (max(self.space.depth), DEEPEST),
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
        top = Reader(source, table, KEYS)
        top.read("kind")
        ends = top.table("input", Input)
        budget = top.table("budget", _BUDGET, optional=True)
        space = top.table("space", Space)
        return cls(
            name=top.read("name"),
            input=Input(**ends.read_all()),
            space=Space(**space.read_all()),
            budget=Budget(**budget.read_all()),
            source=source,
            sha256=sha256,
        )


_BUDGET = {key: dataclasses.replace(Budget.declared()[key], value=keys.number(positive=True)) for key in BUDGETS}

KEYS: Mapping[str, Key] = {
    "kind": Key(keys.choice((KIND,)), "a multilayer perceptron"),
    "name": Key(keys.text(), "name of the spec and of its designs"),
    "input": Key(keys.table(Input), "both ends of the network"),
    "budget": Key(keys.table(_BUDGET), "upper limits; each may be left out", default=None),
    "space": Key(keys.table(Space), "what is chosen"),
}
"""The keys of a spec.toml of this kind, with those of its tables."""
