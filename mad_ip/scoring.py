"""What a network that others made is worth: its entropy level by level, and against the proven optimum at its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mad_ip import entropy
from mad_ip.blocks import Layer
from mad_ip.cost import COSTS
from mad_ip.design import Design
from mad_ip.device import Device
from mad_ip.entropy import Level
from mad_ip.errors import InputError
from mad_ip.kinds import require_cnn
from mad_ip.solve import solve
from mad_ip.spec import Budget, Input, Objective, Space, Spec, Stage, Stem, Tail, default_weights

__all__ = [
    "Contribution",
    "Optimum",
    "Outline",
    "Score",
    "against",
    "default_spec",
    "measure",
    "of_design",
    "of_path",
    "outline",
]


_OF_DEVICES = tuple(key for key, cost in COSTS.items() if cost.of_device is not None)


@dataclass(frozen=True)
class Contribution:
    """A level: where a resolution ends, with its channels, counted layers so far, and what it adds to the entropy."""

    resolution: int
    channels: int
    weight: float
    layers: int
    entropy: float


@dataclass(frozen=True)
class Score:
    """A network as measured under a convention: MACs at batch 1, learnable numbers, counted layers, and levels.

    ``device`` is what it takes on one, if asked: bytes of ``activation`` and ``flash``, nanoseconds of ``latency``.
    ``path`` holds the main-path layers of every level, empty for a design. ``profile`` has every level, weighted or
    not, with its resolution and what weight 1 would make of it.
    """

    name: str
    convention: str
    resolution: int
    image_channels: int
    entropy: float
    effectiveness: float
    macs: int
    params: int
    layers: int
    levels: tuple[Contribution, ...]
    frames: int | None = None
    device: dict[str, int] = dataclasses.field(default_factory=dict)
    path: tuple[tuple[Layer, ...], ...] = dataclasses.field(default=(), repr=False)
    gated: bool = False
    profile: tuple[tuple[int, Level], ...] = dataclasses.field(default=(), repr=False)

    def content(self) -> dict[str, Any]:
        """What is printed as JSON."""
        content = dataclasses.asdict(dataclasses.replace(self, path=(), profile=()))
        del content["path"], content["gated"], content["profile"]
        taken = content.pop("device")
        return {**content, **taken}

    def under(self, spec: Spec) -> list[Level]:
        """The levels by the weights of a spec: one by one where they have its resolutions, else by resolution.

        Raises :class:`InputError` when the network has no level at a resolution that the spec weighs.
        """
        levels = [(segment.out_size, segment.weight) for segment in spec.segments]
        if spec.tail is not None:
            # The tail ends the last stage's level.
            levels[-2:] = levels[-1:]
        sizes = [size for size, _ in self.profile]
        if sizes == [size for size, _ in levels]:
            weights = [weight for _, weight in levels]
        else:
            # What ends a resolution has all the weight that the spec gives to it.
            total: dict[int, float] = {}
            for size, weight in levels:
                total[size] = total.get(size, 0.0) + weight
            for size, weight in total.items():
                if weight > 0 and size not in sizes:
                    raise InputError(
                        f"{spec.source}: weights at {size} x {size} pixels, where {self.name} has no level; must be at "
                        f"{', '.join(map(str, dict.fromkeys(sizes)))}"
                    )
            ends = [place == len(sizes) - 1 or sizes[place + 1] != size for place, size in enumerate(sizes)]
            weights = [total.get(size, 0.0) if end else 0.0 for size, end in zip(sizes, ends, strict=True)]
        return [
            dataclasses.replace(level, gain=weight * level.gain, weight=weight)
            for (_, level), weight in zip(self.profile, weights, strict=True)
        ]


@dataclass(frozen=True)
class Optimum:
    """The best design within a network's own MACs, parameters and effectiveness; ``share`` is network over optimum.

    The entropies themselves compete: the depth penalty is 0. ``least`` is the share of the proven bound.
    """

    design: Design
    share: float
    least: float

    @property
    def proven(self) -> bool:
        """Whether the design is proven to be the best."""
        return self.design.certificate is not None and self.design.certificate.status == "optimal"


def of_path(
    name: str,
    path: Sequence[Sequence[Layer]],
    *,
    convention: str,
    resolution: int,
    image_channels: int,
    macs: int,
    params: int,
    gated: bool = False,
) -> Score:
    """The score of main-path layers, given for every resolution from the image on; weights 1 and at the last 8."""
    levels, ends = [], []
    passed: list[Layer] = []
    weights = default_weights([2] * (len(path) - 1))
    for layers, weight in zip(path, weights, strict=True):
        passed += layers
        size, channels = layers[-1].out_size, layers[-1].out_channels
        gain = float(entropy.entropy_gain(weight, size, channels))
        levels.append(Level(entropy.count(passed), entropy.log_width(passed), gain, weight))
        ends.append((size, channels, None))
    return Score(
        path=tuple(tuple(layers) for layers in path),
        gated=gated,
        **_worth(levels, ends, convention),
        name=name,
        resolution=resolution,
        image_channels=image_channels,
        macs=macs,
        params=params,
    )


def of_design(
    design: Design, convention: str | None = None, resolution: int | None = None, device: Device | None = None
) -> Score:
    """The score of a design by its own weights, under its own convention and resolution unless others are given."""
    design = dataclasses.replace(
        design,
        convention=convention or design.convention,
        resolution=resolution or design.resolution,
        # A design's own device has the times of its own layers only.
        device=device or (design.device if resolution in (None, design.resolution) else None),
    )
    metrics = design.measure(0.0)
    channels = [design.stem.channels, *(stage.channels for stage in design.stages)]
    channels[-1] = design.feature_channels
    ends = list(zip(design.resolutions, channels, [time.out_frames for time in design.times], strict=True))
    return Score(
        **_worth(design.levels(), ends, design.convention),
        name=design.name,
        frames=design.frames,
        resolution=design.resolution,
        image_channels=design.image_channels,
        macs=metrics.macs,
        params=metrics.params,
        device={key: int(value) for key, value in metrics.content().items() if key in _OF_DEVICES},
    )


def measure(
    name: str, convention: str | None = None, resolution: int | None = None, device: Device | None = None
) -> Score:
    """The score of the network that a name says: of a design.json, ``torchvision:NAME``, ``timm:NAME`` or
    ``FILE.py:FACTORY``; the convention is the design's own, else the paper's, unless it is given.

    Raises :class:`InputError` for a name that is none of those.
    """
    if name.endswith(".json"):
        require_cnn(name)
        return of_design(Design.load(name), convention, resolution, device)

    from mad_ip.networks import score as tracing

    module, own = tracing.load(name)
    found: Score = tracing.score(module, name=name, resolution=resolution or own, convention=convention or "paper")
    if device is None:
        return found

    from mad_ip.networks.trace_operations import on_device

    measured: Score = on_device(found, module, device)
    return measured


def _worth(levels: Sequence[Level], ends: Sequence[tuple[int, int, int | None]], convention: str) -> dict[str, Any]:
    """What a score says of levels that end with these pixels, channels and frames."""
    factor = entropy.entropy_factor(convention)
    units = [float(entropy.entropy_gain(1.0, *end)) for end in ends]
    return {
        "convention": convention,
        "entropy": entropy.entropy(levels, convention),
        "effectiveness": entropy.effectiveness(levels, convention),
        "layers": levels[-1].depth,
        "levels": tuple(
            Contribution(size, channels, level.weight, level.depth, factor * level.gain * level.log_width)
            for level, (size, channels, _) in zip(levels, ends, strict=True)
            if level.weight > 0 or level is levels[-1]
        ),
        "profile": tuple(
            (size, dataclasses.replace(level, gain=unit, weight=1.0))
            for level, unit, (size, *_) in zip(levels, units, ends, strict=True)
        ),
    }


def against(score: Score, spec: Spec, **options: Any) -> Optimum:
    """The best design of the space of ``spec`` at exactly what the network of ``score`` costs, and the share reached.

    Budgets, convention and depth penalty of the spec are replaced: by the network's own MACs, parameters and
    effectiveness, by its convention, and by 0. The network is measured by the weights of the spec, as the design is.
    ``options`` are those of :func:`mad_ip.solve.solve`, whose errors pass.
    """
    given = _volume(spec.input.channels, spec.input.frames, spec.input.resolution)
    needed = _volume(score.image_channels, score.frames, score.resolution)
    if given != needed:
        raise InputError(
            f"{spec.source}: input of {given}: must be {needed} as for {score.name}, whose cost is the budget"
        )
    levels = score.under(spec)
    worth = entropy.entropy(levels, score.convention)
    effectiveness = entropy.effectiveness(levels, score.convention)
    problem = dataclasses.replace(
        spec,
        convention=score.convention,
        budget=Budget(macs=score.macs, params=score.params, effectiveness=effectiveness or None),
        objective=Objective(0.0),
        sha256="",
    )
    design = solve(problem, **options)
    assert design.certificate is not None
    share = worth / design.metrics.entropy
    # Without a depth penalty the bound on the score is one on the entropy.
    return Optimum(design, share, min(share, worth / design.certificate.bound))


def _volume(channels: int, frames: int | None, resolution: int) -> str:
    return " x ".join(str(size) for size in (channels, frames, resolution, resolution) if size is not None)


@dataclass(frozen=True)
class Outline:
    """What a traced network looks like to a spec: the family of its blocks, its first convolution, the strides of its
    stages with the main-path layers of each, and the 1x1 convolution at its end, if any.
    """

    family: str
    stem: Layer
    strides: tuple[int, ...]
    stages: tuple[tuple[Layer, ...], ...]
    tail: Layer | None


def outline(score: Score) -> Outline:
    """The outline of a traced network, one stage for every resolution.

    The family is ``inverted`` where the k x k convolutions are depthwise (``inverted_se`` with gates), ``bottleneck``
    where 1x1 convolutions make up a third or more of the main path, else ``basic``. Grouped convolutions have no
    counterpart: the space is that of dense ones, whose optimum a network with many groups may exceed. Raises
    :class:`InputError` when the strides have none either.
    """
    if not score.path:
        raise InputError(f"{score.name}: a design has its own spec; name its spec.toml in --against")
    layers = [layer for level in score.path for layer in level]
    stem, *body = layers
    spatial = [layer for layer in body if layer.kernel > 1]
    depthwise = [layer for layer in spatial if layer.groups == layer.in_channels > 1]
    if not spatial:
        raise InputError(f"{score.name}: has no k x k convolution after its first, so no family of blocks fits it")
    if 2 * len(depthwise) > len(spatial):
        family = "inverted_se" if score.gated else "inverted"
    else:
        family = "bottleneck" if 3 * (len(body) - len(spatial)) >= len(body) else "basic"
    parts = [list(level) for level in score.path]
    parts[0] = parts[0][1:]
    # The 1x1 convolutions at the end.
    trailing = len(parts[-1]) - max((n for n, layer in enumerate(parts[-1], start=1) if layer.kernel > 1), default=0)
    tail = parts[-1].pop() if trailing > (family != "basic") else None
    strides: list[int] = []
    size = stem.out_size
    # The first resolution may be the stem's alone.
    parts = [part for number, part in enumerate(parts) if number or any(layer.kernel > 1 for layer in part)]
    for part in parts:
        stride, rest = divmod(size, part[-1].out_size)
        if rest or stride not in (1, 2):
            raise InputError(
                f"{score.name}: from {size} to {part[-1].out_size} pixels: a stage must keep or halve them; "
                f"another --resolution is needed"
            )
        size = part[-1].out_size
        strides.append(stride)
    return Outline(family, stem, tuple(strides), tuple(map(tuple, parts)), tail)


def default_spec(score: Score, classes: int = 1000) -> Spec:
    """A space around a traced network: its :func:`outline`, and grids around its own widths and depths.

    Raises :class:`InputError` where a network has no outline, or no k x k convolution at one of its resolutions.
    """
    found = outline(score)
    stages: list[Stage] = []
    for stride, part in zip(found.strides, found.stages, strict=True):
        size = part[-1].out_size
        wide = [layer for layer in part if layer.kernel > 1]
        if not wide:
            raise InputError(f"{score.name}: no k x k convolution at {size} pixels: no stage fits it")
        depth = max(1, len(wide) // 2 if found.family == "basic" else len(wide))
        stages.append(
            Stage(
                block=found.family,
                stride=stride,
                channels=_around(part[-1].out_channels),
                mid=_around(max(layer.out_channels for layer in wide)),
                kernel=tuple(sorted(k for k in {3, 5, *(layer.kernel for layer in wide)} if k <= size)) or (1,),
                depth=tuple(range(1, 2 * depth + 3)),
                weight=0.0,
            )
        )
    stem, tail = found.stem, found.tail
    weights = default_weights(stage.stride for stage in stages)
    return Spec(
        name=f"{score.name.rpartition(':')[2]}-space",
        convention=score.convention,
        input=Input(score.resolution, score.image_channels, classes),
        space=Space(monotone=True),
        stem=Stem(stem.kernel, stem.stride, _around(stem.out_channels), weights[0]),
        stages=tuple(
            dataclasses.replace(stage, weight=weight) for stage, weight in zip(stages, weights[1:], strict=True)
        ),
        tail=None if tail is None else Tail(_around(tail.out_channels)),
        source=f"default space of {score.name}",
    )


def _around(value: int) -> tuple[int, ...]:
    """Half to twice ``value``, in multiples of 8 (of 1 below 16)."""
    step = 8 if value >= 16 else 1
    return tuple(sorted({max(step, round(value * quarters / (4 * step)) * step) for quarters in (2, 3, 4, 5, 6, 8)}))
