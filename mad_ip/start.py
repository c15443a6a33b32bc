"""A first spec.toml, commented: around budgets, or around a network that exists (``mad-ip init``).

The space is that of a family of blocks on grids as fine as the zoo's. What a table of the file may hold and what its
keys mean comes from their declarations (:data:`mad_ip.spec.KEYS`).
"""

from __future__ import annotations

import dataclasses
import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mad_ip.device import BOARDS, Device
from mad_ip.errors import InputError
from mad_ip.keys import REQUIRED, Key
from mad_ip.spec import FAMILIES, KEYS, Budget, Spec, toml_value

__all__ = ["CLASSES", "FAMILY", "RESOLUTION", "Frame", "around", "commented", "first", "frame", "reachable", "table_of"]

RESOLUTION, CLASSES, FAMILY = 224, 1000, "inverted"
"""What is taken where nothing is asked for."""

_STEPS = (8, 4)
"""Widths are multiples of the first, as accelerators like them; of the second in networks of few MACs."""

_LIMITS = (0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0)
"""Limits on the effectiveness, from the paper's on."""

_SMALLEST_MAP = 8
"""Pixels of a side from which on a map is not halved any more."""

_HALVINGS = 5
"""Halvings at most, the stem's among them: 224 pixels become 7."""

_LARGE = 10e6
"""Parameters from which on stages are as wide and as deep as those of the zoo's large networks."""


_READABLE = 10_000
"""Numbers up to here need no underscores."""


@dataclass(frozen=True)
class _Grid:
    """The largest channels, inner width and depth of a stage, small networks' and large ones'."""

    channels: tuple[int, int]
    mid: tuple[int, int]
    depth: tuple[int, int]
    space: Mapping[str, Any]
    tail: bool = False
    effectiveness: float = _LIMITS[0]


_INVERTED = _Grid((512, 2048), (1536, 3072), (10, 20), {"growth": 3, "mid_ratio": [1, 6]}, True, _LIMITS[1])

_GRIDS = {
    "basic": _Grid((1024, 2048), (1024, 2048), (16, 20), {"growth": 4, "mid_ratio": [0.5, 2]}),
    "bottleneck": _Grid((2048, 2048), (512, 1024), (20, 20), {}),
    "inverted": _INVERTED,
    "inverted_se": _INVERTED,
}
"""By family, as in the zoo's specs: bottlenecks without rules on neighbours, as in the paper."""


@dataclass(frozen=True)
class Frame:
    """What a first spec takes as given: input, family, strides, and whether there is a tail."""

    name: str
    family: str
    resolution: int
    stem_stride: int
    strides: tuple[int, ...]
    tail: bool
    stem_kernel: int = 3
    image_channels: int = 3
    classes: int = 1000


def first(
    path: Path,
    budget: Mapping[str, Any],
    *,
    like: str | None = None,
    device: str | None = None,
    resolution: int | None = None,
    family: str | None = None,
    classes: int | None = None,
    name: str | None = None,
) -> str:
    """The text of a first spec.toml that is to be written to ``path``.

    ``budget`` holds limits by their keys; around a network, ``like``, what it lacks of MACs and parameters is the
    network's own. ``device`` is a board's name or the path of a device.toml. What is ``None`` has a default or is the
    network's. Raises :class:`InputError` where no such spec has a design.
    """
    if like is None:
        family, resolution = family or FAMILY, resolution or RESOLUTION
        given = frame(f"{family}-{resolution}", family, resolution, CLASSES if classes is None else classes)
    else:
        given, costs = around(like, resolution, family)
        budget = {**budget, **{key: cost for key, cost in costs.items() if budget.get(key) is None}}
        given = given if classes is None else dataclasses.replace(given, classes=classes)
    given = given if name is None else dataclasses.replace(given, name=name)
    if device is not None and device not in BOARDS:
        # Names the boards where it is none.
        Device.named(device)
        device = os.path.relpath(device, path.parent)
    table = reachable(given, budget, device, str(path))
    origin = "budgets" if like is None else like
    return commented(table, f"A first spec, from {origin}; docs/spec.md has every key. mad-ip solve {path} solves it.")


def frame(name: str, family: str, resolution: int, classes: int) -> Frame:
    """The frame of a family at a resolution: halved down to 5 to 8 pixels, five times at most.

    From four halvings on the stem is the first of them. Raises :class:`InputError` naming an option that is not
    possible.
    """
    require_family(family)
    number, size = 0, float(resolution)
    while number < _HALVINGS and size > _SMALLEST_MAP:
        number, size = number + 1, size / 2
    product = 2**number
    if resolution < 1 or resolution % product:
        below = resolution // product * product
        near = " and ".join(str(size) for size in (below, below + product) if size > 0)
        raise InputError(
            f"--resolution = {resolution}: must be a multiple of {product}, as {near} are, to be halved {number} times"
        )
    stem = number >= _HALVINGS - 1
    # One stage at the stem's own resolution for blocks that are cheap there, and two at the last but one.
    opening = () if stem and family in ("basic", "bottleneck") else (1,)
    halved = (2,) * (number - stem)
    strides = (*opening, *halved[:-1], 1, *halved[-1:]) if len(halved) > 2 else (*opening, *halved)
    return Frame(name, family, resolution, 1 + stem, strides, _GRIDS[family].tail, classes=classes)


def require_family(family: str) -> None:
    """Raise :class:`InputError` unless there is such a family."""
    if family not in FAMILIES:
        raise InputError(f"--family = {family}: must be one of {', '.join(FAMILIES)}")


def around(name: str, resolution: int | None = None, family: str | None = None) -> tuple[Frame, dict[str, float]]:
    """The frame and the costs of a network: a design.json, or what :func:`mad_ip.networks.score.load` takes.

    Its strides, family, input and classes; MACs and parameters at its own resolution unless another is given. Raises
    :class:`InputError` where no spec has such strides.
    """
    if family is not None:
        require_family(family)
    if name.endswith(".json"):
        return _like_design(name, resolution, family)
    from mad_ip.networks import score
    from mad_ip.scoring import outline

    module, own = score.load(name)
    measured, classes = score.survey(module, name=name, resolution=resolution or own)
    found = outline(measured)
    given = Frame(
        name=f"like-{name.rpartition(':')[2]}",
        family=family or found.family,
        resolution=measured.resolution,
        stem_stride=found.stem.stride,
        strides=found.strides,
        tail=found.tail is not None,
        # An even kernel has no middle; the next larger one covers it.
        stem_kernel=found.stem.kernel | 1,
        image_channels=measured.image_channels,
        classes=classes,
    )
    return given, {"macs": measured.macs, "params": measured.params}


def _like_design(path: str, resolution: int | None, family: str | None) -> tuple[Frame, dict[str, float]]:
    from mad_ip.design import Design
    from mad_ip.kinds import require_cnn
    from mad_ip.scoring import of_design

    require_cnn(path)
    design = Design.load(path)
    if design.frames is not None:
        raise InputError(f"{path}: is a network for clips of {design.frames} frames; must be one for images")
    measured = of_design(design, resolution=resolution)
    block = design.stages[-1].block
    given = Frame(
        name=f"like-{design.name or Path(path).stem}",
        family=family or (block if block in FAMILIES else "inverted"),
        resolution=measured.resolution,
        stem_stride=design.stem.stride,
        strides=tuple(stage.stride for stage in design.stages),
        tail=design.tail is not None,
        stem_kernel=design.stem.kernel,
        image_channels=design.image_channels,
        classes=design.classes,
    )
    return given, {"macs": measured.macs, "params": measured.params}


def table_of(
    given: Frame, budget: Mapping[str, Any], device: str | None = None, step: int = _STEPS[0]
) -> dict[str, Any]:
    """The parsed spec.toml of a frame within budgets, by their keys; those that are ``None`` are left out.

    ``device`` is the name of a board, or the path of a device.toml from where the spec.toml is. Widths are multiples of
    ``step``; with finer ones the largest is smaller.
    """
    grid = _GRIDS[given.family]
    large = (budget.get("params") or math.inf) > _LARGE

    def widths(most: int) -> dict[str, int]:
        return {"min": step, "max": most * step // _STEPS[0], "step": step}

    size = given.resolution // given.stem_stride
    stages = []
    for stride in given.strides:
        size //= stride
        stages.append(
            {
                "block": given.family,
                "stride": stride,
                "channels": widths(grid.channels[large]),
                "mid": widths(grid.mid[large]),
                "kernel": [kernel for kernel in (3, 5) if kernel <= size] or [1],
                "depth": {"min": 1, "max": grid.depth[large]},
            }
        )
    table: dict[str, Any] = {
        "name": given.name,
        "convention": Spec.convention,
        "input": {"resolution": given.resolution, "channels": given.image_channels, "classes": given.classes},
        "budget": _ordered(budget, Budget.keys()),
        "space": grid.space,
        "stem": {"kernel": given.stem_kernel, "stride": given.stem_stride, "channels": widths(128 if large else 64)},
        "stage": stages,
    }
    if device is not None:
        table["device"] = device if device in BOARDS else {"latency": device}
    if given.tail:
        table["tail"] = {"channels": {"min": 64, "max": 2048, "step": 64}}
    return _ordered(table, KEYS)


def reachable(given: Frame, budget: Mapping[str, Any], device: str | None, source: str) -> dict[str, Any]:
    """The parsed spec.toml of a frame, as :func:`table_of` makes it, of which a search finds a design.

    It has the first limit on the effectiveness that allows one, from what suits the family on, unless the budget names
    a limit; and widths in steps of 8, of 4 where networks of multiples of 8 are too large. Raises :class:`InputError`
    when a value is not allowed, and when no design is found.
    """
    own = budget.get("effectiveness")
    limits = [own] if own is not None else [limit for limit in _LIMITS if limit >= _GRIDS[given.family].effectiveness]
    for step in _STEPS:
        for limit in limits:
            table = table_of(given, {**budget, "effectiveness": limit}, device, step)
            spec = Spec.from_table(table, source=source)
            excess = _excess(spec)
            if excess:
                break
            if _has_design(spec):
                return table
    within = ", ".join(f"budget.{key}" for key in spec.budget.given)
    raise InputError(excess or f"{source}: no network of this form is found within {within}; one must be larger")


def _excess(spec: Spec) -> str:
    """What is said of a budget that no architecture meets, whatever it takes of the others.

    The least of a sum is exact; that of a maximum is taken to be the narrowest network's.
    """
    import numpy as np

    from mad_ip.decomposition.least import least
    from mad_ip.search import Population

    population = Population(spec)
    narrowest = population.measure(np.zeros_like(population.sizes)[None]).spent
    for key, limit in spec.budget.limits:
        smallest = least(spec, key) if key in spec.budget.sums else int(narrowest[key][0])
        if smallest > limit:
            from mad_ip.solve import amount

            return (
                f"{spec.source}: budget.{key} = {amount(key, limit)}: no network of this form takes less than "
                f"{amount(key, smallest)}; must be at least that"
            )
    return ""


def _has_design(spec: Spec) -> bool:
    from mad_ip import decomposition
    from mad_ip.lagrangian.workers import threads

    with threads(1) as workers:
        return bool(decomposition.optimise(spec, workers, gap=math.inf, most=0).paths)


def _ordered(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values that there are, in the order of their names."""
    return {name: values[name] for name in names if values.get(name) not in (None, {})}


def commented(table: Mapping[str, Any], head: str) -> str:
    """The text of a spec.toml, every key explained where it comes first; ``head`` is the comment on top."""
    sections = {name: list(KEYS[name].value.tables(content)) for name, content in table.items()}
    plain = {name: content for name, content in table.items() if not sections[name]}
    lines = [*_comment(head), "", *_lines(plain, KEYS)]
    for name, found in sections.items():
        header = f"[[{name}]]" if isinstance(table[name], list) else f"[{name}]"
        for number, (_, part, keys) in enumerate(found):
            explained = number == 0
            lines += ["", *(_comment(KEYS[name].meaning) if explained else ()), header]
            lines += _lines(part, keys if explained else {})
    return "\n".join(lines) + "\n"


def _lines(table: Mapping[str, Any], keys: Mapping[str, Key]) -> Iterator[str]:
    """The keys of a table, after a comment where they are declared."""
    for name, value in table.items():
        if name in keys:
            default = keys[name].otherwise or keys[name].default
            otherwise = "" if default in (None, REQUIRED) else f"; default: {_value(default).strip(chr(34))}"
            allowed = keys[name].value.allowed.replace("{key}", name)
            yield from _comment(f"{keys[name].described}: {allowed}{otherwise}")
        yield f"{name} = {_value(value)}"


def _comment(sentence: str) -> list[str]:
    return textwrap.wrap(sentence[0].upper() + sentence[1:], 118, initial_indent="# ", subsequent_indent="# ")


def _value(value: Any) -> str:
    """In TOML, whole numbers with underscores, a table in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer():
        return f"{int(value):_}" if abs(value) >= _READABLE else str(int(value))
    return toml_value(value)
