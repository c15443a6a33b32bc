"""Runs: a table of trained designs of a spec, checked row by row, as ``mad-ip train --runs`` writes it."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mad_ip.design import Design
from mad_ip.errors import InputError
from mad_ip.files import read_bytes
from mad_ip.spec import Path as Choices
from mad_ip.spec import Spec
from mad_ip.statistics import LEAST, Floats, Integers

__all__ = ["PERCENT", "Run", "Runs", "listed", "read_runs"]

PERCENT = 100.0

_ALIKE = ("epochs", "recipe", "data_sha256")
"""Columns that are the same for runs trained alike."""


@dataclass(frozen=True)
class Runs:
    """Trained designs: for each a path of the spec, the mean accuracy in [0, 1] and the number of its runs.

    ``noise`` is the standard deviation of one run about the mean of its design, ``None`` where none has two.
    """

    source: str
    files: tuple[Path, ...]
    paths: tuple[Choices, ...]
    accuracy: Floats
    number: Integers
    noise: float | None


class Run(NamedTuple):
    """A row of a table: its number, the design as written, the accuracy as written, and what else is told of it."""

    row: int
    design: str
    seed: int | None
    accuracy: float
    facts: dict[str, str]


def read_runs(path: Path, spec: Spec) -> Runs:
    """Read a table of runs, with columns ``design`` (relative to its folder), ``accuracy`` and, if any, ``seed``.

    Accuracies are in [0, 1], or all in percent. Raise :class:`InputError` naming the row for a design that is not in
    the space of the spec, whatever its budgets, for runs that were not trained alike as far as the columns ``epochs``,
    ``recipe``, ``data_sha256`` and ``design_sha256`` tell, and for anything else that is wrong.
    """
    runs = listed(path)
    unit = _unit(path, runs)
    for run in runs:
        for column in _ALIKE:
            _require_same(path, column, runs[0], run, "; runs must be trained alike, others be in tables of their own")
    files: dict[Path, Choices] = {}
    first: dict[Path, Run] = {}
    structure: dict[Path, str] = {}
    seen: dict[tuple[Path, int | None], int] = {}
    by_path: dict[Choices, list[float]] = {}
    for run in runs:
        where = f"{path}: row {run.row}: design = {run.design!r}"
        file = Path(os.path.realpath(path.parent / run.design))
        if file not in files:
            try:
                design = Design.load(path.parent / run.design)
            except InputError as error:
                raise InputError(f"{path}: row {run.row}: {error}") from None
            files[file] = _path_of(design, spec, where)
            first[file], structure[file] = run, design.structure_sha256
        trained = run.facts.get("design_sha256")
        if trained and trained != structure[file]:
            raise InputError(f"{where}: is not the network that was trained, design_sha256 = {trained}; must be that")
        if (run.seed is None) != (first[file].seed is None):
            raise InputError(
                f"{where}: is in row {first[file].row}, too, and one of the two has no seed; must have one in every row"
            )
        if (file, run.seed) in seen:
            of_seed = " without a seed" if run.seed is None else f" with seed {run.seed}"
            raise InputError(
                f"{where}: is in row {seen[file, run.seed]}, too,{of_seed}; must be there once for every seed"
            )
        seen[file, run.seed] = run.row
        by_path.setdefault(files[file], []).append(run.accuracy / unit)
    if len(by_path) < LEAST:
        raise InputError(
            f"{path}: has {len(by_path)} designs; must have at least {LEAST}, one for each part of a cross-validation"
        )
    accuracy = np.array([np.mean(values) for values in by_path.values()])
    if np.ptp(accuracy) == 0:
        raise InputError(f"{path}: accuracy = {runs[0].accuracy:g} of every design; must differ")
    number = np.array([len(values) for values in by_path.values()])
    spare = int((number - 1).sum())
    squares = sum(float(np.var(values)) * len(values) for values in by_path.values())
    return Runs(
        source=str(path),
        files=tuple(files),
        paths=tuple(by_path),
        accuracy=accuracy,
        number=number,
        noise=math.sqrt(squares / spare) if spare else None,
    )


def listed(path: Path) -> list[Run]:
    """The rows of a table of runs as they stand; raise :class:`InputError` for what is none."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        lines = [(n, line) for n, line in enumerate(csv.reader(io.StringIO(text), strict=True), start=1) if any(line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    if not lines:
        raise InputError(f"{path}: is empty; must have the columns design and accuracy, and a row for every run")
    header = [cell.strip() for cell in lines[0][1]]
    told = (*_ALIKE, "design_sha256")
    for column in ("design", "accuracy", "seed", *told):
        number = header.count(column)
        if number > 1 or (number == 0 and column in ("design", "accuracy")):
            said = "is there twice" if number else f"is missing among {', '.join(header)}"
            raise InputError(
                f"{path}: column {column} {said}; must have design and accuracy, and may have seed, each once"
            )
    found = []
    for row, line in lines[1:]:
        if len(line) != len(header):
            raise InputError(f"{path}: row {row} has {len(line)} cells; must have {len(header)} like the header")
        cells = dict(zip(header, (cell.strip() for cell in line), strict=True))
        if not cells["design"] or "\0" in cells["design"]:
            said = "has a null character" if cells["design"] else "is empty"
            raise InputError(f"{path}: row {row}: design {said}; must be the path of a design.json")
        seed, accuracy = _seed(path, row, cells.get("seed", "")), _accuracy(path, row, cells["accuracy"])
        facts = {column: cells[column] for column in told if column in cells}
        found.append(Run(row, cells["design"], seed, accuracy, facts))
    if not found:
        raise InputError(f"{path}: has no rows; must have one for every run")
    return found


def _require_same(path: Path, column: str, one: Run, other: Run, allowed: str) -> None:
    values = [run.facts.get(column) for run in (one, other)]
    if values[0] != values[1]:
        raise InputError(
            f"{path}: {column} = {values[0] or 'nothing'} in row {one.row} and {values[1] or 'nothing'} in row "
            f"{other.row}{allowed}"
        )


def _seed(path: Path, row: int, text: str) -> int | None:
    if not text:
        return None
    try:
        # A spreadsheet may write 0 as 0.0.
        return int(text.removesuffix(".0"))
    except ValueError:
        raise InputError(f"{path}: row {row}: seed = {text}: must be an integer, or empty") from None


def _accuracy(path: Path, row: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= PERCENT:
        raise InputError(f"{path}: row {row}: accuracy = {text}: must be a number from 0 to 1, or up to 100 in percent")
    return value


def _unit(path: Path, runs: Sequence[Run]) -> float:
    percent = [run for run in runs if run.accuracy > 1]
    if not percent:
        return 1.0
    for run in runs:
        if run.accuracy <= 1:
            raise InputError(
                f"{path}: row {run.row}: accuracy = {run.accuracy:g}: is at most 1, and {percent[0].accuracy:g} in row "
                f"{percent[0].row} is not; must all be from 0 to 1, or all above 1 and in percent; write fractions"
            )
    return PERCENT


def _path_of(design: Design, spec: Spec, where: str) -> Choices:
    """The choices of a design; raise :class:`InputError` where they are none of the spec's."""

    def require(holds: Any, key: str, value: object, allowed: object) -> None:
        if not holds:
            raise InputError(f"{where}: {key} = {value}: must be {allowed} in {spec.source}")

    given: tuple[tuple[str, object, object], ...] = (
        ("resolution", design.resolution, spec.input.resolution),
        ("image channels", design.image_channels, spec.input.channels),
        ("classes", design.classes, spec.input.classes),
        ("frames", design.frames, spec.input.frames),
        ("number of stages", len(design.stages), len(spec.stages)),
        ("tail", "none" if design.tail is None else "there", "none" if spec.tail is None else "there"),
    )
    for key, value, allowed in given:
        require(value == allowed, key, value, allowed)
    channels = 0
    for own, segment in zip(design.segments, spec.segments, strict=True):
        facts = {"block": (own.block, segment.block), "stride": (own.stride, segment.stride)}
        facts |= {
            f"temporal {key}": (getattr(own.time, key), getattr(segment.time, key)) for key in ("kernel", "stride")
        }
        for key, (value, allowed) in facts.items():
            require(value == allowed, f"{segment.name}: {key}", value, allowed)
        if segment.kind == "stem":
            require(own.kernel == segment.kernel, "stem: kernel", own.kernel[0], segment.kernel[0])
        for axis, domain in segment.domains.items():
            value = own.domains[axis][0]
            require(value in domain, f"{segment.name}: {axis}", value, _one_of(domain))
        c, m = own.channels[0], own.mid[0]
        if segment.ruled:
            rules = "at least" if spec.space.monotone else "any"
            if spec.space.growth is not None:
                rules += f" and at most {spec.space.growth:g} times"
            allowed = f"{rules} the {channels} before it"
            require(spec.space.follows(channels, c), f"{segment.name}: channels", c, allowed)
            low, high = spec.space.mid_ratio or (0.0, math.inf)
            require(spec.space.carries(m, c), f"{segment.name}: mid", m, f"{low:g} to {high:g} times its {c} channels")
        channels = c
    return design.path


def _one_of(domain: Sequence[int]) -> str:
    shown = [*map(str, domain)] if len(domain) <= 12 else [*map(str, domain[:3]), "...", str(domain[-1])]
    return f"one of {', '.join(shown)}" if len(domain) > 1 else shown[0]
