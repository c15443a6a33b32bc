"""Design: one decoded architecture, its metrics recomputed from its layers, and design.json."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mad_ip import blocks, cost, entropy
from mad_ip.blocks import Layer
from mad_ip.entropy import EFFECTIVENESS_TOLERANCE
from mad_ip.errors import InputError
from mad_ip.files import finite, named, read_json, write_atomically
from mad_ip.frames import Time, times
from mad_ip.spec import CONVENTIONS, FAMILIES, Spec, penalised_stages

__all__ = [
    "EFFECTIVENESS_TOLERANCE",
    "FORMAT",
    "VERDICTS",
    "Certificate",
    "Design",
    "Metrics",
    "StageChoice",
    "StemChoice",
    "Verification",
    "relative_gap",
    "violations",
]

FORMAT = "mad-ip/design/1"

_METRIC_TOLERANCE = 1e-9


@dataclass(frozen=True)
class StemChoice:
    """The stem as decided. A stem of images has the temporal kernel and stride 1, and its design.json neither."""

    kernel: int
    stride: int
    channels: int
    weight: float
    temporal_kernel: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class StageChoice:
    """One stage as decided: ``depth`` blocks of ``block``, ``mid`` inner width.

    ``temporal_kernel`` and ``temporal_stride`` are the spec's, 1 for images.
    """

    block: str
    stride: int
    channels: int
    mid: int
    kernel: int
    depth: int
    weight: float
    temporal_kernel: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class Metrics:
    """What a design is worth and costs; ``depth_penalty`` is beta Q, ``score = entropy - depth_penalty``."""

    score: float
    entropy: float
    depth_penalty: float
    effectiveness: float
    macs: int
    params: int
    layers: int


def relative_gap(score: float, bound: float) -> float:
    """``(bound - score) / |score|``, at least 0; infinite without a score or a bound."""
    if not (math.isfinite(score) and math.isfinite(bound)):
        return math.inf
    return max(0.0, bound - score) / max(abs(score), 1e-9)


@dataclass(frozen=True)
class Certificate:
    """What a solver proved: ``bound`` is an upper bound on the score, ``gap`` relative to the score's magnitude.

    ``options`` is the size of the catalogue that was solved, ``architectures`` the exact number of architectures in
    the space of the spec, before budgets and dominance.
    """

    backend: str
    version: str
    status: str
    bound: float
    gap: float
    seconds: float
    options: int
    architectures: int


@dataclass(frozen=True)
class Verification:
    """What ``mad-ip verify`` proved about a design without the solver, by which ``methods`` of version ``version``.

    ``bound`` is the independent upper bound on the score and ``gap`` what it leaves, relative to the score's
    magnitude; ``architectures`` were enumerated, ``nodes`` bounded, ``evaluations`` made by the attack; each ``None``
    where no method gives it. ``seconds`` is the time that all of it took.
    """

    version: str
    verdict: str
    methods: tuple[str, ...]
    bound: float | None
    gap: float | None
    architectures: int | None
    nodes: int | None
    evaluations: int | None
    seconds: float


VERDICTS = ("proven", "audited")
"""Verdicts that a design may carry: proven optimal within ``gap``, or free of contradictions only."""


@dataclass(frozen=True)
class Design:
    """One architecture. ``tail`` is the tail's channels, ``None`` without a tail; ``classes = 0`` has no head.

    ``frames`` is the length of the clips that it takes, ``None`` for one that takes images. Only a design of clips has
    ``input.frames``, ``temporal_kernel`` and ``temporal_stride`` in its design.json (docs/video.md).
    """

    name: str
    spec_sha256: str
    convention: str
    resolution: int
    image_channels: int
    stem: StemChoice
    stages: tuple[StageChoice, ...]
    tail: int | None
    classes: int
    metrics: Metrics
    certificate: Certificate | None = None
    verification: Verification | None = None
    frames: int | None = None

    @classmethod
    def create(cls, *, beta: float, **structure: Any) -> Design:
        """Build a design from its structure and measure it; ``beta`` weighs the depth penalty."""
        unmeasured = Metrics(0.0, 0.0, 0.0, 0.0, 0, 0, 0)
        design = cls(metrics=unmeasured, **structure)
        return dataclasses.replace(design, metrics=design.measure(beta))

    @classmethod
    def chosen(cls, spec: Spec, path: Sequence[tuple[int, int, int, int]]) -> Design:
        """The design of a path: channels, inner width, kernel and depth of the stem, every stage and the tail.

        Of the stem and the tail only the channels count. Measured from its layers.
        """
        return cls.create(
            beta=spec.objective.depth_penalty,
            name=spec.name,
            spec_sha256=spec.sha256,
            convention=spec.convention,
            resolution=spec.input.resolution,
            image_channels=spec.input.channels,
            frames=spec.input.frames,
            stem=StemChoice(
                spec.stem.kernel,
                spec.stem.stride,
                path[0][0],
                spec.stem.weight,
                spec.stem.temporal_kernel,
                spec.stem.temporal_stride,
            ),
            stages=tuple(
                StageChoice(
                    stage.block, stage.stride, *chosen, stage.weight, stage.temporal_kernel, stage.temporal_stride
                )
                for stage, chosen in zip(spec.stages, path[1:], strict=False)
            ),
            tail=None if spec.tail is None else path[-1][0],
            classes=spec.input.classes,
        )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Output resolutions of stem and stages at the design's own input resolution, in pixels."""
        sizes = [-(-self.resolution // self.stem.stride)]
        for stage in self.stages:
            sizes.append(-(-sizes[-1] // stage.stride))
        return tuple(sizes)

    @property
    def times(self) -> tuple[Time, ...]:
        """The time axes of the stem and of the first block of every stage."""
        return times(self.frames, (self.stem, *self.stages))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image, (channels, frames, height, width) of a clip."""
        clip = () if self.frames is None else (self.frames,)
        return (self.image_channels, *clip, self.resolution, self.resolution)

    @property
    def feature_channels(self) -> int:
        """Channels that enter the head."""
        return self.stages[-1].channels if self.tail is None else self.tail

    def stem_layers(self) -> tuple[Layer, ...]:
        """The stem's layers."""
        stem = self.stem
        return blocks.stem(self.image_channels, stem.channels, stem.kernel, stem.stride, self.resolution, self.times[0])

    def stage_blocks(self) -> Iterator[tuple[tuple[Layer, ...], ...]]:
        """For every stage, its blocks, each the tuple of its layers in forward order."""
        c_in, size = self.stem.channels, self.resolutions[0]
        for stage, out_size, time in zip(self.stages, self.resolutions[1:], self.times[1:], strict=True):
            c, m, k = stage.channels, stage.mid, stage.kernel
            first = blocks.block(stage.block, c_in, c, m, k, stage.stride, size, time)
            rest = blocks.block(stage.block, c, c, m, k, 1, out_size, time.after)
            yield (first,) + (rest,) * (stage.depth - 1)
            c_in, size = stage.channels, out_size

    def tail_layers(self) -> tuple[Layer, ...]:
        """The tail's layers, none without a tail."""
        if self.tail is None:
            return ()
        time = Time(self.times[-1].out_frames)
        return blocks.tail(self.stages[-1].channels, self.tail, self.resolutions[-1], time)

    def head_layers(self) -> tuple[Layer, ...]:
        """The classifier, none when ``classes`` is 0."""
        return blocks.head(self.feature_channels, self.classes)

    def parts(self) -> list[tuple[Layer, ...]]:
        """All layers in forward order: stem, each stage, tail, head."""
        stages = [tuple(layer for block in stage for layer in block) for stage in self.stage_blocks()]
        return [self.stem_layers(), *stages, self.tail_layers(), self.head_layers()]

    def levels(self) -> list[entropy.Level]:
        """The cumulated levels of the stem and the stages, the tail belonging to the last stage."""
        stem, *stages, tail, _ = self.parts()
        stages[-1] = stages[-1] + tail
        channels = [self.stem.channels, *(stage.channels for stage in self.stages)]
        channels[-1] = self.feature_channels
        weights = [self.stem.weight, *(stage.weight for stage in self.stages)]
        passed: list[Layer] = []
        levels = []
        for part, size, time, c, weight in zip(
            [stem, *stages], self.resolutions, self.times, channels, weights, strict=True
        ):
            passed += part
            gain = float(entropy.entropy_gain(weight, size, c, time.out_frames))
            levels.append(entropy.Level(entropy.count(passed), entropy.log_width(passed), gain, weight))
        return levels

    def measure(self, beta: float) -> Metrics:
        """Recompute every metric from the layers, costs in exact integers."""
        levels = self.levels()
        layers = [layer for part in self.parts() for layer in part]
        h = entropy.entropy(levels, self.convention)
        depths = [stage.depth for stage in self.stages][penalised_stages(self.convention, len(self.stages))]
        penalty = entropy.depth_penalty(depths, beta, self.convention)
        return Metrics(
            score=h - penalty,
            entropy=h,
            depth_penalty=penalty,
            effectiveness=entropy.effectiveness(levels, self.convention),
            macs=int(cost.macs(layers)),
            params=int(cost.params(layers)),
            layers=levels[-1].depth,
        )

    def check(self, source: str = "design") -> None:
        """Raise :class:`InputError` when a stored metric differs from the one recomputed from the structure.

        design.json does not hold beta: it is taken from the stored penalty, so that only a depth penalty and a score
        changed together pass here; :func:`violations` checks them against a spec.
        """
        unit = self.measure(1.0)
        beta = self.metrics.depth_penalty / unit.depth_penalty
        if not (math.isfinite(beta) and beta >= 0):
            raise InputError(
                f"{source}: metrics.depth_penalty = {self.metrics.depth_penalty!r}: must be finite and at least 0"
            )
        self._compare(self.measure(beta), source)

    def _compare(self, expected: Metrics, source: str) -> None:
        for key, value in dataclasses.asdict(expected).items():
            stored = getattr(self.metrics, key)
            same = stored == value if isinstance(value, int) else _close(stored, value)
            if not same:
                raise InputError(
                    f"{source}: metrics.{key} = {stored!r}: does not match the structure, which gives {value!r}"
                )

    def to_json(self) -> str:
        """The design.json text."""
        certificate = None if self.certificate is None else dataclasses.asdict(self.certificate)
        image = {"resolution": self.resolution, "channels": self.image_channels}
        content: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "spec_sha256": self.spec_sha256,
            "convention": self.convention,
            "input": image if self.frames is None else {**image, "frames": self.frames},
            "stem": self._level(self.stem),
            "stages": [self._level(stage) for stage in self.stages],
            "tail": None if self.tail is None else {"channels": self.tail},
            "classes": self.classes,
            "metrics": dataclasses.asdict(self.metrics),
            "certificate": certificate,
        }
        if self.verification is not None:
            content["verification"] = dataclasses.asdict(self.verification)
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def _level(self, choice: StemChoice | StageChoice) -> dict[str, Any]:
        """The stem or a stage as it is written, without a temporal kernel and stride where there are no frames."""
        record = _whole(dataclasses.asdict(choice))
        return record if self.frames is not None else {key: record[key] for key in record if key not in _TEMPORAL}

    def save(self, path: Path | str) -> None:
        """Write design.json atomically; raise :class:`InputError` when the place cannot be written."""
        write_atomically(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path | str) -> Design:
        """Read, validate and re-measure a design.json; raise :class:`InputError` naming what is wrong."""
        design = cls.read(path)
        design.check(str(path))
        return design

    @classmethod
    def read(cls, path: Path | str) -> Design:
        """Read and validate a design.json as it stands, its metrics unchecked; raise :class:`InputError`."""
        return cls.from_content(read_json(path), str(path))

    @classmethod
    def from_content(cls, content: Any, source: str = "design") -> Design:
        """Build a design from parsed JSON without re-measuring it; raise :class:`InputError`."""
        reader = _Reader(source, "", content, _KEYS)
        if reader.values.get("format") != FORMAT:
            raise reader.fail("format", f"{FORMAT!r}")
        image = reader.child("input", ("resolution", "channels", "frames"))
        frames = image.integer("frames") if "frames" in image.values else None
        stages = reader.get("stages", list, "a list of at least one stage")
        if not stages:
            raise reader.fail("stages", "a list of at least one stage")
        tail = reader.values.get("tail")
        certificate = reader.values.get("certificate")
        verification = reader.values.get("verification")
        stem = reader.child("stem", _names(StemChoice))
        return cls(
            name=reader.get("name", str, "a text"),
            spec_sha256=reader.get("spec_sha256", str, "a text"),
            convention=reader.choice("convention", CONVENTIONS),
            resolution=image.integer("resolution"),
            image_channels=image.integer("channels"),
            frames=frames,
            stem=StemChoice(
                stem.integer("kernel", odd=True),
                stem.integer("stride"),
                stem.integer("channels"),
                stem.number("weight", least=0),
                *stem.temporal(frames),
            ),
            stages=tuple(
                StageChoice(
                    stage.choice("block", FAMILIES),
                    stage.integer("stride", most=2),
                    stage.integer("channels"),
                    stage.integer("mid"),
                    stage.integer("kernel", odd=True),
                    stage.integer("depth"),
                    stage.number("weight", least=0),
                    *stage.temporal(frames),
                )
                for stage in (
                    _Reader(source, f"stages[{n}].", item, _names(StageChoice))
                    for n, item in enumerate(stages, start=1)
                )
            ),
            tail=None if tail is None else reader.child("tail", ("channels",)).integer("channels"),
            classes=reader.integer("classes", least=0),
            metrics=reader.record("metrics", Metrics),
            certificate=None if certificate is None else reader.record("certificate", Certificate),
            verification=None if verification is None else _verification(reader),
        )


def violations(spec: Spec, design: Design) -> list[str]:
    """Every way in which ``design`` is no feasible design of ``spec``, one sentence each; empty when it is one.

    MACs, parameters and layers are compared as exact integers, effectiveness within 1e-12 relative.
    """
    found: list[str] = []

    def require(holds: bool, sentence: str) -> None:
        if not holds:
            found.append(sentence)

    require(design.convention == spec.convention, f"convention {design.convention}: the spec says {spec.convention}")
    require(
        (design.resolution, design.image_channels, design.classes)
        == (spec.input.resolution, spec.input.channels, spec.input.classes),
        "input resolution, channels or classes differ from the spec's",
    )
    require(design.frames == spec.input.frames, f"frames {design.frames}: the spec says {spec.input.frames}")
    stem = design.stem
    require(
        (stem.kernel, stem.stride, stem.weight) == (spec.stem.kernel, spec.stem.stride, spec.stem.weight),
        "stem kernel, stride or weight differ from the spec's",
    )
    require(_temporal(stem) == _temporal(spec.stem), "stem temporal kernel or stride differ from the spec's")
    require(stem.channels in spec.stem.channels, f"stem channels {stem.channels}: not in the spec's domain")
    if len(design.stages) != len(spec.stages) or (design.tail is None) != (spec.tail is None):
        return [*found, "the number of stages or the presence of a tail differs from the spec's"]
    if spec.tail is not None:
        require(design.tail in spec.tail.channels, f"tail channels {design.tail}: not in the spec's domain")
    c_in = stem.channels
    for number, (choice, stage) in enumerate(zip(design.stages, spec.stages, strict=True), start=1):
        require(
            (choice.block, choice.stride, choice.weight) == (stage.block, stage.stride, stage.weight),
            f"stage {number}: block, stride or weight differ from the spec's",
        )
        require(
            _temporal(choice) == _temporal(stage), f"stage {number}: temporal kernel or stride differ from the spec's"
        )
        for key in ("channels", "mid", "kernel", "depth"):
            value = getattr(choice, key)
            require(value in getattr(stage, key), f"stage {number}: {key} {value} is not in the spec's domain")
        require(
            bool(spec.space.follows(c_in, choice.channels)),
            f"stage {number}: channels {choice.channels} may not follow {c_in}",
        )
        require(
            bool(spec.space.carries(choice.mid, choice.channels)),
            f"stage {number}: mid {choice.mid} is outside mid_ratio for {choice.channels} channels",
        )
        c_in = choice.channels
    measured = design.measure(spec.objective.depth_penalty)
    for key, limit in dataclasses.asdict(spec.budget).items():
        if limit is not None:
            value = getattr(measured, key)
            slack = 1 + EFFECTIVENESS_TOLERANCE if key == "effectiveness" else 1
            require(value <= limit * slack, f"{key} {value} exceeds the budget {limit}")
    try:
        design._compare(measured, "design")
    except InputError as error:
        found.append(str(error))
    return found


def _close(stored: Any, value: float) -> bool:
    return math.isclose(stored, value, rel_tol=_METRIC_TOLERANCE, abs_tol=_METRIC_TOLERANCE)


_TEMPORAL = ("temporal_kernel", "temporal_stride")
"""Keys of the stem and the stages of a design with frames."""


def _temporal(level: Any) -> tuple[int, ...]:
    return tuple(getattr(level, key) for key in _TEMPORAL)


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    """Weights are numbers of any kind; whole ones are written as integers."""
    weight = record["weight"]
    return {**record, "weight": int(weight) if weight == int(weight) else weight}


_KEYS = (
    "format",
    "name",
    "spec_sha256",
    "convention",
    "input",
    "stem",
    "stages",
    "tail",
    "classes",
    "metrics",
    "certificate",
    "verification",
)


def _verification(reader: _Reader) -> Verification:
    inner = reader.child("verification", _names(Verification))
    methods = inner.get("methods", list, "a list of at least one text")
    if not methods or not all(isinstance(method, str) and method for method in methods):
        raise inner.fail("methods", "a list of at least one text")
    return Verification(
        version=inner.get("version", str, "a text"),
        verdict=inner.choice("verdict", VERDICTS),
        methods=tuple(methods),
        bound=inner.optional("bound", inner.number),
        gap=inner.optional("gap", functools.partial(inner.number, least=0)),
        architectures=inner.optional("architectures", inner.integer),
        nodes=inner.optional("nodes", functools.partial(inner.integer, least=0)),
        evaluations=inner.optional("evaluations", inner.integer),
        seconds=inner.number("seconds", least=0),
    )


def _names(kind: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(kind)]


class _Reader:
    """One JSON object: typed look-ups that name file, key and value when they fail."""

    def __init__(self, source: str, prefix: str, values: Any, known: Iterable[str]) -> None:
        if not isinstance(values, dict):
            raise InputError(f"{source}: {prefix.rstrip('.') or 'content'}: must be a JSON object")
        allowed = list(known)
        for key in values:
            if key not in allowed:
                raise InputError(f"{source}: {prefix}{named(key)}: unknown key; allowed are {', '.join(allowed)}")
        self.source, self.prefix, self.values = source, prefix, values

    def fail(self, key: str, allowed: str) -> InputError:
        if key not in self.values:
            return InputError(f"{self.source}: {self.prefix}{key} is missing: must be {allowed}")
        return InputError(f"{self.source}: {self.prefix}{key} = {self.values[key]!r}: must be {allowed}")

    def get(self, key: str, kind: type, allowed: str) -> Any:
        value = self.values.get(key)
        if not isinstance(value, kind):
            raise self.fail(key, allowed)
        return value

    def child(self, key: str, known: Iterable[str]) -> _Reader:
        return _Reader(self.source, f"{self.prefix}{key}.", self.get(key, dict, "an object"), known)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.values.get(key)
        if value not in allowed:
            raise self.fail(key, "one of " + ", ".join(allowed))
        return str(value)

    def integer(self, key: str, *, least: int = 1, most: int | None = None, odd: bool = False) -> int:
        value: Any = self.values.get(key)
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not fits or (most is not None and value > most) or (odd and value % 2 == 0):
            limit = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise self.fail(key, f"an {'odd ' if odd else ''}integer {limit}")
        return int(value)

    def temporal(self, frames: int | None) -> tuple[int, int]:
        """The temporal kernel and stride, which only a level of a network for clips has."""
        if frames is not None:
            return self.integer("temporal_kernel", most=3, odd=True), self.integer("temporal_stride", most=2)
        for key in _TEMPORAL:
            if key in self.values:
                value = self.values[key]
                raise InputError(
                    f"{self.source}: {self.prefix}{key} = {value!r}: needs input.frames; "
                    "must be left out of a design for images"
                )
        return 1, 1

    def number(self, key: str, *, least: float = -math.inf) -> float:
        value: Any = self.values.get(key)
        if not finite(value) or value < least:
            raise self.fail(key, "a finite number" + (f" of at least {least}" if math.isfinite(least) else ""))
        return value  # type: ignore[no-any-return]

    def optional(self, key: str, read: Callable[[str], Any]) -> Any:
        """``null`` or what ``read`` reads; the key itself must be there."""
        if key in self.values and self.values[key] is None:
            return None
        return read(key)

    def record(self, key: str, kind: type[Any]) -> Any:
        """A dataclass of texts, integers and numbers, read by its own annotations."""
        reader = self.child(key, _names(kind))
        values: dict[str, Any] = {}
        for item in dataclasses.fields(kind):
            if item.type == "int":
                values[item.name] = reader.integer(item.name, least=0)
            elif item.type == "str":
                values[item.name] = reader.get(item.name, str, "a text")
            else:
                values[item.name] = reader.number(item.name)
        return kind(**values)
