"""Designs to train: spread over what a spec allows and near its budgets, and the proven optima of several rho_0.

1. Walkers start at random architectures that keep the rules of [space]: widths are uniform in the logarithm, kernels
   and depths over their values. A small space is listed instead.
2. A random walk takes them into the shell: the architectures that keep every limit and spend at least ``fill`` of
   every budget on a sum. A step changes one to three choices. It is taken by Metropolis' rule at a falling temperature,
   for an energy, the logarithms by which budgets are passed or missed, and a prior that is uniform in the logarithms
   of widths. Once cold, the walk goes on within the shell; what it visits there now and then is the pool.
3. From the pool designs are chosen greedily by the criterion of maximum projection (Joseph, Gul, Ba: Biometrika 102,
   2015), which spreads them in each choice, and in any few together: the next has the least sum over those chosen of
   ``1 / prod_l sqrt(x_l^2 + 0.01)``, where ``x_l`` are differences in ln c, ln m, k, L of every segment and in ln rho,
   each in units of its range over the pool. The first is the pool's most central.

Up to 128 designs nothing in it depends on how many are asked for: more of them are the same and some further ones.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mad_ip import entropy
from mad_ip.catalogue import check_range
from mad_ip.design import Design, violations
from mad_ip.errors import InputError, InternalError
from mad_ip.files import make_folder, write_atomically
from mad_ip.search import Floats, Integers, Population
from mad_ip.solve import InfeasibleError, NoDesignError, Report, solve
from mad_ip.spec import Budget, Spec

__all__ = ["INDEX", "require_same", "sample", "save", "shares"]

INDEX = "index.csv"

_LISTED = 1 << 19
"""Combinations of values up to which a space is listed."""

_CHUNK = 1 << 16
"""Combinations measured at a time."""

_POOL = 20_000
"""Designs that are chosen from, of a space that is listed."""

_WALKERS = 512
_PER_DESIGN = 4
"""Walkers, and the fewest for every design that is asked for."""

_STEPS = 3000
_COLD = 2000
_VISIT = 100
"""Steps of the walk, the one from which it is cold, and how many apart its places are kept from there on."""

_HOTTEST, _COLDEST = 0.5, 0.003
"""Temperatures, in units of the logarithm by which a budget is passed or missed."""

_ROUNDING = 1e-12
"""Added to the logarithm of an excess, which may round to 0."""

_CHARGE = 10.0
"""Charge that keeps the limits where budgets cannot be spent together."""

_NEAR = 0.01
"""What is added to squared differences, so that equal choices are bad but no worse than that."""

_HALVINGS = 4
"""Default values of rho_0: the spec's own limit and what halving it leads to."""

Booleans = NDArray[np.bool_]


class _Measured(NamedTuple):
    """Of every row: its energy, 0 in the shell and infinite where it breaks a rule; rho; and ``common``.

    ``common`` is the least share that it spends of a budget on a sum, 0 where it passes some limit.
    """

    energy: Floats
    rho: Floats
    common: Floats

    def where(self, mask: Booleans, other: _Measured) -> _Measured:
        """The values of ``other`` where ``mask`` is true, else one's own."""
        return _Measured(*(np.where(mask, there, here) for here, there in zip(self, other, strict=True)))


@dataclass(frozen=True)
class _Shell:
    """The architectures of a spec that spend at least ``fill`` of every budget on a sum, as rows of genes.

    ``charge`` is what the energy counts for the logarithm by which a limit is passed, where 1 counts for a miss.
    """

    spec: Spec
    fill: float
    charge: float = 1.0

    @cached_property
    def population(self) -> Population:
        return Population(self.spec)

    @cached_property
    def free(self) -> Integers:
        """The genes that have a choice."""
        return np.flatnonzero(self.population.sizes > 1)

    @cached_property
    def scales(self) -> list[Floats]:
        """The values of every gene as coordinates: widths in the logarithm."""
        genes = enumerate(self.population.genes)
        return [np.log(values) if gene % 4 < 2 else values.astype(float) for gene, values in genes]

    def measure(self, rows: Integers) -> _Measured:
        spec, found = self.spec, self.population.measure(rows)
        passed, missed, common = np.zeros(len(rows)), np.zeros(len(rows)), np.ones(len(rows))
        limits = spec.budget.enforced
        for key, amount in found.spent.items():
            limit = limits[key]
            share = np.maximum(amount, 1) / limit
            passed += np.where(amount > limit, np.log(share) + _ROUNDING, 0.0)
            if key in spec.budget.sums:
                missed += np.where(amount < self.fill * limit, np.log(self.fill / share) + _ROUNDING, 0.0)
                common = np.minimum(common, amount / limit)
        bound = spec.budget.effectiveness
        if bound is not None:
            over = found.rho > bound * (1 + entropy.EFFECTIVENESS_TOLERANCE)
            passed += np.where(over, np.log(np.maximum(found.rho, bound)) - math.log(bound) + _ROUNDING, 0.0)
        broken = found.broken > 0
        energy = np.where(broken, np.inf, self.charge * passed + missed)
        return _Measured(energy, found.rho, np.where(broken | (passed > 0), 0.0, common))

    def prior(self, rows: Integers) -> Floats:
        """Logarithm of the density that a walk without budgets would have."""
        total = np.zeros(len(rows))
        for gene in self.free:
            if gene % 4 < 2:
                total -= self.scales[gene][rows[:, gene]]
        return total

    def starts(self, number: int, generator: np.random.Generator) -> Integers:
        """Random rows that keep the rules."""
        spec, segments, genes = self.spec, self.spec.segments, self.population.genes
        rows = np.zeros((number, len(genes)), np.int64)
        for gene, size in enumerate(self.population.sizes):
            rows[:, gene] = generator.integers(0, size, number)
        onwards = self._onwards()
        for s, segment in enumerate(segments):
            c, m = 4 * s, 4 * s + 1
            allowed = np.broadcast_to(onwards[s], (number, len(genes[c])))
            place = generator.random(number)
            if segment.ruled:
                before = genes[c - 4][rows[:, c - 4]]
                allowed = allowed & spec.space.follows(before[:, None], genes[c])
            if spec.space.monotone and segment.kind != "tail":
                # The least of as many random places as there are widths to come, none of which may be smaller.
                place = 1 - place ** (1 / sum(later.kind != "tail" for later in segments[s:]))
            rows[:, c] = _nearest(self.scales[c], allowed, place)
            if segment.ruled:
                allowed = spec.space.carries(genes[m], genes[c][rows[:, c], None])
                rows[:, m] = _nearest(self.scales[m], allowed, generator.random(number))
        return rows

    def _onwards(self) -> list[Booleans]:
        """For every segment, the channels from which the rules leave a way to the end."""
        space, segments, genes = self.spec.space, self.spec.segments, self.population.genes
        found: list[Booleans] = []
        for s, segment in reversed(list(enumerate(segments))):
            c, m = genes[4 * s], genes[4 * s + 1]
            open_ = space.carries(m, c[:, None]).any(axis=1) if segment.ruled else np.ones(len(c), bool)
            if s + 1 < len(segments) and segments[s + 1].ruled:
                open_ = open_ & (space.follows(c[:, None], genes[4 * s + 4]) & found[0]).any(axis=1)
            found.insert(0, open_)
        return found

    def coordinates(self, rows: Integers, rho: Floats) -> Floats:
        """A column for every gene that has a choice, and one for rho, each scaled to its range."""
        columns = [self.scales[gene][rows[:, gene]] for gene in self.free]
        points = np.stack([*columns, np.log(np.maximum(rho, _ROUNDING))], axis=1)
        reach = np.ptp(points, axis=0)
        return np.asarray((points - points.min(axis=0)) / np.where(reach > 0, reach, 1.0))


def sample(
    spec: Spec,
    number: int,
    *,
    fill: float = 0.95,
    effectiveness: Sequence[float] = (),
    seed: int = 0,
    watch: Callable[[Report], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    accept: Callable[[Design], object] = lambda design: None,
) -> list[Design]:
    """``number`` different designs of a spec, named: ``random-01`` and so on, then ``optimum-0.1`` for rho_0 = 0.1.

    The random ones spend at least the share ``fill`` of every budget on a sum; budgets on maxima and the effectiveness
    are limits that they keep. The optima are those of :func:`mad_ip.solve.solve` with ``budget.effectiveness`` set to
    each value of ``effectiveness``, whatever they spend; of values that have the same optimum it is named by the least.
    The random designs are bounded by the largest of the values. Without values, they are bounded by the spec's own
    limit, and there are optima of it, its half, its quarter and its eighth, as far as the pool has designs within
    these, and for at most a quarter of the designs; of a spec without a limit, one ``optimum``. A random design that
    is one of the optima is left out, and its number with it.

    Equal arguments give equal designs, but for the seconds of certificates. Their ``spec_sha256`` is that of the spec
    they are feasible or proven for: with another effectiveness, that of the spec's own text with it.

    Args:
        spec: Its space and budgets.
        number: Designs in all, at least 1 and at least as many as values of ``effectiveness``.
        fill: Above 0, at most 1.
        effectiveness: Values of rho_0, each above 0.
        seed: Of the random designs; of a small space, which is listed, it decides nothing.
        watch: Is told of progress.
        interrupted: Is asked now and then whether to stop.
        accept: Is given every design as soon as it is known, the random ones within seconds; may raise.

    Raises:
        InputError: When an argument is out of range, or the budgets cannot be spent so far by so many designs.
        InfeasibleError: When a value of ``effectiveness`` is.
        NoDesignError: When it was interrupted.
    """
    values = sorted(set(effectiveness))
    _check(number, fill, values)
    check_range(spec)
    relaxed = _limited(spec, values[-1]) if values else spec
    began = time.perf_counter()

    def pulse() -> None:
        if interrupted():
            raise NoDesignError(f"{spec.source}: stopped before all designs were found")
        if watch is not None:
            watch(Report("random walk", -math.inf, math.inf, time.perf_counter() - began))

    shell = _Shell(relaxed, fill)
    rows, rho = _pool(shell, number, np.random.default_rng(seed), pulse)
    asked: list[float | None] = [*values] or _default_values(spec, number, float(rho.min()))
    _require(shell, len(rows), number - len(asked))
    ordered = _random_designs(shell, spec, rows, _projecting(shell.coordinates(rows, rho)))
    randoms = list(itertools.islice(ordered, number - len(asked)))
    for design in randoms:
        accept(design)

    optima: list[Design] = []
    for value in asked:
        best = _optimum(spec, value, watch, interrupted)
        if best.path not in [other.path for other in optima]:
            accept(best)
            optima.append(best)

    taken = {design.path for design in optima}
    randoms = [design for design in randoms if design.path not in taken]
    others = (design for design in ordered if design.path not in taken)
    for design in itertools.islice(others, number - len(optima) - len(randoms)):
        accept(design)
        randoms.append(design)
    _require(shell, len(randoms), number - len(optima))
    return randoms + optima


def _check(number: int, fill: float, values: Sequence[float]) -> None:
    for value in values:
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"--effectiveness = {value}: must be a finite number greater than 0")
    least = max(1, len(values))
    if number < least:
        each = ", one for each --effectiveness" if values else ""
        raise InputError(f"--number = {number}: must be at least {least}{each}")
    if not 0 < fill <= 1:
        raise InputError(f"--fill = {fill}: must be greater than 0 and at most 1")


def _limited(spec: Spec, value: float | None) -> Spec:
    """The spec with another limit on the effectiveness."""
    if value == spec.budget.effectiveness:
        return spec
    return dataclasses.replace(spec, budget=Budget(effectiveness=value, **dict(spec.budget.limits)), sha256="")


def _default_values(spec: Spec, number: int, reached: float) -> list[float | None]:
    """Ascending values of rho_0 for ``number`` designs, none below the one ``reached``."""
    limit = spec.budget.effectiveness
    values: list[float | None] = [None]
    if limit is not None:
        values = [value for times in range(_HALVINGS) if (value := limit / 2**times) >= reached]
    return values[: number // 4][::-1]


def _optimum(
    spec: Spec, value: float | None, watch: Callable[[Report], None] | None, interrupted: Callable[[], bool]
) -> Design:
    name = "optimum" if value is None else f"optimum-{value:.12g}"

    def follow(report: Report) -> None:
        if watch is not None:
            watch(dataclasses.replace(report, phase=f"{name}, {report.phase}"))

    try:
        best = solve(_limited(spec, value), watch=follow, interrupted=interrupted)
    except InfeasibleError as error:
        raise InfeasibleError(f"--effectiveness = {value}: {error}") from None
    if best.certificate is None or best.certificate.status != "optimal":
        raise NoDesignError(f"{spec.source}: stopped before {name} was proven")
    return dataclasses.replace(best, name=name)


def _require(shell: _Shell, found: int, number: int) -> None:
    """Raise :class:`InputError` when fewer designs were found than are needed."""
    if found < number:
        raise InputError(
            f"{shell.spec.source}: only {found} random designs that spend at least {shell.fill:g} of every budget "
            f"were found and {number} are needed; --number or --fill must be smaller"
        )


def _random_designs(shell: _Shell, spec: Spec, rows: Integers, order: Iterator[int]) -> Iterator[Design]:
    """The designs of rows in an order, by their number in it, checked in exact integers."""
    for number, row in enumerate(order, start=1):
        path = shell.population.path(rows[row])
        problem = spec
        design = Design.chosen(spec, path)
        if violations(spec, design):
            # It is more effective than the spec itself allows.
            problem = shell.spec
            design = Design.chosen(problem, path)
        found = violations(problem, design)
        found += [key for key, limit in spec.budget.sums.items() if design.spent(key) < shell.fill * limit]
        if found:
            raise InternalError(f"a random design is not what was measured: {'; '.join(found)}")
        yield dataclasses.replace(design, name=f"random-{number:02}")


def _pool(
    shell: _Shell, number: int, generator: np.random.Generator, pulse: Callable[[], None]
) -> tuple[Integers, Floats]:
    """Different rows in the shell, and the rho of each; raise :class:`InputError` where none was found."""
    listed = math.prod(shell.population.sizes.tolist()) <= _LISTED
    walkers = max(_WALKERS, _PER_DESIGN * number)

    def visited(shell: _Shell) -> Iterator[tuple[Integers, _Measured]]:
        return _all(shell, pulse) if listed else _walk(shell, walkers, generator, pulse)

    inside = [(rows[now.energy == 0], now.rho[now.energy == 0]) for rows, now in visited(shell)]
    rows, rho = (np.concatenate(parts) for parts in zip(*inside, strict=True))
    found, first = np.unique(rows, axis=0, return_index=True)
    if len(found) == 0:
        strict = dataclasses.replace(shell, charge=_CHARGE)
        common = max(float(now.common.max()) for _, now in visited(strict))
        found_instead = (
            f"the largest share that one was found to spend of each is {math.floor(common * 1e4) / 1e4:g}, "
            "--fill must be lower"
            if common > 0
            else f"none was found within all limits ({_limits(shell.spec)})"
        )
        raise InputError(f"{shell.spec.source}: no design spends {shell.fill:g} of every budget: {found_instead}")
    most = max(_POOL, _PER_DESIGN * number)
    kept = np.sort(generator.permutation(len(found))[:most])
    return found[kept], rho[first][kept]


def _limits(spec: Spec) -> str:
    return ", ".join(f"{key} {limit:.12g}" for key, limit in spec.budget.given.items())


def _all(shell: _Shell, pulse: Callable[[], None]) -> Iterator[tuple[Integers, _Measured]]:
    """All rows."""
    sizes = shell.population.sizes
    total = math.prod(sizes.tolist())
    for start in range(0, total, _CHUNK):
        pulse()
        rows = np.stack(np.unravel_index(np.arange(start, min(total, start + _CHUNK)), sizes), axis=1)
        yield rows, shell.measure(rows)


def _walk(
    shell: _Shell, walkers: int, generator: np.random.Generator, pulse: Callable[[], None]
) -> Iterator[tuple[Integers, _Measured]]:
    """Where walkers are, now and then, once they are cold."""
    here = shell.starts(walkers, generator)
    now, weight = shell.measure(here), shell.prior(here)
    for step in range(_STEPS):
        pulse()
        temperature = _HOTTEST * (_COLDEST / _HOTTEST) ** min(1.0, step / _COLD)
        there = _moved(shell, here, generator)
        then, other = shell.measure(there), shell.prior(there)
        gain = other - weight + (now.energy - then.energy) / temperature
        taken = generator.random(walkers) < np.exp(np.minimum(gain, 0.0))
        here, now = np.where(taken[:, None], there, here), now.where(taken, then)
        weight = np.where(taken, other, weight)
        if step >= _COLD and (step + 1) % _VISIT == 0:
            yield here, now


def _moved(shell: _Shell, rows: Integers, generator: np.random.Generator) -> Integers:
    """Rows with one to three choices changed, by steps of a random magnitude up to half of the domain.

    A step and the one back are equally likely: what would leave a domain stays where it is.
    """
    sizes, free, number = shell.population.sizes, shell.free, len(rows)
    moved = rows.copy()
    changes = generator.integers(1, 4, number)
    for change in range(3):
        gene = free[generator.integers(0, len(free), number)]
        reach = np.ceil(sizes[gene] / 2 * 2.0 ** -generator.uniform(0, 7, number)).astype(np.int64)
        step = generator.integers(1, reach + 1) * np.where(generator.random(number) < 0.5, -1, 1)
        moved[np.arange(number), gene] += step * (change < changes)
    inside = np.all((moved >= 0) & (moved < sizes), axis=1, keepdims=True)
    return np.where(inside, moved, rows)


def _nearest(scale: Floats, allowed: Booleans, place: Floats) -> Integers:
    """For every row, the allowed value nearest to a place between the least (0) and the largest (1) of them."""
    least = np.where(allowed, scale, np.inf).min(axis=1)
    largest = np.where(allowed, scale, -np.inf).max(axis=1)
    away = np.abs(scale - (least + place * (largest - least))[:, None])
    return np.asarray(np.where(allowed, away, np.inf).argmin(axis=1))


def _projecting(points: Floats) -> Iterator[int]:
    """The points in the order of maximum projection."""
    cost = np.zeros(len(points))
    point = int(np.abs(points - points.mean(axis=0)).sum(axis=1).argmin())
    while math.isfinite(cost[point]):
        yield point
        cost += np.exp(-0.5 * np.log((points - points[point]) ** 2 + _NEAR).sum(axis=1))
        cost[point] = np.inf
        point = int(cost.argmin())


def require_same(folder: Path, design: Design) -> bool:
    """Whether the file of a design is there; raise :class:`InputError` where it holds another design."""
    path = _place(folder, design)
    if not path.exists():
        return False
    if _structure(Design.read(path)) != _structure(design):
        raise InputError(
            f"--out = {folder}: {path.name} in it is another design; must be a new folder, or this sample's"
        )
    return True


def save(designs: Sequence[Design], spec: Spec, folder: Path) -> None:
    """Write the designs that are not there, and then the index of all of them.

    ``index.csv`` has a row for each: its file's name, macs, params, effectiveness, layers, entropy, and the share that
    it spends of each of the spec's budgets. Raise :class:`InputError` where a file holds another design or cannot be
    written.
    """
    present = [require_same(folder, design) for design in designs]
    make_folder("--out", folder)
    for design, there in zip(designs, present, strict=True):
        if not there:
            design.save(_place(folder, design))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = ("macs", "params", "effectiveness", "layers", "entropy")
    writer.writerow(["design", *keys, *(f"{key}_share" for key, _ in spec.budget.limits)])
    for design in designs:
        measured = [getattr(design.metrics, key) for key in keys]
        writer.writerow([_place(folder, design).name, *measured, *shares(spec, design).values()])
    write_atomically(folder / INDEX, text.getvalue().encode())


def shares(spec: Spec, design: Design) -> dict[str, float]:
    """What a design spends of every budget but the effectiveness."""
    return {key: design.spent(key) / limit for key, limit in spec.budget.limits}


def _place(folder: Path, design: Design) -> Path:
    return folder / f"{design.name}.json"


def _structure(design: Design) -> dict[str, Any]:
    """What is written of a design, but for what was proven about it and how long that took."""
    content: dict[str, Any] = json.loads(design.to_json())
    return {key: value for key, value in content.items() if key not in ("certificate", "verification")}
