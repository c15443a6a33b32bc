"""The mixed-integer program of a spec as a file for other solvers, a start for them, and what its columns mean.

Variables and constraints keep their names in :mod:`mad_ip.formulation`: the column ``x_3_17`` is ``x[3,17]``, option 17
of segment 3. MPS files are written by HiGHS, LP and NL files by Pyomo. The objective is the score, constants included,
and is maximised in all of them.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mad_ip import __version__
from mad_ip.backends.base import Problem, compile_named
from mad_ip.design import Design
from mad_ip.errors import InputError, InternalError
from mad_ip.files import read_json
from mad_ip.processes import Parent, started
from mad_ip.reader import Reader
from mad_ip.solve import Program
from mad_ip.spec import Choice, Spec

__all__ = ["FORMAT", "ModelFiles", "decoded", "format_of", "model_files"]

FORMAT = "mad-ip/model-columns/1"
"""The format of the file that says what the columns mean."""

_CHOICE = ("c", "m", "k", "L")
"""What an option chooses, in the symbols of docs/formulation.md."""

_ONE = "ONE_VAR_CONSTANT"
"""The column, fixed at 1, by which Pyomo writes the constant of an objective to an LP file."""


@dataclass(frozen=True)
class ModelFiles:
    """The contents of the files; ``start`` is empty where the model has it inside. ``summary`` says what is in it."""

    model: bytes
    start: bytes
    names: bytes
    summary: str


def format_of(kind: str | None, path: Path) -> str:
    """The format named, else that of a file's name; raise :class:`InputError` where it is none of mps, lp and nl."""
    found = path.suffix.removeprefix(".") if kind is None else kind
    if found in _WRITERS:
        return found
    allowed = f"must be one of {', '.join(_WRITERS)}"
    if kind is not None:
        raise InputError(f"--format = {kind}: {allowed}")
    raise InputError(f"--out = {path}: its name says no format; --format {allowed}")


def model_files(program: Program, kind: str) -> ModelFiles:
    """Write a program, and what belongs to it, in one of the formats mps, lp and nl."""
    # Of the names that a spec may have, some would end the comment that Pyomo puts them in.
    program.formulation.model.name = "mad_ip"
    about = _about(program)
    header = [
        f"mad-ip {__version__}: the mixed-integer program of {json.dumps(program.start.name)}, "
        f"spec_sha256 {program.start.spec_sha256}.",
        "Maximise; the objective is the score, (2.1) of docs/formulation.md.",
        *about,
    ]
    model, columns = _WRITERS[kind](program, header)
    start = b"" if kind == "nl" else _start(program, columns, constant=kind == "lp")
    return ModelFiles(model, start, _names(program, columns), " ".join(about))


def decoded(spec: Spec, names: Path | str, values: Mapping[str, float]) -> Design:
    """The design of a solution: ``values`` by the names of columns, those left out being 0.

    ``names`` is the file that was written with the model. Raises :class:`InputError` when it is not that of a model of
    ``spec``, or when the solution takes no option of some segment.
    """
    reader = Reader(str(names), read_json(names), None, noun="JSON object")
    reader.choice("format", [FORMAT])
    if reader.text("spec_sha256") != spec.sha256:
        raise reader.fail("spec_sha256", f"that of {spec.source}, {spec.sha256}")
    taken: dict[str, Choice] = {}
    for column in reader.tables("columns", None):
        # Of the options of a segment one is at 1 and the others at 0, up to a solver's tolerance.
        if column.text("variable") == "x" and values.get(column.text("name"), 0.0) > 0.5:
            taken[column.text("segment")] = Choice(*(column.integer(key, least=0) for key in _CHOICE))
    for segment in spec.segments:
        if segment.name not in taken:
            raise InputError(f"{names}: the solution takes no option of {segment.name}; must be one of this model")
    return Design.chosen(spec, tuple(taken[segment.name] for segment in spec.segments))


def _label(component: Any) -> str:
    """The name of a variable or a constraint that every format allows."""
    index = component.index()
    parts = index if isinstance(index, tuple) else () if index is None else (index,)
    return "_".join([component.parent_component().local_name, *map(str, parts)])


def _about(program: Program) -> list[str]:
    """What is in the model and what is not, one sentence a line."""
    number, score = len(program.formulation.catalogue), program.start.metrics.score
    if math.isfinite(program.bound):
        options = [
            f"{number:,} of {program.options:,} options, those that branch and bound leaves.",
            f"No design with one of the others scores above {program.bound!r}: "
            "an optimum of this model is one of the spec only together with this bound.",
        ]
    else:
        options = [
            f"{number:,} of {program.options:,} undominated options.",
            "No design with one of the others is within the budgets: an optimum of this model is one of the spec.",
        ]
    return [*options, f"The start scores {score!r}; designs that score less may be left out."]


def _start(program: Program, columns: Sequence[Any], *, constant: bool) -> bytes:
    """The start in MIPLIB's format of solutions: what is not 0, by name."""
    lines = [f"=obj= {program.start.metrics.score!r}", *([f"{_ONE} 1.0"] if constant else [])]
    lines += [f"{_label(column)} {float(column.value)!r}" for column in columns if column.value]
    return ("\n".join(lines) + "\n").encode()


def _names(program: Program, columns: Sequence[Any]) -> bytes:
    """A JSON object with what every column means, in their order, one a line."""
    start = program.start
    head = {"format": FORMAT, "name": start.name, "spec_sha256": start.spec_sha256}
    lines = ",\n".join(json.dumps({"name": _label(column), **_meaning(program, column)}) for column in columns)
    return f'{json.dumps(head)[:-1]}, "columns": [\n{lines}\n]}}\n'.encode()


def _meaning(program: Program, variable: Any) -> dict[str, Any]:
    """The segment, and the choices where there are some, that a variable is about."""
    segments = program.formulation.catalogue.segments
    name, index = variable.parent_component().local_name, variable.index()
    if name == "q":
        return {"variable": name}
    if name == "v":
        assert program.formulation.window is not None
        return {"variable": name, "spread": program.formulation.window.spreads[index]}
    if name == "w":
        return {"variable": name, "segments": [segments[s].segment.name for s in index]}
    s, place = index if isinstance(index, tuple) else (index, None)
    options = segments[s]
    about: dict[str, Any] = {"variable": name, "segment": options.segment.name}
    if name == "x":
        axes = (options.c_in, options.c, options.mid, options.kernel, options.depth)
        return about | {key: int(axis[place]) for key, axis in zip(("c_in", *_CHOICE), axes, strict=True)}
    if name in ("y", "F"):
        first = options.starts[place]
        return about | {"c_in": int(options.c_in[first]), "c": int(options.c[first])}
    chosen = {"z": "L", "S": "c"}
    return about | ({chosen[name]: place} if name in chosen else {})


def _mps(program: Program, header: Sequence[str]) -> tuple[bytes, list[Any]]:
    problem, columns, rows = compile_named(program.formulation.model, start=False)
    task = problem, list(map(_label, columns)), list(map(_label, rows))
    # HiGHS greets on standard output, which is the command's.
    with started(_write_mps, task) as process:
        try:
            content: bytes = process.receive()
        except EOFError:
            raise InternalError("HiGHS's process ended without an MPS file") from None
    return "".join(f"* {line}\n" for line in header).encode() + content, columns


def _write_mps(task: tuple[Problem, list[str], list[str]], parent: Parent) -> None:
    """The process: one file."""
    from mad_ip.backends.highs import write_mps

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.mps")
        write_mps(*task, path)
        parent.send(path.read_bytes())


def _lp(program: Program, header: Sequence[str]) -> tuple[bytes, list[Any]]:
    from pyomo.repn.plugins.lp_writer import LPWriter

    text = io.StringIO()
    model = program.formulation.model
    LPWriter().write(model, text, labeler=_label, symbolic_solver_labels=True)
    _, columns, _ = compile_named(model, start=False)
    return ("".join(f"\\ {line}\n" for line in header) + text.getvalue()).encode(), columns


def _nl(program: Program, header: Sequence[str]) -> tuple[bytes, list[Any]]:
    from pyomo.repn.plugins.nl_writer import NLWriter

    text = io.StringIO()
    written = NLWriter().write(program.formulation.model, text, linear_presolve=False)
    return text.getvalue().encode(), list(written.variables)


_WRITERS: dict[str, Callable[[Program, Sequence[str]], tuple[bytes, list[Any]]]] = {"mps": _mps, "lp": _lp, "nl": _nl}
"""Every format: its content, under a header where it has comments, and the variables in the order of its columns."""
