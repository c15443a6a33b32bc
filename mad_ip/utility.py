"""What choices are worth by themselves, beside entropy: utilities of any sign (docs/formulation.md section 2).

A utility adds ``f_t(c_t) + g_t(m_t) + h_t(k_t) + d_t(L_t)`` to the score, each a :class:`Term` or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mad_ip import keys
from mad_ip.errors import InputError
from mad_ip.files import finite
from mad_ip.keys import Key
from mad_ip.reader import Reader

__all__ = ["AXES", "LARGEST", "Axis", "Term", "Utility", "check", "magnitude", "read", "toml"]

Axis: TypeAlias = Literal["channels", "mid", "kernel", "depth"]

AXES: tuple[Axis, ...] = ("channels", "mid", "kernel", "depth")
"""The choices of a stage; stem and tail have channels only."""

LARGEST = 1e12
"""No part of a term may be larger than this: sums with entropies keep their digits."""

_SMOOTH = ("log", "linear", "square")


@dataclass(frozen=True)
class Term:
    """A function of a choice ``x``: an ascending ``table`` over its domain, or ``log ln x + linear x + square x^2``."""

    table: tuple[tuple[int, float], ...] = ()
    log: float = 0.0
    linear: float = 0.0
    square: float = 0.0

    def __call__(self, domain: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """The values (n) of n choices; raise :class:`KeyError` for one that a table lacks."""
        if self.table:
            known, values = np.array(self.table).T
            place = np.minimum(np.searchsorted(known, domain), len(known) - 1)
            if (known[place] != domain).any():
                raise KeyError(f"no value for some of {np.unique(domain).tolist()}")
            return np.asarray(values[place])
        x = np.asarray(domain, float)
        return np.asarray(self.log * np.log(x) + self.linear * x + self.square * x**2)

    def magnitude(self, domain: Sequence[int]) -> float:
        """No less than any value over a domain, nor than the parts that it is a sum of."""
        if self.table:
            return float(np.abs(self(domain)).max())
        x = np.asarray(domain, float)
        return float((abs(self.log) * np.log(x) + abs(self.linear) * x + abs(self.square) * x**2).max())

    def content(self) -> dict[str, float]:
        """As it is written, a table by its choices."""
        if self.table:
            return {str(x): value for x, value in self.table}
        return {key: value for key in _SMOOTH if (value := getattr(self, key)) != 0}


_TERM = keys.either(
    keys.each(f"^({'|'.join(_SMOOTH)})$", keys.number(), f"of {', '.join(_SMOOTH)}, factors of ln x, x and x^2"),
    keys.each("^[1-9][0-9]*$", keys.number(), "value of the domain, all of them"),
)


@dataclass(frozen=True)
class Utility:
    """What the choices of one part of the network are worth; ``stage`` is a number from 1, ``"stem"`` or ``"tail"``."""

    stage: Annotated[
        int | str,
        Key(keys.either(keys.integer(), keys.choice(("stem", "tail"))), "whose choices: a stage by its number"),
    ]
    channels: Annotated[Term | None, Key(_TERM, "what output channels are worth")] = None
    mid: Annotated[Term | None, Key(_TERM, "what inner widths are worth; stages only")] = None
    kernel: Annotated[Term | None, Key(_TERM, "what kernels are worth; stages only")] = None
    depth: Annotated[Term | None, Key(_TERM, "what numbers of blocks are worth; stages only")] = None

    @property
    def terms(self) -> Iterator[tuple[str, Term]]:
        """Those that there are, by the choice that they value."""
        for axis in AXES:
            term = getattr(self, axis)
            if term is not None:
                yield axis, term

    def __call__(self, axis: str, domain: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """What some choices of an axis of ``AXES`` are worth; nothing where there is no term."""
        term = getattr(self, axis)
        return np.zeros(len(domain)) if term is None else term(domain)

    def worth(self, *choices: Any) -> Any:
        """What choices of all ``AXES``, integers or arrays, are worth together, broadcast.

        Added in one order, so that equal choices are worth the same to the last digit.
        """
        total: Any = 0.0
        for axis, values in zip(AXES, map(np.asarray, choices), strict=True):
            total = total + self(axis, values.ravel()).reshape(values.shape)
        return total

    def check(self, source: str, name: str, domains: Mapping[str, Sequence[int]]) -> None:
        """Raise :class:`InputError` where a term does not fit the ``domains`` of its part, by axis."""
        if not any(True for _ in self.terms):
            raise InputError(f"{source}: {name}: must have one of {', '.join(AXES)}")
        for axis, term in self.terms:
            where = f"{source}: {name}.{axis}"
            if axis not in domains:
                raise InputError(f"{where}: the {self.stage} decides on channels only; must be left out")
            domain = domains[axis]
            if term.table:
                given = [x for x, _ in term.table]
                missing, unknown = sorted(set(domain) - set(given)), sorted(set(given) - set(domain))
                if unknown:
                    raise InputError(f"{where} = {term.content()}: {unknown[0]} is no value of its domain")
                if missing or given != sorted(set(given)):
                    said = f"has no value for {missing[0]}" if missing else "does not ascend"
                    raise InputError(f"{where} = {term.content()}: {said}; must have one for every value of its domain")
                if any(getattr(term, key) != 0 for key in _SMOOTH):
                    raise InputError(f"{where}: must be a table or {', '.join(_SMOOTH)}, not both")
            numbers = [*(value for _, value in term.table), *(getattr(term, key) for key in _SMOOTH)]
            if not all(finite(value) for value in numbers) or not term.magnitude(domain) <= LARGEST:
                raise InputError(f"{where} = {term.content()}: must be finite, and of at most {LARGEST:g} in magnitude")


def check(utilities: Iterable[Utility], source: str, parts: Mapping[int | str, Mapping[str, Sequence[int]]]) -> None:
    """Raise :class:`InputError` unless every utility is of one of the ``parts`` of a network, and each of another."""
    seen: set[int | str] = set()
    for number, utility in enumerate(utilities, start=1):
        name = f"objective.utility[{number}]"
        known = isinstance(utility.stage, int | str) and not isinstance(utility.stage, bool) and utility.stage in parts
        if not known or utility.stage in seen:
            allowed = ", ".join(map(repr, parts))
            said = f"one of {allowed}" if not known else "another than those before it"
            raise InputError(f"{source}: {name}.stage = {utility.stage!r}: must be {said}")
        seen.add(utility.stage)
        utility.check(source, name, parts[utility.stage])


def read(objective: Reader) -> tuple[Utility, ...]:
    """The tables ``[[objective.utility]]``; raise :class:`InputError`."""
    if "utility" not in objective.values:
        return ()
    found = []
    for table in objective.tables("utility", Utility):
        stage = table.values.get("stage")
        stage = table.choice("stage", ("stem", "tail")) if isinstance(stage, str) else table.integer("stage")
        terms = {axis: _term(table, axis) for axis in AXES if axis in table.values}
        if not terms:
            raise InputError(f"{table.source}: {table.prefix.rstrip('.')}: must have one of {', '.join(AXES)}")
        found.append(Utility(stage, **terms))
    return tuple(found)


def _term(utility: Reader, axis: str) -> Term:
    table = utility.table(axis, None)
    if not table.values:
        raise utility.fail(axis, f"a table of its values, or of {', '.join(_SMOOTH)}")
    numbers = {key: float(table.number(key)) for key in table.values}
    if set(numbers) <= set(_SMOOTH):
        return Term((), **numbers)
    for key in numbers:
        if key in _SMOOTH or not (key.isascii() and key.isdigit() and key == str(int(key))):
            raise table.error(key, f"must be one of the choices or one of {', '.join(_SMOOTH)}, not both kinds")
    return Term(table=tuple(sorted((int(key), value) for key, value in numbers.items())))


def toml(utilities: Iterable[Utility]) -> list[str]:
    """The lines of the tables ``[[objective.utility]]``."""
    lines: list[str] = []
    for utility in utilities:
        stage = f'"{utility.stage}"' if isinstance(utility.stage, str) else utility.stage
        lines += ["", "[[objective.utility]]", f"stage = {stage}"]
        for axis, term in utility.terms:
            # A term that is worth nothing is still one.
            content = term.content() or {"log": 0.0}
            lines.append(f"{axis} = {{{', '.join(f'{key} = {float(value)!r}' for key, value in content.items())}}}")
    return lines


def magnitude(utility: Utility, domains: Mapping[str, Sequence[int]]) -> float:
    """No less than what the terms of any choices of a part add up to without their signs."""
    return math.fsum(term.magnitude(domains[axis]) for axis, term in utility.terms)
