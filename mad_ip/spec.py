"""spec.toml <-> :class:`Spec`: what is to be designed, validated, errors name the key.

Symbols (docs/formulation.md section 1): stages ``t = 1..M``; ``r_t`` output resolution; ``c_t`` output channels;
``m_t`` inner width; ``k_t`` kernel; ``L_t`` depth in blocks; ``alpha_t`` entropy weight; ``beta`` depth penalty.
A spec whose input has ``frames`` is for clips, and its stem and stages may have a temporal kernel and stride.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mad_ip.errors import InputError
from mad_ip.files import finite, named, read_toml
from mad_ip.frames import Time, times

__all__ = [
    "CONVENTIONS",
    "FAMILIES",
    "Budget",
    "Domain",
    "Input",
    "Objective",
    "Space",
    "Spec",
    "Stage",
    "Stem",
    "Tail",
    "default_weights",
]

CONVENTIONS = ("paper", "tinynas")
FAMILIES = ("basic", "bottleneck", "inverted", "inverted_se")

Domain = tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """Square input image, or a clip of ``frames`` of them (``None``: an image); ``classes = 0`` builds no head."""

    resolution: int
    channels: int = 3
    classes: int = 1000
    frames: int | None = None


@dataclass(frozen=True)
class Budget:
    """Upper limits; ``None`` means no limit. ``macs`` multiply-accumulates, ``layers`` counted layers."""

    macs: float | None = None
    params: float | None = None
    effectiveness: float | None = None
    layers: float | None = None


@dataclass(frozen=True)
class Objective:
    """``depth_penalty`` is beta in ``H - beta Q`` (docs/formulation.md, equation 2.1)."""

    depth_penalty: float = 10.0


@dataclass(frozen=True)
class Space:
    """Rules on neighbouring choices; both methods accept integers and integer arrays."""

    monotone: bool = True
    growth: float | None = None
    mid_ratio: tuple[float, float] | None = None

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

    kernel: int
    stride: int
    channels: Domain
    weight: float
    temporal_kernel: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one family; the first has ``stride`` and ``temporal_stride``; domains of c, m, k and L.

    Of clips every ``k x k`` convolution has ``temporal_kernel`` (1 or 3) frames; both are given, not decided.
    """

    block: str
    stride: int
    channels: Domain
    mid: Domain
    kernel: Domain
    depth: Domain
    weight: float
    temporal_kernel: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class Tail:
    """1x1 convolution, BN and activation after the last stage."""

    channels: Domain


@dataclass(frozen=True)
class Spec:
    """A design problem, of images or, where ``input.frames`` is given, of clips (docs/video.md).

    ``sha256`` identifies the file it came from (of :meth:`to_toml` when there is none).
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
    sha256: str = field(default="", compare=False)
    source: str = field(default="spec", compare=False)

    def __post_init__(self) -> None:
        """Validate what one key alone cannot show; raise :class:`InputError`."""
        _check(self)
        if not self.sha256:
            object.__setattr__(self, "sha256", hashlib.sha256(self.to_toml().encode()).hexdigest())

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
    def penalised(self) -> slice:
        """The stages whose depths Guideline 2 keeps uniform (all, or the last M - 2 in ``tinynas``)."""
        return penalised_stages(self.convention, len(self.stages))

    @classmethod
    def load(cls, path: Path | str) -> Spec:
        """Read and validate a spec.toml; raise :class:`InputError` naming file, key, value and what is allowed."""
        table, raw = read_toml(path)
        return cls.from_table(table, source=str(path), sha256=hashlib.sha256(raw).hexdigest())

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, source: str = "spec", sha256: str = "") -> Spec:
        """Build a spec from a parsed TOML table; raise :class:`InputError`."""
        top = _Reader(source, "", table, _SECTIONS)
        image = top.table("input", Input)
        stem = top.table("stem", Stem)
        stages = top.tables("stage", Stage)
        strides = [stage.integer("stride", allowed=(1, 2)) for stage in stages]
        weights = default_weights(strides)
        frames = image.integer("frames") if "frames" in image.values else None
        tail = top.table("tail", Tail, optional=True)
        budget = top.table("budget", Budget, optional=True)
        objective = top.table("objective", Objective, optional=True)
        space = top.table("space", Space, optional=True)
        return cls(
            name=top.text("name"),
            convention=top.choice("convention", CONVENTIONS, default="paper"),
            input=Input(
                resolution=image.integer("resolution", least=1),
                channels=image.integer("channels", least=1, default=3),
                classes=image.integer("classes", least=0, default=1000),
                frames=frames,
            ),
            budget=Budget(**{key.name: budget.number(key.name, positive=True) for key in fields(Budget)}),
            objective=Objective(objective.number("depth_penalty", default=10.0)),
            space=Space(
                monotone=space.boolean("monotone", default=True),
                growth=space.number("growth", positive=True),
                mid_ratio=space.interval("mid_ratio"),
            ),
            stem=Stem(
                kernel=stem.integer("kernel", least=1, odd=True),
                stride=stem.integer("stride", least=1),
                channels=stem.domain("channels"),
                weight=stem.number("weight", default=weights[0]),
                **stem.temporal(frames),
            ),
            stages=tuple(
                Stage(
                    block=stage.choice("block", FAMILIES),
                    stride=stride,
                    channels=stage.domain("channels"),
                    mid=stage.domain("mid"),
                    kernel=stage.domain("kernel", odd=True),
                    depth=stage.domain("depth"),
                    weight=stage.number("weight", default=weight),
                    **stage.temporal(frames),
                )
                for stage, stride, weight in zip(stages, strides, weights[1:], strict=True)
            ),
            tail=Tail(tail.domain("channels")) if "tail" in table else None,
            source=source,
            sha256=sha256,
        )

    def to_toml(self) -> str:
        """Write the spec as TOML text that :meth:`load` reads back to an equal spec."""
        lines = [f"name = {_toml(self.name)}", f"convention = {_toml(self.convention)}"]
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
            for key in fields(section):
                value = getattr(section, key.name)
                if value is not None and (self.input.frames is not None or key.name not in _TEMPORAL):
                    lines.append(f"{key.name} = {_toml(value)}")
        return "\n".join(lines) + "\n"


def penalised_stages(convention: str, stages: int) -> slice:
    """Stages in Guideline 2's spread of depths (docs/formulation.md section 2): all, in ``tinynas`` from the third."""
    return slice(2, None) if convention == "tinynas" and stages >= 4 else slice(0, None)


def default_weights(strides: Iterable[int]) -> tuple[float, ...]:
    """Weights of the stem and the stages: 1 where a resolution ends, 8 at the last one, 0 elsewhere.

    ``strides`` are those of the stages; a level ends its resolution when the next stage has stride 2
    (paper, section 4: 1, 1, 1, 1, 8 over five resolutions).
    """
    return (*(float(stride > 1) for stride in strides), 8.0)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


_TEMPORAL = {"temporal_kernel": (1, 3), "temporal_stride": (1, 2)}
"""Keys of the stem and the stages of a spec with frames, and the values that they may have."""

_NEEDS_FRAMES = "needs input.frames; must be left out of a spec for images"

_SECTIONS = ("name", "convention", "input", "budget", "objective", "space", "stem", "stage", "tail")


def _names(kind: type[Any]) -> list[str]:
    return [item.name for item in fields(kind)]


class _Reader:
    """One table of the file: typed look-ups that name file, key and value when they fail."""

    def __init__(self, source: str, prefix: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
        allowed = sorted(known)
        # Before any look-up: a misspelt key is that, not a missing one.
        for key, value in table.items():
            if key not in allowed:
                raise InputError(
                    f"{source}: {prefix}{named(key)} = {value!r}: unknown key; allowed are {', '.join(allowed)}"
                )
        self.source = source
        self.prefix = prefix
        self.values = table

    def fail(self, key: str, allowed: str) -> InputError:
        name = f"{self.prefix}{key}"
        if key in self.values:
            return InputError(f"{self.source}: {name} = {self.values[key]!r}: must be {allowed}")
        return InputError(f"{self.source}: {name} is missing: must be {allowed}")

    def table(self, key: str, kind: type[Any], *, optional: bool = False) -> _Reader:
        value = self.values.get(key)
        if value is None and optional:
            value = {}
        if not isinstance(value, Mapping):
            raise self.fail(key, f"a table [{key}]")
        return _Reader(self.source, f"{self.prefix}{key}.", value, _names(kind))

    def tables(self, key: str, kind: type[Any]) -> list[_Reader]:
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
            raise self.fail(key, f"one or more tables [[{key}]]")
        known = _names(kind)
        return [_Reader(self.source, f"{self.prefix}{key}[{n}].", item, known) for n, item in enumerate(value, start=1)]

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.fail(key, "a text that is not empty")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], *, default: str | None = None) -> str:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if value not in allowed:
            raise self.fail(key, "one of " + ", ".join(allowed))
        return str(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def integer(
        self,
        key: str,
        *,
        least: int = 1,
        odd: bool = False,
        allowed: tuple[int, ...] | None = None,
        default: int | None = None,
    ) -> int:
        value: Any = self.values.get(key)
        if value is None and default is not None:
            return default
        if allowed is not None and (not _is_integer(value) or value not in allowed):
            raise self.fail(key, " or ".join(str(item) for item in allowed))
        if not _is_integer(value) or value < least or (odd and value % 2 == 0):
            raise self.fail(key, f"{'an odd' if odd else 'an'} integer of at least {least}")
        return int(value)

    def temporal(self, frames: int | None) -> dict[str, int]:
        """The temporal kernel and stride, which only a level of a network for clips may have."""
        if frames is None and (given := _TEMPORAL.keys() & self.values.keys()):
            key = min(given)
            raise InputError(f"{self.source}: {self.prefix}{key} = {self.values[key]!r}: {_NEEDS_FRAMES}")
        return {key: self.integer(key, allowed=allowed, default=1) for key, allowed in _TEMPORAL.items()}

    def number(self, key: str, *, positive: bool = False, default: float | None = None) -> Any:
        """A finite number, positive or at least 0; ``default`` (``None``: no limit) when the key is absent."""
        value = self.values.get(key)
        if value is None:
            return default
        if not finite(value) or value < 0 or (positive and value == 0):
            raise self.fail(key, "a finite number " + ("greater than 0" if positive else "of at least 0"))
        return value

    def interval(self, key: str) -> tuple[float, float] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(finite(item) for item in value)
            or not 0 <= value[0] <= value[1]
        ):
            raise self.fail(key, "two finite numbers [low, high] with 0 <= low <= high")
        return float(value[0]), float(value[1])

    def domain(self, key: str, *, odd: bool = False) -> Domain:
        """The sorted distinct values of an integer, a list, or ``{min, max, step}`` (inclusive)."""
        value = self.values.get(key)
        numbers: list[Any] | range
        if _is_integer(value):
            numbers = [value]
        elif isinstance(value, list):
            numbers = value
        elif isinstance(value, Mapping):
            numbers = self._range(key, value)
        else:
            numbers = []
        if not numbers:
            raise self.fail(key, "a list of at least one integer, or {min, max, step} with min <= max")
        for number in numbers:
            if not _is_integer(number) or number < 1 or (odd and number % 2 == 0):
                raise self.fail(key, f"{'odd integers' if odd else 'integers'} of at least 1, which {number!r} is not")
        return tuple(sorted(set(numbers)))

    def _range(self, key: str, value: Mapping[str, Any]) -> range:
        reader = _Reader(self.source, f"{self.prefix}{key}.", value, ("min", "max", "step"))
        low, high = reader.integer("min"), reader.integer("max")
        step = reader.integer("step", default=1)
        if (high - low) // step >= 1_000_000:
            raise self.fail(key, "a range of at most a million values")
        return range(low, high + 1, step)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(spec: Spec) -> None:
    """Checks across keys: strides against the resolution, kernels against feature maps, rules that empty a stage."""
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
        if not any(spec.space.carries(m, c) for c in stage.channels for m in stage.mid):
            low, high = spec.space.mid_ratio or (0.0, math.inf)
            raise InputError(
                f"{spec.source}: space.mid_ratio = [{low}, {high}]: leaves {key} no choice; must allow at least one "
                f"mid / channels of that stage"
            )
    reachable = set(spec.stem.channels)
    for number, stage in enumerate(spec.stages, start=1):
        usable = [c for c in stage.channels if any(spec.space.carries(m, c) for m in stage.mid)]
        following = {c for c in usable if any(spec.space.follows(c_in, c) for c_in in reachable)}
        if not following:
            rules = f"space.monotone = {str(spec.space.monotone).lower()}"
            if spec.space.growth is not None:
                rules += f", space.growth = {spec.space.growth}"
            raise InputError(
                f"{spec.source}: {rules}: stage[{number}].channels = {_shorten(usable)} has no value that may follow "
                f"{_shorten(sorted(reachable))}; at least one must"
            )
        reachable = following


def _check_frames(spec: Spec) -> None:
    """Temporal kernels and strides only on clips, and no kernel longer than the clip where it is applied."""
    levels: list[tuple[str, Stem | Stage]] = [("stem", spec.stem)]
    levels += [(f"stage[{n}]", stage) for n, stage in enumerate(spec.stages, start=1)]
    for (key, level), time in zip(levels, spec.times, strict=True):
        for name in _TEMPORAL:
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


def _shorten(values: list[int]) -> str:
    return str(values) if len(values) <= 6 else f"[{values[0]}, ..., {values[-1]}]"
