"""Profiles of devices: which layers a spec needs, the model fitted to their times, how well it predicts.

``mad-ip device profile`` measures layers of random designs of a spec and some of those designs as a whole, and fits one
affine model to both at once, of coefficients that are not negative (:func:`fit`, docs/devices.md). Layers and networks
of their own, not used for the fit, say how good it is.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from mad_ip import blocks, cost
from mad_ip.design import Design
from mad_ip.device import FEMTOSECONDS, FORMAT, Affine, Device, Lookup, Operation, Rate, Row
from mad_ip.errors import InputError
from mad_ip.files import read_toml, write_atomically
from mad_ip.search import Population
from mad_ip.spec import Path as Architecture
from mad_ip.spec import Spec, toml_lines

if TYPE_CHECKING:
    from mad_ip.networks.timing import Runtime

__all__ = [
    "DEVICE",
    "Comparison",
    "Errors",
    "Measured",
    "Profile",
    "Progress",
    "compared",
    "errors",
    "fit",
    "grid",
    "layers",
    "load_spec",
    "networks",
    "predicted",
    "profile",
]

DEVICE = Device("", activation_bytes=4, weight_bytes=4, channel_bytes=4)
"""What the runtimes that are timed here compute with: 32-bit numbers, and a bias of 32 bits for every channel."""

Floats = NDArray[np.float64]

_FLOOR = 2_000.0
"""Nanoseconds below which a layer's error is not relative any more: profiles tick in microseconds."""

_DRAWN = 4096
"""Random architectures of which the networks of a profile are taken."""

_TURNS = 40
"""How often that many are drawn before a spec counts as one whose budgets nothing random meets."""


@dataclass(frozen=True)
class Errors:
    """How far predictions are from measurements: R2, mean and largest absolute error in percent, rank correlation.

    ``number`` of them; what cannot be told of so few is NaN.
    """

    number: int
    r2: float
    mape: float
    worst: float
    spearman: float


@dataclass(frozen=True)
class Measured:
    """Nanoseconds of one layer or network, made of ``operations``; ``held`` where it was not used for the fit."""

    name: str
    operations: tuple[Operation, ...]
    nanoseconds: float
    held: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a profile is: ``done`` of ``total`` of what the phase measures, ``seconds`` since it began."""

    phase: str
    done: int
    total: int
    seconds: float

    @property
    def left(self) -> float:
        """Seconds that the phase is still going to take, NaN before anything is done."""
        return self.seconds * (self.total - self.done) / self.done if self.done else math.nan


@dataclass(frozen=True)
class Profile:
    """A profiled device, what was measured on it, and where and how (the table [measured] of device.toml)."""

    device: Device
    layers: tuple[Measured, ...]
    networks: tuple[Measured, ...]
    measured: Mapping[str, str | int | float]

    def errors_of(self, items: Iterable[Measured]) -> Errors:
        """Of the device's predictions; of layers that take less than the clock can tell, there are none."""
        found = [item for item in items if _is_network(item) or item.nanoseconds >= _FLOOR]
        return errors([item.nanoseconds for item in found], predicted(self.device, found))

    def to_toml(self) -> str:
        """The device.toml text."""
        content = {"format": FORMAT, **self.device.content(), "measured": dict(self.measured)}
        return "\n".join(toml_lines("", content)) + "\n"

    def save(self, path: Path | str) -> None:
        """Write device.toml atomically; raise :class:`InputError` when the place cannot be written."""
        write_atomically(path, self.to_toml().encode())


@dataclass(frozen=True)
class Comparison:
    """A network measured twice, and what a device says of it, ``None`` without a device; in nanoseconds."""

    name: str
    repeats: tuple[float, ...]
    predicted: float | None

    @property
    def measured(self) -> float:
        """The mean of the repeats."""
        return math.fsum(self.repeats) / len(self.repeats)

    @property
    def noise(self) -> float:
        """How far the repeats are apart, in percent of their mean."""
        return 100 * (max(self.repeats) - min(self.repeats)) / self.measured

    @property
    def off(self) -> float | None:
        """How far the prediction is from what was measured, in percent of it."""
        return None if self.predicted is None else 100 * (self.predicted / self.measured - 1)


def compared(design: Design, device: Device | None, runtime: Runtime) -> Comparison:
    """Measure a design's network on this machine beside its prediction; raise :class:`InputError` for missing times."""
    foretold = None
    if device is not None:
        if device.latency is None:
            raise InputError(f"--device = {device.name}: has no table [latency]; must have one")
        foretold = cost.COSTS["latency"].reported(design.on(device).spent("latency"))
    from mad_ip.networks import timing

    return Comparison(design.name, tuple(timing.measure(design, runtime)), foretold)


def errors(measured: Sequence[float] | Floats, predictions: Sequence[float] | Floats) -> Errors:
    """How far ``predictions`` are from what was ``measured``."""
    y, f = np.asarray(measured, float), np.asarray(predictions, float)
    if not len(y):
        return Errors(0, *[math.nan] * 4)
    off = 100 * np.abs(f - y) / y
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - f) ** 2).sum()) / spread if spread else math.nan
    ranked = len(y) > 2 and len(set(y.tolist())) > 1 and len(set(f.tolist())) > 1
    rank = float(stats.spearmanr(y, f).statistic) if ranked else math.nan
    return Errors(len(y), r2, float(off.mean()), float(off.max()), rank)


def predicted(device: Device, items: Iterable[Measured]) -> list[float]:
    """Nanoseconds by a device's model; the overhead belongs to networks, which have more than one operation."""
    model = device.latency
    assert model is not None
    return [_summed(model, item.operations) + model.start * _is_network(item) / FEMTOSECONDS for item in items]


def _summed(model: Affine | Lookup, operations: Iterable[Operation]) -> float:
    return sum(int(model.of(operation)) for operation in operations) / FEMTOSECONDS


def _is_network(item: Measured) -> bool:
    return len(item.operations) != 1


def load_spec(path: Path | str) -> Spec:
    """A spec without its [device], which may still have no times, and with budgets of MACs, parameters and layers only.

    A network of little effectiveness takes as long as any other, and random ones hardly have more.
    """
    table, _ = read_toml(path)
    budget = table.get("budget")
    if isinstance(budget, Mapping):
        other = {"effectiveness", *(key for key, item in cost.COSTS.items() if item.of_device is not None)}
        table = {**table, "budget": {key: value for key, value in budget.items() if key not in other}}
        if not table["budget"]:
            del table["budget"]
    return Spec.from_table({key: value for key, value in table.items() if key != "device"}, source=str(path))


def networks(spec: Spec, number: int, generator: np.random.Generator) -> list[Design]:
    """Random designs within a spec's budgets, spread over their sizes; raise :class:`InputError` where none is found.

    Widths are drawn on a logarithmic scale below a random limit, so that small networks are among them. A network has
    at least a sixty-fourth of the multiply-accumulates of the largest one found, where there are so many.
    """
    population = Population(spec)
    kept: dict[Architecture, int] = {}
    for _ in range(_TURNS):
        rows = _random_rows(spec, population, generator)
        _, violation = population.evaluate(rows)
        for row in rows[violation == 0]:
            kept.setdefault(population.path(row), 0)
        if len(kept) >= 20 * number:
            break
    if not kept:
        raise InputError(f"{spec.source}: no random architecture of the space is within the budgets; must be wider")
    here = dataclasses.replace(spec, device=DEVICE)
    designs = [Design.chosen(here, path) for path in list(kept)[: 6 * number]]
    designs.sort(key=lambda design: design.metrics.macs)
    # On a logarithmic scale, from a sixty-fourth of the largest.
    macs = np.array([design.metrics.macs for design in designs], float)
    places = np.searchsorted(macs, np.geomspace(max(macs[0], macs[-1] / 64), macs[-1], number))
    # Rounding may put the last of them beyond the largest.
    chosen = dict.fromkeys(min(int(place), len(macs) - 1) for place in places)
    for place in range(len(designs) - 1, -1, -1):
        if len(chosen) >= min(number, len(designs)):
            break
        chosen.setdefault(place)
    return [designs[place] for place in sorted(chosen)]


def _random_rows(spec: Spec, population: Population, generator: np.random.Generator) -> NDArray[np.int64]:
    genes = population.genes
    limits = generator.uniform(0.15, 1.0, _DRAWN)
    columns: list[NDArray[np.int64]] = []

    def nearest(domain: NDArray[np.int64], values: Floats) -> NDArray[np.int64]:
        middle = (domain[1:] + domain[:-1]) / 2
        return np.searchsorted(middle, values)

    def drawn(domain: NDArray[np.int64], share: Floats) -> Floats:
        low, high = float(domain[0]), float(domain[-1])
        return np.asarray(low * (high / low) ** (limits * share))

    c: Floats = np.zeros(_DRAWN)
    # Widths of later stages are larger; those of a monotone space have to be.
    shares = np.sort(generator.uniform(size=(_DRAWN, len(spec.segments))), axis=1)
    for number, segment in enumerate(spec.segments):
        channels, mid, kernel, depth = genes[4 * number : 4 * number + 4]
        value = drawn(channels, shares[:, number])
        if segment.ruled:
            value = np.maximum(value, c) if spec.space.monotone else value
            value = np.minimum(value, c * spec.space.growth) if spec.space.growth is not None else value
        columns.append(nearest(channels, value))
        c = channels[columns[-1]].astype(float)
        wide = drawn(mid, generator.uniform(size=_DRAWN))
        if segment.ruled and spec.space.mid_ratio is not None:
            low, high = spec.space.mid_ratio
            wide = c * max(low, 0.1) * (high / max(low, 0.1)) ** generator.uniform(size=_DRAWN)
        columns.append(nearest(mid, wide))
        columns.append(generator.integers(0, len(kernel), _DRAWN))
        columns.append(nearest(depth, drawn(depth, generator.uniform(size=_DRAWN))))
    return np.stack(columns, axis=1)


def layers(spec: Spec, number: int, generator: np.random.Generator, *, plain: bool = True) -> list[Operation]:
    """Up to ``number`` different operations of random designs of a spec: all kinds, strides and resolutions in turn.

    ``plain``: of layers with an activation that is not fused, also those without, as networks of others have them.
    """
    found: dict[tuple[Any, ...], list[Operation]] = {}
    seen: set[Operation] = set()
    for design in networks(spec, max(40, number // 4), generator):
        for operation in design.operations():
            for kind in dict.fromkeys((operation.kind, operation.base) if plain else (operation.kind,)):
                single = operation._replace(kind=kind, present=1)
                if operation.present and single not in seen:
                    seen.add(single)
                    found.setdefault((kind, single.kernel, single.stride, single.size), []).append(single)
    groups = [[group[place] for place in generator.permutation(len(group))] for group in found.values()]
    chosen: list[Operation] = []
    while groups and len(chosen) < number:
        chosen += [group.pop() for group in groups]
        groups = [group for group in groups if group]
    return chosen[:number]


def fit(items: Sequence[Measured], *, networks_weigh: float = 4.0, power: float = 0.75) -> Affine:
    """The model with the least sum of squared errors over layers and networks, no coefficient negative.

    All kinds are fitted at once, as a network's time is a sum over them. Of networks errors are relative, and count as
    ``networks_weigh`` layers' do; of layers, relative to ``time ** power``, since networks are slow for their slow
    layers. A kind with an activation takes what the kind alone does and more, for each and for every byte.
    """
    bases = sorted({operation.base for item in items for operation in item.operations})
    active = sorted({operation.kind for item in items for operation in item.operations} - set(bases))
    columns = {kind: 4 * place for place, kind in enumerate(bases)}
    more = {kind: 4 * len(bases) + 2 * place for place, kind in enumerate(active)}
    matrix = np.zeros((len(items), 4 * len(bases) + 2 * len(active) + 1))
    for row, item in zip(matrix, items, strict=True):
        for operation in item.operations:
            at = columns[operation.base]
            row[at : at + 4] += (1.0, operation.macs, operation.moved, operation.weights)
            if operation.kind in more:
                at = more[operation.kind]
                row[at : at + 2] += (1.0, operation.moved)
        row[-1] = _is_network(item)
    times = np.array([item.nanoseconds for item in items])
    whole = np.array([_is_network(item) for item in items])
    single = np.maximum(times[~whole], _FLOOR)
    typical = float(np.exp(np.log(single).mean())) if len(single) else 1.0
    weights = np.where(
        whole, networks_weigh / np.maximum(times, _FLOOR), (np.maximum(times, _FLOOR) / typical) ** -power / typical
    )
    scaled = matrix * weights[:, None]
    scale = np.maximum(scaled.max(axis=0), 1e-300)
    found, _ = optimize.nnls(scaled / scale, times * weights, maxiter=100 * matrix.shape[1])
    found = found / scale
    rates = {kind: Rate(*map(float, found[at : at + 4])) for kind, at in columns.items()}
    for kind, at in more.items():
        base = rates[kind.partition("+")[0]]
        rates[kind] = dataclasses.replace(
            base, base=base.base + float(found[at]), bytes=base.bytes + float(found[at + 1])
        )
    return Affine(tuple(sorted(rates.items())), overhead=float(found[-1]))


def grid(spec: Spec, points: int = 5) -> list[Operation]:
    """Operations on a grid of widths for a table that is interpolated: every kind, kernel, stride and resolution.

    Along every axis there are all values of the domains, or ``points`` of them on a logarithmic scale, both ends among
    them.
    """
    axes: dict[tuple[str, int, int, int], tuple[set[int], set[int]]] = {}
    for operation in _extremes(dataclasses.replace(spec, device=DEVICE)):
        key = operation.kind, operation.kernel, operation.stride, operation.size
        before, after = axes.setdefault(key, (set(), set()))
        before.add(operation.c_in)
        after.add(operation.c_out)
    found: list[Operation] = []
    for (kind, kernel, stride, size), (before, after) in axes.items():
        if kind.partition("+")[0] in _SAME_WIDTH:
            pairs = [(c, c) for c in _some(before, points)]
        else:
            pairs = list(itertools.product(_some(before, points), _some(after, points)))
        found += [Operation(kind, c_in, 0, c_out, kernel, stride, size) for c_in, c_out in pairs]
    return found


_SAME_WIDTH = ("depthwise", "squeeze-excite", "pool", "add")
"""Kinds with as many channels after as before."""


def _extremes(spec: Spec) -> Iterator[Operation]:
    """Operations in which every value of every domain is, the others as small as they can be."""
    assert spec.device is not None
    for segment in spec.segments:
        domains = segment.sources, segment.channels, segment.mid, segment.kernel
        first = tuple(domain[0] for domain in domains)
        for kernel in segment.kernel:
            for axis, domain in enumerate(domains[:3]):
                for value in domain:
                    widths = [value if place == axis else width for place, width in enumerate(first[:3])]
                    built = (
                        blocks.opening(segment, widths[0], widths[1], widths[2], kernel),
                        blocks.repeated(segment, widths[1], widths[2], kernel),
                        blocks.closing(segment, widths[1]),
                    )
                    for part in built:
                        yield from cost.operations(part, spec.device)


def _some(values: Iterable[int], points: int) -> list[int]:
    ordered = sorted(values)
    if len(ordered) <= points:
        return ordered
    wanted = np.geomspace(ordered[0], ordered[-1], points)
    return sorted({ordered[int(np.abs(np.log(np.array(ordered) / value)).argmin())] for value in wanted})


def profile(
    specs: Sequence[Spec],
    runtime: Runtime,
    *,
    name: str = "",
    number: int = 240,
    whole: int = 16,
    seed: int = 0,
    table: bool = False,
    watch: Callable[[Progress], None] | None = None,
) -> Profile:
    """Measure this machine for the designs of ``specs``, and fit a model or, with ``table``, fill a table.

    Arguments:
        specs: whose layers are measured.
        runtime: what runs them.
        name: of the device; that of the processor by default.
        number: layers of every spec, of which a fifth is held out.
        whole: networks of every spec, of which a quarter is held out.
        seed: of what is drawn.
        table: write the times of a grid of layers, to be interpolated, instead of a model.
        watch: hears of the progress.

    Everything is measured in two passes, of which the faster counts; how far apart they are is the noise.

    Raises :class:`InputError` for a spec of clips, and where no random design is within a spec's budgets.
    """
    for spec in specs:
        if spec.input.frames is not None:
            raise InputError(
                f"{spec.source}: input.frames = {spec.input.frames}: only images are timed; must be left out"
            )
    from mad_ip.networks import timing

    began = time.perf_counter()
    generator = np.random.default_rng(seed)
    designs = [design for spec in specs for design in networks(spec, whole, generator)]
    drawn = (layers(spec, number, generator, plain=not table) for spec in specs)
    operations = list(dict.fromkeys(itertools.chain.from_iterable(drawn)))

    def following(phase: str, total: int) -> Callable[[int], None]:
        start = time.perf_counter()

        def follow(done: int) -> None:
            if watch is not None:
                watch(Progress(phase, done, total, time.perf_counter() - start))

        follow(0)
        return follow

    def twice(phase: str, items: Sequence[Any], measure: Callable[..., list[float]]) -> NDArray[np.float64]:
        # Neighbours that use the same caches slow everything for seconds: what is slow in one pass is not in the other.
        follow = following(phase, 2 * len(items))
        passes = [
            measure(items, runtime, watch=lambda done, before=at: follow(before + done)) for at in (0, len(items))
        ]
        return np.array(passes)

    if table:
        points = list(dict.fromkeys(item for spec in specs for item in grid(spec)))
        times = twice("grid", points, timing.time_operations).min(axis=0)
        rows = [_row(operation, spent) for operation, spent in zip(points, times, strict=True)]
    times = twice("layers", operations, timing.time_operations).min(axis=0)
    held = _held(len(operations), 5, generator)
    if table:
        # What is in the table is no test of it.
        known = {operation[:7] for operation in points}
        held = [out and operation[:7] not in known for operation, out in zip(operations, held, strict=True)]
    single = [Measured(str(o), (o,), float(t), h) for o, t, h in zip(operations, times, held, strict=True)]
    passes = twice("networks", designs, timing.time_designs)
    held = _held(len(designs), 4, generator)
    together = [
        Measured(design.name, _whole(design), float(time), out)
        for design, time, out in zip(designs, passes.min(axis=0), held, strict=True)
    ]
    model: Affine | Lookup
    if table:
        model = Lookup(tuple(dict.fromkeys(rows)), interpolate=True)
        left = [item.nanoseconds - _summed(model, item.operations) for item in together if not item.held]
        model = dataclasses.replace(model, overhead=max(0.0, float(np.median(left))))
    else:
        model = fit([item for item in (*single, *together) if not item.held])
    device = dataclasses.replace(DEVICE, name=name or timing.processor(runtime), latency=model)
    found = Profile(device, tuple(single), tuple(together), {})
    said: dict[str, str | int | float] = {
        "runtime": runtime.name,
        "version": runtime.version,
        "threads": runtime.threads,
        "processor": timing.processor(runtime),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": timing.torch_version(),
        "numpy": np.__version__,
        "specs": ", ".join(spec.name for spec in specs),
        "layers": len(single),
        "networks": len(together),
        "seconds": round(time.perf_counter() - began, 1),
        "noise": round(errors(passes[0], passes[1]).mape, 2),
    }
    for noun, items in (("layer", single), ("network", together)):
        off = found.errors_of(item for item in items if item.held)
        said |= {f"held_{noun}s": off.number}
        for key in ("r2", "mape", "worst", "spearman"):
            value = getattr(off, key)
            if math.isfinite(value):
                said[f"{noun}_{key}"] = round(value, 4 if key in ("r2", "spearman") else 2)
    return dataclasses.replace(found, measured=said)


def _whole(design: Design) -> tuple[Operation, ...]:
    return tuple(operation for operation in design.operations() if operation.present)


def _held(number: int, every: int, generator: np.random.Generator) -> list[bool]:
    """One in ``every``, at random in each ``every`` neighbours; none of fewer."""
    held = [False] * number
    for start in range(0, number - every + 1, every):
        held[start + int(generator.integers(every))] = True
    return held


def _row(operation: Operation, nanoseconds: float) -> Row:
    return Row(*operation[:7], math.ceil(nanoseconds))
