"""The exact front of a spec: its proven optimum at every point of a grid of budgets.

Points are solved in chains (chain.py), from the largest limits to the smallest, so that every point of a chain but the
first has a neighbour whose limits are no smaller: its tree, at new limits, is where the search goes on, its bound is a
bound, and a walk from its design finds the first incumbent (docs/fronts.md). What is known after each point is
written, and read again by whoever repeats the sweep.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mad_ip import __version__, _called
from mad_ip.catalogue import raw_options
from mad_ip.chain import Chain, Lost, Place, Settings, Solved, chains, larger, side_by_side
from mad_ip.design import Design, violations
from mad_ip.errors import InputError
from mad_ip.files import finite, locked, make_folder, read_bytes, read_json, write_atomically
from mad_ip.front import Front, Point, Price, limited, reported
from mad_ip.keys import THREADS
from mad_ip.solve import NoDesignError, Report
from mad_ip.spec import Budget, Spec

__all__ = ["Interrupted", "grid", "sweep"]

FORMAT = "mad-ip/sweep/2"
FRONT, DESIGNS, PAGE, STATE, TREES = "front.csv", "designs", "index.html", ".sweep.json", ".trees"

_POINTS = 10_000
"""Points of a sweep at most."""

_LONGEST = 200
"""Characters of a point's name at most."""

_LARGEST_TREE = 1 << 30
"""Bytes of a tree that is read again at most."""

_MUCH = 1_000_000
"""Options, over all points that are left, from which on several processes are worth their start."""


class Interrupted(NoDesignError):  # noqa: N818 - no error
    """A sweep was stopped from outside; what it has is its ``front``, and written."""

    def __init__(self, message: str, front: Front) -> None:
        super().__init__(message)
        self.front = front


def grid(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The limits that ``KEY=FIRST:LAST:NUMBER`` or ``KEY=LIMIT,LIMIT,...`` name, ascending, in units of their costs.

    ``NUMBER`` limits are equally far from each other. Limits on whole numbers are rounded down, which changes no
    optimum, and one that is named twice counts once. Raise :class:`InputError` for a text that says nothing else.
    """
    found: dict[str, tuple[float, ...]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        if key not in Budget.keys():  # noqa: SIM118 (no mapping)
            raise InputError(f"--over = {text}: {key!r} is no budget; must be one of {', '.join(Budget.keys())}")
        if key in found:
            raise InputError(f"--over = {text}: {key} is swept twice; each budget must be named once")
        if ":" in values:
            parts = values.split(":")
            number = int(parts[-1]) if len(parts[-1]) < 9 and parts[-1].isascii() and parts[-1].isdigit() else 0
            if len(parts) != 3 or not 1 <= number <= _POINTS:
                raise InputError(
                    f"--over = {text}: must be {key}=FIRST:LAST:NUMBER with a number of points from 1 to {_POINTS:,}"
                )
            first, last = (_limit(text, key, part) for part in parts[:2])
            if first > last or (first == last) != (number == 1):
                raise InputError(
                    f"--over = {text}: must have its first limit below its last and at least 2 points, or 1 point of "
                    "one limit"
                )
            limits = np.linspace(first, last, number).tolist()
        else:
            limits = [_limit(text, key, part) for part in values.split(",")]
        found[key] = _different(key, limits)
    if not found:
        raise InputError("--over is missing: must name a budget and its limits, such as macs=200e6:2e9:20")
    if math.prod(map(len, found.values())) > _POINTS:
        raise InputError(f"--over: {math.prod(map(len, found.values())):,} points; must be at most {_POINTS:,}")
    return found


def _different(key: str, limits: Iterable[float]) -> tuple[float, ...]:
    """The limits that differ for a budget, ascending: between whole numbers there is nothing."""
    return tuple(sorted({limit if key == "effectiveness" else float(limit // 1 or limit) for limit in limits}))


def _limit(text: str, key: str, part: str) -> float:
    """A limit on a budget in its cost's unit."""
    value: Any = part.strip()
    with contextlib.suppress(ValueError):
        value = float(value)
    declared = Budget.declared()[key].value
    if not declared.accepts(value):
        raise InputError(f"--over = {text}: {part!r} is no limit; must be {declared.allowed}")
    return float(declared.convert(value))


def sweep(
    spec: Spec,
    over: Mapping[str, Sequence[float]],
    *,
    out: Path | str | None = None,
    gap: float = 1e-6,
    time_limit: float = math.inf,
    threads: int = 1,
    seed: int = 0,
    cluster: str | None = None,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Front:
    """The front of a spec over every combination of the limits ``over``, by budget, in the units of their costs.

    The result does not depend on ``threads``, which long sweeps share among processes, each with points of its own, nor
    on the workers of a ``cluster`` (a Dask scheduler's address), which are given one point after another. With
    ``out``, a folder, what was proven is written after every point, and a sweep that was stopped goes on from there to
    the same front. ``time_limit`` is in seconds for each point; one that is not proven within it is solved again by a
    sweep with more. All else is as in :func:`mad_ip.solve.solve`.

    Raises:
        InputError: a limit, or the folder, which must be new or hold this very sweep.
        Interrupted: it was stopped, or lost a process; the front of the points before is in ``out``.
    """
    return _Sweep(spec, over, out, gap, time_limit, threads, seed, cluster, watch, interrupted).run()


@dataclass
class _Sweep:
    """A run of :func:`sweep`, whose arguments come first."""

    spec: Spec
    over: Mapping[str, Sequence[float]]
    out: Path | str | None
    gap: float
    time_limit: float
    threads: int
    seed: int
    cluster: str | None
    watch: Callable[[Report], None] | None
    interrupted: Callable[[], bool]

    def __post_init__(self) -> None:
        self.wished = False
        self.keys = tuple(key for key in Budget.keys() if key in self.over)  # noqa: SIM118 (no mapping)
        if len(self.keys) < len(self.over) or not self.over or not all(self.over.values()):
            allowed = ", ".join(Budget.keys())
            raise InputError(
                f"over = {dict(self.over)!r}: must have limits of at least one of {allowed}, and no other key"
            )
        for name, value, fits, allowed in (
            ("gap", self.gap, 0 <= self.gap <= 1, "a number of at least 0 and at most 1"),
            ("threads", self.threads, 1 <= self.threads <= THREADS, f"from 1 to {THREADS}"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295"),
        ):
            if not fits:
                raise InputError(f"--{name} = {value}: must be {allowed}")
        for key in self.keys:
            for limit in self.over[key]:
                if not (finite(limit) and limit > 0):
                    raise InputError(f"over: {key} = {limit!r}: must be a finite number greater than 0")
        # From the largest limits down.
        self.limits = [_different(key, self.over[key])[::-1] for key in self.keys]
        self.places = list(itertools.product(*(range(len(limits)) for limits in self.limits)))
        self.specs = {place: limited(self.spec, self._given(place)) for place in self.places}
        self.names = {place: _name(self._given(place)) for place in self.places}
        longest = max(self.names.values(), key=len)
        if len(longest) > _LONGEST:
            raise InputError(f"over: {longest[:40]}...: is no name of a file; must have limits of fewer digits")
        self.settings = Settings(self.gap, self.time_limit, self.threads, self.seed, self.cluster)
        self.chains = chains(self.specs)
        self.recorded: set[Place] = set()

    def _given(self, place: Place) -> dict[str, float]:
        return {key: limits[at] for key, limits, at in zip(self.keys, self.limits, place, strict=True)}

    def run(self) -> Front:
        if self.out is None:
            return self._run()
        folder = Path(self.out)
        self._require_folder(folder)
        with locked(folder / ".lock") as free:
            if not free:
                raise InputError(f"--out = {folder}: another sweep is at work there; must be another folder")
            self._resume(folder)
            return self._run()

    def _run(self) -> Front:
        left = [chain for chain in self.chains if chain.left(self.time_limit)]
        points = {place for chain in left for place in chain.left(self.time_limit)}
        much = len(points) * raw_options(self.specs[self.places[0]]) > _MUCH
        processes = min(self.threads, len(left)) if much and self.cluster is None else 1
        run = self._one_by_one(left) if processes == 1 else self._side_by_side(left, processes)
        why = "stopped"
        try:
            with contextlib.closing(run):
                for place in run:
                    points.discard(place)
                    self._write(place)
        except Lost:
            why = "a process ended without a result"
        # Those that were ruled out, too.
        self._write()
        solved = self._solved
        points = {place for place in points if place not in solved or not solved[place].suffices(self.time_limit)}
        if points:
            raise Interrupted(
                f"{why} after {len(self.places) - len(points)} of {len(self.places)} points"
                + ("" if self.out is None else f"; the same command again goes on there, from {self.out}"),
                self.front,
            )
        return self.front

    def _one_by_one(self, left: Sequence[Chain]) -> Generator[Place, None, None]:
        for chain in left:
            self._rule_out(chain)
            yield from chain.run(self.settings, self._follow, self._stopped)
            if self._stopped():
                return

    def _side_by_side(self, left: Sequence[Chain], processes: int) -> Generator[Place, None, None]:
        return side_by_side(left, self.settings, processes, self._follow, self._stopped, self._rule_out)

    def _rule_out(self, chain: Chain) -> None:
        """Take the points of a chain for infeasible which are so within larger limits."""
        known = self._solved
        for place in chain.left(self.time_limit):
            for other in larger(place):
                if other in known and known[other].status == "infeasible":
                    chain.solved[place] = known[place] = known[other]

    def _follow(self, place: Place, report: Report) -> None:
        if self.watch is not None:
            number = self.places.index(place) + 1
            self.watch(dataclasses.replace(report, phase=f"{number}/{len(self.places)} {self.names[place]}"))

    @property
    def _solved(self) -> dict[Place, Solved]:
        return {place: found for chain in self.chains for place, found in chain.solved.items()}

    def _stopped(self) -> bool:
        """Whether the user wants to stop, or wanted to: what was found then is not all that there is."""
        self.wished = self.wished or self.interrupted()
        return self.wished

    @property
    def front(self) -> Front:
        """The points so far, by ascending limits."""
        solved = self._solved
        return Front(
            self.spec,
            self.keys,
            tuple(self._point(place, solved) for place in reversed(self.places) if place in solved),
        )

    def _point(self, place: Place, solved: Mapping[Place, Solved]) -> Point:
        done, spec = solved[place], self.specs[place]
        prices = tuple(self._price(place, key, solved) for key in spec.budget.given) if done.design is not None else ()
        return Point(self.names[place], spec, done.status, done.design, done.bound, prices)

    def _price(self, place: Place, key: str, solved: Mapping[Place, Solved]) -> Price:
        slopes: list[float | None] = [None, None]
        if key in self.keys:
            axis = self.keys.index(key)
            for side, step in enumerate((1, -1)):
                other = (*place[:axis], place[axis] + step, *place[axis + 1 :])
                slopes[side] = self._slope(place, other, axis, solved)
        return Price(key, solved[place].multipliers.get(key), *slopes)

    def _slope(self, place: Place, other: Place, axis: int, solved: Mapping[Place, Solved]) -> float | None:
        """Difference of two proven optima, over that of their limits."""
        pair = [solved.get(place), solved.get(other)]
        scores = [done.design.metrics.score for done in pair if done and done.status == "optimal" and done.design]
        if min(other) < 0 or len(scores) < 2:
            return None
        limits = [self.limits[axis][at[axis]] for at in (place, other)]
        # No slope is minus zero.
        return (scores[0] - scores[1]) / (limits[0] - limits[1]) + 0.0

    @property
    def _identity(self) -> dict[str, Any]:
        """What makes two sweeps the same."""
        return {
            "version": __version__,
            "spec_sha256": limited(self.spec, {}).sha256,
            "over": {key: list(limits) for key, limits in zip(self.keys, self.limits, strict=True)},
            "gap": self.gap,
            "seed": self.seed,
        }

    def _require_folder(self, folder: Path) -> None:
        """Raise :class:`InputError` unless the folder is new or a sweep's."""
        if not (folder / STATE).exists():
            if any((folder / name).exists() for name in (FRONT, DESIGNS, PAGE)):
                raise InputError(f"--out = {folder}: holds what no sweep left there; must be a new folder or a sweep's")
            make_folder("--out", folder)

    def _resume(self, folder: Path) -> None:
        """Read what an earlier run of the sweep left."""
        path = folder / STATE
        if not path.exists():
            # First of all, so that whatever is cut can be gone on with.
            self._save_state()
            return
        try:
            content: Any = read_json(path, proof=True)
            digest = content.pop("sha256", None)
            found = {key: content[key] for key in ("format", *self._identity)}
            for key, value in {"format": FORMAT, **self._identity}.items():
                if found[key] != value:
                    raise InputError(f"--out = {folder}: holds a sweep of another {key}; must be another folder")
            if digest != _digest(_encoded(content)):
                raise ValueError("edited")
            chain_of = {place: chain for chain in self.chains for place in chain.specs}
            for place, record in zip(self.places, content["points"], strict=True):
                if record is not None:
                    chain_of[place].solved[place] = self._read(place, record)
                    self.recorded.add(place)
            for axis, at, tree in content["trees"]:
                chain = chain_of[tuple(at)]
                chain.heads.append((axis, tuple(at)))
                chain.trees[tuple(at)] = None if tree is None else self._read_tree(tree)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not what a sweep leaves ({error!r}); the folder must be removed") from None

    def _read_tree(self, name: str) -> bytes:
        path = self._tree(name)
        content = read_bytes(path, _LARGEST_TREE)
        if _digest(content) != name:
            raise InputError(f"{path}: not the tree that the sweep left there; the folder must be removed")
        return content

    def _read(self, place: Place, record: dict[str, Any]) -> Solved:
        design = None
        if record["design"]:
            path = self._place(place, "json")
            design = Design.load(path)
            if _digest(design.to_json().encode()) != record["design"] or violations(self.specs[place], design):
                raise InputError(f"{path}: not the design that the sweep left there; the folder must be removed")
        bound, seconds = (math.inf if record[key] is None else record[key] for key in ("bound", "seconds"))
        if record["status"] == "infeasible":
            bound = -math.inf
        return Solved(record["status"], bound, seconds, record["multipliers"], design)

    def _place(self, place: Place, suffix: str) -> Path:
        assert self.out is not None
        return Path(self.out) / DESIGNS / f"{self.names[place]}.{suffix}"

    def _tree(self, name: str) -> Path:
        assert self.out is not None
        return Path(self.out) / TREES / name

    def _write(self, place: Place | None = None) -> None:
        """Write the design of a new point with its spec, then the front, and last what says that all of it is there."""
        if self.out is None:
            return
        folder = Path(self.out)
        make_folder("--out", folder / DESIGNS)
        design = None if place is None else self._solved[place].design
        if place is not None and design is not None:
            if place in self.recorded:
                # Cut now, it has neither the old design nor the new one.
                self._save_state(without=place)
            write_atomically(self._place(place, "toml"), self.specs[place].to_toml().encode())
            design.save(self._place(place, "json"))
        write_atomically(folder / FRONT, table(self.front).encode())
        self._save_state()

    def _save_state(self, without: Place | None = None) -> None:
        assert self.out is not None
        solved = {place: found for place, found in self._solved.items() if place != without}
        known = {at: tree for chain in self.chains for at, tree in chain.trees.items() if at in solved}
        names = {at: None if tree is None else _digest(tree) for at, tree in known.items()}
        for at, tree in known.items():
            name = names[at]
            if tree is not None and name is not None and not self._tree(name).exists():
                make_folder("--out", self._tree(name).parent)
                write_atomically(self._tree(name), tree)
        content = {
            "format": FORMAT,
            **self._identity,
            "points": [_record(solved.get(place)) for place in self.places],
            "trees": [[axis, at, names[at]] for chain in self.chains for axis, at in chain.heads if at in names],
        }
        content["sha256"] = _digest(_encoded(content))
        write_atomically(Path(self.out) / STATE, _encoded(content))
        self.recorded = set(solved)
        # Also what a sweep that was killed had no more use for.
        for path in self._tree("").glob("?" * 64):
            if path.name not in names.values():
                path.unlink(missing_ok=True)
        if not any(names.values()):
            with contextlib.suppress(OSError):
                self._tree("").rmdir()


def _record(done: Solved | None) -> dict[str, Any] | None:
    if done is None:
        return None
    return {
        "status": done.status,
        "bound": done.bound if math.isfinite(done.bound) else None,
        "seconds": done.seconds if math.isfinite(done.seconds) else None,
        "multipliers": done.multipliers,
        "design": None if done.design is None else _digest(done.design.to_json().encode()),
    }


def table(front: Front) -> str:
    """front.csv: the rows of a front, with the place of each design."""
    text = io.StringIO()
    keys = list(front.points[0].spec.budget.given) if front.points else []
    columns = [*keys, "score", "bound", "status", "design", *(f"price_{key}" for key in keys)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for point, row in zip(front.points, front.rows(), strict=True):
        writer.writerow({**row, "design": None if point.design is None else f"{DESIGNS}/{point.name}.json"})
    return text.getvalue()


def _encoded(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _name(limits: Mapping[str, float]) -> str:
    return "_".join(f"{key}-{reported(key, limit)}" for key, limit in limits.items())


_called(__name__)
