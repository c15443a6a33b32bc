"""spec.toml <-> :class:`Spec`: what is to be designed, validated, errors name the key.

Symbols (docs/formulation.md section 1): stages ``t = 1..M``; ``r_t`` output resolution; ``c_t`` output channels;
``m_t`` inner width; ``k_t`` kernel; ``L_t`` depth in blocks; ``alpha_t`` entropy weight; ``beta`` depth penalty.
A spec whose input has ``frames`` is for clips, and its stem and stages may have a temporal kernel and stride.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from mad_ip import cost, keys, utility
from mad_ip.cost import Cost
from mad_ip.device import BOARDS, LATENCY, Affine, Device, Lookup
from mad_ip.errors import InputError
from mad_ip.files import finite, read_toml, shown, write_atomically
from mad_ip.keys import DEPTHS, SIDES, STAGES, WIDTHS, Key
from mad_ip.reader import Reader
from mad_ip.utility import Term, Utility

__all__ = [
    "CONVENTIONS",
    "FAMILIES",
    "KEYS",
    "Budget",
    "Choice",
    "Domain",
    "Input",
    "Objective",
    "Path",
    "Segment",
    "Space",
    "Spec",
    "Stage",
    "Stem",
    "Tail",
    "Term",
    "Time",
    "Utility",
    "default_weights",
    "segments",
    "times",
    "toml_value",
]

CONVENTIONS = ("paper", "tinynas")
FAMILIES = ("basic", "bottleneck", "inverted", "inverted_se")

TEMPORAL = {"temporal_kernel": (1, 3), "temporal_stride": (1, 2)}
"""Keys that only the stem and the stages of a network for clips have, and the values that they may have."""

Domain = tuple[int, ...]

_NO_CHOICE: Domain = (1,)


LEAST_WEIGHT, LEAST_FACTOR = 1e-3, 1e-12
"""The least weight of an entropy, and the least factor of a part of the score, that is not 0."""

WEIGHT = keys.factor(least=LEAST_WEIGHT, most=1e6)
_PENALTY = keys.factor(least=LEAST_FACTOR, most=1e6)
_SHARE = keys.factor(least=LEAST_FACTOR, most=utility.LARGEST)
_WEIGHS = "weight alpha of the entropy up to here"
_TEMPORAL_KERNEL, _TEMPORAL_STRIDE = (keys.integer(among=among) for among in TEMPORAL.values())


class Choice(NamedTuple):
    """What is decided about a segment; inner width and depth are 1 where there are no blocks."""

    channels: int
    mid: int
    kernel: int
    depth: int


Path: TypeAlias = tuple[Choice, ...]
"""An architecture of a spec, a choice for each of its segments, in forward order."""


@dataclass(frozen=True)
class Input:
    """Square input image, or a clip of ``frames`` of them (``None``: an image); ``classes = 0`` builds no head."""

    resolution: Annotated[int, Key(keys.integer(most=SIDES), "side of the square image", "pixels")]
    channels: Annotated[int, Key(keys.integer(most=WIDTHS), "channels of the image")] = 3
    classes: Annotated[int, Key(keys.integer(least=0, most=WIDTHS), "outputs of the classifier; 0: no head")] = 1000
    frames: Annotated[int | None, Key(keys.integer(most=SIDES), "frames of a clip; without it images")] = None


@dataclass(frozen=True, init=False)
class Budget:
    """Upper limits, by the keys of :data:`mad_ip.cost.COSTS` and ``effectiveness``; every one may be left out.

    A limit is an attribute of its key's name, ``None`` where there is none: ``budget.macs``. It is in the unit of its
    cost, latency in femtoseconds; a text like ``"8 ms"`` or ``"256 kB"`` may give it.
    """

    effectiveness: float | None
    limits: tuple[tuple[str, float], ...]

    def __init__(self, *, effectiveness: float | None = None, **limits: float | str | None) -> None:
        """Raise :class:`TypeError` for a key that is not registered, :class:`InputError` for a text that is none."""
        unknown = limits.keys() - cost.COSTS.keys()
        if unknown:
            raise TypeError(f"{min(unknown)} is no budget; registered are {', '.join(cost.COSTS)}")
        for key, limit in limits.items():
            if isinstance(limit, str):
                limits[key] = cost.COSTS[key].limit(limit)
                if limits[key] is None:
                    raise InputError(f"budget.{key} = {limit!r}: must be {cost.COSTS[key].allowed}")
        given = tuple((key, limit) for key in cost.COSTS if (limit := limits.get(key)) is not None)
        object.__setattr__(self, "effectiveness", effectiveness)
        object.__setattr__(self, "limits", given)

    def __getattr__(self, key: str) -> float | None:
        if key not in cost.COSTS:
            raise AttributeError(f"{type(self).__name__} has no attribute {key!r}")
        return dict(self.limits).get(key)

    @staticmethod
    def keys() -> tuple[str, ...]:
        """The keys that a [budget] may have."""
        first, second, *others = cost.COSTS
        return first, second, "effectiveness", *others

    @classmethod
    def declared(cls) -> Mapping[str, Key]:
        """The keys with what they may hold."""
        meaning = "limit on rho, the depth over the mean width (paper, Proposition 4)"
        effectiveness = Key(keys.number(positive=True), meaning, default=None)
        limits = {key: Key(_limit(key), found.meaning, found.unit, None) for key, found in cost.COSTS.items()}
        names = cls.keys()
        return {key: limits.get(key, effectiveness) for key in names}

    @property
    def enforced(self) -> dict[str, float]:
        """The limits on costs, by key, as whatever computes with them takes them; a user may give any number.

        Costs are whole numbers of at least 1 and below :data:`mad_ip.cost.LARGEST`: a limit beyond that allows no more
        than it does, one below 1 no less than a half.
        """
        return {key: min(max(limit, 0.5), float(cost.LARGEST)) for key, limit in self.limits}

    @property
    def sums(self) -> dict[str, float]:
        """The limits, as they are enforced, on sums over the network's blocks, by key."""
        return {key: limit for key, limit in self.enforced.items() if cost.COSTS[key].combine == "sum"}

    @property
    def maxima(self) -> dict[str, float]:
        """The limits, as they are enforced, on maxima over the network's blocks, by key."""
        return {key: limit for key, limit in self.enforced.items() if cost.COSTS[key].combine == "max"}

    @property
    def needs_device(self) -> bool:
        """Whether some limit is on what depends on a device."""
        return any(cost.COSTS[key].of_device is not None for key, _ in self.limits)

    @property
    def given(self) -> dict[str, float]:
        """The limits that there are, by key, in the order of :meth:`keys`."""
        return {key: limit for key in self.keys() if (limit := getattr(self, key)) is not None}


@dataclass(frozen=True)
class Objective:
    """``entropy H - depth_penalty Q`` and what the choices are worth by themselves (docs/formulation.md section 2)."""

    depth_penalty: Annotated[float, Key(_PENALTY, "beta, the price of uneven depths")] = 10.0
    entropy: Annotated[float, Key(_SHARE, "factor of the entropy; 0: utilities alone")] = 1.0
    utilities: tuple[Utility, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the score is entropy less the depth penalty, as in the paper."""
        return self.entropy == 1 and not self.utilities

    def lines(self) -> list[str]:
        """As it is written, without what the paper does not have."""
        factor = [] if self.entropy == 1 else [f"entropy = {toml_value(self.entropy)}"]
        return [f"depth_penalty = {toml_value(self.depth_penalty)}", *factor, *utility.toml(self.utilities)]


@dataclass(frozen=True)
class Space:
    """Rules on neighbouring choices; both methods accept integers and integer arrays."""

    monotone: Annotated[bool, Key(keys.boolean(), "channels never decrease from stem to last stage")] = True
    growth: Annotated[
        float | None, Key(keys.number(positive=True), "most channels of a stage over those before it")
    ] = None
    mid_ratio: Annotated[
        tuple[float, float] | None, Key(keys.interval(), "bounds on inner width over channels of a stage")
    ] = None

    def follows(self, c_in: Any, c: Any) -> Any:
        """Whether ``c`` channels may follow ``c_in`` (monotone, ``c / c_in <= growth``)."""
        # A correctly rounded quotient equals the decimal bound wherever the exact quotient does.
        allowed = (c_in == c_in) & (c == c)
        if self.monotone:
            allowed = allowed & (c >= c_in)
        if self.growth is not None:
            allowed = allowed & (c / c_in <= self.growth)
        return allowed

    def carries(self, m: Any, c: Any) -> Any:
        """Whether inner width ``m`` may go with ``c`` channels (``mid_ratio`` bounds ``m / c``, inclusive)."""
        allowed = (m == m) & (c == c)
        if self.mid_ratio is not None:
            low, high = self.mid_ratio
            allowed = allowed & (m / c >= low) & (m / c <= high)
        return allowed


@dataclass(frozen=True)
class Stem:
    """``kernel x kernel`` convolution with ``stride``, BN and activation.

    Of clips the kernel has ``temporal_kernel`` (1 or 3) frames, the stride ``temporal_stride`` (1 or 2).
    """

    kernel: Annotated[int, Key(keys.integer(odd=True, most=SIDES), "side of the kernel", "pixels")]
    stride: Annotated[int, Key(keys.integer(most=SIDES), "stride of the convolution")]
    channels: Annotated[Domain, Key(keys.domain(most=WIDTHS), "output channels to choose from")]
    weight: Annotated[float, Key(WEIGHT, _WEIGHS, otherwise="1 where the next stage has stride 2, else 0")]
    temporal_kernel: Annotated[int, Key(_TEMPORAL_KERNEL, "frames of the kernel; clips only")] = 1
    temporal_stride: Annotated[int, Key(_TEMPORAL_STRIDE, "stride over frames; clips only")] = 1


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one family; the first has ``stride`` and ``temporal_stride``; domains of c, m, k and L.

    Of clips every ``k x k`` convolution has ``temporal_kernel`` (1 or 3) frames; both are given, not decided.
    """

    block: Annotated[str, Key(keys.choice(FAMILIES), "family of the blocks")]
    stride: Annotated[int, Key(keys.integer(among=(1, 2)), "stride of the first block")]
    channels: Annotated[Domain, Key(keys.domain(most=WIDTHS), "output channels to choose from")]
    mid: Annotated[Domain, Key(keys.domain(most=WIDTHS), "inner widths to choose from")]
    kernel: Annotated[
        Domain, Key(keys.domain(most=SIDES, odd=True), "sides of the k x k kernel to choose from", "pixels")
    ]
    depth: Annotated[Domain, Key(keys.domain(most=DEPTHS), "numbers of blocks to choose from")]
    weight: Annotated[
        float, Key(WEIGHT, _WEIGHS, otherwise="8 for the last, 1 where the next stage has stride 2, else 0")
    ]
    temporal_kernel: Annotated[int, Key(_TEMPORAL_KERNEL, "frames of every k x k kernel; clips only")] = 1
    temporal_stride: Annotated[int, Key(_TEMPORAL_STRIDE, "stride over frames of the first block; clips only")] = 1


@dataclass(frozen=True)
class Tail:
    """1x1 convolution, BN and activation after the last stage."""

    channels: Annotated[Domain, Key(keys.domain(most=WIDTHS), "output channels to choose from")]


@dataclass(frozen=True)
class Time:
    """The time axis of a convolution: ``frames`` in, ``kernel``, ``stride``; ``frames = None`` is an image's."""

    frames: int | None = None
    kernel: int = 1
    stride: int = 1

    @property
    def out_frames(self) -> int | None:
        """Output frames with padding ``kernel // 2``, rounded up; ``None`` for an image."""
        return None if self.frames is None else -(-self.frames // self.stride)

    @property
    def after(self) -> Time:
        """The axis of a convolution that follows with the same kernel and no stride."""
        return Time(self.out_frames, self.kernel)


class _Level(Protocol):
    """A stem or a stage, to be decided or decided."""

    @property
    def temporal_kernel(self) -> int: ...

    @property
    def temporal_stride(self) -> int: ...


def times(frames: int | None, levels: Iterable[_Level]) -> tuple[Time, ...]:
    """The time axes of the stem and of the first block of every stage, for a clip of ``frames`` frames."""
    found = []
    for level in levels:
        found.append(Time(frames, level.temporal_kernel, level.temporal_stride))
        frames = found[-1].out_frames
    return tuple(found)


@dataclass(frozen=True)
class Segment:
    """The stem, a stage or the tail: its domains, and what is given about it.

    ``size`` and ``out_size`` are the resolutions before and after it in pixels, ``time`` is the time axis of its first
    block. ``weight`` is the entropy weight of the level that ends here, 0 where none does: the tail, where there is
    one, ends the last stage's level. A segment is ``bounded`` where the effectiveness budget, if any, applies at its
    end, and ``penalised`` where its depth is in Guideline 2's spread. ``classes`` is not 0 where the head follows,
    ``ruled`` where the rules of the space hold. ``utility`` is what its choices are worth by themselves.
    """

    kind: Literal["stem", "stage", "tail"]
    name: str
    sources: Domain
    channels: Domain
    size: int
    out_size: int
    time: Time
    weight: float
    bounded: bool
    block: str = ""
    stride: int = 1
    mid: Domain = _NO_CHOICE
    kernel: Domain = _NO_CHOICE
    depth: Domain = _NO_CHOICE
    penalised: bool = False
    classes: int = 0
    utility: Utility | None = None

    @property
    def key(self) -> int | str:
        """What a utility calls it, a stage by its number from 1, ``"stem"`` or ``"tail"``."""
        return int(self.name.removeprefix("stage ")) if self.kind == "stage" else self.kind

    def worth(self, c: Any, m: Any, k: Any, depth: Any) -> Any:
        """What choices, integers or arrays, are worth by themselves, broadcast: 0 without a utility."""
        return 0.0 if self.utility is None else self.utility.worth(c, m, k, depth)

    @property
    def domains(self) -> dict[str, Domain]:
        """The choices that there are, by axis."""
        axes = utility.AXES if self.kind == "stage" else ("channels",)
        return {axis: getattr(self, axis) for axis in axes}

    @property
    def ruled(self) -> bool:
        """Whether the rules on neighbouring choices apply, to stages only."""
        return self.kind == "stage"


def segments(problem: Any, tail: Domain | None, sources: int, resolutions: tuple[int, ...]) -> tuple[Segment, ...]:
    """The segments of a spec or a design: whatever has ``stem``, ``stages``, ``times``, ``convention``, ``classes``.

    ``sources`` are the channels of the image, ``resolutions`` the sizes of the input and after the stem and each stage.
    """
    number = len(problem.stages)
    penalised = set(range(number)[penalised_stages(problem.convention, number)])
    levels = [problem.stem, *problem.stages]
    built: list[Segment] = []
    for level, kind in enumerate(["stem"] + ["stage"] * number + ["tail"] * (tail is not None)):
        final = level == number + (tail is not None)
        ends = final or level < number
        decided = levels[min(level, number)]
        weight = float(decided.weight) if ends else 0.0
        facts: dict[str, Any] = {"time": Time(problem.times[-1].out_frames), "channels": tail, "size": resolutions[-1]}
        family = problem.stages[min(max(level, 1), number) - 1].block
        if kind != "tail":
            facts = {
                "time": problem.times[level],
                "channels": _domain(decided.channels),
                "size": resolutions[level],
                "stride": decided.stride,
                "kernel": _domain(decided.kernel),
            }
        if kind == "stage":
            facts |= {"mid": _domain(decided.mid), "depth": _domain(decided.depth)}
        built.append(
            Segment(
                kind=kind,  # type: ignore[arg-type]
                name=kind if kind != "stage" else f"stage {level}",
                sources=built[-1].channels if built else (sources,),
                out_size=resolutions[min(level, number) + 1],
                weight=weight,
                block=family,
                bounded=weight > 0 if problem.convention == "tinynas" else final,
                penalised=kind == "stage" and level - 1 in penalised,
                classes=problem.classes if final else 0,
                **facts,
            )
        )
    return tuple(built)


def _domain(values: int | Domain) -> Domain:
    return (values,) if isinstance(values, int) else values


@dataclass(frozen=True)
class Spec:
    """A design problem, of images or, where ``input.frames`` is given, of clips (docs/video.md).

    ``device`` is what its designs are for, if anything (docs/devices.md): where a budget needs one, 8-bit numbers.
    ``sha256`` identifies the file it came from (of :meth:`to_toml` when there is none, or it was changed in code);
    ``hashed`` is that of the content that it belongs to, and it itself.
    """

    name: str
    input: Input
    stem: Stem
    stages: tuple[Stage, ...]
    convention: str = "paper"
    budget: Budget = Budget()
    objective: Objective = Objective()
    space: Space = Space()
    tail: Tail | None = None
    device: Device | None = None
    sha256: str = field(default="", compare=False)
    source: str = field(default="spec", compare=False)
    hashed: tuple[str, str] = field(default=("", ""), compare=False, repr=False)

    def __post_init__(self) -> None:
        """Validate what one key alone cannot show; raise :class:`InputError`."""
        if self.device is None and self.budget.needs_device:
            object.__setattr__(self, "device", Device())
        _check(self)
        content = hashlib.sha256(self.to_toml().encode()).hexdigest()
        # The hash of a file is not that of what dataclasses.replace makes of its spec.
        if not self.sha256 or (self.sha256 == self.hashed[1] and self.hashed[0] != content):
            object.__setattr__(self, "sha256", content)
        object.__setattr__(self, "hashed", (content, self.sha256))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Output resolutions ``r_0 .. r_M`` of the stem and the stages, in pixels."""
        sizes = [self.input.resolution // self.stem.stride]
        for stage in self.stages:
            sizes.append(sizes[-1] // stage.stride)
        return tuple(sizes)

    @property
    def times(self) -> tuple[Time, ...]:
        """The time axes of the stem and of the first block of every stage."""
        return times(self.input.frames, (self.stem, *self.stages))

    @property
    def classes(self) -> int:
        """Outputs of the head, 0 for none."""
        return self.input.classes

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Stem, stages and tail in forward order."""
        tail = None if self.tail is None else self.tail.channels
        built = segments(self, tail, self.input.channels, (self.input.resolution, *self.resolutions))
        known = {found.stage: found for found in self.objective.utilities}
        return tuple(dataclasses.replace(part, utility=known.get(part.key)) for part in built)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is computed on demand, which cannot be pickled."""
        return {key: value for key, value in self.__dict__.items() if key != "costs"}

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """What budgets may limit, on the spec's device."""
        return cost.costs(self.device)

    def interpolating(self) -> Spec:
        """The spec with a device whose table is interpolated; raise :class:`InputError` where there is no table."""
        if self.device is None or not isinstance(self.device.latency, Lookup):
            raise InputError(f"{self.source}: --interpolate fills a table of times; device.latency must be one")
        # The file is still the same.
        return dataclasses.replace(self, device=self.device.interpolating(), hashed=("", ""))

    @cached_property
    def magnitude(self) -> float:
        """No less than what the parts of the utilities of any architecture add up to without their signs."""
        parts = ((part.utility, part.domains) for part in self.segments)
        return math.fsum(utility.magnitude(found, domains) for found, domains in parts if found is not None)

    @property
    def penalised(self) -> slice:
        """The stages whose depths Guideline 2 keeps uniform (all, or the last M - 2 in ``tinynas``)."""
        return penalised_stages(self.convention, len(self.stages))

    @classmethod
    def load(cls, path: pathlib.Path | str) -> Spec:
        """Read and validate a spec.toml; raise :class:`InputError` naming file, key, value and what is allowed."""
        table, raw = read_toml(path)
        return cls.from_table(table, source=str(path), sha256=hashlib.sha256(raw).hexdigest())

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, source: str = "spec", sha256: str = "") -> Spec:
        """Build a spec from a parsed TOML table; raise :class:`InputError`."""
        top = Reader(source, table, KEYS)
        image = top.table("input", Input)
        stem = top.table("stem", Stem)
        stages = top.tables("stage", Stage)
        strides = [stage.read("stride") for stage in stages]
        weights = default_weights(strides)
        frames = image.read("frames")
        tail = top.table("tail", Tail) if "tail" in table else None
        budget = top.table("budget", Budget, optional=True)
        device, own = _device(top)
        objective = top.table("objective", OBJECTIVE, optional=True)
        space = top.table("space", Space, optional=True)
        for level in (stem, *stages):
            refuse_temporal(level, frames)
        return cls(
            name=top.read("name"),
            convention=top.read("convention"),
            input=Input(**image.read_all()),
            budget=Budget(**own | {key: budget.read(key) for key in budget.values}),
            objective=Objective(objective.read("depth_penalty"), objective.read("entropy"), utility.read(objective)),
            space=Space(**space.read_all()),
            stem=Stem(**stem.read_all(weight=weights[0])),
            stages=tuple(
                Stage(**stage.read_all(weight=weight)) for stage, weight in zip(stages, weights[1:], strict=True)
            ),
            tail=None if tail is None else Tail(**tail.read_all()),
            device=device,
            source=source,
            sha256=sha256,
        )

    @classmethod
    def create(cls, name: str, *, stages: Iterable[Mapping[str, Any]], **tables: Any) -> Spec:
        """Build a spec in code from what a spec.toml has, with all defaults and checks of the reader.

        ``stages`` are its tables [[stage]], ``tables`` the others by name: ``input={"resolution": 224}``. Ranges and
        tuples may stand for lists. Raise :class:`InputError` that names the key.
        """
        return cls.from_table({"name": name, "stage": _plain(list(stages)), **_plain(tables)})

    def save(self, path: pathlib.Path | str) -> None:
        """Write spec.toml atomically; raise :class:`InputError` when the place cannot be written."""
        write_atomically(path, self.to_toml().encode())

    def to_toml(self) -> str:
        """Write the spec as TOML text that :meth:`load` reads back to an equal spec."""
        lines = [f"name = {toml_value(self.name)}", f"convention = {toml_value(self.convention)}"]
        sections: list[tuple[str, Any]] = [
            ("[input]", self.input),
            ("[budget]", self.budget),
            ("[objective]", self.objective),
            ("[space]", self.space),
            ("[stem]", self.stem),
            *(("[[stage]]", stage) for stage in self.stages),
            ("[tail]", self.tail),
        ]
        for header, section in sections:
            if section is None:
                continue
            lines += ["", header]
            if section is self.objective:
                lines += self.objective.lines()
                continue
            for key in Budget.keys() if section is self.budget else [item.name for item in fields(section)]:
                value = getattr(section, key)
                if value is not None and (self.input.frames is not None or key not in TEMPORAL):
                    limit = section is self.budget and key in cost.COSTS
                    lines.append(f"{key} = {cost.COSTS[key].text(value) if limit else toml_value(value)}")
        if self.device is not None:
            lines += ["", *toml_lines("device", dataclasses.replace(self.device, sha256="").content())]
        return "\n".join(lines) + "\n"


def penalised_stages(convention: str, stages: int) -> slice:
    """Stages in Guideline 2's spread of depths (docs/formulation.md section 1).

    All, or from the third on in ``tinynas``.
    """
    return slice(2, None) if convention == "tinynas" and stages >= 4 else slice(0, None)


def default_weights(strides: Iterable[int]) -> tuple[float, ...]:
    """Weights of the stem and the stages: 1 where a resolution ends, 8 at the last one, 0 elsewhere.

    ``strides`` are those of the stages; a level ends its resolution when the next stage has stride 2
    (paper, section 4: 1, 1, 1, 1, 8 over five resolutions).
    """
    return (*(float(stride > 1) for stride in strides), 8.0)


def toml_lines(name: str, content: Mapping[str, Any]) -> list[str]:
    """A table of TOML with its own tables; without a ``name`` its keys stand at the top."""
    tables = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    lines = [f"[{name}]"] if name else []
    for key, value in content.items():
        if key not in tables:
            lines.append(f'{key} = """\n{value}"""' if key == "table" else f"{key} = {toml_value(value)}")
    for key, value in tables.items():
        path = key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key)
        lines += ["", *toml_lines(f"{name}.{path}" if name else path, value)]
    return lines


def _device(top: Reader) -> tuple[Device | None, dict[str, float]]:
    """The device of a spec, and the limits that a board sets; both nothing where none is named."""
    if "device" not in top.values:
        return None, {}
    given = top.values["device"]
    reader = Reader(top.source, given, DEVICE, prefix="device.") if not isinstance(given, str) else top
    board = BOARDS[reader.choice("device", BOARDS)] if "device" in reader.values else None
    base = Device() if board is None else board.device
    path = reader.values.get("latency")
    if isinstance(path, str):
        file = pathlib.Path(top.source).parent / path
        measured = Device.load(file)
        # A board's own numbers stand; a device.toml says how its times were measured.
        base = dataclasses.replace(base, latency=measured.latency, sha256=measured.sha256) if board else measured
        if measured.latency is None:
            raise reader.error("latency", f"{file} has no table [latency]; must have one")
        reader = Reader(top.source, {k: v for k, v in reader.values.items() if k != "latency"}, None, prefix="device.")
    device = base
    if reader is not top:
        device = Device.read(reader, base=base)
        if reader.boolean("interpolate", default=False):
            if not isinstance(device.latency, Lookup):
                raise reader.error("interpolate", "fills a table of times; device.latency must be one, or left out")
            device = device.interpolating()
    if isinstance(path, str) and isinstance(device.latency, Affine):
        for key in ("activation_bytes", "weight_bytes"):
            if getattr(device, key) != getattr(measured, key):
                raise InputError(
                    f"{top.source}: device.{key} = {getattr(device, key)}: {file} was measured with "
                    f"{getattr(measured, key)}; must be the same"
                )
    limits = {} if board is None else {"activation": float(board.activation), "flash": float(board.flash)}
    return device, limits


def _plain(value: Any) -> Any:
    """With lists where there are tuples and ranges."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple | range) else value


def _limit(key: str) -> keys.Value:
    """The value of a budget's key, in the unit of its cost."""
    limited = cost.COSTS[key]

    def schema() -> dict[str, Any]:
        written = {"type": "string", "pattern": limited.pattern}
        bare = keys.number(positive=True).schema()
        return bare if not limited.units else written if limited.step > 1 else {"anyOf": [bare, written]}

    return keys.Value(limited.allowed, lambda value: limited.limit(value) is not None, schema, convert=limited.limit)


def toml_value(value: object) -> str:
    """A text, boolean, number or list in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


_NEEDS_FRAMES = "needs input.frames; must be left out for images"

OBJECTIVE = {
    **keys.keys_of(Objective),
    "utility": Key(keys.tables(keys.table(Utility, least=2)), "what choices are worth by themselves", default=()),
}

DEVICE = {
    "device": Key(
        keys.choice(BOARDS), "a board: its layout of memory, and as budgets its memory and flash", default=None
    ),
    **keys.keys_of(Device),
    "latency": Key(
        keys.either(keys.text(), keys.table(LATENCY)),
        "times of layers: a device.toml, or what such a file has",
        default=None,
    ),
    "interpolate": Key(keys.boolean(), "fill what a table of times lacks between its rows", default=False),
}

KEYS: Mapping[str, Key] = {
    "name": Key(keys.text(), "name of the spec and of its designs"),
    "convention": Key(keys.choice(CONVENTIONS), "whose formulas", default=Spec.convention),
    "input": Key(keys.table(Input), "what the network takes and puts out"),
    "budget": Key(keys.table(Budget), "upper limits; each may be left out", default=None),
    "device": Key(
        keys.either(keys.choice(BOARDS), keys.table(DEVICE)),
        "what the network is for: a board, or a table",
        default=None,
    ),
    "objective": Key(keys.table(OBJECTIVE), "what is maximised", default=None),
    "space": Key(keys.table(Space), "rules on neighbouring choices", default=None),
    "stem": Key(keys.table(Stem), "first convolution"),
    "stage": Key(keys.tables(keys.table(Stage)), "residual blocks, stage by stage"),
    "tail": Key(keys.table(Tail), "1x1 convolution after the last stage; none without it", default=None),
}
"""The keys of a spec.toml, with those of its tables."""


def refuse_temporal(reader: Reader, frames: int | None) -> None:
    """Raise :class:`InputError` for the keys of :data:`TEMPORAL` where there are no frames."""
    for key in TEMPORAL:
        if frames is None and key in reader.values:
            raise reader.error(key, _NEEDS_FRAMES)


def temporal(reader: Reader, frames: int | None) -> dict[str, int]:
    """The keys of :data:`TEMPORAL` of a stem or a stage, none without ``frames``; raise :class:`InputError`."""
    refuse_temporal(reader, frames)
    return {} if frames is None else {key: reader.integer(key, allowed=among) for key, among in TEMPORAL.items()}


def _check_values(spec: Spec) -> None:
    """What the reader checks of every key, of a spec that is built in code."""
    top = Reader(spec.source, {"name": spec.name, "convention": spec.convention}, None)
    for key in top.values:
        top.value(key, KEYS[key].value)
    if not 1 <= len(spec.stages) <= STAGES:
        raise InputError(f"{spec.source}: stage: must be from 1 to {STAGES} tables [[stage]], not {len(spec.stages)}")
    parts: list[tuple[str, Any]] = [("input", spec.input), ("objective", spec.objective), ("space", spec.space)]
    parts += [("stem", spec.stem)]
    parts += [(f"stage[{number}]", stage) for number, stage in enumerate(spec.stages, start=1)]
    parts += [] if spec.tail is None else [("tail", spec.tail)]
    for name, part in parts:
        for key, declared in keys.keys_of(type(part)).items():
            value = getattr(part, key)
            if value is not None or declared.default is not None:
                given = list(value) if isinstance(value, tuple) else value
                read = Reader(spec.source, {key: given}, None, prefix=f"{name}.").value(key, declared.value)
                if read != value:
                    raise InputError(
                        f"{spec.source}: {name}.{key} = {shown(value)}: must be a tuple of ascending values"
                    )
    for key, limit in spec.budget.given.items():
        if not (finite(limit) and limit > 0):
            raise InputError(f"{spec.source}: budget.{key} = {shown(limit)}: must be a finite number greater than 0")


def _check(spec: Spec) -> None:
    """Checks across keys: strides against the resolution, kernels against feature maps, rules that empty a stage."""
    _check_values(spec)
    size = spec.input.resolution
    if spec.stem.kernel > size:
        raise InputError(
            f"{spec.source}: stem.kernel = {spec.stem.kernel}: larger than its {size} x {size} feature map; "
            f"must be at most {size}"
        )
    levels = [("stem", spec.stem.stride)] + [(f"stage[{n}]", s.stride) for n, s in enumerate(spec.stages, start=1)]
    for name, stride in levels:
        if size % stride:
            raise InputError(
                f"{spec.source}: {name}.stride = {stride}: does not divide its {size} x {size} input; "
                f"input.resolution = {spec.input.resolution} must be a multiple of the product of the strides"
            )
        size //= stride
    _check_frames(spec)
    _check_device(spec)
    utility.check(spec.objective.utilities, spec.source, {part.key: part.domains for part in spec.segments})
    resolutions = spec.resolutions
    for number, (stage, incoming, size) in enumerate(
        zip(spec.stages, resolutions[:-1], resolutions[1:], strict=True), start=1
    ):
        key = f"stage[{number}]"
        # Only a one-block stage whose strided convolution is the sole k x k one never sees the output map.
        smallest = incoming if stage.block != "basic" and max(stage.depth) == 1 else size
        if max(stage.kernel) > smallest:
            raise InputError(
                f"{spec.source}: {key}.kernel = {max(stage.kernel)}: larger than its {smallest} x {smallest} feature "
                f"map; must be at most {smallest}"
            )
        if not _carried(spec, stage).any():
            low, high = spec.space.mid_ratio or (0.0, math.inf)
            raise InputError(
                f"{spec.source}: space.mid_ratio = [{low}, {high}]: leaves {key} no choice; must allow at least one "
                f"mid / channels of that stage"
            )
    reachable = set(spec.stem.channels)
    for number, stage in enumerate(spec.stages, start=1):
        usable = [c for c, carried in zip(stage.channels, _carried(spec, stage).any(axis=1), strict=True) if carried]
        follows = spec.space.follows(np.array(sorted(reachable))[:, None], np.array(usable)[None, :]).any(axis=0)
        following = {c for c, may in zip(usable, follows, strict=True) if may}
        if not following:
            rules = f"space.monotone = {str(spec.space.monotone).lower()}"
            if spec.space.growth is not None:
                rules += f", space.growth = {spec.space.growth}"
            raise InputError(
                f"{spec.source}: {rules}: stage[{number}].channels = {_shorten(usable)} has no value that may follow "
                f"{_shorten(sorted(reachable))}; at least one must"
            )
        reachable = following


def _carried(spec: Spec, stage: Stage) -> Any:
    """Which inner widths may go with which channels of a stage, (channels, mid)."""
    return spec.space.carries(np.array(stage.mid)[None, :], np.array(stage.channels)[:, None])


def _check_frames(spec: Spec) -> None:
    """Temporal kernels and strides only on clips, and no kernel longer than the clip where it is applied."""
    levels: list[tuple[str, Stem | Stage]] = [("stem", spec.stem)]
    levels += [(f"stage[{n}]", stage) for n, stage in enumerate(spec.stages, start=1)]
    for (key, level), time in zip(levels, spec.times, strict=True):
        for name in TEMPORAL:
            if spec.input.frames is None and getattr(level, name) != 1:
                raise InputError(f"{spec.source}: {key}.{name} = {getattr(level, name)}: {_NEEDS_FRAMES}")
        # As with pixels, only a sole strided convolution never sees the output frames.
        sole = isinstance(level, Stem) or (level.block != "basic" and max(level.depth) == 1)
        least = time.frames if sole else time.out_frames
        if least is not None and time.kernel > least:
            raise InputError(
                f"{spec.source}: {key}.temporal_kernel = {time.kernel}: longer than its clip of {least} "
                f"frames; must be 1"
            )


def _check_device(spec: Spec) -> None:
    """A latency budget needs times, of images; whole blocks in a table need stages of one width on one side."""
    latency = None if spec.device is None else spec.device.latency
    if spec.budget.latency is not None and latency is None:
        raise InputError(
            f"{spec.source}: budget.latency is given, device.latency is missing: must be a device.toml, "
            "which mad-ip device profile measures"
        )
    if latency is not None and spec.input.frames is not None:
        raise InputError(f"{spec.source}: device.latency: times are of layers of images; input.frames must be left out")
    if not isinstance(latency, Lookup) or not latency.families:
        return
    for number, segment in enumerate(spec.segments):
        whole = segment.kind == "stage" and segment.block in latency.families
        if whole and min(len(segment.sources), len(segment.channels)) > 1:
            raise InputError(
                f"{spec.source}: stage[{number}].channels = {_shorten(list(segment.channels))}: device.latency is a "
                f"table of whole blocks of {segment.block}; this stage or the one before must have one value"
            )


def _shorten(values: list[int]) -> str:
    return str(values) if len(values) <= 6 else f"[{values[0]}, ..., {values[-1]}]"
